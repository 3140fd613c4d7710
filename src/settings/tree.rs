//! TOML as an owned tree in which every key and value knows its place.
//!
//! Asks nothing of the keys; writes values back as TOML on one line.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::{Place, SettingsError, Source, Text};
use crate::names;

/// A table, its entries in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Table),
    /// A type that no setting has: what to call it, and how it was written.
    Other(&'static str, String),
}

/// Reads a TOML document.
pub(crate) fn parse(source: &Arc<Source>) -> Result<Table, SettingsError> {
    match DeTable::parse(&source.text) {
        Ok(table) => own_table(table.get_ref(), source),
        Err(error) => {
            let place = Place::new(source, error.span().map_or(source.text.len(), |span| span.start));
            Err(place.error(format!("not valid TOML: {}", error.message().replace('\n', " "))))
        }
    }
}

fn own_table(table: &DeTable<'_>, source: &Arc<Source>) -> Result<Table, SettingsError> {
    let entries = table.iter().map(|(key, value)| {
        let place = Place::new(source, key.span().start);
        let node = own_node(value.get_ref(), Place::new(source, value.span().start), source)?;
        Ok(Entry { key: key.get_ref().to_string(), place, node })
    });
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort_unstable_by_key(|entry| entry.place.offset());
    Ok(Table { entries })
}

fn own_node(value: &DeValue<'_>, place: Place, source: &Arc<Source>) -> Result<Node, SettingsError> {
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) => Value::Integer(value),
            Err(_) => return Err(place.error(format!("the integer {} is too large", cut(&number.to_string())))),
        },
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Array(items) => {
            let items =
                items.iter().map(|item| own_node(item.get_ref(), Place::new(source, item.span().start), source));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Value::Table(own_table(table, source)?),
        DeValue::Float(number) => Value::Other("a floating-point number", number.to_string()),
        DeValue::Datetime(time) => Value::Other("a date or time", time.to_string()),
    };
    Ok(Node { value, place })
}

impl Table {
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn find(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Adds an entry in the place of one with the same key.
    pub(crate) fn put(&mut self, entry: Entry) {
        match self.entries.iter_mut().find(|old| old.key == entry.key) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
    }
}

impl Node {
    pub(crate) fn error(&self, message: impl Into<String>) -> SettingsError {
        self.place.error(message)
    }

    pub(crate) fn wrong_type(&self, key: &str, expected: &str) -> SettingsError {
        self.error(format!("{key}: {} is {}, {expected}", cut(&self.value.to_string()), self.value.kind()))
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<bool, SettingsError> {
        match self.value {
            Value::Boolean(value) => Ok(value),
            _ => Err(self.wrong_type(key, "expected true or false")),
        }
    }

    /// An integer within a range.
    pub(crate) fn integer(&self, key: &str, range: RangeInclusive<i64>) -> Result<i64, SettingsError> {
        let expected = format!("expected an integer from {} to {}", range.start(), range.end());
        let Value::Integer(value) = self.value else { return Err(self.wrong_type(key, &expected)) };
        match range.contains(&value) {
            true => Ok(value),
            false => Err(self.error(format!("{key}: {value} is out of range, {expected}"))),
        }
    }

    /// A time such as "250ms" or "2s", within a range of milliseconds.
    pub(crate) fn duration(&self, key: &str, range: RangeInclusive<u64>) -> Result<Duration, SettingsError> {
        let (least, most) = (shown(Duration::from_millis(*range.start())), shown(Duration::from_millis(*range.end())));
        let expected = format!("expected a time from {least} to {most}, such as \"250ms\" or \"2s\"");
        let Value::Text(text) = &self.value else { return Err(self.wrong_type(key, &expected)) };
        let millis = milliseconds(text).filter(|millis| range.contains(millis));
        let error = || self.error(format!("{key}: {} is not one, {expected}", names::quoted(text)));
        millis.map(Duration::from_millis).ok_or_else(error)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Text, SettingsError> {
        match &self.value {
            Value::Text(text) => Ok(Text::new(text, &self.place)),
            _ => Err(self.wrong_type(key, "expected a string")),
        }
    }

    /// The items of an array of strings, or of one string with commas.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<Text>, SettingsError> {
        match &self.value {
            Value::Array(items) => items.iter().map(|item| item.text(key)).collect(),
            Value::Text(list) => {
                let items = names::items(list).map_err(|error| self.error(format!("{key}: {error}")))?;
                Ok(items.into_iter().map(|item| Text::new(item, &self.place)).collect())
            }
            _ => Err(self.wrong_type(key, "expected an array of strings or a string with commas")),
        }
    }
}

impl Value {
    /// What to call its type in a message.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
            Self::Other(kind, _) => kind,
        }
    }
}

