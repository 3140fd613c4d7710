//! Between a daemon and the next no join is refused, where a service manager keeps descriptors.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::process::Signal;

use super::common::PATIENCE;
use super::common::daemon::{Daemon, Installation};
use super::common::manager::FdStore;
use super::common::net::{Namespace, Net, SERVICE_V4, client_v4, server_v4};
use super::common::sandbox::sandboxed;
use super::common::traffic::{Server, Transfer};
use super::installed;
use super::listeners::listeners_of_daemon;

const CONNECTIONS: &str = "--path-manager=sspi";

/// Waits until a check holds, with no daemon to listen to.
fn eventually(what: &str, check: impl Fn() -> bool) {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// How many joins a host has refused.
fn refused_joins(namespace: &Namespace) -> u64 {
    let table = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("MPTcpExt: "));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "MPJoinRejected").expect("Linux 6.13").1.parse().unwrap()
}

/// A server whose daemon was killed, and a connection to it.
struct Gap {
    net: Net,
    here: Installation,
    transfer: Transfer,
    _application: Server,
}

/// Kills the server's daemon once it knows of a connection.
fn gap(here: Installation, net: Net) -> Gap {
    let mut daemon = here.start(&[CONNECTIONS]);
    (0..2).for_each(|link| net.default_route_v4(link));
    let application = Server::start(&net.server, SocketAddr::new(SERVICE_V4, 5000));
    let transfer = Transfer::start(&net.client, application.address(), 1_000_000);
    daemon.wait_line(0, &["announce address", "10.0.1.2"]);
    application.wait_for_more(100_000);
    daemon.kill_dash_9();
    net.client.ip("mptcp limits set subflows 4");
    // The client's kernel joins from its second link, to the address that it connected to.
    net.client.ip("mptcp endpoint add 10.0.1.1 subflow dev c1");
    Gap { net, here, transfer, _application: application }
}

fn joined(net: &Net) -> bool {
    net.client.paths() == [client_v4(0), client_v4(1)]
}

#[test]
fn a_join_between_two_daemons_is_accepted_and_the_next_one_learns_of_it() {
    sandboxed(|| {
        let (net, store) = (Net::v4(2), FdStore::default());
        let Gap { net, here, transfer, .. } = gap(installed(&net.server).with_store(&store), net);
        eventually("a join while there is no daemon", || joined(&net));
        let mut next = here.start(&[CONNECTIONS]);
        next.wait_line(0, &["taken back", "events: true"]);
        next.wait_line(0, &["subflow", "10.0.1.1"]);
        assert!(joined(&net));
        assert_eq!(refused_joins(&net.server), 0);
        assert_eq!(next.remarks(), Vec::<String>::new());
        transfer.finish().unwrap();
    });
}

/// The kernel asks whether anybody listens in any namespace (net/netlink/af_netlink.c,
/// `netlink_has_listeners`), so that a daemon of another test is enough.
#[test]
#[ignore = "only true while no other daemon runs on this machine"]
fn where_nobody_keeps_descriptors_it_is_refused() {
    sandboxed(|| {
        let net = Net::v4(2);
        let Gap { net, here, transfer, .. } = gap(installed(&net.server), net);
        eventually("a join that is refused", || refused_joins(&net.server) > 0);
        assert!(!joined(&net));
        here.start(&[CONNECTIONS]).stop();
        transfer.finish().unwrap();
    });
}

#[test]
fn a_listener_of_the_daemon_takes_joins_while_there_is_none_and_is_closed_when_nobody_needs_it() {
    sandboxed(|| {
        let (net, store) = (Net::v4(2), FdStore::default());
        let here = installed(&net.server).with_store(&store);
        let mut daemon = here.start(&[CONNECTIONS]);
        let mut client = installed(&net.client).start(&[CONNECTIONS]);
        net.client.ip("link set c1 down");
        let application = Server::start(&net.server, SocketAddr::new(server_v4(0), 5000));
        let transfer = Transfer::start(&net.client, application.address(), 1_000_000);
        client.wait_line(0, &["announced", "10.0.1.2"]);
        let listener = listeners_of_daemon(&net.server);
        assert_eq!(listener.len(), 1);
        daemon.notifications();
        assert_eq!(store.names().len(), 2, "{:?}", store.names());
        daemon.kill_dash_9();
        net.client.ip("link set c1 up");
        client.eventually("a join while the server has no daemon", || joined(&net));
        let mut next = here.start(&[CONNECTIONS]);
        next.wait_line(0, &["taken back", "events: true", "listeners: 1"]);
        assert_eq!(listeners_of_daemon(&net.server), listener);
        // It is needed as long as the connection lives: the next daemon knows with which port it was announced.
        next.wait_line(0, &["listening on 10.0.1.2:"]);
        net.client.kill("src 10.0.1.1");
        client.eventually("another join", || joined(&net));
        application.wait_for_more(500_000);
        transfer.finish().unwrap();
        next.notified("FDSTOREREMOVE=1");
        next.eventually("no listener without connection", || listeners_of_daemon(&net.server).is_empty());
        assert_eq!(store.names().len(), 1, "{:?}", store.names());
    });
}

