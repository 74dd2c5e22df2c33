//! Owns the bytes of a recipe, version 1. Integers are little-endian.
//!
//! | field | bytes | meaning |
//! | --- | --- | --- |
//! | magic | 4 | `GZR` and the version, 1. A reader refuses any other |
//! | check | 4 | CRC-32 of all bytes behind this field |
//! | gzip_len | 8 | length of the gzip bytes |
//! | gzip_crc | 4 | CRC-32 of the gzip bytes |
//! | members | 4 | how many members follow |
//! | trailing | 4 + n | length, and the bytes behind the last member |
//!
//! and each member:
//!
//! | field | bytes | meaning |
//! | --- | --- | --- |
//! | header | 4 + n | length, and the gzip header verbatim |
//! | primer | 1 | bits that say which `primer` preflate sees before the head, 0 for none. A reader refuses other bits |
//! | head | 4 + n | length, and the deflate stream's first blocks verbatim, to the byte in which the last of them ends |
//! | trailer | 8 | the gzip trailer verbatim |
//! | pieces | 4 | how many pieces follow; a piece is one deflate block |
//! | piece | 8 + n | length of its plain text, length of its corrections, preflate's corrections |
//!
//! The plain text is that of all members in order. How much of it a head makes is what the head inflates to.
//!
//! Always: a length is compared with what is left before it is used; a recipe with a byte left over is refused.
//! Never: trusts the check, which is against accidents only. What a hostile recipe can ask for is bounded in `piece`.

use super::RebuildError;
use super::piece::Head;
use super::primer::Shows;

const MAGIC: [u8; 4] = *b"GZR\x01";
/// The magic and the check.
const UNCHECKED_LEN: usize = MAGIC.len() + size_of::<u32>();
/// What every recipe costs before its first member.
const _: () = assert!(
    UNCHECKED_LEN == 8,
    "the table above says 8 bytes before the checked ones"
);

/// CRC-32 as gzip has it.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Puts a recipe together.
#[derive(Debug, Default)]
pub(super) struct RecipeWriter {
    members: Vec<u8>,
    count: u32,
}

impl RecipeWriter {
    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Adds one member. `None` when a length does not fit its field.
    pub(super) fn member(
        &mut self,
        member: &Member<'_>,
        pieces: &[(usize, Vec<u8>)],
    ) -> Option<()> {
        put_bytes(&mut self.members, member.header)?;
        self.members.push(member.head.primer.to_bits());
        put_bytes(&mut self.members, member.head.bytes)?;
        self.members.extend_from_slice(&member.trailer);
        put_len(&mut self.members, pieces.len())?;
        for (plain_len, corrections) in pieces {
            put_len(&mut self.members, *plain_len)?;
            put_bytes(&mut self.members, corrections)?;
        }
        self.count = self.count.checked_add(1)?;
        Some(())
    }

    /// The recipe of `gzip`, whose members were added in order.
    pub(super) fn finish(self, gzip: &[u8], trailing: &[u8]) -> Option<Vec<u8>> {
        let mut checked = Vec::with_capacity(self.members.len() + trailing.len() + 64);
        checked.extend_from_slice(&u64::try_from(gzip.len()).ok()?.to_le_bytes());
        checked.extend_from_slice(&crc(gzip).to_le_bytes());
        checked.extend_from_slice(&self.count.to_le_bytes());
        put_bytes(&mut checked, trailing)?;
        checked.extend_from_slice(&self.members);
        let mut recipe = Vec::with_capacity(UNCHECKED_LEN + checked.len());
        recipe.extend_from_slice(&MAGIC);
        recipe.extend_from_slice(&crc(&checked).to_le_bytes());
        recipe.append(&mut checked);
        Some(recipe)
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) -> Option<()> {
    out.extend_from_slice(&u32::try_from(len).ok()?.to_le_bytes());
    Some(())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    put_len(out, bytes.len())?;
    out.extend_from_slice(bytes);
    Some(())
}

/// What a member keeps beside its pieces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) header: &'a [u8],
    pub(super) head: Head<'a>,
    pub(super) trailer: [u8; 8],
}

/// One deflate block of a member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) plain_len: usize,
    pub(super) corrections: &'a [u8],
}

/// Reads a recipe front to back.
#[derive(Debug)]
pub(super) struct RecipeReader<'a> {
    rest: &'a [u8],
    pub(super) gzip_len: u64,
    pub(super) gzip_crc: u32,
    pub(super) members: u32,
    pub(super) trailing: &'a [u8],
}

impl<'a> RecipeReader<'a> {
    /// Checks magic and check, and reads up to the first member.
    pub(super) fn new(recipe: &'a [u8]) -> Result<Self, RebuildError> {
        let mut reader = Self {
            rest: recipe,
            gzip_len: 0,
            gzip_crc: 0,
            members: 0,
            trailing: &[],
        };
        let magic = reader.array::<4>()?;
        if magic[..3] != MAGIC[..3] {
            return Err(RebuildError::Recipe("no recipe of a gzip file"));
        }
        if magic != MAGIC {
            return Err(RebuildError::Version(magic[3]));
        }
        let check = u32::from_le_bytes(reader.array()?);
        if check != crc(reader.rest) {
            return Err(RebuildError::Recipe("its check does not fit"));
        }
        reader.gzip_len = u64::from_le_bytes(reader.array()?);
        reader.gzip_crc = u32::from_le_bytes(reader.array()?);
        reader.members = u32::from_le_bytes(reader.array()?);
        reader.trailing = reader.bytes()?;
        Ok(reader)
    }

    /// The next member and how many pieces of it follow.
    pub(super) fn member(&mut self) -> Result<(Member<'a>, u32), RebuildError> {
        let header = self.bytes()?;
        let [bits] = self.array()?;
        let primer = Shows::from_bits(bits).ok_or(RebuildError::Recipe("an unknown primer"))?;
        let head = Head {
            bytes: self.bytes()?,
            primer,
        };
        let member = Member {
            header,
            head,
            trailer: self.array()?,
        };
        Ok((member, u32::from_le_bytes(self.array()?)))
    }

    /// The next piece.
    pub(super) fn piece(&mut self) -> Result<Piece<'a>, RebuildError> {
        let plain_len = self.len()?;
        Ok(Piece {
            plain_len,
            corrections: self.bytes()?,
        })
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<(), RebuildError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(RebuildError::Recipe("bytes behind its end"))
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RebuildError> {
        let (array, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(RebuildError::Recipe("cut off"))?;
        self.rest = rest;
        Ok(*array)
    }

    fn len(&mut self) -> Result<usize, RebuildError> {
        usize::try_from(u32::from_le_bytes(self.array()?))
            .map_err(|_| RebuildError::Recipe("a length"))
    }

    fn bytes(&mut self) -> Result<&'a [u8], RebuildError> {
        let len = self.len()?;
        let (bytes, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(RebuildError::Recipe("cut off"))?;
        self.rest = rest;
        Ok(bytes)
    }
}
