//! The other images, names, and the page size.

use super::encode::{Message, image, packed};
use crate::criu::{
    Arch, Core, DumpStats, ImageName, Inventory, MmImage, PageSize, PageSizeSource, PagesFile,
    PstreeEntry, VmaKind, image_name, magic, page_size_of, parse_pstree,
};

fn vma(status: u64, flags: u64) -> Message {
    let message = Message::new().varint(1, 0x1000).varint(2, 0x3000);
    let message = message.varint(3, 0).varint(4, 5).varint(5, 3);
    // -1 as sint64 is 1 on the wire.
    message.varint(6, flags).varint(7, status).varint(8, 1)
}

fn mm(auxv: &[u64]) -> Message {
    let start = Message::new()
        .varint(5, 0x7ff0)
        .varint(6, 0x10)
        .varint(7, 0x20);
    (auxv.iter()).fold(start, |message, word| message.varint(13, *word))
}

fn parse_mm(message: Message) -> MmImage {
    MmImage::parse(&image(magic::MM, &[message])).expect("a valid memory image")
}

#[test]
fn an_inventory_of_4_2_is_read_with_its_plugins() {
    let plugins = Message::new().bytes(12, b"cuda_plugin").bytes(12, b"x");
    let message = Message::new()
        .varint(1, 2)
        .varint(2, 1)
        .bytes(3, b"\x08\x01");
    let message = message.varint(6, 2).varint(8, 77).varint(10, 1);
    let message = message
        .varint(11, 1)
        .bytes(12, &plugins.0)
        .bytes(13, b"run");
    let bytes = image(magic::INVENTORY, &[message]);
    let inventory = Inventory::parse(&bytes).expect("a valid inventory");
    let expected = Inventory {
        img_version: 2,
        fdinfo_per_id: Some(true),
        lsmtype: Some(2),
        dump_uptime: Some(77),
        tcp_close: Some(true),
        network_lock_method: Some(1),
        plugins: vec!["cuda_plugin".into(), "x".into()],
        dump_criu_run_id: Some("run".into()),
        ..Inventory::default()
    };
    assert_eq!(inventory, expected);
    assert!(inventory.pages_are_raw());
    assert!(!inventory.is_pre_dump());
}

#[test]
fn pages_are_raw_only_for_known_versions_without_compression() {
    for (version, compress, raw) in [
        (1, None, true),
        (2, None, true),
        (2, Some(0), true),
        (2, Some(1), false),
        (3, None, false),
        (3, Some(2), false),
        (0, None, false),
    ] {
        let mut message = Message::new().varint(1, version);
        if let Some(mode) = compress {
            message = message.varint(15, mode);
        }
        let bytes = image(magic::INVENTORY, &[message]);
        let inventory = Inventory::parse(&bytes).expect("a valid inventory");
        assert_eq!(inventory.pages_are_raw(), raw, "{version} {compress:?}");
    }
}

#[test]
fn the_page_size_is_taken_from_the_auxiliary_vector_packed_or_not() {
    let words = [33, 0x7fff, 16, 6, 6, 65536, 17, 100, 0, 0];
    assert_eq!(parse_mm(mm(&words)).page_size, Some(65536));
    let as_packed = mm(&[]).bytes(13, &packed(&words));
    assert_eq!(parse_mm(as_packed).page_size, Some(65536));
    let split = mm(&[33, 0x7fff, 6]).bytes(13, &packed(&[16384]));
    assert_eq!(parse_mm(split).page_size, Some(16384));
}

#[test]
fn a_page_size_that_linux_does_not_have_is_none() {
    for size in [0, 1, 2048, 4095, 5000, 12288, 131_072, u64::MAX] {
        assert_eq!(parse_mm(mm(&[6, size])).page_size, None, "{size}");
    }
    assert_eq!(parse_mm(mm(&[0, 0, 6, 4096])).page_size, None);
    assert_eq!(parse_mm(mm(&[6])).page_size, None);
    assert_eq!(parse_mm(mm(&[])).page_size, None);
}

