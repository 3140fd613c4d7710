//! `sock_diag`: questions about sockets, and what there is of Multipath TCP in the answers
//! (include/uapi/linux/inet_diag.h). Attributes of later kernels are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};

use super::{Attribute, DecodeError, Encoder, Message, attributes, family, ne_u32};
use crate::command::SocketRequest;
use crate::diag::{ConnectionInfo, Cookie, Role, Socket, SocketId, SubflowFlags, SubflowInfo, TcpState, Transfer};

use crate::types::{AddressId, Family, IfIndex, Token};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_MPTCP: u32 = 262;
/// Attribute of a request: a protocol that its byte cannot say.
const INET_DIAG_REQ_PROTOCOL: u16 = 3;

/// Attributes of an answer.
mod attr {
    pub(super) const INFO: u16 = 2;
    pub(super) const SKV6ONLY: u16 = 11;
    pub(super) const ULP_INFO: u16 = 19;
}

/// `INET_ULP_INFO_*`.
mod ulp {
    pub(super) const NAME: u16 = 1;
    pub(super) const MPTCP: u16 = 3;
}

/// `MPTCP_SUBFLOW_ATTR_*`.
mod subflow {
    pub(super) const TOKEN_REM: u16 = 1;
    pub(super) const TOKEN_LOC: u16 = 2;
    pub(super) const FLAGS: u16 = 8;
    pub(super) const ID_REM: u16 = 9;
    pub(super) const ID_LOC: u16 = 10;
}

const ALL_STATES: u32 = 0xfff;
const LISTEN: u32 = 1 << TcpState::LISTEN.0;
/// TCP sockets in this state belong to nobody, and are none of a connection's.
const TIME_WAIT: u32 = 1 << 6;
const SYN_SENT: u32 = 1 << TcpState::SYN_SENT.0;

/// From this state on, `TCP_CA_Loss` being the next, segments were lost.
const TCP_CA_RECOVERY: u8 = 3;

/// Encodes a request:
///
/// ```text
/// nlmsghdr  type SOCK_DIAG_BY_FAMILY, flags REQUEST|DUMP for many, REQUEST for one
///           type SOCK_DESTROY, flags REQUEST|ACK to close
/// inet_diag_req_v2  u8 family, u8 protocol, u8 extensions, u8, u32 states,
///                   be16 port here, be16 port there, be32[4] here, be32[4] there, u32 interface, u32[2] cookie
/// INET_DIAG_REQ_PROTOCOL u32  (for Multipath TCP)
/// ```
pub fn encode_request(encoder: &mut Encoder, sequence: u32, wanted: &SocketRequest) {
    let (states, of_mptcp) = match wanted {
        SocketRequest::Listeners(_) => (LISTEN, true),
        SocketRequest::Connections(_) | SocketRequest::Connection(_) => (ALL_STATES & !LISTEN, true),
        SocketRequest::Subflows(_) => (ALL_STATES & !LISTEN & !TIME_WAIT, false),
        SocketRequest::Beginning(_) => (SYN_SENT, false),
        SocketRequest::Subflow(_) | SocketRequest::Destroy(_) => (ALL_STATES, false),
    };
    let (kind, flags) = match wanted {
        SocketRequest::Destroy(_) => (SOCK_DESTROY, NLM_F_ACK),
        SocketRequest::Connection(_) | SocketRequest::Subflow(_) => (SOCK_DIAG_BY_FAMILY, 0),
        SocketRequest::Listeners(_)
        | SocketRequest::Connections(_)
        | SocketRequest::Subflows(_)
        | SocketRequest::Beginning(_) => (SOCK_DIAG_BY_FAMILY, NLM_F_DUMP),
    };
    encoder.begin(kind, NLM_F_REQUEST | flags, sequence);
    encoder.put(&[wanted_family(wanted), IPPROTO_TCP, 1 << (attr::INFO - 1), 0]);
    encoder.put(&states.to_ne_bytes());
    put_id(encoder, wanted);
    if of_mptcp {
        encoder.attribute(INET_DIAG_REQ_PROTOCOL, &IPPROTO_MPTCP.to_ne_bytes());
    }
    encoder.end();
}

fn wanted_family(wanted: &SocketRequest) -> u8 {
    match wanted {
        SocketRequest::Listeners(family)
        | SocketRequest::Connections(family)
        | SocketRequest::Subflows(family)
        | SocketRequest::Beginning(family) => match family {
            Family::V4 => 2,
            Family::V6 => 10,
        },
        // A token needs none, but 0 is refused.
        SocketRequest::Connection(_) => 2,
        SocketRequest::Subflow(id) | SocketRequest::Destroy(id) => family(id.local.ip()),
    }
}

