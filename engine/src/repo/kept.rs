//! Owns this node's copies of small objects that do not change: the records of snapshots and of collections, and catalogues.
//!
//! Always: a copy is the object's own bytes, as sealed as they are, and stands for the object only while the store lists it with the tag and the length that it had; what the
//! copy says is checked as if it had just been read. So a tombstone that took a record's place, at whatever length, is seen. Never: kept of a directory, where a list costs as much
//! as reading; believed of a store whose lists have no tags; used by `check`, which is to see the objects themselves.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::Repository;
use crate::error::Result;
use crate::node_file;
use crate::store::Listed;

/// Below the repository's own directory: a file for each object, under its name.
pub(super) const DIR: &str = "objects";

impl Repository {
    fn copies(&self) -> Option<PathBuf> {
        self.cache()
            .filter(|_| self.copies_too && self.store().local_path().is_none())
            .map(|cache| cache.join(DIR))
    }

    /// What a listed object of at most `limit` bytes holds: from the node's copy of it, or read and kept.
    pub(super) fn read_listed<T>(
        &self,
        object: &Listed,
        limit: u64,
        decode: impl Fn(&[u8]) -> Result<T>,
    ) -> Result<T> {
        if let Some(found) = self.copied(object, &decode) {
            return Ok(found);
        }
        self.read_and_keep(object, limit, decode)
    }

    /// The same, if this node has a copy of it.
    pub(super) fn copied<T>(
        &self,
        object: &Listed,
        decode: impl Fn(&[u8]) -> Result<T>,
    ) -> Option<T> {
        let copy = self.copy_of(object)?;
        let found = self.vault().open(&object.name, &copy);
        found
            .and_then(|envelope| decode(&envelope))
            .inspect_err(|e| tracing::debug!("the copy of {} is damaged: {e}", object.name))
            .ok()
    }

    /// The same, of which this node has no copy.
    pub(super) fn read_and_keep<T>(
        &self,
        object: &Listed,
        limit: u64,
        decode: impl Fn(&[u8]) -> Result<T>,
    ) -> Result<T> {
        let stored = self.vault().get(&object.name, limit)?;
        let found = decode(&self.vault().open(&object.name, &stored)?)?;
        if stored.len() as u64 == object.len {
            self.keep(&object.name, object.tag.as_deref(), &stored);
        }
        Ok(found)
    }

    /// The bytes of an object, if this node has them and they are still what the store has.
    fn copy_of(&self, object: &Listed) -> Option<Bytes> {
        let path = self.copies()?.join(&object.name);
        let tag = object.tag.as_deref()?;
        let copy = Bytes::from(std::fs::read(path).ok()?);
        let line = copy.iter().position(|byte| *byte == b'\n')?;
        let bytes = copy.slice(line + 1..);
        let same = &copy[..line] == tag.as_bytes() && bytes.len() as u64 == object.len;
        same.then_some(bytes)
    }

    /// Keeps a copy of an object that has this tag. Without it the object is read when it is needed: errors are no loss.
    pub(super) fn keep(&self, name: &str, tag: Option<&str>, stored: &[u8]) {
        let (Some(dir), Some(tag)) = (self.copies(), tag) else {
            return;
        };
        if tag.contains('\n') {
            return;
        }
        if let Err(e) = node_file::replace(&dir.join(name), &[tag.as_bytes(), b"\n", stored]) {
            tracing::debug!("keeping a copy of {name}: {e}");
        }
    }

    /// Removes the copies of objects below `prefix` that are not there any more.
    pub(super) fn forget_unlisted(&self, prefix: &str, listed: &[Listed]) {
        let Some(root) = self.copies() else { return };
        let names: HashSet<&str> = listed.iter().map(|object| object.name.as_str()).collect();
        forget(&root, &root.join(prefix), &names);
    }
}

/// Removes the files below `dir` whose names (relative to `root`) are not among these.
fn forget(root: &Path, dir: &Path, names: &HashSet<&str>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            forget(root, &path, names);
            // Only an empty one goes.
            let _ = std::fs::remove_dir(&path);
            continue;
        }
        let name = path.strip_prefix(root).ok().and_then(Path::to_str);
        if name.is_none_or(|name| !names.contains(name)) {
            let _ = std::fs::remove_file(&path);
        }
    }
}
