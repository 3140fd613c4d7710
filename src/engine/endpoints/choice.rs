//! Which of the wanted endpoints are to be: the kernel takes a few, and each address once.

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

#[derive(Clone, Copy)]
struct Candidate {
    wanted: WantedEndpoint,
    /// How many addresses of its interface and family come before it.
    class: usize,
    /// It is an endpoint of ours already.
    held: bool,
    place: usize,
}

fn rank(view: &View<'_>, wanted: &[WantedEndpoint], held: &[Held]) -> Vec<Candidate> {
    let mut candidates = candidates(view, wanted, held);
    // The kernel takes an address once: of two links that have it, the one in use stays.
    candidates.sort_unstable_by_key(|candidate| (candidate.wanted.address, !candidate.held, candidate.place));
    candidates.dedup_by_key(|candidate| candidate.wanted.address);
    candidates.sort_unstable_by_key(|candidate| candidate.place);
    let mut classes: Vec<((IfIndex, bool), usize)> = Vec::new();
    for candidate in &mut candidates {
        let kind = (candidate.wanted.if_index, candidate.wanted.address.is_ipv6());
        // Places go by interface, so that the class is among the last two.
        match classes.iter_mut().rev().take(2).find(|(other, _)| *other == kind) {
            Some((_, count)) => {
                *count += 1;
                candidate.class = *count;
            }
            None => classes.push((kind, 0)),
        }
    }
    candidates
}

/// Those that the host has and that nobody else serves.
fn candidates(view: &View<'_>, wanted: &[WantedEndpoint], held: &[Held]) -> Vec<Candidate> {
    let mut candidates = Vec::with_capacity(wanted.len());
    // Most path managers want in the order of the view: then each is found where it is expected.
    let mut next = 0;
    for (place, local) in view.addresses().iter().enumerate() {
        let is_local = |wanted: &&WantedEndpoint| (wanted.if_index, wanted.address) == (local.if_index, local.address);
        let Some(found) = wanted.get(next).filter(is_local).or_else(|| wanted.iter().find(is_local)) else { continue };
        next += 1;
        let served = held.iter().find(|held| held.serves(local.address));
        if excludes_itself(found.flags) || served.is_some_and(|held| !held.own) {
            continue;
        }
        let held = served.is_some_and(|held| held.endpoint.if_index == Some(local.if_index));
        candidates.push(Candidate { wanted: *found, class: 0, held, place });
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
