//! Owns every bound of the engine, each with its reason. Those of the stored format are in `cryostore_format::limits`.

use std::time::Duration;

use zstd::zstd_safe::CParameter;

/// 1 MiB: large enough that a system call, a channel send and a rayon split cost nothing per page; what was read and digested is still in the caches when it
/// is hashed (a first import of 411 MB 0.60 s with 4 MiB, 0.57 s with 1 or 2, 0.59 s with 512 KiB).
pub const SLAB_LEN: usize = 1 << 20;
/// 4 MiB of what cannot be read twice are looked at before the session begins: Podman's archives begin with what tells whose they are.
pub const LOOK_AHEAD: u64 = 4 << 20;
/// Slabs that wait between reader and worker: one being read, one waiting, one worked on.
pub const SLABS_WAITING: usize = 1;

/// 64 KiB: ratios are flat beyond (1.91 at 64 KiB, zstd level 1), and a page that is read alone costs one frame.
pub const FRAME_PLAIN: usize = 64 << 10;
/// 2 MiB of chunks may still be at work in frames when the next slab is looked at. With the slab's own that is 3 MiB, as much sealed, and for deltas twice as
/// much again: enough for every core while the next slab is hashed.
pub const SEALING: usize = 2 << 20;
/// 512 KiB of changed pages are compared with their bases together, and make one delta frame at most. Half as many cost 4 to 8 % more bytes, twice as many save
/// 2 to 5 %, but are at work two at a time only.
pub const DELTA_PLAIN: usize = 512 << 10;
/// A page is stored as a delta if at most one word in so many differs from its base.
pub const DELTA_NEAR: usize = 2;
/// Deltas on top of each other at most: as many as the numbers ask for, and no more where pages were not stored again in time.
pub const DELTA_CHAIN: u32 = 10;
/// Stretches of pages with bases that a base may have, and an import may make, before pages are stored whole: some 100 bytes of memory each.
pub const DELTA_RUNS: usize = 2 << 20;
/// Numbers of imports with deltas, after which all of them are made of plain pages anew.
pub const DELTA_VERSIONS: u8 = 128;
/// Delta frames in one table of bases: 64 MiB of pages at most. A table is needed as long as one of its frames is, and may have 1 MiB.
pub const TABLE_FRAMES: usize = 128;
/// Tables of a manifest that are read side by side: over a remote store each is a request, and 16 MiB at most.
pub const TABLES_AT_ONCE: usize = 16;
/// Delta frames of the base whose ids this node did not keep, put together and remembered: 128 pages of 32 bytes each, 2 MiB in all.
pub const DELTA_IDS: usize = 512;
/// 16 MiB: a pack is one request to an object store; larger ones gain nothing there and cost memory.
pub const PACK_LEN: usize = 16 << 20;
/// 1 MiB that a repository in a directory keeps free for deletions and collections on a full disk: the largest record of a collection (16,384 packs) takes 0.6 MiB, a mark or a tombstone a
/// block of the file system, and with the first pack that goes there is room again.
pub const RESERVE: usize = 1 << 20;
/// Containers of which a node keeps the newest manifest that it stored: of most some 10 KB.
pub const BASES_KEPT: usize = 256;
/// 256 MiB of records that are taken out of catalogues at most: some 250,000; the others are read themselves.
pub const CATALOGUE_BYTES_READ: usize = 256 << 20;
/// Index segments that a collection puts together into one of at most 8 MiB (half a million ids), when there are 64 that are smaller than half of that. A node that has them all reads each id once more.
pub const SMALL_SEGMENTS: usize = 64;
/// Bytes of that one.
pub const SEGMENT_MERGED: u64 = 8 << 20;
/// What a node takes into its index when an import opens it, the newest segments first; the rest comes with the next imports, or at once by `rebuild-index`. 64 MiB are 4 million ids, which is
/// 16 GiB of pages: a fresh node is not to download the index of all for one checkpoint. A segment is a request, 256 of them some 10 s.
pub const SEGMENTS_AT_ONCE: usize = 256;
/// Bytes of these.
pub const SEGMENT_BYTES_AT_ONCE: u64 = 64 << 20;
/// Each import leaves a pack with the few chunks that were new in it. What a snapshot needs of more than 8 packs of which it needs less than 1 MiB is stored again together, once the
/// deltas that stand on it are made anew: with deltas that is every 16th import, for what the 16 before it have stored.
pub const SMALL_PACKS: usize = 8;
/// See [`SMALL_PACKS`].
pub const SMALL_PACK: u64 = 1 << 20;
/// Of packs of which less than half is needed, imports leave as many behind as make them store again a fourth of their newest checkpoints, one pack's worth at least: the sparsest
/// first. They do so once in 64 imports.
pub const LEAVE_PART: u64 = 4;
/// 64 MiB of bits for the chunks that snapshots need: 2 TiB of pages. What is beyond counts as needed.
pub const USES_WORDS: usize = 8 << 20;
/// 1 Mi chunks: 16 MiB of ids. Pages that all changed in the same way take less than a byte each.
pub const PACK_CHUNKS: u32 = 1 << 20;
/// Packs in flight to the store, besides the one being filled: 32 MiB.
pub const UPLOADS: usize = 2;
/// Packs in flight that may be asked for: 17 MiB of memory each, over the stated sum.
pub const MOST_UPLOADS: usize = 16;
/// Ranges that are asked for at once: at 30 ms a request and 1 MiB each some 250 MB/s, and few enough connections for any server.
pub const DOWNLOADS: usize = 8;
/// Ranges at once that may be asked for.
pub const MOST_DOWNLOADS: usize = 64;
/// 60 s without a byte, and a connection is dead. A slow link is not: with a full socket buffer (4 MiB) at 32 KiB/s the kernel takes new bytes every 43 s.
pub const STALL: Duration = Duration::from_secs(60);
/// 10 s to connect: three times the first packet is sent again (1, 2, 4 s).
pub const CONNECT: Duration = Duration::from_secs(10);
/// 12 retries, waits from 0.1 to 5 s that grow by half: 20 to 45 s of a store that refuses connections, such as one that is started again.
pub const RETRIES: usize = 12;
/// See [`RETRIES`].
pub const MOST_RETRIES: usize = 100;
/// 3 minutes for one request with all its retries, and the longest silence of a store: the last 4 MiB of an upload at [`SLOWEST_LINK`], which lie in the kernel and show no progress, take 128 s.
/// What is sent again has the signature of the first time, which is good for 15 minutes.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// 15 s: how often it is looked whether a store is back that is away. What a command tidies up after a failure is over by then.
pub const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// 10 s in which no request under way has looked at the time, as each does every second: this process was stopped.
pub const ASLEEP: Duration = Duration::from_secs(10);
/// 30 s in which nothing was under way: tries of one request are at most 5 s apart.
pub const UNASKED: Duration = Duration::from_secs(30);
/// 5 s for such a look: a packet that was lost is sent again twice (1, 2 s).
pub const LOOK: Duration = Duration::from_secs(5);
/// 64 KiB handed to a connection at a time: progress on the slowest link shows every 2 s.
pub const SEND_LEN: usize = 64 << 10;
/// Bytes that Linux keeps of a connection at most (`tcp_wmem`): they are sent, and still on their way.
pub const SOCKET_BUFFER: u64 = 4 << 20;
/// Bytes a second of the slowest connection that a pack has to get through: 1 Mbit/s, shared by four.
pub const SLOWEST_LINK: u64 = 32 << 10;
/// 64 writers race for one name when a store is probed: a server here that checks and then puts was found out by 16 in 2 of 10 races.
pub const PROBE_WRITERS: usize = 64;
/// See [`PROBE_WRITERS`].
pub const PROBE_RACES: usize = 3;
/// A create whose outcome is not clear, and that left nothing, is tried so often: S3 answers 409 to two that meet, once or twice.
pub const CREATE_TRIES: u32 = 5;
/// First wait between these; each further one is twice as long: 1.5 s in all.
pub const CREATE_WAIT: Duration = Duration::from_millis(100);
/// A read from a network file system whose file was replaced meanwhile (ESTALE), or is not seen yet (a negative cache), is tried so often.
pub const STALE_TRIES: u32 = 5;

