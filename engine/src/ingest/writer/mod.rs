//! Owns the taking apart of streams: which chunks are zero, the same as in the base, found elsewhere, or new.
//!
//! Always: each byte is in exactly one of the five classes; a pack is referred to only after a look that the store has it, or that a snapshot is there which needs it, or when this
//! session put it. Base first, then this session's own chunks, then the entry after the last hit, then the index. Never: knows what a tar is.
//!
//! Here are the streams; `chunks` follows one chunk, `compare` asks the base, `lookup` everything else, `again` brings back what earlier imports have put, `tables` keeps what deltas are made of.

mod again;
mod chunks;
mod compare;
mod lookup;
mod tables;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use cryostore_format::delta::DeltaFrame;
use cryostore_format::manifest::{Body, Manifest, Role, Stream, StreamIndex, Transform};
use cryostore_format::recipe::FrameRef;
use cryostore_format::snapshot::{ClassCount, Classes};
use cryostore_format::{ChunkHash, ChunkId, Digest, PackId};

use crate::chunk::cdc::Cutter;
use crate::chunk::ids::IdMap;
use crate::chunk::page::Page;
use crate::error::{Error, Kind, Result};
use crate::index::{Index, Opening};
use crate::ingest::base::{Base, BaseChunk};
use crate::ingest::deltas::{PageBase, Step};
use crate::ingest::frames::{Finished, FrameNumber, FrameSink};
use crate::ingest::stream::{Addresses, Cut, OpenStream, StreamSpec};
use crate::limits;
use crate::monitor::Monitor;
use crate::pack::directories::{Directories, PackDirectory};
use crate::repo::{Repository, Terms};

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
    /// No pack that they condemn is referred to.
    terms: Arc<Terms>,
    base: Option<&'r Base>,
    base_pieces: Option<HashMap<ChunkId, BaseChunk>>,
    base_deltas: Option<HashMap<ChunkId, BaseChunk>>,
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
    /// For each delta frame of the base, in their order, as far as it was asked: whether a pack is missing to refer to it.
    broken: Vec<bool>,
    /// Packs of the base, by number, as far as it was asked: whether they are on this node's disk.
    near: HashMap<u32, bool>,
    /// For each delta frame of the base, in their order, as far as it was asked: whether it, or what it is made of, is not.
    far: Vec<bool>,
    /// Packs that this manifest is not to need, if it can be helped.
    left: HashSet<PackId>,
    /// Those of the base of which nothing is kept: it is stored again.
    left_behind: HashSet<u32>,
    /// For each delta frame of the base, in their order, as far as it was asked: whether it, or what it is made of, is in one of these.
    behind: Vec<bool>,
    /// Chunks of this session that the index does not have yet.
    known: IdMap<(FrameNumber, u16)>,
    packs: PackTable,
    /// Packs that were looked for.
    exists: HashMap<PackId, bool>,
    /// Those of them that are not there, or not whole, for sure.
    gone: HashSet<PackId>,
    /// Packs of earlier imports that were never committed.
    taken_in: BTreeSet<PackId>,
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
    /// Delta frames of the base, by their number.
    taken_over: HashSet<usize>,
    /// Packs of deltas that this session's tables name.
    delta_packs: HashSet<PackId>,
    /// Delta frames of this session that are in no table yet.
    untabled: Vec<DeltaFrame>,
    /// Runs of bases in all delta frames of this session.
    runs: usize,
    /// For each stream that waits, by its number: the first frame it waits for.
    waited_for: HashMap<u32, FrameNumber>,
    /// Nothing is found but this session's own chunks.
    anew: bool,
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

/// Packs that are not referred to anew; and those of the base, by number, of which nothing is kept.
fn packs_to_leave(
    terms: &Terms,
    base: Option<&Base>,
    deltas: Option<&(Arc<Manifest>, Step)>,
) -> (HashSet<PackId>, HashSet<u32>) {
    let mut left = terms.leave().clone();
    let Some(base) = base else {
        return (left, HashSet::new());
    };
    let packs = &base.manifest.packs;
    let left_behind = base.packs_to_leave(&left, |frame| {
        deltas.is_none_or(|(_, step)| step.keeps(frame))
    });
    left.extend(
        left_behind
            .iter()
            .filter_map(|n| packs.get(*n as usize).copied()),
    );
    (left, left_behind)
}

