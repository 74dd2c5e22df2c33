//! Stores that are full, forbidden, missing, foreign or of a later version.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails by panicking and says what it skips"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cryostore_engine::gc::{self, GcOptions};
use cryostore_engine::{
    Error, ImportOptions, Kind, Output, Repository, Silent, Source, Store, SystemEnv, export,
    import,
};
use cryostore_tests::archives::{checkpoint, checkpoint_of, noise};
use cryostore_tests::failures::{Earlier, Listening, refusal};
use cryostore_tests::{Place, bytes_of, open_at};

/// A small file system in memory; it is unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    /// None, with a line that says so, where this is not allowed.
    fn new(dir: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(dir).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir)
            .output();
        let mounted = status.is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: a tmpfs cannot be mounted here (root is needed)");
        }
        mounted.then(|| Self(dir.to_path_buf()))
    }

    fn resize(&self, size: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={size}")])
            .arg(&self.0)
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_and_after_making_room_the_import_works() {
    let place = Place {
        dir: tempfile::tempdir().unwrap(),
    };
    let Some(disk) = Mount::new(&place.store_dir(), "8m") else {
        return;
    };
    Repository::init(
        &Store::open(place.store_dir().to_str().unwrap(), true).unwrap(),
        &SystemEnv::new(),
    )
    .unwrap();
    let mut earlier = Earlier::at(place);
    let tar = checkpoint(&noise(20 << 20, 50), 4096);
    for round in 0..3 {
        let result = earlier.place.import_bytes("large.tar", &tar);
        let error = earlier.assert_refused(
            &format!("round {round}"),
            result,
            Kind::NoSpace,
            &["writing ", "No space left"],
        );
        assert!(error.advice().unwrap().contains("make room"));
        earlier.assert_whole("a full disk");
    }
    // What was being written when the disk was full is not left behind.
    earlier.assert_untouched("a full disk");
    let small = checkpoint(&noise(1 << 20, 51), 4096);
    let imported = earlier.place.import_bytes("small.tar", &small).unwrap();
    earlier.add(&imported, &small);
    disk.resize("64m");
    let imported = earlier.place.import_bytes("large.tar", &tar).unwrap();
    earlier.add(&imported, &tar);
    earlier.assert_untouched("room was made");
    drop(disk);
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_keeps_what_it_has() {
    let place = Place {
        dir: tempfile::tempdir().unwrap(),
    };
    let Some(_disk) = Mount::new(&place.store_dir(), "8m") else {
        return;
    };
    Repository::init(
        &Store::open(place.store_dir().to_str().unwrap(), true).unwrap(),
        &SystemEnv::new(),
    )
    .unwrap();
    let earlier = Earlier::at(place);
    let filler = earlier.place.store_dir().join("filler");
    let _ = fs::write(&filler, noise(9 << 20, 1));
    let result = earlier
        .place
        .import_bytes("small.tar", &checkpoint(&noise(4096, 51), 4096));
    let error = refusal(
        "not even a session",
        result,
        Kind::NoSpace,
        &["No space left"],
    );
    assert!(error.advice().unwrap().contains("make room"));
    earlier.assert_whole("full to the last byte");
    fs::remove_file(filler).unwrap();
    earlier.assert_untouched("room was made");
}

#[test]
fn on_a_disk_that_is_full_to_the_last_byte_snapshots_can_be_deleted_and_freed() {
    let place = Place {
        dir: tempfile::tempdir().unwrap(),
    };
    let Some(_disk) = Mount::new(&place.store_dir(), "8m") else {
        return;
    };
    let storage = place.store_dir();
    let store = Store::open(storage.to_str().unwrap(), true).unwrap();
    Repository::init(&store, &SystemEnv::new()).unwrap();
    // So many small index segments that a collection would put them together, if there was room.
    for n in 0..70 {
        let tar = checkpoint_of("small", &noise(4096, 1000 + n), 4096);
        place.import_bytes("small.tar", &tar).unwrap();
    }
    let earlier = Earlier::at(place);
    let tar = checkpoint(&noise(4 << 20, 52), 4096);
    let large = earlier.place.import_bytes("large.tar", &tar).unwrap();
    let filler = storage.join("filler");
    let _ = fs::write(&filler, noise(9 << 20, 1));
    let reserve = storage.join("reserve");
    assert!(reserve.exists());

    let repo = earlier.place.open();
    repo.delete(&[large.snapshot.id], "the disk is full")
        .unwrap();
    assert!(!reserve.exists());
    // Whatever room it gave is gone again.
    let _ = fs::write(storage.join("more"), noise(2 << 20, 1));
    let report = gc::collect(&repo, &GcOptions::default(), &Silent);
    assert_eq!(report.unwrap_err().kind(), Kind::NoSpace);
    fs::remove_file(storage.join("more")).unwrap();
    let report = gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(report.bytes > 4 << 20, "{report:?}");
    assert!(reserve.exists());
    earlier.assert_whole("freed");
    let small = checkpoint(&noise(1 << 20, 53), 4096);
    earlier.place.import_bytes("small.tar", &small).unwrap();
}

#[test]
fn a_full_cache_costs_no_import() {
    let place = Place::new();
    let Some(_disk) = Mount::new(&place.cache_dir(), "64k") else {
        return;
    };
    let mut earlier = Earlier::at(place);
    for seed in 60..63 {
        let tar = checkpoint(&noise(6 << 20, seed), 4096);
        let result = earlier.place.import_bytes("large.tar", &tar);
        earlier.assert_stored("a full cache", result, &tar, &[]);
    }
    earlier.assert_untouched("a full cache");
}

#[test]
fn an_export_to_a_full_disk_leaves_no_part_of_a_file() {
    let mut earlier = Earlier::new();
    let target = earlier.place.path("target");
    let Some(_disk) = Mount::new(&target, "1m") else {
        return;
    };
    let tar = checkpoint(&noise(4 << 20, 50), 4096);
    let imported = earlier.place.import_bytes("large.tar", &tar).unwrap();
    earlier.add(&imported, &tar);
    let repo = earlier.place.open();
    for sync in [false, true] {
        let output = Output::File {
            path: target.join("out.tar"),
            sync,
        };
        refusal(
            "a full target",
            export(&repo, &imported.snapshot, output, &Silent),
            Kind::NoSpace,
            &["No space left"],
        );
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }
    let unpacked =
        cryostore_engine::unpack(&repo, &imported.snapshot, &target.join("dir"), &Silent);
    refusal("a full target", unpacked, Kind::NoSpace, &["No space left"]);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    earlier.assert_untouched("a full target");
}

const CHILD: &str = "CRYOSTORE_TEST_CHILD";

/// What a user without rights sees; run as `nobody`.
fn without_rights(dir: &Path) {
    let repo = open_at(&dir.join("store"), Some(&dir.join("cache"))).unwrap();
    let snapshots = repo.snapshots().unwrap().snapshots;
    assert_eq!(snapshots.len(), 3);
    for snapshot in &snapshots {
        bytes_of(&repo, snapshot, &Silent).unwrap();
    }
    let source = || Source::at(&dir.join("new.tar")).unwrap();
    let result = import(&repo, source(), &ImportOptions::default(), &Silent);
    refusal(
        "a store that is read-only",
        result,
        Kind::Denied,
        &["sessions/", "denied"],
    );
    refusal(
        "delete",
        repo.delete(&[snapshots[0].id], "test"),
        Kind::Denied,
        &["snapshots/"],
    );
    // It has nothing to do.
    let report = gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(report.garbage.is_empty());
    let secret = Source::at(&dir.join("secret.tar"))
        .and_then(|source| import(&repo, source, &ImportOptions::default(), &Silent));
    refusal(
        "an archive that may not be read",
        secret,
        Kind::Denied,
        &["secret.tar"],
    );
    let hidden = open_at(&dir.join("hidden"), None);
    refusal(
        "a store that may not be read",
        hidden,
        Kind::Denied,
        &["hidden"],
    );
    let output = Output::File {
        path: dir.join("out.tar"),
        sync: false,
    };
    refusal(
        "a target that may not be written",
        export(&repo, &snapshots[0], output, &Silent),
        Kind::Denied,
        &["out.tar"],
    );
    // A store of one's own, and a cache of somebody else: the import works without an index.
    let own = open_at(&dir.join("own"), Some(&dir.join("cache"))).unwrap();
    let listening = Listening::default();
    let imported = import(&own, source(), &ImportOptions::default(), &listening).unwrap();
    assert!(
        bytes_of(&own, &imported.snapshot, &Silent).unwrap()
            == fs::read(dir.join("new.tar")).unwrap()
    );
    assert!(
        listening.text().contains("local index is not used"),
        "{}",
        listening.text()
    );
}

#[test]
fn without_permission_everything_that_is_refused_says_so_and_the_rest_works() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return without_rights(Path::new(&dir));
    }
    let earlier = Earlier::new();
    let dir = earlier.place.dir.path();
    let can = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "true"])
        .output();
    if !can.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: setpriv cannot change the user here (root is needed)");
        return;
    }
    fs::write(dir.join("new.tar"), checkpoint(&noise(9000, 52), 4096)).unwrap();
    fs::write(dir.join("secret.tar"), checkpoint(&noise(9000, 52), 4096)).unwrap();
    fs::set_permissions(dir.join("secret.tar"), Permissions::from_mode(0o600)).unwrap();
    fs::create_dir_all(dir.join("hidden/deep")).unwrap();
    fs::set_permissions(dir.join("hidden"), Permissions::from_mode(0o700)).unwrap();
    Repository::init(
        &Store::open(dir.join("own").to_str().unwrap(), true).unwrap(),
        &SystemEnv::new(),
    )
    .unwrap();
    assert!(
        Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(dir.join("own"))
            .status()
            .unwrap()
            .success()
    );
    fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    // The test's own file lies where nobody else may look.
    let program = dir.join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut child = Command::new("setpriv");
    child
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .current_dir("/");
    child
        .args([
            "--exact",
            "without_permission_everything_that_is_refused_says_so_and_the_rest_works",
        ])
        .env(CHILD, dir);
    let output = child.output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    earlier.assert_untouched("without permission");
}

