//! What must outlive the process: which endpoints are the daemon's own, the ids that addresses had, and
//! the limits and the sysctl that were there before. Reading a damaged or foreign file costs that knowledge only.
//!
//! The file is a whole state that ends with `end`, and after it a line for every change since. Beside it is one
//! about connections.

mod connections;

use std::fmt::{self, Write as _};
use std::net::IpAddr;

pub(crate) use self::connections::{
    SavedConnection, decode as decode_connections, encode_closed, encode_connection, encode_title,
};

use crate::event::{Endpoint, Limits};
use crate::types::{AddressId, EndpointFlags, IfIndex, Selector};

/// First line of the file; a change of the format changes the number.
const TITLE: &str = "mptcpd-state 1";
/// Last line of the whole state: without it the file was cut off.
const END: &str = "end";

/// As many ids are worth keeping over a restart: those of a host's links that come and go.
pub(crate) const KEPT_IDS: usize = 16;

/// Which boot and which network namespace a state belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// `/proc/sys/kernel/random/boot_id`.
    pub(crate) boot: String,
    /// Device and inode number of the namespace.
    pub(crate) namespace: (u64, u64),
}

impl Scope {
    /// Writes how a file with that title begins.
    fn encode_head(&self, title: &str, text: &mut String) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{title}\n{}", self.line());
    }

    fn line(&self) -> String {
        let (device, inode) = self.namespace;
        format!("scope {} {device} {inode}", self.boot)
    }

    /// The lines that follow, with their numbers, if it begins so. One that was being written when the process died
    /// has no end, and is none.
    fn lines_after_head<'a>(
        &self,
        title: &str,
        text: &'a str,
    ) -> Result<impl Iterator<Item = (&'a str, usize)> + use<'a>, StateError> {
        let complete = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or("");
        let mut lines = complete.split('\n').zip(1..);
        if lines.next().map(|(line, _)| line) != Some(title) {
            return Err(StateError::Title);
        }
        match lines.next() {
            Some((line, _)) if line == self.line() => Ok(lines),
            Some(_) => Err(StateError::Foreign),
            None => Err(StateError::CutOff),
        }
    }
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
    /// Who managed new connections before the daemon let user space do so.
    pub(crate) selected: Option<Selected>,
}

/// A value of the sysctl that selects who manages new connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) selector: Selector,
    /// One word.
    pub(crate) value: String,
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
    scope.encode_head(TITLE, &mut text);
    for own in &state.own {
        encode_own(own, &mut text);
    }
    for (address, id) in &state.ids {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "id {address} {id}");
    }
    if let Some(ChangedLimits { original, set }) = state.limits {
        let (a, b) = (original.subflows, original.add_addr_accepted);
        let _ = writeln!(text, "limits {a} {b} {} {}", set.subflows, set.add_addr_accepted);
    }
    if let Some(Selected { selector, value }) = &state.selected {
        let _ = writeln!(text, "sysctl {selector} {value}");
    }
    text.push_str(END);
    text.push('\n');
    text
}

fn encode_own(own: &Endpoint, text: &mut String) {
    let index = own.if_index.map_or(0, |index| index.0);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "own {} {} {} {}", own.address, own.id, own.flags.0, index);
}

impl SavedState {
    /// Becomes the next state, and writes the lines that say how; `false` if only the whole state can say
    /// it, and then this is neither.
    pub(crate) fn follow(&mut self, next: &Self, lines: &mut String) -> bool {
        self.own.retain(|own| {
            let stays = next.own.iter().any(|other| other.id == own.id);
            if !stays {
                // Writing to a String cannot fail.
                let _ = writeln!(lines, "gone {}", own.id);
            }
            stays
        });
        for new in &next.own {
            if !self.own.contains(new) {
                encode_own(new, lines);
                self.change(*new);
            }
        }
        let ids_are_known = self.ids.ends_with(&next.ids) || next.ids.iter().all(|known| self.ids.contains(known));
        let same = self.limits == next.limits && self.selected == next.selected;
        self.own.len() == next.own.len() && same && ids_are_known
    }

