//! One path in use at a time, on the most preferred interface where one works. Others are made when it is lost
//! or suspect; with `warm` they are there before, as backups. The side that accepted only announces.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use mptcpd::plugin::{
    Candidate, ConnectionView, LocalAddress, Manages, Memo, Origin, PathManager, Paths, Plugin, Side, View,
    announce_interfaces, by_preference,
};
use mptcpd::settings::{Settings, SettingsError};

/// By default.
const RETURN_AFTER: Duration = Duration::from_secs(5);
/// Milliseconds. What has been there for a second has not been turned away by the peer.
const RETURN_AFTER_RANGE: RangeInclusive<u64> = 1_000..=600_000;

struct Handover {
    /// Whether the paths that are not in use are kept all the same.
    warm: bool,
    /// A path settles when it has been up for so long: then it may take the place of another that works.
    return_after: Duration,
}

impl Handover {
    fn new(settings: &mut Settings) -> Result<Self, SettingsError> {
        let warm = settings.boolean("warm")?.unwrap_or(false);
        let return_after = settings.duration("return-after", RETURN_AFTER_RANGE)?.unwrap_or(RETURN_AFTER);
        Ok(Self { warm, return_after })
    }

    /// The place of the path in use: of those that work the first that has settled, else the oldest. One for
    /// standby is used only when no other works.
    fn in_use(&self, paths: &[Candidate<'_>], now: Instant) -> Option<usize> {
        let standby = |path: &Candidate<'_>| path.local.backup;
        let working = paths.iter().enumerate().filter_map(|(place, path)| Some((place, path, self.settles(path)?)));
        let first = working.min_by_key(|(_, path, settles)| (standby(path), (*settles).max(now)));
        first.map(|(place, ..)| place)
    }

    /// When a path that works settles, or did.
    fn settles(&self, path: &Candidate<'_>) -> Option<Instant> {
        path.flow.filter(|flow| flow.health.is_sound()).map(|flow| flow.since + self.return_after)
    }

    fn connected(&self, mut paths: Vec<Candidate<'_>>, now: Instant, want: &mut Paths) {
        let Some(place) = self.in_use(&paths, now) else {
            // Whichever is there first is the way out.
            return paths.iter().for_each(|path| path.want(want));
        };
        let settling = paths.iter().filter_map(|path| self.settles(path)).filter(|time| *time > now);
        settling.for_each(|time| want.wake_at(time));
        let used = paths.remove(place);
        let settled = self.settles(&used).is_none_or(|time| time <= now);
        // Alone it may stay a backup, so that data leaves it as soon as another comes; beside others of its
        // kind it would share the data with them.
        let shares = paths.iter().any(|path| path.local.backup && path.flow.is_some());
        want.subflow(&LocalAddress { backup: used.local.backup && !shares, ..*used.local }, &used.remote);
        let (better, worse) = paths.split_at(place);
        for path in better {
            if used.local.backup && !path.local.backup {
                path.want(want);
            } else {
                path.want_as_backup(want);
            }
        }
        // The initial one cannot be closed, and nothing is closed for what may not last.
        let stays = |path: &&Candidate<'_>| path.flow.is_some_and(|flow| !settled || flow.origin == Origin::Initial);
        worse.iter().filter(|path| self.warm || stays(path)).for_each(|path| path.want_as_backup(want));
    }
}

impl PathManager for Handover {
    fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, _: &mut Memo, want: &mut Paths) {
        match connection.side {
            Side::Client => {
                self.connected(ranked(view, connection), connection.now, want);
                // With one subflow there is nothing to compare it with.
                want.watch_single();
                want.only_these();
            }
            Side::Server => announce_interfaces(view, connection, want),
        }
    }
}

/// One path for each interface, the most preferred first, those for standby last.
fn ranked<'a>(view: &View<'a>, connection: &ConnectionView<'a>) -> Vec<Candidate<'a>> {
    let mut interfaces = by_preference(view);
    // The initial subflow stays although nothing else would be made there.
    let initial = connection.subflows.iter().find(|flow| flow.origin == Origin::Initial);
    let home = initial.and_then(|flow| flow.if_index).filter(|home| !interfaces.contains(home));
    interfaces.extend(home);
    let mut paths: Vec<_> = interfaces.into_iter().filter_map(|index| connection.candidate(view, index)).collect();
    paths.sort_by_key(|path| path.local.backup);
    paths
}

