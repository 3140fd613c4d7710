//! The command line: arbitrary bytes, in which zeros part the arguments.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use mptcpd::fuzzing;
use mptcpd_fuzz::within;

fuzz_target!(|data: &[u8]| {
    let arguments = data.split(|byte| *byte == 0).map(|argument| OsStr::from_bytes(argument).to_owned()).collect();
    within(500_000 + 100 * data.len(), || fuzzing::command_line(arguments));
});
