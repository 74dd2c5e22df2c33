//! `cryostore stats`

use std::fmt;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::{Classes, Identity};
use cryostore_engine::{SnapshotStats, Stats, stats};
use jiff::Timestamp;
use serde::Serialize;

use super::import::class_table;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::Output;
use crate::text::{Column, Table, age, container, percent, short, size};

/// Show what is stored, and what it would be without cryostore
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore stats
  cryostore stats --json")]
pub(crate) struct StatsArgs {}

#[derive(Serialize)]
struct Report {
    logical_bytes: u64,
    stored_bytes: u64,
    /// Logical by stored.
    ratio: Option<f64>,
    objects: Objects,
    /// What the imports of these snapshots found.
    classes: Classes,
    snapshots: Vec<One>,
    #[serde(skip)]
    look: Look,
}

#[derive(Serialize)]
struct Objects {
    packs: u64,
    pack_bytes: u64,
    index_bytes: u64,
    manifest_bytes: u64,
    other_bytes: u64,
}

#[derive(Serialize)]
struct One {
    id: SnapshotId,
    created: String,
    identity: Identity,
    bytes: u64,
    bytes_added: u64,
    packs_needed: Option<u64>,
    classes: Classes,
}

struct Look {
    id_len: usize,
    now: Timestamp,
    width: Option<usize>,
}

impl Report {
    fn new(stats: &Stats, look: Look) -> Self {
        let one = |snapshot: &SnapshotStats| One {
            id: snapshot.record.id,
            created: snapshot.record.created.clone(),
            identity: snapshot.record.identity.clone(),
            bytes: snapshot.record.archive.bytes,
            bytes_added: snapshot.record.cost.bytes_added,
            packs_needed: snapshot.packs_needed,
            classes: snapshot.record.cost.classes,
        };
        Self {
            logical_bytes: stats.logical_bytes,
            stored_bytes: stats.stored_bytes,
            ratio: (stats.stored_bytes > 0).then(|| ratio(stats.logical_bytes, stats.stored_bytes)),
            objects: Objects {
                packs: stats.packs,
                pack_bytes: stats.pack_bytes,
                index_bytes: stats.index_bytes,
                manifest_bytes: stats.manifest_bytes,
                other_bytes: stats.other_bytes,
            },
            classes: stats.classes,
            snapshots: stats.snapshots.iter().map(one).collect(),
            look,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio for people; 52 bits are enough"
)]
fn ratio(logical: u64, stored: u64) -> f64 {
    logical as f64 / stored as f64
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sums = Table::new(
            [Column::Left(""), Column::Right(""), Column::Left("")],
            None,
        );
        let mut sum =
            |name: &str, bytes: u64, more: String| sums.row([name.to_owned(), size(bytes), more]);
        let share = |bytes: u64| percent(bytes, self.stored_bytes);
        sum(
            "archives",
            self.logical_bytes,
            format!("{} snapshots", self.snapshots.len()),
        );
        let ratio = self
            .ratio
            .map(|ratio| format!("{ratio:.1} times smaller"))
            .filter(|_| self.logical_bytes > 0);
        sum("stored", self.stored_bytes, ratio.unwrap_or_default());
        sum(
            "  packs",
            self.objects.pack_bytes,
            format!(
                "{}, {} objects",
                share(self.objects.pack_bytes),
                self.objects.packs
            ),
        );
        sum(
            "  manifests",
            self.objects.manifest_bytes,
            share(self.objects.manifest_bytes),
        );
        sum(
            "  index",
            self.objects.index_bytes,
            share(self.objects.index_bytes),
        );
        sum(
            "  other",
            self.objects.other_bytes,
            share(self.objects.other_bytes),
        );
        write!(f, "{sums}")?;
        if self.snapshots.is_empty() {
            return Ok(());
        }
        write!(f, "\n{}", class_table(&self.classes))?;
        let columns = [
            Column::Left("ID"),
            Column::Right("AGE"),
            Column::Name("NAMESPACE/POD/CONTAINER"),
            Column::Right("SIZE"),
            Column::Right("ADDED"),
            Column::Right("SHARE"),
            Column::Right("PACKS"),
        ];
        let mut table = Table::new(columns, self.look.width);
        for snapshot in &self.snapshots {
            table.row([
                short(snapshot.id, self.look.id_len),
                age(&snapshot.created, self.look.now),
                container(&snapshot.identity),
                size(snapshot.bytes),
                size(snapshot.bytes_added),
                percent(snapshot.bytes_added, snapshot.bytes),
                snapshot
                    .packs_needed
                    .map_or_else(|| "-".to_owned(), |packs| packs.to_string()),
            ]);
        }
        write!(f, "\n{table}")
    }
}

pub(crate) fn run(_: &StatsArgs, context: &Context) -> Result<(), Failure> {
    let repo = context.repository()?;
    let stats = stats(&repo, context.monitor())?;
    let ids = stats
        .snapshots
        .iter()
        .map(|snapshot| snapshot.record.clone())
        .collect();
    let list = cryostore_engine::SnapshotList {
        snapshots: ids,
        ..Default::default()
    };
    let look = Look {
        id_len: list.id_len(),
        now: context.env.now(),
        width: Output::width(),
    };
    context.output.show(&Report::new(&stats, look))
}
