//! What goes into the engine, and what comes out of it.

use std::net::SocketAddr;

use super::{Note, Policy, Ticket};
use crate::command::Request;
use crate::diag::Socket;
use crate::event::{Endpoint, Limits, MptcpEvent, NetworkEvent, RouteAnswer};
use crate::types::Errno;
use crate::wire::Refusal;

/// What happened.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    /// The host's network changed, or this is how it is, as an answer to that request.
    Network { event: NetworkEvent<'a>, dump: Option<Ticket> },
    /// Something happened to a connection.
    Mptcp(MptcpEvent),
    /// Part of an answer.
    Answer(Ticket, Answer<'a>),
    /// A request is done; no more answers follow.
    End(Ticket, Result<(), Failure<'a>>),
    /// Messages about the network were lost; those from before are still to come.
    NetworkLost,
    /// There are no more messages about the network for now.
    NetworkDrained,
    /// What became of a wish to [listen](Output::Listen): where, or why not.
    Listening { wanted: SocketAddr, result: Result<SocketAddr, Errno> },
    /// Whether new connections use TCP timestamps.
    Timestamps(bool),
    /// Answers of the kernel's path manager were lost.
    AnswersLost,
    /// Events of connections were lost; those from before are still to come.
    EventsLost,
    /// There are no more events of connections for now.
    EventsDrained,
    /// The process or the machine slept, for all one knows.
    Resumed,
    /// The configuration is another now.
    Configure(Policy),
    /// Finish; `remove`: taking away what is ours.
    Stop { remove: bool },
}

/// Part of an answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    Endpoint(Endpoint),
    Limits(Limits),
    Route(RouteAnswer),
    Socket(&'a Socket),
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure<'a> {
    /// The kernel says why.
    Refused(Refusal<'a>),
    /// The state changed while it was dumped.
    Interrupted,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send a request.
    Send(Ticket, Request),
    /// Listen there for Multipath TCP, on any port if it is 0.
    Listen(SocketAddr),
    /// Listen there no more; subflows that were joined stay.
    Unlisten(SocketAddr),
    /// Tell the log.
    Log(Note),
    /// Other interfaces than before have usable addresses.
    Uplinks,
    /// For the first time, all is as it should be.
    Ready,
    /// Stopping is complete: the process may end.
    Done,
}
