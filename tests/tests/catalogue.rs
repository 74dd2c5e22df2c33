//! Catalogues: what a node that has seen nothing asks for, and that nothing is ever listed that is not there.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cryostore_engine::check::{CheckOptions, check};
use cryostore_engine::format::catalogue::Catalogue;
use cryostore_engine::format::snapshot::{Entry, SnapshotRecord, Tombstone};
use cryostore_engine::format::{Digest, Lineage, SessionId, SnapshotId};
use cryostore_engine::gc::{GcOptions, GcReport, collect};
use cryostore_engine::{
    Filter, ImportOptions, Output, Repository, Silent, Source, Store, SystemEnv, export, import,
};
use cryostore_tests::archives::{checkpoint, noise};
use cryostore_tests::stores::{Fault, Watched};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

/// A collection reads each manifest besides: 10,000 are quick enough in memory.
const MANY: u64 = 10_000;

struct Bucket {
    watched: Watched,
    tar: Vec<u8>,
    /// A snapshot that can be exported; the others are this one again, under other names.
    first: SnapshotRecord,
}

fn id(n: u64) -> SnapshotId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    id[8..].copy_from_slice(&n.to_le_bytes());
    SnapshotId::from_bytes(id)
}

fn name_of(record: &SnapshotRecord) -> String {
    format!("snapshots/{}/{}", record.lineage, record.id)
}

impl Bucket {
    fn with(snapshots: u64) -> Self {
        let watched = Watched::new(Arc::new(InMemory::new()));
        let store = Store::new(Arc::new(watched.clone()), "bucket").unwrap();
        Repository::init(&store, &SystemEnv::new()).unwrap();
        let tar = checkpoint(&noise(64 << 10, 1), 4096);
        let first = import_into(&watched, &tar);
        let bucket = Self {
            watched,
            tar,
            first,
        };
        (1..snapshots).for_each(|n| bucket.put(n));
        bucket
    }

    /// Another snapshot with the same manifest, of one of a hundred containers.
    fn put(&self, n: u64) {
        let mut record = SnapshotRecord {
            id: id(n),
            lineage: Lineage::from_bytes([(n % 100) as u8; 16]),
            labels: vec![format!("number={n}")],
            ..self.first.clone()
        };
        // As random as those of other archives are.
        record.archive.digest = Some(Digest::of(&n.to_le_bytes()));
        record.base = Some(id(!n));
        record.session = SessionId::from_bytes(noise(16, n).try_into().unwrap());
        let bytes = record.encode().unwrap();
        self.store().create(&name_of(&record), bytes).unwrap();
    }

    fn store(&self) -> Store {
        Store::new(Arc::new(self.watched.clone()), "bucket").unwrap()
    }

    /// On a node that has nothing.
    fn fresh(&self) -> Repository {
        self.on(None)
    }

    fn on(&self, cache: Option<&Path>) -> Repository {
        let repo = Repository::open(self.store(), Arc::new(SystemEnv::new()), cache).unwrap();
        self.watched.reset();
        repo
    }

    fn collect(&self) -> GcReport {
        collect(&self.fresh(), &GcOptions::default(), &Silent).unwrap()
    }

    fn catalogues(&self) -> Vec<(String, Catalogue)> {
        let store = self.store();
        let listed = store.list("catalogue").unwrap().into_iter();
        let read = |name: String| {
            let bytes = store.get(&name, 64 << 20).unwrap();
            (name, Catalogue::decode(&bytes).unwrap())
        };
        listed.map(|object| read(object.name)).collect()
    }

    /// Lists on a fresh node, compares with what the records themselves say, and gives how many records were read.
    fn assert_lists_what_is_there(&self, when: &str) -> usize {
        let repo = self.fresh();
        let listed = ids(&repo);
        let reads = self.watched.count("get snapshots/");
        assert_eq!(listed, ids(&repo.without_copies()), "{when}");
        reads
    }
}

fn import_into(watched: &Watched, tar: &[u8]) -> SnapshotRecord {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.tar");
    fs::write(&path, tar).unwrap();
    let store = Store::new(Arc::new(watched.clone()), "bucket").unwrap();
    let repo = Repository::open(store, Arc::new(SystemEnv::new()), None).unwrap();
    let source = Source::at(&path).unwrap();
    let imported = import(&repo, source, &ImportOptions::default(), &Silent);
    imported.unwrap().snapshot
}

fn ids(repo: &Repository) -> BTreeSet<SnapshotId> {
    let list = repo.snapshots().unwrap();
    assert!(list.damaged.is_empty(), "{:?}", list.damaged);
    list.snapshots.iter().map(|record| record.id).collect()
}

