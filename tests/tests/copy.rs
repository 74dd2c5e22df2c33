//! Copies between repositories: the same bytes and the same record under other keys, at the cost of what changed, however often they are ended and begun again.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::Write;
use std::sync::Arc;

use cryostore_engine::check::{CheckOptions, check};
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::{ArchiveKind, Original, SnapshotRecord};
use cryostore_engine::gc::{GcOptions, collect};
use cryostore_engine::{
    Copied, CopyOptions, Error, Filter, ImportOptions, Kind, Outcome, Repository, Silent, Source,
    Store, SystemEnv, copy, import,
};
use cryostore_tests::archives::{
    Count, TarBuilder, checkpoint, checkpoint_of, inventory, noise, pagemap, pstree,
};
use cryostore_tests::stores::{Fault, Watched};
use cryostore_tests::{Place, bytes_of};
use object_store::memory::InMemory;

/// Copies, and gives what became of each.
fn copies(from: &Repository, to: &Repository, wanted: Option<Vec<SnapshotId>>) -> Vec<Copied> {
    let mut out = Vec::new();
    let options = CopyOptions {
        wanted,
        ..CopyOptions::default()
    };
    copy(from, to, &options, &mut |one| out.push(one), &Silent).unwrap();
    out
}

fn made(copied: &Copied) -> &SnapshotRecord {
    match &copied.outcome {
        Outcome::Copied(record) => record,
        other => panic!("{other:?}"),
    }
}

fn counts(done: &[Copied]) -> (usize, usize, usize) {
    let count = |is: fn(&Outcome) -> bool| done.iter().filter(|one| is(&one.outcome)).count();
    (
        count(|outcome| matches!(outcome, Outcome::Copied(_))),
        count(|outcome| matches!(outcome, Outcome::There(_))),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
    )
}

/// Some pages anew, some changed a little.
fn version(n: u64) -> Vec<u8> {
    let mut pages = noise(600 * 4096, 1);
    for (k, page) in (0_u64..).zip(pages.chunks_mut(4096)) {
        if k % 60 < n {
            page[100..108].copy_from_slice(&(n * 1_000_003 + k).to_le_bytes());
        }
        if k == n {
            page.copy_from_slice(&noise(4096, 1000 + n));
        }
    }
    checkpoint(&pages, 4096)
}

#[test]
fn a_copy_has_the_bytes_and_the_record_of_the_original_whatever_is_encrypted() {
    for (from, to) in [
        (Place::new(), Place::new()),
        (Place::new(), Place::in_clear()),
        (Place::in_clear(), Place::new()),
        (Place::in_clear(), Place::in_clear()),
    ] {
        let tar = checkpoint(&noise(50 * 4096, 1), 4096);
        fs::write(from.path("a.tar"), &tar).unwrap();
        let options = ImportOptions {
            labels: vec!["before-upgrade".to_owned()],
            group: Some("all".to_owned()),
            attachments: vec![("pod.json".to_owned(), b"{\"a\": 1}".to_vec())],
            ..ImportOptions::default()
        };
        let source = from.import_with(&from.path("a.tar"), &options, &Silent);
        let source = source.unwrap().snapshot;
        let done = copies(&from.open(), &to.open(), None);
        let copy = made(&done[0]);
        assert!(to.bytes_of(copy) == tar);
        assert_ne!(copy.id, source.id);
        assert_eq!(
            copy.original,
            Some(Original {
                id: source.id,
                repository: from.open().record().id,
            })
        );
        // Where it is stored and what that cost is all that differs.
        let mut expected = source.clone();
        expected.id = copy.id;
        expected.lineage = copy.lineage;
        expected.session = copy.session;
        expected.manifest = copy.manifest.clone();
        expected.cost = copy.cost;
        expected.original = copy.original;
        assert_eq!(*copy, expected);
        assert_eq!(copy.lineage, to.open().key().lineage("", "", "work"));
        let reader = cryostore_engine::CheckpointReader::open(&to.open(), copy).map(|reader| {
            let pod = reader.read_member(b"pod.json", 100).unwrap();
            assert_eq!(pod.unwrap(), b"{\"a\": 1}");
        });
        reader.unwrap();
        // Found by either id.
        for id in [source.id, copy.id] {
            let found = to.open().find(&id.to_string()[..10], &Filter::default());
            assert_eq!(found.unwrap().snapshot, *copy);
        }
        let report = check(&to.open(), &CheckOptions { read_data: true }, &Silent).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        // In both is nobody at work any more.
        assert!(from.open().sessions().unwrap().is_empty());
        assert!(to.open().sessions().unwrap().is_empty());
    }
}

