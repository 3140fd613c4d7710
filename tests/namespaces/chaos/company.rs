//! Connections: a stream of short ones, and some that stay, talk all the time and check every byte.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_linger, set_socket_timeout};

use super::super::common::PATIENCE;
use super::super::common::net::{Namespace, Net, SERVICE_V4, SERVICE_V6};
use super::super::common::traffic::{listen, mptcp_socket};
use super::random::Random;

/// How long a connection may take to come about while links break.
const TO_CONNECT: Duration = Duration::from_secs(1);

/// Makes pairs of ends.
struct Door {
    to: SocketAddr,
    listener: TcpListener,
}

impl Door {
    fn new(server: &Namespace, service: IpAddr, port: u16) -> Self {
        let to = SocketAddr::new(service, port);
        let listener = server.enter(|| listen(to)).expect("an MPTCP listener");
        listener.set_nonblocking(true).expect("a socket of ours");
        Self { to, listener }
    }

    /// Connects from the namespace of the calling thread.
    fn pass(&self) -> io::Result<(TcpStream, TcpStream)> {
        let socket = mptcp_socket(self.to)?;
        set_socket_timeout(&socket, Timeout::Send, Some(TO_CONNECT))?;
        rustix::net::connect(&socket, &self.to)?;
        let near = TcpStream::from(socket);
        let from = near.local_addr()?;
        loop {
            let (far, peer) = self.accept()?;
            // Others are what became of those for which nobody waits any more.
            if peer == from {
                far.set_nonblocking(false)?;
                return Ok((near, far));
            }
        }
    }

    fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let patience = Timespec::try_from(TO_CONNECT).expect("a short time");
        poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&patience))?;
        self.listener.accept()
    }
}

/// Short connections, one after the other, each of another kind, until it ends.
pub(super) struct Stream {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Stream {
    pub(super) fn begin(net: &Net, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [(SERVICE_V4, 5001), (SERVICE_V6, 5002)].map(|(service, port)| {
            let (door, client) = (Door::new(&net.server, service, port), net.client.clone());
            let (stop, random) = (Arc::clone(&stop), Random::new(seed ^ u64::from(port)));
            thread::spawn(move || {
                client.move_here();
                rush(&door, &stop, random)
            })
        });
        Self { stop, threads: threads.into() }
    }

    /// Ends it, and returns how many there were.
    pub(super) fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    }
}

fn rush(door: &Door, stop: &AtomicBool, mut random: Random) -> u64 {
    let (mut count, mut held) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        match door.pass() {
            Ok(pair) => {
                count += 1;
                held.extend(come_and_go(pair, &mut random));
            }
            // Links are broken; without a pause this would do nothing else.
            Err(_) => thread::sleep(random.time(1..20)),
        }
        if held.len() > 30 || random.number(0..50) == 0 {
            held.truncate(usize::try_from(random.number(0..30)).expect("few"));
        }
    }
    count
}

/// Returns the connection if it stays for a while.
fn come_and_go((mut near, mut far): (TcpStream, TcpStream), random: &mut Random) -> Option<(TcpStream, TcpStream)> {
    match random.number(0..10) {
        0..3 => {}
        3 => drop((far, near)),
        4 => set_socket_linger(&near, Some(Duration::ZERO)).expect("a socket of ours"),
        5 => set_socket_linger(&far, Some(Duration::ZERO)).expect("a socket of ours"),
        6 => drop(near.write_all(&[0; 50_000])),
        7 => drop(far.write_all(&[0; 50_000])),
        8 => {
            [&near, &far].into_iter().for_each(|end| wait_at_most(end, TO_CONNECT));
            let _ = exchange(&mut near, &mut far, random);
        }
        _ => return Some((near, far)),
    }
    None
}

fn wait_at_most(end: &TcpStream, patience: Duration) {
    end.set_read_timeout(Some(patience)).expect("a time above 0");
}

