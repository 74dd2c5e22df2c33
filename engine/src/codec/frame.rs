//! Owns the coding of frames: plain ones, patches, tables.
//!
//! Always: what [`OpenFrame::seal`] gives was decoded and compared byte by byte (a bit that flips in memory, or a bug of ours or of the
//! compressor, stays out of the store). Never: allocates more than the header's bounded lengths say.

use std::cell::{Cell, RefCell};
use std::thread::LocalKey;

use cryostore_format::encryption::{SEAL_LEN, Seals, open_frame, seal_frame};
use cryostore_format::envelope::Codec;
use cryostore_format::pack::{
    ChunkRanges, FRAME_HEADER_LEN, FrameHeader, FrameKind, chunks_digest,
};
use cryostore_format::{ChunkHash, FormatError, IdKey, limits as format_limits};

use crate::error::{Error, Kind, Result};
use crate::limits;

/// Chunks that will be one frame.
#[derive(Debug, Default)]
pub struct OpenFrame {
    /// Full hashes of the chunks.
    pub hashes: Vec<ChunkHash>,
    /// Length of each chunk.
    lengths: Vec<u32>,
    /// The chunks, one after the other.
    bytes: Vec<u8>,
}

/// A frame as it is stored.
#[derive(Debug)]
pub struct SealedFrame {
    /// What the directory says of it.
    pub header: FrameHeader,
    /// The seal, if there is one, not bound to a place yet; header and payload.
    pub bytes: Vec<u8>,
    /// Hashes of its chunks.
    pub hashes: Vec<ChunkHash>,
}

impl OpenFrame {
    /// Room for another chunk of `len` bytes?
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        self.bytes.is_empty()
            || (self.bytes.len() + len <= limits::FRAME_PLAIN
                && self.lengths.len() < usize::from(format_limits::FRAME_CHUNKS_MAX))
    }

    /// Takes in a chunk; its number within the frame comes back.
    pub fn push(&mut self, hash: ChunkHash, chunk: &[u8]) -> Result<u16> {
        let number = u16::try_from(self.lengths.len());
        let len = u32::try_from(chunk.len())
            .ok()
            .filter(|len| (1..=format_limits::FRAME_PLAIN_MAX / 2).contains(len));
        let (Ok(number), Some(len)) = (number, len) else {
            return Err(Error::new(
                Kind::Internal,
                format!("a chunk of {} bytes", chunk.len()),
            ));
        };
        if self.bytes.capacity() == 0 {
            // Once for the whole frame: growing step by step would copy every byte once more.
            self.bytes
                .reserve_exact(limits::FRAME_PLAIN.max(chunk.len()));
        }
        self.hashes.push(hash);
        self.lengths.push(len);
        self.bytes.extend_from_slice(chunk);
        Ok(number)
    }

    /// Bytes of its chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True without chunks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Compresses, encrypts if there is a key, decodes, compares.
    pub fn seal(mut self, seals: Option<&Seals>) -> Result<SealedFrame> {
        let first = self.lengths.first().copied().unwrap_or(0);
        let uniform_len = if self.lengths.iter().all(|len| *len == first) {
            first
        } else {
            0
        };
        if uniform_len == 0 {
            let mut plain = Vec::with_capacity(self.lengths.len() * 4 + self.bytes.len());
            for len in &self.lengths {
                plain.extend_from_slice(&len.to_le_bytes());
            }
            plain.append(&mut self.bytes);
            self.bytes = plain;
        }
        seal(
            FrameKind::Plain,
            &self.bytes,
            uniform_len,
            self.hashes,
            seals,
        )
    }
}

/// Makes a frame of pages by what differs from their bases (`patch`); `hashes` are those of the pages themselves.
pub fn seal_patch(
    hashes: Vec<ChunkHash>,
    patch: &[u8],
    page_len: usize,
    seals: Option<&Seals>,
) -> Result<SealedFrame> {
    let page_len = u32::try_from(page_len)
        .map_err(|_| Error::new(Kind::Internal, format!("a page of {page_len} bytes")))?;
    seal(FrameKind::Patch, patch, page_len, hashes, seals)
}

/// Makes a frame of pages that were XORed with their bases, as earlier versions did.
#[cfg(test)]
pub fn seal_xor(hashes: Vec<ChunkHash>, xored: &[u8], page_len: u32) -> SealedFrame {
    seal(FrameKind::Xor, xored, page_len, hashes, None).unwrap()
}

