//! Owns the tar that a directory becomes (format-spec/spec/snapshot.md says which), so that a directory is an archive like any other.
//!
//! Always: the same directory gives the same bytes; a file that changes its length while it is read is an error. Never:
//! follows a symbolic link; leaves the directory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::archive::tar::BLOCK;
use crate::error::{Error, Kind, Result};

#[derive(Debug)]
struct Entry {
    path: PathBuf,
    head: Head,
    state: State,
}

/// What tells that a file is still the same: device, inode, length, time of change in seconds and nanoseconds.
type State = (u64, u64, u64, i64, i64);

fn state(meta: &std::fs::Metadata) -> State {
    (
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
    )
}

/// What a header says.
#[derive(Debug, Default)]
struct Head {
    name: Vec<u8>,
    flag: u8,
    len: u64,
    link: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    /// Seconds and nanoseconds since 1970.
    mtime: (i64, i64),
    rdev: u64,
}

/// The headers of a file of `len` bytes of which no more is known than its name.
#[must_use]
pub fn stream_header(name: &[u8], len: u64) -> Vec<u8> {
    headers(&Head {
        name: name.to_vec(),
        flag: b'0',
        len,
        mode: 0o600,
        ..Head::default()
    })
}

/// A directory, as a tar to be read.
#[derive(Debug)]
pub struct DirectoryTar {
    entries: std::vec::IntoIter<Entry>,
    /// Headers or padding to be given next.
    block: io::Cursor<Vec<u8>>,
    /// The file being read, what is left of it, and the padding after it.
    file: Option<(File, PathBuf, u64, usize)>,
    ended: bool,
    /// What could not be taken in, for people.
    skipped: Vec<String>,
    files: Vec<(Vec<u8>, PathBuf, u64)>,
    states: Vec<(PathBuf, State)>,
    total: u64,
}

impl DirectoryTar {
    /// Looks at all names below `root`.
    pub fn open(root: &Path) -> Result<Self> {
        let mut entries = Vec::new();
        let mut skipped = Vec::new();
        walk(root, &[], &mut entries, &mut skipped)?;
        entries.sort_by(|a, b| a.head.name.cmp(&b.head.name));
        if entries.is_empty() {
            return Err(
                Error::new(Kind::Invalid, format!("{} holds no files", root.display()))
                    .hint("name the directory in which CRIU's images are, or an archive"),
            );
        }
        let files = entries
            .iter()
            .filter(|e| e.head.flag == b'0')
            .map(|e| (e.head.name.clone(), e.path.clone(), e.head.len))
            .collect();
        let states = entries
            .iter()
            .filter(|e| e.head.flag == b'0')
            .map(|e| (e.path.clone(), e.state))
            .collect();
        let total = entries.iter().map(|e| e.head.len).sum();
        Ok(Self {
            entries: entries.into_iter(),
            block: io::Cursor::default(),
            file: None,
            ended: false,
            skipped,
            files,
            states,
            total,
        })
    }

    /// Regular files: name in the tar, path, bytes.
    #[must_use]
    pub fn files(&self) -> &[(Vec<u8>, PathBuf, u64)] {
        &self.files
    }

    /// Bytes of all files.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// What could not be taken in.
    #[must_use]
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// An error if a file is not what it was when the directory was opened.
    pub fn check_unchanged(&self) -> io::Result<()> {
        for (path, before) in &self.states {
            if path
                .symlink_metadata()
                .map_or(true, |meta| state(&meta) != *before)
            {
                return Err(changed(path));
            }
        }
        Ok(())
    }

    /// Prepares the next header; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(entry) = self.entries.next() else {
            let first = !std::mem::replace(&mut self.ended, true);
            self.block = io::Cursor::new(vec![0; if first { 2 * BLOCK } else { 0 }]);
            return Ok(first);
        };
        self.block = io::Cursor::new(headers(&entry.head));
        if entry.head.flag == b'0' {
            let named =
                |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", entry.path.display()));
            let file = File::open(&entry.path).map_err(named)?;
            let len = entry.head.len;
            if state(&file.metadata().map_err(named)?) != entry.state {
                return Err(changed(&entry.path));
            }
            let padding = usize::try_from(len.next_multiple_of(BLOCK as u64) - len).unwrap_or(0);
            self.file = Some((file, entry.path, len, padding));
        }
        Ok(true)
    }
}

