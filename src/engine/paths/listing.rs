//! The kernel's list of the addresses of this host that have an id in a connection: asked for where that is
//! in doubt, one at a time, as the kernel makes one at a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Paths;
use super::managed::{Asked, Managed};
use crate::command::PathCommand;
use crate::engine::outbox::Outbox;
use crate::engine::{Failure, Ticket};
use crate::types::{Errno, Token};

/// Another list was being made.
const PAUSE: Duration = Duration::from_millis(2);

/// Which lists are to be asked for.
#[derive(Debug, Default)]
pub(super) struct Listing {
    wanted: VecDeque<Token>,
    /// It is being made.
    asked: Option<Ticket>,
    not_before: Option<Instant>,
    /// The kernel has such lists; `None`: it has not been asked. Before Linux 6.9 it answers with the endpoints
    /// of its own path manager, whatever the token (net/mptcp/pm_netlink.c).
    supported: Option<bool>,
}

impl Listing {
    pub(super) fn want(&mut self, token: Token) {
        self.wanted.push_back(token);
    }

    pub(super) fn has_work(&self) -> bool {
        self.asked.is_none() && !self.wanted.is_empty() && self.not_before.is_none()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.not_before.filter(|_| self.asked.is_none() && !self.wanted.is_empty())
    }

    /// Whether there are none.
    pub(super) fn are_absent(&self) -> bool {
        self.supported == Some(false)
    }

    /// No answer will come.
    pub(super) fn forget(&mut self) {
        self.asked = None;
    }
}

/// No connection has this token, so that asking for its list tells whether there are any.
const NOBODY: Token = Token(0);

impl Paths {
    /// Asks for the next list.
    pub(super) fn ask_for_list(&mut self, outbox: &mut Outbox, now: Instant) {
        self.listing.not_before = self.listing.not_before.filter(|time| *time > now);
        while self.listing.has_work() {
            if self.listing.supported.is_none() {
                let request = PathCommand::ListAddresses(NOBODY);
                self.listing.asked = Some(self.ask(request, NOBODY, Asked::WhetherListed, outbox, now));
                return;
            }
            let Some(token) = self.listing.wanted.pop_front() else { return };
            if self.listing.are_absent() {
                self.change(token, Managed::guess_ids);
            } else if let Some(managed) = self.live.get_mut(token).filter(|managed| !managed.left_alone) {
                managed.connection.begin_list();
                managed.outlisted = false;
                let ticket = self.ask(PathCommand::ListAddresses(token), token, Asked::List, outbox, now);
                self.listing.asked = Some(ticket);
            }
        }
    }

    /// Takes the end of a list; whether that is all there is to it.
    pub(super) fn end_of_list(&mut self, ticket: Ticket, result: Result<(), Failure<'_>>, now: Instant) -> bool {
        if self.listing.asked.take_if(|asked| *asked == ticket).is_none() {
            return false;
        }
        let busy = matches!(result, Err(Failure::Refused(refusal)) if refusal.errno == Errno::BUSY);
        // The connection may have gone meanwhile.
        let place = self.asked.iter().position(|(asked, ..)| *asked == ticket);
        let Some((_, token, asked)) = place.and_then(|place| self.asked.get(place)).copied() else { return true };
        if busy {
            self.listing.not_before = Some(now + PAUSE);
        }
        match asked {
            Asked::WhetherListed if !busy => self.listing.supported = Some(result.is_err()),
            Asked::List if busy => self.listing.wanted.push_front(token),
            _ => {}
        }
        let done = busy || asked == Asked::WhetherListed;
        place.filter(|_| done).map(|place| self.asked.remove(place));
        done
    }
}
