//! What must be true of the kernel and of this process before anything else: Multipath TCP is there and
//! on, the daemon may manage it, and it is the only one in its network namespace.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::{fs, io};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, ipproto, socket_with, sockopt};

use crate::exit::{Code, Fatal};

/// Name of the abstract socket that only one process in a network namespace can have.
const INSTANCE: &str = "mptcpd";

/// Checks that Multipath TCP is there and on in this network namespace.
pub(super) fn has_mptcp() -> Result<(), Fatal> {
    match fs::read_to_string("/proc/sys/net/mptcp/enabled") {
        Ok(value) if value.trim() == "0" => Err(switched_off()),
        Ok(_) => Ok(()),
        // Without /proc only a socket tells.
        Err(_) => can_make_socket(),
    }
}

fn can_make_socket() -> Result<(), Fatal> {
    match socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::MPTCP)) {
        // net/mptcp/protocol.c, `mptcp_init_sock`.
        Err(Errno::NOPROTOOPT) => Err(switched_off()),
        Err(Errno::PROTONOSUPPORT | Errno::INVAL) => Err(Fatal::new(
            Code::Unavailable,
            "this kernel has no multipath tcp: use one built with CONFIG_MPTCP (Linux 5.12 or later)",
        )),
        // Whatever else may keep a socket from being made does not concern the daemon, which makes none.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn switched_off() -> Fatal {
    Fatal::new(
        Code::Unavailable,
        "multipath tcp is switched off in this network namespace: switch it on with `sysctl -w net.mptcp.enabled=1`",
    )
}

/// Makes this process the one daemon of its network namespace for as long as the result lives.
pub(super) fn only_instance() -> Result<UnixListener, Fatal> {
    let address = SocketAddr::from_abstract_name(INSTANCE)
        .map_err(|error| Fatal::new(Code::Failure, format!("cannot name the instance socket: {error}")))?;
    let failed =
        |error: io::Error| Fatal::new(Code::Failure, format!("cannot bind abstract socket {INSTANCE}: {error}"));
    match UnixListener::bind_addr(&address) {
        Ok(listener) => {
            listener.set_nonblocking(true).map_err(failed)?;
            Ok(listener)
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Fatal::new(Code::Failure, already_running())),
        Err(error) => Err(failed(error)),
    }
}

fn already_running() -> String {
    let who = match holder() {
        Ok((pid, uid)) => format!("process {pid} of uid {uid}"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            "a process that holds its socket without listening".to_owned()
        }
        // The kernel has no number here for a process of elsewhere.
        Err(_) => "a process of another pid namespace".to_owned(),
    };
    format!("another mptcpd manages this network namespace: {who}; stop it first")
}

/// Process and user that listen on the instance socket; does not wait, even if nobody accepts there.
fn holder() -> io::Result<(i32, u32)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(INSTANCE.as_bytes())?)?;
    let credentials = sockopt::socket_peercred(&socket)?;
    Ok((credentials.pid.as_raw_nonzero().get(), credentials.uid.as_raw()))
}