/// Makes a frame of a table of deltas.
pub fn seal_table(key: &IdKey, table: &[u8], seals: Option<&Seals>) -> Result<SealedFrame> {
    let len = u32::try_from(table.len())
        .map_err(|_| Error::new(Kind::Internal, "a table that is too long"))?;
    let hashes = vec![key.chunk_hash(table)];
    seal(FrameKind::Table, table, len, hashes, seals)
}

fn seal(
    kind: FrameKind,
    plain: &[u8],
    uniform_len: u32,
    hashes: Vec<ChunkHash>,
    seals: Option<&Seals>,
) -> Result<SealedFrame> {
    let internal = |what: &str| {
        Error::new(
            Kind::Internal,
            format!("a frame of {} bytes: {what}", plain.len()),
        )
    };
    let seal_len = seals.map_or(0, |_| SEAL_LEN);
    let start = seal_len + FRAME_HEADER_LEN;
    let mut bytes = vec![0; start];
    let codec = compress(kind, plain, &mut bytes).map_err(|e| internal("zstd").because(e))?;
    let header = FrameHeader {
        kind,
        codec,
        chunks: u16::try_from(hashes.len()).map_err(|_| internal("too many chunks"))?,
        plain_len: u32::try_from(plain.len()).map_err(|_| internal("too long"))?,
        payload_len: u32::try_from(bytes.len() - start).map_err(|_| internal("too long"))?,
        uniform_len,
        digest: chunks_digest(&hashes),
    };
    bytes[seal_len..start].copy_from_slice(&header.encode());
    let same = match seals {
        None => with_frame(&bytes, |_, again| again == plain),
        Some(seals) => seal_frame(seals, &mut bytes).and_then(|()| {
            OPENED.with_borrow_mut(|opened| {
                open_frame(seals, None, &bytes, opened)?;
                with_frame(opened, |_, again| again == plain)
            })
        }),
    };
    let same = same.map_err(|e| internal("reading it back").because(e))?;
    if !same {
        return Err(internal("it does not read back as it was")
            .hint("the memory of this machine may be faulty: test it; nothing was stored"));
    }
    Ok(SealedFrame {
        header,
        bytes,
        hashes,
    })
}

