//! Owns gzip data inside an archive: opens it so that its content can be stored plain and deduplicated, and makes the
//! very same gzip bytes from the content again, whoever compressed it.
//!
//! Always: [`open`] has rebuilt the gzip bytes and compared them before it says Ok, every time. [`rebuild`] comes to an
//! end without a panic, with the bytes whose length and CRC-32 the recipe names or with an error, and never with more
//! bytes than asked for.
//! Never: holds plain text that the limits do not allow, not even for a moment: the blocks are measured first.
//!
//! # How
//!
//! A deflate stream is a sequence of blocks. `deflate` measures them. The first ones, enough for preflate to see how the
//! encoder works, go into the recipe verbatim: the head; what they do not show, a `primer` does. Of every further block
//! the recipe holds what preflate's imitation of the encoder got wrong. One block at a time, because preflate has no
//! other bound (see `piece`), and it keeps the memory small. The recipe's bytes are described in `recipe`.
//!
//! Small gzip data, of fewer than three heads (some 75 KiB compressed), is therefore refused as
//! [`Refusal::NotWorthIt`]. So is what preflate 0.7.6 cannot do: klauspost's encoder (podman's pgzip), Go at level 1, Go
//! over some MiB of zeros, miniz where it makes blocks of more than 32 767 tokens.
//!
//! # Figures
//!
//! 20 MiB of a tar of `/usr`, one of two busy cores; MB/s of plain text:
//!
//! | encoder | compressed | recipe | open | rebuild |
//! | --- | --- | --- | --- | --- |
//! | GNU gzip -1 / -6 / -9 | 7.2 / 6.4 / 6.3 MB | 0.7 / 0.4 / 0.7 % | 38 / 18 / 5 | 110 / 40 / 11 |
//! | zlib 1 / 6 / 9 | 7.2 / 6.4 / 6.3 MB | 0.5 / 0.5 / 0.5 % | 42 / 20 / 6 | 110 / 43 / 11 |
//! | Go default / 9 | 6.4 / 6.4 MB | 2.0 / 2.0 % | 23 / 8 | 52 / 16 |
//!
//! A tar of logs: zlib 6 1.0 %, Go default 3.7 %. Refusing takes 0.1 s, as the measuring runs at 250 MB/s, except where
//! preflate gives up midway. Memory beside the arguments: `open` holds the plain text, the recipe and the rebuilt gzip
//! bytes, `rebuild` the output; preflate adds 2 MiB, whatever the size, or 10 MiB where one block is 8 MiB of zeros
//! (measured: 27.8 MiB for 20 MiB plain and 6.4 MB of gzip data). Hostile data can make it some hundred MiB (estimated).
//!
//! preflate prints to stdout when it gives up over a reference that it cannot find (`calculate_hops`), and a panic of
//! its reaches the panic hook. Head and primer are chosen so that the known encoders do not lead there.

use std::ops::Range;

use deflate::{Block, Inside, WalkError, WalkLimits};
use piece::{Head, Joiner, PieceError, Splitter};
use primer::Shows;
use recipe::{Member, RecipeReader, RecipeWriter, crc};

mod deflate;
mod piece;
mod primer;
mod recipe;
#[cfg(test)]
mod tests;

/// Most bytes behind the last member that a recipe takes up: a record of tar padding is 10 KiB.
const MAX_TRAILING_LEN: usize = 16 * 1024;

/// Most plain text of one member: preflate counts positions in `i32`; the last MiB is room for what it adds to them.
const MAX_MEMBER_PLAIN: usize = (1 << 31) - (1 << 20);

/// References that preflate should see before it judges an encoder, and how many when it was wrong. A full block of
/// zlib's has some 6000; with 1900 preflate took GNU gzip for another encoder.
const ENOUGH_REFERENCES: [usize; 2] = [4000, 16_000];

/// Up to this length zlib's levels 1 to 3 enter all of a copy into their dictionary: 4, 5 and 6.
const LONGEST_OF_FAST: u16 = 6;

/// A recipe may have one of so many parts of the compressed length, else the gzip bytes are better stored as they are.
const WORTH_IT: usize = 3;

/// The two magic bytes and the only method, deflate.
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const TRAILER_LEN: usize = 2 * size_of::<u32>();

