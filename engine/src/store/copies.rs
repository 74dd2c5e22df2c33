//! Owns this node's copies of packs in a bucket, on its disk: bounded, the ones that were not used for longest go first.
//!
//! A file is the pack's own bytes, as sealed as they are, then a digest of each block of [`BLOCK`] bytes, then the pack's length and [`MAGIC`].
//!
//! Always: what is read was compared with the digests of its blocks, which are of this pack only; a file of which a byte is wrong is removed, and the store is asked. Never: the only copy of
//! anything; a reason to fail; kept of a directory.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cryostore_format::PackId;

use crate::node_file;

/// 64 KiB: a frame or two, so that reading one frame reads little more; the digests take a two-thousandth.
const BLOCK: u64 = 64 << 10;
const DIGEST: u64 = blake3::OUT_LEN as u64;
const MAGIC: [u8; 8] = *b"CRYOPAK1";
/// The pack's length and the magic bytes.
const END: u64 = END_LEN as u64;
const END_LEN: usize = size_of::<u64>() + MAGIC.len();

/// Copies of packs in one directory.
#[derive(Debug)]
pub struct Copies {
    dir: PathBuf,
    most: u64,
}

/// A copy that is open.
struct Open {
    file: File,
    id: PackId,
    pack_len: u64,
}

impl Copies {
    /// In this directory, at most so many bytes.
    #[must_use]
    pub const fn new(dir: PathBuf, most: u64) -> Self {
        Self { dir, most }
    }

    /// The most bytes that they may take.
    #[must_use]
    pub const fn most(&self) -> u64 {
        self.most
    }

    fn path(&self, id: PackId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// True if there is a copy of a pack. Whether it is whole shows when it is read.
    #[must_use]
    pub fn has(&self, id: PackId) -> bool {
        self.path(id).exists()
    }

    /// Parts of a pack; none if there is no copy, or a damaged one.
    #[must_use]
    pub fn read(&self, id: PackId, ranges: &[Range<u64>]) -> Option<Vec<Bytes>> {
        let path = self.path(id);
        let file = File::open(&path).ok()?;
        // Its time says when it was used last.
        let now = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let times = rustix::fs::Timestamps {
            last_access: now,
            last_modification: now,
        };
        let _ = rustix::fs::futimens(&file, &times);
        let parts = Open::of(file, id).and_then(|open| {
            let parts = ranges.iter().map(|range| open.read(range));
            parts.collect::<Option<Vec<_>>>()
        });
        if parts.is_none() {
            tracing::debug!("the copy of pack {id} is damaged");
            let _ = std::fs::remove_file(path);
        }
        parts
    }

    /// Keeps a copy of a pack, and removes others for it if there are too many. Without it the store is asked: errors are no loss.
    pub fn put(&self, id: PackId, pack: &[u8]) {
        if file_len(pack.len() as u64) > self.most {
            return;
        }
        if let Err(e) = self.write(id, pack) {
            tracing::debug!("keeping a copy of pack {id}: {e}");
        }
        self.trim(id);
    }

    fn write(&self, id: PackId, pack: &[u8]) -> std::io::Result<()> {
        let blocks = (0..).zip(pack.chunks(usize::try_from(BLOCK).unwrap_or(usize::MAX)));
        let mut end: Vec<u8> = blocks
            .flat_map(|(number, block)| digest(id, number, block))
            .collect();
        end.extend((pack.len() as u64).to_le_bytes());
        end.extend(MAGIC);
        node_file::replace(&self.path(id), &[pack, &end])
    }

    /// Removes the files that were not used for longest, until the rest are few enough; never the copy of `newest`.
    fn trim(&self, newest: PackId) {
        let mut files = files(&self.dir);
        let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
        if total <= self.most {
            return;
        }
        files.sort_by_key(|(_, _, used)| *used);
        let newest = self.path(newest);
        for (path, len, _) in files {
            if total <= self.most {
                break;
            }
            if path != newest && std::fs::remove_file(&path).is_ok() {
                total -= len;
            }
        }
    }
}

fn file_len(pack_len: u64) -> u64 {
    pack_len + pack_len.div_ceil(BLOCK) * DIGEST + END
}

/// Path, bytes and time of the last use of each file.
fn files(dir: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let file = |entry: std::fs::DirEntry| {
        let meta = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some((entry.path(), meta.len(), meta.modified().ok()?))
    };
    entries.filter_map(file).collect()
}

fn digest(id: PackId, number: u64, block: &[u8]) -> [u8; blake3::OUT_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(id.as_bytes()).update(&number.to_le_bytes());
    *hasher.update(block).finalize().as_bytes()
}

impl Open {
    fn of(file: File, id: PackId) -> Option<Self> {
        let len = file.metadata().ok()?.len();
        let mut end = [0; END_LEN];
        file.read_exact_at(&mut end, len.checked_sub(END)?).ok()?;
        let (pack_len, magic) = end.split_first_chunk()?;
        let pack_len = u64::from_le_bytes(*pack_len);
        let whole = magic == MAGIC && pack_len <= len && file_len(pack_len) == len;
        whole.then_some(Self { file, id, pack_len })
    }

