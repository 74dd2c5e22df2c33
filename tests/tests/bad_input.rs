//! Damaged and strange archives: a clear error that says what to do, or stored byte for byte with a warning. Earlier snapshots stay whole.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::io::Write;

use cryostore_engine::{ImportOptions, Kind, Silent, Source, import, unpack};
use cryostore_tests::Place;
use cryostore_tests::archives::{Count, TarBuilder, checkpoint, inventory, noise, pagemap, pstree};
use cryostore_tests::failures::{Earlier, refusal};
use cryostore_tests::images::{extended, patch_header, pax_records};

const COMPLETE: &str = "whether the checkpoint was written completely";

#[test]
fn an_archive_that_is_cut_is_refused_or_stored_with_a_warning_if_it_ends_between_members() {
    let mut earlier = Earlier::new();
    let mut members = Vec::new();
    let mut tar = TarBuilder::new();
    let bodies = [
        ("config.dump", b"{}".to_vec()),
        ("checkpoint/inventory.img", inventory(2)),
        ("checkpoint/noise", noise(1536, 9)),
        ("last", noise(700, 8)),
    ];
    for (name, body) in bodies {
        let start = tar.clone().unended().len();
        members.push((start, start + 512 + body.len()));
        tar = tar.file(name, &body);
    }
    let end = tar.clone().unended().len();
    let tar = tar.end();
    let ends_well = |cut: usize| {
        let starts = members.iter().map(|(start, _)| *start).skip(1).chain([end]);
        let mut between = members.iter().map(|(_, end)| *end).zip(starts);
        between.any(|(from, to)| (from..=to).contains(&cut)) || cut == end + 512
    };
    let mut cuts: Vec<usize> = (0..tar.len()).step_by(97).collect();
    for (start, end) in &members {
        cuts.extend([
            *start,
            start + 1,
            start + 511,
            start + 512,
            start + 513,
            end - 1,
            *end,
            end + 1,
        ]);
    }
    cuts.extend([end, end + 1, end + 511, end + 512, end + 513]);
    cuts.sort_unstable();
    cuts.dedup();
    assert!(cuts.len() > 50);
    for cut in cuts {
        let when = format!("cut at byte {cut}");
        let result = earlier.place.import_bytes("cut.tar", &tar[..cut]);
        if cut == 0 {
            earlier.assert_refused(&when, result, Kind::Invalid, &["0 bytes and no member"]);
        } else if ends_well(cut) {
            earlier.assert_stored(&when, result, &tar[..cut], &["no end marker"]);
        } else if cut < 512 {
            earlier.assert_refused(
                &when,
                result,
                Kind::Invalid,
                &["are no tar", &format!("{cut} bytes")],
            );
        } else {
            let error = earlier.assert_refused(
                &when,
                result,
                Kind::Invalid,
                &["cut short", &format!("at byte {cut}")],
            );
            assert!(error.advice().unwrap().contains(COMPLETE), "{when}");
        }
    }
    earlier.assert_untouched("all cuts");
}

#[test]
fn a_cut_archive_from_a_pipe_or_within_compression_is_refused() {
    let earlier = Earlier::new();
    let tar = checkpoint(&noise(3 << 20, 5), 4096);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let (gzip, zstd) = (
        gzip.finish().unwrap(),
        zstd::bulk::compress(&tar, 1).unwrap(),
    );
    for (kind, whole) in [("tar", tar), ("gzip", gzip), ("zstd", zstd)] {
        for cut in [5, 300, whole.len() / 2, whole.len() - 1600] {
            let when = format!("{kind} of {} bytes cut at {cut}", whole.len());
            let part = whole[..cut].to_vec();
            let result = earlier.place.import_bytes("cut", &part);
            let error =
                earlier.assert_refused(&format!("{when}, a file"), result, Kind::Invalid, &[]);
            assert!(
                error.advice().unwrap().contains(COMPLETE) || cut < 512,
                "{when}: {error}"
            );
            let source = Source::Stream(Box::new(std::io::Cursor::new(part)));
            let result = import(
                &earlier.place.open(),
                source,
                &ImportOptions::default(),
                &Silent,
            );
            earlier.assert_refused(&format!("{when}, a pipe"), result, Kind::Invalid, &[]);
        }
    }
    earlier.assert_untouched("cut streams");
}

