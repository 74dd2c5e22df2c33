//! Owns the making of deltas: against which version of a page, whether that pays, and the frames that come of it.
//!
//! Always: a base is a page that the base's manifest has, in packs that are there; pages that differ too much from theirs, or whose base cannot be read,
//! are stored plainly; what was sealed was decoded, put together with its bases and compared. Never: fails an import because of a base.

use std::cell::Cell;
use std::sync::Arc;

use cryostore_format::ChunkHash;
use cryostore_format::delta::{BaseRun, DeltaFrame};
use cryostore_format::encryption::Seals;
use cryostore_format::manifest::Manifest;
use cryostore_format::patch::{Patch, PatchWriter, WORD};
use cryostore_format::recipe::{FrameRef, FrameSlice, Slice};

use super::base::BaseChunk;
use crate::codec::frame::{OpenFrame, SealedFrame, seal_patch};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::pack::KeptFrames;
use crate::pack::reading::Reading;
use crate::store::Vault;

/// The version of the deltas that an import makes, and up to which version their bases are (`format-spec/spec/delta.md`).
///
/// Each import with deltas has the next number. Its deltas are made against what stood there when the import was made whose number, in base 4, has a last digit
/// that is smaller by one: 33 against 32, 32 against 31, 30 against 20, 100 against what is plain. A page that an import between has changed, and this one has not, is stored
/// again in the same way. So a checkpoint needs the delta frames of some ten imports, and what lies between is mostly needed by no later one (pages that moved, or come before the first changed one, stay).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    version: u8,
    floor: u8,
}

impl Step {
    /// The step after the last one that a manifest knows of.
    pub(super) fn after(manifest: &Manifest) -> Self {
        let next = manifest.deltas.latest().saturating_add(1);
        if next >= limits::DELTA_VERSIONS {
            // Everything is made of plain pages anew. The numbers go on in their upper half, where all of them come after this one.
            return Self {
                version: limits::DELTA_VERSIONS / 2,
                floor: 0,
            };
        }
        Self {
            version: next,
            floor: next - (1 << (next.trailing_zeros() & !1)),
        }
    }
}

impl Step {
    /// True if pages of this frame are kept, and others made of them; those of other frames are made anew.
    pub(super) fn keeps(self, frame: &DeltaFrame) -> bool {
        frame.bases.iter().any(|run| run.version <= self.floor)
    }
}

/// The page that another one is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageBase {
    /// Its pack is by number in the base's table.
    pub(super) chunk: BaseChunk,
    /// The page that is made stood there before: it is stored again.
    pub(super) again: bool,
}

/// Version of a chunk, and what it is made of; none of both for a plain one.
fn made_of(manifest: &Manifest, chunk: BaseChunk) -> Option<(u8, Option<BaseChunk>)> {
    if manifest.deltas.get(&chunk.frame).is_none() {
        return Some((0, None));
    }
    let page = u32::from(chunk.number);
    let (first, run) = manifest.deltas.bases(&chunk.frame, page, page + 1).next()?;
    let base = match run.base {
        Slice::Zero { .. } => None,
        Slice::Frame(slice) => Some(BaseChunk {
            frame: slice.frame,
            number: slice.skip + u16::try_from(page - first).ok()?,
        }),
    };
    Some((run.version, base))
}

/// What a page may be made of that was changed, or is stored again; `stood` is what stood there. The best comes first.
pub(super) fn page_bases(
    manifest: &Manifest,
    stood: BaseChunk,
    step: Step,
) -> impl Iterator<Item = BaseChunk> {
    let behind = |chunk: BaseChunk| made_of(manifest, chunk).map(|found| (chunk, found));
    std::iter::successors(behind(stood), move |(_, (_, base))| behind((*base)?))
        .filter(move |(chunk, (version, _))| {
            // Pages that were not stored again when they should have been can stand on older numbers than the plan has.
            let chain = manifest.deltas.chain(&chunk.frame, chunk.number);
            *version <= step.floor && chain < limits::DELTA_CHAIN
        })
        .map(|(chunk, _)| chunk)
}

