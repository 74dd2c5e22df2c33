//! Owns the search for whole copies of chunks whose frames are damaged.
//!
//! Always: a copy is read, and has the id that is wanted, before it is referred to. Never: takes one from a pack that is damaged or condemned, or from a frame of deltas.

use std::collections::{BTreeMap, HashMap};

use cryostore_format::manifest::Manifest;
use cryostore_format::pack::FrameKind;
use cryostore_format::recipe::{FrameRef, FrameSlice};
use cryostore_format::{ChunkId, PackId};

use super::super::Seen;
use super::super::packs::problem_of;
use super::listing::Ids;
use crate::codec::frame::{unpack_frame, verify};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, keep_going};
use crate::pack::directories::Directories;
use crate::pack::reading::{Fetched, fetch_one};
use crate::repo::{Repository, Terms};

/// Where a chunk is whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    pub(super) pack: PackId,
    /// Its pack has number 0.
    pub(super) frame: FrameRef,
    pub(super) number: u16,
    pub(super) len: u64,
}

/// Chunks that are wanted, and where they are whole.
pub(super) struct Copies<'r> {
    repo: &'r Repository,
    directories: Directories,
    ids: &'r Ids,
    found: HashMap<ChunkId, Option<Copy>>,
}

impl<'r> Copies<'r> {
    pub(super) fn new(repo: &'r Repository, ids: &'r Ids) -> Self {
        Self {
            repo,
            directories: Directories::new(repo.vault().clone(), repo.cache()),
            ids,
            found: HashMap::new(),
        }
    }

    /// The ids of a slice's chunks, from the pack's directory or an index segment; none if neither can be read.
    pub(super) fn ids_of(&mut self, pack: PackId, slice: &FrameSlice) -> Option<Vec<ChunkId>> {
        let first = slice.frame.first_chunk + u32::from(slice.skip);
        let numbers = first..first + u32::from(slice.take);
        if let Some(ids) = self.ids.get(&pack) {
            return ids
                .get(numbers.start as usize..numbers.end as usize)
                .map(<[_]>::to_vec);
        }
        let directory = self.directories.get(pack).ok()?;
        numbers.map(|number| directory.id(number)).collect()
    }

    pub(super) fn want(&mut self, ids: &[ChunkId]) {
        for id in ids {
            self.found.entry(*id).or_default();
        }
    }

    pub(super) fn get(&self, id: ChunkId) -> Option<Copy> {
        self.found.get(&id).copied().flatten()
    }

    /// Looks through the directories of all whole packs.
    pub(super) fn look(&mut self, seen: &Seen, terms: &Terms, monitor: &dyn Monitor) -> Result<()> {
        if self.found.is_empty() {
            return Ok(());
        }
        for (pack, len) in &seen.packs {
            if seen.damage.of(*pack).is_some()
                || seen.recorded.contains(pack)
                || terms.condemns(*pack)
            {
                continue;
            }
            keep_going(monitor)?;
            let Ok(directory) = problem_of(self.directories.get(*pack))? else {
                continue;
            };
            if directory.pack_len() != *len {
                continue;
            }
            let mut frames: BTreeMap<u32, (FrameRef, Vec<(ChunkId, u16)>)> = BTreeMap::new();
            for (number, id) in (0..).zip(directory.ids()) {
                if !matches!(self.found.get(&id), Some(None)) {
                    continue;
                }
                let entry = directory
                    .frame_of(number)
                    .filter(|entry| entry.kind == FrameKind::Plain);
                let Some(entry) = entry else { continue };
                if let Ok(within) = u16::try_from(number - entry.first_chunk) {
                    let frame = frames.entry(entry.offset);
                    let frame = frame.or_insert_with(|| (FrameRef::of(0, entry), Vec::new()));
                    frame.1.push((id, within));
                }
            }
            for (frame, wanted) in frames.into_values() {
                let read = self.read(*pack, frame, &wanted);
                if let Ok(copies) = problem_of(read)? {
                    self.found
                        .extend(copies.into_iter().map(|(id, copy)| (id, Some(copy))));
                }
            }
        }
        Ok(())
    }

    /// Reads a frame; those of its chunks that are what they should be come back.
    fn read(
        &self,
        pack: PackId,
        frame: FrameRef,
        wanted: &[(ChunkId, u16)],
    ) -> Result<Vec<(ChunkId, Copy)>> {
        let manifest = Manifest {
            packs: vec![pack],
            ..Manifest::default()
        };
        let stored = fetch_one(
            self.repo.vault(),
            &manifest,
            &frame,
            &mut Fetched::default(),
        )?;
        let damaged = |e| Error::stored(crate::pack::object_name(pack), e);
        let hashes = verify(&stored, self.repo.key()).map_err(damaged)?;
        let (header, plain) = unpack_frame(&stored).map_err(damaged)?;
        let ranges = header.chunk_ranges(&plain).map_err(damaged)?;
        let copy = |(id, number): &(ChunkId, u16)| {
            let hash = hashes.get(usize::from(*number))?;
            let range = ranges.range((*number).into(), 1)?;
            let copy = Copy {
                pack,
                frame,
                number: *number,
                len: range.len() as u64,
            };
            (hash.id() == *id).then_some((*id, copy))
        };
        Ok(wanted.iter().filter_map(copy).collect())
    }
}
