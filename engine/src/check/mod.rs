//! Owns the verification of a repository: what is damaged, and which snapshots that touches.
//!
//! Always: goes on after damage, so that all of it is named; a damaged object is read once more before it is reported. Never: changes anything in the store, but for `repair`.
//!
//! `needed` reads what snapshots need, `packs` each pack, `deltas` what is made of several, `turn` chooses what is read in this run, and `checked` keeps what was verified when.

mod checked;
mod deltas;
mod needed;
mod packs;
pub mod repair;
mod turn;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cryostore_format::session::Place;
use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{PackId, SnapshotId};

use self::needed::{PackUse, check_snapshots};
use self::packs::{Damage, problem_of};
pub use self::turn::{Coverage, Share, Turn};
use crate::error::Result;
use crate::index::segments;
use crate::monitor::{Monitor, Phase, keep_going};
use crate::repo::{Repository, is_ours, is_ours_at_root, key_name};

/// How to check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Read and verify every byte of every pack.
    pub read_data: bool,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub text: String,
    /// Snapshots that it touches.
    pub snapshots: Vec<SnapshotId>,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Snapshots that were checked.
    pub snapshots: u64,
    /// Packs that were checked.
    pub packs: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// If data were read: how much of the repository was verified, now and before.
    pub coverage: Option<Coverage>,
    /// Snapshots that cannot be given back.
    pub lost_snapshots: Vec<SnapshotId>,
    /// Objects that are none of ours.
    pub foreign: Vec<String>,
}

/// Verifies a repository.
pub fn check(
    repo: &Repository,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<CheckReport> {
    let turn = options.read_data.then(Turn::default);
    Ok(look(repo, turn.as_ref(), monitor)?.report)
}

/// Verifies a repository, and reads part of its data: the packs that this node has not read yet, or not for the longest time, come first. So repeated runs read
/// everything in turn. Of packs that are not read it is only looked at whether they are there.
pub fn check_in_turn(repo: &Repository, turn: &Turn, monitor: &dyn Monitor) -> Result<CheckReport> {
    Ok(look(repo, Some(turn), monitor)?.report)
}

/// What a check has seen.
#[derive(Debug)]
struct Seen {
    report: CheckReport,
    damage: Damage,
    /// What is needed of packs.
    needed: HashMap<PackId, PackUse>,
    /// Each snapshot, with its manifest's name.
    snapshots: Vec<(SnapshotRecord, String)>,
    /// Packs that are there, and their lengths.
    packs: BTreeMap<PackId, u64>,
    /// Those that a record says to be damaged, or that were when it was put.
    recorded: HashSet<PackId>,
}

/// With `turn`, data are read.
fn look(repo: &Repository, turn: Option<&Turn>, monitor: &dyn Monitor) -> Result<Seen> {
    // What is asked is whether the store has it, not whether this node remembers it.
    let repo = &repo.without_copies();
    let started = repo.env().elapsed();
    let mut report = CheckReport::default();
    let mut damage = Damage::default();
    let (needed, snapshots) = check_snapshots(repo, &mut report, monitor)?;
    let packs = packs::list(repo, &needed, &mut damage, &mut report)?;
    let mut seen = Seen {
        report,
        damage,
        needed,
        snapshots,
        packs,
        recorded: repo.damaged_packs()?,
    };
    match turn {
        Some(turn) => turn.read(repo, started, &mut seen, monitor)?,
        None => seen.read_directories(repo, monitor)?,
    }
    let report = &mut seen.report;
    check_segments(repo, report)?;
    check_keys(repo, report)?;
    let (objects, directories) = repo.store().list_here()?;
    let objects = objects.into_iter().map(|object| object.name);
    let foreign = objects.filter(|name| !is_ours_at_root(name));
    report.foreign.extend(foreign);
    let foreign = directories.into_iter().filter(|name| !is_ours(name));
    report
        .foreign
        .extend(foreign.map(|name| format!("{name}/")));
    if !report.problems.is_empty() {
        forget_what_went(repo, &seen.snapshots, report);
    }
    let lost: BTreeSet<_> = report
        .problems
        .iter()
        .flat_map(|problem| problem.snapshots.iter().copied())
        .collect();
    report.lost_snapshots = lost.into_iter().collect();
    Ok(seen)
}

impl Seen {
    fn read_directories(&mut self, repo: &Repository, monitor: &dyn Monitor) -> Result<()> {
        let total = self.packs.values().sum::<u64>();
        let mut done = 0;
        for (id, len) in &self.packs {
            keep_going(monitor)?;
            monitor.progress(Phase::Check, done, Some(total));
            done += len;
            let (damage, report) = (&mut self.damage, &mut self.report);
            packs::look_at(repo, (*id, *len), &self.needed, false, damage, report)?;
        }
        Ok(())
    }
}

/// Drops problems of snapshots that were deleted, or rewritten, while they were looked at: a collection may have removed what they had needed.
fn forget_what_went(
    repo: &Repository,
    manifests: &[(SnapshotRecord, String)],
    report: &mut CheckReport,
) {
    let went = |(record, name): &&(SnapshotRecord, String)| {
        let place = Place {
            lineage: record.lineage,
            snapshot: record.id,
        };
        repo.is_gone(place) || matches!(repo.manifest_object(record), Ok((now, _)) if now != *name)
    };
    let went: HashSet<_> = manifests.iter().filter(went).map(|(r, _)| r.id).collect();
    report.problems.retain_mut(|problem| {
        let before = problem.snapshots.len();
        problem.snapshots.retain(|id| !went.contains(id));
        before == 0 || !problem.snapshots.is_empty()
    });
}

/// Of the keys, only those can be opened that this process has something for; a damaged one is noticed all the same.
fn check_keys(repo: &Repository, report: &mut CheckReport) -> Result<()> {
    if repo.record().encryption.is_none() {
        return Ok(());
    }
    for key in repo.keys()? {
        if let Err(text) = problem_of(key.record)? {
            report.problems.push(Problem {
                object: key_name(key.id),
                text: format!("{text}; remove it, and add it again"),
                snapshots: Vec::new(),
            });
        }
    }
    Ok(())
}

fn check_segments(repo: &Repository, report: &mut CheckReport) -> Result<()> {
    for (id, _) in segments::list(repo.store())? {
        if let Err(text) = problem_of(segments::read(repo.vault(), id))? {
            let text = format!(
                "{text}; it touches no snapshot: `cryostore gc` removes it, packs have their ids themselves"
            );
            report.problems.push(Problem {
                object: segments::object_name(id),
                text,
                snapshots: Vec::new(),
            });
        }
    }
    Ok(())
}
