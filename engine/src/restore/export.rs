//! Owns the export of a whole archive.
//!
//! One thread fetches windows, one digests and writes them in order; between them each is decoded by a task of its own, side by side with others. A window
//! that could not be decoded ends the export before any of its bytes are written. Always: a file gets its name after its digest was found right.
//! Never: leaves a part of a file behind.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};

use cryostore_format::manifest::{Body, Manifest, zeros_mark};
use cryostore_format::recipe::{FrameRef, Slice};
use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{ChunkHash, Digest};

use super::decode::{Derived, decode_window, fetch, reading_of};
use super::plan::{Plan, Window};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::monitor::{Monitor, Phase, keep_going};
use crate::pack::reading::{Fetched, Reading, frame_hashes, read_tables_ahead};
use crate::pack::{Ahead, KeptFrames, Wanted};
use crate::repo::{ManifestName, Renewing, Repository, Session};

/// Where an archive goes.
pub enum Output<'o> {
    /// A file; it appears, or replaces another, when it is whole. With `sync`, it is on the disk then.
    File {
        /// Its path.
        path: PathBuf,
        /// Wait for the disk?
        sync: bool,
    },
    /// Bytes in order, such as standard output.
    Stream(&'o mut (dyn Write + Send)),
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "File({})", path.display()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// What an export has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportStats {
    /// Bytes of the archive.
    pub bytes: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// Requests that read them.
    pub requests: u64,
}

/// Gives an archive back byte for byte.
pub fn export(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    output: Output<'_>,
    monitor: &dyn Monitor,
) -> Result<ExportStats> {
    // While this is there, no collection frees what it reads.
    let session = Session::read(repo);
    let monitor = &Renewing::new(session.as_ref(), monitor);
    let (name, manifest, ahead) = named_manifest(repo, snapshot)?;
    if let Some(session) = &session {
        session.reads(snapshot, &manifest.packs)?;
    }
    match output {
        Output::Stream(stream) => {
            let write = |window: &Window, bytes: Option<&[u8]>| match bytes {
                Some(bytes) => stream.write_all(bytes),
                None => write_zeros(stream, window.len),
            };
            let done = run(repo, snapshot, &manifest, ahead, monitor, write);
            let stats = done.map_err(|e| explain(repo, snapshot, name, e))?;
            stream
                .flush()
                .map_err(|e| Error::io("writing the archive", e))?;
            Ok(stats)
        }
        Output::File { path, sync } => {
            to_file(repo, snapshot, &manifest, ahead, &path, sync, monitor)
                .map_err(|e| explain(repo, snapshot, name, e))
        }
    }
}

/// A snapshot's manifest with its name and, of a store where a request is dear, what was read beside it.
pub(super) fn named_manifest(
    repo: &Repository,
    snapshot: &SnapshotRecord,
) -> Result<(ManifestName, Manifest, Option<Ahead>)> {
    let (name, mut manifest) = repo.first_manifest(snapshot)?;
    let is_dear = repo.store().local_path().is_none();
    // What deltas are made of is in the tables, and not known yet.
    let ahead = is_dear.then(|| {
        let known = Wanted::all_of(&manifest);
        Ahead::within(repo.memory().held_ahead()).perhaps(known)
    });
    read_tables_ahead(repo.vault(), &mut manifest, repo.key(), ahead.as_ref())?;
    Ok((name, manifest, ahead))
}

/// Of a snapshot that was rewritten since its manifest, called `name`, was read, a collection may have removed what it needed before.
pub(super) fn explain(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    name: ManifestName,
    e: Error,
) -> Error {
    let rewritten = || matches!(repo.first_manifest(snapshot), Ok((now, _)) if now != name);
    if e.kind() != Kind::Corrupt || !rewritten() {
        return e;
    }
    Error::new(
        Kind::Conflict,
        format!(
            "snapshot {} was optimized, and garbage collected, while it was read",
            snapshot.id
        ),
    )
    .hint("nothing is lost: read it again")
    .because(e)
}

