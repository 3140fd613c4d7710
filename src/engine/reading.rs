//! Reading the host's links and addresses as a whole: at start, after messages were lost, and again when
//! that did not succeed.

use std::time::{Duration, Instant};

use super::{Engine, Note, Ticket};
use crate::command::Request;

/// How far reading the host's links and addresses has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// To begin, not before that time.
    Wanted(Instant),
    Links(Ticket),
    Addresses(Ticket),
    /// Everything is known.
    Done,
}

/// Pauses between readings when one after the other is interrupted or overrun.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The log hears of lost messages once in this time.
const OVERRUN_NOTES: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Overruns {
    pub(super) unsaid: u32,
    said: Option<Instant>,
}

impl Engine {
    pub(super) fn begin_reading(&mut self, now: Instant) {
        // What was queued before messages were lost must not be mistaken for news after the dump.
        if self.drained && matches!(self.reading, Reading::Wanted(time) if time <= now) {
            self.network.begin_dump();
            self.reading = Reading::Links(self.outbox.send(Request::DumpLinks, now));
        }
    }

    pub(super) fn end_reading(&mut self, complete: bool, now: Instant) {
        if !complete {
            return self.read_later(now);
        }
        if matches!(self.reading, Reading::Links(_)) {
            self.network.end_links();
            self.reading = Reading::Addresses(self.outbox.send(Request::DumpAddresses, now));
            return;
        }
        self.network.end_addresses();
        self.reading = Reading::Done;
        self.failed_readings.reset();
        self.network_changed();
    }

    /// Whether it waits to hear that there are no more messages about the network.
    pub(crate) fn awaits_network_drain(&self) -> bool {
        !self.drained
    }

    pub(super) fn read_again(&mut self, now: Instant) {
        self.forget_routes();
        self.reading = Reading::Wanted(now);
    }

    /// Reads again after a pause that grows while it does not succeed.
    pub(super) fn read_later(&mut self, now: Instant) {
        self.forget_routes();
        let time = self.failed_readings.after_failure(now, FIRST_PAUSE, LONGEST_PAUSE, 0);
        self.reading = Reading::Wanted(time);
    }

    pub(super) fn forget_routes(&mut self) {
        self.routes.forget();
        if self.manages_connections() {
            self.paths.forget_ways();
        }
    }

    pub(super) fn network_lost(&mut self, now: Instant) {
        self.overruns.unsaid += 1;
        self.drained = false;
        match self.reading {
            Reading::Done => self.read_again(now),
            Reading::Wanted(_) => {}
            Reading::Links(_) | Reading::Addresses(_) => self.read_later(now),
        }
    }

    pub(super) fn tell_overruns(&mut self, now: Instant) {
        let quiet = self.overruns.said.is_none_or(|said| now >= said + OVERRUN_NOTES);
        if self.overruns.unsaid > 0 && quiet {
            self.outbox.log(Note::Overrun(self.overruns.unsaid));
            self.overruns = Overruns { unsaid: 0, said: Some(now) };
        }
    }
}