#[test]
fn directories_compressed_tars_and_what_is_no_tar_of_a_checkpoint_come_as_what_they_were() {
    let (from, to) = (Place::new(), Place::new());
    let dir = from.path("images");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("inventory.img"), inventory(2)).unwrap();
    fs::write(dir.join("notes.txt"), noise(70_000, 3)).unwrap();
    let tar = checkpoint(&noise(80 * 4096, 5), 4096);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    fs::write(from.path("b.tar.gz"), gzip.finish().unwrap()).unwrap();
    fs::write(
        from.path("c.tar.zst"),
        zstd::encode_all(&tar[..], 1).unwrap(),
    )
    .unwrap();
    let odd = TarBuilder::new().file("a", &noise(5000, 6)).unended();
    fs::write(from.path("odd.tar"), odd).unwrap();
    for name in ["images", "b.tar.gz", "c.tar.zst", "odd.tar"] {
        from.import(&from.path(name)).unwrap();
    }
    let done = copies(&from.open(), &to.open(), None);
    assert_eq!(counts(&done), (4, 0, 0));
    for one in &done {
        let copy = made(one);
        assert_eq!(copy.archive, one.source.archive);
        assert_eq!(copy.producer, one.source.producer);
        assert_eq!(copy.warnings, one.source.warnings);
        assert!(to.bytes_of(copy) == from.bytes_of(&one.source));
    }
    let kinds: Vec<_> = done.iter().map(|one| made(one).archive.kind).collect();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == ArchiveKind::Directory)
            .count(),
        1
    );
}

#[test]
fn a_second_copy_of_a_series_costs_what_changed() {
    let (from, to) = (Place::new(), Place::new());
    for n in 0..4 {
        from.import_bytes("a.tar", &version(n)).unwrap();
    }
    let done = copies(&from.open(), &to.open(), None);
    assert_eq!(counts(&done), (4, 0, 0));
    assert!(
        done.windows(2)
            .all(|pair| pair[0].source.created <= pair[1].source.created)
    );
    // As small there as where they were imported.
    let (here, there) = (from.stored_bytes(), to.stored_bytes());
    assert!(there * 100 < here * 105, "{there} of {here} bytes");

    let imported = from.import_bytes("a.tar", &version(4)).unwrap().snapshot;
    let done = copies(&from.open(), &to.open(), None);
    assert_eq!(counts(&done), (1, 4, 0));
    let copy = made(&done[4]);
    assert!(to.bytes_of(copy) == version(4));
    assert!(copy.base.is_some());
    let (here, there) = (imported.cost.bytes_added, copy.cost.bytes_added);
    assert!(there * 100 < here * 110, "{there} bytes instead of {here}");
    assert!(copy.cost.classes.delta.pages > 0);
    // All of it again: nothing is put but the sessions' and marks of nobody.
    let before = to.objects("");
    assert_eq!(counts(&copies(&from.open(), &to.open(), None)), (0, 5, 0));
    assert_eq!(to.objects(""), before);
}

