//! Owns frames that were wanted in part, and may be wanted again soon: pages that were stored together need not stand together in a later checkpoint.
//!
//! Always: a frame is decoded once as long as it is kept, by whoever is first to need it; those that were not used for longest are let go. Never: more than the bytes
//! it was made for, besides what readings hold that are at work.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cryostore_format::FormatError;
use cryostore_format::pack::{FrameHeader, FrameKind};
use cryostore_format::patch::Patch;
use lru::LruCache;

use super::ahead::Ahead;
use super::reading::FrameKey;
use crate::codec::frame::unpack_frame;

/// The frames of one manifest's packs.
#[derive(Debug)]
pub struct KeptFrames {
    most: usize,
    pub(super) ahead: Option<Ahead>,
    recent: Mutex<Recent>,
}

#[derive(Debug)]
struct Recent {
    frames: LruCache<FrameKey, Arc<KeptFrame>>,
    bytes: usize,
}

/// A frame, decoded or not yet.
#[derive(Debug)]
pub(super) struct KeptFrame {
    len: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Empty once it was decoded.
    stored: Bytes,
    decoded: Option<(FrameHeader, Content)>,
}

/// What is in a frame.
#[derive(Debug)]
pub(super) enum Content<C = Vec<u8>> {
    /// Chunks, or what is XORed with them.
    Chunks(C),
    /// Words.
    Patch(Patch<C>),
}

impl<C: AsRef<[u8]>> Content<C> {
    /// Understands what was unpacked.
    pub(super) fn of(header: &FrameHeader, plain: C) -> Result<Self, FormatError> {
        Ok(if header.kind == FrameKind::Patch {
            Self::Patch(Patch::decode(plain, header.chunks, header.uniform_len)?)
        } else {
            Self::Chunks(plain)
        })
    }
}

fn ok<T>(locked: std::sync::LockResult<T>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}

impl KeptFrames {
    /// Keeps at most so many bytes of content.
    #[must_use]
    pub fn at_most(most: usize) -> Arc<Self> {
        Self::with_ahead(most, None)
    }

    /// The same, and what is read ahead.
    #[must_use]
    pub fn with_ahead(most: usize, ahead: Option<Ahead>) -> Arc<Self> {
        Arc::new(Self {
            most,
            ahead,
            recent: Mutex::new(Recent {
                frames: LruCache::unbounded(),
                bytes: 0,
            }),
        })
    }

    pub(super) fn get(&self, key: FrameKey) -> Option<Arc<KeptFrame>> {
        ok(self.recent.lock()).frames.get(&key).map(Arc::clone)
    }

    /// Keeps a frame of which chunks of `used` bytes are wanted now; none if these are all, or if it is no frame of chunks.
    pub(super) fn keep(
        &self,
        key: FrameKey,
        stored: &Bytes,
        used: usize,
    ) -> Option<Arc<KeptFrame>> {
        let (header, _) = FrameHeader::split(stored).ok()?;
        let plain_len = header.plain_len as usize;
        // A patch is shorter than its pages.
        let (chunks, len) = match header.kind {
            FrameKind::Plain => (plain_len, plain_len),
            FrameKind::Patch => {
                let pages = usize::from(header.chunks);
                (pages * header.uniform_len as usize, plain_len + pages * 8)
            }
            FrameKind::Xor | FrameKind::Table => return None,
        };
        if chunks <= used || len > self.most {
            return None;
        }
        let mut recent = ok(self.recent.lock());
        let recent = &mut *recent;
        if let Some(kept) = recent.frames.get(&key) {
            return Some(Arc::clone(kept));
        }
        while recent.bytes + len > self.most {
            let (_, oldest) = recent.frames.pop_lru()?;
            recent.bytes -= oldest.len;
        }
        recent.bytes += len;
        let kept = Arc::new(KeptFrame {
            len,
            state: Mutex::new(State {
                stored: stored.clone(),
                decoded: None,
            }),
        });
        recent.frames.put(key, Arc::clone(&kept));
        Some(kept)
    }
}

impl KeptFrame {
    /// Bytes that it takes once it was decoded.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Hands its header and content to `then`.
    pub(super) fn with<T>(
        &self,
        then: impl FnOnce(&FrameHeader, &Content) -> T,
    ) -> Result<T, FormatError> {
        let mut state = ok(self.state.lock());
        let State { stored, decoded } = &mut *state;
        let (header, content) = match decoded {
            Some(decoded) => decoded,
            None => {
                let (header, plain) = unpack_frame(stored)?;
                let content = Content::of(&header, plain)?;
                *stored = Bytes::new();
                decoded.insert((header, content))
            }
        };
        Ok(then(header, content))
    }
}
