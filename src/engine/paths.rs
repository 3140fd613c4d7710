//! Makes the paths that a path manager wants of every connection, and keeps them: which connections
//! there are, which of them are to be looked at, and what the kernel said to what was asked for them.
//!
//! What is to be done about one connection is decided in `converge`; how a path that fails is tried
//! again, in `attempts`.

mod announce;
mod attempts;
mod converge;
mod table;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use self::attempts::{Attempt, Loss};
use self::converge::Work;
use self::table::Table;
use super::ids::Ids;
use super::listeners::Listeners;
use super::outbox::Outbox;
use super::routes::Way;
use super::ways::Ways;
use super::{Failure, Ticket};
use crate::command::{PathCommand, Request, RouteQuestion};
use crate::connections::{Closed, Connection, plain};
use crate::event::{self, Endpoint, MptcpEvent, RoutingChange};
use crate::plugin::{Memo, Origin, PathManager, View};
use crate::types::{AddressId, IfIndex, Token};

/// How paths are tried and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathPolicy {
    /// Subflows of one connection, the initial one included.
    pub(crate) max_subflows: u8,
    /// The pause after the first of several failures in a row; it doubles with each.
    pub(crate) first_retry: Duration,
    /// It does not grow beyond this,
    pub(crate) longest_retry: Duration,
    /// nor beyond this while the connection is younger than a minute.
    pub(crate) longest_early_retry: Duration,
}

impl Default for PathPolicy {
    fn default() -> Self {
        Self {
            max_subflows: 8,
            first_retry: Duration::from_secs(1),
            longest_retry: Duration::from_secs(300),
            longest_early_retry: Duration::from_secs(10),
        }
    }
}

/// When so many connections in a row needed nothing, the next will hardly either.
const CALM: u32 = 8;
/// The kernel's list of ids is read so often for one connection; more would be of no use.
const MOST_LISTS: u8 = 8;
/// Connections looked at before the loop turns.
const SLICE: usize = 64;

/// Every connection whose paths are managed.
#[derive(Debug)]
pub(super) struct Paths {
    live: Table,
    closed: Closed,
    /// Connections to be looked at, each once.
    dirty: VecDeque<Token>,
    /// Connections with a path that had no route.
    unrouted: Vec<Token>,
    /// Connections still to be looked at because the host's network changed.
    sweep: Vec<Token>,
    /// The addresses that were usable when the view was last taken, sorted.
    usable: Vec<(IpAddr, IfIndex)>,
    /// Those that came back and of which the connections of the sweep are to be told.
    returned: Vec<(IpAddr, IfIndex)>,
    /// When a connection is to be looked at again; an entry counts if the connection says the same.
    timers: BinaryHeap<Reverse<(Instant, Token)>>,
    /// Commands that are not answered yet, in the order in which they were sent.
    asked: VecDeque<(Ticket, Token, Asked)>,
    ways: Ways,
    /// The ids that addresses get where a connection does not know better.
    ids: Ids,
    work: Work,
    view_changed: bool,
    /// Connections that are gone and needed listeners of the daemon's.
    unannounced: Vec<Token>,
    /// Connections looked at since one needed anything.
    calm: u32,
}

/// A connection and what is done about it.
#[derive(Debug)]
struct Managed {
    connection: Connection,
    attempts: Vec<Attempt>,
    memo: Memo,
    /// The peer closed what came beyond so many subflows.
    took: Option<usize>,
    wake: Option<Instant>,
    dirty: bool,
    /// How often the kernel may still be asked for ids.
    lists: u8,
    /// A path that is wanted had no route.
    unrouted: bool,
    /// Routes changed since.
    route_returned: bool,
    /// It is under the kernel's own path manager, or stays on this host.
    left_alone: bool,
    /// It needs a listener of the daemon's.
    listens: bool,
}

/// What a command was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Create(IpAddr, SocketAddr),
    Destroy(SocketAddr, SocketAddr),
    Announce(AddressId),
    List,
    Other,
}

/// What is needed to decide about connections.
pub(super) struct Host<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) manager: &'a dyn PathManager,
    pub(super) policy: PathPolicy,
    pub(super) now: Instant,
}

