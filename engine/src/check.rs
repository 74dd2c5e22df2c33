//! Owns the verification of a repository: what is damaged, and which snapshots that touches.
//!
//! Always: goes on after damage, so that all of it is named; a damaged object is read once more before it is reported. Never: changes anything.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cryostore_format::manifest::Manifest;
use cryostore_format::pack::{DirectoryView, FrameHeader, FrameKind};
use cryostore_format::patch::Patch;
use cryostore_format::recipe::{FrameRef, FrameSlice, Slice};
use cryostore_format::session::Place;
use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{FormatError, IdKey, PackId, SnapshotId, limits as format_limits};
use rayon::prelude::*;

use crate::codec::frame;
use crate::error::{Kind, Result};
use crate::index::segments;
use crate::monitor::{Monitor, Phase, keep_going};
use crate::pack;
use crate::pack::reading::{Fetched, frame_hashes, read_table};
use crate::repo::{Repository, is_ours, key_name};
use crate::store::{FramePlace, Vault};

/// How to check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Read and verify every byte of every pack.
    pub read_data: bool,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub text: String,
    /// Snapshots that it touches.
    pub snapshots: Vec<SnapshotId>,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Snapshots that were checked.
    pub snapshots: u64,
    /// Packs that were checked.
    pub packs: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// Snapshots that cannot be given back.
    pub lost_snapshots: Vec<SnapshotId>,
    /// Objects that are none of ours.
    pub foreign: Vec<String>,
}

/// What snapshots need of one pack.
#[derive(Debug, Default)]
struct PackUse {
    snapshots: BTreeSet<SnapshotId>,
    /// Frames by offset, and who needs them.
    frames: BTreeMap<u32, (FrameRef, BTreeSet<SnapshotId>)>,
}

