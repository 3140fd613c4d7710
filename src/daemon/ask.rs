//! Questions about sockets: the socket for them, opened when the first is asked, and their answers.

use std::time::Instant;

use super::mend::Which;
use super::sockets::Sockets;
use super::take::{Taken, Taker, note_malformed};
use super::{BUDGET, Daemon};
use crate::command::SocketRequest;
use crate::engine::{Answer, Input, Ticket};
use crate::sys::{self, Netlink, Received};
use crate::types::Errno;
use crate::wire::{DecodeError, Message, Messages, diag};

const NETLINK_SOCK_DIAG: isize = 4;
/// Answers come while they are read, so few ever wait.
const QUEUE: usize = 1 << 20;

/// What was asked and is not answered yet: the answers do not say what they are about.
#[derive(Debug, Default)]
pub(super) struct Asked(Vec<(Ticket, SocketRequest)>);

impl Asked {
    pub(super) fn push(&mut self, ticket: Ticket, request: SocketRequest) {
        self.0.push((ticket, request));
    }

    fn find(&self, ticket: Ticket) -> Option<SocketRequest> {
        self.0.iter().find(|(asked, _)| *asked == ticket).map(|(_, request)| *request)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.0.retain(|(asked, _)| *asked != ticket);
    }
}

impl Sockets {
    /// The socket for questions about sockets.
    ///
    /// It need not be watched: the kernel answers while it is asked or read, and never by itself.
    pub(super) fn questions(&mut self) -> Result<&Netlink, Errno> {
        match &mut self.questions {
            Some(socket) => Ok(socket),
            none => Ok(none.insert(Netlink::open(NETLINK_SOCK_DIAG, QUEUE).map_err(|error| sys::errno(&error))?)),
        }
    }
}

impl Daemon {
    /// Says whether there is more to read.
    pub(super) fn take_questions(&mut self, now: Instant) -> bool {
        let Self { sockets, buffer, engine, log, interrupted, asked, health, .. } = self;
        let Some(socket) = &sockets.questions else { return false };
        for _ in 0..BUDGET {
            match socket.receive(buffer) {
                Ok(Received::Nothing) => return false,
                Ok(Received::Other) => {}
                Ok(Received::Lost) => {
                    asked.0.clear();
                    engine.handle(Input::AnswersLost, now);
                }
                Ok(Received::Datagram) => {
                    health.heard(Which::Questions);
                    let mut taker = Taker { engine, log, interrupted, now };
                    for message in Messages::new(buffer) {
                        let taken = message.and_then(|message| taker.socket(&message, asked));
                        note_malformed(log, "sock_diag", taken);
                    }
                    // Nobody else sends here, so that there is no need to ask for more in vain.
                    if asked.0.is_empty() {
                        return false;
                    }
                }
                Err(error) => {
                    self.broke(Which::Questions, &sys::errno(&error), now);
                    return false;
                }
            }
        }
        true
    }
}

impl Taker<'_> {
    /// Takes an answer about sockets. What asks for one socket alone has no end but its answer.
    fn socket(&mut self, message: &Message<'_>, asked: &mut Asked) -> Result<(), DecodeError> {
        let ticket = Ticket(message.sequence);
        if self.end(message)? == Taken::End {
            asked.forget(ticket);
            return Ok(());
        }
        let Some(request) = asked.find(ticket) else { return Ok(()) };
        let socket = diag::decode_socket(message, &request);
        if let Ok(Some(socket)) = &socket {
            self.engine.handle(Input::Answer(ticket, Answer::Socket(socket)), self.now);
        }
        if request.is_about_one() {
            asked.forget(ticket);
            self.engine.handle(Input::End(ticket, Ok(())), self.now);
        }
        socket.map(|_| ())
    }
}
