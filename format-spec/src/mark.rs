#![doc = include_str!("../spec/mark.md")]

use serde::{Deserialize, Serialize};

use crate::envelope::ObjectType;
use crate::error::Result;
use crate::ids::SnapshotId;
use crate::snapshot::{decode_record, encode_record};

/// What the name of a deletion mark ends with, after that of the snapshot.
pub const DELETED: &str = ".deleted";

/// Which of the two a mark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkKind {
    /// The snapshot was deleted.
    Deletion,
    /// The snapshot must stay.
    Pin,
}

impl MarkKind {
    const fn object_type(self) -> ObjectType {
        match self {
            Self::Deletion => ObjectType::Deletion,
            Self::Pin => ObjectType::Pin,
        }
    }
}

/// What a person has said of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The snapshot.
    pub id: SnapshotId,
    /// When, RFC 3339, UTC.
    pub created: String,
    /// Host and process that put it.
    pub owner: String,
    /// The user's words.
    pub reason: String,
}

impl Mark {
    /// The object's bytes.
    pub fn encode(&self, kind: MarkKind) -> Result<Vec<u8>> {
        encode_record(kind.object_type(), self)
    }

    /// Reads the object.
    pub fn decode(kind: MarkKind, bytes: &[u8]) -> Result<Self> {
        decode_record(kind.object_type(), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_is_not_taken_for_the_other_kind() {
        let mark = Mark {
            id: SnapshotId::from_bytes([1; 16]),
            created: "2026-11-21T12:00:00Z".to_owned(),
            owner: "node-1, process 7".to_owned(),
            reason: "keep for the audit".to_owned(),
        };
        let bytes = mark.encode(MarkKind::Pin).unwrap();
        assert!(Mark::decode(MarkKind::Deletion, &bytes).is_err());
        assert_eq!(Mark::decode(MarkKind::Pin, &bytes), Ok(mark));
    }
}
