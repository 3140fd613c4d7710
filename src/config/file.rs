//! Files and directories of the configuration, checked on the opened descriptor before they are read.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::ConfigError;
use crate::names;
use crate::settings::Source;

/// Bytes of a file at most.
const MAX: u64 = 1 << 20;

/// A directory that only root and the daemon's own user can change.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    /// Sorted, hidden ones left out.
    names: Vec<OsString>,
}

/// What is there instead of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Absent,
    /// Something else.
    NoDirectory,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "no such directory",
            Self::NoDirectory => "not a directory",
        })
    }
}

/// Reads a file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Arc<Source>>, ConfigError> {
    read_at(CWD, path.as_os_str(), path)
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Result<Self, Missing>, ConfigError> {
        let fd = match rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Err(Missing::Absent)),
            Err(Errno::NOTDIR) => return Ok(Err(Missing::NoDirectory)),
            Err(error) => return Err(cannot("open", path, error)),
        };
        check(&rustix::fs::fstat(&fd).map_err(|error| cannot("examine", path, error))?, path)?;
        let entries = Dir::read_from(&fd).map_err(|error| cannot("read", path, error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| cannot("read", path, error))?;
            let name = entry.file_name().to_bytes();
            if !name.starts_with(b".") {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        names.sort_unstable();
        Ok(Ok(Self { fd, path: path.to_owned(), names }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The names that end in `.extension`, sorted.
    pub(super) fn files(&self, extension: &str) -> impl Iterator<Item = &OsStr> {
        self.names
            .iter()
            .map(OsString::as_os_str)
            .filter(move |name| Path::new(name).extension().is_some_and(|found| found == extension))
    }

    /// Reads one of its files; `None` if it is gone.
    pub(super) fn read(&self, name: &OsStr) -> Result<Option<Arc<Source>>, ConfigError> {
        read_at(&self.fd, name, &self.path.join(name))
    }
}

/// Reads the file `name` under a directory; `path` is what to call it.
fn read_at(directory: impl AsFd, name: &OsStr, path: &Path) -> Result<Option<Arc<Source>>, ConfigError> {
    // Without O_NONBLOCK a FIFO would block until somebody writes to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        // What has no reader or driver is no regular file either.
        Err(Errno::NXIO | Errno::NODEV) => return Err(not_regular(path)),
        Err(error) => return Err(cannot("open", path, error)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|error| cannot("examine", path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_regular(path));
    }
    check(&stat, path)?;
    let mut bytes = Vec::new();
    File::from(fd).take(MAX + 1).read_to_end(&mut bytes).map_err(|error| cannot("read", path, error))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX {
        return Err(refused(path, &format!("larger than {MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(path, &error))?;
    Ok(Some(Arc::new(Source { path: path.to_owned(), text })))
}

/// Refuses what somebody other than root and the daemon's own user can change.
fn check(stat: &Stat, path: &Path) -> Result<(), ConfigError> {
    match insecure(stat, rustix::process::geteuid().as_raw()) {
        Some((reason, remedy)) => Err(refused(path, &format!("{reason}: {remedy} {}", names::shown(path)))),
        None => Ok(()),
    }
}

/// Why a file is not to be trusted, and the command that mends it.
fn insecure(stat: &Stat, own_user: u32) -> Option<(String, &'static str)> {
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.contains(Mode::WOTH) {
        return Some(("it is writable by others".to_owned(), "chmod o-w"));
    }
    if mode.contains(Mode::WGRP) && stat.st_gid != 0 {
        return Some((format!("it is writable by the group {}, which is not root's", stat.st_gid), "chmod g-w"));
    }
    if stat.st_uid != 0 && stat.st_uid != own_user {
        let reason = format!("it is owned by the user {}, neither root nor the daemon's own ({own_user})", stat.st_uid);
        return Some((reason, "chown root"));
    }
    None
}

fn refused(path: &Path, reason: &str) -> ConfigError {
    ConfigError::file(format!("{}: refused, {reason}", names::shown(path)))
}

fn not_regular(path: &Path) -> ConfigError {
    refused(path, "it is not a regular file")
}

fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> ConfigError {
    let offset = error.utf8_error().valid_up_to();
    let before = error.as_bytes().get(..offset).unwrap_or_default();
    let before = String::from_utf8_lossy(before);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let byte = error.as_bytes().get(offset).copied().unwrap_or_default();
    let name = names::shown(path);
    ConfigError::file(format!("{name}:{line}:{column}: not UTF-8: byte {byte:#04x} at offset {offset}"))
}

fn cannot(what: &str, path: &Path, error: impl Into<std::io::Error>) -> ConfigError {
    let error = error.into();
    let reason = match error.raw_os_error() {
        Some(number) => crate::types::Errno(number).to_string(),
        None => error.to_string(),
    };
    ConfigError::file(format!("{}: cannot {what} it: {reason}", names::shown(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(mode: u32, user: u32, group: u32) -> Stat {
        let mut stat = rustix::fs::stat("/").unwrap();
        (stat.st_mode, stat.st_uid, stat.st_gid) = (mode, user, group);
        stat
    }

    #[test]
    fn only_root_and_the_daemons_own_user_and_the_group_of_root_may_write() {
        let remedy = |mode, user, group| insecure(&stat(mode, user, group), 7).map(|(_, remedy)| remedy);
        assert_eq!(remedy(0o100_644, 0, 0), None);
        assert_eq!(remedy(0o100_664, 7, 0), None);
        assert_eq!(remedy(0o100_644, 7, 9), None);
        assert_eq!(remedy(0o100_646, 0, 0), Some("chmod o-w"));
        assert_eq!(remedy(0o100_664, 0, 9), Some("chmod g-w"));
        assert_eq!(remedy(0o100_644, 8, 0), Some("chown root"));
        let (reason, _) = insecure(&stat(0o100_644, 8, 0), 7).unwrap();
        assert_eq!(reason, "it is owned by the user 8, neither root nor the daemon's own (7)");
    }
}
