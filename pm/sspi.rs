//! A single subflow per interface: each link carries one, whatever the number of addresses on it. The
//! side that connected makes and closes them; the side that accepted announces one address of each
//! family of every interface but what the connection has, and closes nothing.

use mptcpd::plugin::{
    ConnectionView, Manages, Memo, PathManager, Paths, Plugin, Side, View, announce_interfaces, by_preference,
};

struct SingleSubflowPerInterface;

impl PathManager for SingleSubflowPerInterface {
    fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, _: &mut Memo, want: &mut Paths) {
        match connection.side {
            Side::Client => {
                let candidates = by_preference(view).into_iter().filter_map(|index| connection.candidate(view, index));
                candidates.for_each(|candidate| candidate.want(want));
                // The peer may join too; one of the two on a link is too many.
                want.only_these();
            }
            Side::Server => announce_interfaces(view, connection, want),
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
    use std::time::{Duration, Instant};

    use super::*;
    use mptcpd::kit::{Connection, Host};
    use mptcpd::plugin::{AttemptState, Origin, Unusable};

    /// As long as a join is waited for.
    const PATIENCE: Duration = Duration::from_secs(5);

    const MANAGER: SingleSubflowPerInterface = SingleSubflowPerInterface;

    fn host() -> Host {
        Host::new().interface("eth0", &["10.0.0.1", "10.0.0.2"]).interface("eth1", &["10.0.1.1", "fd00::1"])
    }

    fn client() -> Connection {
        Connection::client("10.0.0.2:40000", "192.0.2.1:80")
    }

    #[test]
    fn every_interface_gets_one_subflow_and_keeps_the_one_that_it_has() {
        let expected = ["10.0.0.2 eth0 - 192.0.2.1:80", "10.0.1.1 eth1 - 192.0.2.1:80"];
        assert_eq!(host().subflows(&MANAGER, &client()), expected);
        let joined = client().with_subflow(2, "10.0.1.1:50000", "192.0.2.9:80", Origin::Peer);
        let expected = ["10.0.0.2 eth0 - 192.0.2.1:80", "10.0.1.1 eth1 - 192.0.2.9:80"];
        assert_eq!(host().subflows(&MANAGER, &joined), expected);
    }

    #[test]
    fn the_initial_subflow_is_kept_rather_than_another_that_its_interface_has() {
        let connection = client().with_subflow(1, "10.0.0.1:50000", "192.0.2.1:80", Origin::Local);
        assert_eq!(host().subflows(&MANAGER, &connection)[0], "10.0.0.2 eth0 - 192.0.2.1:80");
        let connection = connection.lost("10.0.0.2:40000");
        assert_eq!(host().subflows(&MANAGER, &connection)[0], "10.0.0.1 eth0 - 192.0.2.1:80");
    }

    #[test]
    fn a_path_that_fails_gives_way_to_one_that_failed_less_and_then_to_one_that_may_be_tried_first() {
        let soon = Instant::now();
        let late = soon + Duration::from_secs(300);
        let eth1 = |connection: &Connection| host().subflows(&MANAGER, connection)[1].clone();
        let connection = client().announced(1, "192.0.2.2:80").announced(2, "[2001:db8::1]:80");
        let one = connection.tried(2, "10.0.1.1", "192.0.2.1:80", AttemptState::Refused(late), 2);
        assert_eq!(eth1(&one), "10.0.1.1 eth1 - 192.0.2.2:80");
        let two = one.tried(2, "10.0.1.1", "192.0.2.2:80", AttemptState::NoRoute, 0);
        assert_eq!(eth1(&two), "fd00::1 eth1 - [2001:db8::1]:80");
        let three = two.tried(2, "fd00::1", "[2001:db8::1]:80", AttemptState::Failed(soon), 2);
        assert_eq!(eth1(&three), "fd00::1 eth1 - [2001:db8::1]:80");
    }

    #[test]
    fn the_preferred_interface_comes_first_and_one_without_usable_address_not_at_all() {
        let preferred = host().with("10.0.1.1", |local| local.order = -1).with("fd00::1", |local| local.order = -1);
        assert_eq!(preferred.subflows(&MANAGER, &client())[0], "10.0.1.1 eth1 - 192.0.2.1:80");
        let down = host().without("10.0.1.1", Unusable::NoCarrier).without("fd00::1", Unusable::NoCarrier);
        assert_eq!(down.subflows(&MANAGER, &client()), ["10.0.0.2 eth0 - 192.0.2.1:80"]);
    }

    #[test]
    fn a_subflow_whose_address_a_rule_forbids_gives_way_to_another_of_its_interface() {
        let connection = Connection::client("10.0.1.1:40000", "192.0.2.1:80").begun_on(2).announced(1, "[fd00::9]:80");
        let forbidden = host().without("10.0.1.1", Unusable::Rule(1));
        assert_eq!(forbidden.subflows(&MANAGER, &connection)[1], "fd00::1 eth1 - [fd00::9]:80");
        let deprecated = host().without("10.0.1.1", Unusable::Deprecated);
        assert_eq!(deprecated.subflows(&MANAGER, &connection)[1], "10.0.1.1 eth1 - 192.0.2.1:80");
    }

    #[test]
    fn the_side_that_accepted_announces_one_address_of_each_family_of_every_other_interface() {
        let connection = Connection::server("10.0.0.2:80", "192.0.2.1:40000");
        assert_eq!(host().announcements(&MANAGER, &connection), ["10.0.1.1", "fd00::1"]);
        assert_eq!(host().subflows(&MANAGER, &connection), [""; 0]);
        let kept = host().with("10.0.1.1", |local| local.announce = false);
        assert_eq!(kept.announcements(&MANAGER, &connection), ["fd00::1"]);
    }

    #[test]
    fn what_was_lost_is_made_again_rather_than_what_was_only_announced() {
        let now = client().now();
        let client = || client().announced(1, "192.0.2.2:80");
        for lost in ["192.0.2.1:80", "192.0.2.2:80"] {
            let lost = client().tried(2, "10.0.1.1", lost, AttemptState::Failed(now), 0);
            let again = format!("10.0.1.1 eth1 - {}", lost.view().attempts[0].remote);
            assert_eq!(host().subflows(&MANAGER, &lost)[1], again);
        }
    }

    #[test]
    fn a_join_without_an_answer_gives_way_after_some_seconds_and_not_before() {
        let begun = client().announced(1, "192.0.2.2:80");
        let pending = AttemptState::Pending(begun.now());
        let begun = begun.tried(2, "10.0.1.1", "192.0.2.2:80", pending, 0);
        assert_eq!(host().subflows(&MANAGER, &begun)[1], "10.0.1.1 eth1 - 192.0.2.2:80");
        assert!(host().paths(&MANAGER, &begun).wake_at.is_some_and(|time| time > begun.now()));
        assert_eq!(host().subflows(&MANAGER, &begun.after(PATIENCE))[1], "10.0.1.1 eth1 - 192.0.2.1:80");
    }
}
