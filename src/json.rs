//! Writes JSON, as much of it as lines need that are one flat object each (RFC 8259). Reads none.

use std::fmt::{self, Display, Write};

/// One object on a line of its own; dropping it ends the line.
///
/// Nothing in a text can end the line or talk to a terminal, and everything can be read back.
pub(crate) struct Line<'a>(&'a mut String);

impl<'a> Line<'a> {
    /// Begins an object of that kind.
    pub(crate) fn new(out: &'a mut String, kind: &'static str) -> Self {
        out.push_str("{\"kind\":\"");
        out.push_str(kind);
        out.push('"');
        Self(out)
    }

    pub(crate) fn number(&mut self, key: &'static str, value: impl Into<u64>) -> &mut Self {
        self.plain(key, &value.into())
    }

    /// Whole milliseconds, those of today's clocks.
    pub(crate) fn millis(&mut self, key: &'static str, time: std::time::Duration) -> &mut Self {
        self.number(key, u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn flag(&mut self, key: &'static str, value: bool) -> &mut Self {
        self.plain(key, &value)
    }

    pub(crate) fn text(&mut self, key: &'static str, value: impl Display) -> &mut Self {
        self.quoted(key, &value)
    }

    fn quoted(&mut self, key: &'static str, value: &dyn Display) -> &mut Self {
        self.key(key);
        self.0.push('"');
        // Writing to a string fails only if a value's own Display does: then the text ends there.
        let _ = write!(Escaped(self.0), "{value}");
        self.0.push('"');
        self
    }

    /// A value that is JSON as it is displayed.
    pub(crate) fn plain(&mut self, key: &'static str, value: &dyn Display) -> &mut Self {
        self.key(key);
        let _ = write!(self.0, "{value}");
        self
    }

    fn key(&mut self, key: &'static str) {
        for part in [",\"", key, "\":"] {
            self.0.push_str(part);
        }
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.0.push_str("}\n");
    }
}

/// The inside of a string.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '"' | '\\' => self.0.extend(['\\', character]),
                // What reorders or breaks lines too: the log would escape it in a way of its own.
                '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => self.code(character)?,
                _ if character.is_control() => self.code(character)?,
                _ => self.0.push(character),
            }
        }
        Ok(())
    }
}

impl Escaped<'_> {
    /// By number; four digits suffice for what comes here.
    fn code(&mut self, character: char) -> fmt::Result {
        write!(self.0, "\\u{:04x}", u32::from(character))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(line: &str) -> Value {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn an_object_is_one_line_with_its_kind_first() {
        let mut out = String::new();
        Line::new(&mut out, "address").text("address", "10.0.0.1").number("rule", 3u32).flag("used", true);
        assert_eq!(out, "{\"kind\":\"address\",\"address\":\"10.0.0.1\",\"rule\":3,\"used\":true}\n");
        Line::new(&mut out, "end").number("most", u64::MAX);
        assert_eq!(out.lines().count(), 2);
        assert_eq!(read(out.lines().last().unwrap()), json!({ "kind": "end", "most": u64::MAX }));
    }

    #[test]
    fn every_character_reads_back_and_none_that_matters_to_a_terminal_is_left() {
        let all: Vec<char> = (0..=u32::from(char::MAX)).filter_map(char::from_u32).collect();
        for some in all.chunks(999) {
            let (text, mut out) = (some.iter().collect::<String>(), String::new());
            Line::new(&mut out, "x").text("text", &text);
            assert_eq!(read(&out), json!({ "kind": "x", "text": text }));
            let line = out.strip_suffix('\n').unwrap();
            assert!(!line.contains(|character: char| character.is_control() || character == '\u{202e}'), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_utf8_reads_back_as_its_replacement() {
        let mut out = String::new();
        Line::new(&mut out, "interface").text("name", String::from_utf8_lossy(b"\xff\"\\\n\x7f\xc3"));
        assert_eq!(read(&out)["name"], json!("\u{fffd}\"\\\n\u{7f}\u{fffd}"));
    }
}
