//! Rules about interfaces, on connections that are there: what they say holds, and what a reload makes of
//! them too.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::super::common::crowd::{Crowd, Dialogue};
use super::super::common::daemon::{Daemon, Installation};
use super::super::common::net::{Net, Router, SERVICE_V4, client_v4};
use super::super::common::sandbox::{measured, sandboxed};
use super::super::{address, installed};
use super::{joins, net_v4, service, start_managing, take, v4, wait_for_paths};

/// Of a dialogue, bytes to and fro.
pub(super) const MESSAGE: usize = 100_000;
/// Rounds of it that show where data goes.
const ROUNDS: usize = 30;
/// What may go where no data does, bytes: acknowledgements.
const NO_DATA: u64 = (ROUNDS * MESSAGE / 20) as u64;
/// Within which a reload has to take effect, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// A daemon at the client, with rules that can be changed while it runs.
pub(super) struct Ruled {
    here: Installation,
    pub(super) daemon: Daemon,
}

impl Ruled {
    pub(super) fn start(net: &Net, path_manager: &str, rules: &str) -> Self {
        net.client.choose_user_space_path_management();
        let here = installed(&net.client);
        here.configure(rules);
        let daemon = here.start(&[&format!("--path-manager={path_manager}")]);
        Self { here, daemon }
    }

    fn reload(&mut self, rules: &str) {
        self.here.configure(rules);
        self.daemon.signal(Signal::HUP);
    }
}

pub(super) fn rule(interface: &str, what: &str) -> String {
    format!("[[interface]]\nmatch = '{interface}'\n{what}\n")
}

/// Waits until the subflows from these links, and no others, are for standby at both ends of every
/// connection, and returns how long that took.
pub(super) fn wait_for_standby(daemon: &mut Daemon, net: &Net, links: &[u8]) -> Duration {
    let begun = Instant::now();
    let standby: BTreeSet<IpAddr> = links.iter().map(|link| client_v4(*link)).collect();
    daemon.eventually(&format!("standby on links {links:?}"), || {
        let mut flows = net.client.subflows().into_iter().filter(|flow| flow.established);
        let here = flows.all(|flow| flow.backup == standby.contains(&flow.local.ip()));
        let mut flows = net.server.subflows().into_iter().filter(|flow| flow.established);
        here && flows.all(|flow| flow.backup_by_peer == standby.contains(&flow.remote.ip()))
    });
    begun.elapsed()
}

/// The bytes that leave either end of two links while two ends talk.
fn bytes_while(net: &Net, dialogue: &Dialogue) -> [u64; 2] {
    // What was on its way may still go where it was sent.
    dialogue.wait_for_rounds(2);
    let sent =
        || [0, 1].map(|link| net.client.bytes_sent(&format!("c{link}")) + net.server.bytes_sent(&format!("s{link}")));
    let before = sent();
    dialogue.wait_for_rounds(ROUNDS);
    let after = sent();
    [after[0] - before[0], after[1] - before[1]]
}

/// Checks that data goes over one of two links and not over the other.
pub(super) fn check_only(net: &Net, dialogue: &Dialogue, link: usize) {
    let bytes = bytes_while(net, dialogue);
    assert!(bytes[1 - link] < NO_DATA && bytes[link] > NO_DATA, "{bytes:?}, but only link {link} was to have data");
}

fn standby(path_manager: &str) {
    let net = net_v4(2);
    let Ruled { mut daemon, .. } = Ruled::start(&net, path_manager, &rule("c1", "backup = true"));
    let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
    wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
    wait_for_standby(&mut daemon, &net, &[1]);
    let dialogue = crowd.converse(MESSAGE);
    for _ in 0..2 {
        check_only(&net, &dialogue, 0);
        net.server.ip("link set s0 down");
        wait_for_paths(&mut daemon, &net.client, 1, &v4(1..2));
        check_only(&net, &dialogue, 1);
        net.server.ip("link set s0 up");
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        wait_for_standby(&mut daemon, &net, &[1]);
    }
    check_only(&net, &dialogue, 0);
    dialogue.finish().unwrap();
    assert_eq!(daemon.remarks(), [""; 0]);
}

#[test]
fn a_link_for_standby_has_data_only_while_the_other_fails_by_sspi() {
    sandboxed(|| standby("sspi"));
}

#[test]
fn a_link_for_standby_has_data_only_while_the_other_fails_by_full_mesh() {
    sandboxed(|| standby("fullmesh"));
}

