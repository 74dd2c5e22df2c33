//! Owns the way of new chunks into the store: frames, sealed side by side; packs, put beside the work.
//!
//! Always: frames end up in packs in the order in which they were closed. At most one frame and one batch of changed pages are open,
//! with chunks of one stream. Never: more packs in memory than the one being filled and [`limits::UPLOADS`] on their way.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, mpsc};

use cryostore_format::manifest::Manifest;
use cryostore_format::pack::{FrameEntry, FrameKind};
use cryostore_format::segment::{PackIds, Segment};
use cryostore_format::{ChunkHash, PackId, SegmentId};

use super::deltas::{OpenBatch, PageBase, SealedBatch};
use crate::codec::frame::{OpenFrame, SealedFrame};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::index::{Index, segments};
use crate::limits;
use crate::pack::writer::PackWriter;
use crate::pack::{Ahead, Buffers, KeptFrames, Wanted, directories::Directories, object_name};
use crate::repo::{LeftPacks, PutLog, Repository, Terms};
use crate::store::{Uploads, Vault};

/// Number of a frame of this session.
pub(super) type FrameNumber = u32;

/// Where a frame of this session lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) pack: PackId,
    pub(super) entry: FrameEntry,
}

/// Where the chunks of what was one open frame lie.
#[derive(Debug)]
pub(super) enum Lies {
    /// In one frame, in their order.
    Together(Placed),
    /// For each chunk: number of its frame, and its number within.
    Apart(Vec<Placed>, Vec<(u16, u16)>),
}

/// A delta frame that was placed, and the bases of its pages.
#[derive(Debug)]
pub(super) struct PlacedDelta {
    pub(super) placed: Placed,
    pub(super) page_size: u32,
    pub(super) bases: Vec<PageBase>,
}

/// What was put.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Put {
    pub(super) packs: u64,
    pub(super) bytes: u64,
}

/// What was made of an open frame.
#[derive(Debug)]
enum Sealed {
    Plain(SealedFrame),
    Batch(SealedBatch),
}

/// A frame that is being sealed.
#[derive(Debug)]
struct Sealing {
    number: FrameNumber,
    /// Bytes of its chunks.
    bytes: usize,
    /// It has been, and waits for its turn.
    sealed: Option<Result<Sealed>>,
}

type Results = (FrameNumber, Result<Sealed>);

fn lost() -> Error {
    Error::new(Kind::Internal, "a frame was lost while it was sealed")
}

/// Takes new chunks.
#[derive(Debug)]
pub(super) struct FrameSink<'r> {
    env: &'r dyn Env,
    terms: Arc<Terms>,
    vault: Vault,
    uploads: Uploads,
    /// What deltas are made against.
    base: Option<Arc<Manifest>>,
    kept: Arc<KeptFrames>,
    open: (FrameNumber, OpenFrame),
    /// Changed pages that may become deltas.
    batch: (FrameNumber, OpenBatch),
    next_number: FrameNumber,
    /// Closed, not in a pack yet, in order.
    sealing: VecDeque<Sealing>,
    sealed: (mpsc::Sender<Results>, mpsc::Receiver<Results>),
    /// Of each frame from this one on.
    first_lies: FrameNumber,
    lies: VecDeque<Option<Lies>>,
    deltas: Vec<PlacedDelta>,
    warnings: Vec<String>,
    buffers: Buffers,
    pack: Option<PackWriter>,
    /// Deltas have packs of their own: all chunks of other packs have ids.
    delta_pack: Option<PackWriter>,
    /// Packs of this session whose ids are in no segment yet.
    unlisted: Vec<PackIds>,
    /// Packs that were put since they were last asked for.
    ended: Vec<PackId>,
    put: Put,
    /// What was put so far, for the next import should this one fail.
    log: PutLog,
    /// What others had put that have failed, as far as this import has it in its index.
    left: Vec<LeftPacks>,
    index_jobs: IndexJobs,
}

/// What the local index takes in beside the work. Dropped, it is waited for: who comes next, also after a failure, has the index to itself.
#[derive(Debug)]
struct IndexJobs {
    results: (mpsc::Sender<Result<()>>, mpsc::Receiver<Result<()>>),
    running: usize,
}

