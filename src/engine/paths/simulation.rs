//! Connections against a model of the kernel's user-space path manager and of their peers, on virtual
//! time: networks that change, peers that refuse, drop, close, announce and withdraw, connections that come
//! and go, messages late and in another order than that of other sockets, messages that are lost, daemons that are
//! killed and begun again. Whatever happened, once it is
//! quiet every connection has the paths that its path manager would want, as far as its peer takes them,
//! and the engine sleeps.
//!
//! `MPTCPD_SIMULATION_SEED=N` replays one seed, with every step printed; `MPTCPD_SIMULATION_SEEDS=N` tries so
//! many.

mod kernel;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::kernel::{DOWN, Fate, Flow, Kernel, NO_CARRIER, Opener, Socket, Told, UP, mapped};
use crate::connections::plain;
use crate::diag::{self, Role, SubflowFlags};
use crate::engine::{Answer, Engine, Input, Output, Policy};
use crate::event::{
    self, Address, AddressFlags, Announcement, Link, MptcpEvent, NetworkEvent, Reset, RouteAnswer, RoutingChange, Scope,
};
use crate::plugin::{self, PathManager};
use crate::random::{Random, for_every_seed};
use crate::rules::{Glob, Interfaces, PathPolicy, Rule, Rules};
use crate::settings::Settings;
use crate::state_file::{self, SavedConnection, SavedState};
use crate::types::{AddressId, EndpointFlags, Errno, IfIndex, NotifyFlags, Token};

const SEEDS: u64 = 2000;
const STEPS: u32 = 60;
/// Paths must be there within that time after the last change.
const HEALED: Duration = Duration::from_secs(1200);

/// Which path manager, and what is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanting {
    OnePerInterface,
    FullMesh,
    Several(usize),
    /// And whether the others are kept.
    OneAtATime(bool),
}

impl Wanting {
    fn random(random: &mut Random) -> Self {
        match random.below(7) {
            0 | 1 => Self::OnePerInterface,
            2 | 3 => Self::FullMesh,
            4 => Self::Several(2 + random.below(3)),
            _ => Self::OneAtATime(random.one_in(2)),
        }
    }

    fn build(self) -> Box<dyn PathManager> {
        let (name, settings) = match self {
            Self::OnePerInterface => ("sspi", String::new()),
            Self::FullMesh => ("fullmesh", String::new()),
            Self::Several(number) => ("ndiffports", format!("subflows = {number}")),
            Self::OneAtATime(warm) => ("handover", format!("warm = {warm}")),
        };
        let plugins = plugin::registry().unwrap();
        let plugin = plugins.iter().find(|plugin| plugin.name == name).unwrap();
        (plugin.build)(&mut Settings::parse(name, &settings).unwrap()).unwrap()
    }
}

/// One host: kernel, daemon, and what the peers do.
struct Host {
    kernel: Kernel,
    engine: Engine,
    rules: Rules,
    /// What the rules say of links: their order, and whether they are for standby.
    ranks: BTreeMap<u32, (i32, bool)>,
    wanting: Wanting,
    random: Random,
    now: Instant,
    /// Tokens that were closed, to be used again.
    closed: Vec<Token>,
    /// The file of what only events tell.
    file: String,
    trace: bool,
}

fn milliseconds(number: usize) -> Duration {
    Duration::from_millis(number.try_into().unwrap())
}

fn number(n: usize) -> u8 {
    u8::try_from(n).unwrap()
}

fn policy(rules: &Rules, wanting: Wanting) -> Policy {
    Policy {
        rules: rules.clone(),
        managers: vec![wanting.build()],
        connections: Some(0),
        paths: PathPolicy::default(),
        debug: false,
    }
}

/// Rules that give some of the links a rank.
fn random_ranks(random: &mut Random) -> (Interfaces, BTreeMap<u32, (i32, bool)>) {
    let mut ranks = BTreeMap::new();
    for link in 2..6 {
        if random.one_in(3) {
            ranks.insert(link, ([-1, 0, 1][random.below(3)], random.one_in(2)));
        }
    }
    let rule = |(link, (order, backup)): (&u32, &(i32, bool))| {
        let names = vec![Glob::new(&format!("link{link}")).unwrap()];
        Arc::new(Rule { names, order: Some(*order), backup: Some(*backup), ..Rule::default() })
    };
    (Interfaces::new(ranks.iter().map(rule).collect()), ranks)
}

/// Whether no other host can have the address.
fn is_nonsense(remote: SocketAddr) -> bool {
    remote.ip().is_loopback() || remote.ip() == "fe80::2".parse::<IpAddr>().unwrap()
}

fn scope() -> state_file::Scope {
    state_file::Scope { boot: "boot".to_owned(), namespace: (4, 7) }
}

/// Which address of the peers has that number.
fn peer_address(number: u8, v6: bool) -> IpAddr {
    if v6 { IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)]) } else { IpAddr::from([192, 0, 2, number]) }
}

