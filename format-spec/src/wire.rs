//! Owns the bounded reading and writing of integers, byte strings and varints (LEB128, at most 10 bytes, shortest form).
//!
//! Always: little endian; a length is compared with what is left before anything is allocated. Never: panics.

use crate::error::{FormatError, Result};

/// Reads fields from the front of a byte string.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`; `what` names the object in errors.
    #[must_use]
    pub const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// Bytes that are left.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(FormatError::Truncated {
                what: self.what,
                need: len as u64,
                have: self.rest.len() as u64,
            })?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }
    /// Two bytes, little endian.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    /// Eight bytes, little endian.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A varint.
    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for i in 0..10 {
            let byte = self.u8()?;
            let low = u64::from(byte & 0x7f);
            if i == 9 && low > 1 {
                break;
            }
            value |= low << (7 * i);
            if byte & 0x80 == 0 {
                if byte == 0 && i > 0 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(FormatError::invalid(
            self.what,
            "a varint is longer than it may be",
        ))
    }

    /// A varint that fits 32 bits.
    pub fn varint32(&mut self) -> Result<u32> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| FormatError::TooLarge {
            what: self.what,
            limit: u64::from(u32::MAX),
            got: value,
        })
    }

    /// A signed varint (zigzag).
    pub fn zigzag(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// A varint that is at most `limit`.
    pub fn bounded(&mut self, what: &'static str, limit: u64) -> Result<usize> {
        let got = self.varint()?;
        if got > limit {
            return Err(FormatError::TooLarge { what, limit, got });
        }
        usize::try_from(got).map_err(|_| FormatError::TooLarge { what, limit, got })
    }

    /// The number of elements that follow: at most `limit`, and each takes at least `each` of the bytes that are left.
    pub fn count(&mut self, what: &'static str, limit: u64, each: usize) -> Result<usize> {
        let count = self.bounded(what, limit)?;
        let need = count.saturating_mul(each);
        if need > self.left() {
            return Err(FormatError::Truncated {
                what,
                need: need as u64,
                have: self.left() as u64,
            });
        }
        Ok(count)
    }

    /// A byte string with its length in front, at most `limit` bytes.
    pub fn string(&mut self, what: &'static str, limit: u64) -> Result<&'a [u8]> {
        let len = self.bounded(what, limit)?;
        self.bytes(len)
    }

    /// Ends the reading: bytes that are left over are an error.
    pub fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(FormatError::invalid(
                self.what,
                format!("{} bytes too many at its end", self.rest.len()),
            ))
        }
    }
}

/// Appends fields to a byte string.
pub trait Put {
    /// A varint in its shortest form.
    fn put_varint(&mut self, value: u64);
    /// A signed varint (zigzag).
    fn put_zigzag(&mut self, value: i64);
    /// A byte string with its length in front.
    fn put_string(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.push(u8::try_from(value).unwrap_or(0));
    }
    fn put_zigzag(&mut self, value: i64) {
        self.put_varint(((value << 1) ^ (value >> 63)).cast_unsigned());
    }
    fn put_string(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back(value in any::<u64>(), signed in any::<i64>()) {
            let mut bytes = Vec::new();
            bytes.put_varint(value);
            bytes.put_zigzag(signed);
            let mut r = Reader::new("test", &bytes);
            prop_assert_eq!(r.varint(), Ok(value));
            prop_assert_eq!(r.zigzag(), Ok(signed));
            prop_assert!(r.finish().is_ok());
        }

        #[test]
        fn arbitrary_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut r = Reader::new("test", &bytes);
            if let Ok(value) = r.varint() {
                let mut again = Vec::new();
                again.put_varint(value);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - r.left()], "one encoding per number");
            }
        }
    }

    #[test]
    fn a_count_of_more_than_the_bytes_could_hold_is_refused_before_memory_is_taken() {
        let mut bytes = Vec::new();
        bytes.put_varint(1 << 40);
        let err = Reader::new("test", &bytes).count("things", u64::MAX, 16);
        assert!(matches!(err, Err(FormatError::Truncated { .. })), "{err:?}");
    }
}
