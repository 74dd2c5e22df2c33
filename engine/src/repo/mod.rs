//! Owns a repository: opening it, the names of its objects, sessions, snapshots and the commit.
//!
//! Always: a checkpoint is stored if and only if its snapshot record is there; the record comes last. Never: decides anything by a clock or a host name.

mod bases;
mod catalogue;
mod collections;
mod commit;
mod copies;
mod damage;
mod find;
mod kept;
mod keys;
mod manifests;
mod marks;
mod newest;
mod reserve;
mod rollback;
mod session;
mod snapshots;
mod unfinished;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryostore_format::encryption::Seals;
use cryostore_format::repository::{
    Defaults, OBJECT_NAME, Probed, RepositoryRecord, Role, SINGLE_WRITER,
};
use cryostore_format::{IdKey, RepositoryId, limits as format_limits};

use crate::env::{Env, random_id, timestamp};
use crate::error::{Error, Kind, Result};
use crate::memory::Memory;
use crate::store::{Store, Vault};

pub(crate) use catalogue::{Catalogues, Stored as StoredCatalogue};
pub(crate) use collections::{collection_name, collection_of};
pub use copies::{CacheUse, Kept};
pub(crate) use damage::{damage_name, damage_of};
pub use find::Found;
pub(crate) use keys::object_name as key_name;
pub use keys::{KeyFile, KeyKind, NewKey, Rotated, StoredKey, Unlock};
pub(crate) use manifests::REWRITTEN;
pub use manifests::{ManifestName, manifest_name};
pub(crate) use marks::{deleted_place, deletion_name, pinned_by};
pub use newest::Newest;
pub(crate) use session::Renewing;
pub use session::{LiveSession, Session, Terms};
pub use snapshots::{Filter, SnapshotList, snapshot_name};
pub(crate) use snapshots::{place_name, place_of};
pub(crate) use unfinished::{LeftPacks, PutLog};

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
    vault: Vault,
    record: RepositoryRecord,
    key: IdKey,
    opened: Option<Arc<keys::Opened>>,
    env: Arc<dyn Env>,
    cache: Option<PathBuf>,
    memory: Memory,
    /// This node's copies of objects are read in place of them.
    copies_too: bool,
}

/// Directories right below the root whose objects are ours.
const KNOWN: [&str; 9] = [
    "packs",
    "index",
    "manifests",
    REWRITTEN,
    "snapshots",
    "sessions",
    "gc",
    "pins",
    "keys",
];

/// True for the name of an object, right below the root, that is ours.
pub(crate) fn is_ours_at_root(object: &str) -> bool {
    [OBJECT_NAME, reserve::NAME].contains(&object)
}

