//! Owns the import of what another repository gives back: the archive comes with its record.
//!
//! Always: what is committed has the bytes that the record tells of, and all that it says of the checkpoint; only how it is stored is of this repository. Never: a record of other bytes.

use std::io::Read;

use cryostore_format::session::Place;
use cryostore_format::snapshot::{Identity, Original, SnapshotRecord};

use super::facts::Facts;
use super::source::Opened;
use super::{ImportOptions, Imported, Plan, explain, run};
use crate::error::{Error, Kind, Result};
use crate::monitor::Monitor;
use crate::repo::{Repository, Terms};

/// What a copy keeps.
#[derive(Debug)]
pub(crate) struct Carried {
    /// As it is in the other repository.
    pub(crate) record: SnapshotRecord,
    /// What was imported first.
    pub(crate) original: Original,
    /// The copy of what it requires.
    pub(crate) requires: Option<Place>,
    /// Members of the archive that tell how the others are cut: name, bytes, and the content of those that are looked at ([`looks_at`]).
    pub(crate) members: Vec<(Vec<u8>, u64, Option<Vec<u8>>)>,
}

/// Imports an archive with its record.
pub(crate) fn import_carried(
    repo: &Repository,
    archive: Box<dyn Read + Send>,
    carried: &Carried,
    options: &ImportOptions,
    monitor: &dyn Monitor,
) -> Result<Imported> {
    let mut facts = Facts::default();
    for (name, len, content) in &carried.members {
        // When it was dumped the record says.
        facts.member(name, *len, 0);
        if let Some(content) = content
            && facts.wants(name, *len) > 0
        {
            facts.learn(name, content);
        }
    }
    let record = &carried.record;
    let name = format!("snapshot {}", record.id);
    let opened = Opened::archive(archive, record.archive.kind, record.archive.bytes, name);
    let plan = Plan::new(repo, &facts, options, Some(carried), monitor)?;
    let whose = plan.whose();
    run(repo, opened, facts, plan, options, monitor).map_err(|e| explain(repo, whose, e))
}

/// True for a member whose content tells how others are cut, if it has so many bytes.
pub(crate) fn looks_at(name: &[u8], len: u64) -> bool {
    len <= Facts::default().looks_at(name) as u64
}

impl Carried {
    pub(super) const fn identity(&self) -> &Identity {
        &self.record.identity
    }

    /// What it requires here, unless that is being freed.
    pub(super) fn parent(&self, terms: &Terms) -> Result<Option<Place>> {
        match self.requires {
            Some(place) if terms.gives_up(place) => Err(Error::new(
                Kind::Conflict,
                format!(
                    "snapshot {}, which holds pages of this checkpoint, is being freed",
                    place.snapshot
                ),
            )
            .hint("copy again: it is copied anew, and then this one")),
            parent => Ok(parent),
        }
    }

    /// The record of the copy: `made` says where it is and what it cost, the rest is kept.
    pub(super) fn keep(&self, made: SnapshotRecord) -> Result<SnapshotRecord> {
        let kept = self.record.clone();
        let same = kept.archive.bytes == made.archive.bytes
            && (kept.archive.digest.is_none() || kept.archive.digest == made.archive.digest)
            && kept.attachments == made.attachments;
        if !same {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "what was read of snapshot {} is not what was imported",
                    kept.id
                ),
            )
            .hint("nothing of it was committed; run `cryostore check --read-data` where it is"));
        }
        let mut archive = kept.archive;
        archive.digest = made.archive.digest;
        Ok(SnapshotRecord {
            archive,
            original: Some(self.original),
            created: kept.created,
            dumped: kept.dumped,
            identity: kept.identity,
            producer: kept.producer,
            labels: kept.labels,
            origin: kept.origin,
            group: kept.group,
            warnings: kept.warnings,
            ..made
        })
    }
}
