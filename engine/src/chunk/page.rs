//! Owns pages: which are zero, and the hashes of the others, many at a time on all cores.
//!
//! Always: equal to plain keyed BLAKE3 of each page. Never: allocates per page.

use cryostore_format::{ChunkHash, IdKey};
use rayon::prelude::*;

use super::lanes::{Lanes, SIDE_BY_SIDE};

/// What one page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Every byte is zero.
    Zero,
    /// Its hash.
    Hash(ChunkHash),
}

/// Pages that one task hashes: 256 KiB of 4 KiB pages, some 50 µs.
const PAGES_PER_TASK: usize = 64;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// True if every byte is zero.
#[must_use]
pub fn is_zero(mut bytes: &[u8]) -> bool {
    while bytes.len() > ZEROS.len() {
        let (head, rest) = bytes.split_at(ZEROS.len());
        if head != ZEROS {
            return false;
        }
        bytes = rest;
    }
    bytes == &ZEROS[..bytes.len()]
}

/// Looks at the pages of `page_len` bytes that `bytes` holds (the last may be shorter) and replaces `out` by what they are.
pub fn look(key: &IdKey, bytes: &[u8], page_len: usize, out: &mut Vec<Page>) {
    let lanes = Lanes::new(key);
    out.clear();
    out.resize(bytes.len().div_ceil(page_len), Page::Zero);
    bytes
        .par_chunks(page_len * PAGES_PER_TASK)
        .zip(out.par_chunks_mut(PAGES_PER_TASK))
        .for_each(|(bytes, out)| look_at_some(key, &lanes, bytes, page_len, out));
}

fn look_at_some(key: &IdKey, lanes: &Lanes, bytes: &[u8], page_len: usize, out: &mut [Page]) {
    let mut batch: [&[u8]; SIDE_BY_SIDE] = [&[]; SIDE_BY_SIDE];
    let mut places = [0; SIDE_BY_SIDE];
    let mut waiting = 0;
    let end = |batch: &[&[u8]], places: &[usize], out: &mut [Page]| {
        let mut hashes = [ChunkHash::default(); SIDE_BY_SIDE];
        lanes.hash(batch, &mut hashes);
        for (place, hash) in places.iter().zip(hashes) {
            out[*place] = Page::Hash(hash);
        }
    };
    for (place, page) in bytes.chunks(page_len).enumerate() {
        if is_zero(page) {
            continue;
        }
        if page.len() < page_len || !Lanes::takes(page_len) {
            out[place] = Page::Hash(key.chunk_hash(page));
            continue;
        }
        (batch[waiting], places[waiting]) = (page, place);
        waiting += 1;
        if waiting == SIDE_BY_SIDE {
            end(&batch, &places, out);
            waiting = 0;
        }
    }
    end(&batch[..waiting], &places[..waiting], out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_hashed_as_keyed_blake3_hashes_them() {
        let key = IdKey::from_bytes([5; 32]);
        for page_len in [4096, 16384, 65536] {
            let mut bytes = vec![0_u8; page_len * 70 + 100];
            for (n, page) in bytes.chunks_mut(page_len).enumerate() {
                if n % 3 != 0 {
                    page[n] = 1;
                }
            }
            let mut pages = Vec::new();
            look(&key, &bytes, page_len, &mut pages);
            assert_eq!(pages.len(), 71);
            for (n, (page, bytes)) in pages.iter().zip(bytes.chunks(page_len)).enumerate() {
                let expected = if n % 3 == 0 {
                    Page::Zero
                } else {
                    Page::Hash(key.chunk_hash(bytes))
                };
                assert_eq!(*page, expected, "page {n} of {page_len} bytes");
            }
        }
    }

    #[test]
    fn one_bit_anywhere_makes_a_page_not_zero() {
        let mut page = vec![0; 200_000];
        assert!(is_zero(&page) && is_zero(&[]));
        for at in [0, 65_535, 65_536, 199_999] {
            page[at] = 1;
            assert!(!is_zero(&page), "{at}");
            page[at] = 0;
        }
    }
}
