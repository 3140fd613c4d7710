//! What a host that accepted a connection offers its peer: a question that several path managers answer alike.

use std::net::IpAddr;

use super::{ConnectionView, Paths, View, WantedAnnouncement};
use crate::types::IfIndex;

/// Announces the first address of each family of every interface but that of the initial subflow.
pub fn announce_interfaces(view: &View<'_>, connection: &ConnectionView<'_>, want: &mut Paths) {
    let initial = connection.local.ip();
    let home = view.addresses().iter().find(|local| local.address == initial).map(|local| local.if_index);
    let mut seen: Vec<(IfIndex, bool)> = home.map(|if_index| (if_index, initial.is_ipv4())).into_iter().collect();
    for local in view.usable().filter(|local| local.announce) {
        let family = (local.if_index, IpAddr::is_ipv4(&local.address));
        if !seen.contains(&family) {
            seen.push(family);
            want.announce(WantedAnnouncement { address: local.address, port: None, local: local.address });
        }
    }
}
