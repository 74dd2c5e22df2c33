//! Owns the order of processes, and who of them is looked at.
//!
//! Always: only processes of the tree are listed (other images may be of processes that are gone); loops and orphans in a tree come once each.
//! Never: trusts a pid to be there once.

use std::collections::{BTreeMap, HashSet};

use super::process::{Budget, Memory, Process, memory};
use super::table::Files;
use super::{Folder, Look, TABLE_LEN};
use crate::criu::parse_pstree;

/// The processes of one folder of images. With `several` folders, page maps of others are not theirs.
pub(super) fn read(
    folder: &Folder<'_>,
    several: bool,
    look: Look,
    budget: &mut Budget,
) -> Vec<Process> {
    let tree = folder.read("pstree.img", TABLE_LEN);
    let Some(entries) = tree.and_then(|bytes| parse_pstree(&bytes).ok()) else {
        return Vec::new();
    };
    let memory: BTreeMap<u32, Memory> = memory(folder, several);
    let files = Files::read(folder);
    let pids: Vec<_> = entries.iter().map(|e| (e.pid, e.ppid)).collect();
    let mut out = Vec::with_capacity(entries.len());
    for (n, depth) in in_order(&pids) {
        let entry = &entries[n];
        let mut process = Process {
            pid: entry.pid,
            parent: entry.ppid,
            depth,
            threads: entry.threads.len(),
            memory: memory.get(&entry.pid).copied().unwrap_or_default(),
            ..Process::default()
        };
        if budget.take_process() {
            process.look_at(folder, &files, look, budget);
        }
        out.push(process);
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
