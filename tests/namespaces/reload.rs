//! SIGHUP: a new configuration is applied, or refused, without touching what stays wanted.

use std::net::SocketAddr;

use rustix::process::Signal;

use super::common::daemon::Daemon;
use super::common::net::{Endpoint, Net, SERVICE_V4};
use super::common::sandbox::sandboxed;
use super::common::traffic::{Server, Transfer};
use super::{installed, settle, wait_for_endpoints};

const BACKUP: &str = "[core]\naddr-flags = [\"subflow\", \"backup\"]\n";

/// Waits until every endpoint has exactly these flags.
fn wait_for_flags(daemon: &mut Daemon, net: &Net, flags: &[&str]) {
    let right = |endpoint: &Endpoint| endpoint.flags == flags;
    daemon.eventually(&format!("endpoints with {flags:?}"), || net.client.endpoints().iter().all(right));
}

fn without_flags(endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    endpoints.into_iter().map(|endpoint| Endpoint { flags: Vec::new(), ..endpoint }).collect()
}

#[test]
fn new_flags_are_set_on_the_endpoints_there_are_and_their_subflows_stay() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.default_route_v4(0);
        net.default_route_v4(1);
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        let server = Server::start(&net.server, SocketAddr::new(SERVICE_V4, 5000));
        let transfer = Transfer::start(&net.client, server.address(), 1_000_000);
        daemon.eventually("two subflows", || net.client.paths().len() == 2);
        let subflows = || Vec::from_iter(net.client.subflows().into_iter().map(|subflow| subflow.local));
        let before = (without_flags(net.client.endpoints()), subflows());
        for (text, flags) in [(BACKUP, ["backup", "subflow"].as_slice()), ("", &["subflow"])] {
            here.configure(text);
            daemon.signal(Signal::HUP);
            wait_for_flags(&mut daemon, &net, flags);
            server.wait_for_more(100_000);
            assert_eq!((without_flags(net.client.endpoints()), subflows()), before);
        }
        transfer.finish().unwrap();
    });
}

#[test]
fn an_invalid_configuration_is_refused_and_the_old_one_stays_in_force() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        here.configure(BACKUP);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        let endpoints = net.client.endpoints();
        let from = daemon.said().len();
        here.configure("[core]\naddr-flags = [\"subflow\", \"bakcup\"]\n");
        daemon.signal(Signal::HUP);
        daemon.wait_line(from, &["mptcpd.conf:2:", "bakcup"]);
        settle(&mut daemon, &net.client, "c0");
        assert_eq!(net.client.endpoints(), endpoints);
        net.client.ip("addr add 10.5.0.1/24 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.5.0.1"]);
        wait_for_flags(&mut daemon, &net, &["backup", "subflow"]);
        here.configure("");
        daemon.signal(Signal::HUP);
        wait_for_flags(&mut daemon, &net, &["subflow"]);
    });
}

#[test]
fn the_command_line_overrides_a_reloaded_file_too() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        let mut daemon = here.start(&["--addr-flags=subflow"]);
        here.configure("[core]\naddr-flags = [\"subflow\", \"backup\"]\nnotify-flags = [\"existing\"]\n");
        daemon.signal(Signal::HUP);
        // Link-local addresses are wanted now: the file has been read.
        daemon.eventually("more endpoints", || net.client.endpoints().len() > 1);
        wait_for_flags(&mut daemon, &net, &["subflow"]);
    });
}

#[test]
fn many_reloads_at_once_do_no_harm() {
    sandboxed(|| {
        let net = Net::v4(2);
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        let endpoints = net.client.endpoints();
        for _ in 0..100 {
            daemon.signal(Signal::HUP);
        }
        settle(&mut daemon, &net.client, "c0");
        assert_eq!(net.client.endpoints(), endpoints);
        daemon.stop();
    });
}
