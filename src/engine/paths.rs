//! Makes the paths that a path manager wants of every connection, and keeps them: which connections
//! there are, which of them are to be looked at, and what the kernel said to what was asked for them.
//!
//! What is to be done about one connection is decided in `converge`, what its events mean in `events` and `managed`;
//! how a path that fails is tried again, in `attempts`.

mod adopt;
mod announce;
mod attempts;
mod binding;
mod closing;
mod converge;
mod events;
mod guess;
mod listed;
mod listing;
mod managed;
mod renewal;
mod report;
mod saving;
#[cfg(test)]
#[cfg(all(feature = "pm-fullmesh", feature = "pm-handover", feature = "pm-ndiffports", feature = "pm-sspi"))]
mod simulation;
#[cfg(test)]
mod tests;
mod watch;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use self::adopt::Adoption;
use self::converge::Work;
use self::listing::Listing;
use self::managed::{Asked, Managed};
use self::renewal::Renewal;
use self::saving::Saving;
use self::watch::{Check, Dead};
use super::ids::Ids;
use super::listeners::Listeners;
use super::outbox::Outbox;
use super::routes::Way;
use super::ways::Ways;
use super::{Failure, Ticket};
use crate::command::{Request, RouteQuestion, SubflowEnds};
use crate::connections::{Closed, SocketName, Table};
use crate::event::{Endpoint, RoutingChange};
use crate::liveness::Liveness;
use crate::plugin::{Memo, PathManager, View};
use crate::rules::PathPolicy;
use crate::types::{EndpointFlags, IfIndex, Token};

/// When so many connections in a row needed nothing, the next will hardly either.
const CALM: u32 = 8;
/// For so long after an address became usable, the far end of its link may still be about to wake.
const FRESH: Duration = Duration::from_secs(1);
/// What is put out before the loop turns.
const MOST_SENT: usize = 64;
/// Connections looked at before the loop turns.
const SLICE: usize = 64;

