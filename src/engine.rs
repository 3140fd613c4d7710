//! Decides, and only decides: inputs are applied to what is known of the host, then what the path
//! managers want is compared with what the kernel has, and the difference goes out as requests.
//!
//! Pure: time comes in with every call, requests and notes go out through a queue, and nothing here
//! knows sockets, files or bytes. Events are never translated one by one: they mark state as dirty.

mod endpoints;
mod figures;
mod ids;
mod inout;
mod listeners;
mod managing;
mod note;
mod outbox;
mod paths;
mod reading;
mod report;
mod retry;
mod routes;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod uplinks;
mod verdicts;
mod ways;

use std::time::{Duration, Instant};

use self::endpoints::{Endpoints, Progress};
pub(crate) use self::figures::Figures;
pub(crate) use self::inout::{Answer, Failure, Input, Output};
use self::listeners::Listeners;
pub(crate) use self::listeners::serves;
pub(crate) use self::note::{Note, Severity};
use self::outbox::Outbox;
use self::paths::Paths;
use self::reading::{Overruns, Reading};
use self::report::Counters;
pub(crate) use self::report::{Bounds, FORMAT, Report};
use self::retry::Backoff;
use self::routes::{Routes, Way};
use self::uplinks::Uplinks;
use crate::command::{PmCommand, Request, RouteQuestion};
use crate::event::NetworkEvent;
use crate::network::{Change, Network};
use crate::plugin::{LocalAddress, PathManager, View};
use crate::rules::{PathPolicy, Rules};
use crate::state_file::SavedState;
use crate::types::IfIndex;

/// Names a request; its answers carry the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(pub(crate) u32);

/// What the configuration asks for.
pub(crate) struct Policy {
    pub(crate) rules: Rules,
    /// The path managers loaded, by priority.
    pub(crate) managers: Vec<Box<dyn PathManager>>,
    /// Which of them manages connections, if the one that was chosen does.
    pub(crate) connections: Option<usize>,
    pub(crate) paths: PathPolicy,
    /// Whether anybody reads notes of severity debug.
    pub(crate) debug: bool,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// A request that takes longer has been lost; the kernel answers within milliseconds.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The whole of what the daemon knows.
#[derive(Debug)]
pub(crate) struct Engine {
    policy: Policy,
    network: Network,
    reading: Reading,
    /// Since messages were lost, all that had been queued before has been taken.
    drained: bool,
    /// How often reading had to begin again without being completed.
    failed_readings: Backoff,
    /// Nothing has been read completely yet.
    first_reading: bool,
    routes: Routes,
    endpoints: Endpoints,
    listeners: Listeners,
    paths: Paths,
    outbox: Outbox,
    uplinks: Uplinks,
    dirty: bool,
    ready: bool,
    stop: Option<Stop>,
    overruns: Overruns,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Keep,
    Remove,
    Done,
}

impl Engine {
    pub(crate) fn new(policy: Policy, saved: SavedState, now: Instant) -> Self {
        let outbox = Outbox::new(policy.debug);
        Self {
            policy,
            network: Network::default(),
            reading: Reading::Wanted(now),
            drained: true,
            failed_readings: Backoff::default(),
            first_reading: true,
            routes: Routes::default(),
            endpoints: Endpoints::new(saved, now),
            listeners: Listeners::new(now),
            paths: Paths::new(),
            outbox,
            uplinks: Uplinks::default(),
            dirty: true,
            ready: false,
            stop: None,
            overruns: Overruns::default(),
            counters: Counters::new(now),
        }
    }

