//! Real connections over several links.

use std::net::{IpAddr, SocketAddr};

use super::common::net::{Net, SERVICE_V4, SERVICE_V6, client_v4, client_v6};
use super::common::sandbox::sandboxed;
use super::common::traffic::{Server, Transfer};
use super::{installed, wait_for_endpoints};

const RATE: u64 = 2_000_000;

fn serve(net: &Net, address: IpAddr) -> Server {
    Server::start(&net.server, SocketAddr::new(address, 5000))
}

#[test]
fn a_connection_uses_both_links() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.default_route_v4(0);
        net.default_route_v4(1);
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        let server = serve(&net, SERVICE_V4);
        let transfer = Transfer::start(&net.client, server.address(), RATE);
        daemon.eventually("a subflow on either link", || net.client.paths() == [client_v4(0), client_v4(1)]);
        server.wait_for_more(500_000);
        assert!(transfer.finish().unwrap() >= 500_000);
    });
}

#[test]
fn an_ipv6_connection_uses_both_links() {
    sandboxed(|| {
        let net = Net::v6(2);
        net.default_route_v6(0);
        net.default_route_v6(1);
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["fd00::1", "fd00:1::1"]);
        let server = serve(&net, SERVICE_V6);
        let transfer = Transfer::start(&net.client, server.address(), RATE);
        daemon.eventually("a subflow on either link", || net.client.paths() == [client_v6(0), client_v6(1)]);
        server.wait_for_more(500_000);
        transfer.finish().unwrap();
    });
}

#[test]
fn a_running_connection_gets_an_address_that_comes_later() {
    sandboxed(|| {
        let net = Net::v4(1);
        net.default_route_v4(0);
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        let server = serve(&net, SERVICE_V4);
        let transfer = Transfer::start(&net.client, server.address(), RATE);
        server.wait_for_more(100_000);
        net.add_link(1);
        net.client.ip("addr add 10.0.1.1/24 dev c1");
        daemon.eventually("a subflow on either link", || net.client.paths() == [client_v4(0), client_v4(1)]);
        transfer.finish().unwrap();
    });
}

#[test]
fn a_running_connection_loses_a_link_and_gets_it_back() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.default_route_v4(0);
        net.default_route_v4(1);
        let check_route = "--notify-flags=existing,skip_link_local,skip_loopback,check_route";
        let mut daemon = installed(&net.client).start(&[check_route]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        let server = serve(&net, SERVICE_V4);
        let transfer = Transfer::start(&net.client, server.address(), RATE);
        daemon.eventually("a subflow on either link", || net.client.paths().len() == 2);
        // First a joined subflow, then the initial one.
        for link in [1, 0] {
            net.client.ip(&format!("link set c{link} down"));
            daemon.eventually("a subflow on the other link", || net.client.paths() == [client_v4(1 - link)]);
            server.wait_for_more(500_000);
            net.client.ip(&format!("link set c{link} up"));
            net.default_route_v4(link);
            daemon.eventually("a subflow on either link", || net.client.paths() == [client_v4(0), client_v4(1)]);
            server.wait_for_more(500_000);
        }
        transfer.finish().unwrap();
    });
}
