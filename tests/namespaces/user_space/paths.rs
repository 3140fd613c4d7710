//! Which paths connections get from path managers in user space.

use std::net::{IpAddr, SocketAddr};

use super::super::common::crowd::Crowd;
use super::super::common::net::{Net, Router, SERVICE_V4, SERVICE_V6, client_v4, client_v6};
use super::super::common::sandbox::sandboxed;
use super::super::{address, installed};
use super::{joins, net_v4, net_v6, service, start_managing, take, v4, v6, wait_for_paths};

fn add_v4(net: &Net, link: u8) {
    net.add_link(link);
    net.client.ip(&format!("addr add {}/24 dev c{link}", client_v4(link)));
    net.default_route_v4(link);
}

/// With so many connections: links 0 to 2, then 3 comes, then 1 goes.
fn follow_interfaces(connections: usize) {
    let net = net_v4(3);
    let mut daemon = start_managing(&net.client, "sspi");
    let mut crowd = Crowd::gather(&net, service(SERVICE_V4), connections);
    wait_for_paths(&mut daemon, &net.client, connections, &v4(0..3));
    add_v4(&net, 3);
    wait_for_paths(&mut daemon, &net.client, connections, &v4(0..4));
    net.client.ip("link del c1");
    wait_for_paths(&mut daemon, &net.client, connections, &[client_v4(0), client_v4(2), client_v4(3)]);
    crowd.talk();
}

#[test]
fn a_connection_has_one_subflow_per_interface_also_when_interfaces_come_and_go() {
    sandboxed(|| follow_interfaces(1));
}

#[test]
fn each_of_a_hundred_connections_has_one_subflow_per_interface_also_when_interfaces_come_and_go() {
    sandboxed(|| follow_interfaces(100));
}

#[test]
#[ignore = "slow"]
fn each_of_5000_connections_has_one_subflow_per_interface_also_when_interfaces_come_and_go() {
    sandboxed(|| follow_interfaces(5000));
}

#[test]
fn an_ipv6_connection_has_one_subflow_per_interface() {
    sandboxed(|| {
        let net = net_v6(3);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V6), 2);
        wait_for_paths(&mut daemon, &net.client, 2, &v6(0..3));
        net.client.ip("link del c1");
        wait_for_paths(&mut daemon, &net.client, 2, &[client_v6(0), client_v6(2)]);
        crowd.talk();
    });
}

#[test]
fn a_connection_between_ipv4_mapped_sockets_has_one_subflow_per_interface() {
    sandboxed(|| {
        let net = net_v4(3);
        let mut daemon = start_managing(&net.client, "sspi");
        let IpAddr::V4(there) = SERVICE_V4 else { unreachable!() };
        let mut crowd = Crowd::new(&net, service(there.to_ipv6_mapped().into()));
        crowd.grow(2);
        wait_for_paths(&mut daemon, &net.client, 2, &v4(0..3));
        // The initial subflow has the mapped form, the others have not.
        for (link, left) in [(1, [0, 2]), (0, [1, 2])] {
            net.client.ip(&format!("link set c{link} down"));
            wait_for_paths(&mut daemon, &net.client, 2, &left.map(client_v4));
            net.client.ip(&format!("link set c{link} up"));
            net.default_route_v4(link);
            wait_for_paths(&mut daemon, &net.client, 2, &v4(0..3));
        }
        crowd.talk();
    });
}

#[test]
fn an_interface_has_no_second_subflow_for_a_second_address_or_family() {
    sandboxed(|| {
        let net = net_v4(2);
        for link in 0..2 {
            net.client.ip(&format!("addr add 10.0.{link}.77/24 dev c{link}"));
            net.client.ip(&format!("addr add {}/64 dev c{link} nodad", client_v6(link)));
            net.default_route_v6(link);
        }
        let mut daemon = start_managing(&net.client, "sspi");
        let _crowd = Crowd::gather(&net, service(SERVICE_V4), 2);
        wait_for_paths(&mut daemon, &net.client, 2, &v4(0..2));
        add_v4(&net, 2);
        wait_for_paths(&mut daemon, &net.client, 2, &v4(0..3));
    });
}

#[test]
fn of_more_interfaces_than_the_peer_takes_others_stand_in_for_one_that_goes() {
    sandboxed(|| {
        let net = net_v4(3);
        take(&net, 2);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 3);
        wait_for_paths(&mut daemon, &net.client, 3, &v4(0..3));
        add_v4(&net, 3);
        let from = daemon.said().len();
        daemon.wait_line(from, &["subflow closed"]);
        wait_for_paths(&mut daemon, &net.client, 3, &v4(0..3));
        net.client.ip("link del c1");
        wait_for_paths(&mut daemon, &net.client, 3, &[client_v4(0), client_v4(2), client_v4(3)]);
        crowd.talk();
    });
}

/// The daemon at both ends, with three links at the client's and so many at the server's.
fn between_daemons(far_links: u8, to: IpAddr) {
    let net = Net::bare(0);
    let _router = Router::add(&net, 0..3, far_links);
    for link in 0..3 {
        net.client.ip(&format!("addr add {}/24 dev c{link}", client_v4(link)));
        net.default_route_v4(link);
    }
    let mut server = start_managing(&net.server, "sspi");
    let mut client = start_managing(&net.client, "sspi");
    let mut crowd = Crowd::gather(&net, service(to), 20);
    wait_for_paths(&mut client, &net.client, 20, &v4(0..3));
    net.client.ip("link del c1");
    wait_for_paths(&mut client, &net.client, 20, &[client_v4(0), client_v4(2)]);
    crowd.talk();
    assert_eq!((server.remarks(), client.remarks()), (vec![], vec![]));
}

