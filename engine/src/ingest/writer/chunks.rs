//! Owns the way of one chunk through an import: cut, compared, looked for, counted, stored or referred to.
//!
//! Always: chunks of a slab are compared together, and taken in their order. Never: holds more than a slab.

use cryostore_format::ChunkHash;
use cryostore_format::recipe::{FrameRef, FrameSlice, Slice};

use super::{Found, Writer, count};
use crate::chunk::cdc::Cutter;
use crate::chunk::page::{self, Page};
use crate::error::Result;
use crate::ingest::base::{BaseChunk, BasePage};
use crate::ingest::deltas::PageBase;
use crate::ingest::frames::{FrameNumber, Lies, Placed};
use crate::ingest::stream::{Cut, InFrame, OpenStream};
use crate::limits;

impl<'r> Writer<'r> {
    pub(super) fn write_pages(
        &mut self,
        stream: &mut OpenStream<'r>,
        mut bytes: &[u8],
    ) -> Result<()> {
        let Cut::Pages {
            page_size,
            phase_left,
            rest,
            ..
        } = &mut stream.cut
        else {
            return Ok(());
        };
        let page_size = *page_size;
        if *phase_left > 0 {
            let take = (*phase_left).min(bytes.len());
            rest.extend_from_slice(&bytes[..take]);
            *phase_left -= take;
            bytes = &bytes[take..];
            if *phase_left > 0 {
                return Ok(());
            }
            let head = std::mem::take(rest);
            self.piece(stream, &head)?;
        }
        let Cut::Pages { rest, .. } = &mut stream.cut else {
            return Ok(());
        };
        if !rest.is_empty() {
            let take = (page_size - rest.len()).min(bytes.len());
            rest.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if rest.len() < page_size {
                return Ok(());
            }
            let page = std::mem::take(rest);
            self.batch(stream, &page)?;
        }
        let whole = bytes.len() - bytes.len() % page_size;
        let (pages, tail) = bytes.split_at(whole);
        for batch in pages.chunks(limits::SLAB_LEN) {
            self.batch(stream, batch)?;
        }
        if let Cut::Pages { rest, .. } = &mut stream.cut {
            rest.extend_from_slice(tail);
        }
        Ok(())
    }

    /// Whole pages of a page image, or its last, shorter one.
    pub(super) fn batch(&mut self, stream: &mut OpenStream<'r>, bytes: &[u8]) -> Result<()> {
        let Cut::Pages {
            page_size,
            addresses,
            walk,
            ..
        } = &mut stream.cut
        else {
            return Ok(());
        };
        let page_size = *page_size;
        let mut pages = std::mem::take(&mut self.pages);
        let mut found = std::mem::take(&mut self.found);
        page::look(self.repo.key(), bytes, page_size, &mut pages);
        found.clear();
        let mut open = Vec::new();
        let mut stood_at = std::mem::take(&mut self.stood);
        stood_at.clear();
        for page in &pages {
            let address = addresses.next();
            let stood = address.and_then(|number| walk.as_mut()?.at(number));
            stood_at.push(match stood {
                Some(BasePage::Chunk(chunk)) => Some(chunk),
                _ => None,
            });
            found.push(match (page, stood) {
                (Page::Zero, _) => Found::Zero,
                (Page::Hash(hash), Some(BasePage::Chunk(chunk))) => {
                    if self.is_same(chunk, hash.id()) {
                        Found::Base(chunk)
                    } else {
                        self.changed = true;
                        Found::Open
                    }
                }
                (Page::Hash(_), _) => Found::Open,
            });
        }
        for (n, found) in found.iter_mut().enumerate() {
            if let Found::Base(chunk) = *found {
                *found = self.keep_or_store_again(chunk);
            }
            if matches!(found, Found::Open | Found::Again(None)) {
                open.push(n);
            }
        }
        let hash = |n: usize| match pages[n] {
            Page::Hash(hash) => hash,
            Page::Zero => ChunkHash::default(),
        };
        let chunk = |n: usize| &bytes[n * page_size..bytes.len().min((n + 1) * page_size)];
        self.look_for(&open, &mut found, hash)?;
        for (n, found) in found.iter().enumerate() {
            let (hash, chunk) = (hash(n), chunk(n));
            let stood = stood_at[n].filter(|_| chunk.len() == page_size);
            self.take(stream, *found, hash, chunk, 1, stood)?;
        }
        self.stood = stood_at;
        self.pages = pages;
        self.found = found;
        self.after_batch(stream)
    }