#[test]
fn a_fresh_node_lists_ten_thousand_snapshots_with_a_few_requests() {
    let bucket = Bucket::with(MANY);
    bucket.collect();
    assert_eq!(bucket.catalogues().len(), 1);
    let repo = bucket.fresh();
    let list = repo.snapshots().unwrap();
    assert_eq!(list.snapshots.len() as u64, MANY);
    // Each list is one call here; S3 gives 1,000 objects a page, which makes ten of the first.
    assert_eq!(
        bucket.watched.log().len(),
        3,
        "the two lists and a catalogue: {:?}",
        bucket.watched.log()
    );
    let bytes = bucket.watched.bytes_read();
    assert!(bytes < MANY * 400, "{bytes} bytes were read");
    let found = list.find(&id(77).to_string(), &Filter::default()).unwrap();
    assert_eq!(found.labels, ["number=77"]);

    // A collection goes by the records themselves, which its node reads once, and has nothing to put.
    let cache = tempfile::tempdir().unwrap();
    for reads in [MANY, 0] {
        let repo = bucket.on(Some(cache.path()));
        collect(&repo, &GcOptions::default(), &Silent).unwrap();
        assert_eq!(bucket.watched.count("get snapshots/") as u64, reads);
        assert_eq!(bucket.watched.count("put catalogue/"), 0);
    }
}

#[test]
fn a_catalogue_that_says_of_snapshots_that_they_are_gone_makes_a_collection_remove_nothing() {
    let bucket = Bucket::with(40);
    bucket.collect();
    let (name, mut catalogue) = bucket.catalogues().remove(0);
    let before = bucket.store().list("").unwrap().len();
    for entry in &mut catalogue.entries {
        let tombstone = Tombstone {
            id: entry.place.snapshot,
            session: None,
            created: "2020-01-01T00:00:00Z".to_owned(),
            reason: "deleted".to_owned(),
        };
        let (kind, content) = Entry::content(&tombstone.encode().unwrap()).unwrap();
        (entry.kind, entry.content) = (kind, content);
    }
    let lie = catalogue.encode().unwrap();
    bucket.store().replace(&name, lie).unwrap();
    for _ in 0..2 {
        bucket.collect();
    }
    assert!(bucket.store().list("").unwrap().len() >= before);
    assert_eq!(ids(&bucket.fresh().without_copies()).len(), 40);
    let mut out = Vec::new();
    export(
        &bucket.fresh(),
        &bucket.first,
        Output::Stream(&mut out),
        &Silent,
    )
    .unwrap();
    assert!(out == bucket.tar);
}

#[test]
fn an_export_by_id_reads_one_record_its_manifest_and_its_frames() {
    let bucket = Bucket::with(MANY);
    for _ in 0..2 {
        let repo = bucket.fresh();
        let text = bucket.first.id.to_string();
        let found = repo.find(&text[..12], &Filter::default()).unwrap();
        assert_eq!(found.snapshot, bucket.first);
        let mut out = Vec::new();
        export(&repo, &found.snapshot, Output::Stream(&mut out), &Silent).unwrap();
        assert!(out == bucket.tar);
        assert_eq!(bucket.watched.count("list snapshots"), 1);
        assert_eq!(bucket.watched.count("get snapshots/"), 1);
        assert_eq!(bucket.watched.count("list catalogue"), 0);
        assert_eq!(
            bucket.watched.count("get manifests/"),
            1,
            "{:?}",
            bucket.watched.log()
        );
        let requests = bucket.watched.log().len();
        assert!(requests <= 12, "{:?}", bucket.watched.log());
        // With catalogues it is the same.
        bucket.collect();
    }
    let repo = bucket.fresh();
    for wrong in ["ffffffff", "xyz", "12", ""] {
        assert!(repo.find(wrong, &Filter::default()).is_err(), "{wrong}");
    }
    assert_eq!(bucket.watched.count("get snapshots/"), 0);
}

