//! The golden vectors: what was once stored is read as what it was, and still written so.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod values;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;

use cryostore_format::catalogue::Catalogue;
use cryostore_format::collection::CollectionRecord;
use cryostore_format::damaged::DamageRecord;
use cryostore_format::delta::DeltaTable;
use cryostore_format::envelope::{self, Codec, HEADER_LEN, ObjectType};
use cryostore_format::manifest::Manifest;
use cryostore_format::mark::{Mark, MarkKind};
use cryostore_format::pack::{
    Directory, FRAME_HEADER_LEN, FrameHeader, PACK_HEADER_LEN, TRAILER_LEN, check_pack_header,
    encode_pack_header,
};
use cryostore_format::patch::Patch;
use cryostore_format::recipe::Slice;
use cryostore_format::repository::{RepositoryRecord, Role};
use cryostore_format::segment::Segment;
use cryostore_format::session::SessionRecord;
use cryostore_format::snapshot::Entry;
use cryostore_format::wire::Put;
use cryostore_format::{FormatError, Result};

/// How far today's encoder must give the same bytes.
#[derive(Debug, Clone, Copy)]
enum Same {
    /// All of them: the coding is ours.
    Bytes,
    /// Those of the envelope's content; zstd's may differ by version.
    Content(ObjectType),
    /// A test of its own says.
    Decoded,
}

/// A golden vector: its file, what it holds, and what the encoder of today makes of that.
struct Vector {
    name: &'static str,
    note: &'static str,
    bytes: Vec<u8>,
    same: Same,
}

/// Cargo runs tests in the folder of their package.
fn folder() -> PathBuf {
    PathBuf::from("vectors")
}

/// The note and the bytes of a vector's file.
fn stored(name: &str) -> (String, Vec<u8>) {
    let text = std::fs::read_to_string(folder().join(format!("{name}.hex"))).unwrap();
    let (note, digits) = text.split_once('\n').unwrap();
    let note = note
        .strip_prefix("# ")
        .expect("the first line is a note")
        .to_owned();
    let digits: String = digits.lines().collect();
    (note, hex::decode(digits).unwrap())
}

fn bytes(name: &str) -> Vec<u8> {
    stored(name).1
}

fn sealed(kind: ObjectType, plain: &[u8]) -> Vec<u8> {
    envelope::seal(kind, plain, Codec::Stored)
}

fn content(kind: ObjectType, object: &[u8]) -> Vec<u8> {
    envelope::open(kind, object, 1 << 20).unwrap()
}

/// One byte of the head of an object is changed, and the digest made for it, as a later writer would.
fn envelope_with(at: usize, value: u8) -> Vec<u8> {
    let mut object = values::session().encode().unwrap();
    object[at] = value;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&object[..32]).update(&object[HEADER_LEN..]);
    object[32..HEADER_LEN].copy_from_slice(hasher.finalize().as_bytes());
    object
}

/// The content of a manifest, and a section behind it.
fn manifest_with_section(tag: u8) -> Vec<u8> {
    let mut plain = content(ObjectType::Manifest, &values::manifest().encode());
    plain.push(tag);
    plain.put_string(b"from the future");
    sealed(ObjectType::Manifest, &plain)
}

/// A manifest with one stream, whose body has a number of the future.
fn manifest_with_body() -> Vec<u8> {
    let plain = content(ObjectType::Manifest, &values::manifest_of_recipe().encode());
    // The stream 0 has no name and its digest is known: behind that stands the number of its body.
    let digest = cryostore_format::Digest::of(b"");
    let at = plain
        .windows(32)
        .position(|bytes| bytes == digest.as_bytes())
        .unwrap();
    let mut plain = plain;
    plain[at + 32] = 255;
    sealed(ObjectType::Manifest, &plain)
}

fn pack() -> Vec<u8> {
    let mut out = encode_pack_header(values::PACK).to_vec();
    let mut directory = Directory::default();
    for frame in values::frames() {
        let content = frame.content();
        let payload = match frame.codec {
            Codec::Stored => content,
            Codec::Zstd => {
                let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
                compressor.include_checksum(true).unwrap();
                compressor.include_contentsize(false).unwrap();
                compressor.compress(&content).unwrap()
            }
        };
        let header = frame.header(payload.len());
        directory.push(&header, &frame.ids()).unwrap();
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(&payload);
    }
    out.extend_from_slice(&directory.encode(values::PACK).unwrap());
    out
}

