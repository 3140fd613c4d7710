//! SIGUSR1: what is written, where, and how much of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use super::common::PATIENCE;
use super::common::crowd::Crowd;
use super::common::daemon::Daemon;
use super::common::net::{Net, SERVICE_V4};
use super::common::sandbox::sandboxed;
use super::{address, installed, wait_for_endpoints};

/// Every line as an object, the first and the last of the right kind.
fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    let lines: Vec<Value> = lines.map(parse).collect();
    assert_eq!(lines.first().expect("lines")["kind"], "daemon");
    assert_eq!(lines.last().expect("lines")["kind"], "end");
    assert_eq!(lines.last().expect("lines")["lines"], lines.len());
    lines
}

fn of_kind<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["kind"] == kind).collect()
}

/// Has the state written, and reads the file.
fn dump(daemon: &mut Daemon, file: &Path) -> Vec<Value> {
    let said = daemon.said().len();
    daemon.signal(Signal::USR1);
    daemon.wait_line(said, &["state written to", &file.to_string_lossy()]);
    parse(fs::read_to_string(file).expect("a file").lines())
}

/// Has the state written to the log, and picks it out.
fn dump_to_log(daemon: &mut Daemon) -> Vec<Value> {
    let said = daemon.said().len();
    daemon.signal(Signal::USR1);
    daemon.wait_line(said, &["INFO {\"kind\":\"end\""]);
    let lines = daemon.said().iter().skip(said).filter_map(|line| line.find("{\"kind\"").map(|at| &line[at..]));
    parse(lines)
}

fn state_file(net: &Net) -> PathBuf {
    format!("/run/mptcpd-{}/state/state.json", net.client.name()).into()
}

/// A net on which every connection of the client gets a second path by fullmesh.
fn two_paths() -> Net {
    let net = Net::v4(2);
    (0..2).for_each(|link| net.default_route_v4(link));
    net.server.ip("mptcp limits set subflows 8 add_addr_accepted 4");
    net.client.choose_user_space_path_management();
    net
}

fn gather(daemon: &mut Daemon, net: &Net, count: usize) -> Crowd {
    let crowd = Crowd::gather(net, (SERVICE_V4, 5000).into(), count);
    daemon.eventually("two paths for each connection", || {
        let each = net.client.paths_of_each();
        each.len() == count && each.values().all(|paths| paths.len() == 2)
    });
    crowd
}

/// Has it written until no connection is told any more.
fn wait_until_gone(daemon: &mut Daemon, file: &Path) {
    for _ in 0..100 {
        if of_kind(&dump(daemon, file), "connection").is_empty() {
            return;
        }
    }
    panic!("connections that are gone are told");
}

#[test]
fn what_lies_in_the_way_of_the_file_is_replaced_and_not_followed() {
    sandboxed(|| {
        let net = Net::v4(1);
        let mut daemon = installed(&net.client).start(&[]);
        let (file, victim) = (state_file(&net), PathBuf::from("/run/victim"));
        let beside = file.with_extension("json.new");
        fs::write(&victim, "untouched").expect("a private /run");
        symlink(&victim, &file).expect("a private /run");
        symlink(&victim, &beside).expect("a private /run");
        dump(&mut daemon, &file);
        assert!(fs::symlink_metadata(&file).expect("a file").is_file());
        assert_eq!(fs::read_to_string(&victim).expect("a file"), "untouched");
        assert!(!fs::exists(&beside).expect("a directory"));
        fs::remove_file(&file).expect("a file");
        fs::create_dir(&file).expect("a directory");
        let said = daemon.said().len();
        daemon.signal(Signal::USR1);
        daemon.wait_line(said, &["cannot write", "is a directory"]);
        assert!(!fs::exists(&beside).expect("a directory"));
        fs::remove_dir(&file).expect("a directory");
        dump(&mut daemon, &file);
    });
}

