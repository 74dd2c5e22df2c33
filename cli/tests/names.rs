//! The program under its other names: `clouder criu` and `kubectl criu`, by links to it.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use place::Place;

mod place;

/// Runs the program by a link of this name, beside the test's place.
fn run(place: &Place, link: &str, arguments: &[&str], code: i32) -> (String, String) {
    let path = place.path(link);
    if !path.exists() {
        symlink(env!("CARGO_BIN_EXE_cryostore"), &path).unwrap();
    }
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(path)
        .env_clear()
        .env("HOME", place.dir.path())
        .env("PATH", "/usr/bin:/bin")
        .env("KUBECONFIG", "/nowhere/kubeconfig")
        .current_dir(place.dir.path())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(stdout), text(stderr));
    assert_eq!(status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
    (out, err)
}

const NAMES: [(&str, &[&str], &str); 2] = [
    ("clouder", &["criu"], "clouder criu"),
    ("kubectl-criu", &[], "kubectl criu"),
];

#[test]
fn every_command_works_under_every_name_and_speaks_it() {
    for (link, first, name) in NAMES {
        let place = Place::new();
        let call = |arguments: &[&str], code| run(&place, link, &[first, arguments].concat(), code);
        call(&["configure", "--storage", "store", "--init"], 0);
        let (_, err) = call(&["ls"], 0);
        assert!(err.contains(&format!("`{name} import ARCHIVE`")), "{err}");
        let (_, err) = call(&["inspect", "00000000"], 3);
        assert!(err.contains(&format!("`{name} ls`")), "{err}");
        let (_, err) = call(&["inspect", "00000000", "--json"], 3);
        assert!(err.contains(&format!("`{name} ls`")), "{err}");
        let (_, err) = call(&["lst"], 2);
        assert!(err.contains(&format!("Usage: {name} ")), "{err}");
        let (help, _) = call(&["ls", "--help"], 0);
        assert!(help.contains(&format!("Usage: {name} ls ")), "{help}");
        assert!(help.contains(&format!("Examples:\n  {name} ls")), "{help}");
        assert!(!help.contains("cryostore ls"), "{help}");
        let (help, _) = call(&["help"], 0);
        let listed: Vec<_> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take(5)
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let seven = [
            "checkpoint",
            "ls",
            "inspect",
            "delete",
            "restore",
            "configure",
            "status",
        ];
        assert!(
            listed.iter().all(|command| seven.contains(command)),
            "{listed:?}"
        );
        let file = name.replace(' ', "-");
        call(&["man", "--dir", "pages"], 0);
        let page = std::fs::read_to_string(place.path(&format!("pages/{file}-ls.1"))).unwrap();
        assert!(page.contains(&format!("{name} ls")), "{page}");
        assert!(place.path(&format!("pages/{file}.1")).exists());
        let (script, _) = call(&["completions", "bash"], 0);
        assert!(script.contains(link) && script.contains("inspect"));
        assert!(!script.contains("cryostore ls"));
        let (version, _) = call(&["--version"], 0);
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    }
}

#[test]
fn clouder_without_criu_says_what_is_meant() {
    let place = Place::new();
    for arguments in [&["ls"][..], &["--storage", "x", "ls"]] {
        let (out, err) = run(&place, "clouder", arguments, 2);
        assert!(out.is_empty() && err.contains("`clouder criu ls`"), "{err}");
    }
    for arguments in [&[][..], &["help"], &["--help"], &["--version"]] {
        let (out, _) = run(&place, "clouder", arguments, 0);
        assert!(out.contains("clouder criu help"), "{out}");
    }
    // Alone, as the program itself does.
    let (_, err) = run(&place, "clouder", &["criu"], 2);
    assert!(err.contains("Usage: clouder criu "), "{err}");
}

#[test]
fn completions_of_clouder_know_the_word_criu() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let (script, _) = run(&place, "clouder", &["criu", "completions", shell], 0);
        assert!(
            script.contains("clouder") && script.contains("criu") && script.contains("inspect"),
            "{shell}"
        );
    }
}

#[test]
fn the_commands_of_the_cycle_that_need_no_cluster_work_as_they_are_written() {
    for (link, first, _) in NAMES {
        let place = Place::new();
        let call = |arguments: &[&str], code| run(&place, link, &[first, arguments].concat(), code);
        call(&["configure", "--storage", "checkpoints", "--init"], 0);
        std::fs::write(place.path("words"), "x".repeat(9000)).unwrap();
        let mut tar = Command::new("tar");
        tar.current_dir(place.dir.path())
            .args(["-cf", "a.tar", "words"]);
        assert!(tar.status().unwrap().success());
        let mut ids = Vec::new();
        for pod in ["web", "db"] {
            let import = [
                "import",
                "a.tar",
                "--pod",
                pod,
                "--namespace",
                "prod",
                "--container",
                "c",
                "--label",
                "before-upgrade",
                "--json",
            ];
            let report: serde_json::Value = serde_json::from_str(&call(&import, 0).0).unwrap();
            ids.push(report["snapshot"].as_str().unwrap().to_owned());
        }
        let ls = [
            "ls",
            "--pod",
            "web",
            "--namespace",
            "prod",
            "--label",
            "before-upgrade",
            "--storage",
            "checkpoints",
        ];
        let (text, _) = call(&ls, 0);
        assert!(
            text.contains(&ids[0][..8]) && !text.contains(&ids[1][..8]),
            "{text}"
        );
        let (text, _) = call(&["ls"], 0);
        assert!(ids.iter().all(|id| text.contains(&id[..8])), "{text}");
        let (text, _) = call(&["inspect", &ids[0][..8]], 0);
        assert!(text.contains("prod/web/c"), "{text}");
        let (text, _) = call(&["stats"], 0);
        assert!(text.contains("2 snapshots"), "{text}");
        let (text, _) = call(&["status"], 0);
        assert!(text.contains("checkpoints  yes"), "{text}");
        call(&["export", &ids[1], "-o", "b.tar"], 0);
        let (text, _) = call(&["delete", &ids[0], &ids[1]], 0);
        assert_eq!(text.matches("deleted ").count(), 2, "{text}");
        let name = if link == "clouder" {
            "clouder criu"
        } else {
            "kubectl criu"
        };
        assert!(text.contains(&format!("`{name} gc` runs")), "{text}");
    }
}

#[test]
fn bash_completes_the_words_behind_clouder_criu() {
    let place = Place::new();
    let (script, _) = run(&place, "clouder", &["criu", "completions", "bash"], 0);
    std::fs::write(place.path("script"), script).unwrap();
    let complete = |words: &[&str]| {
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let line = format!(
            "source ./script; COMP_WORDS=({}); COMP_CWORD={}; _clouder clouder '{last}' '{before}'; echo \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words.len() - 1
        );
        let mut bash = Command::new("bash");
        bash.current_dir(place.dir.path()).args(["-c", &line]);
        String::from_utf8(bash.output().unwrap().stdout).unwrap()
    };
    assert_eq!(complete(&["clouder", "c"]).trim(), "criu");
    assert!(complete(&["clouder", "criu", "stat"]).contains("status"));
    assert!(complete(&["clouder", "criu", "ls", "--st"]).contains("--storage"));
}
