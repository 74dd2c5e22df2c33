//! What the golden vectors hold, as values.

use cryostore_format::catalogue::{Catalogue, Remembered};
use cryostore_format::collection::CollectionRecord;
use cryostore_format::damaged::{DamageRecord, Extent};
use cryostore_format::delta::{BaseRun, DeltaFrame, DeltaTable, Deltas, TablePack};
use cryostore_format::envelope::{Codec, ObjectType};
use cryostore_format::manifest::{
    AddressRun, Body, Layout, Manifest, MapOf, PageMap, Piece, Role, RunPlace, Stream, StreamIndex,
    Transform,
};
use cryostore_format::mark::Mark;
use cryostore_format::pack::{Directory, FrameHeader, FrameKind, chunks_digest};
use cryostore_format::patch::PatchWriter;
use cryostore_format::recipe::{FrameRef, FrameSlice, RecipeWriter, Slice};
use cryostore_format::repository::{Create, Probed, RepositoryRecord, SINGLE_WRITER};
use cryostore_format::segment::{PackIds, Segment};
use cryostore_format::session::{Place, SessionRecord, Work};
use cryostore_format::snapshot::{
    Archive, ArchiveKind, Attachment, ClassCount, Classes, Compression, Cost, Identity,
    ManifestRef, Origin, Original, Outer, Producer, SnapshotRecord, Tombstone,
};
use cryostore_format::{
    ChunkHash, ChunkId, CollectionId, Digest, IdKey, Lineage, ManifestId, PackId, RepositoryId,
    SessionId, SnapshotId,
};

pub const PACK: PackId = PackId::from_bytes([0xa1; 16]);
pub const OTHER_PACK: PackId = PackId::from_bytes([0xb2; 16]);
pub const SNAPSHOT: SnapshotId = SnapshotId::from_bytes([0x51; 16]);
pub const SESSION: SessionId = SessionId::from_bytes([0x5e; 16]);
pub const KEY: IdKey = IdKey::from_bytes([0x4b; 32]);

pub fn lineage() -> Lineage {
    KEY.lineage("default", "demo", "counter")
}

pub fn repository() -> RepositoryRecord {
    let id = RepositoryId::from_bytes([0x11; 16]);
    RepositoryRecord::new(id, &KEY, "2026-11-20T12:00:00Z".to_owned())
}

pub fn repository_with_features() -> RepositoryRecord {
    let mut record = repository();
    record.features.write.push("no-such-writer".to_owned());
    record.features.collect.push("no-such-collector".to_owned());
    record.chunking.min = 2048;
    record.chunking.average = 8192;
    record.chunking.max = 65_536;
    record
}

pub fn repository_probed() -> RepositoryRecord {
    let mut record = repository();
    record.features.write.push(SINGLE_WRITER.to_owned());
    record.features.collect.push(SINGLE_WRITER.to_owned());
    record.probed = Some(Probed {
        create: Create::Ignored,
        ..Probed::default()
    });
    record
}

/// A frame as its chunks.
pub struct Frame {
    pub codec: Codec,
    /// All chunks have this length; 0: the content begins with a table of lengths.
    pub uniform_len: u32,
    pub chunks: Vec<Vec<u8>>,
}

impl Frame {
    /// The content that its payload is the coding of.
    pub fn content(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.uniform_len == 0 {
            for chunk in &self.chunks {
                out.extend_from_slice(&u32::try_from(chunk.len()).unwrap().to_le_bytes());
            }
        }
        self.chunks
            .iter()
            .for_each(|chunk| out.extend_from_slice(chunk));
        out
    }

    pub fn hashes(&self) -> Vec<ChunkHash> {
        self.chunks
            .iter()
            .map(|chunk| KEY.chunk_hash(chunk))
            .collect()
    }

    pub fn ids(&self) -> Vec<ChunkId> {
        self.hashes().iter().map(ChunkHash::id).collect()
    }

    pub fn header(&self, payload_len: usize) -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Plain,
            codec: self.codec,
            chunks: u16::try_from(self.chunks.len()).unwrap(),
            plain_len: u32::try_from(self.content().len()).unwrap(),
            payload_len: u32::try_from(payload_len).unwrap(),
            uniform_len: self.uniform_len,
            digest: chunks_digest(&self.hashes()),
        }
    }
}

