//! Which id an endpoint gets: an address that comes back gets the one it had, and an id that a peer may
//! still know for another address is given to a new one as late as possible.

use std::net::IpAddr;

use crate::state_file::KEPT_IDS;
use crate::types::AddressId;

/// Ids by address, the latest given at the end; at most one for each id that there is.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    known: Vec<(IpAddr, AddressId)>,
    last: u8,
}

impl Ids {
    /// Takes over what an earlier run knew.
    pub(crate) fn new(known: Vec<(IpAddr, AddressId)>) -> Self {
        let mut ids = Self::default();
        for (address, id) in known {
            ids.remember(address, id);
        }
        ids
    }

    /// The latest of those that are known.
    pub(crate) fn kept(&self) -> &[(IpAddr, AddressId)] {
        self.known.split_at_checked(self.known.len().saturating_sub(KEPT_IDS)).map_or(&[], |(_, latest)| latest)
    }

    /// An id for the address that is not `taken`; `None` if all 255 are.
    pub(crate) fn choose(&self, address: IpAddr, taken: impl Fn(AddressId) -> bool) -> Option<AddressId> {
        let had = self.known.iter().find(|(known, _)| *known == address).map(|(_, id)| *id);
        if let Some(id) = had.filter(|id| !taken(*id)) {
            return Some(id);
        }
        let mut remembered = [false; 256];
        for (_, id) in &self.known {
            if let Some(place) = remembered.get_mut(usize::from(id.0)) {
                *place = true;
            }
        }
        let is_remembered = |id: AddressId| remembered.get(usize::from(id.0)) == Some(&true);
        let mut fresh = (self.last..=u8::MAX).skip(1).chain(1..=self.last).map(AddressId);
        fresh
            .find(|id| id.0 != 0 && !is_remembered(*id) && !taken(*id))
            .or_else(|| self.known.iter().map(|(_, id)| *id).find(|id| !taken(*id)))
    }

    /// The address has that id now.
    pub(crate) fn remember(&mut self, address: IpAddr, id: AddressId) {
        if id.0 == 0 || self.known.last() == Some(&(address, id)) {
            return;
        }
        self.known.retain(|(known, other)| *known != address && *other != id);
        self.known.push((address, id));
        self.last = id.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn an_address_that_comes_back_gets_the_id_it_had() {
        let mut ids = Ids::default();
        for n in [1, 2, 3] {
            let id = ids.choose(address(n), |_| false).unwrap();
            assert_eq!(id, AddressId(n));
            ids.remember(address(n), id);
        }
        assert_eq!(ids.choose(address(2), |_| false), Some(AddressId(2)));
        assert_eq!(ids.choose(address(2), |id| id == AddressId(2)), Some(AddressId(4)));
    }

    #[test]
    fn an_id_is_reused_for_another_address_only_when_none_is_fresh_and_then_the_oldest() {
        let mut ids = Ids::default();
        for n in 1..=255 {
            let id = ids.choose(address(n), |_| false).unwrap();
            assert_eq!(id, AddressId(n), "each is fresh");
            ids.remember(address(n), id);
        }
        let new = IpAddr::from([10, 0, 1, 1]);
        assert_eq!(ids.choose(new, |_| false), Some(AddressId(1)));
        assert_eq!(ids.choose(new, |id| id.0 < 5), Some(AddressId(5)));
        assert_eq!(ids.choose(new, |_| true), None);
        ids.remember(new, AddressId(1));
        assert_eq!(ids.known.len(), 255);
        assert_eq!(ids.kept().len(), KEPT_IDS);
        assert_eq!(ids.kept().last(), Some(&(new, AddressId(1))));
    }

    #[test]
    fn zero_is_never_given() {
        let mut ids = Ids::new(vec![(address(1), AddressId(0)), (address(2), AddressId(255))]);
        assert_eq!(ids.choose(address(3), |_| false), Some(AddressId(1)));
        ids.remember(address(3), AddressId(1));
        assert_eq!(ids.choose(address(4), |_| false), Some(AddressId(2)));
    }
}
