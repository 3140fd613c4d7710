//! The loop: sockets that became readable are drained and decoded into inputs of the engine, and what
//! the engine puts out is encoded and sent. The only module that sees both bytes and the engine.

mod kernel;
mod store;

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use slog::{Drain, Logger, debug, error, info, warn};

use self::store::Store;
use crate::command::{PmCommand, Request};
use crate::engine::{Answer, Engine, Failure, Input, Note, Output, Policy, Severity, Ticket};
use crate::event::NetworkEvent;
use crate::exit::{Code, Fatal};
use crate::sys::{self, Netlink, Received};
use crate::types::Errno;
use crate::wire::{self, DecodeError, Encoder, Message, Messages, Refusal, ctrl, mptcp, route};

const NETLINK_ROUTE: isize = 0;
const NETLINK_GENERIC: isize = 16;
/// Bytes of messages that may wait while the daemon does not read; a short one takes about 800.
const NETWORK_QUEUE: usize = 8 << 20;
const EVENTS_QUEUE: usize = 8 << 20;
/// Answers come while the request is being sent, so few ever wait.
const ANSWERS_QUEUE: usize = 256 << 10;
/// Datagrams of one socket handled before the others get their turn.
const BUDGET: u32 = 256;
/// Answers are taken and requests sent so many times before the sockets are looked at again.
const ROUNDS: u32 = 16;
/// A difference of the clocks that only a suspended machine explains.
const SUSPENDED: Duration = Duration::from_millis(500);

const NETWORK: Token = Token(0);
const EVENTS: Token = Token(1);
const ANSWERS: Token = Token(2);
const SIGNALS: Token = Token(3);
const INSTANCE: Token = Token(4);

/// What the configuration comes down to for the daemon.
pub(crate) struct Setup {
    pub(crate) policy: Policy,
    /// `on-stop = "remove"`.
    pub(crate) remove_on_stop: bool,
    pub(crate) log: Logger,
}

/// Reads the configuration again; its error is one line.
pub(crate) type Reload = Box<dyn FnMut() -> Result<Setup, String>>;

/// Runs until a signal ends it.
pub(crate) fn run(setup: Setup, reload: Reload) -> Result<(), Fatal> {
    kernel::has_mptcp()?;
    let instance = kernel::only_instance()?;
    let mut daemon = Daemon::open(setup, reload, instance)?;
    daemon.run()
}

struct Daemon {
    poll: Poll,
    network: Netlink,
    events: Netlink,
    answers: Netlink,
    family: u16,
    signals: Signals,
    instance: UnixListener,
    engine: Engine,
    store: Store,
    log: Logger,
    remove_on_stop: bool,
    reload: Reload,
    /// Sockets that may have more to read.
    readable: Readable,
    listens_to_routing: bool,
    suspended: Duration,
    buffer: Vec<u8>,
    encoder: Encoder,
    stopping: bool,
    done: bool,
}

#[derive(Clone, Copy, Default)]
struct Readable {
    network: bool,
    events: bool,
    answers: bool,
    signals: bool,
    instance: bool,
}

impl Readable {
    fn any(self) -> bool {
        self.network || self.events || self.answers || self.signals || self.instance
    }
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> Fatal {
    move |error| Fatal::new(Code::Failure, format!("cannot {what}: {}", sys::errno(&error)))
}

impl Daemon {
    fn open(setup: Setup, reload: Reload, instance: UnixListener) -> Result<Self, Fatal> {
        let answers = Netlink::open(NETLINK_GENERIC, ANSWERS_QUEUE).map_err(failed("open a generic netlink socket"))?;
        let events = Netlink::open(NETLINK_GENERIC, EVENTS_QUEUE).map_err(failed("open a generic netlink socket"))?;
        let (mut buffer, mut encoder) = (Vec::new(), Encoder::default());
        let family = resolve(&answers, &mut encoder, &mut buffer)?;
        let group = family.group.ok_or_else(|| unavailable("has no events (Linux 5.12 or later has them)"))?;
        events.join(group).map_err(cannot_join)?;
        let network = Netlink::open(NETLINK_ROUTE, NETWORK_QUEUE).map_err(failed("open a route netlink socket"))?;
        for group in route::GROUPS {
            network.join(group).map_err(failed("join the groups of links and addresses"))?;
        }
        kernel::check_path_manager(&setup.log);
        let mut store = Store::find(&setup.log);
        let saved = store.load();
        let now = Instant::now();
        let mut daemon = Self {
            poll: Poll::new().map_err(failed("make an epoll instance"))?,
            signals: Signals::new([SIGHUP, SIGINT, SIGTERM, SIGCONT]).map_err(failed("catch signals"))?,
            engine: Engine::new(setup.policy, saved, now),
            network,
            events,
            answers,
            family: family.id,
            instance,
            store,
            log: setup.log,
            remove_on_stop: setup.remove_on_stop,
            reload,
            readable: Readable::default(),
            listens_to_routing: false,
            suspended: sys::suspended(),
            buffer,
            encoder,
            stopping: false,
            done: false,
        };
        daemon.register().map_err(failed("watch sockets"))?;
        daemon.listen_to_routing()?;
        Ok(daemon)
    }

