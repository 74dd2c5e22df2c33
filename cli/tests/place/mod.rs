//! A directory to run the program in: a home without settings, with a place for a repository.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test takes what it needs, and fails where it stands"
)]

use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

pub struct Place {
    pub dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program with these arguments, without any setting of whoever runs the tests.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("cryostore").unwrap();
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", "/usr/bin:/bin")
            .env("CRYOSTORE_STORAGE", self.path("repository"))
            .current_dir(self.dir.path())
            .args(arguments);
        command
    }

    /// Runs it with these variables and demands the exit code; standard output and standard error come back.
    pub fn run_with(
        &self,
        set: &[(&str, &str)],
        arguments: &[&str],
        code: i32,
    ) -> (String, String) {
        let mut command = self.command(arguments);
        let output = command.envs(set.iter().copied()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}\n{out}\n{err}"
        );
        (out, err)
    }

    pub fn run(&self, arguments: &[&str], code: i32) -> (String, String) {
        self.run_with(&[], arguments, code)
    }

    /// Runs it with `--json` and demands a document of the schema that we know.
    pub fn json(&self, arguments: &[&str], code: i32) -> Value {
        let out = self.run(&[arguments, &["--json"]].concat(), code).0;
        let document: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(document["schema"], 1, "{arguments:?}");
        document
    }
}
