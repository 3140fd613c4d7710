//! Who listens where for Multipath TCP: applications, of whom events and the kernel's list tell, and the
//! daemon itself, at addresses that it announces and where no application listens.
//!
//! A listener of the daemon's is shared by all connections that need it, and lives while one does. On
//! IPv4 it never is on an application's port: that would keep an application that is restarted from
//! listening on every address again (`inet_csk_bind_conflict`, whatever SO_REUSEADDR says).

mod report;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::retry::Backoff;
use super::{Failure, Note, Outbox, Output, Ticket};
use crate::command::{Request, SocketRequest};
use crate::connections::{TokenMap, plain};
use crate::diag::{Socket, TcpState};
use crate::event::MptcpEvent;
use crate::types::{Errno, Family, Token};

/// The kernel's list is read at most so often, whatever applications do.
const PAUSE: Duration = Duration::from_millis(100);
/// Listening that failed is tried again after this, then twice as long each time, up to the most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// A listener of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Other {
    address: SocketAddr,
    /// It takes IPv6 only; of those that an event told of that is not known, and taken to be so.
    v6_only: bool,
}

impl Other {
    /// Whether whoever connects to that address and port reaches it.
    fn serves(&self, address: IpAddr, port: u16) -> bool {
        let own = self.address.ip().to_canonical();
        let all = own.is_unspecified() && (own.is_ipv4() == address.is_ipv4() || (own.is_ipv6() && !self.v6_only));
        self.address.port() == port && (all || own == address)
    }
}

/// A listener of the daemon's.
#[derive(Debug)]
struct Own {
    /// Where it was wanted; with port 0 the kernel chooses one.
    wanted: SocketAddr,
    /// Connections that need it.
    users: TokenMap<()>,
    state: State,
    backoff: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Open(SocketAddr),
    Failed(Instant),
}

/// Whether a listener there is one for a wish to listen; on port 0, that is whichever port.
pub(crate) fn serves(address: SocketAddr, wanted: SocketAddr) -> bool {
    address.ip() == wanted.ip() && (wanted.port() == 0 || wanted.port() == address.port())
}

/// How far reading the kernel's list has got.
#[derive(Debug)]
enum Look {
    /// To begin, not before that time.
    Wanted(Instant),
    /// That family is asked for, or about to be; `again`: something happened meanwhile.
    Asked { family: Family, ticket: Option<Ticket>, found: Vec<Other>, again: bool },
    /// The list is right, as far as events told.
    Idle { since: Instant },
}

/// What is needed for joins to an address to find a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Not known yet.
    Unknown,
    /// An application listens there: the address needs no port of its own.
    Nothing,
    /// The daemon is to listen there, and the address to be announced with the port on which it does.
    Own,
    /// The address can only be announced without a port, and nobody listens on that of the connection.
    Nobody,
}

/// Who listens where.
#[derive(Debug)]
pub(super) struct Listeners {
    others: Vec<Other>,
    /// The list was complete once.
    known: bool,
    /// Events tell of listeners (Linux 6.2).
    told_of: bool,
    /// Somebody asked.
    needed: bool,
    own: Vec<Own>,
    look: Look,
    /// TCP timestamps are in use: an announced IPv6 address with a port finds no room beside them.
    timestamps: bool,
    told_timestamps: bool,
    failed_looks: Backoff,
    /// What failed may work now.
    forgiven: bool,
    /// Errors that the log has been told of.
    told: Vec<Errno>,
    /// Since the last call of [`take_changed`](Self::take_changed).
    changed: bool,
}

