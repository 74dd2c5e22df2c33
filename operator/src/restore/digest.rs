//! Owns the names of blobs: `sha256:` and 64 hexadecimal digits.
//!
//! Always: what is written and what is named are the same bytes. Never: reads back what it wrote.

use std::io::{self, Write};

use aws_lc_rs::digest::{Context, SHA256, digest};

/// A blob, by its name and length in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:…`
    pub digest: String,
    /// Bytes.
    pub len: u64,
}

impl Blob {
    /// That of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            digest: name(digest(&SHA256, bytes).as_ref()),
            len: bytes.len() as u64,
        }
    }

    /// The digits alone.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.digest.strip_prefix("sha256:").unwrap_or(&self.digest)
    }
}

fn name(hash: &[u8]) -> String {
    format!("sha256:{}", hex::encode(hash))
}

/// Hands bytes on, and names them.
pub(crate) struct Naming<W> {
    inner: W,
    hash: Context,
    len: u64,
}

impl<W: Write> Naming<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Context::new(&SHA256),
            len: 0,
        }
    }

    /// The name of all that was written.
    pub(crate) fn finish(self) -> (W, Blob) {
        let blob = Blob {
            digest: name(self.hash.finish().as_ref()),
            len: self.len,
        };
        (self.inner, blob)
    }
}

impl<W: Write> Write for Naming<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.hash.update(&bytes[..taken]);
        self.len += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_pieces_have_the_name_of_the_whole() {
        let mut naming = Naming::new(Vec::new());
        naming.write_all(b"ab").unwrap();
        naming.write_all(b"c").unwrap();
        let (bytes, blob) = naming.finish();
        assert_eq!(bytes, b"abc");
        assert_eq!(blob, Blob::of(b"abc"));
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            blob.hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
