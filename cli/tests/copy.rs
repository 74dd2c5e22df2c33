//! `copy` on the command line: that its flags arrive, what is said of the other repository's storage and keys, and the exit codes.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs;
use std::process::Command;

use place::Place;
use serde_json::Value;

mod place;

/// Two repositories with keys of their own, `repository` and `there`; snapshots in the first.
fn two() -> Place {
    let place = Place::new();
    place.run(&["init"], 0);
    place.run(&["init", "--storage", "there"], 0);
    for name in ["one", "two"] {
        fs::write(place.path("words"), name.repeat(20_000)).unwrap();
        let mut tar = Command::new("tar");
        tar.current_dir(place.dir.path())
            .args(["-cf", "a.tar", "words"]);
        assert!(tar.status().unwrap().success());
        place.run(
            &["import", "a.tar", "--container", name, "--label", name],
            0,
        );
    }
    place
}

#[test]
fn a_copy_shows_both_ids_and_the_copies_are_listed_with_what_they_are_copies_of() {
    let place = two();
    let made = place.json(&["copy", "--to", "there"], 0);
    assert_eq!(made["copied"].as_array().unwrap().len(), 2);
    let (id, copy) = (&made["copied"][1]["id"], &made["copied"][1]["copy"]);
    assert_ne!(id, copy);
    let list = place.json(&["ls", "--storage", "there"], 0);
    assert_eq!(list["snapshots"][0]["id"], *copy);
    assert_eq!(list["snapshots"][0]["original"]["id"], *id);
    assert_eq!(list["snapshots"][0]["labels"][0], "two");
    let id = id.as_str().unwrap();
    let (text, _) = place.run(&["ls", "--storage", "there"], 0);
    assert!(
        text.contains("COPY OF") && text.contains(&id[..8]),
        "{text}"
    );
    let (text, _) = place.run(&["ls"], 0);
    assert!(!text.contains("COPY OF"), "{text}");
    // The original's id finds the copy.
    let (text, _) = place.run(&["inspect", id, "--storage", "there"], 0);
    assert!(
        text.contains(&format!("copy of     {id} in repository")),
        "{text}"
    );
    for (storage, out) in [("repository", "x.tar"), ("there", "y.tar")] {
        place.run(&["export", id, "-o", out, "--storage", storage], 0);
    }
    assert!(fs::read(place.path("x.tar")).unwrap() == fs::read(place.path("y.tar")).unwrap());

    let (text, _) = place.run(&["copy", "--to", "there"], 0);
    assert!(text.starts_with("0 copied, 2 there already;"), "{text}");
}

#[test]
fn only_those_are_copied_that_were_said_or_fit_the_filter() {
    let place = two();
    let latest = place.json(&["ls"], 0)["snapshots"][0]["id"].clone();
    let made = place.json(
        &["copy", "--to", "there", &latest.as_str().unwrap()[..8]],
        0,
    );
    assert_eq!(made["copied"][0]["id"], latest);
    assert_eq!(made["copied"].as_array().unwrap().len(), 1);
    let made = place.json(&["copy", "--to", "there", "--label", "nobody"], 0);
    assert_eq!(made["copied"].as_array().unwrap().len(), 0);
    let made = place.json(&["copy", "--to", "there", "--container", "one"], 0);
    assert_eq!(made["copied"].as_array().unwrap().len(), 1);
    place.run(&["copy", "--to", "there", "00000000"], 3);
    place.run(&["copy", "--to", "repository"], 4);
    place.run(&["copy", "--to", "nowhere"], 3);
    place.run(&["copy"], 2);
}

#[test]
fn the_keys_of_the_two_are_told_apart() {
    let place = two();
    fs::write(place.path("words.txt"), "correct horse battery\n").unwrap();
    let init = [
        "init",
        "--storage",
        "third",
        "--passphrase-file",
        "words.txt",
    ];
    place.run(&init, 0);
    let keys = place.path(".config/cryostore/keys");
    let file = |storage: &str| {
        let text = fs::read_to_string(place.path(storage).join("repository.json")).unwrap();
        let record: Value = serde_json::from_str(&text).unwrap();
        keys.join(format!("{}.key", record["id"].as_str().unwrap()))
    };
    // Moved away, they must be said, each of its own repository.
    for (storage, name) in [("repository", "here.key"), ("there", "there.key")] {
        fs::rename(file(storage), place.path(name)).unwrap();
    }
    place.run(&["copy", "--to", "third"], 8);
    let here = [("CRYOSTORE_KEY_FILE", "here.key")];
    place.run_with(&here, &["copy", "--to", "third"], 8);
    place.run_with(
        &here,
        &["copy", "--to", "there", "--to-key-file", "here.key"],
        8,
    );
    let run = |more: &[&str]| {
        let arguments = [&["copy", "--json"], more].concat();
        let (out, _) = place.run_with(&here, &arguments, 0);
        let made: Value = serde_json::from_str(&out).unwrap();
        let len = |key: &str| made[key].as_array().unwrap().len();
        (len("copied"), len("there"))
    };
    assert_eq!(
        run(&["--to", "there", "--to-key-file", "there.key"]),
        (2, 0)
    );
    let words = ["--to", "third", "--to-passphrase-file", "words.txt"];
    assert_eq!(run(&words), (2, 0));
    let set = [
        here[0],
        ("CRYOSTORE_TO_PASSPHRASE", "correct horse battery"),
    ];
    let (text, _) = place.run_with(&set, &["copy", "--to", "third"], 0);
    assert!(text.starts_with("0 copied, 2 there already"), "{text}");
}

#[test]
fn what_cannot_be_copied_is_named_and_the_rest_is_there_afterwards() {
    let place = two();
    let oldest = place.json(&["ls"], 0)["snapshots"][1]["id"].clone();
    let inspected = place.json(&["inspect", oldest.as_str().unwrap()], 0);
    assert_eq!(inspected["packs"], 1);
    // The first import's pack is the older one.
    let mut packs = Vec::new();
    for dir in fs::read_dir(place.path("repository/packs")).unwrap() {
        for pack in fs::read_dir(dir.unwrap().path()).unwrap() {
            let pack = pack.unwrap();
            packs.push((pack.metadata().unwrap().modified().unwrap(), pack.path()));
        }
    }
    packs.sort();
    let mut bytes = fs::read(&packs[0].1).unwrap();
    bytes[90] ^= 1;
    fs::write(&packs[0].1, bytes).unwrap();
    let (out, err) = place.run(&["copy", "--to", "there"], 5);
    assert!(out.contains("was not copied"), "{out}{err}");
    assert!(out.contains("1 copied, 0 there already"), "{out}{err}");
    let list = place.json(&["ls", "--storage", "there"], 0);
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 1);
}
