//! Owns the archives that others ask the kubelet for: each one that is whole and no longer written is stored, once.
//!
//! Always: what is there is found by looking; the kernel's notes only say when. An archive is taken under the lock of its container, so that a checkpoint
//! that this agent or `cryostore checkpoint` is at work on is theirs; it is remembered before it is removed; and one that is not remembered is looked
//! for in the repository by its digest first. Removed are those that this agent asked for; others only where that was said, and none that a file
//! `.keep` or `ARCHIVE.keep` marks. Never: gives an archive up because the store is away.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use cryostore_engine::format::snapshot::{Identity, SnapshotRecord};
use cryostore_engine::{
    Error, Filter, ImportOptions, Kind, Monitor, Repository, Result, Source, import,
};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::audit::Line;
use super::ledger::{Entry, Ledger};
use super::{Agent, Watcher};
use crate::archive::{Archive, Folder, Look, Settled, State};
use crate::capture::{self, Host};
use crate::lock::Lock;
use crate::pod::check_name;

/// The kernel's notes are looked for this often, and the wish to stop.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Without a note: some file systems send none.
const SCAN_EVERY: Duration = Duration::from_secs(10);
/// A file of which no note says that it was closed is left alone for so many seconds after the last time it was written.
const AGE: i64 = 5;
/// Pauses of a store that is away.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
/// 5 minutes: as long as somebody waits who has just mended it.
const PAUSE_LAST: Duration = Duration::from_secs(300);
/// So many archives that fail in a row are the store's fault; each of them may have waited for it.
const ERRORS: usize = 3;
/// Notes of some hundred files.
const NOTES_LEN: usize = 16 << 10;

/// What a watch has to remember.
#[derive(Debug)]
pub struct Watching {
    /// Of archives.
    pub ledger: Ledger,
    /// Archives that others asked for are removed, too.
    pub adopts: bool,
}

/// What became of one archive.
enum Done {
    /// It is stored, with what else was strange.
    Stored,
    /// Somebody is at work on it.
    Busy,
    /// It is not to be looked at until it changes, or for so long.
    Bad(Error, Option<Duration>),
}

/// Stops a wait for a lock at once.
struct Now;
impl Monitor for Now {
    fn stop(&self) -> bool {
        true
    }
}

struct Watch<'w> {
    agent: &'w Agent,
    watching: &'w Watching,
    monitor: &'w Watcher,
    folder: Folder,
    /// Those that could not be stored, as they were, and when they are looked at again; none: when they change.
    bad: BTreeMap<String, (State, Option<Duration>)>,
    /// Those that the store did not take the last time: they come after the others.
    failed: BTreeSet<String>,
}