fn changed(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{} changed while it was read", path.display()),
    )
}

impl Read for DirectoryTar {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = self.block.read(buf)?;
            if len > 0 || buf.is_empty() {
                return Ok(len);
            }
            if let Some((file, path, left, padding)) = &mut self.file {
                if *left > 0 {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                    let len = file.read(&mut buf[..most])?;
                    if len == 0 {
                        return Err(changed(path));
                    }
                    *left -= len as u64;
                    return Ok(len);
                }
                if file.read(&mut [0])? != 0 {
                    return Err(changed(path));
                }
                self.block = io::Cursor::new(vec![0; *padding]);
                self.file = None;
                continue;
            }
            if !self.advance()? {
                return Ok(0);
            }
        }
    }
}

fn walk(dir: &Path, prefix: &[u8], out: &mut Vec<Entry>, skipped: &mut Vec<String>) -> Result<()> {
    let failed = |e| Error::io(format!("reading {}", dir.display()), e);
    for found in std::fs::read_dir(dir).map_err(failed)? {
        let path = found.map_err(failed)?.path();
        let failed = |e| Error::io(format!("reading {}", path.display()), e);
        let meta = path.symlink_metadata().map_err(failed)?;
        let kind = meta.file_type();
        let mut name = prefix.to_vec();
        name.extend_from_slice(path.file_name().unwrap_or_default().as_bytes());
        let mut head = Head {
            name,
            flag: b'0',
            len: 0,
            link: Vec::new(),
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            rdev: meta.rdev(),
        };
        if kind.is_dir() {
            head.name.push(b'/');
            head.flag = b'5';
            walk(&path, &head.name, out, skipped)?;
        } else if kind.is_symlink() {
            head.flag = b'2';
            head.link = std::fs::read_link(&path)
                .map_err(failed)?
                .into_os_string()
                .into_vec();
        } else if kind.is_file() {
            head.len = meta.len();
        } else if kind.is_fifo() {
            head.flag = b'6';
        } else if kind.is_char_device() {
            head.flag = b'3';
        } else if kind.is_block_device() {
            head.flag = b'4';
        } else {
            skipped.push(format!("{} is a socket and was left out", path.display()));
            continue;
        }
        out.push(Entry {
            state: state(&meta),
            path,
            head,
        });
    }
    Ok(())
}

/// The headers of one entry: a PAX header if something does not fit, then the ustar header.
fn headers(head: &Head) -> Vec<u8> {
    let mut pax = Vec::new();
    if head.name.len() > 100 || !head.name.is_ascii() {
        pax_record(&mut pax, b"path", &head.name);
    }
    if head.link.len() > 100 || !head.link.is_ascii() {
        pax_record(&mut pax, b"linkpath", &head.link);
    }
    for (key, value, most) in [
        (&b"size"[..], head.len, (1_u64 << 33) - 1),
        (b"uid", head.uid.into(), (1 << 21) - 1),
        (b"gid", head.gid.into(), (1 << 21) - 1),
    ] {
        if value > most {
            pax_record(&mut pax, key, value.to_string().as_bytes());
        }
    }
    let (seconds, nanos) = head.mtime;
    if nanos != 0 || !(0..1 << 33).contains(&seconds) {
        pax_record(
            &mut pax,
            b"mtime",
            format!("{seconds}.{nanos:09}").as_bytes(),
        );
    }
    let mut out = Vec::new();
    if !pax.is_empty() {
        let len = pax.len() as u64;
        out.extend(block(b"PaxHeaders", len, b'x', &[], head));
        out.append(&mut pax);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.extend(block(&head.name, head.len, head.flag, &head.link, head));
    out
}

fn pax_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    // The length counts its own digits.
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.extend_from_slice(&[b" ", key, b"=", value, b"\n"].concat());
}

