#![doc = include_str!("../spec/delta.md")]

use std::collections::HashMap;

use crate::error::{FormatError, Result};
use crate::limits;
use crate::recipe::{FrameRef, FrameSlice, Recipe, RecipeWriter, Slice, Slices};
use crate::wire::{Put, Reader};

const WHAT: &str = "deltas of a manifest";
/// Lengths of this many bytes for each chunk are not written out.
const UNIT: u32 = 4096;

/// The bases of some pages of a delta frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseRun {
    /// The pages that these are XORed with; zero bytes: they stand as they are.
    pub base: Slice,
    /// How many deltas these pages have behind them, this one included.
    pub version: u8,
}

/// A frame that holds pages XORed with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaFrame {
    /// Where it is.
    pub frame: FrameRef,
    /// Bytes of each of its pages.
    pub page_size: u32,
    /// The bases of its pages, in order.
    pub bases: Vec<BaseRun>,
}

impl DeltaFrame {
    /// Bytes of its pages.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.frame.chunks as u64 * self.page_size as u64
    }

    /// True for a frame without pages; there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The delta frames of a manifest: each after those that it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deltas {
    frames: Vec<DeltaFrame>,
    /// By pack number and offset.
    numbers: HashMap<(u32, u32), usize>,
}

impl Deltas {
    /// The delta frame at this place; none: the frame there is a plain one.
    #[must_use]
    pub fn get(&self, frame: &FrameRef) -> Option<&DeltaFrame> {
        let number = self.numbers.get(&(frame.pack, frame.offset))?;
        self.frames
            .get(*number)
            .filter(|delta| delta.frame == *frame)
    }

    /// Appends a frame; its bases must be plain or be there. One that is there already stays as it is.
    pub fn push(&mut self, delta: DeltaFrame) {
        let place = (delta.frame.pack, delta.frame.offset);
        if let std::collections::hash_map::Entry::Vacant(entry) = self.numbers.entry(place) {
            entry.insert(self.frames.len());
            self.frames.push(delta);
        }
    }

    /// All of them, in order.
    #[must_use]
    pub fn frames(&self) -> &[DeltaFrame] {
        &self.frames
    }
}

impl FromIterator<DeltaFrame> for Deltas {
    fn from_iter<I: IntoIterator<Item = DeltaFrame>>(frames: I) -> Self {
        let mut out = Self::default();
        frames.into_iter().for_each(|delta| out.push(delta));
        out
    }
}

fn pages(slice: &Slice, page_size: u32) -> u64 {
    slice.len() / u64::from(page_size.max(1))
}

/// The section's body.
pub(crate) fn encode(deltas: &[DeltaFrame]) -> Vec<u8> {
    let mut frames = RecipeWriter::new(UNIT);
    let mut bases = RecipeWriter::new(UNIT);
    let mut versions = Vec::new();
    let mut run = (0, 0);
    let mut end_run = |(pages, version): (u64, u8)| {
        if pages > 0 {
            versions.put_varint(pages);
            versions.put_varint(version.into());
        }
    };
    for delta in deltas {
        frames.push(Slice::Frame(FrameSlice {
            frame: delta.frame,
            skip: 0,
            take: delta.frame.chunks,
            len: delta.len(),
        }));
        for BaseRun { base, version } in &delta.bases {
            bases.push(*base);
            if run.1 != *version {
                end_run(std::mem::replace(&mut run, (0, *version)));
            }
            run.0 += pages(base, delta.page_size);
        }
    }
    end_run(run);
    let mut out = Vec::new();
    out.put_varint(deltas.len() as u64);
    frames.finish().encode(&mut out);
    bases.finish().encode(&mut out);
    out.put_string(&versions);
    out
}

