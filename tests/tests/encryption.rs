//! Encrypted repositories as a whole: what the store learns, who is let in, what a hostile store can do and how it is noticed.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cryostore_engine::check::{CheckOptions, check};
use cryostore_engine::format::KeyId;
use cryostore_engine::format::encryption::{Argon2Cost, Secret};
use cryostore_engine::format::repository::RepositoryRecord;
use cryostore_engine::gc::{GcOptions, collect};
use cryostore_engine::{
    Error, ImportOptions, KeyFile, Kind, Monitor, NewKey, Repository, Silent, Store, SystemEnv,
    Unlock, rebuild_index,
};
use cryostore_tests::archives::{checkpoint_of, noise};
use cryostore_tests::{Place, bytes_of, open_at, test_key};

/// Words that are in the memory of every checkpoint here.
const WORDS: &[u8] = b"the password of the database is swordfish";

fn archive(seed: u64) -> Vec<u8> {
    let mut pages = noise(30 * 4096, seed);
    pages[5000..5000 + WORDS.len()].copy_from_slice(WORDS);
    checkpoint_of("container-name", &pages, 4096)
}

/// An encrypted repository with two checkpoints of one container.
fn two() -> (Place, Vec<Vec<u8>>) {
    let place = Place::new();
    let tars = vec![archive(1), archive(2)];
    for tar in &tars {
        place.import_bytes("a.tar", tar).unwrap();
    }
    (place, tars)
}

fn open_with(place: &Place, unlocks: Vec<Unlock>) -> Result<Repository, Error> {
    let store = Store::open(place.store_dir().to_str().unwrap(), false)?;
    Repository::open_with(store, Arc::new(SystemEnv::new()), None, |_| Ok(unlocks))
}

fn passphrase(words: &str) -> Unlock {
    Unlock::Passphrase(words.as_bytes().to_vec().into())
}

fn other_file() -> Unlock {
    Unlock::File(KeyFile {
        repository: Default::default(),
        secret: Secret::from_bytes([0x77; 32]),
    })
}

fn cheap(unlock: Unlock, label: &str) -> NewKey {
    NewKey {
        cost: Argon2Cost {
            memory_kib: 64,
            passes: 1,
            lanes: 1,
        },
        ..NewKey::new(unlock, label)
    }
}

fn refused(result: Result<Repository, Error>, kind: Kind, words: &str) {
    let e = result.expect_err("it must be refused");
    assert_eq!(e.kind(), kind, "{e}");
    assert!(e.to_string().contains(words), "{e}");
    assert!(e.advice().is_some(), "{e}");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(files(&path));
        } else {
            out.push(path);
        }
    }
    out.sort();
    out
}

fn objects(place: &Place, prefix: &str) -> Vec<PathBuf> {
    files(&place.store_dir().join(prefix))
}

/// What an export of the newest checkpoint says.
fn export_newest(repo: &Repository) -> Result<Vec<u8>, Error> {
    let list = repo.snapshots()?;
    if let Some((_, e)) = list.damaged.into_iter().next() {
        return Err(e);
    }
    bytes_of(repo, &list.snapshots[0], &Silent)
}

fn copy_dir(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
}

#[test]
fn the_store_holds_no_words_no_names_and_no_magic_of_what_is_inside() {
    let (place, _) = two();
    let plain = Place::in_clear();
    plain.import_bytes("a.tar", &archive(1)).unwrap();
    let holds = |place: &Place, words: &[u8]| {
        let has = |path: &PathBuf| {
            let bytes = fs::read(path).unwrap();
            bytes.windows(words.len()).any(|found| found == words)
        };
        objects(place, "").iter().any(has)
    };
    for words in [WORDS, b"CRYODIR1"] {
        assert!(holds(&plain, words), "the test can find it");
    }
    for words in [
        WORDS,
        b"container-name",
        b"pages-1.img",
        b"\"manifest\"",
        b"CRYODIR1",
        b"\x28\xb5\x2f\xfd",
    ] {
        let text = String::from_utf8_lossy(words);
        assert!(!holds(&place, words), "{text}");
    }
}

