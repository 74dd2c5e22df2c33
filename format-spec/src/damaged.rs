#![doc = include_str!("../spec/damaged.md")]

use serde::{Deserialize, Serialize};

use crate::envelope::ObjectType;
use crate::error::{FormatError, Result};
use crate::ids::PackId;
use crate::limits;
use crate::snapshot::{decode_record, encode_record};

/// What of a pack is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// Nothing of it can be read.
    Whole,
    /// Its frames can be read, their list cannot.
    Directory,
    /// Some frames cannot be read: their offsets, in bytes from the start of the pack, in ascending order.
    Frames(Vec<u32>),
}

/// A pack in which damage was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageRecord {
    /// The pack, as in the object's name.
    pub pack: PackId,
    /// What of it.
    pub what: Extent,
    /// When, RFC 3339, UTC. For people.
    pub created: String,
    /// Host and process that found it.
    pub owner: String,
}

impl DamageRecord {
    /// The object's bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check()?;
        encode_record(ObjectType::Damage, self)
    }

    /// Reads the object.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let record: Self = decode_record(ObjectType::Damage, bytes)?;
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<()> {
        let Extent::Frames(offsets) = &self.what else {
            return Ok(());
        };
        if offsets.len() > limits::DAMAGED_FRAMES_MAX {
            return Err(FormatError::TooLarge {
                what: "damaged frames",
                limit: limits::DAMAGED_FRAMES_MAX as u64,
                got: offsets.len() as u64,
            });
        }
        if offsets.is_empty() || !offsets.is_sorted_by(|a, b| a < b) {
            return Err(FormatError::invalid(
                "damage record",
                "its frames are none, or not in ascending order",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(what: Extent) -> DamageRecord {
        DamageRecord {
            pack: PackId::from_bytes([1; 16]),
            what,
            created: "2026-11-21T12:00:00Z".to_owned(),
            owner: "node-1, process 7".to_owned(),
        }
    }

    #[test]
    fn a_record_reads_back_whatever_is_damaged() {
        let frames = (0..).take(limits::DAMAGED_FRAMES_MAX).map(|n| n * 65_000);
        for what in [
            Extent::Whole,
            Extent::Directory,
            Extent::Frames(vec![32]),
            Extent::Frames(frames.collect()),
        ] {
            let record = record(what);
            let bytes = record.encode().unwrap();
            assert!(bytes.len() as u64 <= limits::RECORD_MAX);
            assert_eq!(DamageRecord::decode(&bytes), Ok(record));
        }
    }

    #[test]
    fn frames_that_are_none_or_too_many_or_out_of_order_are_neither_written_nor_read() {
        let many = (0..).take(limits::DAMAGED_FRAMES_MAX + 1).collect();
        for frames in [vec![], vec![5, 4], vec![4, 4], many] {
            let record = record(Extent::Frames(frames));
            assert!(record.encode().is_err());
            let bytes = encode_record(ObjectType::Damage, &record).unwrap();
            assert!(DamageRecord::decode(&bytes).is_err());
        }
    }
}
