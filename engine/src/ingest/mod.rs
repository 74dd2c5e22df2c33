//! Owns the import: archive → streams → chunks → packs → commit.
//!
//! Always: nothing is visible before the snapshot's record, which comes last (`repo/commit.rs` argues the crash points); the archive's digest is taken
//! of the very bytes that were cut. Never: changes or removes an object that is there.
//!
//! One thread reads and digests slabs; this one cuts and compares them; rayon hashes, compresses and reads back; packs go to the store beside all that.

mod base;
mod carried;
mod deltas;
mod facts;
mod frames;
mod optimize;
mod repack;
mod rewrite;
mod source;
mod stream;
mod streams;
mod tar_front;
mod writer;

use std::io::Read;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use cryostore_format::delta::Deltas;
use cryostore_format::manifest::{Layout, Manifest, PageMap, Role as StreamRole, RunPlace};
use cryostore_format::repository::Role;
use cryostore_format::session::{Place, Work};
use cryostore_format::snapshot::{
    Archive, ArchiveKind, Attachment, Cost, Identity, ManifestRef, Origin, Outer, SnapshotRecord,
};
use cryostore_format::{Digest, Lineage, ManifestId, SessionId, SnapshotId};

use crate::env::{random_id, timestamp};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::monitor::{Monitor, Phase, keep_going};
use crate::repo::{Filter, Repository, Session, SnapshotList, manifest_name};
use base::Base;
use facts::Facts;
use source::Opened;
use stream::StreamSpec;
use tar_front::TarFront;
use writer::Writer;

pub(crate) use carried::{Carried, import_carried, looks_at};
pub use optimize::{Optimized, Order, optimize};
pub use repack::{Repacked, repack};
pub use source::Source;
pub use streams::{StreamId, StreamImport};

/// What an import is compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BaseChoice {
    /// The newest snapshot of the same container.
    #[default]
    Newest,
    /// Nothing: every page is looked for in the index.
    None,
    /// This snapshot: an id, or its first characters.
    Snapshot(String),
}

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// What is not empty here counts, whatever the archive says.
    pub identity: Identity,
    /// Words of the user.
    pub labels: Vec<String>,
    /// What to compare with.
    pub base: BaseChoice,
    /// Store changed pages as what differs from the base, or whole; none: as the repository says.
    pub deltas: Option<bool>,
    /// The snapshot that holds the pages which CRIU left in its parent directory; else the newest one that has them.
    pub criu_parent: Option<String>,
    /// Why the checkpoint was taken.
    pub origin: Origin,
    /// The same for snapshots taken together.
    pub group: Option<String>,
    /// Kept beside the archive: name and content.
    pub attachments: Vec<(String, Vec<u8>)>,
}

/// What an import has done.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The record as it was committed.
    pub snapshot: SnapshotRecord,
    /// Ids that were looked up in the index.
    pub index_lookups: u64,
}

/// Imports an archive. After `Ok`, and only then, it is stored.
pub fn import(
    repo: &Repository,
    source: Source,
    options: &ImportOptions,
    monitor: &dyn Monitor,
) -> Result<Imported> {
    let mut facts = Facts::default();
    let mut opened = Opened::new(source, &mut facts)?;
    opened
        .look_ahead(&mut facts)
        .map_err(|e| unreadable(&opened.name, e))?;
    let plan = Plan::new(repo, &facts, options, None, monitor)?;
    let whose = plan.whose();
    run(repo, opened, facts, plan, options, monitor).map_err(|e| explain(repo, whose, e))
}

/// Whatever failed in a session that was ended by somebody else, that is why: a collector took what was put so far for garbage.
fn explain(repo: &Repository, (place, session): (Place, SessionId), e: Error) -> Error {
    if e.kind() == Kind::Interrupted {
        return e;
    }
    let Some(reason) = repo.burial(place) else {
        return tell_what_is_kept(repo, session, e);
    };
    Error::new(
        Kind::Conflict,
        format!("the session was ended by somebody else while it was at work ({reason})"),
    )
    .hint("nothing is lost; import the archive again")
    .because(e)
}

/// Whoever has uploaded for an hour wants to know what is left of it.
fn tell_what_is_kept(repo: &Repository, session: SessionId, e: Error) -> Error {
    let (packs, bytes) = repo.left_by(session);
    if packs == 0 || !matches!(e.kind(), Kind::Unavailable | Kind::NoSpace) {
        return e;
    }
    let advice = e.advice().unwrap_or("import the archive again").to_owned();
    e.hint(format!(
        "{advice}. What was uploaded of {packs} packs ({bytes} bytes) is kept until `cryostore gc` frees it, and found by this node's next import"
    ))
}

