//! Owns the repair of a repository: damaged packs get a record that keeps imports from them, what other packs hold too is healed, and what is lost is said.
//!
//! Always: one session for all of it, begun before anything is looked at, so that no collection removes what is referred to. A snapshot is healed by a manifest that takes the place of its own,
//! as `optimize` does (`repo/manifests.rs`). Never: removes a pack, a snapshot or a manifest that is whole.
//!
//! `listing` makes index segments anew, `copies` looks for whole copies of chunks, `heal` writes manifests.

mod copies;
mod heal;
mod listing;

use std::collections::{BTreeMap, BTreeSet};

pub use cryostore_format::damaged::Extent;
use cryostore_format::repository::Role;
use cryostore_format::session::Work;
use cryostore_format::{PackId, SnapshotId};

use super::{Problem, Seen, Turn, look};
use crate::error::{Error, Kind, Result};
use crate::monitor::Monitor;
use crate::pack;
use crate::repo::{Renewing, Repository, Session, damage_name};

/// How to repair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RepairOptions {
    /// Say what would be done, change nothing.
    pub dry_run: bool,
    /// What is read to find damage; that which a check on this node found, or a record names, is read in any case.
    pub turn: Turn,
    /// The user's word that no collection is at work anywhere: records of collections that are damaged are removed.
    pub no_collection_at_work: bool,
}

/// A pack in which damage was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPack {
    /// The pack.
    pub id: PackId,
    /// What of it is damaged; none: it is missing.
    pub what: Option<Extent>,
    /// Snapshots that needed what is damaged.
    pub snapshots: Vec<SnapshotId>,
}

/// What became of a snapshot that was touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healed {
    /// The snapshot.
    pub id: SnapshotId,
    /// Of the same archive: the snapshot whose whole copy it shares now. None: its damaged chunks were found one by one.
    pub from: Option<SnapshotId>,
    /// True if it is read from there after the next collection only: one is at work.
    pub later: bool,
}

/// A snapshot that cannot be given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The snapshot.
    pub id: SnapshotId,
    /// Why: objects, and what is wrong with them.
    pub because: Vec<(String, String)>,
}

/// What a repair found and did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Packs in which damage was found. Those that are there have a record now.
    pub damaged: Vec<DamagedPack>,
    /// Packs that are whole again, or gone: their records were removed.
    pub lifted: Vec<PackId>,
    /// Index segments that were damaged, and removed.
    pub segments_removed: Vec<String>,
    /// Packs that were in no segment, and are in a new one.
    pub packs_listed: u64,
    /// Damaged records of collections that were removed.
    pub collections_removed: Vec<String>,
    /// Damaged records of collections that are still there: nothing is healed while they are.
    pub collections_left: Vec<String>,
    /// Snapshots that can be given back again.
    pub healed: Vec<Healed>,
    /// Snapshots that cannot.
    pub lost: Vec<Lost>,
    /// Other problems, which a repair does not mend.
    pub other: Vec<Problem>,
    /// Bytes of packs that were read to find damage.
    pub bytes_read: u64,
    /// Packs that were not read: the time was over, or a share was asked for.
    pub not_read: u64,
}

