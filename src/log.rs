//! Where the daemon's messages go. No destination may ever make the daemon wait or end it: what
//! cannot be taken at once is dropped and counted, and the count is told as soon as it can be.

mod gate;
#[cfg(feature = "journald")]
mod journal;
mod line;
mod stderr;
mod syslog;
mod writer;

use std::fmt::Display;
use std::io;
use std::panic::UnwindSafe;
use std::path::Path;

use slog::{Discard, Drain, Level, LevelFilter, Logger, SendSyncRefUnwindSafeDrain, o, warn};

use crate::types::{Errno, LogDestination};

/// A logger to this destination, or to stderr with a warning that says why.
///
/// Records below [`Level::Info`] are made only with `debug`.
pub(crate) fn logger(destination: LogDestination, debug: bool) -> Logger {
    match destination {
        LogDestination::Stderr => to_stderr(debug),
        LogDestination::Syslog => to_syslog(Path::new(syslog::PATH), debug),
        LogDestination::Journal => to_journal(debug),
        LogDestination::Null => Logger::root(Discard, o!()),
    }
}

fn to_stderr(debug: bool) -> Logger {
    root(gate::Gate::new(stderr::outlet(io::stderr())), debug)
}

fn to_syslog(path: &Path, debug: bool) -> Logger {
    match syslog::Syslog::open(path) {
        Ok(outlet) => root(gate::Gate::new(outlet), debug),
        Err(error) => instead(format_args!("cannot log to syslog at {}: {}", path.display(), reason(&error)), debug),
    }
}

#[cfg(feature = "journald")]
fn to_journal(debug: bool) -> Logger {
    let path = Path::new(journal::PATH);
    match journal::Journal::open(path, journal::drain()) {
        Ok(outlet) => root(gate::Gate::new(outlet), debug),
        Err(error) => {
            instead(format_args!("cannot log to the journal at {}: {}", path.display(), reason(&error)), debug)
        }
    }
}

#[cfg(not(feature = "journald"))]
fn to_journal(debug: bool) -> Logger {
    instead(format_args!("cannot log to the journal: built without the feature `journald`"), debug)
}

/// Stderr, and one line there that says why.
fn instead(why: impl Display, debug: bool) -> Logger {
    let log = to_stderr(debug);
    warn!(log, "{why}; logging to stderr");
    log
}

fn root<D>(drain: D, debug: bool) -> Logger
where
    D: SendSyncRefUnwindSafeDrain<Ok = (), Err = slog::Never> + UnwindSafe + 'static,
{
    let least = if debug { Level::Trace } else { Level::Info };
    Logger::root(LevelFilter::new(drain, least).fuse(), o!())
}

fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno(number).to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use slog::{OwnedKVList, Record, debug, info};

    use super::*;

    /// Remembers every record as a line.
    struct Lines(&'static Mutex<Vec<String>>);

    impl Drain for Lines {
        type Ok = ();
        type Err = slog::Never;

        fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
            let mut text = String::new();
            line::append(&mut text, record, values);
            self.0.lock().unwrap().push(text);
            Ok(())
        }
    }

    #[test]
    fn debug_records_exist_only_on_demand_in_every_build_profile() {
        static QUIET: Mutex<Vec<String>> = Mutex::new(Vec::new());
        static VERBOSE: Mutex<Vec<String>> = Mutex::new(Vec::new());
        for (lines, verbose) in [(&QUIET, false), (&VERBOSE, true)] {
            let log = root(Lines(lines), verbose);
            debug!(log, "one");
            info!(log, "two");
        }
        assert_eq!(*QUIET.lock().unwrap(), ["two"]);
        assert_eq!(*VERBOSE.lock().unwrap(), ["one", "two"]);
    }

    #[test]
    fn a_reason_is_the_systems_text_in_lower_case() {
        assert_eq!(reason(&io::Error::from_raw_os_error(2)), "no such file or directory");
        assert_eq!(reason(&io::Error::other("odd")), "odd");
    }
}