fn run(
    repo: &Repository,
    mut opened: Opened,
    mut facts: Facts,
    plan: Plan<'_>,
    options: &ImportOptions,
    monitor: &dyn Monitor,
) -> Result<Imported> {
    let name = opened.name.clone();
    let base = plan.base(repo, options, monitor)?;
    let deltas = options.deltas.unwrap_or(repo.record().defaults.deltas);
    let mut writer = Writer::new(repo, plan.session.terms(), base.as_ref(), deltas, monitor);
    let mut front = TarFront::new(&mut writer)?;
    let digest = read_slabs(&mut opened, monitor, |slab| {
        plan.session.renew();
        front
            .push(slab, &mut writer, &mut facts)
            .map_err(|e| in_source(&name, e))
    })?;
    let (mut layout, end) = front
        .finish(&mut writer, &mut facts)
        .map_err(|e| in_source(&name, e))?;
    opened.check_unchanged()?;
    layout.digest = Some(digest);
    if !end.complete {
        facts.warn("the archive has no end marker; it is stored as it is");
    }
    if end.garbage {
        facts.warn("there are bytes after the end of the archive; they are stored too");
    }
    let made = Made {
        kind: opened.kind,
        outer: opened.bytes.outer(),
        layout,
    };
    plan.commit(repo, writer, facts, made, base.as_ref(), options, monitor)
}

/// Reads all of a source in slabs, digests them, and hands them on, in order.
fn read_slabs(
    opened: &mut Opened,
    monitor: &dyn Monitor,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Digest> {
    let (full, slabs) =
        mpsc::sync_channel::<std::io::Result<(Vec<u8>, usize)>>(limits::SLABS_WAITING);
    let (empty, reuse) = mpsc::channel::<Vec<u8>>();
    let name = opened.name.clone();
    let total = opened.total;
    let mut bytes = opened.reader();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut hasher = blake3::Hasher::new();
            loop {
                let mut slab = reuse
                    .try_recv()
                    .unwrap_or_else(|_| vec![0; limits::SLAB_LEN]);
                match fill(&mut bytes, &mut slab) {
                    Ok(0) => break,
                    Ok(len) => {
                        hasher.update(&slab[..len]);
                        if full.send(Ok((slab, len))).is_err() {
                            break;
                        }
                    }
                    Err(e) => {
                        let _ = full.send(Err(e));
                        break;
                    }
                }
            }
            Digest::from_bytes(*hasher.finalize().as_bytes())
        });
        let mut done = 0;
        // Owned by this closure, so that an error below lets the reader end.
        let slabs = slabs;
        for slab in &slabs {
            keep_going(monitor)?;
            let (slab, len) = slab.map_err(|e| unreadable(&name, e))?;
            take(&slab[..len])?;
            done += len as u64;
            monitor.progress(Phase::Import, done, total);
            let _ = empty.send(slab);
        }
        drop(slabs);
        reader
            .join()
            .map_err(|_| Error::new(Kind::Internal, "the reading thread ended by a bug"))
    })
}

/// What is wrong with the source's bytes is said with its name.
fn in_source(name: &str, e: Error) -> Error {
    if e.kind() == Kind::Invalid {
        e.at(name)
    } else {
        e
    }
}

fn unreadable(name: &str, e: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    match e.kind() {
        Io::InvalidData | Io::InvalidInput | Io::UnexpectedEof | Io::Other
            if e.raw_os_error().is_none() =>
        {
            Error::new(Kind::Invalid, format!("{name}: {e}"))
                .hint("look whether the checkpoint was written completely; nothing was stored")
                .because(e)
        }
        _ => Error::io(name, e),
    }
}