impl Listeners {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            others: Vec::new(),
            known: false,
            told_of: false,
            needed: false,
            own: Vec::new(),
            look: Look::Wanted(now),
            timestamps: true,
            told_timestamps: false,
            failed_looks: Backoff::default(),
            forgiven: false,
            told: Vec::new(),
            changed: false,
        }
    }

    /// Whether an application listens on that address, or on all, with that port.
    pub(super) fn covers(&self, address: IpAddr, port: u16) -> bool {
        self.others.iter().any(|other| other.serves(address, port))
    }

    /// What is needed before that address is announced for connections that are served on that port.
    pub(super) fn need(&mut self, address: IpAddr, port: u16, outbox: &mut Outbox) -> Need {
        self.needed = true;
        if !self.known {
            return Need::Unknown;
        }
        if self.covers(address, port) {
            return Need::Nothing;
        }
        // The option takes 30 of 40 bytes, timestamps 12 (RFC 8684, section 3.4.1).
        if address.is_ipv6() && self.timestamps {
            if !std::mem::replace(&mut self.told_timestamps, true) {
                outbox.log(Note::NoPortForIpv6(SocketAddr::new(address, port)));
            }
            return Need::Nobody;
        }
        Need::Own
    }

    /// A connection needs a listener of the daemon's own, until it [keeps](Self::keep) it no longer; where it
    /// listens, once it does.
    pub(super) fn acquire(&mut self, token: Token, wanted: SocketAddr, outbox: &mut Outbox) -> Option<SocketAddr> {
        let is_it = |own: &&mut Own| own.wanted == wanted || own.address().is_some_and(|open| serves(open, wanted));
        if let Some(own) = self.own.iter_mut().find(is_it) {
            own.users.insert(token, ());
            return own.address();
        }
        let users = TokenMap::from_iter([(token, ())]);
        self.own.push(Own { wanted, users, state: State::Opening, backoff: Backoff::default() });
        outbox.queue.push_back(Output::Listen(wanted));
        None
    }

    /// A connection needs these and no others. Whom nobody needs is closed; its subflows stay.
    pub(super) fn keep(&mut self, token: Token, needed: &[SocketAddr], outbox: &mut Outbox) {
        self.own.retain_mut(|own| {
            let is_needed = needed.contains(&own.wanted) || own.address().is_some_and(|open| needed.contains(&open));
            if !is_needed && own.users.remove(&token).is_some() && own.users.is_empty() {
                own.close(outbox);
                return false;
            }
            true
        });
    }

    /// Nobody needs listeners any more, nor is told of those of others.
    pub(super) fn forget(&mut self, outbox: &mut Outbox, now: Instant) {
        self.own.drain(..).for_each(|own| own.close(outbox));
        (self.known, self.needed) = (false, false);
        self.look_again(now);
    }

    /// Whether a listener of the daemon's own listens there.
    pub(super) fn is_own(&self, address: SocketAddr) -> bool {
        self.own.iter().any(|own| own.state == State::Open(address))
    }

    /// Whether who listens where has changed.
    pub(super) fn has_work(&self) -> bool {
        self.changed || matches!(self.look, Look::Asked { ticket: None, .. })
    }

    /// The same, since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether new connections use TCP timestamps.
    pub(super) fn use_timestamps(&mut self, timestamps: bool) {
        self.changed |= self.timestamps != timestamps;
        self.timestamps = timestamps;
    }
}

impl Own {
    fn address(&self) -> Option<SocketAddr> {
        match self.state {
            State::Open(address) => Some(address),
            State::Opening | State::Failed(_) => None,
        }
    }

    fn close(&self, outbox: &mut Outbox) {
        match self.state {
            State::Opening | State::Open(_) => outbox.queue.push_back(Output::Unlisten(self.wanted)),
            State::Failed(_) => {}
        }
    }
}

/// What happens.
impl Listeners {
    /// Applies an event, if it is about a listener or tells that there must be one.
    pub(super) fn apply(&mut self, event: &MptcpEvent) {
        self.told_of |= matches!(event, MptcpEvent::ListenerCreated(_) | MptcpEvent::ListenerClosed(_));
        match event {
            MptcpEvent::Created(told) if told.server_side && !self.told_of && self.needs_look(told.local) => {
                self.known = false;
                self.look_soon();
            }
            MptcpEvent::ListenerCreated(address) if !self.is_own(*address) => {
                self.look_soon();
                let other = Other { address: *address, v6_only: true };
                if !self.others.iter().any(|known| known.address == *address) {
                    self.others.push(other);
                    self.changed = true;
                }
            }
            // There may be several of one address: the kernel's list tells.
            MptcpEvent::ListenerClosed(address) if self.others.iter().any(|known| known.address == *address) => {
                self.look_soon();
            }
            _ => {}
        }
    }

    /// Whether nobody is known to listen where somebody does.
    fn needs_look(&self, local: SocketAddr) -> bool {
        let idle = matches!(self.look, Look::Idle { .. });
        self.known && idle && !self.covers(local.ip().to_canonical(), local.port()) && !self.is_own(plain(local))
    }

    /// It is time to read the list where events do not tell of it.
    pub(super) fn look_now_and_then(&mut self, now: Instant) {
        if self.needed && !self.told_of && matches!(self.look, Look::Idle { .. }) {
            self.look = Look::Wanted(now);
        }
    }

    fn look_soon(&mut self) {
        match &mut self.look {
            Look::Idle { since } => self.look = Look::Wanted(*since + PAUSE),
            Look::Asked { again, .. } => *again = true,
            Look::Wanted(_) => {}
        }
    }

