//! What is sealed: golden vectors, and that nothing which was changed, moved or cut is opened.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

#[expect(dead_code, reason = "what is sealed needs some of them")]
mod values;

use std::collections::BTreeSet;
use std::path::PathBuf;

use cryostore_format::encryption::{
    Argon2Cost, EpochKey, KeyFile, KeyLabel, KeyRecord, KeyRing, SEAL_LEN, Seals, Secret, Unlock,
    check_sealed_pack_header, is_sealed, open_frame, open_object, open_tail, seal_frame,
    seal_object, seal_tail, sealed_pack_header, sealed_tail_len, stamp_frame,
};
use cryostore_format::envelope::{self, Codec, ObjectType};
use cryostore_format::limits;
use cryostore_format::pack::Directory;
use cryostore_format::repository::{RepositoryRecord, Role};
use cryostore_format::{Digest, FormatError, IdKey, KeyId, PackId, RepositoryId};
use proptest::prelude::*;

const REPOSITORY: RepositoryId = RepositoryId::from_bytes([0x71; 16]);
const NAME: &str = "sessions/5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e";

fn epoch(epoch: u32, order: u32) -> EpochKey {
    EpochKey {
        epoch,
        order,
        secret: Secret::from_bytes([0xe0 + order as u8; 32]),
    }
}

fn ring() -> KeyRing {
    KeyRing {
        id_key: IdKey::from_bytes([0x4b; 32]),
        record: record().checksum().unwrap(),
        epochs: vec![epoch(7, 0), epoch(0x0102_0304, 1)],
    }
}

fn record() -> RepositoryRecord {
    RepositoryRecord::encrypted(REPOSITORY, "2026-11-20T12:00:00Z".to_owned())
}

fn seals_of(repository: RepositoryId, ring: &KeyRing) -> Seals {
    Seals::new(repository, ring, &[0x5a; 32]).unwrap()
}

fn seals() -> Seals {
    seals_of(REPOSITORY, &ring())
}

fn session() -> Vec<u8> {
    values::session().encode().unwrap()
}

fn sealed_session() -> Vec<u8> {
    seal_object(&seals(), NAME, &session()).unwrap()
}

/// A frame of 64 bytes as it is before it is sealed.
fn frame(seed: u8) -> Vec<u8> {
    (0..64).map(|n| n ^ seed).collect()
}

/// Two frames, sealed at these places of the pack.
fn sealed_frames(seals: &Seals) -> [((u32, u32), Vec<u8>); 2] {
    [((32, 0), 1), ((32 + 48 + 64, 3), 2)].map(|((offset, first), seed)| {
        let mut bytes = vec![0; SEAL_LEN];
        bytes.extend_from_slice(&frame(seed));
        seal_frame(seals, &mut bytes).unwrap();
        let seal = bytes.first_chunk_mut().unwrap();
        stamp_frame(seals, values::PACK, offset, first, seal).unwrap();
        ((offset, first), bytes)
    })
}

/// The sealed form of the pack of the values.
fn sealed_pack() -> Vec<u8> {
    let seals = seals();
    let mut out = sealed_pack_header(values::PACK).to_vec();
    let mut directory = Directory::default();
    for frame in values::frames() {
        let content = frame.content();
        let mut header = frame.header(content.len());
        header.codec = Codec::Stored;
        directory.push_sealed(&header, &frame.ids()).unwrap();
        let entry = *directory.frames.last().unwrap();
        let mut bytes = vec![0; SEAL_LEN];
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&content);
        seal_frame(&seals, &mut bytes).unwrap();
        let seal = bytes.first_chunk_mut().unwrap();
        stamp_frame(&seals, values::PACK, entry.offset, entry.first_chunk, seal).unwrap();
        assert_eq!(out.len(), entry.offset as usize);
        out.extend_from_slice(&bytes);
    }
    let tail = directory.encode(values::PACK).unwrap();
    let tail = seal_tail(&seals, values::PACK, out.len() as u64, &tail).unwrap();
    out.extend_from_slice(&tail);
    out
}

fn key_file() -> KeyFile {
    KeyFile {
        repository: REPOSITORY,
        secret: Secret::from_bytes([0xf1; 32]),
    }
}

