//! From messages to inputs of the engine, and to the debug log with names for numbers.

use std::time::Instant;

use slog::{Drain, Logger, debug};

use crate::engine::{Answer, Engine, Failure, Input, Ticket};
use crate::event::NetworkEvent;
use crate::wire::{self, DecodeError, Message, mptcp, route};

pub(super) fn take_route_message(
    engine: &mut Engine,
    log: &Logger,
    message: &Message<'_>,
    port: u32,
    now: Instant,
) -> Result<(), DecodeError> {
    // What is not an answer to this socket is an event: the daemon changes nothing here itself.
    let answers_us = message.port == port && message.sequence != 0;
    let ticket = Ticket(message.sequence);
    if answers_us {
        if let Some(end) = wire::decode_end(message)? {
            engine.handle(Input::End(ticket, result_of(message, end)), now);
            return Ok(());
        }
        if let Some(question) = engine.route_question(ticket) {
            if let Some(answer) = route::decode_route_answer(message, question.if_index)? {
                engine.handle(Input::Answer(ticket, Answer::Route(answer)), now);
            }
            return Ok(());
        }
    }
    if let Some(event) = route::decode_event(message)? {
        if !answers_us {
            tell_network_event(log, engine, &event);
        }
        engine.handle(Input::Network { event, dumped: answers_us }, now);
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Part,
    End,
}

pub(super) fn take_answer(
    engine: &mut Engine,
    log: &Logger,
    message: &Message<'_>,
    now: Instant,
) -> Result<Taken, DecodeError> {
    let ticket = Ticket(message.sequence);
    if let Some(end) = wire::decode_end(message)? {
        if let Err(refusal) = end.result {
            debug!(log, "the kernel refused: {}", refusal; "request" => ticket.0);
        }
        engine.handle(Input::End(ticket, result_of(message, end)), now);
        return Ok(Taken::End);
    }
    match mptcp::decode_answer(message.payload)? {
        Some(mptcp::Answer::Endpoint(endpoint)) => {
            engine.handle(Input::Answer(ticket, Answer::Endpoint(endpoint)), now)
        }
        Some(mptcp::Answer::Limits(limits)) => engine.handle(Input::Answer(ticket, Answer::Limits(limits)), now),
        None => {}
    }
    Ok(Taken::Part)
}

pub(super) fn result_of<'a>(message: &Message<'a>, end: wire::End<'a>) -> Result<(), Failure<'a>> {
    if message.interrupted() { Err(Failure::Interrupted) } else { end.result.map_err(Failure::Refused) }
}

pub(super) fn tell_event(log: &Logger, message: &Message<'_>) -> Result<(), DecodeError> {
    if let Some(event) = mptcp::decode_event(message.payload)? {
        match event.token() {
            Some(token) => debug!(log, "{}", event; "token" => %token),
            None => debug!(log, "{}", event),
        }
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
