//! What the engine puts out, in order, and which requests wait for their answers.

use std::collections::VecDeque;
use std::time::Instant;

use super::report::is_command;
use super::{Note, Output, Severity, Ticket};
use crate::command::Request;

/// Room for so many outputs is kept.
const ROOM: usize = 256;

/// Outputs, and the requests that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) queue: VecDeque<Output>,
    last_ticket: u32,
    /// When the oldest request without an end was sent.
    pub(super) waiting: VecDeque<(Ticket, Instant)>,
    /// Somebody reads debug notes.
    pub(super) debug: bool,
    /// Sent since the start,
    pub(super) requests: u64,
    /// and those of them that change something.
    pub(super) commands: u64,
}

impl Outbox {
    pub(super) fn new(debug: bool) -> Self {
        Self { debug, ..Self::default() }
    }

    pub(super) fn send(&mut self, request: Request, now: Instant) -> Ticket {
        // 0 is the number of the kernel's own messages.
        self.last_ticket = self.last_ticket.checked_add(1).unwrap_or(1);
        let ticket = Ticket(self.last_ticket);
        self.requests += 1;
        self.commands += u64::from(is_command(&request));
        self.waiting.push_back((ticket, now));
        self.queue.push_back(Output::Send(ticket, request));
        ticket
    }

    /// The next output. When there is none, what many needed room for is given back.
    pub(super) fn next(&mut self) -> Option<Output> {
        let output = self.queue.pop_front();
        if output.is_none() {
            self.queue.shrink_to(ROOM);
            self.waiting.shrink_to(ROOM);
        }
        output
    }

    pub(super) fn log(&mut self, note: Note) {
        if self.debug || note.severity() != Severity::Debug {
            self.queue.push_back(Output::Log(note));
        }
    }

    /// Logs what is only worth making when somebody reads debug notes.
    pub(super) fn debug(&mut self, note: impl FnOnce() -> Note) {
        if self.debug {
            self.queue.push_back(Output::Log(note()));
        }
    }
}
