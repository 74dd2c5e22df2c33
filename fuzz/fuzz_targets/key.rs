//! Key objects, key files and key rings: what is decoded encodes to the same; no cost is taken that is too high.

#![no_main]

use cryostore_format::encryption::{KeyFile, KeyKind, KeyRecord, KeyRing, Secret, Unlock};
use cryostore_format::envelope::ObjectType;
use cryostore_format::{RepositoryId, limits};
use cryostore_fuzz::objects;
use libfuzzer_sys::fuzz_target;

fn key(object: &[u8]) {
    let record = match KeyRecord::decode(object) {
        Ok(record) => record,
        Err(e) => return assert!(!e.to_string().is_empty()),
    };
    assert_eq!(
        KeyRecord::decode(&record.encode().unwrap()).as_ref(),
        Ok(&record)
    );
    let id = RepositoryId::default();
    let unlock = match record.kind {
        KeyKind::Passphrase => {
            let cost = record.argon2.unwrap();
            assert!(cost.memory_kib <= limits::ARGON2_MEMORY_KIB_MAX);
            // More only takes longer.
            if cost.memory_kib > 256 || cost.passes > 4 {
                return;
            }
            Unlock::Passphrase(b"guess".to_vec().into())
        }
        KeyKind::File => Unlock::File(KeyFile {
            repository: id,
            secret: Secret::from_bytes([7; 32]),
        }),
        KeyKind::Command => Unlock::Command(b"0123456789abcdef".to_vec().into()),
    };
    assert!(record.unwrap(id, &unlock).is_err(), "nobody guesses a tag");
}

fuzz_target!(|data: &[u8]| {
    objects(ObjectType::Key, data, key);
    if let Ok(file) = KeyFile::decode(data) {
        assert_eq!(KeyFile::decode(file.encode().as_bytes()), Ok(file));
    }
    if let Ok(ring) = KeyRing::decode(data) {
        assert!(ring.current().is_some());
        assert_eq!(KeyRing::decode(&ring.encode().unwrap()), Ok(ring));
    }
});
