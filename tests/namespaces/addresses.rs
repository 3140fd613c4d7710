//! Which addresses become endpoints.

use super::common::net::Net;
use super::common::sandbox::sandboxed;
use super::{address, installed, settle, wait_for_endpoints};

#[test]
fn addresses_present_at_start_become_subflow_endpoints_of_their_interface() {
    sandboxed(|| {
        let net = Net::v4(2);
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        for (text, interface) in [("10.0.0.1", "c0"), ("10.0.1.1", "c1")] {
            let endpoint = net.client.endpoint_of(address(text)).unwrap();
            assert_eq!((endpoint.flags, endpoint.dev.as_deref()), (vec!["subflow".to_owned()], Some(interface)));
        }
    });
}

#[test]
fn ipv6_addresses_become_endpoints_and_link_local_ones_do_not() {
    sandboxed(|| {
        let net = Net::v6(2);
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["fd00::1", "fd00:1::1"]);
        settle(&mut daemon, &net.client, "c0");
        wait_for_endpoints(&mut daemon, &net.client, ["fd00::1", "fd00:1::1"]);
    });
}

#[test]
fn a_link_local_address_becomes_an_endpoint_if_asked_for() {
    sandboxed(|| {
        let net = Net::bare(1);
        net.client.ip("addr add fe80::77/64 dev c0 nodad");
        let mut daemon = installed(&net.client).start(&["--notify-flags=existing,skip_loopback"]);
        let wanted = address("fe80::77");
        daemon.eventually("an endpoint of fe80::77", || net.client.endpoint_of(wanted).is_some());
    });
}

#[test]
fn addresses_added_and_removed_later_are_followed() {
    sandboxed(|| {
        let net = Net::bare(2);
        let mut daemon = installed(&net.client).start(&[]);
        net.client.ip("addr add 10.0.0.1/24 dev c0");
        net.client.ip("addr add fd00:1::1/64 dev c1 nodad");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "fd00:1::1"]);
        net.client.ip("addr del 10.0.0.1/24 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["fd00:1::1"]);
        net.client.ip("addr del fd00:1::1/64 dev c1");
        wait_for_endpoints(&mut daemon, &net.client, []);
    });
}

#[test]
fn addresses_present_at_start_are_not_used_without_the_flag_existing_until_they_change() {
    sandboxed(|| {
        let net = Net::v4(2);
        let mut daemon = installed(&net.client).start(&["--notify-flags=skip_link_local,skip_loopback"]);
        net.client.ip("addr add 10.5.0.1/24 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.5.0.1"]);
        net.client.ip("addr del 10.0.1.1/24 dev c1");
        settle(&mut daemon, &net.client, "c1");
        net.client.ip("addr add 10.0.1.1/24 dev c1");
        wait_for_endpoints(&mut daemon, &net.client, ["10.5.0.1", "10.0.1.1"]);
    });
}

#[test]
fn the_address_of_the_far_end_of_a_point_to_point_link_is_never_used() {
    sandboxed(|| {
        let net = Net::bare(1);
        net.client.ip("addr add 10.9.0.1 peer 10.9.0.2 dev c0");
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.9.0.1"]);
        net.client.ip("addr add fd09::1 peer fd09::2 dev c0 nodad");
        wait_for_endpoints(&mut daemon, &net.client, ["10.9.0.1", "fd09::1"]);
        net.client.ip("addr del 10.9.0.1 peer 10.9.0.2 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["fd09::1"]);
    });
}

#[test]
fn a_deprecated_address_is_not_used_until_it_is_preferred_again() {
    sandboxed(|| {
        let net = Net::v4(1);
        net.client.ip("addr add fd00::1/64 dev c0 nodad preferred_lft 0");
        let mut daemon = installed(&net.client).start(&[]);
        settle(&mut daemon, &net.client, "c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        net.client.ip("addr change fd00::1/64 dev c0 preferred_lft forever");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "fd00::1"]);
        net.client.ip("addr change fd00::1/64 dev c0 preferred_lft 0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
    });
}

#[test]
fn an_address_that_another_host_has_is_not_used() {
    sandboxed(|| {
        let net = Net::bare(1);
        let mut daemon = installed(&net.client).start(&[]);
        net.client.ip("addr add fd00::2/64 dev c0");
        let failed = || net.client.ip("-6 addr show dev c0 dadfailed").contains("fd00::2");
        daemon.eventually("the kernel finds the duplicate", failed);
        settle(&mut daemon, &net.client, "c0");
        wait_for_endpoints(&mut daemon, &net.client, []);
    });
}

#[test]
fn an_address_becomes_an_endpoint_when_duplicate_address_detection_has_ended() {
    sandboxed(|| {
        let net = Net::bare(1);
        let mut daemon = installed(&net.client).start(&[]);
        net.client.ip("addr add fd00::1/64 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["fd00::1"]);
        assert!(!net.client.ip("-6 addr show dev c0 tentative").contains("fd00::1"));
    });
}

#[test]
fn a_stable_address_is_preferred_to_temporary_ones_of_its_prefix() {
    sandboxed(|| {
        let net = Net::bare(1);
        net.client.set_sysctl("net.ipv6.conf.c0.use_tempaddr", "2");
        let mut daemon = installed(&net.client).start(&[]);
        net.client.ip("addr add fd00::1/64 dev c0 nodad mngtmpaddr valid_lft 7200 preferred_lft 3600");
        let temporary = || net.client.ip("-6 addr show dev c0 temporary -tentative").contains("fd00:");
        daemon.eventually("the kernel makes a temporary address", temporary);
        settle(&mut daemon, &net.client, "c0");
        wait_for_endpoints(&mut daemon, &net.client, ["fd00::1"]);
    });
}

#[test]
fn an_address_on_two_links_is_one_endpoint_and_moves_when_the_first_loses_it() {
    sandboxed(|| {
        let net = Net::bare(2);
        net.client.ip("addr add 10.5.0.1/24 dev c0");
        net.client.ip("addr add 10.5.0.1/24 dev c1");
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.5.0.1"]);
        let shared = address("10.5.0.1");
        let dev = || net.client.endpoint_of(shared).and_then(|endpoint| endpoint.dev);
        let (first, second) = if dev().as_deref() == Some("c0") { ("c0", "c1") } else { ("c1", "c0") };
        net.client.ip(&format!("addr del 10.5.0.1/24 dev {first}"));
        daemon.eventually("the endpoint is bound to the other link", || dev().as_deref() == Some(second));
        net.client.ip(&format!("addr del 10.5.0.1/24 dev {second}"));
        wait_for_endpoints(&mut daemon, &net.client, []);
    });
}
