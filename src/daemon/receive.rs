//! Datagrams are taken from the sockets and become inputs of the engine.

use std::time::Instant;

use slog::Drain;

use super::mend::Which;
use super::take::{self, Taken, Taker, note_malformed};
use super::{BUDGET, Daemon};
use crate::engine::Input;
use crate::sys::{self, Received};
use crate::wire::Messages;

/// Messages that were read while it was waited for a socket to be empty.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    network: Passed,
    events: Passed,
}

/// So many messages. Where new ones come as fast as they are read, a socket is never empty: what was there before
/// has been read when there were more than it has room for.
#[derive(Debug, Default)]
struct Passed(u32);

impl Passed {
    /// One more, if it is waited; whether all that was there before has been read.
    fn one_more(&mut self, waits: bool, room: u32) -> bool {
        self.0 = if waits { self.0.saturating_add(1) } else { 0 };
        let all = self.0 > room.saturating_mul(2);
        if all {
            self.0 = 0;
        }
        all
    }
}

impl Daemon {
    /// Says whether there is more to read.
    pub(super) fn take_network(&mut self, now: Instant) -> bool {
        let Self { sockets, buffer, engine, log, interrupted, health, backlog, .. } = self;
        for _ in 0..BUDGET {
            match sockets.network.receive(buffer) {
                Ok(Received::Nothing) => {
                    engine.handle(Input::NetworkDrained, now);
                    return false;
                }
                Ok(Received::Other) => {}
                Ok(Received::Lost) => engine.handle(Input::NetworkLost, now),
                Ok(Received::Datagram) => {
                    health.heard(Which::Network);
                    let mut taker = Taker { engine, log, interrupted, now };
                    for message in Messages::new(buffer) {
                        let taken = message.and_then(|message| taker.network(&message, sockets.network.port()));
                        note_malformed(log, "rtnetlink", taken);
                    }
                    if backlog.network.one_more(engine.awaits_network_drain(), sockets.queue) {
                        engine.handle(Input::NetworkDrained, now);
                    }
                }
                Err(error) => {
                    self.broke(Which::Network, &sys::errno(&error), now);
                    return false;
                }
            }
        }
        true
    }

    pub(super) fn take_answers(&mut self, now: Instant) -> bool {
        let Self { sockets, buffer, engine, log, interrupted, unanswered, health, .. } = self;
        for _ in 0..BUDGET {
            match sockets.answers.receive(buffer) {
                Ok(Received::Nothing) => return false,
                Ok(Received::Other) => {}
                Ok(Received::Lost) => {
                    *unanswered = 0;
                    engine.handle(Input::AnswersLost, now);
                }
                Ok(Received::Datagram) => {
                    health.heard(Which::Answers);
                    let mut taker = Taker { engine, log, interrupted, now };
                    for message in Messages::new(buffer) {
                        let taken = message.and_then(|message| taker.answer(&message));
                        *unanswered = unanswered.saturating_sub(u32::from(taken == Ok(Taken::End)));
                        note_malformed(log, "mptcp_pm", taken.map(|_| ()));
                    }
                    // Nobody else sends here, so that there is no need to ask for more in vain.
                    if *unanswered == 0 {
                        return false;
                    }
                }
                Err(error) => {
                    self.broke(Which::Answers, &sys::errno(&error), now);
                    return false;
                }
            }
        }
        true
    }

    pub(super) fn take_events(&mut self, now: Instant) -> bool {
        let Self { sockets, buffer, engine, log, watch, poll, health, backlog, .. } = self;
        for read in 0..BUDGET {
            if engine.holds_events() {
                return true;
            }
            let received = match sockets.events.receive(buffer) {
                Ok(Received::Nothing) => {
                    engine.handle(Input::EventsDrained, now);
                    let hurry = engine.hurries() || log.is_debug_enabled();
                    watch.drained(read > 0, hurry, &sockets.events, poll.registry()).map(|()| Received::Nothing)
                }
                other => other,
            };
            match received {
                Ok(Received::Nothing) => return false,
                Ok(Received::Other) => {}
                Ok(Received::Lost) => engine.handle(Input::EventsLost, now),
                Ok(Received::Datagram) => {
                    health.heard(Which::Events);
                    for message in Messages::new(buffer) {
                        let taken = message.and_then(|message| take::event(engine, log, &message, now));
                        note_malformed(log, "mptcp_pm event", taken);
                    }
                    if backlog.events.one_more(engine.awaits_drain(), sockets.queue) {
                        engine.handle(Input::EventsDrained, now);
                    }
                }
                Err(error) => {
                    self.broke(Which::Events, &sys::errno(&error), now);
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_has_been_read_when_more_came_than_there_is_room_for() {
        let mut passed = Passed::default();
        let waits = |passed: &mut Passed, times| (0..times).filter(|_| passed.one_more(true, 16)).count();
        assert_eq!(waits(&mut passed, 32), 0);
        assert!(!passed.one_more(false, 16), "nobody waits any more");
        assert_eq!(waits(&mut passed, 33), 1);
        assert_eq!(waits(&mut passed, 330), 10);
    }
}
