#![doc = include_str!("../spec/manifest.md")]

use std::collections::{HashMap, HashSet};

use crate::delta::{DeltaTable, Deltas};
use crate::envelope::{self, Codec, ObjectType};
use crate::error::{FormatError, Result};
use crate::ids::{DIGEST_LEN, Digest, ID_LEN, PackId};
use crate::limits;
use crate::recipe::{FrameRef, FrameSlice, Recipe, RecipeWriter, Slice, Slices};
use crate::wire::{Put, Reader};

/// Number of a stream in its manifest.
pub type StreamIndex = u32;

/// What a stream is to its checkpoint. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Stream 0: all bytes of the archive that are in no member: headers, padding, what follows the end.
    Layout = 0,
    /// The content of one member.
    Member = 1,
    /// What a derived stream is made of.
    Part = 2,
    /// Something kept beside the archive, such as the pod's description.
    Attachment = 3,
}

/// What rebuilds a derived stream. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Transform {
    /// The stream is gzip data; see `spec/gzip.md`.
    Gzip = 1,
}

/// Where the bytes of a stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// In chunks.
    Recipe(Recipe),
    /// Made from two other streams.
    Derived {
        /// How.
        transform: Transform,
        /// The content.
        plain: StreamIndex,
        /// What else is needed to make the same bytes of it.
        corrections: StreamIndex,
    },
}

/// A string of bytes that was taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The member's name as it stands in the archive; bytes, not a path to trust.
    pub name: Vec<u8>,
    /// What it is to the checkpoint.
    pub role: Role,
    /// Bytes.
    pub len: u64,
    /// Bytes of a page if this is a page image, else 0.
    pub page_size: u32,
    /// Bytes before the first page.
    pub phase: u32,
    /// Digest, see `spec/manifest.md`.
    pub digest: Digest,
    /// Where the bytes are.
    pub body: Body,
}

/// What a maximal stretch of zero bytes adds to the digest of its stream.
#[must_use]
pub fn zeros_mark(len: u64) -> [u8; DIGEST_LEN] {
    let mut mark = [0; DIGEST_LEN];
    mark[DIGEST_LEN - 8..].copy_from_slice(&len.to_le_bytes());
    mark
}

/// Literal bytes, then a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// So many of the next bytes of stream 0.
    pub literal: u64,
    /// Then this whole stream.
    pub stream: Option<StreamIndex>,
}

/// How the archive is put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// In order.
    pub pieces: Vec<Piece>,
    /// Bytes of the archive.
    pub len: u64,
    /// BLAKE3 of the archive, without a key (what `b3sum` prints). None if its streams did not come in the archive's order: then
    /// the streams' digests are what is checked.
    pub digest: Option<Digest>,
}

/// Whose memory a page map describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MapOf {
    /// `pagemap-<pid>.img`
    Process(u32),
    /// `pagemap-shmem-<id>.img`; addresses are offsets in the segment.
    SharedMemory(u64),
}

/// Where the pages of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RunPlace {
    /// In the page image, after those of the runs before.
    Image = 0,
    /// In the parent directory, that is, in another checkpoint.
    Parent = 1,
}

/// Pages at consecutive addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRun {
    /// Address of the first page divided by the page size.
    pub page_number: u64,
    /// Number of pages.
    pub pages: u64,
    /// Where they are.
    pub place: RunPlace,
}

/// Which pages of a page image stand at which addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageMap {
    /// Whose memory.
    pub of: MapOf,
    /// True if `pstree.img` no longer names the process (a left-over of an earlier checkpoint).
    pub stale: bool,
    /// The page image, if it is in the archive.
    pub stream: Option<StreamIndex>,
    /// Bytes of a page.
    pub page_size: u32,
    /// The runs in the order of the page map.
    pub runs: Vec<AddressRun>,
}

/// Everything that rebuilds one checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The packs that the recipes name by number.
    pub packs: Vec<PackId>,
    /// The streams; number 0 is the layout's.
    pub streams: Vec<Stream>,
    /// How the archive is put together.
    pub layout: Layout,
    /// Addresses of pages.
    pub maps: Vec<PageMap>,
    /// Frames that hold tables of what delta frames are made of, for all that the recipes need; with the bytes of each table.
    pub tables: Vec<(FrameRef, u32)>,
    /// What the tables say, once they were read ([`Self::add_table`]). Not stored in the manifest.
    pub deltas: Deltas,
}