    /// The endpoint was added, or has other flags.
    fn change(&mut self, endpoint: Endpoint) {
        self.own.retain(|own| own.id != endpoint.id);
        self.own.push(endpoint);
        self.ids.retain(|(address, id)| *address != endpoint.address && *id != endpoint.id);
        self.ids.push((endpoint.address, endpoint.id));
        let oldest = self.ids.len().saturating_sub(KEPT_IDS);
        self.ids.drain(..oldest);
    }
}

/// Reads it back.
pub(crate) fn decode(scope: &Scope, text: &str) -> Result<SavedState, StateError> {
    let mut state = SavedState::default();
    let mut whole = false;
    for (line, number) in scope.lines_after_head(TITLE, text)? {
        match (line, whole) {
            (END, false) => whole = true,
            (_, false) => decode_line(line, &mut state).ok_or(StateError::Line(number))?,
            (_, true) => decode_change(line, &mut state).ok_or(StateError::Line(number))?,
        }
    }
    if whole { Ok(state) } else { Err(StateError::CutOff) }
}

/// Far more than the kernel has endpoints or ids: a file with more is not ours.
const MOST: usize = 255;

fn decode_change(line: &str, state: &mut SavedState) -> Option<()> {
    match line.split_once(' ')? {
        ("own", rest) => {
            state.change(decode_own(&mut rest.split(' '))?);
            return (state.own.len() <= MOST).then_some(());
        }
        ("gone", id) => {
            let id = AddressId(id.parse().ok()?);
            state.own.retain(|own| own.id != id);
        }
        _ => return None,
    }
    Some(())
}

fn decode_own<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Endpoint> {
    let address = words.next()?.parse().ok()?;
    let id = AddressId(number(words)?);
    let flags = EndpointFlags(number(words)?);
    let index: u32 = number(words)?;
    let if_index = Some(index).filter(|index| *index != 0).map(IfIndex);
    words.next().is_none().then_some(Endpoint { id, address, port: 0, flags, if_index })
}

fn decode_line(line: &str, state: &mut SavedState) -> Option<()> {
    let (kind, rest) = line.split_once(' ')?;
    let mut words = rest.split(' ');
    match kind {
        "own" => state.own.push(decode_own(&mut words)?),
        "id" => state.ids.push((words.next()?.parse().ok()?, AddressId(number(&mut words)?))),
        "limits" => {
            let mut limits = || Some(Limits { subflows: number(&mut words)?, add_addr_accepted: number(&mut words)? });
            state.limits = Some(ChangedLimits { original: limits()?, set: limits()? });
        }
        "sysctl" => state.selected = Some(decode_selected(&mut words)?),
        _ => return None,
    }
    (words.next().is_none() && state.own.len() <= MOST && state.ids.len() <= MOST).then_some(())
}

