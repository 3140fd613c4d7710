//! Reports of states that are put together by hand.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::*;
use crate::engine::{Answer, Policy};
use crate::event::{self, AddressFlags, Endpoint, Limits, LinkFlags, Scope};
use crate::plugin::{PathManager, View, WantedEndpoint};
use crate::rules::{Interfaces, PathPolicy};
use crate::state_file::SavedState;
use crate::types::{AddressId, EndpointFlags, Errno, NotifyFlags};
use crate::wire::Refusal;

struct First;

impl PathManager for First {
    fn endpoints(&self, view: &View<'_>) -> Option<crate::plugin::Endpoints> {
        let wanted = |local: &crate::plugin::LocalAddress<'_>| WantedEndpoint {
            address: local.address,
            if_index: local.if_index,
            flags: local.flags,
        };
        Some(crate::plugin::Endpoints { wanted: view.usable().take(1).map(wanted).collect() })
    }
}

fn engine(connections: Option<usize>, now: Instant) -> Engine {
    let (notify, flags) = (NotifyFlags(7), EndpointFlags::SUBFLOW);
    let rules = Rules { notify, flags, interfaces: Interfaces::default() };
    let (managers, paths) = (vec![Box::new(First) as Box<dyn PathManager>], PathPolicy::default());
    Engine::new(Policy { rules, managers, connections, paths, debug: false }, SavedState::default(), now)
}

fn add_link(engine: &mut Engine, index: u32, name: &[u8], flags: u32) {
    let link = event::Link { name: Some(name), ..event::Link::new(IfIndex(index), LinkFlags(flags)) };
    engine.network.apply_link(&link);
}

fn add_address(engine: &mut Engine, index: u32, text: &str) {
    let (address, if_index) = (text.parse().unwrap(), IfIndex(index));
    let flags = AddressFlags(0x80);
    let told = event::Address { if_index, address, peer: address, prefix_length: 24, scope: Scope(0), flags };
    engine.network.apply_address(&told, true);
}

#[cfg(feature = "connections")]
fn open(engine: &mut Engine, tokens: std::ops::Range<u32>, now: Instant) {
    use crate::event::MptcpEvent;
    for token in tokens {
        let (local, remote) = ("10.0.0.1:40000".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
        let told = event::Connection { token: Token(token), local, remote, server_side: false, deny_join_id0: false };
        engine.handle(Input::Mptcp(MptcpEvent::Established(told)), now);
    }
}

const SMALL: usize = 20_000;

/// All lines, and the lengths of the slices in which they came.
fn report(engine: &Engine, bounds: Bounds, now: Instant) -> (Vec<Value>, Vec<usize>) {
    let mut report = engine.begin_report(bounds);
    let (mut all, mut lengths, mut more) = (String::new(), Vec::new(), true);
    while more {
        let mut slice = String::new();
        more = engine.report(&mut report, (&mut slice, SMALL), now);
        lengths.push(slice.len());
        all += &slice;
    }
    (all.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), lengths)
}

const WIDE: Bounds = Bounds { lines: 40_000, bytes: 8 << 20 };

fn of_kind<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["kind"] == kind).collect()
}

fn answer(engine: &mut Engine, ticket: Ticket, request: &Request, refuse: bool, now: Instant) {
    let refusal = Refusal { errno: Errno::PERM, text: "", missing: None };
    let refused = refuse && is_command(request);
    if *request == Request::Pm(PmCommand::GetLimits) {
        let limits = Limits { subflows: 2, add_addr_accepted: 0 };
        engine.handle(Input::Answer(ticket, Answer::Limits(limits)), now);
    }
    engine.handle(Input::End(ticket, if refused { Err(Failure::Refused(refusal)) } else { Ok(()) }), now);
}

/// Answers what is asked until nothing is asked any more, with what is there read as a whole before.
fn settle(engine: &mut Engine, refuse: bool, now: Instant) {
    engine.reading = crate::engine::Reading::Done;
    loop {
        engine.advance(now, true);
        let mut outputs = Vec::new();
        while let Some(output) = engine.next_output() {
            outputs.push(output);
        }
        let sent = |output| match output {
            crate::engine::Output::Send(ticket, request) => Some((ticket, request)),
            _ => None,
        };
        let requests: Vec<_> = outputs.into_iter().filter_map(sent).collect();
        if requests.is_empty() {
            return;
        }
        requests.iter().for_each(|(ticket, request)| answer(engine, *ticket, request, refuse, now));
    }
}

