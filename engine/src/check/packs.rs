//! Owns the verification of packs, each for itself: its directory, or every byte of it.
//!
//! Always: a pack in which something is wrong is read once more before that is reported. Never: puts a delta together (`deltas.rs`).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cryostore_format::damaged::Extent;
use cryostore_format::manifest::Manifest;
use cryostore_format::pack::{DirectoryView, FrameHeader, FrameKind};
use cryostore_format::patch::Patch;
use cryostore_format::recipe::FrameRef;
use cryostore_format::{FormatError, IdKey, PackId, limits as format_limits};
use rayon::prelude::*;

use super::needed::PackUse;
use super::{CheckReport, Problem};
use crate::codec::frame;
use crate::error::{Kind, Result};
use crate::pack;
use crate::repo::Repository;
use crate::store::{FramePlace, Vault};

/// Where damage was found.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// Packs that are missing, or of which nothing can be read.
    pub(super) packs: HashSet<PackId>,
    /// Packs whose frames can be read, but not their directory.
    pub(super) directories: HashSet<PackId>,
    /// Frames, by their offset.
    pub(super) frames: HashSet<(PackId, u32)>,
}

impl Damage {
    /// What of a pack is damaged; none if nothing was found.
    pub(super) fn of(&self, id: PackId) -> Option<Extent> {
        if self.packs.contains(&id) {
            return Some(Extent::Whole);
        }
        let frames = self.frames.iter().filter(|(pack, _)| *pack == id);
        let mut frames: Vec<u32> = frames.map(|(_, offset)| *offset).collect();
        frames.sort_unstable();
        match frames.is_empty() {
            false if frames.len() > format_limits::DAMAGED_FRAMES_MAX => Some(Extent::Whole),
            false => Some(Extent::Frames(frames)),
            true => self.directories.contains(&id).then_some(Extent::Directory),
        }
    }

    /// Packs in which anything is damaged, in order.
    pub(super) fn touched(&self) -> BTreeSet<PackId> {
        let frames = self.frames.iter().map(|(pack, _)| pack);
        let packs = self.packs.iter().chain(&self.directories).chain(frames);
        packs.copied().collect()
    }

    /// True if a frame cannot be read.
    pub(super) fn has(&self, manifest: &Manifest, frame: &FrameRef) -> bool {
        let pack = manifest.packs.get(frame.pack as usize);
        pack.is_none_or(|pack| {
            self.packs.contains(pack) || self.frames.contains(&(*pack, frame.offset))
        })
    }
}

/// Packs that the store has, and their lengths. Those that snapshots need and that are not there are reported.
pub(super) fn list(
    repo: &Repository,
    needed: &HashMap<PackId, PackUse>,
    damage: &mut Damage,
    report: &mut CheckReport,
) -> Result<BTreeMap<PackId, u64>> {
    let listed: BTreeMap<PackId, u64> = repo
        .store()
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
    Ok(listed)
}

/// Looks at one pack: reads all of it, or its directory. True if nothing is wrong.
pub(super) fn look_at(
    repo: &Repository,
    (id, len): (PackId, u64),
    needed: &HashMap<PackId, PackUse>,
    read_data: bool,
    damage: &mut Damage,
    report: &mut CheckReport,
) -> Result<bool> {
    let unused = PackUse::default();
    let used = needed.get(&id).unwrap_or(&unused);
    report.packs += 1;
    let look = || {
        if read_data {
            read_pack(repo, id, len, used)
        } else {
            read_directory(repo.vault(), id, used)
        }
    };
    let found = match look()? {
        (found, read) if found.is_empty() => {
            report.bytes_read += read;
            return Ok(true);
        }
        // A bit that flipped on the way here is not there the second time.
        _ => look()?,
    };
    report.bytes_read += found.1;
    let is_whole = found.0.is_empty();
    for (place, problem) in found.0 {
        match place {
            Where::Pack => damage.packs.insert(id),
            Where::Frame(offset) => damage.frames.insert((id, offset)),
            Where::Directory => damage.directories.insert(id),
        };
        report.problems.push(problem);
    }
    Ok(is_whole)
}

/// What of a pack is damaged.
#[derive(Debug, Clone, Copy)]
pub(super) enum Where {
    Pack,
    Directory,
    Frame(u32),
}

pub(super) type Found = (Vec<(Where, Problem)>, u64);

/// An error that is about the object becomes a problem; any other ends the check.
pub(super) fn problem_of<T>(result: Result<T>) -> Result<std::result::Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound | Kind::Unsupported) => {
            Ok(Err(e.to_string()))
        }
        Err(e) => Err(e),
    }
}

pub(super) fn read_directory(vault: &Vault, id: PackId, used: &PackUse) -> Result<Found> {
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
pub(super) fn read_pack(repo: &Repository, id: PackId, len: u64, used: &PackUse) -> Result<Found> {
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
pub(super) fn verify_alone(
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
