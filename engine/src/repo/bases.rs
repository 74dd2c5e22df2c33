//! Owns this node's copies of manifests: for each container that of the newest checkpoint which this node stored, since the next one is compared with it.
//!
//! Always: a copy is the object's own bytes, as sealed as they are; it counts only while nothing took the manifest's place, and if it is what the snapshot's record names. Never: kept of a directory,
//! where reading costs nothing; taken by whoever restores or checks.

use std::path::{Path, PathBuf};

use cryostore_format::manifest::Manifest;
use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{Digest, Lineage};

use super::{Repository, manifest_name};
use crate::{limits, node_file};

/// Below the repository's own directory: a file for each container.
pub(super) const DIR: &str = "bases";

impl Repository {
    fn base_copy(&self, lineage: Lineage) -> Option<PathBuf> {
        self.cache()
            .filter(|_| self.copies_too && self.store().local_path().is_none())
            .map(|cache| cache.join(DIR).join(lineage.to_string()))
    }

    /// Keeps a manifest as it is stored. Without it the object is read: errors are no loss.
    pub(crate) fn keep_base(&self, snapshot: &SnapshotRecord, stored: &[u8]) {
        let Some(path) = self.base_copy(snapshot.lineage) else {
            return;
        };
        match node_file::replace(&path, &[stored]) {
            Ok(()) => trim(path.parent().unwrap_or(&path)),
            Err(e) => tracing::debug!("keeping a copy of a manifest: {e}"),
        }
    }

    /// The manifest that a snapshot's record names, if this node has a copy of it.
    pub(super) fn kept_base(&self, snapshot: &SnapshotRecord) -> Option<Manifest> {
        let stored = std::fs::read(self.base_copy(snapshot.lineage)?).ok()?;
        // Most often another one, whose seal is of another name.
        let name = manifest_name(snapshot.manifest.id);
        let bytes = self.vault().open(&name, &stored).ok()?;
        if Digest::of(&bytes) != snapshot.manifest.digest {
            return None;
        }
        Manifest::decode(&bytes).ok()
    }
}

/// Removes the oldest, if there are more than [`limits::BASES_KEPT`].
fn trim(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    let too_many = files.len().saturating_sub(limits::BASES_KEPT);
    if too_many > 0 {
        files.sort_unstable();
    }
    for (_, path) in &files[..too_many] {
        let _ = std::fs::remove_file(path);
    }
}
