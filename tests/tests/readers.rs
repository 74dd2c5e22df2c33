//! Readers of a snapshot that a collection is about to free: it was deleted, given up, brought back, and is deleted again while it is read.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::sync::Once;

use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::gc::{GcOptions, collect};
use cryostore_engine::{ImportOptions, Kind, Monitor, Phase, Silent, StreamImport};
use cryostore_tests::archives::{checkpoint, noise};
use cryostore_tests::{Place, bytes_of};

/// Deletes a snapshot and collects, once something was read.
struct Deletes<'p>(&'p Place, SnapshotRecord, Once);

impl Monitor for Deletes<'_> {
    fn progress(&self, _: Phase, _: u64, _: Option<u64>) {
        self.2.call_once(|| {
            let repo = self.0.open();
            repo.delete(&[self.1.id], "again").unwrap();
            let report = collect(&repo, &GcOptions::default(), &Silent).unwrap();
            assert!(!report.waiting.is_empty(), "{report:?}");
        });
    }
}

/// A snapshot of which a collection's record condemns all packs, and which is there all the same.
fn brought_back() -> (Place, SnapshotRecord, Vec<u8>) {
    let place = Place::new();
    let tar = checkpoint(&noise(40 << 20, 1), 4096);
    let snapshot = place.import_bytes("in.tar", &tar).unwrap().snapshot;
    let repo = place.open();
    let at_work = StreamImport::begin(&repo, ImportOptions::default(), &Silent).unwrap();
    repo.delete(&[snapshot.id], "test").unwrap();
    let report = collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(!report.waiting.is_empty(), "{report:?}");
    drop(at_work);
    let mark = format!("snapshots/{}/{}.deleted", snapshot.lineage, snapshot.id);
    repo.store().delete(&mark).unwrap();
    (place, snapshot, tar)
}

#[test]
fn an_export_of_what_a_collection_condemns_ends_well_when_it_is_deleted_again() {
    let (place, snapshot, tar) = brought_back();
    let monitor = Deletes(&place, snapshot.clone(), Once::new());
    let bytes = bytes_of(&place.open(), &snapshot, &monitor).unwrap();
    assert!(bytes == tar);
    assert!(monitor.2.is_completed());
    // Nobody reads any more.
    let report = collect(&place.open(), &GcOptions::default(), &Silent).unwrap();
    assert!(report.bytes > 40 << 20, "{report:?}");
}

#[test]
fn an_export_of_what_a_collection_condemns_says_so_when_it_was_deleted_before_it_began() {
    let (place, snapshot, _) = brought_back();
    let repo = place.open();
    repo.delete(&[snapshot.id], "again").unwrap();
    let e = bytes_of(&repo, &snapshot, &Silent).unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    assert!(e.to_string().contains("deleted meanwhile"), "{e}");
}
