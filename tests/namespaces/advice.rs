//! What the daemon warns of: routing that keeps a second path from working.

use rustix::process::Signal;

use super::common::daemon::Daemon;
use super::common::net::Net;
use super::common::sandbox::sandboxed;
use super::installed;

const STRICT: &[&str] = &["WARN", "rp_filter", "10.0.1.1", "net.ipv4.conf.all.rp_filter=2"];
const ASTRAY: &[&str] = &["WARN", "10.0.1.1 is announced", "ip rule add from 10.0.1.1"];

/// Two uplinks, the first of which all answers leave by.
fn two_uplinks() -> Net {
    let net = Net::v4(2);
    net.default_route_v4(0);
    net.default_route_v4(1);
    net
}

fn give_a_table_of_its_own(net: &Net) {
    net.client.ip("route add default via 10.0.1.2 dev c1 table 7");
    net.client.ip("rule add from 10.0.1.1 table 7");
}

fn count(daemon: &mut Daemon, words: &[&str]) -> usize {
    daemon.said().iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

/// Waits until the daemon has looked at the ways back, after the first `from` lines.
fn looked(daemon: &mut Daemon, from: usize) {
    daemon.wait_line(from, &["looked at the ways back"]);
}

fn read_configuration_again(daemon: &mut Daemon) {
    let from = daemon.said().len();
    daemon.signal(Signal::HUP);
    looked(daemon, from);
}

#[test]
fn a_strict_filter_that_drops_what_comes_by_the_second_uplink_is_told_once() {
    sandboxed(|| {
        let net = two_uplinks();
        net.client.set_sysctl("net.ipv4.conf.c1.rp_filter", "1");
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        daemon.wait_line(0, STRICT);
        looked(&mut daemon, 0);
        let from = daemon.said().len();
        net.add_link(2);
        net.client.ip("addr add 10.0.2.1/24 dev c2");
        looked(&mut daemon, from);
        assert_eq!(count(&mut daemon, STRICT), 1);
        let from = daemon.said().len();
        daemon.signal(Signal::HUP);
        daemon.wait_line(from, STRICT);
        assert_eq!(count(&mut daemon, ASTRAY), 0, "nothing is announced");
    });
}

#[test]
fn nothing_is_told_of_a_loose_filter_or_of_one_uplink_or_where_the_way_back_is_right() {
    sandboxed(|| {
        let net = two_uplinks();
        let mut daemon = installed(&net.client).start(&[]);
        looked(&mut daemon, 0);
        net.client.set_sysctl("net.ipv4.conf.c1.rp_filter", "1");
        net.client.set_sysctl("net.ipv4.conf.all.rp_filter", "2");
        read_configuration_again(&mut daemon);
        net.client.set_sysctl("net.ipv4.conf.all.rp_filter", "1");
        give_a_table_of_its_own(&net);
        read_configuration_again(&mut daemon);
        net.client.ip("rule del from 10.0.1.1 table 7");
        net.client.ip("route del default dev c1");
        read_configuration_again(&mut daemon);
        assert_eq!(count(&mut daemon, &["rp_filter"]), 0, "{:?}", daemon.said());
    });
}

#[test]
fn an_announced_address_whose_answers_leave_by_another_interface_is_told() {
    sandboxed(|| {
        let net = two_uplinks();
        let here = installed(&net.client);
        let mut daemon = here.start(&["--addr-flags=signal"]);
        daemon.wait_line(0, ASTRAY);
        assert_eq!(count(&mut daemon, STRICT), 0, "the filter is off");
        give_a_table_of_its_own(&net);
        let from = daemon.said().len();
        read_configuration_again(&mut daemon);
        assert!(!daemon.said()[from..].iter().any(|line| line.contains("is announced")));
    });
}
