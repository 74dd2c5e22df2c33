//! A flipped bit in any stored object, and any object that is missing: what can be given back is, the rest is named.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use cryostore_engine::check::{self, CheckOptions};
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::repository::Defaults;
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{
    CheckpointReader, Error, ImportOptions, Kind, Repository, Silent, Source, Store, SystemEnv,
    import,
};
use cryostore_tests::archives::{TarBuilder, checkpoint_of, inventory, noise};
use cryostore_tests::{bytes_of, init, open};
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

/// A small repository of which every object is known.
struct Small {
    objects: BTreeMap<String, Vec<u8>>,
    snapshots: Vec<(SnapshotRecord, Vec<u8>)>,
}

fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

impl Small {
    /// Pages that two snapshots share, a third that is made of deltas on them, one that shares none, and opened gzip data.
    fn new() -> Self {
        Self::of(true)
    }

    /// The same in a repository that is encrypted, or not.
    fn of(encrypted: bool) -> Self {
        let objects = Arc::new(InMemory::new());
        let store = Store::new(objects.clone(), "memory").unwrap();
        if encrypted {
            init(&store, Defaults::default());
        } else {
            Repository::init(&store, &SystemEnv::new()).unwrap();
        }
        let repo = open(store, None).unwrap();
        let pages = noise(12 * 4096, 1);
        let changed = [
            &pages[..8 * 4096],
            &noise(4096, 2),
            &[0; 4096],
            &b"ab".repeat(5000),
        ]
        .concat();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        let text: String = (0..40_000)
            .map(|n: u64| format!("{} pages {}\n", n * n % 7919, n % 13))
            .collect();
        gzip.write_all(text.as_bytes()).unwrap();
        let nested = TarBuilder::new()
            .file("checkpoint/inventory.img", &inventory(2))
            .file("checkpoint/tmpfs-dev-1.tar.gz.img", &gzip.finish().unwrap())
            .end();
        let mut little = changed.clone();
        little[3 * 4096 + 5] ^= 1;
        little[8 * 4096 + 9] ^= 1;
        let tars = [
            checkpoint_of("work", &pages, 4096),
            checkpoint_of("work", &changed, 4096),
            // Stored as what differs from the one before.
            checkpoint_of("work", &little, 4096),
            checkpoint_of("other", &noise(8 * 4096, 3), 4096),
            nested,
        ];
        let snapshots = tars.into_iter().map(|tar| {
            let source = Source::Stream(Box::new(std::io::Cursor::new(tar.clone())));
            (
                import(&repo, source, &ImportOptions::default(), &Silent)
                    .unwrap()
                    .snapshot,
                tar,
            )
        });
        let snapshots: Vec<_> = snapshots.collect();
        let objects = wait(async {
            let mut out = BTreeMap::new();
            let mut list = objects.list(None);
            while let Some(found) = list.next().await {
                let name = found.unwrap().location;
                out.insert(
                    name.to_string(),
                    objects
                        .get(&name)
                        .await
                        .unwrap()
                        .bytes()
                        .await
                        .unwrap()
                        .to_vec(),
                );
            }
            out
        });
        assert!(
            objects
                .keys()
                .filter(|name| name.starts_with("packs/"))
                .count()
                >= 4
        );
        Self { objects, snapshots }
    }

    /// The repository with one object changed, or missing.
    fn with(&self, name: &str, bytes: Option<&[u8]>) -> Result<Repository, Error> {
        let objects = InMemory::new();
        wait(async {
            for (other, content) in &self.objects {
                let content = if other == name {
                    bytes
                } else {
                    Some(&content[..])
                };
                if let Some(content) = content {
                    objects
                        .put(&Path::from(other.as_str()), content.to_vec().into())
                        .await
                        .unwrap();
                }
            }
        });
        open(Store::new(Arc::new(objects), "memory")?, None)
    }

    fn needed(&self, name: &str) -> BTreeSet<SnapshotId> {
        let repo = self.with("", None).unwrap();
        let needs = |record: &SnapshotRecord| {
            let manifest = repo.manifest(record).unwrap();
            manifest
                .packs
                .iter()
                .any(|pack| name.ends_with(&pack.to_string()))
                || name.ends_with(&record.manifest.id.to_string())
                || name.ends_with(&record.id.to_string())
        };
        self.snapshots
            .iter()
            .filter(|(record, _)| needs(record))
            .map(|(record, _)| record.id)
            .collect()
    }

