//! What lies scattered or in packs of which little is needed is stored again: by imports, and by `optimize`. Nothing is lost by it, at whatever call it stops.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::sync::Arc;

use cryostore_engine::check::{self, CheckOptions};
use cryostore_engine::format::manifest::Manifest;
use cryostore_engine::format::recipe::{FrameSlice, Slice};
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::gc::{self, GcOptions, GcReport};
use cryostore_engine::{
    Error, ImportOptions, Imported, Kind, Memory, Output, Repository, Silent, Source, Store,
    StreamImport, SystemEnv, export, import, optimize, stats,
};
use cryostore_tests::archives::{
    self, Count, TarBuilder, checkpoint_of, inventory, noise, pagemap, pstree,
};
use cryostore_tests::stores::{Fault, Watched};
use cryostore_tests::{Place, bytes_of, lasting, open_at};
use object_store::memory::InMemory;

const PAGE: usize = 4096;
/// Pages of a heap that makes a pack of more than 1 MiB.
const PAGES: usize = 400;

fn plain() -> ImportOptions {
    ImportOptions {
        deltas: Some(false),
        ..ImportOptions::default()
    }
}

fn put_with(repo: &Repository, tar: &[u8], options: &ImportOptions) -> Imported {
    let source = Source::Stream(Box::new(Cursor::new(tar.to_vec())));
    import(repo, source, options, &Silent).unwrap()
}

fn put(repo: &Repository, tar: &[u8]) -> SnapshotRecord {
    put_with(repo, tar, &plain()).snapshot
}

fn collect(place: &Place) -> GcReport {
    gc::collect(&place.open(), &GcOptions::default(), &Silent).unwrap()
}

fn assert_no_problem(repo: &Repository, when: &str) {
    let report = check::check(repo, &CheckOptions { read_data: true }, &Silent).unwrap();
    assert_eq!(report.problems, [], "{when}");
    assert_eq!(report.foreign, Vec::<String>::new(), "{when}");
}

/// Pages that are not the same as any other: those from `from` on have this seed, the others seed 1.
fn heap(from: usize, seed: u64) -> Vec<u8> {
    let mut pages = noise(PAGES * PAGE, 1);
    pages.truncate(from * PAGE);
    pages.extend(noise((PAGES - from) * PAGE, seed));
    pages
}

fn packs_of(place: &Place) -> BTreeSet<String> {
    let objects = place.objects("packs").into_iter();
    objects.map(|(name, _)| name).collect()
}

/// A store with a pack of which a quarter is needed, by the newest snapshots of two containers; and the archive of the first.
fn with_a_sparse_pack() -> (Place, BTreeSet<String>, Vec<u8>) {
    let place = Place::new();
    let repo = place.open();
    let first = put(&repo, &checkpoint_of("heap", &heap(PAGES, 1), 4096));
    let sparse = packs_of(&place)
        .into_iter()
        .filter(|name| fs::metadata(place.store_dir().join(name)).unwrap().len() > 1 << 20)
        .collect();
    let tar = checkpoint_of("heap", &heap(PAGES / 4, 2), 4096);
    put(&repo, &tar);
    put(&repo, &checkpoint_of("other", &heap(PAGES / 4, 3), 4096));
    repo.delete(&[first.id], "test").unwrap();
    (place, sparse, tar)
}

