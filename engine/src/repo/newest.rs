//! Owns the search for the newest snapshot of a container, where a request is dear: one list, and as few records as will do.
//!
//! Always: what comes back was listed now, had no deletion mark then, and is of the container that was asked for. Never: a decision that something rests on: which snapshot an import is compared with
//! changes what it costs, not what it stores. That is why the store's own clock may tell which records are read first.

use cryostore_format::session::Place;
use cryostore_format::snapshot::{Entry, SnapshotRecord};
use cryostore_format::{Lineage, SnapshotId};

use super::Repository;
use super::marks::deleted_place;
use super::snapshots::{SnapshotList, container_prefix, place_of};
use crate::error::Result;
use crate::limits;

/// What a look for the newest snapshot of a container found.
#[derive(Debug, Default)]
pub struct Newest {
    /// It, if there is one.
    pub snapshot: Option<SnapshotRecord>,
    /// A snapshot that this node stored, as the newest of the container, and that is not there any more, not even as a tombstone.
    pub vanished: Option<SnapshotId>,
}

impl Repository {
    /// The newest snapshot of a container of which `is_it` is true.
    ///
    /// In a bucket the records that were put last are read, and those that were put within [`limits::PUT_TOGETHER_MS`] before, and so on until one is found; the newest of these, by its writer's clock, it is. In a
    /// directory all are read: its files may have been copied in any order, and reading costs nothing.
    pub fn newest_of(
        &self,
        lineage: Lineage,
        is_it: impl Fn(&SnapshotRecord) -> bool,
    ) -> Result<Newest> {
        let prefix = container_prefix(lineage);
        let objects = self.store().list(&prefix)?;
        self.forget_unlisted(&prefix, &objects);
        let deleted: Vec<Place> = objects
            .iter()
            .filter_map(|object| deleted_place(&object.name))
            .collect();
        let mut listed: Vec<_> = objects
            .iter()
            .filter_map(|object| Some((object, place_of(&object.name)?)))
            .collect();
        let is_there = |id: &SnapshotId| {
            let places = listed.iter().map(|(_, place)| place).chain(&deleted);
            places.into_iter().any(|place| place.snapshot == *id)
        };
        let vanished = self.marked(lineage).filter(|marked| !is_there(marked));
        listed.retain(|(_, place)| !deleted.contains(place));
        listed.sort_by_key(|(object, _)| std::cmp::Reverse(object.modified_ms));
        let together = match self.store().local_path() {
            Some(_) => i64::MAX,
            None => limits::PUT_TOGETHER_MS,
        };
        let mut rest = &listed[..];
        let mut found = SnapshotList::default();
        while let Some((last, _)) = rest.first() {
            let since = last.modified_ms.saturating_sub(together);
            let group = rest.partition_point(|(object, _)| object.modified_ms >= since);
            let (group, earlier) = rest.split_at(group);
            // One that cannot be read is no base; `ls` and `check` name it.
            let records = group.iter().filter_map(|(object, place)| {
                match self.listed_entry(object, *place) {
                    Ok(Entry::Snapshot(record)) => Some(*record),
                    _ => None,
                }
            });
            found.snapshots.extend(records.filter(&is_it));
            if !found.snapshots.is_empty() {
                break;
            }
            rest = earlier;
        }
        found.sort();
        Ok(Newest {
            snapshot: found.snapshots.into_iter().next(),
            vanished,
        })
    }
}
