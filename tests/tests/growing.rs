//! What the interface is made to grow into: streams in any order, parts of archives, pages by address, deadlines, attachments.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::cell::Cell;
use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use cryostore_engine::archive::tar::{Span, TarReader};
use cryostore_engine::check::{self, CheckOptions};
use cryostore_engine::format::manifest::{MapOf, PageMap, RunPlace};
use cryostore_engine::format::recipe::{FrameSlice, Slice};
use cryostore_engine::format::snapshot::{Identity, Origin, SnapshotRecord};
use cryostore_engine::gc::{self, GcOptions};
use cryostore_engine::{
    BaseChoice, CheckpointReader, Deadline, Filter, ImportOptions, Kind, Output, PageFrame,
    Repository, Silent, StreamId, StreamImport, export, rebuild_index, unpack,
};
use cryostore_tests::Place;
use cryostore_tests::archives::{
    Count, TarBuilder, checkpoint, inventory, noise, pagemap, pstree, real_tar,
};
use cryostore_tests::failures::{Earlier, refusal};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Streams of a checkpoint as an image streamer sends them.
fn streams() -> Vec<(&'static [u8], Vec<u8>)> {
    let mut pages = noise(700 * 4096, 1);
    pages[100 * 4096..200 * 4096].fill(0);
    vec![
        (b"pages-1.img", pages),
        (
            b"pagemap-1.img",
            pagemap(1, &[(0x10_0000, 700, 4)], Count::New),
        ),
        (b"inventory.img", inventory(2)),
        (b"empty.img", Vec::new()),
        (b"pages-2.img", noise(50 * 4096 + 77, 2)),
        (b"files.img", noise(20_000, 3)),
        (b"pstree.img", pstree(&[1])),
    ]
}

/// Name and content of each member of a tar, in order.
fn members(tar: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut reader = TarReader::new();
    let mut rest = tar;
    let mut out: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    while let Some(span) = reader.next(rest).unwrap() {
        match span {
            Span::Meta(len) => rest = &rest[len..],
            Span::Data(len) => {
                out.last_mut().unwrap().1.extend_from_slice(&rest[..len]);
                rest = &rest[len..];
            }
            Span::Member(member) => out.push((member.name, Vec::new())),
            Span::End => {}
        }
    }
    let end = reader.finish().unwrap();
    assert!(end.complete && !end.garbage);
    out
}

