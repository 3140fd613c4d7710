//! Many changes at once, and more addresses than the kernel takes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::common::net::Net;
use super::common::sandbox::sandboxed;
use super::{installed, set, wait_for_endpoints};

/// `ip -batch` commands that add and at once delete so many addresses.
fn pairs(count: u32) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        let address = format!("10.20.{}.{}/32 dev c0", number / 250, number % 250 + 1);
        writeln!(text, "addr add {address}\naddr del {address}").unwrap();
        text
    })
}

#[test]
fn endpoints_equal_addresses_after_2000_have_come_and_gone() {
    sandboxed(|| {
        let net = Net::bare(1);
        let mut daemon = installed(&net.client).start(&[]);
        let last = "addr add 10.30.0.1/32 dev c0\naddr add 10.30.0.2/32 dev c0\naddr add fd30::3/128 dev c0 nodad\n";
        net.client.ip_batch(&(pairs(2000) + last));
        wait_for_endpoints(&mut daemon, &net.client, ["10.30.0.1", "10.30.0.2", "fd30::3"]);
        net.client.ip("addr del 10.30.0.1/32 dev c0");
        net.client.ip("addr add 10.30.0.4/32 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.30.0.2", "fd30::3", "10.30.0.4"]);
    });
}

#[test]
fn a_full_pipe_for_the_log_neither_ends_nor_stops_the_daemon() {
    sandboxed(|| {
        let net = Net::bare(1);
        let mut daemon = installed(&net.client).start_heard(&[], super::common::daemon::Hearing::Nothing);
        net.client.ip_batch(&(pairs(1000) + "addr add 10.30.0.1/32 dev c0\n"));
        wait_for_endpoints(&mut daemon, &net.client, ["10.30.0.1"]);
        daemon.stop();
    });
}

#[test]
fn a_dead_reader_of_the_log_does_not_end_the_daemon() {
    sandboxed(|| {
        let net = Net::bare(1);
        let mut daemon = installed(&net.client).start_heard(&[], super::common::daemon::Hearing::Gone);
        net.client.ip("addr add 10.30.0.1/32 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.30.0.1"]);
        net.client.ip("addr del 10.30.0.1/32 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, []);
        daemon.stop();
    });
}

#[test]
fn of_twelve_addresses_the_six_that_are_left_all_have_endpoints() {
    sandboxed(|| {
        let net = Net::bare(1);
        for host in 1..=12 {
            net.client.ip(&format!("addr add 10.0.0.{host}/32 dev c0"));
        }
        let mut daemon = installed(&net.client).start(&[]);
        daemon.eventually("as many endpoints as the kernel takes", || net.client.endpoints().len() == 8);
        for address in net.client.endpoint_addresses().iter().take(6) {
            net.client.ip(&format!("addr del {address}/32 dev c0"));
        }
        let left: BTreeSet<IpAddr> =
            (1..=12).map(|host| IpAddr::from([10, 0, 0, host])).filter(|address| has(&net, *address)).collect();
        assert_eq!(left.len(), 6);
        daemon.eventually("endpoints of the six that are left", || net.client.endpoint_addresses() == left);
    });
}

fn has(net: &Net, address: IpAddr) -> bool {
    net.client.ip("addr show dev c0").contains(&format!("inet {address}/"))
}

#[test]
fn the_first_address_of_every_interface_and_family_comes_before_a_second_of_one() {
    sandboxed(|| {
        let net = Net::bare(3);
        for host in 1..=9 {
            net.client.ip(&format!("addr add 10.0.0.{host}/32 dev c0"));
        }
        net.client.ip("addr add fd00::1/64 dev c0 nodad");
        let mut daemon = installed(&net.client).start(&[]);
        net.client.ip("addr add 10.0.1.1/24 dev c1");
        net.client.ip("addr add 10.0.2.1/24 dev c2");
        net.client.ip("addr add fd00:2::1/64 dev c2 nodad");
        let best = set(["fd00::1", "10.0.1.1", "10.0.2.1", "fd00:2::1"]);
        daemon.eventually("an endpoint for every interface and family", || {
            let endpoints = net.client.endpoint_addresses();
            endpoints.len() == 8 && best.is_subset(&endpoints)
        });
    });
}
