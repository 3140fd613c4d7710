//! The service manager is told the truth, and a socket that is of no use any more is replaced.

use std::net::SocketAddr;

use rustix::process::Signal;

use super::common::daemon::Daemon;
use super::common::descriptors::{Copied, Kind};
use super::common::manager::FdStore;
use super::common::net::{Net, SERVICE_V4, client_v4, server_v4};
use super::common::sandbox::sandboxed;
use super::common::traffic::{Server, Transfer};
use super::{installed, wait_for_endpoints};

const CONNECTIONS: &str = "--path-manager=sspi";
const FED_OFTEN: (&str, &str) = ("WATCHDOG_USEC", "2000000");
const SECOND_ADDRESS: &str = "addr add 10.5.0.1/24 dev c0";

/// Waits for a notification that contains these words.
fn wait_for_status(daemon: &mut Daemon, words: &str) {
    daemon.notified_of(|line| line.starts_with("STATUS=") && line.contains(words), words);
}

#[test]
fn the_service_manager_hears_of_every_state_and_of_the_figures() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        wait_for_status(&mut daemon, "STATUS=usable addresses: 1, endpoints: 1");
        net.client.ip(SECOND_ADDRESS);
        wait_for_status(&mut daemon, "STATUS=usable addresses: 2, endpoints: 2");
        for configuration in ["", "[core]\nlog = \"nowhere\"\n"] {
            here.configure(configuration);
            daemon.signal(Signal::HUP);
            let time = daemon.notified_of(|line| line.starts_with("MONOTONIC_USEC="), "when it reloads");
            assert!(time.trim_start_matches("MONOTONIC_USEC=").parse::<u64>().is_ok(), "{time}");
            daemon.notified("READY=1");
        }
        daemon.signal(Signal::TERM);
        daemon.notified("STOPPING=1");
        assert!(daemon.ends().success());
    });
}

/// Waits until the daemon says that it opened a socket again, and that it is fine with all.
fn wait_until_mended(daemon: &mut Daemon, from: usize, why: &str) {
    daemon.wait_line(from, &["WARN", "failed and is opened anew", why]);
    daemon.wait_line(from, &["INFO", "is open again"]);
    daemon.notifications();
    daemon.notified("WATCHDOG=1");
}

#[test]
fn a_socket_that_refuses_or_does_not_answer_is_replaced_and_nothing_is_missed() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client).with_variable(FED_OFTEN.0, FED_OFTEN.1);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        for kind in [Kind::Answers, Kind::Network] {
            for mute in [false, true] {
                let (from, copy) = (daemon.said().len(), Copied::of(daemon.pid(), kind));
                let end = mute.then(|| copy.make_mute(&net.client, kind));
                end.is_none().then(|| copy.lead_nowhere());
                net.client.ip(SECOND_ADDRESS);
                let why = if mute { "does not answer" } else { "refused" };
                wait_until_mended(&mut daemon, from, why);
                wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.5.0.1"]);
                net.client.ip("addr del 10.5.0.1/24 dev c0");
                wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
            }
        }
        daemon.stop();
    });
}

#[test]
fn a_socket_that_hears_nothing_any_more_is_replaced_and_what_it_missed_is_read() {
    sandboxed(|| {
        let net = Net::v4(1);
        let mut daemon = installed(&net.client).with_variable(FED_OFTEN.0, FED_OFTEN.1).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        let from = daemon.said().len();
        Copied::of(daemon.pid(), Kind::Network).leave_groups();
        net.client.ip(SECOND_ADDRESS);
        wait_until_mended(&mut daemon, from, "out of its groups");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.5.0.1"]);
        daemon.stop();
    });
}

#[test]
fn a_daemon_that_cannot_talk_to_the_kernel_ends_with_an_error() {
    sandboxed(|| {
        let net = Net::v4(1);
        let mut daemon = installed(&net.client).with_variable(FED_OFTEN.0, FED_OFTEN.1).start(&[]);
        for _ in 1..5 {
            let from = daemon.said().len();
            Copied::of(daemon.pid(), Kind::Answers).lead_nowhere();
            daemon.wait_line(from, &["generic netlink socket is open again"]);
        }
        Copied::of(daemon.pid(), Kind::Answers).lead_nowhere();
        daemon.wait_line(0, &["mptcpd: generic netlink socket keeps failing: connection refused"]);
        assert_eq!(daemon.ends().code(), Some(1));
        assert_eq!(net.client.endpoints().len(), 1, "connections notice nothing");
    });
}

/// What a build without path managers for connections has no part in.
mod of_connections {
    use super::*;

