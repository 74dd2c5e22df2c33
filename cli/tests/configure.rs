//! `configure`: what it writes, what it shows, and what it does with a place where no repository is.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use place::Place;
use serde_json::Value;

mod place;

fn run(place: &Place, arguments: &[&str], code: i32) -> (String, String) {
    // An empty variable is not set.
    place.run_with(&[("CRYOSTORE_STORAGE", "")], arguments, code)
}

fn settings(place: &Place, arguments: &[&str]) -> Vec<(String, Value, String)> {
    let out = run(place, &[&["configure", "--json"], arguments].concat(), 0).0;
    let document: Value = serde_json::from_str(&out).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = document["settings"].as_array().unwrap().iter();
    all.map(|one| {
        (
            text(&one["setting"]),
            one["value"].clone(),
            text(&one["source"]),
        )
    })
    .collect()
}

fn file(place: &Place) -> String {
    fs::read_to_string(place.path(".config/cryostore/config.toml")).unwrap_or_default()
}

#[test]
fn a_script_says_init_and_is_told_where_the_key_is() {
    let place = Place::new();
    let storage = place.path("new").display().to_string();
    let (_, err) = run(&place, &["configure", "--storage", "new"], 3);
    assert!(err.contains("--init"), "{err}");
    assert!(
        !place.path("new").exists() && file(&place).is_empty(),
        "nothing is done"
    );
    let (out, err) = run(&place, &["configure", "--storage", "new", "--init"], 0);
    assert!(
        out.contains("its key is ") && err.contains("keep a copy"),
        "{out}{err}"
    );
    assert_eq!(file(&place), format!("storage = \"{storage}\"\n"));
    let path = place.path(".config/cryostore/config.toml");
    assert_eq!(
        fs::metadata(path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    run(&place, &["ls"], 0);
    run(&place, &["gc"], 0);
    // What is there is opened, and left as it is.
    let record = fs::read(place.path("new/repository.json")).unwrap();
    run(&place, &["configure", "--storage", "new", "--init"], 0);
    assert_eq!(fs::read(place.path("new/repository.json")).unwrap(), record);
    run(&place, &["configure", "--init"], 2);
}

#[test]
fn nothing_is_written_where_the_key_does_not_fit_or_something_else_lies() {
    let place = Place::new();
    run(
        &place,
        &["init", "--storage", "a", "--key-file", "a.key"],
        0,
    );
    run(
        &place,
        &["init", "--storage", "b", "--key-file", "b.key"],
        0,
    );
    run(
        &place,
        &["configure", "--storage", "a", "--key-file", "b.key"],
        8,
    );
    fs::create_dir(place.path("foreign")).unwrap();
    fs::write(place.path("foreign/letter.txt"), "dear").unwrap();
    run(&place, &["configure", "--storage", "foreign", "--init"], 6);
    assert!(file(&place).is_empty());
    run(
        &place,
        &["configure", "--storage", "a", "--key-file", "a.key"],
        0,
    );
    assert!(file(&place).contains("a.key"));
    run(&place, &["ls", "--storage", "a"], 0);
    // The file's key is that of its storage, and no other's.
    run(&place, &["ls", "--storage", "b"], 0);
    // A key that does not fit is not written, and what is about one storage goes with it when another becomes the default.
    run(&place, &["configure", "--key-file", "b.key"], 8);
    let option = ["--storage-option", "region=x"];
    run(&place, &[&["configure"], &option[..]].concat(), 0);
    let (_, err) = run(&place, &["configure", "--storage", "b"], 0);
    assert!(
        err.contains("key_file, storage_options.region in the file are about "),
        "{err}"
    );
    let text = file(&place);
    assert!(
        !text.contains("key") && !text.contains("region") && text.contains("/b\""),
        "{text}"
    );
    run(&place, &["gc"], 0);
    let (text, _) = run(&place, &["status"], 0);
    assert_eq!(text.matches("  yes  ").count(), 4, "{text}");
    run(&place, &["configure", "--unset", "storage"], 0);
    run(&place, &["ls", "--storage", "a"], 0);
    run(&place, &["gc"], 2);
}

#[test]
fn what_else_is_in_the_file_stays() {
    let place = Place::new();
    fs::create_dir_all(place.path(".config/cryostore")).unwrap();
    let old =
        "# ours\ncache_size = \"1G\" # small disk\n\n[storage_options]\n# near\nregion = \"x\"\n";
    fs::write(place.path(".config/cryostore/config.toml"), old).unwrap();
    run(
        &place,
        &["configure", "--cache-size", "20G", "--max-memory", "512M"],
        0,
    );
    assert_eq!(
        file(&place),
        old.replace("\"1G\"", "\"20G\"")
            .replace("disk\n", "disk\nmax_memory = \"512M\"\n")
    );
    run(
        &place,
        &["configure", "--cache-size", "1G", "--unset", "max-memory"],
        0,
    );
    assert_eq!(file(&place), old);
    run(
        &place,
        &["configure", "--storage-option", "endpoint=http://h:9000"],
        0,
    );
    assert!(file(&place).contains("# near\nregion = \"x\"\nendpoint = \"http://h:9000\"\n"));
    run(
        &place,
        &["configure", "--unset", "storage-options.region"],
        0,
    );
    assert!(!file(&place).contains("region"));
    for wrong in [
        &["--max-memory", "much"][..],
        &["--cache-size", "x"],
        &["--unset", "storge"],
        &["--storage-option", "regoin=x"],
        &["--storage-option", "secret_access_key=hush"],
        &["--no-cache"],
    ] {
        let before = file(&place);
        let (out, err) = run(
            &place,
            &[&["configure"], wrong].concat(),
            if wrong[1..] == ["regoin=x"] { 4 } else { 2 },
        );
        assert!(!out.contains("hush") && !err.contains("hush"), "{err}");
        assert_eq!(file(&place), before);
    }
}

#[test]
fn alone_it_shows_what_counts_and_where_that_was_said() {
    let place = Place::new();
    run(&place, &["init", "--storage", "a"], 0);
    run(
        &place,
        &["configure", "--storage", "a", "--cache-size", "1G"],
        0,
    );
    let config = place
        .path(".config/cryostore/config.toml")
        .display()
        .to_string();
    let found = settings(&place, &[]);
    let one = |name: &str| found.iter().find(|one| one.0 == name).unwrap();
    assert_eq!(one("storage").2, config);
    assert_eq!(
        (one("cache_size").1.as_str(), &one("cache_size").2),
        (Some("1G"), &config)
    );
    assert_eq!(
        (one("max_memory").1.as_str(), one("max_memory").2.as_str()),
        (Some("256M"), "default")
    );
    let set = [
        ("CRYOSTORE_MAX_MEMORY", "1G"),
        ("CRYOSTORE_PASSPHRASE", "hush"),
        ("CRYOSTORE_STORAGE_OPTIONS", "secret_access_key=hush"),
    ];
    let (out, _) = place.run_with(&set, &["configure"], 0);
    assert!(
        out.contains("variable CRYOSTORE_MAX_MEMORY") && out.contains("variable CRYOSTORE_STORAGE"),
        "{out}"
    );
    assert!(out.contains("(secret)") && !out.contains("hush"), "{out}");
    assert!(out.contains("known storages:\n  /"), "{out}");
    // What a variable overrules is said.
    let (_, err) = place.run_with(&set[..1], &["configure", "--max-memory", "512M"], 0);
    assert!(err.contains("CRYOSTORE_MAX_MEMORY is set"), "{err}");
}
