//! Owns the workload's memory: what it is filled with and what one step changes.
//!
//! Always: the same size and seed give the same content and the same changes; one step changes about one page in twenty.
//! Never: does I/O, asks for randomness or the time.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::hint::black_box;

/// Shares of the memory in percent. The rest goes to the small objects.
const FLOATS: usize = 35;
const INTEGERS: usize = 25;
const ZEROS: usize = 10;
/// A step visits one part in so many of each area.
const PARTS: usize = 20;
/// Integers that are close enough to share a page.
const GROUP: usize = 512;
/// Objects made one after the other lie side by side; so many are changed together, as a request does with its own.
const CLUSTER: usize = 128;
/// One in so many changed objects gets a new text of another length, the others change in place.
const REPLACED: u64 = 64;
/// What one object costs beside its text: two strings in the table and two headers of the allocator.
const OBJECT_OVERHEAD: usize = 90;

/// Fixed keys, so that the table lies the same way in each run.
type Objects = HashMap<String, String, BuildHasherDefault<DefaultHasher>>;

/// The memory of the workload.
#[derive(Debug)]
pub(crate) struct Heap {
    floats: Vec<f64>,
    integers: Vec<u64>,
    /// A pool of wiped buffers, of which one is in use.
    buffers: Vec<u8>,
    objects: Objects,
    random: SplitMix,
    steps: usize,
}

impl Heap {
    /// Fills about `len` bytes.
    pub(crate) fn new(len: usize, seed: u64) -> Self {
        let mut random = SplitMix(seed);
        let floats = (0..len * FLOATS / 100 / size_of::<f64>())
            .map(|_| random.unit())
            .collect();
        let integers = rising(len * INTEGERS / 100 / size_of::<u64>(), &mut random);
        // Zeros that were written: such pages are in a dump, untouched ones are not.
        let mut buffers = black_box(vec![1; len * ZEROS / 100]);
        buffers.fill(0);
        let objects = new_objects(len * (100 - FLOATS - INTEGERS - ZEROS) / 100, &mut random);
        Self {
            floats,
            integers,
            buffers,
            objects,
            random,
            steps: 0,
        }
    }

    /// Changes about one page in twenty.
    pub(crate) fn step(&mut self) {
        self.train();
        self.count();
        self.serve();
        self.receive();
        self.steps += 1;
    }

    /// A window of the floats gets new values, as weights do.
    fn train(&mut self) {
        let window = self.floats.len() / PARTS;
        let from = self.steps % PARTS * window;
        for value in self.floats.iter_mut().skip(from).take(window) {
            *value = *value * 0.999 + self.random.unit() * 0.001;
        }
    }

    /// A few counters move in scattered groups of the integers; the rest of their page stays.
    fn count(&mut self) {
        let groups = self.integers.len() / GROUP;
        for _ in 0..groups / PARTS {
            let group = self.random.below(groups) * GROUP;
            for _ in 0..8 {
                let at = group + self.random.below(GROUP);
                if let Some(counter) = self.integers.get_mut(at) {
                    *counter += 1;
                }
            }
        }
    }

    /// Runs of neighbouring objects change their text, some of them their length too.
    fn serve(&mut self) {
        let objects = self.objects.len();
        for _ in 0..objects / PARTS / CLUSTER {
            let first = self.random.below(objects);
            for number in first..(first + CLUSTER).min(objects) {
                let digits = self.random.next();
                let Some(text) = self.objects.get_mut(&key(number)) else {
                    continue;
                };
                if digits.is_multiple_of(REPLACED) {
                    *text = new_text(number, &mut self.random);
                } else {
                    text.truncate(text.len().saturating_sub(16));
                    text.push_str(&format!("{digits:016x}"));
                }
            }
        }
    }

    /// The buffer in use is wiped and the next one filled.
    fn receive(&mut self) {
        let window = (self.buffers.len() / PARTS).max(1);
        let next = self.steps % PARTS;
        for (number, buffer) in self.buffers.chunks_mut(window).enumerate() {
            if number == next {
                buffer.fill_with(|| self.random.next().to_le_bytes()[0]);
            } else if number + 1 == next {
                buffer.fill(0);
            }
        }
    }
}

/// Like a column of times: no two pages are the same, and all compress.
fn rising(count: usize, random: &mut SplitMix) -> Vec<u64> {
    let mut last = 1_795_000_000_000;
    let mut next = || {
        last += random.next() % 1000;
        last
    };
    (0..count).map(|_| next()).collect()
}

fn new_objects(len: usize, random: &mut SplitMix) -> Objects {
    let mut texts = Vec::new();
    let mut used = 0;
    while used < len {
        let text = new_text(texts.len(), random);
        used += text.len() + OBJECT_OVERHEAD;
        texts.push((key(texts.len()), text));
    }
    texts.into_iter().collect()
}

fn key(number: usize) -> String {
    format!("session:{number:08}")
}

/// Text as a service keeps it: field names repeat, values do not. It ends in the 16 digits that change in place.
fn new_text(number: usize, random: &mut SplitMix) -> String {
    let mut text = format!(
        "{{\"id\":{number},\"user\":\"user-{}\",\"path\":[",
        random.below(5000)
    );
    for _ in 0..random.below(6) {
        text.push_str(&format!("\"/api/v1/items/{}\",", random.below(1000)));
    }
    text.push_str(&format!("],\"token\":\"{:016x}", random.next()));
    text.shrink_to_fit();
    text
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, and the same everywhere.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, or 0 if there is none.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % limit).unwrap_or(0)
    }

    /// A number from 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_memory_and_the_same_steps() {
        let mut first = Heap::new(1 << 20, 1);
        let mut second = Heap::new(1 << 20, 1);
        first.step();
        second.step();
        assert!(
            first.floats == second.floats
                && first.integers == second.integers
                && first.objects == second.objects
        );
        assert!(first.floats != Heap::new(1 << 20, 2).floats);
    }

    #[test]
    fn a_step_changes_about_one_part_in_twenty_of_each_area() {
        let before = Heap::new(4 << 20, 1);
        let mut after = Heap::new(4 << 20, 1);
        after.step();
        let floats = before
            .floats
            .iter()
            .zip(&after.floats)
            .filter(|(old, new)| old != new)
            .count();
        let groups = before
            .integers
            .chunks(GROUP)
            .zip(after.integers.chunks(GROUP))
            .filter(|(old, new)| old != new)
            .count();
        let objects = before
            .objects
            .iter()
            .filter(|(key, text)| after.objects.get(*key) != Some(text))
            .count();
        let per_cent = |changed: usize, all: usize| changed * 100 / all;
        assert!((4..=5).contains(&per_cent(floats, before.floats.len())));
        assert!((3..=6).contains(&per_cent(groups, before.integers.len() / GROUP)));
        assert!((3..=6).contains(&per_cent(objects, before.objects.len())));
    }
}
