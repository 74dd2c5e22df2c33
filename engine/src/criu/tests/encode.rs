//! The smallest protobuf encoder that can build the images of the tests.

use crate::criu::magic;

/// A message in the making.
#[derive(Default, Clone)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn varint(mut self, number: u32, n: u64) -> Self {
        push_varint(&mut self.0, u64::from(number) << 3);
        push_varint(&mut self.0, n);
        self
    }

    pub(super) fn bytes(mut self, number: u32, bytes: &[u8]) -> Self {
        push_varint(&mut self.0, u64::from(number) << 3 | 2);
        push_varint(&mut self.0, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

pub(super) fn push_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

pub(super) fn packed(numbers: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    numbers.iter().for_each(|n| push_varint(&mut out, *n));
    out
}

/// An image of these messages, with the magic numbers that its type takes.
pub(super) fn image(type_magic: u32, messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    match type_magic {
        magic::INVENTORY => {}
        magic::STATS => out.extend(magic::IMG_SERVICE.to_le_bytes()),
        _ => out.extend(magic::IMG_COMMON.to_le_bytes()),
    }
    out.extend(type_magic.to_le_bytes());
    for message in messages {
        let size = u32::try_from(message.0.len()).expect("a small message");
        out.extend(size.to_le_bytes());
        out.extend(&message.0);
    }
    out
}

pub(super) fn pagemap(pages_id: u64, entries: &[Message]) -> Vec<u8> {
    let mut messages = vec![Message::new().varint(1, pages_id)];
    messages.extend_from_slice(entries);
    image(magic::PAGEMAP, &messages)
}

/// An entry as CRIU 4.2 writes it: 0 in the old count.
pub(super) fn entry(vaddr: u64, nr_pages: u64, flags: u64) -> Message {
    let message = Message::new().varint(1, vaddr).varint(2, 0);
    message.varint(4, flags).varint(5, nr_pages)
}
