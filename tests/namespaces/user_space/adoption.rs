//! Connections that were there before the daemon, or of which it has missed what happened.

use std::fs;
use std::net::IpAddr;

use super::super::common::PATIENCE;
use super::super::common::crowd::Crowd;
use super::super::common::daemon::{Daemon, Installation};
use super::super::common::net::{Net, SERVICE_V4, SERVICE_V6, client_v4, client_v6};
use super::super::common::sandbox::sandboxed;
use super::super::installed;
use super::{net_v4, net_v6, service, v4, v6, wait_for_paths};

/// An installation whose path manager is this one.
fn manager(net: &Net, name: &str) -> Installation {
    net.client.choose_user_space_path_management();
    let installation = installed(&net.client);
    installation.configure(&format!("[core]\npath-manager = \"{name}\"\n"));
    installation
}

/// How many files the daemon has open.
fn descriptors(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/run/proc/{}/fd", daemon.pid())).unwrap().count()
}

/// Waits until so many connections are written down.
fn wait_until_saved(daemon: &mut Daemon, installation: &Installation, connections: usize) {
    let file = installation.state_file("connections");
    let count =
        || fs::read_to_string(&file).unwrap_or_default().lines().filter(|line| line.starts_with("open ")).count();
    daemon.eventually("the connections are written down", || count() >= connections);
}

fn add_link(net: &Net, link: u8) {
    net.add_link(link);
    net.client.ip(&format!("addr add {}/24 dev c{link}", client_v4(link)));
    net.client.ip(&format!("addr add {}/64 dev c{link} nodad", client_v6(link)));
    net.default_route_v4(link);
    net.default_route_v6(link);
}

/// Where the subflows of the connections to that port come from.
fn paths(net: &Net, port: u16) -> Vec<IpAddr> {
    let flows = net.client.subflows().into_iter().filter(|flow| flow.established && flow.remote.port() == port);
    flows.map(|flow| flow.local.ip()).collect()
}

/// So many connections, of two links; the daemon is killed, a third link comes, and another daemon begins.
fn survive_a_kill(connections: usize) {
    let net = net_v4(2);
    let installation = manager(&net, "fullmesh");
    let mut daemon = installation.start(&[]);
    let mut crowd = Crowd::gather(&net, service(SERVICE_V4), connections);
    wait_for_paths(&mut daemon, &net.client, connections, &v4(0..2));
    wait_until_saved(&mut daemon, &installation, connections);
    daemon.kill_dash_9();
    net.client.ip("link set c1 down");
    let mut daemon = installation.start(&[]);
    daemon.wait_line(0, &[&format!("{connections} connections with {} subflows", 2 * connections)]);
    wait_for_paths(&mut daemon, &net.client, connections, &v4(0..1));
    add_link(&net, 2);
    wait_for_paths(&mut daemon, &net.client, connections, &[client_v4(0), client_v4(2)]);
    net.client.ip("link set c1 up");
    net.default_route_v4(1);
    wait_for_paths(&mut daemon, &net.client, connections, &v4(0..3));
    crowd.talk();
    crowd.leave();
    daemon.eventually(&format!("{:?} are gone", net.client.subflows()), || net.client.paths_of_each().is_empty());
}

#[test]
fn connections_are_managed_on_after_the_daemon_was_killed() {
    sandboxed(|| survive_a_kill(3));
}

#[test]
fn fifty_connections_are_managed_on_after_the_daemon_was_killed() {
    sandboxed(|| survive_a_kill(50));
}

#[test]
fn a_thousand_connections_are_managed_on_after_the_daemon_was_killed() {
    sandboxed(|| survive_a_kill(1000));
}

#[test]
fn ipv6_connections_and_those_between_mapped_sockets_are_managed_on_too() {
    sandboxed(|| {
        let net = net_v6(2);
        let installation = manager(&net, "fullmesh");
        let mut daemon = installation.start(&[]);
        let _crowd = Crowd::gather(&net, service(SERVICE_V6), 2);
        wait_for_paths(&mut daemon, &net.client, 2, &v6(0..2));
        wait_until_saved(&mut daemon, &installation, 2);
        daemon.kill_dash_9();
        let mut daemon = installation.start(&[]);
        add_link(&net, 2);
        wait_for_paths(&mut daemon, &net.client, 2, &v6(0..3));
    });
}

#[test]
fn what_the_peer_forbids_is_not_done_after_a_restart_and_neither_is_what_nobody_knows_to_be_allowed() {
    sandboxed(|| {
        let net = net_v4(1);
        let installation = manager(&net, "fullmesh");
        let mut daemon = installation.start(&[]);
        net.server.set_sysctl("net.mptcp.allow_join_initial_addr_port", "0");
        let _closed = Crowd::gather(&net, service(SERVICE_V4), 1);
        net.server.set_sysctl("net.mptcp.allow_join_initial_addr_port", "1");
        let _open = Crowd::gather(&net, (SERVICE_V4, 5001).into(), 1);
        wait_until_saved(&mut daemon, &installation, 2);
        daemon.kill_dash_9();
        let mut daemon = installation.start(&[]);
        add_link(&net, 1);
        daemon.eventually("the one that may has two paths", || paths(&net, 5001) == v4(0..2));
        assert_eq!(paths(&net, 5000), v4(0..1), "the other has not");
        daemon.kill_dash_9();
        fs::remove_file(installation.state_file("connections")).unwrap();
        let mut daemon = installation.start(&[]);
        add_link(&net, 2);
        let _new = Crowd::gather(&net, (SERVICE_V4, 5002).into(), 1);
        daemon.eventually("a new one has three", || paths(&net, 5002) == v4(0..3));
        daemon.eventually("what was joined was allowed", || paths(&net, 5001) == v4(0..3));
        assert_eq!(paths(&net, 5000), v4(0..1), "the other has what it had");
    });
}