#[test]
fn a_damaged_header_is_named_by_its_place() {
    let earlier = Earlier::new();
    let tar = checkpoint(&noise(8192, 5), 4096);
    let second = 1024;
    assert!(tar[second..].starts_with(b"checkpoint/inventory.img"));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut tar = tar.clone();
        change(&mut tar);
        tar
    };
    let place = format!("at byte {second}");
    let extension = TarBuilder::new()
        .file("first", b"x")
        .header(b"././@LongLink", 2 << 20, b'L', b"")
        .raw(&noise(2 << 20, 1))
        .end();
    let cases: [(&str, Vec<u8>, Vec<&str>); 6] = [
        (
            "a bad checksum",
            with(&|tar| tar[second + 3] ^= 1),
            vec!["checksum", &place],
        ),
        (
            "a checksum that is no number",
            with(&|tar| tar[second + 150] = b'x'),
            vec!["checksum", &place],
        ),
        (
            "a size that is no number",
            with(&|tar| patch_header(tar, second, 124, b"12345678xyz")),
            vec!["size", &place],
        ),
        (
            "a negative size",
            with(&|tar| patch_header(tar, second, 124, &[0xff; 12])),
            vec!["size", &place],
        ),
        (
            "a size over 64 bits",
            with(&|tar| patch_header(tar, second, 124, &[0x80, 0xff, 0xff, 0xff])),
            vec!["size", &place],
        ),
        (
            "2 MiB of extensions",
            extension,
            vec!["extensions", "2097152", "1048576", &place],
        ),
    ];
    for (when, tar, words) in cases {
        earlier.assert_refused(
            when,
            earlier.place.import_bytes("bad.tar", &tar),
            Kind::Invalid,
            &words,
        );
    }
    let huge = with(&|tar| {
        patch_header(
            tar,
            second,
            124,
            &[
                0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
        )
    });
    earlier.assert_refused(
        "2^64 bytes",
        earlier.place.import_bytes("bad.tar", &huge),
        Kind::Invalid,
        &["no valid size"],
    );
    let pax = pax_records(&[("size", &u64::MAX.to_string())]);
    let huge = extended(TarBuilder::new(), b'x', &pax)
        .file("huge", b"x")
        .end();
    earlier.assert_refused(
        "2^64 bytes by PAX",
        earlier.place.import_bytes("bad.tar", &huge),
        Kind::Invalid,
        &["no valid size"],
    );
    earlier.assert_untouched("damaged headers");
}

#[test]
fn what_is_no_archive_is_refused() {
    let earlier = Earlier::new();
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("an empty file", vec![], "0 bytes"),
        ("an empty tar", vec![0; 1024], "no member"),
        ("a long empty tar", vec![0; 10240], "no member"),
        ("a text", b"this is not a checkpoint\n".to_vec(), "25 bytes"),
        (
            "a longer text",
            b"this is not a checkpoint\n".repeat(100),
            "byte 0",
        ),
        ("noise", noise(100_000, 77), "byte 0"),
        (
            "a program",
            std::fs::read("/proc/self/exe").unwrap()[..100_000].to_vec(),
            "byte 0",
        ),
    ];
    for (when, bytes, word) in cases {
        earlier.assert_refused(
            when,
            earlier.place.import_bytes("file", &bytes),
            Kind::Invalid,
            &[word],
        );
    }
    std::fs::create_dir(earlier.place.path("empty")).unwrap();
    let result = earlier.place.import(&earlier.place.path("empty"));
    earlier.assert_refused(
        "an empty directory",
        result,
        Kind::Invalid,
        &["empty", "holds no files"],
    );
    let result = earlier.place.import(&earlier.place.path("missing.tar"));
    earlier.assert_refused("no file", result, Kind::NotFound, &["missing.tar"]);
    earlier.assert_untouched("no archives");
}

