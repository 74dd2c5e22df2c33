//! What every store has to keep, asked of every store: memory, a directory, a disk that is full, and real servers.
//!
//! `scripts/servers.sh` starts the servers and sets the variables that are asked for here; a test whose variable is missing says so and passes.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::io::Cursor;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use cryostore_engine::check::{self, CheckOptions};
use cryostore_engine::gc::{self, GcOptions};
use cryostore_engine::{
    ImportOptions, InitOptions, Kind, Repository, Silent, Source, Store, SystemEnv, import,
};
use cryostore_tests::archives::{self, noise};
use cryostore_tests::bytes_of;
use cryostore_tests::servers::Server;
use object_store::memory::InMemory;

/// All of the contract, for a store that several may write to.
fn keeps_the_contract(store: &Store) {
    gives_back_what_was_put(store);
    creates_once(store);
    has_one_winner(store);
    lists_what_is_there(store);
    removes(store);
    let probe = store.probe(&SystemEnv::new()).unwrap();
    probe.allows(store.name(), false).unwrap();
    assert!(
        store.list("probe").unwrap().is_empty(),
        "the probe leaves nothing"
    );
    the_whole_way(store.clone(), false);
}

fn gives_back_what_was_put(store: &Store) {
    for len in [0, 1, 100, 70_000, (5 << 20) + 3] {
        let bytes = Bytes::from(noise(len, len as u64 + 1));
        let name = format!("packs/aa/{len}");
        store.replace(&name, bytes.clone()).unwrap();
        assert_eq!(store.len(&name).unwrap(), Some(len as u64), "{name}");
        assert!(store.get(&name, len as u64).unwrap() == bytes, "{name}");
        if len == 0 {
            continue;
        }
        let end = len as u64;
        let ranges = [end / 3..end, 0..1, end / 2..end / 2 + 1, 0..end];
        let parts = store.get_ranges(&name, &ranges).unwrap();
        for (part, range) in parts.iter().zip(&ranges) {
            let wanted = bytes.slice(range.start as usize..range.end as usize);
            assert!(*part == wanted, "{name} {range:?}");
        }
        let over = store.get_ranges(&name, &[end - 1..end + 1]).unwrap_err();
        assert_eq!(over.kind(), Kind::Corrupt, "{name}: {over}");
        let large = store.get(&name, end - 1).unwrap_err();
        assert_eq!(large.kind(), Kind::Corrupt, "{name}: {large}");
        store.replace(&name, "other").unwrap();
        assert_eq!(store.get(&name, 5).unwrap(), "other", "{name}");
    }
    // Beside the caller, as packs go up.
    let mut uploads = store.uploads();
    let pack = |n: u64| Bytes::from(noise(3 << 20, n + 100));
    for n in 0..4 {
        uploads.put(format!("packs/bb/{n}"), pack(n)).unwrap();
    }
    uploads.finish().unwrap();
    for n in 0..4 {
        assert!(store.get(&format!("packs/bb/{n}"), 3 << 20).unwrap() == pack(n));
    }
}

fn creates_once(store: &Store) {
    let name = "snapshots/aa/once";
    store.create(name, "first").unwrap();
    store
        .create(name, "first")
        .expect("our own bytes are no conflict");
    for other in ["other", "longer than the first"] {
        assert_eq!(
            store.create(name, other).unwrap_err().kind(),
            Kind::Conflict
        );
    }
    assert_eq!(store.get(name, 100).unwrap(), "first");
}

fn has_one_winner(store: &Store) {
    for race in 0..3 {
        let name = &format!("snapshots/aa/race-{race}");
        let won: Vec<usize> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..16)
                .map(|n| {
                    (
                        n,
                        scope.spawn(move || store.create(name, format!("writer {n}"))),
                    )
                })
                .collect();
            writers
                .into_iter()
                .filter_map(|(n, writer)| match writer.join().unwrap() {
                    Ok(()) => Some(n),
                    Err(e) if e.kind() == Kind::Conflict => None,
                    Err(e) => panic!("{e}: {:?}", e.advice()),
                })
                .collect()
        });
        assert_eq!(won.len(), 1, "{won:?} won race {race}");
        assert_eq!(store.get(name, 100).unwrap(), format!("writer {}", won[0]));
    }
}

