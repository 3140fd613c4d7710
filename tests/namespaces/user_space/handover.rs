//! One path in use at a time: which, when it changes, and that data goes nowhere else.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::super::common::crowd::Crowd;
use super::super::common::daemon::Daemon;
use super::super::common::net::{Net, Router, SERVICE_V4, SERVICE_V6, client_v4};
use super::super::common::sandbox::{measured, sandboxed};
use super::super::common::traffic::{Server, Transfer};
use super::rules::{MESSAGE, Ruled, check_only, rule, wait_for_standby};
use super::{joins, net_v4, net_v6, service, take, v4, v6, wait_for_paths};

/// Long enough to be seen, and short enough to be waited for.
const SETTINGS: &str = "[pm.handover]\nreturn-after = '2s'\n";
const RETURN_AFTER: Duration = Duration::from_secs(2);

fn start(net: &Net, rules: &str, settings: &str) -> Daemon {
    Ruled::start(net, "handover", &format!("{rules}{SETTINGS}{settings}")).daemon
}

/// Data of a transfer that shows where it goes.
const MUCH: u64 = 500_000;

/// Checks that of two links only one carries what a transfer sends.
fn check_transfer(net: &Net, server: &Server, link: usize) {
    let sent = || [0, 1].map(|link| net.client.bytes_sent(&format!("c{link}")));
    let before = sent();
    server.wait_for_more(MUCH);
    let after = sent();
    let bytes = [after[0] - before[0], after[1] - before[1]];
    assert!(bytes[1 - link] < MUCH / 20 && bytes[link] > MUCH / 2, "{bytes:?}, but only link {link} was to have data");
}

/// A connection that begins on the preferred link: that fails and comes back, twice, the first time as the
/// initial subflow.
fn lose_and_return(net: &Net, to: IpAddr, paths: [IpAddr; 2], default_route: fn(&Net, u8)) {
    let mut daemon = start(net, "", "");
    let server = Server::start(&net.server, service(to));
    let transfer = Transfer::start(&net.client, server.address(), 2_000_000);
    wait_for_paths(&mut daemon, &net.client, 1, &paths[..1]);
    check_transfer(net, &server, 0);
    for _ in 0..2 {
        net.client.ip("link set c0 down");
        wait_for_paths(&mut daemon, &net.client, 1, &paths[1..]);
        check_transfer(net, &server, 1);
        if to.is_ipv6() {
            // It went with the link.
            net.client.ip(&format!("addr replace {}/64 dev c0 nodad", paths[0]));
        }
        net.client.ip("link set c0 up");
        default_route(net, 0);
        wait_for_paths(&mut daemon, &net.client, 1, &paths);
        let back = Instant::now();
        check_transfer(net, &server, 1);
        wait_for_paths(&mut daemon, &net.client, 1, &paths[..1]);
        assert!(back.elapsed() > RETURN_AFTER / 2, "returned after {:?}", back.elapsed());
        check_transfer(net, &server, 0);
    }
    transfer.finish().unwrap();
    // One for each change, and where a link is just back perhaps another beside it.
    assert!((4..=6).contains(&joins(&mut daemon, 0)), "{} joins", joins(&mut daemon, 0));
    assert_eq!(daemon.remarks(), [""; 0]);
}

#[test]
fn the_second_link_is_used_only_while_the_first_is_down_or_just_back() {
    sandboxed(|| {
        let paths = [client_v4(0), client_v4(1)];
        lose_and_return(&net_v4(2), SERVICE_V4, paths, Net::default_route_v4);
    });
}

#[test]
fn the_second_link_is_used_only_while_the_first_is_down_or_just_back_with_ipv6() {
    sandboxed(|| {
        let paths = v6(0..2).try_into().expect("two");
        lose_and_return(&net_v6(2), SERVICE_V6, paths, Net::default_route_v6);
    });
}

/// A preferred link that leads through a router, where the connection begins.
fn net_with_router() -> (Net, Router) {
    let net = net_v4(1);
    let router = Router::add(&net, 1..2, 1);
    net.client.ip(&format!("addr add {}/24 dev c1", client_v4(1)));
    net.client.ip("route add default via 10.0.1.2 dev c1 metric 50");
    (net, router)
}

