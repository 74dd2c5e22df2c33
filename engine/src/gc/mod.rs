//! Owns the removal of what no snapshot needs, beside imports, exports and other collections (`format-spec/spec/protocol.md`, C1 to C6).
//!
//! Always: a pack is condemned first, and removed when every session knows that and nothing has come to need it; if a single snapshot that is needed cannot be read, nothing is
//! removed. Never: frees a pack because of a clock; the grace time is for people, and for how long records and tombstones stay against puts that come late the protocol says.
//!
//! `look` reads, `plan` decides (pure), `apply` removes.

mod catalogue;
mod estimate;
mod leave;
mod look;
mod plan;
mod segments;
mod sessions;
mod sparse;

use std::time::Duration;

use cryostore_format::CollectionId;
use cryostore_format::collection::CollectionRecord;
use cryostore_format::limits as format_limits;
use cryostore_format::repository::Role;
use cryostore_format::session::SessionRecord;

pub use self::estimate::freed_by;
use self::look::{Known, Seen, look};
use self::plan::{Plan, of_place, plan};
pub use self::sparse::SparsePack;
use crate::error::{Error, Kind, Result};
use crate::index::Index;
use crate::limits;
use crate::monitor::{Monitor, Phase, keep_going};
use crate::pack::{self, directories::Directories};
use crate::repo::{Repository, collection_name, deletion_name};

/// How to collect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcOptions {
    /// Say what would be removed, remove nothing.
    pub dry_run: bool,
    /// How long deleted snapshots can be brought back.
    pub grace: Duration,
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

impl Garbage {
    fn new(name: String, bytes: u64, reason: &str) -> Self {
        Self {
            name,
            bytes,
            reason: reason.to_owned(),
        }
    }
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
    /// What no snapshot needs either, and a later collection removes: sessions are at work that do not know it yet.
    pub waiting: Vec<Garbage>,
    /// Those sessions.
    pub at_work: Vec<SessionRecord>,
    /// Deleted snapshots that can still be brought back, or that others need: nothing of them is garbage.
    pub in_grace: u64,
    /// Sessions that were ended.
    pub ended_sessions: Vec<String>,
    /// Objects that are none of ours; they stay. A directory ends with `/`.
    pub foreign: Vec<String>,
    /// Packs that imports leave behind from now on.
    pub leaving: Vec<SparsePack>,
}

/// Packs of which little is needed, for [`crate::repack`], which would store at most so many bytes again. Nothing is changed.
pub fn sparse_packs(
    repo: &Repository,
    most: u64,
    options: &GcOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<SparsePack>> {
    let options = GcOptions {
        dry_run: true,
        ..options.clone()
    };
    let seen = look(repo, &options, &mut Known::default(), true, monitor)?;
    Ok(seen.uses.choose_within(most))
}

const LEFTOVER: &str = "a write that was cut off left it";

/// Rounds of one collection: the first frees what earlier ones condemned, and condemns; the second frees that, if nobody is at work.
const ROUNDS: usize = 2;

/// Removes what no snapshot needs.
pub fn collect(repo: &Repository, options: &GcOptions, monitor: &dyn Monitor) -> Result<GcReport> {
    repo.require(Role::Collect)?;
    if !options.dry_run {
        repo.store().may_remove()?;
    }
    let mut report = GcReport::default();
    let mut known = Known::default();
    let mut own = Vec::new();
    for round in 0..ROUNDS {
        let looked = repo.env().elapsed();
        let mut seen = look(repo, options, &mut known, round == 0, monitor)?;
        let leaving = (round > 0).then(|| std::mem::take(&mut report.leaving));
        let mut plan = plan(&seen, leaving);
        let at_work = seen.sessions.live.clone();
        let ended = seen.sessions.ended.iter().map(|(id, _)| id.to_string());
        report.ended_sessions.extend(ended);
        if options.dry_run {
            if at_work.is_empty() {
                plan = second_round(&mut seen, plan);
            }
            report.tell(&seen, plan);
            report.at_work = at_work;
            break;
        }
        let awake = Awake { repo, looked };
        let condemned = apply(&awake, &seen, &plan, round == 0, monitor)?;
        report.removed = true;
        // What the round before put and is done with is nobody's garbage.
        plan.remove.retain(|object| !own.contains(&object.name));
        report.tell(&seen, plan);
        report.at_work = at_work;
        // A record of now is named by no session.
        if condemned.is_empty() || !report.at_work.is_empty() {
            break;
        }
        own = condemned.into_iter().map(collection_name).collect();
    }
    if !options.dry_run {
        repo.keep_reserve();
    }
    Ok(report)
}

/// What the second round would do, if the first was done and nobody came.
fn second_round(seen: &mut Seen, first: Plan) -> Plan {
    let record = CollectionRecord {
        id: CollectionId::default(),
        created: String::new(),
        condemned: first.condemn,
        given_up: first.condemn_places,
        done: Vec::new(),
        leave: Vec::new(),
    };
    let name = collection_name(record.id);
    seen.records.push((record, 0));
    let mut plan = plan(seen, Some(first.leaving));
    plan.remove.retain(|object| object.name != name);
    plan
}

impl GcReport {
    /// Adds what was seen and done.
    fn tell(&mut self, seen: &Seen, plan: Plan) {
        self.kept_bytes = plan.kept_bytes;
        self.in_grace = seen.in_grace;
        self.foreign.clone_from(&seen.foreign);
        self.leaving = plan.leaving;
        self.waiting = plan.waiting;
        for (place, manifests) in &plan.give_up {
            self.garbage.extend(of_place(seen, *place, manifests));
        }
        self.garbage.extend(plan.remove);
        // Not if the next round removes it at once.
        if !seen.sessions.live.is_empty() {
            self.waiting.extend(plan.condemn.iter().map(|id| {
                let bytes = seen.packs.get(id).copied().unwrap_or_default();
                Garbage::new(pack::object_name(*id), bytes, plan::NOT_NEEDED)
            }));
        }
        self.bytes = self.garbage.iter().map(|garbage| garbage.bytes).sum();
    }
}

/// What was seen must not be old when something is removed for it: a pack whose put comes late is condemned only as long as the record stays.
struct Awake<'r> {
    repo: &'r Repository,
    looked: Duration,
}