fn frame_with_kind() -> Vec<u8> {
    let [_, frame] = values::frames();
    let content = frame.content();
    let mut out = frame.header(content.len()).encode().to_vec();
    out[0] = 255;
    out.extend_from_slice(&content);
    out
}

fn pack_header_with(at: usize) -> Vec<u8> {
    let mut out = encode_pack_header(values::PACK).to_vec();
    out[at] = 255;
    out
}

/// A snapshot record with the keys that are required, and one that nobody knows.
fn snapshot_keys(more: &str) -> Vec<u8> {
    let record = values::snapshot_minimal();
    let text = format!(
        r#"{{"id":"{}","lineage":"{}","session":"{}","created":"{}","manifest":{{"id":"{}","bytes":12345,"digest":"{}"}},"archive":{{"kind":"directory","bytes":9}}{more}}}"#,
        record.id,
        record.lineage,
        record.session,
        record.created,
        record.manifest.id,
        record.manifest.digest
    );
    sealed(ObjectType::Snapshot, text.as_bytes())
}

/// `repository.json` without its last key.
fn without_checksum(json: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(json).unwrap();
    let (before, _) = text.split_once(",\n  \"checksum\"").unwrap();
    format!("{before}\n}}\n").into_bytes()
}

fn refused_repository(change: fn(&mut RepositoryRecord)) -> Vec<u8> {
    let mut record = values::repository();
    change(&mut record);
    record.encode().unwrap()
}

