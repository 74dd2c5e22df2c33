//! Several storages on the command line: what is remembered, where an id is looked for, what `ls`, `configure` and `status` show of them.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use place::Place;
use serde_json::Value;

mod place;

const NOWHERE: (&str, &str) = ("KUBECONFIG", "/nowhere/kubeconfig");

/// Runs the program as somebody does who says no storage by a variable, with a cluster that is not there.
fn run(place: &Place, arguments: &[&str], code: i32) -> (String, String) {
    // An empty variable is not set.
    place.run_with(&[("CRYOSTORE_STORAGE", ""), NOWHERE], arguments, code)
}

fn json(place: &Place, arguments: &[&str], code: i32) -> Value {
    let out = run(place, &[arguments, &["--json"]].concat(), code).0;
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["schema"], 1, "{arguments:?}");
    document
}

/// `NAME.tar`
fn archive(place: &Place, name: &str) {
    fs::write(place.path("words"), name.repeat(20_000)).unwrap();
    let mut tar = Command::new("tar");
    tar.current_dir(place.dir.path())
        .args(["-cf", &format!("{name}.tar"), "words"]);
    assert!(tar.status().unwrap().success());
}

/// Stores an archive of its own, and gives the snapshot's id.
fn import(place: &Place, storage: &str, name: &str) -> String {
    archive(place, name);
    let tar = format!("{name}.tar");
    let arguments = ["import", &tar, "--container", name, "--storage", storage];
    let report = json(place, &arguments, 0);
    report["snapshot"].as_str().unwrap().to_owned()
}

/// Repositories of these names with a snapshot each; the ids.
fn with<const N: usize>(names: [&str; N]) -> (Place, [String; N]) {
    let place = Place::new();
    let ids = names.map(|name| {
        run(&place, &["init", "--storage", name], 0);
        import(&place, name, name)
    });
    (place, ids)
}

fn path(place: &Place, name: &str) -> String {
    let path = place.dir.path().canonicalize().unwrap().join(name);
    path.display().to_string()
}

fn settings(place: &Place, text: &str) {
    fs::create_dir_all(place.path(".config/cryostore")).unwrap();
    fs::write(place.path(".config/cryostore/config.toml"), text).unwrap();
}

fn remembered(place: &Place) -> String {
    fs::read_to_string(place.path(".config/cryostore/storages.toml")).unwrap_or_default()
}

#[test]
fn an_id_is_found_without_a_storage_in_those_that_were_used() {
    let (place, [a, b]) = with(["a", "b"]);
    for (id, name) in [(&a, "a"), (&b, "b")] {
        let found = json(&place, &["inspect", &id[..8]], 0);
        assert_eq!(found["snapshot"]["identity"]["container"], name);
        run(&place, &["export", id, "-o", "out.tar"], 0);
        let stored = fs::read(place.path(&format!("{name}.tar"))).unwrap();
        assert!(fs::read(place.path("out.tar")).unwrap() == stored);
    }
    // What acts on one storage does not choose.
    for command in [
        &["import", "a.tar"][..],
        &["gc"],
        &["prune", "--keep-last", "1"],
        &["init"],
        &["stats"],
        &["check"],
    ] {
        let (_, err) = run(&place, command, 2);
        assert!(
            err.contains("configure --storage") && err.contains(&path(&place, "b")),
            "{err}"
        );
    }
    let (_, err) = run(&place, &["inspect", "latest"], 2);
    assert!(
        err.contains("/a#latest") && err.contains("/b#latest"),
        "{err}"
    );
    run(&place, &["pin", &b, "--reason", "x"], 0);
    run(&place, &["delete", &b], 6);
    run(&place, &["unpin", &b], 0);
    run(&place, &["delete", &a[..8], &b[..8]], 0);
    run(&place, &["inspect", &a], 3);
    run(&place, &["undelete", &b[..8]], 0);
    run(&place, &["inspect", &b], 0);
    run(&place, &["inspect", "00000000"], 3);
}

#[test]
fn a_storage_that_is_said_is_the_only_one() {
    let (place, [a, b]) = with(["a", "b"]);
    run(&place, &["inspect", &b, "--storage", "a"], 3);
    let only = [("CRYOSTORE_STORAGE", "a")];
    place.run_with(&only, &["inspect", &b], 3);
    let (text, _) = place.run_with(&only, &["ls"], 0);
    assert!(
        text.contains(&a[..8]) && !text.contains(&b[..8]) && !text.contains("STORAGE"),
        "{text}"
    );
    // Nearer than the variable.
    place.run_with(&only, &["inspect", &format!("b#{b}")], 0);
    run(&place, &["inspect", &format!("b#{b}"), "--storage", "b"], 0);
    run(&place, &["inspect", &format!("b#{b}"), "--storage", "a"], 2);
    run(&place, &["inspect", "b#latest"], 0);
    run(&place, &["inspect", &format!("a#{b}")], 3);
    run(&place, &["optimize", &format!("b#{b}")], 0);
    run(&place, &["copy", &format!("b#{b}"), "--to", "a"], 0);
    run(&place, &["import", "a.tar", "--base", &format!("b#{b}")], 0);
    run(&place, &["delete", &format!("b#{}", &b[..8])], 0);
    run(&place, &["undelete", &format!("b#{b}")], 0);
    run(&place, &["delete", "b#latest"], 2);
}

