//! The host's links and addresses as the kernel last told them, and what of that makes an address fit
//! for use. It owns no policy: what users may choose is in `rules`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::event::{self, AddressFlags, LinkFlags};
use crate::plugin::Unusable;
use crate::types::IfIndex;

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
    master: Option<IfIndex>,
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
        let renamed = told.name.filter(|name| *name != link.name.as_bytes());
        let mut changed = link.flags != Some(told.flags) || link.master != told.master;
        if let Some(name) = renamed {
            let name = String::from_utf8_lossy(name).into_owned().into_boxed_str();
            changed |= name != link.name;
            link.name = name;
        }
        link.flags = Some(told.flags);
        link.master = told.master;
        Change::from(changed)
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

    /// An address of IPv6 privacy extensions (RFC 8981).
    pub(crate) fn is_temporary(&self) -> bool {
        self.told.address.is_ipv6() && self.told.flags.contains(AddressFlags::TEMPORARY)
    }
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
