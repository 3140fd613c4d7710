//! The engine against a model of the kernel, on virtual time: random changes of the host, lost and
//! repeated messages, interrupted dumps, refusals, other managers, restarts and reloads. Whatever
//! happened, once it is quiet the kernel must hold what the rules ask for, and nothing of others may
//! have been touched.
//!
//! `MPTCPD_SIMULATION_SEED=N` replays one seed, with every step printed; `MPTCPD_SIMULATION_SEEDS=N` tries so
//! many.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Answer, Engine, Failure, Input, Output, Policy, Ticket};
use crate::command::{PmCommand, Request, RouteQuestion};
use crate::event::RoutingChange;
use crate::event::{Address, AddressFlags, Endpoint, Limits, Link, LinkFlags, NetworkEvent, RouteAnswer, Scope};
use crate::plugin::{Endpoints, PathManager, View, WantedEndpoint};
use crate::random::{Random, for_every_seed};
use crate::rules::{Interfaces, Rules};
use crate::state_file::SavedState;
use crate::types::{AddressId, EndpointFlags, Errno, IfIndex, NotifyFlags};
use crate::wire::Refusal;

const SEEDS: u64 = 2000;
const STEPS: u32 = 60;
const CAPACITY: usize = 8;

struct Everything;

impl PathManager for Everything {
    fn endpoints(&self, view: &View<'_>) -> Option<Endpoints> {
        let wanted = |local: &crate::plugin::LocalAddress<'_>| WantedEndpoint {
            address: local.address,
            if_index: local.if_index,
            flags: local.flags,
        };
        Some(Endpoints { wanted: view.usable().map(wanted).collect() })
    }
}

#[derive(Clone, Debug)]
enum Told {
    Link(IfIndex, LinkFlags, Option<Ticket>),
    LinkGone(IfIndex),
    Address(Address, Option<Ticket>),
    AddressGone(Address),
    Routes,
    Lost,
    Route(Ticket, bool),
    End(Ticket, Result<(), Option<Errno>>),
    Endpoint(Ticket, Endpoint),
    Limits(Ticket, Limits),
}

/// What the kernel would be.
#[derive(Debug, Default)]
struct Kernel {
    links: BTreeMap<u32, LinkFlags>,
    addresses: Vec<Address>,
    /// Interfaces with a default route, apart from their being up.
    routes: BTreeSet<u32>,
    /// The endpoint, and whether the daemon added it.
    endpoints: Vec<(Endpoint, bool)>,
    limits: Limits,
    network: VecDeque<Told>,
    answers: VecDeque<Told>,
    commands: u32,
    /// The last id that it chose itself.
    chosen: u8,
    /// Commands are refused now and then.
    refuses: bool,
    /// It is one that does not say why it takes no endpoint.
    old: bool,
}

const UP: LinkFlags = LinkFlags(0x1_0041);
const NO_CARRIER: LinkFlags = LinkFlags(1);
const DOWN: LinkFlags = LinkFlags(0);

impl Kernel {
    fn tell(&mut self, told: Told, random: &mut Random) {
        if random.one_in(10) {
            self.network.push_back(told.clone());
        }
        self.network.push_back(told);
    }

    fn execute(&mut self, ticket: Ticket, request: &Request, random: &mut Random) {
        match request {
            Request::Path(command) => panic!("no connection is known: {command}"),
            Request::Sockets(request) => panic!("no connection is managed: {request}"),
            Request::DumpLinks => {
                let links: Vec<_> = self.links.iter().map(|(i, f)| Told::Link(IfIndex(*i), *f, Some(ticket))).collect();
                self.dump(links, ticket, random);
            }
            Request::DumpAddresses => {
                let addresses = self.addresses.iter().map(|address| Told::Address(*address, Some(ticket))).collect();
                self.dump(addresses, ticket, random);
            }
            Request::AskRoute(RouteQuestion { if_index, .. }) => {
                let there = self.routes.contains(&if_index.0) && self.links.get(&if_index.0) == Some(&UP);
                self.network.push_back(Told::Route(ticket, there));
            }
            Request::Pm(command) => {
                let result = self.command(ticket, command, random);
                self.answers.push_back(Told::End(ticket, result.map_err(Some)));
            }
        }
    }