#[test]
fn imports_leave_a_pack_behind_of_which_little_is_needed_and_it_goes_with_the_last_snapshot_before()
{
    let (place, sparse, second) = with_a_sparse_pack();
    assert_eq!(sparse.len(), 1, "the heap's pages are in one pack");
    let report = collect(&place);
    let leaving: Vec<_> = report
        .leaving
        .iter()
        .map(|pack| pack.id.to_string())
        .collect();
    assert!(
        leaving.len() == 1 && sparse.iter().all(|name| name.ends_with(&leaving[0])),
        "{:?}",
        report.leaving
    );
    assert!(report.leaving[0].needed * 2 < report.leaving[0].bytes);
    // Said once, it is not written again.
    let records = place.objects("gc");
    collect(&place);
    assert_eq!(place.objects("gc"), records);

    let repo = place.open();
    let third = put(&repo, &second);
    // The same archive, and a quarter of it was stored once more.
    assert_eq!(third.cost.classes.new.bytes, 0, "{:?}", third.cost.classes);
    assert!(third.cost.bytes_added > (PAGES / 4 * PAGE) as u64);
    // The other container finds it there.
    let other = checkpoint_of("other", &heap(PAGES / 4, 3), 4096);
    let other = put_with(&repo, &other, &plain());
    assert!(other.snapshot.cost.bytes_added < 10_000, "{other:?}");
    assert!(other.index_lookups > 0);
    let list = repo.snapshots().unwrap();
    let before: Vec<_> = list.snapshots[2..].iter().map(|record| record.id).collect();
    assert_eq!(before.len(), 2);
    repo.delete(&before, "test").unwrap();
    let report = collect(&place);
    assert!(report.leaving.is_empty(), "{:?}", report.leaving);
    assert!(packs_of(&place).is_disjoint(&sparse));
    assert!(place.bytes_of(&third) == second);
    assert_no_problem(&place.open(), "afterwards");
}

#[test]
fn while_a_record_of_a_collection_cannot_be_read_imports_refer_to_nothing_that_was_there() {
    let (place, _, second) = with_a_sparse_pack();
    collect(&place);
    let before = packs_of(&place);
    let (name, len) = place.objects("gc").remove(0);
    fs::write(place.store_dir().join(&name), vec![7; len as usize]).unwrap();
    let third = put(&place.open(), &second);
    assert_eq!(third.cost.classes.same.bytes, 0);
    let needed = place.open().manifest(&third).unwrap().packs;
    let needed: BTreeSet<_> = needed.iter().map(ToString::to_string).collect();
    assert!(
        before
            .iter()
            .all(|old| !needed.iter().any(|new| old.ends_with(new)))
    );
    assert!(place.bytes_of(&third) == second);
    // A collection goes on, and leaves the record: another may have read it when it was whole.
    collect(&place);
    assert!(place.objects("gc").iter().any(|(found, _)| *found == name));
    fs::remove_file(place.store_dir().join(&name)).unwrap();
    let fourth = put(&place.open(), &second);
    assert!(fourth.cost.bytes_added < (PAGES / 4 * PAGE) as u64);
    assert_no_problem(&place.open(), "afterwards");
}

#[test]
fn a_dry_run_leaves_nothing_behind() {
    let (place, _, _) = with_a_sparse_pack();
    let before = place.objects("");
    let options = GcOptions {
        dry_run: true,
        ..GcOptions::default()
    };
    let report = gc::collect(&place.open(), &options, &Silent).unwrap();
    assert_eq!(report.leaving.len(), 1);
    let after = place.objects("");
    assert_eq!(before, after);
}

/// Stored bytes of the frames that a manifest names.
fn frames(manifest: &Manifest) -> u64 {
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    for n in 0..manifest.streams.len() as u32 {
        for slice in manifest.slices(n).into_iter().flatten() {
            if let Slice::Frame(slice) = slice.unwrap()
                && seen.insert((slice.frame.pack, slice.frame.offset))
            {
                bytes += u64::from(slice.frame.stored_len);
            }
        }
    }
    bytes
}

/// Imports of a heap of 16 MiB, of which each page is replaced by one of them: what one import stores is scattered over all of it.
fn scattered(place: &Place, options: &ImportOptions) -> (SnapshotRecord, Vec<u8>) {
    let mut pages = noise(4096 * PAGE, 1);
    let mut last = None;
    for step in 0..8 {
        for (n, page) in pages.chunks_mut(PAGE).enumerate() {
            if n * 5 % 8 == step {
                page.copy_from_slice(&noise(PAGE, (n * 10 + step) as u64));
            }
        }
        let tar = checkpoint_of("heap", &pages, 4096);
        last = Some((put_with(&place.open(), &tar, options).snapshot, tar));
    }
    last.unwrap()
}