#[test]
fn without_a_key_with_a_wrong_one_and_with_a_damaged_key_the_errors_differ() {
    let (place, _) = two();
    refused(
        open_with(&place, Vec::new()),
        Kind::Denied,
        "no key is at hand",
    );
    for wrong in [other_file(), passphrase("guess")] {
        refused(
            open_with(&place, vec![wrong]),
            Kind::Denied,
            "opens none of the keys",
        );
    }
    let [key] = &objects(&place, "keys")[..] else {
        panic!("one key")
    };
    let bytes = fs::read(key).unwrap();
    let mut bad = bytes.clone();
    bad[200] ^= 1;
    fs::write(key, bad).unwrap();
    let right = || vec![test_key(Default::default())];
    refused(open_with(&place, right()), Kind::Corrupt, "damaged");
    fs::remove_file(key).unwrap();
    refused(
        open_with(&place, right()),
        Kind::Corrupt,
        "its keys are gone",
    );
    fs::write(key, bytes).unwrap();
    open_with(&place, right()).unwrap();
}

#[test]
fn every_object_that_takes_the_place_of_another_is_refused_as_moved() {
    let (place, tars) = two();
    for prefix in ["packs", "manifests", "snapshots"] {
        let all = objects(&place, prefix);
        assert!(all.len() >= 2, "{prefix}");
        let originals: Vec<_> = all.iter().map(|path| fs::read(path).unwrap()).collect();
        fs::write(&all[0], &originals[1]).unwrap();
        fs::write(&all[1], &originals[0]).unwrap();
        let report = check(&place.open(), &CheckOptions { read_data: true }, &Silent).unwrap();
        for path in &all[..2] {
            let name = path.file_name().unwrap().to_str().unwrap();
            let problem = report.problems.iter().find(|p| p.object.ends_with(name));
            let text = &problem
                .unwrap_or_else(|| panic!("{name} in {report:?}"))
                .text;
            // A pack says its own name in clear.
            let said = text.contains("was moved") || text.contains("it is the pack");
            assert!(said, "{prefix}: {text}");
        }
        fs::write(&all[0], &originals[0]).unwrap();
        fs::write(&all[1], &originals[1]).unwrap();
    }
    assert!(export_newest(&place.open()).unwrap() == tars[1]);
}

#[test]
fn frames_that_changed_places_are_refused_as_moved() {
    let place = Place::new();
    // Frames that do not shrink have one length.
    let tar = checkpoint_of("work", &noise(64 * 4096, 5), 4096);
    let record = place.import_bytes("a.tar", &tar).unwrap().snapshot;
    let repo = place.open();
    let manifest = repo.manifest(&record).unwrap();
    let mut frames: Vec<_> = manifest.frame_slices().map(|slice| slice.frame).collect();
    frames.dedup();
    let same = |n: usize| {
        let (a, b) = (frames[n], frames[n + 1]);
        (a.pack, a.stored_len) == (b.pack, b.stored_len)
    };
    let n = (0..frames.len() - 1).find(|n| same(*n)).unwrap();
    let id = manifest.packs[frames[n].pack as usize].to_string();
    let path = place.store_dir().join("packs").join(&id[..2]).join(&id);
    let mut bytes = fs::read(&path).unwrap();
    let range = |n: usize| {
        let start = frames[n].offset as usize;
        start..start + frames[n].stored_len as usize
    };
    let (first, second) = (bytes[range(n)].to_vec(), bytes[range(n + 1)].to_vec());
    bytes[range(n)].copy_from_slice(&second);
    bytes[range(n + 1)].copy_from_slice(&first);
    fs::write(&path, bytes).unwrap();
    let e = export_newest(&place.open()).unwrap_err();
    assert!(
        e.kind() == Kind::Corrupt && e.to_string().contains("was moved"),
        "{e}"
    );
}

