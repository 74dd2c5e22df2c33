//! Pages that changed a little are stored as what changed, and come back whatever became of the checkpoints between.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;

use cryostore_engine::check::{self, CheckOptions};
use cryostore_engine::format::PackId;
use cryostore_engine::format::manifest::Manifest;
use cryostore_engine::format::recipe::{FrameRef, Slice};
use cryostore_engine::format::repository::Defaults;
use cryostore_engine::format::snapshot::{Cost, SnapshotRecord};
use cryostore_engine::gc::{self, GcOptions};
use cryostore_engine::{
    BaseChoice, CheckpointReader, ImportOptions, Repository, Silent, Source, import,
};
use cryostore_tests::archives::{checkpoint_of, noise};
use cryostore_tests::{Place, bytes_of, open_at};

const PAGES: usize = 300;

fn object_name(pack: PackId) -> String {
    let id = pack.to_string();
    format!("packs/{}/{id}", &id[..2])
}

/// A heap of which some pages change a little with each step, and a few wholly.
struct Heap {
    pages: Vec<u8>,
    step: u64,
}

impl Heap {
    fn new() -> Self {
        Self {
            pages: noise(PAGES * 4096, 1),
            step: 0,
        }
    }

    fn next(&mut self) -> Vec<u8> {
        self.step += 1;
        for (n, page) in self.pages.chunks_mut(4096).enumerate() {
            let n = n as u64;
            if (n * 7 + self.step * 13) % 5 < 2 {
                page[(n * 31 + self.step * 101) as usize % 4096] ^= self.step as u8 | 1;
            }
            if (n + self.step).is_multiple_of(97) {
                page.copy_from_slice(&noise(4096, n * 1000 + self.step));
            }
        }
        checkpoint_of("heap", &self.pages, 4096)
    }
}

fn series(place: &Place, count: usize) -> Vec<(SnapshotRecord, Vec<u8>)> {
    let mut heap = Heap::new();
    (0..count)
        .map(|_| {
            let tar = heap.next();
            (place.import_bytes("in.tar", &tar).unwrap().snapshot, tar)
        })
        .collect()
}

/// How many deltas a page of a frame has behind it.
fn chain(manifest: &Manifest, frame: &FrameRef, number: u64) -> usize {
    let Some(delta) = manifest.deltas.get(frame) else {
        return 0;
    };
    let mut start = 0;
    for run in &delta.bases {
        let pages = run.base.len() / u64::from(delta.page_size);
        if number < start + pages {
            return match &run.base {
                Slice::Frame(base) => {
                    1 + chain(manifest, &base.frame, u64::from(base.skip) + number - start)
                }
                Slice::Zero { .. } => 0,
            };
        }
        start += pages;
    }
    panic!("page {number} has no base");
}

fn longest_chain(manifest: &Manifest) -> usize {
    let frames = manifest.deltas.frames().iter();
    let pages = frames.flat_map(|d| (0..u64::from(d.frame.chunks)).map(|n| (d.frame, n)));
    pages
        .map(|(frame, n)| chain(manifest, &frame, n))
        .max()
        .unwrap_or(0)
}

fn assert_no_problem(place: &Place) {
    let report = check::check(&place.open(), &CheckOptions { read_data: true }, &Silent).unwrap();
    assert_eq!(report.problems, []);
}

/// From a pipe, as it were.
fn import_as(repo: &Repository, tar: &[u8], options: &ImportOptions) -> SnapshotRecord {
    let source = Source::Stream(Box::new(std::io::Cursor::new(tar.to_vec())));
    import(repo, source, options, &Silent).unwrap().snapshot
}

fn needed_packs(all: &[(SnapshotRecord, Vec<u8>)]) -> Vec<u64> {
    let needed = all.iter().map(|(record, _)| record.cost.packs_needed);
    needed.map(Option::unwrap_or_default).collect()
}

