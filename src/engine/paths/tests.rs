//! Single decisions about connections, one after the other, on virtual time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::command::{NewSubflow, PathCommand, SocketRequest, SubflowEnds};
use crate::diag::{self, Cookie, Role, SocketId, SubflowFlags, TcpState, Transfer};
use crate::engine::{Note, Output};
use crate::event::{Announcement, Connection, MptcpEvent, Subflow};
use crate::plugin::{Cause, ConnectionView, LocalAddress, Paths as Wants, Side, Unusable, WantedAnnouncement};
use crate::state_file::SavedConnection;
use crate::types::{AddressId, Errno, Family};
use crate::wire::Refusal;

/// Joins every usable address with every address of the peer, or announces them all.
struct Everything;

impl PathManager for Everything {
    fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, _: &mut Memo, want: &mut Wants) {
        for local in view.usable() {
            match connection.side {
                Side::Client => connection.remotes.iter().for_each(|remote| want.subflow(local, remote)),
                Side::Server => {
                    let address = local.address;
                    want.announce(WantedAnnouncement { address, port: None, local: address });
                }
            }
        }
    }
}

/// The connections of a host whose kernel is played by the test.
struct Bench {
    paths: Paths,
    listeners: Listeners,
    outbox: Outbox,
    addresses: Vec<LocalAddress<'static>>,
    policy: PathPolicy,
    routed: bool,
    /// Routes lead from each address through its interface, also what is not bound to it.
    led: bool,
    /// How often it was told that they do not.
    strays: usize,
    now: Instant,
    /// The commands of the last turn with what names their answers.
    asked: Vec<(Ticket, PathCommand)>,
    /// How the subflows from these addresses fare, if not idly.
    transfers: BTreeMap<IpAddr, Transfer>,
    /// Sockets looked at.
    looks: u32,
    /// Up to where data was sent and came on the connection.
    written: u64,
    received: u64,
    /// Up to where the peer acknowledged it; all of it unless that is said.
    taken: Option<u64>,
    /// The kernel lists its endpoints when it is asked for the addresses of a connection.
    old: bool,
    /// Joins without an answer.
    begun: Vec<(SocketAddr, SocketAddr)>,
}

const TOKEN: Token = Token(7);

/// A subflow of the connection, as the kernel shows it.
fn socket(local: SocketAddr, remote: SocketAddr) -> diag::Socket {
    let id = SocketId { local, remote, if_index: None, cookie: Cookie(3) };
    let ids = (AddressId(0), AddressId(0));
    let (token, remote_token, flags) = (TOKEN, Token(0), SubflowFlags::JOIN_LOCAL);
    let role = Role::Subflow(diag::SubflowInfo { token, remote_token, local_id: ids.0, remote_id: ids.1, flags });
    diag::Socket { id, state: TcpState::ESTABLISHED, inode: 1, v6_only: false, role, transfer: None }
}

impl Bench {
    /// Interfaces 1, 2, 3 have these addresses.
    fn new(addresses: &[&str]) -> Self {
        let addresses = (1..).zip(addresses).map(|(index, text)| LocalAddress::new(ip(text), IfIndex(index), "eth"));
        Self {
            paths: Paths::new(),
            listeners: Listeners::new(Instant::now()),
            outbox: Outbox::default(),
            addresses: addresses.collect(),
            policy: PathPolicy::default(),
            routed: true,
            led: true,
            strays: 0,
            now: Instant::now(),
            asked: Vec::new(),
            transfers: BTreeMap::new(),
            looks: 0,
            written: 1,
            received: 1,
            taken: None,
            old: false,
            begun: Vec::new(),
        }
    }

    /// The same, with an established connection that this host opened.
    fn client(addresses: &[&str]) -> Self {
        let mut bench = Self::new(addresses);
        bench.open(client(&format!("{}:40000", addresses[0]), "192.0.2.1:80"));
        bench
    }

    /// The same, with one that it accepted; the application listens on every address.
    fn server(addresses: &[&str]) -> Self {
        let mut bench = Self::new(addresses);
        for _ in [Family::V4, Family::V6] {
            bench.listeners.advance(&mut bench.outbox, bench.now);
            let Some(Output::Send(ticket, _)) = bench.outbox.queue.pop_front() else { panic!() };
            bench.listeners.end(ticket, Ok(()), bench.now);
        }
        bench.listeners.apply(&MptcpEvent::ListenerCreated(end("0.0.0.0:80")));
        bench.open(server(&format!("{}:80", addresses[0]), "192.0.2.1:40000"));
        bench
    }

    fn open(&mut self, told: Connection) {
        self.apply(MptcpEvent::Created(told));
        self.apply(MptcpEvent::Established(told));
    }

    fn apply(&mut self, event: MptcpEvent) {
        self.paths.apply(&event, &self.policy, self.now);
    }

    /// What is asked of the kernel until there is no more to do; questions about routes are answered.
    fn turn(&mut self) -> Vec<PathCommand> {
        self.asked.clear();
        for _ in 0..100 {
            let view = View::new(&self.addresses);
            let host = Host { view: &view, manager: &Everything, policy: self.policy, now: self.now };
            self.paths.advance(&host, &mut self.listeners, &mut self.outbox);
            while let Some(output) = self.outbox.queue.pop_front() {
                let Output::Send(ticket, request) = output else {
                    self.strays += usize::from(matches!(output, Output::Log(Note::LeadsElsewhere { .. })));
                    continue;
                };
                match request {
                    Request::AskRoute(question) => {
                        let way = match (self.routed, question.bound || self.led) {
                            (true, true) => Way::Through,
                            (true, false) => Way::Elsewhere,
                            (false, _) => Way::Nowhere,
                        };
                        self.paths.end_way(ticket, way, &mut self.outbox, self.now);
                    }
                    Request::Path(PathCommand::Probe(TOKEN)) => {
                        assert!(self.paths.end(ticket, Ok(()), &self.policy, (&mut self.outbox, self.now)));
                    }
                    Request::Path(PathCommand::ListAddresses(Token(0))) => {
                        let refusal = Refusal { errno: Errno::INVAL, text: "invalid token", missing: None };
                        let result = if self.old { Ok(()) } else { Err(Failure::Refused(refusal)) };
                        let (id, address, flags) = (AddressId(77), ip("10.0.1.1"), EndpointFlags::SIGNAL);
                        let endpoint = Endpoint { id, address, port: 0, flags, if_index: None };
                        assert!(!self.old || self.paths.collect(ticket, &endpoint));
                        assert!(self.paths.end(ticket, result, &self.policy, (&mut self.outbox, self.now)));
                    }
                    Request::Path(command) => self.asked.push((ticket, command)),
                    Request::Sockets(request) => self.answer(ticket, &request),
                    other => panic!("{other}"),
                }
            }
            if !self.paths.has_work() {
                assert!(self.paths.deadline().is_none_or(|time| time > self.now), "it would turn for ever");
                return self.asked.iter().map(|(_, command)| *command).collect();
            }
        }
        panic!("it turns for ever: {:#?}", self.paths);
    }

    /// Answers a question about a socket; a reset counts as a command.
    fn answer(&mut self, ticket: Ticket, request: &SocketRequest) {
        let mut answers = Vec::new();
        match request {
            SocketRequest::Destroy(id) => {
                assert_ne!(id.cookie, Cookie::ANY, "an application's listener may be meant");
                let ends = SubflowEnds { token: TOKEN, local: id.local, remote: id.remote };
                return self.asked.push((ticket, PathCommand::DestroySubflow(ends)));
            }
            SocketRequest::Subflow(id) => {
                self.looks += 1;
                let transfer = self.transfers.get(&id.local.ip().to_canonical()).copied().unwrap_or_default();
                answers.push(diag::Socket { transfer: Some(transfer), ..socket(id.local, id.remote) });
            }
            SocketRequest::Connection(token) => {
                let (write_sequence, receive_next) = (self.written, self.received);
                let unacknowledged = self.taken.unwrap_or(write_sequence);
                let info = diag::ConnectionInfo {
                    token: *token,
                    fallback: false,
                    write_sequence,
                    unacknowledged,
                    receive_next,
                };
                let any = end("0.0.0.0:0");
                answers.push(diag::Socket { role: Role::Connection(info), ..socket(any, any) });
            }
            SocketRequest::Beginning(Family::V6) => {}
            SocketRequest::Beginning(Family::V4) => {
                let state = TcpState::SYN_SENT;
                answers.extend(self.begun.iter().map(|(local, to)| diag::Socket { state, ..socket(*local, *to) }));
            }
            other => panic!("{other}"),
        }
        let (liveness, now) = (self.policy.liveness, self.now);
        for socket in answers {
            self.paths.collect_socket(ticket, &socket, &liveness, &mut self.outbox, now);
        }
        assert!(self.paths.end(ticket, Ok(()), &self.policy, (&mut self.outbox, now)));
    }

