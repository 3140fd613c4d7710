//! Whether the daemon does what it is there for: now and then every socket to the kernel is asked something
//! that costs nothing. One that does not answer is opened anew, and the service manager's watchdog is fed
//! only when all have answered.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::Daemon;
use super::mend::{self, Which};
use super::watch::Watch;
use crate::sys::{self, Netlink};
use crate::wire::{self, route};

/// How often they are asked where no watchdog wants it more often: a little less often than the engine looks at
/// endpoints, so that an idle host is not woken for this.
const PERIOD: Duration = Duration::from_secs(30);
/// `RTNLGRP_NEXTHOP`.
const NEXTHOP: u32 = 32;
/// A watchdog that wants to be fed more often than this would take more than it can tell.
const SHORTEST: Duration = Duration::from_millis(10);
/// An answer that has not come after this does not come: the kernel answers while it is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of the sockets' health.
#[derive(Debug)]
pub(super) struct Health {
    watchdog: bool,
    period: Duration,
    /// When to ask next.
    next: Instant,
    /// When they were asked, until all have answered.
    asked: Option<Instant>,
    /// Those that were asked and of which nothing has been heard since, a bit each.
    silent: u8,
    /// All have answered, and the watchdog does not know.
    sound: bool,
    /// Something else was heard since that was last asked.
    news: bool,
}

impl Health {
    /// With the watchdog of the service manager, if there is one.
    pub(super) fn new(now: Instant) -> Self {
        Self::fed(sd_notify::watchdog_enabled().filter(|time| !time.is_zero()), now)
    }

    fn fed(watchdog: Option<Duration>, now: Instant) -> Self {
        let period = watchdog.map_or(PERIOD, |time| PERIOD.min(time / 2).max(SHORTEST));
        Self {
            watchdog: watchdog.is_some(),
            period,
            next: now + period,
            asked: None,
            silent: 0,
            sound: false,
            news: false,
        }
    }

    /// A datagram of the kernel's came: whatever it is, the socket works.
    pub(super) fn heard(&mut self, which: Which) {
        // What was asked for is no news.
        self.news |= self.silent & which.bit() == 0;
        self.silent &= !which.bit();
    }

    /// Whether something has been heard that was no answer to that, since the last call.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Something is odd: do not wait until it is time.
    pub(super) fn look_soon(&mut self, now: Instant) {
        self.next = now;
    }

    /// One of them is another now: whatever was asked, they are asked anew.
    pub(super) fn begin_again(&mut self, now: Instant) {
        (self.asked, self.silent, self.next) = (None, 0, now);
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        Some(self.asked.map_or(self.next, |asked| asked + self.patience()))
    }

    fn patience(&self) -> Duration {
        PATIENCE.min(self.period / 2)
    }

    /// Whether it is time to ask. It may be done sooner when the loop turns anyway, so that it need not for this.
    fn is_time(&self, now: Instant) -> bool {
        self.asked.is_none() && now + self.period / 2 >= self.next
    }

    fn ask(&mut self, which: u8, now: Instant) {
        (self.asked, self.silent, self.next) = (Some(now), which, now + self.period);
    }

    /// Those that did not answer in time, but for what is `unread` at present. When all did, that is said to the
    /// watchdog.
    fn check(&mut self, unread: u8, now: Instant) -> u8 {
        let Some(asked) = self.asked else { return 0 };
        let overdue = self.silent & !unread;
        if self.silent == 0 {
            (self.asked, self.sound) = (None, self.watchdog);
        } else if asked + self.patience() > now {
            return 0;
        } else if overdue == 0 {
            self.asked = Some(now);
        } else {
            (self.asked, self.silent) = (None, 0);
        }
        overdue
    }
}

impl Daemon {
    /// Asks the sockets if it is time, draws the consequences if one does not answer, and feeds the watchdog if
    /// all do.
    pub(super) fn look_at_health(&mut self, now: Instant) {
        // While one is to be opened anew there is nothing to tell.
        if self.mending.due().is_some() {
            return;
        }
        let unread = if self.engine.holds_events() { Which::Events.bit() } else { 0 };
        let silent = self.health.check(unread, now);
        for which in Which::ALL.into_iter().filter(|which| silent & which.bit() != 0) {
            self.broke(which, &"it does not answer", now);
        }
        if self.health.sound && !self.notifier.is_waiting() {
            self.health.sound = false;
            self.notifier.tell(&[NotifyState::Watchdog]);
        }
        if silent == 0 && self.health.is_time(now) {
            self.ask_all(now);
        }
    }

    fn ask_all(&mut self, now: Instant) {
        let mut asked = 0;
        for which in Which::ALL {
            if self.ask(which, now) {
                asked |= which.bit();
            }
        }
        self.health.ask(asked, now);
    }

    /// Asks a socket whether it lives; `false` if it need not or cannot answer.
    fn ask(&mut self, which: Which, now: Instant) -> bool {
        let Some(socket) = self.socket(which) else { return false };
        if let Some(why) = self.is_deaf(which, socket) {
            self.broke(which, &why, now);
            return false;
        }
        // It would not be read, and its small queue is full most of the time.
        if which == Which::Events && self.watch == Watch::Off {
            return false;
        }
        self.encoder.clear();
        wire::encode_probe(&mut self.encoder);
        let sent = self.socket(which).map(|socket| socket.send(self.encoder.bytes()));
        self.encoder.clear();
        match sent {
            Some(Err(errno)) if mend::is_broken(errno) => {
                self.broke(which, &errno, now);
                return false;
            }
            Some(Ok(())) => self.expect_answer(which),
            // It is asked again if it does not recover.
            Some(Err(_)) | None => {}
        }
        true
    }

