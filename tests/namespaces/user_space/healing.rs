//! Paths that are lost, by whatever means, and come back.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::super::common::crowd::Crowd;
use super::super::common::daemon::Daemon;
use super::super::common::net::{Namespace, Net, SERVICE_V4, SERVICE_V6, client_v4, client_v6, is_old_kernel};
use super::super::common::sandbox::{measured, sandboxed};
use super::super::common::traffic::{Server, Transfer};
use super::super::{address, installed};
use super::{joins, net_v4, net_v6, service, start_managing, v4, wait_for_paths};

/// Within which what was lost has to be back, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// Within which a message has to arrive when a link is lost. 0.2 s is usual; but kernels (6.18 at least)
/// rarely leave data of a subflow that was closed to the timer of the connection, which takes up to 5 s.
const LONGEST_MESSAGE: Duration = Duration::from_secs(15);

/// Kills the subflow of the only connection that has this address at the client, in one of the
/// namespaces, and returns how long it takes until there is another.
fn kill(daemon: &mut Daemon, net: &Net, at: &Namespace, local: IpAddr) -> Duration {
    let killed = net.client.subflow_from(local).expect("a subflow");
    let (here, there) = (killed.local.port(), killed.remote.port());
    let (source, destination) = if at.name() == net.client.name() { (here, there) } else { (there, here) };
    at.kill(&format!("sport = :{source} and dport = :{destination}"));
    let begun = Instant::now();
    daemon.eventually(&format!("another subflow from {local}"), || {
        net.client.subflow_from(local).is_some_and(|subflow| subflow.local.port() != here)
    });
    begun.elapsed()
}

/// Kills either subflow at either end.
fn survive_kills(net: &Net, to: IpAddr, paths: [IpAddr; 2]) {
    let mut daemon = start_managing(&net.client, "sspi");
    for at in [&net.client, &net.server] {
        let mut crowd = Crowd::gather(net, service(to), 1);
        wait_for_paths(&mut daemon, &net.client, 1, &paths);
        for local in paths {
            assert!(kill(&mut daemon, net, at, local) < SOON, "the one from {local} at {}", at.name());
        }
        wait_for_paths(&mut daemon, &net.client, 1, &paths);
        crowd.talk();
        crowd.leave();
    }
    assert_eq!(daemon.remarks(), [""; 0]);
}

#[test]
fn a_subflow_killed_at_either_end_is_back_soon_be_it_the_initial_one() {
    sandboxed(|| survive_kills(&net_v4(2), SERVICE_V4, [client_v4(0), client_v4(1)]));
}

#[test]
fn between_daemons_a_killed_subflow_is_back_soon() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut server = start_managing(&net.server, "sspi");
        survive_kills(&net, SERVICE_V4, [client_v4(0), client_v4(1)]);
        assert_eq!(server.remarks(), [""; 0]);
    });
}

#[test]
fn a_killed_ipv6_subflow_is_back_soon() {
    sandboxed(|| {
        survive_kills(&net_v6(2), SERVICE_V6, [client_v6(0), client_v6(1)]);
    });
}

#[test]
fn a_killed_subflow_between_ipv4_mapped_sockets_is_back_soon() {
    sandboxed(|| {
        let IpAddr::V4(there) = SERVICE_V4 else { unreachable!() };
        survive_kills(&net_v4(2), there.to_ipv6_mapped().into(), [client_v4(0), client_v4(1)]);
    });
}

#[test]
fn a_subflow_killed_again_and_again_is_tried_ever_more_rarely_and_back_in_the_end() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        let from = daemon.said().len();
        for _ in 0..15 {
            net.client.kill("src 10.0.1.1");
            thread::sleep(Duration::from_millis(300));
        }
        let tries = joins(&mut daemon, from);
        assert!((2..=6).contains(&tries), "{tries} tries in 4.5 s");
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        crowd.talk();
    });
}

/// What happens to a link: how it is lost, and how it comes back.
struct Outage {
    name: &'static str,
    lose: fn(&Net, u8),
    end: fn(&Net, u8),
}

const OUTAGES: [Outage; 3] = [
    Outage {
        name: "link down",
        lose: |net, link| drop(net.client.ip(&format!("link set c{link} down"))),
        end: |net, link| {
            net.client.ip(&format!("link set c{link} up"));
            net.default_route_v4(link);
        },
    },
    Outage {
        name: "no carrier",
        lose: |net, link| drop(net.server.ip(&format!("link set s{link} down"))),
        end: |net, link| drop(net.server.ip(&format!("link set s{link} up"))),
    },
    Outage {
        name: "no address",
        lose: |net, link| drop(net.client.ip(&format!("addr flush dev c{link} scope global"))),
        end: |net, link| {
            net.client.ip(&format!("addr add {}/24 dev c{link}", client_v4(link)));
            net.default_route_v4(link);
        },
    },
];