/// Every connection whose paths are managed.
#[derive(Debug)]
pub(super) struct Paths {
    live: Table<Managed>,
    closed: Closed,
    /// Connections to be looked at, each once.
    dirty: VecDeque<Token>,
    /// Connections to be looked at when there is room for their questions about routes, each once.
    crowded: VecDeque<Token>,
    /// Connections still to be looked at because the host's network changed, each once.
    sweep: VecDeque<Token>,
    /// Connections with a path that had no route.
    unrouted: BTreeSet<Token>,
    /// They may have one now.
    rerouted: bool,
    /// The addresses that were usable when the view was last taken, sorted.
    usable: Vec<(IpAddr, IfIndex)>,
    /// When a connection is to be looked at again; an entry counts if the connection says the same.
    timers: BinaryHeap<Reverse<(Instant, Token)>>,
    /// When there are so many, those that do not count are dropped.
    most_timers: usize,
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
    check: Check,
    liveness: Liveness,
    renewal: Renewal,
    /// The kernel closes sockets on demand, as far as is known.
    resets: bool,
    /// Dead subflows whose sockets are to be looked up: all those of a turn together, after what tells their
    /// peers.
    to_find: VecDeque<(Token, SocketName)>,
    /// Those that were found, or not, to be closed.
    dead: VecDeque<Dead>,
    /// Addresses that became usable not long ago, and when that was.
    fresh: Vec<(IpAddr, IfIndex, Instant)>,
    /// Every address of the host and its interface.
    places: Vec<(IpAddr, IfIndex)>,
    /// Joins that are to be called off by command.
    to_call_off: Vec<SubflowEnds>,
    /// Which addresses are usable was known before.
    knows_usable: bool,
    /// When all connections were asked because one found a path silent.
    alarmed: Option<Instant>,
    adoption: Adoption,
    told_no_lists: bool,
    listing: Listing,
    saving: Saving,
    /// The log was told that subflows would leave by another interface.
    told_stray: bool,
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
            crowded: VecDeque::new(),
            sweep: VecDeque::new(),
            unrouted: BTreeSet::new(),
            rerouted: false,
            usable: Vec::new(),
            timers: BinaryHeap::new(),
            most_timers: 64,
            asked: VecDeque::new(),
            ways: Ways::default(),
            ids: Ids::default(),
            work: Work::default(),
            view_changed: true,
            unannounced: Vec::new(),
            calm: 0,
            check: Check::default(),
            liveness: Liveness::default(),
            renewal: Renewal::default(),
            resets: true,
            to_find: VecDeque::new(),
            dead: VecDeque::new(),
            fresh: Vec::new(),
            places: Vec::new(),
            to_call_off: Vec::new(),
            knows_usable: false,
            alarmed: None,
            adoption: Adoption::default(),
            told_no_lists: false,
            listing: Listing::default(),
            saving: Saving::default(),
            told_stray: false,
        }
    }

    /// How many connections and subflows there are, but for what is left alone.
    pub(super) fn count(&self) -> (usize, usize) {
        let managed = self.live.iter().filter(|(_, managed)| !managed.left_alone);
        managed.fold((0, 0), |(count, flows), (_, managed)| (count + 1, flows + managed.connection.subflows.len()))
    }

    /// Whether a connection is known.
    #[cfg(test)]
    pub(super) fn knows(&self, token: Token) -> bool {
        self.live.contains(token)
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
        self.routing_changed(RoutingChange::Everything);
        self.view_changed = true;
    }

    /// A route is not what it was.
    pub(super) fn routing_changed(&mut self, change: RoutingChange) {
        self.ways.changed(change);
        self.rerouted |= !self.unrouted.is_empty();
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
        for (_, managed) in self.live.iter_mut() {
            managed.memo = Memo::default();
            managed.took = None;
        }
        self.view_changed = true;
    }

    /// No answer will come to what was asked.
    pub(super) fn forget_requests(&mut self, now: Instant) {
        self.renewal.forget();
        self.listing.forget();
        self.adopt_again(now);
        for (_, token, asked) in std::mem::take(&mut self.asked) {
            let looks = matches!(asked, Asked::Look(..));
            match asked {
                Asked::Look(..) => self.unwatch(token),
                Asked::Find(local, remote) | Asked::Reset(local, remote) => self.find_again(token, local, remote),
                _ => {}
            }
            self.change(token, |managed| {
                managed.watched = if looks { 0 } else { managed.watched };
                managed.unanswered(asked) || looks
            });
        }
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
        let dead = !self.dead.is_empty() || !self.to_find.is_empty() || !self.to_call_off.is_empty();
        let queued = !self.dirty.is_empty() || !self.sweep.is_empty() || dead;
        queued
            || self.view_changed
            || self.rerouted
            || self.check.has_work()
            || self.renewal.has_work()
            || self.listing.has_work()
            || (!self.crowded.is_empty() && self.ways.has_room())
    }

    /// When there will be work.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((time, _))| *time);
        let others = [self.liveness.deadline(), self.renewal.deadline(), self.listing.deadline()];
        others.into_iter().chain([timer]).flatten().min()
    }

    /// Looks at some of the connections that are to be looked at.
    pub(super) fn advance(&mut self, host: &Host<'_>, listeners: &mut Listeners, outbox: &mut Outbox) {
        self.expire(host.now);
        if std::mem::take(&mut self.view_changed) {
            self.calm = 0;
            self.begin_sweep(host);
        }
        if std::mem::take(&mut self.rerouted) {
            for token in std::mem::take(&mut self.unrouted) {
                self.change(token, Managed::reroute);
            }
        }
        for _ in 0..SLICE {
            // Answers wait until all has been sent: there must be room for them.
            if outbox.queue.len() >= MOST_SENT {
                break;
            }
            let Some(token) = self.next() else { break };
            self.converge(token, host, listeners, outbox);
        }
        self.tidy_timers();
        self.find_dead(outbox, host.now);
        self.close_dead(host, outbox);
        self.begin_renewal(outbox, host.now);
        self.ask_for_list(outbox, host.now);
        self.look(outbox, host.now);
        self.check(outbox, host.now);
    }

    /// The next connection to be looked at: what happened to one comes before what may concern it.
    fn next(&mut self) -> Option<Token> {
        if let Some(token) = self.dirty.pop_front() {
            return Some(token);
        }
        if self.ways.has_room() {
            if let Some(token) = self.crowded.pop_front() {
                self.live.get_mut(token).into_iter().for_each(|managed| managed.crowded = false);
                return Some(token);
            }
        }
        let token = self.sweep.pop_front()?;
        self.live.get_mut(token).into_iter().for_each(|managed| managed.swept = false);
        Some(token)
    }

    fn expire(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|Reverse((time, _))| *time <= now) {
            let Some(Reverse((time, token))) = self.timers.pop() else { return };
            self.change(token, |managed| managed.wake.take_if(|wake| *wake == time).is_some());
        }
    }

    /// What waits for nothing any more is dropped before it outgrows what is.
    fn tidy_timers(&mut self) {
        let most = self.most_timers.min(4 * self.live.len() + 64);
        if self.timers.len() < most && !self.live.is_empty() {
            return;
        }
        let live = &self.live;
        let counts = |time: Instant, token| live.get(token).is_some_and(|managed| managed.wake == Some(time));
        self.timers.retain(|Reverse((time, token))| counts(*time, *token));
        self.most_timers = 2 * self.timers.len() + 64;
        self.timers.shrink_to(self.most_timers);
    }

    /// Every connection is to be looked at; those that still wait for an earlier sweep come first, then the
    /// busiest.
    fn begin_sweep(&mut self, host: &Host<'_>) {
        let returned = self.take_usable(host);
        // So many are watched at most.
        let mut busy = Vec::new();
        for (token, managed) in self.live.iter_mut().filter(|(_, managed)| !managed.left_alone) {
            managed.forgive(&returned);
            let rate = self.liveness.rate(token);
            if rate > 0 && !std::mem::replace(&mut managed.swept, true) {
                busy.push((rate, token));
            }
        }
        busy.sort_unstable_by_key(|(rate, _)| Reverse(*rate));
        self.sweep.extend(busy.into_iter().map(|(_, token)| token));
        for (token, managed) in self.live.iter_mut().filter(|(_, managed)| !managed.left_alone) {
            if !std::mem::replace(&mut managed.swept, true) {
                self.sweep.push_back(token);
            }
        }
    }

    /// Takes the addresses that are usable now; says which are so that were not before.
    fn take_usable(&mut self, host: &Host<'_>) -> Vec<IpAddr> {
        self.places = host.view.addresses().iter().map(|local| (local.address, local.if_index)).collect();
        let mut usable: Vec<_> = host.view.usable().map(|local| (local.address, local.if_index)).collect();
        usable.sort_unstable();
        let former = std::mem::replace(&mut self.usable, usable);
        let returned = self.usable.iter().filter(|pair| former.binary_search(pair).is_err());
        let fresh_for = (host.policy.liveness.return_delay + FRESH).max(binding::SETTLING);
        self.fresh.retain(|(.., since)| *since + fresh_for > host.now);
        if std::mem::replace(&mut self.knows_usable, true) {
            let fresh = returned.clone().map(|(address, if_index)| (*address, *if_index, host.now));
            self.fresh.extend(fresh);
        }
        returned.map(|(address, _)| *address).collect()
    }

    /// The question that a ticket stands for, if it is one about a route.
    pub(super) fn question(&self, ticket: Ticket) -> Option<&RouteQuestion> {
        self.ways.question(ticket)
    }

    /// Takes an answer about a route.
    pub(super) fn end_way(&mut self, ticket: Ticket, way: Way, outbox: &mut Outbox, now: Instant) {
        self.tell_stray(ticket, way, outbox, now);
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
        (outbox, now): (&mut Outbox, Instant),
    ) -> bool {
        if self.end_listing(ticket, result, policy, (outbox, now)) || self.end_renewal(ticket, result, outbox, now) {
            return true;
        }
        if self.end_of_list(ticket, result, now) {
            return true;
        }
        let Some(place) = self.asked.iter().position(|(asked, ..)| *asked == ticket) else { return false };
        let Some((_, token, asked)) = self.asked.remove(place) else { return false };
        if asked.is_about_socket() {
            self.end_of_socket(token, asked, result, policy, (outbox, now));
            return true;
        }
        match result {
            Ok(()) | Err(Failure::Interrupted) => self.change(token, |managed| managed.accepted(asked)),
            // net/mptcp/pm_userspace.c, `mptcp_userspace_pm_get_sock`.
            Err(Failure::Refused(refusal)) if refusal.text == "invalid token" => {
                self.forget(token, now);
                if asked == Asked::Check {
                    self.check.gone(self.live.len());
                }
            }
            // In Linux 6.1 it is "invalid request; userspace PM not selected".
            Err(Failure::Refused(refusal)) if refusal.text.ends_with("userspace PM not selected") => {
                self.leave_alone(token, now)
            }
            Err(Failure::Refused(refusal)) => {
                // The same file, `mptcp_userspace_pm_append_new_local_addr`: the kernel gave the address or
                // the id away itself, to a join that it then rejected.
                let clash = refusal.text == "did not match address and id";
                let guesses = clash && self.listing.are_absent();
                self.change(token, |managed| {
                    managed.doubts_ids |= clash && !guesses;
                    if guesses {
                        managed.guess_other_id(asked);
                    }
                    managed.refused(asked, policy, now)
                });
            }
        }
        true
    }

    /// Takes an address that has an id in a connection; whether it is part of an answer to that question.
    pub(super) fn collect(&mut self, ticket: Ticket, listed: &Endpoint) -> bool {
        let Some((_, token, _)) = self.asked.iter().find(|(asked, ..)| *asked == ticket) else { return false };
        self.change(*token, |managed| {
            if managed.outlisted {
                return false;
            }
            managed.connection.learn_listed(listed.address.to_canonical(), listed.port, listed.id);
            if listed.flags.contains(EndpointFlags::SIGNAL) {
                managed.connection.is_announced(listed.address.to_canonical(), listed.id);
            }
            true
        });
        true
    }

    fn leave_alone(&mut self, token: Token, now: Instant) {
        if let Some(managed) = self.live.get_mut(token) {
            managed.left_alone = true;
            managed.attempts = Vec::new();
            if std::mem::take(&mut managed.saved) {
                self.saving.gone(token, now);
            }
        }
    }
}

/// Whether both ends are on this host.
fn stays_here(local: SocketAddr, remote: SocketAddr) -> bool {
    let (local, remote) = (local.ip().to_canonical(), remote.ip().to_canonical());
    local.is_loopback() || remote.is_loopback() || local == remote
}

/// A queue that has run empty gives back room for more than so many.
fn give_back<T>(queue: &mut VecDeque<T>, most: usize) {
    if queue.is_empty() && queue.capacity() > most {
        *queue = VecDeque::new();
    }
}
