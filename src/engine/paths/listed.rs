//! What a list of the kernel's says of one connection.

use std::net::SocketAddr;
use std::time::Instant;

use super::attempts::Attempt;
use super::managed::Managed;
use crate::connections::plain;
use crate::diag::{Socket, SubflowFlags, SubflowInfo, TcpState};
use crate::event;
use crate::plugin::Origin;
use crate::rules::PathPolicy;
use crate::types::{AddressId, Errno, IfIndex, Token};

impl Managed {
    /// A subflow is there; whether that was not known.
    pub(super) fn subflow_listed(&mut self, socket: &Socket, info: SubflowInfo, now: Instant) -> bool {
        let is = |flags| info.flags.contains(flags);
        let initial = is(SubflowFlags::CAPABLE_REMOTE) || is(SubflowFlags::CAPABLE_LOCAL);
        let origin = match (initial, is(SubflowFlags::JOIN_LOCAL)) {
            (true, _) => Origin::Initial,
            (false, true) => Origin::Local,
            (false, false) => Origin::Peer,
        };
        self.learn_role(origin, is(SubflowFlags::CAPABLE_LOCAL));
        let (local, remote) = (socket.id.local, socket.id.remote);
        if origin == Origin::Local {
            self.learn_of_peer(info.remote_id, plain(remote));
        }
        let known = self.connection.subflows.iter().any(|flow| flow.is(local, remote));
        if !known {
            // It may be what became of a join.
            self.subflow_established(&told(socket, info), now);
            if initial {
                // It comes first: of two that do for a want, it is the one that stays anyway.
                self.connection.subflows.rotate_right(1);
            }
        }
        let mut flows = self.connection.subflows.iter_mut();
        if let Some(flow) = flows.find(|flow| flow.is(local, remote)) {
            (flow.listed, flow.origin) = (true, origin);
            flow.backup = Some(is(SubflowFlags::BACKUP_LOCAL));
            flow.backup_by_peer = is(SubflowFlags::BACKUP_REMOTE);
        }
        !known
    }

    /// The initial subflow says which side this is; without it, that this daemon joins only where it connected.
    fn learn_role(&mut self, origin: Origin, connected: bool) {
        match origin {
            Origin::Initial if self.role_in_doubt => {
                (self.connection.server_side, self.role_in_doubt) = (!connected, false);
            }
            Origin::Local if self.role_in_doubt => self.connection.server_side = false,
            Origin::Initial | Origin::Local | Origin::Peer => {}
        }
    }

    /// What an earlier run has joined, it was allowed to join.
    fn learn_of_peer(&mut self, id: AddressId, remote: SocketAddr) {
        // Of one that this run has managed more is known.
        if !self.awaits_list {
            return;
        }
        let connection = &mut self.connection;
        if remote == connection.remote.plain() {
            connection.deny_join_id0 &= !std::mem::take(&mut self.denial_in_doubt);
            return;
        }
        let known = |(other, address): &(AddressId, SocketAddr)| *other == id || *address == remote;
        if !connection.remotes.iter().any(known) {
            connection.announced(id, remote);
        }
    }

    /// A subflow was asked for by name: without a proper answer it is gone.
    pub(super) fn end_presence(
        &mut self,
        token: Token,
        (local, remote): (SocketAddr, SocketAddr),
        policy: &PathPolicy,
        now: Instant,
    ) {
        let Some(flow) = self.connection.subflows.iter().find(|flow| flow.is(local, remote)) else { return };
        if flow.listed {
            return;
        }
        let told = event::Subflow {
            token,
            local,
            remote,
            local_id: flow.local_id,
            remote_id: AddressId(0),
            backup: flow.backup_by_peer,
            if_index: flow.if_index,
            // What it was lost to is not known: what had lived is tried again at once.
            error: Some(Errno::CONNABORTED),
            reset: None,
        };
        self.subflow_closed(&told, policy, now);
        self.assume_established();
    }

    /// Without a subflow, nothing tells; if it is not, the kernel refuses to begin one.
    pub(super) fn assume_established(&mut self) {
        self.connection.established |= self.connection.subflows.is_empty();
    }

    /// It was answered for.
    pub(super) fn is_present(&mut self, (local, remote): (SocketAddr, SocketAddr), state: TcpState) {
        let lives = state == TcpState::ESTABLISHED || (self.half_closed && state.is_connected());
        let flows = self.connection.subflows.iter_mut().filter(|flow| flow.is(local, remote));
        flows.for_each(|flow| flow.listed |= lives);
    }

    /// A join of this host's is on its way.
    pub(super) fn join_listed(&mut self, socket: &Socket, info: SubflowInfo, now: Instant) {
        if !info.flags.contains(SubflowFlags::JOIN_LOCAL) {
            return;
        }
        let (local, remote) = (socket.id.local.ip().to_canonical(), plain(socket.id.remote));
        let if_index = socket.id.if_index.unwrap_or(IfIndex(0));
        self.learn_role(Origin::Local, false);
        self.learn_of_peer(info.remote_id, remote);
        let mut attempts = self.attempts.iter_mut();
        if attempts.any(|known| known.joins(local, remote) && known.is_through(if_index) && known.is_listed()) {
            return;
        }
        let mut attempt = Attempt::new(info.token, local, if_index, remote);
        attempt.begun(info.flags.contains(SubflowFlags::BACKUP_LOCAL), now);
        attempt.is_listed();
        self.connection.learn_id(local, info.local_id);
        self.remember(attempt, now);
    }
}

/// The same as an event would tell it.
fn told(socket: &Socket, info: SubflowInfo) -> event::Subflow {
    event::Subflow {
        token: info.token,
        local: socket.id.local,
        remote: socket.id.remote,
        local_id: info.local_id,
        remote_id: info.remote_id,
        backup: info.flags.contains(SubflowFlags::BACKUP_REMOTE),
        if_index: socket.id.if_index,
        error: None,
        reset: None,
    }
}