#[test]
fn an_export_fetches_each_frame_once_however_its_pages_are_scattered() {
    let place = Place::new();
    let (record, tar) = scattered(&place, &plain());
    let repo = place.open();
    let mut out = Vec::new();
    let stats = export(&repo, &record, Output::Stream(&mut out), &Silent).unwrap();
    assert!(out == tar);
    let needed = frames(&repo.manifest(&record).unwrap());
    // Gaps between frames are read with them.
    assert!(
        stats.bytes_read <= needed + needed / 20,
        "{} bytes read for {needed} needed",
        stats.bytes_read
    );
}

/// A few checkpoints with deltas, small packs, and an attachment; the newest comes last.
fn series(repo: &Repository) -> Vec<(SnapshotRecord, Vec<u8>)> {
    let mut pages = noise(60 * PAGE, 1);
    let mut out = Vec::new();
    for step in 1..=5_usize {
        for (n, page) in pages.chunks_mut(PAGE).enumerate() {
            if (n + step).is_multiple_of(3) {
                page[step * 8] ^= 1;
            }
            if n == step * 7 {
                page.copy_from_slice(&noise(PAGE, step as u64 + 50));
            }
        }
        let tar = checkpoint_of("work", &pages, 4096);
        let options = ImportOptions {
            attachments: vec![("pod.yaml".to_owned(), b"kind: Pod".to_vec())],
            ..ImportOptions::default()
        };
        out.push((put_with(repo, &tar, &options).snapshot, tar));
    }
    out
}

#[test]
fn what_is_optimized_is_the_same_archive_in_its_own_order_and_the_next_import_finds_it() {
    let place = Place::new();
    let repo = place.open();
    let all = series(&repo);
    let (record, tar) = all.last().unwrap();
    let before = repo.manifest(record).unwrap();
    let done = optimize(&repo, record, &Silent).unwrap();
    let after = done.after.unwrap();
    assert!(done.before.packs > after.packs && done.before.deltas > 0);
    assert_eq!((after.packs, after.deltas, done.later), (1, 0, false));
    let manifest = repo.manifest(record).unwrap();
    assert_eq!(manifest.layout, before.layout);
    assert_eq!(manifest.maps, before.maps);
    let described = |manifest: &Manifest| -> Vec<_> {
        let streams = manifest.streams.iter();
        streams
            .map(|s| (s.name.clone(), s.role, s.len, s.phase, s.digest))
            .collect()
    };
    assert_eq!(described(&manifest), described(&before));
    // In the order of the streams, each frame behind the one before.
    for n in 0..manifest.streams.len() as u32 {
        let mut last = 0;
        for slice in manifest.slices(n).into_iter().flatten() {
            if let Slice::Frame(slice) = slice.unwrap() {
                assert!(slice.frame.offset >= last, "stream {n}");
                last = slice.frame.offset;
            }
        }
    }
    // The record is what it was, and all come back, with or without what is garbage now.
    assert_eq!(&repo.snapshots().unwrap().snapshots[0], record);
    for when in ["optimized", "collected"] {
        for (record, tar) in &all {
            assert!(place.bytes_of(record) == *tar, "{when}");
        }
        assert_no_problem(&repo, when);
        collect(&place);
    }
    let fresh = open_at(&place.store_dir(), None).unwrap();
    assert!(bytes_of(&fresh, record, &Silent).unwrap() == *tar);
    let again = put_with(&repo, tar, &ImportOptions::default());
    let classes = &again.snapshot.cost.classes;
    assert_eq!(
        (
            classes.new.bytes,
            classes.elsewhere.bytes,
            classes.delta.bytes
        ),
        (0, 0, 0)
    );
    assert_eq!(again.index_lookups, 0);
    // In order already: nothing is written.
    let objects = place.objects("");
    assert_eq!(optimize(&repo, record, &Silent).unwrap().after, None);
    assert_eq!(place.objects(""), objects);
}

