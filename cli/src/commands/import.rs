//! `cryostore import`

use std::fmt;
use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::{Archive, Classes, Identity};
use cryostore_engine::{BaseChoice, Error, ImportOptions, Imported, Kind, Source, import};
use serde::Serialize;

use super::view::{CostView, SnapshotView};
use crate::context::Context;
use crate::exit::Failure;
use crate::stdin::Stdin;
use crate::storages::several_said;
use crate::text::{Column, Table, container, percent, seconds, short, size};

/// Characters of an id that tell it apart; `cryostore ls` shows more where they do not.
const SHORT: usize = 8;

/// Store a checkpoint
///
/// Takes the tar of the kubelet, containerd, CRI-O or podman (plain, gzip or zstd), a directory of CRIU images, or `-` for a tar
/// on standard input. Which pod and container it is, is read from the archive; the flags say otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore import /var/lib/kubelet/checkpoints/checkpoint-web_default-nginx.tar
  cryostore import dump/ --container batch --label before-upgrade
  ssh node7 cat /var/lib/kubelet/checkpoints/checkpoint-db.tar | cryostore import - --node node7")]
pub(crate) struct ImportArgs {
    /// A tar, a directory, or - for standard input
    #[arg(value_name = "ARCHIVE|DIR|-")]
    source: PathBuf,
    /// The pod
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pod: String,
    /// The namespace
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    namespace: String,
    /// The container
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    container: String,
    /// The node on which it ran
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    node: String,
    /// A word of your own, or KEY=VALUE; repeat it for more
    #[arg(long, value_name = "TEXT")]
    label: Vec<String>,
    /// The snapshot to compare with, or `none` [default: the newest of the same container]
    #[arg(long, value_name = "ID|none")]
    base: Option<String>,
    /// Store changed pages as what differs from the page that stood at their address [default: as the repository says]
    #[arg(long, overrides_with = "no_delta")]
    delta: bool,
    /// Store changed pages whole
    #[arg(long, overrides_with = "delta")]
    no_delta: bool,
    /// The snapshot that holds the pages which CRIU left in its parent directory
    #[arg(long, value_name = "ID")]
    criu_parent: Option<String>,
}

#[derive(Serialize)]
struct Report {
    snapshot: SnapshotId,
    identity: Identity,
    archive: Archive,
    base: Option<SnapshotId>,
    requires: Option<SnapshotId>,
    bytes_read: u64,
    #[serde(flatten)]
    cost: CostView,
    index_lookups: u64,
    warnings: Vec<String>,
}

impl Report {
    fn new(imported: &Imported) -> Self {
        let SnapshotView {
            id,
            identity,
            archive,
            cost,
            base,
            requires,
            warnings,
            ..
        } = SnapshotView::from(&imported.snapshot);
        let bytes_read = archive
            .outer
            .as_ref()
            .map_or(archive.bytes, |outer| outer.bytes);
        Self {
            snapshot: id,
            identity,
            archive,
            base,
            requires,
            bytes_read,
            cost,
            index_lookups: imported.index_lookups,
            warnings,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "snapshot {}  {}",
            short(self.snapshot, SHORT),
            container(&self.identity)
        )?;
        match self.base {
            Some(base) => writeln!(f, "compared with {}", short(base, SHORT))?,
            None => writeln!(f, "compared with no other snapshot")?,
        }
        if let Some(parent) = self.requires {
            writeln!(
                f,
                "needs {}, which holds the pages in CRIU's parent directory",
                short(parent, SHORT)
            )?;
        }
        writeln!(f, "\n{}", class_table(&self.cost.classes))?;
        writeln!(
            f,
            "{} read, {} added ({}), {}",
            size(self.bytes_read),
            size(self.cost.bytes_added),
            percent(self.cost.bytes_added, self.archive.bytes),
            seconds(self.cost.elapsed_ms)
        )
    }
}

/// The five classes, with pages and bytes.
pub(crate) fn class_table(classes: &Classes) -> Table {
    let rows = [
        ("zero", classes.zero),
        ("same as base", classes.same),
        ("found elsewhere", classes.elsewhere),
        ("new", classes.new),
        ("delta", classes.delta),
    ];
    let whole = rows.iter().map(|(_, count)| count.bytes).sum();
    let mut table = Table::new(
        [
            Column::Left("CLASS"),
            Column::Right("PAGES"),
            Column::Right("BYTES"),
            Column::Right("SHARE"),
        ],
        None,
    );
    for (name, count) in rows {
        table.row([
            name.to_owned(),
            count.pages.to_string(),
            size(count.bytes),
            percent(count.bytes, whole),
        ]);
    }
    table
}

pub(crate) fn run(mut args: ImportArgs, context: &Context) -> Result<(), Failure> {
    let source = source(&args.source, context)?;
    // STORAGE#ID says where it is to be stored, too: a base is of the same repository.
    let names = [&mut args.base, &mut args.criu_parent];
    let said: Vec<String> = names.iter().filter_map(|name| (**name).clone()).collect();
    let (context, mut ids) = several_said(context, &said)?;
    for name in names.into_iter().rev().filter(|name| name.is_some()) {
        *name = ids.pop();
    }
    let context = &context;
    let repo = context.repository()?;
    let ImportArgs {
        pod,
        namespace,
        container,
        node,
        ..
    } = args;
    let options = ImportOptions {
        identity: Identity {
            pod,
            namespace,
            container,
            node,
            ..Identity::default()
        },
        labels: args.label,
        base: match args.base.as_deref() {
            None => BaseChoice::Newest,
            Some("none") => BaseChoice::None,
            Some(id) => BaseChoice::Snapshot(id.to_owned()),
        },
        deltas: (args.delta || args.no_delta).then_some(args.delta),
        criu_parent: args.criu_parent,
        ..ImportOptions::default()
    };
    let imported = import(&repo, source, &options, context.monitor()).map_err(|e| {
        // What reading standard input says when it was stopped, see `stdin.rs`.
        let stopped = context.screen.stop_flag().is_set() && e.kind() == Kind::Unavailable;
        if stopped {
            Error::new(Kind::Interrupted, "stopped before the input was read")
                .hint("nothing was stored; run it again")
        } else {
            e
        }
    })?;
    context.screen.clear();
    context.output.show(&Report::new(&imported))
}

fn source(path: &Path, context: &Context) -> Result<Source, Failure> {
    if path == Path::new("-") {
        if std::io::stdin().is_terminal() {
            return Err(Failure::usage(
                "standard input is a terminal",
                "pipe a tar into it, or name a file or a directory",
            ));
        }
        let stdin = Stdin::open(context.screen.stop_flag().clone())
            .map_err(|e| Error::io("standard input", e))?;
        return Ok(Source::Stream(Box::new(stdin)));
    }
    let failed = |e| {
        Error::io(path.display(), e)
            .hint("name a tar or a directory that you can read, or - for standard input")
    };
    let meta = path.metadata().map_err(failed)?;
    if meta.is_file() || meta.is_dir() {
        return Ok(Source::at(path)?);
    }
    // A pipe with a name, such as the shell's <(…), can be read once only.
    Ok(Source::Stream(Box::new(File::open(path).map_err(failed)?)))
}
