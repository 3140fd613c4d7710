//! An application at either end of one connection, which checks every byte and notes when it had to wait.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_tcp_congestion;

use crate::common::traffic::{connect, listen};
use crate::content::{Checker, Content, Damage};
use crate::lab::Lab;

/// After which a connection is taken for dead on which nothing moves; longer than any outage and what comes
/// after it.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is written at once, bytes.
const BLOCK: usize = 64 * 1024;
/// A request, and its answer, bytes.
const MESSAGE: usize = 1000;
/// Time from one request to the next.
const INTERVAL: Duration = Duration::from_millis(10);

/// What the applications do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// The client sends requests at regular intervals, whether or not the earlier ones were answered.
    Requests,
    /// It sends as fast as it can.
    Upload,
    /// The server does.
    Download,
}

impl Traffic {
    pub(crate) const ALL: [Self; 3] = [Self::Requests, Self::Upload, Self::Download];

    /// Its name on the command line and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }

    /// Begins, and goes on until that time.
    pub(crate) fn start(self, lab: &Lab, stream: u16, until: Instant) -> io::Result<Session> {
        let (near, far, listener) = connection(lab)?;
        let ends = match self {
            Self::Requests => requests(near, far, stream, until)?,
            Self::Upload => transfer(near, far, stream, until),
            Self::Download => transfer(far, near, stream, until),
        };
        Ok(Session { _listener: listener, ends })
    }
}

/// Both ends of a connection, and the listener, without which no subflow could join.
fn connection(lab: &Lab) -> io::Result<(TcpStream, TcpStream, TcpListener)> {
    let listener = lab.server.enter(|| listen(Lab::service()))?;
    let near = lab.client.enter(|| connect(Lab::service()))?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        // That of the host may be anything.
        set_tcp_congestion(end, "cubic")?;
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((near, far, listener))
}

/// A connection in use.
pub(crate) struct Session {
    _listener: TcpListener,
    ends: Vec<JoinHandle<Report>>,
}

impl Session {
    /// Waits until it is over.
    pub(crate) fn finish(self) -> Outcome {
        let reports = self.ends.into_iter().map(|end| end.join().expect("no panic at an end"));
        reports.fold(Outcome::default(), Outcome::with)
    }
}

/// What one end knows when it is through.
#[derive(Default)]
struct Report {
    waits: Vec<Wait>,
    /// `None` at one that does not receive.
    arrived: Option<Checker>,
    sent: Option<u64>,
    error: Option<io::Error>,
}

/// A time without what the application waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

impl Wait {
    pub(crate) fn duration(self) -> Duration {
        self.until - self.from
    }
}

/// What became of a connection.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) waits: Vec<Wait>,
    sent: u64,
    /// The least that any end that receives has got.
    received: Option<u64>,
    pub(crate) wrong: u64,
    pub(crate) damage: Vec<Damage>,
    pub(crate) errors: Vec<String>,
}

impl Outcome {
    fn with(mut self, report: Report) -> Self {
        self.waits.extend(report.waits);
        self.sent = self.sent.max(report.sent.unwrap_or(0));
        if let Some(arrived) = report.arrived {
            self.received = Some(self.received.map_or(arrived.received(), |least| least.min(arrived.received())));
            self.wrong += arrived.wrong();
            self.damage.extend(arrived.damage());
        }
        self.errors.extend(report.error.map(|error| match error.kind() {
            io::ErrorKind::WouldBlock => format!("nothing moved for {PATIENCE:?}"),
            _ => error.to_string(),
        }));
        self
    }

    /// Whether all that was sent arrived, right or wrong.
    pub(crate) fn is_complete(&self) -> bool {
        self.errors.is_empty() && self.received == Some(self.sent)
    }

    /// Whether it is all as it was sent.
    pub(crate) fn is_right(&self) -> bool {
        self.is_complete() && self.wrong == 0
    }

    /// What is wrong, in a few words.
    pub(crate) fn complaint(&self) -> String {
        let amount = format!("{} bytes sent, {} received, {} wrong", self.sent, self.received.unwrap_or(0), self.wrong);
        let places = self.damage.iter().map(|damage| format!("; {damage}"));
        let errors = self.errors.iter().map(|error| format!("; {error}"));
        [amount].into_iter().chain(places).chain(errors).collect()
    }
}