thread_local! {
    static COMPRESSOR: Compressor = const { RefCell::new(None) };
    static LEAVER: Compressor = const { RefCell::new(None) };
    static PATCHER: Compressor = const { RefCell::new(None) };
    /// True if the last frame that this thread packed was left as it is.
    static LEFT: Cell<bool> = const { Cell::new(false) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static OPENED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Appends the payload to `out`.
fn compress(kind: FrameKind, plain: &[u8], out: &mut Vec<u8>) -> std::io::Result<Codec> {
    let (compressor, level) = if kind == FrameKind::Patch {
        (&PATCHER, limits::ZSTD_LEVEL_PATCH)
    } else {
        (&COMPRESSOR, limits::ZSTD_LEVEL)
    };
    let shrinks = |plain: &[u8], packed: &[u8]| {
        packed.len() <= plain.len() - plain.len() / limits::WORTH_UNPACKING
    };
    // What did not shrink mostly has more of its kind behind it: then a part tells, at a sixteenth of the cost.
    let middle = plain.len() / 2;
    let sample = plain.get(middle..middle + limits::SAMPLE_LEN);
    let packed = match sample.filter(|_| LEFT.get()) {
        Some(sample) if !shrinks(sample, &compress_at(compressor, level, sample)?) => None,
        _ => Some(compress_at(compressor, level, plain)?).filter(|packed| shrinks(plain, packed)),
    };
    LEFT.set(packed.is_none());
    let packed = match packed {
        Some(packed) => packed,
        // As it is, in zstd's raw blocks: a few bytes longer, and with a checksum all the same.
        None => compress_at(&LEAVER, limits::ZSTD_LEVEL_LEAVING, plain)?,
    };
    out.reserve_exact(packed.len());
    out.extend_from_slice(&packed);
    Ok(Codec::Zstd)
}

type Compressor = RefCell<Option<zstd::bulk::Compressor<'static>>>;

fn compress_at(
    compressor: &'static LocalKey<Compressor>,
    level: i32,
    plain: &[u8],
) -> std::io::Result<Vec<u8>> {
    compressor.with_borrow_mut(|compressor| {
        if compressor.is_none() {
            let mut new = zstd::bulk::Compressor::new(level)?;
            // zstd's own checksum (XXH64, 4 bytes) finds a flipped bit of a frame at the speed of memory.
            new.include_checksum(true)?;
            new.include_contentsize(false)?;
            if level == limits::ZSTD_LEVEL {
                for parameter in limits::ZSTD_PARAMETERS {
                    new.set_parameter(parameter)?;
                }
            }
            *compressor = Some(new);
        }
        let missing = || std::io::Error::other("no compressor");
        compressor.as_mut().ok_or_else(missing)?.compress(plain)
    })
}

/// Decodes a frame and hands its header and content to `then`. The content's buffer is the thread's own.
pub fn with_frame<T>(
    frame: &[u8],
    then: impl FnOnce(&FrameHeader, &[u8]) -> T,
) -> std::result::Result<T, FormatError> {
    let (header, payload) = FrameHeader::split(frame)?;
    if header.codec == Codec::Stored {
        return Ok(then(&header, payload));
    }
    PLAIN.with_borrow_mut(|plain| {
        plain.resize(header.plain_len as usize, 0);
        unpack(payload, plain)?;
        Ok(then(&header, plain))
    })
}

/// Decodes a frame into memory of its own.
pub fn unpack_frame(frame: &[u8]) -> std::result::Result<(FrameHeader, Vec<u8>), FormatError> {
    let (header, payload) = FrameHeader::split(frame)?;
    if header.codec == Codec::Stored {
        return Ok((header, payload.to_vec()));
    }
    let mut plain = vec![0; header.plain_len as usize];
    unpack(payload, &mut plain)?;
    Ok((header, plain))
}

/// Unpacks a payload into exactly `plain`.
fn unpack(payload: &[u8], plain: &mut [u8]) -> std::result::Result<(), FormatError> {
    let bad = |detail: String| FormatError::Invalid {
        what: "frame",
        detail,
    };
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        if decompressor.is_none() {
            *decompressor = Some(zstd::bulk::Decompressor::new().map_err(|e| bad(e.to_string()))?);
        }
        let Some(decompressor) = decompressor else {
            return Ok(());
        };
        let len = decompressor
            .decompress_to_buffer(payload, plain)
            .map_err(|e| bad(format!("zstd: {e}")))?;
        if len == plain.len() {
            Ok(())
        } else {
            Err(bad(format!("{len} bytes instead of {}", plain.len())))
        }
    })
}

/// Decodes the chunks `first` to `first + count - 1` of a frame into exactly `out`.
pub fn read_chunks(
    frame: &[u8],
    first: u16,
    count: u16,
    out: &mut [u8],
) -> std::result::Result<(), FormatError> {
    let (header, payload) = FrameHeader::split(frame)?;
    let whole = first == 0
        && count == header.chunks
        && header.uniform_len != 0
        && out.len() == header.plain_len as usize;
    if whole && header.codec == Codec::Zstd {
        return unpack(payload, out);
    }
    with_frame(frame, |header, plain| {
        copy_chunks(header, plain, first, count, out)
    })?
}

/// Copies the chunks `first` to `first + count - 1` of a decoded frame into exactly `out`.
pub fn copy_chunks(
    header: &FrameHeader,
    plain: &[u8],
    first: u16,
    count: u16,
    out: &mut [u8],
) -> std::result::Result<(), FormatError> {
    let range = header
        .chunk_ranges(plain)?
        .range(first.into(), count.into());
    match range.and_then(|range| plain.get(range)) {
        Some(bytes) if bytes.len() == out.len() => {
            out.copy_from_slice(bytes);
            Ok(())
        }
        found => Err(FormatError::Invalid {
            what: "frame",
            detail: format!(
                "chunks {first} to {} have {:?} bytes, {} were expected",
                u32::from(first) + u32::from(count),
                found.map(<[u8]>::len),
                out.len()
            ),
        }),
    }
}

