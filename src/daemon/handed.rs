//! What the service manager kept of an earlier run and hands over at start (sd_listen_fds(3)): the socket
//! of events, without which the kernel refuses joins, and the listeners at announced addresses. What it
//! hands over is looked at before it is trusted; whatever else there is, is ignored.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::{env, fs};

use listenfd::ListenFd;
use netlink_sys::Socket;
use rustix::net::{ipproto, sockopt};

use super::sockets::NETLINK_GENERIC;
use crate::sys::Netlink;

/// More than the unit lets the service manager keep; if there are still more, none is taken.
const MOST: usize = 1024;
const PREFIX: &str = "mptcpd-";
const AF_INET: i32 = 2;
const AF_NETLINK: i32 = 16;
const SOCK_STREAM: i32 = 1;
const SOCK_DGRAM: i32 = 2;

/// The names of descriptors, which say what they are and for which network namespace: its number is not
/// given away while a socket of it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Names(u64);

impl Names {
    /// Those of this network namespace, if it can be told from others.
    pub(super) fn find() -> Option<Self> {
        fs::metadata("/proc/thread-self/ns/net").ok().map(|namespace| Self(namespace.ino()))
    }

    pub(super) fn events(self) -> String {
        format!("{PREFIX}events-{}", self.0)
    }

    /// A name has no colons.
    pub(super) fn listener(self, address: SocketAddr) -> String {
        let ip = address.ip().to_string().replace(':', "_");
        format!("{PREFIX}listener-{}-{ip}-{}", self.0, address.port())
    }
}

/// A listener of an earlier run.
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pub(super) socket: OwnedFd,
}

/// What was handed over.
#[derive(Default)]
pub(super) struct Handed {
    pub(super) events: Option<Netlink>,
    pub(super) listeners: Vec<Listener>,
    /// Names of what the service manager need not keep any longer.
    pub(super) useless: Vec<String>,
    /// How many descriptors were none of these.
    pub(super) strange: usize,
}

impl Handed {
    /// Takes what there is; to be called before anything else is opened: the numbers are fixed.
    pub(super) fn take() -> Self {
        let mut handed = Self::default();
        let given = given();
        if given.is_empty() {
            return handed;
        }
        let (mut descriptors, own) = (ListenFd::from_env(), Names::find());
        for (place, name) in given.into_iter().enumerate() {
            if handed.take_one(&mut descriptors, place, &name, own).is_none() {
                handed.strange += 1;
                if name.starts_with(PREFIX) {
                    handed.useless.push(name);
                }
            }
        }
        handed
    }

    fn take_one(&mut self, all: &mut ListenFd, place: usize, name: &str, own: Option<Names>) -> Option<()> {
        let own = own?;
        if name == own.events() {
            let socket = all.take_custom::<Socket>(place, AF_NETLINK, SOCK_DGRAM, "netlink socket").ok()??;
            let socket = Netlink::adopt(socket, NETLINK_GENERIC).ok()?;
            return self.events.is_none().then(|| self.events = Some(socket));
        }
        let socket = all.take_custom::<OwnedFd>(place, AF_INET, SOCK_STREAM, "listener").ok()??;
        let address = address(&socket).filter(|address| name == own.listener(*address))?;
        self.listeners.push(Listener { address, socket });
        Some(())
    }
}

/// The names of what is handed over to this process.
fn given() -> Vec<String> {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
    if number("LISTEN_PID") != usize::try_from(std::process::id()).ok() {
        return Vec::new();
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    names.take(number("LISTEN_FDS").filter(|count| *count <= MOST).unwrap_or(0)).collect()
}

/// Where it listens, if it does so for Multipath TCP.
fn address(socket: &OwnedFd) -> Option<SocketAddr> {
    let listens = sockopt::socket_acceptconn(socket).unwrap_or(false);
    let multipath = sockopt::socket_protocol(socket).ok()? == Some(ipproto::MPTCP);
    let address = SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()?;
    (listens && multipath).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn names_tell_namespaces_and_addresses_apart_and_have_no_colons() {
        let names = Names(7);
        assert_eq!(names.events(), "mptcpd-events-7");
        assert_eq!(names.listener(end("10.0.0.1:80")), "mptcpd-listener-7-10.0.0.1-80");
        assert_eq!(names.listener(end("[fd00::1]:80")), "mptcpd-listener-7-fd00__1-80");
        assert_ne!(names.events(), Names(8).events());
    }

    #[test]
    fn only_a_listener_for_multipath_tcp_is_one() {
        let tcp = OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        assert_eq!(address(&tcp), None);
    }
}
