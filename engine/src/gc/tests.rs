use std::collections::{HashMap, HashSet};

use cryostore_format::collection::CollectionRecord;
use cryostore_format::session::{Place, SessionPrefix, SessionRecord, Work};
use cryostore_format::{CollectionId, Lineage, ManifestId, PackId, SessionId, SnapshotId};

use super::look::{Over, Seen};
use super::plan::plan;
use crate::pack::object_name;
use crate::repo::{ManifestName, collection_of};

const RECORD: CollectionId = CollectionId::from_bytes([0xc0; 16]);
const SESSION: SessionId = SessionId::from_bytes([0x5e; 16]);

fn pack(n: u8) -> PackId {
    PackId::from_bytes([n; 16])
}

fn place(n: u8) -> Place {
    Place {
        lineage: Lineage::default(),
        snapshot: SnapshotId::from_bytes([n; 16]),
    }
}

fn record(condemned: &[PackId], given_up: &[Place]) -> CollectionRecord {
    CollectionRecord {
        id: RECORD,
        created: "2026-11-21T12:00:00Z".to_owned(),
        condemned: condemned.to_vec(),
        given_up: given_up.to_vec(),
        done: Vec::new(),
        leave: Vec::new(),
    }
}

fn session(named: &[CollectionId]) -> SessionRecord {
    SessionRecord {
        id: SESSION,
        work: Work::Import,
        place: None,
        collections: named.to_vec(),
        started: String::new(),
        renewals: 0,
        owner: String::new(),
    }
}

/// Packs of 10 bytes each; the first is needed.
fn seen(packs: &[PackId]) -> Seen {
    Seen {
        packs: packs.iter().map(|id| (*id, 10)).collect(),
        needed_packs: packs.iter().take(1).copied().collect(),
        ..Seen::default()
    }
}

fn removed(seen: &Seen) -> Vec<String> {
    let mut names: Vec<_> = plan(seen, None)
        .remove
        .into_iter()
        .map(|g| g.name)
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn what_nothing_needs_is_condemned_and_not_removed_at_once() {
    let plan = plan(&seen(&[pack(1), pack(2)]), None);
    assert_eq!(plan.condemn, [pack(2)]);
    assert!(plan.remove.is_empty());
    assert_eq!(plan.kept_bytes, 10);
}

#[test]
fn a_condemned_pack_goes_when_every_session_names_the_record_and_nothing_needs_it() {
    let mut seen = seen(&[pack(1), pack(2), pack(3)]);
    seen.records.push((record(&[pack(1), pack(2)], &[]), 5));
    assert_eq!(removed(&seen), [object_name(pack(2))]);
    assert_eq!(plan(&seen, None).condemn, [pack(3)], "not twice");

    seen.sessions.live.push(session(&[RECORD]));
    assert_eq!(removed(&seen), [object_name(pack(2))]);

    seen.sessions.live.push(session(&[]));
    assert!(removed(&seen).is_empty());
    let waiting: Vec<_> = plan(&seen, None)
        .waiting
        .into_iter()
        .map(|g| g.name)
        .collect();
    assert_eq!(waiting, [object_name(pack(2))]);
}

#[test]
fn what_a_session_at_work_has_put_is_not_condemned() {
    let own = PackId::from_bytes(SessionPrefix::of(SESSION).with(&[7; 16]));
    let own_manifest = ManifestName::first(ManifestId::from_bytes(*own.as_bytes()));
    let mut seen = seen(&[pack(1), own]);
    seen.manifests.insert(own_manifest, 3);
    assert_eq!(plan(&seen, None).condemn, [own]);
    assert_eq!(removed(&seen), [own_manifest.object_name()]);
    seen.sessions.live.push(session(&[]));
    assert!(plan(&seen, None).condemn.is_empty());
    assert!(removed(&seen).is_empty());
}

#[test]
fn what_a_deleted_snapshot_refers_to_stays_until_its_record_is_gone() {
    let manifest = ManifestName::first(ManifestId::from_bytes([9; 16]));
    let mut seen = seen(&[pack(1), pack(2)]);
    seen.manifests.insert(manifest, 3);
    seen.recorded.insert(place(4));
    let over = Over {
        manifests: vec![manifest],
        packs: vec![pack(2)],
    };
    seen.over.insert(place(4), over);
    // The pack is condemned, the snapshot is not given up yet.
    seen.records.push((record(&[pack(2)], &[]), 5));
    let before = plan(&seen, None);
    assert_eq!(before.condemn_places, [place(4)]);
    assert!(before.remove.is_empty() && before.give_up.is_empty());

    seen.records.push((record(&[], &[place(4)]), 5));
    let after = plan(&seen, None);
    assert_eq!(after.give_up, [(place(4), vec![manifest])]);
    let packs: Vec<_> = after.remove.iter().map(|g| g.name.clone()).collect();
    assert!(packs.contains(&object_name(pack(2))), "{packs:?}");
}

#[test]
fn a_record_stays_while_it_binds_and_for_as_long_as_a_put_can_come_late() {
    let mut seen = seen(&[pack(1), pack(2)]);
    seen.records.push((record(&[pack(1), pack(2)], &[]), 5));
    let done = |seen: &Seen| {
        let plan = plan(seen, None);
        let removed = plan.remove.iter();
        let forgotten: Vec<_> = removed.filter_map(|g| collection_of(&g.name)).collect();
        (plan.done, forgotten)
    };
    assert_eq!(
        done(&seen),
        (vec![], vec![]),
        "a pack that it condemned is needed again"
    );
    seen.records[0].0.condemned = vec![pack(2)];
    assert_eq!(done(&seen), (vec![], vec![]), "its pack goes now");
    seen.packs.remove(&pack(2));
    assert_eq!(done(&seen), (vec![RECORD], vec![]), "its pack is gone");

    let second = CollectionId::from_bytes([0xc1; 16]);
    let mut calls_it_done = record(&[], &[]);
    (calls_it_done.id, calls_it_done.done) = (second, vec![RECORD]);
    seen.records.push((calls_it_done, 5));
    assert_eq!(done(&seen), (vec![], vec![]), "not for long");
    seen.old_records.insert(second);
    assert_eq!(done(&seen), (vec![], vec![RECORD]));
    seen.packs.insert(pack(2), 10);
    assert_eq!(done(&seen), (vec![], vec![]), "it came again");

    seen.packs.remove(&pack(2));
    seen.records[0].0.given_up = vec![place(4)];
    seen.recorded = HashSet::from([place(4)]);
    assert_eq!(
        done(&seen),
        (vec![], vec![]),
        "a snapshot that it gave up is there"
    );
    seen.records.remove(0);
    assert_eq!(done(&seen), (vec![], vec![second]));
}

#[test]
fn segments_go_when_none_of_their_packs_is_there() {
    let mut seen = seen(&[pack(1)]);
    let name = |n: u8| format!("index/{}", cryostore_format::SegmentId::from_bytes([n; 16]));
    seen.segments = HashMap::from([
        (name(1), (1, Some(vec![pack(1), pack(2)]))),
        (name(2), (1, Some(vec![pack(2)]))),
        (name(3), (1, None)),
    ]);
    assert_eq!(removed(&seen), [name(2), name(3)]);
}
