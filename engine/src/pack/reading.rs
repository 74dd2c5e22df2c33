//! Owns the reading of chunks: which frames some chunks need, their fetching, and their decoding into place.
//!
//! Always: each frame is fetched once and decoded once for one reading; frames that lie close together are fetched by one request; a page in a delta
//! frame is put together from the frames of its bases, the oldest first, and its own. A frame that cannot be decoded is named with its pack and place. Never: more than
//! [`limits::WINDOW_STORED`] bytes of frames in memory at a time, however much a reading needs.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cryostore_format::delta::DeltaTable;
use cryostore_format::manifest::Manifest;
use cryostore_format::pack::{FrameHeader, FrameKind, chunks_digest};
use cryostore_format::recipe::{FrameRef, FrameSlice, Slice};
use cryostore_format::{ChunkHash, FormatError, IdKey, PackId};
use rayon::prelude::*;

use super::ahead::Ahead;
use super::kept::{Content, KeptFrame, KeptFrames};
use super::object_name;
use crate::codec::frame::{read_chunks, unpack_frame, verify, with_frame};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::store::{FramePlace, Vault};

/// What was read of the store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fetched {
    /// Requests.
    pub requests: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Fetched {
    /// Both together.
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self {
            requests: self.requests + more.requests,
            bytes: self.bytes + more.bytes,
        }
    }
}

/// Some bytes of a slice, and where they go.
#[derive(Debug, Clone, Copy)]
struct Use {
    slice: FrameSlice,
    /// Bytes of the slice that are passed over.
    from: u64,
    at: usize,
    len: usize,
}

/// A frame by pack number and offset.
pub(super) type FrameKey = (u32, u32);

/// Plain frames have rank 0; a delta frame a higher one than all that it is made of.
type Rank = usize;

/// Chunks that are to be read, frame by frame.
#[derive(Debug, Default)]
pub struct Reading {
    /// In the order in which they are decoded.
    frames: BTreeMap<(Rank, FrameKey), (FrameRef, Vec<Use>)>,
    /// Where pages are put together: some have no base.
    cleared: Vec<Range<usize>>,
    /// The frames that were fetched: all, or the first of them.
    fetched: BTreeMap<FrameKey, Bytes>,
    /// Those of them that other readings want, too.
    shared: BTreeMap<FrameKey, Arc<KeptFrame>>,
    kept: Option<Arc<KeptFrames>>,
}

impl Reading {
    /// One of several readings of a manifest, which share the frames that they want parts of.
    #[must_use]
    pub fn sharing(kept: &Arc<KeptFrames>) -> Self {
        Self {
            kept: Some(Arc::clone(kept)),
            ..Self::default()
        }
    }

    /// Adds `len` bytes of a slice, from byte `from` of it on, to be put at byte `at` of the output.
    pub fn add(
        &mut self,
        manifest: &Manifest,
        slice: FrameSlice,
        from: u64,
        at: usize,
        len: usize,
    ) {
        if manifest.deltas.get(&slice.frame).is_some() {
            self.cleared.push(at..at + len);
        }
        self.add_use(
            manifest,
            Use {
                slice,
                from,
                at,
                len,
            },
        );
    }

    /// Adds one use, and those of the bases. Each level of bases covers the same bytes, and a manifest has 16 levels at most.
    fn add_use(&mut self, manifest: &Manifest, wanted: Use) {
        let frame = wanted.slice.frame;
        let rank = manifest.deltas.rank(&frame).map_or(0, |before| before + 1);
        let entry = self
            .frames
            .entry((rank, (frame.pack, frame.offset)))
            .or_insert_with(|| (frame, Vec::new()));
        entry.1.push(wanted);
        let Some(delta) = manifest.deltas.get(&frame) else {
            return;
        };
        let page_size = u64::from(delta.page_size);
        let first = u64::from(wanted.slice.skip) * page_size + wanted.from;
        let end = first + wanted.len as u64;
        let page = |byte: u64| u32::try_from(byte).unwrap_or(u32::MAX);
        let (first_page, end_page) = (page(first / page_size), page(end.div_ceil(page_size)));
        for (run_page, run) in manifest.deltas.bases(&frame, first_page, end_page) {
            let start = u64::from(run_page) * page_size;
            let (from, to) = (first.max(start), end.min(start + run.base.len()));
            if let (Slice::Frame(base), true) = (run.base, from < to) {
                let within = usize::try_from(from - first).unwrap_or(usize::MAX);
                self.add_use(
                    manifest,
                    Use {
                        slice: base,
                        from: from - start,
                        at: wanted.at + within,
                        len: usize::try_from(to - from).unwrap_or(usize::MAX),
                    },
                );
            }
        }
    }

