//! The configuration: command line over drop-ins over file over built-in defaults, everything
//! validated, path managers' own settings included. Reads files, changes nothing, prints nothing.

mod effective;
mod file;
mod interfaces;
mod keyfile;
mod layer;
mod liveness;
mod paths;
mod plugin_dir;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::Options;
use crate::exit::Code;
use crate::names;
use crate::plugin::{PathManager, Plugin};
use crate::rules::{MOST_RULES, PathPolicy, Rule};
use crate::settings::tree::{self, Node, Table, Value};
use crate::settings::{Settings, SettingsError, Source};
use crate::types::{EndpointFlags, LogDestination, NotifyFlags, OnStop, Sysctl};
use file::{Directory, Missing};
use interfaces::PlacedRule;
use layer::{Layer, Origin};

pub(crate) use effective::effective_toml;

/// The file that is read unless `--config` names another.
pub(crate) const DEFAULT_FILE: &str = concat!(env!("MPTCPD_SYSCONFDIR"), "/mptcpd/mptcpd.conf");
/// Where path managers' settings are unless `plugin-dir` says otherwise.
pub(crate) const DEFAULT_PLUGIN_DIR: &str = concat!(env!("MPTCPD_SYSCONFDIR"), "/mptcpd/plugins");
/// Directory of drop-ins, beside the file.
const DROP_INS: &str = "mptcpd.conf.d";
/// Settings of one path manager in all files at most, so that they are soon put together.
const MOST_SETTINGS: usize = 1000;

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Where the log goes.
    pub(crate) log: LogDestination,
    /// Log every event and command.
    pub(crate) debug: bool,
    /// Flags of the endpoints made; never signal and fullmesh together.
    pub(crate) addr_flags: EndpointFlags,
    /// Which addresses are used.
    pub(crate) notify_flags: NotifyFlags,
    /// The directory of the path managers' settings; need not exist.
    pub(crate) plugin_dir: PathBuf,
    /// The path manager chosen to manage connections; one of those loaded.
    pub(crate) path_manager: &'static Plugin,
    /// By priority and then name, at least one.
    pub(crate) load_plugins: Vec<&'static Plugin>,
    /// What becomes of endpoints and limits at the end.
    pub(crate) on_stop: OnStop,
    /// What is done about the sysctl that selects who manages new connections.
    pub(crate) sysctl: Sysctl,
    /// How many messages of the kernel may wait.
    pub(crate) queue: u32,
    /// How many subflows there may be, and how those that fail are tried again.
    pub(crate) paths: PathPolicy,
    /// Rules about interfaces, in the order in which they are tried.
    pub(crate) interfaces: Vec<PlacedRule>,
    /// Settings of path managers by name, of those not loaded too; none if there are none.
    pub(crate) settings: BTreeMap<String, Settings>,
    /// The files that were read, in order.
    pub(crate) sources: Vec<PathBuf>,
}

/// A configuration, and what its reader should tell once.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// One line each.
    pub(crate) notices: Vec<String>,
}

/// What is wrong with the configuration, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    code: Code,
    text: String,
}

