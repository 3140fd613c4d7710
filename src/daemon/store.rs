//! Where the state file is, and reading and replacing it. A directory that is missing or not writable
//! costs what an earlier or later run knows, and is said once.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use slog::{Logger, debug, info};

use super::replace::Replaced;
use crate::state_file::{self, SavedState, Scope, Selected};
use crate::types::Errno;

/// Larger than any state file that the daemon writes.
const LARGEST: u64 = 256 * 1024;

/// The state file of this network namespace.
pub(super) struct Store {
    place: Option<Place>,
    told: bool,
    /// What the file tells.
    written: SavedState,
    /// Room for what is put at its end.
    lines: String,
    log: Logger,
}

struct Place {
    scope: Scope,
    file: Replaced,
}

impl Store {
    /// Finds the place: `$RUNTIME_DIRECTORY`, else the directory that was built in.
    pub(super) fn find(log: &Logger) -> Self {
        let log = log.clone();
        match place() {
            Ok(place) => {
                Self { place: Some(place), told: false, written: SavedState::default(), lines: String::new(), log }
            }
            Err(error) => {
                info!(log, "no state file: cannot tell boot and network namespace apart: {}", reason(&error));
                Self { place: None, told: true, written: SavedState::default(), lines: String::new(), log }
            }
        }
    }

    /// Tells another log from now on.
    pub(super) fn log_to(&mut self, log: &Logger) {
        self.log = log.clone();
    }

    /// What an earlier run in this boot and network namespace left.
    pub(super) fn load(&mut self) -> SavedState {
        self.written = self.read();
        self.written.clone()
    }

    fn read(&self) -> SavedState {
        let Some(place) = &self.place else { return SavedState::default() };
        match read(place.file.path()) {
            Ok(text) => state_file::decode(&place.scope, &text).unwrap_or_else(|error| {
                info!(self.log, "state file {} is ignored: {}", place.file.path().display(), error);
                SavedState::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => SavedState::default(),
            Err(error) => {
                info!(self.log, "state file {} is ignored: {}", place.file.path().display(), reason(&error));
                SavedState::default()
            }
        }
    }

    /// Makes it tell this value of the sysctl, and else what it told before.
    pub(super) fn remember(&mut self, selected: Option<&Selected>) {
        if self.written.selected.as_ref() != selected {
            let state = SavedState { selected: selected.cloned(), ..self.written.clone() };
            self.save(&state);
        }
    }

    /// Makes it tell this state.
    pub(super) fn save(&mut self, state: &SavedState) {
        let Some(place) = &mut self.place else { return };
        self.lines.clear();
        if self.written.follow(state, &mut self.lines) && place.file.append(self.lines.as_bytes()) {
            return;
        }
        self.written.clone_from(state);
        match place.file.replace(state_file::encode(&place.scope, state).as_bytes()) {
            Ok(()) => self.told = false,
            Err(error) if !self.told => {
                self.told = true;
                info!(
                    self.log,
                    "cannot write state file {}: {}; the next start will not know which endpoints are its own",
                    place.file.path().display(),
                    reason(&error)
                );
            }
            Err(error) => debug!(self.log, "cannot write state file: {}", error),
        }
    }
}

/// The system's words without its number, or ours.
fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno(number).to_string())
}

fn place() -> io::Result<Place> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let namespace = fs::metadata("/proc/thread-self/ns/net")?;
    let namespace = (namespace.dev(), namespace.ino());
    let file = Replaced::new(directory().join(format!("state-{}", namespace.1)));
    Ok(Place { scope: Scope { boot, namespace }, file })
}

fn directory() -> PathBuf {
    let given = std::env::var_os("RUNTIME_DIRECTORY").filter(|value| !value.is_empty());
    // A service manager may give several, separated by colons.
    let first = given.and_then(|value| std::env::split_paths(&value).next());
    first.unwrap_or_else(|| Path::new(env!("MPTCPD_RUNSTATEDIR")).join("mptcpd"))
}

fn read(path: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}
