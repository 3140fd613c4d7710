//! What the kernel says of sockets (`sock_diag`), as plain values: listeners, connections and the TCP
//! sockets that are their subflows. It can be asked at any time, without a privilege.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::types::{AddressId, IfIndex, Token};

/// A socket (`struct inet_diag_msg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// What names it.
    pub id: SocketId,
    /// Its state.
    pub state: TcpState,
    /// Number of its file; 0 where there is none: closed by the application, or not yet accepted. A subflow
    /// has that of its connection.
    pub inode: u32,
    /// For IPv6 listeners: it takes no IPv4 connections.
    pub v6_only: bool,
    /// What Multipath TCP is to it.
    pub role: Role,
    /// How its transfer goes, where it is a TCP socket.
    pub transfer: Option<Transfer>,
}

/// How the transfer on a TCP socket goes (`struct tcp_info`, include/uapi/linux/tcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Segments that were sent and are not acknowledged,
    pub unacknowledged: u32,
    /// and their bytes.
    pub outstanding: u32,
    /// Bytes of a segment, at most.
    pub segment: u32,
    /// Smoothed round-trip time.
    pub round_trip: Duration,
    /// Its mean deviation.
    pub deviation: Duration,
    /// The round-trip time as far as a receiver can tell; 0 if it cannot.
    pub receiver_round_trip: Duration,
    /// When the kernel would send again what is not acknowledged.
    pub timeout: Duration,
    /// How long ago the last acknowledgement came, of whatever.
    pub last_acknowledgement: Duration,
    /// How long ago data came; meaningless if none did.
    pub last_data: Duration,
    /// Bytes that the peer acknowledged (RFC 4898, `tcpEStatsAppHCThruOctetsAcked`).
    pub acknowledged: u64,
    /// Bytes that came in order and that nobody has read, the connection for instance.
    pub unread: u32,
    /// Bytes that came in order (RFC 4898, `tcpEStatsAppHCThruOctetsReceived`).
    pub received: u64,
    /// Segments were lost, and the kernel is sending them again (`TCP_CA_Recovery`, `TCP_CA_Loss`).
    pub recovering: bool,
    /// Bytes for which the peer has room beyond what it acknowledged; `None` if the kernel does not say.
    pub window: Option<u32>,
    /// Segments that came, of whatever kind.
    pub segments: u32,
    /// Of them, those that came out of order: others are missing before them. 0 if the kernel does not say.
    pub out_of_order: u32,
    /// Bytes per second that the peer acknowledged lately; 0 if that was not measured yet.
    pub delivery_rate: u64,
}

/// What names a socket to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    /// This host's end; IPv4 may be in its IPv6-mapped form.
    pub local: SocketAddr,
    /// The peer's end, in the same form; unspecified for a listener.
    pub remote: SocketAddr,
    /// The interface that it is bound to, if any.
    pub if_index: Option<IfIndex>,
    /// Tells it from an earlier or later one of the same ends.
    pub cookie: Cookie,
}

/// Number that the kernel gives to a socket, and to no other while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cookie(pub u64);

impl Cookie {
    /// Whichever socket it is (`INET_DIAG_NOCOOKIE`).
    pub const ANY: Self = Self(u64::MAX);
}

/// State of a socket (include/net/tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpState(pub u8);

impl TcpState {
    /// Connected.
    pub const ESTABLISHED: Self = Self(1);
    /// Has asked the peer to connect.
    pub const SYN_SENT: Self = Self(2);
    /// Over.
    pub const CLOSE: Self = Self(7);
    /// Listens.
    pub const LISTEN: Self = Self(10);

    /// Whether it is connected, be it closed by one side or both: `TCP_ESTABLISHED`, `TCP_FIN_WAIT1`,
    /// `TCP_FIN_WAIT2`, `TCP_CLOSE_WAIT`, `TCP_LAST_ACK`, `TCP_CLOSING`.
    #[must_use]
    pub const fn is_connected(self) -> bool {
        matches!(self.0, 1 | 4 | 5 | 8 | 9 | 11)
    }
}

/// What Multipath TCP is to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is a connection or a listener.
    Connection(ConnectionInfo),
    /// It is a TCP socket that is a subflow.
    Subflow(SubflowInfo),
    /// It is a TCP socket of another kind, or the kernel does not say.
    Other,
}

/// What there is to know of a connection (`struct mptcp_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Its token on this host; 0 for a listener.
    pub token: Token,
    /// It is a plain TCP connection by now.
    pub fallback: bool,
    /// Number of the next byte to be sent.
    pub write_sequence: u64,
    /// Number of the first byte that the peer has not acknowledged.
    pub unacknowledged: u64,
    /// Number of the first byte that has not come yet.
    pub receive_next: u64,
}

/// What there is to know of a subflow (`MPTCP_SUBFLOW_ATTR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubflowInfo {
    /// Its connection.
    pub token: Token,
    /// The peer's token, if this host opened the subflow by a join; else 0.
    pub remote_token: Token,
    /// Id of this host's address.
    pub local_id: AddressId,
    /// Id of the peer's address.
    pub remote_id: AddressId,
    /// `MPTCP_SUBFLOW_FLAG_*`.
    pub flags: SubflowFlags,
}

/// Flags of a subflow (`MPTCP_SUBFLOW_FLAG_*`, include/uapi/linux/mptcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubflowFlags(pub u32);

impl SubflowFlags {
    /// The initial subflow, the peer's capability seen.
    pub const CAPABLE_REMOTE: Self = Self(1);
    /// The initial subflow, which this host opened.
    pub const CAPABLE_LOCAL: Self = Self(2);
    /// A join, the peer's part seen.
    pub const JOIN_REMOTE: Self = Self(4);
    /// A join, which this host opened.
    pub const JOIN_LOCAL: Self = Self(8);
    /// The peer wants data here only when no other subflow can carry it.
    pub const BACKUP_REMOTE: Self = Self(0x10);
    /// This host wants so.
    pub const BACKUP_LOCAL: Self = Self(0x20);
    /// The connection is fully established.
    pub const FULLY_ESTABLISHED: Self = Self(0x40);

    /// Whether every flag of `other` is set here.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Transfer {
    /// What matters where something is amiss.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unacknowledged, segment, delivery_rate, .. } = self;
        let (round_trip, deviation) = (self.round_trip.as_micros(), self.deviation.as_micros());
        let outstanding = self.outstanding;
        write!(f, "{unacknowledged} segments wait ({outstanding} bytes of {segment} each at most)")?;
        write!(f, ", round trip {round_trip} +- {deviation} us")?;
        write!(f, ", {delivery_rate} bytes/s")?;
        self.window.map_or(Ok(()), |window| write!(f, ", window {window}"))?;
        if self.recovering { f.write_str(", recovering") } else { Ok(()) }
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} - {}", self.local, self.remote)?;
        match self.if_index {
            Some(index) => write!(f, " interface {index}"),
            None => Ok(()),
        }
    }
}
