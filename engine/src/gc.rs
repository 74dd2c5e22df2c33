//! Owns the removal of what no snapshot needs.
//!
//! Always: an object that any snapshot needs survives; if a single manifest cannot be read, nothing is removed. Never: works while an import does.
//!
//! Why no import can lose a pack to it: an import puts its session before it looks for chunks, a collection puts its session before it looks for
//! imports (`repo/session.rs`), and each gives way to the other. So while packs are marked and removed, no import is between its first look and its commit. A
//! session whose process was killed is ended by a tombstone at the only place where it could commit, before its packs are looked at.
//!
//! `look` reads, `plan` decides (pure), `apply` removes.

mod sparse;

use std::collections::{HashMap, HashSet};

use cryostore_format::manifest::Manifest;
use cryostore_format::repository::{OBJECT_NAME, Role};
use cryostore_format::session::{Place, Work};
use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{KeyId, ManifestId, PackId};

pub use self::sparse::SparsePack;
use self::sparse::Uses;
use crate::error::{Error, Kind, Result};
use crate::index::{Index, segments};
use crate::monitor::{Monitor, Phase, keep_going};
use crate::pack::reading::read_tables;
use crate::pack::{self, directories::Directories};
use crate::repo::{LiveSession, Repository, Session, is_collection, manifest_ids};
use crate::store::Listed;

/// How to collect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcOptions {
    /// Say what would be removed, remove nothing.
    pub dry_run: bool,
    /// Sessions to end for good: ids, or their first characters.
    pub end_sessions: Vec<String>,
}

/// An object that no snapshot needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Why it is not needed.
    pub reason: String,
}

/// What a collection found, and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// What no snapshot needs.
    pub garbage: Vec<Garbage>,
    /// True if it was removed.
    pub removed: bool,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of what stays.
    pub kept_bytes: u64,
    /// Sessions that were ended.
    pub ended_sessions: Vec<String>,
    /// Objects that are none of ours; they stay.
    pub foreign: Vec<String>,
    /// Packs that imports leave behind from now on.
    pub leaving: Vec<SparsePack>,
}

const LEFTOVER: &str = "a write that was cut off left it";

/// What there is, and what is needed.
#[derive(Debug, Default)]
struct Seen {
    objects: Vec<Listed>,
    manifests: HashSet<ManifestId>,
    needed_packs: HashSet<PackId>,
    needed_manifests: HashSet<ManifestId>,
    /// Packs of each segment; none if it cannot be read.
    segments: HashMap<String, Option<Vec<PackId>>>,
    /// Tombstones that may go.
    tombstones: HashSet<String>,
    /// What earlier collections left for imports.
    collections: HashMap<String, Option<HashSet<PackId>>>,
    uses: Uses,
}

/// Removes what no snapshot needs.
pub fn collect(repo: &Repository, options: &GcOptions, monitor: &dyn Monitor) -> Result<GcReport> {
    repo.require(Role::Collect)?;
    let session = Session::start(repo, Work::Collect, None)?;
    let (ended_sessions, proved) = clear_sessions(repo, &session, options)?;
    let seen = look(repo, &proved, monitor)?;
    let mut report = plan(&seen);
    report.ended_sessions = ended_sessions;
    for left in repo.store().leftovers()? {
        report.bytes += left.len;
        report.garbage.push(Garbage {
            name: left.name,
            bytes: left.len,
            reason: LEFTOVER.to_owned(),
        });
    }
    if !options.dry_run {
        apply(repo, &report, &seen, monitor)?;
        report.removed = true;
    }
    Ok(report)
}

