//! Owns the making of deltas: against which version of a page, whether that pays, and the frames that come of it.
//!
//! Always: a base is a page that the base's manifest has, in packs that are there; pages that differ too much from theirs, or whose base cannot be read,
//! are stored plainly; what was sealed was decoded, put together with its bases and compared. Never: fails an import because of a base.

use cryostore_format::ChunkHash;
use cryostore_format::delta::{BaseRun, DeltaFrame};
use cryostore_format::manifest::Manifest;
use cryostore_format::recipe::{FrameRef, FrameSlice, Slice};

use super::base::BaseChunk;
use crate::codec::frame::{OpenFrame, SealedFrame, seal_delta};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::pack::reading::Reading;
use crate::store::Store;

/// The page that another one is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageBase {
    /// Its pack is by number in the base's table.
    pub(super) chunk: BaseChunk,
    /// How many deltas the page that is made has behind it.
    pub(super) version: u8,
}

/// Version of a chunk, and what it is made of; none of both for a plain one.
fn made_of(manifest: &Manifest, chunk: BaseChunk) -> Option<(u8, Option<BaseChunk>)> {
    let Some(delta) = manifest.deltas.get(&chunk.frame) else {
        return Some((0, None));
    };
    let at = u64::from(chunk.number) * u64::from(delta.page_size);
    let mut start = 0;
    for BaseRun { base, version } in &delta.bases {
        let end = start + base.len();
        if at < end {
            let base = match base {
                Slice::Zero { .. } => None,
                Slice::Frame(slice) => Some(BaseChunk {
                    frame: slice.frame,
                    number: slice.skip
                        + u16::try_from((at - start) / u64::from(delta.page_size)).ok()?,
                }),
            };
            return Some((*version, base));
        }
        start = end;
    }
    None
}

/// The base for the next version of a page (skip-deltas: version c is made of c & (c − 1)); none if it is to be stored plainly again.
pub(super) fn page_base(manifest: &Manifest, stood: BaseChunk) -> Option<PageBase> {
    let (mut version, mut behind) = made_of(manifest, stood)?;
    let next = version
        .checked_add(1)
        .filter(|next| *next <= limits::DELTA_VERSIONS)?;
    let wanted = next & (next - 1);
    let mut chunk = stood;
    while version > wanted {
        chunk = behind?;
        (version, behind) = made_of(manifest, chunk)?;
    }
    (version == wanted).then_some(PageBase {
        chunk,
        version: next,
    })
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
    pub(super) fn seal(self, store: &Store, base: &Manifest) -> Result<SealedBatch> {
        let page_len = self.bytes.len() / self.hashes.len().max(1);
        let (old, warning) = match self.read_bases(store, base, page_len) {
            Ok(old) => (Some(old), None),
            Err(e) => (None, Some(format!("pages are stored without deltas: {e}"))),
        };
        let mut out = SealedBatch {
            frames: Vec::new(),
            places: vec![(0, 0); self.hashes.len()],
            warning,
        };
        let mut xored = old.unwrap_or_default();
        let mut near = Vec::new();
        let mut far = Vec::new();
        for (n, page) in self.bytes.chunks(page_len.max(1)).enumerate() {
            let xored = xored.get_mut(n * page_len..(n + 1) * page_len);
            let differ = xored.map_or(page_len, |xored| xor(xored, page));
            if differ * limits::DELTA_NEAR <= page_len / 8 {
                near.push(n);
            } else {
                far.push(n);
            }
        }
        if !near.is_empty() {
            let frame = self.seal_near(&near, &xored, page_len)?;
            let bases = near.iter().map(|n| self.bases[*n]).collect();
            for (number, n) in (0..).zip(&near) {
                out.places[*n] = (0, number);
            }
            out.frames.push((frame, bases));
        }
        self.seal_far(&far, page_len, &mut out)?;
        Ok(out)
    }

    fn page(&self, n: usize, page_len: usize) -> &[u8] {
        self.bytes
            .get(n * page_len..(n + 1) * page_len)
            .unwrap_or_default()
    }

    fn read_bases(&self, store: &Store, base: &Manifest, page_len: usize) -> Result<Vec<u8>> {
        let mut old = vec![0; self.bytes.len()];
        let mut reading = Reading::default();
        for (n, PageBase { chunk, .. }) in self.bases.iter().enumerate() {
            let slice = FrameSlice {
                frame: chunk.frame,
                skip: chunk.number,
                take: 1,
                len: page_len as u64,
            };
            reading.add(base, slice, 0, n * page_len, page_len);
        }
        reading.decode(store, base, &mut old)?;
        Ok(old)
    }

    fn seal_near(&self, near: &[usize], xored: &[u8], page_len: usize) -> Result<SealedFrame> {
        let hashes = near.iter().map(|n| self.hashes[*n]).collect();
        let mut content = Vec::with_capacity(near.len() * page_len);
        for n in near {
            content.extend_from_slice(
                xored
                    .get(n * page_len..(n + 1) * page_len)
                    .unwrap_or_default(),
            );
        }
        seal_delta(hashes, &content, page_len)
    }

    fn seal_far(&self, far: &[usize], page_len: usize, out: &mut SealedBatch) -> Result<()> {
        let mut open = OpenFrame::default();
        let mut number = out.frames.len();
        for n in far {
            let page = self.page(*n, page_len);
            if !open.has_room(page.len()) {
                out.frames
                    .push((std::mem::take(&mut open).seal()?, Vec::new()));
                number += 1;
            }
            let within = open.push(self.hashes[*n], page)?;
            let frame = u16::try_from(number)
                .map_err(|_| Error::new(Kind::Internal, "too many frames of a batch"))?;
            out.places[*n] = (frame, within);
        }
        if !open.is_empty() {
            out.frames.push((open.seal()?, Vec::new()));
        }
        Ok(())
    }
}

/// XORs `page` into `old`; how many words of 8 bytes differ comes back.
fn xor(old: &mut [u8], page: &[u8]) -> usize {
    let (words, rest) = old.as_chunks_mut::<8>();
    let (new_words, new_rest) = page.as_chunks::<8>();
    let mut differ = 0;
    for (word, new) in words.iter_mut().zip(new_words) {
        let change = u64::from_le_bytes(*word) ^ u64::from_le_bytes(*new);
        differ += usize::from(change != 0);
        *word = change.to_le_bytes();
    }
    for (byte, new) in rest.iter_mut().zip(new_rest) {
        *byte ^= new;
    }
    differ
}

/// The entry of a delta frame in a manifest; `map` gives frames of the base their numbers there.
pub(super) fn entry_of(
    frame: FrameRef,
    page_size: u32,
    bases: &[PageBase],
    mut map: impl FnMut(FrameRef) -> Option<FrameRef>,
) -> Option<DeltaFrame> {
    let mut runs: Vec<BaseRun> = Vec::new();
    for PageBase { chunk, version } in bases {
        let base = map(chunk.frame)?;
        if let Some(BaseRun {
            base: Slice::Frame(last),
            version: last_version,
        }) = runs.last_mut()
            && last.frame == base
            && last.skip + last.take == chunk.number
            && last_version == version
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
            version: *version,
        });
    }
    Some(DeltaFrame {
        frame,
        page_size,
        bases: runs,
    })
}
