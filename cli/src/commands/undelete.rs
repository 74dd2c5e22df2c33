//! `cryostore undelete`

use std::fmt;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::{Identity, SnapshotRecord};
use cryostore_engine::{Filter, Repository, SnapshotList};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::storages::Search;
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
    let mut report = Report {
        undeleted: Vec::new(),
        deleted: Vec::new(),
        id_len: 0,
        now: context.env.now(),
    };
    if args.snapshots.is_empty() {
        let found = context.repository()?.snapshots_and_deleted()?;
        report.id_len = list_of(&found).id_len();
        report.deleted = found.deleted.into_iter().map(deleted).collect();
        if report.deleted.is_empty() {
            context.screen.note("there are no deleted snapshots");
        }
        return context.output.show(&report);
    }
    let mut search = Search::new(context)?;
    let mut wanted = Vec::new();
    for text in &args.snapshots {
        let (repo, (record, id_len)) = search.find(text, look)?;
        report.id_len = id_len;
        wanted.push((repo, record));
    }
    // One that others need comes back before them.
    wanted.sort_by_key(|(_, record)| record.requires.is_some());
    wanted.dedup_by_key(|(_, record)| record.id);
    for (repo, record) in wanted {
        repo.undelete(&record)?;
        report.undeleted.push(record.id);
    }
    context.output.show(&report)
}

/// Those that were deleted, to be found as others are.
fn list_of(found: &SnapshotList) -> SnapshotList {
    SnapshotList {
        snapshots: found
            .deleted
            .iter()
            .map(|(record, _)| record.clone())
            .collect(),
        ..SnapshotList::default()
    }
}

fn look(
    _: &Context,
    repo: &Repository,
    text: &str,
) -> Result<(SnapshotId, (SnapshotRecord, usize)), Failure> {
    let list = list_of(&repo.snapshots_and_deleted()?);
    let record = list.find(text, &Filter::default())?.clone();
    Ok((record.id, (record, list.id_len())))
}

fn deleted(
    (record, mark): (SnapshotRecord, Option<cryostore_engine::format::mark::Mark>),
) -> Deleted {
    Deleted {
        id: record.id,
        identity: record.identity,
        bytes: record.archive.bytes,
        deleted: mark.as_ref().map(|mark| mark.created.clone()),
        reason: mark.map(|mark| mark.reason),
    }
}
