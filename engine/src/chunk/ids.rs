//! Owns maps by chunk id.
//!
//! Always: takes an id's own bytes for its hash. They are from keyed BLAKE3: whoever does not know the repository's key cannot make them collide. Never: for ids
//! that were read from a store, which could be any.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use cryostore_format::ChunkId;

/// A map from chunk ids.
pub type IdMap<V> = HashMap<ChunkId, V, BuildHasherDefault<IdHasher>>;

/// Takes the first eight bytes of an id for its hash.
#[derive(Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length of the id, which all have.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_under_their_own_bytes() {
        let id = |n: u8| ChunkId::from_bytes([n; 16]);
        let map: IdMap<u8> = (0..200).map(|n| (id(n), n)).collect();
        assert!((0..200).all(|n| map.get(&id(n)) == Some(&n)));
        assert_eq!(map.get(&id(200)), None);
        let hash = |n| {
            use std::hash::Hash as _;
            let mut hasher = IdHasher::default();
            id(n).hash(&mut hasher);
            hasher.finish()
        };
        assert_eq!(hash(7), 0x0707_0707_0707_0707);
    }
}
