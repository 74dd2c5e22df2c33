//! Owns the one door for the contents of objects: what is read is opened, what is written is sealed.
//!
//! Always: all objects of a repository but `repository.json` and `keys/…` go through it; in an encrypted repository nothing is believed that is not sealed.
//! Never: names, lists or deletes an object: that is the store's.

use std::sync::Arc;

use bytes::Bytes;
use cryostore_format::encryption::{
    SEALED_HEADER_LEN, SEALED_TAIL_LEN, SEALED_TRAILER_LEN, Seals, check_sealed_pack_header,
    open_frame, open_object, open_tail, seal_object, sealed_tail_len,
};
use cryostore_format::pack::{Directory, TRAILER_LEN, check_pack_header};
use cryostore_format::{FormatError, PackId};

use super::{Copies, Store};
use crate::error::{Error, Kind, Result};

/// A store, and what is needed to understand its objects.
#[derive(Debug, Clone)]
pub struct Vault {
    store: Store,
    seals: Option<Arc<Seals>>,
    copies: Option<Arc<Copies>>,
}

/// Where a frame stands.
#[derive(Debug, Clone, Copy)]
pub struct FramePlace {
    /// Its pack.
    pub pack: PackId,
    /// Bytes before it.
    pub offset: u32,
    /// Number of its first chunk.
    pub first_chunk: u32,
}

impl Vault {
    /// A store whose objects are in clear.
    #[must_use]
    pub const fn plain(store: Store) -> Self {
        Self {
            store,
            seals: None,
            copies: None,
        }
    }

    /// A store whose objects are sealed.
    #[must_use]
    pub fn sealed(store: Store, seals: Seals) -> Self {
        Self {
            seals: Some(Arc::new(seals)),
            ..Self::plain(store)
        }
    }

    /// The same, with these copies of packs on this node, or none.
    #[must_use]
    pub fn with_copies(self, copies: Option<Arc<Copies>>) -> Self {
        Self { copies, ..self }
    }

    /// This node's copies of packs.
    #[must_use]
    pub const fn copies(&self) -> Option<&Arc<Copies>> {
        self.copies.as_ref()
    }

    /// True if parts of a pack are read from this node's disk.
    #[must_use]
    pub fn is_near(&self, pack: PackId) -> bool {
        let copies = self.copies.as_ref();
        self.store.local_path().is_some() || copies.is_some_and(|copies| copies.has(pack))
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// What seals, if objects are sealed.
    #[must_use]
    pub const fn seals(&self) -> Option<&Arc<Seals>> {
        self.seals.as_ref()
    }

    /// The envelope that is stored under this name, which has at most `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let stored = self.get(name, limit)?;
        match self.seals {
            Some(_) => self.open(name, &stored),
            None => Ok(stored.into()),
        }
    }

    /// What is stored under this name, as it is; its envelope has at most `limit` bytes.
    pub fn get(&self, name: &str, limit: u64) -> Result<Bytes> {
        let seal = match self.seals {
            Some(_) => SEALED_HEADER_LEN as u64,
            None => 0,
        };
        self.store.get(name, limit + seal)
    }

    /// The envelope in what is stored under this name.
    pub fn open(&self, name: &str, stored: &[u8]) -> Result<Vec<u8>> {
        match &self.seals {
            Some(seals) => open_object(seals, name, stored).map_err(|e| Error::stored(name, e)),
            None => Ok(stored.to_vec()),
        }
    }

    /// What is to be stored under this name.
    pub fn seal(&self, name: &str, envelope: Vec<u8>) -> Result<Vec<u8>> {
        let Some(seals) = &self.seals else {
            return Ok(envelope);
        };
        seal_object(seals, name, &envelope)
            .map_err(|e| Error::new(Kind::Internal, format!("sealing {name}")).because(e))
    }

    /// A frame as it was before it was sealed.
    pub fn open_frame(
        &self,
        place: FramePlace,
        stored: Bytes,
    ) -> std::result::Result<Bytes, FormatError> {
        let Some(seals) = &self.seals else {
            return Ok(stored);
        };
        let mut out = Vec::new();
        let place = (place.pack, place.offset, place.first_chunk);
        open_frame(seals, Some(place), &stored, &mut out)?;
        Ok(out.into())
    }

    /// Checks the first bytes of the pack `id`.
    pub fn check_pack_header(
        &self,
        id: PackId,
        bytes: &[u8],
    ) -> std::result::Result<(), FormatError> {
        match self.seals {
            Some(_) => check_sealed_pack_header(id, bytes),
            None => check_pack_header(id, bytes),
        }
    }

    /// Bytes at a pack's end that say how many bytes its directory takes.
    #[must_use]
    pub const fn trailer_len(&self) -> u64 {
        match self.seals {
            Some(_) => SEALED_TRAILER_LEN as u64,
            None => TRAILER_LEN as u64,
        }
    }

    /// Bytes at a pack's end that its directory takes, as the last of them say.
    pub fn tail_len(&self, trailer: &[u8]) -> std::result::Result<u64, FormatError> {
        match self.seals {
            Some(_) => sealed_tail_len(trailer),
            None => Directory::tail_len(trailer),
        }
    }

    /// Directory and trailer of a pack in clear, from its last bytes.
    pub fn open_tail(
        &self,
        id: PackId,
        tail: &[u8],
        pack_len: u64,
    ) -> std::result::Result<Vec<u8>, FormatError> {
        match &self.seals {
            Some(seals) => open_tail(seals, id, tail, pack_len),
            None => Ok(tail.to_vec()),
        }
    }

    /// Bytes of a pack that are left when the seal of its directory is taken off; its frames are counted with their seals.
    #[must_use]
    pub const fn opened_len(&self, pack_len: u64) -> u64 {
        match self.seals {
            Some(_) => pack_len.saturating_sub(SEALED_TAIL_LEN as u64),
            None => pack_len,
        }
    }
}
