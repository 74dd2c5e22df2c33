//! A crash, a failure or a lost reply at every call that changes the store: afterwards there is the old state or the new, and every snapshot that was
//! acknowledged comes back.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;

use cryostore_engine::format::repository::Defaults;
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::gc::{GcOptions, collect};
use cryostore_engine::{Error, ImportOptions, Repository, Silent, Source, Store, check, import};
use cryostore_tests::archives::{checkpoint, noise};
use cryostore_tests::stores::{Fault, Watched};
use cryostore_tests::{bytes_of, init, lasting};
use object_store::memory::InMemory;

struct World {
    memory: Arc<InMemory>,
    watched: Watched,
    first: (SnapshotRecord, Vec<u8>),
}

fn pages(seed: u64) -> Vec<u8> {
    // 12 pages of their own, 4 that all checkpoints have.
    [noise(12 * 4096, seed), noise(4 * 4096, 99)].concat()
}

fn open(watched: &Watched) -> Repository {
    let store = Store::new(Arc::new(watched.clone()), "memory").unwrap();
    cryostore_tests::open(store, None).unwrap()
}

fn put(repo: &Repository, archive: &[u8]) -> Result<SnapshotRecord, Error> {
    let source = Source::Stream(Box::new(std::io::Cursor::new(archive.to_vec())));
    let identity = cryostore_engine::format::snapshot::Identity {
        container: "work".to_owned(),
        ..Default::default()
    };
    let options = ImportOptions {
        identity,
        ..ImportOptions::default()
    };
    import(repo, source, &options, &Silent).map(|imported| imported.snapshot)
}

/// A repository with one snapshot.
fn world() -> World {
    let memory = Arc::new(InMemory::new());
    let watched = Watched::new(memory.clone());
    let store = Store::new(Arc::new(watched.clone()), "memory").unwrap();
    init(&store, Defaults::default());
    let archive = checkpoint(&pages(1), 4096);
    let first = put(&open(&watched), &archive).unwrap();
    watched.reset();
    World {
        memory,
        watched,
        first: (first, archive),
    }
}

/// Everything that is listed comes back whole, and nothing is damaged.
fn assert_whole(world: &World, expected: &[&[u8]], context: &str) -> usize {
    let repo = open(&world.watched);
    let list = repo.snapshots().unwrap();
    assert!(list.damaged.is_empty(), "{context}: {:?}", list.damaged);
    for record in &list.snapshots {
        let bytes = bytes_of(&repo, record, &Silent)
            .unwrap_or_else(|e| panic!("{context}: {}: {e}", record.id));
        assert!(
            expected.iter().any(|archive| *archive == bytes),
            "{context}: {} is another archive",
            record.id
        );
    }
    let report = check::check(&repo, &check::CheckOptions { read_data: true }, &Silent).unwrap();
    assert!(
        report.problems.is_empty(),
        "{context}: {:?}",
        report.problems
    );
    list.snapshots.len()
}

/// Objects but tombstones: those of sessions that were ended by hand stay, so that a late commit finds its place taken.
fn objects(world: &World) -> usize {
    lasting(&open(&world.watched)).len()
}

/// Ends what a killed process left, and collects: nothing but what the snapshots need stays.
fn collect_all(world: &World, context: &str) {
    let repo = open(&world.watched);
    let end_sessions = repo
        .sessions()
        .unwrap()
        .iter()
        .map(|session| session.record.id.to_string())
        .collect();
    collect(
        &repo,
        &GcOptions {
            end_sessions,
            ..GcOptions::default()
        },
        &Silent,
    )
    .unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(repo.sessions().unwrap().is_empty(), "{context}");
}

fn writes_of(work: impl Fn(&World)) -> u64 {
    let world = world();
    work(&world);
    world.watched.writes()
}

