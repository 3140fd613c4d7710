//! A single subflow per interface: each link carries one, whatever the number of addresses on it. The
//! side that connected makes and closes them; the side that accepted announces one address of each
//! family on its other interfaces, and closes nothing.

use std::net::IpAddr;
use std::time::Instant;

use mptcpd::plugin::{
    AttemptState, ConnectionView, LocalAddress, Manages, Memo, Origin, PathManager, Paths, Plugin, Remote, Side, View,
    WantedAnnouncement,
};
use mptcpd::types::{AddressId, IfIndex};

struct SingleSubflowPerInterface;

impl PathManager for SingleSubflowPerInterface {
    fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, _: &mut Memo, want: &mut Paths) {
        match connection.side {
            Side::Client => {
                for if_index in interfaces(view) {
                    join(view, connection, if_index, want);
                }
                // The peer may join too; one of the two on a link is too many.
                want.only_these();
            }
            Side::Server => announce(view, connection, want),
        }
    }
}

/// Interfaces with a usable address, the preferred first.
fn interfaces(view: &View<'_>) -> Vec<IfIndex> {
    let mut interfaces: Vec<_> = view.usable().map(|local| (local.order, local.if_index)).collect();
    interfaces.sort_unstable();
    interfaces.dedup_by_key(|(_, if_index)| *if_index);
    interfaces.into_iter().map(|(_, if_index)| if_index).collect()
}

/// Wants the subflow that the interface has, or the one most likely to come about.
fn join(view: &View<'_>, connection: &ConnectionView<'_>, if_index: IfIndex, want: &mut Paths) {
    let locals = || view.usable().filter(move |local| local.if_index == if_index);
    let sound = connection.subflows_on(if_index).filter(|flow| !flow.suspect);
    // The initial one stays anyhow; of the others, the oldest.
    if let Some(flow) = sound.min_by_key(|flow| (flow.origin != Origin::Initial, flow.since)) {
        // It may come from an address that nothing new would come from, a temporary one for instance.
        let mut locals = view.addresses().iter().filter(|local| local.if_index == if_index);
        if let Some(local) = locals.find(|local| local.address == flow.local.ip()) {
            want.subflow(local, &Remote { address: flow.remote, id: AddressId(0) });
        }
        return;
    }
    let pairs = locals().flat_map(|local| connection.remotes.iter().map(move |remote| (local, remote)));
    let fitting = pairs.filter(|(local, remote)| local.address.is_ipv4() == remote.address.is_ipv4());
    if let Some((local, remote)) = fitting.min_by_key(|(local, remote)| hopelessness(connection, local, remote)) {
        want.subflow(local, remote);
    }
}

/// The lower, the better: what is on its way or has just been lost, then what is new, then what failed
/// least, then what may be tried first.
fn hopelessness(
    connection: &ConnectionView<'_>,
    local: &LocalAddress<'_>,
    remote: &Remote,
) -> (u32, bool, Option<Instant>) {
    let attempt = connection.attempts.iter().find(|attempt| {
        attempt.local == local.address && attempt.if_index == local.if_index && attempt.remote == remote.address
    });
    attempt.map_or((0, true, None), |attempt| match attempt.state {
        // What is on its way is not given up for another.
        AttemptState::Pending(_) | AttemptState::Wanted => (0, false, None),
        AttemptState::NoRoute => (u32::MAX, false, None),
        // Without a failure it is one that worked: an address that the peer announced may never have.
        AttemptState::Failed(time) | AttemptState::Refused(time) => (attempt.failures, false, Some(time)),
    })
}

/// Announces the first address of each family of every interface but that of the initial subflow.
fn announce(view: &View<'_>, connection: &ConnectionView<'_>, want: &mut Paths) {
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

mptcpd::register_plugin!(Plugin {
    name: "sspi",
    manages: Manages::Connections,
    priority: 0,
    summary: "makes a single subflow per interface, and heals it",
    build: |_| Ok(Box::new(SingleSubflowPerInterface)),
});
