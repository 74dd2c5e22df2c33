//! Owns one stream while it is taken apart: its recipe, its digest, and what waits for a frame that is still open.
//!
//! Always: slices are in the order of the bytes. Never: more of them waiting than [`limits::WAITING_SLICES`].

use std::collections::VecDeque;

use cryostore_format::manifest::{Body, MapOf, Role, Stream, zeros_mark};
use cryostore_format::recipe::{FrameRef, FrameSlice, RecipeWriter, Slice};
use cryostore_format::{ChunkHash, Digest};

use super::base::BaseWalk;
use super::frames::FrameNumber;
use crate::chunk::cdc::Cutter;
use crate::limits;

/// Addresses of the pages of a page image.
#[derive(Debug)]
pub(super) struct Addresses {
    /// Page number of the first page, number of pages; in the order of the image.
    runs: std::vec::IntoIter<(u64, u64)>,
    run: Option<(u64, u64)>,
}

impl Addresses {
    pub(super) fn new(runs: Vec<(u64, u64)>) -> Self {
        Self {
            runs: runs.into_iter(),
            run: None,
        }
    }

    /// Goes past pages of the image.
    pub(super) fn skip(&mut self, mut pages: u64) {
        while pages > 0 {
            match &mut self.run {
                Some((number, left)) if *left > 0 => {
                    let step = pages.min(*left);
                    *number = number.wrapping_add(step);
                    *left -= step;
                    pages -= step;
                }
                _ => match self.runs.next() {
                    Some(run) => self.run = Some(run),
                    None => return,
                },
            }
        }
    }

    /// Page number of the next page of the image; none beyond what the page map describes.
    pub(super) fn next(&mut self) -> Option<u64> {
        loop {
            match &mut self.run {
                Some((number, left)) if *left > 0 => {
                    let found = *number;
                    *number = number.wrapping_add(1);
                    *left -= 1;
                    return Some(found);
                }
                _ => self.run = Some(self.runs.next()?),
            }
        }
    }
}

/// How a stream is cut.
#[derive(Debug)]
pub(super) enum Cut<'b> {
    /// On page borders.
    Pages {
        page_size: usize,
        /// Bytes before the first page that are still to come.
        phase_left: usize,
        /// A page that is not complete yet.
        rest: Vec<u8>,
        addresses: Addresses,
        walk: Option<Box<BaseWalk<'b>>>,
    },
    /// By content.
    Content(Cutter),
}

/// What a stream is, as far as it is known before its bytes.
#[derive(Debug, Clone)]
pub(super) struct StreamSpec {
    pub(super) name: Vec<u8>,
    pub(super) role: Role,
    pub(super) pages: Option<PageSpec>,
}

/// What is known of a page image.
#[derive(Debug, Clone)]
pub(super) struct PageSpec {
    pub(super) page_size: u32,
    pub(super) phase: u32,
    /// Whose memory, for the comparison with the base.
    pub(super) of: Option<MapOf>,
    /// Page number of the first page, number of pages.
    pub(super) runs: Vec<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
enum Waiting {
    Placed(Slice),
    Frame(InFrame),
}

/// Chunks of a frame of this session.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFrame {
    pub(super) frame: FrameNumber,
    pub(super) skip: u16,
    pub(super) take: u16,
    pub(super) len: u64,
}

/// A stream that is being taken apart.
#[derive(Debug)]
pub(super) struct OpenStream<'b> {
    pub(super) number: u32,
    spec: StreamSpec,
    pub(super) cut: Cut<'b>,
    recipe: RecipeWriter,
    waiting: VecDeque<Waiting>,
    len: u64,
    digest: blake3::Hasher,
    zeros: u64,
}

impl<'b> OpenStream<'b> {
    pub(super) fn new(number: u32, spec: StreamSpec, cut: Cut<'b>) -> Self {
        let unit = spec.pages.as_ref().map_or(0, |pages| pages.page_size);
        Self {
            number,
            spec,
            cut,
            recipe: RecipeWriter::new(unit),
            waiting: VecDeque::new(),
            len: 0,
            digest: blake3::Hasher::new(),
            zeros: 0,
        }
    }

