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

/// The segment with this name; none if it is no name of one.
#[must_use]
pub fn id_of(name: &str) -> Option<SegmentId> {
    name.strip_prefix(PREFIX)?.strip_prefix('/')?.parse().ok()
}

/// The segments that the store has, and their lengths, those first that were put last, as the store's clock says: a hint. Names that are none of ours are passed over.
pub fn list(store: &Store) -> Result<Vec<(SegmentId, u64)>> {
    let mut objects = store.list(PREFIX)?;
    objects.sort_by_key(|object| std::cmp::Reverse(object.modified_ms));
    let found = objects
        .iter()
        .map(|object| (id_of(&object.name), object.len));
    Ok(found.filter_map(|(id, len)| Some((id?, len))).collect())
}

/// Reads a segment.
pub fn read(vault: &Vault, id: SegmentId) -> Result<Segment> {
    let name = object_name(id);
    let bytes = vault.read(&name, format_limits::SEGMENT_PLAIN_MAX + 4096)?;
    Segment::decode(&bytes).map_err(|e| Error::stored(name, e))
}