#[test]
fn copies_of_copies_and_back_know_the_first_original() {
    let places = [Place::new(), Place::new(), Place::in_clear()];
    let [a, b, c] = &places;
    let first = a.import_bytes("a.tar", &version(0)).unwrap().snapshot;
    copies(&a.open(), &b.open(), None);
    let done = copies(&b.open(), &c.open(), None);
    let original = made(&done[0]).original.unwrap();
    assert_eq!(
        (original.id, original.repository),
        (first.id, a.open().record().id)
    );
    for (from, to) in [(c, a), (c, b), (b, a), (a, c)] {
        assert_eq!(counts(&copies(&from.open(), &to.open(), None)), (0, 1, 0));
    }
}

#[test]
fn the_same_repository_is_refused_and_so_is_an_id_that_is_not_there() {
    let (from, to) = (Place::new(), Place::new());
    from.import_bytes("a.tar", &version(0)).unwrap();
    let run = |to: &Repository, wanted| {
        let options = CopyOptions {
            wanted,
            ..CopyOptions::default()
        };
        copy(
            &from.open(),
            to,
            &options,
            &mut |_| panic!("one was copied"),
            &Silent,
        )
        .unwrap_err()
    };
    assert_eq!(run(&from.open(), None).kind(), Kind::Invalid);
    let nobody = Some(vec![SnapshotId::from_bytes([9; 16])]);
    assert_eq!(run(&to.open(), nobody).kind(), Kind::NotFound);
    assert_eq!(
        counts(&copies(&from.open(), &to.open(), Some(Vec::new()))),
        (0, 0, 0)
    );
    assert_eq!(to.open().snapshots().unwrap().snapshots, []);
}

#[test]
fn a_damaged_snapshot_is_named_nothing_of_it_is_committed_and_the_others_are_copied() {
    for place in [Place::new(), Place::in_clear()] {
        let to = Place::new();
        let mut damaged = None;
        for (name, seed) in [("one", 1), ("two", 2), ("three", 3)] {
            let before: Vec<_> = place.objects("packs");
            let tar = checkpoint_of(name, &noise(40 * 4096, seed), 4096);
            let imported = place.import_bytes("a.tar", &tar).unwrap();
            if name == "two" {
                let after = place.objects("packs");
                let new = after.iter().find(|pack| !before.contains(pack));
                damaged = Some((imported.snapshot.id, new.unwrap().0.clone()));
            }
        }
        let (id, pack) = damaged.unwrap();
        let path = place.store_dir().join(pack);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 4;
        fs::write(&path, bad).unwrap();
        let done = copies(&place.open(), &to.open(), None);
        assert_eq!(counts(&done), (2, 0, 1));
        let failed = done.iter().find(|one| one.source.id == id).unwrap();
        let Outcome::Failed(e) = &failed.outcome else {
            panic!("{failed:?}");
        };
        assert_eq!(e.kind(), Kind::Corrupt, "{e}");
        assert_eq!(to.open().snapshots().unwrap().snapshots.len(), 2);
        assert!(to.open().sessions().unwrap().is_empty());
        // Whole again, only it is missing.
        fs::write(&path, good).unwrap();
        assert_eq!(counts(&copies(&place.open(), &to.open(), None)), (1, 2, 0));
    }
}

#[test]
fn what_was_deleted_in_the_target_can_be_copied_again_also_after_it_was_freed() {
    let (from, to) = (Place::new(), Place::new());
    from.import_bytes("a.tar", &version(0)).unwrap();
    for collected in [false, true] {
        let done = copies(&from.open(), &to.open(), None);
        let id = made(&done[0]).id;
        to.open().delete(&[id], "test").unwrap();
        if collected {
            collect(&to.open(), &GcOptions::default(), &Silent).unwrap();
        }
    }
    let done = copies(&from.open(), &to.open(), None);
    assert!(to.bytes_of(made(&done[0])) == version(0));
}

struct Buckets {
    from: Watched,
    to: Watched,
}

