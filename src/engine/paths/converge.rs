//! What is to be done about one connection: what its path manager wants is compared with what there is.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use super::attempts::{Attempt, State};
use super::managed::{Asked, Managed, keep};
use super::{FRESH, Host, Paths};
use crate::command::{NewSubflow, PathCommand, Request, SubflowEnds};
use crate::connections::{Connection, OwnAddress, SocketName, Subflow};
use crate::engine::Ticket;
use crate::engine::ids::Ids;
use crate::engine::listeners::Listeners;
use crate::engine::outbox::Outbox;
use crate::engine::ways::{Known, Pair, Ways};
use crate::plugin::{self, ConnectionView, LocalAddress, Origin, Remote, Side, Unusable, View, WantedSubflow};
use crate::types::{AddressId, IfIndex, Token};

/// Room that is used again for every connection.
#[derive(Debug, Default)]
pub(super) struct Work {
    want: plugin::Paths,
    remotes: Vec<Remote>,
    flows: Vec<plugin::Subflow>,
    attempts: Vec<plugin::Attempt>,
    /// Which subflows some want stands for.
    wanted: Vec<bool>,
}

/// One connection and what is needed to bring it nearer to what is wanted.
pub(super) struct Task<'a, 'b> {
    pub(super) token: Token,
    pub(super) managed: &'a mut Managed,
    pub(super) host: &'a Host<'b>,
    pub(super) listeners: &'a mut Listeners,
    pub(super) outbox: &'a mut Outbox,
    asked: &'a mut VecDeque<(Ticket, Token, Asked)>,
    ways: &'a mut Ways,
    ids: &'a mut Ids,
    /// A question about a route must wait for others.
    crowded: bool,
    /// A path was found to have no route: another may be wanted in its place.
    news: bool,
    /// The kernel has no route for a path that is wanted.
    unrouted: bool,
    /// Addresses that became usable not long ago, and when that was.
    fresh: &'a [(IpAddr, IfIndex, Instant)],
    /// The kernel closes sockets on demand.
    pub(super) resets: bool,
    /// Sockets to be looked up, so that they can be reset.
    pub(super) to_find: &'a mut VecDeque<(Token, SocketName)>,
    /// When a subflow may be begun that may not now.
    paced: Option<Instant>,
    /// Something was asked of the kernel.
    sent: bool,
}

impl Paths {
    /// Sends what brings a connection nearer to what is wanted.
    pub(super) fn converge(&mut self, token: Token, host: &Host<'_>, listeners: &mut Listeners, outbox: &mut Outbox) {
        let Some(managed) = self.live.get_mut(token) else { return };
        managed.dirty = false;
        if !managed.connection.established || managed.left_alone || !may_be_managed(&managed.connection, host.view) {
            return;
        }
        if managed.awaits_list && self.ask_what_is_there(token) {
            return;
        }
        let Some(managed) = self.live.get_mut(token) else { return };
        // Whoever connects to a listener of the daemon's is turned away.
        if listeners.is_own(managed.connection.local.plain()) {
            return;
        }
        let Self { asked, ways, ids, work, fresh, resets, to_find, .. } = self;
        let mut task = Task {
            token,
            managed,
            host,
            listeners,
            outbox,
            asked,
            ways,
            ids,
            crowded: false,
            news: false,
            unrouted: false,
            fresh,
            resets: *resets,
            to_find,
            paced: None,
            sent: false,
        };
        task.notice_dead_links();
        task.close_dead();
        task.ask_manager(work);
        task.announce(&work.want.announcements);
        task.managed.forget_stale_attempts(&work.want.subflows, host);
        task.match_wants(work);
        let closing = task.withdraw(&work.wanted, work.want.only_these);
        let renews = task.renew_joins();
        let (crowded, news, sent) = (task.crowded, task.news, task.sent);
        let (paced, unrouted) = (task.paced, task.unrouted);
        if crowded && !std::mem::replace(&mut managed.crowded, true) {
            self.crowded.push_back(token);
        }
        if managed.lists_ids() {
            self.listing.want(token);
        }
        let unrouted = unrouted || managed.is_unrouted();
        self.calm = if sent || managed.is_needy() { 0 } else { self.calm.saturating_add(1) };
        let wake = managed.next_look(work.want.wake_at.into_iter().chain(closing).chain(paced), host.now);
        if managed.wake != wake {
            managed.wake = wake;
            self.timers.extend(wake.map(|wake| Reverse((wake, token))));
        }
        let single = work.want.watch_single;
        self.note_route(token, unrouted);
        self.watch(token, single, &host.policy.liveness, host.now);
        if renews {
            self.renewal.want(token);
        }
        if news {
            self.touch(token);
        }
    }
}

