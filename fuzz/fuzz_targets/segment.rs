//! Index segments: what is decoded encodes to what decodes equal.

#![no_main]

use cryostore_format::envelope::ObjectType;
use cryostore_format::limits;
use cryostore_format::segment::Segment;
use cryostore_fuzz::objects;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    objects(ObjectType::Segment, data, |object| {
        let Ok(segment) = Segment::decode(object) else {
            return;
        };
        assert!(
            segment
                .packs
                .iter()
                .all(|pack| pack.pack_len <= limits::PACK_MAX)
        );
        assert_eq!(
            Segment::decode(&segment.encode()),
            Ok(segment),
            "a segment reads back"
        );
    });
});
