//! Owns made memory: pages that look like those of real programs, and heaps that change as theirs do.
//!
//! Always: the same kind, number and seed give the same bytes, on every machine; a change is as likely to raise as to lower what is known, so that a heap
//! compresses the same after a thousand steps. Never: does I/O, asks for chance or the time.

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Neighbours of one kind: an arena of 256 KiB.
const STRETCH: usize = 64;
/// Kinds of a heap's stretches, in turn: 30 % numbers, 25 % Python objects, 15 % text, and 10 % of each other.
const MIX: [Kind; 20] = {
    use Kind::{CPython, Noise, Numpy, Text, V8, Zero};
    [
        Numpy, CPython, Text, Numpy, V8, CPython, Zero, Numpy, Noise, CPython, Text, Numpy,
        CPython, Zero, Numpy, V8, Text, CPython, Noise, Numpy,
    ]
};

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Zero,
    /// Numbers of 8 bytes: noise around a smooth curve.
    Numpy,
    /// Objects with reference counts and types: small integers, floats, strings, entries of dictionaries.
    CPython,
    /// Tagged pointers, maps, small integers, strings of one byte a character.
    V8,
    /// Words.
    Text,
    /// What does not compress: keys, pictures, archives.
    Noise,
}

/// Chance from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Begins with this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// For one thing of many: the same seed gives unrelated numbers for each.
    #[must_use]
    pub fn of(seed: u64, thing: u64) -> Self {
        let mut first = Self(seed ^ 0x6a09_e667_f3bc_c908);
        Self(first.word() ^ thing.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// Any word of 8 bytes.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    /// A place below `end`, at most 2^32.
    pub fn place(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or(0)
    }

    /// A number from 0 to 1, without 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Small numbers more often than large ones: below `end`, half of them below its root.
    fn small(&mut self, end: u64) -> u64 {
        let most = self.below(end) + 1;
        self.below(most).min(self.below(end))
    }
}

fn put(page: &mut [u8], at: usize, word: u64) {
    if let Some(bytes) = page.get_mut(at..at + 8) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

fn get(page: &[u8], at: usize) -> u64 {
    page.get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Zero,
        Self::Numpy,
        Self::CPython,
        Self::V8,
        Self::Text,
        Self::Noise,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Numpy => "numpy-like",
            Self::CPython => "CPython-like",
            Self::V8 => "V8-like",
            Self::Text => "text",
            Self::Noise => "noise",
        }
    }

    /// Makes the page with this number.
    pub fn fill(self, page: &mut [u8], number: u64, seed: u64) {
        let mut random = Random::of(seed, number);
        match self {
            Self::Zero => page.fill(0),
            Self::Numpy => numbers(page, 0..page.len() / 8, number, &mut random),
            Self::CPython => cpython(page, &mut random),
            Self::V8 => v8(page, &mut random),
            Self::Text => words(page, &mut random),
            Self::Noise => noise(page, &mut random),
        }
    }

    /// Changes some of the page in the way of its kind. What was there counts: a page changed twice is another than one changed once.
    pub fn change(self, page: &mut [u8], number: u64, random: &mut Random) {
        match self {
            // A buffer is used, and wiped later.
            Self::Zero if page.iter().all(|byte| *byte == 0) => {
                let len = random.place(page.len() - 64) + 64;
                words(&mut page[..len], random);
            }
            Self::Zero => page.fill(0),
            // A slice of the array is assigned.
            Self::Numpy => {
                let all = page.len() / 8;
                let count = 16 << random.below(5);
                let from = random.place(all.saturating_sub(count) + 1);
                numbers(page, from..all.min(from + count), number, random);
            }
            Self::CPython => change_cpython(page, random),
            Self::V8 => change_v8(page, random),
            // A line is written anew.
            Self::Text => {
                let len = 40 + random.place(200);
                let from = random.place(page.len() - len);
                words(&mut page[from..from + len], random);
            }
            // What cannot be compressed is replaced piece by piece.
            Self::Noise => {
                let len = page.len() / 4;
                let from = random.place(4) * len;
                noise(&mut page[from..from + len], random);
            }
        }
    }
}

