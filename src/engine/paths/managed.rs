//! One connection with what is done about it, and what its events and the answers to its commands mean.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::attempts::{Attempt, Loss, State, cause_of};
use super::stays_here;
use crate::connections::{Connection, Subflow, plain};
use crate::engine::retry::{Backoff, Pace};
use crate::event;
use crate::plugin::{Cause, Health, Memo, Origin, Trouble};
use crate::rules::PathPolicy;
use crate::types::{AddressId, IfIndex, Token};

/// A connection and what is done about it.
#[derive(Debug)]
pub(super) struct Managed {
    pub(super) connection: Connection,
    pub(super) attempts: Vec<Attempt>,
    pub(super) memo: Memo,
    /// Rare, and so apart: there may be tens of thousands of connections.
    pub(super) took: Option<Box<Took>>,
    pub(super) announcing: Option<Box<Announcing>>,
    pub(super) wake: Option<Instant>,
    /// Of subflows that are begun: a peer could otherwise have any number begun by announcing addresses.
    pub(super) pace: Pace,
    /// It waits to be looked at.
    pub(super) dirty: bool,
    /// It waits for room for a question about a route.
    pub(super) crowded: bool,
    /// It waits to be looked at because the host's network changed.
    pub(super) swept: bool,
    /// The peer takes nothing else: what was dead for a while must do.
    pub(super) trusts: bool,
    /// The kernel is to be asked for the ids of this host's addresses,
    pub(super) doubts_ids: bool,
    /// but only so often.
    lists: u8,
    /// It is being asked, or about to be.
    pub(super) listing: bool,
    /// Until it has answered, nothing is done: the connection was there before.
    pub(super) awaits_list: bool,
    /// Something was asked for since, so that the answer is of before.
    pub(super) outlisted: bool,
    /// It is under the kernel's own path manager, or stays on this host.
    pub(super) left_alone: bool,
    /// It began on a link that is kept apart: it gets no paths.
    pub(super) apart: bool,
    /// It needs a listener of the daemon's.
    pub(super) listens: bool,
    /// As many subflows are to be looked at for silence, when data moves; 0: it is not.
    pub(super) watched: u8,
    /// What told of data that moved when that was last asked; 0: it was not asked yet.
    pub(super) moved: u32,
    /// It is in the list of what there is that is being read.
    pub(super) listed: bool,
    /// By that list, it is closed by one side.
    pub(super) half_closed: bool,
    /// Nothing has told yet which side this is.
    pub(super) role_in_doubt: bool,
    /// Nor whether the peer forbids joins to its initial address.
    pub(super) denial_in_doubt: bool,
    /// What only events tell of it is on its way into the file that outlives the process,
    pub(super) unsaved: bool,
    /// or is there, perhaps as it was before.
    pub(super) saved: bool,
}

/// The peer closed what came beyond so many subflows, and is to be asked again at that time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    pub(super) subflows: usize,
    pub(super) until: Instant,
}

/// Whether the kernel takes announcements.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announcing {
    pub(super) again: Option<Instant>,
    backoff: Backoff,
}

/// What a command was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Create(IpAddr, SocketAddr),
    Destroy(SocketAddr, SocketAddr),
    /// Which socket it is, to be reset.
    Find(SocketAddr, SocketAddr),
    Reset(SocketAddr, SocketAddr),
    /// A join without an answer is reset.
    CallOff(SocketAddr, SocketAddr),
    /// How the subflow fares.
    Look(SocketAddr, SocketAddr),
    /// Whether data is missing.
    Gap,
    /// Whether data moves.
    Activity,
    Announce(IpAddr, AddressId),
    List,
    /// Whether the kernel lists ids at all.
    WhetherListed,
    Check,
    /// Whether a connection is there that was not listed.
    Existence,
    /// The same of one that is not known yet: a subflow of it was listed, or an earlier run knew it.
    Stray,
    /// The same of a subflow.
    Present(SocketAddr, SocketAddr),
    Other,
}

