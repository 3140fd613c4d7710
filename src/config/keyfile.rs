//! The key-file form of the C daemon: `[core]`, then `key=value` without quotes, a line each.

use std::path::Path;
use std::sync::Arc;

use super::ConfigError;
use super::layer::KEYS;
use crate::names;
use crate::plugin::Plugin;
use crate::settings::tree::{Entry, Node, Table, Value};
use crate::settings::{Place, Source};

/// What such a file says, as if it had been TOML.
#[derive(Debug)]
pub(super) struct KeyFile {
    /// Known keys only; of one given twice the last.
    pub(super) core: Table,
    pub(super) notices: Vec<String>,
}

enum Line<'a> {
    Nothing,
    Header,
    /// A key and its value, with their offsets in the line.
    Setting((usize, &'a str), (usize, &'a str)),
}

/// Reads a file if every line of it has that form; `None` if not.
pub(super) fn read(source: &Arc<Source>, plugins: &[&'static Plugin]) -> Option<Result<KeyFile, ConfigError>> {
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
    let mut offset = source.text.len() - text.len();
    let mut lines = Vec::new();
    for line in text.split('\n') {
        lines.push((offset, classify(line)?));
        offset += line.len() + 1;
    }
    Some(assemble(source, &lines, plugins))
}

fn classify(line: &str) -> Option<Line<'_>> {
    let at = |part: &str| line.find(part).unwrap_or_default();
    let trimmed = line.trim();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return Some(Line::Nothing);
    }
    if trimmed == "[core]" {
        return Some(Line::Header);
    }
    let (key, value) = line.split_once('=')?;
    let value_at = key.len() + 1 + (value.len() - value.trim_start().len());
    let (key, value) = (key.trim(), value.trim());
    let named = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let bare = !value.starts_with(['"', '\'', '[', '{']);
    (named && bare).then(|| Line::Setting((at(key), key), (value_at, value)))
}

fn assemble(
    source: &Arc<Source>,
    lines: &[(usize, Line<'_>)],
    plugins: &[&'static Plugin],
) -> Result<KeyFile, ConfigError> {
    let mut core = Table::default();
    let mut unknown = Vec::new();
    let mut header = false;
    for (start, line) in lines {
        match line {
            Line::Nothing => {}
            Line::Header => header = true,
            Line::Setting((key_at, key), (value_at, value)) => {
                let place = Place::new(source, start + key_at);
                if !header {
                    return Err(place
                        .error(format!("the key {} stands before the line [core]", names::quoted(key)))
                        .into());
                }
                if !KEYS.contains(key) {
                    unknown.push((place, *key));
                    continue;
                }
                let node = Node { value: typed(key, value), place: Place::new(source, start + value_at) };
                core.put(Entry { key: (*key).to_owned(), place, node });
            }
        }
    }
    let mut notices = vec![rewrite(source, &core, plugins)];
    notices.extend(names::notices(&source.path, &unknown, |(place, key)| {
        format!("{place}: {}; ignored", names::unknown("key of [core]", key, KEYS))
    }));
    Ok(KeyFile { core, notices })
}

/// Everything is a string there; `debug` and `queue` are none in TOML.
fn typed(key: &str, value: &str) -> Value {
    match (key, value) {
        ("debug", "true") => Value::Boolean(true),
        ("debug", "false") => Value::Boolean(false),
        ("queue", number) if number.parse::<i64>().is_ok() => Value::Integer(number.parse().unwrap_or_default()),
        _ => Value::Text(value.to_owned()),
    }
}

fn rewrite(source: &Source, core: &Table, plugins: &[&'static Plugin]) -> String {
    let mut toml = Table::default();
    for entry in core.entries() {
        // A directory that is not there would be an error in TOML.
        match &entry.node.value {
            Value::Text(path) if entry.key == "plugin-dir" && !Path::new(path).is_dir() => {}
            // And so would a plugin that is not compiled in.
            Value::Text(list) if entry.key == "load-plugins" => {
                let known = |name: &&str| plugins.iter().any(|plugin| plugin.name == *name);
                let names: Vec<&str> = list.split(',').map(str::trim).filter(known).collect();
                if !names.is_empty() {
                    let node = Node { value: Value::Text(names.join(",")), place: entry.node.place.clone() };
                    toml.put(Entry { node, ..entry.clone() });
                }
            }
            _ => toml.put(entry.clone()),
        }
    }
    let name = names::shown(&source.path);
    format!("{name}: read as a key file of the C daemon; as TOML the same is one line: core = {toml}")
}