/// First the joined subflow is for standby, then the initial one.
fn turn_standby(path_manager: &str) {
    let net = net_v4(2);
    let mut ruled = Ruled::start(&net, path_manager, "");
    let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
    wait_for_paths(&mut ruled.daemon, &net.client, 1, &v4(0..2));
    let before: Vec<_> = net.client.subflows().into_iter().map(|flow| flow.local).collect();
    let dialogue = crowd.converse(MESSAGE);
    let mut longest = Duration::ZERO;
    for (interface, links) in [("c1", &[1_u8][..]), ("c0", &[0]), ("none", &[]), ("c0", &[0]), ("c1", &[1])] {
        ruled.reload(&rule(interface, "backup = true"));
        longest = longest.max(wait_for_standby(&mut ruled.daemon, &net, links));
        for link in links {
            check_only(&net, &dialogue, usize::from(1 - link));
        }
    }
    measured(&format!("{path_manager}: standby that a reload turned was so after {longest:?} at the longest"));
    assert!(longest < SOON, "{longest:?}");
    assert_eq!(net.client.subflows().into_iter().map(|flow| flow.local).collect::<Vec<_>>(), before);
    dialogue.finish().unwrap();
}

#[test]
fn a_reload_turns_standby_on_live_connections_at_both_ends_by_sspi() {
    sandboxed(|| turn_standby("sspi"));
}

#[test]
fn a_reload_turns_standby_on_live_connections_at_both_ends_by_full_mesh() {
    sandboxed(|| turn_standby("fullmesh"));
}

fn allow_and_forbid(path_manager: &str) {
    let net = net_v4(3);
    let forbidden = rule("c1", "use = false");
    let mut ruled = Ruled::start(&net, path_manager, &forbidden);
    let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 3);
    for _ in 0..2 {
        wait_for_paths(&mut ruled.daemon, &net.client, 3, &[client_v4(0), client_v4(2)]);
        ruled.reload("");
        assert!(wait_for_paths(&mut ruled.daemon, &net.client, 3, &v4(0..3)) < SOON);
        ruled.reload(&forbidden);
        assert!(wait_for_paths(&mut ruled.daemon, &net.client, 3, &[client_v4(0), client_v4(2)]) < SOON);
    }
    crowd.talk();
}

#[test]
fn a_reload_that_allows_or_forbids_an_interface_holds_for_live_connections_by_sspi() {
    sandboxed(|| allow_and_forbid("sspi"));
}

#[test]
fn a_reload_that_allows_or_forbids_an_interface_holds_for_live_connections_by_full_mesh() {
    sandboxed(|| allow_and_forbid("fullmesh"));
}

#[test]
fn an_interface_has_no_more_subflows_of_a_connection_than_its_rule_says() {
    sandboxed(|| {
        let net = Net::bare(0);
        let _router = Router::add(&net, 0..2, 3);
        for link in 0..2 {
            net.client.ip(&format!("addr add {}/24 dev c{link}", client_v4(link)));
            net.default_route_v4(link);
        }
        let _server = start_managing(&net.server, "fullmesh");
        let mut ruled = Ruled::start(&net, "fullmesh", &rule("c1", "max-subflows = 1"));
        let mut crowd = Crowd::gather(&net, service(address("10.99.0.2")), 2);
        let mut holds = |ruled: &mut Ruled, most: &[u8]| {
            let paths: Vec<_> = most.iter().map(|link| client_v4(*link)).collect();
            wait_for_paths(&mut ruled.daemon, &net.client, 2, &paths);
            crowd.talk();
        };
        holds(&mut ruled, &[0, 0, 0, 1]);
        ruled.reload("");
        holds(&mut ruled, &[0, 0, 0, 1, 1, 1]);
        // The initial one is one of them.
        ruled.reload(&rule("c?", "max-subflows = 2"));
        holds(&mut ruled, &[0, 0, 1, 1]);
        ruled.reload(&rule("c?", "max-subflows = 1"));
        holds(&mut ruled, &[0, 1]);
    });
}

#[test]
fn of_more_interfaces_than_a_connection_may_have_paths_those_that_come_first_have_them() {
    sandboxed(|| {
        let net = net_v4(4);
        take(&net, 1);
        let first = |interface| rule(interface, "order = -1");
        let mut ruled = Ruled::start(&net, "sspi", &(first("c3") + &rule("c1", "order = 5")));
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
        wait_for_paths(&mut ruled.daemon, &net.client, 1, &[client_v4(0), client_v4(3)]);
        crowd.talk();
    });
}

