//! The ends of a connection: what sends, what reads, and what they note.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::content::{Checker, Content};
use crate::random::Random;

/// What is written and read at once, bytes.
const BLOCK: usize = 64 * 1024;
/// A request, and its answer, bytes.
const MESSAGE: usize = 1000;
/// Time from one request to the next.
const INTERVAL: Duration = Duration::from_millis(10);

/// What one end knows when it is through.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) waits: Vec<Wait>,
    /// `None` at one that does not receive.
    pub(crate) arrived: Option<Checker>,
    /// `None` at one that does not send.
    pub(crate) sent: Option<u64>,
    pub(crate) error: Option<io::Error>,
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

/// How an end sends.
#[derive(Clone, Debug)]
pub(crate) enum Sending {
    /// As fast as it can.
    Steadily,
    /// 10 to 300 kB, and a pause of up to 3 s.
    InBursts(Random),
    /// Next to nothing.
    Hardly(Random),
}

impl Sending {
    /// How many bytes are next, a multiple of eight, and how long the pause after them is.
    fn next(&mut self) -> (usize, Duration) {
        let (words, pause) = match self {
            Self::Steadily => return (BLOCK, Duration::ZERO),
            Self::InBursts(random) => (random.number(1_250..37_500), random.time(50..3_000)),
            Self::Hardly(random) => (1, random.time(5_000..15_000)),
        };
        (usize::try_from(8 * words).expect("a few bytes"), pause)
    }
}

/// How an end reads.
#[derive(Clone, Debug, Default)]
pub(crate) enum Reading {
    /// As soon as there is something.
    #[default]
    Eagerly,
    /// But now and then not at all for 5 s.
    WithNaps(Random),
}

impl Reading {
    /// How long it naps, if it does now, and when it may do so again.
    fn nap(&mut self, due: &mut Instant) -> Duration {
        const NAP: Duration = Duration::from_secs(5);
        match self {
            Self::WithNaps(random) if *due <= Instant::now() => {
                *due = Instant::now() + NAP + random.time(3_000..12_000);
                NAP
            }
            Self::WithNaps(_) | Self::Eagerly => Duration::ZERO,
        }
    }
}

/// Sends until that time.
pub(crate) fn send(to: TcpStream, stream: u16, until: Instant, sending: Sending) -> JoinHandle<Report> {
    thread::spawn(move || {
        let mut sent = 0;
        let outcome = send_all(&to, stream, until, sending, &mut sent);
        Report { sent: Some(sent), error: outcome.err(), ..Report::default() }
    })
}

fn send_all(mut to: &TcpStream, stream: u16, until: Instant, mut sending: Sending, sent: &mut u64) -> io::Result<()> {
    let (mut content, mut block) = (Content::new(stream), Vec::new());
    while Instant::now() < until {
        let (size, pause) = sending.next();
        block.resize(size, 0);
        content.fill(&mut block);
        to.write_all(&block)?;
        *sent += size as u64;
        thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
    }
    to.shutdown(Shutdown::Write)
}

/// Reads and checks to the end.
pub(crate) fn receive(mut from: TcpStream, stream: u16, mut reading: Reading) -> JoinHandle<Report> {
    thread::spawn(move || {
        let (mut checker, mut buffer, mut waits) = (Checker::new(stream), vec![0; 4 * BLOCK], Vec::new());
        let (mut last, mut nap) = (Instant::now(), Instant::now());
        let outcome = (|| loop {
            thread::sleep(reading.nap(&mut nap));
            let outcome = from.read(&mut buffer);
            let now = Instant::now();
            if !matches!(outcome, Ok(0)) {
                waits.push(Wait { from: last, until: now });
            }
            last = now;
            match outcome? {
                0 => return Ok(()),
                length => checker.take(&buffer[..length]),
            }
        })();
        Report { waits, arrived: Some(checker), error: outcome.err(), ..Report::default() }
    })
}

/// Has one end send requests until that time, and the other answer each with the same bytes.
pub(crate) fn ask_and_answer(
    near: TcpStream,
    far: TcpStream,
    stream: u16,
    until: Instant,
) -> io::Result<Vec<JoinHandle<Report>>> {
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
    let outcome = (|| loop {
        let length = from.read(&mut buffer)?;
        let until = Instant::now();
        if length == 0 {
            return Ok(());
        }
        checker.take(&buffer[..length]);
        let answered = usize::try_from(checker.received()).expect("a short stream") / MESSAGE;
        waits.extend(asked.try_iter().take(answered - waits.len()).map(|from| Wait { from, until }));
    })();
    let until = Instant::now();
    waits.extend(asked.try_iter().map(|from| Wait { from, until }));
    Report { waits, arrived: Some(checker), error: outcome.err(), ..Report::default() }
}

fn answer(mut end: TcpStream, stream: u16) -> Report {
    let (mut checker, mut buffer, mut sent) = (Checker::new(stream), vec![0; BLOCK], 0);
    let outcome = (|| loop {
        let length = end.read(&mut buffer)?;
        if length == 0 {
            return end.shutdown(Shutdown::Write);
        }
        checker.take(&buffer[..length]);
        end.write_all(&buffer[..length])?;
        sent += length as u64;
    })();
    Report { arrived: Some(checker), sent: Some(sent), error: outcome.err(), ..Report::default() }
}
