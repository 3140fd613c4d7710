//! What the daemon promises, on a real kernel: each test has network namespaces of its own (see
//! `common::sandbox`), where the real program follows real links, addresses, routes and connections.
//! What must happen is waited for, what must not is looked for after something later has been seen to
//! happen; where time itself is the matter, in `user_space`, bounds are wide.

// Helpers outside of #[test] functions may fail a test by a panic too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod addresses;
mod advice;
mod changes;
mod chaos;
mod connections;
mod dump;
mod foreign;
mod gap;
mod health;
mod links;
mod listeners;
mod reload;
mod restart;
mod routes;
mod rules;
mod selection;
mod start;
mod user_space;

// Some of it only the demo uses.
#[allow(dead_code)]
#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::daemon::{Daemon, Installation, program_under_test};
use common::net::Namespace;

/// The program under test, installed in a namespace.
fn installed(namespace: &Namespace) -> Installation {
    Installation::new(namespace, program_under_test(env!("CARGO_BIN_EXE_mptcpd")))
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn set<const N: usize>(addresses: [&str; N]) -> BTreeSet<IpAddr> {
    addresses.into_iter().map(address).collect()
}

/// Waits until exactly these addresses are endpoints.
fn wait_for_endpoints<const N: usize>(daemon: &mut Daemon, namespace: &Namespace, addresses: [&str; N]) {
    let wanted = set(addresses);
    daemon.eventually(&format!("endpoints {wanted:?}"), || namespace.endpoint_addresses() == wanted);
}

/// Waits until the daemon has dealt with whatever happened before: an address that now comes and goes
/// on an interface that is up has become an endpoint and ceased to be one.
fn settle(daemon: &mut Daemon, namespace: &Namespace, interface: &str) {
    const MARK: &str = "10.254.0.1";
    namespace.ip(&format!("addr add {MARK}/32 dev {interface}"));
    daemon.eventually("an endpoint of the marking address", || namespace.endpoint_of(address(MARK)).is_some());
    namespace.ip(&format!("addr del {MARK}/32 dev {interface}"));
    daemon.eventually("none of the marking address", || namespace.endpoint_of(address(MARK)).is_none());
}