    fn dump(&mut self, entries: Vec<Told>, ticket: Ticket, random: &mut Random) {
        self.network.extend(entries);
        let interrupted = random.one_in(12);
        self.network.push_back(Told::End(ticket, if interrupted { Err(None) } else { Ok(()) }));
    }

    fn command(&mut self, ticket: Ticket, command: &PmCommand, random: &mut Random) -> Result<(), Errno> {
        if self.refuses && random.one_in(4) {
            return Err(Errno::PERM);
        }
        match command {
            PmCommand::DumpEndpoints => {
                self.answers.extend(self.endpoints.iter().map(|(endpoint, _)| Told::Endpoint(ticket, *endpoint)));
                return Ok(());
            }
            PmCommand::GetLimits => {
                self.answers.push_back(Told::Limits(ticket, self.limits));
                return Ok(());
            }
            PmCommand::GetEndpoint(id) => {
                let found = self.endpoints.iter().find(|(endpoint, _)| endpoint.id == *id).ok_or(Errno::INVAL)?;
                self.answers.push_back(Told::Endpoint(ticket, found.0));
                return Ok(());
            }
            _ => self.commands += 1,
        }
        match command {
            PmCommand::AddEndpoint(endpoint) => self.add(*endpoint, true),
            PmCommand::RemoveEndpoint(id) => {
                let place = self.endpoints.iter().position(|(endpoint, _)| endpoint.id == *id);
                let (_, own) = self.endpoints.remove(place.ok_or(Errno::INVAL)?);
                assert!(own, "an endpoint of another was removed");
                Ok(())
            }
            PmCommand::SetFlags(wanted) => {
                let found = self.endpoints.iter_mut().find(|(endpoint, _)| endpoint.id == wanted.id);
                let (endpoint, own) = found.ok_or(Errno::INVAL)?;
                assert!(*own, "an endpoint of another was changed");
                let changeable = EndpointFlags::BACKUP.union(EndpointFlags::FULLMESH);
                endpoint.flags = endpoint.flags.without(changeable).union(wanted.flags.intersection(changeable));
                Ok(())
            }
            PmCommand::SetLimits(limits) => {
                assert!(limits.subflows <= 8 && limits.add_addr_accepted <= 8);
                self.limits = *limits;
                Ok(())
            }
            other => panic!("the engine has no use for {other}"),
        }
    }

    /// `mptcp_pm_nl_append_new_local_addr`.
    fn add(&mut self, mut endpoint: Endpoint, own: bool) -> Result<(), Errno> {
        let implicit = |other: &Endpoint| other.flags.contains(EndpointFlags::IMPLICIT);
        if self.endpoints.len() >= CAPACITY {
            return Err(Errno::RANGE);
        }
        if endpoint.id.0 != 0 && self.endpoints.iter().any(|(other, _)| other.id == endpoint.id) {
            return Err(Errno::BUSY);
        }
        if let Some(place) = self.endpoints.iter().position(|(other, _)| other.address == endpoint.address) {
            let (other, _) = self.endpoints[place];
            if !implicit(&other) {
                return Err(Errno::EXIST);
            }
            if endpoint.id.0 != 0 {
                return Err(Errno::INVAL);
            }
            endpoint.id = other.id;
            self.endpoints.remove(place);
        } else if endpoint.id.0 == 0 {
            // The kernel goes on from the last it chose (`next_id`).
            let free = |id: &u8| *id != 0 && !self.endpoints.iter().any(|(other, _)| other.id.0 == *id);
            self.chosen = (0..=255).map(|more| self.chosen.wrapping_add(1).wrapping_add(more)).find(free).unwrap();
            endpoint.id = AddressId(self.chosen);
        }
        self.endpoints.push((endpoint, own));
        Ok(())
    }
}

