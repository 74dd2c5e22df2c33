//! Owns the copy of snapshots into another repository: an export here and an import there, side by side, with the record carried over.
//!
//! Always: each copy is an ordinary import of the target (its own session, place, ids, keys, deltas), so that all that is argued of imports holds of it; its bytes had the digest of the archive before it is
//! committed. It has a new id, and names the original: an id's place can be taken for good by a tombstone, and then no copy could ever be made again. What is there is known by the original, so that a
//! copy that was ended is begun again where it was. Never: changes the source, but for a reader's session; copies what is stored, which is of no use under other keys.

mod pipe;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use cryostore_format::SnapshotId;
use cryostore_format::manifest::Role as StreamRole;
use cryostore_format::repository::Role;
use cryostore_format::session::Place;
use cryostore_format::snapshot::{Original, SnapshotRecord};

use crate::error::{Error, Kind, Result};
use crate::ingest::{BaseChoice, Carried, ImportOptions, Imported, import_carried, looks_at};
use crate::limits;
use crate::monitor::{Monitor, Phase, keep_going};
use crate::repo::Repository;
use crate::restore::{CheckpointReader, Output, export};

/// How to copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Which snapshots; none: all.
    pub wanted: Option<Vec<SnapshotId>>,
    /// As [`ImportOptions::deltas`], of the target.
    pub deltas: Option<bool>,
}

/// What became of one snapshot.
#[derive(Debug)]
pub enum Outcome {
    /// It was copied: its record in the target.
    Copied(Box<SnapshotRecord>),
    /// The target has it, under this id.
    There(SnapshotId),
    /// It was not copied.
    Failed(Error),
}

/// A snapshot of the source and what became of it.
#[derive(Debug)]
pub struct Copied {
    /// Its record in the source.
    pub source: SnapshotRecord,
    /// What became of it.
    pub outcome: Outcome,
}

/// Copies snapshots from one repository to another, the oldest first, each after what it requires. One that cannot be copied, such as a damaged one, keeps no other from being copied; an error comes back
/// where nothing can be, or where the target fails: then `done` tells of those before it.
///
/// Copies of one snapshot that run at once can both be made: there are two snapshots then, which share all that is stored.
pub fn copy(
    from: &Repository,
    to: &Repository,
    options: &CopyOptions,
    done: &mut dyn FnMut(Copied),
    monitor: &dyn Monitor,
) -> Result<()> {
    if from.record().id == to.record().id {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "{} and {} are the same repository",
                from.store().name(),
                to.store().name()
            ),
        )
        .hint("name another one; within one repository nothing is stored twice anyway"));
    }
    to.require(Role::Write)?;
    let list = from.snapshots()?;
    let order = in_order(&list.snapshots, options.wanted.as_deref(), monitor)?;
    let mut target = to.snapshots()?;
    // A record that the store does not give right now may be of a copy.
    let unread = target
        .damaged
        .iter()
        .position(|(_, e)| e.kind() != Kind::Corrupt);
    if let Some((name, e)) = unread.map(|n| target.damaged.swap_remove(n)) {
        return Err(e.at(name));
    }
    let mut there = There::of(&target.snapshots);
    for record in order {
        keep_going(monitor)?;
        let outcome = match there.find(from, record) {
            Some(place) => Outcome::There(place.snapshot),
            None => match copy_one(from, to, record, &there, options, monitor) {
                Ok(imported) => {
                    there.add(&imported.snapshot);
                    Outcome::Copied(Box::new(imported.snapshot))
                }
                Err(e) if ends_all(e.kind()) => return Err(e.at(format!("snapshot {}", record.id))),
                Err(e) => Outcome::Failed(e),
            },
        };
        done(Copied {
            source: record.clone(),
            outcome,
        });
    }
    Ok(())
}

/// True for what the next snapshot would meet, too.
const fn ends_all(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Interrupted | Kind::NoSpace | Kind::Denied | Kind::Unavailable | Kind::Internal
    )
}

/// What was imported first, by whoever: this snapshot, or what it is a copy of.
fn original(repo: &Repository, record: &SnapshotRecord) -> Original {
    record.original.unwrap_or(Original {
        id: record.id,
        repository: repo.record().id,
    })
}

/// What the target has, by all ids by which it is known.
#[derive(Default)]
struct There(HashMap<SnapshotId, Place>);

impl There {
    fn of(records: &[SnapshotRecord]) -> Self {
        let mut there = Self::default();
        records.iter().for_each(|record| there.add(record));
        there
    }

    fn add(&mut self, record: &SnapshotRecord) {
        let place = Place::of(record);
        self.0.insert(record.id, place);
        if let Some(original) = record.original {
            self.0.entry(original.id).or_insert(place);
        }
    }

    fn find(&self, from: &Repository, record: &SnapshotRecord) -> Option<Place> {
        self.0.get(&original(from, record).id).copied()
    }
}

