#![doc = include_str!("../spec/recipe.md")]

use std::collections::HashMap;

use crate::error::{FormatError, Result};
use crate::limits;
use crate::pack::{FRAME_HEADER_LEN, FrameEntry};
use crate::wire::{Put, Reader};

/// Where a frame is, and which chunks it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameRef {
    /// Number of the pack in the manifest's table.
    pub pack: u32,
    /// Bytes from the start of the pack to the frame's header.
    pub offset: u32,
    /// Bytes of header and payload.
    pub stored_len: u32,
    /// Number of its first chunk within the pack.
    pub first_chunk: u32,
    /// Number of its chunks.
    pub chunks: u16,
}

impl FrameRef {
    /// The frame that a line of the frame table of pack number `pack` tells of.
    #[must_use]
    pub const fn of(pack: u32, entry: &FrameEntry) -> Self {
        Self {
            pack,
            offset: entry.offset,
            stored_len: entry.stored_len,
            first_chunk: entry.first_chunk,
            chunks: entry.chunks,
        }
    }
}

/// Consecutive chunks of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSlice {
    /// The frame.
    pub frame: FrameRef,
    /// Chunks of the frame that are passed over.
    pub skip: u16,
    /// Chunks that are taken, at least one.
    pub take: u16,
    /// Bytes of the chunks that are taken.
    pub len: u64,
}

/// One step of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slice {
    /// So many zero bytes.
    Zero {
        /// Bytes.
        len: u64,
    },
    /// Chunks of a frame.
    Frame(FrameSlice),
}

impl Slice {
    /// Bytes that the slice gives.
    #[must_use]
    pub const fn len(&self) -> u64 {
        match self {
            Self::Zero { len } => *len,
            Self::Frame(slice) => slice.len,
        }
    }

    /// True for a slice that gives nothing; no recipe holds one.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const ZERO: u64 = 0;
const NEXT_FRAME: u64 = 1;
const SAME_FRAME: u64 = 2;
const OTHER_FRAME: u64 = 3;

const COLUMNS: usize = 8;
const STEPS: usize = 0;
const OFFSETS: usize = 1;
const FIRSTS: usize = 2;
const STORED: usize = 3;
const CHUNKS: usize = 4;
const SKIPS: usize = 5;
const TAKES: usize = 6;
const LENGTHS: usize = 7;

/// A recipe in its stored form: eight columns of varints. Decoded step by step, so that a large one takes little memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipe {
    unit: u32,
    slices: u64,
    columns: [Vec<u8>; COLUMNS],
}

/// Appends slices to a recipe; neighbours that continue each other become one.
#[derive(Debug)]
pub struct RecipeWriter {
    recipe: Recipe,
    last: Option<Slice>,
    cursor: Cursor,
}

/// What the coding of the next slice is relative to.
#[derive(Debug, Default, Clone)]
struct Cursor {
    pack: u32,
    frames: HashMap<u32, FrameRef>,
}

impl Cursor {
    /// Where the pack's next frame would begin, and the number of its first chunk.
    fn expected(&self, pack: u32) -> (i64, i64) {
        self.frames
            .get(&pack)
            .map_or((crate::pack::PACK_HEADER_LEN as i64, 0), |last| {
                (
                    i64::from(last.offset) + i64::from(last.stored_len),
                    i64::from(last.first_chunk) + i64::from(last.chunks),
                )
            })
    }
    fn step(&mut self, frame: FrameRef) {
        self.pack = frame.pack;
        self.frames.insert(frame.pack, frame);
    }
}

impl RecipeWriter {
    /// An empty recipe. `unit` is the length of the chunks if they have one length (a page), else 0.
    #[must_use]
    pub fn new(unit: u32) -> Self {
        Self {
            recipe: Recipe {
                unit,
                ..Recipe::default()
            },
            last: None,
            cursor: Cursor::default(),
        }
    }

