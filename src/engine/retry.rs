//! When to try again: pauses that double from attempt to attempt, with jitter so that many do not
//! come back in step; and how often at most, whatever the reason.

use std::time::{Duration, Instant};

/// One series of attempts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The time of the next attempt after a failure at `now`: `first`, then twice as long each time,
    /// at most `most`; between three quarters and all of that, by `seed`.
    pub(crate) fn after_failure(&mut self, now: Instant, first: Duration, most: Duration, seed: u64) -> Instant {
        let doubled = first.saturating_mul(1 << self.failures.min(20)).min(most);
        self.failures = self.failures.saturating_add(1);
        // splitmix64: enough to spread attempts, and the same for the same seed.
        let mut bits = seed.wrapping_add(u64::from(self.failures).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits ^= bits >> 27;
        let eighths = 6 + u32::try_from(bits % 3).unwrap_or(0);
        now + doubled / 8 * eighths
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// How often something may be done: so many times in a row, then once in a while.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// When all that was done will be paid for.
    settled: Option<Instant>,
}

impl Pace {
    /// In a row.
    const BURST: u32 = 32;
    /// Once in so long, in the long run.
    const ONCE_IN: Duration = Duration::from_millis(500);

    /// Does it once more, or says when it may be done.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let settled = self.settled.map_or(now, |settled| settled.max(now));
        let ahead = Self::ONCE_IN * (Self::BURST - 1);
        if settled > now + ahead {
            return Err(settled.checked_sub(ahead).unwrap_or(settled));
        }
        self.settled = Some(settled + Self::ONCE_IN);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_the_pace_is_one_at_a_time() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        for _ in 0..Pace::BURST {
            assert_eq!(pace.take(now), Ok(()));
        }
        for _ in 0..2 {
            assert_eq!(pace.take(now), Err(now + Pace::ONCE_IN));
        }
        assert_eq!(pace.take(now + Pace::ONCE_IN), Ok(()));
        assert_eq!(pace.take(now + Pace::ONCE_IN), Err(now + Pace::ONCE_IN * 2));
        let later = now + Duration::from_secs(60);
        assert!((0..Pace::BURST).all(|_| pace.take(later).is_ok()) && pace.take(later).is_err());
    }

    #[test]
    fn pauses_double_up_to_the_most_and_stay_within_their_jitter() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        for seed in 0..100 {
            let mut backoff = Backoff::default();
            for expected in [1, 2, 4, 8, 10, 10].map(|n| second * n) {
                let pause = backoff.after_failure(now, second, second * 10, seed) - now;
                assert!(pause <= expected && pause >= expected / 4 * 3, "{pause:?} for {expected:?}");
            }
            backoff.reset();
            assert!(backoff.after_failure(now, second, second * 10, seed) - now <= second);
        }
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::default();
        let (now, most) = (Instant::now(), Duration::from_secs(300));
        for seed in 0..1000 {
            assert!(backoff.after_failure(now, Duration::from_secs(1), most, seed) <= now + most);
        }
    }
}