impl Buckets {
    fn new() -> Self {
        let new = Self {
            from: Watched::new(Arc::new(InMemory::new())),
            to: Watched::new(Arc::new(InMemory::new())),
        };
        for watched in [&new.from, &new.to] {
            Repository::init(&store(watched), &SystemEnv::new()).unwrap();
        }
        new
    }

    fn import(&self, tar: &[u8]) -> SnapshotRecord {
        let source = Source::Stream(Box::new(std::io::Cursor::new(tar.to_vec())));
        let done = import(
            &open(&self.from),
            source,
            &ImportOptions::default(),
            &Silent,
        );
        done.unwrap().snapshot
    }

    fn copy(&self) -> Result<Vec<Copied>, Error> {
        let mut out = Vec::new();
        let (from, to) = (open(&self.from), open(&self.to));
        let options = CopyOptions::default();
        copy(&from, &to, &options, &mut |one| out.push(one), &Silent)?;
        Ok(out)
    }

    fn assert_both(&self, tars: &[Vec<u8>], when: &str) {
        let repo = open(&self.to);
        let list = repo.snapshots().unwrap().snapshots;
        assert_eq!(list.len(), tars.len(), "{when}");
        for record in &list {
            let bytes = bytes_of(&repo, record, &Silent).unwrap();
            assert!(tars.contains(&bytes), "{when}");
        }
    }
}

fn store(watched: &Watched) -> Store {
    Store::new(Arc::new(watched.clone()), "bucket").unwrap()
}

fn open(watched: &Watched) -> Repository {
    Repository::open(store(watched), Arc::new(SystemEnv::new()), None).unwrap()
}

#[test]
fn a_copy_that_is_killed_at_any_call_or_loses_any_reply_goes_on_when_it_is_started_again() {
    let tars = [1, 2].map(|n| checkpoint_of(&format!("c{n}"), &noise(20 * 4096, n), 4096));
    for fault in [Fault::Stop, Fault::LoseReply, Fault::Fail] {
        let mut n = 0;
        loop {
            let buckets = Buckets::new();
            tars.iter().for_each(|tar| drop(buckets.import(tar)));
            buckets.to.fault_at(n, fault);
            let first = buckets.copy();
            let calls = buckets.to.writes();
            buckets.to.reset();
            let there = open(&buckets.to).snapshots().unwrap().snapshots.len();
            let when = format!("{fault:?} at call {n}, {there} were there");
            if let Ok(done) = &first {
                let (copied, ..) = counts(done);
                assert_eq!(copied, there, "{when}");
            }
            let again = buckets.copy().unwrap();
            assert_eq!(counts(&again), (2 - there, there, 0), "{when}");
            buckets.assert_both(&tars, &when);
            n += 1;
            if n > calls {
                break;
            }
        }
        assert!(n > 10, "{fault:?}: {n} calls");
    }
}

#[test]
fn two_copies_at_once_lose_nothing_and_store_nothing_twice_that_is_large() {
    let buckets = Buckets::new();
    let tars: Vec<_> = (1..4)
        .map(|n| checkpoint_of(&format!("c{n}"), &noise(20 * 4096, n), 4096))
        .collect();
    tars.iter().for_each(|tar| drop(buckets.import(tar)));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| buckets.copy().unwrap());
        }
    });
    let repo = open(&buckets.to);
    let list = repo.snapshots().unwrap().snapshots;
    for tar in &tars {
        let has = |record: &&SnapshotRecord| bytes_of(&repo, record, &Silent).unwrap() == *tar;
        assert!((1..=2).contains(&list.iter().filter(has).count()));
    }
    assert_eq!(counts(&buckets.copy().unwrap()), (0, 3, 0));
}

