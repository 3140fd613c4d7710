//! From what users choose to a verdict for every address. Evaluated here and nowhere else, so that
//! every path manager sees the same.

mod glob;
mod interfaces;

use std::net::IpAddr;
use std::time::Duration;

use crate::event::Scope;
use crate::liveness::LivenessPolicy;
use crate::network::{Address, Link, Met, Verdict};
use crate::plugin::{LocalAddress, Unusable};
use crate::types::{EndpointFlags, Family, IfIndex, NotifyFlags};

pub(crate) use glob::Glob;
pub(crate) use interfaces::{Interfaces, MOST as MOST_RULES, Rule, built_in};

/// What users choose about addresses.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) notify: NotifyFlags,
    /// The flags of every endpoint whose interface has no rule about them.
    pub(crate) flags: EndpointFlags,
    pub(crate) interfaces: Interfaces,
}

/// How paths are tried and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathPolicy {
    /// Subflows of one connection, the initial one included.
    pub(crate) max_subflows: u8,
    /// The pause after the first of several failures in a row; it doubles with each.
    pub(crate) first_retry: Duration,
    /// It does not grow beyond this,
    pub(crate) longest_retry: Duration,
    /// nor beyond this while the connection is younger than a minute.
    pub(crate) longest_early_retry: Duration,
    pub(crate) liveness: LivenessPolicy,
}

impl Default for PathPolicy {
    fn default() -> Self {
        Self {
            max_subflows: 8,
            first_retry: Duration::from_secs(1),
            longest_retry: Duration::from_secs(300),
            longest_early_retry: Duration::from_secs(10),
            liveness: LivenessPolicy::default(),
        }
    }
}

impl Rules {
    pub(crate) fn check_route(&self) -> bool {
        self.notify.contains(NotifyFlags::CHECK_ROUTE)
    }

    /// An address as path managers see it.
    pub(crate) fn local_address<'a>(&self, index: IfIndex, link: &'a Link, address: &Address) -> LocalAddress<'a> {
        let rule = self.interfaces.rule(self.met(link, Family::of(address.told.address)).rule);
        let flags = rule.map_or(self.flags, |rule| rule.endpoint_flags(self.flags));
        LocalAddress {
            flags,
            backup: flags.contains(EndpointFlags::BACKUP),
            order: rule.and_then(|rule| rule.order).unwrap_or_default(),
            max_subflows: rule.and_then(|rule| rule.max_subflows),
            announce: rule.and_then(|rule| rule.announce).unwrap_or(true),
            unusable: self.verdict(link, address).err(),
            alive: link.state().is_ok() && address.is_alive(),
            ..LocalAddress::new(address.told.address, index, &link.name)
        }
    }

    /// What the rules about interfaces make of addresses of that family there.
    pub(crate) fn met(&self, link: &Link, family: Family) -> Met {
        if link.flags.is_none() {
            // Its names are not known yet, nor is it of use.
            return Met { rule: 0, verdict: Ok(()) };
        }
        link.met(family, || self.interfaces.meet(link, family))
    }

    /// Whether the address may be used.
    pub(crate) fn verdict(&self, link: &Link, address: &Address) -> Verdict {
        self.verdict_without_route(link, address)?;
        match address.route.reachable {
            _ if !self.check_route() => Ok(()),
            Some(true) => Ok(()),
            Some(false) => Err(Unusable::NoRoute),
            None => Err(Unusable::RouteUnknown),
        }
    }

    /// The same but for the route: what is refused here needs no question to the kernel.
    pub(crate) fn verdict_without_route(&self, link: &Link, address: &Address) -> Verdict {
        if link.is_loopback() || address.told.address.is_loopback() {
            return Err(Unusable::Loopback);
        }
        self.met(link, Family::of(address.told.address)).verdict?;
        if address.told.scope == Scope::HOST && self.notify.contains(NotifyFlags::SKIP_LOOPBACK) {
            return Err(Unusable::HostScope);
        }
        if is_link_local(address) && self.notify.contains(NotifyFlags::SKIP_LINK_LOCAL) {
            return Err(Unusable::LinkLocal);
        }
        if address.existing && !self.notify.contains(NotifyFlags::EXISTING) {
            return Err(Unusable::Existing);
        }
        link.state()?;
        address.state()?;
        if address.is_temporary() && link.has_stable(&address.told) {
            return Err(Unusable::Temporary);
        }
        Ok(())
    }
}

