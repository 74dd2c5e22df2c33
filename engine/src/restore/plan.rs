//! Owns the reading plan: which bytes of which frames make up the archive, window by window.
//!
//! Always: goes through the manifest once, in order; memory does not grow with the archive. Never: reads the store.

use std::ops::Range;

use cryostore_format::limits::FRAME_PLAIN_MAX;
use cryostore_format::manifest::{Body, Manifest, Piece, StreamIndex};
use cryostore_format::recipe::{FrameSlice, Slice, Slices};

use crate::error::{Error, Kind, Result};
use crate::limits;

/// Where some bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Zero,
    /// Bytes of a slice, from this one on.
    Frame(FrameSlice, u64),
    /// Bytes of a derived stream, from this one on.
    Derived(StreamIndex, u64),
}

/// Consecutive bytes of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) len: u64,
    pub(super) from: From,
}

/// Parts that are read and decoded together: some [`limits::WINDOW_LEN`] bytes, more by a slice at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    /// Bytes from the start of the output.
    pub(super) at: u64,
    pub(super) len: usize,
    pub(super) parts: Vec<Part>,
}

impl Window {
    /// The stretches of its bytes between zeros of at least `hole` bytes.
    pub(super) fn written(&self, hole: u64) -> impl Iterator<Item = Range<usize>> {
        let mut parts = self.parts.iter().peekable();
        let mut at = 0;
        std::iter::from_fn(move || {
            let is_hole = |part: &Part| part.from == From::Zero && part.len >= hole;
            let bytes = |part: &Part| usize::try_from(part.len).unwrap_or(usize::MAX);
            while let Some(part) = parts.next_if(|part| is_hole(part)) {
                at += bytes(part);
            }
            let start = at;
            while let Some(part) = parts.next_if(|part| !is_hole(part)) {
                at += bytes(part);
            }
            (at > start).then_some(start..at)
        })
    }

    /// True if it gives only zero bytes.
    pub(super) fn is_zero(&self) -> bool {
        self.parts.iter().all(|part| part.from == From::Zero)
    }
}

/// Goes through one stream.
#[derive(Debug, Clone)]
struct StreamWalk<'m> {
    slices: Slices<'m>,
    slice: Option<Slice>,
    /// Bytes of the slice that were given.
    given: u64,
}

impl StreamWalk<'_> {
    /// The next bytes: at most `left`, and at most `most` but for the end of a slice, so that a frame is not decoded on both sides of a border.
    fn next(&mut self, most: u64, left: u64) -> Result<Part> {
        let wanted = left;
        loop {
            if let Some(slice) = self.slice {
                let left = slice.len() - self.given;
                if left > 0 {
                    let (most, from) = match slice {
                        Slice::Zero { .. } => (most, From::Zero),
                        Slice::Frame(frame) => (
                            most.max(u64::from(FRAME_PLAIN_MAX)),
                            From::Frame(frame, self.given),
                        ),
                    };
                    let len = left.min(wanted).min(most);
                    self.given += len;
                    return Ok(Part { len, from });
                }
            }
            self.given = 0;
            self.slice = match self.slices.next() {
                Some(Ok(slice)) => Some(slice),
                Some(Err(e)) => return Err(Error::stored("the manifest", e)),
                None => {
                    return Err(Error::new(
                        Kind::Corrupt,
                        "the manifest: a recipe is shorter than its stream",
                    ));
                }
            };
        }
    }
}

/// What is being gone through.
#[derive(Debug, Clone)]
enum Step<'m> {
    Literal(u64),
    Stream {
        walk: Box<StreamWalk<'m>>,
        left: u64,
    },
    Derived {
        stream: StreamIndex,
        at: u64,
        left: u64,
    },
}

/// Goes through the archive, or through one stream.
#[derive(Debug, Clone)]
pub(super) struct Plan<'m> {
    manifest: &'m Manifest,
    pieces: std::slice::Iter<'m, Piece>,
    literals: StreamWalk<'m>,
    steps: Vec<Step<'m>>,
    at: u64,
}

