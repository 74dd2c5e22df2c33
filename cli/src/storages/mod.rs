//! Owns the use of several storages: which are asked, side by side and for how long; in which of them an id is; and what is written down of them.
//!
//! Always: a storage that was said is the only one that is asked, the default is asked before the known ones, and an id that is in two is an error that names
//! both. Never: chooses among storages where something is to be stored or collected.

mod ask;
mod search;

use cryostore_engine::{Error, Kind, Store};

pub(crate) use self::ask::{Answer, ask};
pub(crate) use self::search::{Search, several_said, split};
use crate::config::{Places, Settings, Surroundings, known};
use crate::exit::Failure;

/// Nothing is said, and this command does not choose.
pub(crate) fn nothing_said(places: &Places) -> Failure {
    let mut advice = "say --storage DIR, set CRYOSTORE_STORAGE, or name the usual one: `cryostore configure --storage DIR`".to_owned();
    if !places.others.is_empty() {
        advice.push_str(&format!("; known are {}", places.others.join(", ")));
    }
    Failure::usage("it is not said where the repository is", advice)
}

/// Writes down where a repository is and what opened it, unless that is known. A node without a home, or with one that cannot be written to, goes without.
pub(crate) fn remember(store: &Store, settings: &Settings) {
    let Some(path) = known::path(&Surroundings::of_this_process()) else {
        return;
    };
    let name = match store.local_path().map(|path| path.to_str()) {
        Some(Some(path)) => path.to_owned(),
        Some(None) => return,
        None => known::written_name(store.name()),
    };
    let before = settings.known.as_ref();
    let mut keys = settings.keys.lasting();
    if keys.is_empty() {
        keys = before.map(|known| known.keys.clone()).unwrap_or_default();
    }
    let new = known::Known {
        storage: name,
        options: settings.lasting.clone(),
        keys,
    };
    if before == Some(&new) {
        return;
    }
    match known::remember(&path, &new) {
        Ok(true) => {}
        Ok(false) => tracing::info!(
            "{} is not remembered: {} storages are known",
            new.storage,
            known::KNOWN_MAX
        ),
        Err(failure) => tracing::info!("{} is not remembered: {}", new.storage, failure.text()),
    }
}

/// A storage that did not answer in time.
fn too_slow(seconds: u64) -> Failure {
    Error::new(Kind::Unavailable, format!("no answer within {seconds} s"))
        .hint("ask it alone, with --storage; `cryostore configure --forget STORAGE` takes one out that is gone")
        .into()
}
