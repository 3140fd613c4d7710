//! One connection as the events tell it: its subflows, the addresses of both ends with their ids, and
//! which tokens are gone. Facts only: what is to be done about them is decided elsewhere.

mod table;
mod tokens;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use smallvec::{SmallVec, smallvec};

pub(crate) use self::table::Table;
pub(crate) use self::tokens::{Closed, TokenMap};
use crate::diag::{Cookie, SocketId};
use crate::event;
use crate::plugin::{Health, Origin};
use crate::types::{AddressId, IfIndex};

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// This host's end of the initial subflow, in the form of the socket.
    pub(crate) local: End,
    /// The peer's end of it.
    pub(crate) remote: End,
    pub(crate) server_side: bool,
    /// The peer forbids joins to its initial address and port.
    pub(crate) deny_join_id0: bool,
    /// The peer's initial address is gone, until it is announced like any other.
    pub(crate) initial_withdrawn: bool,
    /// Subflows may be created.
    pub(crate) established: bool,
    pub(crate) since: Instant,
    pub(crate) subflows: SmallVec<[Subflow; 2]>,
    /// What the peer announced, in plain form, each id once.
    pub(crate) remotes: Vec<(AddressId, SocketAddr)>,
    /// The ids of this host's addresses besides the initial one.
    pub(crate) own: SmallVec<[OwnAddress; 1]>,
    /// Ids that the peer was told to forget.
    left: Left,
}

/// The latest of some ids, the very latest last; without a heap, as there may be tens of thousands of these.
#[derive(Clone, Copy, Debug)]
struct Left {
    ids: [AddressId; MOST_LEFT],
    count: u8,
}

impl Left {
    const NONE: Self = Self { ids: [AddressId(0); MOST_LEFT], count: 0 };

    fn ids(&self) -> &[AddressId] {
        self.ids.get(..usize::from(self.count)).unwrap_or(&self.ids)
    }

    fn contains(&self, id: AddressId) -> bool {
        self.ids().contains(&id)
    }

    /// Takes it for one that is not left, if it was.
    fn remove(&mut self, id: AddressId) {
        while let Some(place) = self.ids().iter().position(|left| *left == id) {
            self.count -= 1;
            if let Some(later) = self.ids.get_mut(place..) {
                later.rotate_left(1);
            }
        }
    }

    /// Adds it, in place of the oldest if there is no room.
    fn push(&mut self, id: AddressId) {
        if usize::from(self.count) >= MOST_LEFT {
            self.ids.rotate_left(1);
            self.count -= 1;
        }
        if let Some(place) = self.ids.get_mut(usize::from(self.count)) {
            *place = id;
            self.count += 1;
        }
    }
}

/// A subflow, initial or joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subflow {
    /// Both ends in the form that the kernel told.
    pub(crate) local: End,
    pub(crate) remote: End,
    pub(crate) local_id: AddressId,
    pub(crate) if_index: Option<IfIndex>,
    pub(crate) since: Instant,
    pub(crate) origin: Origin,
    /// What this host asked of the peer; `None` if that is not known any more.
    pub(crate) backup: Option<bool>,
    pub(crate) backup_by_peer: bool,
    pub(crate) health: Health,
    /// The kernel was told to close it.
    pub(crate) closing: bool,
    /// The peer withdrew its address.
    pub(crate) withdrawn: bool,
    /// It is in the list of what there is that is being read.
    pub(crate) listed: bool,
}

/// One end of a subflow in its form, IPv6-mapped or not; smaller than a `SocketAddr`, as there may be
/// tens of thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    address: [u8; 16],
    port: u16,
    /// The address is told as IPv4, not as IPv6.
    is_ipv4: bool,
}

impl From<SocketAddr> for End {
    fn from(told: SocketAddr) -> Self {
        let (address, is_ipv4) = match told.ip() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), true),
            IpAddr::V6(v6) => (v6, false),
        };
        Self { address: address.octets(), port: told.port(), is_ipv4 }
    }
}

