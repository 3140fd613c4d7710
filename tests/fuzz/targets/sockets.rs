//! Answers of `sock_diag`: arbitrary bytes, which after an even first byte are a datagram and after an odd one the
//! stuff that answers are made of; its second bit says what was asked. Every answer is encoded here and
//! decoded again.

#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mptcpd::command::SocketRequest;
use mptcpd::diag::{ConnectionInfo, Cookie, Role, Socket, SocketId, SubflowFlags, SubflowInfo, TcpState, Transfer};
use mptcpd::types::{AddressId, Family};
use mptcpd::wire::{Message, Messages, diag};
use mptcpd_fuzz::{check_line, frugally, join, number, value, whole};

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let asked =
        if mode & 2 == 0 { SocketRequest::Connections(Family::V4) } else { SocketRequest::Subflows(Family::V4) };
    match mode & 1 {
        0 => read(rest, &asked),
        _ => _ = make(&mut Unstructured::new(rest), &asked),
    }
});

fn read(datagram: &[u8], asked: &SocketRequest) {
    for message in Messages::new(datagram) {
        let Ok(message) = frugally(|| message) else { return };
        if let Ok(Some(socket)) = frugally(|| diag::decode_socket(&message, asked)) {
            check_line(&socket.id);
            socket.transfer.iter().for_each(check_line);
            check(&socket, asked, &mut Unstructured::new(&[])).unwrap();
        }
    }
}

fn make(u: &mut Unstructured<'_>, asked: &SocketRequest) -> Result<()> {
    let (local, remote) = value::ends(u)?;
    let id = SocketId { local, remote, if_index: value::if_index(u)?, cookie: Cookie(u.arbitrary()?) };
    let of_mptcp = asked.is_about_mptcp();
    let role = match u.int_in_range(0..=2)? {
        0 if of_mptcp => Role::Connection(connection(u)?),
        1 if !of_mptcp => Role::Subflow(subflow(u)?),
        _ => Role::Other,
    };
    let socket = Socket {
        id,
        state: TcpState(u.arbitrary()?),
        inode: u.arbitrary()?,
        v6_only: u.arbitrary()?,
        role,
        transfer: if !of_mptcp && u.arbitrary()? { Some(transfer(u)?) } else { None },
    };
    check(&socket, asked, u)
}

fn connection(u: &mut Unstructured<'_>) -> Result<ConnectionInfo> {
    Ok(ConnectionInfo {
        token: value::token(u)?,
        fallback: u.arbitrary()?,
        write_sequence: u.arbitrary()?,
        unacknowledged: u.arbitrary()?,
        receive_next: u.arbitrary()?,
    })
}

fn subflow(u: &mut Unstructured<'_>) -> Result<SubflowInfo> {
    Ok(SubflowInfo {
        token: value::token(u)?,
        remote_token: value::token(u)?,
        local_id: value::id(u)?,
        remote_id: value::id(u)?,
        flags: SubflowFlags(u.arbitrary()?),
    })
}

fn transfer(u: &mut Unstructured<'_>) -> Result<Transfer> {
    let mut transfer = Transfer {
        unacknowledged: u.arbitrary()?,
        outstanding: u.arbitrary()?,
        segment: u.arbitrary()?,
        acknowledged: u.arbitrary()?,
        unread: u.arbitrary()?,
        received: u.arbitrary()?,
        recovering: u.arbitrary()?,
        window: if u.arbitrary()? { Some(u.arbitrary()?) } else { None },
        segments: u.arbitrary()?,
        out_of_order: u.arbitrary()?,
        delivery_rate: u.arbitrary()?,
        ..Transfer::default()
    };
    let Transfer { round_trip, deviation, receiver_round_trip, timeout, .. } = &mut transfer;
    for time in [round_trip, deviation, receiver_round_trip, timeout] {
        *time = Duration::from_micros(u.arbitrary::<u32>()?.into());
    }
    for time in [&mut transfer.last_acknowledgement, &mut transfer.last_data] {
        *time = Duration::from_millis(u.arbitrary::<u32>()?.into());
    }
    Ok(transfer)
}

fn check(socket: &Socket, asked: &SocketRequest, noise: &mut Unstructured<'_>) -> Result<()> {
    let payload = encode(socket, noise)?;
    let message = Message { kind: 20, flags: 0, sequence: 1, port: 1, payload: &payload };
    assert_eq!(diag::decode_socket(&message, asked), Ok(Some(*socket)));
    Ok(())
}

