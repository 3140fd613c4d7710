//! Events of `mptcp_pm`: arbitrary bytes, which after an even first byte are a datagram and after an odd one
//! the stuff that events are made of. Every event is encoded here and decoded again.

#![no_main]

use std::net::SocketAddr;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mptcpd::event::{Announcement, Connection, MptcpEvent, Reset, Subflow};
use mptcpd::types::Errno;
use mptcpd::wire::{Message, Messages, mptcp};
use mptcpd_fuzz::{Attribute, check_line, frugally, generic, join, message, number, value};

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((mode, datagram)) if mode % 2 == 0 => read(datagram),
        Some((_, stuff)) => _ = make(&mut Unstructured::new(stuff)),
        None => {}
    }
});

fn read(datagram: &[u8]) {
    for message in Messages::new(datagram) {
        let Ok(message) = frugally(|| message) else { return };
        if let Ok(Some(event)) = frugally(|| mptcp::decode_event(message.payload)) {
            check_line(&event);
            check(&event, &mut Unstructured::new(&[])).unwrap();
        }
    }
}

/// A datagram of a few events reads as these events.
fn make(u: &mut Unstructured<'_>) -> Result<()> {
    let mut events = Vec::new();
    let mut datagram = Vec::new();
    for _ in 0..u.int_in_range(1..=3)? {
        let event = event(u)?;
        let payload = encode(&event, u)?;
        datagram.extend(message(&Message { kind: 28, flags: 0, sequence: 0, port: 0, payload: &payload }));
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        events.push(event);
    }
    let read = Messages::new(&datagram).map(|message| mptcp::decode_event(message.unwrap().payload).unwrap().unwrap());
    assert_eq!(read.collect::<Vec<_>>(), events);
    Ok(())
}

fn check(event: &MptcpEvent, noise: &mut Unstructured<'_>) -> Result<()> {
    let payload = encode(event, noise)?;
    assert_eq!(mptcp::decode_event(&payload), Ok(Some(*event)));
    Ok(())
}

fn event(u: &mut Unstructured<'_>) -> Result<MptcpEvent> {
    Ok(match u.int_in_range(0..=9)? {
        0 => MptcpEvent::Created(connection(u)?),
        1 => MptcpEvent::Established(connection(u)?),
        2 => MptcpEvent::Closed(value::token(u)?),
        3 => MptcpEvent::Announced(Announcement {
            token: value::token(u)?,
            remote_id: value::id(u)?,
            remote: value::end(u)?,
        }),
        4 => MptcpEvent::Removed(value::token(u)?, value::id(u)?),
        5 => MptcpEvent::SubflowEstablished(subflow(u)?),
        6 => MptcpEvent::SubflowClosed(subflow(u)?),
        7 => MptcpEvent::SubflowPriority(subflow(u)?),
        8 => MptcpEvent::ListenerCreated(value::end(u)?),
        _ => MptcpEvent::ListenerClosed(value::end(u)?),
    })
}

fn connection(u: &mut Unstructured<'_>) -> Result<Connection> {
    Ok(Connection {
        token: value::token(u)?,
        local: value::end(u)?,
        remote: value::end(u)?,
        server_side: u.arbitrary()?,
        deny_join_id0: u.arbitrary()?,
    })
}

fn subflow(u: &mut Unstructured<'_>) -> Result<Subflow> {
    Ok(Subflow {
        token: value::token(u)?,
        local: value::end(u)?,
        remote: value::end(u)?,
        local_id: value::id(u)?,
        remote_id: value::id(u)?,
        backup: u.arbitrary()?,
        if_index: value::if_index(u)?,
        error: Some(u.arbitrary::<u8>()?).filter(|error| *error != 0).map(|error| Errno(error.into())),
        reset: match u.arbitrary()? {
            true => Some(Reset { reason: u.arbitrary()?, transient: u.arbitrary()? }),
            false => None,
        },
    })
}

/// `MPTCP_EVENT_*` and `MPTCP_ATTR_*`, include/uapi/linux/mptcp_pm.h.
fn encode(event: &MptcpEvent, noise: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let token = |token: mptcpd::types::Token| number(1, token.0.to_ne_bytes());
    let (command, attributes) = match event {
        MptcpEvent::Created(of) => (1, connection_attributes(of, noise)?),
        MptcpEvent::Established(of) => (2, connection_attributes(of, noise)?),
        MptcpEvent::Closed(of) => (3, vec![token(*of)]),
        MptcpEvent::Announced(of) => {
            (6, [vec![token(of.token), number(4, [of.remote_id.0])], end(of.remote, 7, 10)].concat())
        }
        MptcpEvent::Removed(of, id) => (7, vec![token(*of), number(4, [id.0])]),
        MptcpEvent::SubflowEstablished(of) => (10, subflow_attributes(of, noise)?),
        MptcpEvent::SubflowClosed(of) => (11, subflow_attributes(of, noise)?),
        MptcpEvent::SubflowPriority(of) => (13, subflow_attributes(of, noise)?),
        MptcpEvent::ListenerCreated(of) => (15, end(*of, 5, 9)),
        MptcpEvent::ListenerClosed(of) => (16, end(*of, 5, 9)),
    };
    Ok(generic(command, join(attributes, noise)?))
}

/// The attribute of an IPv6 address has the number after that of IPv4.
fn end(end: SocketAddr, address: u16, port: u16) -> Vec<Attribute> {
    let address = match end {
        SocketAddr::V4(end) => number(address, end.ip().octets()),
        SocketAddr::V6(end) => number(address + 1, end.ip().octets()),
    };
    vec![address, number(port, end.port().to_be_bytes())]
}

/// That this host accepted the connection is said in one of two ways, or in both.
fn connection_attributes(of: &Connection, noise: &mut Unstructured<'_>) -> Result<Vec<Attribute>> {
    let mut attributes = vec![number(1, of.token.0.to_ne_bytes())];
    attributes.extend(end(of.local, 5, 9));
    attributes.extend(end(of.remote, 7, 10));
    let way = noise.int_in_range(0..=2u8)?;
    let mut flags = noise.arbitrary::<u16>()? & !3 | u16::from(of.deny_join_id0);
    if of.server_side && way != 1 {
        flags |= 2;
    }
    if of.server_side && way != 0 {
        attributes.push(number(18, [1]));
    }
    if flags != 0 {
        attributes.push(number(13, flags.to_ne_bytes()));
    }
    Ok(attributes)
}

fn subflow_attributes(of: &Subflow, noise: &mut Unstructured<'_>) -> Result<Vec<Attribute>> {
    let mut attributes = vec![
        number(1, of.token.0.to_ne_bytes()),
        number(3, [of.local_id.0]),
        number(4, [of.remote_id.0]),
        number(11, [u8::from(of.backup)]),
    ];
    attributes.extend(end(of.local, 5, 9));
    attributes.extend(end(of.remote, 7, 10));
    // 0 is the same as none.
    if of.if_index.is_some() || noise.arbitrary()? {
        attributes.push(number(15, of.if_index.map_or(0, |index| index.0).to_ne_bytes()));
    }
    if of.error.is_some() || noise.arbitrary()? {
        attributes.push(number(12, [of.error.map_or(0, |error| u8::try_from(error.0).unwrap())]));
    }
    if let Some(reset) = of.reset {
        attributes.push(number(16, reset.reason.to_ne_bytes()));
        attributes.push(number(17, (noise.arbitrary::<u32>()? & !1 | u32::from(reset.transient)).to_ne_bytes()));
    }
    Ok(attributes)
}
