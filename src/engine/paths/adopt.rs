//! Connections that are there already: at start, and after events were lost, they and their subflows are read
//! from the kernel, and what is known is made to agree with that.
//!
//! Meanwhile events wait in their socket, and nothing is done about any connection. They are applied
//! afterwards: as they are complete, what was read, followed by all of them, is how things are now, whichever of
//! them came before it was read.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::attempts::Attempt;
use super::managed::{Asked, Managed};
use super::watch::name_of;
use super::{MOST_SENT, Paths, stays_here};
use crate::command::{PathCommand, Request, SocketRequest};
use crate::connections::{Connection, Table, plain};
use crate::diag::{ConnectionInfo, Role, Socket, SubflowFlags, SubflowInfo, TcpState};
use crate::engine::outbox::Outbox;
use crate::engine::retry::Backoff;
use crate::engine::{Failure, Note, Ticket};
use crate::rules::PathPolicy;
use crate::state_file::SavedConnection;
use crate::types::{Errno, Family, Token};

/// Pauses between readings when one after the other is overrun, interrupted or not possible now.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So many subflows are kept whose connections were not listed.
const MOST_STRAYS: usize = 1024;

/// How far reading what there is has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Events were lost. What had come before is applied still: some of it can be read nowhere.
    Draining,
    /// To begin, not before that time.
    Wanted(Instant),
    /// One list after the other: the kernel makes one at a time.
    Listing(List, Option<Ticket>),
    /// Each of what was not listed is asked for.
    Missing,
    /// What happened meanwhile is applied.
    Following,
    /// What is known is what there is.
    Done,
}

/// What is listed, in this order: a subflow whose connection was not listed is of one that came later, or that the
/// list left out, as it may while others come and go (net/mptcp/mptcp_diag.c, `mptcp_diag_dump`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Connections(Family),
    Subflows(Family),
}

impl List {
    const FIRST: Self = Self::Connections(Family::V4);

    /// The next, after these families of connections were listed. A list of subflows is one of every TCP socket, for
    /// which the kernel walks through a large table: it is made only where there may be one.
    fn next(self, listed: &Listed) -> Option<Self> {
        match self {
            Self::Connections(Family::V4) => Some(Self::Connections(Family::V6)),
            Self::Connections(Family::V6) => (listed.v4 || listed.v6).then_some(Self::Subflows(Family::V4)),
            // IPv4 connections have no others.
            Self::Subflows(Family::V4) => listed.v6.then_some(Self::Subflows(Family::V6)),
            Self::Subflows(Family::V6) => None,
        }
    }

    fn request(self) -> SocketRequest {
        match self {
            Self::Connections(family) => SocketRequest::Connections(family),
            Self::Subflows(family) => SocketRequest::Subflows(family),
        }
    }
}

/// Families of which there are connections.
#[derive(Clone, Copy, Debug, Default)]
struct Listed {
    v4: bool,
    v6: bool,
}

/// How reading what there is goes.
#[derive(Debug)]
pub(super) struct Adoption {
    stage: Stage,
    backoff: Backoff,
    /// When the next may begin.
    not_before: Option<Instant>,
    /// What an earlier run knew.
    saved: Table<SavedConnection>,
    /// What was known and is not listed: connections, or one subflow of theirs.
    missing: Vec<(Token, Option<(SocketAddr, SocketAddr)>)>,
    /// Subflows of connections that were not listed, each to be asked for.
    strays: Vec<(Socket, SubflowInfo)>,
    /// Their connections, and those of an earlier run that were not listed.
    unasked: Vec<Token>,
    /// Found in this reading and not known before.
    found: (usize, usize),
    listed: Listed,
    /// It has been done once.
    complete: bool,
}

impl Default for Adoption {
    fn default() -> Self {
        Self {
            stage: Stage::Done,
            backoff: Backoff::default(),
            not_before: None,
            saved: Table::default(),
            missing: Vec::new(),
            strays: Vec::new(),
            unasked: Vec::new(),
            found: (0, 0),
            listed: Listed::default(),
            complete: false,
        }
    }
}

impl Adoption {
    fn begin_after_pause(&mut self, now: Instant) {
        self.not_before = Some(self.backoff.after_failure(now, FIRST_PAUSE, LONGEST_PAUSE, 0));
    }

