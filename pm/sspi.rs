//! A single subflow per interface: each link carries one, whatever the number of addresses on it. The
//! side that connected makes and closes them; the side that accepted announces one address of each
//! family on its other interfaces, and closes nothing.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mptcpd::plugin::{
    Attempt, AttemptState, ConnectionView, LocalAddress, Manages, Memo, Origin, PathManager, Paths, Plugin, Remote,
    Side, View, WantedAnnouncement,
};
use mptcpd::types::{AddressId, IfIndex};

/// A join that has no answer for so long gives way to another of its interface.
const PATIENCE: Duration = Duration::from_secs(5);

struct SingleSubflowPerInterface;

impl PathManager for SingleSubflowPerInterface {
    fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, _: &mut Memo, want: &mut Paths) {
        match connection.side {
            Side::Client => {
                for if_index in interfaces(view) {
                    join(view, connection, if_index, want);
                }
                // The peer may join too; one of the two on a link is too many.
                want.only_these();
            }
            Side::Server => announce(view, connection, want),
        }
    }
}

/// Interfaces with a usable address, the preferred first.
fn interfaces(view: &View<'_>) -> Vec<IfIndex> {
    let mut interfaces: Vec<_> = view.usable().map(|local| (local.order, local.if_index)).collect();
    interfaces.sort_unstable();
    interfaces.dedup_by_key(|(_, if_index)| *if_index);
    interfaces.into_iter().map(|(_, if_index)| if_index).collect()
}

/// Wants the subflow that the interface has, or the one most likely to come about.
fn join(view: &View<'_>, connection: &ConnectionView<'_>, if_index: IfIndex, want: &mut Paths) {
    let locals = || view.usable().filter(move |local| local.if_index == if_index);
    let sound = connection.subflows_on(if_index).filter(|flow| !flow.suspect);
    // The initial one stays anyhow; of the others, the oldest.
    if let Some(flow) = sound.min_by_key(|flow| (flow.origin != Origin::Initial, flow.since)) {
        // It may come from an address that nothing new would come from, a temporary one for instance.
        let mut locals = view.addresses().iter().filter(|local| local.if_index == if_index);
        if let Some(local) = locals.find(|local| local.address == flow.local.ip()) {
            want.subflow(local, &Remote { address: flow.remote, id: AddressId(0) });
        }
        return;
    }
    let pairs = locals().flat_map(|local| connection.remotes.iter().map(move |remote| (local, remote)));
    let fitting = pairs.filter(|(local, remote)| local.address.is_ipv4() == remote.address.is_ipv4());
    if let Some((local, remote)) = fitting.min_by_key(|(local, remote)| hopelessness(connection, local, remote)) {
        want.subflow(local, remote);
        if let Some(AttemptState::Pending(since)) = state_of(connection, local, remote).map(|attempt| attempt.state) {
            want.wake_at(since + PATIENCE);
        }
    }
}

fn state_of<'a>(connection: &ConnectionView<'a>, local: &LocalAddress<'_>, remote: &Remote) -> Option<&'a Attempt> {
    connection.attempts.iter().find(|attempt| {
        attempt.local == local.address && attempt.if_index == local.if_index && attempt.remote == remote.address
    })
}

/// The lower, the better: what is on its way, then what was there not long ago, then what has not been
/// tried, then what failed least, then what may be tried first.
fn hopelessness(connection: &ConnectionView<'_>, local: &LocalAddress<'_>, remote: &Remote) -> (u32, Option<Instant>) {
    let Some(attempt) = state_of(connection, local, remote) else { return (2, None) };
    let failed = |at| (attempt.failures.saturating_add(2), Some(at));
    match attempt.state {
        AttemptState::Pending(since) if since + PATIENCE > connection.now => (0, None),
        // No answer yet: another may have one.
        AttemptState::Pending(since) => (attempt.failures.saturating_add(3), Some(since)),
        AttemptState::Wanted => (1, None),
        AttemptState::Failed(_) if attempt.failures == 0 => (1, None),
        AttemptState::Failed(time) | AttemptState::Refused(time) => failed(time),
        AttemptState::NoRoute => (u32::MAX, None),
    }
}

/// Announces the first address of each family of every interface but that of the initial subflow.
fn announce(view: &View<'_>, connection: &ConnectionView<'_>, want: &mut Paths) {
    let initial = connection.local.ip();
    let home = view.addresses().iter().find(|local| local.address == initial).map(|local| local.if_index);
    let mut seen: Vec<(IfIndex, bool)> = home.map(|if_index| (if_index, initial.is_ipv4())).into_iter().collect();
    for local in view.usable().filter(|local| local.announce) {
        let family = (local.if_index, IpAddr::is_ipv4(&local.address));
        if !seen.contains(&family) {
            seen.push(family);
            want.announce(WantedAnnouncement { address: local.address, port: None, local: local.address });
        }
    }
}

mptcpd::register_plugin!(Plugin {
    name: "sspi",
    manages: Manages::Connections,
    priority: 0,
    summary: "makes a single subflow per interface, and heals it",
    build: |_| Ok(Box::new(SingleSubflowPerInterface)),
});

#[cfg(test)]
mod tests {
    use super::*;
    use mptcpd::kit::{Connection, Host};
    use mptcpd::plugin::Unusable;

    const INITIAL: &str = "192.0.2.1:443";
    const ANNOUNCED: &str = "192.0.2.2:443";