/// A checkpoint whose page map is this image.
fn with_pagemap(map: &[u8], pages: &[u8]) -> Vec<u8> {
    TarBuilder::new()
        .file("checkpoint/inventory.img", &inventory(2))
        .file("checkpoint/pagemap-1.img", map)
        .file("checkpoint/pages-1.img", pages)
        .file("checkpoint/pstree.img", &pstree(&[1]))
        .end()
}

#[test]
fn a_page_map_that_does_not_fit_its_page_image_is_stored_with_a_warning() {
    let mut earlier = Earlier::new();
    let pages = noise(16 * 4096, 4);
    let (page, gap) = (4096, 0x10_0000);
    type Case = (&'static str, Vec<(u64, u64, u64)>, usize, Vec<&'static str>);
    let cases: [Case; 13] = [
        (
            "a shorter image",
            vec![(page, 16, 4)],
            15 * 4096,
            vec!["describes 65536 bytes", "has 61440"],
        ),
        (
            "an image of a part of a page",
            vec![(page, 16, 4)],
            100,
            vec!["describes 65536 bytes", "has 100"],
        ),
        (
            "an image that ends in a page",
            vec![(page, 16, 4)],
            15 * 4096 + 1,
            vec!["describes 65536 bytes", "has 61441"],
        ),
        (
            "a longer image",
            vec![(page, 15, 4)],
            16 * 4096,
            vec!["describes 61440 bytes", "has 65536"],
        ),
        (
            "an empty map",
            vec![],
            16 * 4096,
            vec!["describes 0 bytes", "has 65536"],
        ),
        (
            "out of order",
            vec![(gap, 8, 4), (page, 8, 4)],
            16 * 4096,
            vec!["1 irregular", "below the entry before"],
        ),
        (
            "overlapping",
            vec![(page, 8, 4), (2 * page, 8, 4)],
            16 * 4096,
            vec!["1 irregular", "overlaps"],
        ),
        (
            "twice the same",
            vec![(page, 8, 4), (page, 8, 4)],
            16 * 4096,
            vec!["1 irregular", "overlaps"],
        ),
        (
            "no page border",
            vec![(page + 7, 16, 4)],
            16 * 4096,
            vec!["page border"],
        ),
        (
            "no pages",
            vec![(page, 0, 4), (gap, 16, 4)],
            16 * 4096,
            vec!["has no pages"],
        ),
        (
            "the end of memory",
            vec![(u64::MAX - 4095, 16, 4)],
            16 * 4096,
            vec!["behind the last address"],
        ),
        (
            "unknown flags",
            vec![(page, 16, 4 | 64)],
            16 * 4096,
            vec!["unknown flags 0x40"],
        ),
        (
            "in the parent and here",
            vec![(page, 16, 5)],
            16 * 4096,
            vec!["in the parent and present"],
        ),
    ];
    for (when, entries, len, words) in cases {
        for count in [Count::Old, Count::New] {
            let tar = with_pagemap(&pagemap(1, &entries, count), &pages[..len]);
            earlier.assert_stored(
                when,
                earlier.place.import_bytes("strange.tar", &tar),
                &tar,
                &words,
            );
        }
    }
    earlier.assert_untouched("strange page maps");
}

#[test]
fn counts_of_pages_that_overflow_are_stored_with_a_warning() {
    let mut earlier = Earlier::new();
    let pages = noise(4 * 4096, 4);
    for count in [u64::MAX, 1 << 63, 1 << 62, 1 << 52, 1 << 51] {
        for entries in [
            vec![(4096, count, 4)],
            vec![(4096, 2, 4), (0x10_0000, count, 4), (0x20_0000, count, 4)],
            vec![(4096, 4, 4), (1 << 30, count, 1)],
        ] {
            let when = format!("{count} pages, {} entries", entries.len());
            let tar = with_pagemap(&pagemap(1, &entries, Count::New), &pages);
            // 2^51 pages of 4 KiB still have addresses: what is wrong with them is that nobody has them.
            let word = if count < 1 << 52 && entries.len() == 2 {
                "CRIU's parent directory"
            } else {
                "pagemap-1.img"
            };
            earlier.assert_stored(
                &when,
                earlier.place.import_bytes("strange.tar", &tar),
                &tar,
                &[word],
            );
            // The second of the same has the first as its base.
            earlier.assert_stored(
                &when,
                earlier.place.import_bytes("strange.tar", &tar),
                &tar,
                &[],
            );
        }
    }
    earlier.assert_untouched("counts that overflow");
}

