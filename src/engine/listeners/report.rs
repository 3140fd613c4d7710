//! Listeners, as they are told to whoever looks from outside.

use std::time::Instant;

use super::{Listeners, Own, State};
use crate::engine::report::{Page, count, until};
use crate::json::Line;

impl Listeners {
    pub(in crate::engine) fn report(&self, page: &mut Page<'_>, now: Instant) {
        for own in &self.own {
            page.add(&|out| report_own(own, out, now));
        }
        for other in &self.others {
            page.add(&|out| {
                Line::new(out, "listener").text("address", other.address).flag("own", false);
            });
        }
    }
}

fn report_own(own: &Own, out: &mut String, now: Instant) {
    let mut line = Line::new(out, "listener");
    line.text("address", own.address().unwrap_or(own.wanted)).flag("own", true);
    line.number("connections", count(own.users.len()));
    let state = match own.state {
        State::Opening => "opening",
        State::Open(_) => "open",
        State::Failed(time) => {
            line.millis("next_try_ms", until(time, now));
            "failed"
        }
    };
    line.text("state", state);
}
