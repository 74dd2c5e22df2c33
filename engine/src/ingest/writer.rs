//! Owns the taking apart of streams: which chunks are zero, the same as in the base, found elsewhere, or new.
//!
//! Always: each byte is in exactly one of the five classes; a pack is referred to only after a look that the store has it, or when this
//! session put it. Base first, then this session's own chunks, then the entry after the last hit, then the index. Never: knows what a tar is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use cryostore_format::delta::{DeltaFrame, DeltaTable, TablePack};
use cryostore_format::manifest::{Body, Manifest, Role, Stream, StreamIndex, Transform};
use cryostore_format::pack::FrameEntry;
use cryostore_format::recipe::{FrameRef, FrameSlice, RecipeWriter, Slice};
use cryostore_format::snapshot::{ClassCount, Classes};
use cryostore_format::{ChunkHash, ChunkId, Digest, PackId};

use super::base::{Base, BaseChunk, BasePage};
use super::deltas::{self, PageBase, Step};
use super::frames::{Finished, FrameNumber, FrameSink, Lies, Placed};
use super::stream::{Addresses, Cut, InFrame, OpenStream, StreamSpec};
use crate::chunk::cdc::Cutter;
use crate::chunk::ids::IdMap;
use crate::chunk::page::{self, Page};
use crate::codec::frame::seal_table;
use crate::error::{Error, Kind, Result};
use crate::index::{Index, Location, Opening};
use crate::limits;
use crate::monitor::Monitor;
use crate::pack::directories::{Directories, PackDirectory};
use crate::pack::object_name;
use crate::pack::reading::{Fetched, frame_hashes};
use crate::repo::Repository;

/// Where a chunk was found.
#[derive(Debug, Clone, Copy)]
enum Found {
    Zero,
    Same(FrameRef, u16),
    Elsewhere(FrameRef, u16),
    /// The same as the base's, and to be stored again, made of this page if there is one.
    Again(Option<PageBase>),
    /// In a frame of this session.
    Session(FrameNumber, u16),
    /// A chunk of the base, if it can be referred to: to be decided.
    Base(BaseChunk),
    /// To be looked for.
    Open,
}

/// Takes streams apart and stores what is new.
pub(super) struct Writer<'r> {
    repo: &'r Repository,
    monitor: &'r dyn Monitor,
    base: Option<&'r Base>,
    base_pieces: Option<IdMap<BaseChunk>>,
    base_deltas: Option<IdMap<BaseChunk>>,
    /// The base's packs in this manifest's table; none once a pack was found missing.
    base_packs: Vec<Option<Option<u32>>>,
    directories: Directories,
    index: Option<Index>,
    /// Without a base every page is looked for in the index: it is opened while the first slab is read.
    opening: Option<Opening>,
    /// True if the index had no pack when this session opened it.
    index_was_empty: Option<bool>,
    sink: FrameSink<'r>,
    /// What deltas are made against, if they are made, and their step.
    delta_base: Option<(Arc<Manifest>, Step)>,
    /// True once a page was not what stood at its address: before that, nothing is stored again.
    changed: bool,
    /// Ids of delta frames of the base, by its pack number and offset, where this node did not keep them.
    delta_ids: HashMap<(u32, u32), Vec<ChunkHash>>,
    /// Frames of the base, and whether all that they are made of is there.
    chains: HashMap<(u32, u32), bool>,
    /// Packs of the base that this manifest is not to need any more.
    left_behind: HashSet<u32>,
    /// Frames of the base, and whether they, or what they are made of, are in one of these.
    behind: HashMap<(u32, u32), bool>,
    /// Chunks of this session that the index does not have yet.
    known: IdMap<(FrameNumber, u16)>,
    packs: PackTable,
    /// Packs that were looked for.
    exists: HashMap<PackId, bool>,
    /// Those of them that are not there, or not whole, for sure.
    gone: HashSet<PackId>,
    /// The entry after the last hit.
    guess: Option<(PackId, Arc<PackDirectory>, u32)>,
    streams: Vec<Option<Stream>>,
    /// The stream whose chunks are in the open frame.
    writing: Option<StreamIndex>,
    classes: Classes,
    /// Tables of the delta frames that the recipes need, and that these need: this session's, and the base's.
    tables: Vec<(FrameRef, u32)>,
    /// By their number there: in this order each comes after those that it needs.
    base_tables: BTreeMap<usize, (FrameRef, u32)>,
    taken_over: HashSet<(u32, u32)>,
    /// Packs of deltas that this session's tables name.
    delta_packs: HashSet<PackId>,
    /// Delta frames of this session that are in no table yet.
    untabled: Vec<DeltaFrame>,
    pages: Vec<Page>,
    found: Vec<Found>,
    /// What stood at the pages' addresses.
    stood: Vec<Option<BaseChunk>>,
}

