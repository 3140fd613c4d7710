//! The host's links and addresses as the kernel last told them, and what of that makes an address fit
//! for use. It owns no policy: what users may choose is in `rules`.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::event::{self, AddressFlags, LinkFlags};
use crate::plugin::Unusable;
use crate::types::{Family, IfIndex};

/// Links by index, each with its addresses.
#[derive(Debug, Default)]
pub(crate) struct Network {
    links: BTreeMap<IfIndex, Link>,
    /// Grows with every dump; what a dump does not name again is gone.
    dump: u32,
}

/// An interface and its addresses.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// `None` while only addresses of it are known.
    pub(crate) flags: Option<LinkFlags>,
    pub(crate) name: Box<str>,
    pub(crate) alternative_names: Box<[Box<str>]>,
    /// What made it; empty for a device of the hardware's own.
    pub(crate) kind: Box<str>,
    master: Option<IfIndex>,
    /// What the rules make of its IPv4 and its IPv6 addresses, once that was asked for.
    met: [OnceCell<Met>; 2],
    /// In the order in which the kernel named them.
    pub(crate) addresses: Vec<Address>,
    seen: u32,
}

/// An address of an interface.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) told: event::Address,
    /// There since the daemon started, and not changed since.
    pub(crate) existing: bool,
    pub(crate) route: Route,
    /// The verdict that was last told to the log.
    pub(crate) logged: Option<Verdict>,
    seen: u32,
}

/// What the rules about interfaces make of one, for addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    /// The number of the rule, from 1; 0 if none is for it.
    pub(crate) rule: u16,
    pub(crate) verdict: Verdict,
}

/// Whether an address may be used, and if not, why.
pub(crate) type Verdict = Result<(), Unusable>;

/// What is known of an address's way to the Internet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    /// The last answer.
    pub(crate) reachable: Option<bool>,
    /// The generation of the routing state that the last question was about.
    pub(crate) asked: u64,
}

/// What an event changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing that matters.
    Nothing,
    /// A link or an address.
    Something,
}

impl Change {
    fn from(changed: bool) -> Self {
        if changed { Self::Something } else { Self::Nothing }
    }
}

impl Network {
    pub(crate) fn apply_link(&mut self, told: &event::Link<'_>) -> Change {
        let link = self.links.entry(told.index).or_default();
        link.seen = self.dump;
        let changed = link.flags != Some(told.flags) || link.master != told.master;
        link.flags = Some(told.flags);
        link.master = told.master;
        Change::from(link.call(told) || changed)
    }

    /// The rules are others now.
    pub(crate) fn forget_rules(&mut self) {
        self.links.values_mut().for_each(|link| link.met = Default::default());
    }

    pub(crate) fn remove_link(&mut self, index: IfIndex) -> Change {
        Change::from(self.links.remove(&index).is_some())
    }

    /// `existing`: it was there before the daemon.
    pub(crate) fn apply_address(&mut self, told: &event::Address, existing: bool) -> Change {
        let dump = self.dump;
        let link = self.links.entry(told.if_index).or_insert_with(|| Link { seen: dump, ..Link::default() });
        if let Some(address) = link.addresses.iter_mut().find(|address| same(&address.told, told)) {
            address.seen = dump;
            let changed = address.told != *told;
            address.existing &= !changed;
            address.told = *told;
            return Change::from(changed);
        }
        let address = Address { told: *told, existing, route: Route::default(), logged: None, seen: dump };
        link.addresses.push(address);
        Change::Something
    }

    pub(crate) fn remove_address(&mut self, told: &event::Address) -> Change {
        let Some(link) = self.links.get_mut(&told.if_index) else { return Change::Nothing };
        let before = link.addresses.len();
        link.addresses.retain(|address| !same(&address.told, told));
        Change::from(link.addresses.len() != before)
    }

    /// A dump of links, then of addresses, begins.
    pub(crate) fn begin_dump(&mut self) {
        self.dump = self.dump.wrapping_add(1);
    }

    /// The dump of links is complete.
    pub(crate) fn end_links(&mut self) {
        let dump = self.dump;
        self.links.retain(|_, link| link.seen == dump);
    }

