//! Records to the local syslog daemon by its datagram socket, RFC 3164 without the time, which the
//! receiver adds. The socket never blocks and finds a syslog daemon that was restarted.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process;

use slog::{Level, OwnedKVList, Record};

use super::gate::Outlet;
use super::line;

/// Where syslog daemons listen.
pub(super) const PATH: &str = "/dev/log";

/// Facility `daemon` (RFC 3164, section 4.1.1), in place.
const FACILITY: u8 = 3 << 3;

/// A connected socket to the syslog daemon.
pub(super) struct Syslog {
    path: PathBuf,
    socket: UnixDatagram,
    process: u32,
}

impl Syslog {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        Ok(Self { path: path.to_owned(), socket, process: process::id() })
    }

    fn send_once_more(&self, message: &[u8]) -> io::Result<usize> {
        self.socket.connect(&self.path)?;
        self.socket.send(message)
    }
}

impl Outlet for Syslog {
    fn send(&mut self, record: &Record<'_>, values: &OwnedKVList) -> bool {
        let mut message = format!("<{}>mptcpd[{}]: ", FACILITY | severity(record.level()), self.process);
        line::append(&mut message, record, values);
        let message = message.as_bytes();
        match self.socket.send(message) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // A daemon that ended leaves ECONNREFUSED, or ENOTCONN after the first of those.
            Err(_) => self.send_once_more(message).is_ok(),
        }
    }
}

/// RFC 3164, section 4.1.1.
const fn severity(level: Level) -> u8 {
    match level {
        Level::Critical => 2,
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    use slog::{Logger, info, o, warn};

    use super::super::gate::Gate;
    use super::*;

    /// A directory of its own that goes with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("mptcpd-syslog-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("log")
        }

        fn serve(&self) -> UnixDatagram {
            let _ = fs::remove_file(self.socket());
            let server = UnixDatagram::bind(self.socket()).unwrap();
            server.set_nonblocking(true).unwrap();
            server
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn received(server: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| {
            server.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into())
        })
        .collect()
    }

    fn log_to(directory: &Directory) -> Logger {
        Logger::root(Gate::new(Syslog::open(&directory.socket()).unwrap()), o!())
    }

    #[test]
    fn a_record_is_one_datagram_with_priority_name_and_process() {
        let directory = Directory::new();
        let server = directory.serve();
        let log = log_to(&directory);
        info!(log, "endpoint added"; "id" => 7);
        warn!(log, "two\nlines");
        let process = process::id();
        assert_eq!(
            received(&server),
            [format!("<30>mptcpd[{process}]: endpoint added id=7"), format!("<28>mptcpd[{process}]: two\\nlines")]
        );
    }

    #[test]
    fn a_restarted_daemon_gets_the_next_record_and_the_number_of_those_lost() {
        let directory = Directory::new();
        let server = directory.serve();
        let log = log_to(&directory);
        info!(log, "before");
        assert_eq!(received(&server).len(), 1);
        drop(server);
        info!(log, "refused");
        fs::remove_file(directory.socket()).unwrap();
        info!(log, "nobody there");
        let server = directory.serve();
        info!(log, "after");
        let lines = received(&server);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.first().unwrap().ends_with("count=2"), "{lines:?}");
        assert!(lines.last().unwrap().ends_with("after"), "{lines:?}");
    }

    #[test]
    fn a_daemon_that_does_not_read_costs_records_and_never_time() {
        let directory = Directory::new();
        let server = directory.serve();
        let log = log_to(&directory);
        let started = Instant::now();
        for number in 0..1000 {
            info!(log, "record {number}");
        }
        assert!(started.elapsed() < Duration::from_secs(5), "waited for the syslog daemon");
        let taken = received(&server).len();
        info!(log, "after");
        let lines = received(&server);
        assert!(lines.first().unwrap().ends_with(&format!("count={}", 1000 - taken)), "{lines:?}");
    }

    #[test]
    fn no_daemon_at_start_is_an_error() {
        let directory = Directory::new();
        assert_eq!(Syslog::open(&directory.socket()).err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
