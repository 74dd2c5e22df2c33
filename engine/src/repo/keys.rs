//! Owns the keys of an encrypted repository: opening it with what somebody has, adding, removing and rotating them.
//!
//! Always: a key object is put whole under a random name and never changed; one is removed only while another, which this process has opened, is
//! there. Never: asks anybody: what opens keys is handed in.

use std::sync::Arc;

use cryostore_format::encryption::{Argon2Cost, EpochKey, KeyLabel, KeyRecord, KeyRing, Secret};
use cryostore_format::repository::{RepositoryRecord, Role};
use cryostore_format::{Digest, FormatError, IdKey, KeyId, limits as format_limits};

use super::Repository;
use crate::env::{Env, random_id, timestamp};
use crate::error::{Error, Kind, Result};
use crate::store::Store;

pub use cryostore_format::encryption::{KeyFile, KeyKind, Unlock};

const PREFIX: &str = "keys";

pub(crate) fn object_name(id: KeyId) -> String {
    format!("{PREFIX}/{id}")
}

/// A key that is to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What it is to be opened with.
    pub unlock: Unlock,
    /// The user's words.
    pub label: String,
    /// What a passphrase costs to try.
    pub cost: Argon2Cost,
}

impl NewKey {
    /// A key with the usual cost.
    #[must_use]
    pub fn new(unlock: Unlock, label: impl Into<String>) -> Self {
        Self {
            unlock,
            label: label.into(),
            cost: Argon2Cost::default(),
        }
    }
}

/// A key of a repository.
#[derive(Debug)]
pub struct StoredKey {
    /// Its name.
    pub id: KeyId,
    /// What it says, or why it cannot be read.
    pub record: Result<KeyRecord>,
    /// True if it was opened with what was handed in.
    pub opened: bool,
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Number of the new epoch.
    pub epoch: u32,
    /// Keys that know it.
    pub keys: Vec<KeyId>,
    /// Keys that were removed.
    pub removed: Vec<KeyId>,
}

/// What opened a repository.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) ring: KeyRing,
    with: Vec<(KeyRecord, Unlock)>,
}

/// A ring for a new repository.
pub(super) fn new_ring(env: &dyn Env, record: Digest) -> KeyRing {
    KeyRing {
        id_key: IdKey::from_bytes(env.random()),
        record,
        epochs: vec![new_epoch(env, 0)],
    }
}

fn new_epoch(env: &dyn Env, order: u32) -> EpochKey {
    let [a, b, c, d, ..] = env.random();
    EpochKey {
        epoch: u32::from_le_bytes([a, b, c, d]).max(1),
        order,
        secret: Secret::from_bytes(env.random()),
    }
}

/// Wraps a ring and puts it.
pub(super) fn put_key(
    store: &Store,
    env: &dyn Env,
    record: &RepositoryRecord,
    ring: &KeyRing,
    key: &NewKey,
) -> Result<KeyRecord> {
    let about = KeyLabel {
        id: KeyId::from_bytes(random_id(env)),
        label: key.label.clone(),
        created: timestamp(env),
    };
    let salt = Digest::from_bytes(env.random());
    let wrapped = KeyRecord::wrap(ring, record.id, &key.unlock, about, salt, key.cost);
    let invalid = |e: FormatError| Error::new(Kind::Invalid, format!("the new key: {e}"));
    let wrapped = wrapped.map_err(invalid)?;
    // What cannot be opened again must not be what everything hangs on.
    let again = wrapped.unwrap(record.id, &key.unlock).map_err(invalid)?;
    if again != *ring {
        return Err(
            Error::new(Kind::Internal, "a key does not read back as it was")
                .hint("the memory of this machine may be faulty: test it"),
        );
    }
    let bytes = wrapped.encode().map_err(invalid)?;
    store.create(&object_name(wrapped.id), bytes)?;
    Ok(wrapped)
}

