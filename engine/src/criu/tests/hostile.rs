//! Bytes that nobody should have written.

use proptest::prelude::*;

use super::encode::{Message, entry, image, pagemap};
use crate::criu::wire::{Field, Fields, Value};
use crate::criu::{
    Core, CriuError, DumpStats, Inventory, MmImage, Pagemap, image_name, magic, parse_pstree,
    records,
};

/// Every parser, on the same bytes; the point is that it comes back.
fn parse_all(bytes: &[u8]) {
    let _ = Inventory::parse(bytes);
    if let Ok(mm) = MmImage::parse(bytes) {
        mm.vmas
            .iter()
            .for_each(|vma| drop(format!("{:?}", vma.kind())));
        let _ = mm.vma_at(u64::MAX);
    }
    let _ = Core::parse(bytes);
    let _ = DumpStats::parse(bytes);
    let _ = parse_pstree(bytes);
    let _ = image_name(bytes);
    if let Ok(map) = Pagemap::parse(bytes) {
        let _ = (
            map.present_pages(),
            map.parent_pages(),
            map.present_bytes(4096),
        );
        let _ = map.runs().map(Iterator::count);
        for page_size in [0, 1, 4096, u64::MAX] {
            let _ = map.irregularities(page_size);
            let _ = map.locate(u64::MAX, page_size);
        }
    }
}

