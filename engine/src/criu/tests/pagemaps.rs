//! Pagemaps of all ages, and what is odd about them.

use super::encode::{Message, entry, pagemap};
use crate::criu::{CriuError, IrregularityKind as Kind, Located, PageFlags, PageRun, Pagemap};

const PARENT: u64 = 1;
const LAZY: u64 = 2;
const PRESENT: u64 = 4;

fn parse(entries: &[Message]) -> Pagemap {
    Pagemap::parse(&pagemap(7, entries)).expect("a valid pagemap")
}

#[test]
fn a_4_2_pagemap_counts_by_its_64_bit_field() {
    let map = parse(&[
        entry(0x1000, 2, PRESENT),
        entry(0x8000, 1 << 33, PARENT),
        entry(1 << 46, 1, LAZY),
        entry(1 << 47, 3, PRESENT | LAZY),
    ]);
    assert_eq!(map.pages_id, 7);
    assert_eq!(map.present_pages(), Ok(5));
    assert_eq!(map.parent_pages(), Ok(1 << 33));
    assert_eq!(map.present_bytes(4096), Ok(5 * 4096));
    assert!(map.is_plain());
}

#[test]
fn a_4_1_pagemap_counts_by_its_32_bit_field() {
    let old = |vaddr, n| Message::new().varint(1, vaddr).varint(2, n);
    let map = parse(&[
        old(0x1000, 3).varint(4, PRESENT),
        old(0x9000, 2).varint(4, PARENT),
        old(0xc000, 1),
    ]);
    assert_eq!(map.present_pages(), Ok(4));
    assert_eq!(map.parent_pages(), Ok(2));
    assert_eq!(map.entries[2].flags, PageFlags::PRESENT);
}

#[test]
fn in_parent_without_flags_means_the_parent_and_nothing_else() {
    let old = Message::new().varint(1, 0x1000).varint(2, 3);
    let map = parse(&[old.clone().varint(3, 1), old.varint(3, 0)]);
    assert_eq!(map.entries[0].flags, PageFlags::PARENT);
    assert_eq!(map.entries[1].flags, PageFlags::PRESENT);
    assert_eq!(map.present_pages(), Ok(3));
    assert_eq!(map.parent_pages(), Ok(3));
}

#[test]
fn fields_of_the_page_compression_mark_an_entry_as_compressed() {
    for message in [
        entry(0x1000, 1, PRESENT).bytes(6, &[1, 2]),
        entry(0x1000, 1, PRESENT).varint(7, 99),
        entry(0x1000, 1, PRESENT).varint(8, 16),
    ] {
        let map = parse(&[message]);
        assert!(map.entries[0].compressed);
        assert!(!map.is_plain());
    }
    assert!(!parse(&[entry(0x1000, 1, PRESENT | 8)]).is_plain());
    let later = parse(&[entry(0x1000, 1, PRESENT).varint(99, 1).bytes(100, b"new")]);
    assert!(later.is_plain());
}

#[test]
fn runs_are_the_present_entries_end_to_end() {
    let map = parse(&[
        entry(0x1000, 2, PRESENT),
        entry(0x3000, 9, PARENT),
        entry(0x10000, 5, PRESENT | LAZY),
    ]);
    let run = |first_page_in_file, vaddr, pages| PageRun {
        first_page_in_file,
        vaddr,
        pages,
    };
    let runs: Vec<_> = map.runs().expect("no overflow").collect();
    assert_eq!(runs, [run(0, 0x1000, 2), run(2, 0x10000, 5)]);
}

#[test]
fn counts_that_overflow_are_an_error_not_a_small_sum() {
    let map = parse(&[
        entry(0x1000, u64::MAX, PRESENT),
        entry(0x2000, 1, PRESENT | PARENT),
        entry(0x3000, u64::MAX, PARENT),
    ]);
    let overflow = |what, entry, needed, got| CriuError::Overflow {
        what,
        entry,
        needed,
        got,
    };
    let present = overflow("present pages", 1, 1, u64::MAX);
    assert_eq!(map.present_pages(), Err(present.clone()));
    assert_eq!(map.runs().err(), Some(present));
    assert_eq!(
        map.parent_pages(),
        Err(overflow("parent pages", 2, u64::MAX, 1))
    );
    let huge = parse(&[entry(0, 1 << 60, PRESENT)]);
    assert_eq!(huge.present_pages(), Ok(1 << 60));
    assert!(huge.present_bytes(4096).is_err());
}

