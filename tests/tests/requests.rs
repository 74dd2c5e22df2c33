//! How many requests a bucket gets: each is some 30 ms, and has its price.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use cryostore_engine::check::{CheckOptions, check};
use cryostore_engine::format::repository::Defaults;
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::gc::{GcOptions, collect};
use cryostore_engine::{
    ImportOptions, Output, Repository, Silent, Source, Store, SystemEnv, export, import,
};
use cryostore_tests::archives::{checkpoint, checkpoint_of, noise};
use cryostore_tests::stores::Watched;
use object_store::memory::InMemory;

struct Bucket {
    watched: Watched,
    cache: tempfile::TempDir,
}

impl Bucket {
    fn new() -> Self {
        let watched = Watched::new(Arc::new(InMemory::new()));
        let new = Self {
            watched,
            cache: tempfile::tempdir().unwrap(),
        };
        Repository::init(&new.store(), &SystemEnv::new()).unwrap();
        new
    }

    fn store(&self) -> Store {
        Store::new(Arc::new(self.watched.clone()), "bucket").unwrap()
    }

    fn import(&self, tar: &[u8]) -> SnapshotRecord {
        let path = self.cache.path().join("in.tar");
        fs::write(&path, tar).unwrap();
        let repo = Repository::open(
            self.store(),
            Arc::new(SystemEnv::new()),
            Some(&self.cache.path().join("cache")),
        );
        let source = Source::at(&path).unwrap();
        import(&repo.unwrap(), source, &ImportOptions::default(), &Silent)
            .unwrap()
            .snapshot
    }

    /// Exports on a node that has nothing; gives the requests and the bytes that were read.
    fn export(&self, snapshot: &SnapshotRecord, tar: &[u8]) -> (u64, u64) {
        self.watched.reset();
        let repo = Repository::open(self.store(), Arc::new(SystemEnv::new()), None).unwrap();
        let mut out = Vec::new();
        export(&repo, snapshot, Output::Stream(&mut out), &Silent).unwrap();
        assert!(out == tar);
        (self.watched.log().len() as u64, self.watched.bytes_read())
    }

    /// Requests by what they are for.
    fn kinds(&self) -> BTreeMap<String, usize> {
        let mut out = BTreeMap::new();
        for call in self.watched.log() {
            let kind = call.split('/').next().unwrap().to_owned();
            *out.entry(kind).or_insert(0) += 1;
        }
        out
    }
}

const MIB: u64 = 1 << 20;

/// Some pages anew, some changed a little, all over; not the same for another `n`.
fn change(pages: &mut [u8], n: u64) {
    for (k, page) in (0_u64..).zip(pages.chunks_mut(4096)) {
        if k % 97 == n {
            page.copy_from_slice(&noise(4096, n * 100_000 + k));
        } else if k % 13 == n {
            page[100..108].copy_from_slice(&(n * 1_000_003 + k).to_le_bytes());
        }
    }
}

#[test]
fn a_node_reads_the_record_of_a_snapshot_once_and_of_its_own_not_at_all() {
    let bucket = Bucket::new();
    let other = tempfile::tempdir().unwrap();
    let open = |cache: &std::path::Path| {
        Repository::open(bucket.store(), Arc::new(SystemEnv::new()), Some(cache)).unwrap()
    };
    for n in 0..4 {
        bucket.import(&checkpoint(&noise(1 << 20, n), 4096));
    }
    bucket.watched.reset();
    let own = open(&bucket.cache.path().join("cache"));
    assert_eq!(own.snapshots().unwrap().snapshots.len(), 4);
    assert_eq!(bucket.watched.count("get snapshots/"), 0);
    for reads in [4, 0] {
        bucket.watched.reset();
        assert_eq!(open(other.path()).snapshots().unwrap().snapshots.len(), 4);
        assert_eq!(bucket.watched.count("get snapshots/"), reads);
    }
}