/// What [`open`] may take on.
#[derive(Debug, Clone, Copy)]
pub struct GzipLimits {
    /// Most bytes of gzip data.
    pub max_compressed: usize,
    /// Most bytes of plain text, all members together.
    pub max_plain: usize,
}

/// Gzip data, opened.
#[derive(Debug)]
pub struct Opened {
    /// The content of all members, in order.
    pub plain: Vec<u8>,
    /// Everything else that [`rebuild`] needs.
    pub recipe: Vec<u8>,
}

/// Why gzip data is stored as it is. None of these is a fault of ours or a reason to stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It does not begin as gzip data does.
    #[error("not gzip data")]
    NotGzip,
    /// More compressed bytes than [`GzipLimits::max_compressed`].
    #[error("{len} bytes of gzip data, at most {limit} are opened")]
    TooLarge {
        /// Bytes of gzip data.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// More plain text than [`GzipLimits::max_plain`], or 2 GiB in one member.
    #[error("gzip data of more than {limit} bytes of plain text")]
    PlainTooLarge {
        /// The limit.
        limit: usize,
    },
    /// An encoder that preflate cannot imitate; the text says where it gave up.
    #[error("gzip data of an unknown encoder: {0}")]
    NotReproducible(String),
    /// The recipe would have more than a third of the compressed length.
    #[error("a recipe of at least {recipe_len} bytes for {compressed_len} bytes of gzip data")]
    NotWorthIt {
        /// Bytes of the recipe when we gave up.
        recipe_len: usize,
        /// Bytes of gzip data.
        compressed_len: usize,
    },
    /// gunzip would refuse it too, or there is much behind its end; the text says what.
    #[error("damaged gzip data: {0}")]
    Damaged(String),
}

/// Why gzip bytes were not rebuilt. Each of these says that the plain text or the recipe is not what [`open`] returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// The recipe breaks its own format.
    #[error("the recipe of a gzip file is damaged: {0}")]
    Recipe(&'static str),
    /// A recipe of a later version.
    #[error("a gzip recipe of version {0}, this program reads version 1")]
    Version(u8),
    /// More output than asked for.
    #[error("{len} bytes of gzip data, at most {limit} expected")]
    TooLarge {
        /// What the recipe announces.
        len: u64,
        /// The bound that the caller gave.
        limit: usize,
    },
    /// The plain text is longer or shorter than the recipe says, or fails the checksum in the gzip trailer.
    #[error("the plain text does not fit the recipe of its gzip file")]
    PlainText,
    /// The corrections lead nowhere.
    #[error("the corrections of a gzip recipe do not fit: {0}")]
    Corrections(String),
    /// Something came out, but not the gzip bytes that the recipe names.
    #[error("the rebuilt gzip data is not what was opened")]
    Mismatch,
}

impl From<PieceError> for RebuildError {
    fn from(error: PieceError) -> Self {
        Self::Corrections(error.0)
    }
}

impl From<PieceError> for Refusal {
    fn from(error: PieceError) -> Self {
        Self::NotReproducible(error.0)
    }
}

/// Opens gzip data: one or more members and a little behind them.
///
/// Ok means that [`rebuild`] has made exactly `gz` from the result.
pub fn open(gz: &[u8], limits: &GzipLimits) -> Result<Opened, Refusal> {
    if !gz.starts_with(&MAGIC) {
        return Err(Refusal::NotGzip);
    }
    if gz.len() > limits.max_compressed {
        return Err(Refusal::TooLarge {
            len: gz.len(),
            limit: limits.max_compressed,
        });
    }
    let mut opening = Opening {
        gz_len: gz.len(),
        limits,
        plain: Vec::new(),
        recipe: RecipeWriter::default(),
    };
    let mut rest = gz;
    while rest.starts_with(&MAGIC) {
        rest = opening.member(rest)?;
    }
    if rest.len() > MAX_TRAILING_LEN {
        return Err(Refusal::Damaged(format!(
            "{} bytes behind the last member",
            rest.len()
        )));
    }
    let Opening { plain, recipe, .. } = opening;
    let recipe = recipe.finish(gz, rest).ok_or_else(too_many)?;
    worth_it(recipe.len(), gz.len())?;
    match rebuild(&plain, &recipe, gz.len()) {
        Ok(rebuilt) if rebuilt == gz => Ok(Opened { plain, recipe }),
        Ok(_) => Err(Refusal::NotReproducible(RebuildError::Mismatch.to_string())),
        Err(error) => Err(Refusal::NotReproducible(error.to_string())),
    }
}

