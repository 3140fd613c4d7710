//! What a path manager is shown of one connection, and the paths that it may want for it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::LocalAddress;
use crate::types::{AddressId, IfIndex, Token};

/// One fully established connection. Every address in it is shown as plain IPv4 or IPv6, whichever
/// form the sockets use.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionView<'a> {
    /// Its token on this host.
    pub token: Token,
    /// The time.
    pub now: Instant,
    /// Which end this host is.
    pub side: Side,
    /// This host's end of the initial subflow, whether that still lives or not.
    pub local: SocketAddr,
    /// The addresses of the peer that may be joined, the initial one first; that one is not there when
    /// the peer forbids joins to it (RFC 8684, section 3.1, flag C). Only those of a family that the
    /// connection can carry, and on the side that accepted the connection only announced ones.
    pub remotes: &'a [Remote],
    /// The subflows that are established.
    pub subflows: &'a [Subflow],
    /// Paths that were wanted before and are not established.
    pub attempts: &'a [Attempt],
}

/// Which end of a connection this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// It connected.
    Client,
    /// It accepted.
    Server,
}

/// An address of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where to connect to.
    pub address: SocketAddr,
    /// The peer's id of it, 0 for the initial one.
    pub id: AddressId,
}

/// An established subflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subflow {
    /// This host's end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// The interface that has its local address, if one has.
    pub if_index: Option<IfIndex>,
    /// Who opened it.
    pub origin: Origin,
    /// Since when it has been there, as far as is known.
    pub since: Instant,
    /// The peer wishes it to carry data only when no other can.
    pub backup_by_peer: bool,
    /// How it fares.
    pub health: Health,
}

/// How an established subflow fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing speaks against it.
    Sound,
    /// It may be there in name only: its link or address was away for a while, or no answer comes on it
    /// and there is nothing to tell whether that is its own fault.
    Suspect(Trouble),
    /// It carries nothing, and is closed as soon as another works.
    Dead(Trouble),
}

/// What a path suffers from, or was lost to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What happened.
    pub cause: Cause,
    /// Since when, or when.
    pub since: Instant,
}

/// What can happen to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its link is gone, down or without carrier.
    Link,
    /// Its address is gone or not valid any more.
    Address,
    /// What was sent on it is not acknowledged, or what the peer sent on it does not come. Found only on the
    /// side that connected, and unless the configuration says that it is not to be looked for.
    Silence,
    /// Somebody reset it: the peer, something between, or somebody on this host.
    Reset,
    /// The kernel gave it up after many retransmissions.
    TimedOut,
    /// The peer closed it.
    Closed,
}

impl Health {
    /// Whether nothing speaks against it.
    #[must_use]
    pub const fn is_sound(self) -> bool {
        matches!(self, Self::Sound)
    }

    /// Whether it must be replaced: dead, or back from the dead. One on which answers are merely missed
    /// may still be the best there is.
    #[must_use]
    pub const fn is_lost(self) -> bool {
        match self {
            Self::Sound => false,
            Self::Suspect(trouble) => !matches!(trouble.cause, Cause::Silence),
            Self::Dead(_) => true,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "its link is down",
            Self::Address => "its address is gone",
            Self::Silence => "no answer comes",
            Self::Reset => "it was reset",
            Self::TimedOut => "it timed out",
            Self::Closed => "the peer closed it",
        })
    }
}

/// Who opened a subflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The connection began with it.
    Initial,
    /// This host joined.
    Local,
    /// The peer joined.
    Peer,
}

/// A path that is not established (yet, or any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The address of this host.
    pub local: IpAddr,
    /// Its interface.
    pub if_index: IfIndex,
    /// The address of the peer.
    pub remote: SocketAddr,
    /// How it stands.
    pub state: AttemptState,
    /// How often it failed in a row.
    pub failures: u32,
    /// What it was lost to, if it was there before and is to come back.
    pub lost: Option<Trouble>,
}

/// How a path that is not established stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// The engine is about to begin it.
    Wanted,
    /// The kernel has no route for it.
    NoRoute,
    /// Begun at that time, not answered yet.
    Pending(Instant),
    /// It failed and will be tried again at that time, or when a link, address or route comes back.
    Failed(Instant),
    /// The peer refused it, and will be asked again at that time.
    Refused(Instant),
}

