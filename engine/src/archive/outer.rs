//! Owns the compression around an archive: found by its first bytes, never by a name.
//!
//! Always: the compressed file is counted and digested while it is unpacked. Never: keeps it.

use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use cryostore_format::Digest;
use cryostore_format::snapshot::{Compression, Outer};

/// How an archive is compressed, by its first bytes (at least four, if it has as many).
#[must_use]
pub fn sniff(head: &[u8]) -> Option<Compression> {
    match head {
        [0x1f, 0x8b, ..] => Some(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
        // A skippable zstd frame may come first.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstd),
        _ => None,
    }
}

/// Counts and digests what is read through it.
struct Tap<R> {
    inner: R,
    seen: Arc<Mutex<(u64, blake3::Hasher)>>,
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0 += len as u64;
        seen.1.update(&buf[..len]);
        Ok(len)
    }
}

/// Gives the archive that is within compressed bytes.
pub struct Unpacking {
    inner: Box<dyn Read + Send>,
    compression: Compression,
    seen: Arc<Mutex<(u64, blake3::Hasher)>>,
}

impl std::fmt::Debug for Unpacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacking")
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

impl Unpacking {
    /// Unpacks `source`.
    pub fn new(compression: Compression, source: impl Read + Send + 'static) -> io::Result<Self> {
        let seen = Arc::new(Mutex::new((0, blake3::Hasher::new())));
        let tap = BufReader::with_capacity(
            256 << 10,
            Tap {
                inner: source,
                seen: Arc::clone(&seen),
            },
        );
        let inner: Box<dyn Read + Send> = match compression {
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(tap)),
            // The default bound of the window, 128 MiB, is also the bound of memory.
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(tap)?),
        };
        Ok(Self {
            inner,
            compression,
            seen,
        })
    }

    /// What the compressed file was; true only after all has been read.
    #[must_use]
    pub fn outer(&self) -> Outer {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Outer {
            compression: self.compression,
            bytes: seen.0,
            digest: Digest::from_bytes(*seen.1.finalize().as_bytes()),
        }
    }
}

impl Read for Unpacking {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn compressed_archives_are_unpacked_and_their_own_digest_is_taken() {
        let plain = b"an archive ".repeat(10_000);
        let mut gzip = Vec::new();
        for half in plain.chunks(plain.len() / 2) {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(half).unwrap();
            gzip.extend(encoder.finish().unwrap());
        }
        let mut zstd = zstd::bulk::compress(&plain[..50_000], 1).unwrap();
        zstd.extend(zstd::bulk::compress(&plain[50_000..], 1).unwrap());
        for (compression, bytes) in [(Compression::Gzip, gzip), (Compression::Zstd, zstd)] {
            assert_eq!(sniff(&bytes), Some(compression));
            let mut unpacking =
                Unpacking::new(compression, io::Cursor::new(bytes.clone())).unwrap();
            let mut out = Vec::new();
            unpacking.read_to_end(&mut out).unwrap();
            assert!(out == plain);
            assert_eq!(
                unpacking.outer(),
                Outer {
                    compression,
                    bytes: bytes.len() as u64,
                    digest: Digest::of(&bytes)
                }
            );
        }
    }
}
