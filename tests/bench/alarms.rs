//! Connections over two uplinks that never fail: whatever is closed was closed for nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::ends::{Reading, Sending};
use crate::lab::{Lab, Rates};
use crate::manager::{Manager, Running};
use crate::options::Options;
use crate::parallel::all;
use crate::random::Random;
use crate::table;
use crate::traffic::{Outcome, Plan, Session};

/// Time between two looks at the subflows.
const LOOK: Duration = Duration::from_millis(500);
/// What the daemon logs when it asks for a subflow to be closed.
const CLOSING: [&str; 3] = ["close subflow", "reset subflow", "withdraw address"];

/// Uplinks, and who does what over them.
struct Scenario {
    name: String,
    rates: Rates,
    plans: Vec<Plan>,
}

/// All of them; each connection has random numbers of its own.
fn scenarios(seed: u64) -> Vec<Scenario> {
    let (steady, eager) = (Some(Sending::Steadily), Reading::Eagerly);
    let up = Plan { up: steady.clone(), down: None, reading: eager.clone() };
    let down = Plan { up: None, down: steady.clone(), reading: eager };
    let both = Plan { down: steady, ..up.clone() };
    let random = |number: u64| Random::new(seed << 8 | number);
    let naps = |plan: &Plan, number| Plan { reading: Reading::WithNaps(random(number)), ..plan.clone() };
    let with = |sending: fn(Random) -> Sending, number| {
        let (up, down) = (Some(sending(random(number))), Some(sending(random(number + 1))));
        Plan { up, down, reading: Reading::Eagerly }
    };
    let mut list = Vec::new();
    for rates in [[50, 50], [1, 1], [100, 100], [1, 100], [100, 1]] {
        for (way, plan) in [("upload", &up), ("download", &down), ("both ways", &both)] {
            let name = format!("{way}, {} and {} Mbit/s", rates[0], rates[1]);
            list.push(Scenario { name, rates: Rates(rates), plans: vec![plan.clone()] });
        }
    }
    let mut add = |name: &str, plans| list.push(Scenario { name: name.to_owned(), rates: Rates([50, 50]), plans });
    add("bursts", (0..10).map(|number| with(Sending::InBursts, 2 * number)).collect());
    add("bursts beside an upload", (0..5).map(|it| with(Sending::InBursts, 2 * it)).chain([up.clone()]).collect());
    add("idle", (0..10).map(|number| with(Sending::Hardly, 2 * number)).collect());
    add("the server naps", vec![naps(&up, 0), naps(&up, 1)]);
    add("the client naps", vec![naps(&down, 0), naps(&down, 1)]);
    add("both nap", vec![naps(&both, 0)]);
    list
}

/// What came out.
struct Watched {
    manager: Manager,
    name: String,
    time: Duration,
    gone: Vec<Gone>,
    said: Vec<String>,
    outcomes: Vec<Outcome>,
}

/// A subflow that was established and is not any more.
struct Gone {
    after: Duration,
    local: SocketAddr,
}

/// Goes through all scenarios, and prints the table and what was closed.
pub(crate) fn measure(options: &Options, altogether: Duration) -> Result<(), String> {
    let chosen = || scenarios(options.seed).into_iter().filter(|scenario| scenario.name.contains(&options.scenarios));
    let of_each = |manager: &Manager| chosen().map(|scenario| (manager.clone(), scenario)).collect::<Vec<_>>();
    let work: Vec<_> = options.managers.iter().flat_map(of_each).collect();
    if work.is_empty() {
        return Err(format!("no scenario has {:?} in its name", options.scenarios));
    }
    let at_once = options.at_once(4);
    let rounds = u32::try_from(work.len().div_ceil(at_once)).expect("a short list");
    let watched = all(work, at_once, |(manager, scenario)| watch(manager, scenario, altogether / rounds));
    report(&watched);
    let strange = watched.iter().flat_map(|one| &one.outcomes).filter(|outcome| outcome.is_strange()).count();
    if strange == 0 { Ok(()) } else { Err(format!("wrong bytes on {strange} connections")) }
}

fn watch(manager: Manager, Scenario { name, rates, plans }: Scenario, time: Duration) -> Watched {
    let lab = Lab::new(rates);
    let mut running = manager.start(&lab);
    let begin = Instant::now();
    let end = begin + time;
    let sessions: Vec<_> =
        plans.into_iter().map(|plan| Session::start(&lab, end, plan).expect("a connection")).collect();
    let (mut gone, mut before) = (Vec::new(), BTreeSet::new());
    while Instant::now() + LOOK < end {
        thread::sleep(LOOK);
        let now = established(&lab);
        let after = begin.elapsed();
        gone.extend(before.difference(&now).map(|local| Gone { after, local: *local }));
        before = now;
    }
    let said = closings(&mut running);
    assert!(running.lives(), "{manager} ended");
    let outcomes: Vec<_> = sessions.into_iter().map(Session::finish).collect();
    eprintln!("{manager}, {name}: {} gone, {} closed by the daemon", gone.len(), said.len());
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_right()) {
        eprintln!("    {}", outcome.complaint());
    }
    Watched { manager, name, time, gone, said, outcomes }
}

/// The client's ends of all subflows.
fn established(lab: &Lab) -> BTreeSet<SocketAddr> {
    let subflows = lab.client.subflows().into_iter();
    subflows.filter(|subflow| subflow.established).map(|subflow| subflow.local).collect()
}

/// What the daemon has closed so far, each with the line before, by which one may see why.
fn closings(running: &mut Running) -> Vec<String> {
    let Running::Ours(daemon) = running else { return Vec::new() };
    let lines = daemon.said();
    let is_closing = |line: &str| CLOSING.iter().any(|words| line.contains(words));
    let with_the_one_before = lines.windows(2).filter(|pair| pair.last().is_some_and(|line| is_closing(line)));
    with_the_one_before.map(|pair| pair.join("\n      ")).collect()
}

fn report(watched: &[Watched]) {
    let heading =
        ["path manager", "scenario", "seconds", "connections", "right", "subflows gone", "closed by the daemon"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(watched.iter().map(row));
    print!("{}", table::markdown(&rows));
    for one in watched.iter().filter(|one| !one.gone.is_empty() || !one.said.is_empty()) {
        println!("\n{}, {}:", one.manager, one.name);
        for Gone { after, local } in &one.gone {
            println!("    after {:.1} s: {local} is gone", after.as_secs_f32());
        }
        one.said.iter().for_each(|said| println!("    {said}"));
    }
}

fn row(one: &Watched) -> Vec<String> {
    let right = one.outcomes.iter().filter(|outcome| outcome.is_right()).count();
    let seconds = one.time.as_secs().to_string();
    let numbers = [one.outcomes.len(), right, one.gone.len(), one.said.len()];
    let mut row = vec![one.manager.to_string(), one.name.clone(), seconds];
    row.extend(numbers.map(|number| number.to_string()));
    row
}
