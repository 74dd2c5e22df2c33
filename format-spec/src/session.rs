#![doc = include_str!("../spec/session.md")]

use serde::{Deserialize, Serialize};

use crate::envelope::ObjectType;
use crate::error::Result;
use crate::ids::{Lineage, SessionId, SnapshotId};
use crate::snapshot::{decode_record, encode_record};

/// What a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Adds a snapshot.
    Import,
    /// Deletes what no snapshot needs.
    Collect,
    /// Rewrites a snapshot's manifest.
    Optimize,
}

/// The only place at which a session can commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Directory of the snapshot.
    pub lineage: Lineage,
    /// Its name.
    pub snapshot: SnapshotId,
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
    /// When it started, RFC 3339, UTC. For people.
    pub started: String,
    /// Grows while the session makes progress.
    pub renewals: u64,
    /// Host and process, for people; nothing is decided by it.
    pub owner: String,
}

impl SessionRecord {
    /// The object's bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode_record(ObjectType::Session, self)
    }
    /// Reads the object.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode_record(ObjectType::Session, bytes)
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
            started: "2026-11-20T12:00:00Z".to_owned(),
            renewals: 3,
            owner: "node-1, process 7".to_owned(),
        };
        assert_eq!(SessionRecord::decode(&record.encode().unwrap()), Ok(record));
    }
}
