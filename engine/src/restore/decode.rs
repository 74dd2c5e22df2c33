//! Owns the fetching and decoding of windows.
//!
//! Always: each frame of a window is fetched once and decoded once; frames that lie close together are fetched by one request. A frame that cannot
//! be decoded is named with its pack and place. Never: more than a window and its frames in memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cryostore_format::manifest::{Body, Manifest, StreamIndex, Transform};
use cryostore_format::recipe::FrameRef;
use cryostore_format::{Digest, FormatError, PackId};

use super::plan::{From, Part, Plan, Window};
use crate::archive::gzip;
use crate::codec::frame::{read_chunks, with_frame};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::pack::object_name;
use crate::store::Store;

/// A frame by pack number and offset.
type FrameKey = (u32, u32);

/// Frames as they are stored.
#[derive(Debug, Default)]
pub(super) struct Frames(BTreeMap<FrameKey, Bytes>);

impl Frames {
    /// The frame's stored bytes.
    pub(super) fn get(&self, frame: &FrameRef) -> Option<&Bytes> {
        self.0.get(&key(frame))
    }
}

/// What was read of the store.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fetched {
    pub(super) requests: u64,
    pub(super) bytes: u64,
}

fn key(frame: &FrameRef) -> FrameKey {
    (frame.pack, frame.offset)
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

/// Fetches the frames of some parts.
pub(super) fn fetch(
    store: &Store,
    manifest: &Manifest,
    parts: &[Part],
    count: &mut Fetched,
) -> Result<Frames> {
    let mut wanted: BTreeMap<FrameKey, u32> = BTreeMap::new();
    for part in parts {
        if let From::Frame(slice, _) = part.from {
            wanted.insert(key(&slice.frame), slice.frame.stored_len);
        }
    }
    let mut out = Frames::default();
    let mut packs: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
    for ((pack, offset), len) in wanted {
        packs.entry(pack).or_default().push((offset, len));
    }
    for (pack, frames) in packs {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (offset, len) in &frames {
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
            let at = ranges.partition_point(|range| range.end <= u64::from(offset));
            let (Some(range), Some(bytes)) = (ranges.get(at), parts.get(at)) else {
                continue;
            };
            let from = usize::try_from(u64::from(offset) - range.start).unwrap_or(usize::MAX);
            out.0
                .insert((pack, offset), bytes.slice(from..from + len as usize));
        }
    }
    Ok(out)
}

/// Derived streams, of which the last one is kept.
#[derive(Debug, Default)]
pub(super) struct Derived {
    last: Option<(StreamIndex, Arc<Vec<u8>>)>,
}

impl Derived {
    /// All bytes of a derived stream.
    pub(super) fn get(
        &mut self,
        store: &Store,
        manifest: &Manifest,
        stream: StreamIndex,
        count: &mut Fetched,
    ) -> Result<Arc<Vec<u8>>> {
        if let Some((last, bytes)) = &self.last
            && *last == stream
        {
            return Ok(Arc::clone(bytes));
        }
        let damaged = |what: String| {
            Error::new(
                Kind::Corrupt,
                format!("stream {stream} of the manifest: {what}"),
            )
        };
        let Some(found) = manifest.streams.get(stream as usize) else {
            return Err(damaged("it does not exist".to_owned()));
        };
        let Body::Derived {
            transform: Transform::Gzip,
            plain,
            corrections,
        } = found.body
        else {
            return Err(damaged("it is not derived".to_owned()));
        };
        if found.len > limits::DERIVED_LEN {
            return Err(damaged(format!(
                "{} bytes of gzip data, at most {} are rebuilt",
                found.len,
                limits::DERIVED_LEN
            )));
        }
        let plain = read_stream(store, manifest, plain, limits::DERIVED_LEN, count)?;
        let corrections = read_stream(store, manifest, corrections, limits::DERIVED_LEN, count)?;
        let most = usize::try_from(found.len).unwrap_or(usize::MAX);
        let bytes =
            gzip::rebuild(&plain, &corrections, most).map_err(|e| damaged(format!("gzip: {e}")))?;
        if Digest::of(&bytes) != found.digest {
            return Err(damaged(
                "its digest does not match what was rebuilt".to_owned(),
            ));
        }
        let bytes = Arc::new(bytes);
        self.last = Some((stream, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

/// All bytes of a stream that is in chunks, at most `limit`.
pub(super) fn read_stream(
    store: &Store,
    manifest: &Manifest,
    stream: StreamIndex,
    limit: u64,
    count: &mut Fetched,
) -> Result<Vec<u8>> {
    let len = manifest
        .streams
        .get(stream as usize)
        .map_or(0, |stream| stream.len);
    if len > limit {
        return Err(Error::new(
            Kind::Invalid,
            format!("stream {stream} has {len} bytes, at most {limit} are read at once"),
        )
        .hint("read it in parts, or export the archive"));
    }
    let mut plan = Plan::stream(manifest, stream)?;
    let mut out = Vec::new();
    while let Some(window) = plan.next_window()? {
        let frames = fetch(store, manifest, &window.parts, count)?;
        let at = out.len();
        out.resize(at + window.len, 0);
        decode(
            manifest,
            &window.parts,
            &frames,
            |_| {
                Err(Error::new(
                    Kind::Corrupt,
                    "the manifest: a part that is derived",
                ))
            },
            &mut out[at..],
        )?;
    }
    Ok(out)
}

/// Decodes parts into exactly `out`; every byte of it is written.
pub(super) fn decode(
    manifest: &Manifest,
    parts: &[Part],
    frames: &Frames,
    mut derived: impl FnMut(StreamIndex) -> Result<Arc<Vec<u8>>>,
    out: &mut [u8],
) -> Result<()> {
    let mut jobs: BTreeMap<FrameKey, Vec<(&Part, &mut [u8])>> = BTreeMap::new();
    let mut rest = out;
    for part in parts {
        let len = usize::try_from(part.len).unwrap_or(usize::MAX);
        let (target, after) = rest.split_at_mut(len);
        rest = after;
        match part.from {
            From::Zero => target.fill(0),
            From::Frame(slice, _) => jobs
                .entry(key(&slice.frame))
                .or_default()
                .push((part, target)),
            From::Derived(stream, from) => {
                let bytes = derived(stream)?;
                let from = usize::try_from(from).unwrap_or(usize::MAX);
                let source = bytes.get(from..from.saturating_add(len));
                target.copy_from_slice(
                    source.ok_or_else(|| {
                        Error::new(Kind::Corrupt, "a derived stream is too short")
                    })?,
                );
            }
        }
    }
    jobs.into_iter().try_for_each(|(key, targets)| {
        let frame = frames
            .0
            .get(&key)
            .ok_or_else(|| Error::new(Kind::Internal, "a frame was not fetched"))?;
        decode_frame(frame, targets).map_err(|e| {
            let pack = pack_of(manifest, key.0)
                .map(object_name)
                .unwrap_or_default();
            Error::stored(format!("{pack}, frame at byte {}", key.1), e)
        })
    })
}

fn decode_frame(
    frame: &[u8],
    targets: Vec<(&Part, &mut [u8])>,
) -> std::result::Result<(), FormatError> {
    let bad = |detail: &str| FormatError::Invalid {
        what: "frame",
        detail: detail.to_owned(),
    };
    let mut targets = targets;
    if let [
        (
            Part {
                len,
                from: From::Frame(slice, 0),
            },
            target,
        ),
    ] = &mut targets[..]
        && *len == slice.len
    {
        return read_chunks(frame, slice.skip, slice.take, target);
    }
    with_frame(frame, |header, plain| {
        let ranges = header.chunk_ranges(plain)?;
        for (part, target) in targets {
            let From::Frame(slice, from) = part.from else {
                continue;
            };
            let chunks = ranges
                .range(slice.skip.into(), slice.take.into())
                .and_then(|range| plain.get(range));
            let chunks = chunks.filter(|chunks| chunks.len() as u64 == slice.len);
            let chunks =
                chunks.ok_or_else(|| bad("its chunks are not those that the manifest names"))?;
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let source = chunks.get(from..from.saturating_add(target.len()));
            target.copy_from_slice(source.ok_or_else(|| bad("its chunks are too short"))?);
        }
        Ok(())
    })?
}

/// Decodes a window. What an earlier window left in `buffer` is written over: clearing it would cost as much as a copy.
pub(super) fn decode_window(
    store: &Store,
    manifest: &Manifest,
    window: &Window,
    frames: &Frames,
    derived: &Mutex<(Derived, Fetched)>,
    mut buffer: Vec<u8>,
) -> Result<Vec<u8>> {
    buffer.resize(window.len, 0);
    let rebuild = |stream| {
        let mut derived = derived.lock().unwrap_or_else(PoisonError::into_inner);
        let (derived, count) = &mut *derived;
        derived.get(store, manifest, stream, count)
    };
    decode(manifest, &window.parts, frames, rebuild, &mut buffer)?;
    Ok(buffer)
}
