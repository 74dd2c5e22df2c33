//! What the tests of the whole system share: repositories in temporary directories, archives, stores that record and fail.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

pub mod archives;
pub mod failures;
pub mod images;
pub mod servers;
pub mod simulation;
pub mod stores;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryostore_engine::format::RepositoryId;
use cryostore_engine::format::encryption::Secret;
use cryostore_engine::format::repository::Defaults;
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{
    Error, ImportOptions, Imported, InitOptions, KeyFile, Monitor, NewKey, Output, Repository,
    Silent, Source, Store, SystemEnv, Unlock, export, import,
};

/// A repository in a temporary directory, with a cache beside it.
#[derive(Debug)]
pub struct Place {
    /// Removed at the end.
    pub dir: tempfile::TempDir,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A new repository.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Defaults::default())
    }

    /// A new repository that is not encrypted.
    #[must_use]
    pub fn in_clear() -> Self {
        let place = Self::empty();
        let store = Store::open(place.store_dir().to_str().unwrap(), true).unwrap();
        Repository::init(&store, &SystemEnv::new()).unwrap();
        place
    }

    fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A new repository with defaults of its own.
    #[must_use]
    pub fn with(defaults: Defaults) -> Self {
        let place = Self::empty();
        let store = Store::open(place.store_dir().to_str().unwrap(), true).unwrap();
        init(&store, defaults);
        place
    }

    /// Directory of the store.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Directory of the caches.
    #[must_use]
    pub fn cache_dir(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// A path for a test's own file.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens the repository.
    #[must_use]
    pub fn open(&self) -> Repository {
        open_at(&self.store_dir(), Some(&self.cache_dir())).unwrap()
    }

    /// Writes a file and imports it.
    pub fn import_bytes(&self, name: &str, bytes: &[u8]) -> Result<Imported, Error> {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        self.import(&path)
    }

    /// Imports a file or directory.
    pub fn import(&self, path: &Path) -> Result<Imported, Error> {
        self.import_with(path, &ImportOptions::default(), &Silent)
    }

    /// Imports a file or directory in this way.
    pub fn import_with(
        &self,
        path: &Path,
        options: &ImportOptions,
        monitor: &dyn Monitor,
    ) -> Result<Imported, Error> {
        import(&self.open(), Source::at(path)?, options, monitor)
    }

    /// All bytes of a snapshot.
    #[must_use]
    pub fn bytes_of(&self, snapshot: &SnapshotRecord) -> Vec<u8> {
        bytes_of(&self.open(), snapshot, &Silent).unwrap()
    }

    /// Objects below a directory of the store, and their lengths.
    #[must_use]
    pub fn objects(&self, prefix: &str) -> Vec<(String, u64)> {
        self.open()
            .store()
            .list(prefix)
            .unwrap()
            .into_iter()
            .map(|object| (object.name, object.len))
            .collect()
    }

    /// All objects but what a collection leaves for a while: its records, and tombstones.
    #[must_use]
    pub fn lasting(&self) -> Vec<(String, u64)> {
        lasting(&self.open())
    }

    /// Bytes of all objects but the reserve, which is there from the beginning.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let objects = self.objects("").into_iter();
        let objects = objects.filter(|(name, _)| name != "reserve");
        objects.map(|(_, len)| len).sum()
    }
}

/// Opens the repository in a directory.
pub fn open_at(store: &Path, cache: Option<&Path>) -> Result<Repository, Error> {
    open(Store::open(store.to_str().unwrap(), false)?, cache)
}

/// Opens a repository, with the key of all tests if it is encrypted.
pub fn open(store: Store, cache: Option<&Path>) -> Result<Repository, Error> {
    Repository::open_with(store, Arc::new(SystemEnv::new()), cache, |record| {
        Ok(record
            .encryption
            .iter()
            .map(|_| test_key(record.id))
            .collect())
    })
}

/// Makes a repository that the key of all tests opens.
pub fn init(store: &Store, defaults: Defaults) -> RepositoryId {
    let first = |id| Ok(NewKey::new(test_key(id), "of all tests"));
    let options = InitOptions {
        defaults,
        ..InitOptions::default()
    };
    Repository::init_encrypted(store, &SystemEnv::new(), options, first).unwrap()
}

/// The key of all tests.
#[must_use]
pub fn test_key(repository: RepositoryId) -> Unlock {
    Unlock::File(KeyFile {
        repository,
        secret: Secret::from_bytes([0x5e; 32]),
    })
}

/// All bytes of a snapshot.
pub fn bytes_of(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    monitor: &dyn Monitor,
) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    export(repo, snapshot, Output::Stream(&mut out), monitor)?;
    Ok(out)
}

/// All objects of a repository but what a collection leaves for a while: its records, and tombstones.
#[must_use]
pub fn lasting(repo: &Repository) -> Vec<(String, u64)> {
    let tombs = repo.snapshots().unwrap().tombstones;
    let is_tomb = |name: &str| {
        let place = |place: &cryostore_engine::format::session::Place| {
            format!("snapshots/{}/{}", place.lineage, place.snapshot)
        };
        tombs.iter().any(|(tomb, _)| place(tomb) == name)
    };
    let objects = repo.store().list("").unwrap().into_iter();
    let objects =
        objects.filter(|object| !object.name.starts_with("gc/") && !is_tomb(&object.name));
    objects.map(|object| (object.name, object.len)).collect()
}
