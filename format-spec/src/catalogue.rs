#![doc = include_str!("../spec/catalogue.md")]

use crate::envelope::{self, Codec, ObjectType};
use crate::error::{FormatError, Result};
use crate::ids::{ID_LEN, Lineage, SnapshotId};
use crate::limits;
use crate::session::Place;
use crate::snapshot::Entry;
use crate::wire::{Put, Reader};

const WHAT: &str = "catalogue";
/// Ids, type, and at least a byte each of length, tag's length, tag and content's length.
const ENTRY_LEAST: usize = 2 * ID_LEN + 1 + 4;

/// What a catalogue remembers of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Where it is.
    pub place: Place,
    /// A snapshot record or a tombstone.
    pub kind: ObjectType,
    /// Bytes of the object as it is stored.
    pub stored_len: u64,
    /// What the store's lists call this state of it.
    pub tag: String,
    /// The content of its envelope. It was not looked at.
    pub content: Vec<u8>,
}

impl Remembered {
    /// What the object says, if it says that it is of this place.
    pub fn entry(&self) -> Result<Entry> {
        let entry = Entry::of_content(self.kind, &self.content)?;
        let is_of_place = match &entry {
            Entry::Snapshot(record) => Place::of(record) == self.place,
            Entry::Tombstone(tombstone) => tombstone.id == self.place.snapshot,
        };
        if is_of_place {
            Ok(entry)
        } else {
            Err(FormatError::invalid(WHAT, "an entry is of another place"))
        }
    }
}

/// What stood at many places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// In the order of their places, no place twice.
    pub entries: Vec<Remembered>,
}

impl Catalogue {
    /// The object's bytes. An error if the entries are not what a reader takes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        plain.put_varint(self.entries.len() as u64);
        for entry in &self.entries {
            plain.extend_from_slice(entry.place.lineage.as_bytes());
            plain.extend_from_slice(entry.place.snapshot.as_bytes());
            plain.push(entry.kind as u8);
            plain.put_varint(entry.stored_len);
            plain.put_string(entry.tag.as_bytes());
            plain.put_string(&entry.content);
        }
        let len = plain.len() as u64;
        if len > limits::CATALOGUE_PLAIN_MAX {
            return Err(FormatError::TooLarge {
                what: WHAT,
                limit: limits::CATALOGUE_PLAIN_MAX,
                got: len,
            });
        }
        Self::of_content(&plain)?;
        Ok(envelope::seal(ObjectType::Catalogue, &plain, Codec::Zstd))
    }

    /// Reads the object.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let plain = envelope::open(ObjectType::Catalogue, bytes, limits::CATALOGUE_PLAIN_MAX)?;
        Self::of_content(&plain)
    }

    fn of_content(plain: &[u8]) -> Result<Self> {
        let mut r = Reader::new(WHAT, plain);
        let count = r.count("entries of a catalogue", limits::CATALOGUE_MAX, ENTRY_LEAST)?;
        let mut entries: Vec<Remembered> = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = remembered(&mut r)?;
            if entries.last().is_some_and(|last| last.place >= entry.place) {
                return Err(FormatError::invalid(WHAT, "its places are not in order"));
            }
            entries.push(entry);
        }
        r.finish()?;
        Ok(Self { entries })
    }
}