fn to_file(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    manifest: &Manifest,
    ahead: Option<Ahead>,
    path: &Path,
    sync: bool,
    monitor: &dyn Monitor,
) -> Result<ExportStats> {
    let failed = |e| Error::io(format!("writing {}", path.display()), e);
    if path.is_dir() {
        return Err(
            Error::new(Kind::Invalid, format!("{} is a directory", path.display()))
                .hint("name a file with -o, or unpack the archive with --dir"),
        );
    }
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let part = tempfile::Builder::new()
        .prefix(".cryostore-")
        .suffix(".part")
        .tempfile_in(dir)
        .map_err(failed)?;
    let file: &File = part.as_file();
    // Zeros are not written: what is not written of a file of this length reads as zeros.
    file.set_len(manifest.layout.len).map_err(failed)?;
    let write = |window: &Window, bytes: Option<&[u8]>| match bytes {
        Some(bytes) => window.written(HOLE).try_for_each(|range| {
            file.write_all_at(&bytes[range.clone()], window.at + range.start as u64)
        }),
        None => Ok(()),
    };
    let stats = run(repo, snapshot, manifest, ahead, monitor, write)?;
    if sync {
        file.sync_all().map_err(failed)?;
    }
    part.persist(path).map_err(|e| failed(e.error))?;
    if sync {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed)?;
    }
    Ok(stats)
}

/// Stretches of zeros that are left out of a file: shorter ones would cost more in calls than in bytes.
const HOLE: u64 = 64 << 10;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

fn zeros(len: usize) -> impl Iterator<Item = &'static [u8]> {
    (0..len.div_ceil(ZEROS.len())).map(move |n| &ZEROS[..ZEROS.len().min(len - n * ZEROS.len())])
}

fn write_zeros(stream: &mut (dyn Write + Send), len: usize) -> std::io::Result<()> {
    zeros(len).try_for_each(|part| stream.write_all(part))
}

/// Fetches, decodes, digests and hands on all windows; zero windows come without bytes.
pub(super) fn run(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    manifest: &Manifest,
    ahead: Option<Ahead>,
    monitor: &dyn Monitor,
    write: impl FnMut(&Window, Option<&[u8]>) -> std::io::Result<()> + Send,
) -> Result<ExportStats> {
    let vault = repo.vault();
    let total = manifest.layout.len;
    if manifest.layout.digest.is_none() {
        check_streams(repo, manifest)?;
    }
    let (to_decode, fetched) =
        mpsc::sync_channel::<Result<(Window, Reading)>>(limits::WINDOWS_WAITING);
    let at_once = repo.memory().windows();
    let (to_write, decoding) = mpsc::sync_channel::<(Window, Decoding)>(at_once);
    let (empty, reuse) = mpsc::channel::<Vec<u8>>();
    let mut plan = Plan::archive(manifest)?;
    let ahead = ahead.map(|ahead| expecting(ahead, manifest)).transpose()?;
    let kept = KeptFrames::with_ahead(repo.memory().kept_frames(), ahead);
    let derived = Mutex::new((Derived::default(), Fetched::default()));
    let (fetched_bytes, digest) = std::thread::scope(|scope| -> Result<(Fetched, Digest)> {
        let fetcher = scope.spawn(move || -> Fetched {
            let mut count = Fetched::default();
            let mut next = || -> Result<Option<(Window, Reading)>> {
                let Some(window) = plan.next_window()? else {
                    return Ok(None);
                };
                let reading = fetch(vault, manifest, &window.parts, Some(&kept), &mut count)?;
                Ok(Some((window, reading)))
            };
            while let Some(step) = next().transpose() {
                let failed = step.is_err();
                if to_decode.send(step).is_err() || failed {
                    break;
                }
            }
            count
        });
        let writer = scope.spawn(move || write_in_order(decoding, &empty, write));
        let worked = rayon::in_place_scope(|tasks| -> Result<()> {
            // Owned here, so that a failure lets the fetcher and the writer end.
            let (fetched, to_write) = (fetched, to_write);
            for step in &fetched {
                keep_going(monitor)?;
                let (window, reading) = step?;
                let done = window.at + window.len as u64;
                let (result, decoding) = mpsc::sync_channel(1);
                if window.is_zero() {
                    let _ = result.send(Ok(None));
                } else {
                    let (window, derived) = (window.clone(), &derived);
                    let buffer = reuse.try_recv().unwrap_or_default();
                    tasks.spawn(move |_| {
                        let bytes =
                            decode_window(vault, manifest, &window, reading, derived, buffer);
                        let _ = result.send(bytes.map(Some));
                    });
                }
                if to_write.send((window, decoding)).is_err() {
                    // The writer says why.
                    return Ok(());
                }
                monitor.progress(Phase::Export, done, Some(total));
            }
            Ok(())
        });
        let bug = |_| Error::new(Kind::Internal, "a thread of the export ended by a bug");
        let fetched = fetcher.join().map_err(bug)?;
        let written = writer.join().map_err(bug)?;
        worked?;
        Ok((fetched, written?))
    })?;
    let (_, rebuilt) = derived.into_inner().unwrap_or_else(PoisonError::into_inner);
    match manifest.layout.digest {
        Some(expected) if expected != digest => Err(name_damage(repo, snapshot, manifest)),
        _ => Ok(ExportStats {
            bytes: total,
            bytes_read: fetched_bytes.bytes + rebuilt.bytes,
            requests: fetched_bytes.requests + rebuilt.requests,
        }),
    }
}