/// Finds damage and mends what can be. Damage that cannot be is in [`RepairReport::lost`], and no error.
pub fn repair(
    repo: &Repository,
    options: &RepairOptions,
    monitor: &dyn Monitor,
) -> Result<RepairReport> {
    repo.require(Role::Write)?;
    let mut report = RepairReport::default();
    collections(repo, options, &mut report)?;
    let session = match options.dry_run {
        true => None,
        false => Some(Session::start(repo, Work::Optimize, None)?),
    };
    let renewing = Renewing::new(session.as_ref(), monitor);
    let seen = look(repo, Some(&options.turn), &renewing)?;
    report.bytes_read = seen.report.bytes_read;
    report.not_read = (seen.packs.len() as u64).saturating_sub(seen.report.packs);
    records(repo, &seen, session.is_some(), &mut report)?;
    let ids = listing::list_packs(repo, &seen, session.as_ref(), &mut report, &renewing)?;
    let named = |problem: &&Problem| {
        problem.snapshots.is_empty()
            && pack::id_of(&problem.object).is_none()
            && !report.segments_removed.contains(&problem.object)
    };
    report.other = seen.report.problems.iter().filter(named).cloned().collect();
    let healed = if report.collections_left.is_empty() {
        heal::heal(repo, &seen, &ids, session.as_ref(), &renewing)?
    } else {
        Vec::new()
    };
    // The manifests are there: whoever marks from here on finds them.
    drop(session);
    for (record, from) in healed {
        let settled = match options.dry_run {
            true => Ok(None),
            false => repo.settle_manifest(record),
        };
        let later = match settled {
            Ok(settled) => !options.dry_run && settled.is_none(),
            Err(e) if e.kind() == Kind::Denied => true,
            Err(e) => return Err(e),
        };
        let id = record.id;
        report.healed.push(Healed { id, from, later });
    }
    lost(&seen, &mut report);
    Ok(report)
}

/// Damaged records of collections: what they condemned is not known, so that nothing may refer to what was there before.
fn collections(
    repo: &Repository,
    options: &RepairOptions,
    report: &mut RepairReport,
) -> Result<()> {
    for (name, record) in repo.collections()? {
        match record {
            Ok(_) => {}
            Err(e) if e.kind() == Kind::Corrupt => {
                if options.no_collection_at_work {
                    if !options.dry_run {
                        repo.store().delete(&name)?;
                    }
                    report.collections_removed.push(name);
                } else {
                    report.collections_left.push(name);
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Puts a record of each damaged pack that is there, and removes those of packs that are whole again, or gone.
fn records(repo: &Repository, seen: &Seen, act: bool, report: &mut RepairReport) -> Result<()> {
    for id in seen.damage.touched() {
        let is_there = repo.store().len(&pack::object_name(id))?.is_some();
        let what = seen.damage.of(id).filter(|_| is_there);
        // Removed by a collection while it was looked at, and needed by nobody.
        let object = pack::object_name(id);
        let of_it = seen.report.problems.iter().filter(|p| p.object == object);
        let snapshots: BTreeSet<_> = of_it.flat_map(|p| p.snapshots.iter().copied()).collect();
        if what.is_none() && snapshots.is_empty() {
            continue;
        }
        if let (true, Some(what)) = (act, &what) {
            repo.put_damage(id, what.clone())?;
        }
        let snapshots = snapshots.into_iter().collect();
        report.damaged.push(DamagedPack {
            id,
            what,
            snapshots,
        });
    }
    for id in &seen.recorded {
        if seen.damage.of(*id).is_some() && seen.packs.contains_key(id) {
            continue;
        }
        if act {
            repo.store().delete(&damage_name(*id))?;
        }
        report.lifted.push(*id);
    }
    report.lifted.sort_unstable();
    Ok(())
}

/// What is lost, and why.
fn lost(seen: &Seen, report: &mut RepairReport) {
    let healed: BTreeSet<_> = report.healed.iter().map(|healed| healed.id).collect();
    let mut lost: BTreeMap<SnapshotId, Vec<(String, String)>> = BTreeMap::new();
    for problem in &seen.report.problems {
        for id in problem.snapshots.iter().filter(|id| !healed.contains(id)) {
            let because = (problem.object.clone(), problem.text.clone());
            lost.entry(*id).or_default().push(because);
        }
    }
    let lost = lost.into_iter();
    report.lost = lost.map(|(id, because)| Lost { id, because }).collect();
}

fn internal(what: &str) -> impl Fn(cryostore_format::FormatError) -> Error {
    move |e| Error::new(Kind::Internal, what.to_owned()).because(e)
}
