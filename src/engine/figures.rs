//! How much there is of what the daemon manages, for a line that somebody may look at.

use std::fmt;

use super::Engine;

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Connections and their subflows, if those are managed.
    pub(crate) connections: Option<(usize, usize)>,
    pub(crate) usable: usize,
    /// In the kernel, whoever put them there.
    pub(crate) endpoints: usize,
}

impl Engine {
    /// Counts; takes a few nanoseconds for each connection.
    pub(crate) fn figures(&self) -> Figures {
        Figures {
            connections: self.manages_connections().then(|| self.paths.count()),
            usable: self.usable().len(),
            endpoints: self.endpoints.count(),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((connections, subflows)) = self.connections {
            write!(f, "connections: {connections}, subflows: {subflows}, ")?;
        }
        write!(f, "usable addresses: {}, endpoints: {}", self.usable, self.endpoints)
    }
}
