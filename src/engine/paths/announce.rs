//! Addresses of this host that are announced for a connection, and the listeners that joins to them
//! need: a listener is there before the address is announced, and closed after it was withdrawn.

use std::net::{IpAddr, SocketAddr};

use super::converge::Task;
use super::managed::Asked;
use crate::command::{Advertisement, PathCommand};
use crate::connections::{OwnAddress, Subflow};
use crate::engine::listeners::Need;
use crate::plugin::WantedAnnouncement;
use crate::types::AddressId;

/// An announcement that is wanted, with the port for it (0: none); without one it has to wait.
type Due = (IpAddr, Option<u16>);

impl Task<'_, '_> {
    /// Announces what is wanted and not announced, and withdraws what is not wanted any more.
    pub(super) fn announce(&mut self, wants: &[WantedAnnouncement]) {
        let mut needed = Vec::new();
        let mut due: Vec<Due> = Vec::with_capacity(wants.len());
        for want in wants {
            if self.managed.connection.takes(want.address) {
                due.push((want.address, self.port_for(want, &mut needed)));
            }
        }
        self.withdraw_addresses(&due);
        if self.managed.listens {
            self.keep_listeners(needed);
        }
        let again = self.managed.announcing.as_ref().and_then(|announcing| announcing.again);
        if again.is_some_and(|again| again > self.host.now) {
            return;
        }
        for (address, port) in due {
            if let Some(port) = port {
                self.announce_address(address, port);
            }
        }
    }

    /// Needs these listeners, and those of what could not be withdrawn yet, and no others.
    fn keep_listeners(&mut self, mut needed: Vec<SocketAddr>) {
        let announced = self.managed.connection.own.iter().filter(|own| own.announced && own.port != 0);
        needed.extend(announced.flat_map(|own| [0, own.port].map(|port| SocketAddr::new(own.address, port))));
        self.listeners.keep(self.token, &needed, self.outbox);
        self.managed.listens = !needed.is_empty();
    }

    /// The port for an announcement. Once announced it stays the same: to withdraw it closes subflows.
    fn port_for(&mut self, want: &WantedAnnouncement, needed: &mut Vec<SocketAddr>) -> Option<u16> {
        let connection = &self.managed.connection;
        let fits = |port: u16| want.port.is_none_or(|wanted| wanted == port);
        let own = connection.own.iter().find(|own| own.announced && own.address == want.address && fits(own.port));
        let announced = own.map(|own| own.port);
        if announced.is_none() && self.managed.may_be_of_either_side() {
            return None;
        }
        // For the kernel a join through a translator is one to this host's address, whose other ports were
        // not announced (net/mptcp/pm.c, `mptcp_pm_sport_in_anno_list`).
        let elsewhere = want.address != want.local;
        if !connection.server_side || elsewhere || announced == Some(0) {
            return Some(announced.or(want.port).unwrap_or(0));
        }
        // Where an earlier run announced a port, it is to be listened on that one.
        let listener = SocketAddr::new(want.local, announced.or(want.port).unwrap_or(0));
        if announced.is_none() {
            let served = want.port.unwrap_or(connection.local.plain().port());
            match self.listeners.need(want.local, served, self.outbox) {
                Need::Unknown => return None,
                Need::Nothing | Need::Nobody => return Some(want.port.unwrap_or(0)),
                Need::Own => {}
            }
        }
        needed.push(listener);
        self.managed.listens = true;
        let opened = self.listeners.acquire(self.token, listener, self.outbox)?;
        needed.push(opened);
        Some(opened.port())
    }

    fn withdraw_addresses(&mut self, due: &[Due]) {
        for place in (0..self.managed.connection.own.len()).rev() {
            let Some(own) = self.managed.connection.own.get(place).copied() else { continue };
            let fits = |(address, port): &Due| *address == own.address && port.is_none_or(|port| port == own.port);
            if own.announced && !due.iter().any(fits) {
                self.withdraw_address(place, own.id);
            }
        }
    }

    /// Withdraws an address. The peer closes the subflows to it, so that must wait while no other works.
    fn withdraw_address(&mut self, place: usize, id: AddressId) {
        let flows = &mut self.managed.connection.subflows;
        let used = flows.iter().any(|flow| !flow.closing && flow.local_id == id);
        if used && !flows.iter().any(|flow| flow.is_sound() && flow.local_id != id) {
            return;
        }
        let leaving = flows.iter_mut().filter(|flow| !flow.closing && flow.local_id == id);
        let leaving: Vec<Subflow> = leaving
            .map(|flow| {
                flow.closing = true;
                *flow
            })
            .collect();
        if let Some(own) = self.managed.connection.own.get_mut(place) {
            own.announced = false;
        }
        if leaving.is_empty() {
            self.leave(id);
        }
        self.close(&leaving);
    }

    fn announce_address(&mut self, address: IpAddr, port: u16) {
        // The initial address has no id that could be announced.
        let Some(id) = self.id_for(address, port).filter(|id| *id != AddressId(0)) else { return };
        let own = self.managed.connection.own.iter_mut().find(|own| own.id == id && own.port == port);
        let is_needed = |own: &mut OwnAddress| {
            let doubtful = std::mem::take(&mut own.doubtful);
            !std::mem::replace(&mut own.announced, true) || doubtful
        };
        if own.is_some_and(is_needed) {
            let advertisement = Advertisement { token: self.token, id, address, port };
            self.send(PathCommand::Announce(advertisement), Asked::Announce(address, id));
        }
    }
}
