//! What others have put into the kernel's path manager: their endpoints and limits.

use rustix::process::Signal;

use super::common::daemon::Daemon;
use super::common::net::{Limits, Net};
use super::common::sandbox::sandboxed;
use super::{address, installed, set, settle, wait_for_endpoints};

#[test]
fn an_administrators_endpoint_survives_start_work_and_stop() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.client.ip("mptcp endpoint add 10.77.0.1 id 77 signal");
        let theirs = net.client.endpoint_of(address("10.77.0.1"));
        for on_stop in ["--on-stop=keep", "--on-stop=remove"] {
            let mut daemon = installed(&net.client).start(&[on_stop]);
            wait_for_endpoints(&mut daemon, &net.client, ["10.77.0.1", "10.0.0.1", "10.0.1.1"]);
            net.client.ip("link set c1 down");
            wait_for_endpoints(&mut daemon, &net.client, ["10.77.0.1", "10.0.0.1"]);
            assert_eq!(net.client.endpoint_of(address("10.77.0.1")), theirs);
            net.client.ip("link set c1 up");
            wait_for_endpoints(&mut daemon, &net.client, ["10.77.0.1", "10.0.0.1", "10.0.1.1"]);
            daemon.stop();
            assert_eq!(net.client.endpoint_of(address("10.77.0.1")), theirs);
        }
        assert_eq!(net.client.endpoint_addresses(), set(["10.77.0.1"]));
    });
}

#[test]
fn an_endpoint_that_another_made_for_a_local_address_is_neither_changed_nor_deleted() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.client.ip("mptcp endpoint add 10.0.1.1 id 77 signal backup dev c1");
        let theirs = net.client.endpoint_of(address("10.0.1.1"));
        let mut daemon = installed(&net.client).start(&["--on-stop=remove"]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        assert_eq!(net.client.endpoint_of(address("10.0.1.1")), theirs);
        net.client.ip("link set c1 down");
        settle(&mut daemon, &net.client, "c0");
        net.client.ip("link set c1 up");
        settle(&mut daemon, &net.client, "c1");
        net.client.ip("addr del 10.0.1.1/24 dev c1");
        settle(&mut daemon, &net.client, "c1");
        assert_eq!(net.client.endpoint_of(address("10.0.1.1")), theirs);
        daemon.stop();
        assert_eq!(net.client.endpoint_of(address("10.0.1.1")), theirs);
    });
}

#[test]
fn an_endpoint_made_while_the_daemon_runs_is_left_alone() {
    sandboxed(|| {
        let net = Net::v4(1);
        let mut daemon = installed(&net.client).start(&["--on-stop=remove"]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        net.client.ip("mptcp endpoint add 10.77.0.1 signal");
        let theirs = net.client.endpoint_of(address("10.77.0.1"));
        net.client.ip("addr add 10.5.0.1/24 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.5.0.1", "10.77.0.1"]);
        daemon.stop();
        assert_eq!(net.client.endpoints(), Vec::from_iter(theirs));
    });
}

#[test]
fn an_endpoint_that_took_the_id_of_an_own_one_is_left_alone() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        let replace = |with: &str| {
            let own = net.client.endpoint_of(address("10.0.0.1")).unwrap();
            net.client.ip(&format!("mptcp endpoint delete id {}", own.id));
            net.client.ip(&format!("mptcp endpoint add {with} id {} signal", own.id));
        };
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        settle(&mut daemon, &net.client, "c0");
        daemon.kill_dash_9();
        replace("10.77.0.1");
        let mut daemon = here.start(&["--on-stop=remove"]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.77.0.1", "10.0.0.1"]);
        replace("10.77.0.2");
        daemon.stop();
        assert_eq!(net.client.endpoint_addresses(), set(["10.77.0.1", "10.77.0.2"]));
    });
}

#[test]
fn higher_limits_are_never_lowered() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.client.ip("mptcp limits set subflows 7 add_addr_accepted 6");
        let theirs = net.client.limits();
        for on_stop in ["--on-stop=keep", "--on-stop=remove"] {
            let mut daemon = installed(&net.client).start(&[on_stop]);
            wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
            settle(&mut daemon, &net.client, "c0");
            assert_eq!(net.client.limits(), theirs);
            daemon.stop();
            assert_eq!(net.client.limits(), theirs);
        }
    });
}

#[test]
fn limits_are_raised_to_what_the_endpoints_need_and_put_back_if_asked_for() {
    sandboxed(|| {
        let net = Net::v4(4);
        let before = net.client.limits();
        let mut daemon = installed(&net.client).start(&["--on-stop=remove"]);
        daemon.eventually("a subflow for every endpoint", || net.client.limits().subflows >= 3);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "10.0.2.1", "10.0.3.1"]);
        daemon.stop();
        assert_eq!(net.client.limits(), before);
        assert_eq!(net.client.endpoints(), []);
    });
}

#[test]
fn limits_that_somebody_changed_meanwhile_are_not_put_back() {
    sandboxed(|| {
        let net = Net::v4(4);
        let mut daemon = installed(&net.client).start(&["--on-stop=remove"]);
        daemon.eventually("a subflow for every endpoint", || net.client.limits().subflows >= 3);
        net.client.ip("mptcp limits set subflows 8 add_addr_accepted 5");
        settle(&mut daemon, &net.client, "c0");
        daemon.stop();
        assert_eq!(net.client.limits(), Limits { subflows: 8, add_addr_accepted: 5 });
    });
}

#[test]
fn no_announcement_is_accepted_for_endpoints_without_the_flag_subflow() {
    sandboxed(|| {
        let net = Net::v4(2);
        let before = net.client.limits().add_addr_accepted;
        let mut daemon = installed(&net.client).start(&["--addr-flags=signal"]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        settle(&mut daemon, &net.client, "c0");
        assert_eq!(net.client.limits().add_addr_accepted, before);
        assert_eq!(net.client.endpoint_of(address("10.0.0.1")).unwrap().flags, ["signal"]);
    });
}

#[test]
fn another_that_makes_endpoints_for_addresses_of_the_host_is_told_once() {
    sandboxed(|| {
        let net = Net::v4(3);
        net.client.ip("mptcp endpoint add 10.0.2.1 id 78 subflow dev c2");
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "10.0.2.1"]);
        let replace = |daemon: &mut Daemon, with: &str| {
            let own = net.client.endpoint_of(address("10.0.1.1")).unwrap();
            net.client.ip(&format!("mptcp endpoint delete id {}", own.id));
            net.client.ip(&format!("mptcp endpoint add {with}"));
            daemon.signal(Signal::CONT);
        };
        replace(&mut daemon, "10.77.0.1 id 77 signal");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "10.0.2.1", "10.77.0.1"]);
        let told =
            |daemon: &mut Daemon| daemon.said().iter().filter(|line| line.contains("another manager makes")).count();
        assert_eq!(told(&mut daemon), 0, "neither what was there before nor what is not of this host");
        replace(&mut daemon, "10.0.1.1 id 79 signal dev c1");
        let line = daemon.wait_line(0, &["another manager makes", "10.0.1.1 id 79"]);
        assert!(line.contains("WARN") && line.contains("mptcp-flags"), "{line}");
        replace(&mut daemon, "10.0.1.1 id 80 signal dev c1");
        daemon.wait_line(0, &["endpoint of another manager", "id 80"]);
        settle(&mut daemon, &net.client, "c0");
        assert_eq!(told(&mut daemon), 1, "{:?}", daemon.said());
    });
}