    /// The dump of addresses is complete.
    pub(crate) fn end_addresses(&mut self) {
        for link in self.links.values_mut() {
            link.addresses.retain(|address| address.seen == self.dump);
        }
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = (IfIndex, &Link)> {
        self.links.iter().map(|(index, link)| (*index, link))
    }

    pub(crate) fn links_mut(&mut self) -> impl Iterator<Item = (IfIndex, &mut Link)> {
        self.links.iter_mut().map(|(index, link)| (*index, link))
    }

    /// Every entry of that address on that link: IPv4 may have it once for each prefix.
    pub(crate) fn find_mut(&mut self, index: IfIndex, address: IpAddr) -> impl Iterator<Item = &mut Address> {
        let addresses = self.links.get_mut(&index).map_or(&mut [][..], |link| &mut link.addresses);
        addresses.iter_mut().filter(move |candidate| candidate.told.address == address)
    }
}

/// Whether both are the same address for the kernel, which tells IPv4 addresses apart by prefix and
/// far end too (net/ipv4/devinet.c, `inet_insert_ifa`).
fn same(a: &event::Address, b: &event::Address) -> bool {
    a.address == b.address && (a.address.is_ipv6() || (a.peer == b.peer && a.prefix_length == b.prefix_length))
}

impl Link {
    /// Takes its names and kind, and says whether they are others than before.
    fn call(&mut self, told: &event::Link<'_>) -> bool {
        let same = told.name.is_none_or(|name| same_text(name, &self.name))
            && same_text(told.kind.unwrap_or_default(), &self.kind)
            && told.alternative_names.count() == self.alternative_names.len()
            && told.alternative_names.zip(&self.alternative_names).all(|(name, known)| same_text(name, known));
        if !same {
            if let Some(name) = told.name {
                self.name = text(name);
            }
            self.kind = text(told.kind.unwrap_or_default());
            self.alternative_names = told.alternative_names.map(text).collect();
            self.met = Default::default();
        }
        !same
    }

    /// What the rules make of its addresses of that family; `find` is called once for each name, kind and
    /// set of rules.
    pub(crate) fn met(&self, family: Family, find: impl FnOnce() -> Met) -> Met {
        let [ipv4, ipv6] = &self.met;
        let known = match family {
            Family::V4 => ipv4,
            Family::V6 => ipv6,
        };
        *known.get_or_init(find)
    }

    /// Whether data can pass.
    pub(crate) fn state(&self) -> Verdict {
        let flags = self.flags.ok_or(Unusable::NoLink)?;
        for (needed, otherwise) in [
            (LinkFlags::UP, Unusable::LinkDown),
            (LinkFlags::LOWER_UP, Unusable::NoCarrier),
            (LinkFlags::RUNNING, Unusable::Dormant),
        ] {
            if !flags.contains(needed) {
                return Err(otherwise);
            }
        }
        Ok(())
    }

    pub(crate) fn is_loopback(&self) -> bool {
        self.flags.is_some_and(|flags| flags.contains(LinkFlags::LOOPBACK))
    }

    /// Whether it has an address of that one's prefix that is fit for use and not temporary.
    pub(crate) fn has_stable(&self, beside: &event::Address) -> bool {
        self.addresses
            .iter()
            .any(|other| !other.is_temporary() && other.state().is_ok() && same_prefix(&other.told, beside))
    }
}

impl Address {
    /// Whether the kernel would send from it.
    pub(crate) fn state(&self) -> Verdict {
        let flags = self.told.flags;
        if flags.contains(AddressFlags::DAD_FAILED) {
            Err(Unusable::Duplicate)
        } else if flags.contains(AddressFlags::TENTATIVE) && !flags.contains(AddressFlags::OPTIMISTIC) {
            Err(Unusable::Tentative)
        } else if flags.contains(AddressFlags::DEPRECATED) {
            Err(Unusable::Deprecated)
        } else if !is_unicast(self.told.address) {
            Err(Unusable::NotUnicast)
        } else {
            Ok(())
        }
    }

    /// Whether nothing is wrong with it, whether it is good for anything new or not.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state(), Err(Unusable::Tentative | Unusable::Duplicate))
    }

    /// An address of IPv6 privacy extensions (RFC 8981).
    pub(crate) fn is_temporary(&self) -> bool {
        self.told.address.is_ipv6() && self.told.flags.contains(AddressFlags::TEMPORARY)
    }
}

/// A name of the kernel's, where what is not UTF-8 is replaced.
fn text(name: &[u8]) -> Box<str> {
    String::from_utf8_lossy(name).into()
}