mptcpd::register_plugin!(Plugin {
    name: "handover",
    manages: Manages::Connections,
    priority: 5,
    summary: "uses one interface at a time, the next when that fails",
    build: |settings| Ok(Box::new(Handover::new(settings)?)),
});

#[cfg(test)]
mod tests {
    use super::*;
    use mptcpd::kit::{Connection, Host};
    use mptcpd::plugin::{AttemptState, Cause, Health, Unusable};

    const COLD: Handover = Handover { warm: false, return_after: RETURN_AFTER };
    const WARM: Handover = Handover { warm: true, return_after: RETURN_AFTER };
    const SECOND: Duration = Duration::from_secs(1);

    const ETH: &str = "10.0.0.1 eth0 - 192.0.2.1:443";
    const WLAN: &str = "10.0.1.1 wlan0 - 192.0.2.1:443";
    const WWAN: &str = "10.0.2.1 wwan0 - 192.0.2.1:443";

    fn host() -> Host {
        Host::new()
            .interface("eth0", &["10.0.0.1"])
            .interface("wlan0", &["10.0.1.1"])
            .interface("wwan0", &["10.0.2.1"])
            .with("10.0.0.1", |local| local.order = -2)
            .with("10.0.1.1", |local| local.order = -1)
    }

    fn metered() -> Host {
        host().with("10.0.2.1", |local| (local.backup, local.order) = (true, -3))
    }

    /// A connection that began on that interface.
    fn begun(if_index: u32) -> Connection {
        let local = format!("10.0.{}.1:40000", if_index - 1);
        Connection::client(&local, "192.0.2.1:443").begun_on(if_index)
    }

    fn joined(connection: Connection, if_index: u32) -> Connection {
        let local = format!("10.0.{}.1:50000", if_index - 1);
        connection.with_subflow(if_index, &local, "192.0.2.1:443", Origin::Local)
    }

    fn backup(path: &str) -> String {
        format!("{path} backup")
    }

    fn wake(manager: &Handover, connection: &Connection) -> Option<Duration> {
        host().paths(manager, connection).wake_at.map(|time| time - connection.now())
    }

    #[test]
    fn a_connection_on_the_most_preferred_interface_gets_no_other_path() {
        let connection = begun(1);
        assert_eq!(host().subflows(&COLD, &connection), [ETH]);
        let want = host().paths(&COLD, &connection);
        assert!(want.watch_single && want.only_these);
        assert_eq!(wake(&COLD, &connection.after(RETURN_AFTER)), None);
    }

    #[test]
    fn where_interfaces_have_the_same_order_the_first_is_preferred() {
        let host = Host::new().interface("wlan0", &["10.0.0.1"]).interface("wwan0", &["10.0.1.1"]);
        let connection = begun(1).with_subflow(2, "10.0.1.1:50000", "192.0.2.1:443", Origin::Local);
        assert_eq!(host.subflows(&COLD, &connection.after(RETURN_AFTER)), ["10.0.0.1 wlan0 - 192.0.2.1:443"]);
    }

    #[test]
    fn a_connection_that_began_elsewhere_changes_to_the_preferred_interface_when_that_has_settled() {
        let first = begun(2);
        assert_eq!(host().subflows(&COLD, &first), [WLAN.into(), backup(ETH)]);
        let both = joined(first.after(SECOND), 1);
        assert_eq!(host().subflows(&COLD, &both), [WLAN.into(), backup(ETH)]);
        assert_eq!(wake(&COLD, &both), Some(RETURN_AFTER - SECOND));
        // The one that was first settles first, and stays in use until the preferred one has settled.
        let between = both.after(RETURN_AFTER - SECOND);
        assert_eq!(host().subflows(&COLD, &between), [WLAN.into(), backup(ETH)]);
        assert_eq!(wake(&COLD, &between), Some(SECOND));
        // The initial one cannot be closed.
        assert_eq!(host().subflows(&COLD, &between.after(SECOND)), [ETH.into(), backup(WLAN)]);
    }

    #[test]
    fn when_nothing_works_every_interface_is_tried_and_none_as_a_backup() {
        for health in [Health::Suspect as fn(_) -> _, Health::Dead] {
            let silent = begun(1).after(RETURN_AFTER).with_health("10.0.0.1:40000", health, Cause::Silence);
            assert_eq!(host().subflows(&COLD, &silent), [ETH, WLAN, WWAN]);
        }
        let down = host().without("10.0.0.1", Unusable::LinkDown);
        let dead = begun(1).with_health("10.0.0.1:40000", Health::Dead, Cause::Link);
        assert_eq!(down.subflows(&COLD, &dead), [WLAN, WWAN]);
        let gone = Host::new().interface("wlan0", &["10.0.1.1"]);
        assert_eq!(gone.subflows(&COLD, &dead), [WLAN]);
    }