/// Every way to lose either link, and to get it back.
fn survive_outages(net: &Net) {
    let mut daemon = start_managing(&net.client, "sspi");
    for Outage { name, lose, end } in OUTAGES {
        let mut crowd = Crowd::gather(net, service(SERVICE_V4), 1);
        // First the joined subflow, then the initial one.
        for link in [1, 0] {
            wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
            lose(net, link);
            wait_for_paths(&mut daemon, &net.client, 1, &[client_v4(1 - link)]);
            crowd.talk();
            end(net, link);
            let back = wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
            assert!(back < SOON, "{name}, link {link}: back after {back:?}");
        }
        crowd.talk();
    }
    assert_eq!(daemon.remarks(), [""; 0]);
}

#[test]
fn nothing_waits_on_a_link_that_is_lost_and_it_is_used_again_when_it_is_back() {
    sandboxed(|| survive_outages(&net_v4(2)));
}

#[test]
fn between_daemons_nothing_waits_on_a_link_that_is_lost_and_it_is_used_again_when_it_is_back() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut server = start_managing(&net.server, "sspi");
        survive_outages(&net);
        assert_eq!(server.remarks(), [""; 0]);
    });
}

#[test]
fn messages_of_any_size_in_both_directions_pass_a_link_that_is_lost() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "sspi");
        for size in [100, 1_000_000] {
            for Outage { name, lose, end } in OUTAGES {
                let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
                wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
                let dialogue = crowd.converse(size);
                for link in [1, 0] {
                    dialogue.wait_for_rounds(3);
                    lose(&net, link);
                    dialogue.wait_for_rounds(3);
                    end(&net, link);
                    wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
                }
                let longest = dialogue.finish().expect("a connection that lives");
                measured(&format!("{size} bytes to and fro through '{name}': {longest:?} at the longest"));
                assert!(longest < LONGEST_MESSAGE, "{name}: {longest:?} for a message of {size} bytes");
            }
        }
    });
}

#[test]
fn an_address_that_is_replaced_has_a_subflow_of_its_successor_be_it_the_initial_one() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 3);
        wait_for_paths(&mut daemon, &net.client, 3, &v4(0..2));
        replace(&net, 1, "10.0.1.1", "10.0.1.3");
        assert!(wait_for_paths(&mut daemon, &net.client, 3, &[client_v4(0), address("10.0.1.3")]) < SOON);
        replace(&net, 0, "10.0.0.1", "10.0.0.3");
        assert!(wait_for_paths(&mut daemon, &net.client, 3, &[address("10.0.0.3"), address("10.0.1.3")]) < SOON);
        crowd.talk();
    });
}

/// Gives a link another address, and its default route again.
fn replace(net: &Net, link: u8, old: &str, new: &str) {
    net.client.ip(&format!("addr del {old}/24 dev c{link}"));
    net.client.ip(&format!("addr add {new}/24 dev c{link}"));
    net.default_route_v4(link);
}

#[test]
fn the_only_address_of_a_connection_can_be_replaced() {
    sandboxed(|| {
        let net = net_v4(1);
        let mut daemon = start_managing(&net.client, "sspi");
        let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 3);
        wait_for_paths(&mut daemon, &net.client, 3, &[client_v4(0)]);
        replace(&net, 0, "10.0.0.1", "10.0.0.3");
        assert!(wait_for_paths(&mut daemon, &net.client, 3, &[address("10.0.0.3")]) < SOON);
        crowd.talk();
    });
}

/// Longer than which all links are away.
const CLOSE_TIMEOUT: u64 = 2;

/// All links are lost for longer than the kernel keeps a connection without subflows; with a daemon at the
/// server too, or not.
fn outlive(links: u8, Outage { lose, end, .. }: &Outage, with_server: bool) {
    let net = net_v4(links);
    // Older kernels keep it for a minute, which is not worth the time.
    for namespace in [&net.client, &net.server].into_iter().filter(|_| !is_old_kernel()) {
        namespace.set_sysctl("net.mptcp.close_timeout", &CLOSE_TIMEOUT.to_string());
    }
    let _at_server = with_server.then(|| start_managing(&net.server, "sspi"));
    let mut daemon = start_managing(&net.client, "sspi");
    let server = Server::start(&net.server, service(SERVICE_V4));
    let transfer = Transfer::start(&net.client, server.address(), 2_000_000);
    let paths: Vec<_> = (0..links).map(client_v4).collect();
    wait_for_paths(&mut daemon, &net.client, 1, &paths);
    (0..links).for_each(|link| lose(&net, link));
    thread::sleep(Duration::from_secs(CLOSE_TIMEOUT + 3));
    (0..links).for_each(|link| end(&net, link));
    server.wait_for_more(500_000);
    wait_for_paths(&mut daemon, &net.client, 1, &paths);
    transfer.finish().unwrap();
}

