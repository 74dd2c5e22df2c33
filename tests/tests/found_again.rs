//! What an import has uploaded before it failed, or its process died, is found by the next import of its node, unless it was collected meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cryostore_engine::check::{CheckOptions, check};
use cryostore_engine::format::SessionId;
use cryostore_engine::format::repository::Defaults;
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::gc::{GcOptions, collect};
use cryostore_engine::{
    BaseChoice, Error, ImportOptions, Repository, Silent, Source, Store, StreamImport, import,
};
use cryostore_tests::archives::{checkpoint, noise};
use cryostore_tests::stores::{Fault, Watched};
use cryostore_tests::{bytes_of, init, open, open_at};
use object_store::memory::InMemory;

/// Three packs, and a bit.
const PAGES: usize = 13_000;
/// What two imports cut into packs need not be the very same: headers and directories.
const SLACK: u64 = 128 << 10;

struct Bucket {
    watched: Watched,
    nodes: tempfile::TempDir,
}

impl Bucket {
    fn new() -> Self {
        let watched = Watched::new(Arc::new(InMemory::new()));
        let new = Self {
            watched,
            nodes: tempfile::tempdir().unwrap(),
        };
        init(&new.store(), Defaults::default());
        new.watched.reset();
        new
    }

    fn store(&self) -> Store {
        Store::new(Arc::new(self.watched.clone()), "bucket").unwrap()
    }

    fn node(&self, name: &str) -> Repository {
        open(self.store(), Some(&self.nodes.path().join(name))).unwrap()
    }

    fn import(&self, node: &str, tar: &[u8]) -> Result<SnapshotRecord, Error> {
        let source = Source::Stream(Box::new(std::io::Cursor::new(tar.to_vec())));
        let options = ImportOptions {
            base: BaseChoice::None,
            ..ImportOptions::default()
        };
        import(&self.node(node), source, &options, &Silent).map(|imported| imported.snapshot)
    }

    /// An import that ends at the `n`-th change, with all that comes after it.
    fn fail(&self, tar: &[u8], n: u64) -> Error {
        self.watched.reset();
        self.watched.fault_at(n, Fault::Stop);
        let error = self.import("node", tar).unwrap_err();
        self.watched.reset();
        error
    }

    fn packs(&self) -> BTreeMap<String, u64> {
        let objects = self.store().list("packs").unwrap().into_iter();
        objects.map(|object| (object.name, object.len)).collect()
    }

    /// All of it comes back, and nothing is damaged.
    fn assert_whole(&self, snapshot: &SnapshotRecord, tar: &[u8], when: &str) {
        let repo = self.node("reader");
        let bytes = bytes_of(&repo, snapshot, &Silent).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert!(bytes == tar, "{when}: other bytes");
        let report = check(&repo, &CheckOptions { read_data: true }, &Silent).unwrap();
        assert!(report.problems.is_empty(), "{when}: {:?}", report.problems);
    }

    /// Packs that the node remembers.
    fn remembered(&self) -> usize {
        remembered(self.node("node").cache().unwrap())
    }

    fn sessions(&self) -> Vec<SessionId> {
        let sessions = self.node("collector").sessions().unwrap();
        sessions.iter().map(|session| session.record.id).collect()
    }

    /// Ends what is left of sessions, and collects; gives the bytes that were freed.
    fn collect(&self) -> u64 {
        self.collect_beside(&[])
    }

    /// The same, while these sessions are at work.
    fn collect_beside(&self, at_work: &[SessionId]) -> u64 {
        let repo = self.node("collector");
        let left = self.sessions().into_iter();
        let options = GcOptions {
            end_sessions: left
                .filter(|id| !at_work.contains(id))
                .map(|id| id.to_string())
                .collect(),
            grace: std::time::Duration::ZERO,
            ..GcOptions::default()
        };
        collect(&repo, &options, &Silent).unwrap().bytes
    }
}

fn remembered(cache: &Path) -> usize {
    std::fs::read_dir(cache.join("unfinished")).map_or(0, Iterator::count)
}

fn sum(packs: &BTreeMap<String, u64>) -> u64 {
    packs.values().sum()
}

