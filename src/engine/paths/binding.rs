//! Whether the kernel binds subflows to the interface that they are to use. Linux 6.1 does not.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Paths;
use super::managed::Managed;
use crate::connections::plain;
use crate::engine::outbox::Outbox;
use crate::engine::routes::Way;
use crate::engine::{Note, Ticket};
use crate::event;
use crate::types::IfIndex;

/// For so long after an address became usable, its routes may still be missing.
pub(super) const SETTLING: Duration = Duration::from_secs(5);

impl Paths {
    /// Says once what is missing where subflows are not bound and would leave elsewhere.
    pub(super) fn tell_stray(&mut self, ticket: Ticket, way: Way, outbox: &mut Outbox, now: Instant) {
        let Some(question) = self.ways.stray(ticket, way) else { return };
        let Some(source) = question.source else { return };
        let is_new = |(address, _, since): &(IpAddr, IfIndex, Instant)| *address == source && *since + SETTLING > now;
        if !self.fresh.iter().any(is_new) && !std::mem::replace(&mut self.told_stray, true) {
            outbox.log(Note::LeadsElsewhere { source, destination: question.destination });
        }
    }

    /// A join of this host's shows whether it was bound to the interface that was asked for: Linux 6.1 takes
    /// neither that nor a flag (net/mptcp/pm_userspace.c, `mptcp_nl_cmd_sf_create`).
    pub(super) fn notice_binding(&mut self, told: &event::Subflow) {
        let bound = told.if_index.is_some();
        if bound == self.ways.are_bound() {
            return;
        }
        if self.live.get_mut(told.token).is_some_and(|managed| managed.has_begun(told)) {
            self.ways.bind(bound);
            self.view_changed = true;
        }
    }
}

impl Managed {
    /// Whether it is one that the kernel was told to begin, and that had not been established.
    fn has_begun(&self, told: &event::Subflow) -> bool {
        let (local, remote) = (told.local.ip().to_canonical(), plain(told.remote));
        self.connection.is_from_here(told.local.port())
            && !self.connection.subflows.iter().any(|flow| flow.is(told.local, told.remote))
            && self.attempts.iter().any(|attempt| attempt.is_flying() && attempt.joins(local, remote))
    }
}