#[test]
fn a_size_beyond_the_file_names_offset_size_and_what_is_left() {
    let mut bytes = pagemap(1, &[entry(0x1000, 1, 4)]);
    let entry_size_at = 8 + 4 + 2;
    bytes[entry_size_at..entry_size_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let got = (bytes.len() - entry_size_at - 4) as u64;
    let error = CriuError::Truncated {
        what: "image message",
        offset: 18,
        needed: u64::from(u32::MAX),
        got,
    };
    assert_eq!(Pagemap::parse(&bytes), Err(error.clone()));
    let text = format!("image message at byte 18: 4294967295 bytes needed, {got} left");
    assert_eq!(error.to_string(), text);
    let all: Vec<_> = records(&bytes, magic::PAGEMAP)
        .expect("good magic")
        .collect();
    assert_eq!(all.len(), 2);
    assert!(all[1].is_err());
}

#[test]
fn an_image_cut_at_any_byte_is_an_error_or_has_fewer_records() {
    let entries = [entry(0x1000, 3, 4), entry(0x9000, 1 << 40, 1)];
    let bytes = pagemap(3, &entries);
    for len in 0..bytes.len() {
        if let Ok(map) = Pagemap::parse(&bytes[..len]) {
            assert!(map.entries.len() < entries.len(), "cut at {len}");
        }
        parse_all(&bytes[..len]);
    }
    let vma = Message::new()
        .varint(1, 1)
        .varint(2, 2)
        .varint(6, 2)
        .varint(7, 1);
    let message = Message::new()
        .varint(13, 6)
        .varint(13, 4096)
        .bytes(14, &vma.0);
    let bytes = image(magic::MM, &[message]);
    assert!(MmImage::parse(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(MmImage::parse(&bytes[..len]).is_err(), "cut at {len}");
    }
}

#[test]
fn another_type_or_byte_order_is_told_apart() {
    let map = pagemap(1, &[]);
    let error = CriuError::Magic {
        what: "image type magic",
        offset: 4,
        needed: magic::MM,
        got: magic::PAGEMAP,
    };
    assert_eq!(MmImage::parse(&map).err(), Some(error));
    let swapped: Vec<u8> = magic::IMG_COMMON.swap_bytes().to_le_bytes().into();
    let found = records(&swapped, magic::PAGEMAP).err();
    assert!(matches!(
        found,
        Some(CriuError::ByteOrder { offset: 0, .. })
    ));
    // Version 1 had no common magic in front.
    let old = records(&map[4..], magic::PAGEMAP).expect("a version 1 image");
    assert_eq!(old.count(), 1);
    assert!(Inventory::parse(&map).is_err());
    assert!(records(&[], magic::PAGEMAP).is_err());
}

fn only(bytes: &[u8]) -> Vec<Result<Field<'_>, CriuError>> {
    Fields::new("test", bytes, 100).collect()
}

#[test]
fn varints_groups_and_field_numbers_out_of_protobuf_are_errors() {
    let max = [&[0x08][..], &[0xff; 9], &[0x01]].concat();
    let first = only(&max)[0].clone().expect("64 bits fit");
    assert_eq!(first.value, Value::Varint(u64::MAX));
    assert_eq!(first.offset, 101);
    assert!(first.u32().is_err());
    let too_big = [&[0x08][..], &[0xff; 9], &[0x02]].concat();
    let too_long = [&[0x08][..], &[0x80; 11], &[0x00]].concat();
    for bytes in [too_big, too_long] {
        let error = CriuError::Varint {
            what: "test",
            offset: 101,
        };
        assert_eq!(only(&bytes), [Err(error)]);
    }
    // Groups, wire types 6 and 7, field number 0, field number 2^29.
    for tag in [0x0b, 0x0c, 0x0e, 0x0f, 0x00, 1u64 << 32] {
        let mut bytes = Vec::new();
        super::encode::push_varint(&mut bytes, tag);
        let found = only(&bytes);
        assert_eq!(found.len(), 1);
        assert!(matches!(found[0], Err(CriuError::Tag { offset: 100, .. })));
    }
}

#[test]
fn a_known_field_of_another_wire_type_is_an_error_and_an_unknown_one_skipped() {
    let fixed = Message::new().raw(&[0x0d, 1, 2, 3, 4]);
    let bytes = pagemap(1, &[fixed]);
    let found = Pagemap::parse(&bytes);
    assert!(matches!(
        found,
        Err(CriuError::WireType {
            number: 1,
            got: 5,
            ..
        })
    ));
    let extended = entry(0x1000, 1, 4)
        .raw(&[0x7d, 1, 2, 3, 4])
        .raw(&[0x79, 0, 0, 0, 0, 0, 0, 0, 0]);
    let map = Pagemap::parse(&pagemap(1, &[extended])).expect("unknown fields are skipped");
    assert_eq!(map.present_pages(), Ok(1));
}

#[test]
fn a_wide_page_count_does_not_fit_the_old_field() {
    let wide = Message::new().varint(1, 0).varint(2, 1 << 32);
    let found = Pagemap::parse(&pagemap(1, &[wide]));
    assert!(matches!(found, Err(CriuError::TooLarge { number: 2, .. })));
}

#[test]
fn empty_ranges_cannot_fill_a_memory_image() {
    let message = (0..100).fold(Message::new(), |message, _| message.bytes(14, b""));
    let found = MmImage::parse(&image(magic::MM, &[message]));
    assert!(matches!(found, Err(CriuError::Missing { number: 1, .. })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        parse_all(&bytes);
    }

    #[test]
    fn arbitrary_messages_behind_a_good_magic_never_panic(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..4),
        tail in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let messages: Vec<_> = messages.into_iter().map(Message).collect();
        for magic in [
            magic::INVENTORY, magic::PAGEMAP, magic::MM, magic::CORE, magic::PSTREE, magic::STATS,
        ] {
            let mut bytes = image(magic, &messages);
            bytes.extend(&tail);
            parse_all(&bytes);
        }
    }

    #[test]
    fn arbitrary_entries_never_panic(
        entries in prop::collection::vec((any::<u64>(), any::<u64>(), 0u64..16), 0..8),
        vaddr: u64,
    ) {
        let messages: Vec<_> = entries.iter().map(|e| entry(e.0, e.1, e.2)).collect();
        let bytes = pagemap(1, &messages);
        parse_all(&bytes);
        let map = Pagemap::parse(&bytes).expect("well formed");
        prop_assert_eq!(map.entries.len(), entries.len());
        let _ = map.locate(vaddr, 4096);
    }
}
