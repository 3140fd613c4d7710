//! The table of listeners, fed by hand.

use super::*;
use crate::diag::{ConnectionInfo, Cookie, Role, SocketId};
use crate::event;
use crate::wire::Refusal;

struct Bench {
    listeners: Listeners,
    outbox: Outbox,
    now: Instant,
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const CONNECTION: Token = Token(1);
const ANOTHER: Token = Token(2);

impl Bench {
    /// A table that knows these listeners, all from the kernel's list.
    fn knowing(listeners: &[&str]) -> Self {
        let now = Instant::now();
        let mut bench = Self { listeners: Listeners::new(now), outbox: Outbox::new(true), now };
        bench.look(listeners);
        bench.listeners.take_changed();
        bench
    }

    fn outputs(&mut self) -> Vec<Output> {
        self.listeners.advance(&mut self.outbox, self.now);
        self.outbox.queue.drain(..).collect()
    }

    /// The tickets of the questions that are asked now.
    fn questions(&mut self) -> Vec<(Ticket, Family)> {
        let question = |output| match output {
            Output::Send(ticket, Request::Sockets(SocketRequest::Listeners(family))) => Some((ticket, family)),
            _ => None,
        };
        self.outputs().into_iter().filter_map(question).collect()
    }

    /// The kernel's list is asked for, and is this; `v6only ` before those that take no IPv4.
    fn look(&mut self, listeners: &[&str]) {
        for asked in [Family::V4, Family::V6] {
            let questions = self.questions();
            let [(ticket, family)] = questions[..] else { panic!("{questions:?}") };
            assert_eq!(family, asked);
            for text in listeners {
                let (v6_only, address) = text.strip_prefix("v6only ").map_or((false, *text), |rest| (true, rest));
                if at(address).is_ipv4() == (family == Family::V4) {
                    self.listeners.collect(ticket, &listener(at(address), v6_only));
                }
            }
            assert!(self.listeners.end(ticket, Ok(()), self.now));
        }
    }

    fn created(&mut self, address: &str) {
        self.listeners.apply(&MptcpEvent::ListenerCreated(at(address)));
    }

    fn closed(&mut self, address: &str) {
        self.listeners.apply(&MptcpEvent::ListenerClosed(at(address)));
    }

    fn acquire(&mut self, token: Token, wanted: &str) -> Option<SocketAddr> {
        self.listeners.acquire(token, at(wanted), &mut self.outbox)
    }

    fn keep(&mut self, token: Token, needed: &[SocketAddr]) {
        self.listeners.keep(token, needed, &mut self.outbox);
    }

    fn listening(&mut self, wanted: &str, result: Result<&str, Errno>) {
        self.listeners.listening(at(wanted), result.map(at), &mut self.outbox, self.now);
    }

