//! Owns the reading of chunks: which frames some chunks need, their fetching, and their decoding into place.
//!
//! Always: each frame is fetched once and decoded once for one reading; frames that lie close together are fetched by one request; a page in a delta
//! frame is XORed together from its frame and those of its bases. A frame that cannot be decoded is named with its pack and place. Never: more than
//! [`limits::WINDOW_STORED`] bytes of frames in memory at a time, however much a reading needs.

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
        for (key, (frame, _)) in &self.frames {
            if self.fetched.contains_key(key) {
                continue;
            }
            stored += u64::from(frame.stored_len);
            if stored > limits::WINDOW_STORED && !packs.is_empty() {
                break;
            }
            let frames = packs.entry(frame.pack).or_default();
            frames.push((frame.offset, frame.stored_len));
        }
        for (pack, frames) in packs {
            fetch_of_pack(store, manifest, pack, &frames, count, &mut self.fetched)?;
        }
        Ok(())
    }

    /// Decodes all frames into their places in `out`. What has not been fetched yet is, and comes back counted.
    pub fn decode(mut self, store: &Store, manifest: &Manifest, out: &mut [u8]) -> Result<Fetched> {
        let mut count = Fetched::default();
        for range in &self.cleared {
            if let Some(place) = out.get_mut(range.clone()) {
                place.fill(0);
            }
        }
        while let Some((key, (frame, uses))) = self.frames.pop_first() {
            let bytes = match self.fetched.remove(&key) {
                Some(bytes) => bytes,
                None => {
                    self.frames.insert(key, (frame, uses));
                    self.fetch(store, manifest, &mut count)?;
                    continue;
                }
            };
            let delta = manifest.deltas.get(&frame).is_some();
            decode_frame(&bytes, delta, &uses, out).map_err(|e| damaged(manifest, &frame, e))?;
        }
        Ok(count)
    }
}

/// Fetches one frame.
fn fetch_one(
    store: &Store,
    manifest: &Manifest,
    frame: &FrameRef,
    count: &mut Fetched,
) -> Result<Bytes> {
    let mut fetched = BTreeMap::new();
    let place = [(frame.offset, frame.stored_len)];
    fetch_of_pack(store, manifest, frame.pack, &place, count, &mut fetched)?;
    let stored = fetched.remove(&(frame.pack, frame.offset));
    stored.ok_or_else(|| Error::new(Kind::Internal, "a frame was not fetched"))
}

/// Reads table `n` of a manifest, and has it take in what it says.
pub fn read_table(store: &Store, manifest: &mut Manifest, n: usize, key: &IdKey) -> Result<()> {
    let Some((frame, len)) = manifest.tables.get(n).copied() else {
        return Ok(());
    };
    let stored = fetch_one(store, manifest, &frame, &mut Fetched::default())?;
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
    taken.map_err(|e| damaged(manifest, &frame, e))
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
    store: &Store,
    manifest: &Manifest,
    frame: FrameRef,
    key: &IdKey,
    count: &mut Fetched,
) -> Result<Vec<ChunkHash>> {
    let stored = fetch_one(store, manifest, &frame, count)?;
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
    *count = count.and(reading.decode(store, manifest, &mut pages)?);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cryostore_format::delta::{BaseRun, DeltaFrame, Deltas};
    use object_store::memory::InMemory;

    use super::*;
    use crate::codec::frame::{OpenFrame, seal_delta};
    use crate::pack::writer::PackWriter;

    const PAGE: usize = 4096;

    fn page(seed: u8) -> Vec<u8> {
        (0..PAGE).map(|n| seed ^ (n / 7) as u8).collect()
    }

    /// Four plain pages, and two that are made of the second and the third.
    fn stored(key: &IdKey) -> (Store, Manifest, DeltaFrame) {
        let store = Store::new(Arc::new(InMemory::new()), "memory").unwrap();
        let (plain_pack, delta_pack) = (PackId::from_bytes([1; 16]), PackId::from_bytes([2; 16]));
        let mut open = OpenFrame::default();
        for seed in 0..4 {
            open.push(key.chunk_hash(&page(seed)), &page(seed)).unwrap();
        }
        let put = |id, frame| {
            let mut pack = PackWriter::new(id);
            let entry = pack.push(&frame).unwrap();
            let sealed = pack.finish().unwrap();
            store.create(&object_name(id), sealed.bytes).unwrap();
            entry
        };
        let frame_ref = |pack, entry: cryostore_format::pack::FrameEntry| FrameRef {
            pack,
            offset: entry.offset,
            stored_len: entry.stored_len,
            first_chunk: entry.first_chunk,
            chunks: entry.chunks,
        };
        let plain = frame_ref(0, put(plain_pack, open.seal().unwrap()));
        let mut pages = [page(1), page(2)].concat();
        pages[100] ^= 9;
        let hashes = pages.chunks(PAGE).map(|p| key.chunk_hash(p)).collect();
        let bases = [page(1), page(2)].concat();
        let xored: Vec<u8> = pages.iter().zip(&bases).map(|(a, b)| a ^ b).collect();
        let frame = put(delta_pack, seal_delta(hashes, &xored, PAGE).unwrap());
        let base = Slice::Frame(FrameSlice {
            frame: plain,
            skip: 1,
            take: 2,
            len: 2 * PAGE as u64,
        });
        let delta = DeltaFrame {
            frame: frame_ref(1, frame),
            page_size: PAGE as u32,
            bases: vec![BaseRun { base, version: 1 }],
        };
        let manifest = Manifest {
            packs: vec![plain_pack, delta_pack],
            ..Manifest::default()
        };
        (store, manifest, delta)
    }

    #[test]
    fn pages_are_put_together_with_their_bases_and_a_wrong_base_is_noticed() {
        let key = IdKey::from_bytes([7; 32]);
        let (store, mut manifest, delta) = stored(&key);
        let hashes = |manifest: &Manifest| {
            let mut count = Fetched::default();
            frame_hashes(&store, manifest, delta.frame, &key, &mut count)
        };
        manifest.deltas.add(delta.clone(), 0).unwrap();
        let mut changed = page(1);
        changed[100] ^= 9;
        let expected = [key.chunk_hash(&changed), key.chunk_hash(&page(2))];
        assert_eq!(hashes(&manifest).unwrap(), expected);
        let mut wrong = delta.clone();
        if let Slice::Frame(base) = &mut wrong.bases[0].base {
            base.skip = 2;
        }
        manifest.deltas = Deltas::default();
        manifest.deltas.add(wrong, 0).unwrap();
        let e = hashes(&manifest).unwrap_err();
        assert!(e.to_string().contains("one of its bases"), "{e}");
        // Without the table it is no page at all.
        manifest.deltas = Deltas::default();
        let mut reading = Reading::default();
        let slice = FrameSlice {
            frame: delta.frame,
            skip: 0,
            take: 1,
            len: PAGE as u64,
        };
        reading.add(&manifest, slice, 0, 0, PAGE);
        let mut out = vec![0; PAGE];
        let e = reading.decode(&store, &manifest, &mut out).unwrap_err();
        assert!(e.to_string().contains("no bases"), "{e}");
    }
}
