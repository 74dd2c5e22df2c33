#![doc = include_str!("../spec/pack.md")]

use crate::encryption::{CIPHER, SEAL_LEN};
use crate::envelope::Codec;
use crate::error::{FormatError, Result};
use crate::ids::{ChunkHash, ChunkId, DIGEST_LEN, Digest, ID_LEN, PackId};
use crate::limits;
use crate::wire::{Put, Reader};

const PACK_MAGIC: [u8; 8] = *b"CRYOPACK";
const TRAILER_MAGIC: [u8; 8] = *b"CRYODIR1";
const VERSION: u8 = 1;

/// Bytes before the first frame.
pub const PACK_HEADER_LEN: usize = 8 + 1 + 1 + 2 + 4 + ID_LEN;
const _: () = assert!(PACK_HEADER_LEN == 32, "spec/pack.md says 32 bytes");
/// Bytes before a frame's payload.
pub const FRAME_HEADER_LEN: usize = 1 + 1 + 2 + 4 + 4 + 4 + DIGEST_LEN;
const _: () = assert!(FRAME_HEADER_LEN == 48, "spec/pack.md says 48 bytes");
/// Bytes at a pack's end.
pub const TRAILER_LEN: usize = 8 + 4 * 6 + DIGEST_LEN;
const _: () = assert!(TRAILER_LEN == 64, "spec/pack.md says 64 bytes");

/// The first bytes of a pack.
#[must_use]
pub fn encode_pack_header(id: PackId) -> [u8; PACK_HEADER_LEN] {
    let mut out = [0; PACK_HEADER_LEN];
    out[..8].copy_from_slice(&PACK_MAGIC);
    out[8] = VERSION;
    out[16..].copy_from_slice(id.as_bytes());
    out
}

/// Checks the first bytes of the pack `id`.
pub fn check_pack_header(id: PackId, bytes: &[u8]) -> Result<()> {
    const WHAT: &str = "pack header";
    let mut r = Reader::new(WHAT, bytes);
    if r.array::<8>()? != PACK_MAGIC {
        return Err(FormatError::invalid(
            WHAT,
            "it does not begin with CRYOPACK",
        ));
    }
    let version = r.u8()?;
    if version == 0 || version > VERSION {
        return Err(FormatError::UnsupportedVersion {
            what: WHAT,
            got: version.into(),
            known: VERSION.into(),
        });
    }
    let cipher = r.u8()?;
    if cipher == CIPHER {
        return Err(FormatError::Sealed { what: WHAT });
    }
    if cipher != 0 {
        return Err(FormatError::UnknownFeature {
            what: WHAT,
            feature: format!("cipher {cipher}"),
        });
    }
    if r.u16()? != 0 || r.u32()? != 0 {
        return Err(FormatError::invalid(WHAT, "reserved bytes are not zero"));
    }
    let found = PackId::from_bytes(r.array()?);
    if found == id {
        Ok(())
    } else {
        Err(FormatError::invalid(
            WHAT,
            format!("it is the pack {found}"),
        ))
    }
}

/// How the chunks of a frame are represented. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum FrameKind {
    /// The chunks themselves.
    #[default]
    Plain = 0,
    /// Pages, each XORed with its base; see `spec/delta.md`.
    Xor = 1,
    /// A table of what delta frames are made of; see `spec/delta.md`.
    Table = 2,
    /// Pages, each as the words that differ from its base; see `spec/delta.md`.
    Patch = 3,
}

impl FrameKind {
    /// True if the chunks are pages that are made of others.
    #[must_use]
    pub const fn is_delta(self) -> bool {
        matches!(self, Self::Xor | Self::Patch)
    }

    fn from_number(number: u8) -> Result<Self> {
        match number {
            0 => Ok(Self::Plain),
            1 => Ok(Self::Xor),
            2 => Ok(Self::Table),
            3 => Ok(Self::Patch),
            n => Err(FormatError::UnknownFeature {
                what: "frame",
                feature: format!("frame kind {n}"),
            }),
        }
    }
}

/// What stands before a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// How the chunks are represented.
    pub kind: FrameKind,
    /// How the content is coded.
    pub codec: Codec,
    /// Number of chunks.
    pub chunks: u16,
    /// Bytes of content: the table of lengths, if there is one, and the chunks.
    pub plain_len: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// Length of every chunk, or 0: the content begins with a table of lengths.
    pub uniform_len: u32,
    /// Digest of the chunks, see [`chunks_digest`].
    pub digest: Digest,
}

