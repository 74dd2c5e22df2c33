//! Owns the open files of one folder of images, by the numbers that processes have for them.
//!
//! Always: read once for all processes. Never: an error; what is not there is not found.

use std::collections::HashMap;

use super::{Folder, TABLE_LEN};
use crate::criu::{FileKind, parse_files};

/// `files.img` by number.
#[derive(Debug, Default)]
pub(super) struct Files(HashMap<u32, FileKind>);

impl Files {
    pub(super) fn read(folder: &Folder<'_>) -> Self {
        let bytes = folder.read("files.img", TABLE_LEN);
        let files = bytes.and_then(|bytes| parse_files(&bytes).ok());
        let files = files.into_iter().flatten();
        Self(files.map(|file| (file.id, file.kind)).collect())
    }

    pub(super) fn get(&self, id: u32) -> Option<&FileKind> {
        self.0.get(&id)
    }

    /// The path of a file that is one.
    pub(super) fn path(&self, id: Option<u32>) -> Option<String> {
        match self.get(id?)? {
            FileKind::Path { path, .. } => Some(path.clone()),
            _ => None,
        }
    }
}
