//! Owns the walk over a deflate stream (RFC 1951): where each block ends and how much it holds.
//!
//! Always: work and memory are bounded by the compressed length and by the two limits handed in; nothing is inflated.
//! Never: panics on any input, writes plain text, or judges whether distances point into the text (preflate does).

/// What a block is, as far as the cutting into pieces asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// The first bit behind the block, counted from the start of the stream.
    pub(super) end_bit: usize,
    /// Literals and references in it, without the end of block. Zero for a stored block.
    pub(super) tokens: usize,
    /// References in it.
    pub(super) references: usize,
    /// References of three bytes, the shortest that deflate has.
    pub(super) threes: usize,
    /// The farthest that a reference reaches back, in bytes.
    pub(super) farthest: usize,
    /// Bytes of plain text.
    pub(super) plain_len: usize,
    /// Which references begin inside what an earlier one copied.
    pub(super) inside: Inside,
}

/// Which references begin inside what an earlier one copied: fast encoders enter only the start of a copy, or copies
/// up to some length, into their dictionary, and preflate infers from these numbers which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Inside {
    /// The longest copy that a reference began inside of.
    pub(super) longest: u16,
    /// The same, of references that did not begin at the copy's last byte.
    pub(super) longest_before_last: u16,
    /// Of any such reference, whether the copy did not span the border that zlib-ng treats apart.
    pub(super) off_border: bool,
    /// Whether a reference began at, or pointed to, one of the last three bytes of 4 KiB, where miniz does not look.
    pub(super) across_4k: bool,
}

impl Inside {
    /// What is known after both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            longest: self.longest.max(other.longest),
            longest_before_last: self.longest_before_last.max(other.longest_before_last),
            off_border: self.off_border || other.off_border,
            across_4k: self.across_4k || other.across_4k,
        }
    }
}

/// Why a walk stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WalkError {
    /// The stream ends inside a block.
    Truncated,
    /// A code or a length that the format does not have.
    Invalid(&'static str),
    /// More plain text than allowed.
    PlainLimit,
    /// More blocks than allowed.
    BlockLimit,
}

/// What stops a walk early.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalkLimits {
    /// Most bytes of plain text.
    pub(super) plain_len: usize,
    /// Most blocks.
    pub(super) blocks: usize,
}

/// Walks one deflate stream to its last block; bytes behind it are not looked at.
pub(super) fn walk(stream: &[u8], limits: WalkLimits) -> Result<Vec<Block>, WalkError> {
    let mut bits = Bits {
        bytes: stream,
        at: 0,
    };
    let mut blocks = Vec::new();
    let mut plain_left = limits.plain_len;
    let fixed = Tables::fixed()?;
    let mut window = Window::new();
    loop {
        if blocks.len() == limits.blocks {
            return Err(WalkError::BlockLimit);
        }
        let last = bits.take(1)? == 1;
        let mut block = match bits.take(2)? {
            0 => walk_stored(&mut bits, &mut window)?,
            1 => walk_tokens(&mut bits, &fixed, plain_left, &mut window)?,
            2 => {
                let tables = Tables::read(&mut bits)?;
                walk_tokens(&mut bits, &tables, plain_left, &mut window)?
            }
            _ => return Err(WalkError::Invalid("block type 3")),
        };
        plain_left = plain_left
            .checked_sub(block.plain_len)
            .ok_or(WalkError::PlainLimit)?;
        block.end_bit = bits.at;
        blocks.push(block);
        if last {
            return Ok(blocks);
        }
    }
}

fn walk_stored(bits: &mut Bits<'_>, window: &mut Window) -> Result<Block, WalkError> {
    bits.at = bits.at.next_multiple_of(8);
    let len = bits.take(16)?;
    if bits.take(16)? != len ^ 0xffff {
        return Err(WalkError::Invalid("length of a stored block"));
    }
    bits.skip(len * 8)?;
    window.skip(len);
    Ok(Block {
        plain_len: len,
        ..Block::default()
    })
}

