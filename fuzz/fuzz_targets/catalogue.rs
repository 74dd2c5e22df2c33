//! Catalogues: what is decoded encodes to what decodes equal, and each entry is read or refused.

#![no_main]

use cryostore_format::catalogue::Catalogue;
use cryostore_format::envelope::ObjectType;
use cryostore_format::limits;
use cryostore_format::session::Place;
use cryostore_format::snapshot::Entry;
use cryostore_fuzz::objects;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    objects(ObjectType::Catalogue, data, |object| {
        let Ok(catalogue) = Catalogue::decode(object) else {
            return;
        };
        let entries = &catalogue.entries;
        assert!(entries.len() as u64 <= limits::CATALOGUE_MAX);
        assert!(entries.windows(2).all(|pair| pair[0].place < pair[1].place));
        for entry in entries {
            if let Ok(Entry::Snapshot(record)) = entry.entry() {
                assert_eq!(Place::of(&record), entry.place);
            }
        }
        let again = catalogue.encode().unwrap();
        assert_eq!(Catalogue::decode(&again), Ok(catalogue), "it reads back");
    });
});