/// Three pages, each of 64 equal bytes 64 times, counted up from 0, 64 and 128; and three pieces of text.
pub fn frames() -> [Frame; 2] {
    let page = |first: u8| {
        (first..first + 64)
            .flat_map(|byte| [byte; 64])
            .collect::<Vec<u8>>()
    };
    let pieces = ["a piece", "another piece of another length", "x"];
    [
        Frame {
            codec: Codec::Zstd,
            uniform_len: 4096,
            chunks: vec![page(0), page(64), page(128)],
        },
        Frame {
            codec: Codec::Stored,
            uniform_len: 0,
            chunks: pieces.map(|piece| piece.as_bytes().to_vec()).to_vec(),
        },
    ]
}

/// The directory of a pack of twenty frames, the n-th of 1000 + n bytes with n + 1 chunks (n from 0 on).
pub fn directory() -> Directory {
    let mut directory = Directory::default();
    for n in 0..20_u16 {
        let header = FrameHeader {
            kind: FrameKind::Plain,
            codec: Codec::Zstd,
            chunks: n + 1,
            plain_len: 0,
            payload_len: 952 + u32::from(n),
            uniform_len: 4096,
            digest: Digest::default(),
        };
        let ids: Vec<ChunkId> = (0..=n).map(|chunk| id_of(n, chunk)).collect();
        directory.push(&header, &ids).unwrap();
    }
    directory
}

fn id_of(frame: u16, chunk: u16) -> ChunkId {
    let mut id = [0x1d; 16];
    id[..2].copy_from_slice(&frame.to_le_bytes());
    id[2..4].copy_from_slice(&chunk.to_le_bytes());
    ChunkId::from_bytes(id)
}

pub fn segment() -> Segment {
    let pack = |pack, pack_len, ids: Vec<ChunkId>| PackIds {
        pack,
        pack_len,
        ids,
    };
    let ids = (0..300).map(|n| id_of(n, 0)).collect();
    Segment {
        packs: vec![
            pack(PACK, 16 << 20, ids),
            pack(OTHER_PACK, 96, Vec::new()),
            pack(PackId::from_bytes([0xc3; 16]), 1 << 30, vec![id_of(7, 7)]),
        ],
    }
}

/// Frame `number` of a pack whose frames have 1000 bytes and 16 chunks.
pub fn frame_ref(pack: u32, number: u32) -> FrameRef {
    FrameRef {
        pack,
        offset: 32 + number * 1000,
        stored_len: 1000,
        first_chunk: number * 16,
        chunks: 16,
    }
}

fn slice(frame: FrameRef, skip: u16, take: u16, len: u64) -> Slice {
    Slice::Frame(FrameSlice {
        frame,
        skip,
        take,
        len,
    })
}

/// Every kind of step: zero bytes, the next frame, the same, another before and behind, another pack and back again, a
/// length that is not the pages'.
pub fn slices() -> Vec<Slice> {
    vec![
        slice(frame_ref(0, 0), 0, 16, 16 * 4096),
        slice(frame_ref(0, 1), 0, 3, 3 * 4096),
        Slice::Zero { len: 8192 },
        slice(frame_ref(0, 1), 5, 2, 2 * 4096),
        slice(frame_ref(2, 200_000), 15, 1, 4096),
        slice(frame_ref(0, 2), 0, 16, 16 * 4096),
        slice(frame_ref(2, 199_999), 0, 2, 8192),
        slice(frame_ref(2, 200_000), 0, 1, 4096),
        Slice::Zero { len: 1 << 40 },
        slice(frame_ref(1, 0), 2, 1, 100),
    ]
}

fn stream(name: &str, role: Role, page_size: u32, slices: &[Slice]) -> Stream {
    let mut recipe = RecipeWriter::new(page_size);
    slices.iter().for_each(|slice| recipe.push(*slice));
    Stream {
        name: name.as_bytes().to_vec(),
        role,
        len: slices.iter().map(Slice::len).sum(),
        page_size,
        phase: 0,
        digest: Digest::of(name.as_bytes()),
        body: Body::Recipe(recipe.finish()),
    }
}

fn piece(literal: u64, stream: Option<StreamIndex>) -> Piece {
    Piece { literal, stream }
}