#[test]
fn an_import_that_failed_at_any_call_is_gone_on_with_and_uploads_only_what_is_missing() {
    let tar = checkpoint(&noise(PAGES * 4096, 1), 4096);
    let (whole, calls) = {
        let bucket = Bucket::new();
        bucket.import("node", &tar).unwrap();
        assert_eq!(bucket.remembered(), 0, "all is in a snapshot");
        (bucket.packs(), bucket.watched.writes())
    };
    assert!(whole.len() >= 4 && calls >= 8, "{whole:?}, {calls} calls");
    let mut saved = 0;
    // The last call ends the session.
    for n in 1..calls - 1 {
        let when = format!("call {n}");
        let bucket = Bucket::new();
        let error = bucket.fail(&tar, n);
        let before = bucket.packs();
        if !before.is_empty() {
            let advice = error.advice().unwrap_or_default();
            assert!(advice.contains("next import"), "{when}: {error}: {advice}");
        }
        saved = saved.max(sum(&before));
        let snapshot = bucket.import("node", &tar).unwrap();
        let after = bucket.packs();
        let more = sum(&after) - sum(&before);
        let missing = sum(&whole) - sum(&before);
        assert!(more <= missing + SLACK, "{when}: {more} for {missing}");
        assert_eq!(bucket.remembered(), 0, "{when}: all is in a snapshot");
        bucket.assert_whole(&snapshot, &tar, &when);
        // Other nodes find them, too.
        bucket.import("other", &tar).unwrap();
        let others = sum(&bucket.packs()) - sum(&after);
        assert!(others <= SLACK, "{when}: {others} bytes by another node");
        bucket.collect();
        bucket.assert_whole(&snapshot, &tar, &when);
    }
    assert!(saved + SLACK > sum(&whole), "{saved} bytes at most");
}

#[test]
fn imports_that_fail_again_and_again_come_to_an_end() {
    let tar = checkpoint(&noise(PAGES * 4096, 2), 4096);
    let bucket = Bucket::new();
    let mut tries = 0;
    // A session, and two packs of what is missing.
    let snapshot = loop {
        bucket.watched.reset();
        bucket.watched.fault_at(3, Fault::Stop);
        let done = bucket.import("node", &tar);
        bucket.watched.reset();
        tries += 1;
        assert!(tries < 10, "{:?}", bucket.packs());
        if done.is_ok() || sum(&bucket.packs()) >= tar.len() as u64 {
            break bucket.import("node", &tar).unwrap();
        }
    };
    assert!(tries > 1);
    assert!(sum(&bucket.packs()) <= tar.len() as u64 + 4 * SLACK);
    bucket.assert_whole(&snapshot, &tar, "after all");
    assert_eq!(bucket.remembered(), 0);
}

/// A bucket in which an import has left packs, and these.
fn left_behind(tar: &[u8]) -> (Bucket, BTreeMap<String, u64>) {
    let bucket = Bucket::new();
    bucket.fail(tar, 4);
    let left = bucket.packs();
    assert!(left.len() >= 2, "{left:?}");
    (bucket, left)
}

#[test]
fn packs_that_a_collection_has_freed_or_condemned_meanwhile_are_uploaded_again() {
    let tar = checkpoint(&noise(PAGES * 4096, 3), 4096);
    // Freed.
    let (bucket, left) = left_behind(&tar);
    assert!(bucket.collect() >= sum(&left));
    assert!(bucket.packs().is_empty());
    let snapshot = bucket.import("node", &tar).unwrap();
    bucket.assert_whole(&snapshot, &tar, "freed");
    assert_eq!(bucket.remembered(), 0);

    // Condemned: somebody is at work who does not know it, so that they are there still.
    let (bucket, left) = left_behind(&tar);
    let dead = bucket.sessions();
    let repo = bucket.node("slow");
    let slow = StreamImport::begin(&repo, ImportOptions::default(), &Silent).unwrap();
    let mut at_work = bucket.sessions();
    at_work.retain(|id| !dead.contains(id));
    assert_eq!(bucket.collect_beside(&at_work), 0);
    assert_eq!(bucket.packs(), left);
    let snapshot = bucket.import("node", &tar).unwrap();
    let missing = sum(&bucket.packs()) - sum(&left);
    assert!(missing + SLACK >= tar.len() as u64, "{missing}: none again");
    drop(slow);
    assert!(bucket.collect() >= sum(&left));
    bucket.assert_whole(&snapshot, &tar, "condemned");

    // Condemned while the import that refers to them is at work.
    let (bucket, left) = left_behind(&tar);
    let bucket = Arc::new(bucket);
    let (beside, freed) = (Arc::clone(&bucket), Arc::new(std::sync::Mutex::new(None)));
    let (told, dead) = (Arc::clone(&freed), bucket.sessions());
    // Its session is there (call 0), and it has looked: now it puts a pack.
    bucket.watched.meanwhile(1, move || {
        let mut at_work = beside.sessions();
        at_work.retain(|id| !dead.contains(id));
        assert_eq!((at_work.len(), dead.len()), (1, 1));
        *told.lock().unwrap() = Some(beside.collect_beside(&at_work));
    });
    let snapshot = bucket.import("node", &tar).unwrap();
    assert_eq!(*freed.lock().unwrap(), Some(0));
    assert!(left.keys().all(|name| bucket.packs().contains_key(name)));
    let more = sum(&bucket.packs()) - sum(&left);
    assert!(more < tar.len() as u64 / 2, "{more} bytes: not found again");
    bucket.collect();
    bucket.assert_whole(&snapshot, &tar, "condemned under it");
}

