//! `pstree.img`: the processes that were dumped.
//!
//! Owns the answer which pids are live. Always: in stored order, the root first. Never: checks that the tree is one;
//! other images of an archive may belong to processes that are gone, and only this list says so.
//!
//! Fields from `images/pstree.proto`.

use super::error::CriuError;
use super::image::{Record, magic, records};

const WHAT: &str = "pstree entry";

/// One process. Ids are those inside its pid namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PstreeEntry {
    /// Process id, as in the names of its images.
    pub pid: u32,
    /// Its parent; 0 for the root.
    pub ppid: u32,
    /// Its process group.
    pub pgid: u32,
    /// Its session.
    pub sid: u32,
    /// Its threads, itself included. A zombie may have none.
    pub threads: Vec<u32>,
}

/// Reads `pstree.img`.
pub fn parse_pstree(bytes: &[u8]) -> Result<Vec<PstreeEntry>, CriuError> {
    records(bytes, magic::PSTREE)?
        .map(|record| PstreeEntry::parse(record?))
        .collect()
}

impl PstreeEntry {
    fn parse(record: Record<'_>) -> Result<Self, CriuError> {
        let mut entry = Self::default();
        let mut pid = None;
        for field in record.fields(WHAT) {
            let field = field?;
            match field.number {
                1 => pid = Some(field.u32()?),
                2 => entry.ppid = field.u32()?,
                3 => entry.pgid = field.u32()?,
                4 => entry.sid = field.u32()?,
                5 => {
                    for thread in field.varints()? {
                        entry.threads.push(field.narrow(thread?)?);
                    }
                }
                _ => {}
            }
        }
        entry.pid = pid.ok_or(CriuError::Missing {
            what: WHAT,
            offset: record.offset,
            number: 1,
            name: "pid",
        })?;
        Ok(entry)
    }
}