    #[test]
    fn of_several_that_came_in_an_emergency_the_first_is_used_and_the_others_stand_by_until_one_has_settled() {
        let lost = begun(1).after(60 * SECOND).lost("10.0.0.1:40000");
        let first = joined(lost, 3);
        let both = joined(first.after(SECOND / 10), 2);
        assert_eq!(host().subflows(&COLD, &both), [WWAN.into(), backup(ETH), backup(WLAN)]);
        let settled = both.after(RETURN_AFTER);
        assert_eq!(host().subflows(&COLD, &settled), [WLAN.into(), backup(ETH)]);
        let other = joined(joined(begun(1).lost("10.0.0.1:40000"), 2).after(SECOND / 10), 3);
        assert_eq!(host().subflows(&COLD, &other), [WLAN.into(), backup(ETH), backup(WWAN)]);
        assert_eq!(wake(&COLD, &other), Some(RETURN_AFTER - SECOND / 10));
        assert_eq!(host().subflows(&COLD, &other.after(RETURN_AFTER)), [WLAN.into(), backup(ETH)]);
    }

    #[test]
    fn what_recovers_before_another_is_there_is_used_again_at_once_and_the_other_let_go() {
        let settled = begun(1).after(RETURN_AFTER);
        let pending = AttemptState::Pending(settled.now());
        let recovered = settled.tried(2, "10.0.1.1", "192.0.2.1:443", pending, 0).after(SECOND / 5);
        assert_eq!(host().subflows(&COLD, &recovered), [ETH]);
        assert_eq!(host().subflows(&COLD, &joined(recovered, 2)), [ETH]);
    }

    #[test]
    fn a_preferred_path_that_is_back_stands_by_until_it_has_settled_and_then_the_others_go() {
        let used = joined(begun(1).lost("10.0.0.1:40000"), 2).after(60 * SECOND);
        assert_eq!(host().subflows(&COLD, &used), [WLAN.into(), backup(ETH)]);
        let back = joined(used, 1);
        assert_eq!(host().subflows(&COLD, &back), [WLAN.into(), backup(ETH)]);
        assert_eq!(wake(&COLD, &back), Some(RETURN_AFTER));
        assert_eq!(host().subflows(&COLD, &back.clone().after(RETURN_AFTER)), [ETH]);
        let lost = back.lost("10.0.1.1:50000");
        assert_eq!(host().subflows(&COLD, &lost), [ETH], "it is all there is");
    }

    #[test]
    fn each_of_several_preferred_paths_that_come_back_takes_its_turn() {
        let used = joined(begun(1).lost("10.0.0.1:40000"), 3).after(60 * SECOND);
        let second = joined(used, 2).after(SECOND);
        let all = joined(second, 1);
        assert_eq!(host().subflows(&COLD, &all), [WWAN.into(), backup(ETH), backup(WLAN)]);
        let turn = all.after(RETURN_AFTER - SECOND);
        assert_eq!(host().subflows(&COLD, &turn), [WLAN.into(), backup(ETH)]);
        assert_eq!(host().subflows(&COLD, &turn.after(SECOND)), [ETH]);
    }

    #[test]
    fn a_warm_one_has_every_other_path_as_a_backup() {
        let connection = begun(1).after(RETURN_AFTER);
        assert_eq!(host().subflows(&WARM, &connection), [ETH.into(), backup(WLAN), backup(WWAN)]);
        let warm = joined(joined(connection, 2), 3).after(60 * SECOND);
        assert_eq!(host().subflows(&WARM, &warm), [ETH.into(), backup(WLAN), backup(WWAN)]);
        let silent = warm.with_health("10.0.0.1:40000", Health::Suspect, Cause::Silence);
        assert_eq!(host().subflows(&WARM, &silent), [WLAN.into(), backup(ETH), backup(WWAN)]);
        assert_eq!(host().subflows(&WARM, &silent.lost("10.0.0.1:40000"))[0], WLAN);
    }

