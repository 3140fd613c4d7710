//! Path managers that work from user space: each connection gets the paths that are wanted for it.

mod adoption;
mod goodput;
mod handover;
mod healing;
mod hostile;
mod load;
mod paths;
mod rules;
mod servers;
mod silence;
mod translator;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::common::PATIENCE;
use super::common::daemon::Daemon;
use super::common::net::{Namespace, Net, client_v4, client_v6};
use super::installed;

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

/// Joins that were begun since the daemon had said so many lines.
fn joins(daemon: &mut Daemon, from: usize) -> usize {
    daemon.said().iter().skip(from).filter(|line| line.contains("create subflow")).count()
}

/// Links with default routes for IPv4, and a server that takes eight subflows besides the initial one.
fn net_v4(links: u8) -> Net {
    let net = Net::v4(links);
    (0..links).for_each(|link| net.default_route_v4(link));
    take(&net, 8);
    net
}

/// The same for IPv6.
fn net_v6(links: u8) -> Net {
    let net = Net::v6(links);
    (0..links).for_each(|link| net.default_route_v6(link));
    take(&net, 8);
    net
}

/// Has the server take so many subflows of a connection besides the initial one.
fn take(net: &Net, subflows: u8) {
    net.server.ip(&format!("mptcp limits set subflows {subflows} add_addr_accepted 4"));
}

/// The client's addresses on these links.
fn v4(links: Range<u8>) -> Vec<IpAddr> {
    links.map(client_v4).collect()
}

fn v6(links: Range<u8>) -> Vec<IpAddr> {
    links.map(client_v6).collect()
}
