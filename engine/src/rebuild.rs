//! Owns the making anew of the node's index from what the store holds.
//!
//! Always: from the directories of the packs that exist, through segments where there are some. Never: changes the store.

use std::collections::HashSet;

use cryostore_format::pack::Directory;

use crate::error::{Error, Kind, Result};
use crate::index::{Index, segments};
use crate::monitor::{Monitor, Phase, keep_going};
use crate::pack;
use crate::repo::Repository;

/// What an index was made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Packs whose ids it has.
    pub packs: u64,
    /// Ids.
    pub ids: u64,
    /// Segments that were read.
    pub segments: u64,
}

/// Deletes the node's index and fills it again. Packs that are in no segment that can be read are read themselves.
pub fn rebuild_index(repo: &Repository, monitor: &dyn Monitor) -> Result<Rebuilt> {
    let store = repo.store();
    if repo.index_dir().is_none() {
        return Err(Error::new(
            Kind::Invalid,
            "there is no cache directory, and so no index",
        )
        .hint("name a cache directory"));
    }
    repo.drop_index()?;
    let empty = Index::open_without_segments(repo.index_dir().as_deref(), monitor);
    if !empty.is_owner() {
        return Err(
            Error::new(Kind::Conflict, "another process has the local index open")
                .hint("try again when it is done"),
        );
    }
    let exist: HashSet<_> = store
        .list("packs")?
        .iter()
        .filter_map(|object| pack::id_of(&object.name))
        .collect();
    let mut done = HashSet::new();
    let mut out = Rebuilt::default();
    for (id, _) in segments::list(store)? {
        keep_going(monitor)?;
        let segment = match segments::read(store, id) {
            Ok(segment) => segment,
            Err(e) => {
                monitor.warning(&format!(
                    "an index segment is left out, its packs are read instead: {e}"
                ));
                continue;
            }
        };
        for found in segment
            .packs
            .iter()
            .filter(|found| exist.contains(&found.pack))
        {
            empty.insert(found.pack, &found.ids)?;
            out.ids += if done.insert(found.pack) {
                found.ids.len() as u64
            } else {
                0
            };
            monitor.progress(Phase::Index, done.len() as u64, Some(exist.len() as u64));
        }
        empty.mark_segment(id)?;
        out.segments += 1;
    }
    for id in exist.difference(&done) {
        keep_going(monitor)?;
        let (pack_len, tail) = pack::directories::read_tail(store, *id)?;
        match Directory::decode(*id, &tail, pack_len) {
            Ok(directory) => {
                empty.insert(*id, &directory.ids)?;
                out.ids += directory.ids.len() as u64;
                out.packs += 1;
            }
            Err(e) => monitor.warning(&format!(
                "a pack is left out: {}",
                Error::stored(pack::object_name(*id), e)
            )),
        }
    }
    out.packs += done.len() as u64;
    Ok(out)
}