impl End {
    /// In the form that the kernel told.
    pub(crate) fn told(self) -> SocketAddr {
        let address = Ipv6Addr::from(self.address);
        let ip = if self.is_ipv4 { address.to_canonical() } else { address.into() };
        SocketAddr::new(ip, self.port)
    }

    /// In plain form.
    pub(crate) fn plain(self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.port)
    }

    /// The address in plain form.
    pub(crate) fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.address).to_canonical()
    }
}

/// What a socket is found by; smaller than a `SocketId`, as many may be looked up at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketName {
    local: End,
    remote: End,
    if_index: Option<IfIndex>,
}

impl From<SocketName> for SocketId {
    fn from(SocketName { local, remote, if_index }: SocketName) -> Self {
        Self { local: local.told(), remote: remote.told(), if_index, cookie: Cookie::ANY }
    }
}

/// An address of this host that has an id in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnAddress {
    pub(crate) address: IpAddr,
    /// 0 unless it was announced with one.
    pub(crate) port: u16,
    pub(crate) id: AddressId,
    pub(crate) announced: bool,
    /// The kernel is asked whether it is.
    pub(crate) unlisted: bool,
    /// It may not be, and the kernel cannot be asked.
    pub(crate) doubtful: bool,
}

impl OwnAddress {
    pub(crate) fn new(address: IpAddr, port: u16, id: AddressId) -> Self {
        Self { address, port, id, announced: false, unlisted: false, doubtful: false }
    }
}

/// As many announced addresses of a peer are remembered for one connection.
pub(crate) const MOST_REMOTES: usize = 16;
/// As many ids of one connection are remembered besides those in use.
const MOST_OWN: usize = 32;
/// As many ids of one connection are not given again at once.
const MOST_LEFT: usize = 16;

impl Connection {
    pub(crate) fn new(told: &event::Connection, now: Instant) -> Self {
        let initial = Subflow {
            local: told.local.into(),
            remote: told.remote.into(),
            local_id: AddressId(0),
            if_index: None,
            since: now,
            origin: Origin::Initial,
            backup: Some(false),
            backup_by_peer: false,
            health: Health::Sound,
            closing: false,
            withdrawn: false,
            listed: false,
        };
        Self {
            server_side: told.server_side,
            deny_join_id0: told.deny_join_id0,
            subflows: smallvec![initial],
            ..Self::found(told.local, told.remote, now)
        }
    }

    /// A connection that is there, of which no more is known than the ends of its initial subflow. What is in
    /// doubt is taken to be so that nothing is done that may not be: it announces, and joins no initial address.
    pub(crate) fn found(local: SocketAddr, remote: SocketAddr, now: Instant) -> Self {
        Self {
            local: local.into(),
            remote: remote.into(),
            server_side: true,
            deny_join_id0: true,
            initial_withdrawn: false,
            established: false,
            since: now,
            subflows: SmallVec::new(),
            remotes: Vec::new(),
            own: SmallVec::new(),
            left: Left::NONE,
        }
    }

    /// Whether these are the ends of its initial subflow.
    pub(crate) fn is_between(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.local.plain() == plain(local) && self.remote.plain() == plain(remote)
    }

    /// The initial address of this host in plain form.
    pub(crate) fn initial_address(&self) -> IpAddr {
        self.local.ip()
    }

    /// Whether the connection can have subflows of that address's family: IPv4 sockets carry IPv4 only
    /// (net/mptcp/pm.c, `mptcp_pm_addr_families_match`).
    pub(crate) fn takes(&self, address: IpAddr) -> bool {
        !self.local.is_ipv4 || address.is_ipv4()
    }

    /// Whether this host may have connected to that end: a peer joins from another port than it listens on.
    pub(crate) fn leads_to(&self, remote: SocketAddr) -> bool {
        let initial = !self.server_side && !self.initial_withdrawn && remote == self.remote.plain();
        initial || self.remotes.iter().any(|(_, known)| *known == remote)
    }

