//! Owns index segments that are made anew: of packs that are in no segment, from their own directories.
//!
//! Always: the new segment is put before a damaged one goes. Never: needed to read a checkpoint.

use std::collections::{HashMap, HashSet};

use cryostore_format::pack::Directory;
use cryostore_format::segment::{PackIds, Segment};
use cryostore_format::{ChunkId, PackId, SegmentId};

use super::super::Seen;
use super::super::packs::problem_of;
use super::RepairReport;
use crate::error::{Error, Result};
use crate::index::segments;
use crate::limits;
use crate::monitor::{Monitor, keep_going};
use crate::pack;
use crate::repo::{Repository, Session};

/// Ids of the chunks of damaged packs, as far as segments have them.
pub(super) type Ids = HashMap<PackId, Vec<ChunkId>>;

/// Removes damaged segments, and puts new ones for packs that are in none. What segments know of damaged packs comes back. Without a session nothing is changed.
pub(super) fn list_packs(
    repo: &Repository,
    seen: &Seen,
    session: Option<&Session<'_>>,
    report: &mut RepairReport,
    monitor: &dyn Monitor,
) -> Result<Ids> {
    let damaged = seen.damage.touched();
    let (mut ids, mut listed) = (Ids::new(), HashSet::new());
    for (id, _) in segments::list(repo.store())? {
        keep_going(monitor)?;
        let read = || problem_of(segments::read(repo.vault(), id));
        let Ok(segment) = read()?.or(read()?) else {
            report.segments_removed.push(segments::object_name(id));
            continue;
        };
        for found in segment.packs {
            listed.insert(found.pack);
            if damaged.contains(&found.pack) {
                ids.insert(found.pack, found.ids);
            }
        }
    }
    let mut new = New::default();
    for id in seen.packs.keys() {
        if listed.contains(id) || damaged.contains(id) {
            continue;
        }
        keep_going(monitor)?;
        let read = pack::directories::read_tail(repo.vault(), *id).and_then(|(pack_len, tail)| {
            let directory = Directory::decode(*id, &tail, repo.vault().opened_len(pack_len));
            let directory = directory.map_err(|e| Error::stored(pack::object_name(*id), e))?;
            let (pack, ids) = (*id, directory.ids);
            Ok(PackIds {
                pack,
                pack_len,
                ids,
            })
        });
        // One that went since it was listed, or was not read by this run, is none of this.
        let Ok(found) = problem_of(read)? else {
            continue;
        };
        // Deltas have no ids.
        if !found.ids.is_empty() {
            report.packs_listed += 1;
            new.add(found, repo, session)?;
        }
    }
    new.put(repo, session)?;
    if session.is_some() {
        for name in &report.segments_removed {
            repo.store().delete(name)?;
        }
    }
    Ok(ids)
}

/// A segment that is being filled.
#[derive(Default)]
struct New {
    segment: Segment,
    ids: usize,
}

impl New {
    fn add(
        &mut self,
        found: PackIds,
        repo: &Repository,
        session: Option<&Session<'_>>,
    ) -> Result<()> {
        self.ids += found.ids.len();
        self.segment.packs.push(found);
        if self.ids >= limits::SEGMENT_IDS {
            self.put(repo, session)?;
        }
        Ok(())
    }

    fn put(&mut self, repo: &Repository, session: Option<&Session<'_>>) -> Result<()> {
        let segment = std::mem::take(self).segment;
        let Some(session) = session.filter(|_| !segment.packs.is_empty()) else {
            return Ok(());
        };
        let id = SegmentId::from_bytes(session.terms().new_id(repo.env()));
        let name = segments::object_name(id);
        let sealed = repo.vault().seal(&name, segment.encode())?;
        repo.store().create(&name, sealed)
    }
}
