//! Announced addresses can be joined: where no application listens, the daemon does, and is in nobody's
//! way.

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use rustix::fd::AsRawFd as _;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::common::PATIENCE;
use super::common::daemon::Daemon;
use super::common::net::{Namespace, Net, client_v4, server_v4, server_v6};
use super::common::sandbox::sandboxed;
use super::common::traffic::{Server, Transfer, listen};
use super::installed;

const PORT: u16 = 5000;
const CONNECTIONS: &str = "--path-manager=sspi";

/// Who listens for MPTCP in a namespace, but for applications on the port of the tests.
pub(super) fn listeners_of_daemon(namespace: &Namespace) -> Vec<SocketAddr> {
    let table = namespace.run("ss", "-MlnH");
    let local = |line: &str| line.split_whitespace().find_map(|word| word.parse().ok());
    table.lines().filter_map(local).filter(|local: &SocketAddr| local.port() != PORT).collect()
}

/// The peer's ends of the client's established subflows, in the order of the local addresses.
fn joined(net: &Net) -> Vec<SocketAddr> {
    net.client.subflows().into_iter().filter(|flow| flow.established).map(|flow| flow.remote).collect()
}

struct Hosts {
    net: Net,
    client: Daemon,
    server: Daemon,
}

/// Two links, and a daemon for connections at either end.
fn hosts() -> Hosts {
    let net = Net::v4(2);
    let server = installed(&net.server).start(&[CONNECTIONS]);
    let client = installed(&net.client).start(&[CONNECTIONS]);
    Hosts { net, client, server }
}

impl Hosts {
    /// Waits until the client has joined over its second link, and returns where it did.
    fn wait_for_join(&mut self) -> SocketAddr {
        let net = &self.net;
        self.client.eventually("a subflow on either link", || joined(net).len() == 2);
        assert_eq!(net.client.paths(), [client_v4(0), client_v4(1)]);
        joined(net)[1]
    }

    /// The application at the server's address on the first link, alone or with all others.
    fn application(&self, everywhere: bool) -> TcpListener {
        let address = if everywhere { "0.0.0.0".parse().unwrap() } else { server_v4(0) };
        self.net.server.enter(|| listen(SocketAddr::new(address, PORT))).expect("nobody is in its way")
    }
}

#[test]
fn where_the_application_listens_on_one_address_the_daemon_does_on_the_announced_one() {
    sandboxed(|| {
        let mut hosts = hosts();
        let server = Server::start(&hosts.net.server, SocketAddr::new(server_v4(0), PORT));
        let transfer = Transfer::start(&hosts.net.client, server.address(), 1_000_000);
        let join = hosts.wait_for_join();
        assert_eq!((join.ip(), join.port() == PORT), (server_v4(1), false));
        assert_eq!(listeners_of_daemon(&hosts.net.server), [join]);
        server.wait_for_more(500_000);
        transfer.finish().unwrap();
        let Hosts { net, server, .. } = &mut hosts;
        server.eventually("no listener without connection", || listeners_of_daemon(&net.server).is_empty());
    });
}

#[test]
fn where_the_application_listens_on_every_address_the_daemon_need_not() {
    sandboxed(|| {
        let mut hosts = hosts();
        let server = Server::start(&hosts.net.server, SocketAddr::new("0.0.0.0".parse().unwrap(), PORT));
        let transfer = Transfer::start(&hosts.net.client, SocketAddr::new(server_v4(0), PORT), 1_000_000);
        assert_eq!(hosts.wait_for_join(), SocketAddr::new(server_v4(1), PORT));
        assert_eq!(listeners_of_daemon(&hosts.net.server), []);
        server.wait_for_more(500_000);
        transfer.finish().unwrap();
    });
}

#[test]
fn an_application_that_was_there_before_the_daemon_is_known() {
    sandboxed(|| {
        let net = Net::v4(2);
        let application = Server::start(&net.server, "[::]:5000".parse().unwrap());
        let server = installed(&net.server).start(&[CONNECTIONS]);
        let client = installed(&net.client).start(&[CONNECTIONS]);
        let mut hosts = Hosts { net, client, server };
        let transfer = Transfer::start(&hosts.net.client, SocketAddr::new(server_v4(0), PORT), 1_000_000);
        assert_eq!(hosts.wait_for_join(), SocketAddr::new(server_v4(1), PORT));
        assert_eq!(listeners_of_daemon(&hosts.net.server), []);
        application.wait_for_more(500_000);
        transfer.finish().unwrap();
    });
}

/// The same for IPv6, with or without TCP timestamps, and a transfer to an application on one address.
fn ipv6_hosts(timestamps: &str) -> (Hosts, Server, Transfer) {
    let net = Net::v6(2);
    for host in [&net.server, &net.client] {
        host.set_sysctl("net.ipv4.tcp_timestamps", timestamps);
    }
    let application = Server::start(&net.server, SocketAddr::new(server_v6(0), PORT));
    let server = installed(&net.server).start(&[CONNECTIONS]);
    let client = installed(&net.client).start(&[CONNECTIONS]);
    let transfer = Transfer::start(&net.client, application.address(), 1_000_000);
    (Hosts { net, client, server }, application, transfer)
}

#[test]
fn an_ipv6_address_has_a_port_of_its_own_where_there_are_no_timestamps() {
    sandboxed(|| {
        let (mut hosts, _application, transfer) = ipv6_hosts("0");
        let Hosts { net, client, .. } = &mut hosts;
        client.eventually("a subflow on either link", || joined(net).len() == 2);
        let join = joined(net)[1];
        assert_eq!((join.ip(), join.port() == PORT), (server_v6(1), false));
        assert!(listeners_of_daemon(&net.server).contains(&join));
        transfer.finish().unwrap();
    });
}

