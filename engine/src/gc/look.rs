//! Owns what a collection sees (protocol, C1 to C3): which objects there are, who is at work, and what is needed.
//!
//! Always: looks in the order that the protocol's argument needs: index segments, manifests, collection records, packs, then sessions, then snapshots (of those that are listed then, what is known of them as
//! they are), then pins. If a snapshot that is needed cannot be
//! read, it is an error: what it needs is not known. Never: changes anything, but for sessions that are over.

use std::collections::{HashMap, HashSet};

use cryostore_format::catalogue::Remembered;
use cryostore_format::collection::CollectionRecord;
use cryostore_format::session::Place;
use cryostore_format::snapshot::{Entry, SnapshotRecord};
use cryostore_format::{CollectionId, ManifestId, PackId};

use super::GcOptions;
use super::sessions::{Sessions, look_at_sessions};
use super::sparse::Uses;
use crate::error::{Error, Kind, Result};
use crate::index::segments;
use crate::limits;
use crate::monitor::{Monitor, Phase, keep_going};
use crate::pack;
use crate::pack::reading::read_tables;
use crate::repo::{
    Catalogues, ManifestName, REWRITTEN, Repository, StoredCatalogue, collection_of, damage_of,
    deleted_place, deletion_name, is_ours, is_ours_at_root, pinned_by, place_name, place_of,
};
use crate::store::Listed;

/// What there is, and what is needed.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Index segments: bytes, and packs; no packs if it cannot be read.
    pub(super) segments: HashMap<String, (u64, Option<Vec<PackId>>)>,
    /// Bytes of each.
    pub(super) manifests: HashMap<ManifestName, u64>,
    /// Those of them that took another one's place, by what the record names, in the order of their names.
    pub(super) rewritten: HashMap<ManifestId, Vec<ManifestName>>,
    /// The same, of those that came after the first list.
    pub(super) since: HashMap<ManifestId, Vec<ManifestName>>,
    /// Records of earlier collections, and their bytes.
    pub(super) records: Vec<(CollectionRecord, u64)>,
    /// Those that are older than any put that is still on its way.
    pub(super) old_records: HashSet<CollectionId>,
    /// Bytes of each.
    pub(super) packs: HashMap<PackId, u64>,
    pub(super) sessions: Sessions,
    pub(super) needed_packs: HashSet<PackId>,
    pub(super) needed_manifests: HashSet<ManifestName>,
    /// Snapshots that were deleted and whose time is over.
    pub(super) over: HashMap<Place, Over>,
    /// Deleted ones that can still be brought back.
    pub(super) in_grace: u64,
    /// Places with a record.
    pub(super) recorded: HashSet<Place>,
    /// Tombstones that may go, deletion marks beside nothing, and damage records of packs that are gone: names and bytes.
    pub(super) leftover_marks: Vec<(String, u64, &'static str)>,
    /// What writes that were cut off have left in a directory.
    pub(super) leftovers: Vec<Listed>,
    /// Catalogues, as they agree with what there is; in the first look only.
    pub(super) catalogues: Vec<StoredCatalogue>,
    /// What they do not have.
    pub(super) fresh: Vec<Remembered>,
    /// Bytes of what is not listed above, and of catalogues.
    pub(super) other_bytes: u64,
    pub(super) foreign: Vec<String>,
    pub(super) uses: Uses,
}

/// What a deleted snapshot has.
#[derive(Debug, Default)]
pub(super) struct Over {
    pub(super) manifests: Vec<ManifestName>,
    /// What they refer to, as far as they can be read.
    pub(super) packs: Vec<PackId>,
}

impl Seen {
    /// The manifests of a snapshot, in the order of their names.
    fn manifests_of(&self, record: &SnapshotRecord) -> Vec<ManifestName> {
        let first = ManifestName::first(record.manifest.id);
        let first = Some(first).filter(|name| self.manifests.contains_key(name));
        let rewritten = self.rewritten.get(&record.manifest.id);
        first
            .into_iter()
            .chain(rewritten.into_iter().flatten().copied())
            .collect()
    }
}