    /// Applies what happened. What follows from it is decided by [`advance`](Self::advance).
    pub(crate) fn handle(&mut self, input: Input<'_>, now: Instant) {
        self.take_note(&input);
        match input {
            Input::Network { event, dump } => self.apply(&event, dump),
            Input::Mptcp(event) => {
                if self.manages_connections() {
                    self.listeners.apply(&event);
                    self.paths.apply(&event, &self.policy.paths, now);
                }
            }
            Input::Answer(ticket, answer) => self.answer(ticket, answer, now),
            Input::End(ticket, result) => self.end(ticket, result, now),
            Input::NetworkLost => self.network_lost(now),
            Input::NetworkDrained => self.drained = true,
            Input::Listening { wanted, result } => {
                if self.manages_connections() {
                    self.listeners.listening(wanted, result, &mut self.outbox, now);
                }
            }
            Input::Timestamps(used) => self.listeners.use_timestamps(used),
            Input::AnswersLost => {
                self.overruns.unsaid += 1;
                self.look_again(now);
            }
            Input::EventsLost => self.events_lost(now),
            Input::EventsDrained => self.events_drained(now),
            Input::Resumed => {
                self.read_again(now);
                self.look_again(now);
            }
            Input::Configure(policy) => self.configure(policy, now),
            Input::Stop { remove } => {
                self.stop = Some(if remove { Stop::Remove } else { Stop::Keep });
                self.endpoints.look_soon(now);
            }
        }
    }

    /// Works off what is dirty as far as is possible now, into the queue of outputs.
    ///
    /// Call it when nothing more is to be handled at once; while it puts out requests, their answers
    /// come back through [`handle`](Self::handle) and there may be more to do. Taking away an endpoint
    /// keeps the kernel busy for some 15 ms, so `removals` says whether one may be asked for before other
    /// events are handled.
    pub(crate) fn advance(&mut self, now: Instant, removals: bool) {
        self.expire(now);
        match self.stop {
            Some(Stop::Done) => return,
            Some(Stop::Keep) => return self.finish(now),
            Some(Stop::Remove) => {
                if removals && self.endpoints.clear(&mut self.outbox, now) {
                    self.finish(now);
                }
                return;
            }
            None => {}
        }
        self.begin_reading(now);
        self.know_connections(now);
        if self.endpoints.begin_look(&mut self.outbox, now) && self.manages_connections() {
            // What is to be asked now and then is asked at the same time: an idle host wakes once.
            self.paths.begin_check();
            self.listeners.look_now_and_then(now);
        }
        if self.reading != Reading::Done {
            return;
        }
        if self.knows_connections() {
            self.tell_overruns(now);
        }
        if self.dirty {
            self.uplinks.look(&self.network, &self.policy.rules);
        }
        self.ask_routes(now);
        if self.first_reading && self.routes.is_waiting() {
            return;
        }
        self.know_listeners(now);
        self.make_paths(now);
        if self.endpoints.is_settled() && (self.dirty || self.endpoints.is_due(now)) {
            self.reconcile(now, removals);
        }
    }

    /// Whether [`advance`](Self::advance) has more to do at once, without anything new to handle.
    pub(crate) fn has_work(&self) -> bool {
        let endpoints = self.dirty && self.stop != Some(Stop::Done) && self.endpoints.is_settled();
        let changed = || self.paths.has_work() || self.listeners.has_work();
        let adopts = self.manages_connections() && self.paths.adopts();
        adopts || (self.reading == Reading::Done && (endpoints || (self.may_make_paths() && changed())))
    }

    /// The next output.
    pub(crate) fn next_output(&mut self) -> Option<Output> {
        self.outbox.next()
    }

    /// When [`advance`](Self::advance) must be called at the latest; `None` if only answers are waited
    /// for that cannot fail to come.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let answer = self.outbox.waiting.front().map(|(_, sent)| *sent + ANSWER_TIME);
        let reading = match self.reading {
            Reading::Wanted(time) => Some(time).filter(|_| self.drained),
            Reading::Links(_) | Reading::Addresses(_) | Reading::Done => None,
        };
        let endpoints = self.endpoints.deadline(self.reading == Reading::Done);
        let (paths, listeners) = match self.may_make_paths() {
            true => (self.paths.deadline(), self.listeners.deadline()),
            false => (None, None),
        };
        let (adoption, saving) = match self.manages_connections() {
            true => (self.paths.adoption_deadline(), self.paths.saving_deadline()),
            false => (None, None),
        };
        [answer, reading, endpoints, listeners, paths, adoption, saving].into_iter().flatten().min()
    }