#[test]
fn real_archives_can_be_optimized() {
    let place = Place::new();
    let repo = place.open();
    let mut all = Vec::new();
    for real in archives::real() {
        // Two of each container, so that they have deltas, and share packs.
        let source = place.path("in.tar");
        fs::write(&source, &real.tar).unwrap();
        let record = place.import(&source).unwrap().snapshot;
        all.push((record, real.tar));
    }
    let mut rewritten = 0;
    for (record, tar) in &all {
        let done = optimize(&repo, record, &Silent).unwrap();
        rewritten += usize::from(done.after.is_some());
        assert!(place.bytes_of(record) == *tar);
    }
    assert!(rewritten >= 5, "{rewritten}");
    collect(&place);
    for (record, tar) in &all {
        assert!(place.bytes_of(record) == *tar);
    }
    assert_no_problem(&repo, "collected");
}

#[test]
fn zeros_and_pages_of_deltas_within_what_was_cut_by_content_stay_in_their_places() {
    let place = Place::new();
    let repo = place.open();
    let mut pages = noise(60 * PAGE, 1);
    let mut newest = None;
    for step in 0..4_u8 {
        pages[7] = step;
        pages[30 * PAGE] = step;
        let zeros = vec![0; 256 << 10];
        let disk = [
            noise(100_000, 5),
            zeros.clone(),
            noise(70_000, 6),
            zeros,
            vec![step],
        ]
        .concat();
        // A file that is the same as a page which is stored as a delta.
        let page = &pages[30 * PAGE..31 * PAGE];
        let inner = TarBuilder::default()
            .file("inner.img", &disk)
            .file("page", page)
            .end();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&inner).unwrap();
        let tar = TarBuilder::default()
            .file("config.dump", br#"{"id":"abc","name":"work"}"#)
            .file("checkpoint/inventory.img", &inventory(2))
            .file("checkpoint/pstree.img", &pstree(&[1]))
            .file(
                "checkpoint/pagemap-1.img",
                &pagemap(1, &[(0x10000, 60, 4)], Count::Old),
            )
            .file("checkpoint/pages-1.img", &pages)
            .file("disk.img", &disk)
            .file("page", page)
            .file("rootfs-diff.tar", &inner)
            .file("rootfs.tar.gz", &gzip.finish().unwrap())
            .end();
        newest = Some((
            put_with(&repo, &tar, &ImportOptions::default()).snapshot,
            tar,
        ));
    }
    let (record, tar) = newest.unwrap();
    let manifest = repo.manifest(&record).unwrap();
    let in_content = |n: u32| {
        let by_content = manifest.streams[n as usize].page_size == 0;
        manifest.slices(n).into_iter().flatten().any(|slice| {
            matches!(slice.unwrap(), Slice::Frame(slice)
                if by_content && manifest.deltas.get(&slice.frame).is_some())
        })
    };
    assert!((0..manifest.streams.len() as u32).any(in_content));
    let done = optimize(&repo, &record, &Silent).unwrap();
    assert!(done.after.is_some());
    collect(&place);
    assert!(place.bytes_of(&record) == tar);
    assert_no_problem(&repo, "collected");
    let again = put_with(&repo, &tar, &ImportOptions::default());
    assert_eq!(again.snapshot.cost.classes.new.bytes, 0);
}

/// A page image of which each page is its number, over and over, and some noise; of the last 60,000, every fiftieth is one that came long before.
struct Numbers {
    head: Cursor<Vec<u8>>,
    /// A word of the fourth page.
    word: u64,
    at: u64,
}

impl Numbers {
    const PAGES: u64 = 160_000;
    const DISTINCT: u64 = 158_800;

