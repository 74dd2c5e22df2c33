//! Owns the reading and writing of large objects that are files: past what a general library does, where that was measured to matter.
//!
//! Always: a file that was put is whole and on the disk, under its name, or not there at all; what a write that was cut off leaves is
//! `NAME#N`, as `object_store` leaves it. Never: decides where an object lies, or how its errors are told.
//!
//! Large files are written around the page cache where the file system allows it: an import then neither pushes the memory of the node's containers out of it, nor pays
//! for fresh pages (first import of 411 MB: 1.1 s to 0.8 s on a virtual machine whose free memory is not backed).

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::MmapMut;

/// Files from here on are written around the page cache.
pub const LARGE: usize = 1 << 20;
/// What is written at once: large enough for any disk, and aligned as memory pages are.
const BLOCK: usize = 2 << 20;
/// No disk has larger sectors.
const SECTOR: usize = 4096;

/// Parts of a file. One that ends early gives less than was asked for.
pub fn read_ranges(path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
    let mut file = File::open(path)?;
    let mut parts = Vec::with_capacity(ranges.len());
    for range in ranges {
        let len = range.end - range.start;
        let mut part = Vec::with_capacity(usize::try_from(len).unwrap_or(usize::MAX));
        file.seek(SeekFrom::Start(range.start))?;
        (&mut file).take(len).read_to_end(&mut part)?;
        parts.push(Bytes::from(part));
    }
    Ok(parts)
}

/// Puts a file of any length under a name below `root`, durably.
pub fn put(root: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = root.join(name);
    let dir = path.parent().unwrap_or(root);
    make_dir(root, dir)?;
    let (part, direct) = begin(&path)?;
    let written = match direct {
        Some(file) => write_direct(&file, bytes).or_else(|e| match e.kind() {
            // Some file systems take the flag and refuse the write.
            ErrorKind::InvalidInput => write_through_cache(&part, bytes),
            _ => Err(e),
        }),
        None => write_through_cache(&part, bytes),
    };
    let named = written.and_then(|()| std::fs::rename(&part, &path));
    if let Err(e) = named {
        let _ = std::fs::remove_file(&part);
        return Err(e);
    }
    File::open(dir)?.sync_all()
}

/// Makes a directory below `root`, and those above it, durably.
fn make_dir(root: &Path, dir: &Path) -> Result<()> {
    if dir == root || dir.is_dir() {
        return Ok(());
    }
    let above = dir.parent().unwrap_or(root);
    make_dir(root, above)?;
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => File::open(above)?.sync_all(),
    }
}

/// A new file beside `path`; open for writing around the page cache, if that can be.
fn begin(path: &Path) -> Result<(PathBuf, Option<File>)> {
    for n in 1..1000 {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{n}"));
        let part = PathBuf::from(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        match options.clone().custom_flags(libc::O_DIRECT).open(&part) {
            Ok(file) => return Ok((part, Some(file))),
            // The file may have been made all the same.
            Err(e) if e.kind() == ErrorKind::InvalidInput => {
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(&part)?;
                return Ok((part, None));
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(Error::new(
        ErrorKind::AlreadyExists,
        "there are 1000 unfinished files of this name",
    ))
}

fn write_direct(mut file: &File, bytes: &[u8]) -> Result<()> {
    // The kernel takes whole sectors from an aligned place: what is neither goes through a block that is.
    let as_it_is = if bytes.as_ptr().align_offset(SECTOR) == 0 {
        bytes.len() - bytes.len() % SECTOR
    } else {
        0
    };
    let (aligned, rest) = bytes.split_at(as_it_is);
    file.write_all(aligned)?;
    if !rest.is_empty() {
        let mut block = MmapMut::map_anon(BLOCK.min(rest.len().next_multiple_of(SECTOR)))?;
        for part in rest.chunks(BLOCK) {
            block[..part.len()].copy_from_slice(part);
            let padded = part.len().next_multiple_of(SECTOR);
            block[part.len()..padded].fill(0);
            file.write_all(&block[..padded])?;
        }
        file.set_len(bytes.len() as u64)?;
    }
    file.sync_all()
}

fn write_through_cache(part: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(part)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_length_is_put_whole_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        for len in [
            0,
            1,
            SECTOR - 1,
            SECTOR,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            3 * BLOCK + 77,
        ] {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + n / 4096) as u8).collect();
            let name = format!("packs/aa/{len}");
            put(dir.path(), &name, &bytes).unwrap();
            let mut aligned = MmapMut::map_anon(len.max(1)).unwrap();
            aligned[..len].copy_from_slice(&bytes);
            put(dir.path(), &format!("packs/bb/{len}"), &aligned[..len]).unwrap();
            assert!(std::fs::read(dir.path().join(format!("packs/bb/{len}"))).unwrap() == bytes);
            assert!(
                std::fs::read(dir.path().join(&name)).unwrap() == bytes,
                "{len}"
            );
            let len = len as u64;
            let parts = read_ranges(&dir.path().join(&name), &[len / 3..len, 0..len / 2]).unwrap();
            assert_eq!(parts[0], bytes[len as usize / 3..]);
            assert_eq!(parts[1], bytes[..len as usize / 2]);
        }
        let files = std::fs::read_dir(dir.path().join("packs/aa"))
            .unwrap()
            .count();
        assert_eq!(files, 8);
    }

    #[test]
    fn what_cannot_be_written_around_the_cache_is_written_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        File::create(&path).unwrap();
        write_through_cache(&path, &[7; 5000]).unwrap();
        write_through_cache(&path, &[8; 50]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [8; 50]);
    }

    #[test]
    fn a_file_that_another_writer_left_unfinished_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("name#1"), "left").unwrap();
        put(dir.path(), "name", b"bytes").unwrap();
        assert_eq!(std::fs::read(dir.path().join("name")).unwrap(), b"bytes");
        assert_eq!(std::fs::read(dir.path().join("name#1")).unwrap(), b"left");
        assert!(!dir.path().join("name#2").exists());
    }
}
