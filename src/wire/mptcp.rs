//! The `mptcp_pm` family: events, and commands about endpoints and connections
//! (include/uapi/linux/mptcp.h, include/uapi/linux/mptcp_pm.h).
//!
//! Ports are in network order in events and in host order in commands and their answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};

use super::ctrl::{put_header, split_header};
use super::{Attribute, DecodeError, Encoder, attributes};
use crate::command::{Advertisement, NewSubflow, PathCommand, PmCommand, SubflowEnds};
use crate::event::{Announcement, Connection, Endpoint, Limits, MptcpEvent, Reset, Subflow};
use crate::types::{AddressId, EndpointFlags, Errno, IfIndex, Token};

/// Name of the family.
pub const FAMILY: &str = "mptcp_pm";
/// Name of its group of events.
pub const EVENTS_GROUP: &str = "mptcp_pm_events";

mod command {
    pub(super) const ADD_ADDR: u8 = 1;
    pub(super) const DEL_ADDR: u8 = 2;
    pub(super) const GET_ADDR: u8 = 3;
    pub(super) const FLUSH_ADDRS: u8 = 4;
    pub(super) const SET_LIMITS: u8 = 5;
    pub(super) const GET_LIMITS: u8 = 6;
    pub(super) const SET_FLAGS: u8 = 7;
    pub(super) const ANNOUNCE: u8 = 8;
    pub(super) const REMOVE: u8 = 9;
    pub(super) const SUBFLOW_CREATE: u8 = 10;
    pub(super) const SUBFLOW_DESTROY: u8 = 11;
}

/// `MPTCP_PM_ATTR_*`.
mod attr {
    pub(super) const ADDR: u16 = 1;
    pub(super) const RCV_ADD_ADDRS: u16 = 2;
    pub(super) const SUBFLOWS: u16 = 3;
    pub(super) const TOKEN: u16 = 4;
    pub(super) const LOC_ID: u16 = 5;
    pub(super) const ADDR_REMOTE: u16 = 6;
}

/// `MPTCP_PM_ADDR_ATTR_*`.
mod addr {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const ID: u16 = 2;
    pub(super) const ADDR4: u16 = 3;
    pub(super) const ADDR6: u16 = 4;
    pub(super) const PORT: u16 = 5;
    pub(super) const FLAGS: u16 = 6;
    pub(super) const IF_IDX: u16 = 7;
}

/// `MPTCP_ATTR_*`, of events.
mod event {
    pub(super) const TOKEN: u16 = 1;
    pub(super) const LOC_ID: u16 = 3;
    pub(super) const REM_ID: u16 = 4;
    pub(super) const SADDR4: u16 = 5;
    pub(super) const SADDR6: u16 = 6;
    pub(super) const DADDR4: u16 = 7;
    pub(super) const DADDR6: u16 = 8;
    pub(super) const SPORT: u16 = 9;
    pub(super) const DPORT: u16 = 10;
    pub(super) const BACKUP: u16 = 11;
    pub(super) const ERROR: u16 = 12;
    pub(super) const FLAGS: u16 = 13;
    pub(super) const IF_IDX: u16 = 15;
    pub(super) const RESET_REASON: u16 = 16;
    pub(super) const RESET_FLAGS: u16 = 17;
    pub(super) const SERVER_SIDE: u16 = 18;
}

/// Encodes a command:
///
/// ```text
/// nlmsghdr  type FAMILY, flags REQUEST|ACK (and DUMP to list)
/// genlmsghdr  cmd, version 1
/// ADDR  nested: FAMILY u16, ADDR4 | ADDR6, [ID u8], [PORT u16], FLAGS u32, [IF_IDX s32]
/// RCV_ADD_ADDRS u32, SUBFLOWS u32  (SET_LIMITS)
/// ```
pub fn encode_command(encoder: &mut Encoder, family: u16, sequence: u32, wanted: &PmCommand) {
    let (number, flags) = match wanted {
        PmCommand::AddEndpoint(_) => (command::ADD_ADDR, NLM_F_ACK),
        PmCommand::RemoveEndpoint(_) => (command::DEL_ADDR, NLM_F_ACK),
        PmCommand::GetEndpoint(_) => (command::GET_ADDR, NLM_F_ACK),
        PmCommand::DumpEndpoints => (command::GET_ADDR, NLM_F_ACK | NLM_F_DUMP),
        PmCommand::FlushEndpoints => (command::FLUSH_ADDRS, NLM_F_ACK),
        PmCommand::SetLimits(_) => (command::SET_LIMITS, NLM_F_ACK),
        PmCommand::GetLimits => (command::GET_LIMITS, NLM_F_ACK),
        PmCommand::SetFlags(_) => (command::SET_FLAGS, NLM_F_ACK),
    };
    encoder.begin(family, NLM_F_REQUEST | flags, sequence);
    put_header(encoder, number, 1);
    match wanted {
        PmCommand::AddEndpoint(endpoint) => encoder.nest(attr::ADDR, |nest| put_endpoint(nest, endpoint)),
        PmCommand::SetFlags(endpoint) => encoder.nest(attr::ADDR, |nest| put_endpoint(nest, endpoint)),
        PmCommand::RemoveEndpoint(id) | PmCommand::GetEndpoint(id) => {
            encoder.nest(attr::ADDR, |nest| nest.attribute(addr::ID, &[id.0]));
        }
        PmCommand::SetLimits(limits) => {
            encoder.attribute(attr::RCV_ADD_ADDRS, &limits.add_addr_accepted.to_ne_bytes());
            encoder.attribute(attr::SUBFLOWS, &limits.subflows.to_ne_bytes());
        }
        PmCommand::DumpEndpoints | PmCommand::FlushEndpoints | PmCommand::GetLimits => {}
    }
    encoder.end();
}