/// Writes streams in pieces of all lengths, in turns; each ends when it is through.
fn feed(
    work: &mut StreamImport<'_>,
    streams: &[(&'static [u8], Vec<u8>)],
    seed: u64,
) -> Vec<Vec<u8>> {
    let mut open: Vec<(StreamId, usize, &[u8])> = streams
        .iter()
        .enumerate()
        .map(|(n, (name, bytes))| (work.stream(name).unwrap(), n, &bytes[..]))
        .collect();
    let mut ended = Vec::new();
    for chance in noise(1 << 16, seed).chunks(4) {
        if open.is_empty() {
            break;
        }
        let n = usize::from(chance[0]) % open.len();
        let (id, number, rest) = &mut open[n];
        let len = (usize::from(chance[1]) << (chance[2] % 12)).min(rest.len());
        let (piece, after) = rest.split_at(len);
        work.write(*id, piece).unwrap();
        *rest = after;
        if rest.is_empty() {
            work.end(*id).unwrap();
            ended.push(streams[*number].0.to_vec());
            open.remove(n);
        }
    }
    assert!(open.is_empty());
    ended
}

#[test]
fn streams_that_come_interleaved_in_any_order_become_a_tar_that_holds_them() {
    let place = Place::new();
    let streams = streams();
    let content: HashMap<_, _> = streams.iter().cloned().collect();
    for seed in 1..6 {
        let repo = place.open();
        let mut work = StreamImport::begin(&repo, ImportOptions::default(), &Silent).unwrap();
        let order = feed(&mut work, &streams, seed);
        let imported = work.commit().unwrap();
        let tar = place.bytes_of(&imported.snapshot);
        assert_eq!(tar.len() as u64, imported.snapshot.archive.bytes);
        let found = members(&tar);
        assert_eq!(
            found
                .iter()
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>(),
            order
        );
        assert!(
            found
                .iter()
                .all(|(name, bytes)| content[&name[..]] == *bytes),
            "seed {seed}"
        );
        let list = std::process::Command::new("tar")
            .args(["-tf", "-"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut child = list.unwrap();
        child.stdin.take().unwrap().write_all(&tar).unwrap();
        assert_eq!(
            child
                .wait_with_output()
                .unwrap()
                .stdout
                .iter()
                .filter(|b| **b == b'\n')
                .count(),
            streams.len()
        );
        // The memory can be addressed, whenever its map came.
        let reader = CheckpointReader::open(&repo, &imported.snapshot).unwrap();
        assert_eq!(
            reader
                .page(MapOf::Process(1), 0x10_0000 + 150 * 4096)
                .unwrap(),
            Some(PageFrame::Zero)
        );
        assert!(matches!(
            reader
                .page(MapOf::Process(1), 0x10_0000 + 699 * 4096)
                .unwrap(),
            Some(PageFrame::Frame(_))
        ));
        if seed > 1 {
            assert_eq!(
                imported.snapshot.cost.packs_added, 1,
                "headers at most: {:?}",
                imported.snapshot.cost
            );
            assert!(
                imported.snapshot.cost.classes.new.bytes < 16 << 10,
                "{:?}",
                imported.snapshot.cost
            );
        }
        unpack(
            &repo,
            &imported.snapshot,
            &place.path(&format!("dir-{seed}")),
            &Silent,
        )
        .unwrap();
    }
    assert_eq!(
        check::check(&place.open(), &CheckOptions { read_data: true }, &Silent)
            .unwrap()
            .problems,
        []
    );
}

#[test]
fn streams_that_are_dropped_or_not_ended_leave_nothing() {
    let earlier = Earlier::new();
    let repo = earlier.place.open();
    for commit in [false, true] {
        let mut work = StreamImport::begin(&repo, ImportOptions::default(), &Silent).unwrap();
        feed(&mut work, &streams(), 9);
        let open = work.stream(b"pages-3.img").unwrap();
        work.write(open, &noise(20 << 20, 5)).unwrap();
        assert_eq!(repo.sessions().unwrap().len(), 1);
        if commit {
            refusal(
                "a stream was not ended",
                work.commit(),
                Kind::Invalid,
                &["pages-3.img", "not ended"],
            );
        } else {
            drop(work);
        }
        earlier.assert_untouched("dropped");
    }
    let mut work = StreamImport::begin(&repo, ImportOptions::default(), &Silent).unwrap();
    let id = work.stream(b"pages-1.img").unwrap();
    work.end(id).unwrap();
    refusal(
        "written after its end",
        work.write(id, b"x"),
        Kind::Invalid,
        &["has ended"],
    );
    refusal("ended twice", work.end(id), Kind::Invalid, &["has ended"]);
    refusal("no name", work.stream(b""), Kind::Invalid, &["0 bytes"]);
    drop(work);
    earlier.assert_untouched("misused");
}

/// A real archive and a made one, imported after others so that their chunks lie in several packs.
fn archives(place: &Place) -> Vec<(SnapshotRecord, Vec<u8>)> {
    let mut pages = noise(600 * 4096, 4);
    pages[30 * 4096..90 * 4096].fill(0);
    let earlier = checkpoint(&pages, 4096);
    pages[200 * 4096..260 * 4096].copy_from_slice(&noise(60 * 4096, 5));
    let tars = [
        earlier,
        checkpoint(&pages, 4096),
        real_tar("podman-busybox-1"),
        real_tar("podman-busybox-2"),
    ];
    tars.into_iter()
        .map(|tar| (place.import_bytes("in.tar", &tar).unwrap().snapshot, tar))
        .collect()
}

#[test]
fn any_bytes_of_an_archive_are_read_without_reading_the_rest() {
    let place = Place::new();
    let archives = archives(&place);
    let repo = place.open();
    for (snapshot, tar) in &archives {
        let reader = CheckpointReader::open(&repo, snapshot).unwrap();
        assert_eq!(
            (reader.len(), reader.is_empty(), reader.bytes_read()),
            (tar.len() as u64, false, 0)
        );
        let read = Cell::new(0);
        let len = tar.len();
        let mut runner = TestRunner::new(Config {
            cases: 150,
            failure_persistence: None,
            ..Config::default()
        });
        let ranges = (
            0..len + 1000,
            prop_oneof![
                Just(0_usize),
                1..300_usize,
                4096..4097_usize,
                1..200_000_usize
            ],
        );
        runner
            .run(&ranges, |(offset, want)| {
                let mut out = vec![0xee; want];
                let got = reader.read_at(offset as u64, &mut out).unwrap();
                let from = offset.min(len);
                let expected = &tar[from..(from + want).min(len)];
                prop_assert_eq!(got, expected.len());
                prop_assert!(out[..got] == *expected);
                prop_assert!(out[got..].iter().all(|b| *b == 0xee || got == 0));
                // Frames of 64 KiB at both ends; gaps of 64 KiB are read over; small streams have frames of their own.
                let more = reader.bytes_read() - read.replace(reader.bytes_read());
                prop_assert!(
                    more <= 3 * want as u64 + (1 << 20),
                    "{} bytes read for {}",
                    more,
                    want
                );
                Ok(())
            })
            .unwrap();
    }
    let (snapshot, tar) = &archives[1];
    let reader = CheckpointReader::open(&repo, snapshot).unwrap();
    let mut page = vec![0; 4096];
    reader.read_at(tar.len() as u64 / 2, &mut page).unwrap();
    assert!(
        (1..200 << 10).contains(&reader.bytes_read()),
        "{} bytes for one page",
        reader.bytes_read()
    );
    assert_eq!(reader.read_at(u64::MAX - 5, &mut page).unwrap(), 0);
}

/// The n-th page of the image that a map names, and its address.
fn image_pages(map: &PageMap) -> impl Iterator<Item = (u64, u64)> + '_ {
    let in_image = map.runs.iter().filter(|run| run.place == RunPlace::Image);
    (0..).zip(in_image.flat_map(move |run| {
        (0..run.pages).map(move |n| (run.page_number + n) * u64::from(map.page_size))
    }))
}

/// The bytes of a chunk that a page led to: by the place where the archive has the same chunk.
fn content(reader: &CheckpointReader<'_>, stream: u32, wanted: FrameSlice) -> Option<Vec<u8>> {
    let (mut at, mut found) = (0, None);
    for slice in reader.manifest().slices(stream)? {
        let slice = slice.unwrap();
        if let Slice::Frame(frame) = slice
            && frame.frame == wanted.frame
            && (frame.skip..frame.skip + frame.take).contains(&wanted.skip)
        {
            found = Some(at + u64::from(wanted.skip - frame.skip) * 4096);
        }
        at += slice.len();
    }
    let mut start = 0;
    for piece in &reader.manifest().layout.pieces {
        start += piece.literal;
        if piece.stream == Some(stream) {
            break;
        }
        start += piece
            .stream
            .map_or(0, |n| reader.manifest().streams[n as usize].len);
    }
    let mut out = vec![0; wanted.len as usize];
    assert_eq!(reader.read_at(start + found?, &mut out).unwrap(), out.len());
    Some(out)
}

/// Every page of an image is found by its address, and its chunk has its bytes.
fn assert_pages(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    of: MapOf,
    image: &[u8],
) -> (usize, usize) {
    let reader = CheckpointReader::open(repo, snapshot).unwrap();
    let map = reader
        .manifest()
        .maps
        .iter()
        .find(|map| map.of == of)
        .unwrap()
        .clone();
    let (mut zeros, mut frames) = (0, 0);
    for (n, address) in image_pages(&map) {
        let from = n as usize * 4096;
        for within in [0, 4095] {
            let expected = &image[from.min(image.len())..image.len().min(from + 4096)];
            match reader.page(of, address + within).unwrap() {
                None => assert!(expected.is_empty(), "page {n} at {address:#x} is not found"),
                Some(PageFrame::Zero) => {
                    assert!(expected.iter().all(|b| *b == 0), "page {n} is not zero");
                    zeros += 1;
                }
                Some(PageFrame::Frame(slice)) => {
                    assert_eq!(
                        (slice.take, slice.len),
                        (1, expected.len() as u64),
                        "page {n}"
                    );
                    assert!(
                        slice.skip < slice.frame.chunks,
                        "page {n}: chunk {} of {}",
                        slice.skip,
                        slice.frame.chunks
                    );
                    assert!(
                        content(&reader, map.stream.unwrap(), slice).unwrap() == expected,
                        "page {n} at {address:#x}"
                    );
                    frames += 1;
                }
                other => panic!("page {n}: {other:?}"),
            }
        }
    }
    (zeros / 2, frames / 2)
}

fn with_map(entries: &[(u64, u64, u64)], pages: &[u8]) -> Vec<u8> {
    TarBuilder::new()
        .file("config.dump", br#"{"name":"addresses"}"#)
        .file("checkpoint/inventory.img", &inventory(2))
        .file("checkpoint/pagemap-1.img", &pagemap(1, entries, Count::New))
        .file("checkpoint/pages-1.img", pages)
        .file("checkpoint/pstree.img", &pstree(&[1]))
        .end()
}

#[test]
fn a_page_is_found_by_its_address_with_its_chunk_as_zero_or_in_the_parent() {
    let place = Place::new();
    let mut pages = noise(120 * 4096, 8);
    pages[17 * 4096..40 * 4096].fill(0);
    pages.copy_within(50 * 4096..60 * 4096, 70 * 4096);
    let whole = with_map(&[(0x10_0000, 40, 4), (0x20_0000, 80, 4)], &pages);
    let first = place.import_bytes("in.tar", &whole).unwrap().snapshot;
    let repo = place.open();
    assert_eq!(
        assert_pages(&repo, &first, MapOf::Process(1), &pages),
        (23, 97)
    );
    // Moved, changed, partly in the parent.
    let mut moved = pages.split_off(60 * 4096);
    moved[5 * 4096] ^= 1;
    let entries = [
        (0x10_0000, 30, 1),
        (0x20_0000, 20, 4),
        (0x22_8000, 40, 4),
        (0x7fff_0000_0000, 100, 2),
    ];
    let second = place
        .import_bytes("in.tar", &with_map(&entries, &moved))
        .unwrap()
        .snapshot;
    assert_eq!(second.requires, Some(first.id));
    assert_eq!(
        assert_pages(&repo, &second, MapOf::Process(1), &moved),
        (0, 60)
    );
    let reader = CheckpointReader::open(&repo, &second).unwrap();
    for (address, expected) in [
        (0x10_0000, Some(PageFrame::Parent)),
        (0x10_0000 + 30 * 4096 - 1, Some(PageFrame::Parent)),
        (0x10_0000 + 30 * 4096, None),
        (0xf_ffff, None),
        (0, None),
        (u64::MAX, None),
        // Lazy, and nowhere.
        (0x7fff_0000_0000, None),
    ] {
        assert_eq!(
            reader.page(MapOf::Process(1), address).unwrap(),
            expected,
            "{address:#x}"
        );
    }
    assert_eq!(reader.page(MapOf::Process(2), 0x20_0000).unwrap(), None);
    assert_eq!(
        reader.page(MapOf::SharedMemory(1), 0x20_0000).unwrap(),
        None
    );
}

#[test]
fn pages_are_found_in_an_image_that_ends_within_a_page() {
    for len in [
        15 * 4096 + 1,
        15 * 4096 + 2048,
        15 * 4096 + 4095,
        47 * 4096 + 5,
        3,
    ] {
        let place = Place::new();
        let pages = noise(len, 8);
        let snapshot = place
            .import_bytes("in.tar", &with_map(&[(0x10_0000, 60, 4)], &pages))
            .unwrap()
            .snapshot;
        let found = assert_pages(&place.open(), &snapshot, MapOf::Process(1), &pages);
        assert_eq!(found, (0, len.div_ceil(4096)), "{len} bytes");
    }
}

#[test]
fn a_deadline_ends_any_work_and_a_later_one_does_not() {
    let mut earlier = Earlier::new();
    let tar = checkpoint(&noise(9 << 20, 6), 4096);
    std::fs::write(earlier.place.path("in.tar"), &tar).unwrap();
    let repo = earlier.place.open();
    let deadline = |after| Deadline::after(after, &Silent, repo.env());
    let (soon, late) = (deadline(Duration::ZERO), deadline(Duration::from_secs(600)));
    let import = |monitor: &Deadline<'_>| {
        earlier.place.import_with(
            &earlier.place.path("in.tar"),
            &ImportOptions::default(),
            monitor,
        )
    };
    earlier.assert_refused("an import", import(&soon), Kind::Interrupted, &["stopped"]);
    let imported = import(&late).unwrap();
    earlier.add(&imported, &tar);
    let work = |what: &str, work: &dyn Fn(&Deadline<'_>) -> Result<(), cryostore_engine::Error>| {
        refusal(what, work(&soon), Kind::Interrupted, &["stopped"]);
        work(&late).unwrap();
    };
    work("export", &|monitor| {
        export(
            &repo,
            &imported.snapshot,
            Output::Stream(&mut std::io::sink()),
            monitor,
        )
        .map(drop)
    });
    work("unpack", &|monitor| {
        unpack(
            &repo,
            &imported.snapshot,
            &earlier.place.path("dir"),
            monitor,
        )
        .map(drop)
    });
    work("check", &|monitor| {
        check::check(&repo, &CheckOptions { read_data: true }, monitor).map(drop)
    });
    work("gc", &|monitor| {
        gc::collect(&repo, &GcOptions::default(), monitor).map(drop)
    });
    work("rebuild", &|monitor| {
        rebuild_index(&repo, monitor).map(drop)
    });
    let begun = StreamImport::begin(&repo, ImportOptions::default(), &soon).map(drop);
    refusal("streams", begun, Kind::Interrupted, &["stopped"]);
    // A deadline that comes while it works.
    let short = deadline(Duration::from_millis(30));
    let mut streams = StreamImport::begin(&repo, ImportOptions::default(), &short).unwrap();
    let id = streams.stream(b"pages-1.img").unwrap();
    let end = (0..10_000).find_map(|n| {
        std::thread::sleep(Duration::from_millis(1));
        streams.write(id, &noise(4096, n)).err()
    });
    assert_eq!(end.unwrap().kind(), Kind::Interrupted);
    drop(streams);
    earlier.assert_untouched("deadlines");
}

#[test]
fn attachments_come_back_and_are_no_part_of_the_archive() {
    let place = Place::new();
    let tar = checkpoint(&noise(8192, 6), 4096);
    let big = noise(300_000, 7);
    let attachments = vec![
        ("pod.json".to_owned(), br#"{"kind":"Pod"}"#.to_vec()),
        ("node.json".to_owned(), Vec::new()),
        ("big".to_owned(), big.clone()),
    ];
    let options = ImportOptions {
        attachments: attachments.clone(),
        ..ImportOptions::default()
    };
    std::fs::write(place.path("in.tar"), &tar).unwrap();
    let repo = place.open();
    let by_file = place
        .import_with(&place.path("in.tar"), &options, &Silent)
        .unwrap()
        .snapshot;
    let mut work = StreamImport::begin(&repo, options, &Silent).unwrap();
    feed(&mut work, &streams(), 2);
    let by_stream = work.commit().unwrap().snapshot;
    assert!(place.bytes_of(&by_file) == tar);
    for snapshot in [by_file, by_stream] {
        let said: Vec<_> = snapshot
            .attachments
            .iter()
            .map(|found| (found.name.clone(), found.bytes))
            .collect();
        assert_eq!(
            said,
            [
                ("pod.json".to_owned(), 14),
                ("node.json".to_owned(), 0),
                ("big".to_owned(), 300_000)
            ]
        );
        let reader = CheckpointReader::open(&repo, &snapshot).unwrap();
        for (name, bytes) in &attachments {
            assert!(
                reader
                    .read_member(name.as_bytes(), 1 << 20)
                    .unwrap()
                    .as_ref()
                    == Some(bytes),
                "{name}"
            );
        }
        assert_eq!(reader.read_member(b"missing", 1 << 20).unwrap(), None);
        refusal(
            "too large",
            reader.read_member(b"big", 1000),
            Kind::Invalid,
            &["big", "300000", "1000"],
        );
        assert!(
            !members(&place.bytes_of(&snapshot))
                .iter()
                .any(|(name, _)| name == b"pod.json")
        );
    }
    assert_eq!(
        check::check(&repo, &CheckOptions { read_data: true }, &Silent)
            .unwrap()
            .problems,
        []
    );
}

#[test]
fn the_fields_of_a_record_survive_and_filters_find_them() {
    let place = Place::new();
    let text = |text: &str| text.to_owned();
    let identity = Identity {
        namespace: text("prod"),
        pod: text("web-0"),
        container: text("app"),
        pod_uid: text("5f2c-uid"),
        node: text("node-1"),
        container_id: text("given"),
        image: text("registry/app:1"),
    };
    let options = ImportOptions {
        identity: identity.clone(),
        labels: vec![text("reason=upgrade"), text("keep"), text("ünïcode=✓")],
        origin: Origin::Preemption,
        group: Some(text("pod web-0, 12:00")),
        base: BaseChoice::None,
        ..ImportOptions::default()
    };
    std::fs::write(place.path("in.tar"), checkpoint(&noise(8192, 6), 4096)).unwrap();
    let imported = place
        .import_with(&place.path("in.tar"), &options, &Silent)
        .unwrap()
        .snapshot;
    place
        .import_bytes("other.tar", &checkpoint(&noise(4096, 1), 4096))
        .unwrap();
    let list = place.open().snapshots().unwrap();
    let record = list
        .snapshots
        .iter()
        .find(|record| record.id == imported.id)
        .unwrap();
    assert_eq!(*record, imported);
    assert_eq!(record.identity, identity);
    assert_eq!(
        (&record.labels, record.origin, &record.group),
        (&options.labels, Origin::Preemption, &options.group)
    );
    assert_eq!(
        (record.producer.img_version, &record.producer.runtime[..]),
        (Some(2), "runc")
    );
    let by = |filter: Filter| {
        list.snapshots
            .iter()
            .filter(|record| filter.matches(record))
            .map(|record| record.id)
            .collect::<Vec<_>>()
    };
    let filters = [
        Filter {
            pod: Some(text("web-0")),
            ..Filter::default()
        },
        Filter {
            namespace: Some(text("prod")),
            container: Some(text("app")),
            ..Filter::default()
        },
        Filter {
            label: Some(text("keep")),
            ..Filter::default()
        },
        Filter {
            label: Some(text("reason")),
            ..Filter::default()
        },
        Filter {
            label: Some(text("reason=upgrade")),
            ..Filter::default()
        },
    ];
    for filter in filters {
        assert_eq!(by(filter.clone()), [imported.id], "{filter:?}");
        assert_eq!(
            list.find("latest", &filter).unwrap().id,
            imported.id,
            "{filter:?}"
        );
    }
    assert_eq!(
        by(Filter {
            label: Some(text("reason=other")),
            ..Filter::default()
        }),
        []
    );
    for labels in [
        vec![String::new()],
        vec!["x".repeat(300)],
        vec![text("x"); 65],
    ] {
        let options = ImportOptions {
            labels,
            ..ImportOptions::default()
        };
        let result = place.import_with(&place.path("in.tar"), &options, &Silent);
        refusal("labels", result, Kind::Invalid, &["64 labels", "256 bytes"]);
    }
}
