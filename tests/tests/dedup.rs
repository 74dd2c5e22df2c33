//! What is stored once is not stored again, and nothing is ever referred to that is not there.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File};
use std::io::{BufWriter, Cursor, Write};
use std::path::Path;
use std::sync::Arc;

use cryostore_engine::check::{self, CheckOptions};
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::gc::{self, GcOptions};
use cryostore_engine::{
    BaseChoice, ImportOptions, Imported, Repository, Silent, Source, Store, SystemEnv, import,
    rebuild_index,
};
use cryostore_tests::archives::{
    self, Count, TarBuilder, checkpoint, checkpoint_of, inventory, noise, pagemap, pstree,
};
use cryostore_tests::failures::Listening;
use cryostore_tests::stores::Watched;
use cryostore_tests::{Place, bytes_of, open_at};
use object_store::memory::InMemory;

fn import_bytes(repo: &Repository, tar: &[u8], base: BaseChoice) -> Imported {
    let source = Source::Stream(Box::new(Cursor::new(tar.to_vec())));
    import(
        repo,
        source,
        &ImportOptions {
            base,
            ..ImportOptions::default()
        },
        &Silent,
    )
    .unwrap()
}

#[test]
fn the_same_archive_again_puts_no_pack_and_asks_no_index() {
    let cache = tempfile::tempdir().unwrap();
    let watched = Watched::new(Arc::new(InMemory::new()));
    let store = Store::new(Arc::new(watched.clone()), "watched").unwrap();
    Repository::init(&store, &SystemEnv::new()).unwrap();
    let repo = Repository::open(store, Arc::new(SystemEnv::new()), Some(cache.path())).unwrap();
    let mut tars: Vec<_> = archives::real()
        .into_iter()
        .map(|real| (real.name, real.tar))
        .collect();
    tars.push((
        "noise".to_owned(),
        checkpoint_of("noise", &noise(20 << 20, 1), 4096),
    ));
    for (name, tar) in tars {
        let path = cache.path().join("in.tar");
        fs::write(&path, &tar).unwrap();
        let again = || {
            import(
                &repo,
                Source::at(&path).unwrap(),
                &ImportOptions::default(),
                &Silent,
            )
            .unwrap()
        };
        let first = again();
        watched.reset();
        let second = again();
        assert_eq!(second.snapshot.base, Some(first.snapshot.id), "{name}");
        assert_eq!(
            second.snapshot.cost.classes.new.bytes, 0,
            "{name}: {:?}",
            second.snapshot.cost
        );
        let puts: Vec<_> = watched
            .log()
            .into_iter()
            .filter(|call| call.starts_with("put "))
            .collect();
        let kinds: Vec<_> = puts
            .iter()
            .map(|call| call.split('/').next().unwrap())
            .collect();
        assert_eq!(
            kinds,
            ["put sessions", "put manifests", "put snapshots"],
            "{name}: {puts:?}"
        );
        // The pages of left-over images have no address at which the base could be asked.
        let reads = watched.count("get packs") + watched.count("ranges packs");
        let manifest = repo.manifest(&second.snapshot).unwrap();
        let tables = manifest.tables.len();
        assert!(
            reads <= tables,
            "{name}: of packs only tables of deltas are read, if the node has no copy: {reads} of {tables}"
        );
        let lives = |n: u32| {
            manifest
                .maps
                .iter()
                .any(|map| map.stream == Some(n) && !map.stale)
        };
        let left_over = (0..)
            .zip(&manifest.streams)
            .filter(|(n, stream)| stream.page_size > 0 && !lives(*n));
        let pages: u64 = left_over
            .map(|(_, stream)| stream.len / u64::from(stream.page_size))
            .sum();
        assert!(
            second.index_lookups <= pages,
            "{name}: {} look-ups, {pages} pages without an address",
            second.index_lookups
        );
        assert!(pages == 0 || name.starts_with("podman"), "{name}");
        assert!(
            bytes_of(&repo, &second.snapshot, &Silent).unwrap() == tar,
            "{name}"
        );
    }
}

