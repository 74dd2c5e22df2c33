//! Owns the comparison with the base: which chunks are the same, which of them are referred to, and which are stored again.
//!
//! Always: a chunk of the base is referred to only if its pack is whole, and all that it is made of. Never: asks the index.

use std::sync::Arc;

use cryostore_format::manifest::{Body, Stream, StreamIndex};
use cryostore_format::recipe::{FrameRef, FrameSlice, RecipeWriter, Slice};
use cryostore_format::{ChunkHash, ChunkId, Digest};

use super::{Found, Writer, count};
use crate::error::Result;
use crate::ingest::base::{Base, BaseChunk};
use crate::ingest::deltas::{self, PageBase};
use crate::limits;
use crate::pack::reading::{Fetched, frame_hashes};

impl<'r> Writer<'r> {
    /// True if a chunk of the base has this id.
    pub(super) fn is_same(&mut self, chunk: BaseChunk, id: ChunkId) -> bool {
        let pack = self.base.map(|base| &base.manifest.packs);
        let pack = pack.and_then(|packs| packs.get(chunk.frame.pack as usize));
        let Some(directory) = pack.and_then(|pack| self.directory(*pack)) else {
            return false;
        };
        let stood = directory
            .id(chunk.frame.first_chunk + u32::from(chunk.number))
            .or_else(|| self.delta_id(chunk));
        stood == Some(id)
    }

    /// Id of a page in a delta frame whose ids this node does not have: the frame is put together.
    pub(super) fn delta_id(&mut self, chunk: BaseChunk) -> Option<ChunkId> {
        let manifest = &self.base?.manifest;
        manifest.deltas.get(&chunk.frame)?;
        let key = (chunk.frame.pack, chunk.frame.offset);
        if !self.delta_ids.contains_key(&key) {
            if self.delta_ids.len() >= self.repo.memory().delta_ids() {
                self.delta_ids.clear();
            }
            let (vault, mut count) = (self.repo.vault(), Fetched::default());
            let hashes = frame_hashes(vault, manifest, chunk.frame, self.repo.key(), &mut count);
            let hashes = hashes.unwrap_or_else(|e| {
                self.monitor
                    .warning(&format!("pages are not compared with the base: {e}"));
                Vec::new()
            });
            self.delta_ids.insert(key, hashes);
        }
        let hashes = self.delta_ids.get(&key)?;
        hashes.get(usize::from(chunk.number)).map(ChunkHash::id)
    }

    /// A page that is the same as the base's chunk: that chunk, if its pack is there; or the page once more, if later checkpoints are not to need that chunk.
    pub(super) fn keep_or_store_again(&mut self, chunk: BaseChunk) -> Found {
        if self.is_left(chunk) {
            return Found::Again(self.page_base(chunk, true));
        }
        if self.changed
            && self.is_between(chunk)
            && let Some(base) = self.page_base(chunk, true)
        {
            return Found::Again(Some(base));
        }
        match self.base_frame(chunk) {
            Some((frame, number)) => Found::Same(frame, number),
            None => Found::Open,
        }
    }

    /// True if this manifest is not to need a chunk of the base.
    pub(super) fn is_left(&mut self, chunk: BaseChunk) -> bool {
        self.base
            .is_some_and(|base| self.is_left_behind(&base.manifest, &chunk.frame))
    }

    /// A chunk of the base that stood elsewhere; open if the page can as well be made of what stood at its own place.
    pub(super) fn refer_or_store(&mut self, chunk: BaseChunk, stood: Option<BaseChunk>) -> Found {
        if self.is_between(chunk)
            && stood.is_some_and(|stood| self.page_base(stood, false).is_some())
        {
            return Found::Open;
        }
        match self.base_frame(chunk) {
            Some((frame, number)) => Found::Elsewhere(frame, number),
            None => Found::Open,
        }
    }

    /// True if later checkpoints are not to need this chunk of the base.
    pub(super) fn is_between(&self, chunk: BaseChunk) -> bool {
        let base = self.delta_base.as_ref();
        base.is_some_and(|(manifest, step)| deltas::is_between(manifest, chunk, *step))
    }

    /// What a changed page is to be made of, or one that is stored again; none if it is to be stored as it is.
    pub(super) fn page_base(&mut self, stood: BaseChunk, again: bool) -> Option<PageBase> {
        let (manifest, step) = self.delta_base.as_ref()?;
        if self.runs >= limits::DELTA_RUNS {
            return None;
        }
        let manifest = Arc::clone(manifest);
        let mut bases = deltas::page_bases(&manifest, stood, *step);
        // All that it is put together of must be there, and stay.
        let chunk = bases.find(|chunk| !self.is_left_behind(&manifest, &chunk.frame))?;
        // Of a base in a bucket nothing is downloaded for a delta: it would be more than the delta saves.
        let good = self.is_near(&manifest, &chunk.frame) && self.is_whole(&manifest, &chunk.frame);
        good.then_some(PageBase { chunk, again })
    }

