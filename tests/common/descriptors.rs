//! Copies of the netlink sockets of a process, to do to them what nobody should.

use std::fs;

use rustix::fd::{AsFd as _, OwnedFd};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{bind, connect, getsockname};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::net::Namespace;
use super::process::proc_file;

/// Which netlink socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// rtnetlink, in some groups.
    Network,
    /// Generic netlink, in some groups.
    Events,
    /// Generic netlink, in no group.
    Answers,
    /// sock_diag.
    Questions,
}

impl Kind {
    /// Protocol, and whether it is in groups.
    fn description(self) -> (&'static str, bool) {
        match self {
            Self::Network => ("0", true),
            Self::Events => ("16", true),
            Self::Answers => ("16", false),
            Self::Questions => ("4", false),
        }
    }
}

/// A netlink socket that is that of another process too.
pub(crate) struct Copied {
    socket: OwnedFd,
}

impl Copied {
    /// The socket of a process.
    pub(crate) fn of(process: u32, kind: Kind) -> Self {
        let number = find(process, kind).unwrap_or_else(|| panic!("no socket for {kind:?}"));
        let process = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process");
        let process = pidfd_open(process, PidfdFlags::empty()).expect("pidfd_open (Linux 5.3)");
        let socket = pidfd_getfd(process, number, PidfdGetfdFlags::empty()).expect("pidfd_getfd (Linux 5.6)");
        Self { socket }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// What is sent through it from now on is refused.
    pub(crate) fn lead_nowhere(&self) {
        self.lead_to(u32::MAX - 1);
    }

    /// What is sent through it from now on is never answered; for as long as the result lives.
    pub(crate) fn make_mute(&self, namespace: &Namespace, kind: Kind) -> netlink_sys::Socket {
        let (protocol, _) = kind.description();
        let protocol = protocol.parse().expect("a number");
        let mut end = namespace.enter(|| netlink_sys::Socket::new(protocol)).expect("a netlink socket");
        let port = end.bind_auto().expect("a port").port_number();
        self.lead_to(port);
        end
    }

    fn lead_to(&self, port: u32) {
        connect(&self.socket, &SocketAddrNetlink::new(port, 0)).expect("privileged in this sandbox");
    }

    /// Takes it out of all groups.
    pub(crate) fn leave_groups(&self) {
        let own = getsockname(self.socket.as_fd()).expect("a socket");
        let own = SocketAddrNetlink::try_from(own).expect("a netlink socket");
        bind(&self.socket, &SocketAddrNetlink::new(own.pid(), 0)).expect("the port that it has");
    }
}

/// The number of such a descriptor.
fn find(process: u32, kind: Kind) -> Option<i32> {
    let table = proc_file(process, "net/netlink");
    let wanted = kind.description();
    let inodes = table.lines().skip(1).filter_map(|line| {
        let fields = Vec::from_iter(line.split_whitespace());
        let (protocol, groups, inode) = (*fields.get(1)?, *fields.get(3)?, *fields.get(9)?);
        ((protocol, !groups.trim_start_matches('0').is_empty()) == wanted).then_some(format!("socket:[{inode}]"))
    });
    let inodes = Vec::from_iter(inodes);
    fs::read_dir(format!("/run/proc/{process}/fd")).ok()?.filter_map(Result::ok).find_map(|entry| {
        let is_it = fs::read_link(entry.path()).is_ok_and(|to| inodes.iter().any(|inode| to == *inode.as_str()));
        is_it.then(|| entry.file_name().to_str()?.parse().ok())?
    })
}
