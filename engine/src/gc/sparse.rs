//! Owns the choice of packs that imports are to leave behind: those of 1 MiB and more of which less than half is needed.
//!
//! A pack goes when nothing of it is needed, and a heap's pages change one by one: without this a pack stays for its last page. What is needed of it is stored again by
//! imports that come anyway, and the pack goes when the snapshots before them do.
//!
//! Always: counts a chunk that any snapshot needs, also as what a delta's page is made of. Never: chooses packs of deltas, which are left by their numbers
//! (`ingest/deltas.rs`), nor more than imports can store again at a bearable cost.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use cryostore_format::manifest::Manifest;
use cryostore_format::recipe::{FrameRef, Slice};
use cryostore_format::{ChunkId, PackId, limits as format_limits};

use crate::limits;

/// Bytes of a chunk's id in its pack's directory.
const ID_LEN: u64 = size_of::<ChunkId>() as u64;

/// A pack that imports are to leave behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparsePack {
    /// Its id.
    pub id: PackId,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of it that snapshots need, or that would be stored again.
    pub needed: u64,
}

/// What is needed of packs.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// Those that there are.
    packs: HashMap<PackId, Use>,
    /// Words of all bitmaps.
    words: usize,
}

#[derive(Debug, Default)]
struct Use {
    /// Its length.
    bytes: u64,
    /// A bit for each chunk that is needed.
    chunks: Vec<u64>,
    /// Their stored bytes, and those of their ids.
    needed: u64,
    /// Those of the newest snapshots of all containers: what their next imports would store again.
    newest: u64,
    /// Bytes of pages in delta frames that are made of its chunks, as often as a snapshot needs them: they would become plain pages.
    made_of: u64,
    /// It holds deltas, or what is needed of it is not known.
    stays: bool,
}

impl Use {
    /// Marks chunks of a plain frame, within `words` of memory that are left.
    fn mark(&mut self, frame: &FrameRef, chunks: Range<u16>, left: &mut usize) {
        for number in chunks {
            let chunk = frame.first_chunk.saturating_add(number.into());
            let (word, bit) = (chunk as usize / 64, 1 << (chunk % 64));
            if let Some(more) = (word + 1).checked_sub(self.chunks.len()) {
                // A pack has an id for each of its chunks.
                if u64::from(chunk) >= self.bytes / ID_LEN || more > *left {
                    self.stays = true;
                    return;
                }
                *left -= more;
                self.chunks.resize(word + 1, 0);
            }
            if self.chunks[word] & bit == 0 {
                self.chunks[word] |= bit;
                let chunks = u64::from(frame.chunks.max(1));
                self.needed += u64::from(frame.stored_len).div_ceil(chunks) + ID_LEN;
            }
        }
    }
}

impl Uses {
    /// Counts what is needed of these packs, of which the lengths are given.
    pub(super) fn of(packs: impl Iterator<Item = (PackId, u64)>) -> Self {
        let packs = packs.map(|(id, bytes)| {
            let found = Use {
                bytes,
                ..Use::default()
            };
            (id, found)
        });
        Self {
            packs: packs.collect(),
            words: 0,
        }
    }

    /// Adds what a snapshot needs.
    pub(super) fn add(&mut self, manifest: &Manifest) {
        // For each delta frame, the pages that were gone into.
        let mut pages: Vec<Vec<bool>> = vec![Vec::new(); manifest.deltas.frames().len()];
        for slice in manifest.frame_slices() {
            let end = slice.skip.saturating_add(slice.take);
            self.mark(manifest, slice.frame, slice.skip..end, &mut pages);
        }
    }

    /// Adds a snapshot of which only the packs are known.
    pub(super) fn add_whole(&mut self, manifest: &Manifest) {
        for pack in &manifest.packs {
            if let Some(found) = self.packs.get_mut(pack) {
                found.stays = true;
            }
        }
    }

