//! The frame of an image: magic numbers, then messages with their size in front.
//!
//! Owns the step from a file to its messages. Always: a size that is larger than what is left is an error that names
//! both; the iterator yields at most one error and then ends. Never: looks into a message, and never reads the images
//! that mix raw bytes between their messages (`ghost-file`, `pipes-data`, `sk-queues`, ...), for which the frame alone
//! does not say where the next message starts.
//!
//! From `criu/image.c`: the inventory has its own magic alone; every other image has a common magic in front of it,
//! service files (stats, irmap-cache) another one. Images of version 1, before the common magic, have the type alone.
//! Numbers are in the byte order of the dumping machine; only little-endian ones are read here.

use super::error::CriuError;
use super::wire::{Cursor, Fields};

/// Magic numbers of `criu/include/magic.h`.
pub mod magic {
    /// `inventory.img`.
    pub const INVENTORY: u32 = 0x5831_3116;
    /// In front of every image but the inventory and the service files.
    pub const IMG_COMMON: u32 = 0x5456_4319;
    /// In front of the service files.
    pub const IMG_SERVICE: u32 = 0x5510_5940;
    /// `pstree.img`.
    pub const PSTREE: u32 = 0x5027_3030;
    /// `pagemap-*.img` and `pagemap-shmem-*.img`.
    pub const PAGEMAP: u32 = 0x5608_4025;
    /// `core-*.img`.
    pub const CORE: u32 = 0x5505_3847;
    /// `ids-*.img`.
    pub const IDS: u32 = 0x5443_2030;
    /// `fdinfo-*.img`.
    pub const FDINFO: u32 = 0x5621_3732;
    /// `fs-*.img`.
    pub const FS: u32 = 0x5140_3912;
    /// `mountpoints-*.img`.
    pub const MOUNTS: u32 = 0x5556_3928;
    /// `utsns-*.img`.
    pub const UTSNS: u32 = 0x5447_3203;
    /// `mm-*.img`.
    pub const MM: u32 = 0x5749_2820;
    /// `files.img`.
    pub const FILES: u32 = 0x5630_3138;
    /// `stats-*`, a service file.
    pub const STATS: u32 = 0x5709_3306;
    /// `irmap-cache`, a service file.
    pub const IRMAP_CACHE: u32 = 0x5700_4059;
}

/// One message of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Byte in the image where the message starts, behind its size.
    pub offset: usize,
    /// The message.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The fields of the message, `what` naming it in errors.
    pub fn fields(&self, what: &'static str) -> Fields<'a> {
        Fields::new(what, self.bytes, self.offset)
    }
}

/// The messages of one image in stored order, from [`records`]. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'a>(Cursor<'a>);

impl<'a> Records<'a> {
    fn record(&mut self) -> Result<Record<'a>, CriuError> {
        let size = u32::from_le_bytes(self.0.array()?);
        let offset = self.0.offset;
        let bytes = self.0.take(size.into())?;
        Ok(Record { offset, bytes })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, CriuError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.rest.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_err() {
            self.0.rest = &[];
        }
        Some(record)
    }
}

/// The messages of an image whose type is `magic`.
pub fn records(bytes: &[u8], magic: u32) -> Result<Records<'_>, CriuError> {
    let mut cursor = Cursor {
        what: "image magic",
        rest: bytes,
        offset: 0,
    };
    let in_front = match magic {
        magic::INVENTORY => None,
        magic::STATS | magic::IRMAP_CACHE => Some(magic::IMG_SERVICE),
        _ => Some(magic::IMG_COMMON),
    };
    let first = u32::from_le_bytes(cursor.array()?);
    if first != magic {
        let first_needed = in_front.unwrap_or(magic);
        expect("image magic", 0, first_needed, first)?;
        let offset = cursor.offset;
        let second = u32::from_le_bytes(cursor.array()?);
        expect("image type magic", offset, magic, second)?;
    }
    cursor.what = "image message";
    Ok(Records(cursor))
}

/// The only message of an image that holds one. Like CRIU, it does not look behind it.
pub(super) fn single<'a>(
    bytes: &'a [u8],
    magic: u32,
    what: &'static str,
) -> Result<Record<'a>, CriuError> {
    match records(bytes, magic)?.next() {
        Some(record) => record,
        None => Err(CriuError::Truncated {
            what,
            offset: bytes.len(),
            needed: size_of::<u32>() as u64,
            got: 0,
        }),
    }
}

fn expect(what: &'static str, offset: usize, needed: u32, got: u32) -> Result<(), CriuError> {
    if got == needed {
        Ok(())
    } else if got.swap_bytes() == needed {
        Err(CriuError::ByteOrder {
            what,
            offset,
            needed,
            got,
        })
    } else {
        Err(CriuError::Magic {
            what,
            offset,
            needed,
            got,
        })
    }
}