/// A layout of 1536 bytes and one page image whose recipe is of [`slices`].
pub fn manifest_of_recipe() -> Manifest {
    let streams = vec![
        stream("", Role::Layout, 0, &[slice(frame_ref(1, 3), 0, 1, 1536)]),
        stream("checkpoint/pages-1.img", Role::Member, 4096, &slices()),
    ];
    let layout = Layout {
        len: 1536 + streams[1].len,
        pieces: vec![piece(512, Some(1)), piece(1024, None)],
        digest: None,
    };
    Manifest {
        packs: vec![PACK, OTHER_PACK, PackId::from_bytes([0xc3; 16])],
        streams,
        layout,
        maps: Vec::new(),
        tables: Vec::new(),
        deltas: Deltas::default(),
    }
}

/// An archive with a page image of 64 KiB pages and a phase, a name that is no UTF-8, a member that is gzip data, an
/// attachment, and two page maps: of a process with a page in the parent, and a stale one of shared memory.
pub fn manifest() -> Manifest {
    let mut streams = vec![
        stream("", Role::Layout, 0, &[slice(frame_ref(0, 0), 0, 1, 2048)]),
        stream(
            "checkpoint/pages-1.img",
            Role::Member,
            65_536,
            &[slice(frame_ref(0, 1), 0, 3, 3 * 65_536)],
        ),
        stream("", Role::Part, 0, &[slice(frame_ref(0, 2), 0, 9, 70_000)]),
        stream("", Role::Part, 0, &[slice(frame_ref(0, 3), 0, 1, 300)]),
        stream("rootfs-diff.tar", Role::Member, 0, &[]),
        stream(
            "pod.json",
            Role::Attachment,
            0,
            &[slice(frame_ref(0, 3), 1, 1, 77)],
        ),
        stream("", Role::Member, 0, &[Slice::Zero { len: 512 }]),
    ];
    streams[1].phase = 100;
    streams[4].len = 20_000;
    streams[4].body = Body::Derived {
        transform: Transform::Gzip,
        plain: 2,
        corrections: 3,
    };
    streams[6].name = b"not UTF-8: \xff".to_vec();
    let pieces = vec![
        piece(512, Some(1)),
        piece(512, Some(4)),
        piece(0, Some(6)),
        piece(1024, None),
    ];
    let run = |page_number, pages, place| AddressRun {
        page_number,
        pages,
        place,
    };
    Manifest {
        packs: vec![PACK],
        layout: Layout {
            pieces,
            len: 2048 + streams[1].len + 20_000 + 512,
            digest: Some(Digest::of(b"the archive")),
        },
        streams,
        maps: vec![
            PageMap {
                of: MapOf::Process(1),
                stale: false,
                stream: Some(1),
                page_size: 65_536,
                runs: vec![
                    run(0x40, 2, RunPlace::Image),
                    run(0x7f_ffff, 9, RunPlace::Parent),
                    run(0x42, 1, RunPlace::Image),
                    run(u64::MAX, 1, RunPlace::Parent),
                ],
            },
            PageMap {
                of: MapOf::SharedMemory(u64::MAX),
                stale: true,
                stream: None,
                page_size: 4096,
                runs: Vec::new(),
            },
        ],
        tables: Vec::new(),
        deltas: Deltas::default(),
    }
}

/// [`manifest_of_recipe`] with two tables of deltas.
pub fn manifest_of_tables() -> Manifest {
    let frame = FrameRef {
        chunks: 1,
        ..frame_ref(2, 7)
    };
    Manifest {
        tables: vec![(frame, 5000), (FrameRef { pack: 1, ..frame }, 70)],
        ..manifest_of_recipe()
    }
}