/// Verifies a repository.
pub fn check(
    repo: &Repository,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<CheckReport> {
    // What is asked is whether the store has it, not whether this node remembers it.
    let repo = &repo.without_copies();
    let mut report = CheckReport::default();
    let (packs, manifests) = check_snapshots(repo, &mut report, monitor)?;
    let damage = check_packs(repo, options, &packs, &mut report, monitor)?;
    if options.read_data {
        check_deltas(repo, &packs, &damage, &mut report, monitor)?;
    }
    check_segments(repo, &mut report)?;
    check_keys(repo, &mut report)?;
    let (objects, directories) = repo.store().list_here()?;
    let objects = objects.into_iter().map(|object| object.name);
    let foreign = objects.filter(|name| name != cryostore_format::repository::OBJECT_NAME);
    report.foreign.extend(foreign);
    let foreign = directories.into_iter().filter(|name| !is_ours(name));
    report
        .foreign
        .extend(foreign.map(|name| format!("{name}/")));
    if !report.problems.is_empty() {
        forget_what_went(repo, &manifests, &mut report);
    }
    let lost: BTreeSet<_> = report
        .problems
        .iter()
        .flat_map(|problem| problem.snapshots.iter().copied())
        .collect();
    report.lost_snapshots = lost.into_iter().collect();
    Ok(report)
}

/// Drops problems of snapshots that were deleted, or rewritten, while they were looked at: a collection may have removed what they had needed.
fn forget_what_went(
    repo: &Repository,
    manifests: &[(SnapshotRecord, String)],
    report: &mut CheckReport,
) {
    let went = |(record, name): &&(SnapshotRecord, String)| {
        let place = Place {
            lineage: record.lineage,
            snapshot: record.id,
        };
        repo.is_gone(place) || matches!(repo.manifest_object(record), Ok((now, _)) if now != *name)
    };
    let went: HashSet<_> = manifests.iter().filter(went).map(|(r, _)| r.id).collect();
    report.problems.retain_mut(|problem| {
        let before = problem.snapshots.len();
        problem.snapshots.retain(|id| !went.contains(id));
        before == 0 || !problem.snapshots.is_empty()
    });
}

/// What is needed of packs, and each snapshot with its manifest's name.
type Needed = (HashMap<PackId, PackUse>, Vec<(SnapshotRecord, String)>);

/// Reads records and manifests; what they need comes back.
fn check_snapshots(
    repo: &Repository,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<Needed> {
    let list = repo.snapshots()?;
    for (name, e) in &list.damaged {
        let id = crate::repo::place_of(name).map(|place| place.snapshot);
        report.problems.push(Problem {
            object: name.clone(),
            text: e.to_string(),
            snapshots: id.into_iter().collect(),
        });
    }
    let ids: HashSet<_> = list.snapshots.iter().map(|record| record.id).collect();
    let mut packs: HashMap<PackId, PackUse> = HashMap::new();
    let mut manifests = Vec::new();
    for (done, record) in (0..).zip(&list.snapshots) {
        keep_going(monitor)?;
        monitor.progress(Phase::Check, done, Some(list.snapshots.len() as u64));
        report.snapshots += 1;
        let mut problem = |object: String, text: String| {
            report.problems.push(Problem {
                object,
                text,
                snapshots: vec![record.id],
            })
        };
        if let Some(needed) = record.requires.filter(|id| !ids.contains(id)) {
            problem(
                crate::repo::snapshot_name(record),
                format!("it needs snapshot {needed}, which is not there"),
            );
        }
        let manifest = repo
            .first_manifest(record)
            .or_else(|_| repo.first_manifest(record));
        let name = match &manifest {
            Ok((name, _)) => name.object_name(),
            Err(_) => repo.manifest_object(record)?.0,
        };
        manifests.push((record.clone(), name.clone()));
        match manifest {
            Ok((_, mut manifest)) => {
                for (object, text) in read_tables(repo, &mut manifest)? {
                    problem(object, text);
                }
                if let Err(text) = note_use(record.id, &manifest, &mut packs) {
                    problem(name, text);
                }
            }
            Err(e) => {
                if let Err(text) = problem_of(Err::<(), _>(e))? {
                    problem(name, text);
                }
            }
        }
    }
    Ok((packs, manifests))
}

/// Reads the tables of deltas; the packs of those that cannot be read, and why, come back.
fn read_tables(repo: &Repository, manifest: &mut Manifest) -> Result<Vec<(String, String)>> {
    let mut wrong = Vec::new();
    let packs = manifest.pack_numbers();
    for n in 0..manifest.tables.len() {
        let mut read = || problem_of(read_table(repo.vault(), manifest, n, &packs, repo.key()));
        let failed = match read()? {
            Ok(()) => continue,
            Err(_) => read()?.err(),
        };
        let pack = manifest.tables.get(n).map(|(frame, _)| frame.pack as usize);
        let pack = pack.and_then(|pack| manifest.packs.get(pack));
        if let (Some(text), Some(pack)) = (failed, pack) {
            wrong.push((pack::object_name(*pack), text));
        }
    }
    Ok(wrong)
}

/// Where damage was found.
#[derive(Debug, Default)]
struct Damage {
    packs: HashSet<PackId>,
    frames: HashSet<(PackId, u32)>,
}

impl Damage {
    fn has(&self, manifest: &Manifest, frame: &FrameRef) -> bool {
        let pack = manifest.packs.get(frame.pack as usize);
        pack.is_none_or(|pack| {
            self.packs.contains(pack) || self.frames.contains(&(*pack, frame.offset))
        })
    }
}

fn note_use(
    snapshot: SnapshotId,
    manifest: &Manifest,
    packs: &mut HashMap<PackId, PackUse>,
) -> std::result::Result<(), String> {
    // A base is needed like what is made of it, and so is the table that says so.
    for (frame, len) in &manifest.tables {
        let (skip, take, len) = (0, frame.chunks, u64::from(*len));
        let frame = *frame;
        let slice = FrameSlice {
            frame,
            skip,
            take,
            len,
        };
        note_slice(snapshot, manifest, &Slice::Frame(slice), packs);
    }
    for run in manifest.deltas.frames().iter().flat_map(|d| &d.bases) {
        note_slice(snapshot, manifest, &run.base, packs);
    }
    for (n, stream) in (0..).zip(&manifest.streams) {
        let mut len = 0_u64;
        let Some(slices) = manifest.slices(n) else {
            continue;
        };
        for slice in slices {
            let slice = slice.map_err(|e| e.to_string())?;
            len = len.saturating_add(slice.len());
            note_slice(snapshot, manifest, &slice, packs);
        }
        if len != stream.len {
            return Err(format!(
                "the recipe of stream {n} gives {len} bytes, the stream has {}",
                stream.len
            ));
        }
    }
    Ok(())
}

/// Notes who needs a frame.
fn note_slice(
    snapshot: SnapshotId,
    manifest: &Manifest,
    slice: &Slice,
    packs: &mut HashMap<PackId, PackUse>,
) {
    let Slice::Frame(FrameSlice { frame, .. }) = slice else {
        return;
    };
    let Some(pack) = manifest.packs.get(frame.pack as usize) else {
        return;
    };
    let entry = packs.entry(*pack).or_default();
    entry.snapshots.insert(snapshot);
    let users = entry.frames.entry(frame.offset);
    let users = users.or_insert_with(|| (*frame, BTreeSet::new()));
    users.1.insert(snapshot);
}

fn check_packs(
    repo: &Repository,
    options: &CheckOptions,
    needed: &HashMap<PackId, PackUse>,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<Damage> {
    let mut damage = Damage::default();
    let store = repo.store();
    let listed: BTreeMap<PackId, u64> = store
        .list("packs")?
        .into_iter()
        .filter_map(|object| Some((pack::id_of(&object.name)?, object.len)))
        .collect();
    for (id, used) in needed {
        if !listed.contains_key(id) {
            damage.packs.insert(*id);
            report.problems.push(Problem {
                object: pack::object_name(*id),
                text: "it is missing".to_owned(),
                snapshots: used.snapshots.iter().copied().collect(),
            });
        }
    }
    let unused = PackUse::default();
    let total = listed.values().sum::<u64>();
    let mut done = 0;
    for (id, len) in &listed {
        keep_going(monitor)?;
        monitor.progress(Phase::Check, done, Some(total));
        done += len;
        report.packs += 1;
        let used = needed.get(id).unwrap_or(&unused);
        let look = || {
            if options.read_data {
                read_pack(repo, *id, *len, used)
            } else {
                read_directory(repo.vault(), *id, used)
            }
        };
        let found = match look()? {
            (found, read) if found.is_empty() => {
                report.bytes_read += read;
                continue;
            }
            // A bit that flipped on the way here is not there the second time.
            _ => look()?,
        };
        report.bytes_read += found.1;
        for (place, problem) in found.0 {
            match place {
                Where::Pack => {
                    damage.packs.insert(*id);
                }
                Where::Frame(offset) => {
                    damage.frames.insert((*id, offset));
                }
                Where::Directory => {}
            }
            report.problems.push(problem);
        }
    }
    Ok(damage)
}

/// What of a pack is damaged.
#[derive(Debug, Clone, Copy)]
enum Where {
    Pack,
    Directory,
    Frame(u32),
}

type Found = (Vec<(Where, Problem)>, u64);

/// An error that is about the object becomes a problem; any other ends the check.
fn problem_of<T>(result: Result<T>) -> Result<std::result::Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound | Kind::Unsupported) => {
            Ok(Err(e.to_string()))
        }
        Err(e) => Err(e),
    }
}

