//! Owns what a collection does for those who list snapshots: it has all records before it, and puts those that are in no catalogue into one.
//!
//! A catalogue is a request to a fresh node, so there shall be few; and each is written again when it is merged, so that shall be rare. As in a log-structured merge tree the new one takes in those that are at
//! most twice as large: a record is written some log₂ of all times, and there are about as many catalogues. One request more for a collection that saw many new records; none for an import.
//!
//! Always: a catalogue goes when all that it has, of objects that are what they were, is in others that this run has read. Never: rests anything on one; this is no matter of safety.

use std::collections::HashSet;

use cryostore_format::catalogue::Remembered;
use cryostore_format::limits as format_limits;
use cryostore_format::session::Place;

use super::Garbage;
use super::look::Seen;
use super::plan::Plan;
use crate::error::{Kind, Result};
use crate::limits;
use crate::repo::{Repository, StoredCatalogue, place_name};

/// Which catalogues go, and which are taken into a new one, by their numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) superseded: Vec<usize>,
    /// None: nothing is put.
    pub(super) merged: Option<Vec<usize>>,
}

/// Decides. `fresh` records are in no catalogue. Those that are taken into a new one go when a later run has read that.
pub(super) fn choose(stored: &[StoredCatalogue], fresh: usize) -> Chosen {
    let mut readable: Vec<usize> = (0..stored.len())
        .filter(|n| stored[*n].unreadable.is_none())
        .collect();
    // The same order for all who decide at once: two that have the same are not both left for the other.
    readable.sort_by_key(|n| (stored[*n].entries.len(), &stored[*n].name));
    let mut chosen = Chosen::default();
    let mut known: HashSet<Place> = HashSet::new();
    let mut left = Vec::new();
    for n in readable.into_iter().rev() {
        let before = known.len();
        known.extend(stored[n].entries.iter().map(|entry| entry.place));
        if known.len() == before {
            chosen.superseded.push(n);
        } else {
            left.insert(0, n);
        }
    }
    if fresh >= limits::CATALOGUE_FRESH {
        chosen.merged = Some(merged(stored, &left, fresh));
    }
    chosen
}

/// Which of these, the smallest first, are taken into a new one.
fn merged(stored: &[StoredCatalogue], left: &[usize], fresh: usize) -> Vec<usize> {
    let is_full = |n: &usize| content(&stored[*n].entries) > limits::CATALOGUE_LEN / 2;
    let small = left.iter().filter(|n| !is_full(n)).count();
    let mut size = fresh;
    let mut out = Vec::new();
    for n in left {
        let (live, held) = (stored[*n].entries.len(), stored[*n].held);
        let too_many = small.saturating_sub(out.len()) > limits::CATALOGUES_KEPT;
        let grows = !is_full(n) && (live <= 2 * size || too_many);
        if grows || held > 2 * live {
            size += live;
            out.push(*n);
        }
    }
    out
}

fn content(entries: &[Remembered]) -> usize {
    entries.iter().map(|entry| entry.content.len()).sum()
}

/// What goes.
pub(super) fn to_remove(seen: &Seen, chosen: &Chosen) -> Vec<Garbage> {
    let garbage =
        |stored: &StoredCatalogue, reason| Garbage::new(stored.name.clone(), stored.bytes, reason);
    let superseded = chosen.superseded.iter();
    let superseded = superseded.filter_map(|n| seen.catalogues.get(*n));
    let damaged = seen.catalogues.iter().filter(|stored| {
        let unreadable = stored.unreadable.as_ref();
        unreadable.is_some_and(|e| e.kind() == Kind::Corrupt)
    });
    superseded
        .map(|stored| {
            garbage(
                stored,
                "others have all that it remembers and is there still",
            )
        })
        .chain(
            damaged
                .map(|stored| garbage(stored, "it is damaged; what it remembered is there itself")),
        )
        .collect()
}

/// Puts a new catalogue, if one was chosen, of what this run leaves.
pub(super) fn write(repo: &Repository, seen: &Seen, plan: &Plan) -> Result<()> {
    let Some(merged) = &plan.catalogues.merged else {
        return Ok(());
    };
    let given_up: HashSet<Place> = plan.give_up.iter().map(|(place, _)| *place).collect();
    let removed: HashSet<&str> = plan.remove.iter().map(|gone| gone.name.as_str()).collect();
    let stays = |entry: &&Remembered| {
        !given_up.contains(&entry.place) && !removed.contains(place_name(entry.place).as_str())
    };
    let merged = merged.iter().filter_map(|n| seen.catalogues.get(*n));
    let entries = merged.flat_map(|stored| &stored.entries).chain(&seen.fresh);
    let mut entries: Vec<_> = entries.filter(stays).collect();
    entries.sort_by_key(|entry| entry.place);
    entries.dedup_by_key(|entry| entry.place);
    let most = usize::try_from(format_limits::CATALOGUE_MAX).unwrap_or(usize::MAX);
    let (mut part, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        if bytes + entry.content.len() > limits::CATALOGUE_LEN || part.len() == most {
            repo.put_catalogue(std::mem::take(&mut part))?;
            bytes = 0;
        }
        bytes += entry.content.len();
        part.push(entry.clone());
    }
    if part.is_empty() {
        return Ok(());
    }
    repo.put_catalogue(part)
}