const SECTION_PACKS: u8 = 1;
const SECTION_STREAMS: u8 = 2;
const SECTION_LAYOUT: u8 = 3;
const SECTION_MAPS: u8 = 4;
const SECTION_TABLES: u8 = 5;
const SECTIONS: [u8; 5] = [
    SECTION_PACKS,
    SECTION_STREAMS,
    SECTION_LAYOUT,
    SECTION_MAPS,
    SECTION_TABLES,
];
/// In a section's number: a reader that does not know it must stop.
const CRITICAL: u8 = 0x80;
const WHAT: &str = "manifest";

impl Manifest {
    /// The object's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        let bodies = [
            self.encode_packs(),
            self.encode_streams(),
            self.encode_layout(),
            self.encode_maps(),
            self.encode_tables(),
        ];
        for (section, body) in SECTIONS.into_iter().zip(bodies) {
            if section == SECTION_TABLES && self.tables.is_empty() {
                continue;
            }
            plain.push(section | CRITICAL);
            plain.put_string(&body);
        }
        envelope::seal(ObjectType::Manifest, &plain, Codec::Zstd)
    }

    /// Reads the object. What comes back is consistent: numbers lead to what exists, lengths add up.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let plain = envelope::open(ObjectType::Manifest, bytes, limits::MANIFEST_PLAIN_MAX)?;
        Self::decode_plain(&plain)
    }

    /// Reads the content of the envelope.
    pub fn decode_plain(plain: &[u8]) -> Result<Self> {
        let mut r = Reader::new(WHAT, plain);
        let mut sections: [Option<&[u8]>; SECTIONS.len()] = [None; SECTIONS.len()];
        while r.left() > 0 {
            let tag = r.u8()?;
            let body = r.string("section of a manifest", limits::MANIFEST_PLAIN_MAX)?;
            match SECTIONS.iter().position(|known| *known == tag & !CRITICAL) {
                Some(at) if sections[at].is_none() => sections[at] = Some(body),
                Some(_) => {
                    return Err(FormatError::invalid(
                        WHAT,
                        format!("section {tag} stands there twice"),
                    ));
                }
                None if tag & CRITICAL == 0 => {}
                None => {
                    return Err(FormatError::UnknownFeature {
                        what: WHAT,
                        feature: format!("section {}", tag & !CRITICAL),
                    });
                }
            }
        }
        let [packs, streams, layout, maps, tables] =
            sections.map(|s| s.map(|body| Reader::new(WHAT, body)));
        let missing = || FormatError::invalid(WHAT, "a section is missing");
        let packs = decode_packs(packs.ok_or_else(missing)?)?;
        let tables = tables.map(|body| decode_tables(body, packs.len()));
        let manifest = Self {
            packs,
            tables: tables.transpose()?.unwrap_or_default(),
            deltas: Deltas::default(),
            streams: decode_streams(streams.ok_or_else(missing)?)?,
            layout: decode_layout(layout.ok_or_else(missing)?)?,
            maps: decode_maps(maps.ok_or_else(missing)?)?,
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn encode_packs(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(self.packs.len() as u64);
        self.packs
            .iter()
            .for_each(|id| out.extend_from_slice(id.as_bytes()));
        out
    }

    fn encode_streams(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(self.streams.len() as u64);
        for stream in &self.streams {
            out.put_string(&stream.name);
            out.push(stream.role as u8);
            out.put_varint(stream.len);
            out.put_varint(stream.page_size.into());
            out.put_varint(stream.phase.into());
            out.extend_from_slice(stream.digest.as_bytes());
            match &stream.body {
                Body::Recipe(recipe) => {
                    out.push(0);
                    recipe.encode(&mut out);
                }
                Body::Derived {
                    transform,
                    plain,
                    corrections,
                } => {
                    out.push(*transform as u8);
                    out.put_varint((*plain).into());
                    out.put_varint((*corrections).into());
                }
            }
        }
        out
    }

    fn encode_layout(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(self.layout.len);
        out.push(u8::from(self.layout.digest.is_some()));
        if let Some(digest) = &self.layout.digest {
            out.extend_from_slice(digest.as_bytes());
        }
        out.put_varint(self.layout.pieces.len() as u64);
        for piece in &self.layout.pieces {
            out.put_varint(piece.literal);
            out.put_varint(piece.stream.map_or(0, |n| u64::from(n) + 1));
        }
        out
    }

    fn encode_maps(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(self.maps.len() as u64);
        for map in &self.maps {
            let (kind, id) = match map.of {
                MapOf::Process(pid) => (0, u64::from(pid)),
                MapOf::SharedMemory(id) => (1, id),
            };
            out.push(kind);
            out.put_varint(id);
            out.push(u8::from(map.stale));
            out.put_varint(map.stream.map_or(0, |n| u64::from(n) + 1));
            out.put_varint(map.page_size.into());
            out.put_varint(map.runs.len() as u64);
            let mut expected = 0_u64;
            for run in &map.runs {
                out.put_zigzag(run.page_number.wrapping_sub(expected).cast_signed());
                out.put_varint(run.pages << 1 | u64::from(run.place as u8));
                expected = run.page_number.wrapping_add(run.pages);
            }
        }
        out
    }

    fn encode_tables(&self) -> Vec<u8> {
        let mut recipe = RecipeWriter::new(0);
        for (frame, len) in &self.tables {
            recipe.push(Slice::Frame(FrameSlice {
                frame: *frame,
                skip: 0,
                take: frame.chunks,
                len: u64::from(*len),
            }));
        }
        let mut out = Vec::new();
        recipe.finish().encode(&mut out);
        out
    }

    /// The number of each of its packs.
    #[must_use]
    pub fn pack_numbers(&self) -> HashMap<PackId, u32> {
        self.packs.iter().copied().zip(0..).collect()
    }

    /// Takes in what a table says, which is number `n` of [`Self::tables`]. Delta frames of which a pack is not in this manifest, or a base that is a delta
    /// itself, are passed over: nothing in it needs them. `numbers` are [`Self::pack_numbers`].
    pub fn add_table(
        &mut self,
        n: usize,
        table: DeltaTable,
        numbers: &HashMap<PackId, u32>,
    ) -> Result<()> {
        let here: Vec<Option<u32>> = table
            .packs
            .iter()
            .map(|pack| numbers.get(&pack.id).copied())
            .collect();
        let of_deltas = |pack: u32| table.packs.get(pack as usize).is_some_and(|p| p.deltas);
        let number = |pack: u32| here.get(pack as usize).copied().flatten();
        'frames: for mut delta in table.frames {
            let Some(pack) = number(delta.frame.pack) else {
                continue;
            };
            delta.frame.pack = pack;
            let mut last = None;
            for run in &mut delta.bases {
                if let Slice::Frame(base) = &mut run.base {
                    let place = (base.frame.pack, base.frame.offset);
                    let deltas = of_deltas(base.frame.pack);
                    let Some(pack) = number(base.frame.pack) else {
                        continue 'frames;
                    };
                    base.frame.pack = pack;
                    // A delta whose own base was passed over is not to be taken for a plain frame.
                    if deltas && last != Some(place) && self.deltas.get(&base.frame).is_none() {
                        continue 'frames;
                    }
                    last = Some(place);
                }
            }
            self.deltas.add(delta, n)?;
        }
        Ok(())
    }

    /// Reads an object that is to be written, and goes through every recipe: what no reader would take is an error here, and not when it is read.
    pub fn prove(bytes: &[u8]) -> Result<Self> {
        let manifest = Self::decode(bytes)?;
        for (n, stream) in (0..).zip(&manifest.streams) {
            let Some(slices) = manifest.slices(n) else {
                continue;
            };
            let mut len = 0_u64;
            for slice in slices {
                len = len.saturating_add(slice?.len());
            }
            if len != stream.len {
                return Err(FormatError::invalid(
                    WHAT,
                    format!("stream {n} of {} bytes has chunks of {len}", stream.len),
                ));
            }
        }
        Ok(manifest)
    }

    /// The slices of frames in all recipes, each stream's up to one that cannot be read.
    pub fn frame_slices(&self) -> impl Iterator<Item = FrameSlice> {
        (0..)
            .zip(&self.streams)
            .flat_map(|(n, _)| self.slices(n).into_iter().flatten().map_while(Result::ok))
            .filter_map(|slice| match slice {
                Slice::Frame(slice) => Some(slice),
                Slice::Zero { .. } => None,
            })
    }

    /// The slices of stream `n`; none if there is no such stream, or if it is derived.
    #[must_use]
    pub fn slices(&self, n: StreamIndex) -> Option<Slices<'_>> {
        match &self.streams.get(n as usize)?.body {
            Body::Recipe(recipe) => Some(recipe.slices(self.packs.len())),
            Body::Derived { .. } => None,
        }
    }

    fn check(&self) -> Result<()> {
        let invalid = |detail: String| FormatError::invalid(WHAT, detail);
        let stream = |n: StreamIndex| {
            self.streams
                .get(n as usize)
                .ok_or_else(|| invalid(format!("there is no stream {n}")))
        };
        if self.streams.first().is_none_or(|s| s.role != Role::Layout) {
            return Err(invalid("stream 0 is not the layout's".to_owned()));
        }
        for s in &self.streams {
            if let Body::Derived {
                plain, corrections, ..
            } = &s.body
            {
                for part in [*plain, *corrections] {
                    // A part is in chunks: so nothing is nested, and nothing goes round in circles.
                    if !matches!(
                        stream(part)?,
                        Stream {
                            role: Role::Part,
                            body: Body::Recipe(_),
                            ..
                        }
                    ) {
                        return Err(invalid(format!("stream {part} is not a part")));
                    }
                }
            }
        }
        let mut literals = 0_u64;
        let mut len = 0_u64;
        let too_long = || invalid("its archive is longer than 2^64 bytes".to_owned());
        for piece in &self.layout.pieces {
            let body = match piece.stream {
                Some(n) if stream(n)?.role == Role::Member => stream(n)?.len,
                Some(n) => {
                    return Err(invalid(format!("stream {n} in the layout is not a member")));
                }
                None => 0,
            };
            literals = literals.checked_add(piece.literal).ok_or_else(too_long)?;
            len = len
                .checked_add(piece.literal)
                .and_then(|l| l.checked_add(body))
                .ok_or_else(too_long)?;
        }
        if len != self.layout.len || literals != stream(0)?.len {
            return Err(invalid(format!(
                "its pieces give {len} bytes and {literals} literal bytes, not {} and {}",
                self.layout.len,
                stream(0)?.len
            )));
        }
        for map in &self.maps {
            if let Some(n) = map.stream {
                stream(n)?;
            }
        }
        Ok(())
    }
}

