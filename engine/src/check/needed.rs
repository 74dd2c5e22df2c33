//! Owns what snapshots need of packs, as a check finds it: records, manifests and the tables of deltas are read.
//!
//! Always: goes on after damage, and names it. Never: reads a frame, but for tables.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cryostore_format::manifest::Manifest;
use cryostore_format::recipe::{FrameRef, FrameSlice, Slice};
use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{PackId, SnapshotId};

use super::packs::problem_of;
use super::{CheckReport, Problem};
use crate::error::Result;
use crate::monitor::{Monitor, Phase, keep_going};
use crate::pack;
use crate::pack::reading::read_table;
use crate::repo::Repository;

/// What snapshots need of one pack.
#[derive(Debug, Default)]
pub(super) struct PackUse {
    pub(super) snapshots: BTreeSet<SnapshotId>,
    /// Frames by offset, and who needs them.
    pub(super) frames: BTreeMap<u32, (FrameRef, BTreeSet<SnapshotId>)>,
    /// True if some of them are deltas.
    pub(super) has_deltas: bool,
}

/// What is needed of packs, and each snapshot with its manifest's name.
pub(super) type Needed = (HashMap<PackId, PackUse>, Vec<(SnapshotRecord, String)>);

/// Reads records and manifests; what they need comes back.
pub(super) fn check_snapshots(
    repo: &Repository,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<Needed> {
    let list = repo.snapshots()?;
    for (name, e) in &list.damaged {
        let id = crate::repo::place_of(name).map(|place| place.snapshot);
        report.problems.push(Problem {
            object: name.clone(),
            text: e.to_string(),
            snapshots: id.into_iter().collect(),
        });
    }
    let ids: HashSet<_> = list.snapshots.iter().map(|record| record.id).collect();
    let mut packs: HashMap<PackId, PackUse> = HashMap::new();
    let mut manifests = Vec::new();
    for (done, record) in (0..).zip(&list.snapshots) {
        keep_going(monitor)?;
        monitor.progress(Phase::Check, done, Some(list.snapshots.len() as u64));
        report.snapshots += 1;
        let mut problem = |object: String, text: String| {
            report.problems.push(Problem {
                object,
                text,
                snapshots: vec![record.id],
            })
        };
        if let Some(needed) = record.requires.filter(|id| !ids.contains(id)) {
            problem(
                crate::repo::snapshot_name(record),
                format!("it needs snapshot {needed}, which is not there"),
            );
        }
        let manifest = repo
            .first_manifest(record)
            .or_else(|_| repo.first_manifest(record));
        let name = match &manifest {
            Ok((name, _)) => name.object_name(),
            Err(_) => repo.manifest_object(record)?.0,
        };
        manifests.push((record.clone(), name.clone()));
        match manifest {
            Ok((_, mut manifest)) => {
                for (object, text) in read_tables(repo, &mut manifest)? {
                    problem(object, text);
                }
                if let Err(text) = note_use(record.id, &manifest, &mut packs) {
                    problem(name, text);
                }
            }
            Err(e) => {
                if let Err(text) = problem_of(Err::<(), _>(e))? {
                    problem(name, text);
                }
            }
        }
    }
    Ok((packs, manifests))
}

/// Reads the tables of deltas; the packs of those that cannot be read, and why, come back.
fn read_tables(repo: &Repository, manifest: &mut Manifest) -> Result<Vec<(String, String)>> {
    let mut wrong = Vec::new();
    let packs = manifest.pack_numbers();
    for n in 0..manifest.tables.len() {
        let mut read = || problem_of(read_table(repo.vault(), manifest, n, &packs, repo.key()));
        let failed = match read()? {
            Ok(()) => continue,
            Err(_) => read()?.err(),
        };
        let pack = manifest.tables.get(n).map(|(frame, _)| frame.pack as usize);
        let pack = pack.and_then(|pack| manifest.packs.get(pack));
        if let (Some(text), Some(pack)) = (failed, pack) {
            wrong.push((pack::object_name(*pack), text));
        }
    }
    Ok(wrong)
}

fn note_use(
    snapshot: SnapshotId,
    manifest: &Manifest,
    packs: &mut HashMap<PackId, PackUse>,
) -> std::result::Result<(), String> {
    for delta in manifest.deltas.frames() {
        if let Some(pack) = manifest.packs.get(delta.frame.pack as usize) {
            packs.entry(*pack).or_default().has_deltas = true;
        }
    }
    // A base is needed like what is made of it, and so is the table that says so.
    for (frame, len) in &manifest.tables {
        let (skip, take, len) = (0, frame.chunks, u64::from(*len));
        let frame = *frame;
        let slice = FrameSlice {
            frame,
            skip,
            take,
            len,
        };
        note_slice(snapshot, manifest, &Slice::Frame(slice), packs);
    }
    for run in manifest.deltas.frames().iter().flat_map(|d| &d.bases) {
        note_slice(snapshot, manifest, &run.base, packs);
    }
    for (n, stream) in (0..).zip(&manifest.streams) {
        let mut len = 0_u64;
        let Some(slices) = manifest.slices(n) else {
            continue;
        };
        for slice in slices {
            let slice = slice.map_err(|e| e.to_string())?;
            len = len.saturating_add(slice.len());
            note_slice(snapshot, manifest, &slice, packs);
        }
        if len != stream.len {
            return Err(format!(
                "the recipe of stream {n} gives {len} bytes, the stream has {}",
                stream.len
            ));
        }
    }
    Ok(())
}

/// Notes who needs a frame.
fn note_slice(
    snapshot: SnapshotId,
    manifest: &Manifest,
    slice: &Slice,
    packs: &mut HashMap<PackId, PackUse>,
) {
    let Slice::Frame(FrameSlice { frame, .. }) = slice else {
        return;
    };
    let Some(pack) = manifest.packs.get(frame.pack as usize) else {
        return;
    };
    let entry = packs.entry(*pack).or_default();
    entry.snapshots.insert(snapshot);
    let users = entry.frames.entry(frame.offset);
    let users = users.or_insert_with(|| (*frame, BTreeSet::new()));
    users.1.insert(snapshot);
}