    /// The local addresses of the subflows that are begun.
    fn begun(&mut self) -> Vec<String> {
        let begun = self.turn().into_iter().filter_map(|command| match command {
            PathCommand::CreateSubflow(new) => Some(new.local.to_string()),
            _ => None,
        });
        begun.collect()
    }

    fn later(&mut self, time: Duration) {
        self.now += time;
    }

    fn refuse_all(&mut self, text: &str) {
        for (ticket, _) in std::mem::take(&mut self.asked) {
            let refusal = Refusal { errno: Errno::INVAL, text, missing: None };
            self.paths.end(ticket, Err(Failure::Refused(refusal)), &self.policy, (&mut self.outbox, self.now));
        }
    }

    /// Every join on its way is established, from port 50000 and an id of the kernel's liking.
    fn establish_all(&mut self) {
        for (_, command) in std::mem::take(&mut self.asked) {
            if let PathCommand::CreateSubflow(new) = command {
                self.apply(MptcpEvent::SubflowEstablished(told(&new)));
            }
        }
    }

    /// Joins are begun and established, and have proved sound.
    fn settle(&mut self) {
        self.turn();
        self.establish_all();
        self.turn();
        self.later(Duration::from_secs(10));
        assert_eq!(self.turn(), []);
    }

    fn change(&mut self, address: &str, change: impl FnOnce(&mut LocalAddress<'static>)) {
        let found = self.addresses.iter_mut().find(|local| local.address == ip(address));
        change(found.unwrap());
        self.paths.network_changed();
    }

    fn link(&mut self, address: &str, up: bool) {
        self.change(address, |local| {
            local.alive = up;
            local.unusable = (!up).then_some(Unusable::NoCarrier);
        });
    }

    fn announced(&mut self, id: u8, remote: &str) {
        let (remote_id, remote) = (AddressId(id), end(remote));
        self.apply(MptcpEvent::Announced(Announcement { token: TOKEN, remote_id, remote }));
    }

    fn managed(&mut self) -> &mut Managed {
        self.paths.live.get_mut(TOKEN).unwrap()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn client(local: &str, remote: &str) -> Connection {
    let (local, remote) = (end(local), end(remote));
    Connection { token: TOKEN, local, remote, server_side: false, deny_join_id0: false }
}

fn server(local: &str, remote: &str) -> Connection {
    Connection { server_side: true, ..client(local, remote) }
}

/// A subflow as events tell it, once established.
fn told(new: &NewSubflow) -> Subflow {
    let NewSubflow { token, local, local_id, remote, remote_id, if_index, .. } = *new;
    let local = SocketAddr::new(local, 50000);
    Subflow { token, local, remote, local_id, remote_id, backup: false, if_index, error: None, reset: None }
}

fn flow(local: &str, remote: &str, id: u8) -> Subflow {
    let (local, remote) = (end(local), end(remote));
    let (local_id, remote_id) = (AddressId(id), AddressId(0));
    let (backup, if_index) = (false, None);
    Subflow { token: TOKEN, local, remote, local_id, remote_id, backup, if_index, error: None, reset: None }
}

fn destroy(local: &str, remote: &str) -> PathCommand {
    PathCommand::DestroySubflow(ends(local, remote))
}

fn ends(local: &str, remote: &str) -> SubflowEnds {
    SubflowEnds { token: TOKEN, local: end(local), remote: end(remote) }
}

fn remove(id: u8) -> PathCommand {
    PathCommand::Remove(TOKEN, AddressId(id))
}

#[test]
fn a_connection_gets_the_subflows_that_it_lacks_once_it_is_established_and_not_before() {
    let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1"]);
    let told = client("10.0.0.1:40000", "192.0.2.1:80");
    bench.apply(MptcpEvent::Created(told));
    assert_eq!(bench.begun(), [""; 0]);
    bench.apply(MptcpEvent::Established(told));
    assert_eq!(bench.begun(), ["10.0.1.1"]);
    assert_eq!(bench.begun(), [""; 0], "it is on its way");
}

#[test]
fn what_comes_after_closed_is_of_the_connection_that_was_closed() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.apply(MptcpEvent::Closed(TOKEN));
    bench.apply(MptcpEvent::Established(client("10.0.0.1:40000", "192.0.2.1:80")));
    assert_eq!(bench.turn(), []);
    assert!(bench.paths.live.is_empty());
    bench.open(client("10.0.0.1:40001", "192.0.2.1:80"));
    assert_eq!(bench.begun(), ["10.0.1.1"], "a connection that is created with that token is new");
}

#[test]
fn connections_that_stay_on_this_host_are_left_alone() {
    for remote in ["10.0.0.1:80", "127.0.0.1:80", "10.0.1.1:80"] {
        let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1"]);
        bench.open(client("10.0.0.1:40000", remote));
        assert_eq!(bench.turn(), [], "{remote}");
    }
}

#[test]
fn a_connection_whose_token_the_kernel_does_not_know_is_forgotten_and_one_of_its_own_is_left_alone() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.turn();
    bench.refuse_all("invalid token");
    assert!(bench.paths.live.is_empty());
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.turn();
    bench.refuse_all("userspace PM not selected");
    bench.later(Duration::from_secs(1000));
    bench.announced(1, "192.0.2.2:80");
    bench.paths.network_changed();
    assert_eq!(bench.turn(), []);
}

#[test]
fn joins_to_the_initial_address_that_the_peer_denies_are_not_tried() {
    let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1"]);
    bench.open(Connection { deny_join_id0: true, ..client("10.0.0.1:40000", "192.0.2.1:80") });
    bench.announced(1, "192.0.2.1:80");
    assert_eq!(bench.turn(), [], "nor when it is announced all the same");
    bench.announced(2, "192.0.2.2:80");
    assert_eq!(bench.begun(), ["10.0.0.1", "10.0.1.1"]);
}

#[test]
fn an_initial_address_that_the_peer_withdrew_is_joined_again_once_it_is_announced() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.apply(MptcpEvent::Removed(TOKEN, AddressId(0)));
    assert_eq!(bench.turn(), []);
    bench.announced(3, "192.0.2.1:80");
    assert_eq!(bench.begun(), ["10.0.1.1"]);
}

#[test]
fn a_peer_cannot_have_joined_what_is_no_address_of_its_own() {
    let mut bench = Bench::client(&["10.0.0.1"]);
    for (id, remote) in [(0, "192.0.2.9:80"), (1, "127.0.0.1:80"), (2, "10.0.0.1:80"), (3, "[2001:db8::1]:80")] {
        bench.announced(id, remote);
        assert_eq!(bench.turn(), [], "{remote}");
    }
    bench.announced(4, "[::ffff:192.0.2.2]:80");
    assert_eq!(bench.begun(), ["10.0.0.1"]);
    bench.announced(4, "127.0.0.1:80");
    assert!(bench.managed().connection.remotes.iter().all(|(id, _)| *id != AddressId(4)), "the id is another's now");
}

