//! rtnetlink's decoders and encoders against datagrams of a real kernel.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

use std::net::IpAddr;

use mptcpd::command::RouteQuestion;
use mptcpd::event::{Address, AddressFlags, Link, LinkFlags, NetworkEvent, RouteAnswer, RoutingChange, Scope};
use mptcpd::types::{Errno, IfIndex};
use mptcpd::wire::{self, DecodeError, Encoder, Message, Messages, route};

const CAPTURE: &str = include_str!("captures/80_rtnetlink.hex");
const NAMES: &str = include_str!("captures/81_rtnetlink_names.hex");

/// The datagrams whose comment begins so.
fn datagrams(comment: &str) -> Vec<Vec<u8>> {
    datagrams_in(CAPTURE, comment)
}

fn datagrams_in(capture: &str, comment: &str) -> Vec<Vec<u8>> {
    let lines = capture.lines().filter_map(|line| line.split_once("  # "));
    let found: Vec<_> = lines.filter(|(_, said)| said.starts_with(comment)).map(|(hex, _)| bytes(hex)).collect();
    assert!(!found.is_empty(), "{comment} is in the capture");
    found
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn messages(datagrams: &[Vec<u8>]) -> Vec<Message<'_>> {
    datagrams.iter().flat_map(|datagram| Messages::new(datagram)).map(|message| message.unwrap()).collect()
}

fn events(datagrams: &[Vec<u8>]) -> Vec<NetworkEvent<'_>> {
    messages(datagrams).iter().filter_map(|message| route::decode_event(message).unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_new_link_has_its_index_name_and_flags() {
    let datagrams = datagrams("event: ip link add uplink0");
    let links: Vec<Link<'_>> = events(&datagrams)
        .into_iter()
        .map(|event| match event {
            NetworkEvent::Link(link) => link,
            other => panic!("{other:?}"),
        })
        .collect();
    let names: Vec<_> = links.iter().map(|link| (link.index, link.name.unwrap())).collect();
    assert_eq!(names, [(IfIndex(2), &b"peer0"[..]), (IfIndex(3), &b"uplink0"[..])]);
    assert!(links.iter().all(|link| !link.flags.contains(LinkFlags::UP)));
}

#[test]
fn carrier_comes_and_goes_with_the_far_end() {
    for (command, expected) in [("down", false), ("up", true)] {
        let datagrams = datagrams(&format!("event: ip link set peer0 {command}"));
        let states = events(&datagrams);
        let last = states.iter().rev().find_map(|event| match event {
            NetworkEvent::Link(link) if link.index == IfIndex(3) => Some(link.flags),
            _ => None,
        });
        let flags = last.unwrap();
        assert!(flags.contains(LinkFlags::UP));
        assert_eq!(flags.contains(LinkFlags::LOWER_UP), expected, "{command}");
        assert_eq!(flags.contains(LinkFlags::RUNNING), expected, "{command}");
    }
}

#[test]
fn a_name_of_fifteen_letters_is_read_whole() {
    let datagrams = datagrams("event: ip link set uplink0 down; ip link set uplink0 name fifteen-letters");
    let found = events(&datagrams).iter().any(|event| {
        matches!(event, NetworkEvent::Link(link) if link.index == IfIndex(3) && link.name == Some(b"fifteen-letters"))
    });
    assert!(found);
}

/// Every link that these datagrams tell of: name, kind, alternative names.
fn named(comment: &str) -> Vec<(String, Option<String>, Vec<String>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let datagrams = datagrams_in(NAMES, comment);
    let links = events(&datagrams).into_iter().filter_map(|event| match event {
        NetworkEvent::Link(link) => {
            Some((text(link.name.unwrap()), link.kind.map(text), link.alternative_names.map(text).collect()))
        }
        _ => None,
    });
    links.collect()
}

#[test]
fn a_link_has_its_kind_and_its_alternative_names() {
    const LONG: &str = "a-name-that-is-longer-than-fifteen";
    let veth = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        vec![("uplink0".to_owned(), Some("veth".to_owned()), names)]
    };
    assert_eq!(named("event: ip link property add"), veth(&["enp0s31f6", LONG]));
    assert_eq!(named("event: ip link property del"), veth(&[LONG]));
    let dumped = named("answer: links");
    let kinds: Vec<_> = dumped.iter().map(|(name, kind, _)| (name.as_str(), kind.as_deref())).collect();
    let expected = [("peer0", "veth"), ("uplink0", "veth"), ("br0", "bridge"), ("tun0", "tun")];
    assert_eq!(kinds[0], ("lo", None));
    assert_eq!(kinds[1..], expected.map(|(name, kind)| (name, Some(kind))));
    assert!(dumped.contains(&veth(&[LONG])[0]));
}

