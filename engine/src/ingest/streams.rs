//! Owns the import of named streams, in any order and of unknown length: what CRIU's image streamer or a pod checkpoint give.
//!
//! Always: becomes a tar whose headers are made here (ustar with PAX records, as for a directory), in the order in which the streams ended. There is no
//! digest of the whole, since its bytes do not come in its order: the digests of the streams are what is checked. Never: waits for a stream to be complete.

use cryostore_format::manifest::{Layout, Piece, Role};
use cryostore_format::snapshot::ArchiveKind;

use super::facts::Facts;
use super::stream::{OpenStream, StreamSpec};
use super::writer::Writer;
use super::{BaseChoice, ImportOptions, Imported, Made, Plan, explain};
use crate::archive::directory::stream_header;
use crate::archive::tar::BLOCK;
use crate::error::{Error, Kind, Result};
use crate::monitor::{Monitor, keep_going};
use crate::repo::Repository;

/// A stream of a [`StreamImport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(usize);

struct Open<'r> {
    name: Vec<u8>,
    stream: OpenStream<'r>,
    kept: Vec<u8>,
    wanted: usize,
    len: u64,
}

/// An import that is fed stream by stream. Dropped without [`Self::commit`], it leaves nothing that is visible.
pub struct StreamImport<'r> {
    repo: &'r Repository,
    options: ImportOptions,
    monitor: &'r dyn Monitor,
    plan: Plan<'r>,
    writer: Writer<'r>,
    facts: Facts,
    open: Vec<Option<Open<'r>>>,
    layout: Vec<u8>,
    pieces: Vec<Piece>,
    len: u64,
    literal: u64,
}

impl std::fmt::Debug for StreamImport<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamImport")
            .field("streams", &self.open.len())
            .finish_non_exhaustive()
    }
}

impl<'r> StreamImport<'r> {
    /// Begins an import. Pages are looked for in the index; there is no base, since addresses come later than pages.
    pub fn begin(
        repo: &'r Repository,
        options: ImportOptions,
        monitor: &'r dyn Monitor,
    ) -> Result<Self> {
        let options = ImportOptions {
            base: BaseChoice::None,
            ..options
        };
        let facts = Facts::default();
        let plan = Plan::new(repo, &facts, &options, None, monitor)?;
        let mut writer = Writer::new(repo, plan.session.terms(), None, false, monitor);
        // The layout is stream 0, and its bytes are known last.
        let layout = writer.open(StreamSpec {
            name: Vec::new(),
            role: Role::Layout,
            pages: None,
        })?;
        let open = vec![Some(Open {
            name: Vec::new(),
            stream: layout,
            kept: Vec::new(),
            wanted: 0,
            len: 0,
        })];
        Ok(Self {
            repo,
            options,
            monitor,
            plan,
            writer,
            facts,
            open,
            layout: Vec::new(),
            pieces: Vec::new(),
            len: 0,
            literal: 0,
        })
    }

    /// Begins a stream with this name, such as `pages-1.img`.
    pub fn stream(&mut self, name: &[u8]) -> Result<StreamId> {
        if name.is_empty() || name.len() > 4096 {
            return Err(Error::new(
                Kind::Invalid,
                format!("a stream's name of {} bytes", name.len()),
            )
            .hint("use 1 to 4096 bytes"));
        }
        let wanted = self.facts.looks_at(name);
        let pages = self.facts.page_image(name, 0);
        let stream = self.writer.open(StreamSpec {
            name: name.to_vec(),
            role: Role::Member,
            pages,
        })?;
        self.open.push(Some(Open {
            name: name.to_vec(),
            stream,
            kept: Vec::new(),
            wanted,
            len: 0,
        }));
        Ok(StreamId(self.open.len() - 1))
    }

    fn get<'o>(open: &'o mut [Option<Open<'r>>], id: StreamId) -> Result<&'o mut Option<Open<'r>>> {
        open.get_mut(id.0)
            .filter(|stream| stream.is_some() && id.0 > 0)
            .ok_or_else(|| {
                Error::new(Kind::Invalid, "the stream has ended")
                    .hint("write to a stream before it is ended")
            })
    }

    /// The next bytes of a stream.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<()> {
        keep_going(self.monitor)?;
        let Some(open) = Self::get(&mut self.open, id)? else {
            return Ok(());
        };
        open.len += bytes.len() as u64;
        let take = open.wanted.saturating_sub(open.kept.len()).min(bytes.len());
        open.kept.extend_from_slice(&bytes[..take]);
        let written = self.writer.write(&mut open.stream, bytes);
        written.map_err(|e| explain(self.repo, self.plan.whose(), e))
    }

    /// Ends a stream.
    pub fn end(&mut self, id: StreamId) -> Result<()> {
        let Some(open) = Self::get(&mut self.open, id)?.take() else {
            return Ok(());
        };
        let closed = self.writer.close(open.stream);
        let stream = closed.map_err(|e| explain(self.repo, self.plan.whose(), e))?;
        self.facts.member(&open.name, open.len, 0);
        if open.wanted > 0 {
            self.facts.learn(&open.name, &open.kept);
        }
        let header = stream_header(&open.name, open.len);
        self.literal += header.len() as u64;
        self.len += header.len() as u64;
        self.layout.extend_from_slice(&header);
        if open.len > 0 {
            self.facts.stored(&open.name, open.len, stream);
            self.pieces.push(Piece {
                literal: std::mem::take(&mut self.literal),
                stream: Some(stream),
            });
            self.len += open.len;
            let padding = open.len.next_multiple_of(BLOCK as u64) - open.len;
            self.pad(padding);
        }
        Ok(())
    }

    fn pad(&mut self, len: u64) {
        self.literal += len;
        self.len += len;
        self.layout
            .resize(self.layout.len() + usize::try_from(len).unwrap_or(0), 0);
    }

    /// Commits. A stream that was not ended is an error.
    pub fn commit(mut self) -> Result<Imported> {
        let layout = self.open.first_mut().and_then(Option::take);
        if let Some(open) = self.open.iter().flatten().next() {
            let name = String::from_utf8_lossy(&open.name).into_owned();
            return Err(
                Error::new(Kind::Invalid, format!("the stream `{name}` was not ended"))
                    .hint("end every stream before the commit"),
            );
        }
        self.pad(2 * BLOCK as u64);
        self.pieces.push(Piece {
            literal: self.literal,
            stream: None,
        });
        let Some(mut layout) = layout else {
            return Err(Error::new(Kind::Internal, "an import without a layout"));
        };
        self.writer.write(&mut layout.stream, &self.layout)?;
        self.writer.close(layout.stream)?;
        let layout = Layout {
            pieces: self.pieces,
            len: self.len,
            digest: None,
        };
        let made = Made {
            kind: ArchiveKind::Tar,
            outer: None,
            layout,
        };
        let (repo, whose) = (self.repo, self.plan.whose());
        let committed = self.plan.commit(
            self.repo,
            self.writer,
            self.facts,
            made,
            None,
            &self.options,
            self.monitor,
        );
        committed.map_err(|e| explain(repo, whose, e))
    }
}