impl Host {
    fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let notify = NotifyFlags::EXISTING.union(NotifyFlags::SKIP_LINK_LOCAL).union(NotifyFlags::SKIP_LOOPBACK);
        let (interfaces, ranks) = random_ranks(&mut random);
        let rules = Rules { notify, flags: EndpointFlags::SUBFLOW, interfaces };
        let now = Instant::now();
        let wanting = Wanting::random(&mut random);
        let engine = Engine::new(policy(&rules, wanting), SavedState::default(), now);
        let (kernel, closed) = (Kernel::new(now), Vec::new());
        let file = String::new();
        let mut host = Self { kernel, engine, rules, ranks, wanting, random, now, closed, file, trace };
        host.write_file();
        host.kernel.prefers_another = host.random.one_in(2);
        host.kernel.old = host.random.one_in(4);
        for link in 2..2 + u32::try_from(1 + host.random.below(4)).unwrap() {
            host.kernel.links.insert(link, UP);
            for v6 in [false, true] {
                if !host.random.one_in(5) {
                    host.kernel.routes.insert((link, v6));
                }
            }
        }
        for _ in 0..2 + host.random.below(8) {
            host.change_address();
        }
        for _ in 0..host.random.below(4) {
            host.open();
        }
        host
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{what}", what = what());
        }
    }

    /// One turn of the loop: some of what waits is read, then the engine decides.
    fn turn(&mut self) {
        self.kernel.pass(self.now, &mut self.random);
        let most = if self.random.one_in(3) { 30 } else { 5 };
        let sockets = if self.random.one_in(2) { [0, 1, 2] } else { [2, 1, 0] };
        for socket in sockets {
            for _ in 0..self.random.below(most) {
                if socket == 2 && self.engine.holds_events() {
                    break;
                }
                let queue = match socket {
                    0 => &mut self.kernel.network,
                    1 => &mut self.kernel.answers,
                    _ => &mut self.kernel.events,
                };
                self.kernel.deaf &= socket != 2;
                let Some(told) = queue.pop_front() else {
                    match socket {
                        0 => self.engine.handle(Input::NetworkDrained, self.now),
                        1 => {}
                        _ => self.engine.handle(Input::EventsDrained, self.now),
                    }
                    break;
                };
                self.hand(&told);
            }
        }
        self.kernel.informed = self.kernel.is_quiet() && self.engine.knows_connections();
        self.engine.advance(self.now, true);
        while let Some(output) = self.engine.next_output() {
            self.trace(|| format!("{output:?}"));
            match output {
                Output::Send(ticket, request) => self.kernel.execute(ticket, &request, &mut self.random),
                Output::Listen(at) => self.kernel.answers.push_back(Told::Listening(at)),
                Output::Unlisten(_) | Output::Log(_) | Output::Uplinks | Output::Ready | Output::Done => {}
            }
        }
        self.engine.take_saved_state(self.now);
        if self.engine.has_unsaved_connections(self.now) {
            self.engine.write_changes(&mut self.file);
        }
    }

    fn write_file(&mut self) {
        self.file.clear();
        state_file::encode_title(&scope(), &mut self.file);
        self.engine.write_connections(&mut self.file);
    }

    /// The daemon is killed and another begins; events are `kept` where the service manager keeps their socket.
    fn restart(&mut self) {
        let kept = self.random.one_in(2);
        self.trace(|| format!("restarted: {kept} {}", self.file));
        self.kernel.answers.clear();
        self.kernel.network.clear();
        self.kernel.told_closed.clear();
        if !kept {
            self.kernel.events.clear();
            self.kernel.deaf = false;
        }
        if self.random.one_in(8) {
            self.file.truncate(self.random.below(self.file.len() + 1));
        }
        let known = state_file::decode_connections(&scope(), &self.file).unwrap_or_default();
        for (token, socket) in &mut self.kernel.sockets {
            let is_it = |saved: &&SavedConnection| {
                (saved.local, saved.remote) == (plain(socket.told.local), plain(socket.told.remote))
            };
            let saved = known.get(*token).filter(is_it);
            // What the file does not say is lost, and what it says is believed.
            socket.remotes = saved.map_or(Vec::new(), |saved| saved.remotes.clone());
            socket.initial_withdrawn = saved.is_some_and(|saved| saved.initial_withdrawn);
            if self.kernel.old {
                self.kernel.unlisted.insert(*token);
            }
            if saved.is_none() {
                self.kernel.unknown.insert(*token);
            }
        }
        let saved = SavedState::default();
        self.engine = Engine::new(policy(&self.rules, self.wanting), saved, self.now);
        self.engine.recall(known, self.now);
    }

    fn hand(&mut self, told: &Told) {
        self.trace(|| format!("{told:?}"));
        let now = self.now;
        match told {
            Told::Link(index, flags, dump) => {
                let name = format!("link{}", index.0);
                let link = Link { name: Some(name.as_bytes()), ..Link::new(*index, *flags) };
                self.engine.handle(Input::Network { event: NetworkEvent::Link(link), dump: *dump }, now);
            }
            Told::LinkGone(index) => self.network(NetworkEvent::LinkGone(*index)),
            Told::Address(address, dump) => {
                self.engine.handle(Input::Network { event: NetworkEvent::Address(*address), dump: *dump }, now);
            }
            Told::AddressGone(address) => self.network(NetworkEvent::AddressGone(*address)),
            Told::Routing(change) => self.network(NetworkEvent::RoutingChanged(*change)),
            Told::Lost => self.engine.handle(Input::NetworkLost, now),
            Told::EventsLost => self.engine.handle(Input::EventsLost, now),
            Told::Route(ticket, unicast, through) => {
                let route = RouteAnswer { unicast: *unicast, through: *through };
                self.engine.handle(Input::Answer(*ticket, Answer::Route(route)), now);
            }
            Told::End(ticket, result) => {
                let asked = self.engine.paths.asked.iter().find(|(asked, ..)| asked == ticket);
                if let (Some((_, token, _)), Err(Some((_, "invalid token")))) = (asked, result) {
                    self.kernel.told_closed.insert(*token);
                }
                self.engine.handle(Input::End(*ticket, result.map_err(Told::failure)), now);
            }
            Told::Listed(ticket, listed) => {
                self.engine.handle(Input::Answer(*ticket, Answer::Endpoint(*listed)), now);
            }
            Told::Socket(ticket, socket) => {
                if self.engine.paths.lists(*ticket) {
                    self.listed(socket);
                }
                self.engine.handle(Input::Answer(*ticket, Answer::Socket(socket)), now);
            }
            Told::Listening(wanted) => {
                self.engine.handle(Input::Listening { wanted: *wanted, result: Ok(*wanted) }, now);
            }
            Told::Mptcp(event) => {
                match event {
                    MptcpEvent::Created(told) => {
                        self.kernel.told_closed.remove(&told.token);
                        self.kernel.unknown.remove(&told.token);
                    }
                    MptcpEvent::Established(told) => drop(self.kernel.unknown.remove(&told.token)),
                    MptcpEvent::Closed(token) => drop(self.kernel.told_closed.insert(*token)),
                    MptcpEvent::Announced(told) => self.heard(told),
                    MptcpEvent::Removed(token, id) => {
                        if let Some(socket) = self.kernel.sockets.get_mut(token) {
                            socket.initial_withdrawn |= *id == AddressId(0);
                            socket.remotes.retain(|(known, _)| known != id);
                        }
                    }
                    _ => {}
                }
                self.engine.handle(Input::Mptcp(*event), now);
            }
        }
    }

    /// What the daemon has joined tells what the peer allowed.
    fn listed(&mut self, listed: &diag::Socket) {
        let info = match listed.role {
            Role::Subflow(info) => info,
            // What created it was not told, but it is there.
            Role::Connection(info) => {
                self.kernel.told_closed.remove(&info.token);
                return;
            }
            Role::Other => return,
        };
        let Some(socket) = self.kernel.sockets.get_mut(&info.token) else { return };
        let known = self.engine.paths.live.get_mut(info.token);
        if !info.flags.contains(SubflowFlags::JOIN_LOCAL) || known.is_none_or(|managed| !managed.awaits_list) {
            return;
        }
        let remote = plain(listed.id.remote);
        // What cannot be joined is not remembered.
        let v6 = socket.told.local.is_ipv6();
        socket
            .remotes
            .retain(|(id, known)| *id != info.remote_id || !(is_nonsense(*known) || (known.is_ipv6() && !v6)));
        let known = socket.remotes.iter().any(|(id, known)| *id == info.remote_id || *known == remote);
        if remote == plain(socket.told.remote) {
            self.kernel.unknown.remove(&info.token);
        } else if !known && info.remote_id != AddressId(0) {
            socket.remotes.push((info.remote_id, remote));
        }
    }

    /// What is announced counts once the engine has heard of it, if it knows the connection.
    fn heard(&mut self, told: &Announcement) {
        let known = self.engine.paths.knows(told.token);
        let Some(socket) = self.kernel.sockets.get_mut(&told.token) else { return };
        socket.remotes.retain(|(id, _)| *id != told.remote_id);
        if known && told.remote_id != AddressId(0) {
            socket.remotes.push((told.remote_id, plain(told.remote)));
        }
    }

    fn network(&mut self, event: NetworkEvent<'_>) {
        self.engine.handle(Input::Network { event, dump: None }, self.now);
    }

    /// Something happens to the host or to its connections.
    fn change(&mut self) {
        match self.random.below(42) {
            0..=4 => self.change_link(),
            5..=8 => self.change_address(),
            9..=11 => self.change_route(),
            12..=16 => self.open(),
            17 | 18 => self.close(),
            19 | 20 => self.change_fate(),
            21..=26 => self.peer_announces(),
            27 => self.peer_withdraws(),
            28 | 29 => self.flow_dies(),
            30 | 31 => self.open(),
            32..=34 => self.peer_joins(),
            35 => self.reload(),
            36 => self.lose_messages(),
            37 => self.engine.handle(Input::Resumed, self.now),
            38 => self.kernel.tell(MptcpEvent::Closed(Token(7))),
            39 => self.kernel.overrun(),
            40 => self.restart(),
            _ => {
                let time = milliseconds(self.random.below(100_000));
                self.rest(time);
            }
        }
    }

    /// Every link, route and peer works again.
    fn recover(&mut self) {
        self.kernel.calm = true;
        self.kernel.fates.clear();
        let links: Vec<u32> = self.kernel.links.keys().copied().collect();
        for index in links {
            self.kernel.links.insert(index, UP);
            self.kernel.network.push_back(Told::Link(IfIndex(index), UP, None));
            self.kernel.routes.extend([(index, false), (index, true)]);
        }
        self.kernel.network.push_back(Told::Routing(RoutingChange::Everything));
    }

    fn a_link(&mut self) -> u32 {
        let links: Vec<u32> = self.kernel.links.keys().copied().collect();
        if links.is_empty() { 2 } else { links[self.random.below(links.len())] }
    }

    fn change_link(&mut self) {
        let index = self.a_link();
        if self.random.one_in(10) {
            self.kernel.links.remove(&index);
            self.kernel.routes.retain(|(link, _)| *link != index);
            self.kernel.addresses.retain(|address| address.if_index.0 != index);
            self.kernel.network.push_back(Told::LinkGone(IfIndex(index)));
            return;
        }
        let flags = [DOWN, NO_CARRIER, UP, UP, UP][self.random.below(5)];
        self.kernel.links.insert(index, flags);
        if flags == DOWN && self.random.one_in(2) {
            // Nothing tells of IPv4 routes that go with their link (net/ipv4/fib_frontend.c).
            self.kernel.routes.remove(&(index, false));
        }
        self.kernel.network.push_back(Told::Link(IfIndex(index), flags, None));
    }

    fn change_address(&mut self) {
        let index = self.a_link();
        if !self.kernel.links.contains_key(&index) {
            return self.change_link();
        }
        let n = self.random.below(9);
        let address = match n {
            0..=4 => IpAddr::from([10, 0, 0, number(n)]),
            5 => "fe80::1".parse().unwrap(),
            _ => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number(n))]),
        };
        let flags = AddressFlags([0x80, 0x80, 0x80, 0x80, 0x20][self.random.below(5)]);
        let if_index = IfIndex(index);
        let told = Address { if_index, address, peer: address, prefix_length: 24, scope: Scope(0), flags };
        let place = self.kernel.addresses.iter().position(|known| known.address == address);
        if let Some(place) = place {
            // It goes, moves to another interface or changes its flags.
            let former = self.kernel.addresses.remove(place);
            if former.if_index == if_index && self.random.one_in(2) {
                self.kernel.network.push_back(Told::Address(told, None));
                self.kernel.addresses.insert(place, told);
                return;
            }
            self.kernel.network.push_back(Told::AddressGone(former));
            if self.random.one_in(2) {
                return;
            }
        }
        self.kernel.addresses.push(told);
        self.kernel.network.push_back(Told::Address(told, None));
    }

    fn change_route(&mut self) {
        let (index, v6) = (self.a_link(), self.random.one_in(2));
        if !self.kernel.routes.remove(&(index, v6)) {
            self.kernel.routes.insert((index, v6));
        }
        let prefix = if v6 { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) };
        let change = if self.random.one_in(3) { RoutingChange::Everything } else { RoutingChange::Prefix(prefix, 0) };
        self.kernel.network.push_back(Told::Routing(change));
    }

    fn a_token(&mut self) -> Option<Token> {
        let tokens: Vec<Token> = self.kernel.sockets.keys().copied().collect();
        (!tokens.is_empty()).then(|| tokens[self.random.below(tokens.len())])
    }

    fn a_remote(&mut self, v6: bool) -> SocketAddr {
        let n = number(1 + self.random.below(4));
        SocketAddr::new(peer_address(n, v6), if self.random.one_in(4) { 443 } else { 80 })
    }

    fn open(&mut self) {
        let links = self.kernel.addresses.iter().filter(|address| self.kernel.links[&address.if_index.0] == UP);
        let locals: Vec<IpAddr> = links.map(|address| address.address).collect();
        if locals.is_empty() || self.kernel.sockets.len() > 6 {
            return;
        }
        let address = locals[self.random.below(locals.len())];
        let server_side = self.random.one_in(3);
        let (ours, theirs) = if server_side { (80, self.kernel.port()) } else { (self.kernel.port(), 80) };
        let mut local = SocketAddr::new(address, ours);
        let mut remote = SocketAddr::new(self.a_remote(address.is_ipv6()).ip(), theirs);
        match self.random.below(14) {
            0 => {
                (local, remote) = (SocketAddr::from(([127, 0, 0, 1], ours)), SocketAddr::from(([127, 0, 0, 1], theirs)))
            }
            1 => remote.set_ip(locals[0]),
            _ => {}
        }
        if local.is_ipv4() && remote.is_ipv4() && self.random.one_in(3) {
            (local, remote) = (mapped(local), mapped(remote));
        }
        if local.is_ipv4() != remote.is_ipv4() {
            return;
        }
        let token = self.free_token();
        let deny_join_id0 = self.random.one_in(6);
        let told = event::Connection { token, local, remote, server_side, deny_join_id0 };
        let limit = if self.random.one_in(2) { 2 } else { 20 };
        let mut socket = Socket::new(told, self.random.one_in(14), limit);
        socket.busy = self.random.one_in(2);
        self.trace(|| format!("opened {socket:?}"));
        self.kernel.open(socket, &mut self.random);
    }

    fn free_token(&mut self) -> Token {
        // A token is used again only when everything said of the former connection has been heard.
        let reused = if self.kernel.is_quiet() && self.random.one_in(2) { self.closed.pop() } else { None };
        reused.unwrap_or_else(|| Token(1000 + u32::from(self.kernel.port())))
    }

    fn close(&mut self) {
        let Some(token) = self.a_token() else { return };
        let socket = self.kernel.sockets.remove(&token).unwrap();
        // After a fast close of the peer nothing is told, ever.
        if self.random.one_in(4) {
            return;
        }
        self.kernel.tell(MptcpEvent::Closed(token));
        if !socket.established || self.random.one_in(3) {
            self.kernel.tell(MptcpEvent::Established(socket.told));
        } else {
            self.closed.push(token);
        }
    }

    /// What becomes of joins to an address of the peers, through one link.
    fn change_fate(&mut self) {
        let (link, v6) = (self.a_link(), self.random.one_in(3));
        let address = self.a_remote(v6).ip();
        let fates = [Fate::Taken, Fate::Taken, Fate::Dropped, Fate::Refused, Fate::Reset(0), Fate::Reset(3)];
        let fate = fates[self.random.below(fates.len())];
        self.kernel.fates.insert((link, address), fate);
    }

    fn peer_announces(&mut self) {
        let Some(token) = self.a_token().filter(|_| !self.kernel.deaf) else { return };
        let times = if self.random.one_in(30) { 200 } else { 1 };
        for _ in 0..times {
            let v6 = self.random.one_in(3);
            let mut remote = self.a_remote(v6);
            match self.random.below(12) {
                0 => remote = SocketAddr::from(([127, 0, 0, 1], 80)),
                1 => remote = SocketAddr::from(([10, 0, 0, 1], 80)),
                2 => remote = "[fe80::2]:80".parse().unwrap(),
                3 if !v6 => remote = mapped(remote),
                _ => {}
            }
            if times > 1 {
                remote.set_port(self.kernel.port());
            }
            let remote_id = AddressId(number(self.random.below(if times > 1 { 256 } else { 6 })));
            self.announced(token, remote_id, remote);
        }
    }

    fn announced(&mut self, token: Token, remote_id: AddressId, remote: SocketAddr) {
        let socket = self.kernel.sockets.get_mut(&token).unwrap();
        if remote_id != AddressId(0) {
            socket.remotes.retain(|(known, _)| *known != remote_id);
            socket.remotes.push((remote_id, plain(remote)));
        }
        let event = MptcpEvent::Announced(Announcement { token, remote_id, remote });
        self.kernel.tell(event);
        if self.random.one_in(4) {
            self.kernel.tell(event);
        }
    }

    /// The kernel closes the subflows to that address.
    fn peer_withdraws(&mut self) {
        let Some(token) = self.a_token().filter(|_| !self.kernel.deaf) else { return };
        let socket = self.kernel.sockets.get_mut(&token).unwrap();
        let known = socket.remotes.get(self.random.below(4)).copied();
        let initial = !socket.told.server_side && self.random.one_in(4);
        let (id, remote) = match known {
            Some(known) if !initial => known,
            _ if initial => (AddressId(0), plain(socket.told.remote)),
            _ => return,
        };
        socket.remotes.retain(|(known, _)| *known != id);
        socket.initial_withdrawn |= id == AddressId(0);
        let (gone, kept) = socket.flows.drain(..).partition(|flow| plain(flow.remote) == remote);
        socket.flows = kept;
        let gone: Vec<Flow> = gone;
        self.kernel.tell(MptcpEvent::Removed(token, id));
        for flow in gone {
            self.kernel.tell_closed(token, &flow, None, None);
        }
    }

    fn flow_dies(&mut self) {
        let Some(token) = self.a_token() else { return };
        let socket = self.kernel.sockets.get_mut(&token).unwrap();
        if socket.flows.is_empty() {
            return;
        }
        let flow = socket.flows.remove(self.random.below(socket.flows.len()));
        let (error, reset) = match self.random.below(4) {
            0 => (None, None),
            1 => (Some(Errno(104)), Some(Reset { reason: 0, transient: false })),
            2 => (Some(Errno(104)), Some(Reset { reason: 1, transient: true })),
            _ => (Some(Errno(110)), None),
        };
        self.kernel.tell_closed(token, &flow, error, reset);
    }

    fn peer_joins(&mut self) {
        let Some(token) = self.a_token() else { return };
        let here: Vec<IpAddr> = self.usable().iter().map(|(_, address)| *address).collect();
        if here.is_empty() || !self.kernel.sockets[&token].told.server_side {
            return;
        }
        let address = here[self.random.below(here.len())];
        let remote = self.a_remote(address.is_ipv6()).ip();
        self.kernel.peer_joins(token, address, remote);
    }

    fn reload(&mut self) {
        match self.random.below(4) {
            0 => self.rules.flags.0 ^= EndpointFlags::BACKUP.0,
            1 => (self.rules.interfaces, self.ranks) = random_ranks(&mut self.random),
            _ => self.wanting = Wanting::random(&mut self.random),
        }
        self.trace(|| format!("now {:?} {} {:?}", self.wanting, self.rules.flags, self.ranks));
        self.engine.handle(Input::Configure(policy(&self.rules, self.wanting)), self.now);
    }

    fn lose_messages(&mut self) {
        if self.random.one_in(2) {
            let keep = self.random.below(10);
            self.kernel.network.truncate(keep);
            self.kernel.network.push_front(Told::Lost);
        } else {
            self.kernel.answers.clear();
            self.engine.handle(Input::AnswersLost, self.now);
        }
    }

    /// Nothing happens by itself for so long.
    fn rest(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns = 0;
        while self.now < end {
            self.turn();
            let quiet = self.kernel.has_told(self.engine.holds_events());
            if quiet && !self.engine.has_work() {
                let next = [self.engine.deadline(), self.kernel.next_happening()].into_iter().flatten().min();
                self.now = next.unwrap_or(end).clamp(self.now, end);
            }
            turns += 1;
            assert!(turns < 20_000, "the engine is idle when nothing happens: {:#?}", self.engine.paths);
        }
    }

    /// The addresses that may be used, in the order in which path managers see them.
    fn usable(&self) -> Vec<(IfIndex, IpAddr)> {
        let good = |address: &&Address| {
            self.kernel.links[&address.if_index.0] == UP
                && address.flags == AddressFlags(0x80)
                && address.address != "fe80::1".parse::<IpAddr>().unwrap()
        };
        let mut usable: Vec<_> =
            self.kernel.addresses.iter().filter(good).map(|known| (known.if_index, known.address)).collect();
        usable.sort_by_key(|(if_index, _)| *if_index);
        usable
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.kernel.addresses.iter().any(|known| known.address == address)
    }

    /// Of what was tried in five minutes.
    fn check_pace(&self) {
        for socket in self.kernel.sockets.values() {
            let most = socket.creates.values().max().copied().unwrap_or(0);
            let few = self.remotes(socket).len() <= 12;
            assert!(most <= 20 || !few, "{most} tries of one pair in five minutes: {socket:#?}");
            let all: u32 = socket.creates.values().sum();
            assert!(all <= 640, "{all} tries in five minutes: {socket:#?}");
        }
    }

    fn check(&self) {
        for socket in self.kernel.sockets.values() {
            let (local, remote) = (plain(socket.told.local).ip(), plain(socket.told.remote).ip());
            let on_this_host = local.is_loopback() || local == remote || self.is_own(remote);
            if on_this_host || socket.kernel_manages || !socket.established {
                continue;
            }
            // Which side this is, is not known then.
            let initial = socket.flows.iter().any(|flow| flow.opener == Opener::Initial);
            if self.kernel.unknown.contains(&socket.told.token) && !initial {
                continue;
            }
            // What the engine remembers of a peer that announces so much is another question.
            if self.remotes(socket).len() > 12 {
                continue;
            }
            self.check_backup(socket);
            if self.kernel.unlisted.contains(&socket.told.token) {
                continue;
            }
            if socket.told.server_side {
                self.check_announced(socket);
            } else {
                self.check_paths(socket);
            }
        }
    }

    /// As the engine sees it, its link and address being there.
    fn visible<'a>(&'a self, socket: &'a Socket) -> impl Iterator<Item = &'a Flow> {
        socket.flows.iter().filter(|flow| self.kernel.is_visible(flow))
    }

    /// What was dead for a while is not trusted again: it stays only until another is made.
    fn trusted<'a>(&'a self, socket: &'a Socket) -> impl Iterator<Item = &'a Flow> {
        let mut live = self.engine.paths.live.iter();
        let (_, managed) = live.find(|(token, _)| *token == socket.told.token).unwrap();
        self.visible(socket).filter(move |flow| {
            managed.connection.subflows.iter().any(|known| known.is(flow.local, flow.remote) && known.is_sound())
        })
    }

    fn check_backup(&self, socket: &Socket) {
        if matches!(self.wanting, Wanting::OneAtATime(_)) && !socket.told.server_side {
            return;
        }
        for flow in self.visible(socket) {
            let here = self.usable().into_iter().find(|(_, address)| *address == plain(flow.local).ip());
            let right = here.is_none_or(|(link, _)| flow.backup == self.is_for_standby(link));
            assert!(right, "backup of {flow:?} in {socket:#?}");
        }
    }

    fn is_for_standby(&self, link: IfIndex) -> bool {
        let general = self.rules.flags.contains(EndpointFlags::BACKUP);
        self.ranks.get(&link.0).map_or(general, |(_, backup)| *backup)
    }

    fn check_announced(&self, socket: &Socket) {
        let initial = plain(socket.told.local).ip();
        let carried = |address: IpAddr| socket.told.local.is_ipv6() || address.is_ipv4();
        let entries = socket.entries.iter().filter(|entry| entry.announced);
        let announced: BTreeSet<IpAddr> = entries.map(|entry| entry.address).collect();
        // What serves the last subflows stays announced.
        let serves = |address: IpAddr| self.visible(socket).all(|flow| plain(flow.local).ip() == address);
        let mut wanted: BTreeSet<_> = self.usable().into_iter().filter(|(_, address)| carried(*address)).collect();
        match self.wanting {
            Wanting::Several(_) => wanted.clear(),
            Wanting::FullMesh => wanted.retain(|(_, address)| *address != initial),
            Wanting::OnePerInterface | Wanting::OneAtATime(_) => {
                return self.check_one_announced(socket, &wanted, &announced);
            }
        }
        let wanted: BTreeSet<IpAddr> = wanted.into_iter().map(|(_, address)| address).collect();
        let excess = announced.difference(&wanted).filter(|address| !serves(**address));
        assert!(announced.is_superset(&wanted), "announced {announced:?}, wanted {wanted:?}: {socket:#?}");
        assert_eq!(excess.count(), 0, "announced {announced:?}, wanted {wanted:?}: {socket:#?}");
    }

    /// One of each family and interface but those of the initial address.
    fn check_one_announced(&self, socket: &Socket, usable: &BTreeSet<(IfIndex, IpAddr)>, announced: &BTreeSet<IpAddr>) {
        let initial = plain(socket.told.local).ip();
        let home = self.kernel.addresses.iter().find(|known| known.address == initial).map(|known| known.if_index);
        let places: BTreeSet<_> = usable.iter().map(|(link, address)| (*link, address.is_ipv4())).collect();
        for (link, v4) in places {
            let here = usable.iter().filter(|(other, address)| (*other, address.is_ipv4()) == (link, v4));
            let count = here.filter(|(_, address)| announced.contains(address)).count();
            let is_home = home == Some(link) && v4 == initial.is_ipv4();
            let serving = socket.flows.iter().any(|flow| announced.contains(&plain(flow.local).ip()));
            let fits = if is_home { count == 0 } else { count == 1 };
            assert!(fits || serving, "{announced:?} announced on {link}: {socket:#?}");
        }
        let stale = announced.iter().filter(|address| !usable.iter().any(|(_, known)| known == *address));
        let stale: Vec<_> =
            stale.filter(|address| !socket.flows.iter().any(|f| plain(f.local).ip() == **address)).collect();
        assert!(stale.is_empty(), "{stale:?} still announced: {socket:#?}");
    }

    /// Whether the peer forbids joins to its initial address, or may do so for all the engine knows.
    fn denies(&self, socket: &Socket) -> bool {
        socket.told.deny_join_id0 || self.kernel.unknown.contains(&socket.told.token)
    }

    /// The addresses of the peer that may be joined.
    fn remotes(&self, socket: &Socket) -> Vec<SocketAddr> {
        let initial = plain(socket.told.remote);
        let mut remotes = Vec::new();
        let denies = self.denies(socket);
        if !denies && !socket.initial_withdrawn {
            remotes.push(initial);
        }
        for (_, remote) in &socket.remotes {
            let denied = denies && *remote == initial;
            let nonsense = is_nonsense(*remote);
            let carried = socket.told.local.is_ipv6() || remote.is_ipv4();
            if carried && !denied && !nonsense && !self.is_own(remote.ip()) && !remotes.contains(remote) {
                remotes.push(*remote);
            }
        }
        remotes
    }

    fn check_paths(&self, socket: &Socket) {
        let remotes = self.remotes(socket);
        let joined = socket.flows.iter().filter(|flow| flow.opener != Opener::Initial && !flow.doomed).count();
        let full = joined >= socket.limit || self.visible(socket).count() >= 8;
        match self.wanting {
            Wanting::OnePerInterface => self.check_interfaces(socket, &remotes, full),
            Wanting::FullMesh => self.check_mesh(socket, &remotes, full),
            Wanting::Several(number) => self.check_ports(socket, number, full),
            Wanting::OneAtATime(warm) => {
                if warm {
                    self.check_interfaces(socket, &remotes, full);
                }
                self.check_one_in_use(socket, &remotes, full, warm);
            }
        }
        self.check_dead(socket);
    }

    fn feasible(&self, link: IfIndex, local: IpAddr, remote: SocketAddr) -> bool {
        let family = local.is_ipv4() == remote.is_ipv4();
        family && self.kernel.has_route(link, local.is_ipv6()) && self.kernel.fate(link, remote.ip()) == Fate::Taken
    }

    fn has_flow(&self, socket: &Socket, link: IfIndex, local: IpAddr, remote: SocketAddr) -> bool {
        let is = |flow: &Flow| (plain(flow.local).ip(), plain(flow.remote)) == (local, remote);
        self.visible(socket).any(|flow| is(flow) && flow.bound.is_none_or(|bound| bound == link))
    }

    fn link_of(&self, flow: &Flow) -> Option<IfIndex> {
        self.kernel.link_of(plain(flow.local).ip(), flow.bound)
    }

    fn check_interfaces(&self, socket: &Socket, remotes: &[SocketAddr], full: bool) {
        let links: BTreeSet<IfIndex> = self.usable().into_iter().map(|(link, _)| link).collect();
        for link in links {
            assert!(full || !self.lacks(socket, remotes, link), "nothing on {link}: {socket:#?} {remotes:?}");
            let ours = self.trusted(socket).filter(|flow| self.link_of(flow) == Some(link));
            let ours = ours.filter(|flow| flow.opener == Opener::Daemon).count();
            assert!(ours <= 1, "{ours} subflows on {link}: {socket:#?}");
        }
    }

    /// Whether nothing is on a link though it could be.
    fn lacks(&self, socket: &Socket, remotes: &[SocketAddr], link: IfIndex) -> bool {
        let usable = self.usable();
        let here = usable.iter().filter(|(other, _)| *other == link);
        let pairs: Vec<_> = here.flat_map(|(_, local)| remotes.iter().map(move |remote| (*local, *remote))).collect();
        let can = pairs.iter().any(|(local, remote)| self.feasible(link, *local, *remote));
        let has = self.visible(socket).any(|flow| self.link_of(flow) == Some(link));
        can && !has && pairs.len() <= 16
    }

    /// Data goes over one path, that of the most preferred link that can have one; what else is there is for
    /// standby.
    fn check_one_in_use(&self, socket: &Socket, remotes: &[SocketAddr], full: bool, warm: bool) {
        let links: BTreeSet<IfIndex> = self.usable().into_iter().map(|(link, _)| link).collect();
        let rank = |link: IfIndex| {
            let order = self.ranks.get(&link.0).map_or(0, |(order, _)| *order);
            (self.is_for_standby(link), !links.contains(&link), order, link)
        };
        let flows: Vec<&Flow> = self.trusted(socket).collect();
        let normal: Vec<&Flow> = flows.iter().filter(|flow| !flow.backup).copied().collect();
        let carriers = if normal.is_empty() { &flows } else { &normal };
        let [used] = carriers[..] else {
            assert!(carriers.is_empty(), "data goes over {carriers:?}: {socket:#?}");
            let lacking = links.iter().find(|link| self.lacks(socket, remotes, **link));
            return assert!(full || lacking.is_none(), "nothing on {lacking:?}, nor elsewhere: {socket:#?}");
        };
        let used_link = self.link_of(used).unwrap();
        assert!(!used.backup || self.is_for_standby(used_link), "in use as a backup: {used:?} in {socket:#?}");
        for link in links.iter().filter(|link| rank(**link) < rank(used_link)) {
            assert!(
                full || !self.lacks(socket, remotes, *link),
                "nothing on {link}, better than {used:?}: {socket:#?}"
            );
            let better: Vec<_> = flows.iter().filter(|flow| self.link_of(flow) == Some(*link)).collect();
            assert!(better.is_empty(), "{better:?} not in use, but {used:?}: {socket:#?}");
        }
        let idle = flows.iter().filter(|flow| flow.opener == Opener::Daemon && !std::ptr::eq(**flow, used));
        assert!(warm || idle.count() == 0, "more than {used:?} in {socket:#?}");
    }

    fn check_mesh(&self, socket: &Socket, remotes: &[SocketAddr], full: bool) {
        let usable = self.usable();
        let pairs: Vec<_> = remotes
            .iter()
            .flat_map(|remote| usable.iter().map(move |(link, local)| (*link, *local, *remote)))
            .filter(|(_, local, remote)| local.is_ipv4() == remote.is_ipv4())
            .collect();
        let is = |flow: &Flow, (_, local, remote): &(IfIndex, IpAddr, SocketAddr)| {
            (*local, *remote) == (plain(flow.local).ip(), plain(flow.remote))
        };
        // What cannot be closed counts too; where that is too much, the last of the wanted are left out.
        let standing = self.visible(socket).filter(|flow| flow.opener != Opener::Daemon);
        let standing = standing.filter(|flow| !pairs.iter().any(|pair| is(flow, pair))).count();
        let routed = pairs.iter().filter(|pair| {
            self.kernel.has_route(pair.0, pair.1.is_ipv6()) || self.visible(socket).any(|flow| is(flow, pair))
        });
        let routed = routed.count();
        if standing + routed > 8 {
            return;
        }
        for (link, local, remote) in &pairs {
            let has = self.has_flow(socket, *link, *local, *remote);
            let can = self.feasible(*link, *local, *remote);
            assert!(has || full || !can, "no {local} - {remote}: {socket:#?}");
        }
        let wanted = |flow: &Flow| pairs.iter().any(|pair| is(flow, pair));
        let excess: Vec<_> =
            self.trusted(socket).filter(|flow| flow.opener == Opener::Daemon && !wanted(flow)).collect();
        assert!(excess.is_empty() || self.trusted(socket).count() == 1, "not wanted: {excess:?} in {socket:#?}");
        for pair in &pairs {
            let same = self.trusted(socket).filter(|flow| is(flow, pair) && flow.opener == Opener::Daemon);
            assert!(same.count() <= 1, "{pair:?} twice: {socket:#?}");
        }
    }

    fn check_ports(&self, socket: &Socket, number: usize, full: bool) {
        let (local, remote) = (plain(socket.told.local).ip(), plain(socket.told.remote));
        let Some((link, _)) = self.usable().into_iter().find(|(_, address)| *address == local) else { return };
        if self.denies(socket) || socket.initial_withdrawn {
            return;
        }
        let between = |flow: &&Flow| (plain(flow.local).ip(), plain(flow.remote)) == (local, remote);
        let there = self.visible(socket).filter(between).count();
        assert!(there >= number || full || !self.feasible(link, local, remote), "{there} of {number}: {socket:#?}");
        let there = self.trusted(socket).filter(between).count();
        assert!(there <= number, "{there} of {number}: {socket:#?}");
    }

    /// What is dead is closed where anything else works.
    fn check_dead(&self, socket: &Socket) {
        let dead: Vec<_> = socket.flows.iter().filter(|flow| !flow.doomed && !self.kernel.is_visible(flow)).collect();
        assert!(dead.is_empty() || self.trusted(socket).count() == 0, "dead: {dead:?} in {socket:#?}");
    }

    /// The application ends every connection.
    fn end(&mut self) {
        self.kernel.sockets.clear();
        let live: Vec<Token> = self.engine.paths.live.iter().map(|(token, _)| token).collect();
        live.into_iter().for_each(|token| self.kernel.tell(MptcpEvent::Closed(token)));
        self.rest(Duration::from_secs(600));
        let paths = &self.engine.paths;
        assert!(paths.live.is_empty() && paths.asked.is_empty() && paths.unrouted.is_empty(), "{paths:#?}");
        assert!(paths.timers.is_empty() && !paths.has_work() && paths.deadline().is_none(), "{paths:#?}");
    }
}

fn simulate(seed: u64, trace: bool) {
    let mut host = Host::new(seed, trace);
    for _ in 0..STEPS {
        for _ in 0..host.random.below(4) {
            host.change();
        }
        let most = if host.kernel.events.is_empty() && host.random.one_in(8) { 3000 } else { 50 };
        host.now += milliseconds(host.random.below(most));
        host.turn();
    }
    if host.random.one_in(2) {
        host.recover();
    }
    host.trace(|| "now it is quiet".into());
    host.kernel.sockets.values_mut().for_each(|socket| socket.creates.clear());
    host.rest(Duration::from_secs(300));
    host.check_pace();
    host.rest(HEALED.saturating_sub(Duration::from_secs(300)));
    host.check();
    host.rest(Duration::from_secs(600));
    host.check();
    host.end();
}

#[test]
fn whatever_happened_every_connection_has_its_paths_once_it_is_quiet_and_the_engine_sleeps() {
    for_every_seed(SEEDS, simulate);
}