/// Another writer's record has another checksum, or none.
fn without_checksum(record: &str) -> String {
    let mut value: serde_json::Value = serde_json::from_str(record).unwrap();
    value.as_object_mut().unwrap().remove("checksum").unwrap();
    serde_json::to_string_pretty(&value).unwrap()
}

fn open_with(record: &[u8]) -> Result<Repository, Error> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("repository.json"), record).unwrap();
    open_at(dir.path(), None)
}

#[test]
fn a_repository_that_is_missing_foreign_damaged_or_of_a_later_version_is_told_apart() {
    let place = Place::in_clear();
    let record = fs::read_to_string(place.store_dir().join("repository.json")).unwrap();
    let with_checksum = record.clone();
    let record = without_checksum(&record);
    let with = |from: &str, to: &str| {
        assert!(record.contains(from), "{from} in {record}");
        open_with(record.replacen(from, to, 1).as_bytes())
    };
    let file = place.path("file");
    fs::write(&file, "x").unwrap();
    let empty = tempfile::tempdir().unwrap();
    let foreign = tempfile::tempdir().unwrap();
    fs::write(foreign.path().join("config"), "restic").unwrap();
    fs::create_dir(foreign.path().join("data")).unwrap();
    type Case = (
        &'static str,
        Result<Repository, Error>,
        Kind,
        &'static [&'static str],
    );
    let cases: [Case; 13] = [
        (
            "no directory",
            open_at(&place.path("missing"), None),
            Kind::NotFound,
            &["missing"],
        ),
        (
            "an empty directory",
            open_at(empty.path(), None),
            Kind::NotFound,
            &["there is no repository"],
        ),
        (
            "somebody else's directory",
            open_at(foreign.path(), None),
            Kind::NotFound,
            &["there is no repository"],
        ),
        (
            "a file",
            open_at(&file, None),
            Kind::Invalid,
            &["is not a directory"],
        ),
        (
            "an empty record",
            open_with(b""),
            Kind::Corrupt,
            &["repository.json"],
        ),
        (
            "noise",
            open_with(&noise(700, 3)),
            Kind::Corrupt,
            &["repository.json"],
        ),
        (
            "half of a record",
            open_with(&record.as_bytes()[..record.len() / 2]),
            Kind::Corrupt,
            &["repository.json"],
        ),
        (
            "another program's record",
            with("\"cryostore\"", "\"restic\""),
            Kind::Corrupt,
            &["its format is `restic`"],
        ),
        (
            "a huge record",
            open_with(&vec![b' '; 2 << 20]),
            Kind::Corrupt,
            &["2097152", "1048576"],
        ),
        (
            "a later version",
            with("\"version\": 1", "\"version\": 2"),
            Kind::Unsupported,
            &["2", "1"],
        ),
        (
            "a feature for readers",
            with("\"read\": []", "\"read\": [\"delta\"]"),
            Kind::Unsupported,
            &["`delta`"],
        ),
        (
            "another cutter",
            with("fastcdc", "slowcdc"),
            Kind::Unsupported,
            &["slowcdc"],
        ),
        (
            "another kind of store",
            Store::open("gopher://bucket", false).map(|_| unreachable!()),
            Kind::Unsupported,
            &["gopher"],
        ),
    ];
    for (when, result, kind, words) in cases {
        refusal(when, result, kind, words);
    }
    let again = Repository::init(
        &Store::open(place.store_dir().to_str().unwrap(), true).unwrap(),
        &SystemEnv::new(),
    );
    refusal(
        "init twice",
        again,
        Kind::Conflict,
        &["holds a repository already"],
    );
    assert_eq!(
        fs::read_to_string(place.store_dir().join("repository.json")).unwrap(),
        with_checksum
    );
}