/// Reads the section's body. What comes back has no circles, and no chain longer than [`limits::DELTA_CHAIN_MAX`].
pub(crate) fn decode(mut r: Reader<'_>, packs: usize) -> Result<Vec<DeltaFrame>> {
    let count = r.count(WHAT, limits::DELTA_FRAMES_MAX, 1)?;
    let frames = Recipe::decode(&mut r, UNIT)?;
    let bases = Recipe::decode(&mut r, UNIT)?;
    let versions = r.string(WHAT, limits::MANIFEST_PLAIN_MAX)?;
    r.finish()?;
    let mut bases = Bases {
        slices: bases.slices(packs),
        slice: None,
        versions: Reader::new(WHAT, versions),
        version: (0, 0),
    };
    let mut out: Vec<DeltaFrame> = Vec::new();
    // The place of each frame in the list, its page size, and the length of the longest chain behind its pages.
    let mut known: HashMap<(u32, u32), (u32, u32)> = HashMap::new();
    for slice in frames.slices(packs) {
        let Slice::Frame(slice) = slice? else {
            return Err(FormatError::invalid(WHAT, "zero bytes among the frames"));
        };
        let frame = slice.frame;
        let page_size = u32::try_from(slice.len / u64::from(frame.chunks)).unwrap_or(0);
        let whole = slice.skip == 0 && slice.take == frame.chunks;
        if !whole || page_size == 0 || u64::from(page_size) * u64::from(frame.chunks) != slice.len {
            return Err(FormatError::invalid(
                WHAT,
                format!("{} bytes of a frame with {} pages", slice.len, frame.chunks),
            ));
        }
        let mut delta = DeltaFrame {
            frame,
            page_size,
            bases: Vec::new(),
        };
        let mut left = delta.len();
        let mut chain = 0;
        while left > 0 {
            let run = bases.next(left, page_size)?;
            left -= run.base.len();
            if let Slice::Frame(base) = run.base {
                let (base_pages, behind) = known
                    .get(&(base.frame.pack, base.frame.offset))
                    .copied()
                    .unwrap_or((page_size, 0));
                if base_pages != page_size {
                    return Err(FormatError::invalid(WHAT, "a base of another page size"));
                }
                chain = chain.max(behind + 1);
            }
            delta.bases.push(run);
        }
        if chain > limits::DELTA_CHAIN_MAX {
            return Err(FormatError::TooLarge {
                what: "chain of deltas",
                limit: limits::DELTA_CHAIN_MAX.into(),
                got: chain.into(),
            });
        }
        let twice = known.insert((frame.pack, frame.offset), (page_size, chain));
        if twice.is_some() {
            return Err(FormatError::invalid(
                WHAT,
                format!(
                    "the frame at byte {} stands there twice, or before its base",
                    frame.offset
                ),
            ));
        }
        out.push(delta);
    }
    check_order(&out, &known)?;
    if out.len() != count || out.is_empty() || !bases.is_at_end() {
        return Err(FormatError::invalid(
            WHAT,
            "its numbers contradict each other",
        ));
    }
    Ok(out)
}

/// A base in a delta frame must stand before what is made of it.
fn check_order(deltas: &[DeltaFrame], known: &HashMap<(u32, u32), (u32, u32)>) -> Result<()> {
    let mut seen: HashMap<(u32, u32), ()> = HashMap::with_capacity(known.len());
    for delta in deltas {
        for run in &delta.bases {
            if let Slice::Frame(base) = run.base {
                let key = (base.frame.pack, base.frame.offset);
                if known.contains_key(&key) && !seen.contains_key(&key) {
                    return Err(FormatError::invalid(WHAT, "a base stands after its delta"));
                }
            }
        }
        seen.insert((delta.frame.pack, delta.frame.offset), ());
    }
    Ok(())
}

struct Bases<'a> {
    slices: Slices<'a>,
    slice: Option<Slice>,
    versions: Reader<'a>,
    /// Pages left of the run, and their version.
    version: (u64, u8),
}