/// The snapshots to copy, the oldest first, and what they require before them.
fn in_order<'l>(
    newest_first: &'l [SnapshotRecord],
    wanted: Option<&[SnapshotId]>,
    monitor: &dyn Monitor,
) -> Result<Vec<&'l SnapshotRecord>> {
    let by_id: HashMap<_, _> = newest_first
        .iter()
        .map(|record| (record.id, record))
        .collect();
    let mut missing = wanted.into_iter().flatten();
    while let Some(id) = missing.find(|id| !by_id.contains_key(id)) {
        let text = format!("there is no snapshot {id} any more");
        if wanted.is_some_and(|wanted| wanted.len() == 1) {
            return Err(Error::new(Kind::NotFound, text).hint("`cryostore ls` lists what there is"));
        }
        // Deleted since it was chosen.
        monitor.warning(&text);
    }
    let is_wanted =
        |record: &&SnapshotRecord| wanted.is_none_or(|wanted| wanted.contains(&record.id));
    let (mut out, mut taken) = (Vec::new(), HashSet::new());
    for record in newest_first.iter().rev().filter(is_wanted) {
        let mut chain = Vec::new();
        let mut next = Some(record);
        while let Some(record) = next.filter(|record| taken.insert(record.id)) {
            chain.push(record);
            next = record.requires.and_then(|id| by_id.get(&id).copied());
        }
        out.extend(chain.into_iter().rev());
    }
    Ok(out)
}

fn copy_one(
    from: &Repository,
    to: &Repository,
    record: &SnapshotRecord,
    there: &There,
    options: &CopyOptions,
    monitor: &dyn Monitor,
) -> Result<Imported> {
    let requires = match record.requires {
        None => None,
        Some(id) => Some(required(from, there, id)?),
    };
    let (members, attachments) = looked_at(from, record)?;
    let carried = Carried {
        record: record.clone(),
        original: original(from, record),
        requires,
        members,
    };
    let options = ImportOptions {
        base: BaseChoice::Newest,
        deltas: options.deltas,
        attachments,
        ..ImportOptions::default()
    };
    let (mut writer, archive) = pipe::pipe();
    let closed = writer.closed();
    let (exported, imported) = std::thread::scope(|scope| {
        let exporting = scope.spawn(move || {
            let output = Output::Stream(&mut writer);
            export(from, record, output, &Quiet(monitor))?;
            writer.end().map_err(|e| Error::io("the copy", e))
        });
        let imported = import_carried(to, Box::new(archive), &carried, &options, monitor);
        let bug = |_| {
            Err(Error::new(
                Kind::Internal,
                "the export of a copy ended by a bug",
            ))
        };
        (exporting.join().unwrap_or_else(bug), imported)
    });
    match (exported, imported) {
        // Not because the import was over: it is why the import failed.
        (Err(e), Err(_)) if !closed.load(Ordering::SeqCst) => Err(e),
        (_, imported) => imported,
    }
}

/// A member's name, its length, and what it holds if that tells how others are cut.
type Member = (Vec<u8>, u64, Option<Vec<u8>>);

/// An attachment's name, and what it holds.
type Attachment = (String, Vec<u8>);

/// What an import looks at before the archive's first byte, and what is kept beside the archive. The reader's session ends here: the export has its own.
fn looked_at(from: &Repository, record: &SnapshotRecord) -> Result<(Vec<Member>, Vec<Attachment>)> {
    let reader = CheckpointReader::open(from, record)?;
    let (mut members, mut attachments) = (Vec::new(), Vec::new());
    let (mut seen, mut looked_at, mut attached) = (HashSet::new(), 0, 0);
    for (number, stream) in (0..).zip(&reader.manifest().streams) {
        match stream.role {
            StreamRole::Member => {
                // Of several with one name the first counts, and no more is held than an import keeps.
                let fits = looked_at + stream.len <= limits::IMAGES_TOTAL as u64;
                let is_looked_at =
                    fits && looks_at(&stream.name, stream.len) && seen.insert(&stream.name);
                let content = if is_looked_at {
                    looked_at += stream.len;
                    reader.read_stream(number, stream.len)?
                } else {
                    None
                };
                members.push((stream.name.clone(), stream.len, content));
            }
            StreamRole::Attachment => {
                attached += stream.len;
                if attached > limits::ATTACHMENTS_COPIED {
                    return Err(Error::new(
                        Kind::Unsupported,
                        format!(
                            "its attachments have more than {} bytes, which is the most that is copied",
                            limits::ATTACHMENTS_COPIED
                        ),
                    )
                    .hint("export the archive and import it there, with the attachments"));
                }
                let bytes = reader.read_stream(number, stream.len)?;
                let name = String::from_utf8_lossy(&stream.name).into_owned();
                attachments.extend(bytes.map(|bytes| (name, bytes)));
            }
            StreamRole::Layout | StreamRole::Part => {}
        }
    }
    Ok((members, attachments))
}

/// Where the target has what a snapshot requires; it came before it.
fn required(from: &Repository, there: &There, id: SnapshotId) -> Result<Place> {
    // The snapshot may be known there by what it is a copy of itself.
    let known = || {
        let found = from.find(&id.to_string(), &crate::repo::Filter::default());
        there.find(from, &found.ok()?.snapshot)
    };
    there.0.get(&id).copied().or_else(known).ok_or_else(|| {
        Error::new(
            Kind::Conflict,
            format!("it needs snapshot {id}, which was not copied"),
        )
        .hint("CRIU left pages in that one's directory: without it this one cannot be restored")
    })
}

/// Says only when to stop: the import tells how far it is.
struct Quiet<'a>(&'a dyn Monitor);

impl Monitor for Quiet<'_> {
    fn progress(&self, _: Phase, _: u64, _: Option<u64>) {}
    fn warning(&self, text: &str) {
        self.0.warning(text);
    }
    fn stop(&self) -> bool {
        self.0.stop()
    }
}
