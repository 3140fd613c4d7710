//! A path manager's own settings, with the place of every value for errors.
//!
//! A path manager asks for its keys by name and type; what nobody asked for is then an error that
//! lists the keys that were. Reads no file and knows nothing of `[core]`.

pub(crate) mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::names;
use tree::{Node, Table, Value};

/// The table `[pm.NAME]` of the configuration, merged from all files; empty if there is none.
///
/// Every accessor returns `None` for a key that is not there, and remembers that it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The path manager whose settings these are.
    name: String,
    table: Table,
    /// Keys that an accessor was called with.
    asked: Vec<String>,
}

/// Where something stands in a file of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    source: Arc<Source>,
    /// In bytes from the start of the text.
    offset: usize,
}

/// A text of the configuration and the file it came from.
#[derive(PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

/// A string of the configuration that knows where it stands; use it as a `&str`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    text: String,
    place: Place,
}

/// What is wrong with a setting, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    place: Option<Place>,
    message: String,
}

impl Settings {
    pub(crate) fn new(name: &str, table: Table) -> Self {
        Self { name: name.to_owned(), table, asked: Vec::new() }
    }

    /// The settings that a TOML text gives to the path manager `name`; for tests of path managers.
    ///
    /// # Errors
    ///
    /// If the text is not valid TOML.
    pub fn parse(name: &str, toml: &str) -> Result<Self, SettingsError> {
        let source = Source { path: PathBuf::from(format!("{name}.toml")), text: toml.to_owned() };
        Ok(Self::new(name, tree::parse(&Arc::new(source))?))
    }

    /// An integer within `range`.
    ///
    /// # Errors
    ///
    /// If the value is none, or is out of range.
    pub fn integer(&mut self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, SettingsError> {
        self.ask(key).map(|node| node.integer(key, range)).transpose()
    }

    /// `true` or `false`.
    ///
    /// # Errors
    ///
    /// If the value is neither.
    pub fn boolean(&mut self, key: &str) -> Result<Option<bool>, SettingsError> {
        self.ask(key).map(|node| node.boolean(key)).transpose()
    }

    /// A time such as "250ms" or "2s", within `range` of milliseconds.
    ///
    /// # Errors
    ///
    /// If the value is none, or is out of range.
    pub fn duration(&mut self, key: &str, range: RangeInclusive<u64>) -> Result<Option<Duration>, SettingsError> {
        self.ask(key).map(|node| node.duration(key, range)).transpose()
    }

    /// A string, which may be empty.
    ///
    /// # Errors
    ///
    /// If the value is none.
    pub fn string(&mut self, key: &str) -> Result<Option<Text>, SettingsError> {
        self.ask(key).map(|node| node.text(key)).transpose()
    }

    /// A list of strings: an array, or one string with commas between them.
    ///
    /// # Errors
    ///
    /// If the value is neither, or has an empty item between commas.
    pub fn strings(&mut self, key: &str) -> Result<Option<Vec<Text>>, SettingsError> {
        self.ask(key).map(|node| node.texts(key)).transpose()
    }

    /// A table of strings, `[pm.NAME.KEY]`, by key.
    ///
    /// # Errors
    ///
    /// If the value is no table, or something in it is no string.
    pub fn table(&mut self, key: &str) -> Result<Option<BTreeMap<String, Text>>, SettingsError> {
        let Some(node) = self.ask(key) else { return Ok(None) };
        let Value::Table(table) = &node.value else {
            return Err(node.wrong_type(key, "expected a table"));
        };
        let texts = table.entries().iter().map(|entry| {
            let text = entry.node.text(&format!("{key}.{}", tree::key(&entry.key)))?;
            Ok((entry.key.clone(), text))
        });
        texts.collect::<Result<_, _>>().map(Some)
    }

    /// An error about the value of `key`, or about the whole table if it has no such key.
    #[must_use]
    pub fn error(&self, key: &str, message: impl fmt::Display) -> SettingsError {
        match self.table.find(key) {
            Some(entry) => entry.node.error(format!("{key}: {message}")),
            None => SettingsError { place: None, message: format!("[pm.{}] {key}: {message}", self.name) },
        }
    }

    /// Refuses a key that no accessor was called with. The daemon calls it after [`Plugin::build`](crate::plugin::Plugin::build).
    ///
    /// # Errors
    ///
    /// If there is such a key; the error lists those that were asked for.
    pub fn finish(&self) -> Result<(), SettingsError> {
        let Some(entry) = self.table.entries().iter().find(|entry| !self.asked.contains(&entry.key)) else {
            return Ok(());
        };
        let message = if self.asked.is_empty() {
            format!("{} has no settings, found the key {}", self.name, names::quoted(&entry.key))
        } else {
            let asked: Vec<&str> = self.asked.iter().map(String::as_str).collect();
            names::unknown(format_args!("key of [pm.{}]", self.name), &entry.key, &asked)
        };
        Err(SettingsError { place: Some(entry.place.clone()), message })
    }

    pub(crate) fn entries(&self) -> &Table {
        &self.table
    }

    fn ask(&mut self, key: &str) -> Option<&Node> {
        if !self.asked.iter().any(|asked| asked == key) {
            self.asked.push(key.to_owned());
        }
        self.table.find(key).map(|entry| &entry.node)
    }
}

impl Place {
    pub(crate) fn new(source: &Arc<Source>, offset: usize) -> Self {
        Self { source: Arc::clone(source), offset }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.source.path
    }

