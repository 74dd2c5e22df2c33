//! Owns the taking in of packs that earlier imports of this node have put, and that are in no snapshot since these failed or were killed.
//!
//! They are found by the index like any other pack. `format-spec/spec/protocol.md` argues why they may be referred to (24).
//!
//! Always: a pack is taken in only if the store lists it with its length after the session has begun, no collection that the session knows condemns it, and no damage was found in it (W4);
//! its ids are its own directory's. Those that are referred to are listed in a segment of this session, so that other nodes find them, too. Never: takes in pages that are stored as what
//! differs from others: what they are made of is told by manifests alone. Fails, when this does.

use std::collections::{BTreeSet, HashMap};

use cryostore_format::PackId;
use cryostore_format::segment::PackIds;

use super::Writer;
use crate::error::{Kind, Result};
use crate::index::Index;
use crate::limits;
use crate::pack::{id_of, object_name};
use crate::repo::LeftPacks;

impl Writer<'_> {
    /// Takes in what was left, if this process can add to the index.
    pub(super) fn take_in_left_packs(&mut self, index: &Index) {
        if self.anew || self.terms.is_alone() || !index.can_grow() {
            return;
        }
        for left in self.repo.left_packs() {
            match self.take_in(&left, index) {
                Ok(()) => self.sink.took_in(left),
                // It is there for the next import.
                Err(e) => tracing::debug!("packs of an earlier import are not taken in: {e}"),
            }
        }
    }

    fn take_in(&mut self, left: &LeftPacks, index: &Index) -> Result<()> {
        let there = self.listed(left)?;
        let mut taken = Vec::new();
        let mut ids = 0;
        for (pack, len) in left.packs() {
            if self.terms.avoids(*pack) || there.get(pack) != Some(len) {
                continue;
            }
            let directory = match self.directories.get(*pack) {
                Ok(directory) if directory.pack_len() == *len => directory,
                Ok(_) => continue,
                Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound) => {
                    tracing::debug!("pack {pack} of an earlier import is not taken in: {e}");
                    continue;
                }
                Err(e) => return Err(e),
            };
            let found = PackIds {
                pack: *pack,
                pack_len: *len,
                ids: directory.ids().collect(),
            };
            ids += found.ids.len();
            taken.push(found);
            self.exists.insert(*pack, true);
            self.taken_in.insert(*pack);
            if ids >= limits::SEGMENT_IDS {
                index.insert(&std::mem::take(&mut taken), None)?;
                ids = 0;
            }
        }
        index.insert(&taken, None)
    }

    /// Which of these the store has. All packs of one import are in one directory: one list tells of all, whatever their number.
    fn listed(&self, left: &LeftPacks) -> Result<HashMap<PackId, u64>> {
        let names = left.packs().iter().map(|(pack, _)| object_name(*pack));
        let dirs: BTreeSet<String> = names
            .filter_map(|name| name.rsplit_once('/').map(|(dir, _)| dir.to_owned()))
            .collect();
        let mut there = HashMap::new();
        for dir in dirs {
            let objects = self.repo.store().list(&dir)?;
            there.extend(
                objects
                    .iter()
                    .filter_map(|o| Some((id_of(&o.name)?, o.len))),
            );
        }
        Ok(there)
    }

    /// Lists those that are referred to in this session's segments.
    pub(super) fn list_taken_in(&mut self) -> Result<()> {
        let taken_in = std::mem::take(&mut self.taken_in).into_iter();
        let (used, unused): (BTreeSet<PackId>, BTreeSet<PackId>) =
            taken_in.partition(|pack| self.packs.numbers.contains_key(pack));
        // What this import has no use for is there for the one for which it was put.
        self.sink.leave(&unused);
        for pack in used {
            let Some(directory) = self.directory(pack) else {
                continue;
            };
            self.sink.list(PackIds {
                pack,
                pack_len: directory.pack_len(),
                ids: directory.ids().collect(),
            });
            if self.sink.unlisted_ids() >= limits::SEGMENT_IDS {
                let index = self.index().clone();
                self.sink.put_segment(&index)?;
            }
        }
        Ok(())
    }
}