fn fill(source: &mut impl Read, slab: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < slab.len() {
        match source.read(&mut slab[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// What is settled before the first byte: who it is, and where it will be committed.
struct Plan<'r> {
    session: Session<'r>,
    lineage: Lineage,
    /// Who it is, as far as that is known before the first byte.
    identity: Identity,
    snapshot: SnapshotId,
    started: std::time::Duration,
    /// Of a copy, what it keeps.
    carried: Option<&'r Carried>,
}

/// What the archive turned out to be.
struct Made {
    kind: ArchiveKind,
    outer: Option<Outer>,
    layout: Layout,
}

fn identity(facts: &Facts, options: &ImportOptions) -> Identity {
    let found = facts.identity();
    let given = &options.identity;
    let or = |given: &String, found: String| {
        if given.is_empty() {
            found
        } else {
            given.clone()
        }
    };
    Identity {
        namespace: or(&given.namespace, found.namespace),
        pod: or(&given.pod, found.pod),
        container: or(&given.container, found.container),
        pod_uid: or(&given.pod_uid, found.pod_uid),
        node: or(&given.node, found.node),
        container_id: or(&given.container_id, found.container_id),
        image: or(&given.image, found.image),
    }
}

fn same_container(a: &Identity, b: &Identity) -> bool {
    (&a.namespace, &a.pod, &a.container) == (&b.namespace, &b.pod, &b.container)
}

fn check_options(options: &ImportOptions) -> Result<()> {
    let too_long = options
        .labels
        .iter()
        .find(|label| label.len() > limits::LABEL_LEN || label.is_empty());
    if options.labels.len() > limits::LABELS || too_long.is_some() {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "a snapshot has at most {} labels of 1 to {} bytes",
                limits::LABELS,
                limits::LABEL_LEN
            ),
        )
        .hint("use fewer or shorter labels"));
    }
    Ok(())
}

impl<'r> Plan<'r> {
    fn new(
        repo: &'r Repository,
        facts: &Facts,
        options: &ImportOptions,
        carried: Option<&'r Carried>,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        repo.require(Role::Write)?;
        check_options(options)?;
        keep_going(monitor)?;
        let started = repo.env().elapsed();
        let who = match carried {
            Some(carried) => carried.identity().clone(),
            None => identity(facts, options),
        };
        let known = [&who.namespace, &who.pod, &who.container]
            .iter()
            .any(|name| !name.is_empty());
        let lineage = if known {
            repo.key().lineage(&who.namespace, &who.pod, &who.container)
        } else {
            Lineage::default()
        };
        let snapshot = SnapshotId::from_bytes(random_id(repo.env()));
        let session = Session::start(repo, Work::Import, Some(Place { lineage, snapshot }))?;
        if session.terms().is_alone() {
            monitor.warning("a record below gc/ is damaged: what it condemned is not known, so that everything is stored anew; `cryostore gc` names it");
        }
        Ok(Self {
            session,
            lineage,
            identity: who,
            snapshot,
            started,
            carried,
        })
    }

    /// Where it commits, and in whose name.
    const fn whose(&self) -> (Place, SessionId) {
        (self.place(), self.session.id())
    }

    /// The only place where it can commit.
    const fn place(&self) -> Place {
        Place {
            lineage: self.lineage,
            snapshot: self.snapshot,
        }
    }

    /// The newest snapshot of the same container.
    fn newest(&self, repo: &Repository, monitor: &dyn Monitor) -> Result<Option<SnapshotRecord>> {
        let is_it = |record: &SnapshotRecord| same_container(&record.identity, &self.identity);
        let found = repo.newest_of(self.lineage, is_it)?;
        if let Some(snapshot) = found.vanished {
            let place = Place {
                snapshot,
                ..self.place()
            };
            // Told once: the commit of this import is what is remembered next.
            monitor.warning(&SnapshotList::about_vanished(&place));
            repo.unmark(place);
        }
        if found.snapshot.is_some() || self.lineage == Lineage::default() {
            return Ok(found.snapshot);
        }
        // Where the identity was not known at the start, a snapshot is among those without a lineage. A container's archives are alike: if it has snapshots of its own, its newest is
        // not there, and they need not be listed.
        Ok(repo.newest_of(Lineage::default(), is_it)?.snapshot)
    }

    /// The snapshots of the same container, newest first.
    fn earlier(&self, repo: &Repository) -> Result<Vec<SnapshotRecord>> {
        let mut found = repo.snapshots_of(self.lineage)?;
        // Where the identity was not known at the start, a snapshot is among those without a lineage.
        if self.lineage != Lineage::default() {
            found
                .snapshots
                .extend(repo.snapshots_of(Lineage::default())?.snapshots);
        }
        found
            .snapshots
            .retain(|record| same_container(&record.identity, &self.identity));
        found.sort();
        Ok(found.snapshots)
    }

