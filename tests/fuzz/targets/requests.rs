//! Everything that the daemon asks of the kernel: arbitrary requests are encoded one after the other, and taken
//! apart again here.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mptcpd::command::{
    Advertisement, NewSubflow, PathCommand, PmCommand, Request, RouteQuestion, SocketRequest, SubflowEnds,
};
use mptcpd::diag::{Cookie, SocketId};
use mptcpd::event::{Endpoint, Limits};
use mptcpd::types::{AddressId, EndpointFlags, Family, IfIndex, Token};
use mptcpd::wire::{Encoder, ctrl, diag, mptcp, route};
use mptcpd_fuzz::{check_line, value};

const MPTCP_PM: u16 = 28;

fuzz_target!(|data: &[u8]| {
    let _ = check(&mut Unstructured::new(data));
});

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let mut encoder = Encoder::default();
    // What is left of earlier messages does not show.
    encoder.put(&[0xa5; 400]);
    encoder.clear();
    let mut requests = Vec::new();
    for _ in 0..u.int_in_range(1..=4)? {
        let (request, sequence) = (request(u)?, u.arbitrary()?);
        check_line(&request);
        encode(&mut encoder, sequence, &request);
        requests.push((sequence, request));
    }
    let name = value::id(u)?.to_string();
    ctrl::encode_get_family(&mut encoder, 7, &name);
    let mut rest = encoder.bytes();
    for (sequence, request) in requests {
        assert_eq!(decode(&mut rest), Some((sequence, request)));
    }
    assert_eq!(decode_get_family(&mut rest), Some(name));
    assert!(rest.is_empty());
    Ok(())
}

fn request(u: &mut Unstructured<'_>) -> Result<Request> {
    Ok(match u.int_in_range(0..=5)? {
        0 => Request::DumpLinks,
        1 => Request::DumpAddresses,
        2 => {
            let family = value::family(u)?;
            let source = if u.arbitrary()? { Some(value::address_of(u, family)?) } else { None };
            let destination = value::address_of(u, family)?;
            let if_index = IfIndex(u.arbitrary()?);
            Request::AskRoute(RouteQuestion { source, destination, if_index, bound: if_index != IfIndex(0) })
        }
        3 => Request::Pm(pm_command(u)?),
        4 => Request::Path(path_command(u)?),
        _ => Request::Sockets(socket_request(u)?),
    })
}

fn pm_command(u: &mut Unstructured<'_>) -> Result<PmCommand> {
    Ok(match u.int_in_range(0..=7)? {
        0 => PmCommand::AddEndpoint(value::endpoint(u)?),
        1 => PmCommand::RemoveEndpoint(value::id(u)?),
        2 => PmCommand::GetEndpoint(value::id(u)?),
        3 => PmCommand::DumpEndpoints,
        4 => PmCommand::FlushEndpoints,
        5 => PmCommand::SetLimits(value::limits(u)?),
        6 => PmCommand::GetLimits,
        _ => PmCommand::SetFlags(value::endpoint(u)?),
    })
}

fn path_command(u: &mut Unstructured<'_>) -> Result<PathCommand> {
    let token = value::token(u)?;
    let ends = |u: &mut Unstructured<'_>| Ok(SubflowEnds { token, local: value::end(u)?, remote: value::end(u)? });
    Ok(match u.int_in_range(0..=6)? {
        0 => PathCommand::Announce(Advertisement {
            token,
            id: value::id(u)?,
            address: value::address(u)?,
            port: u.arbitrary()?,
        }),
        1 => PathCommand::Remove(token, value::id(u)?),
        2 => PathCommand::CreateSubflow(NewSubflow {
            token,
            local: value::address(u)?,
            local_id: value::id(u)?,
            remote: value::end(u)?,
            remote_id: value::id(u)?,
            backup: u.arbitrary()?,
            if_index: value::if_index(u)?,
        }),
        3 => PathCommand::DestroySubflow(ends(u)?),
        4 => PathCommand::SetBackup(ends(u)?, u.arbitrary()?),
        5 => PathCommand::ListAddresses(token),
        _ => PathCommand::Probe(token),
    })
}

