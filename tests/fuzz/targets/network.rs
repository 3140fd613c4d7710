//! rtnetlink: arbitrary bytes, which after an even first byte are a datagram and after an odd one the stuff that
//! events and answers are made of. Every event is encoded here and decoded again.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mptcpd::event::{Address, AddressFlags, Link, LinkFlags, Names, NetworkEvent, RouteAnswer, RoutingChange, Scope};
use mptcpd::types::IfIndex;
use mptcpd::wire::{Message, Messages, route};
use mptcpd_fuzz::{Attribute, frugally, join, number, value, whole};

/// The interface that an answer is asked about.
const ASKED: IfIndex = IfIndex(3);

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((mode, datagram)) if mode % 2 == 0 => read(datagram),
        Some((_, stuff)) => _ = make(&mut Unstructured::new(stuff)),
        None => {}
    }
});

fn read(datagram: &[u8]) {
    let mut quiet = Unstructured::new(&[]);
    for message in Messages::new(datagram) {
        let Ok(message) = frugally(|| message) else { return };
        if let Ok(Some(event)) = frugally(|| route::decode_event(&message)) {
            check_event(&event, &mut quiet).unwrap();
        }
        if let Ok(Some(answer)) = frugally(|| route::decode_route_answer(&message, ASKED)) {
            check_answer(answer, &mut quiet).unwrap();
        }
    }
}

fn make(u: &mut Unstructured<'_>) -> Result<()> {
    match u.int_in_range(0..=5)? {
        0 => make_link(u),
        1 => check_event(&NetworkEvent::LinkGone(IfIndex(u.arbitrary()?)), u),
        2 => check_event(&NetworkEvent::Address(address(u)?), u),
        3 => check_event(&NetworkEvent::AddressGone(address(u)?), u),
        4 => {
            let change = match u.arbitrary()? {
                true => RoutingChange::Prefix(value::address(u)?, u.arbitrary()?),
                false => RoutingChange::Everything,
            };
            check_event(&NetworkEvent::RoutingChanged(change), u)
        }
        _ => check_answer(RouteAnswer { unicast: u.arbitrary()?, through: u.arbitrary()? }, u),
    }
}

/// Alternative names are told one byte of length before each here.
fn make_link(u: &mut Unstructured<'_>) -> Result<()> {
    let mut told = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        let name = value::name(u)?;
        told.push(u8::try_from(name.len()).unwrap());
        told.extend(name);
    }
    let mut link = Link::new(IfIndex(u.arbitrary()?), LinkFlags(u.arbitrary()?));
    link.name = if u.arbitrary()? { Some(value::name(u)?) } else { None };
    link.kind = if u.arbitrary()? { Some(value::name(u)?) } else { None };
    link.master = if u.arbitrary()? { Some(IfIndex(u.arbitrary()?)) } else { None };
    link.alternative_names = Names::new(&told, |told| {
        let (length, rest) = told.split_first()?;
        let (name, rest) = rest.split_at_checked((*length).into())?;
        *told = rest;
        Some(name)
    });
    check_event(&NetworkEvent::Link(link), u)
}

fn address(u: &mut Unstructured<'_>) -> Result<Address> {
    let family = value::family(u)?;
    let address = value::address_of(u, family)?;
    Ok(Address {
        if_index: IfIndex(u.arbitrary()?),
        address,
        peer: if u.arbitrary()? { address } else { value::address_of(u, family)? },
        prefix_length: u.arbitrary()?,
        scope: Scope(u.arbitrary()?),
        flags: AddressFlags(u.arbitrary()?),
    })
}

fn check_event(event: &NetworkEvent<'_>, noise: &mut Unstructured<'_>) -> Result<()> {
    let (kind, payload) = match event {
        NetworkEvent::Link(link) => {
            let names = link.alternative_names.count();
            assert!(names < 0x4000, "{names} names in one attribute");
            (16, encode_link(link, noise)?)
        }
        NetworkEvent::LinkGone(index) => (17, encode_link(&Link::new(*index, LinkFlags(0)), noise)?),
        NetworkEvent::Address(address) => (20, encode_address(address, noise)?),
        NetworkEvent::AddressGone(address) => (21, encode_address(address, noise)?),
        NetworkEvent::RoutingChanged(RoutingChange::Prefix(prefix, length)) => {
            (noise.int_in_range(24..=25)?, encode_route(*prefix, *length, noise)?)
        }
        NetworkEvent::RoutingChanged(RoutingChange::Everything) => (*noise.choose(&[32, 33, 104, 105])?, vec![]),
    };
    let message = Message { kind, flags: 0, sequence: 0, port: 0, payload: &payload };
    let again = route::decode_event(&message).unwrap().unwrap();
    assert_eq!(told(&again), told(event));
    Ok(())
}

/// An event without names, the name and kind of its link, and the alternative names.
type Told<'a> = (NetworkEvent<'static>, [Option<&'a [u8]>; 2], Vec<&'a [u8]>);

