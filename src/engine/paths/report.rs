//! Connections, as they are told to whoever looks from outside. No data and no keys: a token is a name, not a secret.

use std::time::Instant;

use super::Paths;
use super::attempts::{Attempt, State};
use super::managed::{Asked, Managed};
use crate::connections::{Connection, Subflow};
use crate::engine::Ticket;
use crate::engine::report::{count, put_index, until};
use crate::json::Line;
use crate::plugin::{Health, Origin, Trouble};
use crate::types::Token;

impl Paths {
    /// Every connection, in no particular order.
    pub(in crate::engine) fn tokens(&self) -> Vec<Token> {
        self.live.iter().map(|(token, _)| token).collect()
    }

    /// How many connections there are, and how many wait to be looked at.
    pub(in crate::engine) fn counts(&self) -> (usize, usize) {
        (self.live.len(), self.dirty.len() + self.crowded.len() + self.sweep.len())
    }

    /// Whether it is a command that changes something.
    pub(in crate::engine) fn is_command(&self, ticket: Ticket) -> bool {
        self.find_asked(ticket).is_some_and(|(_, asked)| match asked {
            Asked::Create(..) | Asked::Destroy(..) | Asked::Announce(..) | Asked::Other => true,
            Asked::Reset(..) | Asked::CallOff(..) => true,
            Asked::Find(..) | Asked::Look(..) | Asked::Gap | Asked::Activity | Asked::Present(..) => false,
            Asked::List | Asked::WhetherListed | Asked::Check | Asked::Existence | Asked::Stray => false,
        })
    }

    /// What was asked for which connection, if it is one of these requests.
    pub(in crate::engine) fn asked(&self, ticket: Ticket) -> Option<(Token, &'static str)> {
        let (token, asked) = self.find_asked(ticket)?;
        let what = match asked {
            Asked::Create(..) => "create subflow",
            Asked::Destroy(..) => "close subflow",
            Asked::Reset(..) | Asked::CallOff(..) => "reset subflow",
            Asked::Find(..) | Asked::Look(..) | Asked::Gap | Asked::Activity | Asked::Present(..) => "look at sockets",
            Asked::Announce(..) => "announce address",
            Asked::List | Asked::WhetherListed => "list addresses",
            Asked::Check | Asked::Existence | Asked::Stray => "look at connection",
            Asked::Other => "withdraw address or change backup",
        };
        Some((token, what))
    }

    fn find_asked(&self, ticket: Ticket) -> Option<(Token, Asked)> {
        self.asked.iter().find(|(asked, ..)| *asked == ticket).map(|(_, token, asked)| (*token, *asked))
    }

    /// Tells everything of a connection, if it is still there.
    pub(in crate::engine) fn report(&self, token: Token, out: &mut String, now: Instant) {
        let Some(managed) = self.live.get(token) else { return };
        report_connection(token, managed, out, now);
        for flow in &managed.connection.subflows {
            report_subflow(token, flow, out, now);
        }
        report_addresses(token, &managed.connection, out);
        for attempt in &managed.attempts {
            report_attempt(token, attempt, out, now);
        }
    }
}

fn report_connection(token: Token, managed: &Managed, out: &mut String, now: Instant) {
    let connection = &managed.connection;
    let mut line = Line::new(out, "connection");
    line.text("token", token).text("local", connection.local.plain()).text("remote", connection.remote.plain());
    line.text("side", if connection.server_side { "server" } else { "client" });
    line.millis("age_ms", now.saturating_duration_since(connection.since));
    line.flag("established", connection.established).flag("managed", !managed.left_alone && !managed.apart);
    line.flag("deny_join_id0", connection.deny_join_id0).flag("initial_withdrawn", connection.initial_withdrawn);
    line.flag("waiting", managed.dirty || managed.crowded || managed.swept).number("memo", managed.memo.0);
    if let Some(wake) = managed.wake {
        line.millis("next_look_ms", until(wake, now));
    }
    if let Some(took) = &managed.took {
        line.number("peer_takes", count(took.subflows)).millis("peer_takes_for_ms", until(took.until, now));
    }
    if let Some(again) = managed.announcing.as_ref().and_then(|announcing| announcing.again) {
        line.millis("next_announcement_ms", until(again, now));
    }
}

