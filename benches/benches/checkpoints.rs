//! What does a checkpoint of 64 MiB cost, and how long does it take to get one back?

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark fails by panicking, and criterion's macros make undocumented items"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{
    BatchSize, BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group,
    criterion_main, measurement::WallTime,
};
use cryostore_benches::pages::{Heap, PAGE};
use cryostore_engine::{BaseChoice, CheckpointReader, ImportOptions, Output, Silent, export};
use cryostore_tests::Place;
use cryostore_tests::archives::checkpoint;
use rustix::fs::{Advice, fadvise};

const PAGES: usize = 16 << 10;
const LEN: u64 = (PAGES * PAGE) as u64;

fn archive(place: &Place, name: &str, pages: &[u8]) -> PathBuf {
    let path = place.path(name);
    std::fs::write(&path, checkpoint(pages, PAGE as u64)).unwrap();
    path
}

/// Each run takes a tenth of a second or more: ten of them, without much of a rehearsal.
fn few<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .throughput(Throughput::Bytes(LEN))
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2))
        .sample_size(10);
    group
}

/// Nothing is new: what remains is reading, hashing, comparing, and a manifest and a record on the disk.
fn comparisons(c: &mut Criterion) {
    let mut group = few(c, "compare 64 MiB with a base that has all of it");
    let heap = Heap::new(PAGES, 1);
    let place = Place::new();
    let first = archive(&place, "first.tar", heap.bytes());
    let base = place.import(&first).unwrap().snapshot;
    let options = ImportOptions {
        base: BaseChoice::Snapshot(base.id.to_string()),
        ..ImportOptions::default()
    };
    // Arenas change places: every page is known, and none stands where it stood.
    let mut moved = heap.bytes().to_vec();
    moved.rotate_left(PAGE * 1000);
    let moved = archive(&place, "moved.tar", &moved);
    for (name, path) in [
        ("at the same addresses", &first),
        ("at other addresses", &moved),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| place.import_with(path, &options, &Silent).unwrap());
        });
    }
    group.finish();
}

fn imports(c: &mut Criterion) {
    let mut group = few(c, "import 64 MiB after another");
    let first = Heap::new(PAGES, 1);
    let archives = Place::new();
    let base = archive(&archives, "first.tar", first.bytes());
    for percent in [0, 5, 25, 100] {
        let mut heap = first.clone();
        heap.step(2, f64::from(percent));
        let next = archive(&archives, "next.tar", heap.bytes());
        group.bench_function(format!("{percent} % of the pages changed"), |b| {
            b.iter_batched(
                || {
                    let place = Place::new();
                    place.import(&base).unwrap();
                    place
                },
                |place| {
                    place.import(&next).unwrap();
                    place
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
    let mut group = few(c, "import 64 MiB");
    group.bench_function("the first of its container", |b| {
        b.iter_batched(
            Place::new,
            |place| {
                place.import(&base).unwrap();
                place
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Lets the kernel forget what it holds of the files below. They are on the disk already, else it would keep them.
fn forget(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            forget(&path);
        } else {
            let file = std::fs::File::open(&path).unwrap();
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
    }
}

fn exports(c: &mut Criterion) {
    let mut group = few(c, "export 64 MiB");
    let mut heap = Heap::new(PAGES, 1);
    let place = Place::new();
    let mut snapshots = Vec::new();
    for n in 0..17 {
        let path = archive(&place, "next.tar", heap.bytes());
        snapshots.push(place.import(&path).unwrap().snapshot);
        heap.step(n, 5.0);
    }
    let repo = place.open();
    let to_nowhere = |n: usize| {
        export(
            &repo,
            &snapshots[n],
            Output::Stream(&mut std::io::sink()),
            &Silent,
        )
        .unwrap()
    };
    for (name, n) in [
        ("the first", 0),
        ("the 2nd, 5 % changed", 1),
        ("the 17th, 5 % changed each time", 16),
    ] {
        group.bench_function(format!("{name}, from a warm cache"), |b| {
            b.iter(|| to_nowhere(n));
        });
        group.bench_function(format!("{name}, from a cold cache"), |b| {
            b.iter_batched(
                || forget(&place.store_dir()),
                |()| to_nowhere(n),
                BatchSize::PerIteration,
            );
        });
    }
    group.bench_function("the 2nd, 5 % changed, from a warm cache to a file", |b| {
        b.iter(|| {
            let output = Output::File {
                path: place.path("out.tar"),
                sync: false,
            };
            export(&repo, &snapshots[1], output, &Silent).unwrap()
        });
    });
    group.finish();
    let mut group = c.benchmark_group("read one page of 64 MiB");
    group
        .throughput(Throughput::Bytes(PAGE as u64))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    for (name, n) in [("of the first", 0), ("of the 17th", 16)] {
        let reader = CheckpointReader::open(&repo, &snapshots[n]).unwrap();
        let mut at = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                at = (at + 7_777_777) % LEN;
                reader.read_at(at, &mut [0; PAGE]).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, comparisons, imports, exports);
criterion_main!(benches);
