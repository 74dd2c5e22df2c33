//! Creates on stores whose answers are not to be believed.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;

use cryostore_engine::{Kind, Store};
use cryostore_tests::stores::{Fault, Watched};
use object_store::memory::InMemory;

fn store() -> (Watched, Store) {
    let watched = Watched::new(Arc::new(InMemory::new()));
    let store = Store::new(Arc::new(watched.clone()), "watched").unwrap();
    (watched, store)
}

#[test]
fn our_own_object_is_no_conflict_however_its_reply_was_lost() {
    for fault in [Fault::LoseReply, Fault::MeetItself] {
        let (watched, store) = store();
        watched.fault_at(0, fault);
        store.create("x", "ours").unwrap();
        assert_eq!(store.get("x", 9).unwrap(), "ours");
        assert_eq!(watched.count("put x"), 1, "{fault:?}");
    }
}

#[test]
fn somebody_elses_object_is_a_conflict_and_stays() {
    for fault in [
        None,
        Some(Fault::LoseReply),
        Some(Fault::Fail),
        Some(Fault::Refuse(0)),
    ] {
        for theirs in ["them", "others of another length"] {
            let (watched, store) = store();
            store.create("x", theirs).unwrap();
            if let Some(fault) = fault {
                watched.fault_at(0, fault);
            }
            let e = store.create("x", "ours").unwrap_err();
            assert_eq!(e.kind(), Kind::Conflict, "{fault:?}: {e}");
            assert_eq!(store.get("x", 99).unwrap(), theirs);
        }
    }
}

#[test]
fn a_refusal_that_stored_nothing_is_tried_again_a_few_times_and_then_told_as_no_conflict() {
    let (watched, store) = store();
    watched.fault_at(0, Fault::Refuse(1));
    store.create("x", "ours").unwrap();
    assert_eq!(watched.count("put x"), 3);
    watched.reset();
    watched.fault_at(0, Fault::Refuse(1000));
    let e = store.create("y", "ours").unwrap_err();
    assert_eq!(e.kind(), Kind::Unavailable, "{e}");
    assert_eq!(watched.count("put y"), 5);
    assert_eq!(store.len("y").unwrap(), None);
}

#[test]
fn a_store_that_is_gone_is_told_after_one_try() {
    let (watched, store) = store();
    watched.fault_at(0, Fault::Stop);
    store.create("x", "ours").unwrap_err();
    assert_eq!(watched.count("put x"), 1);
}

#[test]
fn a_single_writer_looks_before_it_puts() {
    let (watched, store) = store();
    let store = store.for_single_writer();
    store.create("x", "ours").unwrap();
    assert_eq!(watched.log(), ["head x", "put x"]);
    store.create("x", "ours").unwrap();
    assert_eq!(
        store.create("x", "other").unwrap_err().kind(),
        Kind::Conflict
    );
    assert_eq!(watched.count("put x"), 1);
}