/// Measured values: a curve that goes on from page to page, and noise of a hundredth.
#[expect(clippy::cast_precision_loss, reason = "pages are fewer than 2^52")]
fn numbers(page: &mut [u8], which: std::ops::Range<usize>, number: u64, random: &mut Random) {
    let per_page = page.len() / 8;
    for n in which {
        let x = (number as f64 * per_page as f64 + n as f64) / 5000.0;
        // A wave of two parabolas: sines are not the same on every machine.
        let phase = x - (x / 2.0).floor() * 2.0 - 1.0;
        let wave = 4.0 * phase * (1.0 - phase.abs());
        let value = 100.0 + 20.0 * wave + (random.unit() - 0.5);
        put(page, n * 8, value.to_bits());
    }
}

/// Where CPython's objects and types lie.
const OBJECTS: u64 = 0x7f3a_5c00_0000;
const TYPES: u64 = 0x55d2_9a41_0000;
/// Objects that others refer to lie in so many bytes.
const OBJECTS_LEN: u64 = 64 << 20;

fn object(random: &mut Random) -> u64 {
    // Most references are to what was made at about the same time.
    let near = if random.below(4) > 0 { 16 } else { 1 };
    OBJECTS + random.below(OBJECTS_LEN / 16 / near) * 16
}

/// A pool of `pymalloc`: its head, then objects of one size, or entries of a dictionary.
fn cpython(page: &mut [u8], random: &mut Random) {
    page.fill(0);
    let class = random.below(5);
    let (type_at, step): (u64, usize) = match class {
        0 => (0x1c0, 32),
        1 => (0x380, 32),
        2 => (0x540, 64),
        3 => (0x700, 24),
        _ => (0x8c0, 48),
    };
    put(page, 0, 4096 / step as u64);
    put(page, 8, OBJECTS + random.below(1 << 16) * 4096);
    put(page, 16, random.below(64));
    put(page, 24, class);
    let first = random.below(1 << 20);
    let mut at = 48;
    let mut n = 0;
    while at + step <= page.len() {
        if class == 3 {
            // An entry: hash, key, value; a third is empty.
            if random.below(3) > 0 {
                put(page, at, random.word() >> 1);
                put(page, at + 8, object(random));
                put(page, at + 16, object(random));
            }
        } else {
            put(page, at, 1 + random.small(12));
            put(page, at + 8, TYPES + type_at);
            match class {
                0 => {
                    put(page, at + 16, 1);
                    put(page, at + 24, (first + n) & 0x3fff_ffff);
                }
                1 => put(page, at + 16, (random.unit() * 1000.0).to_bits()),
                2 => {
                    let len = 6 + random.place(9);
                    put(page, at + 16, len as u64);
                    put(page, at + 24, random.word() >> 1);
                    put(page, at + 32, 0xe4);
                    words(&mut page[at + 40..at + 40 + len], random);
                }
                _ => {
                    put(page, at + 16, object(random));
                    put(page, at + 24, object(random));
                    put(page, at + 32, random.below(8));
                }
            }
        }
        at += step;
        n += 1;
    }
}

/// Reference counts move; now and then a reference leads elsewhere.
fn change_cpython(page: &mut [u8], random: &mut Random) {
    let (step, entries) = match get(page, 24) {
        0 | 1 => (32, false),
        2 => (64, false),
        3 => (24, true),
        _ => (48, false),
    };
    let objects = (page.len() - 48) / step;
    for _ in 0..=random.below(12) {
        let at = 48 + random.place(objects) * step;
        if entries {
            if get(page, at + 16) != 0 {
                put(page, at + 16, object(random));
            }
            continue;
        }
        // Around the same mean for ever.
        let count = get(page, at);
        let up = random.below(12) >= count.min(12);
        put(page, at, if up { count + 1 } else { count.max(2) - 1 });
        if step == 48 && random.below(8) == 0 {
            put(page, at + 16, object(random));
        }
    }
}

/// V8's heap: pointers compressed to 4 bytes, those to objects with the lowest bit set, small integers without.
fn half(random: &mut Random) -> u32 {
    let word = match random.below(10) {
        0..4 => 0x0804_0001 + (random.below(1 << 18) << 2),
        4..6 => 0x0010_0001 + (random.below(1 << 10) << 2),
        6..8 => random.small(2000) << 1,
        _ => 0x0000_2a69,
    };
    u32::try_from(word).unwrap_or(0)
}