/// True if a page is to be stored again: later checkpoints are not to need the import that made it.
pub(super) fn is_between(manifest: &Manifest, stood: BaseChunk, step: Step) -> bool {
    made_of(manifest, stood).is_some_and(|(version, _)| version > step.floor)
}

/// Changed pages of one stream, all of one size, and the pages that they may be made of.
#[derive(Debug, Default)]
pub(super) struct OpenBatch {
    hashes: Vec<ChunkHash>,
    bytes: Vec<u8>,
    bases: Vec<PageBase>,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) struct SealedBatch {
    /// Its frames; those of deltas with the bases of their pages.
    pub(super) frames: Vec<(SealedFrame, Vec<PageBase>)>,
    /// For each page: number of its frame, and its number within.
    pub(super) places: Vec<(u16, u16)>,
    /// Why there are no deltas.
    pub(super) warning: Option<String>,
}

thread_local! {
    /// The bases of a batch: a thread's own memory, used again for the next.
    static OLD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl OpenBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Bytes of its pages.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Room for another page of `len` bytes?
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.bytes.is_empty()
            || (self.bytes.len() + len <= limits::DELTA_PLAIN
                && self.bytes.len() == self.hashes.len() * len)
    }

    /// Takes in a page; its number comes back.
    pub(super) fn push(&mut self, hash: ChunkHash, page: &[u8], base: PageBase) -> Result<u16> {
        let number = u16::try_from(self.hashes.len())
            .map_err(|_| Error::new(Kind::Internal, "too many pages in a batch"))?;
        if self.bytes.capacity() == 0 {
            self.bytes
                .reserve_exact(limits::DELTA_PLAIN.max(page.len()));
        }
        self.hashes.push(hash);
        self.bytes.extend_from_slice(page);
        self.bases.push(base);
        Ok(number)
    }

    /// Makes frames of the pages: a delta of those that are near to their bases, plain ones of the others.
    pub(super) fn seal(
        self,
        vault: &Vault,
        base: &Manifest,
        kept: &Arc<KeptFrames>,
    ) -> Result<SealedBatch> {
        let page_len = self.bytes.len() / self.hashes.len().max(1);
        let mut old = OLD.take();
        let read = self.read_bases(vault, base, kept, page_len, &mut old);
        let warning = read.err().map(|e| {
            old.clear();
            format!("pages are stored without deltas: {e}")
        });
        let seals = vault.seals().map(|seals| &**seals);
        let sealed = self.seal_against(&old, page_len, warning, seals);
        OLD.set(old);
        sealed
    }

    fn seal_against(
        self,
        old: &[u8],
        page_len: usize,
        warning: Option<String>,
        seals: Option<&Seals>,
    ) -> Result<SealedBatch> {
        let mut out = SealedBatch {
            frames: Vec::new(),
            places: vec![(0, 0); self.hashes.len()],
            warning,
        };
        let (near, far): (Vec<_>, Vec<_>) = (0..self.hashes.len()).partition(|n| {
            let old = slice(old, *n, page_len);
            !old.is_empty()
                && differ(old, slice(&self.bytes, *n, page_len)) * limits::DELTA_NEAR
                    <= page_len / WORD
        });
        if !near.is_empty() {
            let frame = self.seal_near(&near, old, page_len, seals)?;
            let bases = near.iter().map(|n| self.bases[*n]).collect();
            for (number, n) in (0..).zip(&near) {
                out.places[*n] = (0, number);
            }
            out.frames.push((frame, bases));
        }
        self.seal_far(&far, page_len, &mut out, seals)?;
        Ok(out)
    }

    /// Reads the bases into `old`.
    fn read_bases(
        &self,
        vault: &Vault,
        base: &Manifest,
        kept: &Arc<KeptFrames>,
        page_len: usize,
        old: &mut Vec<u8>,
    ) -> Result<()> {
        old.clear();
        old.resize(self.bytes.len(), 0);
        let mut reading = Reading::sharing(kept);
        for (n, PageBase { chunk, .. }) in self.bases.iter().enumerate() {
            let slice = FrameSlice {
                frame: chunk.frame,
                skip: chunk.number,
                take: 1,
                len: page_len as u64,
            };
            reading.add(base, slice, 0, n * page_len, page_len);
        }
        reading.decode(vault, base, old)?;
        Ok(())
    }

    fn seal_near(
        &self,
        near: &[usize],
        old: &[u8],
        page_len: usize,
        seals: Option<&Seals>,
    ) -> Result<SealedFrame> {
        let pages = |n: &usize| (slice(old, *n, page_len), slice(&self.bytes, *n, page_len));
        let mut patch = PatchWriter::default();
        near.iter()
            .map(pages)
            .for_each(|(old, page)| patch.push(old, page));
        let patch = patch.finish();
        let hashes = near.iter().map(|n| self.hashes[*n]).collect();
        let frame = seal_patch(hashes, &patch, page_len, seals)?;
        // The frame has this patch; and that gives the pages.
        let internal = |what| {
            Error::new(
                Kind::Internal,
                format!("a patch of {} pages: {what}", near.len()),
            )
        };
        let patch = Patch::decode(&patch, frame.header.chunks, frame.header.uniform_len)
            .map_err(|e| internal("it is none").because(e))?;
        let mut again = vec![0; page_len];
        for (number, (old, page)) in near.iter().map(pages).enumerate() {
            again.copy_from_slice(old);
            let applied = patch.apply(number * page_len, &mut again);
            if applied.is_err() || again != page {
                return Err(internal("it does not give them").hint(
                    "the memory of this machine may be faulty: test it; nothing was stored",
                ));
            }
        }
        Ok(frame)
    }

    fn seal_far(
        &self,
        far: &[usize],
        page_len: usize,
        out: &mut SealedBatch,
        seals: Option<&Seals>,
    ) -> Result<()> {
        let mut open = OpenFrame::default();
        let mut number = out.frames.len();
        for n in far {
            let page = slice(&self.bytes, *n, page_len);
            if !open.has_room(page.len()) {
                out.frames
                    .push((std::mem::take(&mut open).seal(seals)?, Vec::new()));
                number += 1;
            }
            let within = open.push(self.hashes[*n], page)?;
            let frame = u16::try_from(number)
                .map_err(|_| Error::new(Kind::Internal, "too many frames of a batch"))?;
            out.places[*n] = (frame, within);
        }
        if !open.is_empty() {
            out.frames.push((open.seal(seals)?, Vec::new()));
        }
        Ok(())
    }
}

