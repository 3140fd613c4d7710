//! Which of the wanted endpoints are to be: the kernel takes a few, and each address once.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Held;
use crate::event::Limits;
use crate::plugin::{LocalAddress, View, WantedEndpoint};
use crate::types::{EndpointFlags, IfIndex};

/// The most that the kernel allows for either limit (net/mptcp/pm_kernel.c, `MPTCP_PM_ADDR_MAX`).
const MOST_SUBFLOWS: u32 = 8;

/// The endpoints to have, best first, and how many were wanted.
pub(super) struct Choice {
    pub(super) chosen: Vec<WantedEndpoint>,
    pub(super) wanted: usize,
    /// One that was asked for with flags that exclude each other.
    pub(super) nonsense: Option<IpAddr>,
}

/// Chooses among `wanted`, given what the kernel holds and how much it takes.
///
/// The first IPv4 and IPv6 address of every interface come before a second address of one; among
/// equals, those that are endpoints already come first, since taking one away closes its subflows.
pub(super) fn choose(view: &View<'_>, wanted: Vec<WantedEndpoint>, held: &[Held], capacity: Option<usize>) -> Choice {
    let nonsense = wanted.iter().find(|wanted| excludes_itself(wanted.flags)).map(|wanted| wanted.address);
    let mut ranked = rank(view, &wanted, held);
    ranked.sort_by_key(|candidate| (candidate.class, !candidate.held, candidate.place));
    let total = ranked.len();
    if let Some(capacity) = capacity {
        let others = held.iter().filter(|held| !held.own).count();
        ranked.truncate(capacity.saturating_sub(others));
    }
    Choice { chosen: ranked.into_iter().map(|candidate| candidate.wanted).collect(), wanted: total, nonsense }
}

fn excludes_itself(flags: EndpointFlags) -> bool {
    flags.contains(EndpointFlags::SIGNAL.union(EndpointFlags::FULLMESH))
}

struct Candidate {
    wanted: WantedEndpoint,
    /// How many addresses of its interface and family come before it.
    class: usize,
    /// It is an endpoint of ours already.
    held: bool,
    place: usize,
}

fn rank(view: &View<'_>, wanted: &[WantedEndpoint], held: &[Held]) -> Vec<Candidate> {
    let flags: BTreeMap<(IfIndex, IpAddr), EndpointFlags> =
        wanted.iter().map(|wanted| ((wanted.if_index, wanted.address), wanted.flags)).collect();
    // The kernel takes an address once: of two links that have it, the one in use stays.
    let mut links: BTreeMap<IpAddr, (IfIndex, bool)> = BTreeMap::new();
    for local in view.addresses() {
        let Some(flags) = flags.get(&(local.if_index, local.address)) else { continue };
        let served = held.iter().find(|held| held.serves(local.address));
        if excludes_itself(*flags) || served.is_some_and(|held| !held.own) {
            continue;
        }
        let in_use = served.is_some_and(|held| held.endpoint.if_index == Some(local.if_index));
        let link = links.entry(local.address).or_insert((local.if_index, in_use));
        if in_use {
            *link = (local.if_index, true);
        }
    }
    let mut classes: BTreeMap<(IfIndex, bool), usize> = BTreeMap::new();
    let mut candidates = Vec::with_capacity(links.len());
    for (place, local) in view.addresses().iter().enumerate() {
        let chosen = links.get(&local.address).filter(|(if_index, _)| *if_index == local.if_index);
        let (Some((_, in_use)), Some(flags)) = (chosen, flags.get(&(local.if_index, local.address))) else { continue };
        let wanted = WantedEndpoint { address: local.address, if_index: local.if_index, flags: *flags };
        let class = classes.entry((local.if_index, local.address.is_ipv6())).or_default();
        candidates.push(Candidate { wanted, class: *class, held: *in_use, place });
        *class += 1;
        links.remove(&local.address);
    }
    candidates
}

/// What stays when no path manager wants endpoints: ours, as long as their addresses are usable.
pub(super) fn as_they_are(view: &View<'_>, held: &[Held]) -> Vec<WantedEndpoint> {
    let usable = |held: &&Held| {
        held.own
            && view.usable().any(|local: &LocalAddress<'_>| {
                local.address == held.endpoint.address && Some(local.if_index) == held.endpoint.if_index
            })
    };
    let wanted = |held: &Held| {
        let if_index = held.endpoint.if_index?;
        Some(WantedEndpoint { address: held.endpoint.address, if_index, flags: held.endpoint.flags })
    };
    held.iter().filter(usable).filter_map(wanted).collect()
}

/// The limits that these endpoints need: a subflow for each and two more, for addresses that a peer
/// announces; all that there are when each local address is to meet each remote one.
pub(super) fn needed_limits(chosen: &[WantedEndpoint]) -> Limits {
    let any = |flag| chosen.iter().any(|wanted| wanted.flags.contains(flag));
    let subflows = match u32::try_from(chosen.len()) {
        Ok(0) => return Limits::default(),
        Ok(_) if any(EndpointFlags::FULLMESH) => MOST_SUBFLOWS,
        Ok(count) => (count.saturating_add(2)).min(MOST_SUBFLOWS),
        Err(_) => MOST_SUBFLOWS,
    };
    Limits { subflows, add_addr_accepted: if any(EndpointFlags::SUBFLOW) { subflows } else { 0 } }
}