#[test]
fn names_that_are_cut_off_end_the_names_and_nothing_else() {
    let datagrams = datagrams_in(NAMES, "event: ip link property add");
    let message = messages(&datagrams)[0];
    let list = message.payload.windows(4).position(|header| header[2..] == [52, 0x80]).unwrap();
    let length = usize::from(u16::from_ne_bytes([message.payload[list], message.payload[list + 1]]));
    let (mut whole, mut seen) = (message.payload.to_vec(), Vec::new());
    for cut in 4..=length {
        // The list is now shorter by what is cut off, and last.
        whole.truncate(list + cut);
        whole.resize(list + cut, 0);
        whole[list..list + 2].copy_from_slice(&u16::try_from(cut).unwrap().to_ne_bytes());
        whole[list + 4..].copy_from_slice(&message.payload[list + 4..list + cut]);
        let event = route::decode_event(&Message { payload: &whole, ..message }).unwrap();
        let Some(NetworkEvent::Link(link)) = event else { panic!("{event:?}") };
        assert_eq!((link.index, link.kind), (IfIndex(3), Some(&b"veth"[..])));
        seen.push(link.alternative_names.count());
    }
    assert!(seen.is_sorted() && seen.first() == Some(&0) && seen.last() == Some(&2), "{seen:?}");
}

#[test]
fn a_message_of_the_wireless_extensions_does_not_take_a_links_names_away() {
    let datagrams = datagrams_in(NAMES, "event: ip link property add");
    let mut payload = messages(&datagrams)[0].payload[..16].to_vec();
    payload.extend(b"\x0c\0\x03\0uplink0\0\x08\0\x0b\0\x04\0\x19\x8b");
    let told = Message { payload: &payload, ..messages(&datagrams)[0] };
    assert_eq!(route::decode_event(&told), Ok(None));
}

#[test]
fn messages_of_a_bridge_about_its_port_do_not_make_or_remove_a_link() {
    let left = datagrams("event: ip link set peer0 nomaster");
    assert!(messages(&left).iter().any(|message| message.kind == 17), "the bridge sends RTM_DELLINK");
    assert!(!events(&left).iter().any(|event| matches!(event, NetworkEvent::LinkGone(_))));
    let joined = datagrams("event: ip link set peer0 master br0");
    assert!(events(&joined).iter().any(|event| matches!(event, NetworkEvent::Link(link) if link.master.is_some())));
}

#[test]
fn the_far_end_of_a_point_to_point_link_is_not_the_hosts_address() {
    let datagrams = datagrams("event: ip addr add 10.9.0.1 peer 10.9.0.2");
    let expected = Address {
        if_index: IfIndex(3),
        address: ip("10.9.0.1"),
        peer: ip("10.9.0.2"),
        prefix_length: 32,
        scope: Scope(0),
        flags: AddressFlags(0x80),
    };
    assert!(events(&datagrams).contains(&NetworkEvent::Address(expected)));
}

#[test]
fn an_ipv6_address_has_all_its_flags() {
    let datagrams = datagrams("event: ip addr add fd00::2/64 dev uplink0 nodad preferred_lft 0");
    let address = events(&datagrams).iter().find_map(|event| match event {
        NetworkEvent::Address(address) => Some(*address),
        _ => None,
    });
    let address = address.unwrap();
    assert_eq!((address.address, address.peer, address.prefix_length), (ip("fd00::2"), ip("fd00::2"), 64));
    assert!(address.flags.contains(AddressFlags::DEPRECATED));
}

#[test]
fn routes_tell_their_prefix_and_those_of_own_addresses_nothing() {
    let change = |comment: &str| -> Vec<RoutingChange> {
        let datagrams = datagrams(comment);
        let changes = events(&datagrams).into_iter().filter_map(|event| match event {
            NetworkEvent::RoutingChanged(change) => Some(change),
            _ => None,
        });
        changes.collect()
    };
    assert_eq!(change("event: ip route add default"), vec![RoutingChange::Prefix(ip("0.0.0.0"), 0); 2]);
    assert_eq!(change("event: ip route add 128.0.0.0/1"), [RoutingChange::Prefix(ip("128.0.0.0"), 1)]);
    assert_eq!(change("event: ip -6 route add 2000::/3"), [RoutingChange::Prefix(ip("2000::"), 3)]);
    assert_eq!(change("event: ip rule add"), [RoutingChange::Everything]);
    assert_eq!(change("event: ip -6 rule add"), [RoutingChange::Everything]);
    assert_eq!(change("event: ip nexthop del"), [RoutingChange::Everything]);
    // Its connected route; not its host route, nor the one of the broadcast address.
    assert_eq!(change("event: ip addr add 10.0.2.1/24"), [RoutingChange::Prefix(ip("10.0.2.0"), 24)]);
}

#[test]
fn a_removed_link_takes_its_addresses_along() {
    let datagrams = datagrams("event: ip link del fifteen-letters");
    let events = events(&datagrams);
    assert!(events.contains(&NetworkEvent::LinkGone(IfIndex(3))));
    let gone = |event: &NetworkEvent<'_>| matches!(event, NetworkEvent::AddressGone(a) if a.address == ip("10.0.2.1"));
    assert!(events.iter().any(gone));
}

