//! `mm-*.img`: a page size is one that Linux has, a range that is found holds the address.

#![no_main]

use cryostore_engine::criu::{MmImage, PageSizeSource, PagesFile, magic, page_size_of};
use libfuzzer_sys::fuzz_target;

fn check(image: &[u8]) {
    let Ok(mm) = MmImage::parse(image) else {
        return;
    };
    assert!(mm.vmas.len() < image.len(), "a range takes bytes");
    for vma in &mm.vmas {
        let _ = vma.kind();
        for vaddr in [
            vma.start,
            vma.end,
            vma.end.wrapping_sub(1),
            vma.start.wrapping_sub(1),
        ] {
            let first = mm
                .vmas
                .iter()
                .position(|vma| vma.start <= vaddr && vaddr < vma.end);
            assert_eq!(mm.vma_at(vaddr), first.map(|n| &mm.vmas[n]));
        }
    }
    let file = PagesFile {
        len: u64::from(mm.exe_file_id.unwrap_or(0)),
        present_pages: mm.brk.unwrap_or(0),
    };
    let size = page_size_of([&mm, &mm].into_iter(), Some(file));
    assert!(size.bytes.is_power_of_two() && (4096..=65_536).contains(&size.bytes));
    if let Some(told) = mm.page_size {
        assert_eq!((size.bytes, size.source), (told, PageSizeSource::Auxv));
    }
}

fuzz_target!(|data: &[u8]| {
    // More than these and looking each address up in all ranges takes the time.
    if data.len() > 16 << 10 {
        return;
    }
    check(data);
    let mut image = magic::MM.to_le_bytes().to_vec();
    image.extend_from_slice(&(data.len() as u32).to_le_bytes());
    image.extend_from_slice(data);
    check(&image);
});
