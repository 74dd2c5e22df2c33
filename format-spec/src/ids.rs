//! Owns the names of things: 16-byte ids, 32-byte digests, and the keyed hash that makes the ids of chunks.
//!
//! Always: different things have different types. Never: an id that is a plain hash of its content, which
//! would let whoever lists a store confirm what it holds.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroize;

use crate::error::{FormatError, Result};

/// Bytes of an id.
pub const ID_LEN: usize = 16;
/// Bytes of a digest.
pub const DIGEST_LEN: usize = 32;

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn parse_hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N]> {
    let bad = || {
        FormatError::invalid(
            what,
            format!(
                "`{}` is not {} hexadecimal digits",
                text.escape_default(),
                N * 2
            ),
        )
    };
    if text.len() != N * 2
        || !text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return Err(bad());
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
    }
    Ok(out)
}

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Takes the bytes as they are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl FromStr for $name {
            type Err = FormatError;
            fn from_str(text: &str) -> Result<Self> {
                parse_hex(stringify!($name), text).map(Self)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

fixed_bytes!(
    /// Names a chunk: the first 16 bytes of its [`ChunkHash`].
    ChunkId, ID_LEN
);
fixed_bytes!(
    /// The whole keyed BLAKE3 of a chunk.
    ChunkHash, DIGEST_LEN
);
fixed_bytes!(
    /// BLAKE3 of something larger than a chunk: an archive, a stream, a frame, an object.
    Digest, DIGEST_LEN
);
fixed_bytes!(
    /// Names a repository; random.
    RepositoryId, ID_LEN
);
fixed_bytes!(
    /// Names a pack; random.
    PackId, ID_LEN
);
fixed_bytes!(
    /// Names an index segment; random.
    SegmentId, ID_LEN
);
fixed_bytes!(
    /// Names a manifest; random.
    ManifestId, ID_LEN
);
fixed_bytes!(
    /// Names a snapshot; random, and fixed when its session starts.
    SnapshotId, ID_LEN
);
fixed_bytes!(
    /// Names a session; random.
    SessionId, ID_LEN
);
fixed_bytes!(
    /// Names the record of a collection of garbage; random.
    CollectionId, ID_LEN
);
fixed_bytes!(
    /// Names a catalogue; random.
    CatalogueId, ID_LEN
);
fixed_bytes!(
    /// Names a key; random.
    KeyId, ID_LEN
);
fixed_bytes!(
    /// Names the succession of checkpoints of one container; a keyed hash of its identity.
    Lineage, ID_LEN
);

impl ChunkHash {
    /// The id that the hash gives its chunk.
    #[must_use]
    pub fn id(&self) -> ChunkId {
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&self.0[..ID_LEN]);
        ChunkId(id)
    }
}

impl Digest {
    /// BLAKE3 of `bytes`, without a key.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// The key of a repository's ids. Two repositories with different keys share no id.
#[derive(Clone, PartialEq, Eq)]
pub struct IdKey([u8; 32]);

impl Drop for IdKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for IdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKey(…)")
    }
}

impl IdKey {
    /// Takes 32 random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The bytes, for the repository record.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// Parses 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self> {
        parse_hex("id key", text).map(Self)
    }
    /// 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        Digest(self.0).to_string()
    }
    /// Keyed BLAKE3 of one chunk.
    #[must_use]
    pub fn chunk_hash(&self, chunk: &[u8]) -> ChunkHash {
        ChunkHash(*blake3::keyed_hash(&self.0, chunk).as_bytes())
    }
    /// The lineage of the container with these names, the same on every node.
    #[must_use]
    pub fn lineage(&self, namespace: &str, pod: &str, container: &str) -> Lineage {
        let key = blake3::derive_key("cryostore 2026-11 lineage", &self.0);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        for part in [namespace, pod, container] {
            // The length goes first, so that ("a", "bc") and ("ab", "c") differ.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..ID_LEN]);
        Lineage(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = PackId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse::<PackId>(), Ok(id));
        assert!("xyz".parse::<PackId>().is_err());
        assert!(
            id.to_string().to_uppercase().parse::<PackId>().is_err(),
            "one text per id"
        );
    }

    #[test]
    fn a_chunk_id_is_the_start_of_the_keyed_blake3() {
        let key = IdKey::from_bytes([7; 32]);
        let hash = blake3::keyed_hash(&[7; 32], b"page");
        assert_eq!(
            key.chunk_hash(b"page").id().as_bytes(),
            &hash.as_bytes()[..16]
        );
        assert_ne!(
            IdKey::from_bytes([8; 32]).chunk_hash(b"page").id(),
            key.chunk_hash(b"page").id()
        );
    }

    #[test]
    fn moving_a_letter_between_two_names_changes_the_lineage() {
        let key = IdKey::from_bytes([7; 32]);
        assert_ne!(key.lineage("a", "bc", "d"), key.lineage("ab", "c", "d"));
    }
}
