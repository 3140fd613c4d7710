//! Rules about interfaces, `[[interface]]`, and those that are built in.

use std::net::SocketAddr;
use std::process::Stdio;

use rustix::process::Signal;

use super::common::daemon::{Daemon, Installation};
use super::common::net::{Endpoint, Namespace, Net, SERVICE_V4};
use super::common::sandbox::sandboxed;
use super::common::traffic::{Server, Transfer};
use super::{address, installed, settle, wait_for_endpoints};

/// Adds a link of this name with an address that it has alone, its far end elsewhere.
fn add_link(net: &Net, name: &str, address: &str) {
    let far = name.replace(|c: char| !c.is_ascii_digit(), "");
    net.client.ip(&format!("link add {name} type veth peer name far{far} netns server"));
    net.client.ip(&format!("link set {name} up"));
    net.server.ip(&format!("link set far{far} up"));
    net.client.ip(&format!("addr add {address}/24 dev {name}"));
}

fn wait_for_flags(daemon: &mut Daemon, client: &Namespace, of: &str, flags: &[&str]) {
    let is_right = |endpoint: Endpoint| endpoint.flags == flags;
    daemon.eventually(&format!("{of} with {flags:?}"), || client.endpoint_of(address(of)).is_some_and(is_right));
}

#[test]
fn an_interface_that_a_rule_excludes_has_no_endpoint_and_the_log_says_by_which_rule() {
    sandboxed(|| {
        let net = Net::v4(3);
        let here = installed(&net.client);
        here.configure("[[interface]]\nmatch = 'x*'\nuse = false\n[[interface]]\nmatch = ['c[0-1]']\nuse = false\n");
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.2.1"]);
        settle(&mut daemon, &net.client, "c2");
        daemon.wait_line(0, &["10.0.1.1", "not used", "rule 2"]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.2.1"]);
    });
}

#[test]
fn a_rule_sees_alternative_names_and_those_that_come_later_too() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.client.ip("link property add dev c0 altname enp0s31f6");
        let here = installed(&net.client);
        here.configure("[[interface]]\nmatch = 'enp*'\nuse = false\n");
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.1.1"]);
        net.client.ip("link property add dev c1 altname enp0s31f7");
        wait_for_endpoints(&mut daemon, &net.client, []);
        net.client.ip("link property del dev c0 altname enp0s31f6");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
    });
}

#[test]
fn a_rule_may_be_for_one_kind_or_family_only() {
    sandboxed(|| {
        let net = Net::v4(1);
        net.client.ip("addr add fd00::1/64 dev c0 nodad");
        let here = installed(&net.client);
        here.configure("[[interface]]\nkind = 'bridge'\nuse = false\n[[interface]]\nfamily = 'ipv6'\nuse = false\n");
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        settle(&mut daemon, &net.client, "c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        here.configure("[[interface]]\nkind = 'veth'\nuse = false\n");
        daemon.signal(Signal::HUP);
        wait_for_endpoints(&mut daemon, &net.client, []);
    });
}

#[test]
fn backup_and_flags_and_announce_hold_for_the_interfaces_that_meet_the_rule() {
    sandboxed(|| {
        let net = Net::v4(4);
        let here = installed(&net.client);
        here.configure(
            "[[interface]]\nmatch = 'c1'\nbackup = true\n[[interface]]\nmatch = 'c2'\nflags = ['signal']\n\
             [[interface]]\nmatch = 'c3'\nannounce = true\n",
        );
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "10.0.2.1", "10.0.3.1"]);
        wait_for_flags(&mut daemon, &net.client, "10.0.0.1", &["subflow"]);
        wait_for_flags(&mut daemon, &net.client, "10.0.1.1", &["backup", "subflow"]);
        wait_for_flags(&mut daemon, &net.client, "10.0.2.1", &["signal"]);
        wait_for_flags(&mut daemon, &net.client, "10.0.3.1", &["signal", "subflow"]);
    });
}

#[test]
fn no_more_endpoints_than_subflows_are_allowed_on_an_interface() {
    sandboxed(|| {
        let net = Net::v4(1);
        net.client.ip("addr add 10.5.0.1/24 dev c0");
        let here = installed(&net.client);
        here.configure("[[interface]]\nmax-subflows = 1\n");
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        net.client.ip("addr del 10.0.0.1/24 dev c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.5.0.1"]);
    });
}