impl Asked {
    /// Whether it is a question about a TCP socket, or its reset.
    pub(super) fn is_about_socket(self) -> bool {
        match self {
            Self::Find(..)
            | Self::Reset(..)
            | Self::CallOff(..)
            | Self::Look(..)
            | Self::Gap
            | Self::Activity
            | Self::Stray
            | Self::Present(..) => true,
            Self::Create(..)
            | Self::Destroy(..)
            | Self::Announce(..)
            | Self::List
            | Self::WhetherListed
            | Self::Check
            | Self::Existence
            | Self::Other => false,
        }
    }
}

/// The kernel's list of ids is read so often for one connection; more would be of no use.
const MOST_LISTS: u8 = 8;
/// As many paths of one connection are remembered that are not established: a peer chooses the addresses
/// that it announces, and each costs a packet.
const MOST_ATTEMPTS: usize = 64;

impl Managed {
    pub(super) fn new(told: &event::Connection, now: Instant) -> Self {
        Self::with(Connection::new(told, now), stays_here(told.local, told.remote))
    }

    /// A connection that was there before, of which little is known.
    pub(super) fn found(connection: Connection, left_alone: bool) -> Self {
        let (role_in_doubt, denial_in_doubt) = (true, true);
        let (doubts_ids, awaits_list) = (true, true);
        Self { role_in_doubt, denial_in_doubt, doubts_ids, awaits_list, ..Self::with(connection, left_alone) }
    }

    fn with(connection: Connection, left_alone: bool) -> Self {
        Self {
            connection,
            attempts: Vec::new(),
            memo: Memo::default(),
            took: None,
            announcing: None,
            wake: None,
            pace: Pace::default(),
            dirty: false,
            crowded: false,
            swept: false,
            trusts: false,
            doubts_ids: false,
            listing: false,
            awaits_list: false,
            outlisted: false,
            lists: MOST_LISTS,
            left_alone,
            apart: false,
            listens: false,
            watched: 0,
            moved: 0,
            listed: false,
            half_closed: false,
            role_in_doubt: false,
            denial_in_doubt: false,
            unsaved: false,
            saved: false,
        }
    }

    /// Whether it is that connection, and not another that had its token.
    pub(super) fn is(&self, told: &event::Connection) -> bool {
        self.connection.is_between(told.local, told.remote)
    }

    /// What only events tell; whether that is news.
    pub(super) fn learn(&mut self, told: &event::Connection) -> bool {
        let Connection { server_side, deny_join_id0, .. } = &mut self.connection;
        let news = (*server_side, *deny_join_id0) != (told.server_side, told.deny_join_id0);
        (*server_side, *deny_join_id0) = (told.server_side, told.deny_join_id0);
        (self.role_in_doubt, self.denial_in_doubt) = (false, false);
        news
    }

    /// Whether nothing says which side this is; nor could the peer be told anything.
    pub(super) fn may_be_of_either_side(&self) -> bool {
        self.role_in_doubt && self.connection.subflows.is_empty()
    }

    pub(super) fn subflow_established(&mut self, told: &event::Subflow, now: Instant) {
        let (local, remote) = (told.local.ip().to_canonical(), plain(told.remote));
        // A failure without a port may have been taken for one of this path, and the attempt be forgotten.
        let ours = self.connection.leads_to(remote) || self.connection.is_from_here(told.local.port());
        let (origin, backup) = match self.attempt_at(told, local, remote) {
            Some(attempt) => {
                attempt.succeeded(now);
                // One that is bound to no interface did not get the flag either: see `binding`.
                (Origin::Local, Some(attempt.backup && told.if_index.is_some()))
            }
            None if ours => (Origin::Local, None),
            None => (Origin::Peer, Some(false)),
        };
        keep(&mut self.attempts, |attempt| !attempt.is_settled());
        self.doubts_ids |= self.connection.add_subflow(told, origin, backup, now);
    }

    /// The attempt that an event is about: of several, one on its way through that interface.
    fn attempt_at(&mut self, told: &event::Subflow, local: IpAddr, remote: SocketAddr) -> Option<&mut Attempt> {
        let same_link = |attempt: &Attempt| told.if_index == Some(attempt.if_index);
        let attempts = self.attempts.iter_mut().filter(|attempt| attempt.joins(local, remote));
        let attempts = attempts.filter(|attempt| attempt.is_flying() || !attempt.is_up());
        attempts.max_by_key(|attempt| (attempt.is_flying(), same_link(attempt)))
    }

