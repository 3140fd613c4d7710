//! Shows the daemon at work, and needs neither configuration nor root nor a change to the host:
//!
//!     cargo run --release --example demo
//!
//! A client and a server in network namespaces, two links between them, and the real daemon at the
//! client. First it gives endpoints to the kernel's path manager, and a transfer runs while the second
//! link goes down and comes up again. Then it manages paths itself, and a subflow is killed during another
//! transfer. The exit code is 0 only if the second link carried data both before and after either, the
//! subflow was back within a second, and every byte arrived as it was sent.

// What its tests use besides.
#[allow(dead_code, clippy::indexing_slicing, clippy::unwrap_used)]
#[path = "../tests/common/mod.rs"]
mod common;

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::daemon::{Daemon, Installation};
use common::net::{Endpoint, Namespace, Net, SERVICE_V4, client_v4, server_v4};
use common::sandbox;
use common::traffic::{Server, Transfer};

/// Set where this program is to be the daemon.
const AS_DAEMON: &str = "MPTCPD_DEMO_AS_DAEMON";
/// What `tc` limits either link to.
const RATE: &str = "50mbit";
/// How long the links are watched in each part of the story, and how long at most.
const PART: (Duration, Duration) = (Duration::from_millis(2000), Duration::from_millis(3500));
/// Data that shows that a link is really used, bytes.
const REAL_DATA: u64 = 1_000_000;
/// Within which a subflow that was killed has to be back.
const BACK: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if env::var_os(AS_DAEMON).is_some() {
        return mptcpd::main();
    }
    if sandbox::is_inside() {
        sandbox::set_up();
        return report(Demo::set_up().and_then(Demo::run));
    }
    if let Some(reason) = sandbox::unavailable() {
        eprintln!("the demo cannot run here: {reason}");
        return ExitCode::FAILURE;
    }
    match sandbox::run_program_inside() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => report(Err(format!("cannot run the sandbox: {error}"))),
    }
}

