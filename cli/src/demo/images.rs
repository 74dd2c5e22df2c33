//! Owns the CRIU images of one process: which messages they hold, with which field numbers, behind which magic.
//!
//! Always: the layout is that of CRIU 4.2, image version 2 (criu/images/*.proto; checked against images of a real
//! containerd and podman), little endian, with the page counts in field 5 of the pagemap.
//! Never: reads a process, writes page images, or pretends to be restorable: registers, signals and open files are left out.

use super::procfs::{Pages, Range, Stat};
use super::proto::Message;

const IMG_COMMON_MAGIC: u32 = 0x5456_4319;
const IMG_SERVICE_MAGIC: u32 = 0x5510_5940;
const INVENTORY_MAGIC: u32 = 0x5831_3116;
const PSTREE_MAGIC: u32 = 0x5027_3030;
const CORE_MAGIC: u32 = 0x5505_3847;
const MM_MAGIC: u32 = 0x5749_2820;
const PAGEMAP_MAGIC: u32 = 0x5608_4025;
const FILES_MAGIC: u32 = 0x5630_3138;
const STATS_MAGIC: u32 = 0x5709_3306;

/// CRTOOLS_IMAGES_V1_1: every CRIU up to 4.2.
const IMG_VERSION: u64 = 2;
/// The number in the name of the only page image.
pub(crate) const PAGES_ID: u64 = 1;

const PE_LAZY: u64 = 1 << 1;
const PE_PRESENT: u64 = 1 << 2;

const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;
const MAP_SHARED: u64 = 0x01;
const MAP_PRIVATE: u64 = 0x02;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_GROWSDOWN: u64 = 0x100;

/// criu/include/image.h
const VMA_REGULAR: u64 = 1 << 0;
const VMA_VSYSCALL: u64 = 1 << 2;
const VMA_VDSO: u64 = 1 << 3;
const VMA_HEAP: u64 = 1 << 5;
const VMA_FILE_PRIVATE: u64 = 1 << 6;
const VMA_FILE_SHARED: u64 = 1 << 7;
const VMA_ANON_SHARED: u64 = 1 << 8;
const VMA_ANON_PRIVATE: u64 = 1 << 9;
const VMA_VVAR: u64 = 1 << 12;

/// File type REG of fdinfo.proto.
const TYPE_REG: u64 = 1;
/// TASK_ALIVE of CRIU's task states.
const TASK_ALIVE: u64 = 1;
/// The architectures of core.proto; 0 is UNKNOWN.
const ARCHITECTURES: [(&str, u64); 5] = [
    ("x86_64", 1),
    ("arm", 2),
    ("aarch64", 3),
    ("powerpc64", 4),
    ("s390x", 5),
];

/// Everything the images say about the stopped process.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) pid: u32,
    pub(crate) stat: Stat,
    pub(crate) ranges: Vec<Range>,
    pub(crate) auxv: Vec<u64>,
    pub(crate) pages: Vec<Pages>,
}

/// The figures of one dump, times in microseconds.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct DumpFigures {
    pub(crate) freezing_us: u64,
    pub(crate) frozen_us: u64,
    pub(crate) memdump_us: u64,
    pub(crate) memwrite_us: u64,
    pub(crate) pages_scanned: u64,
    pub(crate) pages_written: u64,
}

impl Task {
    /// The images beside the page image: (name, content).
    pub(crate) fn images(&self) -> Vec<(String, Vec<u8>)> {
        let pid = self.pid;
        vec![
            (format!("core-{pid}.img"), image(CORE_MAGIC, &[self.core()])),
            ("files.img".to_owned(), image(FILES_MAGIC, &self.files())),
            ("inventory.img".to_owned(), inventory()),
            (format!("mm-{pid}.img"), image(MM_MAGIC, &[self.mm()])),
            (
                format!("pagemap-{pid}.img"),
                image(PAGEMAP_MAGIC, &self.pagemap()),
            ),
            (
                "pstree.img".to_owned(),
                image(PSTREE_MAGIC, &[self.pstree()]),
            ),
        ]
    }

    /// The root of the tree has no parent inside the dump, so its ppid is 0.
    fn pstree(&self) -> Message {
        let pid = u64::from(self.pid);
        let message = Message::new().uint(1, pid).uint(2, 0);
        message
            .uint(3, self.stat.process_group)
            .uint(4, self.stat.session)
            .uint(5, pid)
    }

    fn core(&self) -> Message {
        let arch = std::env::consts::ARCH;
        let mtype = ARCHITECTURES
            .iter()
            .find(|(name, _)| *name == arch)
            .map_or(0, |(_, number)| *number);
        let task = Message::new()
            .uint(1, TASK_ALIVE)
            .uint(2, 0)
            .uint(3, 0)
            .uint(4, self.stat.flags)
            .uint(5, 0)
            .bytes(6, self.stat.comm.as_bytes());
        Message::new()
            .uint(1, mtype)
            .message(3, &task)
            .message(4, &object_ids())
    }

