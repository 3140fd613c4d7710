//! Where the state files are, and reading and replacing them. A directory that is missing or not writable
//! costs what an earlier or later run knows, and is said once.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use slog::{Logger, debug, info};

use super::replace::Replaced;
use crate::connections::Table;
use crate::engine::Engine;
use crate::state_file::{self, SavedConnection, SavedState, Scope, Selected, StateError};
use crate::types::Errno;

/// Larger than any state file that the daemon writes.
const LARGEST: u64 = 256 * 1024;
/// The same of connections; beyond that, they are not written,
const LARGEST_OF_CONNECTIONS: u64 = 16 << 20;
/// but for what is put at the end, which may be as much again.
const LONGEST_OF_CONNECTIONS: u64 = 2 * LARGEST_OF_CONNECTIONS + 4096;

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
    connections: Replaced,
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

    /// The boot and the network namespace, if they are known.
    pub(super) fn scope(&self) -> Option<&Scope> {
        self.place.as_ref().map(|place| &place.scope)
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
        let text = read(place.file.path(), LARGEST);
        self.decoded(place.file.path(), text, |text| state_file::decode(&place.scope, text))
    }

    /// What an earlier run knew of connections.
    pub(super) fn load_connections(&self) -> Table<SavedConnection> {
        let Some(place) = &self.place else { return Table::default() };
        let text = read(place.connections.path(), LONGEST_OF_CONNECTIONS);
        self.decoded(place.connections.path(), text, |text| state_file::decode_connections(&place.scope, text))
    }

    /// What a file says; nothing if it is not there or of no use.
    fn decoded<T: Default>(
        &self,
        path: &Path,
        text: io::Result<String>,
        decode: impl FnOnce(&str) -> Result<T, StateError>,
    ) -> T {
        let why = match text {
            Ok(text) => match decode(&text) {
                Ok(state) => return state,
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return T::default(),
            Err(error) => reason(&error),
        };
        info!(self.log, "state file {} is ignored: {}", path.display(), why);
        T::default()
    }

    /// Writes what changed of connections.
    pub(super) fn save_connections(&mut self, engine: &mut Engine, now: Instant) {
        // Not kept: it is long, and seldom needed.
        let mut lines = String::new();
        engine.write_changes(&mut lines);
        let Some(place) = &mut self.place else { return };
        if place.connections.append(lines.as_bytes()) {
            return;
        }
        lines.clear();
        state_file::encode_title(&place.scope, &mut lines);
        engine.write_connections(&mut lines);
        // What is left out is unknown to the next run, like what it cannot read.
        let most = usize::try_from(LARGEST_OF_CONNECTIONS).unwrap_or(usize::MAX);
        let end = lines.as_bytes().get(..most).and_then(|fits| fits.iter().rposition(|byte| *byte == b'\n'));
        lines.truncate(end.map_or(lines.len(), |end| end + 1));
        if let Err(error) = place.connections.replace(lines.as_bytes()) {
            // What there is of it takes room from others.
            place.connections.give_up();
            engine.save_connections_later(now);
            debug!(self.log, "cannot write state file: {}", error);
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
pub(super) fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno(number).to_string())
}

fn place() -> io::Result<Place> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let namespace = fs::metadata("/proc/thread-self/ns/net")?;
    let namespace = (namespace.dev(), namespace.ino());
    let [file, connections] =
        ["state", "connections"].map(|name| Replaced::new(directory().join(format!("{name}-{}", namespace.1))));
    Ok(Place { scope: Scope { boot, namespace }, file, connections })
}

/// The one that the service manager gives.
pub(super) fn runtime_directory() -> Option<PathBuf> {
    let given = std::env::var_os("RUNTIME_DIRECTORY").filter(|value| !value.is_empty());
    // It may give several, separated by colons.
    given.and_then(|value| std::env::split_paths(&value).next())
}

fn directory() -> PathBuf {
    runtime_directory().unwrap_or_else(|| Path::new(env!("MPTCPD_RUNSTATEDIR")).join("mptcpd"))
}

fn read(path: &Path, most: u64) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(most).read_to_string(&mut text)?;
    Ok(text)
}