#[test]
fn a_peer_that_announces_and_withdraws_for_ever_is_not_remembered_without_bound() {
    let mut bench = Bench::client(&["10.0.0.1"]);
    for n in 0..1000u32 {
        bench.announced(1, &format!("192.0.2.2:{}", 1000 + n));
        bench.turn();
        for (_, command) in std::mem::take(&mut bench.asked) {
            let PathCommand::CreateSubflow(new) = command else { continue };
            bench.apply(MptcpEvent::SubflowClosed(Subflow { error: Some(Errno(111)), ..told(&new) }));
        }
        bench.apply(MptcpEvent::Removed(TOKEN, AddressId(1)));
        bench.later(Duration::from_millis(20));
    }
    let (attempts, timers) = (bench.managed().attempts.len(), bench.paths.timers.len());
    assert!(attempts <= 64 && timers <= 128, "{attempts} attempts, {timers} timers");
}

#[test]
fn an_ipv4_socket_gets_no_ipv6_subflow_and_an_ipv6_one_gets_both() {
    for (local, remote, expected) in [
        ("10.0.0.1:40000", "192.0.2.1:80", &[][..]),
        ("[::ffff:10.0.0.1]:40000", "[::ffff:192.0.2.1]:80", &["fd00::1"][..]),
    ] {
        let mut bench = Bench::new(&["10.0.0.1", "fd00::1"]);
        bench.open(client(local, remote));
        bench.announced(1, "[2001:db8::1]:80");
        assert_eq!(bench.begun(), expected, "{local}");
    }
}

#[test]
fn a_subflow_is_named_in_the_form_in_which_it_was_told() {
    let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1"]);
    bench.open(client("[::ffff:10.0.0.1]:40000", "[::ffff:192.0.2.1]:80"));
    bench.settle();
    bench.link("10.0.0.1", false);
    assert_eq!(bench.turn(), [remove(0), destroy("[::ffff:10.0.0.1]:40000", "[::ffff:192.0.2.1]:80")]);
}

#[test]
fn an_address_is_withdrawn_before_its_last_subflow_is_closed_and_only_then() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.announced(1, "192.0.2.2:80");
    bench.settle();
    let count = bench.managed().connection.subflows.len();
    assert_eq!(count, 4, "each with each");
    bench.apply(MptcpEvent::Removed(TOKEN, AddressId(1)));
    let closed = [destroy("10.0.1.1:50000", "192.0.2.2:80"), destroy("10.0.0.1:50000", "192.0.2.2:80")];
    let mut found = bench.turn();
    found.sort_by_key(|command| command.to_string());
    let mut expected = closed.to_vec();
    expected.sort_by_key(|command| command.to_string());
    assert_eq!(found, expected, "others have the addresses still");
    for (local, id) in [("10.0.1.1:50000", 1), ("10.0.0.1:50000", 0)] {
        bench.apply(MptcpEvent::SubflowClosed(flow(local, "192.0.2.2:80", id)));
    }
    bench.link("10.0.1.1", false);
    assert_eq!(bench.turn(), [remove(1), destroy("10.0.1.1:50000", "192.0.2.1:80")]);
}

#[test]
fn a_dead_subflow_stays_until_another_is_there_and_a_doubtful_one_until_that_has_proved_sound() {
    let mut bench = Bench::client(&["10.0.0.1"]);
    bench.link("10.0.0.1", false);
    assert_eq!(bench.turn(), [], "it is the only one");
    bench.link("10.0.0.1", true);
    assert_eq!(bench.begun(), ["10.0.0.1"], "it is not trusted");
    bench.establish_all();
    assert_eq!(bench.turn(), [], "the peer may have enough");
    bench.later(Duration::from_secs(1));
    assert_eq!(bench.turn(), [destroy("10.0.0.1:40000", "192.0.2.1:80")]);
}

#[test]
fn a_connection_of_whose_end_nobody_told_is_found_gone_within_two_minutes() {
    let mut bench = Bench::client(&["10.0.0.1"]);
    let others = 1..3;
    others.for_each(|n| bench.open(Connection { token: Token(n), ..client("10.0.0.1:40000", "192.0.2.1:80") }));
    let mut gone = BTreeSet::new();
    for second in 0..120 {
        if second % 30 == 0 {
            bench.paths.begin_check();
        }
        bench.turn();
        for (_, command) in std::mem::take(&mut bench.asked) {
            let PathCommand::Probe(token) = command else { panic!("{command}") };
            let (ticket, ..) = *bench.paths.asked.iter().find(|(_, asked, _)| *asked == token).unwrap();
            let refusal = Refusal { errno: Errno::INVAL, text: "invalid token", missing: None };
            bench.paths.end(ticket, Err(Failure::Refused(refusal)), &bench.policy, (&mut bench.outbox, bench.now));
            gone.insert(token);
        }
        bench.later(Duration::from_secs(1));
    }
    assert_eq!(gone, BTreeSet::from([Token(1), Token(2)]), "the third is there, as the bench says");
    assert_eq!(bench.paths.live.len(), 1);
}

#[test]
fn a_connection_that_is_left_alone_is_found_gone_too() {
    let mut bench = Bench::new(&["10.0.0.1"]);
    bench.open(Connection { token: Token(5), ..client("127.0.0.1:40000", "127.0.0.1:80") });
    bench.paths.begin_check();
    assert_eq!(bench.turn(), [PathCommand::Probe(Token(5))]);
    bench.refuse_all("invalid token");
    assert!(bench.paths.live.is_empty());
}

#[test]
fn what_was_dead_is_trusted_again_when_the_peer_takes_nothing_else() {
    let mut bench = Bench::client(&["10.0.0.1"]);
    bench.link("10.0.0.1", false);
    bench.turn();
    bench.link("10.0.0.1", true);
    assert_eq!(bench.begun(), ["10.0.0.1"]);
    bench.establish_all();
    bench.turn();
    bench.apply(MptcpEvent::SubflowClosed(flow("10.0.0.1:50000", "192.0.2.1:80", 0)));
    for _ in 0..400 {
        bench.later(Duration::from_secs(1));
        assert_eq!(bench.turn(), [], "it is neither closed nor doubled");
    }
}

#[test]
fn an_address_on_another_interface_is_another_path() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.turn();
    let (_, command) = bench.asked[0];
    let PathCommand::CreateSubflow(first) = command else { panic!("{command}") };
    bench.establish_all();
    bench.settle();
    bench.change("10.0.1.1", |local| local.if_index = IfIndex(9));
    let local_id = AddressId(2);
    let again = PathCommand::CreateSubflow(NewSubflow { if_index: Some(IfIndex(9)), local_id, ..first });
    // The socket of the old one is looked up before it is reset.
    let closed = destroy("10.0.1.1:50000", "192.0.2.1:80");
    assert_eq!(bench.turn(), [remove(1), again, closed], "the peer must not take the new one for the old");
}

#[test]
fn there_are_no_more_subflows_than_may_be() {
    let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1", "10.0.2.1", "10.0.3.1"]);
    bench.policy.max_subflows = 3;
    bench.open(client("10.0.0.1:40000", "192.0.2.1:80"));
    assert_eq!(bench.begun(), ["10.0.1.1", "10.0.2.1"]);
    bench.establish_all();
    assert_eq!(bench.begun(), [""; 0]);
}

#[test]
fn trying_again_what_fails_closes_nothing_that_works() {
    let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1", "10.0.2.1"]);
    bench.policy.max_subflows = 2;
    bench.open(client("10.0.0.1:40000", "192.0.2.1:80"));
    assert_eq!(bench.begun(), ["10.0.1.1"]);
    let (_, command) = bench.asked[0];
    let PathCommand::CreateSubflow(first) = command else { panic!("{command}") };
    bench.apply(MptcpEvent::SubflowClosed(Subflow { error: Some(Errno(111)), ..told(&first) }));
    assert_eq!(bench.begun(), ["10.0.2.1"], "the next takes its place");
    bench.establish_all();
    for _ in 0..400 {
        bench.later(Duration::from_secs(1));
        assert_eq!(bench.turn(), []);
    }
}

#[test]
fn an_interface_gets_no_more_subflows_than_it_may_have_the_initial_one_included() {
    let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1"]);
    bench.addresses.iter_mut().for_each(|local| local.max_subflows = Some(1));
    bench.open(client("10.0.0.1:40000", "192.0.2.1:80"));
    bench.announced(1, "192.0.2.2:80");
    assert_eq!(bench.begun(), ["10.0.1.1"]);

    let mut bench = Bench::new(&["10.0.0.1"]);
    bench.addresses[0].max_subflows = Some(1);
    bench.open(Connection { deny_join_id0: true, ..client("10.0.0.1:40000", "192.0.2.1:80") });
    bench.announced(1, "192.0.2.2:80");
    assert_eq!(bench.begun(), [""; 0], "the initial one is not wanted, and stays");
}

