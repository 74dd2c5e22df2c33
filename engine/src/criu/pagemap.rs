//! `pagemap-*.img`: which pages lie in a page image, and where they belong.
//!
//! Owns the meaning of an entry and the walk from the pagemap to positions in `pages-<n>.img`. Always: counts are
//! added with overflow checks, and no count is ever used to allocate. Never: trusts that entries are ordered, disjoint
//! or agree with the length of a page image: Podman leaves stale pagemaps behind, and the archive is still good.
//!
//! From `criu/pagemap.c` (4.2): a page image is the pages of all entries that are present, in the order of the
//! entries, so a position is the sum of the counts before it. `nr_pages` (5) came later than the 32-bit count (2);
//! 4.2 writes 0 into the old one, older dumps carry only that one. `in_parent` (3) came before `flags` (4).

use super::error::CriuError;
use super::image::{Record, magic, records};

const ENTRY: &str = "pagemap entry";

/// The `PE_*` flags of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PageFlags(pub u32);

impl PageFlags {
    /// The pages are in the parent dump.
    pub const PARENT: Self = Self(1);
    /// The pages may be loaded after the restore.
    pub const LAZY: Self = Self(2);
    /// The pages are in the page image.
    pub const PRESENT: Self = Self(4);
    /// Unreleased: the bytes start on the next page border of the page image. Counted as unknown.
    pub const PAYLOAD_ALIGNED: Self = Self(8);

    const KNOWN: u32 = Self::PARENT.0 | Self::LAZY.0 | Self::PRESENT.0;

    /// Whether the entry takes bytes in the page image.
    pub fn has_bytes(self) -> bool {
        self.0 & Self::PRESENT.0 != 0
    }

    /// Whether the pages are in the parent dump.
    pub fn in_parent(self) -> bool {
        self.0 & Self::PARENT.0 != 0
    }

    /// Whether the pages may be loaded after the restore.
    pub fn is_lazy(self) -> bool {
        self.0 & Self::LAZY.0 != 0
    }

    /// The bits that CRIU 4.2 does not define.
    pub fn unknown(self) -> u32 {
        self.0 & !Self::KNOWN
    }
}

/// One run of pages that follow each other in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagemapEntry {
    /// Address of the first page; in a shmem pagemap, its offset in the segment.
    pub vaddr: u64,
    /// Number of pages.
    pub nr_pages: u64,
    /// Where the pages are.
    pub flags: PageFlags,
    /// The entry has fields of the unreleased page compression: its bytes are not `nr_pages` bare pages.
    pub compressed: bool,
}

/// A pagemap image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pagemap {
    /// The `n` of `pages-<n>.img`.
    pub pages_id: u32,
    /// In stored order, which is the order in the page image.
    pub entries: Vec<PagemapEntry>,
}

/// Pages that follow each other both in the page image and in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    /// Index of the first page in the page image, in pages.
    pub first_page_in_file: u64,
    /// Address of the first page.
    pub vaddr: u64,
    /// Number of pages.
    pub pages: u64,
}

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    /// In the page image, at this page.
    InFile {
        /// Index in the page image, in pages.
        page_index: u64,
    },
    /// In the parent dump.
    InParent,
    /// Not stored: a page server has it.
    Lazy,
}

impl Pagemap {
    /// Reads `pagemap-<pid>.img` or `pagemap-shmem-<id>.img`.
    pub fn parse(bytes: &[u8]) -> Result<Self, CriuError> {
        let mut records = records(bytes, magic::PAGEMAP)?;
        let missing_head = CriuError::Missing {
            what: "pagemap head",
            offset: bytes.len(),
            number: 1,
            name: "pages_id",
        };
        let pages_id = match records.next() {
            Some(head) => parse_head(head?)?,
            None => return Err(missing_head),
        };
        let entries = records
            .map(|record| PagemapEntry::parse(record?))
            .collect::<Result<_, _>>()?;
        Ok(Self { pages_id, entries })
    }

    /// Whether every entry is bare pages, so that [`Pagemap::runs`] says where they are.
    pub fn is_plain(&self) -> bool {
        (self.entries.iter()).all(|entry| !entry.compressed && entry.flags.unknown() == 0)
    }

    /// Pages in the page image.
    pub fn present_pages(&self) -> Result<u64, CriuError> {
        self.sum("present pages", |entry| entry.flags.has_bytes())
    }

    /// Pages that are taken from the parent dump.
    pub fn parent_pages(&self) -> Result<u64, CriuError> {
        self.sum("parent pages", |entry| entry.flags.in_parent())
    }

