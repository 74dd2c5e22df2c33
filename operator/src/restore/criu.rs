//! Owns driver 5: `criu restore` of a plain dump on this machine.
//!
//! Always: the options that the dump needs are read from the dump; what cannot be known from it (mounts and sockets of somebody else) is named.
//! Never: runs a program that the dump names, beyond CRIU itself restoring its processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cryostore_engine::{Error, Kind, Result};

use super::logs;
use super::source::Source;

/// A restored tree.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The first process.
    pub pid: u32,
    /// CRIU's log.
    pub log: PathBuf,
}

/// The options that the dump asks for by what is in it.
#[must_use]
pub fn options(source: &Source) -> Vec<&'static str> {
    let has = |beginning: &str| source.images.iter().any(|name| name.starts_with(beginning));
    let mut out = Vec::new();
    if source.is_shell_job {
        out.push("--shell-job");
    }
    if has("tcp-stream-") {
        out.push("--tcp-established");
    }
    if has("filelocks") {
        out.push("--file-locks");
    }
    out
}

/// The folder of the images below `dir`, where an archive was unpacked.
#[must_use]
pub fn images_in(dir: &Path) -> PathBuf {
    let inner = dir.join("checkpoint");
    if dir.join("inventory.img").exists() {
        dir.to_path_buf()
    } else {
        inner
    }
}

/// Restores the tree; it goes on when this returns, as a child of nobody here.
pub fn restore(source: &Source, dir: &Path, more: &[String]) -> Result<Restored> {
    let images = images_in(dir);
    if !images.join("inventory.img").exists() {
        return Err(Error::new(
            Kind::Invalid,
            format!("there is no inventory.img in {}", dir.display()),
        )
        .hint("it is no dump of CRIU, or only a pre-dump"));
    }
    let (log, pid_file) = (dir.join("restore.log"), dir.join("restore.pid"));
    let output = Command::new("criu")
        .arg("restore")
        .arg("--images-dir")
        .arg(&images)
        .arg("--work-dir")
        .arg(dir)
        .arg("--log-file")
        .arg(&log)
        .arg("-v4")
        .arg("--pidfile")
        .arg(&pid_file)
        .arg("--restore-detached")
        .args(options(source))
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| {
            Error::io("running criu", e)
                .hint("install CRIU on this machine, or say --driver directory --to DIR")
        })?;
    if !output.status.success() {
        let mut text = logs::last_errors(&log);
        if text.is_empty() {
            text = logs::last_lines(&String::from_utf8_lossy(&output.stderr));
        }
        return Err(Error::new(
            Kind::Unavailable,
            format!("criu did not restore it ({}): {text}", output.status),
        )
        .hint(cure(&text, &log)));
    }
    let pid = std::fs::read_to_string(&pid_file).ok();
    let pid = pid.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Ok(Restored { pid, log })
}

/// What helps, by CRIU's own words.
fn cure(text: &str, log: &Path) -> String {
    let known = [
        (
            "File exists",
            "a process has that pid already: restore on another machine, or in a pid namespace of its own (`unshare --pid --fork --mount-proc`)",
        ),
        (
            "Can't open file",
            "a file that a process has open is not there, or at another place: put it there",
        ),
        (
            "has bad size",
            "a file that a process has open has changed since: put the old one there",
        ),
        (
            "external",
            "it has mounts or sockets of somebody else: say them as `criu restore` takes them: --criu-option=--external=…",
        ),
        ("Can't bind", "another process has that address and port"),
        (
            "inherit",
            "it has files of whoever started it: say them with --criu-option=--inherit-fd=…",
        ),
    ];
    let found = known.iter().find(|(part, _)| text.contains(part));
    let found = found.map_or("", |(_, cure)| cure);
    let whole = format!("the whole log is {}", log.display());
    if found.is_empty() {
        whole
    } else {
        format!("{found}; {whole}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::preflight::tests::source;
    use super::*;

    #[test]
    fn options_come_from_what_is_in_the_dump() {
        let mut source = source();
        assert!(options(&source).is_empty());
        source.is_shell_job = true;
        source.images = ["tcp-stream-4.img", "filelocks.img", "core-1.img"]
            .map(str::to_owned)
            .into();
        assert_eq!(
            options(&source),
            ["--shell-job", "--tcp-established", "--file-locks"]
        );
    }
}
