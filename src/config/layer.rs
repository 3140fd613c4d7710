//! The settings of `[core]`, each with whoever gave it: one layer of the configuration.

use std::path::PathBuf;

use super::ConfigError;
use crate::cli::Options;
use crate::names;
use crate::plugin::Plugin;
use crate::settings::tree::{Entry, Node};
use crate::settings::{Place, SettingsError, Text};
use crate::types::{EndpointFlags, LogDestination, NotifyFlags, OnStop, Sysctl};

/// Every key of `[core]`; each is a long option too.
pub(super) const KEYS: &[&str] = &[
    "log",
    "debug",
    "addr-flags",
    "notify-flags",
    "plugin-dir",
    "path-manager",
    "load-plugins",
    "on-stop",
    "sysctl",
    "queue",
];

/// One layer; `None` leaves it to the layer below.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    pub(super) log: Option<Given<LogDestination>>,
    pub(super) debug: Option<Given<bool>>,
    pub(super) addr_flags: Option<Given<EndpointFlags>>,
    pub(super) notify_flags: Option<Given<NotifyFlags>>,
    pub(super) plugin_dir: Option<Given<PathBuf>>,
    pub(super) path_manager: Option<Given<&'static Plugin>>,
    /// At least one.
    pub(super) load_plugins: Option<Given<Vec<&'static Plugin>>>,
    pub(super) on_stop: Option<Given<OnStop>>,
    pub(super) sysctl: Option<Given<Sysctl>>,
    pub(super) queue: Option<Given<u32>>,
}

/// A value and whoever gave it.
#[derive(Clone, Debug)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

#[derive(Clone, Debug)]
pub(super) enum Origin {
    CommandLine,
    /// TOML.
    File(Place),
    /// A file in the key-file form of the C daemon.
    KeyFile(Place),
}

