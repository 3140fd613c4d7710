//! rtnetlink: interfaces, addresses, and what concerns routes (include/uapi/linux/rtnetlink.h). An
//! attribute of another length than known, or unknown altogether, never hides a message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};

use super::{DecodeError, Encoder, Message, attributes, family, ne_u32};
use crate::command::RouteQuestion;
use crate::event::{Address, AddressFlags, Link, LinkFlags, Names, NetworkEvent, RouteAnswer, RoutingChange, Scope};
use crate::types::IfIndex;

/// `RTM_*`: types of messages.
mod rtm {
    pub(super) const NEWLINK: u16 = 16;
    pub(super) const DELLINK: u16 = 17;
    pub(super) const GETLINK: u16 = 18;
    pub(super) const NEWADDR: u16 = 20;
    pub(super) const DELADDR: u16 = 21;
    pub(super) const GETADDR: u16 = 22;
    pub(super) const NEWROUTE: u16 = 24;
    pub(super) const DELROUTE: u16 = 25;
    pub(super) const GETROUTE: u16 = 26;
    pub(super) const NEWRULE: u16 = 32;
    pub(super) const DELRULE: u16 = 33;
    pub(super) const NEWNEXTHOP: u16 = 104;
    pub(super) const DELNEXTHOP: u16 = 105;
}

const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_WIRELESS: u16 = 11;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_KIND: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
const RTM_F_CLONED: u32 = 0x200;
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTN_UNICAST: u8 = 1;
/// The types of routes that only ever concern one own address, broadcast or multicast.
const RTN_OF_ADDRESSES: [u8; 4] = [2, 3, 4, 5];

/// Groups (`RTNLGRP_*`) for interfaces and addresses.
pub const GROUPS: [u32; 3] = [1, 5, 9];
/// Groups for what a lookup of a route depends on: routes and rules of both families, next hops.
pub const ROUTING_GROUPS: [u32; 5] = [7, 8, 11, 19, 32];

/// Asks for every interface: `struct ifinfomsg`, IFLA_EXT_MASK (no statistics).
pub fn encode_dump_links(encoder: &mut Encoder, sequence: u32) {
    encoder.begin(rtm::GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sequence);
    encoder.put(&[0; 16]);
    encoder.attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    encoder.end();
}

/// Asks for every address: `struct ifaddrmsg`.
pub fn encode_dump_addresses(encoder: &mut Encoder, sequence: u32) {
    encoder.begin(rtm::GETADDR, NLM_F_REQUEST | NLM_F_DUMP, sequence);
    encoder.put(&[0; 8]);
    encoder.end();
}

/// Asks which route a packet would take: `struct rtmsg`, RTA_DST, RTA_SRC and RTA_OIF if given.
///
/// With RTM_F_FIB_MATCH the answer is the matching entry of the routing table: for IPv4, a plain lookup
/// that is bound to a device takes every destination to be on-link (net/ipv4/route.c). For IPv6 it is
/// the other way round: only a plain lookup without source keeps to the device
/// (net/ipv6/route.c, `ip6_route_output_flags`).
pub fn encode_ask_route(encoder: &mut Encoder, sequence: u32, question: &RouteQuestion) {
    let bits = if question.destination.is_ipv4() { 32 } else { 128 };
    let source_bits = if question.source.is_some() { bits } else { 0 };
    let match_table = question.destination.is_ipv4() || question.source.is_some();
    encoder.begin(rtm::GETROUTE, NLM_F_REQUEST, sequence);
    encoder.put(&[family(question.destination), bits, source_bits, 0, 0, 0, 0, 0]);
    encoder.put(&if match_table { RTM_F_FIB_MATCH } else { 0 }.to_ne_bytes());
    encoder.ip(RTA_DST, RTA_DST, question.destination);
    if let Some(source) = question.source {
        encoder.ip(RTA_SRC, RTA_SRC, source);
    }
    if question.bound && question.if_index != IfIndex(0) {
        encoder.attribute(RTA_OIF, &question.if_index.0.to_ne_bytes());
    }
    encoder.end();
}

/// Decodes an event or an entry of a dump; `None` if it is of no concern.
pub fn decode_event<'a>(message: &Message<'a>) -> Result<Option<NetworkEvent<'a>>, DecodeError> {
    match message.kind {
        rtm::NEWLINK => Ok(decode_link(message.payload)?.map(NetworkEvent::Link)),
        rtm::DELLINK => Ok(decode_link(message.payload)?.map(|link| NetworkEvent::LinkGone(link.index))),
        rtm::NEWADDR => Ok(decode_address(message.payload)?.map(NetworkEvent::Address)),
        rtm::DELADDR => Ok(decode_address(message.payload)?.map(NetworkEvent::AddressGone)),
        rtm::NEWROUTE | rtm::DELROUTE => Ok(decode_route(message.payload)?.map(NetworkEvent::RoutingChanged)),
        rtm::NEWRULE | rtm::DELRULE | rtm::NEWNEXTHOP | rtm::DELNEXTHOP => {
            Ok(Some(NetworkEvent::RoutingChanged(RoutingChange::Everything)))
        }
        _ => Ok(None),
    }
}

