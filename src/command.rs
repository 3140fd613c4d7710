//! What may be asked of the kernel: questions, dumps, and commands to its own path manager.

use std::fmt;
use std::net::IpAddr;

use crate::event::{Endpoint, Limits};
use crate::types::{AddressId, IfIndex};

/// One request; its answers carry the ticket that it was sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Every interface.
    DumpLinks,
    /// Every address of every interface.
    DumpAddresses,
    /// The route that a packet would take.
    AskRoute(RouteQuestion),
    /// Something for the kernel's own path manager.
    Pm(PmCommand),
}

/// Which route would a packet take?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuestion {
    /// From this address, or from any if there is none,
    pub source: Option<IpAddr>,
    /// to that one, of the same family,
    pub destination: IpAddr,
    /// leaving by this interface.
    pub if_index: IfIndex,
}

/// A command of the `mptcp_pm` family for the kernel's own path manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PmCommand {
    /// Adds an endpoint; with id 0 the kernel chooses one.
    AddEndpoint(Endpoint),
    /// Removes the endpoint with that id and closes every subflow from its address.
    RemoveEndpoint(AddressId),
    /// The endpoint with that id.
    GetEndpoint(AddressId),
    /// Every endpoint.
    DumpEndpoints,
    /// Removes every endpoint.
    FlushEndpoints,
    /// Sets both limits, each at most 8.
    SetLimits(Limits),
    /// The limits.
    GetLimits,
    /// Sets the flags `backup` and `fullmesh` of an endpoint that is there.
    SetFlags(Endpoint),
}

impl fmt::Display for PmCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddEndpoint(endpoint) => write!(f, "add endpoint {endpoint}"),
            Self::RemoveEndpoint(id) => write!(f, "remove endpoint id {id}"),
            Self::GetEndpoint(id) => write!(f, "get endpoint id {id}"),
            Self::DumpEndpoints => f.write_str("list endpoints"),
            Self::FlushEndpoints => f.write_str("remove every endpoint"),
            Self::SetLimits(limits) => write!(f, "set limits {limits}"),
            Self::GetLimits => f.write_str("get limits"),
            Self::SetFlags(endpoint) => write!(f, "set flags of endpoint {endpoint}"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DumpLinks => f.write_str("list interfaces"),
            Self::DumpAddresses => f.write_str("list addresses"),
            Self::AskRoute(question) => {
                let RouteQuestion { source, destination, if_index } = question;
                f.write_str("look up route")?;
                if let Some(source) = source {
                    write!(f, " from {source}")?;
                }
                write!(f, " to {destination} through interface {if_index}")
            }
            Self::Pm(command) => command.fmt(f),
        }
    }
}
