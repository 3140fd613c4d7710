//! Many connections of which the test holds both ends.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::net::{Namespace, Net};
use super::traffic::{connect, listen};

/// Connections from a client to a server, for as long as it lives.
pub(crate) struct Crowd {
    client: Namespace,
    to: SocketAddr,
    listener: TcpListener,
    pairs: Vec<(TcpStream, TcpStream)>,
}

impl Crowd {
    /// None yet; the server listens on all its addresses.
    pub(crate) fn new(net: &Net, to: SocketAddr) -> Self {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let listener = net.server.enter(|| listen(SocketAddr::new(any, to.port()))).expect("an MPTCP listener");
        Self { client: net.client.clone(), to, listener, pairs: Vec::new() }
    }

    /// The same where the server does not speak Multipath TCP.
    pub(crate) fn of_plain_tcp(net: &Net, to: SocketAddr) -> Self {
        let listener = net.server.enter(|| TcpListener::bind(to)).expect("a listener");
        Self { client: net.client.clone(), to, listener, pairs: Vec::new() }
    }

    /// So many connections to that address.
    pub(crate) fn gather(net: &Net, to: SocketAddr, count: usize) -> Self {
        let mut crowd = Self::new(net, to);
        crowd.grow(count);
        crowd
    }

    /// Adds so many, established at both ends.
    pub(crate) fn grow(&mut self, count: usize) {
        let made = self.client.enter(|| (0..count).map(|_| self.one()).collect::<io::Result<Vec<_>>>());
        self.pairs.extend(made.expect("connections"));
    }

    fn one(&self) -> io::Result<(TcpStream, TcpStream)> {
        let mut near = connect(self.to)?;
        let (mut far, _) = self.listener.accept()?;
        near.set_read_timeout(Some(PATIENCE))?;
        far.set_read_timeout(Some(PATIENCE))?;
        exchange(&mut near, &mut far)?;
        Ok((near, far))
    }

    /// Makes so many one after the other, each closed as soon as it is established.
    pub(crate) fn pass_through(&self, count: usize) {
        let all = || (0..count).try_for_each(|_| self.one().map(drop));
        self.client.enter(all).expect("connections");
    }

    /// A byte in either direction on every connection, waited for.
    pub(crate) fn talk(&mut self) {
        for (near, far) in &mut self.pairs {
            exchange(near, far).expect("a connection that lives");
        }
    }

    /// Has the client's end of one of them send as much as it can.
    pub(crate) fn flood(&mut self) -> Flood {
        let (near, far) = self.pairs.pop().expect("a connection");
        Flood::begin(near, far)
    }

    /// Has the two ends of one of them send messages of that size to and fro.
    pub(crate) fn converse(&mut self, size: usize) -> Dialogue {
        let (near, far) = self.pairs.pop().expect("a connection");
        Dialogue::begin(near, far, size)
    }

    /// Closes all.
    pub(crate) fn leave(&mut self) {
        self.pairs.clear();
    }
}

fn exchange(near: &mut TcpStream, far: &mut TcpStream) -> io::Result<()> {
    near.write_all(b"?")?;
    far.read_exact(&mut [0])?;
    far.write_all(b"!")?;
    near.read_exact(&mut [0])
}

/// Two ends that send messages to and fro, one at a time.
pub(crate) struct Dialogue {
    stop: Sender<()>,
    near: JoinHandle<io::Result<Duration>>,
    rounds: Receiver<()>,
}

impl Dialogue {
    fn begin(near: TcpStream, far: TcpStream, size: usize) -> Self {
        let ((stop, stopped), (round, rounds)) = (channel(), channel());
        thread::spawn(move || echo(far, size));
        let near = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                longest = longest.max(ask(&near, size)?);
                let _ = round.send(());
            }
            Ok(longest)
        });
        Self { stop, near, rounds }
    }

    /// Waits until so many more messages have come back.
    pub(crate) fn wait_for_rounds(&self, count: usize) {
        while self.rounds.try_recv().is_ok() {}
        for _ in 0..count {
            self.rounds.recv_timeout(PATIENCE).expect("messages that go on");
        }
    }

    /// Ends it; returns the longest time that one was on its way, or why it failed.
    pub(crate) fn finish(self) -> io::Result<Duration> {
        let _ = self.stop.send(());
        self.near.join().expect("no panic")
    }
}

fn ask(mut stream: &TcpStream, size: usize) -> io::Result<Duration> {
    let begun = Instant::now();
    let mut message = vec![0; size];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    Ok(begun.elapsed())
}

fn echo(mut stream: TcpStream, size: usize) -> io::Result<()> {
    let mut message = vec![0; size];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

/// One end that sends as much as it can, and one that counts what arrives; it ends when it is dropped.
pub(crate) struct Flood {
    received: Arc<AtomicU64>,
    near: TcpStream,
}

impl Flood {
    fn begin(near: TcpStream, mut far: TcpStream) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        let mut sending = near.try_clone().expect("a descriptor");
        thread::spawn(move || while sending.write_all(&[0; 65536]).is_ok() {});
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(length @ 1..) = far.read(&mut buffer) {
                count.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
        Self { received, near }
    }

    /// Bytes per second that arrive, measured for so long.
    pub(crate) fn rate(&self, time: Duration) -> u64 {
        let (before, begun) = (self.received.load(Ordering::Relaxed), Instant::now());
        thread::sleep(time);
        let bytes = self.received.load(Ordering::Relaxed) - before;
        bytes * 1000 / u64::try_from(begun.elapsed().as_millis()).expect("a short time")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.near.shutdown(Shutdown::Both);
    }
}