#[test]
fn a_connection_outlives_that_its_only_link_is_down() {
    sandboxed(|| outlive(1, &OUTAGES[0], false));
}

#[test]
fn a_connection_outlives_that_both_its_links_are_down() {
    sandboxed(|| outlive(2, &OUTAGES[0], false));
}

#[test]
fn a_connection_outlives_that_both_its_links_have_no_carrier() {
    sandboxed(|| outlive(2, &OUTAGES[1], false));
}

#[test]
fn a_connection_outlives_that_its_host_has_no_address() {
    sandboxed(|| outlive(2, &OUTAGES[2], false));
}

#[test]
fn between_daemons_a_connection_outlives_that_all_links_have_no_carrier() {
    sandboxed(|| outlive(2, &OUTAGES[1], true));
}

#[test]
fn between_daemons_a_connection_outlives_that_its_only_link_is_down() {
    sandboxed(|| outlive(1, &OUTAGES[0], true));
}

#[test]
fn subflows_go_on_while_the_daemon_is_stopped_or_killed_and_started() {
    sandboxed(|| {
        let net = net_v4(2);
        let here = installed(&net.client);
        let start = |choice| here.start(&["--path-manager=sspi", choice]);
        let mut daemon = start("--on-stop=keep");
        let server = Server::start(&net.server, service(SERVICE_V4));
        let transfer = Transfer::start(&net.client, server.address(), 2_000_000);
        wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
        let names =
            || Vec::from_iter(net.client.subflows().into_iter().map(|subflow| (subflow.local, subflow.established)));
        let before = names();
        for (end, next, user_space) in [
            (Daemon::stop as fn(Daemon), "--on-stop=keep", true),
            (Daemon::kill_dash_9, "--on-stop=remove", true),
            (Daemon::kill_dash_9, "--on-stop=remove", true),
            (Daemon::stop, "--on-stop=keep", false),
        ] {
            end(daemon);
            assert_eq!(net.client.has_user_space_path_management(), user_space);
            server.wait_for_more(200_000);
            daemon = start(next);
            server.wait_for_more(200_000);
            assert_eq!(names(), before);
        }
        transfer.finish().unwrap();
    });
}

/// The middle of what some rounds took, each with a connection of its own.
fn median(mut round: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<_> = (0..11).map(|_| round()).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
#[ignore = "slow"]
fn what_is_lost_is_back_within_the_times_that_are_promised() {
    sandboxed(|| {
        let net = net_v4(2);
        let mut daemon = start_managing(&net.client, "sspi");
        let fresh = |daemon: &mut Daemon| {
            let crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
            wait_for_paths(daemon, &net.client, 1, &v4(0..2));
            crowd
        };
        for (at, end) in [(&net.client, "client"), (&net.server, "server")] {
            for (link, which) in [(1, "joined"), (0, "initial")] {
                let time = median(|| {
                    let _crowd = fresh(&mut daemon);
                    kill(&mut daemon, &net, at, client_v4(link))
                });
                measured(&format!("{which} subflow killed at the {end}: back after {time:?}"));
                assert!(time < Duration::from_millis(500));
            }
        }
        for Outage { name, lose, end } in OUTAGES {
            for (link, which) in [(1, "joined"), (0, "initial")] {
                let time = median(|| {
                    let _crowd = fresh(&mut daemon);
                    lose(&net, link);
                    wait_for_paths(&mut daemon, &net.client, 1, &[client_v4(1 - link)]);
                    end(&net, link);
                    wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2))
                });
                measured(&format!("{which} subflow, {name}: back {time:?} after the end of it"));
                assert!(time < Duration::from_millis(2500));
            }
        }
        for (link, which) in [(1, "joined"), (0, "initial")] {
            let time = median(|| {
                let _crowd = fresh(&mut daemon);
                let (old, new) = (format!("10.0.{link}.1"), format!("10.0.{link}.3"));
                replace(&net, link, &old, &new);
                let wanted = [address(&new), client_v4(1 - link)];
                let mut wanted = wanted;
                wanted.sort_unstable();
                let time = wait_for_paths(&mut daemon, &net.client, 1, &wanted);
                replace(&net, link, &new, &old);
                wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
                time
            });
            measured(&format!("address of the {which} subflow replaced: {time:?}"));
            assert!(time < Duration::from_millis(1000));
        }
    });
}
