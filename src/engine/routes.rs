//! Which addresses have a way to the wider Internet (`check_route`, and VPNs). The kernel is asked, with source
//! and device, for one address in each half of what there is; again when something changed that the
//! answer may depend on, and never by the clock.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Ticket;
use crate::command::RouteQuestion;
use crate::event::RoutingChange;
use crate::network::{Address, Link, Network, covers};
use crate::plugin::Unusable;
use crate::rules::Rules;

/// One in each half of IPv4, so that 0.0.0.0/1 and 128.0.0.0/1 together count as a default route.
/// Ordinary addresses that stand for any: those for documentation are what filters drop and tests use.
const PROBES_V4: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(64, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(200, 0, 0, 1))];
/// One in each half of 2000::/3, where all of the IPv6 Internet is, so that ::/0, 2000::/3 and pairs of
/// halves count.
const PROBES_V6: [IpAddr; 2] =
    [IpAddr::V6(Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0x3000, 0, 0, 0, 0, 0, 0, 1))];
/// Questions on their way at a time, so that hundreds of addresses do not keep the loop from its events.
const MOST_AT_A_TIME: usize = 32;

fn probes(source: IpAddr) -> [IpAddr; 2] {
    if source.is_ipv4() { PROBES_V4 } else { PROBES_V6 }
}

/// Whether an answer may depend on it.
pub(super) fn matters(change: RoutingChange) -> bool {
    match change {
        RoutingChange::Everything => true,
        RoutingChange::Prefix(prefix, length) => probes(prefix).iter().any(|probe| covers(prefix, length, *probe)),
    }
}

/// Whether it is of interest that an address has a way: where the user asks for that, and for a VPN.
fn matters_of(rules: &Rules, link: &Link, address: &Address) -> bool {
    match rules.verdict_without_route(link, address) {
        Ok(()) => rules.check_route(),
        Err(why) => why == Unusable::Apart,
    }
}

/// What the kernel said of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It leaves by the interface that was asked for.
    Through,
    /// It leaves by another.
    Elsewhere,
    /// There is none.
    Nowhere,
}

/// The questions on their way and the generation of the routing state.
#[derive(Debug)]
pub(super) struct Routes {
    generation: u64,
    on_the_way: Vec<Asked>,
}

/// A question on its way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    ticket: Ticket,
    question: RouteQuestion,
    /// The address that it is about, whether the question names it or not.
    source: IpAddr,
    generation: u64,
}

impl Asked {
    /// The next question about the same address, if the answer does not settle it.
    ///
    /// For IPv6 a lookup with a source finds the way of that source's rules but may answer with another
    /// device that has a better metric; one without keeps to the device. Either will do, unless the
    /// rules forbid the source.
    fn next(&self, way: Way) -> Option<RouteQuestion> {
        let [first, second] = probes(self.source);
        let again = RouteQuestion { source: None, ..self.question };
        match way {
            Way::Through if self.question.destination == first => {
                Some(RouteQuestion { source: Some(self.source), destination: second, ..self.question })
            }
            Way::Elsewhere if self.source.is_ipv6() && self.question.source.is_some() => Some(again),
            _ => None,
        }
    }
}

impl Default for Routes {
    fn default() -> Self {
        // An address starts at generation 0: never asked.
        Self { generation: 1, on_the_way: Vec::new() }
    }
}

impl Routes {
    /// Every answer may be outdated.
    pub(super) fn changed(&mut self) {
        self.generation += 1;
    }

    /// Whether a ticket is one of these questions, and which.
    pub(super) fn question(&self, ticket: Ticket) -> Option<&RouteQuestion> {
        self.on_the_way.iter().find(|asked| asked.ticket == ticket).map(|asked| &asked.question)
    }

    /// No answer will come to what was asked.
    pub(super) fn forget(&mut self) {
        self.on_the_way.clear();
        self.changed();
    }

    /// Whether questions are on their way.
    pub(super) fn is_waiting(&self) -> bool {
        !self.on_the_way.is_empty()
    }

    /// Asks what is not known or outdated, as far as there is room.
    pub(super) fn ask(&mut self, network: &Network, rules: &Rules, mut send: impl FnMut(RouteQuestion) -> Ticket) {
        for (if_index, link) in network.links() {
            for address in &link.addresses {
                if self.on_the_way.len() >= MOST_AT_A_TIME {
                    return;
                }
                let source = address.told.address;
                let waiting = |asked: &Asked| (asked.source, asked.question.if_index) == (source, if_index);
                if address.route.asked >= self.generation
                    || !matters_of(rules, link, address)
                    || self.on_the_way.iter().any(waiting)
                {
                    continue;
                }
                let [destination, _] = probes(source);
                let question = RouteQuestion { source: Some(source), destination, if_index, bound: true };
                let (ticket, generation) = (send(question), self.generation);
                self.on_the_way.push(Asked { ticket, question, source, generation });
            }
        }
    }

    /// Takes an answer, and asks on until the address is settled.
    pub(super) fn answer(
        &mut self,
        network: &mut Network,
        ticket: Ticket,
        way: Way,
        send: impl FnOnce(RouteQuestion) -> Ticket,
    ) {
        let Some(place) = self.on_the_way.iter().position(|asked| asked.ticket == ticket) else { return };
        let asked = self.on_the_way.swap_remove(place);
        if let Some(question) = asked.next(way) {
            self.on_the_way.push(Asked { ticket: send(question), question, ..asked });
            return;
        }
        for address in network.find_mut(asked.question.if_index, asked.source) {
            address.route.reachable = Some(way == Way::Through);
            address.route.asked = asked.generation;
        }
    }
}
