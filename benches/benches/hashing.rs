//! How long does it take to hash a page image?

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cryostore_benches::pages::{Heap, PAGE};
use cryostore_engine::measured::page;
use cryostore_format::{Digest, IdKey};

const PAGES: usize = 16 << 10;

fn hashing(c: &mut Criterion) {
    let heap = Heap::new(PAGES, 1);
    let key = IdKey::from_bytes([7; 32]);
    let mut group = c.benchmark_group("hash a page image of 64 MiB");
    group
        .throughput(Throughput::Bytes(heap.bytes().len() as u64))
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(10);
    let mut out = Vec::new();
    group.bench_function("as an import does, pages side by side on all cores", |b| {
        b.iter(|| page::look(&key, heap.bytes(), PAGE, &mut out));
    });
    group.bench_function("page after page", |b| {
        b.iter(|| {
            let pages = heap.bytes().chunks(PAGE);
            pages.fold(0, |sum, page| sum ^ key.chunk_hash(page).as_bytes()[0])
        });
    });
    group.bench_function("as one piece, which is the archive's digest", |b| {
        b.iter(|| Digest::of(heap.bytes()));
    });
    group.bench_function("only looked at for zeros, when all are", |b| {
        let zeros = vec![0; heap.bytes().len()];
        b.iter(|| page::look(&key, &zeros, PAGE, &mut out));
    });
    group.finish();
}

criterion_group!(benches, hashing);
criterion_main!(benches);
