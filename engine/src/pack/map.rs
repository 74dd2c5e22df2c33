//! Owns the mapping of files into memory, the only `unsafe` of the engine.
//!
//! Always: only files of our own cache, which are written under another name, renamed when they are whole, and never changed after. Never: an archive
//! (it can change or shrink under the mapping).

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// The bytes of a file that never changes.
#[derive(Debug)]
pub(super) struct Mapped(Mmap);

impl Mapped {
    /// Maps the file.
    #[expect(unsafe_code, reason = "mapping a file is unsafe by nature; see below")]
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the file is one of our cache: complete before it got its name, and replaced or removed as a whole only,
        // which leaves a mapping of the old one as it is.
        unsafe { Mmap::map(&file) }.map(Self)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