/// Page `n`; nothing if there is none.
fn slice(pages: &[u8], n: usize, page_len: usize) -> &[u8] {
    pages
        .get(n * page_len..(n + 1) * page_len)
        .unwrap_or_default()
}

/// How many words differ.
fn differ(old: &[u8], page: &[u8]) -> usize {
    let words = old.as_chunks::<WORD>().0.iter().zip(page.as_chunks().0);
    words.filter(|(old, new)| old != new).count()
}

/// The entry of a delta frame in a manifest; `map` gives frames of the base their numbers there.
pub(super) fn entry_of(
    frame: FrameRef,
    page_size: u32,
    bases: &[PageBase],
    step: Step,
    mut map: impl FnMut(FrameRef) -> Option<FrameRef>,
) -> Option<DeltaFrame> {
    let mut runs: Vec<BaseRun> = Vec::new();
    for PageBase { chunk, .. } in bases {
        let base = map(chunk.frame)?;
        if let Some(BaseRun {
            base: Slice::Frame(last),
            ..
        }) = runs.last_mut()
            && last.frame == base
            && last.skip + last.take == chunk.number
        {
            last.take += 1;
            last.len += u64::from(page_size);
            continue;
        }
        runs.push(BaseRun {
            base: Slice::Frame(FrameSlice {
                frame: base,
                skip: chunk.number,
                take: 1,
                len: page_size.into(),
            }),
            version: step.version,
        });
    }
    Some(DeltaFrame {
        frame,
        page_size,
        bases: runs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step_after(latest: u8) -> Step {
        let frame = FrameRef {
            pack: 0,
            offset: 100,
            stored_len: 100,
            first_chunk: 0,
            chunks: 1,
        };
        let delta = DeltaFrame {
            frame,
            page_size: 4096,
            bases: vec![BaseRun {
                base: Slice::Zero { len: 4096 },
                version: latest,
            }],
        };
        let mut manifest = Manifest::default();
        manifest.deltas.add(delta, 0).unwrap();
        Step::after(&manifest)
    }

    /// Frames of one import each. Pages change at random, and of those that should be stored again half are not.
    fn random_imports(pages: u16, imports: u32, seed: u64) -> Manifest {
        let mut manifest = Manifest::default();
        let plain = FrameRef {
            pack: 0,
            offset: 32,
            stored_len: 100,
            first_chunk: 0,
            chunks: pages,
        };
        let mut stood: Vec<BaseChunk> = (0..pages)
            .map(|number| BaseChunk {
                frame: plain,
                number,
            })
            .collect();
        let mut state = seed;
        let mut one_in = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33).is_multiple_of(n)
        };
        for n in 1..=imports {
            let step = Step::after(&manifest);
            let mut made = Vec::new();
            for (page, stood) in stood.iter().enumerate() {
                if one_in(3) || (is_between(&manifest, *stood, step) && one_in(2)) {
                    let chunk = page_bases(&manifest, *stood, step).next().unwrap();
                    made.push((
                        page,
                        PageBase {
                            chunk,
                            again: false,
                        },
                    ));
                }
            }
            let frame = FrameRef {
                pack: n,
                chunks: u16::try_from(made.len()).unwrap(),
                ..plain
            };
            let bases: Vec<_> = made.iter().map(|(_, base)| *base).collect();
            if bases.is_empty() {
                continue;
            }
            let delta = entry_of(frame, 4096, &bases, step, Some).unwrap();
            // Refuses what readers refuse: a base that comes later, for one.
            manifest.deltas.add(delta, 0).unwrap();
            for number in 0..frame.chunks {
                assert!(manifest.deltas.chain(&frame, number) <= limits::DELTA_CHAIN);
            }
            for (number, (page, _)) in (0..).zip(made) {
                stood[page] = BaseChunk { frame, number };
            }
        }
        manifest
    }

    #[test]
    fn readers_take_every_chain_whatever_was_not_stored_again() {
        for seed in 0..40 {
            let manifest = random_imports(30, 300, seed);
            assert!(manifest.deltas.frames().len() > 290);
        }
    }

    #[test]
    fn no_import_needs_the_deltas_of_more_than_ten_others() {
        let first = Step::after(&Manifest::default());
        assert_eq!((first.version, first.floor), (1, 0));
        // What the latest checkpoint needs deltas of: by construction, the chain of its own number.
        let mut needed = vec![first.version];
        let mut longest = 0;
        for _ in 0..1000 {
            let step = step_after(*needed.last().unwrap());
            needed.retain(|version| *version <= step.floor);
            assert_eq!(needed.last().copied().unwrap_or(0), step.floor);
            needed.push(step.version);
            longest = longest.max(needed.len());
        }
        assert_eq!(longest, 10);
    }

    #[test]
    fn an_import_leaves_out_those_that_it_takes_the_place_of() {
        let of = |version: u8| {
            let step = step_after(version - 1);
            assert_eq!(step.version, version);
            step.floor
        };
        assert_eq!([1, 2, 3, 4, 5, 6, 7, 8].map(of), [0, 1, 2, 0, 4, 5, 6, 4]);
        assert_eq!(
            [16, 17, 20, 21, 32, 63, 64, 65].map(of),
            [0, 16, 16, 20, 16, 62, 0, 64]
        );
        assert_eq!(
            step_after(127),
            Step {
                version: 64,
                floor: 0
            }
        );
        assert_eq!(
            step_after(255),
            Step {
                version: 64,
                floor: 0
            }
        );
    }
}
