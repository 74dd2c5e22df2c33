//! Recipes, inside of a manifest as they are stored: every slice that comes out is one that a reader can rely on.

#![no_main]

use cryostore_format::limits;
use cryostore_format::manifest::{Body, Layout, Manifest, Piece, Role, Stream};
use cryostore_format::pack::FRAME_HEADER_LEN;
use cryostore_format::recipe::{FrameRef, FrameSlice, Recipe, RecipeWriter, Slice};
use cryostore_format::wire::Put;
use cryostore_format::{Digest, PackId};
use cryostore_fuzz::Dice;
use libfuzzer_sys::fuzz_target;

const PAGE_SIZES: [u32; 4] = [0, 4096, 65_536, u32::MAX];
const MOST_PACKS: u8 = 8;

/// The content of a manifest with one stream, whose recipe is `recipe`.
fn content(packs: u8, page_size: u32, recipe: &[u8]) -> Vec<u8> {
    let mut streams = Vec::new();
    streams.put_varint(1);
    streams.put_string(b"");
    streams.push(0);
    streams.put_varint(0);
    streams.put_varint(page_size.into());
    streams.put_varint(0);
    streams.extend_from_slice(&[7; 32]);
    streams.push(0);
    streams.extend_from_slice(recipe);
    let mut table = Vec::new();
    table.put_varint(packs.into());
    table.extend((0..packs).flat_map(|n| [n; 16]));
    let mut out = Vec::new();
    for (section, body) in [(1, &table[..]), (2, &streams), (3, &[0, 0, 0]), (4, &[0])] {
        out.push(section | 0x80);
        out.put_string(body);
    }
    out
}

/// The slices up to the first error, and whether there was none.
fn slices(manifest: &Manifest) -> (Vec<Slice>, bool) {
    let mut slices = manifest.slices(0).unwrap();
    let mut out = Vec::new();
    while let Some(slice) = slices.next() {
        let Ok(slice) = slice else {
            assert!(slices.next().is_none(), "after an error it ends");
            return (out, false);
        };
        out.push(slice);
    }
    (out, true)
}

fn check_slice(slice: &Slice, packs: usize) {
    assert!(!slice.is_empty());
    let Slice::Frame(FrameSlice {
        frame,
        skip,
        take,
        len,
    }) = slice
    else {
        return;
    };
    assert!((frame.pack as usize) < packs);
    assert!((1..=limits::FRAME_CHUNKS_MAX).contains(&frame.chunks) && *take > 0);
    assert!(
        u32::from(*skip) + u32::from(*take) <= u32::from(frame.chunks),
        "chunks of the frame"
    );
    assert!(
        frame.stored_len as usize >= FRAME_HEADER_LEN
            && frame.stored_len <= limits::FRAME_STORED_MAX
    );
    assert!(
        u64::from(frame.offset) + u64::from(frame.stored_len) <= limits::PACK_MAX,
        "a frame within its pack"
    );
    assert!(frame.first_chunk < limits::PACK_CHUNKS_MAX);
    assert!(*len <= u64::from(limits::FRAME_PLAIN_MAX));
}

fn write(page_size: u32, slices: &[Slice]) -> Recipe {
    let mut writer = RecipeWriter::new(page_size);
    slices.iter().for_each(|slice| writer.push(*slice));
    writer.finish()
}

fn manifest(packs: u8, page_size: u32, recipe: Recipe) -> Manifest {
    let stream = Stream {
        name: Vec::new(),
        role: Role::Layout,
        len: 0,
        page_size,
        phase: 0,
        digest: Digest::default(),
        body: Body::Recipe(recipe),
    };
    Manifest {
        packs: (0..packs).map(|n| PackId::from_bytes([n; 16])).collect(),
        streams: vec![stream],
        layout: Layout {
            pieces: vec![Piece {
                literal: 0,
                stream: None,
            }],
            len: 0,
            digest: None,
        },
        maps: Vec::new(),
        tables: Vec::new(),
        deltas: cryostore_format::delta::Deltas::default(),
    }
}

/// Slices that are all in order are written and read back; their sum stays.
fn written(packs: u8, page_size: u32, slices_in: &[Slice]) {
    let sum = |slices: &[Slice]| {
        slices
            .iter()
            .map(|slice| u128::from(slice.len()))
            .sum::<u128>()
    };
    // No writer has a stream of more than 2^64 bytes.
    if sum(slices_in) > u128::from(u64::MAX) {
        return;
    }
    let recipe = write(page_size, slices_in);
    let manifest = manifest(packs, page_size, recipe.clone());
    let again = Manifest::decode(&manifest.encode()).unwrap();
    assert_eq!(again, manifest);
    let (read, complete) = slices(&again);
    assert!(complete, "what a writer made is read");
    assert_eq!(read.len() as u64, recipe.slice_count());
    assert_eq!(sum(&read), sum(slices_in));
    // There is one recipe for one sequence of chunks: neighbours were merged as far as they can be.
    assert_eq!(write(page_size, &read), recipe);
}

/// The bytes as a recipe's.
fn read(data: &[u8]) {
    let Some((setup, recipe)) = data.split_first() else {
        return;
    };
    let packs = setup & (MOST_PACKS - 1);
    let page_size = PAGE_SIZES[usize::from(setup >> 3 & 3)];
    let Ok(manifest) = Manifest::decode_plain(&content(packs, page_size, recipe)) else {
        return;
    };
    let Body::Recipe(found) = &manifest.streams[0].body else {
        unreachable!()
    };
    assert!(found.encoded_len() <= recipe.len() && found.slice_count() <= recipe.len() as u64);
    assert_eq!(
        Manifest::decode(&manifest.encode()).as_ref(),
        Ok(&manifest),
        "a recipe reads back, even a bad one"
    );
    let (read, complete) = slices(&manifest);
    assert_eq!(complete && read.len() as u64 != found.slice_count(), false);
    read.iter()
        .for_each(|slice| check_slice(slice, packs.into()));
    let (_, cut) = slices(&manifest.clone());
    assert_eq!(cut, complete);
    written(packs, page_size, &read);
}

/// The bytes as what a writer is asked for.
fn wanted(data: &[u8]) {
    let mut dice = Dice::new(data);
    let page_size = PAGE_SIZES[usize::from(dice.byte() & 1)];
    let mut slices = Vec::new();
    while !dice.is_empty() {
        let what = dice.byte();
        if what & 3 == 0 {
            slices.push(Slice::Zero {
                len: u64::from(dice.short()) * 4096 + 1,
            });
            continue;
        }
        let number = u32::from(dice.byte());
        let chunks = u16::from(what >> 5) + 1;
        let frame = FrameRef {
            pack: u32::from(what >> 2 & 7),
            offset: 32 + number * 1000,
            stored_len: 1000,
            first_chunk: number * 8,
            chunks,
        };
        let skip = u16::from(dice.byte()) % chunks;
        let take = u16::from(dice.byte()) % (chunks - skip) + 1;
        let len = if page_size != 0 && what & 3 != 3 {
            u64::from(page_size) * u64::from(take)
        } else {
            u64::from(dice.byte()) + 1
        };
        slices.push(Slice::Frame(FrameSlice {
            frame,
            skip,
            take,
            len,
        }));
    }
    written(MOST_PACKS, page_size, &slices);
}

fuzz_target!(|data: &[u8]| {
    read(data);
    wanted(&data[..data.len().min(512)]);
});