fn transfer(from: TcpStream, to: TcpStream, stream: u16, until: Instant) -> Vec<JoinHandle<Report>> {
    vec![thread::spawn(move || send(from, stream, until)), thread::spawn(move || receive(to, stream))]
}

fn send(mut to: TcpStream, stream: u16, until: Instant) -> Report {
    let (mut content, mut block, mut sent) = (Content::new(stream), vec![0; BLOCK], 0);
    let outcome = (|| {
        while Instant::now() < until {
            content.fill(&mut block);
            to.write_all(&block)?;
            sent += BLOCK as u64;
        }
        to.shutdown(Shutdown::Write)?;
        // Until the other end has read all and closed.
        to.read_exact(&mut [0])
    })();
    let error = outcome.err().filter(|error| error.kind() != io::ErrorKind::UnexpectedEof);
    Report { sent: Some(sent), error, ..Report::default() }
}

fn receive(mut from: TcpStream, stream: u16) -> Report {
    let (mut checker, mut buffer) = (Checker::new(stream), vec![0; 256 * 1024]);
    let (mut waits, mut last) = (Vec::new(), Instant::now());
    let error = loop {
        let outcome = from.read(&mut buffer);
        let now = Instant::now();
        if !matches!(outcome, Ok(0)) {
            waits.push(Wait { from: last, until: now });
        }
        last = now;
        match outcome {
            Ok(0) => break None,
            Ok(length) => checker.take(&buffer[..length]),
            Err(error) => break Some(error),
        }
    };
    Report { waits, arrived: Some(checker), error, ..Report::default() }
}

fn requests(near: TcpStream, far: TcpStream, stream: u16, until: Instant) -> io::Result<Vec<JoinHandle<Report>>> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (answered, (asked, questions)) = (near.try_clone()?, channel());
    Ok(vec![
        thread::spawn(move || ask(near, stream, until, &asked)),
        thread::spawn(move || hear(answered, stream, &questions)),
        thread::spawn(move || answer(far, stream)),
    ])
}

fn ask(mut to: TcpStream, stream: u16, until: Instant, asked: &Sender<Instant>) -> Report {
    let (mut content, mut message, mut sent) = (Content::new(stream), [0; MESSAGE], 0);
    let mut due = Instant::now();
    let outcome = (|| {
        while due < until {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            content.fill(&mut message);
            // Nobody listens any more once the other half has given up.
            let _ = asked.send(Instant::now());
            to.write_all(&message)?;
            sent += MESSAGE as u64;
            due += INTERVAL;
        }
        to.shutdown(Shutdown::Write)
    })();
    Report { sent: Some(sent), error: outcome.err(), ..Report::default() }
}

fn hear(mut from: TcpStream, stream: u16, asked: &Receiver<Instant>) -> Report {
    let (mut checker, mut buffer, mut waits) = (Checker::new(stream), vec![0; BLOCK], Vec::new());
    let error = loop {
        let outcome = from.read(&mut buffer);
        let until = Instant::now();
        match outcome {
            Ok(0) => break None,
            Ok(length) => checker.take(&buffer[..length]),
            Err(error) => break Some(error),
        }
        let answered = usize::try_from(checker.received()).expect("a short stream") / MESSAGE;
        waits.extend(asked.try_iter().take(answered - waits.len()).map(|from| Wait { from, until }));
    };
    let until = Instant::now();
    waits.extend(asked.try_iter().map(|from| Wait { from, until }));
    Report { waits, arrived: Some(checker), error, ..Report::default() }
}

fn answer(mut end: TcpStream, stream: u16) -> Report {
    let (mut checker, mut buffer) = (Checker::new(stream), vec![0; BLOCK]);
    let outcome = (|| loop {
        let length = end.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        checker.take(&buffer[..length]);
        end.write_all(&buffer[..length])?;
    })();
    Report { arrived: Some(checker), error: outcome.err(), ..Report::default() }
}
