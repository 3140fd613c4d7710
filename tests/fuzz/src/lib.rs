//! What the targets share: messages put together without the daemon's encoder, values out of arbitrary
//! bytes, and the measure of what a decoder allocates.

pub mod value;

use std::alloc::System;
use std::fmt::Display;

use arbitrary::Unstructured;
use mptcpd::wire::Message;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Does something that must not allocate, a decoder of datagrams, but for the error of a malformed attribute,
/// which netlink-packet-core makes.
pub fn frugally<T>(decode: impl FnOnce() -> T) -> T {
    within(1000, decode)
}

/// Does something that may allocate in all, what it frees included, `most` bytes.
pub fn within<T>(most: usize, decode: impl FnOnce() -> T) -> T {
    let region = Region::new(ALLOCATOR);
    let value = decode();
    let bytes = region.change().bytes_allocated;
    assert!(bytes <= most, "{bytes} bytes were allocated, {most} at most were expected");
    value
}

/// Checks that something is fit for a line of the log.
pub fn check_line(shown: &impl Display) {
    let line = shown.to_string();
    assert!(!line.is_empty() && !line.contains('\n') && line.len() <= 500, "{line}");
}

/// An attribute.
#[derive(Clone, Debug)]
pub struct Attribute {
    pub kind: u16,
    pub value: Vec<u8>,
    /// A later kernel may append to the value.
    pub may_grow: bool,
}

/// An attribute with a value of a fixed size.
pub fn number<const N: usize>(kind: u16, value: [u8; N]) -> Attribute {
    Attribute { kind, value: value.to_vec(), may_grow: true }
}

/// An attribute whose end matters: a string or a nest.
pub fn whole(kind: u16, value: Vec<u8>) -> Attribute {
    Attribute { kind, value, may_grow: false }
}

/// Attributes as bytes. With `noise` they stand in another order, are longer, have flags and padding, and
/// have unknown ones between them; without, they are as they are.
pub fn join(mut attributes: Vec<Attribute>, noise: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while !attributes.is_empty() {
        let next = attributes.remove(noise.int_in_range(0..=attributes.len() - 1)?);
        put(&mut bytes, &next, noise)?;
        for _ in 0..noise.int_in_range(0..=2)? {
            // No kernel has so many.
            let kind = noise.int_in_range(200..=0x3fff)?;
            let length = noise.int_in_range(0..=9)?;
            let value = noise.bytes(length.min(noise.len()))?.to_vec();
            put(&mut bytes, &Attribute { kind, value, may_grow: false }, noise)?;
        }
    }
    Ok(bytes)
}

fn put(bytes: &mut Vec<u8>, attribute: &Attribute, noise: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut value = attribute.value.clone();
    if attribute.may_grow {
        value.resize(value.len() + noise.int_in_range(0..=5)?, 0xa5);
    }
    // NLA_F_NESTED and NLA_F_NET_BYTEORDER.
    let flags = noise.int_in_range(0..=3u16)? << 14;
    let length = u16::try_from(value.len() + 4).map_err(|_| arbitrary::Error::IncorrectFormat)?;
    bytes.extend(length.to_ne_bytes());
    bytes.extend((attribute.kind | flags).to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), noise.arbitrary()?);
    Ok(())
}

/// A message as bytes.
pub fn message(message: &Message<'_>) -> Vec<u8> {
    let length = u32::try_from(16 + message.payload.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(message.kind.to_ne_bytes());
    bytes.extend(message.flags.to_ne_bytes());
    bytes.extend(message.sequence.to_ne_bytes());
    bytes.extend(message.port.to_ne_bytes());
    bytes.extend(message.payload);
    bytes
}

/// A generic netlink payload.
pub fn generic(command: u8, attributes: Vec<u8>) -> Vec<u8> {
    [vec![command, 1, 0, 0], attributes].concat()
}
