//! The program as its users meet it: that flags arrive, and that output and exit codes keep their shape. What is stored is tested elsewhere.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::{Path, PathBuf};

use place::Place;
use serde_json::Value;

mod place;

const COMMANDS: [&str; 19] = [
    "init",
    "checkpoint",
    "import",
    "export",
    "ls",
    "inspect",
    "delete",
    "stats",
    "gc",
    "check",
    "repair",
    "copy",
    "optimize",
    "rebuild-index",
    "cache",
    "serve-node",
    "demo",
    "completions",
    "man",
];

fn with_repository() -> Place {
    let place = Place::new();
    place.run(&["init"], 0);
    place
}

fn import(place: &Place, seed: u8, arguments: &[&str]) -> String {
    let name = format!("{seed}.tar");
    std::fs::write(place.path(&name), tar(seed)).unwrap();
    let report = place.json(&[&["import", &name], arguments].concat(), 0);
    report["snapshot"].as_str().unwrap().to_owned()
}

/// A tar of two members.
fn tar(seed: u8) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, len) in [("config.dump", 2_usize), ("blob", 300_000)] {
        let mut header = [0_u8; 512];
        let mut put =
            |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, "0000644\0");
        put(124, &format!("{len:011o}\0"));
        put(136, "00000000000\0");
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        let mut state = u32::from(seed) + 1;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3]
        };
        match name {
            "config.dump" => out.extend_from_slice(b"{}"),
            _ => out.extend((0..len).map(|_| noise())),
        }
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn every_command_has_help_with_examples() {
    let place = Place::new();
    let (help, _) = place.run(&["help"], 0);
    assert!(help.contains("Exit codes:") && help.contains("CRYOSTORE_STORAGE"));
    for command in COMMANDS {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command} is not listed"
        );
        let (help, _) = place.run(&[command, "--help"], 0);
        assert!(help.contains("\nExamples:\n  cryostore "), "{command}");
    }
}