/// Every vector. Append only: what is there is never changed, neither here nor in its file.
fn all() -> Vec<Vector> {
    let vector = |name, same, note, bytes| Vector {
        name,
        note,
        bytes,
        same,
    };
    let content = Same::Content;
    vec![
        vector(
            "repository-without-checksum",
            Same::Decoded,
            "repository.json of a new repository without features, without the checksum that the first programs did not write",
            without_checksum(&values::repository().encode().unwrap()),
        ),
        vector(
            "repository",
            Same::Bytes,
            "repository.json of a new repository without features",
            values::repository().encode().unwrap(),
        ),
        vector(
            "repository-features",
            Same::Bytes,
            "repository.json with a feature for writers (no-such-writer) and one for collectors (no-such-collector), cut at 2, 8, 64 KiB",
            values::repository_with_features().encode().unwrap(),
        ),
        vector(
            "pack",
            Same::Decoded,
            "a whole pack of two plain frames: three pages of 4096 bytes (zstd), three pieces with a table of lengths (stored)",
            pack(),
        ),
        vector(
            "pack-directory",
            Same::Decoded,
            "the end of a pack: frame table, ids and trailer of twenty frames; frame n has 1000 + n bytes and n + 1 chunks, n from 0 on",
            values::directory().encode(values::PACK).unwrap(),
        ),
        vector(
            "segment",
            Same::Bytes,
            "an index segment with the ids of three packs: 300, none and one",
            values::segment().encode(),
        ),
        vector(
            "manifest-recipe",
            Same::Bytes,
            "a manifest (stored, not compressed) with one page image whose recipe has every kind of step; no digest of the archive",
            sealed(
                ObjectType::Manifest,
                &self::content(ObjectType::Manifest, &values::manifest_of_recipe().encode()),
            ),
        ),
        vector(
            "manifest-tables",
            Same::Bytes,
            "the manifest of manifest-recipe with a section that names two tables of deltas",
            sealed(
                ObjectType::Manifest,
                &self::content(ObjectType::Manifest, &values::manifest_of_tables().encode()),
            ),
        ),
        vector(
            "delta-table",
            Same::Bytes,
            "a table of deltas: pages on plain pages, without a base, of 64 KiB, and on other deltas",
            values::delta_table().encode(),
        ),
        vector(
            "patch",
            Same::Bytes,
            "the content of a patch frame of three pages of 1536 bytes: none, three, and all of their words differ from those of the bases",
            values::patch(),
        ),
        vector(
            "manifest",
            content(ObjectType::Manifest),
            "a manifest with pages of 64 KiB behind a phase, a gzip member made from two parts, an attachment, and two page maps, one with pages in the parent",
            values::manifest().encode(),
        ),
        vector(
            "manifest-later",
            Same::Bytes,
            "the same manifest with a section 127 behind it that a reader may pass over",
            manifest_with_section(127),
        ),
        vector(
            "snapshot",
            content(ObjectType::Snapshot),
            "a snapshot record with every key",
            values::snapshot().encode().unwrap(),
        ),
        vector(
            "snapshot-minimal",
            Same::Bytes,
            "a snapshot record with the required keys only",
            snapshot_keys(""),
        ),
        vector(
            "snapshot-later",
            Same::Bytes,
            "a snapshot record with the required keys and one that nobody knows",
            snapshot_keys(r#","no-such-key":{"a":[1,null]}"#),
        ),
        vector(
            "tombstone",
            content(ObjectType::Tombstone),
            "a tombstone of a snapshot that was deleted",
            values::tombstone().encode().unwrap(),
        ),
        vector(
            "tombstone-session",
            content(ObjectType::Tombstone),
            "a tombstone at the place of a session that was given up",
            values::tombstone_of_session().encode().unwrap(),
        ),
        vector(
            "session",
            content(ObjectType::Session),
            "the record of a session that imports",
            values::session().encode().unwrap(),
        ),
        vector(
            "session-collect",
            content(ObjectType::Session),
            "the record of a session that collects garbage",
            values::session_of_collection().encode().unwrap(),
        ),
        vector(
            "collection",
            content(ObjectType::Collection),
            "the record of a collection that found two packs to be left behind",
            values::collection().encode().unwrap(),
        ),
        vector(
            "collection-condemned",
            content(ObjectType::Collection),
            "the record of a collection that condemned a pack and gave up a snapshot",
            values::collection_that_condemns().encode().unwrap(),
        ),
        vector(
            "collection-done",
            content(ObjectType::Collection),
            "the record of a collection that found another one done",
            values::collection_that_is_done().encode().unwrap(),
        ),
        vector(
            "session-named",
            content(ObjectType::Session),
            "the record of a session that undeletes and has read a collection",
            values::session_after_a_collection().encode().unwrap(),
        ),
        vector(
            "deletion",
            content(ObjectType::Deletion),
            "the mark of a snapshot that was deleted",
            values::mark().encode(MarkKind::Deletion).unwrap(),
        ),
        vector(
            "pin",
            content(ObjectType::Pin),
            "the pin of a snapshot",
            values::mark().encode(MarkKind::Pin).unwrap(),
        ),
        vector(
            "damaged",
            content(ObjectType::Damage),
            "the record of a pack of which two frames are damaged",
            values::damage().encode().unwrap(),
        ),
        // What no program that knows only version 1 may read as something else. The numbers and names are never given away.
        vector(
            "refused-repository-version",
            Same::Bytes,
            "repository.json of version 4294967295: refused",
            refused_repository(|record| record.version = u32::MAX),
        ),
        vector(
            "refused-repository-feature",
            Same::Bytes,
            "repository.json that no-such-feature is needed to read: refused to everybody",
            refused_repository(|record| record.features.read.push("no-such-feature".to_owned())),
        ),
        vector(
            "refused-repository-cutter",
            Same::Bytes,
            "repository.json with the cutter no-such-cutter: refused",
            refused_repository(|record| record.chunking.cutter = "no-such-cutter".to_owned()),
        ),
        vector(
            "refused-object-type",
            Same::Decoded,
            "an envelope of type 255: refused",
            envelope_with(4, 255),
        ),
        vector(
            "refused-envelope-version",
            Same::Decoded,
            "an envelope of version 255: refused",
            envelope_with(5, 255),
        ),
        vector(
            "refused-envelope-cipher",
            Same::Decoded,
            "an envelope with cipher 255: refused",
            envelope_with(6, 255),
        ),
        vector(
            "refused-envelope-codec",
            Same::Decoded,
            "an envelope with codec 255: refused",
            envelope_with(7, 255),
        ),
        vector(
            "refused-manifest-section",
            Same::Bytes,
            "a manifest with a section 127 that a reader must know: refused",
            manifest_with_section(127 | 128),
        ),
        vector(
            "refused-manifest-body",
            Same::Bytes,
            "a manifest whose stream 0 has a body of number 255: refused",
            manifest_with_body(),
        ),
        vector(
            "refused-pack-version",
            Same::Bytes,
            "the header of a pack of version 255: refused",
            pack_header_with(8),
        ),
        vector(
            "refused-pack-cipher",
            Same::Bytes,
            "the header of a pack with cipher 255: refused",
            pack_header_with(9),
        ),
        vector(
            "refused-frame-kind",
            Same::Bytes,
            "a frame of kind 255: refused",
            frame_with_kind(),
        ),
        vector(
            "repository-probed",
            Same::Bytes,
            "repository.json for a single writer, on a store that ignores create-if-absent and ranges",
            values::repository_probed().encode().unwrap(),
        ),
        vector(
            "catalogue",
            content(ObjectType::Catalogue),
            "a catalogue of a snapshot record, with a key that nobody knows, and a tombstone",
            values::catalogue().encode().unwrap(),
        ),
        vector(
            "snapshot-copied",
            content(ObjectType::Snapshot),
            "the record of a snapshot that was copied from another repository",
            values::snapshot_copied().encode().unwrap(),
        ),
    ]
}

#[test]
fn every_file_is_a_vector_with_its_note_and_every_vector_has_its_file() {
    let names: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".hex").map(str::to_owned))
        .collect();
    let known: BTreeSet<String> = all().iter().map(|vector| vector.name.to_owned()).collect();
    assert_eq!(names, known);
    for vector in all() {
        assert_eq!(stored(vector.name).0, vector.note, "{}", vector.name);
    }
}

