//! Owns the commit: one conditional put, last.
//!
//! `format-spec/spec/protocol.md` numbers where a crash or a race can fall and argues why nothing is lost. Here: W6, and what revokes a session.
//!
//! Always: after a commit whose reply is not clear the place is read; if nothing is there, it is taken by a tombstone before a failure is reported, so that a late put finds the
//! place taken. What cannot be settled leaves the session's record, so that nothing is freed and a collection settles it. Never: a record in the place of a tombstone.

use bytes::Bytes;
use cryostore_format::SessionId;
use cryostore_format::limits as format_limits;
use cryostore_format::session::Place;
use cryostore_format::snapshot::{Entry, SnapshotRecord, Tombstone};

use super::marks::deletion_name;
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
        let bytes = Bytes::from(self.seal_object(&name, bytes)?);
        let len = bytes.len() as u64;
        session.set_unsettled(true);
        let failed = match self.store().create_tagged(&name, bytes.clone()) {
            Ok(tag) => {
                session.set_unsettled(false);
                self.keep(&name, tag.as_deref(), &bytes);
                return Ok(len);
            }
            Err(failed) => failed,
        };
        let settled = self.settle(place, session.id(), &failed).map_err(|e| {
            let text = format!("it is not known whether the snapshot is stored: {e}");
            Error::new(e.kind(), text)
                .hint("`cryostore ls` lists it if it is, or `cryostore gc` settles it; to import the archive again does no harm")
                .because(e)
        })?;
        session.set_unsettled(false);
        match settled {
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

    /// Settles at a session's own place that what it did counts: false if the session was revoked before.
    pub(super) fn conclude(&self, session: &Session<'_>, place: Place) -> Result<bool> {
        session.set_unsettled(true);
        self.bury(place, Some(session.id()), DONE)?;
        let found = self.entry(place)?;
        session.set_unsettled(false);
        match found {
            Some(Entry::Tombstone(tombstone)) if tombstone.reason == DONE => {
                // What it was for is over; the session's record, which is there still, can be revoked at no cost.
                self.store().delete(&place_name(place))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Takes a place with a tombstone, unless there is something already.
    pub(super) fn bury(
        &self,
        place: Place,
        session: Option<SessionId>,
        reason: &str,
    ) -> Result<()> {
        let bytes = self.tombstone(place, session, reason)?;
        let put = || self.store().create(&place_name(place), bytes.clone());
        match self.with_reserve(put) {
            Err(e) if e.kind() == Kind::Conflict && self.entry(place)?.is_some() => Ok(()),
            other => other,
        }
    }

    /// Replaces a snapshot's record by a tombstone: a collection frees it.
    pub(crate) fn give_up(&self, place: Place) -> Result<()> {
        let bytes = self.tombstone(place, None, "deleted")?;
        self.with_reserve(|| self.store().replace(&place_name(place), bytes.clone()))
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
        self.has_gone(place).unwrap_or(false)
    }

    /// True if no snapshot is at a place any more.
    pub(crate) fn has_gone(&self, place: Place) -> Result<bool> {
        let is_deleted = self.store().len(&deletion_name(place))?.is_some();
        Ok(is_deleted || !matches!(self.entry(place)?, Some(Entry::Snapshot(_))))
    }

    /// True if no record is at a place.
    pub(crate) fn is_free(&self, place: Place) -> Result<bool> {
        Ok(!matches!(self.entry(place)?, Some(Entry::Snapshot(_))))
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

const DONE: &str = "undeleted";
const GAVE_UP: &str = "the commit failed";
