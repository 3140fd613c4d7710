//! Tells the log, for every address, why it is or is not used.

use super::{Engine, Note};

impl Engine {
    pub(super) fn tell_verdicts(&mut self) {
        if !self.outbox.debug {
            return;
        }
        let rules = &self.policy.rules;
        for (_, link) in self.network.links_mut() {
            let verdicts: Vec<_> = link.addresses.iter().map(|address| rules.verdict(link, address)).collect();
            for (address, verdict) in link.addresses.iter_mut().zip(verdicts) {
                if address.logged != Some(verdict) {
                    address.logged = Some(verdict);
                    let (address, interface) = (address.told.address, link.name.clone());
                    self.outbox.log(Note::Address { address, interface, verdict });
                }
            }
        }
    }
}
