//! Names and lists that users write, on the command line and in files alike: which are valid, which
//! was probably meant. Knows nothing of where a name stands; its errors are texts to put a place before.

use std::fmt;
use std::path::Path;

use crate::types::{EndpointFlags, Family, LogDestination, NotifyFlags, OnStop, Sysctl};

/// Characters of a user's text that a message repeats at most.
const SHOWN: usize = 60;
/// Bytes of a path at most (`PATH_MAX`): what is longer names nothing.
const LONGEST_PATH: usize = 4096;
/// Notices of one kind about one file at most: more help nobody, and each searches the file for its line.
const NOTICES: usize = 20;

/// A user's text for a message: quoted, on one line, cut when long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// A path for a message: as it is, or quoted if it would not stay on one line.
pub(crate) fn shown(path: &Path) -> String {
    match path.to_str() {
        Some(text) if text.len() > LONGEST_PATH => quoted(text),
        Some(text) if !text.is_empty() && !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("{path:?}"),
    }
}

/// A notice about each of the first items, and one that counts the others.
pub(crate) fn notices<T>(path: &Path, items: &[T], notice: impl FnMut(&T) -> String) -> Vec<String> {
    let mut notices: Vec<String> = items.iter().take(NOTICES).map(notice).collect();
    match items.len().saturating_sub(NOTICES) {
        0 => {}
        more => notices.push(format!("{}: {more} more of these; ignored", shown(path))),
    }
    notices
}

/// `unknown KIND "GIVEN"`, with the name probably meant and those that are valid.
pub(crate) fn unknown(kind: impl fmt::Display, given: &str, valid: &[&str]) -> String {
    let meant = match nearest(given, valid) {
        Some(name) => format!(" (did you mean {name:?}?)"),
        None => String::new(),
    };
    format!("unknown {kind} {}{meant}, valid: {}", quoted(given), valid.join(", "))
}

/// The valid name with the fewest changes from `given`, if they are few enough to be a slip.
pub(crate) fn nearest<'a>(given: &str, valid: &[&'a str]) -> Option<&'a str> {
    let longest = valid.iter().map(|name| name.len()).max()?;
    if given.len() > 8 * longest {
        // A character takes 4 bytes at most, so it is more than twice as long: most of it would be slips.
        return None;
    }
    let given = given.to_lowercase();
    let slips = |name: &str| distance(&given, name);
    let best = valid.iter().min_by_key(|name| slips(name))?;
    (slips(best) <= best.chars().count().div_ceil(3)).then_some(best)
}

/// Insertions, deletions and substitutions that turn one into the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (done, a) in from.chars().enumerate() {
        let mut last = done + 1;
        let mut diagonal = done;
        let mut next = vec![last];
        for (b, above) in to.chars().zip(row.iter().skip(1)) {
            last = (diagonal + usize::from(a != b)).min(above + 1).min(last + 1);
            diagonal = *above;
            next.push(last);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// The items of a comma-separated list; spaces around them and a comma at the end do not count.
pub(crate) fn items(list: &str) -> Result<Vec<&str>, String> {
    let list = list.trim();
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let body = list.strip_suffix(',').unwrap_or(list);
    let items: Vec<&str> = body.split(',').map(str::trim).collect();
    if items.contains(&"") {
        return Err(format!("empty item in the list {}", quoted(list)));
    }
    Ok(items)
}

/// The endpoint flags of that name; `signal` and `fullmesh` may not meet, see [`no_conflict`].
pub(crate) fn endpoint_flag(name: &str) -> Result<EndpointFlags, String> {
    let settable = |flag: &EndpointFlags| EndpointFlags::SETTABLE.contains(*flag);
    EndpointFlags::from_name(name).filter(settable).ok_or_else(|| {
        let names = EndpointFlags::NAMES.iter().filter(|(_, flag)| settable(flag));
        unknown("flag", name, &names.map(|(name, _)| *name).collect::<Vec<_>>())
    })
}

/// The flag of `--notify-flags` of that name.
pub(crate) fn notify_flag(name: &str) -> Result<NotifyFlags, String> {
    NotifyFlags::from_name(name)
        .ok_or_else(|| unknown("flag", name, &NotifyFlags::NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>()))
}

/// Refuses what the kernel would refuse (net/mptcp/pm_kernel.c: EINVAL for signal with fullmesh).
pub(crate) fn no_conflict(flags: EndpointFlags) -> Result<EndpointFlags, String> {
    if flags.contains(EndpointFlags::SIGNAL.union(EndpointFlags::FULLMESH)) {
        return Err("the flags signal and fullmesh exclude each other: leave one out".to_owned());
    }
    Ok(flags)
}

/// The place to log to of that name.
pub(crate) fn log_destination(name: &str) -> Result<LogDestination, String> {
    one_of("destination", name, LogDestination::NAMES)
}

/// What to do at the end of that name.
pub(crate) fn on_stop(name: &str) -> Result<OnStop, String> {
    one_of("choice", name, OnStop::NAMES)
}

/// What to do about sysctls of that name.
pub(crate) fn sysctl(name: &str) -> Result<Sysctl, String> {
    one_of("choice", name, Sysctl::NAMES)
}

/// So many messages of the kernel that wait are possible: fewer would be lost all the time, and more take
/// gigabytes.
pub(crate) const QUEUE: std::ops::RangeInclusive<i64> = 16..=2_000_000;
/// As many wait unless something else is asked for.
pub(crate) const DEFAULT_QUEUE: u32 = 50_000;

/// How many messages of the kernel may wait.
pub(crate) fn queue(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| QUEUE.contains(number));
    let number = number.and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| format!("{}: expected a number from {} to {}", quoted(text), QUEUE.start(), QUEUE.end()))
}

