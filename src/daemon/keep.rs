//! What the service manager keeps for the next daemon while there is none: the socket of events, as long as
//! connections are managed, and every listener.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use slog::{debug, info};

use super::Daemon;
use super::handed::Names;
use super::notify::Notifier;

/// What it keeps.
pub(super) struct Keeper {
    /// `None` where network namespaces cannot be told apart: nothing is kept then.
    names: Option<Names>,
    events: bool,
}

impl Keeper {
    pub(super) fn new() -> Self {
        Self { names: Names::find(), events: false }
    }

    pub(super) fn keep_listener(&self, address: SocketAddr, socket: BorrowedFd<'_>, notifier: &mut Notifier) {
        if let Some(names) = self.names {
            notifier.keep(&names.listener(address), socket);
        }
    }

    pub(super) fn give_up_listener(&self, address: SocketAddr, notifier: &mut Notifier) {
        if let Some(names) = self.names {
            notifier.give_up(&names.listener(address));
        }
    }

    /// The socket of events is to be kept or not.
    fn keep_events(&mut self, needed: bool, socket: BorrowedFd<'_>, notifier: &mut Notifier) {
        let Some(names) = self.names.filter(|_| self.events != needed) else { return };
        self.events = needed;
        match needed {
            true => notifier.keep(&names.events(), socket),
            false => notifier.give_up(&names.events()),
        }
    }
}

impl Daemon {
    /// Tells what came of an earlier run's descriptors, and lets go of what is of no use.
    pub(super) fn look_at_handed(&mut self) {
        let handed = std::mem::take(&mut self.sockets.handed);
        if handed.strange > 0 {
            info!(
                self.log,
                "ignored what the service manager handed over and is not of use here: {} descriptors", handed.strange
            );
        }
        for name in &handed.useless {
            self.notifier.give_up(name);
        }
        let given_up = |names: Names| handed.useless.contains(&names.events());
        self.keeper.events = self.sockets.events_kept && !self.keeper.names.is_some_and(given_up);
        if self.sockets.events_kept || !handed.listeners.is_empty() {
            let listeners = handed.listeners.len();
            debug!(self.log, "taken back from the service manager"; "events" => self.sockets.events_kept, "listeners" => listeners);
        }
        self.listeners.take_back(handed.listeners);
    }

    /// It is another socket now.
    pub(super) fn keep_events_anew(&mut self) {
        let Self { keeper, sockets, notifier, .. } = self;
        keeper.keep_events(false, sockets.events.as_fd(), notifier);
        self.keep_events();
    }

    /// The socket of events is kept while connections are managed.
    pub(super) fn keep_events(&mut self) {
        let needed = self.engine.manages_connections();
        self.keeper.keep_events(needed, self.sockets.events.as_fd(), &mut self.notifier);
    }
}
