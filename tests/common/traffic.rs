//! MPTCP connections: a server that counts and checks what it receives, and transfers to it.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use super::PATIENCE;
use super::net::Namespace;

const CHUNK: usize = 32 * 1024;

/// A server in a namespace, for as long as the process lives.
pub(crate) struct Server {
    address: SocketAddr,
    received: Arc<Counter>,
}

impl Server {
    /// Listens and accepts any number of connections.
    pub(crate) fn start(namespace: &Namespace, address: SocketAddr) -> Self {
        let listener = namespace.enter(|| listen(address)).expect("an MPTCP listener");
        let received = Arc::new(Counter::default());
        let counter = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let counter = Arc::clone(&counter);
                thread::spawn(move || serve(stream, &counter));
            }
        });
        Self { address, received }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that have arrived on all connections.
    pub(crate) fn received(&self) -> u64 {
        *self.received.value.lock().expect("no panic")
    }

    /// Waits until so many more bytes have arrived than have by now.
    pub(crate) fn wait_for_more(&self, bytes: u64) {
        let value = self.received.value.lock().expect("no panic");
        let wanted = *value + bytes;
        let (value, timeout) =
            self.received.changed.wait_timeout_while(value, PATIENCE, |value| *value < wanted).expect("no panic");
        assert!(!timeout.timed_out(), "{} bytes still missing after {PATIENCE:?}", wanted - *value);
    }
}

#[derive(Default)]
struct Counter {
    value: Mutex<u64>,
    changed: Condvar,
}

impl Counter {
    fn add(&self, bytes: u64) {
        *self.value.lock().expect("no panic") += bytes;
        self.changed.notify_all();
    }
}

/// An MPTCP socket of the family of an address, in the namespace of the calling thread.
pub(crate) fn mptcp_socket(address: SocketAddr) -> io::Result<rustix::fd::OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // A daemon that is started later must not hold them open.
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::MPTCP))?)
}

/// Listens for MPTCP in the namespace of the calling thread.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = mptcp_socket(address)?;
    set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 128)?;
    Ok(socket.into())
}

/// Reads to the end, then answers with the number of bytes that came as the pattern says before the
/// first that did not.
fn serve(mut stream: TcpStream, received: &Counter) {
    let mut pattern = Pattern::default();
    let (mut buffer, mut expected) = (vec![0; CHUNK], vec![0; CHUNK]);
    let (mut right, mut all_right) = (0, true);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        received.add(length as u64);
        pattern.fill(&mut expected[..length]);
        let same = buffer.iter().zip(&expected[..length]).take_while(|(byte, expected)| byte == expected).count();
        right += if all_right { same as u64 } else { 0 };
        all_right &= same == length;
    }
    let _ = stream.write_all(&right.to_be_bytes());
}

/// Bytes in which a piece that is lost, repeated or moved shows (splitmix64).
#[derive(Default)]
struct Pattern {
    state: u64,
    rest: Vec<u8>,
}

impl Pattern {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.rest.is_empty() {
                let next = self.next();
                self.rest.extend(next.to_be_bytes());
            }
            *byte = self.rest.pop().expect("just filled");
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A connection to a [`Server`] on which data is sent until it is finished.
pub(crate) struct Transfer {
    stop: Sender<()>,
    sender: JoinHandle<io::Result<(u64, u64)>>,
}

impl Transfer {
    /// Connects from a namespace and starts to send, so many bytes a second at most.
    pub(crate) fn start(namespace: &Namespace, to: SocketAddr, bytes_per_second: u64) -> Self {
        let stream = namespace.enter(|| connect(to)).unwrap_or_else(|error| panic!("cannot connect to {to}: {error}"));
        let (stop, stopped) = channel();
        let pause = move |sent: u64, started: Instant| {
            let due = started + Duration::from_micros(sent.saturating_mul(1_000_000) / bytes_per_second);
            stopped.recv_timeout(due.saturating_duration_since(Instant::now())) == Err(RecvTimeoutError::Timeout)
        };
        Self { stop, sender: thread::spawn(move || send(stream, pause)) }
    }

    /// Ends the connection and returns how many bytes arrived, all of them unchanged.
    pub(crate) fn finish(self) -> Result<u64, String> {
        let _ = self.stop.send(());
        let (sent, right) =
            self.sender.join().expect("no panic").map_err(|error| format!("transfer failed: {error}"))?;
        if sent == right {
            Ok(sent)
        } else {
            Err(format!("of {sent} bytes sent only the first {right} arrived unchanged"))
        }
    }
}

/// Connects by MPTCP from the namespace of the calling thread.
pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = mptcp_socket(to)?;
    rustix::net::connect(&socket, &to)?;
    Ok(socket.into())
}

fn send(mut stream: TcpStream, pause: impl Fn(u64, Instant) -> bool) -> io::Result<(u64, u64)> {
    let (mut pattern, mut chunk, mut sent, started) = (Pattern::default(), vec![0; CHUNK], 0, Instant::now());
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    while pause(sent, started) {
        pattern.fill(&mut chunk);
        stream.write_all(&chunk)?;
        sent += CHUNK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut right = [0; 8];
    stream.read_exact(&mut right)?;
    Ok((sent, u64::from_be_bytes(right)))
}