#[test]
fn the_start_of_several_ids_is_refused_with_all_of_them_and_deleted_ones_do_not_count() {
    let bucket = Bucket::with(1);
    let alike = [1, 2, 3].map(|n| {
        let mut bytes = [0xab; 16];
        bytes[15] = n;
        SnapshotId::from_bytes(bytes)
    });
    for id in alike {
        let record = SnapshotRecord {
            id,
            ..bucket.first.clone()
        };
        let bytes = record.encode().unwrap();
        bucket.store().create(&name_of(&record), bytes).unwrap();
    }
    let repo = bucket.fresh();
    let find = || repo.find("ababab", &Filter::default());
    let refused = find().unwrap_err().to_string();
    assert!(alike.iter().all(|id| refused.contains(&id.to_string())));
    assert_eq!(
        repo.find(&alike[1].to_string(), &Filter::default())
            .unwrap()
            .id_len,
        32
    );
    repo.delete(&alike[..1], "test").unwrap();
    assert!(find().is_err());
    repo.delete(&alike[1..2], "test").unwrap();
    assert_eq!(find().unwrap().snapshot.id, alike[2]);
    // What a collection has freed is no candidate either.
    collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert_eq!(find().unwrap().snapshot.id, alike[2]);
    let other = Filter {
        pod: Some("another".to_owned()),
        ..Filter::default()
    };
    assert!(repo.find("ababab", &other).is_err());
}

#[test]
fn an_import_asks_for_no_catalogue_and_few_snapshots_make_none() {
    let bucket = Bucket::with(15);
    bucket.collect();
    assert_eq!(bucket.catalogues(), []);
    bucket.put(15);
    bucket.collect();
    assert_eq!(bucket.catalogues().len(), 1);
    bucket.watched.reset();
    import_into(&bucket.watched, &bucket.tar);
    let asked = bucket.watched.log();
    assert!(
        !asked.iter().any(|call| call.contains("catalogue")),
        "{asked:?}"
    );
}

#[test]
fn new_deleted_undeleted_and_freed_snapshots_are_listed_as_they_are_whatever_a_catalogue_remembers()
{
    let bucket = Bucket::with(60);
    bucket.collect();
    assert_eq!(bucket.assert_lists_what_is_there("all"), 0);

    bucket.put(60);
    bucket.put(61);
    assert_eq!(bucket.assert_lists_what_is_there("two are new"), 2);

    let repo = bucket.fresh();
    repo.delete(&[id(1), id(2), id(3)], "test").unwrap();
    bucket.assert_lists_what_is_there("three were deleted");
    assert_eq!(ids(&bucket.fresh()).len(), 59);

    let deleted = repo.snapshots_and_deleted().unwrap().deleted;
    let back = deleted.iter().find(|(record, _)| record.id == id(2));
    repo.undelete(&back.unwrap().0).unwrap();
    bucket.assert_lists_what_is_there("one was brought back");
    assert_eq!(ids(&bucket.fresh()).len(), 60);

    // The other two become tombstones.
    bucket.collect();
    bucket.assert_lists_what_is_there("two were freed");
    let listed = ids(&bucket.fresh());
    assert_eq!(listed.len(), 60);
    assert!(!listed.contains(&id(1)) && !listed.contains(&id(3)));
    assert_eq!(bucket.fresh().snapshots().unwrap().tombstones.len(), 2);
}

#[test]
fn tombstones_are_in_catalogues_too() {
    let bucket = Bucket::with(80);
    for n in 1..60 {
        let tombstone = Tombstone {
            id: id(n),
            session: None,
            // So that it is not over yet.
            created: "2999-01-01T00:00:00Z".to_owned(),
            reason: "deleted".to_owned(),
        };
        let lineage = Lineage::from_bytes([(n % 100) as u8; 16]);
        let name = format!("snapshots/{lineage}/{}", id(n));
        bucket
            .store()
            .replace(&name, tombstone.encode().unwrap())
            .unwrap();
    }
    bucket.collect();
    let repo = bucket.fresh();
    let list = repo.snapshots().unwrap();
    assert_eq!((list.snapshots.len(), list.tombstones.len()), (21, 59));
    assert_eq!(bucket.watched.count("get snapshots/"), 0);
}

#[test]
fn a_tombstone_as_long_as_the_record_that_was_there_is_not_taken_for_it() {
    let bucket = Bucket::with(40);
    bucket.collect();
    let name = format!("snapshots/{}/{}", Lineage::from_bytes([7; 16]), id(7));
    let len = bucket.store().get(&name, 1 << 20).unwrap().len();
    let tombstone = |(padding, seed): (usize, u64)| {
        let reason: String = noise(padding, seed)
            .iter()
            .map(|b| char::from(b'!' + b % 90))
            .collect();
        let tombstone = Tombstone {
            id: id(7),
            session: None,
            created: "2026-11-21T12:00:00Z".to_owned(),
            reason,
        };
        tombstone.encode().unwrap()
    };
    // Compressed, the lengths of longer and longer reasons leave some out: with one noise or
    // another, each is met.
    let same = (0..4000)
        .flat_map(|padding| (0..32).map(move |seed| (padding, seed)))
        .map(tombstone)
        .find(|bytes| bytes.len() == len);
    bucket.store().replace(&name, same.unwrap()).unwrap();
    assert_eq!(bucket.assert_lists_what_is_there("a tombstone"), 1);
    assert!(!ids(&bucket.fresh()).contains(&id(7)));
    assert!(
        bucket
            .fresh()
            .find(&id(7).to_string(), &Filter::default())
            .is_err()
    );
}