    /// Whether this host opened a subflow from that port: on the side that connected, a peer that joins comes
    /// to the port of the connection or to one that was announced.
    pub(crate) fn is_from_here(&self, port: u16) -> bool {
        !self.server_side && port != self.local.port && !self.own.iter().any(|own| own.announced && own.port == port)
    }

    /// A subflow was established, or is there; whether the ids of this host's addresses are in doubt.
    pub(crate) fn add_subflow(
        &mut self,
        told: &event::Subflow,
        origin: Origin,
        backup: Option<bool>,
        now: Instant,
    ) -> bool {
        let doubtful = self.meet_id(told.local.ip().to_canonical(), told.local_id);
        if self.subflows.iter().any(|flow| flow.is(told.local, told.remote)) {
            return doubtful;
        }
        // Most connections have as many for long, and there may be tens of thousands.
        self.subflows.reserve_exact(1);
        self.subflows.push(Subflow {
            local: told.local.into(),
            remote: told.remote.into(),
            local_id: told.local_id,
            if_index: told.if_index,
            since: now,
            origin,
            backup,
            backup_by_peer: told.backup,
            health: Health::Sound,
            closing: false,
            withdrawn: false,
            listed: false,
        });
        doubtful
    }

    /// Takes out the subflow that an event names; one that never was established has no remote port
    /// (net/mptcp/pm_netlink.c, `mptcp_event_add_subflow`).
    pub(crate) fn take_subflow(&mut self, local: SocketAddr, remote: SocketAddr) -> Option<Subflow> {
        let place = self.subflows.iter().position(|flow| flow.is(local, remote))?;
        Some(self.subflows.swap_remove(place))
    }

    /// The peer announced an address, in place of another that had the id; whether that is news. What
    /// cannot be joined is not remembered.
    pub(crate) fn announced(&mut self, id: AddressId, remote: SocketAddr) -> bool {
        let plain = plain(remote);
        // Id 0 is that of the initial address (RFC 8684, section 3.4.1).
        if id == AddressId(0) || !can_be_joined(plain.ip()) || !self.takes(plain.ip()) {
            let known = self.remotes.len();
            self.remotes.retain(|(known, _)| *known != id);
            return self.remotes.len() != known;
        }
        if let Some(known) = self.remotes.iter_mut().find(|(known, _)| *known == id) {
            let news = known.1 != plain;
            known.1 = plain;
            return news;
        }
        if self.remotes.len() >= MOST_REMOTES {
            return false;
        }
        self.remotes.push((id, plain));
        true
    }

    /// The peer withdrew the address with that id: the kernel closes the subflows to it.
    pub(crate) fn withdrawn(&mut self, id: AddressId) {
        let announced = self.remotes.iter().find(|(known, _)| *known == id).map(|(_, remote)| remote.ip());
        let address = announced.or_else(|| (id == AddressId(0)).then(|| self.remote.ip()));
        let flows = self.subflows.iter_mut().filter(|flow| Some(flow.remote.ip()) == address);
        flows.for_each(|flow| flow.withdrawn = true);
        self.remotes.retain(|(known, _)| *known != id);
        self.initial_withdrawn |= id == AddressId(0);
    }

    /// A subflow has that id for the address; whether something else was announced. Only the kernel's list
    /// tells then: the subflow may be one of before.
    fn meet_id(&mut self, address: IpAddr, id: AddressId) -> bool {
        let differs = |own: &OwnAddress| id != AddressId(0) && contradicts(own, address, id);
        if self.own.iter().any(|own| own.announced && differs(own)) {
            return true;
        }
        if id != AddressId(0) {
            self.learn_id(address, id);
        }
        false
    }