    fn need(&mut self, address: &str, port: u16) -> Need {
        self.listeners.need(ip(address), port, &mut self.outbox)
    }
}

fn listener(local: SocketAddr, v6_only: bool) -> Socket {
    let id = SocketId { local, remote: SocketAddr::new(local.ip(), 0), if_index: None, cookie: Cookie(1) };
    let role = Role::Connection(ConnectionInfo {
        token: Token(0),
        fallback: false,
        write_sequence: 0,
        unacknowledged: 0,
        receive_next: 0,
    });
    Socket { id, state: TcpState::LISTEN, inode: 1, v6_only, role, transfer: None }
}

#[test]
fn an_address_is_covered_by_a_listener_of_its_own_and_by_one_of_all_addresses() {
    for (listener, covered, not) in [
        ("10.0.0.1:80", &["10.0.0.1"][..], &["10.0.0.2", "fd00::1", "0.0.0.0"][..]),
        ("0.0.0.0:80", &["10.0.0.1", "10.0.0.2"], &["fd00::1"]),
        ("[fd00::1]:80", &["fd00::1"], &["fd00::2", "10.0.0.1"]),
        ("[::]:80", &["fd00::1", "10.0.0.1"], &[]),
        ("v6only [::]:80", &["fd00::1"], &["10.0.0.1"]),
        ("[::ffff:10.0.0.1]:80", &["10.0.0.1"], &["10.0.0.2", "fd00::1"]),
        ("[::ffff:0.0.0.0]:80", &["10.0.0.1"], &["fd00::1"]),
    ] {
        let bench = Bench::knowing(&[listener]);
        for address in covered {
            assert!(bench.listeners.covers(ip(address), 80), "{listener} for {address}");
            assert!(!bench.listeners.covers(ip(address), 81), "{listener} for {address} and another port");
        }
        for address in not {
            assert!(!bench.listeners.covers(ip(address), 80), "{listener} for {address}");
        }
    }
}

#[test]
fn nothing_is_decided_before_the_list_is_complete() {
    let now = Instant::now();
    let mut bench = Bench { listeners: Listeners::new(now), outbox: Outbox::new(true), now };
    assert_eq!(bench.need("10.0.0.1", 80), Need::Unknown);
    let [(first, _)] = bench.questions()[..] else { panic!() };
    assert_eq!(bench.questions(), [], "a socket takes one dump at a time");
    assert!(bench.listeners.end(first, Ok(()), now));
    assert_eq!(bench.need("10.0.0.1", 80), Need::Unknown, "half of it");
    assert!(bench.listeners.has_work());
    let [(second, _)] = bench.questions()[..] else { panic!() };
    assert!(bench.listeners.end(second, Ok(()), now));
    assert!(bench.listeners.take_changed());
    assert_eq!(bench.need("10.0.0.1", 80), Need::Own);
    assert!(!bench.listeners.end(second, Ok(()), now), "an end that nobody waits for");
}

#[test]
fn a_list_that_was_interrupted_or_overtaken_by_an_event_is_read_again_after_a_pause() {
    let mut bench = Bench::knowing(&[]);
    bench.listeners.look_again(bench.now);
    let busy = Refusal { errno: Errno::BUSY, text: "", missing: None };
    for failure in [Failure::Interrupted, Failure::Refused(busy)] {
        let [(first, _)] = bench.questions()[..] else { panic!() };
        assert!(bench.listeners.end(first, Err(failure), bench.now));
        assert!(!bench.listeners.end(first, Ok(()), bench.now));
        assert_eq!(bench.questions(), []);
        bench.now = bench.listeners.deadline().unwrap();
    }
    for created in [true, false] {
        let [(ticket, _)] = bench.questions()[..] else { panic!() };
        if created {
            bench.created("0.0.0.0:80");
            assert!(bench.listeners.covers(ip("10.0.0.1"), 80));
        }
        assert!(bench.listeners.end(ticket, Ok(()), bench.now));
    }
    bench.now = bench.listeners.deadline().unwrap();
    bench.look(&["0.0.0.0:80"]);
    assert!(bench.listeners.covers(ip("10.0.0.1"), 80));
    assert_eq!(bench.listeners.deadline(), None);
}

#[test]
fn an_event_of_a_listener_counts_at_once_and_the_list_tells_the_rest() {
    let mut bench = Bench::knowing(&[]);
    bench.created("[::]:80");
    assert!(bench.listeners.take_changed());
    assert!(bench.listeners.covers(ip("fd00::1"), 80));
    assert!(!bench.listeners.covers(ip("10.0.0.1"), 80), "whether it takes IPv4 no event tells");
    assert_eq!(bench.questions(), [], "an application that listens again and again costs little");
    bench.now = bench.listeners.deadline().unwrap();
    bench.look(&["[::]:80"]);
    assert!(bench.listeners.take_changed() && bench.listeners.covers(ip("10.0.0.1"), 80));
    bench.closed("[::]:80");
    assert!(bench.listeners.covers(ip("10.0.0.1"), 80), "there may be another of the same address");
    bench.now = bench.listeners.deadline().unwrap();
    bench.look(&[]);
    assert!(!bench.listeners.covers(ip("10.0.0.1"), 80));
    bench.closed("[::]:80");
    assert_eq!(bench.listeners.deadline(), None, "nobody knew it");
}

#[test]
fn a_list_that_says_nothing_new_changes_nothing() {
    let mut bench = Bench::knowing(&["0.0.0.0:80", "[::]:443"]);
    bench.listeners.look_again(bench.now);
    bench.look(&["[::]:443", "0.0.0.0:80", "0.0.0.0:80"]);
    assert!(!bench.listeners.take_changed());
}

#[test]
fn without_a_list_events_have_to_do_and_it_is_asked_for_ever_more_seldom() {
    let now = Instant::now();
    let mut bench = Bench { listeners: Listeners::new(now), outbox: Outbox::new(true), now };
    bench.created("0.0.0.0:80");
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let questions = bench.questions();
        let refusal = Refusal { errno: Errno::NOENT, text: "", missing: None };
        assert!(bench.listeners.end(questions[0].0, Err(Failure::Refused(refusal)), bench.now));
        let next = bench.listeners.deadline().unwrap();
        pauses.push(next - bench.now);
        bench.now = next;
    }
    assert!(pauses[0] <= FIRST_RETRY && pauses[11] >= LONGEST_RETRY / 2);
    assert_eq!(bench.need("10.0.0.1", 80), Need::Nothing);
    assert_eq!(bench.need("10.0.0.1", 81), Need::Own);
}

