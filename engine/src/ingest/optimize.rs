//! Owns the rewriting of a snapshot: all of its chunks once more, in the order in which they are read, without deltas.
//!
//! What a checkpoint needs lies in the packs of all the imports that first saw its chunks; one that is restored often, or over a slow store, is worth a copy of its own. The
//! archive, its streams and its chunks stay what they are, so that later imports find the same; only where the chunks lie changes, and with it the manifest
//! (`repo/manifests.rs` argues the crash points).
//!
//! Always: each stream has the digest that it had. Never: changes the snapshot's record, nor removes what others need.

use std::collections::HashSet;
use std::sync::Arc;

use cryostore_format::manifest::{Body, Manifest, Stream};
use cryostore_format::recipe::{FrameSlice, Slice};
use cryostore_format::repository::Role;
use cryostore_format::session::Work;
use cryostore_format::snapshot::SnapshotRecord;
use rayon::prelude::*;

use super::stream::{OpenStream, PageSpec, StreamSpec};
use super::writer::Writer;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::monitor::{Monitor, Phase, keep_going};
use crate::pack::KeptFrames;
use crate::pack::reading::{Reading, for_each_chunk};
use crate::repo::{ManifestName, Repository, Session};

/// What a snapshot needs to be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Order {
    /// Packs.
    pub packs: u64,
    /// Delta frames.
    pub deltas: u64,
    /// Stored bytes of its frames, without what deltas are made of.
    pub bytes: u64,
}

/// What an optimization has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Optimized {
    /// What the snapshot needed before.
    pub before: Order,
    /// What it needs now; none if it was in order already, and nothing was written.
    pub after: Option<Order>,
    /// Bytes that were written.
    pub bytes_added: u64,
    /// True if it takes effect with the next collection: one is at work.
    pub later: bool,
}

impl Order {
    fn of(manifest: &Manifest) -> Self {
        let mut frames = HashSet::new();
        let mut out = Self::default();
        for FrameSlice { frame, .. } in manifest.frame_slices() {
            if frames.insert((frame.pack, frame.offset)) {
                out.bytes += u64::from(frame.stored_len);
                out.deltas += u64::from(manifest.deltas.rank(&frame).is_some());
            }
        }
        out.packs = manifest.packs.len() as u64;
        out
    }

    /// True if it cannot be much better: no deltas, and as many packs as its bytes fill, one not full.
    fn is_good(&self) -> bool {
        self.deltas == 0 && self.packs <= self.bytes.div_ceil(limits::PACK_LEN as u64) + 1
    }
}

/// Rewrites a snapshot in the order in which it is read, as large as its first import would be. After `Ok` it is read from there; what only it needed before is garbage.
pub fn optimize(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    monitor: &dyn Monitor,
) -> Result<Optimized> {
    repo.require(Role::Write)?;
    let session = Session::start(repo, Work::Optimize, None)?;
    // One that was stopped before its last step is brought to its end.
    settle(repo, snapshot)?;
    let (name, old) = repo.named_manifest(snapshot)?;
    let before = Order::of(&old);
    if before.is_good() {
        return Ok(Optimized {
            before,
            after: None,
            bytes_added: 0,
            later: false,
        });
    }
    check_pages(&old)?;
    let mut copy = Copy {
        repo,
        old: &old,
        writer: Writer::anew(repo, session.terms(), monitor),
        kept: KeptFrames::at_most(repo.memory().kept_frames()),
        monitor,
        done: 0,
        total: old.streams.iter().map(read_len).sum(),
    };
    for stream in &old.streams {
        copy.stream(stream)?;
    }
    let (written, uploading) = copy.writer.finish()?;
    let new = Manifest {
        packs: written.packs,
        streams: written.streams,
        tables: written.tables,
        layout: old.layout.clone(),
        maps: old.maps.clone(),
        ..Manifest::default()
    };
    let after = Order::of(&new);
    let bytes = new.encode();
    Manifest::prove(&bytes)
        .map_err(|e| Error::new(Kind::Internal, "a manifest that cannot be read").because(e))?;
    let manifest_len = bytes.len() as u64;
    let (finished, _) = uploading.finish()?;
    keep_going(monitor)?;
    repo.put_rewritten(&session.terms(), name, bytes)?;
    let bytes_added = finished.put.bytes + manifest_len;
    finished.settle_index();
    drop(session);
    let settled = settle(repo, snapshot)?;
    if settled == Some(name) {
        return Err(Error::new(
            Kind::Conflict,
            "the session was ended by somebody else, and what it had written was collected",
        )
        .hint("nothing is lost; optimize the snapshot again"));
    }
    Ok(Optimized {
        before,
        after: Some(after),
        bytes_added,
        later: settled.is_none(),
    })
}

/// Who may not remove anything leaves that to a collection.
fn settle(repo: &Repository, snapshot: &SnapshotRecord) -> Result<Option<ManifestName>> {
    match repo.settle_manifest(snapshot) {
        Err(e) if e.kind() == Kind::Denied => Ok(None),
        settled => settled,
    }
}

/// Bytes of a stream that are read: none of one that is made of others.
fn read_len(stream: &Stream) -> u64 {
    match stream.body {
        Body::Recipe(_) => stream.len,
        Body::Derived { .. } => 0,
    }
}