    /// Marks chunks, and what they are made of.
    fn mark(
        &mut self,
        manifest: &Manifest,
        frame: FrameRef,
        chunks: Range<u16>,
        pages: &mut [Vec<bool>],
    ) {
        let mut open = vec![(frame, chunks, 0)];
        while let Some((frame, chunks, page_len)) = open.pop() {
            let pack = manifest.packs.get(frame.pack as usize);
            let Some(found) = pack.and_then(|pack| self.packs.get_mut(pack)) else {
                continue;
            };
            let Some(rank) = manifest.deltas.rank(&frame) else {
                let mut left = limits::USES_WORDS.saturating_sub(self.words);
                let before = left;
                found.made_of += u64::from(page_len) * chunks.len() as u64;
                found.mark(&frame, chunks, &mut left);
                self.words += before - left;
                continue;
            };
            found.stays = true;
            let Some(seen) = pages.get_mut(rank) else {
                continue;
            };
            let page_len = manifest
                .deltas
                .get(&frame)
                .map_or(0, |delta| delta.page_size);
            seen.resize(usize::from(frame.chunks), false);
            for page in fresh(seen, chunks) {
                let (from, to) = (u32::from(page.start), u32::from(page.end));
                for (first, run) in manifest.deltas.bases(&frame, from, to) {
                    let Slice::Frame(base) = run.base else {
                        continue;
                    };
                    // Pages of the run that are wanted, counted from its start.
                    let page = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                    let skipped = page(from.saturating_sub(first));
                    let end = page(to.saturating_sub(first)).min(base.take);
                    let chunks = base.skip.saturating_add(skipped)..base.skip.saturating_add(end);
                    open.push((base.frame, chunks, page_len));
                }
            }
        }
    }

    /// What was added so far were the newest snapshots.
    pub(super) fn end_of_newest(&mut self) {
        for found in self.packs.values_mut() {
            found.newest = found.needed;
        }
    }

    /// The packs that are worth to be emptied at once, for at most so many bytes: those of which less than half would be stored again, the sparsest first; then the small ones, if there are many.
    pub(super) fn choose_within(&self, most: u64) -> Vec<SparsePack> {
        let known = |found: &&Use| !found.stays && !found.chunks.is_empty();
        let cost = |found: &Use| found.needed + found.made_of;
        let is_small = |found: &Use| found.bytes < limits::SMALL_PACK;
        let small = self
            .packs
            .values()
            .filter(known)
            .filter(|found| is_small(found));
        let many_small = small.count() > limits::SMALL_PACKS;
        let mut wanted: Vec<(&PackId, &Use)> = self
            .packs
            .iter()
            .filter(|(_, found)| known(found))
            .filter(|(_, found)| {
                cost(found) * 2 < found.bytes || many_small && is_small(found) && found.made_of == 0
            })
            .collect();
        wanted.sort_by_key(|(id, found)| (cost(found) * 1000 / found.bytes.max(1), **id));
        let mut spent = 0;
        let fits = wanted.into_iter().filter(|(_, found)| {
            let fits = spent + cost(found) <= most;
            spent += if fits { cost(found) } else { 0 };
            fits
        });
        fits.map(|(id, found)| SparsePack {
            id: *id,
            bytes: found.bytes,
            needed: cost(found),
        })
        .collect()
    }

