//! Owns what people say of snapshots: deleted, not deleted after all, pinned.
//!
//! Always: all snapshots of a deletion are looked at before the first is marked; an undeletion that is reported as done lasts. Never: touches a record, or what it needs: a
//! collection frees that when the grace time is over (`gc/mod.rs`).

use std::collections::HashSet;

use cryostore_format::mark::{DELETED, Mark, MarkKind};
use cryostore_format::repository::Role;
use cryostore_format::session::{Place, Work};
use cryostore_format::snapshot::{Entry, SnapshotRecord};
use cryostore_format::{SnapshotId, limits as format_limits};

use super::snapshots::{SnapshotList, place_name, place_of};
use super::{Repository, Session};
use crate::env::{random_id, timestamp};
use crate::error::{Error, Kind, Result};
use crate::pack::object_name;

const PINS: &str = "pins";

/// Name of a snapshot's deletion mark.
pub(crate) fn deletion_name(place: Place) -> String {
    format!("{}{DELETED}", place_name(place))
}

/// The place whose deletion mark has this name; none if it is no name of one.
pub(crate) fn deleted_place(name: &str) -> Option<Place> {
    place_of(name.strip_suffix(DELETED)?)
}

pub(crate) fn pin_name(id: SnapshotId) -> String {
    format!("{PINS}/{id}")
}

/// The snapshot whose pin has this name; none if it is no name of one.
pub(crate) fn pinned_by(name: &str) -> Option<SnapshotId> {
    name.strip_prefix(PINS)?.strip_prefix('/')?.parse().ok()
}

