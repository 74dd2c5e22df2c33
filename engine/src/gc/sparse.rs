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
use cryostore_format::{PackId, limits as format_limits};

use crate::limits;

/// A pack that imports are to leave behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparsePack {
    /// Its id.
    pub id: PackId,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of it that snapshots need.
    pub needed: u64,
}

/// What is needed of packs.
#[derive(Debug, Default)]
pub(super) struct Uses {
    packs: HashMap<PackId, Use>,
}

#[derive(Debug, Default)]
struct Use {
    /// A bit for each chunk that is needed.
    chunks: Vec<u64>,
    /// Their stored bytes.
    needed: u64,
    /// Those of the newest snapshots of all containers: what their next imports would store again.
    newest: u64,
    /// It holds deltas, or what is needed of it is not known.
    stays: bool,
}

impl Use {
    /// Marks chunks of a frame; which of them were not marked before, by their numbers in the frame.
    fn mark(&mut self, frame: &FrameRef, chunks: Range<u16>) -> Vec<Range<u16>> {
        let mut fresh: Vec<Range<u16>> = Vec::new();
        for number in chunks {
            let chunk = frame.first_chunk.saturating_add(number.into());
            if chunk >= format_limits::PACK_CHUNKS_MAX {
                self.stays = true;
                break;
            }
            let (word, bit) = (chunk as usize / 64, 1 << (chunk % 64));
            if self.chunks.len() <= word {
                self.chunks.resize(word + 1, 0);
            }
            if self.chunks[word] & bit == 0 {
                self.chunks[word] |= bit;
                self.needed += u64::from(frame.stored_len) / u64::from(frame.chunks.max(1));
                match fresh.last_mut() {
                    Some(last) if last.end == number => last.end += 1,
                    _ => fresh.push(number..number + 1),
                }
            }
        }
        fresh
    }
}

impl Uses {
    /// Adds what a snapshot needs.
    pub(super) fn add(&mut self, manifest: &Manifest) {
        for n in (0..).take(manifest.streams.len()) {
            let slices = manifest.slices(n).into_iter().flatten();
            for slice in slices.map_while(Result::ok) {
                if let Slice::Frame(slice) = slice {
                    let end = slice.skip.saturating_add(slice.take);
                    self.mark(manifest, slice.frame, slice.skip..end);
                }
            }
        }
    }

    /// Adds a snapshot of which only the packs are known.
    pub(super) fn add_whole(&mut self, manifest: &Manifest) {
        for pack in &manifest.packs {
            self.packs.entry(*pack).or_default().stays = true;
        }
    }

