//! Owns what the fuzz targets share: getting past the digests and checksums that a fuzzer cannot guess.
//!
//! Always: what is put right here is what an attacker could put right too. Never: hides an input from the plain decoder,
//! which each target gives the fuzzer's bytes as they are, first.

use cryostore_format::envelope::{self, Codec, HEADER_LEN, ObjectType};
use cryostore_format::wire::Reader;
use cryostore_format::{ChunkId, PackId};

/// 1 MiB: what an envelope of the fuzzer may unpack to. The formats' own limits are up to 256 MiB, which only costs time here.
pub const PLAIN_MAX: u64 = 1 << 20;

/// Runs `check` on three objects of type `kind`: the bytes themselves, the bytes as an envelope whose digest was put
/// right, and an envelope around the bytes.
pub fn objects(kind: ObjectType, data: &[u8], mut check: impl FnMut(&[u8])) {
    check(data);
    if let Some(object) = reseal(kind, data) {
        if let Ok(plain) = envelope::open(kind, &object, PLAIN_MAX) {
            for codec in [Codec::Stored, Codec::Zstd] {
                let again = envelope::seal(kind, &plain, codec);
                assert_eq!(
                    envelope::open(kind, &again, PLAIN_MAX).as_ref(),
                    Ok(&plain),
                    "an envelope gives its content back"
                );
            }
        }
        // What may be unpacked is at most what `PLAIN_MAX` says: a lie about the length is looked at above.
        if announced(&object) <= PLAIN_MAX {
            check(&object);
        }
    }
    check(&envelope::seal(kind, data, Codec::Stored));
}

/// The bytes as an envelope of type `kind`: magic, type, stored length and digest are put right; version, cipher, codec,
/// reserved bytes, the length of the content and the payload are the fuzzer's.
fn reseal(kind: ObjectType, data: &[u8]) -> Option<Vec<u8>> {
    let payload_len = data.len().checked_sub(HEADER_LEN)? as u64;
    let mut out = data.to_vec();
    out[..4].copy_from_slice(b"CRYO");
    out[4] = kind as u8;
    out[24..32].copy_from_slice(&payload_len.to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&out[..32]).update(&out[HEADER_LEN..]);
    out[32..HEADER_LEN].copy_from_slice(hasher.finalize().as_bytes());
    Some(out)
}

fn announced(object: &[u8]) -> u64 {
    Reader::new("plain length", &object[16..24])
        .u64()
        .unwrap_or(u64::MAX)
}

/// Hands out the fuzzer's bytes as small numbers; zeros when there are none left.
#[derive(Debug)]
pub struct Dice<'a>(&'a [u8]);

impl<'a> Dice<'a> {
    /// From the front of `data`.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// True when the next number would be no byte of the fuzzer's.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Eight bytes.
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// At most `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// What is left.
    #[must_use]
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// The pack that seeds and targets agree on.
pub const PACK: PackId = PackId::from_bytes([9; 16]);

/// Some id.
#[must_use]
pub const fn chunk_id(n: u8) -> ChunkId {
    ChunkId::from_bytes([n; 16])
}