impl Awake<'_> {
    fn check(&self) -> Result<()> {
        let since = self.repo.env().elapsed().saturating_sub(self.looked);
        if since < limits::LATE_PUTS / 2 {
            return Ok(());
        }
        Err(Error::new(
            Kind::Interrupted,
            format!("what was seen is {} minutes old", since.as_secs() / 60),
        )
        .hint("nothing that is needed was removed; run it again, it goes on where it was"))
    }
}

/// Does what the plan says; the records that it put come back. Snapshots are given up before their manifests go, manifests go before packs: a reader takes the first manifest that a
/// snapshot has, and must not find its packs gone. A crash between leaves only what the next run finds again.
fn apply(
    awake: &Awake<'_>,
    seen: &Seen,
    plan: &Plan,
    first: bool,
    monitor: &dyn Monitor,
) -> Result<Vec<CollectionId>> {
    let repo = awake.repo;
    let leaving = &plan.leaving;
    if first && !leaving.is_empty() && leave::told(seen, leaving).is_none() {
        repo.put_collection(|record| record.leave = leaving.iter().map(|pack| pack.id).collect())?;
    }
    for (place, manifests) in &plan.give_up {
        awake.check()?;
        repo.give_up(*place)?;
        for name in manifests {
            repo.store().delete(&name.object_name())?;
        }
        repo.store().delete(&deletion_name(*place))?;
    }
    remove(awake, &plan.remove, monitor)?;
    // Nothing rests on it.
    if let Err(e) = catalogue::write(repo, seen, plan) {
        monitor.warning(&format!(
            "no catalogue was put, so that `ls` on a fresh node takes longer: {e}"
        ));
    }
    for done in plan.done.chunks(format_limits::DONE_MAX) {
        repo.put_collection(|record| record.done = done.to_vec())?;
    }
    let condemned = condemn(repo, plan)?;
    // Last: on a full disk there may be room for what condemns, and not for this, on which nothing rests either.
    if first && let Err(e) = segments::merge(repo, seen) {
        monitor.warning(&format!(
            "small index segments were not put together, so that a fresh node reads more of them: {e}"
        ));
    }
    Ok(condemned)
}

fn remove(awake: &Awake<'_>, garbage: &[Garbage], monitor: &dyn Monitor) -> Result<()> {
    let repo = awake.repo;
    // Most collections remove no pack.
    let mut index = None;
    let mut directories = Directories::new(repo.vault().clone(), repo.cache());
    for (done, object) in (0..).zip(garbage) {
        keep_going(monitor)?;
        awake.check()?;
        monitor.progress(Phase::Collect, done, Some(garbage.len() as u64));
        if object.reason == LEFTOVER {
            repo.store().remove_leftover(&object.name)?;
            continue;
        }
        let pack = pack::id_of(&object.name);
        let directory = pack.and_then(|id| directories.kept(id));
        repo.store().delete(&object.name)?;
        if let Some(id) = pack {
            let ids = directory.iter().flat_map(|directory| directory.ids());
            // A stale entry does no harm: whoever follows it looks whether the pack is there.
            let index = index.get_or_insert_with(|| {
                let dir = repo.index_dir().filter(|dir| dir.exists());
                Index::open_without_segments(dir.as_deref(), repo.memory(), monitor)
            });
            let _ = index.forget(id, &ids.collect::<Vec<_>>());
            directories.forget(id);
        }
    }
    Ok(())
}

/// C5.
fn condemn(repo: &Repository, plan: &Plan) -> Result<Vec<CollectionId>> {
    let mut packs = plan.condemn.chunks(format_limits::CONDEMNED_MAX);
    let mut places = plan.condemn_places.chunks(format_limits::GIVEN_UP_MAX);
    let mut out = Vec::new();
    loop {
        let (packs, places) = (packs.next(), places.next());
        if packs.is_none() && places.is_none() {
            return Ok(out);
        }
        out.push(repo.put_collection(|record| {
            record.condemned = packs.unwrap_or_default().to_vec();
            record.given_up = places.unwrap_or_default().to_vec();
        })?);
    }
}

#[cfg(test)]
mod tests;
