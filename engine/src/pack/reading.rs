//! Owns the reading of chunks: which frames some chunks need, their fetching, and their decoding into place.
//!
//! Always: each frame is fetched once and decoded once for one reading; frames that lie close together are fetched by one request; a page in a delta
//! frame is XORed together from its frame and those of its bases. A frame that cannot be decoded is named with its pack and place. Never: more than
//! [`limits::WINDOW_STORED`] bytes of frames in memory at a time, however much a reading needs.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use cryostore_format::delta::DeltaTable;
use cryostore_format::manifest::Manifest;
use cryostore_format::pack::{FrameHeader, FrameKind, chunks_digest};
use cryostore_format::recipe::{FrameRef, FrameSlice, Slice};
use cryostore_format::{ChunkHash, FormatError, IdKey, PackId};

use super::object_name;
use crate::codec::frame::{read_chunks, verify, with_frame};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::store::Store;

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
    /// They are XORed with what is there.
    xor: bool,
}

/// A frame by pack number and offset.
type FrameKey = (u32, u32);

/// Chunks that are to be read, frame by frame.
#[derive(Debug, Default)]
pub struct Reading {
    frames: BTreeMap<FrameKey, (FrameRef, Vec<Use>)>,
    /// Where pages are XORed together.
    cleared: Vec<Range<usize>>,
    /// The frames that were fetched: all, or the first of them.
    fetched: BTreeMap<FrameKey, Bytes>,
}

impl Reading {
    /// Adds `len` bytes of a slice, from byte `from` of it on, to be put at byte `at` of the output.
    pub fn add(
        &mut self,
        manifest: &Manifest,
        slice: FrameSlice,
        from: u64,
        at: usize,
        len: usize,
    ) {
        let xor = manifest.deltas.get(&slice.frame).is_some();
        if xor {
            self.cleared.push(at..at + len);
        }
        self.add_use(
            manifest,
            Use {
                slice,
                from,
                at,
                len,
                xor,
            },
        );
    }

    /// Adds one use, and those of the bases. Each level of bases covers the same bytes, and a manifest has 16 levels at most.
    fn add_use(&mut self, manifest: &Manifest, wanted: Use) {
        let frame = wanted.slice.frame;
        let key = (frame.pack, frame.offset);
        let entry = self
            .frames
            .entry(key)
            .or_insert_with(|| (frame, Vec::new()));
        entry.1.push(wanted);
        let Some(delta) = manifest.deltas.get(&frame) else {
            return;
        };
        let first = u64::from(wanted.slice.skip) * u64::from(delta.page_size) + wanted.from;
        let end = first + wanted.len as u64;
        let mut start = 0;
        for run in &delta.bases {
            let run_end = start + run.base.len();
            let (from, to) = (first.max(start), end.min(run_end));
            if let (Slice::Frame(base), true) = (run.base, from < to) {
                let within = usize::try_from(from - first).unwrap_or(usize::MAX);
                self.add_use(
                    manifest,
                    Use {
                        slice: base,
                        from: from - start,
                        at: wanted.at + within,
                        len: usize::try_from(to - from).unwrap_or(usize::MAX),
                        xor: true,
                    },
                );
            }
            start = run_end;
        }
    }

    /// Fetches the frames, as many as may be in memory at a time.
    pub fn fetch(&mut self, store: &Store, manifest: &Manifest, count: &mut Fetched) -> Result<()> {
        let mut stored = 0;
        let mut packs: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
        for ((pack, offset), (frame, _)) in &self.frames {
            stored += u64::from(frame.stored_len);
            if stored > limits::WINDOW_STORED && !packs.is_empty() {
                break;
            }
            let frames = packs.entry(*pack).or_default();
            frames.push((*offset, frame.stored_len));
        }
        for (pack, frames) in packs {
            fetch_of_pack(store, manifest, pack, &frames, count, &mut self.fetched)?;
        }
        Ok(())
    }

    /// Decodes all frames into their places in `out`; what has not been fetched yet is.
    pub fn decode(
        mut self,
        store: &Store,
        manifest: &Manifest,
        count: impl Fn(Fetched),
        out: &mut [u8],
    ) -> Result<()> {
        for range in &self.cleared {
            if let Some(place) = out.get_mut(range.clone()) {
                place.fill(0);
            }
        }
        while let Some((key, (frame, uses))) = self.frames.pop_first() {
            let bytes = match self.fetched.remove(&key) {
                Some(bytes) => bytes,
                None => {
                    let mut fetched = Fetched::default();
                    self.frames.insert(key, (frame, uses));
                    self.fetch(store, manifest, &mut fetched)?;
                    count(fetched);
                    continue;
                }
            };
            let delta = manifest.deltas.get(&frame).is_some();
            decode_frame(&bytes, delta, &uses, out).map_err(|e| {
                let pack = pack_of(manifest, key.0)
                    .map(object_name)
                    .unwrap_or_default();
                Error::stored(format!("{pack}, frame at byte {}", key.1), e)
            })?;
        }
        Ok(())
    }
}

