//! Owns the way of new chunks into the store: frames, sealed side by side; packs, put beside the work.
//!
//! Always: frames are numbered in the order in which they were begun, and end up in packs in that order. At most one frame is open,
//! and it holds chunks of one stream. Never: more packs in memory than the one being filled and [`limits::UPLOADS`] on their way.

use std::collections::VecDeque;
use std::sync::mpsc;

use cryostore_format::pack::FrameEntry;
use cryostore_format::segment::{PackIds, Segment};
use cryostore_format::{ChunkHash, PackId, SegmentId};

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

/// A frame that was sealed.
type Sealed = (FrameNumber, Result<SealedFrame>);

fn lost() -> Error {
    Error::new(Kind::Internal, "a frame was lost while it was sealed")
}

/// Takes new chunks.
#[derive(Debug)]
pub(super) struct FrameSink<'r> {
    env: &'r dyn Env,
    uploads: Uploads,
    open: OpenFrame,
    /// Closed, not in a pack yet, in order; what has been sealed out of turn waits here.
    sealing: VecDeque<Option<Result<SealedFrame>>>,
    sealed: (mpsc::Sender<Sealed>, mpsc::Receiver<Sealed>),
    placed: Vec<Placed>,
    pack: Option<PackWriter>,
    /// Packs of this session whose ids are in no segment yet.
    unlisted: Vec<PackIds>,
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
            sealing: VecDeque::new(),
            sealed: mpsc::channel(),
            placed: Vec::new(),
            pack: None,
            unlisted: Vec::new(),
            ended: Vec::new(),
            put: Put::default(),
            index_results: mpsc::channel(),
            index_jobs: 0,
        }
    }

    /// Takes in a chunk: number of its frame, and its number within.
    pub(super) fn push(&mut self, hash: ChunkHash, chunk: &[u8]) -> Result<(FrameNumber, u16)> {
        if !self.open.has_room(chunk.len()) {
            self.close()?;
        }
        let number = self.open.push(hash, chunk)?;
        Ok((self.open_number()?, number))
    }

    fn open_number(&self) -> Result<FrameNumber> {
        FrameNumber::try_from(self.placed.len() + self.sealing.len())
            .map_err(|_| Error::new(Kind::Unsupported, "more than 2^32 frames in one checkpoint"))
    }

    /// Closes the open frame; it is sealed beside the work.
    pub(super) fn close(&mut self) -> Result<()> {
        if !self.open.is_empty() {
            let number = self.open_number()?;
            let (frame, done) = (std::mem::take(&mut self.open), self.sealed.0.clone());
            self.sealing.push_back(None);
            rayon::spawn(move || {
                let _ = done.send((number, frame.seal()));
            });
        }
        Ok(())
    }

    /// Where a frame lies, once it was sealed.
    pub(super) fn place(&self, frame: FrameNumber) -> Option<&Placed> {
        self.placed.get(frame as usize)
    }

    /// True if no frame waits to be put into a pack.
    pub(super) fn is_idle(&self) -> bool {
        self.sealing.is_empty()
    }

    /// Adds to packs what has been sealed by now. Waits only when [`limits::FRAMES_AT_ONCE`] frames are at work.
    pub(super) fn advance(&mut self, index: &Index, directories: &Directories) -> Result<()> {
        self.add_sealed(limits::FRAMES_AT_ONCE, index, directories)
    }

    /// Adds all closed frames to packs.
    pub(super) fn settle(&mut self, index: &Index, directories: &Directories) -> Result<()> {
        self.add_sealed(0, index, directories)
    }

    /// Adds sealed frames to packs, in order, until no more than `left` are still at work.
    fn add_sealed(&mut self, left: usize, index: &Index, directories: &Directories) -> Result<()> {
        loop {
            while let Some(Some(frame)) = self.sealing.front_mut().map(Option::take) {
                self.sealing.pop_front();
                self.add(&frame?, index, directories)?;
            }
            let sealed = if self.sealing.len() > left {
                self.sealed.1.recv().map_err(|_| lost())?
            } else if let Ok(sealed) = self.sealed.1.try_recv() {
                sealed
            } else {
                return Ok(());
            };
            let place = (sealed.0 as usize).checked_sub(self.placed.len());
            *place
                .and_then(|n| self.sealing.get_mut(n))
                .ok_or_else(lost)? = Some(sealed.1);
        }
    }

    fn add(&mut self, frame: &SealedFrame, index: &Index, directories: &Directories) -> Result<()> {
        let env = self.env;
        let pack = self
            .pack
            .get_or_insert_with(|| PackWriter::new(PackId::from_bytes(random_id(env))));
        let entry = pack.push(frame)?;
        self.placed.push(Placed {
            pack: pack.id(),
            entry,
        });
        if pack.is_full() {
            self.end_pack(index, directories)?;
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
            self.put_segment(index)?;
        }
        Ok(())
    }

    /// Puts the ids of the packs that are in no segment yet, and has the local index take them in, beside the work.
    fn put_segment(&mut self, index: &Index) -> Result<()> {
        if self.unlisted.is_empty() {
            return Ok(());
        }
        let id = SegmentId::from_bytes(random_id(self.env));
        let packs = std::mem::take(&mut self.unlisted);
        let segment = Segment { packs };
        self.put_object(segments::object_name(id), segment.encode().into())?;
        let (index, done) = (index.clone(), self.index_results.0.clone());
        self.index_jobs += 1;
        rayon::spawn(move || {
            // Given back before the result is: whoever has seen all results may open the index again.
            let inserted = {
                let index = index;
                index.insert(&segment.packs, Some(id))
            };
            let _ = done.send(inserted);
        });
        Ok(())
    }

    /// Waits until the local index has the ids of all packs that are full.
    pub(super) fn list_packs(&mut self, index: &Index) -> Result<()> {
        self.put_segment(index)?;
        let jobs = std::mem::take(&mut self.index_jobs);
        settle_index(&self.index_results.1, jobs);
        Ok(())
    }

    /// Puts an object of this session, beside the work. It is durable when [`Self::finish`] is back.
    pub(super) fn put_object(&mut self, name: String, bytes: bytes::Bytes) -> Result<()> {
        self.put.bytes += bytes.len() as u64;
        self.uploads.put(name, bytes)
    }

    /// Ends frames, packs and segments; they may still be on their way.
    pub(super) fn end_frames(&mut self, index: &Index, directories: &Directories) -> Result<()> {
        self.close()?;
        self.settle(index, directories)?;
        self.end_pack(index, directories)?;
        self.put_segment(index)
    }

    /// Waits until all that was put is durable.
    pub(super) fn finish(self) -> Result<Finished> {
        self.uploads.finish()?;
        Ok(Finished {
            put: self.put,
            index_results: self.index_results.1,
            index_jobs: self.index_jobs,
        })
    }
}

/// A sink that has put everything.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) put: Put,
    index_results: mpsc::Receiver<Result<()>>,
    index_jobs: usize,
}

impl Finished {
    /// Waits until the local index has the ids of this session.
    pub(super) fn settle_index(self) {
        settle_index(&self.index_results, self.index_jobs);
    }
}

/// The index is a cache, so that a failure is only told.
fn settle_index(results: &mpsc::Receiver<Result<()>>, jobs: usize) {
    for _ in 0..jobs {
        if let Ok(Err(e)) = results.recv() {
            tracing::warn!("the local index lacks ids of this import: {e}");
        }
    }
}
