//! Golden images, built byte by byte, and hostile ones.

mod encode;
mod hostile;
mod images;
mod pagemaps;
