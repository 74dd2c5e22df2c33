#![doc = include_str!("../spec/segment.md")]

use crate::envelope::{self, Codec, ObjectType};
use crate::error::{FormatError, Result};
use crate::ids::{ChunkId, ID_LEN, PackId};
use crate::limits;
use crate::pack::split_ids;
use crate::wire::{Put, Reader};

/// The ids of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackIds {
    /// The pack.
    pub pack: PackId,
    /// Bytes of the whole pack.
    pub pack_len: u64,
    /// Ids by chunk number from 0 on; a pack of plain frames has them for all of its chunks.
    pub ids: Vec<ChunkId>,
}

/// An index segment: which chunks some packs hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    /// The packs, in the order in which they were written.
    pub packs: Vec<PackIds>,
}

impl Segment {
    /// The object's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_varint(self.packs.len() as u64);
        for pack in &self.packs {
            plain.extend_from_slice(pack.pack.as_bytes());
            plain.put_varint(pack.pack_len);
            // One run of chunk numbers, from 0 on: see spec/segment.md.
            plain.put_varint(1);
            plain.put_varint(0);
            plain.put_varint(pack.ids.len() as u64);
            for id in &pack.ids {
                plain.extend_from_slice(id.as_bytes());
            }
        }
        envelope::seal(ObjectType::Segment, &plain, Codec::Stored)
    }

    /// Reads the object.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        const WHAT: &str = "index segment";
        let plain = envelope::open(ObjectType::Segment, bytes, limits::SEGMENT_PLAIN_MAX)?;
        let mut r = Reader::new(WHAT, &plain);
        let count = r.count(
            "packs of an index segment",
            limits::MANIFEST_PACKS_MAX,
            ID_LEN + 4,
        )?;
        let mut packs = Vec::with_capacity(count);
        for _ in 0..count {
            let pack = PackId::from_bytes(r.array()?);
            let pack_len = r.varint()?;
            if pack_len > limits::PACK_MAX {
                return Err(FormatError::TooLarge {
                    what: "pack",
                    limit: limits::PACK_MAX,
                    got: pack_len,
                });
            }
            if r.varint()? != 1 || r.varint()? != 0 {
                return Err(FormatError::UnknownFeature {
                    what: WHAT,
                    feature: "runs of chunk numbers".to_owned(),
                });
            }
            let ids = r.count("ids of a pack", limits::PACK_CHUNKS_MAX.into(), ID_LEN)?;
            packs.push(PackIds {
                pack,
                pack_len,
                ids: split_ids(r.bytes(ids * ID_LEN)?),
            });
        }
        r.finish()?;
        Ok(Self { packs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_reads_back() {
        let ids = (0..100_u8).map(|n| ChunkId::from_bytes([n; 16])).collect();
        let segment = Segment {
            packs: vec![
                PackIds {
                    pack: PackId::from_bytes([1; 16]),
                    pack_len: 1 << 24,
                    ids,
                },
                PackIds {
                    pack: PackId::from_bytes([2; 16]),
                    pack_len: 96,
                    ids: Vec::new(),
                },
            ],
        };
        assert_eq!(Segment::decode(&segment.encode()), Ok(segment));
    }
}
