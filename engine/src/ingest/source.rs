//! Owns where an archive comes from: a file, a directory, or a stream of bytes.
//!
//! Always: read once, front to back, into owned buffers; of a file that is a plain tar the small CRIU images are looked at before, so that
//! the order of its members does not matter. A source that changes while it is read is an error. Never: maps a file.

use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use cryostore_format::snapshot::{ArchiveKind, Outer};

use super::facts::Facts;
use crate::archive::directory::DirectoryTar;
use crate::archive::outer::{Unpacking, sniff};
use crate::archive::tar::{Span, TarReader};
use crate::error::{Error, Kind, Result};
use crate::limits;

/// Where an archive comes from.
pub enum Source {
    /// A tar, plain or compressed.
    File(PathBuf),
    /// The same, open already: whatever becomes of its name, these bytes are read. The path is what errors call it.
    Open(File, PathBuf),
    /// A directory of CRIU images, or an unpacked archive.
    Directory(PathBuf),
    /// A tar, plain or compressed, that comes in order, such as standard input.
    Stream(Box<dyn Read + Send>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Open(_, path) => write!(f, "Open({})", path.display()),
            Self::Directory(path) => write!(f, "Directory({})", path.display()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Source {
    /// A file or a directory.
    pub fn at(path: &Path) -> Result<Self> {
        let meta = path.metadata().map_err(|e| Error::io(path.display(), e))?;
        Ok(if meta.is_dir() {
            Self::Directory(path.to_path_buf())
        } else {
            Self::File(path.to_path_buf())
        })
    }
}

/// Gives the archive's bytes.
pub(super) enum Bytes {
    File(File),
    Unpacking(Unpacking),
    Directory(Box<DirectoryTar>),
    Stream(Box<dyn Read + Send>),
}

impl Read for Bytes {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::File(file) => file.read(buf),
            Self::Unpacking(unpacking) => unpacking.read(buf),
            Self::Directory(tar) => tar.read(buf),
            Self::Stream(stream) => stream.read(buf),
        }
    }
}

impl Bytes {
    /// The compressed file around the archive, once all was read.
    pub(super) fn outer(&self) -> Option<Outer> {
        match self {
            Self::Unpacking(unpacking) => Some(unpacking.outer()),
            _ => None,
        }
    }
}

/// A source that is open.
pub(super) struct Opened {
    /// What was looked at ahead; it comes before the rest.
    head: std::io::Cursor<Vec<u8>>,
    pub(super) bytes: Bytes,
    pub(super) kind: ArchiveKind,
    /// Bytes of the archive, if known.
    pub(super) total: Option<u64>,
    /// What errors call it.
    pub(super) name: String,
    /// The file as it was, to see whether it changes.
    watched: Option<(Watched, Metadata)>,
}

/// What is looked at again once all was read.
enum Watched {
    /// Whatever has the name by then.
    Name(PathBuf),
    /// The file that was handed over.
    File(File),
}

impl Watched {
    fn metadata(&self) -> std::io::Result<Metadata> {
        match self {
            Self::Name(path) => path.metadata(),
            Self::File(file) => file.metadata(),
        }
    }
}

impl Opened {
    pub(super) fn new(source: Source, facts: &mut Facts) -> Result<Self> {
        match source {
            Source::File(path) => {
                let file = File::open(&path).map_err(|e| Error::io(path.display(), e))?;
                let name = path.display().to_string();
                Self::file(file, name, Watched::Name(path), facts)
            }
            Source::Open(file, path) => {
                let again = file.try_clone().map_err(|e| Error::io(path.display(), e))?;
                let name = path.display().to_string();
                Self::file(file, name, Watched::File(again), facts)
            }
            Source::Directory(path) => Self::directory(&path, facts),
            Source::Stream(stream) => {
                let bytes = unpack(stream).map_err(|e| Error::io("the input", e))?;
                Ok(Self {
                    head: std::io::Cursor::default(),
                    bytes,
                    kind: ArchiveKind::Tar,
                    total: None,
                    name: "the input".to_owned(),
                    watched: None,
                })
            }
        }
    }

    /// Bytes that are the archive itself, whatever they begin with.
    pub(super) fn archive(
        bytes: Box<dyn Read + Send>,
        kind: ArchiveKind,
        total: u64,
        name: String,
    ) -> Self {
        Self {
            head: std::io::Cursor::default(),
            bytes: Bytes::Stream(bytes),
            kind,
            total: Some(total),
            name,
            watched: None,
        }
    }

    fn file(mut file: File, name: String, watched: Watched, facts: &mut Facts) -> Result<Self> {
        let failed = |e| Error::io(&name, e);
        let meta = file.metadata().map_err(failed)?;
        let mut head = [0; 4];
        let head_len = file.read_at(&mut head, 0).map_err(failed)?;
        let (bytes, total) = if let Some(compression) = sniff(&head[..head_len]) {
            // Whoever opened it may have read of it.
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            (
                Bytes::Unpacking(Unpacking::new(compression, file).map_err(failed)?),
                None,
            )
        } else {
            scan(
                |buf, at| {
                    if at > meta.len() {
                        Ok(0)
                    } else {
                        file.read_at(buf, at)
                    }
                },
                facts,
            )
            .map_err(failed)?;
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            (Bytes::File(file), Some(meta.len()))
        };
        Ok(Self {
            head: std::io::Cursor::default(),
            bytes,
            kind: ArchiveKind::Tar,
            total,
            name,
            watched: Some((watched, meta)),
        })
    }

