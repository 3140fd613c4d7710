//! The loop: sockets that became readable are drained and decoded into inputs of the engine, and what
//! the engine puts out is encoded and sent. The only module that sees both bytes and the engine.

mod advice;
mod ask;
mod dump;
mod handed;
mod health;
mod keep;
mod kernel;
mod listeners;
mod mend;
mod notify;
mod receive;
mod replace;
mod select;
mod send;
mod sockets;
mod status;
mod store;
mod survey;
mod take;
mod watch;

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_mio::v1_0::Signals;
use slog::{Drain, Logger, debug, error, info, warn};

use self::advice::Advice;
use self::ask::Asked;
use self::dump::Dump;
use self::health::Health;
use self::keep::Keeper;
use self::listeners::Listeners;
use self::mend::{Mending, Which};
use self::notify::Notifier;
use self::receive::Backlog;
use self::send::Batch;
pub(crate) use self::sockets::Sockets;
use self::sockets::failed;
use self::status::Status;
use self::store::Store;
pub(crate) use self::survey::survey;
use self::watch::Watch;
use crate::engine::{Engine, Input, Note, Policy, Severity, Ticket};
use crate::exit::Fatal;
use crate::selection::Selection;
use crate::state_file::SavedState;
use crate::sys;
use crate::types::Sysctl;
use crate::wire::{Encoder, route};

/// Datagrams of one socket handled before the others get their turn.
const BUDGET: u32 = 256;
/// Answers are taken and requests sent so many times before the sockets are looked at again.
const ROUNDS: u32 = 16;
/// And no longer than this, as a thousand commands keep the kernel busy for some 20 ms.
const LONGEST_TURN: Duration = Duration::from_millis(5);
/// While events keep coming, the state is saved every so many turns.
const TURNS_UNSAVED: u32 = 32;
/// A difference of the clocks that only a suspended machine explains.
const SUSPENDED: Duration = Duration::from_millis(500);

const NETWORK: Token = Token(0);
const EVENTS: Token = Token(1);
const ANSWERS: Token = Token(2);
const SIGNALS: Token = Token(3);
const INSTANCE: Token = Token(4);
const CLOCK: Token = Token(5);

/// What the configuration comes down to for the daemon.
pub(crate) struct Setup {
    pub(crate) policy: Policy,
    /// `on-stop = "remove"`.
    pub(crate) remove_on_stop: bool,
    pub(crate) sysctl: Sysctl,
    /// How many messages of the kernel may wait.
    pub(crate) queue: u32,
    /// The name of the path manager that was chosen.
    pub(crate) path_manager: &'static str,
    pub(crate) log: Logger,
}

/// Reads the configuration again; its error is one line.
pub(crate) type Reload = Box<dyn FnMut() -> Result<Setup, String>>;

/// Runs until a signal ends it.
pub(crate) fn run(sockets: Sockets, setup: Setup, reload: Reload) -> Result<(), Fatal> {
    let mut daemon = Daemon::new(sockets, setup, reload)?;
    daemon.run()
}

struct Daemon {
    poll: Poll,
    sockets: Sockets,
    signals: Signals,
    clock: sys::ClockChange,
    engine: Engine,
    store: Store,
    notifier: Notifier,
    keeper: Keeper,
    mending: Mending,
    health: Health,
    status: Status,
    advice: Advice,
    log: Logger,
    remove_on_stop: bool,
    sysctl: Sysctl,
    path_manager: &'static str,
    dump: Dump,
    selection: Selection,
    reload: Reload,
    /// Sockets that may have more to read.
    readable: Readable,
    backlog: Backlog,
    watch: Watch,
    listeners: Listeners,
    /// Requests whose answer comes on that socket and has not ended yet.
    unanswered: u32,
    asked: Asked,
    /// See [`Taker`].
    interrupted: Option<Ticket>,
    listens_to_routing: bool,
    suspended: Duration,
    buffer: Vec<u8>,
    encoder: Encoder,
    batch: Batch,
    turns_unsaved: u32,
    stopping: bool,
    done: bool,
}