fn decode_selected<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Selected> {
    let name = words.next()?;
    let (_, selector) = Selector::NAMES.iter().find(|(known, _)| *known == name)?;
    let value = words.next().filter(|value| !value.is_empty())?;
    Some(Selected { selector: *selector, value: value.to_owned() })
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
            selected: Some(Selected { selector: Selector::PathManager, value: "kernel".to_owned() }),
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for state in [state(), SavedState::default()] {
            assert_eq!(decode(&scope(), &encode(&scope(), &state)), Ok(state));
        }
    }

    /// The state after changes, as the file tells it.
    fn after(first: &SavedState, changes: &[SavedState]) -> SavedState {
        let (mut text, mut known) = (encode(&scope(), first), first.clone());
        for change in changes {
            assert!(known.follow(change, &mut text), "{change:?}");
        }
        let read = decode(&scope(), &text).unwrap();
        assert_eq!(read, known);
        read
    }

    #[test]
    fn changes_read_back_as_the_state_they_led_to() {
        let mut gone = state();
        let first = gone.own.remove(0);
        let mut flags = state();
        flags.own[0].flags = EndpointFlags::BACKUP;
        let mut more = state();
        let new = Endpoint { id: AddressId(7), address: "10.0.0.7".parse().unwrap(), ..first };
        more.own.push(new);
        more.ids.push((new.address, new.id));
        for (changes, own) in [
            (vec![], state().own),
            (vec![gone.clone()], gone.own.clone()),
            (vec![gone.clone(), state()], vec![gone.own[0], first]),
            (vec![flags.clone()], vec![flags.own[1], flags.own[0]]),
            (vec![more.clone(), gone.clone(), more.clone()], vec![gone.own[0], first, new]),
        ] {
            let read = after(&state(), &changes);
            assert_eq!(read.own, own);
            assert_eq!(read.limits, state().limits);
        }
        assert_eq!(after(&state(), &[more]).ids.last(), Some(&(new.address, new.id)));
    }

    #[test]
    fn what_lines_cannot_say_needs_the_whole_state() {
        let follows = |next: &SavedState| state().follow(next, &mut String::new());
        assert!(follows(&state()));
        assert!(!follows(&SavedState { limits: None, ..state() }));
        assert!(!follows(&SavedState { selected: None, ..state() }));
        assert!(!follows(&SavedState { ids: vec![("10.0.0.9".parse().unwrap(), AddressId(9))], ..state() }));
    }

    #[test]
    fn a_change_that_was_cut_off_did_not_happen() {
        let (mut text, mut known) = (encode(&scope(), &state()), state());
        let whole = text.len();
        let next = SavedState { own: vec![], ..state() };
        assert!(known.follow(&next, &mut text));
        let ends: Vec<_> = (whole..=text.len()).map(|end| decode(&scope(), &text[..end]).unwrap().own.len()).collect();
        assert_eq!(ends.first(), Some(&2));
        assert_eq!(ends.last(), Some(&0));
        assert!(ends.is_sorted_by(|a, b| a >= b));
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
        for (from, to) in [
            ("own", "won"),
            ("10.0.0.1", "10.0.0"),
            (" 255 ", " 256 "),
            (" 4 2", " 4 2 1"),
            ("limits 2", "limits -2"),
            ("path_manager", "enabled"),
            (" kernel", " kernel 1"),
            (" kernel", " "),
            (" kernel", ""),
        ] {
            let text = encode(&scope(), &state()).replacen(from, to, 1);
            assert!(matches!(decode(&scope(), &text), Err(StateError::Line(3..=9))), "{from} -> {to}");
        }
        for change in ["gone 256", "gone", "end", "", "own 10.0.0.1 1 2", "id 10.0.0.1 1"] {
            let text = encode(&scope(), &state()) + change + "\n";
            assert_eq!(decode(&scope(), &text), Err(StateError::Line(10)), "{change}");
        }
    }

    #[test]
    fn a_file_of_endless_lines_is_refused() {
        let line = "id 10.0.0.1 1\n".repeat(300);
        let text = encode(&scope(), &SavedState::default()).replace(END, &format!("{line}{END}"));
        assert!(decode(&scope(), &text).is_err());
    }

    #[test]
    fn a_file_of_endless_changes_is_refused() {
        let mut text = encode(&scope(), &SavedState::default()).replace(END, "");
        text.truncate(text.trim_end().len());
        text.push_str(&"\nown 10.0.0.1 0 2 0".repeat(255));
        text.push_str("\nend\n");
        assert_eq!(decode(&scope(), &text).map(|state| state.own.len()), Ok(255));
        text.push_str("own 10.0.0.2 1 2 0\n");
        assert_eq!(decode(&scope(), &text), Err(StateError::Line(259)));
    }
}