/// Checks a frame against its digest by hashing every chunk again.
pub fn verify(frame: &[u8], key: &IdKey) -> std::result::Result<Vec<ChunkHash>, FormatError> {
    with_frame(frame, |header, plain| {
        let ranges: ChunkRanges = header.chunk_ranges(plain)?;
        let hashes: Vec<_> = (0..ranges.count())
            .filter_map(|n| plain.get(ranges.range(n, 1)?))
            .map(|chunk| key.chunk_hash(chunk))
            .collect();
        if chunks_digest(&hashes) == header.digest {
            Ok(hashes)
        } else {
            Err(FormatError::Digest { what: "frame" })
        }
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [3; 32];

    fn frame(chunks: &[&[u8]]) -> SealedFrame {
        let key = IdKey::from_bytes(KEY);
        let mut open = OpenFrame::default();
        for chunk in chunks {
            assert!(open.has_room(chunk.len()));
            open.push(key.chunk_hash(chunk), chunk).unwrap();
        }
        open.seal(None).unwrap()
    }

    #[test]
    fn chunks_come_back_alone_and_together() {
        let pages: Vec<Vec<u8>> = (0..16).map(|n| vec![n; 4096]).collect();
        let pages: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
        for chunks in [&pages[..], &[b"a", b"bcd", b"ef"], &[b"one"]] {
            let sealed = frame(chunks);
            let whole = chunks.concat();
            let mut out = vec![0; whole.len()];
            read_chunks(&sealed.bytes, 0, sealed.header.chunks, &mut out).unwrap();
            assert_eq!(out, whole);
            for (n, chunk) in chunks.iter().enumerate() {
                let mut out = vec![0; chunk.len()];
                read_chunks(&sealed.bytes, n as u16, 1, &mut out).unwrap();
                assert_eq!(&out, chunk);
            }
            let mut out = vec![0; whole.len() + 1];
            assert!(
                read_chunks(&sealed.bytes, 0, sealed.header.chunks, &mut out).is_err(),
                "another length"
            );
            assert_eq!(
                verify(&sealed.bytes, &IdKey::from_bytes(KEY)).unwrap(),
                sealed.hashes
            );
        }
    }

    #[test]
    fn a_flipped_bit_of_a_frame_is_noticed_or_changes_nothing() {
        let mut noise = vec![0_u8; 3000];
        let mut state = 1_u32;
        for byte in &mut noise {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = state.to_le_bytes()[3];
        }
        let sealed = frame(&[&noise, b"and some more bytes"]);
        let key = IdKey::from_bytes(KEY);
        let mut harmless = 0;
        for at in 0..sealed.bytes.len() {
            for bit in 0..8 {
                let mut bad = sealed.bytes.clone();
                bad[at] ^= 1 << bit;
                // zstd's header has bits that matter to no one-shot decoder: an unused one, and the window's size.
                if let Ok(hashes) = verify(&bad, &key) {
                    assert_eq!(hashes, sealed.hashes, "bit {bit} of byte {at}");
                    harmless += 1;
                }
            }
        }
        assert!(harmless <= 9, "{harmless} bits that nothing notices");
    }

    #[test]
    fn a_frame_takes_no_more_than_64_kib_but_for_one_large_chunk() {
        let key = IdKey::from_bytes(KEY);
        let mut open = OpenFrame::default();
        let page = [1; 4096];
        for n in 0..16 {
            assert!(open.has_room(4096), "page {n}");
            open.push(key.chunk_hash(&page), &page).unwrap();
        }
        assert!(!open.has_room(4096));
        assert!(OpenFrame::default().has_room(500_000));
    }

    #[test]
    fn a_frame_that_hardly_shrinks_is_left_as_it_is() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 56) as u8
        };
        // Numbers whose last byte is always the same: zstd takes off 1/8 or so, and less if it is every 32nd.
        let every = |n: usize, random: &mut dyn FnMut() -> u8| -> Vec<u8> {
            (0..65536)
                .map(|at| if at % n == 0 { 63 } else { random() })
                .collect()
        };
        let left = every(32, &mut random);
        let sealed = frame(&[&left]);
        assert!(sealed.bytes.len() > left.len());
        assert!(
            sealed
                .bytes
                .windows(1000)
                .any(|bytes| bytes == &left[5000..6000])
        );
        let packed = every(4, &mut random);
        assert!(frame(&[&packed]).bytes.len() < packed.len() * 9 / 10);
        // The frames before decide whether a part is looked at first, and nothing more.
        for _ in 0..3 {
            assert!(frame(&[&left]).bytes.len() > left.len());
        }
        assert!(frame(&[&packed]).bytes.len() < packed.len() * 9 / 10);
        assert!(frame(&[&[7; 100]]).bytes.len() < 100);
    }
}
