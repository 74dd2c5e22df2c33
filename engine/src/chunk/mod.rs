//! Owns the cutting of streams: pages on page borders, everything else by content.
//!
//! Always: the same bytes give the same chunks, however they arrive. Never: looks at what a chunk means.

pub mod cdc;
pub mod ids;
pub mod lanes;
pub mod page;