impl FrameHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut out = [0; FRAME_HEADER_LEN];
        out[0] = self.kind as u8;
        out[1] = self.codec as u8;
        out[2..4].copy_from_slice(&self.chunks.to_le_bytes());
        out[4..8].copy_from_slice(&self.plain_len.to_le_bytes());
        out[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.uniform_len.to_le_bytes());
        out[16..].copy_from_slice(self.digest.as_bytes());
        out
    }

    /// Splits a whole frame into its header and its payload, with every length checked.
    pub fn split(frame: &[u8]) -> Result<(Self, &[u8])> {
        const WHAT: &str = "frame";
        let mut r = Reader::new(WHAT, frame);
        let header = Self {
            kind: FrameKind::from_number(r.u8()?)?,
            codec: Codec::from_number(WHAT, r.u8()?)?,
            chunks: r.u16()?,
            plain_len: r.u32()?,
            payload_len: r.u32()?,
            uniform_len: r.u32()?,
            digest: Digest::from_bytes(r.array()?),
        };
        if header.chunks == 0 || header.chunks > limits::FRAME_CHUNKS_MAX {
            return Err(FormatError::TooLarge {
                what: "chunks of a frame",
                limit: limits::FRAME_CHUNKS_MAX.into(),
                got: header.chunks.into(),
            });
        }
        if header.plain_len > limits::FRAME_PLAIN_MAX {
            return Err(FormatError::TooLarge {
                what: "content of a frame",
                limit: limits::FRAME_PLAIN_MAX.into(),
                got: header.plain_len.into(),
            });
        }
        let chunks = u64::from(header.chunks);
        let plain_len = u64::from(header.plain_len);
        let lengths_fit = match (header.kind, u64::from(header.uniform_len)) {
            (FrameKind::Plain, 0) => plain_len >= chunks * 4,
            (_, 0) => false,
            (FrameKind::Patch, len) => chunks * len <= limits::FRAME_PLAIN_MAX.into(),
            (_, len) => chunks * len == plain_len,
        };
        if !lengths_fit || (header.codec == Codec::Stored && header.payload_len != header.plain_len)
        {
            return Err(FormatError::invalid(
                WHAT,
                "its lengths contradict each other",
            ));
        }
        let payload = r.bytes(header.payload_len as usize)?;
        r.finish()?;
        Ok((header, payload))
    }

    /// The byte ranges of the chunks within the content, which must be the whole content of this frame.
    pub fn chunk_ranges(&self, plain: &[u8]) -> Result<ChunkRanges> {
        const WHAT: &str = "frame content";
        if plain.len() != self.plain_len as usize {
            return Err(FormatError::invalid(
                WHAT,
                format!("{} bytes instead of {}", plain.len(), self.plain_len),
            ));
        }
        if self.kind == FrameKind::Patch {
            return Err(FormatError::invalid(
                WHAT,
                "a patch does not hold the chunks themselves",
            ));
        }
        if self.uniform_len != 0 {
            return Ok(ChunkRanges::Uniform {
                len: self.uniform_len,
                count: self.chunks,
            });
        }
        let mut r = Reader::new(WHAT, plain);
        let mut end = u32::from(self.chunks) * 4;
        let mut ends = Vec::with_capacity(usize::from(self.chunks) + 1);
        ends.push(end);
        for _ in 0..self.chunks {
            let len = r.u32()?;
            end = end
                .checked_add(len)
                .filter(|end| len > 0 && *end <= self.plain_len)
                .ok_or_else(|| {
                    FormatError::invalid(WHAT, "the table of lengths leads beyond the end")
                })?;
            ends.push(end);
        }
        if end != self.plain_len {
            return Err(FormatError::invalid(
                WHAT,
                "the table of lengths ends before the content does",
            ));
        }
        Ok(ChunkRanges::Table { ends })
    }
}

/// Where the chunks of a frame are in its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkRanges {
    /// All of one length.
    Uniform {
        /// Bytes of each chunk.
        len: u32,
        /// Number of chunks.
        count: u16,
    },
    /// Each of its own.
    Table {
        /// Where the first begins, then where each ends.
        ends: Vec<u32>,
    },
}

