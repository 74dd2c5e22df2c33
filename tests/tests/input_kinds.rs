//! Every kind of input: streams, compression, directories, tar dialects, page sizes, page maps of all ages, GPU memory, parents.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::big_endian_bytes,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File, Permissions};
use std::io::{Cursor, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use cryostore_engine::format::Digest;
use cryostore_engine::format::manifest::{Manifest, MapOf, RunPlace, Stream};
use cryostore_engine::format::snapshot::{ArchiveKind, Compression, SnapshotRecord};
use cryostore_engine::gc::{self, GcOptions};
use cryostore_engine::{
    BaseChoice, CheckpointReader, ImportOptions, Kind, Output, PageFrame, Silent, Source, export,
    import, unpack,
};
use cryostore_tests::Place;
use cryostore_tests::archives::{Count, TarBuilder, checkpoint, inventory, noise, pagemap, pstree};
use cryostore_tests::failures::refusal;
use cryostore_tests::images::{extended, legacy_pagemap, mm, patch_header, pax_records};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Imports and exports; the record comes back.
fn round_trip(place: &Place, tar: &[u8]) -> SnapshotRecord {
    let snapshot = place.import_bytes("in.tar", tar).unwrap().snapshot;
    assert!(place.bytes_of(&snapshot) == tar);
    snapshot
}

fn stream<'m>(manifest: &'m Manifest, name: &str) -> &'m Stream {
    manifest
        .streams
        .iter()
        .find(|stream| stream.name.ends_with(name.as_bytes()))
        .unwrap()
}

/// Gives few bytes at a time, as a pipe does.
struct Pipe(Cursor<Vec<u8>>);

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let most = buf.len().min(1 + (self.0.position() % 5000) as usize);
        self.0.read(&mut buf[..most])
    }
}

#[test]
fn a_file_that_is_open_is_read_from_its_start_whatever_becomes_of_its_name() {
    let place = Place::new();
    let tar = checkpoint(&noise(64 * 4096, 3), 4096);
    for (n, bytes) in [tar.clone(), gzip(&tar)].into_iter().enumerate() {
        let path = place.path(&format!("open-{n}.tar"));
        fs::write(&path, bytes).unwrap();
        let mut file = File::open(&path).unwrap();
        file.read_exact(&mut [0; 100]).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another file").unwrap();
        let source = Source::Open(file, path.clone());
        let imported = import(&place.open(), source, &ImportOptions::default(), &Silent);
        assert!(place.bytes_of(&imported.unwrap().snapshot) == tar);
    }
}

#[test]
fn a_stream_of_bytes_is_imported_plain_or_compressed_in_any_number_of_frames() {
    let place = Place::new();
    let tar = checkpoint(&noise(3 << 20, 1), 4096);
    let halves = tar.split_at(tar.len() / 3);
    let skippable = [
        &[0x53, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..],
        b"notes",
        &zstd::bulk::compress(&tar, 1).unwrap(),
    ]
    .concat();
    let cases: [(&str, Vec<u8>, Option<Compression>); 6] = [
        ("plain", tar.clone(), None),
        ("gzip", gzip(&tar), Some(Compression::Gzip)),
        (
            "gzip of two members",
            [gzip(halves.0), gzip(halves.1)].concat(),
            Some(Compression::Gzip),
        ),
        (
            "zstd",
            zstd::bulk::compress(&tar, 1).unwrap(),
            Some(Compression::Zstd),
        ),
        (
            "zstd of two frames",
            [
                zstd::bulk::compress(halves.0, 1).unwrap(),
                zstd::bulk::compress(halves.1, 9).unwrap(),
            ]
            .concat(),
            Some(Compression::Zstd),
        ),
        (
            "zstd after a skippable frame",
            skippable,
            Some(Compression::Zstd),
        ),
    ];
    for (when, bytes, compression) in cases {
        fs::write(place.path("misleading.png"), &bytes).unwrap();
        let digest = Digest::of(&bytes);
        let len = bytes.len() as u64;
        let sources = [
            Source::at(&place.path("misleading.png")).unwrap(),
            Source::Stream(Box::new(Pipe(Cursor::new(bytes)))),
        ];
        for source in sources {
            let when = format!("{when} from {source:?}");
            let snapshot = import(&place.open(), source, &ImportOptions::default(), &Silent)
                .unwrap()
                .snapshot;
            assert!(place.bytes_of(&snapshot) == tar, "{when}");
            assert_eq!(
                (snapshot.archive.kind, snapshot.archive.bytes),
                (ArchiveKind::Tar, tar.len() as u64),
                "{when}"
            );
            assert_eq!(snapshot.archive.digest, Some(Digest::of(&tar)), "{when}");
            let outer = snapshot
                .archive
                .outer
                .map(|outer| (outer.compression, outer.bytes, outer.digest));
            assert_eq!(
                outer,
                compression.map(|compression| (compression, len, digest)),
                "{when}"
            );
            assert_eq!(snapshot.warnings, Vec::<String>::new(), "{when}");
        }
    }
}

