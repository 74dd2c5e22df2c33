//! Owns sessions: who is at work, as far as others must know, and what a session has to keep to (`format-spec/spec/protocol.md`, W1 to W7).
//!
//! Always: the record is there before a session looks at anything, and names the collections whose word it keeps; it goes only when it is known what became of
//! the commit. Never: decides by a clock of others or by a host name that a session is dead. What is decided here is only what the kernel proves: the owner of a session on this
//! node holds a file lock.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cryostore_format::session::{Place, SessionPrefix, SessionRecord, Work};
use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{PackId, SessionId, limits as format_limits};

use super::{Repository, damage};
use crate::env::{boot_id, random_id, timestamp};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::monitor::{Monitor, Phase};

const PREFIX: &str = "sessions";

fn object_name(id: SessionId) -> String {
    format!("{PREFIX}/{id}")
}

/// What a session keeps to, known when it starts.
#[derive(Debug, Default)]
pub struct Terms {
    prefix: Option<SessionPrefix>,
    condemned: HashSet<PackId>,
    given_up: HashSet<Place>,
    leave: HashSet<PackId>,
    damaged: HashSet<PackId>,
    /// What was condemned is not known: a record is damaged.
    alone: bool,
}

impl Terms {
    /// True for a pack that must not be referred to.
    #[must_use]
    pub fn condemns(&self, pack: PackId) -> bool {
        let own = || self.prefix == Some(SessionPrefix::in_id(pack.as_bytes()));
        self.condemned.contains(&pack) || (self.alone && !own())
    }

    /// True for a pack that is not to be referred to anew: it is condemned, or damaged.
    #[must_use]
    pub fn avoids(&self, pack: PackId) -> bool {
        self.condemns(pack) || self.damaged.contains(&pack)
    }

    /// True for a snapshot that cannot be brought back.
    #[must_use]
    pub fn gives_up(&self, place: Place) -> bool {
        self.alone || self.given_up.contains(&place)
    }

    /// True if nothing is referred to that was stored before: a record of a collection is damaged.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.alone
    }

    /// Packs that are not referred to anew, if it can be helped.
    #[must_use]
    pub const fn leave(&self) -> &HashSet<PackId> {
        &self.leave
    }

    /// A name for an object of this session.
    #[must_use]
    pub fn new_id(&self, env: &dyn crate::env::Env) -> [u8; 16] {
        let random = random_id(env);
        self.prefix.map_or(random, |prefix| prefix.with(&random))
    }
}

/// A session of this process. Dropped, it ends: its record is removed, unless it is not known what became of its commit.
#[derive(Debug)]
pub struct Session<'r> {
    repo: &'r Repository,
    record: Mutex<SessionRecord>,
    id: SessionId,
    work: Work,
    place: Option<Place>,
    terms: Arc<Terms>,
    renewed: Mutex<Duration>,
    unsettled: AtomicBool,
    lock: Option<(File, PathBuf)>,
}

/// A session that somebody's record tells of.
#[derive(Debug, Clone)]
pub struct LiveSession {
    /// Its record.
    pub record: SessionRecord,
    /// True if its process was on this node and is gone.
    pub dead: bool,
}

impl<'r> Session<'r> {
    /// W1 to W3: puts the record, reads the collections that are there, names them, and lists the packs that are damaged.
    pub fn start(repo: &'r Repository, work: Work, place: Option<Place>) -> Result<Self> {
        let mut session = Self::create(repo, work, place)?;
        session.learn()?;
        Ok(session)
    }

    /// The session of a reader. None where it cannot be put: reading needs no right to write.
    pub fn read(repo: &'r Repository) -> Option<Self> {
        let mut session = Self::create(repo, Work::Read, None)
            .inspect_err(|e| tracing::debug!("read without a session: {e}"))
            .ok()?;
        // One that names nothing keeps everything from being freed, which is safe, and bad where readers never end.
        if let Err(e) = session.learn() {
            tracing::debug!("session {}: {e}", session.id);
        }
        Some(session)
    }

