//! Owns the sealed form of an envelope.
//!
//! Always: an object that comes out was put under this name by somebody with a key. Never: takes an object that is not sealed.

use super::seal::{CIPHER, Place, SEAL_LEN, SealKind, Seals, split};
use crate::envelope::{self, ObjectType, VERSION};
use crate::error::{FormatError, Result};
use crate::wire::Reader;

const CLEAR_LEN: usize = 4 + 4 + 8;
/// Bytes before the sealed envelope.
pub const SEALED_HEADER_LEN: usize = CLEAR_LEN + SEAL_LEN;
const _: () = assert!(SEALED_HEADER_LEN == 64, "spec/encryption.md says 64 bytes");
/// Where the cipher stands in an envelope, sealed or not.
const CIPHER_AT: usize = 6;

const fn kind_of(kind: ObjectType) -> Option<SealKind> {
    Some(match kind {
        ObjectType::Segment => SealKind::Segment,
        ObjectType::Manifest => SealKind::Manifest,
        ObjectType::Snapshot => SealKind::Snapshot,
        ObjectType::Tombstone => SealKind::Tombstone,
        ObjectType::Session => SealKind::Session,
        ObjectType::Collection => SealKind::Collection,
        ObjectType::Deletion => SealKind::Deletion,
        ObjectType::Pin => SealKind::Pin,
        ObjectType::Catalogue => SealKind::Catalogue,
        ObjectType::Damage => SealKind::Damage,
        ObjectType::Key => return None,
    })
}

fn seal_kind(object: &[u8]) -> Result<SealKind> {
    let kind = envelope::peek(object)?;
    kind_of(kind).ok_or_else(|| FormatError::invalid(kind.name(), "such objects are not sealed"))
}

/// True if the object says that it is sealed, whatever it is.
#[must_use]
pub fn is_sealed(object: &[u8]) -> bool {
    object.get(CIPHER_AT).is_some_and(|cipher| *cipher != 0)
}

/// Seals an envelope for the place `name`.
pub fn seal_object(seals: &Seals, name: &str, envelope: &[u8]) -> Result<Vec<u8>> {
    let kind = seal_kind(envelope)?;
    let mut out = Vec::with_capacity(SEALED_HEADER_LEN + envelope.len());
    out.extend_from_slice(&envelope[..5]);
    out.extend_from_slice(&[VERSION, CIPHER, 0]);
    out.extend_from_slice(&(envelope.len() as u64).to_le_bytes());
    let mut clear = [0; CLEAR_LEN];
    clear.copy_from_slice(&out);
    let mut seal = [0; SEAL_LEN];
    out.resize(SEALED_HEADER_LEN, 0);
    out.extend_from_slice(envelope);
    seals.seal(kind, &mut seal, &mut out[SEALED_HEADER_LEN..])?;
    seals.stamp(kind, &mut seal, &place(name, &clear))?;
    out[CLEAR_LEN..SEALED_HEADER_LEN].copy_from_slice(&seal);
    Ok(out)
}

/// The envelope that was sealed for the place `name`.
pub fn open_object(seals: &Seals, name: &str, object: &[u8]) -> Result<Vec<u8>> {
    let kind = seal_kind(object)?;
    let what = kind.name();
    let mut r = Reader::new(what, object);
    r.bytes(5)?;
    let version = r.u8()?;
    if version == 0 || version > VERSION {
        return Err(FormatError::UnsupportedVersion {
            what,
            got: version.into(),
            known: VERSION.into(),
        });
    }
    match r.u8()? {
        CIPHER => {}
        0 => return Err(FormatError::NotSealed { what }),
        n => {
            return Err(FormatError::UnknownFeature {
                what,
                feature: format!("cipher {n}"),
            });
        }
    }
    if r.u8()? != 0 {
        return Err(FormatError::invalid(what, "reserved bytes are not zero"));
    }
    let len = r.u64()?;
    let (seal, sealed) = split(kind, r.bytes(r.left())?)?;
    let have = sealed.len() as u64;
    if len > have {
        return Err(FormatError::Truncated {
            what,
            need: len,
            have,
        });
    }
    if len < have {
        return Err(FormatError::invalid(
            what,
            format!("{} bytes too many at its end", have - len),
        ));
    }
    let mut out = vec![0; sealed.len()];
    let place = place(name, &object[..CLEAR_LEN]);
    seals.open(kind, seal, &place, sealed, &mut out)?;
    Ok(out)
}

const fn place<'a>(name: &'a str, clear: &'a [u8]) -> Place<'a> {
    Place {
        generation: 0,
        position: [0; 2],
        object: name.as_bytes(),
        clear,
    }
}