/// A directory as `criu dump -D` leaves it, and a little more.
fn image_directory(dir: &Path) {
    fs::create_dir_all(dir.join("sub/deeper")).unwrap();
    let pages = noise(200 * 4096, 5);
    for (name, bytes) in [
        ("inventory.img", inventory(2)),
        ("pstree.img", pstree(&[1])),
        (
            "pagemap-1.img",
            pagemap(1, &[(0x1000_0000, 200, 4)], Count::New),
        ),
        ("pages-1.img", pages),
        ("empty", vec![]),
        ("sub/deeper/ünïcode", b"x".to_vec()),
        (&"long-".repeat(40), b"long name".to_vec()),
    ] {
        fs::write(dir.join(name), bytes).unwrap();
    }
    symlink("../previous", dir.join("parent")).unwrap();
    symlink("target-".repeat(30), dir.join("sub/long-link")).unwrap();
    fs::set_permissions(dir.join("pages-1.img"), Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(dir.join("sub/deeper"), Permissions::from_mode(0o750)).unwrap();
    let since = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_234_567_890);
    File::options()
        .write(true)
        .open(dir.join("pages-1.img"))
        .unwrap()
        .set_modified(since)
        .unwrap();
}

type Seen = Vec<(String, u32, Vec<u8>, i64)>;

/// Names, kinds with modes, contents or targets, and times of files.
fn seen(root: &Path, dir: &Path, out: &mut Seen) {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let meta = path.symlink_metadata().unwrap();
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let content = match meta.file_type() {
            kind if kind.is_symlink() => fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes(),
            kind if kind.is_file() => fs::read(&path).unwrap(),
            _ => Vec::new(),
        };
        let mtime = if meta.is_file() { meta.mtime() } else { 0 };
        out.push((name, meta.mode(), content, mtime));
        if meta.is_dir() {
            seen(root, &path, out);
        }
    }
}

#[test]
fn a_directory_comes_back_as_the_same_tar_each_time_and_unpacks_to_the_same_files() {
    let place = Place::new();
    let dir = place.path("images");
    image_directory(&dir);
    let first = place.import(&dir).unwrap().snapshot;
    let second = place.import(&dir).unwrap().snapshot;
    assert_eq!(first.archive.kind, ArchiveKind::Directory);
    assert_eq!(first.archive.digest, second.archive.digest);
    assert_eq!(second.cost.packs_added, 0);
    let tar = place.bytes_of(&first);
    assert!(tar == place.bytes_of(&second) && Digest::of(&tar) == first.archive.digest.unwrap());
    // What tar itself makes of it, and what we do, is what was there.
    let (by_tar, by_us) = (place.path("by-tar"), place.path("by-us"));
    fs::create_dir(&by_tar).unwrap();
    fs::write(place.path("out.tar"), &tar).unwrap();
    let status = std::process::Command::new("tar")
        .arg("-xpf")
        .arg(place.path("out.tar"))
        .arg("-C")
        .arg(&by_tar)
        .status();
    assert!(status.unwrap().success());
    unpack(&place.open(), &first, &by_us, &Silent).unwrap();
    let look = |dir: &Path| {
        let mut out = Seen::new();
        seen(dir, dir, &mut out);
        out
    };
    let original = look(&dir);
    assert_eq!(original.len(), 11);
    assert_eq!(look(&by_tar), original, "by tar");
    assert_eq!(look(&by_us), original, "by unpack");
    // An unpacked archive is a directory like any other.
    let again = place.import(&by_us).unwrap().snapshot;
    assert!(
        again.cost.classes.new.bytes < 16 << 10,
        "its headers at most: {:?}",
        again.cost.classes
    );
    let not_empty = unpack(&place.open(), &first, &by_us, &Silent);
    refusal(
        "a directory that is not empty",
        not_empty,
        Kind::Conflict,
        &["by-us", "not empty"],
    );
}