fn is_link_local(address: &Address) -> bool {
    address.told.scope == Scope::LINK
        || match address.told.address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{self, AddressFlags, LinkFlags};
    use crate::network::Network;
    use crate::types::IfIndex;

    const UP: LinkFlags = LinkFlags(0x1_0041);
    const DEFAULT: NotifyFlags = NotifyFlags(7);

    fn address(text: &str, flags: u32) -> event::Address {
        let address = text.parse().unwrap();
        let (if_index, flags) = (IfIndex(2), AddressFlags(flags));
        event::Address { if_index, address, peer: address, prefix_length: 64, scope: Scope(0), flags }
    }

    /// The verdict for the first of these addresses on a link with these flags.
    fn verdict(notify: NotifyFlags, link: LinkFlags, addresses: &[event::Address], existing: bool) -> Verdict {
        let mut network = Network::default();
        let told = event::Link { name: Some(b"wlan0"), ..event::Link::new(IfIndex(2), link) };
        network.apply_link(&told);
        for address in addresses {
            network.apply_address(address, existing);
        }
        let rules = Rules { notify, flags: EndpointFlags::SUBFLOW, interfaces: Interfaces::default() };
        let (_, link) = network.links().next().unwrap();
        rules.verdict(link, &link.addresses[0])
    }

    #[test]
    fn an_ordinary_address_on_a_link_that_is_up_is_used() {
        for text in ["192.0.2.7", "2001:db8::7", "fd00::7", "10.0.0.7"] {
            assert_eq!(verdict(DEFAULT, UP, &[address(text, 0x80)], true), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_link_must_be_up_with_carrier_and_running() {
        for (flags, why) in [
            (0, Unusable::LinkDown),
            (0x1_0040, Unusable::LinkDown),
            (1, Unusable::NoCarrier),
            (0x41, Unusable::NoCarrier),
            (0x1_0001, Unusable::Dormant),
            (0x1_0049, Unusable::Loopback),
        ] {
            let found = verdict(DEFAULT, LinkFlags(flags), &[address("192.0.2.7", 0x80)], true);
            assert_eq!(found, Err(why), "{flags:#x}");
        }
    }

    #[test]
    fn an_address_must_be_valid_unicast_and_the_hosts_alone() {
        for (text, flags, why) in [
            ("2001:db8::7", 0x40, Unusable::Tentative),
            ("2001:db8::7", 0x48, Unusable::Duplicate),
            ("2001:db8::7", 0x20, Unusable::Deprecated),
            ("127.0.0.7", 0x80, Unusable::Loopback),
            ("::1", 0x80, Unusable::Loopback),
            ("224.0.0.7", 0x80, Unusable::NotUnicast),
            ("255.255.255.255", 0x80, Unusable::NotUnicast),
            ("0.0.0.0", 0x80, Unusable::NotUnicast),
            ("ff02::7", 0x80, Unusable::NotUnicast),
        ] {
            assert_eq!(verdict(DEFAULT, UP, &[address(text, flags)], true), Err(why), "{text} {flags:#x}");
        }
        // Optimistic duplicate address detection lets the host use it meanwhile.
        assert_eq!(verdict(DEFAULT, UP, &[address("2001:db8::7", 0x44)], true), Ok(()));
    }

    #[test]
    fn link_local_addresses_are_known_by_scope_and_by_prefix() {
        for text in ["fe80::7", "169.254.7.7"] {
            assert_eq!(verdict(DEFAULT, UP, &[address(text, 0x80)], true), Err(Unusable::LinkLocal));
            let without = DEFAULT.without(NotifyFlags::SKIP_LINK_LOCAL);
            assert_eq!(verdict(without, UP, &[address(text, 0x80)], true), Ok(()));
        }
        let scoped = event::Address { scope: Scope::LINK, ..address("10.0.0.7", 0x80) };
        assert_eq!(verdict(DEFAULT, UP, &[scoped], true), Err(Unusable::LinkLocal));
    }

    #[test]
    fn a_host_scope_address_is_skipped_on_any_link_unless_allowed() {
        let scoped = event::Address { scope: Scope::HOST, ..address("10.0.0.7", 0x80) };
        assert_eq!(verdict(DEFAULT, UP, &[scoped], true), Err(Unusable::HostScope));
        assert_eq!(verdict(DEFAULT.without(NotifyFlags::SKIP_LOOPBACK), UP, &[scoped], true), Ok(()));
    }

    #[test]
    fn a_temporary_address_gives_way_to_a_usable_stable_one_of_its_prefix_only() {
        let temporary = address("2001:db8::beef", 0x1);
        let beside = |other: &str, flags| verdict(DEFAULT, UP, &[temporary, address(other, flags)], true);
        assert_eq!(beside("2001:db8::7", 0x80), Err(Unusable::Temporary));
        assert_eq!(beside("2001:db8::7", 0x20), Ok(()), "the stable one is deprecated");
        assert_eq!(beside("2001:db8::7", 0x40), Ok(()), "the stable one is tentative");
        assert_eq!(beside("2001:db8:1::7", 0x80), Ok(()), "another prefix");
        assert_eq!(beside("2001:db8::7", 0x1), Ok(()), "the other is temporary too");
        let secondary = address("192.0.2.7", 0x1);
        assert_eq!(verdict(DEFAULT, UP, &[secondary, address("192.0.2.8", 0x80)], true), Ok(()), "IPv4 secondary");
    }

    #[test]
    fn without_existing_an_address_is_used_only_after_it_changed() {
        let without = DEFAULT.without(NotifyFlags::EXISTING);
        let stays = address("192.0.2.7", 0x80);
        assert_eq!(verdict(without, UP, &[stays], true), Err(Unusable::Existing));
        assert_eq!(verdict(without, UP, &[stays, stays], true), Err(Unusable::Existing), "told again");
        assert_eq!(verdict(without, UP, &[stays], false), Ok(()), "it came later");
        let changed = address("192.0.2.7", 0x200);
        assert_eq!(verdict(without, UP, &[stays, changed], true), Ok(()), "its flags changed");
    }

    #[test]
    fn with_check_route_an_unanswered_question_is_not_a_no() {
        let with = DEFAULT.union(NotifyFlags::CHECK_ROUTE);
        assert_eq!(verdict(with, UP, &[address("192.0.2.7", 0x80)], true), Err(Unusable::RouteUnknown));
        assert_eq!(verdict(with, LinkFlags(0), &[address("192.0.2.7", 0x80)], true), Err(Unusable::LinkDown));
    }
}
