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