/// The manifest's table of packs.
#[derive(Default)]
struct PackTable {
    packs: Vec<PackId>,
    numbers: HashMap<PackId, u32>,
}

impl PackTable {
    /// Number of a pack; `first` is called when it gets one.
    fn number(&mut self, pack: PackId, first: impl FnOnce()) -> u32 {
        let next = self.packs.len();
        *self.numbers.entry(pack).or_insert_with(|| {
            first();
            self.packs.push(pack);
            u32::try_from(next).unwrap_or(u32::MAX)
        })
    }
}

fn frame_ref(pack: u32, entry: &FrameEntry) -> FrameRef {
    FrameRef {
        pack,
        offset: entry.offset,
        stored_len: entry.stored_len,
        first_chunk: entry.first_chunk,
        chunks: entry.chunks,
    }
}

/// What the writer has made.
pub(super) struct Written {
    pub(super) packs: Vec<PackId>,
    pub(super) streams: Vec<Stream>,
    pub(super) classes: Classes,
    pub(super) tables: Vec<(FrameRef, u32)>,
}

fn count(class: &mut ClassCount, pages: u64, bytes: u64) {
    class.pages += pages;
    class.bytes += bytes;
}

impl<'r> Writer<'r> {
    pub(super) fn new(
        repo: &'r Repository,
        base: Option<&'r Base>,
        deltas: bool,
        monitor: &'r dyn Monitor,
    ) -> Self {
        let delta_base = base
            .filter(|_| deltas)
            .map(|base| (Arc::clone(&base.manifest), Step::after(&base.manifest)));
        let sink_base = delta_base.as_ref().map(|(base, _)| Arc::clone(base));
        Self {
            repo,
            monitor,
            base,
            base_pieces: None,
            base_deltas: None,
            base_packs: vec![None; base.map_or(0, |base| base.manifest.packs.len())],
            directories: Directories::new(repo.store().clone(), repo.cache()),
            index: None,
            opening: base.is_none().then(|| {
                Index::start_opening(repo.index_dir(), repo.store().clone(), repo.memory())
            }),
            index_was_empty: None,
            sink: FrameSink::new(repo.store(), repo.env(), sink_base),
            delta_base,
            changed: false,
            delta_ids: HashMap::new(),
            chains: HashMap::new(),
            left_behind: base.map(Base::small_packs).unwrap_or_default(),
            behind: HashMap::new(),
            known: IdMap::default(),
            packs: PackTable::default(),
            exists: HashMap::new(),
            gone: HashSet::new(),
            guess: None,
            streams: Vec::new(),
            writing: None,
            classes: Classes::default(),
            tables: Vec::new(),
            base_tables: BTreeMap::new(),
            taken_over: HashSet::new(),
            delta_packs: HashSet::new(),
            untabled: Vec::new(),
            pages: Vec::new(),
            found: Vec::new(),
            stood: Vec::new(),
        }
    }

    /// The number of another stream.
    fn reserve(&mut self) -> Result<StreamIndex> {
        let number = StreamIndex::try_from(self.streams.len())
            .ok()
            .filter(|n| u64::from(*n) < cryostore_format::limits::STREAMS_MAX)
            .ok_or_else(|| {
                Error::new(
                    Kind::Invalid,
                    format!("more than {} streams in one checkpoint", self.streams.len()),
                )
            })?;
        self.streams.push(None);
        Ok(number)
    }

    /// A stream that is complete.
    fn add(&mut self, stream: Stream) -> Result<StreamIndex> {
        let number = self.reserve()?;
        self.keep(number, stream)
    }