fn decode_packs(mut r: Reader<'_>) -> Result<Vec<PackId>> {
    let count = r.count("packs of a manifest", limits::MANIFEST_PACKS_MAX, ID_LEN)?;
    let packs = (0..count)
        .map(|_| Ok(PackId::from_bytes(r.array()?)))
        .collect::<Result<_>>()?;
    r.finish()?;
    Ok(packs)
}

fn decode_tables(mut r: Reader<'_>, packs: usize) -> Result<Vec<(FrameRef, u32)>> {
    let recipe = Recipe::decode(&mut r, 0)?;
    r.finish()?;
    let whole = |slice: Result<Slice>| match slice? {
        Slice::Frame(slice) if slice.skip == 0 && slice.take == slice.frame.chunks => {
            Ok((slice.frame, u32::try_from(slice.len).unwrap_or(u32::MAX)))
        }
        _ => Err(FormatError::invalid(WHAT, "a table that is no whole frame")),
    };
    let mut tables = Vec::new();
    for slice in recipe.slices(packs) {
        if tables.len() as u64 >= limits::TABLES_MAX {
            return Err(FormatError::TooLarge {
                what: "tables of deltas",
                limit: limits::TABLES_MAX,
                got: limits::TABLES_MAX + 1,
            });
        }
        tables.push(whole(slice)?);
    }
    let places: HashSet<_> = tables
        .iter()
        .map(|(frame, _)| (frame.pack, frame.offset))
        .collect();
    if places.len() != tables.len() {
        return Err(FormatError::invalid(WHAT, "a table that is named twice"));
    }
    if tables.is_empty() {
        return Err(FormatError::invalid(WHAT, "a section of no tables"));
    }
    Ok(tables)
}

