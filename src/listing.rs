//! What becomes of the interfaces that are there, for `--list-interfaces`. Decides nothing itself.

use std::path::Path;

use crate::config::Config;
use crate::names;
use crate::network::{Link, Met, Network};
use crate::plugin::{LocalAddress, Unusable};
use crate::rules::Rules;
use crate::types::Family;

/// One line for each address, and for each interface without one: the interface, the address, the rule
/// that it meets, and whether it is used or why not.
pub(crate) fn list(network: &Network, config: &Config, rules: &Rules) -> String {
    let mut rows = Vec::new();
    for (index, link) in network.links() {
        let name = names::shown(Path::new(&*link.name));
        for address in &link.addresses {
            let local = rules.local_address(index, link, address);
            let met = rules.met(link, Family::of(local.address));
            rows.push([name.clone(), local.address.to_string(), rule(met, config), fate(&local)]);
        }
        if link.addresses.is_empty() {
            rows.push(without_address(name, link, config, rules));
        }
    }
    columns(&rows)
}

/// A rule may be for one family only: the first that is for either counts here.
fn without_address(name: String, link: &Link, config: &Config, rules: &Rules) -> [String; 4] {
    let families = [Family::V4, Family::V6].map(|family| rules.met(link, family));
    let met = families.into_iter().find(|met| met.rule != 0).or(families.first().copied());
    let met = met.unwrap_or(Met { rule: 0, verdict: Ok(()) });
    let fate = match met.verdict {
        Err(why) if !link.is_loopback() => format!("not used: {why}"),
        _ => "not used: it has no address".to_owned(),
    };
    [name, "-".to_owned(), rule(met, config), fate]
}

fn rule(met: Met, config: &Config) -> String {
    let placed = usize::from(met.rule).checked_sub(1).and_then(|index| config.interfaces.get(index));
    match (placed, met.verdict) {
        (Some(placed), _) => format!("rule {} ({})", met.rule, placed.place),
        (None, Err(_)) => "built in".to_owned(),
        (None, Ok(())) => "no rule".to_owned(),
    }
}

fn fate(local: &LocalAddress<'_>) -> String {
    match local.unusable {
        None => format!("used{}", manner(local)),
        Some(Unusable::RouteUnknown) => {
            format!("used if it has a route to the internet (check_route){}", manner(local))
        }
        Some(why) => format!("not used: {why}"),
    }
}

/// What is particular to the address.
fn manner(local: &LocalAddress<'_>) -> String {
    let mut text = format!(", flags {}", local.flags);
    if local.order != 0 {
        text.push_str(&format!(", order {}", local.order));
    }
    if let Some(most) = local.max_subflows {
        text.push_str(&format!(", at most {most} subflows"));
    }
    if !local.announce {
        text.push_str(", not announced");
    }
    text
}

/// The columns one below the other, with two spaces between.
fn columns(rows: &[[String; 4]]) -> String {
    let mut widths = [0; 4];
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    let line = |row: &[String; 4]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
