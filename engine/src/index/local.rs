//! Owns the node's copy of the index, in RocksDB.
//!
//! Always: belongs to one process, which holds a file lock; others read beside it, or do without. Knows which stored segments it has
//! taken in. A damaged copy is deleted and filled again. Never: makes another process wait; believed without a look at the pack.
//!
//! One column family; the first byte of a key says what it is: `c` chunk id → pack number, chunk number; `n` pack number → pack id;
//! `p` pack id → pack number; `s` segment id → taken in. Numbers are little endian.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cryostore_format::segment::PackIds;
use cryostore_format::{ChunkId, PackId, SegmentId};
use rayon::slice::ParallelSliceMut;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompactionStyle, DBCompressionType,
    IngestExternalFileOptions, Options, SstFileWriter, WaitForCompactOptions, WriteBatch,
};

use super::Location;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::memory::Memory;

/// The node's copy of the index.
#[derive(Debug)]
pub struct LocalIndex {
    db: DB,
    lock: Option<File>,
    /// Directory of a reader beside the owner; removed with it.
    _beside: Option<tempfile::TempDir>,
    /// The next pack's number. Held while a pack is taken in, so that what is stored of it never goes back.
    next_pack: Mutex<u32>,
    /// Where a file is made that is taken in.
    new_file: PathBuf,
    lookups: AtomicU64,
}

/// The column family that every RocksDB has; it must be named to be used by its handle.
const FAMILY: &str = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;

fn failed(e: rocksdb::Error) -> Error {
    Error::new(Kind::Unavailable, format!("the local index: {e}"))
        .hint("it is a cache: `cryostore rebuild-index` makes it anew")
}

fn options(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    // Filters and indexes in pieces within the block cache: memory stays bounded for any number of ids.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_cache_index_and_filter_blocks(true);
    table.set_format_version(5);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(limits::INDEX_WRITE_BUFFER);
    options.set_max_write_buffer_number(2);
    // New pages miss: a filter before the write buffer's skip list saves most of the comparisons.
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.1);
    options.set_max_background_jobs(2);
    options.set_max_file_opening_threads(1);
    // Every import adds a file. Files of about one size are merged when there are eight: each id is written a few times in all, and a
    // look-up asks few filters.
    options.set_compaction_style(DBCompactionStyle::Universal);
    options.set_level_zero_file_num_compaction_trigger(8);
    options.set_compression_type(DBCompressionType::None);
    options.set_max_open_files(64);
    options.set_keep_log_file_num(2);
    options.set_log_level(rocksdb::LogLevel::Error);
    options.set_skip_stats_update_on_db_open(true);
    options
}

impl Drop for LocalIndex {
    /// Lets RocksDB merge what it has begun to: processes that live as long as one import would never come to it.
    fn drop(&mut self) {
        if self.is_owner() {
            let mut options = WaitForCompactOptions::default();
            options.set_timeout(limits::INDEX_TIDY_MICROS);
            if let Err(e) = self.db.wait_for_compact(&options) {
                tracing::debug!("the local index was not tidied up: {e}");
            }
        }
    }
}

fn key<const N: usize>(kind: u8, bytes: &[u8; N]) -> Vec<u8> {
    let mut key = Vec::with_capacity(N + 1);
    key.push(kind);
    key.extend_from_slice(bytes);
    key
}

fn number(bytes: &[u8]) -> Option<u32> {
    let mut out = [0; 4];
    out.copy_from_slice(bytes.get(..4)?);
    Some(u32::from_le_bytes(out))
}

