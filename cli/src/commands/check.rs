//! `cryostore check`

use std::fmt;
use std::str::FromStr;

use clap::Args;
use cryostore_engine::check::{
    CheckOptions, CheckReport, Coverage, Share, Turn, check, check_in_turn,
};
use cryostore_engine::format::SnapshotId;
use jiff::Timestamp;
use serde::Serialize;

use super::Outcome;
use crate::context::Context;
use crate::exit::Failure;
use crate::text::{Span, age, bytes_in, printable, short, size};

/// Verify the repository
///
/// Looks at every snapshot, manifest and pack, and names what is damaged and which snapshots that touches; nothing is changed. With
/// --read-data every stored byte is read and verified. The exit code is 5 if there are problems.
///
/// --read-data-subset and --max-duration read part of the data: the packs that this node has not read yet, or not for the longest time, come first, so that repeated runs
/// read everything in turn. What was verified when is kept in the cache directory. Of packs that are not read then it is only looked at whether they are there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore check
  cryostore check --read-data --json
  cryostore check --read-data-subset 5%
  cryostore check --read-data --max-duration 10m")]
pub(crate) struct CheckArgs {
    /// Read and verify all data, not only the descriptions of it
    #[arg(long)]
    read_data: bool,
    /// Read and verify part of the data, such as 5% or 20G
    #[arg(long, value_name = "SHARE")]
    read_data_subset: Option<Part>,
    /// Read and verify data for so long, such as 10m or 2h
    #[arg(long, value_name = "TIME")]
    max_duration: Option<Span>,
}

/// A share of the data as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part(pub(super) Share);

impl FromStr for Part {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "say a share such as 5% or 0.25%, or a size such as 500M or 20G".to_owned();
        let Some(percent) = text.strip_suffix('%') else {
            return Ok(Self(Share::Bytes(bytes_in(text).ok_or_else(wrong)?)));
        };
        let (whole, part) = percent.split_once('.').unwrap_or((percent, ""));
        let is_number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || part.len() > 2 || !is_number(whole) || !is_number(part) {
            return Err(wrong());
        }
        let parts: u16 = format!("{whole}{part:0<2}").parse().map_err(|_| wrong())?;
        if parts > 10_000 {
            return Err(wrong());
        }
        Ok(Self(Share::OfTenThousand(parts)))
    }
}

impl CheckArgs {
    /// What is read; none: no data.
    fn turn(&self) -> Option<Turn> {
        let turn = Turn {
            share: self.read_data_subset.map(|part| part.0),
            max_duration: self.max_duration.map(|span| span.0),
        };
        (self.read_data || turn != Turn::default()).then_some(turn)
    }
}

/// What of the data was verified, as far as this node knows.
#[derive(Serialize)]
struct Verified {
    /// Packs, in this run.
    now: u64,
    /// In this run and earlier ones.
    packs: u64,
    of: u64,
    oldest: Option<String>,
    /// Not read in this run, since the time was over.
    left: u64,
    left_bytes: u64,
}

impl Verified {
    fn new(coverage: &Coverage) -> Self {
        Self {
            now: coverage.verified_now,
            packs: coverage.verified,
            of: coverage.packs,
            oldest: coverage.oldest.map(|oldest| oldest.to_string()),
            left: coverage.left,
            left_bytes: coverage.left_bytes,
        }
    }
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
    verified: Option<Verified>,
    foreign: Vec<String>,
    #[serde(skip)]
    id_len: usize,
    #[serde(skip)]
    now: Timestamp,
}

#[derive(Serialize)]
struct Problem {
    object: String,
    text: String,
    snapshots: Vec<SnapshotId>,
}

impl Report {
    fn new(read_data: bool, found: CheckReport, id_len: usize, now: Timestamp) -> Self {
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
            verified: found.coverage.as_ref().map(Verified::new),
            foreign: found.foreign,
            id_len,
            now,
        }
    }

    fn ids(&self, ids: &[SnapshotId]) -> String {
        ids.iter()
            .map(|id| short(*id, self.id_len))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn fmt_verified(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(verified) = &self.verified else {
            return Ok(());
        };
        if verified.left > 0 {
            let (left, bytes) = (verified.left, size(verified.left_bytes));
            writeln!(
                f,
                "the time was over: {left} packs ({bytes}) are left for the next run"
            )?;
        }
        write!(
            f,
            "verified: {} packs now, {} of {} in all",
            verified.now, verified.packs, verified.of
        )?;
        match &verified.oldest {
            Some(oldest) => writeln!(f, ", the oldest {} ago", age(oldest, self.now)),
            None => writeln!(f),
        }
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
            writeln!(f, "no problems: {looked_at}")?;
            return self.fmt_verified(f);
        }
        writeln!(f, "\n{} problems: {looked_at}", self.problems.len())?;
        self.fmt_verified(f)?;
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
    let turn = args.turn();
    let found = match &turn {
        Some(turn) => check_in_turn(&repo, turn, context.monitor())?,
        None => check(&repo, &CheckOptions::default(), context.monitor())?,
    };
    let id_len = repo.snapshots()?.id_len();
    let report = Report::new(turn.is_some(), found, id_len, context.env.now());
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
    context.screen.note("put damaged objects back from a copy, or run `cryostore repair`: it heals what is stored twice, and says what is lost");
    Ok(Outcome::Problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage_or_a_size() {
        let share = |text: &str| text.parse::<Part>().ok().map(|part| part.0);
        assert_eq!(share("5%"), Some(Share::OfTenThousand(500)));
        assert_eq!(share("0.25%"), Some(Share::OfTenThousand(25)));
        assert_eq!(share("12.5%"), Some(Share::OfTenThousand(1250)));
        assert_eq!(share("100%"), Some(Share::OfTenThousand(10_000)));
        assert_eq!(share("20G"), Some(Share::Bytes(20 << 30)));
        assert_eq!(share("500MiB"), Some(Share::Bytes(500 << 20)));
        for wrong in [
            "", "%", ".5%", "101%", "1.234%", "-1%", "5 %", "G", "1T5", "x",
        ] {
            assert_eq!(share(wrong), None, "{wrong}");
        }
    }
}
