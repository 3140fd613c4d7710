//! Records as lines on stderr: through slog-term with the feature `term`, plain lines without it.

use std::os::fd::AsFd;

use super::gate::Outlet;

/// The outlet of this build to that descriptor.
#[cfg(feature = "term")]
pub(super) fn outlet<W: AsFd + Send>(stderr: W) -> impl Outlet {
    let colour = term::wants_colour(&stderr);
    term::Term::new(stderr, colour)
}

/// The outlet of this build to that descriptor.
#[cfg(not(feature = "term"))]
pub(super) fn outlet<W: AsFd + Send>(stderr: W) -> impl Outlet {
    plain::Plain::new(stderr)
}

/// `LEVEL message key=value ...`
#[cfg(any(test, not(feature = "term")))]
mod plain {
    use std::os::fd::AsFd;

    use slog::{OwnedKVList, Record};

    use super::super::line;
    use super::super::writer::Writer;
    use super::Outlet;

    pub(super) struct Plain<W>(Writer<W>);

    impl<W: AsFd> Plain<W> {
        pub(super) fn new(stderr: W) -> Self {
            Self(Writer::new(stderr))
        }
    }

    impl<W: AsFd + Send> Outlet for Plain<W> {
        fn send(&mut self, record: &Record<'_>, values: &OwnedKVList) -> bool {
            if !self.0.ready() {
                return false;
            }
            let mut text = record.level().as_str().to_owned();
            text.push(' ');
            line::append(&mut text, record, values);
            text.push('\n');
            self.0.write_line(text.as_bytes()).is_ok()
        }
    }
}

#[cfg(feature = "term")]
mod term {
    use std::cell::RefCell;
    use std::env;
    use std::io::{self, IsTerminal, Write};
    use std::os::fd::AsFd;

    use slog::{Drain, Level, OwnedKVList, Record};
    use slog_term::{Decorator, FullFormat, RecordDecorator};

    use super::super::line;
    use super::super::writer::Writer;
    use super::Outlet;

