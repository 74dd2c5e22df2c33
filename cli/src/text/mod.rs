//! Owns how things look: sizes, times, names and tables. Pure.

mod names;
mod sizes;
mod table;
mod times;

pub(crate) use names::{container, name, printable, printable_lines, short};
pub(crate) use sizes::{bytes_in, percent, seconds, size};
pub(crate) use table::{Column, Table};
pub(crate) use times::{Since, Span, age, day_and_time};