    fn directory(path: &Path, facts: &mut Facts) -> Result<Self> {
        let tar = DirectoryTar::open(path)?;
        tar.skipped()
            .iter()
            .for_each(|text| facts.warn(text.as_str()));
        for (name, path, len) in tar.files() {
            let wanted = facts.wants(name, *len);
            if wanted > 0 {
                let mut bytes = Vec::with_capacity(wanted);
                let read = File::open(path)
                    .and_then(|file| file.take(wanted as u64).read_to_end(&mut bytes));
                read.map_err(|e| Error::io(path.display(), e))?;
                facts.learn(name, &bytes);
            }
        }
        let total = tar.total();
        let name = path.display().to_string();
        Ok(Self {
            head: std::io::Cursor::default(),
            bytes: Bytes::Directory(Box::new(tar)),
            kind: ArchiveKind::Directory,
            total: Some(total),
            name,
            watched: None,
        })
    }

    /// Of a source that cannot be read twice, looks at the first bytes: Podman's archives begin with what tells whose they are.
    pub(super) fn look_ahead(&mut self, facts: &mut Facts) -> std::io::Result<()> {
        if matches!(self.bytes, Bytes::Unpacking(_) | Bytes::Stream(_)) {
            let mut head = Vec::new();
            (&mut self.bytes)
                .take(limits::LOOK_AHEAD)
                .read_to_end(&mut head)?;
            let from_head = |buf: &mut [u8], at: u64| {
                let rest = usize::try_from(at)
                    .ok()
                    .and_then(|at| head.get(at..))
                    .unwrap_or_default();
                let len = rest.len().min(buf.len());
                buf[..len].copy_from_slice(&rest[..len]);
                Ok(len)
            };
            scan(from_head, facts)?;
            self.head = std::io::Cursor::new(head);
        }
        Ok(())
    }

    /// The archive's bytes from the first one on.
    pub(super) fn reader(&mut self) -> impl Read + Send {
        (&mut self.head).chain(&mut self.bytes)
    }

    /// An error if the file is not what it was when it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        if let Bytes::Directory(tar) = &self.bytes {
            tar.check_unchanged()
                .map_err(|e| super::unreadable(&self.name, e))?;
        }
        let Some((watched, before)) = &self.watched else {
            return Ok(());
        };
        let now = watched.metadata().map_err(|e| Error::io(&self.name, e))?;
        let state = |meta: &Metadata| {
            (
                meta.dev(),
                meta.ino(),
                meta.len(),
                meta.mtime(),
                meta.mtime_nsec(),
            )
        };
        if state(before) == state(&now) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Invalid,
            format!(
                "{} changed while it was read: {} bytes before, {} now",
                self.name,
                before.len(),
                now.len()
            ),
        )
        .hint("wait until the checkpoint is complete, then import it again; nothing was stored"))
    }
}

/// Looks at the first bytes of a stream and unpacks it if it is compressed.
fn unpack(mut stream: Box<dyn Read + Send>) -> std::io::Result<Bytes> {
    let mut head = Vec::with_capacity(4);
    (&mut stream).take(4).read_to_end(&mut head)?;
    let compression = sniff(&head);
    let whole = std::io::Cursor::new(head).chain(stream);
    Ok(match compression {
        Some(compression) => Bytes::Unpacking(Unpacking::new(compression, whole)?),
        None => Bytes::Stream(Box::new(whole)),
    })
}

/// Reads the headers of a tar and the members that tell about it, as far as `read_at` gives bytes; what is wrong with the tar is found
/// when it is read as a whole.
fn scan(
    mut read_at: impl FnMut(&mut [u8], u64) -> std::io::Result<usize>,
    facts: &mut Facts,
) -> std::io::Result<()> {
    let mut reader = TarReader::new();
    let mut block = [0; 4096];
    let mut filled = 0;
    let mut at = 0;
    loop {
        match reader.next(&block[at..filled]) {
            Err(_) => return Ok(()),
            Ok(None) => {
                filled = read_at(&mut block, reader.position())?;
                at = 0;
                if filled == 0 {
                    return Ok(());
                }
            }
            Ok(Some(Span::Meta(len) | Span::Data(len))) => at += len,
            Ok(Some(Span::End)) => {}
            Ok(Some(Span::Member(member))) => {
                facts.member(&member.name, member.len, member.mtime);
                let wanted = facts.wants(&member.name, member.len);
                if wanted > 0 {
                    let mut bytes = vec![0; wanted];
                    let mut got = 0;
                    while got < wanted {
                        match read_at(&mut bytes[got..], reader.position() + got as u64)? {
                            0 => return Ok(()),
                            len => got += len,
                        }
                    }
                    facts.learn(&member.name, &bytes);
                }
                let skipped = usize::try_from(reader.skip()).unwrap_or(usize::MAX);
                at = at.saturating_add(skipped).min(filled);
                if at == filled {
                    filled = 0;
                    at = 0;
                }
            }
        }
    }
}
