//! The protocol of `format-spec/spec/protocol.md`, checked in every state that it can reach: writers, collections, deletions, undeletions, readers and rewritings on one store.
//!
//! Each test takes a few of them, just enough for the races that it is named after, and lets every step of one come between any two steps of the others. Then each rule of the
//! protocol is taken away in turn, and it is shown that something is lost without it: a model that cannot fail proves nothing.
//!
//! **What is modelled.** A step is one call to the store; the steps bear the names of the code's functions. What an actor has read it keeps, and acts on it however much later.
//!
//! - *Stalls*: an actor whose turn does not come, for as long as it takes. A session can be taken for one that stands still at every look, also when it has just moved.
//! - *Crashes*: an actor whose turn never comes again. What must always hold is checked in every state, so also in that; and from every state it is tried out that nothing useless
//!   is left if all stop there and collections run alone.
//! - *Replies*: the commit's can be lost, or it is applied late; other puts are applied twice, the second time at any later time or never. Each test says how many of them.
//! - *Time*: the grace time of a deletion is over at any time after it. The only thing that is taken from a clock: a record of a collection stays until no put of the packs that it
//!   condemns can be on its way any more; the protocol says a day.
//!
//! **What is not.** Index segments (hints), catalogues and `leave` records (hints as well, they bind nobody); packs that are taken apart; the end of tombstones; lists that see half
//! of what happens meanwhile (a list is one step, as the protocol asks of the store only that it sees what was there before it began and stays); bytes. Of each kind of actor there
//! are one or two, of packs five: a counter-example that needs more is not found.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and the numbers of states are for who reads its output"
)]

mod collector;
mod model;
mod people;
mod rewriter;
mod rules;
mod set;
mod store;
mod writer;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use model::{COMMITTED, GARBAGE, LISTED, OWN, Protocol, READS, TOMBSTONES};
use rules::Broken;
use set::Set;
use store::{REWRITERS, UNDELETION};
use writer::Finds;

/// Every state that can be reached is as it must be.
fn holds(protocol: Protocol) {
    let start = Instant::now();
    let checker = protocol.checker().spawn_bfs().join();
    println!(
        "{} states, at most {} steps, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        start.elapsed().as_secs_f32()
    );
    let found = checker.discoveries().into_iter().next();
    if let Some((property, path)) = found {
        let store = path.last_state().store.clone();
        let cleaned = checker.model().cleaned(&store);
        let steps = path.into_actions();
        panic!("not so: {property}\nafter {steps:#?}\nthe store: {store:?}\ncleaned: {cleaned:?}");
    }
}

/// Without a rule it is not so.
fn fails_without(rule: Broken, property: &'static str, protocol: Protocol) {
    let broken = Protocol {
        broken: Some(rule),
        ..protocol
    };
    let wanted = HasDiscoveries::AllOf([property].into_iter().collect());
    let checker = broken.checker().finish_when(wanted).spawn_bfs().join();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("without {rule:?} it holds all the same: {property}"));
    println!("{rule:?}: not so after {} steps", path.into_actions().len());
}

/// An import on a base that is deleted and collected meanwhile.
fn import_on_base() -> Protocol {
    Protocol {
        writers: [Some(Finds::Base), None],
        deletions: 1,
        runs: [2, 1],
        revocable: Set::of(&[0]),
        renews: true,
        ..Protocol::default()
    }
}

/// An import that finds its chunks by its cache, in a pack that nobody needs any more.
fn import_by_cache() -> Protocol {
    Protocol {
        writers: [Some(Finds::Cached), None],
        deleted_at_start: true,
        late: 1,
        deletions: 0,
        ..import_on_base()
    }
}

/// An import that finds its chunks in a pack that another has put, which may never commit.
fn import_of_what_another_left() -> Protocol {
    Protocol {
        writers: [Some(Finds::Cached), Some(Finds::LeftByOther)],
        runs: [2, 0],
        revocable: Set::of(&[0, 1]),
        late: 1,
        ..Protocol::default()
    }
}

/// An import that finds its chunks by its cache; and a put of that pack, from long ago, is applied once more.
fn import_by_cache_of_what_comes_again() -> Protocol {
    Protocol {
        old_puts_twice: true,
        late: 0,
        revocable: Set::EMPTY,
        ..import_by_cache()
    }
}

fn import_that_requires_its_base() -> Protocol {
    Protocol {
        requires: true,
        ..import_on_base()
    }
}