#[test]
fn what_has_no_route_takes_no_place_and_is_begun_when_it_may_have_one() {
    let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1"]);
    bench.routed = false;
    bench.open(client("10.0.0.1:40000", "192.0.2.1:80"));
    assert_eq!(bench.turn(), []);
    for _ in 0..100 {
        bench.announced(1, "192.0.2.2:80");
        bench.announced(1, "192.0.2.3:80");
        bench.turn();
    }
    assert_eq!(bench.paths.unrouted.len(), 1);
    bench.routed = true;
    bench.paths.routing_changed(RoutingChange::Prefix(ip("0.0.0.0"), 0));
    assert_eq!(bench.begun(), ["10.0.0.1", "10.0.1.1", "10.0.1.1"]);
    assert!(bench.paths.unrouted.is_empty());
}

#[test]
fn the_backup_flag_is_corrected_in_both_directions_also_on_what_is_not_wanted() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.settle();
    bench.apply(MptcpEvent::Removed(TOKEN, AddressId(0)));
    for backup in [true, false] {
        bench.change("10.0.0.1", |local| local.backup = backup);
        let expected = PathCommand::SetBackup(ends("10.0.0.1:40000", "192.0.2.1:80"), backup);
        assert!(bench.turn().contains(&expected), "{backup}");
    }
}

#[test]
fn an_announcement_that_cannot_be_withdrawn_without_loss_waits() {
    let mut bench = Bench::server(&["10.0.0.1", "10.0.1.1"]);
    assert_eq!(bench.turn().len(), 1, "the other address");
    bench.apply(MptcpEvent::SubflowEstablished(flow("10.0.1.1:80", "192.0.2.1:40001", 1)));
    bench.apply(MptcpEvent::SubflowClosed(flow("10.0.0.1:80", "192.0.2.1:40000", 0)));
    bench.change("10.0.1.1", |local| local.unusable = Some(Unusable::Deprecated));
    assert_eq!(bench.turn(), [], "the peer would close the last");
    bench.apply(MptcpEvent::SubflowEstablished(flow("10.0.0.1:80", "192.0.2.1:40002", 0)));
    assert_eq!(bench.turn(), [remove(1), destroy("10.0.1.1:80", "192.0.2.1:40001")]);
}

#[test]
fn of_a_connection_that_was_found_without_a_subflow_nothing_is_announced_before_it_has_one() {
    let mut bench = Bench::server(&["10.0.0.1", "10.0.1.1"]);
    bench.managed().role_in_doubt = true;
    bench.apply(MptcpEvent::SubflowClosed(flow("10.0.0.1:80", "192.0.2.1:40000", 0)));
    assert_eq!(bench.turn(), []);
    bench.apply(MptcpEvent::SubflowEstablished(flow("10.0.0.1:80", "192.0.2.1:40002", 0)));
    assert!(matches!(bench.turn()[..], [PathCommand::Announce(made)] if made.address == ip("10.0.1.1")));
}

#[test]
fn what_was_saved_is_not_lost_by_what_is_written_before_the_connections_are_read() {
    let mut bench = Bench::new(&["10.0.0.1"]);
    let (local, remote) = (end("10.0.0.1:40009"), end("192.0.2.1:80"));
    let (deny_join_id0, initial_withdrawn, remotes) = (true, false, Vec::new());
    let saved = SavedConnection { token: Token(9), local, remote, deny_join_id0, initial_withdrawn, remotes };
    bench.paths.adopt([(Token(9), saved)].into_iter().collect(), bench.now);
    bench.open(client("10.0.0.1:40000", "192.0.2.1:80"));
    let mut lines = String::new();
    bench.paths.write_all(&mut lines);
    assert_eq!(lines, "open 9 10.0.0.1:40009 192.0.2.1:80 denied\nopen 7 10.0.0.1:40000 192.0.2.1:80\n");
}

#[test]
fn a_refused_announcement_is_made_again_later_with_the_id_that_the_kernel_has() {
    let mut bench = Bench::server(&["10.0.0.1", "10.0.1.1"]);
    let made = bench.turn();
    bench.refuse_all("no memory");
    assert_eq!(bench.turn(), [], "there is a pause");
    bench.later(Duration::from_secs(1));
    assert_eq!(bench.turn(), made);
    bench.refuse_all("did not match address and id");
    assert_eq!(bench.turn(), [PathCommand::ListAddresses(TOKEN)]);
    bench.apply(MptcpEvent::SubflowEstablished(flow("10.0.1.1:80", "192.0.2.1:40001", 9)));
    bench.later(Duration::from_secs(2));
    let commands = bench.turn();
    assert!(matches!(commands[..], [PathCommand::Announce(made)] if made.id == AddressId(9)), "{commands:?}");
}

/// A list of the kernel's ids that names these as announced.
fn list(bench: &mut Bench, ids: &[(&str, u8)]) {
    let asked = std::mem::take(&mut bench.asked);
    let mut lists = asked.into_iter().filter(|(_, command)| *command == PathCommand::ListAddresses(TOKEN));
    let (ticket, _) = lists.next().unwrap();
    for (address, id) in ids {
        let (id, address, flags) = (AddressId(*id), ip(address), EndpointFlags::SIGNAL);
        bench.paths.collect(ticket, &Endpoint { id, address, port: 0, flags, if_index: None });
    }
    bench.paths.end(ticket, Ok(()), &bench.policy, (&mut bench.outbox, bench.now));
}

#[test]
fn an_address_that_an_earlier_run_announced_with_a_port_is_listened_on_there() {
    let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1"]);
    for _ in [Family::V4, Family::V6] {
        bench.listeners.advance(&mut bench.outbox, bench.now);
        let Some(Output::Send(ticket, _)) = bench.outbox.queue.pop_front() else { panic!() };
        bench.listeners.end(ticket, Ok(()), bench.now);
    }
    bench.listeners.apply(&MptcpEvent::ListenerCreated(end("10.0.0.1:80")));
    bench.open(server("10.0.0.1:80", "192.0.2.1:40000"));
    bench.apply(MptcpEvent::SubflowEstablished(flow("10.0.1.1:54201", "192.0.2.1:40001", 3)));
    bench.managed().doubts_ids = true;
    bench.managed().awaits_list = true;
    assert_eq!(bench.turn(), [PathCommand::ListAddresses(TOKEN)]);
    let (ticket, _) = bench.asked.pop().unwrap();
    let (id, flags) = (AddressId(3), EndpointFlags::SIGNAL);
    let listed = Endpoint { id, address: ip("10.0.1.1"), port: 54201, flags, if_index: None };
    bench.paths.collect(ticket, &listed);
    bench.paths.end(ticket, Ok(()), &bench.policy, (&mut bench.outbox, bench.now));
    assert_eq!(bench.turn(), [], "it is announced");
    let there = end("10.0.1.1:54201");
    bench.listeners.listening(there, Ok(there), &mut bench.outbox, bench.now);
    assert!(bench.listeners.is_own(there), "that was asked for");
    bench.paths.network_changed();
    assert_eq!(bench.turn(), []);
    assert!(bench.listeners.is_own(there), "and is needed");
}

#[test]
fn whether_an_announcement_was_taken_whose_answer_is_lost_is_asked() {
    for taken in [true, false] {
        let mut bench = Bench::server(&["10.0.0.1", "10.0.1.1"]);
        let made = bench.turn();
        bench.paths.forget_requests(bench.now);
        assert_eq!(bench.turn(), [PathCommand::ListAddresses(TOKEN)]);
        list(&mut bench, if taken { &[("10.0.1.1", 1)] } else { &[] });
        assert_eq!(bench.turn(), if taken { Vec::new() } else { made });
    }
}

