//! Owns the facts of this machine that a restore depends on: its kernel and processor, CRIU, free space.
//!
//! Always: what cannot be found out is not known. Never: changes anything, or waits for long.

use std::path::Path;
use std::process::{Command, Stdio};

use super::preflight::Place;
use crate::capture::Host;

/// Where CRIU looks for its plugins unless CRIU_LIBS_DIR or --libdir says otherwise (criu/include/plugin.h: CR_PLUGIN_DEFAULT).
const PLUGINS: [&str; 2] = ["/usr/lib/criu", "/var/lib/criu"];

/// This machine; `unpacked_at` is where the archive is going to be unpacked.
#[must_use]
pub fn this_machine(unpacked_at: &Path) -> Place {
    Place {
        name: "this machine".to_owned(),
        host: Host::read(Path::new("/")),
        criu: criu_version(),
        plugins: Some(plugins(&PLUGINS.map(Path::new))),
        free_bytes: free_bytes(unpacked_at),
        restores: None,
    }
}

/// What `criu --version` says; none where there is none.
pub(crate) fn criu_version() -> Option<String> {
    let output = Command::new("criu")
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    version_in(&String::from_utf8_lossy(&output.stdout))
}

fn version_in(text: &str) -> Option<String> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Version:"))?;
    Some(line.trim().to_owned())
}

/// As inventory.img names them: the file's name without its ending.
fn plugins(folders: &[&Path]) -> Vec<String> {
    let files = folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten();
    let mut out: Vec<String> = files
        .filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".so")?.to_owned()))
        .collect();
    out.sort();
    out
}

/// Of the nearest folder above that is there.
fn free_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_and_the_plugins_of_criu_are_read() {
        assert_eq!(
            version_in("Version: 4.2.1\nGitID: v4\n").as_deref(),
            Some("4.2.1")
        );
        assert_eq!(version_in("sh: criu: not found"), None);
        let dir = tempfile::tempdir().unwrap();
        for name in ["cuda_plugin.so", "readme.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(
            plugins(&[dir.path(), Path::new("/does/not/exist")]),
            ["cuda_plugin"]
        );
    }

    #[test]
    fn free_space_is_that_of_the_folder_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(&dir.path().join("not/yet/there")).is_some());
    }
}
