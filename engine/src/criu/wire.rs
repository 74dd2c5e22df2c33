//! The protobuf wire form, as far as CRIU writes it.
//!
//! Owns the step from bytes to numbered fields. Always: a [`Fields`] borrows, allocates nothing, yields at most one
//! error and then ends; offsets in errors count from the start of the image. Never: knows what a field means, or
//! follows nesting by itself (each level is asked for, so depth is bounded by the code of the caller).
//!
//! CRIU writes proto2 with protobuf-c: repeated numbers come unpacked unless the definition says `packed`, and readers
//! must take both. Groups are not used and are an error here.

use super::error::CriuError;

/// The largest field number that protobuf allows.
const MAX_FIELD_NUMBER: u64 = (1 << 29) - 1;
/// Seven bits a byte: 64 bits take ten.
const MAX_VARINT_LEN: usize = 10;

/// The value of one field, still uninterpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: text, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

impl Value<'_> {
    fn wire_type(&self) -> u8 {
        match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Bytes(_) => 2,
            Self::Fixed32(_) => 5,
        }
    }
}

/// One field of a message. Its getters return an error when the wire type is not the one they stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The field number.
    pub number: u32,
    /// The value.
    pub value: Value<'a>,
    /// Byte in the image where the value starts (for bytes: behind their length).
    pub offset: usize,
    what: &'static str,
}

impl<'a> Field<'a> {
    fn wrong_type(&self, needed: u8) -> CriuError {
        CriuError::WireType {
            what: self.what,
            offset: self.offset,
            number: self.number,
            needed,
            got: self.value.wire_type(),
        }
    }

    /// A `uint64`.
    pub fn u64(&self) -> Result<u64, CriuError> {
        match self.value {
            Value::Varint(n) => Ok(n),
            _ => Err(self.wrong_type(0)),
        }
    }

    /// A `uint32` or a non-negative enum. A larger value is an error, where protobuf would cut it.
    pub fn u32(&self) -> Result<u32, CriuError> {
        self.narrow(self.u64()?)
    }

    /// A `bool`: anything but 0 is true, as in protobuf.
    pub fn bool(&self) -> Result<bool, CriuError> {
        Ok(self.u64()? != 0)
    }

    /// A `sint64`, which is stored zigzag.
    pub fn sint64(&self) -> Result<i64, CriuError> {
        let n = self.u64()?;
        Ok((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
    }

    /// The bytes of a length-delimited field.
    pub fn bytes(&self) -> Result<&'a [u8], CriuError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong_type(2)),
        }
    }

    /// A string. Process names are any bytes, so what is not UTF-8 is replaced, not refused.
    pub fn text(&self) -> Result<String, CriuError> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    /// The fields of an embedded message, `what` naming it in errors.
    pub fn message(&self, what: &'static str) -> Result<Fields<'a>, CriuError> {
        Ok(Fields::new(what, self.bytes()?, self.offset))
    }

    /// The numbers of a repeated field: one for the plain form, any number for the packed one.
    pub fn varints(&self) -> Result<Varints<'a>, CriuError> {
        let (single, packed) = match self.value {
            Value::Varint(n) => (Some(n), [].as_slice()),
            Value::Bytes(bytes) => (None, bytes),
            _ => return Err(self.wrong_type(0)),
        };
        Ok(Varints {
            single,
            packed: Cursor {
                what: self.what,
                rest: packed,
                offset: self.offset,
            },
        })
    }

    /// `n`, if it fits 32 bits; for the numbers of [`Field::varints`].
    pub fn narrow(&self, n: u64) -> Result<u32, CriuError> {
        u32::try_from(n).map_err(|_| CriuError::TooLarge {
            what: self.what,
            offset: self.offset,
            number: self.number,
            needed: u32::MAX.into(),
            got: n,
        })
    }
}

/// The fields of one message in stored order. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Fields<'a>(Cursor<'a>);

impl<'a> Fields<'a> {
    /// Reads `bytes`, which start at byte `offset` of the image; `what` names the message in errors.
    pub fn new(what: &'static str, bytes: &'a [u8], offset: usize) -> Self {
        Self(Cursor {
            what,
            rest: bytes,
            offset,
        })
    }

    fn field(&mut self) -> Result<Field<'a>, CriuError> {
        let cursor = &mut self.0;
        let what = cursor.what;
        let tag_at = cursor.offset;
        let tag = cursor.varint()?;
        let (number, wire_type) = (tag >> 3, (tag & 7).to_le_bytes()[0]);
        let bad_tag = CriuError::Tag {
            what,
            offset: tag_at,
            number,
            wire_type,
        };
        let number = match u32::try_from(number) {
            Ok(n) if (1..=MAX_FIELD_NUMBER).contains(&number) => n,
            _ => return Err(bad_tag),
        };
        let mut offset = cursor.offset;
        let value = match wire_type {
            0 => Value::Varint(cursor.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(cursor.array()?)),
            2 => {
                let len = cursor.varint()?;
                offset = cursor.offset;
                Value::Bytes(cursor.take(len)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(cursor.array()?)),
            _ => return Err(bad_tag),
        };
        Ok(Field {
            number,
            value,
            offset,
            what,
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, CriuError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0.rest = &[];
        }
        Some(field)
    }
}

/// The numbers of a repeated field, from [`Field::varints`]. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Varints<'a> {
    single: Option<u64>,
    packed: Cursor<'a>,
}

impl Iterator for Varints<'_> {
    type Item = Result<u64, CriuError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(n) = self.single.take() {
            return Some(Ok(n));
        }
        if self.packed.rest.is_empty() {
            return None;
        }
        let n = self.packed.varint();
        if n.is_err() {
            self.packed.rest = &[];
        }
        Some(n)
    }
}

/// A place in the image. It moves only over what it could read.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    pub(super) what: &'static str,
    pub(super) rest: &'a [u8],
    pub(super) offset: usize,
}

impl<'a> Cursor<'a> {
    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8], CriuError> {
        let split = usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len));
        let Some((taken, rest)) = split else {
            return Err(self.truncated(len));
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(taken.len());
        Ok(taken)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CriuError> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.truncated(N as u64));
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(N);
        Ok(*taken)
    }

    fn varint(&mut self) -> Result<u64, CriuError> {
        let mut n = 0u64;
        for (i, &byte) in self.rest.iter().take(MAX_VARINT_LEN).enumerate() {
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds bit 63 alone.
            if i + 1 == MAX_VARINT_LEN && bits > 1 {
                break;
            }
            n |= bits << (7 * i);
            if byte & 0x80 == 0 {
                self.take(i as u64 + 1)?;
                return Ok(n);
            }
        }
        if self.rest.len() < MAX_VARINT_LEN {
            return Err(self.truncated(self.rest.len() as u64 + 1));
        }
        Err(CriuError::Varint {
            what: self.what,
            offset: self.offset,
        })
    }

    fn truncated(&self, needed: u64) -> CriuError {
        CriuError::Truncated {
            what: self.what,
            offset: self.offset,
            needed,
            got: self.rest.len() as u64,
        }
    }
}
