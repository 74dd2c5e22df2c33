//! Packs: the header, the directory at the end, frames and where the chunks are in them.

#![no_main]

use cryostore_format::envelope::Codec;
use cryostore_format::limits;
use cryostore_format::pack::{
    ChunkRanges, Directory, DirectoryView, FRAME_HEADER_LEN, FrameHeader, FrameKind,
    PACK_HEADER_LEN, TRAILER_LEN, check_pack_header, encode_pack_header,
};
use cryostore_format::{ChunkId, Digest, PackId};
use cryostore_fuzz::{Dice, PACK, chunk_id};
use libfuzzer_sys::fuzz_target;

const NUMBERS: usize = TRAILER_LEN - 32;

fn header(data: &[u8]) {
    let mut id = [0; 16];
    if let Some(bytes) = data.get(16..PACK_HEADER_LEN) {
        id.copy_from_slice(bytes);
    }
    let id = PackId::from_bytes(id);
    if check_pack_header(id, data).is_ok() {
        assert_eq!(
            data[..PACK_HEADER_LEN],
            encode_pack_header(id),
            "one header per pack"
        );
    }
    let mut bytes = data[..data.len().min(PACK_HEADER_LEN)].to_vec();
    bytes
        .iter_mut()
        .zip(b"CRYOPACK")
        .for_each(|(byte, magic)| *byte = *magic);
    if check_pack_header(id, &bytes).is_ok() {
        assert_eq!(bytes, encode_pack_header(id));
    }
}

fn ranges(header: &FrameHeader, plain: &[u8]) {
    let Ok(ranges) = header.chunk_ranges(plain) else {
        return;
    };
    let count = usize::from(header.chunks);
    assert_eq!(ranges.count(), count);
    let table = if matches!(ranges, ChunkRanges::Table { .. }) {
        count * 4
    } else {
        0
    };
    let mut at = table;
    for n in 0..count {
        let range = ranges.range(n, 1).unwrap();
        assert!(
            range.start == at && range.end > at,
            "chunk {n} is at {range:?}, not from {at} on"
        );
        at = range.end;
    }
    assert_eq!(at, plain.len(), "the chunks fill the content");
    assert_eq!(ranges.range(0, count), Some(table..at));
    assert!(ranges.range(0, count + 1).is_none() && ranges.range(count, 1).is_none());
    assert!(ranges.range(usize::MAX, 1).is_none() && ranges.range(1, usize::MAX).is_none());
}

fn frame(data: &[u8]) {
    let Ok((header, payload)) = FrameHeader::split(data) else {
        return;
    };
    assert_eq!(FRAME_HEADER_LEN + payload.len(), data.len());
    assert_eq!(
        data[..FRAME_HEADER_LEN],
        header.encode(),
        "one header per frame"
    );
    assert!(header.plain_len <= limits::FRAME_PLAIN_MAX);
    match header.codec {
        Codec::Stored => ranges(&header, payload),
        Codec::Zstd => {
            if let Ok(plain) = zstd::bulk::decompress(payload, header.plain_len as usize) {
                ranges(&header, &plain);
            }
        }
    }
    // Content of the right length, whatever the payload is: the table of lengths is what counts.
    if header.plain_len <= 16 << 10 {
        let mut plain = payload.to_vec();
        plain.resize(header.plain_len as usize, 1);
        ranges(&header, &plain);
    }
}

fn directory(tail: &[u8], pack_len: u64) {
    let found = Directory::decode(PACK, tail, pack_len);
    let view = DirectoryView::decode(PACK, tail, pack_len);
    let Ok(directory) = found else {
        return assert!(view.is_err());
    };
    let view = view.unwrap();
    assert_eq!(view.frames, directory.frames);
    assert_eq!(view.ids.len(), directory.ids.len() * 16);
    let ids: Vec<u8> = directory.ids.iter().flat_map(|id| *id.as_bytes()).collect();
    assert_eq!(tail[view.ids.clone()], ids);
    assert_eq!(directory.ids.len() as u64, directory.chunk_count());
    let mut offset = PACK_HEADER_LEN as u64;
    let mut first = 0;
    for frame in &directory.frames {
        assert_eq!(
            (u64::from(frame.offset), frame.first_chunk),
            (offset, first),
            "frames lie one after the other"
        );
        assert!(frame.chunks > 0 && frame.stored_len as usize >= FRAME_HEADER_LEN);
        assert_eq!(directory.frame_of(first), Some(frame));
        assert_eq!(
            directory.frame_of(first + u32::from(frame.chunks) - 1),
            Some(frame)
        );
        assert_eq!(view.frame_of(first), Some(frame));
        offset += u64::from(frame.stored_len);
        first += u32::from(frame.chunks);
    }
    assert!(directory.frame_of(first).is_none() && directory.frame_of(u32::MAX).is_none());
    let again = directory.encode(PACK).unwrap();
    assert_eq!(
        Directory::tail_len(&again[again.len() - TRAILER_LEN..]),
        Ok(again.len() as u64)
    );
    assert_eq!(
        Directory::decode(PACK, &again, offset + again.len() as u64),
        Ok(directory),
        "a directory reads back"
    );
}

