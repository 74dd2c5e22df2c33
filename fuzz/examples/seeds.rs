//! Makes `fuzz/seeds` anew: `cargo run --example seeds` in `fuzz/`. What it makes is always the same, and committed.
//!
//! From the captured checkpoints of `tests/data` come the images and the headers; the rest comes from the encoders.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use cryostore_engine::archive::tar::{Span, TarReader};
use cryostore_format::catalogue::{Catalogue, Remembered};
use cryostore_format::collection::CollectionRecord;
use cryostore_format::damaged::{DamageRecord, Extent};
use cryostore_format::envelope::{self, Codec, ObjectType};
use cryostore_format::manifest::{
    AddressRun, Body, Layout, Manifest, MapOf, PageMap, Piece, Role, RunPlace, Stream, Transform,
};
use cryostore_format::mark::{Mark, MarkKind};
use cryostore_format::pack::{
    Directory, FrameHeader, FrameKind, chunks_digest, encode_pack_header,
};
use cryostore_format::recipe::{FrameRef, FrameSlice, RecipeWriter, Slice};
use cryostore_format::repository::RepositoryRecord;
use cryostore_format::segment::{PackIds, Segment};
use cryostore_format::session::{Place, SessionRecord, Work};
use cryostore_format::snapshot::{
    Archive, ArchiveKind, Attachment, Compression, Cost, Entry, Identity, ManifestRef, Origin,
    Outer, Producer, SnapshotRecord, Tombstone,
};
use cryostore_format::{
    CollectionId, Digest, IdKey, Lineage, ManifestId, PackId, RepositoryId, SessionId, SnapshotId,
};
use cryostore_fuzz::{PACK, chunk_id};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A seed may have so many bytes.
const MOST: usize = 8 << 10;

fn main() -> Result<()> {
    tars()?;
    images()?;
    packs()?;
    patches()?;
    manifests()?;
    records()?;
    gzip()?;
    sealed()
}

/// The folder of this package: what Cargo says when it runs this, not what it said when it compiled it.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> Result<()> {
    if bytes.len() > MOST {
        return Err(format!("{target}/{name} has {} bytes", bytes.len()).into());
    }
    let folder = package()
        .join("seeds")
        .join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), bytes)?)
}

/// The bytes of a captured archive, its members with the offsets of their headers, and their contents.
fn archive(name: &str) -> Result<(Vec<u8>, Vec<(String, usize, Vec<u8>)>)> {
    let path = package()
        .join("../tests/data")
        .join(name);
    let tar = zstd::decode_all(&fs::read(path)?[..])?;
    let mut reader = TarReader::new();
    let mut members: Vec<(String, usize, Vec<u8>)> = Vec::new();
    let mut rest = &tar[..];
    while let Some(span) = reader.next(rest)? {
        match span {
            Span::Member(member) => {
                let name = String::from_utf8_lossy(&member.name).into_owned();
                members.push((name, usize::try_from(member.offset)?, Vec::new()));
            }
            Span::End => {}
            Span::Meta(len) => rest = &rest[len..],
            Span::Data(len) => {
                if let Some((.., content)) = members.last_mut() {
                    content.extend_from_slice(&rest[..len]);
                }
                rest = &rest[len..];
            }
        }
    }
    Ok((tar, members))
}

fn header(name: &str, len: usize, flag: u8) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000017\0");
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    checksum(block)
}

