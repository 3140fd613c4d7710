//! The whole state as lines of JSON, one object each, for whoever looks from outside: made in slices, as
//! there may be ten thousand connections, and bounded, as a peer can make many.
//!
//! What changes between two slices may be told as it was or as it is; a connection that ends in between
//! is not told.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use super::{Engine, Failure, Input, Ticket};
use crate::command::{PathCommand, PmCommand, Request, SocketRequest};
use crate::json::Line;
use crate::network::{Address, Link, Verdict};
use crate::plugin::Unusable;
use crate::rules::Rules;
use crate::types::{Family, IfIndex, Token};

/// Grows whenever a kind or a field changes its meaning or goes; not for new ones.
pub(crate) const FORMAT: u32 = 1;

/// How long a report may become, but for what one connection has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) lines: usize,
    pub(crate) bytes: usize,
}

/// How far a report has got.
#[derive(Debug)]
pub(crate) struct Report {
    bounds: Bounds,
    stage: Stage,
    /// So many things of the stage were told.
    place: usize,
    /// The stage ends after so many lines.
    stage_ends: usize,
    lines: usize,
    bytes: usize,
    /// The connections there were when it began.
    tokens: Vec<Token>,
    left_out: Vec<(&'static str, usize)>,
}

/// What is being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Host,
    Endpoints,
    Interfaces,
    Listeners,
    Requests,
    Connections,
    End,
    Done,
}

/// A slice of a report while it is made. Things are always added in the same order.
pub(super) struct Page<'a> {
    report: &'a mut Report,
    out: &'a mut String,
    slice: usize,
    /// Things of the stage, told before, now, or not yet.
    seen: usize,
    left_out: usize,
}

/// Of everything but connections no kind may take more than this part of the lines.
const SHARE: usize = 8;

/// What happened since the start.
#[derive(Debug)]
pub(super) struct Counters {
    since: Instant,
    events: u64,
    network_events: u64,
    overruns: u64,
    refused: u64,
    unanswered: u64,
}

impl Counters {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, events: 0, network_events: 0, overruns: 0, refused: 0, unanswered: 0 }
    }
}

impl Report {
    /// Goes on to what comes next; so many things of this stage are left out.
    fn next(&mut self, left_out: usize) {
        let (key, next) = match self.stage {
            Stage::Host => (None, Stage::Endpoints),
            Stage::Endpoints => (Some("endpoints_left_out"), Stage::Interfaces),
            Stage::Interfaces => (Some("interfaces_left_out"), Stage::Listeners),
            Stage::Listeners => (Some("listeners_left_out"), Stage::Requests),
            Stage::Requests => (Some("requests_left_out"), Stage::Connections),
            Stage::Connections => (Some("connections_left_out"), Stage::End),
            Stage::End | Stage::Done => (None, Stage::Done),
        };
        self.left_out.extend(key.map(|key| (key, left_out)));
        (self.stage, self.place) = (next, 0);
        let share = self.lines + self.bounds.lines / SHARE;
        self.stage_ends = if next == Stage::Connections { self.bounds.lines } else { share };
    }

    fn end(&self, out: &mut String) {
        let mut line = Line::new(out, "end");
        line.number("lines", count(self.lines + 1));
        for (key, left_out) in &self.left_out {
            line.number(key, count(*left_out));
        }
    }
}

impl Page<'_> {
    /// Adds a thing of the stage, if it was not told before and there is room.
    pub(super) fn add(&mut self, write: &dyn Fn(&mut String)) {
        self.seen += 1;
        let report = &mut *self.report;
        if self.seen <= report.place || self.out.len() >= self.slice {
            return;
        }
        report.place += 1;
        if report.lines >= report.stage_ends || report.bytes >= report.bounds.bytes {
            self.left_out += 1;
            return;
        }
        let before = self.out.len();
        write(self.out);
        let written = self.out.get(before..).unwrap_or_default();
        report.lines += written.bytes().filter(|byte| *byte == b'\n').count();
        report.bytes += written.len();
    }
}

impl Engine {
    /// Begins to tell everything.
    pub(crate) fn begin_report(&self, bounds: Bounds) -> Report {
        let tokens = if self.manages_connections() { self.paths.tokens() } else { Vec::new() };
        let (stage, left_out) = (Stage::Host, Vec::new());
        // The line that introduces it is there already.
        Report { bounds, stage, place: 0, stage_ends: bounds.lines, lines: 1, bytes: 0, tokens, left_out }
    }

    /// Appends lines, each with its end, until there are `slice` bytes; whether there is more to tell.
    pub(crate) fn report(&self, report: &mut Report, (out, slice): (&mut String, usize), now: Instant) -> bool {
        while out.len() < slice && report.stage != Stage::Done {
            let mut page = Page { report, out, slice, seen: 0, left_out: 0 };
            self.fill(&mut page, now);
            let Page { seen, left_out, .. } = page;
            if report.place >= seen {
                report.next(left_out);
            }
        }
        report.stage != Stage::Done
    }

    fn fill(&self, page: &mut Page<'_>, now: Instant) {
        match page.report.stage {
            Stage::Host => page.add(&|out| self.report_counters(out, now)),
            Stage::Endpoints => self.endpoints.report(page, now),
            Stage::Interfaces => self.report_interfaces(page),
            Stage::Listeners if self.manages_connections() => self.listeners.report(page, now),
            Stage::Requests => {
                for (ticket, sent) in &self.outbox.waiting {
                    page.add(&|out| self.report_request(*ticket, *sent, out, now));
                }
            }
            Stage::Connections if self.manages_connections() => {
                let tokens = std::mem::take(&mut page.report.tokens);
                for token in &tokens {
                    page.add(&|out| self.paths.report(*token, out, now));
                }
                page.report.tokens = tokens;
            }
            Stage::Listeners | Stage::Connections | Stage::Done => {}
            Stage::End => page.report.end(page.out),
        }
    }

