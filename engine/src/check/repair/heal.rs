//! Owns the healing of snapshots: a manifest that refers to whole copies takes the place of one that refers to damage.
//!
//! Two ways, in this order. Another snapshot of the same archive (of the same digest) that is whole: its manifest is taken over, so that this also heals deltas, and manifests that are
//! damaged themselves. Else, chunk by chunk: if all chunks of damaged plain frames are found elsewhere, the recipes name them there.
//!
//! Always: all that is damaged of a snapshot is healed, or nothing of it is changed. Never: heals a delta chunk by chunk, since the table that names its bases lies in a pack.

use std::collections::{BTreeMap, HashSet};

use cryostore_format::manifest::{Body, Manifest, Role, Stream, StreamIndex};
use cryostore_format::recipe::{FrameRef, FrameSlice, Recipe, RecipeWriter, Slice};
use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{PackId, SnapshotId};

use super::super::Seen;
use super::super::packs::problem_of;
use super::copies::Copies;
use super::internal;
use super::listing::Ids;
use crate::error::Result;
use crate::monitor::{Monitor, keep_going};
use crate::repo::{Repository, Session, Terms};

/// A snapshot that is healed, and whose manifest it has taken over, if any.
type Done<'s> = (&'s SnapshotRecord, Option<SnapshotId>);

/// Heals what can be healed. Without a session nothing is put.
pub(super) fn heal<'s>(
    repo: &Repository,
    seen: &'s Seen,
    ids: &Ids,
    session: Option<&Session<'_>>,
    monitor: &dyn Monitor,
) -> Result<Vec<Done<'s>>> {
    let terms = session.map(Session::terms).unwrap_or_default();
    let lost: HashSet<_> = seen.report.lost_snapshots.iter().copied().collect();
    let records = || seen.snapshots.iter().map(|(record, _)| record);
    let mut done = Vec::new();
    let mut rest = Vec::new();
    for record in records().filter(|record| lost.contains(&record.id)) {
        keep_going(monitor)?;
        // What CRIU needs of another checkpoint is none of this one's chunks.
        let is_there = |id| records().any(|other| other.id == id);
        if !record.requires.is_none_or(is_there) {
            continue;
        }
        let own = problem_of(repo.named_manifest(record))?
            .ok()
            .map(|(_, manifest)| manifest);
        let same = records().filter(|other| {
            let archive = (other.archive.bytes, other.archive.digest);
            !lost.contains(&other.id)
                && archive.1.is_some()
                && archive == (record.archive.bytes, record.archive.digest)
        });
        let mut donor = None;
        for other in same {
            if let Ok(manifest) = problem_of(repo.manifest_alone(other))?
                && own
                    .as_ref()
                    .is_none_or(|own| attachments(own) == attachments(&manifest))
                && manifest.packs.iter().all(|pack| !terms.condemns(*pack))
            {
                donor = Some((other.id, manifest));
                break;
            }
        }
        match (donor, own) {
            (Some((from, manifest)), _) => {
                put(repo, record, &manifest, session, &terms)?;
                done.push((record, Some(from)));
            }
            (None, Some(manifest)) => rest.push((record, manifest)),
            (None, None) => {}
        }
    }
    let mut copies = Copies::new(repo, ids);
    rest.retain(|(_, manifest)| want(manifest, seen, &mut copies).is_some());
    copies.look(seen, &terms, monitor)?;
    for (record, manifest) in rest {
        keep_going(monitor)?;
        if let Some(manifest) = healed(&manifest, seen, &mut copies) {
            put(repo, record, &manifest, session, &terms)?;
            done.push((record, None));
        }
    }
    Ok(done)
}

/// What a snapshot has besides the archive.
fn attachments(manifest: &Manifest) -> Vec<(&[u8], u64, cryostore_format::Digest)> {
    let streams = manifest
        .streams
        .iter()
        .filter(|s| s.role == Role::Attachment);
    let mut out: Vec<_> = streams.map(|s| (&s.name[..], s.len, s.digest)).collect();
    out.sort_unstable();
    out
}

/// Puts a manifest that is to take the place of all that a snapshot has.
fn put(
    repo: &Repository,
    record: &SnapshotRecord,
    manifest: &Manifest,
    session: Option<&Session<'_>>,
    terms: &Terms,
) -> Result<()> {
    let bytes = manifest.encode();
    Manifest::prove(&bytes).map_err(internal("a manifest that cannot be read"))?;
    if session.is_some() {
        let last = repo.last_manifest_name(record)?;
        repo.put_rewritten(terms, last, bytes)?;
    }
    Ok(())
}

