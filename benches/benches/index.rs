//! What does the index cost at 1, 10 and 100 million ids: a hit, a miss, and making it anew?
//!
//! 100 million (3 GB on the disk, some minutes) only with `CRYOSTORE_BENCH_IDS=100`; the number is of millions, and may be another.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark fails by panicking and prints what it found; criterion's macros make undocumented items"
)]

use std::time::{Duration, Instant};

use criterion::{
    BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use cryostore_benches::pages::Random;
use cryostore_engine::measured::LocalIndex;
use cryostore_engine::{Memory, Silent, limits, rebuild_index};
use cryostore_format::segment::{PackIds, Segment};
use cryostore_format::{ChunkId, PackId, SegmentId};
use cryostore_tests::Place;

const MILLION: u64 = 1_000_000;
const IDS_PER_PACK: u64 = 8_000;

fn bytes16(seed: u64, n: u64) -> [u8; 16] {
    let mut random = Random::of(seed, n);
    let mut out = [0; 16];
    out[..8].copy_from_slice(&random.word().to_le_bytes());
    out[8..].copy_from_slice(&random.word().to_le_bytes());
    out
}

fn chunk(n: u64) -> ChunkId {
    ChunkId::from_bytes(bytes16(1, n))
}

/// A store with segments of so many million ids, and packs of which there is only the name: all that a rebuild looks at.
fn store(millions: u64) -> Place {
    let place = Place::new();
    let dir = place.store_dir();
    std::fs::create_dir_all(dir.join("index")).unwrap();
    for segment in 0..millions {
        let per_segment = MILLION / IDS_PER_PACK;
        let packs: Vec<PackIds> = (segment * per_segment..(segment + 1) * per_segment)
            .map(|n| PackIds {
                pack: PackId::from_bytes(bytes16(2, n)),
                pack_len: 16 << 20,
                ids: (n * IDS_PER_PACK..(n + 1) * IDS_PER_PACK)
                    .map(chunk)
                    .collect(),
            })
            .collect();
        for pack in &packs {
            let name = pack.pack.to_string();
            let under = dir.join("packs").join(&name[..2]);
            std::fs::create_dir_all(&under).unwrap();
            std::fs::write(under.join(name), []).unwrap();
        }
        let id = SegmentId::from_bytes(bytes16(3, segment));
        let bytes = Segment { packs }.encode();
        std::fs::write(dir.join("index").join(id.to_string()), bytes).unwrap();
    }
    place
}

/// Makes the index anew from the store.
fn rebuild(place: &Place, millions: u64) -> Duration {
    let repo = place.open();
    let start = Instant::now();
    let rebuilt = rebuild_index(&repo, &Silent).unwrap();
    let took = start.elapsed();
    assert_eq!(rebuilt.ids, millions * MILLION);
    took
}

/// Sorted, as an import asks.
fn batch(random: &mut Random, from: u64, count: u64) -> Vec<ChunkId> {
    let mut ids: Vec<ChunkId> = (0..limits::LOOKUP_BATCH)
        .map(|_| chunk(from + random.below(count)))
        .collect();
    ids.sort_unstable();
    ids
}

fn look_ups(c: &mut Criterion, millions: u64) {
    // Made when the first benchmark runs that needs it.
    let mut made: Option<(Place, LocalIndex)> = None;
    let mut open = || {
        let place = store(millions);
        let took = rebuild(&place, millions);
        println!(
            "index: made anew from segments/{millions} million ids: {:.2} s, once",
            took.as_secs_f64()
        );
        let index =
            LocalIndex::open(&place.open().index_dir().unwrap(), Memory::default()).unwrap();
        (place, index)
    };
    let count = millions * MILLION;
    for (name, from, found) in [("hit", 0, true), ("miss", count, false)] {
        let mut group = c.benchmark_group(format!("index: {name}"));
        group
            .throughput(Throughput::Elements(limits::LOOKUP_BATCH as u64))
            .warm_up_time(Duration::from_secs(1))
            .measurement_time(Duration::from_secs(3))
            .sample_size(20);
        let mut random = Random::new(5);
        let id = BenchmarkId::from_parameter(format!("256 ids among {millions} million"));
        group.bench_function(id, |b| {
            let (_, index) = made.get_or_insert_with(&mut open);
            b.iter_batched(
                || batch(&mut random, from, count),
                |ids| {
                    let places = index.look_up(&ids).unwrap();
                    assert!(places.iter().all(|place| place.is_some() == found));
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

fn rebuilds(c: &mut Criterion) {
    let mut group = c.benchmark_group("index: made anew from segments");
    group
        .throughput(Throughput::Elements(MILLION))
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(8))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10);
    let mut made: Option<Place> = None;
    group.bench_function("1 million ids", |b| {
        let place = made.get_or_insert_with(|| store(1));
        b.iter_custom(|count| (0..count).map(|_| rebuild(place, 1)).sum());
    });
    group.finish();
}

fn index(c: &mut Criterion) {
    rebuilds(c);
    let more = std::env::var("CRYOSTORE_BENCH_IDS").ok();
    let more = more.and_then(|text| text.parse().ok());
    for millions in [1, 10].into_iter().chain(more) {
        look_ups(c, millions);
    }
}

criterion_group!(benches, index);
criterion_main!(benches);
