//! Owns the hint to imports which packs to leave behind: which are chosen, and whether they are told already.
//!
//! Always: of several records each counts. Never: binding; what it costs when it is lost is space.

use std::collections::HashSet;

use cryostore_format::{CollectionId, PackId};

use super::look::Seen;
use super::sparse::SparsePack;

/// The packs that imports are to leave behind.
pub(super) fn choose(seen: &Seen) -> Vec<SparsePack> {
    let records = seen.records.iter();
    let already: HashSet<PackId> = records
        .flat_map(|(record, _)| record.leave.iter().copied())
        .collect();
    seen.uses.choose(&already)
}

/// The record that tells imports of just these packs already, if there is one.
pub(super) fn told(seen: &Seen, leaving: &[SparsePack]) -> Option<CollectionId> {
    let leaving: HashSet<_> = leaving.iter().map(|pack| pack.id).collect();
    let mut records = seen.records.iter().map(|(record, _)| record);
    let same = |leave: &Vec<PackId>| {
        !leave.is_empty() && leave.iter().copied().collect::<HashSet<_>>() == leaving
    };
    records
        .find(|record| same(&record.leave))
        .map(|record| record.id)
}
