//! The sockets to the kernel, opened and joined to their groups before anything is asked, so that
//! nothing falls between; opening them changes nothing.

use std::io;
use std::os::unix::net::UnixListener;

use super::handed::Handed;
use super::kernel;
use crate::exit::{Code, Fatal};
use crate::names::DEFAULT_QUEUE;
use crate::sys::{self, Netlink, Received};
use crate::types::Errno;
use crate::wire::{self, Encoder, Messages, ctrl, mptcp, route};

pub(super) const NETLINK_ROUTE: isize = 0;
pub(super) const NETLINK_GENERIC: isize = 16;
/// Answers come while the request is being sent, so few ever wait.
const ANSWERS_QUEUE: usize = 256 << 10;

/// What connects the daemon with the kernel.
pub(crate) struct Sockets {
    /// rtnetlink: events, dumps and lookups, on one socket so that they are in order.
    pub(super) network: Netlink,
    /// Events of `mptcp_pm`.
    pub(super) events: Netlink,
    /// The service manager keeps it too.
    pub(super) events_kept: bool,
    /// Commands of `mptcp_pm` and their answers.
    pub(super) answers: Netlink,
    /// Questions about sockets and their answers, once there was one.
    pub(super) questions: Option<Netlink>,
    /// Messages of each that may wait while the daemon does not read.
    pub(super) queue: u32,
    /// Number of `mptcp_pm`.
    pub(super) family: u16,
    /// Number of the group of its events.
    pub(super) group: u32,
    /// Held by the one daemon of the network namespace.
    pub(super) instance: UnixListener,
    /// What else an earlier run left.
    pub(super) handed: Handed,
}

pub(super) fn failed(what: &str) -> impl FnOnce(io::Error) -> Fatal {
    move |error| Fatal::new(Code::Failure, format!("cannot {what}: {}", sys::errno(&error)))
}

impl Sockets {
    /// Opens everything, or says why this cannot be the daemon of this network namespace.
    ///
    /// Events are joined with as little before as can be: the kernel refuses joins while nobody listens.
    pub(crate) fn open() -> Result<Self, Fatal> {
        let mut handed = Handed::take();
        let answers = Self::open_answers().map_err(failed("open a generic netlink socket"))?;
        // A kernel without the family may have more to say.
        let family = resolve(&answers).or_else(|error| kernel::has_mptcp().and(Err(error)))?;
        let group = family.group.ok_or_else(|| unavailable("has no events (Linux 5.12 or later has them)"))?;
        let kept = handed.events.take();
        let events_kept = kept.is_some();
        let queue = DEFAULT_QUEUE;
        let events = kept.map_or_else(|| Netlink::open(NETLINK_GENERIC, sys::room(queue)), Ok);
        let events = events.map_err(failed("open a generic netlink socket"))?;
        // One that was handed over should have joined already.
        events.join(group).map_err(cannot_join)?;
        kernel::has_mptcp()?;
        let instance = kernel::only_instance()?;
        let network = Self::open_network(queue).map_err(failed("open a route netlink socket and join its groups"))?;
        let family = family.id;
        Ok(Self { network, events, events_kept, answers, questions: None, queue, family, group, instance, handed })
    }

    /// A socket that hears of links and addresses.
    pub(super) fn open_network(queue: u32) -> io::Result<Netlink> {
        let network = Netlink::open(NETLINK_ROUTE, sys::room(queue))?;
        route::GROUPS.iter().try_for_each(|group| network.join(*group))?;
        Ok(network)
    }

    pub(super) fn open_answers() -> io::Result<Netlink> {
        Netlink::open(NETLINK_GENERIC, ANSWERS_QUEUE)
    }

    /// Opens another socket of events in place of the one there is, with no moment in between without one.
    pub(super) fn open_events(&mut self) -> io::Result<()> {
        let events = Netlink::open(NETLINK_GENERIC, sys::room(self.queue))?;
        events.join(self.group)?;
        self.events = events;
        Ok(())
    }
}

/// Asks the kernel for the number and the group of `mptcp_pm`; it answers while the question is sent.
fn resolve(socket: &Netlink) -> Result<ctrl::Family, Fatal> {
    let (mut encoder, mut buffer) = (Encoder::default(), Vec::new());
    ctrl::encode_get_family(&mut encoder, 1, mptcp::FAMILY);
    let broken = |what: &str| Fatal::new(Code::Failure, format!("cannot look up mptcp_pm: {what}"));
    socket.send(encoder.bytes()).map_err(|errno| broken(&errno.to_string()))?;
    let mut family = None;
    while socket.receive(&mut buffer).map_err(|error| broken(&error.to_string()))? == Received::Datagram {
        for message in Messages::new(&buffer) {
            let message = message.map_err(|error| broken(&error.to_string()))?;
            match wire::decode_end(&message).map_err(|error| broken(&error.to_string()))? {
                Some(end) => match end.result {
                    Err(refusal) if refusal.errno == Errno::NOENT => return Err(unavailable("is not there")),
                    Err(refusal) => return Err(broken(&refusal.to_string())),
                    Ok(()) => {}
                },
                None => {
                    let found = ctrl::decode_family(message.payload, mptcp::EVENTS_GROUP);
                    family = Some(found.map_err(|error| broken(&error.to_string()))?);
                }
            }
        }
    }
    family.ok_or_else(|| broken("no answer"))
}

fn unavailable(what: &str) -> Fatal {
    let message = format!("the kernel's netlink family mptcp_pm {what}: use a kernel built with CONFIG_MPTCP");
    Fatal::new(Code::Unavailable, message)
}

fn cannot_join(error: io::Error) -> Fatal {
    let errno = sys::errno(&error);
    let (code, remedy) = if errno == Errno::PERM {
        (Code::Permission, " (needs CAP_NET_ADMIN: run as root, or as a service with that capability)")
    } else {
        (Code::Failure, "")
    };
    Fatal::new(code, format!("cannot join mptcp_pm_events: {errno}{remedy}"))
}