#[test]
fn a_page_map_without_its_page_image_and_a_page_image_without_a_map_are_stored() {
    let mut earlier = Earlier::new();
    let map = pagemap(7, &[(4096, 4, 4)], Count::New);
    let tar = with_pagemap(&map, &noise(4 * 4096, 4));
    earlier.assert_stored(
        "no image",
        earlier.place.import_bytes("strange.tar", &tar),
        &tar,
        &["names pages-7.img, which is not in the archive"],
    );
    let tar = TarBuilder::new()
        .file("checkpoint/pages-1.img", &noise(10_000, 6))
        .end();
    earlier.assert_stored(
        "no map",
        earlier.place.import_bytes("strange.tar", &tar),
        &tar,
        &[],
    );
    let tar = TarBuilder::new().file("readme", b"no checkpoint").end();
    earlier.assert_stored(
        "no images at all",
        earlier.place.import_bytes("strange.tar", &tar),
        &tar,
        &["no CRIU images"],
    );
    let tar = TarBuilder::new()
        .file("checkpoint/inventory.img", &inventory(2))
        .file("checkpoint/pages-1.img", b"")
        .end();
    earlier.assert_stored(
        "an empty page image",
        earlier.place.import_bytes("strange.tar", &tar),
        &tar,
        &[],
    );
    earlier.assert_untouched("lonely images");
}

const NAMES: [&str; 14] = [
    "config.dump",
    "spec.dump",
    "status.dump",
    "dump.log",
    "checkpoint/inventory.img",
    "checkpoint/pstree.img",
    "checkpoint/pagemap-1.img",
    "checkpoint/pagemap-shmem-1.img",
    "checkpoint/pages-1.img",
    "checkpoint/mm-1.img",
    "checkpoint/core-1.img",
    "checkpoint/amdgpu-pages-1.img",
    "checkpoint/tmpfs-dev-1.tar.gz.img",
    "rootfs-diff.tar",
];