    fn host() -> Host {
        Host::new().interface("eth0", &["10.0.0.2", "10.0.0.3"]).interface("wlan0", &["10.0.1.2", "fd00::2"])
    }

    fn wanted(connection: &Connection) -> Vec<String> {
        host().subflows(&SingleSubflowPerInterface, connection)
    }

    fn client() -> Connection {
        Connection::client("10.0.0.2:40000", INITIAL)
    }

    #[test]
    fn each_interface_has_one_subflow_whatever_the_number_of_its_addresses() {
        let expected = ["10.0.0.2 eth0 - 192.0.2.1:443", "10.0.1.2 wlan0 - 192.0.2.1:443"];
        assert_eq!(wanted(&client()), expected);
        assert_eq!(wanted(&client().announced(1, ANNOUNCED)), expected);
    }

    #[test]
    fn the_subflow_that_an_interface_has_stays_also_if_it_goes_elsewhere() {
        let connection = client().announced(1, ANNOUNCED).with_subflow(2, "10.0.1.2:40001", ANNOUNCED, Origin::Local);
        assert_eq!(wanted(&connection)[1], "10.0.1.2 wlan0 - 192.0.2.2:443");
    }

    #[test]
    fn what_was_lost_is_made_again_rather_than_what_was_only_announced() {
        let now = client().now();
        let lost = client().announced(1, ANNOUNCED).tried(2, "10.0.1.2", INITIAL, AttemptState::Failed(now), 0);
        assert_eq!(wanted(&lost)[1], "10.0.1.2 wlan0 - 192.0.2.1:443");
        let lost = client().announced(1, ANNOUNCED).tried(2, "10.0.1.2", ANNOUNCED, AttemptState::Failed(now), 0);
        assert_eq!(wanted(&lost)[1], "10.0.1.2 wlan0 - 192.0.2.2:443");
    }

    #[test]
    fn what_fails_or_has_no_route_gives_way_to_another_address_of_the_peer() {
        let now = client().now();
        for (state, failures) in
            [(AttemptState::Failed(now), 1), (AttemptState::Refused(now), 1), (AttemptState::NoRoute, 0)]
        {
            let tried = client().announced(1, ANNOUNCED).tried(2, "10.0.1.2", INITIAL, state, failures);
            assert_eq!(wanted(&tried)[1], "10.0.1.2 wlan0 - 192.0.2.2:443", "{state:?}");
            let alone = client().tried(2, "10.0.1.2", INITIAL, state, failures);
            assert_eq!(wanted(&alone)[1], "10.0.1.2 wlan0 - 192.0.2.1:443", "{state:?}");
        }
    }

    #[test]
    fn a_join_without_an_answer_gives_way_after_some_seconds_and_not_before() {
        let begun = client().announced(1, ANNOUNCED);
        let pending = AttemptState::Pending(begun.now());
        let begun = begun.tried(2, "10.0.1.2", ANNOUNCED, pending, 0);
        assert_eq!(wanted(&begun)[1], "10.0.1.2 wlan0 - 192.0.2.2:443");
        let paths = host().paths(&SingleSubflowPerInterface, &begun);
        assert!(paths.wake_at.is_some_and(|time| time > begun.now()));
        assert_eq!(wanted(&begun.after(PATIENCE))[1], "10.0.1.2 wlan0 - 192.0.2.1:443");
    }

    #[test]
    fn the_side_that_accepted_announces_one_address_of_each_family_on_its_other_interfaces() {
        let connection = Connection::server("10.0.0.2:443", "192.0.2.1:40000");
        assert_eq!(host().announcements(&SingleSubflowPerInterface, &connection), ["10.0.1.2", "fd00::2"]);
        assert_eq!(host().subflows(&SingleSubflowPerInterface, &connection), [""; 0]);
    }

    #[test]
    fn the_initial_subflow_is_kept_rather_than_another_that_its_interface_has() {
        let connection = client().with_subflow(1, "10.0.0.3:50000", INITIAL, Origin::Local);
        assert_eq!(wanted(&connection)[0], "10.0.0.2 eth0 - 192.0.2.1:443");
        assert_eq!(wanted(&connection.lost("10.0.0.2:40000"))[0], "10.0.0.3 eth0 - 192.0.2.1:443");
    }

    #[test]
    fn of_what_failed_as_often_that_is_wanted_which_may_be_tried_first() {
        let now = client().now();
        let (late, soon) = (AttemptState::Refused(now + Duration::from_secs(300)), AttemptState::Failed(now));
        let tried = client().announced(1, ANNOUNCED).tried(2, "10.0.1.2", INITIAL, late, 2);
        assert_eq!(wanted(&tried.tried(2, "10.0.1.2", ANNOUNCED, soon, 2))[1], "10.0.1.2 wlan0 - 192.0.2.2:443");
    }

    #[test]
    fn the_preferred_interface_comes_first_and_one_without_usable_address_not_at_all() {
        let prefer = |local: &mut LocalAddress<'_>| local.order = -1;
        let preferred = host().with("10.0.1.2", prefer).with("fd00::2", prefer);
        let first = preferred.subflows(&SingleSubflowPerInterface, &client()).remove(0);
        assert_eq!(first, "10.0.1.2 wlan0 - 192.0.2.1:443");
        let down = host().without("10.0.1.2", Unusable::NoCarrier).without("fd00::2", Unusable::NoCarrier);
        assert_eq!(down.subflows(&SingleSubflowPerInterface, &client()), ["10.0.0.2 eth0 - 192.0.2.1:443"]);
    }
}
