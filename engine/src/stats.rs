//! Owns the sums: what is stored for what. Never: reads packs; lengths from the list are enough.

use std::collections::HashSet;

use cryostore_format::snapshot::{Classes, SnapshotRecord};

use crate::error::Result;
use crate::monitor::{Monitor, keep_going};
use crate::pack;
use crate::repo::Repository;

/// What is stored.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Newest first.
    pub snapshots: Vec<SnapshotStats>,
    /// What imports found, all together.
    pub classes: Classes,
    /// Bytes of all archives.
    pub logical_bytes: u64,
    /// Bytes of all objects.
    pub stored_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of packs.
    pub pack_bytes: u64,
    /// Bytes of index segments.
    pub index_bytes: u64,
    /// Bytes of manifests.
    pub manifest_bytes: u64,
    /// Bytes of everything else.
    pub other_bytes: u64,
}

/// One snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotStats {
    /// Its record, which says what the import cost.
    pub record: SnapshotRecord,
    /// Packs that it needs; none for records of early versions.
    pub packs_needed: Option<u64>,
}

/// Sums up a repository.
pub fn stats(repo: &Repository, monitor: &dyn Monitor) -> Result<Stats> {
    keep_going(monitor)?;
    let list = repo.snapshots()?;
    for (name, e) in &list.damaged {
        monitor.warning(&format!("{name}: {e}"));
    }
    let mut out = Stats {
        logical_bytes: list
            .snapshots
            .iter()
            .map(|record| record.archive.bytes)
            .sum(),
        ..Stats::default()
    };
    for record in &list.snapshots {
        let (all, one) = (&mut out.classes, &record.cost.classes);
        for (all, one) in [
            (&mut all.zero, one.zero),
            (&mut all.same, one.same),
            (&mut all.elsewhere, one.elsewhere),
            (&mut all.new, one.new),
            (&mut all.delta, one.delta),
        ] {
            all.pages = all.pages.saturating_add(one.pages);
            all.bytes = all.bytes.saturating_add(one.bytes);
        }
    }
    let mut manifests = HashSet::new();
    for object in repo.store().list("")? {
        if let Some(id) = object.name.strip_prefix("manifests/") {
            manifests.insert(id.to_owned());
        }
        out.stored_bytes += object.len;
        if pack::id_of(&object.name).is_some() {
            out.packs += 1;
        }
        let sum = match object.name.split('/').next() {
            Some("packs") => &mut out.pack_bytes,
            Some("index") => &mut out.index_bytes,
            Some("manifests" | "rewritten") => &mut out.manifest_bytes,
            _ => &mut out.other_bytes,
        };
        *sum += object.len;
    }
    for record in list.snapshots {
        keep_going(monitor)?;
        let mut packs_needed = record.cost.packs_needed;
        if !manifests.contains(&record.manifest.id.to_string()) {
            // It was rewritten since.
            packs_needed = match repo.manifest_alone(&record) {
                Ok(manifest) => Some(manifest.packs.len() as u64),
                Err(e) => {
                    monitor.warning(&e.to_string());
                    None
                }
            };
        }
        out.snapshots.push(SnapshotStats {
            record,
            packs_needed,
        });
    }
    Ok(out)
}