#[cfg(test)]
mod tests {
    use cryostore_format::envelope::ObjectType;
    use cryostore_format::{Lineage, SnapshotId};

    use super::*;
    use crate::error::Error;

    fn place(n: usize) -> Place {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(n as u64).to_le_bytes());
        Place {
            lineage: Lineage::default(),
            snapshot: SnapshotId::from_bytes(id),
        }
    }

    /// A catalogue that once had `held` entries, of which these are left.
    fn stored(name: usize, held: usize, live: std::ops::Range<usize>) -> StoredCatalogue {
        let entry = |n| Remembered {
            place: place(n),
            kind: ObjectType::Snapshot,
            stored_len: 1,
            tag: "t".to_owned(),
            content: Vec::new(),
        };
        StoredCatalogue {
            name: format!("catalogue/{name}"),
            bytes: 1,
            held,
            entries: live.map(entry).collect(),
            unreadable: None,
        }
    }

    #[test]
    fn few_new_records_are_left_as_they_are() {
        let chosen = choose(&[stored(0, 5, 0..5)], limits::CATALOGUE_FRESH - 1);
        assert_eq!(chosen, Chosen::default());
    }

    #[test]
    fn a_new_catalogue_takes_in_those_that_are_at_most_twice_as_large_one_after_the_other() {
        let all = [
            stored(0, 1000, 0..1000),
            stored(1, 32, 1000..1032),
            stored(2, 96, 1032..1128),
            stored(3, 289, 1128..1417),
        ];
        let merged = |fresh| choose(&all, fresh).merged.unwrap();
        // 16 + 32 = 48; 48 + 96 = 144; 289 is more than twice that.
        assert_eq!(merged(16), [1, 2]);
        assert_eq!(merged(17), [1, 2, 3]);
    }

    #[test]
    fn a_catalogue_of_which_more_than_half_is_gone_is_written_anew() {
        let all = [stored(0, 2001, 0..1000), stored(1, 6000, 1000..4000)];
        assert_eq!(choose(&all, 16).merged, Some(vec![0]));
    }

    #[test]
    fn there_are_never_many_catalogues_however_small_the_collections() {
        let mut all: Vec<StoredCatalogue> = Vec::new();
        let (mut next, mut written, mut most) = (0, 0, 0);
        for round in 0..2000 {
            let fresh = 16 + round % 7;
            let chosen = choose(&all, fresh);
            let merged = chosen.merged.unwrap();
            let size = fresh + merged.iter().map(|n| all[*n].entries.len()).sum::<usize>();
            let mut new = stored(round, size, next..next + fresh);
            for n in &merged {
                let entries = std::mem::take(&mut all[*n].entries);
                new.entries.extend(entries);
            }
            next += fresh;
            written += size;
            all.retain(|stored| !stored.entries.is_empty());
            all.push(new);
            most = most.max(all.len());
        }
        assert!(most <= limits::CATALOGUES_KEPT + 1, "{most}");
        assert!(
            written < 20 * next,
            "each of {next} was written {} times",
            written / next
        );
    }

    #[test]
    fn a_catalogue_goes_when_others_have_all_of_it_and_of_two_equal_ones_the_same_for_everybody() {
        let all = [
            stored(5, 10, 0..10),
            stored(2, 10, 0..10),
            stored(3, 20, 10..20),
            stored(4, 20, 5..15),
            stored(1, 3, 0..0),
        ];
        let mut gone = choose(&all, 0).superseded;
        gone.sort_unstable();
        // 4 is within 3 and 5; 2 is 5; of 1 nothing is left.
        assert_eq!(gone, [1, 4]);
        let all = [
            stored(1, 20, 0..20),
            stored(2, 15, 0..15),
            stored(3, 9, 10..19),
        ];
        let mut gone = choose(&all, 0).superseded;
        gone.sort_unstable();
        assert_eq!(gone, [1, 2]);
    }

    #[test]
    fn one_that_cannot_be_read_right_now_stays_and_a_damaged_one_goes() {
        let mut seen = Seen::default();
        for kind in [Kind::Unavailable, Kind::Corrupt, Kind::Unsupported] {
            let mut one = stored(seen.catalogues.len(), 0, 0..0);
            one.unreadable = Some(Error::new(kind, "test"));
            seen.catalogues.push(one);
        }
        let chosen = choose(&seen.catalogues, 0);
        let gone = to_remove(&seen, &chosen);
        let gone: Vec<_> = gone.iter().map(|gone| gone.name.as_str()).collect();
        assert_eq!(gone, ["catalogue/1"]);
    }
}