impl Paths {
    pub(super) fn new() -> Self {
        Self {
            live: Table::default(),
            closed: Closed::default(),
            dirty: VecDeque::new(),
            unrouted: Vec::new(),
            sweep: Vec::new(),
            usable: Vec::new(),
            returned: Vec::new(),
            timers: BinaryHeap::new(),
            asked: VecDeque::new(),
            ways: Ways::default(),
            ids: Ids::default(),
            work: Work::default(),
            view_changed: true,
            unannounced: Vec::new(),
            calm: 0,
        }
    }

    /// Applies what the kernel said of a connection.
    pub(super) fn apply(&mut self, event: &MptcpEvent, policy: &PathPolicy, now: Instant) {
        match event {
            MptcpEvent::Created(told) => self.created(told, now),
            MptcpEvent::Established(told) => self.established(told, now),
            MptcpEvent::Closed(token) => self.forget(*token, now),
            MptcpEvent::Announced(told) => {
                self.change(told.token, |managed| managed.connection.announced(told.remote_id, told.remote));
            }
            MptcpEvent::Removed(token, id) => self.change(*token, |managed| {
                managed.connection.withdrawn(*id);
                true
            }),
            MptcpEvent::SubflowEstablished(told) => self.change(told.token, |managed| {
                managed.subflow_established(told, now);
                true
            }),
            MptcpEvent::SubflowClosed(told) => self.change(told.token, |managed| {
                managed.subflow_closed(told, policy, now);
                true
            }),
            MptcpEvent::SubflowPriority(told) => self.change(told.token, |managed| {
                let mut flows = managed.connection.subflows.iter_mut();
                let flow = flows.find(|flow| flow.is(told.local, told.remote));
                flow.is_some_and(|flow| std::mem::replace(&mut flow.backup_by_peer, told.backup) != told.backup)
            }),
            MptcpEvent::ListenerCreated(_) | MptcpEvent::ListenerClosed(_) => {}
        }
    }

    fn created(&mut self, told: &event::Connection, now: Instant) {
        let managed = Managed {
            connection: Connection::new(told, now),
            attempts: Vec::new(),
            memo: Memo::default(),
            took: None,
            wake: None,
            dirty: false,
            lists: MOST_LISTS,
            unrouted: false,
            route_returned: false,
            left_alone: stays_here(told),
            listens: false,
        };
        self.live.insert(told.token, managed);
    }

    fn established(&mut self, told: &event::Connection, now: Instant) {
        if !self.live.contains(told.token) {
            // What comes after CLOSED is of the connection that was closed.
            if self.closed.contains(told.token, now) {
                return;
            }
            self.created(told, now);
        }
        self.change(told.token, |managed| {
            managed.connection.deny_join_id0 |= told.deny_join_id0;
            !std::mem::replace(&mut managed.connection.established, true)
        });
    }

    /// The connection is gone.
    fn forget(&mut self, token: Token, now: Instant) {
        if self.live.get_mut(token).is_some_and(|managed| managed.listens) {
            self.unannounced.push(token);
        }
        if self.live.remove(token) {
            self.closed.bury(token, now);
        }
    }

    /// Changes a connection, if it is known, and has it looked at if the change matters.
    fn change(&mut self, token: Token, change: impl FnOnce(&mut Managed) -> bool) {
        let Some(managed) = self.live.get_mut(token) else { return };
        let matters = change(managed);
        if matters && !managed.dirty && !managed.left_alone {
            managed.dirty = true;
            self.dirty.push_back(token);
        }
    }

    fn touch(&mut self, token: Token) {
        self.change(token, |_| true);
    }

    /// The links, addresses or rules of the host are not what they were.
    pub(super) fn network_changed(&mut self) {
        self.ways.changed(RoutingChange::Everything);
        self.view_changed = true;
    }

    /// A route is not what it was.
    pub(super) fn routing_changed(&mut self, change: RoutingChange) {
        self.ways.changed(change);
        for token in std::mem::take(&mut self.unrouted) {
            self.change(token, |managed| {
                managed.route_returned = true;
                std::mem::replace(&mut managed.unrouted, false)
            });
        }
    }

    /// Others listen than did.
    pub(super) fn listeners_changed(&mut self) {
        self.view_changed = true;
    }