impl Bases<'_> {
    /// The next pages of one slice and one version, at most `left` bytes.
    fn next(&mut self, left: u64, page_size: u32) -> Result<BaseRun> {
        let short = || FormatError::invalid(WHAT, "fewer bases than pages");
        if self.version.0 == 0 {
            let (pages, version) = (self.versions.varint()?, self.versions.varint()?);
            let version = u8::try_from(version).map_err(|_| FormatError::TooLarge {
                what: "version of a page",
                limit: 255,
                got: version,
            })?;
            if pages == 0 {
                return Err(short());
            }
            self.version = (pages, version);
        }
        let slice = match self.slice.take() {
            Some(slice) => slice,
            None => self.slices.next().ok_or_else(short)??,
        };
        let unit = u64::from(page_size);
        let take = (left / unit).min(self.version.0);
        let (base, rest) = match slice {
            Slice::Zero { len } if len % unit == 0 => {
                let taken = len.min(take * unit);
                let rest = len - taken;
                (
                    Slice::Zero { len: taken },
                    (rest > 0).then_some(Slice::Zero { len: rest }),
                )
            }
            Slice::Frame(slice) if slice.len == u64::from(slice.take) * unit => {
                let taken = slice.take.min(u16::try_from(take).unwrap_or(u16::MAX));
                let rest = FrameSlice {
                    skip: slice.skip + taken,
                    take: slice.take - taken,
                    len: slice.len - u64::from(taken) * unit,
                    ..slice
                };
                let base = FrameSlice {
                    take: taken,
                    len: u64::from(taken) * unit,
                    ..slice
                };
                (
                    Slice::Frame(base),
                    (rest.take > 0).then_some(Slice::Frame(rest)),
                )
            }
            _ => {
                return Err(FormatError::invalid(
                    WHAT,
                    format!("a base whose pages have not {page_size} bytes"),
                ));
            }
        };
        self.slice = rest;
        self.version.0 -= base.len() / unit;
        Ok(BaseRun {
            base,
            version: self.version.1,
        })
    }

    fn is_at_end(&mut self) -> bool {
        self.slice.is_none()
            && self.slices.next().is_none()
            && self.version.0 == 0
            && self.versions.left() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(pack: u32, n: u32, chunks: u16) -> FrameRef {
        FrameRef {
            pack,
            offset: 32 + n * 1000,
            stored_len: 1000,
            first_chunk: n * 16,
            chunks,
        }
    }

    fn run(frame: FrameRef, skip: u16, take: u16, version: u8) -> BaseRun {
        let len = u64::from(take) * 4096;
        BaseRun {
            base: Slice::Frame(FrameSlice {
                frame,
                skip,
                take,
                len,
            }),
            version,
        }
    }

    fn zero(pages: u64) -> BaseRun {
        BaseRun {
            base: Slice::Zero { len: pages * 4096 },
            version: 0,
        }
    }

    fn delta(n: u32, bases: Vec<BaseRun>) -> DeltaFrame {
        DeltaFrame {
            frame: frame(1, n, 8),
            page_size: 4096,
            bases,
        }
    }

    fn sample() -> Vec<DeltaFrame> {
        let plain = frame(0, 0, 16);
        let first = delta(0, vec![run(plain, 0, 5, 1), zero(3)]);
        let second = delta(
            1,
            vec![
                run(plain, 5, 2, 1),
                run(first.frame, 2, 3, 2),
                run(first.frame, 5, 3, 1),
            ],
        );
        let third = delta(
            2,
            vec![run(first.frame, 0, 4, 3), run(second.frame, 4, 4, 3)],
        );
        vec![first, second, third]
    }

    fn read(bytes: &[u8]) -> Result<Vec<DeltaFrame>> {
        decode(Reader::new(WHAT, bytes), 2)
    }

    #[test]
    fn deltas_read_back_with_the_borders_of_frames_and_versions() {
        assert_eq!(read(&encode(&sample())), Ok(sample()));
    }

    #[test]
    fn circles_long_chains_and_bases_of_other_pages_are_refused() {
        let mut late = sample();
        late.swap(0, 1);
        let mut own = sample();
        own[2].bases = vec![run(own[2].frame, 0, 8, 1)];
        let mut short = sample();
        short[1].bases.pop();
        let mut long = vec![delta(0, vec![run(frame(0, 0, 16), 0, 8, 1)])];
        for n in 1..=limits::DELTA_CHAIN_MAX {
            long.push(delta(n, vec![run(long[n as usize - 1].frame, 0, 8, 1)]));
        }
        let mut other = sample();
        other[0].page_size = 16384;
        for (what, bad) in [
            ("late", late),
            ("own", own),
            ("short", short),
            ("other", other),
        ] {
            assert!(read(&encode(&bad)).is_err(), "{what}");
        }
        assert!(matches!(
            read(&encode(&long)),
            Err(FormatError::TooLarge { .. })
        ));
        assert!(read(&encode(&long[..limits::DELTA_CHAIN_MAX as usize])).is_ok());
        let twice = [sample(), sample()].concat();
        assert!(read(&encode(&twice)).is_err());
        assert!(read(&encode(&[])).is_err());
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_panics(at in 0_usize..200, to in any::<u8>(), cut in any::<bool>()) {
            let mut bytes = encode(&sample());
            let at = at % bytes.len();
            bytes[at] = to;
            if cut {
                bytes.truncate(at);
            }
            if let Ok(deltas) = read(&bytes) {
                for delta in &deltas {
                    let len: u64 = delta.bases.iter().map(|run| run.base.len()).sum();
                    prop_assert_eq!(len, delta.len());
                }
            }
        }
    }
}
