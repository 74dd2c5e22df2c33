//! Owns a pack that is being filled.
//!
//! Always: in memory until it is whole. Never: reopened.

use std::sync::Arc;

use bytes::Bytes;
use cryostore_format::encryption::{Seals, seal_tail, sealed_pack_header, stamp_frame};
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
    seals: Option<Arc<Seals>>,
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
    /// What is at its end, in clear: frame table, ids, trailer.
    pub tail: Vec<u8>,
    /// Ids of its chunks, by number.
    pub ids: Vec<ChunkId>,
}

impl PackWriter {
    /// An empty pack with this name.
    pub fn new(id: PackId, buffers: &Buffers, seals: Option<&Arc<Seals>>) -> Result<Self> {
        let mut bytes = buffers.get();
        let header = match seals {
            Some(_) => sealed_pack_header(id),
            None => encode_pack_header(id),
        };
        bytes.push(&header)?;
        Ok(Self {
            id,
            bytes,
            seals: seals.cloned(),
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
        let taken = match self.seals {
            Some(_) => self.directory.push_sealed(&frame.header, listed),
            None => self.directory.push(&frame.header, listed),
        };
        taken.map_err(internal)?;
        let lost = || Error::new(Kind::Internal, "a pack lost its frame");
        let entry = *self.directory.frames.last().ok_or_else(lost)?;
        match &self.seals {
            None => self.bytes.push(&frame.bytes)?,
            Some(seals) => {
                let (seal, sealed) = frame.bytes.split_first_chunk().ok_or_else(lost)?;
                let mut seal = *seal;
                stamp_frame(seals, self.id, entry.offset, entry.first_chunk, &mut seal)
                    .map_err(internal)?;
                self.bytes.push(&seal)?;
                self.bytes.push(sealed)?;
            }
        }
        Ok(entry)
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
        match &self.seals {
            None => self.bytes.push(&tail)?,
            Some(seals) => {
                let sealed = seal_tail(seals, self.id, self.bytes.len() as u64, &tail)
                    .map_err(|e| Error::new(Kind::Internal, "sealing a pack").because(e))?;
                self.bytes.push(&sealed)?;
            }
        }
        Ok(SealedPack {
            id: self.id,
            tail,
            bytes: self.bytes.freeze(),
            // A pack has frames with ids, or frames without.
            ids: if self.other_ids.is_empty() {
                self.directory.ids
            } else {
                self.other_ids
            },
        })
    }
}