fn remembered(r: &mut Reader<'_>) -> Result<Remembered> {
    let place = Place {
        lineage: Lineage::from_bytes(r.array()?),
        snapshot: SnapshotId::from_bytes(r.array()?),
    };
    let kind = match r.u8()? {
        3 => ObjectType::Snapshot,
        4 => ObjectType::Tombstone,
        n => {
            return Err(FormatError::UnknownFeature {
                what: WHAT,
                feature: format!("entries of type {n}"),
            });
        }
    };
    let stored_len = r.varint()?;
    let tag = r.string("tag", limits::TAG_MAX)?;
    let tag = std::str::from_utf8(tag).map_err(|e| FormatError::invalid(WHAT, e.to_string()))?;
    if tag.is_empty() {
        return Err(FormatError::invalid(WHAT, "an entry has no tag"));
    }
    let content = r.string("content of an entry", limits::RECORD_MAX)?;
    Ok(Remembered {
        place,
        kind,
        stored_len,
        tag: tag.to_owned(),
        content: content.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Tombstone;
    use crate::snapshot::tests::sample;
    use proptest::prelude::*;

    fn record() -> Remembered {
        let record = sample();
        let (kind, content) = Entry::content(&record.encode().unwrap()).unwrap();
        Remembered {
            place: Place::of(&record),
            kind,
            stored_len: 700,
            tag: "0x8DD".to_owned(),
            content,
        }
    }

    fn tombstone() -> Remembered {
        let mut place = record().place;
        place.snapshot = SnapshotId::from_bytes([9; 16]);
        let tombstone = Tombstone {
            id: place.snapshot,
            session: None,
            created: "2026-11-20T12:00:00Z".to_owned(),
            reason: "deleted".to_owned(),
        };
        let (kind, content) = Entry::content(&tombstone.encode().unwrap()).unwrap();
        Remembered {
            place,
            kind,
            stored_len: 200,
            tag: "a".to_owned(),
            content,
        }
    }

    #[test]
    fn a_catalogue_gives_its_entries_back() {
        for entries in [vec![], vec![record()], vec![record(), tombstone()]] {
            let catalogue = Catalogue { entries };
            let read = Catalogue::decode(&catalogue.encode().unwrap()).unwrap();
            assert_eq!(read, catalogue);
        }
        assert_eq!(record().entry(), Ok(Entry::Snapshot(Box::new(sample()))));
        assert!(matches!(tombstone().entry(), Ok(Entry::Tombstone(_))));
    }

    #[test]
    fn an_entry_of_another_place_or_kind_stands_for_nothing() {
        for mut entry in [record(), tombstone()] {
            entry.place.snapshot = SnapshotId::from_bytes([7; 16]);
            assert!(entry.entry().is_err());
        }
        let mut entry = record();
        entry.kind = ObjectType::Tombstone;
        assert!(entry.entry().is_err());
        let mut entry = record();
        entry.place.lineage = Lineage::default();
        assert!(entry.entry().is_err());
    }

    #[test]
    fn what_no_reader_takes_is_not_written() {
        let refused = |change: fn(&mut Vec<Remembered>)| {
            let mut entries = vec![record(), tombstone()];
            change(&mut entries);
            assert!(Catalogue { entries }.encode().is_err());
        };
        refused(|entries| entries.reverse());
        refused(|entries| entries[1] = entries[0].clone());
        refused(|entries| entries[0].tag.clear());
        refused(|entries| entries[0].tag = "x".repeat(257));
        refused(|entries| entries[0].kind = ObjectType::Pin);
        refused(|entries| entries[0].content = vec![b' '; (1 << 20) + 1]);
    }

    #[test]
    fn an_entry_of_a_type_from_the_future_is_named() {
        let mut plain = vec![1];
        plain.extend_from_slice(&[0; 32]);
        plain.extend_from_slice(&[12, 1, 1, b'x', 0]);
        let object = envelope::seal(ObjectType::Catalogue, &plain, Codec::Stored);
        let refusal = Catalogue::decode(&object).unwrap_err();
        assert!(refusal.is_unsupported(), "{refusal}");
        assert!(refusal.to_string().contains("type 12"), "{refusal}");
    }

    #[test]
    fn more_entries_than_the_bytes_could_hold_are_refused_before_memory_is_taken() {
        let mut plain = Vec::new();
        plain.put_varint(limits::CATALOGUE_MAX);
        plain.extend_from_slice(&[0; 100]);
        let object = envelope::seal(ObjectType::Catalogue, &plain, Codec::Stored);
        assert!(matches!(
            Catalogue::decode(&object),
            Err(FormatError::Truncated { .. })
        ));
    }

    fn any_entry() -> impl Strategy<Value = Remembered> {
        let content = proptest::collection::vec(any::<u8>(), 0..40);
        let place = (any::<[u8; 16]>(), any::<[u8; 16]>());
        (place, any::<bool>(), any::<u64>(), ".{1,20}", content).prop_map(
            |((lineage, snapshot), is_record, stored_len, tag, content)| Remembered {
                place: Place {
                    lineage: Lineage::from_bytes(lineage),
                    snapshot: SnapshotId::from_bytes(snapshot),
                },
                kind: if is_record {
                    ObjectType::Snapshot
                } else {
                    ObjectType::Tombstone
                },
                stored_len,
                tag,
                content,
            },
        )
    }

    proptest! {
        #[test]
        fn any_catalogue_reads_back(mut entries in proptest::collection::vec(any_entry(), 0..20)) {
            entries.sort_by_key(|entry| entry.place);
            entries.dedup_by_key(|entry| entry.place);
            let catalogue = Catalogue { entries };
            prop_assert_eq!(Catalogue::decode(&catalogue.encode().unwrap()), Ok(catalogue));
        }

        #[test]
        fn arbitrary_content_is_read_or_refused(plain in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(catalogue) = Catalogue::of_content(&plain) {
                let again = envelope::open(ObjectType::Catalogue, &catalogue.encode().unwrap(), 1 << 20);
                prop_assert_eq!(again.unwrap(), plain, "one encoding per catalogue");
                for entry in &catalogue.entries {
                    let _ = entry.entry();
                }
            }
        }
    }
}