#[test]
fn where_lists_have_no_tags_all_records_are_read_and_no_catalogue_is_put() {
    let bucket = Bucket::with(40);
    bucket.collect();
    bucket.watched.list_without_tags();
    assert_eq!(bucket.assert_lists_what_is_there("no tags"), 40);
    bucket.collect();
    assert_eq!(bucket.watched.count("put catalogue/"), 0);
    assert_eq!(bucket.catalogues(), []);
}

#[test]
fn after_a_copy_of_the_bucket_the_records_are_read_until_a_collection_has_made_another_catalogue() {
    let bucket = Bucket::with(40);
    bucket.collect();
    let old = bucket.catalogues();
    let copy = Watched::new(Arc::new(InMemory::new()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut all: Vec<_> = bucket.watched.list(None).try_collect().await.unwrap();
        // In another order, so that the tags are others.
        all.reverse();
        for meta in all {
            let bytes = bucket.watched.get(&meta.location).await.unwrap();
            let bytes = bytes.bytes().await.unwrap();
            copy.put(&meta.location, bytes.into()).await.unwrap();
        }
    });
    let copy = Bucket {
        watched: copy,
        ..bucket
    };
    assert_eq!(copy.assert_lists_what_is_there("a copy"), 40);
    copy.collect();
    let new = copy.catalogues();
    assert_eq!(new.len(), 1);
    assert_ne!(new[0].0, old[0].0);
    assert_eq!(copy.assert_lists_what_is_there("a copy, collected"), 0);
}

#[test]
fn damaged_and_lying_catalogues_hide_nothing_and_a_collection_removes_what_cannot_be_read() {
    let bucket = Bucket::with(40);
    bucket.collect();
    let (name, good) = bucket.catalogues().remove(0);
    let object = bucket.store().get(&name, 64 << 20).unwrap().to_vec();

    // Entries for objects that are listed so, with another's content, a tombstone's or none.
    let lie = |change: fn(&mut Catalogue)| {
        let mut catalogue = good.clone();
        change(&mut catalogue);
        bucket
            .store()
            .replace(&name, catalogue.encode().unwrap())
            .unwrap();
        assert_eq!(bucket.assert_lists_what_is_there("a lie"), 40);
    };
    lie(|catalogue| {
        let last = catalogue.entries.last().unwrap().content.clone();
        let before = catalogue.entries.iter_mut();
        let contents = before.map(|entry| &mut entry.content);
        contents.fold(last, |before, content| std::mem::replace(content, before));
    });
    lie(|catalogue| {
        catalogue
            .entries
            .iter_mut()
            .for_each(|entry| entry.content.clear());
    });
    lie(|catalogue| {
        catalogue
            .entries
            .iter_mut()
            .for_each(|entry| entry.stored_len += 1)
    });
    lie(|catalogue| {
        catalogue
            .entries
            .iter_mut()
            .for_each(|entry| entry.tag.push('x'))
    });
    lie(|catalogue| catalogue.entries.clear());

    for (at, cut) in [(200, object.len()), (4, object.len()), (0, 100), (0, 0)] {
        let mut bad = object.clone();
        bad[at] ^= 0x40;
        bad.truncate(cut);
        bucket.store().replace(&name, bad).unwrap();
        assert_eq!(bucket.assert_lists_what_is_there("damage"), 40);
    }
    bucket
        .store()
        .replace("catalogue/notes.txt", &b"mine"[..])
        .unwrap();
    let report = bucket.collect();
    let removed = report.garbage.iter().find(|gone| gone.name == name);
    assert!(removed.unwrap().reason.contains("damaged"));
    assert!(report.foreign.contains(&"catalogue/notes.txt".to_owned()));
    bucket.store().delete("catalogue/notes.txt").unwrap();
    assert_eq!(bucket.catalogues().len(), 1);
    assert_eq!(bucket.assert_lists_what_is_there("afterwards"), 0);
    let report = check(&bucket.fresh(), &CheckOptions::default(), &Silent).unwrap();
    assert!(report.problems.is_empty() && report.foreign.is_empty());
}

