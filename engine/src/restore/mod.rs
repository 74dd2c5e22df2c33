//! Owns the way back: manifest → plan → frames → the archive, whole or in parts.
//!
//! Always: needs the manifest and the packs that it names, nothing else; what is given back was checked against the digest of the archive (or of its
//! streams). A file or directory appears under its name only when it is whole. Never: writes outside of what it was given.

mod decode;
mod export;
mod plan;
mod reader;
mod unpack;

pub use export::{ExportStats, Output, export};
pub use reader::{CheckpointReader, PageFrame};
pub use unpack::{UnpackStats, unpack};