fn decode_streams(mut r: Reader<'_>) -> Result<Vec<Stream>> {
    let count = r.count("streams of a manifest", limits::STREAMS_MAX, 38)?;
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let name = r.string("name of a stream", limits::NAME_MAX)?.to_vec();
        let role = match r.u8()? {
            0 => Role::Layout,
            1 => Role::Member,
            2 => Role::Part,
            3 => Role::Attachment,
            n => {
                return Err(FormatError::UnknownFeature {
                    what: WHAT,
                    feature: format!("stream role {n}"),
                });
            }
        };
        let len = r.varint()?;
        let page_size = r.varint32()?;
        let phase = r.varint32()?;
        let digest = Digest::from_bytes(r.array()?);
        let body = match r.u8()? {
            0 => Body::Recipe(Recipe::decode(&mut r, page_size)?),
            1 => Body::Derived {
                transform: Transform::Gzip,
                plain: r.varint32()?,
                corrections: r.varint32()?,
            },
            n => {
                return Err(FormatError::UnknownFeature {
                    what: WHAT,
                    feature: format!("stream body {n}"),
                });
            }
        };
        streams.push(Stream {
            name,
            role,
            len,
            page_size,
            phase,
            digest,
            body,
        });
    }
    r.finish()?;
    Ok(streams)
}