/// Makes sure that no import is at work: ends dead sessions, and those that were named; any other stops the collection. The places of those
/// whose process is proved to be gone come back too: nobody can commit there any more.
fn clear_sessions(
    repo: &Repository,
    own: &Session<'_>,
    options: &GcOptions,
) -> Result<(Vec<String>, Vec<Place>)> {
    let others: Vec<LiveSession> = repo
        .sessions()?
        .into_iter()
        .filter(|other| other.record.id != own.id())
        .collect();
    let named = |other: &LiveSession| {
        let id = other.record.id.to_string();
        options
            .end_sessions
            .iter()
            .any(|prefix| prefix.len() >= 4 && id.starts_with(prefix.as_str()))
    };
    if let Some(live) = others.iter().find(|other| !other.dead && !named(other)) {
        let record = &live.record;
        let work = match record.work {
            Work::Import => "an import",
            Work::Optimize => "an optimization",
            Work::Collect => "another collection",
        };
        return Err(Error::new(
            Kind::Conflict,
            format!("{work} is at work: session {} of {}, since {}", record.id, record.owner, record.started),
        )
        .hint(format!(
            "try again when it is done; if its process is gone, `cryostore gc --end-session {}` ends it for good",
            &record.id.to_string()[..8]
        )));
    }
    if options.dry_run {
        return Ok((Vec::new(), Vec::new()));
    }
    let (mut ended, mut proved) = (Vec::new(), Vec::new());
    for other in &others {
        let reason = if other.dead {
            "its process is gone"
        } else {
            "ended by hand"
        };
        repo.end_session(&other.record, reason)?;
        ended.push(other.record.id.to_string());
        proved.extend(other.record.place.filter(|_| other.dead));
    }
    Ok((ended, proved))
}

fn look(repo: &Repository, proved: &[Place], monitor: &dyn Monitor) -> Result<Seen> {
    // Objects are listed before snapshots are read: what is put later is not in the list and stays.
    let objects = repo.store().list("")?;
    let list = repo.snapshots()?;
    if let Some((name, e)) = list.damaged.first() {
        return Err(Error::new(
            e.kind(),
            format!("{name} cannot be read, so that it is not known what it needs: {e}"),
        )
        .hint("nothing was removed; restore the object from a copy, or delete the snapshot by the id in its name"));
    }
    let mut seen = Seen {
        uses: Uses::of(
            objects
                .iter()
                .filter_map(|object| Some((pack::id_of(&object.name)?, object.len))),
        ),
        manifests: objects
            .iter()
            .filter_map(|object| object.name.strip_prefix("manifests/")?.parse().ok())
            .collect(),
        objects,
        ..Seen::default()
    };
    let total = list.snapshots.len() as u64;
    let mut lineages = HashSet::new();
    let (newest, older): (Vec<_>, Vec<_>) = list
        .snapshots
        .iter()
        .partition(|record| lineages.insert(record.lineage));
    for (done, record) in (0_u64..).zip(newest.iter().chain(&older)) {
        keep_going(monitor)?;
        monitor.progress(Phase::Collect, done, Some(total));
        let mut manifest = needed_manifest(repo, record, &mut seen).map_err(|e| {
            e.hint("nothing was removed; delete the snapshot if it is lost, then collect again")
        })?;
        seen.needed_packs.extend(&manifest.packs);
        match read_tables(repo.vault(), &mut manifest, repo.key()) {
            Ok(()) => seen.uses.add(&manifest),
            Err(_) => seen.uses.add_whole(&manifest),
        }
        if done + 1 == newest.len() as u64 {
            seen.uses.end_of_newest();
        }
    }
    for (name, record) in repo.collections()? {
        let leave = record.ok().map(|record| record.leave.into_iter().collect());
        seen.collections.insert(name, leave);
    }
    // The tombstone of a session that was ended must outlive every late commit of it. It may go only if its process is proved to be gone; that of a
    // snapshot that was deleted may go, since its commit was over.
    seen.tombstones = list
        .tombstones
        .iter()
        .filter(|(place, tombstone)| tombstone.session.is_none() || proved.contains(place))
        .map(|(place, _)| format!("snapshots/{}/{}", place.lineage, place.snapshot))
        .collect();
    for (id, _) in segments::list(repo.store())? {
        let packs = segments::read(repo.vault(), id).ok();
        let packs = packs.map(|segment| segment.packs.iter().map(|found| found.pack).collect());
        seen.segments.insert(segments::object_name(id), packs);
    }
    Ok(seen)
}

