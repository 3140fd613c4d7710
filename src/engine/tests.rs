//! Single decisions of the engine, one after the other, on virtual time.

use super::*;
use crate::event::{Address, AddressFlags, Endpoint, Limits, Link, LinkFlags, MptcpEvent, RouteAnswer, Scope};
use crate::plugin::{Endpoints as Wanted, Unusable, WantedEndpoint};
use crate::rules::{Glob, Interfaces, Rule};
use crate::types::{AddressId, EndpointFlags, Errno, NotifyFlags, Use};
use crate::wire::Refusal;

struct Everything;

impl PathManager for Everything {
    fn endpoints(&self, view: &View<'_>) -> Option<Wanted> {
        let wanted = |local: &LocalAddress<'_>| WantedEndpoint {
            address: local.address,
            if_index: local.if_index,
            flags: local.flags,
        };
        Some(Wanted { wanted: view.usable().map(wanted).collect() })
    }
}

/// An engine whose requests are answered by the test.
struct Bench {
    engine: Engine,
    now: Instant,
    logged: Vec<Note>,
    ready: bool,
    done: bool,
}

const LIMITS: Limits = Limits { subflows: 8, add_addr_accepted: 8 };

fn policy(notify: u8) -> Policy {
    let rules = Rules { notify: NotifyFlags(notify), flags: EndpointFlags::SUBFLOW, interfaces: Interfaces::default() };
    let (connections, paths) = (None, PathPolicy::default());
    Policy { rules, managers: vec![Box::new(Everything)], connections, paths, debug: false }
}

impl Bench {
    fn new(notify: u8, saved: SavedState) -> Self {
        let policy = policy(notify);
        let now = Instant::now();
        Self { engine: Engine::new(policy, saved, now), now, logged: Vec::new(), ready: false, done: false }
    }

    /// Started, with these addresses on interface 2, and everything in the kernel accepted.
    fn started(notify: u8, addresses: &[&str]) -> Self {
        let mut bench = Self::new(notify, SavedState::default());
        bench.start(addresses, &[]);
        bench
    }

    fn start(&mut self, addresses: &[&str], endpoints: &[Endpoint]) {
        for _ in 0..20 {
            for (ticket, request) in self.advance() {
                self.answer(ticket, &request, addresses, endpoints);
            }
        }
        assert!(self.ready);
    }

    /// Answers as a kernel that has these addresses and endpoints, and refuses nothing.
    fn answer(&mut self, ticket: Ticket, request: &Request, addresses: &[&str], endpoints: &[Endpoint]) {
        match request {
            Request::Path(command) => panic!("no connection is known: {command}"),
            Request::Sockets(request) => panic!("no connection is managed: {request}"),
            Request::DumpLinks => {
                let link = Link { name: Some(b"eth0"), ..Link::new(IfIndex(2), LinkFlags(0x1_0041)) };
                self.network(NetworkEvent::Link(link), Some(ticket));
            }
            Request::DumpAddresses => {
                for text in addresses {
                    self.network(NetworkEvent::Address(address(text)), Some(ticket));
                }
            }
            Request::Pm(PmCommand::DumpEndpoints) => {
                for endpoint in endpoints {
                    self.engine.handle(Input::Answer(ticket, Answer::Endpoint(*endpoint)), self.now);
                }
            }
            Request::Pm(PmCommand::GetLimits) => {
                self.engine.handle(Input::Answer(ticket, Answer::Limits(LIMITS)), self.now);
            }
            Request::AskRoute(_) | Request::Pm(_) => {}
        }
        self.end(ticket, Ok(()));
    }

    fn network(&mut self, event: NetworkEvent<'_>, dump: Option<Ticket>) {
        self.engine.handle(Input::Network { event, dump }, self.now);
    }

    fn end(&mut self, ticket: Ticket, result: Result<(), Errno>) {
        let refusal = |errno| Failure::Refused(Refusal { errno, text: "", missing: None });
        self.engine.handle(Input::End(ticket, result.map_err(refusal)), self.now);
    }

