//! The public interface of a path manager: what it is shown, what it may want, and the registry of
//! those compiled in. Nothing here talks to the kernel or decides how a want is made true.

mod offer;
mod paths;
mod preference;

use std::fmt;
use std::net::IpAddr;

use crate::settings::{Settings, SettingsError};
use crate::types::{EndpointFlags, IfIndex};

pub use inventory;
pub use offer::announce_interfaces;
pub use paths::{
    Attempt, AttemptState, Cause, ConnectionView, Health, Memo, Origin, Paths, Remote, Side, Subflow, Trouble,
    WantedAnnouncement, WantedSubflow,
};
pub use preference::{Candidate, by_preference};

/// A policy: given what is known, it states what it wants. The engine makes it so and keeps it so.
///
/// Every method has a default that wants nothing. A path manager holds its settings and no other
/// state: the same view must always give the same wants.
pub trait PathManager {
    /// The endpoints wanted in the kernel's own path manager; `None` leaves them alone.
    ///
    /// An address that the list names twice, or that no interface has, is ignored. When the kernel
    /// takes fewer endpoints than are wanted, the engine chooses among them: the first IPv4 and IPv6
    /// address of every interface before a second address of one.
    fn endpoints(&self, view: &View<'_>) -> Option<Endpoints> {
        let _ = view;
        None
    }

    /// The subflows and announcements wanted for one connection that is fully established; asked again
    /// whenever something changed that it can see.
    ///
    /// A subflow that this host opened and that is not wanted is closed, unless it is the last that
    /// works. The initial subflow and those of the peer stay while their address does.
    fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, memo: &mut Memo, want: &mut Paths) {
        let _ = (view, connection, memo, want);
    }
}

/// What the engine knows of the host, with the verdict of every rule already attached.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    addresses: &'a [LocalAddress<'a>],
}

impl<'a> View<'a> {
    /// A view of these addresses.
    #[must_use]
    pub const fn new(addresses: &'a [LocalAddress<'a>]) -> Self {
        Self { addresses }
    }

    /// Every address of the host, usable or not, by interface index and then in the order in which
    /// the kernel named them.
    #[must_use]
    pub const fn addresses(&self) -> &'a [LocalAddress<'a>] {
        self.addresses
    }

    /// The addresses that may be used now.
    pub fn usable(&self) -> impl Iterator<Item = &'a LocalAddress<'a>> + use<'a> {
        self.addresses.iter().filter(|address| address.unusable.is_none())
    }
}

/// An address of this host as a path manager sees it.
#[derive(Clone, Copy, Debug)]
pub struct LocalAddress<'a> {
    /// The address itself, never that of the far end of a point-to-point link.
    pub address: IpAddr,
    /// The interface that has it.
    pub if_index: IfIndex,
    /// That interface's name.
    pub interface: &'a str,
    /// The flags that the configuration gives to endpoints of this address.
    pub flags: EndpointFlags,
    /// Subflows of it are to carry data only when no other can.
    pub backup: bool,
    /// Rank of its interface where one is preferred: the lowest first.
    pub order: i32,
    /// At most so many subflows of one connection on its interface, the initial one included.
    pub max_subflows: Option<u8>,
    /// Whether it may be announced to peers.
    pub announce: bool,
    /// Why the address must not be used; `None` if it may be.
    pub unusable: Option<Unusable>,
    /// Whether packets can pass, whatever the rules say: its link is up and nothing is wrong with the address.
    pub alive: bool,
}

impl<'a> LocalAddress<'a> {
    /// A usable address for which nothing in particular is configured.
    #[must_use]
    pub const fn new(address: IpAddr, if_index: IfIndex, interface: &'a str) -> Self {
        Self {
            address,
            if_index,
            interface,
            flags: EndpointFlags::SUBFLOW,
            backup: false,
            order: 0,
            max_subflows: None,
            announce: true,
            unusable: None,
            alive: true,
        }
    }
}

/// Why an address is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unusable {
    /// Its interface is not known (yet).
    NoLink,
    /// Its interface is administratively down.
    LinkDown,
    /// Its interface has no carrier.
    NoCarrier,
    /// Its interface is up but not yet ready to carry data (IEEE 802.1X, for example).
    Dormant,
    /// Its interface is the loopback interface, or the address is one of loopback.
    Loopback,
    /// The rule of that number, from 1, excludes its interface.
    Rule(u16),
    /// Its interface has a name that is excluded unless a rule says otherwise.
    BuiltIn,
    /// Its interface is a VPN, or another that is not mixed with others: connections that began there stay
    /// there alone, and others do not come there.
    Apart,
    /// It has host scope and `skip_loopback` is set.
    HostScope,
    /// It is link-local and `skip_link_local` is set.
    LinkLocal,
    /// It is not a unicast address.
    NotUnicast,
    /// Duplicate address detection has not ended yet.
    Tentative,
    /// Duplicate address detection found another host that has it.
    Duplicate,
    /// Its preferred lifetime is over.
    Deprecated,
    /// It is a temporary address and its interface has a stable one of the same prefix.
    Temporary,
    /// It was there when the daemon started, has not changed since, and `existing` is not set.
    Existing,
    /// The kernel has not been asked yet whether it has a route to the Internet.
    RouteUnknown,
    /// It has no route to the Internet through its interface and `check_route` is set.
    NoRoute,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule(number) => return write!(f, "rule {number} excludes its interface"),
            Self::BuiltIn => "its interface is excluded by name (built in, a rule with `use = true` overrides it)",
            Self::Apart => "its interface is kept apart, as VPNs are (a rule with `use = true` overrides it)",
            Self::NoLink => "its interface is not known",
            Self::LinkDown => "its interface is down",
            Self::NoCarrier => "its interface has no carrier",
            Self::Dormant => "its interface is not ready yet",
            Self::Loopback => "it belongs to the loopback interface",
            Self::HostScope => "it has host scope (skip_loopback)",
            Self::LinkLocal => "it is link-local (skip_link_local)",
            Self::NotUnicast => "it is not a unicast address",
            Self::Tentative => "duplicate address detection has not ended",
            Self::Duplicate => "another host has the same address",
            Self::Deprecated => "it is deprecated",
            Self::Temporary => "a stable address of the same prefix is preferred",
            Self::Existing => "it was there at start (no `existing` flag)",
            Self::RouteUnknown => "its route is not known yet (check_route)",
            Self::NoRoute => "it has no route to the internet (check_route)",
        })
    }
}

