//! How a path that is wanted and not established stands, and when it is tried again.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::PathPolicy;
use crate::connections::Subflow;
use crate::engine::retry::Backoff;
use crate::event;
use crate::plugin::{self, AttemptState, Origin};
use crate::types::{IfIndex, Token};

/// A path that was tried, or is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) local: IpAddr,
    /// 0 while it is not known.
    pub(super) if_index: IfIndex,
    pub(super) remote: SocketAddr,
    pub(super) state: State,
    /// What was asked for when it was begun.
    pub(super) backup: bool,
    /// One more try, soon, before pauses begin: the far end of a link wakes later than this one.
    again: bool,
    /// It was lost before.
    was_lost: bool,
    failures: u32,
    backoff: Backoff,
    seed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be begun at once.
    Wanted,
    /// The kernel has no route.
    NoRoute,
    /// The kernel was told to begin it.
    Pending(Instant),
    /// Established; kept because it was lost not long ago.
    Up(Instant),
    Failed(Instant),
    Refused(Instant),
    /// The peer took no more at that time; until then, unless another subflow goes before.
    Full(Instant),
}

/// Why a path was lost, or could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It had been there for a while.
    Lived,
    /// It was lost right away, or never came to be.
    Early,
    /// The peer does not want it.
    Refused,
    /// The peer has enough.
    Full,
}

/// A subflow that was there for so long was sound.
const LIVED: Duration = Duration::from_secs(5);
/// What the peer closes so soon, without an error, is more than it takes.
const TURNED_AWAY: Duration = Duration::from_secs(1);
/// What was lost comes back after that.
const SOON: Duration = Duration::from_millis(60);
/// The second try after a link came back.
const SECOND_TRY: Duration = Duration::from_millis(400);
/// The kernel gives up well before; if its word was lost, so does this.
const LONGEST_PENDING: Duration = Duration::from_secs(180);
/// Connections are young for so long.
const YOUNG: Duration = Duration::from_secs(60);

impl Loss {
    /// Of a subflow that never was established.
    pub(super) fn of_attempt(told: &event::Subflow) -> Self {
        if is_refusal(told) { Self::Refused } else { Self::Early }
    }

    /// Of one that was.
    pub(super) fn of_subflow(told: &event::Subflow, flow: &Subflow, now: Instant) -> Self {
        let lived = now.saturating_duration_since(flow.since);
        let turned_away = told.error.is_none() && told.reset.is_none() && lived < TURNED_AWAY;
        if lived >= LIVED {
            Self::Lived
        } else if is_refusal(told) {
            Self::Refused
        } else if turned_away && flow.origin == Origin::Local {
            Self::Full
        } else {
            Self::Early
        }
    }
}

/// The peer says that it will not take it later either; "unspecified" says nothing, that is what a
/// socket leaves that was killed (RFC 8684, section 3.6, table 3).
fn is_refusal(told: &event::Subflow) -> bool {
    told.reset.is_some_and(|reset| !reset.transient && reset.reason != 0)
}

impl Attempt {
    pub(super) fn new(token: Token, local: IpAddr, if_index: IfIndex, remote: SocketAddr) -> Self {
        Self {
            local,
            if_index,
            remote,
            state: State::Wanted,
            backup: false,
            again: false,
            was_lost: false,
            failures: 0,
            backoff: Backoff::default(),
            seed: token.0,
        }
    }

    /// The kernel is told to begin it.
    pub(super) fn begun(&mut self, backup: bool, now: Instant) {
        self.again |= self.state == State::NoRoute;
        self.backup = backup;
        self.state = State::Pending(now);
    }

    /// Whether it is this path.
    pub(super) fn is(&self, local: IpAddr, if_index: IfIndex, remote: SocketAddr) -> bool {
        let same_interface = self.if_index == if_index || self.if_index == IfIndex(0);
        self.local == local && self.remote == remote && same_interface
    }

    pub(super) fn is_pending(&self, local: IpAddr, remote: SocketAddr) -> bool {
        self.local == local && self.remote == remote && matches!(self.state, State::Pending(_))
    }