#[test]
fn images_of_garbage_are_stored_whatever_their_name_is() {
    let mut earlier = Earlier::new();
    // What the engine looks into must be complained of; the rest is bytes.
    let looked_into = [
        "config",
        "spec",
        "inventory",
        "pstree",
        "pagemap",
        "mm-",
        "core",
    ];
    let mut size_too_large = pagemap(1, &[(4096, 1, 4)], Count::New);
    size_too_large[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let garbage = [
        noise(5000, 12),
        vec![0xff; 700],
        vec![0; 700],
        b"x".to_vec(),
        size_too_large,
    ];
    for (n, bytes) in garbage.iter().enumerate() {
        for name in NAMES {
            let when = format!("garbage {n} in {name}");
            let tar = TarBuilder::new()
                .file(name, bytes)
                .file("checkpoint/pages-9.img", &noise(4096, 1))
                .end();
            let base = name.rsplit('/').next().unwrap();
            let own = n == 4 && name.contains("pagemap");
            let words: &[&str] = if own {
                &["bytes", base]
            } else if looked_into.iter().any(|start| base.starts_with(start)) {
                &[base]
            } else {
                &[]
            };
            earlier.assert_stored(
                &when,
                earlier.place.import_bytes("strange.tar", &tar),
                &tar,
                words,
            );
        }
        let all = NAMES
            .iter()
            .fold(TarBuilder::new(), |tar, name| tar.file(name, bytes))
            .end();
        earlier.assert_stored(
            "all at once",
            earlier.place.import_bytes("strange.tar", &all),
            &all,
            &[],
        );
    }
    earlier.assert_untouched("garbage");
}

#[test]
fn a_tar_within_that_is_damaged_or_cut_is_stored() {
    let mut earlier = Earlier::new();
    let inner = (0..40)
        .fold(TarBuilder::new(), |tar, n| {
            tar.file(&format!("file-{n}"), &noise(3000 * (n + 1), n as u64))
        })
        .end();
    let mut damaged = inner.clone();
    let header = (512..damaged.len())
        .step_by(512)
        .find(|at| damaged[*at..].starts_with(b"file-20"))
        .unwrap();
    damaged[header + 150] ^= 0x55;
    for (when, inner) in [
        ("damaged", damaged),
        ("cut", inner[..inner.len() / 2].to_vec()),
        ("cut in a header", inner[..512 + 100].to_vec()),
    ] {
        let tar = TarBuilder::new()
            .file("checkpoint/inventory.img", &inventory(2))
            .file("rootfs-diff.tar", &inner)
            .end();
        earlier.assert_stored(
            when,
            earlier.place.import_bytes("strange.tar", &tar),
            &tar,
            &[],
        );
    }
    earlier.assert_untouched("damaged tars within");
}

/// Names that lead out of a directory, and what an unpacker must say.
fn hostile_names() -> Vec<(&'static str, TarBuilder)> {
    let tar = || TarBuilder::new().file("first", b"1");
    let through = || tar().header(b"link", 0, b'2', b"..");
    vec![
        ("..", tar().file("../outside", b"x")),
        ("a name with .. within", tar().file("a/../../outside", b"x")),
        (
            "an absolute name",
            tar().file("/tmp/cryostore-outside", b"x"),
        ),
        (
            "a name of a long extension",
            extended(tar(), b'L', b"../outside\0").file("inside", b"x"),
        ),
        (
            "a name of a PAX record",
            extended(tar(), b'x', &pax_records(&[("path", "../outside")])).file("inside", b"x"),
        ),
        (
            "a directory outside",
            tar().header(b"../outside/", 0, b'5', b""),
        ),
        (
            "a file through a link",
            through().file("link/outside", b"x"),
        ),
        (
            "a directory through a link",
            through().header(b"link/outside/", 0, b'5', b""),
        ),
        (
            "a link through a link",
            through().header(b"link/outside", 0, b'2', b"first"),
        ),
        (
            "a hard link outside",
            tar().header(b"hard", 0, b'1', b"../victim"),
        ),
        (
            "an absolute hard link",
            tar().header(b"hard", 0, b'1', b"/etc/passwd"),
        ),
        (
            "a hard link through a link",
            through().header(b"hard", 0, b'1', b"link/victim"),
        ),
        (
            "a link in the place of a file",
            tar()
                .header(b"first", 0, b'2', b"../victim")
                .file("first/x", b"x"),
        ),
        (
            "a link in the place of a directory",
            tar()
                .file("dir/a", b"x")
                .header(b"dir", 0, b'2', b"..")
                .file("dir/outside", b"x"),
        ),
    ]
}

#[test]
fn names_that_lead_outside_are_kept_in_an_export_and_refused_when_unpacking() {
    let mut earlier = Earlier::new();
    for (when, tar) in hostile_names() {
        let tar = tar.end();
        let imported = earlier.assert_stored(
            when,
            earlier.place.import_bytes("hostile.tar", &tar),
            &tar,
            &[],
        );
        let above = earlier.place.path("unpacked");
        std::fs::create_dir(&above).unwrap();
        std::fs::write(above.join("victim"), "whole").unwrap();
        let unpacked = unpack(
            &earlier.place.open(),
            &imported.snapshot,
            &above.join("here"),
            &Silent,
        );
        refusal(when, unpacked, Kind::Invalid, &["member"]);
        let left: Vec<_> = std::fs::read_dir(&above)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["victim"], "{when}");
        assert_eq!(
            std::fs::read(above.join("victim")).unwrap(),
            b"whole",
            "{when}"
        );
        assert!(
            !std::path::Path::new("/tmp/cryostore-outside").exists(),
            "{when}"
        );
        assert!(!earlier.place.path("outside").exists(), "{when}");
        std::fs::remove_dir_all(&above).unwrap();
    }
    earlier.assert_untouched("hostile names");
}