    /// Marks chunks, and what they are made of.
    fn mark(&mut self, manifest: &Manifest, frame: FrameRef, chunks: Range<u16>) {
        let mut open = vec![(frame, chunks)];
        while let Some((frame, chunks)) = open.pop() {
            let Some(pack) = manifest.packs.get(frame.pack as usize) else {
                continue;
            };
            let found = self.packs.entry(*pack).or_default();
            let fresh = found.mark(&frame, chunks);
            if manifest.deltas.get(&frame).is_none() {
                continue;
            }
            found.stays = true;
            for pages in fresh {
                let (from, to) = (u32::from(pages.start), u32::from(pages.end));
                for (first, run) in manifest.deltas.bases(&frame, from, to) {
                    let Slice::Frame(base) = run.base else {
                        continue;
                    };
                    // Pages of the run that are wanted, counted from its start.
                    let page = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                    let skipped = page(from.saturating_sub(first));
                    let end = page(to.saturating_sub(first)).min(base.take);
                    let chunks = base.skip.saturating_add(skipped)..base.skip.saturating_add(end);
                    open.push((base.frame, chunks));
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

    /// The packs to leave; `sizes` has the length of each pack that there is. Those that imports leave already come first.
    pub(super) fn choose(
        &self,
        sizes: &HashMap<PackId, u64>,
        already: &HashSet<PackId>,
    ) -> Vec<SparsePack> {
        let newest: u64 = self.packs.values().map(|found| found.newest).sum();
        let budget = (newest / limits::LEAVE_PART).max(limits::PACK_LEN as u64);
        let mut sparse: Vec<(SparsePack, u64)> = self
            .packs
            .iter()
            .filter(|(_, found)| !found.stays)
            .filter_map(|(id, found)| {
                let sparse = SparsePack {
                    id: *id,
                    bytes: *sizes.get(id)?,
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

    fn chosen(uses: &Uses, sizes: &[u64], already: &[u8]) -> Vec<SparsePack> {
        let sizes = (0..).zip(sizes).map(|(n, len)| (id(n), *len)).collect();
        uses.choose(&sizes, &already.iter().map(|n| id(*n)).collect())
    }

    #[test]
    fn a_chunk_counts_once_whoever_needs_it() {
        let mut uses = Uses::default();
        let manifest = needs(1, &[slice(frame(0, 0), 0, 8), slice(frame(0, 0), 4, 8)]);
        uses.add(&manifest);
        uses.add(&manifest);
        let half = SparsePack {
            id: id(0),
            bytes: 2 * MIB,
            needed: 12 * (MIB / 16),
        };
        assert_eq!(chosen(&uses, &[2 * MIB], &[]), [half]);
        assert_eq!(chosen(&uses, &[24 * (MIB / 16)], &[]), [], "half is needed");
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
        let mut uses = Uses::default();
        uses.add(&manifest);
        let sparse = chosen(&uses, &[4 * MIB, 4 * MIB], &[]);
        assert_eq!(sparse.len(), 1);
        assert_eq!((sparse[0].id, sparse[0].needed), (id(0), 2 * (MIB / 16)));
    }

    #[test]
    fn the_cheapest_are_left_first_but_for_those_that_are_left_already_up_to_a_bound() {
        // Of packs 0 to 5 with 10 MiB each, the newest snapshot needs 4, 3, 2, 1, 0 and 5 frames of 1 MiB.
        let mut slices = Vec::new();
        for (pack, count) in [(0, 4), (1, 3), (2, 2), (3, 1), (5, 5)] {
            slices.extend((0..count).map(|n| slice(frame(pack, n), 0, 16)));
        }
        let mut uses = Uses::default();
        uses.add(&needs(6, &slices));
        uses.end_of_newest();
        // An older one needs one frame of pack 4, and all of pack 3.
        let older: Vec<_> = (0..10).map(|n| slice(frame(3, n), 0, 16)).collect();
        uses.add(&needs(
            6,
            &[older, vec![slice(frame(4, 0), 0, 16)]].concat(),
        ));
        let order = |already: &[u8]| -> Vec<u8> {
            let sparse = chosen(&uses, &[10 * MIB; 6], already);
            sparse.iter().map(|pack| pack.id.as_bytes()[0]).collect()
        };
        assert_eq!(order(&[]), [4, 2, 1, 0]);
        assert_eq!(order(&[0]), [0, 4, 2, 1]);
        // More than a pack's worth is not stored again where that is more than a fourth of all.
        let mut many = Uses::default();
        let slices: Vec<_> = (0..9)
            .flat_map(|pack| (0..4).map(move |n| slice(frame(pack, n), 0, 16)))
            .collect();
        many.add(&needs(9, &slices));
        many.end_of_newest();
        assert_eq!(chosen(&many, &[10 * MIB; 9], &[]).len(), 4);
    }

    #[test]
    fn a_pack_that_is_small_or_of_which_nothing_is_known_stays() {
        let mut uses = Uses::default();
        uses.add(&needs(2, &[slice(frame(0, 0), 0, 1)]));
        assert_eq!(chosen(&uses, &[MIB - 1, MIB], &[]), []);
        assert_eq!(chosen(&uses, &[MIB, MIB], &[]).len(), 1);
        uses.add_whole(&needs(1, &[]));
        assert_eq!(chosen(&uses, &[MIB, MIB], &[]), []);
    }

    #[test]
    fn numbers_that_no_pack_has_take_no_memory() {
        let mut far = frame(0, 0);
        far.first_chunk = u32::MAX - 3;
        let mut uses = Uses::default();
        uses.mark(&needs(1, &[]), far, 0..16);
        assert_eq!(uses.packs[&id(0)].chunks.len(), 0);
        assert_eq!(chosen(&uses, &[MIB], &[]), []);
    }
}