/// The bytes as a directory whose magic, table length and digest are put right; the other numbers are the fuzzer's.
fn mended(data: &[u8]) -> Option<(Vec<u8>, u64)> {
    let (body, numbers) = data.split_last_chunk::<20>()?;
    let mut trailer = b"CRYODIR1".to_vec();
    trailer.extend_from_slice(numbers);
    trailer.extend_from_slice(&[0; 4]);
    let number = |at: usize| u64::from(u32::from_le_bytes(trailer[at..at + 4].try_into().unwrap()));
    let (ids, stored, plain, frames_end) = (number(12), number(16), number(20), number(24));
    // A table that says it is long only makes each run slow.
    if plain > 1 << 16 {
        return None;
    }
    let start = (body.len() as u64).checked_sub(stored + ids * 16)?;
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&encode_pack_header(PACK))
        .update(&body[start as usize..])
        .update(&trailer);
    let tail = [body, &trailer, hasher.finalize().as_bytes()].concat();
    assert_eq!(trailer.len(), NUMBERS);
    Some((tail, frames_end + stored + ids * 16 + TRAILER_LEN as u64))
}

/// The bytes as a frame table, with as many ids as it wants.
fn table(data: &[u8]) {
    let mut dice = Dice::new(data);
    let (frames, ids) = (u32::from(dice.byte()), u32::from(dice.short() % 512));
    let mut frames_end = PACK_HEADER_LEN as u32;
    frames_end = frames_end.saturating_add(dice.long() as u32);
    let plain = dice.rest();
    let stored = zstd::bulk::compress(plain, 1).unwrap();
    let mut body = stored.clone();
    body.extend((0..ids).flat_map(|n| [n as u8; 16]));
    for number in [
        frames,
        ids,
        stored.len() as u32,
        plain.len() as u32,
        frames_end,
    ] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    let (tail, pack_len) = mended(&body).unwrap();
    directory(&tail, pack_len);
}

/// A directory that a writer makes, with frames of any length: it must read back, or not be written.
fn written(data: &[u8]) {
    let mut dice = Dice::new(data);
    let mut directory = Directory::default();
    while !dice.is_empty() && directory.frames.len() < 256 {
        // Many chunks now and then: their ids are what takes the time.
        let chunks = match dice.byte() {
            255 => limits::FRAME_CHUNKS_MAX,
            few => u16::from(few % 8) + 1,
        };
        let payload_len =
            dice.long() as u32 % (limits::FRAME_STORED_MAX - FRAME_HEADER_LEN as u32 + 1);
        let header = FrameHeader {
            kind: FrameKind::Plain,
            codec: Codec::Zstd,
            chunks,
            plain_len: 0,
            payload_len,
            uniform_len: 0,
            digest: Digest::default(),
        };
        let ids: Vec<ChunkId> = (0..chunks).map(|n| chunk_id(n as u8)).collect();
        if directory.push(&header, &ids).is_err() {
            break;
        }
    }
    let last = directory
        .frames
        .last()
        .map_or(PACK_HEADER_LEN as u64, |last| {
            u64::from(last.offset) + u64::from(last.stored_len)
        });
    let tail = directory.encode(PACK).unwrap();
    assert_eq!(
        Directory::decode(PACK, &tail, last + tail.len() as u64),
        Ok(directory)
    );
}

fuzz_target!(|data: &[u8]| {
    header(data);
    frame(data);
    directory(data, data.len() as u64);
    let _ = Directory::tail_len(data);
    if let Some((tail, pack_len)) = mended(data) {
        directory(&tail, pack_len);
    }
    table(&data[..data.len().min(1024)]);
    written(&data[..data.len().min(128)]);
});