fn socket_request(u: &mut Unstructured<'_>) -> Result<SocketRequest> {
    let id = |u: &mut Unstructured<'_>| {
        let (local, remote) = value::ends(u)?;
        Ok(SocketId { local, remote, if_index: value::if_index(u)?, cookie: Cookie(u.arbitrary()?) })
    };
    Ok(match u.int_in_range(0..=6)? {
        0 => SocketRequest::Listeners(value::family(u)?),
        1 => SocketRequest::Connections(value::family(u)?),
        2 => SocketRequest::Subflows(value::family(u)?),
        3 => SocketRequest::Beginning(value::family(u)?),
        4 => SocketRequest::Connection(value::token(u)?),
        5 => SocketRequest::Subflow(id(u)?),
        _ => SocketRequest::Destroy(id(u)?),
    })
}

fn encode(encoder: &mut Encoder, sequence: u32, request: &Request) {
    match request {
        Request::DumpLinks => route::encode_dump_links(encoder, sequence),
        Request::DumpAddresses => route::encode_dump_addresses(encoder, sequence),
        Request::AskRoute(question) => route::encode_ask_route(encoder, sequence, question),
        Request::Pm(command) => mptcp::encode_command(encoder, MPTCP_PM, sequence, command),
        Request::Path(command) => mptcp::encode_path_command(encoder, MPTCP_PM, sequence, command),
        Request::Sockets(request) => diag::encode_request(encoder, sequence, request),
    }
}

/// Takes N bytes off.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// Takes a message off: type, flags, sequence number, payload.
fn take_message<'a>(bytes: &mut &'a [u8]) -> Option<(u16, u16, u32, &'a [u8])> {
    let length = usize::try_from(u32::from_ne_bytes(take(bytes)?)).ok()?;
    let (kind, flags) = (u16::from_ne_bytes(take(bytes)?), u16::from_ne_bytes(take(bytes)?));
    let (sequence, port) = (u32::from_ne_bytes(take(bytes)?), u32::from_ne_bytes(take(bytes)?));
    let (payload, rest) = bytes.split_at_checked(length.checked_sub(16)?)?;
    *bytes = rest;
    (length % 4 == 0 && port == 0).then_some((kind, flags, sequence, payload))
}

/// Attributes that may be taken once each.
struct Attributes<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attributes<'a> {
    fn new(mut bytes: &'a [u8]) -> Option<Self> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let (length, kind) =
                (usize::from(u16::from_ne_bytes(take(&mut bytes)?)), u16::from_ne_bytes(take(&mut bytes)?));
            let (value, rest) = bytes.split_at_checked(length.checked_sub(4)?)?;
            let (padding, rest) = rest.split_at_checked(length.next_multiple_of(4) - length)?;
            if padding.iter().any(|byte| *byte != 0) || all.iter().any(|(other, _)| *other == kind) {
                return None;
            }
            all.push((kind, value));
            bytes = rest;
        }
        Some(Self(all))
    }

    fn has(&self, kind: u16) -> bool {
        self.0.iter().any(|(own, _)| *own == kind)
    }

    fn take(&mut self, kind: u16) -> Option<&'a [u8]> {
        let at = self.0.iter().position(|(own, _)| *own == kind)?;
        Some(self.0.remove(at).1)
    }

    fn number<const N: usize>(&mut self, kind: u16) -> Option<[u8; N]> {
        self.take(kind)?.try_into().ok()
    }

    fn u32(&mut self, kind: u16) -> Option<u32> {
        self.number(kind).map(u32::from_ne_bytes)
    }

    /// What may be left out: the outer `None` if it is there and of a wrong size.
    fn optional<const N: usize>(&mut self, kind: u16) -> Option<Option<[u8; N]>> {
        if self.has(kind) { self.number(kind).map(Some) } else { Some(None) }
    }

    /// A nest has the flag NLA_F_NESTED.
    fn nest(&mut self, kind: u16) -> Option<Self> {
        Self::new(self.take(kind | 0x8000)?)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    /// `MPTCP_PM_ADDR_ATTR_*`: the family agrees with the address.
    fn address(&mut self) -> Option<IpAddr> {
        match u16::from_ne_bytes(self.number(1)?) {
            2 => Some(Ipv4Addr::from(self.number::<4>(3)?).into()),
            10 => Some(Ipv6Addr::from(self.number::<16>(4)?).into()),
            _ => None,
        }
    }

    /// A port is in host order.
    fn whole_end(&mut self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address()?, u16::from_ne_bytes(self.number(5)?)))
    }

    fn id(&mut self) -> Option<AddressId> {
        self.number::<1>(2).map(|[id]| AddressId(id))
    }

    fn flags(&mut self) -> Option<EndpointFlags> {
        self.u32(6).map(EndpointFlags)
    }

    fn if_index(&mut self) -> Option<Option<IfIndex>> {
        Some(self.optional(7)?.map(|index| IfIndex(u32::from_ne_bytes(index))))
    }

    fn token(&mut self) -> Option<Token> {
        self.u32(4).map(Token)
    }
}