#[test]
fn a_page_is_located_in_the_file_in_the_parent_or_nowhere() {
    let map = parse(&[
        entry(0x1000, 2, PRESENT),
        entry(0x4000, 1, PARENT),
        entry(0x6000, 1, LAZY),
        entry(0x8000, 4, PRESENT),
        entry(0x20000, 1, 0),
        entry(0x30000, 1, PRESENT | PARENT),
    ]);
    let at = |vaddr| map.locate(vaddr, 4096);
    let in_file = |page_index| Some(Located::InFile { page_index });
    assert_eq!(at(0xfff), None);
    assert_eq!(at(0x1000), in_file(0));
    assert_eq!(at(0x2fff), in_file(1));
    assert_eq!(at(0x3000), None);
    assert_eq!(at(0x4000), Some(Located::InParent));
    assert_eq!(at(0x6000), Some(Located::Lazy));
    assert_eq!(at(0xb123), in_file(5));
    assert_eq!(at(0x20000), None);
    assert_eq!(at(0x30000), Some(Located::InParent));
    assert_eq!(map.locate(0x1000, 0), None);
    assert_eq!(
        parse(&[entry(0, u64::MAX, PRESENT)]).locate(u64::MAX, 1),
        None
    );
}

#[test]
fn each_oddity_is_found_and_names_its_entry() {
    let map = parse(&[
        entry(0x1000, 4, PRESENT),
        entry(0x3000, 1, PRESENT),
        entry(0x2000, 1, PRESENT),
        entry(0x5001, 1, PRESENT),
        entry(0x7000, 0, PRESENT),
        entry(0x8000, 1, PRESENT | 0x30),
        entry(0x9000, 1, PRESENT | PARENT),
        entry(0xffff_ffff_ffff_f000, 2, PRESENT),
    ]);
    let found: Vec<_> = (map.irregularities(4096).iter())
        .map(|odd| (odd.entry, odd.kind))
        .collect();
    let expected = [
        (1, Kind::Overlapping),
        (2, Kind::OutOfOrder),
        (3, Kind::Misaligned),
        (5, Kind::UnknownFlags(0x30)),
        (6, Kind::ParentAndPresent),
        (7, Kind::AddressOverflow),
    ];
    let zero = (4, Kind::ZeroCount);
    assert!(found.contains(&zero));
    let rest: Vec<_> = found.into_iter().filter(|odd| *odd != zero).collect();
    assert_eq!(rest, expected);
    let text = map.irregularities(4096)[0].to_string();
    assert_eq!(
        text,
        "entry 1 (1 pages at 0x3000) overlaps an entry before it"
    );
}

#[test]
fn a_regular_pagemap_has_no_findings_and_a_bad_one_a_bounded_number() {
    let adjacent = [entry(0x1000, 1, PRESENT), entry(0x2000, 1, PRESENT)];
    assert_eq!(parse(&adjacent).irregularities(4096), []);
    let bad = vec![entry(1, 0, 0xf8); 1000];
    assert_eq!(parse(&bad).irregularities(4096).len(), 64);
    assert_eq!(parse(&bad).irregularities(0).len(), 64);
}

#[test]
fn an_entry_without_an_address_or_a_count_is_an_error() {
    for (message, number, name) in [
        (Message::new().varint(2, 1), 1, "vaddr"),
        (Message::new().varint(1, 0x1000), 5, "nr_pages"),
    ] {
        let bytes = pagemap(1, &[message]);
        let error = CriuError::Missing {
            what: "pagemap entry",
            offset: 18,
            number,
            name,
        };
        assert_eq!(Pagemap::parse(&bytes), Err(error));
    }
}
