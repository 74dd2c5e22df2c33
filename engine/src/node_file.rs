//! Owns the writing of a node's own files: caches and marks, which can be lost.
//!
//! Always: whole under their name, or not there. Never: waits for the disk: what a power cut takes is made again.

use std::io::Write;
use std::path::Path;

/// Writes a file in the place of what was there, and makes its directory.
pub(crate) fn replace(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.persist(path)?;
    Ok(())
}
