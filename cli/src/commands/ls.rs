//! `cryostore ls`

use std::fmt;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::filter::FilterArgs;
use super::view::SnapshotView;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::Output;
use crate::text::{Column, Table, age, container, printable, short, size};

/// List snapshots, the newest first
///
/// SIZE is the length of the archive, ADDED what the store grew by when it was imported.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore ls
  cryostore ls --namespace default --pod web --since 7d
  cryostore ls --label reason=upgrade --json")]
pub(crate) struct LsArgs {
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Report {
    snapshots: Vec<SnapshotView>,
    #[serde(skip)]
    look: Look,
}

struct Look {
    id_len: usize,
    now: Timestamp,
    width: Option<usize>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.snapshots.is_empty() {
            return Ok(());
        }
        let copies = self.snapshots.iter().any(|one| one.original.is_some());
        let mut columns = vec![
            Column::Left("ID"),
            Column::Right("AGE"),
            Column::Name("NAMESPACE/POD/CONTAINER"),
            Column::Right("SIZE"),
            Column::Right("ADDED"),
            Column::Name("LABELS"),
        ];
        columns.extend(copies.then_some(Column::Left("COPY OF")));
        let mut table = Table::new(columns, self.look.width);
        for snapshot in &self.snapshots {
            let mut row = vec![
                short(snapshot.id, self.look.id_len),
                age(&snapshot.created, self.look.now),
                container(&snapshot.identity),
                size(snapshot.archive.bytes),
                size(snapshot.cost.bytes_added),
                printable(&snapshot.labels.join(", ")),
            ];
            let original = snapshot.original.map(|original| original.id);
            let original = original.map(|id| short(id, self.look.id_len));
            row.extend(copies.then(|| original.unwrap_or_default()));
            table.row(row);
        }
        table.fmt(f)
    }
}

pub(crate) fn run(args: &LsArgs, context: &Context) -> Result<(), Failure> {
    let repo = context.repository()?;
    let now = context.env.now();
    let filter = args.filter.filter(now);
    let list = context.snapshots(&repo)?;
    let snapshots: Vec<_> = list
        .snapshots
        .iter()
        .filter(|record| filter.matches(record))
        .map(SnapshotView::from)
        .collect();
    if snapshots.is_empty() {
        context.screen.note(if list.snapshots.is_empty() {
            "no snapshots yet; `cryostore import ARCHIVE` stores one"
        } else {
            "no snapshot fits the filter; `cryostore ls` lists them all"
        });
    }
    let look = Look {
        id_len: list.id_len(),
        now,
        width: Output::width(),
    };
    context.output.show(&Report { snapshots, look })
}