/// 1 GiB of pages that are all different and compress well.
fn gibibyte(path: &Path) {
    const PAGES: u64 = 1 << 18;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let head = TarBuilder::new()
        .file("config.dump", br#"{"name":"gibibyte"}"#)
        .file("checkpoint/inventory.img", &inventory(2))
        .file(
            "checkpoint/pagemap-1.img",
            &pagemap(
                1,
                &[(1 << 30, PAGES / 2, 4), (1 << 40, PAGES / 2, 4)],
                Count::New,
            ),
        )
        .header(b"checkpoint/pages-1.img", PAGES * 4096, b'0', b"");
    file.write_all(&head.unended()).unwrap();
    let mut page = [0; 4096];
    for n in 0..PAGES {
        page[1000..1064].copy_from_slice(&noise(64, n + 1));
        file.write_all(&page).unwrap();
    }
    file.write_all(
        &TarBuilder::new()
            .file("checkpoint/pstree.img", &pstree(&[1]))
            .end(),
    )
    .unwrap();
    file.flush().unwrap();
}

#[test]
fn an_unchanged_checkpoint_of_1_gib_adds_at_most_64_kib() {
    let place = Place::new();
    let path = place.path("gibibyte.tar");
    gibibyte(&path);
    let first = place.import(&path).unwrap();
    assert_eq!(first.snapshot.cost.classes.new.pages, 1 << 18);
    let before = place.stored_bytes();
    let second = place.import(&path).unwrap();
    assert_eq!(second.snapshot.cost.classes.same.pages, 1 << 18);
    assert_eq!(
        (second.index_lookups, second.snapshot.cost.packs_added),
        (0, 0)
    );
    let added = place.stored_bytes() - before;
    assert!(added <= 64 << 10, "{added} bytes");
    let written = second.snapshot.cost.bytes_added;
    assert!(
        written <= added && added - written < 8 << 10,
        "the record says {written} of {added}"
    );
}

fn pages_of(snapshot: &SnapshotRecord) -> [u64; 5] {
    let classes = snapshot.cost.classes;
    [
        classes.zero.pages,
        classes.same.pages,
        classes.elsewhere.pages,
        classes.new.pages,
        classes.delta.pages,
    ]
}

#[test]
fn pages_that_moved_are_found_elsewhere_and_a_changed_one_costs_one_page() {
    let place = Place::new();
    let mut pages = noise(2000 * 4096, 1);
    pages[40 * 4096..50 * 4096].fill(0);
    let first = place
        .import_bytes("in.tar", &checkpoint(&pages, 4096))
        .unwrap()
        .snapshot;
    assert_eq!(pages_of(&first), [10, 0, 0, 1990, 0]);
    let mut changed = pages.clone();
    changed[1234 * 4096 + 99] ^= 1;
    let second = place
        .import_bytes("in.tar", &checkpoint(&changed, 4096))
        .unwrap()
        .snapshot;
    assert_eq!(pages_of(&second), [10, 1989, 0, 0, 1]);
    assert!(
        second.cost.bytes_added < 4 << 10,
        "{}",
        second.cost.bytes_added
    );
    // All of them one page further.
    let moved = [noise(4096, 2), changed.clone()].concat();
    let third = place
        .import_bytes("in.tar", &checkpoint(&moved, 4096))
        .unwrap();
    assert_eq!(pages_of(&third.snapshot), [10, 0, 1990, 1, 0]);
    assert!(
        third.index_lookups < 2500,
        "each at most once, and few: {}",
        third.index_lookups
    );
    // In any order.
    let shuffled: Vec<u8> = (0..2000_usize)
        .flat_map(|n| &pages[n * 777 % 2000 * 4096..][..4096])
        .copied()
        .collect();
    let fourth = place
        .import_bytes("in.tar", &checkpoint(&shuffled, 4096))
        .unwrap()
        .snapshot;
    assert_eq!(fourth.cost.classes.new.pages, 0);
    let fifth = place
        .import_bytes("in.tar", &checkpoint_of("other", &pages, 4096))
        .unwrap()
        .snapshot;
    assert_eq!((fifth.base, pages_of(&fifth)), (None, [10, 0, 1990, 0, 0]));
    let tars = [
        (first, pages.clone()),
        (second, changed),
        (third.snapshot, moved),
        (fourth, shuffled),
    ];
    for (snapshot, pages) in tars {
        assert!(place.bytes_of(&snapshot) == checkpoint(&pages, 4096));
    }
    assert!(place.bytes_of(&fifth) == checkpoint_of("other", &pages, 4096));
}

#[test]
fn equal_pages_of_one_checkpoint_are_stored_once() {
    let ten = noise(10 * 4096, 7);
    // More than a slab, so that the same comes again much later.
    let pages = ten.repeat(150);
    for cache in [true, false] {
        let place = Place::new();
        let repo = open_at(
            &place.store_dir(),
            cache.then(|| place.cache_dir()).as_deref(),
        )
        .unwrap();
        let tar = checkpoint(&pages, 4096);
        let snapshot = import_bytes(&repo, &tar, BaseChoice::Newest).snapshot;
        assert_eq!(
            pages_of(&snapshot),
            [0, 0, 1490, 10, 0],
            "with a cache: {cache}"
        );
        assert!(
            snapshot.cost.bytes_added < 64 << 10,
            "{}",
            snapshot.cost.bytes_added
        );
        assert!(bytes_of(&repo, &snapshot, &Silent).unwrap() == tar);
    }
}

#[test]
fn without_a_cache_directory_the_base_is_enough() {
    let place = Place::new();
    let repo = open_at(&place.store_dir(), None).unwrap();
    let nested = (0..30)
        .fold(TarBuilder::new(), |tar, n| {
            tar.file(&format!("file-{n}"), &noise(20_000 + n, n as u64 + 1))
        })
        .end();
    let tar = |pages: &[u8]| {
        let inner = checkpoint(pages, 4096);
        TarBuilder::new()
            .file("rootfs-diff.tar", &nested)
            .raw(&inner)
            .unended()
    };
    let mut pages = noise(1000 * 4096, 1);
    let first = import_bytes(&repo, &tar(&pages), BaseChoice::Newest).snapshot;
    pages[5] ^= 1;
    let second = import_bytes(&repo, &tar(&pages), BaseChoice::Newest);
    // From a pipe: the page map comes before the pages, the identity after the lineage was chosen.
    assert_eq!(
        (second.snapshot.base, second.index_lookups),
        (Some(first.id), 0)
    );
    assert_eq!(second.snapshot.cost.classes.delta.pages, 1);
    assert!(
        second.snapshot.cost.bytes_added < 16 << 10,
        "{:?}",
        second.snapshot.cost
    );
    assert!(bytes_of(&repo, &second.snapshot, &Silent).unwrap() == tar(&pages));
    let by_id = import_bytes(
        &repo,
        &tar(&pages),
        BaseChoice::Snapshot(first.id.to_string()[..8].to_owned()),
    )
    .snapshot;
    assert_eq!(
        (by_id.base, by_id.cost.classes.delta.pages),
        (Some(first.id), 1)
    );
    let none = import_bytes(&repo, &tar(&pages), BaseChoice::None).snapshot;
    assert_eq!((none.base, none.cost.classes.new.pages), (None, 1000));
}

#[test]
fn the_index_is_filled_from_the_store_where_a_node_has_none() {
    let place = Place::new();
    let pages = noise(3000 * 4096, 1);
    place
        .import_bytes("in.tar", &checkpoint_of("first", &pages, 4096))
        .unwrap();
    let found = |when: &str, cache: &Path| {
        let repo = open_at(&place.store_dir(), Some(cache)).unwrap();
        let snapshot =
            import_bytes(&repo, &checkpoint_of(when, &pages, 4096), BaseChoice::None).snapshot;
        assert_eq!(pages_of(&snapshot), [0, 0, 3000, 0, 0], "{when}");
    };
    found("another node", &place.path("other-cache"));
    fs::remove_dir_all(place.cache_dir()).unwrap();
    found("after the cache was deleted", &place.cache_dir());
    rebuild_index(&place.open(), &Silent).unwrap();
    found("after rebuild-index", &place.cache_dir());
    // Without segments, rebuild-index reads the packs.
    fs::remove_dir_all(place.store_dir().join("index")).unwrap();
    let rebuilt = rebuild_index(&place.open(), &Silent).unwrap();
    assert_eq!(rebuilt.segments, 0);
    assert!(rebuilt.ids > 3000);
    found("without segments", &place.cache_dir());
    // Half an index.
    let index = place.open().index_dir().unwrap();
    for entry in fs::read_dir(index.join("db")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "sst" || extension == "log")
        {
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(path.metadata().unwrap().len() / 2)
                .unwrap();
        }
    }
    let tar = checkpoint_of("half an index", &pages, 4096);
    let snapshot = place.import_bytes("in.tar", &tar).unwrap().snapshot;
    assert!(place.bytes_of(&snapshot) == tar);
}

