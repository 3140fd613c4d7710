use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::liveness::LivenessPolicy;
use crate::plugin::Manages;
use crate::random::Random;

struct Idle;
impl PathManager for Idle {}

static ALPHA: Plugin = Plugin {
    name: "alpha",
    manages: Manages::Endpoints,
    priority: 0,
    summary: "",
    build: |settings| {
        settings.string("word")?;
        settings.strings("words")?;
        settings.integer("number", 0..=9)?;
        settings.boolean("switch")?;
        settings.table("ports")?;
        Ok(Box::new(Idle))
    },
};
static BETA: Plugin =
    Plugin { name: "beta", manages: Manages::Endpoints, priority: -5, summary: "", build: |_| Ok(Box::new(Idle)) };
static PLUGINS: &[&Plugin] = &[&BETA, &ALPHA];

/// A directory of its own for a test, with the configuration in it; removed at the end.
struct Host {
    root: PathBuf,
    defaults: Defaults,
}

impl Host {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mptcpd-config-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(name);
        let defaults = Defaults {
            file: root.join("mptcpd.conf"),
            plugin_dir: root.join("plugins"),
            path_manager: "alpha",
            log: LogDestination::Stderr,
        };
        let host = Self { root, defaults };
        host.directory("");
        host
    }

    fn with(text: impl AsRef<[u8]>) -> Self {
        let host = Self::new();
        host.write("mptcpd.conf", text);
        host
    }

    fn directory(&self, name: &str) {
        fs::create_dir_all(self.root.join(name)).unwrap();
        self.mode(name, 0o755);
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.root.join(name);
        if let Some((directory, _)) = name.rsplit_once('/') {
            self.directory(directory);
        }
        fs::write(&path, text).unwrap();
        self.mode(name, 0o644);
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self, args: &[&str]) -> Result<Loaded, ConfigError> {
        let action = crate::cli::parse(args.iter().map(|arg| arg.replace('@', self.root.to_str().unwrap()).into()));
        let Ok(crate::cli::Action::Run(options)) = action else { panic!("{args:?}: {action:?}") };
        load_with(&options, PLUGINS, &self.defaults)
    }

    fn loaded(&self, args: &[&str]) -> Loaded {
        self.load(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }

    /// The code and text of the error, with the directory as `@`.
    fn error(&self, args: &[&str]) -> (u8, String) {
        let error = self.load(args).map(|loaded| format!("{loaded:?}")).expect_err("no error");
        (error.code() as u8, self.strip(&error.to_string()))
    }

    fn strip(&self, text: &str) -> String {
        assert!(!text.contains('\n'), "{text}");
        text.replace(self.root.to_str().unwrap(), "@")
    }

    fn notices(&self, args: &[&str]) -> Vec<String> {
        self.loaded(args).notices.iter().map(|notice| self.strip(notice)).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).unwrap();
    }
}

/// What a configuration says, without where it came from.
fn meaning(config: &Config) -> String {
    let names: Vec<_> = config.load_plugins.iter().map(|plugin| plugin.name).collect();
    let settings: Vec<String> = config
        .settings
        .iter()
        .map(|(name, settings)| {
            let mut lines: Vec<_> =
                settings.entries().entries().iter().map(|e| format!("{} = {}", e.key, e.node.value)).collect();
            lines.sort();
            format!("{name}: {lines:?}")
        })
        .collect();
    format!(
        "{} {} {} {} {:?} {} {names:?} {} {} {settings:?}{}",
        config.log,
        config.debug,
        config.addr_flags,
        config.notify_flags,
        config.plugin_dir,
        config.path_manager.name,
        config.on_stop,
        config.sysctl,
        config.rules().iter().map(|rule| format!(" {rule:?}")).collect::<String>()
    )
}

#[test]
fn without_any_file_the_built_in_defaults_hold() {
    let host = Host::new();
    let Loaded { config, notices } = host.loaded(&[]);
    assert_eq!(
        host.strip(&meaning(&config)),
        "stderr false subflow existing,skip_link_local,skip_loopback \"@/plugins\" alpha [\"alpha\"] keep set []"
    );
    assert_eq!((config.sources, notices), (vec![], vec![]));
    let built_in = Defaults::built_in();
    assert_eq!(built_in.path_manager, env!("MPTCPD_DEFAULT_PM"));
    assert_eq!(built_in.file, Path::new(DEFAULT_FILE));
}

#[test]
fn what_is_loaded_without_further_ado_has_the_built_in_defaults() {
    let host = Host::with("[core]\ndebug = true\n");
    host.directory("plugins");
    let options = Options {
        config: Some(host.root.join("mptcpd.conf")),
        plugin_dir: Some(host.root.join("plugins")),
        ..Options::default()
    };
    let config = load(&options, PLUGINS).unwrap().config;
    assert_eq!((config.debug, config.log.to_string().as_str()), (true, env!("MPTCPD_DEFAULT_LOG")));
}

