//! Owns the comparison with the base: which page stood at the same address, and which pieces the base's other streams have.
//!
//! Always: walks forward only, so that the memory it takes does not grow with the base; what it cannot find is looked for elsewhere.
//! A pack that is missing is never referred to: in a directory each is looked for, in a bucket the base was seen after the session had begun, which is enough by the protocol.
//! Never: asks the index.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cryostore_format::delta::DeltaFrame;
use cryostore_format::manifest::{Body, Manifest, MapOf, PageMap, RunPlace};
use cryostore_format::recipe::{FrameRef, Slice, Slices};
use cryostore_format::{ChunkId, PackId, SnapshotId};

use crate::limits;
use crate::pack::directories::PackDirectory;

/// The snapshot that is compared with.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) id: SnapshotId,
    pub(super) manifest: Arc<Manifest>,
    /// Its packs are there, without a look at each: the protocol says so.
    pub(super) is_whole: bool,
}

/// A chunk of the base: its frame (its pack by number in the base's table), and its number within the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BaseChunk {
    pub(super) frame: FrameRef,
    pub(super) number: u16,
}

/// What stood at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BasePage {
    Zero,
    Chunk(BaseChunk),
}

impl Base {
    /// A walk along the pages of one process or segment; none if the base does not have it.
    pub(super) fn walk(&self, of: MapOf, page_size: u32) -> Option<BaseWalk<'_>> {
        let fits = |map: &&PageMap| {
            map.of == of && !map.stale && map.page_size == page_size && map.stream.is_some()
        };
        let map = self.manifest.maps.iter().find(fits)?;
        let stream = map.stream?;
        let phase_free = self
            .manifest
            .streams
            .get(stream as usize)
            .is_some_and(|s| s.phase == 0 && s.page_size == page_size);
        let slices = self.manifest.slices(stream).filter(|_| phase_free)?;
        Some(BaseWalk {
            runs: map.runs.iter(),
            run: None,
            next_in_image: 0,
            slices,
            slice: None,
            slice_start: 0,
            page_size: page_size.into(),
        })
    }

    /// Packs, by number, of which the base needs little.
    pub(super) fn small_packs(&self) -> HashSet<u32> {
        let manifest = &self.manifest;
        let mut needed: HashMap<u32, u64> = HashMap::new();
        let deltas = manifest.deltas.frames().iter();
        let bases = deltas.flat_map(|delta| &delta.bases);
        let bases = bases.filter_map(|run| match run.base {
            Slice::Frame(slice) => Some(slice),
            Slice::Zero { .. } => None,
        });
        for slice in manifest.frame_slices().chain(bases) {
            // Delta frames have an order of their own.
            if manifest.deltas.get(&slice.frame).is_none() {
                *needed.entry(slice.frame.pack).or_default() += slice.len;
            }
        }
        needed.retain(|_, bytes| *bytes < limits::SMALL_PACK);
        needed.into_keys().collect()
    }

    /// Packs, by number, of which nothing is to be kept: those of `left`, and those of which little is needed, if there are too many of them. Whatever is needed of them is
    /// stored again. Not those that pages stand on which `keeps` says are kept as deltas: with these, 127 others would have to be made anew.
    pub(super) fn packs_to_leave(
        &self,
        left: &HashSet<PackId>,
        keeps: impl Fn(&DeltaFrame) -> bool,
    ) -> HashSet<u32> {
        let manifest = &self.manifest;
        if left.is_empty() && manifest.packs.len() <= limits::SMALL_PACKS {
            return HashSet::new();
        }
        let kept = manifest.deltas.frames().iter().filter(|delta| keeps(delta));
        let stays: HashSet<u32> = kept
            .flat_map(DeltaFrame::base_frames)
            .map(|frame| frame.pack)
            .collect();
        let goes = |pack: &u32| !stays.contains(pack);
        let mut small = self.small_packs();
        small.retain(goes);
        if small.len() <= limits::SMALL_PACKS {
            small.clear();
        }
        let sparse = (0..).zip(&manifest.packs);
        let sparse = sparse.filter(|(n, pack)| left.contains(pack) && goes(n));
        small.extend(sparse.map(|(n, _)| n));
        small
    }

    /// Id → chunk, for the pages of delta frames whose ids this node has, as many as are kept in memory.
    pub(super) fn delta_pages(
        &self,
        most: usize,
        mut directory: impl FnMut(PackId) -> Option<Arc<PackDirectory>>,
    ) -> HashMap<ChunkId, BaseChunk> {
        let mut out = HashMap::new();
        // The newest stand last.
        for delta in self.manifest.deltas.frames().iter().rev() {
            let frame = delta.frame;
            let pack = self.manifest.packs.get(frame.pack as usize);
            let Some(directory) = pack.and_then(|pack| directory(*pack)) else {
                continue;
            };
            for number in 0..frame.chunks {
                if out.len() >= most {
                    return out;
                }
                if let Some(id) = directory.id(frame.first_chunk + u32::from(number)) {
                    out.entry(id).or_insert(BaseChunk { frame, number });
                }
            }
        }
        out
    }

    /// Id → chunk, for all chunks of streams that are no page images, as many as are kept in memory.
    pub(super) fn pieces(
        &self,
        most: usize,
        mut directory: impl FnMut(PackId) -> Option<Arc<PackDirectory>>,
    ) -> HashMap<ChunkId, BaseChunk> {
        let mut out = HashMap::new();
        for (n, stream) in (0..).zip(&self.manifest.streams) {
            if stream.page_size != 0 || !matches!(stream.body, Body::Recipe(_)) {
                continue;
            }
            for slice in self
                .manifest
                .slices(n)
                .into_iter()
                .flatten()
                .map_while(Result::ok)
            {
                let Slice::Frame(slice) = slice else { continue };
                let Some(pack) = self.manifest.packs.get(slice.frame.pack as usize) else {
                    continue;
                };
                let Some(directory) = directory(*pack) else {
                    continue;
                };
                for number in slice.skip..slice.skip + slice.take {
                    if out.len() >= most {
                        return out;
                    }
                    if let Some(id) = directory.id(slice.frame.first_chunk + u32::from(number)) {
                        out.insert(
                            id,
                            BaseChunk {
                                frame: slice.frame,
                                number,
                            },
                        );
                    }
                }
            }
        }
        out
    }
}

