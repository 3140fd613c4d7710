//! How a path that is wanted and not established stands, and when it is tried again.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::connections::Subflow;
use crate::engine::retry::Backoff;
use crate::event;
use crate::plugin::{self, AttemptState, Cause, Origin, Trouble, WantedSubflow};
use crate::rules::PathPolicy;
use crate::types::{Errno, IfIndex, Token};

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
    pub(super) again: bool,
    /// It was there before, and what it was lost to.
    pub(super) lost: Option<Trouble>,
    /// Its join that got no answer is being called off, so that the next is not as far away as the kernel
    /// would have it.
    renewing: bool,
    /// Joins that the kernel was told to begin and that have not ended, one way or the other.
    flying: u8,
    /// Of them, those in the list of what there is that is being read.
    listed: u8,
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

/// Joins of one path that are on their way at the same time.
const MOST_FLYING: u8 = 2;
/// A subflow that was there for so long was sound.
const LIVED: Duration = Duration::from_secs(5);
/// What the peer closes so soon, without an error, is more than it takes.
pub(super) const TURNED_AWAY: Duration = Duration::from_secs(1);
/// What was lost comes back after that.
const SOON: Duration = Duration::from_millis(60);
/// After a link came back, the first packet is often lost at the far end, which wakes later: without an answer
/// for so long another join is begun beside the first.
const SECOND_JOIN: Duration = Duration::from_millis(200);
/// A join without an answer on a path that was there before is begun anew after that, and later on after a
/// third of the time that the path has been away: the kernel repeats it at ever longer intervals.
const RENEWED: Duration = Duration::from_secs(5);
const LONGEST_UNRENEWED: Duration = Duration::from_secs(60);
/// The second try after a link came back.
const SECOND_TRY: Duration = Duration::from_millis(400);
/// The kernel gives up well before; if its word was lost, so does this.
const LONGEST_PENDING: Duration = Duration::from_secs(180);
/// So long after its pause a path that failed is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Connections are young for so long.
const YOUNG: Duration = Duration::from_secs(60);

impl Loss {
    /// Of a subflow that never was established.
    pub(super) fn of_attempt(told: &event::Subflow) -> Self {
        if is_refusal(told) { Self::Refused } else { Self::Early }
    }

    /// Of one that went silent.
    pub(super) fn of_silent(flow: &Subflow, now: Instant) -> Self {
        if now.saturating_duration_since(flow.since) >= LIVED { Self::Lived } else { Self::Early }
    }

    /// Of one that was.
    pub(super) fn of_subflow(told: &event::Subflow, flow: &Subflow, now: Instant) -> Self {
        let lived = now.saturating_duration_since(flow.since);
        let turned_away = told.error.is_none() && told.reset.is_none() && !flow.withdrawn && lived < TURNED_AWAY;
        if lived >= LIVED {
            Self::Lived
        } else if is_refusal(told) && !is_data_error(told) {
            Self::Refused
        } else if turned_away && flow.origin == Origin::Local {
            Self::Full
        } else {
            Self::Early
        }
    }
}

/// What a subflow was lost to, by the errors of net/mptcp/subflow.c and the TCP beneath.
pub(super) fn cause_of(told: &event::Subflow) -> Cause {
    match told.error {
        Some(Errno::CONNRESET | Errno::CONNABORTED) => Cause::Reset,
        Some(_) => Cause::TimedOut,
        None if told.reset.is_some() => Cause::Reset,
        None => Cause::Closed,
    }
}

/// The peer says that it will not take it later either; "unspecified" says nothing, that is what a
/// socket leaves that was killed (RFC 8684, section 3.6, table 3).
fn is_refusal(told: &event::Subflow) -> bool {
    told.reset.is_some_and(|reset| !reset.transient && reset.reason != 0)
}

