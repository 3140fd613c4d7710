//! What the engine puts out is done, its requests above all: each goes to the socket for it, with a note of where
//! its answer comes.
//!
//! What follows one another to the same socket goes out in one datagram: the kernel does it in order, and a
//! system call less each counts when a thousand connections lose a path.

use std::time::Instant;

use slog::{debug, info};

use super::mend::{self, Which};
use super::{Daemon, Sent};
use crate::command::{PmCommand, Request, SocketRequest};
use crate::engine::{Failure, Input, Output, Ticket};
use crate::types::Errno;
use crate::wire::{Refusal, diag, mptcp, route};

/// A datagram is sent when it has grown to so many bytes.
const FULL: usize = 16 << 10;

/// Requests that are encoded and not sent yet.
#[derive(Debug, Default)]
pub(super) struct Batch {
    to: Option<Channel>,
    requests: Vec<(Ticket, Option<SocketRequest>)>,
}

/// Which socket a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Network,
    Answers,
    Questions,
}

impl Channel {
    fn of(request: &Request) -> Self {
        match request {
            Request::DumpLinks | Request::DumpAddresses | Request::AskRoute(_) => Self::Network,
            Request::Pm(_) | Request::Path(_) => Self::Answers,
            Request::Sockets(_) => Self::Questions,
        }
    }

    fn socket(self) -> Which {
        match self {
            Self::Network => Which::Network,
            Self::Answers => Which::Answers,
            Self::Questions => Which::Questions,
        }
    }
}

impl Daemon {
    /// The next output; before there is none, what is encoded is sent, which may be refused and lead to more.
    fn next_output(&mut self, now: Instant) -> Option<Output> {
        let output = self.engine.next_output();
        if output.is_none() {
            self.flush(now);
            return self.engine.next_output();
        }
        output
    }

    /// Executes outputs.
    pub(super) fn put_out(&mut self, now: Instant) -> Sent {
        let mut sent = Sent::Nothing;
        while let Some(output) = self.next_output(now) {
            match output {
                Output::Send(ticket, request) => {
                    self.send(ticket, &request, now);
                    let removal = matches!(request, Request::Pm(PmCommand::RemoveEndpoint(_)));
                    sent = if removal || sent == Sent::Removal { Sent::Removal } else { Sent::Requests };
                }
                Output::Listen(wanted) => self.listen(wanted, now),
                Output::Unlisten(wanted) => self.unlisten(wanted),
                Output::Log(note) => self.tell(&note),
                Output::Uplinks => self.advice.look_soon(now),
                Output::Ready => {
                    info!(self.log, "ready");
                    self.status.ready(&mut self.notifier);
                    self.listeners.settled(now);
                }
                Output::Done => self.done = true,
            }
        }
        sent
    }

    /// Encodes a request; it goes out with those that follow, at the latest when [`flush`](Self::flush) is called.
    fn send(&mut self, ticket: Ticket, request: &Request, now: Instant) {
        debug!(self.log, "{}", request; "request" => ticket.0);
        let channel = Channel::of(request);
        if self.batch.to.is_some_and(|to| to != channel) || self.encoder.bytes().len() >= FULL {
            self.flush(now);
        }
        self.batch.to = Some(channel);
        let asked = if let Request::Sockets(request) = request { Some(*request) } else { None };
        self.batch.requests.push((ticket, asked));
        let (encoder, family, sequence) = (&mut self.encoder, self.sockets.family, ticket.0);
        match request {
            Request::DumpLinks => route::encode_dump_links(encoder, sequence),
            Request::DumpAddresses => route::encode_dump_addresses(encoder, sequence),
            Request::AskRoute(question) => route::encode_ask_route(encoder, sequence, question),
            Request::Pm(command) => mptcp::encode_command(encoder, family, sequence, command),
            Request::Path(command) => mptcp::encode_path_command(encoder, family, sequence, command),
            Request::Sockets(request) => diag::encode_request(encoder, sequence, request),
        }
    }

    /// Sends what is encoded.
    fn flush(&mut self, now: Instant) {
        let Some(channel) = self.batch.to.take() else { return };
        if self.mending.is_broken(channel.socket()) {
            // What it was to find out is read again from the next socket.
            self.encoder.clear();
            return self.batch.requests.clear();
        }
        let socket = match channel {
            Channel::Network => Ok(&self.sockets.network),
            Channel::Answers => Ok(&self.sockets.answers),
            Channel::Questions => self.sockets.questions(),
        };
        let sent = socket.and_then(|socket| socket.send(self.encoder.bytes()));
        self.encoder.clear();
        if let Err(errno) = sent {
            if mend::is_broken(errno) {
                self.batch.requests.clear();
                return self.broke(channel.socket(), &errno, now);
            }
        }
        let mut requests = std::mem::take(&mut self.batch.requests);
        for (ticket, asked) in requests.drain(..) {
            match (sent, asked) {
                (Err(errno), _) => self.refuse(ticket, errno, now),
                (Ok(()), Some(asked)) => self.asked.push(ticket, asked),
                (Ok(()), None) => self.unanswered += u32::from(channel == Channel::Answers),
            }
        }
        self.batch.requests = requests;
        if sent.is_ok() {
            // The kernel has answered while it was sent: there is something to read.
            match channel {
                Channel::Network => self.readable.network = true,
                Channel::Answers => self.readable.answers = true,
                Channel::Questions => self.readable.questions = true,
            }
        }
    }

    /// The request did not even reach the kernel.
    fn refuse(&mut self, ticket: Ticket, errno: Errno, now: Instant) {
        let refusal = Refusal { errno, text: "", missing: None };
        self.engine.handle(Input::End(ticket, Err(Failure::Refused(refusal))), now);
    }
}