#[test]
fn without_a_service_manager_the_next_daemon_listens_again_on_the_port_that_was_announced() {
    sandboxed(|| {
        let net = Net::v4(2);
        let here = installed(&net.server);
        let daemon = here.start(&[CONNECTIONS]);
        let mut client = installed(&net.client).start(&[CONNECTIONS]);
        let application = Server::start(&net.server, SocketAddr::new(server_v4(0), 5000));
        let transfer = Transfer::start(&net.client, application.address(), 1_000_000);
        client.eventually("a join to the announced address", || joined(&net));
        let listener = listeners_of_daemon(&net.server);
        assert_eq!(listener.len(), 1);
        daemon.kill_dash_9();
        let mut next = here.start(&[CONNECTIONS]);
        next.eventually("a listener on the same port", || listeners_of_daemon(&net.server) == listener);
        net.client.kill("src 10.0.1.1");
        client.eventually("another join", || joined(&net));
        application.wait_for_more(500_000);
        transfer.finish().unwrap();
        next.eventually("no listener without connection", || listeners_of_daemon(&net.server).is_empty());
    });
}

#[test]
fn a_listener_that_is_closed_is_not_kept() {
    sandboxed(|| {
        let (net, store) = (Net::v4(2), FdStore::default());
        let mut daemon = installed(&net.server).with_store(&store).start(&[CONNECTIONS]);
        let application = Server::start(&net.server, SocketAddr::new(server_v4(0), 5000));
        let transfer = Transfer::start(&net.client, application.address(), 1_000_000);
        daemon.wait_line(0, &["announce address", "10.0.1.2"]);
        daemon.notifications();
        assert_eq!(store.names().len(), 2, "{:?}", store.names());
        transfer.finish().unwrap();
        daemon.notified("FDSTOREREMOVE=1");
        assert_eq!(store.names().len(), 1, "{:?}", store.names());
        daemon.eventually("no listener", || listeners_of_daemon(&net.server).is_empty());
    });
}

/// What a daemon that manages connections has the manager keep.
fn kept(daemon: &mut Daemon, store: &FdStore) -> Vec<String> {
    daemon.notifications();
    store.names()
}

#[test]
fn the_socket_of_events_is_kept_while_connections_are_managed() {
    sandboxed(|| {
        let (net, store) = (Net::v4(1), FdStore::default());
        let here = installed(&net.server).with_store(&store);
        let mut daemon = here.start(&[]);
        assert_eq!(kept(&mut daemon, &store), Vec::<String>::new());
        here.configure("[core]\npath-manager = \"sspi\"\n");
        daemon.signal(Signal::HUP);
        daemon.notified("FDSTORE=1");
        assert_eq!(store.names().len(), 1);
        daemon.stop();
        let mut daemon = here.start(&[]);
        daemon.wait_line(0, &["taken back", "events: true"]);
        here.configure("");
        daemon.signal(Signal::HUP);
        daemon.notified("FDSTOREREMOVE=1");
        assert_eq!(kept(&mut daemon, &store), Vec::<String>::new());
        daemon.stop();
    });
}

#[test]
fn descriptors_that_are_not_what_they_should_be_are_ignored_with_one_notice() {
    sandboxed(|| {
        let (net, store) = (Net::v4(1), FdStore::default());
        let here = installed(&net.server).with_store(&store);
        here.start(&[CONNECTIONS]).stop();
        let [events] = &store.names()[..] else { panic!("{:?}", store.names()) };
        let listener = events.replace("events", "listener") + "-127.0.0.1-4000";
        store.clear();
        let another = Socket::new(NETLINK_ROUTE).unwrap();
        store.slip_in(events, another.as_fd().try_clone_to_owned().unwrap());
        let tcp = TcpListener::bind("127.0.0.1:4000").unwrap();
        store.slip_in(&listener, OwnedFd::from(tcp));
        store.slip_in("stored", OwnedFd::from(File::open("/dev/null").unwrap()));
        let mut daemon = here.start(&[CONNECTIONS]);
        daemon.wait_line(0, &["INFO", "ignored", "not of use here: 3"]);
        daemon.notifications();
        assert_eq!(store.names(), [events.as_str(), "stored"]);
        daemon.stop();
        let mut daemon = here.start(&[CONNECTIONS]);
        daemon.wait_line(0, &["INFO", "ignored", "not of use here: 1"]);
        daemon.wait_line(0, &["taken back", "events: true"]);
        daemon.stop();
    });
}