fn fall_silent(settings: &str, warm: bool) {
    let (net, router) = net_with_router();
    let mut daemon = start(&net, &rule("c1", "order = -1"), settings);
    let server = Server::start(&net.server, service(SERVICE_V4));
    let transfer = Transfer::start(&net.client, server.address(), 2_000_000);
    let normally = if warm { v4(0..2) } else { v4(1..2) };
    for _ in 0..2 {
        wait_for_paths(&mut daemon, &net.client, 1, &normally);
        check_transfer(&net, &server, 1);
        router.drop_everything();
        let begun = Instant::now();
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..1));
        measured(&format!("warm = {warm}: left a silent path after {:?}", begun.elapsed()));
        check_transfer(&net, &server, 0);
        router.restore(1);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        check_transfer(&net, &server, 0);
        if warm {
            wait_for_standby(&mut daemon, &net, &[0]);
        }
    }
    wait_for_paths(&mut daemon, &net.client, 1, &normally);
    check_transfer(&net, &server, 1);
    transfer.finish().unwrap();
    assert_eq!(daemon.remarks(), [""; 0]);
}

#[test]
fn a_path_that_falls_silent_gives_way_to_a_new_one_until_it_is_back() {
    sandboxed(|| fall_silent("", false));
}

#[test]
fn a_path_that_falls_silent_gives_way_to_its_backup_until_it_is_back() {
    sandboxed(|| fall_silent("warm = true\n", true));
}

#[test]
fn a_warm_path_has_no_data_until_the_first_is_lost_and_again_after_that_has_returned() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start(&net, "", "warm = true\n");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        wait_for_standby(&mut daemon, &net, &[1]);
        let dialogue = crowd.converse(MESSAGE);
        for _ in 0..2 {
            check_only(&net, &dialogue, 0);
            net.server.ip("link set s0 down");
            wait_for_paths(&mut daemon, &net.client, 1, &v4(1..2));
            wait_for_standby(&mut daemon, &net, &[]);
            check_only(&net, &dialogue, 1);
            net.server.ip("link set s0 up");
            wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
            wait_for_standby(&mut daemon, &net, &[0]);
            check_only(&net, &dialogue, 1);
            wait_for_standby(&mut daemon, &net, &[1]);
        }
        check_only(&net, &dialogue, 0);
        dialogue.finish().unwrap();
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}

#[test]
fn a_connection_that_began_on_another_link_moves_to_the_preferred_one_and_keeps_the_first_for_standby() {
    sandboxed(|| {
        let net = net_v4(3);
        let mut daemon = start(&net, &rule("c1", "order = -1"), "");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        wait_for_standby(&mut daemon, &net, &[1]);
        let dialogue = crowd.converse(MESSAGE);
        wait_for_standby(&mut daemon, &net, &[0]);
        check_only(&net, &dialogue, 1);
        net.server.ip("link set s1 down");
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..1));
        check_only(&net, &dialogue, 0);
        net.server.ip("link set s1 up");
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        wait_for_standby(&mut daemon, &net, &[1]);
        wait_for_standby(&mut daemon, &net, &[0]);
        check_only(&net, &dialogue, 1);
        dialogue.finish().unwrap();
        let third = |line: &&String| line.contains("create subflow") && line.contains("10.0.2.1");
        assert_eq!(daemon.said().iter().find(third), None, "the third link is not needed");
    });
}

#[test]
fn a_link_for_standby_is_left_as_soon_as_another_is_back_whatever_its_order() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start(&net, &rule("c1", "backup = true\norder = -1"), "");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
        let dialogue = crowd.converse(MESSAGE);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..1));
        check_only(&net, &dialogue, 0);
        net.server.ip("link set s0 down");
        wait_for_paths(&mut daemon, &net.client, 1, &v4(1..2));
        check_only(&net, &dialogue, 1);
        net.server.ip("link set s0 up");
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        check_only(&net, &dialogue, 0);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..1));
        dialogue.finish().unwrap();
    });
}

#[test]
fn where_the_peer_takes_no_third_subflow_the_second_stays_in_use() {
    sandboxed(|| {
        let net = net_v4(2);
        take(&net, 1);
        let mut daemon = start(&net, "", "");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..1));
        net.client.ip("link set c0 down");
        wait_for_paths(&mut daemon, &net.client, 1, &v4(1..2));
        let from = daemon.said().len();
        net.client.ip("link set c0 up");
        net.default_route_v4(0);
        daemon.wait_line(from, &["create subflow", "10.0.0.1"]);
        daemon.wait_line(from, &["subflow closed", "10.0.0.1"]);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(1..2));
        crowd.talk();
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}
