//! Owns what this node remembers of a repository, to notice that the store is older, or less, than it was: a store can be put back to an earlier
//! state as a whole, and every object in it is genuine then.
//!
//! Always: costs no request; lies in the node's cache, so that a node without one notices nothing. Never: proves anything; it says what somebody should look at.

use std::path::{Path, PathBuf};

use cryostore_format::encryption::KeyRing;
use cryostore_format::session::Place;
use cryostore_format::{Digest, Lineage, SnapshotId};

use super::Repository;
use crate::error::{Error, Kind, Result};
use crate::node_file;
use crate::store::Store;

/// Below the repository's own directory: for each container the newest snapshot that this node stored or saw committed.
const SEEN: &str = "seen";
/// Below the repository's own directory: the newest epoch that this node saw.
const EPOCH: &str = "epoch";
/// Below the root of all caches: places that held an encrypted repository.
const PLACES: &str = "encrypted-places";

fn write(path: &Path, text: &str) {
    // A mark that is missing notices nothing, and harms nothing.
    if let Err(e) = node_file::replace(path, &[text.as_bytes()]) {
        tracing::debug!("the mark {}: {e}", path.display());
    }
}

fn place_mark(cache_root: &Path, store: &Store) -> PathBuf {
    let name = Digest::of(store.name().as_bytes()).to_string();
    cache_root.join(PLACES).join(name)
}

/// Remembers that the repository at this place is encrypted.
pub(super) fn mark_encrypted(cache_root: &Path, store: &Store) {
    let path = place_mark(cache_root, store);
    if !path.exists() {
        write(&path, store.name());
    }
}

/// An error if what is not encrypted now was encrypted when this node saw it last: somebody may wait for memory in clear.
pub(super) fn check_in_clear(cache_root: &Path, store: &Store) -> Result<()> {
    let path = place_mark(cache_root, store);
    if !path.exists() {
        return Ok(());
    }
    let text = format!(
        "{} held an encrypted repository when this node saw it last, and this one is not",
        store.name()
    );
    Err(Error::new(Kind::Denied, text).hint(format!(
        "if the repository was made anew, remove {}; else somebody replaced it: write nothing to it",
        path.display()
    )))
}

/// Looks whether the keys are as new as this node has seen them, and remembers the newest.
pub(super) fn check_epoch(cache: &Path, ring: &KeyRing) -> Result<()> {
    let path = cache.join(EPOCH);
    let seen = std::fs::read_to_string(&path).ok();
    let seen = seen.and_then(|text| u32::from_str_radix(text.trim(), 16).ok());
    if let Some(seen) = seen.filter(|seen| ring.epochs.iter().all(|key| key.epoch != *seen)) {
        let text = format!(
            "the keys of this repository are older than this node has seen them: there is no epoch {seen:08x}"
        );
        return Err(Error::new(Kind::Corrupt, text).hint(format!(
            "the store was put back to an earlier state, or a key was put back that a rotation had removed; if that is meant to be so, remove {}",
            path.display()
        )));
    }
    if let Some(key) = ring.current().filter(|key| seen != Some(key.epoch)) {
        write(&path, &format!("{:08x}", key.epoch));
    }
    Ok(())
}

impl Repository {
    fn seen(&self, lineage: Lineage) -> Option<PathBuf> {
        Some(self.cache()?.join(SEEN).join(lineage.to_string()))
    }

    /// Remembers a snapshot that was committed.
    pub(super) fn mark(&self, place: Place) {
        if let Some(path) = self.seen(place.lineage) {
            write(&path, &place.snapshot.to_string());
        }
    }

    /// Forgets a snapshot that is known to be gone.
    pub fn unmark(&self, place: Place) {
        if self.marked(place.lineage) == Some(place.snapshot)
            && let Some(path) = self.seen(place.lineage)
        {
            let _ = std::fs::remove_file(path);
        }
    }

    /// The newest snapshot of a container that this node remembers.
    pub(super) fn marked(&self, lineage: Lineage) -> Option<SnapshotId> {
        let text = std::fs::read_to_string(self.seen(lineage)?).ok()?;
        text.trim().parse().ok()
    }

    /// All that this node remembers.
    pub(super) fn all_marked(&self) -> Vec<Place> {
        let dir = self.cache().map(|cache| cache.join(SEEN));
        let entries = dir.and_then(|dir| std::fs::read_dir(dir).ok());
        let lineages = entries.into_iter().flatten().filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.parse::<Lineage>().ok()
        });
        let mut out: Vec<_> = lineages
            .filter_map(|lineage| {
                let snapshot = self.marked(lineage)?;
                Some(Place { lineage, snapshot })
            })
            .collect();
        out.sort_by_key(|place| (place.lineage, place.snapshot));
        out
    }
}
