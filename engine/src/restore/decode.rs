//! Owns the decoding of windows.
//!
//! Always: each frame of a window is fetched once and decoded once; those that other windows want parts of are shared with them. Never: more than a window and its frames in memory,
//! besides these.

use std::sync::{Arc, Mutex, PoisonError};

use cryostore_format::Digest;
use cryostore_format::manifest::{Body, Manifest, StreamIndex, Transform};

use super::plan::{From, Part, Plan, Window};
use crate::archive::gzip;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::pack::KeptFrames;
use crate::pack::reading::{Fetched, Reading};
use crate::store::Vault;

/// Fetches the frames of some parts.
pub(super) fn fetch(
    vault: &Vault,
    manifest: &Manifest,
    parts: &[Part],
    kept: Option<&Arc<KeptFrames>>,
    count: &mut Fetched,
) -> Result<Reading> {
    let mut reading = reading_of(manifest, parts, kept);
    reading.fetch(vault, manifest, count)?;
    Ok(reading)
}

/// What some parts need.
pub(super) fn reading_of(
    manifest: &Manifest,
    parts: &[Part],
    kept: Option<&Arc<KeptFrames>>,
) -> Reading {
    let mut reading = kept.map_or_else(Reading::default, Reading::sharing);
    let mut at = 0;
    for part in parts {
        let len = usize::try_from(part.len).unwrap_or(usize::MAX);
        if let From::Frame(slice, from) = part.from {
            reading.add(manifest, slice, from, at, len);
        }
        at += len;
    }
    reading
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
        vault: &Vault,
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
        let plain = read_stream(vault, manifest, plain, limits::DERIVED_LEN, count)?;
        let corrections = read_stream(vault, manifest, corrections, limits::DERIVED_LEN, count)?;
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
    vault: &Vault,
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
        let reading = fetch(vault, manifest, &window.parts, None, count)?;
        let at = out.len();
        out.resize(at + window.len, 0);
        let more = decode(
            vault,
            manifest,
            &window.parts,
            reading,
            |_| {
                Err(Error::new(
                    Kind::Corrupt,
                    "the manifest: a part that is derived",
                ))
            },
            &mut out[at..],
        )?;
        *count = count.and(more);
    }
    Ok(out)
}

/// Decodes parts into exactly `out`; every byte of it is written. What had to be fetched besides comes back counted.
pub(super) fn decode(
    vault: &Vault,
    manifest: &Manifest,
    parts: &[Part],
    reading: Reading,
    mut derived: impl FnMut(StreamIndex) -> Result<Arc<Vec<u8>>>,
    out: &mut [u8],
) -> Result<Fetched> {
    let mut rest = &mut *out;
    for part in parts {
        let len = usize::try_from(part.len).unwrap_or(usize::MAX);
        let (target, after) = rest.split_at_mut(len);
        rest = after;
        match part.from {
            From::Zero => target.fill(0),
            From::Frame(..) => {}
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
    reading.decode(vault, manifest, out)
}

/// Decodes a window. What an earlier window left in `buffer` is written over: clearing it would cost as much as a copy.
pub(super) fn decode_window(
    vault: &Vault,
    manifest: &Manifest,
    window: &Window,
    reading: Reading,
    derived: &Mutex<(Derived, Fetched)>,
    mut buffer: Vec<u8>,
) -> Result<Vec<u8>> {
    buffer.resize(window.len, 0);
    let rebuild = |stream| {
        let mut derived = derived.lock().unwrap_or_else(PoisonError::into_inner);
        let (derived, count) = &mut *derived;
        derived.get(vault, manifest, stream, count)
    };
    let parts = &window.parts;
    let more = decode(vault, manifest, parts, reading, rebuild, &mut buffer)?;
    // The lock may be held while gzip data is rebuilt: most windows need nothing more, and pass by.
    if more.requests > 0 {
        let mut derived = derived.lock().unwrap_or_else(PoisonError::into_inner);
        derived.1 = derived.1.and(more);
    }
    Ok(buffer)
}