#[test]
fn a_long_series_comes_back_in_any_order_and_stays_small() {
    let place = Place::new();
    // After 127 imports with deltas all pages are made of plain ones again.
    let all = series(&place, 140);
    for n in (0..all.len()).rev().step_by(19).chain([1, 64, 63]) {
        assert!(place.bytes_of(&all[n].0) == all[n].1, "checkpoint {n}");
    }
    let repo = place.open();
    for (n, (record, _)) in all
        .iter()
        .enumerate()
        .step_by(7)
        .chain(all.iter().enumerate().skip(125))
    {
        let manifest = repo.manifest(record).unwrap();
        assert!(longest_chain(&manifest) <= 10, "checkpoint {n}");
        let packs: BTreeSet<_> = manifest
            .deltas
            .frames()
            .iter()
            .map(|d| d.frame.pack)
            .collect();
        assert!(
            packs.len() <= 10 && manifest.tables.len() <= 10,
            "checkpoint {n}: {} packs",
            packs.len()
        );
    }
    // Each import leaves a small pack. Every sixteenth import makes the deltas anew that stand on them, and stores what is needed of them again, together; none before does,
    // which would have to make most deltas anew.
    let needed = needed_packs(&all);
    assert!(
        needed.iter().all(|packs| (1..=40).contains(packs)),
        "{needed:?}"
    );
    let added: Vec<u64> = all
        .iter()
        .map(|(record, _)| record.cost.bytes_added)
        .collect();
    let between = (1..added.len()).filter(|n| !n.is_multiple_of(16));
    let most = between.map(|n| added[n]).max().unwrap();
    let sixteenth = added.iter().step_by(16).skip(1).min().unwrap();
    assert!(most < 2 * added[1] && most < *sixteenth, "{added:?}");
    let (second, later) = (&all[1].0.cost, &all[61].0.cost);
    let pages = |cost: &Cost| (cost.classes.delta.pages, cost.classes.new.pages);
    assert!(pages(second).0 > 110 && pages(second).1 < 10, "{second:?}");
    assert!(second.bytes_added < 50 << 10, "{second:?}");
    assert!(later.bytes_added < 2 * second.bytes_added, "{later:?}");
    assert_no_problem(&place);
}

#[test]
fn pages_that_are_stored_again_are_the_same_and_free_what_made_them_before() {
    let place = Place::new();
    let mut pages = noise(PAGES * 4096, 1);
    // The imports 1, 2 and 3 change 10 pages each; the fourth, made of what is plain, takes their place.
    let mut import = |from: usize| {
        for page in pages[from * 4096..(from + 10) * 4096].chunks_mut(4096) {
            page[7] ^= 1;
        }
        let tar = checkpoint_of("heap", &pages, 4096);
        (place.import_bytes("in.tar", &tar).unwrap().snapshot, tar)
    };
    let all: Vec<_> = [290, 0, 10, 20, 30].map(&mut import).into();
    let (last, tar) = &all[4];
    let classes = last.cost.classes;
    assert_eq!(
        (classes.delta.pages, classes.new.pages),
        (10, 0),
        "{classes:?}"
    );
    assert_eq!(classes.same.pages, PAGES as u64 - 10);
    let manifest = place.open().manifest(last).unwrap();
    let made: u64 = manifest
        .deltas
        .frames()
        .iter()
        .map(|d| u64::from(d.frame.chunks))
        .sum();
    assert_eq!((manifest.tables.len(), made), (1, 40));
    assert_eq!(longest_chain(&manifest), 1);
    let ids: Vec<_> = all[1..4].iter().map(|(record, _)| record.id).collect();
    let repo = place.open();
    repo.delete(&ids, "test").unwrap();
    let report = gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    let packs = report
        .garbage
        .iter()
        .filter(|g| g.name.starts_with("packs/"));
    assert!(packs.count() >= 3, "{:?}", report.garbage);
    assert!(place.bytes_of(last) == *tar);
    assert_no_problem(&place);
}

#[test]
fn what_is_left_after_deletion_and_collection_is_whole() {
    let place = Place::new();
    let all = series(&place, 20);
    let (old, kept) = all.split_at(17);
    let repo = place.open();
    let ids: Vec<_> = old.iter().map(|(record, _)| record.id).collect();
    repo.delete(&ids, "test").unwrap();
    let report = gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(report.bytes > 0);
    for (record, tar) in kept {
        assert!(place.bytes_of(record) == *tar);
    }
    assert_no_problem(&place);
}

#[test]
fn pages_of_deltas_can_be_read_alone() {
    let place = Place::new();
    let all = series(&place, 7);
    let (record, tar) = all.last().unwrap();
    let repo = place.open();
    let reader = CheckpointReader::open(&repo, record).unwrap();
    for at in (0..tar.len()).step_by(77_777) {
        let mut out = vec![0; 10_000.min(tar.len() - at)];
        assert_eq!(reader.read_at(at as u64, &mut out).unwrap(), out.len());
        assert!(out == tar[at..at + out.len()], "at {at}");
    }
}

