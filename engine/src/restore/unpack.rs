//! Owns the unpacking of an archive into a directory.
//!
//! Always: the directory appears when all is in it and the archive's digest was right. Names that are absolute, hold `..`, or would lead through a
//! link are refused; links are made last, so that nothing is ever written through one. Never: sets owners, or makes devices.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cryostore_format::snapshot::SnapshotRecord;

use super::export::{explain, named_manifest, run};
use crate::archive::tar::{EntryType, Member, Span, TarReader};
use crate::error::{Error, Kind, Result};
use crate::monitor::Monitor;
use crate::repo::{Renewing, Repository, Session};

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnpackStats {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was left out, and why.
    pub skipped: Vec<String>,
}

/// Unpacks an archive into the directory `dir`, which must not exist, or be empty.
pub fn unpack(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    dir: &Path,
    monitor: &dyn Monitor,
) -> Result<UnpackStats> {
    let failed = |e| Error::io(format!("unpacking into {}", dir.display()), e);
    match fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            return Err(
                Error::new(Kind::Conflict, format!("{} is not empty", dir.display()))
                    .hint("name a directory that does not exist yet"),
            );
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let above = dir
        .parent()
        .filter(|above| !above.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let part = tempfile::Builder::new()
        .prefix(".cryostore-")
        .suffix(".part")
        .tempdir_in(above)
        .map_err(failed)?;
    // While this is there, no collection frees what it reads.
    let session = Session::read(repo);
    let monitor = &Renewing::new(session.as_ref(), monitor);
    let (name, manifest, ahead) = named_manifest(repo, snapshot)?;
    if let Some(session) = &session {
        session.reads(snapshot, &manifest.packs)?;
    }
    let mut unpacker = Unpacker::new(part.path());
    run(
        repo,
        snapshot,
        &manifest,
        ahead,
        monitor,
        |window, bytes| match bytes {
            Some(bytes) => unpacker.push(bytes),
            None => unpacker.push(&vec![0; window.len]),
        },
    )
    .map_err(|e| refused(explain(repo, snapshot, name, e)))?;
    let stats = unpacker.finish().map_err(|e| refused(failed(e)))?;
    fs::rename(part.path(), dir).map_err(failed)?;
    // It has another name now: there is nothing left to remove.
    let _ = part.keep();
    Ok(stats)
}

/// Errors that [`Unpacker`] makes are about the archive, not about the disk.
fn refused(e: Error) -> Error {
    use std::error::Error as _;
    let ours = e
        .source()
        .and_then(|cause| cause.downcast_ref::<io::Error>())
        .filter(|cause| cause.kind() == io::ErrorKind::InvalidData);
    match ours {
        Some(cause) => Error::new(Kind::Invalid, cause.to_string())
            .hint("nothing was unpacked; `cryostore export -o FILE` gives the archive as it is"),
        None => e,
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Errors that come of what the archive holds, such as a file where a directory is.
fn taken(name: &[u8], e: io::Error) -> io::Error {
    use io::ErrorKind as Io;
    let ours = matches!(
        e.kind(),
        Io::IsADirectory
            | Io::NotADirectory
            | Io::AlreadyExists
            | Io::DirectoryNotEmpty
            | Io::InvalidFilename
            | Io::NotFound
    );
    let name = String::from_utf8_lossy(name).into_owned();
    if ours {
        invalid(format!(
            "the member `{}` cannot be unpacked beside the others: {e}",
            name.escape_debug()
        ))
    } else {
        e
    }
}

struct Unpacker {
    root: PathBuf,
    tar: TarReader,
    file: Option<File>,
    mtime: i64,
    /// Directories and their modes, set last: one may forbid writing.
    dirs: BTreeMap<PathBuf, u32>,
    links: Vec<(PathBuf, Vec<u8>)>,
    link_names: HashSet<PathBuf>,
    stats: UnpackStats,
}

impl Unpacker {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            tar: TarReader::new(),
            file: None,
            mtime: 0,
            dirs: BTreeMap::new(),
            links: Vec::new(),
            link_names: HashSet::new(),
            stats: UnpackStats::default(),
        }
    }

    fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(span) = self.tar.next(bytes).map_err(|e| invalid(e.to_string()))? {
            match span {
                Span::Meta(len) => bytes = &bytes[len..],
                Span::Data(len) => {
                    if let Some(file) = &mut self.file {
                        file.write_all(&bytes[..len])?;
                        self.stats.bytes += len as u64;
                    }
                    bytes = &bytes[len..];
                }
                Span::Member(member) => self.begin(&member).map_err(|e| taken(&member.name, e))?,
                Span::End => {
                    if let Some(file) = self.file.take() {
                        let since = Duration::from_secs(u64::try_from(self.mtime).unwrap_or(0));
                        file.set_modified(SystemTime::UNIX_EPOCH + since)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, member: &Member) -> io::Result<()> {
        let shown = String::from_utf8_lossy(&member.name).into_owned();
        let Some(path) = safe_path(&member.name) else {
            return Err(invalid(format!(
                "the member `{}` has a name that leads out of the directory",
                shown.escape_debug()
            )));
        };
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        if path
            .ancestors()
            .any(|above| self.link_names.contains(above))
        {
            return Err(invalid(format!(
                "the member `{}` leads through a symbolic link",
                shown.escape_debug()
            )));
        }
        let target = self.root.join(&path);
        if let Some(above) = target.parent() {
            fs::create_dir_all(above)?;
        }
        self.mtime = member.mtime;
        match member.kind {
            EntryType::Directory => {
                fs::create_dir_all(&target)?;
                self.dirs.insert(path, member.mode | 0o700);
            }
            EntryType::File => {
                // A name that comes twice counts as tar counts it: the last one stays.
                match fs::remove_file(&target) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
                let file = File::create_new(&target)?;
                file.set_permissions(Permissions::from_mode(member.mode & 0o777 | 0o400))?;
                self.file = Some(file);
                self.stats.files += 1;
            }
            EntryType::Symlink => {
                self.link_names.insert(path.clone());
                self.links.push((path, member.link.clone()));
            }
            EntryType::HardLink => {
                let linked = safe_path(&member.link).map(|path| self.root.join(path));
                let linked =
                    linked.filter(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_file()));
                let Some(linked) = linked else {
                    return Err(invalid(format!(
                        "the member `{}` is a link to what is not in the archive",
                        shown.escape_debug()
                    )));
                };
                fs::hard_link(linked, &target)?;
            }
            EntryType::Sparse => self.skip(&shown, "its holes are coded in GNU's way"),
            EntryType::Other(_) => {
                self.skip(&shown, "it is a device, a pipe or of an unknown kind")
            }
        }
        Ok(())
    }

    fn skip(&mut self, name: &str, why: &str) {
        self.stats.skipped.push(format!("{name}: {why}"));
    }

    fn finish(mut self) -> io::Result<UnpackStats> {
        self.push(&[])?;
        for (path, target) in &self.links {
            let link = std::os::unix::fs::symlink(OsStr::from_bytes(target), self.root.join(path));
            link.map_err(|e| taken(path.as_os_str().as_bytes(), e))?;
        }
        for (path, mode) in self.dirs.iter().rev() {
            fs::set_permissions(self.root.join(path), Permissions::from_mode(mode & 0o777))?;
        }
        Ok(self.stats)
    }
}

/// The name as a path below the root; none if it is absolute, leads up, or is no name.
fn safe_path(name: &[u8]) -> Option<PathBuf> {
    if name.starts_with(b"/") || name.contains(&0) {
        return None;
    }
    let mut path = PathBuf::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        for bad in ["/etc/passwd", "../x", "a/../../x", "a/..", "..", "a\0b"] {
            assert_eq!(safe_path(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(
            safe_path(b"./checkpoint//pages-1.img"),
            Some(PathBuf::from("checkpoint/pages-1.img"))
        );
    }

    proptest! {
        #[test]
        fn a_path_never_leaves_its_root(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(path) = safe_path(&name) {
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}
