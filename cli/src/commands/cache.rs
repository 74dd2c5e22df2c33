//! `cryostore cache`

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use cryostore_engine::{CacheUse, Kept};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::text::{Column, Table, size};

/// Show or clear what this node keeps of the repository
///
/// All of it can be removed at any time. Copies of packs are kept of repositories in buckets only: an import needs the packs of
/// the checkpoint before it, to store pages as what differs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore cache
  cryostore cache clear
  cryostore import checkpoint.tar --cache-size 20G")]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove the copies of packs, of their directories, of manifests and of records; the index stays
    Clear,
}

#[derive(Serialize)]
struct Report {
    dir: PathBuf,
    /// What the copies of packs may take; none: none are kept.
    packs_at_most: Option<u64>,
    packs: Part,
    directories: Part,
    manifests: Part,
    records: Part,
    index: Part,
}

#[derive(Serialize)]
struct Part {
    files: u64,
    bytes: u64,
}

impl From<Kept> for Part {
    fn from(kept: Kept) -> Self {
        Self {
            files: kept.files,
            bytes: kept.bytes,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.dir.display())?;
        let columns = [
            Column::Left(""),
            Column::Right(""),
            Column::Right(""),
            Column::Left(""),
        ];
        let mut table = Table::new(columns, None);
        let most = match self.packs_at_most {
            Some(most) => format!("at most {}", size(most)),
            None => "none are kept of this repository".to_owned(),
        };
        let parts = [
            ("packs", &self.packs, most),
            ("directories", &self.directories, String::new()),
            ("manifests", &self.manifests, String::new()),
            ("records", &self.records, String::new()),
            ("index", &self.index, String::new()),
        ];
        for (name, part, more) in parts {
            let files = format!("{} files", part.files);
            table.row([name.to_owned(), size(part.bytes), files, more]);
        }
        write!(f, "{table}")
    }
}

#[derive(Serialize)]
struct Cleared {
    removed: Part,
}

impl fmt::Display for Cleared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Part { files, bytes } = &self.removed;
        writeln!(f, "removed {} in {files} files", size(*bytes))
    }
}

pub(crate) fn run(args: &CacheArgs, context: &Context) -> Result<(), Failure> {
    let repo = context.repository()?;
    let CacheUse {
        dir: Some(dir),
        most,
        packs,
        directories,
        manifests,
        records,
        index,
    } = repo.cache_use()
    else {
        return Err(Failure::usage(
            "there is no cache directory",
            "say --cache-dir DIR, and not --no-cache",
        ));
    };
    match args.command {
        Some(Command::Clear) => context.output.show(&Cleared {
            removed: repo.clear_cache()?.into(),
        }),
        None => context.output.show(&Report {
            dir,
            packs_at_most: most,
            packs: packs.into(),
            directories: directories.into(),
            manifests: manifests.into(),
            records: records.into(),
            index: index.into(),
        }),
    }
}
