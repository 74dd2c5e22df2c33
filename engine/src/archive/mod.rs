//! Owns the outside of a checkpoint: tars, compression around them, gzip data inside of them, directories.
//!
//! Always: every byte of an archive is accounted for once, in order. Never: trusts a name, a length or a checksum that
//! an archive holds; knows what CRIU is.

pub mod directory;
pub mod gzip;
pub mod outer;
pub mod tar;
#[cfg(test)]
mod tar_tests;
