//! What `spec/*.md` says in numbers is what the code has.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use cryostore_format::{encryption, envelope, limits, pack};

fn document(name: &str) -> String {
    // Cargo runs tests in the folder of their package.
    let path = Path::new("spec").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The tables with offset and size: for each, where the first field that has no fixed size begins, or where the last one
/// ends. Every field begins where the one before it ends.
fn lengths(document: &str) -> Vec<u64> {
    let mut out: Vec<u64> = Vec::new();
    let mut in_table = false;
    for line in document.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells.len() < 5 {
            in_table = false;
        } else if cells[1..4] == ["field", "offset", "size"] {
            in_table = true;
            out.push(0);
        } else if let (true, Ok(offset)) = (in_table, cells[2].parse::<u64>()) {
            let end = out.last_mut().unwrap();
            assert_eq!(*end, offset, "where {} begins", cells[1]);
            *end += cells[3].parse::<u64>().unwrap_or(0);
        }
    }
    out
}

#[test]
fn the_tables_have_no_gaps_and_the_lengths_of_the_code() {
    let envelope = [envelope::HEADER_LEN as u64];
    assert_eq!(lengths(&document("envelope.md")), envelope);
    let pack = [
        pack::PACK_HEADER_LEN,
        pack::FRAME_HEADER_LEN,
        pack::TRAILER_LEN,
    ];
    assert_eq!(lengths(&document("pack.md")), pack.map(|len| len as u64));
    let ring_head = 1 + 32 + 32 + 2;
    let sealed = [
        ring_head,
        encryption::SEAL_LEN,
        encryption::SEALED_HEADER_LEN,
        encryption::SEALED_TRAILER_LEN,
    ];
    let sealed = sealed.map(|len| len as u64);
    assert_eq!(lengths(&document("encryption.md")), sealed);
}

#[test]
fn the_lengths_are_those_that_version_1_has() {
    let ours = [
        envelope::HEADER_LEN,
        pack::PACK_HEADER_LEN,
        pack::FRAME_HEADER_LEN,
        pack::TRAILER_LEN,
    ];
    assert_eq!(ours, [64, 32, 48, 64]);
}

#[test]
fn the_numbers_in_the_text_are_those_of_the_code() {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let power = |number: u32| {
        assert!(number.is_power_of_two());
        let digits = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
        let log = number.trailing_zeros() as usize;
        format!("2{}{}", digits[log / 10], digits[log % 10])
    };
    let claims = [
        (
            "envelope.md",
            format!("a header of {} bytes", envelope::HEADER_LEN),
        ),
        (
            "manifest.md",
            format!("at most {}", mib(limits::MANIFEST_PLAIN_MAX)),
        ),
        (
            "segment.md",
            format!("at most {}", mib(limits::SEGMENT_PLAIN_MAX)),
        ),
        (
            "snapshot.md",
            format!("at most {}", mib(limits::RECORD_MAX)),
        ),
        ("session.md", format!("at most {}", mib(limits::RECORD_MAX))),
        (
            "collection.md",
            format!("at most {}", mib(limits::RECORD_MAX)),
        ),
        ("collection.md", format!("at most {} |", limits::LEAVE_MAX)),
        (
            "collection.md",
            format!("at most {} (`lineage`", limits::GIVEN_UP_MAX),
        ),
        (
            "session.md",
            format!("At most {}; absent", limits::COLLECTIONS_MAX),
        ),
        (
            "catalogue.md",
            format!("at most {} of content", mib(limits::CATALOGUE_PLAIN_MAX)),
        ),
        (
            "catalogue.md",
            format!("number of entries, at most {},", limits::CATALOGUE_MAX),
        ),
        ("catalogue.md", format!("1 to {}, and", limits::TAG_MAX)),
        (
            "catalogue.md",
            format!("its bytes, at most {}, and", mib(limits::RECORD_MAX)),
        ),
        ("mark.md", format!("at most {}", mib(limits::RECORD_MAX))),
        ("damaged.md", format!("at most {}", mib(limits::RECORD_MAX))),
        (
            "repository.md",
            format!("at most {}", mib(limits::RECORD_MAX)),
        ),
        (
            "pack.md",
            format!("(at most {} GiB)", limits::PACK_MAX >> 30),
        ),
        ("pack.md", format!("header ({}) |", pack::PACK_HEADER_LEN)),
        ("pack.md", format!("| trailer ({})", pack::TRAILER_LEN)),
        ("pack.md", format!("from byte {} on", pack::PACK_HEADER_LEN)),
        (
            "pack.md",
            format!("number of chunks, 1 to {}", limits::FRAME_CHUNKS_MAX),
        ),
        (
            "pack.md",
            format!(
                "bytes of content, at most {}",
                mib(limits::FRAME_PLAIN_MAX.into())
            ),
        ),
        (
            "pack.md",
            format!(
                "number of frames, at most {}",
                power(limits::PACK_FRAMES_MAX)
            ),
        ),
        (
            "pack.md",
            format!("number of ids, at most {}", power(limits::PACK_CHUNKS_MAX)),
        ),
        ("encryption.md", format!("| 1 to {} |", limits::EPOCHS_MAX)),
        (
            "encryption.md",
            format!("At most {} of them", limits::KEYS_MAX),
        ),
        (
            "encryption.md",
            format!("the label has at most {} bytes", limits::KEY_LABEL_MAX),
        ),
        (
            "encryption.md",
            format!(
                "at most {} GiB), `passes` (times memory at most {} GiB), `lanes` (at most {})",
                limits::ARGON2_MEMORY_KIB_MAX >> 20,
                limits::ARGON2_WORK_KIB_MAX >> 20,
                limits::ARGON2_LANES_MAX
            ),
        ),
        (
            "recipe.md",
            format!("offset {} and chunk 0", pack::PACK_HEADER_LEN),
        ),
        (
            "recipe.md",
            format!(
                "{} GiB of pack or {} of frame",
                limits::PACK_MAX >> 30,
                mib(limits::FRAME_PLAIN_MAX.into())
            ),
        ),
    ];
    for (name, claim) in claims {
        assert!(
            document(name).contains(&claim),
            "spec/{name} does not say: {claim}"
        );
    }
}
