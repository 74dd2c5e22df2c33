#![doc = include_str!("../spec/delta.md")]

use std::collections::{HashMap, HashSet};

use crate::error::{FormatError, Result};
use crate::ids::{ID_LEN, PackId};
use crate::limits;
use crate::recipe::{FrameRef, FrameSlice, Recipe, RecipeWriter, Slice, Slices};
use crate::wire::{Put, Reader};

const WHAT: &str = "table of deltas";
/// Lengths of this many bytes for each chunk are not written out.
const UNIT: u32 = 4096;

/// The bases of some pages of a delta frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseRun {
    /// The pages that these are made of; zero bytes: pages of zeros.
    pub base: Slice,
    /// Number of the import that made them, for the choice of later bases.
    pub version: u8,
}

/// A frame that holds pages by what differs from others.
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

    /// The frames that its pages are made of.
    pub fn base_frames(&self) -> impl Iterator<Item = FrameRef> {
        self.bases.iter().filter_map(|run| match run.base {
            Slice::Frame(base) => Some(base.frame),
            Slice::Zero { .. } => None,
        })
    }

    /// True for a frame without pages; there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A pack that a table names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablePack {
    /// The pack.
    pub id: PackId,
    /// True if it is one of deltas.
    pub deltas: bool,
}

/// What the pages of some delta frames are made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeltaTable {
    /// The packs that are named by number.
    pub packs: Vec<TablePack>,
    /// The frames.
    pub frames: Vec<DeltaFrame>,
}

impl DeltaTable {
    /// The table's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(self.packs.len() as u64);
        for pack in &self.packs {
            out.extend_from_slice(pack.id.as_bytes());
            out.push(u8::from(pack.deltas));
        }
        encode_frames(&self.frames, &mut out);
        out
    }

    /// Reads a table.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(WHAT, bytes);
        let count = r.count(WHAT, limits::MANIFEST_PACKS_MAX, ID_LEN + 1)?;
        let packs: Vec<_> = (0..count)
            .map(|_| {
                let id = PackId::from_bytes(r.array()?);
                let deltas = match r.u8()? {
                    0 => false,
                    1 => true,
                    n => {
                        return Err(FormatError::UnknownFeature {
                            what: WHAT,
                            feature: format!("pack kind {n}"),
                        });
                    }
                };
                Ok(TablePack { id, deltas })
            })
            .collect::<Result<_>>()?;
        let frames = decode_frames(r, packs.len())?;
        Ok(Self { packs, frames })
    }
}

/// The delta frames that a manifest can use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deltas {
    frames: Vec<DeltaFrame>,
    /// By pack number and offset: number of the frame, and of its table.
    places: HashMap<(u32, u32), (usize, usize)>,
    /// For each run of bases of each frame: the page after its last, and the length of the longest chain behind its pages.
    runs: Vec<Vec<(u32, u32)>>,
    /// Runs of bases in all frames.
    run_count: usize,
    /// Frames that were taken for plain ones.
    plain: HashSet<(u32, u32)>,
}

impl Deltas {
    /// The delta frame at this place; none: the frame there is a plain one.
    #[must_use]
    pub fn get(&self, frame: &FrameRef) -> Option<&DeltaFrame> {
        self.frames.get(self.rank(frame)?)
    }

    /// How many delta frames come before the one at this place, all that it is made of among them; none: the frame there is a plain one.
    #[must_use]
    pub fn rank(&self, frame: &FrameRef) -> Option<usize> {
        let (number, _) = *self.places.get(&(frame.pack, frame.offset))?;
        (self.frames.get(number)?.frame == *frame).then_some(number)
    }

    /// Number of the table that the delta frame at this place came from.
    #[must_use]
    pub fn table_of(&self, frame: &FrameRef) -> Option<usize> {
        Some(self.places.get(&(frame.pack, frame.offset))?.1)
    }