    /// The frames that it needs.
    pub(super) fn frames(&self) -> impl Iterator<Item = FrameRef> {
        self.frames.values().map(|(frame, _)| *frame)
    }

    /// Fetches the frames, as many as may be in memory at a time.
    pub fn fetch(&mut self, vault: &Vault, manifest: &Manifest, count: &mut Fetched) -> Result<()> {
        let mut held = 0;
        let mut packs: BTreeMap<u32, Vec<FrameRef>> = BTreeMap::new();
        let mut fetched = Vec::new();
        for ((_, key), (frame, uses)) in &self.frames {
            if self.fetched.contains_key(key) || self.shared.contains_key(key) {
                continue;
            }
            // What is shared may be kept by nobody else any more when it is used.
            let shared = self.kept.as_ref().and_then(|kept| kept.get(*key));
            held += match &shared {
                Some(shared) => shared.len() as u64,
                None => u64::from(frame.stored_len),
            };
            if held > limits::WINDOW_STORED && !fetched.is_empty() {
                break;
            }
            let used: usize = uses.iter().map(|one| one.len).sum();
            fetched.push((*key, used));
            match shared {
                Some(shared) => {
                    self.shared.insert(*key, shared);
                }
                None => {
                    packs.entry(frame.pack).or_default().push(*frame);
                }
            }
        }
        for (pack, mut frames) in packs {
            frames.sort_unstable_by_key(|frame| frame.offset);
            let ahead = self.kept.as_ref().and_then(|kept| kept.ahead.as_ref());
            let frames = match ahead {
                Some(ahead) => fetch_ahead(
                    vault,
                    manifest,
                    pack,
                    frames,
                    ahead,
                    count,
                    &mut self.fetched,
                )?,
                None => frames,
            };
            fetch_of_pack(vault, manifest, pack, &frames, count, &mut self.fetched)?;
        }
        let Some(kept) = &self.kept else {
            return Ok(());
        };
        // Those that are wanted in part are kept for other readings.
        for (key, used) in fetched {
            if let Some(stored) = self.fetched.get(&key)
                && let Some(frame) = kept.keep(key, stored, used)
            {
                self.fetched.remove(&key);
                self.shared.insert(key, frame);
            }
        }
        Ok(())
    }

    /// Decodes all frames into their places in `out`. What has not been fetched yet is, and comes back counted.
    pub fn decode(mut self, vault: &Vault, manifest: &Manifest, out: &mut [u8]) -> Result<Fetched> {
        let mut count = Fetched::default();
        for range in &self.cleared {
            if let Some(place) = out.get_mut(range.clone()) {
                place.fill(0);
            }
        }
        while let Some(((rank, key), (frame, uses))) = self.frames.pop_first() {
            let decoded = if let Some(bytes) = self.fetched.remove(&key) {
                decode_frame(&bytes, rank > 0, &uses, out)
            } else if let Some(kept) = self.shared.remove(&key) {
                kept.with(|header, content| place(header, content, rank > 0, &uses, out))
                    .flatten()
            } else {
                self.frames.insert((rank, key), (frame, uses));
                self.fetch(vault, manifest, &mut count)?;
                continue;
            };
            decoded.map_err(|e| damaged(manifest, &frame, e))?;
        }
        Ok(count)
    }
}