#[test]
fn the_kind_of_a_range_follows_its_status() {
    for (status, flags, kind) in [
        (0x221, 0x22, VmaKind::Heap),
        (0x201, 0x122, VmaKind::Stack),
        (0x203, 0x22, VmaKind::Stack),
        (0x209, 0x22, VmaKind::Vdso),
        (0x1201, 0x22, VmaKind::Vdso),
        (0x204, 0x22, VmaKind::Vdso),
        (0x201, 0x22, VmaKind::AnonymousPrivate),
        (0x101, 0x21, VmaKind::AnonymousShared),
        (0x41, 0x02, VmaKind::FilePrivate),
        (0x81, 0x01, VmaKind::FileShared),
        (0x501, 0x01, VmaKind::SysvShm),
        (0x4101, 0x01, VmaKind::Memfd),
        (0x10000, 0x22, VmaKind::Guard),
        (0x801, 0x01, VmaKind::Other),
        (0, 0, VmaKind::Other),
    ] {
        let mm = parse_mm(mm(&[]).bytes(14, &vma(status, flags).0));
        assert_eq!(mm.vmas[0].kind(), kind, "{status:#x}");
        assert_eq!((mm.vmas[0].fd, mm.vmas[0].shmid), (-1, 5));
    }
}

#[test]
fn an_address_is_found_in_its_range() {
    let mm = parse_mm(mm(&[]).bytes(14, &vma(0x201, 0x22).0));
    assert_eq!((mm.start_brk, mm.brk), (Some(0x10), Some(0x20)));
    assert_eq!(mm.start_stack, Some(0x7ff0));
    assert!(mm.vma_at(0x1000).is_some());
    assert!(mm.vma_at(0x2fff).is_some());
    assert!(mm.vma_at(0x3000).is_none());
}

#[test]
fn a_process_tree_is_read_in_order_with_threads_packed_or_not() {
    let process = |pid, ppid| Message::new().varint(1, pid).varint(2, ppid).varint(3, 1);
    let first = process(1, 0).varint(4, 1).varint(5, 1).varint(5, 9);
    let second = process(300, 1).varint(4, 1).bytes(5, &packed(&[300, 301]));
    let bytes = image(magic::PSTREE, &[first, second]);
    let entry = |pid, ppid, threads| PstreeEntry {
        pid,
        ppid,
        pgid: 1,
        sid: 1,
        threads,
    };
    let expected = vec![entry(1, 0, vec![1, 9]), entry(300, 1, vec![300, 301])];
    assert_eq!(parse_pstree(&bytes), Ok(expected));
}

#[test]
fn a_core_tells_architecture_and_name() {
    let task = Message::new().varint(1, 1).varint(2, 7).bytes(6, b"b\xffd");
    let leader = Message::new().varint(1, 3).bytes(2, b"").bytes(3, &task.0);
    let core = Core::parse(&image(magic::CORE, &[leader])).expect("a valid core");
    assert_eq!(core.arch, Some(Arch::Aarch64));
    assert_eq!(core.comm.as_deref(), Some("b\u{fffd}d"));
    assert_eq!((core.task_state, core.exit_code), (Some(1), Some(7)));

    let thread = Message::new().varint(1, 2).bytes(13, b"worker");
    let message = Message::new().varint(1, 77).bytes(5, &thread.0);
    let core = Core::parse(&image(magic::CORE, &[message])).expect("a valid core");
    assert_eq!(core.arch, Some(Arch::Unknown(77)));
    assert_eq!(core.comm.as_deref(), Some("worker"));
}

