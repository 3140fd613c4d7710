//! What the kernel's user-space path manager and the peers of its connections would do: ids and address
//! entries as net/mptcp/pm_userspace.c keeps them, joins that take their time, peers that refuse, drop and
//! close. Whatever breaks a promise of the engine panics here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::command::{Advertisement, NewSubflow, PathCommand, Request, RouteQuestion, SocketRequest, SubflowEnds};
use crate::connections::plain;
use crate::diag::{self, ConnectionInfo, Cookie, Role, SocketId, SubflowFlags, SubflowInfo, TcpState, Transfer};
use crate::engine::{Failure, Ticket};
use crate::event::{self, Address, Endpoint, LinkFlags, MptcpEvent, Reset, RoutingChange};
use crate::random::Random;
use crate::types::{AddressId, EndpointFlags, Errno, Family, IfIndex, Token};
use crate::wire::Refusal;

pub(super) const UP: LinkFlags = LinkFlags(0x1_0041);
pub(super) const NO_CARRIER: LinkFlags = LinkFlags(1);
pub(super) const DOWN: LinkFlags = LinkFlags(0);

/// Why a command failed.
pub(super) type Refused = (Errno, &'static str);

const INVALID_TOKEN: Refused = (Errno::INVAL, "invalid token");
const CLASH: Refused = (Errno::INVAL, "did not match address and id");
const NO_SOCKET: Refused = (Errno::NOENT, "");
const ABORTED: Errno = Errno(103);
const RESET: Errno = Errno(104);
const TIMED_OUT: Errno = Errno(110);
const CONNECTION_REFUSED: Errno = Errno(111);
const NO_ROUTE_TO_HOST: Errno = Errno(113);

/// What the engine is told, in one of three queues.
#[derive(Clone, Debug)]
pub(super) enum Told {
    Link(IfIndex, LinkFlags, Option<Ticket>),
    LinkGone(IfIndex),
    Address(Address, Option<Ticket>),
    AddressGone(Address),
    Routing(RoutingChange),
    Lost,
    /// Whether there is a way, and whether it is through the device.
    Route(Ticket, bool, bool),
    End(Ticket, Result<(), Option<Refused>>),
    Listed(Ticket, Endpoint),
    Socket(Ticket, diag::Socket),
    Listening(SocketAddr),
    Mptcp(MptcpEvent),
    EventsLost,
}

impl Told {
    pub(super) fn failure(refused: Option<Refused>) -> Failure<'static> {
        match refused {
            Some((errno, text)) => Failure::Refused(Refusal { errno, text, missing: None }),
            None => Failure::Interrupted,
        }
    }
}

/// What becomes of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Taken,
    /// Nobody answers.
    Dropped,
    /// Nobody listens.
    Refused,
    /// A reset with that reason.
    Reset(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opener {
    Initial,
    Daemon,
    Peer,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) id: AddressId,
    pub(super) remote_id: AddressId,
    pub(super) bound: Option<IfIndex>,
    pub(super) opener: Opener,
    pub(super) backup: bool,
    /// When it was begun, in the order of commands.
    begun: u64,
    /// The peer is about to close it, as it has enough.
    pub(super) doomed: bool,
    /// Bytes acknowledged, when that was last looked at.
    acknowledged: u64,
    /// It has been found silent since.
    silent: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) id: AddressId,
    pub(super) announced: bool,
}

impl Entry {
    fn listed(&self) -> Endpoint {
        let Self { address, port, id, announced } = *self;
        let flags = if announced { EndpointFlags::SIGNAL } else { EndpointFlags::IMPLICIT };
        Endpoint { id, address, port, flags, if_index: None }
    }
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) told: event::Connection,
    pub(super) established: bool,
    pub(super) kernel_manages: bool,
    pub(super) flows: Vec<Flow>,
    /// On their way.
    pub(super) joins: Vec<Flow>,
    pub(super) entries: Vec<Entry>,
    /// Ids that the peer was told to forget.
    removed: BTreeSet<AddressId>,
    /// What the peer announced and did not withdraw.
    pub(super) remotes: Vec<(AddressId, SocketAddr)>,
    pub(super) initial_withdrawn: bool,
    /// Joins beyond so many are closed at once.
    pub(super) limit: usize,
    /// How often each pair was tried.
    pub(super) creates: BTreeMap<(IpAddr, SocketAddr), u32>,
    /// Its application sends for a second now and then.
    pub(super) busy: bool,
}

