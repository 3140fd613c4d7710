//! What the kernel says, as plain values: changes of links, addresses and routes (rtnetlink), and what
//! happens to Multipath TCP connections (`mptcp_pm`). Nothing here knows bytes or draws conclusions.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::types::{AddressId, EndpointFlags, Errno, IfIndex, Token};

/// A change of the host's network, or an entry of a dump of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkEvent<'a> {
    /// An interface is new, changed or simply there.
    Link(Link<'a>),
    /// An interface is gone, and every address of it.
    LinkGone(IfIndex),
    /// An address is new, changed or simply there.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// What a lookup of a route answers may have changed.
    RoutingChanged(RoutingChange),
}

/// An interface (`struct ifinfomsg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// Its index.
    pub index: IfIndex,
    /// `IFF_*`.
    pub flags: LinkFlags,
    /// Its name, at most 15 bytes, not always UTF-8; `None` if the message did not say.
    pub name: Option<&'a [u8]>,
    /// The interface that it is a port of: a bridge, a bond or a VRF.
    pub master: Option<IfIndex>,
    /// What made it, `veth` or `wireguard` for instance; `None` for a device of the hardware's own.
    pub kind: Option<&'a [u8]>,
    /// Further names of it, each at most 127 bytes.
    pub alternative_names: Names<'a>,
}

impl Link<'_> {
    /// An interface of which no more is known.
    #[must_use]
    pub const fn new(index: IfIndex, flags: LinkFlags) -> Self {
        Self { index, flags, name: None, master: None, kind: None, alternative_names: Names::NONE }
    }
}

/// Names in the form in which they were told; iterating makes no copy.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    told: &'a [u8],
    /// Takes the first name off.
    next: fn(&mut &'a [u8]) -> Option<&'a [u8]>,
}

impl<'a> Names<'a> {
    /// No names.
    pub const NONE: Self = Self { told: &[], next: |_| None };

    /// The names that `next` takes off `told`, one after the other, until it finds no more.
    #[must_use]
    pub const fn new(told: &'a [u8], next: fn(&mut &'a [u8]) -> Option<&'a [u8]>) -> Self {
        Self { told, next }
    }
}

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        (self.next)(&mut self.told)
    }
}

impl PartialEq for Names<'_> {
    fn eq(&self, other: &Self) -> bool {
        (*self).eq(*other)
    }
}

impl Eq for Names<'_> {}

impl fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.map(String::from_utf8_lossy)).finish()
    }
}

/// Flags of an interface (`IFF_*`, include/uapi/linux/if.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFlags(pub u32);

impl LinkFlags {
    /// Administratively up.
    pub const UP: Self = Self(1);
    /// The loopback interface.
    pub const LOOPBACK: Self = Self(8);
    /// Operational: carrier, and not dormant.
    pub const RUNNING: Self = Self(0x40);
    /// Carrier is there.
    pub const LOWER_UP: Self = Self(0x1_0000);

    /// Whether every flag of `other` is set here.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for LinkFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is = |flag, yes, no| if self.contains(flag) { yes } else { no };
        f.write_str(is(Self::UP, "up", "down"))?;
        f.write_str(is(Self::LOWER_UP, ", carrier", ", no carrier"))?;
        f.write_str(is(Self::RUNNING, ", running", ", not running"))
    }
}

/// An address of an interface (`struct ifaddrmsg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface that has it.
    pub if_index: IfIndex,
    /// The host's own address: IFA_LOCAL where there is one, else IFA_ADDRESS.
    pub address: IpAddr,
    /// IFA_ADDRESS: the far end of a point-to-point link, else the same as `address`.
    pub peer: IpAddr,
    /// Length of the prefix, in bits.
    pub prefix_length: u8,
    /// What the address is good for.
    pub scope: Scope,
    /// `IFA_F_*`.
    pub flags: AddressFlags,
}

/// Scope of an address (`RT_SCOPE_*`, include/uapi/linux/rtnetlink.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope(pub u8);