#[test]
fn dump_statistics_are_read_and_those_of_a_restore_refused() {
    let dump = (1..=14).fold(Message::new(), |message, n| message.varint(n, n.into()));
    let bytes = image(magic::STATS, &[Message::new().bytes(1, &dump.0)]);
    let stats = DumpStats::parse(&bytes).expect("valid statistics");
    assert_eq!(stats.memwrite_time_us, Some(4));
    assert_eq!(stats.pages_written, Some(7));
    assert_eq!(stats.pages_lazy, Some(9));
    assert_eq!(stats.shpages_written, Some(14));
    let restore = image(magic::STATS, &[Message::new().bytes(2, b"")]);
    assert!(DumpStats::parse(&restore).is_err());
}

#[test]
fn names_mean_what_criu_writes_and_nothing_else() {
    for (name, image) in [
        ("inventory.img", ImageName::Inventory),
        ("pstree.img", ImageName::Pstree),
        ("pagemap-12.img", ImageName::Pagemap(12)),
        ("pagemap-4294967295.img", ImageName::Pagemap(u32::MAX)),
        ("pagemap-shmem-0.img", ImageName::PagemapShmem(0)),
        (
            "pagemap-shmem-18446744073709551615.img",
            ImageName::PagemapShmem(u64::MAX),
        ),
        ("pages-1.img", ImageName::Pages(1)),
        ("mm-5000.img", ImageName::Mm(5000)),
        ("core-7.img", ImageName::Core(7)),
        ("ids-7.img", ImageName::Ids(7)),
        ("stats-dump", ImageName::Stats),
        ("amdgpu-pages-7-00ff.img", ImageName::AmdgpuPages),
        ("amdgpu-drm-pages-7-00ff.img", ImageName::AmdgpuPages),
        ("tmpfs-dev-54.tar.gz.img", ImageName::TmpfsTarGz),
        ("tmpfs-54.tar.gz.img", ImageName::TmpfsTarGz),
    ] {
        assert_eq!(image_name(name.as_bytes()), image, "{name}");
    }
    let others = "pagemap-4294967296.img pagemap-012.img pagemap-+1.img pagemap--1.img pagemap-.img \
        pagemap-1.img.bak pagemap-1 pages-1x.img pagemap-shmem-18446744073709551616.img pages-01.img \
        pagemap-shmem-.img pagemap-secretmem-1.img stats-restore stats-dump.img amdgpu-kfd-1.img .img \
        checkpoint/pages-1.img tmpfs-a/b.tar.gz.img inventory.img/ dump.log";
    for name in others.split_whitespace().chain(["", "pages-1 .img"]) {
        assert_eq!(image_name(name.as_bytes()), ImageName::Other, "{name}");
    }
    assert_eq!(image_name(b"pages-\xd9\xa1.img"), ImageName::Other);
}

#[test]
fn the_page_size_comes_from_the_best_source_there_is() {
    let with = |page_size| MmImage {
        page_size,
        ..MmImage::default()
    };
    let file = |len, present_pages| Some(PagesFile { len, present_pages });
    let sixteen = file(3 * 16384, 3);
    let (told, none) = (with(Some(65536)), with(None));
    for (mms, fallback, bytes, source) in [
        (
            vec![&none, &told, &told],
            sixteen,
            65536,
            PageSizeSource::Auxv,
        ),
        (vec![&none], sixteen, 16384, PageSizeSource::FileLength),
        (
            vec![&told, &with(Some(4096))],
            sixteen,
            16384,
            PageSizeSource::FileLength,
        ),
        (vec![], file(3 * 4096 + 1, 3), 4096, PageSizeSource::Default),
        (vec![], file(0, 0), 4096, PageSizeSource::Default),
        (vec![], file(4096, 0), 4096, PageSizeSource::Default),
        (vec![], file(4096, 4), 4096, PageSizeSource::Default),
        (vec![], None, 4096, PageSizeSource::Default),
    ] {
        let found = page_size_of(mms.into_iter(), fallback);
        assert_eq!(found, PageSize { bytes, source });
    }
}
