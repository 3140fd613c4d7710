//! When the events of connections are read: not at all while nobody needs them, at once while something
//! may follow from them, and a few milliseconds later, many at a time, while nothing does.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry};

use super::EVENTS;
use crate::sys::Netlink;

/// How long events wait while nothing follows from them: each wake-up costs more than reading ten.
const REST: Duration = Duration::from_millis(5);
/// Room for events that nobody reads.
const UNREAD_QUEUE: usize = 4096;

/// Whether and when the socket of events is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// Not yet decided, or nobody needs events.
    Off,
    /// The loop wakes for each.
    On,
    /// To be read at that time.
    Resting(Instant),
}

impl Watch {
    /// Begins or ends watching, with room for so many events; whether there may be something to read.
    pub(super) fn set(&mut self, needed: bool, queue: u32, socket: &Netlink, registry: &Registry) -> io::Result<bool> {
        match (*self, needed) {
            (Self::Off, true) => {
                socket.make_room(queue)?;
                self.wake(socket, registry)?;
                Ok(true)
            }
            (Self::On | Self::Resting(_), false) => {
                self.leave(socket, registry)?;
                *self = Self::Off;
                socket.set_queue(UNREAD_QUEUE)?;
                Ok(false)
            }
            // It was opened with room for what comes before the configuration is read.
            (Self::Off, false) => socket.set_queue(UNREAD_QUEUE).map(|()| false),
            (Self::On | Self::Resting(_), true) => socket.make_room(queue).map(|()| false),
        }
    }

    /// Everything has been read; `some`: there was something. Rests where there is no hurry.
    pub(super) fn drained(&mut self, some: bool, hurry: bool, socket: &Netlink, registry: &Registry) -> io::Result<()> {
        match (*self, some && !hurry) {
            (Self::Off, _) => Ok(()),
            (_, true) => {
                self.leave(socket, registry)?;
                *self = Self::Resting(Instant::now() + REST);
                Ok(())
            }
            (Self::Resting(_), false) => self.wake(socket, registry),
            (Self::On, false) => Ok(()),
        }
    }

    /// The socket is of no use any more.
    pub(super) fn lose(&mut self, socket: &Netlink, registry: &Registry) {
        // It is closed soon anyway.
        let _ = self.leave(socket, registry);
        *self = Self::Off;
    }

    /// When the socket is to be read although nothing tells so.
    pub(super) fn due(self) -> Option<Instant> {
        match self {
            Self::Resting(time) => Some(time),
            Self::Off | Self::On => None,
        }
    }

    fn wake(&mut self, socket: &Netlink, registry: &Registry) -> io::Result<()> {
        registry.register(&mut SourceFd(&socket.as_fd().as_raw_fd()), EVENTS, Interest::READABLE)?;
        *self = Self::On;
        Ok(())
    }

    fn leave(self, socket: &Netlink, registry: &Registry) -> io::Result<()> {
        match self {
            Self::On => registry.deregister(&mut SourceFd(&socket.as_fd().as_raw_fd())),
            Self::Off | Self::Resting(_) => Ok(()),
        }
    }
}