#[test]
fn what_is_written_today_is_what_was_written_then() {
    for vector in all() {
        let golden = bytes(vector.name);
        match vector.same {
            Same::Bytes => assert_eq!(
                hex::encode(&golden),
                hex::encode(&vector.bytes),
                "{}",
                vector.name
            ),
            Same::Content(kind) => {
                assert_eq!(
                    content(kind, &golden),
                    content(kind, &vector.bytes),
                    "{}",
                    vector.name
                );
            }
            Same::Decoded => {}
        }
    }
}

#[test]
fn repositories_are_read() {
    for name in ["repository", "repository-without-checksum"] {
        let record = RepositoryRecord::decode(&bytes(name));
        assert_eq!(record, Ok(values::repository()), "{name}");
    }
    let record = RepositoryRecord::decode(&bytes("repository-probed")).unwrap();
    assert_eq!(record, values::repository_probed());
    assert!(record.has_single_writer() && record.allows(Role::Collect).is_ok());
    let record = RepositoryRecord::decode(&bytes("repository-features")).unwrap();
    assert_eq!(record, values::repository_with_features());
    assert_eq!(record.id_key(), Ok(values::KEY));
    assert!(record.allows(Role::Read).is_ok());
    for (role, feature) in [
        (Role::Write, "no-such-writer"),
        (Role::Collect, "no-such-collector"),
    ] {
        let refusal = record.allows(role).unwrap_err();
        assert!(refusal.is_unsupported() && refusal.to_string().contains(feature));
    }
}

#[test]
fn the_chunks_of_a_pack_are_read_from_its_end_to_its_frames() {
    let pack = bytes("pack");
    check_pack_header(values::PACK, &pack[..PACK_HEADER_LEN]).unwrap();
    let trailer = &pack[pack.len() - TRAILER_LEN..];
    let tail_len = usize::try_from(Directory::tail_len(trailer).unwrap()).unwrap();
    let tail = &pack[pack.len() - tail_len..];
    let directory = Directory::decode(values::PACK, tail, pack.len() as u64).unwrap();
    assert_eq!(directory.frames.len(), 2);
    for (frame, entry) in values::frames().iter().zip(&directory.frames) {
        let start = entry.offset as usize;
        let stored = &pack[start..start + entry.stored_len as usize];
        let (header, payload) = FrameHeader::split(stored).unwrap();
        // All but the length of what zstd made is ours.
        assert_eq!(header, frame.header(payload.len()));
        assert_eq!(stored[..FRAME_HEADER_LEN], header.encode());
        let plain = match header.codec {
            Codec::Stored => payload.to_vec(),
            Codec::Zstd => zstd::bulk::decompress(payload, header.plain_len as usize).unwrap(),
        };
        assert_eq!(plain, frame.content());
        let ranges = header.chunk_ranges(&plain).unwrap();
        for (n, chunk) in frame.chunks.iter().enumerate() {
            assert_eq!(&plain[ranges.range(n, 1).unwrap()], chunk);
        }
        let first = entry.first_chunk as usize;
        assert_eq!(
            directory.ids[first..first + frame.chunks.len()],
            frame.ids()
        );
    }
    assert_eq!(directory.chunk_count(), 6);
}