#[test]
fn the_first_by_priority_is_the_default_when_the_usual_one_is_not_compiled_in() {
    let mut host = Host::new();
    host.defaults.path_manager = "absent";
    assert_eq!(host.loaded(&[]).config.path_manager.name, "beta");
    assert_eq!(host.loaded(&["--load-plugins=alpha"]).config.path_manager.name, "alpha");
}

const FULL: &str = r#"
[core]
log = "null"
debug = true
addr-flags = ["signal", "backup"]
notify-flags = "check_route, existing"
path-manager = "beta"
load-plugins = ["alpha", "beta"]
on-stop = "remove"
sysctl = "check"
[[interface]]
match = "eth[0-9]*, wlan*"
kind = "physical"
family = "ipv4"
use = true
backup = false
flags = ["subflow"]
max-subflows = 2
announce = false
order = -1
[[interface]]
use = "apart"
[[interface]]
[pm.alpha]
word = "w"
"#;

#[test]
fn every_key_of_the_file_is_taken_and_the_command_line_counts_more() {
    let host = Host::with(FULL);
    let config = host.loaded(&[]).config;
    let rules = [
        "[[interface]]\nmatch = [\"eth[0-9]*\", \"wlan*\"]\nkind = [\"physical\"]\nfamily = \"ipv4\"\nuse = true\n\
         backup = false\nflags = [\"subflow\"]\nmax-subflows = 2\nannounce = false\norder = -1\n",
        "[[interface]]\nuse = \"apart\"\n",
        "[[interface]]\n",
    ];
    assert_eq!(config.rules().iter().map(|rule| interfaces::to_toml(rule)).collect::<Vec<_>>(), rules);
    assert_eq!(
        host.strip(&meaning(&Config { interfaces: Vec::new(), ..config })),
        "null true signal,backup existing,check_route \"@/plugins\" beta [\"beta\", \"alpha\"] remove check [\"alpha: [\\\"word = \\\\\\\"w\\\\\\\"\\\"]\"]"
    );
    host.directory("other");
    let args = ["--log=syslog", "--addr-flags=", "--notify-flags=", "--plugin-dir=@/other", "--path-manager=alpha"];
    let config = host.loaded(&[&args[..], &["--load-plugins=alpha", "--on-stop=keep", "--sysctl=set"]].concat()).config;
    assert!(
        host.strip(&meaning(&config)).starts_with("syslog true none none \"@/other\" alpha [\"alpha\"] keep set "),
        "{}",
        meaning(&config)
    );
}

#[test]
fn every_key_of_core_is_an_option_and_is_known() {
    for key in layer::KEYS {
        assert!(crate::cli::OPTIONS.iter().any(|option| option.definition().contains(&format!("--{key}"))), "{key}");
        let host = Host::with(format!("[core]\n{key} = 1.5\n"));
        let (code, text) = host.error(&[]);
        assert_eq!(code, 78);
        assert!(text.starts_with(&format!("@/mptcpd.conf:2:{}: {key}: 1.5 is a floating", key.len() + 4)), "{text}");
    }
}

#[test]
fn drop_ins_count_more_than_the_file_in_the_order_of_their_names() {
    let host = Host::with("[core]\nlog = \"null\"\non-stop = \"remove\"\n[pm.alpha]\nnumber = 1\nword = \"a\"\n");
    host.write("mptcpd.conf.d/20-b.toml", "[core]\nlog = \"journal\"\n[pm.alpha]\nnumber = 3\n");
    host.write("mptcpd.conf.d/10-a.toml", "[core]\nlog = \"syslog\"\naddr-flags = []\n[pm.alpha]\nnumber = 2");
    host.write("mptcpd.conf.d/30-c.conf", "not read");
    host.write("mptcpd.conf.d/.40-hidden.toml", "not read");
    let config = host.loaded(&[]).config;
    assert_eq!(
        (config.log, config.addr_flags, config.on_stop),
        (LogDestination::Journal, EndpointFlags::NONE, OnStop::Remove)
    );
    assert_eq!(config.settings["alpha"].entries().to_string(), "{ number = 3, word = \"a\" }");
    let names: Vec<_> = config.sources.iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["mptcpd.conf", "10-a.toml", "20-b.toml"]);
    host.write("mptcpd.conf.d/15.toml", "[core]\nlog = \"jornal\"\n");
    assert!(host.error(&[]).1.starts_with("@/mptcpd.conf.d/15.toml:2:7: log: unknown destination"));
}

/// The order that each rule gives, by which the rules are told apart.
fn orders(config: &Config) -> Vec<i32> {
    config.rules().iter().filter_map(|rule| rule.order).collect()
}

#[test]
fn the_rules_of_a_file_that_counts_more_are_tried_first() {
    let host = Host::with("[[interface]]\norder = 5\n[[interface]]\norder = 6\n");
    assert_eq!(orders(&host.loaded(&[]).config), [5, 6]);
    host.write("mptcpd.conf.d/20-b.toml", "interface = [{ order = 1 }, { order = 2 }]\n");
    host.write("mptcpd.conf.d/10-a.toml", "[[interface]]\norder = 3\n[[interface]]\norder = 4\n");
    let config = host.loaded(&[]).config;
    assert_eq!(orders(&config), [1, 2, 3, 4, 5, 6]);
    let places: Vec<_> = config.interfaces.iter().map(|placed| host.strip(&placed.place.to_string())).collect();
    assert_eq!(
        places[1..4],
        ["@/mptcpd.conf.d/20-b.toml:1:29", "@/mptcpd.conf.d/10-a.toml:1:1", "@/mptcpd.conf.d/10-a.toml:3:1"]
    );
}

