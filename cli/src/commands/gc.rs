//! `cryostore gc`

use std::collections::BTreeMap;
use std::fmt;

use clap::Args;
use cryostore_engine::format::session::{SessionRecord, Work};
use cryostore_engine::format::{PackId, SessionId};
use cryostore_engine::gc::{GcOptions, GcReport, SparsePack, collect, sparse_packs};
use cryostore_engine::{Repacked, Repository, repack};
use serde::Serialize;

use crate::config::bytes_of;
use crate::context::Context;
use crate::exit::Failure;
use crate::text::{Column, Span, Table, printable, size};

/// More are listed with --json.
const LISTED: usize = 20;

/// Remove what no snapshot needs
///
/// Imports, exports and other collections may be at work meanwhile. What nothing needs is condemned first, and removed when everybody at work knows that: at once if nobody is, else
/// by the next collection. A session whose process was killed on this machine is ended by itself, one that makes no progress for an hour too (where the same node collects again and
/// again), any other with --end-session, after you made sure that its process is gone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore gc --dry-run
  cryostore gc
  cryostore gc --grace 7d
  cryostore gc --max-repack 2G
  cryostore gc --end-session 5d0c7a31")]
pub(crate) struct GcArgs {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// How long deleted snapshots can be brought back by `undelete`: nothing of them is removed before
    #[arg(long, value_name = "TIME", default_value = "24h")]
    grace: Span,
    /// Before that, store again what is needed of packs of which little is, at most so many bytes. Imports do that by
    /// themselves while checkpoints go on coming; this is for snapshots that are only kept. Reads each of them
    #[arg(long, value_name = "SIZE")]
    max_repack: Option<String>,
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
    /// What goes later: these sessions do not know yet that it is condemned.
    waiting: Vec<Garbage>,
    at_work: Vec<AtWork>,
    /// Deleted snapshots that can still be brought back.
    in_grace: u64,
    grace_seconds: u64,
    ended_sessions: Vec<String>,
    foreign: Vec<String>,
    /// Packs that imports leave behind from now on.
    leaving: Vec<Leaving>,
    /// With --max-repack: packs that were to be emptied, and what was done for it.
    repacked: Option<Repack>,
}

#[derive(Serialize)]
struct Repack {
    packs: Vec<Leaving>,
    /// Snapshots that refer to other packs now.
    snapshots: u64,
    bytes_added: u64,
    /// Snapshots that still need them: more would have been written than was allowed.
    left: u64,
}

#[derive(Serialize)]
struct AtWork {
    session: SessionId,
    work: Work,
    owner: String,
    started: String,
}

#[derive(Serialize)]
struct Leaving {
    pack: PackId,
    bytes: u64,
    needed_bytes: u64,
}

impl Leaving {
    const fn new(pack: SparsePack) -> Self {
        Self {
            pack: pack.id,
            bytes: pack.bytes,
            needed_bytes: pack.needed,
        }
    }
}

#[derive(Serialize)]
struct Garbage {
    name: String,
    bytes: u64,
    reason: String,
}

impl Report {
    fn new(options: &GcOptions, found: GcReport) -> Self {
        let garbage = |g: cryostore_engine::gc::Garbage| Garbage {
            name: g.name,
            bytes: g.bytes,
            reason: g.reason,
        };
        let at_work = |record: SessionRecord| AtWork {
            session: record.id,
            work: record.work,
            owner: record.owner,
            started: record.started,
        };
        let leaving = Leaving::new;
        Self {
            dry_run: options.dry_run,
            removed: found.removed,
            bytes: found.bytes,
            kept_bytes: found.kept_bytes,
            garbage: found.garbage.into_iter().map(garbage).collect(),
            waiting: found.waiting.into_iter().map(garbage).collect(),
            at_work: found.at_work.into_iter().map(at_work).collect(),
            in_grace: found.in_grace,
            grace_seconds: options.grace.as_secs(),
            ended_sessions: found.ended_sessions,
            foreign: found.foreign,
            leaving: found.leaving.into_iter().map(leaving).collect(),
            repacked: None,
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

    fn write_repacked(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(done) = &self.repacked else {
            return Ok(());
        };
        let sum = |bytes: fn(&Leaving) -> u64| size(done.packs.iter().map(bytes).sum());
        let (count, bytes) = (done.packs.len(), sum(|pack| pack.bytes));
        if self.dry_run {
            let needed = sum(|pack| pack.needed_bytes);
            return writeln!(
                f,
                "would empty {count} packs, {bytes}, for at most {needed} that are stored again"
            );
        }
        writeln!(
            f,
            "of {count} packs, {bytes}, little is needed: {} snapshots refer to {} instead, which were stored again",
            done.snapshots,
            size(done.bytes_added)
        )?;
        if done.left > 0 {
            writeln!(
                f,
                "{} snapshots need some of them still: they are damaged, or more would have been written than --max-repack allows",
                done.left
            )?;
        }
        Ok(())
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

    /// What is not garbage yet, and why.
    fn write_later(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.in_grace > 0 {
            let grace = Span(std::time::Duration::from_secs(self.grace_seconds));
            writeln!(
                f,
                "{} deleted snapshots can still be brought back (for {grace} after their deletion), or are pinned or needed",
                self.in_grace
            )?;
        }
        if !self.waiting.is_empty() {
            let bytes = self.waiting.iter().map(|object| object.bytes).sum();
            writeln!(
                f,
                "{} go at a later collection: these are at work and do not know yet",
                size(bytes)
            )?;
            for session in &self.at_work {
                let owner = printable(&session.owner);
                writeln!(
                    f,
                    "  session {} of {owner}, since {}",
                    session.session, session.started
                )?;
            }
        }
        self.write_leaving(f)
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
        self.write_repacked(f)?;
        for session in &self.ended_sessions {
            writeln!(f, "ended session {}", printable(session))?;
        }
        if self.garbage.is_empty() {
            writeln!(f, "nothing to remove; {} are needed", size(self.kept_bytes))?;
            return self.write_later(f);
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
            return self.write_later(f);
        }
        write!(f, "{}", self.list())?;
        if self.garbage.len() > LISTED {
            writeln!(
                f,
                "and {} more; --json lists them all",
                self.garbage.len() - LISTED
            )?;
        }
        self.write_later(f)
    }
}

pub(crate) fn run(args: GcArgs, context: &Context) -> Result<(), Failure> {
    let repo = context.repository()?;
    let options = GcOptions {
        dry_run: args.dry_run,
        grace: args.grace.0,
        end_sessions: args.end_session,
    };
    let most = args.max_repack.map(|text| bytes_of("--max-repack", &text));
    let repacked = match most.transpose()? {
        Some(most) => Some(empty_packs(&repo, most, &options, context)?),
        None => None,
    };
    let report = Report {
        repacked,
        ..Report::new(&options, collect(&repo, &options, context.monitor())?)
    };
    context.screen.clear();
    for name in &report.foreign {
        context
            .screen
            .warn(&format!("{name} is no part of a repository; it stays"));
    }
    context.output.show(&report)
}

fn empty_packs(
    repo: &Repository,
    most: u64,
    options: &GcOptions,
    context: &Context,
) -> Result<Repack, Failure> {
    let packs = sparse_packs(repo, most, options, context.monitor())?;
    let done = if options.dry_run {
        Repacked::default()
    } else {
        let ids = packs.iter().map(|pack| pack.id).collect();
        repack(repo, &ids, most, context.monitor())?
    };
    Ok(Repack {
        packs: packs.into_iter().map(Leaving::new).collect(),
        snapshots: done.snapshots,
        bytes_added: done.bytes_added,
        left: done.left,
    })
}
