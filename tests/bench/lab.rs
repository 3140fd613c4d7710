//! A client with two uplinks, a router that both lead to, and a server behind it.
//!
//! ```text
//! client c0 ── r0 router near ── far server
//!        c1 ── r1
//! ```
//!
//! The uplinks are shaped both ways. As a provider does, the router drops what comes with an address that
//! is not of the link. The client has a routing rule for each address, as a network manager makes them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::net::{Namespace, client_v4, server_v4};
use crate::common::process::output_of;
use crate::common::traffic::listen;

/// How fast the uplinks are, in Mbit/s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates(pub(crate) [u32; 2]);

/// What the tables of results are made with.
pub(crate) const USUAL: Rates = Rates([50, 50]);
/// How long what waits in the queue of an uplink takes at most.
const QUEUE: &str = "50ms";
/// Number of the link between router and server, for their addresses.
const LAST: u8 = 9;
const PORT: u16 = 5000;

/// The three hosts; dropping it removes them.
pub(crate) struct Lab {
    pub(crate) client: Namespace,
    pub(crate) router: Namespace,
    pub(crate) server: Namespace,
    /// The server's; without it no subflow could join.
    pub(crate) listener: TcpListener,
}

impl Lab {
    /// Makes them, in a sandbox, beside others that may be there.
    pub(crate) fn new(rates: Rates) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let host = |role: &str| Namespace::add(format!("{role}{number}").leak());
        let (client, router, server) = (host("client"), host("router"), host("server"));
        let listener = server.enter(|| listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT)));
        let lab = Self { client, router, server, listener: listener.expect("an MPTCP listener") };
        lab.choose_sysctls();
        lab.connect_hosts();
        lab.shape(rates);
        lab
    }

    /// Where the server listens.
    pub(crate) fn service() -> SocketAddr {
        SocketAddr::new(server_v4(LAST), PORT)
    }

    /// What new namespaces inherit from the host, where it may be anything.
    fn choose_sysctls(&self) {
        for host in [&self.client, &self.router, &self.server] {
            host.set_sysctl("net.ipv4.tcp_no_metrics_save", "1");
            host.set_sysctl("net.ipv4.conf.all.rp_filter", "0");
            host.set_sysctl("net.ipv4.conf.default.rp_filter", "0");
        }
        self.router.set_sysctl("net.ipv4.conf.default.rp_filter", "1");
        self.router.set_sysctl("net.ipv4.conf.all.forwarding", "1");
        for end in [&self.client, &self.server] {
            end.ip("mptcp limits set subflows 8 add_addr_accepted 8");
        }
    }

    fn connect_hosts(&self) {
        // So that no two ends of a link have the same index: such a link is taken for one that leads to no
        // other device (net/core/link_watch.c), and the loss of its carrier may then wait for a second.
        self.router.ip("link add padding type veth peer name padding-end");
        for link in 0..2 {
            self.add_uplink(link);
        }
        self.router.ip(&format!("link add near type veth peer name far netns {}", self.server.name()));
        let (near, far) = (client_v4(LAST), server_v4(LAST));
        self.router.ip_batch(&format!("link set near up\naddr add {near}/24 dev near\n"));
        self.server.ip_batch(&format!("link set far up\naddr add {far}/24 dev far\nroute add default via {near}\n"));
    }

    fn add_uplink(&self, link: u8) {
        let (here, there) = (client_v4(link), server_v4(link));
        self.client.ip(&format!("link add c{link} type veth peer name r{link} netns {}", self.router.name()));
        self.router.ip_batch(&format!("link set r{link} up\naddr add {there}/24 dev r{link}\n"));
        let table = 100 + u16::from(link);
        self.client.ip_batch(&format!(
            "link set c{link} up\naddr add {here}/24 dev c{link}\nrule add from {here} lookup {table} priority {table}\n{}",
            Self::routes(link)
        ));
    }

    /// The commands that make what a network manager makes as soon as an uplink is there.
    pub(crate) fn routes(link: u8) -> String {
        let way = format!("default via {} dev c{link}", server_v4(link));
        format!("route replace {way} metric {}\nroute replace {way} table {}\n", 100 + link, 100 + link)
    }

    fn shape(&self, Rates(rates): Rates) {
        for (link, rate) in (0..2).zip(rates) {
            // What passes in 5 ms, but always a full packet and some.
            let burst = (rate * 625).max(3000);
            for (host, end) in [(&self.client, 'c'), (&self.router, 'r')] {
                let shape = format!("tbf rate {rate}mbit burst {burst} latency {QUEUE}");
                host.run("tc", &format!("qdisc add dev {end}{link} root {shape}"));
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in [&self.client, &self.router, &self.server] {
            // Whatever stays vanishes with the sandbox.
            let _ = output_of(Command::new("ip").args(["netns", "del", host.name()]));
        }
    }
}