    fn tar(word: u64) -> Self {
        let head = TarBuilder::default()
            .file("config.dump", br#"{"id":"abc","name":"work"}"#)
            .file("checkpoint/inventory.img", &inventory(2))
            .file("checkpoint/pstree.img", &pstree(&[1]))
            .file(
                "checkpoint/pagemap-1.img",
                &pagemap(1, &[(0x10000, Self::PAGES, 4)], Count::New),
            )
            .header(
                b"checkpoint/pages-1.img",
                Self::PAGES * PAGE as u64,
                b'0',
                b"",
            )
            .unended();
        Self {
            head: Cursor::new(head),
            word,
            at: 0,
        }
    }

    fn page(&self, page: u64) -> Vec<u8> {
        let repeats = page >= 100_000 && page % 50 == 49;
        let number = if repeats { page - 90_000 } else { page };
        let mut bytes = (number + 1).to_le_bytes().repeat(PAGE / 8);
        // Packs are to be full from time to time.
        bytes[8..520].copy_from_slice(&noise(512, number));
        if page == 3 {
            bytes[..8].copy_from_slice(&self.word.to_le_bytes());
        }
        bytes
    }
}

impl Read for Numbers {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let found = self.head.read(buf)?;
        if found > 0 || self.at == Self::PAGES * PAGE as u64 {
            return Ok(found);
        }
        let (page, within) = (self.at / PAGE as u64, (self.at % PAGE as u64) as usize);
        let len = buf.len().min(PAGE - within);
        buf[..len].copy_from_slice(&self.page(page)[within..within + len]);
        self.at += len as u64;
        Ok(len)
    }
}

/// Chunks of the frames that a manifest names.
fn chunks(manifest: &Manifest) -> u64 {
    let mut seen = BTreeSet::new();
    let streams = 0..manifest.streams.len() as u32;
    let slices = streams.flat_map(|n| manifest.slices(n).into_iter().flatten());
    slices
        .map(|slice| match slice.unwrap() {
            Slice::Frame(FrameSlice { frame, .. }) if seen.insert((frame.pack, frame.offset)) => {
                u64::from(frame.chunks)
            }
            _ => 0,
        })
        .sum()
}

#[test]
fn more_chunks_than_are_remembered_keep_their_places_and_are_found_again() {
    let place = Place::new();
    // 131,072 chunks are remembered.
    let least = Memory::at_most(Memory::LEAST).unwrap();
    let repo = place.open().with_memory(least);
    let put = |word| {
        let source = Source::Stream(Box::new(Numbers::tar(word)));
        import(&repo, source, &ImportOptions::default(), &Silent)
            .unwrap()
            .snapshot
    };
    let digest = |record: &SnapshotRecord| {
        let mut hasher = blake3::Hasher::new();
        export(&repo, record, Output::Stream(&mut hasher), &Silent).unwrap();
        hasher.finalize()
    };
    let expected = |word| {
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut Numbers::tar(word), &mut hasher).unwrap();
        hasher.finalize()
    };
    let first = put(1);
    // What is in a pack that is not full is not found: of such pages, that is all of them that came since.
    let new = first.cost.classes.new.pages;
    assert!(
        (Numbers::DISTINCT..Numbers::DISTINCT + 100).contains(&new),
        "{new}"
    );
    assert_eq!(digest(&first), expected(1));
    let second = put(2);
    assert_eq!(second.cost.classes.delta.pages, 1);
    assert!(optimize(&repo, &second, &Silent).unwrap().after.is_some());
    assert_eq!(digest(&second), expected(2));
    let stored = chunks(&repo.manifest(&second).unwrap());
    assert!(stored < Numbers::DISTINCT + 200, "{stored}");
}

#[test]
fn streams_that_came_in_no_order_can_be_optimized() {
    let place = Place::new();
    let repo = place.open();
    let mut records = Vec::new();
    for step in 0..4_u64 {
        let mut import = StreamImport::begin(&repo, ImportOptions::default(), &Silent).unwrap();
        let ids: Vec<_> = ["a.img", "b.img", "pages-1.img"]
            .iter()
            .map(|name| import.stream(name.as_bytes()).unwrap())
            .collect();
        for part in 0..6 {
            for (n, id) in ids.iter().enumerate() {
                let seed = if part == step { 100 * step } else { 7 };
                import
                    .write(*id, &noise(30_000, seed + part * 10 + n as u64))
                    .unwrap();
            }
        }
        for id in ids {
            import.end(id).unwrap();
        }
        records.push(import.commit().unwrap().snapshot);
    }
    let newest = records.last().unwrap();
    let before = place.bytes_of(newest);
    let done = optimize(&repo, newest, &Silent).unwrap();
    assert!(done.after.is_some(), "{done:?}");
    collect(&place);
    assert!(place.bytes_of(newest) == before);
}