/// What was read and does not change, for the next look.
#[derive(Debug, Default)]
pub(super) struct Known {
    records: HashMap<Place, SnapshotRecord>,
    tombstones: HashSet<Place>,
    packs: HashMap<ManifestName, Vec<PackId>>,
    /// Of all catalogues.
    catalogue_bytes: Option<u64>,
}

/// C1 to C3. With `uses`, counts how much of each pack is needed.
pub(super) fn look(
    repo: &Repository,
    options: &GcOptions,
    known: &mut Known,
    uses: bool,
    monitor: &dyn Monitor,
) -> Result<Seen> {
    let mut seen = Seen {
        leftovers: repo.store().leftovers()?,
        ..Seen::default()
    };
    seen.leftovers.retain(|left| is_left(repo, left));
    look_at_root(repo, &mut seen)?;
    look_at_objects(repo, &mut seen, monitor)?;
    if uses {
        seen.uses = Uses::of(seen.packs.iter().map(|(id, bytes)| (*id, *bytes)));
    }
    seen.sessions = look_at_sessions(repo, options)?;
    mark(repo, options, known, uses, &mut seen, monitor)?;
    seen.sessions.look_at_readers(repo)?;
    Ok(seen)
}

fn look_at_root(repo: &Repository, seen: &mut Seen) -> Result<()> {
    let (objects, directories) = repo.store().list_here()?;
    for object in objects {
        if is_ours_at_root(&object.name) {
            seen.other_bytes += object.len;
        } else {
            seen.foreign.push(object.name);
        }
    }
    let foreign = directories.into_iter().filter(|name| !is_ours(name));
    seen.foreign.extend(foreign.map(|name| format!("{name}/")));
    Ok(())
}

fn look_at_objects(repo: &Repository, seen: &mut Seen, monitor: &dyn Monitor) -> Result<()> {
    // A segment is put after its packs, a manifest too: what is in these lists has its packs in the one below, or they are gone.
    for object in repo.store().list(segments::PREFIX)? {
        let Some(id) = segments::id_of(&object.name) else {
            seen.foreign.push(object.name);
            continue;
        };
        let packs = segments::read(repo.vault(), id).ok();
        let packs = packs.map(|segment| segment.packs.iter().map(|found| found.pack).collect());
        seen.segments.insert(object.name, (object.len, packs));
    }
    for directory in ["manifests", REWRITTEN] {
        // Sorted by name.
        sort_in(repo.store().list(directory)?, seen, |seen, object| {
            let name = ManifestName::of(&object.name)?;
            seen.manifests.insert(name, object.len);
            if name.rewrite.is_some() {
                seen.rewritten.entry(name.first).or_default().push(name);
            }
            Some(())
        });
    }
    let mut damaged = Vec::new();
    for object in repo.list_collections()? {
        if collection_of(&object.name).is_none() {
            damaged.push(object);
            continue;
        }
        let Some(record) = repo.collection(&object) else {
            continue;
        };
        let (name, len) = (object.name, object.len);
        match record {
            Ok(record) => {
                if is_past(repo, &record.created, limits::LATE_PUTS) {
                    seen.old_records.insert(record.id);
                }
                seen.records.push((record, len));
            }
            Err(e) if e.kind() == Kind::Corrupt => {
                seen.other_bytes += len;
                monitor.warning(&format!("{name} is damaged: what it condemned is not known, and until it is gone imports refer to nothing that was stored before. When no other collection is at work anywhere, remove it by hand ({e})"));
            }
            Err(e) => return Err(e),
        }
    }
    sort_in(repo.store().list("packs")?, seen, |seen, object| {
        seen.packs.insert(pack::id_of(&object.name)?, object.len);
        Some(())
    });
    // They were listed before the packs: a record without a pack is left over, and not that of one that is being put.
    sort_in(damaged, seen, |seen, object| {
        let id = damage_of(&object.name)?;
        if seen.packs.contains_key(&id) {
            seen.other_bytes += object.len;
        } else {
            let (name, reason) = (object.name.clone(), "the damaged pack is gone");
            seen.leftover_marks.push((name, object.len, reason));
        }
        Some(())
    });
    Ok(())
}

