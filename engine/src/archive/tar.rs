//! Owns the reading of tars: what each byte of a stream is to the tar.
//!
//! Always: the spans that come out cover the bytes that went in, in order, each once; headers are opaque bytes that are
//! looked at, never made anew. Accepted: ustar, GNU (long names, base-256 numbers, sparse), PAX, and the old form without a magic.
//! Never: follows a name; holds more than one member's extensions, which are bounded.
//!
//! A tar may end without the two zero blocks (strange, told by [`TarEnd`]), and anything may follow them: containerd and CRI-O
//! write over a longer file without truncating it.

use std::collections::VecDeque;

use thiserror::Error;

use crate::limits;

/// Tars are made of blocks of this length.
pub const BLOCK: usize = 512;

/// Why bytes are no tar.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TarError {
    /// The checksum of a header does not match.
    #[error("the header at byte {offset} is damaged or is none: its checksum does not match")]
    Checksum {
        /// Bytes from the start of the tar.
        offset: u64,
    },
    /// A field of a header holds no number.
    #[error("the header at byte {offset} has no valid {field}")]
    Field {
        /// Bytes from the start of the tar.
        offset: u64,
        /// The field.
        field: &'static str,
    },
    /// Extensions of one member are larger than accepted.
    #[error(
        "the member at byte {offset} has {got} bytes of extensions, at most {limit} are accepted"
    )]
    Extensions {
        /// Bytes from the start of the tar.
        offset: u64,
        /// Bytes it claims.
        got: u64,
        /// The bound.
        limit: u64,
    },
    /// The bytes end within a member.
    #[error("the archive is cut short: {missing} bytes are missing of `{name}`, at byte {offset}")]
    Truncated {
        /// Where the bytes end.
        offset: u64,
        /// Bytes that the member still needs.
        missing: u64,
        /// The member, for people.
        name: String,
    },
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryType {
    /// A file with content.
    File,
    /// A second name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A file with holes in GNU's coding: its content is not the file's.
    Sparse,
    /// A device, a pipe or something else, by its type flag.
    Other(u8),
}

/// A member of a tar, as its headers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name's bytes, not to be trusted as a path.
    pub name: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryType,
    /// Bytes of content that follow the headers.
    pub len: u64,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Bytes from the start of the tar to its first header.
    pub offset: u64,
}

/// What the next bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// So many bytes of headers, padding or what follows the end.
    Meta(usize),
    /// A member begins; takes no bytes.
    Member(Box<Member>),
    /// So many bytes of the member's content.
    Data(usize),
    /// The member's content is complete; takes no bytes.
    End,
}

/// How a tar ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarEnd {
    /// Number of members.
    pub members: u64,
    /// The two zero blocks were there.
    pub complete: bool,
    /// Bytes after them that are not zero.
    pub garbage: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extension {
    PaxLocal,
    PaxGlobal,
    LongName,
    LongLink,
}

#[derive(Debug)]
enum State {
    Header,
    /// A block that continues GNU's sparse header.
    SparseMap,
    Extension {
        kind: Extension,
        left: usize,
        padding: usize,
    },
    Data {
        left: u64,
        padding: usize,
    },
    Padding {
        left: usize,
    },
    After,
}

/// What extensions said about the next member.
#[derive(Debug, Default)]
struct Pending {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    len: Option<u64>,
    mtime: Option<i64>,
    /// Where the first of its headers stands.
    offset: Option<u64>,
    /// Bytes of its extensions.
    bytes: usize,
}

/// Reads a tar that comes in pieces of any length.
#[derive(Debug)]
pub struct TarReader {
    state: State,
    /// Bytes taken so far.
    at: u64,
    /// A header or an extension that is not complete yet.
    buffer: Vec<u8>,
    pending: Pending,
    /// What comes next and takes no bytes.
    queued: VecDeque<Span>,
    /// The member of a sparse header whose map is not complete.
    sparse: Option<Box<Member>>,
    /// Name of the current member, for errors.
    name: Vec<u8>,
    zero_blocks: u8,
    end: TarEnd,
}

impl Default for TarReader {
    fn default() -> Self {
        Self::new()
    }
}

