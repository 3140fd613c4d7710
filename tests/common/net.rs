//! Network namespaces, and a client and a server in two of them with links between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
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

/// Whether this kernel is older than Linux 6.15. Then subflows may not be bound to interfaces (Linux 6.1), so that
/// routes have to lead them.
pub(crate) fn is_old_kernel() -> bool {
    !fs::exists("/proc/sys/net/mptcp/path_manager").unwrap_or(false)
}

/// The sysctl that chooses who manages paths.
fn selector() -> &'static str {
    if is_old_kernel() { "net.mptcp.pm_type" } else { "net.mptcp.path_manager" }
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
        let way = format!("default via {} dev c{link}", server_v4(link));
        self.client.ip(&format!("route add {way} metric {metric}"));
        if is_old_kernel() {
            self.lead("", client_v4(link), &way, metric);
        }
    }

    /// The same for IPv6.
    pub(crate) fn default_route_v6(&self, link: u8) {
        let metric = 100 + u16::from(link);
        let way = format!("default via {} dev c{link}", server_v6(link));
        self.client.ip(&format!("-6 route add {way} metric {metric}"));
        if is_old_kernel() {
            self.lead("-6 ", client_v6(link), &way, metric);
        }
    }

    /// What the client sends from an address takes a way of its own.
    fn lead(&self, family: &str, source: IpAddr, way: &str, table: u16) {
        self.client.ip(&format!("{family}route replace {way} table {table}"));
        // There may be the rule already.
        let _ = self.client.try_run("ip", &format!("{family}rule del from {source} lookup {table}"));
        self.client.ip(&format!("{family}rule add from {source} lookup {table}"));
    }
}

/// A network that links of the client lead through on their way to the server.
pub(crate) struct Router {
    namespace: Namespace,
}

impl Router {
    /// Makes it the far end of the client's links of these numbers, which must not be there yet, and gives
    /// the server so many links to it, of the same numbers, with the addresses `10.99.NUMBER.2`.
    pub(crate) fn add(net: &Net, links: Range<u8>, far_links: u8) -> Self {
        let router = Self { namespace: Namespace::add("router") };
        for (key, value) in [("all.rp_filter", "0"), ("default.rp_filter", "0"), ("all.forwarding", "1")] {
            router.namespace.set_sysctl(&format!("net.ipv4.conf.{key}"), value);
        }
        let first = links.start;
        for link in links.clone() {
            net.client.ip(&format!("link add c{link} type veth peer name near{link} netns router"));
            net.client.ip(&format!("link set c{link} up"));
            let near = server_v4(link);
            router.namespace.ip_batch(&format!("link set near{link} up\naddr add {near}/24 dev near{link}\n"));
        }
        (first..first + far_links).for_each(|link| router.add_far_link(net, link));
        for link in links {
            net.server.ip(&format!("route add 10.0.{link}.0/24 via 10.99.{first}.1"));
        }
        router.forward_through(first);
        router
    }

    /// Gives the server one more link to it.
    pub(crate) fn add_far_link(&self, net: &Net, link: u8) {
        net.server.ip(&format!("link add s{link} type veth peer name far{link} netns router"));
        net.server.ip_batch(&format!("link set s{link} up\naddr add 10.99.{link}.2/24 dev s{link}\n"));
        self.namespace.ip_batch(&format!("link set far{link} up\naddr add 10.99.{link}.1/24 dev far{link}\n"));
    }

    /// Passes on what is for the server, by its link of that number.
    pub(crate) fn forward_through(&self, link: u8) {
        self.namespace.ip(&format!("route replace {SERVICE_V4} via 10.99.{link}.2"));
    }

    /// Drops it without a word.
    pub(crate) fn drop_everything(&self) {
        self.namespace.ip(&format!("route replace blackhole {SERVICE_V4}"));
    }

    /// Answers it itself, with resets, as a middlebox does that does not know the connection.
    pub(crate) fn answer_with_resets(&self) {
        self.namespace.ip(&format!("addr add {SERVICE_V4}/32 dev lo"));
    }

    /// Passes everything on again.
    pub(crate) fn restore(&self, link: u8) {
        let _ = self.namespace.try_run("ip", &format!("addr del {SERVICE_V4}/32 dev lo"));
        self.forward_through(link);
    }

