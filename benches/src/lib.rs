//! What the benchmarks share: memory that looks like that of real programs, and plots.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod pages;
pub mod plot;
