//! Which pairs of addresses have a route between them: the kernel is asked, with source and device, and
//! its answers are kept until something changes that they depend on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Ticket;
use super::routes::Way;
use crate::command::RouteQuestion;
use crate::event::RoutingChange;
use crate::network::covers;
use crate::types::{IfIndex, Token};

/// From this address, through that interface, to that address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) source: IpAddr,
    pub(super) if_index: IfIndex,
    pub(super) destination: IpAddr,
}

/// As many answers are kept; whoever has connections to more hosts asks again, at 5 us each.
const MOST_KNOWN: usize = 4096;
/// Questions on their way at a time, so that thousands do not keep the loop from its events.
const MOST_AT_A_TIME: usize = 64;

/// Answers, and questions on their way.
#[derive(Debug, Default)]
pub(super) struct Ways {
    known: BTreeMap<Pair, bool>,
    asked: Vec<Asked>,
    /// The kernel binds no subflow to an interface: a way must lead through it by itself.
    unbound: bool,
}

#[derive(Debug)]
struct Asked {
    ticket: Ticket,
    question: RouteQuestion,
    pair: Pair,
    /// Something changed since: the answer may be of before.
    outdated: bool,
    /// Who waits for the answer.
    waiting: Vec<Token>,
}

/// What is known of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Yes,
    No,
    /// It was asked, and the connection is told.
    Asked,
    /// Too much is being asked already: look again when there is room.
    Later,
}

impl Ways {
    /// Whether there is a route; asks if it is not known.
    pub(super) fn look(&mut self, pair: Pair, token: Token, send: impl FnOnce(RouteQuestion) -> Ticket) -> Known {
        if let Some(known) = self.known.get(&pair) {
            return if *known { Known::Yes } else { Known::No };
        }
        if let Some(asked) = self.asked.iter_mut().find(|asked| asked.pair == pair && !asked.outdated) {
            if !asked.waiting.contains(&token) {
                asked.waiting.push(token);
            }
            return Known::Asked;
        }
        if !self.has_room() {
            return Known::Later;
        }
        let Pair { source, if_index, destination } = pair;
        let question = RouteQuestion { source: Some(source), destination, if_index, bound: !self.unbound };
        self.asked.push(Asked { ticket: send(question), question, pair, outdated: false, waiting: vec![token] });
        Known::Asked
    }

    /// Whether it is known that there is no route.
    pub(super) fn lacks(&self, pair: Pair) -> bool {
        self.known.get(&pair) == Some(&false)
    }

    /// Whether one more may be asked.
    pub(super) fn has_room(&self) -> bool {
        self.asked.len() < MOST_AT_A_TIME
    }

    pub(super) fn question(&self, ticket: Ticket) -> Option<&RouteQuestion> {
        self.asked.iter().find(|asked| asked.ticket == ticket).map(|asked| &asked.question)
    }

    /// The question to which an answer says that subflows would leave by another interface, as they are not
    /// bound to one.
    pub(super) fn stray(&self, ticket: Ticket, way: Way) -> Option<RouteQuestion> {
        self.question(ticket).copied().filter(|question| way == Way::Elsewhere && !question.bound)
    }

    /// Takes an answer; the connections that waited for it look again.
    pub(super) fn answer(
        &mut self,
        ticket: Ticket,
        way: Way,
        send: impl FnOnce(RouteQuestion) -> Ticket,
    ) -> Vec<Token> {
        let Some(place) = self.asked.iter().position(|asked| asked.ticket == ticket) else { return Vec::new() };
        // For IPv6, an answer with a source may name another device with a better metric: see `routes`.
        if let Some(asked) = self.asked.get_mut(place) {
            let RouteQuestion { source, bound, .. } = asked.question;
            if way == Way::Elsewhere && asked.pair.source.is_ipv6() && source.is_some() && bound {
                asked.question.source = None;
                asked.ticket = send(asked.question);
                return Vec::new();
            }
        }
        let asked = self.asked.swap_remove(place);
        if !asked.outdated {
            if self.known.len() >= MOST_KNOWN {
                self.known.clear();
            }
            self.known.insert(asked.pair, way == Way::Through);
        }
        asked.waiting
    }

    /// The routing state changed: answers that may depend on it are forgotten.
    pub(super) fn changed(&mut self, change: RoutingChange) {
        let matters = |pair: &Pair| match change {
            RoutingChange::Everything => true,
            RoutingChange::Prefix(prefix, length) => covers(prefix, length, pair.destination),
        };
        self.known.retain(|pair, _| !matters(pair));
        self.asked.iter_mut().filter(|asked| matters(&asked.pair)).for_each(|asked| asked.outdated = true);
    }

    /// Whether subflows are bound to an interface.
    pub(super) fn are_bound(&self) -> bool {
        !self.unbound
    }

    /// They are, or are not: what was asked for the other case is of no use.
    pub(super) fn bind(&mut self, bound: bool) {
        if self.unbound == bound {
            self.unbound = !bound;
            self.changed(RoutingChange::Everything);
        }
    }