impl Paths {
    /// A connection that was there before is looked at once its ids are known; whether it has to wait for that.
    fn ask_what_is_there(&mut self, token: Token) -> bool {
        let Some(managed) = self.live.get_mut(token) else { return false };
        if managed.lists_ids() {
            self.listing.want(token);
        }
        managed.awaits_list = managed.listing;
        managed.awaits_list
    }

    /// Keeps in mind whether there may be a route later.
    fn note_route(&mut self, token: Token, missing: bool) {
        if missing {
            self.unrouted.insert(token);
        } else {
            self.unrouted.remove(&token);
        }
    }
}

/// Whether the connection is one between hosts.
fn may_be_managed(connection: &Connection, view: &View<'_>) -> bool {
    !is_own(view, connection.remote.ip())
}

/// The address that a subflow comes from, as the host has it now.
pub(super) fn place_of<'a>(view: &View<'a>, flow: &Subflow) -> Option<&'a LocalAddress<'a>> {
    let address = flow.local_address();
    let has = |local: &&LocalAddress<'_>| {
        local.address == address && flow.if_index.is_none_or(|bound| bound == local.if_index)
    };
    let mut places = view.addresses().iter().filter(has);
    let first = places.clone().next();
    places.find(|local| local.unusable.is_none()).or(first)
}

impl Managed {
    fn is_unrouted(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.state == State::NoRoute)
    }

    /// A connection through a link that is kept apart stays on it, also when that link and its address are
    /// gone: its data is not for others.
    fn notice_whether_apart(&mut self, view: &View<'_>) {
        let address = self.connection.initial_address();
        let mut places = view.addresses().iter().filter(|local| local.address == address).peekable();
        if places.peek().is_some() {
            self.apart = places.any(|place| place.unusable == Some(Unusable::Apart));
        }
    }

    fn sound(&self) -> usize {
        self.connection.subflows.iter().filter(|flow| flow.is_sound()).count()
    }

    /// Joins that may still succeed.
    fn pending(&self, now: Instant) -> usize {
        self.attempts.iter().filter(|attempt| attempt.is_pending() && !attempt.is_ready(now)).count()
    }

    /// Whether there is a path to be made, of which anything but a route is missing.
    fn is_needy(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.state != State::NoRoute)
    }

    /// When it is to be looked at though nothing may have happened. What is overdue waits for something
    /// else to happen.
    fn next_look(&self, wishes: impl Iterator<Item = Instant>, now: Instant) -> Option<Instant> {
        let took = self.took.as_ref().map(|took| took.until);
        let announcing = self.announcing.as_ref().and_then(|announcing| announcing.again);
        let attempts = self.attempts.iter().filter_map(Attempt::next_look);
        attempts.chain(wishes).chain(took).chain(announcing).filter(|time| *time > now).min()
    }

    fn forget_stale_attempts(&mut self, wants: &[WantedSubflow], host: &Host<'_>) {
        let wanted = |attempt: &Attempt| wants.iter().any(|want| attempt.is_wanted(want));
        // Whatever it had no route to, the peer has withdrawn it.
        let pointless =
            |attempt: &Attempt| attempt.state == State::NoRoute && !self.connection.leads_to(attempt.remote);
        keep(&mut self.attempts, |attempt| !attempt.is_stale(wanted(attempt), host.now) && !pointless(attempt));
    }
}

impl Task<'_, '_> {
    /// Joins without an answer that are to be begun anew; whether there are any.
    fn renew_joins(&mut self) -> bool {
        let now = self.host.now;
        self.managed.attempts.iter_mut().fold(false, |any, attempt| attempt.begin_renewal(now) | any)
    }

    pub(super) fn send(&mut self, request: impl Into<Request>, asked: Asked) {
        self.managed.outlisted = true;
        let ticket = self.outbox.send(request.into(), self.host.now);
        self.asked.push_back((ticket, self.token, asked));
        self.sent = true;
    }

    fn ask_manager(&mut self, work: &mut Work) {
        self.managed.notice_whether_apart(self.host.view);
        let connection = &self.managed.connection;
        let view = self.host.view;
        work.remotes.clear();
        if !connection.server_side && !connection.deny_join_id0 && !connection.initial_withdrawn {
            work.remotes.push(Remote { address: connection.remote.plain(), id: AddressId(0) });
        }
        for (id, address) in &connection.remotes {
            let same = |remote: &Remote| remote.address == *address;
            let denied = connection.deny_join_id0 && *address == connection.remote.plain();
            if !denied && !work.remotes.iter().any(same) && !is_own(view, address.ip()) {
                work.remotes.push(Remote { address: *address, id: *id });
            }
        }
        work.flows.clear();
        work.flows.extend(connection.subflows.iter().filter(|flow| !flow.closing).map(|flow| plugin::Subflow {
            local: flow.local.plain(),
            remote: flow.remote.plain(),
            if_index: place_of(view, flow).map(|place| place.if_index),
            origin: flow.origin,
            since: flow.since,
            backup_by_peer: flow.backup_by_peer,
            health: flow.health,
        }));
        work.attempts.clear();
        work.attempts.extend(self.managed.attempts.iter().map(Attempt::shown));
        work.want.clear();
        if self.managed.apart {
            return;
        }
        let shown = ConnectionView {
            token: self.token,
            now: self.host.now,
            side: if connection.server_side { Side::Server } else { Side::Client },
            local: connection.local.plain(),
            remotes: &work.remotes,
            subflows: &work.flows,
            attempts: &work.attempts,
        };
        self.host.manager.paths(view, &shown, &mut self.managed.memo, &mut work.want);
        self.keep_to_caps(&mut work.want.subflows, &work.flows);
    }