/// zstd level of frames. Level 1 reaches 1.91 on real page images at 64 KiB; level 3 costs twice the time for 2 %.
pub const ZSTD_LEVEL: i32 = 1;
/// What this level looks for: memory repeats itself in words of 8 bytes, and a table of 64 KiB fits a core's first caches. Against the level's own (6 and 13): podman's
/// heap 0.7 % smaller, redis' 2.0 %, CPython's 0.2 % larger; as fast to pack, 4 to 6 % faster to unpack.
pub const ZSTD_PARAMETERS: [CParameter; 2] = [CParameter::MinMatch(7), CParameter::HashLog(14)];
/// zstd level of patches. There is so little of them that it costs 0.5 µs a page more than level 1, for 5 % of the bytes.
pub const ZSTD_LEVEL_PATCH: i32 = 6;
/// A frame that compression makes shorter by less than 1/16 is left as it is. Of a numpy heap's pages a third are random numbers that shrink by 4 %: 1.9 % of
/// what is stored, against a fifth of the time to unpack all of it. RocksDB and ZFS ask for 1/8.
pub const WORTH_UNPACKING: usize = 16;
/// Bytes of a frame that are tried first when the one before did not shrink: saves a seventh of the time to pack podman's heap, for 0.02 % of its bytes.
pub const SAMPLE_LEN: usize = 4 << 10;
/// zstd's level for leaving bytes as they are: literals are not coded, and matches hardly looked for.
pub const ZSTD_LEVEL_LEAVING: i32 = -1000;

