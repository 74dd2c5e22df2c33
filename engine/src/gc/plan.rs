//! Owns what a collection decides (protocol, C4 to C6). Pure.
//!
//! Always: a pack is freed only if a record that every session names condemns it and nothing marks it; a pack of a session that is at work is not condemned.
//! Never: looks at the store.

use std::collections::{HashMap, HashSet};

use cryostore_format::session::Place;
use cryostore_format::{CollectionId, PackId};

use super::catalogue::{self, Chosen};
use super::look::{Over, Seen};
use super::sparse::SparsePack;
use super::{Garbage, LEFTOVER, leave, segments as merged};
use crate::index::segments;
use crate::pack;
use crate::repo::{ManifestName, collection_name, deletion_name};

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Snapshots that become tombstones, and their manifests.
    pub(super) give_up: Vec<(Place, Vec<ManifestName>)>,
    /// Objects that go: manifests before packs, packs before segments.
    pub(super) remove: Vec<Garbage>,
    /// What a new record condemns.
    pub(super) condemn: Vec<PackId>,
    /// And what it gives up.
    pub(super) condemn_places: Vec<Place>,
    /// Condemned, and held up by a session that does not know it.
    pub(super) waiting: Vec<Garbage>,
    /// Records of which all was gone already.
    pub(super) done: Vec<CollectionId>,
    /// Packs that imports leave behind.
    pub(super) leaving: Vec<SparsePack>,
    /// Which catalogues go, and which are merged.
    pub(super) catalogues: Chosen,
    /// Bytes of all that stays.
    pub(super) kept_bytes: u64,
}

pub(super) const NOT_NEEDED: &str = "no snapshot needs a chunk of it";

/// Decides. How much is needed of each pack is counted once in a collection: `leaving` is what was chosen then.
pub(super) fn plan(seen: &Seen, leaving: Option<Vec<SparsePack>>) -> Plan {
    let mut plan = Plan::default();
    let (mut condemned, mut given_up) = (HashSet::new(), HashSet::new());
    let (mut free, mut free_places) = (HashSet::new(), HashSet::new());
    for (record, _) in &seen.records {
        condemned.extend(record.condemned.iter().copied());
        given_up.extend(record.given_up.iter().copied());
        if seen.sessions.all_name(record.id) {
            free.extend(record.condemned.iter().copied());
            free_places.extend(record.given_up.iter().copied());
        }
    }
    free_places.retain(|place| seen.over.contains_key(place));
    // As long as a record is there, what it refers to is: a snapshot becomes a tombstone first.
    let held = seen
        .over
        .iter()
        .filter(|(place, _)| !free_places.contains(place));
    let held: HashSet<PackId> = held
        .flat_map(|(_, over)| over.packs.iter().copied())
        .collect();
    let is_free = |pack: &PackId| !seen.needed_packs.contains(pack) && !held.contains(pack);
    free.retain(|pack| seen.packs.contains_key(pack) && is_free(pack));

    let mut places: Vec<_> = free_places.iter().copied().collect();
    places.sort_unstable();
    for place in places {
        let manifests = seen.over.get(&place).map(|over| over.manifests.clone());
        plan.give_up.push((place, manifests.unwrap_or_default()));
    }
    manifests_to_remove(seen, &free_places, &mut plan);
    for (id, bytes) in sorted(&seen.packs) {
        let garbage = Garbage::new(pack::object_name(id), bytes, NOT_NEEDED);
        if free.contains(&id) {
            plan.remove.push(garbage);
        } else if seen.needed_packs.contains(&id) || seen.sessions.have_put(id.as_bytes()) {
            plan.kept_bytes += bytes;
        } else if condemned.contains(&id) {
            plan.waiting.push(garbage);
        } else {
            plan.condemn.push(id);
        }
    }
    plan.condemn_places = seen
        .over
        .keys()
        .filter(|place| !given_up.contains(place))
        .copied()
        .collect();
    plan.condemn_places.sort_unstable();
    segments_to_remove(seen, &free, &mut plan);
    for (name, bytes, reason) in &seen.leftover_marks {
        plan.remove.push(Garbage::new(name.clone(), *bytes, reason));
    }
    // A write that goes on is of a session that is at work.
    for left in &seen.leftovers {
        let id = left
            .name
            .rsplit('/')
            .next()
            .and_then(|file| file.split('#').next())
            .and_then(|id| id.rsplit('-').next());
        let id: Option<PackId> = id.and_then(|id| id.parse().ok());
        if !id.is_some_and(|id| seen.sessions.have_put(id.as_bytes())) {
            plan.remove
                .push(Garbage::new(left.name.clone(), left.len, LEFTOVER));
        }
    }
    plan.catalogues = catalogue::choose(&seen.catalogues, seen.fresh.len());
    let removed = catalogue::to_remove(seen, &plan.catalogues);
    plan.kept_bytes += seen.other_bytes - removed.iter().map(|gone| gone.bytes).sum::<u64>();
    plan.remove.extend(removed);
    plan.leaving = leaving.unwrap_or_else(|| leave::choose(seen));
    records_to_remove(seen, &free_places, &mut plan);
    plan
}