#[test]
fn container_bridges_and_vpns_are_left_out_unless_a_rule_says_otherwise() {
    sandboxed(|| {
        let net = Net::v4(1);
        for (number, name) in ["docker0", "virbr1", "veth2ab", "br-012345678903", "wg4", "tun5"].iter().enumerate() {
            add_link(&net, name, &format!("10.8.{number}.1"));
        }
        net.client.ip("link add br-lan type bridge");
        net.client.ip("link set br-lan up");
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        daemon.wait_line(0, &["10.8.0.1", "docker0", "excluded by name"]);
        daemon.wait_line(0, &["10.8.4.1", "wg4", "kept apart"]);
        settle(&mut daemon, &net.client, "c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        here.configure("[[interface]]\nmatch = 'docker*, wg*'\nuse = true\n");
        daemon.signal(Signal::HUP);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.8.0.1", "10.8.4.1"]);
    });
}

#[test]
fn a_reload_that_turns_a_rule_leaves_other_endpoints_and_their_subflows_alone() {
    sandboxed(|| {
        let net = Net::v4(3);
        net.default_route_v4(0);
        net.default_route_v4(1);
        net.default_route_v4(2);
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "10.0.2.1"]);
        let server = Server::start(&net.server, SocketAddr::new(SERVICE_V4, 5000));
        let transfer = Transfer::start(&net.client, server.address(), 1_000_000);
        daemon.eventually("three subflows", || net.client.paths().len() == 3);
        let kept = || {
            let mut kept = net.client.subflows();
            kept.retain(|subflow| subflow.local.ip() != address("10.0.2.1"));
            Vec::from_iter(kept.into_iter().map(|subflow| (subflow.local, subflow.remote)))
        };
        let ids = || ["10.0.0.1", "10.0.1.1"].map(|of| net.client.endpoint_of(address(of)).map(|endpoint| endpoint.id));
        let before = (kept(), ids());
        assert_eq!(before.0.len(), 2);
        here.configure("[[interface]]\nmatch = 'c2'\nuse = false\n[[interface]]\nmatch = 'c1'\nbackup = true\n");
        daemon.signal(Signal::HUP);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        wait_for_flags(&mut daemon, &net.client, "10.0.1.1", &["backup", "subflow"]);
        server.wait_for_more(100_000);
        assert_eq!((kept(), ids()), before);
        here.configure("");
        daemon.signal(Signal::HUP);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "10.0.2.1"]);
        wait_for_flags(&mut daemon, &net.client, "10.0.1.1", &["subflow"]);
        assert_eq!((kept(), ids()), before);
        transfer.finish().unwrap();
    });
}

#[test]
fn while_a_vpn_leads_to_the_internet_no_connection_gets_a_path_beside_it() {
    sandboxed(|| {
        let net = Net::v4(2);
        net.default_route_v4(0);
        net.default_route_v4(1);
        add_link(&net, "wg2", "10.8.2.1");
        net.server.ip("addr add 10.8.2.2/24 dev far2");
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        for half in ["0.0.0.0/1", "128.0.0.0/1"] {
            net.client.ip(&format!("route add {half} via 10.8.2.2 dev wg2"));
        }
        wait_for_endpoints(&mut daemon, &net.client, []);
        daemon.wait_line(0, &["WARN", "wg2 is a VPN"]);
        let server = Server::start(&net.server, SocketAddr::new(SERVICE_V4, 5000));
        let transfer = Transfer::start(&net.client, server.address(), 1_000_000);
        server.wait_for_more(100_000);
        assert_eq!(net.client.paths(), [address("10.8.2.1")]);
        transfer.finish().unwrap();
        net.client.ip("route del 128.0.0.0/1 dev wg2");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        net.client.ip("route add 128.0.0.0/1 via 10.8.2.2 dev wg2");
        wait_for_endpoints(&mut daemon, &net.client, []);
        here.configure("[[interface]]\nmatch = 'wg2'\nuse = true\n");
        daemon.signal(Signal::HUP);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1", "10.8.2.1"]);
        here.configure("[[interface]]\nmatch = 'wg2'\nuse = false\n");
        daemon.signal(Signal::HUP);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
    });
}

