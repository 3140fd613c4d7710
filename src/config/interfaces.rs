//! Rules about interfaces, `[[interface]]`: from the tree of a file to rules, and back to TOML.

use std::sync::Arc;

use super::layer;
use crate::names;
use crate::rules::{Glob, Rule};
use crate::settings::tree::{self, Entry, Node, Table, Value};
use crate::settings::{Place, SettingsError};
use crate::types::{EndpointFlags, Use};

/// Every key of a rule.
pub(super) const KEYS: &[&str] =
    &["match", "kind", "family", "use", "backup", "flags", "max-subflows", "announce", "order"];

/// A rule and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct PlacedRule {
    pub(crate) rule: Arc<Rule>,
    pub(crate) place: Place,
}

/// The rules of one file, in their order.
pub(super) fn read(node: &Node) -> Result<Vec<PlacedRule>, SettingsError> {
    let expected = "expected an array of tables: [[interface]]";
    let Value::Array(items) = &node.value else { return Err(node.wrong_type("interface", expected)) };
    let rule = |item: &Node| match &item.value {
        Value::Table(table) => Ok(PlacedRule { rule: Arc::new(rule(table)?), place: item.place.clone() }),
        _ => Err(item.wrong_type("interface", expected)),
    };
    items.iter().map(rule).collect()
}

fn rule(table: &Table) -> Result<Rule, SettingsError> {
    let mut rule = Rule::default();
    for Entry { key, place, node } in table.entries() {
        match key.as_str() {
            "match" => rule.names = some(key, node, Glob::new)?,
            "kind" => rule.kinds = some(key, node, kind)?,
            "family" => rule.family = Some(layer::named(key, node, names::family)?),
            "use" => rule.usage = Some(usage(key, node)?),
            "backup" => rule.backup = Some(node.boolean(key)?),
            "flags" => rule.flags = Some(layer::endpoint_flags(key, node)?),
            // What is within the range fits.
            "max-subflows" => rule.max_subflows = u8::try_from(node.integer(key, 1..=255)?).ok(),
            "announce" => rule.announce = Some(node.boolean(key)?),
            "order" => rule.order = i32::try_from(node.integer(key, i32::MIN.into()..=i32::MAX.into())?).ok(),
            _ => return Err(place.error(names::unknown("key of [[interface]]", key, KEYS))),
        }
    }
    Ok(rule)
}

/// A list of at least one, each item made by `make`.
fn some<T>(key: &str, node: &Node, make: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, SettingsError> {
    let texts = node.texts(key)?;
    if texts.is_empty() {
        return Err(node.error(format!("{key}: the list is empty")));
    }
    texts.iter().map(|text| layer::item(key, text, &make)).collect()
}

fn kind(text: &str) -> Result<Box<str>, String> {
    if text.is_empty() { Err("the kind is empty".to_owned()) } else { Ok(text.into()) }
}

fn usage(key: &str, node: &Node) -> Result<Use, SettingsError> {
    match &node.value {
        Value::Boolean(true) => Ok(Use::Yes),
        Value::Boolean(false) => Ok(Use::No),
        Value::Text(text) if text == "apart" => Ok(Use::Apart),
        _ => Err(node.wrong_type(key, "expected true, false or \"apart\"")),
    }
}

/// Refuses flags that exclude each other, in whatever way they came together.
pub(super) fn check(interfaces: &[PlacedRule], general: EndpointFlags) -> Result<(), SettingsError> {
    for PlacedRule { rule, place } in interfaces {
        names::no_conflict(rule.endpoint_flags(general))
            .map_err(|error| place.error(format!("interface: {error} (of addr-flags, flags and announce)")))?;
    }
    Ok(())
}

/// The rule as a table of TOML.
pub(super) fn to_toml(rule: &Rule) -> String {
    let list = |items: Vec<String>| (!items.is_empty()).then(|| array(&items));
    let flags = |flags: EndpointFlags| {
        let named = EndpointFlags::NAMES.iter().filter(|(_, flag)| flags.contains(*flag));
        array(&named.map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>())
    };
    let given = [
        ("match", list(rule.names.iter().map(ToString::to_string).collect())),
        ("kind", list(rule.kinds.iter().map(ToString::to_string).collect())),
        ("family", rule.family.map(|family| tree::string(&family.to_string()))),
        ("use", rule.usage.map(|usage| shown(usage).to_owned())),
        ("backup", rule.backup.map(|backup| backup.to_string())),
        ("flags", rule.flags.map(flags)),
        ("max-subflows", rule.max_subflows.map(|most| most.to_string())),
        ("announce", rule.announce.map(|announce| announce.to_string())),
        ("order", rule.order.map(|order| order.to_string())),
    ];
    let given = given.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value?)));
    given.fold("[[interface]]\n".to_owned(), |text, line| text + &line)
}

fn shown(usage: Use) -> &'static str {
    match usage {
        Use::Yes => "true",
        Use::No => "false",
        Use::Apart => "\"apart\"",
    }
}

fn array(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| tree::string(item)).collect();
    format!("[{}]", items.join(", "))
}
