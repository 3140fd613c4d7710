//! The daemon's own Multipath TCP listeners: peers join connections through them at addresses that it
//! announces. A join never shows here; whoever makes a connection of its own is turned away.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, accept_with, ipproto, socket_with, sockopt};

use slog::debug;

use super::{Daemon, handed};
use crate::engine::{Input, serves};
use crate::{sys, types};

/// The first token for a listener; each has its own.
const FIRST: usize = 16;
/// Connections that wait to be turned away; when there are more, joins have to wait too.
const BACKLOG: i32 = 16;
/// Connections turned away before the other sockets get their turn.
const BUDGET: u32 = 64;
/// Listeners of an earlier run are kept so long after the daemon is ready: until then all that are of use are
/// wanted again.
const UNWANTED: Duration = Duration::from_secs(10);
/// Where the system lacks something to turn a connection away, it is tried again after this.
const PAUSE: Duration = Duration::from_secs(1);

/// Every listener.
#[derive(Default)]
pub(super) struct Listeners {
    open: Vec<Listener>,
    /// Those of an earlier run that nobody wanted yet.
    inherited: Vec<handed::Listener>,
    /// When to let go of these.
    let_go: Option<Instant>,
    /// How many tokens have been given.
    given: usize,
}

struct Listener {
    /// What was asked for.
    wanted: SocketAddr,
    /// Where it listens.
    address: SocketAddr,
    token: Token,
    socket: OwnedFd,
    /// When to look for connections, if there may be one.
    due: Option<Instant>,
}

impl Listeners {
    /// Listens, through a listener of an earlier run if there is one.
    fn open(&mut self, wanted: SocketAddr, registry: &Registry) -> Result<&Listener, types::Errno> {
        let inherited = self.inherited.iter().position(|it| serves(it.address, wanted));
        let socket = match inherited {
            Some(place) => Ok(self.inherited.swap_remove(place).socket),
            None => listen(wanted).map_err(|errno| types::Errno(errno.raw_os_error())),
        }?;
        let name = rustix::net::getsockname(&socket).ok().and_then(|name| SocketAddr::try_from(name).ok());
        let token = Token(FIRST + self.given);
        self.given += 1;
        let watched = registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE);
        watched.map_err(|error| sys::errno(&error))?;
        self.open.push(Listener { wanted, address: name.unwrap_or(wanted), token, socket, due: None });
        self.open.last().ok_or(types::Errno::NOENT)
    }

    /// Listens there no longer; where that was.
    fn close(&mut self, wanted: SocketAddr, registry: &Registry) -> Option<SocketAddr> {
        let place = self.open.iter().position(|listener| listener.wanted == wanted)?;
        let listener = self.open.swap_remove(place);
        // It was registered, and is closed at once anyway.
        let _ = registry.deregister(&mut SourceFd(&listener.socket.as_raw_fd()));
        close(listener.socket);
        Some(listener.address)
    }

    /// These are of an earlier run.
    pub(super) fn take_back(&mut self, inherited: Vec<handed::Listener>) {
        self.inherited = inherited;
    }

    /// All that is known is as it should be: what is wanted of an earlier run will soon be.
    pub(super) fn settled(&mut self, now: Instant) {
        self.let_go = (!self.inherited.is_empty()).then(|| now + UNWANTED);
    }

    /// There are connections on the listener with that token, if there is one.
    pub(super) fn notice(&mut self, token: Token, now: Instant) {
        self.open.iter_mut().filter(|listener| listener.token == token).for_each(|listener| listener.due = Some(now));
    }

    /// When to look for connections.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.iter().filter_map(|listener| listener.due).chain(self.let_go).min()
    }

    /// Turns away whoever connected.
    pub(super) fn turn_away(&mut self, now: Instant) {
        for listener in self.open.iter_mut().filter(|listener| listener.due.is_some_and(|time| time <= now)) {
            listener.due = turn_away(&listener.socket, now);
        }
    }
}

/// Turns connections away; when to go on, if there may be more.
fn turn_away(socket: &OwnedFd, now: Instant) -> Option<Instant> {
    for _ in 0..BUDGET {
        match accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            // Dropped, it is closed.
            Ok(_) => {}
            // The other: it does not listen any more.
            Err(Errno::AGAIN | Errno::INVAL) => return None,
            // No more files, or no memory: nothing would tell when there are again.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => return Some(now + PAUSE),
            // What was wrong with one connection (accept(2)) says nothing of the next.
            Err(_) => {}
        }
    }
    Some(now)
}

/// Ends listening, although the service manager may have a copy for some time yet.
fn close(socket: OwnedFd) {
    // It can fail only where nobody listens any more.
    let _ = rustix::net::shutdown(&socket, Shutdown::Both);
}

fn listen(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::MPTCP))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if address.port() != 0 {
        // Subflows that an earlier listener left there are no reason to refuse. Where the kernel chooses a
        // port it is to choose a free one.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    // The subflows have it of their listener, so that the next run can listen there while they live.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

impl Daemon {
    pub(super) fn listen(&mut self, wanted: SocketAddr, now: Instant) {
        self.unlisten(wanted);
        let Self { listeners, keeper, notifier, poll, .. } = self;
        let result = listeners.open(wanted, poll.registry()).map(|listener| {
            // One of an earlier run is kept already, which the manager notices.
            keeper.keep_listener(listener.address, listener.socket.as_fd(), notifier);
            listener.address
        });
        self.engine.handle(Input::Listening { wanted, result }, now);
    }

    pub(super) fn unlisten(&mut self, wanted: SocketAddr) {
        if let Some(address) = self.listeners.close(wanted, self.poll.registry()) {
            self.keeper.give_up_listener(address, &mut self.notifier);
        }
    }

    /// Lets go of an earlier run's listeners that nobody wants.
    pub(super) fn let_go(&mut self, now: Instant) {
        if self.listeners.let_go.take_if(|time| *time <= now).is_none() {
            return;
        }
        for listener in self.listeners.inherited.drain(..) {
            debug!(self.log, "nobody needs the listener of an earlier run"; "address" => %listener.address);
            close(listener.socket);
            self.keeper.give_up_listener(listener.address, &mut self.notifier);
        }
    }

    /// Tells the engine how much room there is for options of announced addresses.
    pub(super) fn tell_timestamps(&mut self, now: Instant) {
        let value = fs::read_to_string("/proc/sys/net/ipv4/tcp_timestamps");
        // They are in use unless they are known not to be.
        let used = value.map_or(true, |value: String| value.trim() != "0");
        self.engine.handle(Input::Timestamps(used), now);
    }
}