#[test]
fn there_may_be_many_rules_but_not_any_number() {
    let host = Host::with("[[interface]]\n".repeat(1000));
    assert_eq!(host.loaded(&[]).config.interfaces.len(), 1000);
    host.write("mptcpd.conf.d/a.toml", "[[interface]]\n");
    let error = "@/mptcpd.conf.d/a.toml:1:1: interface: more than 1000 rules in all files";
    assert_eq!(host.error(&[]), (78, error.to_owned()));
}

#[test]
fn a_path_manager_may_have_many_settings_but_not_any_number() {
    let settings = |from: usize, to| (from..to).map(|number| format!("k{number} = 1\n")).collect::<String>();
    let host = Host::with(format!("[pm.alpha]\n{}", settings(0, 1000)));
    let unknown = "@/mptcpd.conf:2:1: unknown key of [pm.alpha] \"k0\", valid: word, words, number, switch, ports";
    assert_eq!(host.error(&[]), (78, unknown.to_owned()));
    host.write("mptcpd.conf.d/a.toml", "[pm.alpha]\nk1000 = 1\n");
    let error = "@/mptcpd.conf.d/a.toml:2:1: pm.alpha: more than 1000 settings".to_owned();
    assert_eq!(host.error(&[]), (78, error));
    let host = Host::new();
    host.write("plugins/alpha.toml", settings(0, 1001));
    assert_eq!(host.error(&[]), (78, "@/plugins/alpha.toml:1001:1: pm.alpha: more than 1000 settings".to_owned()));
}

#[test]
fn how_silent_paths_are_looked_for_is_told_in_times_with_units_or_not_at_all() {
    let millis = std::time::Duration::from_millis;
    let host = Host::with("[liveness]\nblackhole = \"2s\"\npoll = \"50 ms\"\nreturn-delay = \"1500ms\"\n");
    let config = host.loaded(&[]).config;
    let expected = LivenessPolicy { blackhole: Some(millis(2000)), poll: millis(50), return_delay: millis(1500) };
    assert_eq!(config.paths.liveness, expected);
    host.write("mptcpd.conf", effective_toml(&config));
    assert_eq!(host.loaded(&[]).config.paths.liveness, expected);
    let off = Host::with("[liveness]\nblackhole = false\n").loaded(&[]).config;
    assert_eq!(off.paths.liveness, LivenessPolicy { blackhole: None, ..LivenessPolicy::default() });
    assert!(effective_toml(&off).contains("blackhole = false\n"));
}

#[test]
fn how_paths_are_tried_is_told_key_by_key_and_a_drop_in_changes_what_it_names() {
    let host = Host::with("[paths]\nmax-subflows = 3\nfirst-retry = 2\n");
    host.write("mptcpd.conf.d/a.toml", "[paths]\nfirst-retry = 4\nlongest-retry = 60\nlongest-early-retry = 5\n");
    let config = host.loaded(&[]).config;
    let seconds = std::time::Duration::from_secs;
    let expected = PathPolicy {
        max_subflows: 3,
        first_retry: seconds(4),
        longest_retry: seconds(60),
        longest_early_retry: seconds(5),
        ..PathPolicy::default()
    };
    assert_eq!(config.paths, expected);
    assert_eq!(Host::with("").loaded(&[]).config.paths, PathPolicy::default());
    std::fs::remove_file(host.root.join("mptcpd.conf.d/a.toml")).unwrap();
    host.write("mptcpd.conf", effective_toml(&config));
    assert_eq!(host.loaded(&[]).config.paths, expected);
}

#[test]
fn the_rules_in_force_are_shown_with_number_and_place_and_so_are_those_built_in() {
    let host = Host::with("[[interface]]\nmatch = 'a*'\nuse = false\n");
    let text = effective_toml(&host.loaded(&[]).config).replace(host.root.to_str().unwrap(), "@");
    let (_, text) = text.split_once("return-delay = \"0ms\"\n\n").unwrap();
    let (rules, built_in) = text.split_once("\n\n").unwrap();
    assert_eq!(rules, "# rule 1, from @/mptcpd.conf:1:1\n[[interface]]\nmatch = [\"a*\"]\nuse = false");
    assert!(built_in.lines().all(|line| line.starts_with("# ")), "{built_in}");
    for word in ["docker*", "virbr*", "veth*", "lo", "wg*", "tun*", "tailscale*"] {
        assert!(built_in.contains(&format!("{word:?}")), "{word}: {built_in}");
    }
}

