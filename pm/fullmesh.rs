//! Joins every usable address of this host with every address of the peer that is known, and announces
//! every address to peers that connected.

use mptcpd::plugin::{ConnectionView, Manages, Memo, PathManager, Paths, Plugin, Side, View, WantedAnnouncement};

struct FullMesh;

impl PathManager for FullMesh {
    fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, _: &mut Memo, want: &mut Paths) {
        match connection.side {
            // The peer's addresses first: with a cap, every address of this host gets one path before any
            // gets a second.
            Side::Client => {
                for remote in connection.remotes {
                    for local in view.usable() {
                        want.subflow(local, remote);
                    }
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

mptcpd::register_plugin!(Plugin {
    name: "fullmesh",
    manages: Manages::Connections,
    priority: 10,
    summary: "joins every usable address with every address of the peer",
    build: |_| Ok(Box::new(FullMesh)),
});