/// Hands out listed objects; what is not taken is foreign.
fn sort_in(
    listed: Vec<Listed>,
    seen: &mut Seen,
    mut take: impl FnMut(&mut Seen, &Listed) -> Option<()>,
) {
    for object in listed {
        if take(seen, &object).is_none() {
            seen.foreign.push(object.name);
        }
    }
}

/// C3.
fn mark(
    repo: &Repository,
    options: &GcOptions,
    known: &mut Known,
    uses: bool,
    seen: &mut Seen,
    monitor: &dyn Monitor,
) -> Result<()> {
    let (places, catalogues) = list_places(repo, known, seen)?;
    // After the snapshots: who pins looks afterwards whether the snapshot is there, who deletes looks for pins before.
    let pins: HashSet<_> = repo
        .store()
        .list("pins")?
        .into_iter()
        .filter_map(|object| {
            seen.other_bytes += object.len;
            let id = pinned_by(&object.name);
            if id.is_none() {
                seen.foreign.push(object.name);
            }
            id
        })
        .collect();
    let (mut needed, mut rest) = (Vec::new(), HashMap::new());
    for (place, found) in &places {
        let deleted = found.deleted;
        let Some(record) = entry(repo, *place, found, &catalogues, options, known, seen)? else {
            if deleted.is_some() && !seen.recorded.contains(place) {
                let name = deletion_name(*place);
                let bytes = deleted.unwrap_or_default();
                seen.leftover_marks
                    .push((name, bytes, "the snapshot is gone"));
            }
            continue;
        };
        let is_needed = match deleted {
            None => true,
            Some(_) => pins.contains(&place.snapshot) || in_grace(repo, *place, options)?,
        };
        seen.in_grace += u64::from(is_needed && deleted.is_some());
        if is_needed {
            needed.push(record);
        } else {
            rest.insert(place.snapshot, record);
        }
    }
    // What another one needs, as CRIU's parent, is needed with it.
    let mut at = 0;
    while let Some(record) = needed.get(at) {
        if let Some(required) = record.requires.and_then(|id| rest.remove(&id)) {
            seen.in_grace += 1;
            needed.push(required);
        }
        at += 1;
    }
    // Manifests that came since the list of C1: what they refer to is needed too.
    for object in repo.store().list(REWRITTEN)? {
        let Some(name) = ManifestName::of(&object.name) else {
            continue;
        };
        if !seen.manifests.contains_key(&name) {
            seen.since.entry(name.first).or_default().push(name);
        }
    }
    for record in rest.values() {
        let over = over(repo, record, known, seen)?;
        seen.over.insert(Place::of(record), over);
    }
    seen.catalogues = catalogues.stored;
    mark_needed(repo, &needed, known, uses, seen, monitor)
}

