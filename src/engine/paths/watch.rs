//! Looks at the sockets of subflows: whether those in use still carry data, whether connections that were
//! idle are in use again, and whether they are still there at all; and resets what is dead.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::converge::ends_of;
use super::managed::Asked;
use super::{Host, MOST_SENT, Paths, give_back};
use crate::command::{PathCommand, Request, SocketRequest, SubflowEnds};
use crate::connections::{SocketName, Subflow};
use crate::diag::{Role, Socket, SocketId, TcpState};
use crate::engine::outbox::Outbox;
use crate::engine::{Failure, Note, Ticket};
use crate::liveness::{Finding, LivenessPolicy, Verdict};
use crate::plugin::{Cause, Health, Trouble};
use crate::rules::PathPolicy;
use crate::types::{Errno, IfIndex, Token};

/// Between two occasions on which all connections are asked, since one found a path silent.
const ALARM_PAUSE: Duration = Duration::from_secs(1);

/// Whether connections are still there is asked now and then: the kernel does not tell of one that its
/// peer aborted (MP_FASTCLOSE; net/mptcp/protocol.c, `mptcp_check_fastclose`).
#[derive(Debug, Default)]
pub(super) struct Check {
    /// The next in the table.
    place: usize,
    /// So many are still to be asked for.
    left: usize,
}

/// A subflow to be closed: by its socket, or by a command where that is not known or of no use.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) token: Token,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) socket: Option<SocketId>,
}

impl Check {
    pub(super) fn has_work(&self) -> bool {
        self.left > 0
    }

    /// One was not there any more: the last of the table is in its place now, and where there is one, there
    /// are more.
    pub(super) fn gone(&mut self, count: usize) {
        self.place = self.place.saturating_sub(1);
        self.left = count;
    }
}

impl Paths {
    /// Every connection is to be asked for.
    pub(in crate::engine) fn begin_check(&mut self) {
        self.check.left = self.live.len();
    }

    /// Asks for some of the connections.
    pub(super) fn check(&mut self, outbox: &mut Outbox, now: Instant) {
        while self.check.left > 0 && outbox.queue.len() < MOST_SENT {
            self.check.left -= 1;
            let (token, place) = self.live.next_from(self.check.place);
            self.check.place = place;
            let Some(token) = token else { return self.check.left = 0 };
            self.ask(PathCommand::Probe(token), token, Asked::Check, outbox, now);
            if self.live.get_mut(token).is_some_and(|managed| managed.watched > 0) && !self.liveness.is_watched(token) {
                self.ask(SocketRequest::Connection(token), token, Asked::Activity, outbox, now);
            }
        }
    }

    pub(super) fn ask(
        &mut self,
        request: impl Into<Request>,
        token: Token,
        asked: Asked,
        outbox: &mut Outbox,
        now: Instant,
    ) -> Ticket {
        let ticket = outbox.send(request.into(), now);
        self.asked.push_back((ticket, token, asked));
        ticket
    }

    /// A connection has the subflows that it has: it is looked at if they can be compared, or if `single` and
    /// there is one. Only the side that can join again has something to gain.
    pub(super) fn watch(&mut self, token: Token, single: bool, policy: &LivenessPolicy, now: Instant) {
        let Some(managed) = self.live.get_mut(token) else { return };
        let flows = managed.connection.subflows.iter().filter(|flow| may_be_looked_at(flow)).count();
        let enough = flows >= if single { 1 } else { 2 };
        let wanted = enough && !managed.connection.server_side && policy.blackhole.is_some();
        let flows = if wanted { u8::try_from(flows).unwrap_or(u8::MAX) } else { 0 };
        if std::mem::replace(&mut managed.watched, flows) == flows {
            return;
        }
        if flows > 0 {
            self.liveness.watch(token, policy, now);
        } else {
            self.unwatch(token);
        }
    }

    /// Nobody looks at the connection any more, nor would say that what was silent is not.
    pub(super) fn unwatch(&mut self, token: Token) {
        self.liveness.forget(token);
        let flows = self.live.get_mut(token).map(|managed| &mut managed.connection.subflows);
        for flow in flows.into_iter().flatten().filter(|flow| may_be_looked_at(flow)) {
            flow.health = Health::Sound;
        }
    }

