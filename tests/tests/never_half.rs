//! What cannot be read back, or is not all there, is never committed.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;

use cryostore_engine::{ImportOptions, Kind, Repository, Silent, Store, StreamImport, SystemEnv};
use cryostore_tests::archives::{TarBuilder, checkpoint, noise};
use cryostore_tests::stores::{Fault, Watched};
use cryostore_tests::{Place, open_at};
use object_store::memory::InMemory;

#[test]
fn a_name_that_no_reader_would_take_is_refused_before_anything_is_committed() {
    let place = Place::new();
    let name = vec![b'n'; 70 << 10];
    let long = TarBuilder::new()
        .header(b"././@LongLink", name.len() as u64 + 1, b'L', b"")
        .raw(&name)
        .raw(&vec![
            0;
            (name.len() + 1).next_multiple_of(512) - name.len()
        ])
        .file("x", b"content")
        .end();
    let error = place.import_bytes("long.tar", &long).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("71680 bytes"), "{error}");
    assert!(place.open().snapshots().unwrap().snapshots.is_empty());
    assert!(place.open().sessions().unwrap().is_empty());
    // And the repository goes on.
    let archive = checkpoint(&noise(4096, 1), 4096);
    let snapshot = place.import_bytes("a.tar", &archive).unwrap().snapshot;
    assert!(place.bytes_of(&snapshot) == archive);
}

#[test]
fn an_import_whose_pack_could_not_be_put_never_commits_even_if_the_caller_goes_on() {
    let watched = Watched::new(Arc::new(InMemory::new()));
    let store = Store::new(Arc::new(watched.clone()), "memory").unwrap();
    Repository::init(&store, &SystemEnv::new()).unwrap();
    let repo = Repository::open(store, Arc::new(SystemEnv::new()), None).unwrap();
    let mut import = StreamImport::begin(&repo, ImportOptions::default(), &Silent).unwrap();
    let stream = import.stream(b"noise").unwrap();
    // The first pack fails; what comes after would succeed.
    watched.fault_at(0, Fault::Fail);
    let mut failed = 0;
    for n in 0..20 {
        failed += usize::from(import.write(stream, &noise(4 << 20, n)).is_err());
    }
    assert!(failed > 0, "the fault was never seen");
    let _ = import.end(stream);
    assert!(import.commit().is_err());
    assert!(repo.snapshots().unwrap().snapshots.is_empty());
}

#[test]
fn a_rebuild_beside_a_running_owner_is_refused_and_takes_nothing_from_it() {
    let place = Place::new();
    let archive = checkpoint(&noise(40 * 4096, 1), 4096);
    place.import_bytes("a.tar", &archive).unwrap();
    let lock = std::fs::File::open(place.open().index_dir().unwrap().join("lock")).unwrap();
    lock.lock().unwrap();
    let error = cryostore_engine::rebuild_index(&place.open(), &Silent).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    drop(lock);
    assert!(
        cryostore_engine::rebuild_index(&place.open(), &Silent)
            .unwrap()
            .ids
            > 0
    );
    let without = open_at(&place.store_dir(), None).unwrap();
    assert_eq!(
        cryostore_engine::rebuild_index(&without, &Silent)
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
}
