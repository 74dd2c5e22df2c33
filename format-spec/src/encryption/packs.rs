//! Owns the sealed form of packs: header, frames, directory.
//!
//! Always: a frame is sealed before its place is known, and stamped when it is, so that frames are sealed side by side and a pack can be
//! written anew without a key's work on its bytes. Never: leaves a length in clear that is not needed to find the directory.

use super::seal::{CIPHER, Place, SEAL_LEN, SealKind, Seals, split};
use crate::error::{FormatError, Result};
use crate::ids::PackId;
use crate::limits;
use crate::pack::{self, PACK_HEADER_LEN, TRAILER_LEN};
use crate::wire::Reader;

const TRAILER_MAGIC: [u8; 8] = *b"CRYOSEAL";
/// Bytes at the end of a sealed pack, in clear.
pub const SEALED_TRAILER_LEN: usize = 8 + 4 + 4;
const _: () = assert!(SEALED_TRAILER_LEN == 16, "spec/encryption.md says 16 bytes");
/// Bytes by which the end of a sealed pack is longer than that of the same pack in clear.
pub const SEALED_TAIL_LEN: usize = SEAL_LEN + SEALED_TRAILER_LEN;
const CIPHER_AT: usize = 9;

/// The first bytes of a sealed pack. Each seal in it says its own epoch.
#[must_use]
pub fn sealed_pack_header(id: PackId) -> [u8; PACK_HEADER_LEN] {
    let mut out = pack::encode_pack_header(id);
    out[CIPHER_AT] = CIPHER;
    out
}

/// Checks the first bytes of the sealed pack `id`.
pub fn check_sealed_pack_header(id: PackId, bytes: &[u8]) -> Result<()> {
    let what = "pack header";
    let mut header: [u8; PACK_HEADER_LEN] = Reader::new(what, bytes).array()?;
    match header[CIPHER_AT] {
        CIPHER => {}
        0 => return Err(FormatError::NotSealed { what }),
        n => {
            return Err(FormatError::UnknownFeature {
                what,
                feature: format!("cipher {n}"),
            });
        }
    }
    header[CIPHER_AT] = 0;
    pack::check_pack_header(id, &header)
}

/// Seals a frame (header and payload), before which `frame` has room for the seal.
pub fn seal_frame(seals: &Seals, frame: &mut [u8]) -> Result<()> {
    let have = frame.len() as u64;
    let Some((seal, bytes)) = frame.split_first_chunk_mut() else {
        return Err(FormatError::Truncated {
            what: SealKind::Frame.name(),
            need: SEAL_LEN as u64,
            have,
        });
    };
    seals.seal(SealKind::Frame, seal, bytes)
}

/// Binds a sealed frame to its place: byte `offset` of the pack `id`, first of its chunks `first_chunk`.
pub fn stamp_frame(
    seals: &Seals,
    id: PackId,
    offset: u32,
    first_chunk: u32,
    seal: &mut [u8; SEAL_LEN],
) -> Result<()> {
    seals.stamp(
        SealKind::Frame,
        seal,
        &frame_place(&id, offset, first_chunk),
    )
}

/// Opens a frame into `out`. Where it stands is checked if it is said (pack, offset, first chunk).
pub fn open_frame(
    seals: &Seals,
    place: Option<(PackId, u32, u32)>,
    frame: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let (seal, sealed) = split(SealKind::Frame, frame)?;
    out.resize(sealed.len(), 0);
    match place {
        None => seals.open_anywhere(SealKind::Frame, seal, sealed, out),
        Some((id, offset, first_chunk)) => {
            let place = frame_place(&id, offset, first_chunk);
            seals.open(SealKind::Frame, seal, &place, sealed, out)
        }
    }
}

const fn frame_place(id: &PackId, offset: u32, first_chunk: u32) -> Place<'_> {
    Place {
        generation: 0,
        position: [offset, first_chunk],
        object: id.as_bytes(),
        clear: &[],
    }
}

/// Seals directory and trailer (`tail`) of the pack `id`, whose frames end at byte `frames_end`.
pub fn seal_tail(seals: &Seals, id: PackId, frames_end: u64, tail: &[u8]) -> Result<Vec<u8>> {
    let mut out = vec![0; SEAL_LEN];
    out.extend_from_slice(tail);
    let sealed_len = out.len();
    let pack_len = frames_end + (sealed_len + SEALED_TRAILER_LEN) as u64;
    let too_large = |_| FormatError::TooLarge {
        what: "pack",
        limit: limits::PACK_MAX,
        got: pack_len,
    };
    let pack_len = u32::try_from(pack_len).map_err(too_large)?;
    let len = u32::try_from(sealed_len).map_err(too_large)?;
    if let Some((seal, bytes)) = out.split_first_chunk_mut() {
        seals.seal(SealKind::Directory, seal, bytes)?;
        let place = Place {
            generation: 0,
            position: [pack_len, 0],
            object: id.as_bytes(),
            clear: &[],
        };
        seals.stamp(SealKind::Directory, seal, &place)?;
    }
    out.extend_from_slice(&TRAILER_MAGIC);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    Ok(out)
}

/// Bytes at the end of a sealed pack that its directory takes, as the last [`SEALED_TRAILER_LEN`] of them say.
pub fn sealed_tail_len(trailer: &[u8]) -> Result<u64> {
    let what = "pack trailer";
    let start = trailer.len().saturating_sub(SEALED_TRAILER_LEN);
    let mut r = Reader::new(what, &trailer[start..]);
    if r.array::<8>()? != TRAILER_MAGIC {
        let text = "it does not begin with CRYOSEAL: the pack is not sealed, or was cut short";
        return Err(FormatError::invalid(what, text));
    }
    let len = r.u32()?;
    if r.u32()? != 0 {
        return Err(FormatError::invalid(what, "reserved bytes are not zero"));
    }
    let (least, most) = (
        (SEAL_LEN + TRAILER_LEN) as u64,
        limits::DIRECTORY_SEALED_MAX,
    );
    if !(least..=most).contains(&len.into()) {
        return Err(FormatError::TooLarge {
            what: "sealed pack directory",
            limit: most,
            got: len.into(),
        });
    }
    Ok(u64::from(len) + SEALED_TRAILER_LEN as u64)
}

/// Opens the last bytes of the pack `id`, which is `pack_len` bytes long; `tail` holds at least what [`sealed_tail_len`] says.
pub fn open_tail(seals: &Seals, id: PackId, tail: &[u8], pack_len: u64) -> Result<Vec<u8>> {
    let len = sealed_tail_len(tail)?;
    let have = tail.len() as u64;
    let truncated = FormatError::Truncated {
        what: SealKind::Directory.name(),
        need: len,
        have,
    };
    let start = have.checked_sub(len).ok_or(truncated)?;
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    let sealed = &tail[start..tail.len() - SEALED_TRAILER_LEN];
    let (seal, sealed) = split(SealKind::Directory, sealed)?;
    let mut out = vec![0; sealed.len()];
    let place = Place {
        generation: 0,
        position: [u32::try_from(pack_len).unwrap_or(u32::MAX), 0],
        object: id.as_bytes(),
        clear: &[],
    };
    seals.open(SealKind::Directory, seal, &place, sealed, &mut out)?;
    Ok(out)
}
