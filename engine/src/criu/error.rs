//! Why an image could not be read.
//!
//! Always: names what was being read, the byte where it went wrong (counted from the start of the image), and the
//! numbers that disagree. Never: holds bytes of the image, which may be secret memory.

/// Why a CRIU image could not be read. The image is damaged, hostile, or too new: store it as opaque bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CriuError {
    /// The bytes end before the thing does; a length that is larger than the rest of the image is this, too.
    #[error("{what} at byte {offset}: {needed} bytes needed, {got} left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Byte in the image where it starts.
        offset: usize,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that are there.
        got: u64,
    },
    /// The image starts with another magic number: it is of another type, or no CRIU image.
    #[error("{what} at byte {offset}: {needed:#010x} expected, {got:#010x} found")]
    Magic {
        /// Which of the magic numbers.
        what: &'static str,
        /// Byte in the image where it stands.
        offset: usize,
        /// The number expected.
        needed: u32,
        /// The number found.
        got: u32,
    },
    /// The magic number is right but for its byte order: the image comes from a big-endian machine (s390x).
    #[error(
        "{what} at byte {offset}: {needed:#010x} expected, {got:#010x} found: written by a big-endian machine"
    )]
    ByteOrder {
        /// Which of the magic numbers.
        what: &'static str,
        /// Byte in the image where it stands.
        offset: usize,
        /// The number expected.
        needed: u32,
        /// The number found.
        got: u32,
    },
    /// A varint goes on for more than ten bytes or does not fit 64 bits.
    #[error("{what} at byte {offset}: varint does not fit 64 bits")]
    Varint {
        /// The message it is in.
        what: &'static str,
        /// Byte in the image where it starts.
        offset: usize,
    },
    /// A field tag with a number or a wire type that protobuf does not have, or a group, which CRIU never writes.
    #[error("{what} at byte {offset}: no such field tag: number {number}, wire type {wire_type}")]
    Tag {
        /// The message it is in.
        what: &'static str,
        /// Byte in the image where the tag starts.
        offset: usize,
        /// The field number in it.
        number: u64,
        /// The wire type in it.
        wire_type: u8,
    },
    /// A known field came with another wire type than its definition has.
    #[error("{what} at byte {offset}: field {number} has wire type {got}, {needed} expected")]
    WireType {
        /// The message it is in.
        what: &'static str,
        /// Byte in the image where its value starts.
        offset: usize,
        /// The field number.
        number: u32,
        /// The wire type expected.
        needed: u8,
        /// The wire type found.
        got: u8,
    },
    /// A value is larger than its type can hold.
    #[error("{what} at byte {offset}: field {number} is {got}, at most {needed} fits")]
    TooLarge {
        /// The message it is in.
        what: &'static str,
        /// Byte in the image where its value starts.
        offset: usize,
        /// The field number.
        number: u32,
        /// The largest value that fits.
        needed: u64,
        /// The value found.
        got: u64,
    },
    /// A field that every writer sets is not there.
    #[error("{what} at byte {offset}: field {number} ({name}) is missing")]
    Missing {
        /// The message it should be in.
        what: &'static str,
        /// Byte in the image where the message starts.
        offset: usize,
        /// The field number.
        number: u32,
        /// Its name in CRIU.
        name: &'static str,
    },
    /// A sum of page counts, or their bytes, does not fit 64 bits.
    #[error("{what}: sum overflows at entry {entry}: {needed} more on top of {got}")]
    Overflow {
        /// Which sum.
        what: &'static str,
        /// Index of the pagemap entry that breaks it.
        entry: usize,
        /// What was to be added, or the factor.
        needed: u64,
        /// The sum so far.
        got: u64,
    },
}
