//! Many short uploads, each of which loses an uplink at some time and gets it back: how many complete, with
//! every byte as it was sent.

use std::fmt;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::lab::{Lab, USUAL};
use crate::manager::Manager;
use crate::options::Options;
use crate::parallel::all;
use crate::random::Random;
use crate::stalls::at;
use crate::table;
use crate::traffic::{Outcome, Traffic};

/// How long data is sent.
const LENGTH: Duration = Duration::from_secs(3);

/// What happens to an upload, times from its begin on.
#[derive(Clone, Copy)]
struct Story {
    number: u16,
    failure: Failure,
    link: u8,
    failed: Duration,
    repaired: Duration,
}

impl Story {
    fn new(number: u16, options: &Options, random: &mut Random) -> Self {
        let (failure, link) = (random.one(&options.failures), random.one(&[0, 1]));
        let failed = random.time(0..2_500);
        Self { number, failure, link, failed, repaired: failed + random.time(20..1_500) }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, failure, link, failed, repaired } = self;
        write!(f, "upload {number}, {} of uplink {link} from {failed:?} to {repaired:?}", failure.name())
    }
}

/// What came out.
struct Upload {
    manager: Manager,
    outcome: Outcome,
}

/// Has all path managers go through the same stories, prints the table, and complains if a byte was wrong.
pub(crate) fn measure(options: &Options, count: u16) -> Result<(), String> {
    let mut random = Random::new(options.seed);
    let stories: Vec<_> = (0..count).map(|number| Story::new(number, options, &mut random)).collect();
    let work = stories.iter().flat_map(|story| options.managers.iter().map(|manager| (*story, manager.clone())));
    let uploads = all(work.collect(), options.at_once(4), |(story, manager)| once(story, manager));
    let heading = ["path manager", "uploads", "complete", "with wrong bytes", "longest stalls, ms: median", "maximum"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(options.managers.iter().map(|manager| row(manager, &uploads)));
    print!("{}", table::markdown(&rows));
    let strange = uploads.iter().filter(|upload| upload.outcome.is_strange()).count();
    if strange == 0 { Ok(()) } else { Err(format!("wrong bytes in {strange} uploads, not of the kernel's kind")) }
}

fn once(story: Story, manager: Manager) -> Upload {
    let lab = Lab::new(USUAL);
    let mut running = manager.start(&lab);
    let begin = Instant::now();
    let session = Traffic::Upload.start(&lab, begin + LENGTH).expect("a connection");
    at(begin + story.failed, || story.failure.inflict(&lab, story.link));
    at(begin + story.repaired, || story.failure.repair(&lab, story.link));
    let outcome = session.finish();
    assert!(running.lives(), "{manager} ended");
    if !outcome.is_right() {
        eprintln!("{manager}: {story}: {}", outcome.complaint());
    }
    Upload { manager, outcome }
}

fn row(manager: &Manager, uploads: &[Upload]) -> Vec<String> {
    let outcomes: Vec<_> =
        uploads.iter().filter(|upload| upload.manager == *manager).map(|upload| &upload.outcome).collect();
    let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count().to_string();
    let mut stalls: Vec<_> =
        outcomes.iter().map(|outcome| outcome.is_complete().then(|| outcome.longest_wait())).collect();
    stalls.retain(Option::is_some);
    let (median, maximum) = table::median_and_maximum(stalls);
    let complete = count(|outcome| outcome.is_complete());
    let wrong = count(|outcome| outcome.wrong > 0);
    vec![manager.to_string(), outcomes.len().to_string(), complete, wrong, median, maximum]
}