/// Fetches one frame.
fn fetch_one(
    vault: &Vault,
    manifest: &Manifest,
    frame: &FrameRef,
    count: &mut Fetched,
) -> Result<Bytes> {
    let mut fetched = BTreeMap::new();
    let frames = std::slice::from_ref(frame);
    fetch_of_pack(vault, manifest, frame.pack, frames, count, &mut fetched)?;
    let stored = fetched.remove(&(frame.pack, frame.offset));
    stored.ok_or_else(|| Error::new(Kind::Internal, "a frame was not fetched"))
}

/// Hands on the chunks of some slices, one by one. Their frames are fetched together, [`limits::WINDOW_STORED`] bytes of them at most.
pub fn for_each_chunk(
    vault: &Vault,
    manifest: &Manifest,
    slices: &[FrameSlice],
    mut then: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut reading = Reading::default();
    for slice in slices {
        reading.add(manifest, *slice, 0, 0, 0);
    }
    let mut count = Fetched::default();
    reading.fetch(vault, manifest, &mut count)?;
    let mut last: Option<(FrameRef, FrameHeader, Vec<u8>)> = None;
    for slice in slices {
        let frame = slice.frame;
        if let Some(delta) = manifest.deltas.get(&frame) {
            let len = usize::try_from(slice.len).unwrap_or(0);
            let mut pages = vec![0; len];
            let mut reading = Reading::default();
            reading.add(manifest, *slice, 0, 0, len);
            reading.decode(vault, manifest, &mut pages)?;
            pages
                .chunks(delta.page_size as usize)
                .try_for_each(&mut then)?;
            continue;
        }
        let damaged = |e| damaged(manifest, &frame, e);
        let (header, plain) = match &last {
            Some((same, header, plain)) if *same == frame => (header, plain),
            _ => {
                let stored = match reading.fetched.remove(&(frame.pack, frame.offset)) {
                    Some(stored) => stored,
                    None => fetch_one(vault, manifest, &frame, &mut count)?,
                };
                let (header, plain) = unpack_frame(&stored).map_err(damaged)?;
                let (_, header, plain) = last.insert((frame, header, plain));
                (&*header, &*plain)
            }
        };
        let not_those = || damaged(bad("its chunks are not those that the manifest names"));
        if header.kind != FrameKind::Plain {
            return Err(not_those());
        }
        let ranges = header.chunk_ranges(plain).map_err(damaged)?;
        for n in slice.skip..slice.skip.saturating_add(slice.take) {
            let range = ranges.range(n.into(), 1);
            let chunk = range.and_then(|range| plain.get(range));
            then(chunk.ok_or_else(not_those)?)?;
        }
    }
    Ok(())
}

/// Reads the tables of a manifest, some at a time, and has it take in what they say.
pub fn read_tables(vault: &Vault, manifest: &mut Manifest, key: &IdKey) -> Result<()> {
    read_tables_ahead(vault, manifest, key, None)
}

/// The same; what lies before a table is read with it, where a request is dear.
pub fn read_tables_ahead(
    vault: &Vault,
    manifest: &mut Manifest,
    key: &IdKey,
    ahead: Option<&Ahead>,
) -> Result<()> {
    if let Some(ahead) = ahead {
        fetch_tables(vault, manifest, ahead)?;
    }
    let packs = manifest.pack_numbers();
    let numbers: Vec<usize> = (0..manifest.tables.len()).collect();
    for numbers in numbers.chunks(limits::TABLES_AT_ONCE) {
        let known = &*manifest;
        let tables: Vec<_> = numbers
            .par_iter()
            .map(|n| table(vault, known, *n, key, ahead))
            .collect();
        for (n, table) in numbers.iter().zip(tables) {
            take_in(manifest, *n, table?, &packs)?;
        }
    }
    Ok(())
}

/// Reads table `n` of a manifest, and has it take in what it says. `packs` are [`Manifest::pack_numbers`].
pub fn read_table(
    vault: &Vault,
    manifest: &mut Manifest,
    n: usize,
    packs: &HashMap<PackId, u32>,
    key: &IdKey,
) -> Result<()> {
    let table = table(vault, manifest, n, key, None)?;
    take_in(manifest, n, table, packs)
}