#[test]
fn the_default_is_asked_first_and_the_others_where_it_has_not_the_id() {
    let (place, [a, b]) = with(["a", "b"]);
    settings(&place, &format!("storage = \"{}\"\n", path(&place, "a")));
    run(&place, &["inspect", &a], 0);
    run(&place, &["inspect", &b], 0);
    let latest = json(&place, &["inspect", "latest"], 0);
    assert_eq!(latest["snapshot"]["id"], a.as_str(), "of the default");
    let stats = json(&place, &["stats"], 0);
    assert_eq!(stats["snapshots"][0]["id"], a.as_str());
    // The default's error is the error.
    settings(&place, &format!("storage = \"{}\"\n", path(&place, "gone")));
    let (_, err) = run(&place, &["inspect", &b], 3);
    assert!(err.contains("gone"), "{err}");
}

#[test]
fn what_is_in_two_storages_is_named_in_both_and_can_be_said_as_it_is_named() {
    let (place, [a, b, _]) = with(["a", "b", "c"]);
    for to in ["b", "c"] {
        run(&place, &["copy", "--to", to, &format!("a#{a}")], 0);
    }
    run(&place, &["configure", "--forget", "a"], 0);
    let (_, err) = run(&place, &["inspect", &a], 4);
    let names: Vec<_> = err
        .split_whitespace()
        .map(|word| word.trim_matches(','))
        .filter(|word| word.contains('#'))
        .collect();
    assert_eq!(names.len(), 2, "{err}");
    for name in names {
        let found = json(&place, &["inspect", name], 0);
        assert_eq!(found["snapshot"]["original"]["id"], a.as_str());
    }
    run(&place, &["inspect", &b], 0);
}

#[test]
fn ls_shows_all_storages_and_marks_one_that_does_not_answer() {
    let (place, [a, b]) = with(["a", "b"]);
    let (text, _) = run(&place, &["ls"], 0);
    assert!(
        text.contains("STORAGE") && text.contains(&path(&place, "b")),
        "{text}"
    );
    let list = json(&place, &["ls"], 0);
    let ids: Vec<_> = list["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [&b, &a], "the newest first");
    assert_eq!(list["snapshots"][0]["storage"], path(&place, "b"));
    let (text, _) = run(&place, &["ls", "--container", "a"], 0);
    assert!(text.contains(&a[..8]) && !text.contains(&b[..8]), "{text}");

    fs::rename(place.path("b"), place.path("away")).unwrap();
    let (text, _) = run(&place, &["ls"], 0);
    assert!(text.contains(&a[..8]) && !text.contains(&b[..8]), "{text}");
    assert!(
        text.contains(&format!("{} does not answer", path(&place, "b"))),
        "{text}"
    );
    let list = json(&place, &["ls"], 0);
    assert_eq!(list["storages"][1]["answers"], false);
    // A start of an id may be in the one that is away: it is said, and nothing is deleted.
    let (_, err) = run(&place, &["inspect", &a[..8]], 0);
    assert!(err.contains("is not known"), "{err}");
    run(&place, &["delete", &a[..8]], 1);
    run(&place, &["delete", &a], 0);
    run(&place, &["inspect", &b], 3);

    fs::rename(place.path("a"), place.path("away2")).unwrap();
    let (_, err) = run(&place, &["ls"], 3);
    assert!(err.contains("no storage answers"), "{err}");
    run(&place, &["configure", "--forget", &path(&place, "a")], 0);
    run(&place, &["configure", "--forget", "b"], 0);
    run(&place, &["configure", "--forget", "b"], 3);
    run(&place, &["ls"], 2);
}

#[test]
fn with_one_storage_there_is_no_column_for_it() {
    let (place, [a]) = with(["a"]);
    for text in ["", &format!("storage = \"{}/\"\n", path(&place, "a"))] {
        settings(&place, text);
        let (text, _) = run(&place, &["ls"], 0);
        assert!(
            text.contains(&a[..8]) && !text.contains("STORAGE"),
            "{text}"
        );
        let list = json(&place, &["ls"], 0);
        assert!(
            list["storages"].is_null() && list["snapshots"][0]["storage"].is_null(),
            "{list}"
        );
        let latest = json(&place, &["inspect", "latest"], 0);
        assert_eq!(latest["snapshot"]["id"], a.as_str());
    }
    // By a link, it is the same one.
    std::os::unix::fs::symlink(place.path("a"), place.path("link")).unwrap();
    settings(&place, &format!("storage = \"{}\"\n", path(&place, "link")));
    let (text, _) = run(&place, &["ls"], 0);
    assert!(
        text.contains(&a[..8]) && !text.contains("STORAGE"),
        "{text}"
    );
}

#[test]
fn one_that_hangs_holds_the_others_up_for_seconds_only() {
    let (place, [a]) = with(["a"]);
    // Takes connections, and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let text = format!(
        "{}\n[[storage]]\nurl = \"s3://b/p\"\n[storage.options]\nendpoint = \"{endpoint}\"\nallow_http = \"true\"\nskip_signature = \"true\"\n",
        remembered(&place)
    );
    fs::write(place.path(".config/cryostore/storages.toml"), text).unwrap();
    let started = Instant::now();
    let (text, _) = run(&place, &["ls"], 0);
    assert!(started.elapsed() < Duration::from_secs(40));
    assert!(
        text.contains(&a[..8]) && text.contains("s3://b/p does not answer: no answer within"),
        "{text}"
    );
}