/// `struct inet_diag_msg` and `INET_DIAG_*`, include/uapi/linux/inet_diag.h.
fn encode(socket: &Socket, noise: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let Socket { id, state, inode, v6_only, role, transfer } = socket;
    // What is queued and not sent counts for nothing.
    let unsent = transfer.map_or(Ok(0), |of| noise.int_in_range(0..=u32::MAX - of.outstanding))?;
    let mut payload = vec![if id.local.is_ipv4() { 2 } else { 10 }, state.0, 0xa5, 0xa5];
    payload.extend(id.local.port().to_be_bytes());
    payload.extend(id.remote.port().to_be_bytes());
    payload.extend(sixteen(id.local));
    payload.extend(sixteen(id.remote));
    payload.extend(id.if_index.map_or(0, |index| index.0).to_ne_bytes());
    for half in [id.cookie.0 & u64::from(u32::MAX), id.cookie.0 >> 32] {
        payload.extend(u32::try_from(half).unwrap().to_ne_bytes());
    }
    payload.extend([0xa5; 4]);
    payload.extend(transfer.map_or(0xa5a5_a5a5, |of| of.unread).to_ne_bytes());
    payload.extend(transfer.map_or(0xa5a5_a5a5, |of| of.outstanding + unsent).to_ne_bytes());
    payload.extend([0xa5; 4]);
    payload.extend(inode.to_ne_bytes());
    let mut attributes = Vec::new();
    match role {
        Role::Connection(of) => attributes.push(whole(2, mptcp_info(of))),
        Role::Subflow(of) => attributes.push(whole(19, ulp_info(of, noise)?)),
        Role::Other => {}
    }
    attributes.extend(transfer.as_ref().map(|of| whole(2, tcp_info(of, unsent))));
    if *v6_only || noise.arbitrary()? {
        attributes.push(number(11, [u8::from(*v6_only)]));
    }
    payload.extend(join(attributes, noise)?);
    Ok(payload)
}

fn sixteen(end: SocketAddr) -> [u8; 16] {
    match end {
        SocketAddr::V4(end) => {
            let mut words = [0; 16];
            words[..4].copy_from_slice(&end.ip().octets());
            words
        }
        SocketAddr::V6(end) => end.ip().octets(),
    }
}

/// `struct mptcp_info`, include/uapi/linux/mptcp.h.
fn mptcp_info(of: &ConnectionInfo) -> Vec<u8> {
    let mut info = vec![0xa5; 8];
    info.extend((0xa5a5_a5a4 | u32::from(of.fallback)).to_ne_bytes());
    info.extend(of.token.0.to_ne_bytes());
    for number in [of.write_sequence, of.unacknowledged, of.receive_next] {
        info.extend(number.to_ne_bytes());
    }
    info.extend([0xa5; 40]);
    info
}

/// `INET_ULP_INFO_*` and `MPTCP_SUBFLOW_ATTR_*`.
fn ulp_info(of: &SubflowInfo, noise: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut attributes = vec![number(2, of.token.0.to_ne_bytes()), number(8, of.flags.0.to_ne_bytes())];
    // What is 0 may be left out.
    if of.remote_token.0 != 0 || noise.arbitrary()? {
        attributes.push(number(1, of.remote_token.0.to_ne_bytes()));
    }
    for (kind, AddressId(id)) in [(9, of.remote_id), (10, of.local_id)] {
        if id != 0 || noise.arbitrary()? {
            attributes.push(number(kind, [id]));
        }
    }
    let inner = join(attributes, noise)?;
    join(vec![whole(1, b"mptcp\0".to_vec()), whole(3, inner)], noise)
}

/// `struct tcp_info`, include/uapi/linux/tcp.h: field by field, as long as the kernel knows what it says.
fn tcp_info(of: &Transfer, unsent: u32) -> Vec<u8> {
    let length = match (of.window, of.out_of_order) {
        (None, 0) => 168,
        (None, _) => 228,
        (Some(_), _) => 248,
    };
    let mut info = vec![0xa5; length];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = info.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap().to_ne_bytes();
    let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap().to_ne_bytes();
    put(1, &[if of.recovering { 3 } else { 2 }]);
    put(8, &micros(of.timeout));
    put(16, &of.segment.to_ne_bytes());
    put(24, &of.unacknowledged.to_ne_bytes());
    put(52, &millis(of.last_data));
    put(56, &millis(of.last_acknowledgement));
    put(68, &micros(of.round_trip));
    put(72, &micros(of.deviation));
    put(92, &micros(of.receiver_round_trip));
    put(120, &of.acknowledged.to_ne_bytes());
    put(128, &of.received.to_ne_bytes());
    put(140, &of.segments.to_ne_bytes());
    put(144, &unsent.to_ne_bytes());
    put(160, &of.delivery_rate.to_ne_bytes());
    put(224, &of.out_of_order.to_ne_bytes());
    put(228, &of.window.unwrap_or_default().to_ne_bytes());
    info
}