#[test]
fn an_unknown_feature_stops_only_who_must_know_it() {
    // The keys of an encrypted repository know its record.
    let earlier = Earlier::at(Place::in_clear());
    let path = earlier.place.store_dir().join("repository.json");
    let original = fs::read_to_string(&path).unwrap();
    let record = without_checksum(&original);
    for (role, may_import) in [("write", false), ("collect", true)] {
        let from = format!("\"{role}\": []");
        assert!(record.contains(&from), "{record}");
        fs::write(
            &path,
            record.replacen(&from, &format!("\"{role}\": [\"delta\"]"), 1),
        )
        .unwrap();
        earlier.assert_whole(role);
        let repo = earlier.place.open();
        let collected = gc::collect(&repo, &GcOptions::default(), &Silent);
        if may_import {
            let imported = earlier
                .place
                .import_bytes("new.tar", &checkpoint(&noise(4096, 9), 4096))
                .unwrap();
            repo.delete(&[imported.snapshot.id], "test").unwrap();
            refusal(role, collected, Kind::Unsupported, &["`delta`"]);
        } else {
            let result = earlier
                .place
                .import_bytes("new.tar", &checkpoint(&noise(4096, 9), 4096));
            earlier.assert_refused(role, result, Kind::Unsupported, &["`delta`"]);
            let id = earlier.snapshots()[0].0.id;
            refusal(
                role,
                repo.delete(&[id], "test"),
                Kind::Unsupported,
                &["`delta`"],
            );
        }
    }
    fs::write(&path, original).unwrap();
    earlier.assert_untouched("unknown features");
}