    /// The requests that come out.
    fn advance(&mut self) -> Vec<(Ticket, Request)> {
        self.engine.advance(self.now, true);
        self.engine.take_saved_state(self.now);
        let mut requests = Vec::new();
        while let Some(output) = self.engine.next_output() {
            match output {
                Output::Send(ticket, request) => requests.push((ticket, request)),
                Output::Log(note) => self.logged.push(note),
                Output::Ready => self.ready = true,
                Output::Listen(at) | Output::Unlisten(at) => panic!("no connection is managed: {at}"),
                Output::Uplinks => {}
                Output::Done => self.done = true,
            }
        }
        requests
    }

    fn commands(&mut self) -> Vec<PmCommand> {
        let command = |(_, request): (Ticket, Request)| match request {
            Request::Pm(command) => Some(command),
            _ => None,
        };
        self.advance().into_iter().filter_map(command).collect()
    }
}

fn address(text: &str) -> Address {
    let address = text.parse().unwrap();
    let flags = AddressFlags(0x80);
    Address { if_index: IfIndex(2), address, peer: address, prefix_length: 24, scope: Scope(0), flags }
}

fn endpoint(id: u8, text: &str) -> Endpoint {
    let (id, address, if_index) = (AddressId(id), text.parse().unwrap(), Some(IfIndex(2)));
    Endpoint { id, address, port: 0, flags: EndpointFlags::SUBFLOW, if_index }
}

#[test]
fn an_address_becomes_an_endpoint_in_the_turn_in_which_it_is_told() {
    let mut bench = Bench::started(7, &["10.0.0.1"]);
    bench.network(NetworkEvent::Address(address("10.0.0.2")), None);
    assert_eq!(bench.commands(), [PmCommand::AddEndpoint(endpoint(2, "10.0.0.2"))]);
    assert_eq!(bench.commands(), [], "nothing more while that is on its way");
}

#[test]
fn an_endpoint_goes_with_its_address_and_comes_back_with_its_id() {
    let mut bench = Bench::started(7, &["10.0.0.1", "10.0.0.2"]);
    bench.network(NetworkEvent::AddressGone(address("10.0.0.1")), None);
    let (ticket, request) = bench.advance()[0];
    assert_eq!(request, Request::Pm(PmCommand::RemoveEndpoint(AddressId(1))));
    bench.end(ticket, Ok(()));
    assert_eq!(bench.commands(), []);
    bench.network(NetworkEvent::Address(address("10.0.0.3")), None);
    bench.network(NetworkEvent::Address(address("10.0.0.1")), None);
    let expected = [endpoint(1, "10.0.0.1"), endpoint(3, "10.0.0.3")];
    let mut found = bench.commands();
    found.sort_by_key(|command| format!("{command}"));
    assert_eq!(found, expected.map(PmCommand::AddEndpoint));
}

#[test]
fn after_a_loss_nothing_is_asked_or_done_until_what_was_queued_before_is_taken() {
    let mut bench = Bench::started(7, &["10.0.0.1"]);
    bench.engine.handle(Input::NetworkLost, bench.now);
    assert_eq!(bench.advance(), []);
    bench.network(NetworkEvent::Address(address("10.0.0.9")), None);
    assert_eq!(bench.advance(), [], "it may be gone again: that message may be lost");
    bench.engine.handle(Input::NetworkDrained, bench.now);
    let (ticket, request) = bench.advance()[0];
    assert_eq!(request, Request::DumpLinks);
    bench.answer(ticket, &request, &["10.0.0.1"], &[]);
    let (ticket, request) = bench.advance()[0];
    bench.answer(ticket, &request, &["10.0.0.1"], &[]);
    assert_eq!(bench.advance(), [], "the dump did not name it");
    assert_eq!(bench.logged.last(), Some(&Note::Overrun(1)));
}

#[test]
fn the_rest_of_a_dump_that_was_given_up_tells_nothing() {
    let mut bench = Bench::started(7, &["10.0.0.1"]);
    bench.engine.handle(Input::Resumed, bench.now);
    let (old, _) = bench.advance()[0];
    bench.engine.handle(Input::Resumed, bench.now);
    let mut added = Vec::new();
    for _ in 0..20 {
        for (ticket, request) in bench.advance() {
            assert_ne!(ticket, old);
            match request {
                Request::DumpAddresses => {
                    bench.network(NetworkEvent::Address(address("10.0.0.9")), Some(old));
                    bench.end(old, Ok(()));
                }
                Request::Pm(PmCommand::AddEndpoint(endpoint)) => added.push(endpoint.address),
                _ => {}
            }
            bench.answer(ticket, &request, &["10.0.0.1"], &[endpoint(1, "10.0.0.1")]);
        }
    }
    assert!(bench.engine.endpoints.is_settled(), "nothing keeps it from adding");
    assert!(added.is_empty(), "{added:?}");
}

