//! Tokens: those that were closed lately, and maps by token.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::types::Token;

/// Tokens that were closed lately: what the kernel still says of them is not news.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    tokens: VecDeque<(Token, Instant)>,
}

/// Late events come within milliseconds; tokens may be reused after that.
const CLOSED_TIME: Duration = Duration::from_secs(2);
const MOST_CLOSED: usize = 256;

impl Closed {
    pub(crate) fn bury(&mut self, token: Token, now: Instant) {
        while self.tokens.len() >= MOST_CLOSED || self.tokens.front().is_some_and(|(_, at)| *at + CLOSED_TIME <= now) {
            self.tokens.pop_front();
        }
        self.tokens.push_back((token, now));
    }

    pub(crate) fn contains(&self, token: Token, now: Instant) -> bool {
        self.tokens.iter().rev().any(|(buried, at)| *buried == token && *at + CLOSED_TIME > now)
    }
}

/// Tokens are hashes of keys already (RFC 8684, section 3.1): they need no second one. A peer can choose
/// its own key and not this host's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u32(&mut self, token: u32) {
        // The table takes its buckets from the low bits and its tags from the high ones.
        self.0 = u64::from(token).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

pub(crate) type TokenMap<T> = std::collections::HashMap<Token, T, BuildHasherDefault<TokenHasher>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_buried_for_a_while_and_so_many_are() {
        let (mut closed, now) = (Closed::default(), Instant::now());
        closed.bury(Token(1), now);
        assert!(closed.contains(Token(1), now + CLOSED_TIME / 2));
        assert!(!closed.contains(Token(1), now + CLOSED_TIME));
        (0..1000).for_each(|n| closed.bury(Token(n), now));
        assert_eq!(closed.tokens.len(), MOST_CLOSED);
        assert!(closed.contains(Token(999), now) && !closed.contains(Token(0), now));
    }
}
