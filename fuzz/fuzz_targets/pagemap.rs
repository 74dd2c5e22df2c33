//! `pagemap-*.img`: sums, runs and places of pages agree with each other, whatever the entries claim.

#![no_main]

use cryostore_engine::criu::{
    Located, PageRun, Pagemap, PagemapEntry, PagesFile, magic, page_size_of, records,
};
use libfuzzer_sys::fuzz_target;

/// Where a page is, by arithmetic that cannot overflow.
fn located(entries: &[PagemapEntry], vaddr: u64, page_size: u64) -> Option<Located> {
    let mut before = 0_u128;
    for entry in entries {
        let len = u128::from(entry.nr_pages) * u128::from(page_size);
        let start = u128::from(entry.vaddr);
        if (start..start + len).contains(&u128::from(vaddr)) {
            let page = before + (u128::from(vaddr) - start) / u128::from(page_size);
            return match (
                entry.flags.in_parent(),
                entry.flags.has_bytes(),
                entry.flags.is_lazy(),
            ) {
                (true, ..) => Some(Located::InParent),
                (_, true, _) => u64::try_from(page)
                    .ok()
                    .map(|page_index| Located::InFile { page_index }),
                (.., lazy) => lazy.then_some(Located::Lazy),
            };
        }
        if entry.flags.has_bytes() {
            before += u128::from(entry.nr_pages);
        }
        // CRIU's own counters have 64 bits: behind that many pages nothing is found.
        if before > u128::from(u64::MAX) {
            return None;
        }
    }
    None
}

fn check(data: &[u8]) {
    let Ok(map) = Pagemap::parse(data) else {
        return;
    };
    assert!(map.entries.len() < data.len(), "an entry takes bytes");
    let present = |entry: &&PagemapEntry| entry.flags.has_bytes();
    let sum: u128 = map
        .entries
        .iter()
        .filter(present)
        .map(|entry| u128::from(entry.nr_pages))
        .sum();
    assert_eq!(map.present_pages().ok(), u64::try_from(sum).ok());
    let _ = map.parent_pages();
    match map.runs() {
        Err(_) => assert!(sum > u128::from(u64::MAX)),
        Ok(runs) => {
            let mut next = 0;
            for (
                PageRun {
                    first_page_in_file,
                    vaddr,
                    pages,
                },
                entry,
            ) in runs.zip(map.entries.iter().filter(present))
            {
                assert_eq!(
                    (first_page_in_file, vaddr, pages),
                    (next, entry.vaddr, entry.nr_pages)
                );
                next += pages;
            }
            assert_eq!(u128::from(next), sum, "the runs cover the page image");
        }
    }
    for page_size in [0, 1, 4096, 65_536, u64::MAX] {
        let bytes = map.present_bytes(page_size).ok();
        assert_eq!(
            bytes,
            u64::try_from(sum)
                .ok()
                .and_then(|pages| pages.checked_mul(page_size))
        );
        let odd = map.irregularities(page_size);
        assert!(
            odd.len() <= 64
                && odd
                    .iter()
                    .all(|found| map.entries[found.entry].vaddr == found.vaddr)
        );
        odd.iter()
            .for_each(|found| assert!(!found.to_string().is_empty()));
        for entry in map.entries.iter().take(32) {
            let last = entry.nr_pages.wrapping_mul(page_size).wrapping_sub(1);
            for vaddr in [
                entry.vaddr,
                entry.vaddr.wrapping_add(last),
                entry.vaddr.wrapping_sub(1),
            ] {
                let place = map.locate(vaddr, page_size);
                if page_size == 0 {
                    assert_eq!(place, None);
                } else {
                    assert_eq!(
                        place,
                        located(&map.entries, vaddr, page_size),
                        "{vaddr:#x} with pages of {page_size}"
                    );
                }
            }
        }
    }
    let file = PagesFile {
        len: data.len() as u64 * 4096,
        present_pages: map.present_pages().unwrap_or(0),
    };
    let size = page_size_of(std::iter::empty(), Some(file)).bytes;
    assert!(size.is_power_of_two() && (4096..=65_536).contains(&size));
}

fuzz_target!(|data: &[u8]| {
    check(data);
    // Every message gets the length that it has, so that the fuzzer reaches the fields: a byte says how long each is.
    let mut framed = magic::PAGEMAP.to_le_bytes().to_vec();
    let mut rest = data;
    while let Some((len, behind)) = rest.split_first() {
        let (message, behind) = behind.split_at(behind.len().min(usize::from(*len)));
        framed.extend_from_slice(&(message.len() as u32).to_le_bytes());
        framed.extend_from_slice(message);
        rest = behind;
    }
    check(&framed);
    if let Ok(records) = records(data, magic::PAGEMAP) {
        let mut at = 0;
        for record in records.map_while(Result::ok) {
            assert!(record.offset >= at + 4 && data[record.offset..].starts_with(record.bytes));
            at = record.offset + record.bytes.len();
        }
    }
});