#[test]
fn objects_in_clear_are_refused_where_everything_is_sealed() {
    let (place, _) = two();
    let plain = Place::in_clear();
    let stored = plain.import_bytes("a.tar", &archive(3)).unwrap().snapshot;
    copy_dir(
        &plain.store_dir().join("snapshots"),
        &place.store_dir().join("snapshots"),
    );
    copy_dir(
        &plain.store_dir().join("packs"),
        &place.store_dir().join("packs"),
    );
    let list = place.open().snapshots().unwrap();
    let (name, e) = &list.damaged[0];
    assert!(name.ends_with(&stored.id.to_string()), "{name}");
    assert!(e.to_string().contains("is not encrypted"), "{e}");
    let report = check(&place.open(), &CheckOptions { read_data: true }, &Silent).unwrap();
    let pack = report
        .problems
        .iter()
        .find(|p| p.object.starts_with("packs/"));
    assert!(pack.unwrap().text.contains("is not encrypted"), "{pack:?}");
}

#[test]
fn a_record_of_the_repository_that_was_replaced_is_refused() {
    let (place, _) = two();
    let path = place.store_dir().join("repository.json");
    let original = fs::read(&path).unwrap();
    // Other sizes, and a checksum that is right.
    let mut record = RepositoryRecord::decode(&original).unwrap();
    record.chunking.average = 32 << 10;
    fs::write(&path, record.encode().unwrap()).unwrap();
    let right = vec![test_key(record.id)];
    refused(
        open_with(&place, right.clone()),
        Kind::Corrupt,
        "it was changed",
    );
    // One that is not encrypted: a node would write memory in clear.
    let plain = Place::in_clear();
    fs::copy(plain.store_dir().join("repository.json"), &path).unwrap();
    refused(open_with(&place, right), Kind::Denied, "is not encrypted");
    let e = open_at(&place.store_dir(), Some(&place.cache_dir())).unwrap_err();
    assert!(
        e.kind() == Kind::Denied && e.to_string().contains("when this node saw it last"),
        "{e}"
    );
    fs::write(&path, original).unwrap();
    let _ = place.open();
}

#[test]
fn every_kind_of_key_opens_the_repository_and_the_last_one_stays() {
    let (place, tars) = two();
    let repo = place.open();
    let words = passphrase("correct horse");
    let printed = Unlock::Command(b"0123456789abcdef".to_vec().into());
    let added: Vec<KeyId> = [words.clone(), other_file(), printed.clone()]
        .map(|unlock| repo.add_key(&cheap(unlock, "added")).unwrap())
        .to_vec();
    for unlock in [
        words.clone(),
        other_file(),
        printed,
        test_key(repo.record().id),
    ] {
        let repo = open_with(&place, vec![unlock]).unwrap();
        assert!(export_newest(&repo).unwrap() == tars[1]);
        assert_eq!(repo.keys().unwrap().len(), 4);
    }
    let first = repo
        .keys()
        .unwrap()
        .into_iter()
        .find(|key| key.opened)
        .unwrap();
    let by_words = open_with(&place, vec![words]).unwrap();
    let e = by_words.remove_key(added[0]).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict, "its own: {e}");
    by_words.remove_key(first.id).unwrap();
    by_words.remove_key(added[1]).unwrap();
    by_words.remove_key(added[2]).unwrap();
    assert_eq!(
        by_words.remove_key(added[2]).unwrap_err().kind(),
        Kind::NotFound
    );
    let e = by_words.remove_key(added[0]).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict, "the last: {e}");
    refused(
        open_with(&place, vec![other_file()]),
        Kind::Denied,
        "opens none",
    );
}

#[test]
fn two_who_remove_each_others_keys_lock_nobody_out() {
    let (place, _) = two();
    let one = place.open();
    one.add_key(&cheap(other_file(), "second")).unwrap();
    let other = open_with(&place, vec![other_file()]).unwrap();
    let own = |repo: &Repository| {
        repo.keys()
            .unwrap()
            .into_iter()
            .find(|key| key.opened)
            .unwrap()
            .id
    };
    let (ones, others) = (own(&one), own(&other));
    one.remove_key(others).unwrap();
    // It had looked before its own key went.
    assert_eq!(other.remove_key(ones).unwrap_err().kind(), Kind::Conflict);
    let _ = place.open();
}