    /// Adds a frame of a table; its bases must be plain or have been added.
    pub fn add(&mut self, delta: DeltaFrame, table: usize) -> Result<()> {
        let place = (delta.frame.pack, delta.frame.offset);
        if self.places.contains_key(&place) {
            return Err(FormatError::invalid(
                WHAT,
                format!("the frame at byte {} stands there twice", place.1),
            ));
        }
        if self.plain.contains(&place) {
            return Err(FormatError::invalid(WHAT, "a base comes after its delta"));
        }
        if self.frames.len() >= limits::DELTA_FRAMES_MAX {
            return Err(too_many(
                "delta frames of a manifest",
                limits::DELTA_FRAMES_MAX,
            ));
        }
        if self.run_count + delta.bases.len() > limits::DELTA_RUNS_MAX {
            return Err(too_many(
                "stretches of pages of a manifest",
                limits::DELTA_RUNS_MAX,
            ));
        }
        let mut runs = Vec::with_capacity(delta.bases.len());
        let mut end = 0;
        // Runs mostly have their bases in few frames.
        let mut last = None;
        for run in &delta.bases {
            end = pages(&run.base, delta.page_size).saturating_add(end);
            let Slice::Frame(base) = run.base else {
                runs.push((end, 0));
                continue;
            };
            let known = match last {
                Some((frame, known)) if frame == base.frame => known,
                _ => self.base(&delta, &base.frame)?,
            };
            last = Some((base.frame, known));
            let behind = known.map_or(0, |known| self.behind(known, &base));
            if behind >= limits::DELTA_CHAIN_MAX {
                return Err(FormatError::TooLarge {
                    what: "chain of deltas",
                    limit: limits::DELTA_CHAIN_MAX.into(),
                    got: u64::from(behind) + 1,
                });
            }
            runs.push((end, behind + 1));
        }
        self.places.insert(place, (self.frames.len(), table));
        self.run_count += delta.bases.len();
        self.frames.push(delta);
        self.runs.push(runs);
        Ok(())
    }

    /// Number of a frame that has bases of `delta`; none for a plain one.
    fn base(&mut self, delta: &DeltaFrame, base: &FrameRef) -> Result<Option<usize>> {
        let place = (base.pack, base.offset);
        if place == (delta.frame.pack, delta.frame.offset) {
            return Err(FormatError::invalid(WHAT, "a page made of itself"));
        }
        let Some(known) = self.rank(base) else {
            self.plain.insert(place);
            return Ok(None);
        };
        let page_size = self.frames.get(known).map(|known| known.page_size);
        if page_size == Some(delta.page_size) {
            Ok(Some(known))
        } else {
            Err(FormatError::invalid(WHAT, "a base of another page size"))
        }
    }

    /// Length of the longest chain behind some pages of frame `number`.
    fn behind(&self, number: usize, pages: &FrameSlice) -> u32 {
        let end = u32::from(pages.skip) + u32::from(pages.take);
        let runs = self.runs_of(number, pages.skip.into(), end);
        runs.map(|(_, _, chain)| chain).max().unwrap_or(0)
    }

    /// Length of the chain of bases behind a page, as a reader counts it: at least as long as it is; 0 for a page of a plain frame.
    #[must_use]
    pub fn chain(&self, frame: &FrameRef, page: u16) -> u32 {
        let page = u32::from(page);
        let number = self.rank(frame).unwrap_or(usize::MAX);
        let run = self.runs_of(number, page, page + 1).next();
        run.map_or(0, |(_, _, chain)| chain)
    }

    /// The bases of the pages `first` to `end - 1` of a frame: each run with the number of its first page.
    pub fn bases(
        &self,
        frame: &FrameRef,
        first: u32,
        end: u32,
    ) -> impl Iterator<Item = (u32, &BaseRun)> {
        self.runs_of(self.rank(frame).unwrap_or(usize::MAX), first, end)
            .map(|(start, run, _)| (start, run))
    }

    /// Runs of bases, each with the number of its first page and its longest chain.
    fn runs_of(
        &self,
        number: usize,
        first: u32,
        end: u32,
    ) -> impl Iterator<Item = (u32, &BaseRun, u32)> {
        let runs = self.runs.get(number).map_or(&[][..], Vec::as_slice);
        let bases = self.frames.get(number).map_or(&[][..], |f| &f.bases);
        let at = runs.partition_point(|(run_end, _)| *run_end <= first);
        let start = |n: usize| {
            n.checked_sub(1)
                .and_then(|n| runs.get(n))
                .map_or(0, |r| r.0)
        };
        (at..runs.len())
            .map(move |n| (n, start(n)))
            .take_while(move |(_, start)| *start < end)
            .filter_map(move |(n, start)| Some((start, bases.get(n)?, runs.get(n)?.1)))
    }

