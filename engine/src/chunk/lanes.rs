//! Owns hashing many chunks of one length at once, a chunk in each lane of the machine's widest registers.
//!
//! Always: equal to plain keyed BLAKE3 of each. A page of 4 KiB alone fills 4 of AVX-512's 16 lanes; side by side sixteen pages fill all of
//! them. Never: allocates per page.
//!
//! BLAKE3 cuts an input into chunks of 1 KiB, and their chaining values are the leaves of a binary tree (BLAKE3 paper, section 2.1). For inputs
//! of 2^n KiB the tree is complete, so that the n-th leaf of all of them, then each level, is one call with one counter and one set of flags.

use blake3::IncrementCounter;
use blake3::platform::Platform;
use cryostore_format::{ChunkHash, IdKey};

/// BLAKE3's own chunk, a leaf of its tree.
const LEAF: usize = 1024;
/// Two chaining values: the input of an inner node.
const NODE: usize = 64;
const CHAINING: usize = 32;
/// Pages that go side by side: AVX-512 has 16 lanes, and narrower machines go over them in steps of their own.
pub const SIDE_BY_SIDE: usize = 16;
/// 64 KiB, the largest page: 64 leaves.
const LEAVES_MAX: usize = 64;

// BLAKE3 paper, table 3.
const CHUNK_START: u8 = 1 << 0;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;
const KEYED_HASH: u8 = 1 << 4;

/// Hashes with one key.
#[derive(Debug, Clone, Copy)]
pub struct Lanes {
    key: [u32; 8],
    platform: Platform,
}

impl Lanes {
    /// For this machine.
    #[must_use]
    pub fn new(key: &IdKey) -> Self {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(key.as_bytes().as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self {
            key: words,
            platform: Platform::detect(),
        }
    }

    /// True for the lengths that go side by side.
    #[must_use]
    pub const fn takes(len: usize) -> bool {
        len.is_power_of_two() && len >= 2 * LEAF && len <= LEAVES_MAX * LEAF
    }

    /// Hashes up to [`SIDE_BY_SIDE`] pages, all of one length that [`Self::takes`].
    pub fn hash(&self, pages: &[&[u8]], out: &mut [ChunkHash]) {
        let pages = &pages[..pages.len().min(SIDE_BY_SIDE)];
        match pages.first().map_or(0, |page| page.len() / LEAF) {
            2 => self.tree::<2>(pages, out),
            4 => self.tree::<4>(pages, out),
            8 => self.tree::<8>(pages, out),
            16 => self.tree::<16>(pages, out),
            32 => self.tree::<32>(pages, out),
            64 => self.tree::<64>(pages, out),
            _ => debug_assert!(pages.is_empty()),
        }
    }

    fn tree<const LEAVES: usize>(&self, pages: &[&[u8]], out: &mut [ChunkHash]) {
        let width = pages.len();
        let row = width * CHAINING;
        // The chaining values of the n-th node of all pages are row n. A level takes the place of the one below, front first.
        let mut rows = [[0; SIDE_BY_SIDE * CHAINING]; LEAVES];
        for (leaf, values) in rows.iter_mut().enumerate() {
            let mut inputs = [&[0; LEAF]; SIDE_BY_SIDE];
            for (input, page) in inputs.iter_mut().zip(pages) {
                *input = &page.as_chunks().0[leaf];
            }
            self.platform.hash_many(
                &inputs[..width],
                &self.key,
                leaf as u64,
                IncrementCounter::No,
                KEYED_HASH,
                CHUNK_START,
                CHUNK_END,
                &mut values[..row],
            );
        }
        let mut nodes = LEAVES;
        while nodes > 1 {
            let root = if nodes == 2 { ROOT } else { 0 };
            nodes /= 2;
            for node in 0..nodes {
                let mut inputs = [[0; NODE]; SIDE_BY_SIDE];
                let (left, right) = (&rows[2 * node], &rows[2 * node + 1]);
                let halves = left
                    .as_chunks::<CHAINING>()
                    .0
                    .iter()
                    .zip(right.as_chunks::<CHAINING>().0);
                for (input, (left, right)) in inputs[..width].iter_mut().zip(halves) {
                    input[..CHAINING].copy_from_slice(left);
                    input[CHAINING..].copy_from_slice(right);
                }
                self.platform.hash_many(
                    &inputs.each_ref()[..width],
                    &self.key,
                    0,
                    IncrementCounter::No,
                    KEYED_HASH | PARENT | root,
                    0,
                    0,
                    &mut rows[node][..row],
                );
            }
        }
        for (out, hash) in out.iter_mut().zip(rows[0].as_chunks().0).take(width) {
            *out = ChunkHash::from_bytes(*hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_number_of_pages_side_by_side_hash_as_each_alone(
            key in any::<[u8; 32]>(),
            count in 1_usize..=SIDE_BY_SIDE,
            shift in 1_u32..=6,
            seed in any::<u64>(),
        ) {
            let len = LEAF << shift;
            let mut state = seed | 1;
            let bytes: Vec<u8> = (0..count * len)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_le_bytes()[0]
                })
                .collect();
            let key = IdKey::from_bytes(key);
            let pages: Vec<_> = bytes.chunks(len).collect();
            let mut out = vec![ChunkHash::default(); count];
            Lanes::new(&key).hash(&pages, &mut out);
            for (page, hash) in pages.iter().zip(&out) {
                prop_assert_eq!(*hash, key.chunk_hash(page));
            }
        }
    }
}