/// Encodes a command for one connection:
///
/// ```text
/// nlmsghdr  type FAMILY, flags REQUEST|ACK (and DUMP to list)
/// genlmsghdr  cmd, version 1
/// TOKEN u32
/// LOC_ID u8  (REMOVE)
/// ADDR  nested: FAMILY u16, ADDR4 | ADDR6, [PORT u16], [ID u8], [FLAGS u32], [IF_IDX s32]
/// ADDR_REMOTE  nested: FAMILY u16, ADDR4 | ADDR6, PORT u16, [ID u8]
/// ```
pub fn encode_path_command(encoder: &mut Encoder, family: u16, sequence: u32, wanted: &PathCommand) {
    let number = match wanted {
        PathCommand::Announce(_) => command::ANNOUNCE,
        PathCommand::Remove(..) => command::REMOVE,
        PathCommand::CreateSubflow(_) => command::SUBFLOW_CREATE,
        PathCommand::DestroySubflow(_) => command::SUBFLOW_DESTROY,
        PathCommand::SetBackup(..) => command::SET_FLAGS,
        PathCommand::ListAddresses(_) => command::GET_ADDR,
        PathCommand::Probe(_) => command::SUBFLOW_DESTROY,
    };
    let dump = if matches!(wanted, PathCommand::ListAddresses(_)) { NLM_F_DUMP } else { 0 };
    encoder.begin(family, NLM_F_REQUEST | NLM_F_ACK | dump, sequence);
    put_header(encoder, number, 1);
    match wanted {
        PathCommand::Announce(advertisement) => put_advertisement(encoder, advertisement),
        PathCommand::Remove(token, id) => {
            put_token(encoder, *token);
            encoder.attribute(attr::LOC_ID, &[id.0]);
        }
        PathCommand::CreateSubflow(subflow) => put_new_subflow(encoder, subflow),
        PathCommand::DestroySubflow(ends) => {
            put_token(encoder, ends.token);
            encoder.nest(attr::ADDR, |nest| put_end(nest, ends.local));
            encoder.nest(attr::ADDR_REMOTE, |nest| put_end(nest, ends.remote));
        }
        PathCommand::SetBackup(ends, backup) => put_backup(encoder, ends, *backup),
        PathCommand::ListAddresses(token) => put_token(encoder, *token),
        PathCommand::Probe(token) => {
            // The kernel looks for the connection first, and then misses the ports, so that there is nothing
            // that it could close (net/mptcp/pm_userspace.c, `mptcp_pm_nl_subflow_destroy_doit`).
            put_token(encoder, *token);
            encoder.nest(attr::ADDR, |nest| put_address(nest, Ipv4Addr::UNSPECIFIED.into()));
            encoder.nest(attr::ADDR_REMOTE, |nest| put_address(nest, Ipv4Addr::UNSPECIFIED.into()));
        }
    }
    encoder.end();
}

fn put_token(encoder: &mut Encoder, token: Token) {
    encoder.attribute(attr::TOKEN, &token.0.to_ne_bytes());
}

fn put_address(encoder: &mut Encoder, address: IpAddr) {
    encoder.attribute(addr::FAMILY, &u16::from(super::family(address)).to_ne_bytes());
    encoder.ip(addr::ADDR4, addr::ADDR6, address);
}

fn put_end(encoder: &mut Encoder, end: SocketAddr) {
    put_address(encoder, end.ip());
    encoder.attribute(addr::PORT, &end.port().to_ne_bytes());
}

fn put_advertisement(encoder: &mut Encoder, wanted: &Advertisement) {
    put_token(encoder, wanted.token);
    encoder.nest(attr::ADDR, |nest| {
        put_address(nest, wanted.address);
        nest.attribute(addr::ID, &[wanted.id.0]);
        if wanted.port != 0 {
            nest.attribute(addr::PORT, &wanted.port.to_ne_bytes());
        }
        nest.attribute(addr::FLAGS, &EndpointFlags::SIGNAL.0.to_ne_bytes());
    });
}