impl<'r> Writer<'r> {
    pub(super) fn new(
        repo: &'r Repository,
        terms: Arc<Terms>,
        base: Option<&'r Base>,
        deltas: bool,
        monitor: &'r dyn Monitor,
    ) -> Self {
        let delta_base = base
            .filter(|base| deltas && base.manifest.deltas.run_count() <= limits::DELTA_RUNS)
            .map(|base| (Arc::clone(&base.manifest), Step::after(&base.manifest)));
        let (left, left_behind) = packs_to_leave(&terms, base, delta_base.as_ref());
        let sink_base = delta_base.as_ref().map(|(base, _)| Arc::clone(base));
        Self {
            repo,
            monitor,
            base,
            base_pieces: None,
            base_deltas: None,
            base_packs: vec![None; base.map_or(0, |base| base.manifest.packs.len())],
            directories: Directories::new(repo.vault().clone(), repo.cache()),
            index: None,
            opening: base.is_none().then(|| {
                Index::start_opening(repo.index_dir(), repo.vault().clone(), repo.memory())
            }),
            index_was_empty: None,
            sink: FrameSink::new(repo, Arc::clone(&terms), sink_base),
            terms,
            delta_base,
            changed: false,
            delta_ids: HashMap::new(),
            broken: Vec::new(),
            near: HashMap::new(),
            far: Vec::new(),
            left,
            left_behind,
            behind: Vec::new(),
            known: IdMap::default(),
            packs: PackTable::default(),
            exists: HashMap::new(),
            gone: HashSet::new(),
            taken_in: BTreeSet::new(),
            guess: None,
            streams: Vec::new(),
            writing: None,
            classes: Classes::default(),
            tables: Vec::new(),
            base_tables: BTreeMap::new(),
            taken_over: HashSet::new(),
            delta_packs: HashSet::new(),
            untabled: Vec::new(),
            runs: 0,
            waited_for: HashMap::new(),
            anew: false,
            pages: Vec::new(),
            found: Vec::new(),
            stood: Vec::new(),
        }
    }

    /// One that finds only its own chunks: all that comes is stored once more.
    pub(super) fn anew(repo: &'r Repository, terms: Arc<Terms>, monitor: &'r dyn Monitor) -> Self {
        let mut new = Self {
            anew: true,
            // Until ids of this session go into it.
            index_was_empty: Some(true),
            ..Self::new(repo, terms, None, false, monitor)
        };
        // Nobody looks for what is there already.
        new.sink.write_nothing_down();
        new
    }

    /// One that refers to what the base refers to, but for these packs: what lies there, or is made of it, is stored again.
    pub(super) fn without(
        repo: &'r Repository,
        terms: Arc<Terms>,
        base: &'r Base,
        packs: &HashSet<PackId>,
        monitor: &'r dyn Monitor,
    ) -> Self {
        let numbers = (0..).zip(&base.manifest.packs);
        let numbers = numbers.filter(|(_, pack)| packs.contains(pack));
        Self {
            left_behind: numbers.map(|(n, _)| n).collect(),
            left: packs.clone(),
            ..Self::new(repo, terms, Some(base), false, monitor)
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
    pub(super) fn add(&mut self, stream: Stream) -> Result<StreamIndex> {
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

    /// Zeros come next.
    pub(super) fn zeros(&mut self, stream: &mut OpenStream<'r>, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let whole = match &stream.cut {
            Cut::Pages {
                phase_left, rest, ..
            } => *phase_left == 0 && rest.is_empty(),
            Cut::Content(_) => true,
        };
        if whole {
            count(&mut self.classes.zero, 0, len);
            if let Cut::Pages {
                page_size,
                addresses,
                ..
            } = &mut stream.cut
            {
                // The last page may be shorter.
                addresses.skip(len.div_ceil(*page_size as u64));
            }
            stream.zero(len);
            return Ok(());
        }
        // What is left of the first chunk, then as above.
        let missing = match &stream.cut {
            Cut::Pages {
                phase_left,
                page_size,
                rest,
                ..
            } if *phase_left > 0 => *phase_left,
            Cut::Pages {
                page_size, rest, ..
            } => page_size - rest.len(),
            Cut::Content(_) => 0,
        };
        let head = len.min(missing as u64);
        self.write(stream, &vec![0; usize::try_from(head).unwrap_or(missing)])?;
        self.zeros(stream, len - head)
    }

    /// Length and digest of a stream that was closed.
    pub(super) fn digest_of(&self, number: StreamIndex) -> Option<(u64, Digest)> {
        let stream = self.streams.get(number as usize)?.as_ref()?;
        Some((stream.len, stream.digest))
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
        self.list_taken_in()?;
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
}

/// Objects that are on their way.
pub(super) struct Uploading<'r> {
    sink: FrameSink<'r>,
    index: Index,
}

impl Uploading<'_> {
    /// Puts one more object.
    pub(super) fn put(&mut self, name: String, bytes: Bytes) -> Result<()> {
        self.sink.put_object(name, bytes)
    }

    /// Waits until all are durable.
    pub(super) fn finish(self) -> Result<(Finished, Index)> {
        Ok((self.sink.finish()?, self.index))
    }
}
