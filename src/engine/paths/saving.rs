//! What only events tell of a connection outlives the process: it is handed out to be written, seldom, and
//! only of connections that live longer than a moment.
//!
//! Of a connection that this host accepted the kernel tells enough.

use std::time::{Duration, Instant};

use super::Paths;
use super::managed::Managed;
use crate::connections::MOST_REMOTES;
use crate::state_file::{self, SavedConnection};
use crate::types::Token;

/// From the first change to its being written: until then, others join it, and many a connection ends.
const DELAY: Duration = Duration::from_secs(1);
/// What could not be written is tried again after that.
const RETRY: Duration = Duration::from_secs(10);
/// So many connections are written before the loop turns.
const SLICE: usize = 1024;

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Saving {
    /// Connections, each once.
    changed: Vec<Token>,
    /// Connections that were written and are gone.
    gone: Vec<Token>,
    due: Option<Instant>,
}

impl Saving {
    pub(super) fn gone(&mut self, token: Token, now: Instant) {
        self.gone.push(token);
        self.due.get_or_insert(now + DELAY);
    }

    pub(super) fn hurry(&mut self, now: Instant) {
        if self.due.is_some() {
            self.due = Some(now);
        }
    }
}

impl Paths {
    /// What is known of a connection has changed in a way that must outlive the process.
    pub(super) fn save(&mut self, token: Token, now: Instant) {
        let matters =
            |managed: &&mut Managed| !managed.connection.server_side && !managed.left_alone && !managed.unsaved;
        let Some(managed) = self.live.get_mut(token).filter(matters) else { return };
        managed.unsaved = true;
        self.saving.changed.push(token);
        self.saving.due.get_or_insert(now + DELAY);
    }

    /// There may be no other chance.
    pub(in crate::engine) fn save_at_once(&mut self, now: Instant) {
        self.saving.hurry(now);
    }

    /// It could not be written: everything is, later.
    pub(in crate::engine) fn save_later(&mut self, now: Instant) {
        self.saving.due = Some(now + RETRY);
    }

    /// When something is to be written.
    pub(in crate::engine) fn saving_deadline(&self) -> Option<Instant> {
        self.saving.due
    }

    /// Whether something is to be written now.
    pub(in crate::engine) fn is_unsaved(&self, now: Instant) -> bool {
        self.saving.due.is_some_and(|due| due <= now)
    }

    /// Writes the changes since the last call, or as many as may be written at once.
    pub(in crate::engine) fn write_changes(&mut self, lines: &mut String) {
        // All of them, before any that may have the token of one by now.
        for token in std::mem::take(&mut self.saving.gone) {
            state_file::encode_closed(token, lines);
        }
        let left = self.saving.changed.len().saturating_sub(SLICE);
        for token in self.saving.changed.split_off(left) {
            if let Some(managed) = self.live.get_mut(token) {
                managed.write(token, lines);
            }
        }
        if self.saving.changed.is_empty() {
            self.saving = Saving::default();
        }
    }

    /// Writes everything.
    pub(in crate::engine) fn write_all(&mut self, lines: &mut String) {
        self.saving = Saving::default();
        self.adoption.pending().for_each(|saved| state_file::encode_connection(saved, lines));
        for (token, managed) in self.live.iter_mut() {
            managed.write(token, lines);
        }
    }
}

impl Managed {
    fn write(&mut self, token: Token, lines: &mut String) {
        self.unsaved = false;
        self.saved = !self.connection.server_side && !self.left_alone;
        if self.saved {
            let connection = &self.connection;
            let saved = SavedConnection {
                token,
                local: connection.local.plain(),
                remote: connection.remote.plain(),
                deny_join_id0: connection.deny_join_id0,
                initial_withdrawn: connection.initial_withdrawn,
                remotes: connection.remotes.clone(),
            };
            state_file::encode_connection(&saved, lines);
        }
    }

    /// Takes over what was written.
    pub(super) fn recall(&mut self, saved: SavedConnection) {
        let connection = &mut self.connection;
        (self.role_in_doubt, self.denial_in_doubt) = (false, false);
        connection.server_side = false;
        connection.deny_join_id0 = saved.deny_join_id0;
        connection.initial_withdrawn = saved.initial_withdrawn;
        for (id, remote) in saved.remotes.into_iter().take(MOST_REMOTES) {
            connection.announced(id, remote);
        }
        self.saved = true;
    }
}
