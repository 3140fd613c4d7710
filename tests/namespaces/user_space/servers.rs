//! The side that accepts: what it announces and withdraws, and both ends with a daemon.

use std::net::IpAddr;

use super::super::address;
use super::super::common::crowd::Crowd;
use super::super::common::daemon::Daemon;
use super::super::common::net::{Net, Router};
use super::super::common::sandbox::sandboxed;
use super::{joins, service, start_managing, v4, wait_for_paths};

/// So many links of the client and of the server to a router between them.
fn net(links: u8, far_links: u8) -> (Net, Router) {
    let net = Net::bare(0);
    let router = Router::add(&net, 0..links, far_links);
    for (link, address) in (0..).zip(v4(0..links)) {
        net.client.ip(&format!("addr add {address}/24 dev c{link}"));
        net.default_route_v4(link);
    }
    (net, router)
}

fn at_server<const N: usize>(links: [u8; N]) -> [IpAddr; N] {
    links.map(|link| address(&format!("10.99.{link}.2")))
}

/// Waits until each of the two connections has these paths, by the server's addresses.
fn wait_for_server(daemon: &mut Daemon, net: &Net, links: &[u8]) {
    let wanted: Vec<_> = links.iter().flat_map(|link| at_server([*link])).collect();
    wait_for_paths(daemon, &net.server, 2, &wanted);
}

#[test]
fn a_server_announces_the_interfaces_that_it_has_and_gets_to_peers_without_a_daemon() {
    sandboxed(|| {
        let (net, router) = net(1, 2);
        net.client.ip("mptcp limits set subflows 8 add_addr_accepted 8");
        let mut daemon = start_managing(&net.server, "sspi");
        let mut crowd = Crowd::gather(&net, service(at_server([0])[0]), 2);
        wait_for_server(&mut daemon, &net, &[0, 1]);
        router.add_far_link(&net, 2);
        wait_for_server(&mut daemon, &net, &[0, 1, 2]);
        net.server.ip("link del s1");
        wait_for_server(&mut daemon, &net, &[0, 2]);
        // The peer was told, so it closed its end too.
        daemon.eventually("no subflow to the address that is gone", || {
            let mut established = net.client.subflows().into_iter().filter(|subflow| subflow.established);
            established.all(|subflow| subflow.remote.ip() != at_server([1])[0])
        });
        crowd.talk();
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}

#[test]
fn between_full_meshes_an_interface_of_the_server_comes_and_goes() {
    sandboxed(|| {
        let (net, router) = net(2, 1);
        let mut server = start_managing(&net.server, "fullmesh");
        let mut client = start_managing(&net.client, "fullmesh");
        let mut crowd = Crowd::gather(&net, service(at_server([0])[0]), 2);
        wait_for_server(&mut client, &net, &[0, 0]);
        for _ in 0..3 {
            router.add_far_link(&net, 1);
            wait_for_server(&mut client, &net, &[0, 0, 1, 1]);
            net.server.ip("link del s1");
            wait_for_server(&mut client, &net, &[0, 0]);
            crowd.talk();
        }
        assert_eq!((server.remarks(), client.remarks()), (vec![], vec![]));
    });
}

#[test]
fn a_server_makes_no_subflow_itself() {
    sandboxed(|| {
        let (net, _router) = net(2, 2);
        net.client.ip("mptcp limits set subflows 0 add_addr_accepted 0");
        let mut daemon = start_managing(&net.server, "fullmesh");
        let mut crowd = Crowd::gather(&net, service(at_server([0])[0]), 2);
        daemon.wait_line(0, &["announce address"]);
        crowd.talk();
        wait_for_server(&mut daemon, &net, &[0]);
        assert_eq!(joins(&mut daemon, 0), 0);
    });
}
