//! Endpoints and limits of the kernel's own path manager: what the kernel holds, which of it is ours,
//! and the commands that make it what is wanted. What others put there is never changed or deleted.
//!
//! The kernel sends no events for endpoints, so it is looked at now and then, and whenever an answer
//! does not fit what was known. Commands and looks exclude each other, so that neither outdates the
//! other.

mod answers;
mod choice;
mod look;
mod report;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::ids::Ids;
use super::retry::Backoff;
use super::{Note, Outbox, PmCommand, Request, Ticket};
use crate::event::{Endpoint, Limits};
use crate::plugin::{self, Unusable, View, WantedEndpoint};
use crate::state_file::{ChangedLimits, SavedState};
use crate::types::{AddressId, EndpointFlags, Errno};

/// What others did is noticed within half a minute; the look costs about 20 us.
const LOOK_INTERVAL: Duration = Duration::from_secs(25);
/// A look that failed is tried again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What the kernel refused is tried again after this, then twice as long each time, up to the most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// An endpoint that was seen within this time is taken to be there still: nobody takes it away and puts
/// another with its id in its place so quickly.
pub(super) const SEEN: Duration = Duration::from_millis(20);
/// An endpoint that is gone may stay in the state file for so long: it would only be looked for.
const FORGET_AFTER: Duration = Duration::from_secs(1);
/// `on-stop = "remove"` takes no longer than this, whatever the kernel says.
const STOP_TIME: Duration = Duration::from_secs(3);
/// The flags that SET_FLAGS changes in place (net/mptcp/pm_kernel.c, `mptcp_pm_nl_set_flags`).
const CHANGEABLE: EndpointFlags = EndpointFlags::BACKUP.union(EndpointFlags::FULLMESH);

/// An endpoint that the kernel holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    endpoint: Endpoint,
    /// The daemon added it.
    own: bool,
    /// When the kernel last said that it is there.
    seen: Instant,
}

impl Held {
    /// Whether nothing but the time differs.
    fn is(&self, other: &Self) -> bool {
        (self.endpoint, self.own) == (other.endpoint, other.own)
    }

    fn is_implicit(&self) -> bool {
        self.endpoint.flags.contains(EndpointFlags::IMPLICIT)
    }

    /// Whether it is an endpoint for the address: one with a port is a thing of its own.
    fn serves(&self, address: IpAddr) -> bool {
        self.endpoint.address == address && self.endpoint.port == 0 && !self.is_implicit()
    }

    /// Whether it is as wanted but for what SET_FLAGS can mend.
    fn fits(&self, wanted: &WantedEndpoint) -> bool {
        self.own
            && self.endpoint.address == wanted.address
            && self.endpoint.if_index == Some(wanted.if_index)
            && self.endpoint.flags.without(CHANGEABLE) == wanted.flags.without(CHANGEABLE)
    }
}

/// Whether both are the same endpoint: one with other flags than SET_FLAGS can have made of it is not, as
/// the kernel gives ids anew after a flush.
fn same(a: &Endpoint, b: &Endpoint) -> bool {
    let fixed = |endpoint: &Endpoint| endpoint.flags.without(CHANGEABLE);
    (a.id, a.address, a.port, a.if_index, fixed(a)) == (b.id, b.address, b.port, b.if_index, fixed(b))
}

/// How far an attempt to converge came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Commands are on their way.
    Sent,
    /// Only a removal is left, and none was allowed.
    Held,
    /// All is as wanted.
    Complete,
}

#[derive(Debug)]
enum Look {
    Idle,
    Endpoints(Ticket, Vec<Endpoint>),
    Limits(Ticket, Vec<Endpoint>),
}

/// What a refused command was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Endpoint(IpAddr),
    Limits,
}

#[derive(Debug)]
struct Refused {
    subject: Subject,
    until: Instant,
    backoff: Backoff,
    times: u32,
}

