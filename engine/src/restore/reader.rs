//! Owns the reading of parts: any bytes of the archive, a member by name, the frame of a page by its address.
//!
//! Always: reads the frames that it needs and nothing else. Every frame is checked by the checksum in it; the digest of the whole is not (it is not read).
//! Never: goes through the archive from its start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cryostore_format::manifest::{Body, Manifest, MapOf, PageMap, Role, RunPlace, StreamIndex};
use cryostore_format::recipe::{FrameSlice, Slice};
use cryostore_format::snapshot::SnapshotRecord;

use super::decode::{Derived, decode, fetch, read_stream};
use super::plan::{From, Part};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::pack::KeptFrames;
use crate::pack::reading::Fetched;
use crate::repo::{Repository, Session};

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageFrame {
    /// Its bytes are all zero.
    Zero,
    /// A chunk of this frame.
    Frame(FrameSlice),
    /// In CRIU's parent directory: ask the snapshot that this one requires.
    Parent,
}

/// Where a page of memory is.
enum Place {
    /// In CRIU's parent directory.
    Parent,
    /// It begins at this byte of this stream.
    Image {
        stream: StreamIndex,
        page: u64,
        page_size: u64,
    },
}

/// Slices of one stream and where each begins.
type Slices = Arc<Vec<(u64, Slice)>>;

/// A checkpoint of which parts are read.
#[derive(Debug)]
pub struct CheckpointReader<'r> {
    repo: &'r Repository,
    /// While it is there, no collection frees what it reads.
    session: Option<Session<'r>>,
    manifest: Manifest,
    /// Where each piece of the layout begins in the archive, and its literal bytes in stream 0.
    starts: Vec<(u64, u64)>,
    slices: Mutex<HashMap<StreamIndex, Slices>>,
    state: Mutex<(Derived, Fetched)>,
    kept: Arc<KeptFrames>,
}

impl<'r> CheckpointReader<'r> {
    /// Reads the manifest.
    pub fn open(repo: &'r Repository, snapshot: &SnapshotRecord) -> Result<Self> {
        let session = Session::read(repo);
        let manifest = repo.manifest(snapshot)?;
        if let Some(session) = &session {
            session.reads(snapshot, &manifest.packs)?;
        }
        let mut starts = Vec::with_capacity(manifest.layout.pieces.len());
        let (mut at, mut literal) = (0, 0);
        for piece in &manifest.layout.pieces {
            starts.push((at, literal));
            literal += piece.literal;
            at += piece.literal
                + piece
                    .stream
                    .and_then(|n| manifest.streams.get(n as usize))
                    .map_or(0, |s| s.len);
        }
        Ok(Self {
            repo,
            session,
            manifest,
            starts,
            slices: Mutex::default(),
            state: Mutex::default(),
            kept: KeptFrames::at_most(repo.memory().kept_frames()),
        })
    }