#[test]
fn after_a_rotation_old_and_new_checkpoints_come_back_and_old_keys_do_not_read_on() {
    let (place, mut tars) = two();
    let repo = place.open();
    repo.add_key(&cheap(other_file(), "left at home")).unwrap();
    let e = repo.rotate_keys(false).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict, "{e}");
    let before = fs::read(&objects(&place, "keys")[0]).unwrap();
    let rotated = repo.rotate_keys(true).unwrap();
    assert_eq!((rotated.keys.len(), rotated.removed.len()), (1, 2));
    refused(
        open_with(&place, vec![other_file()]),
        Kind::Denied,
        "opens none",
    );
    tars.push(archive(3));
    let new = place.import_bytes("a.tar", &tars[2]).unwrap().snapshot;
    assert!(new.base.is_some(), "the older one is its base");
    let after = place.open();
    let list = after.snapshots().unwrap();
    for (record, tar) in list.snapshots.iter().zip(tars.iter().rev()) {
        assert!(bytes_of(&after, record, &Silent).unwrap() == *tar);
    }
    // Who had the repository open reads the old, and is told why not the new.
    let old = repo.snapshots().unwrap();
    assert_eq!((old.snapshots.len(), old.damaged.len()), (2, 1));
    let text = old.damaged[0].1.to_string();
    assert!(text.contains("key of epoch"), "{text}");
    assert!(
        check(&after, &CheckOptions { read_data: true }, &Silent)
            .unwrap()
            .problems
            .is_empty()
    );
    let rebuilt = rebuild_index(&after, &Silent).unwrap();
    assert!(rebuilt.packs >= 2, "{rebuilt:?}");
    collect(&after, &GcOptions::default(), &Silent).unwrap();
    assert_eq!(place.open().keys().unwrap().len(), 1, "keys are no garbage");
    // The store brings the old key back.
    for path in objects(&place, "keys") {
        fs::remove_file(path).unwrap();
    }
    let name = rotated.removed[0].to_string();
    let names = rotated.removed.iter().map(ToString::to_string);
    let name = names
        .into_iter()
        .find(|name| String::from_utf8_lossy(&before).contains(name.as_str()))
        .unwrap_or(name);
    fs::write(place.store_dir().join("keys").join(name), &before).unwrap();
    let unlocks = || vec![test_key(Default::default()), other_file()];
    let store = Store::open(place.store_dir().to_str().unwrap(), false).unwrap();
    let cache = place.cache_dir();
    let opened = Repository::open_with(store, Arc::new(SystemEnv::new()), Some(&cache), |_| {
        Ok(unlocks())
    });
    refused(opened, Kind::Corrupt, "older than this node has seen");
}

#[derive(Debug, Default)]
struct Warnings(Mutex<Vec<String>>);

impl Monitor for Warnings {
    fn warning(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

#[test]
fn a_store_that_was_put_back_as_a_whole_is_told_of_once() {
    let place = Place::new();
    place.import_bytes("a.tar", &archive(1)).unwrap();
    let copy = place.path("copy");
    copy_dir(&place.store_dir(), &copy);
    let lost = place.import_bytes("a.tar", &archive(2)).unwrap().snapshot;
    assert!(place.open().snapshots().unwrap().vanished.is_empty());
    fs::remove_dir_all(place.store_dir()).unwrap();
    copy_dir(&copy, &place.store_dir());
    assert_eq!(
        place.open().snapshots().unwrap().vanished[0].snapshot,
        lost.id
    );
    let path = place.path("a.tar");
    let warnings = Warnings::default();
    place
        .import_with(&path, &ImportOptions::default(), &warnings)
        .unwrap();
    let told = std::mem::take(&mut *warnings.0.lock().unwrap());
    assert!(
        told.iter().any(|text| text.contains(&lost.id.to_string())),
        "{told:?}"
    );
    place
        .import_with(&path, &ImportOptions::default(), &warnings)
        .unwrap();
    assert!(warnings.0.lock().unwrap().is_empty());
}

#[test]
fn a_deleted_snapshot_is_not_missed() {
    let (place, _) = two();
    let repo = place.open();
    let newest = repo.snapshots().unwrap().snapshots[0].id;
    repo.delete(&[newest], "test").unwrap();
    collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(repo.snapshots().unwrap().vanished.is_empty());
}