#[derive(Debug)]
pub(super) struct Endpoints {
    held: Vec<Held>,
    /// Ours by the state file or by a command whose answer was lost, if the next look finds them.
    claimed: Vec<Endpoint>,
    limits: Option<Limits>,
    /// The last look found others than were known.
    limits_changed: bool,
    /// They were read just now: what is set over them is not set over another's choice unseen.
    limits_are_fresh: bool,
    changed_limits: Option<ChangedLimits>,
    ids: Ids,
    look: Look,
    next_look: Instant,
    /// A look has been completed.
    known: bool,
    commands: Vec<(Ticket, PmCommand)>,
    /// How many endpoints the kernel takes, once it said that it takes no more.
    capacity: Option<usize>,
    /// When to doubt that, while some go without: between the kernel's word and the look that counted,
    /// another may have taken some away.
    doubt: Option<Instant>,
    seems_full: bool,
    /// Not taken because there are too many, or because there is such a one.
    not_taken: Vec<Endpoint>,
    refused: Vec<Refused>,
    /// Errors that the log has been told of.
    told: Vec<Errno>,
    told_full: bool,
    told_nonsense: bool,
    /// Added by another since the last look, though not before the first.
    newcomers: Vec<Endpoint>,
    told_rival: bool,
    /// When the state is to be saved.
    save: Option<Instant>,
    /// What was saved last, apart from ids, which alone are not worth it.
    saved: Option<(Vec<Endpoint>, Option<ChangedLimits>)>,
    clearing_since: Option<Instant>,
}

impl Endpoints {
    pub(super) fn new(saved: SavedState, now: Instant) -> Self {
        Self {
            held: Vec::new(),
            claimed: saved.own,
            limits: None,
            limits_changed: false,
            limits_are_fresh: false,
            changed_limits: saved.limits,
            ids: Ids::new(saved.ids),
            look: Look::Idle,
            next_look: now,
            known: false,
            commands: Vec::new(),
            capacity: None,
            doubt: None,
            seems_full: false,
            not_taken: Vec::new(),
            refused: Vec::new(),
            told: Vec::new(),
            told_full: false,
            told_nonsense: false,
            newcomers: Vec::new(),
            told_rival: false,
            save: None,
            saved: None,
            clearing_since: None,
        }
    }

    /// Whether an address has an endpoint of ours, from this run or an earlier one.
    pub(super) fn had(&self, address: IpAddr) -> bool {
        self.claimed.iter().chain(self.own()).any(|own| own.address == address)
    }

    fn own(&self) -> impl Iterator<Item = &Endpoint> {
        self.held.iter().filter(|held| held.own).map(|held| &held.endpoint)
    }

    pub(super) fn count(&self) -> usize {
        self.held.len()
    }

    /// Whether what the kernel holds is known and nothing is on its way that will change it.
    pub(super) fn is_settled(&self) -> bool {
        self.known && matches!(self.look, Look::Idle) && self.commands.is_empty()
    }

    /// Whether something is to be tried again now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.refused.iter().map(|refused| refused.until).chain(self.doubt).any(|time| time <= now)
    }

    /// When something is to be done, apart from what answers to requests bring; `converging`: the
    /// rest of the engine waits for nothing either.
    pub(super) fn deadline(&self, converging: bool) -> Option<Instant> {
        let idle = matches!(self.look, Look::Idle) && self.commands.is_empty();
        let look = idle.then_some(self.next_look);
        let stop = self.clearing_since.map(|since| since + STOP_TIME);
        let retries = self.refused.iter().map(|refused| refused.until).chain(self.doubt);
        let retry = retries.min().filter(|_| converging && self.is_settled());
        [look, self.save, stop, retry].into_iter().flatten().min()
    }

    /// What is to be saved, if it is time.
    pub(super) fn take_saved_state(&mut self, now: Instant) -> Option<SavedState> {
        self.save.take_if(|time| *time <= now)?;
        let added = self.commands.iter().filter_map(|(_, command)| match command {
            PmCommand::AddEndpoint(endpoint) => Some(endpoint),
            _ => None,
        });
        let own: Vec<Endpoint> = self.own().chain(&self.claimed).chain(added).copied().collect();
        let matters = (own, self.changed_limits);
        if self.saved.as_ref() == Some(&matters) {
            return None;
        }
        let (own, limits) = self.saved.insert(matters).clone();
        Some(SavedState { own, ids: self.ids.kept().to_vec(), limits, ..SavedState::default() })
    }

    /// What must be known after a crash is saved in the turn of the loop in which it was done.
    fn save_soon(&mut self, now: Instant) {
        self.save_within(Duration::ZERO, now);
    }

    fn save_within(&mut self, time: Duration, now: Instant) {
        self.save = Some(self.save.map_or(now + time, |other| other.min(now + time)));
    }

    /// Saves everything now, as there may be no other chance.
    pub(super) fn save_at_once(&mut self, now: Instant) {
        self.saved = None;
        self.save = Some(now);
    }

    /// Lets what was refused be tried at once, and told again.
    pub(super) fn forgive(&mut self) {
        self.refused.clear();
        self.told.clear();
        self.told_full = false;
        self.told_nonsense = false;
        self.told_rival = false;
    }
}

