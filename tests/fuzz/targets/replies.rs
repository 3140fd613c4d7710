//! Answers of `nlctrl` and `mptcp_pm`, dumps, and ends of requests: arbitrary bytes, which after an even first
//! byte are a datagram and after an odd one the stuff that answers are made of. Every answer is encoded here
//! and decoded again.

#![no_main]

use std::net::IpAddr;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mptcpd::event::Endpoint;
use mptcpd::types::Errno;
use mptcpd::wire::ctrl::{self, Family};
use mptcpd::wire::mptcp::{self, Answer, EVENTS_GROUP};
use mptcpd::wire::{self, End, Message, Messages, Refusal};
use mptcpd_fuzz::{check_line, frugally, generic, join, message, number, value, whole};

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
        if let Ok(family) = frugally(|| ctrl::decode_family(message.payload, EVENTS_GROUP)) {
            check_family(family, &mut quiet).unwrap();
        }
        if let Ok(Some(answer)) = frugally(|| mptcp::decode_answer(message.payload)) {
            check_answer(answer, &mut quiet).unwrap();
        }
        if let Ok(Some(End { result: Err(refusal) })) = frugally(|| wire::decode_end(&message)) {
            check_refusal(&refusal, &mut quiet).unwrap();
        }
    }
}

fn make(u: &mut Unstructured<'_>) -> Result<()> {
    match u.int_in_range(0..=3)? {
        0 => {
            let group = if u.arbitrary()? { Some(u.arbitrary()?) } else { None };
            check_family(Family { id: u.arbitrary()?, group }, u)
        }
        1 => check_answer(Answer::Endpoint(value::endpoint(u)?), u),
        2 => check_answer(Answer::Limits(value::limits(u)?), u),
        _ => {
            let errno = Errno(u.int_in_range(1..=i32::MAX)?);
            let text = std::str::from_utf8(value::name(u)?).unwrap_or_default();
            let missing = if u.arbitrary()? { Some(u.arbitrary()?) } else { None };
            check_refusal(&Refusal { errno, text, missing }, u)
        }
    }
}

/// `CTRL_ATTR_*`, include/uapi/linux/genetlink.h; the group may be one of many.
fn check_family(family: Family, noise: &mut Unstructured<'_>) -> Result<()> {
    let mut groups = Vec::new();
    for (number_in_list, other) in (1..).zip(0..noise.int_in_range(0..=3)?) {
        groups.push(group(number_in_list, &format!("group{other}"), other, noise)?);
    }
    if let Some(id) = family.group {
        groups.push(group(9, EVENTS_GROUP, id, noise)?);
    }
    // They are numbered, so that nothing stands between them.
    let groups = join(groups, &mut Unstructured::new(&[]))?;
    let attributes = vec![number(1, family.id.to_ne_bytes()), whole(7, groups), whole(2, b"mptcp_pm\0".to_vec())];
    let payload = generic(1, join(attributes, noise)?);
    assert_eq!(ctrl::decode_family(&payload, EVENTS_GROUP), Ok(family));
    Ok(())
}

fn group(place: u16, name: &str, id: u32, noise: &mut Unstructured<'_>) -> Result<mptcpd_fuzz::Attribute> {
    let name = [name.as_bytes(), &[0]].concat();
    Ok(whole(place, join(vec![whole(1, name), number(2, id.to_ne_bytes())], noise)?))
}

/// `MPTCP_PM_CMD_GET_ADDR` and `MPTCP_PM_CMD_GET_LIMITS`, include/uapi/linux/mptcp_pm.h.
fn check_answer(answer: Answer, noise: &mut Unstructured<'_>) -> Result<()> {
    let payload = match answer {
        Answer::Endpoint(endpoint) => {
            check_line(&endpoint);
            let nest = endpoint_nest(&endpoint, noise)?;
            generic(3, join(vec![whole(1, nest)], noise)?)
        }
        Answer::Limits(limits) => {
            let (subflows, accepted) = (limits.subflows.to_ne_bytes(), limits.add_addr_accepted.to_ne_bytes());
            generic(6, join(vec![number(3, subflows), number(2, accepted)], noise)?)
        }
    };
    assert_eq!(mptcp::decode_answer(&payload), Ok(Some(answer)));
    Ok(())
}

fn endpoint_nest(endpoint: &Endpoint, noise: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let (family, address) = match endpoint.address {
        IpAddr::V4(address) => (2u16, number(3, address.octets())),
        IpAddr::V6(address) => (10, number(4, address.octets())),
    };
    let mut attributes = vec![number(1, family.to_ne_bytes()), address, number(6, endpoint.flags.0.to_ne_bytes())];
    attributes.push(number(2, [endpoint.id.0]));
    // 0 is the same as none.
    if endpoint.port != 0 || noise.arbitrary()? {
        attributes.push(number(5, endpoint.port.to_ne_bytes()));
    }
    if endpoint.if_index.is_some() || noise.arbitrary()? {
        attributes.push(number(7, endpoint.if_index.map_or(0, |index| index.0).to_ne_bytes()));
    }
    join(attributes, noise)
}

/// `NLMSG_ERROR`, with the request or with its header only (NLM_F_CAPPED), or `NLMSG_DONE`.
fn check_refusal(refusal: &Refusal<'_>, noise: &mut Unstructured<'_>) -> Result<()> {
    // The text may be as long as a message.
    assert!(!Refusal { text: "", ..*refusal }.to_string().contains('\n'));
    let mut payload = refusal.errno.0.saturating_neg().to_ne_bytes().to_vec();
    let (kind, capped) = (noise.int_in_range(2..=3u16)?, noise.arbitrary()?);
    if kind == 2 {
        let request = vec![0xa5; noise.int_in_range(0..=30)?];
        let echoed = message(&Message { kind: 28, flags: 5, sequence: 7, port: 0, payload: &request });
        payload.extend(if capped { &echoed[..16] } else { &echoed });
        payload.resize(payload.len().next_multiple_of(4), 0);
    }
    let mut attributes = vec![whole(1, [refusal.text.as_bytes(), &[0]].concat())];
    attributes.extend(refusal.missing.map(|missing| number(5, missing.to_ne_bytes())));
    payload.extend(join(attributes, noise)?);
    let flags = 0x200 | if capped { 0x100 } else { 0 };
    let end = wire::decode_end(&Message { kind, flags, sequence: 7, port: 1, payload: &payload });
    assert_eq!(end, Ok(Some(End { result: Err(*refusal) })));
    Ok(())
}
