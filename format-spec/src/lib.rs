//! Every byte that cryostore stores: types, encoders, decoders. No I/O, no async.
//!
//! One module per document in `spec/`; `protocol.md` says who writes what when. Decoders take `&[u8]`, compare each length with [`limits`] before they
//! allocate, return errors and never panic. Encoders write one form only, so that equal values are equal bytes.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod catalogue;
pub mod collection;
pub mod damaged;
pub mod delta;
pub mod encryption;
pub mod envelope;
pub mod error;
pub mod ids;
pub mod limits;
pub mod manifest;
pub mod mark;
pub mod pack;
pub mod patch;
pub mod recipe;
pub mod repository;
pub mod segment;
pub mod session;
pub mod snapshot;
pub mod wire;

pub use error::{FormatError, Result};
pub use ids::{
    CatalogueId, ChunkHash, ChunkId, CollectionId, Digest, IdKey, KeyId, Lineage, ManifestId,
    PackId, RepositoryId, SegmentId, SessionId, SnapshotId,
};