/// "MPTCP-specific error": in answer to a join, that the connection is not known there; from a subflow
/// that was established, that its data did not fit, which says nothing of the next one.
fn is_data_error(told: &event::Subflow) -> bool {
    told.reset.is_some_and(|reset| reset.reason == 1)
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
            lost: None,
            renewing: false,
            flying: 0,
            listed: 0,
            failures: 0,
            backoff: Backoff::default(),
            seed: token.0,
        }
    }

    /// The kernel is told to begin it.
    pub(super) fn begun(&mut self, backup: bool, now: Instant) {
        if let State::Pending(since) = self.state {
            // What became of the one before has been missed, or it has no answer yet and this is the second.
            self.flying = if since + LONGEST_PENDING <= now { 0 } else { self.flying };
            self.again = false;
        }
        // Of several on their way, nothing tells which was established: all ask for the same.
        if self.flying == 0 {
            self.backup = backup;
        }
        self.flying = self.flying.saturating_add(1);
        self.renewing = false;
        self.state = State::Pending(now);
    }

    /// Whether it is this path.
    pub(super) fn is_wanted(&self, want: &WantedSubflow) -> bool {
        self.joins(want.local, want.remote) && self.is_through(want.if_index)
    }

    /// Whether it is through that interface, as far as both are known.
    pub(super) fn is_through(&self, if_index: IfIndex) -> bool {
        self.if_index == if_index || self.if_index == IfIndex(0) || if_index == IfIndex(0)
    }

    /// Whether it joins these ends, through whatever interface.
    pub(super) fn joins(&self, local: IpAddr, remote: SocketAddr) -> bool {
        self.local == local && self.remote == remote
    }

    pub(super) fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending(_))
    }

    /// Whether a join has not ended.
    pub(super) fn is_flying(&self) -> bool {
        self.flying > 0
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    pub(super) fn succeeded(&mut self, now: Instant) {
        self.flying = self.flying.saturating_sub(1);
        self.state = State::Up(now);
        self.renewing = false;
    }

    /// When its join is to be begun anew.
    fn renewal(&self) -> Option<Instant> {
        let (State::Pending(since), Some(lost)) = (self.state, self.lost) else { return None };
        let away = since.saturating_duration_since(lost.since);
        Some(since + (away / 3).clamp(RENEWED, LONGEST_UNRENEWED)).filter(|_| !self.renewing)
    }

    /// Whether its join is to be called off now, to be begun anew.
    pub(super) fn begin_renewal(&mut self, now: Instant) -> bool {
        let due = self.is_flying() && self.renewal().is_some_and(|due| due <= now);
        self.renewing |= due;
        due
    }

    pub(super) fn is_renewing(&self) -> bool {
        self.renewing
    }

    /// Its join could not be called off: the kernel's list does not have it, so that its end, or even its
    /// beginning, has been missed; or there is no list.
    pub(super) fn end_renewal(&mut self, listed: bool, now: Instant) {
        if !std::mem::take(&mut self.renewing) || !self.is_pending() {
            return;
        }
        if listed {
            self.flying = 0;
            self.state = State::Failed(now + SECOND_TRY);
        } else {
            self.lost = None;
        }
    }

    /// What there is is about to be listed.
    pub(super) fn begin_list(&mut self) {
        self.listed = 0;
    }

    /// One of its joins is listed; `false` if it has as many already.
    pub(super) fn is_listed(&mut self) -> bool {
        let one_more = self.listed < self.flying;
        self.listed += u8::from(one_more);
        one_more
    }

    /// Joins that were not listed have ended, and nothing told how.
    pub(super) fn end_list(&mut self, connection_since: Instant, policy: &PathPolicy, now: Instant) {
        while self.flying > self.listed {
            self.failed(Loss::Early, connection_since, policy, now);
        }
    }

    /// The kernel may have a route now.
    pub(super) fn reroute(&mut self) -> bool {
        let unrouted = self.state == State::NoRoute;
        if unrouted {
            self.state = State::Wanted;
            self.again = true;
        }
        unrouted
    }

    /// A link or address that it depends on came back.
    pub(super) fn forgive(&mut self) {
        // One that is on its way may have been lost with the link: another is begun beside it, and no more,
        // as the kernel repeats both for minutes.
        if !self.is_up() && self.flying < MOST_FLYING {
            self.state = State::Wanted;
        }
        self.failures = 0;
        self.backoff.reset();
        self.again = true;
    }

    /// Whether the peer does not want it for now.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused(_) | State::Full(_))
    }

    /// The peer may take it now that another subflow is gone, once it knows of that.
    pub(super) fn room_was_made(&mut self, now: Instant) {
        if matches!(self.state, State::Full(_)) {
            self.state = State::Failed(now + SOON);
        }
    }

    /// It is up, and nothing is to be remembered of it.
    pub(super) fn is_settled(&self) -> bool {
        self.is_up() && self.flying == 0 && self.failures == 0 && self.lost.is_none() && !self.again
    }

    /// A join came to nothing. While another is on its way, that one decides.
    pub(super) fn failed(&mut self, loss: Loss, connection_since: Instant, policy: &PathPolicy, now: Instant) {
        self.flying = self.flying.saturating_sub(1);
        if !self.is_pending() || self.flying > 0 {
            return;
        }
        if std::mem::take(&mut self.renewing) {
            self.state = State::Wanted;
        } else {
            self.pause(loss, connection_since, policy, now);
        }
    }

    /// A subflow was lost. While another is on its way, that one decides, but is not trusted at once.
    pub(super) fn lost(&mut self, loss: Loss, trouble: Trouble, connection_since: Instant, policy: &PathPolicy) {
        let now = trouble.since;
        // The first loss of a path that was up says as little as that of one that lived.
        let first = self.state == State::Wanted && self.lost.is_none();
        self.lost = Some(trouble);
        if self.is_pending() {
            self.failures = self.failures.saturating_add(u32::from(loss != Loss::Lived));
        } else if loss == Loss::Lived || (loss == Loss::Early && first) {
            self.failures = 0;
            self.backoff.reset();
            // Where nobody withdrew the address, no word of that is on its way to the peer.
            let at_once = matches!(trouble.cause, Cause::Reset | Cause::TimedOut | Cause::Silence);
            self.state = State::Failed(if at_once { now } else { now + SOON });
        } else {
            self.pause(loss, connection_since, policy, now);
        }
    }

    /// Decides when it is tried again.
    fn pause(&mut self, loss: Loss, connection_since: Instant, policy: &PathPolicy, now: Instant) {
        let young = now.saturating_duration_since(connection_since) < YOUNG;
        let most = if young { policy.longest_early_retry } else { policy.longest_retry };
        self.failures = self.failures.saturating_add(1);
        if loss != Loss::Refused && std::mem::take(&mut self.again) {
            // The word of a withdrawal may also reach the peer after the join that follows it.
            self.state = State::Failed(now + SECOND_TRY);
        } else if matches!(loss, Loss::Refused | Loss::Full) {
            let longest = policy.longest_retry;
            let time = self.backoff.after_failure(now, longest, longest, self.seed());
            self.state = if loss == Loss::Full { State::Full(time) } else { State::Refused(time) };
        } else {
            self.state = State::Failed(self.backoff.after_failure(now, policy.first_retry, most, self.seed()));
        }
    }

    /// When something is to be done about it without anything happening.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Wanted | State::NoRoute => None,
            State::Up(since) => (self.failures > 0 || self.again).then_some(since + LIVED),
            State::Pending(since) => Some(since + self.patience()),
            State::Failed(time) | State::Refused(time) | State::Full(time) => Some(time),
        }
    }

    /// How long after one join another is begun, whatever became of the first.
    fn patience(&self) -> Duration {
        if self.again && self.flying < MOST_FLYING { SECOND_JOIN } else { LONGEST_PENDING }
    }

    /// When something is to be done about its join.
    pub(super) fn next_look(&self) -> Option<Instant> {
        [self.due(), self.renewal()].into_iter().flatten().min()
    }

    /// Whether it may be begun now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        match self.state {
            State::Wanted | State::NoRoute => true,
            // Several of a kind may be wanted: the next waits until the first has proved sound.
            State::Up(since) => self.failures == 0 || since + LIVED <= now,
            State::Pending(_) | State::Failed(_) | State::Refused(_) | State::Full(_) => {
                self.due().is_none_or(|due| due <= now)
            }
        }
    }

    /// Whether it may be forgotten to make room: it is not on its way, and has no pause to keep.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.state != State::NoRoute && self.flying == 0 && self.is_ready(now)
    }

    /// Whether it failed and is not up, so that it takes no place from others: each time that it is tried,
    /// one that works would be closed for it.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0 && !self.is_up()
    }

    /// Whether it is to be forgotten. Failures are remembered for a while though nobody wants the path:
    /// whoever changes between two of them must not begin anew with each change.
    pub(super) fn is_stale(&self, wanted: bool, now: Instant) -> bool {
        match self.state {
            State::Up(since) => since + if self.is_flying() { LONGEST_PENDING } else { LIVED } <= now,
            State::NoRoute => false,
            // Whatever becomes of a join on its way must not look like one of the peer.
            State::Wanted => !wanted && self.flying == 0,
            State::Pending(since) => !wanted && since + LONGEST_PENDING <= now,
            State::Failed(due) | State::Refused(due) | State::Full(due) => !wanted && due + REMEMBERED <= now,
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
        let Self { local, if_index, remote, failures, lost, .. } = *self;
        plugin::Attempt { local, if_index, remote, state, failures, lost }
    }

    fn seed(&self) -> u64 {
        (u64::from(self.if_index.0) << 32) ^ u64::from(self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Reset;
    use crate::plugin::Health;
    use crate::types::AddressId;

    /// The end of a subflow that this host joined and the peer reset for that reason.
    fn reset(reason: u32, since: Instant) -> (event::Subflow, Subflow) {
        let (local, remote) = (SocketAddr::from(([10, 0, 1, 1], 40000)), SocketAddr::from(([10, 255, 0, 1], 5000)));
        let told = event::Subflow {
            token: Token(1),
            local,
            remote,
            local_id: AddressId(1),
            remote_id: AddressId(0),
            backup: false,
            if_index: None,
            error: Some(Errno(104)),
            reset: Some(Reset { reason, transient: false }),
        };
        let flow = Subflow {
            local: local.into(),
            remote: remote.into(),
            local_id: told.local_id,
            if_index: None,
            since,
            origin: Origin::Local,
            backup: Some(false),
            backup_by_peer: false,
            health: Health::Sound,
            closing: false,
            withdrawn: false,
            listed: false,
        };
        (told, flow)
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn closed(since: Instant) -> Trouble {
        Trouble { cause: Cause::Closed, since }
    }

    fn attempt() -> Attempt {
        Attempt::new(Token(9), IpAddr::from([10, 0, 0, 1]), IfIndex(2), SocketAddr::from(([192, 0, 2, 1], 80)))
    }

    /// The pauses after so many joins in a row that come to nothing.
    fn pauses(attempt: &mut Attempt, connection_since: Instant, mut now: Instant, times: usize) -> Vec<Duration> {
        let policy = PathPolicy::default();
        let mut pauses = Vec::new();
        for _ in 0..times {
            attempt.begun(false, now);
            attempt.failed(Loss::Early, connection_since, &policy, now);
            let due = attempt.due().unwrap();
            pauses.push(due - now);
            now = due;
        }
        pauses
    }

    #[test]
    fn what_was_lost_for_the_first_time_or_had_lived_comes_back_soon() {
        let (now, policy) = (Instant::now(), PathPolicy::default());
        let mut path = attempt();
        path.lost(Loss::Early, closed(now), now, &policy);
        assert_eq!(path.due(), Some(now + SOON));
        path.begun(false, now);
        path.succeeded(now);
        path.lost(Loss::Early, closed(now), now, &policy);
        assert!(path.due() >= Some(now + SECOND / 2), "the second time, it waits");
        path.begun(false, now);
        path.succeeded(now);
        path.lost(Loss::Lived, closed(now), now, &policy);
        assert_eq!(path.due(), Some(now + SOON));
    }

    #[test]
    fn pauses_double_up_to_ten_seconds_while_the_connection_is_young_and_to_minutes_later() {
        let now = Instant::now();
        let within =
            |pause: Duration, most: u64| pause <= SECOND * u32::try_from(most).unwrap() && pause * 4 >= SECOND * 3;
        let young = pauses(&mut attempt(), now, now, 8);
        for (pause, most) in young.iter().zip([1, 2, 4, 8, 10, 10, 10, 10]) {
            assert!(within(*pause, most) && *pause * 4 >= SECOND * 3 * most.try_into().unwrap(), "{young:?}");
        }
        let old = pauses(&mut attempt(), now, now + YOUNG, 12);
        assert!(old[11] > SECOND * 200 && old[11] <= SECOND * 300, "{old:?}");
    }

    #[test]
    fn after_a_link_came_back_there_is_a_second_try_soon_and_then_pauses_begin_anew() {
        let now = Instant::now();
        let mut path = attempt();
        pauses(&mut path, now, now, 6);
        path.forgive();
        assert!(path.is_ready(now));
        let again = pauses(&mut path, now, now, 2);
        assert_eq!(again[0], SECOND_TRY);
        assert!(again[1] <= SECOND, "{again:?}");
    }

    #[test]
    fn a_refusal_is_kept_for_minutes_also_on_a_young_connection() {
        let (now, policy) = (Instant::now(), PathPolicy::default());
        for loss in [Loss::Refused, Loss::Full] {
            let mut path = attempt();
            path.begun(false, now);
            path.failed(loss, now, &policy, now);
            assert!(path.due() >= Some(now + SECOND * 200), "{loss:?}");
            path.room_was_made(now);
            assert_eq!(path.due() == Some(now + SOON), loss == Loss::Full);
        }
    }

    #[test]
    fn of_several_joins_on_their_way_the_last_to_end_decides() {
        let (now, policy) = (Instant::now(), PathPolicy::default());
        let mut path = attempt();
        path.begun(true, now);
        path.forgive();
        path.begun(false, now);
        assert!(path.backup, "nothing tells which of them is established");
        path.failed(Loss::Early, now, &policy, now);
        assert!(path.is_pending());
        path.failed(Loss::Early, now, &policy, now);
        assert_eq!(path.due(), Some(now + SECOND_TRY));
    }

    #[test]
    fn a_loss_beside_a_join_on_its_way_makes_the_next_wait_for_that_to_prove_sound() {
        let (now, policy) = (Instant::now(), PathPolicy::default());
        let mut path = attempt();
        path.begun(false, now);
        path.lost(Loss::Early, closed(now), now, &policy);
        assert!(path.is_pending());
        path.succeeded(now);
        assert!(!path.is_settled() && !path.is_ready(now));
        assert!(path.is_ready(now + LIVED));
    }

    #[test]
    fn what_is_not_wanted_is_forgotten_when_nothing_would_be_lost_by_it() {
        let (now, policy) = (Instant::now(), PathPolicy::default());
        let mut path = attempt();
        assert!(path.is_stale(false, now) && !path.is_stale(true, now));
        path.begun(false, now);
        assert!(!path.is_stale(false, now));
        assert!(path.is_stale(false, now + LONGEST_PENDING));
        path.failed(Loss::Early, now, &policy, now);
        assert!(!path.is_stale(false, now + SECOND * 2), "it may be wanted again");
        assert!(path.is_stale(false, now + SECOND + REMEMBERED));
    }

    #[test]
    fn a_reset_for_data_that_does_not_fit_is_no_refusal_of_the_path() {
        let now = Instant::now();
        for (reason, loss) in [(0, Loss::Early), (1, Loss::Early), (2, Loss::Refused), (3, Loss::Refused)] {
            let (told, flow) = reset(reason, now);
            assert_eq!(Loss::of_subflow(&told, &flow, now), loss, "reason {reason}");
            assert_eq!(Loss::of_subflow(&told, &flow, now + LIVED), Loss::Lived, "reason {reason}");
        }
        assert_eq!(Loss::of_attempt(&reset(1, now).0), Loss::Refused);
    }
}
