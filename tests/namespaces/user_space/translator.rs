//! A server behind a translator (1:1 NAT) that announces the addresses by which others know it.

use std::net::{IpAddr, SocketAddr};

use super::super::common::daemon::{Daemon, Installation};
use super::super::common::net::{Net, Router, client_v4};
use super::super::common::sandbox::sandboxed_with;
use super::super::common::traffic::{Server, Transfer};
use super::super::{address, installed};
use super::{service, start_managing, wait_for_paths};

/// What the others know the server's links by.
const PUBLIC: [&str; 2] = ["203.0.113.6", "203.0.113.7"];
/// Data that shows that a path is really used, bytes.
const REAL_DATA: u64 = 500_000;

/// A client and a server with two links each to a router that translates between them.
struct Translated {
    net: Net,
    router: Router,
}

fn own(link: usize) -> IpAddr {
    address(&format!("10.99.{link}.2"))
}

impl Translated {
    /// The second link is known by that end, which leads to that one of the server's.
    fn new(second: &str, leads_to: &str) -> Self {
        let net = Net::bare(0);
        let router = Router::add(&net, 0..2, 2);
        for link in 0..2 {
            net.client.ip(&format!("addr add {}/24 dev c{link}", client_v4(link)));
            net.default_route_v4(link);
        }
        net.client.ip("mptcp limits set subflows 8 add_addr_accepted 8");
        router.translate(PUBLIC[0], "10.99.0.2");
        router.translate(second, leads_to);
        Server::start(&net.server, service(address("0.0.0.0")));
        Self { net, router }
    }

    /// The daemon at the server, which knows how its second link is known.
    fn announce(&self, second: &str) -> (Installation, Daemon) {
        self.net.server.choose_user_space_path_management();
        let here = installed(&self.net.server);
        let map = format!("map = {{ '10.99.0.2' = '{}', '10.99.1.2' = '{second}' }}", PUBLIC[0]);
        here.configure(&format!("[pm.announce]\n{map}\n"));
        let daemon = here.start(&["--path-manager=announce"]);
        (here, daemon)
    }

    /// Sends to the server, waits until it has paths at these of its links and there has been data on both,
    /// and checks that none is damaged. Returns where the client's subflows lead.
    fn check(&self, daemon: &mut Daemon, at: &[usize]) -> Vec<SocketAddr> {
        let transfer = Transfer::start(&self.net.client, service(address(PUBLIC[0])), 20_000_000);
        self.wait_for_data(daemon, at);
        let mut leads_to: Vec<_> = self.net.client.subflows().into_iter().map(|subflow| subflow.remote).collect();
        leads_to.sort_unstable();
        transfer.finish().unwrap();
        leads_to
    }

    fn wait_for_data(&self, daemon: &mut Daemon, at: &[usize]) {
        let paths: Vec<_> = at.iter().map(|link| own(*link)).collect();
        wait_for_paths(daemon, &self.net.server, 1, &paths);
        let sent = || [0, 1].map(|link| self.router.bytes_sent(link));
        let before = sent();
        daemon.eventually("data on each link with a path", || {
            at.iter().all(|link| sent()[*link] - before[*link] > REAL_DATA)
        });
    }
}

fn ends<const N: usize>(ends: [&str; N]) -> [SocketAddr; N] {
    ends.map(|end| end.parse().expect("an address and a port"))
}

#[test]
fn a_server_behind_a_translator_announces_how_it_is_known_to_a_peer_without_a_daemon() {
    sandboxed_with("nft", "nftables", || {
        let translated = Translated::new(PUBLIC[1], "10.99.1.2");
        let (_here, mut daemon) = translated.announce(PUBLIC[1]);
        let leads_to = translated.check(&mut daemon, &[0, 1]);
        assert_eq!(leads_to, ends(["203.0.113.6:5000", "203.0.113.7:5000"]));
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}

#[test]
fn a_peer_without_a_daemon_joins_from_each_of_its_interfaces_what_is_behind_a_translator() {
    sandboxed_with("nft", "nftables", || {
        let translated = Translated::new(PUBLIC[1], "10.99.1.2");
        for link in 0..2 {
            let endpoint = format!("mptcp endpoint add {} dev c{link} subflow fullmesh", client_v4(link));
            translated.net.client.ip(&endpoint);
        }
        let (_here, mut daemon) = translated.announce(PUBLIC[1]);
        translated.check(&mut daemon, &[0, 0, 1, 1]);
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}

#[test]
fn a_port_that_a_translator_forwards_is_announced_with_the_address() {
    sandboxed_with("nft", "nftables", || {
        let translated = Translated::new("203.0.113.7:8443", "10.99.1.2:5000");
        let (_here, mut daemon) = translated.announce("203.0.113.7:8443");
        let leads_to = translated.check(&mut daemon, &[0, 1]);
        assert_eq!(leads_to, ends(["203.0.113.6:5000", "203.0.113.7:8443"]));
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}

#[test]
fn what_is_announced_behind_a_translator_goes_and_comes_back_with_its_link() {
    sandboxed_with("nft", "nftables", || {
        let translated = Translated::new(PUBLIC[1], "10.99.1.2");
        let (_here, mut daemon) = translated.announce(PUBLIC[1]);
        let (net, public) = (&translated.net, service(address(PUBLIC[0])));
        let transfer = Transfer::start(&net.client, public, 20_000_000);
        for _ in 0..2 {
            translated.wait_for_data(&mut daemon, &[0, 1]);
            net.server.ip("link set s1 down");
            wait_for_paths(&mut daemon, &net.server, 1, &[own(0)]);
            daemon.eventually("no path to what is gone", || {
                net.client.subflows().iter().all(|subflow| !subflow.established || subflow.remote == public)
            });
            net.server.ip("link set s1 up");
        }
        translated.wait_for_data(&mut daemon, &[0, 1]);
        transfer.finish().unwrap();
    });
}

fn between_daemons(path_manager: &str, at_server: &[usize]) {
    let translated = Translated::new(PUBLIC[1], "10.99.1.2");
    let (_here, mut daemon) = translated.announce(PUBLIC[1]);
    let mut client = start_managing(&translated.net.client, path_manager);
    translated.check(&mut daemon, at_server);
    assert_eq!((daemon.remarks(), client.remarks()), (vec![], vec![]));
}

#[test]
fn a_single_subflow_per_interface_passes_a_translator() {
    sandboxed_with("nft", "nftables", || between_daemons("sspi", &[0, 0]));
}

#[test]
fn a_full_mesh_passes_a_translator() {
    sandboxed_with("nft", "nftables", || between_daemons("fullmesh", &[0, 0, 1, 1]));
}
