//! Owns the rewriting of a snapshot: its chunks are read and handed to a writer once more, and the manifest that comes of it takes the old one's place.
//!
//! The archive, its streams and its chunks stay what they are, so that later imports find the same; only where the chunks lie changes, and with it the manifest
//! (`repo/manifests.rs` argues the crash points). What is stored again, and what is referred to, is the writer's: `optimize` and `repack` make it.
//!
//! Always: each stream has the digest that it had. Never: changes the snapshot's record, nor removes what others need.

use std::sync::Arc;

use cryostore_format::manifest::{Body, Manifest, RunPlace, Stream, StreamIndex};
use cryostore_format::recipe::{FrameSlice, Slice};
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

/// A manifest that was written once more.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) manifest: Manifest,
    /// Bytes that were written.
    pub(super) bytes_added: u64,
    /// True if it takes effect with the next collection: one is at work.
    pub(super) later: bool,
}

/// Hands all that a snapshot's manifest (`old`, called `name`) has to the writer, and puts what comes of it in its place.
pub(super) fn rewrite<'r>(
    repo: &'r Repository,
    session: Session<'_>,
    snapshot: &SnapshotRecord,
    (name, old): (ManifestName, &'r Manifest),
    writer: Writer<'r>,
    monitor: &'r dyn Monitor,
) -> Result<Rewritten> {
    check_pages(old)?;
    let mut copy = Copy {
        repo,
        old,
        writer,
        kept: KeptFrames::at_most(repo.memory().kept_frames()),
        monitor,
        done: 0,
        total: old.streams.iter().map(read_len).sum(),
    };
    for (number, stream) in (0..).zip(&old.streams) {
        copy.stream(number, stream)?;
    }
    let (written, uploading) = copy.writer.finish()?;
    let manifest = Manifest {
        packs: written.packs,
        streams: written.streams,
        tables: written.tables,
        layout: old.layout.clone(),
        maps: old.maps.clone(),
        ..Manifest::default()
    };
    let bytes = manifest.encode();
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
        .hint("nothing is lost; do it again"));
    }
    Ok(Rewritten {
        manifest,
        bytes_added,
        later: settled.is_none(),
    })
}

/// Who may not remove anything leaves that to a collection.
pub(super) fn settle(repo: &Repository, snapshot: &SnapshotRecord) -> Result<Option<ManifestName>> {
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
    fn stream(&mut self, number: StreamIndex, stream: &Stream) -> Result<()> {
        let recipe = match &stream.body {
            // Its parts keep their numbers.
            Body::Derived { .. } => return self.writer.add(stream.clone()).map(drop),
            Body::Recipe(recipe) => recipe.slices(self.old.packs.len()),
        };
        let pages = (stream.page_size != 0).then(|| self.pages_of(number, stream));
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

    /// What stood at each address is what stands there: with it a writer that has a base finds most of it.
    fn pages_of(&self, number: StreamIndex, stream: &Stream) -> PageSpec {
        let mut maps = self.old.maps.iter();
        let map = maps.find(|map| map.stream == Some(number) && !map.stale);
        let runs = map.into_iter().flat_map(|map| &map.runs);
        PageSpec {
            page_size: stream.page_size,
            phase: stream.phase,
            of: map.map(|map| map.of),
            runs: runs
                .filter(|run| run.place == RunPlace::Image)
                .map(|run| (run.page_number, run.pages))
                .collect(),
        }
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
