//! A record as one line of text: `message key=value ...`. Nothing in a message or a value, however
//! odd the name of an interface, may start another line or talk to the terminal.

use std::fmt::{self, Write};

use slog::{KV, Key, OwnedKVList, Record};

/// Appends the record's message, its values and those of its logger, without an end of line.
pub(super) fn append(out: &mut String, record: &Record<'_>, values: &OwnedKVList) {
    // Writing to a string fails only if a value's own Display does: then the line ends there.
    let _ = write!(Escaped(out), "{}", record.msg());
    append_values(out, record, &record.kv());
    append_values(out, record, values);
}

fn append_values(out: &mut String, record: &Record<'_>, values: &impl KV) {
    let mut pairs = Pairs(Vec::new());
    let _ = values.serialize(record, &mut pairs);
    // slog hands the last one over first.
    for (key, value) in pairs.0.iter().rev() {
        out.push(' ');
        out.push_str(key);
        out.push('=');
        append_value(out, value);
    }
}

fn append_value(out: &mut String, value: &str) {
    if !value.is_empty() && !value.contains([' ', '"']) {
        append_escaped(out, value);
        return;
    }
    out.push('"');
    append_escaped(out, &value.replace('"', "\\\""));
    out.push('"');
}

/// Appends the text with every control character, and every character that reorders or breaks lines,
/// as `\n`, `\u{1b}` and the like.
pub(super) fn append_escaped(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.extend(character.escape_default());
            }
            _ if character.is_control() => out.extend(character.escape_default()),
            _ => out.push(character),
        }
    }
}

struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        append_escaped(self.0, text);
        Ok(())
    }
}

struct Pairs(Vec<(Key, String)>);

impl slog::Serializer for Pairs {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.push((key, value.to_string()));
        Ok(())
    }

    // No value of the daemon's is a fraction, and formatting them would be 15 kB of the program.
    fn emit_f32(&mut self, _: Key, _: f32) -> slog::Result {
        Err(slog::Error::Other)
    }

    fn emit_f64(&mut self, _: Key, _: f64) -> slog::Result {
        Err(slog::Error::Other)
    }
}

#[cfg(test)]
mod tests {
    use slog::{Drain, Logger, Never, info, o};

    use super::*;

    /// What `append` makes of one record, through a real logger.
    fn line(logger_values: bool, record: impl Fn(&Logger)) -> String {
        static LINE: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
        static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
        struct Keep;
        impl Drain for Keep {
            type Ok = ();
            type Err = Never;
            fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
                append(&mut LINE.lock().unwrap(), record, values);
                Ok(())
            }
        }
        let _guard = ONE_AT_A_TIME.lock();
        let log = Logger::root(Keep, o!());
        if logger_values {
            record(&log.new(o!("netns" => "a", "round" => 2)))
        } else {
            record(&log)
        }
        std::mem::take(&mut LINE.lock().unwrap())
    }

    #[test]
    fn values_follow_the_message_in_the_order_of_the_source() {
        let text = line(true, |log| info!(log, "endpoint {}", "added"; "address" => "10.0.0.1", "id" => 3));
        assert_eq!(text, "endpoint added address=10.0.0.1 id=3 netns=a round=2");
    }

    #[test]
    fn values_with_blanks_or_quotes_or_nothing_are_quoted() {
        let text = line(false, |log| info!(log, "m"; "a" => "two words", "b" => "say \"x\"", "c" => ""));
        assert_eq!(text, r#"m a="two words" b="say \"x\"" c="""#);
    }

    #[test]
    fn control_characters_stay_on_their_line() {
        let text = line(false, |log| info!(log, "x\ny"; "interface" => "e\r\n\u{1b}[2J\u{9b}\u{202e}\0"));
        assert_eq!(text, "x\\ny interface=e\\r\\n\\u{1b}[2J\\u{9b}\\u{202e}\\u{0}");
    }
}
