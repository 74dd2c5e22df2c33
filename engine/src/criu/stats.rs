//! `stats-dump`: how long the dump took and how many pages it met.
//!
//! Owns numbers for reports. Always: what the file does not say is absent, not 0. Never: used to decide anything; the
//! page counts include pages that CRIU looked at and did not write.
//!
//! Fields from `images/stats.proto`; the file lies in the work directory of CRIU and has the service magic.

use super::error::CriuError;
use super::image::{magic, single};

const WHAT: &str = "stats entry";

/// What CRIU counted during a dump. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DumpStats {
    /// Time to freeze the processes.
    pub freezing_time_us: Option<u32>,
    /// Time that they were frozen.
    pub frozen_time_us: Option<u32>,
    /// Time to collect memory.
    pub memdump_time_us: Option<u32>,
    /// Time to write memory.
    pub memwrite_time_us: Option<u32>,
    /// Private pages looked at.
    pub pages_scanned: Option<u64>,
    /// Private pages left to the parent dump.
    pub pages_skipped_parent: Option<u64>,
    /// Private pages written.
    pub pages_written: Option<u64>,
    /// Private pages that may be loaded after the restore.
    pub pages_lazy: Option<u64>,
    /// Shared pages looked at.
    pub shpages_scanned: Option<u64>,
    /// Shared pages left to the parent dump.
    pub shpages_skipped_parent: Option<u64>,
    /// Shared pages written.
    pub shpages_written: Option<u64>,
}

impl DumpStats {
    /// Reads `stats-dump`. The statistics of a restore, which the same format can hold, are an error.
    pub fn parse(bytes: &[u8]) -> Result<Self, CriuError> {
        let record = single(bytes, magic::STATS, WHAT)?;
        let mut dump = None;
        for field in record.fields(WHAT) {
            let field = field?;
            if field.number != 1 {
                continue;
            }
            let stats: &mut Self = dump.get_or_insert_default();
            for inner in field.message("dump stats entry")? {
                let inner = inner?;
                match inner.number {
                    1 => stats.freezing_time_us = Some(inner.u32()?),
                    2 => stats.frozen_time_us = Some(inner.u32()?),
                    3 => stats.memdump_time_us = Some(inner.u32()?),
                    4 => stats.memwrite_time_us = Some(inner.u32()?),
                    5 => stats.pages_scanned = Some(inner.u64()?),
                    6 => stats.pages_skipped_parent = Some(inner.u64()?),
                    7 => stats.pages_written = Some(inner.u64()?),
                    9 => stats.pages_lazy = Some(inner.u64()?),
                    12 => stats.shpages_scanned = Some(inner.u64()?),
                    13 => stats.shpages_skipped_parent = Some(inner.u64()?),
                    14 => stats.shpages_written = Some(inner.u64()?),
                    _ => {}
                }
            }
        }
        dump.ok_or(CriuError::Missing {
            what: WHAT,
            offset: record.offset,
            number: 1,
            name: "dump",
        })
    }
}