#[test]
fn the_directory_of_a_pack_is_read() {
    let tail = bytes("pack-directory");
    let frames: u64 = (0..20).map(|n| 1000 + n).sum();
    let pack_len = PACK_HEADER_LEN as u64 + frames + tail.len() as u64;
    assert_eq!(
        Directory::decode(values::PACK, &tail, pack_len),
        Ok(values::directory())
    );
}

#[test]
fn segments_are_read() {
    assert_eq!(Segment::decode(&bytes("segment")), Ok(values::segment()));
}

#[test]
fn manifests_are_read() {
    assert_eq!(Manifest::decode(&bytes("manifest")), Ok(values::manifest()));
    assert_eq!(
        Manifest::decode(&bytes("manifest-later")),
        Ok(values::manifest())
    );
}

#[test]
fn deltas_and_their_bases_are_read() {
    let mut manifest = Manifest::decode(&bytes("manifest-tables")).unwrap();
    assert_eq!(manifest, values::manifest_of_tables());
    let table = DeltaTable::decode(&bytes("delta-table")).unwrap();
    assert_eq!(table, values::delta_table());
    let numbers = manifest.pack_numbers();
    manifest.add_table(1, table, &numbers).unwrap();
    assert_eq!(manifest.deltas.frames(), values::delta_table().frames);
}

#[test]
fn a_patch_gives_its_pages() {
    let content = bytes("patch");
    let patch = Patch::decode(&content, 3, 1536).unwrap();
    for (n, (base, page)) in values::patched().into_iter().enumerate() {
        let mut out = base;
        patch.apply(n * 1536, &mut out).unwrap();
        assert_eq!(out, page, "page {n}");
    }
}

#[test]
fn a_recipe_gives_its_slices() {
    let manifest = Manifest::decode(&bytes("manifest-recipe")).unwrap();
    assert_eq!(manifest, values::manifest_of_recipe());
    let slices: Result<Vec<Slice>> = manifest.slices(1).unwrap().collect();
    assert_eq!(slices, Ok(values::slices()));
}

#[test]
fn snapshots_and_tombstones_are_read_as_what_they_are() {
    let snapshot = |record| Ok(Entry::Snapshot(Box::new(record)));
    for (name, entry) in [
        ("snapshot", snapshot(values::snapshot())),
        ("snapshot-minimal", snapshot(values::snapshot_minimal())),
        ("snapshot-later", snapshot(values::snapshot_minimal())),
        ("snapshot-copied", snapshot(values::snapshot_copied())),
        ("tombstone", Ok(Entry::Tombstone(values::tombstone()))),
        (
            "tombstone-session",
            Ok(Entry::Tombstone(values::tombstone_of_session())),
        ),
    ] {
        assert_eq!(Entry::decode(&bytes(name)), entry, "{name}");
    }
}

#[test]
fn sessions_are_read() {
    assert_eq!(
        SessionRecord::decode(&bytes("session")),
        Ok(values::session())
    );
    assert_eq!(
        SessionRecord::decode(&bytes("session-collect")),
        Ok(values::session_of_collection())
    );
    assert_eq!(
        SessionRecord::decode(&bytes("session-named")),
        Ok(values::session_after_a_collection())
    );
}

#[test]
fn collections_are_read() {
    assert_eq!(
        CollectionRecord::decode(&bytes("collection")),
        Ok(values::collection())
    );
    assert_eq!(
        CollectionRecord::decode(&bytes("collection-condemned")),
        Ok(values::collection_that_condemns())
    );
    assert_eq!(
        CollectionRecord::decode(&bytes("collection-done")),
        Ok(values::collection_that_is_done())
    );
}

