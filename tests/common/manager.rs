//! A service manager as far as descriptors go: it keeps what a daemon gives it, and hands it to the next.

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// The first descriptor that a daemon is handed (sd_listen_fds(3)).
const FIRST: usize = 3;
/// Above all that it may be handed.
const ABOVE: i32 = 200;

/// The descriptors that it keeps, by name; a clone is another handle of the same.
#[derive(Clone, Default)]
pub(crate) struct FdStore {
    kept: Arc<Mutex<Vec<(String, OwnedFd)>>>,
}

impl FdStore {
    /// The names of what it keeps, in alphabetical order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.kept.lock().expect("no panic").iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Whether it keeps this socket.
    pub(crate) fn keeps(&self, socket: &OwnedFd) -> bool {
        self.kept.lock().expect("no panic").iter().any(|(_, kept)| is_same(kept, socket))
    }

    /// Closes everything.
    pub(crate) fn clear(&self) {
        self.kept.lock().expect("no panic").clear();
    }

    /// Puts something there that no daemon gave it.
    pub(crate) fn slip_in(&self, name: &str, descriptor: OwnedFd) {
        self.kept.lock().expect("no panic").push((name.to_owned(), descriptor));
    }

    /// Receives a notification and does what it says about descriptors; `None` if there is none in time.
    pub(crate) fn receive(&self, notifications: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(notifications, &mut [IoSliceMut::new(&mut buffer)], &mut beside, RecvFlags::CMSG_CLOEXEC);
        let length = received.ok()?.bytes;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let mut descriptors = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                descriptors.extend(more);
            }
        }
        self.apply(&text, descriptors);
        Some(text)
    }

    fn apply(&self, text: &str, descriptors: Vec<OwnedFd>) {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or_default().to_owned();
        let mut kept = self.kept.lock().expect("no panic");
        if value("FDSTORE") == Some("1") {
            assert_eq!(value("FDPOLL"), Some("0"), "a manager that watches it would drop it");
            for descriptor in descriptors {
                // As systemd does: what is there already is not kept twice.
                if !kept.iter().any(|(_, known)| is_same(known, &descriptor)) {
                    kept.push((name.clone(), descriptor));
                }
            }
        }
        if value("FDSTOREREMOVE") == Some("1") {
            kept.retain(|(known, _)| *known != name);
        }
    }

    /// A command that runs another with all that is kept; the descriptors are open while the result lives.
    pub(crate) fn hand_over(&self, command: &Command) -> (Command, Vec<OwnedFd>) {
        let kept = self.kept.lock().expect("no panic");
        let copies: Vec<_> =
            kept.iter().map(|(_, descriptor)| fcntl_dupfd_cloexec(descriptor, ABOVE).expect("a copy")).collect();
        // One test runs in this process, and no other child is started meanwhile.
        copies.iter().for_each(|copy| fcntl_setfd(copy, FdFlags::empty()).expect("a descriptor of ours"));
        let moves = copies.iter().enumerate().map(|(place, copy)| {
            let number = copy.as_raw_fd();
            format!("exec {}<&{number} {number}<&-; ", FIRST + place)
        });
        let script = moves.collect::<String>() + "export LISTEN_PID=$$; exec \"$@\"";
        let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
        let mut handing = Command::new("bash");
        handing.args(["-c", &script, "bash"]).arg(command.get_program()).args(command.get_args());
        handing.env("LISTEN_FDS", copies.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => handing.env(name, OsString::from(value)),
                None => handing.env_remove(name),
            };
        }
        (handing, copies)
    }
}

/// Whether both are of one open file, as far as the number of a socket tells.
fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let number = |descriptor: &OwnedFd| rustix::fs::fstat(descriptor).expect("a descriptor of ours").st_ino;
    number(one) == number(other)
}