/// A page that is waited for takes memory: those of a hostile manifest could be any size.
fn check_pages(manifest: &Manifest) -> Result<()> {
    let fits = |stream: &Stream| {
        stream.page_size as usize <= limits::FRAME_PLAIN && stream.phase <= stream.page_size
    };
    if manifest.streams.iter().all(fits) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Corrupt,
        "the manifest: pages of a size that no machine has",
    ))
}

/// A copy that is being made.
struct Copy<'r> {
    repo: &'r Repository,
    old: &'r Manifest,
    writer: Writer<'r>,
    kept: Arc<KeptFrames>,
    monitor: &'r dyn Monitor,
    done: u64,
    total: u64,
}

impl<'r> Copy<'r> {
    fn stream(&mut self, stream: &Stream) -> Result<()> {
        let recipe = match &stream.body {
            // Its parts keep their numbers.
            Body::Derived { .. } => return self.writer.add(stream.clone()).map(drop),
            Body::Recipe(recipe) => recipe.slices(self.old.packs.len()),
        };
        let pages = (stream.page_size != 0).then_some(PageSpec {
            page_size: stream.page_size,
            phase: stream.phase,
            of: None,
            runs: Vec::new(),
        });
        let mut open = self.writer.open(StreamSpec {
            name: stream.name.clone(),
            role: stream.role,
            pages,
        })?;
        let mut waiting = Vec::new();
        let mut len = 0;
        for slice in recipe {
            let slice = slice.map_err(|e| Error::stored("the manifest", e))?;
            // Zeros take no memory.
            if let Slice::Frame(slice) = slice {
                len += slice.len;
            }
            waiting.push(slice);
            if len >= limits::OPTIMIZE_LEN || waiting.len() >= limits::WAITING_SLICES {
                self.slices(&mut open, stream.page_size, &waiting)?;
                waiting.clear();
                len = 0;
            }
        }
        self.slices(&mut open, stream.page_size, &waiting)?;
        let number = self.writer.close(open)?;
        if self.writer.digest_of(number) == Some((stream.len, stream.digest)) {
            return Ok(());
        }
        let name = String::from_utf8_lossy(&stream.name);
        Err(Error::new(
            Kind::Corrupt,
            format!("stream {number} (`{name}`) does not match its digest"),
        )
        .hint("nothing was changed; `cryostore check --read-data` says what is damaged"))
    }

    /// Stretches between zeros: pages, with what stands before the first, are cut as they were; what was cut by content stays cut as it is.
    fn slices(
        &mut self,
        open: &mut OpenStream<'r>,
        page_size: u32,
        slices: &[Slice],
    ) -> Result<()> {
        let is_zero = |slice: &Slice| matches!(slice, Slice::Zero { .. });
        for stretch in slices.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
            let frames: Vec<FrameSlice> = stretch
                .iter()
                .filter_map(|slice| match slice {
                    Slice::Frame(slice) => Some(*slice),
                    Slice::Zero { .. } => None,
                })
                .collect();
            if frames.is_empty() {
                let zeros = stretch.iter().map(Slice::len).sum();
                self.writer.zeros(open, zeros)?;
                self.went_on(zeros)?;
            } else if page_size == 0 {
                for part in frames.chunks(limits::OPTIMIZE_SLICES) {
                    let (vault, writer) = (self.repo.vault(), &mut self.writer);
                    for_each_chunk(vault, self.old, part, |piece| writer.piece(open, piece))?;
                    self.went_on(part.iter().map(|slice| slice.len).sum())?;
                }
            } else {
                self.pages(open, &frames)?;
            }
        }
        Ok(())
    }

    fn pages(&mut self, open: &mut OpenStream<'r>, slices: &[FrameSlice]) -> Result<()> {
        let mut windows: Vec<(Vec<FrameSlice>, u64)> = Vec::new();
        for slice in slices {
            match windows
                .last_mut()
                .filter(|window| window.1 < limits::WINDOW_LEN)
            {
                Some((window, len)) => {
                    window.push(*slice);
                    *len += slice.len;
                }
                None => windows.push((vec![*slice], slice.len)),
            }
        }
        let (repo, old, kept) = (self.repo, self.old, &self.kept);
        let decoded: Result<Vec<_>> = windows
            .par_iter()
            .map(|(window, _)| decoded(repo, old, kept, window))
            .collect();
        for bytes in decoded? {
            self.writer.write(open, &bytes)?;
            self.went_on(bytes.len() as u64)?;
        }
        Ok(())
    }

    fn went_on(&mut self, len: u64) -> Result<()> {
        keep_going(self.monitor)?;
        self.done += len;
        self.monitor
            .progress(Phase::Optimize, self.done, Some(self.total));
        Ok(())
    }
}

/// The bytes of some slices.
fn decoded(
    repo: &Repository,
    old: &Manifest,
    kept: &Arc<KeptFrames>,
    slices: &[FrameSlice],
) -> Result<Vec<u8>> {
    let mut at = 0;
    let mut reading = Reading::sharing(kept);
    for slice in slices {
        let len = usize::try_from(slice.len)
            .map_err(|_| Error::new(Kind::Internal, "a slice of more than the memory"))?;
        reading.add(old, *slice, 0, at, len);
        at += len;
    }
    let mut bytes = vec![0; at];
    reading.decode(repo.vault(), old, &mut bytes)?;
    Ok(bytes)
}