fn report(outcome: Result<String, String>) -> ExitCode {
    match outcome {
        Ok(summary) => {
            println!("\n{summary}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("\nthe demo failed: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// The network, the daemon at its client, and what has been told of both.
struct Demo {
    net: Net,
    here: Installation,
    daemon: Daemon,
    server: Server,
    limited: bool,
    story: Story,
}

impl Demo {
    fn set_up() -> Result<Self, String> {
        println!("A client and a server, joined by two links: c0 and c1 at the client. All of it is in");
        println!("network namespaces of its own; this host's network is not touched.\n");
        let net = Net::v4(2);
        net.default_route_v4(0);
        net.default_route_v4(1);
        let limited = ["c0", "c1"].into_iter().all(|link| limit(&net.client, link));
        let story = Story::new();
        story.tell(if limited {
            "either link takes 50 Mbit/s"
        } else {
            "the links are unlimited: tc(8) is not usable"
        });
        story.tell("the daemon starts at the client, without any configuration");
        let program = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let here = Installation::new(&net.client, program).with_variable(AS_DAEMON, "1");
        let (daemon, server) = (here.start(&[]), Server::start(&net.server, SocketAddr::new(SERVICE_V4, 5000)));
        Ok(Self { net, here, daemon, server, limited, story })
    }

    fn run(mut self) -> Result<String, String> {
        let mut parts = self.lose_a_link()?;
        self = self.manage_paths();
        parts.extend(self.lose_a_subflow()?);
        self.daemon.stop();
        self.story.tell("the daemon stops; what it made stays, so that no connection would suffer");
        Ok(summary(&parts))
    }

    fn lose_a_link(&mut self) -> Result<Vec<Part>, String> {
        self.watch("no endpoint for one of the links", |demo| demo.story.endpoints.len() == 2)?;
        let transfer = self.open("one connection");
        let before = self.part("no data over the second link", |used| used.second >= REAL_DATA)?;
        self.story.tell("the second link goes down");
        self.net.client.ip("link set c1 down");
        let during = self.part("the connection stood still", |used| used.first >= REAL_DATA)?;
        self.story.tell("the second link comes up again, and its route with it");
        self.net.client.ip("link set c1 up");
        self.net.client.ip(&format!("route replace default via {} dev c1 metric 101", server_v4(1)));
        let after = self.part("the second link is not used again", |used| used.second >= REAL_DATA)?;
        self.close(transfer)?;
        Ok(vec![("before the outage", before), ("during it", during), ("after it", after)])
    }

    /// Starts the daemon anew, with a path manager that makes the subflows of every connection itself.
    fn manage_paths(self) -> Self {
        self.daemon.stop();
        println!();
        self.story.tell("the daemon starts anew with --path-manager=sspi, to make the subflows itself");
        let daemon = self.here.start(&["--path-manager=sspi"]);
        let selected = self.net.client.sysctl("net.mptcp.path_manager");
        self.story.tell(&format!("  net.mptcp.path_manager is {selected}"));
        Self { daemon, ..self }
    }

    fn lose_a_subflow(&mut self) -> Result<Vec<Part>, String> {
        let transfer = self.open("another connection");
        let both = |used: Sent| used.first >= REAL_DATA && used.second >= REAL_DATA;
        let before = self.part("no data over one of the links", both)?;
        let address = client_v4(1);
        let old = self.net.client.subflow_from(address).ok_or("no subflow to kill")?.local;
        self.story.tell(&format!("ss -K kills the subflow from {address}, and no link, address or route changes"));
        self.net.client.kill(&format!("src {address}"));
        let killed = Instant::now();
        self.watch("the subflow that was killed is not back", |demo| {
            demo.net.client.subflow_from(address).is_some_and(|subflow| subflow.local != old)
        })?;
        let back = killed.elapsed();
        self.story.tell(&format!("  a new subflow from {address}, after {} ms", back.as_millis()));
        if back > BACK {
            return Err(format!("the subflow was back only after {back:?}"));
        }
        let after = self.part("one of the links is not used again", both)?;
        self.close(transfer)?;
        Ok(vec![("before the kill", before), ("after it", after)])
    }

    fn open(&self, which: &str) -> Transfer {
        self.story.tell(&format!("the client opens {which} to {SERVICE_V4} and sends as fast as it can"));
        let rate = if self.limited { 25_000_000 } else { u64::MAX };
        Transfer::start(&self.net.client, self.server.address(), rate)
    }

    fn close(&mut self, transfer: Transfer) -> Result<(), String> {
        let arrived = transfer.finish()?;
        self.story
            .tell(&format!("the client closes the connection: {} arrived, every byte as it was sent", mb(arrived)));
        self.watch("a subflow stays", |demo| demo.story.paths.is_empty())
    }

    /// Watches until enough has been sent and enough time has passed for it to be seen.
    fn part(&mut self, complaint: &str, enough: impl Fn(Sent) -> bool) -> Result<Sent, String> {
        let (started, before) = (Instant::now(), Sent::now(&self.net.client));
        self.watch(complaint, |demo| started.elapsed() >= PART.0 && enough(Sent::now(&demo.net.client).since(before)))?;
        let used = Sent::now(&self.net.client).since(before);
        self.story.tell(&format!(
            "meanwhile {} went over the first link, {} over the second",
            mb(used.first),
            mb(used.second)
        ));
        Ok(used)
    }

    /// Tells what changes until `done` says so, with a look whenever the daemon logs something and
    /// now and then.
    fn watch(&mut self, complaint: &str, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PART.1;
        loop {
            self.story.look_at(&self.net.client);
            if done(self) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{complaint}; the daemon's last words:\n{}", self.last_words()));
            }
            self.daemon.listen(Duration::from_millis(50));
        }
    }

    fn last_words(&mut self) -> String {
        let said = self.daemon.said();
        let last = said.iter().skip(said.len().saturating_sub(12));
        last.map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    }
}

fn limit(namespace: &Namespace, link: &str) -> bool {
    namespace.try_run("tc", &format!("qdisc add dev {link} root tbf rate {RATE} burst 64kb latency 50ms")).is_ok()
}

/// What a part of the story is called, and what was sent in it.
type Part = (&'static str, Sent);

/// Bytes that have left by either link.
#[derive(Clone, Copy)]
struct Sent {
    first: u64,
    second: u64,
}

impl Sent {
    fn now(namespace: &Namespace) -> Self {
        Self { first: namespace.bytes_sent("c0"), second: namespace.bytes_sent("c1") }
    }

    fn since(self, before: Self) -> Self {
        Self { first: self.first - before.first, second: self.second - before.second }
    }
}

fn mb(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

fn summary(parts: &[Part]) -> String {
    let mut text = format!("{:<20}{:>14}{:>14}\n", "data sent", "first link", "second link");
    for (name, sent) in parts {
        text += &format!("  {name:<18}{:>14}{:>14}\n", mb(sent.first), mb(sent.second));
    }
    text + "\nNothing in client or server knew of the two links."
}

/// What has been told, with the time since the start.
struct Story {
    started: Instant,
    endpoints: Vec<Endpoint>,
    paths: Vec<IpAddr>,
}

impl Story {
    fn new() -> Self {
        Self { started: Instant::now(), endpoints: Vec::new(), paths: Vec::new() }
    }

    fn tell(&self, what: &str) {
        println!("{:6.2} s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// Tells what is different from the last look.
    fn look_at(&mut self, client: &Namespace) {
        let (endpoints, paths) = (client.endpoints(), client.paths());
        for gone in self.endpoints.iter().filter(|endpoint| !endpoints.contains(endpoint)) {
            self.tell(&format!("  - endpoint {}", describe(gone)));
        }
        for gone in self.paths.iter().filter(|path| !paths.contains(path)) {
            self.tell(&format!("  - subflow from {gone}"));
        }
        for new in endpoints.iter().filter(|endpoint| !self.endpoints.contains(endpoint)) {
            self.tell(&format!("  + endpoint {}", describe(new)));
        }
        for new in paths.iter().filter(|path| !self.paths.contains(path)) {
            self.tell(&format!("  + subflow from {new}"));
        }
        (self.endpoints, self.paths) = (endpoints, paths);
    }
}

fn describe(endpoint: &Endpoint) -> String {
    let Endpoint { address, id, flags, dev } = endpoint;
    format!("{address} on {} (id {id}, {})", dev.as_deref().unwrap_or("any link"), flags.join(" "))
}