/// The keys that a store has.
fn read_keys(store: &Store) -> Result<Vec<(KeyId, Result<KeyRecord>)>> {
    let prefix = format!("{PREFIX}/");
    let mut out = Vec::new();
    for object in store.list(PREFIX)? {
        let id = object.name.strip_prefix(&prefix);
        let Some(id) = id.and_then(|id| id.parse::<KeyId>().ok()) else {
            continue;
        };
        if out.len() == format_limits::KEYS_MAX {
            return Err(Error::new(
                Kind::Corrupt,
                format!("there are more than {} keys", format_limits::KEYS_MAX),
            )
            .hint("remove those that nobody put there"));
        }
        let bytes = match store.get(&object.name, format_limits::RECORD_MAX) {
            // Removed since it was listed.
            Err(e) if e.kind() == Kind::NotFound => continue,
            bytes => bytes,
        };
        let record = bytes.and_then(|bytes| {
            let record = KeyRecord::decode(&bytes).map_err(|e| Error::stored(&object.name, e))?;
            if record.id == id {
                Ok(record)
            } else {
                let text = format!("{} is the key {}", object.name, record.id);
                Err(Error::new(Kind::Corrupt, text)
                    .hint("somebody moved it; put it back under its own name"))
            }
        });
        out.push((id, record));
    }
    Ok(out)
}

/// Opens all keys of a repository that `unlocks` open.
pub(super) fn open(store: &Store, record: &RepositoryRecord, unlocks: &[Unlock]) -> Result<Opened> {
    let keys = read_keys(store)?;
    if keys.is_empty() {
        return Err(Error::new(
            Kind::Corrupt,
            format!("{} is encrypted, and its keys are gone", store.name()),
        )
        .hint("put back what was in `keys/`, from a copy: without it nothing can be read"));
    }
    if unlocks.is_empty() {
        return Err(missing_key(store, &keys));
    }
    let mut opened: Option<Opened> = None;
    let mut damaged = None;
    for (id, key) in keys {
        let key = match key {
            Ok(key) => key,
            Err(e) => {
                damaged = Some(e);
                continue;
            }
        };
        for unlock in unlocks.iter().filter(|unlock| unlock.kind() == key.kind) {
            let ring = match key.unwrap(record.id, unlock) {
                Ok(ring) => ring,
                Err(FormatError::WrongKey) => continue,
                Err(e) => {
                    damaged = Some(Error::stored(object_name(id), e));
                    continue;
                }
            };
            let with = (key.clone(), unlock.clone());
            match &mut opened {
                None => {
                    opened = Some(Opened {
                        ring,
                        with: vec![with],
                    });
                }
                Some(opened) => {
                    let merged = opened.ring.merge(&ring);
                    merged.map_err(|e| Error::stored(object_name(id), e))?;
                    opened.with.push(with);
                }
            }
            break;
        }
    }
    let Some(opened) = opened else {
        // Of a damaged key nobody knows whether it is the one.
        return Err(damaged.map_or_else(
            || wrong_key(store, unlocks),
            |e| {
                let place = "no key could be opened, and one of them is damaged";
                e.at(place)
                    .hint("put back what was in `keys/`, from a copy, or use another key")
            },
        ));
    };
    if record.checksum() != Ok(opened.ring.record) {
        return Err(Error::new(
            Kind::Corrupt,
            format!(
                "repository.json in {} is not the one that its keys were made for: it was changed",
                store.name()
            ),
        )
        .hint("put it back from a copy; write nothing to this repository before that"));
    }
    Ok(opened)
}

fn missing_key(store: &Store, keys: &[(KeyId, Result<KeyRecord>)]) -> Error {
    let mut kinds: Vec<_> = keys
        .iter()
        .filter_map(|(_, key)| Some(key.as_ref().ok()?.kind.name()))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    let text = format!("{} is encrypted, and no key is at hand", store.name());
    Error::new(Kind::Denied, text).hint(format!(
        "say --key-file, --key-command or --passphrase-file, or set CRYOSTORE_PASSPHRASE; this repository has keys of the kind: {}",
        kinds.join(", ")
    ))
}

fn wrong_key(store: &Store, unlocks: &[Unlock]) -> Error {
    let kinds: Vec<_> = unlocks.iter().map(|unlock| unlock.kind().name()).collect();
    let text = format!(
        "the key at hand ({}) opens none of the keys of {}",
        kinds.join(", "),
        store.name()
    );
    Error::new(Kind::Denied, text)
        .hint("check that it is the key of this repository, and that the passphrase is typed as it was; `cryostore key list` shows what there is")
}

impl Repository {
    fn opened(&self) -> Result<&Arc<Opened>> {
        self.opened.as_ref().ok_or_else(|| {
            let text = format!("{} is not encrypted: it has no keys", self.store().name());
            Error::new(Kind::Unsupported, text)
                .hint("only a new repository can be encrypted; import the archives into it")
        })
    }

