//! The command line: one table of options behind the parser, `--help`, `--usage` and the man page.
//! Checks what it can without the registry and the files; never prints, never exits.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use crate::names;
use crate::types::{EndpointFlags, LogDestination, NotifyFlags, OnStop, Sysctl};

/// The second line after a usage error.
pub(crate) const HINT: &str = "Try 'mptcpd --help' or 'mptcpd --usage' for more information.";

/// Columns of the widest line of `--help` and `--usage`.
const WIDTH: usize = 79;

/// What the program is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Be the daemon.
    Run(Options),
    /// Validate everything and print the effective configuration, and the same if asked for.
    CheckConfig(Options),
    /// Print what becomes of the interfaces that are there.
    ListInterfaces(Options),
    /// Print the path managers compiled in.
    ListPlugins,
    /// Print [`help`].
    Help,
    /// Print [`usage`].
    Usage,
    /// Print [`version`].
    Version,
}

/// The options as given; `None` leaves it to the file and the built-in default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Log every event and command.
    pub(crate) debug: bool,
    /// Where the log goes.
    pub(crate) log: Option<LogDestination>,
    /// Flags of the endpoints made; empty means none.
    pub(crate) addr_flags: Option<EndpointFlags>,
    /// Which addresses are used; empty means all that change.
    pub(crate) notify_flags: Option<NotifyFlags>,
    /// The directory of the path managers' settings, never empty.
    pub(crate) plugin_dir: Option<PathBuf>,
    /// The path manager to use, never empty.
    pub(crate) path_manager: Option<String>,
    /// The path managers to load, at least one.
    pub(crate) load_plugins: Option<Vec<String>>,
    /// The configuration file, never empty.
    pub(crate) config: Option<PathBuf>,
    /// What becomes of endpoints and limits at the end.
    pub(crate) on_stop: Option<OnStop>,
    /// What is done about the sysctl that selects who manages new connections.
    pub(crate) sysctl: Option<Sysctl>,
    /// How many messages of the kernel may wait.
    pub(crate) queue: Option<u32>,
    /// Print what becomes of the interfaces that are there.
    pub(crate) list_interfaces: bool,
}

/// What is wrong with the command line, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A line of the table of options.
#[derive(Debug)]
pub(crate) struct Entry {
    name: Name,
    short: Option<char>,
    /// Without the dashes.
    long: &'static str,
    /// What to call its value; `None` if it takes none.
    value: Option<&'static str>,
    /// Lines for `--help`.
    help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Config,
    Debug,
    Log,
    AddrFlags,
    NotifyFlags,
    PluginDir,
    PathManager,
    LoadPlugins,
    OnStop,
    Sysctl,
    Queue,
    CheckConfig,
    ListInterfaces,
    ListPlugins,
    Help,
    Usage,
    Version,
}

const fn entry(
    name: Name,
    short: Option<char>,
    (long, value): (&'static str, Option<&'static str>),
    help: &'static str,
) -> Entry {
    Entry { name, short, long, value, help }
}

/// Every option there is, in the order of `--help`.
pub(crate) const OPTIONS: &[Entry] = &[
    entry(
        Name::Config,
        Some('c'),
        ("config", Some("FILE")),
        concat!("Read FILE instead of\n", env!("MPTCPD_SYSCONFDIR"), "/mptcpd/mptcpd.conf"),
    ),
    entry(Name::Debug, Some('d'), ("debug", None), "Log every event and command"),
    entry(Name::Log, Some('l'), ("log", Some("DEST")), "Log to DEST: stderr, syslog, journal or null"),
    entry(
        Name::AddrFlags,
        None,
        ("addr-flags", Some("LIST")),
        "Flags of the endpoints made: subflow, signal,\nbackup, fullmesh (not with signal); empty for none",
    ),
    entry(
        Name::NotifyFlags,
        None,
        ("notify-flags", Some("LIST")),
        "Which addresses are used: existing,\nskip_link_local, skip_loopback, check_route;\nempty for none",
    ),
    entry(
        Name::PluginDir,
        None,
        ("plugin-dir", Some("DIR")),
        "Directory with the path managers' settings,\nNAME.toml for each",
    ),
    entry(Name::PathManager, None, ("path-manager", Some("NAME")), "Path manager to use"),
    entry(Name::LoadPlugins, None, ("load-plugins", Some("LIST")), "Path managers to load, that one among them"),
    entry(
        Name::OnStop,
        None,
        ("on-stop", Some("CHOICE")),
        "At the end, keep endpoints and limits (the\ndefault, traffic goes on) or remove them",
    ),
    entry(
        Name::Sysctl,
        None,
        ("sysctl", Some("CHOICE")),
        "Set net.mptcp.path_manager if the path manager\nneeds it (the default), or only check it",
    ),
    entry(
        Name::Queue,
        None,
        ("queue", Some("COUNT")),
        "Room for so many messages of the kernel that\nwait to be read (50000)",
    ),
    entry(
        Name::CheckConfig,
        None,
        ("check-config", None),
        "Validate everything, print the effective\nconfiguration as TOML, change nothing",
    ),
    entry(
        Name::ListInterfaces,
        None,
        ("list-interfaces", None),
        "Print for the interfaces there are which rule\nthey meet and whether they are used, or why not",
    ),
    entry(Name::ListPlugins, None, ("list-plugins", None), "List the path managers compiled in"),
    entry(Name::Help, Some('?'), ("help", None), "Print this help"),
    entry(Name::Usage, None, ("usage", None), "Print a short usage message"),
    entry(Name::Version, Some('V'), ("version", None), "Print the version"),
];

