//! Damage that is found in turn, kept away from, healed where there is another copy, and named where there is none.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::time::Duration;

use cryostore_engine::check::repair::{Extent, RepairOptions, RepairReport, repair};
use cryostore_engine::check::{self, CheckOptions, CheckReport, Share, Turn};
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::gc::{self, GcOptions};
use cryostore_engine::{ImportOptions, Silent, Source, import};
use cryostore_tests::archives::{checkpoint_of, noise, real_tar};
use cryostore_tests::{Place, bytes_of};

const PAGE: usize = 4096;

fn put(place: &Place, tar: &[u8]) -> SnapshotRecord {
    let source = Source::Stream(Box::new(Cursor::new(tar.to_vec())));
    let done = import(&place.open(), source, &ImportOptions::default(), &Silent);
    done.unwrap().snapshot
}

fn packs(place: &Place) -> Vec<(String, u64)> {
    place.objects("packs")
}

fn flip(place: &Place, name: &str, at: usize) {
    let path = place.store_dir().join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn mend(place: &Place) -> RepairReport {
    repair(&place.open(), &RepairOptions::default(), &Silent).unwrap()
}

fn look(place: &Place) -> CheckReport {
    check::check(&place.open(), &CheckOptions { read_data: true }, &Silent).unwrap()
}

fn healed(report: &RepairReport) -> Vec<SnapshotId> {
    report.healed.iter().map(|healed| healed.id).collect()
}

fn lost(report: &RepairReport) -> Vec<SnapshotId> {
    report.lost.iter().map(|lost| lost.id).collect()
}

fn assert_reads(place: &Place, record: &SnapshotRecord, tar: &[u8]) {
    assert!(bytes_of(&place.open(), record, &Silent).unwrap() == tar);
}

/// What is left when the damaged packs are not needed any more.
fn assert_clean_after_gc(place: &Place) {
    gc::collect(&place.open(), &GcOptions::default(), &Silent).unwrap();
    assert_eq!(look(place).problems, []);
    assert_eq!(look(place).foreign, Vec::<String>::new());
    // The records of packs that this run removed go with the next.
    gc::collect(&place.open(), &GcOptions::default(), &Silent).unwrap();
    assert_eq!(place.objects("gc/damaged"), []);
}

/// Places in a pack of which frames are: far from both ends.
fn within(len: u64) -> usize {
    len as usize / 3
}

#[test]
fn a_damaged_frame_is_healed_after_the_same_archive_was_imported_again() {
    for encrypted in [true, false] {
        let place = match encrypted {
            true => Place::new(),
            false => Place::in_clear(),
        };
        let tar = checkpoint_of("work", &noise(300 * PAGE, 1), 4096);
        let first = put(&place, &tar);
        let (name, len) = packs(&place).into_iter().max_by_key(|p| p.1).unwrap();
        flip(&place, &name, within(len));
        let report = mend(&place);
        assert_eq!((lost(&report), healed(&report)), (vec![first.id], vec![]));
        let [damaged] = &report.damaged[..] else {
            panic!("{:?}", report.damaged)
        };
        assert!(matches!(&damaged.what, Some(Extent::Frames(one)) if one.len() == 1));
        assert_eq!(damaged.snapshots, [first.id]);
        assert_eq!(place.objects("gc/damaged").len(), 1);
        // Said once, it is the same the next time.
        assert_eq!(lost(&mend(&place)), [first.id]);

        let second = put(&place, &tar);
        let needed = place.open().manifest(&second).unwrap().packs;
        assert!(!needed.contains(&damaged.id), "the pack is left alone");
        assert_reads(&place, &second, &tar);
        let dry = RepairOptions {
            dry_run: true,
            ..RepairOptions::default()
        };
        let before = place.objects("");
        let dry = repair(&place.open(), &dry, &Silent).unwrap();
        assert_eq!(place.objects(""), before, "a dry run changes nothing");
        let report = mend(&place);
        assert_eq!((healed(&dry), lost(&dry)), (healed(&report), lost(&report)));
        assert_eq!((healed(&report), lost(&report)), (vec![first.id], vec![]));
        assert_eq!(report.healed[0].from, Some(second.id));
        assert_reads(&place, &first, &tar);
        assert_clean_after_gc(&place);
        assert_reads(&place, &first, &tar);
    }
}

#[test]
fn chunks_that_another_archive_brings_heal_a_snapshot_one_by_one() {
    let place = Place::new();
    let pages = noise(200 * PAGE, 1);
    let tar = checkpoint_of("work", &pages, 4096);
    let first = put(&place, &tar);
    let (name, len) = packs(&place).into_iter().max_by_key(|p| p.1).unwrap();
    flip(&place, &name, within(len));
    assert_eq!(lost(&mend(&place)), [first.id]);
    // Another container that has the same pages, and others, in another order.
    let other = [
        &pages[100 * PAGE..],
        &noise(7 * PAGE, 2)[..],
        &pages[..100 * PAGE],
    ]
    .concat();
    let other = checkpoint_of("other", &other, 4096);
    let second = put(&place, &other);
    let report = mend(&place);
    assert_eq!((healed(&report), lost(&report)), (vec![first.id], vec![]));
    assert_eq!(report.healed[0].from, None);
    assert_reads(&place, &first, &tar);
    assert_reads(&place, &second, &other);
    // Healed, it still needs what is whole of the damaged pack; of that nothing is lost.
    let report = mend(&place);
    assert_eq!((healed(&report), lost(&report)), (vec![], vec![]));
    place.open().delete(&[second.id], "test").unwrap();
    gc::collect(&place.open(), &GcOptions::default(), &Silent).unwrap();
    assert_reads(&place, &first, &tar);
}

#[test]
fn of_real_checkpoints_whose_packs_are_cut_or_removed_each_lost_one_is_named_and_healed_by_a_second_import()
 {
    let tars = ["podman-busybox-1", "podman-busybox-2"].map(real_tar);
    for damage in ["cut", "removed"] {
        let place = Place::new();
        let before: Vec<_> = tars.iter().map(|tar| put(&place, tar)).collect();
        let (name, len) = packs(&place).into_iter().max_by_key(|p| p.1).unwrap();
        let path = place.store_dir().join(&name);
        match damage {
            "cut" => fs::write(&path, &fs::read(&path).unwrap()[..len as usize / 2]).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        let expected: BTreeSet<_> = look(&place).lost_snapshots.into_iter().collect();
        assert!(!expected.is_empty(), "{damage}");
        let report = mend(&place);
        let named: BTreeSet<_> = lost(&report).into_iter().collect();
        assert_eq!(named, expected, "{damage}");
        assert!(report.lost.iter().all(|lost| !lost.because.is_empty()));
        for tar in &tars {
            put(&place, tar);
        }
        let report = mend(&place);
        assert_eq!(lost(&report), [], "{damage}");
        let named: BTreeSet<_> = healed(&report).into_iter().collect();
        assert_eq!(named, expected, "{damage}");
        for (record, tar) in before.iter().zip(&tars) {
            assert_reads(&place, record, tar);
        }
        assert_clean_after_gc(&place);
        for (record, tar) in before.iter().zip(&tars) {
            assert_reads(&place, record, tar);
        }
    }
}

#[test]
fn a_pack_that_is_put_back_from_a_copy_is_referred_to_again() {
    let place = Place::new();
    let tar = checkpoint_of("work", &noise(100 * PAGE, 1), 4096);
    let first = put(&place, &tar);
    let (name, len) = packs(&place).into_iter().max_by_key(|p| p.1).unwrap();
    flip(&place, &name, within(len));
    assert_eq!(lost(&mend(&place)), [first.id]);
    flip(&place, &name, within(len));
    let report = mend(&place);
    assert_eq!((report.lifted.len(), lost(&report)), (1, vec![]));
    assert_eq!(place.objects("gc/damaged"), []);
    let second = put(&place, &tar);
    assert_eq!(second.cost.classes.new.bytes, 0);
}

#[test]
fn index_segments_that_are_damaged_or_missing_are_made_anew() {
    let place = Place::new();
    for seed in 1..4 {
        put(
            &place,
            &checkpoint_of("work", &noise(50 * PAGE, seed), 4096),
        );
    }
    let segments = place.objects("index");
    assert!(segments.len() >= 2);
    flip(&place, &segments[0].0, segments[0].1 as usize / 2);
    fs::remove_file(place.store_dir().join(&segments[1].0)).unwrap();
    let report = mend(&place);
    assert_eq!(report.segments_removed, [segments[0].0.clone()]);
    assert_eq!(report.packs_listed, 2);
    assert_eq!(look(&place).problems, []);
    let again = mend(&place);
    assert_eq!((again.packs_listed, again.segments_removed.len()), (0, 0));
    // A node that knows nothing finds all of it.
    let rebuilt = cryostore_engine::rebuild_index(&place.open(), &Silent).unwrap();
    assert_eq!(rebuilt.packs, packs(&place).len() as u64);
}

#[test]
fn a_damaged_record_of_a_collection_is_removed_at_the_users_word_only() {
    let place = Place::new();
    put(&place, &checkpoint_of("work", &noise(50 * PAGE, 1), 4096));
    let name = "gc/0123456789abcdef0123456789abcdef".to_owned();
    fs::create_dir_all(place.store_dir().join("gc")).unwrap();
    fs::write(place.store_dir().join(&name), "damaged").unwrap();
    let report = mend(&place);
    assert_eq!(report.collections_left, std::slice::from_ref(&name));
    assert!(place.objects("gc").iter().any(|(found, _)| *found == name));
    let options = RepairOptions {
        no_collection_at_work: true,
        ..RepairOptions::default()
    };
    let report = repair(&place.open(), &options, &Silent).unwrap();
    assert_eq!(report.collections_removed, std::slice::from_ref(&name));
    assert!(!place.objects("gc").iter().any(|(found, _)| *found == name));
}

#[test]
fn a_check_in_turn_reads_each_pack_once_until_all_are_verified_and_then_the_oldest() {
    let place = Place::new();
    for seed in 1..7 {
        put(
            &place,
            &checkpoint_of(&format!("work-{seed}"), &noise(60 * PAGE, seed), 4096),
        );
    }
    let all = packs(&place);
    let total: u64 = all.iter().map(|(_, len)| len).sum();
    // The time is over at once: one pack in each run.
    let turn = Turn {
        share: None,
        max_duration: Some(Duration::ZERO),
    };
    let run = |turn: &Turn| check::check_in_turn(&place.open(), turn, &Silent).unwrap();
    let mut read = 0;
    for n in 1..=all.len() as u64 {
        let report = run(&turn);
        assert_eq!(report.problems, []);
        let coverage = report.coverage.unwrap();
        assert_eq!((coverage.verified_now, coverage.verified), (1, n));
        assert_eq!(coverage.left, all.len() as u64 - 1);
        assert!(coverage.oldest.is_some());
        read += report.bytes_read;
    }
    assert_eq!(read, total, "each byte was read once");
    // Half of the bytes, then all.
    let half = Turn {
        share: Some(Share::OfTenThousand(5000)),
        max_duration: None,
    };
    let report = run(&half);
    assert!(report.bytes_read <= total / 2 && report.bytes_read > 0);
    assert_eq!(report.coverage.unwrap().left, 0);
    let report = run(&Turn::default());
    assert_eq!(report.bytes_read, total);
    assert_eq!(report.coverage.unwrap().verified_now, all.len() as u64);
    // What is damaged is found when its turn comes, and read in each run from then on.
    flip(&place, &all[0].0, within(all[0].1));
    let found = (0..all.len()).find(|_| !run(&turn).problems.is_empty());
    assert!(found.is_some());
    for _ in 0..2 {
        assert_eq!(run(&turn).problems.len(), 1);
    }
    assert_eq!(run(&turn).coverage.unwrap().verified, all.len() as u64 - 1);
}
