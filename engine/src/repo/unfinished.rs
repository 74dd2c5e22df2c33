//! Owns a node's memory of the packs that its imports have put and that are in no snapshot yet: what was uploaded before a failure is found again by the next import.
//!
//! A file below the cache for each import, with [`ENTRY_LEN`] bytes for each pack: its id, its length, and the first bytes of a digest of both, so that a file that was cut off by a power
//! cut says nothing wrong.
//!
//! Always: a pack is written down before it is put; the file of a process that lives is locked and left to it, and one whose packs a commit has made part of a snapshot goes. Never: believed
//! without a look at the store (protocol, W4); waited for until it is on the disk; a reason to fail.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use cryostore_format::{PackId, SessionId};

use super::Repository;
use crate::limits;

/// Below the repository's own directory.
const DIR: &str = "unfinished";
const ID_LEN: usize = size_of::<PackId>();
const DIGEST_LEN: usize = 8;
const ENTRY_LEN: usize = ID_LEN + size_of::<u64>() + DIGEST_LEN;
/// The first half of an id: that of the session.
const NAME_LEN: usize = ID_LEN;

/// What one import has put so far.
#[derive(Debug, Default)]
pub(crate) struct PutLog {
    /// None: nothing is written down.
    dir: Option<PathBuf>,
    open: Option<(File, PathBuf)>,
    packs: usize,
}

