//! One daemon after the other on the same runtime directory: killed, stopped, suspended, reconfigured, and
//! heard, as each may only say so much.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use std::{env, fs, io::Write as _, thread};

use rustix::process::Signal;

use super::super::common::daemon::{Daemon, Installation, is_debug};
use super::super::common::net::Namespace;
use super::super::installed;
use super::random::Random;

/// Path managers that take turns.
const MANAGERS: [&str; 6] = ["fullmesh", "fullmesh", "sspi", "handover", "ndiffports", "addr_adv"];
/// So many of the last lines are shown when something is wrong.
const REMEMBERED: usize = 4000;
/// A warning that is right: while the daemon is suspended, more may happen than the kernel keeps for it.
const OVERRUN: &str = "some of the kernel's messages were lost";
/// What else may be said above info: mistakes that this test makes, that it does not read debug lines in time, and
/// that the kernel has less room for endpoints while it has an implicit one of its own.
const EXPECTED: [&str; 3] = ["configuration not changed: ", "log records were lost", "the kernel takes 7 endpoints, 8"];

/// The daemon that there is now, and what all of them have said.
pub(super) struct Reign {
    installation: Installation,
    pub(super) daemon: Daemon,
    /// Which path manager is configured.
    manager: &'static str,
    complaints: Vec<String>,
    last: VecDeque<String>,
    log: Option<fs::File>,
    /// Something happened of which a daemon does not know everything afterwards, but what was written down.
    doubt: Option<BTreeSet<u32>>,
    pub(super) kills: u32,
    pub(super) overruns: u32,
}

impl Reign {
    /// The first of them.
    pub(super) fn begin(namespace: &Namespace) -> Self {
        let installation = installed(namespace);
        installation.configure(&configuration("fullmesh"));
        let daemon = installation.start(&[]);
        let log = env::var_os("MPTCPD_CHAOS_LOG").map(|path| fs::File::create(path).expect("a file to write to"));
        let (complaints, last) = (Vec::new(), VecDeque::new());
        let (manager, doubt, kills, overruns) = ("fullmesh", None, 0, 0);
        Self { installation, daemon, manager, complaints, last, log, doubt, kills, overruns }
    }

    /// Waits until so many connections would be known to another daemon.
    pub(super) fn wait_until_written(&mut self, connections: usize) {
        let installation = &self.installation;
        self.daemon.eventually("the connections are written down", || written(installation).len() >= connections);
    }

    /// Hears what was said.
    pub(super) fn listen(&mut self) {
        assert!(self.daemon.listen(Duration::from_millis(1)), "the daemon ended by itself");
        self.daemon.notifications();
        self.take();
    }

    fn take(&mut self) {
        for line in self.daemon.take_said() {
            if let Some(log) = &mut self.log {
                writeln!(log, "{line}").expect("a file to write to");
            }
            if line.contains(OVERRUN) {
                self.overruns += 1;
                self.doubt();
            } else if is_complaint(&line) {
                self.complaints.push(line.clone());
            }
            self.last.push_back(line);
        }
        self.last.drain(..self.last.len().saturating_sub(REMEMBERED));
    }

    /// What was said that should not have been.
    pub(super) fn complaints(&mut self) -> &[String] {
        self.take();
        &self.complaints
    }

    /// Which connections are known for sure, if there is doubt since the last call.
    pub(super) fn take_doubt(&mut self) -> Option<BTreeSet<u32>> {
        self.doubt.take()
    }

    fn doubt(&mut self) {
        let known = written(&self.installation);
        self.doubt = Some(match self.doubt.take() {
            Some(before) => before.intersection(&known).copied().collect(),
            None => known,
        });
    }

    /// Ends the daemon, does something while there is none, and starts another.
    pub(super) fn replace(&mut self, random: &mut Random, meanwhile: impl FnOnce(&mut Random)) {
        self.note("chaos: the daemon is replaced");
        let kill = random.number(0..3) > 0;
        self.daemon.signal(if kill { Signal::KILL } else { Signal::TERM });
        while self.daemon.listen(Duration::from_secs(1)) {}
        self.take();
        self.doubt();
        meanwhile(random);
        self.kills += 1;
        self.daemon = self.installation.start(&[]);
    }