/// What happens by itself, later.
#[derive(Clone, Copy, Debug)]
enum Later {
    Established(Token),
    /// The SYN is sent again, or for the first time; the number is that of the join.
    Join(Token, u64, u32),
    Removal(Token, AddressId, u64),
    TurnAway(Token, u64),
}

/// What the kernel would be.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) links: BTreeMap<u32, LinkFlags>,
    pub(super) addresses: Vec<Address>,
    /// Interfaces with a default route, for IPv6 or not, whether they are up or not.
    pub(super) routes: BTreeSet<(u32, bool)>,
    /// For IPv6, questions with a source are answered with another device.
    pub(super) prefers_another: bool,
    /// It does no more than Linux 6.1: see `binding` and `guess`.
    pub(super) old: bool,
    /// Nobody can know which ids it has for addresses on these.
    pub(super) unlisted: BTreeSet<Token>,
    pub(super) sockets: BTreeMap<Token, Socket>,
    /// Sockets of which no CLOSED was told and no command may be sent for.
    pub(super) told_closed: BTreeSet<Token>,
    pub(super) fates: BTreeMap<(u32, IpAddr), Fate>,
    pub(super) network: VecDeque<Told>,
    pub(super) answers: VecDeque<Told>,
    pub(super) events: VecDeque<Told>,
    /// There is no more room for events.
    pub(super) deaf: bool,
    /// Connections of which the engine was not told what only events tell.
    pub(super) unknown: BTreeSet<Token>,
    later: BTreeMap<(Instant, u64), Later>,
    pub(super) number: u64,
    pub(super) now: Instant,
    /// The engine has been told everything.
    pub(super) informed: bool,
    pub(super) commands: u32,
    /// No application sends.
    pub(super) calm: bool,
    begun: Instant,
    next_port: u16,
}