fn lists_what_is_there(store: &Store) {
    assert!(store.list("nothing/here").unwrap().is_empty());
    let mut uploads = store.uploads();
    // More than a page of every store.
    let names: BTreeSet<String> = (0..1100).map(|n| format!("index/{n:032x}")).collect();
    for name in &names {
        uploads
            .put(name.clone(), Bytes::from(name.clone()))
            .unwrap();
    }
    uploads.finish().unwrap();
    store.replace("indexes/other", "x").unwrap();
    store.replace("index/aa/deep", "x").unwrap();
    let listed = store.list("index").unwrap();
    assert!(listed.is_sorted_by(|a, b| a.name < b.name));
    assert!(
        listed
            .iter()
            .all(|o| o.name == "index/aa/deep" || o.len == 38)
    );
    let mut found: BTreeSet<String> = listed.into_iter().map(|o| o.name).collect();
    assert!(found.remove("index/aa/deep"), "lists go all the way down");
    assert_eq!(found, names);
}

fn removes(store: &Store) {
    store.replace("gc/a", "x").unwrap();
    store.delete("gc/a").unwrap();
    store.delete("gc/a").expect("what is gone is gone");
    assert_eq!(store.len("gc/a").unwrap(), None);
    assert_eq!(store.get("gc/a", 10).unwrap_err().kind(), Kind::NotFound);
    assert!(store.list("gc").unwrap().is_empty());
    store.create("gc/a", "y").unwrap();
    store.delete("gc/a").unwrap();
}

/// init, import, import again, export, ls, gc and check, in a place of its own.
fn the_whole_way(store: Store, single_writer: bool) {
    let env = Arc::new(SystemEnv::new());
    for object in store.list("").unwrap() {
        store.delete(&object.name).unwrap();
    }
    let probe = store.probe(&*env).unwrap();
    probe.allows(store.name(), single_writer).unwrap();
    let options = || InitOptions {
        probed: Some(probe.probed.clone()),
        single_writer,
        ..InitOptions::default()
    };
    Repository::init_as(&store, &*env, options()).unwrap();
    let again = Repository::init_as(&store, &*env, options()).unwrap_err();
    assert_eq!(again.kind(), Kind::Conflict, "{again}");
    let cache = tempfile::tempdir().unwrap();
    let repo = Repository::open(store.clone(), env.clone(), Some(cache.path())).unwrap();
    let put = |tar: &[u8]| {
        let source = Source::Stream(Box::new(Cursor::new(tar.to_vec())));
        import(&repo, source, &ImportOptions::default(), &Silent)
            .unwrap()
            .snapshot
    };
    let mut stored = Vec::new();
    for real in archives::real().iter().take(4) {
        for _ in 0..2 {
            stored.push((put(&real.tar), real.tar.clone()));
        }
    }
    let listed = repo.snapshots().unwrap();
    assert_eq!(listed.snapshots.len(), stored.len());
    let doomed = put(&archives::checkpoint(&noise(4 << 20, 9), 4096));
    repo.delete(&[doomed.id], "test").unwrap();
    let report = gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(!report.garbage.is_empty());
    // A node that has nothing.
    let fresh = Repository::open(store, env, None).unwrap();
    for (snapshot, tar) in &stored {
        assert!(
            bytes_of(&fresh, snapshot, &Silent).unwrap() == *tar,
            "{}",
            snapshot.id
        );
    }
    let report = check::check(&fresh, &CheckOptions { read_data: true }, &Silent).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn memory_keeps_the_contract() {
    keeps_the_contract(&Store::new(Arc::new(InMemory::new()), "memory").unwrap());
}

#[test]
fn a_directory_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    keeps_the_contract(&Store::open(dir.path().to_str().unwrap(), false).unwrap());
}