/// Watches until the monitor wants it to stop.
pub(crate) fn run(agent: &Agent, watching: &Watching, monitor: &Watcher) -> Result<()> {
    let mut watch = Watch {
        agent,
        watching,
        monitor,
        folder: Folder::open(&agent.options.folder)?,
        bad: BTreeMap::new(),
        failed: BTreeSet::new(),
    };
    let notes = notes(agent)?;
    let env = &agent.env;
    let mut pause = Duration::ZERO;
    let mut next = Duration::ZERO;
    let mut closed = BTreeSet::new();
    while !monitor.stop() {
        let heard = heard(&notes, &mut closed);
        // While the store is away, a new archive does not bring it back.
        let is_time = env.elapsed() >= next || (heard && pause.is_zero());
        if !is_time {
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        match watch.scan(&mut closed) {
            Ok(()) => pause = Duration::ZERO,
            Err(_) if monitor.stop() => break,
            Err(e) => {
                pause = (pause * 2).clamp(PAUSE_FIRST, PAUSE_LAST);
                monitor.warning(&format!(
                    "archives wait below {}, and are tried again in {} s: {e}",
                    agent.options.folder.display(),
                    pause.as_secs()
                ));
            }
        }
        let wait = if pause.is_zero() { SCAN_EVERY } else { pause };
        next = env.elapsed() + wait;
    }
    Ok(())
}

fn notes(agent: &Agent) -> Result<OwnedFd> {
    let folder = &agent.options.folder;
    let failed = |e: rustix::io::Errno| Error::io(folder.display(), e.into());
    let notes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
    let wanted = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
    inotify::add_watch(&notes, folder, wanted).map_err(failed)?;
    Ok(notes)
}

/// Names of files that were closed; true if there is a new one.
fn heard(notes: &OwnedFd, closed: &mut BTreeSet<String>) -> bool {
    let mut buffer = [MaybeUninit::uninit(); NOTES_LEN];
    let mut reader = inotify::Reader::new(notes, &mut buffer);
    let mut any = false;
    while let Ok(note) = reader.next() {
        any = true;
        let name = note.file_name().and_then(|name| name.to_str().ok());
        closed.extend(name.map(str::to_owned));
    }
    any
}

impl Watch<'_> {
    /// Looks at each archive once. What one failed by may be in the way of all, or of this one alone: so others are tried, some, and the first error is
    /// given back at the end.
    fn scan(&mut self, closed: &mut BTreeSet<String>) -> Result<()> {
        let mut files = self.folder.files()?;
        files.sort_by_key(|(name, _)| self.failed.contains(name));
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        self.watching.ledger.keep_only(&names)?;
        closed.retain(|name| names.contains(&name.as_str()));
        self.bad.retain(|name, _| names.contains(&name.as_str()));
        self.failed.retain(|name| names.contains(&name.as_str()));
        let mut first = Ok(());
        let mut errors = 0;
        let now = self.agent.env.now().as_second();
        for (name, state) in &files {
            if self.monitor.stop() {
                break;
            }
            let is_ripe = closed.contains(name) || state.seconds + AGE <= now;
            if !is_ripe || self.is_bad(name, state) {
                continue;
            }
            let entry = self.watching.ledger.entry(name).unwrap_or_default();
            let is_stored = entry.stored.as_ref() == Some(state);
            if is_stored && !self.is_to_go(&entry, name) {
                continue;
            }
            match self.one_or_panic(name, entry) {
                Ok(Done::Stored) => {
                    closed.remove(name);
                    self.failed.remove(name);
                }
                Ok(Done::Busy) => {}
                Ok(Done::Bad(e, pause)) => {
                    closed.remove(name);
                    let again = pause.map(|pause| self.agent.env.elapsed() + pause);
                    self.bad.insert(name.clone(), (*state, again));
                    self.monitor.warning(&format!("not stored: {e}"));
                    let (status, error) = (super::calls::status_of(e.kind()), e.to_string());
                    self.write(name, None, status, error);
                }
                Err(e) if self.monitor.stop() => return Err(e),
                Err(e) => {
                    let (status, error) = (super::calls::status_of(e.kind()), e.to_string());
                    self.write(name, None, status, error);
                    self.failed.insert(name.clone());
                    first = first.and(Err(e));
                    errors += 1;
                    if errors >= ERRORS {
                        break;
                    }
                }
            }
        }
        first
    }

    /// A mistake of ours in one archive does not end the watch of the others.
    fn one_or_panic(&self, name: &str, entry: Entry) -> Result<Done> {
        catch_unwind(AssertUnwindSafe(|| self.one(name, entry))).unwrap_or_else(|_| {
            let e = Error::new(
                Kind::Internal,
                format!("{name}: the agent made a mistake with this archive"),
            )
            .hint("its log has the place; please report it");
            Ok(Done::Bad(e, Some(PAUSE_LAST)))
        })
    }

    fn is_bad(&self, name: &str, state: &State) -> bool {
        self.bad.get(name).is_some_and(|(was, again)| {
            was == state && again.is_none_or(|again| self.agent.env.elapsed() < again)
        })
    }

    fn is_to_go(&self, entry: &Entry, name: &str) -> bool {
        (entry.ours.is_some() || self.watching.adopts)
            && !entry.stays
            && !self.folder.is_marked(name)
    }

    fn one(&self, name: &str, entry: Entry) -> Result<Done> {
        let archive = match self.folder.open_file(name) {
            Ok(archive) => archive,
            // Whoever took it was quicker.
            Err(e) if e.kind() == Kind::NotFound => return Ok(Done::Busy),
            Err(e) => return Ok(Done::Bad(e, None)),
        };
        let settled = match archive.settle(&**self.monitor) {
            Ok(settled) => settled,
            Err(e) if e.kind() == Kind::Invalid => return Ok(Done::Bad(e, None)),
            Err(e) => return Err(e),
        };
        let look = &settled.look;
        let fine = |name: &str| check_name("pod's UID or container", name).is_ok();
        let _lock = if fine(&look.pod_uid) && fine(&look.container) {
            let locks = &self.agent.options.locks;
            match Lock::take(locks, &look.pod_uid, &look.container, &Now, || ()) {
                Ok(lock) => Some(lock),
                Err(e) if e.kind() == Kind::Interrupted => return Ok(Done::Busy),
                Err(e) => return Err(e),
            }
        } else {
            None
        };
        // Under the lock it is certain who has it: is it still there, and what it was?
        let state = settled.state();
        let is_same = |file: &(String, State)| file.0 == name && file.1 == state;
        if !self.folder.files()?.iter().any(is_same) {
            return Ok(Done::Busy);
        }
        // What was said of it, if a call has ended since then.
        let entry = self.watching.ledger.entry(name).unwrap_or(entry);
        let names = self.agent.stores.names();
        let repo = self
            .agent
            .stores
            .open(names.first().map_or("", String::as_str))?;
        // It may have been another repository that it was stored in, or one that was lost since: what is removed is there.
        let is_stored = entry.stored == Some(state) && is_there(&repo, &entry.snapshot)?;
        if !is_stored {
            let snapshot = match self.store(&repo, &archive, &settled, &entry) {
                Ok(snapshot) => snapshot,
                // Of this archive or of the store, that cannot be told: the others are not held up by it, and it is not given up.
                Err(e) if matches!(e.kind(), Kind::Invalid | Kind::Unsupported) => {
                    return Ok(Done::Bad(e, Some(PAUSE_LAST)));
                }
                Err(e) => return Err(e),
            };
            self.watching.ledger.change(name, |entry| {
                entry.stored = Some(state);
                entry.snapshot = snapshot.id.to_string();
            })?;
            self.write(name, Some(&snapshot), 200, String::new());
        }
        if self.is_to_go(&entry, name) {
            self.folder.remove(&archive, &settled)?;
        }
        Ok(Done::Stored)
    }

    fn store(
        &self,
        repo: &Repository,
        archive: &Archive,
        settled: &Settled,
        entry: &Entry,
    ) -> Result<SnapshotRecord> {
        if let Some(snapshot) = same(repo, archive, settled)? {
            return Ok(snapshot);
        }
        let mut how = ImportOptions::default();
        if let Some(asked) = &entry.ours {
            how.labels.clone_from(&asked.labels);
            how.group.clone_from(&asked.group);
        }
        self.describe(&settled.look, &mut how);
        let source = Source::Open(archive.file()?, archive.path().to_path_buf());
        let quiet = Quiet(self.monitor);
        Ok(import(repo, source, &how, &quiet)?.snapshot)
    }

    /// The pod, if it is still there: it is known by the UID that its runtime wrote into the archive. Where the API server does not answer, the archive is
    /// stored without it.
    fn describe(&self, look: &Look, how: &mut ImportOptions) {
        let Some(cluster) = self.agent.gate.cluster() else {
            return;
        };
        if look.pod.is_empty() || look.namespace.is_empty() || look.pod_uid.is_empty() {
            return;
        }
        let monitor = &**self.monitor;
        let Ok(pod) = cluster.pod(&look.namespace, &look.pod, monitor) else {
            return;
        };
        let options = &self.agent.options;
        if !pod.has_uid(&look.pod_uid) || pod.node != options.node {
            return;
        }
        let Ok(node) = cluster.node(&options.node, monitor) else {
            return;
        };
        how.identity = Identity {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container: look.container.clone(),
            pod_uid: pod.uid.clone(),
            node: node.name.clone(),
            ..Identity::default()
        };
        let mut host = Host::of(&node);
        // Known since the agent started.
        host.cluster = cluster.id(monitor).unwrap_or_default().to_owned();
        how.attachments = vec![
            (capture::POD.to_owned(), capture::manifest(&pod)),
            (capture::HOST.to_owned(), host.to_json()),
        ];
    }

    fn write(&self, name: &str, snapshot: Option<&SnapshotRecord>, status: u16, error: String) {
        let mut line = Line {
            call: "watch",
            archive: name.to_owned(),
            status,
            error,
            ..Line::default()
        };
        if let Some(snapshot) = snapshot {
            line.namespace.clone_from(&snapshot.identity.namespace);
            line.pod.clone_from(&snapshot.identity.pod);
            line.container.clone_from(&snapshot.identity.container);
            line.snapshot = snapshot.id.to_string();
            line.bytes = Some(snapshot.archive.bytes);
        }
        self.agent.audit.write(&*self.agent.env, line);
    }
}

