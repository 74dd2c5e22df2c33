//! Owns what an agent remembers of archives: which are stored, and which it asked the kubelet for itself.
//!
//! Always: replaced as a whole, and on the disk before an archive is removed; entries of archives that are gone go. Never: needed for safety: an archive
//! that is not remembered is looked for in the repository by its digest.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cryostore_engine::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::archive::State;

const FILE: &str = "archives.json";
/// 16 MiB: some 50,000 archives.
const LEN: u64 = 16 << 20;

/// What is known of one archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Entry {
    /// As it was when it was stored; none: it is not.
    pub(crate) stored: Option<State>,
    /// What it became.
    pub(crate) snapshot: String,
    /// This agent asked for it, and is to remove it.
    pub(crate) ours: Option<Asked>,
    /// Whoever asked for it wants to keep it.
    pub(crate) stays: bool,
}

/// What was said when the agent was asked for a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    pub(crate) labels: Vec<String>,
    pub(crate) group: Option<String>,
}

/// By an archive's name.
type Entries = BTreeMap<String, Entry>;

/// The memory of one folder.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    entries: Mutex<Entries>,
}

impl Ledger {
    /// Reads what an agent before this one has left in `dir`, which is made.
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| {
            Error::io(dir.display(), e).hint("--state names a folder of the agent's")
        })?;
        let path = dir.join(FILE);
        let entries = match std::fs::metadata(&path) {
            Ok(meta) if meta.len() <= LEN => {
                let text = std::fs::read(&path).map_err(|e| Error::io(path.display(), e))?;
                // What cannot be read is not remembered.
                serde_json::from_slice(&text).unwrap_or_default()
            }
            _ => Entries::default(),
        };
        Ok(Self {
            path,
            entries: Mutex::new(entries),
        })
    }

    pub(crate) fn entry(&self, name: &str) -> Option<Entry> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(name).cloned()
    }

    /// Remembers, and is on the disk when this returns.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Entry)) -> Result<()> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        change(entries.entry(name.to_owned()).or_default());
        self.write(&entries)
    }

    /// Forgets those that are not there any more.
    pub(crate) fn keep_only(&self, names: &[&str]) -> Result<()> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let before = entries.len();
        entries.retain(|name, _| names.contains(&name.as_str()));
        if entries.len() == before {
            return Ok(());
        }
        self.write(&entries)
    }

    fn write(&self, entries: &Entries) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(self.path.display(), e);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        let text = serde_json::to_vec(entries).unwrap_or_default();
        file.write_all(&text).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&self.path).map_err(|e| failed(e.error))?;
        let dir = std::fs::File::open(dir).map_err(failed)?;
        dir.sync_all().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_remembered_is_there_after_a_restart_and_what_is_damaged_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        for name in ["a", "b"] {
            ledger
                .change(name, |entry| entry.snapshot = "s1".to_owned())
                .unwrap();
        }
        ledger.keep_only(&["b", "c"]).unwrap();
        let again = Ledger::open(dir.path()).unwrap();
        assert_eq!(again.entry("a"), None);
        assert_eq!(again.entry("b").unwrap().snapshot, "s1");
        let path = dir.path().join(FILE);
        let text = std::fs::read(&path).unwrap();
        for len in 0..text.len() {
            std::fs::write(&path, &text[..len]).unwrap();
            assert_eq!(Ledger::open(dir.path()).unwrap().entry("b"), None);
        }
    }
}
