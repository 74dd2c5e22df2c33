//! Owns the settings of storages besides the one that is said: the other one of a copy, those that are known.
//!
//! Always: caches and memory are the same for all. Never: takes what variables and files of this program say of storage and keys for theirs.

use std::io::ErrorKind;
use std::path::Path;

use super::{Flags, Other, Settings, Surroundings, resolve};
use crate::exit::Failure;

/// The passphrase of the repository that is copied to.
const OTHER_PASSPHRASE: &str = "CRYOSTORE_TO_PASSPHRASE";

/// Settles what counts for another repository: what files and variables of this program say of storage and keys is meant for the usual one; caches and memory are the same.
pub(crate) fn resolve_other(
    flags: &Flags,
    other: &Other,
    around: &Surroundings<'_>,
) -> Result<Settings, Failure> {
    let mut keys = other.keys.clone();
    if keys.is_empty() && around.get(OTHER_PASSPHRASE).is_some() {
        keys.passphrase_variable = Some(OTHER_PASSPHRASE);
    }
    let its = Flags {
        storage: Some(other.storage.clone()),
        storage_options: other.storage_options.clone(),
        keys,
        ..Flags::default()
    };
    // Its keys are said each time: they are told apart from those of the usual one.
    Ok(Settings {
        known_keys: false,
        ..resolve_apart(flags, &its, false, around)?
    })
}

/// The same for a known storage, of which nothing else is said. What is said of keys may be its key where nothing else is at hand.
pub(crate) fn resolve_known(
    flags: &Flags,
    storage: &str,
    around: &Surroundings<'_>,
) -> Result<Settings, Failure> {
    Ok(Settings {
        spare: resolve(flags, around)?.keys,
        ..resolve_apart(flags, &alone(storage), false, around)?
    })
}

/// The same for the default, while a variable names another.
pub(crate) fn resolve_default(
    flags: &Flags,
    storage: &str,
    around: &Surroundings<'_>,
) -> Result<Settings, Failure> {
    resolve_apart(flags, &alone(storage), true, around)
}

/// A storage of which nothing else is said.
fn alone(storage: &str) -> Flags {
    Flags {
        storage: Some(storage.to_owned()),
        ..Flags::default()
    }
}

/// What `its` says of storage and keys counts, and the files if they are about it; what `flags` and the files say of the rest.
fn resolve_apart(
    flags: &Flags,
    its: &Flags,
    files_too: bool,
    around: &Surroundings<'_>,
) -> Result<Settings, Failure> {
    let usual = resolve(flags, around)?;
    let variable = |name: &str| {
        let ours = name.starts_with("CRYOSTORE_");
        (around.variable)(name).filter(|_| !ours)
    };
    // The files of the clouds' own tools, such as ~/.aws, speak of any storage.
    let read = |path: &Path| {
        if !files_too && path.ends_with("cryostore/config.toml") {
            return Err(ErrorKind::NotFound.into());
        }
        (around.read)(path)
    };
    let around = Surroundings {
        variable: &variable,
        read: &read,
        is_root: around.is_root,
    };
    let settings = resolve(its, &around)?;
    Ok(Settings {
        cache_dir: usual.cache_dir,
        cache_size: usual.cache_size,
        append_only: usual.append_only,
        memory: usual.memory,
        ..settings
    })
}
