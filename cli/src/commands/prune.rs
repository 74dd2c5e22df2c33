//! `cryostore prune`

use std::fmt;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::Identity;
use cryostore_engine::prune::{KeepRules, decide};
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::filter::FilterArgs;
use crate::context::Context;
use crate::exit::Failure;
use crate::text::{Column, Span, Table, age, container, short};

/// Delete snapshots by rules
///
/// Looks at each container alone. A snapshot is kept if any --keep rule wants it; what is older than --max-age or beyond the newest --max-checkpoints goes all the same, unless --keep-label keeps it.
/// What is pinned, or what a kept one needs, stays. Deleted ones can be brought back by `cryostore undelete`; `cryostore gc` frees them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore prune --max-checkpoints 5 --dry-run
  cryostore prune --keep-last 3 --keep-hourly 24 --keep-daily 7
  cryostore prune --max-age 7d --keep-label release --namespace ml")]
pub(crate) struct PruneArgs {
    /// Keep the newest N
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the newest of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// The same of days, of this machine's time zone
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// The same of weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// The same of months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// Keep those that are no older: 30m, 12h, 7d, 2w
    #[arg(long, value_name = "TIME")]
    keep_within: Option<Span>,
    /// Keep those with this label; of a label KEY=VALUE, KEY is enough
    #[arg(long, value_name = "TEXT")]
    keep_label: Vec<String>,
    /// Let those go that are older
    #[arg(long, value_name = "TIME")]
    max_age: Option<Span>,
    /// Let those go that are beyond the newest N of their container
    #[arg(long, value_name = "N")]
    max_checkpoints: Option<u32>,
    /// Say what would be deleted and why, delete nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    kept: u64,
    deleted: u64,
    snapshots: Vec<One>,
    #[serde(skip)]
    id_len: usize,
    #[serde(skip)]
    now: jiff::Timestamp,
}

#[derive(Serialize)]
struct One {
    id: SnapshotId,
    identity: Identity,
    created: String,
    keep: bool,
    reasons: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::Left(""),
            Column::Left("ID"),
            Column::Left("CONTAINER"),
            Column::Right("AGE"),
            Column::Left("WHY"),
        ];
        let mut table = Table::new(columns, None);
        for one in &self.snapshots {
            table.row([
                if one.keep { "keep" } else { "delete" }.to_owned(),
                short(one.id, self.id_len),
                container(&one.identity),
                age(&one.created, self.now),
                one.reasons.join(", "),
            ]);
        }
        write!(f, "{table}")?;
        let done = if self.dry_run {
            "would delete"
        } else {
            "deleted"
        };
        writeln!(f, "{done} {}, {} stay", self.deleted, self.kept)
    }
}

pub(crate) fn run(args: &PruneArgs, context: &Context) -> Result<(), Failure> {
    let span = |span: Option<Span>| {
        span.map(|span| SignedDuration::try_from(span.0).unwrap_or(SignedDuration::MAX))
    };
    let rules = KeepRules {
        last: args.keep_last,
        hourly: args.keep_hourly,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
        monthly: args.keep_monthly,
        within: span(args.keep_within),
        labels: args.keep_label.clone(),
        max_age: span(args.max_age),
        max_checkpoints: args.max_checkpoints,
    };
    if rules.is_empty() {
        return Err(Failure::usage(
            "prune: there is no rule, so that everything would stay",
            "say --keep-last N, --max-age 7d, --max-checkpoints N, or others that `cryostore prune --help` lists",
        ));
    }
    let repo = context.repository()?;
    let list = context.snapshots(&repo)?;
    let now = context.env.now();
    let verdicts = decide(
        &list.snapshots,
        &args.filter.filter(now),
        &rules,
        &repo.pins()?,
        now,
        &TimeZone::system(),
    );
    let gone: Vec<_> = verdicts.iter().filter(|v| !v.keep).map(|v| v.id).collect();
    if !args.dry_run && !gone.is_empty() {
        repo.delete(&gone, "pruned")?;
    }
    let of = |id| list.snapshots.iter().find(|record| record.id == id);
    let snapshots: Vec<_> = verdicts
        .into_iter()
        .filter_map(|verdict| {
            let record = of(verdict.id)?;
            Some(One {
                id: verdict.id,
                identity: record.identity.clone(),
                created: record.created.clone(),
                keep: verdict.keep,
                reasons: verdict.reasons,
            })
        })
        .collect();
    context.output.show(&Report {
        dry_run: args.dry_run,
        kept: snapshots.iter().filter(|one| one.keep).count() as u64,
        deleted: gone.len() as u64,
        snapshots,
        id_len: list.id_len(),
        now,
    })
}
