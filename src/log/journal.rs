//! Records to the systemd journal through slog-journald, whose socket blocks: before every record a
//! connected socket of our own is asked whether the journal takes one.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use slog::{BorrowedKV, Drain, Level, OwnedKVList, Record, RecordStatic, SingleKV};
use slog_journald::JournaldDrain;

use super::gate::Outlet;
use super::line;
use super::writer::writable;

/// Where the journal listens (systemd's `JOURNAL_NATIVE_PROTOCOL`); slog-journald knows no other place.
pub(super) const PATH: &str = "/run/systemd/journal/socket";

/// The real drain. The place in our source is of no use to whoever reads the journal.
pub(super) fn drain() -> JournaldDrain {
    JournaldDrain::default().emit_code_fields(false)
}

/// The journal at a path and the drain that writes to it.
pub(super) struct Journal<D> {
    path: PathBuf,
    probe: UnixDatagram,
    drain: D,
}

impl<D> Journal<D> {
    pub(super) fn open(path: &Path, drain: D) -> io::Result<Self> {
        let probe = UnixDatagram::unbound()?;
        probe.set_nonblocking(true)?;
        probe.connect(path)?;
        Ok(Self { path: path.to_owned(), probe, drain })
    }

    /// A restarted journal has another socket, and the end of the old one shows only to who sends:
    /// connecting anew costs less than a record. Another program may still take the last place
    /// between this and the record: then the daemon waits until the journal reads once.
    fn takes_one(&self) -> bool {
        self.probe.connect(&self.path).is_ok() && writable(&self.probe)
    }
}

impl<D: Drain + Send> Outlet for Journal<D> {
    /// The message gets the values as text too, since `journalctl` shows no other field by itself.
    fn send(&mut self, record: &Record<'_>, values: &OwnedKVList) -> bool {
        if !self.takes_one() {
            return false;
        }
        let mut message = String::new();
        line::append(&mut message, record, values);
        let fixed = RecordStatic { location: record.location(), tag: record.tag(), level: level(record.level()) };
        let fields = (SingleKV("SYSLOG_IDENTIFIER", "mptcpd"), record.kv());
        self.drain.log(&Record::new(&fixed, &format_args!("{message}"), BorrowedKV(&fields)), values).is_ok()
    }
}

/// slog-journald makes info a notice and debug info: one step down makes them what they are called.
const fn level(level: Level) -> Level {
    match level {
        Level::Critical | Level::Error | Level::Warning => level,
        Level::Info => Level::Debug,
        Level::Debug | Level::Trace => Level::Trace,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process;
    use std::time::{Duration, Instant};

    use slog::{Logger, debug, info, o};

    use super::super::gate::Gate;
    use super::*;

    /// Stands in for slog-journald: the same blocking, unconnected socket to another path.
    struct Blocking(UnixDatagram, PathBuf);

    impl Drain for Blocking {
        type Ok = ();
        type Err = io::Error;

        fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
            let mut text = format!("{} ", record.level());
            line::append(&mut text, record, values);
            self.0.send_to(text.as_bytes(), &self.1).map(drop)
        }
    }

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("mptcpd-journal-{}-{name}", process::id())))
        }

        fn serve(&self) -> UnixDatagram {
            let _ = fs::remove_file(&self.0);
            let server = UnixDatagram::bind(&self.0).unwrap();
            server.set_nonblocking(true).unwrap();
            server
        }

        fn log(&self) -> Logger {
            let drain = Blocking(UnixDatagram::unbound().unwrap(), self.0.clone());
            Logger::root(Gate::new(Journal::open(&self.0, drain).unwrap()), o!())
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn received(server: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| {
            server.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into())
        })
        .collect()
    }

    #[test]
    fn a_record_has_its_values_in_the_message_and_as_fields() {
        let place = Place::new("fields");
        let server = place.serve();
        let log = place.log();
        info!(log, "endpoint added"; "id" => 7, "interface" => "a\nb");
        debug!(log, "event");
        assert_eq!(
            received(&server),
            [
                "DEBG endpoint added id=7 interface=a\\nb id=7 interface=a\\nb SYSLOG_IDENTIFIER=mptcpd",
                "TRCE event SYSLOG_IDENTIFIER=mptcpd"
            ]
        );
    }

    #[test]
    fn a_journal_that_does_not_read_costs_records_and_never_time() {
        let place = Place::new("stalled");
        let server = place.serve();
        let log = place.log();
        let started = Instant::now();
        for number in 0..1000 {
            info!(log, "record {number}");
        }
        assert!(started.elapsed() < Duration::from_secs(5), "waited for the journal");
        let taken = received(&server).len();
        assert!((1..1000).contains(&taken), "{taken}");
        info!(log, "after");
        let lines = received(&server);
        assert!(lines.first().unwrap().contains(&format!("count={}", 1000 - taken)), "{lines:?}");
    }

    #[test]
    fn a_restarted_journal_is_found_and_may_stall_as_well() {
        let place = Place::new("restarted");
        let server = place.serve();
        let log = place.log();
        drop(server);
        info!(log, "lost");
        let server = place.serve();
        info!(log, "after");
        assert_eq!(received(&server).len(), 2);
        let started = Instant::now();
        for number in 0..1000 {
            info!(log, "record {number}");
        }
        assert!(started.elapsed() < Duration::from_secs(5), "waited for the journal");
        assert!(received(&server).len() < 1000);
    }

    #[test]
    fn no_journal_at_start_is_an_error() {
        let place = Place::new("absent");
        assert_eq!(Journal::open(&place.0, drain()).err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
