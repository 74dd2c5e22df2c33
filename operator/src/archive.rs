//! Owns the archive that the kubelet left on this node: opened, complete, and whose it is, before it is stored; removed afterwards.
//!
//! Always: a regular file directly below the checkpoints folder, opened once; everything after that is done with the open file. It is removed only
//! as what was opened and stored. Never: follows a link; believes the kubelet's answer beyond the name in it.

use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cryostore_engine::archive::tar::{Span, TarReader};
use cryostore_engine::{Error, Kind, Monitor, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat, unlinkat};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The kubelet's folder, where its `--root-dir` was not changed.
pub const DEFAULT_FOLDER: &str = "/var/lib/kubelet/checkpoints";

/// Between two looks at an archive that may still be written.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Two looks in a row have to find the same before it counts as settled: the runtime writes without pauses of this length.
const SAME_LOOKS: u32 = 2;
/// 10 s in which nothing is written: whoever wrote it has given up.
const LOOKS_WITHOUT_CHANGE: u32 = 100;
/// 2 MiB: what the engine takes of a description, too; real ones have 5 to 30 KB.
const DESCRIPTION_LEN: u64 = cryostore_engine::limits::DESCRIPTION_LEN as u64;

/// The folder of the kubelet's archives, open.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

/// An archive in it, open.
#[derive(Debug)]
pub struct Archive {
    file: File,
    name: String,
    path: PathBuf,
}

/// What an archive says of itself before it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// The pod's UID; empty: it does not say.
    pub pod_uid: String,
    /// The container's name; empty: it does not say.
    pub container: String,
    /// The pod's namespace; empty: it does not say.
    pub namespace: String,
    /// The pod's name; empty: it does not say.
    pub pod: String,
    /// It has its end marker, and all that its headers promise.
    pub is_complete: bool,
}

/// As it was when it was settled, to see whether it is still that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What it says of itself.
    pub look: Look,
    /// Bytes of the file.
    pub bytes: u64,
    state: (u64, u64, u64, i64, i64),
}

/// What tells a file from what was there under its name before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    inode: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: i64,
    nanos: i64,
}

impl From<(u64, u64, i64, i64)> for State {
    fn from((inode, bytes, seconds, nanos): (u64, u64, i64, i64)) -> Self {
        Self {
            inode,
            bytes,
            seconds,
            nanos,
        }
    }
}

impl Settled {
    pub(crate) fn state(&self) -> State {
        let (_, inode, bytes, seconds, nanos) = self.state;
        State::from((inode, bytes, seconds, nanos))
    }
}

fn state(meta: &Metadata) -> (u64, u64, u64, i64, i64) {
    (
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
    )
}

