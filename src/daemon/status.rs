//! What the service manager is told of the daemon's state: when it is ready, that it reads its configuration
//! again, and a line with figures.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::Daemon;
use super::notify::Notifier;
use crate::engine::Figures;

/// The line with figures changes at most once in this time.
const PAUSE: Duration = Duration::from_secs(5);

/// What was told, and what is to be.
#[derive(Debug, Default)]
pub(super) struct Status {
    ready: bool,
    /// It is to be told when the new configuration is in force.
    reloading: bool,
    /// The figures may be others now.
    stale: bool,
    looked: Option<Instant>,
    told: Option<Figures>,
}

impl Status {
    /// For the first time, all is as it should be.
    pub(super) fn ready(&mut self, notifier: &mut Notifier) {
        (self.ready, self.stale) = (true, true);
        notifier.tell(&[NotifyState::Ready]);
    }

    /// The configuration is being read again. A manager that waits for the start is not told: that would say
    /// that the daemon had been ready.
    pub(super) fn reloading(&mut self, notifier: &mut Notifier) {
        if let (true, Ok(time)) = (self.ready, NotifyState::monotonic_usec_now()) {
            (self.reloading, self.stale) = (true, true);
            notifier.tell(&[NotifyState::Reloading, time]);
        }
    }

    /// When to look at the figures.
    pub(super) fn due(&self) -> Option<Instant> {
        self.looked.filter(|_| self.stale && self.ready).map(|looked| looked + PAUSE)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.stale && self.ready && self.looked.is_none_or(|looked| looked + PAUSE <= now)
    }

    fn tell(&mut self, figures: Figures, notifier: &mut Notifier) {
        // One that does not read has time until the next look.
        if self.told != Some(figures) && !notifier.is_waiting() {
            self.told = Some(figures);
            notifier.tell(&[NotifyState::Status(&figures.to_string())]);
        }
    }
}

impl Daemon {
    /// Tells what is new.
    pub(super) fn tell_state(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        if self.status.reloading && !self.engine.has_work() {
            self.status.reloading = false;
            self.notifier.tell(&[NotifyState::Ready]);
        }
        self.status.stale |= self.health.take_news() && self.notifier.has_manager();
        if self.status.is_due(now) {
            (self.status.stale, self.status.looked) = (false, Some(now));
            self.status.tell(self.engine.figures(), &mut self.notifier);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn reading_the_configuration_again_says_nothing_of_being_ready_before_that_is_so() {
        let (mut status, mut notifier) = (Status::default(), Notifier::new());
        status.reloading(&mut notifier);
        assert!(!status.reloading);
        status.ready(&mut notifier);
        status.reloading(&mut notifier);
        assert!(status.reloading);
    }

    #[test]
    fn figures_are_looked_at_when_something_was_heard_and_seldom() {
        let (mut status, start) = (Status::default(), Instant::now());
        status.stale = true;
        assert!(!status.is_due(start), "not before it is ready");
        assert_eq!(status.due(), None);
        status.ready = true;
        assert!(status.is_due(start));
        (status.stale, status.looked) = (false, Some(start));
        assert!(!status.is_due(start + second(100)), "nothing is new");
        assert_eq!(status.due(), None);
        status.stale = true;
        assert!(!status.is_due(start + second(4)));
        assert_eq!(status.due(), Some(start + PAUSE));
        assert!(status.is_due(start + PAUSE));
    }
}
