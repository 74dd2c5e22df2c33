//! Owns what each command works with: settings, screen, output, clock; and how it opens the repository.

use std::path::Path;
use std::sync::Arc;

use cryostore_engine::{Env, Monitor, Repository, SnapshotList, Store, SystemEnv};

use crate::config::{self, Flags, Settings, Surroundings};
use crate::exit::Failure;
use crate::output::Output;
use crate::screen::Screen;

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
        let store = store(&storage, false, &settings)?;
        let repo = self.open(store, settings.cache_dir.as_deref())?;
        Ok(repo.with_memory(settings.memory))
    }

    pub(crate) fn open(&self, store: Store, cache: Option<&Path>) -> Result<Repository, Failure> {
        Ok(Repository::open(store, Arc::clone(&self.env), cache)?)
    }

    /// All snapshots; those that cannot be read are named.
    pub(crate) fn snapshots(&self, repo: &Repository) -> Result<SnapshotList, Failure> {
        let list = repo.snapshots()?;
        for (object, e) in &list.damaged {
            self.screen
                .warn(&format!("a snapshot cannot be read: {object}: {e}"));
        }
        Ok(list)
    }
}

fn store(storage: &str, create: bool, settings: &Settings) -> Result<Store, Failure> {
    Ok(match &settings.storage_options {
        Some(options) => Store::open_with(storage, create, options)?,
        None => Store::open(storage, create)?,
    })
}
