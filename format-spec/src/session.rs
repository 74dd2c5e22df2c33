#![doc = include_str!("../spec/session.md")]

use serde::{Deserialize, Serialize};

use crate::envelope::ObjectType;
use crate::error::{FormatError, Result};
use crate::ids::{CollectionId, ID_LEN, Lineage, SessionId, SnapshotId};
use crate::limits;
use crate::snapshot::{SnapshotRecord, decode_record, encode_record};

/// What a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Adds a snapshot.
    Import,
    /// Deletes what no snapshot needs: programs before the protocol had it.
    Collect,
    /// Rewrites a snapshot's manifest.
    Optimize,
    /// Brings a deleted snapshot back.
    Undelete,
    /// Adds a snapshot of another repository.
    Copy,
    /// Reads snapshots.
    Read,
}

/// The only place at which a session can commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Directory of the snapshot.
    pub lineage: Lineage,
    /// Its name.
    pub snapshot: SnapshotId,
}

impl Place {
    /// That of a snapshot.
    #[must_use]
    pub const fn of(record: &SnapshotRecord) -> Self {
        Self {
            lineage: record.lineage,
            snapshot: record.id,
        }
    }
}

/// Who is at work in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The session's name, as in the object's name.
    pub id: SessionId,
    /// What it does.
    pub work: Work,
    /// Where it will commit; absent for what commits nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The collections that it has read: it refers to nothing that they condemn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collections: Vec<CollectionId>,
    /// When it started, RFC 3339, UTC. For people.
    pub started: String,
    /// Grows while the session makes progress.
    pub renewals: u64,
    /// Host and process, for people; nothing is decided by it.
    pub owner: String,
}

/// Bytes of the ids of packs, index segments and manifests that say which session put them.
pub const PREFIX_LEN: usize = ID_LEN / 2;

/// What the names of a session's packs, index segments and manifests begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionPrefix([u8; PREFIX_LEN]);

impl SessionPrefix {
    /// That of a session.
    #[must_use]
    pub fn of(session: SessionId) -> Self {
        Self::in_id(session.as_bytes())
    }

    /// That of the session which put the object with this id.
    #[must_use]
    pub fn in_id(id: &[u8; ID_LEN]) -> Self {
        let mut prefix = [0; PREFIX_LEN];
        prefix.copy_from_slice(&id[..PREFIX_LEN]);
        Self(prefix)
    }

    /// The id that begins so and ends with the first half of `random`.
    #[must_use]
    pub fn with(self, random: &[u8; ID_LEN]) -> [u8; ID_LEN] {
        let mut id = [0; ID_LEN];
        id[..PREFIX_LEN].copy_from_slice(&self.0);
        id[PREFIX_LEN..].copy_from_slice(&random[..PREFIX_LEN]);
        id
    }
}

impl SessionRecord {
    /// The object's bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.bounded()?;
        encode_record(ObjectType::Session, self)
    }

    /// Reads the object.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let record: Self = decode_record(ObjectType::Session, bytes)?;
        record.bounded()?;
        Ok(record)
    }

    fn bounded(&self) -> Result<()> {
        if self.collections.len() > limits::COLLECTIONS_MAX {
            return Err(FormatError::TooLarge {
                what: "collections of a session",
                limit: limits::COLLECTIONS_MAX as u64,
                got: self.collections.len() as u64,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_reads_back() {
        let record = SessionRecord {
            id: SessionId::from_bytes([1; 16]),
            work: Work::Import,
            place: Some(Place {
                lineage: Lineage::default(),
                snapshot: SnapshotId::from_bytes([2; 16]),
            }),
            collections: vec![CollectionId::from_bytes([5; 16])],
            started: "2026-11-20T12:00:00Z".to_owned(),
            renewals: 3,
            owner: "node-1, process 7".to_owned(),
        };
        assert_eq!(SessionRecord::decode(&record.encode().unwrap()), Ok(record));
    }

    #[test]
    fn the_name_of_an_object_tells_its_session() {
        let session = SessionId::from_bytes([7; 16]);
        let prefix = SessionPrefix::of(session);
        let id = prefix.with(&[9; 16]);
        assert_eq!(SessionPrefix::in_id(&id), prefix);
        assert_eq!(id[PREFIX_LEN..], [9; PREFIX_LEN]);
    }
}