    /// The address has that id for the kernel and the peer, and so no other, nor has another address that
    /// id: what was asked for otherwise is refused.
    pub(crate) fn learn_id(&mut self, address: IpAddr, id: AddressId) {
        self.own.retain(|own| !contradicts(own, address, id));
        if id == AddressId(0) {
            // It keeps that of the initial address, though the peer was told to forget it.
            self.left.remove(id);
            return;
        }
        if !self.own.iter().any(|own| own.address == address && own.id == id) {
            self.remember_id(OwnAddress::new(address, 0, id));
        }
    }

    /// The same, as the kernel lists it: with the port with which it is announced, if any.
    pub(crate) fn learn_listed(&mut self, address: IpAddr, port: u16, id: AddressId) {
        if port == 0 {
            return self.learn_id(address, id);
        }
        // A subflow told the id before, and no port.
        if let Some(known) = self.own.iter_mut().find(|own| (own.address, own.id) == (address, id)) {
            known.port = port;
            return;
        }
        self.own.retain(|own| own.id != id && (own.address, own.port) != (address, port));
        self.remember_id(OwnAddress::new(address, port, id));
    }

    pub(crate) fn remember_id(&mut self, own: OwnAddress) {
        if self.own.len() >= MOST_OWN {
            let subflows = &self.subflows;
            let in_use = |id| subflows.iter().any(|flow| flow.local_id == id);
            self.own.retain(|other| other.announced || in_use(other.id));
        }
        self.own.push(own);
    }

    /// The kernel is asked what is announced.
    pub(crate) fn begin_list(&mut self) {
        self.own.iter_mut().for_each(|own| own.unlisted = own.announced);
    }

    /// It is not known whether the kernel took an announcement.
    pub(crate) fn may_not_be_announced(&mut self, address: IpAddr, id: AddressId) {
        let own = self.own.iter_mut().filter(|own| own.address == address && own.id == id);
        own.for_each(|own| own.unlisted = own.announced);
    }

    /// The kernel holds it to be announced.
    pub(crate) fn is_announced(&mut self, address: IpAddr, id: AddressId) {
        for own in self.own.iter_mut().filter(|own| own.address == address && own.id == id) {
            (own.announced, own.unlisted) = (true, false);
        }
    }

    /// The kernel cannot be asked; whether that leaves something in doubt.
    pub(crate) fn have_no_list(&mut self) -> bool {
        let mut any = false;
        for own in self.own.iter_mut().filter(|own| own.unlisted) {
            (own.unlisted, own.doubtful, any) = (false, true, true);
        }
        any
    }

    /// What was announced when the kernel was asked and it did not name is not; whether there is such.
    pub(crate) fn end_list(&mut self) -> bool {
        let mut any = false;
        for own in self.own.iter_mut().filter(|own| own.unlisted) {
            (own.announced, own.unlisted, any) = (false, false, true);
        }
        any
    }

    /// The kernel did not take an announcement.
    pub(crate) fn not_announced(&mut self, address: IpAddr, id: AddressId) {
        // By now it may have been made with another id.
        let own = self.own.iter_mut().filter(|own| own.address == address && own.id == id);
        own.for_each(|own| own.announced = false);
    }

    /// The peer is told to forget that id: it may hear of it after a join that follows, and then close
    /// what has that id. So its address gets another if it comes back.
    pub(crate) fn leave_id(&mut self, id: AddressId) {
        self.own.retain(|own| own.id != id);
        self.left.push(id);
    }

    /// The id that the address has; 0 is that of the initial one.
    pub(crate) fn id_of(&self, address: IpAddr, port: u16) -> Option<AddressId> {
        let own = self.own.iter().find(|own| own.address == address && own.port == port).map(|own| own.id);
        let is_initial = port == 0 && address == self.initial_address() && !self.left.contains(AddressId(0));
        own.or_else(|| is_initial.then_some(AddressId(0)))
    }

    /// Whether the kernel or the peer may know another address by that id.
    pub(crate) fn is_taken(&self, id: AddressId) -> bool {
        let in_use = self.own.iter().any(|own| own.id == id) || self.subflows.iter().any(|flow| flow.local_id == id);
        in_use || self.left.contains(id)
    }
}