#[test]
fn a_node_that_does_not_have_the_ids_of_deltas_finds_the_same_pages() {
    let place = Place::new();
    let all = series(&place, 4);
    let (_, tar) = all.last().unwrap();
    for cache in [Some(place.path("other-cache")), None] {
        let repo = open_at(&place.store_dir(), cache.as_deref()).unwrap();
        let again = import_as(&repo, tar, &ImportOptions::default());
        let classes = again.cost.classes;
        assert_eq!(classes.same.pages, PAGES as u64, "{classes:?}");
        assert_eq!(again.cost.packs_added, 0);
        assert!(bytes_of(&repo, &again, &Silent).unwrap() == *tar);
    }
}

#[test]
fn without_deltas_a_changed_page_is_stored_whole() {
    let place = Place::new();
    let mut heap = Heap::new();
    place.import_bytes("in.tar", &heap.next()).unwrap();
    let tar = heap.next();
    let options = ImportOptions {
        deltas: Some(false),
        ..ImportOptions::default()
    };
    let repo = place.open();
    let second = import_as(&repo, &tar, &options);
    assert_eq!(second.cost.classes.delta.pages, 0);
    assert!(second.cost.classes.new.pages > 110);
    assert_eq!(repo.manifest(&second).unwrap().tables, []);
    assert!(place.bytes_of(&second) == tar);
}

#[test]
fn a_damaged_base_is_named_with_every_snapshot_made_of_it() {
    let place = Place::new();
    let all = series(&place, 4);
    let repo = place.open();
    let first = repo.manifest(&all[0].0).unwrap();
    let pack = object_name(first.packs[0]);
    let path = place.store_dir().join(&pack);
    let mut bytes = fs::read(&path).unwrap();
    // In the payload of a frame of pages.
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let report = check::check(&place.open(), &CheckOptions { read_data: true }, &Silent).unwrap();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert_eq!(report.problems[0].object, pack);
    assert_eq!(report.lost_snapshots.len(), all.len());
    for (record, _) in &all {
        let e = bytes_of(&place.open(), record, &Silent).unwrap_err();
        assert!(e.to_string().contains(&pack), "{e}");
    }
}

#[test]
fn a_base_that_is_gone_costs_space_and_not_the_import() {
    let place = Place::new();
    let mut heap = Heap::new();
    let first = place.import_bytes("in.tar", &heap.next()).unwrap().snapshot;
    place.import_bytes("in.tar", &heap.next()).unwrap();
    let pack = place.open().manifest(&first).unwrap().packs[0];
    let path = place.store_dir().join(object_name(pack));
    fs::remove_file(path).unwrap();
    let tar = heap.next();
    let third = place.import_bytes("in.tar", &tar).unwrap().snapshot;
    assert!(place.bytes_of(&third) == tar);
    let manifest = place.open().manifest(&third).unwrap();
    assert!(!manifest.packs.contains(&pack));
}

#[test]
fn a_repository_says_whether_its_imports_make_deltas_and_an_import_may_say_otherwise() {
    let place = Place::with(Defaults { deltas: false });
    let mut heap = Heap::new();
    place.import_bytes("in.tar", &heap.next()).unwrap();
    for (wanted, made) in [(None, false), (Some(true), true), (Some(false), false)] {
        let options = ImportOptions {
            deltas: wanted,
            ..ImportOptions::default()
        };
        let tar = heap.next();
        let record = import_as(&place.open(), &tar, &options);
        assert_eq!(record.cost.classes.delta.pages > 0, made, "{wanted:?}");
        assert!(place.bytes_of(&record) == tar);
    }
}

#[test]
fn a_base_of_another_container_or_page_size_is_as_good_as_it_can_be() {
    let place = Place::new();
    let all = series(&place, 3);
    let mut heap = Heap::new();
    heap.step = 3;
    heap.next();
    for (name, page_size) in [("other", 4096), ("heap", 16384), ("other", 65536)] {
        let tar = checkpoint_of(name, &heap.pages, page_size);
        let options = ImportOptions {
            base: BaseChoice::Snapshot(all[2].0.id.to_string()),
            ..ImportOptions::default()
        };
        let record = import_as(&place.open(), &tar, &options);
        assert_eq!(record.base, Some(all[2].0.id));
        assert!(place.bytes_of(&record) == tar, "{name}, {page_size}");
    }
    assert_no_problem(&place);
}