fn report_subflow(token: Token, flow: &Subflow, out: &mut String, now: Instant) {
    let mut line = Line::new(out, "subflow");
    line.text("token", token).text("local", flow.local.plain()).text("remote", flow.remote.plain());
    line.number("id", flow.local_id.0).text("origin", origin(flow.origin));
    line.millis("age_ms", now.saturating_duration_since(flow.since));
    put_index(&mut line, flow.if_index);
    if let Some(backup) = flow.backup {
        line.flag("backup", backup);
    }
    line.flag("backup_by_peer", flow.backup_by_peer);
    line.flag("closing", flow.closing).flag("withdrawn", flow.withdrawn);
    let (health, trouble) = match flow.health {
        Health::Sound => ("sound", None),
        Health::Suspect(trouble) => ("suspect", Some(trouble)),
        Health::Dead(trouble) => ("dead", Some(trouble)),
    };
    put_trouble(line.text("health", health), trouble, now);
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Initial => "initial",
        Origin::Local => "local",
        Origin::Peer => "peer",
    }
}

/// Adds what happened, and how long ago.
fn put_trouble(line: &mut Line<'_>, trouble: Option<Trouble>, now: Instant) {
    if let Some(Trouble { cause, since }) = trouble {
        line.text("why", cause).millis("trouble_ms", now.saturating_duration_since(since));
    }
}

/// Addresses that the peer announced, then this host's that have an id.
fn report_addresses(token: Token, connection: &Connection, out: &mut String) {
    for (id, address) in &connection.remotes {
        Line::new(out, "peer_address").text("token", token).number("id", id.0).text("address", address);
    }
    for own in &connection.own {
        let mut line = Line::new(out, "own_address");
        line.text("token", token).number("id", own.id.0).text("address", own.address);
        line.number("port", own.port).flag("announced", own.announced);
    }
}

