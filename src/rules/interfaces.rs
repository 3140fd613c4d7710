//! Rules about interfaces: which of them an interface meets first, and what that makes of it. Names are
//! compared here and nowhere else, and what came of it is kept with the link.

use std::sync::Arc;

use super::glob::Glob;
use crate::network::{Link, Met};
use crate::plugin::Unusable;
use crate::types::{EndpointFlags, Family, Use};

/// The kind of an interface that has none: a device of the hardware's own.
const PHYSICAL: &str = "physical";
/// Rules at most, so that a number of one is always exact.
pub(crate) const MOST: usize = 1000;

/// One rule: what it is for, and what it says. `None` and an empty list leave something open.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    /// Any of these fits a name of the interface, the alternative ones included.
    pub(crate) names: Vec<Glob>,
    /// It is of one of these kinds.
    pub(crate) kinds: Vec<Box<str>>,
    pub(crate) family: Option<Family>,
    pub(crate) usage: Option<Use>,
    pub(crate) backup: Option<bool>,
    pub(crate) flags: Option<EndpointFlags>,
    pub(crate) max_subflows: Option<u8>,
    pub(crate) announce: Option<bool>,
    pub(crate) order: Option<i32>,
}

impl Rule {
    /// The flags of endpoints on an interface that meets it; `general` are those of `addr-flags`.
    pub(crate) fn endpoint_flags(&self, general: EndpointFlags) -> EndpointFlags {
        let mut flags = self.flags.unwrap_or(general);
        for (choice, flag) in [(self.backup, EndpointFlags::BACKUP), (self.announce, EndpointFlags::SIGNAL)] {
            flags = match choice {
                Some(true) => flags.union(flag),
                Some(false) => flags.without(flag),
                None => flags,
            };
        }
        flags
    }

    fn is_for(&self, link: &Link, family: Family) -> bool {
        let fits = |name: &str| self.names.iter().any(|glob| glob.matches(name));
        let kind = if link.kind.is_empty() { PHYSICAL } else { &link.kind };
        self.family.is_none_or(|own| own == family)
            && (self.kinds.is_empty() || self.kinds.iter().any(|own| **own == *kind))
            && (self.names.is_empty() || fits(&link.name) || link.alternative_names.iter().any(|name| fits(name)))
    }
}

/// What holds where no rule of the user's says `use`.
pub(crate) fn built_in() -> Vec<Rule> {
    let named = |names: &[&str], usage| {
        // That each of these is a pattern is tested below.
        let names = names.iter().filter_map(|name| Glob::new(name).ok()).collect();
        Rule { names, usage: Some(usage), ..Rule::default() }
    };
    let bridge = format!("br-{}", "[0-9a-f]".repeat(12));
    let kinds = ["wireguard", "ovpn"].map(Into::into).to_vec();
    vec![
        named(&["lo", "docker*", "virbr*", "veth*", &bridge], Use::No),
        // A number is all that pppd's own names tell, which is nothing of what lies below.
        named(&["wg*", "tun*", "tailscale*", "ppp[0-9]*"], Use::Apart),
        Rule { kinds, usage: Some(Use::Apart), ..Rule::default() },
    ]
}

/// The rules in force, the user's first.
#[derive(Clone, Debug)]
pub(crate) struct Interfaces {
    own: Arc<[Arc<Rule>]>,
    built_in: Arc<[Rule]>,
}

impl Default for Interfaces {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Interfaces {
    /// `own`: in the order in which they are tried; the first is number 1.
    pub(crate) fn new(own: Vec<Arc<Rule>>) -> Self {
        Self { own: own.into(), built_in: built_in().into() }
    }

    /// The rule of that number.
    pub(super) fn rule(&self, number: u16) -> Option<&Rule> {
        self.own.get(usize::from(number).checked_sub(1)?).map(|rule| &**rule)
    }