impl ChunkRanges {
    /// Number of chunks.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Uniform { count, .. } => usize::from(*count),
            Self::Table { ends } => ends.len().saturating_sub(1),
        }
    }

    /// Bytes of the chunks `first` to `first + count - 1` within the content.
    #[must_use]
    pub fn range(&self, first: usize, count: usize) -> Option<std::ops::Range<usize>> {
        let end = first
            .checked_add(count)
            .filter(|end| *end <= self.count())?;
        Some(match self {
            Self::Uniform { len, .. } => first * *len as usize..end * *len as usize,
            Self::Table { ends } => *ends.get(first)? as usize..*ends.get(end)? as usize,
        })
    }
}

/// Digest of a frame: BLAKE3 of the full hashes of its chunks, one after the other.
#[must_use]
pub fn chunks_digest<'a>(hashes: impl IntoIterator<Item = &'a ChunkHash>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for hash in hashes {
        hasher.update(hash.as_bytes());
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// One line of a pack's frame table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEntry {
    /// Bytes from the start of the pack to the frame's header.
    pub offset: u32,
    /// Bytes of header and payload.
    pub stored_len: u32,
    /// Number of the frame's first chunk within the pack.
    pub first_chunk: u32,
    /// Number of chunks.
    pub chunks: u16,
    /// How they are represented.
    pub kind: FrameKind,
}

/// What stands at a pack's end: where its frames are, and what they hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// In the order in which they lie, without gaps.
    pub frames: Vec<FrameEntry>,
    /// Ids of the chunks of plain frames, in order.
    pub ids: Vec<ChunkId>,
}

impl Directory {
    /// Takes in the next frame.
    pub fn push(&mut self, header: &FrameHeader, ids: &[ChunkId]) -> Result<()> {
        self.push_as(header, 0, ids)
    }

    /// Takes in the next frame of a sealed pack.
    pub fn push_sealed(&mut self, header: &FrameHeader, ids: &[ChunkId]) -> Result<()> {
        self.push_as(header, SEAL_LEN as u64, ids)
    }

    fn push_as(&mut self, header: &FrameHeader, seal_len: u64, ids: &[ChunkId]) -> Result<()> {
        let (offset, first_chunk) = self.end();
        let too_large = |got: u64| FormatError::TooLarge {
            what: "pack",
            limit: limits::PACK_MAX,
            got,
        };
        let stored_len = seal_len + u64::from(header.payload_len) + FRAME_HEADER_LEN as u64;
        if offset + stored_len > limits::PACK_MAX
            || first_chunk + u64::from(header.chunks) > u64::from(limits::PACK_CHUNKS_MAX)
        {
            return Err(too_large(offset + stored_len));
        }
        self.frames.push(FrameEntry {
            offset: u32::try_from(offset).map_err(|_| too_large(offset))?,
            stored_len: u32::try_from(stored_len).map_err(|_| too_large(stored_len))?,
            first_chunk: u32::try_from(first_chunk).map_err(|_| too_large(first_chunk))?,
            chunks: header.chunks,
            kind: header.kind,
        });
        self.ids.extend_from_slice(ids);
        Ok(())
    }

    /// Where the next frame begins, and the number of its first chunk.
    fn end(&self) -> (u64, u64) {
        self.frames
            .last()
            .map_or((PACK_HEADER_LEN as u64, 0), |last| {
                (
                    u64::from(last.offset) + u64::from(last.stored_len),
                    u64::from(last.first_chunk) + u64::from(last.chunks),
                )
            })
    }

