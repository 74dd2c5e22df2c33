//! Owns the way of new chunks into the store: frames, sealed side by side; packs, put beside the work.
//!
//! Always: frames are numbered in the order in which they were begun, and end up in packs in that order. At most one frame is open,
//! and it holds chunks of one stream. Never: more packs in memory than the one being filled and [`limits::UPLOADS`] on their way.

use std::sync::mpsc;

use cryostore_format::pack::FrameEntry;
use cryostore_format::segment::PackIds;
use cryostore_format::{ChunkHash, PackId, SegmentId};
use rayon::prelude::*;

use crate::codec::frame::{OpenFrame, SealedFrame};
use crate::env::{Env, random_id};
use crate::error::{Error, Kind, Result};
use crate::index::{Index, segments};
use crate::limits;
use crate::pack::writer::PackWriter;
use crate::pack::{directories::Directories, object_name};
use crate::store::{Store, Uploads};

/// Number of a frame of this session.
pub(super) type FrameNumber = u32;

/// Where a frame of this session lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) pack: PackId,
    pub(super) entry: FrameEntry,
}

/// What was put.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Put {
    pub(super) packs: u64,
    pub(super) bytes: u64,
}

/// Takes new chunks.
#[derive(Debug)]
pub(super) struct FrameSink<'r> {
    env: &'r dyn Env,
    uploads: Uploads,
    open: OpenFrame,
    /// Closed, not sealed yet.
    closed: Vec<OpenFrame>,
    placed: Vec<Placed>,
    pack: Option<PackWriter>,
    /// Packs of this session whose ids are in no segment yet.
    unlisted: Vec<PackIds>,
    segments: Vec<SegmentId>,
    /// Packs that were put since they were last asked for.
    ended: Vec<PackId>,
    put: Put,
    index_results: (mpsc::Sender<Result<()>>, mpsc::Receiver<Result<()>>),
    index_jobs: usize,
}

impl<'r> FrameSink<'r> {
    pub(super) fn new(store: &Store, env: &'r dyn Env) -> Self {
        Self {
            env,
            uploads: store.uploads(limits::UPLOADS),
            open: OpenFrame::default(),
            closed: Vec::new(),
            placed: Vec::new(),
            pack: None,
            unlisted: Vec::new(),
            segments: Vec::new(),
            ended: Vec::new(),
            put: Put::default(),
            index_results: mpsc::channel(),
            index_jobs: 0,
        }
    }

    /// Takes in a chunk: number of its frame, and its number within.
    pub(super) fn push(&mut self, hash: ChunkHash, chunk: &[u8]) -> Result<(FrameNumber, u16)> {
        if !self.open.has_room(chunk.len()) {
            self.close();
        }
        let number = self.open.push(hash, chunk)?;
        Ok((self.open_number()?, number))
    }

    fn open_number(&self) -> Result<FrameNumber> {
        FrameNumber::try_from(self.placed.len() + self.closed.len())
            .map_err(|_| Error::new(Kind::Unsupported, "more than 2^32 frames in one checkpoint"))
    }

    /// Closes the open frame.
    pub(super) fn close(&mut self) {
        if !self.open.is_empty() {
            self.closed.push(std::mem::take(&mut self.open));
        }
    }

    /// True when so many frames wait that sealing them keeps all cores at work.
    pub(super) fn has_batch(&self) -> bool {
        self.closed.len() >= limits::FRAMES_AT_ONCE
    }

    /// Where a frame lies, once it was sealed.
    pub(super) fn place(&self, frame: FrameNumber) -> Option<&Placed> {
        self.placed.get(frame as usize)
    }

