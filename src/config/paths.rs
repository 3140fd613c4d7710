//! The table `[paths]`: how many subflows a connection may have, and how those that fail are tried again.

use std::time::Duration;

use crate::names;
use crate::rules::PathPolicy;
use crate::settings::SettingsError;
use crate::settings::tree::{Entry, Table};

/// Every key, and what it sets.
const KEYS: &[(&str, Key)] = &[
    ("max-subflows", Key::MaxSubflows),
    ("first-retry", Key::FirstRetry),
    ("longest-retry", Key::LongestRetry),
    ("longest-early-retry", Key::LongestEarlyRetry),
];
/// The longest pause that may be asked for: a day, in seconds.
const LONGEST: i64 = 86_400;

#[derive(Clone, Copy)]
enum Key {
    MaxSubflows,
    FirstRetry,
    LongestRetry,
    LongestEarlyRetry,
}

/// Takes in what a file says; what it does not say stays.
pub(super) fn read(table: &Table, policy: &mut PathPolicy) -> Result<(), SettingsError> {
    for Entry { key, place, node } in table.entries() {
        let Some((_, known)) = KEYS.iter().find(|(name, _)| name == key) else {
            let names: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
            return Err(place.error(names::unknown("key of [paths]", key, &names)));
        };
        let seconds = || node.integer(key, 1..=LONGEST).map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
        match known {
            // What is within the range fits.
            Key::MaxSubflows => policy.max_subflows = u8::try_from(node.integer(key, 1..=255)?).unwrap_or(u8::MAX),
            Key::FirstRetry => policy.first_retry = seconds()?,
            Key::LongestRetry => policy.longest_retry = seconds()?,
            Key::LongestEarlyRetry => policy.longest_early_retry = seconds()?,
        }
    }
    Ok(())
}

/// The whole table as TOML.
pub(super) fn to_toml(policy: &PathPolicy) -> String {
    let value = |key: &Key| match key {
        Key::MaxSubflows => u64::from(policy.max_subflows),
        Key::FirstRetry => policy.first_retry.as_secs(),
        Key::LongestRetry => policy.longest_retry.as_secs(),
        Key::LongestEarlyRetry => policy.longest_early_retry.as_secs(),
    };
    let lines = KEYS.iter().map(|(name, key)| format!("{name} = {}\n", value(key)));
    lines.fold("\n[paths]\n".to_owned(), |text, line| text + &line)
}
