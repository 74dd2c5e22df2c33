//! `cryostore check`

use std::fmt;

use clap::Args;
use cryostore_engine::check::{CheckOptions, CheckReport, check};
use cryostore_engine::format::SnapshotId;
use serde::Serialize;

use super::Outcome;
use crate::context::Context;
use crate::exit::Failure;
use crate::text::{printable, short, size};

/// Verify the repository
///
/// Looks at every snapshot, manifest and pack, and names what is damaged and which snapshots that touches; nothing is changed. With
/// --read-data every stored byte is read and verified. The exit code is 5 if there are problems.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore check
  cryostore check --read-data --json")]
pub(crate) struct CheckArgs {
    /// Read and verify all data, not only the descriptions of it
    #[arg(long)]
    read_data: bool,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    read_data: bool,
    problems: Vec<Problem>,
    lost_snapshots: Vec<SnapshotId>,
    snapshots: u64,
    packs: u64,
    bytes_read: u64,
    foreign: Vec<String>,
    #[serde(skip)]
    id_len: usize,
}

#[derive(Serialize)]
struct Problem {
    object: String,
    text: String,
    snapshots: Vec<SnapshotId>,
}

impl Report {
    fn new(read_data: bool, found: CheckReport, id_len: usize) -> Self {
        let problem = |p: cryostore_engine::check::Problem| Problem {
            object: p.object,
            text: p.text,
            snapshots: p.snapshots,
        };
        Self {
            ok: found.problems.is_empty(),
            read_data,
            problems: found.problems.into_iter().map(problem).collect(),
            lost_snapshots: found.lost_snapshots,
            snapshots: found.snapshots,
            packs: found.packs,
            bytes_read: found.bytes_read,
            foreign: found.foreign,
            id_len,
        }
    }

    fn ids(&self, ids: &[SnapshotId]) -> String {
        ids.iter()
            .map(|id| short(*id, self.id_len))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(
                f,
                "{}: {}",
                printable(&problem.object),
                printable(&problem.text)
            )?;
            if problem.snapshots.is_empty() {
                writeln!(f, "  touches no snapshot")?;
            } else {
                writeln!(f, "  touches {}", self.ids(&problem.snapshots))?;
            }
        }
        let read = if self.read_data {
            "read"
        } else {
            "read (--read-data reads all)"
        };
        let looked_at = format!(
            "{} snapshots, {} packs, {} {read}",
            self.snapshots,
            self.packs,
            size(self.bytes_read)
        );
        if self.ok {
            return writeln!(f, "no problems: {looked_at}");
        }
        writeln!(f, "\n{} problems: {looked_at}", self.problems.len())?;
        match self.lost_snapshots[..] {
            [] => writeln!(f, "every snapshot can be given back"),
            _ => writeln!(
                f,
                "cannot be given back: {}",
                self.ids(&self.lost_snapshots)
            ),
        }
    }
}

pub(crate) fn run(args: &CheckArgs, context: &Context) -> Result<Outcome, Failure> {
    let repo = context.repository()?;
    let options = CheckOptions {
        read_data: args.read_data,
    };
    let found = check(&repo, &options, context.monitor())?;
    let id_len = repo.snapshots()?.id_len();
    let report = Report::new(args.read_data, found, id_len);
    context.screen.clear();
    for name in &report.foreign {
        context
            .screen
            .warn(&format!("{name} is no part of a repository"));
    }
    context.output.show(&report)?;
    if report.ok {
        return Ok(Outcome::Done);
    }
    context.screen.note("put damaged objects back from a copy; or delete the snapshots that are lost, and import them again");
    Ok(Outcome::Problems)
}
