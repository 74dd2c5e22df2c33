//! What is odd about a pagemap.
//!
//! Owns the findings that a report or a check prints. Always: a finding names the entry. Never: refuses anything; CRIU
//! relies on ascending order (`seek_pagemap`), but a stored archive stays restorable byte for byte in any case.

use std::fmt;

use super::pagemap::{Pagemap, PagemapEntry};

/// A report of more would help nobody, and a hostile pagemap must not grow it.
const MAX_FINDINGS: usize = 64;

/// One odd thing about one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Irregularity {
    /// Index of the entry in [`Pagemap::entries`].
    pub entry: usize,
    /// Its address.
    pub vaddr: u64,
    /// Its number of pages.
    pub nr_pages: u64,
    /// What is odd.
    pub kind: IrregularityKind,
}

/// What is odd about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IrregularityKind {
    /// It starts below the entry before it.
    OutOfOrder,
    /// It starts inside an entry before it.
    Overlapping,
    /// It ends behind the last address.
    AddressOverflow,
    /// It does not start on a page border.
    Misaligned,
    /// It has no pages.
    ZeroCount,
    /// It has flags that CRIU 4.2 does not define.
    UnknownFlags(u32),
    /// It is both in the parent and in the page image.
    ParentAndPresent,
}

impl fmt::Display for Irregularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            entry,
            vaddr,
            nr_pages,
            kind,
        } = self;
        write!(f, "entry {entry} ({nr_pages} pages at {vaddr:#x}) ")?;
        match kind {
            IrregularityKind::OutOfOrder => f.write_str("starts below the entry before it"),
            IrregularityKind::Overlapping => f.write_str("overlaps an entry before it"),
            IrregularityKind::AddressOverflow => f.write_str("ends behind the last address"),
            IrregularityKind::Misaligned => f.write_str("does not start on a page border"),
            IrregularityKind::ZeroCount => f.write_str("has no pages"),
            IrregularityKind::UnknownFlags(bits) => write!(f, "has unknown flags {bits:#x}"),
            IrregularityKind::ParentAndPresent => f.write_str("is in the parent and present"),
        }
    }
}

impl Pagemap {
    /// What is odd about the entries, in their order; at most the first 64 findings.
    pub fn irregularities(&self, page_size: u64) -> Vec<Irregularity> {
        let (mut last_start, mut highest_end) = (0u64, 0u64);
        let found = (self.entries.iter().enumerate()).flat_map(|(index, entry)| {
            let end = end_of(entry, page_size);
            let kinds = [
                (entry.vaddr < last_start).then_some(IrregularityKind::OutOfOrder),
                (last_start <= entry.vaddr && entry.vaddr < highest_end)
                    .then_some(IrregularityKind::Overlapping),
                end.is_none().then_some(IrregularityKind::AddressOverflow),
                (!entry.vaddr.is_multiple_of(page_size)).then_some(IrregularityKind::Misaligned),
                (entry.nr_pages == 0).then_some(IrregularityKind::ZeroCount),
                (entry.flags.unknown() != 0)
                    .then_some(IrregularityKind::UnknownFlags(entry.flags.unknown())),
                (entry.flags.in_parent() && entry.flags.has_bytes())
                    .then_some(IrregularityKind::ParentAndPresent),
            ];
            last_start = entry.vaddr;
            highest_end = highest_end.max(end.unwrap_or(u64::MAX));
            kinds.into_iter().flatten().map(move |kind| Irregularity {
                entry: index,
                vaddr: entry.vaddr,
                nr_pages: entry.nr_pages,
                kind,
            })
        });
        found.take(MAX_FINDINGS).collect()
    }
}

/// The first address behind the entry. The very last page of the address space counts as overflow; no process has it.
fn end_of(entry: &PagemapEntry, page_size: u64) -> Option<u64> {
    let len = entry.nr_pages.checked_mul(page_size)?;
    entry.vaddr.checked_add(len)
}