fn is_there(repo: &Repository, snapshot: &str) -> Result<bool> {
    match repo.find(snapshot, &Filter::default()) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == Kind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// A snapshot of these very bytes. Only where one has as many of them is the archive read for it.
fn same(repo: &Repository, archive: &Archive, settled: &Settled) -> Result<Option<SnapshotRecord>> {
    let list = repo.snapshots()?;
    let mut candidates: Vec<_> = list
        .snapshots
        .into_iter()
        .filter(|one| one.archive.bytes == settled.bytes)
        .collect();
    candidates.retain(|one| one.archive.digest.is_some());
    if candidates.is_empty() {
        return Ok(None);
    }
    let failed = |e| Error::io(archive.path().display(), e);
    let mut file = archive.file()?;
    std::io::Seek::rewind(&mut file).map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).map_err(failed)?;
    std::io::Seek::rewind(&mut file).map_err(failed)?;
    let digest = hasher.finalize();
    Ok(candidates.into_iter().find(|one| {
        let of = one.archive.digest.as_ref();
        of.is_some_and(|of| of.as_bytes() == digest.as_bytes())
    }))
}

/// An import that nobody looks at: warnings of an archive are in its snapshot.
struct Quiet<'w>(&'w Watcher);
impl Monitor for Quiet<'_> {
    fn stop(&self) -> bool {
        self.0.stop()
    }
}
