//! Owns the decision which snapshots are kept. Pure.
//!
//! Always: looks at each container (namespace, pod, container) alone; a snapshot that is pinned, or that a kept one needs, is kept whatever the rules say. Never: deletes.
//!
//! The rules are those of restic and borg: a snapshot is kept if any of the keep rules wants it (all are, if there is no such rule). Then what is older than `max_age`, or beyond the
//! newest `max_checkpoints`, goes, unless its label keeps it.

use std::collections::{BTreeMap, HashMap, HashSet};

use cryostore_format::SnapshotId;
use cryostore_format::snapshot::SnapshotRecord;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

use crate::repo::Filter;

/// What is kept. Counts are per container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeepRules {
    /// The newest ones.
    pub last: Option<u32>,
    /// The newest of each of the last hours that have one.
    pub hourly: Option<u32>,
    /// The same of days.
    pub daily: Option<u32>,
    /// The same of weeks (ISO 8601).
    pub weekly: Option<u32>,
    /// The same of months.
    pub monthly: Option<u32>,
    /// Those that are no older than this.
    pub within: Option<SignedDuration>,
    /// Those with one of these labels: a whole label, or the KEY of a label `KEY=VALUE`.
    pub labels: Vec<String>,
    /// What is older goes.
    pub max_age: Option<SignedDuration>,
    /// What is beyond so many newest goes.
    pub max_checkpoints: Option<u32>,
}

impl KeepRules {
    /// True if nothing is said: everything would be kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// True if only what is chosen stays. Beside a bound, labels are exceptions from it; alone, they choose.
    fn keeps_by_choice(&self) -> bool {
        let counts = [
            self.last,
            self.hourly,
            self.daily,
            self.weekly,
            self.monthly,
        ];
        let bounded = self.max_age.is_some() || self.max_checkpoints.is_some();
        counts.iter().any(Option::is_some)
            || self.within.is_some()
            || (!self.labels.is_empty() && !bounded)
    }
}

/// What was decided for one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The snapshot.
    pub id: SnapshotId,
    /// It stays.
    pub keep: bool,
    /// Why.
    pub reasons: Vec<String>,
}

/// Decides for those of `snapshots` (all that there are, newest first) that `filter` lets through, in their order. Hours and days are those of `zone`.
#[must_use]
pub fn decide(
    snapshots: &[SnapshotRecord],
    filter: &Filter,
    rules: &KeepRules,
    pins: &HashSet<SnapshotId>,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Verdict> {
    let mut containers: BTreeMap<_, Vec<&SnapshotRecord>> = BTreeMap::new();
    for record in snapshots.iter().filter(|record| filter.matches(record)) {
        let who = &record.identity;
        let container = (&who.namespace, &who.pod, &who.container);
        containers.entry(container).or_default().push(record);
    }
    let mut verdicts: HashMap<SnapshotId, Verdict> = HashMap::new();
    for records in containers.values() {
        for verdict in of_container(records, rules, pins, now, zone) {
            verdicts.insert(verdict.id, verdict);
        }
    }
    keep_what_is_needed(snapshots, &mut verdicts);
    let in_order = snapshots.iter();
    in_order
        .filter_map(|record| verdicts.remove(&record.id))
        .collect()
}

/// When a snapshot was taken, as far as that is known: the checkpoint itself, or its import.
fn taken(record: &SnapshotRecord) -> Timestamp {
    record.created.parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The name of the period that a time lies in.
type Period = fn(&Zoned) -> String;

fn of_container(
    records: &[&SnapshotRecord],
    rules: &KeepRules,
    pins: &HashSet<SnapshotId>,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Verdict> {
    let mut reasons: Vec<Vec<String>> = vec![Vec::new(); records.len()];
    let last = rules.last.unwrap_or(0) as usize;
    for (n, reasons) in reasons.iter_mut().enumerate().take(last) {
        reasons.push(format!("last {}", n + 1));
    }
    let periods: [(&str, Option<u32>, Period); 4] = [
        ("hourly", rules.hourly, |t| {
            t.strftime("%Y-%m-%d %H").to_string()
        }),
        ("daily", rules.daily, |t| t.strftime("%Y-%m-%d").to_string()),
        ("weekly", rules.weekly, |t| t.strftime("%G-W%V").to_string()),
        ("monthly", rules.monthly, |t| {
            t.strftime("%Y-%m").to_string()
        }),
    ];
    for (word, count, period) in periods {
        let mut seen = HashSet::new();
        for (record, reasons) in records.iter().zip(&mut reasons) {
            if seen.len() >= count.unwrap_or(0) as usize {
                break;
            }
            let period = period(&taken(record).to_zoned(zone.clone()));
            if seen.insert(period.clone()) {
                reasons.push(format!("{word} {period}"));
            }
        }
    }
    let mut out = Vec::new();
    for (n, (record, mut reasons)) in records.iter().zip(reasons).enumerate() {
        let age = now.duration_since(taken(record));
        if rules.within.is_some_and(|within| age <= within) {
            reasons.push("within".to_owned());
        }
        if !rules.keeps_by_choice() {
            reasons.push("no rule lets it go".to_owned());
        }
        let over = [
            rules
                .max_age
                .filter(|most| age > *most)
                .map(|_| "older than the greatest age".to_owned()),
            rules
                .max_checkpoints
                .filter(|most| n >= *most as usize)
                .map(|most| format!("more than {most} of the container")),
        ];
        let over: Vec<String> = over.into_iter().flatten().collect();
        if !over.is_empty() {
            reasons.clear();
        }
        let labels = rules
            .labels
            .iter()
            .filter(|wanted| has_label(record, wanted));
        reasons.extend(labels.map(|label| format!("label {label}")));
        if pins.contains(&record.id) {
            reasons.push("pinned".to_owned());
        }
        let keep = !reasons.is_empty();
        let not_wanted = || {
            if over.is_empty() {
                vec!["no rule keeps it".to_owned()]
            } else {
                over
            }
        };
        out.push(Verdict {
            id: record.id,
            keep,
            reasons: if keep { reasons } else { not_wanted() },
        });
    }
    out
}

fn has_label(record: &SnapshotRecord, wanted: &str) -> bool {
    let mut labels = record.labels.iter();
    labels
        .any(|label| label == wanted || label.split_once('=').is_some_and(|(key, _)| key == wanted))
}

/// Keeps what holds pages of a snapshot that stays (CRIU's parent), which may be out of the filter.
fn keep_what_is_needed(snapshots: &[SnapshotRecord], verdicts: &mut HashMap<SnapshotId, Verdict>) {
    let requires: HashMap<_, _> = snapshots
        .iter()
        .filter_map(|record| Some((record.id, record.requires?)))
        .collect();
    for record in snapshots {
        if verdicts
            .get(&record.id)
            .is_some_and(|verdict| !verdict.keep)
        {
            continue;
        }
        let mut child = record.id;
        // As long as a chain can be at most: damaged records could make a ring.
        for _ in 0..snapshots.len() {
            let Some(needed) = requires.get(&child) else {
                break;
            };
            if let Some(verdict) = verdicts.get_mut(needed).filter(|verdict| !verdict.keep) {
                verdict.keep = true;
                verdict.reasons = vec![format!("{child} needs it")];
            }
            child = *needed;
        }
    }
}

#[cfg(test)]
mod tests;
