//! Owns a repository: opening it, the names of its objects, sessions, snapshots and the commit.
//!
//! Always: a checkpoint is stored if and only if its snapshot record is there; the record comes last. Never: decides anything by a clock or a host name.

mod collections;
mod commit;
mod manifests;
mod session;
mod snapshots;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryostore_format::repository::{Defaults, OBJECT_NAME, RepositoryRecord, Role};
use cryostore_format::{IdKey, RepositoryId, limits as format_limits};

use crate::env::{Env, random_id, timestamp};
use crate::error::{Error, Kind, Result};
use crate::memory::Memory;
use crate::store::{Store, Vault};

pub(crate) use collections::is_collection;
pub(crate) use manifests::manifest_ids;
pub use manifests::manifest_name;
pub use session::{LiveSession, Session};
pub(crate) use snapshots::place_of;
pub use snapshots::{Filter, SnapshotList, snapshot_name};

/// A repository that is open.
#[derive(Debug, Clone)]
pub struct Repository {
    vault: Vault,
    record: RepositoryRecord,
    key: IdKey,
    env: Arc<dyn Env>,
    cache: Option<PathBuf>,
    memory: Memory,
}

impl Repository {
    /// Makes a new repository in a store; one that is there already is a conflict.
    pub fn init(store: &Store, env: &dyn Env) -> Result<RepositoryId> {
        Self::init_with(store, env, Defaults::default())
    }

    /// Makes a new repository in a store, with defaults of its own.
    pub fn init_with(store: &Store, env: &dyn Env, defaults: Defaults) -> Result<RepositoryId> {
        let id = RepositoryId::from_bytes(random_id(env));
        let key = IdKey::from_bytes(env.random());
        let record = RepositoryRecord {
            defaults,
            ..RepositoryRecord::new(id, &key, timestamp(env))
        };
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
                Kind::NotFound => Error::new(
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
        Ok(Self {
            vault: Vault::plain(store),
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
        self.vault.store()
    }
    /// The store, with what is needed to read and write its objects.
    #[must_use]
    pub(crate) const fn vault(&self) -> &Vault {
        &self.vault
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

    /// The envelope that is stored under this name; the object has at most `limit` bytes.
    pub(crate) fn read_object(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.vault.read(name, limit)
    }

    /// What is to be stored under this name. A writer of an envelope puts this, and nothing else.
    pub(crate) fn seal_object(&self, name: &str, envelope: Vec<u8>) -> Result<Vec<u8>> {
        self.vault.seal(name, envelope)
    }

    /// An error unless this program knows what `role` needs.
    pub fn require(&self, role: Role) -> Result<()> {
        self.record
            .allows(role)
            .map_err(|e| Error::stored(self.store().name(), e))
    }

    /// Directory of the node's copy of the index.
    #[must_use]
    pub fn index_dir(&self) -> Option<PathBuf> {
        self.cache.as_ref().map(|dir| dir.join("index"))
    }
}
