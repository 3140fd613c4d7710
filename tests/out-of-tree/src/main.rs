//! The daemon with one more path manager: it uses one interface and keeps the next as a reserve.

use mptcpd::plugin::{ConnectionView, LocalAddress, Manages, Memo, PathManager, Paths, Plugin, Side, View};

struct Prefer;

impl PathManager for Prefer {
    fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, _: &mut Memo, want: &mut Paths) {
        let (Side::Client, Some(remote)) = (connection.side, connection.remotes.first()) else { return };
        let same_family = |local: &&LocalAddress<'_>| local.address.is_ipv4() == remote.address.is_ipv4();
        let mut locals: Vec<&LocalAddress<'_>> = view.usable().filter(same_family).collect();
        locals.sort_by_key(|local| (local.order, local.if_index));
        locals.dedup_by_key(|local| local.if_index);
        // The second is a backup: it carries data only when the first cannot.
        for (place, local) in locals.into_iter().take(2).enumerate() {
            if place == 0 { want.subflow(local, remote) } else { want.backup_subflow(local, remote) }
        }
    }
}

mptcpd::register_plugin!(Plugin {
    name: "prefer",
    manages: Manages::Connections,
    priority: -1,
    summary: "uses one interface, and one more as its backup",
    build: |_| Ok(Box::new(Prefer)),
});

fn main() -> std::process::ExitCode {
    mptcpd::main()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mptcpd::kit::{Connection, Host};

    #[test]
    fn the_interface_with_the_lowest_order_carries_data_and_the_next_is_its_backup() {
        let host = Host::new()
            .interface("wwan0", &["10.0.2.2"])
            .interface("eth0", &["10.0.1.2", "10.0.1.3", "fd00::2"])
            .interface("wlan0", &["10.0.3.2"])
            .with("10.0.2.2", |local| local.order = 20)
            .with("10.0.1.2", |local| local.order = -1);
        let connection = Connection::client("10.0.1.2:40000", "192.0.2.1:443");
        assert_eq!(
            host.subflows(&Prefer, &connection),
            ["10.0.1.2 eth0 - 192.0.2.1:443", "10.0.3.2 wlan0 - 192.0.2.1:443 backup"]
        );
    }
}