#[test]
fn a_catalogue_whose_entries_say_nothing_is_replaced_by_what_the_records_say() {
    let bucket = Bucket::with(40);
    bucket.collect();
    let (name, mut catalogue) = bucket.catalogues().remove(0);
    let entries = catalogue.entries.iter_mut();
    entries.for_each(|entry| entry.content.clear());
    let store = bucket.store();
    store.replace(&name, catalogue.encode().unwrap()).unwrap();
    bucket.collect();
    assert_eq!(bucket.assert_lists_what_is_there("afterwards"), 0);
    let left = bucket.catalogues();
    assert!(left.len() == 1 && left[0].0 != name, "{left:?}");
}

#[test]
fn a_node_keeps_the_catalogues_and_reads_them_once() {
    let bucket = Bucket::with(40);
    bucket.collect();
    let cache = tempfile::tempdir().unwrap();
    for reads in [1, 0] {
        let repo = bucket.on(Some(cache.path()));
        assert_eq!(ids(&repo).len(), 40);
        assert_eq!(bucket.watched.count("get catalogue/"), reads);
        assert_eq!(bucket.watched.count("get snapshots/"), 0);
    }
}

#[test]
fn catalogues_are_merged_and_superseded_ones_go_with_the_run_after() {
    let bucket = Bucket::with(32);
    bucket.collect();
    let first = bucket.catalogues();
    (32..64).for_each(|n| bucket.put(n));
    bucket.collect();
    // The first is taken in, and is there still: somebody may be about to read it.
    let both = bucket.catalogues();
    assert_eq!(both.len(), 2);
    assert!(both.contains(&first[0]));
    bucket.collect();
    let merged = bucket.catalogues();
    assert_eq!(merged.len(), 1);
    assert_eq!(merged[0].1.entries.len(), 64);
    // One that comes back, because its put was applied late, goes again.
    let (name, catalogue) = &first[0];
    bucket
        .store()
        .create(name, catalogue.encode().unwrap())
        .unwrap();
    bucket.assert_lists_what_is_there("a late put");
    bucket.collect();
    assert_eq!(bucket.catalogues(), merged);
}

#[test]
fn a_dry_run_and_a_store_that_refuses_catalogues_change_nothing_else() {
    let bucket = Bucket::with(40);
    let options = GcOptions {
        dry_run: true,
        ..GcOptions::default()
    };
    collect(&bucket.fresh(), &options, &Silent).unwrap();
    assert_eq!(bucket.watched.writes(), 0);
    let repo = bucket.fresh();
    bucket.watched.fault_at(0, Fault::Refuse(1000));
    collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(bucket.watched.count("put catalogue/") > 0);
    assert_eq!(bucket.catalogues(), []);
    assert_eq!(ids(&bucket.fresh()).len(), 40);
}

#[test]
fn in_an_encrypted_repository_the_store_does_not_learn_what_is_in_a_catalogue() {
    let watched = Watched::new(Arc::new(InMemory::new()));
    let store = || Store::new(Arc::new(watched.clone()), "bucket").unwrap();
    cryostore_tests::init(&store(), Default::default());
    let repo = cryostore_tests::open(store(), None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for n in 0..17 {
        let path = dir.path().join("in.tar");
        fs::write(&path, checkpoint(&noise(4096, n), 4096)).unwrap();
        let options = ImportOptions {
            labels: vec!["swordfish".to_owned()],
            ..ImportOptions::default()
        };
        import(&repo, Source::at(&path).unwrap(), &options, &Silent).unwrap();
    }
    collect(&repo, &GcOptions::default(), &Silent).unwrap();
    let name = store().list("catalogue").unwrap().remove(0).name;
    let sealed = store().get(&name, 1 << 20).unwrap();
    assert!(!sealed.windows(9).any(|bytes| bytes == b"swordfish"));
    assert!(Catalogue::decode(&sealed).is_err());
    let fresh = || cryostore_tests::open(store(), None).unwrap();
    let count = |reads: usize| {
        let repo = fresh();
        watched.reset();
        assert_eq!(ids(&repo).len(), 17);
        assert_eq!(watched.count("get snapshots/"), reads);
    };
    count(0);
    // One that was sealed for another place, and one that is not sealed at all.
    store().delete(&name).unwrap();
    let other = format!("catalogue/{}", id(1));
    store().create(&other, sealed).unwrap();
    count(17);
    store()
        .replace(&other, Catalogue::default().encode().unwrap())
        .unwrap();
    count(17);
}
