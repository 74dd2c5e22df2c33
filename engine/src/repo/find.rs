//! Owns the search for one snapshot: by its id from the names in a list, without the records of the others.
//!
//! Always: what comes back was listed now, without a deletion mark. Never: reads all records where the id of a snapshot that is there is said.

use std::collections::HashSet;

use cryostore_format::SnapshotId;
use cryostore_format::session::Place;
use cryostore_format::snapshot::{Entry, SnapshotRecord};

use super::Repository;
use super::marks::deleted_place;
use super::snapshots::{Filter, PREFIX, SnapshotList, id_len, place_of, several, start_of_id};
use crate::error::{Error, Kind, Result};
use crate::store::Listed;

/// A snapshot that was looked for.
#[derive(Debug)]
pub struct Found {
    /// It.
    pub snapshot: SnapshotRecord,
    /// How many characters tell all ids apart, eight at least.
    pub id_len: usize,
    /// As in [`SnapshotList::vanished`].
    pub vanished: Vec<Place>,
    /// Of all snapshots, those that could not be read, and why; only for `latest`, since it could be one of them.
    pub damaged: Vec<(String, Error)>,
}

/// What names alone tell.
struct Names {
    /// Objects at places without a deletion mark: records or tombstones.
    there: Vec<(Place, Listed)>,
    /// All places, those with a deletion mark among them.
    all: HashSet<Place>,
}

impl Repository {
    /// The snapshot that `text` means: `latest` (of those that `filter` lets through), an id, or the first characters of one. For an id one record is read, and for the start of several, these;
    /// all are if there is none, since it may be the id of what was copied here.
    pub fn find(&self, text: &str, filter: &Filter) -> Result<Found> {
        if text == "latest" {
            return self.find_among_all(text, filter);
        }
        let text = start_of_id(text)?;
        let names = self.names()?;
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        let is_it = |(place, _): &&(Place, _)| place.snapshot.to_string().starts_with(&text);
        for (place, object) in names.there.iter().filter(is_it) {
            match self.listed_entry(object, *place) {
                Ok(Entry::Snapshot(record)) if filter.matches(&record) => found.push(*record),
                Ok(_) => {}
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => damaged.push((place.snapshot, e)),
            }
        }
        let ids = found.iter().map(|record| record.id);
        let ids: Vec<SnapshotId> = ids.chain(damaged.iter().map(|(id, _)| *id)).collect();
        if ids.len() > 1 {
            return Err(several(&text, ids.into_iter()));
        }
        if let Some((_, e)) = damaged.pop() {
            return Err(e);
        }
        // Of a copy the original's id is in the record only.
        let Some(snapshot) = found.pop() else {
            return self.find_among_all(&text, filter);
        };
        let mut vanished = self.all_marked();
        vanished.retain(|place| !names.all.contains(place));
        Ok(Found {
            snapshot,
            id_len: id_len(names.there.iter().map(|(place, _)| place.snapshot)),
            vanished,
            damaged: Vec::new(),
        })
    }

    fn find_among_all(&self, text: &str, filter: &Filter) -> Result<Found> {
        let list = self.snapshots()?;
        Ok(Found {
            snapshot: list.find(text, filter)?.clone(),
            id_len: list.id_len(),
            vanished: list.vanished,
            damaged: list.damaged,
        })
    }

    /// True if this snapshot is there.
    pub(crate) fn is_there(&self, id: SnapshotId) -> Result<bool> {
        for (place, object) in self.names()?.there {
            if place.snapshot == id {
                return match self.listed_entry(&object, place) {
                    Ok(entry) => Ok(matches!(entry, Entry::Snapshot(_))),
                    // Removed since it was listed.
                    Err(e) if e.kind() == Kind::NotFound => Ok(false),
                    Err(e) => Err(e),
                };
            }
        }
        Ok(false)
    }

    fn names(&self) -> Result<Names> {
        let objects = self.store().list(PREFIX)?;
        let deleted: HashSet<Place> = objects
            .iter()
            .filter_map(|object| deleted_place(&object.name))
            .collect();
        let mut all = deleted.clone();
        let mut there = Vec::new();
        for object in objects {
            if let Some(place) = place_of(&object.name) {
                all.insert(place);
                if !deleted.contains(&place) {
                    there.push((place, object));
                }
            }
        }
        Ok(Names { there, all })
    }
}

impl Found {
    /// What a person is told of the snapshots that vanished.
    pub fn about_vanished(&self) -> impl Iterator<Item = (Place, String)> {
        self.vanished
            .iter()
            .map(|place| (*place, SnapshotList::about_vanished(place)))
    }
}