#[test]
fn an_answer_about_ids_of_before_another_command_is_not_believed() {
    let mut bench = Bench::server(&["10.0.0.1", "10.0.1.1"]);
    bench.turn();
    bench.apply(MptcpEvent::SubflowEstablished(flow("10.0.1.1:80", "192.0.2.1:40001", 9)));
    let (first, asked) = (bench.turn(), bench.asked.clone());
    assert_eq!(first, [PathCommand::ListAddresses(TOKEN)], "what was announced is in doubt");
    bench.change("10.0.1.1", |local| local.backup = true);
    bench.turn();
    bench.asked = asked;
    list(&mut bench, &[]);
    assert_eq!(bench.turn(), [PathCommand::ListAddresses(TOKEN)], "it is asked again");
}

#[test]
fn no_id_is_given_to_two_addresses() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1", "10.0.2.1", "10.0.3.1"]);
    bench.apply(MptcpEvent::SubflowEstablished(flow("10.0.3.1:40000", "192.0.2.9:41000", 1)));
    let ids = bench.turn().into_iter().map(|command| match command {
        PathCommand::CreateSubflow(new) => (new.local.to_string(), new.local_id.0),
        other => panic!("{other}"),
    });
    let ids: Vec<_> = ids.collect();
    let expected = [("10.0.1.1", 2), ("10.0.2.1", 3), ("10.0.3.1", 1)].map(|(local, id)| (local.to_owned(), id));
    assert_eq!(ids, expected, "the peer joined the last, to which the kernel gave that id");
}

#[test]
fn every_connection_is_looked_at_though_the_network_changes_all_the_time() {
    let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1"]);
    for n in 0..500 {
        bench.open(Connection { token: Token(n), ..client("10.0.0.1:40000", "192.0.2.1:80") });
    }
    bench.routed = false;
    bench.turn();
    bench.paths.view_changed = true;
    let mut looked = BTreeSet::new();
    for _ in 0..20 {
        bench.paths.network_changed();
        bench.paths.rerouted = false;
        let before: BTreeSet<Token> = bench.paths.sweep.iter().copied().collect();
        let view = View::new(&bench.addresses);
        let host = Host { view: &view, manager: &Everything, policy: bench.policy, now: bench.now };
        bench.paths.advance(&host, &mut bench.listeners, &mut bench.outbox);
        let after: BTreeSet<Token> = bench.paths.sweep.iter().copied().collect();
        looked.extend(before.difference(&after).copied());
        assert!(bench.paths.sweep.len() <= 500, "each once");
    }
    assert_eq!(looked.len(), 500);
}

#[test]
fn questions_about_routes_beyond_the_most_wait_without_turning_the_loop() {
    let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1"]);
    for n in 0..200u8 {
        let told = client("10.0.0.1:40000", &format!("192.0.2.{n}:80"));
        bench.open(Connection { token: Token(n.into()), ..told });
    }
    let mut asked = Vec::new();
    for _ in 0..20 {
        let view = View::new(&bench.addresses);
        let host = Host { view: &view, manager: &Everything, policy: bench.policy, now: bench.now };
        bench.paths.advance(&host, &mut bench.listeners, &mut bench.outbox);
        asked.extend(bench.outbox.queue.drain(..));
    }
    assert_eq!(asked.len(), 64);
    assert!(!bench.paths.has_work(), "there is nothing to do before an answer comes");
    for output in asked {
        let Output::Send(ticket, _) = output else { continue };
        bench.paths.end_way(ticket, Way::Through, &mut bench.outbox, bench.now);
    }
    assert_eq!(bench.begun().len(), 200, "all get their turn");
}

#[test]
fn nothing_is_left_of_connections_that_are_gone() {
    let mut bench = Bench::new(&["10.0.0.1", "10.0.1.1"]);
    for n in 0..300 {
        bench.open(Connection { token: Token(n), ..client("10.0.0.1:40000", "192.0.2.1:80") });
        bench.routed = n % 2 == 0;
        bench.paths.routing_changed(RoutingChange::Everything);
        bench.turn();
        bench.refuse_all("no memory");
        bench.turn();
        bench.apply(MptcpEvent::Closed(Token(n)));
    }
    bench.turn();
    let paths = &bench.paths;
    assert!(paths.asked.is_empty() && paths.unrouted.is_empty() && paths.timers.is_empty(), "{paths:#?}");
}

#[test]
fn a_path_that_always_fails_is_tried_ever_more_seldom() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    let (start, mut tries) = (bench.now, Vec::new());
    while bench.now < start + Duration::from_secs(300) {
        bench.turn();
        for (_, command) in std::mem::take(&mut bench.asked) {
            let PathCommand::CreateSubflow(new) = command else { panic!("{command}") };
            tries.push(bench.now - start);
            bench.apply(MptcpEvent::SubflowClosed(Subflow { error: Some(Errno(111)), ..told(&new) }));
        }
        bench.turn();
        bench.now = bench.paths.deadline().unwrap();
    }
    let pauses: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((8..=16).contains(&tries.len()), "{pauses:?}");
    assert!(pauses[0] <= Duration::from_secs(1) && pauses[3] >= Duration::from_secs(6), "{pauses:?}");
    assert!(tries.iter().filter(|time| time.as_secs() < 60).count() >= 8, "a young connection waits 10 s at most");
}