#[test]
fn long_names_and_links_of_pax_and_gnu_are_understood_and_kept() {
    let place = Place::new();
    let deep = format!("checkpoint/{}/pages-1.img", "deep/".repeat(60));
    let (dir, map) = (
        deep.strip_suffix("/pages-1.img").unwrap(),
        pagemap(1, &[(0x10000, 3, 4)], Count::New),
    );
    let pages = noise(3 * 4096, 9);
    let gnu = |tar, name: &str| extended(tar, b'L', format!("{name}\0").as_bytes());
    let pax = |tar, name: &str| {
        extended(
            tar,
            b'x',
            &pax_records(&[
                ("mtime", "1500000000.25"),
                ("path", name),
                ("comment", "ünïcode"),
            ]),
        )
    };
    for (when, long) in [
        ("GNU", &gnu as &dyn Fn(TarBuilder, &str) -> TarBuilder),
        ("PAX", &pax),
    ] {
        let tar =
            long(TarBuilder::new(), &format!("{dir}/inventory.img")).file("short", &inventory(2));
        let tar = long(tar, &format!("{dir}/pagemap-1.img")).file("short", &map);
        let tar = long(tar, &deep).file("short", &pages);
        let tar = extended(tar, b'K', format!("{}\0", "far/".repeat(50)).as_bytes())
            .header(b"link", 0, b'2', b"near");
        let tar = extended(tar, b'g', &pax_records(&[("comment", "for all")]))
            .file("last", b"x")
            .end();
        let snapshot = round_trip(&place, &tar);
        let repo = place.open();
        let manifest = repo.manifest(&snapshot).unwrap();
        let found = stream(&manifest, &deep);
        assert_eq!((found.page_size, found.len), (4096, 3 * 4096), "{when}");
        let reader = CheckpointReader::open(&repo, &snapshot).unwrap();
        assert!(
            matches!(
                reader.page(MapOf::Process(1), 0x11000).unwrap(),
                Some(PageFrame::Frame(_))
            ),
            "{when}"
        );
        let unpacked = place.path(when);
        unpack(&repo, &snapshot, &unpacked, &Silent).unwrap();
        assert!(fs::read(unpacked.join(&deep)).unwrap() == pages, "{when}");
        assert_eq!(
            fs::read_link(unpacked.join("link"))
                .unwrap()
                .as_os_str()
                .len(),
            200,
            "{when}"
        );
    }
}

#[test]
fn a_member_of_8_gib_is_imported_with_its_size_in_base_256_and_comes_back_as_a_sparse_file() {
    // One more than eleven octal digits can say, and a page.
    const LEN: u64 = (8 << 30) + 4096;
    let place = Place::new();
    let count = LEN / 4096;
    let start = TarBuilder::new()
        .file("checkpoint/inventory.img", &inventory(2))
        .file(
            "checkpoint/pagemap-1.img",
            &pagemap(1, &[(1 << 32, count, 4)], Count::New),
        );
    let header_at = start.clone().unended().len();
    let mut head = start
        .header(b"checkpoint/pages-1.img", 0, b'0', b"")
        .unended();
    let mut size = [0; 12];
    size[0] = 0x80;
    size[4..].copy_from_slice(&LEN.to_be_bytes());
    patch_header(&mut head, header_at, 124, &size);
    // Holes that are read from memory take no room in the page cache.
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() {
        tempfile::tempdir_in(shm)
    } else {
        tempfile::tempdir()
    }
    .unwrap();
    let path = dir.path().join("huge.tar");
    let file = File::create(&path).unwrap();
    let page = noise(4096, 3);
    let body = head.len() as u64;
    file.write_all_at(&head, 0).unwrap();
    file.write_all_at(&page, body + (5 << 30)).unwrap();
    let tail = TarBuilder::new()
        .file("checkpoint/pstree.img", &pstree(&[1]))
        .end();
    file.write_all_at(&tail, body + LEN).unwrap();
    let len = body + LEN + tail.len() as u64;
    let imported = place.import(&path).unwrap().snapshot;
    assert_eq!(
        (imported.archive.bytes, &imported.warnings),
        (len, &Vec::new())
    );
    assert_eq!(
        (
            imported.cost.classes.zero.pages,
            imported.cost.classes.new.pages
        ),
        (count - 1, 1)
    );
    assert!(place.stored_bytes() < 64 << 10, "{}", place.stored_bytes());
    let repo = place.open();
    let reader = CheckpointReader::open(&repo, &imported).unwrap();
    let mut found = vec![1; 4096];
    reader.read_at(body + (5 << 30), &mut found).unwrap();
    assert!(found == page);
    assert!(matches!(
        reader
            .page(MapOf::Process(1), (1 << 32) + (5 << 30))
            .unwrap(),
        Some(PageFrame::Frame(_))
    ));
    assert_eq!(
        reader.page(MapOf::Process(1), (1 << 32) + LEN - 1).unwrap(),
        Some(PageFrame::Zero)
    );
    // The digest of all 8 GiB is checked by the export; the file takes no room.
    let out = place.path("out.tar");
    export(
        &repo,
        &imported,
        Output::File {
            path: out.clone(),
            sync: false,
        },
        &Silent,
    )
    .unwrap();
    let meta = out.metadata().unwrap();
    assert_eq!(meta.len(), len);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
}