#[test]
fn a_connection_has_no_more_subflows_than_it_may_and_a_reload_changes_how_many() {
    sandboxed(|| {
        let net = net_v4(4);
        let most = |most| format!("[paths]\nmax-subflows = {most}\n");
        let mut ruled = Ruled::start(&net, "sspi", &(most(2) + &rule("c3", "order = -1")));
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 2);
        wait_for_paths(&mut ruled.daemon, &net.client, 2, &[client_v4(0), client_v4(3)]);
        for most_now in [3, 1, 4, 2] {
            ruled.reload(&most(most_now));
            wait_for_paths(&mut ruled.daemon, &net.client, 2, &v4(0..most_now));
            crowd.talk();
        }
    });
}

/// Adds the client's link of that number under another name.
fn add_named(net: &Net, link: u8, name: &str) {
    net.add_link(link);
    net.client.ip(&format!("link set c{link} down"));
    net.client.ip(&format!("link set c{link} name {name}"));
    net.client.ip(&format!("link set {name} up"));
    net.client.ip(&format!("addr add {}/24 dev {name}", client_v4(link)));
    net.client.ip(&format!("route add default via 10.0.{link}.2 dev {name} metric {}", 100 + u16::from(link)));
}

fn keep_a_vpn_apart(path_manager: &str) {
    let net = net_v4(2);
    add_named(&net, 2, "wg0");
    let mut ruled = Ruled::start(&net, path_manager, "");
    // The server is reached through the VPN, and by an address of it also without.
    net.client.ip(&format!("route add {SERVICE_V4} via 10.0.2.2 dev wg0"));
    let mut inside = Crowd::gather(&net, service(SERVICE_V4), 2);
    let mut outside = Crowd::gather(&net, SocketAddr::new(address("10.0.0.2"), 5001), 2);
    let paths = |ruled: &mut Ruled, inside: &[u8], outside: &[u8]| {
        let from = |links: &[u8]| links.iter().map(|link| client_v4(*link)).collect::<Vec<_>>();
        let mut wanted = [from(inside), from(inside), from(outside), from(outside)];
        wanted.sort_unstable();
        ruled.daemon.eventually(&format!("paths {wanted:?}"), || {
            let mut each: Vec<_> = net.client.paths_of_each().into_values().collect();
            each.sort_unstable();
            each == wanted
        });
    };
    paths(&mut ruled, &[2], &[0, 1]);
    ruled.reload(&rule("wg*", "use = true"));
    paths(&mut ruled, &[0, 1, 2], &[0, 1, 2]);
    ruled.reload("");
    paths(&mut ruled, &[2], &[0, 1]);
    inside.talk();
    outside.talk();
    net.client.ip("link del wg0");
    let from = ruled.daemon.said().len();
    net.client.ip("link set c1 down");
    paths(&mut ruled, &[2], &[0]);
    net.client.ip("link set c1 up");
    net.default_route_v4(1);
    paths(&mut ruled, &[2], &[0, 1]);
    assert_eq!(joins(&mut ruled.daemon, from), 2, "those outside, one each");
    outside.talk();
}

#[test]
fn a_vpn_is_kept_apart_from_other_links_until_a_rule_says_otherwise_by_sspi() {
    sandboxed(|| keep_a_vpn_apart("sspi"));
}

#[test]
fn a_vpn_is_kept_apart_from_other_links_until_a_rule_says_otherwise_by_full_mesh() {
    sandboxed(|| keep_a_vpn_apart("fullmesh"));
}

fn announce_but_one(path_manager: &str) {
    let net = Net::bare(0);
    let _router = Router::add(&net, 0..1, 3);
    net.client.ip(&format!("addr add {}/24 dev c0", client_v4(0)));
    net.default_route_v4(0);
    net.client.ip("mptcp limits set subflows 8 add_addr_accepted 8");
    net.server.choose_user_space_path_management();
    let here = installed(&net.server);
    let kept = rule("s1", "announce = false");
    here.configure(&kept);
    let mut daemon = here.start(&[&format!("--path-manager={path_manager}")]);
    let mut crowd = Crowd::gather(&net, service(address("10.99.0.2")), 2);
    for (rules, links) in [(kept.as_str(), &[0, 2][..]), ("", &[0, 1, 2]), (&kept, &[0, 2])] {
        here.configure(rules);
        daemon.signal(Signal::HUP);
        let paths: Vec<_> = links.iter().map(|link| address(&format!("10.99.{link}.2"))).collect();
        wait_for_paths(&mut daemon, &net.server, 2, &paths);
        crowd.talk();
    }
}

#[test]
fn an_interface_of_a_server_that_a_rule_keeps_back_is_not_announced_by_sspi() {
    sandboxed(|| announce_but_one("sspi"));
}

#[test]
fn an_interface_of_a_server_that_a_rule_keeps_back_is_not_announced_by_announce() {
    sandboxed(|| announce_but_one("announce"));
}
