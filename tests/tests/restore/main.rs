//! `cryostore restore` without a cluster: into places, as OCI images in layouts and registries; what it refuses.
//! What needs root and CRIU, containerd or Podman is in the tests that `scripts/runtimes.sh` runs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]

mod containerd;
mod hostile;
mod images;
mod places;
mod push;
mod registry;
mod stand;

use std::path::PathBuf;
use std::process::Command;

use cryostore_engine::CheckpointReader;
use cryostore_engine::archive::tar::{Span, TarReader};
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_operator::restore::Source;
use cryostore_tests::Place;
use cryostore_tests::archives::real_tar;
use serde_json::Value;

/// A repository with one checkpoint.
pub(crate) struct Stored {
    pub(crate) place: Place,
    pub(crate) snapshot: SnapshotRecord,
    pub(crate) tar: Vec<u8>,
}

/// Members, and the bytes of each; of descriptions what they say.
pub(crate) fn members(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (mut reader, mut rest, mut out) = (TarReader::new(), tar, Vec::new());
    while let Some(span) = reader.next(rest).unwrap() {
        match span {
            Span::Meta(len) => rest = &rest[len..],
            Span::Member(member) => {
                let name = String::from_utf8(member.name).unwrap();
                out.push((name.trim_matches('/').to_owned(), Vec::new()));
            }
            Span::Data(len) => {
                out.last_mut().unwrap().1.extend_from_slice(&rest[..len]);
                rest = &rest[len..];
            }
            Span::End => {}
        }
    }
    for (_, body) in &mut out {
        if let Ok(json) = serde_json::from_slice::<Value>(body) {
            *body = json.to_string().into_bytes();
        }
    }
    out
}

/// What a run said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

impl Stored {
    pub(crate) fn of(tar: Vec<u8>) -> Self {
        let place = Place::in_clear();
        let snapshot = place.import_bytes("imported.tar", &tar).unwrap().snapshot;
        Self {
            place,
            snapshot,
            tar,
        }
    }

    pub(crate) fn real(name: &str) -> Self {
        Self::of(real_tar(name))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    pub(crate) fn id(&self) -> String {
        self.snapshot.id.to_string()
    }

    pub(crate) fn source(&self) -> Source {
        let repo = self.place.open();
        let reader = CheckpointReader::open(&repo, &self.snapshot).unwrap();
        Source::read(&reader, &self.snapshot).unwrap()
    }

    /// Runs `cryostore restore`, in the place's folder and with a home of its own.
    pub(crate) fn restore(&self, arguments: &[&str]) -> Said {
        let home = self.path("home");
        std::fs::create_dir_all(&home).unwrap();
        let output = Command::new(assert_cmd::cargo::cargo_bin("cryostore"))
            .arg("restore")
            .args(arguments)
            .arg("--storage")
            .arg(self.place.store_dir())
            .current_dir(self.place.dir.path())
            .env_clear()
            .env("HOME", &home)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .output()
            .unwrap();
        Said {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code().unwrap(),
        }
    }

    /// A run that has to work, with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let said = self.restore(&[arguments, &["--json"]].concat());
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.out).unwrap()
    }
}