impl IndexJobs {
    fn start(&mut self, index: &Index, segment: Segment, id: SegmentId) {
        let (index, done) = (index.clone(), self.results.0.clone());
        self.running += 1;
        rayon::spawn(move || {
            // Given back before the result is: whoever has seen all results may open the index again.
            let inserted = {
                let index = index;
                index.insert(&segment.packs, Some(id))
            };
            let _ = done.send(inserted);
        });
    }

    /// Waits for all of them. The index is a cache, so that a failure is only told.
    fn settle(&mut self) {
        for _ in 0..std::mem::take(&mut self.running) {
            if let Ok(Err(e)) = self.results.1.recv() {
                tracing::warn!("the local index lacks ids of this import: {e}");
            }
        }
    }
}

impl Drop for IndexJobs {
    fn drop(&mut self) {
        self.settle();
    }
}

/// Of a base in a bucket some MiB are fetched with one request, where changes stand close, should a copy on this node be damaged or gone.
fn ahead(repo: &Repository, base: Option<&Manifest>) -> Option<Ahead> {
    let all_near = |base: &&Manifest| base.packs.iter().all(|pack| repo.vault().is_near(*pack));
    let base = base.filter(|base| !all_near(base))?;
    Some(Ahead::within(limits::AHEAD_BY_IMPORT).perhaps(Wanted::all_of(base)))
}

impl<'r> FrameSink<'r> {
    pub(super) fn new(
        repo: &'r Repository,
        terms: Arc<Terms>,
        base: Option<Arc<Manifest>>,
    ) -> Self {
        let store = repo.store();
        Self {
            env: repo.env(),
            terms,
            vault: repo.vault().clone(),
            uploads: store.uploads(),
            kept: KeptFrames::with_ahead(
                repo.memory().kept_by_import(),
                ahead(repo, base.as_deref()),
            ),
            base,
            open: Default::default(),
            batch: Default::default(),
            next_number: 0,
            sealing: VecDeque::new(),
            sealed: mpsc::channel(),
            first_lies: 0,
            lies: VecDeque::new(),
            deltas: Vec::new(),
            warnings: Vec::new(),
            buffers: Buffers::default(),
            pack: None,
            delta_pack: None,
            unlisted: Vec::new(),
            ended: Vec::new(),
            put: Put::default(),
            log: repo.put_log(),
            left: Vec::new(),
            index_jobs: IndexJobs {
                results: mpsc::channel(),
                running: 0,
            },
        }
    }

    /// What is put is of no use to another import.
    pub(super) fn write_nothing_down(&mut self) {
        self.log = PutLog::default();
    }

    /// What a failed import had put is in the index, and forgotten when this one has committed.
    pub(super) fn took_in(&mut self, left: LeftPacks) {
        self.left.push(left);
    }

    /// Takes in a chunk: number of its frame, and its number within.
    pub(super) fn push(&mut self, hash: ChunkHash, chunk: &[u8]) -> Result<(FrameNumber, u16)> {
        if !self.open.1.has_room(chunk.len()) {
            self.close_open();
        }
        if self.open.1.is_empty() {
            self.open.0 = self.number()?;
        }
        let number = self.open.1.push(hash, chunk)?;
        Ok((self.open.0, number))
    }

    /// Takes in a page that may be stored as what differs from its base.
    pub(super) fn push_changed(
        &mut self,
        hash: ChunkHash,
        page: &[u8],
        base: PageBase,
    ) -> Result<(FrameNumber, u16)> {
        if !self.batch.1.has_room(page.len()) {
            self.close_batch();
        }
        if self.batch.1.is_empty() {
            self.batch.0 = self.number()?;
        }
        let number = self.batch.1.push(hash, page, base)?;
        Ok((self.batch.0, number))
    }

    fn number(&mut self) -> Result<FrameNumber> {
        let number = self.next_number;
        self.next_number = number.checked_add(1).ok_or_else(|| {
            Error::new(Kind::Unsupported, "more than 2^32 frames in one checkpoint")
        })?;
        self.lies.push_back(None);
        Ok(number)
    }

    /// Closes what is open; it is sealed beside the work.
    pub(super) fn close(&mut self) {
        self.close_open();
        self.close_batch();
    }

    fn close_open(&mut self) {
        if !self.open.1.is_empty() {
            let (number, frame) = std::mem::take(&mut self.open);
            let seals = self.vault.seals().cloned();
            self.start(number, frame.len(), move || {
                frame.seal(seals.as_deref()).map(Sealed::Plain)
            });
        }
    }