    /// Finds the first rule that a link meets, and whether it may be used.
    pub(super) fn meet(&self, link: &Link, family: Family) -> Met {
        let (own, number) = self.own.iter().zip(1..).find(|(rule, _)| rule.is_for(link, family)).unzip();
        let rule = number.unwrap_or(0);
        let chosen = own.and_then(|rule| rule.usage);
        let verdict = match chosen.or_else(|| self.built_in.iter().find(|rule| rule.is_for(link, family))?.usage) {
            None | Some(Use::Yes) => Ok(()),
            Some(Use::Apart) => Err(Unusable::Apart),
            Some(Use::No) if chosen.is_some() => Err(Unusable::Rule(rule)),
            Some(Use::No) => Err(Unusable::BuiltIn),
        };
        Met { rule, verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{self, LinkFlags, Names};
    use crate::network::Network;
    use crate::types::IfIndex;

    fn globs(names: &[&str]) -> Vec<Glob> {
        names.iter().map(|name| Glob::new(name).unwrap()).collect()
    }

    fn named(names: &[&str], usage: Option<Use>) -> Rule {
        Rule { names: globs(names), usage, ..Rule::default() }
    }

    /// A link with that name, kind and alternative name (empty for none), and what it meets.
    fn met_by(rules: Vec<Rule>, (name, kind, other): (&str, &str, &str), family: Family) -> Met {
        let mut told = event::Link { name: Some(name.as_bytes()), ..event::Link::new(IfIndex(2), LinkFlags(1)) };
        told.kind = Some(kind.as_bytes()).filter(|kind| !kind.is_empty());
        told.alternative_names =
            Names::new(other.as_bytes(), |rest| Some(std::mem::take(rest)).filter(|name| !name.is_empty()));
        let mut network = Network::default();
        network.apply_link(&told);
        let (_, link) = network.links().next().unwrap();
        Interfaces::new(rules.into_iter().map(Arc::new).collect()).meet(link, family)
    }

    fn met(rules: Vec<Rule>, name: &str) -> (u16, Result<(), Unusable>) {
        let Met { rule, verdict } = met_by(rules, (name, "", ""), Family::V4);
        (rule, verdict)
    }

    #[test]
    fn the_first_rule_that_fits_counts_and_no_other() {
        let rules = || vec![named(&["eth[12]", "wlan0"], Some(Use::No)), named(&["eth*"], None), named(&[], None)];
        assert_eq!(met(rules(), "eth1"), (1, Err(Unusable::Rule(1))));
        assert_eq!(met(rules(), "wlan0"), (1, Err(Unusable::Rule(1))));
        assert_eq!(met(rules(), "eth0"), (2, Ok(())));
        assert_eq!(met(rules(), "wwan0"), (3, Ok(())));
        assert_eq!(met(Vec::new(), "wwan0"), (0, Ok(())));
    }

    #[test]
    fn what_is_built_in_is_excluded_or_apart_by_name_and_vpns_by_kind_too() {
        for (name, expected) in [
            ("lo", Err(Unusable::BuiltIn)),
            ("docker0", Err(Unusable::BuiltIn)),
            ("virbr1", Err(Unusable::BuiltIn)),
            ("veth12ab", Err(Unusable::BuiltIn)),
            ("br-0123456789ab", Err(Unusable::BuiltIn)),
            ("br-0123456789a", Ok(())),
            ("br-lan", Ok(())),
            ("lowlan0", Ok(())),
            ("wg0", Err(Unusable::Apart)),
            ("tun3", Err(Unusable::Apart)),
            ("tailscale0", Err(Unusable::Apart)),
            ("ppp0", Err(Unusable::Apart)),
            ("pppoe-wan", Ok(())),
            ("eth0", Ok(())),
        ] {
            assert_eq!(met(Vec::new(), name).1, expected, "{name}");
        }
        let of_kind = |kind| met_by(Vec::new(), ("home", kind, ""), Family::V6).verdict;
        assert_eq!(of_kind("wireguard"), Err(Unusable::Apart));
        assert_eq!(of_kind("veth"), Ok(()), "the eth0 of a container is a veth");
        assert_eq!(of_kind("tun"), Ok(()), "the uplink of a container without root is a tap");
    }

    #[test]
    fn a_rule_that_says_use_overrides_what_is_built_in_and_one_that_does_not_leaves_it() {
        for name in ["docker0", "wg0"] {
            assert_eq!(met(vec![named(&["docker*", "wg*"], Some(Use::Yes))], name), (1, Ok(())));
        }
        assert_eq!(met(vec![named(&[], None)], "docker0"), (1, Err(Unusable::BuiltIn)));
        assert_eq!(met(vec![named(&[], None)], "wg0"), (1, Err(Unusable::Apart)));
        assert_eq!(met(vec![named(&["corp0"], Some(Use::Apart))], "corp0"), (1, Err(Unusable::Apart)));
    }

    #[test]
    fn alternative_names_count_like_the_name() {
        let rules = || vec![named(&["enp0s*"], Some(Use::No))];
        assert_eq!(met_by(rules(), ("eth0", "", "enp0s31f6"), Family::V4).rule, 1);
        assert_eq!(met_by(rules(), ("eth0", "", "enx0s31f6"), Family::V4).rule, 0);
        assert_eq!(met_by(Vec::new(), ("home", "", "wg0"), Family::V4).verdict, Err(Unusable::Apart));
    }

    #[test]
    fn kind_and_family_and_name_must_all_fit() {
        let rule = |kind: &str, family| Rule { kinds: vec![kind.into()], family, ..named(&["eth*"], None) };
        let number = |rule, name, kind| met_by(vec![rule], (name, kind, ""), Family::V4).rule;
        assert_eq!(number(rule("veth", None), "eth0", "veth"), 1);
        assert_eq!(number(rule("veth", None), "eth0", "vlan"), 0);
        assert_eq!(number(rule("veth", None), "wlan0", "veth"), 0);
        assert_eq!(number(rule("physical", None), "eth0", ""), 1);
        assert_eq!(number(rule("physical", None), "eth0", "veth"), 0);
        assert_eq!(number(rule("veth", Some(Family::V4)), "eth0", "veth"), 1);
        assert_eq!(number(rule("veth", Some(Family::V6)), "eth0", "veth"), 0);
    }

    #[test]
    fn backup_and_announce_change_the_flags_of_the_rule_or_else_the_general_ones() {
        let flags = |flags, backup, announce| {
            let rule = Rule { flags, backup, announce, ..Rule::default() };
            rule.endpoint_flags(EndpointFlags(6)).to_string()
        };
        assert_eq!(flags(None, None, None), "subflow,backup");
        assert_eq!(flags(None, Some(false), Some(true)), "signal,subflow");
        assert_eq!(flags(Some(EndpointFlags::SIGNAL), Some(true), None), "signal,backup");
        assert_eq!(flags(Some(EndpointFlags(3)), None, Some(false)), "subflow");
    }

    #[test]
    fn every_pattern_that_is_built_in_is_one() {
        assert_eq!(built_in().iter().map(|rule| rule.names.len()).collect::<Vec<_>>(), [5, 4, 0]);
    }
}
