//! What the pages tell people to type: every line is a command that there is, and `move-to-s3.md` is typed word by word against an S3 server.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Cargo runs tests in the folder of their package.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir("../docs").unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = docs
        .filter(|path| path.extension().is_some_and(|kind| kind == "md"))
        .collect();
    pages.push("../README.md".into());
    pages.sort();
    pages
}

/// What is typed in the blocks of a page: all lines of `sh`, and those behind a prompt of `console`.
fn typed(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let mut out = Vec::new();
    let mut block = None;
    for line in text.lines().map(str::trim) {
        match (line.strip_prefix("```"), block) {
            (Some(_), Some(_)) => block = None,
            (Some(kind), None) => block = Some(kind),
            (None, Some("sh")) => out.push(line.to_owned()),
            (None, Some("console")) => {
                let command = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "));
                out.extend(command.map(str::to_owned));
            }
            _ => {}
        }
    }
    out
}

/// The program under its three names, in a folder for PATH.
fn names(dir: &Path) {
    for name in ["cryostore", "clouder", "kubectl-criu"] {
        symlink(env!("CARGO_BIN_EXE_cryostore"), dir.join(name)).unwrap();
    }
}

#[test]
fn every_command_and_every_option_of_the_pages_is_one_that_there_is() {
    let place = TempDir::new().unwrap();
    names(place.path());
    let mut seen = 0;
    for page in pages() {
        for line in typed(&page) {
            let line = line.split([';', '|', '>', '#']).next().unwrap().trim();
            let mut words = line.split_whitespace();
            let call = match (words.next(), words.next()) {
                (Some("cryostore"), Some(command)) => format!("cryostore {command}"),
                (Some("clouder"), Some("criu")) => {
                    format!("clouder criu {}", words.next().unwrap())
                }
                (Some("kubectl"), Some("criu")) => {
                    format!("kubectl-criu {}", words.next().unwrap())
                }
                _ => continue,
            };
            seen += 1;
            let mut call = call.split_whitespace();
            let help = Command::new(place.path().join(call.next().unwrap()))
                .args(call)
                .arg("--help")
                .env_clear()
                .output()
                .unwrap();
            assert!(help.status.success(), "{}: {line}", page.display());
            let help = String::from_utf8(help.stdout).unwrap();
            for option in words.filter(|word| word.starts_with("--")) {
                let name = option.split('=').next().unwrap();
                let known = help
                    .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
                    .any(|word| word == name);
                assert!(known, "{}: {name} in {line}", page.display());
            }
        }
    }
    assert!(seen > 20, "{seen} commands");
}

/// Types lines into a shell.
fn type_in(lines: &[String], dir: &Path, home: &Path, server: &str) {
    fs::create_dir_all(home).unwrap();
    let script = format!("set -eu\n{}\n", lines.join("\n"));
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(dir)
        .env_clear()
        .env("HOME", home)
        .env("PATH", format!("{}:/usr/bin:/bin", dir.display()))
        .env("AWS_ENDPOINT_URL", server)
        .env("CRYOSTORE_STORAGE_OPTIONS", "allow_http=true")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{script}\n{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// The first file below a folder whose path has this in it.
fn find(dir: &Path, part: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find_map(|path| {
            if path.is_dir() {
                find(&path, part)
            } else {
                path.to_str()?.contains(part).then_some(path)
            }
        })
}

#[test]
fn the_way_from_a_folder_to_a_bucket_can_be_typed_as_it_stands() {
    let Ok(server) = std::env::var("CRYOSTORE_TEST_S3") else {
        println!("skipped: CRYOSTORE_TEST_S3 is not set; `make test` starts the server");
        return;
    };
    let mut words = server.split_whitespace();
    let bucket = words.next().unwrap();
    let endpoint = words
        .find_map(|word| word.strip_prefix("endpoint="))
        .unwrap();
    let dir = TempDir::new().unwrap();
    names(dir.path());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let place = format!("{bucket}/docs-{}", std::process::id());
    let lines: Vec<_> = typed(Path::new("../docs/move-to-s3.md"))
        .iter()
        .map(|line| {
            line.replace("s3://checkpoints/cluster-1", &place)
                .replace("/srv/checkpoints", &path("folder"))
                .replace("/var/lib/kubelet/checkpoints", &path("kubelet"))
                .replace("/etc/cryostore/key", &path("key"))
        })
        .collect();
    let last = lines.iter().position(|line| line.contains("--key-file"));
    let (first, second) = lines.split_at(last.unwrap());

    // What there was before.
    fs::create_dir(dir.path().join("kubelet")).unwrap();
    let tar = |name: &str, words: &str| {
        fs::write(path("words"), words.repeat(9000)).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["-cf", &path(name), "-C", &path(""), "words"]);
        assert!(tar.status().unwrap().success());
    };
    tar("old.tar", "one");
    tar(
        "kubelet/checkpoint-web_shop-app-2026-11-21T00:00:00Z.tar",
        "two",
    );
    let folder = path("folder");
    let before = [
        format!("cryostore init --storage {folder}"),
        format!("cryostore import --storage {folder} old.tar"),
    ];
    let home = dir.path().join("home");
    type_in(&before, dir.path(), &home, endpoint);

    type_in(first, dir.path(), &home, endpoint);
    // The key of the bucket, not that of the folder: the second that was made.
    let shown = Command::new(dir.path().join("cryostore"))
        .args(["configure", "--json"])
        .env_clear()
        .env("HOME", &home)
        .output()
        .unwrap();
    let keys = find(&home, "key").map(|file| file.parent().unwrap().to_owned());
    let mut keys: Vec<_> = fs::read_dir(keys.unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    keys.sort_by_key(|file| fs::metadata(file).unwrap().modified().unwrap());
    assert_eq!(keys.len(), 2, "{}", String::from_utf8_lossy(&shown.stdout));
    fs::copy(&keys[1], path("key")).unwrap();
    let mut there = vec![first[0].clone()];
    there.extend_from_slice(second);
    type_in(&there, dir.path(), &dir.path().join("other"), endpoint);
    let kubelets = path("kubelet/checkpoint-web_shop-app-2026-11-21T00:00:00Z.tar");
    assert_eq!(
        fs::read(path("checkpoint.tar")).unwrap(),
        fs::read(kubelets).unwrap()
    );
}
