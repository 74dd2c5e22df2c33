//! Owns the use of a real CRIU, where there is one that works: finding it, running it, packing what it wrote.
//!
//! Always: CRIU leaves the workload running; its images go into the archive unchanged and in lexical order, its log and its
//! figures lie at the top as in containerd's archives. Its folder is removed afterwards.
//! Never: installs or configures CRIU, or ends the demo: whoever calls it falls back to the demo's own dump.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::tar::TarWriter;

const LOG: &str = "dump.log";

/// A dump in a folder of its own, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct CriuDump {
    images: tempfile::TempDir,
    work: tempfile::TempDir,
}

/// The version of a CRIU that says it works here, if the demo runs as root.
pub(crate) fn usable_version() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let version = Command::new("criu")
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let check = criu(["check"]).ok()?;
    check.then(|| parse_version(&String::from_utf8_lossy(&version.stdout)))?
}

/// Has CRIU dump process `pid`, into folders beside the archive to be.
pub(crate) fn dump(pid: u32, folder: &Path) -> Result<CriuDump> {
    let temporary = || {
        tempfile::Builder::new()
            .prefix(".cryostore-demo-")
            .tempdir_in(folder)
    };
    let images = temporary().context("cannot make a folder for CRIU")?;
    let work = temporary().context("cannot make a folder for CRIU")?;
    let arguments: [OsString; 13] = [
        "dump".into(),
        "--tree".into(),
        pid.to_string().into(),
        "--images-dir".into(),
        images.path().into(),
        "--work-dir".into(),
        work.path().into(),
        "--log-file".into(),
        LOG.into(),
        "-v4".into(),
        "--leave-running".into(),
        "--shell-job".into(),
        "--file-locks".into(),
    ];
    if !criu(arguments).context("cannot run criu")? {
        bail!("criu dump failed: {}", last_error(&work.path().join(LOG)));
    }
    ensure!(
        images.path().join("inventory.img").is_file(),
        "criu dump left no inventory.img"
    );
    Ok(CriuDump { images, work })
}

impl CriuDump {
    /// Packs the images as `checkpoint/`; returns the bytes of page images.
    pub(crate) fn write_folder<W: Write>(&self, tar: &mut TarWriter<W>) -> Result<u64> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.images.path())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name());
            }
        }
        names.sort();
        tar.directory("checkpoint/", 0o700)?;
        let mut page_bytes = 0;
        for name in names {
            let mut file = File::open(self.images.path().join(&name))?;
            let len = file.metadata()?.len();
            let name = name
                .to_str()
                .context("CRIU wrote a file with a strange name")?;
            let mut member = tar.member(&format!("checkpoint/{name}"), 0o644, len)?;
            io::copy(&mut file, &mut member)?;
            member.finish()?;
            if name.starts_with("pages-") {
                page_bytes += len;
            }
        }
        Ok(page_bytes)
    }

    /// CRIU's log and figures, as far as it wrote them: (name, mode, content).
    pub(crate) fn reports(&self) -> Vec<(&'static str, u64, Vec<u8>)> {
        let read = |name, mode| Some((name, mode, fs::read(self.work.path().join(name)).ok()?));
        [read(LOG, 0o600), read("stats-dump", 0o644)]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// True if CRIU ended well. What it says goes nowhere: a dump has its log file.
fn criu(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> io::Result<bool> {
    let mut command = Command::new("criu");
    command.args(arguments.into_iter().map(Into::into));
    Ok(command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?
        .success())
}

fn parse_version(output: &str) -> Option<String> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("Version:"))?;
    Some(line.trim().to_owned())
}

fn last_error(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let error = text.lines().rev().find(|line| line.contains("Error ("));
    error.unwrap_or("it wrote no error into its log").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_criu_s_own_words() {
        assert_eq!(
            parse_version("Version: 4.2\nGitID: v4.2-1\n").as_deref(),
            Some("4.2")
        );
        assert_eq!(parse_version("sh: criu: not found\n"), None);
    }
}
