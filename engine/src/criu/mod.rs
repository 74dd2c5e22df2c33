//! CRIU images: what a dump says of its processes and of the memory in its page images.
//!
//! Owns the reading of the few images that decide how a page image is cut and described: inventory, pstree, core, mm,
//! pagemap and stats-dump; of those that people ask for: files, fdinfo, fs, ids, mountpoints, utsns; and which file name
//! means which image. Every other image is opaque bytes to us.
//!
//! Always: pure functions over slices. Any input ends in a value or a [`CriuError`] with what, where and the numbers;
//! what a parser allocates is a small multiple of the bytes it was given. Fields that we do not know are skipped, so a
//! newer CRIU that only adds fields still parses.
//!
//! Never: I/O, writing an image, or a panic. It never decides that an archive is refused: an image that does not parse
//! is still stored, byte for byte, by whoever called.
//!
//! Stands on CRIU 4.2: `criu/image.c`, `criu/protobuf.c`, `criu/pagemap.c` and `images/*.proto`, plus the unreleased
//! page compression as far as it must be recognised.

mod core_image;
mod error;
mod files;
pub mod image;
mod inventory;
mod mm;
mod mounts;
mod name;
mod page_size;
mod pagemap;
mod pagemap_check;
mod pstree;
mod sockets;
mod stats;
mod tasks;
#[cfg(test)]
mod tests;
pub mod wire;

pub use core_image::{Arch, Core};
pub use error::CriuError;
pub use files::{Descriptor, FileKind, OpenFile, parse_descriptors, parse_files};
pub use image::{Record, Records, magic, records};
pub use inventory::Inventory;
pub use mm::{MmImage, Vma, VmaKind};
pub use mounts::{Mount, file_system, parse_mounts};
pub use name::{ImageName, image_name};
pub use page_size::{PageSize, PageSizeSource, PagesFile, page_size_of};
pub use pagemap::{Located, PageFlags, PageRun, Pagemap, PagemapEntry};
pub use pagemap_check::{Irregularity, IrregularityKind};
pub use pstree::{PstreeEntry, parse_pstree};
pub use sockets::{InetSocket, SocketState, UnixSocket};
pub use stats::DumpStats;
pub use tasks::{Folders, TaskIds, Uts};