/// Ids of this session's chunks kept in memory before they move to the local index: 512 Ki entries, 30 MiB with the table's free places.
pub const SESSION_IDS: usize = 512 << 10;
/// Chunks of the base's other streams kept in memory: 256 Ki entries of 48 bytes; a root file system of 4 GiB.
pub const BASE_CHUNKS: usize = 256 << 10;
/// Ids that one lookup in the index asks for.
pub const LOOKUP_BATCH: usize = 256;
/// Steps of a recipe that may wait for an open frame before it is closed early.
pub const WAITING_SLICES: usize = 4096;
/// Pack directories kept open: about 64 × 200 KiB mapped.
pub const DIRECTORIES_OPEN: usize = 64;

/// RocksDB's write buffer: 400,000 ids.
pub const INDEX_WRITE_BUFFER: usize = 12 << 20;
/// RocksDB's block cache, index and filter blocks included.
pub const INDEX_CACHE: usize = 16 << 20;
/// 2 s: how long a process that ends waits for RocksDB to merge its files; what is cut off is done again by a later one.
pub const INDEX_TIDY_MICROS: u64 = 2_000_000;
/// Ids of one index segment before another is begun: 1 Mi ids, 16 MiB.
pub const SEGMENT_IDS: usize = 1 << 20;

/// CRIU images that are kept in memory while an archive is read, all together; understood, they take up to three times as much.
pub const IMAGES_TOTAL: usize = 24 << 20;
/// One of them: a page map of 8 MiB describes half a million runs.
pub const IMAGE_LEN: usize = 8 << 20;
/// One of the engines' descriptions (JSON, which takes some ten times as much when it is understood); real ones have 5 to 30 KB.
pub const DESCRIPTION_LEN: usize = 2 << 20;
/// What is read of `dump.log`: its first lines name CRIU's version.
pub const LOG_HEAD: usize = 8 << 10;

/// 4 EiB: where a member of a tar may end at most. Offsets of the kernel are signed, and sums of what is below do not overflow.
pub const TAR_LEN: u64 = 1 << 62;
/// PAX records, long names and link names of one tar member. GNU tar's own bound is the path's length; hostile ones could be any.
pub const TAR_EXTENSION: usize = 1 << 20;
/// Gzip data inside of an archive is opened in memory: larger members are kept as they are.
pub const GZIP_COMPRESSED: usize = 12 << 20;
/// Content of gzip data: stops a bomb.
pub const GZIP_PLAIN: usize = 32 << 20;
/// A derived stream that is rebuilt in memory.
pub const DERIVED_LEN: u64 = 64 << 20;

/// 2 MiB are fetched and decoded at once by an export: they are still in a core's cache when they are digested and written, and a delta frame, which spans
/// about as much, is decoded once or twice.
pub const WINDOW_LEN: u64 = 2 << 20;
/// Bytes of frames that one window may need: a fragmented or hostile snapshot makes small windows, not large ones.
pub const WINDOW_STORED: u64 = 4 << 20;
/// 24 MiB of frames that were wanted in part are kept for other windows of an export. What one import stored is in the order of addresses, so that a frame or two
/// of each import that a checkpoint needs are enough to decode each frame once. After 120 checkpoints of a drifting heap an export takes 0.36 s of CPU with 16, 32 or 64 MiB, 0.66 s
/// with plain frames only, 0.8 s without.
pub const KEPT_FRAMES: usize = 24 << 20;
/// 4 MiB of them are enough for an import: a batch of changed pages reads what it needs of a frame at once.
pub const KEPT_BY_IMPORT: usize = 4 << 20;
/// 8 MiB of a snapshot that is rewritten are decoded side by side, in windows, and then packed.
pub const OPTIMIZE_LEN: u64 = 8 << 20;
/// Slices of a stream that was cut by content whose frames are fetched together: 64 KiB each, mostly.
pub const OPTIMIZE_SLICES: usize = 32;
/// Windows that are fetched and wait to be decoded.
pub const WINDOWS_WAITING: usize = 2;
/// Windows that are decoded side by side at most, besides one that is waited for: 16 cores, 100 MiB.
pub const WINDOWS_DECODING: usize = 16;
/// Frames that lie closer than this are fetched by one request.
pub const FETCH_GAP: u32 = 16 << 10;