#[test]
fn a_size_of_a_pax_record_counts_and_that_of_the_header_does_not() {
    let place = Place::new();
    let body = noise(10_000, 4);
    let tar = extended(
        TarBuilder::new().file("checkpoint/inventory.img", &inventory(2)),
        b'x',
        &pax_records(&[("size", "10000")]),
    );
    let tar = tar
        .header(b"checkpoint/pages-1.img", 0, b'0', b"")
        .raw(&body)
        .raw(&[0; 240])
        .file("last", b"x")
        .end();
    let snapshot = round_trip(&place, &tar);
    assert_eq!(
        stream(&place.open().manifest(&snapshot).unwrap(), "pages-1.img").len,
        10_000
    );
    assert_eq!(snapshot.warnings, Vec::<String>::new());
}

#[test]
fn what_follows_the_end_of_a_tar_is_kept_and_told_unless_it_is_zero() {
    let place = Place::new();
    let tar = checkpoint(&noise(8192, 4), 4096);
    let zeros = [tar.clone(), vec![0; 10_240]].concat();
    assert_eq!(round_trip(&place, &zeros).warnings, Vec::<String>::new());
    let leftover = [tar.clone(), checkpoint(&noise(30_000, 8), 4096)].concat();
    for tar in [
        leftover,
        [tar.clone(), b"x".to_vec()].concat(),
        [tar, noise(5 << 20, 3)].concat(),
    ] {
        let snapshot = round_trip(&place, &tar);
        assert!(
            snapshot
                .warnings
                .iter()
                .any(|w| w.contains("bytes after the end")),
            "{:?}",
            snapshot.warnings
        );
    }
}

#[test]
fn the_page_size_is_that_of_the_dump() {
    for page_size in [4096, 16384, 65536] {
        let pages = noise(page_size as usize * 5, page_size);
        let map = pagemap(
            1,
            &[(7 * page_size, 2, 4), (100 * page_size, 3, 4)],
            Count::New,
        );
        let start = TarBuilder::new()
            .file("checkpoint/inventory.img", &inventory(2))
            .file("checkpoint/pagemap-1.img", &map);
        let ends = |tar: TarBuilder, len: usize| {
            tar.file("checkpoint/pages-1.img", &pages[..len])
                .file("checkpoint/pstree.img", &pstree(&[1]))
                .end()
        };
        let told = start.clone().file("checkpoint/mm-1.img", &mm(page_size));
        let cases = [
            ("by its length", ends(start, pages.len()), 5),
            ("by auxv", ends(told.clone(), pages.len()), 5),
            (
                "by auxv, and the image is cut",
                ends(told.clone(), pages.len() - page_size as usize),
                4,
            ),
            ("by auxv, from a pipe", ends(told, pages.len()), 5),
        ];
        for (when, tar, count) in cases {
            let when = format!("{page_size} {when}");
            let place = Place::new();
            let snapshot = if when.ends_with("pipe") {
                import(
                    &place.open(),
                    Source::Stream(Box::new(Cursor::new(tar.clone()))),
                    &ImportOptions::default(),
                    &Silent,
                )
                .unwrap()
                .snapshot
            } else {
                round_trip(&place, &tar)
            };
            assert!(place.bytes_of(&snapshot) == tar);
            let repo = place.open();
            let manifest = repo.manifest(&snapshot).unwrap();
            assert_eq!(
                u64::from(stream(&manifest, "pages-1.img").page_size),
                page_size,
                "{when}"
            );
            assert_eq!(snapshot.producer.page_size, Some(page_size), "{when}");
            assert_eq!(snapshot.cost.classes.new.pages, count, "{when}");
            let reader = CheckpointReader::open(&repo, &snapshot).unwrap();
            let page = reader.page(MapOf::Process(1), 101 * page_size).unwrap();
            assert!(
                matches!(page, Some(PageFrame::Frame(slice)) if slice.len == page_size && slice.take == 1),
                "{when}: {page:?}"
            );
            // The same once more: all pages stand where they stood.
            let again = place.import_bytes("in.tar", &tar).unwrap().snapshot;
            assert_eq!(again.cost.classes.same.pages, count, "{when}");
        }
    }
}

