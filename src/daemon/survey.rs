//! A look at the links and addresses there are, and at routes, beside the daemon's own sockets: it needs
//! no privilege, hears no events and changes nothing.

use super::sockets::{NETLINK_ROUTE, failed};
use crate::command::RouteQuestion;
use crate::event::{NetworkEvent, RouteAnswer};
use crate::exit::{Code, Fatal};
use crate::network::Network;
use crate::sys::{Netlink, Received};
use crate::types::IfIndex;
use crate::wire::{self, Encoder, Message, Messages, route};

/// Bytes of a dump that may wait; the kernel makes the next part when one was read.
const QUEUE: usize = 256 << 10;
/// How often to begin again when something changes meanwhile.
const TRIES: u32 = 10;

/// Reads the links and addresses of this network namespace.
pub(crate) fn survey() -> Result<Network, Fatal> {
    let mut reader = Reader::open()?;
    for _ in 0..TRIES {
        let mut network = Network::default();
        let links = reader.dump(route::encode_dump_links, &mut network)?;
        if reader.dump(route::encode_dump_addresses, &mut network)? && links {
            return Ok(network);
        }
    }
    Err(refused("they keep changing"))
}

fn refused(why: &str) -> Fatal {
    Fatal::new(Code::Failure, format!("cannot read links and addresses: {why}"))
}

/// Asks rtnetlink, which answers at once.
pub(super) struct Reader {
    socket: Netlink,
    encoder: Encoder,
    buffer: Vec<u8>,
    /// Of the last request.
    sequence: u32,
}

impl Reader {
    pub(super) fn open() -> Result<Self, Fatal> {
        let socket = Netlink::open(NETLINK_ROUTE, QUEUE).map_err(failed("open a route netlink socket"))?;
        Ok(Self { socket, encoder: Encoder::default(), buffer: Vec::new(), sequence: 0 })
    }

    /// Asks for a route, and whether it leaves by that interface; `None` if there is none.
    pub(super) fn ask(&mut self, question: &RouteQuestion, through: IfIndex) -> Option<RouteAnswer> {
        self.sequence += 1;
        self.encoder.clear();
        route::encode_ask_route(&mut self.encoder, self.sequence, question);
        self.socket.send(self.encoder.bytes()).ok()?;
        while self.socket.receive(&mut self.buffer).ok()? == Received::Datagram {
            let message = Messages::new(&self.buffer).find_map(Result::ok)?;
            if message.sequence == self.sequence {
                return route::decode_route_answer(&message, through).ok()?;
            }
        }
        None
    }

    /// Asks and takes in the answer; `false` if that is not of one moment.
    fn dump(&mut self, encode: fn(&mut Encoder, u32), network: &mut Network) -> Result<bool, Fatal> {
        self.sequence += 1;
        self.encoder.clear();
        encode(&mut self.encoder, self.sequence);
        self.socket.send(self.encoder.bytes()).map_err(|errno| refused(&errno.to_string()))?;
        let mut whole = true;
        loop {
            match self.socket.receive(&mut self.buffer).map_err(failed("read the route netlink socket"))? {
                Received::Datagram => {}
                Received::Other => continue,
                // The kernel answers while it is asked: there is always something to read.
                Received::Nothing | Received::Lost => return Ok(false),
            }
            let ours = |message: &Message<'_>| message.sequence == self.sequence;
            for message in Messages::new(&self.buffer).map_while(Result::ok).filter(ours) {
                whole &= !message.interrupted();
                if let Ok(Some(end)) = wire::decode_end(&message) {
                    return end.result.map(|()| whole).map_err(|refusal| refused(&refusal.to_string()));
                }
                take(&message, network);
            }
        }
    }
}

/// Takes in an entry of a dump; one that does not decode is passed over.
fn take(message: &Message<'_>, network: &mut Network) {
    match route::decode_event(message) {
        Ok(Some(NetworkEvent::Link(link))) => {
            network.apply_link(&link);
        }
        Ok(Some(NetworkEvent::Address(address))) => {
            network.apply_address(&address, true);
        }
        Ok(_) | Err(_) => {}
    }
}