#[test]
fn a_session_reads_the_record_of_a_collection_once() {
    let bucket = Bucket::new();
    // Of another node: the collector reads its own record, too.
    let repo = Repository::open(bucket.store(), Arc::new(SystemEnv::new()), None).unwrap();
    let tars = [1, 2].map(|n| checkpoint(&noise(1 << 20, n), 4096));
    let ids = tars.each_ref().map(|tar| bucket.import(tar).id);
    repo.delete(&ids[..1], "test").unwrap();
    collect(&repo, &GcOptions::default(), &Silent).unwrap();
    let records = bucket.store().list("gc").unwrap().len();
    assert!(records > 0);
    for reads in [records, 0] {
        bucket.watched.reset();
        bucket.import(&tars[1]);
        assert_eq!(bucket.watched.count("get gc/"), reads);
    }
}

#[test]
fn a_copy_of_a_record_is_not_believed_once_it_is_damaged_or_the_object_is_another_one() {
    let bucket = Bucket::new();
    let cache = bucket.cache.path().join("cache");
    let snapshot = bucket.import(&checkpoint(&noise(1 << 20, 1), 4096));
    let open =
        || Repository::open(bucket.store(), Arc::new(SystemEnv::new()), Some(&cache)).unwrap();
    let name = bucket.store().list("snapshots").unwrap()[0].name.clone();
    let copy = cache
        .join(open().record().id.to_string())
        .join("objects")
        .join(&name);

    let mut bytes = fs::read(&copy).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&copy, &bytes).unwrap();
    bucket.watched.reset();
    assert_eq!(open().snapshots().unwrap().snapshots, [snapshot]);
    assert_eq!(bucket.watched.count("get snapshots/"), 1);

    // As long as the record, and something else: the place of a record that a collection has freed.
    let store = bucket.store();
    let mut stored = store.get(&name, MIB).unwrap().to_vec();
    *stored.last_mut().unwrap() ^= 1;
    store.replace(&name, stored).unwrap();
    let list = open().snapshots().unwrap();
    assert_eq!((list.snapshots.len(), list.damaged.len()), (0, 1));

    // What is gone leaves no copy.
    store.delete(&name).unwrap();
    assert_eq!(open().snapshots().unwrap().snapshots.len(), 0);
    assert!(!copy.exists());
}

#[test]
fn check_reads_records_of_which_the_node_has_copies() {
    let bucket = Bucket::new();
    bucket.import(&checkpoint(&noise(1 << 20, 1), 4096));
    bucket.watched.reset();
    let cache = bucket.cache.path().join("cache");
    let repo = Repository::open(bucket.store(), Arc::new(SystemEnv::new()), Some(&cache)).unwrap();
    let report = check(&repo, &CheckOptions::default(), &Silent).unwrap();
    assert!(report.problems.is_empty());
    assert!(bucket.watched.count("get snapshots/") > 0);
}

#[test]
fn an_import_of_a_fresh_node_reads_one_record_to_find_its_base() {
    let bucket = Bucket::new();
    let mut pages = noise(1 << 20, 1);
    let mut last = None;
    for n in 0..3 {
        change(&mut pages, n);
        last = Some(bucket.import(&checkpoint(&pages, 4096)).id);
        // The store's clock tells seconds apart.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    let fresh = Bucket {
        watched: bucket.watched.clone(),
        cache: tempfile::tempdir().unwrap(),
    };
    change(&mut pages, 3);
    bucket.watched.reset();
    let snapshot = fresh.import(&checkpoint(&pages, 4096));
    assert_eq!(snapshot.base, last);
    let found = (
        bucket.watched.count("list snapshots"),
        bucket.watched.count("get snapshots/"),
    );
    assert_eq!(found, (1, 1));
}

