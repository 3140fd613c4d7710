//! A socket to the kernel that fails is opened anew, and what it was for is read again; one that keeps
//! failing ends the daemon, which never runs on without.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Token};
use slog::{info, warn};

use super::sockets::Sockets;
use super::{ANSWERS, Daemon, NETWORK};
use crate::engine::Input;
use crate::exit::{Code, Fatal};
use crate::sys::{self, Netlink};
use crate::types::Errno;

/// A socket that fails so often in a row is given up, and the daemon with it.
const MOST: u32 = 5;
/// What failed longer ago was another matter.
const CALM: Duration = Duration::from_secs(60);
/// It is opened anew at once, the next time after this, and then after twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The sockets to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Network,
    Events,
    Answers,
    Questions,
}

impl Which {
    pub(super) const ALL: [Self; 4] = [Self::Network, Self::Events, Self::Answers, Self::Questions];

    /// One of its own in a set of them.
    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }

    fn name(self) -> &'static str {
        match self {
            Self::Network => "route netlink socket",
            Self::Events => "socket of mptcp_pm_events",
            Self::Answers => "generic netlink socket",
            Self::Questions => "sock_diag socket",
        }
    }
}

/// What of each is broken.
#[derive(Debug, Default)]
pub(super) struct Mending {
    network: Failures,
    events: Failures,
    answers: Failures,
    questions: Failures,
}

/// How a socket has failed lately.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    last: Option<Instant>,
    why: String,
    /// When to open it anew, if it is broken.
    due: Option<Instant>,
}

impl Failures {
    fn add(&mut self, why: String, now: Instant) {
        if self.last.is_none_or(|last| last + CALM <= now) {
            self.count = 0;
        }
        let pause = match self.count {
            0 => Duration::ZERO,
            more => FIRST_PAUSE * 2_u32.saturating_pow(more - 1),
        };
        self.count += 1;
        (self.last, self.due, self.why) = (Some(now), Some(now + pause), why);
    }

    /// There is no use in going on.
    fn are_too_many(&self) -> bool {
        self.count >= MOST
    }
}

impl Mending {
    fn of(&self, which: Which) -> &Failures {
        match which {
            Which::Network => &self.network,
            Which::Events => &self.events,
            Which::Answers => &self.answers,
            Which::Questions => &self.questions,
        }
    }

    fn of_mut(&mut self, which: Which) -> &mut Failures {
        match which {
            Which::Network => &mut self.network,
            Which::Events => &mut self.events,
            Which::Answers => &mut self.answers,
            Which::Questions => &mut self.questions,
        }
    }

    pub(super) fn is_broken(&self, which: Which) -> bool {
        self.of(which).due.is_some()
    }

    /// When the next is to be opened anew.
    pub(super) fn due(&self) -> Option<Instant> {
        Which::ALL.into_iter().filter_map(|which| self.of(which).due).min()
    }
}

/// Whether an error of sending says that the socket is of no use any more; else it is about the datagram, or
/// passes.
pub(super) fn is_broken(errno: Errno) -> bool {
    use rustix::io::Errno as E;
    let broken = [E::BADF, E::NOTSOCK, E::PIPE, E::NOTCONN, E::CONNREFUSED, E::SHUTDOWN, E::DESTADDRREQ, E::IO];
    broken.iter().any(|error| error.raw_os_error() == errno.0)
}

impl Daemon {
    /// A socket failed: nothing is read from it or sent until it has been [opened anew](Self::mend).
    pub(super) fn broke(&mut self, which: Which, why: &dyn Display, now: Instant) {
        if self.mending.is_broken(which) {
            return;
        }
        warn!(self.log, "{} failed and is opened anew: {}", which.name(), why);
        self.mending.of_mut(which).add(why.to_string(), now);
        self.stop_watching(which);
    }