fn decode(bytes: &mut &[u8]) -> Option<(u32, Request)> {
    let (kind, flags, sequence, payload) = take_message(bytes)?;
    let request = match (kind, flags) {
        (18, 0x301) => decode_dump_links(payload)?,
        (22, 0x301) => (payload == [0; 8]).then_some(Request::DumpAddresses)?,
        (26, 1) => Request::AskRoute(decode_question(payload)?),
        (MPTCP_PM, 5 | 0x305) => decode_mptcp(flags == 0x305, payload)?,
        (20, 1 | 0x301) => Request::Sockets(decode_sockets(flags == 0x301, payload)?),
        (21, 5) => Request::Sockets(SocketRequest::Destroy(decode_one(payload)?)),
        _ => return None,
    };
    Some((sequence, request))
}

fn decode_get_family(bytes: &mut &[u8]) -> Option<String> {
    let (16, 5, 7, payload) = take_message(bytes)? else { return None };
    let mut attributes = Attributes::new(payload.strip_prefix(&[3, 2, 0, 0])?)?;
    let name = attributes.take(2)?.strip_suffix(&[0])?;
    attributes.end()?;
    String::from_utf8(name.to_vec()).ok()
}

fn decode_dump_links(payload: &[u8]) -> Option<Request> {
    let mut attributes = Attributes::new(payload.strip_prefix(&[0; 16])?)?;
    (attributes.u32(29)? == 8).then_some(())?;
    attributes.end()?;
    Some(Request::DumpLinks)
}

/// `struct rtmsg`, RTA_DST, RTA_SRC, RTA_OIF if the question is about what is bound to it; RTM_F_FIB_MATCH except for IPv6 without source.
fn decode_question(mut payload: &[u8]) -> Option<RouteQuestion> {
    let [family, bits, source_bits, rest @ ..] = take::<8>(&mut payload)?;
    let flags = u32::from_ne_bytes(take(&mut payload)?);
    let mut attributes = Attributes::new(payload)?;
    let (destination, source, all): (IpAddr, Option<IpAddr>, u8) = match family {
        2 => (attributes.number::<4>(1)?.into(), attributes.optional::<4>(2)?.map(Into::into), 32),
        10 => (attributes.number::<16>(1)?.into(), attributes.optional::<16>(2)?.map(Into::into), 128),
        _ => return None,
    };
    let if_index = IfIndex(attributes.optional(4)?.map_or(0, u32::from_ne_bytes));
    attributes.end()?;
    let expected_flags = if family == 10 && source.is_none() { 0 } else { 0x2000 };
    let expected_bits = (all, if source.is_some() { all } else { 0 });
    let right = rest == [0; 5] && flags == expected_flags && (bits, source_bits) == expected_bits;
    right.then_some(RouteQuestion { source, destination, if_index, bound: if_index != IfIndex(0) })
}