/// `struct ifinfomsg`: u8 family, u8, u16 type, s32 index, u32 flags, u32 change.
fn decode_link(payload: &[u8]) -> Result<Option<Link<'_>>, DecodeError> {
    let (header, rest) = split::<16>(payload)?;
    // A message of another family (AF_BRIDGE) tells of a port's state, not of the interface's life.
    if header.first() != Some(&0) {
        return Ok(None);
    }
    let mut link = Link::new(IfIndex(ne_u32(header, 4)?), LinkFlags(ne_u32(header, 8)?));
    for attribute in attributes(rest) {
        let attribute = attribute?;
        match attribute.kind {
            IFLA_IFNAME => link.name = Some(attribute.bytes()),
            IFLA_MASTER => link.master = Some(IfIndex(attribute.u32()?)),
            IFLA_LINKINFO => link.kind = kind(attribute.value),
            IFLA_PROP_LIST => link.alternative_names = Names::new(attribute.value, next_name),
            // A message of the wireless extensions leaves out everything else, and whatever else changes
            // has a message of its own (net/wireless/wext-core.c, `rtnetlink_fill_iwinfo`).
            IFLA_WIRELESS => return Ok(None),
            _ => {}
        }
    }
    Ok(Some(link))
}

fn kind(link_info: &[u8]) -> Option<&[u8]> {
    let mut known = attributes(link_info).map_while(Result::ok);
    known.find(|attribute| attribute.kind == IFLA_INFO_KIND).map(|attribute| attribute.bytes())
}

/// Takes the first IFLA_ALT_IFNAME off attributes.
fn next_name<'a>(properties: &mut &'a [u8]) -> Option<&'a [u8]> {
    loop {
        let property = attributes(properties).next()?.ok()?;
        let taken = super::align(property.value.len()).saturating_add(netlink_packet_core::NLA_HEADER_SIZE);
        *properties = properties.get(taken..).unwrap_or_default();
        if property.kind == IFLA_ALT_IFNAME {
            return Some(property.bytes());
        }
    }
}

/// `struct ifaddrmsg`: u8 family, u8 prefix length, u8 flags, u8 scope, u32 index.
fn decode_address(payload: &[u8]) -> Result<Option<Address>, DecodeError> {
    let (&[kind, prefix_length, flags, scope, index @ ..], rest) = split::<8>(payload)?;
    let (mut peer, mut local, mut all_flags) = (None, None, u32::from(flags));
    for attribute in attributes(rest) {
        let attribute = attribute?;
        match attribute.kind {
            IFA_ADDRESS => peer = ip(kind, &attribute)?,
            IFA_LOCAL => local = ip(kind, &attribute)?,
            IFA_FLAGS => all_flags = attribute.u32()?,
            _ => {}
        }
    }
    if !matches!(kind, 2 | 10) {
        return Ok(None);
    }
    let peer = peer.or(local).ok_or(DecodeError::Missing(IFA_ADDRESS))?;
    Ok(Some(Address {
        if_index: IfIndex(u32::from_ne_bytes(index)),
        address: local.unwrap_or(peer),
        peer,
        prefix_length,
        scope: Scope(scope),
        flags: AddressFlags(all_flags),
    }))
}

fn ip(kind: u8, attribute: &super::Attribute<'_>) -> Result<Option<IpAddr>, DecodeError> {
    match kind {
        2 => attribute.ipv4().map(|address| Some(address.into())),
        10 => attribute.ipv6().map(|address| Some(address.into())),
        _ => Ok(None),
    }
}

/// `struct rtmsg`: u8 family, u8 destination length, u8 source length, u8 tos, u8 table, u8 protocol,
/// u8 scope, u8 type, u32 flags.
fn decode_route(payload: &[u8]) -> Result<Option<RoutingChange>, DecodeError> {
    let (&[kind, length, _, _, _, _, _, route_type, flags @ ..], rest) = split::<12>(payload)?;
    let mut prefix: IpAddr = match kind {
        2 => Ipv4Addr::UNSPECIFIED.into(),
        10 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Ok(None),
    };
    if u32::from_ne_bytes(flags) & RTM_F_CLONED != 0 || RTN_OF_ADDRESSES.contains(&route_type) {
        return Ok(None);
    }
    for attribute in attributes(rest) {
        let attribute = attribute?;
        if attribute.kind == RTA_DST {
            prefix = ip(kind, &attribute)?.unwrap_or(prefix);
        }
    }
    Ok(Some(RoutingChange::Prefix(prefix, length)))
}

/// Decodes the answer to [`encode_ask_route`]; `None` if it is something else.
pub fn decode_route_answer(message: &Message<'_>, through: IfIndex) -> Result<Option<RouteAnswer>, DecodeError> {
    if message.kind != rtm::NEWROUTE {
        return Ok(None);
    }
    let (header, rest) = split::<12>(message.payload)?;
    // An answer that names no interface (net.ipv4.nexthop_compat_mode=0) is one for that asked for.
    let mut through_it = None;
    for attribute in attributes(rest) {
        let attribute = attribute?;
        let found = match attribute.kind {
            RTA_OIF => attribute.u32()? == through.0,
            RTA_MULTIPATH => has_next_hop(attribute.value, through)?,
            _ => continue,
        };
        through_it = Some(found || through_it == Some(true));
    }
    Ok(Some(RouteAnswer { unicast: header.get(7) == Some(&RTN_UNICAST), through: through_it.unwrap_or(true) }))
}

/// A sequence of `struct rtnexthop`: u16 length, u8 flags, u8 hops, s32 index, attributes.
fn has_next_hop(mut hops: &[u8], through: IfIndex) -> Result<bool, DecodeError> {
    while !hops.is_empty() {
        let length = usize::from(super::ne_u16(hops, 0)?);
        if ne_u32(hops, 4)? == through.0 {
            return Ok(true);
        }
        if length < 8 {
            return Err(DecodeError::Length(length, hops.len()));
        }
        hops = hops.get(super::align(length)..).unwrap_or_default();
    }
    Ok(false)
}

fn split<const N: usize>(payload: &[u8]) -> Result<(&[u8; N], &[u8]), DecodeError> {
    payload.split_first_chunk::<N>().ok_or(DecodeError::Short(N, payload.len()))
}
