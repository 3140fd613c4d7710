//! Network namespaces, and a client and a server in two of them with links between.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::{io::Write as _, thread};

use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::output_of;

/// An address of the server that is on none of the links, as that of a server on the Internet is not.
pub(crate) const SERVICE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1));
/// The same for IPv6.
pub(crate) const SERVICE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xff, 0, 0, 0, 0, 0, 1));

/// A network namespace with a name; a clone is another handle of the same.
#[derive(Clone)]
pub(crate) struct Namespace {
    name: &'static str,
    file: Arc<File>,
}

impl Namespace {
    /// Makes a namespace, its loopback interface up.
    pub(crate) fn add(name: &'static str) -> Self {
        output_of(Command::new("ip").args(["netns", "add", name])).expect("a network namespace");
        let file = Arc::new(File::open(format!("/run/netns/{name}")).expect("ip-netns(8) puts it there"));
        let namespace = Self { name, file };
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Moves the calling thread here, for good; sockets and children it makes are here too.
    pub(crate) fn move_here(&self) {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.file.as_fd(), network).expect("CAP_SYS_ADMIN in the sandbox");
    }

    /// Does something here, in a thread of its own.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let moved = || {
            self.move_here();
            work()
        };
        thread::scope(|scope| scope.spawn(moved).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a program here, its arguments separated by spaces, and returns its output or why it failed.
    pub(crate) fn try_run(&self, program: &str, arguments: &str) -> Result<String, String> {
        self.enter(|| output_of(Command::new(program).args(arguments.split_whitespace())))
    }

    /// The same for a program that must not fail.
    pub(crate) fn run(&self, program: &str, arguments: &str) -> String {
        self.try_run(program, arguments).unwrap_or_else(|error| panic!("in namespace {}: {error}", self.name))
    }

    /// Runs ip(8) here.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run("ip", arguments)
    }

    /// Runs many ip(8) commands in one process, as fast as it goes.
    pub(crate) fn ip_batch(&self, commands: &str) {
        let ended = self.enter(|| {
            let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip");
            child.stdin.take().expect("piped").write_all(commands.as_bytes()).expect("ip reads its commands");
            child.wait().expect("the child is ours")
        });
        assert!(ended.success(), "ip -batch in namespace {}: {ended}", self.name);
    }

    /// Writes a sysctl of this namespace; `key` as in `net.mptcp.enabled`.
    pub(crate) fn set_sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.enter(|| fs::write(&path, value))
            .unwrap_or_else(|error| panic!("cannot write {value} to {path}: {error}"));
    }

    /// Reads a sysctl of this namespace.
    pub(crate) fn sysctl(&self, key: &str) -> String {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        let text =
            self.enter(|| fs::read_to_string(&path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
        text.trim().to_owned()
    }

    /// Reads the bytes that have left an interface, headers included.
    pub(crate) fn bytes_sent(&self, interface: &str) -> u64 {
        // Not /sys/class/net: what is mounted there may belong to another namespace.
        let table = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev")).expect("interface counters");
        let row = table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
        let sent = row.and_then(|row| row.split_whitespace().nth(8)?.parse().ok());
        sent.unwrap_or_else(|| panic!("no interface {interface} in\n{table}"))
    }

    /// Every MPTCP endpoint here, by id.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.ip("mptcp endpoint show").lines().map(Endpoint::parse).collect()
    }

    /// The addresses that are endpoints.
    pub(crate) fn endpoint_addresses(&self) -> BTreeSet<IpAddr> {
        self.endpoints().into_iter().map(|endpoint| endpoint.address).collect()
    }

    /// The endpoint of an address.
    pub(crate) fn endpoint_of(&self, address: impl Into<IpAddr>) -> Option<Endpoint> {
        let address = address.into();
        self.endpoints().into_iter().find(|endpoint| endpoint.address == address)
    }

    /// The limits of the kernel's path manager here.
    pub(crate) fn limits(&self) -> Limits {
        let text = self.ip("mptcp limits show");
        let value = |name| word_after(&text, name).and_then(|value| value.parse().ok());
        let (Some(add_addr_accepted), Some(subflows)) = (value("add_addr_accepted"), value("subflows")) else {
            panic!("not limits: {text}")
        };
        Limits { add_addr_accepted, subflows }
    }
}

/// An endpoint of the kernel's path manager, as `ip mptcp endpoint show` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) id: u8,
    /// By name, in alphabetical order.
    pub(crate) flags: Vec<String>,
    /// `if5` for an index that no interface has (any more).
    pub(crate) dev: Option<String>,
}

impl Endpoint {
    // `10.0.0.1 id 1 subflow backup dev eth0`: the text has been the same since iproute2 5.10, the
    // JSON has not.
    fn parse(line: &str) -> Self {
        let address = line.split_whitespace().next().and_then(|word| word.parse().ok());
        let id = word_after(line, "id").and_then(|word| word.parse().ok());
        let (Some(address), Some(id)) = (address, id) else { panic!("not an endpoint: {line}") };
        let names = ["backup", "fullmesh", "implicit", "laminar", "signal", "subflow"];
        let flags = names.iter().filter(|name| line.split_whitespace().any(|word| word == **name));
        let flags = flags.map(|name| (*name).to_owned()).collect();
        Self { address, id, flags, dev: word_after(line, "dev").map(str::to_owned) }
    }
}

