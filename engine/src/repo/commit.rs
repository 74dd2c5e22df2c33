//! Owns the commit: one conditional put, last.
//!
//! Where a crash (C) or a race can fall, and why nothing is lost:
//!
//! 1. C before the session's record: nothing was put.
//! 2. C after the record, before or between packs: objects that nothing refers to; a collector ends the dead session and removes them.
//! 3. C after the packs, before the index segment: as 2; the index never knew of them.
//! 4. C after the segment, before the manifest: as 2. The segment is a hint; who follows it looks whether the pack exists.
//! 5. C after the manifest, before the snapshot record: as 2.
//! 6. C during the put of the record: the store has it whole or not at all.
//! 7. C after the record: committed. The session's record is left; a collector finds the snapshot at the place and only removes the record.
//! 8. The reply of the put is lost: [`Repository::commit`] reads the place back and knows its own session in it. If nothing is
//!    there, it takes the place with a tombstone before it reports a failure, so that a late put finds the place taken.
//! 9. A collector ends the session while it works: the tombstone is at the place, the commit loses and says so.

use cryostore_format::SessionId;
use cryostore_format::limits as format_limits;
use cryostore_format::session::Place;
use cryostore_format::snapshot::{Entry, SnapshotRecord, Tombstone};

use super::snapshots::place_name;
use super::{Repository, Session};
use crate::env::timestamp;
use crate::error::{Error, Kind, Result};

impl Repository {
    /// Commits: after `Ok`, and only then, the checkpoint is stored.
    pub fn commit(&self, session: &Session<'_>, record: &SnapshotRecord) -> Result<u64> {
        let place = Place {
            lineage: record.lineage,
            snapshot: record.id,
        };
        let len = self.put_commit(place, session, record)?;
        self.mark(place);
        Ok(len)
    }

    fn put_commit(
        &self,
        place: Place,
        session: &Session<'_>,
        record: &SnapshotRecord,
    ) -> Result<u64> {
        if session.place() != Some(place) || record.session != session.id() {
            return Err(Error::new(
                Kind::Internal,
                "a commit at another place than its session's",
            ));
        }
        let bytes = record.encode().map_err(|e| {
            Error::new(Kind::Invalid, format!("the snapshot record: {e}"))
                .hint("use fewer or shorter labels and attachments")
        })?;
        let name = place_name(place);
        let bytes = self.seal_object(&name, bytes)?;
        let len = bytes.len() as u64;
        let Err(failed) = self.store().create(&name, bytes) else {
            return Ok(len);
        };
        match self.settle(place, session.id(), &failed)? {
            Entry::Snapshot(found) if found.session == session.id() => Ok(len),
            Entry::Snapshot(_) => Err(Error::new(
                Kind::Internal,
                format!("another snapshot is at {}", place_name(place)),
            )),
            Entry::Tombstone(tombstone)
                if tombstone.session == Some(session.id()) && tombstone.reason == GAVE_UP =>
            {
                Err(failed)
            }
            Entry::Tombstone(tombstone) => Err(Error::new(
                Kind::Conflict,
                format!(
                    "the session was ended by somebody else ({})",
                    tombstone.reason
                ),
            )
            .hint("nothing is lost; import the archive again")),
        }
    }

    /// What is at the place for good, after a put whose outcome is not known.
    fn settle(&self, place: Place, session: SessionId, failed: &Error) -> Result<Entry> {
        if let Some(entry) = self.entry(place)? {
            return Ok(entry);
        }
        tracing::debug!("the commit failed ({failed}); taking its place");
        self.bury(place, Some(session), GAVE_UP)?;
        self.entry(place)?
            .ok_or_else(|| Error::new(Kind::Unavailable, format!("{} vanished", place_name(place))))
    }

    /// Takes a place with a tombstone, unless there is something already.
    pub(super) fn bury(
        &self,
        place: Place,
        session: Option<SessionId>,
        reason: &str,
    ) -> Result<()> {
        let bytes = self.tombstone(place, session, reason)?;
        match self.store().create(&place_name(place), bytes) {
            Err(e) if e.kind() == Kind::Conflict && self.entry(place)?.is_some() => Ok(()),
            other => other,
        }
    }

    /// Replaces a snapshot by a tombstone: it is deleted.
    pub(super) fn erase(&self, place: Place) -> Result<()> {
        let bytes = self.tombstone(place, None, "deleted")?;
        self.store().replace(&place_name(place), bytes)
    }

    fn tombstone(&self, place: Place, session: Option<SessionId>, reason: &str) -> Result<Vec<u8>> {
        let tombstone = Tombstone {
            id: place.snapshot,
            session,
            created: timestamp(self.env()),
            reason: reason.to_owned(),
        };
        let bytes = tombstone
            .encode()
            .map_err(|e| Error::new(Kind::Internal, "a tombstone").because(e))?;
        self.seal_object(&place_name(place), bytes)
    }

    /// Why a place was taken by a tombstone, if it was.
    pub(crate) fn burial(&self, place: Place) -> Option<String> {
        match self.entry(place) {
            Ok(Some(Entry::Tombstone(tombstone))) => Some(tombstone.reason),
            _ => None,
        }
    }

    /// True if it is known that no snapshot is at a place any more.
    pub(crate) fn is_gone(&self, place: Place) -> bool {
        matches!(self.entry(place), Ok(None | Some(Entry::Tombstone(_))))
    }

    /// What is at a place, if anything is.
    pub(super) fn entry(&self, place: Place) -> Result<Option<Entry>> {
        let name = place_name(place);
        match self.read_object(&name, format_limits::RECORD_MAX) {
            Ok(bytes) => Entry::decode(&bytes)
                .map(Some)
                .map_err(|e| Error::stored(name, e)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

const GAVE_UP: &str = "the commit failed";