/// Sends something one way and something the other, and compares.
fn exchange(near: &mut TcpStream, far: &mut TcpStream, random: &mut Random) -> io::Result<()> {
    pass_on(near, far, random)?;
    pass_on(far, near, random)
}

fn pass_on(from: &mut TcpStream, to: &mut TcpStream, random: &mut Random) -> io::Result<()> {
    let length = random.number(1..4000);
    let sent: Vec<u8> = (0..length).map(|_| u8::try_from(random.number(0..256)).expect("a byte")).collect();
    let mut received = vec![0; sent.len()];
    from.write_all(&sent)?;
    to.read_exact(&mut received)?;
    if sent == received { Ok(()) } else { Err(io::Error::other(format!("of {length} bytes some are not the same"))) }
}

/// A connection that stays, until this is dropped.
pub(super) struct Guest {
    pub(super) token: u32,
    pub(super) to: IpAddr,
    stop: Arc<AtomicBool>,
    talk: Option<JoinHandle<Result<(TcpStream, TcpStream), String>>>,
}

impl Guest {
    fn welcome(pair: (TcpStream, TcpStream), token: u32, random: Random) -> Self {
        let (stop, to) = (Arc::new(AtomicBool::new(false)), pair.1.local_addr().expect("a socket of ours").ip());
        let stopped = Arc::clone(&stop);
        let talk = Some(thread::spawn(move || talk(pair, &stopped, random)));
        Self { token, to, stop, talk }
    }

    /// Whether it still talks.
    pub(super) fn talks(&self) -> bool {
        self.talk.as_ref().is_some_and(|talk| !talk.is_finished())
    }

    /// Has it say no more; returns the ends, or why they could not talk.
    pub(super) fn hush(mut self) -> Result<(TcpStream, TcpStream), String> {
        self.stop.store(true, Ordering::Relaxed);
        self.talk.take().expect("only taken here").join().expect("no panic")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn talk(
    (mut near, mut far): (TcpStream, TcpStream),
    stop: &AtomicBool,
    mut random: Random,
) -> Result<(TcpStream, TcpStream), String> {
    [&near, &far].into_iter().for_each(|end| wait_at_most(end, PATIENCE));
    // Once more after the end, too.
    loop {
        let stopped = stop.load(Ordering::Relaxed);
        let ends = || format!("{:?} and {:?}", near.local_addr(), near.peer_addr());
        let (ends, begun) = (ends(), Instant::now());
        exchange(&mut near, &mut far, &mut random)
            .map_err(|error| format!("between {ends}, after {:?}: {error}", begun.elapsed()))?;
        if stopped {
            return Ok((near, far));
        }
        thread::sleep(random.time(0..100));
    }
}

/// Where those connect that stay.
pub(super) struct House {
    client: Namespace,
    doors: [Door; 2],
}

impl House {
    pub(super) fn new(net: &Net) -> Self {
        let door = |(service, port)| Door::new(&net.server, service, port);
        Self { client: net.client.clone(), doors: [(SERVICE_V4, 5000), (SERVICE_V6, 5003)].map(door) }
    }

    /// One more, if links allow it, and not under the kernel's own path manager: that does not heal what it loses.
    pub(super) fn admit(&self, random: &mut Random) -> Option<Guest> {
        let door = &self.doors[usize::from(random.number(0..2) == 1)];
        let before = self.kernel_manages();
        let mut pair = self.client.enter(|| door.pass()).ok().filter(|_| !before && !self.kernel_manages())?;
        [&pair.0, &pair.1].into_iter().for_each(|end| wait_at_most(end, TO_CONNECT));
        exchange(&mut pair.0, &mut pair.1, random).ok()?;
        let from = pair.0.local_addr().ok()?;
        let flow = self.client.subflows().into_iter().find(|flow| flow.local == from)?;
        Some(Guest::welcome(pair, flow.token, Random::new(random.number(0..u64::MAX))))
    }

    fn kernel_manages(&self) -> bool {
        self.client.sysctl("net.mptcp.path_manager") == "kernel"
    }
}