impl Bench {
    /// Time passes, with looks as they are due, while a subflow acknowledges nothing of what was sent.
    fn is_silent(&mut self, local: &str, time: Duration) -> Vec<PathCommand> {
        let (mut done, step) = (Vec::new(), Duration::from_millis(20));
        for _ in 0..time.as_millis() / step.as_millis() {
            self.later(step);
            let transfer = self.transfers.entry(ip(local)).or_default();
            (transfer.unacknowledged, transfer.outstanding) = (3, 3000);
            transfer.delivery_rate = 10_000_000;
            transfer.last_acknowledgement += step;
            done.extend(self.turn());
        }
        done
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// A connection with two subflows on which data moves.
fn busy() -> Bench {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.settle();
    bench.written += 1;
    bench.paths.begin_check();
    assert_eq!(bench.turn(), []);
    bench
}

#[test]
fn a_silent_subflow_is_withdrawn_and_reset_and_its_path_tried_again_at_once() {
    let mut bench = busy();
    let done = bench.is_silent("10.0.0.1", SECOND);
    let closed = destroy("10.0.0.1:40000", "192.0.2.1:80");
    let [PathCommand::Remove(TOKEN, AddressId(0)), PathCommand::CreateSubflow(new), last] = done[..] else {
        panic!("{done:?}")
    };
    assert_eq!((new.local, new.local_id, last), (ip("10.0.0.1"), AddressId(2), closed));
    let attempt = bench.managed().attempts[0].shown();
    assert_eq!(attempt.lost.map(|lost| lost.cause), Some(Cause::Silence));
}

#[test]
fn a_silent_subflow_that_is_the_last_is_kept_until_another_works() {
    let mut bench = busy();
    bench.link("10.0.1.1", false);
    assert_eq!(bench.turn().len(), 2, "withdrawn and closed");
    let flow = bench.managed().connection.subflows.iter().find(|flow| flow.closing).copied().unwrap();
    bench.apply(MptcpEvent::SubflowClosed(ended(&flow, Some(Errno::CONNABORTED))));
    assert_eq!(bench.is_silent("10.0.0.1", SECOND), []);
    assert!(bench.managed().connection.subflows[0].health.is_sound(), "nothing else is there to be compared");
    bench.link("10.0.1.1", true);
    bench.turn();
    bench.establish_all();
    let done = bench.is_silent("10.0.0.1", SECOND);
    assert!(done.contains(&destroy("10.0.0.1:40000", "192.0.2.1:80")), "{done:?}");
}

/// What tells of the end of a subflow.
fn ended(flow: &crate::connections::Subflow, error: Option<Errno>) -> Subflow {
    let (local, remote, local_id) = (flow.local.told(), flow.remote.told(), flow.local_id);
    let (remote_id, backup, if_index) = (AddressId(0), false, flow.if_index);
    Subflow { token: TOKEN, local, remote, local_id, remote_id, backup, if_index, error, reset: None }
}

#[test]
fn a_path_that_falls_silent_again_and_again_is_tried_ever_more_seldom() {
    let mut bench = busy();
    let mut joins = 0;
    for _ in 0..200 {
        // Joins get through, what is sent on them does not.
        joins += bench.asked.iter().filter(|(_, command)| matches!(command, PathCommand::CreateSubflow(_))).count();
        bench.establish_all();
        bench.transfers.clear();
        let gone: Vec<_> = bench.managed().connection.subflows.iter().filter(|flow| flow.closing).copied().collect();
        for flow in gone {
            bench.apply(MptcpEvent::SubflowClosed(ended(&flow, Some(Errno::CONNABORTED))));
        }
        for _ in 0..10 {
            bench.is_silent("10.0.0.1", Duration::from_millis(20));
            if !bench.asked.is_empty() {
                break;
            }
        }
    }
    assert!((2..=8).contains(&joins), "{joins} joins in half a minute");
}

#[test]
fn a_join_without_an_answer_on_a_path_that_was_there_is_called_off_and_begun_anew() {
    let mut bench = busy();
    bench.is_silent("10.0.0.1", SECOND);
    let gone: Vec<_> = bench.managed().connection.subflows.iter().filter(|flow| flow.closing).copied().collect();
    bench.apply(MptcpEvent::SubflowClosed(ended(&gone[0], Some(Errno::CONNABORTED))));
    let mut renewed = Vec::new();
    for second in 0..60 {
        bench.begun = vec![(end("10.0.0.1:41234"), end("192.0.2.1:80")), (end("10.0.0.9:1"), end("192.0.2.1:80"))];
        let done = bench.turn();
        if !done.is_empty() {
            assert_eq!(done, [destroy("10.0.0.1:41234", "192.0.2.1:80")], "its join is called off, and no other");
            let id = AddressId(2);
            let told = Subflow { remote: end("192.0.2.1:0"), error: Some(Errno::CONNABORTED), ..join_of(id) };
            bench.apply(MptcpEvent::SubflowClosed(told));
            assert_eq!(bench.begun(), ["10.0.0.1"], "and another begun");
            renewed.push(second);
        }
        bench.later(SECOND);
    }
    assert!((5..=9).contains(&renewed.len()), "{renewed:?}");
    let pauses: Vec<_> = renewed.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.is_sorted() && pauses[0] <= 6 && pauses.last() > Some(&10), "{pauses:?}");
}

/// A join of the connection's from the first address.
fn join_of(local_id: AddressId) -> Subflow {
    let (local, remote) = (end("10.0.0.1:41234"), end("192.0.2.1:80"));
    let if_index = Some(IfIndex(1));
    Subflow {
        token: TOKEN,
        local,
        remote,
        local_id,
        remote_id: AddressId(0),
        backup: false,
        if_index,
        error: None,
        reset: None,
    }
}

#[test]
fn a_join_that_got_no_answer_after_its_link_came_back_has_one_more_beside_it() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.settle();
    bench.link("10.0.1.1", false);
    bench.turn();
    let flow = bench.managed().connection.subflows.iter().find(|flow| flow.closing).copied().unwrap();
    bench.apply(MptcpEvent::SubflowClosed(ended(&flow, Some(Errno::CONNABORTED))));
    bench.turn();
    bench.link("10.0.1.1", true);
    assert_eq!(bench.begun(), ["10.0.1.1"]);
    let mut more = 0;
    for _ in 0..100 {
        bench.later(Duration::from_millis(50));
        more += bench.begun().len();
    }
    assert_eq!(more, 1);
}

#[test]
fn a_join_on_its_way_keeps_from_withdrawing_its_address_only_while_it_can_arrive() {
    for link_down in [true, false] {
        let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
        bench.settle();
        bench.link("10.0.1.1", false);
        bench.turn();
        let flow = bench.managed().connection.subflows.iter().find(|flow| flow.closing).copied().unwrap();
        bench.apply(MptcpEvent::SubflowClosed(ended(&flow, Some(Errno::CONNABORTED))));
        bench.turn();
        bench.link("10.0.1.1", true);
        let mut joins = Vec::new();
        for _ in 0..20 {
            joins.extend(bench.turn().into_iter().filter_map(|made| match made {
                PathCommand::CreateSubflow(new) => Some(new),
                _ => None,
            }));
            bench.later(Duration::from_millis(50));
        }
        assert_eq!(joins.len(), 2, "no answer came to the first");
        bench.apply(MptcpEvent::SubflowEstablished(told(&joins[1])));
        bench.turn();
        if link_down {
            bench.link("10.0.1.1", false);
        } else {
            bench.is_silent("10.0.1.1", SECOND);
        }
        let withdrawn = bench.turn().contains(&PathCommand::Remove(TOKEN, joins[1].local_id));
        assert!(bench.managed().connection.subflows.iter().any(|flow| flow.closing), "{link_down}");
        assert_eq!(withdrawn, link_down);
    }
}

#[test]
fn a_subflow_that_was_reset_is_made_again_at_once_and_the_next_time_later() {
    let mut bench = busy();
    let flow = bench.managed().connection.subflows[1];
    bench.apply(MptcpEvent::SubflowClosed(ended(&flow, Some(Errno::CONNRESET))));
    assert_eq!(bench.begun(), ["10.0.1.1"]);
    bench.establish_all();
    let flow = bench.managed().connection.subflows[1];
    bench.apply(MptcpEvent::SubflowClosed(ended(&flow, Some(Errno::CONNRESET))));
    assert_eq!(bench.begun(), [""; 0]);
    bench.later(SECOND);
    assert_eq!(bench.begun(), ["10.0.1.1"]);
}

#[test]
fn where_sockets_cannot_be_reset_subflows_are_closed_by_command() {
    let mut bench = busy();
    bench.link("10.0.1.1", false);
    let done = bench.turn();
    let (ticket, _) = bench.asked[1];
    let refusal = Refusal { errno: Errno::OPNOTSUPP, text: "", missing: None };
    let (failure, at) = (Err(Failure::Refused(refusal)), bench.now);
    bench.paths.end(ticket, failure, &bench.policy, (&mut bench.outbox, at));
    assert_eq!(bench.turn(), [done[1]], "the command this time");
    assert!(!bench.paths.resets, "and from now on");
}

#[test]
fn an_address_that_came_back_is_used_after_the_time_that_is_asked_for() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.policy.liveness.return_delay = SECOND;
    bench.link("10.0.1.1", false);
    bench.turn();
    bench.link("10.0.1.1", true);
    assert_eq!(bench.begun(), [""; 0]);
    bench.later(SECOND);
    assert_eq!(bench.begun(), ["10.0.1.1"]);
}

#[test]
fn an_idle_connection_is_not_looked_at_until_data_moves_on_it() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.settle();
    for _ in 0..20 {
        bench.later(SECOND * 5);
        bench.turn();
    }
    let looks = bench.looks;
    assert!(looks <= 40, "{looks}");
    for _ in 0..100 {
        bench.later(SECOND);
        bench.turn();
        bench.paths.begin_check();
        bench.turn();
    }
    assert_eq!(bench.looks, looks);
    bench.received += 1;
    bench.paths.begin_check();
    bench.turn();
    bench.later(SECOND);
    bench.turn();
    assert!(bench.looks > looks);
}

#[test]
fn a_request_that_is_stuck_when_an_idle_connection_is_asked_for_has_it_looked_at() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.settle();
    for _ in 0..20 {
        bench.later(SECOND * 5);
        bench.turn();
    }
    bench.taken = Some(bench.written);
    bench.written += 1000;
    bench.paths.begin_check();
    bench.turn();
    let done = bench.is_silent("10.0.0.1", SECOND);
    assert!(done.contains(&destroy("10.0.0.1:40000", "192.0.2.1:80")), "{done:?}");
}