fn unlocks() -> [(&'static str, Unlock); 3] {
    let bytes = |text: &str| text.as_bytes().to_vec().into();
    [
        ("key-file", Unlock::File(key_file())),
        ("key-command", Unlock::Command(bytes("0123456789abcdef"))),
        ("key-passphrase", Unlock::Passphrase(bytes("correct horse"))),
    ]
}

/// Cheap, for tests.
const COST: Argon2Cost = Argon2Cost {
    memory_kib: 64,
    passes: 2,
    lanes: 1,
};

fn wrapped(unlock: &Unlock) -> KeyRecord {
    let about = KeyLabel {
        id: KeyId::from_bytes([0xd1; 16]),
        label: "laptop".to_owned(),
        created: "2026-11-20T12:00:00Z".to_owned(),
    };
    let salt = Digest::from_bytes([0x5c; 32]);
    KeyRecord::wrap(&ring(), REPOSITORY, unlock, about, salt, COST).unwrap()
}

/// Cargo runs tests in the folder of their package.
fn folder() -> PathBuf {
    PathBuf::from("vectors/sealed")
}

/// Every vector. Append only: what is there is never changed.
fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut out = vec![
        (
            "repository",
            "repository.json of an encrypted repository",
            record().encode().unwrap(),
        ),
        (
            "session",
            "the record of a session, sealed for its name in epoch 0x01020304",
            sealed_session(),
        ),
        (
            "pack",
            "a whole sealed pack: the frames of the vector `pack`, both stored",
            sealed_pack(),
        ),
        (
            "key-file-text",
            "the text of a key file",
            key_file().encode().as_bytes().to_vec(),
        ),
    ];
    let notes = [
        "the key ring, wrapped with that key file",
        "the key ring, wrapped with what a command prints: 0123456789abcdef",
        "the key ring, wrapped with the passphrase `correct horse`, 64 KiB, 2 passes, 1 lane",
    ];
    for ((name, unlock), note) in unlocks().iter().zip(notes) {
        out.push((*name, note, wrapped(unlock).encode().unwrap()));
    }
    out
}

fn golden(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.hex"))).unwrap();
    let (_, digits) = text.split_once('\n').unwrap();
    hex::decode(digits.lines().collect::<String>()).unwrap()
}

