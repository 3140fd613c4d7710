//! What the engine tells the log, as values: made only when somebody reads them, worded in one place.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::command::SubflowEnds;
use crate::diag::Transfer;
use crate::event::{Endpoint, Limits};
use crate::network::Verdict;
use crate::plugin::Health;
use crate::types::Errno;

/// One thing worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Whether an address is used, and why.
    Address { address: IpAddr, interface: Box<str>, verdict: Verdict },
    /// An endpoint is there that another added, for an address that is wanted.
    Foreign(Endpoint),
    /// An endpoint that another added while the daemon runs, for an address of this host's.
    Rival(Endpoint),
    /// A VPN leads to the Internet, so that there are no endpoints.
    Vpn(Box<str>),
    /// An endpoint of ours was taken away by another.
    Lost(Endpoint),
    /// More endpoints are wanted than the kernel takes.
    Full { taken: usize, wanted: usize },
    /// The kernel refused a command, in its words; said once for each error.
    Refused { command: String, errno: Errno, text: Box<str>, again: bool },
    /// The kernel did not answer a request.
    Unanswered,
    /// Messages of the kernel were lost: how often since the last time this was said.
    Overrun(u32),
    /// Limits of the kernel's path manager were raised, or put back.
    LimitsSet(Limits),
    /// An endpoint wanted by the path manager cannot be one.
    Nonsense { address: IpAddr, why: &'static str },
    /// The daemon listens there, so that peers can join an address that it announces.
    Listening(SocketAddr),
    /// It cannot; said once for each error.
    CannotListen { address: SocketAddr, errno: Errno, again: bool },
    /// Nobody listens on the port of a connection at an IPv6 address, which cannot be announced with another.
    NoPortForIpv6(SocketAddr),
    /// Subflows from that address would leave by the interface of another.
    LeadsElsewhere { source: IpAddr, destination: IpAddr },
    /// A subflow fares otherwise than before, as so long a silence shows.
    Health { ends: SubflowEnds, health: Health, silent: Duration, transfer: Box<Transfer> },
    /// Connections were there of which no event had told, with so many subflows; at start, or after events
    /// were lost.
    Found { connections: usize, subflows: usize, first: bool },
    /// The kernel does not list connections; whether that was told before.
    NoLists(bool),
    /// The host's network has been read.
    Settled { addresses: usize, endpoints: usize },
}

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Warning,
    Info,
    Debug,
}

impl Note {
    /// Nothing that can happen again and again is above debug, unless it is said once.
    pub(crate) fn severity(&self) -> Severity {
        match self {
            Self::Full { .. }
            | Self::Rival(_)
            | Self::Vpn(_)
            | Self::Overrun(_)
            | Self::Nonsense { .. }
            | Self::LeadsElsewhere { .. } => Severity::Warning,
            Self::Refused { again, .. } if !again => Severity::Warning,
            Self::CannotListen { again, .. } if !again => Severity::Warning,
            Self::LimitsSet(_)
            | Self::Listening(_)
            | Self::CannotListen { .. }
            | Self::Address { .. }
            | Self::Health { .. }
            | Self::Foreign(_)
            | Self::Lost(_)
            | Self::Refused { .. }
            | Self::Found { first: false, .. }
            | Self::NoLists(true)
            | Self::Unanswered => Severity::Debug,
            Self::Found { .. } | Self::NoLists(false) | Self::Settled { .. } | Self::NoPortForIpv6(_) => Severity::Info,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, verdict: Ok(()), .. } => write!(f, "address {address} is used"),
            Self::Address { address, verdict: Err(why), .. } => write!(f, "address {address} is not used: {why}"),
            Self::Foreign(endpoint) => write!(f, "endpoint of another manager serves: {endpoint}"),
            Self::Rival(endpoint) => write!(
                f,
                "another manager makes endpoints too ({endpoint}): have one only (for NetworkManager, `nmcli connection \
                 modify NAME connection.mptcp-flags disabled`)"
            ),
            Self::Vpn(name) => write!(
                f,
                "{name} is a VPN that leads to the internet: there are no endpoints while it does, as the kernel would use \
                 them beside it (a rule for {name} with `use = true` mixes it with others, one with `use = false` \
                 disregards it)"
            ),
            Self::Lost(endpoint) => write!(f, "endpoint was removed by another: {endpoint}"),
            Self::Full { taken, wanted } => {
                write!(f, "the kernel takes {taken} endpoints, {wanted} are wanted: the best are chosen")
            }
            Self::Refused { command, errno, text, .. } if text.is_empty() => {
                write!(f, "cannot {command}: {errno}")
            }
            Self::Refused { command, errno, text, .. } => write!(f, "cannot {command}: {errno} ({text})"),
            Self::Unanswered => f.write_str("the kernel did not answer a request: looking at everything again"),
            Self::Overrun(times) => {
                write!(f, "some of the kernel's messages were lost ({times}x): everything was read again")
            }
            Self::LimitsSet(limits) => write!(f, "limits are now {limits}"),
            Self::Nonsense { address, why } => write!(f, "endpoint {address} cannot be made: {why}"),
            Self::Listening(address) => write!(f, "listening on {address} for joins to that address"),
            Self::CannotListen { address, errno, .. } => {
                write!(f, "cannot listen on {}: {errno}; it is not announced until that works", address.ip())
            }
            Self::NoPortForIpv6(address) => write!(
                f,
                "ipv6 addresses are announced without a port, for which there is no room beside tcp timestamps: \
                 joins to {address} find no listener (with `sysctl -w net.ipv4.tcp_timestamps=0` the daemon listens)"
            ),
            Self::LeadsElsewhere { source, destination } => write!(
                f,
                "{source} makes no path to {destination}: this kernel binds no subflow to an interface, and packets from \
                 there leave by another (`ip rule add from {source} lookup TABLE`, with a default route in that table)"
            ),
            Self::Health { ends, health: Health::Sound, .. } => write!(f, "subflow is sound again: {ends}"),
            Self::Health { ends, health, silent, transfer } => {
                let state = if matches!(health, Health::Dead(_)) { "dead" } else { "suspect" };
                let missed = if transfer.unacknowledged > 0 { "acknowledgement" } else { "data" };
                write!(f, "subflow is {state}: {ends}: no {missed} for {} ms: {transfer}", silent.as_millis())
            }
            Self::Found { connections, subflows, .. } => {
                write!(f, "{connections} connections with {subflows} subflows are there already")
            }
            Self::NoLists(_) => f.write_str(
                "the kernel does not list connections: those of which no event was seen are not managed (a kernel built \
                 with CONFIG_INET_MPTCP_DIAG lists them)",
            ),
            Self::Settled { addresses, endpoints } => {
                write!(f, "network read: {addresses} usable addresses, {endpoints} endpoints")
            }
        }
    }
}