    /// Number of chunks in all frames.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        self.end().1
    }

    /// The frame that holds chunk `number`.
    #[must_use]
    pub fn frame_of(&self, number: u32) -> Option<&FrameEntry> {
        frame_of(&self.frames, number)
    }

    /// The directory and the trailer: what follows the last frame of the pack `id`.
    pub fn encode(&self, id: PackId) -> Result<Vec<u8>> {
        let mut table = Vec::with_capacity(self.frames.len() * 4);
        for frame in &self.frames {
            table.push(frame.kind as u8);
            table.put_varint(frame.stored_len.into());
            table.put_varint(frame.chunks.into());
        }
        let mut out = zstd::bulk::compress(&table, 3)
            .map_err(|e| FormatError::invalid("frame table", e.to_string()))?;
        let number = |n: usize| {
            u32::try_from(n).map_err(|_| FormatError::TooLarge {
                what: "pack directory",
                limit: u32::MAX.into(),
                got: n as u64,
            })
        };
        let table_stored = number(out.len())?;
        for id in &self.ids {
            out.extend_from_slice(id.as_bytes());
        }
        let (frames_end, _) = self.end();
        let mut trailer = Vec::with_capacity(TRAILER_LEN);
        trailer.extend_from_slice(&TRAILER_MAGIC);
        for value in [
            number(self.frames.len())?,
            number(self.ids.len())?,
            table_stored,
            number(table.len())?,
            u32::try_from(frames_end).map_err(|_| FormatError::TooLarge {
                what: "pack",
                limit: limits::PACK_MAX,
                got: frames_end,
            })?,
            0,
        ] {
            trailer.extend_from_slice(&value.to_le_bytes());
        }
        let digest = directory_digest(id, &out, &trailer);
        out.extend_from_slice(&trailer);
        out.extend_from_slice(digest.as_bytes());
        Ok(out)
    }

    /// Bytes that directory and trailer take at the end of the pack, as the trailer of `TRAILER_LEN` bytes says.
    pub fn tail_len(trailer: &[u8]) -> Result<u64> {
        let trailer = Trailer::decode(trailer)?;
        Ok(u64::from(trailer.table_stored)
            + u64::from(trailer.ids) * ID_LEN as u64
            + TRAILER_LEN as u64)
    }

    /// Reads the last bytes of the pack `id`, which is `pack_len` bytes long; `tail` must hold all that [`Self::tail_len`] says.
    pub fn decode(id: PackId, tail: &[u8], pack_len: u64) -> Result<Self> {
        let view = DirectoryView::decode(id, tail, pack_len)?;
        Ok(Self {
            ids: split_ids(&tail[view.ids]),
            frames: view.frames,
        })
    }
}

/// A directory whose ids stay where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryView {
    /// In the order in which they lie, without gaps.
    pub frames: Vec<FrameEntry>,
    /// Where the ids of the chunks of plain frames are within the bytes that were decoded, 16 bytes each.
    pub ids: std::ops::Range<usize>,
}

impl DirectoryView {
    /// As [`Directory::decode`].
    pub fn decode(id: PackId, tail: &[u8], pack_len: u64) -> Result<Self> {
        const WHAT: &str = "pack directory";
        let need = TRAILER_LEN as u64;
        let have = tail.len() as u64;
        let (rest, trailer_bytes) = tail
            .len()
            .checked_sub(TRAILER_LEN)
            .and_then(|at| tail.split_at_checked(at))
            .ok_or(FormatError::Truncated {
                what: WHAT,
                need,
                have,
            })?;
        let trailer = Trailer::decode(trailer_bytes)?;
        let directory_len = trailer.table_stored as usize + trailer.ids as usize * ID_LEN;
        let start = rest
            .len()
            .checked_sub(directory_len)
            .ok_or(FormatError::Truncated {
                what: WHAT,
                need: directory_len as u64,
                have,
            })?;
        let directory = &rest[start..];
        if directory_digest(id, directory, &trailer_bytes[..TRAILER_LEN - DIGEST_LEN])
            != trailer.digest
        {
            return Err(FormatError::Digest { what: WHAT });
        }
        if u64::from(trailer.frames_end) + directory_len as u64 + need != pack_len {
            return Err(FormatError::invalid(
                WHAT,
                format!("the pack has {pack_len} bytes, another number than it says"),
            ));
        }
        let (table, _) = directory.split_at(trailer.table_stored as usize);
        let frames = trailer.frames(table)?;
        let frames_end = frames.last().map_or(PACK_HEADER_LEN as u64, |last| {
            u64::from(last.offset) + u64::from(last.stored_len)
        });
        let plain: u64 = frames
            .iter()
            .filter(|f| f.kind == FrameKind::Plain)
            .map(|f| u64::from(f.chunks))
            .sum();
        if frames_end != u64::from(trailer.frames_end) || plain != u64::from(trailer.ids) {
            return Err(FormatError::invalid(
                WHAT,
                "its frame table and its numbers contradict each other",
            ));
        }
        Ok(Self {
            frames,
            ids: start + trailer.table_stored as usize..rest.len(),
        })
    }

