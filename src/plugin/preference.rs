//! Which pair of addresses is the most promising for a path through an interface: a question that several
//! path managers have.

use std::time::{Duration, Instant};

use super::{Attempt, AttemptState, ConnectionView, LocalAddress, Origin, Paths, Remote, Subflow, Unusable, View};
use crate::types::IfIndex;

/// A join that has no answer for so long gives way to another of its interface.
const PATIENCE: Duration = Duration::from_secs(5);

/// The path that a connection has through an interface, or the most promising that it could have.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The address of this host.
    pub local: &'a LocalAddress<'a>,
    /// The address of the peer.
    pub remote: Remote,
    /// The subflow, if it is there; it may be suspect.
    pub flow: Option<&'a Subflow>,
    /// When another may be more promising, though nothing has happened.
    pub until: Option<Instant>,
}

impl Candidate<'_> {
    /// Whether it is there and nothing speaks against it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.flow.is_some_and(|flow| flow.health.is_sound())
    }

    /// Wants it, and to be asked again when another may be better.
    pub fn want(&self, want: &mut Paths) {
        want.subflow(self.local, &self.remote);
        self.until.into_iter().for_each(|until| want.wake_at(until));
    }

    /// Wants it as a backup.
    pub fn want_as_backup(&self, want: &mut Paths) {
        want.backup_subflow(self.local, &self.remote);
        self.until.into_iter().for_each(|until| want.wake_at(until));
    }
}

/// Interfaces with a usable address, the preferred first.
#[must_use]
pub fn by_preference(view: &View<'_>) -> Vec<IfIndex> {
    let mut interfaces: Vec<_> = view.usable().map(|local| (local.order, local.if_index)).collect();
    interfaces.sort_unstable();
    interfaces.dedup_by_key(|(_, if_index)| *if_index);
    interfaces.into_iter().map(|(_, if_index)| if_index).collect()
}

impl<'a> ConnectionView<'a> {
    /// The path that the connection has through an interface, the initial one before others, or the one
    /// most likely to come about.
    #[must_use]
    pub fn candidate(&self, view: &View<'a>, if_index: IfIndex) -> Option<Candidate<'a>> {
        let locals = || view.addresses().iter().filter(|local| local.if_index == if_index);
        // It may come from an address that nothing new would come from, a temporary one for instance, but not
        // from one that a rule forbids.
        let place = |flow: &'a Subflow| {
            let local = locals().find(|local| local.address == flow.local.ip())?;
            Some((local, flow)).filter(|_| !matches!(local.unusable, Some(Unusable::Rule(_))))
        };
        let there = self.subflows_on(if_index).filter(|flow| !flow.health.is_lost()).filter_map(place);
        // The initial one stays anyhow; of the others, the oldest.
        if let Some((local, flow)) = there.min_by_key(|(_, flow)| (flow.origin != Origin::Initial, flow.since)) {
            let remote = self.remotes.iter().find(|remote| remote.address == flow.remote).copied();
            let remote = remote.unwrap_or(Remote { address: flow.remote, id: crate::types::AddressId(0) });
            return Some(Candidate { local, remote, flow: Some(flow), until: None });
        }
        let locals = view.usable().filter(|local| local.if_index == if_index);
        let pairs = locals.flat_map(|local| self.remotes.iter().map(move |remote| (local, remote)));
        let fitting = pairs.filter(|(local, remote)| local.address.is_ipv4() == remote.address.is_ipv4());
        let (local, remote) = fitting.min_by_key(|(local, remote)| self.hopelessness(local, remote))?;
        let until = match self.attempt(local, remote).map(|attempt| attempt.state) {
            Some(AttemptState::Pending(since)) => Some(since + PATIENCE),
            _ => None,
        };
        Some(Candidate { local, remote: *remote, flow: None, until })
    }

    fn attempt(&self, local: &LocalAddress<'_>, remote: &Remote) -> Option<&'a Attempt> {
        self.attempts.iter().find(|attempt| {
            attempt.local == local.address && attempt.if_index == local.if_index && attempt.remote == remote.address
        })
    }

    /// The lower, the better: what is on its way, then what was there not long ago, then what has not been
    /// tried, then what failed least, then what may be tried first.
    fn hopelessness(&self, local: &LocalAddress<'_>, remote: &Remote) -> (u32, Option<Instant>) {
        let Some(attempt) = self.attempt(local, remote) else { return (2, None) };
        let failed = |at| (attempt.failures.saturating_add(2), Some(at));
        match attempt.state {
            AttemptState::Pending(since) if since + PATIENCE > self.now => (0, None),
            // No answer yet: another may have one.
            AttemptState::Pending(since) => (attempt.failures.saturating_add(3), Some(since)),
            AttemptState::Wanted => (1, None),
            AttemptState::Failed(_) if attempt.failures == 0 => (1, None),
            AttemptState::Failed(time) | AttemptState::Refused(time) => failed(time),
            AttemptState::NoRoute => (u32::MAX, None),
        }
    }
}
