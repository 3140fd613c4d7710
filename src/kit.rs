//! For tests of path managers: a host and a connection in a few lines, without a kernel.
//!
//! ```
//! use mptcpd::kit::{Connection, Host};
//! # use mptcpd::plugin::{ConnectionView, Memo, PathManager, Paths, View};
//! # struct Mine;
//! # impl PathManager for Mine {
//! #     fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, _: &mut Memo, want: &mut Paths) {
//! #         for local in view.usable() {
//! #             want.subflow(local, &connection.remotes[0]);
//! #         }
//! #     }
//! # }
//! let host = Host::new().interface("wlan0", &["10.0.1.2"]).interface("wwan0", &["10.0.2.2"]);
//! let connection = Connection::client("10.0.1.2:40000", "192.0.2.1:443");
//! assert_eq!(
//!     host.subflows(&Mine, &connection),
//!     ["10.0.1.2 wlan0 - 192.0.2.1:443", "10.0.2.2 wwan0 - 192.0.2.1:443"]
//! );
//! ```
//!
//! Addresses are given as text; whoever writes one that is none has their test fail.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::plugin::{
    Attempt, AttemptState, Cause, ConnectionView, Health, LocalAddress, Memo, Origin, PathManager, Paths, Remote, Side,
    Subflow, Trouble, Unusable, View,
};
use crate::types::{AddressId, IfIndex, Token};

/// A host with its interfaces; their indices are 1, 2, 3 in the order in which they are added.
#[derive(Clone, Debug, Default)]
pub struct Host {
    addresses: Vec<LocalAddress<'static>>,
    interfaces: u32,
}

impl Host {
    /// A host without interfaces.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an interface with these addresses, all usable.
    ///
    /// # Panics
    ///
    /// If an address does not parse.
    #[must_use]
    pub fn interface(mut self, name: &'static str, addresses: &[&str]) -> Self {
        self.interfaces += 1;
        let if_index = IfIndex(self.interfaces);
        self.addresses.extend(addresses.iter().map(|text| LocalAddress::new(ip(text), if_index, name)));
        self
    }

    /// Changes what is known of an address: what a rule says of it, or why it must not be used.
    ///
    /// # Panics
    ///
    /// If no interface has the address.
    #[must_use]
    pub fn with(mut self, address: &str, change: impl FnOnce(&mut LocalAddress<'static>)) -> Self {
        let wanted = ip(address);
        let found = self.addresses.iter_mut().find(|local| local.address == wanted);
        change(found.unwrap_or_else(|| panic!("no interface has {address}")));
        self
    }

    /// Makes an address unusable.
    ///
    /// # Panics
    ///
    /// If no interface has the address.
    #[must_use]
    pub fn without(self, address: &str, why: Unusable) -> Self {
        self.with(address, |local| local.unusable = Some(why))
    }

    /// What path managers are shown of the host.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(&self.addresses)
    }

    /// What a path manager wants for a connection that it has not seen before.
    #[must_use]
    pub fn paths(&self, manager: &dyn PathManager, connection: &Connection) -> Paths {
        let mut want = Paths::default();
        manager.paths(&self.view(), &connection.view(), &mut Memo::default(), &mut want);
        want
    }

    /// The subflows that it wants, in order, as text: local address, interface, peer's end, and `backup`.
    #[must_use]
    pub fn subflows(&self, manager: &dyn PathManager, connection: &Connection) -> Vec<String> {
        let name = |if_index| {
            let found = self.addresses.iter().find(|local| local.if_index == if_index);
            found.map_or("", |local| local.interface)
        };
        let paths = self.paths(manager, connection);
        let text = paths.subflows().iter().map(|want| {
            let backup = if want.backup { " backup" } else { "" };
            format!("{} {} - {}{backup}", want.local, name(want.if_index), want.remote)
        });
        text.collect()
    }

    /// The announcements that it wants, as text: the address, and the port if one is named.
    #[must_use]
    pub fn announcements(&self, manager: &dyn PathManager, connection: &Connection) -> Vec<String> {
        let paths = self.paths(manager, connection);
        let text = paths.announcements().iter().map(|want| match want.port {
            Some(port) => SocketAddr::new(want.address, port).to_string(),
            None => want.address.to_string(),
        });
        text.collect()
    }
}

