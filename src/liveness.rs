//! Which subflows carry nothing although their links are up: judged by samples of their sockets, and
//! when the next samples are to be taken.
//!
//! A connection is looked at often while data moves on it, ever more seldom when none does, and then not
//! at all until somebody says that it is in use again: an idle host is not woken. Pure: samples and the
//! time come in, verdicts and one deadline go out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::connections::{End, TokenMap};
use crate::diag::Transfer;
use crate::types::Token;

/// How silent subflows are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LivenessPolicy {
    /// A subflow on which nothing is acknowledged for so long, and for longer than its round-trip time
    /// explains, is dead if another works; `None` looks for none.
    pub(crate) blackhole: Option<Duration>,
    /// Time between two looks at a connection on which data moves.
    pub(crate) poll: Duration,
    /// A link or address that came back is used again after that.
    pub(crate) return_delay: Duration,
}

impl Default for LivenessPolicy {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self { blackhole: Some(millis(100)), poll: millis(20), return_delay: Duration::ZERO }
    }
}

/// What the samples of a connection's subflows say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It carries data, or has none to carry.
    Fine,
    /// It is silent, and nothing tells whether that is its own fault.
    Doubtful,
    /// It is silent, and another is not.
    Silent,
}

/// A subflow whose verdict is another than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) local: End,
    pub(crate) remote: End,
    pub(crate) verdict: Verdict,
    /// For how long nothing came,
    pub(crate) silent: Duration,
    /// and how the transfer goes; if nothing waits for an acknowledgement, it is data of the peer that is missed.
    pub(crate) transfer: Transfer,
}

/// What follows from a complete look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) findings: SmallVec<[Finding; 1]>,
    /// Whether data is missing between what came must be asked, and told to
    /// [`missing`](Liveness::missing).
    pub(crate) asks_for_gap: bool,
}

/// As many connections are watched at a time. More could not be looked at as often as is of use; what fails
/// fails for many.
const MOST_WATCHED: usize = 256;
/// Another subflow that was silent for at most so long works.
const RECENTLY: Duration = Duration::from_millis(50);
/// A connection on which nothing moved for so long between two looks is not looked at any more.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// Whatever the samples say, nobody waits longer than that before a subflow is called silent.
const LONGEST_PATIENCE: Duration = Duration::from_secs(4);
/// One look at a subflow in so long, for the host as a whole: 5 us each make that a fortieth of a processor.
const LOOK_ONCE_IN: Duration = Duration::from_micros(200);
/// A subflow on which data came in so many looks in a row is in use by the peer.
const IN_USE: u8 = 8;
/// What was lost on the way and sent again may be lost again; the sender finds that out in so long, mostly.
const RECOVERY: Duration = Duration::from_millis(400);
/// A single segment is sent again only after two round trips and so long, as its acknowledgement may be delayed
/// (`TCP_RTO_MIN`; net/ipv4/tcp_output.c, `tcp_schedule_loss_probe`).
const SINGLE: Duration = Duration::from_millis(200);
/// A gap that stays for so long, while so many bytes come that do not fill it, is one that the silent subflow
/// would have to fill. A slow path brings what is missing in its own time, and the peer may have nothing else
/// to send meanwhile.
const GAP_STAYS: Duration = Duration::from_millis(60);
const GAP_PROVED: u64 = 64 << 10;

/// Every connection that is looked at.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    watched: TokenMap<Box<Watched>>,
    /// When connections are to be looked at; an entry counts if the connection says the same.
    queue: BinaryHeap<Reverse<(Instant, Token)>>,
    /// When the looks so far will be paid for.
    paid: Option<Instant>,
    /// From which on looks are at multiples of the time between two, those at several connections together.
    epoch: Option<Instant>,
    /// A path on which a subflow was found silent: the others on it were hastened to at that time.
    hastened: Option<(IpAddr, Instant)>,
}

#[derive(Debug)]
struct Watched {
    flows: SmallVec<[Flow; 2]>,
    due: Instant,
    looked: Instant,
    /// From one look to the next, if there is nothing else to do,
    pause: Duration,
    /// and as planned, with many others to be looked at.
    planned: Duration,
    /// Samples of the present look that have not come yet.
    open: u8,
    gap: Option<Gap>,
    /// Bytes that moved between the last two looks, per millisecond.
    rate: u64,
}

/// Up to where data came without a gap when that was asked.
#[derive(Clone, Copy, Debug)]
struct Gap {
    next: u64,
    since: Instant,
    /// Bytes that had come on all subflows.
    received: u64,
}