fn put_new_subflow(encoder: &mut Encoder, wanted: &NewSubflow) {
    put_token(encoder, wanted.token);
    encoder.nest(attr::ADDR, |nest| {
        put_address(nest, wanted.local);
        nest.attribute(addr::ID, &[wanted.local_id.0]);
        let flags = if wanted.backup { EndpointFlags::BACKUP } else { EndpointFlags::NONE };
        nest.attribute(addr::FLAGS, &flags.0.to_ne_bytes());
        if let Some(index) = wanted.if_index {
            nest.attribute(addr::IF_IDX, &index.0.to_ne_bytes());
        }
    });
    encoder.nest(attr::ADDR_REMOTE, |nest| {
        put_end(nest, wanted.remote);
        nest.attribute(addr::ID, &[wanted.remote_id.0]);
    });
}

fn put_backup(encoder: &mut Encoder, ends: &SubflowEnds, backup: bool) {
    put_token(encoder, ends.token);
    encoder.nest(attr::ADDR, |nest| {
        put_end(nest, ends.local);
        let flags = if backup { EndpointFlags::BACKUP } else { EndpointFlags::NONE };
        nest.attribute(addr::FLAGS, &flags.0.to_ne_bytes());
    });
    encoder.nest(attr::ADDR_REMOTE, |nest| put_end(nest, ends.remote));
}

fn put_endpoint(encoder: &mut Encoder, endpoint: &Endpoint) {
    put_address(encoder, endpoint.address);
    if endpoint.id.0 != 0 {
        encoder.attribute(addr::ID, &[endpoint.id.0]);
    }
    if endpoint.port != 0 {
        encoder.attribute(addr::PORT, &endpoint.port.to_ne_bytes());
    }
    encoder.attribute(addr::FLAGS, &endpoint.flags.0.to_ne_bytes());
    if let Some(index) = endpoint.if_index {
        encoder.attribute(addr::IF_IDX, &index.0.to_ne_bytes());
    }
}

/// What the kernel answered to a question of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An endpoint.
    Endpoint(Endpoint),
    /// The limits.
    Limits(Limits),
}

/// Decodes an answer; `None` if it is of a kind that is not known.
pub fn decode_answer(payload: &[u8]) -> Result<Option<Answer>, DecodeError> {
    let (number, body) = split_header(payload)?;
    match number {
        command::GET_ADDR => {
            let nest = find(body, attr::ADDR)?.ok_or(DecodeError::Missing(attr::ADDR))?;
            decode_endpoint(nest.value).map(Answer::Endpoint).map(Some)
        }
        command::GET_LIMITS => {
            let limit = |kind| find(body, kind)?.ok_or(DecodeError::Missing(kind))?.u32();
            let (subflows, add_addr_accepted) = (limit(attr::SUBFLOWS)?, limit(attr::RCV_ADD_ADDRS)?);
            Ok(Some(Answer::Limits(Limits { subflows, add_addr_accepted })))
        }
        _ => Ok(None),
    }
}

fn find(body: &[u8], kind: u16) -> Result<Option<Attribute<'_>>, DecodeError> {
    attributes(body).find(|found| found.as_ref().map_or(true, |found| found.kind == kind)).transpose()
}

fn decode_endpoint(nest: &[u8]) -> Result<Endpoint, DecodeError> {
    let mut address = None;
    let mut endpoint = Endpoint {
        id: AddressId(0),
        address: IpAddr::from([0; 4]),
        port: 0,
        flags: EndpointFlags::NONE,
        if_index: None,
    };
    for attribute in attributes(nest) {
        let attribute = attribute?;
        match attribute.kind {
            addr::ID => endpoint.id = AddressId(attribute.u8()?),
            addr::ADDR4 => address = Some(attribute.ipv4()?.into()),
            addr::ADDR6 => address = Some(attribute.ipv6()?.into()),
            addr::PORT => endpoint.port = attribute.u16()?,
            addr::FLAGS => endpoint.flags = EndpointFlags(attribute.u32()?),
            addr::IF_IDX => endpoint.if_index = Some(attribute.u32()?).filter(|index| *index != 0).map(IfIndex),
            _ => {}
        }
    }
    endpoint.address = address.ok_or(DecodeError::Missing(addr::ADDR4))?;
    Ok(endpoint)
}

/// Every attribute that an event may have; a reset flag of 1 means transient.
#[derive(Default)]
struct Fields {
    token: Option<u32>,
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    local_port: Option<u16>,
    remote_port: Option<u16>,
    local_id: Option<u8>,
    remote_id: Option<u8>,
    backup: Option<u8>,
    error: Option<u8>,
    flags: u16,
    server_side: u8,
    if_index: Option<u32>,
    reset_reason: Option<u32>,
    reset_flags: u32,
}

