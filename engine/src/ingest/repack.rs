//! Owns the emptying of packs of which little is needed: what snapshots need of them is stored again, once, and the snapshots refer to that.
//!
//! Imports leave such packs behind by themselves, and that costs nothing where checkpoints go on coming (`gc/sparse.rs`); this is for what is only kept. A delta of which a page stands in one of these
//! packs is put together and stored as a plain page.
//!
//! Always: all chunks of other packs are referred to where they are. Never: removes anything: a collection finds that nothing needs the packs any more.

use std::collections::HashSet;
use std::sync::Arc;

use cryostore_format::PackId;
use cryostore_format::repository::Role;
use cryostore_format::session::{Place, Work};
use cryostore_format::snapshot::SnapshotRecord;

use super::base::Base;
use super::rewrite::{rewrite, settle};
use super::writer::Writer;
use crate::error::{Kind, Result};
use crate::monitor::{Monitor, keep_going};
use crate::repo::{Repository, Session};

/// What was done to empty packs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repacked {
    /// Snapshots that refer to other packs now.
    pub snapshots: u64,
    /// Bytes that were written.
    pub bytes_added: u64,
    /// Snapshots that still need one of the packs: they are damaged, or more would have been written than was allowed.
    pub left: u64,
}

/// Stores again what snapshots need of these packs, until `most` bytes were written. The oldest come first: what they share with later ones is found there.
pub fn repack(
    repo: &Repository,
    packs: &HashSet<PackId>,
    most: u64,
    monitor: &dyn Monitor,
) -> Result<Repacked> {
    repo.require(Role::Write)?;
    repo.store().may_remove()?;
    let mut out = Repacked::default();
    if packs.is_empty() {
        return Ok(out);
    }
    for snapshot in repo.snapshots()?.snapshots.iter().rev() {
        keep_going(monitor)?;
        let needs = repo
            .manifest_alone(snapshot)
            .map(|manifest| manifest.packs.iter().any(|pack| packs.contains(pack)));
        let done = match needs {
            Ok(false) => continue,
            Ok(true) if out.bytes_added >= most => {
                out.left += 1;
                continue;
            }
            Ok(true) => without(repo, snapshot, packs, monitor),
            Err(e) => Err(e),
        };
        match done {
            Ok(bytes) => {
                out.bytes_added += bytes;
                out.snapshots += 1;
            }
            // Deleted, and freed, since it was listed.
            Err(_) if repo.is_gone(Place::of(snapshot)) => {}
            // A damaged one keeps its packs, and no other from giving up its own.
            Err(e) if e.kind() == Kind::Corrupt => {
                monitor.warning(&format!("snapshot {} stays as it is: {e}", snapshot.id));
                out.left += 1;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

/// Rewrites a snapshot so that it needs none of these packs; gives the bytes that were written.
fn without(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    packs: &HashSet<PackId>,
    monitor: &dyn Monitor,
) -> Result<u64> {
    let session = Session::start(repo, Work::Optimize, None)?;
    settle(repo, snapshot)?;
    let (name, old) = repo.named_manifest(snapshot)?;
    let base = Base {
        id: snapshot.id,
        manifest: Arc::new(old),
        is_whole: false,
    };
    let writer = Writer::without(repo, session.terms(), &base, packs, monitor);
    let old = (name, &*base.manifest);
    Ok(rewrite(repo, session, snapshot, old, writer, monitor)?.bytes_added)
}
