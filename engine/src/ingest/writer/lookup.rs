//! Owns the search for chunks that do not stand where they stood before: this session's own, the base's deltas, the entry after the last hit, the index.
//!
//! Always: what the index says is checked against the pack's own directory, and the pack against the store. Never: fails because an index does.

use std::sync::Arc;

use cryostore_format::recipe::FrameRef;
use cryostore_format::{ChunkHash, ChunkId, PackId};

use super::{Found, Writer};
use crate::error::Result;
use crate::index::{Index, Location, Opening};
use crate::ingest::base::Base;
use crate::limits;
use crate::pack::directories::PackDirectory;
use crate::pack::object_name;

impl<'r> Writer<'r> {
    /// Looks for chunks that the base does not have at their place. What is not found stays open.
    pub(super) fn look_for(
        &mut self,
        wanted: &[usize],
        found: &mut [Found],
        hash: impl Fn(usize) -> ChunkHash,
    ) -> Result<()> {
        let mut open = Vec::new();
        let has_deltas = self
            .base
            .is_some_and(|base| !base.manifest.deltas.frames().is_empty());
        if has_deltas {
            for n in wanted {
                match self.base_delta(hash(*n).id()) {
                    Some(chunk) if !self.is_left(chunk) => found[*n] = Found::Base(chunk),
                    _ => open.push(*n),
                }
            }
        }
        let mut rest = if has_deltas { &open[..] } else { wanted };
        while let Some((&first, after)) = rest.split_first() {
            if let Some(hit) = self.find_nearby(hash(first).id()) {
                found[first] = hit;
                rest = after;
                continue;
            }
            if self.index_is_of_no_use() {
                rest = after;
                continue;
            }
            let (batch, after) = rest.split_at(rest.len().min(limits::LOOKUP_BATCH));
            self.find_in_index(batch, found, &hash)?;
            rest = after;
        }
        Ok(())
    }

    /// True while the index has only chunks of this session, all of which are known here: the first import into a repository.
    pub(super) fn index_is_of_no_use(&mut self) -> bool {
        let was_empty = match self.index_was_empty {
            Some(was_empty) => was_empty,
            None => {
                let nothing_left = !self.repo.has_left_packs();
                let has_nothing = self.opening.as_ref().is_some_and(Opening::has_nothing);
                (nothing_left && has_nothing) || self.index().is_empty()
            }
        };
        self.index_was_empty = Some(was_empty);
        was_empty
    }

    /// Without the index: this session's own chunks, and the entry after the last hit.
    pub(super) fn find_nearby(&mut self, id: ChunkId) -> Option<Found> {
        if let Some((frame, number)) = self.known.get(&id) {
            return Some(Found::Session(*frame, *number));
        }
        let (pack, directory, next) = self.guess.clone()?;
        if directory.id(next) != Some(id) {
            return None;
        }
        self.guess = Some((pack, Arc::clone(&directory), next + 1));
        self.frame_in(pack, &directory, next)
    }

    pub(super) fn find_in_index(
        &mut self,
        batch: &[usize],
        found: &mut [Found],
        hash: impl Fn(usize) -> ChunkHash,
    ) -> Result<()> {
        let mut sorted: Vec<(ChunkId, usize)> = batch.iter().map(|n| (hash(*n).id(), *n)).collect();
        sorted.sort_unstable();
        let ids: Vec<_> = sorted.iter().map(|(id, _)| *id).collect();
        let mut hits: Vec<(usize, Location)> = self
            .index()
            .look_up(&ids)
            .into_iter()
            .zip(&sorted)
            .filter_map(|(location, (_, n))| Some((*n, location?)))
            .collect();
        hits.sort_unstable_by_key(|(n, _)| *n);
        for (n, Location { pack, chunk }) in hits {
            // One that stores anew has packs of its own only.
            if self.left.contains(&pack) || (self.anew && !self.packs.numbers.contains_key(&pack)) {
                continue;
            }
            let directory = self
                .pack_is_whole(pack)
                .then(|| self.directory(pack))
                .flatten();
            let Some(directory) = directory else {
                // A store that does not answer right now is no reason to forget; an index that fails is no reason to stop.
                if self.gone.contains(&pack)
                    && let Err(e) = self.index().forget(pack, &[])
                {
                    tracing::debug!("{e}");
                }
                continue;
            };
            // The index may be wrong about a pack; the pack's own directory is not.
            if directory.id(chunk) != Some(hash(n).id()) {
                continue;
            }
            if let Some(hit) = self.frame_in(pack, &directory, chunk) {
                found[n] = hit;
                self.guess = Some((pack, directory, chunk + 1));
            }
        }
        Ok(())
    }

    pub(super) fn frame_in(
        &mut self,
        pack: PackId,
        directory: &PackDirectory,
        chunk: u32,
    ) -> Option<Found> {
        let entry = *directory.frame_of(chunk)?;
        let frame = FrameRef::of(self.packs.number(pack, || {}), &entry);
        Some(Found::Elsewhere(
            frame,
            u16::try_from(chunk - entry.first_chunk).ok()?,
        ))
    }

    pub(super) fn index(&mut self) -> &Index {
        if self.index.is_none() {
            let repo = self.repo;
            let opening = self.opening.take().unwrap_or_else(|| {
                Index::start_opening(repo.index_dir(), repo.vault().clone(), repo.memory())
            });
            let index = opening.wait(self.monitor);
            self.take_in_left_packs(&index);
            self.index = Some(index);
        }
        self.index.get_or_insert_default()
    }

    pub(super) fn directory(&mut self, pack: PackId) -> Option<Arc<PackDirectory>> {
        if self.exists.get(&pack) == Some(&false) {
            return None;
        }
        match self.directories.get(pack) {
            Ok(directory) => Some(directory),
            Err(e) => {
                self.exists.insert(pack, false);
                self.monitor
                    .warning(&format!("a pack is not compared with: {e}"));
                None
            }
        }
    }

    /// True if the store has the pack, with the length that its directory says, no collection condemns it and no damage was found in it: what is not so is not referred to again. Of a base in a bucket the snapshot is enough.
    pub(super) fn pack_is_whole(&mut self, pack: PackId) -> bool {
        if let Some(exists) = self.exists.get(&pack) {
            return *exists;
        }
        if self.terms.avoids(pack) {
            self.exists.insert(pack, false);
            return false;
        }
        // The base was seen after the session had begun: W4 of the protocol.
        let in_base = |base: &&Base| base.is_whole && base.manifest.packs.contains(&pack);
        if self.base.filter(in_base).is_some() {
            self.exists.insert(pack, true);
            return true;
        }
        let Some(directory) = self.directory(pack) else {
            return false;
        };
        let found = self.repo.store().len(&object_name(pack));
        let whole = matches!(found, Ok(Some(len)) if len == directory.pack_len());
        if !whole {
            if found.is_ok() {
                self.gone.insert(pack);
            }
            let found = match found {
                Ok(Some(len)) => format!("has {len} bytes, not {}", directory.pack_len()),
                Ok(None) => "is missing".to_owned(),
                Err(e) => e.to_string(),
            };
            let name = object_name(pack);
            self.monitor.warning(&format!(
                "{name} {found}; its chunks are stored again where they come again"
            ));
        }
        self.exists.insert(pack, whole);
        whole
    }
}
