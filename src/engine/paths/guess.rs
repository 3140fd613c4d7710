//! The ids that this host's addresses have in a connection, where the kernel has no list of them (before Linux 6.9).

use std::net::IpAddr;

use super::managed::{Asked, Managed};
use crate::types::AddressId;

impl Managed {
    /// Ids are in doubt: those of subflows are right, and what may not have been announced is announced again where
    /// it is wanted, as the kernel may be told the same twice, and withdrawn where it is not; whether there is
    /// something to be done.
    pub(super) fn guess_ids(&mut self) -> bool {
        let ids: Vec<_> = self.connection.subflows.iter().map(|flow| (flow.local_address(), flow.local_id)).collect();
        for (address, id) in ids.into_iter().filter(|(_, id)| id.0 != 0) {
            self.connection.learn_id(address, id);
        }
        (self.outlisted, self.listing) = (false, false);
        let awaited = std::mem::take(&mut self.awaits_list);
        self.connection.have_no_list() || awaited
    }

    /// The kernel knows that address by another id, or another by that one. A subflow may tell it; the initial
    /// address has had id 0 if any.
    pub(super) fn guess_other_id(&mut self, asked: Asked) {
        let (Asked::Create(address, _) | Asked::Announce(address, _)) = asked else { return };
        if address == self.connection.initial_address() {
            return self.connection.learn_id(address, AddressId(0));
        }
        let own = self.connection.own.iter().find(|own| own.address == address).map(|own| own.id);
        let mut flows = self.connection.subflows.iter().filter(|flow| flow.local_address() == address);
        match flows.find(|flow| flow.local_id.0 != 0 && Some(flow.local_id) != own).map(|flow| flow.local_id) {
            Some(id) => self.connection.learn_id(address, id),
            None => own.into_iter().for_each(|id| self.try_another(address, id)),
        }
    }

    /// That id is not the address's, or another's too: the next is the lowest that is free, as the kernel chooses
    /// ids itself (net/mptcp/pm_userspace.c, `mptcp_userspace_pm_append_new_local_addr`).
    fn try_another(&mut self, address: IpAddr, id: AddressId) {
        self.connection.leave_id(id);
        let lowest = (1..=u8::MAX).map(AddressId).find(|id| !self.connection.is_taken(*id));
        lowest.into_iter().for_each(|id| self.connection.learn_id(address, id));
    }
}
