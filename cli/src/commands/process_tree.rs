//! The process tree of a checkpoint, read from its CRIU images: who was the child of whom, under which name, with how much memory.
//!
//! Always: an image that cannot be read leaves a gap, not an error; loops and orphans in a tree are shown, once each. Never: reads page images.

use std::collections::{BTreeMap, HashSet};

use cryostore_engine::criu::{Core, ImageName, image_name, parse_pstree};
use cryostore_engine::format::manifest::{Manifest, MapOf, RunPlace};
use cryostore_engine::{CheckpointReader, Result};
use serde::Serialize;

/// 16 MiB: a process tree of some hundred thousand processes.
const TREE_LEN: u64 = 16 << 20;
/// 1 MiB: a core image is a few kilobytes; with very large registers some more.
const CORE_LEN: u64 = 1 << 20;
/// Names are read one by one; beyond it nobody reads the list, either.
const NAMED: usize = 4096;

/// One process, in the order of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ProcessView {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// 0: the root of its tree.
    pub(crate) depth: usize,
    /// Absent: not known.
    pub(crate) name: Option<String>,
    pub(crate) threads: usize,
    /// Pages in the archive.
    pub(crate) pages: u64,
    pub(crate) bytes: u64,
    /// Pages in CRIU's parent directory.
    pub(crate) parent_pages: u64,
}

/// Memory of one process: pages, bytes, pages in the parent directory.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    pages: u64,
    bytes: u64,
    parent_pages: u64,
}

/// Directory (with its slash) and file name of a member.
pub(crate) fn split(name: &[u8]) -> (&[u8], &[u8]) {
    name.split_at(name.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1))
}

/// All processes of all trees in the archive.
pub(crate) fn read(reader: &CheckpointReader<'_>) -> Result<Vec<ProcessView>> {
    let manifest = reader.manifest();
    let is_tree = |name: &&Vec<u8>| image_name(split(name).1) == ImageName::Pstree;
    let trees: Vec<_> = manifest
        .streams
        .iter()
        .map(|stream| &stream.name)
        .filter(is_tree)
        .collect();
    let mut out = Vec::new();
    for tree in &trees {
        let dir = split(tree).0;
        let Ok(Some(bytes)) = reader.read_member(tree, TREE_LEN) else {
            continue;
        };
        let Ok(entries) = parse_pstree(&bytes) else {
            continue;
        };
        let memory = memory(manifest, (trees.len() > 1).then_some(dir));
        for (n, depth) in in_order(
            &entries
                .iter()
                .map(|entry| (entry.pid, entry.ppid))
                .collect::<Vec<_>>(),
        ) {
            let entry = &entries[n];
            let used = memory.get(&entry.pid).copied().unwrap_or_default();
            out.push(ProcessView {
                pid: entry.pid,
                parent: entry.ppid,
                depth,
                name: if out.len() < NAMED {
                    comm(reader, dir, entry.pid)
                } else {
                    None
                },
                threads: entry.threads.len(),
                pages: used.pages,
                bytes: used.bytes,
                parent_pages: used.parent_pages,
            });
        }
    }
    Ok(out)
}

fn comm(reader: &CheckpointReader<'_>, dir: &[u8], pid: u32) -> Option<String> {
    let mut name = dir.to_vec();
    name.extend_from_slice(format!("core-{pid}.img").as_bytes());
    let bytes = reader.read_member(&name, CORE_LEN).ok()??;
    Core::parse(&bytes).ok()?.comm
}

/// Memory by pid; of one directory, if there are several.
fn memory(manifest: &Manifest, dir: Option<&[u8]>) -> BTreeMap<u32, Memory> {
    let mut out: BTreeMap<u32, Memory> = BTreeMap::new();
    for map in manifest.maps.iter().filter(|map| !map.stale) {
        let MapOf::Process(pid) = map.of else {
            continue;
        };
        let stream = map
            .stream
            .and_then(|n| manifest.streams.get(usize::try_from(n).ok()?));
        if let (Some(dir), Some(stream)) = (dir, stream)
            && split(&stream.name).0 != dir
        {
            continue;
        }
        let used = out.entry(pid).or_default();
        for run in &map.runs {
            match run.place {
                RunPlace::Image => used.pages = used.pages.saturating_add(run.pages),
                RunPlace::Parent => used.parent_pages = used.parent_pages.saturating_add(run.pages),
            }
        }
        used.bytes = used.pages.saturating_mul(u64::from(map.page_size));
    }
    out
}

/// Numbers and depths of the entries (pid, parent), each child behind its parent.
fn in_order(entries: &[(u32, u32)]) -> Vec<(usize, usize)> {
    let mut children: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (n, (_, parent)) in entries.iter().enumerate() {
        children.entry(*parent).or_default().push(n);
    }
    let pids: HashSet<u32> = entries.iter().map(|(pid, _)| *pid).collect();
    let roots = (0..entries.len()).filter(|n| !pids.contains(&entries[*n].1));
    let mut seen = vec![false; entries.len()];
    let mut out = Vec::with_capacity(entries.len());
    // The roots, then whatever only a loop leads to.
    for start in roots.chain(0..entries.len()) {
        let mut stack = vec![(start, 0)];
        while let Some((n, depth)) = stack.pop() {
            if std::mem::replace(&mut seen[n], true) {
                continue;
            }
            out.push((n, depth));
            let below = children.get(&entries[n].0).into_iter().flatten();
            stack.extend(below.rev().map(|child| (*child, depth + 1)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_stand_behind_their_parents() {
        let tree = [(1, 0), (2, 1), (5, 2), (3, 1)];
        assert_eq!(in_order(&tree), [(0, 0), (1, 1), (2, 2), (3, 1)]);
    }

    #[test]
    fn loops_orphans_and_twins_come_once() {
        let tree = [(2, 3), (3, 2), (7, 99), (8, 8), (7, 1)];
        let mut numbers: Vec<_> = in_order(&tree).into_iter().map(|(n, _)| n).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
    }
}