/// True for the name of a directory, right below the root, whose objects are ours, of this version or a later one.
pub(crate) fn is_ours(directory: &str) -> bool {
    // Catalogues are of buckets, which have no directories that are made.
    let others = ["catalogue", "moves", "probe"];
    KNOWN.contains(&directory) || others.contains(&directory)
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

    /// Makes a new repository in a store, in clear.
    pub fn init_as(store: &Store, env: &dyn Env, options: InitOptions) -> Result<RepositoryId> {
        let id = RepositoryId::from_bytes(random_id(env));
        let key = IdKey::from_bytes(env.random());
        let record = options.fill(RepositoryRecord::new(id, &key, timestamp(env)));
        Self::put_record(store, &record)?;
        Ok(id)
    }

    /// Makes a new repository that is encrypted. `first` gives its first key, once the repository has an id: what it keeps of it must be safe when it is back.
    pub fn init_encrypted(
        store: &Store,
        env: &dyn Env,
        options: InitOptions,
        first: impl FnOnce(RepositoryId) -> Result<NewKey>,
    ) -> Result<RepositoryId> {
        if store.len(OBJECT_NAME)?.is_some() {
            return Err(holds_one(store));
        }
        let id = RepositoryId::from_bytes(random_id(env));
        let record = options.fill(RepositoryRecord::encrypted(id, timestamp(env)));
        let internal = |e| Error::new(Kind::Internal, "the repository's record").because(e);
        let ring = keys::new_ring(env, record.checksum().map_err(internal)?);
        // A crash after this leaves a key of a repository that is not there: the next one ignores it, since it does not open it.
        let to = store_of(store, &record);
        keys::put_key(&to, env, &record, &ring, &first(id)?)?;
        Self::put_record(store, &record)?;
        Ok(id)
    }

    fn put_record(store: &Store, record: &RepositoryRecord) -> Result<()> {
        let bytes = record
            .encode()
            .map_err(|e| Error::new(Kind::Internal, "the repository's record").because(e))?;
        let directories = KNOWN
            .iter()
            .filter(|name| **name != "keys" || record.encryption.is_some());
        store.make_directories(directories.copied())?;
        let put = store_of(store, record).create(OBJECT_NAME, bytes);
        put.map_err(|e| match e.kind() {
            Kind::Conflict => holds_one(store),
            _ => e,
        })?;
        reserve::keep(store);
        Ok(())
    }

    /// Opens a repository that is not encrypted. Caches are kept below `cache_root`, in a directory of the repository's own.
    pub fn open(store: Store, env: Arc<dyn Env>, cache_root: Option<&Path>) -> Result<Self> {
        Self::open_with(store, env, cache_root, |_| Ok(Vec::new()))
    }

    /// Opens a repository with what `unlock` has for it. One that is not encrypted is refused if there is anything: somebody who expects a
    /// lock shall not write into a place without one.
    pub fn open_with(
        store: Store,
        env: Arc<dyn Env>,
        cache_root: Option<&Path>,
        unlock: impl FnOnce(&RepositoryRecord) -> Result<Vec<Unlock>>,
    ) -> Result<Self> {
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
        let unlocks = unlock(&record)?;
        let cache = cache_root.map(|root| root.join(record.id.to_string()));
        let store = store_of(&store, &record);
        let stored = |e| Error::stored(OBJECT_NAME, e);
        let (key, vault, opened) = if record.encryption.is_none() {
            if !unlocks.is_empty() {
                return Err(not_encrypted(&store));
            }
            if let Some(root) = cache_root {
                rollback::check_in_clear(root, &store)?;
            }
            (record.id_key().map_err(stored)?, Vault::plain(store), None)
        } else {
            let opened = keys::open(&store, &record, &unlocks)?;
            if let (Some(root), Some(cache)) = (cache_root, &cache) {
                rollback::mark_encrypted(root, &store);
                rollback::check_epoch(cache, &opened.ring)?;
            }
            let seals = Seals::new(record.id, &opened.ring, &env.random()).map_err(stored)?;
            let key = opened.ring.id_key.clone();
            (key, Vault::sealed(store, seals), Some(Arc::new(opened)))
        };
        Ok(Self {
            vault,
            record,
            key,
            opened,
            env,
            cache,
            memory: Memory::default(),
            copies_too: true,
        }
        .with_usual_cache_size())
    }

    /// The same, which reads the store's objects themselves, of which this node may have copies.
    #[must_use]
    pub fn without_copies(&self) -> Self {
        Self {
            copies_too: false,
            vault: self.vault.clone().with_copies(None),
            ..self.clone()
        }
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

impl InitOptions {
    fn fill(self, mut record: RepositoryRecord) -> RepositoryRecord {
        record.defaults = self.defaults;
        record.probed = self.probed;
        if self.single_writer {
            let name = || SINGLE_WRITER.to_owned();
            record.features.write.push(name());
            record.features.collect.push(name());
        }
        record
    }
}

/// The store as a repository uses it.
fn store_of(store: &Store, record: &RepositoryRecord) -> Store {
    let mut store = store.clone();
    if record.has_single_writer() {
        store = store.for_single_writer();
    }
    if record.probed.as_ref().is_some_and(|probed| !probed.ranges) {
        store = store.without_ranges();
    }
    store
}

fn holds_one(store: &Store) -> Error {
    let text = format!("{} holds a repository already", store.name());
    Error::new(Kind::Conflict, text).hint("use it as it is, or name another place")
}

fn not_encrypted(store: &Store) -> Error {
    let text = format!(
        "{} is not encrypted, and there is a key for it",
        store.name()
    );
    Error::new(Kind::Denied, text).hint(
        "if it is meant to be so, say no key; else repository.json was replaced: write nothing to this place, and look who can",
    )
}
