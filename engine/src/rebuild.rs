//! Owns the making anew of the node's index from what the store holds.
//!
//! Always: from the directories of the packs that exist, through segments where there are some. Never: changes the store.

use std::collections::HashSet;

use cryostore_format::pack::Directory;
use cryostore_format::segment::PackIds;

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
    let Some(dir) = repo.index_dir() else {
        return Err(Error::new(
            Kind::Invalid,
            "there is no cache directory, and so no index",
        )
        .hint("name a cache directory"));
    };
    let empty = Index::make_anew(&dir, repo.memory())?;
    let exist: HashSet<_> = store
        .list("packs")?
        .iter()
        .filter_map(|object| pack::id_of(&object.name))
        .collect();
    let mut done = HashSet::new();
    let mut out = Rebuilt::default();
    for (id, _) in segments::list(store)? {
        keep_going(monitor)?;
        let segment = match segments::read(repo.vault(), id) {
            Ok(segment) => segment,
            Err(e) => {
                monitor.warning(&format!(
                    "an index segment is left out, its packs are read instead: {e}"
                ));
                continue;
            }
        };
        let mut packs = segment.packs;
        packs.retain(|found| exist.contains(&found.pack));
        empty.insert(&packs, Some(id))?;
        for found in packs {
            out.ids += if done.insert(found.pack) {
                found.ids.len() as u64
            } else {
                0
            };
        }
        monitor.progress(Phase::Index, done.len() as u64, Some(exist.len() as u64));
        out.segments += 1;
    }
    for id in exist.difference(&done) {
        keep_going(monitor)?;
        let read = pack::directories::read_tail(repo.vault(), *id).and_then(|(pack_len, tail)| {
            let directory = Directory::decode(*id, &tail, repo.vault().opened_len(pack_len));
            let directory = directory.map_err(|e| Error::stored(pack::object_name(*id), e))?;
            Ok(PackIds {
                pack: *id,
                pack_len,
                ids: directory.ids,
            })
        });
        match read {
            Ok(found) => {
                out.ids += found.ids.len() as u64;
                empty.insert(&[found], None)?;
                out.packs += 1;
            }
            // Damaged, or removed by a collector since it was listed.
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound | Kind::Unsupported) => {
                monitor.warning(&format!("a pack is left out: {e}"));
            }
            Err(e) => return Err(e),
        }
    }
    out.packs += done.len() as u64;
    Ok(out)
}