#[test]
fn a_listener_of_ones_own_is_shared_and_closed_after_its_last_user() {
    let mut bench = Bench::knowing(&[]);
    let (wanted, port) = ("10.0.0.1:0", "10.0.0.1:40000");
    assert_eq!(bench.acquire(CONNECTION, wanted), None);
    assert_eq!(bench.acquire(ANOTHER, wanted), None);
    assert_eq!(bench.acquire(CONNECTION, wanted), None, "it is needed once, however often that is said");
    assert_eq!(bench.outputs(), [Output::Listen(at(wanted))]);
    bench.listening(wanted, Ok(port));
    assert!(bench.listeners.take_changed() && bench.listeners.is_own(at(port)));
    assert_eq!(bench.acquire(ANOTHER, wanted), Some(at(port)));
    bench.outputs();
    bench.keep(CONNECTION, &[at(wanted)]);
    bench.keep(CONNECTION, &[]);
    bench.keep(CONNECTION, &[]);
    assert_eq!(bench.outputs(), []);
    bench.keep(ANOTHER, &[at("10.0.0.2:0")]);
    assert_eq!(bench.outputs(), [Output::Unlisten(at(wanted))]);
    assert!(!bench.listeners.is_own(at(port)));
    bench.listening(wanted, Ok(port));
    assert!(!bench.listeners.is_own(at(port)), "nobody wants it any more");
}

#[test]
fn ones_own_listeners_cover_nothing() {
    let mut bench = Bench::knowing(&[]);
    bench.acquire(CONNECTION, "10.0.0.1:0");
    bench.listening("10.0.0.1:0", Ok("10.0.0.1:40000"));
    bench.created("10.0.0.1:40000");
    assert_eq!(bench.listeners.deadline(), None, "an event of it is no news");
    bench.listeners.look_again(bench.now);
    bench.look(&["10.0.0.1:40000", "0.0.0.0:80"]);
    assert!(!bench.listeners.covers(ip("10.0.0.1"), 40000));
    assert!(bench.listeners.covers(ip("10.0.0.1"), 80));
}

#[test]
fn listening_that_failed_is_said_once_and_tried_again_at_the_latest_when_the_network_changed() {
    let mut bench = Bench::knowing(&[]);
    let wanted = "10.0.0.1:0";
    bench.acquire(CONNECTION, wanted);
    bench.outputs();
    for again in [false, true] {
        bench.listening(wanted, Err(Errno(99)));
        let outputs = bench.outputs();
        let [Output::Log(Note::CannotListen { again: said, .. })] = outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(said, again);
        assert_eq!(bench.acquire(ANOTHER, wanted), None);
        bench.now = bench.listeners.deadline().unwrap();
        assert_eq!(bench.outputs(), [Output::Listen(at(wanted))]);
    }
    bench.listening(wanted, Err(Errno(99)));
    bench.outputs();
    bench.listeners.network_changed();
    assert_eq!(bench.outputs(), [Output::Listen(at(wanted))]);
    bench.listening(wanted, Err(Errno(99)));
    bench.outputs();
    bench.keep(CONNECTION, &[]);
    bench.keep(ANOTHER, &[]);
    assert_eq!((bench.outputs(), bench.listeners.deadline()), (vec![], None), "it never was open");
}