#[test]
fn between_daemons_a_server_with_one_interface_has_one_subflow_per_interface_of_the_client() {
    sandboxed(|| between_daemons(1, SERVICE_V4));
}

#[test]
fn between_daemons_a_server_with_two_interfaces_has_one_subflow_per_interface_of_the_client() {
    sandboxed(|| between_daemons(2, address("10.99.0.2")));
}

#[test]
fn full_mesh_joins_every_address_with_every_address_that_the_peer_announces() {
    sandboxed(|| {
        let net = Net::bare(0);
        let _router = Router::add(&net, 0..2, 2);
        for link in 0..2 {
            net.client.ip(&format!("addr add {}/24 dev c{link}", client_v4(link)));
            net.default_route_v4(link);
        }
        let _server = start_managing(&net.server, "fullmesh");
        let mut client = start_managing(&net.client, "fullmesh");
        let mut crowd = Crowd::gather(&net, service(address("10.99.0.2")), 2);
        let each_twice = [0, 0, 1, 1].map(client_v4);
        wait_for_paths(&mut client, &net.client, 2, &each_twice);
        crowd.talk();
    });
}

#[test]
fn ndiffports_makes_so_many_subflows_between_the_same_addresses_and_heals_them() {
    sandboxed(|| {
        let net = net_v4(2);
        net.client.choose_user_space_path_management();
        let here = installed(&net.client);
        here.configure("[pm.ndiffports]\nsubflows = 4\n");
        let mut daemon = here.start(&["--path-manager=ndiffports"]);
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 2);
        wait_for_paths(&mut daemon, &net.client, 2, &[client_v4(0); 4]);
        let port = net.client.subflows().last().unwrap().local.port();
        net.client.kill(&format!("sport = :{port}"));
        wait_for_paths(&mut daemon, &net.client, 2, &[client_v4(0); 4]);
        crowd.talk();
    });
}

#[test]
fn connections_that_the_kernels_path_manager_has_are_left_alone() {
    sandboxed(|| {
        let net = net_v4(2);
        let _before = Crowd::gather(&net, service(SERVICE_V4), 3);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut between = Crowd::gather(&net, SocketAddr::new(SERVICE_V4, 5001), 1);
        wait_for_paths_to(&mut daemon, &net, 5001, &v4(0..2));
        net.client.choose_path_management(false);
        let _after = Crowd::gather(&net, SocketAddr::new(SERVICE_V4, 5002), 3);
        add_v4(&net, 2);
        wait_for_paths_to(&mut daemon, &net, 5001, &v4(0..3));
        assert_eq!(net.client.paths().len(), 3 + 3 + 3);
        // One join of each that the kernel refused, and two that it did not.
        assert!(joins(&mut daemon, 0) <= 6 + 2);
        between.talk();
    });
}

/// Waits until the only connection to a port has exactly these paths.
fn wait_for_paths_to(daemon: &mut super::Daemon, net: &Net, port: u16, from: &[IpAddr]) {
    daemon.eventually(&format!("paths to port {port} from {from:?}"), || {
        let subflows = net.client.subflows().into_iter();
        let there = subflows.filter(|subflow| subflow.remote.port() == port && subflow.established);
        there.map(|subflow| subflow.local.ip()).eq(from.iter().copied())
    });
}

#[test]
fn connections_that_stay_on_this_host_are_left_alone() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "fullmesh");
        let inside = Net { client: net.client.clone(), server: net.client.clone() };
        let own = [("127.0.0.1", 5001), ("10.0.0.1", 5002), ("::1", 5003)];
        let mut own = own.map(|(own, port)| Crowd::gather(&inside, SocketAddr::new(address(own), port), 1));
        let _crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
        wait_for_paths_to(&mut daemon, &net, 5000, &v4(0..2));
        // Both ends of each are here.
        assert_eq!(net.client.paths().len(), 2 * own.len() + 2);
        own.iter_mut().for_each(Crowd::talk);
    });
}

#[test]
fn a_peer_that_forbids_joins_to_its_first_address_gets_none() {
    sandboxed(|| {
        let net = net_v4(2);
        net.server.set_sysctl("net.mptcp.allow_join_initial_addr_port", "0");
        let mut daemon = start_managing(&net.client, "sspi");
        let _denies = Crowd::gather(&net, service(SERVICE_V4), 2);
        net.server.set_sysctl("net.mptcp.allow_join_initial_addr_port", "1");
        let _takes = Crowd::gather(&net, SocketAddr::new(SERVICE_V4, 5001), 1);
        wait_for_paths_to(&mut daemon, &net, 5001, &v4(0..2));
        assert_eq!(net.client.paths().len(), 2 + 2);
        // What it announces is joined.
        net.server.ip("mptcp endpoint add 10.0.1.2 dev s1 signal");
        wait_for_paths_to(&mut daemon, &net, 5000, &[0, 0, 1, 1].map(client_v4));
    });
}