    fn want(&mut self, now: Instant) {
        self.stage = Stage::Wanted(self.not_before.take().map_or(now, |time| time.max(now)));
    }

    /// What was saved of connections that have not been looked for yet.
    pub(super) fn pending(&self) -> impl Iterator<Item = &SavedConnection> {
        self.saved.iter().map(|(_, saved)| saved)
    }

    fn has_work(&self) -> bool {
        match self.stage {
            Stage::Draining | Stage::Listing(_, None) | Stage::Following => true,
            Stage::Missing => !self.missing.is_empty() || !self.unasked.is_empty(),
            Stage::Wanted(_) | Stage::Listing(_, Some(_)) | Stage::Done => false,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if let Stage::Wanted(time) = self.stage { Some(time) } else { None }
    }
}

impl Paths {
    /// Connections may be there of which nothing is known, apart from what was saved.
    pub(in crate::engine) fn adopt(&mut self, saved: Table<SavedConnection>, now: Instant) {
        self.adoption.saved = saved;
        if self.adoption.stage == Stage::Done {
            self.adoption.want(now);
        }
    }

    /// The same, where what events there are is not worth anything: nobody has read them for long.
    pub(in crate::engine) fn adopt_after_events(&mut self) {
        self.adoption = Adoption { stage: Stage::Draining, ..Adoption::default() };
    }

    /// Whether what is known is what there is, so that something may be done about it.
    pub(in crate::engine) fn is_current(&self) -> bool {
        self.adoption.stage == Stage::Done
    }

    /// Whether there is something to be asked for that, or to be read.
    pub(in crate::engine) fn adopts(&self) -> bool {
        self.adoption.has_work()
    }

    /// When there will be.
    pub(in crate::engine) fn adoption_deadline(&self) -> Option<Instant> {
        self.adoption.deadline()
    }

    /// Events are to wait in their socket.
    pub(in crate::engine) fn holds_events(&self) -> bool {
        matches!(self.adoption.stage, Stage::Wanted(_) | Stage::Listing(..) | Stage::Missing)
    }

    /// It waits to hear that there are no more events.
    pub(in crate::engine) fn awaits_drain(&self) -> bool {
        matches!(self.adoption.stage, Stage::Draining | Stage::Following)
    }

    /// Events were lost; whether that matters.
    pub(in crate::engine) fn events_lost(&mut self, now: Instant) -> bool {
        let matters = self.adoption.complete || self.adoption.stage != Stage::Draining;
        if self.adoption.stage == Stage::Following {
            self.adoption.begin_after_pause(now);
        }
        self.adoption.stage = Stage::Draining;
        matters
    }

    /// There are no more events for now.
    pub(in crate::engine) fn events_drained(&mut self, outbox: &mut Outbox, now: Instant) {
        match self.adoption.stage {
            Stage::Draining => self.adoption.want(now),
            Stage::Following => self.end_adoption(outbox),
            Stage::Wanted(_) | Stage::Listing(..) | Stage::Missing | Stage::Done => {}
        }
    }

    /// No answer will come to what was asked.
    pub(super) fn adopt_again(&mut self, now: Instant) {
        if self.holds_events() {
            self.adoption.want(now);
        }
    }

    /// Reads on.
    pub(in crate::engine) fn advance_adoption(&mut self, outbox: &mut Outbox, now: Instant) {
        if matches!(self.adoption.stage, Stage::Wanted(time) if time <= now) {
            self.begin_listing();
        }
        if let Stage::Listing(list, ticket @ None) = &mut self.adoption.stage {
            *ticket = Some(outbox.send(Request::Sockets(list.request()), now));
        }
        if self.adoption.stage == Stage::Missing {
            self.ask_for_missing(outbox, now);
        }
    }

    fn begin_listing(&mut self) {
        self.adoption.stage = Stage::Listing(List::FIRST, None);
        self.adoption.found = (0, 0);
        // A connection that an earlier run knew may be left out of the list and have subflows all the same.
        let known = !self.adoption.saved.is_empty();
        self.adoption.listed = Listed { v4: known, v6: known };
        self.adoption.missing.clear();
        self.adoption.strays.clear();
        for (_, managed) in self.live.iter_mut() {
            managed.listed = false;
            managed.connection.subflows.iter_mut().for_each(|flow| flow.listed = false);
            managed.attempts.iter_mut().for_each(Attempt::begin_list);
        }
    }