#[test]
fn without_a_runtime_directory_the_state_goes_to_the_log() {
    sandboxed(|| {
        let net = Net::v4(2);
        let here = installed(&net.client).with_variable("RUNTIME_DIRECTORY", "");
        let mut daemon = here.start(&["--path-manager=addr_adv"]);
        wait_for_endpoints(&mut daemon, &net.client, ["10.0.0.1", "10.0.1.1"]);
        // The name is the user's to choose.
        net.client.ip("link add name {\\\"k\"}\u{202e} type veth peer name other");
        daemon.wait_line(0, &["link changed", "\"k"]);
        let lines = dump_to_log(&mut daemon);
        let endpoints = of_kind(&lines, "endpoint");
        let own: Vec<_> = endpoints.iter().filter(|line| line["own"] == true).map(|line| &line["address"]).collect();
        assert_eq!(own, ["10.0.0.1", "10.0.1.1"]);
        assert_eq!((&lines[0]["manages"], of_kind(&lines, "connection").len()), (&"endpoints".into(), 0));
        let odd = |line: &&Value| line["interface"] == "{\\\"k\"}\u{202e}";
        assert!(of_kind(&lines, "interface").iter().any(odd), "{lines:?}");
        assert_eq!(net.client.endpoint_of(address("10.0.0.1")).map(|endpoint| endpoint.id), Some(1));
    });
}

/// How often the state was written; never in vain.
fn written(daemon: &mut Daemon) -> usize {
    let remarks = daemon.remarks();
    assert!(remarks.iter().all(|line| line.contains("state written to")), "{remarks:?}");
    remarks.len()
}

/// What a build without path managers for connections has no part in.
mod of_connections {
    use super::*;

    #[test]
    fn signals_in_a_row_leave_one_whole_file_and_events_are_heard_meanwhile() {
        sandboxed(|| {
            let net = two_paths();
            let mut daemon = installed(&net.client).start(&["--path-manager=fullmesh"]);
            let mut crowd = gather(&mut daemon, &net, 300);
            while written(&mut daemon) < 4 {
                (0..20).for_each(|_| daemon.signal(Signal::USR1));
                assert!(daemon.listen(PATIENCE), "the daemon ended");
            }
            crowd.grow(5);
            daemon.eventually("two paths for each connection", || {
                let each = net.client.paths_of_each();
                each.len() == 305 && each.values().all(|paths| paths.len() == 2)
            });
            let lines = dump(&mut daemon, &state_file(&net));
            assert!(lines.len() > 900, "{}", lines.len());
            daemon.stop();
            assert!(!fs::exists(state_file(&net).with_extension("json.new")).expect("a directory"));
        });
    }

    #[test]
    fn the_state_goes_to_a_file_that_tells_every_connection_and_its_subflows() {
        sandboxed(|| {
            let net = two_paths();
            let mut daemon = installed(&net.client).start(&["--path-manager=fullmesh"]);
            let mut crowd = gather(&mut daemon, &net, 20);
            let file = state_file(&net);
            let lines = dump(&mut daemon, &file);
            assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o7777, 0o600);
            assert_eq!((&lines[0]["format"], &lines[0]["path_manager"]), (&1.into(), &"fullmesh".into()));
            assert_eq!(lines[0]["pid"], daemon.pid());
            let connections = of_kind(&lines, "connection");
            assert_eq!(connections.len(), 20);
            for connection in connections {
                let flows = of_kind(&lines, "subflow").into_iter().filter(|flow| flow["token"] == connection["token"]);
                let origins: Vec<_> = flows.map(|flow| flow["origin"].as_str().expect("a text")).collect();
                assert_eq!((connection["side"].as_str(), &origins[..]), (Some("client"), &["initial", "local"][..]));
            }
            assert!(lines.last().expect("lines")["connections_left_out"] == 0);
            crowd.leave();
            daemon.eventually("no connection", || net.client.paths_of_each().is_empty());
            net.client.ip("link set c1 down");
            wait_until_gone(&mut daemon, &file);
            let lines = dump(&mut daemon, &file);
            let down = of_kind(&lines, "address").into_iter().find(|line| line["address"] == "10.0.1.1").expect("told");
            assert_eq!((&down["used"], &down["why_not"]), (&false.into(), &"its interface is down".into()));
        });
    }

    #[test]
    fn with_many_connections_the_log_is_told_some_and_how_many_are_left_out() {
        const CONNECTIONS: usize = 300;
        sandboxed(|| {
            let net = two_paths();
            let here = installed(&net.client).with_variable("RUNTIME_DIRECTORY", "");
            let mut daemon = here.start(&["--path-manager=fullmesh"]);
            let _crowd = gather(&mut daemon, &net, CONNECTIONS);
            let lines = dump_to_log(&mut daemon);
            assert!((150..=210).contains(&lines.len()), "{}", lines.len());
            let told = of_kind(&lines, "connection").len();
            assert_eq!(lines.last().expect("lines")["connections_left_out"], CONNECTIONS - told);
        });
    }
}
