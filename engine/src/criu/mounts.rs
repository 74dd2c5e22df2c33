//! `mountpoints-<id>.img`: the file systems that the processes saw.
//!
//! Owns the list of mounts. Always: in stored order. Never: says which of them a runtime made; the container's
//! specification tells where their content comes from.
//!
//! Fields from `images/mnt.proto`.

use super::error::CriuError;
use super::image::{Record, magic, records};

const WHAT: &str = "mount entry";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// The file system: CRIU's number for those that it knows, see [`file_system`].
    pub kind: u32,
    /// The file system's own name, where CRIU does not know it.
    pub kind_name: Option<String>,
    /// Where it is seen, from the processes' root; CRIU writes a dot in front.
    pub path: String,
    /// What of the file system is seen there.
    pub root: String,
    /// What it was made from.
    pub source: String,
    /// Comes from outside of the container: a restore has to give it.
    pub external: Option<String>,
}

/// The name of a file system that CRIU knows; empty for another.
pub fn file_system(kind: u32) -> &'static str {
    const NAMES: [&str; 24] = [
        "",
        "proc",
        "sysfs",
        "devtmpfs",
        "binfmt_misc",
        "tmpfs",
        "devpts",
        "simfs",
        "pstore",
        "securityfs",
        "fusectl",
        "debugfs",
        "cgroup",
        "aufs",
        "mqueue",
        "fuse",
        "auto",
        "overlay",
        "autofs",
        "tracefs",
        "",
        "",
        "",
        "cgroup2",
    ];
    let number = usize::try_from(kind).unwrap_or(usize::MAX);
    NAMES.get(number).copied().unwrap_or_default()
}

/// Reads `mountpoints-<id>.img`.
pub fn parse_mounts(bytes: &[u8]) -> Result<Vec<Mount>, CriuError> {
    records(bytes, magic::MOUNTS)?
        .map(|record| Mount::parse(record?))
        .collect()
}

impl Mount {
    fn parse(record: Record<'_>) -> Result<Self, CriuError> {
        let mut mount = Self::default();
        let (mut is_external, mut key) = (false, None);
        for field in record.fields(WHAT) {
            let field = field?;
            match field.number {
                1 => mount.kind = field.u32()?,
                6 => mount.root = field.text()?,
                7 => mount.path = field.text()?,
                8 => mount.source = field.text()?,
                13 => is_external = field.bool()?,
                14 => mount.kind_name = Some(field.text()?),
                18 => key = Some(field.text()?),
                _ => {}
            }
        }
        // Also what bounds the list: an entry without a path is shorter than its own size.
        if mount.path.is_empty() {
            return Err(CriuError::Missing {
                what: WHAT,
                offset: record.offset,
                number: 7,
                name: "mountpoint",
            });
        }
        mount.external = (is_external || key.is_some()).then(|| key.unwrap_or_default());
        Ok(mount)
    }
}
