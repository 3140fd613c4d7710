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

use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;
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
/// A connection of this age has been written down, a second after the daemon heard of it, which may have been
/// suspended and have much to catch up with.
const WRITTEN_DOWN: Duration = Duration::from_secs(10);
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
            thread::sleep(self.random.time(0..120));
        }
        self.end();
    }

    fn replace_daemon(&mut self) {
        let Self { random, links, reign, .. } = self;
        reign.replace(random, |random| links.disturb(random));
    }

    /// A daemon that was killed, lost events or did not manage connections for a while does not know what it
    /// had not written down: whether the peer allows joins. What it then does is not known here.
    fn forget_doubtful(&mut self) {
        if self.reign.take_doubt() {
            let mut place = 0;
            self.guests.retain(|guest| {
                place += 1;
                place <= GUESTS || guest.since.elapsed() > WRITTEN_DOWN
            });
        }
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
        let (reign, net, links) = (&mut self.reign, &self.net, &self.links);
        reign.choose("addr_adv");
        wait_for_endpoints(reign, net, links);
        self.forget_doubtful();
        let (reign, net, links) = (&mut self.reign, &self.net, &self.links);
        reign.choose("sspi");
        wait_for_one_path_per_link(reign, net, links, &self.guests);
        reign.choose("fullmesh");
        wait_for_mesh(reign, net, links, &self.guests);
        let new: Vec<_> = (0..4).map(|_| self.house.admit(&mut self.random).expect("whole links")).collect();
        wait_for_mesh(reign, net, links, &new);
        // They stay for the connections that were made under them, while their addresses can be used.
        wait_for_endpoints(reign, net, links);
        assert_eq!(reign.complaints(), [""; 0]);
        let guests = self.guests.len();
        let tokens: Vec<_> = self.guests.iter().chain(&new).map(|guest| guest.token).collect();
        let talks: Vec<_> = self.guests.into_iter().chain(new).map(Guest::hush).collect();
        let silent: Vec<_> = talks.iter().filter_map(|talk| talk.as_ref().err()).collect();
        assert!(silent.is_empty(), "connections that stayed: {silent:#?}");
        drop(talks);
        wait_for_end(reign, net, &tokens);
        let (memory, files) = (reign.daemon.private_memory(), descriptors(&reign.daemon));
        let (kills, overruns) = (reign.kills, reign.overruns);
        let (fresh_memory, fresh_files) = self.reign.fresh();
        measured(&format!(
            "{count} connections, {guests} of others stayed, {kills} daemons ended, {overruns} warnings of lost events; the last daemon has {memory} KiB and {} files, \
             a fresh one {fresh_memory} KiB and {} files",
            files.len(),
            fresh_files.len()
        ));
        assert!(memory < fresh_memory + KEPT, "{memory} KiB, where a fresh one has {fresh_memory} KiB");
        let sockets = |files: &[String]| files.iter().filter(|file| file.starts_with("socket:")).count();
        assert_eq!(sockets(&files), sockets(&fresh_files), "sockets among {files:?}");
        assert!(files.len() <= fresh_files.len() + FILES, "{files:?}, where a fresh one has {fresh_files:?}");
    }
}

/// Waits until no subflow is left of these connections. Others, that were closed while an address was gone, the
/// kernel holds for a while.
fn wait_for_end(reign: &mut Reign, net: &Net, tokens: &[u32]) {
    let begun = Instant::now();
    loop {
        let each = flows(net);
        let left: Vec<_> = tokens.iter().filter_map(|token| each.get(token)).collect();
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "there are still {left:#?}");
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

/// Waits until something is right of each of these that are managed, by their subflows; says what is not.
fn wait_for(reign: &mut Reign, net: &Net, guests: &[Guest], wrong: impl Fn(&Guest, &[Subflow]) -> Option<String>) {
    let mut last = Vec::new();
    let begun = Instant::now();
    loop {
        let each = flows(net);
        last.clear();
        for guest in guests {
            let own = each.get(&guest.token).map_or(&[][..], Vec::as_slice);
            last.extend(wrong(guest, own).filter(|_| !guest.is_the_kernels));
            assert!(guest.talks(), "{:x} does not talk any more, with {own:#?}", guest.token);
        }
        if last.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not right: {last:#?}");
        reign.daemon.listen(Duration::from_millis(250));
        reign.listen();
    }
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
    let link_of = |address: IpAddr| places.iter().find(|place| place.address == address);
    let mut wanted: Vec<_> = places.iter().map(|place| (&place.interface, place.backup)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    wait_for(reign, net, guests, |guest, flows| {
        let mut there: Vec<_> = flows
            .iter()
            .filter_map(|flow| link_of(flow.local.ip()).map(|place| (&place.interface, flow.backup)))
            .collect();
        there.sort_unstable();
        let right = there == wanted && there.len() == flows.len();
        (!right).then(|| format!("{:x} has {flows:?} instead of one on each of {wanted:?}", guest.token))
    });
}

/// Waits until every address is an endpoint, and nothing else is.
fn wait_for_endpoints(reign: &mut Reign, net: &Net, links: &Links) {
    let wanted = links.places();
    let mut there = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let place = |endpoint: Endpoint| Place {
            address: endpoint.address,
            backup: endpoint.flags == ["backup", "subflow"],
            interface: endpoint.dev.unwrap_or_default(),
        };
        let of_others = |endpoint: &Endpoint| endpoint.flags == ["implicit"];
        there = net.client.endpoints().into_iter().filter(|endpoint| !of_others(endpoint)).map(place).collect();
        there.sort();
        if there == wanted {
            return;
        }
        reign.daemon.listen(Duration::from_millis(250));
        reign.listen();
    }
    panic!("endpoints {there:#?} instead of {wanted:#?}");
}
