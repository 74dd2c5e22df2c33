//! Collection in a directory: what killed writers left goes, what is somebody else's stays.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::sync::Arc;

use cryostore_engine::gc::{GcOptions, collect};
use cryostore_engine::{ImportOptions, Kind, Repository, Silent, Source, Store, SystemEnv, import};
use cryostore_tests::archives::{checkpoint, noise};
use cryostore_tests::stores::Watched;
use cryostore_tests::{Place, bytes_of};
use object_store::memory::InMemory;

#[test]
fn writes_that_were_cut_off_are_removed_and_foreign_files_stay() {
    let place = Place::new();
    let archive = checkpoint(&noise(8 * 4096, 1), 4096);
    let snapshot = place.import_bytes("a.tar", &archive).unwrap().snapshot;
    let store = place.store_dir();
    let left = store.join("packs/ab/abababababababababababababababab#1");
    let foreign = [
        store.join("notes.txt"),
        store.join("packs/ab/README#1"),
        store.join("lost+found#1"),
    ];
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    fs::write(&left, vec![0; 1000]).unwrap();
    foreign
        .iter()
        .for_each(|path| fs::write(path, "mine").unwrap());

    let dry = GcOptions {
        dry_run: true,
        ..GcOptions::default()
    };
    let report = collect(&place.open(), &dry, &Silent).unwrap();
    assert_eq!(
        (report.bytes, report.removed, left.exists()),
        (1000, false, true)
    );
    let report = collect(&place.open(), &GcOptions::default(), &Silent).unwrap();
    assert_eq!(
        (report.bytes, report.removed, left.exists()),
        (1000, true, false)
    );
    assert!(
        report.foreign.contains(&"notes.txt".to_owned()),
        "{:?}",
        report.foreign
    );
    assert!(foreign.iter().all(|path| path.exists()));

    // A record that somebody may be writing now stays; one that was begun two days ago goes.
    let id = "abababababababababababababababab";
    let names = [
        format!("sessions/{id}#1"),
        format!("snapshots/{id}/{id}#1"),
        format!("snapshots/{id}/{id}.deleted#2"),
        format!("pins/{id}#1"),
    ];
    let paths: Vec<_> = names.iter().map(|name| store.join(name)).collect();
    for path in &paths {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{").unwrap();
    }
    collect(&place.open(), &GcOptions::default(), &Silent).unwrap();
    assert!(paths.iter().all(|path| path.exists()));
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
    for path in &paths {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    let report = collect(&place.open(), &GcOptions::default(), &Silent).unwrap();
    assert_eq!(report.bytes, 4, "{:?}", report.garbage);
    assert!(!paths.iter().any(|path| path.exists()));
    assert!(place.bytes_of(&snapshot) == archive);
}

#[test]
fn deleting_all_and_collecting_leaves_an_empty_repository_that_works() {
    let place = Place::new();
    let empty = place.lasting();
    let archives: Vec<_> = (0..3)
        .map(|n| checkpoint(&noise(30 * 4096, n), 4096))
        .collect();
    let ids: Vec<_> = archives
        .iter()
        .map(|a| place.import_bytes("a.tar", a).unwrap().snapshot.id)
        .collect();
    place.open().delete(&ids[..2], "test").unwrap();
    collect(&place.open(), &GcOptions::default(), &Silent).unwrap();
    let list = place.open().snapshots().unwrap();
    assert_eq!(list.snapshots.len(), 1);
    assert!(place.bytes_of(&list.snapshots[0]) == archives[2]);
    place.open().delete(&ids[2..], "test").unwrap();
    collect(&place.open(), &GcOptions::default(), &Silent).unwrap();
    assert_eq!(place.lasting(), empty);
    // The local index still has ids of packs that are gone; nothing may come of it.
    let again = place.import_bytes("a.tar", &archives[0]).unwrap().snapshot;
    assert_eq!(
        again.cost.classes.elsewhere.bytes, 0,
        "{:?}",
        again.cost.classes
    );
    assert!(place.bytes_of(&again) == archives[0]);
}

#[test]
fn a_collection_that_cannot_read_what_a_deleted_snapshot_needs_right_now_ends_and_frees_nothing() {
    let watched = Watched::new(Arc::new(InMemory::new()));
    let store = || Store::new(Arc::new(watched.clone()), "bucket").unwrap();
    Repository::init(&store(), &SystemEnv::new()).unwrap();
    let repo = Repository::open(store(), Arc::new(SystemEnv::new()), None).unwrap();
    let bytes = checkpoint(&noise(40 * 4096, 1), 4096);
    let source = Source::Stream(Box::new(std::io::Cursor::new(bytes.clone())));
    let imported = import(&repo, source, &ImportOptions::default(), &Silent).unwrap();
    let snapshot = imported.snapshot;
    repo.delete(&[snapshot.id], "test").unwrap();
    watched.reset();
    watched.fail_reads_of("manifests/");
    // Taken for a snapshot that needs nothing, it would lose its packs as soon as it was brought back between the two looks of a run.
    let failed = collect(&repo, &GcOptions::default(), &Silent).unwrap_err();
    assert_eq!(failed.kind(), Kind::Unavailable);
    assert_eq!(watched.writes(), 0);
    watched.reset();
    repo.undelete(&snapshot).unwrap();
    collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(bytes_of(&repo, &snapshot, &Silent).unwrap() == bytes);
}
