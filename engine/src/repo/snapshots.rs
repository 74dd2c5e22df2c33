//! Owns the list of snapshots: reading, filtering, finding one by a few characters.
//!
//! Always: a record is believed only if it says the same place as its name. Damaged records are named and hide no others. Never: hides a snapshot that was not deleted.

use std::collections::HashSet;

use cryostore_format::mark::Mark;
use cryostore_format::session::Place;
use cryostore_format::snapshot::{Entry, SnapshotRecord, Tombstone};
use cryostore_format::{Lineage, SnapshotId, limits as format_limits};

use super::Repository;
use super::marks::deleted_place;
use crate::error::{Error, Kind, Result};
use crate::store::Listed;

pub(crate) const PREFIX: &str = "snapshots";
/// Characters of an id that are shown, unless more are needed to tell two apart.
const SHORT: usize = 8;

/// Name of a snapshot's object.
#[must_use]
pub fn snapshot_name(record: &SnapshotRecord) -> String {
    place_name(Place::of(record))
}

/// What the names of a container's snapshots begin with.
pub(super) fn container_prefix(lineage: Lineage) -> String {
    format!("{PREFIX}/{lineage}")
}

pub(crate) fn place_name(place: Place) -> String {
    format!("{PREFIX}/{}/{}", place.lineage, place.snapshot)
}

/// The place with this object name; none if it is none of ours.
pub(crate) fn place_of(name: &str) -> Option<Place> {
    let (lineage, snapshot) = name
        .strip_prefix(PREFIX)?
        .strip_prefix('/')?
        .split_once('/')?;
    Some(Place {
        lineage: lineage.parse().ok()?,
        snapshot: snapshot.parse().ok()?,
    })
}

/// Which snapshots are wanted. Every condition that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The pod's name.
    pub pod: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The container's name.
    pub container: Option<String>,
    /// A whole label, or the KEY of a label `KEY=VALUE`.
    pub label: Option<String>,
    /// Committed at this time or later.
    pub since: Option<jiff::Timestamp>,
}

impl Filter {
    /// True if all conditions hold.
    #[must_use]
    pub fn matches(&self, record: &SnapshotRecord) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        let label = |wanted: &String| {
            record.labels.iter().any(|label| {
                label == wanted || label.split_once('=').is_some_and(|(key, _)| key == wanted)
            })
        };
        is(&self.pod, &record.identity.pod)
            && is(&self.namespace, &record.identity.namespace)
            && is(&self.container, &record.identity.container)
            && self.label.as_ref().is_none_or(label)
            && self.since.is_none_or(|since| created(record) >= since)
    }

    /// True without conditions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// When a snapshot was committed, by its writer's clock.