#[test]
fn a_catalogue_is_read() {
    let catalogue = Catalogue::decode(&bytes("catalogue")).unwrap();
    assert_eq!(catalogue, values::catalogue());
    let [record, tombstone] = &catalogue.entries[..] else {
        panic!("two entries");
    };
    let expected = Entry::Snapshot(Box::new(values::snapshot_minimal()));
    assert_eq!(record.entry(), Ok(expected));
    assert!(matches!(tombstone.entry(), Ok(Entry::Tombstone(_))));
}

#[test]
fn a_damage_record_is_read() {
    assert_eq!(
        DamageRecord::decode(&bytes("damaged")),
        Ok(values::damage())
    );
}

#[test]
fn marks_are_read() {
    for (name, kind) in [("deletion", MarkKind::Deletion), ("pin", MarkKind::Pin)] {
        assert_eq!(Mark::decode(kind, &bytes(name)), Ok(values::mark()));
    }
}

fn repository_refusal(bytes: &[u8]) -> FormatError {
    match RepositoryRecord::decode(bytes) {
        Err(refusal) => refusal,
        Ok(record) => {
            for role in [Role::Write, Role::Collect] {
                assert!(record.allows(role).is_err());
            }
            record.allows(Role::Read).unwrap_err()
        }
    }
}

fn session_refusal(bytes: &[u8]) -> FormatError {
    SessionRecord::decode(bytes).unwrap_err()
}

fn manifest_refusal(bytes: &[u8]) -> FormatError {
    Manifest::decode(bytes).unwrap_err()
}

fn pack_refusal(bytes: &[u8]) -> FormatError {
    check_pack_header(values::PACK, bytes).unwrap_err()
}

fn frame_refusal(bytes: &[u8]) -> FormatError {
    FrameHeader::split(bytes).unwrap_err()
}

#[test]
fn what_only_a_later_version_knows_is_refused_by_its_name_and_not_as_damage() {
    type Refusal = fn(&[u8]) -> FormatError;
    let refusals: [(&str, Refusal, &str); 12] = [
        (
            "refused-repository-version",
            repository_refusal,
            "version 4294967295",
        ),
        (
            "refused-repository-feature",
            repository_refusal,
            "`no-such-feature`",
        ),
        (
            "refused-repository-cutter",
            repository_refusal,
            "`no-such-cutter`",
        ),
        ("refused-object-type", session_refusal, "`object type 255`"),
        ("refused-envelope-version", session_refusal, "version 255"),
        ("refused-envelope-cipher", session_refusal, "`cipher 255`"),
        ("refused-envelope-codec", session_refusal, "`codec 255`"),
        (
            "refused-manifest-section",
            manifest_refusal,
            "`section 127`",
        ),
        (
            "refused-manifest-body",
            manifest_refusal,
            "`stream body 255`",
        ),
        ("refused-pack-version", pack_refusal, "version 255"),
        ("refused-pack-cipher", pack_refusal, "`cipher 255`"),
        ("refused-frame-kind", frame_refusal, "`frame kind 255`"),
    ];
    let tested: BTreeSet<&str> = refusals.iter().map(|(name, ..)| *name).collect();
    let there: BTreeSet<&str> = all()
        .iter()
        .map(|vector| vector.name)
        .filter(|name| name.starts_with("refused-"))
        .collect();
    assert_eq!(tested, there);
    for (name, refusal, word) in refusals {
        let refusal = refusal(&bytes(name));
        assert!(refusal.is_unsupported(), "{name}: {refusal}");
        let text = refusal.to_string();
        assert!(text.contains(word), "{name}: {text}");
        assert!(text.contains("use a newer cryostore"), "{name}: {text}");
    }
}

#[test]
#[ignore = "writes the files of new vectors, once: cargo test -p cryostore-format --test vectors -- --ignored"]
fn new_vectors_are_written_and_old_ones_are_left_alone() {
    for vector in all() {
        let path = folder().join(format!("{}.hex", vector.name));
        let Ok(mut file) = std::fs::File::create_new(path) else {
            continue;
        };
        writeln!(file, "# {}", vector.note).unwrap();
        for line in vector.bytes.chunks(32) {
            writeln!(file, "{}", hex::encode(line)).unwrap();
        }
    }
}
