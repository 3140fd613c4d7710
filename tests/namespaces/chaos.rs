//! Everything at once, at random: connections come and go at full speed while links, addresses and routes
//! change, and the daemon is killed, suspended, reconfigured and contradicted. When that is over, the kernel has
//! exactly what the path manager wants, and those connections that stayed carry data, every byte of it.
//!
//! `MPTCPD_CHAOS_SEED` repeats the choices of a run, though not their exact times; `MPTCPD_CHAOS_SECONDS` says how
//! long a slow run takes; `MPTCPD_CHAOS_LOG` names a file for all that the daemons say.

mod company;
mod links;
#[path = "../bench/random.rs"]
mod random;
mod reign;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use super::common::PATIENCE;
use super::common::net::{Endpoint, Net, Subflow};
use super::common::sandbox::{measured, sandboxed, sandboxed_for};
use company::{Guest, House, Stream};
use links::{LINKS, Links, Place};
use random::Random;
use reign::{Reign, descriptors};

/// Connections that are there from the beginning, and at most.
const GUESTS: usize = 8;
const MOST_GUESTS: usize = 20;
/// So many the kernel takes (net/mptcp/protocol.h, `MPTCP_PM_ADDR_MAX`).
const MOST_ENDPOINTS: usize = 8;
/// Private memory that a daemon may have kept from times when it knew many connections, in KiB.
const KEPT: u64 = 4096;
/// Files that it opens when it first needs them: two state files, and the log anew when it reads its configuration.
const FILES: usize = 3;

#[test]
fn after_some_seconds_of_chaos_the_kernel_has_what_is_wanted() {
    sandboxed(|| Chaos::begin().run(Duration::from_secs(8)));
}

#[test]
#[ignore = "slow"]
fn after_a_minute_of_chaos_the_kernel_has_what_is_wanted() {
    let time = Duration::from_secs(variable("MPTCPD_CHAOS_SECONDS").unwrap_or(60));
    sandboxed_for(time + Duration::from_secs(300), || {
        let time = Duration::from_secs(variable("MPTCPD_CHAOS_SECONDS").unwrap_or(60));
        Chaos::begin().run(time);
    });
}

fn variable(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is right").subsec_nanos();
    variable("MPTCPD_CHAOS_SEED").unwrap_or_else(|| u64::from(now()))
}

struct Chaos {
    net: Net,
    random: Random,
    links: Links,
    reign: Reign,
    house: House,
    guests: Vec<Guest>,
    stream: Option<Stream>,
}

impl Chaos {
    fn begin() -> Self {
        let seed = seed();
        measured(&format!("chaos with MPTCPD_CHAOS_SEED={seed}"));
        let mut random = Random::new(seed);
        let net = Net::bare(LINKS);
        net.server.ip("mptcp limits set subflows 8 add_addr_accepted 8");
        let links = Links::new(&net);
        let mut reign = Reign::begin(&net.client);
        let house = House::new(&net);
        let guests: Vec<_> = (0..GUESTS).map(|_| house.admit(&mut random).expect("whole links")).collect();
        wait_for_mesh(&mut reign, &net, &links, &guests);
        reign.wait_until_written(GUESTS);
        let stream = Some(Stream::begin(&net, seed));
        Self { net, random, links, reign, house, guests, stream }
    }

    fn run(mut self, time: Duration) {
        let begun = Instant::now();
        // The last of the daemons lives through a good part of it.
        let last_kill = time * 2 / 3;
        while begun.elapsed() < time {
            self.step(begun.elapsed() < last_kill);
            if self.reign.kills == 0 && begun.elapsed() > time / 2 {
                self.replace_daemon();
            }
            self.reign.listen();
            self.forget_doubtful();
            self.check_talks();
            thread::sleep(self.random.time(0..120));
        }
        self.end();
    }

    fn replace_daemon(&mut self) {
        let Self { random, links, reign, .. } = self;
        reign.replace(random, |random| links.disturb(random));
    }