    pub(super) fn is_pending_to(&self, local: IpAddr, remote: IpAddr) -> bool {
        self.local == local && self.remote.ip() == remote && matches!(self.state, State::Pending(_))
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    pub(super) fn succeeded(&mut self, now: Instant) {
        self.state = State::Up(now);
        self.again = false;
    }

    /// A link, address or route that it depends on came back.
    pub(super) fn forgive(&mut self) {
        // One that is on its way may have been lost with the link: another is begun beside it.
        if !self.is_up() {
            self.state = State::Wanted;
        }
        self.failures = 0;
        self.backoff.reset();
        self.again = true;
    }

    /// The peer may take it now that another subflow is gone, once it knows of that.
    pub(super) fn room_was_made(&mut self, now: Instant) {
        if matches!(self.state, State::Full(_)) {
            self.state = State::Failed(now + SOON);
        }
    }

    /// Nothing is to be remembered of it now that it is up.
    pub(super) fn is_clean(&self) -> bool {
        self.failures == 0 && !self.was_lost
    }

    /// It was lost or could not be made; decides when it is tried again.
    pub(super) fn failed(&mut self, loss: Loss, connection_since: Instant, policy: &PathPolicy, now: Instant) {
        // The first loss of a path that was up says as little as that of one that lived.
        let first_loss = matches!(self.state, State::Wanted) && !std::mem::replace(&mut self.was_lost, true);
        let young = now.saturating_duration_since(connection_since) < YOUNG;
        let most = if young { policy.longest_early_retry } else { policy.longest_retry };
        if loss == Loss::Lived || (loss == Loss::Early && first_loss) {
            self.failures = 0;
            self.backoff.reset();
            self.state = State::Failed(now + SOON);
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if matches!(loss, Loss::Refused | Loss::Full) {
            let longest = policy.longest_retry;
            let time = self.backoff.after_failure(now, longest, longest, self.seed());
            self.state = if loss == Loss::Full { State::Full(time) } else { State::Refused(time) };
        } else if std::mem::take(&mut self.again) {
            self.state = State::Failed(now + SECOND_TRY);
        } else {
            self.state = State::Failed(self.backoff.after_failure(now, policy.first_retry, most, self.seed()));
        }
    }

    /// When something is to be done about it without anything happening.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Wanted | State::NoRoute | State::Up(_) => None,
            State::Pending(since) => Some(since + LONGEST_PENDING),
            State::Failed(time) | State::Refused(time) | State::Full(time) => Some(time),
        }
    }

    /// Whether it may be begun now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        match self.state {
            State::Wanted | State::NoRoute => true,
            State::Up(_) => true,
            State::Pending(_) | State::Failed(_) | State::Refused(_) | State::Full(_) => {
                self.due().is_none_or(|due| due <= now)
            }
        }
    }

    /// Whether nothing would be lost by forgetting it: it is not on its way, and has no pause to keep.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        match self.state {
            State::Wanted | State::NoRoute => true,
            State::Up(since) => since + LIVED <= now,
            State::Pending(_) | State::Failed(_) | State::Refused(_) | State::Full(_) => {
                self.due().is_none_or(|due| due <= now)
            }
        }
    }

    /// What path managers see of it.
    pub(super) fn shown(&self) -> plugin::Attempt {
        let state = match self.state {
            State::Wanted | State::Up(_) => AttemptState::Wanted,
            State::NoRoute => AttemptState::NoRoute,
            State::Pending(since) => AttemptState::Pending(since),
            State::Failed(time) => AttemptState::Failed(time),
            State::Refused(time) | State::Full(time) => AttemptState::Refused(time),
        };
        let Self { local, if_index, remote, failures, .. } = *self;
        plugin::Attempt { local, if_index, remote, state, failures }
    }

    fn seed(&self) -> u64 {
        (u64::from(self.if_index.0) << 32) ^ u64::from(self.seed)
    }
}