#[test]
fn an_interrupted_dump_is_begun_again_after_a_pause_that_grows() {
    let mut bench = Bench::new(7, SavedState::default());
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let reading = bench.advance().into_iter().find(|(_, request)| *request == Request::DumpLinks);
        let (ticket, _) = reading.unwrap();
        bench.engine.handle(Input::End(ticket, Err(Failure::Interrupted)), bench.now);
        assert!(!bench.advance().iter().any(|(_, request)| *request == Request::DumpLinks), "not at once");
        let Reading::Wanted(time) = bench.engine.reading else { panic!("{:?}", bench.engine.reading) };
        pauses.push(time - bench.now);
        bench.now = time;
    }
    assert!(pauses.is_sorted() && pauses[4] > pauses[0] * 4, "{pauses:?}");
}

#[test]
fn a_refusal_is_told_once_for_each_error_and_tried_again_ever_later() {
    let mut bench = Bench::started(7, &[]);
    bench.network(NetworkEvent::Address(address("10.0.0.1")), None);
    let mut tries = Vec::new();
    let start = bench.now;
    for _ in 0..200 {
        let requests = bench.advance();
        if requests.is_empty() {
            bench.now = bench.engine.deadline().unwrap().max(bench.now);
        }
        for (ticket, request) in requests {
            if matches!(request, Request::Pm(PmCommand::AddEndpoint(_))) {
                tries.push(bench.now - start);
                bench.end(ticket, Err(Errno::PERM));
            } else {
                bench.answer(ticket, &request, &["10.0.0.1"], &[]);
            }
        }
    }
    let told = bench.logged.iter().filter(|note| note.severity() == Severity::Warning).count();
    assert_eq!(told, 1, "{:?}", bench.logged);
    let pauses: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() > 4 && pauses[4] >= pauses[0] * 8, "{pauses:?}");
}

#[test]
fn an_endpoint_whose_route_is_not_known_yet_stays() {
    let saved = SavedState { own: vec![endpoint(5, "10.0.0.1")], ..SavedState::default() };
    let mut bench = Bench::new(0xf, saved);
    let mut question = None;
    for _ in 0..20 {
        for (ticket, request) in bench.advance() {
            match request {
                Request::AskRoute(_) => question = Some(ticket),
                _ => bench.answer(ticket, &request, &["10.0.0.1"], &[endpoint(5, "10.0.0.1")]),
            }
        }
    }
    assert!(!bench.ready, "the kernel has not said where its packets go");
    let route = |bench: &mut Bench, ticket| {
        let through = RouteAnswer { unicast: true, through: true };
        bench.engine.handle(Input::Answer(ticket, Answer::Route(through)), bench.now);
    };
    route(&mut bench, question.unwrap());
    let (second, request) = bench.advance()[0];
    assert!(matches!(request, Request::AskRoute(_)), "the other half");
    route(&mut bench, second);
    assert_eq!(bench.commands(), []);
    assert!(bench.ready);
}

#[test]
fn stopping_keeps_everything_or_takes_ours_out_one_at_a_time_and_not_that_of_others() {
    let mut bench = Bench::started(7, &["10.0.0.1"]);
    bench.engine.handle(Input::Stop { remove: false }, bench.now);
    assert_eq!(bench.commands(), []);
    assert!(bench.done);

    let foreign = Endpoint { if_index: None, ..endpoint(9, "10.0.0.9") };
    let mut bench = Bench::started(7, &["10.0.0.1", "10.0.0.2"]);
    bench.engine.handle(Input::Stop { remove: true }, bench.now);
    let mut removed = Vec::new();
    for _ in 0..20 {
        for (ticket, request) in bench.advance() {
            if let Request::Pm(PmCommand::RemoveEndpoint(id)) = request {
                removed.push(id.0);
            }
            bench.answer(ticket, &request, &[], &[endpoint(1, "10.0.0.1"), endpoint(2, "10.0.0.2"), foreign]);
        }
    }
    assert_eq!(removed, [1, 2]);
    assert!(bench.done);
}