    /// Suspends it and does something meanwhile.
    pub(super) fn suspend(&mut self, random: &mut Random, mut meanwhile: impl FnMut(&mut Random)) {
        self.daemon.suspend();
        for _ in 0..random.number(0..8) {
            meanwhile(random);
            thread::sleep(random.time(0..120));
        }
        self.daemon.resume();
    }

    /// Has another path manager, a configuration that is wrong or the same once more.
    pub(super) fn reload(&mut self, random: &mut Random) {
        match random.number(0..4) {
            0 => self.refuse(random),
            1 => self.daemon.signal(Signal::HUP),
            _ => self.choose(random.one(&MANAGERS)),
        }
    }

    /// A configuration with a mistake, after which there is a right one again; it may see either.
    fn refuse(&mut self, random: &mut Random) {
        self.installation.configure("[core]\npath-manger = \"sspi\"\n");
        self.daemon.signal(Signal::HUP);
        thread::sleep(random.time(0..60));
        self.installation.configure(&configuration(self.manager));
    }

    /// Another path manager.
    pub(super) fn choose(&mut self, manager: &'static str) {
        self.note(&format!("chaos: {manager}"));
        self.manager = manager;
        if manager == "addr_adv" {
            self.doubt();
        }
        self.installation.configure(&configuration(manager));
        self.daemon.signal(Signal::HUP);
    }

    /// Writes into the log, so that it tells what was done.
    pub(super) fn note(&mut self, what: &str) {
        self.take();
        self.last.push_back(what.to_owned());
        if let Some(log) = &mut self.log {
            writeln!(log, "{what}").expect("a file to write to");
        }
    }

    /// Ends it as an administrator does; returns what the next one has that has seen nothing.
    pub(super) fn fresh(mut self) -> (u64, Vec<String>) {
        self.daemon.signal(Signal::TERM);
        while self.daemon.listen(Duration::from_secs(1)) {}
        self.take();
        self.daemon = self.installation.start(&[]);
        let figures = (self.daemon.private_memory(), descriptors(&self.daemon));
        self.daemon.signal(Signal::TERM);
        figures
    }
}

impl Drop for Reign {
    fn drop(&mut self) {
        if thread::panicking() {
            self.take();
            eprintln!("--- the daemons said at last ---");
            self.last.iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// The tokens of the connections that are written down.
fn written(installation: &Installation) -> BTreeSet<u32> {
    let text = fs::read_to_string(installation.state_file("connections")).unwrap_or_default();
    let mut tokens = BTreeSet::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (kind, token) = (words.next(), words.next().and_then(|token| u32::from_str_radix(token, 16).ok()));
        match (kind, token) {
            (Some("open"), Some(token)) => drop(tokens.insert(token)),
            (Some("closed"), Some(token)) => drop(tokens.remove(&token)),
            _ => {}
        }
    }
    tokens
}

/// What it has open.
pub(super) fn descriptors(daemon: &Daemon) -> Vec<String> {
    let all = fs::read_dir(format!("/run/proc/{}/fd", daemon.pid())).expect("a process of the sandbox");
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).map(|path| path.to_string_lossy().into_owned());
    all.map(|entry| target(entry.expect("a descriptor")).unwrap_or_default()).collect()
}

fn is_complaint(line: &str) -> bool {
    let info = line.split(' ').take(4).any(|word| word == "INFO");
    !info && !is_debug(line) && !EXPECTED.iter().any(|expected| line.contains(expected))
}

/// An interface that is called by its other name is a backup.
fn configuration(manager: &str) -> String {
    format!("[core]\npath-manager = \"{manager}\"\n[[interface]]\nmatch = \"w*\"\nbackup = true\n")
}
