//! Sealed objects, frames and directories: what was changed is refused, what was sealed comes back.

#![no_main]

use cryostore_format::encryption::{
    EpochKey, KeyRing, SEAL_LEN, Seals, Secret, check_sealed_pack_header, open_frame, open_object,
    open_tail, seal_frame, seal_object, seal_tail, sealed_tail_len, stamp_frame,
};
use cryostore_format::envelope::{self, Codec, ObjectType};
use cryostore_format::pack::DirectoryView;
use cryostore_format::{Digest, IdKey, PackId, RepositoryId};
use libfuzzer_sys::fuzz_target;

const PACK: PackId = PackId::from_bytes([1; 16]);
const NAME: &str = "sessions/01";
/// Where the frame stands: offset, first chunk.
const PLACE: (u32, u32) = (32, 0);

fn seals() -> Seals {
    let ring = KeyRing {
        id_key: IdKey::from_bytes([1; 32]),
        record: Digest::default(),
        epochs: vec![EpochKey {
            epoch: 1,
            order: 0,
            secret: Secret::from_bytes([2; 32]),
        }],
    };
    Seals::new(RepositoryId::from_bytes([3; 16]), &ring, &[4; 32]).unwrap()
}

/// One bit of `bytes` is flipped, and `open` must refuse them.
fn flipped(what: &str, mut bytes: Vec<u8>, at: u64, open: impl Fn(&[u8]) -> bool) {
    assert!(open(&bytes), "{what} comes back");
    let bit = usize::try_from(at).unwrap_or(0) % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    assert!(!open(&bytes), "{what}: bit {bit} was flipped");
}

fuzz_target!(|data: &[u8]| {
    let seals = seals();
    let pack_len = data.len() as u64;
    let place = Some((PACK, PLACE.0, PLACE.1));
    // As they are: nobody guesses a tag.
    assert!(open_object(&seals, NAME, data).is_err());
    assert!(open_frame(&seals, place, data, &mut Vec::new()).is_err());
    assert!(open_tail(&seals, PACK, data, pack_len).is_err());
    let _ = (sealed_tail_len(data), check_sealed_pack_header(PACK, data));

    // What somebody with the key makes of them.
    let Some((head, content)) = data.split_first_chunk::<8>() else {
        return;
    };
    let at = u64::from_le_bytes(*head);
    let session = envelope::seal(ObjectType::Session, content, Codec::Zstd);
    let sealed = seal_object(&seals, NAME, &session).unwrap();
    flipped("an object", sealed, at, |bytes| {
        open_object(&seals, NAME, bytes).is_ok_and(|opened| opened == session)
    });
    let mut frame = [&[0; SEAL_LEN], content].concat();
    seal_frame(&seals, &mut frame).unwrap();
    let seal = frame.first_chunk_mut().unwrap();
    stamp_frame(&seals, PACK, PLACE.0, PLACE.1, seal).unwrap();
    flipped("a frame", frame, at, |bytes| {
        let mut opened = Vec::new();
        open_frame(&seals, place, bytes, &mut opened).is_ok() && opened == content
    });
    // A directory that is none, but has the seal: the decoder behind must stand it.
    let tail = seal_tail(&seals, PACK, 32, content).unwrap();
    let pack_len = 32 + tail.len() as u64;
    if let Ok(opened) = open_tail(&seals, PACK, &tail, pack_len) {
        assert_eq!(opened, content);
        let _ = DirectoryView::decode(PACK, &opened, 32 + content.len() as u64);
    }
});