    /// A reader is to read these packs of a snapshot: if a collection that it names condemns one of them, it names none any more, and nothing is freed while it is there. A collector may have seen it name
    /// that collection, if the snapshot was deleted by then: so it looks once more.
    pub(crate) fn reads(&self, snapshot: &SnapshotRecord, packs: &[PackId]) -> Result<()> {
        if !packs.iter().any(|pack| self.terms.condemns(*pack)) {
            return Ok(());
        }
        if let Err(e) = self.replace_record(|record| record.collections.clear()) {
            tracing::debug!("session {}: {e}", self.id);
        }
        if self.repo.is_gone(Place::of(snapshot)) {
            let text = format!("snapshot {} was deleted meanwhile", snapshot.id);
            return Err(Error::new(Kind::NotFound, text)
                .hint("`cryostore undelete` brings it back within the grace time"));
        }
        Ok(())
    }

    /// W2 and W3.
    fn learn(&mut self) -> Result<()> {
        let repo = self.repo;
        let mut terms = Terms {
            prefix: Some(SessionPrefix::of(self.id)),
            ..Terms::default()
        };
        let mut named = Vec::new();
        let listed = repo.list_collections()?;
        for (name, record) in repo.collections_in(&listed) {
            let record = match record {
                Err(e) if e.kind() == Kind::Corrupt => {
                    tracing::warn!(
                        "{name} is damaged: nothing is referred to that was stored before ({e})"
                    );
                    terms.alone = true;
                    continue;
                }
                record => record?,
            };
            if record.condemned.len() + record.given_up.len() > 0 {
                named.push(record.id);
            }
            terms.condemned.extend(record.condemned);
            terms.given_up.extend(record.given_up);
            terms.leave.extend(record.leave);
        }
        // A reader refers to nothing anew.
        if self.work != Work::Read {
            terms.damaged = damage::packs_of(&listed);
        }
        self.terms = Arc::new(terms);
        if !named.is_empty() {
            self.replace_record(|record| record.collections = named)?;
        }
        Ok(())
    }

    fn create(repo: &'r Repository, work: Work, place: Option<Place>) -> Result<Self> {
        let id = SessionId::from_bytes(random_id(repo.env()));
        let record = SessionRecord {
            id,
            work,
            place,
            collections: Vec::new(),
            started: timestamp(repo.env()),
            renewals: 0,
            owner: repo.env().owner(),
        };
        let name = object_name(id);
        let bytes = repo.seal_object(&name, encode(&record)?)?;
        // From here on the record is removed when this goes, also when the put fails: it may have been done all the same.
        let session = Self {
            repo,
            record: Mutex::new(record),
            id,
            work,
            place,
            terms: Arc::default(),
            renewed: Mutex::new(repo.env().elapsed()),
            unsettled: AtomicBool::new(false),
            lock: repo.lock_session(id),
        };
        repo.store().create(&name, bytes)?;
        Ok(session)
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Where it commits.
    #[must_use]
    pub const fn place(&self) -> Option<Place> {
        self.place
    }

    /// What it keeps to.
    #[must_use]
    pub fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.terms)
    }

    /// W5, called whenever the work has made progress: says so now and then. A failure is no reason to stop.
    pub fn renew(&self) {
        let now = self.repo.env().elapsed();
        {
            let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
            if now.saturating_sub(*renewed) < limits::RENEW_EVERY {
                return;
            }
            *renewed = now;
        }
        if let Err(e) = self.replace_record(|record| record.renewals += 1) {
            tracing::debug!("session {}: {e}", self.id);
        }
    }

    fn replace_record(&self, change: impl FnOnce(&mut SessionRecord)) -> Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut record);
        let name = object_name(self.id);
        let bytes = self.repo.seal_object(&name, encode(&record)?)?;
        self.repo.store().replace(&name, bytes)
    }

    /// While this is set, it is not known what is at its place: its record stays.
    pub(super) fn set_unsettled(&self, unsettled: bool) {
        self.unsettled.store(unsettled, Ordering::SeqCst);
    }
}

