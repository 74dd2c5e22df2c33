//! Owns the way from a tar to streams: one for each member with content, one for everything between them.
//!
//! Always: the layout and the streams give the tar back byte for byte, whatever the members hold. Page images are cut on pages, tars within are
//! opened, gzip data within is opened where that is proved to give the same bytes back. Never: a member in memory that is not bounded.

use cryostore_format::limits as format_limits;
use cryostore_format::manifest::{Layout, Piece, Role};

use super::facts::Facts;
use super::stream::{OpenStream, StreamSpec};
use super::writer::Writer;
use crate::archive::gzip::{self, GzipLimits};
use crate::archive::tar::{BLOCK, Member, Span, TarEnd, TarError, TarReader, looks_like_tar};
use crate::error::{Error, Kind, Result};
use crate::limits;

/// Members of a tar within that are at least as long are cut on their own; shorter ones together with their headers.
const LARGE_MEMBER: u64 = 32 << 10;
/// Bytes of the layout that wait before they are cut.
const LAYOUT_WAITING: usize = 256 << 10;

/// What the current member's content goes to.
enum Body<'r> {
    /// The first bytes of a member, which tell what it is.
    Undecided(Vec<u8>),
    Stream(Box<OpenStream<'r>>),
    Nested(Box<OpenStream<'r>>, Box<Nested>),
    Gzip(Vec<u8>),
}

/// Finds the borders in a tar within.
struct Nested {
    /// None once it turned out to be no tar.
    tar: Option<TarReader>,
    in_large: bool,
}

struct Current<'r> {
    name: Vec<u8>,
    len: u64,
    body: Body<'r>,
    /// First bytes for [`Facts::learn`], and how many it wants.
    kept: Vec<u8>,
    wanted: usize,
}

/// Takes a tar apart.
pub(super) struct TarFront<'r> {
    reader: TarReader,
    layout_stream: Option<OpenStream<'r>>,
    layout_bytes: Vec<u8>,
    pieces: Vec<Piece>,
    literal: u64,
    current: Option<Current<'r>>,
}

impl<'r> TarFront<'r> {
    pub(super) fn new(writer: &mut Writer<'r>) -> Result<Self> {
        let layout = writer.open(StreamSpec {
            name: Vec::new(),
            role: Role::Layout,
            pages: None,
        })?;
        Ok(Self {
            reader: TarReader::new(),
            layout_stream: Some(layout),
            layout_bytes: Vec::new(),
            pieces: Vec::new(),
            literal: 0,
            current: None,
        })
    }

