//! Many connections, changes and interfaces: right afterwards, nothing kept, nothing in the log above debug.

use std::thread;
use std::time::{Duration, Instant};

use super::super::common::PATIENCE;
use super::super::common::crowd::Crowd;
use super::super::common::daemon::Daemon;
use super::super::common::net::{Net, Router, SERVICE_V4};
use super::super::common::sandbox::{measured, sandboxed};
use super::{joins, net_v4, service, start_managing, take, v4, wait_for_paths};

/// Checks that a new connection gets both its paths, and that nothing was said above debug.
fn check(daemon: &mut Daemon, net: &Net) {
    let mut crowd = Crowd::gather(net, service(SERVICE_V4), 1);
    wait_for_paths(daemon, &net.client, 1, &v4(0..2));
    crowd.talk();
    assert_eq!(daemon.remarks(), [""; 0]);
}

/// Waits until so many joins were begun.
fn wait_for_joins(daemon: &mut Daemon, from: usize, count: usize) {
    let begun = Instant::now();
    while joins(daemon, from) < count {
        assert!(begun.elapsed() < PATIENCE && daemon.listen(Duration::from_millis(100)), "{count} joins");
    }
}

/// Does something twice, the first time only to warm up, and checks that no memory is kept of it.
fn without_a_leak(daemon: &mut Daemon, net: &Net, mut work: impl FnMut(&mut Daemon)) {
    work(daemon);
    check(daemon, net);
    let (memory, time, begun) = (daemon.private_memory(), daemon.processor_time(), Instant::now());
    work(daemon);
    check(daemon, net);
    let kept = daemon.private_memory().saturating_sub(memory);
    let (took, elapsed) = (daemon.processor_time() - time, begun.elapsed());
    measured(&format!("{took:?} of processor time in {elapsed:?}, {kept} KiB kept of {memory} KiB"));
    assert!(kept < 1024, "{kept} KiB kept");
}

#[test]
fn thousands_of_short_connections_leave_nothing_behind() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "sspi");
        let crowd = Crowd::new(&net, "10.255.0.1:5001".parse().unwrap());
        without_a_leak(&mut daemon, &net, |_| crowd.pass_through(2000));
    });
}

#[test]
fn thousands_of_connections_to_peers_without_mptcp_leave_nothing_behind() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "sspi");
        let crowd = Crowd::of_plain_tcp(&net, "10.255.0.1:5001".parse().unwrap());
        let from = daemon.said().len();
        without_a_leak(&mut daemon, &net, |_| crowd.pass_through(2000));
        let tries = joins(&mut daemon, from);
        assert_eq!(tries, 2, "joins besides those of the two connections that check");
    });
}

#[test]
fn hundreds_of_connections_at_a_time_leave_nothing_behind() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::new(&net, "10.255.0.1:5001".parse().unwrap());
        without_a_leak(&mut daemon, &net, |daemon| {
            crowd.grow(400);
            wait_for_paths(daemon, &net.client, 400, &v4(0..2));
            crowd.leave();
        });
    });
}

#[test]
fn connections_closed_while_their_join_is_on_its_way_leave_nothing_behind() {
    sandboxed(|| {
        let net = net_v4(1);
        let router = Router::add(&net, 1..2, 1);
        net.client.ip("addr add 10.0.1.1/24 dev c1");
        net.default_route_v4(1);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::new(&net, "10.255.0.1:5001".parse().unwrap());
        without_a_leak(&mut daemon, &net, |daemon| {
            router.drop_everything();
            let from = daemon.said().len();
            crowd.grow(300);
            wait_for_joins(daemon, from, 300);
            crowd.leave();
            router.restore(1);
        });
    });
}

#[test]
fn an_interface_that_flaps_is_used_in_the_end() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 20);
        wait_for_paths(&mut daemon, &net.client, 20, &v4(0..2));
        let from = daemon.said().len();
        for _ in 0..50 {
            net.client.ip("link set c1 down");
            thread::sleep(Duration::from_millis(50));
            net.client.ip("link set c1 up");
            net.default_route_v4(1);
            thread::sleep(Duration::from_millis(40));
        }
        let back = wait_for_paths(&mut daemon, &net.client, 20, &v4(0..2));
        let tries = joins(&mut daemon, from);
        measured(&format!("{tries} joins of 20 connections during 50 flaps, back after {back:?}"));
        assert!(tries <= 20 * 60, "{tries} joins of 20 connections during 50 flaps");
        crowd.talk();
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}

#[test]
fn with_64_interfaces_a_connection_has_as_many_paths_as_it_may_and_few_joins_are_made() {
    sandboxed(|| {
        let net = net_v4(64);
        take(&net, 2);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 5);
        thread::sleep(Duration::from_secs(3));
        let tries = joins(&mut daemon, 0);
        measured(&format!("{tries} joins of 5 connections from 64 interfaces"));
        assert!((10..=5 * 16).contains(&tries), "{tries} joins of 5 connections");
        let each = net.client.paths_of_each();
        assert!(each.len() == 5 && each.values().all(|paths| paths.len() == 3), "{each:?}");
        crowd.talk();
        assert_eq!(daemon.remarks(), [""; 0]);
    });
}