#[test]
fn an_archive_goes_in_and_comes_back_until_it_is_deleted() {
    let place = with_repository();
    let first = import(
        &place,
        1,
        &[
            "--pod",
            "web",
            "--namespace",
            "default",
            "--container",
            "app",
            "--label",
            "why=test",
        ],
    );
    let second = import(&place, 2, &["--container", "other"]);

    let list = place.json(&["ls"], 0);
    let ids: Vec<_> = list["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [&second, &first], "the newest first");
    let (table, _) = place.run(&["ls", "--label", "why"], 0);
    assert!(
        table.contains(&first[..8])
            && table.contains("default/web/app")
            && !table.contains(&second[..8]),
        "{table}"
    );

    place.run(&["export", &first[..8], "-o", "back.tar"], 0);
    assert_eq!(read(&place.path("back.tar")), tar(1));
    place.run(
        &[
            "export", "latest", "--pod", "web", "-o", "web.tar", "--fsync",
        ],
        0,
    );
    assert_eq!(read(&place.path("web.tar")), tar(1));
    let piped = place
        .command(&["export", "latest", "--json"])
        .output()
        .unwrap();
    assert_eq!(piped.stdout, tar(2));
    let report: Value = serde_json::from_slice(&piped.stderr).unwrap();
    assert_eq!(
        (report["schema"].as_u64(), report["bytes"].as_u64()),
        (Some(1), Some(tar(2).len() as u64))
    );
    place.run(&["export", &first, "--dir", "out"], 0);
    assert_eq!(read(&place.path("out/config.dump")), b"{}");

    let inspected = place.json(&["inspect", &first], 0);
    assert_eq!(inspected["members"][1]["name"], "blob");
    assert_eq!(inspected["snapshot"]["identity"]["pod"], "web");
    assert_eq!(place.json(&["check", "--read-data"], 0)["ok"], true);
    assert_eq!(place.json(&["stats"], 0)["logical_bytes"], 2 * tar(1).len());
    assert_eq!(place.json(&["rebuild-index"], 0)["packs"], 2);
    // Of a directory there are no copies of packs.
    let cache = place.json(&["cache", "--cache-size", "1G"], 0);
    assert!(cache["packs_at_most"].is_null() && cache["directories"]["files"] == 2);
    let cleared = place.json(&["cache", "clear"], 0);
    assert_eq!(cleared["removed"]["files"], 2);
    place.run(&["cache", "--no-cache"], 2);
    // Two packs that came one after the other are in order already.
    let optimized = place.json(&["optimize"], 0);
    assert_eq!(optimized["snapshots"][0]["id"], second.as_str());
    assert!(optimized["snapshots"][0]["after"].is_null());
    place.run(&["optimize", "0000000000"], 3);

    assert_eq!(
        place.json(&["delete", &first[..8]], 0)["deleted"][0]["id"],
        first.as_str()
    );
    let dry = place.json(&["gc", "--dry-run", "--grace", "0"], 0);
    assert_eq!(
        (
            dry["removed"].as_bool(),
            dry["garbage"].as_array().unwrap().is_empty()
        ),
        (Some(false), false)
    );
    place.run(&["prune"], 2);
    let pruned = place.json(&["prune", "--max-checkpoints", "1", "--dry-run"], 0);
    assert_eq!(
        (pruned["kept"].as_u64(), pruned["deleted"].as_u64()),
        (Some(1), Some(0))
    );
    // Within the grace time it can be brought back.
    assert_eq!(place.json(&["gc"], 0)["in_grace"], 1);
    assert_eq!(
        place.json(&["undelete"], 0)["deleted"][0]["id"],
        first.as_str()
    );
    place.json(&["undelete", &first[..8]], 0);
    place.json(&["pin", &first[..8], "--reason", "audit"], 0);
    place.run(&["delete", &first], 6);
    place.json(&["unpin", &first[..8]], 0);
    place.json(&["delete", &first], 0);
    let would = place.json(&["gc", "--dry-run", "--max-repack", "1G"], 0);
    assert_eq!(would["repacked"]["bytes_added"], 0);
    let emptied = place.json(&["gc", "--max-repack", "1G"], 0);
    assert_eq!(emptied["repacked"]["left"], 0);
    place.run(&["gc", "--max-repack", "much"], 2);
    let removed = place.json(&["gc", "--grace", "0"], 0);
    assert_eq!(removed["bytes"], dry["bytes"]);
    assert_eq!(place.json(&["gc", "--grace", "0"], 0)["bytes"], 0);
    place.run(&["undelete", &first], 3);
    place.run(&["export", &first, "-o", "gone.tar"], 3);
    place.run(&["export", &second, "-o", "two.tar"], 0);
    assert_eq!(read(&place.path("two.tar")), tar(2));
}

#[test]
fn a_tar_on_standard_input_is_taken() {
    let place = with_repository();
    let output = place
        .command(&["import", "-", "--json", "--label", "piped"])
        .write_stdin(tar(3))
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in [
        "snapshot",
        "identity",
        "archive",
        "bytes_read",
        "bytes_added",
        "seconds",
        "warnings",
    ] {
        assert!(!report[key].is_null(), "{key}");
    }
    let sum: u64 = ["zero", "same", "elsewhere", "new"]
        .iter()
        .map(|class| report["classes"][class]["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, tar(3).len() as u64);
    let warnings = String::from_utf8(output.stderr).unwrap();
    assert!(
        warnings
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).unwrap()["warning"].is_string()),
        "{warnings}"
    );
}

#[test]
fn an_empty_list_is_a_success() {
    let place = with_repository();
    let (out, err) = place.run(&["ls"], 0);
    assert!(
        out.is_empty() && err.contains("cryostore import"),
        "{out}{err}"
    );
    assert_eq!(place.run(&["ls", "-q"], 0), (String::new(), String::new()));
    assert_eq!(
        place.json(&["ls"], 0)["snapshots"],
        Value::Array(Vec::new())
    );
}

#[test]
fn failures_say_what_to_do_and_have_their_exit_codes() {
    let place = Place::new();
    std::fs::create_dir(place.path("foreign")).unwrap();
    std::fs::write(place.path("foreign/letter.txt"), "dear").unwrap();
    std::fs::write(place.path("no.tar"), [b'x'; 2000]).unwrap();
    std::fs::write(place.path("cut.tar"), &tar(1)[..5000]).unwrap();
    let cases: [(&[&str], i32); 12] = [
        (&["ls"], 3),
        (&["ls", "--storage", "foreign"], 3),
        (&["init", "--storage", "foreign"], 6),
        (&["ls", "--storage", "no.tar"], 4),
        (&["ls", "--storage", "ftp://x"], 9),
        (&["init"], 0),
        (&["init"], 6),
        (&["import", "missing.tar"], 3),
        (&["import", "no.tar"], 4),
        (&["import", "cut.tar"], 4),
        (&["export", "latest", "-o", "x.tar"], 3),
        (&["delete", "latest"], 2),
    ];
    for (arguments, code) in cases {
        let (_, err) = place.run(arguments, code);
        if code != 0 {
            assert!(
                err.starts_with("error: ") && err.contains("\nhelp: "),
                "{arguments:?}: {err}"
            );
            let (_, err) = place.run(&[arguments, &["--json"]].concat(), code);
            let object: Value = serde_json::from_str(&err).unwrap();
            assert_eq!(
                (
                    object["schema"].as_u64(),
                    object["error"]["exit_code"].as_i64()
                ),
                (Some(1), Some(code.into()))
            );
            assert!(
                object["error"]["kind"].is_string() && object["error"]["advice"].is_string(),
                "{err}"
            );
        }
    }
    for arguments in [
        &["ls", "--since", "7x"][..],
        &["lst"],
        &["export"],
        &["ls", "-q", "-v"],
    ] {
        place.run(arguments, 2);
    }
    assert!(!place.path("x.tar").exists());
}

#[test]
fn damage_is_found_and_gives_exit_code_5() {
    let place = with_repository();
    let id = import(&place, 1, &[]);
    let manifests = place.path("repository/manifests");
    let manifest = std::fs::read_dir(manifests)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(&manifest, "damaged").unwrap();
    let report = place.json(&["check"], 5);
    assert_eq!(
        (report["ok"].as_bool(), report["lost_snapshots"][0].as_str()),
        (Some(false), Some(id.as_str()))
    );
    let (text, _) = place.run(&["check"], 5);
    assert!(
        text.contains("manifests/") && text.contains(&id[..8]),
        "{text}"
    );
}

#[test]
fn what_is_lost_is_named_and_healed_by_a_second_import() {
    let place = with_repository();
    let id = import(&place, 1, &[]);
    let verified = &place.json(&["check", "--read-data-subset", "5%"], 0)["verified"];
    assert_eq!(
        (verified["now"].as_u64(), verified["of"].as_u64()),
        (Some(1), Some(1))
    );
    place.run(&["check", "--read-data-subset", "5 %"], 2);
    assert_eq!(place.json(&["repair"], 0)["ok"], true);
    let pack = files(&place.path("repository/packs")).remove(0);
    let mut bytes = read(&pack);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let dry = place.json(&["repair", "--dry-run"], 5);
    assert_eq!(dry["lost"][0]["id"], id.as_str());
    let (text, _) = place.run(&["repair"], 5);
    assert!(text.contains("LOST") && text.contains(&id[..8]), "{text}");
    let second = import(&place, 1, &[]);
    let report = place.json(&["repair", "--read-data-subset", "0%"], 0);
    assert_eq!(report["healed"][0]["id"], id.as_str());
    assert_eq!(report["healed"][0]["from"], second.as_str());
    place.run(&["export", &id, "-o", "back.tar"], 0);
    assert!(read(&place.path("back.tar")) == tar(1));
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn a_wrong_key_in_the_users_file_is_named() {
    let place = Place::new();
    std::fs::create_dir_all(place.path(".config/cryostore")).unwrap();
    std::fs::write(place.path(".config/cryostore/config.toml"), "storge = '/x'").unwrap();
    let (_, err) = place.run(&["ls"], 2);
    assert!(
        err.contains("config.toml") && err.contains("`storge`"),
        "{err}"
    );
    place.run(&["completions", "bash"], 0);
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let (script, _) = place.run(&["completions", shell], 0);
        assert!(
            COMMANDS.iter().all(|command| script.contains(command)),
            "{shell}"
        );
    }
    let (page, _) = place.run(&["man"], 0);
    assert!(
        page.contains(".SH EXAMPLES") && page.contains(".SH \"EXIT CODES\"")
            || page.contains(".SH EXIT CODES")
    );
    place.run(&["man", "--dir", "pages"], 0);
    for command in COMMANDS {
        assert!(
            place.path(&format!("pages/cryostore-{command}.1")).exists(),
            "{command}"
        );
    }
}

#[test]
fn the_demo_gives_the_same_bytes_back_and_tidies_up() {
    let place = Place::new();
    let report = place.json(&["demo", "demo", "--count", "2", "--mib", "2"], 0);
    assert_eq!(
        (
            report["identical"].as_bool(),
            report["checkpoints"].as_array().unwrap().len()
        ),
        (Some(true), 2)
    );
    let left: Vec<_> = std::fs::read_dir(place.path("demo"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["repository"]);
    place.run(&["demo", "demo"], 6);
}

#[test]
fn what_a_name_would_do_to_a_terminal_is_escaped() {
    let place = with_repository();
    import(
        &place,
        1,
        &["--container", "a\u{1b}[31mb", "--label", "x\ny"],
    );
    for arguments in [&["ls"][..], &["inspect", "latest"], &["stats"]] {
        let (out, _) = place.run(arguments, 0);
        assert!(
            !out.contains('\u{1b}') && out.contains("a\\u{1b}[31mb"),
            "{out}"
        );
    }
}