#[test]
fn what_is_wrong_in_the_file_is_named_with_place_valid_choices_and_the_nearest() {
    for (text, error) in [
        (
            "[cor]\n",
            "1:2: unknown table or key \"cor\" (did you mean \"core\"?), valid: core, interface, liveness, paths, pm",
        ),
        ("log = 'null'", "1:1: the key \"log\" belongs into the table [core]"),
        ("core = 1", "1:8: core: 1 is an integer, expected a table"),
        ("[[core]]", "1:1: core: [{}] is an array, expected a table"),
        (
            "[core]\nadr-flags = ''",
            "2:1: unknown key of [core] \"adr-flags\" (did you mean \"addr-flags\"?), valid: log, debug, addr-flags, \
             notify-flags, plugin-dir, path-manager, load-plugins, on-stop, sysctl, queue",
        ),
        ("interface = 1", "1:13: interface: 1 is an integer, expected an array of tables: [[interface]]"),
        (
            "[interface]\nuse = true",
            "1:1: interface: { use = true } is a table, expected an array of tables: [[interface]]",
        ),
        ("interface = [{}, 1]", "1:18: interface: 1 is an integer, expected an array of tables: [[interface]]"),
        (
            "[[interface]]\n[[interface]]\nmtach = ''",
            "3:1: unknown key of [[interface]] \"mtach\" (did you mean \"match\"?), valid: match, kind, family, use, backup, \
             flags, max-subflows, announce, order",
        ),
        ("[[interface]]\nmatch = []", "2:9: match: the list is empty"),
        ("[[interface]]\nmatch = 'eth0, wlan[0'", "2:9: match: the class in \"wlan[0\" has no closing bracket"),
        ("[[interface]]\nmatch = ['eth0', '']", "2:18: match: an empty pattern matches nothing"),
        ("[[interface]]\nkind = ['']", "2:9: kind: the kind is empty"),
        (
            "[[interface]]\nfamily = 'ipv5'",
            "2:10: family: unknown family \"ipv5\" (did you mean \"ipv4\"?), valid: ipv4, ipv6",
        ),
        ("[[interface]]\nuse = 'no'", "2:7: use: \"no\" is a string, expected true, false or \"apart\""),
        ("[[interface]]\nbackup = 1", "2:10: backup: 1 is an integer, expected true or false"),
        ("[[interface]]\nmax-subflows = 0", "2:16: max-subflows: 0 is out of range, expected an integer from 1 to 255"),
        (
            "[[interface]]\norder = 2147483648",
            "2:9: order: 2147483648 is out of range, expected an integer from -2147483648 to 2147483647",
        ),
        (
            "[core]\naddr-flags = 'fullmesh'\n[[interface]]\n[[interface]]\nannounce = true",
            "4:1: interface: the flags signal and fullmesh exclude each other: leave one out (of addr-flags, flags and \
             announce)",
        ),
        ("[core]\nlog = true", "2:7: log: true is a boolean, expected a string"),
        ("[core]\ndebug = 'yes'", "2:9: debug: \"yes\" is a string, expected true or false"),
        (
            "[core]\naddr-flags = ['signal', 'sublow']",
            "2:25: addr-flags: unknown flag \"sublow\" (did you mean \"subflow\"?), valid: signal, subflow, backup, fullmesh",
        ),
        ("[core]\naddr-flags = 'signal,,'", "2:14: addr-flags: empty item in the list \"signal,,\""),
        (
            "[core]\naddr-flags = 'fullmesh,signal'",
            "2:14: addr-flags: the flags signal and fullmesh exclude each other: leave one out",
        ),
        ("[core]\nload-plugins = []", "2:16: load-plugins: the list is empty"),
        ("[core]\nplugin-dir = ''", "2:14: plugin-dir: the value is empty"),
        ("[core]\npath-manager = 'sspi'", "2:16: path-manager: unknown path manager \"sspi\", valid: beta, alpha"),
        ("[pm.alfa]", "1:5: unknown path manager \"alfa\" (did you mean \"alpha\"?), valid: beta, alpha"),
        ("paths = 1", "1:9: paths: 1 is an integer, expected a table"),
        (
            "[paths]\nmax-subflow = 3",
            "2:1: unknown key of [paths] \"max-subflow\" (did you mean \"max-subflows\"?), \
             valid: max-subflows, first-retry, longest-retry, longest-early-retry",
        ),
        ("liveness = 1", "1:12: liveness: 1 is an integer, expected a table"),
        (
            "[liveness]\nblackhole = true",
            "2:13: blackhole: true is a boolean, expected false or a time such as \"250ms\"",
        ),
        (
            "[liveness]\nblackhole = \"49ms\"",
            "2:13: blackhole: \"49ms\" is not one, expected a time from 50ms to 10s, such as \"250ms\" or \"2s\"",
        ),
        (
            "[liveness]\npoll = 20",
            "2:8: poll: 20 is an integer, expected a time from 5ms to 1s, such as \"250ms\" or \"2s\"",
        ),
        (
            "[liveness]\nreturn-delay = \"1m\"",
            "2:16: return-delay: \"1m\" is not one, expected a time from 0ms to 600s, such as \"250ms\" or \"2s\"",
        ),
        (
            "[liveness]\npol = \"1s\"",
            "2:1: unknown key of [liveness] \"pol\" (did you mean \"poll\"?), valid: blackhole, poll, return-delay",
        ),
        ("[paths]\nmax-subflows = 0", "2:16: max-subflows: 0 is out of range, expected an integer from 1 to 255"),
        (
            "[paths]\nfirst-retry = 86401",
            "2:15: first-retry: 86401 is out of range, expected an integer from 1 to 86400",
        ),
        ("[pm]\nalpha = 1", "2:9: pm.alpha: 1 is an integer, expected a table"),
        ("[pm.alpha]\nnumber = 10", "2:10: number: 10 is out of range, expected an integer from 0 to 9"),
        (
            "[pm.alpha]\nnumbr = 1",
            "2:1: unknown key of [pm.alpha] \"numbr\" (did you mean \"number\"?), valid: word, words, number, switch, ports",
        ),
        ("[pm.beta]\nx = 1", "2:1: beta has no settings, found the key \"x\""),
        ("[core]\nlog = \"null\nx = [1]", "2:12: not valid TOML: invalid basic string, expected `\"`"),
        ("[core]\nplugin-dir = '/nonexistent/x'", "2:14: plugin-dir: /nonexistent/x: no such directory"),
        ("[core]\nplugin-dir = '/dev/null'", "2:14: plugin-dir: /dev/null: not a directory"),
        (
            "[core]\nload-plugins = 'beta'\npath-manager = 'alpha'",
            "3:16: the path manager \"alpha\" is not among load-plugins (beta): add it there or choose another",
        ),
    ] {
        let host = Host::with(text);
        assert_eq!(host.error(&[]), (78, format!("@/mptcpd.conf:{error}")), "{text}");
    }
}