/// `MPTCP_PM_CMD_*` and `MPTCP_PM_ATTR_*`.
fn decode_mptcp(dump: bool, payload: &[u8]) -> Option<Request> {
    let [command, 1, 0, 0, body @ ..] = payload else { return None };
    let mut attributes = Attributes::new(body)?;
    let a = &mut attributes;
    let of_connection = a.has(4);
    let request = match (command, dump) {
        (1, false) => Request::Pm(PmCommand::AddEndpoint(decode_endpoint(a)?)),
        (2, false) => Request::Pm(PmCommand::RemoveEndpoint(decode_only_id(a)?)),
        (3, false) => Request::Pm(PmCommand::GetEndpoint(decode_only_id(a)?)),
        (3, true) if of_connection => Request::Path(PathCommand::ListAddresses(a.token()?)),
        (3, true) => Request::Pm(PmCommand::DumpEndpoints),
        (4, false) => Request::Pm(PmCommand::FlushEndpoints),
        (5, false) => Request::Pm(PmCommand::SetLimits(Limits { subflows: a.u32(3)?, add_addr_accepted: a.u32(2)? })),
        (6, false) => Request::Pm(PmCommand::GetLimits),
        (7, false) if of_connection => decode_set_backup(a)?,
        (7, false) => Request::Pm(PmCommand::SetFlags(decode_endpoint(a)?)),
        (8, false) => Request::Path(PathCommand::Announce(decode_advertisement(a)?)),
        (9, false) => Request::Path(PathCommand::Remove(a.token()?, AddressId(a.number::<1>(5)?[0]))),
        (10, false) => Request::Path(PathCommand::CreateSubflow(decode_new_subflow(a)?)),
        (11, false) => decode_destroy(a)?,
        _ => return None,
    };
    attributes.end()?;
    Some(request)
}

fn decode_endpoint(a: &mut Attributes<'_>) -> Option<Endpoint> {
    let mut nest = a.nest(1)?;
    let endpoint = Endpoint {
        address: nest.address()?,
        id: AddressId(nest.optional::<1>(2)?.map_or(0, |[id]| id)),
        port: nest.optional(5)?.map_or(0, u16::from_ne_bytes),
        flags: nest.flags()?,
        if_index: nest.if_index()?,
    };
    nest.end()?;
    Some(endpoint)
}

fn decode_only_id(a: &mut Attributes<'_>) -> Option<AddressId> {
    let mut nest = a.nest(1)?;
    let id = nest.id()?;
    nest.end()?;
    Some(id)
}

fn decode_advertisement(a: &mut Attributes<'_>) -> Option<Advertisement> {
    let (token, mut nest) = (a.token()?, a.nest(1)?);
    let port = nest.optional(5)?.map_or(0, u16::from_ne_bytes);
    let advertisement = Advertisement { token, id: nest.id()?, address: nest.address()?, port };
    (nest.flags()? == EndpointFlags::SIGNAL).then_some(())?;
    nest.end()?;
    Some(advertisement)
}

fn decode_backup(nest: &mut Attributes<'_>) -> Option<bool> {
    match nest.flags()? {
        EndpointFlags::NONE => Some(false),
        EndpointFlags::BACKUP => Some(true),
        _ => None,
    }
}

fn decode_new_subflow(a: &mut Attributes<'_>) -> Option<NewSubflow> {
    let (token, mut here, mut there) = (a.token()?, a.nest(1)?, a.nest(6)?);
    let subflow = NewSubflow {
        token,
        local: here.address()?,
        local_id: here.id()?,
        backup: decode_backup(&mut here)?,
        if_index: here.if_index()?,
        remote: there.whole_end()?,
        remote_id: there.id()?,
    };
    here.end().and(there.end())?;
    Some(subflow)
}

fn decode_set_backup(a: &mut Attributes<'_>) -> Option<Request> {
    let (token, mut here, mut there) = (a.token()?, a.nest(1)?, a.nest(6)?);
    let ends = SubflowEnds { token, local: here.whole_end()?, remote: there.whole_end()? };
    let backup = decode_backup(&mut here)?;
    here.end().and(there.end())?;
    Some(Request::Path(PathCommand::SetBackup(ends, backup)))
}