fn take_in(
    manifest: &mut Manifest,
    n: usize,
    table: DeltaTable,
    packs: &HashMap<PackId, u32>,
) -> Result<()> {
    let taken = manifest.add_table(n, table, packs);
    taken.map_err(|e| match manifest.tables.get(n) {
        Some((frame, _)) => damaged(manifest, frame, e),
        None => Error::stored("the manifest", e),
    })
}

fn table(
    vault: &Vault,
    manifest: &Manifest,
    n: usize,
    key: &IdKey,
    ahead: Option<&Ahead>,
) -> Result<DeltaTable> {
    let Some((frame, len)) = manifest.tables.get(n) else {
        return Err(Error::new(Kind::Internal, format!("there is no table {n}")));
    };
    let held = ahead.and_then(|ahead| ahead.get(frame.pack, frame.offset, frame.stored_len));
    let stored = match held {
        Some(stored) => opened(vault, manifest, frame, stored)?,
        None => fetch_one(vault, manifest, frame, &mut Fetched::default())?,
    };
    let read = || {
        verify(&stored, key)?;
        with_frame(&stored, |header, table| {
            if header.kind == FrameKind::Table && header.plain_len == *len {
                DeltaTable::decode(table)
            } else {
                Err(bad("it is not the table of deltas that the manifest names"))
            }
        })?
    };
    read().map_err(|e| damaged(manifest, frame, e))
}

/// Fetches all tables of each pack with one request, and what lies around them: often all of the pack.
fn fetch_tables(vault: &Vault, manifest: &Manifest, ahead: &Ahead) -> Result<()> {
    let mut packs: BTreeMap<u32, Range<u64>> = BTreeMap::new();
    for (frame, _) in &manifest.tables {
        let (from, to) = (
            u64::from(frame.offset),
            u64::from(frame.offset) + u64::from(frame.stored_len),
        );
        let range = packs.entry(frame.pack).or_insert(from..to);
        *range = range.start.min(from)..range.end.max(to);
    }
    let packs: Vec<_> = packs
        .into_iter()
        .filter(|(_, range)| range.end - range.start <= limits::TABLE_AROUND)
        .collect();
    packs.par_iter().try_for_each(|(pack, tables)| {
        let end = ahead
            .end_of(*pack)
            .max(tables.end)
            .min(tables.end + limits::TABLE_AROUND);
        let range = end.saturating_sub(limits::TABLE_AROUND).min(tables.start)..end;
        let count = &mut Fetched::default();
        for part in get(vault, manifest, *pack, std::slice::from_ref(&range), count)? {
            ahead.put(*pack, &range, part);
        }
        Ok(())
    })
}

/// An error in a frame, with its place.
fn damaged(manifest: &Manifest, frame: &FrameRef, e: FormatError) -> Error {
    let pack = pack_of(manifest, frame.pack)
        .map(object_name)
        .unwrap_or_default();
    Error::stored(format!("{pack}, frame at byte {}", frame.offset), e)
}

/// Hashes of the chunks of a frame, from its stored bytes and those of its bases, checked against the frame's digest.
pub fn frame_hashes(
    vault: &Vault,
    manifest: &Manifest,
    frame: FrameRef,
    key: &IdKey,
    count: &mut Fetched,
) -> Result<Vec<ChunkHash>> {
    let stored = fetch_one(vault, manifest, &frame, count)?;
    let damaged = |e| damaged(manifest, &frame, e);
    let Some(delta) = manifest.deltas.get(&frame) else {
        return verify(&stored, key).map_err(damaged);
    };
    let (header, _) = FrameHeader::split(&stored).map_err(damaged)?;
    let whole = FrameSlice {
        frame,
        skip: 0,
        take: frame.chunks,
        len: delta.len(),
    };
    let mut pages = vec![0; usize::try_from(delta.len()).unwrap_or(0)];
    let mut reading = Reading::default();
    reading.add(manifest, whole, 0, 0, pages.len());
    reading.fetched.insert((frame.pack, frame.offset), stored);
    *count = count.and(reading.decode(vault, manifest, &mut pages)?);
    let hashes: Vec<_> = pages
        .chunks(delta.page_size as usize)
        .map(|page| key.chunk_hash(page))
        .collect();
    if chunks_digest(&hashes) == header.digest {
        Ok(hashes)
    } else {
        Err(damaged(FormatError::Digest {
            what: "delta frame, or one of its bases,",
        }))
    }
}