/// The family of addresses of that name.
pub(crate) fn family(name: &str) -> Result<Family, String> {
    one_of("family", name, Family::NAMES)
}

fn one_of<T: Copy>(kind: &str, given: &str, names: &[(&str, T)]) -> Result<T, String> {
    let found = names.iter().find(|(name, _)| *name == given);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| unknown(kind, given, &names.iter().map(|(name, _)| *name).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_the_valid_ones_and_the_nearest() {
        assert_eq!(
            log_destination("jornal").unwrap_err(),
            "unknown destination \"jornal\" (did you mean \"journal\"?), valid: stderr, syslog, journal, null"
        );
        assert_eq!(
            endpoint_flag("implicit").unwrap_err(),
            "unknown flag \"implicit\", valid: signal, subflow, backup, fullmesh"
        );
        assert!(notify_flag("skip-loopback").unwrap_err().contains("did you mean \"skip_loopback\"?"));
        assert!(on_stop("Keep").unwrap_err().contains("did you mean \"keep\"?"));
    }

    #[test]
    fn nothing_is_suggested_for_what_resembles_nothing() {
        assert_eq!(nearest("zzzz", &["stderr", "null"]), None);
        assert_eq!(nearest(&"stderr".repeat(10_000), &["stderr"]), None);
        assert_eq!(nearest("\u{10ffff}stderr", &["stderr"]), Some("stderr"));
        assert_eq!(nearest("x", &[]), None);
        assert_eq!(nearest("STDERR", &["stderr", "null"]), Some("stderr"));
    }

    #[test]
    fn the_distance_counts_insertions_deletions_and_substitutions() {
        for (from, to, slips) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)] {
            assert_eq!(distance(from, to), slips, "{from} {to}");
            assert_eq!(distance(to, from), slips, "{to} {from}");
        }
    }

    #[test]
    fn lists_may_have_spaces_and_a_comma_at_the_end_but_no_empty_item() {
        assert_eq!(items(" a , b,").unwrap(), ["a", "b"]);
        assert_eq!(items("").unwrap(), [""; 0]);
        for list in [",", ",a", "a,,b", "a,,", ", ,"] {
            assert!(items(list).is_err(), "{list}");
        }
    }

    #[test]
    fn a_users_text_stays_on_one_line_and_is_cut_when_long() {
        assert_eq!(quoted("a\n\u{1b}[0m"), r#""a\n\u{1b}[0m""#);
        assert_eq!(quoted(&"é".repeat(100)).chars().count(), 60 + 2 + 3);
        assert_eq!(shown(Path::new("/a\nb")), "\"/a\\nb\"");
        assert_eq!(shown(Path::new("/a b")), "/a b");
        assert_eq!(shown(Path::new(&"a".repeat(4096))).len(), 4096);
        assert!(shown(Path::new(&"a".repeat(4097))).len() < 100);
    }

    #[test]
    fn signal_and_fullmesh_exclude_each_other() {
        assert!(no_conflict(EndpointFlags(9)).is_err());
        assert!(no_conflict(EndpointFlags(0xb)).is_err());
        assert_eq!(no_conflict(EndpointFlags(7)), Ok(EndpointFlags(7)));
    }
}