fn block(name: &[u8], len: u64, flag: u8, link: &[u8], head: &Head) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    let mut text = |at: usize, width: usize, value: &[u8]| {
        let value = &value[..value.len().min(width)];
        out[at..at + value.len()].copy_from_slice(value);
    };
    // What does not fit is in the PAX header; the field then holds what it can.
    let octal = |value: u64, digits: usize| {
        let most = (1_u64 << (3 * digits)) - 1;
        format!("{:0digits$o}\0", value.min(most))
    };
    text(0, 100, name);
    text(100, 8, octal(u64::from(head.mode & 0o7777), 7).as_bytes());
    text(108, 8, octal(head.uid.into(), 7).as_bytes());
    text(116, 8, octal(head.gid.into(), 7).as_bytes());
    text(124, 12, octal(len, 11).as_bytes());
    text(
        136,
        12,
        octal(u64::try_from(head.mtime.0).unwrap_or(0), 11).as_bytes(),
    );
    text(148, 8, b"        ");
    text(156, 1, &[flag]);
    text(157, 100, link);
    text(257, 8, b"ustar\x0000");
    if matches!(head.flag, b'3' | b'4') {
        let device = head.rdev;
        // Linux: 12 bits of major, 20 of minor, spread over 64.
        let major = (device >> 8) & 0xfff | (device >> 32) & !0xfff;
        let minor = device & 0xff | (device >> 12) & !0xff;
        text(329, 8, octal(major & 0xf_ffff, 7).as_bytes());
        text(337, 8, octal(minor & 0xf_ffff, 7).as_bytes());
    }
    let sum: u32 = out.iter().map(|b| u32::from(*b)).sum();
    out[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tar::{EntryType, Span, TarReader};

    fn tar_of(root: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        DirectoryTar::open(root)
            .unwrap()
            .read_to_end(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn a_directory_becomes_the_same_tar_each_time_and_nothing_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::write(root.join("pages-1.img"), vec![7; 5000]).unwrap();
        std::fs::write(root.join("empty"), "").unwrap();
        std::fs::create_dir(root.join("sub")).unwrap();
        let long = "n".repeat(150);
        std::fs::write(root.join("sub").join(&long), "long").unwrap();
        std::os::unix::fs::symlink("../parent", root.join("parent")).unwrap();
        let tar = tar_of(root);
        assert_eq!(tar, tar_of(root));
        let mut reader = TarReader::new();
        let mut rest = &tar[..];
        let mut seen = Vec::new();
        while let Some(span) = reader.next(rest).unwrap() {
            match span {
                Span::Member(m) => seen.push((String::from_utf8(m.name).unwrap(), m.kind, m.len)),
                Span::Meta(len) | Span::Data(len) => rest = &rest[len..],
                Span::End => {}
            }
        }
        assert!(reader.finish().unwrap().complete);
        let expected = [
            ("empty".to_owned(), EntryType::File, 0),
            ("pages-1.img".to_owned(), EntryType::File, 5000),
            ("parent".to_owned(), EntryType::Symlink, 0),
            ("sub/".to_owned(), EntryType::Directory, 0),
            (format!("sub/{long}"), EntryType::File, 4),
        ];
        let mut sorted = expected.to_vec();
        sorted.sort();
        let mut found = seen.clone();
        found.sort();
        assert_eq!(found, sorted);
        let names: Vec<_> = seen.iter().map(|s| s.0.clone()).collect();
        let mut in_order = names.clone();
        in_order.sort();
        assert_eq!(names, in_order);
    }

    #[test]
    fn a_file_that_grows_or_shrinks_while_it_is_read_is_an_error() {
        for new_len in [10, 9000] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("pages-1.img");
            std::fs::write(&path, vec![7; 5000]).unwrap();
            let mut tar = DirectoryTar::open(dir.path()).unwrap();
            let mut some = [0; 1024];
            tar.read_exact(&mut some).unwrap();
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(new_len)
                .unwrap();
            let error = tar.read_to_end(&mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("changed"), "{error}");
        }
    }

    #[test]
    fn an_empty_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            DirectoryTar::open(dir.path()).unwrap_err().kind(),
            Kind::Invalid
        );
    }
}