    /// Of more wants than may be, the first count. What is there and is not closed for being unwanted, the
    /// initial subflow and those of the peer, comes before any.
    fn keep_to_caps(&self, wants: &mut Vec<WantedSubflow>, flows: &[plugin::Subflow]) {
        let mut staying: Vec<_> =
            flows.iter().filter(|flow| !flow.health.is_lost() && flow.origin != Origin::Local).copied().collect();
        let staying_on: Vec<_> = staying.iter().filter_map(|flow| flow.if_index).collect();
        let mut room = usize::from(self.host.policy.max_subflows).saturating_sub(staying.len());
        let mut kept: Vec<IfIndex> = Vec::new();
        wants.retain(|want| {
            let stays = |flow: &plugin::Subflow| flow.local.ip() == want.local && flow.remote == want.remote;
            if let Some(place) = staying.iter().position(stays) {
                staying.swap_remove(place);
                return true;
            }
            // What cannot be begun takes no place from what can.
            let pair = Pair { source: want.local, if_index: want.if_index, destination: want.remote.ip() };
            let fails = |attempt: &Attempt| attempt.is_failing() && attempt.is_wanted(want);
            if self.ways.lacks(pair) || self.managed.attempts.iter().any(fails) {
                return true;
            }
            let before = kept.iter().chain(&staying_on).filter(|other| **other == want.if_index).count();
            let fits = room > 0 && self.cap_of(want).is_none_or(|cap| before < usize::from(cap));
            if fits {
                room -= 1;
                kept.push(want.if_index);
            }
            fits
        });
    }

    /// As many subflows may be on the interface that is wanted.
    fn cap_of(&self, want: &WantedSubflow) -> Option<u8> {
        let mut places = self.host.view.addresses().iter();
        places.find(|local| local.address == want.local && local.if_index == want.if_index)?.max_subflows
    }

    fn match_wants(&mut self, work: &mut Work) {
        work.wanted.clear();
        work.wanted.resize(self.managed.connection.subflows.len(), false);
        for want in &work.want.subflows {
            let mut flows = self.managed.connection.subflows.iter().zip(&mut work.wanted).enumerate();
            let found = flows.find(|(_, (flow, taken))| {
                !**taken
                    && flow.stays()
                    && flow.local_address() == want.local
                    && flow.remote_end() == want.remote
                    && flow.if_index.is_none_or(|bound| bound == want.if_index)
            });
            match found {
                Some((place, (_, taken))) => {
                    *taken = true;
                    self.set_backup(place, want.backup);
                }
                None => self.begin(want, &work.remotes),
            }
        }
        // Those that stay all the same keep to the wish for their interface too: it is the peer that sends on them.
        for place in 0..work.wanted.len() {
            if work.wanted.get(place) == Some(&false) {
                let flow = self.managed.connection.subflows.get(place);
                let staying =
                    flow.filter(|flow| !flow.closing && self.closes_at(place, work.want.only_these).is_none());
                if let Some(local) = staying.and_then(|flow| place_of(self.host.view, flow)) {
                    self.set_backup(place, local.backup);
                }
            }
        }
    }

    fn set_backup(&mut self, place: usize, backup: bool) {
        let Some(flow) = self.managed.connection.subflows.get_mut(place) else { return };
        if flow.backup != Some(backup) {
            flow.backup = Some(backup);
            let ends = ends_of(self.token, flow);
            self.send(PathCommand::SetBackup(ends, backup), Asked::Other);
        }
    }

