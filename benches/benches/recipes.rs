//! How long does it take to write and to read the recipe of a page image?

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark fails by panicking, and criterion's macros make undocumented items"
)]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use cryostore_benches::pages::Random;
use cryostore_format::recipe::{FrameRef, FrameSlice, Recipe, RecipeWriter, Slice};

/// Slices of the recipe; of a heap of 16 GiB of which every tenth page changed it is about ten times as many.
const SLICES: u32 = 100_000;
const PACKS: u32 = 40;

/// Frames of 16 pages, one after the other, of which `broken` in 100 are passed over for a page that lies elsewhere.
fn slices(broken: u64) -> Vec<Slice> {
    let mut random = Random::new(3);
    let per_pack = SLICES / PACKS;
    (0..SLICES)
        .map(|n| {
            let elsewhere = random.below(100) < broken;
            let pick = |random: &mut Random, end: u32| {
                u32::try_from(random.below(u64::from(end))).unwrap()
            };
            let (pack, at) = if elsewhere {
                (pick(&mut random, PACKS), pick(&mut random, per_pack))
            } else {
                (n / per_pack, n % per_pack)
            };
            if random.below(20) == 0 {
                return Slice::Zero { len: 4096 };
            }
            let (skip, take) = if elsewhere { (5, 1) } else { (0, 16) };
            Slice::Frame(FrameSlice {
                frame: FrameRef {
                    pack,
                    offset: 32 + at * 35_000,
                    stored_len: 35_000,
                    first_chunk: at * 16,
                    chunks: 16,
                },
                skip,
                take,
                len: u64::from(take) * 4096,
            })
        })
        .collect()
}

fn write(slices: &[Slice]) -> Recipe {
    let mut writer = RecipeWriter::new(4096);
    slices.iter().for_each(|slice| writer.push(*slice));
    writer.finish()
}

fn recipes(c: &mut Criterion) {
    let mut group = c.benchmark_group("recipe of 100,000 slices");
    group
        .throughput(Throughput::Elements(SLICES.into()))
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    for (name, broken) in [
        ("one after the other", 0),
        ("every tenth elsewhere", 10),
        ("all anywhere", 100),
    ] {
        let slices = slices(broken);
        group.bench_with_input(BenchmarkId::new("encode", name), &slices, |b, slices| {
            b.iter(|| write(slices).encoded_len());
        });
        let recipe = write(&slices);
        group.bench_with_input(BenchmarkId::new("decode", name), &recipe, |b, recipe| {
            b.iter(|| {
                let lens = recipe.slices(PACKS as usize);
                lens.map(|slice| slice.unwrap().len()).sum::<u64>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, recipes);
criterion_main!(benches);
