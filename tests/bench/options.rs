//! The command line.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use lexopt::prelude::*;

use crate::failure::Failure;
use crate::manager::Manager;
use crate::traffic::Traffic;

pub(crate) const HELP: &str = "\
Measures hand-overs of Multipath TCP connections between two uplinks, in network namespaces of its own.

Usage: cargo bench --bench handover -- [OPTION]...

What is measured:
  (nothing)            each failure with each traffic: how long the application stands still, and when the
                       uplink is used again
      --uploads N      N uploads of 3 s, each with a failure at a random time: how many complete
      --alarms SECONDS no failure at all: how many subflows are closed nevertheless, in various scenarios, for
                       so long altogether

How:
      --pm NAME        what manages the paths: none, kernel (endpoints, without a daemon), a path manager of
                       the daemon, or cmd:COMMAND, which is run by sh(1); more than once, for one each
                       [default: fullmesh, and kernel except with --alarms]
      --failures LIST  of link-down, carrier-lost, address-removed, blackhole, client-reset, server-reset
                       [default: all]
      --traffic LIST   of requests (1 kB every 10 ms, and the same as the answer), upload, download (as fast
                       as it goes) [default: all]
      --scenarios TEXT those whose names have that in them [default: all]
      --runs N         how often each failure is measured with each traffic [default: 3]
      --seed N         what random times are made of [default: 1]
      --at-once N      how many are measured at a time [default: 1 of failures, 4 of uploads and scenarios]
  -h, --help           prints this and ends
";

/// What is to be measured.
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) managers: Vec<Manager>,
    pub(crate) failures: Vec<Failure>,
    pub(crate) traffics: Vec<Traffic>,
    pub(crate) scenarios: String,
    pub(crate) runs: usize,
    pub(crate) seed: u64,
    at_once: Option<NonZeroUsize>,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Each failure with each traffic.
    Stalls,
    /// So many uploads.
    Uploads(u16),
    /// Scenarios without a failure, for so long.
    Alarms(Duration),
}

impl Options {
    /// Reads those of this process; `None` if only help is wanted.
    pub(crate) fn parse() -> Result<Option<Self>, String> {
        let mut options = Self::default();
        let mut names = Vec::new();
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next().map_err(text)? {
            match argument {
                Long("uploads") => options.mode = Mode::Uploads(number(&mut parser)?),
                Long("alarms") => options.mode = Mode::Alarms(Duration::from_secs(number(&mut parser)?)),
                Long("pm") => names.push(parser.value().map_err(text)?.string().map_err(text)?),
                Long("failures") => options.failures = list(&mut parser, &Failure::ALL.map(|it| (it.name(), it)))?,
                Long("traffic") => options.traffics = list(&mut parser, &Traffic::ALL.map(|it| (it.name(), it)))?,
                Long("scenarios") => options.scenarios = parser.value().map_err(text)?.string().map_err(text)?,
                Long("runs") => options.runs = number(&mut parser)?,
                Long("seed") => options.seed = number(&mut parser)?,
                Long("at-once") => options.at_once = Some(number(&mut parser)?),
                Short('h') | Long("help") => return Ok(None),
                // From cargo.
                Long("bench") => {}
                _ => return Err(text(argument.unexpected())),
            }
        }
        options.choose_managers(names)?;
        Ok(Some(options))
    }

    fn choose_managers(&mut self, mut names: Vec<String>) -> Result<(), String> {
        if names.is_empty() {
            let usual: &[&str] = if let Mode::Alarms(_) = self.mode { &["fullmesh"] } else { &["fullmesh", "kernel"] };
            names.extend(usual.iter().map(|name| (*name).to_owned()));
        }
        self.managers = names.iter().map(|name| Manager::parse(name)).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// How many are measured at a time.
    pub(crate) fn at_once(&self, usual: usize) -> usize {
        self.at_once.map_or(usual, NonZeroUsize::get)
    }
}

impl Default for Options {
    fn default() -> Self {
        let (failures, traffics) = (Failure::ALL.to_vec(), Traffic::ALL.to_vec());
        let (mode, managers, scenarios) = (Mode::Stalls, Vec::new(), String::new());
        Self { mode, managers, failures, traffics, scenarios, runs: 3, seed: 1, at_once: None }
    }
}

fn number<T: FromStr<Err: Display>>(parser: &mut lexopt::Parser) -> Result<T, String> {
    let value = parser.value().map_err(text)?.string().map_err(text)?;
    value.parse().map_err(|error| format!("{value}: {error}"))
}

fn text(error: lexopt::Error) -> String {
    error.to_string()
}

/// The value of an option: names with commas between.
fn list<T: Copy>(parser: &mut lexopt::Parser, known: &[(&str, T)]) -> Result<Vec<T>, String> {
    let value = parser.value().map_err(text)?.string().map_err(text)?;
    let one = |name: &str| {
        let found = known.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value).ok_or_else(|| format!("not known: {name}"))
    };
    value.split(',').map(one).collect()
}