/// What a store does not give right now ends the collection: the snapshot can be brought back before the next look, and would have no packs there.
fn over(
    repo: &Repository,
    record: &SnapshotRecord,
    known: &mut Known,
    seen: &Seen,
) -> Result<Over> {
    let manifests = seen.manifests_of(record);
    let mut packs = Vec::new();
    for name in &manifests {
        if let Some(found) = known.packs.get(name) {
            packs.extend_from_slice(found);
            continue;
        }
        match repo.manifest_at(record, *name) {
            Ok(manifest) => {
                packs.extend_from_slice(&manifest.packs);
                known.packs.insert(*name, manifest.packs);
            }
            // Nobody can read it, so that nothing comes back by it.
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Over { manifests, packs })
}

/// What is at a place.
#[derive(Debug, Default)]
struct There {
    entry: Option<Listed>,
    /// Bytes of the deletion mark.
    deleted: Option<u64>,
}

/// The places that there are and, in the first look, what catalogues know of them.
fn list_places(
    repo: &Repository,
    known: &mut Known,
    seen: &mut Seen,
) -> Result<(HashMap<Place, There>, Catalogues)> {
    let listed = repo.store().list("snapshots")?;
    let mut catalogues = Catalogues::default();
    if known.catalogue_bytes.is_none() {
        catalogues = repo.catalogues(&listed)?;
        seen.foreign.append(&mut catalogues.foreign);
        let bytes = catalogues.stored.iter().map(|stored| stored.bytes);
        known.catalogue_bytes = Some(bytes.sum());
    }
    seen.other_bytes += known.catalogue_bytes.unwrap_or_default();
    let mut places: HashMap<Place, There> = HashMap::new();
    for object in listed {
        seen.other_bytes += object.len;
        if let Some(place) = place_of(&object.name) {
            places.entry(place).or_default().entry = Some(object);
        } else if let Some(place) = deleted_place(&object.name) {
            places.entry(place).or_default().deleted = Some(object.len);
        } else {
            seen.foreign.push(object.name);
        }
    }
    Ok((places, catalogues))
}

/// The record at a place, if there is one that can be read. One that cannot, and is not deleted, ends the collection.
fn entry(
    repo: &Repository,
    place: Place,
    there: &There,
    catalogues: &Catalogues,
    options: &GcOptions,
    known: &mut Known,
    seen: &mut Seen,
) -> Result<Option<SnapshotRecord>> {
    let Some(object) = &there.entry else {
        return Ok(None);
    };
    if known.tombstones.contains(&place) {
        return Ok(None);
    }
    if let Some(record) = known.records.get(&place) {
        seen.recorded.insert(place);
        return Ok(Some(record.clone()));
    }
    // What a catalogue says is a hint, which whoever may put one could abuse: what is removed rests on the record itself, of which this node mostly has a copy.
    let found = repo.remember(object, place).map(|(entry, fresh)| {
        let is_new = repo.has_catalogues() && !catalogues.has(place);
        seen.fresh.extend(fresh.filter(|_| is_new));
        entry
    });
    match found {
        Ok(Entry::Snapshot(record)) => {
            seen.recorded.insert(place);
            known.records.insert(place, (*record).clone());
            Ok(Some(*record))
        }
        Ok(Entry::Tombstone(tombstone)) => {
            known.tombstones.insert(place);
            // That of a session that was ended must outlive every late commit of it, and stays. That of a snapshot that was freed, or of a session whose process is gone, stays for a day: a put
            // that was on its way then is applied by then.
            let may_go = tombstone.session.is_none()
                && is_past(repo, &tombstone.created, limits::TOMBSTONE_STAYS);
            if may_go {
                let reason = "the snapshot was deleted, or its import given up";
                seen.leftover_marks
                    .push((place_name(place), object.len, reason));
            }
            Ok(None)
        }
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        // Nobody can bring back what cannot be read; but what does not answer right now is no damage, and what was brought back is not deleted.
        Err(e)
            if e.kind() == Kind::Corrupt && there.deleted.is_some() && repo.is_deleted(place) =>
        {
            seen.recorded.insert(place);
            if !in_grace(repo, place, options)? {
                seen.over.insert(place, Over::default());
            }
            Ok(None)
        }
        Err(e) => {
            let name = place_name(place);
            let text = format!("{name} cannot be read, so that it is not known what it needs: {e}");
            let lost =
                "restore the object from a copy, or delete the snapshot by the id in its name";
            let advice = advice(&e, lost);
            Err(Error::new(e.kind(), text).hint(advice).because(e))
        }
    }
}

/// True while a deleted snapshot can be brought back. A mark whose time cannot be read does not count time.
fn in_grace(repo: &Repository, place: Place, options: &GcOptions) -> Result<bool> {
    match repo.deletion(place) {
        Ok(mark) => Ok(!is_past(repo, &mark.created, options.grace)),
        // Brought back since it was listed.
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Corrupt) => Ok(true),
        Err(e) => Err(e),
    }
}

/// True if at least so much time has passed since then, by two clocks: it tells the grace time, which is for people, and for how long records and tombstones stay against puts that come late.
fn is_past(repo: &Repository, created: &str, time: std::time::Duration) -> bool {
    let Ok(created) = created.parse::<jiff::Timestamp>() else {
        return true;
    };
    let passed = repo.env().now().duration_since(created);
    passed >= jiff::SignedDuration::try_from(time).unwrap_or(jiff::SignedDuration::MAX)
}

/// What to do about an object that ended a collection. A disk or a line that fails is no reason to delete anything.
fn advice(e: &Error, lost: &str) -> String {
    let what = match e.kind() {
        Kind::Corrupt | Kind::NotFound => lost,
        _ => e.advice().unwrap_or("try again"),
    };
    format!("nothing was removed; {what}")
}