    fn close_batch(&mut self) {
        if self.batch.1.is_empty() {
            return;
        }
        let (number, batch) = std::mem::take(&mut self.batch);
        let Some(base) = self.base.clone() else {
            return;
        };
        let (vault, kept) = (self.vault.clone(), Arc::clone(&self.kept));
        self.start(number, batch.len(), move || {
            batch.seal(&vault, &base, &kept).map(Sealed::Batch)
        });
    }

    fn start(
        &mut self,
        number: FrameNumber,
        bytes: usize,
        seal: impl FnOnce() -> Result<Sealed> + Send + 'static,
    ) {
        self.sealing.push_back(Sealing {
            number,
            bytes,
            sealed: None,
        });
        let done = self.sealed.0.clone();
        rayon::spawn(move || {
            let _ = done.send((number, seal()));
        });
    }

    /// Where the chunks of a frame lie, once it was sealed.
    pub(super) fn place(&self, frame: FrameNumber) -> Option<&Lies> {
        let at = frame.checked_sub(self.first_lies)?;
        self.lies.get(at as usize)?.as_ref()
    }

    /// Forgets where frames before this one lie.
    pub(super) fn forget_before(&mut self, frame: FrameNumber) {
        while self.first_lies < frame && self.lies.front().is_some_and(Option::is_some) {
            self.lies.pop_front();
            self.first_lies += 1;
        }
    }

    /// True if no frame waits to be put into a pack.
    pub(super) fn is_idle(&self) -> bool {
        self.sealing.is_empty()
    }

    /// Adds to packs what has been sealed by now. Waits only when more than [`limits::SEALING`] bytes are at work.
    pub(super) fn advance(&mut self, directories: &Directories) -> Result<()> {
        self.add_sealed(limits::SEALING, directories)
    }

    /// Adds all closed frames to packs.
    pub(super) fn settle(&mut self, directories: &Directories) -> Result<()> {
        self.add_sealed(0, directories)
    }

    /// Adds sealed frames to packs, in order, until no more than `left` bytes are still at work.
    fn add_sealed(&mut self, left: usize, directories: &Directories) -> Result<()> {
        loop {
            while let Some(sealed) = self.sealing.front_mut().and_then(|s| s.sealed.take()) {
                let number = self.sealing.pop_front().ok_or_else(lost)?.number;
                let lies = match sealed? {
                    Sealed::Plain(frame) => Lies::Together(self.add(&frame, directories)?),
                    Sealed::Batch(batch) => self.add_batch(batch, directories)?,
                };
                let at = number.checked_sub(self.first_lies).ok_or_else(lost)?;
                *self.lies.get_mut(at as usize).ok_or_else(lost)? = Some(lies);
            }
            let at_work: usize = self.sealing.iter().map(|s| s.bytes).sum();
            let (number, sealed) = if at_work > left {
                self.sealed.1.recv().map_err(|_| lost())?
            } else if let Ok(sealed) = self.sealed.1.try_recv() {
                sealed
            } else {
                return Ok(());
            };
            let place = self.sealing.iter_mut().find(|s| s.number == number);
            place.ok_or_else(lost)?.sealed = Some(sealed);
        }
    }

    fn add_batch(&mut self, batch: SealedBatch, directories: &Directories) -> Result<Lies> {
        self.warnings.extend(batch.warning);
        let mut frames = Vec::with_capacity(batch.frames.len());
        for (frame, bases) in batch.frames {
            let placed = self.add(&frame, directories)?;
            if frame.header.kind.is_delta() {
                self.deltas.push(PlacedDelta {
                    placed,
                    page_size: frame.header.uniform_len,
                    bases,
                });
            }
            frames.push(placed);
        }
        Ok(Lies::Apart(frames, batch.places))
    }

    /// Adds a frame to the pack of its kind.
    pub(super) fn add(&mut self, frame: &SealedFrame, directories: &Directories) -> Result<Placed> {
        let env = self.env;
        let delta = frame.header.kind != FrameKind::Plain;
        let pack = if delta {
            &mut self.delta_pack
        } else {
            &mut self.pack
        };
        let pack = match pack {
            Some(pack) => pack,
            None => {
                let id = PackId::from_bytes(self.terms.new_id(env));
                pack.insert(PackWriter::new(id, &self.buffers, self.vault.seals())?)
            }
        };
        let placed = Placed {
            entry: pack.push(frame)?,
            pack: pack.id(),
        };
        if pack.is_full() {
            self.end_pack(delta, directories)?;
        }
        Ok(placed)
    }

