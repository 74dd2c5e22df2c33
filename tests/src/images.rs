//! CRIU images of kinds that only some tests need, and tars that Go's encoder would not make.

use crate::archives::{COMMON, TarBuilder, field, image};

const MM: u32 = 0x5749_2820;
const PAGEMAP: u32 = 0x5608_4025;

/// `mm-<pid>.img` whose auxiliary vector tells this page size.
#[must_use]
pub fn mm(page_size: u64) -> Vec<u8> {
    let mut message = Vec::new();
    field(&mut message, 5, 0x7000);
    for word in [16, 0x0178_bfbf, 6, page_size, 17, 100, 0, 0] {
        field(&mut message, 13, word);
    }
    image(&[COMMON, MM], &[message])
}

/// A page map of before there were flags: address, pages, in the parent or not.
#[must_use]
pub fn legacy_pagemap(pages_id: u64, entries: &[(u64, u64, bool)]) -> Vec<u8> {
    let mut messages = vec![Vec::new()];
    field(&mut messages[0], 1, pages_id);
    for (address, pages, in_parent) in entries {
        let mut message = Vec::new();
        field(&mut message, 1, *address);
        field(&mut message, 2, *pages);
        field(&mut message, 3, u64::from(*in_parent));
        messages.push(message);
    }
    image(&[COMMON, PAGEMAP], &messages)
}

/// The PAX records of one header.
#[must_use]
pub fn pax_records(records: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        out.extend_from_slice(format!("{len} {key}={value}\n").as_bytes());
    }
    out
}

/// The archive with an extension before its next member: `x` PAX, `L` GNU's long name, `K` GNU's long link.
#[must_use]
pub fn extended(tar: TarBuilder, flag: u8, body: &[u8]) -> TarBuilder {
    let padding = vec![0; body.len().next_multiple_of(512) - body.len()];
    tar.header(b"././@Extension", body.len() as u64, flag, b"")
        .raw(body)
        .raw(&padding)
}

/// Changes a field of a header within a tar and makes its checksum right again.
pub fn patch_header(tar: &mut [u8], header: usize, field: usize, bytes: &[u8]) {
    let block = &mut tar[header..header + 512];
    block[field..field + bytes.len()].copy_from_slice(bytes);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
