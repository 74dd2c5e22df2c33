//! Owns what this node remembers of its checks: which packs it read, when, and whether they were whole.
//!
//! Always: a hint of a few dozen bytes for each pack, replaced as a whole; what is known of a pack goes with it. Never: believed when its digest is wrong: then all is read again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use cryostore_format::{Digest, PackId};

use crate::limits;
use crate::node_file;

const FILE: &str = "checked";

/// What was found of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Bytes of the pack.
    pub(super) len: u64,
    /// When, in seconds since 1970.
    pub(super) when: i64,
    /// False if something was wrong with it.
    pub(super) whole: bool,
}

/// Id, length, time and verdict.
const ENTRY_LEN: usize = size_of::<PackId>() + size_of::<u64>() + size_of::<i64>() + 1;

/// What is known of packs.
#[derive(Debug, Default)]
pub(super) struct Checked {
    file: Option<PathBuf>,
    packs: HashMap<PackId, Verdict>,
}

impl Checked {
    /// What is kept in the directory `cache` of the packs in `listed`; without one, or when it cannot be read, nothing is known. What was found after `now` was found by a wrong clock.
    pub(super) fn load(cache: Option<&Path>, listed: &BTreeMap<PackId, u64>, now: i64) -> Self {
        let file = cache.map(|dir| dir.join(FILE));
        let bytes = file.as_ref().and_then(|file| std::fs::read(file).ok());
        let mut packs = bytes.as_deref().and_then(decode).unwrap_or_default();
        packs.retain(|id, verdict| listed.get(id) == Some(&verdict.len) && verdict.when <= now);
        Self { file, packs }
    }

    pub(super) fn get(&self, id: PackId) -> Option<Verdict> {
        self.packs.get(&id).copied()
    }

    pub(super) fn note(&mut self, id: PackId, verdict: Verdict) {
        self.packs.insert(id, verdict);
    }

    /// What is known, of each pack.
    pub(super) fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        self.packs.values().copied()
    }

    /// Keeps it. Without it packs would be read again: a failure is no loss.
    pub(super) fn save(&self) {
        let Some(file) = &self.file else { return };
        if let Err(e) = node_file::replace(file, &[&encode(&self.packs)]) {
            tracing::debug!("keeping what was checked: {e}");
        }
    }
}

fn encode(packs: &HashMap<PackId, Verdict>) -> Vec<u8> {
    let mut sorted: Vec<_> = packs.iter().collect();
    // The oldest are what is read again soonest.
    sorted.sort_unstable_by_key(|(id, verdict)| (std::cmp::Reverse(verdict.when), **id));
    let mut entries = Vec::with_capacity(sorted.len().min(limits::CHECKED_PACKS) * ENTRY_LEN);
    for (id, verdict) in sorted.into_iter().take(limits::CHECKED_PACKS) {
        entries.extend_from_slice(id.as_bytes());
        entries.extend_from_slice(&verdict.len.to_le_bytes());
        entries.extend_from_slice(&verdict.when.to_le_bytes());
        entries.push(u8::from(verdict.whole));
    }
    [Digest::of(&entries).as_bytes(), &entries[..]].concat()
}

fn decode(bytes: &[u8]) -> Option<HashMap<PackId, Verdict>> {
    let (digest, entries) = bytes.split_first_chunk::<{ blake3::OUT_LEN }>()?;
    if Digest::of(entries).as_bytes() != digest {
        return None;
    }
    let (entries, rest) = entries.as_chunks::<ENTRY_LEN>();
    let read = |entry: &[u8; ENTRY_LEN]| {
        let (id, entry) = entry.split_first_chunk()?;
        let (len, entry) = entry.split_first_chunk()?;
        let (when, whole) = entry.split_first_chunk()?;
        let verdict = Verdict {
            len: u64::from_le_bytes(*len),
            when: i64::from_le_bytes(*when),
            whole: whole == [1],
        };
        Some((PackId::from_bytes(*id), verdict))
    };
    rest.is_empty()
        .then(|| entries.iter().filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(when: i64) -> Verdict {
        Verdict {
            len: 7,
            when,
            whole: true,
        }
    }

    #[test]
    fn what_was_checked_is_kept_until_the_pack_goes_or_is_another_or_a_bit_flips() {
        let dir = tempfile::tempdir().unwrap();
        let ids = [1, 2, 3].map(|n| PackId::from_bytes([n; 16]));
        let listed = BTreeMap::from(ids.map(|id| (id, 7)));
        let mut checked = Checked::load(Some(dir.path()), &listed, 100);
        for (id, when) in ids.into_iter().zip([50, 60, 101]) {
            checked.note(id, verdict(when));
        }
        checked.save();
        let load = |listed: &BTreeMap<PackId, u64>| {
            let checked = Checked::load(Some(dir.path()), listed, 100);
            ids.map(|id| checked.get(id).map(|verdict| verdict.when))
        };
        assert_eq!(
            load(&listed),
            [Some(50), Some(60), None],
            "one is of a time to come"
        );
        assert_eq!(
            load(&BTreeMap::from([(ids[0], 7), (ids[1], 8)])),
            [Some(50), None, None]
        );
        let path = dir.path().join(FILE);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert!(decode(&flipped).is_none(), "byte {at}");
            assert!(decode(&bytes[..at]).is_none(), "cut to {at} bytes");
        }
    }

    #[test]
    fn of_too_many_packs_those_that_were_read_last_are_kept() {
        let id = |n: usize| PackId::from_bytes((n as u128).to_le_bytes());
        let many = (0..limits::CHECKED_PACKS + 5)
            .map(|n| (id(n), verdict(n as i64)))
            .collect();
        let kept = decode(&encode(&many)).unwrap();
        assert_eq!(kept.len(), limits::CHECKED_PACKS);
        assert!(!kept.contains_key(&id(4)) && kept.contains_key(&id(5)));
    }
}