#[test]
fn a_fresh_node_takes_in_the_newest_part_of_a_large_index_and_the_rest_with_later_imports() {
    let bucket = Bucket::new();
    let repo = Repository::open(bucket.store(), Arc::new(SystemEnv::new()), None).unwrap();
    for n in 0..260 {
        let tar = checkpoint_of(&format!("c{n}"), &noise(4096, n), 4096);
        let source = Source::Stream(Box::new(std::io::Cursor::new(tar)));
        import(&repo, source, &ImportOptions::default(), &Silent).unwrap();
    }
    let fresh = Bucket {
        watched: bucket.watched.clone(),
        cache: tempfile::tempdir().unwrap(),
    };
    for (n, reads) in [(1000, 256), (1001, 4), (1002, 0)] {
        bucket.watched.reset();
        fresh.import(&checkpoint_of(&format!("c{n}"), &noise(4096, n), 4096));
        assert_eq!(bucket.watched.count("get index/"), reads, "{n}");
    }
    // A collection makes one of many, and the next one removes these.
    for left in [264, 1] {
        collect(&repo, &GcOptions::default(), &Silent).unwrap();
        assert_eq!(bucket.store().list("index").unwrap().len(), left);
    }
    let other = Bucket {
        watched: bucket.watched.clone(),
        cache: tempfile::tempdir().unwrap(),
    };
    bucket.watched.reset();
    let again = other.import(&checkpoint_of("c1003", &noise(4096, 7), 4096));
    assert_eq!(bucket.watched.count("get index/"), 1);
    assert_eq!(again.cost.classes.elsewhere.pages, 1);
}

#[test]
fn an_export_from_a_bucket_takes_few_requests_however_many_imports_it_stands_on() {
    let bucket = Bucket::new();
    let mut pages = noise(80 << 20, 1);
    for n in 0..8_u64 {
        let tar = checkpoint(&pages, 4096);
        let snapshot = bucket.import(&tar);
        let (requests, bytes) = bucket.export(&snapshot, &tar);
        let kinds = bucket.kinds();
        let packs = snapshot.cost.packs_needed.unwrap();
        let most = (bytes / (4 * MIB)).max(packs + 6);
        assert!(
            requests <= most,
            "export {n}: {requests} requests for {bytes} bytes, {packs} packs: {kinds:?}"
        );
        assert!(bytes < (81 + n) * MIB, "export {n}: {bytes} bytes");
        change(&mut pages, n);
    }
}

#[test]
fn an_import_into_a_bucket_takes_few_requests_however_many_came_before() {
    let bucket = Bucket::new();
    let mut pages = noise(24 << 20, 1);
    for n in 0..10_u64 {
        bucket.watched.reset();
        let snapshot = bucket.import(&checkpoint(&pages, 4096));
        let (requests, kinds) = (bucket.watched.log().len() as u64, bucket.kinds());
        let most = snapshot.cost.bytes_added / (8 * MIB) + 14;
        assert!(
            requests <= most,
            "import {n}: {requests} requests, {most} may be: {kinds:?}"
        );
        assert!(n == 0 || snapshot.cost.classes.delta.pages > 0);
        change(&mut pages, n);
    }
}

#[test]
fn an_import_into_an_encrypted_bucket_takes_no_more_requests_than_that_and_reads_no_manifest_that_the_node_stored()
 {
    let watched = Watched::new(Arc::new(InMemory::new()));
    let store = || Store::new(Arc::new(watched.clone()), "bucket").unwrap();
    cryostore_tests::init(&store(), Defaults::default());
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let path = dir.path().join("in.tar");
    let mut pages = noise(24 << 20, 1);
    for n in 0..4_u64 {
        fs::write(&path, checkpoint(&pages, 4096)).unwrap();
        watched.reset();
        let repo = cryostore_tests::open(store(), Some(&cache)).unwrap();
        let source = Source::at(&path).unwrap();
        let imported = import(&repo, source, &ImportOptions::default(), &Silent).unwrap();
        let (requests, log) = (watched.log().len() as u64, watched.log());
        // A copy that is damaged, or gone, is read instead.
        let reads = u64::from(n == 3);
        let most = imported.snapshot.cost.bytes_added / (8 * MIB) + 14 + reads;
        assert!(
            requests <= most,
            "import {n}: {requests} requests, {most} may be: {log:?}"
        );
        assert_eq!(
            watched.count("get manifests/") as u64,
            reads,
            "import {n}: {log:?}"
        );
        let classes = imported.snapshot.cost.classes;
        assert!(
            n == 0 || classes.same.pages > 5000,
            "import {n}: {classes:?}"
        );
        change(&mut pages, n);
        if n == 2 {
            let copies = cache.join(repo.record().id.to_string()).join("bases");
            for copy in fs::read_dir(copies).unwrap() {
                let path = copy.unwrap().path();
                let mut bytes = fs::read(&path).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(path, bytes).unwrap();
            }
        }
    }
}