fn created(record: &SnapshotRecord) -> jiff::Timestamp {
    record
        .created
        .parse()
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// The snapshots of a repository.
#[derive(Debug, Default)]
pub struct SnapshotList {
    /// Those that are there, newest first.
    pub snapshots: Vec<SnapshotRecord>,
    /// Those that were deleted and can be brought back, and their marks as far as they can be read; only where they were asked for.
    pub deleted: Vec<(SnapshotRecord, Option<Mark>)>,
    /// Deleted ones whose records cannot be read.
    pub damaged_deleted: Vec<Place>,
    /// Objects that could not be read, and why.
    pub damaged: Vec<(String, Error)>,
    /// Places where no snapshot can ever be, and why.
    pub tombstones: Vec<(Place, Tombstone)>,
    /// Snapshots that this node stored, as the newest of their containers, and that are not there any more, not even as tombstones.
    pub vanished: Vec<Place>,
}

impl SnapshotList {
    /// The snapshot that `text` means: `latest` (of those that `filter` lets through), an id, or the first characters of one; if there is none, that of which a copy was made.
    pub fn find(&self, text: &str, filter: &Filter) -> Result<&SnapshotRecord> {
        let wanted = || {
            let all = self.snapshots.iter();
            all.filter(|record| filter.matches(record))
        };
        if text == "latest" {
            return wanted().next().ok_or_else(|| {
                let detail = if filter.is_empty() {
                    "there are no snapshots"
                } else {
                    "no snapshot fits the filter"
                };
                Error::new(Kind::NotFound, detail).hint("`cryostore ls` lists what there is")
            });
        }
        let text = start_of_id(text)?;
        let by = |id: fn(&SnapshotRecord) -> Option<SnapshotId>| -> Vec<_> {
            let starts = |id: SnapshotId| id.to_string().starts_with(&text);
            wanted()
                .filter(|record| id(record).is_some_and(starts))
                .collect()
        };
        let mut found = by(|record| Some(record.id));
        if found.is_empty() {
            found = by(|record| Some(record.original?.id));
        }
        match found[..] {
            [one] => Ok(one),
            [] => Err(no_snapshot(&text)),
            _ => Err(several(&text, found.iter().map(|record| record.id))),
        }
    }

    fn forget_those_found(&mut self, deleted: &HashSet<Place>) {
        let Self {
            snapshots,
            damaged,
            tombstones,
            vanished,
            ..
        } = self;
        vanished.retain(|marked| {
            let gone = tombstones.iter().any(|(place, _)| place == marked);
            let there = snapshots.iter().any(|record| record.id == marked.snapshot);
            let damaged = damaged
                .iter()
                .any(|(name, _)| place_of(name) == Some(*marked));
            !(gone || there || damaged || deleted.contains(marked))
        });
    }

    /// What a person is told of a snapshot that vanished.
    #[must_use]
    pub fn about_vanished(place: &Place) -> String {
        format!(
            "snapshot {}, the newest of its container that this node stored, is not there any more: it was deleted and collected, or the store was put back to an earlier state",
            place.snapshot
        )
    }

    /// Newest first.
    pub(crate) fn sort(&mut self) {
        self.snapshots
            .sort_by(|a, b| created(b).cmp(&created(a)).then_with(|| b.id.cmp(&a.id)));
    }

    /// The snapshot of which only the name is left, if `text` is at least the first 8 characters of its id: it can be deleted.
    #[must_use]
    pub fn find_damaged(&self, text: &str) -> Option<SnapshotId> {
        let mut places = self.damaged.iter().filter_map(|(name, _)| place_of(name));
        let found = places.find(|place| {
            place
                .snapshot
                .to_string()
                .starts_with(&text.to_ascii_lowercase())
        });
        found
            .filter(|_| text.len() >= SHORT)
            .map(|place| place.snapshot)
    }

    /// How many characters tell all ids apart, eight at least.
    #[must_use]
    pub fn id_len(&self) -> usize {
        id_len(self.snapshots.iter().map(|record| record.id))
    }
}

/// How many characters tell these ids apart, eight at least.
pub(super) fn id_len(ids: impl Iterator<Item = SnapshotId>) -> usize {
    let mut ids: Vec<_> = ids.map(|id| id.to_string()).collect();
    ids.sort_unstable();
    let common = |pair: &[String]| {
        pair[0]
            .bytes()
            .zip(pair[1].bytes())
            .take_while(|(a, b)| a == b)
            .count()
    };
    ids.windows(2)
        .map(|pair| common(pair) + 1)
        .max()
        .unwrap_or(0)
        .max(SHORT)
}

/// The first characters of an id, as ids are written.
pub(super) fn start_of_id(text: &str) -> Result<String> {
    if text.len() < 4 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::new(Kind::Invalid, format!("`{text}` is no snapshot id"))
            .hint("say `latest`, or at least the first 4 characters of an id that `cryostore ls` shows"));
    }
    Ok(text.to_ascii_lowercase())
}

pub(super) fn no_snapshot(text: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no snapshot {text}"))
        .hint("`cryostore ls` lists what there is")
}

pub(super) fn several(text: &str, ids: impl Iterator<Item = SnapshotId>) -> Error {
    let ids: Vec<_> = ids.map(|id| id.to_string()).collect();
    let text = format!("{text} could be any of {}", ids.join(", "));
    Error::new(Kind::Invalid, text).hint("say more of it")
}

impl Repository {
    /// Reads the records of all snapshots that are there.
    pub fn snapshots(&self) -> Result<SnapshotList> {
        let (mut list, deleted) = self.read_snapshots(PREFIX, false)?;
        list.vanished = self.all_marked();
        list.forget_those_found(&deleted);
        Ok(list)
    }