    /// A terminal that knows colours, of a user who does not mind them.
    pub(super) fn wants_colour(stderr: &impl AsFd) -> bool {
        stderr.as_fd().is_terminal()
            && env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
            && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// slog-term's one-line format. Its own decorators write a record in many pieces, as they are,
    /// and wait for each; this one collects the line, escapes it and hands it to a [`Writer`].
    pub(super) struct Term<W: AsFd>(FullFormat<Lines<W>>);

    impl<W: AsFd> Term<W> {
        pub(super) fn new(stderr: W, colour: bool) -> Self {
            let lines = Lines { writer: RefCell::new(Writer::new(stderr)), colour };
            Self(FullFormat::new(lines).use_original_order().build())
        }
    }

    impl<W: AsFd + Send> Outlet for Term<W> {
        fn send(&mut self, record: &Record<'_>, values: &OwnedKVList) -> bool {
            self.0.log(record, values).is_ok()
        }
    }

    struct Lines<W> {
        writer: RefCell<Writer<W>>,
        colour: bool,
    }

    impl<W: AsFd> Decorator for Lines<W> {
        fn with_record<F>(&self, record: &Record<'_>, _: &OwnedKVList, format: F) -> io::Result<()>
        where
            F: FnOnce(&mut dyn RecordDecorator) -> io::Result<()>,
        {
            let mut writer = self.writer.borrow_mut();
            if !writer.ready() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let colour = self.colour.then(|| colour(record.level()));
            let mut line = Line { text: String::new(), foreign: false, colour, styled: false };
            format(&mut line)?;
            writer.write_line(line.text.as_bytes())
        }
    }

    /// The escape sequence of a level.
    const fn colour(level: Level) -> &'static str {
        match level {
            Level::Critical => "\u{1b}[35m",
            Level::Error => "\u{1b}[31m",
            Level::Warning => "\u{1b}[33m",
            Level::Info => "\u{1b}[32m",
            Level::Debug => "\u{1b}[36m",
            Level::Trace => "\u{1b}[34m",
        }
    }

    const BOLD: &str = "\u{1b}[1m";
    const RESET: &str = "\u{1b}[0m";

    /// One record while it is formatted.
    struct Line {
        text: String,
        /// What comes now is from outside of slog-term: a message, a key or a value.
        foreign: bool,
        /// The level's escape sequence, if there are to be any.
        colour: Option<&'static str>,
        /// An escape sequence is in force.
        styled: bool,
    }

    impl Line {
        fn start(&mut self, foreign: bool, sequence: &str) {
            self.foreign = foreign;
            if self.colour.is_none() {
                return;
            }
            if self.styled {
                self.text.push_str(RESET);
            }
            self.text.push_str(sequence);
            self.styled = !sequence.is_empty();
        }
    }

    impl Write for Line {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes);
            if self.foreign {
                line::append_escaped(&mut self.text, &text)
            } else {
                self.text.push_str(&text)
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl RecordDecorator for Line {
        fn reset(&mut self) -> io::Result<()> {
            self.start(false, "");
            Ok(())
        }

        fn start_level(&mut self) -> io::Result<()> {
            self.start(false, self.colour.unwrap_or_default());
            Ok(())
        }

        fn start_msg(&mut self) -> io::Result<()> {
            self.start(true, BOLD);
            Ok(())
        }

        fn start_key(&mut self) -> io::Result<()> {
            self.start(true, BOLD);
            Ok(())
        }

        fn start_value(&mut self) -> io::Result<()> {
            self.start(true, "");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::time::{Duration, Instant};

    use slog::{Logger, debug, info, o, warn};

    use super::super::gate::Gate;
    use super::*;

    fn log_of(outlet: impl Outlet + 'static) -> Logger {
        Logger::root(Gate::new(outlet), o!())
    }

    /// What a logger to a pipe, made by `make`, leaves there.
    fn written<O: Outlet + 'static>(make: impl FnOnce(OwnedFd) -> O, use_log: impl FnOnce(&Logger)) -> String {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let log = log_of(make(writer));
        use_log(&log);
        drop(log);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_plain_line_has_level_message_and_values() {
        let text = written(plain::Plain::new, |log| {
            debug!(log, "endpoint added"; "address" => "10.0.0.1", "interface" => "a\nb");
            warn!(log, "odd");
        });
        assert_eq!(text, "DEBUG endpoint added address=10.0.0.1 interface=a\\nb\nWARNING odd\n");
    }

    #[cfg(feature = "term")]
    #[test]
    fn a_terminal_line_has_time_level_message_and_values_and_no_colour_when_not_wanted() {
        let text = written(
            |pipe| term::Term::new(pipe, false),
            |log| info!(log, "a\u{1b}[2J\nb"; "address" => "10.0.0.1", "interface" => "e\nth"),
        );
        assert!(text.ends_with(" INFO a\\u{1b}[2J\\nb, address: 10.0.0.1, interface: e\\nth\n"), "{text:?}");
        assert_eq!(text.lines().count(), 1);
    }

    #[cfg(feature = "term")]
    #[test]
    fn colours_are_ended_where_they_were_begun() {
        let text = written(|pipe| term::Term::new(pipe, true), |log| warn!(log, "m"; "key" => "v"));
        let shown = " \u{1b}[33mWARN\u{1b}[0m \u{1b}[1mm\u{1b}[0m, \u{1b}[1mkey:\u{1b}[0m v\n";
        assert!(text.ends_with(shown), "{text:?}");
    }

    #[test]
    fn a_full_pipe_costs_records_and_never_time() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let log = log_of(outlet(writer));
        let started = Instant::now();
        for number in 0..5000 {
            info!(log, "a record of some length that fills the pipe in the end"; "number" => number);
        }
        assert!(started.elapsed() < Duration::from_secs(5), "waited for a full pipe");
        let mut reader = File::from(reader);
        let mut text = vec![0; 4096];
        reader.read_exact(&mut text).unwrap();
        info!(log, "after");
        drop(log);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let all = format!("{}{rest}", String::from_utf8_lossy(&text));
        let mut last = all.lines().rev();
        assert!(last.next().is_some_and(|line| line.ends_with("after")));
        let report = last.next().unwrap();
        let lost: usize = report.rsplit([' ', '=']).next().unwrap().parse().unwrap();
        assert!(report.contains("log records were lost"), "{report}");
        assert_eq!(lost + all.lines().count() - 2, 5000);
    }
}