#[test]
fn what_is_not_looked_at_any_more_is_not_suspect_any_more() {
    let silent = || {
        let mut bench = busy();
        for _ in 0..20 {
            bench.is_silent("10.0.0.1", Duration::from_millis(20));
            let transfer = bench.transfers[&ip("10.0.0.1")];
            bench.transfers.insert(ip("10.0.1.1"), transfer);
        }
        let flows = &bench.managed().connection.subflows;
        assert!(flows.iter().all(|flow| !flow.health.is_sound() && !flow.health.is_lost()), "{flows:?}");
        bench
    };
    let sound = |bench: &mut Bench| bench.managed().connection.subflows.iter().filter(|flow| flow.is_sound()).count();
    let mut off = silent();
    off.policy.liveness.blackhole = None;
    off.paths.configured();
    off.turn();
    assert_eq!(sound(&mut off), 2);
    let mut lost = silent();
    lost.link("10.0.1.1", false);
    lost.turn();
    assert_eq!(sound(&mut lost), 1, "there is nothing to compare it with");
    let mut unanswered = silent();
    unanswered.paths.liveness.next_due(unanswered.now + SECOND);
    unanswered.paths.ask(
        SocketRequest::Connection(TOKEN),
        TOKEN,
        Asked::Look(end("10.0.0.1:1"), end("192.0.2.1:80")),
        &mut unanswered.outbox,
        unanswered.now,
    );
    unanswered.outbox.queue.clear();
    unanswered.paths.forget_requests(unanswered.now);
    assert_eq!(sound(&mut unanswered), 2);
}

#[test]
fn where_sockets_cannot_be_reset_a_join_is_called_off_by_command() {
    let mut bench = busy();
    bench.is_silent("10.0.0.1", SECOND);
    let gone: Vec<_> = bench.managed().connection.subflows.iter().filter(|flow| flow.closing).copied().collect();
    bench.apply(MptcpEvent::SubflowClosed(ended(&gone[0], Some(Errno::CONNABORTED))));
    bench.begun = vec![(end("10.0.0.1:41234"), end("192.0.2.1:80"))];
    bench.later(SECOND * 6);
    let called_off = destroy("10.0.0.1:41234", "192.0.2.1:80");
    assert_eq!(bench.turn(), [called_off]);
    let (ticket, _) = bench.asked[0];
    let refusal = Refusal { errno: Errno::OPNOTSUPP, text: "", missing: None };
    let (failure, at) = (Err(Failure::Refused(refusal)), bench.now);
    bench.paths.end(ticket, failure, &bench.policy, (&mut bench.outbox, at));
    assert_eq!(bench.turn(), [called_off], "the command this time");
}

#[test]
fn of_many_dead_subflows_so_many_are_looked_up_at_a_time_as_there_is_room_for_answers() {
    let mut bench = Bench::new(&["10.0.0.1"]);
    let flow = crate::connections::Connection::new(&client("10.0.0.1:40000", "192.0.2.1:80"), bench.now).subflows[0];
    bench.paths.to_find = vec![(TOKEN, flow.name(Some(IfIndex(4)))); 600].into();
    assert_eq!(SocketId::from(bench.paths.to_find[0].1).if_index, Some(IfIndex(4)), "it may be bound to its interface");
    let mut asked = 0;
    while bench.paths.has_work() && asked < 1000 {
        bench.paths.find_dead(&mut bench.outbox, bench.now);
        assert!(bench.outbox.queue.len() <= MOST_SENT);
        asked += bench.outbox.queue.drain(..).count();
        bench.paths.view_changed = false;
    }
    assert_eq!(asked, 600);
}

#[test]
fn a_join_whose_end_was_missed_is_begun_again_when_the_kernel_does_not_list_it() {
    let mut bench = busy();
    bench.is_silent("10.0.0.1", SECOND);
    let gone: Vec<_> = bench.managed().connection.subflows.iter().filter(|flow| flow.closing).copied().collect();
    bench.apply(MptcpEvent::SubflowClosed(ended(&gone[0], Some(Errno::CONNABORTED))));
    let mut joins = 0;
    for _ in 0..20 {
        bench.later(SECOND);
        joins += bench.begun().len();
    }
    assert!((1..=4).contains(&joins), "{joins}");
}

#[test]
fn what_is_closed_while_another_has_its_id_is_reset_so_that_the_kernel_keeps_the_address() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.settle();
    let looks = bench.looks;
    bench.apply(MptcpEvent::SubflowEstablished(flow("10.0.1.1:50001", "192.0.2.1:80", 1)));
    assert_eq!(bench.turn(), [destroy("10.0.1.1:50001", "192.0.2.1:80")]);
    assert_eq!(bench.looks, looks + 1, "by its socket, which had to be found");
}

/// Joins are established as by a kernel that takes neither an interface nor a flag.
fn establish_unbound(bench: &mut Bench) {
    for (_, command) in std::mem::take(&mut bench.asked) {
        if let PathCommand::CreateSubflow(new) = command {
            bench.apply(MptcpEvent::SubflowEstablished(Subflow { if_index: None, ..told(&new) }));
        }
    }
}

#[test]
fn where_the_kernel_takes_no_flag_with_a_join_the_subflow_becomes_a_backup_afterwards() {
    for bound in [true, false] {
        let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
        bench.change("10.0.1.1", |local| local.backup = true);
        bench.turn();
        if bound {
            bench.establish_all()
        } else {
            establish_unbound(&mut bench)
        }
        let corrected = PathCommand::SetBackup(ends("10.0.1.1:50000", "192.0.2.1:80"), true);
        assert_eq!(bench.turn(), if bound { Vec::new() } else { vec![corrected] });
    }
}

#[test]
fn where_the_kernel_binds_no_subflow_only_addresses_whose_routes_lead_through_their_interface_make_paths() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1", "10.0.2.1"]);
    bench.led = false;
    assert_eq!(bench.begun(), ["10.0.1.1", "10.0.2.1"], "it is taken to bind them until it shows");
    establish_unbound(&mut bench);
    bench.turn();
    for local in ["10.0.1.1", "10.0.2.1"] {
        let lost = flow(&format!("{local}:50000"), "192.0.2.1:80", 1);
        bench.apply(MptcpEvent::SubflowClosed(Subflow { error: Some(Errno::CONNABORTED), ..lost }));
    }
    bench.later(Duration::from_secs(10));
    assert_eq!((bench.begun(), bench.strays), (Vec::new(), 1), "told once");
    bench.paths.told_stray = false;
    bench.link("10.0.2.1", false);
    bench.turn();
    bench.link("10.0.2.1", true);
    assert_eq!((bench.begun(), bench.strays), (Vec::new(), 2), "of the one that has been there for long");
    bench.paths.told_stray = false;
    bench.paths.routing_changed(RoutingChange::Everything);
    bench.addresses[1].unusable = Some(Unusable::Deprecated);
    bench.paths.network_changed();
    assert_eq!((bench.begun(), bench.strays), (Vec::new(), 2), "not of one whose routes may come yet");
    bench.addresses[1].unusable = None;
    bench.paths.network_changed();
    bench.led = true;
    bench.paths.routing_changed(RoutingChange::Everything);
    assert_eq!(bench.begun(), ["10.0.1.1", "10.0.2.1"]);
    bench.establish_all();
    assert!(bench.paths.ways.are_bound(), "it does after all");
}

#[test]
fn a_join_that_fails_shows_too_that_it_was_not_bound_and_one_of_the_peers_shows_nothing() {
    let mut bench = Bench::client(&["10.0.0.1", "10.0.1.1"]);
    bench.turn();
    let joined = Subflow { error: Some(Errno(110)), ..flow("10.0.1.1:40000", "192.0.2.1:80", 1) };
    bench.apply(MptcpEvent::SubflowClosed(joined));
    assert!(bench.paths.ways.are_bound(), "to the port of the connection");
    bench.later(Duration::from_secs(300));
    bench.turn();
    let failed = Subflow { error: Some(Errno(110)), ..flow("10.0.1.1:50000", "192.0.2.1:80", 1) };
    bench.apply(MptcpEvent::SubflowClosed(failed));
    assert!(!bench.paths.ways.are_bound());
}