    /// Looks at everything; the snapshots that did not come back are returned.
    fn assert_sound(&self, repo: &Repository, name: &str, when: &str) -> BTreeSet<SnapshotId> {
        let may_fail = self.needed(name);
        let list = repo.snapshots().unwrap();
        let mut lost = BTreeSet::new();
        for (record, tar) in &self.snapshots {
            let Some(found) = list.snapshots.iter().find(|found| found.id == record.id) else {
                lost.insert(record.id);
                continue;
            };
            let read = CheckpointReader::open(repo, found).and_then(|reader| {
                let mut out = vec![0; tar.len()];
                reader
                    .read_at(0, &mut out)
                    .map(|len| assert_eq!(len, tar.len(), "{when}"))?;
                Ok(out)
            });
            for result in [bytes_of(repo, found, &Silent), read] {
                match result {
                    Ok(bytes) => assert!(bytes == *tar, "{when}: wrong bytes of {}", record.id),
                    Err(e) => {
                        assert!(
                            matches!(e.kind(), Kind::Corrupt | Kind::Unsupported),
                            "{when}: {:?} {e}",
                            e.kind()
                        );
                        assert!(
                            e.advice().is_some() || e.kind() == Kind::Unsupported,
                            "{when}: no advice with {e}"
                        );
                        lost.insert(record.id);
                    }
                }
            }
        }
        assert!(
            lost.is_subset(&may_fail),
            "{when}: {lost:?} do not use the object"
        );
        lost
    }
}

/// Flips a bit here and there; every byte of a small object.
fn places(bytes: &[u8], most: usize) -> impl Iterator<Item = (usize, u8)> {
    let step = bytes.len().div_ceil(most).max(1);
    (0..bytes.len())
        .step_by(step)
        .enumerate()
        .map(|(n, at)| (at, 1 << (n * 5 % 8)))
}

#[test]
fn a_flipped_bit_in_any_object_is_named_with_the_snapshots_it_touches_or_does_no_harm() {
    flip_everything(false);
}

#[test]
fn a_flipped_bit_in_any_sealed_object_is_named_with_the_snapshots_it_touches() {
    flip_everything(true);
}

/// The key is what opens everything else: without it, it is not even known what is there.
fn opens(name: &str) -> bool {
    name == "repository.json" || name.starts_with("keys/")
}

fn flip_everything(encrypted: bool) {
    let small = Small::of(encrypted);
    let names: Vec<_> = small.objects.keys().filter(|name| !opens(name)).collect();
    let flip_all = |name: &String| {
        let bytes = &small.objects[name];
        for (at, bit) in places(bytes, 250) {
            let when = format!(
                "bit {bit:#x} of byte {at} of {name} ({} bytes)",
                bytes.len()
            );
            let mut flipped = bytes.clone();
            flipped[at] ^= bit;
            let repo = small.with(name, Some(&flipped)).unwrap();
            let lost = small.assert_sound(&repo, name, &when);
            let report = check::check(&repo, &CheckOptions { read_data: true }, &Silent)
                .unwrap_or_else(|e| panic!("{when}: {e}"));
            let of_it: Vec<_> = report
                .problems
                .iter()
                .filter(|problem| problem.object == *name)
                .collect();
            // Some bits of zstd's frame header mean nothing, or more memory than is needed (RFC 8878, 3.1.1.1).
            let in_payload = (80..bytes.len().saturating_sub(64)).contains(&at);
            if report.problems.is_empty() && in_payload && !encrypted && name.starts_with("packs/")
            {
                assert!(lost.is_empty(), "{when}");
                continue;
            }
            assert!(
                !of_it.is_empty(),
                "{when}: not noticed: {:?}",
                report.problems
            );
            assert_eq!(
                of_it.len(),
                report.problems.len(),
                "{when}: others are blamed: {:?}",
                report.problems
            );
            let named: BTreeSet<_> = of_it
                .iter()
                .flat_map(|problem| problem.snapshots.iter().copied())
                .collect();
            assert!(
                lost.is_subset(&named),
                "{when}: {lost:?} are lost, named are {:?}",
                report.problems
            );
            assert!(
                named.is_subset(&small.needed(name)),
                "{when}: {:?}",
                report.problems
            );
            assert_eq!(
                report.lost_snapshots,
                named.into_iter().collect::<Vec<_>>(),
                "{when}"
            );
        }
    };
    std::thread::scope(|scope| {
        for half in names.chunks(names.len().div_ceil(2)) {
            scope.spawn(move || half.iter().for_each(|name| flip_all(name)));
        }
    });
}