impl Fields {
    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Self::default();
        for attribute in attributes(body) {
            let attribute = attribute?;
            match attribute.kind {
                event::TOKEN => fields.token = Some(attribute.u32()?),
                event::LOC_ID => fields.local_id = Some(attribute.u8()?),
                event::REM_ID => fields.remote_id = Some(attribute.u8()?),
                event::SADDR4 => fields.local = Some(attribute.ipv4()?.into()),
                event::SADDR6 => fields.local = Some(attribute.ipv6()?.into()),
                event::DADDR4 => fields.remote = Some(attribute.ipv4()?.into()),
                event::DADDR6 => fields.remote = Some(attribute.ipv6()?.into()),
                event::SPORT => fields.local_port = Some(attribute.be_u16()?),
                event::DPORT => fields.remote_port = Some(attribute.be_u16()?),
                event::BACKUP => fields.backup = Some(attribute.u8()?),
                event::ERROR => fields.error = Some(attribute.u8()?),
                event::FLAGS => fields.flags = attribute.u16()?,
                event::IF_IDX => fields.if_index = Some(attribute.u32()?),
                event::RESET_REASON => fields.reset_reason = Some(attribute.u32()?),
                event::RESET_FLAGS => fields.reset_flags = attribute.u32()?,
                event::SERVER_SIDE => fields.server_side = attribute.u8()?,
                _ => {}
            }
        }
        Ok(fields)
    }

    fn token(&self) -> Result<Token, DecodeError> {
        self.token.map(Token).ok_or(DecodeError::Missing(event::TOKEN))
    }

    fn local(&self) -> Result<SocketAddr, DecodeError> {
        let address = self.local.ok_or(DecodeError::Missing(event::SADDR4))?;
        Ok(SocketAddr::new(address, self.local_port.ok_or(DecodeError::Missing(event::SPORT))?))
    }

    fn remote(&self) -> Result<SocketAddr, DecodeError> {
        let address = self.remote.ok_or(DecodeError::Missing(event::DADDR4))?;
        Ok(SocketAddr::new(address, self.remote_port.ok_or(DecodeError::Missing(event::DPORT))?))
    }

    fn remote_id(&self) -> Result<AddressId, DecodeError> {
        self.remote_id.map(AddressId).ok_or(DecodeError::Missing(event::REM_ID))
    }

    fn connection(&self) -> Result<Connection, DecodeError> {
        Ok(Connection {
            token: self.token()?,
            local: self.local()?,
            remote: self.remote()?,
            // Kernels before 6.18 say it in SERVER_SIDE alone, later ones in FLAGS, some in both.
            server_side: self.server_side == 1 || self.flags & 2 != 0,
            deny_join_id0: self.flags & 1 != 0,
        })
    }

    fn subflow(&self) -> Result<Subflow, DecodeError> {
        Ok(Subflow {
            token: self.token()?,
            local: self.local()?,
            remote: self.remote()?,
            local_id: self.local_id.map(AddressId).ok_or(DecodeError::Missing(event::LOC_ID))?,
            remote_id: self.remote_id()?,
            backup: self.backup.ok_or(DecodeError::Missing(event::BACKUP))? != 0,
            if_index: self.if_index.filter(|index| *index != 0).map(IfIndex),
            error: self.error.filter(|error| *error != 0).map(|error| Errno(error.into())),
            reset: self.reset_reason.map(|reason| Reset { reason, transient: self.reset_flags & 1 != 0 }),
        })
    }
}

/// Decodes an event; `None` if it is of a kind that is not known.
pub fn decode_event(payload: &[u8]) -> Result<Option<MptcpEvent>, DecodeError> {
    let (number, body) = split_header(payload)?;
    let fields = Fields::decode(body)?;
    Ok(Some(match number {
        1 => MptcpEvent::Created(fields.connection()?),
        2 => MptcpEvent::Established(fields.connection()?),
        3 => MptcpEvent::Closed(fields.token()?),
        6 => MptcpEvent::Announced(Announcement {
            token: fields.token()?,
            remote_id: fields.remote_id()?,
            remote: fields.remote()?,
        }),
        7 => MptcpEvent::Removed(fields.token()?, fields.remote_id()?),
        10 => MptcpEvent::SubflowEstablished(fields.subflow()?),
        11 => MptcpEvent::SubflowClosed(fields.subflow()?),
        13 => MptcpEvent::SubflowPriority(fields.subflow()?),
        15 => MptcpEvent::ListenerCreated(fields.local()?),
        16 => MptcpEvent::ListenerClosed(fields.local()?),
        _ => return Ok(None),
    }))
}
