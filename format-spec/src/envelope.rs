#![doc = include_str!("../spec/envelope.md")]

use crate::encryption::CIPHER;
use crate::error::{FormatError, Result};
use crate::ids::{DIGEST_LEN, Digest};
use crate::wire::Reader;

const MAGIC: [u8; 4] = *b"CRYO";
/// Format version that this program writes, and the highest that it reads.
pub const VERSION: u8 = 1;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 4 + 4 + 4 + 4 + 8 + 8 + DIGEST_LEN;
const _: () = assert!(HEADER_LEN == 64, "spec/envelope.md says 64 bytes");
/// Where the digest stands; it covers what is before it, and the payload.
const DIGEST_AT: usize = HEADER_LEN - DIGEST_LEN;

/// What an object is. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ObjectType {
    /// `index/…`
    Segment = 1,
    /// `manifests/…`
    Manifest = 2,
    /// `snapshots/…`, a commit
    Snapshot = 3,
    /// `snapshots/…`, a place where no commit can ever be again
    Tombstone = 4,
    /// `sessions/…`
    Session = 5,
    /// `gc/…`
    Collection = 6,
    /// `keys/…`; never sealed itself, since it is what opens all others
    Key = 7,
    /// `snapshots/….deleted`
    Deletion = 8,
    /// `pins/…`
    Pin = 9,
    /// `catalogue/…`
    Catalogue = 10,
    /// `gc/damaged/…`
    Damage = 11,
}

impl ObjectType {
    /// The word for errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Segment => "index segment",
            Self::Manifest => "manifest",
            Self::Snapshot => "snapshot record",
            Self::Tombstone => "tombstone",
            Self::Session => "session record",
            Self::Collection => "collection record",
            Self::Deletion => "deletion mark",
            Self::Pin => "pin",
            Self::Catalogue => "catalogue",
            Self::Damage => "damage record",
            Self::Key => "key",
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Segment,
            2 => Self::Manifest,
            3 => Self::Snapshot,
            4 => Self::Tombstone,
            5 => Self::Session,
            6 => Self::Collection,
            7 => Self::Key,
            8 => Self::Deletion,
            9 => Self::Pin,
            10 => Self::Catalogue,
            11 => Self::Damage,
            _ => return None,
        })
    }
}

/// How a payload is coded. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Stored = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Codec {
    /// The codec with this number.
    pub fn from_number(what: &'static str, number: u8) -> Result<Self> {
        match number {
            0 => Ok(Self::Stored),
            1 => Ok(Self::Zstd),
            n => Err(FormatError::UnknownFeature {
                what,
                feature: format!("codec {n}"),
            }),
        }
    }
}

/// Puts `plain` into an envelope. Compression is kept only where it makes the object smaller.
#[must_use]
pub fn seal(kind: ObjectType, plain: &[u8], codec: Codec) -> Vec<u8> {
    let packed = match codec {
        Codec::Stored => None,
        Codec::Zstd => zstd::bulk::compress(plain, 3)
            .ok()
            .filter(|packed| packed.len() < plain.len()),
    };
    let (codec, payload) = packed
        .as_deref()
        .map_or((Codec::Stored, plain), |packed| (Codec::Zstd, packed));
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[kind as u8, VERSION, 0, codec as u8]);
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(&(plain.len() as u64).to_le_bytes());
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    let digest = digest(&out, payload);
    out.extend_from_slice(digest.as_bytes());
    out.extend_from_slice(payload);
    out
}