    /// Creates a wanted subflow if its time has come.
    fn begin(&mut self, want: &WantedSubflow, remotes: &[Remote]) {
        let now = self.host.now;
        let known = |attempt: &Attempt| attempt.is_wanted(want);
        let place = self.managed.attempts.iter().position(known);
        let before = place.and_then(|place| self.managed.attempts.get(place)).copied();
        if before.is_some_and(|attempt| !attempt.is_ready(now)) {
            return;
        }
        let is_its =
            |(address, if_index, _): &&(IpAddr, IfIndex, Instant)| (want.local, want.if_index) == (*address, *if_index);
        let fresh = self.fresh.iter().rev().find(is_its).map(|(.., since)| *since);
        let from = fresh.map(|since| since + self.host.policy.liveness.return_delay);
        if let Some(from) = from.filter(|from| now < *from) {
            self.paced = Some(from);
            return;
        }
        if !self.may_have_more() || (place.is_none() && !self.managed.has_room(now)) {
            return;
        }
        let mut attempt = before.unwrap_or_else(|| Attempt::new(self.token, want.local, want.if_index, want.remote));
        attempt.if_index = want.if_index;
        attempt.again |= place.is_none() && from.is_some_and(|from| now < from + FRESH);
        let pair = Pair { source: want.local, if_index: want.if_index, destination: want.remote.ip() };
        let (outbox, ways) = (&mut *self.outbox, &mut *self.ways);
        match ways.look(pair, self.token, |question| outbox.send(Request::AskRoute(question), now)) {
            Known::Yes => match self.managed.pace.take(now) {
                Ok(()) => self.create(&mut attempt, want, remotes),
                Err(time) => {
                    self.paced = Some(time);
                    return;
                }
            },
            Known::No => {
                self.unrouted = true;
                if place.is_none() && !self.managed.has_room_for_unrouted() {
                    return;
                }
                self.news |= attempt.state != State::NoRoute;
                attempt.state = State::NoRoute;
            }
            Known::Asked => {}
            Known::Later => self.crowded = true,
        }
        match place.and_then(|place| self.managed.attempts.get_mut(place)) {
            Some(known) => *known = attempt,
            None => {
                self.managed.remember(attempt, now);
            }
        }
    }

    /// Whether one more subflow may be begun: for this host, and for the peer as far as it showed.
    fn may_have_more(&self) -> bool {
        let there = self.managed.sound() + self.managed.pending(self.host.now);
        let took = self.managed.took.as_ref().filter(|took| self.host.now < took.until);
        there < usize::from(self.host.policy.max_subflows) && took.is_none_or(|took| there < took.subflows)
    }

    fn create(&mut self, attempt: &mut Attempt, want: &WantedSubflow, remotes: &[Remote]) {
        let Some(local_id) = self.id_for(want.local, 0) else { return };
        let remote_id =
            remotes.iter().find(|remote| remote.address == want.remote).map_or(AddressId(0), |found| found.id);
        attempt.begun(want.backup, self.host.now);
        let subflow = NewSubflow {
            token: self.token,
            local: want.local,
            local_id,
            remote: want.remote,
            remote_id,
            backup: attempt.backup,
            if_index: Some(want.if_index),
        };
        self.send(PathCommand::CreateSubflow(subflow), Asked::Create(want.local, want.remote));
    }

    /// The id of an address in this connection, chosen now if it has none.
    pub(super) fn id_for(&mut self, address: IpAddr, port: u16) -> Option<AddressId> {
        let connection = &mut self.managed.connection;
        if let Some(id) = connection.id_of(address, port) {
            return Some(id);
        }
        let id = self.ids.choose(address, |id| connection.is_taken(id))?;
        if port == 0 {
            self.ids.remember(address, id);
        }
        connection.remember_id(OwnAddress::new(address, port, id));
        Some(id)
    }
}

/// What names a subflow in commands.
pub(super) fn ends_of(token: Token, flow: &Subflow) -> SubflowEnds {
    SubflowEnds { token, local: flow.local.told(), remote: flow.remote.told() }
}

fn is_own(view: &View<'_>, address: IpAddr) -> bool {
    view.addresses().iter().any(|local| local.address == address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event;

    #[test]
    fn a_connection_of_a_link_that_is_apart_is_so_until_a_rule_says_otherwise_and_not_because_the_link_goes() {
        let local = "10.8.0.1:40000".parse().unwrap();
        let remote = "192.0.2.1:443".parse().unwrap();
        let told = event::Connection { token: Token(1), local, remote, server_side: false, deny_join_id0: false };
        let mut managed = Managed::new(&told, Instant::now());
        let place = |address: &str, unusable| {
            let at = LocalAddress::new(address.parse().unwrap(), IfIndex(2), "wg0");
            LocalAddress { unusable, ..at }
        };
        let elsewhere = place("192.0.2.7", None);
        for (unusable, apart) in [(Some(Unusable::Apart), true), (None, false), (Some(Unusable::Apart), true)] {
            managed.notice_whether_apart(&View::new(&[place("10.8.0.1", unusable), elsewhere]));
            assert_eq!(managed.apart, apart);
            managed.notice_whether_apart(&View::new(&[elsewhere]));
            assert_eq!(managed.apart, apart, "its address is gone");
        }
    }
}