#[test]
fn a_damaged_snapshot_is_not_optimized_and_stays_what_it_was() {
    let place = Place::new();
    let repo = place.open();
    let all = series(&repo);
    let (record, _) = all.last().unwrap();
    // A frame of the first import, which the newest needs.
    let manifest = repo.manifest(&all[0].0).unwrap();
    let page_frame = (0..manifest.streams.len() as u32)
        .filter(|n| manifest.streams[*n as usize].page_size != 0)
        .flat_map(|n| manifest.slices(n).into_iter().flatten())
        .find_map(|slice| match slice.unwrap() {
            Slice::Frame(slice) => Some(slice.frame),
            Slice::Zero { .. } => None,
        })
        .unwrap();
    let id = manifest.packs[page_frame.pack as usize].to_string();
    let path = place.store_dir().join("packs").join(&id[..2]).join(&id);
    let mut bytes = fs::read(&path).unwrap();
    let at = (page_frame.offset + page_frame.stored_len - 9) as usize;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let e = optimize(&repo, record, &Silent).unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
    assert!(place.objects("manifests").len() == all.len());
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    collect(&place);
    for (record, tar) in &all {
        assert!(place.bytes_of(record) == *tar);
    }
}

#[test]
fn an_export_of_what_is_optimized_and_collected_meanwhile_says_so() {
    struct Optimizes<'p>(&'p Place, SnapshotRecord, std::sync::Once);
    impl cryostore_engine::Monitor for Optimizes<'_> {
        fn progress(&self, _: cryostore_engine::Phase, _: u64, _: Option<u64>) {
            self.2.call_once(|| {
                let repo = self.0.open();
                optimize(&repo, &self.1, &Silent).unwrap();
                let others = repo.snapshots().unwrap().snapshots;
                let others: Vec<_> = others[1..].iter().map(|record| record.id).collect();
                repo.delete(&others, "test").unwrap();
                collect(self.0);
            });
        }
    }
    let place = Place::new();
    let (record, tar) = scattered(&place, &plain());
    let file = place.path("out.tar");
    let output = Output::File {
        path: file.clone(),
        sync: false,
    };
    let monitor = Optimizes(&place, record.clone(), std::sync::Once::new());
    match export(&place.open(), &record, output, &monitor) {
        Err(e) => {
            assert_eq!(e.kind(), Kind::Conflict, "{e}");
            assert!(e.to_string().contains("was optimized"), "{e}");
            assert!(!file.exists());
        }
        // Its frames were all fetched before.
        Ok(_) => assert!(fs::read(&file).unwrap() == tar),
    }
    assert!(place.bytes_of(&record) == tar);
}

#[test]
fn a_check_says_nothing_of_what_is_optimized_or_deleted_and_collected_meanwhile() {
    struct Goes<'p>(
        &'p Place,
        Vec<SnapshotRecord>,
        std::sync::atomic::AtomicU64,
        u64,
    );
    impl cryostore_engine::Monitor for Goes<'_> {
        fn progress(&self, _: cryostore_engine::Phase, _: u64, _: Option<u64>) {
            if self.2.fetch_add(1, std::sync::atomic::Ordering::SeqCst) != self.3 {
                return;
            }
            let repo = self.0.open();
            optimize(&repo, &self.1[4], &Silent).unwrap();
            let others: Vec<_> = self.1[..4].iter().map(|record| record.id).collect();
            repo.delete(&others, "test").unwrap();
            collect(self.0);
        }
    }
    for at in 0..12 {
        let place = Place::new();
        let all = series(&place.open());
        let records: Vec<_> = all.iter().map(|(record, _)| record.clone()).collect();
        let monitor = Goes(&place, records, 0.into(), at);
        let report = check::check(&place.open(), &CheckOptions { read_data: true }, &monitor);
        let report = report.unwrap();
        assert_eq!(
            (report.problems, report.lost_snapshots),
            (vec![], vec![]),
            "{at}"
        );
        assert!(place.bytes_of(&all[4].0) == all[4].1);
    }
}