    fn mm(&self) -> Message {
        let stat = &self.stat;
        let heap_end = self
            .ranges
            .iter()
            .find(|range| range.name == "[heap]")
            .map_or(stat.start_brk, |range| range.end);
        let mut message = Message::new()
            .uint(1, stat.start_code)
            .uint(2, stat.end_code)
            .uint(3, stat.start_data)
            .uint(4, stat.end_data)
            .uint(5, stat.start_stack)
            .uint(6, stat.start_brk)
            .uint(7, heap_end)
            .uint(8, stat.arg_start)
            .uint(9, stat.arg_end)
            .uint(10, stat.env_start)
            .uint(11, stat.env_end)
            .uint(12, self.executable_id());
        for word in &self.auxv {
            message = message.uint(13, *word);
        }
        for range in &self.ranges {
            message = message.message(14, &self.vma(range));
        }
        message.uint(15, 1).uint(17, 0)
    }

    fn vma(&self, range: &Range) -> Message {
        let (flags, status) = flags_and_status(range);
        let prot = [
            (range.readable, PROT_READ),
            (range.writable, PROT_WRITE),
            (range.executable, PROT_EXEC),
        ];
        Message::new()
            .uint(1, range.start)
            .uint(2, range.end)
            .uint(
                3,
                if range.is_file() {
                    range.file_offset
                } else {
                    0
                },
            )
            .uint(
                4,
                if range.is_file() {
                    self.file_id(&range.name)
                } else {
                    0
                },
            )
            .uint(
                5,
                prot.iter()
                    .filter(|(set, _)| *set)
                    .map(|(_, bit)| bit)
                    .sum(),
            )
            .uint(6, flags)
            .uint(7, status)
            .sint(8, -1)
    }

    /// The entries of real CRIU 4.2: the old 32-bit count is there and zero, the count stands in field 5.
    fn pagemap(&self) -> Vec<Message> {
        let entries = self.pages.iter().map(|run| {
            let flags = if run.lazy {
                PE_PRESENT | PE_LAZY
            } else {
                PE_PRESENT
            };
            Message::new()
                .uint(1, run.start)
                .uint(2, 0)
                .uint(4, flags)
                .uint(5, run.count)
        });
        std::iter::once(Message::new().uint(1, PAGES_ID))
            .chain(entries)
            .collect()
    }

    /// One entry per mapped file, so that an inspector can name what a range shows.
    fn files(&self) -> Vec<Message> {
        let owner = Message::new()
            .uint(1, 0)
            .uint(2, 0)
            .uint(3, 0)
            .uint(4, 0)
            .uint(5, 0);
        let entries = self.file_names().into_iter().zip(1..).map(|(name, id)| {
            let file = Message::new()
                .uint(1, id)
                .uint(2, 0)
                .uint(3, 0)
                .message(5, &owner)
                .bytes(6, name.as_bytes());
            Message::new()
                .uint(1, TYPE_REG)
                .uint(2, id)
                .message(3, &file)
        });
        entries.collect()
    }

    fn file_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for range in self.ranges.iter().filter(|range| range.is_file()) {
            if !names.contains(&range.name.as_str()) {
                names.push(range.name.as_str());
            }
        }
        names
    }

    fn file_id(&self, name: &str) -> u64 {
        self.file_names()
            .into_iter()
            .zip(1..)
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, id)| id)
    }

    /// The file that holds the program's code.
    fn executable_id(&self) -> u64 {
        let code = self.stat.start_code;
        let range = self
            .ranges
            .iter()
            .find(|range| (range.start..range.end).contains(&code));
        range.map_or(0, |range| self.file_id(&range.name))
    }
}

/// stats-dump, with the fields that are required and irmap_resolve.
pub(crate) fn stats(figures: &DumpFigures) -> Vec<u8> {
    let dump = Message::new()
        .uint(1, figures.freezing_us)
        .uint(2, figures.frozen_us)
        .uint(3, figures.memdump_us)
        .uint(4, figures.memwrite_us)
        .uint(5, figures.pages_scanned)
        .uint(6, 0)
        .uint(7, figures.pages_written)
        .uint(8, 0)
        .uint(9, 0);
    let mut bytes = IMG_SERVICE_MAGIC.to_le_bytes().to_vec();
    bytes.extend(STATS_MAGIC.to_le_bytes());
    push_message(&mut bytes, &Message::new().message(1, &dump));
    bytes
}

/// inventory.img is the one image with a single magic.
fn inventory() -> Vec<u8> {
    let entry = Message::new()
        .uint(1, IMG_VERSION)
        .uint(2, 1)
        .message(3, &object_ids())
        .uint(4, 1)
        .uint(6, 0);
    let mut bytes = INVENTORY_MAGIC.to_le_bytes().to_vec();
    push_message(&mut bytes, &entry);
    bytes
}