/// Goes through the plan once for what it will read: a request to a bucket takes as long as many bytes.
fn expecting(ahead: Ahead, manifest: &Manifest) -> Result<Ahead> {
    let mut wanted = Wanted::default();
    let mut plan = Plan::archive(manifest)?;
    while let Some(window) = plan.next_window()? {
        wanted.add(&reading_of(manifest, &window.parts, None));
    }
    Ok(ahead.expecting(wanted))
}

/// A window that is being decoded.
type Decoding = mpsc::Receiver<Result<Option<Vec<u8>>>>;

/// Digests and hands on windows as they are decoded, in their order.
fn write_in_order(
    windows: mpsc::Receiver<(Window, Decoding)>,
    empty: &mpsc::Sender<Vec<u8>>,
    mut write: impl FnMut(&Window, Option<&[u8]>) -> std::io::Result<()>,
) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    for (window, decoding) in windows {
        let lost = |_| Error::new(Kind::Internal, "a window was lost while it was decoded");
        let bytes = decoding.recv().map_err(lost)??;
        match &bytes {
            Some(bytes) => {
                hasher.update(bytes);
            }
            None => zeros(window.len).for_each(|part| {
                hasher.update(part);
            }),
        }
        write(&window, bytes.as_deref()).map_err(|e| Error::io("writing the archive", e))?;
        if let Some(bytes) = bytes {
            let _ = empty.send(bytes);
        }
    }
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

/// The digest of the whole is wrong although every frame could be decoded: says where.
fn name_damage(repo: &Repository, snapshot: &SnapshotRecord, manifest: &Manifest) -> Error {
    match check_streams(repo, manifest) {
        Err(e) => e.at(format!("snapshot {}", snapshot.id)),
        Ok(()) => Error::new(
            Kind::Corrupt,
            format!(
                "snapshot {}: the archive's digest does not match, although all its streams do",
                snapshot.id
            ),
        )
        .hint("the manifest is wrong; run `cryostore check --read-data`"),
    }
}

/// Checks all streams against their digests.
fn check_streams(repo: &Repository, manifest: &Manifest) -> Result<()> {
    let mut derived = Derived::default();
    let mut count = Fetched::default();
    for (n, stream) in (0..).zip(&manifest.streams) {
        let name = String::from_utf8_lossy(&stream.name);
        let digest = match stream.body {
            Body::Derived { .. } => {
                Digest::of(&derived.get(repo.vault(), manifest, n, &mut count)?)
            }
            Body::Recipe(_) => stream_digest(repo, manifest, n, &mut count)?,
        };
        if digest != stream.digest {
            return Err(Error::new(Kind::Corrupt, format!("stream {n} (`{name}`) does not match its digest"))
                .hint("its chunks are in the store, but some are not what was stored; run `cryostore check --read-data`"));
        }
    }
    Ok(())
}

/// Digest of a stream that is in chunks, from its stored bytes.
fn stream_digest(
    repo: &Repository,
    manifest: &Manifest,
    stream: u32,
    count: &mut Fetched,
) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut zeros = 0_u64;
    let slices = manifest.slices(stream);
    let slices = slices
        .ok_or_else(|| Error::new(Kind::Internal, "a stream in chunks with a derived part"))?;
    // The hashes of the last frame, which often comes again.
    let mut last: Option<(FrameRef, Vec<ChunkHash>)> = None;
    for slice in slices {
        let slice = match slice.map_err(|e| Error::stored("the manifest", e))? {
            Slice::Zero { len } => {
                zeros += len;
                continue;
            }
            Slice::Frame(slice) => slice,
        };
        if zeros > 0 {
            hasher.update(&zeros_mark(std::mem::take(&mut zeros)));
        }
        if last.as_ref().is_none_or(|(frame, _)| *frame != slice.frame) {
            let hashes = frame_hashes(repo.vault(), manifest, slice.frame, repo.key(), count)?;
            last = Some((slice.frame, hashes));
        }
        let hashes = last.as_ref().map_or(&[][..], |(_, hashes)| hashes);
        let wanted = hashes.get(usize::from(slice.skip)..usize::from(slice.skip + slice.take));
        wanted.unwrap_or_default().iter().for_each(|hash| {
            hasher.update(hash.as_bytes());
        });
    }
    if zeros > 0 {
        hasher.update(&zeros_mark(zeros));
    }
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}
