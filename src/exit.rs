//! How the process ends: its exit codes, and the one line that goes with each.

use std::fmt;
use std::process::ExitCode;

/// Exit codes, as the man page lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Anything that is none of the others.
    Failure = 1,
    /// The command line is wrong (EX_USAGE).
    Usage = 64,
    /// The kernel lacks Multipath TCP, or it is off (EX_UNAVAILABLE).
    Unavailable = 69,
    /// A permission is lacking (EX_NOPERM).
    Permission = 77,
    /// The configuration is wrong (EX_CONFIG).
    Configuration = 78,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why the daemon cannot start or go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fatal {
    pub(crate) code: Code,
    /// One line: object, value, cause, remedy.
    pub(crate) message: String,
}

impl Fatal {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