fn pack_of(manifest: &Manifest, number: u32) -> Result<PackId> {
    let pack = manifest.packs.get(number as usize).copied();
    pack.ok_or_else(|| {
        Error::new(
            Kind::Corrupt,
            format!("the manifest: there is no pack number {number}"),
        )
    })
}

/// Takes frames from what was read ahead, and reads ahead for those that are not there; gives back those that are not even then.
fn fetch_ahead(
    vault: &Vault,
    manifest: &Manifest,
    pack: u32,
    frames: Vec<FrameRef>,
    ahead: &Ahead,
    count: &mut Fetched,
    out: &mut BTreeMap<FrameKey, Bytes>,
) -> Result<Vec<FrameRef>> {
    let mut take = |frames: Vec<FrameRef>| -> Result<Vec<FrameRef>> {
        let mut missing = Vec::new();
        for frame in frames {
            match ahead.get(pack, frame.offset, frame.stored_len) {
                Some(bytes) => {
                    let bytes = opened(vault, manifest, &frame, bytes)?;
                    out.insert((pack, frame.offset), bytes);
                }
                None => missing.push(frame),
            }
        }
        Ok(missing)
    };
    let missing = take(frames)?;
    if missing.is_empty() {
        return Ok(missing);
    }
    let ranges = ahead.requests(
        pack,
        &missing
            .iter()
            .map(|f| (f.offset, f.stored_len))
            .collect::<Vec<_>>(),
    );
    let parts = get(vault, manifest, pack, &ranges, count)?;
    for (range, bytes) in ranges.iter().zip(parts) {
        ahead.put(pack, range, bytes);
    }
    take(missing)
}

/// A frame as it was before it was sealed.
fn opened(vault: &Vault, manifest: &Manifest, frame: &FrameRef, stored: Bytes) -> Result<Bytes> {
    let place = FramePlace {
        pack: pack_of(manifest, frame.pack)?,
        offset: frame.offset,
        first_chunk: frame.first_chunk,
    };
    let opened = vault.open_frame(place, stored);
    opened.map_err(|e| damaged(manifest, frame, e))
}

