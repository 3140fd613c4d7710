//! From messages to inputs of the engine, and to the debug log with names for numbers.

use std::time::Instant;

use slog::{Drain, Logger, debug};

use crate::engine::{Answer, Engine, Failure, Input, Ticket};
use crate::event::NetworkEvent;
use crate::wire::{self, DecodeError, Message, mptcp, route};

/// Hands messages to the engine.
pub(super) struct Taker<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) log: &'a Logger,
    /// The last dump that the kernel said was not of one moment: any of its messages may say so.
    pub(super) interrupted: &'a mut Option<Ticket>,
    pub(super) now: Instant,
}

/// What a message was to the request that it answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Part,
    End,
}

impl Taker<'_> {
    /// Takes a message of rtnetlink; `port` is that of the socket.
    pub(super) fn network(&mut self, message: &Message<'_>, port: u32) -> Result<(), DecodeError> {
        // What is not an answer to this socket is an event: the daemon changes nothing here itself.
        if message.port != port || message.sequence == 0 {
            if let Some(event) = route::decode_event(message)? {
                tell_network_event(self.log, self.engine, &event);
                self.engine.handle(Input::Network { event, dump: None }, self.now);
            }
            return Ok(());
        }
        let ticket = Ticket(message.sequence);
        if self.end(message)? == Taken::End {
            return Ok(());
        }
        if let Some(question) = self.engine.route_question(ticket) {
            if let Some(answer) = route::decode_route_answer(message, question.if_index)? {
                self.engine.handle(Input::Answer(ticket, Answer::Route(answer)), self.now);
            }
        } else if let Some(event) = route::decode_event(message)? {
            self.engine.handle(Input::Network { event, dump: Some(ticket) }, self.now);
        }
        Ok(())
    }

    /// Takes an answer of `mptcp_pm`.
    pub(super) fn answer(&mut self, message: &Message<'_>) -> Result<Taken, DecodeError> {
        if self.end(message)? == Taken::End {
            return Ok(Taken::End);
        }
        let answer = match mptcp::decode_answer(message.payload)? {
            Some(mptcp::Answer::Endpoint(endpoint)) => Answer::Endpoint(endpoint),
            Some(mptcp::Answer::Limits(limits)) => Answer::Limits(limits),
            None => return Ok(Taken::Part),
        };
        self.engine.handle(Input::Answer(Ticket(message.sequence), answer), self.now);
        Ok(Taken::Part)
    }

    /// Takes the message if it ends a request.
    pub(super) fn end(&mut self, message: &Message<'_>) -> Result<Taken, DecodeError> {
        let ticket = Ticket(message.sequence);
        if message.interrupted() {
            *self.interrupted = Some(ticket);
        }
        let Some(end) = wire::decode_end(message)? else { return Ok(Taken::Part) };
        if let Err(refusal) = end.result {
            debug!(self.log, "the kernel refused: {}", refusal; "request" => ticket.0);
        }
        let result = match self.interrupted.take_if(|interrupted| *interrupted == ticket) {
            Some(_) => Err(Failure::Interrupted),
            None => end.result.map_err(Failure::Refused),
        };
        self.engine.handle(Input::End(ticket, result), self.now);
        Ok(Taken::End)
    }
}

/// Takes an event of `mptcp_pm`.
pub(super) fn event(engine: &mut Engine, log: &Logger, message: &Message<'_>, now: Instant) -> Result<(), DecodeError> {
    if message.sequence == wire::PROBE {
        return Ok(());
    }
    if let Some(event) = mptcp::decode_event(message.payload)? {
        match event.token() {
            Some(token) => debug!(log, "{}", event; "token" => %token),
            None => debug!(log, "{}", event),
        }
        engine.handle(Input::Mptcp(event), now);
    }
    Ok(())
}

pub(super) fn tell_network_event(log: &Logger, engine: &Engine, event: &NetworkEvent<'_>) {
    if !log.is_debug_enabled() {
        return;
    }
    match event {
        NetworkEvent::Link(link) => {
            debug!(log, "link changed: {}", link.flags; "interface" => %String::from_utf8_lossy(link.name.unwrap_or_default()));
        }
        NetworkEvent::LinkGone(index) => debug!(log, "link removed"; "interface" => engine.interface_name(*index)),
        NetworkEvent::Address(address) => {
            debug!(log, "address changed: {}", address.flags; "interface" => engine.interface_name(address.if_index), "address" => %address.address);
        }
        NetworkEvent::AddressGone(address) => {
            debug!(log, "address removed"; "interface" => engine.interface_name(address.if_index), "address" => %address.address);
        }
        NetworkEvent::RoutingChanged(change) => debug!(log, "{}", change),
    }
}

/// A message that does not decode is the kernel's, so it is told, but never more than in debug: the
/// same may come with every event.
pub(super) fn note_malformed(log: &Logger, what: &str, result: Result<(), DecodeError>) {
    if let Err(error) = result {
        debug!(log, "cannot decode {} message: {}", what, error);
    }
}