fn checksum(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn member(name: &str, content: &[u8], flag: u8) -> Vec<u8> {
    let mut out = header(name, content.len(), flag);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn tars() -> Result<()> {
    for name in ["containerd-busybox-1", "podman-busybox-1"] {
        let (tar, members) = archive(&format!("{name}.tar.zst"))?;
        // The first members that fit, whole, and the end of the archive.
        let end = members
            .iter()
            .map(|(_, at, _)| *at)
            .take_while(|at| *at <= MOST - 1024)
            .last()
            .unwrap_or(0);
        seed(
            "tar",
            &format!("{name}-start"),
            &[&tar[..end], &[0; 1024]].concat(),
        )?;
        let small: Vec<u8> = members
            .iter()
            .filter(|(.., content)| content.len() < 300)
            .take(5)
            .flat_map(|(_, at, content)| {
                let len = 512 + content.len().next_multiple_of(512);
                tar[*at..at + len].to_vec()
            })
            .collect();
        seed("tar", &format!("{name}-small"), &small)?;
    }
    let pax = member(
        "PaxHeaders/x",
        b"22 path=p\xc3\xa4x/file.img\n10 size=3\n20 mtime=1700000.5\n17 linkpath=lll\n",
        b'x',
    );
    seed(
        "tar",
        "pax",
        &[
            &pax[..],
            &header("file.img", 7_000_000, b'0'),
            b"abc",
            &[0; 509],
            &[0; 1024],
        ]
        .concat(),
    )?;
    let huge = member("PaxHeaders/x", b"29 size=18446744073709551000\n", b'x');
    seed(
        "tar",
        "pax-huge",
        &[huge, header("file.img", 3, b'0')].concat(),
    )?;
    // Sizes near 2^64, which no archive has: findings once.
    for (name, size) in [
        ("size-most", u64::MAX),
        ("size-most-blocks", u64::MAX - 511),
        ("size-negative-offset", 1 << 63),
    ] {
        let mut block = header("a", 0, b'0');
        block[124..128].copy_from_slice(&[0x80, 0, 0, 0]);
        block[128..136].copy_from_slice(&size.to_be_bytes());
        seed("tar", name, &checksum(block))?;
    }
    let gnu = [
        member("././@LongLink", &[&[b'n'; 300][..], b"\0"].concat(), b'L'),
        member("././@LongLink", b"target\0", b'K'),
        header("n", 0, b'2'),
    ];
    seed(
        "tar",
        "gnu-long-names",
        &[gnu.concat(), vec![0; 1024]].concat(),
    )?;
    let mut sparse = header("sparse", 5, b'S');
    sparse[482] = 1;
    seed(
        "tar",
        "gnu-sparse",
        &[
            checksum(sparse),
            vec![1; 504],
            vec![0; 8],
            b"holes".to_vec(),
            vec![0; 507 + 1024],
        ]
        .concat(),
    )?;
    let mut base_256 = header("large", 0, b'0');
    base_256[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    seed(
        "tar",
        "base-256",
        &[
            checksum(base_256),
            b"nine byte".to_vec(),
            vec![0; 503 + 1024],
            b"garbage".to_vec(),
        ]
        .concat(),
    )?;
    seed(
        "tar",
        "links-and-directories",
        &[
            header("d/", 0, b'5'),
            header("d/l", 99, b'1'),
            header("fifo", 0, b'6'),
            vec![0; 1024],
        ]
        .concat(),
    )
}

fn images() -> Result<()> {
    let (_, members) = archive("podman-busybox-2.tar.zst")?;
    let mut taken = [
        ("pagemap", 4),
        ("mm", 2),
        ("core", 2),
        ("inventory", 1),
        ("pstree", 1),
        ("files", 1),
        ("fdinfo", 1),
        ("fs", 1),
        ("ids", 1),
        ("mountpoints", 1),
        ("utsns", 1),
    ];
    for (name, _, content) in &members {
        let Some(name) = name.strip_prefix("checkpoint/") else {
            continue;
        };
        // One process looks like the other.
        let kind = taken
            .iter_mut()
            .find(|(kind, left)| *left > 0 && name.starts_with(kind));
        let Some((_, left)) = kind else { continue };
        *left -= 1;
        let target = match name.split(['-', '.']).next() {
            Some("pagemap") => "pagemap",
            Some("mm") => "mm",
            Some(
                "inventory" | "pstree" | "core" | "files" | "fdinfo" | "fs" | "ids"
                | "mountpoints" | "utsns",
            ) => "criu_images",
            _ => continue,
        };
        if content.len() <= MOST {
            seed(target, name, content)?;
        }
    }
    if let Some((.., content)) = members
        .iter()
        .find(|(name, ..)| name.ends_with("stats-dump"))
    {
        seed("criu_images", "stats-dump", content)?;
    }
    for name in [
        "pagemap-shmem-18446744073709551615.img",
        "pages-1.img",
        "ids-7.img",
        "tmpfs-1.tar.gz.img",
    ] {
        seed("criu_images", &format!("name-{name}"), name.as_bytes())?;
    }
    // Old counts, a parent, lazy pages, counts that do not fit together.
    let map = |entries: &[&[u8]]| {
        let mut out = [0x5456_4319_u32, 0x5608_4025]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect::<Vec<_>>();
        for message in [&[8, 1][..]].iter().chain(entries) {
            out.extend_from_slice(&[message.len() as u8, 0, 0, 0]);
            out.extend_from_slice(message);
        }
        out
    };
    seed(
        "pagemap",
        "old-counts",
        &map(&[&[8, 0x80, 0x20, 16, 3], &[8, 0x80, 0x80, 1, 16, 2, 24, 1]]),
    )?;
    let most = [
        8, 0, 32, 4, 40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
    ];
    seed("pagemap", "sum-overflows", &map(&[&most, &most]))?;
    seed(
        "pagemap",
        "lazy-and-parent",
        &map(&[&[8, 0, 32, 2, 40, 1], &[8, 0x80, 0x20, 32, 5, 40, 2, 50, 0]]),
    )
}

fn packs() -> Result<()> {
    let key = IdKey::from_bytes([3; 32]);
    let mut pack = encode_pack_header(PACK).to_vec();
    seed("pack", "header", &pack)?;
    let mut directory = Directory::default();
    let pages = [[1_u8; 4096], [2; 4096]].concat();
    let pieces = [&3_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"abcdefgh"].concat();
    for (name, plain, uniform_len, codec, lengths) in [
        ("frame-pages", &pages, 4096, Codec::Zstd, [4096, 4096]),
        ("frame-pieces", &pieces, 0, Codec::Stored, [3, 5]),
        ("frame-pieces-zstd", &pieces, 0, Codec::Zstd, [3, 5]),
    ] {
        let payload = if codec == Codec::Zstd {
            zstd::bulk::compress(plain, 1)?
        } else {
            plain.clone()
        };
        let mut at = if uniform_len == 0 { 8 } else { 0 };
        let hashes = lengths.map(|len| {
            at += len;
            key.chunk_hash(&plain[at - len..at])
        });
        let header = FrameHeader {
            kind: FrameKind::Plain,
            codec,
            chunks: 2,
            plain_len: u32::try_from(plain.len())?,
            payload_len: u32::try_from(payload.len())?,
            uniform_len,
            digest: chunks_digest(&hashes),
        };
        let frame = [&header.encode()[..], &payload].concat();
        seed("pack", name, &frame)?;
        directory.push(&header, &hashes.map(|hash| hash.id()))?;
        pack.extend_from_slice(&frame);
    }
    let tail = directory.encode(PACK)?;
    seed("pack", "directory", &tail)?;
    // What `mended` of the target makes a directory of: all but magic, reserved bytes and digest.
    let numbers = &tail[tail.len() - 56..tail.len() - 36];
    seed(
        "pack",
        "directory-without-digest",
        &[&tail[..tail.len() - 64], numbers].concat(),
    )?;
    seed("pack", "whole", &[pack, tail].concat())?;
    // What `table` makes a directory of: frames, ids, where they end, entries.
    seed(
        "pack",
        "frame-table",
        &[
            &[2, 4, 0][..],
            &160_u64.to_le_bytes(),
            &[0, 100, 2, 0, 60, 2],
        ]
        .concat(),
    )
}

fn frame(pack: u32, number: u32) -> FrameRef {
    FrameRef {
        pack,
        offset: 32 + number * 1000,
        stored_len: 1000,
        first_chunk: number * 16,
        chunks: 16,
    }
}

fn slices() -> Vec<Slice> {
    let slice = |frame, skip, take, len| {
        Slice::Frame(FrameSlice {
            frame,
            skip,
            take,
            len,
        })
    };
    vec![
        slice(frame(0, 0), 0, 16, 16 * 4096),
        slice(frame(0, 1), 0, 3, 3 * 4096),
        Slice::Zero { len: 8192 },
        slice(frame(0, 1), 5, 2, 2 * 4096),
        slice(frame(1, 9), 1, 1, 100),
        slice(frame(0, 2), 0, 1, 4096),
    ]
}

fn stream(name: &str, role: Role, page_size: u32, slices: &[Slice]) -> Stream {
    let mut recipe = RecipeWriter::new(page_size);
    slices.iter().for_each(|slice| recipe.push(*slice));
    let len = slices.iter().map(Slice::len).sum();
    let body = Body::Recipe(recipe.finish());
    Stream {
        name: name.into(),
        role,
        len,
        page_size,
        phase: 0,
        digest: Digest::of(name.as_bytes()),
        body,
    }
}

/// As the target reads them: the number of pages, where to cut, then the content.
fn patches() -> Result<()> {
    let page = [7; 1024];
    let mut some = page;
    (some[0], some[500], some[1023]) = (1, 2, 3);
    let pages = [page, some, [9; 1024]];
    for (name, pages) in [
        ("equal", &pages[..1]),
        ("some", &pages[..2]),
        ("all", &pages),
    ] {
        let mut patch = cryostore_format::patch::PatchWriter::default();
        pages.iter().for_each(|changed| patch.push(&page, changed));
        let count = u8::try_from(pages.len())?;
        seed("patch", name, &[&[count, 77][..], &patch.finish()].concat())?;
    }
    Ok(())
}

fn manifests() -> Result<()> {
    let mut streams = vec![
        stream("", Role::Layout, 0, &[Slice::Zero { len: 1536 }]),
        stream("checkpoint/pages-1.img", Role::Member, 4096, &slices()),
        stream("", Role::Part, 0, &slices()[..1]),
        stream("", Role::Part, 0, &slices()[4..5]),
        stream("pod.json", Role::Attachment, 0, &slices()[4..5]),
    ];
    let body = Body::Derived {
        transform: Transform::Gzip,
        plain: 2,
        corrections: 3,
    };
    streams.push(Stream {
        len: 100,
        body,
        ..stream("rootfs-diff.tar", Role::Member, 0, &[])
    });
    let len = 1536 + 100 + streams[1].len;
    let pieces = vec![
        Piece {
            literal: 512,
            stream: Some(1),
        },
        Piece {
            literal: 512,
            stream: Some(5),
        },
        Piece {
            literal: 512,
            stream: None,
        },
    ];
    let run = |page_number, pages, place| AddressRun {
        page_number,
        pages,
        place,
    };
    let runs = vec![
        run(0x400, 3, RunPlace::Image),
        run(0x7fff_0000, 9, RunPlace::Parent),
        run(0x401, 1, RunPlace::Image),
    ];
    let map = |of, stream: Option<u32>| PageMap {
        of,
        stale: stream.is_none(),
        stream,
        page_size: 4096,
        runs: runs.clone(),
    };
    let whole = Manifest {
        packs: vec![PACK, PackId::from_bytes([8; 16])],
        streams,
        layout: Layout {
            pieces,
            len,
            digest: Some(Digest::of(b"archive")),
        },
        maps: vec![
            map(MapOf::Process(7), Some(1)),
            map(MapOf::SharedMemory(1 << 40), None),
        ],
        tables: Vec::new(),
        deltas: cryostore_format::delta::Deltas::default(),
    };
    let layout = Layout {
        pieces: vec![Piece {
            literal: 1536,
            stream: None,
        }],
        len: 1536,
        digest: None,
    };
    let small = Manifest {
        packs: Vec::new(),
        streams: vec![whole.streams[0].clone()],
        layout,
        maps: Vec::new(),
        tables: Vec::new(),
        deltas: cryostore_format::delta::Deltas::default(),
    };
    for (name, manifest) in [("whole", &whole), ("small", &small)] {
        let object = manifest.encode();
        let plain = envelope::open(ObjectType::Manifest, &object, 1 << 20)?;
        seed("manifest", &format!("{name}-object"), &object)?;
        seed("manifest", &format!("{name}-content"), &plain)?;
        seed(
            "manifest",
            &format!("{name}-stored"),
            &envelope::seal(ObjectType::Manifest, &plain, Codec::Stored),
        )?;
    }
    // As the target reads it: packs and page size in one byte, then the recipe. Taken from behind the stream's fields.
    let only = Manifest {
        packs: vec![PACK; 2],
        streams: vec![Stream {
            len: 0,
            ..stream("", Role::Layout, 4096, &slices())
        }],
        layout: Layout {
            pieces: Vec::new(),
            len: 0,
            digest: None,
        },
        maps: Vec::new(),
        tables: Vec::new(),
        deltas: cryostore_format::delta::Deltas::default(),
    };
    let plain = envelope::open(ObjectType::Manifest, &only.encode(), 1 << 20)?;
    let fields = 1 + 1 + 1 + 32 + 2;
    let body = fields + 2 + 1 + 1 + 1 + 2 + 1 + 32 + 1;
    let layout = plain.len() - 5 - 3;
    seed(
        "recipe",
        "all-kinds",
        &[&[2 | 1 << 3][..], &plain[body..layout]].concat(),
    )?;
    seed("recipe", "empty", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    seed(
        "recipe",
        "wanted",
        &[
            1, 0x21, 5, 0, 1, 0x21, 5, 2, 1, 0, 4, 0, 0x23, 6, 0, 1, 99, 0x25, 7, 0, 3,
        ],
    )
}

fn records() -> Result<()> {
    let snapshot = SnapshotRecord {
        id: SnapshotId::from_bytes([1; 16]),
        lineage: Lineage::from_bytes([2; 16]),
        session: SessionId::from_bytes([3; 16]),
        created: "2026-11-20T12:00:00Z".to_owned(),
        dumped: Some("2026-11-20T11:59:00Z".to_owned()),
        manifest: ManifestRef {
            id: ManifestId::from_bytes([4; 16]),
            bytes: 1000,
            digest: Digest::of(b"manifest"),
        },
        archive: Archive {
            kind: ArchiveKind::Tar,
            bytes: 1 << 40,
            digest: Some(Digest::of(b"archive")),
            outer: Some(Outer {
                compression: Compression::Zstd,
                bytes: 1 << 30,
                digest: Digest::of(b"outer"),
            }),
        },
        identity: Identity {
            pod: "demo".to_owned(),
            ..Identity::default()
        },
        producer: Producer {
            criu_plugins: vec!["cuda_plugin".to_owned()],
            img_version: Some(2),
            ..Producer::default()
        },
        cost: Cost::default(),
        base: Some(SnapshotId::from_bytes([5; 16])),
        requires: Some(SnapshotId::from_bytes([6; 16])),
        labels: vec!["größer".to_owned()],
        origin: Origin::Preemption,
        group: Some("g".to_owned()),
        attachments: vec![Attachment {
            name: "pod.json".to_owned(),
            bytes: 7,
        }],
        warnings: vec!["strange".to_owned()],
        original: None,
    };
    let tombstone = Tombstone {
        id: snapshot.id,
        session: Some(snapshot.session),
        created: snapshot.created.clone(),
        reason: "revoked".to_owned(),
    };
    let session = SessionRecord {
        id: snapshot.session,
        work: Work::Import,
        place: Some(Place {
            lineage: snapshot.lineage,
            snapshot: snapshot.id,
        }),
        collections: vec![CollectionId::from_bytes([1; 16])],
        started: snapshot.created.clone(),
        renewals: 3,
        owner: "node-1, process 7".to_owned(),
    };
    let collection = CollectionRecord {
        id: CollectionId::from_bytes([1; 16]),
        created: snapshot.created.clone(),
        condemned: vec![PackId::from_bytes([3; 16]); 2],
        given_up: session.place.into_iter().collect(),
        done: vec![CollectionId::from_bytes([4; 16])],
        leave: vec![PackId::from_bytes([2; 16]); 2],
    };
    let damage = DamageRecord {
        pack: PackId::from_bytes([3; 16]),
        what: Extent::Frames(vec![32, 65_602]),
        created: snapshot.created.clone(),
        owner: session.owner.clone(),
    };
    let mark = Mark {
        id: snapshot.id,
        created: snapshot.created.clone(),
        owner: session.owner.clone(),
        reason: "deleted".to_owned(),
    };
    for (name, kind, object) in [
        ("snapshot", ObjectType::Snapshot, snapshot.encode()?),
        ("tombstone", ObjectType::Tombstone, tombstone.encode()?),
        ("session", ObjectType::Session, session.encode()?),
        ("collection", ObjectType::Collection, collection.encode()?),
        (
            "deletion",
            ObjectType::Deletion,
            mark.encode(MarkKind::Deletion)?,
        ),
        ("damage", ObjectType::Damage, damage.encode()?),
    ] {
        seed("snapshot", name, &object)?;
        seed(
            "snapshot",
            &format!("{name}-content"),
            &envelope::open(kind, &object, 1 << 20)?,
        )?;
    }
    let remembered = |object: &[u8], id: SnapshotId, len, tag: &str| {
        let (kind, content) = Entry::content(object)?;
        Ok::<_, cryostore_format::FormatError>(Remembered {
            place: Place {
                lineage: snapshot.lineage,
                snapshot: id,
            },
            kind,
            stored_len: len,
            tag: tag.to_owned(),
            content,
        })
    };
    let catalogue = Catalogue {
        entries: vec![
            remembered(&snapshot.encode()?, snapshot.id, 700, "1f")?,
            remembered(
                &tombstone.encode()?,
                SnapshotId::from_bytes([0xff; 16]),
                200,
                "0x8DD",
            )?,
        ],
    };
    let object = catalogue.encode()?;
    seed("catalogue", "object", &object)?;
    seed(
        "catalogue",
        "content",
        &envelope::open(ObjectType::Catalogue, &object, 1 << 20)?,
    )?;
    let mut repository = RepositoryRecord::new(
        RepositoryId::from_bytes([1; 16]),
        &IdKey::from_bytes([2; 32]),
        snapshot.created.clone(),
    );
    seed("snapshot", "repository", &repository.encode()?)?;
    let text = String::from_utf8(repository.encode()?)?;
    if let Some((before, _)) = text.split_once(",\n  \"checksum\"") {
        let old = format!("{before}\n}}\n");
        seed("snapshot", "repository-without-checksum", old.as_bytes())?;
    }
    repository.features.read.push("delta".to_owned());
    repository.features.collect.push("moves".to_owned());
    seed("snapshot", "repository-features", &repository.encode()?)?;
    let ids = (0..30).map(chunk_id).collect();
    let segment = Segment {
        packs: vec![
            PackIds {
                pack: PACK,
                pack_len: 1 << 24,
                ids,
            },
            PackIds {
                pack: PackId::from_bytes([2; 16]),
                pack_len: 96,
                ids: Vec::new(),
            },
        ],
    };
    let object = segment.encode();
    seed("segment", "object", &object)?;
    let plain = envelope::open(ObjectType::Segment, &object, 1 << 20)?;
    seed("segment", "content", &plain)?;
    seed(
        "segment",
        "content-zstd",
        &envelope::seal(ObjectType::Segment, &plain, Codec::Zstd),
    )
}

/// The golden vectors are what is decoded.
fn sealed() -> Result<()> {
    let folder = package().join("../format-spec/vectors/sealed");
    for (target, name) in [
        ("sealed", "session"),
        ("key", "key-file"),
        ("key", "key-file-text"),
        ("key", "key-command"),
        ("key", "key-passphrase"),
        ("snapshot", "repository"),
    ] {
        let text = std::fs::read_to_string(folder.join(format!("{name}.hex")))?;
        let digits: String = text.lines().skip(1).collect();
        let bytes: std::result::Result<Vec<u8>, _> = (0..digits.len() / 2)
            .map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16))
            .collect();
        let name = match target {
            "snapshot" => "repository-encrypted",
            _ => name,
        };
        seed(target, name, &bytes?)?;
    }
    Ok(())
}

/// The first byte is the way that the target goes.
fn gzip() -> Result<()> {
    use std::io::Write as _;
    let gz = |plain: &[u8], level| {
        let mut encoder = flate2::GzBuilder::new()
            .filename("f")
            .write(Vec::new(), flate2::Compression::new(level));
        encoder.write_all(plain).and_then(|()| encoder.finish())
    };
    let text: Vec<u8> = (0..2000_u32)
        .flat_map(|n| format!("{:o} ", n.wrapping_mul(2_654_435_761)).into_bytes())
        .collect();
    seed(
        "gzip_rebuild",
        "open-text",
        &[&[0][..], &gz(&text[..4000], 6)?].concat(),
    )?;
    seed(
        "gzip_rebuild",
        "open-zeros",
        &[&[0][..], &gz(&[0; 300_000], 9)?].concat(),
    )?;
    seed(
        "gzip_rebuild",
        "open-stored",
        &[&[0][..], &gz(&text[..1000], 0)?].concat(),
    )?;
    seed(
        "gzip_rebuild",
        "open-two-members",
        &[&[0][..], &gz(b"one", 6)?, &gz(b"two", 1)?, &[0; 100]].concat(),
    )?;
    // A change each of the recipe and of the plain text: which, where, how.
    seed(
        "gzip_rebuild",
        "changed",
        &[
            &[2, 0][..],
            &5000_u64.to_le_bytes(),
            &[1, 1],
            &7_u64.to_le_bytes(),
            &[64],
        ]
        .concat(),
    )?;
    seed("gzip_rebuild", "changed-nothing", &[2])?;
    // Length of all, primer, head, pieces, plain text. The head is a stored block "abc", not the last.
    let head = [0, 3, 0, 0xfc, 0xff, b'a', b'b', b'c'];
    let made = [
        &[3, 100, 0, 0, 8, 0][..],
        &head,
        &[1, 3, 0, 4, 0, 0, 0, 0, 0],
        b"abcabc",
    ]
    .concat();
    seed("gzip_rebuild", "made", &made)?;
    let deflate = gz(&text[..3000], 6)?[12..].to_vec();
    let len = u16::try_from(deflate.len())?.to_le_bytes();
    seed(
        "gzip_rebuild",
        "made-deflate",
        &[&[3, 0, 20, 1][..], &len, &deflate, &[0], &text[..3000]].concat(),
    )
}
