//! What must outlive the process: which endpoints are the daemon's own, the ids that addresses had, and
//! the limits that were there before. Reading a damaged or foreign file costs that knowledge only.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use crate::event::{Endpoint, Limits};
use crate::types::{AddressId, EndpointFlags, IfIndex};

/// First line of the file; a change of the format changes the number.
const TITLE: &str = "mptcpd-state 1";
/// Last line: without it the file was cut off.
const END: &str = "end";

/// Which boot and which network namespace a state belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// `/proc/sys/kernel/random/boot_id`.
    pub(crate) boot: String,
    /// Device and inode number of the namespace.
    pub(crate) namespace: (u64, u64),
}

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SavedState {
    /// Endpoints that the daemon added.
    pub(crate) own: Vec<Endpoint>,
    /// The id that an address had last, the latest at the end.
    pub(crate) ids: Vec<(IpAddr, AddressId)>,
    /// The limits that somebody else set, and those that the daemon set over them.
    pub(crate) limits: Option<ChangedLimits>,
}

/// Limits before and after the daemon raised them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangedLimits {
    pub(crate) original: Limits,
    pub(crate) set: Limits,
}

/// Why a state file is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StateError {
    /// It is of another version, or no state file at all.
    Title,
    /// It is of another boot or another namespace.
    Foreign,
    /// That line does not read.
    Line(usize),
    /// It ends too early.
    CutOff,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Title => f.write_str("not a state file of this version"),
            Self::Foreign => f.write_str("of another boot or network namespace"),
            Self::Line(number) => write!(f, "line {number} is damaged"),
            Self::CutOff => f.write_str("it is cut off"),
        }
    }
}

/// The text of the file.
pub(crate) fn encode(scope: &Scope, state: &SavedState) -> String {
    let mut text = String::with_capacity(512);
    let (device, inode) = scope.namespace;
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{TITLE}\nscope {} {device} {inode}", scope.boot);
    for own in &state.own {
        let index = own.if_index.map_or(0, |index| index.0);
        let _ = writeln!(text, "own {} {} {} {}", own.address, own.id, own.flags.0, index);
    }
    for (address, id) in &state.ids {
        let _ = writeln!(text, "id {address} {id}");
    }
    if let Some(ChangedLimits { original, set }) = state.limits {
        let (a, b) = (original.subflows, original.add_addr_accepted);
        let _ = writeln!(text, "limits {a} {b} {} {}", set.subflows, set.add_addr_accepted);
    }
    text.push_str(END);
    text.push('\n');
    text
}

/// Reads it back.
pub(crate) fn decode(scope: &Scope, text: &str) -> Result<SavedState, StateError> {
    let mut lines = text.lines().zip(1..);
    if lines.next().map(|(line, _)| line) != Some(TITLE) {
        return Err(StateError::Title);
    }
    let (device, inode) = scope.namespace;
    match lines.next() {
        Some((line, _)) if line == format!("scope {} {device} {inode}", scope.boot) => {}
        Some(_) => return Err(StateError::Foreign),
        None => return Err(StateError::CutOff),
    }
    let mut state = SavedState::default();
    for (line, number) in lines {
        if line == END {
            return Ok(state);
        }
        decode_line(line, &mut state).ok_or(StateError::Line(number))?;
    }
    Err(StateError::CutOff)
}

/// Far more than the kernel has endpoints or ids: a file with more is not ours.
const MOST: usize = 255;

fn decode_line(line: &str, state: &mut SavedState) -> Option<()> {
    let (kind, rest) = line.split_once(' ')?;
    let mut words = rest.split(' ');
    match kind {
        "own" => {
            let address = words.next()?.parse().ok()?;
            let id = number(&mut words)?;
            let flags = EndpointFlags(number(&mut words)?);
            let index: u32 = number(&mut words)?;
            let if_index = Some(index).filter(|index| *index != 0).map(IfIndex);
            state.own.push(Endpoint { id: AddressId(id), address, port: 0, flags, if_index });
        }
        "id" => state.ids.push((words.next()?.parse().ok()?, AddressId(number(&mut words)?))),
        "limits" => {
            let mut limits = || Some(Limits { subflows: number(&mut words)?, add_addr_accepted: number(&mut words)? });
            state.limits = Some(ChangedLimits { original: limits()?, set: limits()? });
        }
        _ => return None,
    }
    (words.next().is_none() && state.own.len() <= MOST && state.ids.len() <= MOST).then_some(())
}

fn number<'a, T: std::str::FromStr>(words: &mut impl Iterator<Item = &'a str>) -> Option<T> {
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope { boot: "b0071d".to_owned(), namespace: (4, 4026531840) }
    }

    fn state() -> SavedState {
        let endpoint = |id, address: &str, index| Endpoint {
            id: AddressId(id),
            address: address.parse().unwrap(),
            port: 0,
            flags: EndpointFlags::SUBFLOW,
            if_index: index,
        };
        SavedState {
            own: vec![endpoint(1, "10.0.0.1", Some(IfIndex(3))), endpoint(255, "fd00::1", None)],
            ids: vec![("10.0.0.1".parse().unwrap(), AddressId(1)), ("fd00::1".parse().unwrap(), AddressId(255))],
            limits: Some(ChangedLimits {
                original: Limits { subflows: 2, add_addr_accepted: 0 },
                set: Limits { subflows: 4, add_addr_accepted: 2 },
            }),
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for state in [state(), SavedState::default()] {
            assert_eq!(decode(&scope(), &encode(&scope(), &state)), Ok(state));
        }
    }

    #[test]
    fn a_file_of_another_boot_namespace_or_version_is_refused() {
        let text = encode(&scope(), &state());
        let other_boot = Scope { boot: "b0071e".to_owned(), ..scope() };
        let other_namespace = Scope { namespace: (4, 4026531841), ..scope() };
        assert_eq!(decode(&other_boot, &text), Err(StateError::Foreign));
        assert_eq!(decode(&other_namespace, &text), Err(StateError::Foreign));
        assert_eq!(decode(&scope(), &text.replacen('1', "2", 1)), Err(StateError::Title));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let text = encode(&scope(), &state());
        for end in 0..text.len() - 1 {
            assert!(decode(&scope(), &text[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_damaged_line_is_named() {
        for (from, to) in
            [("own", "won"), ("10.0.0.1", "10.0.0"), (" 255 ", " 256 "), (" 4 2", " 4 2 1"), ("limits 2", "limits -2")]
        {
            let text = encode(&scope(), &state()).replacen(from, to, 1);
            assert!(matches!(decode(&scope(), &text), Err(StateError::Line(3..=8))), "{from} -> {to}");
        }
    }

    #[test]
    fn a_file_of_endless_lines_is_refused() {
        let line = "id 10.0.0.1 1\n".repeat(300);
        let text = encode(&scope(), &SavedState::default()).replace(END, &format!("{line}{END}"));
        assert!(decode(&scope(), &text).is_err());
    }
}
