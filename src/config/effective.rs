//! The effective configuration as TOML: read again, it gives the same configuration.

use std::fmt::Display;
use std::path::Path;

use super::interfaces::to_toml;
use super::{Config, liveness, paths};
use crate::names;
use crate::rules::built_in;
use crate::settings::Settings;
use crate::settings::tree;
use crate::types::{EndpointFlags, NotifyFlags};

/// Every key of `[core]`, every rule about interfaces and every setting of a path manager.
///
/// Settings from the plugin directory are comments: the file would otherwise give them twice.
pub(crate) fn effective_toml(config: &Config) -> String {
    let mut text = String::new();
    match config.sources.as_slice() {
        [] => text.push_str("# built-in defaults, no file read\n"),
        sources => sources.iter().for_each(|source| text.push_str(&format!("# from {}\n", names::shown(source)))),
    }
    text.push_str("[core]\n");
    for (key, value) in core(config) {
        text.push_str(&format!("{key} = {value}\n"));
    }
    text.push_str(&plugin_dir(&config.plugin_dir));
    text.push_str(&paths::to_toml(&config.paths));
    text.push_str(&liveness::to_toml(&config.paths.liveness));
    text.push_str(&interfaces(config));
    for (name, settings) in &config.settings {
        text.push_str(&table(name, settings, &config.plugin_dir.join(format!("{name}.toml"))));
    }
    text
}

fn core(config: &Config) -> [(&'static str, String); 9] {
    let flags = EndpointFlags::NAMES.iter().filter(|(_, flag)| config.addr_flags.contains(*flag));
    let notify = NotifyFlags::NAMES.iter().filter(|(_, flag)| config.notify_flags.contains(*flag));
    [
        ("log", quoted(config.log)),
        ("debug", config.debug.to_string()),
        ("addr-flags", array(flags.map(|(name, _)| name))),
        ("notify-flags", array(notify.map(|(name, _)| name))),
        ("path-manager", quoted(config.path_manager.name)),
        ("load-plugins", array(config.load_plugins.iter().map(|plugin| plugin.name))),
        ("on-stop", quoted(config.on_stop)),
        ("sysctl", quoted(config.sysctl)),
        ("queue", config.queue.to_string()),
    ]
}

fn plugin_dir(path: &Path) -> String {
    match path.to_str() {
        Some(path) => format!("plugin-dir = {}\n", quoted(path)),
        None => format!("# plugin-dir is not UTF-8, which TOML cannot say: {path:?}\n"),
    }
}

/// The rules with their numbers; those built in are comments, as they hold in any case.
fn interfaces(config: &Config) -> String {
    let mut text = String::new();
    for (number, placed) in (1..).zip(&config.interfaces) {
        text.push_str(&format!("\n# rule {number}, from {}\n{}", placed.place, to_toml(&placed.rule)));
    }
    text.push_str("\n# built in, where the first rule above for an interface does not say `use`:\n");
    for rule in built_in() {
        to_toml(&rule).lines().for_each(|line| text.push_str(&format!("# {line}\n")));
    }
    text
}

fn table(name: &str, settings: &Settings, own_file: &Path) -> String {
    let mut text = format!("\n[pm.{}]\n", tree::key(name));
    for entry in settings.entries().entries() {
        let line = format!("{} = {}\n", tree::key(&entry.key), entry.node.value);
        if entry.place.file() == own_file {
            text.push_str(&format!("# in {}: {line}", names::shown(own_file)));
        } else {
            text.push_str(&line);
        }
    }
    text
}

fn quoted(text: impl Display) -> String {
    tree::string(&text.to_string())
}

fn array(items: impl Iterator<Item = impl Display>) -> String {
    format!("[{}]", items.map(quoted).collect::<Vec<_>>().join(", "))
}