#[test]
fn a_flipped_bit_in_the_record_of_the_repository_is_noticed_or_does_no_harm() {
    for small in [Small::new(), Small::of(false)] {
        flip_the_record(&small);
    }
}

fn flip_the_record(small: &Small) {
    let bytes = &small.objects["repository.json"];
    for at in 0..bytes.len() {
        for bit in [1, 4, 16] {
            let when = format!(
                "bit {bit:#x} of byte {at} of {}",
                String::from_utf8_lossy(bytes)
            );
            let mut flipped = bytes.clone();
            flipped[at] ^= bit;
            match small.with("repository.json", Some(&flipped)) {
                Err(e) => assert!(
                    matches!(e.kind(), Kind::Corrupt | Kind::Unsupported),
                    "{when}: {e}"
                ),
                Ok(repo) => {
                    assert_eq!(
                        small.assert_sound(&repo, "repository.json", &when),
                        BTreeSet::new(),
                        "{when}"
                    );
                    // Nothing else may be blamed: whoever believes it throws good packs away.
                    let report =
                        check::check(&repo, &CheckOptions { read_data: true }, &Silent).unwrap();
                    let others: Vec<_> = report
                        .problems
                        .iter()
                        .filter(|problem| problem.object != "repository.json")
                        .collect();
                    assert!(others.is_empty(), "{when}: {others:?}");
                }
            }
        }
    }
}

#[test]
fn any_missing_or_cut_object_is_named_with_the_snapshots_it_touches() {
    let small = Small::new();
    for (name, bytes) in &small.objects {
        let cuts = [
            Some(0),
            Some(1),
            Some(bytes.len() / 2),
            Some(bytes.len() - 1),
            None,
        ];
        for cut in cuts {
            let when = cut.map_or(format!("{name} is missing"), |len| {
                format!("{name} cut to {len} bytes")
            });
            let content = cut.map(|len| &bytes[..len]);
            let repo = match small.with(name, content) {
                Ok(repo) => repo,
                Err(e) => {
                    assert!(opens(name), "{when}: {e}");
                    let harmless = cut == Some(bytes.len() - 1) && name == "repository.json";
                    let kind = if cut.is_none() && name == "repository.json" {
                        Kind::NotFound
                    } else {
                        Kind::Corrupt
                    };
                    assert!(
                        e.kind() == kind && e.advice().is_some() && !harmless,
                        "{when}: {e}"
                    );
                    continue;
                }
            };
            let lost = small.assert_sound(&repo, name, &when);
            let needed = small.needed(name);
            if name.starts_with("packs/") || name.starts_with("manifests/") {
                // A cut of one byte takes the end of the directory, which no export needs.
                assert!(
                    lost == needed || cut == Some(bytes.len() - 1) || cut == Some(bytes.len() / 2),
                    "{when}: {lost:?}"
                );
            }
            let report = check::check(&repo, &CheckOptions { read_data: true }, &Silent)
                .unwrap_or_else(|e| panic!("{when}: {e}"));
            let named: BTreeSet<_> = report
                .problems
                .iter()
                .filter(|p| p.object == *name)
                .flat_map(|p| p.snapshots.iter().copied())
                .collect();
            let gone =
                cut.is_none() && (name.starts_with("snapshots/") || name.starts_with("index/"));
            if !gone && name != "repository.json" {
                assert!(
                    report
                        .problems
                        .iter()
                        .any(|problem| problem.object == *name),
                    "{when}: {:?}",
                    report.problems
                );
                assert!(
                    lost.is_subset(&named),
                    "{when}: {lost:?}, {:?}",
                    report.problems
                );
            }
        }
    }
}

#[test]
fn a_collection_removes_nothing_while_a_snapshot_cannot_be_read() {
    let small = Small::new();
    for (name, bytes) in small
        .objects
        .iter()
        .filter(|(name, _)| name.starts_with("snapshots/") || name.starts_with("manifests/"))
    {
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        let repo = small.with(name, Some(&flipped)).unwrap();
        let before = repo.store().list("").unwrap();
        let e = cryostore_engine::gc::collect(&repo, &Default::default(), &Silent).unwrap_err();
        assert!(
            e.kind() == Kind::Corrupt
                && e.advice()
                    .is_some_and(|advice| advice.contains("nothing was removed")),
            "{name}: {e}"
        );
        assert_eq!(repo.store().list("").unwrap(), before, "{name}");
    }
}