    /// A daemon that was killed, lost events or did not manage connections for a while does not know what it
    /// had not written down: whether the peer allows joins. What it does then is not known here. The first
    /// had been written down before all that.
    fn forget_doubtful(&mut self) {
        if let Some(written) = self.reign.take_doubt() {
            let later = self.guests.split_off(GUESTS);
            self.guests.extend(later.into_iter().filter(|guest| written.contains(&guest.token)));
        }
    }

    /// Tells of a connection that cannot talk any more when that is so, and why.
    fn check_talks(&mut self) {
        let Some(place) = self.guests.iter().position(|guest| !guest.talks()) else { return };
        let guest = self.guests.swap_remove(place);
        let (token, to, each) = (guest.token, guest.to, flows(&self.net));
        let why = guest.hush().err();
        panic!("connection {token:#x} to {to}, place {place}: {why:?}; it has {:#?}", each.get(&token));
    }

    fn step(&mut self, may_kill: bool) {
        let Self { net, random, links, reign, house, guests, .. } = self;
        match random.number(0..100) {
            0..60 => links.disturb(random),
            60..68 => links.kill_subflows(random),
            68..73 => reign.suspend(random, |random| links.disturb(random)),
            73..75 if may_kill => self.replace_daemon(),
            75..81 => reign.reload(random),
            81..88 => drop(net.client.ip("mptcp endpoint flush")),
            88..91 => reign.daemon.signal(Signal::USR1),
            91..98 if guests.len() < MOST_GUESTS => guests.extend(house.admit(random)),
            98.. if guests.len() > GUESTS => drop(guests.swap_remove(GUESTS)),
            _ => {}
        }
    }

    fn end(mut self) {
        let count = self.stream.take().expect("only taken here").end();
        self.links.mend_all();
        self.compare();
        let stayed = self.guests.len();
        self.part();
        let Self { reign, .. } = self;
        let (memory, files) = (reign.daemon.private_memory(), descriptors(&reign.daemon));
        let (kills, overruns) = (reign.kills, reign.overruns);
        let (fresh_memory, fresh_files) = reign.fresh();
        measured(&format!(
            "{count} connections, {stayed} of others stayed, {kills} daemons ended, {overruns} warnings of lost events; \
             the last daemon has {memory} KiB and {} files, a fresh one {fresh_memory} KiB and {} files",
            files.len(),
            fresh_files.len()
        ));
        assert!(memory < fresh_memory + KEPT, "{memory} KiB, where a fresh one has {fresh_memory} KiB");
        let sockets = |files: &[String]| files.iter().filter(|file| file.starts_with("socket:")).count();
        assert_eq!(sockets(&files), sockets(&fresh_files), "sockets among {files:?}");
        assert!(files.len() <= fresh_files.len() + FILES, "{files:?}, where a fresh one has {fresh_files:?}");
    }

    /// Compares what the kernel has with what one path manager after the other wants.
    fn compare(&mut self) {
        self.reign.choose("addr_adv");
        wait_for_endpoints(&mut self.reign, &self.net, &self.links);
        self.forget_doubtful();
        let Self { net, random, links, reign, house, guests, .. } = self;
        reign.choose("sspi");
        wait_for_one_path_per_link(reign, net, links, guests);
        reign.choose("fullmesh");
        wait_for_mesh(reign, net, links, guests);
        guests.extend((0..4).map(|_| house.admit(random).expect("whole links")));
        wait_for_mesh(reign, net, links, guests);
        // They stay for the connections that were made under them, while their addresses can be used.
        wait_for_endpoints(reign, net, links);
        assert_eq!(reign.complaints(), [""; 0]);
    }

    /// Has every connection that stayed say its last, and ends it.
    fn part(&mut self) {
        let tokens: Vec<_> = self.guests.iter().map(|guest| guest.token).collect();
        let talks: Vec<_> = self.guests.drain(..).map(Guest::hush).collect();
        let silent: Vec<_> = talks.iter().filter_map(|talk| talk.as_ref().err()).collect();
        assert!(silent.is_empty(), "connections that stayed: {silent:#?}");
        drop(talks);
        // Others, that were closed while an address was gone, the kernel holds for a while.
        let net = &self.net;
        eventually(&mut self.reign, || {
            let each = flows(net);
            tokens.iter().find_map(|token| each.get(token)).map(|left| format!("there is still {left:#?}"))
        });
    }
}

