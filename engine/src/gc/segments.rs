//! Owns the number of index segments: each import puts one, and each is a request for a node that fills its index.
//!
//! Always: many small ones are put together into one, and go in a later run, which sees that another has all of their packs. Never: more than a hint: a segment that is lost costs
//! a node that some chunks are stored twice.

use std::collections::{HashMap, HashSet};

use cryostore_format::segment::Segment;
use cryostore_format::{ChunkId, PackId, SegmentId};

use super::look::Seen;
use crate::env::random_id;
use crate::error::Result;
use crate::index::segments;
use crate::limits;
use crate::repo::Repository;

/// Small segments that are put together, the smallest first; none if there are few.
fn small_ones(seen: &Seen) -> Vec<SegmentId> {
    let superseded = superseded(seen);
    let mut small: Vec<(u64, SegmentId)> = seen
        .segments
        .iter()
        .filter(|(_, (len, packs))| packs.is_some() && *len * 2 < limits::SEGMENT_MERGED)
        .filter(|(name, _)| !superseded.contains(name.as_str()))
        .filter_map(|(name, (len, _))| Some((*len, segments::id_of(name)?)))
        .filter(|(_, id)| !seen.sessions.have_put(id.as_bytes()))
        .collect();
    small.sort_unstable();
    let mut bytes = 0;
    small.retain(|(len, _)| {
        bytes += len;
        bytes <= limits::SEGMENT_MERGED
    });
    if small.len() < limits::SMALL_SEGMENTS {
        return Vec::new();
    }
    small.into_iter().map(|(_, id)| id).collect()
}

/// Puts a segment with the packs of many small ones.
pub(super) fn merge(repo: &Repository, seen: &Seen) -> Result<()> {
    let mut merged = Segment::default();
    let (mut done, mut bytes) = (HashSet::new(), 0);
    for id in small_ones(seen) {
        // Removed by another collection meanwhile.
        let Ok(segment) = segments::read(repo.vault(), id) else {
            continue;
        };
        for found in segment.packs {
            if seen.packs.contains_key(&found.pack) && done.insert(found.pack) {
                bytes += (found.ids.len() * size_of::<ChunkId>()) as u64;
                merged.packs.push(found);
            }
        }
        // What is stored may be smaller than what it holds.
        if bytes > limits::SEGMENT_MERGED {
            break;
        }
    }
    if merged.packs.is_empty() {
        return Ok(());
    }
    let id = SegmentId::from_bytes(random_id(repo.env()));
    let name = segments::object_name(id);
    let sealed = repo.seal_object(&name, merged.encode())?;
    repo.store().create(&name, sealed)
}

/// The segments of which another one has all packs that there are.
pub(super) fn superseded(seen: &Seen) -> HashSet<&str> {
    let there = |packs: &[PackId]| -> HashSet<PackId> {
        let packs = packs.iter().copied();
        packs.filter(|pack| seen.packs.contains_key(pack)).collect()
    };
    let sets: Vec<(&str, HashSet<PackId>)> = seen
        .segments
        .iter()
        .filter_map(|(name, (_, packs))| Some((name.as_str(), there(packs.as_ref()?))))
        .collect();
    let mut having: HashMap<PackId, Vec<usize>> = HashMap::new();
    for (n, (_, packs)) in sets.iter().enumerate() {
        packs
            .iter()
            .for_each(|pack| having.entry(*pack).or_default().push(n));
    }
    // Of two that have the same, the one with the greater name stays.
    let has_more = |other: usize, n: usize| {
        let ((name, packs), (other_name, other)) = (&sets[n], &sets[other]);
        (other.len(), other_name) > (packs.len(), name) && packs.is_subset(other)
    };
    sets.iter()
        .enumerate()
        .filter(|(n, (_, packs))| {
            let others = packs.iter().next().and_then(|pack| having.get(pack));
            others
                .into_iter()
                .flatten()
                .any(|other| has_more(*other, *n))
        })
        .map(|(_, (name, _))| *name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(n: u8) -> PackId {
        PackId::from_bytes([n; 16])
    }

    fn name(n: u8) -> String {
        segments::object_name(SegmentId::from_bytes([n; 16]))
    }

    /// Segments 0, 1, … with these packs; packs below 100 are there.
    fn seen(all: &[&[u8]]) -> Seen {
        let mut seen = Seen::default();
        for (n, packs) in (0..).zip(all) {
            let packs: Vec<_> = packs.iter().map(|n| pack(*n)).collect();
            seen.packs.extend(
                packs
                    .iter()
                    .filter(|id| id.as_bytes()[0] < 100)
                    .map(|id| (*id, 1)),
            );
            seen.segments.insert(name(n), (10, Some(packs)));
        }
        seen
    }

    #[test]
    fn a_segment_goes_when_another_has_all_of_its_packs_that_are_there() {
        let goes = |all: &[&[u8]]| {
            let seen = seen(all);
            let mut names: Vec<_> = superseded(&seen).into_iter().map(str::to_owned).collect();
            names.sort();
            names
        };
        assert_eq!(goes(&[&[1], &[2], &[1, 2]]), [name(0), name(1)]);
        assert_eq!(goes(&[&[1, 3], &[1, 2]]), [] as [String; 0]);
        assert_eq!(goes(&[&[1, 101], &[1, 2]]), [name(0)]);
        // Not both.
        assert_eq!(goes(&[&[1, 2], &[2, 1]]), [name(0)]);
        // That is said elsewhere.
        assert_eq!(goes(&[&[101], &[]]), [] as [String; 0]);
    }

    #[test]
    fn only_many_small_segments_are_put_together_and_no_more_than_fit() {
        let many = |count: u8, len: u64| {
            let mut seen = Seen::default();
            for n in 0..count {
                seen.packs.insert(pack(n), 1);
                seen.segments.insert(name(n), (len, Some(vec![pack(n)])));
            }
            small_ones(&seen).len()
        };
        assert_eq!(many(63, 10), 0);
        assert_eq!(many(64, 10), 64);
        assert_eq!(many(200, limits::SEGMENT_MERGED / 100), 100);
        assert_eq!(many(200, limits::SEGMENT_MERGED / 2), 0);
    }
}