    /// Appends one slice.
    pub fn push(&mut self, slice: Slice) {
        match (&mut self.last, slice) {
            (Some(Slice::Zero { len }), Slice::Zero { len: more }) => *len += more,
            (Some(Slice::Frame(last)), Slice::Frame(next))
                if last.frame == next.frame && last.skip + last.take == next.skip =>
            {
                last.take += next.take;
                last.len += next.len;
            }
            _ => {
                if let Some(done) = self.last.replace(slice) {
                    self.write(done);
                }
            }
        }
    }

    /// Ends the recipe.
    #[must_use]
    pub fn finish(mut self) -> Recipe {
        if let Some(done) = self.last.take() {
            self.write(done);
        }
        self.recipe
    }

    fn write(&mut self, slice: Slice) {
        self.recipe.slices += 1;
        let columns = &mut self.recipe.columns;
        let slice = match slice {
            Slice::Zero { len } => {
                columns[STEPS].put_varint(ZERO);
                columns[LENGTHS].put_varint(len);
                return;
            }
            Slice::Frame(slice) => slice,
        };
        let frame = slice.frame;
        let (offset, first) = self.cursor.expected(frame.pack);
        let pack_code = if frame.pack == self.cursor.pack {
            0
        } else {
            u64::from(frame.pack) + 1
        };
        let same = self.cursor.frames.get(&frame.pack) == Some(&frame);
        let next = (offset, first) == (i64::from(frame.offset), i64::from(frame.first_chunk));
        let kind = if same {
            SAME_FRAME
        } else if next {
            NEXT_FRAME
        } else {
            OTHER_FRAME
        };
        columns[STEPS].put_varint(kind | pack_code << 2);
        if kind == OTHER_FRAME {
            columns[OFFSETS].put_zigzag(i64::from(frame.offset) - offset);
            columns[FIRSTS].put_zigzag(i64::from(frame.first_chunk) - first);
        }
        if kind != SAME_FRAME {
            columns[STORED].put_varint(frame.stored_len.into());
            columns[CHUNKS].put_varint(frame.chunks.into());
        }
        columns[SKIPS].put_varint(slice.skip.into());
        columns[TAKES].put_varint(slice.take.into());
        let by_unit = u64::from(self.recipe.unit) * u64::from(slice.take);
        columns[LENGTHS].put_varint(if slice.len == by_unit { 0 } else { slice.len });
        self.cursor.step(frame);
    }
}

impl Recipe {
    /// Number of slices.
    #[must_use]
    pub const fn slice_count(&self) -> u64 {
        self.slices
    }

    /// Bytes that the recipe takes before compression.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.columns.iter().map(Vec::len).sum()
    }

    /// Goes through the slices in order. Each is checked; `packs` is the length of the manifest's table of packs.
    #[must_use]
    pub fn slices(&self, packs: usize) -> Slices<'_> {
        Slices {
            unit: self.unit,
            left: self.slices,
            packs: packs as u64,
            columns: std::array::from_fn(|n| Reader::new("recipe", &self.columns[n])),
            cursor: Cursor::default(),
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.slices);
        for column in &self.columns {
            out.put_string(column);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>, unit: u32) -> Result<Self> {
        // One byte in the column of steps is the least that a slice takes.
        let slices = r.count("slices of a recipe", limits::MANIFEST_PLAIN_MAX, 1)? as u64;
        let mut columns: [Vec<u8>; COLUMNS] = Default::default();
        for column in &mut columns {
            *column = r
                .string("column of a recipe", limits::MANIFEST_PLAIN_MAX)?
                .to_vec();
        }
        Ok(Self {
            unit,
            slices,
            columns,
        })
    }
}

/// Iterator over the slices of a recipe. After an error it ends.
#[derive(Debug, Clone)]
pub struct Slices<'a> {
    unit: u32,
    left: u64,
    packs: u64,
    columns: [Reader<'a>; COLUMNS],
    cursor: Cursor,
}