impl Scope {
    /// Good on its link only.
    pub const LINK: Self = Self(253);
    /// Good on this host only.
    pub const HOST: Self = Self(254);
}

/// Flags of an address (`IFA_F_*`, include/uapi/linux/if_addr.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressFlags(pub u32);

impl AddressFlags {
    /// For IPv6, an address of privacy extensions; for IPv4, a secondary one.
    pub const TEMPORARY: Self = Self(1);
    /// Usable although duplicate address detection has not ended (RFC 4429).
    pub const OPTIMISTIC: Self = Self(4);
    /// Duplicate address detection failed.
    pub const DAD_FAILED: Self = Self(8);
    /// Not to be used for new connections.
    pub const DEPRECATED: Self = Self(0x20);
    /// Duplicate address detection has not ended.
    pub const TENTATIVE: Self = Self(0x40);

    /// Whether every flag of `other` is set here.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for AddressFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flags {:#x}", self.0)?;
        for (flag, text) in [
            (Self::TENTATIVE, ", tentative"),
            (Self::OPTIMISTIC, ", optimistic"),
            (Self::DAD_FAILED, ", duplicate"),
            (Self::DEPRECATED, ", deprecated"),
        ] {
            if self.contains(flag) {
                f.write_str(text)?;
            }
        }
        Ok(())
    }
}

/// A change of the routing state, as far as the message tells what it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingChange {
    /// A route to that prefix came, changed or went.
    Prefix(IpAddr, u8),
    /// Something that may touch every route: a rule, a next-hop object.
    Everything,
}

impl fmt::Display for RoutingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(address, length) => write!(f, "route to {address}/{length} changed"),
            Self::Everything => f.write_str("rules or next hops of routing changed"),
        }
    }
}

/// Answer to the question which route a packet would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteAnswer {
    /// The route leads to other hosts, rather than to this one, to many, or to nothing.
    pub unicast: bool,
    /// The route leaves by the interface that was asked for.
    pub through: bool,
}

/// An endpoint of the kernel's own path manager (`MPTCP_PM_ADDR_ATTR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id; 0 where the kernel is to choose or does not say.
    pub id: AddressId,
    /// The address.
    pub address: IpAddr,
    /// The port announced with it; 0 means that of each connection.
    pub port: u16,
    /// Its flags.
    pub flags: EndpointFlags,
    /// The interface that subflows from it are bound to, if any.
    pub if_index: Option<IfIndex>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} id {}", self.address, self.id)?;
        if self.port != 0 {
            write!(f, " port {}", self.port)?;
        }
        write!(f, " flags {}", self.flags)?;
        match self.if_index {
            Some(index) => write!(f, " interface {index}"),
            None => Ok(()),
        }
    }
}

/// Limits of the kernel's own path manager, for every connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Subflows besides the initial one.
    pub subflows: u32,
    /// Announced addresses that are used for subflows.
    pub add_addr_accepted: u32,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "subflows {} add_addr_accepted {}", self.subflows, self.add_addr_accepted)
    }
}

/// What happened to a Multipath TCP connection or listener (`MPTCP_EVENT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MptcpEvent {
    /// A connection was made; the peer has not confirmed it yet.
    Created(Connection),
    /// A connection is fully established: subflows may be created.
    Established(Connection),
    /// A connection was closed by its application.
    Closed(Token),
    /// The peer announced an address; may repeat.
    Announced(Announcement),
    /// The peer withdrew the address with that id.
    Removed(Token, AddressId),
    /// A subflow other than the initial one was established.
    SubflowEstablished(Subflow),
    /// A subflow was closed, or could not be established.
    SubflowClosed(Subflow),
    /// The peer changed its backup wish for a subflow.
    SubflowPriority(Subflow),
    /// A Multipath TCP socket began to listen.
    ListenerCreated(SocketAddr),
    /// A Multipath TCP socket stopped listening.
    ListenerClosed(SocketAddr),
}

