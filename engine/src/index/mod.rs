//! Owns where chunks lie: stored index segments (the truth is in the packs), and the node's copy of them in RocksDB.
//!
//! Always: a hint. The copy can be deleted at any time and may be stale; who finds a pack in it checks that the pack exists. Never: needed to read a checkpoint.

#[cfg(feature = "rocksdb")]
pub mod local;
pub mod segments;

use std::path::{Path, PathBuf};

use cryostore_format::segment::PackIds;
use cryostore_format::{ChunkId, PackId, SegmentId};

#[cfg(feature = "rocksdb")]
use crate::error::Kind;
use crate::error::Result;
#[cfg(feature = "rocksdb")]
use crate::limits;
use crate::memory::Memory;
use crate::monitor::Monitor;
#[cfg(feature = "rocksdb")]
use crate::monitor::Phase;
use crate::store::Vault;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// Number of the chunk within the pack.
    pub chunk: u32,
}

/// The node's copy of the index, as far as there is one: without the feature `rocksdb`, without a cache directory, or when it cannot be
/// opened, nothing is found and nothing is kept, and deduplication goes on against the base alone.
#[derive(Debug, Clone, Default)]
pub struct Index {
    #[cfg(feature = "rocksdb")]
    local: Option<std::sync::Arc<local::LocalIndex>>,
}

/// An index that is being opened beside other work. Dropped, it is waited for: nothing of it goes on behind its user's back.
#[derive(Debug)]
pub struct Opening {
    thread: Option<std::thread::JoinHandle<(Index, Vec<String>)>>,
    /// True as soon as it is known that there is nothing to find, false once it is known that there may be.
    has_nothing: std::sync::mpsc::Receiver<bool>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Keeps warnings for later.
#[derive(Debug, Default)]
struct Later(std::sync::Mutex<Vec<String>>);

impl Monitor for Later {
    fn warning(&self, text: &str) {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(text.to_owned());
    }
}

impl Opening {
    /// True if neither the node nor the store has an index to begin with; known before RocksDB is there.
    #[must_use]
    pub fn has_nothing(&self) -> bool {
        self.has_nothing.recv().unwrap_or(false)
    }

