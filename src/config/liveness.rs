//! The table `[liveness]`: how paths that carry nothing although their links are up are looked for, and when
//! one that came back is used again.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::liveness::LivenessPolicy;
use crate::names;
use crate::settings::SettingsError;
use crate::settings::tree::{Entry, Node, Table, Value, shown};

const KEYS: [&str; 3] = ["blackhole", "poll", "return-delay"];

/// Below, the kernel's own delayed acknowledgements (40 ms) would be taken for silence; beyond, the kernel is
/// quicker by itself.
const BLACKHOLE: RangeInclusive<u64> = 50..=10_000;
const POLL: RangeInclusive<u64> = 5..=1_000;
const RETURN_DELAY: RangeInclusive<u64> = 0..=600_000;

/// Takes in what a file says; what it does not say stays.
pub(super) fn read(table: &Table, policy: &mut LivenessPolicy) -> Result<(), SettingsError> {
    for Entry { key, place, node } in table.entries() {
        match key.as_str() {
            "blackhole" => policy.blackhole = blackhole(node)?,
            "poll" => policy.poll = node.duration(key, POLL)?,
            "return-delay" => policy.return_delay = node.duration(key, RETURN_DELAY)?,
            _ => return Err(place.error(names::unknown("key of [liveness]", key, &KEYS))),
        }
    }
    Ok(())
}

fn blackhole(node: &Node) -> Result<Option<Duration>, SettingsError> {
    match node.value {
        Value::Boolean(false) => Ok(None),
        Value::Text(_) => node.duration("blackhole", BLACKHOLE).map(Some),
        _ => Err(node.wrong_type("blackhole", "expected false or a time such as \"250ms\"")),
    }
}

/// The whole table as TOML.
pub(super) fn to_toml(policy: &LivenessPolicy) -> String {
    let quoted = |time| format!("\"{}\"", shown(time));
    let blackhole = policy.blackhole.map_or("false".to_owned(), quoted);
    let (poll, delay) = (quoted(policy.poll), quoted(policy.return_delay));
    format!("\n[liveness]\nblackhole = {blackhole}\npoll = {poll}\nreturn-delay = {delay}\n")
}
