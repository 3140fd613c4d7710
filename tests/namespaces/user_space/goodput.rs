//! What a transfer gains from a second path.

use std::thread;
use std::time::Duration;

use super::super::common::crowd::Crowd;
use super::super::common::net::{Net, SERVICE_V4, client_v4};
use super::super::common::sandbox::{measured, sandboxed};
use super::{service, start_managing, v4, wait_for_paths};

/// Until windows are open.
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURE: Duration = Duration::from_secs(5);

/// Two links of 50 Mbit/s each.
fn net() -> Net {
    let net = Net::v4(2);
    for (namespace, end) in [(&net.client, 'c'), (&net.server, 's')] {
        for link in 0..2 {
            let shape = format!("qdisc add dev {end}{link} root tbf rate 50mbit burst 64kb latency 50ms");
            namespace.run("tc", &shape);
        }
    }
    net
}

/// What one link gives, in bytes per second.
fn alone(net: &Net, link: u8) -> u64 {
    net.default_route_v4(link);
    let flood = Crowd::gather(net, service(SERVICE_V4), 1).flood();
    thread::sleep(WARM_UP);
    let rate = flood.rate(MEASURE);
    assert_eq!(net.client.paths(), [client_v4(link)]);
    net.client.ip("route del default");
    rate
}

fn both_links(path_manager: &str) {
    let net = net();
    let sum = alone(&net, 0) + alone(&net, 1);
    (0..2).for_each(|link| net.default_route_v4(link));
    let mut daemon = start_managing(&net.client, path_manager);
    let mut crowd = Crowd::gather(&net, service(SERVICE_V4), 1);
    wait_for_paths(&mut daemon, &net.client, 1, &v4(0..2));
    let flood = crowd.flood();
    thread::sleep(WARM_UP);
    let rate = flood.rate(MEASURE);
    measured(&format!("{path_manager}: {rate} B/s over both links, {} % of {sum} B/s", rate * 100 / sum));
    assert!(rate * 100 > sum * 80, "{rate} B/s over both links, {sum} B/s over each alone together");
}

#[test]
#[ignore = "slow"]
fn a_transfer_has_the_rate_of_both_links_by_sspi() {
    sandboxed(|| both_links("sspi"));
}

#[test]
#[ignore = "slow"]
fn a_transfer_has_the_rate_of_both_links_by_fullmesh() {
    sandboxed(|| both_links("fullmesh"));
}