    /// Seals all closed frames and adds them to packs.
    pub(super) fn seal(&mut self, index: &Index, directories: &Directories) -> Result<()> {
        while !self.closed.is_empty() {
            let batch: Vec<_> = self
                .closed
                .drain(..self.closed.len().min(limits::FRAMES_AT_ONCE))
                .collect();
            let sealed: Vec<Result<SealedFrame>> =
                batch.into_par_iter().map(OpenFrame::seal).collect();
            for frame in sealed {
                let frame = frame?;
                let env = self.env;
                let pack = self
                    .pack
                    .get_or_insert_with(|| PackWriter::new(PackId::from_bytes(random_id(env))));
                let entry = pack.push(&frame)?;
                self.placed.push(Placed {
                    pack: pack.id(),
                    entry,
                });
                if pack.is_full() {
                    self.end_pack(index, directories)?;
                }
            }
        }
        Ok(())
    }

    /// The packs that were put since the last call.
    pub(super) fn ended_packs(&mut self) -> impl Iterator<Item = PackId> {
        std::mem::take(&mut self.ended).into_iter()
    }

    fn end_pack(&mut self, index: &Index, directories: &Directories) -> Result<()> {
        let Some(pack) = self.pack.take() else {
            return Ok(());
        };
        let sealed = pack.finish()?;
        let pack_len = sealed.bytes.len() as u64;
        directories.keep(sealed.id, pack_len, &sealed.tail);
        self.put.packs += 1;
        self.put_object(object_name(sealed.id), sealed.bytes)?;
        let (ids, id, index, done) = (
            sealed.ids.clone(),
            sealed.id,
            index.clone(),
            self.index_results.0.clone(),
        );
        self.index_jobs += 1;
        rayon::spawn(move || {
            // Given back before the result is: whoever has seen all results may open the index again.
            let inserted = {
                let index = index;
                index.insert(id, &ids)
            };
            let _ = done.send(inserted);
        });
        self.ended.push(sealed.id);
        self.unlisted.push(PackIds {
            pack: sealed.id,
            pack_len,
            ids: sealed.ids,
        });
        if self
            .unlisted
            .iter()
            .map(|pack| pack.ids.len())
            .sum::<usize>()
            >= limits::SEGMENT_IDS
        {
            self.put_segment()?;
        }
        Ok(())
    }

    fn put_segment(&mut self) -> Result<()> {
        if !self.unlisted.is_empty() {
            let id = SegmentId::from_bytes(random_id(self.env));
            let bytes = segments::encode(std::mem::take(&mut self.unlisted));
            self.put_object(segments::object_name(id), bytes.into())?;
            self.segments.push(id);
        }
        Ok(())
    }

    /// Puts an object of this session, beside the work. It is durable when [`Self::finish`] is back.
    pub(super) fn put_object(&mut self, name: String, bytes: bytes::Bytes) -> Result<()> {
        self.put.bytes += bytes.len() as u64;
        self.uploads.put(name, bytes)
    }

    /// Ends frames, packs and segments; they may still be on their way.
    pub(super) fn end_frames(&mut self, index: &Index, directories: &Directories) -> Result<()> {
        self.close();
        self.seal(index, directories)?;
        self.end_pack(index, directories)?;
        self.put_segment()
    }

    /// Waits until all that was put is durable.
    pub(super) fn finish(self) -> Result<Finished> {
        self.uploads.finish()?;
        Ok(Finished {
            put: self.put,
            segments: self.segments,
            index_results: self.index_results.1,
            index_jobs: self.index_jobs,
        })
    }
}

/// A sink that has put everything.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) put: Put,
    segments: Vec<SegmentId>,
    index_results: mpsc::Receiver<Result<()>>,
    index_jobs: usize,
}

impl Finished {
    /// Waits until the local index has the ids of this session; it is a cache, so that a failure is only told.
    pub(super) fn settle_index(self, index: &Index) {
        let failed = (0..self.index_jobs)
            .filter_map(|_| self.index_results.recv().ok()?.err())
            .next();
        let marked = || {
            self.segments
                .iter()
                .try_for_each(|id| index.mark_segment(*id))
        };
        if let Some(e) = failed.or_else(|| marked().err()) {
            tracing::warn!("the local index lacks the ids of this import: {e}");
        }
    }
}
