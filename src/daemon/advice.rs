//! What of the host's routing keeps a second path from working, told once with the remedy. Only IPv4,
//! where one question shows it, and only what is certain: a wrong warning is worse than none.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use slog::{Logger, debug, warn};

use super::survey::Reader;
use crate::command::RouteQuestion;
use crate::engine::Engine;
use crate::plugin::LocalAddress;
use crate::types::{EndpointFlags, IfIndex};

/// An address comes before its routes and rules do.
const PAUSE: Duration = Duration::from_secs(2);
/// An ordinary address of the Internet; no packet goes there.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(64, 0, 0, 1));

/// What there is to advise, and what was said.
#[derive(Default)]
pub(super) struct Advice {
    due: Option<Instant>,
    told_strict: bool,
    told_astray: bool,
}

impl Advice {
    /// The uplinks are others now.
    pub(super) fn look_soon(&mut self, now: Instant) {
        self.due.get_or_insert(now + PAUSE);
    }

    /// The configuration is another now: what is still true may be told again.
    pub(super) fn begin_again(&mut self, now: Instant) {
        *self = Self::default();
        self.look_soon(now);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Looks if it is time.
    pub(super) fn look(&mut self, engine: &Engine, log: &Logger, now: Instant) {
        if self.due.take_if(|due| *due <= now).is_none() {
            return;
        }
        let uplinks = uplinks(engine);
        let astray = astray(&uplinks);
        let strict = astray.iter().find(|uplink| filter_is_strict(uplink.interface));
        if is_new(&mut self.told_strict, strict.is_some()) {
            strict.iter().for_each(|uplink| tell_strict(uplink, log));
        }
        let announced = astray.iter().find(|uplink| uplink.flags.contains(EndpointFlags::SIGNAL));
        if is_new(&mut self.told_astray, announced.is_some()) {
            announced.iter().for_each(|uplink| tell_astray(uplink, log));
        }
        debug!(log, "looked at the ways back: {} of {} are by another interface", astray.len(), uplinks.len());
    }
}

fn is_new(told: &mut bool, holds: bool) -> bool {
    !std::mem::replace(told, holds) && holds
}

fn tell_strict(uplink: &LocalAddress<'_>, log: &Logger) {
    let LocalAddress { address, interface, .. } = uplink;
    warn!(
        log,
        "rp_filter is strict and the way back from {} is not by {}: what arrives there is dropped; set it loose with \
         `sysctl -w net.ipv4.conf.all.rp_filter=2`, or the way back with `ip rule add from {} table N`",
        address,
        interface,
        address
    );
}

fn tell_astray(uplink: &LocalAddress<'_>, log: &Logger) {
    let LocalAddress { address, interface, .. } = uplink;
    warn!(
        log,
        "{} is announced, but answers from it do not leave by {}: give it a table of its own with a default route, \
         `ip rule add from {} table N`",
        address,
        interface,
        address
    );
}

/// The first usable IPv4 address of every interface.
fn uplinks(engine: &Engine) -> Vec<LocalAddress<'_>> {
    let mut uplinks = engine.usable();
    uplinks.retain(|local| local.address.is_ipv4());
    uplinks.dedup_by_key(|local| local.if_index);
    uplinks
}

/// Those that have a default route of their own and whose packets take another all the same unless they
/// are bound to the interface.
fn astray<'a>(uplinks: &[LocalAddress<'a>]) -> Vec<LocalAddress<'a>> {
    match Reader::open() {
        Ok(mut reader) if uplinks.len() > 1 => {
            uplinks.iter().filter(|it| is_astray(&mut reader, it)).copied().collect()
        }
        Ok(_) | Err(_) => Vec::new(),
    }
}

fn is_astray(reader: &mut Reader, uplink: &LocalAddress<'_>) -> bool {
    let mut by_it = |if_index| {
        let question = RouteQuestion { source: Some(uplink.address), destination: ELSEWHERE, if_index, bound: true };
        let answer = reader.ask(&question, uplink.if_index)?;
        answer.unicast.then_some(answer.through)
    };
    by_it(uplink.if_index) == Some(true) && by_it(IfIndex(0)) == Some(false)
}

/// Whether the kernel drops what does not come by the interface of the route back
/// (Documentation/networking/ip-sysctl.rst: the larger of both values counts).
fn filter_is_strict(interface: &str) -> bool {
    let value = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")).ok()?;
        text.trim().parse::<u8>().ok()
    };
    value("all").max(value(interface)) == Some(1)
}