/// What is left of packs and the like bears the name of the session that was to put them. Of other records only the time tells that nobody writes them any more: by two clocks, and what a
/// wrong one costs is a put that fails, or some hundred bytes that stay.
fn is_left(repo: &Repository, left: &Listed) -> bool {
    let by_age = ["sessions/", "snapshots/", "pins/", "gc/", "reserve"];
    if !by_age.iter().any(|dir| left.name.starts_with(dir)) {
        return true;
    }
    let age = repo.env().now().as_millisecond() - left.modified_ms;
    i128::from(age) >= limits::LEFT_RECORD.as_millis().cast_signed()
}

fn mark_needed(
    repo: &Repository,
    needed: &[SnapshotRecord],
    known: &mut Known,
    uses: bool,
    seen: &mut Seen,
    monitor: &dyn Monitor,
) -> Result<()> {
    // The newest of each container come first: what their next imports would store again is counted apart.
    let mut newest: HashMap<_, &SnapshotRecord> = HashMap::new();
    for record in needed {
        let best = newest.entry(record.lineage).or_insert(record);
        if record.created > best.created {
            *best = record;
        }
    }
    let is_newest = |record: &&SnapshotRecord| newest[&record.lineage].id == record.id;
    let (newest, older): (Vec<_>, Vec<_>) = needed.iter().partition(is_newest);
    let condemned: HashSet<PackId> = seen
        .records
        .iter()
        .flat_map(|(record, _)| record.condemned.iter().copied())
        .collect();
    for (done, record) in (0_u64..).zip(newest.iter().chain(&older)) {
        keep_going(monitor)?;
        monitor.progress(Phase::Collect, done, Some(needed.len() as u64));
        if let Err(e) = mark_one(repo, record, &condemned, known, uses, seen) {
            // Freed since its record was read.
            if repo.is_free(Place::of(record))? {
                known.records.remove(&Place::of(record));
                continue;
            }
            let advice = advice(&e, "delete the snapshot if it is lost, then collect again");
            return Err(e.hint(advice));
        }
        if done + 1 == newest.len() as u64 {
            seen.uses.end_of_newest();
        }
    }
    Ok(())
}

/// Marks what a snapshot needs: of one that was rewritten, what the last manifest needs that is whole and not condemned (`repo/manifests.rs`); those before it go.
fn mark_one(
    repo: &Repository,
    record: &SnapshotRecord,
    condemned: &HashSet<PackId>,
    known: &mut Known,
    uses: bool,
    seen: &mut Seen,
) -> Result<()> {
    let there = seen.manifests_of(record);
    if let [name] = there[..]
        && !uses
        && !seen.since.contains_key(&name.first)
        && let Some(packs) = known.packs.get(&name)
    {
        seen.needed_packs.extend(packs);
        seen.needed_manifests.insert(name);
        return Ok(());
    }
    let stays = |pack| Ok(seen.packs.contains_key(&pack) && !condemned.contains(&pack));
    let found = if there.len() > 1 {
        repo.last_whole(record, &there, stays)?
    } else {
        None
    };
    let (name, mut manifest) = match found {
        Some(found) => found,
        None => repo.first_manifest(record)?,
    };
    seen.needed_packs.extend(&manifest.packs);
    seen.needed_manifests.insert(name);
    known.packs.insert(name, manifest.packs.clone());
    // A manifest goes only for a later one that is settled. What those after it refer to stays while they are there: they may become whole.
    let later = there.iter().skip_while(|other| **other != name).skip(1);
    let since = seen.since.get(&name.first).into_iter().flatten();
    let later: Vec<_> = later.chain(since).copied().collect();
    for later in later {
        if let Ok(manifest) = repo.manifest_at(record, later) {
            seen.needed_packs.extend(&manifest.packs);
        }
        seen.needed_manifests.insert(later);
    }
    if uses {
        match read_tables(repo.vault(), &mut manifest, repo.key()) {
            Ok(()) => seen.uses.add(&manifest),
            Err(_) => seen.uses.add_whole(&manifest),
        }
    }
    Ok(())
}