/// A connection as CREATED and ESTABLISHED describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its token on this host.
    pub token: Token,
    /// This host's end of the initial subflow; IPv4 may be in its IPv6-mapped form.
    pub local: SocketAddr,
    /// The peer's end of it.
    pub remote: SocketAddr,
    /// This host accepted the connection.
    pub server_side: bool,
    /// The peer forbids joins to its initial address and port (RFC 8684, section 3.1, flag C).
    pub deny_join_id0: bool,
}

/// A subflow as the SUB_* events describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subflow {
    /// Its connection.
    pub token: Token,
    /// This host's end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Id of this host's address.
    pub local_id: AddressId,
    /// Id of the peer's address.
    pub remote_id: AddressId,
    /// The peer's wish that it carry data only when no other can.
    pub backup: bool,
    /// The interface that it is bound to, if it is.
    pub if_index: Option<IfIndex>,
    /// Why it was closed, if for an error.
    pub error: Option<Errno>,
    /// Reason and flags of an MP_TCPRST option that closed it (RFC 8684, section 3.6).
    pub reset: Option<Reset>,
}

/// Content of an MP_TCPRST option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// RFC 8684, section 3.6, table 3.
    pub reason: u32,
    /// The peer holds the cause to be transient.
    pub transient: bool,
}

/// An address that a peer announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The connection.
    pub token: Token,
    /// The peer's id of the address.
    pub remote_id: AddressId,
    /// The address, and the port to join: where the peer gave none, the kernel fills in that of the
    /// subflow which carried the announcement.
    pub remote: SocketAddr,
}

impl MptcpEvent {
    /// The connection that it is about, if it is about one.
    #[must_use]
    pub const fn token(&self) -> Option<Token> {
        match self {
            Self::Created(connection) | Self::Established(connection) => Some(connection.token),
            Self::Closed(token) | Self::Removed(token, _) => Some(*token),
            Self::Announced(announcement) => Some(announcement.token),
            Self::SubflowEstablished(subflow) | Self::SubflowClosed(subflow) | Self::SubflowPriority(subflow) => {
                Some(subflow.token)
            }
            Self::ListenerCreated(_) | Self::ListenerClosed(_) => None,
        }
    }
}

impl fmt::Display for MptcpEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(connection) => write!(f, "connection created: {connection}"),
            Self::Established(connection) => write!(f, "connection established: {connection}"),
            Self::Closed(token) => write!(f, "connection closed: token {token}"),
            Self::Announced(a) => {
                write!(f, "address announced: token {} id {} {}", a.token, a.remote_id, a.remote)
            }
            Self::Removed(token, id) => write!(f, "address removed: token {token} id {id}"),
            Self::SubflowEstablished(subflow) => write!(f, "subflow established: {subflow}"),
            Self::SubflowClosed(subflow) => write!(f, "subflow closed: {subflow}"),
            Self::SubflowPriority(subflow) => write!(f, "subflow priority: {subflow}"),
            Self::ListenerCreated(address) => write!(f, "listener created: {address}"),
            Self::ListenerClosed(address) => write!(f, "listener closed: {address}"),
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.server_side { "server" } else { "client" };
        write!(f, "token {} {} - {} {side}", self.token, self.local, self.remote)?;
        if self.deny_join_id0 { f.write_str(" deny_join_id0") } else { Ok(()) }
    }
}

impl fmt::Display for Subflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} {} id {}", self.token, self.local, self.local_id)?;
        write!(f, " - {} id {}", self.remote, self.remote_id)?;
        if self.backup {
            f.write_str(" backup")?;
        }
        if let Some(index) = self.if_index {
            write!(f, " interface {index}")?;
        }
        if let Some(error) = self.error {
            write!(f, " error: {error}")?;
        }
        match self.reset {
            Some(reset) => {
                let lasting = if reset.transient { "transient" } else { "lasting" };
                write!(f, " reset by peer: reason {} ({lasting})", reset.reason)
            }
            None => Ok(()),
        }
    }
}
