//! `cryostore export`

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::{
    Archive, ArchiveKind, Compression, Identity, SnapshotRecord,
};
use cryostore_engine::{Error, Output as Target, Repository, export, unpack};
use serde::Serialize;

use super::filter::FilterArgs;
use crate::context::Context;
use crate::exit::Failure;
use crate::storages::Search;
use crate::text::{container, printable, seconds, short, size};

/// Give a checkpoint back, byte for byte
///
/// The archive is checked against the stored digest while it is written; a file gets its name when it is whole and right. Without -o
/// and --dir it goes to standard output, and the report to standard error. What was imported from a directory is given back as a tar,
/// or into a directory with --dir.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore export latest --pod web -o checkpoint.tar
  cryostore export 3f9a2b1c --dir images/
  cryostore export latest --container db | ssh node7 'cat > /tmp/checkpoint-db.tar'")]
pub(crate) struct ExportArgs {
    /// `latest`, an id, or at least four of its first characters; STORAGE#ID of another storage
    #[arg(value_name = "ID|latest|PREFIX")]
    snapshot: String,
    /// The file to write, - for standard output
    #[arg(short, long, value_name = "FILE|-", conflicts_with = "dir")]
    output: Option<PathBuf>,
    /// Unpack the archive into this directory, which is not there yet or empty
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Wait until the file is on the disk
    #[arg(long, requires = "output")]
    fsync: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Report {
    snapshot: SnapshotId,
    identity: Identity,
    /// Absent: standard output.
    path: Option<PathBuf>,
    bytes: u64,
    /// Of the archive that was given back, and of the compressed one in which it came.
    archive: Archive,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unpacked: Option<Unpacked>,
    #[serde(skip)]
    look: (usize, Duration),
}

#[derive(Serialize)]
struct Unpacked {
    files: u64,
    skipped: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id_len, took) = self.look;
        let id = short(self.snapshot, id_len);
        let place = self
            .path
            .as_ref()
            .map_or("standard output".to_owned(), |path| {
                printable(&path.display().to_string())
            });
        let took = seconds(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        write!(
            f,
            "snapshot {id}  {}\n{} to {place} in {took}",
            container(&self.identity),
            size(self.bytes)
        )?;
        if let Some(unpacked) = &self.unpacked {
            write!(f, ", {} files", unpacked.files)?;
        }
        writeln!(f)?;
        if let Some(outer) = self
            .archive
            .outer
            .as_ref()
            .filter(|_| self.unpacked.is_none())
        {
            let how = match outer.compression {
                Compression::Gzip => "gzip",
                Compression::Zstd => "zstd",
            };
            writeln!(
                f,
                "it came compressed ({how}, {}); this is the tar that was in it",
                size(outer.bytes)
            )?;
        }
        if self.archive.kind == ArchiveKind::Directory && self.unpacked.is_none() {
            writeln!(
                f,
                "it came as a directory; this is a tar of it, --dir DIR gives the files"
            )?;
        }
        Ok(())
    }
}

/// Where the bytes go.
enum Place<'a> {
    Stdout,
    /// A file that is made, or replaced, as a whole.
    File(PathBuf),
    /// A pipe or a device: it stays what it is.
    Device(File, &'a Path),
    Directory(&'a Path),
}

pub(crate) fn run(args: &ExportArgs, context: &Context) -> Result<(), Failure> {
    let place = place(args)?;
    let filter = args.filter.filter(context.env.now());
    let (repo, found) = Search::new(context)?.snapshot(&args.snapshot, &filter)?;
    let record = &found.snapshot;
    let started = context.env.elapsed();
    let (bytes, unpacked) = write(&repo, record, &place, args.fsync, context)?;
    let took = context.env.elapsed().saturating_sub(started);
    context.screen.clear();
    for skipped in unpacked.iter().flat_map(|unpacked| &unpacked.skipped) {
        context.screen.warn(&format!("not unpacked: {skipped}"));
    }
    let report = Report {
        snapshot: record.id,
        identity: record.identity.clone(),
        path: match &place {
            Place::Stdout => None,
            Place::File(_) => args.output.clone(),
            Place::Device(_, path) | Place::Directory(path) => Some((*path).to_path_buf()),
        },
        bytes,
        archive: record.archive.clone(),
        seconds: took.as_secs_f64(),
        unpacked,
        look: (found.id_len, took),
    };
    if matches!(place, Place::Stdout) {
        context.screen.report(&context.output.render(&report));
        return Ok(());
    }
    context.output.show(&report)
}

fn write(
    repo: &Repository,
    record: &SnapshotRecord,
    place: &Place<'_>,
    sync: bool,
    context: &Context,
) -> Result<(u64, Option<Unpacked>), Failure> {
    let monitor = context.monitor();
    let stream = |mut file: File| {
        // As large as one write, so that the two sides of a pipe wait for each other less often. It is no pipe: no matter.
        let _ = rustix::pipe::fcntl_setpipe_size(&file, 1 << 20);
        export(repo, record, Target::Stream(&mut file), monitor).map(|stats| (stats.bytes, None))
    };
    Ok(match place {
        // Not through std's buffer, which looks for lines in it.
        Place::Stdout => stream(duplicate(&io::stdout())?)?,
        Place::Device(file, _) => stream(duplicate(file)?)?,
        Place::File(path) => {
            let target = Target::File {
                path: path.clone(),
                sync,
            };
            (export(repo, record, target, monitor)?.bytes, None)
        }
        Place::Directory(dir) => {
            let stats = unpack(repo, record, dir, monitor)?;
            (
                stats.bytes,
                Some(Unpacked {
                    files: stats.files,
                    skipped: stats.skipped,
                }),
            )
        }
    })
}

fn duplicate(file: &impl AsFd) -> Result<File, Failure> {
    let copy = file
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| Error::io("opening the output", e))?;
    Ok(copy.into())
}

fn place(args: &ExportArgs) -> Result<Place<'_>, Failure> {
    let to_terminal = || {
        Failure::usage(
            "an archive is not for a terminal",
            "say -o FILE or --dir DIR, or pipe it into a program",
        )
    };
    if let Some(dir) = &args.dir {
        return Ok(Place::Directory(dir));
    }
    let Some(path) = args
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"))
    else {
        return if io::stdout().is_terminal() {
            Err(to_terminal())
        } else {
            Ok(Place::Stdout)
        };
    };
    match path.metadata().map(|meta| meta.file_type()) {
        Ok(kind) if kind.is_char_device() || kind.is_fifo() => {
            let file = OpenOptions::new()
                .write(true)
                .open(path)
                .map_err(|e| Error::io(path.display(), e))?;
            if file.is_terminal() {
                Err(to_terminal())
            } else {
                Ok(Place::Device(file, path))
            }
        }
        // Through a link, so that the link stays.
        Ok(_) => Ok(Place::File(
            path.canonicalize()
                .map_err(|e| Error::io(path.display(), e))?,
        )),
        Err(_) => Ok(Place::File(path.to_path_buf())),
    }
}
