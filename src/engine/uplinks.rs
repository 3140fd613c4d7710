//! Which interfaces lead out: when others do than before, and whether one of them is a VPN, beside which
//! the kernel's own path manager must have no endpoints.

use super::{Note, Outbox, Output};
use crate::network::{Address, Link, Network};
use crate::plugin::{Endpoints, Unusable, View};
use crate::rules::Rules;
use crate::types::IfIndex;

#[derive(Debug, Default)]
pub(super) struct Uplinks {
    /// Interfaces with usable addresses.
    known: Vec<IfIndex>,
    /// A VPN has an address.
    has_vpn: bool,
    /// The log knows of a VPN that leads to the Internet.
    told_vpn: bool,
}

impl Uplinks {
    /// Looks for VPNs, whose routes must then be asked for.
    pub(super) fn look(&mut self, network: &Network, rules: &Rules) {
        self.has_vpn = vpn_addresses(network, rules).next().is_some();
    }

    pub(super) fn has_vpn(&self) -> bool {
        self.has_vpn
    }

    /// Tells when other interfaces have usable addresses than before.
    pub(super) fn tell(&mut self, view: &View<'_>, outbox: &mut Outbox) {
        let mut uplinks: Vec<IfIndex> = view.usable().map(|local| local.if_index).collect();
        uplinks.dedup();
        if uplinks != self.known {
            self.known = uplinks;
            outbox.queue.push_back(Output::Uplinks);
        }
    }

    /// Wants no endpoints while a VPN leads to the Internet: the kernel uses each of them for every
    /// connection, those through the VPN too.
    pub(super) fn withhold(
        &mut self,
        wanted: Option<Endpoints>,
        (network, rules): (&Network, &Rules),
        outbox: &mut Outbox,
    ) -> Option<Endpoints> {
        let vpn = if self.has_vpn && wanted.is_some() { leading_vpn(network, rules) } else { None };
        let told = std::mem::replace(&mut self.told_vpn, vpn.is_some());
        let Some(name) = vpn else { return wanted };
        if !told {
            outbox.log(Note::Vpn(name.into()));
        }
        Some(Endpoints::default())
    }
}

/// The name of a VPN that leads to the Internet.
fn leading_vpn<'a>(network: &'a Network, rules: &Rules) -> Option<&'a str> {
    let leads = |(_, address): &(&Link, &Address)| address.route.reachable == Some(true);
    vpn_addresses(network, rules).find(leads).map(|(link, _)| &*link.name)
}

fn vpn_addresses<'a>(network: &'a Network, rules: &Rules) -> impl Iterator<Item = (&'a Link, &'a Address)> {
    let all = network.links().flat_map(|(_, link)| link.addresses.iter().map(move |address| (link, address)));
    all.filter(|(link, address)| rules.verdict_without_route(link, address) == Err(Unusable::Apart))
}