fn walk_tokens(
    bits: &mut Bits<'_>,
    tables: &Tables,
    plain_left: usize,
    window: &mut Window,
) -> Result<Block, WalkError> {
    let mut block = Block::default();
    loop {
        let symbol = tables.literals.next(bits)?;
        if symbol < 256 {
            block.plain_len += 1;
            window.skip(1);
        } else if symbol == 256 {
            return Ok(block);
        } else {
            let (base, extra) = *LENGTHS
                .get(symbol - 257)
                .ok_or(WalkError::Invalid("length code"))?;
            let length = base + bits.take(extra)?;
            let code = tables.distances.next(bits)?;
            let (base, extra) = *DISTANCES
                .get(code)
                .ok_or(WalkError::Invalid("distance code"))?;
            let distance = base + bits.take(extra)?;
            block.plain_len += length;
            block.references += 1;
            block.threes += usize::from(length == 3);
            block.farthest = block.farthest.max(distance);
            window.copy(length, distance, &mut block.inside);
        }
        block.tokens += 1;
        if block.plain_len > plain_left {
            return Err(WalkError::PlainLimit);
        }
    }
}

/// Bits of a stream, lowest bit of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The next 16 bits without taking them; zeros behind the end.
    fn peek16(&self) -> usize {
        let at = self.at / 8;
        let window = match self
            .bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<4>())
        {
            Some(four) => u32::from_le_bytes(*four),
            None => {
                let byte = |i: usize| u32::from(self.bytes.get(at + i).copied().unwrap_or(0));
                byte(0) | byte(1) << 8 | byte(2) << 16
            }
        };
        let word = (window >> (self.at % 8)) & 0xffff;
        usize::from(u16::try_from(word).unwrap_or(u16::MAX))
    }

    fn take(&mut self, count: usize) -> Result<usize, WalkError> {
        let value = self.peek16() & ((1 << count) - 1);
        self.skip(count)?;
        Ok(value)
    }

    fn skip(&mut self, count: usize) -> Result<(), WalkError> {
        self.at += count;
        if self.at > self.bytes.len() * 8 {
            Err(WalkError::Truncated)
        } else {
            Ok(())
        }
    }
}

/// The last 32 KiB of plain text: not the bytes, but from which copy each came.
struct Window {
    /// Length of the copy that the byte is part of, with a flag or two; 0 for its first byte and for literals.
    from: Vec<u16>,
    at: usize,
}

impl Window {
    const LEN: usize = 1 << 15;
    /// The last byte of a copy, and one of a copy across zlib-ng's border.
    const LAST: u16 = 0x8000;
    const BORDER: u16 = 0x4000;

    fn new() -> Self {
        Self {
            from: vec![0; Self::LEN],
            at: 0,
        }
    }

    /// Marks the next `len` bytes, of which those behind the window are not worth it.
    fn mark(&mut self, len: usize, value: u16) {
        for at in self.at..self.at + len.min(Self::LEN) {
            if let Some(slot) = self.from.get_mut(at % Self::LEN) {
                *slot = value;
            }
        }
        self.at += len;
    }

    fn skip(&mut self, len: usize) {
        self.mark(len, 0);
    }

    // The same numbers as in preflate 0.7.6, estimator/add_policy_estimator.rs.
    fn copy(&mut self, length: usize, distance: usize, inside: &mut Inside) {
        let at_4k = |at: usize| at % 4096 >= 4093;
        // A distance that points before the start is preflate's to refuse.
        let source = self.at.wrapping_sub(distance);
        inside.across_4k |= at_4k(self.at) || at_4k(source);
        let mark = self.from.get(source % Self::LEN).copied().unwrap_or(0);
        let copy_len = mark & 0x0fff;
        inside.longest = inside.longest.max(copy_len);
        if mark & Self::LAST == 0 {
            inside.longest_before_last = inside.longest_before_last.max(copy_len);
        }
        inside.off_border |= copy_len != 0 && mark & Self::BORDER == 0;

        let border = Self::LEN - 0x106;
        let spans = self.at % Self::LEN <= border && (self.at + length) % Self::LEN >= border;
        let value = u16::try_from(length).unwrap_or(0);
        self.mark(1, 0);
        self.mark(length - 2, value);
        self.mark(1, value | Self::LAST | if spans { Self::BORDER } else { 0 });
    }
}

