//! What the daemon promises, on a real kernel: each test has network namespaces of its own (see
//! `common::sandbox`), where the real program follows real links, addresses, routes and connections.
//! Nothing here measures time; what must happen is waited for, what must not is looked for after
//! something later has been seen to happen.

// Helpers outside of #[test] functions may fail a test by a panic too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod addresses;
mod changes;
mod connections;
mod foreign;
mod healing;
mod hostile;

mod links;
mod paths;
mod reload;
mod restart;
mod routes;
mod start;

// Some of it only the demo uses.
#[allow(dead_code)]
#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::PATIENCE;
use common::daemon::{Daemon, Installation, program_under_test};
use common::net::Namespace;

/// The program under test, installed in a namespace.
fn installed(namespace: &Namespace) -> Installation {
    Installation::new(namespace, program_under_test(env!("CARGO_BIN_EXE_mptcpd")))
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn set<const N: usize>(addresses: [&str; N]) -> BTreeSet<IpAddr> {
    addresses.into_iter().map(address).collect()
}

/// Waits until exactly these addresses are endpoints.
fn wait_for_endpoints<const N: usize>(daemon: &mut Daemon, namespace: &Namespace, addresses: [&str; N]) {
    let wanted = set(addresses);
    daemon.eventually(&format!("endpoints {wanted:?}"), || namespace.endpoint_addresses() == wanted);
}

/// Waits until the daemon has dealt with whatever happened before: an address that now comes and goes
/// on an interface that is up has become an endpoint and ceased to be one.
fn settle(daemon: &mut Daemon, namespace: &Namespace, interface: &str) {
    const MARK: &str = "10.254.0.1";
    namespace.ip(&format!("addr add {MARK}/32 dev {interface}"));
    daemon.eventually("an endpoint of the marking address", || namespace.endpoint_of(address(MARK)).is_some());
    namespace.ip(&format!("addr del {MARK}/32 dev {interface}"));
    daemon.eventually("none of the marking address", || namespace.endpoint_of(address(MARK)).is_none());
}

/// Starts the daemon in a namespace with a path manager that works from user space.
fn start_managing(namespace: &Namespace, path_manager: &str) -> Daemon {
    namespace.choose_user_space_path_management();
    installed(namespace).start(&[&format!("--path-manager={path_manager}")])
}

/// The port of a service on an address.
fn service(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 5000)
}

/// Waits until so many connections have established subflows from exactly these addresses each, and
/// returns how long that took.
fn wait_for_paths(daemon: &mut Daemon, namespace: &Namespace, connections: usize, from: &[IpAddr]) -> Duration {
    let begun = Instant::now();
    loop {
        let each = namespace.paths_of_each();
        if each.len() == connections && each.values().all(|paths| paths == from) {
            return begun.elapsed();
        }
        let wrong = each.values().find(|paths| *paths != from);
        assert!(
            begun.elapsed() < PATIENCE && daemon.listen(Duration::from_millis(100)),
            "{connections} connections were to have paths from {from:?}, but of {} one has {wrong:?}",
            each.len()
        );
    }
}
