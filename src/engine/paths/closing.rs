//! Which subflows of a connection are closed: what is dead, and what nobody wants, but never the last that
//! works. And how: the peer is told first.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Host;
use super::attempts::{Attempt, TURNED_AWAY};
use super::converge::{Task, ends_of, place_of};
use super::managed::{Asked, Managed};
use crate::command::PathCommand;
use crate::connections::Subflow;
use crate::plugin::{Cause, Health, Origin, Trouble, Unusable};
use crate::types::AddressId;

/// A join of the peer that is not wanted may be one that the path manager is about to want.
const GRACE: Duration = Duration::from_secs(1);

impl Managed {
    /// Whether a subflow that was dead may be closed: another works, and if that one is back, has proved it.
    pub(super) fn may_be_closed(&self, host: &Host<'_>, local: SocketAddr, remote: SocketAddr) -> bool {
        let Some(flow) = self.connection.subflows.iter().find(|flow| flow.is(local, remote)) else { return false };
        let silent = matches!(flow.health, Health::Dead(trouble) if trouble.cause == Cause::Silence);
        let is_dead = silent || place_of(host.view, flow).is_none_or(|place| !place.alive);
        let mut others = self.connection.subflows.iter().filter(|flow| flow.is_sound());
        others.any(|other| is_dead || sound_since(other) <= host.now)
    }
}

impl Task<'_, '_> {
    /// A subflow whose link or address is gone carries nothing. The side that can join again does not
    /// trust it when the link is back: by then, its timers are far apart.
    pub(super) fn notice_dead_links(&mut self) {
        let view = self.host.view;
        let trusts = std::mem::take(&mut self.managed.trusts) || self.managed.connection.server_side;
        let mut died = false;
        for flow in &mut self.managed.connection.subflows {
            let cause = match place_of(view, flow) {
                None => Some(Cause::Address),
                Some(place) if !place.alive => Some(Cause::Link),
                Some(_) => None,
            };
            died |= cause.is_some() && !flow.health.is_lost();
            flow.health = health(flow.health, cause, trusts, self.host.now);
        }
        if died {
            self.managed.room_was_made(self.host.now);
        }
    }

    /// Closes what carries nothing while something else does, before anything new is begun: the peer is
    /// to hear first that the address is gone.
    pub(super) fn close_dead(&mut self) {
        let Managed { connection, .. } = &mut *self.managed;
        if !connection.subflows.iter().any(Subflow::is_sound) {
            return;
        }
        let mut dead = Vec::new();
        for flow in connection.subflows.iter_mut().filter(|flow| !flow.closing) {
            if matches!(flow.health, Health::Dead(_)) {
                flow.closing = true;
                dead.push(*flow);
            }
        }
        for flow in &dead {
            self.managed.silenced(self.token, flow, &self.host.policy, self.host.now);
        }
        self.close(&dead);
    }

    /// Closes what is suspect or not wanted once another has proved sound, what is dead once there is
    /// another: without any, the kernel ends the connection after a while. Says when there will be more to
    /// close.
    pub(super) fn withdraw(&mut self, wanted: &[bool], only_these: bool) -> Option<Instant> {
        let (mut marked, mut later) = (Vec::new(), None);
        for (place, _) in wanted.iter().enumerate().filter(|(_, wanted)| !**wanted) {
            let Some(time) = self.closes_at(place, only_these) else { continue };
            let Some(flow) = self.managed.connection.subflows.get_mut(place) else { continue };
            if time <= self.host.now {
                flow.closing = true;
                marked.push(*flow);
            } else {
                later = Some(later.map_or(time, |other: Instant| other.min(time)));
            }
        }
        self.close(&marked);
        later
    }

