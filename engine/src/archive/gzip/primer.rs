//! Owns the deflate data that preflate sees before a head, where the head shows too little.
//!
//! From the head preflate infers how the encoder works, and what it has not seen there it takes for impossible: it gives
//! up at the first later reference that is farther, shorter, or inside a longer copy than any in the head. In logs such
//! a reference may come megabytes on. A primer has one of each kind that the head lacks and the stream has.
//!
//! Always: a primer ends at a byte border, so the stream behind it keeps its bits; nothing in a stream refers back into
//! it. Its bytes are those of recipe version 1: a test pins them.
//! Never: is stored. Four bits in the recipe say which one it was.

use super::deflate::DISTANCES;

/// What a primer shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shows {
    /// A reference inside a copy of 258 bytes: the encoder enters whole copies into its dictionary.
    pub(super) copies: bool,
    /// A copy of three bytes.
    pub(super) threes: bool,
    /// A block of some 32 000 tokens, and a reference across most of the window.
    pub(super) long: bool,
    /// The same, and a reference across all of the window, which zlib does not make.
    pub(super) far: bool,
}

impl Shows {
    /// The bits of the recipe.
    pub(super) fn to_bits(self) -> u8 {
        u8::from(self.copies)
            | u8::from(self.threes) << 1
            | u8::from(self.long) << 2
            | u8::from(self.far) << 3
    }

    /// `None` for bits that version 1 does not have.
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        let has = |bit: u8| bits >> bit & 1 == 1;
        (bits < 16).then(|| Self {
            copies: has(0),
            threes: has(1),
            long: has(2),
            far: has(3),
        })
    }
}

/// A primer: deflate data without an end, and what it comes to.
#[derive(Debug, Default)]
pub(super) struct Primer {
    pub(super) deflate: Vec<u8>,
    pub(super) plain_len: usize,
    pub(super) blocks: usize,
    bits: u64,
    bit_count: u32,
}

/// Descending bytes, which real data seldom is, so preflate seldom finds a match in them.
const STORED_LEN: u8 = 251;
/// Fills the window. The highest literal whose fixed code has 8 bits, and as seldom in runs as any.
const FILLER: u8 = 143;
/// Where in the stored bytes a reference across the window points to.
const FAR_SOURCE: usize = 100;

impl Primer {
    /// The primer for `shows`; empty when that is nothing.
    pub(super) fn new(shows: Shows) -> Self {
        let mut primer = Self::default();
        if shows == Shows::default() {
            return primer;
        }
        primer.stored((0..STORED_LEN).rev().collect());
        primer.begin();
        if shows.copies {
            primer.copy(258, 250);
            primer.literal(0);
            // 52 bytes into the copy.
            primer.copy(10, 207);
        }
        if shows.threes {
            primer.copy(3, 60);
            primer.literal(0);
        }
        primer.end();
        if shows.long || shows.far {
            let distance = if shows.far { 1 << 15 } else { 32_500 };
            primer.begin();
            while primer.plain_len < distance + FAR_SOURCE {
                primer.literal(FILLER);
            }
            primer.copy(10, distance);
            primer.end();
        }
        primer.stored(Vec::new());
        primer
    }

    /// A stored block, which ends at a byte border. At most 255 bytes.
    fn stored(&mut self, bytes: Vec<u8>) {
        self.put(0, 3);
        self.put(0, (8 - self.bit_count % 8) % 8);
        let len = u8::try_from(bytes.len()).unwrap_or(0);
        for byte in [len, 0, !len, 0xff].into_iter().chain(bytes) {
            self.put(u32::from(byte), 8);
        }
        self.plain_len += usize::from(len);
        self.blocks += 1;
    }

    /// Begins a block of fixed codes, RFC 1951 3.2.6.
    fn begin(&mut self) {
        self.put(0b010, 3);
        self.blocks += 1;
    }

    fn end(&mut self) {
        self.put(0, 7);
    }

    /// A byte of at most [`FILLER`].
    fn literal(&mut self, byte: u8) {
        self.code(0x30 + u32::from(byte), 8);
        self.plain_len += 1;
    }

    /// A copy of 3, 10 or 258 bytes.
    fn copy(&mut self, length: usize, distance: usize) {
        match length {
            258 => self.code(0b1100_0101, 8),
            10 => self.code(0b000_1000, 7),
            _ => self.code(0b000_0001, 7),
        }
        let code = DISTANCES
            .iter()
            .rposition(|(base, _)| *base <= distance)
            .unwrap_or(0);
        let (base, extra) = DISTANCES.get(code).copied().unwrap_or((1, 0));
        let number = |value: usize| u32::try_from(value).unwrap_or(0);
        self.code(number(code), 5);
        self.put(number(distance - base), number(extra));
        self.plain_len += length;
    }

    /// A code word, which goes highest bit first.
    fn code(&mut self, word: u32, len: u32) {
        self.put(word.reverse_bits() >> (u32::BITS - len), len);
    }

    /// Bits, lowest first.
    fn put(&mut self, value: u32, len: u32) {
        self.bits |= u64::from(value) << self.bit_count;
        self.bit_count += len;
        while self.bit_count >= 8 {
            self.deflate
                .push(u8::try_from(self.bits & 0xff).unwrap_or(0));
            self.bits >>= 8;
            self.bit_count -= 8;
        }
    }
}