impl Folder {
    /// Opens it: from here on it is known that archives in it can be read.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let fd = opened.map_err(|e| {
            let e = Error::io(path.display(), e.into());
            let advice = match e.kind() {
                Kind::NotFound => "the kubelet makes this folder when it starts with its feature gate ContainerCheckpoint (on since Kubernetes 1.30); if its --root-dir is another one, say --checkpoints-dir DIR",
                Kind::Denied => "only root reads the kubelet's archives: run it as root",
                _ => "say with --checkpoints-dir where the kubelet of this node leaves archives",
            };
            e.hint(format!("nothing was frozen; {advice}"))
        })?;
        Ok(Self {
            fd,
            path: path.to_path_buf(),
        })
    }

    /// The archive that the kubelet names, of this container.
    pub fn archive(&self, answer: &str, beginning: &str) -> Result<Archive> {
        let said = Path::new(answer);
        let name = said.file_name().and_then(|name| name.to_str());
        let is_below = said.is_absolute()
            && said.parent() == Some(self.path.as_path())
            && !answer.ends_with(['/', '.']);
        let Some(name) = name.filter(|_| is_below) else {
            return Err(refused(
                answer,
                format!("it is not directly below {}", self.path.display()),
            )
            .hint(format!(
                "if this node's kubelet has another --root-dir, say --checkpoints-dir; the archive can be stored with: cryostore import {answer}"
            )));
        };
        if !name.starts_with(beginning) || !name.ends_with(".tar") {
            return Err(refused(
                answer,
                format!("the kubelet's names begin with {beginning} and end in .tar"),
            )
            .hint("look who answers at the node's address in the kubelet's place"));
        }
        // NONBLOCK: opening a pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = self.path.join(name);
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::LOOP) => {
                return Err(refused(answer, "it is a link")
                    .hint("nobody but the kubelet's runtime should write there: look who does"));
            }
            Err(e) => {
                return Err(Error::io(path.display(), e.into())
                    .hint("the kubelet said that it left the archive there: look whether this machine's folder is the one that the kubelet sees"));
            }
        };
        let meta = file.metadata().map_err(|e| Error::io(path.display(), e))?;
        if !meta.is_file() {
            return Err(refused(answer, "it is no regular file")
                .hint("nobody but the kubelet's runtime should write there: look who does"));
        }
        Ok(Archive {
            file,
            name: name.to_owned(),
            path,
        })
    }

    /// Names and states of the files in it that are named as the kubelet names archives, in the order of their names.
    pub(crate) fn files(&self) -> Result<Vec<(String, State)>> {
        let failed = |e: rustix::io::Errno| Error::io(self.path.display(), e.into());
        let mut out = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if !name.starts_with("checkpoint-") || !name.ends_with(".tar") {
                continue;
            }
            // Gone meanwhile, or no file of its own: neither is an archive.
            let Ok(stat) = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                let bytes = u64::try_from(stat.st_size).unwrap_or_default();
                let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
                let state = (stat.st_ino, bytes, stat.st_mtime, nanos);
                out.push((name.to_owned(), State::from(state)));
            }
        }
        out.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(out)
    }

    /// Opens a file that [`Self::files`] named.
    pub(crate) fn open_file(&self, name: &str) -> Result<Archive> {
        let path = self.path.join(name);
        self.archive(&path.to_string_lossy(), "checkpoint-")
    }

    /// True if a file marks this archive, or the whole folder, as one to be left alone.
    pub(crate) fn is_marked(&self, name: &str) -> bool {
        [format!("{name}.keep"), ".keep".to_owned()]
            .iter()
            .any(|mark| statat(&self.fd, mark, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    }

    /// Removes an archive that was stored. False: it stays, because it is no longer what was stored, or because a file beside it says so.
    pub fn remove(&self, archive: &Archive, stored: &Settled) -> Result<bool> {
        let failed = |e: rustix::io::Errno| Error::io(archive.path.display(), e.into());
        let name = archive.name.as_str();
        // Files with this ending are how the checkpoint-restore operator marks what it is to leave alone.
        if self.is_marked(name) {
            return Ok(false);
        }
        let there = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let now = archive.metadata()?;
        // Two checkpoints of one second have one name, and the second one is written over the first.
        if (there.st_dev, there.st_ino) != (now.dev(), now.ino()) || state(&now) != stored.state {
            return Ok(false);
        }
        unlinkat(&self.fd, name, AtFlags::empty()).map_err(failed)?;
        Ok(true)
    }
}

fn refused(answer: &str, why: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::Invalid,
        format!("the kubelet says that the archive is {answer:?}, which is not opened: {why}"),
    )
}

impl Archive {
    /// Where it is, for people.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle of the open file.
    pub fn file(&self) -> Result<File> {
        let cloned = self.file.try_clone();
        cloned.map_err(|e| Error::io(self.path.display(), e))
    }

    fn metadata(&self) -> Result<Metadata> {
        let meta = self.file.metadata();
        meta.map_err(|e| Error::io(self.path.display(), e))
    }

    /// Waits until it is complete and nobody writes it any more.
    pub fn settle(&self, monitor: &dyn Monitor) -> Result<Settled> {
        let mut before = state(&self.metadata()?);
        let mut same = 0;
        loop {
            std::thread::sleep(LOOK_EVERY);
            if monitor.stop() {
                return Err(self.left(Kind::Interrupted, "stopped before it was stored"));
            }
            let now = self.metadata()?;
            same = if state(&now) == before { same + 1 } else { 0 };
            before = state(&now);
            if same < SAME_LOOKS {
                continue;
            }
            let look = self.look()?;
            if look.is_complete && state(&self.metadata()?) == before {
                return Ok(Settled {
                    look,
                    bytes: now.len(),
                    state: before,
                });
            }
            if same >= LOOKS_WITHOUT_CHANGE {
                let text = format!(
                    "the archive is not complete: {} bytes, and nobody has written for {} s",
                    now.len(),
                    (LOOK_EVERY * LOOKS_WITHOUT_CHANGE).as_secs()
                );
                return Err(self.left(Kind::Invalid, &text));
            }
        }
    }