#[test]
fn an_answer_that_never_comes_is_noticed_and_everything_is_read_again() {
    let mut bench = Bench::started(7, &["10.0.0.1"]);
    bench.network(NetworkEvent::Address(address("10.0.0.2")), None);
    assert_eq!(bench.commands().len(), 1);
    bench.now = bench.engine.deadline().unwrap().max(bench.now + ANSWER_TIME);
    let requests: Vec<_> = bench.advance().into_iter().map(|(_, request)| request).collect();
    assert!(requests.contains(&Request::DumpLinks));
    assert!(requests.contains(&Request::Pm(PmCommand::DumpEndpoints)));
}

#[test]
fn an_endpoint_with_our_id_and_address_but_flags_that_we_did_not_set_is_anothers() {
    let mut bench = Bench::started(7, &["10.0.0.1"]);
    let theirs = Endpoint { flags: EndpointFlags::SIGNAL, ..endpoint(1, "10.0.0.1") };
    bench.engine.handle(Input::Resumed, bench.now);
    bench.start(&["10.0.0.1"], &[theirs]);
    bench.network(NetworkEvent::AddressGone(address("10.0.0.1")), None);
    assert_eq!(bench.commands(), [], "it is not ours to remove");

    // The same, found by a start with what an earlier run saved.
    let saved = SavedState { own: vec![endpoint(1, "10.0.0.1")], ..SavedState::default() };
    let mut bench = Bench::new(7, saved);
    bench.start(&[], &[theirs]);
    assert_eq!(bench.commands(), []);
}

