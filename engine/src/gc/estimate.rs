//! Owns the estimate of what a deletion frees.
//!
//! Always: an upper bound is never given: what any other snapshot needs does not count. Never: changes anything.

use std::collections::HashSet;

use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{PackId, SnapshotId};

use crate::error::Result;
use crate::monitor::{Monitor, Phase, keep_going};
use crate::pack::object_name;
use crate::repo::{Repository, SnapshotList};

/// Bytes of the packs and manifests that only these snapshots of a list need. Goes through the manifests of all.
pub fn freed_by(
    repo: &Repository,
    list: &SnapshotList,
    gone: &[SnapshotId],
    monitor: &dyn Monitor,
) -> Result<u64> {
    let (going, staying): (Vec<_>, Vec<_>) = list
        .snapshots
        .iter()
        .partition(|record| gone.contains(&record.id));
    let mut only: HashSet<PackId> = HashSet::new();
    for record in &going {
        only.extend(packs_of(repo, record));
    }
    for (done, record) in (0..).zip(&staying) {
        keep_going(monitor)?;
        monitor.progress(Phase::Collect, done, Some(staying.len() as u64));
        if only.is_empty() {
            break;
        }
        for pack in packs_of(repo, record) {
            only.remove(&pack);
        }
    }
    let mut bytes = going.iter().map(|record| record.manifest.bytes).sum();
    for pack in only {
        bytes += repo.store().len(&object_name(pack))?.unwrap_or_default();
    }
    Ok(bytes)
}

/// One that cannot be read keeps nothing: it is an estimate.
fn packs_of(repo: &Repository, record: &SnapshotRecord) -> Vec<PackId> {
    let manifest = repo.manifest_alone(record);
    manifest.map(|manifest| manifest.packs).unwrap_or_default()
}