/// A reader, a deletion, two collectors.
fn reading() -> Protocol {
    Protocol {
        reader: true,
        deletions: 1,
        runs: [2, 2],
        ..Protocol::default()
    }
}

/// Deleted, condemned, brought back, and deleted again while it is read.
fn undeletion_beside_a_reader() -> Protocol {
    Protocol {
        reader: true,
        deletions: 2,
        late: 0,
        full: false,
        ..undeletion()
    }
}

/// Deleted, brought back, and deleted again, while two collectors are at work, whose records can be full.
fn undeletion() -> Protocol {
    Protocol {
        undeletes: true,
        deletions: 2,
        runs: [2, 1],
        revocable: Set::of(&[UNDELETION]),
        renews: true,
        late: 1,
        full: true,
        ..Protocol::default()
    }
}

fn undeletion_of_a_base() -> Protocol {
    Protocol {
        writers: [Some(Finds::Base), None],
        deletions: 1,
        runs: [2, 0],
        revocable: Set::of(&[0, UNDELETION]),
        late: 0,
        full: false,
        ..undeletion()
    }
}

fn undeletion_of_what_is_required() -> Protocol {
    Protocol {
        requires: true,
        deletions: 2,
        ..undeletion_of_a_base()
    }
}

fn pinning() -> Protocol {
    Protocol {
        pins: true,
        undeletes: true,
        deletions: 2,
        runs: [2, 1],
        ..Protocol::default()
    }
}

/// A rewriting that can be given up wrongly at any time.
fn rewriting() -> Protocol {
    Protocol {
        rewriters: 1,
        runs: [2, 1],
        revocable: Set::of(&[REWRITERS]),
        renews: true,
        late: 1,
        ..Protocol::default()
    }
}

/// A rewriting; and the manifest of another comes, whose packs were freed long ago.
fn rewriting_beside_a_stale_one() -> Protocol {
    Protocol {
        stale_rewriting: true,
        late: 0,
        runs: [1, 1],
        ..rewriting()
    }
}

fn import_beside_a_rewriting() -> Protocol {
    Protocol {
        writers: [Some(Finds::Base), None],
        runs: [2, 0],
        ..rewriting()
    }
}

fn import_beside_a_stale_rewriting() -> Protocol {
    Protocol {
        stale_rewriting: true,
        late: 0,
        ..import_beside_a_rewriting()
    }
}

#[test]
fn an_import_and_the_deletion_of_its_base_lose_nothing() {
    holds(import_on_base());
}

#[test]
fn an_import_by_a_stale_cache_loses_nothing_whatever_reply_is_lost() {
    holds(import_by_cache());
}

#[test]
fn a_pack_that_comes_again_is_no_trap() {
    holds(import_by_cache_of_what_comes_again());
}

#[test]
fn two_imports_and_a_deletion_lose_nothing() {
    holds(Protocol {
        writers: [Some(Finds::Base), Some(Finds::Cached)],
        runs: [2, 0],
        revocable: Set::of(&[0, 1]),
        ..import_on_base()
    });
}

#[test]
fn an_import_that_refers_to_what_another_has_put_that_never_commits_loses_nothing() {
    holds(import_of_what_another_left());
}

#[test]
fn what_is_required_stays() {
    holds(import_that_requires_its_base());
}

#[test]
fn a_reader_finishes_whatever_is_deleted() {
    holds(reading());
}

#[test]
fn an_undeletion_counts_or_says_that_it_failed() {
    holds(undeletion());
}

#[test]
fn an_undeletion_and_an_import_lose_nothing() {
    holds(undeletion_of_a_base());
}

#[test]
fn an_undeletion_and_an_import_that_requires_the_snapshot_lose_nothing() {
    holds(undeletion_of_what_is_required());
}

#[test]
fn a_reader_finishes_beside_an_undeletion() {
    holds(undeletion_beside_a_reader());
}

#[test]
fn a_pin_that_was_acknowledged_holds() {
    holds(pinning());
}

#[test]
fn a_rewriting_that_is_given_up_wrongly_loses_nothing() {
    holds(rewriting());
}

#[test]
fn a_rewriting_that_is_not_given_up_leaves_packs_that_can_be_referred_to() {
    holds(Protocol {
        revocable: Set::EMPTY,
        ..rewriting()
    });
}

#[test]
fn a_rewriting_of_what_is_deleted_leaves_no_garbage() {
    holds(Protocol {
        deletions: 1,
        late: 0,
        ..rewriting()
    });
}