#[test]
fn page_maps_of_every_age_of_criu_mean_the_same() {
    let pages = noise(6 * 4096, 12);
    let present = [(0x10000, 2, 4), (0x40000, 4, 4)];
    let maps = [
        ("field 2", pagemap(1, &present, Count::Old)),
        ("field 5", pagemap(1, &present, Count::New)),
        (
            "without flags",
            legacy_pagemap(1, &[(0x10000, 2, false), (0x40000, 4, false)]),
        ),
    ];
    let place = Place::new();
    for (n, (when, map)) in maps.into_iter().enumerate() {
        let tar = TarBuilder::new()
            .file("config.dump", br#"{"name":"aged"}"#)
            .file("checkpoint/inventory.img", &inventory(2))
            .file("checkpoint/pagemap-1.img", &map)
            .file("checkpoint/pages-1.img", &pages)
            .file("checkpoint/pstree.img", &pstree(&[1]))
            .end();
        let snapshot = round_trip(&place, &tar);
        assert_eq!(snapshot.warnings, Vec::<String>::new(), "{when}");
        let runs = &place.open().manifest(&snapshot).unwrap().maps[0].runs;
        let found: Vec<_> = runs
            .iter()
            .map(|run| (run.page_number, run.pages, run.place))
            .collect();
        assert_eq!(
            found,
            [(0x10, 2, RunPlace::Image), (0x40, 4, RunPlace::Image)],
            "{when}"
        );
        assert_eq!(
            snapshot.cost.classes.same.pages,
            if n == 0 { 0 } else { 6 },
            "{when}"
        );
    }
}

/// A file of the amdgpu plugin: its size, then buffer objects.
fn gpu(tag: u64, objects: &[u8]) -> Vec<u8> {
    let pages = [&tag.to_le_bytes()[..], objects].concat();
    TarBuilder::new()
        .file("config.dump", br#"{"name":"gpu"}"#)
        .file("checkpoint/inventory.img", &inventory(2))
        .file("checkpoint/amdgpu-pages-1-0001.img", &pages)
        .end()
}

#[test]
fn gpu_memory_is_cut_from_offset_8_so_that_its_pages_are_found_although_the_head_differs() {
    let place = Place::new();
    let objects = noise(300 * 4096, 33);
    let first = round_trip(&place, &gpu(1, &objects));
    let manifest = place.open().manifest(&first).unwrap();
    let found = stream(&manifest, "amdgpu-pages-1-0001.img");
    assert_eq!((found.page_size, found.phase), (4096, 8));
    let mut moved = objects[64 * 4096..].to_vec();
    moved.extend_from_slice(&objects[..64 * 4096]);
    moved[5] ^= 1;
    let second = round_trip(&place, &gpu(2, &moved));
    // One page, the head, and small things.
    assert!(
        second.cost.classes.new.bytes < 2 * 4096,
        "{:?}",
        second.cost.classes
    );
    assert!(
        second.cost.bytes_added < 16 << 10,
        "{}",
        second.cost.bytes_added
    );
}

#[test]
fn page_images_of_an_unknown_version_are_stored_whole_with_a_warning() {
    let place = Place::new();
    let pages = noise(50_000, 3);
    for (version, raw) in [(1, true), (2, true), (3, false), (99, false)] {
        let tar = TarBuilder::new()
            .file("checkpoint/inventory.img", &inventory(version))
            .file(
                "checkpoint/pagemap-1.img",
                &pagemap(1, &[(0x10000, 40, 4)], Count::New),
            )
            .file("checkpoint/pages-1.img", &pages)
            .file("checkpoint/pstree.img", &pstree(&[1]))
            .end();
        let snapshot = round_trip(&place, &tar);
        let manifest = place.open().manifest(&snapshot).unwrap();
        assert_eq!(
            stream(&manifest, "pages-1.img").page_size,
            if raw { 4096 } else { 0 },
            "version {version}"
        );
        let told = snapshot
            .warnings
            .iter()
            .any(|w| w.contains("pages-1.img") && w.contains(&format!("img_version {version}")));
        assert_eq!(told, !raw, "version {version}: {:?}", snapshot.warnings);
        assert_eq!(snapshot.producer.img_version, Some(version as u32));
    }
}

#[test]
fn left_over_images_of_podman_are_imported_and_do_not_hide_the_live_ones() {
    let place = Place::new();
    let (live, stale) = (noise(8 * 4096, 1), noise(4 * 4096, 2));
    // Both maps name pages-1.img; only process 7 is still there.
    let tar = |live: &[u8]| {
        TarBuilder::new()
            .file("config.dump", br#"{"name":"stale"}"#)
            .file("checkpoint/inventory.img", &inventory(2))
            .file(
                "checkpoint/pagemap-3.img",
                &pagemap(1, &[(0x10000, 20, 4)], Count::New),
            )
            .file(
                "checkpoint/pagemap-7.img",
                &pagemap(1, &[(0x50000, 8, 4)], Count::New),
            )
            .file(
                "checkpoint/pagemap-9.img",
                &pagemap(2, &[(0x50000, 9, 4)], Count::New),
            )
            .file("checkpoint/pages-1.img", live)
            .file("checkpoint/pages-2.img", &stale)
            .file("checkpoint/pstree.img", &pstree(&[7]))
            .end()
    };
    let first = round_trip(&place, &tar(&live));
    assert_eq!(
        first.warnings,
        Vec::<String>::new(),
        "stale maps need not fit"
    );
    let repo = place.open();
    let maps: Vec<_> = repo
        .manifest(&first)
        .unwrap()
        .maps
        .iter()
        .map(|map| (map.of, map.stale))
        .collect();
    assert_eq!(
        maps,
        [
            (MapOf::Process(7), false),
            (MapOf::Process(3), true),
            (MapOf::Process(9), true)
        ]
    );
    let reader = CheckpointReader::open(&repo, &first).unwrap();
    assert!(reader.page(MapOf::Process(7), 0x57000).unwrap().is_some());
    assert_eq!(reader.page(MapOf::Process(3), 0x10000).unwrap(), None);
    let mut changed = live.clone();
    changed[4096] ^= 1;
    let second = round_trip(&place, &tar(&changed));
    let classes = second.cost.classes;
    // Nobody lives in pages-2.img: its pages have no address, and are found all the same.
    assert_eq!(
        (
            classes.same.pages,
            classes.elsewhere.pages,
            classes.delta.pages
        ),
        (7, 4, 1),
        "{classes:?}"
    );
}

/// A dump whose pages are partly in its parent: address, pages, flags.
fn part(entries: &[(u64, u64, u64)], legacy: bool, pages: &[u8]) -> Vec<u8> {
    let map = if legacy {
        let entries: Vec<_> = entries
            .iter()
            .map(|(address, pages, flags)| (*address, *pages, flags & 1 != 0))
            .collect();
        legacy_pagemap(1, &entries)
    } else {
        pagemap(1, entries, Count::New)
    };
    TarBuilder::new()
        .file("config.dump", br#"{"name":"incremental"}"#)
        .file("checkpoint/inventory.img", &inventory(2))
        .file("checkpoint/pagemap-1.img", &map)
        .file("checkpoint/pages-1.img", pages)
        .header(b"checkpoint/parent", 0, b'2', b"../previous")
        .file("checkpoint/pstree.img", &pstree(&[1]))
        .end()
}

#[test]
fn pages_in_a_parent_bind_a_snapshot_to_the_one_that_has_them() {
    let place = Place::new();
    let whole = part(&[(0x10000, 16, 4)], false, &noise(16 * 4096, 1));
    let second = part(
        &[(0x10000, 8, 1), (0x18000, 8, 4)],
        false,
        &noise(8 * 4096, 2),
    );
    let third = part(
        &[(0x10000, 12, 1), (0x1c000, 4, 4)],
        true,
        &noise(4 * 4096, 3),
    );
    let first = round_trip(&place, &whole);
    let second = round_trip(&place, &second);
    let third = round_trip(&place, &third);
    assert_eq!(
        (first.requires, second.requires, third.requires),
        (None, Some(first.id), Some(second.id))
    );
    assert_eq!(
        (&second.warnings, &third.warnings),
        (&Vec::new(), &Vec::new())
    );
    let repo = place.open();
    let reader = CheckpointReader::open(&repo, &third).unwrap();
    assert_eq!(
        reader.page(MapOf::Process(1), 0x10000).unwrap(),
        Some(PageFrame::Parent)
    );
    assert!(matches!(
        reader.page(MapOf::Process(1), 0x1c000).unwrap(),
        Some(PageFrame::Frame(_))
    ));
    for (wanted, needs) in [
        (vec![first.id], second.id),
        (vec![second.id], third.id),
        (vec![first.id, second.id], third.id),
        (vec![first.id, third.id], second.id),
    ] {
        let error = refusal(
            "a needed one",
            repo.delete(&wanted, "test"),
            Kind::Conflict,
            &[&needs.to_string()],
        );
        assert!(
            wanted
                .iter()
                .any(|id| error.to_string().contains(&id.to_string())),
            "{error}"
        );
        assert!(error.advice().unwrap().contains(&needs.to_string()));
        assert_eq!(
            repo.snapshots().unwrap().snapshots.len(),
            3,
            "none was deleted"
        );
    }
    repo.delete(&[third.id], "test").unwrap();
    repo.delete(&[first.id, second.id], "test").unwrap();
    assert!(repo.snapshots().unwrap().snapshots.is_empty());
    gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(!place.objects("packs").is_empty(), "somebody reads");
    drop(reader);
    gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(place.objects("packs").is_empty());
}

#[test]
fn pages_in_a_parent_that_is_not_stored_are_told_and_no_snapshot_is_taken_for_it() {
    let place = Place::new();
    let lonely = part(
        &[(0x10000, 8, 1), (0x18000, 8, 4)],
        false,
        &noise(8 * 4096, 2),
    );
    for n in 0..2 {
        // The second time there is a snapshot that says the same, and does not have the pages either.
        let snapshot = round_trip(&place, &lonely);
        assert_eq!(snapshot.requires, None, "import {n}");
        assert!(
            snapshot
                .warnings
                .iter()
                .any(|w| w.contains("8 pages are in CRIU's parent")),
            "import {n}: {:?}",
            snapshot.warnings
        );
    }
    let too_few = round_trip(
        &place,
        &part(&[(0x10000, 7, 4)], false, &noise(7 * 4096, 1)),
    );
    assert_eq!(round_trip(&place, &lonely).requires, None);
    fs::write(place.path("in.tar"), &lonely).unwrap();
    let by_hand = |id: String| ImportOptions {
        criu_parent: Some(id),
        base: BaseChoice::None,
        ..ImportOptions::default()
    };
    let result = place.import_with(
        &place.path("in.tar"),
        &by_hand(too_few.id.to_string()),
        &Silent,
    );
    refusal(
        "a parent by hand that has too few",
        result.map(|i| i.snapshot.id),
        Kind::Invalid,
        &["does not have all of 8 pages"],
    );
    let elsewhere = checkpoint(&noise(64 * 4096, 9), 4096);
    let elsewhere = round_trip(&place, &elsewhere);
    fs::write(place.path("in.tar"), &lonely).unwrap();
    let result = place.import_with(
        &place.path("in.tar"),
        &by_hand(elsewhere.id.to_string()),
        &Silent,
    );
    // Pages from 0x10000 × 4096 on: none of those that are needed.
    refusal(
        "another container's snapshot",
        result.map(|i| i.snapshot.id),
        Kind::Invalid,
        &["does not have all"],
    );
    let whole = round_trip(
        &place,
        &part(&[(0x10000, 8, 4)], false, &noise(8 * 4096, 1)),
    );
    let imported = place
        .import_with(
            &place.path("in.tar"),
            &by_hand(whole.id.to_string()[..8].to_owned()),
            &Silent,
        )
        .unwrap();
    assert_eq!(imported.snapshot.requires, Some(whole.id));
    assert_eq!(round_trip(&place, &lonely).requires.map(|_| ()), Some(()));
}
