//! Owns the few lines of protobuf the demo writes: varints, booleans, strings and nested messages.
//!
//! Always: fields come out in the order they were put in, as CRIU's own encoder writes them (ascending).
//! Never: decodes; the engine has the decoder, and this file must not share its mistakes.

const WIRE_VARINT: u32 = 0;
const WIRE_BYTES: u32 = 2;

/// One protobuf message under construction.
#[derive(Debug, Default, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// An empty message.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds an unsigned integer field (uint32, uint64, bool, enum).
    pub(crate) fn uint(mut self, field: u32, value: u64) -> Self {
        self.key(field, WIRE_VARINT);
        put_varint(&mut self.bytes, value);
        self
    }

    /// Adds a signed field of type sint32 or sint64 (zigzag).
    pub(crate) fn sint(self, field: u32, value: i64) -> Self {
        let zigzag = (value << 1) ^ (value >> 63);
        self.uint(field, u64::from_le_bytes(zigzag.to_le_bytes()))
    }

    /// Adds a string or bytes field.
    pub(crate) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.key(field, WIRE_BYTES);
        put_varint(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(value);
        self
    }

    /// Adds a nested message.
    pub(crate) fn message(self, field: u32, value: &Message) -> Self {
        self.bytes(field, &value.bytes)
    }

    /// The encoded message, without any length before it.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn key(&mut self, field: u32, wire: u32) {
        put_varint(&mut self.bytes, u64::from(field << 3 | wire));
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_strings_and_messages_have_the_bytes_of_the_protobuf_rules() {
        let inner = Message::new().uint(1, 150);
        let whole = Message::new()
            .uint(1, 0)
            .bytes(2, b"testing")
            .message(3, &inner);
        assert_eq!(inner.as_bytes(), [0x08, 0x96, 0x01]);
        assert_eq!(
            whole.as_bytes(),
            b"\x08\x00\x12\x07testing\x1a\x03\x08\x96\x01"
        );
    }

    #[test]
    fn the_largest_integer_takes_ten_bytes() {
        let message = Message::new().uint(16, u64::MAX);
        assert_eq!(
            message.as_bytes(),
            [
                0x80, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01
            ]
        );
    }

    #[test]
    fn a_signed_minus_one_is_the_unsigned_one() {
        assert_eq!(
            Message::new().sint(8, -1).as_bytes(),
            Message::new().uint(8, 1).as_bytes()
        );
        assert_eq!(Message::new().sint(7, 126).as_bytes(), [0x38, 0xfc, 0x01]);
    }
}
