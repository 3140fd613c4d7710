//! For servers: announces addresses to the peers that connected, also those under which a translator
//! (1:1 NAT) makes this host known, and leaves it to the peers to join.

use std::net::{IpAddr, SocketAddr};

use mptcpd::plugin::{ConnectionView, Manages, Memo, PathManager, Paths, Plugin, Side, View, WantedAnnouncement};
use mptcpd::settings::{Settings, SettingsError};

/// What an address of this host is announced as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapped {
    local: IpAddr,
    public: IpAddr,
    port: Option<u16>,
}

struct Announce {
    /// Empty: every usable address is announced as it is.
    map: Vec<Mapped>,
}

impl Announce {
    fn new(settings: &mut Settings) -> Result<Self, SettingsError> {
        let table = settings.table("map")?.unwrap_or_default();
        let map = table.iter().map(|(local, public)| {
            let wrong = |what: &str| public.error(format!("map: {local:?} = {:?}: {what}", &**public));
            let local = local.parse().map_err(|_| wrong("the key is not an address of this host"))?;
            let (public, port) = parse_public(public)
                .ok_or_else(|| wrong("expected an address, or an address and a port, such as \"203.0.113.7:8443\""))?;
            if IpAddr::is_ipv4(&local) != public.is_ipv4() {
                return Err(wrong("both must be IPv4 or both IPv6"));
            }
            Ok(Mapped { local, public, port })
        });
        Ok(Self { map: map.collect::<Result<_, _>>()? })
    }
}

fn parse_public(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let whole: Option<SocketAddr> = text.parse().ok().filter(|end: &SocketAddr| end.port() != 0);
    let end = whole.map(|end| (end.ip(), Some(end.port())));
    end.or_else(|| text.parse().ok().map(|address| (address, None)))
}

impl PathManager for Announce {
    fn paths(&self, view: &View<'_>, connection: &ConnectionView<'_>, _: &mut Memo, want: &mut Paths) {
        // The peer knows the address that it connected to.
        let others = view.usable().filter(|local| local.announce && local.address != connection.local.ip());
        if connection.side == Side::Client {
            return;
        }
        for local in others.map(|local| local.address) {
            if self.map.is_empty() {
                want.announce(WantedAnnouncement { address: local, port: None, local });
            }
            for mapped in self.map.iter().filter(|mapped| mapped.local == local) {
                want.announce(WantedAnnouncement { address: mapped.public, port: mapped.port, local });
            }
        }
    }
}

mptcpd::register_plugin!(Plugin {
    name: "announce",
    manages: Manages::Connections,
    priority: 30,
    summary: "for servers: announces addresses, also those of a translator, and creates nothing",
    build: |settings| Ok(Box::new(Announce::new(settings)?)),
});

#[cfg(test)]
mod tests {
    use super::*;
    use mptcpd::kit::{Connection, Host};

    fn manager(toml: &str) -> Result<Announce, String> {
        Announce::new(&mut Settings::parse("announce", toml).unwrap()).map_err(|error| error.to_string())
    }

    fn host() -> Host {
        Host::new().interface("eth0", &["10.0.0.4"]).interface("eth1", &["10.0.0.5", "fd00::5"])
    }

    #[test]
    fn without_a_map_every_other_address_is_announced_as_it_is() {
        let connection = Connection::server("10.0.0.4:443", "198.51.100.9:40000");
        let manager = manager("").unwrap();
        assert_eq!(host().announcements(&manager, &connection), ["10.0.0.5", "fd00::5"]);
        assert_eq!(host().subflows(&manager, &connection), [""; 0]);
        let kept = host().with("10.0.0.5", |local| local.announce = false);
        assert_eq!(kept.announcements(&manager, &connection), ["fd00::5"]);
    }

    #[test]
    fn with_a_map_the_public_addresses_of_usable_ones_are_announced_and_no_others() {
        let manager = manager("map = { '10.0.0.4' = '203.0.113.6', '10.0.0.5' = '203.0.113.7:8443' }").unwrap();
        let first = Connection::server("10.0.0.4:443", "198.51.100.9:40000");
        assert_eq!(host().announcements(&manager, &first), ["203.0.113.7:8443"]);
        let second = Connection::server("10.0.0.5:443", "198.51.100.9:40000");
        assert_eq!(host().announcements(&manager, &second), ["203.0.113.6"]);
        let down = host().without("10.0.0.5", mptcpd::plugin::Unusable::LinkDown);
        assert_eq!(down.announcements(&manager, &first), [""; 0]);
    }

    #[test]
    fn the_side_that_connected_announces_nothing() {
        let connection = Connection::client("10.0.0.4:40000", "198.51.100.9:443");
        assert_eq!(host().announcements(&manager("").unwrap(), &connection), [""; 0]);
    }

    #[test]
    fn a_map_that_makes_no_sense_is_refused_with_its_place() {
        for (entry, what) in [
            ("eth0 = '203.0.113.7'", "the key is not an address of this host"),
            ("'10.0.0.5' = 'x'", "expected an address, or an address and a port"),
            ("'10.0.0.5' = '203.0.113.7:0'", "expected an address, or an address and a port"),
            ("'10.0.0.5' = '2001:db8::7'", "both must be IPv4 or both IPv6"),
        ] {
            let error = manager(&format!("map = {{ {entry} }}")).err().unwrap();
            assert!(error.starts_with("announce.toml:1:") && error.contains(what), "{error}");
        }
    }
}