#[test]
fn what_the_command_line_got_wrong_is_a_usage_error() {
    let host = Host::with("[core]\nload-plugins = 'beta'\n");
    for (args, error) in [
        (
            &["--path-manager=alpa"][..],
            "--path-manager: unknown path manager \"alpa\" (did you mean \"alpha\"?), valid: beta, alpha",
        ),
        (&["--load-plugins=beta,x"], "--load-plugins: unknown path manager \"x\", valid: beta, alpha"),
        (&["--plugin-dir=@/absent"], "--plugin-dir: @/absent: no such directory"),
        (&["--plugin-dir=@/plugins"], "--plugin-dir: @/plugins: no such directory"),
        (&["--plugin-dir=@/mptcpd.conf"], "--plugin-dir: @/mptcpd.conf: not a directory"),
        (
            &["--path-manager=alpha"],
            "--path-manager: the path manager \"alpha\" is not among load-plugins (beta): add it there or choose another",
        ),
    ] {
        assert_eq!(host.error(args), (64, error.to_owned()));
    }
    let host = Host::with("[core]\npath-manager = 'alpha'\n");
    let (code, text) = host.error(&["--load-plugins=beta"]);
    assert!(code == 64 && text.starts_with("--load-plugins: the path manager \"alpha\" is not among"), "{code} {text}");
}

#[test]
fn of_several_loaded_the_chosen_one_or_the_default_or_the_first_manages() {
    let host = Host::new();
    let chosen = |args: &[&str]| host.loaded(args).config.path_manager.name;
    assert_eq!(chosen(&["--load-plugins=alpha,beta,alpha"]), "alpha");
    assert_eq!(chosen(&["--load-plugins=beta"]), "beta");
    assert_eq!(chosen(&["--load-plugins=alpha,beta", "--path-manager=beta"]), "beta");
    assert_eq!(host.loaded(&["--load-plugins=alpha,beta,alpha"]).config.load_plugins.len(), 2);
    assert_eq!(host.loaded(&["--path-manager=beta"]).config.load_plugins.len(), 1);
}

#[test]
fn a_file_that_others_can_change_or_that_is_no_file_is_refused_with_the_remedy() {
    let host = Host::with("[core]\n");
    host.mode("mptcpd.conf", 0o646);
    let refused = "@/mptcpd.conf: refused, it is writable by others: chmod o-w @/mptcpd.conf";
    assert_eq!(host.error(&[]), (78, refused.to_owned()));
    assert_eq!(host.error(&["--config=@"]), (78, "@: refused, it is not a regular file".to_owned()));
    assert_eq!(host.error(&["--config=/dev/null"]).1, "/dev/null: refused, it is not a regular file");
    assert_eq!(host.error(&["--config=@/absent"]), (78, "@/absent: no such file (--config names it)".to_owned()));
    assert!(
        host.error(&["--config=@/mptcpd.conf/x"]).1.starts_with("@/mptcpd.conf/x: cannot open it: not a directory")
    );
    host.mode("mptcpd.conf", 0o644);
    host.write("mptcpd.conf.d/a.toml", "");
    host.mode("mptcpd.conf.d/a.toml", 0o666);
    assert!(host.error(&[]).1.starts_with("@/mptcpd.conf.d/a.toml: refused, it is writable by others"));
    host.mode("mptcpd.conf.d/a.toml", 0o644);
    host.mode("mptcpd.conf.d", 0o777);
    assert!(host.error(&[]).1.ends_with(": chmod o-w @/mptcpd.conf.d"));
    fs::remove_dir_all(host.root.join("mptcpd.conf.d")).unwrap();
    host.write("mptcpd.conf.d", "");
    assert_eq!(host.error(&[]).1, "@/mptcpd.conf.d: not a directory");
}