    #[test]
    fn an_interface_for_standby_is_used_only_while_no_other_works_whatever_its_order() {
        let first = begun(1).after(RETURN_AFTER);
        assert_eq!(metered().subflows(&COLD, &first), [ETH]);
        assert_eq!(metered().subflows(&WARM, &first), [ETH.into(), backup(WLAN), backup(WWAN)]);
        let lost = first.lost("10.0.0.1:40000");
        assert_eq!(metered().subflows(&COLD, &lost), [ETH.into(), WLAN.into(), backup(WWAN)]);
        let last = joined(lost, 3).after(60 * SECOND);
        assert_eq!(metered().subflows(&COLD, &last), [backup(WWAN), ETH.into(), WLAN.into()]);
        // Data leaves it at once; it stays until the other has settled.
        let back = joined(last, 2);
        assert_eq!(metered().subflows(&COLD, &back), [WLAN.into(), backup(ETH), backup(WWAN)]);
        assert_eq!(metered().subflows(&COLD, &back.after(RETURN_AFTER)), [WLAN.into(), backup(ETH)]);
    }

    #[test]
    fn of_two_interfaces_for_standby_one_carries_the_data() {
        let host = metered().with("10.0.1.1", |local| local.backup = true).without("10.0.0.1", Unusable::NoCarrier);
        let one = begun(3).after(RETURN_AFTER);
        assert_eq!(host.subflows(&WARM, &one), [backup(WWAN), backup(WLAN)]);
        assert_eq!(host.subflows(&WARM, &joined(one, 2)), [WWAN.into(), backup(WLAN)]);
    }

    #[test]
    fn an_initial_subflow_where_nothing_else_would_be_made_is_the_last_choice() {
        for unusable in [Unusable::NoRoute, Unusable::BuiltIn] {
            let host = host().without("10.0.0.1", unusable);
            assert_eq!(host.subflows(&COLD, &begun(1)), [ETH.into(), backup(WLAN), backup(WWAN)]);
            let settled = joined(begun(1), 2).after(RETURN_AFTER);
            assert_eq!(host.subflows(&COLD, &settled), [WLAN.into(), backup(ETH)]);
        }
        // There the engine closes it as soon as there is another.
        let forbidden = host().without("10.0.0.1", Unusable::Rule(1));
        assert_eq!(forbidden.subflows(&COLD, &begun(1)), [WLAN, WWAN]);
    }

    #[test]
    fn an_interface_with_two_addresses_has_one_path_and_so_has_one_to_a_peer_with_two() {
        let host = Host::new().interface("eth0", &["10.0.0.1", "10.0.0.9", "fd00::1"]).interface("wlan0", &["fd00::2"]);
        let connection = Connection::client("[fd00::1]:40000", "[2001:db8::1]:443");
        let connection = connection.announced(1, "[2001:db8::2]:443").announced(2, "192.0.2.2:443");
        assert_eq!(host.subflows(&COLD, &connection), ["fd00::1 eth0 - [2001:db8::1]:443"]);
        let lost = connection.lost("[fd00::1]:40000");
        let refused = AttemptState::Refused(lost.now() + RETURN_AFTER);
        let refused = lost.tried(2, "fd00::2", "[2001:db8::1]:443", refused, 1);
        let [eth0, wlan0] = &host.subflows(&COLD, &refused)[..] else { panic!("two paths") };
        assert!(eth0.contains("eth0") && wlan0 == "fd00::2 wlan0 - [2001:db8::2]:443", "{eth0} {wlan0}");
    }

    #[test]
    fn the_side_that_accepted_announces_and_makes_nothing() {
        let connection = Connection::server("10.0.0.1:443", "192.0.2.1:40000");
        assert_eq!(host().announcements(&COLD, &connection), ["10.0.1.1", "10.0.2.1"]);
        assert_eq!(host().subflows(&COLD, &connection), [""; 0]);
    }

    #[test]
    fn settings_are_taken_and_a_pause_that_makes_no_sense_is_refused() {
        let new = |toml: &str| Handover::new(&mut Settings::parse("handover", toml).unwrap());
        let set = new("warm = true\nreturn-after = '2500ms'").unwrap();
        assert_eq!((set.warm, set.return_after), (true, SECOND * 5 / 2));
        let unset = new("").unwrap();
        assert_eq!((unset.warm, unset.return_after), (false, RETURN_AFTER));
        for wrong in ["0s", "999ms", "11m", "601s"] {
            assert!(new(&format!("return-after = '{wrong}'")).is_err(), "{wrong}");
        }
    }
}