    /// Looks at the connections whose time has come.
    pub(super) fn look(&mut self, outbox: &mut Outbox, now: Instant) {
        while outbox.queue.len() < MOST_SENT {
            let Some(token) = self.liveness.next_due(now) else { return };
            let managed = self.live.get_mut(token);
            let flows = managed.map(|managed| managed.connection.subflows.clone()).unwrap_or_default();
            let flows: Vec<Subflow> = flows.into_iter().filter(may_be_looked_at).collect();
            self.liveness.begin(token, flows.len());
            for flow in flows {
                let asked = Asked::Look(flow.local.told(), flow.remote.told());
                let socket = name_of(&self.places, &flow).into();
                self.ask(SocketRequest::Subflow(socket), token, asked, outbox, now);
            }
        }
    }

    /// Takes a socket as an answer.
    pub(in crate::engine) fn collect_socket(
        &mut self,
        ticket: Ticket,
        socket: &Socket,
        policy: &LivenessPolicy,
        outbox: &mut Outbox,
        now: Instant,
    ) {
        if self.collect_listed(ticket, socket, now) || self.call_off(ticket, socket, outbox, now) {
            return;
        }
        let Some((_, token, asked)) = self.asked.iter_mut().find(|(asked, ..)| *asked == ticket) else { return };
        let token = *token;
        let is_its = matches!(socket.role, Role::Subflow(info) if info.token == token);
        match (*asked, socket.role) {
            (Asked::Look(local, remote), _) if is_its => {
                if let Some(transfer) = socket.transfer {
                    self.liveness.sampled(token, (local, remote), transfer);
                }
            }
            (Asked::Find(local, remote), _) if is_its && socket.state != TcpState::LISTEN => {
                *asked = Asked::Other;
                self.dead.push_back(Dead { token, local, remote, socket: Some(socket.id) });
            }
            (Asked::Present(local, remote), _) if is_its => {
                let managed = self.live.get_mut(token);
                managed.into_iter().for_each(|managed| managed.is_present((local, remote), socket.state));
            }
            (Asked::Stray, Role::Connection(info)) => self.stray_found(socket, info, now),
            (Asked::Gap, Role::Connection(info)) => {
                let silent = self.liveness.missing(token, info.receive_next, policy, now);
                self.find(token, &silent, outbox, now);
            }
            (Asked::Activity, Role::Connection(info)) => {
                let moved = low_half(info.write_sequence.wrapping_add(info.receive_next));
                let before = self.live.get_mut(token).map(|managed| std::mem::replace(&mut managed.moved, moved));
                // 0: this is the first time that it is asked, and it was looked at before.
                let moves = before.is_some_and(|before| before != 0 && before != moved);
                if moves || info.write_sequence != info.unacknowledged {
                    self.liveness.watch(token, policy, now);
                }
            }
            _ => {}
        }
    }

    /// Takes the end of a question about a socket, or of its reset.
    pub(super) fn end_of_socket(
        &mut self,
        token: Token,
        asked: Asked,
        result: Result<(), Failure<'_>>,
        policy: &PathPolicy,
        (outbox, now): (&mut Outbox, Instant),
    ) {
        match asked {
            Asked::Look(..) => {
                let Some(look) = self.liveness.answered(token, &policy.liveness, now) else { return };
                self.alarm(&look.findings, now);
                self.find(token, &look.findings, outbox, now);
                if look.asks_for_gap {
                    self.ask(SocketRequest::Connection(token), token, Asked::Gap, outbox, now);
                }
            }
            Asked::Find(local, remote) => self.dead.push_back(Dead { token, local, remote, socket: None }),
            Asked::Reset(local, remote) => {
                let Err(Failure::Refused(refusal)) = result else { return };
                // Without CONFIG_INET_DIAG_DESTROY there is the other way, which leaves the socket to its timers.
                self.resets &= !matches!(refusal.errno, Errno::OPNOTSUPP | Errno::PERM);
                self.dead.push_back(Dead { token, local, remote, socket: None });
            }
            Asked::Present(local, remote) => {
                self.change(token, |managed| {
                    managed.end_presence(token, (local, remote), policy, now);
                    false
                });
            }
            Asked::CallOff(local, remote) if result.is_err() => {
                self.resets = false;
                self.to_call_off.push(SubflowEnds { token, local, remote });
            }
            _ => {}
        }
    }

    /// Whether its socket is there was not answered, or whether it was reset.
    pub(super) fn find_again(&mut self, token: Token, local: SocketAddr, remote: SocketAddr) {
        let Some(managed) = self.live.get_mut(token) else { return };
        let Some(flow) = managed.connection.subflows.iter().find(|flow| flow.is(local, remote)) else { return };
        self.to_find.push_back((token, name_of(&self.places, flow)));
    }

