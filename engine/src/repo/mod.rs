//! Owns a repository: opening it, the names of its objects, sessions, snapshots and the commit.
//!
//! Always: a checkpoint is stored if and only if its snapshot record is there; the record comes last. Never: decides anything by a clock or a host name.

mod collections;
mod commit;
mod manifests;
mod marks;
mod session;
mod snapshots;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryostore_format::repository::{
    Defaults, OBJECT_NAME, Probed, RepositoryRecord, Role, SINGLE_WRITER,
};
use cryostore_format::{IdKey, RepositoryId, limits as format_limits};

use crate::env::{Env, random_id, timestamp};
use crate::error::{Error, Kind, Result};
use crate::memory::Memory;
use crate::store::Store;

pub(crate) use collections::{collection_name, collection_of};
pub(crate) use manifests::REWRITTEN;
pub use manifests::{ManifestName, manifest_name};
pub(crate) use marks::{deleted_place, deletion_name, pinned_by};
pub(crate) use session::Renewing;
pub use session::{LiveSession, Session, Terms};
pub use snapshots::{Filter, SnapshotList, snapshot_name};
pub(crate) use snapshots::{place_name, place_of};

/// How a repository is made.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// What imports do if they are not told otherwise.
    pub defaults: Defaults,
    /// What the store was seen to do.
    pub probed: Option<Probed>,
    /// One process at a time will ever write to it: objects are looked for and then put, on a store that cannot create.
    pub single_writer: bool,
}

/// A repository that is open.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Store,
    record: RepositoryRecord,
    key: IdKey,
    env: Arc<dyn Env>,
    cache: Option<PathBuf>,
    memory: Memory,
}

/// True for the name of a directory, right below the root, whose objects are ours, of this version or a later one.
pub(crate) fn is_ours(directory: &str) -> bool {
    let known = [
        "packs",
        "index",
        "manifests",
        REWRITTEN,
        "snapshots",
        "sessions",
        "gc",
        "pins",
    ];
    let reserved = ["keys", "catalogue", "moves", "damaged", "probe"];
    known.contains(&directory) || reserved.contains(&directory)
}

impl Repository {
    /// Makes a new repository in a store; one that is there already is a conflict.
    pub fn init(store: &Store, env: &dyn Env) -> Result<RepositoryId> {
        Self::init_with(store, env, Defaults::default())
    }

    /// Makes a new repository in a store, with defaults of its own. The store is not probed: who opens a store that others made asks [`Store::probe`] first.
    pub fn init_with(store: &Store, env: &dyn Env, defaults: Defaults) -> Result<RepositoryId> {
        let options = InitOptions {
            defaults,
            ..InitOptions::default()
        };
        Self::init_as(store, env, options)
    }

    /// Makes a new repository in a store.
    pub fn init_as(store: &Store, env: &dyn Env, options: InitOptions) -> Result<RepositoryId> {
        let InitOptions {
            defaults,
            probed,
            single_writer,
        } = options;
        let id = RepositoryId::from_bytes(random_id(env));
        let key = IdKey::from_bytes(env.random());
        let mut record = RepositoryRecord {
            defaults,
            probed,
            ..RepositoryRecord::new(id, &key, timestamp(env))
        };
        let mut store = store.clone();
        if single_writer {
            let name = || SINGLE_WRITER.to_owned();
            record.features.write.push(name());
            record.features.collect.push(name());
            store = store.for_single_writer();
        }
        let bytes = record
            .encode()
            .map_err(|e| Error::new(Kind::Internal, "the repository's record").because(e))?;
        store
            .create(OBJECT_NAME, bytes)
            .map_err(|e| match e.kind() {
                Kind::Conflict => Error::new(
                    Kind::Conflict,
                    format!("{} holds a repository already", store.name()),
                )
                .hint("use it as it is, or name another place"),
                _ => e,
            })?;
        Ok(id)
    }

    /// Opens a repository. Caches are kept below `cache_root`, in a directory of the repository's own.
    pub fn open(store: Store, env: Arc<dyn Env>, cache_root: Option<&Path>) -> Result<Self> {
        let bytes = store
            .get(OBJECT_NAME, format_limits::RECORD_MAX)
            .map_err(|e| match e.kind() {
                // With advice: it is the bucket that is not there.
                Kind::NotFound if e.advice().is_none() => Error::new(
                    Kind::NotFound,
                    format!("there is no repository in {}", store.name()),
                )
                .hint("check --storage; `cryostore init --storage DIR` makes a repository"),
                _ => e,
            })?;
        let record = RepositoryRecord::decode(&bytes)
            .and_then(|record| record.allows(Role::Read).map(|()| record))
            .map_err(|e| Error::stored(format!("{OBJECT_NAME} in {}", store.name()), e))?;
        let key = record.id_key().map_err(|e| Error::stored(OBJECT_NAME, e))?;
        let cache = cache_root.map(|root| root.join(record.id.to_string()));
        let mut store = store;
        if record.has_single_writer() {
            store = store.for_single_writer();
        }
        if record.probed.as_ref().is_some_and(|probed| !probed.ranges) {
            store = store.without_ranges();
        }
        Ok(Self {
            store,
            record,
            key,
            env,
            cache,
            memory: Memory::default(),
        })
    }

    /// The same, with another bound on memory.
    #[must_use]
    pub fn with_memory(self, memory: Memory) -> Self {
        Self { memory, ..self }
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }
    /// What `repository.json` says.
    #[must_use]
    pub const fn record(&self) -> &RepositoryRecord {
        &self.record
    }
    /// The key of the ids.
    #[must_use]
    pub const fn key(&self) -> &IdKey {
        &self.key
    }
    /// Clock and randomness.
    #[must_use]
    pub fn env(&self) -> &dyn Env {
        &*self.env
    }
    /// How much memory works on it may take.
    #[must_use]
    pub const fn memory(&self) -> Memory {
        self.memory
    }
    /// The repository's directory on this node, for caches.
    #[must_use]
    pub fn cache(&self) -> Option<&Path> {
        self.cache.as_deref()
    }

    /// An error unless this program knows what `role` needs.
    pub fn require(&self, role: Role) -> Result<()> {
        self.record
            .allows(role)
            .map_err(|e| Error::stored(self.store.name(), e))
    }

    /// Directory of the node's copy of the index.
    #[must_use]
    pub fn index_dir(&self) -> Option<PathBuf> {
        self.cache.as_ref().map(|dir| dir.join("index"))
    }
}