    /// The manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of the archive.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.manifest.layout.len
    }

    /// True for an archive without bytes; there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes and requests that were read of packs so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .bytes
    }

    /// Reads the archive from `offset` on; fewer bytes than `out` has come at its end only.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        self.session.iter().for_each(Session::renew);
        let end = offset.saturating_add(out.len() as u64).min(self.len());
        let mut at = offset;
        let mut parts = Vec::new();
        while at < end {
            let n = self
                .starts
                .partition_point(|(start, _)| *start <= at)
                .saturating_sub(1);
            let (Some(piece), Some((start, literal))) =
                (self.manifest.layout.pieces.get(n), self.starts.get(n))
            else {
                break;
            };
            let within = at - start;
            let (stream, from) = match piece.stream {
                _ if within < piece.literal => (0, literal + within),
                Some(stream) => (stream, within - piece.literal),
                None => break,
            };
            let ends = if within < piece.literal {
                start + piece.literal
            } else {
                self.starts.get(n + 1).map_or(self.len(), |s| s.0)
            };
            let len = ends.min(end) - at;
            self.parts_of(stream, from, len, &mut parts)?;
            at += len;
        }
        let len = usize::try_from(at.saturating_sub(offset)).unwrap_or(0);
        let out = &mut out[..len];
        self.read_parts(&parts, out)?;
        Ok(len)
    }

    /// All bytes of a member, or of an attachment; none if there is no such member.
    pub fn read_member(&self, name: &[u8], limit: u64) -> Result<Option<Vec<u8>>> {
        let wanted = |s: &&cryostore_format::manifest::Stream| {
            s.name == name && matches!(s.role, Role::Member | Role::Attachment)
        };
        let mut streams = (0..).zip(&self.manifest.streams);
        let Some((number, _)) = streams.find(|(_, stream)| wanted(stream)) else {
            return Ok(None);
        };
        self.read_stream(number, limit)
    }

    /// All bytes of what was kept beside the archive; none if there is nothing of this name. A member of the archive that has the name is not it.
    pub fn read_attachment(&self, name: &[u8], limit: u64) -> Result<Option<Vec<u8>>> {
        let mut streams = (0..).zip(&self.manifest.streams);
        let found = streams.find(|(_, s)| s.name == name && matches!(s.role, Role::Attachment));
        found.map_or(Ok(None), |(number, _)| self.read_stream(number, limit))
    }

    /// All bytes of a stream; none if the manifest has no stream of this number.
    pub fn read_stream(&self, n: StreamIndex, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(stream) = self.manifest.streams.get(n as usize) else {
            return Ok(None);
        };
        if stream.len > limit {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "{} has {} bytes, at most {limit} are read at once",
                    String::from_utf8_lossy(&stream.name),
                    stream.len
                ),
            )
            .hint("read it in parts, or export the archive"));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (derived, count) = &mut *state;
        let bytes = match stream.body {
            Body::Derived { .. } => derived
                .get(self.repo.vault(), &self.manifest, n, count)?
                .to_vec(),
            Body::Recipe(_) => read_stream(self.repo.vault(), &self.manifest, n, limit, count)?,
        };
        Ok(Some(bytes))
    }

    /// Where the page at `address` is; none if the checkpoint does not have it.
    pub fn page(&self, of: MapOf, address: u64) -> Result<Option<PageFrame>> {
        match self.place(of, address) {
            None => Ok(None),
            Some(Place::Parent) => Ok(Some(PageFrame::Parent)),
            Some(Place::Image { stream, page, .. }) => self.page_of(stream, page),
        }
    }

    /// `len` bytes of memory from `address` on; none if one of their pages is not in this checkpoint, but in CRIU's
    /// parent directory or nowhere. For what is small: `len` bytes are allocated.
    pub fn memory(&self, of: MapOf, address: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let mut parts = Vec::new();
        let Some(end) = address.checked_add(len as u64) else {
            return Ok(None);
        };
        let mut at = address;
        while at < end {
            let Some(Place::Image {
                stream,
                page,
                page_size,
            }) = self.place(of, at)
            else {
                return Ok(None);
            };
            let within = at % page_size;
            let take = (page_size - within).min(end - at);
            let stream_len = self
                .manifest
                .streams
                .get(stream as usize)
                .map_or(0, |s| s.len);
            let to = page.checked_add(within + take);
            if to.is_none_or(|to| to > stream_len) {
                return Ok(None);
            }
            self.parts_of(stream, page + within, take, &mut parts)?;
            at += take;
        }
        let mut out = vec![0; len];
        self.read_parts(&parts, &mut out)?;
        Ok(Some(out))
    }

    /// Where the page with `address` is.
    fn place(&self, of: MapOf, address: u64) -> Option<Place> {
        let is_it = |map: &&PageMap| map.of == of && !map.stale;
        let map = self.manifest.maps.iter().find(is_it)?;
        let page_size = u64::from(map.page_size.max(1));
        let number = address / page_size;
        let mut in_image = 0_u64;
        for run in &map.runs {
            let within = number
                .checked_sub(run.page_number)
                .filter(|within| *within < run.pages);
            match (within, run.place) {
                (Some(_), RunPlace::Parent) => return Some(Place::Parent),
                (Some(within), RunPlace::Image) => {
                    let stream = map.stream?;
                    let phase = self.manifest.streams.get(stream as usize);
                    let phase = phase.map_or(0, |s| u64::from(s.phase));
                    // A page map may claim more pages than there are bytes in the world.
                    let page = in_image
                        .checked_add(within)?
                        .checked_mul(page_size)?
                        .checked_add(phase)?;
                    return Some(Place::Image {
                        stream,
                        page,
                        page_size,
                    });
                }
                (None, RunPlace::Image) => in_image = in_image.saturating_add(run.pages),
                (None, RunPlace::Parent) => {}
            }
        }
        None
    }

    fn page_of(&self, stream: StreamIndex, at: u64) -> Result<Option<PageFrame>> {
        let Some(found) = self
            .manifest
            .streams
            .get(stream as usize)
            .filter(|s| at < s.len)
        else {
            return Ok(None);
        };
        let page_size = u64::from(found.page_size.max(1));
        let mut parts = Vec::new();
        self.parts_of(stream, at, 1, &mut parts)?;
        Ok(parts.first().and_then(|part| match part.from {
            From::Zero => Some(PageFrame::Zero),
            From::Frame(slice, from) => {
                let within = from / page_size;
                Some(PageFrame::Frame(FrameSlice {
                    skip: slice.skip + u16::try_from(within).ok()?,
                    take: 1,
                    // The last page of an image may be short.
                    len: page_size.min(slice.len - within * page_size),
                    ..slice
                }))
            }
            From::Derived(..) => None,
        }))
    }

    /// Appends the parts of some bytes of a stream.
    fn parts_of(
        &self,
        stream: StreamIndex,
        from: u64,
        len: u64,
        out: &mut Vec<Part>,
    ) -> Result<()> {
        if matches!(
            self.manifest.streams.get(stream as usize).map(|s| &s.body),
            Some(Body::Derived { .. })
        ) {
            out.push(Part {
                len,
                from: From::Derived(stream, from),
            });
            return Ok(());
        }
        let slices = self.slices(stream)?;
        let mut at = from;
        let mut n = slices
            .partition_point(|(start, _)| *start <= at)
            .saturating_sub(1);
        while at < from + len {
            let Some((start, slice)) = slices
                .get(n)
                .filter(|(start, slice)| at - start < slice.len())
            else {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("the manifest: the recipe of stream {stream} ends before byte {at}"),
                ));
            };
            let within = at - start;
            let take = (slice.len() - within).min(from + len - at);
            out.push(Part {
                len: take,
                from: match slice {
                    Slice::Zero { .. } => From::Zero,
                    Slice::Frame(frame) => From::Frame(*frame, within),
                },
            });
            at += take;
            n += 1;
        }
        Ok(())
    }

    fn slices(&self, stream: StreamIndex) -> Result<Slices> {
        let mut known = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slices) = known.get(&stream) {
            return Ok(Arc::clone(slices));
        }
        let mut out = Vec::new();
        let mut at = 0;
        for slice in self.manifest.slices(stream).into_iter().flatten() {
            let slice = slice.map_err(|e| Error::stored("the manifest", e))?;
            out.push((at, slice));
            at = u64::saturating_add(at, slice.len());
        }
        let out = Arc::new(out);
        known.insert(stream, Arc::clone(&out));
        Ok(out)
    }

    fn read_parts(&self, parts: &[Part], out: &mut [u8]) -> Result<()> {
        let vault = self.repo.vault();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (derived, count) = &mut *state;
        let mut rest = out;
        let mut left = parts;
        // Window by window, so that memory is bounded whatever is asked for.
        while !left.is_empty() {
            let mut len = 0;
            let n = left
                .iter()
                .take_while(|part| {
                    let fits = len < limits::WINDOW_LEN;
                    len += part.len;
                    fits
                })
                .count();
            let (batch, after) = left.split_at(n);
            let bytes: u64 = batch.iter().map(|part| part.len).sum();
            let (target, next) = rest.split_at_mut(usize::try_from(bytes).unwrap_or(usize::MAX));
            let reading = fetch(vault, &self.manifest, batch, Some(&self.kept), count)?;
            let more = decode(
                vault,
                &self.manifest,
                batch,
                reading,
                |stream| derived.get(vault, &self.manifest, stream, count),
                target,
            )?;
            *count = count.and(more);
            left = after;
            rest = next;
        }
        Ok(())
    }
}