    pub(super) fn subflow_closed(&mut self, told: &event::Subflow, policy: &PathPolicy, now: Instant) {
        let Some(flow) = self.connection.take_subflow(told.local, told.remote) else {
            return self.join_failed(told, policy, now);
        };
        let loss = Loss::of_subflow(told, &flow, now);
        let turned_away = matches!(loss, Loss::Refused | Loss::Full);
        if flow.closing || !turned_away {
            self.room_was_made(now);
        }
        if flow.closing || flow.origin == Origin::Peer {
            return;
        }
        let (since, left) = (self.connection.since, self.connection.subflows.len());
        self.trusts |= turned_away;
        let Some(attempt) = self.attempt_for(told.token, &flow, now) else { return };
        attempt.lost(loss, Trouble { cause: cause_of(told), since: now }, since, policy);
        if turned_away && attempt.is_refused() {
            // Whatever it took before: without any subflow there is no connection to lose by trying.
            self.took = attempt.due().map(|until| Box::new(Took { subflows: left.max(1), until }));
        }
    }

    /// A subflow is closed for its silence: its path is tried again at once, unless it keeps failing.
    pub(super) fn silenced(&mut self, token: Token, flow: &Subflow, policy: &PathPolicy, now: Instant) {
        let Health::Dead(trouble) = flow.health else { return };
        if trouble.cause != Cause::Silence || self.connection.server_side {
            return;
        }
        let (loss, since) = (Loss::of_silent(flow, now), self.connection.since);
        if let Some(attempt) = self.attempt_for(token, flow, now) {
            attempt.lost(loss, Trouble { since: now, ..trouble }, since, policy);
        }
    }

    /// It never was established. The kernel may not tell the port (`mptcp_event_sub_closed`).
    fn join_failed(&mut self, told: &event::Subflow, policy: &PathPolicy, now: Instant) {
        let (local, remote) = (told.local.ip().to_canonical(), plain(told.remote));
        let same = |attempt: &Attempt| {
            let nearly = remote.port() == 0 && attempt.local == local && attempt.remote.ip() == remote.ip();
            attempt.is_flying() && (nearly || attempt.joins(local, remote))
        };
        let flying = self.attempts.iter_mut().filter(|attempt| same(attempt));
        let since = self.connection.since;
        if let Some(attempt) = flying.max_by_key(|attempt| told.if_index == Some(attempt.if_index)) {
            attempt.failed(Loss::of_attempt(told), since, policy, now);
        }
    }

    /// What is remembered of a path that was lost.
    fn attempt_for(&mut self, token: Token, flow: &Subflow, now: Instant) -> Option<&mut Attempt> {
        let (local, remote) = (flow.local_address(), flow.remote_end());
        let if_index = flow.if_index.unwrap_or(IfIndex(0));
        let same = |attempt: &Attempt| attempt.joins(local, remote) && attempt.is_through(if_index);
        let place = match self.attempts.iter().position(same) {
            Some(place) => place,
            None => {
                self.remember(Attempt::new(token, local, if_index, remote), now).then(|| self.attempts.len() - 1)?
            }
        };
        self.attempts.get_mut(place)
    }

    /// Adds an attempt if there is room.
    pub(super) fn remember(&mut self, attempt: Attempt, now: Instant) -> bool {
        let room = self.has_room(now);
        if room {
            self.attempts.reserve_exact(1);
            self.attempts.push(attempt);
        }
        room
    }

    /// Whether one more path may be remembered that has no route.
    pub(super) fn has_room_for_unrouted(&self) -> bool {
        self.attempts.iter().filter(|attempt| attempt.state == State::NoRoute).count() < MOST_ATTEMPTS
    }