    /// The packs to leave. Those that imports leave already come first.
    pub(super) fn choose(&self, already: &HashSet<PackId>) -> Vec<SparsePack> {
        let newest: u64 = self.packs.values().map(|found| found.newest).sum();
        let budget = (newest / limits::LEAVE_PART).max(limits::PACK_LEN as u64);
        let mut sparse: Vec<(SparsePack, u64)> = self
            .packs
            .iter()
            .filter(|(_, found)| !found.stays && !found.chunks.is_empty())
            .filter_map(|(id, found)| {
                let sparse = SparsePack {
                    id: *id,
                    bytes: found.bytes,
                    needed: found.needed,
                };
                // Small ones are stored again together when there are many.
                let is_sparse =
                    sparse.bytes >= limits::SMALL_PACK && sparse.needed * 2 < sparse.bytes;
                is_sparse.then_some((sparse, found.newest))
            })
            .collect();
        // In thousandths of the pack.
        let cost = |(pack, newest): &(SparsePack, u64)| newest * 1000 / pack.bytes.max(1);
        sparse.sort_by_key(|pack| (!already.contains(&pack.0.id), cost(pack), pack.0.id));
        let mut spent = 0;
        sparse
            .into_iter()
            .filter(|(_, newest)| {
                let fits = spent + newest <= budget;
                spent += if fits { *newest } else { 0 };
                fits
            })
            .map(|(pack, _)| pack)
            .take(format_limits::LEAVE_MAX)
            .collect()
    }
}

