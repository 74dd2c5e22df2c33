//! Owns the index segments in the store.

use cryostore_format::segment::Segment;
use cryostore_format::{SegmentId, limits as format_limits};

use crate::error::{Error, Result};
use crate::store::{Store, Vault};

/// Directory of the segments.
pub const PREFIX: &str = "index";

/// Name of a segment's object.
#[must_use]
pub fn object_name(id: SegmentId) -> String {
    format!("{PREFIX}/{id}")
}

/// The segments that the store has, and their lengths; names that are none of ours are passed over.
pub fn list(store: &Store) -> Result<Vec<(SegmentId, u64)>> {
    let prefix = format!("{PREFIX}/");
    let objects = store.list(PREFIX)?;
    Ok(objects
        .iter()
        .filter_map(|o| Some((o.name.strip_prefix(&prefix)?.parse().ok()?, o.len)))
        .collect())
}

/// Reads a segment.
pub fn read(vault: &Vault, id: SegmentId) -> Result<Segment> {
    let name = object_name(id);
    let bytes = vault.read(&name, format_limits::SEGMENT_PLAIN_MAX + 4096)?;
    Segment::decode(&bytes).map_err(|e| Error::stored(name, e))
}