/// Limits of the kernel's path manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) add_addr_accepted: u8,
    pub(crate) subflows: u8,
}

fn word_after<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.split_whitespace().skip_while(|next| *next != word).nth(1)
}

/// A client and a server, and links between them: `c0` to `s0`, `c1` to `s1` and so on.
pub(crate) struct Net {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
}

impl Net {
    /// Links up at both ends but without addresses at the client's.
    pub(crate) fn bare(links: u8) -> Self {
        let net = Self { client: Namespace::add("client"), server: Namespace::add("server") };
        for namespace in [&net.client, &net.server] {
            // Distributions differ in it, and new namespaces inherit it.
            namespace.set_sysctl("net.ipv4.conf.all.rp_filter", "0");
            namespace.set_sysctl("net.ipv4.conf.default.rp_filter", "0");
        }
        for link in 0..links {
            net.add_link(link);
        }
        net.server.ip(&format!("addr add {SERVICE_V4}/32 dev lo"));
        net.server.ip(&format!("addr add {SERVICE_V6}/128 dev lo nodad"));
        net.server.ip("mptcp limits set subflows 4 add_addr_accepted 4");
        net
    }

    /// The same, and every link has an IPv4 address at the client.
    pub(crate) fn v4(links: u8) -> Self {
        let net = Self::bare(links);
        for link in 0..links {
            net.client.ip(&format!("addr add {}/24 dev c{link}", client_v4(link)));
        }
        net
    }

    /// The same, and every link has an IPv6 address at the client.
    pub(crate) fn v6(links: u8) -> Self {
        let net = Self::bare(links);
        for link in 0..links {
            net.client.ip(&format!("addr add {}/64 dev c{link} nodad", client_v6(link)));
        }
        net
    }

    /// Adds a link, up at both ends, and its addresses at the server's.
    pub(crate) fn add_link(&self, link: u8) {
        self.client.ip(&format!("link add c{link} type veth peer name s{link} netns {}", self.server.name()));
        self.client.ip(&format!("link set c{link} up"));
        self.server.ip(&format!("link set s{link} up"));
        self.server.ip(&format!("addr add {}/24 dev s{link}", server_v4(link)));
        self.server.ip(&format!("addr add {}/64 dev s{link} nodad", server_v6(link)));
    }

    /// Gives the client a default route for IPv4 over a link; the lower its number, the better.
    pub(crate) fn default_route_v4(&self, link: u8) {
        let metric = 100 + u16::from(link);
        self.client.ip(&format!("route add default via {} dev c{link} metric {metric}", server_v4(link)));
    }

    /// The same for IPv6.
    pub(crate) fn default_route_v6(&self, link: u8) {
        let metric = 100 + u16::from(link);
        self.client.ip(&format!("-6 route add default via {} dev c{link} metric {metric}", server_v6(link)));
    }
}

/// The client's IPv4 address on a link.
pub(crate) fn client_v4(link: u8) -> IpAddr {
    IpAddr::from([10, 0, link, 1])
}

/// The server's IPv4 address on a link.
pub(crate) fn server_v4(link: u8) -> IpAddr {
    IpAddr::from([10, 0, link, 2])
}

/// The client's IPv6 address on a link.
pub(crate) fn client_v6(link: u8) -> IpAddr {
    IpAddr::from([0xfd00, u16::from(link), 0, 0, 0, 0, 0, 1])
}

/// The server's IPv6 address on a link.
pub(crate) fn server_v6(link: u8) -> IpAddr {
    IpAddr::from([0xfd00, u16::from(link), 0, 0, 0, 0, 0, 2])
}

/// A TCP subflow of an MPTCP connection, as ss(8) shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subflow {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) established: bool,
    pub(crate) bytes_acked: u64,
}

impl Subflow {
    // `ESTAB 0 0 10.0.1.1%c1:39689 10.255.0.1:5000 ... bytes_acked:8268097 ... tcp-ulp-mptcp flags:...`
    fn parse(line: &str) -> Option<Self> {
        if !line.contains("tcp-ulp-mptcp") {
            return None;
        }
        let mut words = line.split_whitespace();
        let established = words.next()? == "ESTAB";
        let (local, remote) = (socket_address(words.nth(2)?)?, socket_address(words.next()?)?);
        let acked = words.find_map(|word| word.strip_prefix("bytes_acked:")?.parse().ok());
        Some(Self { local, remote, established, bytes_acked: acked.unwrap_or(0) })
    }
}

/// `10.0.1.1%c1:39689` or `[fd00::1]%c1:39689`.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let address = address.split('%').next()?.trim_matches(['[', ']']);
    Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
}

impl Namespace {
    /// The subflows of every connection here, in the order of their local addresses.
    pub(crate) fn subflows(&self) -> Vec<Subflow> {
        let mut subflows: Vec<_> = self.run("ss", "-tinHO").lines().filter_map(Subflow::parse).collect();
        subflows.sort_by_key(|subflow| subflow.local);
        subflows
    }

    /// The local addresses of established subflows.
    pub(crate) fn paths(&self) -> Vec<IpAddr> {
        let established = self.subflows().into_iter().filter(|subflow| subflow.established);
        established.map(|subflow| subflow.local.ip()).collect()
    }
}