    fn stop_watching(&mut self, which: Which) {
        let registry = self.poll.registry();
        let socket = match which {
            Which::Network => {
                self.readable.network = false;
                &self.sockets.network
            }
            Which::Answers => {
                self.readable.answers = false;
                &self.sockets.answers
            }
            Which::Events => {
                self.readable.events = false;
                return self.watch.lose(&self.sockets.events, registry);
            }
            Which::Questions => {
                self.readable.questions = false;
                self.sockets.questions = None;
                return;
            }
        };
        // It is closed soon anyway.
        let _ = registry.deregister(&mut SourceFd(&socket.as_fd().as_raw_fd()));
    }

    /// Opens anew what is due, or says why there is no use in going on.
    pub(super) fn mend(&mut self, now: Instant) -> Result<(), Fatal> {
        if self.mending.due().is_none_or(|due| now < due) {
            return Ok(());
        }
        for which in Which::ALL {
            let failures = self.mending.of_mut(which);
            if failures.are_too_many() && failures.due.is_some() {
                return Err(Fatal::new(Code::Failure, format!("{} keeps failing: {}", which.name(), failures.why)));
            }
            if failures.due.take_if(|due| *due <= now).is_some() {
                self.open_anew(which, now);
            }
        }
        // Nobody knows yet whether it is better now.
        self.health.begin_again(now);
        Ok(())
    }

    fn open_anew(&mut self, which: Which, now: Instant) {
        match self.open_again(which, now) {
            Ok(()) => info!(self.log, "{} is open again", which.name()),
            Err(error) => self.broke(which, &sys::errno(&error), now),
        }
    }

    /// Opens it, and has the engine read again what it was for.
    fn open_again(&mut self, which: Which, now: Instant) -> io::Result<()> {
        let lost = match which {
            Which::Network => {
                self.sockets.network = Sockets::open_network(self.sockets.queue)?;
                // Joined again before anything is asked.
                self.listens_to_routing = false;
                self.register_one(&self.sockets.network, NETWORK)?;
                self.readable.network = true;
                Input::NetworkLost
            }
            Which::Answers => {
                self.sockets.answers = Sockets::open_answers()?;
                self.register_one(&self.sockets.answers, ANSWERS)?;
                self.unanswered = 0;
                Input::AnswersLost
            }
            Which::Events => {
                self.sockets.open_events()?;
                let registry = self.poll.registry();
                self.readable.events = {
                    let queue = self.sockets.queue;
                    self.watch.set(self.needs_events(), queue, &self.sockets.events, registry)?
                };
                self.keep_events_anew();
                Input::EventsLost
            }
            Which::Questions => {
                self.sockets.questions().map_err(|errno| io::Error::from_raw_os_error(errno.0))?;
                self.asked.clear();
                Input::AnswersLost
            }
        };
        self.engine.handle(lost, now);
        Ok(())
    }

    fn register_one(&self, socket: &Netlink, token: Token) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&socket.as_fd().as_raw_fd()), token, Interest::READABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_keeps_failing_is_opened_after_growing_pauses_and_then_given_up() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let mut pauses = Vec::new();
        loop {
            failures.add("it is gone".to_owned(), start);
            if failures.are_too_many() {
                break;
            }
            pauses.push((failures.due.unwrap() - start).as_millis());
        }
        assert_eq!(pauses, [0, 50, 100, 200]);
    }

    #[test]
    fn failures_long_ago_do_not_count() {
        let (mut failures, mut now) = (Failures::default(), Instant::now());
        for _ in 0..100 {
            failures.add("it is gone".to_owned(), now);
            assert!(!failures.are_too_many());
            assert_eq!(failures.due, Some(now));
            now += CALM;
        }
    }

    #[test]
    fn a_refusal_of_the_kernel_or_a_lack_of_memory_is_no_failure_of_the_socket() {
        assert!(is_broken(Errno(111)));
        for errno in [Errno::PERM, Errno::NOBUFS, Errno::INVAL, Errno(11), Errno(12)] {
            assert!(!is_broken(errno), "{errno}");
        }
    }
}