    fn read(&self, range: &Range<u64>) -> Option<Bytes> {
        if range.start >= range.end || range.end > self.pack_len {
            return None;
        }
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        let from = blocks.start * BLOCK;
        let bytes = self.bytes(from, (blocks.end * BLOCK).min(self.pack_len) - from)?;
        let digests = self.bytes(
            self.pack_len + blocks.start * DIGEST,
            (blocks.end - blocks.start) * DIGEST,
        )?;
        let block_len = usize::try_from(BLOCK).ok()?;
        let fits = bytes
            .chunks(block_len)
            .zip(digests.chunks(blake3::OUT_LEN))
            .zip(blocks)
            .all(|((block, wanted), number)| digest(self.id, number, block) == wanted);
        let at = |byte: u64| usize::try_from(byte - from).ok();
        let part = at(range.start)?..at(range.end)?;
        fits.then(|| Bytes::from(bytes).slice(part))
    }

    fn bytes(&self, from: u64, len: u64) -> Option<Vec<u8>> {
        let mut out = vec![0; usize::try_from(len).ok()?];
        self.file.read_exact_at(&mut out, from).ok()?;
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> PackId {
        PackId::from_bytes([n; 16])
    }

    fn pack(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n % 251) as u8 ^ (n >> 9) as u8).collect()
    }

    #[test]
    fn any_part_of_a_copy_is_that_of_the_pack_and_what_is_not_in_it_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::new(dir.path().to_owned(), 1 << 30);
        let bytes = pack(300_001);
        copies.put(id(1), &bytes);
        assert!(copies.has(id(1)) && !copies.has(id(2)));
        let ranges = [
            0..1,
            0..300_001,
            65_535..65_537,
            65_536..131_072,
            299_999..300_001,
        ];
        let parts = copies.read(id(1), &ranges).unwrap();
        for (range, part) in ranges.iter().zip(parts) {
            assert_eq!(part, bytes[range.start as usize..range.end as usize]);
        }
        assert!(copies.read(id(2), &ranges).is_none());
        assert!(
            copies
                .read(id(1), std::slice::from_ref(&(300_000..300_002)))
                .is_none()
        );
    }

    #[test]
    fn a_copy_with_any_wrong_byte_or_of_another_pack_is_removed_and_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::new(dir.path().to_owned(), 1 << 30);
        let bytes = pack(200_000);
        let all = std::slice::from_ref(&(0..200_000));
        copies.put(id(1), &bytes);
        let path = copies.path(id(1));
        let good = std::fs::read(&path).unwrap();
        for at in [
            0,
            65_536,
            199_999,
            200_000,
            good.len() - 17,
            good.len() - 16,
            good.len() - 1,
        ] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert!(copies.read(id(1), all).is_none(), "{at}");
            assert!(!path.exists(), "{at}");
        }
        for len in [0, 1, 16, 200_000, good.len() - 1] {
            std::fs::write(&path, &good[..len]).unwrap();
            assert!(copies.read(id(1), all).is_none() && !path.exists(), "{len}");
        }
        std::fs::write(copies.path(id(2)), &good).unwrap();
        assert!(copies.read(id(2), all).is_none());
    }

    #[test]
    fn the_copies_that_were_not_used_for_longest_go_when_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::new(dir.path().to_owned(), 3 * file_len(100_000));
        let pause = || std::thread::sleep(std::time::Duration::from_millis(20));
        for n in 1..=3 {
            copies.put(id(n), &pack(100_000));
            pause();
        }
        copies.read(id(1), std::slice::from_ref(&(0..1))).unwrap();
        pause();
        copies.put(id(4), &pack(100_000));
        assert_eq!(
            [1, 2, 3, 4].map(|n| copies.has(id(n))),
            [true, false, true, true]
        );
        // One that is larger than all together may be is not kept, and costs no other.
        copies.put(id(5), &pack(400_000));
        assert_eq!(
            [1, 3, 4, 5].map(|n| copies.has(id(n))),
            [true, true, true, false]
        );
    }
}
