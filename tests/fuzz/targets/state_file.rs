//! The state files: arbitrary text, which after an even first byte stands below the title and scope of a file
//! that is the daemon's own, of either kind, and after an odd one is everything.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mptcpd::fuzzing;
use mptcpd_fuzz::within;

static HEADS: LazyLock<[String; 2]> = LazyLock::new(|| [fuzzing::state_file_head(), fuzzing::connections_file_head()]);

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let Ok(rest) = std::str::from_utf8(rest) else { return };
    let readers: [fn(&str); 2] = [fuzzing::state_file, fuzzing::connections_file];
    for (head, read) in HEADS.iter().zip(readers) {
        let head = if mode % 2 == 0 { head.as_str() } else { "" };
        let text = [head, rest].concat();
        within(10_000 + 40 * text.len(), || read(&text));
    }
});