#[test]
fn stats_and_inspection_tell_what_an_optimized_snapshot_needs() {
    let place = Place::new();
    let repo = place.open();
    let all = series(&repo);
    let (record, _) = all.last().unwrap();
    optimize(&repo, record, &Silent).unwrap();
    let stats = stats(&repo, &Silent).unwrap();
    let needed = stats.snapshots.iter().map(|s| s.packs_needed.unwrap());
    let needed: Vec<_> = needed.collect();
    assert_eq!(needed[0], 1);
    assert!(needed[1] > 1, "{needed:?}");
    let (name, len) = repo.manifest_object(record).unwrap();
    let objects = place.objects("rewritten");
    assert!(
        objects.contains(&(name.clone(), len)),
        "{name} {len} {objects:?}"
    );
    assert_ne!(name, format!("manifests/{}", record.manifest.id));
}

struct World {
    watched: Watched,
    all: Vec<(SnapshotRecord, Vec<u8>)>,
}

fn open(watched: &Watched) -> Repository {
    let store = Store::new(Arc::new(watched.clone()), "memory").unwrap();
    Repository::open(store, Arc::new(SystemEnv::new()), None).unwrap()
}

fn world() -> World {
    let watched = Watched::new(Arc::new(InMemory::new()));
    let store = Store::new(Arc::new(watched.clone()), "memory").unwrap();
    Repository::init(&store, &SystemEnv::new()).unwrap();
    let all = series(&open(&watched));
    watched.reset();
    World { watched, all }
}

fn assert_all(world: &World, context: &str) {
    let repo = open(&world.watched);
    for (record, tar) in &world.all {
        let bytes = bytes_of(&repo, record, &Silent).unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(bytes == *tar, "{context}");
    }
    assert_no_problem(&repo, context);
}

fn collect_all(world: &World) {
    let repo = open(&world.watched);
    let sessions = repo.sessions().unwrap();
    let end_sessions = sessions.iter().map(|s| s.record.id.to_string()).collect();
    let options = GcOptions {
        end_sessions,
        ..GcOptions::default()
    };
    gc::collect(&repo, &options, &Silent).unwrap();
}

#[test]
fn an_optimization_that_is_stopped_at_any_call_leaves_the_snapshot_readable() {
    let newest = |world: &World| world.all.last().unwrap().0.clone();
    let (calls, clean) = {
        let world = world();
        let done = optimize(&open(&world.watched), &newest(&world), &Silent).unwrap();
        assert!(done.after.is_some());
        let calls = world.watched.writes();
        collect_all(&world);
        (calls, world)
    };
    let objects = |world: &World| lasting(&open(&world.watched)).len();
    assert!(
        calls >= 6,
        "session, its end, pack, segment, manifest, removal: {calls}"
    );
    for n in 0..=calls {
        for fault in [Fault::Stop, Fault::Fail, Fault::LoseReply] {
            let context = format!("{fault:?} at call {n} of {calls}");
            let world = world();
            world.watched.fault_at(n, fault);
            let result = optimize(&open(&world.watched), &newest(&world), &Silent);
            world.watched.reset();
            assert_all(&world, &context);
            if n % 2 == 0 {
                collect_all(&world);
                assert_all(&world, &format!("{context}, collected"));
            }
            // Once more, and nothing is left of the first time.
            let again = optimize(&open(&world.watched), &newest(&world), &Silent)
                .unwrap_or_else(|e| panic!("{context}: {e}"));
            if result.is_ok() {
                assert_eq!(again.after, None, "{context}: acknowledged, and not done");
            }
            collect_all(&world);
            assert_all(&world, &format!("{context}, again"));
            assert_eq!(objects(&world), objects(&clean), "{context}: garbage stays");
        }
    }
}