impl Repository {
    /// Deletes snapshots: they are not listed any more, and freed by a collection after the grace time. All are looked at before the first goes; one that is pinned, or that another
    /// needs which is not deleted too, is a conflict.
    pub fn delete(&self, wanted: &[SnapshotId], reason: &str) -> Result<()> {
        self.require(Role::Write)?;
        let list = self.snapshots()?;
        let pins = self.pins()?;
        if let Some(id) = wanted.iter().find(|id| pins.contains(id)) {
            return Err(
                Error::new(Kind::Conflict, format!("snapshot {id} is pinned")).hint(format!(
                    "`cryostore unpin {id}` first, if it may go; nothing was deleted"
                )),
            );
        }
        for record in &list.snapshots {
            if let Some(needed) = record.requires
                && wanted.contains(&needed)
                && !wanted.contains(&record.id)
            {
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "snapshot {} needs {needed}: CRIU left pages in its parent directory",
                        record.id
                    ),
                )
                .hint(format!("delete {} too, or first", record.id)));
            }
        }
        // Who needs others goes before what it needs: a crash between leaves no snapshot without its pages.
        let mut records: Vec<_> = list
            .snapshots
            .iter()
            .filter(|record| wanted.contains(&record.id))
            .collect();
        records.sort_by_key(|record| depth(record, &list));
        for record in records.iter().rev() {
            self.mark_deleted(Place::of(record), reason)?;
            self.unmark(Place::of(record));
        }
        // Of a damaged record only the place is known; without this it would keep everything from being collected.
        for place in list.damaged.iter().filter_map(|(name, _)| place_of(name)) {
            if wanted.contains(&place.snapshot) {
                self.mark_deleted(place, reason)?;
            }
        }
        Ok(())
    }

    fn mark_deleted(&self, place: Place, reason: &str) -> Result<()> {
        self.put_mark(
            MarkKind::Deletion,
            &deletion_name(place),
            place.snapshot,
            reason,
        )
    }

    fn put_mark(&self, kind: MarkKind, name: &str, id: SnapshotId, reason: &str) -> Result<()> {
        let mark = Mark {
            id,
            created: timestamp(self.env()),
            owner: self.env().owner(),
            reason: reason.to_owned(),
        };
        let bytes = mark.encode(kind).map_err(|e| {
            Error::new(Kind::Invalid, format!("the mark: {e}")).hint("use fewer words")
        })?;
        let sealed = self.seal_object(name, bytes)?;
        self.with_reserve(|| self.store().replace(name, sealed.clone()))
    }

    /// The deletion mark at a place, if it is there and can be read.
    pub(crate) fn deletion(&self, place: Place) -> Result<Mark> {
        let name = deletion_name(place);
        let bytes = self.read_object(&name, format_limits::RECORD_MAX)?;
        Mark::decode(MarkKind::Deletion, &bytes).map_err(|e| Error::stored(name, e))
    }

    /// True if it is known that the snapshot at a place is marked as deleted.
    pub(crate) fn is_deleted(&self, place: Place) -> bool {
        matches!(self.store().len(&deletion_name(place)), Ok(Some(_)))
    }

    /// Brings a deleted snapshot back, as long as no collection has given it up.
    pub fn undelete(&self, snapshot: &SnapshotRecord) -> Result<()> {
        self.require(Role::Write)?;
        let place = Place::of(snapshot);
        // A place of its own, at which it is settled whether it was revoked, as for a commit.
        let outcome = Place {
            snapshot: SnapshotId::from_bytes(random_id(self.env())),
            ..place
        };
        let session = Session::start(self, Work::Undelete, Some(outcome))?;
        let too_late = |why: String| {
            Error::new(Kind::Conflict, format!("snapshot {} cannot be brought back: {why}", snapshot.id))
                .hint("import its archive again, if it is still there; a longer `gc --grace` leaves more time")
        };
        let terms = session.terms();
        if terms.gives_up(place) {
            return Err(too_late("a collection has given it up".to_owned()));
        }
        if let Some(needed) = snapshot.requires
            && !self.is_there(needed)?
        {
            let text = format!("snapshot {} needs {needed}, which is deleted", snapshot.id);
            return Err(Error::new(Kind::Conflict, text)
                .hint(format!("`cryostore undelete {needed}` first")));
        }
        // Reads all of it that is not packs.
        let manifest = self.manifest(snapshot)?;
        for pack in &manifest.packs {
            let name = object_name(*pack);
            if terms.condemns(*pack) {
                return Err(too_late(format!("a collection is removing {name}")));
            }
            if self.store().len(&name)?.is_none() {
                return Err(too_late(format!("{name} is gone")));
            }
        }
        self.store().delete(&deletion_name(place))?;
        if self.conclude(&session, outcome)?
            && matches!(self.entry(place)?, Some(Entry::Snapshot(_)))
        {
            return Ok(());
        }
        Err(too_late("a collection went over it meanwhile".to_owned()))
    }

    /// Keeps a snapshot from being deleted.
    pub fn pin(&self, id: SnapshotId, reason: &str) -> Result<()> {
        self.require(Role::Write)?;
        self.put_mark(MarkKind::Pin, &pin_name(id), id, reason)?;
        // A deletion may have come between the caller's look and the pin.
        if self.is_there(id)? {
            return Ok(());
        }
        Err(Error::new(Kind::Conflict, format!("snapshot {id} was deleted meanwhile"))
            .hint(format!("nothing of it is freed while the pin is there: `cryostore undelete {id}` brings it back, `cryostore unpin {id}` lets it go")))
    }

    /// Lets a snapshot be deleted again.
    pub fn unpin(&self, id: SnapshotId) -> Result<()> {
        self.require(Role::Write)?;
        self.store().delete(&pin_name(id))
    }

    /// The snapshots that are pinned.
    pub fn pins(&self) -> Result<HashSet<SnapshotId>> {
        let listed = self.store().list(PINS)?;
        Ok(listed
            .iter()
            .filter_map(|object| pinned_by(&object.name))
            .collect())
    }
}

/// How many snapshots a snapshot needs, one after the other.
fn depth(record: &SnapshotRecord, list: &SnapshotList) -> usize {
    let mut depth = 0;
    let mut next = record.requires;
    while let Some(id) = next.filter(|_| depth < list.snapshots.len()) {
        depth += 1;
        next = list
            .snapshots
            .iter()
            .find(|record| record.id == id)
            .and_then(|record| record.requires);
    }
    depth
}

#[cfg(test)]
mod tests {
    use cryostore_format::Lineage;

    use super::*;

    #[test]
    fn only_names_of_marks_are_taken_for_marks() {
        let place = Place {
            lineage: Lineage::from_bytes([1; 16]),
            snapshot: SnapshotId::from_bytes([2; 16]),
        };
        assert_eq!(deleted_place(&deletion_name(place)), Some(place));
        assert_eq!(deleted_place(&place_name(place)), None);
        assert_eq!(place_of(&deletion_name(place)), None);
        assert_eq!(pinned_by(&pin_name(place.snapshot)), Some(place.snapshot));
        assert_eq!(pinned_by("pins/readme"), None);
    }
}
