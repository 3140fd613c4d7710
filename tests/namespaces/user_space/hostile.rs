//! Networks and peers that do not want, break or forge paths: few attempts, little work, nothing in the
//! log above debug, and healing once they let go.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use super::super::common::announcer::Announcer;
use super::super::common::crowd::Crowd;
use super::super::common::daemon::Daemon;
use super::super::common::net::{Net, Router, SERVICE_V4, client_v4};
use super::super::common::sandbox::{measured, sandboxed};
use super::{joins, net_v4, service, start_managing, take, v4, wait_for_paths};

/// Two links, the second of which leads through a router.
fn net_with_router() -> (Net, Router) {
    let net = net_v4(1);
    let router = Router::add(&net, 1..2, 1);
    net.client.ip("addr add 10.0.1.1/24 dev c1");
    net.default_route_v4(1);
    (net, router)
}

/// A path of ten connections is cut for so long in that way; the number of packets that were sent on it
/// for each at most.
fn cut_path(cut: fn(&Router), seconds: u64, packets: u64) {
    const CONNECTIONS: usize = 10;
    let (net, router) = net_with_router();
    let mut daemon = start_managing(&net.client, "sspi");
    cut(&router);
    let before = router.packets_received();
    let mut crowd = Crowd::gather(&net, service(SERVICE_V4), CONNECTIONS);
    thread::sleep(Duration::from_secs(seconds));
    wait_for_paths(&mut daemon, &net.client, CONNECTIONS, &v4(0..1));
    let sent = router.packets_received() - before;
    measured(&format!("{sent} packets in {seconds} s for {CONNECTIONS} connections on a path that was cut"));
    let (least, most) = (CONNECTIONS as u64, packets * CONNECTIONS as u64);
    assert!((least..=most).contains(&sent), "{sent} packets for {CONNECTIONS} connections");
    router.restore(1);
    let healed = wait_for_paths(&mut daemon, &net.client, CONNECTIONS, &v4(0..2));
    measured(&format!("healed after {healed:?}"));
    crowd.talk();
    assert_eq!(daemon.remarks(), [""; 0]);
}

#[test]
fn a_path_that_drops_everything_is_tried_rarely_and_heals() {
    sandboxed(|| cut_path(Router::drop_everything, 4, 6));
}

#[test]
#[ignore = "slow"]
fn a_path_that_drops_everything_for_long_is_tried_rarely_and_heals() {
    sandboxed(|| cut_path(Router::drop_everything, 20, 20));
}

#[test]
fn a_path_that_answers_with_resets_is_tried_rarely_and_heals() {
    sandboxed(|| cut_path(Router::answer_with_resets, 5, 5));
}

#[test]
#[ignore = "slow"]
fn a_path_that_answers_with_resets_for_long_is_tried_rarely_and_heals() {
    sandboxed(|| cut_path(Router::answer_with_resets, 15, 6));
}

#[test]
fn a_peer_that_takes_no_joins_is_asked_once_and_left_in_peace() {
    sandboxed(|| {
        let net = net_v4(4);
        take(&net, 0);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 5);
        thread::sleep(Duration::from_secs(3));
        wait_for_paths(&mut daemon, &net.client, 5, &[client_v4(0)]);
        let tries = joins(&mut daemon, 0);
        assert!((5..=15).contains(&tries), "{tries} joins of 5 connections from 3 other interfaces");
        crowd.talk();
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}

#[test]
fn a_peer_that_does_not_know_mptcp_any_more_is_asked_rarely() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 5);
        wait_for_paths(&mut daemon, &net.client, 5, &v4(0..2));
        net.server.set_sysctl("net.mptcp.enabled", "0");
        let from = daemon.said().len();
        net.client.kill("src 10.0.1.1");
        thread::sleep(Duration::from_secs(5));
        let tries = joins(&mut daemon, from);
        assert!((5..=5 * 5).contains(&tries), "{tries} joins of 5 connections in 5 s");
        crowd.talk();
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}

