//! Telling the service manager what state the daemon is in, and what to keep for the next one (sd_notify(3)).
//! It never waits for a manager that does not read: what cannot be sent now is sent later.

use std::collections::VecDeque;
use std::env;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sendmsg_addr, socket_with,
};
use sd_notify::NotifyState;

/// States kept for a manager that does not read; of more, the oldest say nothing any more.
const KEPT: usize = 8;
/// How soon to try again.
pub(super) const TRY_AGAIN: Duration = Duration::from_millis(50);

/// The way to the service manager, if there is one.
pub(super) struct Notifier {
    manager: Option<(OwnedFd, SocketAddrUnix)>,
    unsent: VecDeque<Unsent>,
}

struct Unsent {
    text: String,
    about: About,
}

/// What a message is about.
enum About {
    State,
    /// This is to be kept under that name.
    Keep(String, OwnedFd),
    /// What has that name is not to be kept any longer.
    GiveUp,
}

impl Notifier {
    /// Finds it in `$NOTIFY_SOCKET`; whoever cannot be reached is not told.
    pub(super) fn new() -> Self {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let manager = name.and_then(|name| reach(name.as_bytes()).ok());
        Self { manager, unsent: VecDeque::new() }
    }

    pub(super) fn tell(&mut self, states: &[NotifyState<'_>]) {
        let states_unsent = self.unsent.iter().filter(|unsent| matches!(unsent.about, About::State)).count();
        if states_unsent >= KEPT {
            let oldest = self.unsent.iter().position(|unsent| matches!(unsent.about, About::State));
            oldest.and_then(|oldest| self.unsent.remove(oldest));
        }
        self.push(states.iter().map(|state| format!("{state}\n")).collect(), About::State);
    }

    /// Has the manager keep a descriptor for the next daemon under that name, which is to be the only one.
    pub(super) fn keep(&mut self, name: &str, descriptor: BorrowedFd<'_>) {
        // Not watched by the manager: an overrun, which the next daemon is to see, would have it closed.
        let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
        if let Some(copy) = self.manager.as_ref().and_then(|_| descriptor.try_clone_to_owned().ok()) {
            self.push(text, About::Keep(name.to_owned(), copy));
        }
    }

    /// Has the manager close what it keeps under that name.
    pub(super) fn give_up(&mut self, name: &str) {
        let sent = self.unsent.len();
        self.unsent.retain(|unsent| !matches!(&unsent.about, About::Keep(kept, _) if kept == name));
        // What it has not been told to keep need not be given up: so there is an end to what waits.
        if self.unsent.len() == sent {
            self.push(format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), About::GiveUp);
        }
    }

    fn push(&mut self, text: String, about: About) {
        if self.manager.is_some() {
            self.unsent.push_back(Unsent { text, about });
            self.flush();
        }
    }

    /// Sends what waits, as far as the manager takes it.
    pub(super) fn flush(&mut self) {
        let Some((socket, manager)) = &self.manager else { return };
        while let Some(message) = self.unsent.front() {
            match message.send(socket, manager) {
                Err(Errno::AGAIN) => return,
                // A manager that went away cannot be told.
                Ok(()) | Err(_) => self.unsent.pop_front(),
            };
        }
    }

    /// Whether there is anybody to tell.
    pub(super) fn has_manager(&self) -> bool {
        self.manager.is_some()
    }

    /// Whether something waits to be sent.
    pub(super) fn is_waiting(&self) -> bool {
        !self.unsent.is_empty()
    }
}

impl Unsent {
    fn send(&self, socket: &OwnedFd, manager: &SocketAddrUnix) -> Result<(), Errno> {
        let descriptor = match &self.about {
            About::Keep(_, descriptor) => [descriptor.as_fd()],
            About::State | About::GiveUp => [socket.as_fd()],
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if matches!(self.about, About::Keep(..)) {
            beside.push(SendAncillaryMessage::ScmRights(&descriptor));
        }
        let text = [IoSlice::new(self.text.as_bytes())];
        sendmsg_addr(socket, manager, &text, &mut beside, SendFlags::NOSIGNAL).map(drop)
    }
}

fn reach(name: &[u8]) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(name)?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok((socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?, address))
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    /// A manager that listens, and the way to it.
    fn manager(name: &str) -> (UnixDatagram, Notifier) {
        let name = format!("mptcpd-notify-{name}-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        let way = reach(format!("@{name}").as_bytes()).unwrap();
        (manager, Notifier { manager: Some(way), unsent: VecDeque::new() })
    }

    fn read(manager: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 200];
        manager.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    fn read_all(manager: &UnixDatagram, notifier: &mut Notifier) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            match read(manager) {
                Some(message) => all.push(message),
                None if notifier.is_waiting() => notifier.flush(),
                None => return all,
            }
        }
    }

    fn fill(notifier: &mut Notifier) {
        for told in 0.. {
            assert!(told < 100_000, "its queue is full at some time");
            notifier.tell(&[NotifyState::Status("busy")]);
            if notifier.is_waiting() {
                break;
            }
        }
    }

    #[test]
    fn a_manager_that_does_not_read_is_told_the_latest_once_it_does() {
        let (manager, mut notifier) = manager("test");
        fill(&mut notifier);
        for _ in 0..100 {
            notifier.tell(&[NotifyState::Status("still busy")]);
        }
        assert!(notifier.unsent.len() <= KEPT);
        notifier.tell(&[NotifyState::Ready]);
        assert_eq!(read_all(&manager, &mut notifier).last().unwrap(), "READY=1\n");
    }

    #[test]
    fn what_is_to_be_kept_outlasts_states_and_what_was_never_kept_is_not_given_up() {
        let (manager, mut notifier) = manager("keep");
        fill(&mut notifier);
        let file = std::fs::File::open("/dev/null").unwrap();
        for round in 0..1000 {
            notifier.keep("b", file.as_fd());
            notifier.give_up("b");
            if round == 0 {
                notifier.keep("a", file.as_fd());
            }
            notifier.tell(&[NotifyState::Status("still busy")]);
        }
        assert!(notifier.unsent.len() <= KEPT + 1);
        let about_descriptors = |all: Vec<String>| Vec::from_iter(all.into_iter().filter(|text| text.contains("FD")));
        let all = read_all(&manager, &mut notifier);
        assert_eq!(about_descriptors(all), ["FDSTORE=1\nFDNAME=a\nFDPOLL=0\n"]);
        notifier.give_up("a");
        assert_eq!(about_descriptors(read_all(&manager, &mut notifier)), ["FDSTOREREMOVE=1\nFDNAME=a\n"]);
    }
}
