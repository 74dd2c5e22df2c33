//! Every archive comes back byte for byte.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::fs;

use cryostore_engine::format::Digest;
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{Silent, rebuild_index};
use cryostore_tests::{Place, archives, bytes_of, open_at};

fn assert_all(place: &Place, snapshots: &[(SnapshotRecord, Vec<u8>)], when: &str) {
    let repo = place.open();
    for (snapshot, tar) in snapshots.iter().rev() {
        let out = bytes_of(&repo, snapshot, &Silent).unwrap();
        assert!(
            out == *tar,
            "{when}: snapshot {} of {:?}",
            snapshot.id,
            snapshot.identity
        );
    }
}

#[test]
fn real_archives_come_back_whole_in_any_order_without_index_without_cache_and_from_a_copy() {
    let place = Place::new();
    let mut snapshots = Vec::new();
    for real in archives::real() {
        let plain = place.import_bytes("plain.tar", &real.tar).unwrap().snapshot;
        assert_eq!(
            plain.archive.digest,
            Some(Digest::of(&real.tar)),
            "{}",
            real.name
        );
        // The same, compressed: the inner tar is kept, and its chunks are all there.
        if let Some(file) = real.file {
            let compressed = place.import(&file).unwrap().snapshot;
            assert_eq!(
                compressed.archive.digest, plain.archive.digest,
                "{}",
                real.name
            );
            assert_eq!(
                compressed.archive.outer.as_ref().unwrap().digest,
                Digest::of(&fs::read(&file).unwrap())
            );
            assert_eq!(
                compressed.cost.classes.new.bytes, 0,
                "{}: {:?}",
                real.name, compressed.cost.classes
            );
            assert_eq!(plain.warnings, compressed.warnings, "{}", real.name);
            snapshots.push((compressed, real.tar.clone()));
        }
        snapshots.push((plain, real.tar));
    }
    assert_all(&place, &snapshots, "as imported");
    rebuild_index(&place.open(), &Silent).unwrap();
    assert_all(&place, &snapshots, "after rebuild-index");
    fs::remove_dir_all(place.cache_dir()).unwrap();
    assert_all(&place, &snapshots, "without a cache");
    let copy = place.path("copy");
    assert!(
        std::process::Command::new("cp")
            .arg("-r")
            .arg(place.store_dir())
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    fs::remove_dir_all(place.store_dir()).unwrap();
    let repo = open_at(&copy, None).unwrap();
    for (snapshot, tar) in &snapshots {
        assert!(
            bytes_of(&repo, snapshot, &Silent).unwrap() == *tar,
            "from a copy"
        );
    }
}