fn read_directory(vault: &Vault, id: PackId, used: &PackUse) -> Result<Found> {
    let read = match problem_of(pack::directories::read_tail(vault, id))? {
        Ok((pack_len, tail)) => {
            let read = tail.len() as u64;
            match DirectoryView::decode(id, &tail, vault.opened_len(pack_len)) {
                Ok(view) => return Ok((check_frames(id, &view, used), read)),
                Err(e) => e.to_string(),
            }
        }
        Err(text) => text,
    };
    Ok((vec![(Where::Pack, whole_pack(id, read, used))], 0))
}

fn whole_pack(id: PackId, text: String, used: &PackUse) -> Problem {
    Problem {
        object: pack::object_name(id),
        text,
        snapshots: used.snapshots.iter().copied().collect(),
    }
}

/// Frames that manifests name and the directory does not have.
fn check_frames(id: PackId, view: &DirectoryView, used: &PackUse) -> Vec<(Where, Problem)> {
    let agrees = |frame: &FrameRef| {
        view.frame_of(frame.first_chunk).is_some_and(|entry| {
            (
                entry.offset,
                entry.stored_len,
                entry.first_chunk,
                entry.chunks,
            ) == (
                frame.offset,
                frame.stored_len,
                frame.first_chunk,
                frame.chunks,
            )
        })
    };
    let wrong = used.frames.values().filter(|(frame, _)| !agrees(frame));
    wrong
        .map(|(frame, snapshots)| {
            let problem = Problem {
                object: pack::object_name(id),
                text: format!(
                    "it has no frame of {} bytes at byte {}, which manifests name",
                    frame.stored_len, frame.offset
                ),
                snapshots: snapshots.iter().copied().collect(),
            };
            (Where::Frame(frame.offset), problem)
        })
        .collect()
}