impl Kernel {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            links: BTreeMap::new(),
            addresses: Vec::new(),
            routes: BTreeSet::new(),
            prefers_another: false,
            old: false,
            unlisted: BTreeSet::new(),
            sockets: BTreeMap::new(),
            told_closed: BTreeSet::new(),
            fates: BTreeMap::new(),
            network: VecDeque::new(),
            answers: VecDeque::new(),
            events: VecDeque::new(),
            deaf: false,
            unknown: BTreeSet::new(),
            later: BTreeMap::new(),
            number: 0,
            now,
            informed: false,
            commands: 0,
            calm: false,
            begun: now,
            next_port: 40_000,
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.has_told(false)
    }

    /// Whether there is nothing to be read, apart from events if they are held.
    pub(super) fn has_told(&self, but_events: bool) -> bool {
        self.network.is_empty() && self.answers.is_empty() && (but_events || self.events.is_empty())
    }

    pub(super) fn port(&mut self) -> u16 {
        self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
        self.next_port
    }

    fn in_a_while(&mut self, milliseconds: usize, what: Later) {
        self.number += 1;
        let time = self.now + Duration::from_millis(milliseconds.try_into().unwrap());
        self.later.insert((time, self.number), what);
    }

    pub(super) fn next_happening(&self) -> Option<Instant> {
        self.later.first_key_value().map(|((time, _), _)| *time)
    }

    /// What was to happen until then happens.
    pub(super) fn pass(&mut self, now: Instant, random: &mut Random) {
        while let Some(first) = self.later.first_entry().filter(|first| first.key().0 <= now) {
            self.now = first.key().0.max(self.now);
            match first.remove() {
                Later::Established(token) => self.establish(token),
                Later::Join(token, number, tries) => self.join(token, number, tries, random),
                Later::Removal(token, id, number) => self.peer_removes(token, id, number),
                Later::TurnAway(token, number) => self.turn_away(token, number),
            }
        }
        self.now = now;
    }

    pub(super) fn tell(&mut self, event: MptcpEvent) {
        if !self.deaf {
            return self.events.push_back(Told::Mptcp(event));
        }
        if let MptcpEvent::Created(told) = event {
            self.unknown.insert(told.token);
        }
    }

    /// Events have found no room: that is told before those that did, and others are lost until they are read.
    pub(super) fn overrun(&mut self) {
        self.events.push_front(Told::EventsLost);
        self.deaf = true;
    }

    /// The interface that an address is on, if packets can leave there.
    pub(super) fn link_of(&self, address: IpAddr, bound: Option<IfIndex>) -> Option<IfIndex> {
        let here = self.addresses.iter().filter(|known| known.address == address);
        let mut links = here.map(|known| known.if_index).filter(|link| self.links.get(&link.0) == Some(&UP));
        links.find(|link| bound.is_none_or(|bound| bound == *link))
    }

    /// Whether its address and link are there, as far as the engine can see.
    pub(super) fn is_visible(&self, flow: &Flow) -> bool {
        !flow.doomed && self.link_of(plain(flow.local).ip(), flow.bound).is_some()
    }

    pub(super) fn fate(&self, link: IfIndex, remote: IpAddr) -> Fate {
        self.fates.get(&(link.0, remote)).copied().unwrap_or(Fate::Taken)
    }

    pub(super) fn has_route(&self, link: IfIndex, v6: bool) -> bool {
        self.routes.contains(&(link.0, v6)) && self.links.get(&link.0) == Some(&UP)
    }

    pub(super) fn execute(&mut self, ticket: Ticket, request: &Request, random: &mut Random) {
        match request {
            Request::DumpLinks => {
                self.network.extend(self.links.iter().map(|(i, f)| Told::Link(IfIndex(*i), *f, Some(ticket))));
                self.network.push_back(Told::End(ticket, Ok(())));
            }
            Request::DumpAddresses => {
                self.network.extend(self.addresses.iter().map(|address| Told::Address(*address, Some(ticket))));
                self.network.push_back(Told::End(ticket, Ok(())));
            }
            Request::AskRoute(RouteQuestion { if_index, destination, source, bound }) => {
                let there = self.has_route(*if_index, destination.is_ipv6());
                let elsewhere = self.prefers_another && destination.is_ipv6() && source.is_some() && *bound;
                self.network.push_back(Told::Route(ticket, there, !elsewhere));
            }
            Request::Sockets(SocketRequest::Listeners(family)) => {
                // The servers' application, for both families.
                if *family == Family::V6 {
                    self.answers.push_back(Told::Socket(ticket, listener()));
                }
                self.answers.push_back(Told::End(ticket, Ok(())));
            }
            Request::Sockets(SocketRequest::Connections(_) | SocketRequest::Subflows(_)) if random.one_in(12) => {
                let busy = random.one_in(2).then_some((Errno::BUSY, ""));
                self.answers.push_back(Told::End(ticket, Err(busy)));
            }
            Request::Sockets(request) => {
                let result = self.answer_about_sockets(ticket, request, random);
                self.answers.push_back(Told::End(ticket, result.map_err(Some)));
            }
            Request::Pm(_) => self.answers.push_back(Told::End(ticket, Ok(()))),
            Request::Path(command) => {
                self.commands += 1;
                let result = self.command(ticket, command, random);
                self.answers.push_back(Told::End(ticket, result.map_err(Some)));
            }
        }
    }

    fn command(&mut self, ticket: Ticket, command: &PathCommand, random: &mut Random) -> Result<(), Refused> {
        let (PathCommand::Announce(Advertisement { token, .. })
        | PathCommand::Remove(token, _)
        | PathCommand::ListAddresses(token)
        | PathCommand::Probe(token)
        | PathCommand::CreateSubflow(NewSubflow { token, .. })
        | PathCommand::DestroySubflow(SubflowEnds { token, .. })
        | PathCommand::SetBackup(SubflowEnds { token, .. }, _)) = *command;
        let gone = self.told_closed.contains(&token) && token != Token(0);
        assert!(!gone, "the connection is gone: {command}");
        if self.old && matches!(command, PathCommand::ListAddresses(_)) {
            self.list_endpoints(ticket);
            return Ok(());
        }
        let socket = self.sockets.get(&token).ok_or(INVALID_TOKEN)?;
        if socket.kernel_manages && self.old {
            return Err((Errno::INVAL, "invalid request; userspace PM not selected"));
        }
        if socket.kernel_manages {
            return Err((Errno::INVAL, "userspace PM not selected"));
        }
        let before = socket.flows.iter().filter(|flow| self.is_visible(flow)).count();
        let result = match command {
            PathCommand::Announce(wanted) => self.announce(wanted),
            PathCommand::Remove(_, id) => self.remove(token, *id),
            PathCommand::ListAddresses(_) => {
                let entries = socket.entries.iter().map(|entry| Told::Listed(ticket, entry.listed()));
                self.answers.extend(entries);
                Ok(())
            }
            PathCommand::Probe(_) => return Err((Errno::INVAL, "missing local port")),
            PathCommand::CreateSubflow(wanted) => self.create(wanted, random),
            PathCommand::DestroySubflow(ends) => self.destroy(ends),
            PathCommand::SetBackup(ends, backup) => self.set_backup(ends, *backup),
        };
        let removed = if let PathCommand::Remove(_, id) = command { Some(*id) } else { None };
        let left = self.sockets[&token].flows.iter().filter(|flow| Some(flow.id) != removed || result.is_err());
        let left = left.filter(|flow| self.is_visible(flow)).count();
        assert!(!self.informed || before == 0 || left > 0, "the last that worked: {command}");
        result
    }

    /// What is no concern of any connection.
    fn list_endpoints(&mut self, ticket: Ticket) {
        for (id, known) in (1..).zip(&self.addresses) {
            let (id, address, flags) = (AddressId(id), known.address, EndpointFlags::SIGNAL);
            self.answers.push_back(Told::Listed(ticket, Endpoint { id, address, port: 0, flags, if_index: None }));
        }
    }

    fn answer_about_sockets(
        &mut self,
        ticket: Ticket,
        request: &SocketRequest,
        random: &mut Random,
    ) -> Result<(), Refused> {
        match request {
            SocketRequest::Subflow(id) => {
                let (token, place) = self.find(id).ok_or(NO_SOCKET)?;
                let socket = self.sample(token, place);
                self.answers.push_back(Told::Socket(ticket, socket));
            }
            SocketRequest::Connection(token) => {
                let socket = self.sockets.get(token).ok_or(NO_SOCKET)?;
                let info = ConnectionInfo {
                    token: *token,
                    fallback: false,
                    write_sequence: if self.is_busy(socket) { self.number } else { 0 },
                    unacknowledged: if self.is_busy(socket) { self.number } else { 0 },
                    receive_next: 0,
                };
                let role = Role::Connection(info);
                self.answers.push_back(Told::Socket(ticket, diag::Socket { role, ..listener() }));
            }
            SocketRequest::Beginning(family) => {
                for (token, socket) in &self.sockets {
                    for join in socket.joins.iter().filter(|join| Family::of(join.local.ip()) == *family) {
                        let found = diag::Socket { state: TcpState::SYN_SENT, ..socket.shown(*token, join) };
                        self.answers.push_back(Told::Socket(ticket, found));
                    }
                }
            }
            SocketRequest::Destroy(id) => {
                assert_ne!(id.cookie, Cookie::ANY, "an application's listener may be meant");
                return self.reset(id, random);
            }
            SocketRequest::Connections(family) => self.list_connections(ticket, *family),
            SocketRequest::Subflows(family) => self.list_subflows(ticket, *family),
            SocketRequest::Listeners(_) => panic!("not asked for: {request}"),
        }
        Ok(())
    }

    fn list_connections(&mut self, ticket: Ticket, family: Family) {
        for (token, socket) in &self.sockets {
            let (local, remote) = (socket.told.local, socket.told.remote);
            if Family::of(local.ip()) == family {
                let info = ConnectionInfo {
                    token: *token,
                    fallback: false,
                    write_sequence: 0,
                    unacknowledged: 0,
                    receive_next: 0,
                };
                let id = SocketId { local, remote, if_index: None, cookie: Cookie(1) };
                let (role, state) = (Role::Connection(info), TcpState::ESTABLISHED);
                self.answers.push_back(Told::Socket(ticket, diag::Socket { id, role, state, ..listener() }));
            }
        }
    }

    fn list_subflows(&mut self, ticket: Ticket, family: Family) {
        for (token, socket) in &self.sockets {
            let its = |flow: &&Flow| Family::of(flow.local.ip()) == family;
            for flow in socket.flows.iter().filter(its) {
                self.answers.push_back(Told::Socket(ticket, socket.shown(*token, flow)));
            }
            for join in socket.joins.iter().filter(its) {
                let state = TcpState::SYN_SENT;
                self.answers.push_back(Told::Socket(ticket, diag::Socket { state, ..socket.shown(*token, join) }));
            }
        }
    }

    fn is_busy(&self, socket: &Socket) -> bool {
        socket.busy && !self.calm && (self.now - self.begun).as_secs() % 16 == 0
    }

    fn find(&self, id: &SocketId) -> Option<(Token, usize)> {
        self.sockets.iter().find_map(|(token, socket)| {
            let place = socket.flows.iter().position(|flow| (flow.local, flow.remote) == (id.local, id.remote));
            place.map(|place| (*token, place))
        })
    }

    /// Whether packets of a subflow are lost.
    fn is_silent(&self, flow: &Flow) -> bool {
        let link = self.link_of(plain(flow.local).ip(), flow.bound);
        link.is_none_or(|link| self.fate(link, plain(flow.remote).ip()) == Fate::Dropped)
    }

    fn sample(&mut self, token: Token, place: usize) -> diag::Socket {
        let (flow, now) = (self.sockets[&token].flows[place], self.now);
        let (silent, busy) = (self.is_silent(&flow), self.is_busy(&self.sockets[&token]));
        let flow = &mut self.sockets.get_mut(&token).unwrap().flows[place];
        flow.silent = flow.silent.or(Some(now)).filter(|_| silent);
        flow.acknowledged += u64::from(busy && !silent);
        let transfer = Transfer {
            unacknowledged: u32::from(busy),
            outstanding: 1448 * u32::from(busy),
            segment: 1448,
            acknowledged: flow.acknowledged,
            last_acknowledgement: flow.silent.map_or(Duration::ZERO, |since| now - since),
            delivery_rate: 1_000_000,
            ..Transfer::default()
        };
        let flow = *flow;
        diag::Socket { transfer: Some(transfer), ..self.sockets[&token].shown(token, &flow) }
    }

    /// `SOCK_DESTROY`.
    fn reset(&mut self, id: &SocketId, random: &mut Random) -> Result<(), Refused> {
        let ends = |flow: &Flow| (flow.local, flow.remote) == (id.local, id.remote);
        for token in self.sockets.keys().copied().collect::<Vec<_>>() {
            let socket = &self.sockets[&token];
            let before = socket.flows.iter().filter(|flow| self.is_visible(flow)).count();
            let left = socket.flows.iter().filter(|flow| self.is_visible(flow) && !ends(flow)).count();
            let socket = self.sockets.get_mut(&token).unwrap();
            if let Some(place) = socket.flows.iter().position(ends) {
                assert!(!self.informed || before == 0 || left > 0, "the last that worked: {id}");
                let flow = socket.flows.remove(place);
                self.tell_closed(token, &flow, Some(ABORTED), None);
                return Ok(());
            }
            if let Some(place) = socket.joins.iter().position(ends) {
                self.end_join(token, place, Some(ABORTED), None, random);
                return Ok(());
            }
        }
        Err(NO_SOCKET)
    }

    fn announce(&mut self, wanted: &Advertisement) -> Result<(), Refused> {
        assert_ne!(wanted.id, AddressId(0), "the kernel takes no such announcement");
        let socket = self.sockets.get_mut(&wanted.token).unwrap();
        assert!(socket.told.local.is_ipv6() || wanted.address.is_ipv4(), "the connection cannot carry it");
        socket.enter(wanted.address, wanted.port, wanted.id)?.announced = true;
        socket.check_ids();
        Ok(())
    }

    fn remove(&mut self, token: Token, id: AddressId) -> Result<(), Refused> {
        let socket = self.sockets.get_mut(&token).unwrap();
        if id == AddressId(0) {
            socket.flows.iter().find(|flow| flow.id == id).ok_or((Errno::INVAL, "no subflow with id 0"))?;
        } else {
            let place = socket.entries.iter().position(|entry| entry.id == id);
            // The peer would go on to use them, if it was not told before.
            let used = socket.flows.iter().any(|flow| flow.id == id && !flow.doomed) && !socket.removed.contains(&id);
            assert!(place.is_some() || !used, "id {id} cannot be withdrawn any more: {socket:#?}");
            socket.removed.insert(id);
            socket.entries.remove(place.ok_or((Errno::INVAL, "address with id not found"))?);
        }
        let number = self.number;
        self.in_a_while(10, Later::Removal(token, id, number));
        Ok(())
    }

    /// The peer closes what was begun before the address was withdrawn.
    fn peer_removes(&mut self, token: Token, id: AddressId, number: u64) {
        let Some(socket) = self.sockets.get_mut(&token) else { return };
        let (gone, kept) = socket.flows.drain(..).partition(|flow| flow.id == id && flow.begun <= number);
        let gone: Vec<Flow> = gone;
        socket.flows = kept;
        socket.joins.retain(|join| join.id != id || join.begun > number);
        for flow in gone {
            self.tell_closed(token, &flow, None, None);
        }
    }

    fn create(&mut self, wanted: &NewSubflow, random: &mut Random) -> Result<(), Refused> {
        let has = |address: &Address| {
            address.address == wanted.local && wanted.if_index.is_none_or(|link| link == address.if_index)
        };
        let local_is_here = self.addresses.iter().any(has);
        let routed = wanted.if_index.is_some_and(|link| self.has_route(link, wanted.local.is_ipv6()));
        let port = self.port();
        self.number += 1;
        let begun = self.number;
        let socket = self.sockets.get_mut(&wanted.token).unwrap();
        assert!(socket.told.local.is_ipv6() || wanted.remote.is_ipv4(), "an IPv4 socket cannot carry it");
        assert_eq!(wanted.local.is_ipv4(), wanted.remote.is_ipv4(), "families mismatch");
        *socket.creates.entry((wanted.local, wanted.remote)).or_default() += 1;
        if !socket.established {
            return Err((Errno(107), "not fully established"));
        }
        let fresh = socket.entries.len();
        socket.enter(wanted.local, 0, wanted.local_id)?;
        if !local_is_here || (!routed && wanted.local.is_ipv6()) {
            socket.entries.truncate(fresh);
            return Err((Errno(if local_is_here { 101 } else { 99 }), "connect error"));
        }
        let local = SocketAddr::new(wanted.local, port);
        let (id, bound, backup) = (wanted.local_id, wanted.if_index.filter(|_| !self.old), wanted.backup && !self.old);
        let opener = Opener::Daemon;
        socket.joins.push(Flow {
            local,
            remote: wanted.remote,
            id,
            remote_id: wanted.remote_id,
            bound,
            opener,
            backup,
            begun,
            doomed: false,
            acknowledged: 0,
            silent: None,
        });
        socket.check_ids();
        self.in_a_while(1 + random.below(60), Later::Join(wanted.token, begun, 0));
        Ok(())
    }

    fn destroy(&mut self, ends: &SubflowEnds) -> Result<(), Refused> {
        let socket = self.sockets.get_mut(&ends.token).unwrap();
        let place = socket.flows.iter().position(|flow| (flow.local, flow.remote) == (ends.local, ends.remote));
        let flow = socket.flows.remove(place.ok_or((Errno(3), "subflow not found"))?);
        let address = plain(flow.local).ip();
        socket.entries.retain(|entry| entry.address != address);
        self.tell_closed(ends.token, &flow, None, None);
        Ok(())
    }

    fn set_backup(&mut self, ends: &SubflowEnds, backup: bool) -> Result<(), Refused> {
        let mut flows = self.sockets.get_mut(&ends.token).unwrap().flows.iter_mut();
        let flow = flows.find(|flow| (flow.local, flow.remote) == (ends.local, ends.remote));
        flow.ok_or((Errno::INVAL, "subflow not found"))?.backup = backup;
        Ok(())
    }

    /// A SYN is sent, or sent again.
    fn join(&mut self, token: Token, number: u64, tries: u32, random: &mut Random) {
        let Some(socket) = self.sockets.get(&token) else { return };
        let Some(place) = socket.joins.iter().position(|join| join.begun == number) else { return };
        let join = socket.joins[place];
        let link = self.link_of(join.local.ip(), join.bound);
        let fate = link.map_or(Fate::Dropped, |link| self.fate(link, join.remote.ip()));
        let routed = link.is_some_and(|link| self.has_route(link, join.remote.is_ipv6()));
        let there = socket.leads_to(join.remote) || random.one_in(2);
        let fate = if there { fate } else { Fate::Refused };
        match fate {
            _ if link.is_some() && !routed => self.end_join(token, place, Some(NO_ROUTE_TO_HOST), None, random),
            Fate::Dropped if tries < 6 => self.in_a_while(1000 << tries.min(3), Later::Join(token, number, tries + 1)),
            Fate::Dropped => self.end_join(token, place, Some(TIMED_OUT), None, random),
            Fate::Refused => self.end_join(token, place, Some(CONNECTION_REFUSED), None, random),
            Fate::Reset(reason) => {
                let reset = Reset { reason, transient: false };
                self.end_join(token, place, Some(RESET), Some(reset), random);
            }
            Fate::Taken => self.take_join(token, place, random),
        }
    }

    fn end_join(
        &mut self,
        token: Token,
        place: usize,
        error: Option<Errno>,
        reset: Option<Reset>,
        random: &mut Random,
    ) {
        let mut join = self.sockets.get_mut(&token).unwrap().joins.remove(place);
        if random.one_in(4) {
            join.remote.set_port(0);
        }
        self.tell_closed(token, &join, error, reset);
    }

    fn take_join(&mut self, token: Token, place: usize, random: &mut Random) {
        let socket = self.sockets.get_mut(&token).unwrap();
        let mut join = socket.joins.remove(place);
        let joined = socket.flows.iter().filter(|flow| flow.opener != Opener::Initial && !flow.doomed).count();
        join.doomed = joined >= socket.limit;
        socket.flows.push(join);
        self.tell(MptcpEvent::SubflowEstablished(told(token, &join)));
        if join.doomed {
            self.in_a_while(random.below(80), Later::TurnAway(token, join.begun));
        }
    }

    fn turn_away(&mut self, token: Token, number: u64) {
        let Some(socket) = self.sockets.get_mut(&token) else { return };
        let place = socket.flows.iter().position(|flow| flow.begun == number && flow.doomed);
        if let Some(flow) = place.map(|place| socket.flows.remove(place)) {
            self.tell_closed(token, &flow, None, None);
        }
    }

    pub(super) fn tell_closed(&mut self, token: Token, flow: &Flow, error: Option<Errno>, reset: Option<Reset>) {
        self.tell(MptcpEvent::SubflowClosed(event::Subflow { error, reset, ..told(token, flow) }));
    }

    pub(super) fn open(&mut self, socket: Socket, random: &mut Random) {
        let token = socket.told.token;
        self.unknown.remove(&token);
        self.unlisted.remove(&token);
        self.tell(MptcpEvent::Created(socket.told));
        self.sockets.insert(token, socket);
        if !random.one_in(12) {
            self.in_a_while(random.below(20), Later::Established(token));
        }
    }

    fn establish(&mut self, token: Token) {
        if let Some(socket) = self.sockets.get_mut(&token) {
            socket.established = true;
            let told = socket.told;
            self.tell(MptcpEvent::Established(told));
        }
    }

    /// The peer joins an address of this host.
    pub(super) fn peer_joins(&mut self, token: Token, address: IpAddr, remote: IpAddr) {
        let remote = SocketAddr::new(remote, self.port());
        let number = self.number;
        let Some(socket) = self.sockets.get_mut(&token).filter(|socket| socket.established) else { return };
        if !socket.told.local.is_ipv6() && address.is_ipv6() {
            return;
        }
        let local = SocketAddr::new(address, socket.told.local.port());
        let id = socket.implicit_id(address);
        let flow = Flow {
            local,
            remote,
            id,
            remote_id: AddressId(0),
            bound: None,
            opener: Opener::Peer,
            backup: false,
            begun: number,
            doomed: false,
            acknowledged: 0,
            silent: None,
        };
        socket.flows.push(flow);
        self.tell(MptcpEvent::SubflowEstablished(told(token, &flow)));
    }
}

