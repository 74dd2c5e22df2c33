//! Old repositories stay readable: each folder of `tests/golden` was written once by the version that it is named after, and is never edited.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cryostore_engine::check::{CheckOptions, check};
use cryostore_engine::format::Digest;
use cryostore_engine::{Filter, Silent, rebuild_index};
use cryostore_tests::archives::{
    Count, TarBuilder, image, inventory, noise, package, pagemap, pstree, real_tar,
};
use cryostore_tests::{Place, bytes_of, open_at};

fn golden() -> PathBuf {
    package().join("golden")
}

fn copy(from: &Path, to: &Path) {
    assert!(
        Command::new("cp")
            .arg("-r")
            .arg(from)
            .arg(to)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn every_golden_repository_gives_its_archives_back_and_takes_new_ones() {
    let mut seen = 0;
    for entry in fs::read_dir(golden()).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        seen += 1;
        let place = Place::new();
        fs::remove_dir_all(place.store_dir()).unwrap();
        copy(&folder.join("store"), &place.store_dir());
        let repo = open_at(&place.store_dir(), Some(&place.cache_dir())).unwrap();
        let list = repo.snapshots().unwrap();
        let expected = fs::read_to_string(folder.join("archives.tsv")).unwrap();
        for line in expected.lines() {
            let (id, digest) = line.split_once('\t').unwrap();
            let record = list.find(id, &Filter::default()).unwrap();
            let bytes = bytes_of(&repo, record, &Silent).unwrap();
            assert_eq!(
                Digest::of(&bytes).to_string(),
                digest,
                "{}: {id}",
                folder.display()
            );
        }
        assert_eq!(list.snapshots.len(), expected.lines().count());
        let report = check(&repo, &CheckOptions { read_data: true }, &Silent).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert!(rebuild_index(&repo, &Silent).unwrap().ids > 0);
        // What it holds is found again by today's cutter and hash.
        let again = place
            .import_bytes("again.tar", &sample(1))
            .unwrap()
            .snapshot;
        assert_eq!(
            again.cost.classes.new.bytes,
            0,
            "{}: {:?}",
            folder.display(),
            again.cost.classes
        );
    }
    assert!(seen > 0, "the golden repositories are missing");
}

/// A checkpoint with everything that version 1 stores: pages, zero pages, a stale image, pages in a parent, gzip data that cannot be opened, a tar within, an odd tail.
fn sample(tick: u8) -> Vec<u8> {
    let mut pages = noise(20 * 4096, 5);
    pages[4096 * 7..4096 * 9].fill(0);
    pages[0] = tick;
    let within = TarBuilder::new()
        .file("a", &noise(40_000, 6))
        .file("b", b"small")
        .end();
    TarBuilder::new()
        .file(
            "config.dump",
            br#"{"id":"abc","name":"golden","runtime":"runc"}"#,
        )
        .file("checkpoint/inventory.img", &inventory(2))
        .file(
            "checkpoint/mm-1.img",
            &image(&[0x5456_4319, 0x5749_2820], &[]),
        )
        .file(
            "checkpoint/pagemap-1.img",
            &pagemap(
                1,
                &[
                    (0x40_0000, 10, 4),
                    (0x7f00_0000, 3, 1),
                    (0x7f10_0000, 10, 4),
                ],
                Count::New,
            ),
        )
        .file(
            "checkpoint/pagemap-9.img",
            &pagemap(1, &[(0x40_0000, 30, 4)], Count::Old),
        )
        .file("checkpoint/pages-1.img", &pages)
        .file("checkpoint/pstree.img", &pstree(&[1]))
        .file("rootfs-diff.tar", &within)
        .file("empty", b"")
        .raw(&[0; 1024])
        .raw(b"the tail of an older, longer file")
        .unended()
}

/// Writes the golden repository of this version: run once by hand, with a new folder's name, when the format gets a new version.
#[test]
#[ignore = "writes tests/golden; see CONTRIBUTING.md"]
fn write_a_golden_repository() {
    let folder = golden().join(std::env::var("GOLDEN").unwrap());
    assert!(
        !folder.exists(),
        "golden repositories are never written over"
    );
    let place = Place::new();
    let layer = Command::new("sh")
        .args(["-c", "seq 1 90000 | sed 's/.*/& of many lines, of which each is a little different/' | gzip -6n"])
        .output()
        .unwrap()
        .stdout;
    let gzip = TarBuilder::new()
        .file("config.dump", br#"{"id":"a","name":"gzip"}"#)
        .file("rootfs-diff.tar", &layer)
        .end();
    let archives = [
        gzip,
        sample(1),
        sample(2),
        real_tar("containerd-busybox-1"),
        real_tar("podman-busybox-2"),
    ];
    let mut lines = String::new();
    for archive in &archives {
        let snapshot = place.import_bytes("a.tar", archive).unwrap().snapshot;
        lines.push_str(&format!("{}\t{}\n", snapshot.id, Digest::of(archive)));
    }
    let opened = place
        .open()
        .snapshots()
        .unwrap()
        .snapshots
        .iter()
        .any(|record| {
            let manifest = place.open().manifest(record).unwrap();
            manifest.streams.iter().any(|s| {
                matches!(
                    s.body,
                    cryostore_engine::format::manifest::Body::Derived { .. }
                )
            })
        });
    assert!(
        opened,
        "a golden repository must hold gzip data that was opened"
    );
    fs::create_dir_all(&folder).unwrap();
    copy(&place.store_dir(), &folder.join("store"));
    fs::remove_dir_all(folder.join("store/sessions")).unwrap();
    fs::write(folder.join("archives.tsv"), lines).unwrap();
}
