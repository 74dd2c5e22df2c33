//! Owns the order in which a snapshot lies: all of its chunks once more, in the order in which they are read, without deltas.
//!
//! What a checkpoint needs lies in the packs of all the imports that first saw its chunks; one that is restored often, or over a slow store, is worth a copy of its own.
//!
//! Always: as large as the snapshot's first import would be. Never: finds what was stored before.

use std::collections::HashSet;

use cryostore_format::manifest::Manifest;
use cryostore_format::recipe::FrameSlice;
use cryostore_format::repository::Role;
use cryostore_format::session::Work;
use cryostore_format::snapshot::SnapshotRecord;

use super::rewrite::{Rewritten, rewrite, settle};
use super::writer::Writer;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::monitor::Monitor;
use crate::repo::{Repository, Session};

/// What a snapshot needs to be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Order {
    /// Packs.
    pub packs: u64,
    /// Delta frames.
    pub deltas: u64,
    /// Stored bytes of its frames, without what deltas are made of.
    pub bytes: u64,
}

/// What an optimization has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Optimized {
    /// What the snapshot needed before.
    pub before: Order,
    /// What it needs now; none if it was in order already, and nothing was written.
    pub after: Option<Order>,
    /// Bytes that were written.
    pub bytes_added: u64,
    /// True if it takes effect with the next collection: one is at work.
    pub later: bool,
}

impl Order {
    fn of(manifest: &Manifest) -> Self {
        let mut frames = HashSet::new();
        let mut out = Self::default();
        for FrameSlice { frame, .. } in manifest.frame_slices() {
            if frames.insert((frame.pack, frame.offset)) {
                out.bytes += u64::from(frame.stored_len);
                out.deltas += u64::from(manifest.deltas.rank(&frame).is_some());
            }
        }
        out.packs = manifest.packs.len() as u64;
        out
    }

    /// True if it cannot be much better: no deltas, and as many packs as its bytes fill, one not full.
    fn is_good(&self) -> bool {
        self.deltas == 0 && self.packs <= self.bytes.div_ceil(limits::PACK_LEN as u64) + 1
    }
}

/// Rewrites a snapshot in the order in which it is read, as large as its first import would be. After `Ok` it is read from there; what only it needed before is garbage.
pub fn optimize(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    monitor: &dyn Monitor,
) -> Result<Optimized> {
    repo.require(Role::Write)?;
    let session = Session::start(repo, Work::Optimize, None)?;
    // One that was stopped before its last step is brought to its end.
    settle(repo, snapshot)?;
    let (name, old) = repo.named_manifest(snapshot)?;
    if repo.last_manifest_name(snapshot)? != name {
        return Err(Error::new(
            Kind::Conflict,
            format!("snapshot {} was rewritten, which takes effect with the next collection", snapshot.id),
        )
        .hint("run `cryostore gc` where deleting is allowed, then optimize it again if it is worth it"));
    }
    let before = Order::of(&old);
    if before.is_good() {
        return Ok(Optimized {
            before,
            after: None,
            bytes_added: 0,
            later: false,
        });
    }
    let writer = Writer::anew(repo, session.terms(), monitor);
    let Rewritten {
        manifest,
        bytes_added,
        later,
    } = rewrite(repo, session, snapshot, (name, &old), writer, monitor)?;
    Ok(Optimized {
        before,
        after: Some(Order::of(&manifest)),
        bytes_added,
        later,
    })
}