#[test]
fn an_import_is_right_when_copies_of_packs_are_damaged_and_they_are_removed() {
    let bucket = Bucket::new();
    let mut pages = noise(4 << 20, 1);
    bucket.import(&checkpoint(&pages, 4096));
    let mut copies = 0;
    for dir in fs::read_dir(bucket.cache.path().join("cache")).unwrap() {
        let packs = dir.unwrap().path().join("packs");
        for copy in fs::read_dir(packs).into_iter().flatten() {
            let path = copy.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
            fs::write(path, bytes).unwrap();
            copies += 1;
        }
    }
    assert!(copies > 0);
    change(&mut pages, 1);
    let tar = checkpoint(&pages, 4096);
    bucket.watched.reset();
    let snapshot = bucket.import(&tar);
    assert!(bucket.watched.count("ranges packs/") > 0);
    bucket.export(&snapshot, &tar);
}

#[test]
fn a_node_without_copies_of_the_bases_packs_downloads_none_for_deltas() {
    let bucket = Bucket::new();
    let mut pages = noise(16 << 20, 1);
    bucket.import(&checkpoint(&pages, 4096));
    let fresh = Bucket {
        watched: bucket.watched.clone(),
        cache: tempfile::tempdir().unwrap(),
    };
    change(&mut pages, 1);
    let tar = checkpoint(&pages, 4096);
    bucket.watched.reset();
    let snapshot = fresh.import(&tar);
    let classes = snapshot.cost.classes;
    assert!(classes.delta.pages == 0 && classes.new.pages > 300);
    // Directories, which have the ids to compare with.
    assert!(
        bucket.watched.bytes_read() < MIB,
        "{}",
        bucket.watched.bytes_read()
    );
    fresh.export(&snapshot, &tar);
}

#[test]
fn what_a_node_has_copies_of_is_exported_without_the_bucket_and_checked_in_it() {
    let bucket = Bucket::new();
    let tar = checkpoint(&noise(4 << 20, 1), 4096);
    let snapshot = bucket.import(&tar);
    let cache = bucket.cache.path().join("cache");
    let open =
        || Repository::open(bucket.store(), Arc::new(SystemEnv::new()), Some(&cache)).unwrap();
    bucket.watched.reset();
    let mut out = Vec::new();
    export(&open(), &snapshot, Output::Stream(&mut out), &Silent).unwrap();
    assert!(out == tar);
    assert_eq!(bucket.watched.count("ranges packs/"), 0);
    check(&open(), &CheckOptions { read_data: true }, &Silent).unwrap();
    assert!(bucket.watched.bytes_read() > 4 * MIB);

    let all = open().cache_use();
    assert!(all.packs.bytes > 4 * MIB && all.records.files == 1);
    open().clear_cache().unwrap();
    assert_eq!(open().cache_use().packs.files, 0);
    bucket.watched.reset();
    export(&open(), &snapshot, Output::Stream(&mut Vec::new()), &Silent).unwrap();
    assert!(bucket.watched.count("ranges packs/") > 0);
}

/// `CRYOSTORE_SERIES="1.tar 2.tar …"`: the figures of a series of one's own.
#[test]
fn a_series_of_ones_own_is_counted() {
    let Ok(series) = std::env::var("CRYOSTORE_SERIES") else {
        eprintln!("skipped: CRYOSTORE_SERIES names no archives");
        return;
    };
    let bucket = Bucket::new();
    for path in series.split_whitespace().map(PathBuf::from) {
        let tar = fs::read(&path).unwrap();
        bucket.watched.reset();
        let snapshot = bucket.import(&tar);
        let added = snapshot.cost.bytes_added;
        eprintln!(
            "{}: import: {} requests for {added} new bytes, {} may be: {:?}",
            path.file_name().unwrap().display(),
            bucket.watched.log().len(),
            added / (8 * MIB) + 14,
            bucket.kinds()
        );
        let (requests, bytes) = bucket.export(&snapshot, &tar);
        let packs = snapshot.cost.packs_needed.unwrap();
        eprintln!(
            "    fresh export: {requests} requests for {bytes} bytes of {packs} packs, {} may be",
            (bytes / (4 * MIB)).max(packs + 6)
        );
    }
}
