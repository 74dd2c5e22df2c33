//! Owns messages of protobuf as containerd's calls have them: written field by field. They are read with the engine's reader of CRIU's images, which are
//! protobuf, too.
//!
//! Always: a field that is empty is left out, as proto3 has it. Never: panics on what came from a socket.

use cryostore_engine::criu::wire::{Field, Fields};

/// A message that is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    pub(super) fn bytes(self, field: u32, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return self;
        }
        self.delimited(field, bytes)
    }

    pub(super) fn number(mut self, field: u32, number: u64) -> Self {
        if number != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(number);
        }
        self
    }

    /// A message is there also where it is empty.
    pub(super) fn message(self, field: u32, inner: &Self) -> Self {
        self.delimited(field, &inner.0)
    }

    /// What a message was, byte for byte.
    pub(super) fn raw(self, field: u32, inner: &[u8]) -> Self {
        self.delimited(field, inner)
    }

    /// A `map<string, string>`: a list of messages with key 1 and value 2.
    pub(super) fn map(mut self, field: u32, pairs: &[(String, String)]) -> Self {
        for (key, value) in pairs {
            self = self.message(field, &Self::new().text(1, key).text(2, value));
        }
        self
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn delimited(mut self, field: u32, bytes: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value > 127 {
            self.0.push(u8::try_from(value & 127).unwrap_or(0) | 128);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or(0));
    }
}

/// The fields of a message with this number; what does not parse is not there.
fn fields(bytes: &[u8], field: u32) -> impl Iterator<Item = Field<'_>> {
    Fields::new("a message of containerd", bytes, 0)
        .flatten()
        .filter(move |found| found.number == field)
}

/// The bytes of a field, of an inner message too; the last one counts. Empty: it is not there.
pub(super) fn bytes_at(bytes: &[u8], field: u32) -> &[u8] {
    fields(bytes, field)
        .filter_map(|found| found.bytes().ok())
        .last()
        .unwrap_or_default()
}

/// All of a repeated field.
pub(super) fn all_at(bytes: &[u8], field: u32) -> Vec<&[u8]> {
    fields(bytes, field)
        .filter_map(|found| found.bytes().ok())
        .collect()
}

/// The text of a field.
pub(super) fn text_at(bytes: &[u8], field: u32) -> String {
    String::from_utf8_lossy(bytes_at(bytes, field)).into_owned()
}

/// The number of a field.
pub(super) fn number_at(bytes: &[u8], field: u32) -> u64 {
    let found = fields(bytes, field).filter_map(|found| found.u64().ok());
    found.last().unwrap_or(0)
}

/// The value of a key of a `map<string, string>`.
pub(super) fn value_at(bytes: &[u8], field: u32, key: &str) -> Option<String> {
    let pairs = all_at(bytes, field);
    let found = pairs.into_iter().find(|pair| text_at(pair, 1) == key)?;
    Some(text_at(found, 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let inner = Message::new().text(1, "deep").number(2, 300);
        let pairs = [
            ("a".to_owned(), "1".to_owned()),
            ("b".to_owned(), String::new()),
        ];
        let bytes = Message::new()
            .text(1, "x")
            .text(2, "")
            .number(3, 0)
            .number(16, u64::MAX)
            .message(5, &inner)
            .map(6, &pairs)
            .into_bytes();
        assert_eq!(text_at(&bytes, 1), "x");
        assert_eq!(number_at(&bytes, 16), u64::MAX);
        assert_eq!(text_at(bytes_at(&bytes, 5), 1), "deep");
        assert_eq!(number_at(bytes_at(&bytes, 5), 2), 300);
        assert_eq!(value_at(&bytes, 6, "a").as_deref(), Some("1"));
        assert_eq!(value_at(&bytes, 6, "b").as_deref(), Some(""));
        assert_eq!(value_at(&bytes, 6, "c"), None);
        assert!(fields(&bytes, 2).next().is_none() && fields(&bytes, 3).next().is_none());
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        // "Encoding" of protobuf: field 1 with 150, field 2 with "testing".
        let bytes = Message::new()
            .number(1, 150)
            .text(2, "testing")
            .into_bytes();
        assert_eq!(bytes, b"\x08\x96\x01\x12\x07testing");
    }
}
