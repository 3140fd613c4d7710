//! Looking at what the kernel holds: the kernel sends no events for endpoints.

use std::time::Instant;

use super::{Endpoints, Held, LOOK_AGAIN, LOOK_INTERVAL, Look, same};
use crate::command::{PmCommand, Request};
use crate::engine::{Failure, Note, Outbox, Ticket};
use crate::event::{Endpoint, Limits};
use crate::types::AddressId;

impl Endpoints {
    pub(in crate::engine) fn look_soon(&mut self, now: Instant) {
        self.next_look = now;
    }

    /// No answer will come to what was asked: whether it was done is for the next look to find out.
    pub(in crate::engine) fn forget_requests(&mut self) {
        self.look = Look::Idle;
        for (_, command) in std::mem::take(&mut self.commands) {
            if let PmCommand::AddEndpoint(endpoint) = command {
                self.claimed.push(endpoint);
            }
        }
    }

    /// Says whether a look begins.
    pub(in crate::engine) fn begin_look(&mut self, outbox: &mut Outbox, now: Instant) -> bool {
        let begins = now >= self.next_look && matches!(self.look, Look::Idle) && self.commands.is_empty();
        if begins {
            let ticket = outbox.send(Request::Pm(PmCommand::DumpEndpoints), now);
            self.look = Look::Endpoints(ticket, Vec::new());
            self.next_look = now + LOOK_INTERVAL;
        }
        begins
    }

    pub(in crate::engine) fn collect(&mut self, ticket: Ticket, endpoint: Endpoint, now: Instant) {
        match &mut self.look {
            Look::Endpoints(looking, found) if *looking == ticket => return found.push(endpoint),
            _ => {}
        }
        for held in self.held.iter_mut().filter(|held| held.own && same(&held.endpoint, &endpoint)) {
            held.seen = now;
        }
    }

    pub(in crate::engine) fn apply_limits(&mut self, limits: Limits) {
        self.limits_changed |= self.limits != Some(limits);
        self.limits = Some(limits);
        self.limits_are_fresh = true;
    }

    /// A request is done. Says whether there may be more to do.
    pub(in crate::engine) fn end(
        &mut self,
        ticket: Ticket,
        result: Result<(), Failure<'_>>,
        outbox: &mut Outbox,
        now: Instant,
    ) -> bool {
        match std::mem::replace(&mut self.look, Look::Idle) {
            Look::Endpoints(looking, found) if looking == ticket => match result {
                Ok(()) => {
                    let next = outbox.send(Request::Pm(PmCommand::GetLimits), now);
                    self.look = Look::Limits(next, found);
                    return false;
                }
                Err(failure) => return self.look_failed(failure, outbox, now),
            },
            Look::Limits(looking, found) if looking == ticket => match result {
                Ok(()) => return self.end_look(&found, outbox, now),
                Err(failure) => return self.look_failed(failure, outbox, now),
            },
            other => self.look = other,
        }
        let Some(place) = self.commands.iter().position(|(sent, _)| *sent == ticket) else { return false };
        let (_, command) = self.commands.swap_remove(place);
        match result {
            Ok(()) => self.done(&command, outbox, now),
            Err(Failure::Refused(refusal)) => self.refuse(&command, &refusal, outbox, now),
            Err(Failure::Interrupted) => self.look_soon(now),
        }
        true
    }

    /// Whether it is a request of a look.
    pub(super) fn is_look(&self, ticket: Ticket) -> bool {
        matches!(self.look, Look::Endpoints(looking, _) | Look::Limits(looking, _) if looking == ticket)
    }

    fn look_failed(&mut self, failure: Failure<'_>, outbox: &mut Outbox, now: Instant) -> bool {
        self.next_look = now;
        if let Failure::Refused(refusal) = failure {
            self.tell(&PmCommand::DumpEndpoints, &refusal, outbox);
            self.next_look = now + LOOK_AGAIN;
        }
        false
    }

    pub(super) fn end_look(&mut self, found: &[Endpoint], outbox: &mut Outbox, now: Instant) -> bool {
        let held: Vec<Held> = found.iter().map(|found| self.recognise(found, now)).collect();
        let before = std::mem::replace(&mut self.held, held);
        for held in self.held.iter().filter(|held| held.own) {
            self.ids.remember(held.endpoint.address, held.endpoint.id);
        }
        let is_new = |held: &&Held| !before.iter().any(|other| held.is(other));
        let is_lost = |held: &&Held| held.own && !self.held.iter().any(|other| held.is(other));
        let changed = before.len() != self.held.len() || self.held.iter().any(|held| is_new(&held));
        before.iter().filter(is_lost).for_each(|held| outbox.debug(|| Note::Lost(held.endpoint)));
        let others = self.held.iter().filter(|held| !held.own && !held.is_implicit()).filter(is_new);
        for held in others {
            outbox.debug(|| Note::Foreign(held.endpoint));
            self.newcomers.extend(self.known.then_some(held.endpoint));
        }
        let has = |asked: &Endpoint| found.iter().any(|held| held.address == asked.address || held.id == asked.id);
        self.seems_full |= self.not_taken.drain(..).any(|asked| !has(&asked));
        // Fewer than before tell nothing: somebody took some away since the kernel took no more.
        if std::mem::take(&mut self.seems_full) && found.len() >= before.len().max(1) {
            self.capacity = Some(found.len());
        }
        self.capacity = self.capacity.map(|capacity| capacity.max(found.len()));
        if !std::mem::take(&mut self.claimed).is_empty() || changed {
            self.save_soon(now);
        }
        let first = !std::mem::replace(&mut self.known, true);
        let limits_changed = std::mem::take(&mut self.limits_changed);
        first || limits_changed || changed
    }

    /// Tells whether an endpoint that a look found is ours.
    fn recognise(&self, found: &Endpoint, now: Instant) -> Held {
        // Of one that was asked for without id, the kernel chose it.
        let claims = |claimed: &Endpoint| match claimed.id {
            AddressId(0) => same(&Endpoint { id: found.id, ..*claimed }, found),
            _ => same(claimed, found),
        };
        let own = self.own().any(|own| same(own, found)) || self.claimed.iter().any(claims);
        Held { endpoint: *found, own, seen: now }
    }
}
