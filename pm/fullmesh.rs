//! Joins every usable address of this host with every address of the peer that is known, and announces
//! every address to peers that connected.

use std::collections::BTreeMap;

use mptcpd::plugin::{
    ConnectionView, LocalAddress, Manages, Memo, PathManager, Paths, Plugin, Side, View, WantedAnnouncement,
};

struct FullMesh;

impl PathManager for FullMesh {
    fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, _: &mut Memo, want: &mut Paths) {
        match connection.side {
            // The peer's addresses first: with a cap, every address of this host gets one path before any
            // gets a second.
            Side::Client => {
                let locals = one_of_each_interface_first(view);
                for remote in connection.remotes {
                    locals.iter().for_each(|local| want.subflow(local, remote));
                }
            }
            Side::Server => {
                for local in view.usable().filter(|local| local.announce && local.address != connection.local.ip()) {
                    want.announce(WantedAnnouncement { address: local.address, port: None, local: local.address });
                }
            }
        }
    }
}

/// The usable addresses: the first of each family of every interface, then the second, and so on.
fn one_of_each_interface_first<'a>(view: &View<'a>) -> Vec<&'a LocalAddress<'a>> {
    let mut counts = BTreeMap::new();
    let ranked = view.usable().map(|local| {
        let count: &mut u32 = counts.entry((local.if_index, local.address.is_ipv4())).or_default();
        *count += 1;
        (*count, local)
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, local)| local).collect()
}

mptcpd::register_plugin!(Plugin {
    name: "fullmesh",
    manages: Manages::Connections,
    priority: 10,
    summary: "joins every usable address with every address of the peer",
    build: |_| Ok(Box::new(FullMesh)),
});

#[cfg(test)]
mod tests {
    use super::*;
    use mptcpd::kit::{Connection, Host};

    fn host() -> Host {
        Host::new().interface("eth0", &["10.0.0.1"]).interface("eth1", &["10.0.1.1", "fd00::1"])
    }

    #[test]
    fn an_interface_with_many_addresses_leaves_room_for_the_others() {
        let host = Host::new().interface("eth0", &["10.0.0.1", "10.0.0.2"]).interface("eth1", &["10.0.1.1"]);
        let connection = Connection::client("10.0.0.1:40000", "192.0.2.1:80");
        let expected = ["10.0.0.1 eth0 - 192.0.2.1:80", "10.0.1.1 eth1 - 192.0.2.1:80", "10.0.0.2 eth0 - 192.0.2.1:80"];
        assert_eq!(host.subflows(&FullMesh, &connection), expected);
    }

    #[test]
    fn every_usable_address_is_joined_with_one_of_the_peer_before_any_is_with_the_next() {
        let connection = Connection::client("10.0.0.1:40000", "192.0.2.1:80").announced(1, "192.0.2.2:80");
        let expected = [
            "10.0.0.1 eth0 - 192.0.2.1:80",
            "10.0.1.1 eth1 - 192.0.2.1:80",
            "10.0.0.1 eth0 - 192.0.2.2:80",
            "10.0.1.1 eth1 - 192.0.2.2:80",
        ];
        assert_eq!(host().subflows(&FullMesh, &connection), expected);
        assert_eq!(host().announcements(&FullMesh, &connection), [""; 0]);
    }

    #[test]
    fn the_side_that_accepted_announces_every_address_but_the_initial_one_and_joins_nothing() {
        let connection = Connection::server("10.0.0.1:80", "192.0.2.1:40000");
        assert_eq!(host().announcements(&FullMesh, &connection), ["10.0.1.1", "fd00::1"]);
        assert_eq!(host().subflows(&FullMesh, &connection), [""; 0]);
    }
}