    /// True if `is` holds for a frame, or for any that its pages are made of. `known` keeps between calls what was found of each of [`Self::frames`].
    pub fn stands_on(
        &self,
        frame: &FrameRef,
        known: &mut Vec<bool>,
        mut is: impl FnMut(&FrameRef) -> bool,
    ) -> bool {
        let Some(rank) = self.rank(frame) else {
            return is(frame);
        };
        // All that a frame is made of comes before it.
        for delta in self.frames.get(known.len()..=rank).unwrap_or_default() {
            let found = is(&delta.frame)
                || delta.base_frames().any(|base| match self.rank(&base) {
                    Some(rank) => known.get(rank).copied().unwrap_or(true),
                    None => is(&base),
                });
            known.push(found);
        }
        known.get(rank).copied().unwrap_or(true)
    }

    /// Runs of bases in all frames.
    #[must_use]
    pub const fn run_count(&self) -> usize {
        self.run_count
    }

    /// Version of the last delta frame; 0 without any.
    #[must_use]
    pub fn latest(&self) -> u8 {
        let last = self.frames.last().and_then(|delta| delta.bases.last());
        last.map_or(0, |run| run.version)
    }

    /// All of them, each after those that it needs.
    #[must_use]
    pub fn frames(&self) -> &[DeltaFrame] {
        &self.frames
    }
}

fn too_many(what: &'static str, limit: usize) -> FormatError {
    FormatError::TooLarge {
        what,
        limit: limit as u64,
        got: limit as u64 + 1,
    }
}

fn pages(slice: &Slice, page_size: u32) -> u32 {
    // A frame has 4096 pages at most.
    u32::try_from(slice.len() / u64::from(page_size.max(1))).unwrap_or(u32::MAX)
}

fn encode_frames(deltas: &[DeltaFrame], out: &mut Vec<u8>) {
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
            run.0 += u64::from(pages(base, delta.page_size));
        }
    }
    end_run(run);
    out.put_varint(deltas.len() as u64);
    frames.finish().encode(out);
    bases.finish().encode(out);
    out.put_string(&versions);
}