fn sorted<T: Copy + Ord>(objects: &HashMap<T, u64>) -> Vec<(T, u64)> {
    let mut out: Vec<_> = objects.iter().map(|(id, bytes)| (*id, *bytes)).collect();
    out.sort_unstable();
    out
}

fn manifests_to_remove(seen: &Seen, free: &HashSet<Place>, plan: &mut Plan) {
    // Those of deleted snapshots go with their places: until then these can be brought back.
    let manifests = |(place, over): (&Place, &Over)| {
        let is_free = free.contains(place);
        over.manifests
            .iter()
            .map(move |name| (*name, is_free))
            .collect::<Vec<_>>()
    };
    let with_place: HashMap<ManifestName, bool> = seen.over.iter().flat_map(manifests).collect();
    for (name, bytes) in sorted(&seen.manifests) {
        let kept =
            seen.needed_manifests.contains(&name) || seen.sessions.have_put(name.id().as_bytes());
        match with_place.get(&name) {
            Some(true) => {}
            None if !kept => {
                let garbage = Garbage::new(name.object_name(), bytes, "no snapshot has it");
                plan.remove.push(garbage);
            }
            _ => plan.kept_bytes += bytes,
        }
    }
}

fn segments_to_remove(seen: &Seen, free: &HashSet<PackId>, plan: &mut Plan) {
    let stays = |pack: &PackId| seen.packs.contains_key(pack) && !free.contains(pack);
    let superseded = merged::superseded(seen);
    let mut names: Vec<_> = seen.segments.iter().collect();
    names.sort_unstable();
    for (name, (bytes, packs)) in names {
        let id = segments::id_of(name);
        let reason = match packs {
            _ if id.is_some_and(|id| seen.sessions.have_put(id.as_bytes())) => None,
            Some(_) if superseded.contains(name.as_str()) => Some("another has all of its packs"),
            Some(packs) if packs.iter().any(stays) => None,
            Some(_) => Some("all of its packs are gone"),
            None => Some("it is damaged; packs have their ids themselves"),
        };
        match reason {
            Some(reason) => plan.remove.push(Garbage::new(name.clone(), *bytes, reason)),
            None => plan.kept_bytes += bytes,
        }
    }
}

/// Records that bind nobody any more, and hints that another one takes the place of.
fn records_to_remove(seen: &Seen, free_places: &HashSet<Place>, plan: &mut Plan) {
    let told = leave::told(seen, &plan.leaving);
    let there: HashSet<CollectionId> = seen.records.iter().map(|(record, _)| record.id).collect();
    let (mut called_done, mut done_for_long) = (HashSet::new(), HashSet::new());
    for (record, _) in &seen.records {
        called_done.extend(record.done.iter().copied());
        if seen.old_records.contains(&record.id) {
            done_for_long.extend(record.done.iter().copied());
        }
    }
    for (record, bytes) in &seen.records {
        // Not in the run that removes them: a put that comes late must find the record.
        let binds = |pack: &PackId| seen.packs.contains_key(pack);
        let holds = |place: &Place| seen.recorded.contains(place) && !free_places.contains(place);
        let is_over = !record.condemned.iter().any(binds) && !record.given_up.iter().any(holds);
        let goes = if !record.condemned.is_empty() {
            if is_over && !called_done.contains(&record.id) {
                plan.done.push(record.id);
            }
            is_over && done_for_long.contains(&record.id)
        } else if !record.done.is_empty() {
            !record.done.iter().any(|id| there.contains(id))
        } else if !record.leave.is_empty() {
            told != Some(record.id)
        } else {
            is_over
        };
        if goes {
            let name = collection_name(record.id);
            let reason = "all that it condemned is gone, or a later one takes its place";
            plan.remove.push(Garbage::new(name, *bytes, reason));
        } else {
            plan.kept_bytes += bytes;
        }
    }
}

/// What is removed of a snapshot that is given up.
pub(super) fn of_place(seen: &Seen, place: Place, manifests: &[ManifestName]) -> Vec<Garbage> {
    let mut out: Vec<_> = manifests
        .iter()
        .map(|name| {
            let bytes = seen.manifests.get(name).copied().unwrap_or_default();
            Garbage::new(name.object_name(), bytes, "the snapshot was deleted")
        })
        .collect();
    out.push(Garbage::new(
        deletion_name(place),
        0,
        "the snapshot was deleted",
    ));
    out
}