#[test]
fn no_secret_is_remembered_and_only_the_owner_reads_what_is() {
    let place = Place::new();
    fs::write(place.path("words.txt"), "correct horse battery\n").unwrap();
    run(
        &place,
        &["init", "--storage", "file", "--key-file", "my.key"],
        0,
    );
    run(
        &place,
        &[
            "init",
            "--storage",
            "words",
            "--passphrase-file",
            "words.txt",
        ],
        0,
    );
    run(
        &place,
        &[
            "init",
            "--storage",
            "command",
            "--key-command",
            "echo 0123456789abcdef",
        ],
        0,
    );
    let variables = [
        ("CRYOSTORE_STORAGE", "variable"),
        ("CRYOSTORE_PASSPHRASE", "hush hush hush"),
    ];
    place.run_with(&variables, &["init"], 0);
    let file = place.path(".config/cryostore/storages.toml");
    let mode = fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = remembered(&place);
    assert!(!text.contains("hush") && !text.contains("horse"), "{text}");
    // Where the keys are is known; of the passphrase in a variable nothing is.
    let list = json(&place, &["ls"], 0);
    let answers: Vec<_> = list["storages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["answers"].as_bool().unwrap())
        .collect();
    assert_eq!(answers, [true, true, true, false], "{list}");
    run(&place, &["ls", "--storage", "file"], 0);
    run(
        &place,
        &[
            "ls",
            "--storage",
            "file",
            "--key-command",
            "echo 0123456789abcdef",
        ],
        8,
    );
    let status = json(&place, &["status"], 0);
    let key = |n: usize| {
        status["storages"][n]["key"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert!(key(0).contains("my.key") && key(1).contains("words.txt") && key(2).contains("echo"));
    let set = [("CRYOSTORE_STORAGE", ""), variables[1]];
    let (out, _) = place.run_with(&set, &["ls", "--json"], 0);
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list["storages"][3]["answers"], true, "{list}");
}

#[test]
fn a_home_that_cannot_be_written_to_is_no_error() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    let home = [
        ("XDG_CONFIG_HOME", "/proc/nowhere"),
        ("CRYOSTORE_STORAGE", "a"),
    ];
    place.run_with(&home, &["init", "--no-encryption"], 0);
    place.run_with(&home, &["ls"], 0);
    // Nor is a file that nobody understands, unless it is needed.
    settings(&place, "");
    fs::write(place.path(".config/cryostore/storages.toml"), "storage = [").unwrap();
    run(&place, &["ls", "--storage", "a"], 0);
    let (_, err) = run(&place, &["ls"], 2);
    assert!(err.contains("storages.toml, line 1"), "{err}");
    settings(&place, &format!("storage = \"{}\"\n", path(&place, "a")));
    let (_, err) = run(&place, &["ls"], 0);
    assert_eq!(err.matches("only the default is asked").count(), 1, "{err}");
    run(&place, &["inspect", "00000000"], 3);
}

#[test]
fn the_folder_of_the_kubelet_shows_what_is_not_stored_and_takes_no_repository() {
    let place = Place::new();
    let folder = place.path("kubelet/checkpoints");
    fs::create_dir_all(&folder).unwrap();
    let storage = folder.to_str().unwrap();
    for command in [&["init"][..], &["configure", "--init"]] {
        let (_, err) = run(&place, &[command, &["--storage", storage]].concat(), 6);
        assert!(err.contains("kubelet"), "{err}");
        let inside = format!("{storage}/new");
        run(&place, &[command, &["--storage", &inside]].concat(), 6);
    }
    run(&place, &["ls", "--storage", storage], 0);
    let name = "checkpoint-web-0_default-nginx-2026-09-01T10:20:30Z.tar";
    fs::write(folder.join(name), "x").unwrap();
    let (text, _) = run(&place, &["ls", "--storage", storage], 0);
    assert!(
        text.contains("not stored") && text.contains("default/web-0/nginx") && text.contains(name),
        "{text}"
    );
    let list = json(&place, &["ls", "--storage", storage, "--pod", "web-0"], 0);
    assert_eq!(list["not_stored"][0]["bytes"], 1);
    let list = json(&place, &["ls", "--storage", storage, "--pod", "db"], 0);
    assert!(list["not_stored"].is_null());
    run(&place, &["init", "--storage", storage], 6);
    run(
        &place,
        &["export", "latest", "--storage", storage, "-o", "x.tar"],
        3,
    );
    let status = json(&place, &["status", "--storage", storage], 0);
    assert_eq!(status["storages"][0]["not_stored"], 1);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
}

#[test]
fn status_shows_each_storage_whether_it_answers_or_not() {
    let (place, [_, _]) = with(["a", "b"]);
    run(
        &place,
        &["init", "--storage", "clear", "--no-encryption"],
        0,
    );
    settings(&place, &format!("storage = \"{}\"\n", path(&place, "b")));
    fs::rename(place.path("a"), place.path("away")).unwrap();
    let status = json(&place, &["status"], 0);
    let all = status["storages"].as_array().unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(
        (&all[0]["storage"], &all[0]["default"]),
        (&Value::from(path(&place, "b")), &Value::from(true))
    );
    assert_eq!(
        (&all[0]["snapshots"], &all[0]["encrypted"]),
        (&Value::from(1), &Value::from(true))
    );
    assert!(all[0]["free_bytes"].as_u64().unwrap() > 0 && all[0]["newest"].is_string());
    assert!(all[0]["key"].as_str().unwrap().ends_with(".key"));
    assert_eq!(all[1]["answers"], false);
    assert!(all[1]["error"].is_string());
    assert_eq!(all[2]["encrypted"], false);
    let (text, _) = run(&place, &["status"], 0);
    assert!(text.contains("FREE") && text.contains("ANSWERS"), "{text}");
    let alone = json(&place, &["status", "--storage", "b"], 0);
    assert_eq!(alone["storages"].as_array().unwrap().len(), 1);
    // Without any it is no error.
    let (_, err) = run(&Place::new(), &["status"], 0);
    assert!(err.contains("no storage is known"), "{err}");
}

#[test]
fn a_label_is_found_by_its_whole_text_or_by_its_key() {
    let place = Place::new();
    run(&place, &["init", "--storage", "a"], 0);
    archive(&place, "x");
    let import = [
        "import",
        "x.tar",
        "--storage",
        "a",
        "--label",
        "before-upgrade",
        "--label",
        "why=test, really",
    ];
    run(&place, &import, 0);
    for (label, found) in [
        ("before-upgrade", 1),
        ("why", 1),
        ("why=test, really", 1),
        ("before", 0),
        ("why=", 0),
        ("test", 0),
    ] {
        let list = json(&place, &["ls", "--label", label], 0);
        assert_eq!(
            list["snapshots"].as_array().unwrap().len(),
            found,
            "{label}"
        );
    }
}

#[test]
fn a_repository_in_clear_in_the_place_of_one_whose_key_is_remembered_is_refused() {
    let place = Place::new();
    run(
        &place,
        &["init", "--storage", "a", "--key-file", "a.key"],
        0,
    );
    run(
        &place,
        &["init", "--storage", "clear", "--no-encryption"],
        0,
    );
    // Another's key is no reason to refuse one that was always in clear.
    let a = place.path("a");
    settings(
        &place,
        &format!(
            "storage = \"{}\"\nkey_file = \"{}\"\n",
            a.display(),
            place.path("a.key").display()
        ),
    );
    run(&place, &["ls", "--storage", "clear"], 0);
    let list = json(&place, &["ls"], 0);
    assert!(
        list["storages"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["answers"] == true),
        "{list}"
    );

    settings(&place, "");
    fs::rename(&a, place.path("away")).unwrap();
    fs::rename(place.path("clear"), &a).unwrap();
    let (_, err) = run(&place, &["ls", "--storage", "a", "--no-cache"], 8);
    assert!(err.contains("is not encrypted"), "{err}");
}