    #[test]
    fn a_socket_of_events_that_is_replaced_hears_of_connections_and_is_the_one_that_is_kept() {
        sandboxed(|| {
            let (net, store) = (Net::v4(2), FdStore::default());
            (0..2).for_each(|link| net.default_route_v4(link));
            let here = installed(&net.client).with_variable(FED_OFTEN.0, FED_OFTEN.1).with_store(&store);
            let mut daemon = here.start(&[CONNECTIONS]);
            daemon.notified("WATCHDOG=1");
            for round in 0..3 {
                let (from, copy) = (daemon.said().len(), Copied::of(daemon.pid(), Kind::Events));
                let end = (round == 0).then(|| copy.make_mute(&net.client, Kind::Events));
                match round {
                    0 => wait_until_mended(&mut daemon, from, "does not answer"),
                    1 => {
                        copy.lead_nowhere();
                        wait_until_mended(&mut daemon, from, "refused");
                    }
                    _ => {
                        copy.leave_groups();
                        wait_until_mended(&mut daemon, from, "out of its groups");
                    }
                }
                drop(end);
                assert_eq!(store.names().len(), 1, "{:?}", store.names());
                assert!(store.keeps(Copied::of(daemon.pid(), Kind::Events).socket()));
                let server = Server::start(&net.server, SocketAddr::new(SERVICE_V4, 5000 + round));
                let transfer = Transfer::start(&net.client, server.address(), 1_000_000);
                daemon.eventually("two subflows", || net.client.paths() == [client_v4(0), client_v4(1)]);
                transfer.finish().unwrap();
            }
            daemon.stop();
            let mut next = here.start(&[CONNECTIONS]);
            next.wait_line(0, &["taken back", "events: true"]);
            next.notified("WATCHDOG=1");
            assert_eq!(next.remarks(), [""; 0]);
        });
    }

    #[test]
    fn the_socket_for_questions_about_sockets_is_replaced_too() {
        sandboxed(|| {
            let net = Net::v4(2);
            (0..2).for_each(|link| net.default_route_v4(link));
            let here = installed(&net.server).with_variable(FED_OFTEN.0, FED_OFTEN.1);
            let mut daemon = here.start(&[CONNECTIONS]);
            daemon.notified("WATCHDOG=1");
            for mute in [false, true] {
                let (from, copy) = (daemon.said().len(), Copied::of(daemon.pid(), Kind::Questions));
                let end = mute.then(|| copy.make_mute(&net.server, Kind::Questions));
                end.is_none().then(|| copy.lead_nowhere());
                wait_until_mended(&mut daemon, from, if mute { "does not answer" } else { "refused" });
                daemon.wait_line(from, &["list ipv6 listeners"]);
            }
            // That nobody listens on the announced address is found out through it.
            let application = Server::start(&net.server, SocketAddr::new(server_v4(0), 5000));
            let transfer = Transfer::start(&net.client, application.address(), 1_000_000);
            daemon.wait_line(0, &["listening on 10.0.1.2"]);
            transfer.finish().unwrap();
        });
    }

    #[test]
    fn the_status_counts_connections_and_subflows() {
        sandboxed(|| {
            let net = Net::v4(2);
            (0..2).for_each(|link| net.default_route_v4(link));
            let mut daemon = installed(&net.client).start(&[CONNECTIONS]);
            let server = Server::start(&net.server, SocketAddr::new(SERVICE_V4, 5000));
            let transfer = Transfer::start(&net.client, server.address(), 1_000_000);
            wait_for_status(&mut daemon, "connections: 1, subflows: 2, usable addresses: 2");
            transfer.finish().unwrap();
            wait_for_status(&mut daemon, "connections: 0, subflows: 0,");
        });
    }

    #[test]
    fn the_watchdog_is_fed_by_whoever_it_asks_to() {
        sandboxed(|| {
            let net = Net::v4(1);
            let mut daemon = installed(&net.client).with_variable(FED_OFTEN.0, FED_OFTEN.1).start(&[CONNECTIONS]);
            (0..3).for_each(|_| daemon.notified("WATCHDOG=1"));
            daemon.stop();
            // It is for another process.
            let other =
                installed(&net.client).with_variable(FED_OFTEN.0, FED_OFTEN.1).with_variable("WATCHDOG_PID", "1");
            let mut daemon = other.start(&[]);
            net.client.ip(SECOND_ADDRESS);
            wait_for_status(&mut daemon, "endpoints: 2");
            net.client.ip("addr del 10.5.0.1/24 dev c0");
            let mut last = String::new();
            while !last.ends_with("endpoints: 1") {
                last = daemon.notified_of(|_| true, "anything");
                assert_ne!(last, "WATCHDOG=1");
            }
        });
    }
}
