//! Owns how much memory the parts of a work may take: the table of ARCHITECTURE.md, "Memory".
//!
//! Always: a fixed part for what is at work, and shares of the rest that grow with what is allowed. Never: makes a result depend on it, but for what is found again.

use crate::error::{Error, Kind, Result};
use crate::limits;

const MIB: u64 = 1 << 20;

/// What a process of this program may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(u64);

impl Default for Memory {
    fn default() -> Self {
        Self(Self::USUAL)
    }
}

impl Memory {
    /// 256 MiB, unless something else is said.
    pub const USUAL: u64 = 256 * MIB;
    /// Slabs, frames at work, packs, program and libraries, with 32 MiB for the rest.
    pub const LEAST: u64 = Self::FIXED + 32 * MIB;
    const FIXED: u64 = 128 * MIB;

    /// At most so many bytes.
    pub fn at_most(bytes: u64) -> Result<Self> {
        if bytes >= Self::LEAST {
            return Ok(Self(bytes));
        }
        Err(Error::new(
            Kind::Invalid,
            format!("{} MiB of memory are too few", bytes / MIB),
        )
        .hint(format!(
            "allow {} MiB or more: {} MiB for what is read, packed and on its way to the store, and some to remember",
            Self::LEAST / MIB,
            Self::FIXED / MIB
        )))
    }

    /// The part of a share, `usual` with [`Self::USUAL`].
    fn share(self, usual: usize) -> usize {
        let rest = u128::from(self.0.saturating_sub(Self::FIXED));
        let share = usual as u128 * rest / u128::from(Self::USUAL - Self::FIXED);
        usize::try_from(share).unwrap_or(usize::MAX)
    }

    /// Ids of an import's own chunks.
    pub(crate) fn session_ids(self) -> usize {
        self.share(limits::SESSION_IDS)
    }

    /// Chunks of the base that are looked for wherever they come again.
    pub(crate) fn base_chunks(self) -> usize {
        self.share(limits::BASE_CHUNKS)
    }

    /// Delta frames of the base whose ids are kept.
    pub(crate) fn delta_ids(self) -> usize {
        self.share(limits::DELTA_IDS)
    }

    /// Bytes of RocksDB's block cache.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn index_cache(self) -> usize {
        self.share(limits::INDEX_CACHE)
    }

    /// Bytes of frames of the base that an import keeps since more of them may be wanted.
    pub(crate) fn kept_by_import(self) -> usize {
        self.share(limits::KEPT_BY_IMPORT)
    }

    /// Bytes of frames that are kept since more of them may be wanted.
    pub(crate) fn kept_frames(self) -> usize {
        self.share(limits::KEPT_FRAMES)
    }

    /// Bytes fetched of a bucket before they are used.
    pub(crate) fn held_ahead(self) -> usize {
        self.share(limits::AHEAD_HELD)
    }

    /// Windows that an export decodes side by side.
    pub(crate) fn windows(self) -> usize {
        let cores = 2 * rayon::current_num_threads();
        cores.min(self.share(limits::WINDOWS_DECODING)).max(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_grow_with_what_is_allowed_and_too_little_is_refused() {
        let usual = Memory::default();
        assert_eq!(usual.session_ids(), limits::SESSION_IDS);
        assert_eq!(Memory::at_most(Memory::USUAL).unwrap(), usual);
        let least = Memory::at_most(Memory::LEAST).unwrap();
        assert_eq!(least.session_ids(), limits::SESSION_IDS / 4);
        assert_eq!(least.base_chunks(), limits::BASE_CHUNKS / 4);
        assert!(least.windows() >= 2 && least.delta_ids() > 0);
        let more = Memory::at_most(1 << 30).unwrap();
        assert_eq!(more.session_ids(), 7 * limits::SESSION_IDS);
        let e = Memory::at_most(Memory::LEAST - 1).unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
        assert!(e.advice().unwrap().contains("160 MiB"), "{:?}", e.advice());
    }
}