    pub(super) fn base_piece(&mut self, id: ChunkId) -> Option<BaseChunk> {
        let base = self.base?;
        let pieces = match self.base_pieces.take() {
            Some(pieces) => pieces,
            None => base.pieces(self.repo.memory().base_chunks(), |pack| {
                self.directory(pack)
            }),
        };
        let found = pieces.get(&id).copied();
        self.base_pieces = Some(pieces);
        found
    }

    /// A page in a delta frame of the base, wherever it stood: the index does not have these.
    pub(super) fn base_delta(&mut self, id: ChunkId) -> Option<BaseChunk> {
        let base = self.base?;
        let pages = match self.base_deltas.take() {
            Some(pages) => pages,
            None => base.delta_pages(self.repo.memory().base_chunks(), |pack| {
                self.directory(pack)
            }),
        };
        let found = pages.get(&id).copied();
        self.base_deltas = Some(pages);
        found
    }

    /// A chunk of the base with its pack's number in this manifest, and all that it is made of.
    pub(super) fn base_frame(&mut self, chunk: BaseChunk) -> Option<(FrameRef, u16)> {
        let manifest = Arc::clone(&self.base?.manifest);
        if manifest.deltas.rank(&chunk.frame).is_some() {
            if !self.is_whole(&manifest, &chunk.frame) {
                return None;
            }
            self.take_over(&manifest, &chunk.frame)?;
        }
        Some((self.base_frame_ref(chunk.frame)?, chunk.number))
    }

    /// True if the store has a pack of the base.
    pub(super) fn base_pack_is_whole(&mut self, pack: u32) -> bool {
        let packs = self.base.map(|base| &base.manifest.packs);
        let pack = packs.and_then(|packs| packs.get(pack as usize)).copied();
        pack.is_some_and(|pack| self.pack_is_whole(pack))
    }

    /// A frame of the base with its pack's number in this manifest; none if the pack is not there.
    pub(super) fn base_frame_ref(&mut self, frame: FrameRef) -> Option<FrameRef> {
        let at = frame.pack as usize;
        let number = match *self.base_packs.get(at)? {
            Some(number) => number,
            None => {
                let pack = *self.base?.manifest.packs.get(at)?;
                let number = self
                    .pack_is_whole(pack)
                    .then(|| self.packs.number(pack, || {}));
                self.base_packs[at] = Some(number);
                number
            }
        };
        Some(FrameRef {
            pack: number?,
            ..frame
        })
    }

    /// The base's derived stream of this name, taken over if it has these very bytes: that its parts give them was proved when
    /// they were stored, and proving it again would cost a second for some 20 MB.
    pub(in crate::ingest) fn same_derived(
        &mut self,
        name: &[u8],
        bytes: &[u8],
    ) -> Result<Option<StreamIndex>> {
        let Some(base) = self.base else {
            return Ok(None);
        };
        let mut streams = base
            .manifest
            .streams
            .iter()
            .filter(|s| s.name == name && s.len == bytes.len() as u64);
        let Some((plain, corrections, digest)) = streams.find_map(|s| match s.body {
            Body::Derived {
                plain, corrections, ..
            } => Some((plain, corrections, s.digest)),
            Body::Recipe(_) => None,
        }) else {
            return Ok(None);
        };
        if Digest::of(bytes) != digest {
            return Ok(None);
        }
        let copies = (self.copy_of(base, plain), self.copy_of(base, corrections));
        let (Some((plain, plain_len)), Some((corrections, corrections_len))) = copies else {
            return Ok(None);
        };
        count(&mut self.classes.same, 0, plain_len + corrections_len);
        let (plain, corrections) = (self.add(plain)?, self.add(corrections)?);
        self.derived(name.to_vec(), bytes, plain, corrections)
            .map(Some)
    }

    /// A stream of the base with its packs' numbers in this manifest; none if one of them is missing.
    pub(super) fn copy_of(&mut self, base: &Base, stream: StreamIndex) -> Option<(Stream, u64)> {
        let found = base.manifest.streams.get(stream as usize)?;
        let mut recipe = RecipeWriter::new(found.page_size);
        let mut same = 0;
        for slice in base.manifest.slices(stream)? {
            let slice = match slice.ok()? {
                Slice::Zero { len } => Slice::Zero { len },
                Slice::Frame(slice) => {
                    if self.left_behind.contains(&slice.frame.pack) {
                        return None;
                    }
                    let chunk = BaseChunk {
                        frame: slice.frame,
                        number: slice.skip,
                    };
                    let (frame, skip) = self.base_frame(chunk)?;
                    Slice::Frame(FrameSlice {
                        frame,
                        skip,
                        ..slice
                    })
                }
            };
            same += slice.len();
            recipe.push(slice);
        }
        let body = Body::Recipe(recipe.finish());
        Some((
            Stream {
                body,
                ..found.clone()
            },
            same,
        ))
    }
}