    /// Looks up the sockets of what is dead.
    pub(super) fn find_dead(&mut self, outbox: &mut Outbox, now: Instant) {
        // There must be room for the answers, and what was found is closed first.
        let waiting = outbox.queue.len() + self.dead.len();
        for _ in waiting..MOST_SENT {
            let Some((token, name)) = self.to_find.pop_front() else { break };
            let socket = SocketId::from(name);
            let asked = Asked::Find(socket.local, socket.remote);
            self.ask(SocketRequest::Subflow(socket), token, asked, outbox, now);
        }
        give_back(&mut self.to_find, MOST_SENT);
    }

    /// Closes what is dead by its socket, or else by a command.
    pub(super) fn close_dead(&mut self, host: &Host<'_>, outbox: &mut Outbox) {
        let most = MOST_SENT.saturating_sub(outbox.queue.len()).min(self.dead.len());
        for Dead { token, local, remote, socket } in self.dead.drain(..most).collect::<Vec<_>>() {
            // The connection may have gone meanwhile, or what worked beside it.
            let Some(managed) = self.live.get_mut(token) else { continue };
            if !managed.may_be_closed(host, local, remote) {
                let mut flows = managed.connection.subflows.iter_mut();
                flows.find(|flow| flow.is(local, remote)).into_iter().for_each(|flow| flow.closing = false);
                self.touch(token);
                continue;
            }
            let (request, asked) = match socket {
                Some(socket) => (Request::Sockets(SocketRequest::Destroy(socket)), Asked::Reset(local, remote)),
                None => {
                    // The kernel forgets the address by it, which may have been announced anew meanwhile.
                    let address = local.ip().to_canonical();
                    managed.doubts_ids |=
                        managed.connection.own.iter().any(|own| own.announced && own.address == address);
                    let ends = SubflowEnds { token, local, remote };
                    (Request::Path(PathCommand::DestroySubflow(ends)), Asked::Destroy(local, remote))
                }
            };
            self.touch(token);
            self.ask(request, token, asked, outbox, host.now);
        }
        give_back(&mut self.dead, MOST_SENT);
    }

    /// What is silent for one connection may be so for others that are not watched, as there are too many: they
    /// are asked whether they wait for something.
    fn alarm(&mut self, findings: &[Finding], now: Instant) {
        let silent = findings.iter().any(|finding| finding.verdict == Verdict::Silent);
        if silent && self.liveness.is_full() && self.alarmed.is_none_or(|alarmed| alarmed + ALARM_PAUSE <= now) {
            self.alarmed = Some(now);
            self.begin_check();
        }
    }

    /// Subflows are found to fare otherwise than before.
    fn find(&mut self, token: Token, findings: &[Finding], outbox: &mut Outbox, now: Instant) {
        for finding in findings {
            let mut told = None;
            self.change(token, |managed| {
                let mut flows = managed.connection.subflows.iter_mut();
                let flow = flows.find(|flow| flow.local == finding.local && flow.remote == finding.remote);
                let Some(flow) = flow else { return false };
                let news = judge(flow, finding.verdict, now);
                told = news.then(|| (ends_of(token, flow), flow.health));
                news
            });
            if let Some((ends, health)) = told {
                outbox.debug(|| Note::Health {
                    ends,
                    health,
                    silent: finding.silent,
                    transfer: Box::new(finding.transfer),
                });
            }
        }
    }
}

/// What names the socket of a subflow on a host with these addresses on these interfaces.
pub(super) fn name_of(places: &[(IpAddr, IfIndex)], flow: &Subflow) -> SocketName {
    let place = places.iter().find(|(address, _)| *address == flow.local_address());
    flow.name(place.map(|(_, if_index)| *if_index))
}

fn low_half(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default()
}

/// Whether it could carry data, so that its silence means something.
fn may_be_looked_at(flow: &Subflow) -> bool {
    let silent = matches!(flow.health, Health::Dead(trouble) if trouble.cause == Cause::Silence);
    !flow.closing && (silent || !flow.health.is_lost())
}

/// Takes a verdict; whether that matters. It says nothing of a link.
fn judge(flow: &mut Subflow, verdict: Verdict, now: Instant) -> bool {
    if !may_be_looked_at(flow) {
        return false;
    }
    let trouble = match flow.health {
        Health::Sound => Trouble { cause: Cause::Silence, since: now },
        Health::Suspect(trouble) | Health::Dead(trouble) => trouble,
    };
    let health = match verdict {
        Verdict::Fine => Health::Sound,
        Verdict::Doubtful => Health::Suspect(trouble),
        Verdict::Silent => Health::Dead(trouble),
    };
    std::mem::replace(&mut flow.health, health) != health
}