    /// An error that says where the archive is, and how it can still be stored.
    pub(crate) fn left(&self, kind: Kind, text: &str) -> Error {
        let path = self.path.display();
        Error::new(kind, format!("{path}: {text}")).hint(format!(
            "the archive stays there; store it with: cryostore import {path}"
        ))
    }

    /// Goes through its headers.
    fn look(&self) -> Result<Look> {
        let failed = |e| Error::io(self.path.display(), e);
        let len = self.metadata()?.len();
        let mut look = Look::default();
        let mut reader = TarReader::new();
        let mut buffer = vec![0; 16 << 10];
        let (mut at, mut filled) = (0, 0);
        loop {
            match reader.next(&buffer[at..filled]) {
                Err(_) => return Ok(look),
                Ok(None) => {
                    if reader.position() > len {
                        return Ok(look);
                    }
                    filled = self
                        .file
                        .read_at(&mut buffer, reader.position())
                        .map_err(failed)?;
                    at = 0;
                    if filled == 0 {
                        break;
                    }
                }
                Ok(Some(Span::Meta(taken) | Span::Data(taken))) => at += taken,
                Ok(Some(Span::End)) => {}
                Ok(Some(Span::Member(member))) => {
                    if member.name == b"spec.dump" && member.len <= DESCRIPTION_LEN {
                        let mut bytes = vec![0; usize::try_from(member.len).unwrap_or(usize::MAX)];
                        let whole = self.file.read_exact_at(&mut bytes, reader.position());
                        if whole.is_ok() {
                            look.learn(&bytes);
                        }
                    }
                    let skipped = usize::try_from(reader.skip()).unwrap_or(usize::MAX);
                    at = at.saturating_add(skipped).min(filled);
                    if at == filled {
                        (at, filled) = (0, 0);
                    }
                }
            }
        }
        look.is_complete = reader.finish().is_ok_and(|end| end.complete);
        Ok(look)
    }
}

