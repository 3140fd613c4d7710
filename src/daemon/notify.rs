//! Telling the service manager what state the daemon is in (sd_notify(3)). It never waits for a manager
//! that does not read: what cannot be sent now is sent later.

use std::collections::VecDeque;
use std::env;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// Messages kept for a manager that does not read; of more, the oldest say nothing any more.
const KEPT: usize = 8;
/// How soon to try again.
pub(super) const TRY_AGAIN: Duration = Duration::from_millis(50);

/// The way to the service manager, if there is one.
pub(super) struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    unsent: VecDeque<String>,
}

impl Notifier {
    /// Finds it in `$NOTIFY_SOCKET`; whoever cannot be reached is not told.
    pub(super) fn new() -> Self {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let manager = name.and_then(|name| reach(name.as_bytes()).ok());
        Self { manager, unsent: VecDeque::new() }
    }

    pub(super) fn tell(&mut self, states: &[NotifyState<'_>]) {
        if self.manager.is_none() {
            return;
        }
        if self.unsent.len() >= KEPT {
            self.unsent.pop_front();
        }
        self.unsent.push_back(states.iter().map(|state| format!("{state}\n")).collect());
        self.flush();
    }

    /// Sends what waits, as far as the manager takes it.
    pub(super) fn flush(&mut self) {
        let Some((socket, manager)) = &self.manager else { return };
        while let Some(message) = self.unsent.front() {
            match socket.send_to_addr(message.as_bytes(), manager) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // A manager that went away cannot be told.
                Ok(_) | Err(_) => self.unsent.pop_front(),
            };
        }
    }

    /// Whether something waits to be sent.
    pub(super) fn is_waiting(&self) -> bool {
        !self.unsent.is_empty()
    }
}

fn reach(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_does_not_read_is_told_the_latest_once_it_does() {
        let name = format!("mptcpd-notify-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let way = reach(format!("@{name}").as_bytes()).unwrap();
        let mut notifier = Notifier { manager: Some(way), unsent: VecDeque::new() };
        let mut told = 0;
        while !notifier.is_waiting() {
            notifier.tell(&[NotifyState::Status("busy")]);
            told += 1;
            assert!(told < 100_000, "its queue is full at some time");
        }
        for _ in 0..100 {
            notifier.tell(&[NotifyState::Status("still busy")]);
        }
        notifier.tell(&[NotifyState::Ready]);
        let mut last = String::new();
        manager.set_nonblocking(true).unwrap();
        let mut buffer = [0; 100];
        loop {
            match manager.recv(&mut buffer) {
                Ok(length) => last = String::from_utf8_lossy(&buffer[..length]).into_owned(),
                Err(_) if notifier.is_waiting() => notifier.flush(),
                Err(_) => break,
            }
        }
        assert_eq!(last, "READY=1\n");
    }
}