/// 17 MiB: all that is wanted of a pack in a bucket is asked for at once (some 0.2 s at what one connection gives, 80 MB/s, against 30 ms for a request itself), unless so many
/// packs are in use that it could not be held.
pub const AHEAD: u64 = 17 << 20;
/// 1 MiB, when many packs are in use at once.
pub const AHEAD_LEAST: u64 = 1 << 20;
/// 512 KiB that nobody wants cost less than another request.
pub const AHEAD_GAP: u64 = 512 << 10;
/// 256 KiB are asked for first where nobody knows what will be read: four frames.
pub const AHEAD_BEGIN: u64 = 256 << 10;
/// 2 MiB around the tables of deltas in a pack are fetched with them: the pack of an import of some changed pages is no larger, and needs no other request.
pub const TABLE_AROUND: u64 = 2 << 20;
/// 16 MiB of the base in a bucket are held by an import, besides what it has decoded.
pub const AHEAD_BY_IMPORT: usize = 16 << 20;
/// 96 MiB fetched and not yet used, of buckets only: a checkpoint stands in some packs of 16 MiB, whose parts are wanted in turns, and some forty small ones at once. A podman checkpoint of 411 MB
/// in 19 packs takes 70 requests with 64 MiB.
pub const AHEAD_HELD: usize = 96 << 20;

/// Imports whose packs a node remembers that are in no snapshot: those that failed since one last succeeded.
pub const PUT_LOGS: usize = 16;
/// Packs of one of them: 1 TiB, in a file of 2 MiB.
pub const PUT_LOG_PACKS: usize = 64 << 10;

/// Labels of a snapshot.
pub const LABELS: usize = 64;
/// Bytes of one label.
pub const LABEL_LEN: usize = 256;
/// Characters of one warning; names in archives can be a megabyte long.
pub const WARNING_LEN: usize = 1000;
/// Warnings kept with a snapshot.
pub const WARNINGS: usize = 50;

/// 5 minutes: how often a session that makes progress says so. One small put.
pub const RENEW_EVERY: Duration = Duration::from_secs(5 * 60);
/// An hour without progress, by a collector's own clock: twelve renewals are missing, and no upload that is retried takes so long.
pub const STANDS_STILL: Duration = Duration::from_secs(60 * 60);
/// An hour: no store applies a put so long after it was sent; they give a request up after minutes. The record that condemned a pack stays so long after the pack was seen gone, so that a
/// pack whose put comes late is still condemned.
pub const LATE_PUTS: Duration = Duration::from_secs(60 * 60);
/// A day: how long the tombstone of a snapshot that was freed stays at its place, so that a put of its commit that comes late finds the place taken. It costs nothing but its listing.
pub const TOMBSTONE_STAYS: Duration = Duration::from_secs(24 * 60 * 60);
/// A day: how old the first part of a record is that no write goes on with.
pub const LEFT_RECORD: Duration = Duration::from_secs(24 * 60 * 60);
/// 4 GiB: copies of packs on a node's disk. The packs of some dozen containers' newest checkpoints, which their next ones are compared with.
pub const CACHE_SIZE: u64 = 4 << 30;
/// 64 MiB of attachments are copied: they are in memory as a whole, and describe a pod.
pub const ATTACHMENTS_COPIED: u64 = 64 << 20;
/// Records of which a node has no copy, and that it reads one by one rather than ask for catalogues: a list of them, and one of them, are two requests.
pub const CATALOGUES_ASKED: usize = 4;
/// Catalogues that are read: writers keep a tenth of them, and more are somebody else's.
pub const CATALOGUES_READ: usize = 64;
/// Records that are in no catalogue before a collection puts one: as many requests does a fresh node need for them.
pub const CATALOGUE_FRESH: usize = 16;
/// Catalogues that are left beside a new one: each is a request to a fresh node.
pub const CATALOGUES_KEPT: usize = 6;
/// 24 MiB of records in a catalogue that is written, below what a reader takes: it is in memory as a whole.
pub const CATALOGUE_LEN: usize = 24 << 20;
/// A second: the store's clock tells puts apart that are further from each other; lists of S3 have whole seconds.
pub const PUT_TOGETHER_MS: i64 = 1000;

/// Packs of which it is kept when they were read: 33 MiB of a file for 16 TiB in packs. Of more, those that were read longest ago are forgotten and read as if they were new.
pub const CHECKED_PACKS: usize = 1 << 20;

/// Bytes of packs that a check reads before it puts deltas together and keeps what it found: at 200 MB/s some five seconds, which is what a run that is killed has lost.
pub const CHECK_BATCH: u64 = 1 << 30;