fn report_attempt(token: Token, attempt: &Attempt, out: &mut String, now: Instant) {
    let state = match attempt.state {
        State::Wanted => "wanted",
        State::NoRoute => "no_route",
        State::Pending(_) => "pending",
        State::Up(_) => "up",
        State::Failed(_) => "failed",
        State::Refused(_) => "refused",
        State::Full(_) => "full",
    };
    let shown = attempt.shown();
    let mut line = Line::new(out, "path");
    line.text("token", token).text("local", shown.local).text("remote", shown.remote);
    put_index(&mut line, Some(shown.if_index));
    line.text("state", state).number("failures", shown.failures).flag("backup", attempt.backup);
    if let State::Pending(since) | State::Up(since) = attempt.state {
        line.millis("state_ms", now.saturating_duration_since(since));
    }
    if let Some(next) = attempt.next_look() {
        line.millis("next_try_ms", until(next, now));
    }
    put_trouble(&mut line, shown.lost, now);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::connections::OwnAddress;
    use crate::engine::paths::attempts::Loss;
    use crate::event::{self, MptcpEvent};
    use crate::plugin::Cause;
    use crate::rules::PathPolicy;
    use crate::types::{AddressId, IfIndex};

    const TOKEN: Token = Token(0x2a);

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A connection with a subflow that was joined through interface 3.
    fn paths(now: Instant) -> Paths {
        let mut paths = Paths::new();
        let (local, remote) = (end("[::ffff:10.0.0.1]:40000"), end("[::ffff:192.0.2.1]:80"));
        let told = event::Connection { token: TOKEN, local, remote, server_side: false, deny_join_id0: true };
        let joined = event::Subflow {
            token: TOKEN,
            local: end("10.0.1.1:40001"),
            remote: end("192.0.2.1:80"),
            local_id: AddressId(2),
            remote_id: AddressId(0),
            backup: false,
            if_index: Some(IfIndex(3)),
            error: None,
            reset: None,
        };
        for event in [MptcpEvent::Established(told), MptcpEvent::SubflowEstablished(joined)] {
            paths.apply(&event, &PathPolicy::default(), now);
        }
        paths
    }

    fn reported(paths: &Paths, now: Instant) -> Vec<Value> {
        let mut out = String::new();
        paths.report(TOKEN, &mut out, now);
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_connection_is_told_with_its_subflows_in_plain_form() {
        let now = Instant::now();
        let mut paths = paths(now);
        let flow = &mut paths.live.get_mut(TOKEN).unwrap().connection.subflows[1];
        flow.health = Health::Suspect(Trouble { cause: Cause::Silence, since: now });
        let later = now + Duration::from_millis(7);
        let lines = reported(&paths, later);
        assert_eq!(
            lines[0],
            json!({
                "kind": "connection", "token": "0x0000002a", "local": "10.0.0.1:40000", "remote": "192.0.2.1:80",
                "side": "client", "age_ms": 7, "established": true, "managed": true, "deny_join_id0": true,
                "initial_withdrawn": false, "waiting": true, "memo": 0
            })
        );
        assert_eq!((&lines[1]["origin"], &lines[1]["health"]), (&json!("initial"), &json!("sound")));
        assert_eq!(
            lines[2],
            json!({
                "kind": "subflow", "token": "0x0000002a", "local": "10.0.1.1:40001", "remote": "192.0.2.1:80",
                "id": 2, "origin": "local", "age_ms": 7, "index": 3, "backup_by_peer": false, "closing": false,
                "withdrawn": false, "health": "suspect", "why": "no answer comes", "trouble_ms": 7
            })
        );
    }

    #[test]
    fn announced_addresses_of_both_ends_are_told() {
        let now = Instant::now();
        let mut paths = paths(now);
        let connection = &mut paths.live.get_mut(TOKEN).unwrap().connection;
        connection.announced(AddressId(5), end("192.0.2.5:8080"));
        let address = end("10.0.2.1:0").ip();
        connection.remember_id(OwnAddress { announced: true, ..OwnAddress::new(address, 0, AddressId(4)) });
        let lines = reported(&paths, now);
        let peers = json!({ "kind": "peer_address", "token": "0x0000002a", "id": 5, "address": "192.0.2.5:8080" });
        assert_eq!(lines[3], peers);
        let own = lines.iter().filter(|line| line["kind"] == "own_address").map(|line| {
            (line["address"].as_str().unwrap(), line["id"].as_u64().unwrap(), line["announced"].as_bool().unwrap())
        });
        assert_eq!(own.collect::<Vec<_>>(), [("10.0.1.1", 2, false), ("10.0.2.1", 4, true)]);
    }

    #[test]
    fn a_path_is_told_with_how_it_stands_and_when_it_is_tried_again() {
        let now = Instant::now();
        let (mut paths, policy) = (paths(now), PathPolicy::default());
        let managed = paths.live.get_mut(TOKEN).unwrap();
        for address in ["10.0.3.1:0", "10.0.4.1:0"] {
            let mut attempt = Attempt::new(TOKEN, end(address).ip(), IfIndex(4), end("192.0.2.1:80"));
            attempt.begun(true, now);
            managed.remember(attempt, now);
        }
        managed.attempts[1].failed(Loss::Early, now, &policy, now);
        managed.attempts[1].lost = Some(Trouble { cause: Cause::Reset, since: now });
        let lines = reported(&paths, now);
        let told: Vec<_> = lines.iter().filter(|line| line["kind"] == "path").collect();
        assert_eq!((&told[0]["state"], &told[0]["backup"]), (&json!("pending"), &json!(true)));
        assert_eq!((&told[0]["state_ms"], &told[0]["next_try_ms"]), (&json!(0), &json!(180_000)));
        assert_eq!((&told[1]["state"], &told[1]["failures"]), (&json!("failed"), &json!(1)));
        assert!((750..=1000).contains(&told[1]["next_try_ms"].as_u64().unwrap()), "{}", told[1]);
        assert_eq!((&told[1]["why"], &told[1]["trouble_ms"]), (&json!("it was reset"), &json!(0)));
    }
}