/// Goes through the pages of the base in the order of their addresses.
#[derive(Debug)]
pub(super) struct BaseWalk<'b> {
    runs: std::slice::Iter<'b, cryostore_format::manifest::AddressRun>,
    /// First page number, number of pages, number of the first within the image.
    run: Option<(u64, u64, u64)>,
    next_in_image: u64,
    slices: Slices<'b>,
    slice: Option<Slice>,
    /// Number of the slice's first page within the image.
    slice_start: u64,
    page_size: u64,
}

impl BaseWalk<'_> {
    /// What stood at the page `number`. Numbers must come in ascending order: an earlier one is not found.
    pub(super) fn at(&mut self, number: u64) -> Option<BasePage> {
        loop {
            match self.run {
                Some((first, _, _)) if number < first => return None,
                Some((first, pages, in_image)) if number - first < pages => {
                    return self.in_image(in_image.checked_add(number - first)?);
                }
                _ => self.next_run()?,
            }
        }
    }

    fn next_run(&mut self) -> Option<()> {
        let run = self.runs.find(|run| run.place == RunPlace::Image)?;
        self.run = Some((run.page_number, run.pages, self.next_in_image));
        self.next_in_image = self.next_in_image.checked_add(run.pages)?;
        Some(())
    }

    fn in_image(&mut self, page: u64) -> Option<BasePage> {
        loop {
            if let Some(slice) = self.slice {
                let pages = slice.len().div_ceil(self.page_size);
                let within = page.checked_sub(self.slice_start)?;
                if within < pages {
                    return Some(match slice {
                        Slice::Zero { .. } => BasePage::Zero,
                        Slice::Frame(slice) => BasePage::Chunk(BaseChunk {
                            frame: slice.frame,
                            number: slice.skip
                                + u16::try_from(within).ok().filter(|n| *n < slice.take)?,
                        }),
                    });
                }
                self.slice_start = self.slice_start.checked_add(pages)?;
            }
            self.slice = Some(self.slices.next()?.ok()?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryostore_format::Digest;
    use cryostore_format::manifest::{AddressRun, Layout, Role, Stream};
    use cryostore_format::recipe::{FrameSlice, RecipeWriter};

    fn base() -> Base {
        let frame = |n: u32| FrameRef {
            pack: 0,
            offset: 32 + n * 100,
            stored_len: 100,
            first_chunk: n * 16,
            chunks: 16,
        };
        let mut recipe = RecipeWriter::new(4096);
        recipe.push(Slice::Frame(FrameSlice {
            frame: frame(0),
            skip: 0,
            take: 3,
            len: 3 * 4096,
        }));
        recipe.push(Slice::Zero { len: 2 * 4096 });
        recipe.push(Slice::Frame(FrameSlice {
            frame: frame(1),
            skip: 4,
            take: 2,
            len: 2 * 4096,
        }));
        let stream = Stream {
            name: b"pages-1.img".to_vec(),
            role: Role::Member,
            len: 7 * 4096,
            page_size: 4096,
            phase: 0,
            digest: Digest::default(),
            body: Body::Recipe(recipe.finish()),
        };
        let run = |page_number, pages, place| AddressRun {
            page_number,
            pages,
            place,
        };
        let runs = vec![
            run(10, 4, RunPlace::Image),
            run(14, 5, RunPlace::Parent),
            run(100, 3, RunPlace::Image),
        ];
        let map = PageMap {
            of: MapOf::Process(1),
            stale: false,
            stream: Some(0),
            page_size: 4096,
            runs,
        };
        Base {
            id: SnapshotId::default(),
            manifest: Arc::new(Manifest {
                packs: vec![PackId::default()],
                streams: vec![stream],
                layout: Layout::default(),
                maps: vec![map],
                tables: Vec::new(),
                deltas: cryostore_format::delta::Deltas::default(),
            }),
            is_whole: false,
        }
    }

    #[test]
    fn the_page_that_stood_at_an_address_is_found_and_only_that() {
        let base = base();
        let at = |number: u64| base.walk(MapOf::Process(1), 4096).unwrap().at(number);
        let chunk = |found: Option<BasePage>| match found {
            Some(BasePage::Chunk(chunk)) => Some((chunk.frame.first_chunk, chunk.number)),
            _ => None,
        };
        assert_eq!((chunk(at(10)), chunk(at(12))), (Some((0, 0)), Some((0, 2))));
        assert_eq!(
            (at(13), at(100)),
            (Some(BasePage::Zero), Some(BasePage::Zero))
        );
        assert_eq!(
            (chunk(at(101)), chunk(at(102))),
            (Some((16, 4)), Some((16, 5)))
        );
        for hole in [0, 9, 14, 18, 99, 103, u64::MAX] {
            assert_eq!(at(hole), None, "{hole}");
        }
        assert!(
            base.walk(MapOf::Process(2), 4096).is_none()
                && base.walk(MapOf::Process(1), 65536).is_none()
        );
    }

    #[test]
    fn one_walk_finds_all_pages_in_order_and_does_not_go_back() {
        let base = base();
        let mut walk = base.walk(MapOf::Process(1), 4096).unwrap();
        let found: Vec<_> = (0..200).filter(|n| walk.at(*n).is_some()).collect();
        assert_eq!(found, [10, 11, 12, 13, 100, 101, 102]);
        assert_eq!(walk.at(10), None);
    }
}