    /// Connections that are gone and needed listeners of the daemon's, each once.
    pub(super) fn take_unannounced(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.unannounced)
    }

    /// Path manager or policy are others now.
    pub(super) fn configured(&mut self) {
        for managed in self.live.iter_mut() {
            managed.memo = Memo::default();
            managed.took = None;
        }
        self.view_changed = true;
    }

    /// No answer will come to what was asked.
    pub(super) fn forget_requests(&mut self) {
        self.asked.clear();
    }

    /// No answer will come to questions about routes.
    pub(super) fn forget_ways(&mut self) {
        for token in self.ways.forget() {
            self.touch(token);
        }
    }

    /// Whether a connection may need something as soon as it is there.
    pub(super) fn hurries(&self) -> bool {
        self.calm < CALM
    }

    /// Whether there is work that waits for nothing.
    pub(super) fn has_work(&self) -> bool {
        self.view_changed || !self.dirty.is_empty() || !self.sweep.is_empty()
    }

    /// When there will be work.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((time, _))| *time)
    }

    /// Looks at some of the connections that are to be looked at.
    pub(super) fn advance(&mut self, host: &Host<'_>, listeners: &mut Listeners, outbox: &mut Outbox) {
        self.expire(host.now);
        if std::mem::take(&mut self.view_changed) {
            self.calm = 0;
            self.begin_sweep(host.view);
        }
        for _ in 0..SLICE {
            // What happened to a connection comes before what may concern it.
            if let Some(token) = self.dirty.pop_front() {
                self.converge(token, host, listeners, outbox);
            } else if let Some(token) = self.sweep.pop() {
                self.forgive(token);
                self.converge(token, host, listeners, outbox);
            } else {
                self.returned.clear();
                return;
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|Reverse((time, _))| *time <= now) {
            let Some(Reverse((time, token))) = self.timers.pop() else { return };
            self.change(token, |managed| managed.wake.take_if(|wake| *wake == time).is_some());
        }
    }

    /// Every connection is to be looked at; those that wait for an earlier sweep come first.
    fn begin_sweep(&mut self, view: &View<'_>) {
        let mut usable: Vec<_> = view.usable().map(|local| (local.address, local.if_index)).collect();
        usable.sort_unstable();
        let came = usable.iter().filter(|pair| self.usable.binary_search(pair).is_err());
        self.returned.extend(came);
        self.returned.sort_unstable();
        self.returned.dedup();
        self.usable = usable;
        let waiting = std::mem::take(&mut self.sweep);
        self.sweep = self.live.iter().filter(|(_, managed)| !managed.left_alone).map(|(token, _)| token).collect();
        if waiting.len() < self.sweep.len() {
            self.sweep.extend(waiting);
        }
    }

    /// Failures of paths from addresses that came back are forgotten, and what the peer took.
    fn forgive(&mut self, token: Token) {
        let Some(managed) = self.live.get_mut(token) else { return };
        if !self.returned.is_empty() {
            managed.took = None;
            let returned = &self.returned;
            let came_back = |attempt: &&mut Attempt| returned.iter().any(|(address, _)| *address == attempt.local);
            managed.attempts.iter_mut().filter(came_back).for_each(Attempt::forgive);
        }
    }

    /// The question that a ticket stands for, if it is one about a route.
    pub(super) fn question(&self, ticket: Ticket) -> Option<&RouteQuestion> {
        self.ways.question(ticket)
    }

    /// Takes an answer about a route.
    pub(super) fn end_way(&mut self, ticket: Ticket, way: Way, outbox: &mut Outbox, now: Instant) {
        let waiting = self.ways.answer(ticket, way, |question| outbox.send(Request::AskRoute(question), now));
        for token in waiting {
            self.touch(token);
        }
    }

    /// Takes the end of a command; whether it was one of these.
    pub(super) fn end(
        &mut self,
        ticket: Ticket,
        result: Result<(), Failure<'_>>,
        policy: &PathPolicy,
        outbox: &mut Outbox,
        now: Instant,
    ) -> bool {
        let Some(place) = self.asked.iter().position(|(asked, ..)| *asked == ticket) else { return false };
        let Some((_, token, asked)) = self.asked.remove(place) else { return false };
        match result {
            Ok(()) | Err(Failure::Interrupted) => {}
            // net/mptcp/pm_userspace.c, `mptcp_userspace_pm_get_sock`.
            Err(Failure::Refused(refusal)) if refusal.text == "invalid token" => self.forget(token, now),
            Err(Failure::Refused(refusal)) if refusal.text == "userspace PM not selected" => self.leave_alone(token),
            Err(Failure::Refused(refusal)) => {
                self.change(token, |managed| managed.refused(asked, policy, now));
                // The kernel gave the address or the id away itself, to a join that it then rejected.
                let may_list = |managed: &mut Managed| managed.lists.checked_sub(1).map(|left| managed.lists = left);
                if refusal.text.ends_with("did not match address and id")
                    && self.live.get_mut(token).and_then(may_list).is_some()
                {
                    let ticket = outbox.send(Request::Path(PathCommand::ListAddresses(token)), now);
                    self.asked.push_back((ticket, token, Asked::List));
                }
            }
        }
        true
    }

    /// Takes an address that has an id in a connection; whether it is part of an answer to that question.
    pub(super) fn collect(&mut self, ticket: Ticket, listed: &Endpoint) -> bool {
        let Some((_, token, _)) = self.asked.iter().find(|(asked, ..)| *asked == ticket) else { return false };
        self.change(*token, |managed| {
            managed.connection.learn_id(listed.address.to_canonical(), listed.id);
            true
        });
        true
    }

    fn leave_alone(&mut self, token: Token) {
        if let Some(managed) = self.live.get_mut(token) {
            managed.left_alone = true;
            managed.attempts = Vec::new();
        }
    }
}

