//! Owns the choice of what is read in one run of many: part of the packs, those first that were read longest ago.
//!
//! Always: at least one pack is read, so that any number of short runs comes round; what was found is kept after each batch, so that a run that is killed has lost little.
//! Never: counts a pack as verified before all deltas in it were put together.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use cryostore_format::PackId;
use jiff::Timestamp;

use super::checked::{Checked, Verdict};
use super::deltas::Deltas;
use super::{Seen, packs};
use crate::error::Result;
use crate::limits;
use crate::monitor::{Monitor, Phase, keep_going};
use crate::repo::Repository;

/// How much of the packs is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many of 10,000 bytes.
    OfTenThousand(u16),
    /// So many bytes.
    Bytes(u64),
}

/// What is read in one run. Packs in which something was wrong are always read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    /// How much; none: everything.
    pub share: Option<Share>,
    /// After this time nothing more is read.
    pub max_duration: Option<Duration>,
}

/// How much of the data was verified, as far as this node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Packs that were read in this run and are whole.
    pub verified_now: u64,
    /// Packs that were read in this run or an earlier one and were whole.
    pub verified: u64,
    /// All packs.
    pub packs: u64,
    /// When the one of them was read that was read longest ago; none if no pack was verified.
    pub oldest: Option<Timestamp>,
    /// Packs that were to be read in this run, and were not: the time was over.
    pub left: u64,
    /// Bytes of these.
    pub left_bytes: u64,
}

impl Turn {
    /// Reads packs, and puts their deltas together.
    pub(super) fn read(
        &self,
        repo: &Repository,
        started: Duration,
        seen: &mut Seen,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let now = repo.env().now().as_second();
        let mut checked = Checked::load(repo.cache(), &seen.packs, now);
        let (chosen, least) = choose(&seen.packs, &checked, &seen.recorded, self.share);
        let total = chosen.iter().map(|(_, len)| len).sum::<u64>();
        let is_over = || {
            self.max_duration
                .is_some_and(|limit| repo.env().elapsed().saturating_sub(started) >= limit)
        };
        let mut later: HashSet<PackId> = chosen.iter().map(|(id, _)| *id).collect();
        let mut coverage = Coverage::default();
        let mut deltas = Deltas::default();
        let (mut rest, mut done) = (&chosen[..], 0);
        let has_time = |rest: &[_]| chosen.len() - rest.len() < least || !is_over();
        while !rest.is_empty() && has_time(rest) {
            let mut batch = HashSet::new();
            let before = done;
            while let Some(((id, len), after)) = rest.split_first() {
                let is_full = done - before >= limits::CHECK_BATCH;
                if is_full || !has_time(rest) {
                    break;
                }
                keep_going(monitor)?;
                monitor.progress(Phase::Check, done, Some(total));
                let (damage, report) = (&mut seen.damage, &mut seen.report);
                packs::look_at(repo, (*id, *len), &seen.needed, true, damage, report)?;
                batch.insert(*id);
                later.remove(id);
                done += (*len).max(1);
                rest = after;
            }
            let (damage, report) = (&mut seen.damage, &mut seen.report);
            let of = (&batch, &later);
            deltas.check(
                repo,
                (&seen.snapshots, &seen.needed),
                of,
                damage,
                report,
                monitor,
            )?;
            let now = repo.env().now().as_second();
            for id in batch {
                let verdict = Verdict {
                    len: seen.packs.get(&id).copied().unwrap_or_default(),
                    when: now,
                    whole: seen.damage.of(id).is_none(),
                };
                coverage.verified_now += u64::from(verdict.whole);
                checked.note(id, verdict);
            }
            // One that was whole by itself, and is not what others need.
            for id in seen.damage.touched() {
                if let Some(verdict) = checked.get(id) {
                    checked.note(
                        id,
                        Verdict {
                            whole: false,
                            ..verdict
                        },
                    );
                }
            }
            checked.save();
        }
        coverage.left = rest.len() as u64;
        coverage.left_bytes = rest.iter().map(|(_, len)| len).sum();
        coverage.packs = seen.packs.len() as u64;
        let whole: Vec<i64> = checked
            .verdicts()
            .filter(|v| v.whole)
            .map(|v| v.when)
            .collect();
        coverage.verified = whole.len() as u64;
        let oldest = whole.into_iter().min();
        coverage.oldest = oldest.and_then(|seconds| Timestamp::from_second(seconds).ok());
        seen.report.coverage = Some(coverage);
        Ok(())
    }
}

/// The packs to read, in this order: in which something was wrong, or a record says so, that were never read, that were read longest ago. The first of these do not count. And how many of them are read in
/// any case: these, and one other.
fn choose(
    packs: &BTreeMap<PackId, u64>,
    checked: &Checked,
    recorded: &HashSet<PackId>,
    share: Option<Share>,
) -> (Vec<(PackId, u64)>, usize) {
    let total = packs.values().sum::<u64>();
    let most = match share {
        None => u64::MAX,
        Some(Share::Bytes(bytes)) => bytes,
        Some(Share::OfTenThousand(parts)) => {
            let bytes = u128::from(total) * u128::from(parts) / 10_000;
            u64::try_from(bytes).unwrap_or(total)
        }
    };
    let (mut wrong, mut order) = (Vec::new(), Vec::new());
    for (id, len) in packs {
        match checked.get(*id) {
            _ if recorded.contains(id) => wrong.push((*id, *len)),
            Some(verdict) if !verdict.whole => wrong.push((*id, *len)),
            verdict => order.push((verdict.map(|verdict| verdict.when), *id, *len)),
        }
    }
    order.sort_unstable();
    let least = wrong.len() + 1;
    let mut chosen = 0_u64;
    for (n, (_, id, len)) in order.into_iter().enumerate() {
        if n > 0 && chosen.saturating_add(len) > most {
            break;
        }
        chosen += len;
        wrong.push((id, len));
    }
    (wrong, least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> PackId {
        PackId::from_bytes([n; 16])
    }

    #[test]
    fn what_was_wrong_is_read_first_then_what_was_never_read_then_what_was_read_longest_ago() {
        let packs: BTreeMap<_, _> = (1..=5).map(|n| (id(n), 100)).collect();
        let mut checked = Checked::default();
        for (n, when, whole) in [(1, 30, true), (2, 20, true), (3, 99, false), (4, 10, true)] {
            let verdict = Verdict {
                len: 100,
                when,
                whole,
            };
            checked.note(id(n), verdict);
        }
        let chosen = |share| {
            let (chosen, _) = choose(&packs, &checked, &HashSet::new(), share);
            chosen
                .into_iter()
                .map(|(id, _)| id.as_bytes()[0])
                .collect::<Vec<_>>()
        };
        assert_eq!(chosen(None), [3, 5, 4, 2, 1]);
        assert_eq!(chosen(Some(Share::Bytes(250))), [3, 5, 4]);
        assert_eq!(chosen(Some(Share::OfTenThousand(2000))), [3, 5]);
        assert_eq!(
            chosen(Some(Share::OfTenThousand(0))),
            [3, 5],
            "one at least"
        );
        let recorded = HashSet::from([id(1)]);
        let chosen = choose(&packs, &checked, &recorded, Some(Share::Bytes(100)));
        let expected = [1, 3, 5].map(|n| (id(n), 100)).to_vec();
        assert_eq!(chosen, (expected, 3));
    }
}