#[test]
fn a_cache_full_of_garbage_costs_time_and_no_checkpoint() {
    let place = Place::new();
    let mut heap = Heap::new();
    for _ in 0..4 {
        place.import_bytes("in.tar", &heap.next()).unwrap();
    }
    let mut dirs = vec![place.cache_dir()];
    let mut spoilt = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let len = fs::metadata(&path).unwrap().len() as usize;
                fs::write(&path, noise(len, spoilt)).unwrap();
                spoilt += 1;
            }
        }
    }
    assert!(spoilt > 8, "{spoilt} files");
    for _ in 0..2 {
        let tar = heap.next();
        let record = place.import_bytes("in.tar", &tar).unwrap().snapshot;
        assert!(place.bytes_of(&record) == tar);
        let classes = record.cost.classes;
        assert!(
            classes.delta.pages > 100 && classes.new.pages < 10,
            "{classes:?}"
        );
    }
    assert_no_problem(&place);
}

/// So much differs that the first table lies in the second pack of deltas.
#[test]
fn a_table_in_a_pack_that_is_not_whole_costs_space_and_not_the_checkpoint() {
    const COUNT: usize = 9000;
    let place = Place::new();
    let mut pages = noise(COUNT * 4096, 1);
    let first = checkpoint_of("heap", &pages, 4096);
    place.import_bytes("in.tar", &first).unwrap();
    let new = noise(COUNT * 2048, 2);
    for (page, new) in pages.chunks_mut(4096).zip(new.chunks(2048)) {
        page[..2040].copy_from_slice(&new[..2040]);
    }
    let tar = checkpoint_of("heap", &pages, 4096);
    let second = place.import_bytes("in.tar", &tar).unwrap().snapshot;
    let manifest = place.open().manifest(&second).unwrap();
    let of_frames: BTreeSet<u32> = manifest
        .deltas
        .frames()
        .iter()
        .map(|d| d.frame.pack)
        .collect();
    let (table, _) = manifest.tables.last().unwrap();
    assert!(of_frames.len() == 2 && manifest.deltas.frames()[0].frame.pack != table.pack);
    // A byte more than its directory says: the pack is not referred to any more, though all in it can be read.
    let path = place
        .store_dir()
        .join(object_name(manifest.packs[table.pack as usize]));
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(0);
    fs::write(&path, bytes).unwrap();
    pages[10 * 4096] ^= 1;
    let changed = checkpoint_of("heap", &pages, 4096);
    for tar in [&tar, &changed, &changed] {
        let record = place.import_bytes("in.tar", tar).unwrap().snapshot;
        assert!(place.bytes_of(&record) == *tar);
    }
}

/// Tables hold 128 frames of 128 pages. One whose later half is needed no more names bases in a table that nothing needs any more.
#[test]
fn deltas_whose_bases_are_needed_no_more_are_passed_over() {
    const REWRITTEN: usize = 19_800;
    let place = Place::new();
    let mut pages = noise(20_000 * 4096, 1);
    let change = |pages: &mut Vec<u8>, from: usize, at: usize| {
        for page in pages[from * 4096..].chunks_mut(4096) {
            page[at] ^= 1;
        }
    };
    let mut all = Vec::new();
    for step in 0..5 {
        match step {
            0 => {}
            1 | 2 => change(&mut pages, 0, step),
            3 => change(&mut pages, 15_000, step),
            _ => pages[..REWRITTEN * 4096].copy_from_slice(&noise(REWRITTEN * 4096, 2)),
        }
        let tar = checkpoint_of("heap", &pages, 4096);
        all.push(place.import_bytes("in.tar", &tar).unwrap().snapshot);
    }
    let tar = checkpoint_of("heap", &pages, 4096);
    let manifest = place.open().manifest(&all[4]).unwrap();
    let before = place.open().manifest(&all[3]).unwrap();
    let (now, then) = (manifest.tables.len(), before.tables.len());
    assert!(now < then, "{now} tables of {then}");
    let frames = |manifest: &Manifest| manifest.deltas.frames().len();
    assert!(frames(&manifest) > 0 && frames(&manifest) < frames(&before));
    assert!(place.bytes_of(&all[4]) == tar);
    assert_no_problem(&place);
}