    /// When a subflow that is not wanted is closed, if it is.
    pub(super) fn closes_at(&self, place: usize, only_these: bool) -> Option<Instant> {
        let flows = &self.managed.connection.subflows;
        let flow = flows.get(place).filter(|flow| !flow.closing)?;
        let time = match flow.origin {
            Origin::Peer if only_these && !flow.health.is_lost() => flow.since + GRACE,
            // A rule forbids its interface: the side that connected can do without it.
            Origin::Initial if self.is_forbidden(flow) => flow.since,
            Origin::Peer | Origin::Initial if !flow.health.is_lost() => return None,
            Origin::Local | Origin::Peer | Origin::Initial => flow.since,
        };
        let others = flows.iter().enumerate().filter(|(other, flow)| *other != place && flow.is_sound());
        let proof = others.map(|(_, flow)| sound_since(flow)).min()?;
        Some(if matches!(flow.health, Health::Dead(_)) { time } else { time.max(proof) })
    }

    fn is_forbidden(&self, flow: &Subflow) -> bool {
        let place = place_of(self.host.view, flow);
        let by_rule = place.is_some_and(|place| matches!(place.unusable, Some(Unusable::Rule(_))));
        by_rule && !self.managed.connection.server_side
    }

    /// Tells the peer which addresses have no subflow any more, then closes the subflows: in that
    /// order, as closing makes the kernel forget the id.
    pub(super) fn close(&mut self, flows: &[Subflow]) {
        let connection = &self.managed.connection;
        let mut gone: Vec<AddressId> = flows.iter().map(|flow| flow.local_id).collect();
        gone.sort_unstable();
        gone.dedup();
        let usable = |attempt: &Attempt| {
            let mut usable = self.host.view.usable().filter(|local| local.address == attempt.local);
            usable.any(|local| local.if_index == attempt.if_index)
        };
        gone.retain(|id| {
            let used = connection.subflows.iter().any(|flow| !flow.closing && flow.local_id == *id);
            // The peer would drop a join that is on its way, too. What it is not told to forget it keeps, until it
            // takes no more, and it cannot be told later: the kernel withdraws no address without a subflow.
            // So a join that cannot arrive does not count.
            let joins = |attempt: &Attempt| connection.id_of(attempt.local, 0) == Some(*id) && usable(attempt);
            let joining = self.managed.attempts.iter().any(|attempt| attempt.is_flying() && joins(attempt));
            !used && !joining && !connection.own.iter().any(|own| own.announced && own.id == *id)
        });
        gone.iter().for_each(|id| self.leave(*id));
        for flow in flows {
            let ends = ends_of(self.token, flow);
            // By the command the kernel would forget the address too, and then could not withdraw it
            // (net/mptcp/pm_userspace.c, `mptcp_userspace_pm_delete_local_addr`).
            let stays = flow.local_id != AddressId(0) && !gone.contains(&flow.local_id);
            if self.resets && (stays || matches!(flow.health, Health::Dead(_))) {
                let place = place_of(self.host.view, flow).map(|place| place.if_index);
                self.to_find.push_back((self.token, flow.name(place)));
            } else {
                self.send(PathCommand::DestroySubflow(ends), Asked::Destroy(ends.local, ends.remote));
            }
        }
    }

    /// Tells the peer to forget an address.
    pub(super) fn leave(&mut self, id: AddressId) {
        self.managed.connection.leave_id(id);
        self.send(PathCommand::Remove(self.token, id), Asked::Other);
    }
}

/// How a subflow fares by what is wrong with its link or address. The side that can join again does not trust
/// what was away; who found it silent will tell when it is not.
fn health(before: Health, wrong: Option<Cause>, trusts: bool, now: Instant) -> Health {
    match (wrong, before) {
        (Some(cause), Health::Dead(trouble)) if trouble.cause == cause => before,
        (Some(cause), _) => Health::Dead(Trouble { cause, since: now }),
        (None, Health::Dead(trouble) | Health::Suspect(trouble)) if trouble.cause != Cause::Silence => {
            if trusts {
                Health::Sound
            } else {
                Health::Suspect(trouble)
            }
        }
        (None, _) => before,
    }
}

/// From when on a subflow counts: a peer that has enough takes a join and closes it right away.
fn sound_since(flow: &Subflow) -> Instant {
    match flow.origin {
        Origin::Initial => flow.since,
        // Whose it is may have been forgotten.
        Origin::Local | Origin::Peer => flow.since + TURNED_AWAY,
    }
}
