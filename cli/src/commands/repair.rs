//! `cryostore repair`

use std::collections::BTreeMap;
use std::fmt;

use clap::Args;
use cryostore_engine::check::Turn;
use cryostore_engine::check::repair::{DamagedPack, Extent, RepairOptions, RepairReport, repair};
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::SnapshotRecord;
use serde::Serialize;

use super::Outcome;
use super::check::Part;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::Output;
use crate::text::{Column, Span, Table, container, day_and_time, printable, short, size};

/// Mend what is damaged, as far as there is another copy
///
/// Reads all packs, as `check --read-data` does. Damaged packs get a record, so that imports store their chunks anew where they come again. Index segments that are damaged or
/// missing are made anew. A snapshot that needs what is damaged is healed if all of that is whole elsewhere: in another snapshot of the same archive, or chunk by chunk in other
/// packs. So import the archives of lost snapshots again, if they are still there, and repair once more; or put damaged objects back from a copy of the store. Nothing is removed
/// but damaged index segments; what is not needed after it goes with `cryostore gc`. The exit code is 5 if snapshots are lost.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore repair --dry-run
  cryostore repair
  cryostore repair --read-data-subset 0%  # only what a check has found
  cryostore import checkpoint.tar && cryostore repair && cryostore gc")]
pub(crate) struct RepairArgs {
    /// Say what would be done, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Look for damage in part of the data, such as 5% or 20G, and where a check has found some
    #[arg(long, value_name = "SHARE")]
    read_data_subset: Option<Part>,
    /// Look for damage for so long, such as 10m or 2h
    #[arg(long, value_name = "TIME")]
    max_duration: Option<Span>,
    /// Remove damaged records of collections: no `gc` is at work, on any machine
    #[arg(long)]
    no_collection_at_work: bool,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    dry_run: bool,
    damaged_packs: Vec<Damaged>,
    whole_again: Vec<String>,
    segments_removed: Vec<String>,
    packs_listed: u64,
    collections_removed: Vec<String>,
    collections_left: Vec<String>,
    healed: Vec<Healed>,
    lost: Vec<Lost>,
    other: Vec<Problem>,
    bytes_read: u64,
    packs_not_read: u64,
    #[serde(skip)]
    look: Look,
}

#[derive(Serialize)]
struct Damaged {
    object: String,
    what: String,
    frames: Vec<u32>,
    snapshots: Vec<SnapshotId>,
}

#[derive(Serialize)]
struct Healed {
    id: SnapshotId,
    from: Option<SnapshotId>,
    later: bool,
}

#[derive(Serialize)]
struct Lost {
    id: SnapshotId,
    container: Option<String>,
    created: Option<String>,
    because: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    object: String,
    text: String,
}

impl Problem {
    fn new((object, text): (String, String)) -> Self {
        Self { object, text }
    }
}

#[derive(Default)]
struct Look {
    id_len: usize,
    width: Option<usize>,
}

impl Damaged {
    fn new(pack: DamagedPack) -> Self {
        let (what, frames) = match pack.what {
            None => ("missing", Vec::new()),
            Some(Extent::Whole) => ("all of it", Vec::new()),
            Some(Extent::Directory) => ("its directory", Vec::new()),
            Some(Extent::Frames(frames)) => ("frames", frames),
        };
        let id = pack.id.to_string();
        Self {
            object: format!("packs/{}/{id}", id.get(..2).unwrap_or_default()),
            what: what.to_owned(),
            frames,
            snapshots: pack.snapshots,
        }
    }
}

impl Report {
    fn new(
        dry_run: bool,
        found: RepairReport,
        known: &BTreeMap<SnapshotId, SnapshotRecord>,
        look: Look,
    ) -> Self {
        let ok = found.lost.is_empty();
        let healed = found.healed.into_iter().map(|healed| Healed {
            id: healed.id,
            from: healed.from,
            later: healed.later,
        });
        let lost = found.lost.into_iter().map(|lost| Lost {
            id: lost.id,
            container: known
                .get(&lost.id)
                .map(|record| container(&record.identity)),
            created: known.get(&lost.id).map(|record| record.created.clone()),
            because: lost.because.into_iter().map(Problem::new).collect(),
        });
        let other = found.other.into_iter();
        let other = other.map(|problem| Problem::new((problem.object, problem.text)));
        Self {
            ok,
            dry_run,
            damaged_packs: found.damaged.into_iter().map(Damaged::new).collect(),
            whole_again: found.lifted.iter().map(ToString::to_string).collect(),
            segments_removed: found.segments_removed,
            packs_listed: found.packs_listed,
            collections_removed: found.collections_removed,
            collections_left: found.collections_left,
            healed: healed.collect(),
            lost: lost.collect(),
            other: other.collect(),
            bytes_read: found.bytes_read,
            packs_not_read: found.not_read,
            look,
        }
    }