/// One host: kernel, daemon, and what the daemon saved.
struct Host {
    kernel: Kernel,
    engine: Engine,
    saved: SavedState,
    rules: Rules,
    random: Random,
    now: Instant,
    ready: bool,
    trace: bool,
}

fn milliseconds(number: usize) -> Duration {
    Duration::from_millis(number.try_into().unwrap())
}

fn policy(rules: &Rules) -> Policy {
    Policy {
        rules: rules.clone(),
        managers: vec![Box::new(Everything)],
        connections: None,
        paths: super::PathPolicy::default(),
        debug: true,
    }
}

impl Host {
    fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let mut notify = NotifyFlags::EXISTING.union(NotifyFlags::SKIP_LINK_LOCAL).union(NotifyFlags::SKIP_LOOPBACK);
        if random.one_in(3) {
            notify = notify.union(NotifyFlags::CHECK_ROUTE);
        }
        let rules = Rules { notify, flags: EndpointFlags::SUBFLOW, interfaces: Interfaces::default() };
        let now = Instant::now();
        let limits = Limits { subflows: 2, add_addr_accepted: 0 };
        let kernel = Kernel { limits, old: random.one_in(4), ..Kernel::default() };
        let engine = Engine::new(policy(&rules), SavedState::default(), now);
        Self { kernel, engine, saved: SavedState::default(), rules, random, now, ready: false, trace }
    }

    /// One turn of the loop: some of what waits is read, then the engine decides.
    fn turn(&mut self) {
        // At times it keeps up, at times it does not.
        let most = if self.random.one_in(3) { 30 } else { 4 };
        let network = self.random.below(most);
        for _ in 0..network {
            let Some(told) = self.kernel.network.pop_front() else {
                self.engine.handle(Input::NetworkDrained, self.now);
                break;
            };
            self.hand(&told);
        }
        let mut removals = true;
        for _ in 0..4 {
            while let Some(told) = self.kernel.answers.pop_front() {
                self.hand(&told);
            }
            self.engine.advance(self.now, removals);
            let mut sent = false;
            while let Some(output) = self.engine.next_output() {
                if self.trace {
                    println!("{output:?}");
                }
                match output {
                    Output::Send(ticket, request) => {
                        removals &= !matches!(request, Request::Pm(PmCommand::RemoveEndpoint(_)));
                        self.kernel.execute(ticket, &request, &mut self.random);
                        sent = true;
                    }
                    Output::Ready => self.ready = true,
                    Output::Listen(at) | Output::Unlisten(at) => panic!("no connection is managed: {at}"),
                    Output::Log(_) | Output::Uplinks | Output::Done => {}
                }
            }
            if !sent {
                break;
            }
        }
        self.save();
    }

    fn save(&mut self) {
        if let Some(saved) = self.engine.take_saved_state(self.now) {
            self.saved = saved;
        }
    }

    fn hand(&mut self, told: &Told) {
        let now = self.now;
        let name = |index: &IfIndex| format!("link{}", index.0);
        match told {
            Told::Link(index, flags, dump) => {
                let name = name(index);
                let link = Link { name: Some(name.as_bytes()), ..Link::new(*index, *flags) };
                self.engine.handle(Input::Network { event: NetworkEvent::Link(link), dump: *dump }, now);
            }
            Told::LinkGone(index) => self.network_event(NetworkEvent::LinkGone(*index), None),
            Told::Address(address, dump) => self.network_event(NetworkEvent::Address(*address), *dump),
            Told::AddressGone(address) => self.network_event(NetworkEvent::AddressGone(*address), None),
            Told::Routes => self.network_event(NetworkEvent::RoutingChanged(RoutingChange::Everything), None),
            Told::Lost => self.engine.handle(Input::NetworkLost, now),
            Told::Route(ticket, there) => {
                let route = RouteAnswer { unicast: true, through: *there };
                self.engine.handle(Input::Answer(*ticket, Answer::Route(route)), now);
            }
            Told::End(ticket, result) => {
                let old = self.kernel.old;
                let failure = |errno: Option<Errno>| match errno {
                    Some(Errno::RANGE | Errno::BUSY | Errno::EXIST) if old => {
                        let text = "too many addresses or duplicate one";
                        Failure::Refused(Refusal { errno: Errno::INVAL, text, missing: None })
                    }
                    Some(errno) => Failure::Refused(Refusal { errno, text: "refused", missing: None }),
                    None => Failure::Interrupted,
                };
                self.engine.handle(Input::End(*ticket, result.map_err(failure)), now);
            }
            Told::Endpoint(ticket, endpoint) => {
                self.engine.handle(Input::Answer(*ticket, Answer::Endpoint(*endpoint)), now);
            }
            Told::Limits(ticket, limits) => {
                self.engine.handle(Input::Answer(*ticket, Answer::Limits(*limits)), now);
            }
        }
    }

    fn network_event(&mut self, event: NetworkEvent<'_>, dump: Option<Ticket>) {
        self.engine.handle(Input::Network { event, dump }, self.now);
    }

    /// Something happens to the host.
    fn change(&mut self) {
        match self.random.below(24) {
            0..=4 => self.change_link(),
            5..=12 => self.change_address(),
            13 | 14 => self.change_route(),
            15 | 16 => self.another_manager(),
            17 => self.lose_messages(),
            18 => self.restart(),
            19 => self.reload(),
            20 => self.engine.handle(Input::Resumed, self.now),
            21 => self.kernel.refuses = self.random.one_in(2),
            22 => self.kernel.answers.clear(),
            _ => self.now += milliseconds(self.random.below(30_000)),
        }
    }

    fn change_link(&mut self) {
        let index = u32::try_from(2 + self.random.below(5)).unwrap();
        let told = match self.random.below(8) {
            0 => {
                self.kernel.links.remove(&index);
                let (gone, kept) = self.kernel.addresses.drain(..).partition(|a: &Address| a.if_index.0 == index);
                self.kernel.addresses = kept;
                let gone: Vec<Address> = gone;
                // The kernel tells of most addresses, but the link's end stands for all.
                for address in gone.into_iter().skip(1) {
                    self.kernel.tell(Told::AddressGone(address), &mut self.random);
                }
                Told::LinkGone(IfIndex(index))
            }
            n => {
                let flags = [DOWN, NO_CARRIER, UP, UP, UP, UP, UP][n - 1];
                self.kernel.links.insert(index, flags);
                Told::Link(IfIndex(index), flags, None)
            }
        };
        self.kernel.tell(told, &mut self.random);
    }

    fn change_address(&mut self) {
        let links: Vec<u32> = self.kernel.links.keys().copied().collect();
        if links.is_empty() {
            return self.change_link();
        }
        let at = self.random.below(links.len());
        let if_index = IfIndex(links[at]);
        // Few enough that the same address comes up on two links.
        let number = u8::try_from(self.random.below(14)).unwrap();
        let address: IpAddr = match number {
            0..=8 => IpAddr::from([10, 0, 0, number]),
            9 => IpAddr::from([169, 254, 1, 1]),
            10 => "fe80::1".parse().unwrap(),
            _ => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)]),
        };
        let flags = AddressFlags([0x80, 0x80, 0x80, 0x40, 0x20][self.random.below(5)]);
        let told = Address { if_index, address, peer: address, prefix_length: 24, scope: Scope(0), flags };
        let place = self.kernel.addresses.iter().position(|a| (a.if_index, a.address) == (if_index, address));
        match place {
            Some(place) if self.random.one_in(2) => {
                let gone = self.kernel.addresses.remove(place);
                self.kernel.tell(Told::AddressGone(gone), &mut self.random);
            }
            Some(place) => {
                self.kernel.addresses[place] = told;
                self.kernel.tell(Told::Address(told, None), &mut self.random);
            }
            None => {
                self.kernel.addresses.push(told);
                self.kernel.tell(Told::Address(told, None), &mut self.random);
            }
        }
    }

    fn change_route(&mut self) {
        let index = u32::try_from(2 + self.random.below(5)).unwrap();
        if !self.kernel.routes.remove(&index) {
            self.kernel.routes.insert(index);
        }
        self.kernel.tell(Told::Routes, &mut self.random);
    }

    /// An administrator, another manager, or the kernel by itself; no events tell of it.
    fn another_manager(&mut self) {
        self.now += super::endpoints::SEEN;
        let address = IpAddr::from([10, 0, 0, u8::try_from(self.random.below(12)).unwrap()]);
        let mut endpoint =
            Endpoint { id: AddressId(0), address, port: 0, flags: EndpointFlags::SIGNAL, if_index: None };
        match self.random.below(8) {
            0 => {
                self.kernel.endpoints.clear();
                self.kernel.chosen = 0;
            }
            1 => {
                self.kernel.limits =
                    Limits { subflows: u32::try_from(self.random.below(9)).unwrap(), add_addr_accepted: 1 }
            }
            2 | 3 => {
                let place = self.random.below(8);
                if place < self.kernel.endpoints.len() {
                    self.kernel.endpoints.remove(place);
                }
            }
            4 => {
                endpoint.flags = EndpointFlags::IMPLICIT;
                let _ = self.kernel.add(endpoint, false);
            }
            _ => {
                let _ = self.kernel.add(endpoint, false);
            }
        }
    }

    /// The queue was full: the latest are lost, and reading tells so first.
    fn lose_messages(&mut self) {
        let keep = self.random.below(30);
        self.kernel.network.truncate(keep);
        self.kernel.network.push_front(Told::Lost);
    }

    /// kill -9, and a new start with what was saved; what was added in the last milliseconds is lost.
    fn restart(&mut self) {
        self.now += milliseconds(10);
        self.save();
        self.kernel.network.clear();
        self.kernel.answers.clear();
        self.engine = Engine::new(policy(&self.rules), self.saved.clone(), self.now);
    }

    fn reload(&mut self) {
        self.rules.flags = match self.random.below(3) {
            0 => EndpointFlags::SUBFLOW,
            1 => EndpointFlags::SUBFLOW.union(EndpointFlags::BACKUP),
            _ => EndpointFlags::SIGNAL,
        };
        if self.random.one_in(3) {
            self.rules.notify.0 ^= NotifyFlags::CHECK_ROUTE.0;
        }
        self.engine.handle(Input::Configure(policy(&self.rules)), self.now);
    }

    /// Nothing happens any more: an hour passes.
    fn settle(&mut self) {
        self.kernel.refuses = false;
        let end = self.now + Duration::from_secs(3600);
        let mut turns = 0;
        while self.now < end {
            self.turn();
            let waiting = !self.kernel.network.is_empty() || !self.kernel.answers.is_empty() || self.engine.has_work();
            if !waiting {
                self.now = self.engine.deadline().unwrap_or(end).max(self.now);
            }
            turns += 1;
            assert!(turns < 2000, "the engine is idle when nothing happens: {:#?}", self.engine);
        }
    }

    fn usable(&self, address: &Address) -> bool {
        let link_local = match address.address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        self.kernel.links.get(&address.if_index.0) == Some(&UP)
            && address.flags == AddressFlags(0x80)
            && !link_local
            && !address.address.is_unspecified()
            && (!self.rules.check_route() || self.kernel.routes.contains(&address.if_index.0))
    }

    fn check(&self) {
        assert!(self.ready, "it became ready");
        let usable: Vec<&Address> = self.kernel.addresses.iter().filter(|address| self.usable(address)).collect();
        let is_for = |endpoint: &Endpoint, address: &Address| {
            endpoint.address == address.address && endpoint.if_index == Some(address.if_index)
        };
        let mut ours = 0;
        for (endpoint, own) in self.kernel.endpoints.iter().filter(|(_, own)| *own) {
            assert!(*own && usable.iter().any(|address| is_for(endpoint, address)), "stale: {endpoint}");
            assert_eq!(endpoint.flags, self.rules.flags, "{endpoint}");
            ours += 1;
        }
        let served = |address: IpAddr| {
            self.kernel
                .endpoints
                .iter()
                .any(|(e, _)| e.address == address && !e.flags.contains(EndpointFlags::IMPLICIT))
        };
        let missing: BTreeSet<IpAddr> =
            usable.iter().map(|address| address.address).filter(|address| !served(*address)).collect();
        let full = self.kernel.endpoints.len() >= CAPACITY;
        assert!(missing.is_empty() || full, "missing: {missing:?}");
        if ours > 0 {
            let needed = u32::min(8, ours + 2);
            assert!(self.kernel.limits.subflows >= needed, "limits: {}", self.kernel.limits);
        }
        if !missing.is_empty() {
            self.check_best();
        }
    }

    /// What the kernel holds and what could be, for whoever reads a failure.
    fn picture(&self) -> String {
        let endpoints =
            self.kernel.endpoints.iter().map(|(e, own)| format!("\n  {e} {}", if *own { "own" } else { "foreign" }));
        let usable = self.kernel.addresses.iter().filter(|address| self.usable(address));
        let usable = usable.map(|address| format!("\n  usable {} on {}", address.address, address.if_index));
        endpoints.chain(usable).collect()
    }

    /// With more wanted than the kernel takes, no interface has two endpoints of a family of ours while
    /// another has none.
    fn check_best(&self) {
        let mut usable: BTreeMap<(IfIndex, bool), BTreeSet<IpAddr>> = BTreeMap::new();
        for address in self.kernel.addresses.iter().filter(|address| self.usable(address)) {
            let twice = self.kernel.addresses.iter().filter(|other| other.address == address.address).count() > 1;
            if !twice {
                usable.entry((address.if_index, address.address.is_ipv6())).or_default().insert(address.address);
            }
        }
        let held: BTreeMap<IpAddr, bool> = self.kernel.endpoints.iter().map(|(e, own)| (e.address, *own)).collect();
        let bound = |link: IfIndex, v6: bool| {
            self.kernel.endpoints.iter().any(|(e, _)| e.if_index == Some(link) && e.address.is_ipv6() == v6)
        };
        let without = usable.iter().find(|((link, v6), addresses)| {
            !bound(*link, *v6) && addresses.iter().all(|address| !held.contains_key(address))
        });
        let with_two = usable.iter().find(|(_, addresses)| {
            addresses.iter().filter(|address| held.get(*address) == Some(&true)).count() > 1
                && addresses.iter().all(|address| held.get(address) != Some(&false))
        });
        if let (Some((without, _)), Some((two, _))) = (without, with_two) {
            panic!("{without:?} has no endpoint while {two:?} has two: {}", self.picture());
        }
    }
}

fn simulate(seed: u64, trace: bool) {
    let mut host = Host::new(seed, trace);
    for _ in 0..STEPS {
        for _ in 0..host.random.below(4) {
            host.change();
        }
        host.now += milliseconds(host.random.below(50));
        host.turn();
    }
    host.settle();
    host.check();
    // At most a few commands for each change, retries included.
    assert!(host.kernel.commands < STEPS * 12, "{} commands", host.kernel.commands);
}

#[test]
fn whatever_happened_the_kernel_holds_what_is_wanted_once_it_is_quiet() {
    for_every_seed(SEEDS, simulate);
}