/// Objects of 3 to 10 fields behind a map, and strings.
fn v8(page: &mut [u8], random: &mut Random) {
    let mut at = 0;
    while at + 4 <= page.len() {
        if random.below(4) == 0 {
            let len = (8 + random.place(40)).min(page.len() - at);
            words(&mut page[at..at + len], random);
            at = (at + len).next_multiple_of(4);
            continue;
        }
        let map = 0x0010_0001 + (random.small(256) << 4);
        let fields = 3 + random.place(8);
        for n in 0..fields {
            let Some(bytes) = page.get_mut(at..at + 4) else {
                break;
            };
            let field = match n {
                0 => u32::try_from(map).unwrap_or(0),
                1 | 2 => 0x0000_0a3d,
                _ => half(random),
            };
            bytes.copy_from_slice(&field.to_le_bytes());
            at += 4;
        }
    }
}

/// The collector moved some objects: pointers to them are others now.
fn change_v8(page: &mut [u8], random: &mut Random) {
    for _ in 0..8 + random.below(56) {
        let at = random.place(page.len() / 4) * 4;
        let Some(bytes) = page.get_mut(at..at + 4) else {
            continue;
        };
        if bytes[3] == 8 && bytes[0] & 1 == 1 {
            let to = 0x0804_0001 + (random.below(1 << 18) << 2);
            bytes.copy_from_slice(&u32::try_from(to).unwrap_or(0).to_le_bytes());
        }
    }
}

const WORDS: [&str; 96] = [
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "is",
    "that",
    "it",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "be",
    "at",
    "one",
    "have",
    "this",
    "from",
    "by",
    "had",
    "not",
    "but",
    "what",
    "all",
    "were",
    "when",
    "we",
    "there",
    "can",
    "an",
    "your",
    "which",
    "their",
    "if",
    "do",
    "will",
    "each",
    "how",
    "them",
    "then",
    "she",
    "many",
    "some",
    "so",
    "these",
    "would",
    "other",
    "into",
    "has",
    "more",
    "two",
    "like",
    "him",
    "see",
    "time",
    "could",
    "no",
    "make",
    "than",
    "first",
    "been",
    "its",
    "who",
    "now",
    "people",
    "my",
    "made",
    "over",
    "did",
    "down",
    "only",
    "way",
    "find",
    "use",
    "may",
    "water",
    "long",
    "little",
    "very",
    "after",
    "words",
    "called",
    "just",
    "where",
    "most",
    "know",
    "container",
    "request",
    "status",
    "error",
    "user",
    "value",
    "name",
];

/// Words, the first ones of the list more often, with numbers and ends of lines between.
fn words(out: &mut [u8], random: &mut Random) {
    let mut at = 0;
    while at < out.len() {
        let number = random.below(100_000).to_string();
        let word = if random.below(12) == 0 {
            number.as_str()
        } else {
            WORDS[usize::try_from(random.small(WORDS.len() as u64)).unwrap_or(0)]
        };
        let len = word.len().min(out.len() - at);
        out[at..at + len].copy_from_slice(&word.as_bytes()[..len]);
        at += len;
        if let Some(end) = out.get_mut(at) {
            *end = if random.below(14) == 0 { b'\n' } else { b' ' };
        }
        at += 1;
    }
}

fn noise(out: &mut [u8], random: &mut Random) {
    for bytes in out.chunks_mut(8) {
        let word = random.word().to_le_bytes();
        bytes.copy_from_slice(&word[..bytes.len()]);
    }
}

/// The kind of a heap's page with this number.
#[must_use]
pub const fn kind_of(page: usize) -> Kind {
    MIX[page / STRETCH % MIX.len()]
}

/// The memory of a program: arenas of all kinds, in a fixed mix.
#[derive(Debug, Clone)]
pub struct Heap {
    bytes: Vec<u8>,
}

impl Heap {
    /// A heap of so many pages. From 1,280 on (5 MiB) it has all kinds.
    #[must_use]
    pub fn new(pages: usize, seed: u64) -> Self {
        let mut bytes = vec![0; pages * PAGE];
        for (n, page) in bytes.chunks_mut(PAGE).enumerate() {
            kind_of(n).fill(page, n as u64, seed);
        }
        Self { bytes }
    }

    /// All pages.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of the page with this number.
    #[must_use]
    pub fn page(&self, number: usize) -> &[u8] {
        &self.bytes[number * PAGE..(number + 1) * PAGE]
    }

