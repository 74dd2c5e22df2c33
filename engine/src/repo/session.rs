//! Owns sessions: who is at work, as far as others must know.
//!
//! Always: an import, or an optimization, and a collection never work at once. Each puts its own record first and looks for the other's then, so at least the one that
//! put its record later sees the other and gives way (both may; nothing is lost by that). Never: decides by clock or host that a session is dead.
//! What is decided here is only what the kernel proves: the owner of a session on this node holds a file lock.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use cryostore_format::session::{Place, SessionRecord, Work};
use cryostore_format::{SessionId, limits as format_limits};

use super::Repository;
use crate::env::{random_id, timestamp};
use crate::error::{Error, Kind, Result};

const PREFIX: &str = "sessions";

fn object_name(id: SessionId) -> String {
    format!("{PREFIX}/{id}")
}

/// A session of this process. Dropped, it ends: its record is removed.
#[derive(Debug)]
pub struct Session<'r> {
    repo: &'r Repository,
    record: SessionRecord,
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
    /// Puts the record, then looks for sessions that exclude this one.
    pub fn start(repo: &'r Repository, work: Work, place: Option<Place>) -> Result<Self> {
        let id = SessionId::from_bytes(random_id(repo.env()));
        let record = SessionRecord {
            id,
            work,
            place,
            started: timestamp(repo.env()),
            renewals: 0,
            owner: repo.env().owner(),
        };
        let lock = repo.lock_session(id);
        let bytes = record
            .encode()
            .map_err(|e| Error::new(Kind::Internal, "a session record").because(e))?;
        let name = object_name(id);
        let bytes = repo.seal_object(&name, bytes)?;
        // From here on the record is removed when this goes, also when the put fails: it may have been done all the same.
        let session = Self { repo, record, lock };
        repo.store().create(&name, bytes)?;
        if work == Work::Collect {
            // A collection looks for itself: it may end sessions.
            return Ok(session);
        }
        let collects = |other: &LiveSession| other.record.work == Work::Collect && !other.dead;
        if let Some(other) = repo.sessions()?.into_iter().find(collects) {
            return Err(Error::new(Kind::Conflict, format!(
                "garbage is being collected by {} (session {}, since {})",
                other.record.owner, other.record.id, other.record.started
            ))
            .hint("try again when it is done; if its process is gone, `cryostore gc --end-session ID` ends the session"));
        }
        Ok(session)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.record.id
    }

    /// Where it commits.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.record.place
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // A record that stays because the store fails right now is what a killed process leaves: a collector ends it.
        if let Err(e) = self.repo.store().delete(&object_name(self.record.id)) {
            tracing::warn!("session {} could not be ended: {e}", self.record.id);
        }
        if let Some((_, path)) = &self.lock {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What the kernel made up when this system started.
fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

impl Repository {
    /// Locks the node's own mark of a session for as long as the process lives.
    fn lock_session(&self, id: SessionId) -> Option<(File, PathBuf)> {
        let dir = self.cache()?.join("sessions");
        std::fs::create_dir_all(&dir).ok()?;
        let path = dir.join(id.to_string());
        let mut file = File::create(&path).ok()?;
        file.try_lock().ok()?;
        file.write_all(boot_id()?.as_bytes()).ok()?;
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
                read.is_ok() && boot_id() == Some(marked) && file.try_lock_shared().is_ok()
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
        if let Some(place) = record.place {
            self.bury(place, Some(record.id), reason)?;
        }
        self.store().delete(&object_name(record.id))?;
        if let Some(cache) = self.cache() {
            let _ = std::fs::remove_file(cache.join("sessions").join(record.id.to_string()));
        }
        Ok(())
    }
}