#[derive(Debug)]
struct Flow {
    local: End,
    remote: End,
    /// The last sample.
    transfer: Transfer,
    /// For how long nothing was acknowledged that should be, by this clock.
    silent: Duration,
    /// Looks in which data came, as far as they are counted.
    receiving: u8,
    /// For how long no segment came at all, by this clock.
    deaf: Duration,
    /// Segments were missing when the last one came: the peer sends them again in its own time.
    lossy: bool,
    /// It is part of the present look.
    present: bool,
    /// It was part of an earlier one.
    known: bool,
    moved: u64,
    verdict: Verdict,
    /// For how long it had been silent when it was called so.
    called: Duration,
}

impl Liveness {
    /// A connection is in use, or may be: it is looked at soon, and often while data moves.
    pub(crate) fn watch(&mut self, token: Token, policy: &LivenessPolicy, now: Instant) {
        let due = now + policy.poll;
        let fresh = || Watched {
            flows: SmallVec::new(),
            due,
            looked: now,
            pause: policy.poll,
            planned: policy.poll,
            open: 0,
            gap: None,
            rate: 0,
        };
        let known = self.watched.contains_key(&token);
        if !known && self.is_full() {
            return;
        }
        let watched = self.watched.entry(token).or_insert_with(|| Box::new(fresh()));
        watched.pause = policy.poll;
        if watched.open == 0 && (!known || watched.due > due) {
            watched.due = due;
            self.queue.push(Reverse((due, token)));
        }
    }

    /// The connection is gone, or has nothing to be compared.
    pub(crate) fn forget(&mut self, token: Token) {
        if self.watched.remove(&token).is_some() && self.watched.is_empty() {
            *self = Self::default();
        }
    }

    /// Whether no more connections can be watched: others are asked now and then whether data moves on them.
    pub(crate) fn is_full(&self) -> bool {
        self.watched.len() >= MOST_WATCHED
    }

    pub(crate) fn is_watched(&self, token: Token) -> bool {
        self.watched.contains_key(&token)
    }

    /// Bytes per millisecond that moved on the connection lately.
    pub(crate) fn rate(&self, token: Token) -> u64 {
        self.watched.get(&token).map_or(0, |watched| watched.rate)
    }

    /// When there is a connection to be looked at.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((time, _))| *time)
    }

    /// A connection to be looked at now: its subflows are to be sampled, as many as are then told to
    /// [`begin`](Self::begin).
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<Token> {
        while let Some(Reverse((time, token))) = self.queue.peek().copied().filter(|Reverse((time, _))| *time <= now) {
            self.queue.pop();
            if self.watched.get(&token).is_some_and(|watched| watched.due == time && watched.open == 0) {
                return Some(token);
            }
        }
        None
    }

    /// A look begins, of so many samples.
    pub(crate) fn begin(&mut self, token: Token, samples: usize) {
        let Some(watched) = self.watched.get_mut(&token) else { return };
        watched.open = u8::try_from(samples).unwrap_or(u8::MAX);
        watched.flows.iter_mut().for_each(|flow| flow.present = false);
        if samples == 0 {
            self.forget(token);
        }
    }

    /// A sample of a subflow came.
    pub(crate) fn sampled(&mut self, token: Token, (local, remote): (SocketAddr, SocketAddr), transfer: Transfer) {
        let Some(watched) = self.watched.get_mut(&token) else { return };
        let (local, remote) = (End::from(local), End::from(remote));
        let place = watched.flows.iter().position(|flow| flow.local == local && flow.remote == remote);
        match place.and_then(|place| watched.flows.get_mut(place)) {
            Some(flow) => flow.sampled(transfer),
            None => watched.flows.push(Flow::new(local, remote, transfer)),
        }
    }

    /// One question of the present look is answered, or will not be; with the last, the look is complete.
    pub(crate) fn answered(&mut self, token: Token, policy: &LivenessPolicy, now: Instant) -> Option<Look> {
        let watched = self.watched.get_mut(&token)?;
        watched.open = watched.open.saturating_sub(1);
        if watched.open > 0 {
            return None;
        }
        watched.flows.retain(|flow| flow.present);
        let look = watched.judge(policy, now);
        let found = look.findings.iter().find(|finding| finding.verdict == Verdict::Silent);
        let path = found.map(|finding| finding.local.ip());
        self.plan(token, policy, now);
        if let Some(address) = path {
            self.hasten(token, address, now);
        }
        Some(look)
    }

    /// Plans the next look.
    fn plan(&mut self, token: Token, policy: &LivenessPolicy, now: Instant) {
        let Some(watched) = self.watched.get_mut(&token) else { return };
        watched.pause = if watched.is_busy() { policy.poll } else { watched.pause * 2 };
        if watched.pause > LONGEST_PAUSE.max(policy.poll) {
            // Whoever was told of a verdict is to be told of the next.
            if watched.flows.iter().all(|flow| flow.verdict == Verdict::Fine) {
                return self.forget(token);
            }
            watched.pause = LONGEST_PAUSE.max(policy.poll);
        }
        let paid = self.paid.map_or(now, |paid| paid.max(now));
        let due = (now + watched.pause).max(paid);
        watched.due = together(self.epoch.get_or_insert(now), due, now, policy.poll);
        watched.planned = watched.due.saturating_duration_since(now);
        self.queue.push(Reverse((watched.due, token)));
        let looks = u32::try_from(watched.flows.len()).unwrap_or(u32::MAX);
        self.paid = Some(paid + LOOK_ONCE_IN * looks);
    }

    /// What is silent on a path may be so for other connections too: they are looked at at once.
    fn hasten(&mut self, found: Token, address: IpAddr, now: Instant) {
        if self.hastened.is_some_and(|(hastened, at)| hastened == address && now < at + RECENTLY) {
            return;
        }
        self.hastened = Some((address, now));
        for (token, watched) in self.watched.iter_mut().filter(|(token, _)| **token != found) {
            let concerned = watched.flows.iter().any(|flow| flow.local.ip() == address && flow.is_waiting());
            if concerned && watched.open == 0 && watched.due > now {
                watched.due = now;
                self.queue.push(Reverse((now, *token)));
            }
        }
    }

    /// What comes on the connection ends at that number, behind which something is missing or not: the
    /// subflows that are silent because of it.
    pub(crate) fn missing(
        &mut self,
        token: Token,
        next: u64,
        policy: &LivenessPolicy,
        now: Instant,
    ) -> SmallVec<[Finding; 1]> {
        let Some(watched) = self.watched.get_mut(&token) else { return SmallVec::new() };
        let received = watched.flows.iter().map(|flow| flow.transfer.received).sum();
        match watched.gap.filter(|gap| gap.next == next) {
            Some(gap) if gap.since + GAP_STAYS <= now && gap.received + GAP_PROVED <= received => {
                watched.judge_receivers(policy)
            }
            Some(_) => SmallVec::new(),
            None => {
                watched.gap = Some(Gap { next, since: now, received });
                SmallVec::new()
            }
        }
    }
}