impl Socket {
    pub(super) fn new(told: event::Connection, kernel_manages: bool, limit: usize) -> Self {
        let (local, remote) = (told.local, told.remote);
        let id = AddressId(0);
        let initial = Flow {
            local,
            remote,
            id,
            remote_id: AddressId(0),
            bound: None,
            opener: Opener::Initial,
            backup: false,
            begun: 0,
            doomed: false,
            acknowledged: 0,
            silent: None,
        };
        Self {
            told,
            established: false,
            kernel_manages,
            flows: vec![initial],
            joins: Vec::new(),
            entries: Vec::new(),
            removed: BTreeSet::new(),
            remotes: Vec::new(),
            initial_withdrawn: false,
            limit,
            creates: BTreeMap::new(),
            busy: false,
        }
    }

    /// `mptcp_userspace_pm_append_new_local_addr`.
    fn enter(&mut self, address: IpAddr, port: u16, id: AddressId) -> Result<&mut Entry, Refused> {
        let same = |entry: &Entry| (entry.address, entry.port) == (address, port);
        match self.entries.iter().position(|entry| same(entry) || entry.id == id) {
            Some(place) if !same(&self.entries[place]) || self.entries[place].id != id => Err(CLASH),
            Some(place) => Ok(&mut self.entries[place]),
            None => {
                self.entries.push(Entry { address, port, id, announced: false });
                Ok(self.entries.last_mut().unwrap())
            }
        }
    }

