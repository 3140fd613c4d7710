//! Joins that got no answer are called off, to be begun anew: the kernel repeats a request to connect at
//! ever longer intervals, and a path that is back is to be noticed sooner than that.
//!
//! No command names a join whose port is not known; a list of the sockets that wait for their first answer
//! does, and one list serves all that are due.

use std::time::{Duration, Instant};

use super::Paths;
use super::managed::Asked;
use crate::command::{PathCommand, Request, SocketRequest, SubflowEnds};
use crate::connections::plain;
use crate::diag::{Role, Socket, SubflowFlags, TcpState};
use crate::engine::outbox::Outbox;
use crate::engine::{Failure, Ticket};
use crate::types::{Errno, Family, Token};

/// Another list was being made.
const PAUSE: Duration = Duration::from_millis(20);

/// Which joins are to be called off, and how far that has got.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// Connections with such a join.
    wanted: Vec<Token>,
    /// Those for which the list is being made.
    served: Vec<Token>,
    asked: Option<(Ticket, Family)>,
    not_before: Option<Instant>,
}

impl Renewal {
    pub(super) fn want(&mut self, token: Token) {
        if !self.wanted.contains(&token) {
            self.wanted.push(token);
        }
    }

    pub(super) fn has_work(&self) -> bool {
        self.asked.is_none() && !self.wanted.is_empty() && self.not_before.is_none()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.wanted.is_empty())
    }

    /// No answer will come.
    pub(super) fn forget(&mut self) {
        if self.asked.take().is_some() {
            self.wanted.append(&mut self.served);
        }
    }
}

impl Paths {
    /// Asks for the list if it is wanted.
    pub(super) fn begin_renewal(&mut self, outbox: &mut Outbox, now: Instant) {
        for ends in std::mem::take(&mut self.to_call_off) {
            if self.live.contains(ends.token) {
                self.ask(PathCommand::DestroySubflow(ends), ends.token, Asked::Other, outbox, now);
            }
        }
        let renewal = &mut self.renewal;
        renewal.not_before = renewal.not_before.filter(|time| *time > now);
        if renewal.has_work() {
            renewal.served = std::mem::take(&mut renewal.wanted);
            renewal.ask(Family::V4, outbox, now);
        }
    }

    /// Takes a socket of the list; whether it is part of one.
    pub(super) fn call_off(&mut self, ticket: Ticket, socket: &Socket, outbox: &mut Outbox, now: Instant) -> bool {
        if self.renewal.asked.is_none_or(|(asked, _)| asked != ticket) {
            return false;
        }
        let Role::Subflow(info) = socket.role else { return true };
        if socket.state != TcpState::SYN_SENT || !info.flags.contains(SubflowFlags::JOIN_LOCAL) {
            return true;
        }
        let Some(managed) = self.live.get_mut(info.token) else { return true };
        let (local, remote) = (socket.id.local.ip().to_canonical(), plain(socket.id.remote));
        if managed.attempts.iter().any(|attempt| attempt.is_renewing() && attempt.joins(local, remote)) {
            let (local, remote) = (socket.id.local, socket.id.remote);
            if self.resets {
                let asked = Asked::CallOff(local, remote);
                self.ask(SocketRequest::Destroy(socket.id), info.token, asked, outbox, now);
            } else {
                self.to_call_off.push(SubflowEnds { token: info.token, local, remote });
            }
            self.renewal.served.retain(|token| *token != info.token);
        }
        true
    }

    /// Takes the end of a list; whether it was one.
    pub(super) fn end_renewal(
        &mut self,
        ticket: Ticket,
        result: Result<(), Failure<'_>>,
        outbox: &mut Outbox,
        now: Instant,
    ) -> bool {
        let Some((_, family)) = self.renewal.asked.take_if(|(asked, _)| *asked == ticket) else { return false };
        match (result, family) {
            (Ok(()) | Err(Failure::Interrupted), Family::V4) => self.renewal.ask(Family::V6, outbox, now),
            (Err(Failure::Refused(refusal)), _) if refusal.errno == Errno::BUSY => {
                self.renewal.wanted.append(&mut self.renewal.served);
                self.renewal.not_before = Some(now + PAUSE);
            }
            (Ok(()) | Err(_), _) => {
                let listed = result.is_ok();
                for token in std::mem::take(&mut self.renewal.served) {
                    self.change(token, |managed| {
                        managed.attempts.iter_mut().for_each(|attempt| attempt.end_renewal(listed, now));
                        true
                    });
                }
            }
        }
        true
    }
}

impl Renewal {
    fn ask(&mut self, family: Family, outbox: &mut Outbox, now: Instant) {
        let ticket = outbox.send(Request::Sockets(SocketRequest::Beginning(family)), now);
        self.asked = Some((ticket, family));
    }
}