/// Three delta frames: one on plain pages and with pages that have no base, one of 64 KiB pages, and one on top of the first.
pub fn delta_table() -> DeltaTable {
    let base = |slice, version| BaseRun {
        base: slice,
        version,
    };
    let page = |frame, skip, take| slice(frame, skip, take, u64::from(take) * 4096);
    let (first, large, second) = (frame_ref(2, 0), frame_ref(2, 1), frame_ref(2, 5));
    let frames = vec![
        DeltaFrame {
            frame: first,
            page_size: 4096,
            bases: vec![
                base(page(frame_ref(0, 0), 4, 10), 1),
                base(Slice::Zero { len: 2 * 4096 }, 0),
                base(page(frame_ref(1, 3), 15, 1), 1),
                base(page(frame_ref(1, 4), 0, 3), 1),
            ],
        },
        DeltaFrame {
            frame: large,
            page_size: 65_536,
            bases: vec![base(slice(frame_ref(0, 9), 0, 16, 16 * 65_536), 1)],
        },
        DeltaFrame {
            frame: second,
            page_size: 4096,
            bases: vec![
                base(page(first, 0, 6), 2),
                base(page(first, 6, 2), 3),
                base(page(frame_ref(0, 0), 2, 8), 4),
            ],
        },
    ];
    DeltaTable {
        packs: (0..)
            .zip(manifest_of_recipe().packs)
            .map(|(n, id)| TablePack { id, deltas: n == 2 })
            .collect(),
        frames,
    }
}

/// Bases and pages of a patch, 1536 bytes each: nothing differs, then the first, the second and the last word, then all.
pub fn patched() -> [(Vec<u8>, Vec<u8>); 3] {
    let page = |first: u8| -> Vec<u8> { (0..192_u8).flat_map(|n| [n ^ first; 8]).collect() };
    let mut some = page(1);
    some[0] = 9;
    some[15] = 9;
    some[1535] = 9;
    [
        (page(0), page(0)),
        (page(1), some),
        (
            vec![0; 1536],
            page(255).iter().map(|byte| byte | 1).collect(),
        ),
    ]
}

pub fn patch() -> Vec<u8> {
    let mut writer = PatchWriter::default();
    for (base, page) in patched() {
        writer.push(&base, &page);
    }
    writer.finish()
}

pub fn snapshot() -> SnapshotRecord {
    let count = |pages| ClassCount {
        pages,
        bytes: pages * 4096 + 1,
    };
    SnapshotRecord {
        id: SNAPSHOT,
        lineage: lineage(),
        session: SESSION,
        created: "2026-11-20T12:00:00Z".to_owned(),
        dumped: Some("2026-11-20T11:59:58.5Z".to_owned()),
        manifest: ManifestRef {
            id: ManifestId::from_bytes([0x3f; 16]),
            bytes: 12_345,
            digest: Digest::of(b"manifest"),
        },
        archive: Archive {
            kind: ArchiveKind::Tar,
            bytes: 1 << 40,
            digest: Some(Digest::of(b"archive")),
            outer: Some(Outer {
                compression: Compression::Gzip,
                bytes: 1 << 39,
                digest: Digest::of(b"outer"),
            }),
        },
        identity: Identity {
            namespace: "default".to_owned(),
            pod: "demo".to_owned(),
            container: "counter".to_owned(),
            pod_uid: "0f0f".to_owned(),
            node: "node-1".to_owned(),
            container_id: "abc".to_owned(),
            image: "docker.io/library/busybox:latest".to_owned(),
        },
        producer: Producer {
            engine: "podman".to_owned(),
            runtime: "runc".to_owned(),
            criu_version: "4.2.1".to_owned(),
            criu_plugins: vec!["cuda_plugin".to_owned()],
            img_version: Some(2),
            arch: "x86_64".to_owned(),
            page_size: Some(4096),
        },
        cost: Cost {
            classes: Classes {
                zero: count(1),
                same: count(2),
                elsewhere: count(3),
                new: count(4),
                delta: ClassCount::default(),
            },
            bytes_added: 5,
            packs_added: 6,
            elapsed_ms: 7,
            packs_needed: None,
        },
        base: Some(SnapshotId::from_bytes([0x52; 16])),
        requires: Some(SnapshotId::from_bytes([0x53; 16])),
        labels: vec!["before-upgrade".to_owned(), "größer".to_owned()],
        origin: Origin::Preemption,
        group: Some("all of the pod".to_owned()),
        attachments: vec![Attachment {
            name: "pod.json".to_owned(),
            bytes: 77,
        }],
        warnings: vec!["a \"strange\" page map".to_owned()],
        original: None,
    }
}

pub fn snapshot_copied() -> SnapshotRecord {
    SnapshotRecord {
        original: Some(Original {
            id: SnapshotId::from_bytes([0x54; 16]),
            repository: RepositoryId::from_bytes([0x12; 16]),
        }),
        ..snapshot_minimal()
    }
}