    /// The frame that holds chunk `number`.
    #[must_use]
    pub fn frame_of(&self, number: u32) -> Option<&FrameEntry> {
        frame_of(&self.frames, number)
    }
}

fn frame_of(frames: &[FrameEntry], number: u32) -> Option<&FrameEntry> {
    let at = frames
        .partition_point(|frame| frame.first_chunk <= number)
        .checked_sub(1)?;
    frames
        .get(at)
        .filter(|frame| number - frame.first_chunk < u32::from(frame.chunks))
}

/// The ids of a column; bytes that are no whole id are left out.
pub(crate) fn split_ids(column: &[u8]) -> Vec<ChunkId> {
    let mut ids = Vec::with_capacity(column.len() / ID_LEN);
    for id in column.chunks_exact(ID_LEN) {
        let mut bytes = [0; ID_LEN];
        bytes.copy_from_slice(id);
        ids.push(ChunkId::from_bytes(bytes));
    }
    ids
}

fn directory_digest(id: PackId, directory: &[u8], trailer: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&encode_pack_header(id))
        .update(directory)
        .update(trailer);
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

struct Trailer {
    frames: u32,
    ids: u32,
    table_stored: u32,
    table_plain: u32,
    frames_end: u32,
    digest: Digest,
}

impl Trailer {
    fn decode(bytes: &[u8]) -> Result<Self> {
        const WHAT: &str = "pack trailer";
        let mut r = Reader::new(WHAT, bytes);
        if r.array::<8>()? != TRAILER_MAGIC {
            return Err(FormatError::invalid(
                WHAT,
                "it does not begin with CRYODIR1",
            ));
        }
        let out = Self {
            frames: r.u32()?,
            ids: r.u32()?,
            table_stored: r.u32()?,
            table_plain: r.u32()?,
            frames_end: {
                let end = r.u32()?;
                if r.u32()? != 0 {
                    return Err(FormatError::invalid(WHAT, "reserved bytes are not zero"));
                }
                end
            },
            digest: Digest::from_bytes(r.array()?),
        };
        r.finish()?;
        for (what, got, limit) in [
            ("frames of a pack", out.frames, limits::PACK_FRAMES_MAX),
            ("chunks of a pack", out.ids, limits::PACK_CHUNKS_MAX),
            // Eight bytes are the most that one entry takes.
            ("frame table", out.table_plain, limits::PACK_FRAMES_MAX * 8),
            (
                "stored frame table",
                out.table_stored,
                limits::PACK_FRAMES_MAX * 9,
            ),
        ] {
            if got > limit {
                return Err(FormatError::TooLarge {
                    what,
                    limit: limit.into(),
                    got: got.into(),
                });
            }
        }
        Ok(out)
    }