fn packs(place: &Place) -> Vec<std::path::PathBuf> {
    let objects = place.objects("packs");
    objects
        .iter()
        .map(|(name, _)| place.store_dir().join(name))
        .collect()
}

#[test]
fn a_stale_index_never_leads_to_a_snapshot_that_cannot_be_read() {
    let pages = noise(20 << 20, 1);
    let tar = |container: &str| checkpoint_of(container, &pages, 4096);
    type Spoil = fn(&Place, &SnapshotRecord);
    let spoils: [(&str, Spoil); 4] = [
        ("all packs are gone", |place, _| {
            packs(place)
                .iter()
                .for_each(|pack| fs::remove_file(pack).unwrap())
        }),
        ("one pack is gone", |place, _| {
            fs::remove_file(&packs(place)[0]).unwrap()
        }),
        ("collected by this node", |place, snapshot| {
            place.open().delete(&[snapshot.id], "test").unwrap();
            gc::collect(&place.open(), &GcOptions::default(), &Silent).unwrap();
        }),
        ("collected by another node", |place, snapshot| {
            let repo = open_at(&place.store_dir(), Some(&place.path("other-cache"))).unwrap();
            repo.delete(&[snapshot.id], "test").unwrap();
            gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
        }),
    ];
    for (when, spoil) in spoils {
        let place = Place::new();
        let first = place
            .import_bytes("in.tar", &tar("first"))
            .unwrap()
            .snapshot;
        assert!(packs(&place).len() >= 2);
        spoil(&place, &first);
        for container in ["second", "third"] {
            let snapshot = place
                .import_bytes("in.tar", &tar(container))
                .unwrap()
                .snapshot;
            assert!(
                place.bytes_of(&snapshot) == tar(container),
                "{when}: {container}"
            );
            assert_eq!(
                snapshot.cost.classes.new.pages == 0,
                container == "third",
                "{when}: {container} {:?}",
                snapshot.cost
            );
        }
    }
}