    /// Why it does not hear what it is to hear, if that is so.
    fn is_deaf(&self, which: Which, socket: &Netlink) -> Option<String> {
        // Without next-hop objects there is no such group.
        let routing = route::ROUTING_GROUPS.iter().filter(|group| self.listens_to_routing && **group != NEXTHOP);
        let mut network = route::GROUPS.iter().chain(routing);
        let in_all = match which {
            Which::Network => network.try_fold(true, |all, group| Ok(all && socket.is_in(*group)?)),
            Which::Events => socket.is_in(self.sockets.group),
            Which::Answers | Which::Questions => Ok(true),
        };
        match in_all {
            Ok(true) => None,
            Ok(false) => Some("it was taken out of its groups".to_owned()),
            Err(error) => Some(sys::errno(&error).to_string()),
        }
    }

    fn socket(&self, which: Which) -> Option<&Netlink> {
        match which {
            Which::Network => Some(&self.sockets.network),
            Which::Events => Some(&self.sockets.events),
            Which::Answers => Some(&self.sockets.answers),
            Which::Questions => self.sockets.questions.as_ref(),
        }
    }

    /// The answer is there already.
    fn expect_answer(&mut self, which: Which) {
        match which {
            Which::Network => self.readable.network = true,
            Which::Events => self.readable.events = true,
            Which::Answers => {
                self.unanswered += 1;
                self.readable.answers = true;
            }
            Which::Questions => self.readable.questions = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Received;
    use crate::wire::{Encoder, Messages, PROBE};

    const MINUTE: Duration = Duration::from_secs(60);

    fn all() -> u8 {
        Which::ALL.iter().fold(0, |all, which| all | which.bit())
    }

    #[test]
    fn the_watchdog_is_fed_when_every_socket_has_answered_and_not_before() {
        let now = Instant::now();
        let mut health = Health::fed(Some(MINUTE), now);
        health.ask(all(), now);
        for which in Which::ALL {
            assert_eq!((health.check(0, now), health.sound), (0, false));
            health.heard(which);
        }
        assert_eq!((health.check(0, now), health.sound), (0, true));
        assert!(!health.take_news());
        health.heard(Which::Events);
        assert!(health.take_news() && !health.take_news());
    }

    #[test]
    fn what_stays_silent_is_told_once_and_the_watchdog_is_not_fed() {
        let now = Instant::now();
        let mut health = Health::fed(Some(MINUTE), now);
        health.ask(all(), now);
        health.heard(Which::Network);
        health.heard(Which::Answers);
        assert_eq!(health.check(0, now + PATIENCE - Duration::from_millis(1)), 0);
        assert_eq!(health.due(), Some(now + PATIENCE));
        let silent = Which::Events.bit() | Which::Questions.bit();
        assert_eq!((health.check(0, now + PATIENCE), health.sound), (silent, false));
        assert_eq!((health.check(0, now + MINUTE), health.sound), (0, false));
    }

    #[test]
    fn what_is_not_read_at_present_is_waited_for_and_hides_no_other() {
        let now = Instant::now();
        let mut health = Health::fed(Some(MINUTE), now);
        let events = Which::Events.bit();
        health.ask(events, now);
        assert_eq!((health.check(events, now + PATIENCE), health.sound), (0, false));
        assert_eq!(health.due(), Some(now + 2 * PATIENCE));
        health.heard(Which::Events);
        assert_eq!((health.check(0, now + PATIENCE), health.sound), (0, true));
        health.ask(all(), now);
        health.heard(Which::Network);
        health.heard(Which::Answers);
        assert_eq!(health.check(events, now + PATIENCE), Which::Questions.bit());
        assert_eq!(health.asked, None);
    }

    #[test]
    fn when_a_socket_is_another_all_are_asked_anew() {
        let now = Instant::now();
        let mut health = Health::fed(Some(MINUTE), now);
        health.ask(all(), now);
        health.begin_again(now);
        assert_eq!((health.check(0, now + MINUTE), health.sound), (0, false));
        assert!(health.is_time(now));
    }

    #[test]
    fn the_kernel_acknowledges_what_asks_for_nothing_while_it_is_sent() {
        for family in [0, 4, 16] {
            let socket = Netlink::open(family, 1 << 16).unwrap();
            let (mut encoder, mut buffer) = (Encoder::default(), Vec::new());
            wire::encode_probe(&mut encoder);
            socket.send(encoder.bytes()).unwrap();
            assert_eq!(socket.receive(&mut buffer).unwrap(), Received::Datagram, "{family}");
            let answer = Messages::new(&buffer).next().unwrap().unwrap();
            assert_eq!(answer.sequence, PROBE);
            assert_eq!(wire::decode_end(&answer).unwrap().unwrap().result, Ok(()));
        }
    }

    #[test]
    fn they_are_asked_twice_in_the_watchdogs_time_at_least_and_when_the_loop_turns_anyway() {
        let start = Instant::now();
        let mut health = Health::fed(Some(MINUTE), start);
        health.ask(0, start);
        health.check(0, start);
        assert_eq!(health.due(), Some(start + MINUTE / 2));
        assert!(!health.is_time(start + MINUTE / 5));
        assert!(health.is_time(start + MINUTE / 4));
        health.look_soon(start);
        assert!(health.is_time(start));
    }

    #[test]
    fn without_a_watchdog_they_are_asked_all_the_same_and_an_absurd_one_does_not_keep_the_loop_busy() {
        let now = Instant::now();
        let mut health = Health::fed(None, now);
        health.ask(all(), now);
        Which::ALL.into_iter().for_each(|which| health.heard(which));
        assert_eq!((health.check(0, now), health.sound), (0, false));
        assert_eq!(health.due(), Some(now + PERIOD));
        assert_eq!(Health::fed(Some(Duration::from_micros(1)), now).period, SHORTEST);
    }
}
