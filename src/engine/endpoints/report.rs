//! Endpoints and limits, as they are told to whoever looks from outside.

use std::time::Instant;

use super::{Endpoints, Held, Refused, Subject};
use crate::command::PmCommand;
use crate::engine::Ticket;
use crate::engine::report::{Page, changes_endpoints, count, put_index, until};
use crate::event::Limits;
use crate::json::Line;

impl Endpoints {
    pub(in crate::engine) fn report(&self, page: &mut Page<'_>, now: Instant) {
        if let Some(limits) = self.limits {
            page.add(&|out| report_limits(limits, self.capacity, out));
        }
        for held in &self.held {
            page.add(&|out| report_held(held, out));
        }
        for refused in &self.refused {
            page.add(&|out| report_refused(refused, out, now));
        }
    }

    /// Whether it is a command that changes something.
    pub(in crate::engine) fn is_command(&self, ticket: Ticket) -> bool {
        self.find_command(ticket).is_some_and(changes_endpoints)
    }

    /// What was asked, if it is one of these requests.
    pub(in crate::engine) fn asked(&self, ticket: Ticket) -> Option<&'static str> {
        let Some(command) = self.find_command(ticket) else { return self.is_look(ticket).then_some("list endpoints") };
        Some(match command {
            PmCommand::AddEndpoint(_) => "add endpoint",
            PmCommand::RemoveEndpoint(_) => "remove endpoint",
            PmCommand::SetLimits(_) => "set limits",
            PmCommand::SetFlags(_) => "set flags",
            PmCommand::FlushEndpoints => "flush endpoints",
            PmCommand::GetEndpoint(_) | PmCommand::DumpEndpoints | PmCommand::GetLimits => "list endpoints",
        })
    }

    fn find_command(&self, ticket: Ticket) -> Option<&PmCommand> {
        self.commands.iter().find(|(sent, _)| *sent == ticket).map(|(_, command)| command)
    }
}

fn report_limits(limits: Limits, capacity: Option<usize>, out: &mut String) {
    let mut line = Line::new(out, "limits");
    line.number("subflows", limits.subflows).number("add_addr_accepted", limits.add_addr_accepted);
    if let Some(capacity) = capacity {
        line.number("endpoints", count(capacity));
    }
}

fn report_held(held: &Held, out: &mut String) {
    let endpoint = &held.endpoint;
    let mut line = Line::new(out, "endpoint");
    line.text("address", endpoint.address).number("id", endpoint.id.0).number("port", endpoint.port);
    line.text("flags", endpoint.flags).flag("own", held.own);
    put_index(&mut line, endpoint.if_index);
}

fn report_refused(refused: &Refused, out: &mut String, now: Instant) {
    let mut line = Line::new(out, "retry");
    match refused.subject {
        Subject::Endpoint(address) => line.text("address", address),
        Subject::Limits => line.flag("limits", true),
    };
    line.number("failures", refused.times).millis("next_try_ms", until(refused.until, now));
}