/// What an event says, so that events of different messages can be compared.
fn told<'a>(event: &NetworkEvent<'a>) -> Told<'a> {
    match *event {
        NetworkEvent::Link(link) => {
            let rest = Link { master: link.master, ..Link::new(link.index, link.flags) };
            (NetworkEvent::Link(rest), [link.name, link.kind], link.alternative_names.collect())
        }
        NetworkEvent::LinkGone(index) => (NetworkEvent::LinkGone(index), [None; 2], vec![]),
        NetworkEvent::Address(address) => (NetworkEvent::Address(address), [None; 2], vec![]),
        NetworkEvent::AddressGone(address) => (NetworkEvent::AddressGone(address), [None; 2], vec![]),
        NetworkEvent::RoutingChanged(change) => (NetworkEvent::RoutingChanged(change), [None; 2], vec![]),
    }
}

/// `struct ifinfomsg` and `IFLA_*`.
fn encode_link(link: &Link<'_>, noise: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let name = |kind, name: &[u8]| whole(kind, [name, &[0]].concat());
    let mut attributes = Vec::new();
    attributes.extend(link.name.map(|own| name(3, own)));
    attributes.extend(link.master.map(|master| number(10, master.0.to_ne_bytes())));
    if let Some(kind) = link.kind {
        attributes.push(whole(18, join(vec![name(1, kind)], noise)?));
    }
    let mut names = Vec::new();
    for alternative in link.alternative_names {
        // Their order is kept.
        names.extend(join(vec![name(53, alternative)], noise)?);
    }
    if !names.is_empty() {
        attributes.push(whole(52, names));
    }
    let mut payload = vec![0, 0xa5, 0xa5, 0xa5];
    payload.extend(link.index.0.to_ne_bytes());
    payload.extend(link.flags.0.to_ne_bytes());
    payload.extend([0xff; 4]);
    payload.extend(join(attributes, noise)?);
    Ok(payload)
}

/// `struct ifaddrmsg` and `IFA_*`.
fn encode_address(of: &Address, noise: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let [low, high @ ..] = of.flags.0.to_le_bytes();
    let mut attributes = Vec::new();
    if high != [0; 3] || noise.arbitrary()? {
        attributes.push(number(8, of.flags.0.to_ne_bytes()));
    }
    // One of the two is enough if they are the same.
    let left_out = if of.address == of.peer { noise.int_in_range(0..=2u8)? } else { 0 };
    if left_out != 1 {
        attributes.push(ip(1, of.peer));
    }
    if left_out != 2 {
        attributes.push(ip(2, of.address));
    }
    let mut payload = vec![family(of.address), of.prefix_length, low, of.scope.0];
    payload.extend(of.if_index.0.to_ne_bytes());
    payload.extend(join(attributes, noise)?);
    Ok(payload)
}

/// `struct rtmsg` and `RTA_*`, of a unicast route.
fn encode_route(prefix: IpAddr, length: u8, noise: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut attributes = vec![number(4, [1, 0, 0, 0])];
    if !prefix.is_unspecified() || noise.arbitrary()? {
        attributes.push(ip(1, prefix));
    }
    let header = vec![family(prefix), length, 0, 0, 254, 2, 0, 1, 0, 0, 0, 0];
    Ok([header, join(attributes, noise)?].concat())
}

/// An answer that names an interface, several next hops, or neither.
fn check_answer(answer: RouteAnswer, noise: &mut Unstructured<'_>) -> Result<()> {
    let interface = if answer.through { ASKED.0 } else { ASKED.0 + 1 };
    let attributes = match noise.int_in_range(0..=2)? {
        0 => vec![number(4, interface.to_ne_bytes())],
        1 => vec![whole(9, [hop(ASKED.0 + 7, noise)?, hop(interface, noise)?].concat())],
        _ if answer.through => vec![],
        _ => vec![number(4, interface.to_ne_bytes()), whole(9, hop(ASKED.0 + 7, noise)?)],
    };
    let route_type = if answer.unicast { 1 } else { noise.int_in_range(2..=255)? };
    let header = vec![2, 32, 0, 0, 254, 2, 0, route_type, 0, 0, 0, 0];
    let payload = [header, join(attributes, noise)?].concat();
    let message = Message { kind: 24, flags: 0, sequence: 1, port: 1, payload: &payload };
    assert_eq!(route::decode_route_answer(&message, ASKED), Ok(Some(answer)));
    Ok(())
}

/// `struct rtnexthop`.
fn hop(interface: u32, noise: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let attributes = join(vec![ip(5, Ipv4Addr::LOCALHOST.into())], noise)?;
    let mut hop = u16::try_from(8 + attributes.len()).unwrap().to_ne_bytes().to_vec();
    hop.extend([0, 0]);
    hop.extend(interface.to_ne_bytes());
    hop.extend(attributes);
    Ok(hop)
}

fn ip(kind: u16, address: IpAddr) -> Attribute {
    match address {
        IpAddr::V4(address) => number(kind, address.octets()),
        IpAddr::V6(address) => number(kind, address.octets()),
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}