    fn register(&mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        let sockets = [
            (self.network.as_fd(), NETWORK),
            (self.events.as_fd(), EVENTS),
            (self.answers.as_fd(), ANSWERS),
            (self.instance.as_fd(), INSTANCE),
        ];
        for (socket, token) in sockets {
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        }
        registry.register(&mut self.signals, SIGNALS, Interest::READABLE)
    }

    /// Joins or leaves the groups that tell of routes, as the configuration needs them.
    fn listen_to_routing(&mut self) -> Result<(), Fatal> {
        let needed = self.engine.needs_routing();
        if needed == self.listens_to_routing {
            return Ok(());
        }
        for group in route::ROUTING_GROUPS {
            let done = if needed { self.network.join(group) } else { self.network.leave(group) };
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
            if self.done {
                break;
            }
            let timeout = if self.readable.any() || self.engine.has_work() {
                Some(Duration::ZERO)
            } else {
                self.engine.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
            };
            match self.poll.poll(&mut events, timeout) {
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
                    // Nothing else is registered.
                    Token(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Takes what there is to read, lets the engine decide, and sends what it decided.
    fn turn(&mut self) -> Result<(), Fatal> {
        let now = Instant::now();
        if self.readable.signals {
            self.take_signals(now);
        }
        if self.readable.network {
            self.readable.network = self.take_network(now)?;
        }
        if self.readable.events {
            self.readable.events = self.take_events()?;
        }
        if self.readable.instance {
            self.turn_away();
        }
        self.notice_suspension(now);
        for _ in 0..ROUNDS {
            if self.readable.answers {
                self.readable.answers = self.take_answers(now)?;
            }
            self.engine.advance(now);
            if !self.put_out(now) {
                break;
            }
        }
        if let Some(state) = self.engine.take_saved_state(now) {
            self.store.save(&state);
        }
        Ok(())
    }

    /// Executes outputs; says whether answers may have come that are to be taken at once.
    fn put_out(&mut self, now: Instant) -> bool {
        let mut more = false;
        while let Some(output) = self.engine.next_output() {
            match output {
                Output::Send(ticket, request) => {
                    self.send(ticket, &request, now);
                    // It takes 15 ms: the other sockets come first now.
                    more = !matches!(request, Request::Pm(PmCommand::RemoveEndpoint(_)));
                }
                Output::Log(note) => self.tell(&note),
                Output::Ready => {
                    info!(self.log, "ready");
                    notify(&[NotifyState::Ready]);
                }
                Output::Done => {
                    self.done = true;
                    more = false;
                }
            }
        }
        more
    }

    fn send(&mut self, ticket: Ticket, request: &Request, now: Instant) {
        debug!(self.log, "{}", request; "request" => ticket.0);
        self.encoder.clear();
        let (encoder, sequence) = (&mut self.encoder, ticket.0);
        let socket = match request {
            Request::DumpLinks => {
                route::encode_dump_links(encoder, sequence);
                &self.network
            }
            Request::DumpAddresses => {
                route::encode_dump_addresses(encoder, sequence);
                &self.network
            }
            Request::AskRoute(question) => {
                route::encode_ask_route(encoder, sequence, question);
                &self.network
            }
            Request::Pm(command) => {
                mptcp::encode_command(encoder, self.family, sequence, command);
                &self.answers
            }
        };
        match socket.send(self.encoder.bytes()) {
            // The kernel has answered while it was sent: there is something to read.
            Ok(()) if matches!(request, Request::Pm(_)) => self.readable.answers = true,
            Ok(()) => self.readable.network = true,
            Err(errno) => {
                let refusal = Refusal { errno, text: "", missing: None };
                self.engine.handle(Input::End(ticket, Err(Failure::Refused(refusal))), now);
            }
        }
    }

    /// Says whether there is more to read.
    fn take_network(&mut self, now: Instant) -> Result<bool, Fatal> {
        for _ in 0..BUDGET {
            match self.network.receive(&mut self.buffer).map_err(failed("read the route netlink socket"))? {
                Received::Nothing => return Ok(false),
                Received::Other => {}
                Received::Lost => self.engine.handle(Input::NetworkLost, now),
                Received::Datagram => {
                    for message in Messages::new(&self.buffer) {
                        let port = self.network.port();
                        let taken = message
                            .and_then(|message| take_route_message(&mut self.engine, &self.log, &message, port, now));
                        note_malformed(&self.log, "rtnetlink", taken);
                    }
                }
            }
        }
        Ok(true)
    }

    fn take_answers(&mut self, now: Instant) -> Result<bool, Fatal> {
        for _ in 0..BUDGET {
            match self.answers.receive(&mut self.buffer).map_err(failed("read the generic netlink socket"))? {
                Received::Nothing => return Ok(false),
                Received::Other => {}
                Received::Lost => self.engine.handle(Input::AnswersLost, now),
                Received::Datagram => {
                    for message in Messages::new(&self.buffer) {
                        let taken = message.and_then(|message| take_answer(&mut self.engine, &self.log, &message, now));
                        note_malformed(&self.log, "mptcp_pm", taken);
                    }
                }
            }
        }
        Ok(true)
    }

    fn take_events(&mut self) -> Result<bool, Fatal> {
        for _ in 0..BUDGET {
            match self.events.receive(&mut self.buffer).map_err(failed("read mptcp_pm_events"))? {
                Received::Nothing => return Ok(false),
                // Nothing is kept of connections that the kernel manages: there is nothing to read again.
                Received::Other | Received::Lost => {}
                Received::Datagram if self.log.is_debug_enabled() => {
                    for message in Messages::new(&self.buffer) {
                        let taken = message.and_then(|message| tell_event(&self.log, &message));
                        note_malformed(&self.log, "mptcp_pm event", taken);
                    }
                }
                Received::Datagram => {}
            }
        }
        Ok(true)
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
                _ if self.stopping => self.done = true,
                _ => self.stop(now),
            }
        }
    }

    fn stop(&mut self, now: Instant) {
        self.stopping = true;
        notify(&[NotifyState::Stopping]);
        let remove = self.remove_on_stop;
        info!(self.log, "stopping"; "endpoints" => if remove { "removed" } else { "kept" });
        self.engine.handle(Input::Stop { remove }, now);
    }

    fn configure_again(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        let reloading = NotifyState::monotonic_usec_now().map(|time| notify(&[NotifyState::Reloading, time]));
        match (self.reload)() {
            Ok(setup) => {
                self.log = setup.log;
                self.store.log_to(&self.log);
                self.remove_on_stop = setup.remove_on_stop;
                self.engine.handle(Input::Configure(setup.policy), now);
                match self.listen_to_routing() {
                    Ok(()) => info!(self.log, "configuration read again"),
                    Err(fatal) => error!(self.log, "{}", fatal),
                }
            }
            Err(line) => error!(self.log, "configuration not changed: {}", line),
        }
        if reloading.is_ok() {
            notify(&[NotifyState::Ready]);
        }
    }

    /// Others connect to the instance socket only to learn who has it.
    fn turn_away(&mut self) {
        self.readable.instance = self.instance.accept().is_ok();
    }

    fn notice_suspension(&mut self, now: Instant) {
        let suspended = sys::suspended();
        if suspended > self.suspended + SUSPENDED {
            debug!(self.log, "resumed: looking at everything again");
            self.engine.handle(Input::Resumed, now);
        }
        self.suspended = suspended;
    }

    fn tell(&self, note: &Note) {
        match note {
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

fn take_route_message(
    engine: &mut Engine,
    log: &Logger,
    message: &Message<'_>,
    port: u32,
    now: Instant,
) -> Result<(), DecodeError> {
    // What is not an answer to this socket is an event: the daemon changes nothing here itself.
    let answers_us = message.port == port && message.sequence != 0;
    let ticket = Ticket(message.sequence);
    if answers_us {
        if let Some(end) = wire::decode_end(message)? {
            let result =
                if message.interrupted() { Err(Failure::Interrupted) } else { end.result.map_err(Failure::Refused) };
            engine.handle(Input::End(ticket, result), now);
            return Ok(());
        }
        if let Some(question) = engine.route_question(ticket) {
            if let Some(answer) = route::decode_route_answer(message, question.if_index)? {
                engine.handle(Input::Answer(ticket, Answer::Route(answer)), now);
            }
            return Ok(());
        }
    }
    if let Some(event) = route::decode_event(message)? {
        if !answers_us {
            tell_network_event(log, engine, &event);
        }
        engine.handle(Input::Network { event, dumped: answers_us }, now);
    }
    Ok(())
}

fn take_answer(engine: &mut Engine, log: &Logger, message: &Message<'_>, now: Instant) -> Result<(), DecodeError> {
    let ticket = Ticket(message.sequence);
    if let Some(end) = wire::decode_end(message)? {
        if let Err(refusal) = end.result {
            debug!(log, "the kernel refused: {}", refusal; "request" => ticket.0);
        }
        let result =
            if message.interrupted() { Err(Failure::Interrupted) } else { end.result.map_err(Failure::Refused) };
        engine.handle(Input::End(ticket, result), now);
        return Ok(());
    }
    match mptcp::decode_answer(message.payload)? {
        Some(mptcp::Answer::Endpoint(endpoint)) => {
            engine.handle(Input::Answer(ticket, Answer::Endpoint(endpoint)), now)
        }
        Some(mptcp::Answer::Limits(limits)) => engine.handle(Input::Answer(ticket, Answer::Limits(limits)), now),
        None => {}
    }
    Ok(())
}

fn tell_event(log: &Logger, message: &Message<'_>) -> Result<(), DecodeError> {
    if let Some(event) = mptcp::decode_event(message.payload)? {
        match event.token() {
            Some(token) => debug!(log, "{}", event; "token" => %token),
            None => debug!(log, "{}", event),
        }
    }
    Ok(())
}

fn tell_network_event(log: &Logger, engine: &Engine, event: &NetworkEvent<'_>) {
    if !log.is_debug_enabled() {
        return;
    }
    match event {
        NetworkEvent::Link(link) => {
            debug!(log, "link changed: {}", link.flags; "interface" => %String::from_utf8_lossy(link.name.unwrap_or_default()));
        }
        NetworkEvent::LinkGone(index) => debug!(log, "link removed"; "interface" => engine.interface_name(*index)),
        NetworkEvent::Address(address) => {
            debug!(log, "address changed: {}", address.flags; "interface" => engine.interface_name(address.if_index), "address" => %address.address);
        }
        NetworkEvent::AddressGone(address) => {
            debug!(log, "address removed"; "interface" => engine.interface_name(address.if_index), "address" => %address.address);
        }
        NetworkEvent::RoutingChanged(change) => debug!(log, "{}", change),
    }
}

/// A message that does not decode is the kernel's, so it is told, but never more than in debug: the
/// same may come with every event.
fn note_malformed(log: &Logger, what: &str, result: Result<(), DecodeError>) {
    if let Err(error) = result {
        debug!(log, "cannot decode {} message: {}", what, error);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    // Nobody may be listening; a service manager that went away cannot be told.
    let _ = sd_notify::notify(states);
}

/// Asks the kernel for the number and the group of `mptcp_pm`; it answers while the question is sent.
fn resolve(socket: &Netlink, encoder: &mut Encoder, buffer: &mut Vec<u8>) -> Result<ctrl::Family, Fatal> {
    encoder.clear();
    ctrl::encode_get_family(encoder, 1, mptcp::FAMILY);
    let broken = |what: &str| Fatal::new(Code::Failure, format!("cannot look up mptcp_pm: {what}"));
    socket.send(encoder.bytes()).map_err(|errno| broken(&errno.to_string()))?;
    let mut family = None;
    while socket.receive(buffer).map_err(|error| broken(&error.to_string()))? == Received::Datagram {
        for message in Messages::new(buffer) {
            let message = message.map_err(|error| broken(&error.to_string()))?;
            match wire::decode_end(&message).map_err(|error| broken(&error.to_string()))? {
                Some(end) => match end.result {
                    Err(refusal) if refusal.errno == Errno::NOENT => return Err(unavailable("is not there")),
                    Err(refusal) => return Err(broken(&refusal.to_string())),
                    Ok(()) => {}
                },
                None => {
                    let found = ctrl::decode_family(message.payload, mptcp::EVENTS_GROUP);
                    family = Some(found.map_err(|error| broken(&error.to_string()))?);
                }
            }
        }
    }
    family.ok_or_else(|| broken("no answer"))
}

fn unavailable(what: &str) -> Fatal {
    let message = format!("the kernel's netlink family mptcp_pm {what}: use a kernel built with CONFIG_MPTCP");
    Fatal::new(Code::Unavailable, message)
}

fn cannot_join(error: io::Error) -> Fatal {
    let errno = sys::errno(&error);
    let (code, remedy) = if errno == Errno::PERM {
        (Code::Permission, " (needs CAP_NET_ADMIN: run as root, or as a service with that capability)")
    } else {
        (Code::Failure, "")
    };
    Fatal::new(code, format!("cannot join mptcp_pm_events: {errno}{remedy}"))
}
