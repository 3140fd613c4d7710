//! Requests on their way to the kernel: each to the socket for it, with a note of where its answer comes.

use std::time::Instant;

use slog::debug;

use super::Daemon;
use crate::command::Request;
use crate::engine::{Failure, Input, Ticket};
use crate::types::Errno;
use crate::wire::{Refusal, diag, mptcp, route};

impl Daemon {
    pub(super) fn send(&mut self, ticket: Ticket, request: &Request, now: Instant) {
        debug!(self.log, "{}", request; "request" => ticket.0);
        self.encoder.clear();
        let (encoder, sequence) = (&mut self.encoder, ticket.0);
        let socket = match request {
            Request::DumpLinks => {
                route::encode_dump_links(encoder, sequence);
                &self.sockets.network
            }
            Request::DumpAddresses => {
                route::encode_dump_addresses(encoder, sequence);
                &self.sockets.network
            }
            Request::AskRoute(question) => {
                route::encode_ask_route(encoder, sequence, question);
                &self.sockets.network
            }
            Request::Pm(command) => {
                mptcp::encode_command(encoder, self.sockets.family, sequence, command);
                &self.sockets.answers
            }
            Request::Path(command) => {
                mptcp::encode_path_command(encoder, self.sockets.family, sequence, command);
                &self.sockets.answers
            }
            Request::Sockets(request) => {
                diag::encode_request(encoder, sequence, request);
                match self.sockets.questions() {
                    Ok(socket) => socket,
                    Err(errno) => return self.refuse(ticket, errno, now),
                }
            }
        };
        match socket.send(self.encoder.bytes()) {
            // The kernel has answered while it was sent: there is something to read.
            Ok(()) if matches!(request, Request::Pm(_) | Request::Path(_)) => {
                self.readable.answers = true;
                self.unanswered += 1;
            }
            Ok(()) => match request {
                Request::Sockets(request) => {
                    self.asked.push(ticket, *request);
                    self.readable.questions = true;
                }
                _ => self.readable.network = true,
            },
            Err(errno) => self.refuse(ticket, errno, now),
        }
    }

    /// The request did not even reach the kernel.
    fn refuse(&mut self, ticket: Ticket, errno: Errno, now: Instant) {
        let refusal = Refusal { errno, text: "", missing: None };
        self.engine.handle(Input::End(ticket, Err(Failure::Refused(refusal))), now);
    }
}
