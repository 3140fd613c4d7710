//! Bytes to values and back: the frame of a netlink message, its attributes, and the kernel's answers
//! with their extended text. The families are in the modules below; no socket is touched here.

pub mod ctrl;
pub mod diag;
pub mod mptcp;
pub mod route;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_NOOP, NlasIterator,
};

use crate::types::Errno;

/// Length of the header of a netlink message (`struct nlmsghdr`).
pub const HEADER_LENGTH: usize = 16;

/// What is wrong with bytes that should be a message of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A header or fixed part is cut off: bytes expected, bytes got.
    Short(usize, usize),
    /// The length that a message states does not fit: stated, available.
    Length(usize, usize),
    /// The attributes are not a sequence of attributes.
    Attributes,
    /// The attribute is shorter than its type: number, bytes expected, bytes got.
    AttributeShort(u16, usize, usize),
    /// The attribute is not there: number.
    Missing(u16),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(expected, got) => write!(f, "message of {got} bytes where {expected} were expected"),
            Self::Length(stated, got) => write!(f, "message states {stated} bytes, {got} are there"),
            Self::Attributes => f.write_str("malformed attributes"),
            Self::AttributeShort(kind, expected, got) => {
                write!(f, "attribute {kind} has {got} bytes where {expected} were expected")
            }
            Self::Missing(kind) => write!(f, "attribute {kind} is missing"),
        }
    }
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// The port that it answers, 0 for an event of the kernel's own.
    pub port: u32,
    /// What follows the header, without padding.
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// The state changed while it was being dumped: the dump may lack entries.
    #[must_use]
    pub const fn interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }
}

/// The messages of a datagram; ends after the first that is malformed.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages of these bytes.
    #[must_use]
    pub const fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }

    fn take(&mut self) -> Result<Message<'a>, DecodeError> {
        let all = std::mem::take(&mut self.rest);
        let short = DecodeError::Short(HEADER_LENGTH, all.len());
        let (header, _) = all.split_first_chunk::<HEADER_LENGTH>().ok_or(short)?;
        let stated = usize::try_from(ne_u32(header, 0)?).unwrap_or(usize::MAX);
        let payload = all.get(HEADER_LENGTH..stated).ok_or(DecodeError::Length(stated, all.len()))?;
        self.rest = all.get(align(stated)..).unwrap_or_default();
        Ok(Message {
            kind: ne_u16(header, 4)?,
            flags: ne_u16(header, 6)?,
            sequence: ne_u32(header, 8)?,
            port: ne_u32(header, 12)?,
            payload,
        })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.rest.is_empty()).then(|| self.take())
    }
}

/// End of a request: the kernel's acknowledgement, its refusal, or the end of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<'a> {
    /// What the kernel made of it.
    pub result: Result<(), Refusal<'a>>,
}

/// Why the kernel refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The error.
    pub errno: Errno,
    /// The kernel's own words (extended acknowledgement), empty if there are none.
    pub text: &'a str,
    /// Number of the attribute that the kernel missed (`NLMSGERR_ATTR_MISS_TYPE`).
    pub missing: Option<u32>,
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.errno.fmt(f)?;
        if !self.text.is_empty() {
            write!(f, " ({})", self.text)?;
        }
        match self.missing {
            Some(kind) => write!(f, " (attribute {kind} is missing)"),
            None => Ok(()),
        }
    }
}

/// The number of a question whose answer means nothing else; a request of the same number would be one out of
/// four thousand million.
pub const PROBE: u32 = u32::MAX;

/// Encodes a message that every family acknowledges and that does nothing (net/netlink/af_netlink.c,
/// `netlink_rcv_skb`).
pub fn encode_probe(encoder: &mut Encoder) {
    encoder.begin(NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, PROBE);
    encoder.end();
}

/// Decodes the end of a request; `None` if the message is something else.
pub fn decode_end<'a>(message: &Message<'a>) -> Result<Option<End<'a>>, DecodeError> {
    let tlvs = match message.kind {
        // A failing dump reports in NLMSG_DONE; there its TLVs follow the code (net/netlink/af_netlink.c).
        NLMSG_DONE => 4,
        NLMSG_ERROR if message.flags & NLM_F_CAPPED != 0 => 4 + HEADER_LENGTH,
        NLMSG_ERROR => 4 + align(echoed_length(message.payload)?),
        _ => return Ok(None),
    };
    let code = match message.payload {
        [] if message.kind == NLMSG_DONE => 0,
        payload => chunk(payload, 0).map(i32::from_ne_bytes)?,
    };
    if code == 0 {
        return Ok(Some(End { result: Ok(()) }));
    }
    let mut refusal = Refusal { errno: Errno(code.saturating_neg()), text: "", missing: None };
    if message.flags & NLM_F_ACK_TLVS != 0 {
        extended_text(message.payload.get(tlvs..).unwrap_or_default(), &mut refusal)?;
    }
    Ok(Some(End { result: Err(refusal) }))
}