/// A probe has no ports.
fn decode_destroy(a: &mut Attributes<'_>) -> Option<Request> {
    let (token, mut here, mut there) = (a.token()?, a.nest(1)?, a.nest(6)?);
    let command = if here.has(5) || there.has(5) {
        PathCommand::DestroySubflow(SubflowEnds { token, local: here.whole_end()?, remote: there.whole_end()? })
    } else {
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        ((here.address()?, there.address()?) == (unspecified, unspecified)).then_some(PathCommand::Probe(token))?
    };
    here.end().and(there.end())?;
    Some(Request::Path(command))
}

/// `struct inet_diag_req_v2`, INET_DIAG_REQ_PROTOCOL.
struct SocketQuestion {
    family: Family,
    states: u32,
    id: [u8; 48],
    of_mptcp: bool,
}

fn decode_socket_question(mut payload: &[u8]) -> Option<SocketQuestion> {
    let [family, 6, 2, 0] = take(&mut payload)? else { return None };
    let family = match family {
        2 => Family::V4,
        10 => Family::V6,
        _ => return None,
    };
    let (states, id) = (u32::from_ne_bytes(take(&mut payload)?), take(&mut payload)?);
    let mut attributes = Attributes::new(payload)?;
    let protocol = attributes.optional(3)?.map(u32::from_ne_bytes);
    attributes.end()?;
    matches!(protocol, None | Some(262)).then_some(SocketQuestion { family, states, id, of_mptcp: protocol.is_some() })
}

fn decode_sockets(dump: bool, payload: &[u8]) -> Option<SocketRequest> {
    let SocketQuestion { family, states, id, of_mptcp } = decode_socket_question(payload)?;
    let (nothing, cookie) = id.split_at(40);
    let any = nothing == [0; 40] && cookie == [0xff; 8];
    Some(match (dump, of_mptcp, states) {
        (true, true, 0x400) if any => SocketRequest::Listeners(family),
        (true, true, 0xbff) if any => SocketRequest::Connections(family),
        (true, false, 0xbbf) if any => SocketRequest::Subflows(family),
        (true, false, 4) if any => SocketRequest::Beginning(family),
        (false, true, 0xbff) if nothing == [0; 40] && cookie[4..] == [0; 4] => {
            SocketRequest::Connection(Token(u32::from_ne_bytes(*cookie.first_chunk()?)))
        }
        (false, false, 0xfff) => SocketRequest::Subflow(decode_one(payload)?),
        _ => return None,
    })
}

fn decode_one(payload: &[u8]) -> Option<SocketId> {
    let SocketQuestion { family, states: 0xfff, id, of_mptcp: false } = decode_socket_question(payload)? else {
        return None;
    };
    let mut id = &id[..];
    let ports = [u16::from_be_bytes(take(&mut id)?), u16::from_be_bytes(take(&mut id)?)];
    let addresses = [decode_sixteen(family, take(&mut id)?)?, decode_sixteen(family, take(&mut id)?)?];
    let if_index = Some(u32::from_ne_bytes(take(&mut id)?)).filter(|index| *index != 0).map(IfIndex);
    let (low, high) = (u32::from_ne_bytes(take(&mut id)?), u32::from_ne_bytes(take(&mut id)?));
    Some(SocketId {
        local: SocketAddr::new(addresses[0], ports[0]),
        remote: SocketAddr::new(addresses[1], ports[1]),
        if_index,
        cookie: Cookie(u64::from(high) << 32 | u64::from(low)),
    })
}

fn decode_sixteen(family: Family, words: [u8; 16]) -> Option<IpAddr> {
    match (family, words) {
        (Family::V6, words) => Some(words.into()),
        (Family::V4, [a, b, c, d, rest @ ..]) => (rest == [0; 12]).then_some([a, b, c, d].into()),
    }
}