#[test]
fn a_copy_of_the_store_shares_the_cache_of_the_first_and_neither_believes_it() {
    let place = Place::new();
    let common = checkpoint_of("common", &noise(4 << 20, 1), 4096);
    let first = place.import_bytes("in.tar", &common).unwrap().snapshot;
    let copy = place.path("copy");
    assert!(
        std::process::Command::new("cp")
            .arg("-r")
            .arg(place.store_dir())
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    let (here, there) = (
        place.open(),
        open_at(&copy, Some(&place.cache_dir())).unwrap(),
    );
    assert_eq!(here.cache(), there.cache());
    // What one of them stores, the index says of both.
    let tars: Vec<_> = (2..6)
        .map(|seed| checkpoint_of(&format!("container {seed}"), &noise(4 << 20, seed), 4096))
        .collect();
    let mut kept = vec![(0, first.clone(), common.clone()), (1, first, common)];
    for (n, tar) in tars.iter().enumerate() {
        for turn in [n % 2, 1 - n % 2] {
            let repo = [&here, &there][turn];
            let snapshot = import_bytes(repo, tar, BaseChoice::None).snapshot;
            assert_eq!(snapshot.cost.classes.new.pages, 1024, "turn {turn} of {n}");
            kept.push((turn, snapshot, tar.clone()));
        }
    }
    for (turn, snapshot, tar) in kept {
        assert!(bytes_of([&here, &there][turn], &snapshot, &Silent).unwrap() == tar);
    }
    for repo in [&here, &there] {
        assert_eq!(
            check::check(repo, &CheckOptions { read_data: true }, &Silent)
                .unwrap()
                .problems,
            []
        );
    }
}

#[test]
fn a_missing_or_cut_pack_of_the_base_is_told_and_its_chunks_are_stored_again() {
    let pages = noise(20 << 20, 1);
    let tar = checkpoint(&pages, 4096);
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 3] = [
        ("missing", |pack| fs::remove_file(pack).unwrap()),
        ("cut", |pack| {
            File::options()
                .write(true)
                .open(pack)
                .unwrap()
                .set_len(10_000)
                .unwrap()
        }),
        ("empty", |pack| drop(File::create(pack).unwrap())),
    ];
    for (what, spoil) in spoils {
        for cached in [true, false] {
            let when = format!("{what}, with a cache: {cached}");
            let place = Place::new();
            let first = place.import_bytes("in.tar", &tar).unwrap().snapshot;
            let pack = packs(&place).swap_remove(0);
            spoil(&pack);
            let repo = open_at(
                &place.store_dir(),
                cached.then(|| place.cache_dir()).as_deref(),
            )
            .unwrap();
            let listening = Listening::default();
            let source = Source::at(&place.path("in.tar")).unwrap();
            let second = import(&repo, source, &ImportOptions::default(), &listening)
                .unwrap()
                .snapshot;
            assert_eq!(second.base, Some(first.id), "{when}");
            assert!(
                second.cost.classes.new.pages > 0 && second.cost.classes.same.pages > 0,
                "{when}: {:?}",
                second.cost.classes
            );
            let name = pack.file_name().unwrap().to_string_lossy().into_owned();
            assert!(
                listening.text().contains(&name),
                "{when}: {}",
                listening.text()
            );
            assert!(bytes_of(&repo, &second, &Silent).unwrap() == tar, "{when}");
            assert!(
                bytes_of(&repo, &first, &Silent).is_err(),
                "{when}: the first has lost its pack"
            );
        }
    }
}