fn echoed_length(payload: &[u8]) -> Result<usize, DecodeError> {
    Ok(usize::try_from(ne_u32(payload, 4)?).unwrap_or(usize::MAX).min(payload.len()))
}

/// `NLMSGERR_ATTR_*`, include/uapi/linux/netlink.h.
fn extended_text<'a>(tlvs: &'a [u8], refusal: &mut Refusal<'a>) -> Result<(), DecodeError> {
    for attribute in attributes(tlvs) {
        let attribute = attribute?;
        match attribute.kind {
            1 => refusal.text = attribute.text(),
            5 => refusal.missing = Some(attribute.u32()?),
            _ => {}
        }
    }
    Ok(())
}

/// One attribute (`struct nlattr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its number, without flags.
    pub kind: u16,
    /// Its value, without padding.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The first byte.
    pub fn u8(&self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes in host order.
    pub fn u16(&self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_ne_bytes)
    }

    /// Two bytes in network order.
    pub fn be_u16(&self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes in host order.
    pub fn u32(&self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_ne_bytes)
    }

    /// An IPv4 address.
    pub fn ipv4(&self) -> Result<Ipv4Addr, DecodeError> {
        self.array::<4>().map(Ipv4Addr::from)
    }

    /// An IPv6 address.
    pub fn ipv6(&self) -> Result<Ipv6Addr, DecodeError> {
        self.array::<16>().map(Ipv6Addr::from)
    }

    /// An address of either family: 4 or 16 bytes.
    pub fn ip(&self) -> Result<IpAddr, DecodeError> {
        if self.value.len() < 16 { self.ipv4().map(IpAddr::V4) } else { self.ipv6().map(IpAddr::V6) }
    }

    /// A string that ends with a zero byte or with the attribute.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.value.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The same as text; empty if it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &'a str {
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }

    fn array<const N: usize>(&self) -> Result<[u8; N], DecodeError> {
        // A longer value than known is a newer kernel's: its first part keeps its meaning.
        let short = DecodeError::AttributeShort(self.kind, N, self.value.len());
        self.value.first_chunk::<N>().copied().ok_or(short)
    }
}

/// Walks attributes; ends after the first that is malformed.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<Attribute<'_>, DecodeError>> {
    NlasIterator::new(bytes).map(|nla| {
        let nla = nla.map_err(|_| DecodeError::Attributes)?;
        let (kind, length) = (nla.kind(), usize::from(nla.length()));
        let value = nla.into_inner().get(NLA_HEADER_SIZE..length).ok_or(DecodeError::Attributes)?;
        Ok(Attribute { kind, value })
    })
}

/// Appends messages to a buffer that is used again and again.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
    start: usize,
}

impl Encoder {
    /// What has been encoded since [`clear`](Self::clear).
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets everything; the memory stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Begins a message.
    pub fn begin(&mut self, kind: u16, flags: u16, sequence: u32) {
        self.start = self.bytes.len();
        self.put(&0u32.to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(&flags.to_ne_bytes());
        self.put(&sequence.to_ne_bytes());
        self.put(&0u32.to_ne_bytes());
    }

    /// Ends the message: fills in its length.
    pub fn end(&mut self) {
        // A message is a few hundred bytes at most, so its length fits.
        let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(self.start..).and_then(|message| message.first_chunk_mut()) {
            *field = length.to_ne_bytes();
        }
    }

    /// Appends bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(NLA_HEADER_SIZE + value.len()).unwrap_or(u16::MAX);
        self.put(&length.to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(value);
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// Appends an address as an attribute: number for IPv4, number for IPv6.
    pub fn ip(&mut self, v4: u16, v6: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.attribute(v4, &address.octets()),
            IpAddr::V6(address) => self.attribute(v6, &address.octets()),
        }
    }

    /// Appends an attribute that holds the attributes which `fill` appends.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind | netlink_packet_core::NLA_F_NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(field) = self.bytes.get_mut(start..).and_then(|nest| nest.first_chunk_mut()) {
            *field = length.to_ne_bytes();
        }
    }
}

/// `AF_INET` or `AF_INET6`, as one byte.
pub(crate) const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

const fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn ne_u16(bytes: &[u8], offset: usize) -> Result<u16, DecodeError> {
    chunk(bytes, offset).map(u16::from_ne_bytes)
}

fn ne_u32(bytes: &[u8], offset: usize) -> Result<u32, DecodeError> {
    chunk(bytes, offset).map(u32::from_ne_bytes)
}

fn chunk<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], DecodeError> {
    let short = DecodeError::Short(offset + N, bytes.len());
    bytes.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(short)
}
