//! SIGUSR1: the whole state goes to a file in the runtime directory, or to the log where there is none,
//! a slice in each turn of the loop.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use slog::{Logger, error, info};

use super::Daemon;
use super::replace::Replaced;
use super::store::{reason, runtime_directory};
use crate::engine::{Bounds, FORMAT, Report};
use crate::json::Line;

/// In the runtime directory.
const NAME: &str = "state.json";
/// A file may be of so much.
const FILE: Bounds = Bounds { lines: 40_000, bytes: 8 << 20 };
/// The log takes less, and other things too.
const LOG: Bounds = Bounds { lines: 200, bytes: 64 << 10 };
/// What is made and written in a turn: a millisecond or so. The log's reader needs time to read.
const SLICE: usize = 32 << 10;
const SLICE_OF_LOG: usize = 4 << 10;

/// What is written, if anything is.
#[derive(Default)]
pub(super) struct Dump {
    writing: Option<Writing>,
    /// It was asked for again meanwhile.
    again: bool,
}

struct Writing {
    report: Report,
    to: Destination,
    slice: String,
}

enum Destination {
    Log,
    File(Replaced, File),
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Destination::File(replaced, _) = &self.to {
            replaced.give_up();
        }
    }
}

impl Dump {
    pub(super) fn is_under_way(&self) -> bool {
        self.writing.is_some()
    }
}

impl Daemon {
    /// Begins to write the state; while it is being written, it will be once more.
    pub(super) fn begin_dump(&mut self) {
        if self.dump.is_under_way() {
            self.dump.again = true;
            return;
        }
        let (to, bounds) = match runtime_directory().map(open) {
            Some(Ok(file)) => (file, FILE),
            Some(Err(error)) => return cannot_write(&self.log, &error),
            None => (Destination::Log, LOG),
        };
        let mut slice = String::new();
        self.introduce(&mut slice);
        self.dump.writing = Some(Writing { report: self.engine.begin_report(bounds), to, slice });
    }

    /// The first line.
    fn introduce(&self, out: &mut String) {
        let mut line = Line::new(out, "daemon");
        line.number("format", FORMAT).text("version", env!("CARGO_PKG_VERSION")).number("pid", std::process::id());
        if let Some(scope) = self.store.scope() {
            line.text("boot_id", &scope.boot).number("netns", scope.namespace.1);
        }
        line.millis("time_ms", SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        line.text("path_manager", self.path_manager);
        line.text("manages", if self.engine.manages_connections() { "connections" } else { "endpoints" });
    }

    /// Writes the next slice, if there is one to write.
    pub(super) fn continue_dump(&mut self, now: Instant) {
        let Some(writing) = self.dump.writing.take() else { return };
        match self.write_slice(writing, now) {
            Ok(left) => self.dump.writing = left,
            Err(error) => cannot_write(&self.log, &error),
        }
        if !self.dump.is_under_way() && std::mem::take(&mut self.dump.again) {
            self.begin_dump();
        }
    }

    /// Says what is left to be written.
    fn write_slice(&self, mut writing: Writing, now: Instant) -> io::Result<Option<Writing>> {
        let most = if matches!(writing.to, Destination::Log) { SLICE_OF_LOG } else { SLICE };
        let more = self.engine.report(&mut writing.report, (&mut writing.slice, most), now);
        writing.put(&self.log)?;
        if more {
            return Ok(Some(writing));
        }
        writing.finish(&self.log)?;
        Ok(None)
    }
}

impl Writing {
    fn put(&mut self, log: &Logger) -> io::Result<()> {
        match &mut self.to {
            Destination::Log => self.slice.lines().for_each(|line| info!(log, "{}", line)),
            Destination::File(_, file) => file.write_all(self.slice.as_bytes())?,
        }
        self.slice.clear();
        Ok(())
    }

    fn finish(&self, log: &Logger) -> io::Result<()> {
        if let Destination::File(replaced, _) = &self.to {
            replaced.take_place()?;
            info!(log, "state written to {}", replaced.path().display());
        }
        Ok(())
    }
}

fn open(directory: PathBuf) -> io::Result<Destination> {
    let replaced = Replaced::new(directory.join(NAME));
    let file = replaced.create()?;
    Ok(Destination::File(replaced, file))
}

fn cannot_write(log: &Logger, error: &io::Error) {
    error!(log, "cannot write {} in the runtime directory: {}", NAME, reason(error));
}