#[test]
fn where_the_kernel_has_no_list_what_may_not_have_been_announced_is_announced_again() {
    let mut bench = Bench::server(&["10.0.0.1", "10.0.1.1", "10.0.2.1"]);
    bench.old = true;
    let made = bench.turn();
    assert_eq!(made.len(), 2);
    for _ in 0..2 {
        bench.paths.forget_requests(bench.now);
        assert_eq!(bench.turn(), made, "and its endpoint is not taken for an address of the connection");
    }
}

#[test]
fn where_the_kernel_has_no_list_an_id_that_it_refuses_is_that_of_a_subflow_or_another() {
    let mut bench = Bench::server(&["10.0.0.1", "10.0.1.1"]);
    bench.old = true;
    bench.turn();
    bench.refuse_all("did not match address and id");
    bench.turn();
    let mut ids = Vec::new();
    for subflow in [false, true] {
        bench.later(Duration::from_secs(300));
        let [PathCommand::Announce(made)] = bench.turn()[..] else { panic!() };
        ids.push(made.id.0);
        bench.refuse_all("did not match address and id");
        if subflow {
            bench.apply(MptcpEvent::SubflowEstablished(flow("10.0.1.1:80", "192.0.2.1:40001", 9)));
        }
    }
    bench.later(Duration::from_secs(300));
    let [PathCommand::Announce(made)] = bench.turn()[..] else { panic!() };
    ids.push(made.id.0);
    assert!(ids[0] != ids[1] && ids[2] == 9, "{ids:?}");
}

/// Plays the lists of what there is, with a connection of each of these families, and says what was listed.
fn lists(bench: &mut Bench, connections: &[Family]) -> Vec<String> {
    let mut asked = Vec::new();
    bench.paths.adopt(Default::default(), bench.now);
    while !bench.paths.awaits_drain() {
        bench.paths.advance_adoption(&mut bench.outbox, bench.now);
        let Some(Output::Send(ticket, Request::Sockets(request))) = bench.outbox.next() else { break };
        asked.push(request.to_string());
        if let SocketRequest::Connections(family) = request {
            for found in connections.iter().filter(|found| **found == family) {
                let v4 = *found == Family::V4;
                let (local, remote) =
                    if v4 { ("10.0.0.1:1", "192.0.2.1:80") } else { ("[fd00::1]:1", "[2001:db8::1]:80") };
                let token = Token(if v4 { 4 } else { 6 });
                let info = diag::ConnectionInfo {
                    token,
                    fallback: false,
                    write_sequence: 0,
                    unacknowledged: 0,
                    receive_next: 0,
                };
                let listed = diag::Socket { role: Role::Connection(info), ..socket(end(local), end(remote)) };
                bench.paths.collect_listed(ticket, &listed, bench.now);
            }
        }
        assert!(bench.paths.end(ticket, Ok(()), &bench.policy, (&mut bench.outbox, bench.now)));
    }
    bench.paths.events_drained(&mut bench.outbox, bench.now);
    asked
}

#[test]
fn a_connection_that_the_list_left_out_is_asked_for_where_a_subflow_of_it_was_listed() {
    let mut bench = Bench::new(&["10.0.0.1"]);
    bench.paths.adopt(Default::default(), bench.now);
    let next = |bench: &mut Bench| {
        bench.paths.advance_adoption(&mut bench.outbox, bench.now);
        match bench.outbox.next() {
            Some(Output::Send(ticket, Request::Sockets(request))) => Some((ticket, request)),
            _ => None,
        }
    };
    let info =
        |token| diag::ConnectionInfo { token, fallback: false, write_sequence: 0, unacknowledged: 0, receive_next: 0 };
    let (local, remote) = (end("10.0.0.1:40000"), end("192.0.2.1:80"));
    let (policy, now) = (bench.policy, bench.now);
    while let Some((ticket, request)) = next(&mut bench) {
        match request {
            SocketRequest::Connections(Family::V4) => {
                let role = Role::Connection(info(Token(5)));
                let other = diag::Socket { role, ..socket(end("10.0.0.1:40009"), remote) };
                bench.paths.collect_listed(ticket, &other, now);
            }
            SocketRequest::Subflows(_) => drop(bench.paths.collect_listed(ticket, &socket(local, remote), now)),
            SocketRequest::Connection(TOKEN) => {
                let role = Role::Connection(info(TOKEN));
                let found = diag::Socket { role, ..socket(local, remote) };
                bench.paths.collect_socket(ticket, &found, &policy.liveness, &mut bench.outbox, now);
            }
            SocketRequest::Connections(_) => {}
            other => panic!("{other}"),
        }
        bench.paths.end(ticket, Ok(()), &policy, (&mut bench.outbox, now));
    }
    assert_eq!(bench.managed().connection.subflows.len(), 1);
    assert_eq!(bench.paths.live.len(), 2);
}

#[test]
fn a_connection_of_an_earlier_run_that_the_list_left_out_is_asked_for() {
    for there in [true, false] {
        let mut bench = Bench::new(&["10.0.0.1"]);
        let (local, remote) = (end("10.0.0.1:40000"), end("192.0.2.1:80"));
        let (deny_join_id0, initial_withdrawn, remotes) = (true, false, Vec::new());
        let saved = SavedConnection { token: TOKEN, local, remote, deny_join_id0, initial_withdrawn, remotes };
        bench.paths.adopt([(TOKEN, saved)].into_iter().collect(), bench.now);
        let (policy, now, mut asked) = (bench.policy, bench.now, Vec::new());
        while !bench.paths.awaits_drain() {
            bench.paths.advance_adoption(&mut bench.outbox, now);
            let Some(Output::Send(ticket, Request::Sockets(request))) = bench.outbox.next() else { break };
            asked.push(request.to_string());
            if request == SocketRequest::Connection(TOKEN) && there {
                let info = diag::ConnectionInfo {
                    token: TOKEN,
                    fallback: false,
                    write_sequence: 0,
                    unacknowledged: 0,
                    receive_next: 0,
                };
                let found = diag::Socket { role: Role::Connection(info), ..socket(local, remote) };
                bench.paths.collect_socket(ticket, &found, &policy.liveness, &mut bench.outbox, now);
            }
            bench.paths.end(ticket, Ok(()), &policy, (&mut bench.outbox, now));
        }
        bench.paths.events_drained(&mut bench.outbox, now);
        assert!(bench.paths.is_current() && asked.len() == 5, "all lists, and one question: {asked:?}");
        assert_eq!(bench.paths.live.len(), usize::from(there));
        if there {
            let connection = &bench.managed().connection;
            assert!(!connection.server_side && connection.deny_join_id0, "as the earlier run knew it");
        }
    }
}

#[test]
fn a_connection_that_lingers_after_its_application_closed_it_is_forgotten() {
    let mut bench = Bench::client(&["10.0.0.1"]);
    bench.turn();
    bench.paths.adopt(Default::default(), bench.now);
    bench.paths.advance_adoption(&mut bench.outbox, bench.now);
    let Some(Output::Send(ticket, _)) = bench.outbox.next() else { panic!() };
    let info =
        diag::ConnectionInfo { token: TOKEN, fallback: false, write_sequence: 0, unacknowledged: 0, receive_next: 0 };
    let listed = socket(end("10.0.0.1:40000"), end("192.0.2.1:80"));
    let lingers = diag::Socket { role: Role::Connection(info), state: TcpState(4), inode: 0, ..listed };
    bench.paths.collect_listed(ticket, &lingers, bench.now);
    assert!(bench.paths.live.is_empty());
}

#[test]
fn subflows_are_listed_only_of_families_that_connections_can_have() {
    let [connections, flows] =
        ["connections", "subflows"].map(|what| ["ipv4", "ipv6"].map(|family| format!("list {family} {what}")));
    for (families, subflows) in [(&[][..], 0), (&[Family::V4], 1), (&[Family::V6], 2), (&[Family::V4, Family::V6], 2)] {
        let mut bench = Bench::new(&["10.0.0.1"]);
        let expected: Vec<_> = connections.iter().chain(&flows[..subflows]).cloned().collect();
        assert_eq!(lists(&mut bench, families), expected, "{families:?}");
        assert!(bench.paths.is_current());
        assert_eq!(bench.paths.live.len(), families.len());
    }
}