    /// The id of an address that the peer joined, chosen by the kernel if it has none
    /// (`mptcp_userspace_pm_get_local_id`).
    fn implicit_id(&mut self, address: IpAddr) -> AddressId {
        if address == plain(self.told.local).ip() {
            return AddressId(0);
        }
        if let Some(entry) = self.entries.iter().find(|entry| entry.address == address) {
            return entry.id;
        }
        // The kernel does not look at subflows here; that it takes an id of one is not the engine's doing.
        let free = |id: &AddressId| {
            let flows = self.flows.iter().chain(&self.joins);
            !self.entries.iter().any(|entry| entry.id == *id) && !flows.into_iter().any(|flow| flow.id == *id)
        };
        let id = (1..=255).map(AddressId).find(free).unwrap();
        self.entries.push(Entry { address, port: 0, id, announced: false });
        id
    }

    /// A subflow as sock_diag shows it.
    fn shown(&self, token: Token, flow: &Flow) -> diag::Socket {
        let id = SocketId { local: flow.local, remote: flow.remote, if_index: flow.bound, cookie: Cookie(7) };
        let opener = match flow.opener {
            Opener::Initial if self.told.server_side => SubflowFlags::CAPABLE_REMOTE.0,
            Opener::Initial => SubflowFlags::CAPABLE_REMOTE.0 | SubflowFlags::CAPABLE_LOCAL.0,
            Opener::Daemon => SubflowFlags::JOIN_REMOTE.0 | SubflowFlags::JOIN_LOCAL.0,
            Opener::Peer => SubflowFlags::JOIN_REMOTE.0,
        };
        let established = if self.established { SubflowFlags::FULLY_ESTABLISHED.0 } else { 0 };
        let backup = if flow.backup { SubflowFlags::BACKUP_LOCAL.0 } else { 0 };
        let info = SubflowInfo {
            token,
            remote_token: Token(0),
            local_id: flow.id,
            remote_id: flow.remote_id,
            flags: SubflowFlags(opener | established | backup),
        };
        let (state, role) = (TcpState::ESTABLISHED, Role::Subflow(info));
        diag::Socket { id, state, inode: 1, v6_only: false, role, transfer: None }
    }