fn same_text(name: &[u8], known: &str) -> bool {
    name == known.as_bytes() || *text(name) == *known
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

fn same_prefix(a: &event::Address, b: &event::Address) -> bool {
    a.prefix_length == b.prefix_length && covers(a.address, a.prefix_length, b.address)
}

/// Whether the address lies in that prefix; never across families.
pub(crate) fn covers(prefix: IpAddr, length: u8, address: IpAddr) -> bool {
    let (prefix, address, bits) = match (prefix, address) {
        (IpAddr::V4(p), IpAddr::V4(a)) => (u128::from(p.to_bits()), u128::from(a.to_bits()), 32),
        (IpAddr::V6(p), IpAddr::V6(a)) => (p.to_bits(), a.to_bits(), 128),
        _ => return false,
    };
    let host_bits = bits - u32::from(length).min(bits);
    (prefix ^ address).checked_shr(host_bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Scope;

    fn address(text: &str, peer: &str, prefix_length: u8) -> event::Address {
        event::Address {
            if_index: IfIndex(2),
            address: text.parse().unwrap(),
            peer: peer.parse().unwrap(),
            prefix_length,
            scope: Scope(0),
            flags: AddressFlags(0x80),
        }
    }

    fn link(index: u32, name: &[u8]) -> event::Link<'_> {
        event::Link { name: Some(name), ..event::Link::new(IfIndex(index), LinkFlags(1)) }
    }

    fn count(network: &Network) -> usize {
        network.links().map(|(_, link)| link.addresses.len()).sum()
    }

    #[test]
    fn an_ipv4_address_with_two_prefixes_stays_until_both_are_gone() {
        let mut network = Network::default();
        let wide = address("10.0.0.1", "10.0.0.1", 24);
        let narrow = address("10.0.0.1", "10.0.0.1", 32);
        let far = address("10.0.0.1", "10.0.0.9", 32);
        for told in [&wide, &narrow, &far] {
            assert_eq!(network.apply_address(told, false), Change::Something);
            assert_eq!(network.apply_address(told, false), Change::Nothing, "told again");
        }
        assert_eq!(network.remove_address(&wide), Change::Something);
        assert_eq!(network.remove_address(&wide), Change::Nothing, "told again");
        assert_eq!(network.find_mut(IfIndex(2), "10.0.0.1".parse().unwrap()).count(), 2);
    }

    #[test]
    fn an_ipv6_address_is_one_whatever_its_prefix() {
        let mut network = Network::default();
        network.apply_address(&address("fd00::1", "fd00::1", 64), false);
        network.apply_address(&address("fd00::1", "fd00::1", 128), false);
        assert_eq!(count(&network), 1);
        network.remove_address(&address("fd00::1", "fd00::1", 64));
        assert_eq!(count(&network), 0);
    }

    #[test]
    fn what_a_dump_does_not_name_again_is_gone_and_what_came_meanwhile_stays() {
        let mut network = Network::default();
        let link = |index| link(index, b"x");
        network.apply_link(&link(2));
        network.apply_link(&link(3));
        network.apply_address(&address("10.0.0.1", "10.0.0.1", 24), false);
        network.apply_address(&address("10.0.0.2", "10.0.0.2", 24), false);
        network.begin_dump();
        network.apply_link(&link(2));
        network.apply_link(&link(4));
        network.end_links();
        network.apply_address(&address("10.0.0.2", "10.0.0.2", 24), false);
        network.apply_address(&address("10.0.0.3", "10.0.0.3", 24), false);
        network.end_addresses();
        let links: Vec<_> = network.links().map(|(index, _)| index.0).collect();
        assert_eq!(links, [2, 4]);
        let (_, link) = network.links().next().unwrap();
        let left: Vec<_> = link.addresses.iter().map(|address| address.told.address.to_string()).collect();
        assert_eq!(left, ["10.0.0.2", "10.0.0.3"]);
    }

    #[test]
    fn a_renamed_or_enslaved_link_is_a_change_and_the_same_again_is_none() {
        let mut network = Network::default();
        let link = link(2, b"eth0");
        assert_eq!(network.apply_link(&link), Change::Something);
        assert_eq!(network.apply_link(&link), Change::Nothing);
        assert_eq!(network.apply_link(&event::Link { name: None, ..link }), Change::Nothing);
        assert_eq!(network.apply_link(&event::Link { name: Some(b"eth1"), ..link }), Change::Something);
        let enslaved = event::Link { name: None, master: Some(IfIndex(9)), ..link };
        assert_eq!(network.apply_link(&enslaved), Change::Something);
        assert_eq!(&*network.links().next().unwrap().1.name, "eth1");
        assert_eq!(network.apply_link(&event::Link { name: Some(b"\xff"), ..enslaved }), Change::Something);
    }

    #[test]
    fn another_kind_or_alternative_name_is_a_change() {
        let mut network = Network::default();
        let names = |told| {
            event::Names::new(told, |rest| {
                let (first, after) = rest.split_at_checked(1)?;
                *rest = after;
                Some(first)
            })
        };
        let named = event::Link { alternative_names: names(b"ab"), ..link(2, b"eth0") };
        let of_a_kind = event::Link { kind: Some(b"veth"), ..named };
        for told in [link(2, b"eth0"), named, of_a_kind, event::Link { alternative_names: names(b"ac"), ..of_a_kind }] {
            assert_eq!(network.apply_link(&told), Change::Something, "{told:?}");
            assert_eq!(network.apply_link(&told), Change::Nothing, "{told:?}");
        }
        let (_, link) = network.links().next().unwrap();
        assert_eq!((&*link.kind, &*link.alternative_names), ("veth", &["a".into(), "c".into()][..]));
    }

    #[test]
    fn a_prefix_covers_what_begins_with_it_within_its_family() {
        for (prefix, length, inside, expected) in [
            ("0.0.0.0", 0, "192.0.2.1", true),
            ("128.0.0.0", 1, "192.0.2.1", true),
            ("128.0.0.0", 1, "64.0.0.1", false),
            ("192.0.2.1", 32, "192.0.2.1", true),
            ("192.0.2.0", 32, "192.0.2.1", false),
            ("::", 0, "192.0.2.1", false),
            ("::", 0, "2001:db8::1", true),
            ("2000::", 3, "3fff::1", true),
            ("2000::", 4, "3fff::1", false),
            ("10.0.0.0", 200, "10.0.0.0", true),
        ] {
            let found = covers(prefix.parse().unwrap(), length, inside.parse().unwrap());
            assert_eq!(found, expected, "{prefix}/{length} {inside}");
        }
    }
}
