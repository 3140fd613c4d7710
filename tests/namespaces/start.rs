//! Starts that must fail: with one line that says why, and the right exit code.

use std::process::Stdio;

use super::common::daemon::Ended;
use super::common::net::Net;
use super::common::sandbox::sandboxed;
use super::{installed, wait_for_endpoints};

/// Checks the exit code, and that the one line said contains all these words; after a usage error
/// another line points to `--help`.
fn check(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(code), "{ended:?}");
    let hint = ended.said.get(1).is_some_and(|line| code == 64 && line.contains("--help"));
    assert_eq!(ended.said.len(), if hint { 2 } else { 1 }, "{ended:?}");
    for word in words {
        assert!(ended.said[0].contains(word), "no {word:?} in {ended:?}");
    }
}

#[test]
fn without_the_capability_the_exit_code_is_77() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        check(&here.run(here.command_without_capabilities()), 77, &["CAP_NET_ADMIN"]);
        assert_eq!(net.client.endpoints(), []);
    });
}

#[test]
fn with_mptcp_off_the_exit_code_is_69_and_the_sysctl_is_named() {
    sandboxed(|| {
        let net = Net::v4(1);
        net.client.set_sysctl("net.mptcp.enabled", "0");
        let here = installed(&net.client);
        check(&here.run(here.command(&[])), 69, &["net.mptcp.enabled"]);
        assert_eq!(net.client.endpoints(), []);
    });
}

#[test]
fn with_a_broken_configuration_the_exit_code_is_78_and_the_place_is_named() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        for (text, place) in [
            ("[core]\n\nlog = \"stderr\n", ":3:"),
            ("[core]\nlgo = \"stderr\"\n", ":2:"),
            ("[core]\naddr-flags = [\"subflow\", \"bakcup\"]\n", ":2:"),
        ] {
            here.configure(text);
            let place = format!("{}{place}", here.configuration().display());
            check(&here.run(here.command(&[])), 78, &[&place]);
        }
        assert_eq!(net.client.endpoints(), []);
    });
}

#[test]
fn with_an_unknown_plugin_the_exit_code_is_64_and_the_nearest_is_named() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        check(&here.run(here.command(&["--path-manager=adr_adv"])), 64, &["adr_adv", "addr_adv"]);
        check(&here.run(here.command(&["--load-plugins=adr_adv"])), 64, &["adr_adv", "addr_adv"]);
        assert_eq!(net.client.endpoints(), []);
    });
}

#[test]
fn a_second_instance_ends_at_once_and_names_the_first() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        check(&here.run(here.command(&["--on-stop=remove"])), 1, &[&daemon.pid().to_string()]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        net.client.ip("addr add 10.5.0.1/24 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.5.0.1"]);
    });
}

#[test]
fn another_network_namespace_may_have_its_own_instance() {
    sandboxed(|| {
        let net = Net::v4(1);
        let mut one = installed(&net.client).start(&[]);
        let mut other = installed(&net.server).start(&[]);
        wait_for_endpoints(&mut one, &net.client, ["10.0.0.1"]);
        wait_for_endpoints(&mut other, &net.server, ["10.0.0.2", "fd00::2"]);
        other.stop();
        one.stop();
    });
}

#[test]
fn a_path_manager_of_the_kernel_that_does_not_suit_is_a_warning_with_the_sysctl() {
    sandboxed(|| {
        let net = Net::v4(1);
        net.client.set_sysctl("net.mptcp.pm_type", "1");
        let mut daemon = installed(&net.client).start(&[]);
        daemon.wait_line(0, &["net.mptcp."]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
    });
}

#[test]
fn every_path_manager_that_is_compiled_in_starts_and_selects_what_it_needs() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        let mut command = here.command(&["--list-plugins"]);
        let listed = command.stdout(Stdio::piped()).output().expect("the daemon's program");
        let listed = String::from_utf8(listed.stdout).expect("text");
        assert!(!listed.is_empty());
        for line in listed.lines() {
            let (name, rest) = line.split_once(' ').expect("a name and what it manages");
            let wanted = rest.trim_start().starts_with("connections");
            let mut daemon = here.start(&[&format!("--path-manager={name}")]);
            assert_eq!(net.client.has_user_space_path_management(), wanted, "{name}");
            assert_eq!(daemon.remarks(), [""; 0], "{name}");
            daemon.stop();
        }
        // Whatever is the default where the usual one is not compiled in.
        here.start(&[]).stop();
    });
}
