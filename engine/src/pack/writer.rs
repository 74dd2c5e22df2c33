//! Owns a pack that is being filled.
//!
//! Always: in memory until it is whole. Never: reopened.

use bytes::Bytes;
use cryostore_format::pack::{Directory, FrameEntry, FrameKind, encode_pack_header};
use cryostore_format::{ChunkHash, ChunkId, PackId};

use super::buffer::{Buffer, Buffers};
use crate::codec::frame::SealedFrame;
use crate::error::{Error, Kind, Result};
use crate::limits;

/// Frames that will be one pack.
#[derive(Debug)]
pub struct PackWriter {
    id: PackId,
    bytes: Buffer,
    directory: Directory,
    /// Of chunks that the directory has no ids of.
    other_ids: Vec<ChunkId>,
}

/// A pack as it is stored.
#[derive(Debug)]
pub struct SealedPack {
    /// Its name.
    pub id: PackId,
    /// The whole object.
    pub bytes: Bytes,
    /// The object's last bytes: frame table, ids, trailer.
    pub tail: Bytes,
    /// Ids of its chunks, by number.
    pub ids: Vec<ChunkId>,
}

impl PackWriter {
    /// An empty pack with this name.
    pub fn new(id: PackId, buffers: &Buffers) -> Result<Self> {
        let mut bytes = buffers.get();
        bytes.push(&encode_pack_header(id))?;
        Ok(Self {
            id,
            bytes,
            directory: Directory::default(),
            other_ids: Vec::new(),
        })
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> PackId {
        self.id
    }

    /// Takes in a frame; where it lies comes back.
    pub fn push(&mut self, frame: &SealedFrame) -> Result<FrameEntry> {
        let ids: Vec<_> = frame.hashes.iter().map(ChunkHash::id).collect();
        let internal = |e| Error::new(Kind::Internal, "filling a pack").because(e);
        let listed = if frame.header.kind == FrameKind::Plain {
            &ids[..]
        } else {
            self.other_ids.extend_from_slice(&ids);
            &[]
        };
        self.directory
            .push(&frame.header, listed)
            .map_err(internal)?;
        self.bytes.push(&frame.bytes)?;
        self.directory
            .frames
            .last()
            .copied()
            .ok_or_else(|| Error::new(Kind::Internal, "a pack lost its frame"))
    }

    /// True when it is as large as packs are to be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let last = self.directory.frames.last();
        let chunks = last.map_or(0, |last| last.first_chunk + u32::from(last.chunks));
        self.bytes.len() >= limits::PACK_LEN || chunks >= limits::PACK_CHUNKS
    }

    /// The whole object.
    pub fn finish(mut self) -> Result<SealedPack> {
        let tail = self
            .directory
            .encode(self.id)
            .map_err(|e| Error::new(Kind::Internal, "ending a pack").because(e))?;
        let frames_end = self.bytes.len();
        self.bytes.push(&tail)?;
        let bytes = self.bytes.freeze();
        Ok(SealedPack {
            id: self.id,
            tail: bytes.slice(frames_end..),
            bytes,
            // A pack has frames with ids, or frames without.
            ids: if self.other_ids.is_empty() {
                self.directory.ids
            } else {
                self.other_ids
            },
        })
    }
}
