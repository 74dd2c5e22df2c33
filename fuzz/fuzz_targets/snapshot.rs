//! The records in JSON: snapshots, tombstones, sessions, collections, marks, damage records, repository.json.

#![no_main]

use cryostore_format::collection::CollectionRecord;
use cryostore_format::damaged::DamageRecord;
use cryostore_format::envelope::ObjectType;
use cryostore_format::mark::{Mark, MarkKind};
use cryostore_format::repository::{FORMAT, RepositoryRecord, Role, VERSION};
use cryostore_format::session::SessionRecord;
use cryostore_format::snapshot::Entry;
use cryostore_fuzz::objects;
use libfuzzer_sys::fuzz_target;

fn entry(object: &[u8]) {
    let Ok(entry) = Entry::decode(object) else {
        return;
    };
    let again = match &entry {
        Entry::Snapshot(record) => record.encode(),
        Entry::Tombstone(tombstone) => tombstone.encode(),
    };
    assert_eq!(
        Entry::decode(&again.unwrap()),
        Ok(entry),
        "a record reads back as what it is"
    );
}

fn session(object: &[u8]) {
    let Ok(record) = SessionRecord::decode(object) else {
        return;
    };
    assert_eq!(SessionRecord::decode(&record.encode().unwrap()), Ok(record));
}

fn collection(object: &[u8]) {
    let Ok(record) = CollectionRecord::decode(object) else {
        return;
    };
    assert_eq!(
        CollectionRecord::decode(&record.encode().unwrap()),
        Ok(record)
    );
}

fn damage(object: &[u8]) {
    let Ok(record) = DamageRecord::decode(object) else {
        return;
    };
    assert_eq!(DamageRecord::decode(&record.encode().unwrap()), Ok(record));
}

fn mark(object: &[u8], kind: MarkKind) {
    let Ok(mark) = Mark::decode(kind, object) else {
        return;
    };
    assert_eq!(Mark::decode(kind, &mark.encode(kind).unwrap()), Ok(mark));
}

fn repository(data: &[u8]) {
    let record = match RepositoryRecord::decode(data) {
        Ok(record) => record,
        Err(e) => return assert!(!e.to_string().is_empty()),
    };
    assert!(record.format == FORMAT && (1..=VERSION).contains(&record.version));
    let chunking = &record.chunking;
    assert!(
        64 <= chunking.min && chunking.min <= chunking.average && chunking.average <= chunking.max
    );
    assert_eq!(record.id_key().is_ok(), record.encryption.is_none());
    let read = record.allows(Role::Read);
    for role in [Role::Write, Role::Collect] {
        // Who may write or collect may read.
        assert!(record.allows(role).is_err() || read.is_ok());
    }
    assert!(read.is_ok() || read.is_err_and(|e| e.is_unsupported()));
    assert_eq!(
        RepositoryRecord::decode(&record.encode().unwrap()),
        Ok(record)
    );
}

fuzz_target!(|data: &[u8]| {
    objects(ObjectType::Snapshot, data, entry);
    objects(ObjectType::Tombstone, data, entry);
    objects(ObjectType::Session, data, session);
    objects(ObjectType::Collection, data, collection);
    objects(ObjectType::Deletion, data, |object| {
        mark(object, MarkKind::Deletion);
    });
    objects(ObjectType::Damage, data, damage);
    objects(ObjectType::Pin, data, |object| mark(object, MarkKind::Pin));
    repository(data);
});