fn digest(head: &[u8], payload: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(payload);
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// The type that an object says it has, before anything else of it is believed.
pub fn peek(bytes: &[u8]) -> Result<ObjectType> {
    let mut r = Reader::new("object", bytes);
    if r.array::<4>()? != MAGIC {
        return Err(FormatError::invalid(
            "object",
            "it does not begin with CRYO",
        ));
    }
    let number = r.u8()?;
    ObjectType::from_number(number).ok_or_else(|| FormatError::UnknownFeature {
        what: "object",
        feature: format!("object type {number}"),
    })
}

/// Takes an object of type `kind` out of its envelope: at most `limit` bytes, checked against its digest.
pub fn open(kind: ObjectType, bytes: &[u8], limit: u64) -> Result<Vec<u8>> {
    let what = kind.name();
    let found = peek(bytes)?;
    if found != kind {
        return Err(FormatError::invalid(
            what,
            format!("the object is a {}", found.name()),
        ));
    }
    let mut r = Reader::new(what, bytes);
    r.bytes(5)?;
    let version = r.u8()?;
    if version == 0 || version > VERSION {
        return Err(FormatError::UnsupportedVersion {
            what,
            got: version.into(),
            known: VERSION.into(),
        });
    }
    let cipher = r.u8()?;
    if cipher == CIPHER {
        return Err(FormatError::Sealed { what });
    }
    if cipher != 0 {
        return Err(FormatError::UnknownFeature {
            what,
            feature: format!("cipher {cipher}"),
        });
    }
    let codec = Codec::from_number(what, r.u8()?)?;
    if r.u32()? != 0 || r.u32()? != 0 {
        return Err(FormatError::invalid(what, "reserved bytes are not zero"));
    }
    let plain_len = r.u64()?;
    let stored_len = r.u64()?;
    if plain_len > limit {
        return Err(FormatError::TooLarge {
            what,
            limit,
            got: plain_len,
        });
    }
    let expected = Digest::from_bytes(r.array()?);
    let left = r.left() as u64;
    if stored_len > left {
        return Err(FormatError::Truncated {
            what,
            need: stored_len,
            have: left,
        });
    }
    if stored_len < left {
        return Err(FormatError::invalid(
            what,
            format!("{} bytes too many at its end", left - stored_len),
        ));
    }
    let payload = r.bytes(r.left())?;
    if digest(&bytes[..DIGEST_AT], payload) != expected {
        return Err(FormatError::Digest { what });
    }
    let plain = match codec {
        Codec::Stored => payload.to_vec(),
        Codec::Zstd => {
            let capacity = usize::try_from(plain_len).map_err(|_| FormatError::TooLarge {
                what,
                limit,
                got: plain_len,
            })?;
            zstd::bulk::decompress(payload, capacity)
                .map_err(|e| FormatError::invalid(what, format!("zstd: {e}")))?
        }
    };
    if plain.len() as u64 != plain_len {
        return Err(FormatError::invalid(
            what,
            format!("{} bytes instead of {plain_len}", plain.len()),
        ));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_envelope_gives_its_content_back() {
        for plain in [&b""[..], b"x", &[7; 10_000]] {
            for codec in [Codec::Stored, Codec::Zstd] {
                let sealed = seal(ObjectType::Manifest, plain, codec);
                assert_eq!(open(ObjectType::Manifest, &sealed, 10_000).unwrap(), plain);
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let sealed = seal(
            ObjectType::Session,
            b"some bytes of a session, some bytes of a session",
            Codec::Zstd,
        );
        for at in 0..sealed.len() {
            assert!(
                open(ObjectType::Session, &sealed[..at], 1000).is_err(),
                "cut at {at}"
            );
            for bit in 0..8 {
                let mut bad = sealed.clone();
                bad[at] ^= 1 << bit;
                assert!(
                    open(ObjectType::Session, &bad, 1000).is_err(),
                    "bit {bit} of byte {at}"
                );
            }
        }
    }

    #[test]
    fn a_cipher_from_the_future_is_named() {
        let mut sealed = seal(ObjectType::Session, b"x", Codec::Stored);
        sealed[6] = 9;
        let err = open(ObjectType::Session, &sealed, 1000).unwrap_err();
        assert!(err.to_string().contains("cipher 9"), "{err}");
        assert!(err.is_unsupported());
    }

    #[test]
    fn content_over_the_limit_is_refused_before_it_is_unpacked() {
        let sealed = seal(ObjectType::Manifest, &[0; 100_000], Codec::Zstd);
        assert!(matches!(
            open(ObjectType::Manifest, &sealed, 99_999),
            Err(FormatError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = open(ObjectType::Manifest, &bytes, 1000);
        }
    }
}