    /// Whether one more attempt may be remembered; makes room if there is none.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        let counts = |attempt: &&Attempt| attempt.state != State::NoRoute;
        if self.attempts.iter().filter(counts).count() >= MOST_ATTEMPTS {
            keep(&mut self.attempts, |attempt| !attempt.is_idle(now));
        }
        self.attempts.iter().filter(counts).count() < MOST_ATTEMPTS
    }

    /// The kernel took a command; whether that changes what is wanted.
    pub(super) fn accepted(&mut self, asked: Asked) -> bool {
        match asked {
            Asked::Announce(..) => self.announcing = None,
            Asked::List => {
                self.listing = false;
                self.doubts_ids |= self.outlisted;
                let awaited = std::mem::take(&mut self.awaits_list);
                return self.doubts_ids || self.connection.end_list() || awaited;
            }
            Asked::Create(..)
            | Asked::Destroy(..)
            | Asked::Find(..)
            | Asked::Reset(..)
            | Asked::CallOff(..)
            | Asked::Look(..)
            | Asked::Gap
            | Asked::Activity
            | Asked::WhetherListed
            | Asked::Check
            | Asked::Existence
            | Asked::Stray
            | Asked::Present(..)
            | Asked::Other => {}
        }
        false
    }

    /// The answer to a command is lost; whether that is to be looked into.
    pub(super) fn unanswered(&mut self, asked: Asked) -> bool {
        // The outcome of the others is told by events.
        let unknown = matches!(asked, Asked::Announce(..) | Asked::List);
        self.doubts_ids |= unknown;
        if let Asked::Announce(address, id) = asked {
            self.connection.may_not_be_announced(address, id);
        }
        self.listing &= asked != Asked::List;
        unknown
    }

    /// Whether the kernel is to be asked now for the ids of this host's addresses.
    pub(super) fn lists_ids(&mut self) -> bool {
        // Answers cannot be told apart: one at a time.
        let lists = !self.listing && std::mem::take(&mut self.doubts_ids) && self.lists > 0;
        self.listing |= lists;
        self.lists -= u8::from(lists);
        lists
    }

    /// The kernel refused a command for this connection.
    pub(super) fn refused(&mut self, asked: Asked, policy: &PathPolicy, now: Instant) -> bool {
        match asked {
            Asked::Create(local, remote) => {
                let mut flying = self.attempts.iter_mut().filter(|attempt| attempt.is_flying());
                if let Some(attempt) = flying.find(|attempt| attempt.joins(local, remote)) {
                    attempt.failed(Loss::Early, self.connection.since, policy, now);
                }
                true
            }
            Asked::Announce(address, id) => {
                self.connection.not_announced(address, id);
                let Announcing { again, backoff } = &mut **self.announcing.get_or_insert_default();
                *again = Some(backoff.after_failure(now, policy.first_retry, policy.longest_retry, 0));
                true
            }
            Asked::Destroy(local, remote) => {
                self.connection.take_subflow(local, remote);
                true
            }
            Asked::List => {
                self.listing = false;
                std::mem::take(&mut self.awaits_list)
            }
            Asked::Find(..)
            | Asked::Reset(..)
            | Asked::CallOff(..)
            | Asked::Look(..)
            | Asked::Gap
            | Asked::Activity
            | Asked::WhetherListed
            | Asked::Check
            | Asked::Existence
            | Asked::Stray
            | Asked::Present(..)
            | Asked::Other => false,
        }
    }

    /// Failures of paths from addresses that came back are forgotten, and what the peer took.
    pub(super) fn forgive(&mut self, returned: &[IpAddr]) {
        if !returned.is_empty() {
            self.took = None;
            let came_back = |attempt: &&mut Attempt| returned.contains(&attempt.local);
            self.attempts.iter_mut().filter(came_back).for_each(Attempt::forgive);
        }
    }

    /// A subflow is dead: another may take its place with the peer.
    pub(super) fn room_was_made(&mut self, now: Instant) {
        self.attempts.iter_mut().for_each(|attempt| attempt.room_was_made(now));
    }

    /// There may be a route now for what had none; whether anything had none.
    pub(super) fn reroute(&mut self) -> bool {
        self.attempts.iter_mut().fold(false, |any, attempt| attempt.reroute() | any)
    }
}

/// Forgets the others. Most connections have none for most of the time.
pub(super) fn keep(attempts: &mut Vec<Attempt>, keeps: impl Fn(&Attempt) -> bool) {
    attempts.retain(keeps);
    if attempts.is_empty() {
        *attempts = Vec::new();
    }
}