    /// Takes a socket; whether it is part of a list of these.
    pub(super) fn collect_listed(&mut self, ticket: Ticket, socket: &Socket, now: Instant) -> bool {
        if !self.lists(ticket) {
            return false;
        }
        match socket.role {
            Role::Connection(info) => self.connection_listed(socket, info, now),
            Role::Subflow(info) => self.subflow_listed(socket, info, now),
            Role::Other => {}
        }
        true
    }

    /// Whether the answers with that ticket are a list of these.
    pub(super) fn lists(&self, ticket: Ticket) -> bool {
        matches!(self.adoption.stage, Stage::Listing(_, Some(asked)) if asked == ticket)
    }

    fn connection_listed(&mut self, socket: &Socket, info: ConnectionInfo, now: Instant) {
        let (token, half_closed) = (info.token, socket.state != TcpState::ESTABLISHED);
        let (local, remote) = (socket.id.local, socket.id.remote);
        if half_closed && socket.inode == 0 {
            // It was closed by its application and lingers: nothing more will be told of it.
            if self.live.get_mut(token).is_some_and(|managed| managed.connection.is_between(local, remote)) {
                self.forget(token, now);
            }
            return;
        }
        if token == Token(0) || info.fallback || !socket.state.is_connected() {
            return;
        }
        match Family::of(local.ip()) {
            Family::V4 => self.adoption.listed.v4 = true,
            Family::V6 => self.adoption.listed.v6 = true,
        }
        let is_it = |managed: &&mut Managed| managed.connection.is_between(local, remote);
        if let Some(managed) = self.live.get_mut(token).filter(is_it) {
            (managed.listed, managed.half_closed) = (true, half_closed);
            return;
        }
        if self.live.contains(token) {
            // Its token is another connection's now.
            self.forget(token, now);
        }
        let saved = self.adoption.saved.remove(token);
        let saved = saved.filter(|saved| (saved.local, saved.remote) == (plain(local), plain(remote)));
        let mut managed = Managed::found(Connection::found(local, remote, now), stays_here(local, remote));
        if let Some(saved) = saved {
            managed.recall(saved);
        }
        (managed.listed, managed.half_closed) = (true, half_closed);
        self.live.insert(token, managed);
        self.adoption.found.0 += 1;
    }

    fn subflow_listed(&mut self, socket: &Socket, info: SubflowInfo, now: Instant) {
        let Some(managed) = self.live.get_mut(info.token).filter(|managed| managed.listed) else {
            if self.adoption.strays.len() < MOST_STRAYS {
                self.adoption.strays.push((Socket { transfer: None, ..*socket }, info));
            }
            return;
        };
        managed.connection.established |= info.flags.contains(SubflowFlags::FULLY_ESTABLISHED);
        if socket.state == TcpState::SYN_SENT {
            return managed.join_listed(socket, info, now);
        }
        // What is on its way out is none any more, unless the whole connection is.
        if socket.state == TcpState::ESTABLISHED || (managed.half_closed && socket.state.is_connected()) {
            let new = managed.subflow_listed(socket, info, now);
            self.adoption.found.1 += usize::from(new);
        }
    }

    /// Takes the end of a list; whether it was one of these.
    pub(super) fn end_listing(
        &mut self,
        ticket: Ticket,
        result: Result<(), Failure<'_>>,
        policy: &PathPolicy,
        (outbox, now): (&mut Outbox, Instant),
    ) -> bool {
        let Stage::Listing(list, Some(asked)) = self.adoption.stage else { return false };
        if asked != ticket {
            return false;
        }
        match (result, list.next(&self.adoption.listed)) {
            (Ok(()), Some(next)) => self.adoption.stage = Stage::Listing(next, None),
            (Ok(()), None) => self.begin_missing(policy, now),
            (Err(Failure::Refused(refusal)), _) if is_absent(refusal.errno) => self.cannot_list(outbox),
            // Another list is being made, or this one was not of one moment, or something is short.
            (Err(_), _) => {
                self.adoption.begin_after_pause(now);
                self.adoption.want(now);
            }
        }
        true
    }

