//! Several subflows between the same two addresses, from different ports: for networks that spread
//! flows over equal paths by their ports (ECMP).

use mptcpd::plugin::{ConnectionView, Manages, Memo, PathManager, Paths, Plugin, Side, View};

struct DifferentPorts {
    /// Of one connection, the initial one included.
    subflows: i64,
}

impl PathManager for DifferentPorts {
    fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, _: &mut Memo, want: &mut Paths) {
        let local = view.usable().find(|local| local.address == connection.local.ip());
        let (Side::Client, Some(local)) = (connection.side, local) else { return };
        if let Some(remote) = connection.remotes.iter().find(|remote| remote.id.0 == 0) {
            (0..self.subflows).for_each(|_| want.subflow(local, remote));
        }
    }
}

mptcpd::register_plugin!(Plugin {
    name: "ndiffports",
    manages: Manages::Connections,
    priority: 20,
    summary: "makes several subflows between the same addresses, for networks with ECMP",
    build: |settings| {
        let subflows = settings.integer("subflows", 1..=255)?.unwrap_or(2);
        Ok(Box::new(DifferentPorts { subflows }))
    },
});

#[cfg(test)]
mod tests {
    use super::*;
    use mptcpd::kit::{Connection, Host};
    use mptcpd::plugin::Unusable;

    fn host() -> Host {
        Host::new().interface("eth0", &["10.0.0.1"]).interface("eth1", &["10.0.1.1"])
    }

    #[test]
    fn as_many_subflows_as_asked_for_are_wanted_between_the_initial_addresses() {
        let connection = Connection::client("10.0.0.1:40000", "192.0.2.1:80").announced(1, "192.0.2.2:80");
        let manager = DifferentPorts { subflows: 3 };
        assert_eq!(host().subflows(&manager, &connection), ["10.0.0.1 eth0 - 192.0.2.1:80"; 3]);
    }

    #[test]
    fn nothing_is_wanted_by_the_side_that_accepted_nor_where_joins_are_denied_or_the_address_is_unusable() {
        let manager = DifferentPorts { subflows: 3 };
        let client = Connection::client("10.0.0.1:40000", "192.0.2.1:80");
        let down = host().without("10.0.0.1", Unusable::LinkDown);
        assert_eq!(down.subflows(&manager, &client), [""; 0]);
        assert_eq!(host().subflows(&manager, &client.announced(1, "192.0.2.2:80").deny_join_id0()), [""; 0]);
        assert_eq!(host().subflows(&manager, &Connection::server("10.0.0.1:80", "192.0.2.1:40000")), [""; 0]);
    }
}
