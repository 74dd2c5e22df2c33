//! Owns the figures of a repository's cache on this node, and its clearing.
//!
//! Always: whatever is removed is made or read again when it is needed. Never: removes what is no copy: the marks of sessions, and of what this node has seen.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Repository;
use super::{bases, kept};
use crate::error::{Error, Result};
use crate::limits;
use crate::store::Copies;

/// Below the repository's own directory.
const PACKS: &str = "packs";
const DIRECTORIES: &str = "directories";
const INDEX: &str = "index";

/// Files of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// How many.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a repository's cache on this node holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// Where it is; none: there is none.
    pub dir: Option<PathBuf>,
    /// Bytes that copies of packs may take; none: there are none, since the repository is a directory, or without a cache.
    pub most: Option<u64>,
    /// Copies of packs.
    pub packs: Kept,
    /// Copies of packs' directories.
    pub directories: Kept,
    /// Copies of manifests.
    pub manifests: Kept,
    /// Copies of records.
    pub records: Kept,
    /// The index.
    pub index: Kept,
}

impl Repository {
    /// The same, whose copies of packs on this node take at most so many bytes; 0: none. Of a directory there are none.
    #[must_use]
    pub fn with_cache_size(mut self, bytes: u64) -> Self {
        let dir = self.cache().map(|cache| cache.join(PACKS));
        let copies = dir
            .filter(|_| bytes > 0 && self.store().local_path().is_none())
            .map(|dir| Arc::new(Copies::new(dir, bytes)));
        self.vault = self.vault.with_copies(copies);
        self
    }

    pub(super) fn with_usual_cache_size(self) -> Self {
        self.with_cache_size(limits::CACHE_SIZE)
    }

    /// What this node keeps of the repository.
    #[must_use]
    pub fn cache_use(&self) -> CacheUse {
        let Some(dir) = self.cache() else {
            return CacheUse::default();
        };
        let of = |name| {
            let mut kept = Kept::default();
            sum(&dir.join(name), &mut kept);
            kept
        };
        CacheUse {
            dir: Some(dir.to_owned()),
            most: self.vault().copies().map(|copies| copies.most()),
            packs: of(PACKS),
            directories: of(DIRECTORIES),
            manifests: of(bases::DIR),
            records: of(kept::DIR),
            index: of(INDEX),
        }
    }

    /// Removes this node's copies of packs, their directories, manifests and records; what they took comes back. The index stays: other processes may have it open.
    pub fn clear_cache(&self) -> Result<Kept> {
        let mut removed = Kept::default();
        let Some(cache) = self.cache() else {
            return Ok(removed);
        };
        for name in [PACKS, DIRECTORIES, bases::DIR, kept::DIR] {
            let dir = cache.join(name);
            sum(&dir, &mut removed);
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("removing {}", dir.display()), e));
                }
                _ => {}
            }
        }
        Ok(removed)
    }
}

fn sum(dir: &Path, kept: &mut Kept) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => sum(&entry.path(), kept),
            Ok(meta) => {
                kept.files += 1;
                kept.bytes += meta.len();
            }
            Err(_) => {}
        }
    }
}
