//! `cryostore optimize`

use std::collections::HashSet;
use std::fmt;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::{Identity, SnapshotRecord};
use cryostore_engine::{Filter, Kind, Optimized, Order, SnapshotList, optimize};
use jiff::Timestamp;
use serde::Serialize;

use super::filter::FilterArgs;
use crate::context::Context;
use crate::exit::Failure;
use crate::storages::several_said;
use crate::text::{Column, Table, container, printable, short, size};

/// Rewrite snapshots in the order in which they are read
///
/// What a checkpoint needs lies in the packs of all the imports that first saw it, some of it as deltas of older pages. A snapshot that is restored often, or over a slow
/// store, reads faster from a copy of its own: as large as a first import, without deltas, in as few packs as can be. The snapshot keeps its id and its bytes. What only it
/// needed before stays until `cryostore gc` removes it; what others need stays.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore optimize latest
  cryostore optimize 3f9a2b1c
  cryostore optimize --pod web-0 && cryostore gc")]
pub(crate) struct OptimizeArgs {
    /// `latest`, ids, or at least four of their first characters; none: the newest of each container
    #[arg(value_name = "ID")]
    snapshots: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Report {
    snapshots: Vec<Rewritten>,
    /// Those that are what they were, and why.
    failed: Vec<Failed>,
    #[serde(skip)]
    id_len: usize,
}

#[derive(Serialize)]
struct Rewritten {
    id: SnapshotId,
    identity: Identity,
    before: Needs,
    /// None: it was in order already.
    after: Option<Needs>,
    bytes_added: u64,
    /// It is read from its new place after the next collection.
    later: bool,
}

#[derive(Serialize)]
struct Failed {
    id: SnapshotId,
    error: String,
}

#[derive(Serialize)]
struct Needs {
    packs: u64,
    delta_frames: u64,
}

impl From<Order> for Needs {
    fn from(order: Order) -> Self {
        Self {
            packs: order.packs,
            delta_frames: order.deltas,
        }
    }
}

impl Rewritten {
    fn new(record: &SnapshotRecord, done: &Optimized) -> Self {
        Self {
            id: record.id,
            identity: record.identity.clone(),
            before: done.before.into(),
            after: done.after.map(Needs::from),
            bytes_added: done.bytes_added,
            later: done.later,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failed in &self.failed {
            let id = short(failed.id, self.id_len);
            writeln!(f, "{id} is what it was: {}", printable(&failed.error))?;
        }
        if self.snapshots.is_empty() {
            let nothing = self.failed.is_empty();
            return if nothing {
                writeln!(f, "there is nothing to rewrite")
            } else {
                Ok(())
            };
        }
        let mut table = Table::new(
            [
                Column::Left("ID"),
                Column::Left("NAMESPACE/POD/CONTAINER"),
                Column::Right("PACKS"),
                Column::Right("DELTA FRAMES"),
                Column::Right("WRITTEN"),
            ],
            None,
        );
        for one in &self.snapshots {
            let change = |before: u64, after: Option<u64>| match after {
                Some(after) => format!("{before} → {after}"),
                None => before.to_string(),
            };
            let after = one.after.as_ref();
            table.row([
                short(one.id, self.id_len),
                container(&one.identity),
                change(one.before.packs, after.map(|needs| needs.packs)),
                change(
                    one.before.delta_frames,
                    after.map(|needs| needs.delta_frames),
                ),
                match after {
                    Some(_) => size(one.bytes_added),
                    None => "in order".to_owned(),
                },
            ]);
        }
        table.fmt(f)
    }
}

/// The snapshots that are meant: those that were named, or the newest of each container.
fn wanted<'l>(
    list: &'l SnapshotList,
    named: &[String],
    filter: &Filter,
) -> Result<Vec<&'l SnapshotRecord>, Failure> {
    let mut seen = HashSet::new();
    if named.is_empty() {
        let all = list.snapshots.iter();
        let newest = all
            .filter(|record| filter.matches(record))
            .filter(|record| seen.insert(container(&record.identity)));
        return Ok(newest.collect());
    }
    let found: Result<Vec<_>, _> = named.iter().map(|text| list.find(text, filter)).collect();
    let mut ids = HashSet::new();
    Ok(found?
        .into_iter()
        .filter(|record| ids.insert(record.id))
        .collect())
}

pub(crate) fn run(args: &OptimizeArgs, context: &Context) -> Result<(), Failure> {
    let (context, ids) = &several_said(context, &args.snapshots)?;
    let repo = context.repository()?;
    let list = context.snapshots(&repo)?;
    let filter = args.filter.filter(Timestamp::now());
    let mut report = Report {
        snapshots: Vec::new(),
        failed: Vec::new(),
        id_len: list.id_len(),
    };
    let mut first = None;
    for record in wanted(&list, ids, &filter)? {
        let done = optimize(&repo, record, context.monitor());
        context.screen.clear();
        match done {
            Ok(done) => report.snapshots.push(Rewritten::new(record, &done)),
            Err(e) => {
                report.failed.push(Failed {
                    id: record.id,
                    error: e.to_string(),
                });
                let stop = e.kind() == Kind::Interrupted;
                first.get_or_insert(e);
                if stop {
                    break;
                }
            }
        }
    }
    context.output.show(&report)?;
    if report.snapshots.iter().any(|one| one.after.is_some()) {
        context.screen.note("`cryostore gc` frees what nothing else needs; `cryostore gc --dry-run` says how much that is");
    }
    if report.snapshots.iter().any(|one| one.later) {
        context.screen.note("a collection of garbage is at work: what was rewritten is read from its new place after the next one");
    }
    first.map_or(Ok(()), |e| Err(e.into()))
}
