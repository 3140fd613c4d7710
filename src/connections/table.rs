//! Where connections are kept: close together and found by token, so that ten thousand cost little and
//! their memory goes back when they are closed.

use super::TokenMap;
use crate::types::Token;

/// What is kept of connections, by token.
///
/// It lies in one piece, which the allocator takes from the system apart from the rest: whatever else is kept
/// meanwhile, it goes back as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Table<T> {
    places: TokenMap<u32>,
    /// In no particular order, without gaps.
    entries: Vec<(Token, T)>,
}

/// Below this there is nothing to give back.
const SMALL: usize = 64;

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { places: TokenMap::default(), entries: Vec::new() }
    }
}

impl<T> Table<T> {
    pub(crate) fn contains(&self, token: Token) -> bool {
        self.places.contains_key(&token)
    }

    pub(crate) fn get(&self, token: Token) -> Option<&T> {
        self.entries.get(self.place(token)?).map(|(_, kept)| kept)
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let place = self.place(token)?;
        self.entries.get_mut(place).map(|(_, kept)| kept)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts one in; what was there of that token.
    pub(crate) fn insert(&mut self, token: Token, kept: T) -> Option<T> {
        if let Some(there) = self.get_mut(token) {
            return Some(std::mem::replace(there, kept));
        }
        let place = u32::try_from(self.entries.len()).ok()?;
        if self.entries.len() == self.entries.capacity() {
            // By a sixteenth: what lies idle counts too.
            self.entries.reserve_exact((self.entries.len() / 16).max(16));
        }
        self.entries.push((token, kept));
        self.places.insert(token, place);
        None
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, token: Token) -> Option<T> {
        let place = self.places.remove(&token)?;
        let index = usize::try_from(place).ok()?;
        let (_, removed) = self.entries.swap_remove(index);
        if let Some((moved, _)) = self.entries.get(index) {
            self.places.insert(*moved, place);
        }
        let length = self.entries.len().max(SMALL);
        if self.entries.capacity() / 4 > length {
            self.entries.shrink_to(length * 2);
            self.places.shrink_to(length * 2);
        }
        Some(removed)
    }

    /// The connection at that place, or at the first behind the last, and the place after it.
    pub(crate) fn next_from(&self, place: usize) -> (Option<Token>, usize) {
        let place = if place < self.entries.len() { place } else { 0 };
        (self.entries.get(place).map(|(token, _)| *token), place + 1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.entries.iter().map(|(token, kept)| (*token, kept))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Token, &mut T)> {
        self.entries.iter_mut().map(|(token, kept)| (*token, kept))
    }

    fn place(&self, token: Token) -> Option<usize> {
        usize::try_from(*self.places.get(&token)?).ok()
    }
}

impl<T> FromIterator<(Token, T)> for Table<T> {
    fn from_iter<I: IntoIterator<Item = (Token, T)>>(all: I) -> Self {
        let mut table = Self::default();
        all.into_iter().for_each(|(token, kept)| drop(table.insert(token, kept)));
        table
    }
}

/// In whatever order.
impl<T: PartialEq> PartialEq for Table<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(token, kept)| other.get(token) == Some(kept))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[track_caller]
    fn check(table: &mut Table<u32>, expected: &BTreeMap<Token, u32>) {
        assert_eq!((table.len(), table.is_empty()), (expected.len(), expected.is_empty()));
        let sorted: BTreeMap<Token, u32> = table.iter().map(|(token, kept)| (token, *kept)).collect();
        assert_eq!(&sorted, expected);
        assert_eq!(table.iter_mut().count(), expected.len());
        let (mut place, mut seen) = (0, BTreeMap::new());
        for _ in 0..expected.len() {
            let (token, next) = table.next_from(place);
            let token = token.unwrap();
            assert_eq!(table.get(token).copied(), expected.get(&token).copied());
            seen.insert(token, *table.get_mut(token).unwrap());
            place = next;
        }
        assert_eq!(&seen, expected, "one after the other");
        assert_eq!(table.next_from(place).0, table.next_from(0).0, "and around");
        let most = 8 * expected.len().max(SMALL);
        assert!(table.entries.capacity() <= most && table.places.capacity() <= most);
    }

    #[test]
    fn it_keeps_what_a_map_would_and_gives_room_back() {
        let (mut table, mut expected) = (Table::default(), BTreeMap::new());
        let mut random = 1_u32;
        for growing in [true, false, true] {
            for step in 0..3000 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let token = Token((random >> 16) % 900);
                if growing == (random % 1024 > 200) {
                    assert_eq!(table.insert(token, step), expected.insert(token, step));
                } else {
                    assert_eq!(table.remove(token), expected.remove(&token));
                }
                assert_eq!(table.contains(token), expected.contains_key(&token));
                if step % 100 == 0 {
                    check(&mut table, &expected);
                }
            }
        }
        for token in (0..900).map(Token) {
            assert_eq!(table.remove(token), expected.remove(&token));
            check(&mut table, &expected);
        }
        assert_eq!(table.next_from(5), (None, 1));
    }
}
