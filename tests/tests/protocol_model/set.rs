//! Owns small sets: of packs, snapshots, sessions and collection records, each by its number.

use std::fmt;

/// A set of numbers below 8.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Set(u8);

impl Set {
    pub const EMPTY: Self = Self(0);
    pub const ALL: Self = Self(u8::MAX);

    pub fn of(numbers: &[usize]) -> Self {
        numbers.iter().copied().collect()
    }

    pub const fn has(self, number: usize) -> bool {
        self.0 >> number & 1 == 1
    }

    pub const fn add(&mut self, number: usize) {
        self.0 |= 1 << number;
    }

    pub const fn remove(&mut self, number: usize) {
        self.0 &= !(1 << number);
    }

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn within(self, other: Self) -> bool {
        self.without(other).is_empty()
    }

    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |number| self.has(*number))
    }

    pub fn first(self) -> Option<usize> {
        self.iter().next()
    }

    /// All subsets, the empty one first.
    pub fn subsets(self) -> impl Iterator<Item = Self> {
        (0..=u8::MAX)
            .filter(move |bits| bits & !self.0 == 0)
            .map(Self)
    }
}

impl FromIterator<usize> for Set {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        let mut set = Self::EMPTY;
        for number in numbers {
            set.add(number);
        }
        set
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