fn decode_frames(mut r: Reader<'_>, packs: usize) -> Result<Vec<DeltaFrame>> {
    let count = r.count(WHAT, limits::TABLE_FRAMES_MAX, 1)?;
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
    let mut runs = 0;
    for slice in frames.slices(packs) {
        if out.len() >= count {
            return Err(FormatError::invalid(WHAT, "more frames than it says"));
        }
        let Slice::Frame(slice) = slice? else {
            return Err(FormatError::invalid(WHAT, "zero bytes among the frames"));
        };
        let frame = slice.frame;
        let page_size = u32::try_from(slice.len / u64::from(frame.chunks)).unwrap_or(0);
        let whole = slice.skip == 0 && slice.take == frame.chunks;
        let known = limits::DELTA_PAGE.contains(&page_size) && page_size.is_power_of_two();
        if !whole || !known || u64::from(page_size) * u64::from(frame.chunks) != slice.len {
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
        while left > 0 {
            let run = bases.next(left, page_size)?;
            left -= run.base.len();
            delta.bases.push(run);
            runs += 1;
            if runs > limits::TABLE_RUNS_MAX {
                return Err(too_many(
                    "stretches of pages in a table",
                    limits::TABLE_RUNS_MAX,
                ));
            }
        }
        out.push(delta);
    }
    if out.len() != count || out.is_empty() || !bases.is_at_end() {
        return Err(FormatError::invalid(
            WHAT,
            "its numbers contradict each other",
        ));
    }
    Ok(out)
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

    fn table(frames: Vec<DeltaFrame>) -> DeltaTable {
        let pack = |n, deltas| TablePack {
            id: PackId::from_bytes([n; 16]),
            deltas,
        };
        let packs = vec![pack(1, false), pack(2, true)];
        DeltaTable { packs, frames }
    }

    fn added(frames: Vec<DeltaFrame>) -> Result<Deltas> {
        let mut out = Deltas::default();
        for delta in frames {
            out.add(delta, 7)?;
        }
        Ok(out)
    }

    #[test]
    fn a_table_reads_back_with_the_borders_of_frames_and_versions() {
        let sample = table(sample());
        assert_eq!(DeltaTable::decode(&sample.encode()), Ok(sample));
    }

    #[test]
    fn bases_that_do_not_fit_their_pages_are_refused() {
        let mut short = sample();
        short[1].bases.pop();
        let mut other = sample();
        other[0].page_size = 16384;
        for (what, bad) in [("short", short), ("other", other), ("none", Vec::new())] {
            assert!(DeltaTable::decode(&table(bad).encode()).is_err(), "{what}");
        }
    }

    #[test]
    fn tables_and_pages_of_sizes_that_nobody_writes_are_refused() {
        let plain = frame(0, 0, 16);
        let of_size = |page_size: u32| {
            let len = 8 * u64::from(page_size);
            let base = Slice::Frame(FrameSlice {
                frame: plain,
                skip: 0,
                take: 8,
                len,
            });
            let bases = vec![BaseRun { base, version: 1 }];
            DeltaFrame {
                page_size,
                ..delta(0, bases)
            }
        };
        for (page_size, fits) in [
            (4096, true),
            (65_536, true),
            (2048, false),
            (12_288, false),
            (131_072, false),
        ] {
            let table = DeltaTable::decode(&table(vec![of_size(page_size)]).encode());
            assert_eq!(table.is_ok(), fits, "{page_size}");
        }
        let many = |count: u32| {
            (0..count)
                .map(|n| delta(n, vec![run(plain, 0, 8, 1)]))
                .collect()
        };
        let most = u32::try_from(limits::TABLE_FRAMES_MAX).unwrap();
        assert!(DeltaTable::decode(&table(many(most)).encode()).is_ok());
        assert!(DeltaTable::decode(&table(many(most + 1)).encode()).is_err());
    }

    #[test]
    fn circles_and_long_chains_are_refused() {
        let deltas = added(sample()).unwrap();
        assert_eq!(deltas.frames(), sample());
        assert_eq!(deltas.get(&sample()[1].frame), Some(&sample()[1]));
        assert_eq!(deltas.table_of(&sample()[1].frame), Some(7));
        assert_eq!(deltas.get(&frame(0, 0, 16)), None);
        let mut late = sample();
        late.swap(0, 1);
        let mut own = sample();
        own[2].bases = vec![run(own[2].frame, 0, 8, 1)];
        let mut larger = sample();
        larger[1].page_size = 8192;
        let twice = [sample(), sample()].concat();
        for (what, bad) in [
            ("late", late),
            ("own", own),
            ("twice", twice),
            ("size", larger),
        ] {
            assert!(added(bad).is_err(), "{what}");
        }
        let mut long = vec![delta(0, vec![run(frame(0, 0, 16), 0, 8, 1)])];
        for n in 1..=limits::DELTA_CHAIN_MAX {
            long.push(delta(n, vec![run(long[n as usize - 1].frame, 0, 8, 1)]));
        }
        let fits = long[..limits::DELTA_CHAIN_MAX as usize].to_vec();
        assert!(added(fits).is_ok());
        assert!(matches!(added(long), Err(FormatError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_panics(at in 0_usize..200, to in any::<u8>(), cut in any::<bool>()) {
            let mut bytes = table(sample()).encode();
            let at = at % bytes.len();
            bytes[at] = to;
            if cut {
                bytes.truncate(at);
            }
            if let Ok(table) = DeltaTable::decode(&bytes) {
                for delta in &table.frames {
                    let len: u64 = delta.bases.iter().map(|run| run.base.len()).sum();
                    prop_assert_eq!(len, delta.len());
                }
                let _ = added(table.frames);
            }
        }
    }
}
