//! Dependencies go one way: modules of the engine use lower storeys only, and crates are used in the order of the map.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cryostore_tests::archives::package;

/// The storeys of the engine, lowest first; `lib.rs` stands above all.
const STOREYS: &[&[&str]] = &[
    &[
        "error",
        "limits",
        "memory",
        "env",
        "monitor",
        "bridge",
        "node_file",
    ],
    &["archive", "criu", "chunk", "codec"],
    &["store"],
    &["pack", "index"],
    &["repo"],
    &[
        "ingest", "restore", "gc", "prune", "check", "rebuild", "stats",
    ],
    &["copy", "contents"],
];

fn root() -> PathBuf {
    package().parent().unwrap().to_path_buf()
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The modules that a source names by `crate::…`, comments left out.
fn used(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let mut out = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let list = rest.strip_prefix('{').map_or_else(
            || vec![rest],
            |list| {
                list.split('}')
                    .next()
                    .unwrap()
                    .split(',')
                    .map(str::trim)
                    .collect()
            },
        );
        for item in list {
            let name: String = item
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            out.insert(name);
        }
    }
    out
}

fn storey(module: &str) -> Option<usize> {
    STOREYS.iter().position(|modules| modules.contains(&module))
}

#[test]
fn modules_of_the_engine_use_lower_storeys_only() {
    let src = root().join("engine/src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let module = inside
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        if module == "lib" {
            continue;
        }
        let own =
            storey(&module).unwrap_or_else(|| panic!("{module} has no storey: add it to the map"));
        for other in used(&fs::read_to_string(&file).unwrap()) {
            let Some(theirs) = storey(&other) else {
                continue;
            };
            // The lowest storey's modules may know each other; on the others neighbours are strangers.
            let fine = other == module || theirs < own || (theirs == 0 && own == 0);
            if !fine {
                wrong.push(format!(
                    "{}: crate::{other} is on storey {}, {module} on {}",
                    inside.display(),
                    theirs + 1,
                    own + 1
                ));
            }
        }
        seen.insert(module);
    }
    assert_eq!(
        seen.len(),
        STOREYS.iter().map(|modules| modules.len()).sum::<usize>(),
        "the map names modules that do not exist"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_are_used_in_the_order_of_the_map() {
    let manifest = |member: &str| {
        let text = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        text.split("[dev-dependencies]").next().unwrap().to_owned()
    };
    for (member, never) in [
        (
            "format-spec",
            &[
                "cryostore-engine",
                "tokio",
                "rocksdb",
                "object_store",
                "clap",
                "kube",
            ][..],
        ),
        (
            "engine",
            &["clap", "kube", "indicatif", "anyhow", "cryostore-operator"],
        ),
        (
            "operator",
            &["clap", "indicatif", "anyhow", "rocksdb", "object_store"],
        ),
        (
            "cli",
            &[
                "rocksdb",
                "object_store",
                "fastcdc",
                "tokio",
                "kube",
                "reqwest",
            ],
        ),
    ] {
        for name in never {
            let uses = manifest(member)
                .lines()
                .any(|line| line.starts_with(name) || line.starts_with(&format!("{name}.")));
            assert!(!uses, "{member} must not depend on {name}");
        }
    }
}

#[test]
fn rocksdb_is_named_in_the_index_only() {
    let src = root().join("engine/src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let uses = fs::read_to_string(&file).unwrap().contains("use rocksdb");
        assert!(
            !uses || file.starts_with(src.join("index")),
            "{}",
            file.display()
        );
    }
}