impl LocalIndex {
    /// Removes the index in `dir` and makes an empty one. If another process has it, that is a conflict and nothing is removed.
    pub fn make_anew(dir: &Path, memory: Memory) -> Result<Self> {
        let lock = Self::lock_file(dir)?;
        if lock.try_lock().is_err() {
            return Err(
                Error::new(Kind::Conflict, "another process has the local index open")
                    .hint("try again when it is done"),
            );
        }
        let db_dir = dir.join("db");
        match std::fs::remove_dir_all(&db_dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("removing {}", db_dir.display()), e));
            }
            _ => drop(lock),
        }
        Self::open(dir, memory)
    }

    fn lock_file(dir: &Path) -> Result<File> {
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::io(format!("making {}", dir.display()), e))?;
        let path = dir.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        lock.map_err(|e| Error::io(format!("opening {}", path.display()), e))
    }

    /// Opens or makes the index in `dir`. If another process has it, reads beside that one.
    pub fn open(dir: &Path, memory: Memory) -> Result<Self> {
        let lock = Self::lock_file(dir)?;
        let db_dir = dir.join("db");
        let cache = Cache::new_lru_cache(memory.index_cache());
        if lock.try_lock().is_err() {
            return Self::open_beside(dir, &db_dir, &cache);
        }
        let open = || DB::open_cf_with_opts(&options(&cache), &db_dir, [(FAMILY, options(&cache))]);
        let db = open().or_else(|e| {
            tracing::warn!("the local index is damaged and is made anew: {e}");
            let _ = std::fs::remove_dir_all(&db_dir);
            open()
        });
        Self::with(db.map_err(failed)?, Some(lock), None, dir)
    }

    fn open_beside(dir: &Path, db_dir: &PathBuf, cache: &Cache) -> Result<Self> {
        let beside =
            tempfile::tempdir().map_err(|e| Error::io("making a temporary directory", e))?;
        let mut options = options(cache);
        // A reader beside the owner must keep its files open: the owner may remove them.
        options.set_max_open_files(-1);
        let db = DB::open_cf_as_secondary(&options, db_dir, &beside.path().to_path_buf(), [FAMILY])
            .map_err(failed)?;
        db.try_catch_up_with_primary().map_err(failed)?;
        Self::with(db, None, Some(beside), dir)
    }

    fn with(
        db: DB,
        lock: Option<File>,
        beside: Option<tempfile::TempDir>,
        dir: &Path,
    ) -> Result<Self> {
        let mut next = 0;
        if let Some(bytes) = db.get(b"next").map_err(failed)? {
            next = number(&bytes).unwrap_or(0);
        }
        Ok(Self {
            db,
            lock,
            _beside: beside,
            next_pack: Mutex::new(next),
            new_file: dir.join("new.sst"),
            lookups: AtomicU64::new(0),
        })
    }

    /// False if another process has the index: nothing can be added.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.lock.is_some()
    }

    /// True if it has no pack.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // A reader beside the owner sees what the owner adds, and cannot count it.
        self.is_owner()
            && *self
                .next_pack
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                == 0
    }

    /// Ids that were looked up so far.
    #[must_use]
    pub fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// True if stored segment `id` was taken in.
    pub fn has_segment(&self, id: SegmentId) -> Result<bool> {
        Ok(self
            .db
            .get(key(b's', id.as_bytes()))
            .map_err(failed)?
            .is_some())
    }

    /// Takes in the ids of packs, by chunk number from 0 on, as one sorted file: neither RocksDB's log nor its write buffer is in the way,
    /// and the next one to open it has nothing to replay. With `segment`, that stored segment counts as taken in.
    pub fn insert(&self, packs: &[PackIds], segment: Option<SegmentId>) -> Result<()> {
        if !self.is_owner() {
            return Ok(());
        }
        let mut next = self
            .next_pack
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut chunks: Vec<(ChunkId, u32, u32)> = Vec::new();
        let mut others: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut after = *next;
        let mut seen = HashSet::new();
        for PackIds { pack, ids, .. } in packs {
            let pack_key = key(b'p', pack.as_bytes());
            if !seen.insert(*pack) || self.db.get(&pack_key).map_err(failed)?.is_some() {
                continue;
            }
            let number = after;
            after = after.checked_add(1).ok_or_else(|| {
                Error::new(Kind::Unsupported, "the local index has 2^32 packs")
                    .hint("`cryostore rebuild-index` makes it anew")
            })?;
            chunks.extend(ids.iter().zip(0..).map(|(id, chunk)| (*id, number, chunk)));
            others.push((key(b'n', &number.to_le_bytes()), pack.as_bytes().to_vec()));
            others.push((pack_key, number.to_le_bytes().to_vec()));
        }
        if let Some(id) = segment {
            others.push((key(b's', id.as_bytes()), Vec::new()));
        }
        others.push((b"next".to_vec(), after.to_le_bytes().to_vec()));
        chunks.par_sort_unstable();
        chunks.dedup_by_key(|(id, ..)| *id);
        others.sort_unstable();
        self.load(&chunks, &others).map_err(failed)?;
        *next = after;
        Ok(())
    }

    /// Adds a file of sorted entries. Those of chunks come first: no other key begins with a smaller letter.
    fn load(
        &self,
        chunks: &[(ChunkId, u32, u32)],
        others: &[(Vec<u8>, Vec<u8>)],
    ) -> std::result::Result<(), rocksdb::Error> {
        let options = options(&Cache::new_lru_cache(0));
        let mut writer = SstFileWriter::create(&options);
        writer.open(&self.new_file)?;
        for (id, pack, chunk) in chunks {
            let mut value = [0; 8];
            value[..4].copy_from_slice(&pack.to_le_bytes());
            value[4..].copy_from_slice(&chunk.to_le_bytes());
            writer.put(key(b'c', id.as_bytes()), value)?;
        }
        for (key, value) in others {
            writer.put(key, value)?;
        }
        writer.finish()?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db
            .ingest_external_file_opts(&options, vec![&self.new_file])
    }

    /// Forgets a pack that is gone: its ids lead nowhere from now on. Those of them that are known are removed, if no other pack has them.
    pub fn forget(&self, pack: PackId, ids: &[ChunkId]) -> Result<()> {
        if !self.is_owner() {
            return Ok(());
        }
        let pack_key = key(b'p', pack.as_bytes());
        if let Some(bytes) = self.db.get(&pack_key).map_err(failed)? {
            let mut batch = WriteBatch::default();
            if let Some(n) = number(&bytes) {
                batch.delete(key(b'n', &n.to_le_bytes()));
                let keys: Vec<_> = ids.iter().map(|id| key(b'c', id.as_bytes())).collect();
                for (key, value) in keys.iter().zip(self.db.multi_get(&keys)) {
                    let value = value.map_err(failed)?;
                    if value.is_some_and(|value| number(&value) == Some(n)) {
                        batch.delete(key);
                    }
                }
            }
            batch.delete(&pack_key);
            self.db.write(batch).map_err(failed)?;
        }
        Ok(())
    }

    /// Where chunks lie, in the order of `ids`, which must be sorted.
    pub fn look_up(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        self.lookups.fetch_add(ids.len() as u64, Ordering::Relaxed);
        let Some(family) = self.db.cf_handle(FAMILY) else {
            return Err(Error::new(
                Kind::Internal,
                "the local index has no column family",
            ));
        };
        let keys: Vec<_> = ids.iter().map(|id| key(b'c', id.as_bytes())).collect();
        let found = self.db.batched_multi_get_cf(family, &keys, true);
        found
            .into_iter()
            .map(|value| {
                let Some(value) = value.map_err(failed)? else {
                    return Ok(None);
                };
                let (Some(pack), Some(chunk)) = (number(&value), value.get(4..).and_then(number))
                else {
                    return Ok(None);
                };
                Ok(self.pack(pack)?.map(|pack| Location { pack, chunk }))
            })
            .collect()
    }

    fn pack(&self, pack_number: u32) -> Result<Option<PackId>> {
        let bytes = self
            .db
            .get(key(b'n', &pack_number.to_le_bytes()))
            .map_err(failed)?;
        Ok(bytes.and_then(|bytes| {
            let mut id = [0; 16];
            id.copy_from_slice(bytes.get(..16)?);
            Some(PackId::from_bytes(id))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pack: PackId, ids: Vec<ChunkId>) -> [PackIds; 1] {
        let pack_len = 0;
        [PackIds {
            pack,
            pack_len,
            ids,
        }]
    }

    fn ids(from: u8, count: u8) -> Vec<ChunkId> {
        (from..from + count)
            .map(|n| ChunkId::from_bytes([n; 16]))
            .collect()
    }

    #[test]
    fn chunks_are_found_until_their_pack_is_forgotten_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (PackId::from_bytes([1; 16]), PackId::from_bytes([2; 16]));
        {
            let index = LocalIndex::open(dir.path(), Memory::default()).unwrap();
            index.insert(&of(a, ids(0, 10)), None).unwrap();
            index.insert(&of(b, ids(10, 10)), None).unwrap();
        }
        let index = LocalIndex::open(dir.path(), Memory::default()).unwrap();
        let wanted = [ids(3, 1), ids(12, 1), ids(99, 1)].concat();
        let found = index.look_up(&wanted).unwrap();
        assert_eq!(
            found,
            [
                Some(Location { pack: a, chunk: 3 }),
                Some(Location { pack: b, chunk: 2 }),
                None
            ]
        );
        index.forget(a, &ids(0, 10)[..5]).unwrap();
        assert_eq!(index.look_up(&wanted).unwrap()[0], None);
        let has_key = |id: ChunkId| index.db.get(key(b'c', id.as_bytes())).unwrap().is_some();
        let kept = ids(0, 10).into_iter().filter(|id| has_key(*id)).count();
        assert_eq!(kept, 5, "those that were named are gone");
        index.insert(&of(a, ids(0, 10)), None).unwrap();
        assert_eq!(
            index.look_up(&wanted).unwrap()[0],
            Some(Location { pack: a, chunk: 3 })
        );
        assert_eq!(index.lookups(), 9);
    }

    #[test]
    fn a_pack_that_is_forgotten_leaves_the_ids_that_another_pack_has() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (PackId::from_bytes([1; 16]), PackId::from_bytes([2; 16]));
        let index = LocalIndex::open(dir.path(), Memory::default()).unwrap();
        index.insert(&of(a, ids(0, 10)), None).unwrap();
        index.insert(&of(b, ids(5, 10)), None).unwrap();
        index.forget(a, &ids(0, 10)).unwrap();
        let found = index.look_up(&ids(5, 5)).unwrap();
        assert!(
            found
                .iter()
                .all(|found| found.is_some_and(|found| found.pack == b))
        );
    }

    #[test]
    fn a_second_reader_neither_waits_nor_writes() {
        let dir = tempfile::tempdir().unwrap();
        let owner = LocalIndex::open(dir.path(), Memory::default()).unwrap();
        owner
            .insert(&of(PackId::from_bytes([1; 16]), ids(0, 10)), None)
            .unwrap();
        let reader = LocalIndex::open(dir.path(), Memory::default()).unwrap();
        assert!(owner.is_owner() && !reader.is_owner());
        assert!(reader.look_up(&ids(3, 1)).unwrap()[0].is_some());
        reader
            .insert(&of(PackId::from_bytes([2; 16]), ids(20, 5)), None)
            .unwrap();
        assert!(owner.look_up(&ids(20, 1)).unwrap()[0].is_none());
    }

    #[test]
    fn a_damaged_index_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        LocalIndex::open(dir.path(), Memory::default())
            .unwrap()
            .insert(&of(PackId::from_bytes([1; 16]), ids(0, 10)), None)
            .unwrap();
        for entry in std::fs::read_dir(dir.path().join("db")).unwrap() {
            let path = entry.unwrap().path();
            if path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("MANIFEST")
                || path.ends_with("CURRENT")
            {
                std::fs::write(path, "damaged").unwrap();
            }
        }
        let index = LocalIndex::open(dir.path(), Memory::default()).unwrap();
        assert_eq!(index.look_up(&ids(3, 1)).unwrap(), [None]);
    }
}