    /// Loads what to compare with. A base that cannot be read costs space, not the import.
    fn base(
        &self,
        repo: &Repository,
        options: &ImportOptions,
        monitor: &dyn Monitor,
    ) -> Result<Option<Base>> {
        let record = match &options.base {
            BaseChoice::None => None,
            BaseChoice::Newest => self.newest(repo, monitor)?,
            BaseChoice::Snapshot(text) => Some(repo.find(text, &Filter::default())?.snapshot),
        };
        let Some(record) = record else {
            return Ok(None);
        };
        // In a directory a look costs nothing, and finds damage that a new import can heal; in a bucket each is a request.
        let found = match repo.store().local_path() {
            Some(_) => repo.manifest(&record).map(|manifest| (manifest, false)),
            None => repo.sole_manifest(&record),
        };
        match found {
            Ok((manifest, is_whole)) => Ok(Some(Base {
                id: record.id,
                manifest: Arc::new(manifest),
                is_whole,
            })),
            Err(e) => {
                monitor.warning(&format!("not compared with {}: {e}", record.id));
                Ok(None)
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call, at the end, of what the parts have made"
    )]
    fn commit<'w>(
        self,
        repo: &Repository,
        mut writer: Writer<'w>,
        mut facts: Facts,
        made: Made,
        base: Option<&Base>,
        options: &ImportOptions,
        monitor: &dyn Monitor,
    ) -> Result<Imported> {
        let attachments = attach(&mut writer, options)?;
        let (written, mut uploading) = writer.finish()?;
        let streams = written.streams;
        let maps = facts.maps(|n| streams.get(n as usize).map_or(0, |stream| stream.page_size));
        if !facts.is_checkpoint() {
            facts.warn("there are no CRIU images in it; it is stored as it is");
        }
        let parent = match self.carried {
            Some(carried) => carried.parent(&self.session.terms())?,
            None => self.parent(repo, &maps, options, &mut facts)?,
        };
        let page_size = maps
            .iter()
            .find(|map| !map.stale)
            .map(|map| u64::from(map.page_size));
        let archive = Archive {
            kind: made.kind,
            bytes: made.layout.len,
            digest: made.layout.digest,
            outer: made.outer,
        };
        let manifest = Manifest {
            packs: written.packs,
            streams,
            layout: made.layout,
            maps,
            tables: written.tables,
            deltas: Deltas::default(),
        };
        let packs_needed = manifest.packs.len() as u64;
        let bytes = manifest.encode();
        // What no reader would take must not be committed: names that are too long, more streams or slices than are accepted.
        Manifest::prove(&bytes).map_err(|e| {
            Error::new(
                Kind::Invalid,
                format!("the archive cannot be described: {e}"),
            )
            .hint("it has more members, or longer names, than are accepted; nothing was stored")
        })?;
        let id = ManifestId::from_bytes(self.session.terms().new_id(repo.env()));
        let manifest = ManifestRef {
            id,
            bytes: bytes.len() as u64,
            digest: Digest::of(&bytes),
        };
        let name = manifest_name(id);
        let sealed = Bytes::from(repo.seal_object(&name, bytes)?);
        uploading.put(name, sealed.clone())?;
        keep_going(monitor)?;
        let (finished, index) = uploading.finish()?;
        self.session.renew();
        let mut warnings = facts.take_warnings();
        if warnings.len() > limits::WARNINGS {
            warnings.truncate(limits::WARNINGS);
            warnings.push("and more warnings".to_owned());
        }
        // Those of a copy were told when it was imported.
        if self.carried.is_none() {
            warnings.iter().for_each(|warning| monitor.warning(warning));
        }
        let elapsed = repo.env().elapsed().saturating_sub(self.started);
        let snapshot = SnapshotRecord {
            id: self.snapshot,
            lineage: self.lineage,
            session: self.session.id(),
            created: timestamp(repo.env()),
            dumped: facts.dumped(),
            manifest,
            archive,
            identity: identity(&facts, options),
            producer: facts.producer(page_size),
            cost: Cost {
                classes: written.classes,
                bytes_added: finished.put.bytes,
                packs_added: finished.put.packs,
                elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                packs_needed: Some(packs_needed),
            },
            base: base.map(|base| base.id),
            requires: parent.map(|place| place.snapshot),
            labels: options.labels.clone(),
            origin: options.origin,
            group: options.group.clone(),
            attachments,
            warnings,
            original: None,
        };
        let snapshot = match self.carried {
            Some(carried) => carried.keep(snapshot)?,
            None => snapshot,
        };
        keep_going(monitor)?;
        // A deletion looks for who needs a snapshot before it takes it; the other way round, this looks once more. What is between this look and the commit
        // is one put.
        if let Some(place) = parent
            && repo.has_gone(place)?
        {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "snapshot {}, which holds pages of this checkpoint, was deleted meanwhile",
                    place.snapshot
                ),
            )
            .hint("import the parent's archive again, then this one"));
        }
        repo.commit(&self.session, &snapshot)?;
        repo.keep_base(&snapshot, &sealed);
        let index_lookups = index.lookups();
        finished.settle_index();
        Ok(Imported {
            snapshot,
            index_lookups,
        })
    }

    /// The snapshot that holds the pages which are in CRIU's parent directory.
    fn parent(
        &self,
        repo: &Repository,
        maps: &[PageMap],
        options: &ImportOptions,
        facts: &mut Facts,
    ) -> Result<Option<Place>> {
        let needed: Vec<_> = maps
            .iter()
            .filter(|map| !map.stale && parent_pages(map) > 0)
            .collect();
        if needed.is_empty() && options.criu_parent.is_none() {
            return Ok(None);
        }
        let pages: u64 = needed
            .iter()
            .fold(0, |sum, map| sum.saturating_add(parent_pages(map)));
        let list = match &options.criu_parent {
            Some(text) => {
                let found = repo.find(text, &Filter::default())?;
                SnapshotList {
                    snapshots: vec![found.snapshot],
                    ..SnapshotList::default()
                }
            }
            None => SnapshotList {
                snapshots: self.earlier(repo)?,
                ..SnapshotList::default()
            },
        };
        let terms = self.session.terms();
        for record in &list.snapshots {
            // It is being freed, whoever brought it back.
            if terms.gives_up(Place::of(record)) {
                continue;
            }
            // What it has in a parent itself counts only if that parent is stored.
            let whole = record.requires.is_some();
            let covers =
                |manifest: Manifest| needed.iter().all(|map| covers(&manifest, map, whole));
            if repo.manifest_alone(record).is_ok_and(covers) {
                return Ok(Some(Place {
                    lineage: record.lineage,
                    snapshot: record.id,
                }));
            }
        }
        if options.criu_parent.is_some() {
            return Err(Error::new(Kind::Invalid, format!("the snapshot that was named as CRIU's parent does not have all of {pages} pages"))
                .hint("name the checkpoint that was CRIU's --prev-images-dir or --parent-path"));
        }
        let link = if facts.has_parent_link() {
            ""
        } else {
            ", and there is no link `parent`"
        };
        facts.warn(format!(
            "{pages} pages are in CRIU's parent directory, which is not stored{link}: without it the checkpoint cannot be restored. Import that checkpoint before this one"
        ));
        Ok(None)
    }
}