impl fmt::Display for Value {
    /// As TOML, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&string(text)),
            Self::Integer(value) => value.fmt(f),
            Self::Boolean(value) => value.fmt(f),
            Self::Array(items) => {
                let items: Vec<String> = items.iter().map(|item| item.value.to_string()).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Table(table) => table.fmt(f),
            Self::Other(_, text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Table {
    /// As an inline table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.iter().map(|entry| format!("{} = {}", key(&entry.key), entry.node.value));
        let entries: Vec<String> = entries.collect();
        if entries.is_empty() { f.write_str("{}") } else { write!(f, "{{ {} }}", entries.join(", ")) }
    }
}

/// A time in the form in which it is read.
pub(crate) fn shown(time: Duration) -> String {
    let millis = time.as_millis();
    if millis % 1000 == 0 && millis > 0 { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

fn milliseconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    match unit.trim_start() {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        _ => None,
    }
}

/// A key as TOML: bare where that is possible.
pub(crate) fn key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { string(key) }
}

/// A basic string of TOML.
pub(crate) fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// TOML on one line, cut when long.
fn cut(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn table(text: &str) -> Result<Table, SettingsError> {
        parse(&Arc::new(Source { path: "f".into(), text: text.to_owned() }))
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let odd = ["", "é\u{0}\u{7f}\u{85}\t\r\n\"\\'", "a\u{10ffff}", "=#[]{},.", "\u{1b}[0m"];
        for text in odd {
            let line = format!("k = {}\n{} = 1", string(text), key(text));
            let table = table(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(matches!(&table.find("k").unwrap().node.value, Value::Text(read) if read == text), "{line}");
            assert!(table.find(text).is_some(), "{line}");
            assert!(!string(text).contains('\n'));
        }
        let numbers = table("a = [0x1f, 0o17, 0b11, 1_000, +1, -9223372036854775808]").unwrap().to_string();
        assert_eq!(numbers, "{ a = [31, 15, 3, 1000, 1, -9223372036854775808] }");
        let all = "{ a = [1, -2, true, \"x\"], b = {}, \"c d\" = { e = [] }, f = 1.5, g = 2020-01-01 }";
        assert_eq!(table(&format!("t = {all}")).unwrap().find("t").unwrap().node.value.to_string(), all);
    }

    #[test]
    fn entries_stand_in_the_order_of_the_file_and_a_later_one_takes_the_place_of_an_earlier() {
        let mut first = table("b = 1\na = 2").unwrap();
        first.put(table("b = 3").unwrap().entries()[0].clone());
        assert_eq!(first.to_string(), "{ b = 3, a = 2 }");
    }

    #[test]
    fn what_is_not_toml_is_named_on_one_line_with_its_place() {
        for (text, error) in [
            ("a = 1\nb = x\n", "f:2:5: not valid TOML: string values must be quoted, expected literal string"),
            ("a = 1\na = 2", "f:2:1: not valid TOML: duplicate key"),
            ("a = [1,", "f:1:8: not valid TOML: unclosed array, expected `]`"),
            ("a = 9223372036854775808", "f:1:5: the integer 9223372036854775808 is too large"),
        ] {
            assert_eq!(table(text).unwrap_err().to_string(), error);
        }
        let long = table(&format!("a = {}", "9".repeat(1000))).unwrap_err().to_string();
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn depth_never_overflows_the_stack() {
        for text in [
            format!("{}a = 1", "a.".repeat(400_000)),
            format!("[{}a]", "a.".repeat(400_000)),
            format!("a = {}", "[".repeat(400_000)),
            format!("a = {}", "{a=".repeat(300_000)),
            format!("[{0}a]\n{0}a = {{{0}a = {{{0}a = 1}}}}", "a.".repeat(70)),
        ] {
            let _ = table(&text);
        }
    }

    #[test]
    fn no_text_panics() {
        let pieces = [
            "[core]\n",
            "[pm.x]\n",
            "a",
            ".",
            " = ",
            "\"",
            "'''",
            "1",
            "-",
            "0x",
            "e9",
            "true",
            "[",
            "]",
            "{",
            "}",
            ",",
            "#",
            "\n",
            "\r",
            "é",
            "\u{feff}",
            "\\u",
            "2020-01-01",
            "T",
            ":",
            "inf",
            "\0",
        ];
        let mut random = Random::new(2);
        for _ in 0..20_000 {
            let text: String = (0..random.below(12)).map(|_| random.pick(&pieces)).collect();
            match table(&text) {
                Ok(read) => drop(read.to_string()),
                Err(error) => assert!(!error.to_string().contains('\n'), "{text:?}: {error}"),
            }
        }
    }
}