#[test]
#[ignore = "writes the vectors that are missing"]
fn write_the_vectors_that_are_missing() {
    for (name, note, bytes) in all() {
        let path = folder().join(format!("{name}.hex"));
        if path.exists() {
            continue;
        }
        let mut text = format!("# {note}\n");
        for line in bytes.chunks(64) {
            text += &hex::encode(line);
            text.push('\n');
        }
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn what_is_sealed_today_is_what_was_sealed_then() {
    let files: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let known: BTreeSet<String> = all().iter().map(|v| format!("{}.hex", v.0)).collect();
    assert_eq!(files, known);
    for (name, _, bytes) in all() {
        assert_eq!(hex::encode(golden(name)), hex::encode(bytes), "{name}");
    }
}

#[test]
fn what_was_sealed_then_is_opened() {
    assert_eq!(
        RepositoryRecord::decode(&golden("repository")),
        Ok(record())
    );
    assert!(record().allows(Role::Collect).is_ok());
    assert_eq!(
        open_object(&seals(), NAME, &golden("session")),
        Ok(session())
    );
    let text = golden("key-file-text");
    assert_eq!(KeyFile::decode(&text), Ok(key_file()));
    for (name, unlock) in unlocks() {
        let key = KeyRecord::decode(&golden(name)).unwrap();
        assert_eq!(key.unwrap(REPOSITORY, &unlock), Ok(ring()), "{name}");
    }
    let pack = golden("pack");
    check_sealed_pack_header(values::PACK, &pack).unwrap();
    let len = pack.len() as u64;
    let tail = open_tail(&seals(), values::PACK, &pack, len).unwrap();
    let taken_off = sealed_tail_len(&pack).unwrap() - tail.len() as u64;
    let directory = Directory::decode(values::PACK, &tail, len - taken_off).unwrap();
    let mut opened = Vec::new();
    for (entry, frame) in directory.frames.iter().zip(values::frames()) {
        let start = entry.offset as usize;
        let bytes = &pack[start..start + entry.stored_len as usize];
        let place = (values::PACK, entry.offset, entry.first_chunk);
        open_frame(&seals(), Some(place), bytes, &mut opened).unwrap();
        assert_eq!(opened[48..], frame.content());
    }
}

/// Every bit of `bytes`, flipped alone, and every cut, must be refused by `open`.
fn assert_no_bit_is_free(
    what: &str,
    bytes: &[u8],
    open: impl Fn(&[u8]) -> Result<(), FormatError>,
) {
    open(bytes).unwrap();
    for at in 0..bytes.len() {
        assert!(open(&bytes[..at]).is_err(), "{what} cut at {at}");
        for bit in 0..8 {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1 << bit;
            assert!(open(&bad).is_err(), "{what}: bit {bit} of byte {at}");
        }
    }
    let longer = [bytes, &[0]].concat();
    assert!(open(&longer).is_err(), "{what} with a byte more");
}

#[test]
fn no_bit_of_anything_sealed_can_be_changed_unnoticed() {
    let seals = seals();
    assert_no_bit_is_free("session", &sealed_session(), |bytes| {
        open_object(&seals, NAME, bytes).map(drop)
    });
    let [((offset, first), frame), _] = sealed_frames(&seals);
    assert_no_bit_is_free("frame", &frame, |bytes| {
        let place = (values::PACK, offset, first);
        open_frame(&seals, Some(place), bytes, &mut Vec::new())
    });
    let pack = sealed_pack();
    assert_no_bit_is_free("pack header", &pack[..32], |bytes| {
        match bytes.len() {
            // What is behind it is none of its business.
            33 => Err(FormatError::WrongKey),
            _ => check_sealed_pack_header(values::PACK, bytes),
        }
    });
    let start = pack.len() - sealed_tail_len(&pack).unwrap() as usize;
    assert_no_bit_is_free("directory", &pack[start..], |bytes| {
        open_tail(&seals, values::PACK, bytes, pack.len() as u64).map(drop)
    });
    let (_, unlock) = unlocks().into_iter().next().unwrap();
    assert_no_bit_is_free("key", &wrapped(&unlock).encode().unwrap(), |bytes| {
        KeyRecord::decode(bytes)?
            .unwrap(REPOSITORY, &unlock)
            .map(drop)
    });
}

#[test]
fn what_stands_at_another_place_is_said_to_be_moved() {
    let seals = seals();
    let other = "sessions/00000000000000000000000000000000";
    let moved = open_object(&seals, other, &sealed_session()).unwrap_err();
    assert!(matches!(moved, FormatError::Misplaced { .. }), "{moved}");
    let [((offset, first), frame), ((next_offset, next_first), next)] = sealed_frames(&seals);
    let misplaced = Err(FormatError::Misplaced { what: "frame" });
    let mut out = Vec::new();
    for place in [
        (values::OTHER_PACK, offset, first),
        (values::PACK, next_offset, first),
        (values::PACK, offset, next_first),
        (values::PACK, first, offset),
    ] {
        assert_eq!(
            open_frame(&seals, Some(place), &frame, &mut out),
            misplaced,
            "{place:?}"
        );
    }
    // Two frames of one length that changed places.
    let place = (values::PACK, offset, first);
    assert_eq!(open_frame(&seals, Some(place), &next, &mut out), misplaced);
    let pack = sealed_pack();
    let len = pack.len() as u64;
    for (id, len) in [(values::OTHER_PACK, len), (values::PACK, len + 1)] {
        let misplaced = FormatError::Misplaced {
            what: "pack directory",
        };
        assert_eq!(open_tail(&seals, id, &pack, len), Err(misplaced));
    }
}

#[test]
fn the_seal_of_one_frame_does_not_fit_another() {
    let seals = seals();
    let [((offset, first), mut frame), (_, next)] = sealed_frames(&seals);
    // Everything but the stamp, which says that it belongs here.
    frame[..32].copy_from_slice(&next[..32]);
    frame[48..].copy_from_slice(&next[48..]);
    let place = Some((values::PACK, offset, first));
    let opened = open_frame(&seals, place, &frame, &mut Vec::new());
    assert_eq!(opened, Err(FormatError::Misplaced { what: "frame" }));
}

#[test]
fn another_repository_with_the_same_keys_opens_nothing() {
    let other = seals_of(RepositoryId::from_bytes([9; 16]), &ring());
    let session = open_object(&other, NAME, &sealed_session()).unwrap_err();
    assert!(matches!(session, FormatError::Seal { .. }), "{session}");
    let [((offset, first), frame), _] = sealed_frames(&seals());
    let place = Some((values::PACK, offset, first));
    let frame = open_frame(&other, place, &frame, &mut Vec::new());
    assert_eq!(frame, Err(FormatError::Seal { what: "frame" }));
    for (name, unlock) in unlocks() {
        let key = wrapped(&unlock);
        let other = RepositoryId::from_bytes([9; 16]);
        assert_eq!(
            key.unwrap(other, &unlock),
            Err(FormatError::WrongKey),
            "{name}"
        );
    }
}

#[test]
fn an_epoch_that_is_not_in_the_ring_is_named() {
    let mut old = ring();
    old.epochs.pop();
    let opened = open_object(&seals_of(REPOSITORY, &old), NAME, &sealed_session());
    let expected = FormatError::UnknownEpoch {
        what: "session record",
        epoch: 0x0102_0304,
    };
    assert_eq!(opened, Err(expected));
    // What was sealed before a rotation stays readable after it.
    let before = seal_object(&seals_of(REPOSITORY, &old), NAME, &session()).unwrap();
    assert_eq!(open_object(&seals(), NAME, &before), Ok(session()));
}

#[test]
fn an_object_of_one_type_is_not_taken_for_another() {
    let mut object = sealed_session();
    object[4] = ObjectType::Collection as u8;
    let opened = open_object(&seals(), NAME, &object).unwrap_err();
    assert!(matches!(opened, FormatError::Seal { .. }), "{opened}");
    let key = envelope::seal(ObjectType::Key, b"{}", Codec::Stored);
    assert!(seal_object(&seals(), NAME, &key).is_err());
}

#[test]
fn what_is_not_sealed_is_refused_and_where_nothing_is_sealed_the_other_way_round() {
    let plain = open_object(&seals(), NAME, &session()).unwrap_err();
    assert!(matches!(plain, FormatError::NotSealed { .. }), "{plain}");
    assert!(!is_sealed(&session()) && is_sealed(&sealed_session()));
    let sealed = envelope::open(ObjectType::Session, &sealed_session(), 1 << 20).unwrap_err();
    assert!(matches!(sealed, FormatError::Sealed { .. }), "{sealed}");
    let header = cryostore_format::pack::encode_pack_header(values::PACK);
    let plain = check_sealed_pack_header(values::PACK, &header).unwrap_err();
    assert!(matches!(plain, FormatError::NotSealed { .. }), "{plain}");
}

#[test]
fn the_same_random_numbers_repeat_no_nonce_for_other_bytes_and_other_ones_hide_what_is_the_same() {
    let nonce = |seals: &Seals, seed| {
        let mut bytes = vec![0; SEAL_LEN];
        bytes.extend_from_slice(&frame(seed));
        seal_frame(seals, &mut bytes).unwrap();
        bytes[4..16].to_vec()
    };
    // A machine and its clone: the same salt.
    assert_eq!(nonce(&seals(), 1), nonce(&seals(), 1));
    assert_ne!(nonce(&seals(), 1), nonce(&seals(), 2));
    let later = Seals::new(REPOSITORY, &ring(), &[0x5b; 32]).unwrap();
    assert_ne!(nonce(&seals(), 1), nonce(&later, 1));
}

#[test]
fn a_wrong_passphrase_file_or_output_opens_no_key() {
    let text = |text: &str| text.as_bytes().to_vec().into();
    let mut other = key_file();
    other.secret = Secret::from_bytes([0xf2; 32]);
    let wrong = [
        Unlock::File(other),
        Unlock::Command(text("0123456789abcdeg")),
        Unlock::Passphrase(text("correct house")),
    ];
    for (name, unlock) in unlocks() {
        let key = wrapped(&unlock);
        for wrong in &wrong {
            assert_eq!(
                key.unwrap(REPOSITORY, wrong),
                Err(FormatError::WrongKey),
                "{name}"
            );
        }
    }
}

#[test]
fn what_a_key_says_of_itself_cannot_be_changed() {
    let (_, unlock) = unlocks().into_iter().last().unwrap();
    let changes: [fn(&mut KeyRecord); 4] = [
        |key| key.label = "backup".to_owned(),
        |key| key.created = "2027-11-20T12:00:00Z".to_owned(),
        |key| key.id = KeyId::from_bytes([1; 16]),
        |key| key.argon2.as_mut().unwrap().passes = 3,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut key = wrapped(&unlock);
        change(&mut key);
        // As somebody would do it who cannot open it: the checksum is right.
        let key = KeyRecord::decode(&key.encode().unwrap()).unwrap();
        assert!(key.unwrap(REPOSITORY, &unlock).is_err(), "change {n}");
    }
}

#[test]
fn a_key_that_asks_for_much_memory_is_refused_before_it_is_taken() {
    let (_, unlock) = unlocks().into_iter().last().unwrap();
    let costs = [
        (limits::ARGON2_MEMORY_KIB_MAX + 1, 1, 1),
        (limits::ARGON2_MEMORY_KIB_MAX, 5, 1),
        (64, 1, limits::ARGON2_LANES_MAX + 1),
        (1, 1, 1),
        (64, 0, 1),
    ];
    for (memory_kib, passes, lanes) in costs {
        let mut key = wrapped(&unlock);
        key.argon2 = Some(Argon2Cost {
            memory_kib,
            passes,
            lanes,
        });
        let key = envelope::seal(
            ObjectType::Key,
            &serde_json::to_vec(&key).unwrap(),
            Codec::Stored,
        );
        assert!(
            KeyRecord::decode(&key).is_err(),
            "{memory_kib} {passes} {lanes}"
        );
    }
}

#[test]
fn rings_of_two_rotations_at_once_are_put_together() {
    let mut first = ring();
    let mut second = ring();
    first.epochs.push(epoch(11, 2));
    second.epochs.push(epoch(12, 2));
    first.merge(&second).unwrap();
    assert_eq!(first.epochs.len(), 4);
    assert_eq!(first.current().unwrap().epoch, 12, "the same for everybody");
    let mut other = ring();
    other.epochs[0].secret = Secret::from_bytes([1; 32]);
    assert!(first.merge(&other).is_err(), "one number, two keys");
    assert!(KeyRing::decode(&first.encode().unwrap()).is_ok());
}

#[test]
fn no_secret_is_printed() {
    let printed = format!("{:?} {:?} {:?}", ring(), seals(), unlocks());
    for secret in [
        "e0e0", "e1e1", "4b4b", "f1f1", "224, 224", "75, 75", "correct",
    ] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), start in 0..4) {
        let bytes = match start {
            0 => bytes,
            1 => [&sealed_session()[..16], &bytes].concat(),
            2 => [&bytes, &sealed_pack()[sealed_pack().len() - 16..]].concat(),
            _ => envelope::seal(ObjectType::Key, &bytes, Codec::Stored),
        };
        let seals = seals();
        let _ = open_object(&seals, NAME, &bytes);
        let _ = open_frame(&seals, Some((PackId::from_bytes([1; 16]), 32, 0)), &bytes, &mut Vec::new());
        let _ = open_tail(&seals, values::PACK, &bytes, bytes.len() as u64);
        let _ = check_sealed_pack_header(values::PACK, &bytes);
        let _ = KeyRecord::decode(&bytes);
        let _ = KeyFile::decode(&bytes);
        let _ = KeyRing::decode(&bytes);
    }

    #[test]
    fn whatever_is_sealed_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..3000), name in ".{0,40}") {
        let envelope = envelope::seal(ObjectType::Manifest, &bytes, Codec::Zstd);
        let sealed = seal_object(&seals(), &name, &envelope).unwrap();
        prop_assert_eq!(open_object(&seals(), &name, &sealed), Ok(envelope));
    }
}