    /// Length that a raw page image must have for this pagemap.
    pub fn present_bytes(&self, page_size: u64) -> Result<u64, CriuError> {
        let pages = self.present_pages()?;
        pages.checked_mul(page_size).ok_or(CriuError::Overflow {
            what: "present bytes",
            entry: self.entries.len(),
            needed: page_size,
            got: pages,
        })
    }

    fn sum(
        &self,
        what: &'static str,
        counts: impl Fn(&PagemapEntry) -> bool,
    ) -> Result<u64, CriuError> {
        let mut sum = 0u64;
        for (index, entry) in self.entries.iter().enumerate() {
            if counts(entry) {
                sum = sum.checked_add(entry.nr_pages).ok_or(CriuError::Overflow {
                    what,
                    entry: index,
                    needed: entry.nr_pages,
                    got: sum,
                })?;
            }
        }
        Ok(sum)
    }

    /// The runs of the page image, from its start to its end. Fails if their sum overflows; holds only if
    /// [`Pagemap::is_plain`].
    pub fn runs(&self) -> Result<impl Iterator<Item = PageRun> + '_, CriuError> {
        self.present_pages()?;
        let mut next_page = 0u64;
        let stored = (self.entries.iter()).filter(|entry| entry.flags.has_bytes());
        Ok(stored.map(move |entry| {
            let first_page_in_file = next_page;
            // Cannot saturate: the whole sum was just computed.
            next_page = next_page.saturating_add(entry.nr_pages);
            PageRun {
                first_page_in_file,
                vaddr: entry.vaddr,
                pages: entry.nr_pages,
            }
        }))
    }

    /// Where the page that holds `vaddr` is; `None` if no entry covers it, or one that is nowhere. The first entry that
    /// covers it counts, and the parent before the page image, as CRIU reads. Walks the entries: for many addresses use
    /// [`Pagemap::runs`].
    pub fn locate(&self, vaddr: u64, page_size: u64) -> Option<Located> {
        let mut pages_before = 0u64;
        for entry in &self.entries {
            let page = (vaddr.checked_sub(entry.vaddr)).and_then(|n| n.checked_div(page_size));
            if let Some(page) = page.filter(|page| *page < entry.nr_pages) {
                return if entry.flags.in_parent() {
                    Some(Located::InParent)
                } else if entry.flags.has_bytes() {
                    let page_index = pages_before.checked_add(page)?;
                    Some(Located::InFile { page_index })
                } else {
                    entry.flags.is_lazy().then_some(Located::Lazy)
                };
            }
            if entry.flags.has_bytes() {
                pages_before = pages_before.checked_add(entry.nr_pages)?;
            }
        }
        None
    }
}

fn parse_head(record: Record<'_>) -> Result<u32, CriuError> {
    const WHAT: &str = "pagemap head";
    let mut pages_id = None;
    for field in record.fields(WHAT) {
        let field = field?;
        if field.number == 1 {
            pages_id = Some(field.u32()?);
        }
    }
    pages_id.ok_or(CriuError::Missing {
        what: WHAT,
        offset: record.offset,
        number: 1,
        name: "pages_id",
    })
}

impl PagemapEntry {
    fn parse(record: Record<'_>) -> Result<Self, CriuError> {
        let (mut vaddr, mut old_count, mut count, mut flags) = (None, None, None, None);
        let (mut in_parent, mut compressed) = (false, false);
        for field in record.fields(ENTRY) {
            let field = field?;
            match field.number {
                1 => vaddr = Some(field.u64()?),
                2 => old_count = Some(field.u32()?),
                3 => in_parent = field.bool()?,
                4 => flags = Some(field.u32()?),
                5 => count = Some(field.u64()?),
                // First three flat fields, later one message in 6. Both unreleased: only their presence counts.
                6..=8 => compressed = true,
                _ => {}
            }
        }
        let missing = |number, name| CriuError::Missing {
            what: ENTRY,
            offset: record.offset,
            number,
            name,
        };
        let flags = match (in_parent, flags) {
            (true, flags) => flags.unwrap_or(0) | PageFlags::PARENT.0,
            (false, Some(flags)) => flags,
            (false, None) => PageFlags::PRESENT.0,
        };
        Ok(Self {
            vaddr: vaddr.ok_or_else(|| missing(1, "vaddr"))?,
            nr_pages: count
                .or(old_count.map(u64::from))
                .ok_or_else(|| missing(5, "nr_pages"))?,
            flags: PageFlags(flags),
            compressed,
        })
    }
}