/// The last multiple of `poll` before `due` that is not over.
fn together(epoch: &Instant, due: Instant, now: Instant, poll: Duration) -> Instant {
    let past = due.saturating_duration_since(*epoch).as_nanos() % poll.as_nanos().max(1);
    let past = Duration::from_nanos(u64::try_from(past).unwrap_or_default());
    let before = due.checked_sub(past).unwrap_or(due);
    if before > now { before } else { due }
}

impl Watched {
    fn is_busy(&self) -> bool {
        self.flows.iter().any(|flow| flow.is_waiting() || flow.moved > 0 || !flow.known)
    }

    fn judge(&mut self, policy: &LivenessPolicy, now: Instant) -> Look {
        let elapsed = now.saturating_duration_since(self.looked);
        self.looked = now;
        // Who looks late does not know when what happened meanwhile did: the machine may have stood still.
        let counted = elapsed.min(self.planned + policy.poll);
        self.flows.iter_mut().for_each(|flow| flow.count(counted, policy.poll));
        let moved: u64 = self.flows.iter().map(|flow| flow.moved).sum();
        self.rate = moved / u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut look = Look::default();
        let Some(blackhole) = policy.blackhole else { return look };
        for place in 0..self.flows.len() {
            let works = |(other, flow): (usize, &Flow)| other != place && flow.silent <= RECENTLY;
            let another_works = self.flows.iter().enumerate().any(works);
            let Some(flow) = self.flows.get_mut(place) else { continue };
            let stuck = flow.silent >= flow.patience(blackhole) || flow.stays_silent();
            let verdict = match (stuck, another_works) {
                (false, _) if flow.stays_deaf() => flow.verdict,
                (false, _) => Verdict::Fine,
                (true, false) => Verdict::Doubtful,
                (true, true) => Verdict::Silent,
            };
            look.findings.extend(flow.is_told(verdict));
        }
        look.asks_for_gap = self.flows.iter().any(|flow| flow.may_have_stopped(blackhole / 4)) && self.receives();
        if !look.asks_for_gap {
            self.gap = None;
        }
        look
    }

    /// Whether data comes on some subflow and finds room: what an application does not read waits there.
    fn receives(&self) -> bool {
        let comes = |flow: &Flow| flow.receiving > 0 && flow.transfer.last_data <= RECENTLY;
        self.flows.iter().any(comes) && self.flows.iter().all(|flow| flow.transfer.unread == 0)
    }