    /// The delta frames that were placed since the last call.
    pub(super) fn placed_deltas(&mut self) -> Vec<PlacedDelta> {
        std::mem::take(&mut self.deltas)
    }

    /// What was to be told since the last call.
    pub(super) fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// The packs that were put since the last call.
    pub(super) fn ended_packs(&mut self) -> impl Iterator<Item = PackId> {
        std::mem::take(&mut self.ended).into_iter()
    }

    fn end_pack(&mut self, delta: bool, directories: &Directories) -> Result<()> {
        let pack = if delta {
            &mut self.delta_pack
        } else {
            &mut self.pack
        };
        let Some(pack) = pack.take() else {
            return Ok(());
        };
        let sealed = pack.finish()?;
        let pack_len = sealed.bytes.len() as u64;
        directories.keep(sealed.id, pack_len, &sealed.tail);
        if delta {
            directories.keep_ids(sealed.id, &sealed.ids);
        }
        self.put.packs += 1;
        if !delta {
            self.log.add(sealed.id, pack_len);
        }
        let bytes = sealed.bytes.clone();
        self.put_object(object_name(sealed.id), sealed.bytes)?;
        if let Some(copies) = self.vault.copies() {
            // While it is on its way.
            copies.put(sealed.id, &bytes);
        }
        self.ended.push(sealed.id);
        if delta {
            return Ok(());
        }
        self.unlisted.push(PackIds {
            pack: sealed.id,
            pack_len,
            ids: sealed.ids,
        });
        Ok(())
    }

    /// One more pack that is to be in a segment.
    pub(super) fn list(&mut self, pack: PackIds) {
        self.unlisted.push(pack);
    }

    /// Ids of packs that are in no segment yet.
    pub(super) fn unlisted_ids(&self) -> usize {
        self.unlisted.iter().map(|pack| pack.ids.len()).sum()
    }

    /// Puts the ids of the packs that are in no segment yet, and has the local index take them in, beside the work.
    pub(super) fn put_segment(&mut self, index: &Index) -> Result<()> {
        if self.unlisted.is_empty() {
            return Ok(());
        }
        let id = SegmentId::from_bytes(self.terms.new_id(self.env));
        let packs = std::mem::take(&mut self.unlisted);
        let segment = Segment { packs };
        let name = segments::object_name(id);
        let sealed = self.vault.seal(&name, segment.encode())?;
        self.put_object(name, sealed.into())?;
        self.index_jobs.start(index, segment, id);
        Ok(())
    }

    /// Waits until the local index has the ids of all packs that are full.
    pub(super) fn list_packs(&mut self, index: &Index) -> Result<()> {
        self.put_segment(index)?;
        self.index_jobs.settle();
        Ok(())
    }

    /// Puts an object of this session, beside the work. It is durable when [`Self::finish`] is back.
    pub(super) fn put_object(&mut self, name: String, bytes: bytes::Bytes) -> Result<()> {
        self.put.bytes += bytes.len() as u64;
        self.uploads.put(name, bytes)
    }

    /// Ends frames and packs; they may still be on their way.
    pub(super) fn end_frames(&mut self, directories: &Directories) -> Result<()> {
        self.close();
        self.settle(directories)?;
        self.end_pack(false, directories)?;
        self.end_pack(true, directories)
    }

    /// What earlier imports left is remembered still where these packs are of it.
    pub(super) fn leave(&mut self, packs: &BTreeSet<PackId>) {
        let unused = |left: &LeftPacks| left.packs().iter().any(|(pack, _)| packs.contains(pack));
        self.left.retain(|left| !unused(left));
    }

    /// Waits until all that was put is durable.
    pub(super) fn finish(self) -> Result<Finished> {
        self.uploads.finish()?;
        Ok(Finished {
            put: self.put,
            log: self.log,
            left: self.left,
            index_jobs: self.index_jobs,
        })
    }
}

/// A sink that has put everything.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) put: Put,
    log: PutLog,
    left: Vec<LeftPacks>,
    index_jobs: IndexJobs,
}

impl Finished {
    /// Called after the commit: waits until the local index has the ids of this session, whose packs need not be remembered any more.
    pub(super) fn settle_index(mut self) {
        self.index_jobs.settle();
        self.log.forget();
        self.left.into_iter().for_each(LeftPacks::forget);
    }
}