#[test]
fn a_pack_that_is_damaged_or_of_another_length_is_uploaded_again() {
    let tar = checkpoint(&noise(PAGES * 4096, 4), 4096);
    let (bucket, left) = left_behind(&tar);
    let mut names = left.keys();
    let (damaged, cut) = (names.next().unwrap(), names.next().unwrap());
    let id = damaged.rsplit('/').next().unwrap();
    bucket
        .store()
        .create(&format!("gc/damaged/{id}"), vec![0; 10])
        .unwrap();
    bucket.store().replace(cut, vec![0; 1000]).unwrap();
    let snapshot = bucket.import("node", &tar).unwrap();
    let bytes = bytes_of(&bucket.node("reader"), &snapshot, &Silent).unwrap();
    assert!(bytes == tar);
    let more = sum(&bucket.packs()) + left[cut] - 1000 - sum(&left);
    let missing = tar.len() as u64 - sum(&left) + left[damaged] + left[cut];
    assert!(more + SLACK >= missing, "{more} of {missing}");
}

const CHILD: &str = "CRYOSTORE_TEST_CHILD";

/// Writes the same pages each time.
fn stream_in(repo: &Repository, go_on: impl Fn() -> bool) -> Result<StreamImport<'_>, Error> {
    let mut work = StreamImport::begin(repo, ImportOptions::default(), &Silent)?;
    let stream = work.stream(b"data")?;
    for n in 0..24 {
        work.write(stream, &noise(4 << 20, 50 + n))?;
        if !go_on() {
            std::process::abort();
        }
    }
    work.end(stream)?;
    Ok(work)
}

#[test]
fn what_a_killed_process_has_put_into_a_directory_is_found_again() {
    let packs = |store: &Store| store.list("packs").unwrap();
    if let Some(dir) = std::env::var_os(CHILD) {
        let place = Path::new(&dir);
        let repo = open_at(&place.join("store"), Some(&place.join("cache"))).unwrap();
        let _ = stream_in(&repo, || packs(repo.store()).len() < 4);
        unreachable!("it was to be killed");
    }
    let place = cryostore_tests::Place::new();
    let name = "what_a_killed_process_has_put_into_a_directory_is_found_again";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name]).env(CHILD, place.dir.path());
    assert!(!child.output().unwrap().status.success());
    let repo = place.open();
    let before: u64 = packs(repo.store()).iter().map(|pack| pack.len).sum();
    assert!(before > 40 << 20, "{before}");
    let imported = stream_in(&repo, || true).unwrap().commit().unwrap();
    let added = imported.snapshot.cost.bytes_added;
    assert!(added + before < (97 << 20), "{added} after {before}");
    assert_eq!(remembered(repo.cache().unwrap()), 0);
    // The killed session is ended, and nothing is freed of what the snapshot needs.
    collect(&repo, &GcOptions::default(), &Silent).unwrap();
    let bytes = place.bytes_of(&imported.snapshot);
    let all: Vec<u8> = (0..24).flat_map(|n| noise(4 << 20, 50 + n)).collect();
    assert!(bytes[512..512 + all.len()] == all);
}
