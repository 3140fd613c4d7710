//! Paths that carry nothing although their links are up.

use std::thread;
use std::time::{Duration, Instant};

use super::super::common::crowd::Crowd;
use super::super::common::net::{Net, Router, SERVICE_V4, client_v4};
use super::super::common::sandbox::{measured, sandboxed};
use super::super::common::traffic::{Server, Transfer};
use super::super::installed;
use super::{net_v4, service, start_managing, take, v4, wait_for_paths};

/// Two links, the first of which leads through a router, so that connections begin there.
fn net_with_router_first() -> (Net, Router) {
    let net = Net::bare(0);
    let router = Router::add(&net, 0..1, 1);
    net.add_link(1);
    for link in 0..2 {
        net.client.ip(&format!("addr add {}/24 dev c{link}", client_v4(link)));
        net.default_route_v4(link);
    }
    take(&net, 8);
    (net, router)
}

/// The router drops everything while data moves; the daemon tells what it found.
fn survive_silence(path_manager: &str, back_after: Duration) {
    let (net, router) = net_with_router_first();
    let mut daemon = start_managing(&net.client, path_manager);
    let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
    wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
    let initial = net.client.subflow_from(client_v4(0)).expect("a subflow").local.port();
    let dialogue = crowd.converse(1000);
    dialogue.wait_for_rounds(100);
    router.drop_everything();
    let begun = Instant::now();
    daemon.eventually("the silent subflow gone", || {
        net.client.subflow_from(client_v4(0)).is_none_or(|flow| flow.local.port() != initial)
    });
    measured(&format!("{path_manager}: a silent subflow gone after {:?}", begun.elapsed()));
    dialogue.wait_for_rounds(100);
    thread::sleep(back_after);
    router.restore(0);
    let back = wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
    measured(&format!("{path_manager}: back after {back:?}"));
    let longest = dialogue.finish().expect("a connection that lives");
    measured(&format!("{path_manager}: {longest:?} at the longest for a message"));
    assert!(daemon.said().iter().any(|line| line.contains("subflow is dead")), "told in debug");
    assert_eq!(daemon.remarks(), [""; 0]);
}

#[test]
fn a_path_that_falls_silent_is_left_at_once_and_used_again_when_it_works() {
    sandboxed(|| survive_silence("sspi", Duration::ZERO));
}

#[test]
fn every_path_over_a_silent_link_is_left() {
    sandboxed(|| survive_silence("fullmesh", Duration::ZERO));
}

#[test]
fn a_join_on_a_path_that_stays_silent_is_begun_anew() {
    // The kernel would send its next request to connect 4 s later (1, 2, 3, 4, 5, 7, 11, 19 s).
    sandboxed(|| survive_silence("sspi", Duration::from_secs(13)));
}

#[test]
fn an_upload_at_full_speed_passes_a_path_that_falls_silent() {
    sandboxed(|| {
        let (net, router) = net_with_router_first();
        let mut daemon = start_managing(&net.client, "sspi");
        let server = Server::start(&net.server, service(SERVICE_V4));
        let transfer = Transfer::start(&net.client, server.address(), 5_000_000);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        server.wait_for_more(2_000_000);
        router.drop_everything();
        server.wait_for_more(2_000_000);
        router.restore(0);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        server.wait_for_more(2_000_000);
        transfer.finish().unwrap();
    });
}

#[test]
fn where_silence_is_not_looked_for_only_the_kernel_moves_data() {
    sandboxed(|| {
        let (net, router) = net_with_router_first();
        net.client.choose_user_space_path_management();
        let installation = installed(&net.client);
        installation.configure("[core]\npath-manager = \"sspi\"\n[liveness]\nblackhole = false\n");
        let mut daemon = installation.start(&[]);
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        let dialogue = crowd.converse(1000);
        dialogue.wait_for_rounds(100);
        router.drop_everything();
        dialogue.wait_for_rounds(100);
        let lines = daemon.said();
        assert!(!lines.iter().any(|line| line.contains("look for subflow")), "no socket is looked at");
        dialogue.finish().expect("a connection that lives");
    });
}

#[test]
fn an_idle_connection_wakes_nobody() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 5);
        wait_for_paths(&mut daemon, &net.client, 5, &v4(0..2));
        crowd.talk();
        // Looks become rarer until there are none; the last pause is one of 2.6 s.
        thread::sleep(Duration::from_secs(7));
        let before = daemon.said().len();
        thread::sleep(Duration::from_secs(8));
        let looks = daemon.said().iter().skip(before).filter(|line| line.contains("look for subflow")).count();
        assert_eq!(looks, 0);
        crowd.talk();
    });
}
