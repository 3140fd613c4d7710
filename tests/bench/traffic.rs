//! Connections between applications that check every byte and note when they had to wait.

use std::io;
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_tcp_congestion;

use crate::common::traffic::connect;
use crate::content::Damage;
use crate::ends::{Reading, Report, Sending, Wait, ask_and_answer, receive, send};
use crate::lab::Lab;

/// After which a connection is taken for dead on which nothing moves; longer than any outage and what comes
/// after it.
const PATIENCE: Duration = Duration::from_secs(20);

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
    pub(crate) fn start(self, lab: &Lab, until: Instant) -> io::Result<Session> {
        let plan = match self {
            Self::Requests => return Session::of_requests(lab, until),
            Self::Upload => Plan { up: Some(Sending::Steadily), ..Plan::default() },
            Self::Download => Plan { down: Some(Sending::Steadily), ..Plan::default() },
        };
        Session::start(lab, until, plan)
    }
}

/// What is sent on a connection in either direction, and how it is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) up: Option<Sending>,
    pub(crate) down: Option<Sending>,
    pub(crate) reading: Reading,
}

/// A connection in use.
pub(crate) struct Session {
    /// Neither closes before both are through.
    _ends: [TcpStream; 2],
    parts: Vec<JoinHandle<Report>>,
}

impl Session {
    /// Sends as planned until that time.
    pub(crate) fn start(lab: &Lab, until: Instant, plan: Plan) -> io::Result<Self> {
        let (near, far) = connection(lab)?;
        let mut parts = Vec::new();
        let ways = [(plan.up, &near, &far), (plan.down, &far, &near)];
        for (stream, (sending, from, to)) in (0..).zip(ways) {
            if let Some(sending) = sending {
                parts.push(receive(to.try_clone()?, stream, plan.reading.clone()));
                parts.push(send(from.try_clone()?, stream, until, sending));
            }
        }
        Ok(Self { _ends: [near, far], parts })
    }

    fn of_requests(lab: &Lab, until: Instant) -> io::Result<Self> {
        let (near, far) = connection(lab)?;
        let parts = ask_and_answer(near.try_clone()?, far.try_clone()?, 0, until)?;
        Ok(Self { _ends: [near, far], parts })
    }

    /// Waits until it is over.
    pub(crate) fn finish(self) -> Outcome {
        let reports = self.parts.into_iter().map(|part| part.join().expect("no panic at an end"));
        reports.fold(Outcome::default(), Outcome::with)
    }
}

fn connection(lab: &Lab) -> io::Result<(TcpStream, TcpStream)> {
    let near = lab.client.enter(|| connect(Lab::service()))?;
    let (far, _) = lab.listener.accept()?;
    for end in [&near, &far] {
        // That of the host may be anything.
        set_tcp_congestion(end, "cubic")?;
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((near, far))
}

/// What became of a connection.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) waits: Vec<Wait>,
    sent: u64,
    received: u64,
    pub(crate) wrong: u64,
    pub(crate) damage: Vec<Damage>,
    errors: Vec<String>,
}

impl Outcome {
    fn with(mut self, report: Report) -> Self {
        self.waits.extend(report.waits);
        self.sent += report.sent.unwrap_or(0);
        if let Some(arrived) = report.arrived {
            self.received += arrived.received();
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
        self.errors.is_empty() && self.received == self.sent
    }

    /// Whether it is all as it was sent.
    pub(crate) fn is_right(&self) -> bool {
        self.is_complete() && self.wrong == 0
    }

    /// Whether bytes are wrong in a way that is not the kernel's, or missing though the stream has ended.
    pub(crate) fn is_strange(&self) -> bool {
        let is_short = self.errors.is_empty() && self.received != self.sent;
        is_short || self.damage.iter().any(|damage| !damage.is_known_of_the_kernel())
    }

    /// The longest time without an answer or data.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.waits.iter().map(|wait| wait.duration()).max().unwrap_or_default()
    }

    /// What is wrong, in a few words.
    pub(crate) fn complaint(&self) -> String {
        let amount = format!("{} bytes sent, {} received, {} wrong", self.sent, self.received, self.wrong);
        let places = self.damage.iter().map(|damage| format!("; {damage}"));
        let errors = self.errors.iter().map(|error| format!("; {error}"));
        [amount].into_iter().chain(places).chain(errors).collect()
    }
}
