//! What the targets in `tests/fuzz` reach of the inside, compiled with `--cfg fuzzing` only: readers of
//! what users and earlier runs wrote, each compared with what it writes itself. They panic on a difference.

use std::ffi::OsString;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use crate::cli::{self, Action, Options};
use crate::config::{self, Config, Loaded};
use crate::plugin;
use crate::state_file::{self, SavedState, Scope};
use crate::types::{EndpointFlags, NotifyFlags};

/// Characters of a message at most, those aside that are shown whole.
const LONGEST: usize = 1000;

/// How every state file begins that [`state_file`] takes for its own.
#[must_use]
pub fn state_file_head() -> String {
    let text = state_file::encode(&scope(), &SavedState::default());
    text.lines().take(2).map(|line| format!("{line}\n")).collect()
}

/// How every file of connections begins that [`connections_file`] takes for its own.
#[must_use]
pub fn connections_file_head() -> String {
    let mut text = String::new();
    state_file::encode_title(&scope(), &mut text);
    text
}

/// Reads a file of connections; one that reads is written and read again.
pub fn connections_file(text: &str) {
    if let Ok(connections) = state_file::decode_connections(&scope(), text) {
        let mut written = connections_file_head();
        connections.iter().for_each(|(_, saved)| state_file::encode_connection(saved, &mut written));
        assert_eq!(state_file::decode_connections(&scope(), &written), Ok(connections), "{written}");
    }
}

/// Reads a state file; one that reads is written and read again.
pub fn state_file(text: &str) {
    match state_file::decode(&scope(), text) {
        Err(error) => check_message(&error.to_string(), 0),
        Ok(state) => {
            let written = state_file::encode(&scope(), &state);
            assert_eq!(state_file::decode(&scope(), &written), Ok(state), "{written}");
        }
    }
}

fn scope() -> Scope {
    Scope { boot: "b0071d".to_owned(), namespace: (4, 4_026_531_840) }
}

/// Parses a command line; one that parses is put together and parsed again.
pub fn command_line(arguments: Vec<OsString>) {
    // An argument that is not UTF-8 is shown whole, a byte as four characters.
    let length: usize = arguments.iter().map(|argument| argument.len()).sum();
    match cli::parse(arguments) {
        Err(error) => check_message(&error.to_string(), 4 * length),
        Ok(action) => {
            let written = written(&action);
            assert_eq!(cli::parse(written.clone()), Ok(action), "{written:?}");
        }
    }
}

/// An action as arguments.
fn written(action: &Action) -> Vec<OsString> {
    let (last, options) = match action {
        Action::Run(options) | Action::ListInterfaces(options) => (None, Some(options)),
        Action::CheckConfig(options) => (Some("--check-config"), Some(options)),
        Action::ListPlugins => (Some("--list-plugins"), None),
        Action::Help => (Some("--help"), None),
        Action::Usage => (Some("--usage"), None),
        Action::Version => (Some("--version"), None),
    };
    let mut arguments = options.map(given).unwrap_or_default();
    arguments.extend(last.map(OsString::from));
    arguments
}

fn given(options: &Options) -> Vec<OsString> {
    let text = |value: &dyn ToString| OsString::from(value.to_string());
    let endpoint = |flags: EndpointFlags| if flags.is_empty() { OsString::new() } else { text(&flags) };
    let notify = |flags: NotifyFlags| if flags.is_empty() { OsString::new() } else { text(&flags) };
    let with_values = [
        ("--log=", options.log.map(|value| text(&value))),
        ("--addr-flags=", options.addr_flags.map(endpoint)),
        ("--notify-flags=", options.notify_flags.map(notify)),
        ("--plugin-dir=", options.plugin_dir.clone().map(PathBuf::into_os_string)),
        ("--path-manager=", options.path_manager.clone().map(OsString::from)),
        ("--load-plugins=", options.load_plugins.as_ref().map(|names| names.join(",").into())),
        ("--config=", options.config.clone().map(PathBuf::into_os_string)),
        ("--on-stop=", options.on_stop.map(|value| text(&value))),
        ("--sysctl=", options.sysctl.map(|value| text(&value))),
        ("--queue=", options.queue.map(|value| text(&value))),
    ];
    let with_values = with_values.into_iter().filter_map(|(option, value)| {
        let mut argument = OsString::from(option);
        argument.push(value?);
        Some(argument)
    });
    let switches = [("--debug", options.debug), ("--list-interfaces", options.list_interfaces)];
    let switches = switches.into_iter().filter(|(_, given)| *given).map(|(option, _)| option.into());
    switches.chain(with_values).collect()
}

/// Loads a configuration; one that is valid is printed, loaded from that and compared, and so is the line
/// of TOML that stands for a key file. `directory` holds a `mptcpd.conf` and what belongs to it;
/// `printed` is a file in another one.
pub fn configuration(directory: &Path, plugin_dir: Option<&Path>, printed: &Path) {
    let main = directory.join("mptcpd.conf");
    let Loaded { config, notices } = match load(&main, plugin_dir) {
        Ok(loaded) => loaded,
        Err(error) => return check_message(&error, 4096),
    };
    notices.iter().for_each(|notice| assert!(!notice.contains('\n'), "{notice}"));
    assert!(notices.len() <= 50, "{notices:?}");
    let meaning = meaning(&config);
    write(printed, &config::effective_toml(&config));
    check_same(&meaning, load(printed, plugin_dir), printed);
    for notice in &notices {
        if let Some((_, toml)) = notice.split_once("as TOML the same is one line: ") {
            write(&main, toml);
            check_same(&meaning, load(&main, plugin_dir), &main);
        }
    }
}

fn load(file: &Path, plugin_dir: Option<&Path>) -> Result<Loaded, String> {
    let options =
        Options { config: Some(file.to_owned()), plugin_dir: plugin_dir.map(Path::to_owned), ..Options::default() };
    let plugins = checked(plugin::registry());
    config::load(&options, &plugins).map_err(|error| error.to_string())
}

/// What a configuration says, without where it came from.
fn meaning(config: &Config) -> String {
    let loaded: Vec<&str> = config.load_plugins.iter().map(|plugin| plugin.name).collect();
    let mut text = format!(
        "{} {} {} {} {:?} {} {loaded:?} {} {} {} {:?}\n",
        config.log,
        config.debug,
        config.addr_flags,
        config.notify_flags,
        config.plugin_dir,
        config.path_manager.name,
        config.on_stop,
        config.sysctl,
        config.queue,
        config.paths,
    );
    for rule in config.rules() {
        text += &format!("{rule:?}\n");
    }
    for (name, settings) in &config.settings {
        let entries = settings.entries().entries();
        let mut entries: Vec<String> =
            entries.iter().map(|entry| format!("{} = {}", entry.key, entry.node.value)).collect();
        entries.sort();
        text += &format!("{name} {entries:?}\n");
    }
    text
}

fn check_same(expected: &str, again: Result<Loaded, String>, file: &Path) {
    let again = again.map(|loaded| meaning(&loaded.config));
    assert_eq!(again.as_deref(), Ok(expected), "{}", checked(std::fs::read_to_string(file)));
}

fn check_message(message: &str, shown_whole: usize) {
    assert!(!message.contains('\n') && message.chars().count() <= LONGEST + shown_whole, "{message}");
}

fn write(file: &Path, text: &str) {
    checked(std::fs::write(file, text));
}

fn checked<T, E: Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error:?}"))
}
