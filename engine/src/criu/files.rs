//! `files.img` and `fdinfo-<id>.img`: what was open.
//!
//! Owns the kinds of open files, their paths, and which descriptor means which of them. Always: a kind that we do not
//! know is kept as its number. Never: the content of a pipe or of a file that was removed, which other images hold.
//!
//! Fields from `images/fdinfo.proto`, `images/regfile.proto` and `images/pipe.proto`. Before `files.img`, in CRIU 2,
//! each kind had an image of its own; these are not read.

use super::error::CriuError;
use super::image::{Record, magic, records};
use super::sockets::{InetSocket, UnixSocket};
use super::wire::Field;

const FILE: &str = "file entry";
const DESCRIPTOR: &str = "fdinfo entry";

/// One open file, which several descriptors may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// What descriptors name it by.
    pub id: u32,
    /// What it is.
    pub kind: FileKind,
}

/// What is open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A file or a directory.
    Path {
        /// As the process sees it.
        path: String,
        /// Bytes at the dump: CRIU restores only if the file has them still.
        size: Option<u64>,
    },
    /// A pipe, by its number.
    Pipe(u32),
    /// IPv4 or IPv6.
    Inet(InetSocket),
    /// Unix.
    Unix(UnixSocket),
    /// A number of `fd_types`.
    Other(u32),
}

impl FileKind {
    /// The name of its kind in CRIU (`fd_types`).
    pub fn name(&self) -> &'static str {
        let number = match self {
            Self::Path { .. } => 1,
            Self::Pipe(_) => 2,
            Self::Inet(_) => 4,
            Self::Unix(_) => 5,
            Self::Other(number) => *number,
        };
        const NAMES: [&str; 19] = [
            "UND",
            "REG",
            "PIPE",
            "FIFO",
            "INETSK",
            "UNIXSK",
            "EVENTFD",
            "EVENTPOLL",
            "INOTIFY",
            "SIGNALFD",
            "PACKETSK",
            "TTY",
            "FANOTIFY",
            "NETLINKSK",
            "NS",
            "TUNF",
            "EXT",
            "TIMERFD",
            "MEMFD",
        ];
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        NAMES.get(number).copied().unwrap_or("UND")
    }
}

/// One descriptor of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub fd: u32,
    /// What it means, in `files.img`.
    pub file: u32,
}

/// Reads `files.img`.
pub fn parse_files(bytes: &[u8]) -> Result<Vec<OpenFile>, CriuError> {
    records(bytes, magic::FILES)?
        .map(|record| OpenFile::parse(record?))
        .collect()
}

/// Reads `fdinfo-<id>.img`.
pub fn parse_descriptors(bytes: &[u8]) -> Result<Vec<Descriptor>, CriuError> {
    records(bytes, magic::FDINFO)?
        .map(|record| Descriptor::parse(record?))
        .collect()
}

fn missing(what: &'static str, offset: usize, number: u32, name: &'static str) -> CriuError {
    CriuError::Missing {
        what,
        offset,
        number,
        name,
    }
}

impl OpenFile {
    fn parse(record: Record<'_>) -> Result<Self, CriuError> {
        let (mut kind, mut id, mut known) = (None, None, None);
        for field in record.fields(FILE) {
            let field = field?;
            match field.number {
                1 => kind = Some(field.u32()?),
                2 => id = Some(field.u32()?),
                3 => known = Some(path(&field)?),
                4 => known = Some(FileKind::Inet(InetSocket::parse(&field)?)),
                16 => known = Some(FileKind::Unix(UnixSocket::parse(&field)?)),
                18 => known = Some(FileKind::Pipe(pipe(&field)?)),
                _ => {}
            }
        }
        let id = id.ok_or(missing(FILE, record.offset, 2, "id"))?;
        let kind = kind.ok_or(missing(FILE, record.offset, 1, "type"))?;
        Ok(Self {
            id,
            kind: known.unwrap_or(FileKind::Other(kind)),
        })
    }
}

fn path(field: &Field<'_>) -> Result<FileKind, CriuError> {
    let (mut path, mut size) = (String::new(), None);
    for inner in field.message("regular file entry")? {
        let inner = inner?;
        match inner.number {
            6 => path = inner.text()?,
            8 => size = Some(inner.u64()?),
            _ => {}
        }
    }
    Ok(FileKind::Path { path, size })
}

fn pipe(field: &Field<'_>) -> Result<u32, CriuError> {
    let mut number = 0;
    for inner in field.message("pipe entry")? {
        let inner = inner?;
        if inner.number == 2 {
            number = inner.u32()?;
        }
    }
    Ok(number)
}

impl Descriptor {
    fn parse(record: Record<'_>) -> Result<Self, CriuError> {
        let (mut fd, mut file) = (None, None);
        for field in record.fields(DESCRIPTOR) {
            let field = field?;
            match field.number {
                1 => file = Some(field.u32()?),
                4 => fd = Some(field.u32()?),
                _ => {}
            }
        }
        Ok(Self {
            fd: fd.ok_or(missing(DESCRIPTOR, record.offset, 4, "fd"))?,
            file: file.ok_or(missing(DESCRIPTOR, record.offset, 1, "id"))?,
        })
    }
}
