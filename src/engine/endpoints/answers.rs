//! What the kernel made of commands: done, or refused and to be tried again.

use std::time::Instant;

use super::{Endpoints, FIRST_RETRY, FORGET_AFTER, Held, LONGEST_RETRY, Refused, Subject, same};
use crate::command::PmCommand;
use crate::engine::retry::Backoff;
use crate::engine::{Note, Outbox};
use crate::event::{Endpoint, Limits};
use crate::state_file::ChangedLimits;
use crate::types::{AddressId, Errno};
use crate::wire::Refusal;

/// Linux 6.1 says the same of both (net/mptcp/pm_netlink.c, `mptcp_pm_nl_append_new_local_addr`): the next look
/// tells which it was.
const FULL_OR_DUPLICATE: &str = "too many addresses or duplicate one";

impl Endpoints {
    pub(super) fn done(&mut self, command: &PmCommand, outbox: &mut Outbox, now: Instant) {
        match command {
            PmCommand::AddEndpoint(endpoint) => self.added(*endpoint, now),
            PmCommand::RemoveEndpoint(id) => self.removed(*id, now),
            PmCommand::SetFlags(changed) => {
                self.pardon(Subject::Endpoint(changed.address));
                for held in self.held.iter_mut().filter(|held| same(&held.endpoint, changed)) {
                    held.endpoint.flags = changed.flags;
                }
            }
            PmCommand::SetLimits(limits) => {
                self.pardon(Subject::Limits);
                self.limits_set(*limits);
                outbox.debug(|| Note::LimitsSet(*limits));
                self.save_soon(now);
            }
            // Another's has that id now.
            PmCommand::GetEndpoint(id) if !self.is_seen(*id, now) => self.look_soon(now),
            PmCommand::GetEndpoint(_) | PmCommand::DumpEndpoints | PmCommand::FlushEndpoints | PmCommand::GetLimits => {
            }
        }
    }

    fn added(&mut self, endpoint: Endpoint, now: Instant) {
        self.pardon(Subject::Endpoint(endpoint.address));
        self.save_soon(now);
        if endpoint.id == AddressId(0) {
            // The kernel chose the id: the next look tells which.
            self.claimed.push(endpoint);
            self.look_soon(now);
            return;
        }
        self.ids.remember(endpoint.address, endpoint.id);
        self.held.push(Held { endpoint, own: true, seen: now });
    }

    fn removed(&mut self, id: AddressId, now: Instant) {
        if let Some(place) = self.held.iter().position(|held| held.own && held.endpoint.id == id) {
            let held = self.held.swap_remove(place);
            self.pardon(Subject::Endpoint(held.endpoint.address));
            self.save_within(FORGET_AFTER, now);
        }
    }

    fn limits_set(&mut self, set: Limits) {
        if self.clearing_since.is_some() {
            self.changed_limits = None;
        } else {
            let was = self.limits.unwrap_or_default();
            let original = match self.changed_limits {
                // Whoever changed them since, those are the ones to put back.
                Some(changed) if changed.set == was => changed.original,
                _ => was,
            };
            self.changed_limits = Some(ChangedLimits { original, set });
        }
        self.limits = Some(set);
    }

    pub(super) fn refuse(&mut self, command: &PmCommand, refusal: &Refusal<'_>, outbox: &mut Outbox, now: Instant) {
        // Whatever was believed of the kernel's endpoints was wrong.
        self.look_soon(now);
        let subject = match command {
            PmCommand::AddEndpoint(endpoint) if refusal.errno == Errno::RANGE || refusal.text == FULL_OR_DUPLICATE => {
                if refusal.errno == Errno::RANGE {
                    self.seems_full = true;
                } else {
                    self.not_taken.push(*endpoint);
                }
                self.put_off(Subject::Endpoint(endpoint.address), true, now);
                return;
            }
            PmCommand::RemoveEndpoint(id) | PmCommand::GetEndpoint(id) if refusal.errno == Errno::INVAL => {
                return self.removed(*id, now);
            }
            PmCommand::AddEndpoint(endpoint) | PmCommand::SetFlags(endpoint) => Subject::Endpoint(endpoint.address),
            PmCommand::RemoveEndpoint(id) | PmCommand::GetEndpoint(id) => match self.own().find(|own| own.id == *id) {
                Some(own) => Subject::Endpoint(own.address),
                None => return,
            },
            PmCommand::SetLimits(_) | PmCommand::GetLimits => Subject::Limits,
            PmCommand::DumpEndpoints | PmCommand::FlushEndpoints => return,
        };
        // Another may have been quicker: the look will show, and what is then wanted is tried at once.
        let outdated = [Errno::EXIST, Errno::BUSY, Errno::INVAL].contains(&refusal.errno);
        if self.put_off(subject, outdated, now) {
            self.tell(command, refusal, outbox);
        }
    }

    /// Says whether the refusal is worth telling.
    fn put_off(&mut self, subject: Subject, outdated: bool, now: Instant) -> bool {
        let place = self.refused.iter().position(|refused| refused.subject == subject);
        let mut refused = match place {
            Some(place) => self.refused.swap_remove(place),
            None => Refused { subject, until: now, backoff: Backoff::default(), times: 0 },
        };
        refused.times += 1;
        let tell = !(outdated && refused.times == 1);
        if tell {
            let seed = u64::from(refused.times);
            refused.until = refused.backoff.after_failure(now, FIRST_RETRY, LONGEST_RETRY, seed);
        }
        self.refused.push(refused);
        tell
    }

    pub(super) fn is_put_off(&self, subject: Subject, now: Instant) -> bool {
        self.refused.iter().any(|refused| refused.subject == subject && refused.until > now)
    }

    fn pardon(&mut self, subject: Subject) {
        self.refused.retain(|refused| refused.subject != subject);
    }

    pub(super) fn tell(&mut self, command: &PmCommand, refusal: &Refusal<'_>, outbox: &mut Outbox) {
        let again = self.told.contains(&refusal.errno);
        if !again {
            self.told.push(refusal.errno);
        }
        let (errno, text) = (refusal.errno, refusal.text.into());
        outbox.log(Note::Refused { command: command.to_string(), errno, text, again });
    }
}