#[test]
fn members_that_take_each_others_place_are_unpacked_as_tar_does_or_refused_with_nothing_left() {
    let mut earlier = Earlier::new();
    let cases = [
        (
            "a file twice",
            TarBuilder::new().file("a", b"first").file("a", b"second"),
            Some("second"),
        ),
        (
            "a file over a hard link",
            TarBuilder::new()
                .file("x", b"x")
                .header(b"a", 0, b'1', b"x")
                .file("a", b"second"),
            Some("second"),
        ),
        (
            "a file over a directory",
            TarBuilder::new()
                .header(b"a/", 0, b'5', b"")
                .file("a", b"second"),
            None,
        ),
        (
            "a file below a file",
            TarBuilder::new().file("a", b"x").file("a/b", b"second"),
            None,
        ),
        (
            "a link over a file",
            TarBuilder::new()
                .file("a", b"x")
                .header(b"a", 0, b'2', b"b"),
            None,
        ),
    ];
    for (when, tar, content) in cases {
        let tar = tar.end();
        let imported = earlier.assert_stored(
            when,
            earlier.place.import_bytes("strange.tar", &tar),
            &tar,
            &[],
        );
        let dir = earlier.place.path("unpacked");
        let unpacked = unpack(&earlier.place.open(), &imported.snapshot, &dir, &Silent);
        match content {
            Some(content) => {
                unpacked.unwrap();
                assert_eq!(
                    std::fs::read_to_string(dir.join("a")).unwrap(),
                    content,
                    "{when}"
                );
                std::fs::remove_dir_all(&dir).unwrap();
            }
            None => {
                refusal(when, unpacked, Kind::Invalid, &["a"]);
                assert!(!dir.exists(), "{when}");
            }
        }
    }
    let names: Vec<_> = std::fs::read_dir(earlier.place.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| !name.to_string_lossy().ends_with(".part")),
        "{names:?}"
    );
    earlier.assert_untouched("names that come twice");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Text that compresses as logs do.
fn text(len: usize) -> Vec<u8> {
    let words = [
        "restore ",
        "checkpoint ",
        "of ",
        "the ",
        "process ",
        "page ",
        "failed\n",
        "done\n",
        "0x7f00 ",
        "4096 ",
    ];
    noise(len / 4, 99)
        .iter()
        .flat_map(|byte| words[usize::from(byte % 10)].bytes())
        .take(len)
        .collect()
}

/// Gzip data of an encoder that takes a match or a letter by chance, so that nobody can imitate it.
fn capricious_gzip() -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let (mut bits, mut filled) = (0_u64, 0_u32);
    let mut put = |value: u64, len: u32| {
        bits |= value << filled;
        filled += len;
        while filled >= 8 {
            out.push((bits & 0xff) as u8);
            bits >>= 8;
            filled -= 8;
        }
    };
    let code = |value: u64, len: u32| value.reverse_bits() >> (64 - len);
    let mut plain = Vec::new();
    let chance = noise(400_000, 5);
    put(0b011, 3);
    for pair in chance.chunks(2) {
        let (letter, by_chance) = (pair[0] & 0x7f, pair[1]);
        let len = 1 + usize::from(by_chance % 9);
        plain.extend(std::iter::repeat_n(letter, len));
        put(code(0x30 + u64::from(letter), 8), 8);
        if len > 3 && by_chance & 0x80 != 0 {
            // A match with the letter before it: length codes from 257 on, distance 1.
            put(code(len as u64 - 1 - 3 + 1, 7), 7);
            put(0, 5);
        } else {
            (1..len).for_each(|_| put(code(0x30 + u64::from(letter), 8), 8));
        }
    }
    put(0, 7);
    put(0, 7);
    let mut crc = flate2::Crc::new();
    crc.update(&plain);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    let mut again = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&out[..]), &mut again).unwrap();
    assert!(again == plain, "this test's own encoder");
    out
}