    /// A kernel without CONFIG_INET_MPTCP_DIAG, or CONFIG_INET_DIAG, has no lists: only events tell.
    fn cannot_list(&mut self, outbox: &mut Outbox) {
        outbox.log(Note::NoLists(std::mem::replace(&mut self.told_no_lists, true)));
        self.adoption.missing.clear();
        self.adoption.stage = Stage::Following;
    }

    /// Lists are made while there is change, so that something may be missed: it is asked for by name before
    /// it is taken to be gone.
    fn begin_missing(&mut self, policy: &PathPolicy, now: Instant) {
        let missing = &mut self.adoption.missing;
        for (token, managed) in self.live.iter_mut() {
            if !managed.listed {
                missing.push((token, None));
                continue;
            }
            if managed.left_alone {
                continue;
            }
            managed.assume_established();
            let since = managed.connection.since;
            managed.attempts.iter_mut().for_each(|attempt| attempt.end_list(since, policy, now));
            let flows = managed.connection.subflows.iter().filter(|flow| !flow.listed);
            missing.extend(flows.map(|flow| (token, Some((flow.local.told(), flow.remote.told())))));
        }
        // What an earlier run knew may be there without any subflow.
        let saved = self.adoption.saved.iter().map(|(token, _)| token);
        let mut unasked: Vec<Token> = self.adoption.strays.iter().map(|(_, info)| info.token).chain(saved).collect();
        unasked.sort_unstable();
        unasked.dedup();
        self.adoption.unasked = unasked;
        self.adoption.stage = Stage::Missing;
    }

    /// A connection is there that was not listed, with the subflows that were.
    pub(super) fn stray_found(&mut self, socket: &Socket, info: ConnectionInfo, now: Instant) {
        self.connection_listed(socket, info, now);
        let strays = std::mem::take(&mut self.adoption.strays);
        for (flow, of) in strays.iter().filter(|(_, of)| of.token == info.token) {
            self.subflow_listed(flow, *of, now);
        }
        self.adoption.strays = strays;
    }

    fn ask_for_missing(&mut self, outbox: &mut Outbox, now: Instant) {
        while outbox.queue.len() < MOST_SENT {
            let Some(token) = self.adoption.unasked.pop() else { break };
            self.ask(SocketRequest::Connection(token), token, Asked::Stray, outbox, now);
        }
        while outbox.queue.len() < MOST_SENT {
            match self.adoption.missing.pop() {
                Some((token, None)) => {
                    self.ask(PathCommand::Probe(token), token, Asked::Existence, outbox, now);
                }
                Some((token, Some((local, remote)))) => self.ask_for_subflow(token, (local, remote), outbox, now),
                None => break,
            }
        }
        let waits = |asked: &Asked| matches!(asked, Asked::Existence | Asked::Present(..) | Asked::Stray);
        let all_asked = self.adoption.missing.is_empty() && self.adoption.unasked.is_empty();
        if all_asked && !self.asked.iter().any(|(.., asked)| waits(asked)) {
            self.adoption.stage = Stage::Following;
        }
    }

    fn ask_for_subflow(&mut self, token: Token, ends: (SocketAddr, SocketAddr), outbox: &mut Outbox, now: Instant) {
        let Some(managed) = self.live.get_mut(token) else { return };
        let Some(flow) = managed.connection.subflows.iter().find(|flow| flow.is(ends.0, ends.1)) else { return };
        let socket = name_of(&self.places, flow).into();
        self.ask(SocketRequest::Subflow(socket), token, Asked::Present(ends.0, ends.1), outbox, now);
    }

    /// All is known: every connection is to be looked at.
    fn end_adoption(&mut self, outbox: &mut Outbox) {
        self.adoption.stage = Stage::Done;
        self.adoption.backoff.reset();
        self.adoption.saved = Table::default();
        self.adoption.missing = Vec::new();
        self.adoption.strays = Vec::new();
        self.adoption.unasked = Vec::new();
        self.view_changed = true;
        let (connections, subflows) = self.adoption.found;
        let first = !std::mem::replace(&mut self.adoption.complete, true);
        if connections > 0 {
            outbox.log(Note::Found { connections, subflows, first });
        }
    }
}

/// Whether the error says that the kernel has no such lists.
fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT)
}