#[test]
fn the_dumps_are_complete_and_end() {
    let links = datagrams("answer: links");
    let names: Vec<_> = events(&links)
        .iter()
        .filter_map(|event| match event {
            NetworkEvent::Link(link) => link.name.map(<[u8]>::to_vec),
            _ => None,
        })
        .collect();
    for name in ["lo", "peer0", "fifteen-letters", "br0"] {
        assert!(names.contains(&name.as_bytes().to_vec()), "{name}");
    }
    let addresses = datagrams("answer: addresses");
    let found = events(&addresses).iter().filter(|event| matches!(event, NetworkEvent::Address(_))).count();
    assert!(found >= 5, "{found}");
    for dump in [&links, &addresses] {
        let all = messages(dump);
        let ends: Vec<_> = all.iter().filter_map(|message| wire::decode_end(message).unwrap()).collect();
        assert_eq!(ends.len(), 1);
        assert!(ends[0].result.is_ok());
    }
}

fn question(source: Option<&str>, destination: &str) -> RouteQuestion {
    RouteQuestion { source: source.map(ip), destination: ip(destination), if_index: IfIndex(3), bound: true }
}

#[test]
fn questions_are_encoded_as_they_were_sent() {
    for (comment, question) in [
        ("request: route of 192.0.2.1 from 10.0.2.1", question(Some("10.0.2.1"), "192.0.2.1")),
        ("request: route of 2001:db8::1 from fd00::1", question(Some("fd00::1"), "2001:db8::1")),
        ("request: route of 2001:db8::1, none", question(None, "2001:db8::1")),
    ] {
        let sent = &datagrams(comment)[0];
        let mut encoder = Encoder::default();
        route::encode_ask_route(&mut encoder, Messages::new(sent).next().unwrap().unwrap().sequence, &question);
        assert_eq!(encoder.bytes(), sent, "{comment}");
    }
    for (comment, encode) in [
        ("request: links", route::encode_dump_links as fn(&mut Encoder, u32)),
        ("request: addresses", route::encode_dump_addresses),
    ] {
        let sent = &datagrams(comment)[0];
        let mut encoder = Encoder::default();
        encode(&mut encoder, Messages::new(sent).next().unwrap().unwrap().sequence);
        assert_eq!(encoder.bytes(), sent, "{comment}");
    }
}

fn answer(comment: &str, through: u32) -> Option<RouteAnswer> {
    let datagrams = datagrams(comment);
    messages(&datagrams).iter().find_map(|message| route::decode_route_answer(message, IfIndex(through)).unwrap())
}

#[test]
fn an_answer_says_whether_the_route_leads_out_through_the_interface() {
    let yes = RouteAnswer { unicast: true, through: true };
    let out = Some(yes);
    assert_eq!(answer("answer: route of 192.0.2.1 from 10.0.2.1", 3), out);
    assert_eq!(answer("answer: route of 192.0.2.1 from 10.0.2.1", 4), Some(RouteAnswer { through: false, ..yes }));
    assert_eq!(answer("answer: multipath route of 192.0.2.1", 3), out, "one of several next hops");
    let none = answer("answer: route of 10.0.2.1 from 10.0.2.1", 3);
    assert!(none.is_none_or(|answer| !answer.unicast), "a local route leads nowhere: {none:?}");
}

#[test]
fn no_route_is_an_error_of_the_kernels() {
    let answers = datagrams("answer: route of 2001:db8::1, none");
    let all = messages(&answers);
    let end = wire::decode_end(&all[0]).unwrap().unwrap();
    assert_eq!(end.result.unwrap_err().errno, Errno(101));
}

#[test]
fn a_truncated_header_is_an_error_that_says_how_much_is_missing() {
    let datagrams = datagrams("event: ip addr add fd00::1");
    for message in messages(&datagrams).into_iter().filter(|message| message.kind == 20) {
        for end in 0..8 {
            let cut = Message { payload: &message.payload[..end], ..message };
            assert_eq!(route::decode_event(&cut), Err(DecodeError::Short(8, end)));
        }
        let cut = Message { payload: &message.payload[..8], ..message };
        assert_eq!(route::decode_event(&cut), Err(DecodeError::Missing(1)));
    }
}

#[test]
fn attributes_that_grew_or_are_new_do_not_hide_a_message() {
    let datagrams = datagrams("event: ip addr add fd00::1");
    let message = messages(&datagrams).into_iter().find(|message| message.kind == 20).unwrap();
    let before = route::decode_event(&message).unwrap();
    let mut payload = message.payload.to_vec();
    payload.extend([8, 0, 0xff, 0x3f, 1, 2, 3, 4]);
    // IFA_FLAGS of eight bytes, the first four as they were.
    payload.extend([12, 0, 8, 0, 0x82, 0, 0, 0, 9, 9, 9, 9]);
    let grown = Message { payload: &payload, ..message };
    assert_eq!(route::decode_event(&grown).unwrap(), before);
}
