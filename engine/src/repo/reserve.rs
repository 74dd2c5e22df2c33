//! Owns the room that a repository in a directory keeps for the day on which its disk is full: without it nothing could be deleted then, since a deletion and a collection
//! have to write a little before they free anything.
//!
//! Always: given up only when a put of a deletion or of a collection finds no room; put back by the collections after it. Never: an error of its own.

use super::Repository;
use crate::error::{Kind, Result};
use crate::limits;
use crate::store::Store;

/// Its object, right below the root.
pub(crate) const NAME: &str = "reserve";

/// Bytes that no file system makes smaller.
fn contents() -> Vec<u8> {
    let mut bytes = vec![0; limits::RESERVE];
    let mut hasher = blake3::Hasher::new();
    hasher.update(NAME.as_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Puts the reserve into a directory that has none. Where there is no room for it there is none.
pub(super) fn keep(store: &Store) {
    if store.local_path().is_none() || !matches!(store.len(NAME), Ok(None)) {
        return;
    }
    if let Err(e) = store.replace(NAME, contents()) {
        tracing::debug!("{e}");
    }
}

impl Repository {
    /// Puts the reserve back, if there is room.
    pub(crate) fn keep_reserve(&self) {
        keep(self.store());
    }

    /// A small put of somebody who is about to free something: if there is no room for it, the reserve is given up and it is tried again.
    pub(crate) fn with_reserve<T>(&self, put: impl Fn() -> Result<T>) -> Result<T> {
        match put() {
            Err(e) if e.kind() == Kind::NoSpace && self.give_up_reserve() => put(),
            done => done,
        }
    }

    fn give_up_reserve(&self) -> bool {
        let store = self.store();
        store.local_path().is_some()
            && matches!(store.len(NAME), Ok(Some(_)))
            && store.delete(NAME).is_ok()
    }
}
