//! Owns driver 4: Podman on this machine.
//!
//! Always: Podman gets a copy of the archive that is stripped as `super::strip` says, and the copy goes at once. Never: starts a container anew where the restore
//! failed.

use std::path::Path;
use std::process::{Command, Stdio};

use cryostore_engine::{Error, Kind, Monitor, Repository, Result};

use super::logs;
use super::oci::write_file;
use super::source::Source;

/// How it is to be done.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Another name than the one that the container had.
    pub name: Option<String>,
    /// Ports, as `podman run --publish` takes them; none: those that it had.
    pub publish: Vec<String>,
    /// Established TCP connections are taken up again.
    pub tcp_established: bool,
}

/// Restores it; gives the id of the container.
pub fn restore(
    repo: &Repository,
    source: &Source,
    options: &Options,
    spool: &Path,
    monitor: &dyn Monitor,
) -> Result<String> {
    let (file, _) = write_file(repo, source, spool, monitor)?;
    let mut command = Command::new("podman");
    command
        .args(["container", "restore", "--import"])
        .arg(file.path());
    if let Some(name) = &options.name {
        command.args(["--name", name]);
    }
    for port in &options.publish {
        command.args(["--publish", port]);
    }
    if options.tcp_established {
        command.arg("--tcp-established");
    }
    let output = command.stdin(Stdio::null()).output().map_err(|e| {
        Error::io("running podman", e)
            .hint("install Podman on this machine, or say --driver archive --to FILE")
    })?;
    if output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        return Ok(text.lines().last().unwrap_or_default().trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let log = logs::named_in(&said)
        .map(|path| logs::last_errors(&path))
        .unwrap_or_default();
    let text = format!("podman did not restore it: {}", logs::last_lines(&said));
    let kind = if said.contains("already in use") || said.contains("already exists") {
        Kind::Conflict
    } else {
        Kind::Unavailable
    };
    let hint = if kind == Kind::Conflict {
        "say another name: --name NAME".to_owned()
    } else if log.is_empty() {
        "`podman ps -a` shows what is left of it".to_owned()
    } else {
        format!("CRIU says: {log}")
    };
    Err(Error::new(kind, text).hint(hint))
}