#[test]
fn a_peer_that_kills_every_join_is_asked_ever_more_rarely() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 5);
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            net.server.kill("dst 10.0.1.1");
            thread::sleep(Duration::from_millis(20));
        }
        let tries = joins(&mut daemon, 0);
        assert!((5..=5 * 5).contains(&tries), "{tries} joins of 5 connections in 5 s");
        wait_for_paths(&mut daemon, &net.client, 5, &v4(0..2));
        crowd.talk();
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}

#[test]
fn of_many_announced_addresses_that_lead_nowhere_few_are_tried_at_a_time() {
    sandboxed(|| {
        let net = net_v4(2);
        (1..=8).for_each(|host| drop(net.server.ip(&format!("mptcp endpoint add 10.77.0.{host} signal"))));
        let mut daemon = start_managing(&net.client, "fullmesh");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 5);
        wait_for_paths(&mut daemon, &net.client, 5, &v4(0..2));
        thread::sleep(Duration::from_secs(3));
        // With the initial one, eight of each connection.
        assert!(joins(&mut daemon, 0) <= 5 * 7, "{} joins", joins(&mut daemon, 0));
        crowd.talk();
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}

/// A connection with two paths to a peer that announces what it likes.
fn with_announcer(path_manager: &str, work: impl FnOnce(&mut Daemon, &Announcer, u32)) {
    let net = net_v4(2);
    net.server.choose_user_space_path_management();
    let mut daemon = start_managing(&net.client, path_manager);
    let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
    wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
    let token = *net.server.paths_of_each().keys().next().expect("a connection");
    let (memory, time, begun) = (daemon.private_memory(), daemon.processor_time(), Instant::now());
    work(&mut daemon, &Announcer::new(&net.server), token);
    // The daemon has dealt with what was before.
    let from = daemon.said().len();
    net.client.kill("src 10.0.1.1");
    daemon.wait_line(from, &["subflow closed", "10.0.1.1"]);
    wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
    crowd.talk();
    let (grown, took) = (daemon.private_memory().saturating_sub(memory), daemon.processor_time() - time);
    measured(&format!("{path_manager}: {took:?} of processor time in {:?}, {grown} KiB more", begun.elapsed()));
    assert!(took < Duration::from_secs(3), "{took:?} of processor time");
    assert!(grown < 2048, "{grown} KiB more");
    assert_eq!(daemon.remarks(), [""; 0]);
}

#[test]
fn two_hundred_announced_addresses_cost_little() {
    sandboxed(|| with_announcer("fullmesh", announce_many));
}

#[test]
fn two_hundred_announced_addresses_cost_a_single_subflow_per_interface_little() {
    sandboxed(|| with_announcer("sspi", announce_many));
}

fn announce_many(daemon: &mut Daemon, announcer: &Announcer, token: u32) {
    for id in 1..=200 {
        announcer.announce(token, id, Ipv4Addr::new(10, 78, 0, id)).unwrap();
    }
    thread::sleep(Duration::from_secs(2));
    assert!(joins(daemon, 0) <= 1 + 6, "{} joins", joins(daemon, 0));
}

#[test]
fn addresses_announced_and_withdrawn_in_a_loop_cost_little() {
    sandboxed(|| with_announcer("fullmesh", announce_and_withdraw));
}

/// For three seconds, eight addresses at a time, each time others.
fn announce_and_withdraw(daemon: &mut Daemon, announcer: &Announcer, token: u32) {
    let end = Instant::now() + Duration::from_secs(3);
    let mut rounds = 0_u16;
    while Instant::now() < end {
        let [high, low] = rounds.to_be_bytes();
        (1..=8).for_each(|id| announcer.announce(token, id, Ipv4Addr::new(10, 64 + high, low, id)).unwrap());
        (1..=8).for_each(|id| announcer.withdraw(token, id).unwrap());
        rounds += 1;
        thread::sleep(Duration::from_millis(1));
    }
    let heard = daemon.said().iter().filter(|line| line.contains("address announced")).count();
    measured(&format!("{} joins for {heard} announcements heard in {rounds} rounds", joins(daemon, 0)));
    assert!(joins(daemon, 0) <= 50, "{} joins", joins(daemon, 0));
}
