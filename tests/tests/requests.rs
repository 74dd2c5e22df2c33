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

use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{
    ImportOptions, Output, Repository, Silent, Source, Store, SystemEnv, export, import,
};
use cryostore_tests::archives::{checkpoint, noise};
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
        // Some pages anew, some changed a little, all over.
        for (k, page) in (0_u64..).zip(pages.chunks_mut(4096)) {
            if k % 97 == n {
                page.copy_from_slice(&noise(4096, n * 100_000 + k));
            } else if k % 13 == n {
                page[100..108].copy_from_slice(&(n * 1_000_003 + k).to_le_bytes());
            }
        }
    }
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
