//! Owns cutting by content: FastCDC (Xia et al., 2020, normalisation level 1) with the sizes that the repository says.
//!
//! Always: cut points depend on the bytes since the last forced border only, not on how they arrive. Never: holds more than
//! the largest chunk.

use cryostore_format::repository::Chunking;
use fastcdc::v2020::FastCDC;

/// Cuts bytes that arrive in pieces.
#[derive(Debug)]
pub struct Cutter {
    min: usize,
    average: usize,
    max: usize,
    rest: Vec<u8>,
}

impl Cutter {
    /// With the repository's sizes.
    #[must_use]
    pub fn new(chunking: &Chunking) -> Self {
        Self {
            min: chunking.min as usize,
            average: chunking.average as usize,
            max: chunking.max as usize,
            rest: Vec::new(),
        }
    }

    /// Takes in bytes; whole chunks go to `sink`.
    pub fn push<E>(
        &mut self,
        bytes: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut bytes = bytes;
        // What was left over is completed first, so that most bytes are never copied.
        while !self.rest.is_empty() {
            let take = (self.max - self.rest.len()).min(bytes.len());
            self.rest.extend_from_slice(&bytes[..take]);
            if self.rest.len() < self.max {
                return Ok(());
            }
            let cut = self.first_cut(&self.rest);
            sink(&self.rest[..cut])?;
            // The chunk may end before the bytes that were just taken: these are cut from the input.
            let kept = self.rest.len() - cut;
            if kept <= take {
                bytes = &bytes[take - kept..];
                self.rest.clear();
            } else {
                bytes = &bytes[take..];
                self.rest.drain(..cut);
            }
        }
        while bytes.len() >= self.max {
            let cut = self.first_cut(bytes);
            sink(&bytes[..cut])?;
            bytes = &bytes[cut..];
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// A border: what was taken in so far is cut to its end.
    pub fn border<E>(&mut self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let rest = std::mem::take(&mut self.rest);
        let mut bytes = &rest[..];
        while !bytes.is_empty() {
            let cut = self.first_cut(bytes);
            sink(&bytes[..cut])?;
            bytes = &bytes[cut..];
        }
        Ok(())
    }

    /// Where the first chunk ends.
    fn first_cut(&self, bytes: &[u8]) -> usize {
        let window = &bytes[..bytes.len().min(self.max)];
        let (_, cut) = FastCDC::new(window, self.min, self.average, self.max).cut(0, window.len());
        // The crate never says 0; the bound keeps a loop from standing still if it ever did.
        cut.clamp(1, window.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn noise(len: usize, seed: u32) -> Vec<u8> {
        let mut state = seed | 1;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        })
        .take(len)
        .collect()
    }

    fn cut(bytes: &[u8], pieces: &[usize]) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut sum = Vec::new();
        let mut sink = |chunk: &[u8]| {
            lengths.push(chunk.len());
            sum.extend_from_slice(chunk);
            Ok::<_, Infallible>(())
        };
        let mut cutter = Cutter::new(&Chunking::default());
        let mut rest = bytes;
        for piece in pieces.iter().cycle() {
            let (head, tail) = rest.split_at((*piece).clamp(1, rest.len().max(1)).min(rest.len()));
            cutter.push(head, &mut sink).unwrap();
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        cutter.border(&mut sink).unwrap();
        assert!(sum == bytes);
        lengths
    }

    /// Golden: a new version of the crate that cuts elsewhere would end deduplication with every old repository.
    #[test]
    fn the_cut_points_of_version_1_stay() {
        assert_eq!(cut(&noise(200_000, 42), &[200_000]), GOLDEN,);
    }
    const GOLDEN: &[usize] = &[
        18118, 6210, 18429, 14547, 27208, 23497, 23363, 50285, 7945, 10398,
    ];

    proptest! {
        #[test]
        fn cut_points_do_not_depend_on_how_the_bytes_arrive(
            seed in any::<u32>(), len in 0_usize..400_000, pieces in proptest::collection::vec(1_usize..100_000, 1..8)
        ) {
            let bytes = noise(len, seed);
            prop_assert_eq!(cut(&bytes, &pieces), cut(&bytes, &[len.max(1)]));
        }
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let bytes = noise(1_000_000, 7);
        let mut longer = bytes.clone();
        longer.splice(500_000..500_000, *b"inserted");
        let (a, b) = (cut(&bytes, &[1 << 20]), cut(&longer, &[1 << 20]));
        let same_at_end = a
            .iter()
            .rev()
            .zip(b.iter().rev())
            .take_while(|(x, y)| x == y)
            .count();
        let same_at_start = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
        assert!(
            same_at_start + same_at_end + 6 >= a.len(),
            "{same_at_start} + {same_at_end} of {}",
            a.len()
        );
    }
}