/// Reads the whole pack and verifies every frame.
fn read_pack(repo: &Repository, id: PackId, len: u64, used: &PackUse) -> Result<Found> {
    let name = pack::object_name(id);
    if len > format_limits::PACK_MAX {
        return Ok((
            vec![(
                Where::Pack,
                whole_pack(
                    id,
                    format!("it has {len} bytes, more than a pack may have"),
                    used,
                ),
            )],
            0,
        ));
    }
    let bytes = match problem_of(repo.store().get(&name, len))? {
        Ok(bytes) => bytes,
        Err(text) => return Ok((vec![(Where::Pack, whole_pack(id, text, used))], 0)),
    };
    let read = bytes.len() as u64;
    let vault = repo.vault();
    let view = vault.check_pack_header(id, &bytes).and_then(|()| {
        let tail = match vault.seals() {
            None => Cow::Borrowed(&*bytes),
            Some(_) => Cow::Owned(vault.open_tail(id, &bytes, read)?),
        };
        DirectoryView::decode(id, &tail, vault.opened_len(read))
    });
    let place = |offset, first_chunk| FramePlace {
        pack: id,
        offset,
        first_chunk,
    };
    let mut problems = Vec::new();
    let frames: Vec<(FramePlace, u32, Option<FrameKind>)> = match view {
        Ok(view) => {
            problems.extend(check_frames(id, &view, used));
            view.frames
                .iter()
                .map(|frame| {
                    let place = place(frame.offset, frame.first_chunk);
                    (place, frame.stored_len, Some(frame.kind))
                })
                .collect()
        }
        Err(e) => {
            let problem = Problem {
                object: name.clone(),
                text: format!("{e}; its frames are read where the manifests say that they are"),
                snapshots: Vec::new(),
            };
            problems.push((Where::Directory, problem));
            used.frames
                .values()
                .map(|(frame, _)| {
                    let place = place(frame.offset, frame.first_chunk);
                    (place, frame.stored_len, None)
                })
                .collect()
        }
    };
    let damaged: Vec<(u32, String)> = frames
        .into_par_iter()
        .filter_map(|(place, stored_len, kind)| {
            let start = place.offset as usize;
            let there = start + stored_len as usize <= bytes.len();
            let frame = there.then(|| bytes.slice(start..start + stored_len as usize));
            let frame = frame.ok_or_else(|| "the pack ends before it".to_owned());
            let verified = frame.and_then(|frame| {
                let frame = vault.open_frame(place, frame);
                let verified = frame.and_then(|frame| verify_alone(&frame, kind, repo.key()));
                verified.map_err(|e| e.to_string())
            });
            verified.err().map(|text| (place.offset, text))
        })
        .collect();
    for (offset, text) in damaged {
        let snapshots = used
            .frames
            .get(&offset)
            .map(|(_, snapshots)| snapshots.iter().copied().collect());
        let problem = Problem {
            object: name.clone(),
            text: format!("the frame at byte {offset}: {text}"),
            snapshots: snapshots.unwrap_or_default(),
        };
        problems.push((Where::Frame(offset), problem));
    }
    Ok((problems, read))
}