/// Of a snapshot that was rewritten, the last manifest that is whole (`repo/manifests.rs`); of any other the one that it has.
fn needed_manifest(
    repo: &Repository,
    record: &SnapshotRecord,
    seen: &mut Seen,
) -> Result<Manifest> {
    let there: Vec<_> = manifest_ids(record)
        .filter(|id| seen.manifests.contains(id))
        .collect();
    let found = if there.len() > 1 {
        repo.last_whole(record, &there, |pack| Ok(seen.uses.has(pack)))?
    } else {
        None
    };
    let (id, manifest) = match found {
        Some(found) => found,
        None => repo.first_manifest(record)?,
    };
    seen.needed_manifests.insert(id);
    Ok(manifest)
}

/// Decides for each object. Pure.
fn plan(seen: &Seen) -> GcReport {
    let mut report = GcReport {
        leaving: choose(seen),
        ..GcReport::default()
    };
    let told = leave_record(seen, &report.leaving);
    for object in &seen.objects {
        match judge(seen, told, &object.name) {
            Judgement::Keep => report.kept_bytes += object.len,
            Judgement::Foreign => report.foreign.push(object.name.clone()),
            Judgement::Garbage(reason) => {
                report.bytes += object.len;
                report.garbage.push(Garbage {
                    name: object.name.clone(),
                    bytes: object.len,
                    reason: reason.to_owned(),
                });
            }
        }
    }
    report
}

/// The packs that imports are to leave behind.
fn choose(seen: &Seen) -> Vec<SparsePack> {
    let already = seen.collections.values().flatten().flatten().copied();
    seen.uses.choose(&already.collect())
}

/// The record that tells imports of just these packs already, if there is one.
fn leave_record<'s>(seen: &'s Seen, leaving: &[SparsePack]) -> Option<&'s str> {
    let leaving: HashSet<_> = leaving.iter().map(|pack| pack.id).collect();
    let same = |found: &&HashSet<PackId>| !found.is_empty() && **found == leaving;
    let mut found = seen.collections.iter();
    found.find_map(|(name, leave)| leave.as_ref().filter(same).map(|_| name.as_str()))
}

