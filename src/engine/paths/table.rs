//! Where connections are kept: close together and found by token, so that ten thousand cost little and
//! their memory goes back when they are closed.

use super::managed::Managed;
use crate::connections::TokenMap;
use crate::types::Token;

/// Connections by token.
#[derive(Debug, Default)]
pub(super) struct Table {
    places: TokenMap<u32>,
    /// In no particular order, without gaps.
    entries: Vec<(Token, Managed)>,
}

/// Below this there is nothing to give back.
const SMALL: usize = 64;

impl Table {
    pub(super) fn contains(&self, token: Token) -> bool {
        self.places.contains_key(&token)
    }

    pub(super) fn get(&self, token: Token) -> Option<&Managed> {
        let place = *self.places.get(&token)?;
        self.entries.get(usize::try_from(place).ok()?).map(|(_, managed)| managed)
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Managed> {
        let place = *self.places.get(&token)?;
        self.entries.get_mut(usize::try_from(place).ok()?).map(|(_, managed)| managed)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts a connection in; whether it takes the place of an earlier one of that token.
    pub(super) fn insert(&mut self, token: Token, managed: Managed) -> bool {
        let replaced = self.remove(token);
        let Ok(place) = u32::try_from(self.entries.len()) else { return replaced };
        if self.entries.len() == self.entries.capacity() {
            // By a sixteenth: what lies idle counts too.
            self.entries.reserve_exact((self.entries.len() / 16).max(16));
        }
        self.entries.push((token, managed));
        self.places.insert(token, place);
        replaced
    }

    /// Takes a connection out; whether there was one.
    pub(super) fn remove(&mut self, token: Token) -> bool {
        let Some(place) = self.places.remove(&token) else { return false };
        let Ok(index) = usize::try_from(place) else { return false };
        self.entries.swap_remove(index);
        if let Some((moved, _)) = self.entries.get(index) {
            self.places.insert(*moved, place);
        }
        self.give_back();
        true
    }

    fn give_back(&mut self) {
        let length = self.entries.len().max(SMALL);
        if self.entries.capacity() / 4 > length {
            self.entries.shrink_to(length * 2);
            self.places.shrink_to(length * 2);
        }
    }

    /// The connection at that place, or at the first behind the last, and the place after it.
    pub(super) fn next_from(&self, place: usize) -> (Option<Token>, usize) {
        let place = if place < self.entries.len() { place } else { 0 };
        (self.entries.get(place).map(|(token, _)| *token), place + 1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Token, &Managed)> {
        self.entries.iter().map(|(token, managed)| (*token, managed))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Token, &mut Managed)> {
        self.entries.iter_mut().map(|(token, managed)| (*token, managed))
    }
}