fn too_many() -> Refusal {
    Refusal::NotReproducible("a length of more than 32 bits".to_owned())
}

fn worth_it(recipe_len: usize, compressed_len: usize) -> Result<(), Refusal> {
    if recipe_len > compressed_len / WORTH_IT {
        return Err(Refusal::NotWorthIt {
            recipe_len,
            compressed_len,
        });
    }
    Ok(())
}

/// What [`open`] has so far.
struct Opening<'a> {
    gz_len: usize,
    limits: &'a GzipLimits,
    plain: Vec<u8>,
    recipe: RecipeWriter,
}

impl Opening<'_> {
    /// Takes the member at the start of `gz` apart; returns what is behind it.
    fn member<'g>(&mut self, gz: &'g [u8]) -> Result<&'g [u8], Refusal> {
        let truncated = || Refusal::Damaged("it ends inside a member".to_owned());
        let header_len = header_len(gz)?;
        let (header, stream) = gz.split_at_checked(header_len).ok_or_else(truncated)?;
        let blocks = self.measure(stream)?;
        let stream_len = blocks.last().map_or(0, |block| block.end_bit.div_ceil(8));
        let (stream, rest) = stream.split_at_checked(stream_len).ok_or_else(truncated)?;
        let (trailer, rest) = rest
            .split_first_chunk::<TRAILER_LEN>()
            .ok_or_else(truncated)?;

        self.plain
            .reserve_exact(blocks.iter().map(|block| block.plain_len).sum());
        let start = self.plain.len();
        let cut = Cut {
            blocks: &blocks,
            stream,
            fixed_len: header.len(),
        };
        let mut taken = Err(Refusal::NotReproducible("no blocks".to_owned()));
        let mut tried = 0;
        for enough in ENOUGH_REFERENCES {
            let (head_count, primer) = head_blocks(&blocks, enough);
            if head_count == tried {
                break;
            }
            tried = head_count;
            self.plain.truncate(start);
            taken = self.pieces(cut, head_count, primer);
            if !matches!(taken, Err(Refusal::NotReproducible(_))) {
                break;
            }
        }
        let (head, pieces) = taken?;
        if !trailer_fits(trailer, self.plain.get(start..).unwrap_or_default()) {
            return Err(Refusal::Damaged(
                "its checksum or length does not fit".to_owned(),
            ));
        }
        let member = Member {
            header,
            head,
            trailer: *trailer,
        };
        self.recipe.member(&member, &pieces).ok_or_else(too_many)?;
        Ok(rest)
    }

    /// Takes the stream apart behind a head of `head_count` blocks; its plain text is added.
    fn pieces<'g>(
        &mut self,
        cut: Cut<'_, 'g>,
        head_count: usize,
        primer: Shows,
    ) -> Result<Pieces<'g>, Refusal> {
        let (head, others) = cut
            .blocks
            .split_at_checked(head_count)
            .unwrap_or((cut.blocks, &[]));
        let mut start_bit = head.last().map_or(0, |block| block.end_bit);
        let head = Head {
            bytes: cut.bytes(0, start_bit)?,
            primer,
        };
        let mut recipe_len = self.recipe.len() + cut.fixed_len + head.bytes.len();
        worth_it(recipe_len, self.gz_len)?;
        check_pieces(head.bytes, others)?;
        let mut splitter = Splitter::new(head, head_count, self.limits.max_plain, &mut self.plain)?;
        let mut pieces = Vec::with_capacity(others.len());
        for block in others {
            let before = self.plain.len();
            let corrections =
                splitter.piece(cut.bytes(start_bit, block.end_bit)?, &mut self.plain)?;
            recipe_len += corrections.len();
            worth_it(recipe_len, self.gz_len)?;
            pieces.push((self.plain.len() - before, corrections));
            start_bit = block.end_bit;
        }
        Ok((head, pieces))
    }

    fn measure(&self, stream: &[u8]) -> Result<Vec<Block>, Refusal> {
        let plain_limit = self
            .limits
            .max_plain
            .saturating_sub(self.plain.len())
            .min(MAX_MEMBER_PLAIN);
        // A piece costs 8 bytes of recipe and its corrections some: with smaller blocks it is never worth it.
        let most_blocks = 16 + stream.len() / (8 * WORTH_IT);
        deflate::walk(
            stream,
            WalkLimits {
                plain_len: plain_limit,
                blocks: most_blocks,
            },
        )
        .map_err(|error| match error {
            WalkError::Truncated => Refusal::Damaged("it ends inside a member".to_owned()),
            WalkError::Invalid(what) => Refusal::Damaged(what.to_owned()),
            WalkError::PlainLimit => Refusal::PlainTooLarge {
                limit: self.limits.max_plain,
            },
            WalkError::BlockLimit => Refusal::NotWorthIt {
                recipe_len: most_blocks * 8,
                compressed_len: self.gz_len,
            },
        })
    }
}