    /// What must outlive the process, if that has changed since the last call and is due.
    pub(crate) fn take_saved_state(&mut self, now: Instant) -> Option<SavedState> {
        self.endpoints.take_saved_state(now)
    }

    /// Whether what a lookup of a route depends on must be listened to.
    pub(crate) fn needs_routing(&self) -> bool {
        self.policy.rules.check_route() || self.uplinks.has_vpn() || self.manages_connections()
    }

    /// The question that a ticket stands for, if it is one about a route.
    pub(crate) fn route_question(&self, ticket: Ticket) -> Option<&RouteQuestion> {
        self.routes.question(ticket).or_else(|| self.path_question(ticket))
    }

    /// The name of an interface, empty if it is not known.
    pub(crate) fn interface_name(&self, index: IfIndex) -> &str {
        self.network.links().find(|(known, _)| *known == index).map_or("", |(_, link)| &link.name)
    }

    /// The usable addresses, by interface.
    pub(crate) fn usable(&self) -> Vec<LocalAddress<'_>> {
        let mut addresses = view_of(&self.network, &self.policy.rules);
        addresses.retain(|local| local.unusable.is_none());
        addresses
    }

    fn apply(&mut self, event: &NetworkEvent<'_>, dump: Option<Ticket>) {
        // The rest of a dump that was given up tells of times long gone.
        let reading = |ticket| matches!(self.reading, Reading::Links(t) | Reading::Addresses(t) if t == ticket);
        if dump.is_some_and(|ticket| !reading(ticket)) {
            return;
        }
        let change = match event {
            NetworkEvent::Link(link) => self.network.apply_link(link),
            NetworkEvent::LinkGone(index) => self.network.remove_link(*index),
            NetworkEvent::Address(address) => {
                let existing = dump.is_some() && self.first_reading && !self.endpoints.had(address.address);
                self.network.apply_address(address, existing)
            }
            NetworkEvent::AddressGone(address) => self.network.remove_address(address),
            NetworkEvent::RoutingChanged(change) => {
                if self.manages_connections() {
                    self.paths.routing_changed(*change);
                }
                if routes::matters(*change) {
                    self.routes.changed();
                    self.dirty = true;
                }
                Change::Nothing
            }
        };
        if change == Change::Something {
            self.network_changed();
        }
    }

    fn network_changed(&mut self) {
        self.routes.changed();
        if self.manages_connections() {
            self.listeners.network_changed();
            self.paths.network_changed();
        }
        self.dirty = true;
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer<'_>, now: Instant) {
        match answer {
            Answer::Endpoint(endpoint) => {
                if !(self.manages_connections() && self.paths.collect(ticket, &endpoint)) {
                    self.endpoints.collect(ticket, endpoint, now);
                }
            }
            Answer::Limits(limits) => self.endpoints.apply_limits(limits),
            Answer::Socket(socket) => self.collect_socket(ticket, socket, now),
            Answer::Route(route) => {
                let way = match (route.unicast, route.through) {
                    (true, true) => Way::Through,
                    (true, false) => Way::Elsewhere,
                    (false, _) => Way::Nowhere,
                };
                self.end_route(ticket, way, now);
            }
        }
    }

    fn end(&mut self, ticket: Ticket, result: Result<(), Failure<'_>>, now: Instant) {
        self.outbox.waiting.retain(|(waiting, _)| *waiting != ticket);
        if self.route_question(ticket).is_some() {
            // An answer that came before this was taken already: what ends here is a refusal.
            self.end_route(ticket, Way::Nowhere, now);
        } else if matches!(self.reading, Reading::Links(reading) | Reading::Addresses(reading) if reading == ticket) {
            self.end_reading(result.is_ok(), now);
        } else if !(self.manages_connections() && self.end_of_paths(ticket, result, now))
            && self.endpoints.end(ticket, result, &mut self.outbox, now)
        {
            self.dirty = true;
        }
    }

    fn end_route(&mut self, ticket: Ticket, way: Way, now: Instant) {
        self.outbox.waiting.retain(|(waiting, _)| *waiting != ticket);
        if self.path_question(ticket).is_some() {
            return self.paths.end_way(ticket, way, &mut self.outbox, now);
        }
        let outbox = &mut self.outbox;
        let send = |question| outbox.send(Request::AskRoute(question), now);
        self.routes.answer(&mut self.network, ticket, way, send);
        // Even an unchanged answer is news: it may be the last that was waited for.
        self.dirty = true;
    }

    fn look_again(&mut self, now: Instant) {
        if self.manages_connections() {
            self.listeners.look_again(now);
            self.paths.forget_requests(now);
        }
        self.endpoints.forget_requests();
        self.endpoints.look_soon(now);
    }

    fn configure(&mut self, policy: Policy, now: Instant) {
        let managed = self.manages_connections();
        self.outbox.debug = policy.debug;
        self.policy = policy;
        self.network.forget_rules();
        // What is in use is known to have been used: a rule that comes later does not change that.
        let endpoints = &self.endpoints;
        let addresses = self.network.links_mut().flat_map(|(_, link)| &mut link.addresses);
        addresses.for_each(|address| address.existing &= !endpoints.had(address.told.address));
        self.endpoints.forgive();
        if self.manages_connections() {
            if !managed {
                self.paths.adopt_after_events();
            }
            self.paths.configured();
        } else {
            // Nobody tells of connections any more.
            self.paths = Paths::new();
            self.listeners.forget(&mut self.outbox, now);
        }
        self.routes.changed();
        self.dirty = true;
    }

    /// Requests without an answer are lost: whatever they were to find out is read again.
    fn expire(&mut self, now: Instant) {
        if self.outbox.waiting.front().is_none_or(|(_, sent)| now < *sent + ANSWER_TIME) {
            return;
        }
        self.count_unanswered();
        self.outbox.waiting.clear();
        self.outbox.log(Note::Unanswered);
        self.read_again(now);
        self.look_again(now);
    }

    fn ask_routes(&mut self, now: Instant) {
        if self.needs_routing() {
            let outbox = &mut self.outbox;
            let send = |question| outbox.send(Request::AskRoute(question), now);
            self.routes.ask(&self.network, &self.policy.rules, send);
        }
    }

    fn reconcile(&mut self, now: Instant, removals: bool) {
        self.tell_verdicts();
        let knows_connections = self.knows_connections();
        let Self { policy, network, endpoints, outbox, uplinks, .. } = self;
        let addresses = view_of(network, &policy.rules);
        let view = View::new(&addresses);
        uplinks.tell(&view, outbox);
        let wanted = policy.managers.iter().find_map(|manager| manager.endpoints(&view));
        let wanted = uplinks.withhold(wanted, (network, &policy.rules), outbox);
        let progress = endpoints.converge(&view, wanted, outbox, now, removals);
        self.dirty = progress == Progress::Held;
        if progress == Progress::Complete && !self.ready && knows_connections {
            let usable = view.usable().count();
            outbox.log(Note::Settled { addresses: usable, endpoints: endpoints.count() });
            outbox.queue.push_back(Output::Ready);
            self.ready = true;
        }
        self.first_reading = false;
    }

    fn finish(&mut self, now: Instant) {
        self.endpoints.save_at_once(now);
        self.paths.save_at_once(now);
        self.stop = Some(Stop::Done);
        self.outbox.queue.push_back(Output::Done);
    }
}

fn view_of<'a>(network: &'a Network, rules: &Rules) -> Vec<LocalAddress<'a>> {
    let mut addresses = Vec::with_capacity(16);
    for (if_index, link) in network.links() {
        addresses.extend(link.addresses.iter().map(|address| rules.local_address(if_index, link, address)));
    }
    addresses
}