impl<'m> Plan<'m> {
    /// All of the archive.
    pub(super) fn archive(manifest: &'m Manifest) -> Result<Self> {
        let literals = walk(manifest, 0)?;
        Ok(Self {
            manifest,
            pieces: manifest.layout.pieces.iter(),
            literals,
            steps: Vec::new(),
            at: 0,
        })
    }

    /// All of one stream.
    pub(super) fn stream(manifest: &'m Manifest, stream: StreamIndex) -> Result<Self> {
        let literals = walk(manifest, 0)?;
        let mut plan = Self {
            manifest,
            pieces: [].iter(),
            literals,
            steps: Vec::new(),
            at: 0,
        };
        plan.steps.push(plan.step(stream)?);
        Ok(plan)
    }

    fn step(&self, stream: StreamIndex) -> Result<Step<'m>> {
        let found = self.manifest.streams.get(stream as usize);
        let found = found.ok_or_else(|| {
            Error::new(
                Kind::Corrupt,
                format!("the manifest: there is no stream {stream}"),
            )
        })?;
        Ok(match found.body {
            Body::Recipe(_) => Step::Stream {
                walk: Box::new(walk(self.manifest, stream)?),
                left: found.len,
            },
            Body::Derived { .. } => Step::Derived {
                stream,
                at: 0,
                left: found.len,
            },
        })
    }

    fn next_part(&mut self, most: u64) -> Result<Option<Part>> {
        loop {
            match self.steps.last_mut() {
                None => {
                    let Some(piece) = self.pieces.next() else {
                        return Ok(None);
                    };
                    if let Some(stream) = piece.stream {
                        let step = self.step(stream)?;
                        self.steps.push(step);
                    }
                    self.steps.push(Step::Literal(piece.literal));
                }
                Some(
                    Step::Literal(0) | Step::Stream { left: 0, .. } | Step::Derived { left: 0, .. },
                ) => {
                    self.steps.pop();
                }
                Some(Step::Literal(left)) => {
                    let part = self.literals.next(most, *left)?;
                    *left -= part.len;
                    return Ok(Some(part));
                }
                Some(Step::Stream { walk, left }) => {
                    let part = walk.next(most, *left)?;
                    *left -= part.len;
                    return Ok(Some(part));
                }
                Some(Step::Derived { stream, at, left }) => {
                    let len = most.min(*left);
                    let part = Part {
                        len,
                        from: From::Derived(*stream, *at),
                    };
                    *at += len;
                    *left -= len;
                    return Ok(Some(part));
                }
            }
        }
    }

    /// The next window; none at the end.
    pub(super) fn next_window(&mut self) -> Result<Option<Window>> {
        let mut parts: Vec<Part> = Vec::new();
        let (mut len, mut stored) = (0, 0);
        while len < limits::WINDOW_LEN && stored < limits::WINDOW_STORED {
            let Some(part) = self.next_part(limits::WINDOW_LEN - len)? else {
                break;
            };
            len += part.len;
            if let From::Frame(slice, _) = part.from {
                stored += u64::from(slice.frame.stored_len);
            }
            match parts.last_mut() {
                Some(Part {
                    len,
                    from: From::Zero,
                }) if part.from == From::Zero => *len += part.len,
                _ => parts.push(part),
            }
        }
        let at = self.at;
        self.at += len;
        let len = usize::try_from(len)
            .map_err(|_| Error::new(Kind::Internal, "a window of more than the memory"))?;
        Ok((len > 0).then_some(Window { at, len, parts }))
    }
}

fn walk(manifest: &Manifest, stream: StreamIndex) -> Result<StreamWalk<'_>> {
    let slices = manifest.slices(stream);
    let slices = slices.ok_or_else(|| {
        Error::new(
            Kind::Corrupt,
            format!("the manifest: stream {stream} has no recipe"),
        )
    })?;
    Ok(StreamWalk {
        slices,
        slice: None,
        given: 0,
    })
}