#[test]
fn every_interface_and_address_is_told_with_why_it_is_not_used() {
    let now = Instant::now();
    let mut engine = engine(None, now);
    add_link(&mut engine, 1, b"lo", 0x1_0049);
    add_link(&mut engine, 2, b"e\xff\"\n", 0x1_0041);
    add_link(&mut engine, 3, b"eth1", 1);
    add_link(&mut engine, 4, b"docker0", 0x1_0041);
    for (index, address) in [(2, "10.0.0.1"), (3, "10.0.1.1"), (4, "10.0.2.1"), (9, "10.0.3.1")] {
        add_address(&mut engine, index, address);
    }
    let (lines, _) = report(&engine, WIDE, now);
    let interfaces = of_kind(&lines, "interface");
    let names: Vec<_> = interfaces.iter().map(|line| line["interface"].as_str().unwrap()).collect();
    assert_eq!(names, ["lo", "e\u{fffd}\"\n", "eth1", "docker0", ""]);
    let usable: Vec<_> = interfaces.iter().map(|line| line["ipv4"].as_bool().unwrap()).collect();
    assert_eq!(usable, [false, true, false, false, false]);
    assert_eq!(interfaces[2]["why_not_ipv6"], "its interface has no carrier");
    assert_eq!(interfaces[1].get("why_not_ipv4"), None);
    let addresses = of_kind(&lines, "address");
    let used = |line: &&&Value| line["used"] == json!(true);
    let used: Vec<_> = addresses.iter().filter(used).map(|line| &line["address"]).collect();
    assert_eq!(used, ["10.0.0.1"]);
    assert_eq!(addresses[1]["why_not"], "its interface has no carrier");
    assert_eq!((&addresses[1]["index"], &addresses[1]["prefix"]), (&json!(3), &json!(24)));
    assert!(addresses[2]["why_not"].as_str().unwrap().contains("built in"));
}

#[test]
fn endpoints_limits_and_counters_are_told() {
    let now = Instant::now();
    let mut engine = engine(None, now);
    add_link(&mut engine, 2, b"eth0", 0x1_0041);
    add_address(&mut engine, 2, "10.0.0.1");
    settle(&mut engine, false, now);
    let (lines, _) = report(&engine, WIDE, now + Duration::from_secs(3));
    let endpoint = json!({
        "kind": "endpoint", "address": "10.0.0.1", "id": 1, "port": 0, "flags": "subflow", "own": true, "index": 2
    });
    assert_eq!(of_kind(&lines, "endpoint"), [&endpoint]);
    let limits = json!({ "kind": "limits", "subflows": 3, "add_addr_accepted": 3 });
    assert_eq!(of_kind(&lines, "limits"), [&limits]);
    let counters = of_kind(&lines, "counters")[0];
    assert_eq!((&counters["uptime_ms"], &counters["ready"]), (&json!(3000), &json!(true)));
    assert_eq!((&counters["commands"], &counters["refused"]), (&json!(2), &json!(0)));
    assert_eq!(lines.last().unwrap()["lines"], lines.len() + 1, "with the line that introduces it");
}

#[test]
fn what_was_refused_is_counted_and_told_with_its_next_try() {
    let now = Instant::now();
    let mut engine = engine(None, now);
    add_link(&mut engine, 2, b"eth0", 0x1_0041);
    add_address(&mut engine, 2, "10.0.0.1");
    settle(&mut engine, true, now);
    let (lines, _) = report(&engine, WIDE, now);
    let retries = of_kind(&lines, "retry");
    assert_eq!((&retries[0]["address"], &retries[0]["failures"]), (&json!("10.0.0.1"), &json!(1)));
    assert!(retries[0]["next_try_ms"].as_u64().unwrap() >= 750);
    assert_eq!(retries[1]["limits"], true);
    assert_eq!(of_kind(&lines, "counters")[0]["refused"], 2);
}