    pub(super) fn leads_to(&self, remote: SocketAddr) -> bool {
        let initial = !self.told.server_side && !self.initial_withdrawn && remote == plain(self.told.remote);
        initial || self.remotes.iter().any(|(_, known)| *known == remote)
    }

    /// No id stands for two addresses.
    fn check_ids(&self) {
        let mut known: BTreeMap<AddressId, IpAddr> = BTreeMap::new();
        let flows = self.flows.iter().chain(&self.joins).map(|flow| (flow.id, plain(flow.local).ip()));
        let announced = self.entries.iter().filter(|entry| entry.announced).map(|entry| (entry.id, entry.address));
        for (id, address) in flows.chain(announced) {
            assert_eq!(*known.entry(id).or_insert(address), address, "two addresses with id {id}: {self:#?}");
        }
    }
}

fn told(token: Token, flow: &Flow) -> event::Subflow {
    let Flow { local, remote, id, bound, .. } = *flow;
    event::Subflow {
        token,
        local,
        remote,
        local_id: id,
        remote_id: AddressId(0),
        backup: false,
        if_index: bound,
        error: None,
        reset: None,
    }
}

fn listener() -> diag::Socket {
    let any = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let id = SocketId { local: any(80), remote: any(0), if_index: None, cookie: Cookie(1) };
    diag::Socket { id, state: TcpState::LISTEN, inode: 1, v6_only: false, role: Role::Other, transfer: None }
}

/// The IPv6 form of an IPv4 end.
pub(super) fn mapped(end: SocketAddr) -> SocketAddr {
    match end.ip() {
        IpAddr::V4(v4) => SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), end.port()),
        IpAddr::V6(v6) => SocketAddr::new(IpAddr::V6(Ipv6Addr::from(v6.octets())), end.port()),
    }
}