impl TarReader {
    /// At the start of a tar.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Header,
            at: 0,
            buffer: Vec::with_capacity(BLOCK),
            pending: Pending::default(),
            queued: VecDeque::new(),
            sparse: None,
            name: Vec::new(),
            zero_blocks: 0,
            end: TarEnd {
                members: 0,
                complete: false,
                garbage: false,
            },
        }
    }

    /// Bytes taken so far.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.at
    }

    /// What `bytes` begins with; none if nothing is known without more bytes. The caller goes on after as many bytes as
    /// the span takes, and asks once more with no bytes at the end.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<Span>, TarError> {
        if let Some(span) = self.queued.pop_front() {
            return Ok(Some(span));
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let span = match self.state {
            State::Header | State::SparseMap => {
                let take = (BLOCK - self.buffer.len()).min(bytes.len());
                self.buffer.extend_from_slice(&bytes[..take]);
                if self.buffer.len() == BLOCK {
                    let block = std::mem::take(&mut self.buffer);
                    self.block(
                        &block,
                        self.at
                            .saturating_add(take as u64)
                            .saturating_sub(BLOCK as u64),
                    )?;
                }
                Span::Meta(take)
            }
            State::Extension {
                kind,
                left,
                padding,
            } => {
                let take = left.min(bytes.len());
                self.buffer.extend_from_slice(&bytes[..take]);
                self.state = State::Extension {
                    kind,
                    left: left - take,
                    padding,
                };
                if take == left {
                    let body = std::mem::take(&mut self.buffer);
                    self.pending.take_in(kind, &body);
                    self.pad(padding);
                }
                Span::Meta(take)
            }
            State::Data { left, padding } => {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                self.data(left - take as u64, padding);
                Span::Data(take)
            }
            State::Padding { left } => {
                let take = left.min(bytes.len());
                self.pad(left - take);
                Span::Meta(take)
            }
            State::After => {
                self.end.garbage |= bytes.iter().any(|b| *b != 0);
                Span::Meta(bytes.len())
            }
        };
        if let Span::Meta(len) | Span::Data(len) = span {
            self.at = self.at.saturating_add(len as u64);
        }
        Ok(Some(span))
    }

    /// Passes over what is left of the current member's content: so many bytes are not shown to [`Self::next`].
    pub fn skip(&mut self) -> u64 {
        match self.state {
            State::Data { left, padding } => {
                // Hostile sizes add up to more than there are bytes in the world.
                self.at = self.at.saturating_add(left);
                self.data(0, padding);
                left
            }
            _ => 0,
        }
    }

    /// Ends the reading: an error if the bytes ended within a member.
    pub fn finish(self) -> Result<TarEnd, TarError> {
        let missing = match self.state {
            State::Data { left, padding } => left.saturating_add(padding as u64),
            State::Extension { left, padding, .. } => (left + padding) as u64,
            State::SparseMap => BLOCK as u64,
            State::Header if !self.buffer.is_empty() => (BLOCK - self.buffer.len()) as u64,
            State::Header if self.pending.offset.is_some() => BLOCK as u64,
            // Padding that was never written loses nothing.
            State::Header | State::Padding { .. } | State::After => 0,
        };
        if missing > 0 {
            let name = match self.state {
                State::Header => "the next header".to_owned(),
                _ => String::from_utf8_lossy(&self.name).into_owned(),
            };
            return Err(TarError::Truncated {
                offset: self.at,
                missing,
                name,
            });
        }
        Ok(self.end)
    }

    fn data(&mut self, left: u64, padding: usize) {
        self.state = State::Data { left, padding };
        if left == 0 {
            self.queued.push_back(Span::End);
            self.pad(padding);
        }
    }

    fn pad(&mut self, left: usize) {
        self.state = if left == 0 {
            State::Header
        } else {
            State::Padding { left }
        };
    }

    fn announce(&mut self, member: Box<Member>) {
        let len = member.len;
        self.end.members += 1;
        self.name.clone_from(&member.name);
        self.queued.push_back(Span::Member(member));
        self.data(len, padding(len));
    }

    /// A whole block where a header may stand, `offset` bytes from the start.
    fn block(&mut self, block: &[u8], offset: u64) -> Result<(), TarError> {
        if matches!(self.state, State::SparseMap) {
            if block[504] == 0
                && let Some(member) = self.sparse.take()
            {
                self.announce(member);
            }
            return Ok(());
        }
        if block.iter().all(|b| *b == 0) {
            self.zero_blocks += 1;
            if self.zero_blocks == 2 {
                self.end.complete = true;
                self.state = State::After;
            }
            return Ok(());
        }
        self.zero_blocks = 0;
        if !checksum_matches(block) {
            return Err(TarError::Checksum { offset });
        }
        self.pending.offset.get_or_insert(offset);
        let field_error = |field| TarError::Field { offset, field };
        let len = number(&block[124..136])
            .and_then(|n| u64::try_from(n).ok())
            .ok_or(field_error("size"))?;
        let flag = block[156];
        if let Some(kind) = Extension::of(flag) {
            let limit = limits::TAR_EXTENSION as u64;
            let got = len.saturating_add(self.pending.bytes as u64);
            let left = usize::try_from(len).ok().filter(|_| got <= limit);
            let left = left.ok_or(TarError::Extensions { offset, got, limit })?;
            self.pending.bytes += left;
            self.state = if left == 0 {
                State::Header
            } else {
                State::Extension {
                    kind,
                    left,
                    padding: padding(len),
                }
            };
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let kind = EntryType::of(flag);
        // Links, directories and devices have no content, whatever their size field says: GNU tar and Go agree.
        let has_content = !matches!(flag, b'1'..=b'6');
        let len = if has_content {
            pending.len.unwrap_or(len)
        } else {
            0
        };
        // The kernel's offsets are signed, and no archive comes near: who says so is damaged or hostile.
        if offset
            .checked_add(len)
            .is_none_or(|end| end > limits::TAR_LEN)
        {
            return Err(field_error("size"));
        }
        let ustar = block[257..263] == *b"ustar\0";
        let member = Box::new(Member {
            name: pending.name.unwrap_or_else(|| header_name(block, ustar)),
            link: pending
                .link
                .unwrap_or_else(|| until_nul(&block[157..257]).to_vec()),
            kind,
            len,
            mode: number(&block[100..108])
                .and_then(|mode| u32::try_from(mode & 0o7777).ok())
                .unwrap_or(0),
            mtime: pending
                .mtime
                .or_else(|| number(&block[136..148]).and_then(|t| i64::try_from(t).ok()))
                .unwrap_or(0),
            offset: pending.offset.unwrap_or(offset),
        });
        if kind == EntryType::Sparse && block[482] != 0 {
            self.state = State::SparseMap;
            self.name.clone_from(&member.name);
            self.sparse = Some(member);
        } else {
            self.announce(member);
        }
        Ok(())
    }
}