/// The least that a snapshot record has: the keys that were always there.
pub fn snapshot_minimal() -> SnapshotRecord {
    SnapshotRecord {
        dumped: None,
        archive: Archive {
            kind: ArchiveKind::Directory,
            bytes: 9,
            digest: None,
            outer: None,
        },
        identity: Identity::default(),
        producer: Producer::default(),
        cost: Cost::default(),
        base: None,
        requires: None,
        labels: Vec::new(),
        origin: Origin::Manual,
        group: None,
        attachments: Vec::new(),
        warnings: Vec::new(),
        ..snapshot()
    }
}

pub fn tombstone() -> Tombstone {
    Tombstone {
        id: SNAPSHOT,
        session: None,
        created: "2026-11-20T13:00:00Z".to_owned(),
        reason: "deleted by hand".to_owned(),
    }
}

pub fn tombstone_of_session() -> Tombstone {
    Tombstone {
        session: Some(SESSION),
        reason: "the session made no progress for a day".to_owned(),
        ..tombstone()
    }
}

pub fn session() -> SessionRecord {
    SessionRecord {
        id: SESSION,
        work: Work::Import,
        place: Some(Place {
            lineage: lineage(),
            snapshot: SNAPSHOT,
        }),
        collections: Vec::new(),
        started: "2026-11-20T11:58:00Z".to_owned(),
        renewals: 3,
        owner: "node-1, process 7".to_owned(),
    }
}

pub fn collection() -> CollectionRecord {
    CollectionRecord {
        id: CollectionId::from_bytes([0x6c; 16]),
        created: "2026-11-20T13:00:00Z".to_owned(),
        condemned: Vec::new(),
        given_up: Vec::new(),
        done: Vec::new(),
        leave: vec![
            PackId::from_bytes([0x70; 16]),
            PackId::from_bytes([0x71; 16]),
        ],
    }
}

pub fn session_of_collection() -> SessionRecord {
    SessionRecord {
        work: Work::Collect,
        place: None,
        ..session()
    }
}

pub fn collection_that_condemns() -> CollectionRecord {
    CollectionRecord {
        condemned: vec![PackId::from_bytes([0x72; 16])],
        given_up: vec![Place {
            lineage: lineage(),
            snapshot: SNAPSHOT,
        }],
        leave: Vec::new(),
        ..collection()
    }
}

pub fn collection_that_is_done() -> CollectionRecord {
    CollectionRecord {
        done: vec![CollectionId::from_bytes([0x6d; 16])],
        leave: Vec::new(),
        ..collection()
    }
}

pub fn session_after_a_collection() -> SessionRecord {
    SessionRecord {
        work: Work::Undelete,
        place: None,
        collections: vec![collection().id],
        ..session()
    }
}

pub fn damage() -> DamageRecord {
    DamageRecord {
        pack: PackId::from_bytes([0x70; 16]),
        what: Extent::Frames(vec![32, 65_602]),
        created: "2026-11-20T13:00:00Z".to_owned(),
        owner: "node-1, process 7".to_owned(),
    }
}

pub fn mark() -> Mark {
    Mark {
        id: SNAPSHOT,
        created: "2026-11-20T13:00:00Z".to_owned(),
        owner: "node-1, process 7".to_owned(),
        reason: "deleted".to_owned(),
    }
}

/// A record with a key that nobody knows, and a tombstone.
pub fn catalogue() -> Catalogue {
    let record = serde_json::to_value(snapshot_minimal());
    let mut record = record.unwrap();
    record["from_the_future"] = serde_json::json!({"a": 1});
    let place = Place::of(&snapshot_minimal());
    let mut tombstone = tombstone();
    tombstone.id = SnapshotId::from_bytes([0xff; 16]);
    Catalogue {
        entries: vec![
            Remembered {
                place,
                kind: ObjectType::Snapshot,
                stored_len: 734,
                tag: "6654c734ccab8f440ff0825eb443dc7f".to_owned(),
                content: record.to_string().into_bytes(),
            },
            Remembered {
                place: Place {
                    snapshot: tombstone.id,
                    ..place
                },
                kind: ObjectType::Tombstone,
                stored_len: 190,
                tag: "0x8DCE1F5B2A3C4D0".to_owned(),
                content: serde_json::to_vec(&tombstone).unwrap(),
            },
        ],
    }
}
