//! Keys on the command line: where they come from, what is said when they are missing, and that the flags arrive.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use place::Place;
use serde_json::Value;

mod place;

/// With an archive, `a.tar`.
fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("words"), "correct horse\n").unwrap();
    let mut tar = Command::new("tar");
    tar.current_dir(place.dir.path())
        .args(["-cf", "a.tar", "words"]);
    assert!(tar.status().unwrap().success());
    place
}

/// The key files that `init` made.
fn key_files(place: &Place) -> Vec<PathBuf> {
    let dir = place.path(".config/cryostore/keys");
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn init_makes_a_key_file_for_its_owner_alone_and_says_how_to_keep_it() {
    let place = place();
    let (out, err) = place.run(&["init"], 0);
    let files = key_files(&place);
    assert_eq!(files.len(), 1);
    let path = files[0].display().to_string();
    assert!(
        out.contains(&path) && err.contains("keep a copy"),
        "{out}{err}"
    );
    let mode = fs::metadata(&files[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    place.run(&["import", "a.tar"], 0);
    place.run(&["export", "latest", "-o", "b.tar"], 0);
    let read = |name| fs::read(place.path(name)).unwrap();
    assert!(read("b.tar") == read("a.tar"));
    // Another repository in its place makes no second key.
    place.run(&["init"], 6);
    assert_eq!(key_files(&place).len(), 1);

    let away = place.path("away.key");
    fs::rename(&files[0], &away).unwrap();
    let (_, err) = place.run(&["ls"], 8);
    assert!(
        err.contains("no key is at hand") && err.contains("--key-file"),
        "{err}"
    );
    place.run(&["ls", "--key-file", "away.key"], 0);
    place.run_with(&[("CRYOSTORE_KEY_FILE", "away.key")], &["ls"], 0);
    place.run_with(
        &[("CRYOSTORE_KEY_COMMAND", "echo 0123456789abcdef")],
        &["ls"],
        8,
    );
    fs::set_permissions(&away, fs::Permissions::from_mode(0o644)).unwrap();
    let (_, err) = place.run(&["ls", "--key-file", "away.key"], 0);
    assert!(err.contains("can be read by others"), "{err}");
}

#[test]
fn a_repository_in_clear_must_be_asked_for_and_is_refused_where_a_key_is_named() {
    let place = place();
    let made = place.json(&["init", "--no-encryption"], 0);
    assert_eq!(made["encrypted"], false);
    assert_eq!(key_files(&place).len(), 0);
    place.run(&["import", "a.tar"], 0);
    let (_, err) = place.run(&["ls", "--passphrase-file", "words"], 8);
    assert!(err.contains("is not encrypted"), "{err}");
    place.run(&["key", "list"], 9);
    place.run(&["init", "--no-encryption", "--key-file", "x"], 2);
}

#[test]
fn keys_are_added_listed_removed_and_rotated() {
    let place = place();
    place.run_with(&[("CRYOSTORE_PASSPHRASE", "correct horse")], &["init"], 0);
    assert_eq!(key_files(&place).len(), 0, "the passphrase is the key");
    let words = ["--passphrase-file", "words"];
    let with_words = |arguments: &[&str]| place.json(&[arguments, &words].concat(), 0);
    let run = |arguments: &[&str], code| place.run(&[arguments, &words].concat(), code);
    run(&["import", "a.tar"], 0);
    let command = "printf 0123456789abcdef";
    with_words(&[
        "key",
        "add",
        "--new-key-command",
        command,
        "--label",
        "vault",
    ]);
    let file = with_words(&["key", "add", "--new-key-file", "node.key"]);
    let keys = with_words(&["key", "list"]);
    let kinds: Vec<_> = keys["keys"].as_array().unwrap().iter().collect();
    assert_eq!(kinds.len(), 3);
    let opened = |key: &&&Value| key["opened"] == true;
    assert_eq!(kinds.iter().filter(opened).count(), 1);
    assert!(kinds.iter().any(|key| key["label"] == "vault"), "{keys}");
    place.run(&["ls", "--key-command", command], 0);
    place.run(&["ls", "--key-file", "node.key"], 0);
    // One of them would be locked out.
    let (_, err) = run(&["key", "rotate", "--key-file", "node.key"], 6);
    assert!(err.contains("--remove-others"), "{err}");
    run(&["key", "remove", file["added"].as_str().unwrap()], 0);
    place.run(&["ls", "--key-file", "node.key"], 8);
    run(&["key", "rotate", "--key-command", command], 0);
    place.run(
        &["export", "latest", "-o", "b.tar", "--key-command", command],
        0,
    );
    assert_eq!(
        with_words(&["key", "list"])["keys"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    run(&["key", "remove", "0000"], 3);
    run(&["check", "--read-data"], 0);
}