#[test]
fn a_daemon_that_starts_while_a_vpn_leads_to_the_internet_makes_no_endpoint_even_for_a_moment() {
    sandboxed(|| {
        let net = Net::v4(1);
        add_link(&net, "tun2", "10.8.2.1");
        net.client.ip("route add default dev tun2");
        let mut daemon = installed(&net.client).start(&[]);
        daemon.wait_line(0, &["WARN", "tun2 is a VPN"]);
        let from = daemon.said().len();
        net.client.ip("route del default dev tun2");
        daemon.wait_line(from, &["add endpoint 10.0.0.1"]);
        assert!(!daemon.said()[..from].iter().any(|line| line.contains("add endpoint")), "{:?}", daemon.said());
    });
}

#[test]
fn a_vpn_that_goes_takes_along_what_kept_the_endpoints_away() {
    sandboxed(|| {
        let net = Net::v4(1);
        let mut daemon = installed(&net.client).start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        for last in ["link set wg2 down", "link del wg2"] {
            add_link(&net, "wg2", "10.8.2.1");
            net.client.ip("route add default dev wg2");
            wait_for_endpoints(&mut daemon, &net.client, []);
            net.client.ip(last);
            wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
            let _ = net.client.try_run("ip", "link del wg2");
        }
    });
}

/// What the program prints with these arguments, each line in words.
fn printed(here: &Installation, namespace: &Namespace, arguments: &[&str]) -> Vec<String> {
    let mut command = here.command(arguments);
    let output = namespace.enter(|| command.stdout(Stdio::piped()).output()).unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn what_becomes_of_every_interface_is_listed_with_the_rule_and_the_reason() {
    sandboxed(|| {
        let net = Net::v4(4);
        add_link(&net, "docker5", "10.8.0.1");
        add_link(&net, "wg6", "10.8.1.1");
        net.client.ip("link add bare0 type bridge");
        net.client.ip("link add virbr0 type bridge");
        net.client.ip("link set c2 down");
        for interface in ["lo", "c0", "c1", "c3", "docker5", "wg6"] {
            net.client.ip(&format!("-6 addr flush dev {interface}"));
        }
        let here = installed(&net.client);
        here.configure(
            "[[interface]]\nmatch = 'c1'\nbackup = true\norder = 7\nmax-subflows = 2\nannounce = false\n\
             [[interface]]\nmatch = 'c3'\nuse = false\n",
        );
        let place = |line| format!("({}:{line}:1)", here.configuration().display());
        let backup =
            format!("rule 1 {} used, flags subflow,backup, order 7, at most 2 subflows, not announced", place(1));
        let overrides = "(built in, a rule with `use = true` overrides it)";
        let excluded = format!("built in not used: its interface is excluded by name {overrides}");
        let expected = [
            "lo 127.0.0.1 built in not used: it belongs to the loopback interface".to_owned(),
            "c0 10.0.0.1 no rule used, flags subflow".to_owned(),
            format!("c1 10.0.1.1 {backup}"),
            "c2 10.0.2.1 no rule not used: its interface is down".to_owned(),
            format!("c3 10.0.3.1 rule 2 {} not used: rule 2 excludes its interface", place(7)),
            format!("docker5 10.8.0.1 {excluded}"),
            "wg6 10.8.1.1 built in not used: its interface is kept apart, as VPNs are (a rule with `use = true` \
             overrides it)"
                .to_owned(),
            "bare0 - no rule not used: it has no address".to_owned(),
            format!("virbr0 - {excluded}"),
        ];
        assert_eq!(printed(&here, &net.client, &["--list-interfaces"]), expected);
        let checked = printed(&here, &net.client, &["--check-config", "--list-interfaces"]);
        assert!(checked.ends_with(&expected.map(|line| format!("# {line}"))), "{checked:?}");
        assert!(checked.contains(&"[[interface]]".to_owned()), "{checked:?}");
        here.configure(&checked.join("\n"));
        let again = printed(&here, &net.client, &["--check-config"]);
        let meaning = |lines: &[String]| {
            Vec::from_iter(lines.iter().filter(|line| !line.is_empty() && !line.starts_with('#')).cloned())
        };
        assert_eq!(meaning(&again), meaning(&checked));
    });
}

#[test]
fn to_list_interfaces_needs_no_privilege_and_no_daemon_stands_in_its_way() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
        let mut command = here.command_without_capabilities();
        command.arg("--list-interfaces");
        let ended = here.run(command);
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(ended.said, [""; 0]);
        settle(&mut daemon, &net.client, "c0");
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1"]);
    });
}
