//! Gzip data within an archive is opened, and comes back as the same gzip data.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::io::Write;
use std::process::{Command, Stdio};

use cryostore_engine::CheckpointReader;
use cryostore_engine::format::manifest::Body;
use cryostore_tests::Place;
use cryostore_tests::archives::{TarBuilder, noise};

/// A layer of a root file system: text and noise, as a gzip'd tar.
fn layer(files: usize) -> Vec<u8> {
    let mut tar = TarBuilder::new();
    for n in 0..files {
        let text: String = (0..2000)
            .map(|line| format!("{} line {line} of file {n}\n", line * line % 97))
            .collect();
        tar = tar
            .file(&format!("etc/file-{n}"), text.as_bytes())
            .file(&format!("bin/{n}"), &noise(9000, n as u64));
    }
    gnu_gzip(&tar.end())
}

/// As GNU gzip compresses it; miniz makes blocks that are too long to be opened.
fn gnu_gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let out = child.wait_with_output().unwrap().stdout;
    writer.join().unwrap();
    out
}

fn archive(tick: u8, layer: &[u8]) -> Vec<u8> {
    TarBuilder::new()
        .file("config.dump", br#"{"id":"a","name":"work"}"#)
        .file("status", &[tick])
        .file("rootfs-diff.tar", layer)
        .end()
}

fn is_opened(place: &Place, snapshot: &cryostore_engine::format::snapshot::SnapshotRecord) -> bool {
    let repo = place.open();
    let reader = CheckpointReader::open(&repo, snapshot).unwrap();
    reader
        .manifest()
        .streams
        .iter()
        .any(|s| matches!(s.body, Body::Derived { .. }))
}

#[test]
fn a_layer_is_opened_and_a_longer_one_shares_its_content() {
    let place = Place::new();
    let (one, two) = (archive(1, &layer(20)), archive(2, &layer(21)));
    let first = place.import_bytes("a.tar", &one).unwrap().snapshot;
    assert!(
        is_opened(&place, &first),
        "the encoder of these tests must be one that can be opened"
    );
    let second = place.import_bytes("b.tar", &two).unwrap().snapshot;
    assert!(is_opened(&place, &second));
    assert!(place.bytes_of(&first) == one && place.bytes_of(&second) == two);
    // As gzip data, nothing after the first difference would be the same.
    let new = second.cost.classes.new.bytes;
    assert!(
        new < two.len() as u64 / 2,
        "{new} of {} bytes are new",
        two.len()
    );
}

#[test]
fn a_layer_that_did_not_change_is_taken_over() {
    let place = Place::new();
    let layer = layer(20);
    let (one, two) = (archive(1, &layer), archive(2, &layer));
    place.import_bytes("a.tar", &one).unwrap();
    let second = place.import_bytes("b.tar", &two).unwrap().snapshot;
    assert!(is_opened(&place, &second));
    assert!(
        second.cost.classes.new.bytes < 8192,
        "{:?}",
        second.cost.classes
    );
    assert!(place.bytes_of(&second) == two);
    let from_zero = place
        .import_bytes("c.tar", &archive(3, &layer))
        .unwrap()
        .snapshot;
    assert!(place.bytes_of(&from_zero) == archive(3, &layer));
}
