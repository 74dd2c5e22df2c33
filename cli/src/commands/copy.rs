//! `cryostore copy`

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::Identity;
use cryostore_engine::{Copied, CopyOptions, Error, Outcome, SnapshotList, copy};
use serde::Serialize;

use super::filter::FilterArgs;
use crate::context::{Context, Other};
use crate::exit::Failure;
use crate::secrets::Sources;
use crate::storages::several_said;
use crate::text::{Column, Table, container, percent, printable, seconds, short, size};

/// Characters of an id that tell it apart.
const SHORT: usize = 8;

/// Copy snapshots to another repository
///
/// Each is read, checked against its digest, and imported there: under the other repository's keys, against what is there already, with identity, times, labels and the rest of its record. The copy has
/// an id of its own; the original's id finds it, too. What is there is passed over, so that a copy that was ended goes on where it was when it is started again. Both repositories may be in use
/// meanwhile. What is damaged is named, and the rest is copied.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore copy --to s3://backup/checkpoints
  cryostore copy --to /mnt/usb/checkpoints 3f9a2b1c latest --to-key-file usb.key
  cryostore copy --to az://archive/k8s --namespace prod --since 7d")]
pub(crate) struct CopyArgs {
    /// Ids, at least four of their first characters, or `latest`; none: all; STORAGE#ID of another storage
    #[arg(value_name = "ID")]
    snapshots: Vec<String>,
    /// The other repository; `cryostore init` makes one
    #[arg(long, value_name = "DIR|URL")]
    to: String,
    /// Say more about its storage, such as endpoint=URL or region=NAME; may be repeated
    #[arg(long = "to-storage-option", value_name = "KEY=VALUE")]
    to_storage_options: Vec<String>,
    /// File with its key [default: the one that `init` made for it]
    #[arg(long, value_name = "FILE")]
    to_key_file: Vec<PathBuf>,
    /// Command that prints its key
    #[arg(long, value_name = "COMMAND")]
    to_key_command: Vec<String>,
    /// File with its passphrase; CRYOSTORE_TO_PASSPHRASE may hold the passphrase itself
    #[arg(long, value_name = "FILE")]
    to_passphrase_file: Vec<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Default, Serialize)]
struct Report {
    /// In the order in which they were copied.
    copied: Vec<One>,
    /// The other repository had them.
    there: Vec<There>,
    failed: Vec<Failed>,
    bytes_added: u64,
    seconds: f64,
    #[serde(skip)]
    elapsed_ms: u64,
}

#[derive(Serialize)]
struct One {
    id: SnapshotId,
    /// Its id in the other repository.
    copy: SnapshotId,
    identity: Identity,
    bytes: u64,
    bytes_added: u64,
}

#[derive(Serialize)]
struct There {
    id: SnapshotId,
    copy: SnapshotId,
}

#[derive(Serialize)]
struct Failed {
    /// Absent: it is not known whose record it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<SnapshotId>,
    error: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.copied.is_empty() {
            let mut table = Table::new(
                [
                    Column::Left("ID"),
                    Column::Left("COPY"),
                    Column::Left("NAMESPACE/POD/CONTAINER"),
                    Column::Right("SIZE"),
                    Column::Right("ADDED"),
                ],
                None,
            );
            for one in &self.copied {
                table.row([
                    short(one.id, SHORT),
                    short(one.copy, SHORT),
                    container(&one.identity),
                    size(one.bytes),
                    size(one.bytes_added),
                ]);
            }
            writeln!(f, "{table}")?;
        }
        for failed in &self.failed {
            let id = failed.id.map_or("?".to_owned(), |id| short(id, SHORT));
            writeln!(f, "{id} was not copied: {}", printable(&failed.error))?;
        }
        let bytes = self.copied.iter().map(|one| one.bytes).sum();
        writeln!(
            f,
            "{} copied, {} there already; {} read, {} added ({}), {}",
            self.copied.len(),
            self.there.len(),
            size(bytes),
            size(self.bytes_added),
            percent(self.bytes_added, bytes),
            seconds(self.elapsed_ms)
        )
    }
}

impl Report {
    fn add(&mut self, Copied { source, outcome }: Copied) -> Option<Error> {
        match outcome {
            Outcome::Copied(made) => {
                self.bytes_added += made.cost.bytes_added;
                self.copied.push(One {
                    id: source.id,
                    copy: made.id,
                    identity: made.identity.clone(),
                    bytes: made.archive.bytes,
                    bytes_added: made.cost.bytes_added,
                });
                None
            }
            Outcome::There(copy) => {
                self.there.push(There {
                    id: source.id,
                    copy,
                });
                None
            }
            Outcome::Failed(e) => {
                self.failed.push(Failed {
                    id: Some(source.id),
                    error: e.to_string(),
                });
                Some(e)
            }
        }
    }

    fn unreadable(&mut self, list: &SnapshotList) -> Option<Error> {
        let mut first = None;
        for (object, e) in &list.damaged {
            let error = format!("{object}: {e}");
            self.failed.push(Failed {
                id: None,
                error: error.clone(),
            });
            first.get_or_insert(Error::new(e.kind(), error));
        }
        first
    }
}

pub(crate) fn run(args: &CopyArgs, context: &Context) -> Result<(), Failure> {
    let (context, ids) = &several_said(context, &args.snapshots)?;
    let from = context.repository()?;
    let to = context.other_repository(&Other {
        storage: args.to.clone(),
        storage_options: args.to_storage_options.clone(),
        keys: Sources {
            files: args.to_key_file.clone(),
            commands: args.to_key_command.clone(),
            passphrase_files: args.to_passphrase_file.clone(),
            passphrase_variable: None,
        },
    })?;
    let list = context.snapshots(&from)?;
    let filter = args.filter.filter(context.env.now());
    let wanted: Vec<SnapshotId> = if ids.is_empty() {
        let fits = list
            .snapshots
            .iter()
            .filter(|record| filter.matches(record));
        fits.map(|record| record.id).collect()
    } else {
        let found = ids.iter();
        let found = found.map(|text| list.find(text, &filter).map(|record| record.id));
        found.collect::<Result<_, _>>()?
    };
    if wanted.is_empty() && list.damaged.is_empty() {
        context.screen.note("there is no snapshot to copy");
    }
    let mut report = Report::default();
    let mut first = None;
    // `ls` says no more of them, and a copy of all is not one of these.
    if ids.is_empty() {
        first = report.unreadable(&list);
    }
    let started = context.env.elapsed();
    let mut done = |one: Copied| {
        context.screen.clear();
        if let Some(e) = report.add(one) {
            first.get_or_insert(e);
        }
    };
    let options = CopyOptions {
        wanted: Some(wanted),
        ..CopyOptions::default()
    };
    let ended = copy(&from, &to, &options, &mut done, context.monitor());
    context.screen.clear();
    let took = context.env.elapsed().saturating_sub(started);
    report.seconds = took.as_secs_f64();
    report.elapsed_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if ended.is_err() && report.copied.is_empty() {
        return ended.map_err(Failure::from);
    }
    context.output.show(&report)?;
    ended?;
    first.map_or(Ok(()), |e| Err(e.into()))
}