impl Extension {
    const fn of(flag: u8) -> Option<Self> {
        Some(match flag {
            b'x' => Self::PaxLocal,
            b'g' => Self::PaxGlobal,
            b'L' => Self::LongName,
            b'K' => Self::LongLink,
            _ => return None,
        })
    }
}

impl EntryType {
    const fn of(flag: u8) -> Self {
        match flag {
            0 | b'0' | b'7' => Self::File,
            b'1' => Self::HardLink,
            b'2' => Self::Symlink,
            b'5' => Self::Directory,
            b'S' => Self::Sparse,
            other => Self::Other(other),
        }
    }
}

impl Pending {
    fn take_in(&mut self, kind: Extension, body: &[u8]) {
        match kind {
            Extension::LongName => self.name = Some(until_nul(body).to_vec()),
            Extension::LongLink => self.link = Some(until_nul(body).to_vec()),
            // What holds for all members is rare and never a name, a link or a size in what we read.
            Extension::PaxGlobal => {}
            Extension::PaxLocal => pax_records(body).for_each(|(key, value)| match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.len = text_number(value).or(self.len),
                b"mtime" => {
                    let seconds = value.split(|b| *b == b'.').next().unwrap_or_default();
                    self.mtime = std::str::from_utf8(seconds)
                        .ok()
                        .and_then(|text| text.parse().ok())
                        .or(self.mtime);
                }
                _ => {}
            }),
        }
    }
}

fn text_number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The records `LENGTH KEY=VALUE\n`; ends at the first that is none.
fn pax_records(mut body: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let space = body.iter().position(|b| *b == b' ')?;
        let len = usize::try_from(text_number(&body[..space])?).ok()?;
        let record = body.get(space + 1..len)?.strip_suffix(b"\n")?;
        body = &body[len..];
        let equals = record.iter().position(|b| *b == b'=')?;
        Some((&record[..equals], &record[equals + 1..]))
    })
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

fn header_name(block: &[u8], ustar: bool) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = if ustar {
        until_nul(&block[345..500])
    } else {
        &[]
    };
    if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, b"/", name].concat()
    }
}

/// A number in octal digits, or in GNU's base 256. An empty field is zero.
fn number(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // Two's complement over the bits that the marker leaves; more than 15 bytes do not occur.
        let start = if first & 0x40 != 0 { -1 } else { 0 };
        return field
            .iter()
            .enumerate()
            .try_fold(start, |value: i128, (n, byte)| {
                let byte = if n == 0 {
                    if start < 0 { byte | 0x80 } else { byte & 0x7f }
                } else {
                    *byte
                };
                value.checked_mul(256)?.checked_add(i128::from(byte))
            });
    }
    let digits = field
        .iter()
        .skip_while(|b| **b == b' ')
        .take_while(|b| !matches!(**b, 0 | b' '));
    digits
        .into_iter()
        .try_fold(0_i128, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i128::from(digit - b'0')),
            _ => None,
        })
}

/// The sum of the header's bytes, its own field taken as spaces; old tars summed signed bytes.
fn checksum_matches(block: &[u8]) -> bool {
    let expected = number(&block[148..156]);
    let bytes = || {
        block
            .iter()
            .enumerate()
            .map(|(n, b)| if (148..156).contains(&n) { b' ' } else { *b })
    };
    let unsigned: i128 = bytes().map(i128::from).sum();
    let signed: i128 = bytes().map(|b| i128::from(b.cast_signed())).sum();
    expected == Some(unsigned) || expected == Some(signed)
}

fn padding(len: u64) -> usize {
    let over = len % BLOCK as u64;
    usize::try_from((BLOCK as u64 - over) % BLOCK as u64).unwrap_or(0)
}

/// True if these bytes begin with a tar header.
#[must_use]
pub fn looks_like_tar(bytes: &[u8]) -> bool {
    bytes
        .get(..BLOCK)
        .is_some_and(|block| block.iter().any(|b| *b != 0) && checksum_matches(block))
}
