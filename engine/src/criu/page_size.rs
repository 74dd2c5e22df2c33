//! How large a page of this dump is.
//!
//! Owns the choice among the sources. Always: says which source spoke, so that a caller can tell a fact from a guess.
//! Never: asks the machine it runs on; a dump of a 64 KiB kernel is read on a 4 KiB one.
//!
//! CRIU stores no page size. It is in the auxiliary vector that `mm-*.img` saves (`mm_saved_auxv`), and the length of
//! a raw page image divided by its pages gives it, too.

use super::mm::MmImage;

/// What almost every machine has, and what remains when nothing says otherwise.
const DEFAULT_BYTES: u64 = 4096;
/// The largest base page of Linux: arm64 and ppc64 with 64 KiB pages.
const MAX_BYTES: u64 = 64 * 1024;

/// A page size and how it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize {
    /// Bytes in a page.
    pub bytes: u64,
    /// How it is known.
    pub source: PageSizeSource,
}

/// How a page size is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PageSizeSource {
    /// The kernel told the processes.
    Auxv,
    /// The length of a page image divided by its pages.
    FileLength,
    /// Nothing told; the usual size.
    Default,
}

/// A raw page image and what its pagemap says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagesFile {
    /// Length of the page image in bytes.
    pub len: u64,
    /// [`Pagemap::present_pages`](super::Pagemap::present_pages).
    pub present_pages: u64,
}

/// The page size of the dump that has these memory images. If they contradict each other, none is believed.
pub fn page_size_of<'a>(
    mms: impl Iterator<Item = &'a MmImage>,
    fallback: Option<PagesFile>,
) -> PageSize {
    let mut told = mms.filter_map(|mm| mm.page_size);
    if let Some(bytes) = told.next()
        && told.all(|other| other == bytes)
    {
        return PageSize {
            bytes,
            source: PageSizeSource::Auxv,
        };
    }
    let quotient = fallback
        .filter(|file| file.len.is_multiple_of(file.present_pages))
        .and_then(|file| file.len.checked_div(file.present_pages))
        .filter(|bytes| is_page_size(*bytes));
    match quotient {
        Some(bytes) => PageSize {
            bytes,
            source: PageSizeSource::FileLength,
        },
        None => PageSize {
            bytes: DEFAULT_BYTES,
            source: PageSizeSource::Default,
        },
    }
}

/// Whether Linux has base pages of this size.
pub(super) fn is_page_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (DEFAULT_BYTES..=MAX_BYTES).contains(&bytes)
}