fn put_id(encoder: &mut Encoder, wanted: &SocketRequest) {
    let id = match wanted {
        SocketRequest::Subflow(id) | SocketRequest::Destroy(id) => Some(id),
        SocketRequest::Listeners(_)
        | SocketRequest::Connections(_)
        | SocketRequest::Subflows(_)
        | SocketRequest::Beginning(_)
        | SocketRequest::Connection(_) => None,
    };
    let port = |end: Option<SocketAddr>| end.map_or(0, |end| end.port()).to_be_bytes();
    let (local, remote) = (id.map(|id| id.local), id.map(|id| id.remote));
    encoder.put(&port(local));
    encoder.put(&port(remote));
    encoder.put(&sixteen(local));
    encoder.put(&sixteen(remote));
    encoder.put(&id.and_then(|id| id.if_index).map_or(0, |index| index.0).to_ne_bytes());
    let cookie = match wanted {
        // net/mptcp/mptcp_diag.c, `mptcp_diag_dump_one`.
        SocketRequest::Connection(token) => u64::from(token.0),
        _ => id.map_or(Cookie::ANY, |id| id.cookie).0,
    };
    for half in [cookie & u64::from(u32::MAX), cookie >> 32] {
        encoder.put(&u32::try_from(half).unwrap_or(u32::MAX).to_ne_bytes());
    }
}

/// An address as four words, of which IPv4 takes the first.
fn sixteen(end: Option<SocketAddr>) -> [u8; 16] {
    let mut words = [0; 16];
    match end.map(|end| end.ip()) {
        None => {}
        Some(IpAddr::V6(address)) => words = address.octets(),
        Some(IpAddr::V4(address)) => words.iter_mut().zip(address.octets()).for_each(|(word, octet)| *word = octet),
    }
    words
}

/// Decodes a socket as an answer to that request; `None` if it is something else.
pub fn decode_socket(message: &Message<'_>, asked: &SocketRequest) -> Result<Option<Socket>, DecodeError> {
    if message.kind != SOCK_DIAG_BY_FAMILY {
        return Ok(None);
    }
    let short = DecodeError::Short(72, message.payload.len());
    let (header, rest) = message.payload.split_first_chunk::<72>().ok_or(short)?;
    let Some(id) = decode_id(header)? else { return Ok(None) };
    let mut socket = Socket {
        id,
        state: TcpState(header[1]),
        inode: ne_u32(header, 68)?,
        v6_only: false,
        role: Role::Other,
        transfer: None,
    };
    for attribute in attributes(rest) {
        let attribute = attribute?;
        match attribute.kind {
            attr::INFO if asked.is_about_mptcp() => socket.role = Role::Connection(decode_connection(&attribute)?),
            attr::INFO => socket.transfer = decode_transfer(attribute.value, ne_u32(header, 56)?, ne_u32(header, 60)?),
            attr::SKV6ONLY => socket.v6_only = attribute.u8()? != 0,
            attr::ULP_INFO => {
                if let Some(subflow) = decode_subflow(attribute.value)? {
                    socket.role = Role::Subflow(subflow);
                }
            }
            _ => {}
        }
    }
    Ok(Some(socket))
}

/// `struct inet_diag_msg` up to and with its `struct inet_diag_sockid`, at byte 4.
fn decode_id(header: &[u8; 72]) -> Result<Option<SocketId>, DecodeError> {
    let port = |at| super::chunk(header, at).map(u16::from_be_bytes);
    let address = |at| -> Result<Option<IpAddr>, DecodeError> {
        Ok(match header[0] {
            2 => Some(Ipv4Addr::from(super::chunk::<4>(header, at)?).into()),
            10 => Some(Ipv6Addr::from(super::chunk::<16>(header, at)?).into()),
            _ => None,
        })
    };
    let (Some(local), Some(remote)) = (address(8)?, address(24)?) else { return Ok(None) };
    Ok(Some(SocketId {
        local: SocketAddr::new(local, port(4)?),
        remote: SocketAddr::new(remote, port(6)?),
        if_index: Some(ne_u32(header, 40)?).filter(|index| *index != 0).map(IfIndex),
        cookie: Cookie(u64::from(ne_u32(header, 44)?) | u64::from(ne_u32(header, 48)?) << 32),
    }))
}