#[test]
fn a_path_manager_that_is_configured_later_manages_the_connections_that_are_there() {
    sandboxed(|| {
        let net = net_v4(2);
        let installation = manager(&net, "addr_adv");
        let mut daemon = installation.start(&[]);
        let from = daemon.said().len();
        let _crowd = Crowd::gather(&net, service(SERVICE_V4), 3);
        let established = |said: &[String]| said.iter().filter(|line| line.contains("connection established")).count();
        // In debug, events are read though nobody needs them.
        while established(daemon.said()) < 3 {
            daemon.wait_line(from, &["connection established"]);
            daemon.listen(PATIENCE);
        }
        installation.configure("[core]\npath-manager = \"fullmesh\"\n");
        daemon.signal(rustix::process::Signal::HUP);
        daemon.wait_line(from, &["configuration read again"]);
        daemon.wait_line(from, &["3 connections with 3 subflows"]);
        // Nobody knows whether their peer allows joins; what is made now is another matter.
        let _new = Crowd::gather(&net, (SERVICE_V4, 5001).into(), 1);
        daemon.eventually("a new one has two", || paths(&net, 5001) == v4(0..2));
        assert_eq!(paths(&net, 5000), [client_v4(0); 3]);
    });
}

#[test]
fn when_events_are_lost_everything_is_read_again_with_one_warning() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = manager(&net, "fullmesh").start(&["--queue=16"]);
        let mut before = Crowd::gather(&net, service(SERVICE_V4), 5);
        let mut leaving = Crowd::gather(&net, (SERVICE_V4, 5001).into(), 5);
        daemon.eventually("ten have two", || paths(&net, 5001).len() + paths(&net, 5000).len() == 20);
        daemon.suspend();
        leaving.leave();
        let _lost = Crowd::gather(&net, (SERVICE_V4, 5002).into(), 100);
        add_link(&net, 2);
        net.client.ip("link set c1 down");
        net.client.kill("sport = :5000 or dport = :5000 and src 10.0.1.1");
        daemon.resume();
        let wanted = [client_v4(0), client_v4(2)];
        daemon.eventually("those of before have a path by each link", || {
            let mut found = paths(&net, 5000);
            found.dedup();
            paths(&net, 5000).len() == 10 && found == wanted
        });
        let _after = Crowd::gather(&net, (SERVICE_V4, 5003).into(), 1);
        daemon.eventually("a new one has both", || paths(&net, 5003) == wanted);
        before.talk();
        let remarks = daemon.remarks();
        let lost = remarks.iter().filter(|line| line.contains("were lost")).count();
        assert_eq!((lost, remarks.len()), (1, 1), "{remarks:?}");
    });
}

/// Chooses another path manager.
fn choose(daemon: &mut Daemon, installation: &Installation, name: &str) {
    let from = daemon.said().len();
    installation.configure(&format!("[core]\npath-manager = \"{name}\"\n"));
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_line(from, &["configuration read again"]);
}

#[test]
fn what_was_known_of_connections_is_known_again_when_they_are_managed_again() {
    sandboxed(|| {
        let net = net_v4(1);
        let installation = manager(&net, "fullmesh");
        let mut daemon = installation.start(&[]);
        let _crowd = Crowd::gather(&net, service(SERVICE_V4), 2);
        wait_for_paths(&mut daemon, &net.client, 2, &v4(0..1));
        choose(&mut daemon, &installation, "addr_adv");
        choose(&mut daemon, &installation, "fullmesh");
        add_link(&net, 1);
        wait_for_paths(&mut daemon, &net.client, 2, &v4(0..2));
    });
}

#[test]
fn a_thousand_reloads_leave_nothing_behind_and_connections_as_they_were() {
    sandboxed(|| {
        let net = net_v4(2);
        let installation = manager(&net, "fullmesh");
        let mut daemon = installation.start(&[]);
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 20);
        wait_for_paths(&mut daemon, &net.client, 20, &v4(0..2));
        let mut reload = |times| {
            for number in 0..times {
                let warm = number % 2 == 0;
                installation.configure(&format!(
                    "[core]\npath-manager = \"{}\"\n[pm.handover]\nwarm = {warm}\n",
                    if warm { "fullmesh" } else { "sspi" }
                ));
                daemon.signal(rustix::process::Signal::HUP);
                daemon.notified("READY=1");
            }
            // The first look at memory makes processes visible here.
            let memory = daemon.private_memory();
            (descriptors(&daemon), memory)
        };
        let (files, memory) = reload(50);
        let (later, more) = reload(1000);
        assert_eq!(files, later, "descriptors");
        assert!(more < memory + 256, "{memory} KiB before, {more} KiB after");
        assert_eq!(net.client.paths_of_each().values().filter(|paths| **paths == v4(0..2)).count(), 20);
        crowd.talk();
    });
}