    fn frames(&self, table: &[u8]) -> Result<Vec<FrameEntry>> {
        const WHAT: &str = "frame table";
        let table = zstd::bulk::decompress(table, self.table_plain as usize)
            .map_err(|e| FormatError::invalid(WHAT, format!("zstd: {e}")))?;
        let mut r = Reader::new(WHAT, &table);
        // Three bytes are the least that one entry takes.
        if (self.frames as usize).saturating_mul(3) > table.len() {
            return Err(FormatError::Truncated {
                what: WHAT,
                need: u64::from(self.frames) * 3,
                have: table.len() as u64,
            });
        }
        let mut out = Directory {
            frames: Vec::with_capacity(self.frames as usize),
            ids: Vec::new(),
        };
        for _ in 0..self.frames {
            let kind = FrameKind::from_number(r.u8()?)?;
            let stored_len = r.varint32()?;
            let chunks = r.varint32()?;
            let header_len = u32::try_from(FRAME_HEADER_LEN).unwrap_or(u32::MAX);
            let payload_len = stored_len
                .checked_sub(header_len)
                .filter(|_| stored_len <= limits::FRAME_STORED_MAX)
                .ok_or_else(|| {
                    FormatError::invalid(WHAT, format!("a frame of {stored_len} bytes"))
                })?;
            let chunks = u16::try_from(chunks)
                .ok()
                .filter(|chunks| (1..=limits::FRAME_CHUNKS_MAX).contains(chunks))
                .ok_or_else(|| FormatError::invalid(WHAT, format!("a frame of {chunks} chunks")))?;
            let header = FrameHeader {
                kind,
                codec: Codec::Stored,
                chunks,
                plain_len: 0,
                payload_len,
                uniform_len: 0,
                digest: Digest::default(),
            };
            out.push(&header, &[])?;
        }
        r.finish()?;
        Ok(out.frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn directory(frames: u16) -> Directory {
        let mut out = Directory::default();
        for n in 0..frames {
            let header = FrameHeader {
                kind: FrameKind::Plain,
                codec: Codec::Zstd,
                chunks: n % 16 + 1,
                plain_len: 4096,
                payload_len: u32::from(n) * 7 + 1,
                uniform_len: 4096,
                digest: Digest::default(),
            };
            let ids: Vec<_> = (0..header.chunks)
                .map(|c| ChunkId::from_bytes([(n % 256) as u8 ^ c as u8; 16]))
                .collect();
            out.push(&header, &ids).unwrap();
        }
        out
    }
    const ID: PackId = PackId::from_bytes([9; 16]);

    fn frames_end(directory: &Directory) -> u64 {
        directory.end().0
    }

    #[test]
    fn a_directory_reads_back_from_the_end_of_its_pack() {
        for frames in [0, 1, 17, 900] {
            let directory = directory(frames);
            let tail = directory.encode(ID).unwrap();
            let pack_len = frames_end(&directory) + tail.len() as u64;
            assert_eq!(
                Directory::tail_len(&tail[tail.len() - TRAILER_LEN..]),
                Ok(tail.len() as u64)
            );
            assert_eq!(Directory::decode(ID, &tail, pack_len).unwrap(), directory);
            assert!(
                Directory::decode(PackId::default(), &tail, pack_len).is_err(),
                "of another pack"
            );
            assert!(
                Directory::decode(ID, &tail, pack_len + 1).is_err(),
                "of a longer pack"
            );
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_directory_is_noticed() {
        let directory = directory(5);
        let tail = directory.encode(ID).unwrap();
        let pack_len = frames_end(&directory) + tail.len() as u64;
        for at in 0..tail.len() {
            assert!(
                Directory::decode(ID, &tail[..at], pack_len).is_err(),
                "cut at {at}"
            );
            for bit in 0..8 {
                let mut bad = tail.clone();
                bad[at] ^= 1 << bit;
                assert!(
                    Directory::decode(ID, &bad, pack_len).is_err(),
                    "bit {bit} of byte {at}"
                );
            }
        }
    }

    #[test]
    fn a_chunk_is_found_in_its_frame() {
        let directory = directory(20);
        for number in 0..u32::try_from(directory.chunk_count()).unwrap() {
            let frame = directory.frame_of(number).unwrap();
            assert!(
                (frame.first_chunk..frame.first_chunk + u32::from(frame.chunks)).contains(&number)
            );
        }
        assert_eq!(directory.frame_of(directory.chunk_count() as u32), None);
    }

    #[test]
    fn a_table_of_lengths_must_cover_the_content_exactly() {
        let header = FrameHeader {
            kind: FrameKind::Plain,
            codec: Codec::Stored,
            chunks: 2,
            plain_len: 8 + 5,
            payload_len: 13,
            uniform_len: 0,
            digest: Digest::default(),
        };
        let content = |a: u32, b: u32| {
            let mut out = a.to_le_bytes().to_vec();
            out.extend_from_slice(&b.to_le_bytes());
            out.extend_from_slice(b"abcde");
            out
        };
        let ranges = header.chunk_ranges(&content(2, 3)).unwrap();
        assert_eq!(
            (ranges.range(0, 1), ranges.range(1, 1), ranges.range(0, 2)),
            (Some(8..10), Some(10..13), Some(8..13))
        );
        assert_eq!(ranges.range(1, 2), None);
        for (a, b) in [(2, 2), (3, 3), (0, 5), (u32::MAX, 6)] {
            assert!(header.chunk_ranges(&content(a, b)).is_err(), "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_frames_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = FrameHeader::split(&bytes);
            let _ = Directory::decode(ID, &bytes, 200);
        }
    }
}