/// What an import has put whose process is gone, or that has failed. Nobody else takes it in as long as this lives.
#[derive(Debug)]
pub(crate) struct LeftPacks {
    packs: Vec<(PackId, u64)>,
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl PutLog {
    /// Writes down a pack and its length. Without it the pack is not found again: errors are no loss.
    pub(crate) fn add(&mut self, pack: PackId, len: u64) {
        if self.packs >= limits::PUT_LOG_PACKS {
            return;
        }
        let Some(dir) = &self.dir else { return };
        let mut write = || -> std::io::Result<()> {
            let (file, _) = match &mut self.open {
                Some(open) => open,
                None => self.open.insert(begin(dir, pack)?),
            };
            file.write_all(&entry(pack, len))
        };
        match write() {
            Ok(()) => self.packs += 1,
            Err(e) => {
                tracing::debug!("writing down pack {pack}: {e}");
                self.dir = None;
            }
        }
    }

    /// All of it is in a snapshot.
    pub(crate) fn forget(self) {
        if let Some((_, path)) = self.open {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl LeftPacks {
    /// The packs and their lengths.
    pub(crate) fn packs(&self) -> &[(PackId, u64)] {
        &self.packs
    }

    /// What is needed of it is in a snapshot.
    pub(crate) fn forget(self) {
        let _ = std::fs::remove_file(self.path);
    }

    /// None if its process lives, or if it says nothing.
    fn take(path: PathBuf) -> Option<Self> {
        let mut file = File::open(&path).ok()?;
        file.try_lock().ok()?;
        let packs = read(&mut file);
        if packs.is_empty() {
            let _ = std::fs::remove_file(&path);
            return None;
        }
        Some(Self {
            packs,
            path,
            _file: file,
        })
    }
}

/// A new file, locked; if there are too many, the oldest goes.
fn begin(dir: &Path, first: PackId) -> std::io::Result<(File, PathBuf)> {
    std::fs::create_dir_all(dir)?;
    let mut paths = paths(dir);
    let time = |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).ok();
    paths.sort_by_cached_key(time);
    let too_many = (paths.len() + 1).saturating_sub(limits::PUT_LOGS);
    let left = paths.into_iter().take(too_many).filter_map(LeftPacks::take);
    left.for_each(LeftPacks::forget);
    let path = dir.join(name(&first.to_string()));
    let file = File::options().append(true).create_new(true).open(&path)?;
    file.try_lock()?;
    Ok((file, path))
}

fn name(id: &str) -> &str {
    id.get(..NAME_LEN).unwrap_or(id)
}

fn paths(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn entry(pack: PackId, len: u64) -> [u8; ENTRY_LEN] {
    let mut out = [0; ENTRY_LEN];
    let (said, digest) = out.split_at_mut(ENTRY_LEN - DIGEST_LEN);
    let (id, len_bytes) = said.split_at_mut(ID_LEN);
    id.copy_from_slice(pack.as_bytes());
    len_bytes.copy_from_slice(&len.to_le_bytes());
    digest.copy_from_slice(&blake3::hash(said).as_bytes()[..DIGEST_LEN]);
    out
}

/// The entries of a file that are whole.
fn read(file: &mut File) -> Vec<(PackId, u64)> {
    let mut bytes = Vec::new();
    let most = limits::PUT_LOG_PACKS * ENTRY_LEN;
    if let Err(e) = file.take(most as u64).read_to_end(&mut bytes) {
        tracing::debug!("reading what an import has put: {e}");
    }
    let (entries, _) = bytes.as_chunks::<ENTRY_LEN>();
    let said = |bytes: &[u8; ENTRY_LEN]| {
        let (id, rest) = bytes.split_first_chunk::<ID_LEN>()?;
        let (len, _) = rest.split_first_chunk()?;
        let said = (PackId::from_bytes(*id), u64::from_le_bytes(*len));
        (entry(said.0, said.1) == *bytes).then_some(said)
    };
    entries.iter().filter_map(said).collect()
}

impl Repository {
    fn unfinished(&self) -> Option<PathBuf> {
        self.cache().map(|cache| cache.join(DIR))
    }

    /// Where an import writes down what it puts.
    pub(crate) fn put_log(&self) -> PutLog {
        PutLog {
            dir: self.unfinished(),
            ..PutLog::default()
        }
    }

    /// True if imports of this node may have left packs.
    pub(crate) fn has_left_packs(&self) -> bool {
        self.unfinished().is_some_and(|dir| !paths(&dir).is_empty())
    }

    /// What imports of this node have put that are not at work any more.
    pub(crate) fn left_packs(&self) -> Vec<LeftPacks> {
        let paths = self.unfinished().map(|dir| paths(&dir));
        let left = paths.unwrap_or_default().into_iter();
        left.filter_map(LeftPacks::take).collect()
    }

    /// Packs, and their bytes, that an import of this node has written down.
    pub(crate) fn left_by(&self, session: SessionId) -> (usize, u64) {
        let file = self
            .unfinished()
            .and_then(|dir| File::open(dir.join(name(&session.to_string()))).ok());
        let packs = file.map_or_else(Vec::new, |mut file| read(&mut file));
        (packs.len(), packs.iter().map(|(_, len)| len).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(session: u8, n: u8) -> PackId {
        let mut id = [session; 16];
        id[15] = n;
        PackId::from_bytes(id)
    }

    fn log(dir: &Path) -> PutLog {
        PutLog {
            dir: Some(dir.to_owned()),
            ..PutLog::default()
        }
    }

    fn left(dir: &Path) -> Vec<LeftPacks> {
        paths(dir).into_iter().filter_map(LeftPacks::take).collect()
    }

    #[test]
    fn what_an_import_has_put_is_taken_by_one_other_once_it_is_gone_and_by_nobody_while_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        let mut at_work = log(dir.path());
        at_work.add(pack(1, 1), 10);
        at_work.add(pack(1, 2), 20);
        assert!(left(dir.path()).is_empty(), "it lives");
        drop(at_work);
        let taken = left(dir.path());
        assert_eq!(taken[0].packs(), [(pack(1, 1), 10), (pack(1, 2), 20)]);
        assert!(left(dir.path()).is_empty(), "somebody has it");
        drop(taken);
        let taken = left(dir.path()).pop().unwrap();
        taken.forget();
        assert!(paths(dir.path()).is_empty());
        let mut committed = log(dir.path());
        committed.add(pack(2, 1), 10);
        committed.forget();
        assert!(paths(dir.path()).is_empty());
    }

    #[test]
    fn a_file_that_was_cut_off_or_damaged_says_nothing_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let mut at_work = log(dir.path());
        (0..3).for_each(|n| at_work.add(pack(1, n), 10 + u64::from(n)));
        drop(at_work);
        let path = paths(dir.path()).pop().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let said = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            left(dir.path()).pop().map(|left| left.packs().to_vec())
        };
        let all = said(&whole).unwrap();
        for len in 0..whole.len() {
            let some = said(&whole[..len]).unwrap_or_default();
            assert_eq!(some, all[..len / ENTRY_LEN], "{len} bytes");
        }
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            let mut rest = all.clone();
            rest.remove(at / ENTRY_LEN);
            assert_eq!(said(&bad).unwrap(), rest, "byte {at}");
        }
        assert_eq!(said(&vec![0; 4096]), None);
        assert!(!path.exists(), "it says nothing");
    }

    #[test]
    fn only_so_many_files_are_kept_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        for session in 0..u8::try_from(limits::PUT_LOGS).unwrap() + 5 {
            log(dir.path()).add(pack(session, 0), 1);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let kept = left(dir.path());
        assert_eq!(kept.len(), limits::PUT_LOGS);
        let sessions = kept.iter().map(|left| left.packs()[0].0.as_bytes()[0]);
        assert_eq!(sessions.min(), Some(5));
    }
}