#[test]
fn bytes_that_change_on_their_way_are_never_committed() {
    let buckets = Buckets::new();
    let record = buckets.import(&version(0));
    // The record says another digest than the manifest: every frame is whole, and the archive that comes is not the one that was imported.
    let mut lying = record.clone();
    lying.archive.digest = Some(cryostore_engine::format::Digest::of(b"another"));
    let name = store(&buckets.from)
        .list("snapshots")
        .unwrap()
        .remove(0)
        .name;
    store(&buckets.from)
        .replace(&name, lying.encode().unwrap())
        .unwrap();
    let done = buckets.copy().unwrap();
    let Outcome::Failed(e) = &done[0].outcome else {
        panic!("{done:?}");
    };
    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
    buckets.assert_both(&[], "a lie");
}

/// A dump whose pages are partly in its parent: address, pages, flags.
fn dump(entries: &[(u64, u64, u64)], pages: &[u8]) -> Vec<u8> {
    TarBuilder::new()
        .file("config.dump", br#"{"name":"incremental"}"#)
        .file("checkpoint/inventory.img", &inventory(2))
        .file("checkpoint/pstree.img", &pstree(&[1]))
        .file("checkpoint/pagemap-1.img", &pagemap(1, entries, Count::New))
        .file("checkpoint/pages-1.img", pages)
        .end()
}

#[test]
fn what_a_snapshot_requires_is_copied_before_it_also_when_only_the_later_one_was_said() {
    let (from, to) = (Place::new(), Place::new());
    let parent = dump(&[(0x10_0000, 8, 4)], &noise(8 * 4096, 1));
    let child = dump(&[(0x10_0000, 4, 1), (0x10_4000, 4, 4)], &noise(4 * 4096, 2));
    let parent = from.import_bytes("parent.tar", &parent).unwrap().snapshot;
    let child = from.import_bytes("child.tar", &child).unwrap().snapshot;
    assert_eq!(child.requires, Some(parent.id));
    let done = copies(&from.open(), &to.open(), Some(vec![child.id]));
    assert_eq!(counts(&done), (2, 0, 0));
    assert_eq!(done[0].source.id, parent.id);
    assert_eq!(made(&done[1]).requires, Some(made(&done[0]).id));
    // There it must not be deleted alone, either.
    let refused = to.open().delete(&[made(&done[0]).id], "test").unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    // And on to a third, from the copies.
    let third = Place::new();
    let last = copies(&to.open(), &third.open(), Some(vec![made(&done[1]).id]));
    assert_eq!(made(&last[1]).requires, Some(made(&last[0]).id));
    assert!(third.bytes_of(made(&last[1])) == from.bytes_of(&child));
}

#[test]
fn a_copy_reads_each_pack_of_the_source_once_and_takes_an_ordinary_imports_requests() {
    let buckets = Buckets::new();
    for n in 0..3 {
        buckets.import(&version(n));
    }
    buckets.copy().unwrap();
    buckets.import(&version(3));
    buckets.from.reset();
    buckets.to.reset();
    let done = buckets.copy().unwrap();
    assert_eq!(counts(&done), (1, 3, 0));
    let (read, put) = (buckets.from.log(), buckets.to.log());
    assert!(read.len() <= 30, "{read:?}");
    let puts = put.iter().filter(|call| call.starts_with("put")).count();
    assert!(puts <= 6, "{put:?}");
}

#[test]
fn what_came_as_streams_and_has_no_digest_of_the_whole_is_copied_and_has_one_there() {
    let (from, to) = (Place::new(), Place::new());
    let repo = from.open();
    let mut streams =
        cryostore_engine::StreamImport::begin(&repo, ImportOptions::default(), &Silent).unwrap();
    let stream = streams.stream(b"notes").unwrap();
    streams.write(stream, &noise(9000, 4)).unwrap();
    streams.end(stream).unwrap();
    let record = streams.commit().unwrap().snapshot;
    assert_eq!(record.archive.digest, None);
    let done = copies(&repo, &to.open(), None);
    assert!(made(&done[0]).archive.digest.is_some());
    assert!(to.bytes_of(made(&done[0])) == from.bytes_of(&record));
}