impl Look {
    fn learn(&mut self, spec: &[u8]) {
        let Ok(spec) = serde_json::from_slice::<Value>(spec) else {
            return;
        };
        let first = |keys: [&str; 2]| {
            let said = keys.map(|key| spec["annotations"][key].as_str().unwrap_or_default());
            let said = said.into_iter().find(|text| !text.is_empty());
            said.unwrap_or_default().to_owned()
        };
        // containerd's, and CRI-O's, which has it from the labels.
        self.pod_uid = first(["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"]);
        self.container = first([
            "io.kubernetes.cri.container-name",
            "io.kubernetes.container.name",
        ]);
        self.namespace = first([
            "io.kubernetes.cri.sandbox-namespace",
            "io.kubernetes.pod.namespace",
        ]);
        self.pod = first(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use cryostore_engine::Silent;

    use super::*;

    const NAME: &str = "checkpoint-web_default-app-2026-11-20T10:00:00Z.tar";
    const BEGINNING: &str = "checkpoint-web_default-app-";

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("cryostore-archive-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn folder(&self) -> Folder {
            Folder::open(&self.0).unwrap()
        }

        fn path(&self, name: &str) -> String {
            self.0.join(name).to_str().unwrap().to_owned()
        }

        fn open(&self, name: &str) -> Result<Archive> {
            self.folder().archive(&self.path(name), BEGINNING)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A tar of one spec.dump.
    fn tar() -> Vec<u8> {
        let body = br#"{"annotations":{"io.kubernetes.cri.sandbox-uid":"u1","io.kubernetes.cri.container-name":"app"}}"#;
        let mut header = [0_u8; 512];
        let mut put =
            |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, "spec.dump");
        put(100, "0000600\0");
        put(124, &format!("{:011o}\0", body.len()));
        put(136, "00000000000\0");
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut out = header.to_vec();
        out.extend_from_slice(body);
        out.resize(1024 + 1024, 0);
        out
    }

    #[test]
    fn a_name_outside_of_the_folder_or_of_another_container_is_not_opened() {
        let place = Place::new("outside");
        std::fs::write(place.path(NAME), tar()).unwrap();
        assert!(place.open(NAME).is_ok());
        std::fs::create_dir(place.path("sub")).unwrap();
        std::fs::write(place.path(&format!("sub/{NAME}")), tar()).unwrap();
        let other = "checkpoint-web_default-db-2026-11-20T10:00:00Z.tar";
        std::fs::write(place.path(other), tar()).unwrap();
        let hostile = [
            "/etc/passwd".to_owned(),
            NAME.to_owned(),
            place.path(&format!("sub/{NAME}")),
            place.path(&format!("../{NAME}")),
            place.path(&format!("sub/../{NAME}")),
            place.path(".."),
            place.path(&format!("{NAME}/")),
            place.path(&format!("{NAME}/.")),
            place.path(other),
            String::new(),
        ];
        for answer in hostile {
            let opened = place.folder().archive(&answer, BEGINNING);
            assert_eq!(
                opened.map_err(|e| e.kind()).unwrap_err(),
                Kind::Invalid,
                "{answer}"
            );
        }
    }

    #[test]
    fn a_link_a_pipe_and_a_directory_are_not_opened() {
        let place = Place::new("kinds");
        std::fs::write(place.path("target"), tar()).unwrap();
        symlink(place.path("target"), place.path(NAME)).unwrap();
        let e = place.open(NAME).unwrap_err();
        assert!(e.to_string().contains("it is a link"), "{e}");
        std::fs::remove_file(place.path(NAME)).unwrap();
        std::fs::create_dir(place.path(NAME)).unwrap();
        let e = place.open(NAME).unwrap_err();
        assert!(e.to_string().contains("no regular file"), "{e}");
        std::fs::remove_dir(place.path(NAME)).unwrap();
        let pipe = rustix::fs::mknodat(
            rustix::fs::CWD,
            place.path(NAME),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        );
        pipe.unwrap();
        let e = place.open(NAME).unwrap_err();
        assert!(e.to_string().contains("no regular file"), "{e}");
    }

    #[test]
    fn an_archive_that_is_still_written_is_waited_for_and_says_whose_it_is() {
        let place = Place::new("slow");
        let path = place.path(NAME);
        std::fs::write(&path, &tar()[..700]).unwrap();
        let archive = place.open(NAME).unwrap();
        let settled = std::thread::scope(|scope| {
            scope.spawn(|| {
                for len in [900, 1536, 2048] {
                    std::thread::sleep(Duration::from_millis(350));
                    std::fs::write(&path, &tar()[..len]).unwrap();
                }
            });
            archive.settle(&Silent).unwrap()
        });
        assert_eq!((settled.look.pod_uid.as_str(), settled.bytes), ("u1", 2048));
        assert_eq!(settled.look.container, "app");
    }

    #[test]
    fn an_archive_that_never_gets_its_end_is_an_error_that_says_how_to_store_it_later() {
        let place = Place::new("cut");
        for len in [0, 100, 700, 1024] {
            std::fs::write(place.path(NAME), &tar()[..len]).unwrap();
            let look = place.open(NAME).unwrap().look().unwrap();
            assert!(!look.is_complete, "{len}");
        }
        let e = place.open(NAME).unwrap().settle(&Silent).unwrap_err();
        assert!(e.to_string().contains("not complete: 1024 bytes"), "{e}");
        assert!(e.advice().unwrap().contains("cryostore import /"), "{e:?}");
    }

    #[test]
    fn only_what_was_stored_is_removed() {
        let place = Place::new("remove");
        let write = |bytes: &[u8]| std::fs::write(place.path(NAME), bytes).unwrap();
        write(&tar());
        let archive = place.open(NAME).unwrap();
        let settled = archive.settle(&Silent).unwrap();
        let folder = place.folder();
        // A file beside it says that it is to stay.
        std::fs::write(place.path(&format!("{NAME}.keep")), "").unwrap();
        assert!(!folder.remove(&archive, &settled).unwrap());
        std::fs::remove_file(place.path(&format!("{NAME}.keep"))).unwrap();
        // Another file has its name now.
        std::fs::remove_file(place.path(NAME)).unwrap();
        write(&tar());
        assert!(!folder.remove(&archive, &settled).unwrap());
        // The same file was written again in the same second.
        let archive = place.open(NAME).unwrap();
        let settled = archive.settle(&Silent).unwrap();
        write(&[tar(), vec![0; 512]].concat());
        assert!(!folder.remove(&archive, &settled).unwrap());
        let settled = archive.settle(&Silent).unwrap();
        assert!(folder.remove(&archive, &settled).unwrap());
        assert!(!Path::new(&place.path(NAME)).exists());
    }
}