/// A file system that is unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(dir.path());
        match mount.output() {
            Ok(out) if out.status.success() => Some(Self(dir)),
            _ => {
                eprintln!("skipped: a tmpfs cannot be mounted here (that takes root)");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn a_disk_that_is_full_says_so_loses_nothing_and_works_again() {
    let Some(disk) = Small::mount() else { return };
    let store = Store::open(disk.0.path().to_str().unwrap(), false).unwrap();
    store.create("snapshots/aa/kept", "kept").unwrap();
    let mut stored = Vec::new();
    let full = loop {
        let name = format!("packs/aa/{}", stored.len());
        let bytes = Bytes::from(noise(1 << 20, stored.len() as u64 + 1));
        let mut uploads = store.uploads();
        match uploads
            .put(name.clone(), bytes.clone())
            .and_then(|()| uploads.finish())
        {
            Ok(()) => stored.push((name, bytes)),
            Err(e) => break e,
        }
    };
    assert_eq!(full.kind(), Kind::NoSpace, "{full}");
    assert!(full.advice().unwrap().contains("room"));
    // What is small may still fit: the rest of the space goes, too.
    let small = loop {
        let name = format!("index/{}", stored.len());
        let bytes = Bytes::from(noise(4096, stored.len() as u64 + 1));
        match store.create(&name, bytes.clone()) {
            Ok(()) => stored.push((name, bytes)),
            Err(e) => break e,
        }
    };
    assert_eq!(small.kind(), Kind::NoSpace, "{small}");
    for (name, bytes) in &stored {
        assert!(store.get(name, 2 << 20).unwrap() == *bytes, "{name}");
    }
    assert_eq!(store.get("snapshots/aa/kept", 10).unwrap(), "kept");
    for (name, _) in &stored {
        store.delete(name).unwrap();
    }
    keeps_small_promises(&store);
}

/// The contract without what needs more than 8 MiB.
fn keeps_small_promises(store: &Store) {
    creates_once(store);
    has_one_winner(store);
    removes(store);
}

fn good_server(variable: &str) {
    let Some(server) = Server::find(variable) else {
        return;
    };
    // Lists of a thousand objects are put side by side.
    let store = server.open(&server.new_place(), &[("uploads", "16")]);
    keeps_the_contract(&store);
    prefixes_are_apart(&server);
}

fn prefixes_are_apart(server: &Server) {
    let outer = server.new_place();
    let (inside, beside) = (format!("{outer}/p/auto/"), format!("{outer}2"));
    let open = |url: &str| server.open(url, &[]);
    open(&inside).create("packs/aa/1", "inner").unwrap();
    open(&beside).create("packs/aa/1", "beside").unwrap();
    assert!(open(&outer).list("packs").unwrap().is_empty());
    assert_eq!(open(&outer).list("").unwrap().len(), 1);
    assert_eq!(open(&outer).get("p/auto/packs/aa/1", 9).unwrap(), "inner");
    assert_eq!(open(&inside).list("").unwrap().len(), 1);
    // A repository above, and one below, are seen.
    Repository::init(&open(&outer), &SystemEnv::new()).unwrap();
    let around = open(&inside).neighbours().unwrap();
    assert!(outer.ends_with(&around.above.unwrap()));
    assert_eq!(around.foreign.as_deref(), Some("packs"));
    Repository::init(&open(&inside), &SystemEnv::new()).unwrap();
    let around = open(&outer).neighbours().unwrap();
    assert!(around.here);
    assert_eq!(around.below, ["p/auto"]);
    assert_eq!(around.foreign, None);
}

/// What a store with accounts says to a stranger; a key that opens nothing is in `wrong`.
fn strangers_are_told(variable: &str, wrong: (&str, &str)) {
    let Some(server) = Server::find(variable) else {
        return;
    };
    let store = server.open(&server.new_place(), &[wrong]);
    let errors = [
        store.get("x", 10).unwrap_err(),
        store.list("x").unwrap_err(),
        store.create("x", "x").unwrap_err(),
        store.len("x").unwrap_err(),
        store.delete("x").unwrap_err(),
    ];
    for e in errors {
        assert_eq!(e.kind(), Kind::Denied, "{e}");
        assert!(
            e.advice().unwrap().contains("the test"),
            "{e}: {:?}",
            e.advice()
        );
    }
}

fn a_bucket_that_is_missing_is_told(variable: &str) {
    let Some(server) = Server::find(variable) else {
        return;
    };
    let store = server.open(&format!("{}-not", server.url()), &[]);
    let open = Repository::open(store.clone(), Arc::new(SystemEnv::new()), None);
    for e in [
        store.get("x", 10).unwrap_err(),
        store.list("x").unwrap_err(),
        store.create("x", "x").unwrap_err(),
        open.unwrap_err(),
    ] {
        assert_eq!(e.kind(), Kind::NotFound, "{e}");
        assert!(
            e.advice().unwrap().contains("bucket first"),
            "{e}: {:?}",
            e.advice()
        );
    }
}

const S3: &str = "CRYOSTORE_TEST_S3";
const AZURE: &str = "CRYOSTORE_TEST_AZURE";
const BAD: &str = "CRYOSTORE_TEST_BAD_S3";

#[test]
fn s3_keeps_the_contract() {
    good_server(S3);
}

#[test]
fn azure_keeps_the_contract() {
    good_server(AZURE);
}

#[test]
fn seaweedfs_keeps_the_contract() {
    good_server("CRYOSTORE_TEST_SEAWEEDFS");
}

#[test]
fn who_has_no_right_is_told_where_the_credentials_come_from() {
    strangers_are_told(AZURE, ("account_key", "d3Jvbmc="));
    strangers_are_told(BAD, ("secret_access_key", "wrong"));
    strangers_are_told("CRYOSTORE_TEST_SEAWEEDFS", ("secret_access_key", "wrong"));
}

#[test]
fn a_missing_bucket_is_told_from_a_missing_repository() {
    a_bucket_that_is_missing_is_told(S3);
    a_bucket_that_is_missing_is_told(AZURE);
    let Some(server) = Server::find(S3) else {
        return;
    };
    let store = server.open(&server.new_place(), &[]);
    let e = Repository::open(store, Arc::new(SystemEnv::new()), None).unwrap_err();
    assert!(e.to_string().contains("no repository"), "{e}");
}

#[test]
fn a_store_that_ignores_what_it_is_told_is_found_out_and_serves_a_single_writer() {
    let Some(server) = Server::find(BAD) else {
        return;
    };
    let store = server.open(&server.new_place(), &[]);
    let probe = store.probe(&SystemEnv::new()).unwrap();
    let e = probe.allows(store.name(), false).unwrap_err();
    assert_eq!(e.kind(), Kind::Unsupported);
    let text = e.to_string();
    assert!(
        text.contains("create-if-absent") && text.contains("ranges"),
        "{text}"
    );
    assert!(e.advice().unwrap().contains("--single-writer"));
    the_whole_way(store, true);
}

#[test]
fn a_store_that_keeps_its_word_only_when_nobody_races_is_found_out() {
    for variable in ["CRYOSTORE_TEST_S3S", "CRYOSTORE_TEST_GARAGE"] {
        let Some(server) = Server::find(variable) else {
            continue;
        };
        let store = server.open(&server.new_place(), &[]);
        let probe = store.probe(&SystemEnv::new()).unwrap();
        let e = probe.allows(store.name(), false).unwrap_err();
        eprintln!("{variable}: {e}");
        the_whole_way(store, true);
    }
}