    /// The next bytes of the tar.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        writer: &mut Writer<'r>,
        facts: &mut Facts,
    ) -> Result<()> {
        loop {
            let span = self.reader.next(bytes).map_err(not_a_tar)?;
            let Some(span) = span else { return Ok(()) };
            match span {
                Span::Meta(len) => {
                    self.literal += len as u64;
                    self.layout_bytes.extend_from_slice(&bytes[..len]);
                    bytes = &bytes[len..];
                    if self.layout_bytes.len() >= LAYOUT_WAITING {
                        self.write_layout(writer)?;
                    }
                }
                Span::Member(member) => self.begin(&member, facts)?,
                Span::Data(len) => {
                    let (data, rest) = bytes.split_at(len);
                    self.data(data, writer, facts)?;
                    bytes = rest;
                }
                Span::End => self.end(writer, facts)?,
            }
        }
    }

    /// Ends the tar.
    pub(super) fn finish(
        mut self,
        writer: &mut Writer<'r>,
        facts: &mut Facts,
    ) -> Result<(Layout, TarEnd)> {
        self.push(&[], writer, facts)?;
        let len = self.reader.position();
        let end = std::mem::take(&mut self.reader).finish().map_err(|e| {
            if len < BLOCK as u64 {
                Error::new(
                    Kind::Invalid,
                    format!("it is cut short: {len} bytes are no tar, a header alone has {BLOCK}"),
                )
                .hint("name a checkpoint archive, or a directory of CRIU images")
            } else {
                not_a_tar(e)
            }
        })?;
        if end.members == 0 {
            return Err(Error::new(
                Kind::Invalid,
                format!("the archive is empty: {len} bytes and no member"),
            )
            .hint("look whether the checkpoint was written completely"));
        }
        self.write_layout(writer)?;
        if let Some(layout) = self.layout_stream.take() {
            writer.close(layout)?;
        }
        if self.literal > 0 {
            self.pieces.push(Piece {
                literal: self.literal,
                stream: None,
            });
        }
        Ok((
            Layout {
                pieces: self.pieces,
                len,
                digest: None,
            },
            end,
        ))
    }

    fn write_layout(&mut self, writer: &mut Writer<'r>) -> Result<()> {
        if let Some(layout) = &mut self.layout_stream {
            writer.write(layout, &self.layout_bytes)?;
        }
        self.layout_bytes.clear();
        Ok(())
    }

    fn begin(&mut self, member: &Member, facts: &mut Facts) -> Result<()> {
        let name_len = member.name.len() as u64;
        if name_len > format_limits::NAME_MAX {
            return Err(Error::new(
                Kind::Invalid,
                format!("the member at byte {} has a name of {name_len} bytes, at most {} are accepted", member.offset, format_limits::NAME_MAX),
            )
            .hint("no file system has such names: look where the archive comes from; nothing was stored"));
        }
        facts.member(&member.name, member.len, member.mtime);
        self.current = (member.len > 0).then(|| Current {
            name: member.name.clone(),
            len: member.len,
            body: Body::Undecided(Vec::new()),
            kept: Vec::new(),
            wanted: facts.wants(&member.name, member.len),
        });
        Ok(())
    }

    fn data(&mut self, data: &[u8], writer: &mut Writer<'r>, facts: &mut Facts) -> Result<()> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if current.kept.len() < current.wanted {
            let take = (current.wanted - current.kept.len()).min(data.len());
            current.kept.extend_from_slice(&data[..take]);
        }
        if let Body::Undecided(head) = &mut current.body {
            let enough = BLOCK.min(usize::try_from(current.len).unwrap_or(BLOCK));
            if head.is_empty() && data.len() >= enough {
                current.body = decide(&current.name, current.len, data, writer, facts)?;
            } else {
                head.extend_from_slice(data);
                if head.len() < enough {
                    return Ok(());
                }
                let head = std::mem::take(head);
                current.body = decide(&current.name, current.len, &head, writer, facts)?;
                return current.body.write(&head, writer);
            }
        }
        current.body.write(data, writer)
    }

    fn end(&mut self, writer: &mut Writer<'r>, facts: &mut Facts) -> Result<()> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        if current.wanted > 0 {
            facts.learn(&current.name, &current.kept);
        }
        let stream = match current.body {
            Body::Stream(stream) | Body::Nested(stream, _) => writer.close(*stream)?,
            Body::Gzip(bytes) => gzip_member(current.name.clone(), &bytes, writer)?,
            // A member always decides by its last byte.
            Body::Undecided(_) => {
                return Err(Error::new(
                    Kind::Internal,
                    "a member ended before it was known what it is",
                ));
            }
        };
        facts.stored(&current.name, current.len, stream);
        self.pieces.push(Piece {
            literal: std::mem::take(&mut self.literal),
            stream: Some(stream),
        });
        Ok(())
    }
}

fn not_a_tar(e: TarError) -> Error {
    let hint = match e {
        TarError::Checksum { offset: 0 } => {
            "it is no tar: name a checkpoint archive, or a directory of CRIU images"
        }
        _ => "look whether the checkpoint was written completely; nothing was stored",
    };
    Error::new(Kind::Invalid, e.to_string()).hint(hint)
}

