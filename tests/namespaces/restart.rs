//! Stopped, killed, suspended and started again: what the daemon still knows, and who notices.

use std::net::SocketAddr;

use rustix::process::Signal;

use super::common::net::{Net, SERVICE_V4};
use super::common::sandbox::sandboxed;
use super::common::traffic::{Server, Transfer};
use super::{address, installed, settle, wait_for_endpoints};

#[test]
fn after_a_kill_the_next_start_removes_what_became_stale_and_keeps_the_rest() {
    sandboxed(|| {
        let net = Net::v4(3);
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "10.0.2.1"]);
        settle(&mut daemon, &net.client, "c0");
        let kept = net.client.endpoint_of(address("10.0.0.1"));
        daemon.kill_dash_9();
        net.client.ip("addr del 10.0.1.1/24 dev c1");
        net.client.ip("mptcp endpoint add 10.77.0.1 signal");
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.2.1", "10.77.0.1"]);
        assert_eq!(net.client.endpoint_of(address("10.0.0.1")), kept);
    });
}

#[test]
fn an_endpoint_made_a_moment_before_a_kill_is_remembered() {
    sandboxed(|| {
        let net = Net::bare(1);
        let here = installed(&net.client);
        for host in 1..=5 {
            let mut daemon = here.start(&[]);
            let new = format!("10.0.0.{host}");
            net.client.ip(&format!("addr add {new}/32 dev c0"));
            wait_for_endpoints(&mut daemon, &net.client, [new.as_str()]);
            // What is remembered is written behind the command, so that it costs no time before it.
            settle(&mut daemon, &net.client, "c0");
            daemon.kill_dash_9();
            net.client.ip(&format!("addr del {new}/32 dev c0"));
            let mut daemon = here.start(&[]);
            wait_for_endpoints(&mut daemon, &net.client, []);
            daemon.stop();
        }
    });
}

#[test]
fn stopped_and_started_again_the_daemon_knows_which_endpoints_are_its_own() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.client.ip("mptcp endpoint add 10.77.0.1 signal");
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "10.77.0.1"]);
        let endpoints = net.client.endpoints();
        for _ in 0..2 {
            daemon.stop();
            assert_eq!(net.client.endpoints(), endpoints);
            daemon = here.start(&[]);
            settle(&mut daemon, &net.client, "c0");
            assert_eq!(net.client.endpoints(), endpoints);
        }
        net.client.ip("addr del 10.0.1.1/24 dev c1");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.77.0.1"]);
        daemon.stop();
        let daemon = here.start(&["--on-stop=remove"]);
        daemon.stop();
        assert_eq!(net.client.endpoint_addresses(), super::set(["10.77.0.1"]));
    });
}

#[test]
fn a_running_transfer_does_not_notice_stop_and_start() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.default_route_v4(0);
        net.default_route_v4(1);
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        let server = Server::start(&net.server, SocketAddr::new(SERVICE_V4, 5000));
        let transfer = Transfer::start(&net.client, server.address(), 2_000_000);
        daemon.eventually("two subflows", || net.client.paths().len() == 2);
        let names = || net.client.subflows().into_iter().map(|subflow| (subflow.local, subflow.established));
        let (subflows, endpoints) = (Vec::from_iter(names()), net.client.endpoints());
        for _ in 0..2 {
            daemon.stop();
            server.wait_for_more(200_000);
            daemon = here.start(&[]);
            settle(&mut daemon, &net.client, "c0");
            server.wait_for_more(200_000);
            assert_eq!(Vec::from_iter(names()), subflows);
            assert_eq!(net.client.endpoints(), endpoints);
        }
        transfer.finish().unwrap();
    });
}

#[test]
fn sigint_stops_the_daemon_as_sigterm_does() {
    sandboxed(|| {
        let net = Net::v4(2);
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        daemon.stop_by(Signal::INT);
        assert_eq!(net.client.endpoint_addresses(), super::set(["10.0.0.1", "10.0.1.1"]));
    });
}

#[test]
fn after_a_suspension_everything_is_right_again() {
    sandboxed(|| {
        let net = Net::v4(3);
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "10.0.2.1"]);
        daemon.suspend();
        net.client.ip("addr del 10.0.0.1/24 dev c0");
        net.client.ip("addr add 10.5.0.1/24 dev c0");
        net.client.ip("link set c1 down");
        net.client.ip("link del c2");
        daemon.resume();
        wait_for_endpoints(&mut daemon, &net.client, ["10.5.0.1"]);
        net.client.ip("link set c1 up");
        wait_for_endpoints(&mut daemon, &net.client, ["10.5.0.1", "10.0.1.1"]);
    });
}

#[test]
fn endpoints_that_somebody_flushed_come_back() {
    sandboxed(|| {
        let net = Net::v4(2);
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        daemon.suspend();
        net.client.ip("mptcp endpoint flush");
        daemon.resume();
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
    });
}

#[test]
fn on_stop_remove_takes_only_own_endpoints_away() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.client.ip("mptcp endpoint add 10.77.0.1 signal");
        let here = installed(&net.client);
        here.configure("[core]\non-stop = \"remove\"\n");
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "10.77.0.1"]);
        daemon.stop();
        assert_eq!(net.client.endpoint_addresses(), super::set(["10.77.0.1"]));
    });
}
