//! Owns every bound of the stored format, each with its reason.
//!
//! Always: a decoder compares with these before it allocates. Never: a bound that a writer of this version can exceed.

/// 1 MiB: a frame is the unit of reading; 64 KiB frames reach nearly the ratio of larger ones, the rest is room for deltas.
pub const FRAME_PLAIN_MAX: u32 = 1 << 20;

/// A stored frame may be a little larger than its content (zstd's worst case is content + 1/256 + 512 bytes).
pub const FRAME_STORED_MAX: u32 = FRAME_PLAIN_MAX + FRAME_PLAIN_MAX / 128 + 4096;

/// Chunks in one frame: 1 MiB of the smallest pieces that a cutter makes is far below.
pub const FRAME_CHUNKS_MAX: u16 = 4096;

/// 1 GiB: packs are about 16 MiB; `optimize` and merges may make them larger, and offsets stay below 32 bits.
pub const PACK_MAX: u64 = 1 << 30;

/// Frames in one pack: a 1 GiB pack of frames of 256 bytes.
pub const PACK_FRAMES_MAX: u32 = 1 << 22;

/// Chunks in one pack: 64 MiB of ids, read at once when an index is rebuilt.
pub const PACK_CHUNKS_MAX: u32 = 1 << 22;

/// 256 MiB of manifest: a 64 GiB archive of which every page lies elsewhere needs about 130 MiB.
pub const MANIFEST_PLAIN_MAX: u64 = 256 << 20;

/// Streams of one manifest: an archive with a million members is refused rather than half understood.
pub const STREAMS_MAX: u64 = 1 << 20;

/// Packs that one manifest may name: 64 GiB in packs of 16 MiB is 4,096.
pub const MANIFEST_PACKS_MAX: u64 = 1 << 20;

/// Delta frames in one table; writers of this version put in 128.
pub const TABLE_FRAMES_MAX: u64 = 4096;

/// Stretches of pages with their bases in one table: 128 frames of 128 pages make 16,384 at most, and 48 bytes of memory each.
pub const TABLE_RUNS_MAX: usize = 1 << 17;

/// Tables that one manifest may name: 64 GiB of pages, changed by each of ten imports, make 10,240.
pub const TABLES_MAX: u64 = 1 << 16;

/// Delta frames of one manifest: 64 GiB of pages, 16 in each.
pub const DELTA_FRAMES_MAX: usize = 1 << 22;

/// Stretches of pages with their bases in one manifest: 400 MB of memory. Writers stop at a quarter of it.
pub const DELTA_RUNS_MAX: usize = 1 << 23;

/// Pages of deltas have 4 KiB to 64 KiB, as those of Linux do.
pub const DELTA_PAGE: std::ops::RangeInclusive<u32> = 4096..=65_536;

/// Deltas that are on top of each other at most. Writers keep far below; a reader's work for one page stays bounded.
pub const DELTA_CHAIN_MAX: u32 = 16;

/// 64 MiB of index segment: 4 million ids.
pub const SEGMENT_PLAIN_MAX: u64 = 64 << 20;

/// 1 MiB of JSON for a repository, snapshot or session record; labels and warnings are bounded before.
pub const RECORD_MAX: u64 = 1 << 20;

/// 64 MiB of catalogue: some 40,000 records of 1.5 KiB.
pub const CATALOGUE_PLAIN_MAX: u64 = 64 << 20;

/// A catalogue as it is stored: it is compressed where that makes it smaller.
pub const CATALOGUE_STORED_MAX: u64 = CATALOGUE_PLAIN_MAX + 4096;

/// Entries of one catalogue: as many tombstones as fit. More go into several.
pub const CATALOGUE_MAX: u64 = 1 << 16;

/// Bytes of a store's tag: those of the known stores have 70 at most.
pub const TAG_MAX: u64 = 256;

/// Length of a stream's name. PAX allows any length; Linux refuses paths over 4096 bytes.
pub const NAME_MAX: u64 = 64 << 10;

/// Damaged frames that one record names: 700 KiB of JSON. A pack of 16 MiB has some 300 frames.
pub const DAMAGED_FRAMES_MAX: usize = 1 << 16;

/// Packs that one collection record tells imports to leave: 64 GiB of them, 140 KiB of JSON.
pub const LEAVE_MAX: usize = 4096;

/// Packs that one collection record condemns: 256 GiB of them, 570 KiB of JSON. More go into several records.
pub const CONDEMNED_MAX: usize = 16_384;

/// Snapshots that one collection record gives up: 400 KiB of JSON.
pub const GIVEN_UP_MAX: usize = 4096;

/// Records that one collection record calls done: 140 KiB of JSON.
pub const DONE_MAX: usize = 4096;

/// Collections that a session can name: 140 KiB of JSON. A collection removes its record when all of it is gone, so that there are few.
pub const COLLECTIONS_MAX: usize = 4096;

/// Epochs of one key ring: a rotation a week for twenty years. It keeps a key object below 100 KiB.
pub const EPOCHS_MAX: usize = 1024;

/// Directory of a pack, sealed: its ids, 16 bytes for each frame in its table (9 are needed), and trailer and seal.
pub const DIRECTORY_SEALED_MAX: u64 =
    PACK_CHUNKS_MAX as u64 * 16 + PACK_FRAMES_MAX as u64 * 16 + 4096;

/// 1 GiB: memory that argon2id may take to open a key; a key from a hostile store can ask for no more.
pub const ARGON2_MEMORY_KIB_MAX: u32 = 1 << 20;

/// Memory times passes of argon2id: 4 GiB of work, some 4 s.
pub const ARGON2_WORK_KIB_MAX: u64 = 4 << 20;

/// Lanes of argon2id.
pub const ARGON2_LANES_MAX: u32 = 16;

/// What a command prints to open a key, in bytes: a wrapped blob of any key service fits.
pub const KEY_MATERIAL_MAX: usize = 64 << 10;

/// Keys of one repository: as many are tried when it is opened.
pub const KEYS_MAX: usize = 64;

/// Bytes of a key's label.
pub const KEY_LABEL_MAX: usize = 256;