/// The two codes of a block.
struct Tables {
    literals: Code,
    distances: Code,
}

impl Tables {
    fn fixed() -> Result<Self, WalkError> {
        let mut lengths = [8u8; 288];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        Ok(Self {
            literals: Code::new(&lengths)?,
            distances: Code::new(&[5; 30])?,
        })
    }

    fn read(bits: &mut Bits<'_>) -> Result<Self, WalkError> {
        let literals = bits.take(5)? + 257;
        let distances = bits.take(5)? + 1;
        let used = bits.take(4)? + 4;
        let mut code_lengths = [0u8; 19];
        for &position in CODE_LENGTH_ORDER.iter().take(used) {
            code_lengths[position] = small(bits.take(3)?);
        }
        let code = Code::new(&code_lengths)?;
        // 257 + 31 literals and 32 distances are the most that the header can announce.
        let mut lengths = Vec::with_capacity(320);
        while lengths.len() < literals + distances {
            let (length, times) = match code.next(bits)? {
                16 => {
                    let before = *lengths
                        .last()
                        .ok_or(WalkError::Invalid("repeat of no length"))?;
                    (before, 3 + bits.take(2)?)
                }
                17 => (0, 3 + bits.take(3)?),
                18 => (0, 11 + bits.take(7)?),
                length => (small(length), 1),
            };
            lengths.extend(std::iter::repeat_n(length, times));
        }
        if lengths.len() != literals + distances {
            return Err(WalkError::Invalid("code lengths run over"));
        }
        let (literal_lengths, distance_lengths) = lengths.split_at(literals);
        Ok(Self {
            literals: Code::new(literal_lengths)?,
            distances: Code::new(distance_lengths)?,
        })
    }
}

/// A number below 256 by construction.
fn small(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

/// A canonical Huffman code, decoded by one look-up of as many bits as its longest word has.
struct Code {
    /// By the next bits of the stream: symbol × 16 + length of its word; 0 where no word begins so.
    entries: Vec<u16>,
    mask: usize,
}

impl Code {
    fn new(lengths: &[u8]) -> Result<Self, WalkError> {
        let longest = usize::from(lengths.iter().copied().max().unwrap_or(0)).max(1);
        let mut next_word = [0usize; 17];
        for length in lengths.iter().filter(|&&length| length != 0) {
            next_word[usize::from(*length) + 1] += 1;
        }
        // From the count of the words of each length to the first word of each length.
        let mut word = 0;
        for (length, slot) in next_word.iter_mut().enumerate().skip(1) {
            word = (word + *slot) << 1;
            if word > 1 << length {
                return Err(WalkError::Invalid("oversubscribed code"));
            }
            *slot = word;
        }
        let mut entries = vec![0u16; 1 << longest];
        for (symbol, &length) in lengths
            .iter()
            .enumerate()
            .filter(|(_, length)| **length != 0)
        {
            let length = usize::from(length);
            let slot = next_word
                .get_mut(length)
                .ok_or(WalkError::Invalid("code length"))?;
            let reversed = slot.reverse_bits() >> (usize::BITS as usize - length);
            *slot += 1;
            let entry =
                u16::try_from(symbol * 16 + length).map_err(|_| WalkError::Invalid("symbol"))?;
            entries
                .iter_mut()
                .skip(reversed)
                .step_by(1 << length)
                .for_each(|slot| *slot = entry);
        }
        Ok(Self {
            entries,
            mask: (1 << longest) - 1,
        })
    }

    fn next(&self, bits: &mut Bits<'_>) -> Result<usize, WalkError> {
        let entry = usize::from(
            self.entries
                .get(bits.peek16() & self.mask)
                .copied()
                .unwrap_or(0),
        );
        if entry == 0 {
            return Err(WalkError::Invalid("no such code word"));
        }
        bits.skip(entry % 16)?;
        Ok(entry / 16)
    }
}

/// Base and extra bits of the length codes from 257 on, RFC 1951 3.2.5.
const LENGTHS: [(usize, usize); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// Base and extra bits of the distance codes, same place.
pub(super) const DISTANCES: [(usize, usize); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

/// The order in which the lengths of the code-length code come, RFC 1951 3.2.7.
const CODE_LENGTH_ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