/// A head, and the plain length and the corrections of each further block.
type Pieces<'g> = (Head<'g>, Vec<(usize, Vec<u8>)>);

/// A deflate stream and where its blocks end.
#[derive(Clone, Copy)]
struct Cut<'b, 'g> {
    blocks: &'b [Block],
    stream: &'g [u8],
    /// What the member costs in the recipe beside its stream.
    fixed_len: usize,
}

impl<'g> Cut<'_, 'g> {
    fn bytes(&self, start_bit: usize, end_bit: usize) -> Result<&'g [u8], Refusal> {
        let bytes = self.stream.get(bytes_of(start_bit, end_bit));
        bytes.ok_or_else(|| Refusal::Damaged("it ends inside a member".to_owned()))
    }
}

/// The bytes in which the bits from `start` to `end` lie, the shared ones included.
fn bytes_of(start: usize, end: usize) -> Range<usize> {
    start / 8..end.div_ceil(8)
}

/// What preflate sees of an encoder in some blocks, as far as later ones depend on it.
#[derive(Debug, Default, Clone, Copy)]
struct Experience {
    token_bits: u32,
    window_bits: u32,
    very_far: bool,
    references: usize,
    threes: bool,
    inside: Inside,
}

impl Experience {
    fn and(self, block: &Block) -> Self {
        // As preflate's estimator rounds: block sizes of 2⁷ to 2¹⁵ tokens, windows of 2⁹ to 2¹⁵ bytes of which zlib does
        // not use the last 262.
        let bits =
            |value: usize, least: u32| (usize::BITS - value.leading_zeros()).clamp(least, 15);
        Self {
            token_bits: self.token_bits.max(bits(block.tokens, 7)),
            window_bits: self.window_bits.max(bits(block.farthest + 261, 9)),
            very_far: self.very_far || block.farthest > (1 << 15) - 262,
            references: self.references + block.references,
            threes: self.threes || block.threes > 0,
            inside: self.inside.and(block.inside),
        }
    }

    /// Whether it is enough to judge the encoder of `whole`. For what is missing then there is a primer.
    fn covers(&self, whole: &Self, enough: usize) -> bool {
        // An encoder that enters short copies only cannot be shown by a primer.
        let fast = whole.inside.longest <= LONGEST_OF_FAST;
        self.references >= whole.references.min(enough) && (!fast || self.inside == whole.inside)
    }

    /// What preflate must see beside it, to be ready for `whole`.
    fn lacks(&self, whole: &Self) -> Shows {
        Shows {
            copies: self.inside != whole.inside,
            threes: self.threes != whole.threes,
            long: self.token_bits < whole.token_bits || self.window_bits < whole.window_bits,
            far: self.very_far != whole.very_far,
        }
    }
}

/// How many blocks make a head with `enough` references, and the primer that it needs.
fn head_blocks(blocks: &[Block], enough: usize) -> (usize, Shows) {
    let whole = blocks.iter().fold(Experience::default(), Experience::and);
    let mut seen = Experience::default();
    let mut count = 0;
    for block in blocks {
        seen = seen.and(block);
        count += 1;
        if seen.covers(&whole, enough) {
            break;
        }
    }
    (count, seen.lacks(&whole))
}