/// Endpoints wanted in the kernel's own path manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// In no particular order.
    pub wanted: Vec<WantedEndpoint>,
}

/// One endpoint wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WantedEndpoint {
    /// An address of this host.
    pub address: IpAddr,
    /// The interface that subflows from it are bound to.
    pub if_index: IfIndex,
    /// `signal` and `fullmesh` exclude each other.
    pub flags: EndpointFlags,
}

/// What a path manager manages, as `--list-plugins` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manages {
    /// The endpoints and limits of the kernel's own path manager.
    Endpoints,
    /// The subflows and announced addresses of every connection.
    Connections,
}

impl fmt::Display for Manages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Endpoints => "endpoints",
            Self::Connections => "connections",
        })
    }
}

/// A path manager compiled into this program; submit it with [`register_plugin!`](crate::register_plugin).
#[derive(Debug)]
pub struct Plugin {
    /// What `--path-manager` and `--load-plugins` call it: lower-case letters, digits and `_`.
    pub name: &'static str,
    /// What it manages.
    pub manages: Manages,
    /// Of several loaded, the lowest comes first, then the name decides.
    pub priority: i8,
    /// One line for `--list-plugins`.
    pub summary: &'static str,
    /// Makes one from the table `[pm.NAME]` of the configuration (empty if there is none).
    pub build: fn(&mut Settings) -> Result<Box<dyn PathManager>, SettingsError>,
}

inventory::collect!(Plugin);

/// Submits a [`Plugin`] to the registry, in this crate or in any other that is linked in.
#[macro_export]
macro_rules! register_plugin {
    ($plugin:expr) => {
        $crate::plugin::inventory::submit! { $plugin }
    };
}

/// Why there is no usable registry: a mistake of whoever built the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryError {
    /// No path manager was compiled in.
    Empty,
    /// Two have the same name.
    Twice(&'static str),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str(
                "no path manager is compiled in: build with at least one pm-NAME feature (pm-addr_adv, for example)",
            ),
            Self::Twice(name) => write!(f, "two path managers named {name:?} are compiled in: rename or leave out one"),
        }
    }
}

/// Every path manager compiled in, by priority and then name.
pub fn registry() -> Result<Vec<&'static Plugin>, RegistryError> {
    sorted(inventory::iter::<Plugin>.into_iter().collect())
}

fn sorted(mut plugins: Vec<&'static Plugin>) -> Result<Vec<&'static Plugin>, RegistryError> {
    if plugins.is_empty() {
        return Err(RegistryError::Empty);
    }
    plugins.sort_unstable_by_key(|plugin| (plugin.priority, plugin.name));
    let mut names: Vec<_> = plugins.iter().map(|plugin| plugin.name).collect();
    names.sort_unstable();
    match names.windows(2).find_map(|pair| (pair.first() == pair.last()).then(|| pair.first().copied())) {
        Some(Some(name)) => Err(RegistryError::Twice(name)),
        _ => Ok(plugins),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Idle;
    impl PathManager for Idle {}

    const fn plugin(name: &'static str, priority: i8) -> Plugin {
        Plugin { name, manages: Manages::Endpoints, priority, summary: "", build: |_| Ok(Box::new(Idle)) }
    }

    static LATE: Plugin = plugin("a", 5);
    static EARLY: Plugin = plugin("b", -5);
    static ALSO_EARLY: Plugin = plugin("c", -5);

    #[test]
    fn plugins_are_sorted_by_priority_and_then_name() {
        let names: Vec<_> =
            sorted(vec![&LATE, &ALSO_EARLY, &EARLY]).unwrap().iter().map(|plugin| plugin.name).collect();
        assert_eq!(names, ["b", "c", "a"]);
    }

    #[test]
    fn an_empty_registry_and_a_name_used_twice_are_errors() {
        assert_eq!(sorted(Vec::new()).unwrap_err(), RegistryError::Empty);
        assert_eq!(sorted(vec![&LATE, &EARLY, &LATE]).unwrap_err(), RegistryError::Twice("a"));
        assert!(RegistryError::Empty.to_string().contains("pm-addr_adv"));
    }

    #[test]
    fn a_path_manager_wants_nothing_unless_it_says_so() {
        assert_eq!(Idle.endpoints(&View::new(&[])), None);
    }
}
