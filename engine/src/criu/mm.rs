//! `mm-<pid>.img`: the address space of a process.
//!
//! Owns the VMAs, their kinds, and the page size that the process was told. Always: a page size is a power of two
//! that Linux uses, or absent. Never: guesses a page size from the architecture; arm64 and ppc64 have several.
//!
//! Fields from `images/mm.proto` and `images/vma.proto`, status bits from `criu/include/image.h`. The saved auxiliary
//! vector (13) is the vector of the kernel, key and value in turn; key 6, `AT_PAGESZ`, is the page size.

use std::ops::Range;

use super::error::CriuError;
use super::image::{magic, single};
use super::page_size::is_page_size;
use super::wire::Field;

const WHAT: &str = "mm entry";
const VMA: &str = "vma entry";
/// End of the auxiliary vector.
const AT_NULL: u64 = 0;
/// Key of the page size in it.
const AT_PAGESZ: u64 = 6;
/// `mmap` flag of a mapping that grows like a stack.
const MAP_GROWSDOWN: u32 = 0x100;

/// The fields of a memory image that we use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MmImage {
    /// In stored order, which is by address.
    pub vmas: Vec<Vma>,
    /// Bytes in a page as the kernel told the process.
    pub page_size: Option<u64>,
    /// Start of the heap.
    pub start_brk: Option<u64>,
    /// End of the heap.
    pub brk: Option<u64>,
    /// Where the stack of the first thread began.
    pub start_stack: Option<u64>,
    /// Where the command line lies: words, each with a zero byte behind it.
    pub arguments: Range<u64>,
    /// Where the environment lies, as NAME=VALUE, each with a zero byte behind it.
    pub environment: Range<u64>,
    /// Id of the executable in `files.img`.
    pub exe_file_id: Option<u32>,
}

/// One mapped range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Offset in the mapped file, in bytes.
    pub pgoff: u64,
    /// Id of the shared segment; for a file or a memfd, its id in `files.img` (not the one in `pagemap-shmem-*`).
    pub shmid: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_*`.
    pub flags: u32,
    /// What CRIU found it to be; see [`Vma::kind`].
    pub status: u32,
    /// Unused by CRIU, -1.
    pub fd: i64,
    /// One bit for each `madvise` advice.
    pub madv: Option<u64>,
}

/// What a mapped range is, as far as the image tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VmaKind {
    /// Between `start_brk` and `brk`.
    Heap,
    /// It grows downwards: the stack of the first thread. Those of other threads are anonymous.
    Stack,
    /// Code of the kernel: vdso, vvar, vsyscall.
    Vdso,
    /// A fake range over guard pages; has no memory.
    Guard,
    /// A memfd, or what newer CRIU saves as one: a shared mapping without a file.
    Memfd,
    /// A System V shared memory segment.
    SysvShm,
    /// Private, no file.
    AnonymousPrivate,
    /// Shared, no file, in older dumps; see [`VmaKind::Memfd`].
    AnonymousShared,
    /// A private mapping of a file; only changed pages are dumped.
    FilePrivate,
    /// A shared mapping of a file; nothing is dumped.
    FileShared,
    /// Anything else: a socket, an AIO ring, or a bit that we do not know.
    Other,
}

/// Which bits of the status decide, first match first: the special ones come together with the general ones.
const KINDS: [(u32, VmaKind); 11] = [
    (1 << 16, VmaKind::Guard),
    (1 << 2 | 1 << 3 | 1 << 12, VmaKind::Vdso),
    (1 << 11 | 1 << 13, VmaKind::Other),
    (1 << 5, VmaKind::Heap),
    (1 << 1, VmaKind::Stack),
    (1 << 10, VmaKind::SysvShm),
    (1 << 14, VmaKind::Memfd),
    (1 << 6, VmaKind::FilePrivate),
    (1 << 7, VmaKind::FileShared),
    (1 << 8, VmaKind::AnonymousShared),
    (1 << 9, VmaKind::AnonymousPrivate),
];

impl Vma {
    /// What the range is.
    pub fn kind(&self) -> VmaKind {
        let found = KINDS.iter().find(|(bits, _)| self.status & bits != 0);
        match found.map_or(VmaKind::Other, |(_, kind)| *kind) {
            // CRIU does not mark the stack of a dumped process; the kernel's flag does.
            VmaKind::AnonymousPrivate if self.flags & MAP_GROWSDOWN != 0 => VmaKind::Stack,
            kind => kind,
        }
    }

    /// Whether the address is inside.
    pub fn contains(&self, vaddr: u64) -> bool {
        (self.start..self.end).contains(&vaddr)
    }

    fn parse(field: &Field<'_>) -> Result<Self, CriuError> {
        let mut vma = Self::default();
        let mut seen = 0u32;
        for inner in field.message(VMA)? {
            let inner = inner?;
            match inner.number {
                1 => vma.start = inner.u64()?,
                2 => vma.end = inner.u64()?,
                3 => vma.pgoff = inner.u64()?,
                4 => vma.shmid = inner.u64()?,
                5 => vma.prot = inner.u32()?,
                6 => vma.flags = inner.u32()?,
                7 => vma.status = inner.u32()?,
                8 => vma.fd = inner.sint64()?,
                9 => vma.madv = Some(inner.u64()?),
                _ => continue,
            }
            seen |= 1 << inner.number;
        }
        // Also what bounds the list: no entry is shorter than these.
        for (number, name) in [(1, "start"), (2, "end"), (6, "flags"), (7, "status")] {
            if seen & (1 << number) == 0 {
                return Err(CriuError::Missing {
                    what: VMA,
                    offset: field.offset,
                    number,
                    name,
                });
            }
        }
        Ok(vma)
    }
}

impl MmImage {
    /// Reads `mm-<pid>.img`.
    pub fn parse(bytes: &[u8]) -> Result<Self, CriuError> {
        let mut mm = Self::default();
        let mut auxv = Auxv::default();
        for field in single(bytes, magic::MM, WHAT)?.fields(WHAT) {
            let field = field?;
            match field.number {
                5 => mm.start_stack = Some(field.u64()?),
                6 => mm.start_brk = Some(field.u64()?),
                7 => mm.brk = Some(field.u64()?),
                8 => mm.arguments.start = field.u64()?,
                9 => mm.arguments.end = field.u64()?,
                10 => mm.environment.start = field.u64()?,
                11 => mm.environment.end = field.u64()?,
                12 => mm.exe_file_id = Some(field.u32()?),
                13 => {
                    for word in field.varints()? {
                        auxv.push(word?);
                    }
                }
                14 => mm.vmas.push(Vma::parse(&field)?),
                _ => {}
            }
        }
        mm.page_size = auxv.page_size.filter(|bytes| is_page_size(*bytes));
        Ok(mm)
    }

    /// The first range that holds the address.
    pub fn vma_at(&self, vaddr: u64) -> Option<&Vma> {
        self.vmas.iter().find(|vma| vma.contains(vaddr))
    }
}

/// Takes the words of the auxiliary vector as they come, and keeps the one that counts.
#[derive(Default)]
struct Auxv {
    key: Option<u64>,
    ended: bool,
    page_size: Option<u64>,
}

impl Auxv {
    fn push(&mut self, word: u64) {
        match self.key.take() {
            _ if self.ended => {}
            None => {
                self.ended = word == AT_NULL;
                self.key = Some(word);
            }
            Some(AT_PAGESZ) if self.page_size.is_none() => self.page_size = Some(word),
            Some(_) => {}
        }
    }
}
