//! What may be asked of the kernel: questions, dumps, and commands about endpoints of its own path
//! manager and about single connections.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::diag::SocketId;
use crate::event::{Endpoint, Limits};
use crate::types::{AddressId, Family, IfIndex, Token};

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
    /// Something for one connection.
    Path(PathCommand),
    /// Something about sockets.
    Sockets(SocketRequest),
}

/// Which route would a packet take?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuestion {
    /// From this address, or from any if there is none,
    pub source: Option<IpAddr>,
    /// to that one, of the same family,
    pub destination: IpAddr,
    /// leaving by this interface, or by any if it is 0.
    pub if_index: IfIndex,
    /// It is bound to the interface; else the answer tells whether it leaves there.
    pub bound: bool,
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

/// A command of the `mptcp_pm` family for a connection that was made while user space managed paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathCommand {
    /// Announces an address to the peer (ADD_ADDR); announcing the same again repeats it.
    Announce(Advertisement),
    /// Withdraws the address with that id (RM_ADDR), and forgets it; closes no subflow of this host.
    Remove(Token, AddressId),
    /// Creates a subflow; success means that it was begun.
    CreateSubflow(NewSubflow),
    /// Closes a subflow, whoever opened it.
    DestroySubflow(SubflowEnds),
    /// Tells the peer whether the subflow is to carry data only when no other can (MP_PRIO).
    SetBackup(SubflowEnds, bool),
    /// This host's addresses that have an id in the connection (Linux 6.9; before, the endpoints).
    ListAddresses(Token),
    /// Whether the connection is there: what is refused for another reason than its token is.
    Probe(Token),
}

/// An address to announce to the peer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The connection.
    pub token: Token,
    /// Its id in the connection, never 0.
    pub id: AddressId,
    /// The address; need not be one of this host.
    pub address: IpAddr,
    /// The port to join; 0 means that of the connection.
    pub port: u16,
}

/// A subflow to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSubflow {
    /// The connection.
    pub token: Token,
    /// The address of this host that it is to come from.
    pub local: IpAddr,
    /// That address's id in the connection.
    pub local_id: AddressId,
    /// Where it is to go.
    pub remote: SocketAddr,
    /// The peer's id of that address, as far as is known.
    pub remote_id: AddressId,
    /// It is to carry data only when no other can.
    pub backup: bool,
    /// The interface that it is bound to, if any.
    pub if_index: Option<IfIndex>,
}

/// What names a subflow: both ends in the form that the kernel told, IPv4-mapped or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubflowEnds {
    /// The connection.
    pub token: Token,
    /// This host's end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
}

/// A question about sockets, or the end of one (`sock_diag`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketRequest {
    /// Every Multipath TCP socket of that family that listens.
    Listeners(Family),
    /// Every Multipath TCP connection of that family, closed ones that linger among them.
    Connections(Family),
    /// Every TCP socket of that family that is connected, subflows and others.
    Subflows(Family),
    /// Every TCP socket of that family that waits for the first answer to its request to connect.
    Beginning(Family),
    /// The connection with that token; refused with [`Errno::NOENT`](crate::types::Errno::NOENT) if there is
    /// none (any more).
    Connection(Token),
    /// The TCP socket with these ends, bound to that interface if it is bound to one.
    ///
    /// Where there is none, the answer may be one that listens on the local end
    /// (net/ipv4/inet_hashtables.c, `__inet_lookup`): look at its state.
    Subflow(SocketId),
    /// Closes that TCP socket at once, without another word to the peer than a reset.
    ///
    /// Its cookie has to be that of an answer: with [`Cookie::ANY`](crate::diag::Cookie::ANY) an application's
    /// listener on the same port may be meant in place of a subflow that has gone.
    Destroy(SocketId),
}

impl From<PathCommand> for Request {
    fn from(command: PathCommand) -> Self {
        Self::Path(command)
    }
}

impl From<SocketRequest> for Request {
    fn from(request: SocketRequest) -> Self {
        Self::Sockets(request)
    }
}

impl SocketRequest {
    /// Whether it is a dump, of which the kernel does one at a time.
    #[must_use]
    pub const fn is_dump(&self) -> bool {
        match self {
            Self::Listeners(_) | Self::Connections(_) | Self::Subflows(_) | Self::Beginning(_) => true,
            Self::Connection(_) | Self::Subflow(_) | Self::Destroy(_) => false,
        }
    }

    /// Whether the answers are about connections and listeners, rather than about TCP sockets.
    #[must_use]
    pub const fn is_about_mptcp(&self) -> bool {
        match self {
            Self::Listeners(_) | Self::Connections(_) | Self::Connection(_) => true,
            Self::Subflows(_) | Self::Beginning(_) | Self::Subflow(_) | Self::Destroy(_) => false,
        }
    }

    /// Whether it is a question to which there is one answer at most.
    #[must_use]
    pub const fn is_about_one(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Subflow(_) => true,
            Self::Listeners(_) | Self::Connections(_) | Self::Subflows(_) | Self::Beginning(_) | Self::Destroy(_) => {
                false
            }
        }
    }
}

impl fmt::Display for SocketRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listeners(family) => write!(f, "list {family} listeners"),
            Self::Connections(family) => write!(f, "list {family} connections"),
            Self::Subflows(family) => write!(f, "list {family} subflows"),
            Self::Beginning(family) => write!(f, "list {family} subflows that are begun"),
            Self::Connection(token) => write!(f, "look for connection: token {token}"),
            Self::Subflow(id) => write!(f, "look for subflow: {id}"),
            Self::Destroy(id) => write!(f, "reset subflow: {id}"),
        }
    }
}

impl fmt::Display for Advertisement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} {} id {}", self.token, self.address, self.id)?;
        if self.port != 0 { write!(f, " port {}", self.port) } else { Ok(()) }
    }
}

impl fmt::Display for NewSubflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} {} id {}", self.token, self.local, self.local_id)?;
        write!(f, " - {} id {}", self.remote, self.remote_id)?;
        if self.backup {
            f.write_str(" backup")?;
        }
        match self.if_index {
            Some(index) => write!(f, " interface {index}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for SubflowEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} {} - {}", self.token, self.local, self.remote)
    }
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

impl fmt::Display for PathCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Announce(advertisement) => write!(f, "announce address: {advertisement}"),
            Self::Remove(token, id) => write!(f, "withdraw address: token {token} id {id}"),
            Self::CreateSubflow(subflow) => write!(f, "create subflow: {subflow}"),
            Self::DestroySubflow(ends) => write!(f, "close subflow: {ends}"),
            Self::SetBackup(ends, true) => write!(f, "make subflow a backup: {ends}"),
            Self::SetBackup(ends, false) => write!(f, "make subflow no backup: {ends}"),
            Self::ListAddresses(token) => write!(f, "list addresses: token {token}"),
            Self::Probe(token) => write!(f, "ask whether a connection is there: token {token}"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DumpLinks => f.write_str("list interfaces"),
            Self::DumpAddresses => f.write_str("list addresses"),
            Self::AskRoute(question) => {
                let RouteQuestion { source, destination, if_index, bound } = question;
                f.write_str("look up route")?;
                if let Some(source) = source {
                    write!(f, " from {source}")?;
                }
                write!(f, " to {destination} through interface {if_index}")?;
                if *bound { Ok(()) } else { f.write_str(", not bound to it") }
            }
            Self::Pm(command) => command.fmt(f),
            Self::Path(command) => command.fmt(f),
            Self::Sockets(request) => request.fmt(f),
        }
    }
}
