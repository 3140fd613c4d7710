//! What the kernel's events say of connections is applied to what is known of them.

use std::time::Instant;

use super::managed::Managed;
use super::{Paths, give_back};
use crate::event::{self, MptcpEvent};
use crate::rules::PathPolicy;
use crate::types::Token;

impl Paths {
    /// Applies what the kernel said of a connection.
    pub(in crate::engine) fn apply(&mut self, event: &MptcpEvent, policy: &PathPolicy, now: Instant) {
        match event {
            MptcpEvent::Created(told) => self.created(told, now),
            MptcpEvent::Established(told) => self.established(told, now),
            MptcpEvent::Closed(token) => self.forget(*token, now),
            MptcpEvent::Announced(told) => {
                let mut news = false;
                self.change(told.token, |managed| {
                    news = managed.connection.announced(told.remote_id, told.remote);
                    news
                });
                if news {
                    self.save(told.token, now);
                }
            }
            MptcpEvent::Removed(token, id) => {
                self.change(*token, |managed| {
                    managed.connection.withdrawn(*id);
                    true
                });
                self.save(*token, now);
            }
            MptcpEvent::SubflowEstablished(told) => {
                self.notice_binding(told);
                self.change(told.token, |managed| {
                    managed.subflow_established(told, now);
                    true
                });
            }
            MptcpEvent::SubflowClosed(told) => {
                self.notice_binding(told);
                self.change(told.token, |managed| {
                    managed.subflow_closed(told, policy, now);
                    true
                });
            }
            MptcpEvent::SubflowPriority(told) => self.change(told.token, |managed| {
                let mut flows = managed.connection.subflows.iter_mut();
                let flow = flows.find(|flow| flow.is(told.local, told.remote));
                flow.is_some_and(|flow| std::mem::replace(&mut flow.backup_by_peer, told.backup) != told.backup)
            }),
            MptcpEvent::ListenerCreated(_) | MptcpEvent::ListenerClosed(_) => {}
        }
    }

    fn created(&mut self, told: &event::Connection, now: Instant) {
        // It may have been read from the kernel before its event was.
        if let Some(managed) = self.live.get_mut(told.token).filter(|managed| managed.is(told)) {
            managed.learn(told);
            return self.save(told.token, now);
        }
        self.forget_listeners(told.token);
        if self.live.insert(told.token, Managed::new(told, now)).is_some() {
            // The token is another connection's now: what is said of the former does not matter any more.
            self.asked.retain(|(_, token, _)| *token != told.token);
            self.liveness.forget(told.token);
        }
        self.save(told.token, now);
    }

    fn established(&mut self, told: &event::Connection, now: Instant) {
        if !self.live.contains(told.token) {
            // What comes after CLOSED is of the connection that was closed.
            if self.closed.contains(told.token, now) {
                return;
            }
            self.created(told, now);
        }
        let mut news = false;
        self.change(told.token, |managed| {
            news = managed.learn(told);
            !std::mem::replace(&mut managed.connection.established, true) || news
        });
        if news {
            self.save(told.token, now);
        }
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, token: Token, now: Instant) {
        self.forget_listeners(token);
        // Also one that was not known: what opened it may have been told to an earlier run.
        self.closed.bury(token, now);
        let Some(managed) = self.live.get_mut(token) else { return };
        if managed.saved {
            self.saving.gone(token, now);
        }
        if self.live.remove(token).is_some() {
            self.asked.retain(|(_, asked, _)| *asked != token);
            self.unrouted.remove(&token);
            self.liveness.forget(token);
            self.give_back();
        }
    }

    /// What many connections needed room for is given back when few are left.
    fn give_back(&mut self) {
        self.tidy_timers();
        let most = 4 * self.live.len() + 256;
        for queue in [&mut self.dirty, &mut self.crowded, &mut self.sweep] {
            give_back(queue, most);
        }
        give_back(&mut self.asked, most);
    }

    /// The connection is about to be gone, and with it what it needed listeners for.
    fn forget_listeners(&mut self, token: Token) {
        if self.live.get_mut(token).is_some_and(|managed| managed.listens) {
            self.unannounced.push(token);
        }
    }
}