    /// No answer will come to what was asked.
    pub(super) fn forget(&mut self) -> Vec<Token> {
        self.known.clear();
        self.asked.drain(..).flat_map(|asked| asked.waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Pair = pair([10, 0, 0, 1], [192, 0, 2, 1]);

    const fn pair(source: [u8; 4], destination: [u8; 4]) -> Pair {
        let [a, b, c, d] = source;
        let source = IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d));
        let [a, b, c, d] = destination;
        let destination = IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d));
        Pair { source, if_index: IfIndex(2), destination }
    }

    fn unasked(_: RouteQuestion) -> Ticket {
        panic!("it is asked again")
    }

    #[test]
    fn a_question_is_asked_once_for_all_and_its_answer_kept() {
        let mut ways = Ways::default();
        assert_eq!(ways.look(WAY, Token(1), |_| Ticket(1)), Known::Asked);
        for token in [1, 2, 2] {
            assert_eq!(ways.look(WAY, Token(token), unasked), Known::Asked);
        }
        assert_eq!(ways.answer(Ticket(1), Way::Through, unasked), [Token(1), Token(2)]);
        assert_eq!(ways.look(WAY, Token(3), unasked), Known::Yes);
    }

    #[test]
    fn an_answer_is_asked_for_again_when_a_route_changed_that_covers_it() {
        let mut ways = Ways::default();
        let prefix = |text: &str| RoutingChange::Prefix(text.parse().unwrap(), 24);
        ways.look(WAY, Token(1), |_| Ticket(1));
        ways.answer(Ticket(1), Way::Nowhere, unasked);
        ways.changed(prefix("192.0.3.0"));
        assert_eq!(ways.look(WAY, Token(1), unasked), Known::No);
        ways.changed(prefix("192.0.2.0"));
        assert_eq!(ways.look(WAY, Token(1), |_| Ticket(2)), Known::Asked);
    }

    #[test]
    fn an_answer_to_a_question_of_before_a_change_is_not_believed() {
        let mut ways = Ways::default();
        ways.look(WAY, Token(1), |_| Ticket(1));
        ways.changed(RoutingChange::Everything);
        assert_eq!(ways.look(WAY, Token(2), |_| Ticket(2)), Known::Asked);
        assert_eq!(ways.answer(Ticket(1), Way::Nowhere, unasked), [Token(1)]);
        assert_eq!(ways.look(WAY, Token(1), unasked), Known::Asked);
        assert_eq!(ways.answer(Ticket(2), Way::Through, unasked), [Token(2), Token(1)]);
        assert_eq!(ways.look(WAY, Token(1), unasked), Known::Yes);
    }

    #[test]
    fn so_many_questions_are_asked_at_a_time_and_so_many_answers_kept() {
        let mut ways = Ways::default();
        let mut tickets = 0;
        for n in 0..10_000u32 {
            let [_, _, high, low] = n.to_be_bytes();
            let known = ways.look(pair([10, 0, 0, 1], [10, 1, high, low]), Token(1), |_| {
                tickets += 1;
                Ticket(tickets)
            });
            assert_eq!(known == Known::Later, !ways.has_room() && n >= 64, "{n}");
            if n >= 64 {
                ways.answer(Ticket(tickets - 63), Way::Through, unasked);
                ways.look(pair([10, 0, 0, 1], [10, 2, high, low]), Token(1), |_| {
                    tickets += 1;
                    Ticket(tickets)
                });
            }
            assert!(ways.asked.len() <= MOST_AT_A_TIME && ways.known.len() <= MOST_KNOWN);
        }
    }

    #[test]
    fn whoever_waits_for_an_answer_that_will_not_come_looks_again() {
        let mut ways = Ways::default();
        ways.look(WAY, Token(1), |_| Ticket(1));
        assert_eq!(ways.forget(), [Token(1)]);
        assert_eq!(ways.look(WAY, Token(1), |_| Ticket(2)), Known::Asked);
    }

    #[test]
    fn an_ipv6_answer_that_names_another_device_is_asked_for_without_source() {
        let mut ways = Ways::default();
        let (source, destination) = ("fd00::1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let way = Pair { source, if_index: IfIndex(2), destination };
        ways.look(way, Token(1), |_| Ticket(1));
        let again = ways.answer(Ticket(1), Way::Elsewhere, |question| {
            assert_eq!(question.source, None);
            Ticket(2)
        });
        assert_eq!(again, []);
        assert_eq!(ways.answer(Ticket(2), Way::Through, unasked), [Token(1)]);
        assert_eq!(ways.look(way, Token(1), unasked), Known::Yes);
    }

    #[test]
    fn where_subflows_are_not_bound_the_way_is_asked_for_anew_and_must_lead_through_the_interface_by_itself() {
        let mut ways = Ways::default();
        let ask = |ways: &mut Ways, source: &str, ticket| {
            let (source, destination) = (source.parse().unwrap(), "2001:db8::1".parse().unwrap());
            let mut asked = None;
            ways.look(Pair { source, if_index: IfIndex(2), destination }, Token(1), |question| {
                asked = Some(question.bound);
                Ticket(ticket)
            });
            asked
        };
        assert_eq!(ask(&mut ways, "fd00::1", 1), Some(true));
        ways.answer(Ticket(1), Way::Through, unasked);
        ways.bind(false);
        for (ticket, source) in [(2, "fd00::1"), (3, "fd00::2")] {
            assert_eq!(ask(&mut ways, source, ticket), Some(false));
            assert!(ways.stray(Ticket(ticket), Way::Elsewhere).is_some());
            assert_eq!(ways.answer(Ticket(ticket), Way::Elsewhere, unasked), [Token(1)], "with its source only");
        }
    }
}