impl Subflow {
    /// Whether it is the one with these ends.
    pub(crate) fn is(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.local == local.into() && self.remote == remote.into()
    }

    /// This host's address in plain form.
    pub(crate) fn local_address(&self) -> IpAddr {
        self.local.ip()
    }

    /// The peer's end in plain form.
    pub(crate) fn remote_end(&self) -> SocketAddr {
        self.remote.plain()
    }

    /// What names its TCP socket, whichever it is by now; its address is on that interface. A socket that is
    /// bound to an interface, as the application may have bound the initial one, is found by that alone, and
    /// one that is not by any (include/net/inet_hashtables.h, `inet_match`).
    pub(crate) fn name(&self, place: Option<IfIndex>) -> SocketName {
        SocketName { local: self.local, remote: self.remote, if_index: self.if_index.or(place) }
    }

    /// It carries data as far as is known.
    pub(crate) fn is_sound(&self) -> bool {
        self.health.is_sound() && !self.closing
    }

    /// Nothing takes its place: it is sound, or merely suspect.
    pub(crate) fn stays(&self) -> bool {
        !self.health.is_lost() && !self.closing
    }
}

/// Whether the kernel cannot hold both that and the address to have the id.
fn contradicts(own: &OwnAddress, address: IpAddr, id: AddressId) -> bool {
    if own.address == address { own.id != id && own.port == 0 } else { own.id == id }
}