    /// Data is missing: the subflows that were in use until it was.
    fn judge_receivers(&mut self, policy: &LivenessPolicy) -> SmallVec<[Finding; 1]> {
        let Some(blackhole) = policy.blackhole.filter(|_| self.receives()) else { return SmallVec::new() };
        let silent = self.flows.iter_mut().filter(|flow| flow.may_have_stopped(flow.receiver_patience(blackhole)));
        silent.filter_map(|flow| flow.is_told(Verdict::Silent)).collect()
    }
}

impl Flow {
    fn new(local: End, remote: End, transfer: Transfer) -> Self {
        Self {
            local,
            remote,
            transfer,
            silent: Duration::ZERO,
            receiving: 0,
            deaf: Duration::ZERO,
            lossy: false,
            present: true,
            known: false,
            moved: 0,
            verdict: Verdict::Fine,
            called: Duration::ZERO,
        }
    }

    fn sampled(&mut self, transfer: Transfer) {
        let before = std::mem::replace(&mut self.transfer, transfer);
        let received = transfer.received.saturating_sub(before.received);
        self.moved = received.saturating_add(transfer.acknowledged.saturating_sub(before.acknowledged));
        self.receiving = match received {
            0 if transfer.last_data > LONGEST_PATIENCE => 0,
            0 => self.receiving,
            _ => self.receiving.saturating_add(1),
        };
        if transfer.segments != before.segments {
            self.deaf = Duration::ZERO;
            let ordered = received > 0 && transfer.out_of_order == before.out_of_order;
            self.lossy = !ordered && (self.lossy || transfer.out_of_order != before.out_of_order);
        }
        if before.unacknowledged == 0 || transfer.acknowledged != before.acknowledged {
            self.silent = Duration::ZERO;
        }
        (self.present, self.known) = (true, true);
    }

    fn is_waiting(&self) -> bool {
        self.transfer.unacknowledged > 0
    }

    /// Counts the time since the last look as silent, if it was. What began in between was silent for as long
    /// as between two looks at most; and any acknowledgement, of whatever, shows that the path works.
    fn count(&mut self, counted: Duration, poll: Duration) {
        self.deaf += counted;
        if !self.is_waiting() || self.is_unwelcome() {
            self.silent = Duration::ZERO;
            return;
        }
        let counted = if self.silent.is_zero() { counted.min(poll) } else { counted };
        self.silent = (self.silent + counted).min(self.transfer.last_acknowledgement);
    }

    /// How long an acknowledgement may take: longer than the round-trip time and what waits before it on the
    /// way explain.
    fn patience(&self, blackhole: Duration) -> Duration {
        let Transfer { round_trip, deviation, timeout, delivery_rate, outstanding, .. } = self.transfer;
        // A path of which nothing is known yet may be slow.
        let drain = u64::from(outstanding).saturating_mul(2_000_000).checked_div(delivery_rate);
        let drain = drain.map_or(timeout, Duration::from_micros);
        let usual = (round_trip * 2 + deviation * 4).max(drain);
        let usual = usual + self.slack();
        blackhole.max(usual.min(LONGEST_PATIENCE))
    }

    /// It was called silent and nothing was acknowledged since, however patient one might be by now.
    fn stays_silent(&self) -> bool {
        self.verdict != Verdict::Fine && !self.called.is_zero() && self.silent >= self.called
    }

    /// It was called silent for want of data, and none came since.
    fn stays_deaf(&self) -> bool {
        self.verdict != Verdict::Fine && self.called.is_zero() && self.moved == 0
    }

    /// The peer has said that it has no room for what was sent: its silence is not the path's.
    fn is_unwelcome(&self) -> bool {
        self.transfer.window.is_some_and(|window| window < self.transfer.outstanding)
    }

    /// What the kernel's own timers may take before anything is acknowledged on a path that works.
    fn slack(&self) -> Duration {
        let Transfer { recovering, unacknowledged, outstanding, segment, window, round_trip, .. } = self.transfer;
        let is_full = window.is_some_and(|window| window < outstanding.saturating_add(segment.saturating_mul(2)));
        if recovering || is_full {
            // What is sent again may be lost again, or find no room again, and then the kernel waits for its timer.
            RECOVERY
        } else if unacknowledged <= 1 {
            // On a path without queues nothing should be lost: there it is not waited for.
            (SINGLE + round_trip).min(round_trip * 5)
        } else {
            Duration::ZERO
        }
    }

    fn receiver_patience(&self, blackhole: Duration) -> Duration {
        let Transfer { round_trip, receiver_round_trip, .. } = self.transfer;
        let usual = round_trip.max(receiver_round_trip) * 3;
        let usual = if self.lossy { usual + RECOVERY } else { usual };
        blackhole.max(usual.min(LONGEST_PATIENCE))
    }