/// Verifies what can be verified of a frame without others: of a delta, that it decodes.
fn verify_alone(
    bytes: &[u8],
    kind: Option<FrameKind>,
    key: &IdKey,
) -> std::result::Result<(), FormatError> {
    let found = FrameHeader::split(bytes)?.0.kind;
    if kind.is_some_and(|kind| kind != found) {
        return Err(FormatError::Invalid {
            what: "frame",
            detail: "it is of another kind than the directory says".to_owned(),
        });
    }
    match found {
        FrameKind::Plain | FrameKind::Table => frame::verify(bytes, key).map(drop),
        FrameKind::Xor => frame::with_frame(bytes, |_, _| ()),
        FrameKind::Patch => frame::with_frame(bytes, |header, plain| {
            Patch::decode(plain, header.chunks, header.uniform_len).map(drop)
        })?,
    }
}

/// Puts every delta frame that snapshots need together with its bases.
fn check_deltas(
    repo: &Repository,
    packs: &HashMap<PackId, PackUse>,
    damage: &Damage,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut done = HashSet::new();
    for record in &repo.snapshots()?.snapshots {
        // What is wrong with a manifest has been said.
        let Ok(manifest) = repo.manifest(record) else {
            continue;
        };
        let mut touched = Vec::new();
        for delta in manifest.deltas.frames() {
            keep_going(monitor)?;
            let Some(pack) = manifest.packs.get(delta.frame.pack as usize) else {
                continue;
            };
            // What is made of a damaged frame is lost with it, which has been said of that one.
            let is_touched = manifest
                .deltas
                .stands_on(&delta.frame, &mut touched, |frame| {
                    damage.has(&manifest, frame)
                });
            if is_touched || !done.insert((*pack, delta.frame.offset)) {
                continue;
            }
            let mut look = || {
                let mut count = Fetched::default();
                let (vault, key) = (repo.vault(), repo.key());
                let hashes = frame_hashes(vault, &manifest, delta.frame, key, &mut count);
                report.bytes_read += count.bytes;
                problem_of(hashes)
            };
            if look()?.is_ok() {
                continue;
            }
            if let Err(text) = look()? {
                let used = packs
                    .get(pack)
                    .and_then(|p| p.frames.get(&delta.frame.offset));
                report.problems.push(Problem {
                    object: pack::object_name(*pack),
                    text: format!("the delta frame at byte {}: {text}", delta.frame.offset),
                    snapshots: used
                        .map(|u| u.1.iter().copied().collect())
                        .unwrap_or_default(),
                });
            }
        }
    }
    Ok(())
}

/// Of the keys, only those can be opened that this process has something for; a damaged one is noticed all the same.
fn check_keys(repo: &Repository, report: &mut CheckReport) -> Result<()> {
    if repo.record().encryption.is_none() {
        return Ok(());
    }
    for key in repo.keys()? {
        if let Err(text) = problem_of(key.record)? {
            report.problems.push(Problem {
                object: key_name(key.id),
                text: format!("{text}; remove it, and add it again"),
                snapshots: Vec::new(),
            });
        }
    }
    Ok(())
}

fn check_segments(repo: &Repository, report: &mut CheckReport) -> Result<()> {
    for (id, _) in segments::list(repo.store())? {
        if let Err(text) = problem_of(segments::read(repo.vault(), id))? {
            let text = format!(
                "{text}; it touches no snapshot: `cryostore gc` removes it, packs have their ids themselves"
            );
            report.problems.push(Problem {
                object: segments::object_name(id),
                text,
                snapshots: Vec::new(),
            });
        }
    }
    Ok(())
}