    /// The line, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.before().matches('\n').count() + 1
    }

    /// The column in characters, from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        let before = self.before();
        let line = before.rsplit('\n').next().unwrap_or(before);
        line.trim_start_matches('\u{feff}').chars().count() + 1
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    fn before(&self) -> &str {
        self.source.text.get(..self.offset).unwrap_or(&self.source.text)
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> SettingsError {
        SettingsError { place: Some(self.clone()), message: message.into() }
    }
}

impl fmt::Display for Place {
    /// `FILE:LINE:COLUMN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", names::shown(self.file()), self.line(), self.column())
    }
}

impl Text {
    pub(crate) fn new(text: &str, place: &Place) -> Self {
        Self { text: text.to_owned(), place: place.clone() }
    }

    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// An error about it.
    #[must_use]
    pub fn error(&self, message: impl fmt::Display) -> SettingsError {
        self.place.error(message.to_string())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl SettingsError {
    /// Where the offending text stands; `None` if something is missing altogether.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// What is wrong with it, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for SettingsError {
    /// `FILE:LINE:COLUMN: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for SettingsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::parse("x", text).unwrap()
    }

    #[test]
    fn values_are_given_by_type_and_absent_keys_are_none() {
        let mut settings =
            settings("n = -3\nb = true\ns = \"é\"\nl = [\"a\", \"b,c\"]\nm = \"a, b,\"\nt = { eth0 = \"backup\" }");
        assert_eq!(settings.integer("n", -3..=3), Ok(Some(-3)));
        assert_eq!(settings.boolean("b"), Ok(Some(true)));
        assert_eq!(settings.string("s").unwrap().as_deref(), Some("é"));
        let list = |texts: Option<Vec<Text>>| texts.unwrap().iter().map(|text| text.to_string()).collect::<Vec<_>>();
        assert_eq!(list(settings.strings("l").unwrap()), ["a", "b,c"]);
        assert_eq!(list(settings.strings("m").unwrap()), ["a", "b"]);
        let table = settings.table("t").unwrap().unwrap();
        assert_eq!(table.get("eth0").map(|text| &**text), Some("backup"));
        assert_eq!(settings.integer("absent", 0..=1), Ok(None));
        assert_eq!(settings.boolean("absent"), Ok(None));
        assert_eq!(settings.table("absent"), Ok(None));
        assert_eq!(settings.finish(), Ok(()));
    }

    #[test]
    fn a_key_that_nobody_asked_for_is_an_error_that_lists_those_asked_for() {
        let mut settings = settings("# comment\n  maximun = 3\n");
        settings.integer("maximum", 0..=8).unwrap();
        settings.string("name").unwrap();
        assert_eq!(
            settings.finish().unwrap_err().to_string(),
            "x.toml:2:3: unknown key of [pm.x] \"maximun\" (did you mean \"maximum\"?), valid: maximum, name"
        );
        let none = Settings::parse("x", "a=1").unwrap().finish().unwrap_err();
        assert_eq!(none.to_string(), "x.toml:1:1: x has no settings, found the key \"a\"");
    }

    #[test]
    fn a_wrong_type_or_value_is_named_with_its_place() {
        let mut settings = settings("\"é\" = 9\nb = 'yes'\nl = ['a', 1]\nm = 'a,,b'\nt = { 'a b' = 1 }\nf = [1.5]");
        let shown = |error: SettingsError| error.to_string();
        assert_eq!(
            shown(settings.integer("é", 0..=8).unwrap_err()),
            "x.toml:1:7: é: 9 is out of range, expected an integer from 0 to 8"
        );
        assert_eq!(
            shown(settings.boolean("b").unwrap_err()),
            "x.toml:2:5: b: \"yes\" is a string, expected true or false"
        );
        assert_eq!(shown(settings.strings("l").unwrap_err()), "x.toml:3:11: l: 1 is an integer, expected a string");
        assert_eq!(shown(settings.strings("m").unwrap_err()), "x.toml:4:5: m: empty item in the list \"a,,b\"");
        assert_eq!(
            shown(settings.table("t").unwrap_err()),
            "x.toml:5:15: t.\"a b\": 1 is an integer, expected a string"
        );
        assert_eq!(
            shown(settings.strings("é").unwrap_err()),
            "x.toml:1:7: é: 9 is an integer, expected an array of strings or a string with commas"
        );
        assert_eq!(shown(settings.string("f").unwrap_err()), "x.toml:6:5: f: [1.5] is an array, expected a string");
    }

    #[test]
    fn a_path_manager_can_make_errors_of_its_own() {
        let settings = settings("a = 1\nb = 2");
        assert_eq!(settings.error("b", "too many").to_string(), "x.toml:2:5: b: too many");
        assert_eq!(settings.error("c", "is missing").to_string(), "[pm.x] c: is missing");
    }

    #[test]
    fn a_mark_of_byte_order_takes_no_column() {
        let error = Settings::parse("x", "\u{feff}a = 1").unwrap().finish().unwrap_err();
        assert_eq!(error.place().map(|place| (place.line(), place.column())), Some((1, 1)));
    }
}
