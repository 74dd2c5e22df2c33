//! The cryostore engine: takes checkpoint archives apart, stores what changed, gives the same archives back.
//!
//! Start with [`Store::open`], [`Repository::init`] and [`Repository::open`]; then [`import`], [`export`], [`gc::collect`] and
//! [`check::check`]. Everything blocks, and reports to a [`Monitor`]; a service calls it from a thread of its own.
//! The library prints nothing and reads no environment variables. See ARCHITECTURE.md for the map.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::cast_possible_truncation,
        clippy::disallowed_methods
    )
)]

pub mod archive;
mod bridge;
pub mod check;
mod chunk;
mod codec;
pub mod contents;
mod copy;
pub mod criu;
pub mod env;
mod error;
pub mod gc;
mod index;
mod ingest;
pub mod limits;
mod memory;
pub mod monitor;
mod node_file;
mod pack;
pub mod prune;
mod rebuild;
mod repo;
mod restore;
mod stats;
mod store;

pub use copy::{Copied, CopyOptions, Outcome, copy};
pub use cryostore_format as format;
pub use env::{Env, SystemEnv};
pub use error::{Error, Kind, Result};
pub use ingest::{
    BaseChoice, ImportOptions, Imported, Optimized, Order, Repacked, Source, StreamId,
    StreamImport, import, optimize, repack,
};
pub use memory::Memory;
pub use monitor::{Deadline, Monitor, Phase, Silent};
pub use rebuild::{Rebuilt, rebuild_index};
pub use repo::{
    CacheUse, Filter, Found, InitOptions, Kept, KeyFile, KeyKind, LiveSession, NewKey, Newest,
    Repository, Rotated, SnapshotList, StoredKey, Unlock,
};
pub use restore::{CheckpointReader, ExportStats, Output, PageFrame, UnpackStats, export, unpack};
pub use stats::{SnapshotStats, Stats, stats};
pub use store::{Listed, Neighbours, Probe, Scheme, Store, StoreOptions};

/// What the benchmarks measure alone. No part of the interface: it may change in any version.
#[doc(hidden)]
pub mod measured {
    pub use crate::chunk::page;
    #[cfg(feature = "rocksdb")]
    pub use crate::index::local::LocalIndex;
}