impl Entry {
    /// `-l, --log=DEST`, as help and man page show it.
    pub(crate) fn definition(&self) -> String {
        let short = self.short.map(|short| format!("-{short}, ")).unwrap_or_default();
        format!("{short}{}", self.long_form())
    }

    fn long_form(&self) -> String {
        let value = self.value.map(|value| format!("={value}")).unwrap_or_default();
        format!("--{}{value}", self.long)
    }
}

/// Parses the arguments after the program's name.
///
/// An option that prints something and ends (`--help`) ends the parsing too.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Action, UsageError> {
    let mut parser = Parser::from_args(args.into_iter().collect::<Vec<_>>());
    let mut options = Options::default();
    let mut action: Option<fn(Options) -> Action> = None;
    while let Some(arg) = parser.next().map_err(|error| syntax(&error))? {
        let entry = find(&arg)?;
        let value = take_value(&mut parser, entry)?;
        match entry.name {
            Name::Help => return Ok(Action::Help),
            Name::Usage => return Ok(Action::Usage),
            Name::Version => return Ok(Action::Version),
            Name::CheckConfig => action = Some(Action::CheckConfig),
            Name::ListPlugins => action = Some(|_| Action::ListPlugins),
            name => {
                options.set(name, &value).map_err(|error| UsageError(format!("--{}: {error}", entry.long)))?;
            }
        }
    }
    Ok(match action {
        Some(action) => action(options),
        None if options.list_interfaces => Action::ListInterfaces(options),
        None => Action::Run(options),
    })
}

fn find(arg: &Arg<'_>) -> Result<&'static Entry, UsageError> {
    match arg {
        Arg::Short(short) => {
            OPTIONS.iter().find(|entry| entry.short == Some(*short)).ok_or_else(|| unknown_option(&format!("-{short}")))
        }
        Arg::Long(long) => find_long(long),
        Arg::Value(value) => Err(UsageError(format!(
            "too many arguments: {} is not an option, and nothing else is taken",
            names::quoted(&value.to_string_lossy())
        ))),
    }
}

fn find_long(given: &str) -> Result<&'static Entry, UsageError> {
    if let Some(exact) = OPTIONS.iter().find(|entry| entry.long == given) {
        return Ok(exact);
    }
    let candidates = || OPTIONS.iter().filter(|entry| !given.is_empty() && entry.long.starts_with(given));
    match (candidates().next(), candidates().count()) {
        (Some(only), 1) => Ok(only),
        (None, _) => Err(unknown_option(&format!("--{given}"))),
        _ => {
            let names: Vec<_> = candidates().map(|entry| format!("--{}", entry.long)).collect();
            Err(UsageError(format!("option \"--{given}\" is ambiguous: it may be {}", names.join(" or "))))
        }
    }
}