#[derive(Clone, Copy, Default)]
struct Readable {
    network: bool,
    events: bool,
    answers: bool,
    questions: bool,
    signals: bool,
    instance: bool,
}

/// What was sent to the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    /// Requests whose answers may have come already.
    Requests,
    /// The same, one of them taking away an endpoint.
    Removal,
}

impl Readable {
    fn any(self, holds_events: bool) -> bool {
        let events = self.events && !holds_events;
        self.network || events || self.answers || self.questions || self.signals || self.instance
    }
}

impl Daemon {
    fn new(sockets: Sockets, setup: Setup, reload: Reload) -> Result<Self, Fatal> {
        let mut store = Store::find(&setup.log);
        let saved = store.load();
        let now = Instant::now();
        let sockets = Sockets { queue: setup.queue, ..sockets };
        let mut daemon = Self {
            poll: Poll::new().map_err(failed("make an epoll instance"))?,
            selection: Selection::new(saved.selected.clone()),
            clock: sys::ClockChange::new().map_err(failed("watch the clock"))?,
            signals: Signals::new([SIGHUP, SIGINT, SIGTERM, SIGCONT, SIGUSR1]).map_err(failed("catch signals"))?,
            engine: Engine::new(setup.policy, saved, now),
            sockets,
            store,
            notifier: Notifier::new(),
            keeper: Keeper::new(),
            mending: Mending::default(),
            health: Health::new(now),
            status: Status::default(),
            advice: Advice::default(),
            log: setup.log,
            remove_on_stop: setup.remove_on_stop,
            sysctl: setup.sysctl,
            path_manager: setup.path_manager,
            dump: Dump::default(),
            reload,
            readable: Readable::default(),
            backlog: Backlog::default(),
            watch: Watch::Off,
            listeners: Listeners::default(),
            unanswered: 0,
            asked: Asked::default(),
            interrupted: None,
            listens_to_routing: false,
            suspended: sys::suspended(),
            buffer: Vec::new(),
            encoder: Encoder::default(),
            batch: Batch::default(),
            turns_unsaved: 0,
            stopping: false,
            done: false,
        };
        if daemon.engine.manages_connections() {
            daemon.engine.recall(daemon.store.load_connections(), now);
        }
        daemon.register().map_err(failed("watch sockets"))?;
        daemon.look_at_handed();
        daemon.listen_as_needed()?;
        // Last, when nothing can fail any more, and after events were joined: without a subscriber the
        // kernel refuses to new connections what user space is to manage.
        daemon.select_path_manager();
        Ok(daemon)
    }

    fn register(&mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        let sockets = [
            (self.sockets.network.as_fd(), NETWORK),
            (self.sockets.answers.as_fd(), ANSWERS),
            (self.sockets.instance.as_fd(), INSTANCE),
            (self.clock.as_fd(), CLOCK),
        ];
        for (socket, token) in sockets {
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        }
        registry.register(&mut self.signals, SIGNALS, Interest::READABLE)
    }

    /// Listens to what the configuration needs.
    fn listen_as_needed(&mut self) -> Result<(), Fatal> {
        let queue = self.sockets.queue;
        if !self.mending.is_broken(Which::Network) {
            self.sockets.network.make_room(queue).map_err(failed("make room for messages"))?;
        }
        if !self.mending.is_broken(Which::Events) {
            let unread = self.watch.set(self.needs_events(), queue, &self.sockets.events, self.poll.registry());
            self.readable.events |= unread.map_err(failed("watch mptcp_pm_events"))?;
        }
        self.keep_events();
        if self.engine.manages_connections() {
            self.tell_timestamps(Instant::now());
        }
        self.listen_to_routing()
    }

    fn needs_events(&self) -> bool {
        self.engine.manages_connections() || self.log.is_debug_enabled()
    }