    /// Takes note of what happened, before it is applied.
    pub(super) fn take_note(&mut self, input: &Input<'_>) {
        match input {
            Input::Mptcp(_) => self.counters.events += 1,
            Input::Network { dump: None, .. } => self.counters.network_events += 1,
            Input::NetworkLost | Input::AnswersLost | Input::EventsLost => self.counters.overruns += 1,
            Input::End(ticket, Err(Failure::Refused(_))) => {
                self.counters.refused += u64::from(self.is_command(*ticket));
            }
            _ => {}
        }
    }

    /// The answers to all that waits for one will not come.
    pub(super) fn count_unanswered(&mut self) {
        self.counters.unanswered += count(self.outbox.waiting.len());
    }

    fn is_command(&self, ticket: Ticket) -> bool {
        self.endpoints.is_command(ticket) || (self.manages_connections() && self.paths.is_command(ticket))
    }

    fn report_counters(&self, out: &mut String, now: Instant) {
        let Counters { since, events, network_events, overruns, refused, unanswered } = self.counters;
        let mut line = Line::new(out, "counters");
        line.millis("uptime_ms", now.saturating_duration_since(since));
        line.flag("ready", self.ready).flag("network_read", self.reading == super::Reading::Done);
        line.number("events", events).number("network_events", network_events).number("overruns", overruns);
        line.number("requests", self.outbox.requests).number("commands", self.outbox.commands);
        line.number("refused", refused).number("unanswered", unanswered);
        if self.manages_connections() {
            let (known, waiting) = self.paths.counts();
            line.number("connections", count(known)).number("connections_waiting", count(waiting));
        }
    }

    /// Every interface, and after it its addresses.
    fn report_interfaces(&self, page: &mut Page<'_>) {
        let rules = &self.policy.rules;
        for (index, link) in self.network.links() {
            page.add(&|out| report_interface(out, rules, index, link));
            for address in &link.addresses {
                page.add(&|out| report_address(out, rules, index, link, address));
            }
        }
    }

    fn report_request(&self, ticket: Ticket, sent: Instant, out: &mut String, now: Instant) {
        let of_path = if self.manages_connections() { self.paths.asked(ticket) } else { None };
        let what = of_path.map(|(_, what)| what).or_else(|| self.endpoints.asked(ticket));
        let of_route = || self.route_question(ticket).map_or("links or addresses", |_| "route");
        let mut line = Line::new(out, "request");
        line.number("request", ticket.0).text("what", what.unwrap_or_else(of_route));
        line.millis("waiting_ms", now.saturating_duration_since(sent));
        if let Some((token, _)) = of_path {
            line.text("token", token);
        }
    }
}

fn report_interface(out: &mut String, rules: &Rules, index: IfIndex, link: &Link) {
    let mut line = Line::new(out, "interface");
    line.text("interface", &link.name).number("index", index.0).text("device", &link.kind);
    if let Some(flags) = link.flags {
        line.text("link", flags);
    }
    let keys = [(Family::V4, "ipv4", "why_not_ipv4"), (Family::V6, "ipv6", "why_not_ipv6")];
    for (family, usable, why_not) in keys {
        let verdict = verdict_of(rules, link, family);
        line.flag(usable, verdict.is_ok());
        if let Err(why) = verdict {
            line.text(why_not, why);
        }
    }
}

/// Whether addresses of that family there may be used, whatever is to be said of each.
fn verdict_of(rules: &Rules, link: &Link, family: Family) -> Verdict {
    if link.is_loopback() {
        return Err(Unusable::Loopback);
    }
    rules.met(link, family).verdict?;
    link.state()
}

fn report_address(out: &mut String, rules: &Rules, index: IfIndex, link: &Link, address: &Address) {
    let local = rules.local_address(index, link, address);
    let mut line = Line::new(out, "address");
    line.text("address", local.address).number("prefix", address.told.prefix_length);
    line.text("interface", local.interface).number("index", index.0).flag("used", local.unusable.is_none());
    if let Some(why) = local.unusable {
        line.text("why_not", why);
    }
    line.text("flags", local.flags).flag("backup", local.backup).flag("announce", local.announce);
    line.plain("order", &local.order);
    line.number("rule", rules.met(link, Family::of(local.address)).rule);
    if let Some(most) = local.max_subflows {
        line.number("max_subflows", most);
    }
    if let Some(reachable) = address.route.reachable {
        line.flag("route", reachable);
    }
}

/// Whether it changes something, apart from questions and looks.
pub(super) fn is_command(request: &Request) -> bool {
    match request {
        Request::DumpLinks | Request::DumpAddresses | Request::AskRoute(_) => false,
        Request::Pm(command) => changes_endpoints(command),
        Request::Path(PathCommand::ListAddresses(_) | PathCommand::Probe(_)) => false,
        Request::Path(_) => true,
        Request::Sockets(request) => matches!(request, SocketRequest::Destroy(_)),
    }
}

pub(super) fn changes_endpoints(command: &PmCommand) -> bool {
    !matches!(command, PmCommand::GetEndpoint(_) | PmCommand::DumpEndpoints | PmCommand::GetLimits)
}

pub(super) fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}

/// How long it is until then; 0 if it is over.
pub(super) fn until(time: Instant, now: Instant) -> Duration {
    time.saturating_duration_since(now)
}

/// Adds the interface that something is bound to, if any.
pub(super) fn put_index(line: &mut Line<'_>, index: Option<IfIndex>) {
    if let Some(IfIndex(index @ 1..)) = index {
        line.number("index", index);
    }
}
