//! One failure with one connection at a time: how long it stands still, and when the uplink is used again.

use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::lab::{Lab, USUAL};
use crate::manager::Manager;
use crate::options::Options;
use crate::parallel::all;
use crate::table;
use crate::traffic::{Outcome, Traffic};
use crate::uplink::{History, Watch};

/// Until windows are open and the second path is in use.
const BEFORE: Duration = Duration::from_millis(1500);
/// Until the failure is undone.
const OUTAGE: Duration = Duration::from_secs(5);
/// Until the end.
const AFTER: Duration = Duration::from_secs(3);
/// How long after a reset what is in the queue of the uplink may still come out of it.
const QUEUE: Duration = Duration::from_millis(60);
/// The uplink that fails: that of the initial subflow.
const FIRST: u8 = 0;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) manager: Manager,
    pub(crate) failure: Failure,
    pub(crate) traffic: Traffic,
}

/// What came out.
pub(crate) struct Measurement {
    pub(crate) case: Case,
    /// The longest time without an answer, or without data at the end that receives; `None` if the
    /// connection did not survive.
    pub(crate) stall: Option<Duration>,
    /// From the repair, or from the reset, until the uplink carries data, or for requests until it could;
    /// `None` if that is never.
    pub(crate) used_again: Option<Duration>,
    pub(crate) outcome: Outcome,
}

/// Measures everything, prints the table, and complains if a byte was wrong.
pub(crate) fn measure(options: &Options) -> Result<(), String> {
    let cases = cases(options);
    let repeated = (0..options.runs).flat_map(|_| cases.iter().cloned()).collect();
    let measurements = all(repeated, options.at_once(1), |case| {
        let measurement = once(case);
        tell(&measurement);
        measurement
    });
    println!("Median / maximum of {} runs, in milliseconds:\n", options.runs);
    print!("{}", table::stalls(&options.managers, &cases, &measurements));
    judge(&measurements)
}

/// Those of a failure and a traffic side by side, so that what else the machine does hits all.
fn cases(options: &Options) -> Vec<Case> {
    let mut cases = Vec::new();
    for &failure in &options.failures {
        for &traffic in &options.traffics {
            cases.extend(options.managers.iter().map(|manager| Case { manager: manager.clone(), failure, traffic }));
        }
    }
    cases
}

fn once(case: Case) -> Measurement {
    let lab = Lab::new(USUAL);
    let mut running = case.manager.start(&lab);
    let begin = Instant::now();
    let end = begin + BEFORE + OUTAGE + AFTER;
    let watch = Watch::start(&lab, FIRST, case.traffic);
    let session = case.traffic.start(&lab, end).expect("a connection");
    let failed = at(begin + BEFORE, || case.failure.inflict(&lab, FIRST));
    let repaired = at(failed + OUTAGE, || case.failure.repair(&lab, FIRST));
    let outcome = session.finish();
    let history = watch.finish();
    assert!(running.lives(), "{} ended", case.manager);
    let stall = outcome.is_complete().then(|| longest(&outcome, failed, repaired));
    let used_again = used_again(&history, &case, failed, repaired);
    Measurement { case, stall, used_again, outcome }
}

/// Does something when it is time, and returns when that was.
pub(crate) fn at(time: Instant, work: impl FnOnce()) -> Instant {
    thread::sleep(time.saturating_duration_since(Instant::now()));
    let begun = Instant::now();
    work();
    begun
}

/// The longest wait that began before the repair and had not ended before the failure.
fn longest(outcome: &Outcome, failed: Instant, repaired: Instant) -> Duration {
    let meanwhile = outcome.waits.iter().filter(|wait| wait.until >= failed && wait.from < repaired);
    meanwhile.map(|wait| wait.duration()).max().unwrap_or_default()
}

fn used_again(history: &History, case: &Case, failed: Instant, repaired: Instant) -> Option<Duration> {
    match (case.failure.is_reset(), case.traffic) {
        (true, Traffic::Requests) => history.open_after(failed),
        (false, Traffic::Requests) => history.open_after(repaired),
        (true, _) => history.used_after(failed + QUEUE).map(|after| after + QUEUE),
        (false, _) => history.used_after(repaired),
    }
}

fn tell(measurement: &Measurement) {
    let Measurement { case: Case { manager, failure, traffic }, stall, used_again, outcome } = measurement;
    let (stall, used) = (table::milliseconds(*stall), table::milliseconds(*used_again));
    eprintln!("{manager}, {}, {}: stall {stall} ms, used again after {used} ms", failure.name(), traffic.name());
    if !outcome.is_right() {
        eprintln!("    {}", outcome.complaint());
    }
}

/// Wrong bytes are an error, unless they are such as the kernel makes by itself, and so is a connection that
/// the daemon did not keep.
fn judge(measurements: &[Measurement]) -> Result<(), String> {
    let count = |is: fn(&Measurement) -> bool| measurements.iter().filter(|one| is(one)).count();
    let wrong = count(|one| one.outcome.wrong > 0);
    if wrong > 0 {
        eprintln!("wrong bytes in {wrong} runs");
    }
    let strange = count(|one| one.outcome.is_strange());
    let dead = count(|one| matches!(one.case.manager, Manager::Ours(_)) && !one.outcome.is_complete());
    if strange + dead == 0 {
        return Ok(());
    }
    Err(format!("{dead} connections not kept, {strange} with wrong bytes of another kind than the kernel makes"))
}