fn check_pieces(head: &[u8], others: &[Block]) -> Result<(), Refusal> {
    if head.len() > piece::MAX_HEAD_LEN {
        return Err(Refusal::NotReproducible(format!(
            "a head of {} bytes",
            head.len()
        )));
    }
    match others.iter().map(|block| block.tokens).max() {
        Some(tokens) if tokens > piece::MAX_PIECE_TOKENS => Err(Refusal::NotReproducible(format!(
            "a block of {tokens} tokens"
        ))),
        _ => Ok(()),
    }
}

/// Length of the gzip header (RFC 1952, 2.3) at the start of `gz`.
fn header_len(gz: &[u8]) -> Result<usize, Refusal> {
    const HEADER_CRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let truncated = || Refusal::Damaged("it ends inside the header".to_owned());
    let flags = *gz.get(3).ok_or_else(truncated)?;
    if flags >= COMMENT << 1 {
        return Err(Refusal::Damaged("reserved flags in the header".to_owned()));
    }
    let mut at = 10;
    if flags & EXTRA != 0 {
        let len = gz
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .ok_or_else(truncated)?;
        at += 2 + usize::from(u16::from_le_bytes(*len));
    }
    for _ in 0..(flags & (NAME | COMMENT)).count_ones() {
        let text = gz.get(at..).ok_or_else(truncated)?;
        at += 1 + text
            .iter()
            .position(|&byte| byte == 0)
            .ok_or_else(truncated)?;
    }
    if flags & HEADER_CRC != 0 {
        at += 2;
    }
    Ok(at)
}

/// Whether the trailer has the CRC-32 of `plain` and its length modulo 2³².
fn trailer_fits(trailer: &[u8; TRAILER_LEN], plain: &[u8]) -> bool {
    let len = u32::try_from(plain.len() & 0xffff_ffff).unwrap_or(u32::MAX);
    trailer[..4] == crc(plain).to_le_bytes() && trailer[4..] == len.to_le_bytes()
}

/// Makes the gzip bytes that [`open`] took apart into `plain` and `recipe`, of at most `max_output` bytes.
///
/// Both may come from anywhere: see the head of this file for what holds then.
pub fn rebuild(plain: &[u8], recipe: &[u8], max_output: usize) -> Result<Vec<u8>, RebuildError> {
    let mut reader = RecipeReader::new(recipe)?;
    let too_large = RebuildError::TooLarge {
        len: reader.gzip_len,
        limit: max_output,
    };
    let gzip_len = usize::try_from(reader.gzip_len).map_err(|_| too_large.clone())?;
    if gzip_len > max_output {
        return Err(too_large);
    }
    let mut out = Vec::new();
    out.try_reserve_exact(gzip_len).map_err(|_| too_large)?;
    let within = |out: &[u8]| {
        if out.len() > gzip_len {
            Err(RebuildError::Mismatch)
        } else {
            Ok(())
        }
    };
    let mut plain = plain;
    for _ in 0..reader.members {
        let (member, pieces) = reader.member()?;
        out.extend_from_slice(member.header);
        within(&out)?;
        let start = plain;
        let (mut joiner, head_len) = Joiner::new(member.head, plain, &mut out)?;
        plain = plain.get(head_len..).ok_or(RebuildError::PlainText)?;
        within(&out)?;
        for _ in 0..pieces {
            let piece = reader.piece()?;
            let (text, behind) = plain
                .split_at_checked(piece.plain_len)
                .ok_or(RebuildError::PlainText)?;
            joiner.piece(text, piece.corrections, &mut out)?;
            within(&out)?;
            plain = behind;
        }
        let text = start.get(..start.len() - plain.len()).unwrap_or_default();
        if !trailer_fits(&member.trailer, text) {
            return Err(RebuildError::PlainText);
        }
        out.extend_from_slice(&member.trailer);
        within(&out)?;
    }
    out.extend_from_slice(reader.trailing);
    if !plain.is_empty() {
        return Err(RebuildError::PlainText);
    }
    let gzip_crc = reader.gzip_crc;
    reader.finish()?;
    if out.len() != gzip_len || crc(&out) != gzip_crc {
        return Err(RebuildError::Mismatch);
    }
    Ok(out)
}
