//! From the command line to the running daemon: what was asked for is done, and every error becomes one
//! line and an exit code.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use slog::{Logger, crit, info};

use crate::cli::{self, Action, Options};
use crate::config::{self, Config, Loaded};
use crate::daemon::{self, Setup, Sockets};
use crate::engine::Policy;
use crate::exit::{Code, Fatal};
use crate::listing;
use crate::log;
use crate::plugin::{self, Manages, Plugin};
use crate::rules::{Interfaces, Rules};
use crate::types::{LogDestination, OnStop};

/// Runs the daemon as its command line asks, and says with which code the process is to end.
///
/// A program with path managers of its own is a crate that links them in and calls this.
#[must_use]
pub fn main() -> ExitCode {
    let action = match cli::parse(std::env::args_os().skip(1)) {
        Ok(action) => action,
        Err(error) => return usage_error(&error.to_string()),
    };
    let plugins = match plugin::registry() {
        Ok(plugins) => plugins,
        Err(error) => return fail(&Fatal::new(Code::Failure, error.to_string())),
    };
    match action {
        Action::Help => print(&cli::help()),
        Action::Usage => print(&cli::usage()),
        Action::Version => print(&cli::version()),
        Action::ListPlugins => print(&list(&plugins)),
        Action::CheckConfig(options) => check(&options, &plugins, true),
        Action::ListInterfaces(options) => check(&options, &plugins, false),
        Action::Run(options) => run(options, plugins),
    }
}

/// A closed or full standard output is the reader's choice, not an error.
fn print(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "mptcpd: {line}");
}

fn fail(fatal: &Fatal) -> ExitCode {
    complain(&fatal.message);
    fatal.code.into()
}

fn usage_error(line: &str) -> ExitCode {
    complain(line);
    let _ = writeln!(io::stderr(), "{}", cli::HINT);
    Code::Usage.into()
}

fn config_error(error: &config::ConfigError) -> ExitCode {
    match error.code() {
        Code::Usage => usage_error(&error.to_string()),
        code => fail(&Fatal::new(code, error.to_string())),
    }
}

/// One line for each: name, what it manages, priority, summary.
fn list(plugins: &[&'static Plugin]) -> String {
    let width = plugins.iter().map(|plugin| plugin.name.len()).max().unwrap_or_default();
    let line = |plugin: &&Plugin| {
        let Plugin { name, manages, priority, summary, .. } = plugin;
        format!("{name:width$}  {manages:11}  {priority:>3}  {summary}\n")
    };
    plugins.iter().map(line).collect()
}

/// Prints the configuration, the interfaces, or both: then as comments, so that it stays TOML.
fn check(options: &Options, plugins: &[&'static Plugin], with_config: bool) -> ExitCode {
    let Loaded { config, notices } = match config::load(options, plugins) {
        Ok(loaded) => loaded,
        Err(error) => return config_error(&error),
    };
    notices.iter().for_each(|notice| complain(notice));
    let list = match options.list_interfaces.then(|| interfaces(&config)).transpose() {
        Ok(list) => list.unwrap_or_default(),
        Err(fatal) => return fail(&fatal),
    };
    if !with_config {
        return print(&list);
    }
    let heading = if list.is_empty() { "" } else { "\n# interfaces:\n" };
    let text = config::effective_toml(&config) + heading;
    print(&list.lines().fold(text, |text, line| text + "# " + line + "\n"))
}

fn interfaces(config: &Config) -> Result<String, Fatal> {
    Ok(listing::list(&daemon::survey()?, config, &rules(config)))
}

fn run(options: Options, plugins: Vec<&'static Plugin>) -> ExitCode {
    // First, so that as few events as possible are missed; what failed is told after what the user
    // got wrong.
    let sockets = Sockets::open();
    let loaded = match config::load(&options, &plugins) {
        Ok(loaded) => loaded,
        Err(error) => return config_error(&error),
    };
    let destination = loaded.config.log;
    let setup = match set_up(loaded) {
        Ok(setup) => setup,
        Err(error) => return config_error(&error),
    };
    let log = setup.log.clone();
    let reload = move || {
        let loaded = config::load(&options, &plugins).map_err(|error| error.to_string())?;
        set_up(loaded).map_err(|error| error.to_string())
    };
    match sockets.and_then(|sockets| daemon::run(sockets, setup, Box::new(reload))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => end(destination, &log, &fatal),
    }
}

/// Says why the daemon ends, where somebody will see it.
fn end(destination: LogDestination, log: &Logger, fatal: &Fatal) -> ExitCode {
    let to_stderr = match destination {
        LogDestination::Stderr | LogDestination::Null => true,
        LogDestination::Syslog | LogDestination::Journal => {
            crit!(log, "{}", fatal);
            io::stderr().is_terminal()
        }
    };
    if to_stderr {
        complain(&fatal.message);
    }
    fatal.code.into()
}

/// Builds what the configuration describes, and tells its notices.
fn set_up(loaded: Loaded) -> Result<Setup, config::ConfigError> {
    let Loaded { config, notices } = loaded;
    let managers = config.load_plugins.iter().map(|plugin| config.build(plugin)).collect::<Result<_, _>>()?;
    let chosen = config.load_plugins.iter().position(|plugin| plugin.name == config.path_manager.name);
    let connections = chosen.filter(|_| config.path_manager.manages == Manages::Connections);
    let log = log::logger(config.log, config.debug);
    for notice in notices {
        info!(log, "{}", notice);
    }
    let rules = rules(&config);
    let Config { debug, on_stop, sysctl, queue, paths, path_manager, .. } = config;
    let path_manager = path_manager.name;
    let policy = Policy { rules, managers, connections, paths, debug };
    Ok(Setup { policy, remove_on_stop: on_stop == OnStop::Remove, sysctl, queue, path_manager, log })
}

fn rules(config: &Config) -> Rules {
    Rules { notify: config.notify_flags, flags: config.addr_flags, interfaces: Interfaces::new(config.rules()) }
}
