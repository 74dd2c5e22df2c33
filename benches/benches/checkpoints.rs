//! What does a checkpoint of 64 MiB cost, and how long does it take to get one back?

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark fails by panicking, and criterion's macros make undocumented items"
)]

use std::path::PathBuf;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use cryostore_engine::{CheckpointReader, Output, Silent, export};
use cryostore_tests::Place;
use cryostore_tests::archives::{checkpoint, noise};

const PAGES: usize = 16 << 10;
const LEN: usize = PAGES * 4096;

/// Half noise, half text-like pages: zstd makes about 2:1 of it, as of real heaps.
fn heap(seed: u64) -> Vec<u8> {
    let mut out = noise(LEN, seed);
    for (n, page) in out.chunks_mut(4096).enumerate().filter(|(n, _)| n % 2 == 0) {
        for (at, word) in page
            .chunks_mut(32)
            .enumerate()
            .filter(|(at, _)| at % 8 != 0)
        {
            word.fill(u8::try_from((n + at) % 251).unwrap());
        }
    }
    out
}

/// One page in `every` is replaced.
fn changed(heap: &[u8], every: usize) -> Vec<u8> {
    let mut out = heap.to_vec();
    for (n, page) in out
        .chunks_mut(4096)
        .enumerate()
        .filter(|(n, _)| every > 0 && n % every == 0)
    {
        page.copy_from_slice(&noise(4096, 1_000_000 + n as u64));
    }
    out
}

fn archive(place: &Place, name: &str, heap: &[u8]) -> PathBuf {
    let path = place.path(name);
    std::fs::write(&path, checkpoint(heap, 4096)).unwrap();
    path
}

fn imports(c: &mut Criterion) {
    let mut group = c.benchmark_group("import 64 MiB");
    group
        .throughput(Throughput::Bytes(LEN as u64))
        .sample_size(10);
    let first = heap(1);
    for (name, every) in [
        ("0 % changed", 0),
        ("5 % changed", 20),
        ("25 % changed", 4),
        ("100 % changed", 1),
    ] {
        let second = changed(&first, every);
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    let place = Place::new();
                    place.import(&archive(&place, "first.tar", &first)).unwrap();
                    let path = archive(&place, "second.tar", &second);
                    (place, path)
                },
                |(place, path)| {
                    place.import(&path).unwrap();
                    place
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn exports(c: &mut Criterion) {
    let mut group = c.benchmark_group("export 64 MiB");
    group
        .throughput(Throughput::Bytes(LEN as u64))
        .sample_size(20);
    let place = Place::new();
    let first = heap(1);
    place.import(&archive(&place, "first.tar", &first)).unwrap();
    let snapshot = place
        .import(&archive(&place, "second.tar", &changed(&first, 10)))
        .unwrap()
        .snapshot;
    let repo = place.open();
    group.bench_function("one page in ten changed, to memory", |b| {
        b.iter(|| place.bytes_of(&snapshot));
    });
    group.bench_function("one page in ten changed, to a file", |b| {
        b.iter(|| {
            let output = Output::File {
                path: place.path("out.tar"),
                sync: false,
            };
            export(&repo, &snapshot, output, &Silent).unwrap()
        });
    });
    group.throughput(Throughput::Bytes(4096));
    let reader = CheckpointReader::open(&repo, &snapshot).unwrap();
    let mut at = 0;
    group.bench_function("one page somewhere", |b| {
        b.iter(|| {
            at = (at + 7_777_777) % (LEN as u64);
            reader.read_at(at, &mut [0; 4096]).unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, imports, exports);
criterion_main!(benches);