/// task_kobj_ids_entry: memory, files, working folder and signal handlers, all of the first task.
fn object_ids() -> Message {
    Message::new().uint(1, 1).uint(2, 1).uint(3, 1).uint(4, 1)
}

fn image(magic: u32, messages: &[Message]) -> Vec<u8> {
    let mut bytes = IMG_COMMON_MAGIC.to_le_bytes().to_vec();
    bytes.extend(magic.to_le_bytes());
    for message in messages {
        push_message(&mut bytes, message);
    }
    bytes
}

fn push_message(bytes: &mut Vec<u8>, message: &Message) {
    let body = message.as_bytes();
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    bytes.extend(len.to_le_bytes());
    bytes.extend(body);
}

fn flags_and_status(range: &Range) -> (u64, u64) {
    let sharing = if range.shared {
        MAP_SHARED
    } else {
        MAP_PRIVATE
    };
    let anonymous = (sharing | MAP_ANONYMOUS, VMA_REGULAR | VMA_ANON_PRIVATE);
    match range.name.as_str() {
        "[vsyscall]" => (anonymous.0, VMA_VSYSCALL | VMA_ANON_PRIVATE),
        "[vdso]" => (anonymous.0, anonymous.1 | VMA_VDSO),
        "[heap]" => (anonymous.0, anonymous.1 | VMA_HEAP),
        "[stack]" => (anonymous.0 | MAP_GROWSDOWN, anonymous.1),
        _ if range.is_vvar() => (anonymous.0, anonymous.1 | VMA_VVAR),
        _ if range.is_file() && range.shared => (sharing, VMA_REGULAR | VMA_FILE_SHARED),
        _ if range.is_file() => (sharing, VMA_REGULAR | VMA_FILE_PRIVATE),
        _ if range.shared => (anonymous.0, VMA_REGULAR | VMA_ANON_SHARED),
        _ => anonymous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        let range = |start: u64, name: &str, inode| Range {
            start,
            end: start + 0x1000,
            readable: true,
            writable: true,
            executable: false,
            shared: false,
            file_offset: 0,
            inode,
            name: name.to_owned(),
        };
        Task {
            pid: 7,
            stat: Stat {
                comm: "demo".into(),
                start_code: 0x40_1000,
                ..Stat::default()
            },
            ranges: vec![
                range(0x40_0000, "/bin/a", 1),
                range(0x40_1000, "/bin/b", 2),
                range(0x60_0000, "[heap]", 0),
            ],
            auxv: vec![6, 4096, 0, 0],
            pages: vec![
                Pages {
                    start: 0x40_1000,
                    count: 1,
                    lazy: false,
                },
                Pages {
                    start: 0x5f_d000,
                    count: 5,
                    lazy: true,
                },
            ],
        }
    }

    #[test]
    fn the_pagemap_has_the_bytes_of_criu_4_2() {
        // The same values as the first and a later entry of fixtures/containerd-busybox-1/checkpoint/pagemap-1.img.
        let pages = vec![
            Pages {
                start: 0x40_1000,
                count: 1,
                lazy: false,
            },
            Pages {
                start: 0x5f_6000,
                count: 1,
                lazy: true,
            },
        ];
        let bytes = image(PAGEMAP_MAGIC, &Task { pages, ..task() }.pagemap());
        let expected = b"\x19CVT%@\x08V\x02\0\0\0\x08\x01\
            \x0b\0\0\0\x08\x80\xa0\x80\x02\x10\0\x20\x04\x28\x01\
            \x0b\0\0\0\x08\x80\xc0\xfd\x02\x10\0\x20\x06\x28\x01";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn the_executable_is_the_file_under_the_program_code() {
        assert_eq!(task().executable_id(), 2);
        assert_eq!(task().files().len(), 2);
    }

    #[test]
    fn the_kinds_of_range_have_the_flags_a_real_mm_image_shows() {
        let mut range = task().ranges.remove(2);
        let mut of = |name: &str, inode| {
            range.name = name.to_owned();
            range.inode = inode;
            flags_and_status(&range)
        };
        assert_eq!(of("[heap]", 0), (0x22, 0x221));
        assert_eq!(of("[stack]", 0), (0x122, 0x201));
        assert_eq!(of("[vdso]", 0), (0x22, 0x209));
        assert_eq!(of("[vvar]", 0), (0x22, 0x1201));
        assert_eq!(of("[vsyscall]", 0), (0x22, 0x204));
        assert_eq!(of("/bin/busybox", 9), (0x02, 0x41));
    }

    #[test]
    fn the_inventory_has_one_magic_and_version_two() {
        assert!(inventory().starts_with(b"\x16\x31\x31X"));
        assert_eq!(&inventory()[8..10], [0x08, 2]);
    }
}