#[test]
fn an_ipv6_address_is_announced_without_a_port_beside_timestamps_and_that_is_said_once() {
    sandboxed(|| {
        let (mut hosts, application, transfer) = ipv6_hosts("1");
        let another = Transfer::start(&hosts.net.client, application.address(), 1_000_000);
        hosts.server.wait_line(0, &["INFO", "ipv6", "timestamps", "[fd00:1::2]:5000"]);
        let announced = |line: &&String| line.contains("announce address") && line.contains(" fd00:1::2 ");
        let both = |said: &[String]| said.iter().filter(announced).count() == 2;
        let from = hosts.server.said().len();
        while !both(hosts.server.said()) {
            hosts.server.wait_line(from, &["announce address", "fd00:1::2"]);
        }
        let said = hosts.server.said();
        assert!(said.iter().filter(announced).all(|line| !line.contains(" port ")));
        assert_eq!(said.iter().filter(|line| line.contains("find no listener")).count(), 1);
        assert!(listeners_of_daemon(&hosts.net.server).iter().all(SocketAddr::is_ipv4));
        transfer.finish().unwrap();
        another.finish().unwrap();
    });
}

#[test]
fn the_listener_is_not_in_the_way_of_an_application_that_is_restarted() {
    sandboxed(|| {
        let mut hosts = hosts();
        let application = hosts.application(false);
        let transfer = Transfer::start(&hosts.net.client, SocketAddr::new(server_v4(0), PORT), 100_000);
        let (mut stream, _) = application.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let join = hosts.wait_for_join();
        drop(application);
        let application = hosts.application(true);
        drop(application);
        let _application = hosts.application(false);
        assert_eq!(joined(&hosts.net)[1], join, "what was joined stays");
        drop((stream, transfer));
    });
}

#[test]
fn the_listener_goes_and_comes_with_its_address() {
    sandboxed(|| {
        let mut hosts = hosts();
        let server = Server::start(&hosts.net.server, SocketAddr::new(server_v4(0), PORT));
        let transfer = Transfer::start(&hosts.net.client, server.address(), 1_000_000);
        hosts.wait_for_join();
        let Hosts { net, server: daemon, .. } = &mut hosts;
        net.server.ip("addr del 10.0.1.2/24 dev s1");
        daemon.eventually("no listener at an address that is gone", || listeners_of_daemon(&net.server).is_empty());
        net.server.ip("addr add 10.0.1.2/24 dev s1");
        daemon.eventually("a listener", || listeners_of_daemon(&net.server).len() == 1);
        let again = hosts.wait_for_join();
        assert_eq!(listeners_of_daemon(&hosts.net.server), [again]);
        transfer.finish().unwrap();
    });
}

/// What /proc has of a daemon: it is that of the namespace outside, where the daemon has another number.
fn in_proc(daemon: &Daemon) -> PathBuf {
    let pid = Pid::from_raw(daemon.pid().try_into().unwrap()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let text = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap();
    Path::new("/proc").join(number.trim())
}

/// How many files it has open.
fn files(daemon: &Daemon) -> usize {
    fs::read_dir(in_proc(daemon).join("fd")).unwrap().count()
}

fn connect(net: &Net, to: SocketAddr) -> TcpStream {
    let stream = net.client.enter(|| TcpStream::connect(to)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn whoever_connects_to_the_listener_is_turned_away() {
    sandboxed(|| {
        let mut hosts = hosts();
        let server = Server::start(&hosts.net.server, SocketAddr::new(server_v4(0), PORT));
        let transfer = Transfer::start(&hosts.net.client, server.address(), 1_000_000);
        let join = hosts.wait_for_join();
        let before = files(&hosts.server);
        for _ in 0..20 {
            let many: Vec<_> = (0..10).map(|_| connect(&hosts.net, join)).collect();
            for mut stream in many {
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            }
        }
        assert_eq!(files(&hosts.server), before);
        // And joins are not: a link that comes later finds the same listener.
        hosts.net.client.ip("link set c1 down");
        let net = &hosts.net;
        hosts.client.eventually("one subflow", || joined(net).len() == 1);
        hosts.net.client.ip("link set c1 up");
        assert_eq!(hosts.wait_for_join(), join);
        transfer.finish().unwrap();
    });
}

#[test]
fn a_daemon_without_room_for_files_turns_away_as_soon_as_there_is_some() {
    sandboxed(|| {
        let mut hosts = hosts();
        let server = Server::start(&hosts.net.server, SocketAddr::new(server_v4(0), PORT));
        let transfer = Transfer::start(&hosts.net.client, server.address(), 1_000_000);
        let join = hosts.wait_for_join();
        let pid = hosts.server.pid();
        let allow = |files: usize| hosts.net.server.run("prlimit", &format!("--pid {pid} --nofile={files}:1024"));
        allow(3);
        let mut stream = connect(&hosts.net, join);
        let time = cpu_time(&hosts.server);
        server.wait_for_more(2_000_000);
        assert!(cpu_time(&hosts.server) - time < 50, "it waits");
        allow(1024);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        transfer.finish().unwrap();
    });
}

/// User and system time that it took, in hundredths of a second.
fn cpu_time(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(in_proc(daemon).join("stat")).unwrap();
    let words: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    [words[11], words[12]].iter().map(|word| word.parse::<u64>().unwrap()).sum()
}