fn decode_layout(mut r: Reader<'_>) -> Result<Layout> {
    let len = r.varint()?;
    let digest = match r.u8()? {
        0 => None,
        1 => Some(Digest::from_bytes(r.array()?)),
        n => {
            return Err(FormatError::UnknownFeature {
                what: WHAT,
                feature: format!("archive digest {n}"),
            });
        }
    };
    let count = r.count("pieces of a layout", limits::STREAMS_MAX * 2, 2)?;
    let mut pieces = Vec::with_capacity(count);
    for _ in 0..count {
        let literal = r.varint()?;
        let stream = r.varint32()?.checked_sub(1);
        pieces.push(Piece { literal, stream });
    }
    r.finish()?;
    Ok(Layout {
        pieces,
        len,
        digest,
    })
}

fn decode_maps(mut r: Reader<'_>) -> Result<Vec<PageMap>> {
    let count = r.count("page maps of a manifest", limits::STREAMS_MAX, 6)?;
    let mut maps = Vec::with_capacity(count);
    for _ in 0..count {
        let of = match (r.u8()?, r.varint()?) {
            (0, pid) => MapOf::Process(
                u32::try_from(pid)
                    .map_err(|_| FormatError::invalid(WHAT, format!("process {pid}")))?,
            ),
            (1, id) => MapOf::SharedMemory(id),
            (n, _) => {
                return Err(FormatError::UnknownFeature {
                    what: WHAT,
                    feature: format!("page map {n}"),
                });
            }
        };
        let stale = match r.u8()? {
            0 => false,
            1 => true,
            n => {
                return Err(FormatError::UnknownFeature {
                    what: WHAT,
                    feature: format!("page map state {n}"),
                });
            }
        };
        let stream = r.varint32()?.checked_sub(1);
        let page_size = r.varint32()?;
        let run_count = r.count("runs of a page map", limits::MANIFEST_PLAIN_MAX, 2)?;
        let mut runs = Vec::with_capacity(run_count);
        let mut expected = 0_u64;
        for _ in 0..run_count {
            let page_number = expected.wrapping_add(r.zigzag()?.cast_unsigned());
            let value = r.varint()?;
            let place = if value & 1 == 0 {
                RunPlace::Image
            } else {
                RunPlace::Parent
            };
            let run = AddressRun {
                page_number,
                pages: value >> 1,
                place,
            };
            expected = run.page_number.wrapping_add(run.pages);
            runs.push(run);
        }
        maps.push(PageMap {
            of,
            stale,
            stream,
            page_size,
            runs,
        });
    }
    r.finish()?;
    Ok(maps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(name: &[u8], role: Role, len: u64, page_size: u32) -> Stream {
        let mut recipe = RecipeWriter::new(page_size);
        if len > 0 {
            let frame = FrameRef {
                pack: 0,
                offset: 32,
                stored_len: 500,
                first_chunk: 0,
                chunks: 16,
            };
            recipe.push(Slice::Frame(FrameSlice {
                frame,
                skip: 0,
                take: 1,
                len: len.min(4096),
            }));
            if len > 4096 {
                recipe.push(Slice::Zero { len: len - 4096 });
            }
        }
        let body = Body::Recipe(recipe.finish());
        Stream {
            name: name.to_vec(),
            role,
            len,
            page_size,
            phase: 0,
            digest: Digest::of(name),
            body,
        }
    }

    #[test]
    fn a_recipe_that_is_shorter_or_longer_than_its_stream_is_not_written() {
        assert_eq!(Manifest::prove(&sample().encode()), Ok(sample()));
        for len in [299, 301] {
            let mut wrong = sample();
            wrong.streams[2].len = len;
            let e = Manifest::prove(&wrong.encode()).unwrap_err();
            assert!(e.to_string().contains("stream 2"), "{e}");
        }
    }

    pub(super) fn sample() -> Manifest {
        let mut streams = vec![
            stream(b"", Role::Layout, 1536, 0),
            stream(b"checkpoint/pages-1.img", Role::Member, 8192, 4096),
            stream(b"", Role::Part, 300, 0),
            stream(b"", Role::Part, 30, 0),
        ];
        streams.push(Stream {
            name: b"rootfs-diff.tar".to_vec(),
            role: Role::Member,
            len: 100,
            page_size: 0,
            phase: 0,
            digest: Digest::of(b"gzip"),
            body: Body::Derived {
                transform: Transform::Gzip,
                plain: 2,
                corrections: 3,
            },
        });
        let pieces = vec![
            Piece {
                literal: 512,
                stream: Some(1),
            },
            Piece {
                literal: 512,
                stream: Some(4),
            },
            Piece {
                literal: 512,
                stream: None,
            },
        ];
        let runs = vec![
            AddressRun {
                page_number: 0x400,
                pages: 1,
                place: RunPlace::Image,
            },
            AddressRun {
                page_number: 0x7fff_0000_0000,
                pages: 9,
                place: RunPlace::Parent,
            },
            AddressRun {
                page_number: 0x401,
                pages: 1,
                place: RunPlace::Image,
            },
        ];
        Manifest {
            packs: vec![PackId::from_bytes([3; 16])],
            streams,
            layout: Layout {
                pieces,
                len: 1536 + 8192 + 100,
                digest: Some(Digest::of(b"archive")),
            },
            maps: vec![
                PageMap {
                    of: MapOf::Process(7),
                    stale: false,
                    stream: Some(1),
                    page_size: 4096,
                    runs: runs.clone(),
                },
                PageMap {
                    of: MapOf::SharedMemory(1 << 40),
                    stale: true,
                    stream: None,
                    page_size: 65536,
                    runs,
                },
            ],
            tables: Vec::new(),
            deltas: Deltas::default(),
        }
    }

    #[test]
    fn a_manifest_reads_back() {
        assert_eq!(Manifest::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn numbers_that_lead_nowhere_and_lengths_that_do_not_add_up_are_refused() {
        type Change = fn(&mut Manifest);
        let bad: [(&str, Change); 6] = [
            ("no such stream", |m| m.layout.pieces[0].stream = Some(99)),
            ("the layout in the layout", |m| {
                m.layout.pieces[0].stream = Some(0)
            }),
            ("a longer archive", |m| m.layout.len += 1),
            ("fewer literals", |m| m.layout.pieces[2].literal -= 1),
            ("a member as a part", |m| m.streams[2].role = Role::Member),
            ("a map of no stream", |m| m.maps[0].stream = Some(99)),
        ];
        for (what, change) in bad {
            let mut manifest = sample();
            change(&mut manifest);
            assert!(Manifest::decode(&manifest.encode()).is_err(), "{what}");
        }
    }

    #[test]
    fn an_unknown_section_is_passed_over_unless_it_is_critical() {
        let plain = envelope::open(ObjectType::Manifest, &sample().encode(), 1 << 20).unwrap();
        let with = |tag: u8| {
            let mut plain = plain.clone();
            plain.push(tag);
            plain.put_string(b"from the future");
            plain
        };
        assert_eq!(Manifest::decode_plain(&with(9)), Ok(sample()));
        let err = Manifest::decode_plain(&with(9 | CRITICAL)).unwrap_err();
        assert!(err.to_string().contains("section 9"), "{err}");
    }

    #[test]
    fn every_cut_of_the_content_is_noticed() {
        let plain = envelope::open(ObjectType::Manifest, &sample().encode(), 1 << 20).unwrap();
        for at in 0..plain.len() {
            assert!(Manifest::decode_plain(&plain[..at]).is_err(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_panics(at in 0_usize..400, to in any::<u8>()) {
            let mut plain = envelope::open(ObjectType::Manifest, &sample().encode(), 1 << 20).unwrap();
            let at = at % plain.len();
            plain[at] = to;
            if let Ok(manifest) = Manifest::decode_plain(&plain) {
                for n in 0..u32::try_from(manifest.streams.len()).unwrap() {
                    manifest.slices(n).into_iter().flatten().count();
                }
            }
        }
    }
}
