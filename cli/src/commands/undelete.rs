//! `cryostore undelete`

use std::fmt;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::Identity;
use cryostore_engine::{Filter, SnapshotList};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::text::{Column, Table, age, container, printable, short, size};

/// Bring deleted snapshots back
///
/// That works until `cryostore gc` gives them up: 24 hours after the deletion, unless its --grace says otherwise. Without an id, lists what can be brought back.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore undelete
  cryostore undelete 3f9a2b1c")]
pub(crate) struct UndeleteArgs {
    /// Ids, or at least four of their first characters
    #[arg(value_name = "ID")]
    snapshots: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    /// What was brought back.
    undeleted: Vec<SnapshotId>,
    /// What can be, if no id was said.
    deleted: Vec<Deleted>,
    #[serde(skip)]
    id_len: usize,
    #[serde(skip)]
    now: jiff::Timestamp,
}

#[derive(Serialize)]
struct Deleted {
    id: SnapshotId,
    identity: Identity,
    bytes: u64,
    deleted: Option<String>,
    reason: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for id in &self.undeleted {
            writeln!(f, "{} is back", short(*id, self.id_len))?;
        }
        if self.deleted.is_empty() {
            return Ok(());
        }
        let columns = [
            Column::Left("ID"),
            Column::Left("CONTAINER"),
            Column::Right("SIZE"),
            Column::Right("DELETED"),
            Column::Left("WHY"),
        ];
        let mut table = Table::new(columns, None);
        for one in &self.deleted {
            table.row([
                short(one.id, self.id_len),
                container(&one.identity),
                size(one.bytes),
                one.deleted
                    .as_ref()
                    .map_or_else(|| "?".to_owned(), |then| age(then, self.now)),
                printable(one.reason.as_deref().unwrap_or_default()),
            ]);
        }
        write!(f, "{table}")
    }
}

pub(crate) fn run(args: &UndeleteArgs, context: &Context) -> Result<(), Failure> {
    let repo = context.repository()?;
    let found = repo.snapshots_and_deleted()?;
    // Found as others are, among those that were deleted.
    let list = SnapshotList {
        snapshots: found
            .deleted
            .iter()
            .map(|(record, _)| record.clone())
            .collect(),
        ..SnapshotList::default()
    };
    let id_len = list.id_len();
    let mut report = Report {
        undeleted: Vec::new(),
        deleted: Vec::new(),
        id_len,
        now: context.env.now(),
    };
    if args.snapshots.is_empty() {
        report.deleted = found.deleted.into_iter().map(deleted).collect();
        if report.deleted.is_empty() {
            context.screen.note("there are no deleted snapshots");
        }
        return context.output.show(&report);
    }
    let mut wanted = Vec::new();
    for text in &args.snapshots {
        wanted.push(list.find(text, &Filter::default())?.clone());
    }
    // One that others need comes back before them.
    wanted.sort_by_key(|record| record.requires.is_some());
    wanted.dedup_by_key(|record| record.id);
    for record in wanted {
        repo.undelete(&record)?;
        report.undeleted.push(record.id);
    }
    context.output.show(&report)
}

fn deleted(
    (record, mark): (
        cryostore_engine::format::snapshot::SnapshotRecord,
        Option<cryostore_engine::format::mark::Mark>,
    ),
) -> Deleted {
    Deleted {
        id: record.id,
        identity: record.identity,
        bytes: record.archive.bytes,
        deleted: mark.as_ref().map(|mark| mark.created.clone()),
        reason: mark.map(|mark| mark.reason),
    }
}
