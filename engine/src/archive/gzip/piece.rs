//! Owns the calls into preflate: a deflate stream as a verbatim head and one piece per further block, both ways.
//!
//! Always: preflate sees one block at a time, its parameters come from the verbatim head and never from the recipe, and
//! corrections are looked at before preflate gets them, when they are made and when they are read.
//! Never: lets a panic out.
//!
//! # Why so
//!
//! preflate 0.7.6 is written for corrections that it made itself. `recreate_blocks` makes blocks until the corrections
//! say that the chunk ends; at the end of the corrections its decoder goes on with zeros for ever, and if a chunk ever
//! had a correction of `TokenCount` or `EndOfChunk`, those zeros mean "an empty block" and "not the end": one flipped
//! bit, and it fills the memory. No caller can stop it. A chunk of exactly one block needs neither correction (while the
//! block has no more tokens than the parameters say), and without them every block takes at least one byte of the plain
//! text, so the loop ends. `LiteralCountCorrection` and `DistanceCountCorrection` size a table, up to 4 GiB; the encoders
//! that we met need neither. The flags that say which corrections occur stand first in the corrections; [`admit`]
//! reads them. The parameters could do the same (blocks of at most 0 tokens), so they are estimated anew from the head.
//!
//! What is left of a hostile recipe: time, since it can ask for a search of the 32 KiB window at each byte of its plain
//! text, as a hostile gzip file can of `gzip -9`.
//!
//! Panics: corrections that do not fit the plain text make preflate index out of bounds, `unwrap` or reach an
//! `unimplemented!`, so each call is inside `catch_unwind`; what it used is thrown away then. The panic hook still
//! writes its message to stderr: only a global hook could prevent that. With `panic = "abort"` this would not hold.

use std::panic::{AssertUnwindSafe, catch_unwind};

use preflate_rs::{
    CodecCorrection, PreflateConfig, PreflateError, PreflateStreamProcessor,
    RecreateStreamProcessor,
};

use super::primer::{Primer, Shows};

/// Longest chains that preflate may follow: as zlib and gzip do at level 9.
const MAX_CHAIN: u32 = 4096;

/// Most bytes of a head: a few blocks. Of hostile ones, whose tokens have two bits, preflate keeps some 30 MiB.
pub(super) const MAX_HEAD_LEN: usize = 256 * 1024;

/// Most tokens of a piece: what preflate takes for granted after a head with a block of more than half of it.
/// zlib makes blocks of 16 383, Go 16 384, GNU gzip 32 767.
pub(super) const MAX_PIECE_TOKENS: usize = 32_767;

/// Most plain text of a piece: each token a reference of 258 bytes.
const MAX_PIECE_PLAIN: usize = MAX_PIECE_TOKENS * 258;

/// Most corrections of a piece, two bytes per token: with more, the recipe would be as large as the block.
const MAX_CORRECTIONS: usize = 64 * 1024;

/// Most corrections of a stored block: its kind and its length.
const MAX_STORED_CORRECTIONS: usize = 64;

/// Why a piece was not made or not undone.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct PieceError(pub(super) String);

impl From<PreflateError> for PieceError {
    fn from(error: PreflateError) -> Self {
        // The lines after the first are places in preflate's source.
        Self(
            error
                .to_string()
                .lines()
                .next()
                .unwrap_or("preflate failed")
                .to_owned(),
        )
    }
}

fn guarded<T>(call: impl FnOnce() -> Result<T, PieceError>) -> Result<T, PieceError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(PieceError("preflate panicked".to_owned())))
}

fn refuse<T>(why: &str) -> Result<T, PieceError> {
    Err(PieceError(why.to_owned()))
}

/// The first blocks of a stream, verbatim, and what preflate sees before them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) primer: Shows,
}

/// What preflate makes of a head.
struct Start {
    processor: PreflateStreamProcessor,
    corrections: Vec<u8>,
    /// Blocks of the head.
    blocks: usize,
    /// What it was given: the primer and the head.
    input: Vec<u8>,
    primer_len: usize,
    /// How much of the processor's text is the primer's.
    primer_plain_len: usize,
}

impl Start {
    fn new(head: Head<'_>, plain_limit: usize) -> Result<Self, PieceError> {
        if head.bytes.len() > MAX_HEAD_LEN {
            return refuse("the head is too long");
        }
        let Primer {
            deflate: mut input,
            plain_len: primer_plain_len,
            blocks: primer_blocks,
            ..
        } = Primer::new(head.primer);
        let primer_len = input.len();
        input.extend_from_slice(head.bytes);
        let plain_text_limit = plain_limit.saturating_add(primer_plain_len);
        // We prove the whole ourselves, so preflate need not verify.
        let config = PreflateConfig {
            max_chain_length: MAX_CHAIN,
            plain_text_limit,
            verify_compression: false,
        };
        let mut processor = PreflateStreamProcessor::new(&config);
        let chunk = processor.decompress(&input)?;
        let blocks = chunk.blocks.len().saturating_sub(primer_blocks);
        Ok(Self {
            processor,
            corrections: chunk.corrections,
            blocks,
            input,
            primer_len,
            primer_plain_len,
        })
    }

    /// The plain text of the head.
    fn text(&self) -> &[u8] {
        self.processor
            .plain_text()
            .text()
            .get(self.primer_plain_len..)
            .unwrap_or_default()
    }
}

/// Takes a deflate stream apart.
pub(super) struct Splitter {
    processor: PreflateStreamProcessor,
}

