//! Patterns of names: `*` for any characters, `?` for one, `[a-z]` for one of a class, `[!a-z]` for one
//! that is not in it.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::Chars;

use crate::names;

/// A pattern, taken apart once.
#[derive(Debug)]
pub(crate) struct Glob {
    text: Box<str>,
    pieces: Box<[Piece]>,
}

#[derive(Debug)]
enum Piece {
    /// Any number of characters.
    Any,
    /// One character, whichever.
    One,
    Char(char),
    /// One character that is, or is not, in these ranges.
    Class(bool, Vec<RangeInclusive<char>>),
}

impl Glob {
    /// Takes a pattern apart, or says what is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let mut rest = text.chars();
        let mut pieces = Vec::new();
        while let Some(c) = rest.next() {
            pieces.push(match c {
                '*' => Piece::Any,
                '?' => Piece::One,
                '[' => class(&mut rest)
                    .ok_or_else(|| format!("the class in {} has no closing bracket", names::quoted(text)))?,
                c => Piece::Char(c),
            });
        }
        if pieces.is_empty() {
            return Err("an empty pattern matches nothing".to_owned());
        }
        Ok(Self { text: text.into(), pieces: pieces.into() })
    }

    /// Whether the whole name is as the pattern says.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let (mut pieces, mut rest) = (&*self.pieces, name.chars());
        // From the last `*` on: the pattern after it, and the name to try that on.
        let mut last: Option<(&[Piece], Chars<'_>)> = None;
        loop {
            match pieces.split_first() {
                Some((Piece::Any, after)) => {
                    (pieces, last) = (after, Some((after, rest.clone())));
                    continue;
                }
                Some((piece, after)) if rest.clone().next().is_some_and(|c| piece.takes(c)) => {
                    pieces = after;
                    rest.next();
                    continue;
                }
                None if rest.as_str().is_empty() => return true,
                _ => {}
            }
            // The `*` takes one character more.
            let Some((after, from)) = &mut last else { return false };
            if from.next().is_none() {
                return false;
            }
            (pieces, rest) = (after, from.clone());
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Piece {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Char(own) => *own == c,
            Self::Class(inside, ranges) => ranges.iter().any(|range| range.contains(&c)) == *inside,
        }
    }
}

/// What follows a `[`, up to its `]`; a `]` that stands first is one of the class.
fn class(rest: &mut Chars<'_>) -> Option<Piece> {
    let mut next = rest.next()?;
    let inside = next != '!' && next != '^';
    if !inside {
        next = rest.next()?;
    }
    let mut ranges = Vec::new();
    loop {
        let mut ahead = rest.clone();
        let end = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(end)) if end != ']' => {
                *rest = ahead;
                end
            }
            _ => next,
        };
        ranges.push(next..=end);
        next = rest.next()?;
        if next == ']' {
            return Some(Piece::Class(inside, ranges));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn matches(pattern: &str, name: &str) -> bool {
        Glob::new(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_pattern_is_for_the_whole_name() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth0", "eth", false),
            ("eth*", "eth", true),
            ("eth*", "eth0.5", true),
            ("eth*", "veth0", false),
            ("*", "", true),
            ("*.5", "eth0.5.5", true),
            ("*a*b*c", "xaxbxbxc", true),
            ("*a*b*c", "xaxcxb", false),
            ("**", "x", true),
            ("eth?", "eth0", true),
            ("eth?", "eth", false),
            ("?", "é", true),
            ("eth[0-9]", "eth7", true),
            ("eth[0-9]", "etha", false),
            ("eth[!0-9]", "etha", true),
            ("eth[^0-9a]", "etha", false),
            ("eth[!0-9]", "eth", false),
            ("x[]a]", "x]", true),
            ("x[!]a]", "x]", false),
            ("x[a-]", "x-", true),
            ("x[a-cx-z]*", "xyes", true),
            ("[*]", "*", true),
            ("[*]", "x", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in ["[", "a[", "a[]", "a[!]", "a[b", "a[b-"] {
            assert!(Glob::new(pattern).unwrap_err().contains("closing bracket"), "{pattern}");
        }
        assert!(Glob::new("").unwrap_err().contains("empty"));
    }

    /// The same by trying everything.
    fn matches_slowly(pieces: &[Piece], name: &str) -> bool {
        let Some((piece, after)) = pieces.split_first() else { return name.is_empty() };
        let rest = name.chars().next().map(|c| (c, &name[c.len_utf8()..]));
        match piece {
            Piece::Any => matches_slowly(after, name) || rest.is_some_and(|(_, rest)| matches_slowly(pieces, rest)),
            piece => rest.is_some_and(|(c, rest)| piece.takes(c) && matches_slowly(after, rest)),
        }
    }

    #[test]
    fn every_pattern_matches_what_trying_everything_finds() {
        let mut random = Random::new(5);
        let word = |random: &mut Random, letters: &[&str], longest| -> String {
            (0..random.below(longest)).map(|_| random.pick(letters)).collect()
        };
        for _ in 0..20_000 {
            let pattern = word(&mut random, &["a", "b", "*", "*", "?", "[ab]", "[!a]"], 8);
            let name = word(&mut random, &["a", "b", "é"], 10);
            if let Ok(glob) = Glob::new(&pattern) {
                assert_eq!(glob.matches(&name), matches_slowly(&glob.pieces, &name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn many_stars_take_no_longer() {
        assert!(!matches(&"*a".repeat(60), &"a".repeat(59)));
        assert!(!matches(&format!("{}b", "a*".repeat(60)), &"a".repeat(127)));
    }
}