impl Managed {
    fn subflow_established(&mut self, told: &event::Subflow, now: Instant) {
        let (local, remote) = (told.local.ip().to_canonical(), plain(told.remote));
        let place = self.attempts.iter().position(|attempt| attempt.is_pending(local, remote));
        let (origin, backup) = match place.and_then(|place| self.attempts.get_mut(place)) {
            Some(attempt) => {
                attempt.succeeded(now);
                (Origin::Local, attempt.backup)
            }
            None if self.connection.leads_to(remote) => (Origin::Local, false),
            None => (Origin::Peer, false),
        };
        self.attempts.retain(|attempt| !(attempt.is_up() && attempt.is_clean()));
        self.connection.add_subflow(told, origin, backup, now);
    }

    fn subflow_closed(&mut self, told: &event::Subflow, policy: &PathPolicy, now: Instant) {
        let (local, remote) = (told.local.ip().to_canonical(), plain(told.remote));
        let Some(flow) = self.connection.take_subflow(told.local, told.remote) else {
            // It never was established. The kernel may not tell the port (`mptcp_event_sub_closed`).
            let given_up = |attempt: &&mut Attempt| {
                attempt.is_pending(local, remote)
                    || (told.remote.port() == 0 && attempt.is_pending_to(local, remote.ip()))
            };
            if let Some(attempt) = self.attempts.iter_mut().find(given_up) {
                let loss = Loss::of_attempt(told);
                attempt.failed(loss, self.connection.since, policy, now);
            }
            return;
        };
        if flow.closing || flow.origin == Origin::Peer {
            return;
        }
        let loss = Loss::of_subflow(told, &flow, now);
        if loss == Loss::Refused {
            self.took = Some(self.connection.subflows.iter().filter(|flow| !flow.closing).count());
        }
        let place = self.attempts.iter().position(|attempt| attempt.local == local && attempt.remote == remote);
        let place = place.unwrap_or_else(|| {
            self.attempts.push(Attempt::new(told.token, local, IfIndex(0), remote));
            self.attempts.len() - 1
        });
        if let Some(attempt) = self.attempts.get_mut(place) {
            attempt.failed(loss, self.connection.since, policy, now);
        }
    }

    /// The kernel refused a command for this connection.
    fn refused(&mut self, asked: Asked, policy: &PathPolicy, now: Instant) -> bool {
        match asked {
            Asked::Create(local, remote) => {
                let pending = self.attempts.iter_mut().find(|attempt| attempt.is_pending(local, remote));
                if let Some(attempt) = pending {
                    attempt.failed(Loss::Early, self.connection.since, policy, now);
                }
                true
            }
            Asked::Destroy(local, remote) => {
                self.connection.take_subflow(local, remote);
                true
            }
            Asked::Announce(id) => {
                self.connection.own.retain(|own| own.id != id || !own.announced);
                false
            }
            Asked::List | Asked::Other => false,
        }
    }
}

/// Whether both ends are on this host.
fn stays_here(told: &event::Connection) -> bool {
    let (local, remote) = (told.local.ip().to_canonical(), told.remote.ip().to_canonical());
    local.is_loopback() || remote.is_loopback() || local == remote
}
