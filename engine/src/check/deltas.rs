//! Owns the verification of deltas: their frames are put together with all that they are made of.
//!
//! Always: blames the frame that is damaged, not the one that is made of it. Never: puts a frame together that stands on damage which was reported.

use std::collections::{BTreeMap, HashMap, HashSet};

use cryostore_format::manifest::Manifest;
use cryostore_format::recipe::FrameRef;
use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{PackId, SnapshotId};

use super::needed::PackUse;
use super::packs::{Damage, problem_of, verify_alone};
use super::{CheckReport, Problem};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, keep_going};
use crate::pack;
use crate::pack::reading::{Fetched, fetch_one, frame_hashes};
use crate::repo::Repository;

/// What was put together so far, in one check.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    done: HashSet<(PackId, u32)>,
}

impl Deltas {
    /// Puts every delta frame in the packs `of` that snapshots need together with its bases. What is wrong with packs in `later` will be said when they are read.
    pub(super) fn check(
        &mut self,
        repo: &Repository,
        (snapshots, needed): (&[(SnapshotRecord, String)], &HashMap<PackId, PackUse>),
        (of, later): (&HashSet<PackId>, &HashSet<PackId>),
        damage: &mut Damage,
        report: &mut CheckReport,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let with_deltas = of.iter().filter_map(|id| needed.get(id));
        let with_deltas = with_deltas.filter(|used| used.has_deltas);
        let wanted: HashSet<SnapshotId> = with_deltas
            .flat_map(|used| used.snapshots.iter().copied())
            .collect();
        for (record, _) in snapshots
            .iter()
            .filter(|(record, _)| wanted.contains(&record.id))
        {
            // What is wrong with a manifest has been said.
            let Ok(manifest) = repo.manifest(record) else {
                continue;
            };
            let mut touched = Vec::new();
            for delta in manifest.deltas.frames() {
                keep_going(monitor)?;
                let pack = manifest.packs.get(delta.frame.pack as usize);
                let Some(pack) = pack.filter(|pack| of.contains(pack)) else {
                    continue;
                };
                // What is made of a damaged frame is lost with it, which has been said of that one.
                let is_touched = manifest
                    .deltas
                    .stands_on(&delta.frame, &mut touched, |frame| {
                        damage.has(&manifest, frame)
                    });
                if is_touched || !self.done.insert((*pack, delta.frame.offset)) {
                    continue;
                }
                let mut look = || {
                    let mut count = Fetched::default();
                    let (vault, key) = (repo.vault(), repo.key());
                    let hashes = frame_hashes(vault, &manifest, delta.frame, key, &mut count);
                    report.bytes_read += count.bytes;
                    problem_of(hashes)
                };
                if look()?.is_ok() {
                    continue;
                }
                let Err(text) = look()? else { continue };
                let mut blamed = damaged_alone(repo, &manifest, delta.frame)?;
                if blamed.is_empty() {
                    blamed.push((delta.frame, text));
                }
                for (frame, text) in blamed {
                    let Some(pack) = manifest.packs.get(frame.pack as usize) else {
                        continue;
                    };
                    if later.contains(pack) || !damage.frames.insert((*pack, frame.offset)) {
                        continue;
                    }
                    let used = needed.get(pack).and_then(|p| p.frames.get(&frame.offset));
                    let snapshots = used.map(|u| u.1.iter().copied().collect());
                    report.problems.push(Problem {
                        object: pack::object_name(*pack),
                        text: format!("the frame at byte {}: {text}", frame.offset),
                        snapshots: snapshots.unwrap_or_default(),
                    });
                }
                // What stands on these is known to be touched from here on.
                touched.clear();
            }
        }
        Ok(())
    }
}

/// Of a delta frame and all that it is made of, those that are damaged by themselves.
fn damaged_alone(
    repo: &Repository,
    manifest: &Manifest,
    frame: FrameRef,
) -> Result<Vec<(FrameRef, String)>> {
    let mut frames = BTreeMap::new();
    let mut open = vec![frame];
    while let Some(frame) = open.pop() {
        if frames.insert((frame.pack, frame.offset), frame).is_none()
            && let Some(delta) = manifest.deltas.get(&frame)
        {
            open.extend(delta.base_frames());
        }
    }
    let mut out = Vec::new();
    for frame in frames.into_values() {
        let stored = fetch_one(repo.vault(), manifest, &frame, &mut Fetched::default());
        let verified = stored.and_then(|stored| {
            verify_alone(&stored, None, repo.key()).map_err(|e| Error::stored("the frame", e))
        });
        if let Err(text) = problem_of(verified)? {
            out.push((frame, text));
        }
    }
    Ok(out)
}