/// Fetches frames of one pack, which are sorted by offset, and opens them.
fn fetch_of_pack(
    vault: &Vault,
    manifest: &Manifest,
    pack: u32,
    frames: &[FrameRef],
    count: &mut Fetched,
    out: &mut BTreeMap<FrameKey, Bytes>,
) -> Result<()> {
    if frames.is_empty() {
        return Ok(());
    }
    if frames.is_empty() {
        return Ok(());
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for frame in frames {
        let from = u64::from(frame.offset);
        let to = from + u64::from(frame.stored_len);
        match ranges.last_mut() {
            Some(last) if from <= last.end + u64::from(limits::FETCH_GAP) => {
                last.end = last.end.max(to)
            }
            _ => ranges.push(from..to),
        }
    }
    let parts = get(vault, manifest, pack, &ranges, count)?;
    for frame in frames {
        let offset = frame.offset;
        let at = ranges.partition_point(|range| range.end <= u64::from(offset));
        let (Some(range), Some(bytes)) = (ranges.get(at), parts.get(at)) else {
            continue;
        };
        let from = usize::try_from(u64::from(offset) - range.start).unwrap_or(usize::MAX);
        let stored = bytes.slice(from..from + frame.stored_len as usize);
        out.insert((pack, offset), opened(vault, manifest, frame, stored)?);
    }
    Ok(())
}

/// Reads parts of a pack, from this node's copy of it if there is one.
fn get(
    vault: &Vault,
    manifest: &Manifest,
    pack: u32,
    ranges: &[Range<u64>],
    count: &mut Fetched,
) -> Result<Vec<Bytes>> {
    let id = pack_of(manifest, pack)?;
    let copy = vault.copies().and_then(|copies| copies.read(id, ranges));
    if let Some(parts) = copy {
        return Ok(parts);
    }
    let name = object_name(id);
    let parts = vault.store().get_ranges(&name, ranges).map_err(|e| match e.kind() {
        Kind::NotFound => Error::new(Kind::Corrupt, format!("{name} is missing in {}", vault.store().name()))
            .hint("run `cryostore check` to see which snapshots are touched; a snapshot that was deleted meanwhile cannot be read on"),
        _ => e,
    })?;
    count.requests += ranges.len() as u64;
    count.bytes += ranges
        .iter()
        .map(|range| range.end - range.start)
        .sum::<u64>();
    Ok(parts)
}

fn bad(detail: &str) -> FormatError {
    FormatError::Invalid {
        what: "frame",
        detail: detail.to_owned(),
    }
}

fn decode_frame(
    frame: &[u8],
    delta: bool,
    uses: &[Use],
    out: &mut [u8],
) -> std::result::Result<(), FormatError> {
    if let [one] = uses
        && !delta
        && one.from == 0
        && one.len as u64 == one.slice.len
        && FrameHeader::split(frame)?.0.kind == FrameKind::Plain
        && let Some(place) = out.get_mut(one.at..one.at + one.len)
    {
        return read_chunks(frame, one.slice.skip, one.slice.take, place);
    }
    with_frame(frame, |header, plain| {
        place(header, &Content::of(header, plain)?, delta, uses, out)
    })?
}

/// Puts chunks of a frame into their places, or what differs of them.
fn place<C: AsRef<[u8]>>(
    header: &FrameHeader,
    content: &Content<C>,
    delta: bool,
    uses: &[Use],
    out: &mut [u8],
) -> std::result::Result<(), FormatError> {
    if header.kind == FrameKind::Table || header.kind.is_delta() != delta {
        return Err(bad(
            "it is a delta, and the manifest has no bases for it, or the other way round",
        ));
    }
    let no_room = || bad("there is no room for its chunks");
    let plain = match content {
        Content::Chunks(plain) => plain.as_ref(),
        Content::Patch(patch) => {
            let page_len = u64::from(header.uniform_len);
            for one in uses {
                if one.slice.len != u64::from(one.slice.take) * page_len {
                    return Err(bad("its pages are not those that the manifest names"));
                }
                let skipped = u64::from(one.slice.skip) * page_len + one.from;
                let place = out.get_mut(one.at..one.at + one.len).ok_or_else(no_room)?;
                patch.apply(usize::try_from(skipped).unwrap_or(usize::MAX), place)?;
            }
            return Ok(());
        }
    };
    let ranges = header.chunk_ranges(plain)?;
    for one in uses {
        let chunks = ranges
            .range(one.slice.skip.into(), one.slice.take.into())
            .and_then(|range| plain.get(range));
        let chunks = chunks.filter(|chunks| chunks.len() as u64 == one.slice.len);
        let chunks =
            chunks.ok_or_else(|| bad("its chunks are not those that the manifest names"))?;
        let from = usize::try_from(one.from).unwrap_or(usize::MAX);
        let source = chunks.get(from..from.saturating_add(one.len));
        let source = source.ok_or_else(|| bad("its chunks are too short"))?;
        let place = out.get_mut(one.at..one.at + one.len).ok_or_else(no_room)?;
        if delta {
            place.iter_mut().zip(source).for_each(|(a, b)| *a ^= b);
        } else {
            place.copy_from_slice(source);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cryostore_format::delta::{BaseRun, DeltaFrame, Deltas};
    use cryostore_format::patch::PatchWriter;
    use object_store::memory::InMemory;

    use super::*;
    use crate::codec::frame::{OpenFrame, SealedFrame, seal_patch, seal_xor};
    use crate::pack::Buffers;
    use crate::pack::writer::PackWriter;
    use crate::store::Store;

    const PAGE: usize = 4096;

    fn page(seed: u8) -> Vec<u8> {
        (0..PAGE).map(|n| seed ^ (n / 7) as u8).collect()
    }

    /// Four plain pages; two that are the second and the third XORed with something; one that is the first of these two with a word changed, and one
    /// without a base.
    fn stored(key: &IdKey) -> (Vault, Manifest, [DeltaFrame; 2]) {
        let store = Store::new(Arc::new(InMemory::new()), "memory").unwrap();
        let ids = [1, 2, 0].map(|n| PackId::from_bytes([n; 16]));
        let mut open = OpenFrame::default();
        for seed in 0..4 {
            open.push(key.chunk_hash(&page(seed)), &page(seed)).unwrap();
        }
        let put = |pack: u32, frame: &SealedFrame| {
            let id = ids[pack as usize];
            let mut pack_of_one = PackWriter::new(id, &Buffers::default(), None).unwrap();
            let entry = pack_of_one.push(frame).unwrap();
            let sealed = pack_of_one.finish().unwrap();
            store.create(&object_name(id), sealed.bytes).unwrap();
            FrameRef::of(pack, &entry)
        };
        let hashes = |pages: &[u8]| pages.chunks(PAGE).map(|p| key.chunk_hash(p)).collect();
        let base = |frame, skip, take: u16| {
            Slice::Frame(FrameSlice {
                frame,
                skip,
                take,
                len: u64::from(take) * PAGE as u64,
            })
        };
        let plain = put(0, &open.seal(None).unwrap());
        let bases = [page(1), page(2)].concat();
        let xored: Vec<u8> = changed().iter().zip(&bases).map(|(a, b)| a ^ b).collect();
        let xor = put(1, &seal_xor(hashes(&changed()), &xored, PAGE as u32));
        let mut patch = PatchWriter::default();
        patch.push(&changed()[..PAGE], &again()[..PAGE]);
        patch.push(&[0; PAGE], &again()[PAGE..]);
        let patch = seal_patch(hashes(&again()), &patch.finish(), PAGE, None).unwrap();
        let delta = |frame, bases: &[(Slice, u8)]| DeltaFrame {
            frame,
            page_size: PAGE as u32,
            bases: bases
                .iter()
                .map(|(base, version)| BaseRun {
                    base: *base,
                    version: *version,
                })
                .collect(),
        };
        // The newest lies in the pack with the lowest number: the order of decoding is not that of the packs.
        let none = Slice::Zero { len: PAGE as u64 };
        let deltas = [
            delta(xor, &[(base(plain, 1, 2), 1)]),
            delta(put(2, &patch), &[(base(xor, 0, 1), 2), (none, 0)]),
        ];
        let manifest = Manifest {
            packs: ids.to_vec(),
            ..Manifest::default()
        };
        (Vault::plain(store), manifest, deltas)
    }

    fn changed() -> Vec<u8> {
        let mut pages = [page(1), page(2)].concat();
        pages[100] ^= 9;
        pages[PAGE + 7] ^= 1;
        pages
    }

    fn again() -> Vec<u8> {
        let mut pages = [&changed()[..PAGE], &page(77)[..]].concat();
        pages[104] = 200;
        pages
    }

    #[test]
    fn pages_are_put_together_with_their_bases_and_a_wrong_base_is_noticed() {
        let key = IdKey::from_bytes([7; 32]);
        let (store, mut manifest, [xor, patch]) = stored(&key);
        let hashes = |manifest: &Manifest, delta: &DeltaFrame| {
            let mut count = Fetched::default();
            frame_hashes(&store, manifest, delta.frame, &key, &mut count)
        };
        let of =
            |pages: Vec<u8>| -> Vec<_> { pages.chunks(PAGE).map(|p| key.chunk_hash(p)).collect() };
        manifest.deltas.add(xor.clone(), 0).unwrap();
        manifest.deltas.add(patch.clone(), 0).unwrap();
        assert_eq!(hashes(&manifest, &xor).unwrap(), of(changed()));
        assert_eq!(hashes(&manifest, &patch).unwrap(), of(again()));
        let mut wrong = patch.clone();
        wrong.bases[0].base = xor.bases[0].base;
        if let Slice::Frame(base) = &mut wrong.bases[0].base {
            (base.take, base.len) = (1, PAGE as u64);
        }
        manifest.deltas = Deltas::default();
        manifest.deltas.add(wrong, 0).unwrap();
        let e = hashes(&manifest, &patch).unwrap_err();
        assert!(e.to_string().contains("one of its bases"), "{e}");
    }

    #[test]
    fn any_part_of_a_page_that_is_made_of_others_is_read() {
        let key = IdKey::from_bytes([7; 32]);
        let (store, mut manifest, [xor, patch]) = stored(&key);
        manifest.deltas.add(xor, 0).unwrap();
        manifest.deltas.add(patch.clone(), 0).unwrap();
        for (skip, take, from, len) in [
            (0, 2, 0, 2 * PAGE),
            (0, 1, 101, 6),
            (0, 2, 98, PAGE),
            (1, 1, 3, 7),
        ] {
            let mut reading = Reading::default();
            let slice = FrameSlice {
                frame: patch.frame,
                skip,
                take,
                len: u64::from(take) * PAGE as u64,
            };
            reading.add(&manifest, slice, from, 5, len);
            let mut out = vec![0xee; len + 10];
            reading.decode(&store, &manifest, &mut out).unwrap();
            let at = usize::from(skip) * PAGE + from as usize;
            assert_eq!(
                out[5..5 + len],
                again()[at..at + len],
                "{len} bytes from {at}"
            );
            assert_eq!([&out[..5], &out[5 + len..]], [&[0xee; 5], &[0xee; 5]]);
        }
    }

    #[test]
    fn frames_of_one_pack_are_fetched_in_whatever_order_they_are_decoded() {
        let key = IdKey::from_bytes([7; 32]);
        let store = Store::new(Arc::new(InMemory::new()), "memory").unwrap();
        let id = PackId::from_bytes([1; 16]);
        let mut pack = PackWriter::new(id, &Buffers::default(), None).unwrap();
        let frames: Vec<FrameRef> = (0..3)
            .map(|seed| {
                let mut patch = PatchWriter::default();
                patch.push(&[0; PAGE], &page(seed));
                let hashes = vec![key.chunk_hash(&page(seed))];
                let frame = seal_patch(hashes, &patch.finish(), PAGE, None).unwrap();
                let entry = pack.push(&frame).unwrap();
                FrameRef::of(0, &entry)
            })
            .collect();
        store
            .create(&object_name(id), pack.finish().unwrap().bytes)
            .unwrap();
        let mut manifest = Manifest {
            packs: vec![id],
            ..Manifest::default()
        };
        let base = Slice::Zero { len: PAGE as u64 };
        for frame in frames.iter().rev() {
            let delta = DeltaFrame {
                frame: *frame,
                page_size: PAGE as u32,
                bases: vec![BaseRun { base, version: 1 }],
            };
            manifest.deltas.add(delta, 0).unwrap();
        }
        let mut reading = Reading::default();
        for (n, frame) in frames.iter().enumerate() {
            let slice = FrameSlice {
                frame: *frame,
                skip: 0,
                take: 1,
                len: PAGE as u64,
            };
            reading.add(&manifest, slice, 0, n * PAGE, PAGE);
        }
        let mut out = vec![0; 3 * PAGE];
        reading
            .decode(&Vault::plain(store), &manifest, &mut out)
            .unwrap();
        assert!(out == [page(0), page(1), page(2)].concat());
    }

    #[test]
    fn a_delta_without_its_table_is_no_page() {
        let key = IdKey::from_bytes([7; 32]);
        let (vault, manifest, deltas) = stored(&key);
        for delta in deltas {
            let mut reading = Reading::default();
            let slice = FrameSlice {
                frame: delta.frame,
                skip: 0,
                take: 1,
                len: PAGE as u64,
            };
            reading.add(&manifest, slice, 0, 0, PAGE);
            let mut out = vec![0; PAGE];
            let e = reading.decode(&vault, &manifest, &mut out).unwrap_err();
            assert!(e.to_string().contains("no bases"), "{e}");
        }
    }
}