#[test]
fn two_rewritings_at_once_lose_nothing() {
    holds(Protocol {
        rewriters: 2,
        runs: [2, 0],
        revocable: Set::of(&[REWRITERS, REWRITERS + 1]),
        late: 0,
        ..rewriting()
    });
}

#[test]
fn a_manifest_whose_packs_are_gone_is_no_trap() {
    holds(rewriting_beside_a_stale_one());
    holds(import_beside_a_stale_rewriting());
}

#[test]
fn a_reader_finishes_beside_a_rewriting() {
    holds(Protocol {
        reader: true,
        late: 0,
        ..rewriting()
    });
}

#[test]
fn an_import_beside_a_rewriting_loses_nothing() {
    holds(import_beside_a_rewriting());
}

/// Minutes, and gigabytes of memory for the last two.
mod larger {
    use super::*;

    #[test]
    #[ignore = "by hand: half a minute"]
    fn an_import_with_a_late_reply_and_the_deletion_of_its_base_lose_nothing() {
        holds(Protocol {
            late: 1,
            ..import_on_base()
        });
    }

    #[test]
    #[ignore = "by hand: two minutes"]
    fn a_pack_that_comes_again_is_no_trap_for_two_collectors_that_run_twice() {
        holds(Protocol {
            runs: [2, 2],
            revocable: Set::of(&[0]),
            ..import_by_cache_of_what_comes_again()
        });
    }

    #[test]
    #[ignore = "by hand: a minute"]
    fn an_import_that_refers_to_what_another_has_put_loses_nothing_to_two_collectors() {
        holds(Protocol {
            runs: [2, 1],
            late: 0,
            ..import_of_what_another_left()
        });
    }

    #[test]
    #[ignore = "by hand: half a minute"]
    fn two_rewritings_with_a_late_reply_lose_nothing() {
        holds(Protocol {
            rewriters: 2,
            runs: [2, 0],
            revocable: Set::of(&[REWRITERS, REWRITERS + 1]),
            ..rewriting()
        });
    }

    #[test]
    #[ignore = "by hand: five minutes"]
    fn a_reader_finishes_beside_a_rewriting_of_what_comes_again() {
        holds(Protocol {
            reader: true,
            old_puts_twice: true,
            ..rewriting()
        });
    }

    #[test]
    #[ignore = "by hand: five minutes"]
    fn an_import_beside_a_rewriting_of_what_comes_again_loses_nothing() {
        holds(Protocol {
            old_puts_twice: true,
            late: 0,
            runs: [2, 1],
            ..import_beside_a_rewriting()
        });
    }
}

/// Each rule is needed.
mod without_the_rule {
    use super::*;

    #[test]
    fn a_writer_that_refers_to_condemned_packs_loses_its_snapshot() {
        fails_without(Broken::WriterIgnoresCondemned, COMMITTED, import_by_cache());
    }

    #[test]
    fn a_writer_that_refers_to_what_was_left_and_condemned_loses_its_snapshot() {
        let protocol = import_of_what_another_left();
        fails_without(Broken::WriterIgnoresCondemned, COMMITTED, protocol);
    }

    #[test]
    fn a_collector_that_skips_sessions_frees_what_was_left_and_is_referred_to() {
        let protocol = import_of_what_another_left();
        fails_without(Broken::CollectorSkipsSessions, COMMITTED, protocol);
    }

    #[test]
    fn a_session_that_ends_before_its_commit_is_settled_leaves_a_broken_snapshot() {
        fails_without(Broken::EndSessionBeforeSettle, LISTED, import_by_cache());
    }

    #[test]
    fn a_collector_that_skips_sessions_frees_what_is_referred_to() {
        fails_without(Broken::CollectorSkipsSessions, COMMITTED, import_by_cache());
    }

    #[test]
    fn a_collector_that_marks_before_it_looks_at_sessions_frees_what_is_referred_to() {
        fails_without(Broken::MarkBeforeSessions, COMMITTED, import_by_cache());
    }

    #[test]
    fn a_collector_that_lists_records_after_sessions_frees_what_is_referred_to() {
        fails_without(
            Broken::ListRecordsAfterSessions,
            COMMITTED,
            import_by_cache(),
        );
    }

    #[test]
    fn packs_of_live_sessions_would_be_condemned_for_good() {
        fails_without(Broken::CondemnLiveSessionsPacks, OWN, import_on_base());
    }