    /// Waits until it is open.
    #[must_use]
    pub fn wait(mut self, monitor: &dyn Monitor) -> Index {
        let joined = self.thread.take().map(std::thread::JoinHandle::join);
        let (index, warnings) = joined.and_then(std::thread::Result::ok).unwrap_or_default();
        warnings.iter().for_each(|warning| monitor.warning(warning));
        index
    }
}

impl Index {
    /// Begins to open the copy in `dir` on a thread of its own; a new RocksDB takes some 40 ms.
    #[must_use]
    pub fn start_opening(dir: Option<PathBuf>, vault: Vault, memory: Memory) -> Opening {
        let (known, has_nothing) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let here = dir.as_ref().is_some_and(|dir| dir.join("db").exists());
            let stored = || segments::list(vault.store()).is_ok_and(|found| found.is_empty());
            let _ = known.send(!here && stored());
            let later = Later::default();
            let index = Self::open(dir.as_deref(), &vault, memory, &later);
            (index, later.0.into_inner().unwrap_or_default())
        });
        Opening {
            thread: Some(thread),
            has_nothing,
        }
    }

    /// Opens the copy in `dir` and takes in stored segments that it does not know yet, as many as one opening may.
    #[cfg(feature = "rocksdb")]
    #[must_use]
    pub fn open(dir: Option<&Path>, vault: &Vault, memory: Memory, monitor: &dyn Monitor) -> Self {
        let Some(dir) = dir else {
            return Self::default();
        };
        let open = || -> Result<local::LocalIndex> {
            let index = local::LocalIndex::open(dir, memory)?;
            if index.is_owner() {
                take_in_segments(&index, vault, monitor)?;
            }
            Ok(index)
        };
        match open() {
            Ok(index) => Self {
                local: Some(std::sync::Arc::new(index)),
            },
            Err(e) => {
                monitor.warning(&format!(
                    "the local index is not used, deduplication is against the base only: {e}"
                ));
                Self::default()
            }
        }
    }

    /// Without the feature there is no index.
    #[cfg(not(feature = "rocksdb"))]
    #[must_use]
    pub fn open(_: Option<&Path>, _: &Vault, _: Memory, _: &dyn Monitor) -> Self {
        Self::default()
    }

    /// Removes the copy in `dir` and opens an empty one. If another process has it, that is a conflict and nothing is removed.
    #[cfg(feature = "rocksdb")]
    pub fn make_anew(dir: &Path, memory: Memory) -> Result<Self> {
        let local = local::LocalIndex::make_anew(dir, memory)?;
        Ok(Self {
            local: Some(std::sync::Arc::new(local)),
        })
    }

    /// Without the feature there is no index to make.
    #[cfg(not(feature = "rocksdb"))]
    pub fn make_anew(_: &Path, _: Memory) -> Result<Self> {
        Err(crate::error::Error::new(
            crate::error::Kind::Unsupported,
            "this program was built without an index",
        )
        .hint("build it with the feature `rocksdb`"))
    }

    /// Opens the copy in `dir` as it is.
    #[must_use]
    pub fn open_without_segments(
        dir: Option<&Path>,
        memory: Memory,
        monitor: &dyn Monitor,
    ) -> Self {
        #[cfg(feature = "rocksdb")]
        if let Some(dir) = dir {
            match local::LocalIndex::open(dir, memory) {
                Ok(index) => {
                    return Self {
                        local: Some(std::sync::Arc::new(index)),
                    };
                }
                Err(e) => monitor.warning(&format!("the local index cannot be opened: {e}")),
            }
        }
        let _ = (dir, memory, monitor);
        Self::default()
    }

    /// True if ids can be added to it: it is there, and no other process has it.
    #[must_use]
    pub fn can_grow(&self) -> bool {
        #[cfg(feature = "rocksdb")]
        if let Some(local) = &self.local {
            return local.is_owner();
        }
        false
    }

    /// True if it has no pack at all: a look-up would find nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        #[cfg(feature = "rocksdb")]
        if let Some(local) = &self.local {
            return local.is_empty();
        }
        true
    }

    /// Where chunks lie, in the order of `ids`, which must be sorted. An index that fails finds nothing.
    #[must_use]
    pub fn look_up(&self, ids: &[ChunkId]) -> Vec<Option<Location>> {
        #[cfg(feature = "rocksdb")]
        if let Some(local) = &self.local {
            match local.look_up(ids) {
                Ok(found) => return found,
                Err(e) => tracing::warn!("{e}"),
            }
        }
        vec![None; ids.len()]
    }

    /// Ids that were looked up so far.
    #[must_use]
    pub fn lookups(&self) -> u64 {
        #[cfg(feature = "rocksdb")]
        if let Some(local) = &self.local {
            return local.lookups();
        }
        0
    }

    /// Takes in the ids of packs, by chunk number from 0 on; with `segment`, that stored segment counts as taken in.
    pub fn insert(&self, packs: &[PackIds], segment: Option<SegmentId>) -> Result<()> {
        #[cfg(feature = "rocksdb")]
        if let Some(local) = &self.local {
            return local.insert(packs, segment);
        }
        let _ = (packs, segment);
        Ok(())
    }

    /// Forgets a pack that is gone, and the ids that it had, as far as they are known.
    pub fn forget(&self, pack: PackId, ids: &[ChunkId]) -> Result<()> {
        #[cfg(feature = "rocksdb")]
        if let Some(local) = &self.local {
            return local.forget(pack, ids);
        }
        let _ = (pack, ids);
        Ok(())
    }
}

#[cfg(feature = "rocksdb")]
fn take_in_segments(index: &local::LocalIndex, vault: &Vault, monitor: &dyn Monitor) -> Result<()> {
    let (mut missing, mut bytes) = (Vec::new(), 0);
    for (id, len) in segments::list(vault.store())? {
        // One that is larger than any of ours keeps no others out.
        if index.has_segment(id)? || len > limits::SEGMENT_BYTES_AT_ONCE {
            continue;
        }
        bytes += len;
        // What is left is taken in by later imports, the newest first.
        if missing.len() == limits::SEGMENTS_AT_ONCE || bytes > limits::SEGMENT_BYTES_AT_ONCE {
            tracing::info!(
                "the local index has {} of the missing segments",
                missing.len()
            );
            break;
        }
        missing.push(id);
    }
    for (done, id) in missing.iter().enumerate() {
        monitor.progress(Phase::Index, done as u64, Some(missing.len() as u64));
        match segments::read(vault, *id) {
            Ok(segment) => index.insert(&segment.packs, Some(*id))?,
            // It is a hint; and read once.
            Err(e) if e.kind() == Kind::Corrupt => {
                monitor.warning(&format!("an index segment is left out: {e}"));
                index.insert(&[], Some(*id))?;
            }
            // Removed by a collector since it was listed, or the store does not answer.
            Err(e) => monitor.warning(&format!("an index segment is left out: {e}")),
        }
    }
    Ok(())
}
