//! What the engine does for path managers of connections, and leaves out where none can be.

use std::time::Instant;

use super::paths::Host;
use super::reading::Reading;
use super::{Engine, Failure, Ticket, view_of};
use crate::command::RouteQuestion;
use crate::connections::Table;
use crate::diag::Socket;
use crate::plugin::View;
use crate::state_file::SavedConnection;

impl Engine {
    /// Whether events of connections are of use.
    pub(crate) fn manages_connections(&self) -> bool {
        // Known when it is compiled, so that what is for connections alone is left out.
        cfg!(feature = "connections") && self.policy.connections.is_some()
    }

    /// Whether something may follow from the next event of a connection, so that it must not wait.
    pub(crate) fn hurries(&self) -> bool {
        self.paths.hurries()
    }

    /// Takes the end of a request for connections; whether it was one.
    pub(super) fn end_of_paths(&mut self, ticket: Ticket, result: Result<(), Failure<'_>>, now: Instant) -> bool {
        self.listeners.end(ticket, result, now)
            || self.paths.end(ticket, result, &self.policy.paths, (&mut self.outbox, now))
    }

    pub(super) fn collect_socket(&mut self, ticket: Ticket, socket: &Socket, now: Instant) {
        if self.manages_connections() {
            self.listeners.collect(ticket, socket);
            self.paths.collect_socket(ticket, socket, &self.policy.paths.liveness, &mut self.outbox, now);
        }
    }

    pub(super) fn path_question(&self, ticket: Ticket) -> Option<&RouteQuestion> {
        if self.manages_connections() { self.paths.question(ticket) } else { None }
    }

    /// Whether connections are looked at.
    pub(super) fn may_make_paths(&self) -> bool {
        let known = self.reading == Reading::Done && !(self.first_reading && self.routes.is_waiting());
        known && self.stop.is_none() && self.manages_connections() && self.paths.is_current()
    }

    /// Takes over what was saved of connections, by an earlier run or when they ceased to be managed.
    pub(crate) fn recall(&mut self, saved: Table<SavedConnection>, now: Instant) {
        if self.manages_connections() {
            self.paths.adopt(saved, now);
        }
    }

    /// Whether events of connections are to wait in their socket.
    pub(crate) fn holds_events(&self) -> bool {
        self.manages_connections() && self.paths.holds_events()
    }

    /// Whether it waits to hear that there are no more of them.
    pub(crate) fn awaits_drain(&self) -> bool {
        self.manages_connections() && self.paths.awaits_drain()
    }

    pub(super) fn events_drained(&mut self, now: Instant) {
        if self.manages_connections() && self.paths.awaits_drain() {
            self.paths.events_drained(&mut self.outbox, now);
            // Being ready may have waited for this.
            self.dirty |= self.paths.is_current();
        }
    }

    pub(super) fn events_lost(&mut self, now: Instant) {
        if self.manages_connections() {
            self.overruns.unsaid += u32::from(self.paths.events_lost(now));
            self.listeners.look_again(now);
        }
    }

    /// Whether what is known of connections is what there is, if they are managed at all.
    pub(super) fn knows_connections(&self) -> bool {
        !self.manages_connections() || self.paths.is_current()
    }

    /// Reads what connections there are.
    pub(super) fn know_connections(&mut self, now: Instant) {
        if self.manages_connections() {
            self.paths.advance_adoption(&mut self.outbox, now);
        }
    }

    /// Whether something of connections is to be written now that must outlive the process.
    pub(crate) fn has_unsaved_connections(&self, now: Instant) -> bool {
        self.manages_connections() && self.paths.is_unsaved(now)
    }

    /// Connections may not be managed any more: what is unsaved is to be written now.
    pub(crate) fn save_connections_at_once(&mut self, now: Instant) {
        if self.manages_connections() {
            self.paths.save_at_once(now);
        }
    }

    /// It could not be written.
    pub(crate) fn save_connections_later(&mut self, now: Instant) {
        self.paths.save_later(now);
    }

    /// Writes what changed of that since the last call.
    pub(crate) fn write_changes(&mut self, lines: &mut String) {
        self.paths.write_changes(lines);
    }

    /// Writes all of it.
    pub(crate) fn write_connections(&mut self, lines: &mut String) {
        self.paths.write_all(lines);
    }

    /// Keeps in touch with who listens where, if connections are managed.
    pub(super) fn know_listeners(&mut self, now: Instant) {
        if !self.manages_connections() || !self.paths.is_current() {
            return;
        }
        for token in self.paths.take_unannounced() {
            self.listeners.keep(token, &[], &mut self.outbox);
        }
        self.listeners.advance(&mut self.outbox, now);
        if self.listeners.take_changed() {
            self.paths.listeners_changed();
        }
    }

    pub(super) fn make_paths(&mut self, now: Instant) {
        let Self { policy, network, paths, listeners, outbox, .. } = self;
        let manager = policy.connections.and_then(|index| policy.managers.get(index));
        let Some(manager) = manager.filter(|_| cfg!(feature = "connections")) else { return };
        if !paths.is_current() {
            return;
        }
        if !paths.has_work() && paths.deadline().is_none_or(|time| time > now) {
            return;
        }
        let addresses = view_of(network, &policy.rules);
        let view = View::new(&addresses);
        paths.advance(&Host { view: &view, manager: &**manager, policy: policy.paths, now }, listeners, outbox);
    }
}
