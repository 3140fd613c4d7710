//! The file of what only events tell of connections, and the kernel cannot be asked for: whether the peer
//! allows joins to its initial address, and which addresses it announced.
//!
//! A line says how a connection is, instead of what an earlier line said, or that it is closed. Who cannot read
//! it knows less, and then does less for those connections.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{Scope, StateError, number};
use crate::connections::Table;
use crate::types::{AddressId, Token};

/// First line of the file; a change of the format changes the number.
const TITLE: &str = "mptcpd-connections 1";

/// What is kept of a connection that this host opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SavedConnection {
    pub(crate) token: Token,
    /// The ends of its initial subflow, in plain form: tokens are used again.
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// The peer forbids joins to its initial address and port.
    pub(crate) deny_join_id0: bool,
    /// The peer's initial address is gone.
    pub(crate) initial_withdrawn: bool,
    /// What the peer announced.
    pub(crate) remotes: Vec<(AddressId, SocketAddr)>,
}

/// The beginning of the file.
pub(crate) fn encode_title(scope: &Scope, text: &mut String) {
    scope.encode_head(TITLE, text);
}

/// Line of a connection as it is now.
pub(crate) fn encode_connection(saved: &SavedConnection, text: &mut String) {
    let SavedConnection { token, local, remote, deny_join_id0, initial_withdrawn, remotes } = saved;
    // Writing to a String cannot fail.
    let _ = write!(text, "open {:x} {local} {remote}", token.0);
    if *deny_join_id0 {
        text.push_str(" denied");
    }
    if *initial_withdrawn {
        text.push_str(" withdrawn");
    }
    for (id, remote) in remotes {
        let _ = write!(text, " {id}={remote}");
    }
    text.push('\n');
}

/// Line of a connection that is gone.
pub(crate) fn encode_closed(token: Token, text: &mut String) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "closed {:x}", token.0);
}

/// Reads it back.
pub(crate) fn decode(scope: &Scope, text: &str) -> Result<Table<SavedConnection>, StateError> {
    let mut connections = Table::default();
    for (line, number) in scope.lines_after_head(TITLE, text)? {
        decode_line(line, &mut connections).ok_or(StateError::Line(number))?;
    }
    Ok(connections)
}

fn decode_line(line: &str, connections: &mut Table<SavedConnection>) -> Option<()> {
    let mut words = line.split(' ');
    let kind = words.next()?;
    let token = Token(u32::from_str_radix(words.next()?, 16).ok()?);
    match kind {
        "open" => drop(connections.insert(token, decode_connection(token, words)?)),
        "closed" if words.next().is_none() => drop(connections.remove(token)),
        _ => return None,
    }
    Some(())
}

fn decode_connection<'a>(token: Token, mut words: impl Iterator<Item = &'a str>) -> Option<SavedConnection> {
    let (local, remote) = (number(&mut words)?, number(&mut words)?);
    let (deny_join_id0, initial_withdrawn, remotes) = (false, false, Vec::new());
    let mut saved = SavedConnection { token, local, remote, deny_join_id0, initial_withdrawn, remotes };
    for word in words {
        match word {
            "denied" => saved.deny_join_id0 = true,
            "withdrawn" => saved.initial_withdrawn = true,
            _ => {
                let (id, remote) = word.split_once('=')?;
                saved.remotes.push((AddressId(id.parse().ok()?), remote.parse().ok()?));
            }
        }
    }
    Some(saved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope { boot: "b0071d".to_owned(), namespace: (4, 4026531840) }
    }

    fn connection(token: u32) -> SavedConnection {
        SavedConnection {
            token: Token(token),
            local: "10.0.0.1:40000".parse().unwrap(),
            remote: "192.0.2.1:443".parse().unwrap(),
            deny_join_id0: false,
            initial_withdrawn: false,
            remotes: Vec::new(),
        }
    }

    fn all() -> [SavedConnection; 3] {
        let announced = ["192.0.2.2:443", "[2001:db8::2]:8443"].map(|text| text.parse().unwrap());
        let remotes = vec![(AddressId(1), announced[0]), (AddressId(255), announced[1])];
        let v6 = ["[2001:db8::1]:1", "[2001:db8::2]:65535"].map(|text| text.parse().unwrap());
        [
            connection(1),
            SavedConnection { deny_join_id0: true, remotes, ..connection(u32::MAX) },
            SavedConnection { local: v6[0], remote: v6[1], initial_withdrawn: true, ..connection(0x1a2b) },
        ]
    }

    fn text(connections: &[SavedConnection]) -> String {
        let mut text = String::new();
        encode_title(&scope(), &mut text);
        connections.iter().for_each(|saved| encode_connection(saved, &mut text));
        text
    }

    fn map(connections: &[SavedConnection]) -> Table<SavedConnection> {
        connections.iter().map(|saved| (saved.token, saved.clone())).collect()
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for connections in [&all()[..], &[]] {
            assert_eq!(decode(&scope(), &text(connections)), Ok(map(connections)));
        }
    }

    #[test]
    fn a_later_line_stands_for_an_earlier_one_and_what_is_closed_is_gone() {
        let later = SavedConnection { deny_join_id0: true, ..connection(1) };
        let mut text = text(&[all().to_vec(), vec![later.clone()]].concat());
        encode_closed(Token(u32::MAX), &mut text);
        encode_closed(Token(77), &mut text);
        assert_eq!(decode(&scope(), &text), Ok(map(&[later, all()[2].clone()])));
    }

    #[test]
    fn a_line_that_was_cut_off_was_not_written() {
        let text = text(&all());
        for end in 0..text.len() {
            let expected = match text[..end].matches('\n').count() {
                0 => Err(StateError::Title),
                1 => Err(StateError::CutOff),
                lines => Ok(map(&all()[..lines - 2])),
            };
            assert_eq!(decode(&scope(), &text[..end]), expected, "cut at {end}");
        }
    }

    #[test]
    fn a_file_of_another_boot_namespace_or_version_is_refused_and_a_damaged_line_is_named() {
        let text = text(&all());
        let other = Scope { boot: "b0071e".to_owned(), ..scope() };
        assert_eq!(decode(&other, &text), Err(StateError::Foreign));
        assert_eq!(decode(&scope(), &text.replacen('1', "2", 1)), Err(StateError::Title));
        for (from, to) in [
            ("open 1 ", "open x "),
            ("open 1 ", "open 1ffffffff "),
            ("open", "closed"),
            ("open", "opened"),
            (":443", ""),
            ("denied", "forbidden"),
            ("=", ":"),
            ("255=", "256="),
            ("withdrawn", ""),
        ] {
            assert!(
                matches!(decode(&scope(), &text.replacen(from, to, 1)), Err(StateError::Line(_))),
                "{from} -> {to}"
            );
        }
    }
}