    pub(super) fn with_cutter(
        &mut self,
        stream: &mut OpenStream<'r>,
        run: impl FnOnce(&mut Cutter, &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let Cut::Content(cutter) = &mut stream.cut else {
            return Ok(());
        };
        let mut taken = std::mem::replace(cutter, Cutter::new(&self.repo.record().chunking));
        let result = run(&mut taken, &mut |piece| self.piece(stream, piece));
        stream.cut = Cut::Content(taken);
        result
    }

    /// One piece that was cut by content.
    pub(in crate::ingest) fn piece(
        &mut self,
        stream: &mut OpenStream<'r>,
        piece: &[u8],
    ) -> Result<()> {
        let hash = if page::is_zero(piece) {
            None
        } else {
            Some(self.repo.key().chunk_hash(piece))
        };
        let mut found = [match hash {
            None => Found::Zero,
            Some(hash) => match self.base_piece(hash.id()) {
                Some(chunk) if self.left_behind.contains(&chunk.frame.pack) => Found::Again(None),
                Some(chunk) => match self.base_frame(chunk) {
                    Some((frame, number)) => Found::Same(frame, number),
                    None => Found::Open,
                },
                None => Found::Open,
            },
        }];
        let hash = hash.unwrap_or_default();
        if matches!(found[0], Found::Open | Found::Again(None)) {
            self.look_for(&[0], &mut found, |_| hash)?;
        }
        self.take(stream, found[0], hash, piece, 0, None)?;
        self.after_batch(stream)
    }

    /// Counts a chunk and adds it to its stream; a new one goes to the sink.
    pub(super) fn take(
        &mut self,
        stream: &mut OpenStream<'r>,
        found: Found,
        hash: ChunkHash,
        chunk: &[u8],
        pages: u64,
        stood: Option<BaseChunk>,
    ) -> Result<()> {
        let len = chunk.len() as u64;
        let found = match found {
            Found::Base(chunk) => self.refer_or_store(chunk, stood),
            found => found,
        };
        let found = match found {
            // It may have come again since it was looked for.
            Found::Open => self
                .known
                .get(&hash.id())
                .map_or(Found::Open, |(frame, number)| {
                    Found::Session(*frame, *number)
                }),
            found => found,
        };
        match found {
            Found::Zero => {
                count(&mut self.classes.zero, pages, len);
                stream.zero(len);
            }
            Found::Same(frame, number) => {
                count(&mut self.classes.same, pages, len);
                stream.stored(&hash, frame, number, len);
            }
            Found::Elsewhere(frame, number) => {
                count(&mut self.classes.elsewhere, pages, len);
                stream.stored(&hash, frame, number, len);
            }
            Found::Session(frame, number) => {
                count(&mut self.classes.elsewhere, pages, len);
                stream.in_frame(&hash, frame, number, len);
            }
            Found::Again(base) => {
                count(&mut self.classes.same, pages, len);
                match self.known.get(&hash.id()).copied() {
                    Some((frame, number)) => stream.in_frame(&hash, frame, number, len),
                    None => self.store(stream, hash, chunk, base)?,
                }
            }
            Found::Base(_) | Found::Open => {
                count(&mut self.classes.new, pages, len);
                let base = stood.and_then(|stood| self.page_base(stood, false));
                self.store(stream, hash, chunk, base)?;
            }
        }
        Ok(())
    }

    /// Gives a chunk to the sink.
    pub(super) fn store(
        &mut self,
        stream: &mut OpenStream<'r>,
        hash: ChunkHash,
        chunk: &[u8],
        base: Option<PageBase>,
    ) -> Result<()> {
        if self.writing != Some(stream.number) {
            // Frames never hold chunks of two streams.
            self.sink.close();
            self.writing = Some(stream.number);
        }
        let (frame, number) = match base {
            Some(base) => self.sink.push_changed(hash, chunk, base)?,
            None => self.sink.push(hash, chunk)?,
        };
        self.known.insert(hash.id(), (frame, number));
        stream.in_frame(&hash, frame, number, chunk.len() as u64);
        Ok(())
    }

    pub(super) fn after_batch(&mut self, stream: &mut OpenStream<'r>) -> Result<()> {
        let too_long = stream.waits_too_long();
        if too_long {
            self.sink.close();
        }
        self.seal(too_long)?;
        self.settle(stream);
        if self.known.len() > self.repo.memory().session_ids() {
            // From now on the index has the chunks of all packs that are full; what is in the open pack may be stored twice.
            let index = self.index().clone();
            self.sink.list_packs(&index)?;
            self.known.clear();
            // Nobody asks any more where a frame lies that no stream waits for.
            let waited_for = self.waited_for.values().min().copied();
            self.sink
                .forget_before(waited_for.unwrap_or(FrameNumber::MAX));
            self.index_was_empty = Some(false);
        }
        Ok(())
    }

    /// Adds sealed frames to packs: those that are ready, or all that are closed.
    pub(super) fn seal(&mut self, all: bool) -> Result<()> {
        if self.sink.is_idle() {
            return Ok(());
        }
        if all {
            self.sink.settle(&self.directories)?;
        } else {
            self.sink.advance(&self.directories)?;
        }
        if self.sink.unlisted_ids() >= limits::SEGMENT_IDS {
            let index = self.index().clone();
            self.sink.put_segment(&index)?;
        }
        // What this session puts is there when it commits, even if it is still on its way now.
        self.exists
            .extend(self.sink.ended_packs().map(|pack| (pack, true)));
        self.note_deltas()
    }

    pub(super) fn settle(&mut self, stream: &mut OpenStream<'r>) {
        let (sink, packs, exists) = (&self.sink, &mut self.packs, &mut self.exists);
        let mut frame_of = |placed: &Placed| {
            let pack = packs.number(placed.pack, || {
                // This session puts it: no look at the store is needed, and it may not be there yet.
                exists.insert(placed.pack, true);
            });
            FrameRef::of(pack, &placed.entry)
        };
        stream.settle(|chunks, recipe| {
            let InFrame {
                frame,
                skip,
                take,
                len,
            } = *chunks;
            match sink.place(frame) {
                None => return false,
                Some(Lies::Together(placed)) => recipe.push(Slice::Frame(FrameSlice {
                    frame: frame_of(placed),
                    skip,
                    take,
                    len,
                })),
                Some(Lies::Apart(frames, places)) => {
                    let wanted = places.iter().skip(skip.into()).take(take.into());
                    for (frame, number) in wanted {
                        let Some(placed) = frames.get(usize::from(*frame)) else {
                            return false;
                        };
                        recipe.push(Slice::Frame(FrameSlice {
                            frame: frame_of(placed),
                            skip: *number,
                            take: 1,
                            len: len / u64::from(take),
                        }));
                    }
                }
            }
            true
        });
        match stream.waits_for() {
            Some(frame) => self.waited_for.insert(stream.number, frame),
            None => self.waited_for.remove(&stream.number),
        };
    }
}