    /// Zero bytes come next.
    pub(super) fn zero(&mut self, len: u64) {
        self.zeros += len;
        self.len += len;
        self.wait(Waiting::Placed(Slice::Zero { len }));
    }

    /// A chunk comes next that lies in the store.
    pub(super) fn stored(&mut self, hash: &ChunkHash, frame: FrameRef, number: u16, len: u64) {
        self.account(hash, len);
        self.wait(Waiting::Placed(Slice::Frame(FrameSlice {
            frame,
            skip: number,
            take: 1,
            len,
        })));
    }

    /// A chunk comes next that is in a frame of this session.
    pub(super) fn in_frame(&mut self, hash: &ChunkHash, frame: FrameNumber, number: u16, len: u64) {
        self.account(hash, len);
        self.wait(Waiting::Frame(InFrame {
            frame,
            skip: number,
            take: 1,
            len,
        }));
    }

    fn account(&mut self, hash: &ChunkHash, len: u64) {
        self.end_zeros();
        self.digest.update(hash.as_bytes());
        self.len += len;
    }

    /// A stretch of zeros counts as one, however it was cut.
    fn end_zeros(&mut self) {
        if self.zeros > 0 {
            self.digest
                .update(&zeros_mark(std::mem::take(&mut self.zeros)));
        }
    }

    fn wait(&mut self, next: Waiting) {
        match (self.waiting.back_mut(), next) {
            (
                Some(Waiting::Placed(Slice::Zero { len })),
                Waiting::Placed(Slice::Zero { len: more }),
            ) => *len += more,
            (
                Some(Waiting::Placed(Slice::Frame(last))),
                Waiting::Placed(Slice::Frame(FrameSlice {
                    frame,
                    skip,
                    take,
                    len,
                })),
            ) if last.frame == frame && last.skip + last.take == skip => {
                last.take += take;
                last.len += len;
            }
            (
                Some(Waiting::Frame(last)),
                Waiting::Frame(InFrame {
                    frame,
                    skip,
                    take,
                    len,
                }),
            ) if last.frame == frame && last.skip + last.take == skip => {
                last.take += take;
                last.len += len;
            }
            _ => self.waiting.push_back(next),
        }
    }

    /// Moves what no longer waits into the recipe. `place` gives the slices of chunks of a frame of this session, and false if they wait still.
    pub(super) fn settle(&mut self, mut place: impl FnMut(&InFrame, &mut RecipeWriter) -> bool) {
        while let Some(next) = self.waiting.front() {
            match next {
                Waiting::Placed(slice) => self.recipe.push(*slice),
                Waiting::Frame(chunks) => {
                    if !place(chunks, &mut self.recipe) {
                        return;
                    }
                }
            }
            self.waiting.pop_front();
        }
    }

    /// True when so much waits that the open frame must be closed.
    pub(super) fn waits_too_long(&self) -> bool {
        self.waiting.len() >= limits::WAITING_SLICES
    }

    /// The lowest number of a frame that is waited for, wherever in the stream: a chunk that came before is in an earlier frame.
    pub(super) fn waits_for(&self) -> Option<FrameNumber> {
        let frames = self.waiting.iter().filter_map(|next| match next {
            Waiting::Frame(chunks) => Some(chunks.frame),
            Waiting::Placed(_) => None,
        });
        frames.min()
    }

    /// True if nothing waits.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The stream as the manifest has it.
    pub(super) fn finish(mut self) -> Stream {
        self.end_zeros();
        let pages = self.spec.pages.as_ref();
        Stream {
            name: self.spec.name,
            role: self.spec.role,
            len: self.len,
            page_size: pages.map_or(0, |pages| pages.page_size),
            phase: pages.map_or(0, |pages| pages.phase),
            digest: Digest::from_bytes(*self.digest.finalize().as_bytes()),
            body: Body::Recipe(self.recipe.finish()),
        }
    }
}