/// The same end without the IPv6-mapped form.
pub(crate) fn plain(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

/// Whether another host can have the address; that it is none of this host's must be asked elsewhere.
fn can_be_joined(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            // From 224 on: multicast, reserved, broadcast. From 0: this network (RFC 6890).
            !(v4.is_loopback() || v4.is_link_local() || first == 0 || first >= 224)
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_multicast() || v6.is_unspecified() || v6.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Token;

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn connection(local: &str, remote: &str) -> Connection {
        let (token, local, remote) = (Token(1), end(local), end(remote));
        let told = event::Connection { token, local, remote, server_side: false, deny_join_id0: false };
        Connection::new(&told, Instant::now())
    }

    fn subflow(local: &str, remote: &str, id: u8) -> event::Subflow {
        let (local, remote) = (end(local), end(remote));
        event::Subflow {
            token: Token(1),
            local,
            remote,
            local_id: AddressId(id),
            remote_id: AddressId(0),
            backup: false,
            if_index: None,
            error: None,
            reset: None,
        }
    }

    #[test]
    fn an_end_keeps_the_form_in_which_it_was_told_and_has_a_plain_one() {
        for (told, plain) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            let found = End::from(end(told));
            assert_eq!((found.told(), found.plain(), found.ip()), (end(told), end(plain), end(plain).ip()));
        }
        assert_ne!(End::from(end("10.0.0.1:80")), End::from(end("[::ffff:10.0.0.1]:80")));
    }

    #[test]
    fn a_mapped_connection_takes_both_families_and_an_ipv4_one_its_own() {
        let [v4, v6] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let mapped = connection("[::ffff:10.0.0.1]:40000", "[::ffff:192.0.2.1]:80");
        assert!(mapped.takes(v4) && mapped.takes(v6));
        assert!(mapped.leads_to(end("192.0.2.1:80")));
        let plain = connection("10.0.0.1:40000", "192.0.2.1:80");
        assert!(plain.takes(v4) && !plain.takes(v6));
    }

    #[test]
    fn announced_addresses_are_filtered_bounded_and_each_id_stands_for_one() {
        let mut known = connection("10.0.0.1:40000", "192.0.2.1:80");
        for (id, remote) in [(0, "192.0.2.2:80"), (1, "127.0.0.1:80"), (1, "[2001:db8::1]:80"), (1, "224.0.0.1:80")] {
            assert!(!known.announced(AddressId(id), end(remote)), "{remote}");
        }
        assert!(known.announced(AddressId(1), end("[::ffff:192.0.2.2]:80")));
        assert!(!known.announced(AddressId(1), end("192.0.2.2:80")), "that is no news");
        assert!(known.announced(AddressId(1), end("192.0.2.3:80")));
        assert_eq!(known.remotes, [(AddressId(1), end("192.0.2.3:80"))]);
        assert!(known.announced(AddressId(1), end("0.0.0.0:80")), "the former is not meant any more");
        assert_eq!(known.remotes, []);
        for id in 1..=255 {
            known.announced(AddressId(id), end(&format!("192.0.2.{id}:80")));
        }
        assert_eq!(known.remotes.len(), MOST_REMOTES);
    }

    #[test]
    fn ids_are_learnt_from_subflows_and_the_kernel_is_right() {
        let mut known = connection("10.0.0.1:40000", "192.0.2.1:80");
        let [b, c] = ["10.0.1.1", "10.0.2.1"].map(|text| text.parse::<IpAddr>().unwrap());
        known.remember_id(OwnAddress { announced: true, ..OwnAddress::new(b, 0, AddressId(1)) });
        let joined = subflow("10.0.2.1:40000", "192.0.2.1:80", 1);
        assert!(
            known.add_subflow(&joined, Origin::Peer, Some(false), Instant::now()),
            "what was announced is in doubt"
        );
        assert_eq!((known.id_of(b, 0), known.id_of(c, 0)), (Some(AddressId(1)), None));
        known.not_announced(b, AddressId(1));
        assert!(!known.add_subflow(&joined, Origin::Peer, Some(false), Instant::now()));
        assert_eq!((known.id_of(b, 0), known.id_of(c, 0)), (None, Some(AddressId(1))));
        known.remember_id(OwnAddress { announced: true, ..OwnAddress::new(b, 0, AddressId(2)) });
        known.learn_id(b, AddressId(5));
        assert_eq!(known.id_of(b, 0), Some(AddressId(5)));
        assert_eq!(known.id_of(known.initial_address(), 0), Some(AddressId(0)));
        known.leave_id(AddressId(0));
        assert_eq!(known.id_of(known.initial_address(), 0), None);
        known.learn_id(known.initial_address(), AddressId(0));
        assert_eq!(known.id_of(known.initial_address(), 0), Some(AddressId(0)), "the kernel takes no other");
        assert!(known.is_taken(AddressId(5)) && known.is_taken(AddressId(1)) && !known.is_taken(AddressId(2)));
    }

    #[test]
    fn ids_of_addresses_that_are_not_used_are_forgotten_beyond_the_most() {
        let mut known = connection("10.0.0.1:40000", "192.0.2.1:80");
        known.add_subflow(&subflow("10.0.1.1:40000", "192.0.2.1:80", 200), Origin::Local, Some(false), Instant::now());
        for id in 1..=150 {
            let address = IpAddr::from([10, 9, 9, id]);
            known.remember_id(OwnAddress { announced: id == 1, ..OwnAddress::new(address, 0, AddressId(id)) });
        }
        assert!(known.own.len() <= MOST_OWN + 1, "{}", known.own.len());
        assert!(known.is_taken(AddressId(200)) && known.is_taken(AddressId(1)));
    }

    #[test]
    fn of_the_ids_that_were_left_the_latest_are_kept_and_one_that_is_used_again_is_none() {
        let mut left = Left::NONE;
        (1..=20).for_each(|id| left.push(AddressId(id)));
        assert_eq!(left.ids(), (5..=20).map(AddressId).collect::<Vec<_>>());
        left.push(AddressId(7));
        left.remove(AddressId(7));
        left.remove(AddressId(99));
        assert_eq!(left.ids(), [6].into_iter().chain(8..=20).map(AddressId).collect::<Vec<_>>());
        left.push(AddressId(0));
        assert!(left.contains(AddressId(0)) && !left.contains(AddressId(5)));
    }
}