fn unknown_option(given: &str) -> UsageError {
    let names: Vec<_> = OPTIONS.iter().map(|entry| format!("--{}", entry.long)).collect();
    UsageError(names::unknown("option", given, &names.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// The value of an option that takes one, else an empty one.
fn take_value(parser: &mut Parser, entry: &Entry) -> Result<OsString, UsageError> {
    let Some(value) = entry.value else {
        return Ok(OsString::new());
    };
    parser.value().map_err(|_| UsageError(format!("--{}: needs a value ({value})", entry.long)))
}

fn syntax(error: &lexopt::Error) -> UsageError {
    UsageError(match error {
        lexopt::Error::UnexpectedValue { option, value } => {
            format!("{option}: takes no value, {} was given", names::quoted(&value.to_string_lossy()))
        }
        other => other.to_string(),
    })
}

impl Options {
    /// Sets an option that has a value, or a switch that changes how the daemon runs.
    fn set(&mut self, name: Name, value: &OsStr) -> Result<(), String> {
        match name {
            Name::Debug => self.debug = true,
            Name::ListInterfaces => self.list_interfaces = true,
            Name::Config => self.config = Some(PathBuf::from(not_empty(value)?)),
            Name::PluginDir => self.plugin_dir = Some(PathBuf::from(not_empty(value)?)),
            Name::Log => self.log = Some(names::log_destination(text(not_empty(value)?)?)?),
            Name::OnStop => self.on_stop = Some(names::on_stop(text(not_empty(value)?)?)?),
            Name::Sysctl => self.sysctl = Some(names::sysctl(text(not_empty(value)?)?)?),
            Name::Queue => self.queue = Some(names::queue(text(not_empty(value)?)?)?),
            Name::PathManager => self.path_manager = Some(text(not_empty(value)?)?.to_owned()),
            Name::LoadPlugins => {
                let names = names::items(text(not_empty(value)?)?)?;
                self.load_plugins = Some(names.into_iter().map(str::to_owned).collect());
            }
            Name::AddrFlags => {
                let mut flags = names::items(text(value)?)?.into_iter().map(names::endpoint_flag);
                let flags = flags.try_fold(EndpointFlags::NONE, |all, flag| flag.map(|flag| all.union(flag)))?;
                self.addr_flags = Some(names::no_conflict(flags)?);
            }
            Name::NotifyFlags => {
                let mut flags = names::items(text(value)?)?.into_iter().map(names::notify_flag);
                let flags = flags.try_fold(NotifyFlags::NONE, |all, flag| flag.map(|flag| all.union(flag)))?;
                self.notify_flags = Some(flags);
            }
            Name::CheckConfig | Name::ListPlugins | Name::Help | Name::Usage | Name::Version => {}
        }
        Ok(())
    }
}

fn not_empty(value: &OsStr) -> Result<&OsStr, String> {
    if value.to_string_lossy().trim().is_empty() {
        return Err("the value is empty".to_owned());
    }
    Ok(value)
}

fn text(value: &OsStr) -> Result<&str, String> {
    value.to_str().ok_or_else(|| format!("{value:?} is not UTF-8"))
}

/// What `--help` prints.
pub(crate) fn help() -> String {
    const COLUMN: usize = 29;
    let mut text = "Usage: mptcpd [OPTION...]\nMultipath TCP path-management daemon\n\n".to_owned();
    for entry in OPTIONS {
        let indent = if entry.short.is_some() { "  " } else { "      " };
        let mut left = format!("{indent}{}", entry.definition());
        for line in entry.help.lines() {
            text.push_str(&format!("{left:COLUMN$}{line}\n"));
            left = String::new();
        }
    }
    text.push_str("\nA value may follow as the next argument, and a long option may be shortened\n");
    text.push_str("while it stays unambiguous. Of an option given twice, the last one counts.\n\n");
    text.push_str("Manual pages: mptcpd(8), mptcpd.conf(5)\n");
    text
}

/// What `--usage` prints.
pub(crate) fn usage() -> String {
    let switches: String =
        OPTIONS.iter().filter(|entry| entry.value.is_none()).filter_map(|entry| entry.short).collect();
    let mut words = vec![format!("[-{switches}]")];
    for entry in OPTIONS {
        if let (Some(short), Some(value)) = (entry.short, entry.value) {
            words.push(format!("[-{short} {value}]"));
        }
    }
    words.extend(OPTIONS.iter().map(|entry| format!("[{}]", entry.long_form())));
    let mut text = String::new();
    let mut line = "Usage: mptcpd".to_owned();
    for word in words {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&format!("{line}\n"));
            line = " ".repeat("Usage: mptcpd".len());
        }
        line.push_str(&format!(" {word}"));
    }
    text.push_str(&format!("{line}\n"));
    text
}

/// What `--version` prints.
pub(crate) fn version() -> String {
    format!("mptcpd {}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn parsed(args: &[&str]) -> Result<Action, String> {
        parse(args.iter().map(OsString::from)).map_err(|error| error.to_string())
    }

    fn options(args: &[&str]) -> Options {
        match parsed(args) {
            Ok(Action::Run(options)) => options,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    fn error(args: &[&str]) -> String {
        parsed(args).expect_err(&args.join(" "))
    }

    #[test]
    fn no_argument_runs_the_daemon_on_defaults() {
        assert_eq!(parsed(&[]), Ok(Action::Run(Options::default())));
        assert_eq!(parsed(&["--"]), Ok(Action::Run(Options::default())));
    }

    #[test]
    fn every_option_is_understood_in_every_form() {
        let given = options(&[
            "-dlnull",
            "-c",
            "/a",
            "--addr-flags=subflow, signal,",
            "--notify-flags",
            "check_route",
            "--plugin-dir=/b",
            "--path-manager=x",
            "--load-plugins",
            "x,y",
            "--on-stop=remove",
            "--sysctl=check",
            "--queue=16",
        ]);
        let wanted = Options {
            debug: true,
            log: Some(LogDestination::Null),
            addr_flags: Some(EndpointFlags(3)),
            notify_flags: Some(NotifyFlags::CHECK_ROUTE),
            plugin_dir: Some("/b".into()),
            path_manager: Some("x".into()),
            load_plugins: Some(vec!["x".into(), "y".into()]),
            config: Some("/a".into()),
            on_stop: Some(OnStop::Remove),
            sysctl: Some(Sysctl::Check),
            queue: Some(16),
            list_interfaces: false,
        };
        assert_eq!(given, wanted);
        for form in [&["-l", "syslog"][..], &["-lsyslog"], &["--log", "syslog"], &["--log=syslog"]] {
            assert_eq!(options(form).log, Some(LogDestination::Syslog), "{form:?}");
        }
    }

    #[test]
    fn actions_other_than_running_are_understood() {
        for (arg, action) in [("-?", Action::Help), ("--usage", Action::Usage), ("-dV", Action::Version)] {
            assert_eq!(parsed(&[arg]), Ok(action));
        }
        assert_eq!(parsed(&["--list-p", "-d"]), Ok(Action::ListPlugins));
        let listed = Options { list_interfaces: true, ..Options::default() };
        assert_eq!(parsed(&["--list-i"]), Ok(Action::ListInterfaces(listed.clone())));
        assert_eq!(parsed(&["--list-i", "--check"]), Ok(Action::CheckConfig(listed)));
        assert!(matches!(parsed(&["--check", "-d"]), Ok(Action::CheckConfig(Options { debug: true, .. }))));
        assert_eq!(parsed(&["--help", "--bogus"]), Ok(Action::Help));
    }

    #[test]
    fn long_options_may_be_shortened_while_unambiguous() {
        assert_eq!(options(&["--path=addr_adv"]).path_manager.as_deref(), Some("addr_adv"));
        assert_eq!(error(&["--p=x"]), "option \"--p\" is ambiguous: it may be --plugin-dir or --path-manager");
        assert_eq!(
            error(&["--l=x"]),
            "option \"--l\" is ambiguous: it may be --log or --load-plugins or --list-interfaces or --list-plugins"
        );
    }

    #[test]
    fn the_last_occurrence_wins() {
        assert_eq!(options(&["-lnull", "--log=stderr"]).log, Some(LogDestination::Stderr));
        assert_eq!(options(&["--addr-flags=signal", "--addr-flags="]).addr_flags, Some(EndpointFlags::NONE));
    }

    #[test]
    fn an_empty_list_of_flags_means_none_and_any_other_empty_value_is_an_error() {
        let given = options(&["--addr-flags=", "--notify-flags", " "]);
        assert_eq!((given.addr_flags, given.notify_flags), (Some(EndpointFlags::NONE), Some(NotifyFlags::NONE)));
        for option in ["--log", "--plugin-dir", "--path-manager", "--config", "--load-plugins", "--on-stop", "--sysctl"]
        {
            assert_eq!(error(&[option, ""]), format!("{option}: the value is empty"));
        }
        assert_eq!(error(&["--load-plugins=,"]), "--load-plugins: empty item in the list \",\"");
        assert_eq!(error(&["--load-plugins=a,,b"]), "--load-plugins: empty item in the list \"a,,b\"");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_remedy() {
        assert_eq!(
            error(&["--log=jornal"]),
            "--log: unknown destination \"jornal\" (did you mean \"journal\"?), valid: stderr, syslog, journal, null"
        );
        assert!(
            error(&["--lgo=null"]).starts_with("unknown option \"--lgo\" (did you mean \"--log\"?), valid: --config,")
        );
        assert!(error(&["-x"]).starts_with("unknown option \"-x\", valid: --config"));
        assert!(error(&["--=x"]).starts_with("unknown option \"--\""));
        assert_eq!(error(&["--debug=1"]), "--debug: takes no value, \"1\" was given");
        assert_eq!(error(&["--log"]), "--log: needs a value (DEST)");
        assert_eq!(error(&["-l"]), "--log: needs a value (DEST)");
        assert!(error(&["x"]).starts_with("too many arguments: \"x\""));
        assert!(error(&["--", "-d"]).starts_with("too many arguments: \"-d\""));
        assert!(error(&["--addr-flags=signal,fullmesh"]).starts_with("--addr-flags: the flags signal and fullmesh"));
    }

    #[test]
    fn paths_need_not_be_utf_8_and_nothing_else_panics_on_it() {
        let odd = |text: &[u8]| OsString::from_vec(text.to_vec());
        let action = parse([odd(b"--config=/\xff"), odd(b"--plugin-dir"), odd(b"\xfe")]);
        let Ok(Action::Run(options)) = action else { panic!("{action:?}") };
        assert_eq!(options.config, Some(PathBuf::from(odd(b"/\xff"))));
        assert_eq!(options.plugin_dir, Some(PathBuf::from(odd(b"\xfe"))));
        for args in [&b"--log=\xff"[..], b"--\xff", b"-\xff", b"\xff", b"--debug=\xff", b"--path-manager=\xff"] {
            let error = parse([odd(args)]).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn long_options_are_unique_and_so_are_short_ones() {
        for (position, entry) in OPTIONS.iter().enumerate() {
            for other in &OPTIONS[position + 1..] {
                assert_ne!(entry.long, other.long);
                assert!(entry.short.is_none() || entry.short != other.short);
                assert_ne!(entry.name, other.name);
            }
        }
    }

    #[test]
    fn help_and_usage_name_every_option_and_fit_a_terminal() {
        for text in [help(), usage()] {
            for entry in OPTIONS {
                assert!(text.contains(&entry.long_form()), "{}", entry.long);
            }
            assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        }
        assert!(usage().starts_with("Usage: mptcpd [-d?V] [-c FILE] [-l DEST] [--config=FILE]"));
        assert!(help().contains("\n  -l, --log=DEST             Log to DEST"));
    }

    /// The definitions in the section OPTIONS of a page: the line after each `.TP`.
    fn documented(page: &str) -> Vec<String> {
        let section = page.split("\n.SH ").find(|section| section.starts_with("OPTIONS\n")).expect("section OPTIONS");
        let mut lines = section.lines();
        let mut found = Vec::new();
        while lines.any(|line| line == ".TP") {
            let line = lines.next().unwrap_or_default();
            let (font, text) = line.split_once(' ').expect("a macro and its text");
            assert!([".B", ".BI"].contains(&font), "{line}");
            // .BI sets its words without spaces between, a quoted one keeps its own.
            let text = text.replace("\\-", "-");
            found.push(if font == ".BI" { text.replace("\" ", "").replace('"', "") } else { text });
        }
        found
    }

    #[test]
    fn the_man_page_documents_exactly_the_options_there_are() {
        let defined: Vec<_> = OPTIONS.iter().map(Entry::definition).collect();
        assert_eq!(documented(include_str!("../man/mptcpd.8.in")), defined);
    }

    #[test]
    fn version_and_hint_name_the_program() {
        assert_eq!(version(), format!("mptcpd {}\n", env!("CARGO_PKG_VERSION")));
        assert!(HINT.contains("mptcpd --help"));
    }

    #[test]
    fn no_command_line_panics() {
        let pieces: &[&[u8]] = &[
            b"--",
            b"-",
            b"=",
            b"d",
            b"l",
            b"log",
            b"addr-flags",
            b"load-plugins",
            b"path",
            b"sub",
            b"flow",
            b",",
            b" ",
            b"\xff",
            b"\n",
            b"signal",
            b"fullmesh",
            b"null",
            b"?",
            b"V",
            "é".as_bytes(),
            b"",
            b"\0",
            b"on-stop",
            b"keep",
        ];
        let mut random = crate::random::Random::new(1);
        for _ in 0..20_000 {
            let args: Vec<OsString> = (0..random.below(4))
                .map(|_| OsString::from_vec((0..random.below(6)).flat_map(|_| random.pick(pieces).to_vec()).collect()))
                .collect();
            if let Err(error) = parse(args.clone()) {
                let text = error.to_string();
                assert!(!text.chars().any(char::is_control), "{args:?}: {text}");
            }
        }
    }
}