    /// Its keys.
    pub fn keys(&self) -> Result<Vec<StoredKey>> {
        let opened = self.opened()?;
        let is_opened = |id| opened.with.iter().any(|(key, _)| key.id == id);
        let keys = read_keys(self.store())?.into_iter();
        Ok(keys
            .map(|(id, record)| StoredKey {
                id,
                opened: is_opened(id),
                record,
            })
            .collect())
    }

    /// Adds a key: who has it can do whatever who has any other can.
    pub fn add_key(&self, key: &NewKey) -> Result<KeyId> {
        self.require(Role::Write)?;
        let ring = &self.opened()?.ring;
        if read_keys(self.store())?.len() >= format_limits::KEYS_MAX {
            let text = format!("there are {} keys already", format_limits::KEYS_MAX);
            return Err(Error::new(Kind::Invalid, text).hint("remove one before"));
        }
        Ok(put_key(self.store(), self.env(), self.record(), ring, key)?.id)
    }

    /// Removes a key. Another one that this process has opened must be there: it is looked for before, and once more after.
    pub fn remove_key(&self, id: KeyId) -> Result<()> {
        self.require(Role::Write)?;
        self.store().may_remove()?;
        let opened = self.opened()?;
        let others = || opened.with.iter().filter(|(key, _)| key.id != id);
        let keys = read_keys(self.store())?;
        if !keys.iter().any(|(found, _)| *found == id) {
            return Err(Error::new(Kind::NotFound, format!("there is no key {id}"))
                .hint("`cryostore key list` shows what there is"));
        }
        let is_there = |keys: &[(KeyId, Result<KeyRecord>)], key: &KeyRecord| {
            let same =
                |found: &(KeyId, Result<KeyRecord>)| matches!(&found.1, Ok(found) if found == key);
            keys.iter().any(same)
        };
        if !others().any(|(key, _)| is_there(&keys, key)) {
            return Err(Error::new(
                Kind::Conflict,
                format!("key {id} is the only one that is known to work"),
            )
            .hint("open the repository with another key to remove this one; `cryostore key add` makes one"));
        }
        self.store().delete(&object_name(id))?;
        // Two who remove each other's keys at the same time: each finds its own gone, and puts it back.
        let left = read_keys(self.store())?;
        if !others().any(|(key, _)| is_there(&left, key)) {
            for (key, _) in others() {
                let bytes = key.encode();
                let bytes = bytes.map_err(|e| Error::new(Kind::Internal, "a key").because(e))?;
                self.store().create(&object_name(key.id), bytes)?;
            }
        }
        Ok(())
    }

    /// Makes a new epoch: what is written by who opens the repository from now on is sealed with a new key. The keys that this process has opened
    /// are put anew, with it; others do not know it, and are removed if `remove_others` says so.
    pub fn rotate_keys(&self, remove_others: bool) -> Result<Rotated> {
        self.require(Role::Write)?;
        self.store().may_remove()?;
        let opened = self.opened()?;
        let mut others = Vec::new();
        for key in self.keys()? {
            if !key.opened {
                others.push(key.id);
            }
        }
        if !(others.is_empty() || remove_others) {
            let ids: Vec<_> = others.iter().map(ToString::to_string).collect();
            return Err(Error::new(
                Kind::Conflict,
                format!("these keys could not read what is written after a rotation: {}", ids.join(", ")),
            )
            .hint("hand their files, commands or passphrases in, too; or say --remove-others, and add them again after it"));
        }
        let mut ring = opened.ring.clone();
        let order = ring.current().map_or(0, |key| key.order.saturating_add(1));
        let epoch = new_epoch(self.env(), order);
        let out_of_room = |e| Error::new(Kind::Unsupported, "the key ring").because(e);
        let number = epoch.epoch;
        ring.epochs.push(epoch);
        ring.encode().map_err(out_of_room)?;
        let mut keys = Vec::new();
        for (key, unlock) in &opened.with {
            let new = NewKey {
                unlock: unlock.clone(),
                label: key.label.clone(),
                cost: key.argon2.unwrap_or_default(),
            };
            keys.push(put_key(self.store(), self.env(), self.record(), &ring, &new)?.id);
        }
        // Those that are there in two forms open as before; the old ones go when all new ones are there.
        let mut removed = Vec::new();
        for id in opened.with.iter().map(|(key, _)| key.id).chain(others) {
            self.store().delete(&object_name(id))?;
            removed.push(id);
        }
        Ok(Rotated {
            epoch: number,
            keys,
            removed,
        })
    }
}