fn attach(writer: &mut Writer<'_>, options: &ImportOptions) -> Result<Vec<Attachment>> {
    let mut out = Vec::new();
    for (name, bytes) in &options.attachments {
        let spec = StreamSpec {
            name: name.clone().into_bytes(),
            role: StreamRole::Attachment,
            pages: None,
        };
        let mut stream = writer.open(spec)?;
        writer.write(&mut stream, bytes)?;
        writer.close(stream)?;
        out.push(Attachment {
            name: name.clone(),
            bytes: bytes.len() as u64,
        });
    }
    Ok(out)
}

fn parent_pages(map: &PageMap) -> u64 {
    map.runs
        .iter()
        .filter(|run| run.place == RunPlace::Parent)
        .fold(0, |sum, run| sum.saturating_add(run.pages))
}

/// True if a manifest has every page that `map` says is in the parent: in an image, or again in a parent if that counts.
fn covers(manifest: &Manifest, map: &PageMap, parents_count: bool) -> bool {
    let same =
        |other: &&PageMap| other.of == map.of && other.page_size == map.page_size && !other.stale;
    let Some(other) = manifest.maps.iter().find(same) else {
        return false;
    };
    // A page map may claim more pages than its image has.
    let image = other
        .stream
        .and_then(|n| manifest.streams.get(n as usize))
        .map_or(0, |s| s.len);
    let mut in_image = image / u64::from(other.page_size.max(1));
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for run in &other.runs {
        let pages = match run.place {
            RunPlace::Image => {
                let pages = run.pages.min(in_image);
                in_image -= pages;
                pages
            }
            RunPlace::Parent if parents_count => run.pages,
            RunPlace::Parent => 0,
        };
        spans.push((run.page_number, run.page_number.saturating_add(pages)));
    }
    spans.sort_unstable();
    map.runs
        .iter()
        .filter(|run| run.place == RunPlace::Parent)
        .all(|run| {
            let mut at = run.page_number;
            let end = run.page_number.saturating_add(run.pages);
            for (from, to) in &spans {
                if *from <= at && *to > at {
                    at = *to;
                }
            }
            at >= end
        })
}