impl<'a> ConnectionView<'a> {
    /// Whether a subflow from that address to that one is established and not lost; it may be suspect for its
    /// silence.
    #[must_use]
    pub fn is_up(&self, local: IpAddr, remote: SocketAddr) -> bool {
        self.subflows.iter().any(|flow| !flow.health.is_lost() && flow.local.ip() == local && flow.remote == remote)
    }

    /// The subflows of an interface.
    pub fn subflows_on(&self, if_index: IfIndex) -> impl Iterator<Item = &'a Subflow> + use<'a> {
        self.subflows.iter().filter(move |flow| flow.if_index == Some(if_index))
    }
}

/// What a path manager remembers of one connection between two looks: plain data that the engine keeps
/// and drops when the connection ends or the configuration changes. 0 at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memo(pub u64);

/// The paths wanted for one connection, in order of preference: where there is a cap, the first count.
#[derive(Debug, Default)]
pub struct Paths {
    pub(crate) subflows: Vec<WantedSubflow>,
    pub(crate) announcements: Vec<WantedAnnouncement>,
    pub(crate) wake_at: Option<Instant>,
    pub(crate) only_these: bool,
    pub(crate) watch_single: bool,
}

/// A subflow wanted: that one, whoever opened it, or else a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedSubflow {
    /// An address of this host.
    pub local: IpAddr,
    /// Its interface.
    pub if_index: IfIndex,
    /// An address of the peer.
    pub remote: SocketAddr,
    /// It is to carry data only when no other can.
    pub backup: bool,
}

/// An address to be announced to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedAnnouncement {
    /// The address that the peer is to join.
    pub address: IpAddr,
    /// The port that it is to join; `None` means that of the connection.
    pub port: Option<u16>,
    /// The address of this host behind it, where joins arrive; the same unless a translator stands
    /// between.
    pub local: IpAddr,
}

impl Paths {
    /// Wants a subflow; wanting the same again wants one more of them.
    pub fn subflow(&mut self, local: &LocalAddress<'_>, remote: &Remote) {
        self.push(local, remote, local.backup);
    }

    /// The same, but one that is to carry data only when no other can, whatever the rules say.
    pub fn backup_subflow(&mut self, local: &LocalAddress<'_>, remote: &Remote) {
        self.push(local, remote, true);
    }

    fn push(&mut self, local: &LocalAddress<'_>, remote: &Remote, backup: bool) {
        if local.address.is_ipv4() == remote.address.is_ipv4() {
            let (local, if_index) = (local.address, local.if_index);
            self.subflows.push(WantedSubflow { local, if_index, remote: remote.address, backup });
        }
    }

    /// Wants an address announced, and the daemon to listen there where no application does.
    pub fn announce(&mut self, announcement: WantedAnnouncement) {
        if !self.announcements.contains(&announcement) {
            self.announcements.push(announcement);
        }
    }

    /// Asks to be asked again at that time at the latest, though nothing else may have changed.
    pub fn wake_at(&mut self, time: Instant) {
        self.wake_at = Some(self.wake_at.map_or(time, |other| other.min(time)));
    }

    /// Forbids what is not wanted: a subflow that the peer opened and that is none of those wanted is
    /// closed after a second. Without this, joins of the peer are left alone.
    pub fn only_these(&mut self) {
        self.only_these = true;
    }

    /// Has the connection watched for answers that do not come also while it has one subflow only, because
    /// another would then be wanted: it turns [suspect](Health::Suspect), as there is nothing to compare
    /// it with. With several, that is done in any case.
    pub fn watch_single(&mut self) {
        self.watch_single = true;
    }

    /// The subflows wanted so far.
    #[must_use]
    pub fn subflows(&self) -> &[WantedSubflow] {
        &self.subflows
    }

    /// The announcements wanted so far.
    #[must_use]
    pub fn announcements(&self) -> &[WantedAnnouncement] {
        &self.announcements
    }

    pub(crate) fn clear(&mut self) {
        self.subflows.clear();
        self.announcements.clear();
        self.wake_at = None;
        self.only_these = false;
        self.watch_single = false;
    }
}