    /// Data came for a while, and nothing at all for that long.
    fn may_have_stopped(&self, time: Duration) -> bool {
        self.receiving >= IN_USE && self.deaf.min(self.transfer.last_data) >= time
    }

    /// The verdict, if that is news.
    fn is_told(&mut self, verdict: Verdict) -> Option<Finding> {
        let news = std::mem::replace(&mut self.verdict, verdict) != verdict;
        if news {
            self.called = self.silent;
        }
        let Self { local, remote, transfer, .. } = *self;
        let silent = if self.is_waiting() { self.silent } else { self.deaf };
        news.then_some(Finding { local, remote, verdict, silent, transfer })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TOKEN: Token = Token(1);
    const A: &str = "10.0.0.1:40000";
    const B: &str = "10.0.1.1:40001";

    fn millis(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// One connection whose subflows are sampled at every look.
    struct Bench {
        liveness: Liveness,
        policy: LivenessPolicy,
        now: Instant,
        flows: Vec<(&'static str, Transfer)>,
        received: u64,
        looks: u32,
    }

    /// A fast path on which nothing waits.
    fn idle() -> Transfer {
        let (round_trip, deviation) = (millis(10), millis(5));
        let (timeout, segment, delivery_rate) = (millis(210), 1400, 10_000_000);
        Transfer {
            round_trip,
            deviation,
            timeout,
            segment,
            delivery_rate,
            last_data: millis(60_000),
            ..idle_for(60_000)
        }
    }

    fn idle_for(time: u64) -> Transfer {
        Transfer { last_acknowledgement: millis(time), ..Transfer::default() }
    }

    impl Bench {
        fn new(flows: &[&'static str]) -> Self {
            let (policy, now) = (LivenessPolicy::default(), Instant::now());
            let mut liveness = Liveness::default();
            liveness.watch(TOKEN, &policy, now);
            let flows = flows.iter().map(|local| (*local, idle())).collect();
            Self { liveness, policy, now, flows, received: 0, looks: 0 }
        }

        fn change(&mut self, local: &str, change: impl Fn(&mut Transfer)) {
            let flows = self.flows.iter_mut().filter(|(known, _)| *known == local);
            flows.for_each(|(_, transfer)| change(transfer));
        }

        /// The next look, however late, and what it found of which subflow.
        fn look(&mut self) -> Vec<(String, Verdict)> {
            if self.liveness.next_due(self.now).is_none() {
                return Vec::new();
            }
            self.looks += 1;
            self.liveness.begin(TOKEN, self.flows.len());
            let remote: SocketAddr = "192.0.2.1:80".parse().unwrap();
            let mut found = None;
            for (local, transfer) in self.flows.clone() {
                self.liveness.sampled(TOKEN, (local.parse().unwrap(), remote), transfer);
                found = self.liveness.answered(TOKEN, &self.policy, self.now);
            }
            let look = found.unwrap();
            let mut findings = look.findings;
            if look.asks_for_gap {
                findings.extend(self.liveness.missing(TOKEN, self.received, &self.policy, self.now));
            }
            findings.iter().map(|finding| (finding.local.told().to_string(), finding.verdict)).collect()
        }

        /// Looks whenever one is due for so long, while `happens` says what became of the paths in that many
        /// milliseconds; the time of the first finding since.
        fn run(&mut self, time: u64, happens: impl Fn(&mut Self, u64)) -> Option<(u64, String, Verdict)> {
            let begun = self.now;
            while self.now < begun + millis(time) {
                let Some(due) = self.liveness.deadline() else { break };
                let passed = due.max(self.now) - self.now;
                self.now += passed;
                happens(self, u64::try_from(passed.as_millis()).unwrap());
                if let Some((local, verdict)) = self.look().pop() {
                    return Some((u64::try_from((self.now - begun).as_millis()).unwrap(), local, verdict));
                }
            }
            None
        }

        /// Data is acknowledged on a subflow.
        fn moves(&mut self, local: &str) {
            self.change(local, |transfer| {
                (transfer.unacknowledged, transfer.outstanding) = (5, 7000);
                transfer.acknowledged += 10_000;
                transfer.last_acknowledgement = Duration::ZERO;
            });
        }

        /// Nothing is, of what waits.
        fn is_stuck(&mut self, local: &str, time: u64) {
            self.change(local, |transfer| {
                transfer.unacknowledged = transfer.unacknowledged.max(1);
                transfer.outstanding = transfer.outstanding.max(1000);
                transfer.last_acknowledgement += millis(time);
            });
        }

        /// Data comes on a subflow.
        fn receives(&mut self, local: &str) {
            self.change(local, |transfer| {
                transfer.received += 30_000;
                transfer.segments += 21;
                transfer.last_data = millis(1);
            });
        }
    }

    fn silent(local: &str) -> impl Fn(Option<(u64, String, Verdict)>, u64, u64) {
        let local = local.to_owned();
        move |found, from, to| {
            let (time, found, verdict) = found.unwrap();
            assert_eq!((found, verdict), (local.clone(), Verdict::Silent));
            assert!((from..=to).contains(&time), "after {time} ms");
        }
    }

    #[test]
    fn a_subflow_without_acknowledgements_is_silent_after_a_tenth_of_a_second_if_another_works() {
        for works in [true, false] {
            let mut bench = Bench::new(&[A, B]);
            bench.run(1000, |bench, _| [A, B].iter().for_each(|local| bench.moves(local)));
            let found = bench.run(1000, |bench, time| {
                bench.is_stuck(A, time);
                if works {
                    bench.moves(B);
                }
            });
            silent(A)(found, 100, 120);
        }
    }

    #[test]
    fn what_just_began_after_a_pause_is_not_silent_yet() {
        let mut bench = Bench::new(&[A, B]);
        bench.policy.blackhole = Some(millis(300));
        assert_eq!(bench.run(2000, |_, _| ()), None);
        // Whatever was acknowledged last was a minute ago.
        let found = bench.run(3000, |bench, time| bench.is_stuck(A, time));
        // The pause before was as long as that.
        silent(A)(found, 280, 2560 + 300);
        assert!(bench.liveness.watched[&TOKEN].pause == bench.policy.poll);
    }

    #[test]
    fn alone_or_when_nothing_works_a_silent_subflow_is_doubtful_until_something_does() {
        let mut bench = Bench::new(&[A]);
        bench.run(1000, |bench, _| bench.moves(A));
        let found = bench.run(1000, |bench, time| bench.is_stuck(A, time)).unwrap();
        assert_eq!((found.1.as_str(), found.2), (A, Verdict::Doubtful));
        bench.flows.push((B, idle()));
        silent(A)(bench.run(1000, |bench, time| bench.is_stuck(A, time)), 0, 40);

        let mut both = Bench::new(&[A, B]);
        both.run(1000, |bench, _| [A, B].iter().for_each(|local| bench.moves(local)));
        let stuck = |bench: &mut Bench, time| [A, B].iter().for_each(|local| bench.is_stuck(local, time));
        assert_eq!(both.run(1000, stuck).unwrap().2, Verdict::Doubtful);
        let found = both.run(1000, |bench, _| [A, B].iter().for_each(|local| bench.moves(local))).unwrap();
        assert_eq!(found.2, Verdict::Fine);
    }

    #[test]
    fn what_is_silent_stays_so_until_something_is_acknowledged() {
        let mut bench = Bench::new(&[A]);
        bench.run(1000, |bench, _| bench.moves(A));
        assert_eq!(bench.run(200, |bench, time| bench.is_stuck(A, time)).unwrap().2, Verdict::Doubtful);
        // The timer of the kernel has gone off.
        let stuck = |bench: &mut Bench, time| {
            bench.is_stuck(A, time);
            bench.change(A, |transfer| transfer.recovering = true);
        };
        assert_eq!(bench.run(300, stuck), None);
        // Something is, and more waits.
        assert_eq!(bench.run(300, |bench, _| bench.moves(A)).unwrap().2, Verdict::Fine);
        bench.flows.push((B, idle()));
        assert_eq!(bench.run(80, |bench, time| bench.is_stuck(A, time)), None);
    }

    #[test]
    fn any_acknowledgement_shows_that_a_path_works() {
        let mut bench = Bench::new(&[A, B]);
        let found = bench.run(5000, |bench, _| {
            bench.change(A, |transfer| {
                (transfer.unacknowledged, transfer.last_acknowledgement) = (5, millis(90));
            });
        });
        assert_eq!(found, None);
    }

    #[test]
    fn a_slow_path_is_given_the_time_that_it_takes() {
        let slow = |change: fn(&mut Transfer)| {
            let mut bench = Bench::new(&[A, B]);
            bench.run(1000, |bench, _| [A, B].iter().for_each(|local| bench.moves(local)));
            bench.change(A, change);
            bench.run(6000, |bench, time| bench.is_stuck(A, time)).unwrap().0
        };
        assert!(slow(|transfer| transfer.round_trip = millis(300)) >= 600);
        assert!(slow(|transfer| transfer.deviation = millis(100)) >= 400);
        assert!(slow(|transfer| transfer.recovering = true) >= 400);
        let single = slow(|transfer| (transfer.unacknowledged, transfer.round_trip) = (1, millis(60)));
        assert!(single >= 380, "{single}");
        let unloaded = slow(|transfer| (transfer.unacknowledged, transfer.round_trip) = (1, millis(2)));
        assert!(unloaded <= 120, "{unloaded}");
        assert!((400..=600).contains(&slow(|transfer| transfer.window = Some(7000))), "the peer has no room for more");
        // 5 segments at 20 kB/s.
        assert!(slow(|transfer| transfer.delivery_rate = 20_000) >= 700);
        assert!(slow(|transfer| (transfer.delivery_rate, transfer.timeout) = (0, millis(250))) >= 250);
        assert!(slow(|transfer| (transfer.delivery_rate, transfer.outstanding) = (1, 65_535)) <= 5000, "not for ever");
        let small = slow(|transfer| (transfer.unacknowledged, transfer.window) = (75, Some(64_512)));
        assert!(small <= 120, "many small segments are little: {small}");
    }

    #[test]
    fn a_look_that_comes_late_counts_as_one_in_time() {
        let mut bench = Bench::new(&[A, B]);
        bench.run(1000, |bench, _| bench.moves(A));
        assert_eq!(bench.run(40, |bench, time| bench.is_stuck(A, time)), None);
        // The machine stood still, and what waited in queues is not taken in yet.
        bench.now += millis(5000);
        bench.is_stuck(A, 5000);
        assert_eq!(bench.look(), []);
        assert_eq!(bench.run(40, |bench, _| bench.moves(A)), None);
    }

    #[test]
    fn an_idle_connection_is_looked_at_ever_more_seldom_and_then_not_at_all() {
        let mut bench = Bench::new(&[A, B]);
        bench.run(100_000, |_, _| ());
        assert!((6..=12).contains(&bench.looks), "{}", bench.looks);
        assert!(bench.liveness.deadline().is_none() && !bench.liveness.is_watched(TOKEN));
        bench.liveness.watch(TOKEN, &bench.policy, bench.now);
        let busy = bench.looks;
        bench.run(1000, |bench, _| bench.moves(A));
        assert!(bench.looks - busy >= 45, "{} looks in a second", bench.looks - busy);
        assert!(bench.liveness.rate(TOKEN) > 100);
    }

    #[test]
    fn of_many_connections_so_many_are_looked_at_in_a_second() {
        let (mut liveness, policy) = (Liveness::default(), LivenessPolicy::default());
        let begun = Instant::now();
        let connections = 2000;
        (0..connections).for_each(|n| liveness.watch(Token(n), &policy, begun));
        let (mut now, mut looks, mut moved) = (begun, 0, 0);
        while now < begun + millis(2000) {
            now = liveness.deadline().unwrap().max(now);
            let token = liveness.next_due(now).unwrap();
            liveness.begin(token, 1);
            moved += 1000;
            let transfer = Transfer { acknowledged: moved, ..idle() };
            liveness.sampled(token, (A.parse().unwrap(), B.parse().unwrap()), transfer);
            liveness.answered(token, &policy, now);
            looks += 1;
        }
        assert!((9000..=13_000).contains(&looks), "{looks}");
        (0..connections).for_each(|n| liveness.forget(Token(n)));
        assert!(liveness.queue.is_empty() && liveness.deadline().is_none());
    }

    #[test]
    fn busy_connections_are_looked_at_together() {
        let (mut liveness, policy, begun) = (Liveness::default(), LivenessPolicy::default(), Instant::now());
        (0..10).for_each(|n| liveness.watch(Token(n), &policy, begun + millis(n.into())));
        let (mut now, mut wakes, mut moved) = (begun, BTreeSet::new(), 0);
        while now < begun + millis(1000) {
            now = liveness.deadline().unwrap().max(now);
            wakes.insert(now);
            let Some(token) = liveness.next_due(now) else { continue };
            liveness.begin(token, 1);
            moved += 1000;
            let transfer = Transfer { acknowledged: moved, ..idle() };
            liveness.sampled(token, (A.parse().unwrap(), B.parse().unwrap()), transfer);
            liveness.answered(token, &policy, now);
        }
        assert!(wakes.len() <= 70, "{} wakes in a second", wakes.len());
    }

    #[test]
    fn what_is_silent_on_a_path_has_the_others_on_it_looked_at_at_once() {
        let mut bench = Bench::new(&[A, B]);
        bench.run(1000, |bench, _| bench.moves(A));
        let other = Token(2);
        bench.liveness.watch(other, &bench.policy, bench.now);
        let seldom = millis(3000);
        let flow = Flow::new(
            "10.0.0.1:50000".parse::<SocketAddr>().unwrap().into(),
            "192.0.2.1:80".parse::<SocketAddr>().unwrap().into(),
            Transfer { unacknowledged: 1, ..idle() },
        );
        let watched = bench.liveness.watched.get_mut(&other).unwrap();
        watched.flows.push(flow);
        watched.due = bench.now + seldom;
        silent(A)(bench.run(1000, |bench, time| bench.is_stuck(A, time)), 100, 120);
        assert_eq!(bench.liveness.watched[&other].due, bench.now);
        assert_eq!(bench.liveness.next_due(bench.now), Some(other));
    }

    #[test]
    fn a_path_on_which_the_peer_fell_silent_is_found_by_what_is_missing() {
        let mut bench = Bench::new(&[A, B]);
        bench.run(1000, |bench, _| {
            [A, B].iter().for_each(|local| bench.receives(local));
            bench.received += 60_000;
        });
        let found = bench.run(1000, |bench, time| {
            bench.change(A, |transfer| transfer.last_data += millis(time));
            bench.receives(B);
        });
        silent(A)(found, 95, 140);
    }

    #[test]
    fn a_path_that_lost_segments_is_given_time_to_recover() {
        let silent_after = |loses: bool| {
            let mut bench = Bench::new(&[A, B]);
            bench.run(1000, |bench, _| {
                [A, B].iter().for_each(|local| bench.receives(local));
                bench.received += 60_000;
            });
            if loses {
                bench.run(20, |bench, _| {
                    bench.change(A, |transfer| (transfer.segments, transfer.out_of_order) = (10_000, 3));
                });
            }
            let found = bench.run(2000, |bench, time| {
                bench.change(A, |transfer| transfer.last_data += millis(time));
                bench.receives(B);
            });
            found.unwrap().0
        };
        assert!(silent_after(false) < 140 && silent_after(true) >= 400);
    }

    #[test]
    fn whatever_segment_comes_shows_that_the_peer_is_heard() {
        let mut bench = Bench::new(&[A, B]);
        bench.run(1000, |bench, _| {
            [A, B].iter().for_each(|local| bench.receives(local));
            bench.received += 60_000;
        });
        let found = bench.run(2000, |bench, time| {
            bench.change(A, |transfer| {
                transfer.last_data += millis(time);
                transfer.segments += 1;
            });
            bench.receives(B);
        });
        assert_eq!(found, None);
    }

    #[test]
    fn a_path_that_the_peer_does_not_use_any_more_is_not_silent() {
        type Happens = fn(&mut Bench);
        // Nothing is missing; or nothing came since something was, or little, as on a slow path.
        // Or this end's application does not read.
        let cases: [Happens; 4] = [
            |bench| {
                bench.receives(B);
                bench.change(B, |transfer| transfer.unread = 1000);
            },
            |bench| {
                bench.receives(B);
                bench.received += 30_000;
            },
            |bench| bench.change(B, |transfer| transfer.last_data = millis(10)),
            |bench| {
                bench.change(B, |transfer| {
                    transfer.last_data = millis(10);
                    transfer.received += 1000;
                    transfer.segments += 1;
                });
                bench.received += u64::from(bench.looks % 20 == 0);
            },
        ];
        for happens in cases {
            let mut bench = Bench::new(&[A, B]);
            bench.run(1000, |bench, _| {
                [A, B].iter().for_each(|local| bench.receives(local));
                bench.received += 60_000;
            });
            let found = bench.run(3000, |bench, time| {
                bench.change(A, |transfer| transfer.last_data += millis(time));
                bench.moves(B);
                happens(bench);
            });
            assert_eq!(found, None);
        }
    }

    #[test]
    fn the_silence_of_a_peer_that_has_no_room_is_not_held_against_the_path() {
        let mut bench = Bench::new(&[A, B]);
        bench.run(1000, |bench, _| [A, B].iter().for_each(|local| bench.moves(local)));
        bench.change(A, |transfer| transfer.window = Some(0));
        assert_eq!(bench.run(20_000, |bench, time| bench.is_stuck(A, time)), None);
    }

    #[test]
    fn so_many_connections_are_watched_and_another_once_one_of_them_is_forgotten() {
        let (mut liveness, policy, now) = (Liveness::default(), LivenessPolicy::default(), Instant::now());
        let tokens = || (0..).take(MOST_WATCHED + 1).map(Token);
        tokens().for_each(|token| liveness.watch(token, &policy, now));
        let last = tokens().last().unwrap();
        assert!(liveness.is_full() && !liveness.is_watched(last));
        liveness.forget(Token(3));
        liveness.watch(last, &policy, now);
        assert!(liveness.is_full() && liveness.is_watched(last));
    }

    #[test]
    fn nothing_is_looked_for_where_that_is_switched_off() {
        let mut bench = Bench::new(&[A, B]);
        bench.policy.blackhole = None;
        let found = bench.run(3000, |bench, time| {
            bench.is_stuck(A, time);
            bench.moves(B);
        });
        assert_eq!(found, None);
    }
}
