//! The other images: inventory, pstree, core, stats-dump, files, fdinfo, fs, ids, mountpoints, utsns, and which name means which image.

#![no_main]

use cryostore_engine::criu::{
    Core, DumpStats, Folders, ImageName, Inventory, TaskIds, Uts, image_name, magic,
    parse_descriptors, parse_files, parse_mounts, parse_pstree,
};
use libfuzzer_sys::fuzz_target;

/// The magic numbers and the bytes as the one message behind them.
fn image(magics: &[u32], message: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = magics
        .iter()
        .flat_map(|magic| magic.to_le_bytes())
        .collect();
    out.extend_from_slice(&(message.len() as u32).to_le_bytes());
    out.extend_from_slice(message);
    out
}

fn inventory(bytes: &[u8]) {
    let Ok(inventory) = Inventory::parse(bytes) else {
        return;
    };
    assert!(
        !inventory.pages_are_raw() || inventory.img_version <= 2,
        "pages of an unknown version are not raw"
    );
    assert_eq!(inventory.is_pre_dump(), inventory.pre_dump_mode.is_some());
    let text: usize = inventory.plugins.iter().map(String::len).sum();
    // A byte that is no UTF-8 becomes three.
    assert!(text <= bytes.len() * 3);
}

fn pstree(bytes: &[u8]) {
    let Ok(entries) = parse_pstree(bytes) else {
        return;
    };
    let threads: usize = entries.iter().map(|entry| entry.threads.len()).sum();
    assert!(
        entries.len() + threads <= bytes.len(),
        "processes and threads take bytes"
    );
}

fn name(bytes: &[u8]) {
    let written = match image_name(bytes) {
        ImageName::Inventory => "inventory.img".to_owned(),
        ImageName::Pstree => "pstree.img".to_owned(),
        ImageName::Pagemap(n) => format!("pagemap-{n}.img"),
        ImageName::PagemapShmem(n) => format!("pagemap-shmem-{n}.img"),
        ImageName::Pages(n) => format!("pages-{n}.img"),
        ImageName::Mm(n) => format!("mm-{n}.img"),
        ImageName::Core(n) => format!("core-{n}.img"),
        ImageName::Ids(n) => format!("ids-{n}.img"),
        ImageName::Stats => "stats-dump".to_owned(),
        _ => return,
    };
    assert_eq!(written.as_bytes(), bytes, "one name per image");
}

/// What people ask for: lists are never longer than the bytes that they came from.
fn opened(bytes: &[u8]) {
    if let Ok(files) = parse_files(bytes) {
        assert!(files.len() <= bytes.len());
        assert!(files.iter().all(|file| !file.kind.name().is_empty()));
    }
    if let Ok(descriptors) = parse_descriptors(bytes) {
        assert!(descriptors.len() <= bytes.len());
    }
    if let Ok(mounts) = parse_mounts(bytes) {
        assert!(mounts.len() <= bytes.len());
    }
    let _ = (TaskIds::parse(bytes), Folders::parse(bytes), Uts::parse(bytes));
}

fuzz_target!(|data: &[u8]| {
    name(data);
    name(&[data, b".img"].concat());
    for prefix in [
        "pagemap-",
        "pagemap-shmem-",
        "pages-",
        "mm-",
        "core-",
        "ids-",
    ] {
        name(&[prefix.as_bytes(), data, b".img"].concat());
    }
    for bytes in [data, &image(&[magic::INVENTORY], data)] {
        inventory(bytes);
    }
    for bytes in [data, &image(&[magic::IMG_COMMON, magic::PSTREE], data)] {
        pstree(bytes);
    }
    for bytes in [data, &image(&[magic::CORE], data)] {
        let _ = Core::parse(bytes);
    }
    for bytes in [data, &image(&[magic::IMG_SERVICE, magic::STATS], data)] {
        let _ = DumpStats::parse(bytes);
    }
    opened(data);
    for kind in [
        magic::FILES,
        magic::FDINFO,
        magic::MOUNTS,
        magic::IDS,
        magic::FS,
        magic::UTSNS,
    ] {
        opened(&image(&[magic::IMG_COMMON, kind], data));
    }
});
