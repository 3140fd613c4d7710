//! Writes seeds for every target: the datagrams of `tests/captures`, the configuration that is shipped, the examples
//! of the manual pages, and a few lines of its own: `cargo run --example seeds -- DIR`

use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs, io};

const CONFIGURATION: &str = include_str!("../../../packaging/mptcpd.conf.in");
const PAGES: [&str; 2] = [include_str!("../../../man/mptcpd.8.in"), include_str!("../../../man/mptcpd.conf.5.in")];

/// A zero parts arguments.
const COMMAND_LINES: [&str; 9] = [
    "-dlnull\0-c\0/a\0--addr-flags=subflow, signal,\0--notify-flags\0check_route\0--plugin-dir=/b",
    "--path-manager=x\0--load-plugins\0x,y\0--on-stop=remove\0--sysctl=check\0--queue=16",
    "--check-config\0--list-interfaces\0--config\0/etc/mptcpd/mptcpd.conf",
    "--list-plugins",
    "--log=journal\0--help",
    "-?",
    "-V\0--usage",
    "--list\0--debug=1",
    "--addr-flags=\0--notify-flags=existing,skip_link_local,skip_loopback\0--\0x",
];

/// What may follow the head of a file of connections.
const CONNECTIONS: [&str; 2] = [
    "open 1a2b3c4d 10.0.0.1:40000 192.0.2.1:443 denied withdrawn 1=192.0.2.2:443 2=[2001:db8::2]:8443\n",
    "open 1 [2001:db8::1]:1 [2001:db8::2]:65535\nopen 2 10.0.0.1:1 192.0.2.1:80\nclosed 1\n",
];

/// What stands below the title and the scope.
const STATES: [&str; 3] = [
    "end\n",
    "own 10.0.0.1 1 2 3\nown fd00::1 255 6 0\nid 10.0.0.1 1\nid fd00::1 255\nlimits 2 0 4 2\n\
     sysctl path_manager kernel\nend\n",
    "sysctl pm_type 0\nend\nown ::ffff:10.0.0.7 7 2 4\ngone 7\nown 10.0.0.1 1 4 0\ngo",
];

const CONFIGURATIONS: [&[u8]; 4] = [
    b"[core]\nlog=journal\ndebug=true\naddr-flags=subflow,backup\nplugin-dir=/usr/lib/mptcpd\n\
      path-manager=addr_adv\nqueue=1000\nload-plugins=addr_adv,other\n# a\nnew=1\n",
    b"[core]\npath-manager = 'handover'\n\xff1[liveness]\nblackhole = false\n\xffhwarm = true\nreturn-after = '0ms'\n",
    b"core = { load-plugins = 'sspi, ndiffports' }\n\xff0[paths]\nmax-subflows = 3\n\xffnsubflows = 3\n",
    b"[[interface]]\nmatch = 'a[!b-]?*'\nkind = ['veth', 'physical']\nfamily = 'ipv6'\nuse = 'apart'\n\
      flags = []\nannounce = true\norder = -5\n\xffa[map]\n'::1' = '[fd00::1]:443'\n",
];

fn main() -> io::Result<()> {
    let directory = env::args_os().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let mut seeds = Seeds::default();
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../captures"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "hex") {
            seeds.capture(&fs::read_to_string(path)?);
        }
    }
    seeds.texts();
    seeds.write(Path::new(&directory))
}

/// The name of a target and what to give it.
#[derive(Default)]
struct Seeds(BTreeSet<(&'static str, Vec<u8>)>);

impl Seeds {
    fn add(&mut self, target: &'static str, mode: &[u8], seed: impl AsRef<[u8]>) {
        self.0.insert((target, [mode, seed.as_ref()].concat()));
    }

    /// Every datagram that came from the kernel goes to the targets that read its kind.
    fn capture(&mut self, text: &str) {
        for (hex, comment) in text.lines().filter_map(|line| line.split_once("  # ")) {
            let datagram: Vec<u8> =
                (0..hex.len()).step_by(2).map_while(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect();
            let Some(kind) = datagram.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]])) else { continue };
            match kind {
                _ if comment.starts_with("TX") => {}
                2 | 3 | 28 if !comment.starts_with('+') => self.add("replies", &[0], datagram),
                16..26 if comment.contains("genl") => self.add("replies", &[0], datagram),
                28 => self.add("events", &[0], datagram),
                20 if comment.starts_with("RX sock_diag") => {
                    self.add("sockets", &[0], &datagram);
                    self.add("sockets", &[2], datagram);
                }
                _ => self.add("network", &[0], datagram),
            }
        }
    }

    fn texts(&mut self) {
        let shipped = without_places(CONFIGURATION);
        // What is a comment there becomes a setting.
        let settings = shipped.lines().map(|line| line.strip_prefix("# ").filter(|line| is_toml(line)).unwrap_or(line));
        self.add("configuration", &[], settings.collect::<Vec<_>>().join("\n"));
        self.add("configuration", &[], shipped);
        for page in PAGES {
            for example in page.split("\n.EX\n").skip(1).filter_map(|rest| rest.split("\n.EE").next()) {
                self.add("configuration", &[], without_places(&example.replace("\\-", "-")));
            }
        }
        CONFIGURATIONS.iter().for_each(|text| self.add("configuration", &[], text));
        COMMAND_LINES.iter().for_each(|line| self.add("command_line", &[], line));
        STATES.iter().for_each(|text| self.add("state_file", &[0], text));
        CONNECTIONS.iter().for_each(|text| self.add("state_file", &[0], text));
        self.add("state_file", &[1], format!("mptcpd-state 1\nscope b0071d 4 4026531840\n{}", STATES[1]));
        self.add("requests", &[], [0; 64]);
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        for (number, (target, seed)) in self.0.iter().enumerate() {
            let folder = directory.join(target);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(format!("seed-{number:04}")), seed)?;
        }
        println!("{} seeds below {}", self.0.len(), directory.display());
        Ok(())
    }
}

fn is_toml(line: &str) -> bool {
    line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
}

fn without_places(template: &str) -> String {
    let places = [("@default_log@", "stderr"), ("@default_pm@", "addr_adv"), ("@sysconfdir@", "/etc")];
    places.iter().fold(template.to_owned(), |text, (place, value)| text.replace(place, value))
}