fn encode(record: &SessionRecord) -> Result<Vec<u8>> {
    let encoded = record.encode();
    encoded.map_err(|e| Error::new(Kind::Internal, "a session record").because(e))
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // What is left is what a killed process leaves: the mark on this node stays with it, by which a collection here sees that the process is gone.
        if self.unsettled.load(Ordering::SeqCst) {
            tracing::warn!(
                "session {} is left: what became of its commit is not known; `cryostore gc` will settle it",
                self.id
            );
            return;
        }
        if let Err(e) = self.repo.store().delete(&object_name(self.id)) {
            tracing::warn!("session {} could not be ended: {e}", self.id);
            return;
        }
        if let Some((_, path)) = &self.lock {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Watches for another monitor, and renews a session whenever the work goes on.
pub(crate) struct Renewing<'a> {
    session: Option<&'a Session<'a>>,
    inner: &'a dyn Monitor,
}

impl<'a> Renewing<'a> {
    pub(crate) const fn new(session: Option<&'a Session<'a>>, inner: &'a dyn Monitor) -> Self {
        Self { session, inner }
    }
}

impl Monitor for Renewing<'_> {
    fn progress(&self, phase: Phase, done: u64, total: Option<u64>) {
        if let Some(session) = self.session {
            session.renew();
        }
        self.inner.progress(phase, done, total);
    }
    fn warning(&self, text: &str) {
        self.inner.warning(text);
    }
    fn stop(&self) -> bool {
        self.inner.stop()
    }
}

impl Repository {
    /// Locks the node's own mark of a session for as long as the process lives.
    fn lock_session(&self, id: SessionId) -> Option<(File, PathBuf)> {
        let dir = self.cache()?.join("sessions");
        std::fs::create_dir_all(&dir).ok()?;
        let path = dir.join(id.to_string());
        let mut file = File::create(&path).ok()?;
        file.try_lock().ok()?;
        file.write_all(boot_id().ok()?.as_bytes()).ok()?;
        Some((file, path))
    }

    /// True if the session's process was on this node, since it was started, and is gone: its mark is here, and nobody holds it. A cache that came from
    /// another machine, or that two machines see without seeing each other's locks, proves nothing: the mark names the start of the system.
    fn session_is_dead(&self, id: SessionId) -> bool {
        let Some(cache) = self.cache() else {
            return false;
        };
        match File::open(cache.join("sessions").join(id.to_string())) {
            Ok(mut file) => {
                let mut marked = String::new();
                let read = file.read_to_string(&mut marked);
                // A mark may end with the line's end that the kernel gives.
                let is_ours = boot_id().is_ok_and(|own| own == marked.trim());
                read.is_ok() && is_ours && file.try_lock_shared().is_ok()
            }
            Err(_) => false,
        }
    }

    /// All sessions that have a record.
    pub fn sessions(&self) -> Result<Vec<LiveSession>> {
        let prefix = format!("{PREFIX}/");
        let mut out = Vec::new();
        for object in self.store().list(PREFIX)? {
            if object
                .name
                .strip_prefix(&prefix)
                .and_then(|id| id.parse::<SessionId>().ok())
                .is_none()
            {
                continue;
            }
            let bytes = match self.read_object(&object.name, format_limits::RECORD_MAX) {
                Ok(bytes) => bytes,
                // Ended since it was listed.
                Err(e) if e.kind() == Kind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let record = SessionRecord::decode(&bytes).map_err(|e| {
                Error::stored(&object.name, e).hint("if no import runs, remove this object by hand; it holds nothing of a checkpoint")
            })?;
            let dead = self.session_is_dead(record.id);
            out.push(LiveSession { record, dead });
        }
        Ok(out)
    }

    /// Ends another's session for good: first its place is taken by a tombstone, so that it can never commit, then its record goes.
    pub fn end_session(&self, record: &SessionRecord, reason: &str) -> Result<()> {
        self.revoke(record, Some(record.id), reason)
    }

    /// The same, of a session whose process is gone: its tombstone need not stay longer than a put that it had under way.
    pub(crate) fn end_dead_session(&self, record: &SessionRecord, reason: &str) -> Result<()> {
        self.revoke(record, None, reason)
    }

    fn revoke(&self, record: &SessionRecord, wakes: Option<SessionId>, reason: &str) -> Result<()> {
        if let Some(place) = record.place {
            self.bury(place, wakes, reason)?;
        }
        self.store().delete(&object_name(record.id))?;
        if let Some(cache) = self.cache() {
            let _ = std::fs::remove_file(cache.join("sessions").join(record.id.to_string()));
        }
        Ok(())
    }
}