    fn is_nothing(&self) -> bool {
        self.ok
            && self.damaged_packs.is_empty()
            && self.healed.is_empty()
            && self.segments_removed.is_empty()
            && self.packs_listed == 0
            && self.collections_removed.is_empty()
            && self.collections_left.is_empty()
            && self.whole_again.is_empty()
            && self.other.is_empty()
    }

    fn fmt_small(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pack in &self.whole_again {
            writeln!(
                f,
                "pack {pack} is whole again, or gone: its record is removed"
            )?;
        }
        for name in &self.segments_removed {
            writeln!(f, "{name} is damaged, and is removed")?;
        }
        if self.packs_listed > 0 {
            writeln!(
                f,
                "{} packs get into a new index segment",
                self.packs_listed
            )?;
        }
        for name in &self.collections_removed {
            writeln!(f, "{name} is damaged, and is removed")?;
        }
        for name in &self.collections_left {
            writeln!(f, "{name} is damaged: nothing is healed while it is there")?;
        }
        for problem in &self.other {
            writeln!(
                f,
                "{}: {}",
                printable(&problem.object),
                printable(&problem.text)
            )?;
        }
        Ok(())
    }

    fn fmt_lost(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(
            [
                Column::Left("LOST"),
                Column::Name("CONTAINER"),
                Column::Left("CREATED"),
                Column::Name("BECAUSE OF"),
            ],
            self.look.width,
        );
        for lost in &self.lost {
            let because: Vec<_> = lost
                .because
                .iter()
                .map(|problem| printable(&problem.object))
                .collect();
            table.row([
                short(lost.id, self.look.id_len),
                lost.container.as_deref().unwrap_or("?").to_owned(),
                lost.created
                    .as_deref()
                    .map_or_else(|| "?".to_owned(), day_and_time),
                because.join(", "),
            ]);
        }
        write!(f, "{table}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = size(self.bytes_read);
        if self.is_nothing() {
            return writeln!(f, "nothing to repair ({read} read)");
        }
        if self.dry_run {
            writeln!(f, "a dry run: nothing was changed")?;
        }
        for pack in &self.damaged_packs {
            let what = match pack.frames.len() {
                0 => pack.what.clone(),
                1 => "1 frame".to_owned(),
                n => format!("{n} frames"),
            };
            let snapshots = pack.snapshots.len();
            writeln!(
                f,
                "{}: damaged ({what}), touches {snapshots} snapshots",
                pack.object
            )?;
        }
        self.fmt_small(f)?;
        for healed in &self.healed {
            let id = short(healed.id, self.look.id_len);
            match healed.from {
                Some(from) => {
                    let from = short(from, self.look.id_len);
                    write!(f, "{id} is healed: {from} is of the same archive")?;
                }
                None => write!(f, "{id} is healed: its chunks are in other packs too")?,
            }
            writeln!(
                f,
                "{}",
                if healed.later {
                    ", from the next gc on"
                } else {
                    ""
                }
            )?;
        }
        match self.lost.len() {
            0 => writeln!(f, "no snapshot is lost ({read} read)"),
            n => {
                self.fmt_lost(f)?;
                writeln!(
                    f,
                    "{n} snapshots are lost, {} healed ({read} read)",
                    self.healed.len()
                )
            }
        }
    }
}

pub(crate) fn run(args: &RepairArgs, context: &Context) -> Result<Outcome, Failure> {
    let repo = context.repository()?;
    let options = RepairOptions {
        dry_run: args.dry_run,
        turn: Turn {
            share: args.read_data_subset.map(|part| part.0),
            max_duration: args.max_duration.map(|span| span.0),
        },
        no_collection_at_work: args.no_collection_at_work,
    };
    let found = repair(&repo, &options, context.monitor())?;
    let list = repo.snapshots()?;
    let look = Look {
        id_len: list.id_len(),
        width: Output::width(),
    };
    let known = list
        .snapshots
        .into_iter()
        .map(|record| (record.id, record))
        .collect();
    let report = Report::new(args.dry_run, found, &known, look);
    context.screen.clear();
    context.output.show(&report)?;
    if !report.collections_left.is_empty() {
        context.screen.note("when no `cryostore gc` is at work on any machine: `cryostore repair --no-collection-at-work`");
    }
    if report.ok {
        return Ok(Outcome::Done);
    }
    context.screen.note("import the archives of lost snapshots again, or put damaged objects back from a copy, and repair once more; else `cryostore delete` them");
    Ok(Outcome::Problems)
}