/// `struct tcp_info` up to `tcpi_delivery_rate` (Linux 4.9); `None` if it is shorter. What is
/// unread is `idiag_rqueue`, what is queued `idiag_wqueue`. `tcpi_rcv_ooopack` is of
/// Linux 5.4, `tcpi_snd_wnd` of 5.14.
///
/// ```text
/// u8 state, ca_state, ...  u32 rto (8), ato, snd_mss, rcv_mss, unacked, ... last_data_recv (52), last_ack_recv (56, ms),
/// ... rtt (68), rttvar (us), ... rcv_rtt (92), ... u64 bytes_acked (120), bytes_received, u32 segs_out, segs_in, notsent_bytes,
/// ... u64 delivery_rate (160), ... u32 rcv_ooopack (224), snd_wnd
/// ```
fn decode_transfer(info: &[u8], unread: u32, queued: u32) -> Option<Transfer> {
    let word = |at| ne_u32(info, at).ok();
    let long = |at| super::chunk(info, at).map(u64::from_ne_bytes).ok();
    let millis = |at| word(at).map(|value| Duration::from_millis(value.into()));
    let micros = |at| word(at).map(|value| Duration::from_micros(value.into()));
    Some(Transfer {
        timeout: micros(8)?,
        segment: word(16)?,
        unacknowledged: word(24)?,
        last_data: millis(52)?,
        last_acknowledgement: millis(56)?,
        round_trip: micros(68)?,
        deviation: micros(72)?,
        receiver_round_trip: micros(92)?,
        acknowledged: long(120)?,
        received: long(128)?,
        recovering: *info.get(1)? >= TCP_CA_RECOVERY,
        window: word(228),
        unread,
        // What is queued and was sent.
        outstanding: queued.saturating_sub(word(144)?),
        segments: word(140)?,
        out_of_order: word(224).unwrap_or_default(),
        delivery_rate: long(160)?,
    })
}

/// `struct mptcp_info`: u8[8], u32 flags, u32 token, u64 write_seq, snd_una, rcv_nxt, and what later kernels
/// append.
fn decode_connection(info: &Attribute<'_>) -> Result<ConnectionInfo, DecodeError> {
    let short = |_| DecodeError::AttributeShort(info.kind, 16, info.value.len());
    let flags = ne_u32(info.value, 8).map_err(short)?;
    let token = Token(ne_u32(info.value, 12).map_err(short)?);
    let long = |at| {
        super::chunk(info.value, at)
            .map(u64::from_ne_bytes)
            .map_err(|_| DecodeError::AttributeShort(info.kind, 40, info.value.len()))
    };
    Ok(ConnectionInfo {
        token,
        fallback: flags & 1 != 0,
        write_sequence: long(16)?,
        unacknowledged: long(24)?,
        receive_next: long(32)?,
    })
}

/// Neither nest has the flag NLA_F_NESTED. `None` if it is no subflow, or one on its way out.
fn decode_subflow(nest: &[u8]) -> Result<Option<SubflowInfo>, DecodeError> {
    let (mut name, mut inner) = (&[][..], None);
    for attribute in attributes(nest) {
        let attribute = attribute?;
        match attribute.kind {
            ulp::NAME => name = attribute.bytes(),
            ulp::MPTCP => inner = Some(attribute.value),
            _ => {}
        }
    }
    match inner {
        Some(inner) if name == b"mptcp" => decode_subflow_attributes(inner),
        _ => Ok(None),
    }
}

fn decode_subflow_attributes(nest: &[u8]) -> Result<Option<SubflowInfo>, DecodeError> {
    let mut token = None;
    let mut info = SubflowInfo {
        token: Token(0),
        remote_token: Token(0),
        local_id: AddressId(0),
        remote_id: AddressId(0),
        flags: SubflowFlags::default(),
    };
    for attribute in attributes(nest) {
        let attribute = attribute?;
        match attribute.kind {
            subflow::TOKEN_LOC => token = Some(Token(attribute.u32()?)),
            subflow::TOKEN_REM => info.remote_token = Token(attribute.u32()?),
            subflow::FLAGS => info.flags = SubflowFlags(attribute.u32()?),
            subflow::ID_REM => info.remote_id = AddressId(attribute.u8()?),
            subflow::ID_LOC => info.local_id = AddressId(attribute.u8()?),
            _ => {}
        }
    }
    Ok(token.map(|token| SubflowInfo { token, ..info }))
}