/// Says which chunks a manifest wants elsewhere; none if it cannot be healed chunk by chunk.
fn want(manifest: &Manifest, seen: &Seen, copies: &mut Copies<'_>) -> Option<()> {
    let mut known = Vec::new();
    for slice in manifest.frame_slices() {
        let deltas = &manifest.deltas;
        if deltas.rank(&slice.frame).is_some() {
            let is_lost = |frame: &FrameRef| seen.damage.has(manifest, frame);
            if deltas.stands_on(&slice.frame, &mut known, is_lost) {
                return None;
            }
        } else if seen.damage.has(manifest, &slice.frame) {
            let pack = manifest.packs.get(slice.frame.pack as usize)?;
            let ids = copies.ids_of(*pack, &slice)?;
            copies.want(&ids);
        }
    }
    Some(())
}

/// A manifest that names copies in place of what is damaged; none if one is missing.
fn healed(manifest: &Manifest, seen: &Seen, copies: &mut Copies<'_>) -> Option<Manifest> {
    let mut packs = Packs::default();
    let mut streams = Vec::new();
    for (n, stream) in (0..).zip(&manifest.streams) {
        let body = match &stream.body {
            Body::Recipe(_) => {
                Body::Recipe(recipe(manifest, (n, stream), seen, copies, &mut packs)?)
            }
            derived @ Body::Derived { .. } => derived.clone(),
        };
        streams.push(Stream {
            body,
            ..stream.clone()
        });
    }
    let mut tables = Vec::new();
    for (frame, len) in &manifest.tables {
        tables.push((packs.moved(manifest, *frame)?, *len));
    }
    // What the tables name has to stand in the manifest.
    for delta in manifest.deltas.frames() {
        packs.moved(manifest, delta.frame)?;
        for base in delta.base_frames() {
            packs.moved(manifest, base)?;
        }
    }
    let new = Manifest {
        packs: packs.ids,
        streams,
        layout: manifest.layout.clone(),
        maps: manifest.maps.clone(),
        tables,
        ..Manifest::default()
    };
    new.packs
        .iter()
        .all(|pack| seen.packs.contains_key(pack))
        .then_some(new)
}

/// The table of packs of a new manifest.
#[derive(Default)]
struct Packs {
    ids: Vec<PackId>,
    numbers: BTreeMap<PackId, u32>,
}

impl Packs {
    fn number(&mut self, pack: PackId) -> u32 {
        *self.numbers.entry(pack).or_insert_with(|| {
            self.ids.push(pack);
            u32::try_from(self.ids.len() - 1).unwrap_or(u32::MAX)
        })
    }

    /// A frame of the old manifest in the new one.
    fn moved(&mut self, old: &Manifest, frame: FrameRef) -> Option<FrameRef> {
        let pack = self.number(*old.packs.get(frame.pack as usize)?);
        Some(FrameRef { pack, ..frame })
    }
}

fn recipe(
    manifest: &Manifest,
    (number, stream): (StreamIndex, &Stream),
    seen: &Seen,
    copies: &mut Copies<'_>,
    packs: &mut Packs,
) -> Option<Recipe> {
    let mut recipe = RecipeWriter::new(stream.page_size);
    for slice in manifest.slices(number)? {
        let slice = match slice.ok()? {
            zero @ Slice::Zero { .. } => {
                recipe.push(zero);
                continue;
            }
            Slice::Frame(slice) => slice,
        };
        let is_delta = manifest.deltas.rank(&slice.frame).is_some();
        if is_delta || !seen.damage.has(manifest, &slice.frame) {
            let frame = packs.moved(manifest, slice.frame)?;
            recipe.push(Slice::Frame(FrameSlice { frame, ..slice }));
            continue;
        }
        let pack = *manifest.packs.get(slice.frame.pack as usize)?;
        let mut len = 0;
        for id in copies.ids_of(pack, &slice)? {
            let copy = copies.get(id)?;
            len += copy.len;
            let pack = packs.number(copy.pack);
            recipe.push(Slice::Frame(FrameSlice {
                frame: FrameRef { pack, ..copy.frame },
                skip: copy.number,
                take: 1,
                len: copy.len,
            }));
        }
        if len != slice.len {
            return None;
        }
    }
    Some(recipe.finish())
}