    /// Begins a stream. Streams may be open side by side, and may come in any order; frames are fullest when they come one after the other.
    pub(super) fn open(&mut self, spec: StreamSpec) -> Result<OpenStream<'r>> {
        let number = self.reserve()?;
        let cut = match &spec.pages {
            Some(pages) => Cut::Pages {
                page_size: pages.page_size as usize,
                phase_left: pages.phase as usize,
                rest: Vec::new(),
                addresses: Addresses::new(pages.runs.clone()),
                walk: pages
                    .of
                    .zip(self.base)
                    .and_then(|(of, base)| base.walk(of, pages.page_size))
                    .map(Box::new),
            },
            None => Cut::Content(Cutter::new(&self.repo.record().chunking)),
        };
        Ok(OpenStream::new(number, spec, cut))
    }

    /// The next bytes of a stream.
    pub(super) fn write(&mut self, stream: &mut OpenStream<'r>, bytes: &[u8]) -> Result<()> {
        match &mut stream.cut {
            Cut::Pages { .. } => self.write_pages(stream, bytes),
            Cut::Content(_) => self.with_cutter(stream, |cutter, sink| cutter.push(bytes, sink)),
        }
    }

    /// A border in a stream that is cut by content: what comes is cut as if it stood alone.
    pub(super) fn border(&mut self, stream: &mut OpenStream<'r>) -> Result<()> {
        self.with_cutter(stream, |cutter, sink| cutter.border(sink))
    }

    /// Ends a stream.
    pub(super) fn close(&mut self, mut stream: OpenStream<'r>) -> Result<StreamIndex> {
        let number = stream.number;
        if let Cut::Pages { rest, .. } = &mut stream.cut {
            let rest = std::mem::take(rest);
            if !rest.is_empty() {
                self.batch(&mut stream, &rest)?;
            }
        } else {
            self.border(&mut stream)?;
        }
        if !stream.is_settled() {
            self.sink.close();
            self.seal(true)?;
            self.settle(&mut stream);
        }
        if !stream.is_settled() {
            return Err(Error::new(
                Kind::Internal,
                "a stream waits for a frame that was never sealed",
            ));
        }
        self.keep(number, stream.finish())
    }

    /// A stream that is made from two others.
    pub(super) fn derived(
        &mut self,
        name: Vec<u8>,
        bytes: &[u8],
        plain: StreamIndex,
        corrections: StreamIndex,
    ) -> Result<StreamIndex> {
        let body = Body::Derived {
            transform: Transform::Gzip,
            plain,
            corrections,
        };
        let stream = Stream {
            name,
            role: Role::Member,
            len: bytes.len() as u64,
            page_size: 0,
            phase: 0,
            digest: Digest::of(bytes),
            body,
        };
        self.add(stream)
    }

    /// The base's derived stream of this name, taken over if it has these very bytes: that its parts give them was proved when
    /// they were stored, and proving it again would cost a second for some 20 MB.
    pub(super) fn same_derived(
        &mut self,
        name: &[u8],
        bytes: &[u8],
    ) -> Result<Option<StreamIndex>> {
        let Some(base) = self.base else {
            return Ok(None);
        };
        let mut streams = base
            .manifest
            .streams
            .iter()
            .filter(|s| s.name == name && s.len == bytes.len() as u64);
        let Some((plain, corrections, digest)) = streams.find_map(|s| match s.body {
            Body::Derived {
                plain, corrections, ..
            } => Some((plain, corrections, s.digest)),
            Body::Recipe(_) => None,
        }) else {
            return Ok(None);
        };
        if Digest::of(bytes) != digest {
            return Ok(None);
        }
        let copies = (self.copy_of(base, plain), self.copy_of(base, corrections));
        let (Some((plain, plain_len)), Some((corrections, corrections_len))) = copies else {
            return Ok(None);
        };
        count(&mut self.classes.same, 0, plain_len + corrections_len);
        let (plain, corrections) = (self.add(plain)?, self.add(corrections)?);
        self.derived(name.to_vec(), bytes, plain, corrections)
            .map(Some)
    }

    /// A stream of the base with its packs' numbers in this manifest; none if one of them is missing.
    fn copy_of(&mut self, base: &Base, stream: StreamIndex) -> Option<(Stream, u64)> {
        let found = base.manifest.streams.get(stream as usize)?;
        let mut recipe = RecipeWriter::new(found.page_size);
        let mut same = 0;
        for slice in base.manifest.slices(stream)? {
            let slice = match slice.ok()? {
                Slice::Zero { len } => Slice::Zero { len },
                Slice::Frame(slice) => {
                    let chunk = BaseChunk {
                        frame: slice.frame,
                        number: slice.skip,
                    };
                    let (frame, skip) = self.base_frame(chunk)?;
                    Slice::Frame(FrameSlice {
                        frame,
                        skip,
                        ..slice
                    })
                }
            };
            same += slice.len();
            recipe.push(slice);
        }
        let body = Body::Recipe(recipe.finish());
        Some((
            Stream {
                body,
                ..found.clone()
            },
            same,
        ))
    }

    fn keep(&mut self, number: StreamIndex, stream: Stream) -> Result<StreamIndex> {
        let place = self.streams.get_mut(number as usize);
        *place.ok_or_else(|| Error::new(Kind::Internal, "a stream without a number"))? =
            Some(stream);
        Ok(number)
    }

    /// Ends frames and packs. What was put may still be on its way.
    pub(super) fn finish(mut self) -> Result<(Written, Uploading<'r>)> {
        self.note_deltas()?;
        self.put_table()?;
        self.sink.end_frames(&self.directories)?;
        if self.sink.unlisted_ids() > 0 {
            let index = self.index().clone();
            self.sink.put_segment(&index)?;
        }
        let index = self.index.take().unwrap_or_default();
        let streams: Option<Vec<Stream>> = self.streams.into_iter().collect();
        let streams =
            streams.ok_or_else(|| Error::new(Kind::Internal, "a stream was never closed"))?;
        let written = Written {
            packs: self.packs.packs,
            streams,
            classes: self.classes,
            tables: self.base_tables.into_values().chain(self.tables).collect(),
        };
        Ok((
            written,
            Uploading {
                sink: self.sink,
                index,
            },
        ))
    }

    // ---- pages

    fn write_pages(&mut self, stream: &mut OpenStream<'r>, mut bytes: &[u8]) -> Result<()> {
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
    fn batch(&mut self, stream: &mut OpenStream<'r>, bytes: &[u8]) -> Result<()> {
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
            if matches!(found, Found::Open) {
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

    /// True if a chunk of the base has this id.
    fn is_same(&mut self, chunk: BaseChunk, id: ChunkId) -> bool {
        let pack = self.base.map(|base| &base.manifest.packs);
        let pack = pack.and_then(|packs| packs.get(chunk.frame.pack as usize));
        let Some(directory) = pack.and_then(|pack| self.directory(*pack)) else {
            return false;
        };
        let stood = directory
            .id(chunk.frame.first_chunk + u32::from(chunk.number))
            .or_else(|| self.delta_id(chunk));
        stood == Some(id)
    }

    /// A page that is the same as the base's chunk: that chunk, if its pack is there; or the page once more, if later checkpoints are not to need that chunk.
    fn keep_or_store_again(&mut self, chunk: BaseChunk) -> Found {
        if self.is_left_behind(&chunk.frame) {
            return Found::Again(self.page_base(chunk, true));
        }
        if self.changed
            && self.is_between(chunk)
            && let Some(base) = self.page_base(chunk, true)
        {
            return Found::Again(Some(base));
        }
        match self.base_frame(chunk) {
            Some((frame, number)) => Found::Same(frame, number),
            None => Found::Open,
        }
    }

    /// True if a frame of the base, or one that any of its pages is made of, is in a pack that this manifest is not to need.
    fn is_left_behind(&mut self, frame: &FrameRef) -> bool {
        let Some(base) = self.base.filter(|_| !self.left_behind.is_empty()) else {
            return false;
        };
        let key = (frame.pack, frame.offset);
        if let Some(known) = self.behind.get(&key) {
            return *known;
        }
        let mut behind = self.left_behind.contains(&frame.pack);
        if let Some(delta) = base.manifest.deltas.get(frame) {
            for run in &delta.bases {
                if let Slice::Frame(base) = run.base {
                    behind = behind || self.is_left_behind(&base.frame);
                }
            }
        }
        self.behind.insert(key, behind);
        behind
    }

    /// Id of a page in a delta frame whose ids this node does not have: the frame is put together.
    fn delta_id(&mut self, chunk: BaseChunk) -> Option<ChunkId> {
        let manifest = &self.base?.manifest;
        manifest.deltas.get(&chunk.frame)?;
        let key = (chunk.frame.pack, chunk.frame.offset);
        if !self.delta_ids.contains_key(&key) {
            if self.delta_ids.len() >= self.repo.memory().delta_ids() {
                self.delta_ids.clear();
            }
            let (store, mut count) = (self.repo.store(), Fetched::default());
            let hashes = frame_hashes(store, manifest, chunk.frame, self.repo.key(), &mut count);
            let hashes = hashes.unwrap_or_else(|e| {
                self.monitor
                    .warning(&format!("pages are not compared with the base: {e}"));
                Vec::new()
            });
            self.delta_ids.insert(key, hashes);
        }
        let hashes = self.delta_ids.get(&key)?;
        hashes.get(usize::from(chunk.number)).map(ChunkHash::id)
    }

    /// True if later checkpoints are not to need this chunk of the base.
    fn is_between(&self, chunk: BaseChunk) -> bool {
        let base = self.delta_base.as_ref();
        base.is_some_and(|(manifest, step)| deltas::is_between(manifest, chunk, *step))
    }

    /// A chunk of the base that stood elsewhere; open if the page can as well be made of what stood at its own place.
    fn refer_or_store(&mut self, chunk: BaseChunk, stood: Option<BaseChunk>) -> Found {
        if self.is_between(chunk)
            && stood.is_some_and(|stood| self.page_base(stood, false).is_some())
        {
            return Found::Open;
        }
        match self.base_frame(chunk) {
            Some((frame, number)) => Found::Elsewhere(frame, number),
            None => Found::Open,
        }
    }

    /// What a changed page is to be made of, or one that is stored again; none if it is to be stored as it is.
    fn page_base(&mut self, stood: BaseChunk, again: bool) -> Option<PageBase> {
        let (manifest, step) = self.delta_base.as_ref()?;
        let manifest = Arc::clone(manifest);
        let mut bases = deltas::page_bases(&manifest, stood, *step);
        // All that it is put together of must be there, and stay.
        let chunk = bases.find(|chunk| !self.is_left_behind(&chunk.frame))?;
        self.needed(&manifest, &chunk.frame)?;
        Some(PageBase { chunk, again })
    }

    /// Numbers of the packs that a frame of the base and its bases are in; none if one of them is not there.
    fn needed(&mut self, manifest: &Manifest, frame: &FrameRef) -> Option<()> {
        let key = (frame.pack, frame.offset);
        if let Some(whole) = self.chains.get(&key) {
            return whole.then_some(());
        }
        let mut whole = self.base_frame_ref(*frame).is_some();
        if let Some(delta) = manifest.deltas.get(frame) {
            for run in &delta.bases {
                if let Slice::Frame(base) = run.base {
                    whole = whole && self.needed(manifest, &base.frame).is_some();
                }
            }
        }
        self.chains.insert(key, whole);
        whole.then_some(())
    }

    /// Takes the table of a delta frame of the base, and those of the frames that it needs, over into this manifest.
    fn take_over(&mut self, manifest: &Manifest, frame: &FrameRef) -> Option<()> {
        let Some(delta) = manifest.deltas.get(frame) else {
            return Some(());
        };
        if !self.taken_over.insert((frame.pack, frame.offset)) {
            return Some(());
        }
        self.base_frame_ref(*frame)?;
        for run in &delta.bases {
            if let Slice::Frame(base) = run.base {
                self.base_frame_ref(base.frame)?;
                self.take_over(manifest, &base.frame)?;
            }
        }
        let table = manifest.deltas.table_of(frame)?;
        if !self.base_tables.contains_key(&table) {
            let (frame, len) = *manifest.tables.get(table)?;
            let frame = self.base_frame_ref(frame)?;
            self.base_tables.insert(table, (frame, len));
        }
        Some(())
    }

    /// Notes the delta frames that were placed, with all that they need.
    fn note_deltas(&mut self) -> Result<()> {
        for text in self.sink.warnings() {
            self.monitor.warning(&text);
        }
        for delta in self.sink.placed_deltas() {
            let lost = || Error::new(Kind::Internal, "a base was lost");
            let (manifest, step) = self.delta_base.as_ref().ok_or_else(lost)?;
            let (manifest, step) = (Arc::clone(manifest), *step);
            for base in &delta.bases {
                let frame = &base.chunk.frame;
                self.take_over(&manifest, frame).ok_or_else(lost)?;
                if manifest.deltas.get(frame).is_some() {
                    let pack = manifest.packs.get(frame.pack as usize);
                    self.delta_packs.insert(*pack.ok_or_else(lost)?);
                }
            }
            self.delta_packs.insert(delta.placed.pack);
            let pack = self.packs.number(delta.placed.pack, || {});
            let frame = frame_ref(pack, &delta.placed.entry);
            let map = |frame| self.base_frame_ref(frame);
            let entry = deltas::entry_of(frame, delta.page_size, &delta.bases, step, map);
            self.untabled.push(entry.ok_or_else(lost)?);
            // Those that are stored again are the same as in the base.
            let pages = delta.bases.iter().filter(|base| !base.again).count() as u64;
            let bytes = pages * u64::from(delta.page_size);
            count(&mut self.classes.delta, pages, bytes);
            self.classes.new.pages = self.classes.new.pages.saturating_sub(pages);
            self.classes.new.bytes = self.classes.new.bytes.saturating_sub(bytes);
        }
        if self.untabled.len() >= limits::TABLE_FRAMES {
            self.put_table()?;
        }
        Ok(())
    }

    /// Writes down what the delta frames that are in no table yet are made of.
    fn put_table(&mut self) -> Result<()> {
        let mut frames = std::mem::take(&mut self.untabled);
        if frames.is_empty() {
            return Ok(());
        }
        let mut packs = PackTable::default();
        for delta in &mut frames {
            let bases = delta
                .bases
                .iter_mut()
                .filter_map(|run| match &mut run.base {
                    Slice::Frame(base) => Some(&mut base.frame),
                    Slice::Zero { .. } => None,
                });
            for frame in std::iter::once(&mut delta.frame).chain(bases) {
                let pack = self.packs.packs.get(frame.pack as usize).copied();
                let lost = || Error::new(Kind::Internal, "a pack was lost");
                frame.pack = packs.number(pack.ok_or_else(lost)?, || {});
            }
        }
        let of_deltas = &self.delta_packs;
        let packs = packs.packs.into_iter().map(|id| TablePack {
            id,
            deltas: of_deltas.contains(&id),
        });
        let packs = packs.collect();
        let table = DeltaTable { packs, frames }.encode();
        let sealed = seal_table(self.repo.key(), &table)?;
        let placed = self.sink.add(&sealed, &self.directories)?;
        let pack = self.packs.number(placed.pack, || {});
        let frame = frame_ref(pack, &placed.entry);
        self.tables.push((frame, sealed.header.plain_len));
        self.exists
            .extend(self.sink.ended_packs().map(|pack| (pack, true)));
        Ok(())
    }

    /// A chunk of the base with its pack's number in this manifest, and all that it is made of.
    fn base_frame(&mut self, chunk: BaseChunk) -> Option<(FrameRef, u16)> {
        let manifest = Arc::clone(&self.base?.manifest);
        if manifest.deltas.get(&chunk.frame).is_some() {
            self.needed(&manifest, &chunk.frame)?;
            self.take_over(&manifest, &chunk.frame)?;
        }
        Some((self.base_frame_ref(chunk.frame)?, chunk.number))
    }

    /// A frame of the base with its pack's number in this manifest; none if the pack is not there.
    fn base_frame_ref(&mut self, frame: FrameRef) -> Option<FrameRef> {
        let at = frame.pack as usize;
        let number = match *self.base_packs.get(at)? {
            Some(number) => number,
            None => {
                let pack = *self.base?.manifest.packs.get(at)?;
                let number = self
                    .pack_is_whole(pack)
                    .then(|| self.packs.number(pack, || {}));
                self.base_packs[at] = Some(number);
                number
            }
        };
        Some(FrameRef {
            pack: number?,
            ..frame
        })
    }

    fn directory(&mut self, pack: PackId) -> Option<Arc<PackDirectory>> {
        if self.exists.get(&pack) == Some(&false) {
            return None;
        }
        match self.directories.get(pack) {
            Ok(directory) => Some(directory),
            Err(e) => {
                self.exists.insert(pack, false);
                self.monitor
                    .warning(&format!("a pack is not compared with: {e}"));
                None
            }
        }
    }

    /// True if the store has the pack, with the length that its directory says: one that was cut or emptied is not referred to again.
    fn pack_is_whole(&mut self, pack: PackId) -> bool {
        if let Some(exists) = self.exists.get(&pack) {
            return *exists;
        }
        let Some(directory) = self.directory(pack) else {
            return false;
        };
        let found = self.repo.store().len(&object_name(pack));
        let whole = matches!(found, Ok(Some(len)) if len == directory.pack_len());
        if !whole {
            if found.is_ok() {
                self.gone.insert(pack);
            }
            let found = match found {
                Ok(Some(len)) => format!("has {len} bytes, not {}", directory.pack_len()),
                Ok(None) => "is missing".to_owned(),
                Err(e) => e.to_string(),
            };
            let name = object_name(pack);
            self.monitor.warning(&format!(
                "{name} {found}; its chunks are stored again where they come again"
            ));
        }
        self.exists.insert(pack, whole);
        whole
    }

    // ---- pieces

    fn with_cutter(
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
    fn piece(&mut self, stream: &mut OpenStream<'r>, piece: &[u8]) -> Result<()> {
        let hash = if page::is_zero(piece) {
            None
        } else {
            Some(self.repo.key().chunk_hash(piece))
        };
        let mut found = [match hash {
            None => Found::Zero,
            Some(hash) => match self.base_piece(hash.id()) {
                Some(chunk) if self.is_left_behind(&chunk.frame) => Found::Again(None),
                Some(chunk) => match self.base_frame(chunk) {
                    Some((frame, number)) => Found::Same(frame, number),
                    None => Found::Open,
                },
                None => Found::Open,
            },
        }];
        let hash = hash.unwrap_or_default();
        if matches!(found[0], Found::Open) {
            self.look_for(&[0], &mut found, |_| hash)?;
        }
        self.take(stream, found[0], hash, piece, 0, None)?;
        self.after_batch(stream)
    }

    fn base_piece(&mut self, id: ChunkId) -> Option<BaseChunk> {
        let base = self.base?;
        let pieces = match self.base_pieces.take() {
            Some(pieces) => pieces,
            None => base.pieces(self.repo.memory().base_chunks(), |pack| {
                self.directory(pack)
            }),
        };
        let found = pieces.get(&id).copied();
        self.base_pieces = Some(pieces);
        found
    }

    /// A page in a delta frame of the base, wherever it stood: the index does not have these.
    fn base_delta(&mut self, id: ChunkId) -> Option<BaseChunk> {
        let base = self.base?;
        let pages = match self.base_deltas.take() {
            Some(pages) => pages,
            None => base.delta_pages(self.repo.memory().base_chunks(), |pack| {
                self.directory(pack)
            }),
        };
        let found = pages.get(&id).copied();
        self.base_deltas = Some(pages);
        found
    }

    // ---- both

    /// Looks for chunks that the base does not have at their place. What is not found stays open.
    fn look_for(
        &mut self,
        wanted: &[usize],
        found: &mut [Found],
        hash: impl Fn(usize) -> ChunkHash,
    ) -> Result<()> {
        let mut open = Vec::new();
        let has_deltas = self
            .base
            .is_some_and(|base| !base.manifest.deltas.frames().is_empty());
        if has_deltas {
            for n in wanted {
                match self.base_delta(hash(*n).id()) {
                    Some(chunk) => found[*n] = Found::Base(chunk),
                    None => open.push(*n),
                }
            }
        }
        let mut rest = if has_deltas { &open[..] } else { wanted };
        while let Some((&first, after)) = rest.split_first() {
            if let Some(hit) = self.find_nearby(hash(first).id()) {
                found[first] = hit;
                rest = after;
                continue;
            }
            if self.index_is_of_no_use() {
                rest = after;
                continue;
            }
            let (batch, after) = rest.split_at(rest.len().min(limits::LOOKUP_BATCH));
            self.find_in_index(batch, found, &hash)?;
            rest = after;
        }
        Ok(())
    }

    /// True while the index has only chunks of this session, all of which are known here: the first import into a repository.
    fn index_is_of_no_use(&mut self) -> bool {
        let was_empty = match self.index_was_empty {
            Some(was_empty) => was_empty,
            None => {
                let has_nothing = self.opening.as_ref().is_some_and(Opening::has_nothing);
                has_nothing || self.index().is_empty()
            }
        };
        self.index_was_empty = Some(was_empty);
        was_empty
    }

    /// Without the index: this session's own chunks, and the entry after the last hit.
    fn find_nearby(&mut self, id: ChunkId) -> Option<Found> {
        if let Some((frame, number)) = self.known.get(&id) {
            return Some(Found::Session(*frame, *number));
        }
        let (pack, directory, next) = self.guess.clone()?;
        if directory.id(next) != Some(id) {
            return None;
        }
        self.guess = Some((pack, Arc::clone(&directory), next + 1));
        self.frame_in(pack, &directory, next)
    }

    fn find_in_index(
        &mut self,
        batch: &[usize],
        found: &mut [Found],
        hash: impl Fn(usize) -> ChunkHash,
    ) -> Result<()> {
        let mut sorted: Vec<(ChunkId, usize)> = batch.iter().map(|n| (hash(*n).id(), *n)).collect();
        sorted.sort_unstable();
        let ids: Vec<_> = sorted.iter().map(|(id, _)| *id).collect();
        let mut hits: Vec<(usize, Location)> = self
            .index()
            .look_up(&ids)
            .into_iter()
            .zip(&sorted)
            .filter_map(|(location, (_, n))| Some((*n, location?)))
            .collect();
        hits.sort_unstable_by_key(|(n, _)| *n);
        for (n, Location { pack, chunk }) in hits {
            let directory = self
                .pack_is_whole(pack)
                .then(|| self.directory(pack))
                .flatten();
            let Some(directory) = directory else {
                // A store that does not answer right now is no reason to forget; an index that fails is no reason to stop.
                if self.gone.contains(&pack)
                    && let Err(e) = self.index().forget(pack)
                {
                    tracing::debug!("{e}");
                }
                continue;
            };
            // The index may be wrong about a pack; the pack's own directory is not.
            if directory.id(chunk) != Some(hash(n).id()) {
                continue;
            }
            if let Some(hit) = self.frame_in(pack, &directory, chunk) {
                found[n] = hit;
                self.guess = Some((pack, directory, chunk + 1));
            }
        }
        Ok(())
    }

    fn frame_in(&mut self, pack: PackId, directory: &PackDirectory, chunk: u32) -> Option<Found> {
        let entry = *directory.frame_of(chunk)?;
        let frame = frame_ref(self.packs.number(pack, || {}), &entry);
        Some(Found::Elsewhere(
            frame,
            u16::try_from(chunk - entry.first_chunk).ok()?,
        ))
    }

    fn index(&mut self) -> &Index {
        let (repo, monitor, opening) = (self.repo, self.monitor, self.opening.take());
        self.index.get_or_insert_with(|| {
            let opening = opening.unwrap_or_else(|| {
                Index::start_opening(repo.index_dir(), repo.store().clone(), repo.memory())
            });
            opening.wait(monitor)
        })
    }

    /// Counts a chunk and adds it to its stream; a new one goes to the sink.
    fn take(
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
    fn store(
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

    fn after_batch(&mut self, stream: &mut OpenStream<'r>) -> Result<()> {
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
            self.index_was_empty = Some(false);
        }
        Ok(())
    }

    /// Adds sealed frames to packs: those that are ready, or all that are closed.
    fn seal(&mut self, all: bool) -> Result<()> {
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

    fn settle(&mut self, stream: &mut OpenStream<'r>) {
        let (sink, packs, exists) = (&self.sink, &mut self.packs, &mut self.exists);
        let mut frame_of = |placed: &Placed| {
            let pack = packs.number(placed.pack, || {
                // This session puts it: no look at the store is needed, and it may not be there yet.
                exists.insert(placed.pack, true);
            });
            frame_ref(pack, &placed.entry)
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
    }
}

/// Objects that are on their way.
pub(super) struct Uploading<'r> {
    sink: FrameSink<'r>,
    index: Index,
}

impl Uploading<'_> {
    /// Puts one more object.
    pub(super) fn put(&mut self, name: String, bytes: Vec<u8>) -> Result<()> {
        self.sink.put_object(name, bytes.into())
    }

    /// Waits until all are durable.
    pub(super) fn finish(self) -> Result<(Finished, Index)> {
        Ok((self.sink.finish()?, self.index))
    }
}
