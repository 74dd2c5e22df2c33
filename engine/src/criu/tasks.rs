//! `ids-<pid>.img`, `fs-<pid>.img` and `utsns-<id>.img`: which of the other images speak of a process.
//!
//! Owns the numbers by which CRIU tells tables of descriptors and namespaces apart; they mean nothing outside of one
//! dump. Always: a number that is not said is absent. Never: looks into the images that they lead to.
//!
//! Fields from `images/core.proto` (`task_kobj_ids_entry`), `images/fs.proto` and `images/utsns.proto`.

use super::error::CriuError;
use super::image::{magic, single};
use super::wire::Fields;

/// Names the message in errors.
pub(super) const WHAT: &str = "task ids entry";
/// Fields and the names in `/proc/PID/ns`.
const NAMES: [(u32, &str); 8] = [
    (5, "pid"),
    (6, "net"),
    (7, "ipc"),
    (8, "uts"),
    (9, "mnt"),
    (10, "user"),
    (11, "cgroup"),
    (12, "time"),
];

/// What a process has in common with others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskIds {
    /// Its table of descriptors: `fdinfo-<id>.img`.
    pub files: Option<u32>,
    /// Its namespaces, by the names of `/proc/PID/ns`, as far as CRIU saved them.
    pub namespaces: Vec<(&'static str, u32)>,
}

impl TaskIds {
    /// Reads `ids-<pid>.img`.
    pub fn parse(bytes: &[u8]) -> Result<Self, CriuError> {
        Self::read(single(bytes, magic::IDS, WHAT)?.fields(WHAT))
    }

    /// The message, which the inventory has too.
    pub(super) fn read(fields: Fields<'_>) -> Result<Self, CriuError> {
        let mut ids = Self::default();
        let mut found = [None; NAMES.len()];
        for field in fields {
            let field = field?;
            if field.number == 2 {
                ids.files = Some(field.u32()?);
            }
            for (place, (number, _)) in found.iter_mut().zip(NAMES) {
                if field.number == number {
                    *place = Some(field.u32()?);
                }
            }
        }
        let named = found.iter().zip(NAMES);
        ids.namespaces = named
            .filter_map(|(id, (_, name))| Some((name, (*id)?)))
            .collect();
        Ok(ids)
    }
}

/// Where a process stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folders {
    /// Its working directory, in `files.img`.
    pub working: Option<u32>,
    /// Its root directory, in `files.img`.
    pub root: Option<u32>,
}

impl Folders {
    /// Reads `fs-<pid>.img`.
    pub fn parse(bytes: &[u8]) -> Result<Self, CriuError> {
        const WHAT: &str = "fs entry";
        let mut folders = Self::default();
        for field in single(bytes, magic::FS, WHAT)?.fields(WHAT) {
            let field = field?;
            match field.number {
                1 => folders.working = Some(field.u32()?),
                2 => folders.root = Some(field.u32()?),
                _ => {}
            }
        }
        Ok(folders)
    }
}

/// What a UTS namespace says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uts {
    /// The host name that the processes see, also after a restore elsewhere.
    pub host: String,
}

impl Uts {
    /// Reads `utsns-<id>.img`.
    pub fn parse(bytes: &[u8]) -> Result<Self, CriuError> {
        const WHAT: &str = "utsns entry";
        let mut uts = Self::default();
        for field in single(bytes, magic::UTSNS, WHAT)?.fields(WHAT) {
            let field = field?;
            if field.number == 1 {
                uts.host = field.text()?;
            }
        }
        Ok(uts)
    }
}
