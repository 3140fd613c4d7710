//! How long an application is without an answer when an uplink of its host dies, and how soon the uplink
//! is used again when it is back.
//!
//!     cargo bench --bench handover -- --help
//!
//! It makes network namespaces of its own, in a sandbox, and leaves nothing behind. Every byte that arrives
//! is compared with what was sent.

// It may fail by a panic: nothing depends on it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod alarms;
mod content;
mod ends;
mod failure;
mod lab;
mod manager;
mod options;
mod parallel;
mod random;
mod stalls;
mod table;
mod traffic;
mod uplink;
mod uploads;

// What its tests use besides.
#[allow(dead_code)]
#[path = "../common/mod.rs"]
mod common;

use std::process::{Command, ExitCode};

use common::{process, sandbox};
use options::{Mode, Options};

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(reason) => return fail(&format!("{reason} (--help shows what there is)")),
    };
    if sandbox::is_inside() {
        sandbox::set_up();
        return measure(&options).map_or_else(|reason| fail(&reason), |()| ExitCode::SUCCESS);
    }
    if let Some(reason) = sandbox::unavailable().or_else(missing_tool) {
        return fail(&format!("cannot run here: {reason}"));
    }
    match sandbox::run_program_inside() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => fail(&format!("cannot run the sandbox: {error}")),
    }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("handover: {reason}");
    ExitCode::FAILURE
}

fn missing_tool() -> Option<String> {
    let tools = [("nft", "-v", "nftables"), ("tc", "-V", "iproute2")];
    let is_missing = |(tool, option): (&str, &str)| process::output_of(Command::new(tool).arg(option)).is_err();
    let missing = tools.into_iter().find(|(tool, option, _)| is_missing((tool, option)));
    missing.map(|(tool, _, package)| format!("no `{tool}`: install {package}"))
}

fn measure(options: &Options) -> Result<(), String> {
    match options.mode {
        Mode::Stalls => stalls::measure(options),
        Mode::Uploads(count) => uploads::measure(options, count),
        Mode::Alarms(time) => alarms::measure(options, time),
    }
}