/// What a member is, by its name and its first bytes.
fn decide<'r>(
    name: &[u8],
    len: u64,
    head: &[u8],
    writer: &mut Writer<'r>,
    facts: &mut Facts,
) -> Result<Body<'r>> {
    let member = |pages| StreamSpec {
        name: name.to_vec(),
        role: Role::Member,
        pages,
    };
    if let Some(pages) = facts.page_image(name, len) {
        let stream = writer.open(member(Some(pages)))?;
        return Ok(Body::Stream(Box::new(stream)));
    }
    if head.starts_with(&[0x1f, 0x8b]) && len <= limits::GZIP_COMPRESSED as u64 {
        return Ok(Body::Gzip(Vec::new()));
    }
    let stream = Box::new(writer.open(member(None))?);
    if looks_like_tar(head) {
        return Ok(Body::Nested(stream, Box::new(Nested::new())));
    }
    Ok(Body::Stream(stream))
}

impl<'r> Body<'r> {
    fn write(&mut self, data: &[u8], writer: &mut Writer<'r>) -> Result<()> {
        match self {
            Self::Undecided(head) => head.extend_from_slice(data),
            Self::Gzip(bytes) => bytes.extend_from_slice(data),
            Self::Stream(stream) => writer.write(stream, data)?,
            Self::Nested(stream, nested) => nested.write(stream, data, writer)?,
        }
        Ok(())
    }
}

impl Nested {
    fn new() -> Self {
        Self {
            tar: Some(TarReader::new()),
            in_large: false,
        }
    }

    fn write<'r>(
        &mut self,
        stream: &mut OpenStream<'r>,
        mut data: &[u8],
        writer: &mut Writer<'r>,
    ) -> Result<()> {
        while let Some(tar) = &mut self.tar {
            match tar.next(data) {
                Ok(None) => return Ok(()),
                Ok(Some(Span::Member(member))) => {
                    if member.len >= LARGE_MEMBER {
                        self.in_large = true;
                        writer.border(stream)?;
                    }
                }
                Ok(Some(Span::End)) => {
                    if std::mem::take(&mut self.in_large) {
                        writer.border(stream)?;
                    }
                }
                Ok(Some(Span::Meta(len) | Span::Data(len))) => {
                    writer.write(stream, &data[..len])?;
                    data = &data[len..];
                }
                // From here on it is cut without borders.
                Err(_) => self.tar = None,
            }
        }
        writer.write(stream, data)
    }
}

/// Stores gzip data as its content and corrections, or as it is.
fn gzip_member(name: Vec<u8>, bytes: &[u8], writer: &mut Writer<'_>) -> Result<u32> {
    let bounds = GzipLimits {
        max_compressed: limits::GZIP_COMPRESSED,
        max_plain: limits::GZIP_PLAIN,
    };
    if let Some(same) = writer.same_derived(&name, bytes)? {
        return Ok(same);
    }
    match gzip::open(bytes, &bounds) {
        Ok(opened) => {
            let plain = part(&opened.plain, writer)?;
            let corrections = part(&opened.recipe, writer)?;
            writer.derived(name, bytes, plain, corrections)
        }
        Err(refusal) => {
            tracing::debug!(
                "{}: stored as it is: {refusal:?}",
                String::from_utf8_lossy(&name)
            );
            let mut stream = writer.open(StreamSpec {
                name,
                role: Role::Member,
                pages: None,
            })?;
            writer.write(&mut stream, bytes)?;
            writer.close(stream)
        }
    }
}

fn part(bytes: &[u8], writer: &mut Writer<'_>) -> Result<u32> {
    let mut stream = writer.open(StreamSpec {
        name: Vec::new(),
        role: Role::Part,
        pages: None,
    })?;
    if looks_like_tar(bytes) {
        Nested::new().write(&mut stream, bytes, writer)?;
    } else {
        writer.write(&mut stream, bytes)?;
    }
    writer.close(stream)
}
