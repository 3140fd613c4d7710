//! A path manager as simple as can be: it announces and withdraws what it is told to.

use std::io;
use std::net::Ipv4Addr;

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

use super::net::Namespace;

/// Numbers of include/uapi/linux/genetlink.h, netlink.h and mptcp_pm.h.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const ANNOUNCE: u8 = 8;
const REMOVE: u8 = 9;
const ATTR_ADDR: u16 = 1;
const ATTR_TOKEN: u16 = 4;
const ATTR_LOC_ID: u16 = 5;
const ADDR_FAMILY: u16 = 1;
const ADDR_ID: u16 = 2;
const ADDR_ADDR4: u16 = 3;
const ADDR_FLAGS: u16 = 6;
const NLA_F_NESTED: u16 = 0x8000;
const SIGNAL: u32 = 1;
const REQUEST: u16 = 1;
/// A request that is answered by nothing else.
const ACKNOWLEDGE: u16 = REQUEST | 4;

/// Speaks for the connections of a namespace that are under user-space path management.
pub(crate) struct Announcer {
    socket: Socket,
    family: u16,
}

impl Announcer {
    /// One for this namespace.
    pub(crate) fn new(namespace: &Namespace) -> Self {
        let mut socket = namespace.enter(|| Socket::new(NETLINK_GENERIC)).expect("a netlink socket");
        socket.bind_auto().expect("a port");
        socket.connect(&SocketAddr::new(0, 0)).expect("the kernel");
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"mptcp_pm\0");
        let reply =
            ask(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, REQUEST, &name).expect("the family of path managers");
        Self { socket, family: family_id(&reply) }
    }

    /// Announces an address of whatever host; what became of it, the kernel does not say.
    pub(crate) fn announce(&self, token: u32, id: u8, address: Ipv4Addr) -> io::Result<()> {
        let mut fields = attribute(ADDR_FAMILY, &2_u16.to_ne_bytes());
        fields.extend(attribute(ADDR_ID, &[id]));
        fields.extend(attribute(ADDR_ADDR4, &address.octets()));
        fields.extend(attribute(ADDR_FLAGS, &SIGNAL.to_ne_bytes()));
        let mut attributes = attribute(ATTR_TOKEN, &token.to_ne_bytes());
        attributes.extend(attribute(ATTR_ADDR | NLA_F_NESTED, &fields));
        ask(&self.socket, self.family, ANNOUNCE, ACKNOWLEDGE, &attributes).map(drop)
    }

    /// Withdraws the address with that id.
    pub(crate) fn withdraw(&self, token: u32, id: u8) -> io::Result<()> {
        let mut attributes = attribute(ATTR_TOKEN, &token.to_ne_bytes());
        attributes.extend(attribute(ATTR_LOC_ID, &[id]));
        ask(&self.socket, self.family, REMOVE, ACKNOWLEDGE, &attributes).map(drop)
    }
}

/// Header, value, and padding to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short value");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends a command, and returns what follows the headers of its reply.
fn ask(socket: &Socket, family: u16, command: u8, flags: u16, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(20 + attributes.len()).expect("a short message");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&[family.to_ne_bytes(), flags.to_ne_bytes()].concat());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[command, 1, 0, 0]);
    message.extend_from_slice(attributes);
    socket.send(&message, 0)?;
    let (reply, _) = socket.recv_from_full()?;
    let (kind, body) = (u16::from_ne_bytes([reply[4], reply[5]]), &reply[16..]);
    // NLMSG_ERROR, which is also that there was none.
    match i32::from_ne_bytes([body[0], body[1], body[2], body[3]]) {
        errno if kind == 2 && errno != 0 => Err(io::Error::from_raw_os_error(-errno)),
        _ => Ok(body.to_vec()),
    }
}

fn family_id(reply: &[u8]) -> u16 {
    let mut rest = &reply[4..];
    loop {
        let word = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
        if word(2) == CTRL_ATTR_FAMILY_ID {
            return word(4);
        }
        rest = &rest[usize::from(word(0)).next_multiple_of(4)..];
    }
}
