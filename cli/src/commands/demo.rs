//! `cryostore demo`
//!
//! Owns the show: checkpoints of a workload, each imported into a repository of its own, the last one given back and compared.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::{Classes, SnapshotRecord};
use cryostore_engine::{
    Error, ImportOptions, Kind, Output as Target, Repository, Source, Store, export, import,
};
use serde::Serialize;
use tempfile::TempDir;

use crate::context::Context;
use crate::demo::{CheckpointFile, Producer, Workload, checkpoint, pick_producer};
use crate::exit::Failure;
use crate::text::{Column, Table, percent, printable, seconds, size};

/// Take checkpoints of a small workload and store them
///
/// Starts a process that changes some of its memory, takes checkpoints of it, stores each in a new repository DIR/repository and shows
/// what each one cost; then gives the last one back and compares it byte for byte. It needs no CRIU, no root and no container engine:
/// without them it writes the images itself, from the real memory of the process, and these cannot be restored.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore demo /tmp/demo
  cryostore demo /tmp/demo --count 8 --mib 256 --keep")]
pub(crate) struct DemoArgs {
    /// A directory for the repository; it is made if it is not there
    dir: PathBuf,
    /// How many checkpoints
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    count: u32,
    /// How much memory the workload holds, in MiB
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u16).range(1..=1024))]
    mib: u16,
    /// Keep the archives, in DIR/archives
    #[arg(long)]
    keep: bool,
}

#[derive(Serialize)]
struct Report {
    producer: String,
    /// False: images that the demo wrote itself.
    restorable: bool,
    repository: PathBuf,
    /// Where the archives were kept.
    archives: Option<PathBuf>,
    checkpoints: Vec<One>,
    archive_bytes: u64,
    stored_bytes: u64,
    /// The last archive was given back and is the same.
    identical: bool,
    export_seconds: f64,
    #[serde(skip)]
    export_ms: u64,
}

#[derive(Serialize)]
struct One {
    snapshot: SnapshotId,
    archive_bytes: u64,
    page_bytes: u64,
    frozen_seconds: Option<f64>,
    bytes_added: u64,
    classes: Classes,
    seconds: f64,
    #[serde(skip)]
    elapsed_ms: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "checkpoints taken by {}", printable(&self.producer))?;
        if !self.restorable {
            writeln!(
                f,
                "(real memory in CRIU's format, but these archives cannot be restored)"
            )?;
        }
        let columns = [
            "#",
            "ARCHIVE",
            "ZERO",
            "SAME",
            "ELSEWHERE",
            "NEW",
            "DELTA",
            "ADDED",
            "SECONDS",
        ]
        .map(Column::Right);
        let mut table = Table::new(columns, None);
        for (n, one) in (1..).zip(&self.checkpoints) {
            let classes = [
                one.classes.zero,
                one.classes.same,
                one.classes.elsewhere,
                one.classes.new,
                one.classes.delta,
            ]
            .map(|class| class.bytes);
            let [zero, same, elsewhere, new, delta] =
                classes.map(|bytes| percent(bytes, classes.iter().sum()));
            let took = seconds(one.elapsed_ms);
            table.row([
                u64::to_string(&n),
                size(one.archive_bytes),
                zero,
                same,
                elsewhere,
                new,
                delta,
                size(one.bytes_added),
                took,
            ]);
        }
        writeln!(f, "\n{table}")?;
        let count = self.checkpoints.len();
        let share = percent(self.stored_bytes, self.archive_bytes);
        writeln!(
            f,
            "{count} archives of {} take {} ({share})",
            size(self.archive_bytes),
            size(self.stored_bytes)
        )?;
        let result = if self.identical {
            "it is the same, byte for byte"
        } else {
            "IT IS NOT THE SAME"
        };
        writeln!(
            f,
            "the last one was given back in {}: {result}",
            seconds(self.export_ms)
        )?;
        if let Some(archives) = &self.archives {
            writeln!(
                f,
                "the archives are in {}",
                printable(&archives.display().to_string())
            )?;
        }
        writeln!(
            f,
            "\nlook around: cryostore --storage {} ls",
            printable(&self.repository.display().to_string())
        )
    }
}