#[test]
fn where_connections_are_not_managed_any_more_all_of_ones_own_are_closed_and_the_others_are_forgotten() {
    let mut bench = Bench::knowing(&[]);
    for (wanted, open) in [("10.0.0.1:0", true), ("10.0.0.2:0", true), ("10.0.0.3:0", false)] {
        bench.acquire(CONNECTION, wanted);
        bench.listening(wanted, if open { Ok("10.0.0.1:40000") } else { Err(Errno(99)) });
    }
    bench.outbox.queue.clear();
    bench.listeners.forget(&mut bench.outbox, bench.now);
    let closed = [Output::Unlisten(at("10.0.0.1:0")), Output::Unlisten(at("10.0.0.2:0"))];
    assert_eq!(Vec::from_iter(bench.outbox.queue.drain(..)), closed);
    assert_eq!(bench.need("10.0.0.1", 80), Need::Unknown);
    bench.look(&[]);
    assert_eq!(bench.need("10.0.0.1", 80), Need::Own);
}

#[test]
fn an_ipv6_address_has_no_port_of_its_own_beside_timestamps_and_that_is_said_once() {
    let mut bench = Bench::knowing(&["[fd00::1]:80"]);
    assert_eq!(bench.need("fd00::1", 80), Need::Nothing);
    assert_eq!(bench.outputs(), []);
    assert_eq!(bench.need("fd00::2", 80), Need::Nobody);
    assert_eq!(bench.need("fd00::3", 80), Need::Nobody);
    assert_eq!(bench.outputs(), [Output::Log(Note::NoPortForIpv6(at("[fd00::2]:80")))]);
    bench.listeners.use_timestamps(true);
    assert!(!bench.listeners.take_changed());
    bench.listeners.use_timestamps(false);
    assert!(bench.listeners.take_changed());
    assert_eq!(bench.need("fd00::2", 80), Need::Own);
}

#[test]
fn where_no_event_tells_of_listeners_the_list_is_read_when_there_must_be_one_and_now_and_then() {
    let mut bench = Bench::knowing(&[]);
    let (local, remote) = (at("10.0.0.1:80"), at("192.0.2.1:40000"));
    let told = event::Connection { token: CONNECTION, local, remote, server_side: true, deny_join_id0: false };
    bench.listeners.apply(&MptcpEvent::Created(told));
    assert_eq!(bench.listeners.need(ip("10.0.1.1"), 80, &mut bench.outbox), Need::Unknown);
    bench.now += PAUSE;
    bench.look(&["0.0.0.0:80"]);
    assert!(bench.listeners.take_changed());
    assert_eq!(bench.listeners.need(ip("10.0.1.1"), 80, &mut bench.outbox), Need::Nothing);
    bench.listeners.apply(&MptcpEvent::Created(told));
    assert_eq!(bench.listeners.deadline(), None, "it is known");
    bench.listeners.look_now_and_then(bench.now);
    bench.look(&[]);
    assert_eq!(bench.listeners.need(ip("10.0.1.1"), 80, &mut bench.outbox), Need::Own, "nobody listens any more");
    bench.created("10.0.0.9:90");
    bench.now += PAUSE;
    bench.look(&["10.0.0.9:90"]);
    bench.listeners.apply(&MptcpEvent::Created(told));
    bench.listeners.look_now_and_then(bench.now);
    assert_eq!(bench.questions(), [], "events tell");
}

#[test]
fn a_wish_for_any_port_is_served_by_each_on_that_address() {
    let there = at("10.0.0.1:4000");
    assert!(serves(there, at("10.0.0.1:0")));
    assert!(serves(there, there));
    assert!(!serves(there, at("10.0.0.1:4001")));
    assert!(!serves(there, at("10.0.0.2:0")));
}