    /// Reads the snapshot records of one container.
    pub fn snapshots_of(&self, lineage: Lineage) -> Result<SnapshotList> {
        let (mut list, deleted) = self.read_snapshots(&container_prefix(lineage), false)?;
        let marked = self.marked(lineage);
        list.vanished
            .extend(marked.map(|snapshot| Place { lineage, snapshot }));
        list.forget_those_found(&deleted);
        Ok(list)
    }

    /// The same as [`Self::snapshots`], and the deleted ones that no collection has freed.
    pub fn snapshots_and_deleted(&self) -> Result<SnapshotList> {
        self.read_snapshots(PREFIX, true).map(|(list, _)| list)
    }

    /// With the places that have a deletion mark.
    fn read_snapshots(
        &self,
        prefix: &str,
        deleted_too: bool,
    ) -> Result<(SnapshotList, HashSet<Place>)> {
        let mut out = SnapshotList::default();
        let objects = self.store().list(prefix)?;
        self.forget_unlisted(prefix, &objects);
        let deleted: HashSet<Place> = objects
            .iter()
            .filter_map(|object| deleted_place(&object.name))
            .collect();
        let mut wanted = Vec::new();
        for object in &objects {
            if let Some(place) = place_of(&object.name)
                && (deleted_too || !deleted.contains(&place))
            {
                let copied = self.copied(object, |bytes| entry_at(place, bytes));
                wanted.push((object, place, copied));
            }
        }
        let needed = wanted.iter().filter(|(.., copied)| copied.is_none());
        let catalogues = self.catalogues_for(needed.count(), &objects);
        for (object, place, copied) in wanted {
            let is_deleted = deleted.contains(&place);
            let known = copied.or_else(|| catalogues.entry(place));
            match known.map_or_else(|| self.unknown_entry(object, place), Ok) {
                Ok(Entry::Tombstone(tombstone)) => out.tombstones.push((place, tombstone)),
                Ok(Entry::Snapshot(record)) if is_deleted => {
                    let mark = self.deletion(place);
                    // Removed since it was listed: brought back.
                    if matches!(&mark, Err(e) if e.kind() == Kind::NotFound) {
                        out.snapshots.push(*record);
                    } else {
                        out.deleted.push((*record, mark.ok()));
                    }
                }
                Ok(Entry::Snapshot(record)) => out.snapshots.push(*record),
                // Removed since it was listed.
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(_) if is_deleted => out.damaged_deleted.push(place),
                Err(e) => out.damaged.push((object.name.clone(), e)),
            }
        }
        out.sort();
        Ok((out, deleted))
    }

    /// What is at a place whose object was listed, and of which nothing is known here.
    fn unknown_entry(&self, object: &Listed, place: Place) -> Result<Entry> {
        self.read_and_keep(object, format_limits::RECORD_MAX, |bytes| {
            entry_at(place, bytes)
        })
    }

    /// What is at a place whose object was listed; this node may have a copy of it.
    pub(super) fn listed_entry(&self, object: &Listed, place: Place) -> Result<Entry> {
        self.read_listed(object, format_limits::RECORD_MAX, |bytes| {
            entry_at(place, bytes)
        })
    }
}

fn entry_at(place: Place, bytes: &[u8]) -> Result<Entry> {
    let entry = Entry::decode(bytes).map_err(|e| Error::stored(place_name(place), e))?;
    of_place(place, entry)
}

/// An entry that was read at a place, if it says that it is of this place.
pub(super) fn of_place(place: Place, entry: Entry) -> Result<Entry> {
    match &entry {
        Entry::Snapshot(record) if Place::of(record) != place => Err(Error::new(
            Kind::Corrupt,
            format!("it is the record of snapshot {}", record.id),
        )
        .hint("somebody moved it; put it back under its own name")),
        _ => Ok(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_snapshots_are_taken_for_snapshots() {
        let place = Place {
            lineage: Lineage::from_bytes([1; 16]),
            snapshot: SnapshotId::from_bytes([2; 16]),
        };
        assert_eq!(place_of(&place_name(place)), Some(place));
        for name in [
            "snapshots/x/y",
            "snapshots",
            "snapshotsx/01/02",
            "packs/01/02",
        ] {
            assert_eq!(place_of(name), None, "{name}");
        }
    }
}