    /// Number of pages.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.bytes.len() / PAGE
    }

    /// Changes so many percent of the pages, each a little, in the way of its kind. Gives their numbers.
    pub fn step(&mut self, seed: u64, percent: f64) -> Vec<usize> {
        self.visit(seed, percent, |kind, page, number, random| {
            kind.change(page, number, random);
        })
    }

    /// Replaces so many percent of the pages by others of their kinds. Gives their numbers.
    pub fn replace(&mut self, seed: u64, percent: f64) -> Vec<usize> {
        self.visit(seed, percent, |kind, page, number, random| {
            kind.fill(page, number, random.word());
        })
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a number of pages"
    )]
    fn visit(
        &mut self,
        seed: u64,
        percent: f64,
        mut act: impl FnMut(Kind, &mut [u8], u64, &mut Random),
    ) -> Vec<usize> {
        let pages = self.pages();
        let count = ((pages as f64 * percent / 100.0).round() as usize).min(pages);
        let mut order: Vec<usize> = (0..pages).collect();
        let mut random = Random::of(seed, 1 << 60);
        for n in 0..count {
            order.swap(n, n + random.place(pages - n));
        }
        order.truncate(count);
        order.sort_unstable();
        for n in &order {
            let page = &mut self.bytes[n * PAGE..(n + 1) * PAGE];
            act(
                kind_of(*n),
                page,
                *n as u64,
                &mut Random::of(seed, *n as u64),
            );
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(kind: Kind, count: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; count * PAGE];
        for (n, page) in out.chunks_mut(PAGE).enumerate() {
            kind.fill(page, n as u64, seed);
        }
        out
    }

    /// Bytes that zstd 1 makes of it, by the million, in frames of 64 KiB.
    fn shrunk(bytes: &[u8]) -> usize {
        let stored: usize = bytes
            .chunks(64 << 10)
            .map(|frame| zstd::bulk::compress(frame, 1).unwrap().len())
            .sum();
        stored * 1000 / bytes.len()
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        for kind in Kind::ALL {
            assert_eq!(pages(kind, 20, 7), pages(kind, 20, 7), "{kind:?}");
            assert_eq!(
                kind == Kind::Zero,
                pages(kind, 20, 7) == pages(kind, 20, 8),
                "{kind:?}"
            );
        }
        let (mut a, mut b) = (Heap::new(1300, 1), Heap::new(1300, 1));
        for seed in 0..3 {
            assert_eq!(a.step(seed, 10.0), b.step(seed, 10.0));
            assert_eq!(a.replace(seed, 1.0), b.replace(seed, 1.0));
        }
        assert_eq!(a.bytes(), b.bytes());
    }

    #[test]
    fn the_bytes_are_the_same_on_every_machine() {
        // Sums of all bytes: what was measured with these pages stays comparable.
        let sum = |bytes: &[u8]| {
            bytes.iter().fold(0_u64, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add((*byte).into())
            })
        };
        let mut heap = Heap::new(1280, 42);
        heap.step(1, 50.0);
        assert_eq!(sum(heap.bytes()), SUM);
    }
    const SUM: u64 = 7_088_635_283_397_214_029;

    #[test]
    fn each_kind_compresses_as_what_it_stands_for_does() {
        for (kind, from, to) in [
            (Kind::Zero, 0, 5),
            (Kind::Numpy, 750, 960),
            (Kind::CPython, 150, 450),
            (Kind::V8, 350, 700),
            (Kind::Text, 300, 600),
            (Kind::Noise, 1000, 1010),
        ] {
            let found = shrunk(&pages(kind, 256, 3));
            assert!((from..=to).contains(&found), "{kind:?}: {found} of 1000");
        }
        let found = shrunk(Heap::new(2560, 3).bytes());
        assert!((400..650).contains(&found), "a heap: {found} of 1000");
    }

    #[test]
    fn a_step_changes_the_share_of_pages_that_was_asked_for_and_nothing_else() {
        let before = Heap::new(2560, 5);
        for percent in [0.0, 5.0, 25.0, 100.0] {
            let mut after = before.clone();
            let changed = after.step(9, percent);
            assert_eq!(changed.len() as f64, 2560.0 * percent / 100.0);
            let differ: Vec<usize> = (0..2560)
                .filter(|n| before.page(*n) != after.page(*n))
                .collect();
            assert!(differ.iter().all(|n| changed.binary_search(n).is_ok()));
            // A change that happens to put what was there is rare.
            assert!(differ.len() * 100 >= changed.len() * 97, "{percent} %");
        }
    }

    #[test]
    fn a_heap_compresses_the_same_after_many_steps() {
        let mut heap = Heap::new(1280, 6);
        let before = shrunk(heap.bytes());
        for seed in 0..200 {
            heap.step(seed, 25.0);
        }
        let after = shrunk(heap.bytes());
        assert!(
            after.abs_diff(before) <= 60,
            "{before} of 1000 became {after}"
        );
    }
}