/// Waits until nothing is wrong.
fn eventually(reign: &mut Reign, mut wrong: impl FnMut() -> Option<String>) {
    let begun = Instant::now();
    while let Some(wrong) = wrong() {
        assert!(begun.elapsed() < PATIENCE, "after {PATIENCE:?}: {wrong}");
        reign.daemon.listen(Duration::from_millis(250));
        reign.listen();
    }
}

/// The established subflows of every connection.
fn flows(net: &Net) -> BTreeMap<u32, Vec<Subflow>> {
    let mut each: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for flow in net.client.subflows().into_iter().filter(|flow| flow.established) {
        each.entry(flow.token).or_default().push(flow);
    }
    each
}

/// Waits until nothing is wrong with the subflows of these connections.
fn wait_for(reign: &mut Reign, net: &Net, guests: &[Guest], wrong: impl Fn(&Guest, &[Subflow]) -> Option<String>) {
    eventually(reign, || {
        let each = flows(net);
        let of = |guest: &Guest| each.get(&guest.token).map_or(&[][..], Vec::as_slice);
        let silent = guests.iter().find(|guest| !guest.talks());
        assert!(
            silent.is_none(),
            "a connection cannot talk any more: {:#?}",
            silent.map(|guest| (guest.token, of(guest)))
        );
        let wrong: Vec<_> = guests.iter().filter_map(|guest| wrong(guest, of(guest))).collect();
        (!wrong.is_empty()).then(|| format!("{wrong:#?}"))
    });
}

/// Waits until every connection has a subflow from every address of its family, each with the right flag.
fn wait_for_mesh(reign: &mut Reign, net: &Net, links: &Links, guests: &[Guest]) {
    let places = links.places();
    wait_for(reign, net, guests, |guest, flows| {
        let of_family = places.iter().filter(|place| place.address.is_ipv4() == guest.to.is_ipv4());
        let wanted: Vec<_> = of_family.map(|place| (place.address, guest.to, place.backup)).collect();
        let mut there: Vec<_> = flows.iter().map(|flow| (flow.local.ip(), flow.remote.ip(), flow.backup)).collect();
        there.sort_unstable();
        (there != wanted).then(|| format!("{:x} has {there:?} instead of {wanted:?}", guest.token))
    });
}

/// Waits until every connection has one subflow on every link, each with the right flag.
fn wait_for_one_path_per_link(reign: &mut Reign, net: &Net, links: &Links, guests: &[Guest]) {
    let places = links.places();
    let link = |flow: &Subflow| {
        let place = places.iter().find(|place| place.address == flow.local.ip());
        place.map(|place| (place.interface.as_str(), flow.backup))
    };
    let wanted: BTreeSet<_> = places.iter().map(|place| Some((place.interface.as_str(), place.backup))).collect();
    let wanted = Vec::from_iter(wanted);
    wait_for(reign, net, guests, |guest, flows| {
        let mut there: Vec<_> = flows.iter().map(link).collect();
        there.sort_unstable();
        (there != wanted).then(|| format!("{:x} has {flows:?} instead of one on each of {wanted:?}", guest.token))
    });
}

/// Waits until every address is an endpoint, and nothing else is. Implicit ones, which the kernel makes for
/// addresses of connections, it keeps though the address be gone; there is less room then.
fn wait_for_endpoints(reign: &mut Reign, net: &Net, links: &Links) {
    let wanted = links.places();
    let place = |endpoint: Endpoint| Place {
        address: endpoint.address,
        backup: endpoint.flags == ["backup", "subflow"],
        interface: endpoint.dev.unwrap_or_default(),
    };
    eventually(reign, || {
        let (implicit, rest): (Vec<_>, Vec<_>) =
            net.client.endpoints().into_iter().partition(|endpoint| endpoint.flags == ["implicit"]);
        let there: BTreeSet<_> = rest.into_iter().map(place).collect();
        let room = wanted.len().min(MOST_ENDPOINTS - implicit.len());
        let right = there.len() == room && there.is_subset(&wanted);
        (!right).then(|| format!("endpoints {there:#?} and {implicit:#?} instead of {wanted:#?}"))
    });
}