/// Sets some of `seen`: the stretches that were not set before.
fn fresh(seen: &mut [bool], wanted: Range<u16>) -> Vec<Range<u16>> {
    let mut out: Vec<Range<u16>> = Vec::new();
    for number in wanted {
        match seen.get_mut(usize::from(number)) {
            Some(seen) if !*seen => *seen = true,
            _ => continue,
        }
        match out.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            _ => out.push(number..number + 1),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use cryostore_format::Digest;
    use cryostore_format::delta::{BaseRun, DeltaFrame};
    use cryostore_format::manifest::{Body, Role, Stream};
    use cryostore_format::recipe::{FrameSlice, RecipeWriter};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn id(n: u8) -> PackId {
        PackId::from_bytes([n; 16])
    }

    /// A frame of 16 pages that takes 1 MiB.
    fn frame(pack: u32, number: u32) -> FrameRef {
        FrameRef {
            pack,
            offset: 32 + number * (1 << 20),
            stored_len: 1 << 20,
            first_chunk: number * 16,
            chunks: 16,
        }
    }

    fn slice(frame: FrameRef, skip: u16, take: u16) -> FrameSlice {
        FrameSlice {
            frame,
            skip,
            take,
            len: u64::from(take) * 4096,
        }
    }

    /// A snapshot that needs these pages of packs 0, 1, ….
    fn needs(packs: u8, slices: &[FrameSlice]) -> Manifest {
        let mut recipe = RecipeWriter::new(4096);
        slices
            .iter()
            .for_each(|slice| recipe.push(Slice::Frame(*slice)));
        Manifest {
            packs: (0..packs).map(id).collect(),
            streams: vec![Stream {
                name: Vec::new(),
                role: Role::Member,
                len: slices.iter().map(|slice| slice.len).sum(),
                page_size: 4096,
                phase: 0,
                digest: Digest::default(),
                body: Body::Recipe(recipe.finish()),
            }],
            ..Manifest::default()
        }
    }

    fn uses(sizes: &[u64]) -> Uses {
        Uses::of((0..).zip(sizes).map(|(n, len)| (id(n), *len)))
    }

    fn chosen(uses: &Uses, already: &[u8]) -> Vec<SparsePack> {
        uses.choose(&already.iter().map(|n| id(*n)).collect())
    }

    /// A sixteenth of a frame, and an id.
    const CHUNK: u64 = MIB / 16 + 16;

    #[test]
    fn a_chunk_counts_once_whoever_needs_it() {
        let manifest = needs(1, &[slice(frame(0, 0), 0, 8), slice(frame(0, 0), 4, 8)]);
        let found = |bytes| {
            let mut uses = uses(&[bytes]);
            uses.add(&manifest);
            uses.add(&manifest);
            chosen(&uses, &[])
        };
        let sparse = SparsePack {
            id: id(0),
            bytes: 2 * MIB,
            needed: 12 * CHUNK,
        };
        assert_eq!(found(2 * MIB), [sparse]);
        assert_eq!(found(24 * CHUNK), [], "half is needed");
    }

    #[test]
    fn what_a_delta_is_made_of_is_needed_and_packs_of_deltas_stay() {
        let mut manifest = needs(2, &[slice(frame(1, 0), 3, 2)]);
        let delta = DeltaFrame {
            frame: frame(1, 0),
            page_size: 4096,
            bases: vec![BaseRun {
                base: Slice::Frame(slice(frame(0, 2), 0, 16)),
                version: 1,
            }],
        };
        manifest.deltas.add(delta, 0).unwrap();
        let mut uses = uses(&[4 * MIB; 2]);
        uses.add(&manifest);
        let sparse = chosen(&uses, &[]);
        assert_eq!(sparse.len(), 1);
        assert_eq!((sparse[0].id, sparse[0].needed), (id(0), 2 * CHUNK));
    }

    #[test]
    fn the_cheapest_are_left_first_but_for_those_that_are_left_already_up_to_a_bound() {
        // Of packs 0 to 5 with 10 MiB each, the newest snapshot needs 4, 3, 2, 1, 0 and 5 frames of 1 MiB.
        let mut slices = Vec::new();
        for (pack, count) in [(0, 4), (1, 3), (2, 2), (3, 1), (5, 5)] {
            slices.extend((0..count).map(|n| slice(frame(pack, n), 0, 16)));
        }
        let mut uses = uses(&[10 * MIB; 6]);
        uses.add(&needs(6, &slices));
        uses.end_of_newest();
        // An older one needs one frame of pack 4, and all of pack 3.
        let older = (0..10).map(|n| slice(frame(3, n), 0, 16));
        let older: Vec<_> = older.chain([slice(frame(4, 0), 0, 16)]).collect();
        uses.add(&needs(6, &older));
        let order = |already: &[u8]| -> Vec<u8> {
            let sparse = chosen(&uses, already);
            sparse.iter().map(|pack| pack.id.as_bytes()[0]).collect()
        };
        assert_eq!(order(&[]), [4, 2, 1, 0]);
        assert_eq!(order(&[0]), [0, 4, 2, 1]);
        // More than a pack's worth is not stored again where that is more than a fourth of all.
        let mut many = self::uses(&[10 * MIB; 9]);
        let slices: Vec<_> = (0..9)
            .flat_map(|pack| (0..4).map(move |n| slice(frame(pack, n), 0, 16)))
            .collect();
        many.add(&needs(9, &slices));
        many.end_of_newest();
        assert_eq!(chosen(&many, &[]).len(), 3);
    }

    #[test]
    fn a_pack_that_is_small_or_of_which_nothing_is_known_stays() {
        let manifest = needs(2, &[slice(frame(0, 0), 0, 1)]);
        for (bytes, count) in [(MIB - 1, 0), (MIB, 1)] {
            let mut uses = uses(&[bytes, MIB]);
            uses.add(&manifest);
            assert_eq!(chosen(&uses, &[]).len(), count);
            uses.add_whole(&manifest);
            assert_eq!(chosen(&uses, &[]), []);
        }
    }

    #[test]
    fn packs_that_are_not_there_and_chunks_that_no_pack_has_take_no_memory() {
        for (number, first_chunk) in [(0, u32::MAX - 3), (0, 70_000), (1, 0)] {
            let mut uses = uses(&[MIB]);
            let wrong = FrameRef {
                first_chunk,
                ..frame(number, 0)
            };
            uses.add(&needs(2, &[slice(wrong, 0, 16)]));
            assert_eq!((uses.words, uses.packs.len()), (0, 1));
            assert_eq!(chosen(&uses, &[]), []);
        }
        let mut full = uses(&[MIB]);
        full.words = limits::USES_WORDS;
        full.add(&needs(1, &[slice(frame(0, 0), 0, 16)]));
        assert_eq!(chosen(&full, &[]), []);
    }
}