pub(crate) fn run(args: &DemoArgs, context: &Context) -> Result<(), Failure> {
    let repository = args.dir.join("repository");
    let (archives, cache) = (
        folder(args, "archives", args.keep)?,
        folder(args, "cache", false)?,
    );
    let store = Store::open(path_text(&repository)?, true)?;
    // Nothing in it is anybody's, and whoever looks around in it needs no key.
    Repository::init(&store, &*context.env)?;
    let repo = Repository::open(store, Arc::clone(&context.env), Some(cache.path()))?;
    let show = Show {
        args,
        context,
        repo: &repo,
        archives: archives.path(),
    };

    let (checkpoints, last, producer) = show.checkpoints()?;
    let started = context.env.elapsed();
    let identical = show.give_back(&last)?;
    let took = context.env.elapsed().saturating_sub(started);
    context.screen.clear();
    let report = Report {
        producer: producer.to_string(),
        restorable: producer != Producer::OwnDump,
        repository,
        archives: args.keep.then(|| archives.path().to_path_buf()),
        archive_bytes: checkpoints.iter().map(|one| one.archive_bytes).sum(),
        stored_bytes: cryostore_engine::stats(&repo, context.monitor())?.stored_bytes,
        checkpoints,
        identical,
        export_seconds: took.as_secs_f64(),
        export_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    };
    context.output.show(&report)?;
    if identical {
        return Ok(());
    }
    Err(Error::new(
        Kind::Internal,
        "the archive that was given back is not the one that was imported",
    )
    .into())
}

/// A folder in the demo's directory, which goes with the demo unless it is to stay.
fn folder(args: &DemoArgs, name: &str, keep: bool) -> Result<TempDir, Failure> {
    let dir = &args.dir;
    let failed = |e: io::Error| {
        Error::io(dir.join(name).display(), e)
            .hint("name a directory that is not there yet, or in which no demo ran")
    };
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir.display(), e))?;
    let folder = tempfile::Builder::new()
        .prefix(name)
        .rand_bytes(0)
        .disable_cleanup(keep)
        .tempdir_in(dir);
    Ok(folder.map_err(failed)?)
}

fn path_text(path: &Path) -> Result<&str, Failure> {
    path.to_str()
        .ok_or_else(|| Failure::usage("the path is not UTF-8", "name another directory"))
}

struct Show<'s> {
    args: &'s DemoArgs,
    context: &'s Context,
    repo: &'s Repository,
    archives: &'s Path,
}

/// The newest archive and its record.
struct Last {
    file: CheckpointFile,
    record: SnapshotRecord,
}

impl Show<'_> {
    fn checkpoints(&self) -> Result<(Vec<One>, Last, Producer), Failure> {
        let failed = |e: anyhow::Error| Failure::from_anyhow(&e);
        let mut producer = pick_producer();
        let mut workload = Workload::start(self.args.mib.into()).map_err(failed)?;
        let mut out = Vec::new();
        let mut last: Option<Last> = None;
        for n in 1..=self.args.count {
            self.go_on()?;
            if n > 1 {
                workload.step().map_err(failed)?;
            }
            let file = checkpoint(&producer, &mut workload, n, self.archives).map_err(failed)?;
            if let Some(why) = &file.fell_back {
                self.context
                    .screen
                    .warn(&format!("CRIU could not take the checkpoint: {why}"));
            }
            // Once it fell back, it stays there, so that all archives are alike.
            producer = file.producer.clone();
            self.context.screen.note(&format!(
                "checkpoint {n} of {}: {}",
                self.args.count,
                size(file.bytes)
            ));
            let record = import(
                self.repo,
                Source::File(file.path.clone()),
                &ImportOptions::default(),
                self.context.monitor(),
            )?
            .snapshot;
            out.push(One::new(&file, &record));
            if let Some(before) = last.replace(Last { file, record })
                && !self.args.keep
            {
                std::fs::remove_file(&before.file.path)
                    .map_err(|e| Error::io(before.file.path.display(), e))?;
            }
        }
        let last = last.ok_or_else(|| Failure::usage("no checkpoints", "say --count 1 or more"))?;
        Ok((out, last, producer))
    }

    /// Exports the checkpoint and compares it with the archive.
    fn give_back(&self, last: &Last) -> Result<bool, Failure> {
        self.go_on()?;
        let path = self.archives.join("given-back.tar");
        export(
            self.repo,
            &last.record,
            Target::File {
                path: path.clone(),
                sync: false,
            },
            self.context.monitor(),
        )?;
        Ok(same_bytes(&path, &last.file.path)
            .map_err(|e| Error::io("comparing the archives", e))?)
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.context.screen.stop_flag().is_set() {
            return Err(Error::new(Kind::Interrupted, "stopped before it was done").into());
        }
        Ok(())
    }
}

impl One {
    fn new(file: &CheckpointFile, record: &SnapshotRecord) -> Self {
        Self {
            snapshot: record.id,
            archive_bytes: file.bytes,
            page_bytes: file.page_bytes,
            frozen_seconds: file.frozen.map(|frozen| frozen.as_secs_f64()),
            bytes_added: record.cost.bytes_added,
            classes: record.cost.classes,
            seconds: std::time::Duration::from_millis(record.cost.elapsed_ms).as_secs_f64(),
            elapsed_ms: record.cost.elapsed_ms,
        }
    }
}

fn same_bytes(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    // 1 MiB: few calls, little memory.
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let len = a.read(&mut left)?;
        if len == 0 {
            return Ok(true);
        }
        b.read_exact(&mut right[..len])?;
        if left[..len] != right[..len] {
            return Ok(false);
        }
    }
}