    /// Events, or answers, were lost.
    pub(super) fn look_again(&mut self, now: Instant) {
        self.look = Look::Wanted(now);
    }

    /// Takes a part of the kernel's list.
    pub(super) fn collect(&mut self, ticket: Ticket, socket: &Socket) {
        let own = self.is_own(socket.id.local);
        let Look::Asked { ticket: asked, found, .. } = &mut self.look else { return };
        if *asked == Some(ticket) && socket.state == TcpState::LISTEN && !own {
            found.push(Other { address: socket.id.local, v6_only: socket.v6_only });
        }
    }

    /// Takes the end of a request; whether it was one of these.
    pub(super) fn end(&mut self, ticket: Ticket, result: Result<(), Failure<'_>>, now: Instant) -> bool {
        let Look::Asked { family, ticket: asked, found, again } = &mut self.look else { return false };
        if *asked != Some(ticket) {
            return false;
        }
        match (result, *family) {
            (Ok(()), Family::V4) => (*family, *asked) = (Family::V6, None),
            (Ok(()), Family::V6) => {
                let (found, again) = (std::mem::take(found), *again);
                self.failed_looks.reset();
                self.take_list(found);
                self.look = if again { Look::Wanted(now + PAUSE) } else { Look::Idle { since: now } };
            }
            (Err(Failure::Interrupted), _) => self.look = Look::Wanted(now + PAUSE),
            (Err(Failure::Refused(refusal)), _) if refusal.errno == Errno::BUSY => {
                self.look = Look::Wanted(now + PAUSE)
            }
            (Err(Failure::Refused(_)), _) => self.cannot_look(now),
        }
        true
    }

    /// A kernel without CONFIG_INET_MPTCP_DIAG has no list: there are only those of whom events told.
    fn cannot_look(&mut self, now: Instant) {
        self.take_list(self.others.clone());
        self.look = Look::Wanted(self.failed_looks.after_failure(now, FIRST_RETRY, LONGEST_RETRY, 0));
    }

    fn take_list(&mut self, mut found: Vec<Other>) {
        found.sort_unstable();
        found.dedup();
        self.changed |= !self.known || self.others != found;
        (self.others, self.known) = (found, true);
    }

    /// Takes what became of a wish to listen.
    pub(super) fn listening(
        &mut self,
        wanted: SocketAddr,
        result: Result<SocketAddr, Errno>,
        outbox: &mut Outbox,
        now: Instant,
    ) {
        let Some(own) = self.own.iter_mut().find(|own| own.wanted == wanted) else { return };
        self.changed = true;
        match result {
            Ok(address) => {
                own.backoff.reset();
                own.state = State::Open(address);
                outbox.debug(|| Note::Listening(address));
            }
            Err(errno) => {
                let seed = u64::from(wanted.port());
                own.state = State::Failed(own.backoff.after_failure(now, FIRST_RETRY, LONGEST_RETRY, seed));
                let again = self.told.contains(&errno);
                if !again {
                    self.told.push(errno);
                }
                outbox.log(Note::CannotListen { address: wanted, errno, again });
            }
        }
    }

    /// The addresses of the host are others: what failed is tried at once.
    pub(super) fn network_changed(&mut self) {
        self.forgiven = true;
    }

    /// Reads the kernel's list, and tries again what failed, as far as it is time.
    pub(super) fn advance(&mut self, outbox: &mut Outbox, now: Instant) {
        if matches!(self.look, Look::Wanted(time) if time <= now) {
            self.look = Look::Asked { family: Family::V4, ticket: None, found: Vec::new(), again: false };
        }
        // One after the other: a socket takes no second dump while the first is under way.
        if let Look::Asked { family, ticket: ticket @ None, .. } = &mut self.look {
            *ticket = Some(outbox.send(Request::Sockets(SocketRequest::Listeners(*family)), now));
        }
        let forgiven = std::mem::take(&mut self.forgiven);
        for own in &mut self.own {
            if matches!(own.state, State::Failed(time) if forgiven || time <= now) {
                own.state = State::Opening;
                outbox.queue.push_back(Output::Listen(own.wanted));
            }
        }
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let look = match self.look {
            Look::Wanted(time) => Some(time),
            Look::Asked { .. } | Look::Idle { .. } => None,
        };
        let failed = self.own.iter().filter_map(|own| match own.state {
            State::Failed(time) => Some(time),
            State::Opening | State::Open(_) => None,
        });
        failed.chain(look).min()
    }
}

#[cfg(test)]
mod tests;