#[test]
fn a_fifo_does_not_block_and_a_link_to_a_file_is_followed() {
    let host = Host::new();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        host.root.join("mptcpd.conf"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(host.error(&[]).1, "@/mptcpd.conf: refused, it is not a regular file");
    fs::remove_file(host.root.join("mptcpd.conf")).unwrap();
    host.write("real", "[core]\ndebug = true");
    std::os::unix::fs::symlink("real", host.root.join("mptcpd.conf")).unwrap();
    assert!(host.loaded(&[]).config.debug);
}

#[test]
fn what_is_too_large_or_not_utf_8_is_refused() {
    let host = Host::with(vec![b'#'; (1 << 20) + 1]);
    assert_eq!(host.error(&[]).1, "@/mptcpd.conf: refused, larger than 1048576 bytes");
    host.write("mptcpd.conf", vec![b'#'; 1 << 20]);
    host.loaded(&[]);
    host.write("mptcpd.conf", b"[core]\n# \xc3\xa9 \xff\n");
    assert_eq!(host.error(&[]).1, "@/mptcpd.conf:2:5: not UTF-8: byte 0xff at offset 12");
}

#[test]
fn the_plugin_directory_holds_settings_of_plugins_compiled_in() {
    let host = Host::new();
    host.write("plugins/alpha.toml", "number = 4\n[ports]\neth0 = \"x\"\n");
    host.write("plugins/alpha.so", "");
    host.write("plugins/sspi.so", "");
    host.write("plugins/README", "");
    let Loaded { config, notices } = host.loaded(&[]);
    assert_eq!(config.settings["alpha"].entries().to_string(), "{ number = 4, ports = { eth0 = \"x\" } }");
    let notices: Vec<_> = notices.iter().map(|notice| host.strip(notice)).collect();
    assert_eq!(notices, ["@/plugins: path managers are inside the program, not loaded: alpha.so, sspi.so"]);

    host.write("plugins/alpha.toml", "number = 40");
    assert!(host.error(&[]).1.starts_with("@/plugins/alpha.toml:1:10: number: 40 is out of range"));
    host.write("plugins/alpha.toml", "");
    host.write("plugins/beta.toml", "x = 1");
    assert!(host.error(&[]).1.starts_with("@/plugins/beta.toml:1:1: beta has no settings"));
    fs::rename(host.root.join("plugins/beta.toml"), host.root.join("plugins/bta.toml")).unwrap();
    assert_eq!(
        host.error(&["--plugin-dir=@/plugins"]),
        (78, "@/plugins/bta.toml: settings of an unknown path manager \"bta\" (did you mean \"beta\"?), valid: beta, alpha".into())
    );
}

#[test]
fn a_plugin_directory_or_file_that_others_can_change_is_refused() {
    let host = Host::new();
    host.write("plugins/alpha.toml", "");
    host.mode("plugins/alpha.toml", 0o666);
    assert!(host.error(&[]).1.starts_with("@/plugins/alpha.toml: refused, it is writable by others"));
    host.mode("plugins/alpha.toml", 0o644);
    host.mode("plugins", 0o757);
    assert!(host.error(&[]).1.starts_with("@/plugins: refused, it is writable by others: chmod o-w @/plugins"));
}

#[test]
fn a_key_in_a_file_and_in_the_plugin_directory_is_an_error_that_names_both() {
    let host = Host::with("[pm.alpha]\nword = 'a'\nnumber = 1\n");
    host.write("plugins/alpha.toml", "switch = true\nnumber = 1\n");
    let error = "@/plugins/alpha.toml:2:1: number is also given at @/mptcpd.conf:3:1: leave one out";
    assert_eq!(host.error(&[]), (78, error.to_owned()));
    host.write("plugins/alpha.toml", "switch = true\n");
    assert_eq!(host.loaded(&[]).config.settings["alpha"].entries().entries().len(), 3);
}

/// Debian's file of mptcpd 0.12, without most of its comments.
const DEBIAN: &str = "# SPDX-License-Identifier: BSD-3-Clause\n#\n# ---- don't \"mind\" ----\n\n[core]\n#   stderr - I/O\nlog=stderr\n\n\
    plugin-dir=@DIR@\n\npath-manager=alpha\n\n# addr-flags=subflow\n\n# load-plugins=addr_adv,sspi\n";

#[test]
fn the_c_daemons_file_is_understood_with_a_notice_that_shows_the_toml() {
    let host = Host::new();
    host.directory("lib");
    host.write("lib/addr_adv.so", "");
    host.write("mptcpd.conf", DEBIAN.replace("@DIR@", host.root.join("lib").to_str().unwrap()));
    assert!(
        host.strip(&meaning(&host.loaded(&[]).config))
            .starts_with("stderr false subflow existing,skip_link_local,skip_loopback \"@/lib\" alpha")
    );
    let toml = "core = { log = \"stderr\", plugin-dir = \"@/lib\", path-manager = \"alpha\" }";
    assert_eq!(
        host.notices(&[]),
        [
            format!("@/mptcpd.conf: read as a key file of the C daemon; as TOML the same is one line: {toml}"),
            "@/lib: path managers are inside the program, not loaded: addr_adv.so".to_owned()
        ]
    );
    host.write("other", toml.replace('@', host.root.to_str().unwrap()));
    assert_eq!(meaning(&host.loaded(&[]).config), meaning(&host.loaded(&["--config=@/other"]).config));
}

#[test]
fn a_plugin_directory_that_a_key_file_names_need_not_exist() {
    let host = Host::with(DEBIAN.replace("@DIR@", "/nonexistent/mptcpd"));
    host.write("plugins/alpha.toml", "number = 2");
    let notices = host.notices(&[]);
    assert!(notices[0].ends_with("core = { log = \"stderr\", path-manager = \"alpha\" }"), "{notices:?}");
    assert_eq!(
        notices[1..],
        ["@/mptcpd.conf:9:12: plugin-dir: /nonexistent/mptcpd: no such directory, @/plugins is used".to_owned()]
    );
    assert_eq!(host.strip(host.loaded(&[]).config.plugin_dir.to_str().unwrap()), "@/plugins");
    host.write("mptcpd.conf", DEBIAN.replace("@DIR@", "/dev/null"));
    assert_eq!(host.notices(&[]).len(), 2);
    assert_eq!(host.error(&["--plugin-dir=/nonexistent/mptcpd"]).0, 64);
}

#[test]
fn of_much_that_is_unknown_in_a_key_file_the_first_is_told_and_the_rest_counted() {
    let host = Host::with(format!("[core]\nload-plugins={}\n{}", "x,".repeat(30), "y=1\n".repeat(21)));
    let notices = host.notices(&[]);
    assert_eq!(notices.len(), 1 + 21 + 21, "{notices:?}");
    assert_eq!(notices.iter().filter(|notice| notice.contains("\"x\" is not compiled in; ignored")).count(), 20);
    assert!(notices.contains(&"@/mptcpd.conf: 10 more of these; ignored".to_owned()));
    assert!(notices.contains(&"@/mptcpd.conf: 1 more of these; ignored".to_owned()));
}

#[test]
fn a_key_file_may_name_plugins_that_are_not_here() {
    let host = Host::with("[core]\nload-plugins=alpha,other\n");
    let config = host.loaded(&[]).config;
    let loaded: Vec<_> = config.load_plugins.iter().map(|plugin| plugin.name).collect();
    assert_eq!(loaded, ["alpha"]);
    assert!(
        host.notices(&[])
            .contains(&"@/mptcpd.conf:2:14: load-plugins: \"other\" is not compiled in; ignored".to_owned())
    );
    host.write("mptcpd.conf", "[core]\nload-plugins=other\n");
    assert_eq!(host.loaded(&[]).config.load_plugins.len(), 1, "the chosen one alone");
    host.write("mptcpd.conf", "[core]\nload-plugins=\n");
    assert_eq!(host.error(&[]).0, 78);
}

#[test]
fn every_key_may_stand_in_a_key_file_and_bad_ones_are_named_with_their_place() {
    let host = Host::with(
        "[core]\r\n  # c\r\n  log = syslog\r\naddr-flags=signal, backup,\nnotify-flags=\ndebug=true\non-stop=remove\nsysctl=check\nload-plugins=alpha,beta\nx-y=1\n",
    );
    let Loaded { config, notices } = host.loaded(&[]);
    assert!(
        host.strip(&meaning(&config))
            .starts_with("syslog true signal,backup none \"@/plugins\" alpha [\"beta\", \"alpha\"] remove check "),
        "{}",
        meaning(&config)
    );
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(host.strip(&notices[1]).starts_with("@/mptcpd.conf:10:1: unknown key of [core] \"x-y\", valid: log,"));
    for (text, error) in [
        ("# c\nlog=null\n[core]\n", "2:1: the key \"log\" stands before the line [core]"),
        ("log=null\n", "1:1: the key \"log\" stands before the line [core]"),
        (
            "[core]\nlog=jornal\n",
            "2:5: log: unknown destination \"jornal\" (did you mean \"journal\"?), valid: stderr, syslog, journal, null",
        ),
        ("[core]\nplugin-dir=\n", "2:12: plugin-dir: the value is empty"),
        ("[core]\nload-plugins=\n", "2:14: load-plugins: the list is empty"),
        ("[core]\nload-plugins=,\n", "2:14: load-plugins: empty item in the list \",\""),
        (
            "[core]\naddr-flags=signal,fullmesh\n",
            "2:12: addr-flags: the flags signal and fullmesh exclude each other: leave one out",
        ),
        ("[core]\npath-manager=sspi\n", "2:14: path-manager: unknown path manager \"sspi\", valid: beta, alpha"),
        ("[core]\nlog=\ndebug=yes", "2:5: log: unknown destination \"\", valid: stderr, syslog, journal, null"),
        ("[core]\n debug =  yes", "2:11: debug: \"yes\" is a string, expected true or false"),
    ] {
        let host = Host::with(text);
        assert_eq!(host.error(&[]), (78, format!("@/mptcpd.conf:{error}")), "{text}");
    }
}

#[test]
fn a_file_with_any_other_line_is_toml_and_its_error_is_that_of_toml() {
    for text in [
        "[core]\nlog=stderr\naddr-flags = [\"signal\"]\n",
        "[core]\nlog=stderr\n[pm.alpha]\n",
        "[core]\nlog=stderr\nnothing\n",
        "[core]\nlog=stderr\npath-manager='alpha'\n",
        "[core] # c\nlog=stderr\n",
    ] {
        let (code, error) = Host::with(text).error(&[]);
        assert!(code == 78 && error.contains(": not valid TOML: "), "{error}");
    }
}

#[test]
fn the_effective_configuration_reads_back_the_same() {
    let odd = "é\\u0000\\t\\\"\\\\ # ' \\u007f\\n=";
    let host = Host::with(format!(
        "{FULL}number = 3\nwords = [\"{odd}\", \"\"]\nswitch = false\n[pm.alpha.ports]\n\"{odd}\" = \"{odd}\"\n\"\" = \"\"\nplain = \"x\"\n[pm.beta]\n"
    ));
    for args in
        [&[][..], &["--addr-flags=", "--notify-flags=", "--plugin-dir=@/odd \"\\\u{1}é"], &["--load-plugins=beta"]]
    {
        host.directory("odd \"\\\u{1}é");
        let config = host.loaded(args).config;
        let text = effective_toml(&config);
        for key in layer::KEYS {
            assert!(text.contains(&format!("\n{key} = ")), "{key}: {text}");
        }
        host.write("again", &text);
        let again = host.loaded(&["--config=@/again"]);
        assert_eq!(meaning(&again.config), meaning(&config), "{text}");
        assert!(again.notices.is_empty());
    }
    let none = Host::new();
    let config = none.loaded(&[]).config;
    none.write("again", effective_toml(&config));
    assert_eq!(meaning(&none.loaded(&["--config=@/again"]).config), meaning(&config));
}

#[test]
fn settings_of_the_plugin_directory_are_shown_but_not_given_twice() {
    let host = Host::with("[pm.alpha]\nword = 'a'");
    host.write("plugins/alpha.toml", "number = 4");
    let config = host.loaded(&[]).config;
    let text = effective_toml(&config);
    let end = "[pm.alpha]\nword = \"a\"\n# in @/plugins/alpha.toml: number = 4\n";
    assert!(text.replace(host.root.to_str().unwrap(), "@").ends_with(end), "{text}");
    host.write("again", &text);
    assert_eq!(meaning(&host.loaded(&["--config=@/again"]).config), meaning(&config));
}

#[test]
fn a_plugin_directory_that_is_not_utf_8_does_no_harm() {
    use std::os::unix::ffi::OsStringExt;
    let host = Host::new();
    let path = host.root.join(std::ffi::OsString::from_vec(b"a\xffb".to_vec()));
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let options = Options { plugin_dir: Some(path), ..Options::default() };
    let config = load_with(&options, PLUGINS, &host.defaults).unwrap().config;
    assert!(effective_toml(&config).contains("# plugin-dir is not UTF-8"));
}

#[test]
fn no_file_panics() {
    let host = Host::new();
    let pieces: &[&[u8]] = &[
        b"[core]\n",
        b"[pm.alpha]\n",
        b"[",
        b"]",
        b"=",
        b"\n",
        b"\"",
        b"'",
        b",",
        b"\xff",
        b"\xc3",
        "é".as_bytes(),
        b"log",
        b"null",
        b"#",
        b"plugin-dir",
        b"debug",
        b"true",
        b"1",
        b"{",
        b"}",
        b".",
        b"\0",
        b"\r",
        b" ",
        b"word",
    ];
    let key_file = b"[core]\nlog=stderr\naddr-flags=subflow,backup\npath-manager=alpha\n";
    let mut random = Random::new(3);
    for round in 0..2_000 {
        let mut text = match round % 3 {
            0 => FULL.as_bytes().to_vec(),
            1 => key_file.to_vec(),
            _ => Vec::new(),
        };
        for _ in 0..=random.below(4) {
            let at = random.below(text.len() + 1);
            let end = (at + random.below(3)).min(text.len());
            text.splice(at..end, random.pick(pieces).iter().copied());
        }
        host.write("mptcpd.conf", &text);
        match host.load(&[]) {
            Ok(loaded) => {
                host.write("again", effective_toml(&loaded.config));
                assert_eq!(meaning(&host.loaded(&["--config=@/again"]).config), meaning(&loaded.config));
            }
            Err(error) => {
                let text = error.to_string();
                assert!(!text.chars().any(char::is_control) && error.code() == Code::Configuration, "{text:?}");
            }
        }
    }
}
