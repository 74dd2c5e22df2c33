//! Packs of which little is needed are emptied, for snapshots that are only kept. Whatever pack it is, and wherever it stops, all archives stay what they are.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::collections::HashSet;
use std::io::Cursor;
use std::sync::Arc;

use cryostore_engine::check::{self, CheckOptions};
use cryostore_engine::format::PackId;
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::gc::{self, GcOptions, sparse_packs};
use cryostore_engine::{
    ImportOptions, Repository, Silent, Source, Store, SystemEnv, import, repack,
};
use cryostore_tests::archives::{self, checkpoint_of, noise};
use cryostore_tests::stores::{Fault, Watched};
use cryostore_tests::{Place, bytes_of};
use object_store::memory::InMemory;

const PAGE: usize = 4096;

type Archives = Vec<(SnapshotRecord, Vec<u8>)>;

fn put(repo: &Repository, tar: Vec<u8>, deltas: bool) -> (SnapshotRecord, Vec<u8>) {
    let source = Source::Stream(Box::new(Cursor::new(tar.clone())));
    let options = ImportOptions {
        deltas: Some(deltas),
        ..ImportOptions::default()
    };
    let imported = import(repo, source, &options, &Silent).unwrap();
    (imported.snapshot, tar)
}

fn assert_all(repo: &Repository, all: &Archives, when: &str) {
    for (record, tar) in all {
        let bytes = bytes_of(repo, record, &Silent).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert!(bytes == *tar, "{when}: {}", record.id);
    }
    let report = check::check(repo, &CheckOptions { read_data: true }, &Silent).unwrap();
    assert_eq!(report.problems, [], "{when}");
}

fn needs(repo: &Repository, all: &Archives) -> HashSet<PackId> {
    let packs = all
        .iter()
        .flat_map(|(record, _)| repo.manifest(record).unwrap().packs);
    packs.collect()
}

/// A heap of 400 pages was stored and deleted; of its pages two containers still have the first hundred.
fn with_a_sparse_pack(repo: &Repository) -> Archives {
    let heap = |keep: usize, seed: u64| {
        let mut pages = noise(400 * PAGE, 1);
        pages[keep * PAGE..].copy_from_slice(&noise((400 - keep) * PAGE, seed));
        pages
    };
    let first = put(repo, checkpoint_of("heap", &heap(400, 1), 4096), false);
    let all = vec![
        put(repo, checkpoint_of("heap", &heap(100, 2), 4096), false),
        put(repo, checkpoint_of("other", &heap(100, 3), 4096), false),
    ];
    repo.delete(&[first.0.id], "test").unwrap();
    gc::collect(repo, &GcOptions::default(), &Silent).unwrap();
    all
}

#[test]
fn a_pack_of_which_little_is_needed_is_emptied_once_for_all_and_goes() {
    let place = Place::new();
    let repo = place.open();
    let all = with_a_sparse_pack(&repo);
    let options = GcOptions::default();
    let sparse = sparse_packs(&repo, u64::MAX, &options, &Silent).unwrap();
    assert_eq!(sparse.len(), 1, "{sparse:?}");
    let sparse = sparse[0];
    let none = sparse_packs(&repo, sparse.needed - 1, &options, &Silent).unwrap();
    assert_eq!(none, []);

    let before = place.stored_bytes();
    let done = repack(&repo, &HashSet::from([sparse.id]), u64::MAX, &Silent).unwrap();
    assert_eq!((done.snapshots, done.left), (2, 0), "{done:?}");
    assert!(
        done.bytes_added < sparse.needed + sparse.needed / 10,
        "{done:?} {sparse:?}"
    );
    gc::collect(&repo, &options, &Silent).unwrap();
    assert!(!needs(&repo, &all).contains(&sparse.id));
    let after = place.stored_bytes();
    assert!(after < before - sparse.bytes / 2, "{before} {after}");
    assert_eq!(
        sparse_packs(&repo, u64::MAX, &options, &Silent).unwrap(),
        []
    );
    assert_all(&repo, &all, "afterwards");
    // What comes next finds it where it is now.
    let (next, _) = put(&repo, all[0].1.clone(), true);
    assert!(next.cost.bytes_added < 10_000, "{:?}", next.cost);
}

#[test]
fn no_more_is_begun_when_as_much_was_written_as_may_be() {
    let place = Place::new();
    let repo = place.open();
    let all = with_a_sparse_pack(&repo);
    let sparse = sparse_packs(&repo, u64::MAX, &GcOptions::default(), &Silent).unwrap();
    let ids: HashSet<PackId> = sparse.iter().map(|pack| pack.id).collect();
    let done = repack(&repo, &ids, 1, &Silent).unwrap();
    assert_eq!((done.snapshots, done.left), (1, 1), "{done:?}");
    gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert_all(&repo, &all, "half of it");
    assert!(needs(&repo, &all).is_superset(&ids));
}

#[test]
fn small_packs_are_merged_when_there_are_many() {
    let place = Place::new();
    let repo = place.open();
    let mut pages = noise(200 * PAGE, 1);
    let mut all = Vec::new();
    for n in 0..12_usize {
        // A container of its own each time, so that imports do not merge them.
        pages[n * PAGE..][..PAGE].copy_from_slice(&noise(PAGE, 50 + n as u64));
        all.push(put(
            &repo,
            checkpoint_of(&format!("c{n}"), &pages, 4096),
            false,
        ));
    }
    let before = place.objects("packs").len();
    let sparse = sparse_packs(&repo, u64::MAX, &GcOptions::default(), &Silent).unwrap();
    assert!(sparse.len() > 10, "{sparse:?}");
    repack(
        &repo,
        &sparse.iter().map(|pack| pack.id).collect(),
        u64::MAX,
        &Silent,
    )
    .unwrap();
    gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert_all(&repo, &all, "merged");
    let after = place.objects("packs").len();
    assert!(after <= before, "{before} {after}");
}