impl Iterator for Slices<'_> {
    type Item = Result<Slice>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let slice = self.step();
        let over = self.left == 0 && self.columns.iter().any(|column| column.left() > 0);
        match slice {
            Ok(_) if over => Some(Err(FormatError::invalid(
                "recipe",
                "its columns are longer than its number of slices",
            ))),
            Ok(slice) => Some(Ok(slice)),
            Err(e) => {
                self.left = 0;
                Some(Err(e))
            }
        }
    }
}

impl Slices<'_> {
    fn step(&mut self) -> Result<Slice> {
        const WHAT: &str = "recipe";
        let invalid = |detail: String| FormatError::invalid(WHAT, detail);
        let step = self.columns[STEPS].varint()?;
        let (kind, pack_code) = (step & 3, step >> 2);
        if kind == ZERO {
            let len = self.columns[LENGTHS].varint()?;
            if pack_code != 0 || len == 0 {
                return Err(invalid(
                    "a zero slice of no length, or with a pack".to_owned(),
                ));
            }
            return Ok(Slice::Zero { len });
        }
        let pack = match pack_code {
            0 => self.cursor.pack,
            code => {
                u32::try_from(code - 1).map_err(|_| invalid(format!("pack number {}", code - 1)))?
            }
        };
        if u64::from(pack) >= self.packs {
            return Err(invalid(format!("pack number {pack} of {}", self.packs)));
        }
        let frame = if kind == SAME_FRAME {
            *self
                .cursor
                .frames
                .get(&pack)
                .ok_or_else(|| invalid("the same frame, but there was none".to_owned()))?
        } else {
            self.new_frame(kind, pack)?
        };
        let small = |value: u64| {
            u16::try_from(value)
                .ok()
                .filter(|v| *v <= frame.chunks)
                .ok_or_else(|| {
                    FormatError::invalid(
                        WHAT,
                        format!("chunk {value} of a frame with {}", frame.chunks),
                    )
                })
        };
        let skip = small(self.columns[SKIPS].varint()?)?;
        let take = small(self.columns[TAKES].varint()?)?;
        if take == 0 || u32::from(skip) + u32::from(take) > u32::from(frame.chunks) {
            return Err(invalid(format!(
                "{take} chunks after {skip} of a frame with {}",
                frame.chunks
            )));
        }
        let len = match self.columns[LENGTHS].varint()? {
            0 => u64::from(self.unit) * u64::from(take),
            len => len,
        };
        if len == 0 || len > u64::from(limits::FRAME_PLAIN_MAX) {
            return Err(invalid(format!("a slice of {len} bytes")));
        }
        self.cursor.step(frame);
        Ok(Slice::Frame(FrameSlice {
            frame,
            skip,
            take,
            len,
        }))
    }

    fn new_frame(&mut self, kind: u64, pack: u32) -> Result<FrameRef> {
        let invalid = |detail: String| FormatError::invalid("recipe", detail);
        let (mut offset, mut first) = self.cursor.expected(pack);
        if kind == OTHER_FRAME {
            offset = offset.saturating_add(self.columns[OFFSETS].zigzag()?);
            first = first.saturating_add(self.columns[FIRSTS].zigzag()?);
        }
        let stored_len = self.columns[STORED].varint32()?;
        let chunks = self.columns[CHUNKS].varint32()?;
        let end = offset.saturating_add(i64::from(stored_len));
        let end_fits = u64::try_from(end).is_ok_and(|end| end <= limits::PACK_MAX);
        if !end_fits
            || (stored_len as usize) < FRAME_HEADER_LEN
            || stored_len > limits::FRAME_STORED_MAX
        {
            return Err(invalid(format!(
                "a frame of {stored_len} bytes at {offset}"
            )));
        }
        Ok(FrameRef {
            pack,
            offset: u32::try_from(offset).map_err(|_| invalid(format!("a frame at {offset}")))?,
            stored_len,
            first_chunk: u32::try_from(first)
                .ok()
                .filter(|n| *n < limits::PACK_CHUNKS_MAX)
                .ok_or_else(|| invalid(format!("chunk number {first}")))?,
            chunks: u16::try_from(chunks)
                .ok()
                .filter(|n| (1..=limits::FRAME_CHUNKS_MAX).contains(n))
                .ok_or_else(|| invalid(format!("a frame of {chunks} chunks")))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(pack: u32, n: u32) -> FrameRef {
        FrameRef {
            pack,
            offset: 32 + n * 1000,
            stored_len: 1000,
            first_chunk: n * 16,
            chunks: 16,
        }
    }
    fn slice(pack: u32, n: u32, skip: u16, take: u16) -> Slice {
        Slice::Frame(FrameSlice {
            frame: frame(pack, n),
            skip,
            take,
            len: u64::from(take) * 4096,
        })
    }
    fn write(slices: &[Slice]) -> Recipe {
        let mut writer = RecipeWriter::new(4096);
        slices.iter().for_each(|slice| writer.push(*slice));
        writer.finish()
    }
    fn read(recipe: &Recipe) -> Result<Vec<Slice>> {
        let mut bytes = Vec::new();
        recipe.encode(&mut bytes);
        let mut r = Reader::new("test", &bytes);
        let again = Recipe::decode(&mut r, 4096)?;
        r.finish()?;
        assert_eq!(&again, recipe);
        again.slices(1000).collect()
    }

    #[test]
    fn neighbours_that_continue_each_other_become_one() {
        let recipe = write(&[
            slice(0, 0, 0, 3),
            slice(0, 0, 3, 2),
            Slice::Zero { len: 4096 },
            Slice::Zero { len: 8192 },
            slice(0, 0, 6, 1),
        ]);
        assert_eq!(
            read(&recipe).unwrap(),
            [
                slice(0, 0, 0, 5),
                Slice::Zero { len: 12288 },
                slice(0, 0, 6, 1)
            ]
        );
    }

    #[test]
    fn frames_in_the_order_of_their_pack_cost_a_few_bytes_each() {
        let recipe = write(&(0..1000).map(|n| slice(0, n, 0, 16)).collect::<Vec<_>>());
        assert!(recipe.encoded_len() <= 1000 * 7, "{}", recipe.encoded_len());
    }

    #[test]
    fn a_slice_outside_of_its_frame_or_of_the_table_of_packs_is_refused() {
        assert!(
            read(&write(&[slice(1000, 0, 0, 1)])).is_err(),
            "pack 1000 of 1000"
        );
        assert!(
            read(&write(&[slice(0, 0, 10, 7)])).is_err(),
            "17 of 16 chunks"
        );
        assert!(read(&write(&[slice(0, 0, 0, 0)])).is_err(), "nothing");
    }

    fn any_slice() -> impl Strategy<Value = Slice> {
        prop_oneof![
            (1_u64..1 << 40).prop_map(|len| Slice::Zero { len }),
            (0_u32..4, 0_u32..30, 0_u16..16, 1_u16..16, 0_u64..100).prop_map(
                |(pack, n, skip, take, odd)| {
                    let take = take.min(16 - skip);
                    let len = if odd < 90 {
                        u64::from(take) * 4096
                    } else {
                        odd
                    };
                    Slice::Frame(FrameSlice {
                        frame: frame(pack, n),
                        skip,
                        take,
                        len,
                    })
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn any_recipe_reads_back(slices in proptest::collection::vec(any_slice(), 0..200)) {
            let recipe = write(&slices);
            let again = read(&recipe).unwrap();
            prop_assert_eq!(write(&again), recipe, "merging is final");
            let len = |slices: &[Slice]| slices.iter().map(Slice::len).sum::<u64>();
            prop_assert_eq!(len(&slices), len(&again));
        }

        #[test]
        fn arbitrary_columns_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut r = Reader::new("test", &bytes);
            if let Ok(recipe) = Recipe::decode(&mut r, 4096) {
                let _ = recipe.slices(3).count();
            }
        }
    }
}
