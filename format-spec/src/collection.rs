#![doc = include_str!("../spec/collection.md")]

use serde::{Deserialize, Serialize};

use crate::envelope::ObjectType;
use crate::error::{FormatError, Result};
use crate::ids::{CollectionId, PackId};
use crate::limits;
use crate::session::Place;
use crate::snapshot::{decode_record, encode_record};

/// What a collection found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionRecord {
    /// The record's name, as in the object's name.
    pub id: CollectionId,
    /// When it was made, RFC 3339, UTC. For people.
    pub created: String,
    /// Packs that nothing referred to: no session that begins after this record refers to them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub condemned: Vec<PackId>,
    /// Snapshots that were deleted and cannot be brought back any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given_up: Vec<Place>,
    /// Records of earlier collections of which nothing is there any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<CollectionId>,
    /// Packs that imports are not to refer to again.
    #[serde(default)]
    pub leave: Vec<PackId>,
}

impl CollectionRecord {
    /// The object's bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.bounded()?;
        encode_record(ObjectType::Collection, self)
    }

    /// Reads the object.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let record: Self = decode_record(ObjectType::Collection, bytes)?;
        record.bounded()?;
        Ok(record)
    }

    fn bounded(&self) -> Result<()> {
        let bounds = [
            ("packs to leave", self.leave.len(), limits::LEAVE_MAX),
            (
                "condemned packs",
                self.condemned.len(),
                limits::CONDEMNED_MAX,
            ),
            ("records that are done", self.done.len(), limits::DONE_MAX),
            (
                "snapshots given up",
                self.given_up.len(),
                limits::GIVEN_UP_MAX,
            ),
        ];
        match bounds.into_iter().find(|(_, got, limit)| got > limit) {
            None => Ok(()),
            Some((what, got, limit)) => Err(FormatError::TooLarge {
                what,
                limit: limit as u64,
                got: got as u64,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(packs: usize) -> CollectionRecord {
        CollectionRecord {
            id: CollectionId::from_bytes([1; 16]),
            created: "2026-11-21T12:00:00Z".to_owned(),
            condemned: vec![PackId::from_bytes([3; 16]); packs],
            given_up: Vec::new(),
            done: vec![CollectionId::from_bytes([4; 16])],
            leave: vec![PackId::from_bytes([2; 16]); packs],
        }
    }

    #[test]
    fn a_collection_reads_back() {
        for packs in [0, 3, limits::LEAVE_MAX] {
            let record = record(packs);
            assert_eq!(
                CollectionRecord::decode(&record.encode().unwrap()),
                Ok(record)
            );
        }
    }

    #[test]
    fn more_packs_than_the_document_says_are_neither_written_nor_read() {
        let record = record(limits::LEAVE_MAX + 1);
        assert!(record.encode().is_err());
        let bytes = encode_record(ObjectType::Collection, &record).unwrap();
        assert!(CollectionRecord::decode(&bytes).is_err());
    }
}