/// A connection; its initial subflow is established until [`lost`](Self::lost), on the first interface unless
/// it is [begun on](Self::begun_on) another.
#[derive(Clone, Debug)]
pub struct Connection {
    side: Side,
    local: SocketAddr,
    remotes: Vec<Remote>,
    subflows: Vec<Subflow>,
    attempts: Vec<Attempt>,
    now: Instant,
}

impl Connection {
    /// One that this host opened.
    ///
    /// # Panics
    ///
    /// If an end does not parse.
    #[must_use]
    pub fn client(local: &str, remote: &str) -> Self {
        let initial = Remote { address: end(remote), id: AddressId(0) };
        Self { remotes: vec![initial], ..Self::new(Side::Client, local, remote) }
    }

    /// One that this host accepted.
    ///
    /// # Panics
    ///
    /// If an end does not parse.
    #[must_use]
    pub fn server(local: &str, remote: &str) -> Self {
        Self::new(Side::Server, local, remote)
    }

    fn new(side: Side, local: &str, remote: &str) -> Self {
        let connection = Self {
            side,
            local: end(local),
            remotes: Vec::new(),
            subflows: Vec::new(),
            attempts: Vec::new(),
            now: Instant::now(),
        };
        connection.with_subflow(1, local, remote, Origin::Initial)
    }

    /// The initial subflow is on that interface.
    #[must_use]
    pub fn begun_on(mut self, if_index: u32) -> Self {
        let initial = self.subflows.iter_mut().filter(|flow| flow.origin == Origin::Initial);
        initial.for_each(|flow| flow.if_index = Some(IfIndex(if_index)));
        self
    }

    /// The peer forbids joins to its initial address.
    #[must_use]
    pub fn deny_join_id0(mut self) -> Self {
        self.remotes.retain(|remote| remote.id != AddressId(0));
        self
    }

    /// The peer announced an address.
    ///
    /// # Panics
    ///
    /// If it does not parse.
    #[must_use]
    pub fn announced(mut self, id: u8, address: &str) -> Self {
        self.remotes.push(Remote { address: end(address), id: AddressId(id) });
        self
    }

    /// A subflow was established from an address of that interface.
    ///
    /// # Panics
    ///
    /// If an end does not parse.
    #[must_use]
    pub fn with_subflow(mut self, if_index: u32, local: &str, remote: &str, origin: Origin) -> Self {
        self.subflows.push(Subflow {
            local: end(local),
            remote: end(remote),
            if_index: Some(IfIndex(if_index)),
            origin,
            since: self.now,
            backup_by_peer: false,
            health: Health::Sound,
        });
        self
    }

    /// The subflow with that local end is gone.
    ///
    /// # Panics
    ///
    /// If the end does not parse.
    #[must_use]
    pub fn lost(mut self, local: &str) -> Self {
        let gone = end(local);
        self.subflows.retain(|flow| flow.local != gone);
        self
    }

    /// The subflow with that local end has been in that state since the connection was established: nothing
    /// if there is no such.
    ///
    /// # Panics
    ///
    /// If the end does not parse.
    #[must_use]
    pub fn with_health(mut self, local: &str, health: impl Fn(Trouble) -> Health, cause: Cause) -> Self {
        let (local, since) = (end(local), self.now);
        let flows = self.subflows.iter_mut().filter(|flow| flow.local == local);
        flows.for_each(|flow| flow.health = health(Trouble { cause, since }));
        self
    }

    /// So much time has passed since it was established; to be said last.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.now += time;
        self
    }

    /// When it was established, or what [`after`](Self::after) made of it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// A path was tried.
    ///
    /// # Panics
    ///
    /// If an address does not parse.
    #[must_use]
    pub fn tried(mut self, if_index: u32, local: &str, remote: &str, state: AttemptState, failures: u32) -> Self {
        let (local, remote, if_index) = (ip(local), end(remote), IfIndex(if_index));
        self.attempts.push(Attempt { local, if_index, remote, state, failures, lost: None });
        self
    }

    /// What path managers are shown of it.
    #[must_use]
    pub fn view(&self) -> ConnectionView<'_> {
        ConnectionView {
            token: Token(1),
            now: self.now,
            side: self.side,
            local: self.local,
            remotes: &self.remotes,
            subflows: &self.subflows,
            attempts: &self.attempts,
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address"))
}

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address with a port"))
}