/// Reads and validates the whole configuration; `plugins` are those compiled in, by priority and name.
pub(crate) fn load(options: &Options, plugins: &[&'static Plugin]) -> Result<Loaded, ConfigError> {
    load_with(options, plugins, &Defaults::built_in())
}

impl Config {
    /// The rules about interfaces, without their places.
    pub(crate) fn rules(&self) -> Vec<Arc<Rule>> {
        self.interfaces.iter().map(|placed| Arc::clone(&placed.rule)).collect()
    }

    /// Makes a path manager from its settings.
    pub(crate) fn build(&self, plugin: &Plugin) -> Result<Box<dyn PathManager>, ConfigError> {
        let mut settings = match self.settings.get(plugin.name) {
            Some(settings) => settings.clone(),
            None => Settings::new(plugin.name, Table::default()),
        };
        let manager = (plugin.build)(&mut settings)?;
        settings.finish()?;
        Ok(manager)
    }
}

impl ConfigError {
    /// The code to exit with: that of usage if the command line is to blame (a hint belongs under it).
    pub(crate) const fn code(&self) -> Code {
        self.code
    }

    fn usage(text: impl Into<String>) -> Self {
        Self { code: Code::Usage, text: text.into() }
    }

    fn file(text: impl Into<String>) -> Self {
        Self { code: Code::Configuration, text: text.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<SettingsError> for ConfigError {
    fn from(error: SettingsError) -> Self {
        Self::file(error.to_string())
    }
}

/// What holds where nothing is configured.
#[derive(Clone, Debug)]
struct Defaults {
    file: PathBuf,
    plugin_dir: PathBuf,
    path_manager: &'static str,
    log: LogDestination,
}

impl Defaults {
    fn built_in() -> Self {
        Self {
            file: DEFAULT_FILE.into(),
            plugin_dir: DEFAULT_PLUGIN_DIR.into(),
            path_manager: env!("MPTCPD_DEFAULT_PM"),
            // build.rs refuses a name that is none.
            log: names::log_destination(env!("MPTCPD_DEFAULT_LOG")).unwrap_or(LogDestination::Stderr),
        }
    }
}

fn load_with(options: &Options, plugins: &[&'static Plugin], defaults: &Defaults) -> Result<Loaded, ConfigError> {
    let mut reading = Reading {
        plugins,
        core: Layer::default(),
        interfaces: vec![],
        paths: PathPolicy::default(),
        tables: BTreeMap::new(),
        sources: vec![],
        notices: vec![],
    };
    reading.main_file(options, defaults)?;
    let main = options.config.as_ref().unwrap_or(&defaults.file);
    reading.drop_ins(&main.with_file_name(DROP_INS))?;
    reading.core.overlay(Layer::from_options(options, plugins)?);
    let plugin_dir = reading.plugin_dir(defaults)?;
    reading.into_loaded(plugin_dir, defaults)
}

/// A configuration on the way.
struct Reading<'a> {
    plugins: &'a [&'static Plugin],
    core: Layer,
    interfaces: Vec<PlacedRule>,
    paths: PathPolicy,
    /// `[pm.NAME]` by name, only of plugins compiled in.
    tables: BTreeMap<String, Table>,
    sources: Vec<PathBuf>,
    notices: Vec<String>,
}

impl Reading<'_> {
    fn main_file(&mut self, options: &Options, defaults: &Defaults) -> Result<(), ConfigError> {
        let path = options.config.as_ref().unwrap_or(&defaults.file);
        let Some(source) = file::read(path)? else {
            return match options.config {
                Some(_) => Err(ConfigError::file(format!("{}: no such file (--config names it)", names::shown(path)))),
                None => Ok(()),
            };
        };
        let error = match tree::parse(&source) {
            Ok(root) => return self.document(&source, &root),
            Err(error) => error,
        };
        let file = keyfile::read(&source, self.plugins).ok_or(error)??;
        for entry in file.core.entries() {
            if entry.key == "load-plugins" {
                self.notices.extend(self.core.set_known_plugins(entry, self.plugins)?);
            } else {
                self.core.set(entry, Origin::KeyFile, self.plugins)?;
            }
        }
        self.notices.extend(file.notices);
        self.sources.push(source.path.clone());
        Ok(())
    }

    fn drop_ins(&mut self, path: &Path) -> Result<(), ConfigError> {
        let directory = match Directory::open(path)? {
            Ok(directory) => directory,
            Err(Missing::Absent) => return Ok(()),
            Err(missing) => return Err(ConfigError::file(format!("{}: {missing}", names::shown(path)))),
        };
        for name in directory.files("toml") {
            if let Some(source) = directory.read(name)? {
                self.document(&source, &tree::parse(&source)?)?;
            }
        }
        Ok(())
    }

    /// Takes in a TOML file; what it says counts more than what was taken in before.
    fn document(&mut self, source: &Arc<Source>, root: &Table) -> Result<(), ConfigError> {
        let mut core = Layer::default();
        for entry in root.entries() {
            match (entry.key.as_str(), &entry.node.value) {
                ("core", Value::Table(table)) => {
                    for entry in table.entries() {
                        core.set(entry, Origin::File, self.plugins)?;
                    }
                }
                ("pm", Value::Table(managers)) => self.managers(managers)?,
                ("interface", _) => self.interfaces(&entry.node)?,
                ("paths", Value::Table(table)) => paths::read(table, &mut self.paths)?,
                ("liveness", Value::Table(table)) => liveness::read(table, &mut self.paths.liveness)?,
                ("core" | "liveness" | "paths" | "pm", _) => {
                    return Err(entry.node.wrong_type(&entry.key, "expected a table").into());
                }
                (key, _) => return Err(entry.place.error(unknown_at_top(key)).into()),
            }
        }
        self.core.overlay(core);
        self.sources.push(source.path.clone());
        Ok(())
    }

    /// Takes in the rules of a file, which come before those that were taken in before.
    fn interfaces(&mut self, node: &Node) -> Result<(), ConfigError> {
        self.interfaces.splice(..0, interfaces::read(node)?);
        match self.interfaces.get(MOST_RULES) {
            Some(_) => Err(node.error(format!("interface: more than {MOST_RULES} rules in all files")).into()),
            None => Ok(()),
        }
    }

    fn managers(&mut self, managers: &Table) -> Result<(), ConfigError> {
        for manager in managers.entries() {
            let plugin = layer::find(self.plugins, &manager.key).map_err(|error| manager.place.error(error))?;
            let Value::Table(table) = &manager.node.value else {
                return Err(manager.node.wrong_type(&format!("pm.{}", plugin.name), "expected a table").into());
            };
            let merged = self.tables.entry(plugin.name.to_owned()).or_default();
            check_number(plugin.name, table)?;
            for entry in table.entries() {
                merged.put(entry.clone());
            }
            check_number(plugin.name, merged)?;
        }
        Ok(())
    }

    /// Finds the directory of path managers' settings and takes them in.
    fn plugin_dir(&mut self, defaults: &Defaults) -> Result<PathBuf, ConfigError> {
        let given = self.core.plugin_dir.take();
        let path = given.as_ref().map_or(&defaults.plugin_dir, |given| &given.value).clone();
        let missing = match Directory::open(&path)? {
            Ok(directory) => {
                self.take_in(plugin_dir::read(&directory, self.plugins)?)?;
                return Ok(path);
            }
            Err(missing) => missing,
        };
        let text = format!("plugin-dir: {}: {missing}", names::shown(&path));
        match given.map(|given| given.origin) {
            Some(Origin::CommandLine) => Err(ConfigError::usage(format!("--{text}"))),
            // Naming the default asks for no more than leaving it out.
            None | Some(Origin::File(_)) if path == defaults.plugin_dir && missing == Missing::Absent => Ok(path),
            Some(Origin::File(place)) => Err(place.error(text).into()),
            Some(Origin::KeyFile(place)) => {
                self.notices.push(format!("{place}: {text}, {} is used", names::shown(&defaults.plugin_dir)));
                self.plugin_dir(defaults)
            }
            None => Err(ConfigError::file(text)),
        }
    }

    /// Adds the settings of a plugin directory; a key given in a file too is an error.
    fn take_in(&mut self, contents: plugin_dir::Contents) -> Result<(), ConfigError> {
        for (name, source, table) in contents.tables {
            let merged = self.tables.entry(name.to_owned()).or_default();
            check_number(name, &table)?;
            for entry in table.entries() {
                if let Some(other) = merged.find(&entry.key) {
                    let key = tree::key(&entry.key);
                    let text = format!("{key} is also given at {}: leave one out", other.place);
                    return Err(entry.place.error(text).into());
                }
                merged.put(entry.clone());
            }
            self.sources.push(source.path.clone());
        }
        self.notices.extend(contents.notice);
        Ok(())
    }

    fn into_loaded(self, plugin_dir: PathBuf, defaults: &Defaults) -> Result<Loaded, ConfigError> {
        let (path_manager, load_plugins) = chosen(&self.core, self.plugins, defaults)?;
        let settings = self.tables.into_iter().map(|(name, table)| {
            let settings = Settings::new(&name, table);
            (name, settings)
        });
        let config = Config {
            log: self.core.log.map_or(defaults.log, |given| given.value),
            debug: self.core.debug.is_some_and(|given| given.value),
            addr_flags: self.core.addr_flags.map_or(EndpointFlags::SUBFLOW, |given| given.value),
            notify_flags: self.core.notify_flags.map_or(default_notify_flags(), |given| given.value),
            plugin_dir,
            path_manager,
            load_plugins,
            on_stop: self.core.on_stop.map_or(OnStop::Keep, |given| given.value),
            sysctl: self.core.sysctl.map_or(Sysctl::Set, |given| given.value),
            queue: self.core.queue.map_or(names::DEFAULT_QUEUE, |given| given.value),
            paths: self.paths,
            interfaces: self.interfaces,
            settings: settings.collect(),
            sources: self.sources,
        };
        interfaces::check(&config.interfaces, config.addr_flags)?;
        for plugin in self.plugins {
            if config.settings.contains_key(plugin.name) || config.load_plugins.iter().any(|p| p.name == plugin.name) {
                config.build(plugin)?;
            }
        }
        Ok(Loaded { config, notices: self.notices })
    }
}

const fn default_notify_flags() -> NotifyFlags {
    NotifyFlags::EXISTING.union(NotifyFlags::SKIP_LINK_LOCAL).union(NotifyFlags::SKIP_LOOPBACK)
}

fn check_number(name: &str, settings: &Table) -> Result<(), SettingsError> {
    match settings.entries().get(MOST_SETTINGS) {
        Some(entry) => Err(entry.place.error(format!("pm.{name}: more than {MOST_SETTINGS} settings"))),
        None => Ok(()),
    }
}

fn unknown_at_top(key: &str) -> String {
    if layer::KEYS.contains(&key) {
        return format!("the key {} belongs into the table [core]", names::quoted(key));
    }
    names::unknown("table or key", key, &["core", "interface", "liveness", "paths", "pm"])
}

/// The path manager chosen, and all that are to be loaded, by priority and name.
fn chosen(
    core: &Layer,
    plugins: &[&'static Plugin],
    defaults: &Defaults,
) -> Result<(&'static Plugin, Vec<&'static Plugin>), ConfigError> {
    let Some(first) = plugins.first().copied() else {
        return Err(ConfigError::file("no path manager is compiled in"));
    };
    let named = |among: &[&'static Plugin]| among.iter().find(|plugin| plugin.name == defaults.path_manager).copied();
    let Some(load) = &core.load_plugins else {
        let chosen = core.path_manager.as_ref().map_or_else(|| named(plugins).unwrap_or(first), |given| given.value);
        return Ok((chosen, vec![chosen]));
    };
    let mut loaded = load.value.clone();
    loaded.sort_unstable_by_key(|plugin| (plugin.priority, plugin.name));
    loaded.dedup_by_key(|plugin| plugin.name);
    let Some(chosen) = &core.path_manager else {
        let chosen = named(&loaded).or(loaded.first().copied()).unwrap_or(first);
        return Ok((chosen, loaded));
    };
    if loaded.iter().any(|plugin| plugin.name == chosen.value.name) {
        return Ok((chosen.value, loaded));
    }
    let list: Vec<&str> = loaded.iter().map(|plugin| plugin.name).collect();
    let text = format!(
        "the path manager {:?} is not among load-plugins ({}): add it there or choose another",
        chosen.value.name,
        list.join(", ")
    );
    Err(match (&chosen.origin, &load.origin) {
        (Origin::CommandLine, _) => ConfigError::usage(format!("--path-manager: {text}")),
        (_, Origin::CommandLine) => ConfigError::usage(format!("--load-plugins: {text}")),
        (Origin::File(place) | Origin::KeyFile(place), _) => place.error(text).into(),
    })
}

#[cfg(test)]
mod tests;