/// From what is to what is wanted.
impl Endpoints {
    /// Sends what brings the kernel nearer to what is wanted; `None` wants nothing new. To be called only
    /// when [settled](Self::is_settled).
    pub(super) fn converge(
        &mut self,
        view: &View<'_>,
        wanted: Option<plugin::Endpoints>,
        outbox: &mut Outbox,
        now: Instant,
        removals: bool,
    ) -> Progress {
        if self.doubt.take_if(|time| *time <= now).is_some() {
            self.capacity = None;
        }
        self.tell_rivals(view, wanted.is_some(), outbox);
        let wanted = wanted.map_or_else(|| choice::as_they_are(view, &self.held), |endpoints| endpoints.wanted);
        let choice = choice::choose(view, wanted, &self.held, self.capacity);
        self.tell_choice(&choice, outbox);
        let some_go_without = choice.chosen.len() < choice.wanted;
        self.doubt = some_go_without.then(|| self.doubt.unwrap_or(now + LONGEST_RETRY));
        let chosen = choice.chosen;
        self.forget_refusals(&chosen);
        self.mend_flags(&chosen, outbox, now);
        self.add_missing(&chosen, outbox, now);
        self.raise_limits(&chosen, outbox, now);
        let unwanted = self.unwanted(view, &chosen, now);
        match unwanted.filter(|_| removals) {
            Some(id) => self.touch(id, PmCommand::RemoveEndpoint(id), outbox, now),
            None if self.commands.is_empty() => {
                // What was to be tried again and needs nothing any more.
                self.refused.retain(|refused| refused.until > now);
            }
            None => {}
        }
        match (self.commands.is_empty(), unwanted) {
            (false, _) => Progress::Sent,
            (true, Some(_)) => Progress::Held,
            (true, None) => Progress::Complete,
        }
    }

    /// Forgets what was refused to addresses that need nothing any more.
    fn forget_refusals(&mut self, chosen: &[WantedEndpoint]) {
        let held = &self.held;
        self.refused.retain(|refused| match refused.subject {
            Subject::Limits => true,
            Subject::Endpoint(address) => {
                chosen.iter().any(|wanted| wanted.address == address)
                    || held.iter().any(|held| held.own && held.endpoint.address == address)
            }
        });
    }

    fn tell_choice(&mut self, choice: &choice::Choice, outbox: &mut Outbox) {
        if choice.chosen.len() < choice.wanted && !std::mem::replace(&mut self.told_full, true) {
            let taken = self.capacity.unwrap_or_default();
            outbox.log(Note::Full { taken, wanted: choice.wanted });
        }
        if let Some(address) = choice.nonsense {
            if !std::mem::replace(&mut self.told_nonsense, true) {
                outbox.log(Note::Nonsense { address, why: "the flags signal and fullmesh exclude each other" });
            }
        }
    }

    /// Says that another manages endpoints too; again only after it was alone for a while.
    fn tell_rivals(&mut self, view: &View<'_>, managing: bool, outbox: &mut Outbox) {
        let is_local = |endpoint: &Endpoint| view.addresses().iter().any(|local| local.address == endpoint.address);
        self.told_rival &= self.held.iter().any(|held| !held.own && is_local(&held.endpoint));
        let newcomers = std::mem::take(&mut self.newcomers);
        if let Some(rival) = newcomers.into_iter().find(is_local).filter(|_| managing) {
            if !std::mem::replace(&mut self.told_rival, true) {
                outbox.log(Note::Rival(rival));
            }
        }
    }

    fn command(&mut self, command: PmCommand, outbox: &mut Outbox, now: Instant) {
        if matches!(command, PmCommand::AddEndpoint(_)) {
            self.save_soon(now);
        }
        self.commands.push((outbox.send(Request::Pm(command), now), command));
    }

    fn mend_flags(&mut self, chosen: &[WantedEndpoint], outbox: &mut Outbox, now: Instant) {
        for wanted in chosen {
            let Some(held) = self.held.iter().find(|held| held.fits(wanted)).copied() else { continue };
            let subject = Subject::Endpoint(wanted.address);
            if held.endpoint.flags != wanted.flags && !self.is_put_off(subject, now) {
                let changed = Endpoint { flags: wanted.flags, ..held.endpoint };
                self.touch(held.endpoint.id, PmCommand::SetFlags(changed), outbox, now);
            }
        }
    }

