//! Owns what each command works with: settings, screen, output, clock; and how it opens the repository.

use std::path::PathBuf;
use std::sync::Arc;

use cryostore_engine::format::repository::RepositoryRecord;
use cryostore_engine::{
    Env, Error, Filter, Found, KeyKind, Monitor, Repository, SnapshotList, Store, SystemEnv,
};

use crate::config::{self, Flags, Settings, Surroundings};
pub(crate) use crate::config::{Other, Places};
use crate::exit::Failure;
use crate::kubelet;
use crate::output::Output;
use crate::screen::Screen;
use crate::secrets::{Candidate, Keyring, Sources};
use crate::storages;

/// What a command works with.
#[derive(Debug, Clone)]
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

    pub(crate) fn settings(&self) -> Result<(String, Settings), Failure> {
        let mut settings = config::resolve(&self.flags, &Surroundings::of_this_process())?;
        let storage = settings
            .storage
            .take()
            .ok_or_else(|| storages::nothing_said(&self.places().unwrap_or_default()))?;
        Ok((storage, settings))
    }

    /// The storage that was said on the command line or by a variable, and none that was remembered.
    pub(crate) fn said_storage(&self) -> Result<Option<String>, Failure> {
        Ok(self.places()?.said)
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

    /// Where there is something to look at.
    pub(crate) fn places(&self) -> Result<Places, Failure> {
        let places = config::places(&self.flags, &Surroundings::of_this_process())?;
        if let Some(trouble) = &places.trouble {
            self.screen
                .warn(&format!("only the default is asked: {trouble}"));
        }
        Ok(places)
    }

    /// The same context, in which this storage was said.
    pub(crate) fn with_storage(&self, storage: &str) -> Self {
        let mut context = self.clone();
        context.flags.storage = Some(storage.to_owned());
        context
    }

    /// The same context for the only storage that there is; what was said of it counts, if anything was.
    pub(crate) fn with_one(&self, places: &Places, storage: &str) -> Self {
        if places.said.is_some() || places.default.is_some() {
            self.clone()
        } else {
            self.with_storage(storage)
        }
    }

    /// One of several storages that were not said. Nobody is asked for a passphrase: it would not be clear for which.
    pub(crate) fn known(&self, places: &Places, storage: &str) -> Result<Opened, Failure> {
        let around = Surroundings::of_this_process();
        let said = places.said.as_deref();
        let is_default = places.default.as_deref() == Some(storage);
        let settings = match said {
            Some(said) if said == storage => config::resolve(&self.flags, &around)?,
            None if is_default => config::resolve(&self.flags, &around)?,
            Some(_) if is_default => config::resolve_default(&self.flags, storage, &around)?,
            _ => config::resolve_known(&self.flags, storage, &around)?,
        };
        self.open_with_keys(storage, &settings, false)
    }

    fn open(&self, storage: &str, settings: &Settings) -> Result<Repository, Failure> {
        Ok(self.open_with_keys(storage, settings, true)?.repo)
    }

    fn open_with_keys(
        &self,
        storage: &str,
        settings: &Settings,
        ask: bool,
    ) -> Result<Opened, Failure> {
        if let Some(folder) = kubelet::Folder::at(storage) {
            return Err(folder.is_no_repository());
        }
        let mut store = store(storage, false, settings)?;
        if settings.append_only {
            store = store.append_only();
        }
        let mut tried = Vec::new();
        let unlock = |record: &RepositoryRecord| {
            let ring = Keyring {
                said: &settings.keys,
                known: settings
                    .known
                    .as_ref()
                    .filter(|_| settings.known_keys)
                    .map(|known| &known.keys),
                usual: settings.keys_dir.as_deref(),
                spare: &settings.spare,
                ask,
            };
            let candidates = ring.candidates(record, &self.screen)?;
            let kind = |(name, unlock): &Candidate| (unlock.kind(), name.clone());
            tried = candidates.iter().map(kind).collect();
            Ok(candidates.into_iter().map(|(_, unlock)| unlock).collect())
        };
        let env = Arc::clone(&self.env);
        let repo = Repository::open_with(store, env, settings.cache_dir.as_deref(), unlock)?;
        let repo = repo.with_memory(settings.memory);
        let repo = match settings.cache_size {
            Some(bytes) => repo.with_cache_size(bytes),
            None => repo,
        };
        storages::remember(repo.store(), settings);
        Ok(Opened { repo, tried })
    }

    /// An error where no repository is to be made.
    pub(crate) fn refuse_kubelets_folder(&self) -> Result<(), Failure> {
        let folder = kubelet::Folder::around(&self.settings()?.0);
        folder.map_or(Ok(()), |folder| Err(folder.takes_no_repository()))
    }

    /// Writes down where a repository is that was just made.
    pub(crate) fn remember(&self, store: &Store) -> Result<(), Failure> {
        storages::remember(store, &self.settings()?.1);
        Ok(())
    }

    /// What keys are named, and where those are kept that `init` makes.
    pub(crate) fn keys(&self) -> Result<(Sources, Option<PathBuf>), Failure> {
        let settings = self.settings()?.1;
        let keys = if settings.keys.is_empty() {
            settings.spare
        } else {
            settings.keys
        };
        Ok((keys, settings.keys_dir))
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

/// An open repository.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) repo: Repository,
    /// What was at hand to open it, and where it was found.
    pub(crate) tried: Vec<(KeyKind, String)>,
}

fn store(storage: &str, create: bool, settings: &Settings) -> Result<Store, Failure> {
    Ok(match &settings.storage_options {
        Some(options) => Store::open_with(storage, create, options)?,
        None => Store::open(storage, create)?,
    })
}
