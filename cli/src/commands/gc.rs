//! `cryostore gc`

use std::collections::BTreeMap;
use std::fmt;

use clap::Args;
use cryostore_engine::format::PackId;
use cryostore_engine::gc::{GcOptions, GcReport, SparsePack, collect};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::text::{Column, Table, printable, size};

/// More are listed with --json.
const LISTED: usize = 20;

/// Remove what no snapshot needs
///
/// Refuses while an import is at work, and says which. A session whose process was killed on this machine is ended by itself; one of
/// another machine is ended with --end-session, after you made sure that its process is gone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore gc --dry-run
  cryostore gc
  cryostore gc --end-session 5d0c7a31")]
pub(crate) struct GcArgs {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// End this session for good: it can never commit any more
    #[arg(long, value_name = "ID")]
    end_session: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    removed: bool,
    /// Bytes of the garbage.
    bytes: u64,
    kept_bytes: u64,
    garbage: Vec<Garbage>,
    ended_sessions: Vec<String>,
    foreign: Vec<String>,
    /// Packs that imports leave behind from now on.
    leaving: Vec<Leaving>,
}

#[derive(Serialize)]
struct Leaving {
    pack: PackId,
    bytes: u64,
    needed_bytes: u64,
}

#[derive(Serialize)]
struct Garbage {
    name: String,
    bytes: u64,
    reason: String,
}

impl Report {
    fn new(dry_run: bool, found: GcReport) -> Self {
        let garbage = |g: cryostore_engine::gc::Garbage| Garbage {
            name: g.name,
            bytes: g.bytes,
            reason: g.reason,
        };
        let leaving = |pack: SparsePack| Leaving {
            pack: pack.id,
            bytes: pack.bytes,
            needed_bytes: pack.needed,
        };
        Self {
            dry_run,
            removed: found.removed,
            bytes: found.bytes,
            kept_bytes: found.kept_bytes,
            garbage: found.garbage.into_iter().map(garbage).collect(),
            ended_sessions: found.ended_sessions,
            foreign: found.foreign,
            leaving: found.leaving.into_iter().map(leaving).collect(),
        }
    }

    fn list(&self) -> Table {
        let mut table = Table::new(
            [
                Column::Left("OBJECT"),
                Column::Right("SIZE"),
                Column::Left("WHY"),
            ],
            None,
        );
        for object in self.garbage.iter().take(LISTED) {
            table.row([
                printable(&object.name),
                size(object.bytes),
                object.reason.clone(),
            ]);
        }
        table
    }

    fn write_leaving(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.leaving.is_empty() {
            return Ok(());
        }
        let sum = |bytes: fn(&Leaving) -> u64| size(self.leaving.iter().map(bytes).sum());
        let leave = if self.dry_run { "would leave" } else { "leave" };
        writeln!(
            f,
            "imports {leave} {} packs behind, {}, of which {} are needed: they go when the snapshots that need them do",
            self.leaving.len(),
            sum(|pack| pack.bytes),
            sum(|pack| pack.needed_bytes)
        )
    }

    fn sums(&self) -> Table {
        let mut kinds: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for object in &self.garbage {
            let sum = kinds
                .entry(object.name.split('/').next().unwrap_or_default())
                .or_default();
            *sum = (sum.0 + 1, sum.1 + object.bytes);
        }
        let mut table = Table::new(
            [Column::Left(""), Column::Right(""), Column::Right("")],
            None,
        );
        for (kind, (count, bytes)) in kinds {
            table.row([format!("  {kind}"), count.to_string(), size(bytes)]);
        }
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for session in &self.ended_sessions {
            writeln!(f, "ended session {}", printable(session))?;
        }
        if self.garbage.is_empty() {
            writeln!(f, "nothing to remove; {} are needed", size(self.kept_bytes))?;
            return self.write_leaving(f);
        }
        let done = if self.removed {
            "removed"
        } else {
            "would remove"
        };
        writeln!(
            f,
            "{done} {} in {} objects; {} are needed",
            size(self.bytes),
            self.garbage.len(),
            size(self.kept_bytes)
        )?;
        if self.removed {
            self.sums().fmt(f)?;
            return self.write_leaving(f);
        }
        write!(f, "{}", self.list())?;
        if self.garbage.len() > LISTED {
            writeln!(
                f,
                "and {} more; --json lists them all",
                self.garbage.len() - LISTED
            )?;
        }
        self.write_leaving(f)
    }
}

pub(crate) fn run(args: GcArgs, context: &Context) -> Result<(), Failure> {
    let repo = context.repository()?;
    let options = GcOptions {
        dry_run: args.dry_run,
        end_sessions: args.end_session,
    };
    let report = Report::new(args.dry_run, collect(&repo, &options, context.monitor())?);
    context.screen.clear();
    for name in &report.foreign {
        context
            .screen
            .warn(&format!("{name} is no part of a repository; it stays"));
    }
    context.output.show(&report)
}
