//! Bytes that tell where in which stream they belong, so that nothing lost, repeated, moved or mixed up
//! goes unnoticed, and a check of them.

use std::fmt;

/// Bytes of a word: the number of the stream, and that of the word in it.
const WORD: usize = 8;
/// Bits of the number of the word.
const INDEX_BITS: u32 = 48;
/// Runs of wrong bytes that are described; more are only counted.
const DESCRIBED: usize = 20;

/// The content of a stream, from its begin on.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    stream: u16,
    next: u64,
}

impl Content {
    pub(crate) fn new(stream: u16) -> Self {
        Self { stream, next: 0 }
    }

    /// Writes the next bytes; their number has to be a multiple of eight.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_exact_mut(WORD) {
            word.copy_from_slice(&(u64::from(self.stream) << INDEX_BITS | self.next).to_be_bytes());
            self.next += 1;
        }
    }
}

/// Compares what arrives with what was sent.
#[derive(Debug)]
pub(crate) struct Checker {
    content: Content,
    expected: Vec<u8>,
    /// What arrived and was not compared: less than a word, between two calls.
    arrived: Vec<u8>,
    received: u64,
    damage: Vec<Damage>,
    wrong: u64,
}

impl Checker {
    pub(crate) fn new(stream: u16) -> Self {
        let content = Content::new(stream);
        Self { content, expected: Vec::new(), arrived: Vec::new(), received: 0, damage: Vec::new(), wrong: 0 }
    }

    /// Takes what arrived next.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        let begin = self.received - self.arrived.len() as u64;
        self.received += bytes.len() as u64;
        self.arrived.extend_from_slice(bytes);
        let whole = self.arrived.len() / WORD * WORD;
        self.expected.resize(whole, 0);
        self.content.fill(&mut self.expected);
        if self.arrived[..whole] != self.expected {
            self.inspect(begin);
        }
        self.arrived.drain(..whole);
    }

    /// Bytes that arrived.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that are not those that belong where they are.
    pub(crate) fn wrong(&self) -> u64 {
        self.wrong
    }

    /// Where they are; only so many as can be of use.
    pub(crate) fn damage(&self) -> &[Damage] {
        &self.damage
    }

    fn inspect(&mut self, begin: u64) {
        for (offset, expected) in (0..).step_by(WORD).zip(self.expected.chunks_exact(WORD)) {
            if self.arrived[offset..offset + WORD] == *expected {
                continue;
            }
            self.wrong += WORD as u64;
            let at = begin + offset as u64;
            let belongs = origin(&self.arrived[offset..], self.content.stream);
            if let Some(last) = self.damage.last_mut().filter(|last| last.goes_on(at, belongs)) {
                last.length += WORD as u64;
            } else if self.damage.len() < DESCRIBED {
                self.damage.push(Damage { at, length: WORD as u64, belongs });
            }
        }
    }
}

/// Where in a stream bytes belong, if they are of it; they need not begin with a word.
fn origin(bytes: &[u8], stream: u16) -> Option<u64> {
    let word = |at: usize| Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let is_ours = |word: u64| word >> INDEX_BITS == u64::from(stream);
    let position = |word: u64| (word & ((1 << INDEX_BITS) - 1)) * WORD as u64;
    let aligned = word(0).filter(|word| is_ours(*word));
    aligned.map(position).or_else(|| {
        (1..WORD).find_map(|shift| {
            let (one, next) = (word(shift)?, word(shift + WORD)?);
            (is_ours(one) && next == one + 1).then(|| position(one) - shift as u64)
        })
    })
}

/// A run of bytes that do not belong where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    at: u64,
    length: u64,
    /// Where they do, if that is anywhere in the stream.
    belongs: Option<u64>,
}

impl Damage {
    fn goes_on(&self, at: u64, belongs: Option<u64>) -> bool {
        self.at + self.length == at && self.belongs.map(|origin| origin + self.length) == belongs
    }

    /// Whether it is what Linux (6.18 at least) is known to do rarely when a subflow joins a stream at full
    /// rate, whatever manages the paths: some kilobytes come from a little further on.
    pub(crate) fn is_known_of_the_kernel(&self) -> bool {
        let ahead = self.belongs.and_then(|origin| origin.checked_sub(self.at));
        self.length <= 65_536 && ahead.is_some_and(|ahead| (1..4_000_000).contains(&ahead))
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, length, belongs } = self;
        write!(f, "{length} bytes at {at} ")?;
        match belongs {
            Some(origin) => write!(f, "belong at {origin} ({:+})", i128::from(*origin) - i128::from(*at)),
            None => write!(f, "are not of this stream"),
        }
    }
}