enum Judgement {
    Keep,
    Foreign,
    Garbage(&'static str),
}

fn judge(seen: &Seen, told: Option<&str>, name: &str) -> Judgement {
    if name == OBJECT_NAME {
        return Judgement::Keep;
    }
    let Some((kind, rest)) = name.split_once('/') else {
        return Judgement::Foreign;
    };
    match kind {
        "packs" => match pack::id_of(name) {
            Some(id) if seen.needed_packs.contains(&id) => Judgement::Keep,
            Some(_) => Judgement::Garbage("no snapshot needs a chunk of it"),
            None => Judgement::Foreign,
        },
        "manifests" => match rest.parse::<ManifestId>() {
            Ok(id) if seen.needed_manifests.contains(&id) => Judgement::Keep,
            Ok(_) => Judgement::Garbage("no snapshot has it"),
            Err(_) => Judgement::Foreign,
        },
        "index" => match seen.segments.get(name) {
            Some(Some(packs)) if packs.iter().any(|id| seen.needed_packs.contains(id)) => {
                Judgement::Keep
            }
            Some(Some(_)) => Judgement::Garbage("all of its packs are garbage"),
            Some(None) => Judgement::Garbage("it is damaged; packs have their ids themselves"),
            None => Judgement::Foreign,
        },
        "snapshots" if seen.tombstones.contains(name) => {
            Judgement::Garbage("the snapshot was deleted, or its import given up")
        }
        "snapshots" => match crate::repo::place_of(name) {
            Some(_) => Judgement::Keep,
            None => Judgement::Foreign,
        },
        "sessions" => Judgement::Keep,
        "keys" if rest.parse::<KeyId>().is_ok() => Judgement::Keep,
        "gc" if is_collection(name) => {
            // One that came since is a later collection's.
            if told == Some(name) || !seen.collections.contains_key(name) {
                Judgement::Keep
            } else {
                Judgement::Garbage("this collection takes its place")
            }
        }
        _ => Judgement::Foreign,
    }
}

/// Tells imports which packs to leave behind, and removes garbage. Manifests go first: a reader takes the first one that a rewritten snapshot has, and must not find its packs gone.
/// Tombstones go last; nothing else needs an order, since nothing that stays refers to any of it: a crash between leaves only what the next run finds again.
fn apply(repo: &Repository, report: &GcReport, seen: &Seen, monitor: &dyn Monitor) -> Result<()> {
    let garbage = &report.garbage;
    if !report.leaving.is_empty() && leave_record(seen, &report.leaving).is_none() {
        repo.put_collection(report.leaving.iter().map(|pack| pack.id).collect())?;
    }
    let index = Index::open_without_segments(
        repo.index_dir().as_deref().filter(|dir| dir.exists()),
        repo.memory(),
        monitor,
    );
    let mut directories = Directories::new(repo.vault().clone(), repo.cache());
    let mut ordered: Vec<_> = garbage.iter().collect();
    ordered.sort_by_key(|garbage| match garbage.name.split('/').next() {
        Some("manifests") => 0,
        Some("snapshots") => 2,
        _ => 1,
    });
    for (done, object) in (0..).zip(ordered) {
        keep_going(monitor)?;
        monitor.progress(Phase::Collect, done, Some(garbage.len() as u64));
        if object.reason == LEFTOVER {
            repo.store().remove_leftover(&object.name)?;
            continue;
        }
        let pack = pack::id_of(&object.name);
        // What cannot be read any more is not needed any more.
        let directory = pack.and_then(|id| directories.get(id).ok());
        repo.store().delete(&object.name)?;
        if let Some(id) = pack {
            let ids: Vec<_> = directory
                .iter()
                .flat_map(|directory| directory.ids())
                .collect();
            // A stale entry does no harm: whoever follows it looks whether the pack is there.
            let _ = index.forget(id, &ids);
            directories.forget(id);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str) -> Listed {
        Listed {
            name: name.to_owned(),
            len: 10,
        }
    }

    #[test]
    fn what_a_snapshot_needs_and_what_is_not_ours_stays() {
        let (live, dead) = (PackId::from_bytes([1; 16]), PackId::from_bytes([2; 16]));
        let manifest = ManifestId::from_bytes([3; 16]);
        let grave = "snapshots/00000000000000000000000000000000/04040404040404040404040404040404";
        let snapshot =
            "snapshots/00000000000000000000000000000000/05050505050505050505050505050505";
        let mut seen = Seen::default();
        seen.needed_packs.insert(live);
        seen.needed_manifests.insert(manifest);
        seen.tombstones.insert(grave.to_owned());
        seen.segments
            .insert("index/aa".to_owned(), Some(vec![live, dead]));
        seen.segments
            .insert("index/bb".to_owned(), Some(vec![dead]));
        seen.segments.insert("index/cc".to_owned(), None);
        let names = [
            "repository.json".to_owned(),
            pack::object_name(live),
            pack::object_name(dead),
            "packs/README".to_owned(),
            format!("manifests/{manifest}"),
            format!("manifests/{}", ManifestId::default()),
            "index/aa".to_owned(),
            "index/bb".to_owned(),
            "index/cc".to_owned(),
            grave.to_owned(),
            snapshot.to_owned(),
            "sessions/x".to_owned(),
            "notes.txt".to_owned(),
            "keys/1".to_owned(),
        ];
        seen.objects = names.iter().map(|name| listed(name)).collect();
        let report = plan(&seen);
        let garbage: Vec<_> = report.garbage.iter().map(|g| g.name.as_str()).collect();
        let dead_manifest = format!("manifests/{}", ManifestId::default());
        assert_eq!(
            garbage,
            [
                &pack::object_name(dead),
                dead_manifest.as_str(),
                "index/bb",
                "index/cc",
                grave
            ]
        );
        assert_eq!(report.foreign, ["packs/README", "notes.txt", "keys/1"]);
        assert_eq!((report.bytes, report.kept_bytes), (50, 60));
    }
}