    fn add_missing(&mut self, chosen: &[WantedEndpoint], outbox: &mut Outbox, now: Instant) {
        let mut room = self.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(self.held.len()));
        for wanted in chosen {
            let served = self.held.iter().any(|held| held.serves(wanted.address));
            if served || self.is_put_off(Subject::Endpoint(wanted.address), now) {
                continue;
            }
            if room == 0 {
                continue;
            }
            room -= 1;
            let implicit = |held: &Held| held.is_implicit() && held.endpoint.address == wanted.address;
            let id = if self.held.iter().any(implicit) {
                // The kernel replaces one of its own only where no id is asked for.
                Some(AddressId(0))
            } else {
                self.ids.choose(wanted.address, |id| self.is_taken(id))
            };
            let Some(id) = id else { continue };
            let (address, flags, if_index) = (wanted.address, wanted.flags, Some(wanted.if_index));
            let endpoint = Endpoint { id, address, port: 0, flags, if_index };
            self.command(PmCommand::AddEndpoint(endpoint), outbox, now);
        }
    }

    fn is_taken(&self, id: AddressId) -> bool {
        let sent = |command: &PmCommand| matches!(command, PmCommand::AddEndpoint(endpoint) if endpoint.id == id);
        self.held.iter().any(|held| held.endpoint.id == id) || self.commands.iter().any(|(_, command)| sent(command))
    }

    fn raise_limits(&mut self, chosen: &[WantedEndpoint], outbox: &mut Outbox, now: Instant) {
        let Some(is) = self.limits else { return };
        let needed = choice::needed_limits(chosen, &self.held);
        let raised = Limits {
            subflows: is.subflows.max(needed.subflows),
            add_addr_accepted: is.add_addr_accepted.max(needed.add_addr_accepted),
        };
        if raised != is && !self.is_put_off(Subject::Limits, now) {
            let known = std::mem::take(&mut self.limits_are_fresh);
            self.command(if known { PmCommand::SetLimits(raised) } else { PmCommand::GetLimits }, outbox, now);
        }
        self.limits_are_fresh = false;
    }

    /// The next of ours to take away.
    fn unwanted(&self, view: &View<'_>, chosen: &[WantedEndpoint], now: Instant) -> Option<AddressId> {
        let undecided = |held: &Held| {
            view.addresses().iter().any(|local| {
                local.unusable == Some(Unusable::RouteUnknown)
                    && local.address == held.endpoint.address
                    && Some(local.if_index) == held.endpoint.if_index
            })
        };
        let unwanted = |held: &&Held| {
            held.own
                && !chosen.iter().any(|wanted| held.fits(wanted))
                && !undecided(held)
                && !self.is_put_off(Subject::Endpoint(held.endpoint.address), now)
        };
        // First one that stands in the way of another for the same address.
        let in_the_way = |held: &&Held| chosen.iter().any(|wanted| held.endpoint.address == wanted.address);
        let found = self.held.iter().filter(unwanted).find(in_the_way).or_else(|| self.held.iter().find(unwanted));
        found.map(|held| held.endpoint.id)
    }

    /// Does something to one of ours, after a look at it if it was not seen just now: no event tells that
    /// another has taken its place.
    fn touch(&mut self, id: AddressId, command: PmCommand, outbox: &mut Outbox, now: Instant) {
        let seen = self.is_seen(id, now);
        self.command(if seen { command } else { PmCommand::GetEndpoint(id) }, outbox, now);
    }

    fn is_seen(&self, id: AddressId, now: Instant) -> bool {
        self.held.iter().any(|held| held.own && held.endpoint.id == id && now < held.seen + SEEN)
    }

    /// Takes out what is ours, one endpoint a call, then puts the limits back if nobody changed them
    /// since. Says whether that is complete, or has taken too long.
    pub(super) fn clear(&mut self, outbox: &mut Outbox, now: Instant) -> bool {
        let since = *self.clearing_since.get_or_insert(now);
        if now >= since + STOP_TIME {
            return true;
        }
        self.begin_look(outbox, now);
        if !self.is_settled() {
            return false;
        }
        let next = self.own().find(|own| !self.is_put_off(Subject::Endpoint(own.address), now)).map(|own| own.id);
        if let Some(id) = next {
            self.touch(id, PmCommand::RemoveEndpoint(id), outbox, now);
            return false;
        }
        self.save_soon(now);
        match self.changed_limits.take() {
            Some(changed) if self.limits == Some(changed.set) => {
                self.command(PmCommand::SetLimits(changed.original), outbox, now);
                false
            }
            _ => true,
        }
    }
}