/// A process that was given up at any moment, and wakes after a collection took what nobody needed.
#[test]
fn one_that_was_ended_by_hand_and_wakes_removes_nothing_that_is_needed() {
    let calls = {
        let world = world();
        optimize(&open(&world.watched), &world.all[4].0, &Silent).unwrap();
        world.watched.writes()
    };
    let mut lost = 0;
    for n in 0..calls {
        let world = Arc::new(world());
        let other = Arc::clone(&world);
        world.watched.meanwhile(n, move || collect_all(&other));
        let result: Result<_, Error> = optimize(&open(&world.watched), &world.all[4].0, &Silent);
        lost += usize::from(matches!(&result, Err(e) if e.kind() == Kind::Conflict));
        let context = format!("{n} of {calls}: {result:?}");
        world.watched.reset();
        assert_all(&world, &context);
        collect_all(&world);
        assert_all(&world, &format!("{context}, collected"));
    }
    assert!(lost > 0, "the packs of some were taken");
}

#[test]
fn collections_and_imports_work_beside_an_optimization() {
    struct Meanwhile<'w>(&'w World, std::sync::atomic::AtomicU64);
    impl cryostore_engine::Monitor for Meanwhile<'_> {
        fn progress(&self, _: cryostore_engine::Phase, _: u64, _: Option<u64>) {
            let repo = open(&self.0.watched);
            gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
            put(&repo, &checkpoint_of("other", &noise(PAGE, 3), 4096));
            self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let world = world();
    let meanwhile = Meanwhile(&world, 0.into());
    let done = optimize(&open(&world.watched), &world.all[4].0, &meanwhile).unwrap();
    assert!(done.after.is_some() && !done.later);
    assert!(meanwhile.1.into_inner() > 0);
    assert_all(&world, "afterwards");
    collect_all(&world);
    assert_all(&world, "collected");
}

#[test]
fn a_snapshot_that_was_optimized_goes_with_all_that_only_it_needed() {
    let world = world();
    let repo = open(&world.watched);
    let newest = &world.all[4].0;
    optimize(&repo, newest, &Silent).unwrap();
    let ids: Vec<_> = world.all.iter().map(|(record, _)| record.id).collect();
    repo.delete(&ids, "test").unwrap();
    collect_all(&world);
    let left: Vec<_> = lasting(&repo).into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["repository.json"]);
}

#[test]
fn a_collection_that_finishes_an_optimization_can_be_stopped_at_any_call() {
    // The optimization stopped before it removed the old manifest.
    let unfinished = || {
        let world = world();
        let newest = world.all.last().unwrap().0.clone();
        let done = |world: &World| {
            let log = world.watched.log();
            log.iter().any(|call| call.starts_with("delete manifests/"))
        };
        let mut n = 0;
        loop {
            let world = self::world();
            world.watched.fault_at(n, Fault::Stop);
            let _ = optimize(&open(&world.watched), &world.all.last().unwrap().0, &Silent);
            if done(&world) {
                break;
            }
            n += 1;
        }
        world.watched.fault_at(n, Fault::Stop);
        optimize(&open(&world.watched), &newest, &Silent).unwrap_err();
        world.watched.reset();
        let store = open(&world.watched).store().clone();
        let manifests = store.list("manifests").unwrap();
        assert_eq!(manifests.len(), world.all.len());
        assert_eq!(store.list("rewritten").unwrap().len(), 1);
        // All others go, so that most packs do.
        let repo = open(&world.watched);
        let others: Vec<_> = world.all[..4].iter().map(|(record, _)| record.id).collect();
        repo.delete(&others, "test").unwrap();
        let sessions = repo.sessions().unwrap();
        for session in sessions {
            repo.end_session(&session.record, "test").unwrap();
        }
        World {
            all: world.all[4..].to_vec(),
            watched: world.watched,
        }
    };
    let collect = |world: &World| {
        gc::collect(&open(&world.watched), &GcOptions::default(), &Silent).map(drop)
    };
    let calls = {
        let world = unfinished();
        world.watched.reset();
        collect(&world).unwrap();
        world.watched.writes()
    };
    assert!(calls >= 6, "{calls}");
    for n in 0..=calls {
        for fault in [Fault::Stop, Fault::Fail, Fault::LoseReply] {
            let context = format!("{fault:?} at call {n} of {calls}");
            let world = unfinished();
            world.watched.fault_at(n, fault);
            let _ = collect(&world);
            world.watched.reset();
            assert_all(&world, &context);
            collect_all(&world);
            assert_all(&world, &format!("{context}, collected"));
        }
    }
}