    #[test]
    fn a_record_that_goes_before_its_packs_frees_what_is_referred_to() {
        let rule = Broken::RecordForgottenWhileCondemnedPackStays;
        fails_without(rule, COMMITTED, import_by_cache());
    }

    #[test]
    fn a_record_that_goes_with_its_packs_frees_one_that_comes_again() {
        let protocol = import_by_cache_of_what_comes_again();
        fails_without(Broken::RecordForgottenAtOnce, COMMITTED, protocol);
    }

    #[test]
    fn a_revocation_without_a_tombstone_loses_the_snapshot_of_one_that_wakes() {
        fails_without(Broken::RevokeWithoutTombstone, COMMITTED, import_by_cache());
    }

    #[test]
    fn packs_that_go_before_their_snapshot_leave_a_broken_one_to_a_late_undeletion() {
        fails_without(Broken::PacksGoBeforeSnapshots, LISTED, undeletion());
    }

    #[test]
    fn an_undeletion_that_ignores_records_is_lost() {
        fails_without(Broken::UndeleteIgnoresRecords, COMMITTED, undeletion());
    }

    #[test]
    fn an_undeletion_that_trusts_its_session_record_is_lost() {
        fails_without(Broken::UndeleteTrustsItsSession, COMMITTED, undeletion());
    }

    #[test]
    fn an_undeletion_that_writes_the_record_raises_the_dead() {
        let rule = Broken::TombstoneOverwrittenByUndelete;
        fails_without(rule, TOMBSTONES, undeletion());
    }

    #[test]
    fn a_rewriting_that_looks_for_condemned_packs_too_early_loses_the_snapshot() {
        let rule = Broken::SettleManifestChecksCondemnedBeforeSeeing;
        fails_without(rule, COMMITTED, rewriting());
    }

    #[test]
    fn a_rewriting_that_does_not_look_for_its_packs_loses_the_snapshot() {
        fails_without(Broken::SettleManifestTrustsPacks, COMMITTED, rewriting());
    }

    #[test]
    fn packs_of_a_manifest_that_was_listed_too_early_would_be_condemned_for_good() {
        let protocol = Protocol {
            revocable: Set::EMPTY,
            ..rewriting()
        };
        fails_without(Broken::ManifestsOfFirstList, OWN, protocol);
    }

    #[test]
    fn a_collection_that_removes_a_broken_manifest_removes_the_good_one_that_comes_there() {
        let rule = Broken::CollectionRemovesBrokenManifests;
        fails_without(rule, COMMITTED, rewriting_beside_a_stale_one());
    }

    #[test]
    fn an_import_on_the_first_manifest_that_is_there_refers_to_what_is_gone() {
        let rule = Broken::BaseTrustsAnyManifest;
        fails_without(rule, COMMITTED, import_beside_a_stale_rewriting());
    }

    #[test]
    fn a_reader_without_a_session_is_overtaken() {
        fails_without(Broken::ReaderWithoutSession, READS, reading());
    }

    #[test]
    fn a_reader_that_names_what_condemns_its_packs_is_overtaken() {
        let protocol = undeletion_beside_a_reader();
        fails_without(Broken::ReaderNamesWhatItReads, READS, protocol);
    }

    #[test]
    fn a_collector_that_does_not_look_at_readers_after_marking_overtakes_one() {
        let protocol = undeletion_beside_a_reader();
        fails_without(Broken::ReadersAreLookedAtOnce, READS, protocol);
    }

    #[test]
    fn an_import_that_requires_what_is_given_up_loses_it() {
        let rule = Broken::RequiresGivenUp;
        fails_without(rule, COMMITTED, undeletion_of_what_is_required());
    }

    #[test]
    fn what_is_required_by_a_needed_snapshot_is_lost_if_it_is_not_needed() {
        let rule = Broken::RequiredIsNotNeeded;
        fails_without(rule, COMMITTED, import_that_requires_its_base());
    }

    #[test]
    fn pins_that_are_read_before_snapshots_do_not_hold() {
        fails_without(Broken::PinsBeforeSnapshots, COMMITTED, pinning());
    }

    #[test]
    fn a_pin_that_does_not_look_again_does_not_hold() {
        fails_without(Broken::PinWithoutSecondLook, COMMITTED, pinning());
    }

    #[test]
    fn marks_beside_tombstones_would_stay() {
        fails_without(Broken::MarkBesideTombstoneStays, GARBAGE, reading());
    }
}