#[test]
fn gzip_within_is_opened_where_it_comes_back_exact_and_else_stored_as_it_is() {
    let mut earlier = Earlier::new();
    let good = gzip(&text(3 << 20));
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    let odd = capricious_gzip();
    let mut two = good.clone();
    two.extend(gzip(&text(1 << 20)));
    let cut = good[..good.len() - 100].to_vec();
    let trailing = [good.clone(), vec![0; 3000]].concat();
    for (when, bytes) in [
        ("good", good),
        ("damaged", damaged),
        ("odd", odd),
        ("two members", two),
        ("cut", cut),
        ("trailing zeros", trailing),
    ] {
        let tar = TarBuilder::new()
            .file("checkpoint/inventory.img", &inventory(2))
            .file("checkpoint/tmpfs-dev-1.tar.gz.img", &bytes)
            .end();
        let imported = earlier.assert_stored(
            when,
            earlier.place.import_bytes("gzip.tar", &tar),
            &tar,
            &[],
        );
        let derived = earlier
            .place
            .open()
            .manifest(&imported.snapshot)
            .unwrap()
            .streams;
        let opened = derived.iter().any(|s| {
            matches!(
                s.body,
                cryostore_engine::format::manifest::Body::Derived { .. }
            )
        });
        assert_eq!(
            opened,
            matches!(when, "good" | "two members" | "trailing zeros"),
            "{when}"
        );
    }
    earlier.assert_untouched("gzip within");
}

const CHILD: &str = "CRYOSTORE_TEST_CHILD";

#[test]
fn a_gzip_bomb_within_is_stored_as_it_is_in_bounded_memory() {
    if let Some(dir) = std::env::var_os(CHILD) {
        // In a process of its own, whose peak of memory is that of one import and one export.
        let place = std::path::Path::new(&dir);
        let repo =
            cryostore_tests::open_at(&place.join("store"), Some(&place.join("cache"))).unwrap();
        let imported = import(
            &repo,
            Source::File(place.join("bomb.tar")),
            &ImportOptions::default(),
            &Silent,
        )
        .unwrap();
        let output = cryostore_engine::Output::File {
            path: place.join("out.tar"),
            sync: false,
        };
        cryostore_engine::export(&repo, &imported.snapshot, output, &Silent).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        std::fs::write(
            place.join("peak"),
            status
                .lines()
                .find(|line| line.starts_with("VmHWM"))
                .unwrap(),
        )
        .unwrap();
        return;
    }
    let place = Place::new();
    // 1 GiB of zeros: once as one stream, once as many members.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let zeros = vec![0; 1 << 20];
    (0..1024).for_each(|_| encoder.write_all(&zeros).unwrap());
    let one = encoder.finish().unwrap();
    assert_eq!(one[one.len() - 4..], (1_u32 << 30).to_le_bytes());
    let many = gzip(&zeros).repeat(1024);
    assert!(
        one.len() < 8 << 20 && many.len() < 8 << 20,
        "{} {}",
        one.len(),
        many.len()
    );
    let tar = TarBuilder::new()
        .file("checkpoint/inventory.img", &inventory(2))
        .file("rootfs-diff.tar", &one)
        .file("checkpoint/tmpfs-dev-1.tar.gz.img", &many)
        .end();
    std::fs::write(place.path("bomb.tar"), &tar).unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child
        .args([
            "--exact",
            "a_gzip_bomb_within_is_stored_as_it_is_in_bounded_memory",
        ])
        .env(CHILD, place.dir.path());
    let output = child.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(std::fs::read(place.path("out.tar")).unwrap() == tar);
    let peak = std::fs::read_to_string(place.path("peak")).unwrap();
    let peak_kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak_kib < 256 << 10, "{peak}");
    assert!(place.stored_bytes() < tar.len() as u64 + (64 << 10));
}
