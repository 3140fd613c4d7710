//! Many connections of which the test holds both ends.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

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
