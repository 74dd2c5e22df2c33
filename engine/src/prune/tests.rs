use cryostore_format::Digest;
use cryostore_format::snapshot::{
    Archive, ArchiveKind, Cost, Identity, ManifestRef, Origin, Producer,
};
use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3600;

fn now() -> Timestamp {
    "2026-11-21T12:30:00Z".parse().unwrap()
}

/// Snapshot `n` of a container, so many hours old.
fn record(n: u8, container: &str, hours: i64) -> SnapshotRecord {
    let created = now()
        .checked_sub(SignedDuration::from_secs(hours * HOUR))
        .unwrap();
    SnapshotRecord {
        id: SnapshotId::from_bytes([n; 16]),
        lineage: Default::default(),
        session: Default::default(),
        created: created.to_string(),
        dumped: None,
        manifest: ManifestRef {
            id: Default::default(),
            bytes: 0,
            digest: Digest::of(b""),
        },
        archive: Archive {
            kind: ArchiveKind::Tar,
            bytes: 0,
            digest: None,
            outer: None,
        },
        identity: Identity {
            container: container.to_owned(),
            ..Identity::default()
        },
        producer: Producer::default(),
        cost: Cost::default(),
        base: None,
        requires: None,
        labels: Vec::new(),
        origin: Origin::default(),
        group: None,
        attachments: Vec::new(),
        warnings: Vec::new(),
        original: None,
    }
}

/// One an hour, newest first.
fn hourly(count: u8) -> Vec<SnapshotRecord> {
    (0..count).map(|n| record(n, "c", i64::from(n))).collect()
}

fn decided(snapshots: &[SnapshotRecord], rules: &KeepRules, pins: &[u8]) -> Vec<Verdict> {
    let pins = pins
        .iter()
        .map(|n| SnapshotId::from_bytes([*n; 16]))
        .collect();
    decide(
        snapshots,
        &Filter::default(),
        rules,
        &pins,
        now(),
        &TimeZone::UTC,
    )
}

/// Which stay, by the first byte of their ids.
fn kept(snapshots: &[SnapshotRecord], rules: &KeepRules, pins: &[u8]) -> Vec<u8> {
    let verdicts = decided(snapshots, rules, pins);
    assert!(verdicts.iter().all(|verdict| !verdict.reasons.is_empty()));
    let kept = verdicts.iter().filter(|verdict| verdict.keep);
    kept.map(|verdict| verdict.id.as_bytes()[0]).collect()
}

#[test]
fn each_rule_keeps_what_its_name_says() {
    let rules = KeepRules::default;
    let table: [(KeepRules, &[u8]); 8] = [
        (
            KeepRules {
                last: Some(2),
                ..rules()
            },
            &[0, 1],
        ),
        (
            KeepRules {
                hourly: Some(3),
                ..rules()
            },
            &[0, 1, 2],
        ),
        // 12:30 today, 23:30 yesterday, 23:30 the day before.
        (
            KeepRules {
                daily: Some(3),
                ..rules()
            },
            &[0, 13, 37],
        ),
        // The 21st is a Saturday: all of it is one week.
        (
            KeepRules {
                weekly: Some(2),
                ..rules()
            },
            &[0],
        ),
        (
            KeepRules {
                monthly: Some(2),
                ..rules()
            },
            &[0],
        ),
        (
            KeepRules {
                within: Some(SignedDuration::from_hours(2)),
                ..rules()
            },
            &[0, 1, 2],
        ),
        (
            KeepRules {
                max_age: Some(SignedDuration::from_hours(1)),
                ..rules()
            },
            &[0, 1],
        ),
        (
            KeepRules {
                max_checkpoints: Some(2),
                ..rules()
            },
            &[0, 1],
        ),
    ];
    for (rules, expected) in table {
        assert_eq!(kept(&hourly(40), &rules, &[]), expected, "{rules:?}");
    }
}

#[test]
fn rules_add_up_and_bounds_cut() {
    let rules = KeepRules {
        last: Some(1),
        daily: Some(3),
        max_age: Some(SignedDuration::from_hours(20)),
        ..KeepRules::default()
    };
    assert_eq!(kept(&hourly(40), &rules, &[]), [0, 13]);
}

#[test]
fn containers_are_counted_apart() {
    let all = [
        record(1, "a", 0),
        record(2, "b", 1),
        record(3, "a", 2),
        record(4, "b", 3),
    ];
    let rules = KeepRules {
        last: Some(1),
        ..KeepRules::default()
    };
    assert_eq!(kept(&all, &rules, &[]), [1, 2]);
    let filter = Filter {
        container: Some("b".to_owned()),
        ..Filter::default()
    };
    let verdicts = decide(
        &all,
        &filter,
        &rules,
        &HashSet::new(),
        now(),
        &TimeZone::UTC,
    );
    let ids: Vec<_> = verdicts
        .iter()
        .map(|v| (v.id.as_bytes()[0], v.keep))
        .collect();
    assert_eq!(ids, [(2, true), (4, false)]);
}

#[test]
fn pins_labels_and_what_others_need_stay_whatever_the_rules_say() {
    let mut all = hourly(6);
    all[5].labels = vec!["keep=why".to_owned()];
    // The newest needs the third, which needs the fourth.
    all[0].requires = Some(all[2].id);
    all[2].requires = Some(all[3].id);
    let rules = KeepRules {
        max_checkpoints: Some(1),
        labels: vec!["keep".to_owned()],
        ..KeepRules::default()
    };
    assert_eq!(kept(&all, &rules, &[4]), [0, 2, 3, 4, 5]);
    let rules = KeepRules {
        last: Some(1),
        ..rules
    };
    assert_eq!(kept(&all, &rules, &[]), [0, 2, 3, 5]);
}

proptest! {
    #[test]
    fn no_rule_ever_lets_a_pin_go_or_leaves_a_snapshot_without_what_it_needs(
        ages in proptest::collection::vec(0_i64..1000, 1..30),
        needs in proptest::collection::vec(proptest::option::of(0_usize..30), 30),
        (last, daily, most) in (proptest::option::of(0_u32..5), proptest::option::of(0_u32..5), proptest::option::of(0_u32..5)),
        pin in 0_u8..30,
    ) {
        let mut all: Vec<_> = (0..).zip(&ages).map(|(n, age)| record(n, "c", *age)).collect();
        all.sort_by(|a, b| b.created.cmp(&a.created));
        for n in 0..all.len() {
            // What is needed is older, as it was taken before.
            all[n].requires = needs[n].filter(|m| *m > n && *m < all.len()).map(|m| all[m].id);
        }
        let rules = KeepRules { last, daily, max_checkpoints: most, ..KeepRules::default() };
        let verdicts = decided(&all, &rules, &[pin]);
        prop_assert_eq!(verdicts.len(), all.len());
        let kept: HashSet<_> = verdicts.iter().filter(|v| v.keep).map(|v| v.id).collect();
        for record in all.iter().filter(|record| kept.contains(&record.id)) {
            prop_assert!(record.requires.is_none_or(|id| kept.contains(&id)));
        }
        let pinned = SnapshotId::from_bytes([pin; 16]);
        prop_assert!(usize::from(pin) >= all.len() || kept.contains(&pinned));
    }
}