    /// Joins or leaves the groups that tell of routes, as the configuration needs them.
    fn listen_to_routing(&mut self) -> Result<(), Fatal> {
        let needed = self.engine.needs_routing();
        if needed == self.listens_to_routing || self.mending.is_broken(Which::Network) {
            return Ok(());
        }
        for group in route::ROUTING_GROUPS {
            let done = if needed { self.sockets.network.join(group) } else { self.sockets.network.leave(group) };
            // Next-hop objects came with Linux 5.3: before, there is no such group and nothing to miss.
            if let Err(error) = done.or_else(|error| if group == 32 { Ok(()) } else { Err(error) }) {
                return Err(failed("join the groups of routes and rules")(error));
            }
        }
        self.listens_to_routing = needed;
        Ok(())
    }

    fn run(&mut self) -> Result<(), Fatal> {
        let mut events = Events::with_capacity(16);
        while !self.done {
            self.turn()?;
            let readable = self.readable.any(self.engine.holds_events());
            let busy = !self.done && (readable || self.engine.has_work() || self.dump.is_under_way());
            self.turns_unsaved += 1;
            if !busy || self.turns_unsaved >= TURNS_UNSAVED {
                self.save();
            }
            if self.done {
                break;
            }
            match self.poll.poll(&mut events, self.timeout(busy)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("wait for sockets")(error)),
            }
            for event in &events {
                match event.token() {
                    NETWORK => self.readable.network = true,
                    EVENTS => self.readable.events = true,
                    ANSWERS => self.readable.answers = true,
                    SIGNALS => self.readable.signals = true,
                    INSTANCE => self.readable.instance = true,
                    // The turn that follows asks whether the machine slept.
                    CLOCK => self.clock.wait_again(),
                    listener => self.listeners.notice(listener, Instant::now()),
                }
            }
        }
        Ok(())
    }

    /// How long to wait for sockets: not at all while there is work, and for ever if nothing is due.
    fn timeout(&self, busy: bool) -> Option<Duration> {
        if busy {
            return Some(Duration::ZERO);
        }
        let due = self.engine.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let retry = self.notifier.is_waiting().then_some(notify::TRY_AGAIN);
        let rest = self.watch.due().filter(|_| !self.engine.holds_events());
        let rest = rest.map(|time| time.saturating_duration_since(Instant::now()));
        let connections = self.listeners.due().map(|time| time.saturating_duration_since(Instant::now()));
        let advice = self.advice.due().map(|due| due.saturating_duration_since(Instant::now()));
        let health = self.mending.due().or(self.health.due()).into_iter().chain(self.status.due()).min();
        let health = health.map(|due| due.saturating_duration_since(Instant::now()));
        [due, retry, rest, connections, advice, health].into_iter().flatten().min()
    }

    /// Takes what there is to read, lets the engine decide, and sends what it decided.
    fn turn(&mut self) -> Result<(), Fatal> {
        let now = Instant::now();
        self.mend(now)?;
        if self.readable.signals {
            self.take_signals(now);
        }
        if self.readable.network {
            self.readable.network = self.take_network(now);
        }
        if self.is_to_take_events(now) {
            self.readable.events = self.take_events(now);
        }
        if self.readable.instance {
            self.turn_away();
        }
        self.listeners.turn_away(now);
        self.let_go(now);
        let mut removals = true;
        for _ in 0..ROUNDS {
            if self.readable.answers {
                self.readable.answers = self.take_answers(now);
            }
            if self.readable.questions {
                self.readable.questions = self.take_questions(now);
            }
            self.engine.advance(now, removals);
            // Before anything is asked that routes may change.
            self.listen_to_routing()?;
            match self.put_out(now) {
                Sent::Nothing => break,
                Sent::Requests => {}
                // It took 15 ms: the other sockets come before the next.
                Sent::Removal => removals = false,
            }
            if now.elapsed() >= LONGEST_TURN {
                break;
            }
        }
        self.advice.look(&self.engine, &self.log, now);
        self.continue_dump(now);
        self.notice_suspension(now);
        self.tell_state(now);
        self.look_at_health(now);
        self.notifier.flush();
        Ok(())
    }

    fn is_to_take_events(&self, now: Instant) -> bool {
        let due = || self.watch.due().is_some_and(|time| time <= now);
        let wanted = self.readable.events || self.engine.awaits_drain() || due();
        wanted && !self.engine.holds_events() && !self.mending.is_broken(Which::Events)
    }

    /// Writes what must outlive the process, when nothing else waits.
    fn save(&mut self) {
        self.turns_unsaved = 0;
        let now = Instant::now();
        // Some at a time, but for the last time.
        while self.engine.has_unsaved_connections(now) {
            self.store.save_connections(&mut self.engine, now);
            if !self.done {
                break;
            }
        }
        if let Some(state) = self.engine.take_saved_state(Instant::now()) {
            let selected = self.selection.original().cloned();
            self.store.save(&SavedState { selected, ..state });
        }
    }

    fn take_signals(&mut self, now: Instant) {
        self.readable.signals = false;
        let pending: Vec<_> = self.signals.pending().collect();
        for signal in pending {
            match signal {
                SIGHUP => self.configure_again(now),
                SIGCONT => {
                    debug!(self.log, "continued: looking at everything again");
                    self.engine.handle(Input::Resumed, now);
                }
                SIGUSR1 => self.begin_dump(),
                _ if self.stopping => self.done = true,
                _ => self.stop(now),
            }
        }
    }

    fn stop(&mut self, now: Instant) {
        self.stopping = true;
        self.notifier.tell(&[NotifyState::Stopping]);
        let remove = self.remove_on_stop;
        info!(self.log, "stopping"; "endpoints" => if remove { "removed" } else { "kept" });
        if remove {
            self.put_path_manager_back();
        }
        self.engine.handle(Input::Stop { remove }, now);
    }

    fn configure_again(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        self.status.reloading(&mut self.notifier);
        match (self.reload)() {
            Ok(setup) => {
                self.log = setup.log;
                self.store.log_to(&self.log);
                self.remove_on_stop = setup.remove_on_stop;
                self.sysctl = setup.sysctl;
                self.sockets.queue = setup.queue;
                self.path_manager = setup.path_manager;
                self.configure_engine(setup.policy, now);
                self.select_path_manager();
                self.advice.begin_again(now);
                match self.listen_as_needed() {
                    Ok(()) => info!(self.log, "configuration read again"),
                    Err(fatal) => error!(self.log, "{}", fatal),
                }
            }
            Err(line) => error!(self.log, "configuration not changed: {}", line),
        }
    }

    /// What only events tell of connections outlives a time in which nobody manages them.
    fn configure_engine(&mut self, policy: Policy, now: Instant) {
        self.engine.save_connections_at_once(now);
        while self.engine.has_unsaved_connections(now) {
            self.store.save_connections(&mut self.engine, now);
        }
        let managed = self.engine.manages_connections();
        self.engine.handle(Input::Configure(policy), now);
        if self.engine.manages_connections() && !managed {
            self.engine.recall(self.store.load_connections(), now);
        }
    }

    /// Others connect to the instance socket only to learn who has it.
    fn turn_away(&mut self) {
        self.readable.instance = self.sockets.instance.accept().is_ok();
    }

    fn notice_suspension(&mut self, now: Instant) {
        let suspended = sys::suspended();
        if suspended > self.suspended + SUSPENDED {
            debug!(self.log, "resumed: looking at everything again");
            self.engine.handle(Input::Resumed, now);
        }
        self.suspended = suspended;
    }

    fn tell(&mut self, note: &Note) {
        match note {
            Note::Unanswered => self.health.look_soon(Instant::now()),
            Note::Address { address, interface, .. } => {
                debug!(self.log, "{}", note; "interface" => &**interface, "address" => %address);
            }
            Note::Foreign(endpoint) | Note::Lost(endpoint) => {
                debug!(self.log, "{}", note; "address" => %endpoint.address, "id" => endpoint.id.0);
            }
            _ => match note.severity() {
                Severity::Warning => warn!(self.log, "{}", note),
                Severity::Info => info!(self.log, "{}", note),
                Severity::Debug => debug!(self.log, "{}", note),
            },
        }
    }
}