#[test]
fn a_damaged_base_costs_space_and_no_import() {
    let place = Place::new();
    let tar = checkpoint(&noise(1 << 20, 1), 4096);
    let first = place.import_bytes("in.tar", &tar).unwrap().snapshot;
    let manifest = place
        .store_dir()
        .join("manifests")
        .join(first.manifest.id.to_string());
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[100] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    let listening = Listening::default();
    let repo = place.open();
    let second = import(
        &repo,
        Source::at(&place.path("in.tar")).unwrap(),
        &ImportOptions::default(),
        &listening,
    )
    .unwrap()
    .snapshot;
    assert_eq!(second.base, None);
    assert!(
        listening
            .text()
            .contains(&format!("not compared with {}", first.id)),
        "{}",
        listening.text()
    );
    assert!(place.bytes_of(&second) == tar);
    assert_eq!(
        second.cost.classes.new.pages, 0,
        "the index still knows them"
    );
}

#[test]
fn tars_within_that_shift_by_a_block_cost_what_is_new_plain_or_in_gzip() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let files = |tar: TarBuilder| {
        // Large and small members; text, so that gzip has something to do.
        (0..60_u64).fold(tar, |tar, n| {
            let len = if n % 3 == 0 {
                90_000
            } else {
                2_000 + 100 * n as usize
            };
            let words: Vec<u8> = noise(len / 5, n + 1)
                .iter()
                .flat_map(|byte| format!("{byte:04} ").into_bytes())
                .collect();
            tar.file(&format!("usr/file-{n}"), &words)
        })
    };
    let plain = files(TarBuilder::new()).end();
    let shifted = files(TarBuilder::new().file("an-empty-file", b"")).end();
    assert_eq!(shifted.len(), plain.len() + 512);
    let tar = |name: &str, bytes: &[u8]| {
        TarBuilder::new()
            .file("config.dump", br#"{"name":"nested"}"#)
            .file("checkpoint/inventory.img", &inventory(2))
            .file(name, bytes)
            .end()
    };
    let archives = [
        ("rootfs-diff.tar", plain.clone(), shifted.clone()),
        (
            "checkpoint/tmpfs-dev-7.tar.gz.img",
            gzip(&plain),
            gzip(&shifted),
        ),
    ];
    for (name, before, after) in archives {
        let place = Place::new();
        let first = place
            .import_bytes("in.tar", &tar(name, &before))
            .unwrap()
            .snapshot;
        let second = place
            .import_bytes("in.tar", &tar(name, &after))
            .unwrap()
            .snapshot;
        assert!(place.bytes_of(&second) == tar(name, &after), "{name}");
        let new = second.cost.classes.new.bytes;
        // The first piece; of gzip data its corrections, too, whose first 75 KiB are verbatim.
        let most = if name.contains("gz") {
            160 << 10
        } else {
            80 << 10
        };
        assert!(
            new < most,
            "{name}: {new} new bytes of {} ({} in the archive)",
            plain.len(),
            before.len()
        );
        assert!(
            second.cost.bytes_added < first.cost.bytes_added / 5,
            "{name}: {} after {}",
            second.cost.bytes_added,
            first.cost.bytes_added
        );
    }
}
