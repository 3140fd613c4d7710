//! Which of the wanted endpoints are to be: the kernel takes a few, and each address once.

use std::net::IpAddr;

use super::Held;
use crate::event::Limits;
use crate::plugin::{LocalAddress, View, WantedEndpoint};
use crate::types::EndpointFlags;

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
    ranked.sort_unstable_by_key(|candidate| (candidate.class, !candidate.held, candidate.place));
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
    /// How many of its interface and family come before it.
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
    // Within an interface and family, those in use come first: taking one away closes its subflows.
    let kind = |candidate: &Candidate| (candidate.wanted.if_index, candidate.wanted.address.is_ipv6());
    candidates.sort_unstable_by_key(|candidate| (kind(candidate), !candidate.held, candidate.place));
    let mut before: Option<Candidate> = None;
    for candidate in &mut candidates {
        candidate.class = before.filter(|before| kind(before) == kind(candidate)).map_or(0, |before| before.class + 1);
        before = Some(*candidate);
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

/// The limits that these endpoints need, together with those of others: a subflow for each and two more,
/// for addresses that a peer announces; all that there are when each local address is to meet each
/// remote one.
pub(super) fn needed_limits(chosen: &[WantedEndpoint], held: &[Held]) -> Limits {
    if chosen.is_empty() {
        return Limits::default();
    }
    let others = held.iter().filter(|held| !held.own && !held.is_implicit()).map(|held| held.endpoint.flags);
    let all = chosen.iter().map(|wanted| wanted.flags).chain(others);
    let (count, flags) =
        all.fold((0u32, EndpointFlags::NONE), |(n, any), flags| (n.saturating_add(1), any.union(flags)));
    let subflows = match flags.contains(EndpointFlags::FULLMESH) {
        true => MOST_SUBFLOWS,
        false => count.saturating_add(2).min(MOST_SUBFLOWS),
    };
    let accepted = if flags.contains(EndpointFlags::SUBFLOW) { subflows } else { 0 };
    Limits { subflows, add_addr_accepted: accepted }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::event::Endpoint;
    use crate::types::{AddressId, IfIndex};

    fn local(if_index: u32, address: &str) -> LocalAddress<'static> {
        LocalAddress::new(address.parse().unwrap(), IfIndex(if_index), "x")
    }

    fn wanted(local: &LocalAddress<'_>) -> WantedEndpoint {
        WantedEndpoint { address: local.address, if_index: local.if_index, flags: local.flags }
    }

    fn held(if_index: u32, address: &str, own: bool) -> Held {
        let (id, address, if_index) = (AddressId(1), address.parse().unwrap(), Some(IfIndex(if_index)));
        let endpoint = Endpoint { id, address, port: 0, flags: EndpointFlags::SUBFLOW, if_index };
        Held { endpoint, own, seen: Instant::now() }
    }

    fn chosen(addresses: &[LocalAddress<'_>], held: &[Held], capacity: Option<usize>) -> Vec<String> {
        let all = addresses.iter().map(wanted).collect();
        let choice = choose(&View::new(addresses), all, held, capacity);
        choice.chosen.iter().map(|wanted| format!("{} on {}", wanted.address, wanted.if_index)).collect()
    }

    #[test]
    fn every_interface_gets_an_address_of_each_family_before_one_gets_a_second() {
        let addresses = [
            local(2, "10.0.2.1"),
            local(2, "10.0.2.2"),
            local(2, "10.0.2.3"),
            local(2, "fd00:2::1"),
            local(2, "fd00:2::2"),
            local(3, "10.0.3.1"),
            local(3, "10.0.3.2"),
            local(3, "fd00:3::1"),
        ];
        assert_eq!(
            chosen(&addresses, &[], Some(5)),
            ["10.0.2.1 on 2", "fd00:2::1 on 2", "10.0.3.1 on 3", "fd00:3::1 on 3", "10.0.2.2 on 2"]
        );
        assert_eq!(chosen(&addresses, &[], None).len(), 8);
    }

    #[test]
    fn among_equals_those_that_are_endpoints_already_stay() {
        let addresses = [local(2, "10.0.2.1"), local(2, "10.0.2.2"), local(2, "10.0.2.3"), local(3, "10.0.3.1")];
        let now = [held(2, "10.0.2.3", true)];
        assert_eq!(chosen(&addresses, &now, Some(2)), ["10.0.2.3 on 2", "10.0.3.1 on 3"]);
        assert_eq!(chosen(&addresses, &now, Some(3)), ["10.0.2.3 on 2", "10.0.3.1 on 3", "10.0.2.1 on 2"]);
    }

    #[test]
    fn endpoints_of_others_take_room_and_serve_their_address() {
        let addresses = [local(2, "10.0.2.1"), local(3, "10.0.3.1"), local(4, "10.0.4.1")];
        let now = [held(2, "10.0.2.1", false), held(9, "10.9.9.9", false)];
        assert_eq!(chosen(&addresses, &now, Some(3)), ["10.0.3.1 on 3"]);
        assert_eq!(chosen(&addresses, &now, None), ["10.0.3.1 on 3", "10.0.4.1 on 4"]);
    }

    #[test]
    fn an_address_on_two_links_is_one_endpoint_on_the_link_in_use() {
        let addresses = [local(2, "10.0.0.1"), local(3, "10.0.0.1"), local(3, "10.0.3.1")];
        assert_eq!(chosen(&addresses, &[], None), ["10.0.0.1 on 2", "10.0.3.1 on 3"]);
        let now = [held(3, "10.0.0.1", true)];
        assert_eq!(chosen(&addresses, &now, None), ["10.0.0.1 on 3", "10.0.3.1 on 3"]);
    }

    #[test]
    fn an_endpoint_with_a_port_or_made_by_the_kernel_does_not_serve_an_address() {
        let addresses = [local(2, "10.0.2.1"), local(3, "10.0.3.1")];
        let mut with_port = held(2, "10.0.2.1", false);
        with_port.endpoint.port = 8080;
        let mut implicit = held(3, "10.0.3.1", false);
        implicit.endpoint.flags = EndpointFlags::IMPLICIT;
        assert_eq!(chosen(&addresses, &[with_port, implicit], None), ["10.0.2.1 on 2", "10.0.3.1 on 3"]);
    }

    #[test]
    fn what_the_host_does_not_have_or_excludes_itself_is_not_chosen() {
        let addresses = [local(2, "10.0.2.1"), local(3, "10.0.3.1")];
        let mut both = wanted(&addresses[0]);
        both.flags = EndpointFlags::SIGNAL.union(EndpointFlags::FULLMESH);
        let elsewhere = WantedEndpoint { if_index: IfIndex(9), ..wanted(&addresses[1]) };
        let choice = choose(&View::new(&addresses), vec![both, elsewhere], &[], None);
        assert!(choice.chosen.is_empty());
        assert_eq!(choice.nonsense, Some(both.address));
    }

    #[test]
    fn limits_grow_with_the_endpoints_up_to_what_the_kernel_allows() {
        let endpoints = |count: u32, flags| -> Vec<WantedEndpoint> {
            (0..count).map(|n| WantedEndpoint { flags, ..wanted(&local(n + 2, "10.0.0.1")) }).collect()
        };
        let limits = |count, flags| {
            let needed = needed_limits(&endpoints(count, flags), &[]);
            (needed.subflows, needed.add_addr_accepted)
        };
        assert_eq!(limits(0, EndpointFlags::SUBFLOW), (0, 0));
        assert_eq!(limits(2, EndpointFlags::SUBFLOW), (4, 4));
        assert_eq!(limits(20, EndpointFlags::SUBFLOW), (8, 8));
        assert_eq!(limits(2, EndpointFlags::SIGNAL), (4, 0));
        assert_eq!(limits(2, EndpointFlags::SUBFLOW.union(EndpointFlags::FULLMESH)), (8, 8));
        let with_another = needed_limits(&endpoints(1, EndpointFlags::SIGNAL), &[held(9, "10.9.9.9", false)]);
        assert_eq!((with_another.subflows, with_another.add_addr_accepted), (4, 4));
        assert_eq!(needed_limits(&[], &[held(9, "10.9.9.9", false)]), Limits::default());
    }
}