#[test]
fn what_waits_for_an_answer_is_told() {
    let now = Instant::now();
    let mut engine = engine(None, now);
    engine.advance(now, true);
    let (lines, _) = report(&engine, WIDE, now + Duration::from_millis(5));
    let what: Vec<_> = of_kind(&lines, "request").iter().map(|line| &line["what"]).collect();
    assert_eq!(what, ["links or addresses", "list endpoints"]);
    assert_eq!(of_kind(&lines, "request")[0]["waiting_ms"], 5);
    engine.advance(now + Duration::from_secs(5), true);
    let (lines, _) = report(&engine, WIDE, now);
    assert_eq!(of_kind(&lines, "counters")[0]["unanswered"], 2);
}

#[test]
fn lost_and_counted_events_are_told() {
    let now = Instant::now();
    let mut engine = engine(None, now);
    engine.handle(Input::EventsLost, now);
    engine.handle(Input::NetworkLost, now);
    engine.handle(Input::Network { event: event::NetworkEvent::LinkGone(IfIndex(3)), dump: None }, now);
    let (lines, _) = report(&engine, WIDE, now);
    let counters = of_kind(&lines, "counters")[0];
    assert_eq!((&counters["overruns"], &counters["network_events"]), (&json!(2), &json!(1)));
}

#[test]
fn thousands_of_addresses_leave_room_for_the_rest() {
    let now = Instant::now();
    let mut engine = engine(None, now);
    add_link(&mut engine, 2, b"eth0", 0x1_0041);
    (0..2000).for_each(|n: u16| add_address(&mut engine, 2, &format!("10.0.{}.{}", n / 250, n % 250 + 1)));
    engine.endpoints.collect(Ticket(0), ENDPOINT, now);
    let bounds = Bounds { lines: 800, bytes: 1 << 20 };
    let (lines, _) = report(&engine, bounds, now);
    assert_eq!(of_kind(&lines, "address").len(), 99);
    assert_eq!(lines.last().unwrap()["interfaces_left_out"], 1901);
    let (lines, _) = report(&engine, Bounds { lines: 40_000, bytes: 5000 }, now);
    assert!(lines.len() < 50 && lines.last().unwrap()["interfaces_left_out"].as_u64() > Some(1950));
}

const ENDPOINT: Endpoint = Endpoint {
    id: AddressId(1),
    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    port: 0,
    flags: EndpointFlags::SUBFLOW,
    if_index: None,
};

#[cfg(feature = "connections")]
#[test]
fn connections_are_told_in_slices_each_once_and_not_those_that_end_meanwhile() {
    let now = Instant::now();
    let mut engine = engine(Some(0), now);
    open(&mut engine, 0..1000, now);
    let (mut report, mut out) = (engine.begin_report(WIDE), String::new());
    engine.report(&mut report, (&mut out, 100_000), now);
    let told = out.matches("\"connection\"").count();
    assert!(told > 100 && told < 900, "{told}");
    for token in (1..1000).step_by(2) {
        engine.handle(Input::Mptcp(event::MptcpEvent::Closed(Token(token))), now);
    }
    open(&mut engine, 1000..1001, now);
    assert!(!engine.report(&mut report, (&mut out, usize::MAX), now));
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tokens = of_kind(&lines, "connection").into_iter().map(|line| line["token"].as_str().unwrap().to_owned());
    let later = (0..1000).skip(told).step_by(2).map(|n| n + n % 2);
    let expected = (0..told as u32).chain(later.filter(|n| *n < 1000)).map(|token| Token(token).to_string());
    assert_eq!(tokens.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[cfg(feature = "connections")]
#[test]
fn so_many_connections_are_told_and_how_many_are_not() {
    let now = Instant::now();
    let mut engine = engine(Some(0), now);
    open(&mut engine, 0..30_000, now);
    let (lines, slices) = report(&engine, WIDE, now);
    assert!(slices.iter().all(|length| *length < SMALL + 1000));
    assert!(lines.len() <= WIDE.lines + 3, "{}", lines.len());
    let (told, left) = (of_kind(&lines, "connection").len(), lines.last().unwrap()["connections_left_out"].as_u64());
    assert_eq!((lines.last().unwrap()["kind"].as_str(), left), (Some("end"), Some(30_000 - told as u64)));
    assert_eq!(of_kind(&lines, "counters")[0]["connections"], 30_000);
    assert!(told > 19_000);
}
