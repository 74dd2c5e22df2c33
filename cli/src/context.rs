//! Owns what each command works with: settings, screen, output, clock; and how it opens the repository.

use std::path::PathBuf;
use std::sync::Arc;

use cryostore_engine::format::repository::RepositoryRecord;
use cryostore_engine::{
    Env, Error, Filter, Found, Monitor, Repository, SnapshotList, Store, SystemEnv,
};

pub(crate) use crate::config::Other;
use crate::config::{self, Flags, Settings, Surroundings};
use crate::exit::Failure;
use crate::output::Output;
use crate::screen::Screen;
use crate::secrets::{self, Sources};

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) flags: Flags,
    pub(crate) output: Output,
    pub(crate) screen: Arc<Screen>,
    pub(crate) env: Arc<dyn Env>,
}

impl Context {
    pub(crate) fn new(flags: Flags, output: Output, screen: Arc<Screen>) -> Self {
        Self {
            flags,
            output,
            screen,
            env: Arc::new(SystemEnv::new()),
        }
    }

    pub(crate) fn monitor(&self) -> &dyn Monitor {
        &*self.screen
    }

    fn settings(&self) -> Result<(String, Settings), Failure> {
        let mut settings = config::resolve(&self.flags, &Surroundings::of_this_process())?;
        let storage = settings.storage.take().ok_or_else(|| {
            Failure::usage(
                "it is not said where the repository is",
                "say --storage DIR, set CRYOSTORE_STORAGE, or write `storage = \"DIR\"` into ~/.config/cryostore/config.toml",
            )
        })?;
        Ok((storage, settings))
    }

    /// The place for a repository, which is made if it is not there.
    pub(crate) fn new_store(&self) -> Result<Store, Failure> {
        let (storage, settings) = self.settings()?;
        store(&storage, true, &settings)
    }

    /// The repository.
    pub(crate) fn repository(&self) -> Result<Repository, Failure> {
        let (storage, settings) = self.settings()?;
        self.open(&storage, &settings)
    }

    /// Another repository than the one that is meant everywhere else.
    pub(crate) fn other_repository(&self, other: &Other) -> Result<Repository, Failure> {
        let around = Surroundings::of_this_process();
        let settings = config::resolve_other(&self.flags, other, &around)?;
        self.open(&other.storage, &settings)
    }

    fn open(&self, storage: &str, settings: &Settings) -> Result<Repository, Failure> {
        let mut store = store(storage, false, settings)?;
        if settings.append_only {
            store = store.append_only();
        }
        let unlock = |record: &RepositoryRecord| {
            let keys_dir = settings.keys_dir.as_deref();
            secrets::unlock(&settings.keys, keys_dir, record, &self.screen)
        };
        let env = Arc::clone(&self.env);
        let repo = Repository::open_with(store, env, settings.cache_dir.as_deref(), unlock)?;
        let repo = repo.with_memory(settings.memory);
        Ok(match settings.cache_size {
            Some(bytes) => repo.with_cache_size(bytes),
            None => repo,
        })
    }

    /// What keys are named, and where those are kept that `init` makes.
    pub(crate) fn keys(&self) -> Result<(Sources, Option<PathBuf>), Failure> {
        let settings = self.settings()?.1;
        Ok((settings.keys, settings.keys_dir))
    }

    /// All snapshots; those that cannot be read are named.
    pub(crate) fn snapshots(&self, repo: &Repository) -> Result<SnapshotList, Failure> {
        let list = repo.snapshots()?;
        for place in &list.vanished {
            self.screen.warn(&SnapshotList::about_vanished(place));
            // Told once.
            repo.unmark(*place);
        }
        self.warn_of_damaged(&list.damaged);
        Ok(list)
    }

    fn warn_of_damaged(&self, damaged: &[(String, Error)]) {
        for (object, e) in damaged {
            self.screen
                .warn(&format!("a snapshot cannot be read: {object}: {e}"));
        }
    }

    /// The snapshot that `text` means; its record is read, and no other where an id is said.
    pub(crate) fn find(
        &self,
        repo: &Repository,
        text: &str,
        filter: &Filter,
    ) -> Result<Found, Failure> {
        let found = repo.find(text, filter)?;
        for (place, about) in found.about_vanished() {
            self.screen.warn(&about);
            // Told once.
            repo.unmark(place);
        }
        self.warn_of_damaged(&found.damaged);
        Ok(found)
    }
}

fn store(storage: &str, create: bool, settings: &Settings) -> Result<Store, Failure> {
    Ok(match &settings.storage_options {
        Some(options) => Store::open_with(storage, create, options)?,
        None => Store::open(storage, create)?,
    })
}