#[test]
fn an_import_that_is_stopped_at_any_call_leaves_the_old_state_or_the_new() {
    let second = checkpoint(&pages(2), 4096);
    let calls = writes_of(|world| drop(put(&open(&world.watched), &second).unwrap()));
    assert!(
        calls >= 5,
        "session, pack, segment, manifest, snapshot, end of session: {calls}"
    );
    let clean = objects(&world());
    for n in 0..=calls {
        for fault in [Fault::Stop, Fault::Fail, Fault::LoseReply] {
            let context = format!("{fault:?} at call {n} of {calls}");
            let world = world();
            world.watched.fault_at(n, fault);
            let result = put(&open(&world.watched), &second);
            world.watched.reset();
            let found = assert_whole(&world, &[&world.first.1, &second], &context);
            match &result {
                Ok(record) => {
                    assert_eq!(found, 2, "{context}: acknowledged, and not there");
                    let repo = open(&world.watched);
                    assert!(
                        bytes_of(&repo, record, &Silent).unwrap() == second,
                        "{context}"
                    );
                }
                // A reply that was lost at the commit, and then everything else: the process cannot know.
                Err(_) => assert!(
                    found == 1 || (fault == Fault::Stop && found == 2),
                    "{context}: {found}"
                ),
            }
            collect_all(&world, &context);
            assert_eq!(
                assert_whole(&world, &[&world.first.1, &second], &context),
                found,
                "{context}: gc took a snapshot"
            );
            if found == 1 {
                assert_eq!(objects(&world), clean, "{context}: garbage stays");
            }
            let again = put(&open(&world.watched), &second).unwrap();
            assert!(
                bytes_of(&open(&world.watched), &again, &Silent).unwrap() == second,
                "{context}: again"
            );
        }
    }
}

#[test]
fn a_lost_reply_at_the_commit_is_found_out_by_reading_back() {
    let second = checkpoint(&pages(2), 4096);
    let calls = writes_of(|world| drop(put(&open(&world.watched), &second).unwrap()));
    let mut settled = 0;
    for n in 0..calls {
        let world = world();
        world.watched.fault_at(n, Fault::LoseReply);
        if let Ok(record) = put(&open(&world.watched), &second)
            && world.watched.log().iter().any(|call| {
                call.starts_with("get snapshots/") && call.ends_with(&record.id.to_string())
            })
        {
            settled += 1;
        }
    }
    assert_eq!(
        settled, 1,
        "exactly the commit's reply must be settled by a read"
    );
}

#[test]
fn a_deletion_or_a_collection_that_is_stopped_at_any_call_loses_nothing_else() {
    let second = checkpoint(&pages(2), 4096);
    let work = |world: &World| -> Result<(), Error> {
        let repo = open(&world.watched);
        repo.delete(&[world.first.0.id], "test")?;
        collect(&repo, &GcOptions::default(), &Silent).map(drop)
    };
    let prepared = || {
        let world = world();
        put(&open(&world.watched), &second).unwrap();
        world.watched.reset();
        world
    };
    let calls = {
        let world = prepared();
        work(&world).unwrap();
        world.watched.writes()
    };
    for n in 0..=calls {
        for fault in [Fault::Stop, Fault::Fail, Fault::LoseReply] {
            let context = format!("{fault:?} at call {n} of {calls}");
            let world = prepared();
            world.watched.fault_at(n, fault);
            let _ = work(&world);
            world.watched.reset();
            let found = assert_whole(&world, &[&world.first.1, &second], &context);
            assert!(found >= 1, "{context}: the other snapshot is gone");
            collect_all(&world, &context);
            assert_eq!(
                assert_whole(&world, &[&world.first.1, &second], &context),
                found,
                "{context}"
            );
        }
    }
}

#[test]
fn a_session_that_was_ended_by_somebody_else_cannot_commit() {
    struct EndsSessions<'w>(&'w World);
    impl cryostore_engine::Monitor for EndsSessions<'_> {
        fn progress(&self, _: cryostore_engine::Phase, _: u64, _: Option<u64>) {
            let repo = open(&self.0.watched);
            for session in repo.sessions().unwrap() {
                repo.end_session(&session.record, "test").unwrap();
            }
        }
    }
    let world = world();
    let repo = open(&world.watched);
    let source = Source::Stream(Box::new(std::io::Cursor::new(checkpoint(&pages(2), 4096))));
    let error = import(
        &repo,
        source,
        &ImportOptions::default(),
        &EndsSessions(&world),
    )
    .unwrap_err();
    assert_eq!(error.kind(), cryostore_engine::Kind::Conflict, "{error}");
    assert!(
        error.to_string().contains("ended by somebody else"),
        "{error}"
    );
    assert_eq!(assert_whole(&world, &[&world.first.1], "revoked"), 1);
    collect_all(&world, "revoked");
    assert_eq!(assert_whole(&world, &[&world.first.1], "collected"), 1);
}

#[test]
fn memory_is_shared_between_the_two_views_of_a_store() {
    // The tests above rest on it: what one `open` puts, the next one sees.
    let world = world();
    assert!(Arc::strong_count(&world.memory) >= 2);
    assert_eq!(assert_whole(&world, &[&world.first.1], "as made"), 1);
}
