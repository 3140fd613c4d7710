//! The command line.

use std::num::NonZeroUsize;

use lexopt::prelude::*;

use crate::failure::Failure;
use crate::manager::Manager;
use crate::traffic::Traffic;

pub(crate) const HELP: &str = "\
Measures hand-overs of Multipath TCP connections between two uplinks, in network namespaces of its own.

Usage: cargo bench --bench handover -- [OPTION]...

      --pm NAME        what manages the paths: none, kernel (endpoints, without a daemon), a path manager of
                       the daemon, or cmd:COMMAND, which is run by sh(1); more than once, for one each
                       [default: fullmesh, kernel]
      --failures LIST  of link-down, carrier-lost, address-removed, blackhole, client-reset, server-reset
                       [default: all]
      --traffic LIST   of requests (1 kB every 10 ms, and the same as the answer), upload, download (as fast
                       as it goes) [default: all]
      --runs N         how often each is measured [default: 3]
      --at-once N      how many are measured at a time [default: 1]
  -h, --help           prints this and ends
";

/// What is to be measured.
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) managers: Vec<Manager>,
    pub(crate) failures: Vec<Failure>,
    pub(crate) traffics: Vec<Traffic>,
    pub(crate) runs: usize,
    pub(crate) at_once: NonZeroUsize,
}

/// What is done.
pub(crate) enum Mode {
    /// Each failure with each traffic.
    Stalls,
}

impl Options {
    /// Reads those of this process; `None` if only help is wanted.
    pub(crate) fn parse() -> Result<Option<Self>, String> {
        let mut names: Vec<String> = Vec::new();
        let (failures, traffics) = (Failure::ALL.to_vec(), Traffic::ALL.to_vec());
        let at_once = NonZeroUsize::MIN;
        let mut options = Self { mode: Mode::Stalls, managers: Vec::new(), failures, traffics, runs: 3, at_once };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next().map_err(text)? {
            match argument {
                Long("pm") => names.push(parser.value().map_err(text)?.string().map_err(text)?),
                Long("failures") => options.failures = list(&mut parser, &Failure::ALL.map(|it| (it.name(), it)))?,
                Long("traffic") => options.traffics = list(&mut parser, &Traffic::ALL.map(|it| (it.name(), it)))?,
                Long("runs") => options.runs = parser.value().map_err(text)?.parse().map_err(text)?,
                Long("at-once") => options.at_once = parser.value().map_err(text)?.parse().map_err(text)?,
                Short('h') | Long("help") => return Ok(None),
                // From cargo.
                Long("bench") => {}
                _ => return Err(text(argument.unexpected())),
            }
        }
        if names.is_empty() {
            names = ["fullmesh", "kernel"].map(str::to_owned).to_vec();
        }
        options.managers = names.iter().map(|name| Manager::parse(name)).collect::<Result<_, _>>()?;
        Ok(Some(options))
    }
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
