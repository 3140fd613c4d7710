//! The links of the client: broken, mended and changed, and what they are to be used for in the end.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use super::super::common::net::{Namespace, Net, client_v4, client_v6, server_v4, server_v6};
use super::random::Random;

/// How many; with an address of each family each, and one more, the kernel takes no more endpoints.
pub(super) const LINKS: u8 = 3;

/// An interface of the client.
struct Link {
    number: u8,
    /// It is called by its other name, which makes it a backup.
    renamed: bool,
    whole: bool,
}

impl Link {
    fn name(&self) -> String {
        let letter = if self.renamed { 'w' } else { 'c' };
        format!("{letter}{}", self.number)
    }
}

/// A local address that is to be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) address: IpAddr,
    pub(super) backup: bool,
    pub(super) interface: String,
}

/// All of them.
pub(super) struct Links {
    client: Namespace,
    server: Namespace,
    links: Vec<Link>,
    /// Which has one more address of each family.
    extra: Option<u8>,
}

impl Links {
    pub(super) fn new(net: &Net) -> Self {
        let links = (0..LINKS).map(|number| Link { number, renamed: false, whole: false }).collect();
        let mut links = Self { client: net.client.clone(), server: net.server.clone(), links, extra: None };
        links.mend_all();
        links
    }

    /// Every address that is to be used when all is whole.
    pub(super) fn places(&self) -> BTreeSet<Place> {
        let of_link = |link: &Link| {
            let (backup, interface, number) = (link.renamed, link.name(), link.number);
            let extras = (self.extra == Some(number)).then(|| [extra_v4(number), extra_v6(number)]);
            let all = [client_v4(number), client_v6(number)].into_iter().chain(extras.into_iter().flatten());
            all.map(move |address| Place { address, backup, interface: interface.clone() }).collect::<Vec<_>>()
        };
        self.links.iter().flat_map(of_link).collect()
    }

    /// Changes something.
    pub(super) fn disturb(&mut self, random: &mut Random) {
        match random.number(0..100) {
            0..30 => self.damage(random),
            30..60 => self.mend_one(random),
            60..75 => self.flap(random),
            75..85 => self.move_extra(random),
            85..90 => self.rename(random),
            _ => self.prefer(random),
        }
    }

    /// Breaks a link, but not the last that is whole.
    fn damage(&mut self, random: &mut Random) {
        let place = self.any(random);
        if self.links.iter().filter(|link| link.whole).count() < 2 || !self.links[place].whole {
            return;
        }
        self.links[place].whole = false;
        let (number, name) = (self.links[place].number, self.links[place].name());
        let (v4, v6) = (client_v4(number), client_v6(number));
        let command = match random.number(0..9) {
            0 => format!("link set {name} down"),
            1 => return drop(self.server.ip(&format!("link set s{number} down"))),
            2 => format!("addr del {v4}/24 dev {name}"),
            3 => format!("addr del {v6}/64 dev {name}"),
            4 => format!("addr flush dev {name}"),
            5 => format!("-4 route del default dev {name} metric {}", metric(number)),
            6 => format!("-6 route del default dev {name} metric {}", metric(number)),
            7 => format!("-4 route flush dev {name}"),
            _ => format!("addr change {v6}/64 dev {name} preferred_lft 0"),
        };
        self.client.ip(&command);
    }

    fn mend_one(&mut self, random: &mut Random) {
        let broken = self.links.iter().enumerate().filter(|(_, link)| !link.whole).map(|(place, _)| place);
        let broken: Vec<_> = broken.collect();
        if !broken.is_empty() {
            self.mend(random.one(&broken));
        }
    }

    /// Makes all whole.
    pub(super) fn mend_all(&mut self) {
        (0..self.links.len()).for_each(|place| self.mend(place));
    }

    fn mend(&mut self, place: usize) {
        let link = &mut self.links[place];
        link.whole = true;
        let (name, number) = (link.name(), link.number);
        let (v4, v6, metric) = (server_v4(number), server_v6(number), metric(number));
        self.server.ip_batch(&format!("link set s{number} up\naddr replace {v6}/64 dev s{number} nodad\n"));
        let mut commands = format!("link set {name} up\n");
        for (address, length) in self.addresses_of(number) {
            let flags = if address.is_ipv4() { "" } else { "nodad" };
            commands += &format!(
                "addr replace {address}/{length} dev {name} {flags} valid_lft forever preferred_lft forever\n"
            );
        }
        let subnet = format!("10.0.{number}.0/24 dev {name} src {} proto kernel scope link", client_v4(number));
        commands += &format!("route replace {subnet}\n");
        commands += &format!("route replace default via {v4} dev {name} metric {metric}\n");
        commands += &format!("route replace ::/0 via {v6} dev {name} metric {metric}\n");
        self.client.ip_batch(&commands);
    }

    fn addresses_of(&self, number: u8) -> Vec<(IpAddr, u8)> {
        let mut addresses = vec![(client_v4(number), 24), (client_v6(number), 64)];
        if self.extra == Some(number) {
            addresses.extend([(extra_v4(number), 32), (extra_v6(number), 64)]);
        }
        addresses
    }

    /// Down and up again at once.
    fn flap(&mut self, random: &mut Random) {
        let place = self.any(random);
        let name = self.links[place].name();
        self.client.ip(&format!("link set {name} down"));
        thread::sleep(random.time(0..30));
        self.mend(place);
    }

    /// The address beside the others goes, and comes on another link, or not yet.
    fn move_extra(&mut self, random: &mut Random) {
        if let Some(number) = self.extra.take() {
            let name = self.links[usize::from(number)].name();
            // They may have gone with the link.
            let _ = self.client.try_run("ip", &format!("addr del {}/32 dev {name}", extra_v4(number)));
            let _ = self.client.try_run("ip", &format!("addr del {}/64 dev {name}", extra_v6(number)));
        }
        let place = self.any(random);
        if self.links[place].whole {
            self.extra = Some(self.links[place].number);
            self.mend(place);
        }
    }

    fn rename(&mut self, random: &mut Random) {
        let place = self.any(random);
        let old = self.links[place].name();
        self.links[place].renamed ^= true;
        let new = self.links[place].name();
        self.client.ip_batch(&format!("link set {old} down\nlink set {old} name {new}\n"));
        self.mend(place);
    }

    /// New connections come from another link.
    fn prefer(&self, random: &mut Random) {
        let link = &self.links[self.any(random)];
        if link.whole {
            let (v4, v6, name) = (server_v4(link.number), server_v6(link.number), link.name());
            self.client.ip_batch(&format!(
                "route replace default via {v4} dev {name} metric 50\n\
                 route replace ::/0 via {v6} dev {name} metric 50\n"
            ));
        }
    }

    /// Kills the subflows of a link that is whole, so that the peer hears of it.
    pub(super) fn kill_subflows(&self, random: &mut Random) {
        let link = &self.links[self.any(random)];
        if link.whole {
            self.client.kill(&format!("src {}", client_v4(link.number)));
            self.client.kill(&format!("src [{}]", client_v6(link.number)));
        }
    }

    fn any(&self, random: &mut Random) -> usize {
        let places: Vec<_> = (0..self.links.len()).collect();
        random.one(&places)
    }
}

fn metric(number: u8) -> u16 {
    100 + u16::from(number)
}

fn extra_v4(number: u8) -> IpAddr {
    IpAddr::from([10, 0, number, 77])
}

fn extra_v6(number: u8) -> IpAddr {
    IpAddr::from([0xfd00, u16::from(number), 0, 0, 0, 0, 0, 0x77])
}