impl Splitter {
    /// Starts with the first `blocks` blocks, which lie in `head`; their plain text is added to `plain`.
    pub(super) fn new(
        head: Head<'_>,
        blocks: usize,
        plain_limit: usize,
        plain: &mut Vec<u8>,
    ) -> Result<Self, PieceError> {
        guarded(|| {
            let mut start = Start::new(head, plain_limit)?;
            if start.blocks != blocks {
                return refuse("preflate sees other blocks in the head");
            }
            plain.extend_from_slice(start.text());
            start.processor.shrink_to_dictionary();
            Ok(Self {
                processor: start.processor,
            })
        })
    }

    /// The corrections of the next block, which lies in `block` with its first and last byte; its plain text is added
    /// to `plain`.
    pub(super) fn piece(
        &mut self,
        block: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<Vec<u8>, PieceError> {
        guarded(|| {
            let chunk = self.processor.decompress(block)?;
            if chunk.blocks.len() != 1 {
                return refuse("preflate sees more than one block");
            }
            let text = self.processor.plain_text().text();
            admit(text.len(), &chunk.corrections)?;
            plain.extend_from_slice(text);
            self.processor.shrink_to_dictionary();
            Ok(chunk.corrections)
        })
    }
}

/// Puts a deflate stream together.
pub(super) struct Joiner {
    recreator: RecreateStreamProcessor,
}

impl Joiner {
    /// Starts with `head`; its whole bytes are added to `out`. Returns how much of `plain` it made.
    pub(super) fn new(
        head: Head<'_>,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(Self, usize), PieceError> {
        guarded(|| {
            let start = Start::new(head, plain.len())?;
            let text = start.text();
            if !plain.starts_with(text) {
                return refuse("the plain text is not that of the head");
            }
            let mut recreator = RecreateStreamProcessor::new();
            let (bytes, _) = recreator
                .recompress(&mut start.processor.plain_text().text(), &start.corrections)?;
            // The last block of the head may end inside a byte; its bits wait in the recreator.
            if bytes.len() + 1 < start.input.len() || !start.input.starts_with(&bytes) {
                return refuse("preflate made another head");
            }
            out.extend_from_slice(bytes.get(start.primer_len..).unwrap_or_default());
            Ok((Self { recreator }, text.len()))
        })
    }

    /// Adds the next block to `out`.
    pub(super) fn piece(
        &mut self,
        mut plain: &[u8],
        corrections: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), PieceError> {
        admit(plain.len(), corrections)?;
        guarded(|| {
            let (bytes, _) = self.recreator.recompress(&mut plain, corrections)?;
            out.extend_from_slice(&bytes);
            Ok(())
        })
    }
}

/// Refuses corrections that could keep preflate busy without end, or make it allocate without measure.
pub(super) fn admit(plain_len: usize, corrections: &[u8]) -> Result<(), PieceError> {
    if plain_len > MAX_PIECE_PLAIN || corrections.len() > MAX_CORRECTIONS {
        return refuse("a piece is too large");
    }
    let flags = seen(corrections);
    let has = |correction: CodecCorrection| flags.get(correction as usize).copied().unwrap_or(true);
    if has(CodecCorrection::TokenCount) || has(CodecCorrection::EndOfChunk) {
        return refuse("a piece has a count of tokens or of blocks");
    }
    if has(CodecCorrection::LiteralCountCorrection) || has(CodecCorrection::DistanceCountCorrection)
    {
        return refuse("a piece has a Huffman table of another size");
    }
    // A few bits could else stand for many empty stored blocks.
    if has(CodecCorrection::UncompressBlockLenCorrection)
        && corrections.len() > MAX_STORED_CORRECTIONS
    {
        return refuse("a piece has a stored block and more");
    }
    Ok(())
}

/// Which corrections occur: the first symbols of the corrections, coded as in VP8 (RFC 6386, section 7) behind one
/// marker symbol, each with a probability that is counted along.
fn seen(corrections: &[u8]) -> [bool; CodecCorrection::MAX as usize] {
    let mut decoder = BoolDecoder {
        value: 0,
        bits: 0,
        range: 255,
        input: corrections.iter(),
    };
    decoder.get(&mut [1, 1]);
    let mut counts = [1, 1];
    std::array::from_fn(|_| decoder.get(&mut counts))
}

/// Enough of the VP8 decoder for a score of symbols.
struct BoolDecoder<'a> {
    /// The next `bits` bits of the input, less what was subtracted.
    value: u32,
    bits: u32,
    range: u32,
    input: std::slice::Iter<'a, u8>,
}

impl BoolDecoder<'_> {
    /// One symbol; `counts` has how often false and true occurred, plus one each.
    fn get(&mut self, counts: &mut [u32; 2]) -> bool {
        while self.bits < 8 {
            // Behind the end come zeros, as in preflate.
            self.value = self.value << 8 | u32::from(self.input.next().copied().unwrap_or(0));
            self.bits += 8;
        }
        let probability = counts[0] * 256 / (counts[0] + counts[1]);
        let split = 1 + (((self.range - 1) * probability) >> 8);
        let big_split = split << (self.bits - 8);
        let symbol = self.value >= big_split;
        if symbol {
            self.value -= big_split;
            self.range -= split;
        } else {
            self.range = split;
        }
        counts[usize::from(symbol)] += 1;
        // The range is 1 to 255; it grows back to eight bits.
        let shift = self.range.leading_zeros().saturating_sub(24);
        self.range <<= shift;
        self.bits -= shift;
        // A first byte of 255 puts the value above the range; preflate's decoder then drops bits off the top.
        self.value &= (1 << self.bits) - 1;
        symbol
    }
}
