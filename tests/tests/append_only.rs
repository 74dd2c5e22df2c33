//! Nodes that only store checkpoints: a store that refuses them to remove or replace anything, and a program that does not try.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use cryostore_engine::check::{CheckOptions, check};
use cryostore_engine::format::repository::Defaults;
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::gc::{GcOptions, collect};
use cryostore_engine::{
    Error, ImportOptions, Kind, Repository, Silent, Source, Store, import, optimize, repack,
};
use cryostore_tests::archives::{checkpoint, noise};
use cryostore_tests::stores::Watched;
use cryostore_tests::{bytes_of, init, open};
use object_store::memory::InMemory;

struct Bucket {
    objects: Arc<InMemory>,
    dir: tempfile::TempDir,
}

impl Bucket {
    fn new() -> Self {
        let objects = Arc::new(InMemory::new());
        let store = Store::new(Arc::clone(&objects) as _, "bucket").unwrap();
        init(&store, Defaults::default());
        let dir = tempfile::tempdir().unwrap();
        Self { objects, dir }
    }

    /// Opened by somebody who may do everything.
    fn owner(&self) -> Repository {
        open(
            Store::new(Arc::clone(&self.objects) as _, "bucket").unwrap(),
            None,
        )
        .unwrap()
    }

    fn import(&self, repo: &Repository, n: u64) -> Result<(SnapshotRecord, Vec<u8>), Error> {
        let mut pages = noise(64 * 4096, 1);
        pages[..4096 * 8].copy_from_slice(&noise(4096 * 8, 100 + n));
        for page in pages.chunks_mut(4096).skip(20) {
            page[7] = u8::try_from(n).unwrap();
        }
        let tar = checkpoint(&pages, 4096);
        let path = self.dir.path().join("in.tar");
        fs::write(&path, &tar).unwrap();
        let source = Source::at(&path).unwrap();
        let imported = import(repo, source, &ImportOptions::default(), &Silent)?;
        Ok((imported.snapshot, tar))
    }

    /// Names and tags of all objects but sessions.
    fn objects(&self) -> Vec<(String, Option<String>)> {
        let listed = self.owner().store().list("").unwrap().into_iter();
        listed
            .filter(|object| !object.name.starts_with("sessions/"))
            .map(|object| (object.name, object.tag))
            .collect()
    }
}

#[test]
fn a_store_that_refuses_to_remove_anything_but_sessions_is_enough_to_store_and_to_restore() {
    let bucket = Bucket::new();
    let watched = Watched::new(Arc::clone(&bucket.objects) as _);
    watched.append_only();
    let cache = bucket.dir.path().join("cache");
    let node = || {
        let store = Store::new(Arc::new(watched.clone()), "bucket").unwrap();
        open(store, Some(&cache)).unwrap()
    };
    let mut stored = Vec::new();
    for n in 0..3 {
        stored.push(bucket.import(&node(), n).unwrap());
    }
    // A file that is no checkpoint: its session ends, too.
    let wrong = bucket.dir.path().join("wrong.tar");
    fs::write(&wrong, noise(10_000, 9)).unwrap();
    let source = Source::at(&wrong).unwrap();
    import(&node(), source, &ImportOptions::default(), &Silent).unwrap_err();
    for (record, tar) in &stored {
        assert!(bytes_of(&node(), record, &Silent).unwrap() == *tar);
    }
    assert!(bucket.owner().sessions().unwrap().is_empty());
    let report = check(&node(), &CheckOptions { read_data: true }, &Silent).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    // What was rewritten takes effect with a collection of somebody who may remove.
    let optimized = optimize(&node(), &stored[2].0, &Silent).unwrap();
    assert!(
        optimized.after.is_some() && optimized.later,
        "{optimized:?}"
    );
    // It is not written again meanwhile.
    let again = optimize(&node(), &stored[2].0, &Silent).unwrap_err();
    assert_eq!(again.kind(), Kind::Conflict, "{again}");
    let refused = collect(&node(), &GcOptions::default(), &Silent).unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied, "{refused}");
    collect(&bucket.owner(), &GcOptions::default(), &Silent).unwrap();
    for (record, tar) in &stored {
        assert!(bytes_of(&node(), record, &Silent).unwrap() == *tar);
    }
}

#[test]
fn who_appends_only_is_refused_what_removes_or_replaces_before_anything_is_changed() {
    let bucket = Bucket::new();
    let store = Store::new(Arc::clone(&bucket.objects) as _, "bucket").unwrap();
    let node = open(store.append_only(), None).unwrap();
    let (first, _) = bucket.import(&node, 0).unwrap();
    let (second, tar) = bucket.import(&node, 1).unwrap();
    bucket.owner().delete(&[first.id], "by the owner").unwrap();
    bucket.owner().pin(second.id, "by the owner").unwrap();
    let before = bucket.objects();
    let refused: [(&str, Result<(), Error>); 7] = [
        (
            "repack",
            repack(&node, &HashSet::new(), 1, &Silent).map(drop),
        ),
        ("rotate", node.rotate_keys(false).map(drop)),
        ("delete", node.delete(&[second.id], "")),
        ("undelete", node.undelete(&first)),
        ("pin", node.pin(second.id, "")),
        ("unpin", node.unpin(second.id)),
        (
            "gc",
            collect(&node, &GcOptions::default(), &Silent).map(drop),
        ),
    ];
    for (what, result) in refused {
        let e = result.unwrap_err();
        // A deletion says first that the snapshot is pinned.
        let kind = if what == "delete" {
            Kind::Conflict
        } else {
            Kind::Denied
        };
        assert_eq!(e.kind(), kind, "{what}: {e}");
    }
    bucket.owner().unpin(second.id).unwrap();
    let e = node.delete(&[second.id], "").unwrap_err();
    assert_eq!(e.kind(), Kind::Denied, "{e}");
    assert!(e.advice().unwrap().contains("--append-only"), "{e}");
    bucket.owner().pin(second.id, "by the owner").unwrap();
    let look = |options: &GcOptions| collect(&node, options, &Silent).unwrap();
    let dry = look(&GcOptions {
        dry_run: true,
        ..GcOptions::default()
    });
    assert!(dry.bytes > 0);
    let after: Vec<_> = bucket.objects();
    let names = |of: &[(String, Option<String>)]| -> Vec<String> {
        of.iter().map(|(name, _)| name.clone()).collect()
    };
    // An undeletion that was refused settles its own place.
    let mut left = names(&after);
    left.retain(|name| names(&before).contains(name));
    assert_eq!(left, names(&before));
    assert!(after.len() <= before.len() + 1, "{after:?}");
    assert!(bytes_of(&node, &second, &Silent).unwrap() == tar);
    // Only a disk needs it.
    assert_eq!(node.store().len("reserve").unwrap(), None);
}
