//! Owns a collection's look at sessions (protocol, C2): who is at work, and who is revoked.
//!
//! Always: revoked is only a session whose process the kernel says is gone, one that the user named, or one that stood still for an hour by this node's own monotonic clock.
//! Never: a session that goes on renewing itself, whatever its owner or start say.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use cryostore_format::session::{SessionPrefix, SessionRecord, Work};
use cryostore_format::{CollectionId, SessionId};
use serde::{Deserialize, Serialize};

use super::GcOptions;
use crate::error::Result;
use crate::limits;
use crate::repo::{LiveSession, Repository};

/// What the look has found.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Those that are at work.
    pub(super) live: Vec<SessionRecord>,
    /// Those that read, when all was marked.
    pub(super) readers: Vec<SessionRecord>,
    /// Those that were revoked, and why.
    pub(super) ended: Vec<(SessionId, &'static str)>,
}

impl Sessions {
    /// The second look, after marking: a reader may have found that a collection which it named condemns what it reads, and names none since.
    pub(super) fn look_at_readers(&mut self, repo: &Repository) -> Result<()> {
        let ended = |id| self.ended.iter().any(|(ended, _)| *ended == id);
        let found = repo.sessions()?.into_iter();
        let readers = found.filter(|session| {
            session.record.work == Work::Read && !session.dead && !ended(session.record.id)
        });
        self.readers = readers.map(|session| session.record).collect();
        Ok(())
    }

    /// True if all that are at work know a collection.
    pub(super) fn all_name(&self, id: CollectionId) -> bool {
        let mut sessions = self.live.iter().chain(&self.readers);
        sessions.all(|session| session.collections.contains(&id))
    }

    /// True if an object with this id was put by a session that is at work.
    pub(super) fn have_put(&self, id: &[u8; 16]) -> bool {
        let prefix = SessionPrefix::in_id(id);
        self.live
            .iter()
            .any(|record| SessionPrefix::of(record.id) == prefix)
    }
}

/// When each session's counter was seen to change, by this node's clock. Kept in the cache directory between collections; lost, the hour begins anew.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    boot: String,
    sessions: HashMap<String, (u64, u64)>,
}

fn notes(repo: &Repository) -> Option<PathBuf> {
    Some(repo.cache()?.join("sessions-seen.json"))
}

/// Looks at the sessions, and revokes those that are over; with `dry_run` only says which.
pub(super) fn look_at_sessions(repo: &Repository, options: &GcOptions) -> Result<Sessions> {
    let found = repo.sessions()?;
    let still = standing_still(repo, &found);
    let mut out = Sessions::default();
    for LiveSession { record, dead } in found {
        let id = record.id.to_string();
        let mut named = options.end_sessions.iter();
        let reason = if dead {
            "its process is gone"
        } else if named.any(|prefix| prefix.len() >= 4 && id.starts_with(prefix.as_str())) {
            "ended by hand"
        } else if still.contains(&record.id) {
            "it stood still for an hour"
        } else if record.work == Work::Collect {
            // A collection of a program before the protocol: it refers to nothing.
            continue;
        } else {
            out.live.push(record);
            continue;
        };
        if !options.dry_run {
            if dead {
                repo.end_dead_session(&record, reason)?;
            } else {
                repo.end_session(&record, reason)?;
            }
        }
        out.ended.push((record.id, reason));
    }
    Ok(out)
}

/// The sessions whose counters did not move for an hour of this node's time.
fn standing_still(repo: &Repository, found: &[LiveSession]) -> Vec<SessionId> {
    let (Some(path), Some((boot, now))) = (notes(repo), repo.env().since_boot()) else {
        return Vec::new();
    };
    let kept = std::fs::read(&path).ok();
    let kept: Option<Seen> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let before = kept.filter(|seen| seen.boot == boot).unwrap_or_default();
    let mut seen = Seen {
        boot,
        sessions: HashMap::new(),
    };
    let mut still = Vec::new();
    for LiveSession { record, .. } in found {
        let id = record.id.to_string();
        let since = match before.sessions.get(&id) {
            Some((renewals, since)) if *renewals == record.renewals => *since,
            _ => now.as_secs(),
        };
        if now.saturating_sub(Duration::from_secs(since)) >= limits::STANDS_STILL {
            still.push(record.id);
        }
        seen.sessions.insert(id, (record.renewals, since));
    }
    // Without it the hour begins anew at the next collection.
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        std::fs::write(&path, serde_json::to_vec(&seen)?)
    };
    if let Err(e) = write() {
        tracing::debug!("{}: {e}", path.display());
    }
    still
}