/// Checkpoints with deltas of several versions, zeros, and pages that moved.
fn series(repo: &Repository) -> Archives {
    let mut pages = noise(60 * PAGE, 1);
    pages[20 * PAGE..25 * PAGE].fill(0);
    let mut all = Vec::new();
    for step in 1..=6_usize {
        for (n, page) in pages.chunks_mut(PAGE).enumerate() {
            if (n + step).is_multiple_of(3) && !(20..25).contains(&n) {
                page[step * 8] ^= 1;
            }
            if n == step * 7 {
                page.copy_from_slice(&noise(PAGE, step as u64 + 50));
            }
        }
        pages.copy_within(40 * PAGE..42 * PAGE, (step + 2) * PAGE);
        all.push(put(repo, checkpoint_of("work", &pages, 4096), true));
    }
    all
}

#[test]
fn any_pack_can_be_emptied_also_one_that_deltas_stand_on() {
    let mut n = 0;
    loop {
        let place = Place::new();
        let repo = place.open();
        let all = series(&repo);
        let mut packs: Vec<PackId> = needs(&repo, &all).into_iter().collect();
        // By size, since names are random.
        packs.sort_by_key(|id| {
            let name = format!("packs/{}/{id}", &id.to_string()[..2]);
            repo.store().len(&name).unwrap()
        });
        let Some(pack) = packs.get(n) else { break };
        let chosen = HashSet::from([*pack]);
        let done = repack(&repo, &chosen, u64::MAX, &Silent).unwrap();
        assert!(done.snapshots > 0, "{n}");
        assert_all(&repo, &all, &format!("pack {n} emptied"));
        assert!(!needs(&repo, &all).contains(pack), "{n}: needed still");
        gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
        assert_all(&repo, &all, &format!("pack {n} gone"));
        n += 1;
    }
    assert!(n > 6, "{n}");
}

#[test]
fn packs_of_real_archives_can_be_emptied() {
    let place = Place::new();
    let repo = place.open();
    let real = archives::real().into_iter();
    let all: Archives = real.map(|real| put(&repo, real.tar, true)).collect();
    let packs: Vec<PackId> = needs(&repo, &all).into_iter().collect();
    assert!(packs.len() > 5);
    // Every second one, so that half of what snapshots need stays where it is.
    let chosen: HashSet<PackId> = packs.into_iter().step_by(2).collect();
    repack(&repo, &chosen, u64::MAX, &Silent).unwrap();
    assert!(needs(&repo, &all).is_disjoint(&chosen));
    gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert_all(&repo, &all, "emptied");
}

struct World {
    watched: Watched,
    cache: tempfile::TempDir,
    all: Archives,
    sparse: HashSet<PackId>,
}

fn open(watched: &Watched, cache: &tempfile::TempDir) -> Repository {
    let store = Store::new(Arc::new(watched.clone()), "memory").unwrap();
    Repository::open(store, Arc::new(SystemEnv::new()), Some(cache.path())).unwrap()
}

fn world() -> World {
    let watched = Watched::new(Arc::new(InMemory::new()));
    let store = Store::new(Arc::new(watched.clone()), "memory").unwrap();
    Repository::init(&store, &SystemEnv::new()).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let repo = open(&watched, &cache);
    let all = with_a_sparse_pack(&repo);
    let sparse = sparse_packs(&repo, u64::MAX, &GcOptions::default(), &Silent).unwrap();
    watched.reset();
    World {
        watched,
        cache,
        all,
        sparse: sparse.iter().map(|pack| pack.id).collect(),
    }
}

#[test]
fn emptying_packs_can_be_stopped_at_any_call_and_be_done_again() {
    let calls = {
        let world = world();
        repack(
            &open(&world.watched, &world.cache),
            &world.sparse,
            u64::MAX,
            &Silent,
        )
        .unwrap();
        world.watched.writes()
    };
    assert!(calls >= 10, "two manifests, a pack: {calls}");
    for n in 0..=calls {
        for fault in [Fault::Stop, Fault::Fail, Fault::LoseReply] {
            let when = format!("{fault:?} at call {n} of {calls}");
            let world = world();
            world.watched.fault_at(n, fault);
            let _ = repack(
                &open(&world.watched, &world.cache),
                &world.sparse,
                u64::MAX,
                &Silent,
            );
            world.watched.reset();
            let repo = open(&world.watched, &world.cache);
            assert_all(&repo, &world.all, &when);
            let sessions = repo.sessions().unwrap();
            let options = GcOptions {
                end_sessions: sessions.iter().map(|s| s.record.id.to_string()).collect(),
                ..GcOptions::default()
            };
            gc::collect(&repo, &options, &Silent).unwrap();
            assert_all(&repo, &world.all, &format!("{when}, collected"));
            repack(&repo, &world.sparse, u64::MAX, &Silent).unwrap();
            gc::collect(&repo, &options, &Silent).unwrap();
            assert_all(&repo, &world.all, &format!("{when}, again"));
            assert!(
                needs(&repo, &world.all).is_disjoint(&world.sparse),
                "{when}"
            );
        }
    }
}