/// The plugin of that name, or the text of an error that lists those there are.
pub(super) fn find(plugins: &[&'static Plugin], name: &str) -> Result<&'static Plugin, String> {
    plugins.iter().find(|plugin| plugin.name == name).copied().ok_or_else(|| {
        let names: Vec<&str> = plugins.iter().map(|plugin| plugin.name).collect();
        names::unknown("path manager", name, &names)
    })
}

impl Layer {
    pub(super) fn from_options(options: &Options, plugins: &[&'static Plugin]) -> Result<Self, ConfigError> {
        let plugin = |option: &str, name: &String| {
            find(plugins, name).map_err(|error| ConfigError::usage(format!("--{option}: {error}")))
        };
        let path_manager = options.path_manager.as_ref().map(|name| plugin("path-manager", name)).transpose()?;
        let load = options.load_plugins.as_ref();
        let load = load.map(|names| names.iter().map(|name| plugin("load-plugins", name)).collect()).transpose()?;
        Ok(Self {
            log: given(options.log),
            debug: given(options.debug.then_some(true)),
            addr_flags: given(options.addr_flags),
            notify_flags: given(options.notify_flags),
            plugin_dir: given(options.plugin_dir.clone()),
            path_manager: given(path_manager),
            load_plugins: given(load),
            on_stop: given(options.on_stop),
            sysctl: given(options.sysctl),
            queue: given(options.queue),
        })
    }

    /// Lays another layer over this one.
    pub(super) fn overlay(&mut self, upper: Self) {
        over(&mut self.log, upper.log);
        over(&mut self.debug, upper.debug);
        over(&mut self.addr_flags, upper.addr_flags);
        over(&mut self.notify_flags, upper.notify_flags);
        over(&mut self.plugin_dir, upper.plugin_dir);
        over(&mut self.path_manager, upper.path_manager);
        over(&mut self.load_plugins, upper.load_plugins);
        over(&mut self.on_stop, upper.on_stop);
        over(&mut self.sysctl, upper.sysctl);
        over(&mut self.queue, upper.queue);
    }

    /// Sets what an entry of `[core]` says.
    pub(super) fn set(
        &mut self,
        entry: &Entry,
        origin: fn(Place) -> Origin,
        plugins: &[&'static Plugin],
    ) -> Result<(), SettingsError> {
        let Entry { key, node, .. } = entry;
        let origin = origin(node.place.clone());
        match key.as_str() {
            "log" => self.log = Some(Given { value: named(key, node, names::log_destination)?, origin }),
            "debug" => self.debug = Some(Given { value: node.boolean(key)?, origin }),
            "addr-flags" => self.addr_flags = Some(Given { value: endpoint_flags(key, node)?, origin }),
            "notify-flags" => self.notify_flags = Some(Given { value: notify_flags(key, node)?, origin }),
            "plugin-dir" => self.plugin_dir = Some(Given { value: path(key, node)?, origin }),
            "path-manager" => {
                self.path_manager = Some(Given { value: named(key, node, |name| find(plugins, name))?, origin });
            }
            "load-plugins" => self.load_plugins = Some(Given { value: load_plugins(key, node, plugins)?, origin }),
            "on-stop" => self.on_stop = Some(Given { value: named(key, node, names::on_stop)?, origin }),
            "sysctl" => self.sysctl = Some(Given { value: named(key, node, names::sysctl)?, origin }),
            "queue" => self.queue = Some(Given { value: queue(key, node)?, origin }),
            _ => return Err(entry.place.error(names::unknown("key of [core]", key, KEYS))),
        }
        Ok(())
    }

    /// Sets `load-plugins` of a key file, which may name plugins of the C daemon that are not here: those are
    /// passed over, and what is to be told of them is returned.
    pub(super) fn set_known_plugins(
        &mut self,
        entry: &Entry,
        plugins: &[&'static Plugin],
    ) -> Result<Vec<String>, SettingsError> {
        let Entry { key, node, .. } = entry;
        let texts = node.texts(key)?;
        let find = |text: &Text| plugins.iter().find(|plugin| plugin.name == text.trim()).copied();
        let known: Vec<_> = texts.iter().filter_map(find).collect();
        let unknown: Vec<_> = texts.iter().filter(|text| find(text).is_none()).collect();
        let notices = names::notices(entry.place.file(), &unknown, |text| {
            let name = names::quoted(text.trim());
            text.error(format!("{key}: {name} is not compiled in; ignored")).to_string()
        });
        if texts.is_empty() {
            return Err(node.error(format!("{key}: the list is empty")));
        }
        if !known.is_empty() {
            self.load_plugins = Some(Given { value: known, origin: Origin::KeyFile(node.place.clone()) });
        }
        Ok(notices)
    }
}

fn given<T>(value: Option<T>) -> Option<Given<T>> {
    value.map(|value| Given { value, origin: Origin::CommandLine })
}

fn over<T>(lower: &mut Option<T>, upper: Option<T>) {
    if upper.is_some() {
        *lower = upper;
    }
}

pub(super) fn named<T>(key: &str, node: &Node, find: impl Fn(&str) -> Result<T, String>) -> Result<T, SettingsError> {
    item(key, &node.text(key)?, find)
}

pub(super) fn item<T>(key: &str, text: &Text, find: impl Fn(&str) -> Result<T, String>) -> Result<T, SettingsError> {
    find(text.trim()).map_err(|error| text.error(format!("{key}: {error}")))
}

fn queue(key: &str, node: &Node) -> Result<u32, SettingsError> {
    let number = node.integer(key, names::QUEUE)?;
    // The range is one of theirs.
    Ok(u32::try_from(number).unwrap_or(names::DEFAULT_QUEUE))
}

fn path(key: &str, node: &Node) -> Result<PathBuf, SettingsError> {
    let text = node.text(key)?;
    if text.trim().is_empty() {
        return Err(text.error(format!("{key}: the value is empty")));
    }
    Ok(PathBuf::from(&*text))
}

pub(super) fn endpoint_flags(key: &str, node: &Node) -> Result<EndpointFlags, SettingsError> {
    let mut flags = EndpointFlags::NONE;
    for text in node.texts(key)? {
        flags = flags.union(item(key, &text, names::endpoint_flag)?);
    }
    names::no_conflict(flags).map_err(|error| node.error(format!("{key}: {error}")))
}

fn notify_flags(key: &str, node: &Node) -> Result<NotifyFlags, SettingsError> {
    let mut flags = NotifyFlags::NONE;
    for text in node.texts(key)? {
        flags = flags.union(item(key, &text, names::notify_flag)?);
    }
    Ok(flags)
}

fn load_plugins(key: &str, node: &Node, plugins: &[&'static Plugin]) -> Result<Vec<&'static Plugin>, SettingsError> {
    let texts = node.texts(key)?;
    if texts.is_empty() {
        return Err(node.error(format!("{key}: the list is empty")));
    }
    texts.iter().map(|text| item(key, text, |name| find(plugins, name))).collect()
}
