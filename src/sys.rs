//! Sockets, files and what else the system offers, without meaning: who calls knows what it is for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use crate::types::Errno;

/// Room for one datagram: the kernel fills at most 32 KiB into those of a dump.
const DATAGRAM: usize = 64 * 1024;
/// `MSG_TRUNC`: receive tells the true length of what it cut off.
const MSG_TRUNC: i32 = 0x20;

/// A netlink socket that talks to the kernel alone.
pub(crate) struct Netlink {
    socket: Socket,
    port: u32,
}

/// What a receive found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A datagram of the kernel's is in the buffer.
    Datagram,
    /// Something that is to be ignored.
    Other,
    /// Nothing more for now.
    Nothing,
    /// Messages were lost, before or after those that are still to be read.
    Lost,
}

impl Netlink {
    /// Opens a socket of that family (`NETLINK_*`) with room for `queue` bytes, or as much of it as is
    /// allowed.
    pub(crate) fn open(family: isize, queue: usize) -> io::Result<Self> {
        let mut socket = Socket::new(family)?;
        socket.bind_auto()?;
        let netlink = Self::of(socket)?;
        netlink.set_queue(queue)?;
        Ok(netlink)
    }

    /// One that somebody else opened, if it is of that family; what waits in it stays there.
    pub(crate) fn adopt(socket: Socket, family: isize) -> io::Result<Self> {
        let protocol = sockopt::socket_protocol(&socket)?.map_or(0, |protocol| protocol.as_raw().get());
        if u32::try_from(family) != Ok(protocol) {
            return Err(io::Error::other("a socket of another netlink family"));
        }
        Self::of(socket)
    }

    /// One that has a port.
    fn of(socket: Socket) -> io::Result<Self> {
        let mut own = SocketAddr::new(0, 0);
        socket.get_address(&mut own)?;
        // Connected to the kernel, it takes no messages of other processes (af_netlink.c).
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // Old kernels lack these; errors are then without text.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self { socket, port: own.port_number() })
    }

    /// Makes room for so many messages of the usual size that wait, or as many of them as is allowed.
    pub(crate) fn make_room(&self, messages: u32) -> io::Result<()> {
        self.set_queue(room(messages))
    }

    /// Makes room for so many bytes of messages that wait, or as much of it as is allowed.
    pub(crate) fn set_queue(&self, bytes: usize) -> io::Result<()> {
        if sockopt::set_socket_recv_buffer_size_force(&self.socket, bytes).is_err() {
            sockopt::set_socket_recv_buffer_size(&self.socket, bytes)?;
        }
        Ok(())
    }

    /// The number that the kernel's answers to this socket carry.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    pub(crate) fn join(&self, group: u32) -> io::Result<()> {
        self.socket.add_membership(group)
    }

    pub(crate) fn leave(&self, group: u32) -> io::Result<()> {
        self.socket.drop_membership(group)
    }

    /// Whether it has joined that group; of groups above 32 the kernel does not tell, which then passes for a yes.
    pub(crate) fn is_in(&self, group: u32) -> io::Result<bool> {
        let mut own = SocketAddr::new(0, 0);
        self.socket.get_address(&mut own)?;
        let bit = group.checked_sub(1).and_then(|place| 1_u32.checked_shl(place));
        Ok(bit.is_none_or(|bit| own.multicast_groups() & bit != 0))
    }

    pub(crate) fn send(&self, datagram: &[u8]) -> Result<(), Errno> {
        match self.socket.send(datagram, 0) {
            Ok(_) => Ok(()),
            Err(error) => Err(errno(&error)),
        }
    }

    /// Receives one datagram into `buffer`, which is cleared first.
    pub(crate) fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<Received> {
        buffer.clear();
        buffer.reserve(DATAGRAM);
        match self.socket.recv_from(buffer, MSG_TRUNC) {
            // The kernel sends nothing that is empty: this is no netlink socket any more.
            Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((length, _)) if length > buffer.len() => Ok(Received::Lost),
            Ok((_, from)) if from.port_number() != 0 => Ok(Received::Other),
            Ok(_) => Ok(Received::Datagram),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Received::Other),
            Err(error) if errno(&error) == Errno::NOBUFS => Ok(Received::Lost),
            Err(error) => Err(error),
        }
    }
}

/// The kernel doubles what it is told (net/core/sock.c, `__sock_set_rcvbuf`), and a short message counts
/// for some 830 bytes of it.
pub(crate) fn room(messages: u32) -> usize {
    usize::try_from(messages).unwrap_or(usize::MAX).saturating_mul(512)
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Becomes readable when the clock of the system jumps, which it also does when a suspended machine
/// resumes: timers of the poll stand still meanwhile (fs/timerfd.c, `timerfd_resume`).
pub(crate) struct ClockChange(OwnedFd);

impl ClockChange {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let clock = Self(timerfd_create(TimerfdClockId::Realtime, flags)?);
        clock.set()?;
        Ok(clock)
    }

    /// Takes note of the jump, so that the next is told too.
    pub(crate) fn wait_again(&self) {
        // It says ECANCELED, that is all there is to read; and setting it again can fail only as `new`.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
        let _ = self.set();
    }

    fn set(&self) -> io::Result<()> {
        let never = Timespec { tv_sec: i64::MAX / 2_000_000_000, tv_nsec: 0 };
        let timer = Itimerspec { it_interval: Timespec::default(), it_value: never };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&self.0, flags, &timer)?;
        Ok(())
    }
}

impl AsFd for ClockChange {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The error's number; EIO where it has none.
pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(5))
}

/// How long the machine has been suspended since it booted; it grows only while it is.
pub(crate) fn suspended() -> std::time::Duration {
    let nanoseconds = |Timespec { tv_sec, tv_nsec }| {
        u64::try_from(tv_sec)
            .unwrap_or(0)
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::try_from(tv_nsec).unwrap_or(0))
    };
    let monotonic = nanoseconds(clock_gettime(ClockId::Monotonic));
    std::time::Duration::from_nanos(nanoseconds(clock_gettime(ClockId::Boottime)).saturating_sub(monotonic))
}