/// Reads the tables that a manifest names, and has it take in what they say.
pub fn read_tables(store: &Store, manifest: &mut Manifest, key: &IdKey) -> Result<()> {
    for n in 0..manifest.tables.len() {
        let Some((frame, len)) = manifest.tables.get(n).copied() else {
            continue;
        };
        let mut fetched = BTreeMap::new();
        let place = [(frame.offset, frame.stored_len)];
        let mut count = Fetched::default();
        fetch_of_pack(
            store,
            manifest,
            frame.pack,
            &place,
            &mut count,
            &mut fetched,
        )?;
        let stored = fetched.remove(&(frame.pack, frame.offset));
        let stored = stored.unwrap_or_default();
        let read = || {
            verify(&stored, key)?;
            with_frame(&stored, |header, table| {
                if header.kind == FrameKind::Table && header.plain_len == len {
                    DeltaTable::decode(table)
                } else {
                    Err(bad("it is not the table of deltas that the manifest names"))
                }
            })?
        };
        let taken = read().and_then(|table| manifest.add_table(n, table));
        taken.map_err(|e| {
            let pack = pack_of(manifest, frame.pack).map(object_name);
            let pack = pack.unwrap_or_default();
            Error::stored(format!("{pack}, table at byte {}", frame.offset), e)
        })?;
    }
    Ok(())
}

/// Hashes of the chunks of a frame, from its stored bytes and those of its bases, checked against the frame's digest.
pub fn frame_hashes(
    store: &Store,
    manifest: &Manifest,
    frame: FrameRef,
    key: &IdKey,
    count: &mut Fetched,
) -> Result<Vec<ChunkHash>> {
    let mut own = BTreeMap::new();
    let place = [(frame.offset, frame.stored_len)];
    fetch_of_pack(store, manifest, frame.pack, &place, count, &mut own)?;
    let stored = own.remove(&(frame.pack, frame.offset)).unwrap_or_default();
    let damaged = |e| {
        let pack = pack_of(manifest, frame.pack)
            .map(object_name)
            .unwrap_or_default();
        Error::stored(format!("{pack}, frame at byte {}", frame.offset), e)
    };
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
    let more = Cell::new(Fetched::default());
    let counted = |fetched| more.set(more.get().and(fetched));
    reading.decode(store, manifest, counted, &mut pages)?;
    *count = count.and(more.get());
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

/// Fetches frames (offset and length, sorted) of one pack.
fn fetch_of_pack(
    store: &Store,
    manifest: &Manifest,
    pack: u32,
    frames: &[(u32, u32)],
    count: &mut Fetched,
    out: &mut BTreeMap<FrameKey, Bytes>,
) -> Result<()> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (offset, len) in frames {
        let (from, to) = (u64::from(*offset), u64::from(*offset) + u64::from(*len));
        match ranges.last_mut() {
            Some(last) if from <= last.end + u64::from(limits::FETCH_GAP) => {
                last.end = last.end.max(to)
            }
            _ => ranges.push(from..to),
        }
    }
    let name = object_name(pack_of(manifest, pack)?);
    let parts = store.get_ranges(&name, &ranges).map_err(|e| match e.kind() {
        Kind::NotFound => Error::new(Kind::Corrupt, format!("{name} is missing in {}", store.name()))
            .hint("run `cryostore check` to see which snapshots are touched; a snapshot that was deleted meanwhile cannot be read on"),
        _ => e,
    })?;
    count.requests += ranges.len() as u64;
    count.bytes += ranges
        .iter()
        .map(|range| range.end - range.start)
        .sum::<u64>();
    for (offset, len) in frames {
        let at = ranges.partition_point(|range| range.end <= u64::from(*offset));
        let (Some(range), Some(bytes)) = (ranges.get(at), parts.get(at)) else {
            continue;
        };
        let from = usize::try_from(u64::from(*offset) - range.start).unwrap_or(usize::MAX);
        out.insert((pack, *offset), bytes.slice(from..from + *len as usize));
    }
    Ok(())
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
    let (header, _) = FrameHeader::split(frame)?;
    let fits = match header.kind {
        FrameKind::Plain => !delta,
        FrameKind::Xor => delta,
        FrameKind::Table => false,
    };
    if !fits {
        return Err(bad(
            "it is a delta, and the manifest has no bases for it, or the other way round",
        ));
    }
    if let [one] = uses
        && !one.xor
        && one.from == 0
        && one.len as u64 == one.slice.len
        && let Some(place) = out.get_mut(one.at..one.at + one.len)
    {
        return read_chunks(frame, one.slice.skip, one.slice.take, place);
    }
    with_frame(frame, |header, plain| {
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
            let place = out.get_mut(one.at..one.at + one.len);
            let place = place.ok_or_else(|| bad("there is no room for its chunks"))?;
            if one.xor {
                place.iter_mut().zip(source).for_each(|(a, b)| *a ^= b);
            } else {
                place.copy_from_slice(source);
            }
        }
        Ok(())
    })?
}
