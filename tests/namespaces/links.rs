//! Links that come up, go down, lose their carrier, are deleted, renamed and made again.

use std::net::IpAddr;

use super::common::daemon::Daemon;
use super::common::net::{Namespace, Net};
use super::common::sandbox::sandboxed;
use super::{address, installed, settle, wait_for_endpoints};

/// Waits until the endpoint of the address is bound to this interface.
fn wait_for_interface(daemon: &mut Daemon, namespace: &Namespace, address: IpAddr, interface: &str) {
    daemon.eventually(&format!("an endpoint of {address} on {interface}"), || {
        namespace.endpoint_of(address).is_some_and(|endpoint| endpoint.dev.as_deref() == Some(interface))
    });
}

#[test]
fn an_address_is_used_once_its_link_is_up() {
    sandboxed(|| {
        let net = Net::bare(2);
        net.client.ip("link set c0 down");
        net.client.ip("addr add 10.0.0.1/24 dev c0");
        net.client.ip("addr add fd00::1/64 dev c0 nodad");
        let mut daemon = installed(&net.client).start(&[]);
        settle(&mut daemon, &net.client, "c1");
        wait_for_endpoints(&mut daemon, &net.client, []);
        net.client.ip("link set c0 up");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "fd00::1"]);
    });
}

#[test]
fn endpoints_follow_a_link_that_goes_down_and_up() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.client.set_sysctl("net.ipv6.conf.c1.keep_addr_on_down", "1");
        net.client.ip("addr add fd00:1::1/64 dev c1 nodad");
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "fd00:1::1"]);
        for _ in 0..2 {
            net.client.ip("link set c1 down");
            wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
            net.client.ip("link set c1 up");
            wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "fd00:1::1"]);
        }
    });
}

#[test]
fn an_ipv6_address_that_the_kernel_drops_with_its_link_leaves_no_endpoint() {
    sandboxed(|| {
        let net = Net::v6(2);
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["fd00::1", "fd00:1::1"]);
        net.client.ip("link set c1 down");
        wait_for_endpoints(&mut daemon, &net.client, ["fd00::1"]);
        net.client.ip("link set c1 up");
        settle(&mut daemon, &net.client, "c1");
        wait_for_endpoints(&mut daemon, &net.client, ["fd00::1"]);
        net.client.ip("addr add fd00:1::1/64 dev c1 nodad");
        wait_for_endpoints(&mut daemon, &net.client, ["fd00::1", "fd00:1::1"]);
    });
}

#[test]
fn an_address_removed_while_its_link_is_down_leaves_no_endpoint() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.client.set_sysctl("net.ipv6.conf.c1.keep_addr_on_down", "1");
        net.client.ip("addr add fd00:1::1/64 dev c1 nodad");
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "fd00:1::1"]);
        net.client.ip("link set c1 down");
        net.client.ip("addr del 10.0.1.1/24 dev c1");
        net.client.ip("addr del fd00:1::1/64 dev c1");
        net.client.ip("link set c1 up");
        settle(&mut daemon, &net.client, "c1");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
    });
}

#[test]
fn endpoints_go_with_the_carrier_and_come_back_with_it() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.client.ip("addr add fd00:1::1/64 dev c1 nodad");
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "fd00:1::1"]);
        net.server.ip("link set s1 down");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        net.server.ip("link set s1 up");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "fd00:1::1"]);
    });
}

#[test]
fn an_interface_deleted_and_made_again_has_endpoints_with_its_new_index() {
    sandboxed(|| {
        let net = Net::v4(1);
        let mut daemon = installed(&net.client).start(&[]);
        let again = || {
            net.client.ip("link del c0");
            net.add_link(0);
            net.client.ip("addr add 10.0.0.1/24 dev c0");
            net.client.ip("addr add fd00::1/64 dev c0 nodad");
        };
        let right = |daemon: &mut Daemon| {
            wait_for_interface(daemon, &net.client, address("10.0.0.1"), "c0");
            wait_for_interface(daemon, &net.client, address("fd00::1"), "c0");
            wait_for_endpoints(daemon, &net.client, ["10.0.0.1", "fd00::1"]);
        };
        again();
        right(&mut daemon);
        daemon.suspend();
        again();
        daemon.resume();
        right(&mut daemon);
        net.client.ip("link del c0");
        wait_for_endpoints(&mut daemon, &net.client, []);
    });
}

#[test]
fn a_renamed_interface_keeps_its_endpoints() {
    sandboxed(|| {
        let net = Net::v4(2);
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        net.client.ip_batch("link set c1 down\nlink set c1 name wan0\nlink set wan0 up\n");
        wait_for_interface(&mut daemon, &net.client, address("10.0.1.1"), "wan0");
        net.client.ip("addr add 10.5.0.1/24 dev wan0");
        wait_for_interface(&mut daemon, &net.client, address("10.5.0.1"), "wan0");
    });
}

#[test]
fn an_interface_name_may_have_15_characters() {
    sandboxed(|| {
        let net = Net::bare(0);
        net.client.ip("link add abcdefghijklmno type veth peer name s0 netns server");
        net.client.ip("link set abcdefghijklmno up");
        net.server.ip("link set s0 up");
        net.client.ip("addr add 10.0.0.1/24 dev abcdefghijklmno");
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_interface(&mut daemon, &net.client, address("10.0.0.1"), "abcdefghijklmno");
    });
}