#[test]
fn switching_the_path_manager_of_connections_off_leaves_nothing_of_them_to_wake_for() {
    let mut bench = Bench::started(7, &["10.0.0.1", "10.0.0.2"]);
    let policy = |connections| Policy {
        rules: Rules { notify: NotifyFlags(7), flags: EndpointFlags::SUBFLOW, interfaces: Interfaces::default() },
        managers: vec![Box::new(Everything)],
        connections,
        paths: PathPolicy::default(),
        debug: false,
    };
    bench.engine.handle(Input::Configure(policy(Some(0))), bench.now);
    let (local, remote) = ("10.0.0.1:40000".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
    let (token, server_side, deny_join_id0) = (crate::types::Token(1), false, false);
    let told = crate::event::Connection { token, local, remote, server_side, deny_join_id0 };
    bench.engine.handle(Input::Mptcp(MptcpEvent::Created(told)), bench.now);
    bench.advance();
    assert!(bench.engine.paths.knows(token));
    bench.engine.handle(Input::Configure(policy(None)), bench.now);
    assert!(!bench.engine.paths.knows(token));
    bench.advance();
    assert!(!bench.engine.has_work());
}

#[test]
fn switching_existing_off_leaves_alone_what_is_in_use() {
    let mut bench = Bench::started(7, &["10.0.0.1"]);
    bench.engine.handle(Input::Configure(policy(6)), bench.now);
    assert_eq!(bench.commands(), []);
}

#[test]
fn an_ipv6_address_is_asked_for_again_without_source_only_if_another_way_was_found() {
    let on_the_way = |way: RouteAnswer| {
        let mut bench = Bench::new(0xf, SavedState::default());
        let mut asked = Vec::new();
        for _ in 0..20 {
            for (ticket, request) in bench.advance() {
                match request {
                    Request::AskRoute(question) => {
                        asked.push(question.source.is_some());
                        bench.engine.handle(Input::Answer(ticket, Answer::Route(way)), bench.now);
                    }
                    _ => bench.answer(ticket, &request, &["fd00::1"], &[]),
                }
            }
        }
        asked
    };
    assert_eq!(on_the_way(RouteAnswer { unicast: true, through: false }), [true, false]);
    assert_eq!(on_the_way(RouteAnswer { unicast: false, through: false }), [true]);
    assert_eq!(on_the_way(RouteAnswer { unicast: true, through: true }), [true, true], "both halves");
}

/// The policy of the bench with rules of the user's.
fn with_rules(own: Vec<Rule>) -> Policy {
    let interfaces = Interfaces::new(own.into_iter().map(Into::into).collect());
    let rules = Rules { notify: NotifyFlags(7), flags: EndpointFlags::SUBFLOW, interfaces };
    let (connections, paths) = (None, PathPolicy::default());
    Policy { rules, managers: vec![Box::new(Everything)], connections, paths, debug: true }
}

fn rule_for(name: &str) -> Rule {
    Rule { names: vec![Glob::new(name).unwrap()], ..Rule::default() }
}

#[test]
fn other_rules_and_other_names_count_at_once() {
    let mut bench = Bench::started(7, &["10.0.0.1"]);
    let excluded = Rule { usage: Some(Use::No), ..rule_for("eth*") };
    bench.engine.handle(Input::Configure(with_rules(vec![excluded])), bench.now);
    let (ticket, request) = bench.advance()[0];
    assert_eq!(request, Request::Pm(PmCommand::RemoveEndpoint(AddressId(1))));
    bench.end(ticket, Ok(()));
    assert_eq!(bench.commands(), []);
    let renamed = |name| NetworkEvent::Link(Link { name: Some(name), ..Link::new(IfIndex(2), LinkFlags(0x1_0041)) });
    bench.network(renamed(b"lan0"), None);
    let (ticket, request) = bench.advance()[0];
    assert_eq!(request, Request::Pm(PmCommand::AddEndpoint(endpoint(1, "10.0.0.1"))));
    bench.end(ticket, Ok(()));
    bench.network(renamed(b"docker0"), None);
    assert_eq!(bench.commands(), [PmCommand::RemoveEndpoint(AddressId(1))]);
    let last = bench.logged.iter().rev().find_map(|note| match note {
        Note::Address { verdict, .. } => Some(*verdict),
        _ => None,
    });
    assert_eq!(last, Some(Err(Unusable::BuiltIn)));
}

#[test]
fn what_a_rule_says_reaches_the_path_manager() {
    let mut bench = Bench::started(7, &["10.0.0.1"]);
    let rule =
        Rule { backup: Some(true), announce: Some(false), order: Some(-3), max_subflows: Some(2), ..rule_for("eth0") };
    bench.engine.handle(Input::Configure(with_rules(vec![rule])), bench.now);
    let flags = EndpointFlags::SUBFLOW.union(EndpointFlags::BACKUP);
    assert_eq!(bench.commands(), [PmCommand::SetFlags(Endpoint { flags, ..endpoint(1, "10.0.0.1") })]);
    let view = view_of(&bench.engine.network, &bench.engine.policy.rules);
    let said = view.iter().map(|local| (local.flags, local.backup, local.announce, local.order, local.max_subflows));
    assert_eq!(said.collect::<Vec<_>>(), [(flags, true, false, -3, Some(2))]);
}

#[test]
fn only_the_way_of_a_vpn_is_asked_for_and_it_is_told_once_that_it_leads_to_the_internet() {
    let mut bench = Bench::started(7, &["10.0.0.1"]);
    let vpn = Link { name: Some(b"wg0"), ..Link::new(IfIndex(3), LinkFlags(0x1_0041)) };
    bench.network(NetworkEvent::Link(vpn), None);
    bench.network(NetworkEvent::Address(Address { if_index: IfIndex(3), ..address("10.8.0.1") }), None);
    let through = Answer::Route(RouteAnswer { unicast: true, through: true });
    for _ in 0..2 {
        let asked = bench.advance();
        let [(ticket, Request::AskRoute(question))] = asked[..] else { panic!("{asked:?}") };
        assert_eq!(question.if_index, IfIndex(3));
        bench.engine.handle(Input::Answer(ticket, through), bench.now);
    }
    let (ticket, request) = bench.advance()[0];
    assert_eq!(request, Request::Pm(PmCommand::RemoveEndpoint(AddressId(1))));
    bench.end(ticket, Ok(()));
    assert_eq!(bench.commands(), []);
    bench.network(NetworkEvent::Address(address("10.0.0.2")), None);
    assert_eq!(bench.commands(), []);
    assert_eq!(bench.logged.iter().filter(|note| matches!(note, Note::Vpn(name) if **name == *"wg0")).count(), 1);
}
