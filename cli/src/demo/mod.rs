//! Owns the demo's checkpoints: a workload of its own and archives of its real memory, in CRIU's image format and laid out as
//! containerd's.
//!
//! Always: an archive appears under its name only when it is whole, holds a member that says what it is, and was taken
//! without root, CRIU or a container engine unless a working CRIU was picked; the workload runs on after each checkpoint.
//! Never: prints, imports an archive, or touches a process it did not start.

mod bundle;
mod criu;
mod dump;
mod heap;
mod images;
mod procfs;
mod proto;
mod tar;
mod workload;

use std::fmt;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;

pub(crate) use workload::{WORKLOAD_ARGUMENT, Workload, run_workload_child};

use bundle::{CONTAINER, Container, NAMESPACE, POD};
use procfs::Process;
use tar::TarWriter;

/// 256 KiB: a run of small headers and images becomes one write; page images come in larger pieces and pass it by.
const WRITE_BUFFER_LEN: usize = 256 << 10;

/// What takes the checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Producer {
    /// The CRIU on PATH.
    Criu {
        /// As CRIU names it, such as `4.2`.
        version: String,
    },
    /// The demo's own reader of /proc.
    OwnDump,
}

/// One finished archive.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its length.
    pub(crate) bytes: u64,
    /// The bytes of it that are memory.
    pub(crate) page_bytes: u64,
    /// How long the workload stood still, if the demo stopped it itself.
    pub(crate) frozen: Option<Duration>,
    /// What really took it.
    pub(crate) producer: Producer,
    /// Why CRIU did not, if it was to.
    pub(crate) fell_back: Option<String>,
}

/// The memory and what belongs to it, once in the archive.
struct Taken {
    reports: Vec<(&'static str, u64, Vec<u8>)>,
    page_bytes: u64,
    frozen: Option<Duration>,
}

/// The CRIU on PATH if the demo runs as root and `criu check` is content, else the demo's own dump.
pub(crate) fn pick_producer() -> Producer {
    match criu::usable_version() {
        Some(version) => Producer::Criu { version },
        None => Producer::OwnDump,
    }
}

/// Takes checkpoint number `n` of the workload into `folder`, which exists. An archive of the same name is replaced.
///
/// If CRIU was picked and fails for any reason, the demo's own dump steps in and the result says so.
pub(crate) fn checkpoint(
    producer: &Producer,
    workload: &mut Workload,
    n: u32,
    folder: &Path,
) -> Result<CheckpointFile> {
    let Producer::Criu { .. } = producer else {
        return take(&Producer::OwnDump, workload, n, folder);
    };
    take(producer, workload, n, folder).or_else(|error| {
        let own = take(&Producer::OwnDump, workload, n, folder)?;
        Ok(CheckpointFile {
            fell_back: Some(format!("{error:#}")),
            ..own
        })
    })
}

fn take(
    producer: &Producer,
    workload: &mut Workload,
    n: u32,
    folder: &Path,
) -> Result<CheckpointFile> {
    let now = Timestamp::now();
    let pid = workload.pid();
    let container = Container {
        pid,
        arguments: Process::new(pid).arguments()?,
        created: workload.started(),
        checkpointed: now,
        dumped_by: producer.to_string(),
    };
    let path = folder.join(format!("checkpoint-{POD}_{NAMESPACE}-{CONTAINER}-{n}.tar"));
    let file = tempfile::Builder::new()
        .prefix(".cryostore-demo-")
        .tempfile_in(folder);
    let file = file.with_context(|| format!("cannot write in {}", folder.display()))?;

    let mtime = u64::try_from(now.as_second()).unwrap_or(0);
    let mut tar = TarWriter::new(
        BufWriter::with_capacity(WRITE_BUFFER_LEN, file.as_file()),
        mtime,
    );
    let taken = match producer {
        Producer::Criu { .. } => take_with_criu(pid, folder, &mut tar)?,
        Producer::OwnDump => take_ourselves(pid, &mut tar)?,
    };
    let mut members: Vec<_> = container
        .members()
        .into_iter()
        .chain(taken.reports)
        .collect();
    members.sort_by_key(|(name, ..)| *name);
    for (name, mode, content) in members {
        tar.file(name, mode, &content)?;
    }
    tar.finish().context("cannot finish the archive")?;

    let bytes = file.as_file().metadata()?.len();
    file.persist(&path)
        .with_context(|| format!("cannot name the archive {}", path.display()))?;
    let (page_bytes, frozen) = (taken.page_bytes, taken.frozen);
    Ok(CheckpointFile {
        path,
        bytes,
        page_bytes,
        frozen,
        producer: producer.clone(),
        fell_back: None,
    })
}

fn take_ourselves(pid: u32, tar: &mut TarWriter<BufWriter<&File>>) -> Result<Taken> {
    let dump = dump::dump(pid, tar)?;
    let reports = vec![("stats-dump", 0o644, dump.stats)];
    Ok(Taken {
        reports,
        page_bytes: dump.page_bytes,
        frozen: Some(dump.frozen),
    })
}

fn take_with_criu(pid: u32, folder: &Path, tar: &mut TarWriter<BufWriter<&File>>) -> Result<Taken> {
    let dump = criu::dump(pid, folder)?;
    let page_bytes = dump.write_folder(tar)?;
    Ok(Taken {
        reports: dump.reports(),
        page_bytes,
        frozen: None,
    })
}

impl fmt::Display for Producer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Criu { version } => write!(out, "CRIU {version}"),
            Self::OwnDump => out.write_str("the demo's own dump of /proc"),
        }
    }
}