    /// Makes an end of the server's known by another address, and another port if both have one; by its own
    /// nobody reaches it any more.
    pub(crate) fn translate(&self, public: &str, own: &str) {
        let address = |end: &str| end.split(':').next().map(str::to_owned).expect("an address");
        let (public_address, own_address) = (address(public), address(own));
        let port = public.split_once(':').map(|(_, port)| format!("tcp dport {port}")).unwrap_or_default();
        self.namespace.run(
            "nft",
            &format!(
                "add table ip nat ; \
                 add chain ip nat hide {{ type filter hook prerouting priority -150 ; }} ; \
                 add chain ip nat in {{ type nat hook prerouting priority -100 ; }} ; \
                 add chain ip nat out {{ type nat hook postrouting priority 100 ; }} ; \
                 add rule ip nat hide iifname near* ip daddr {own_address} drop ; \
                 add rule ip nat in ip daddr {public_address} {port} dnat to {own} ; \
                 add rule ip nat out ip saddr {own_address} snat to {public_address}",
            ),
        );
    }

    /// IPv4 packets that have arrived.
    pub(crate) fn packets_received(&self) -> u64 {
        self.namespace.packets_received()
    }

    /// Reads the bytes that it has sent to the server by its link of that number, headers included.
    pub(crate) fn bytes_sent(&self, link: u8) -> u64 {
        self.namespace.bytes_sent(&format!("far{link}"))
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
    /// That of the connection on the side that was asked.
    pub(crate) token: u32,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) established: bool,
    pub(crate) bytes_acked: u64,
    /// This side wishes it to carry data only when no other can.
    pub(crate) backup: bool,
    /// The other side does.
    pub(crate) backup_by_peer: bool,
}

impl Subflow {
    // `ESTAB 0 0 10.0.1.1%c1:39689 10.255.0.1:5000 ... bytes_acked:8268097 ... tcp-ulp-mptcp flags:Jjec
    // token:1a2b(id:0)/3c4d(id:2) ...`
    fn parse(line: &str) -> Option<Self> {
        let (words, multipath) = line.split_once("tcp-ulp-mptcp")?;
        let token = multipath.split_once("token:")?.1.split_once('/')?.1.split('(').next()?;
        let token = u32::from_str_radix(token, 16).ok()?;
        let mut words = words.split_whitespace();
        let established = words.next()? == "ESTAB";
        let (local, remote) = (socket_address(words.nth(2)?)?, socket_address(words.next()?)?);
        let bytes_acked = words.find_map(|word| word.strip_prefix("bytes_acked:")?.parse().ok()).unwrap_or(0);
        let flags = multipath.split_once("flags:")?.1.split(' ').next()?;
        let (backup, backup_by_peer) = (flags.contains('b'), flags.contains('B'));
        Some(Self { token, local, remote, established, bytes_acked, backup, backup_by_peer })
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
        established.map(|subflow| subflow.local.ip().to_canonical()).collect()
    }

    /// The established subflows of each connection that has any, by their local addresses, in order.
    pub(crate) fn paths_of_each(&self) -> BTreeMap<u32, Vec<IpAddr>> {
        let mut each: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for subflow in self.subflows().into_iter().filter(|subflow| subflow.established) {
            each.entry(subflow.token).or_default().push(subflow.local.ip().to_canonical());
        }
        each.values_mut().for_each(|paths| paths.sort_unstable());
        each
    }

    /// Kills the TCP sockets that match a filter of ss(8), as a faulty network never can: neither end is
    /// asked.
    pub(crate) fn kill(&self, filter: &str) {
        self.run("ss", &format!("-tKH {filter}"));
    }

    /// The established subflow from an address, of the only connection here.
    pub(crate) fn subflow_from(&self, local: IpAddr) -> Option<Subflow> {
        let mut subflows = self.subflows().into_iter().filter(|subflow| subflow.established);
        subflows.find(|subflow| subflow.local.ip().to_canonical() == local)
    }

    /// Leaves it to a daemon which paths the connections made from now on have.
    pub(crate) fn choose_user_space_path_management(&self) {
        self.choose_path_management(true);
    }

    /// Leaves it to a daemon or, if not, to the kernel.
    pub(crate) fn choose_path_management(&self, user_space: bool) {
        let value = if is_old_kernel() { ["0", "1"] } else { ["kernel", "userspace"] }[usize::from(user_space)];
        self.set_sysctl(selector(), value);
    }

    /// Whether that is chosen.
    pub(crate) fn has_user_space_path_management(&self) -> bool {
        matches!(self.sysctl(selector()).as_str(), "1" | "userspace")
    }

    /// IPv4 packets that have arrived here.
    pub(crate) fn packets_received(&self) -> u64 {
        let table = self.enter(|| fs::read_to_string("/proc/thread-self/net/snmp")).expect("counters");
        let mut rows = table.lines().filter_map(|line| line.strip_prefix("Ip: "));
        let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
        let received = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "InReceives");
        received.and_then(|(_, value)| value.parse().ok()).expect("a number")
    }
}
