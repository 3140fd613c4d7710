//! `check_route`: an address is used while it has a route to the wider Internet.

use rustix::process::Signal;

use super::common::net::Net;
use super::common::sandbox::sandboxed;
use super::{installed, settle, wait_for_endpoints};

const CHECK_ROUTE: &str = "--notify-flags=existing,skip_link_local,skip_loopback,check_route";

#[test]
fn an_address_is_used_while_its_link_has_a_default_route() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.default_route_v4(1);
        let mut daemon = installed(&net.client).start(&[CHECK_ROUTE]);
        settle(&mut daemon, &net.client, "c1");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.1.1"]);
        net.default_route_v4(0);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        net.client.ip("route del default dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.1.1"]);
        net.client.ip("route del default dev c1");
        wait_for_endpoints(&mut daemon, &net.client, []);
    });
}

#[test]
fn ipv6_addresses_follow_their_default_routes() {
    sandboxed(|| {
        let net = Net::v6(2);
        net.default_route_v6(1);
        let mut daemon = installed(&net.client).start(&[CHECK_ROUTE]);
        wait_for_endpoints(&mut daemon, &net.client, ["fd00:1::1"]);
        net.default_route_v6(0);
        wait_for_endpoints(&mut daemon, &net.client, ["fd00::1", "fd00:1::1"]);
        net.client.ip("-6 route del default dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["fd00:1::1"]);
    });
}

#[test]
fn routes_to_both_halves_of_the_address_space_are_a_default_route() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.default_route_v4(1);
        let mut daemon = installed(&net.client).start(&[CHECK_ROUTE]);
        net.client.ip("route add 0.0.0.0/1 via 10.0.0.2 dev c0");
        settle(&mut daemon, &net.client, "c1");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.1.1"]);
        net.client.ip("route add 128.0.0.0/1 via 10.0.0.2 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        net.client.ip("route del 0.0.0.0/1 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.1.1"]);
    });
}

#[test]
fn a_default_route_in_a_table_of_its_own_counts_when_a_rule_leads_there() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.default_route_v4(1);
        net.client.ip("route add default via 10.0.0.2 dev c0 table 100");
        let mut daemon = installed(&net.client).start(&[CHECK_ROUTE]);
        settle(&mut daemon, &net.client, "c1");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.1.1"]);
        net.client.ip("rule add from 10.0.0.1 table 100");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        net.client.ip("rule del from 10.0.0.1 table 100");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.1.1"]);
    });
}

#[test]
fn a_deleted_next_hop_takes_the_address_with_the_route() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.default_route_v4(1);
        net.client.ip("nexthop add id 7 via 10.0.0.2 dev c0");
        // The worst metric: in a lookup for one interface the kernel looks at no route behind that of
        // a next-hop object (fib_table_lookup, 6.18).
        net.client.ip("route add default nhid 7 metric 300");
        let mut daemon = installed(&net.client).start(&[CHECK_ROUTE]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        net.client.ip("nexthop del id 7");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.1.1"]);
    });
}

#[test]
fn a_link_that_comes_back_is_used_when_its_route_does() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.default_route_v4(0);
        net.default_route_v4(1);
        let mut daemon = installed(&net.client).start(&[CHECK_ROUTE]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        net.client.ip("link set c0 down");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.1.1"]);
        net.client.ip("link set c0 up");
        settle(&mut daemon, &net.client, "c1");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.1.1"]);
        net.default_route_v4(0);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
    });
}

#[test]
fn routes_do_not_matter_until_they_are_asked_for() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.default_route_v4(1);
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        here.configure("[core]\nnotify-flags = \"existing,skip_link_local,skip_loopback,check_route\"\n");
        daemon.signal(Signal::HUP);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.1.1"]);
        here.configure("");
        daemon.signal(Signal::HUP);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
    });
}
