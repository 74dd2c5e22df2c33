//! Owns where a snapshot's manifest is: at the name that its record has, or, once the snapshot was rewritten, at one that follows from it.
//!
//! A rewritten manifest takes the other's place in three steps, and each crash point leaves one that is whole:
//!
//! 1. Its packs are put, by a session, so that no collection takes them for garbage.
//! 2. It is put under the next name, create-if-absent. The old one is there still and is what readers take: they take the first that is there.
//! 3. The old one is removed, by whoever saw that the new one and all of its packs are there while no collection was at work ([`Repository::settle_manifest`]), or by a
//!    collection, which sees the same (`gc.rs`). A process that was given up wrongly and wakes between finds its packs gone, and removes nothing.
//!
//! Always: of the manifests that are there at least one is whole. Never: changes a record.

use cryostore_format::manifest::Manifest;
use cryostore_format::session::Work;
use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{Digest, ManifestId, PackId, limits as format_limits};

use super::{Repository, Session};
use crate::error::{Error, Kind, Result};
use crate::pack::object_name;
use crate::pack::reading::read_tables;

/// Name of a manifest's object.
#[must_use]
pub fn manifest_name(id: ManifestId) -> String {
    format!("manifests/{id}")
}

/// The names that a snapshot's manifest can have, in the order in which it has them.
pub(crate) fn manifest_ids(snapshot: &SnapshotRecord) -> impl Iterator<Item = ManifestId> {
    std::iter::successors(Some(snapshot.manifest.id), |id| Some(id.rewritten()))
        .take(format_limits::REWRITES_MAX + 1)
}

impl Repository {
    /// Reads a snapshot's manifest, and the tables of what its delta frames are made of.
    pub fn manifest(&self, snapshot: &SnapshotRecord) -> Result<Manifest> {
        self.named_manifest(snapshot).map(|(_, manifest)| manifest)
    }

    /// The same, with its name.
    pub(crate) fn named_manifest(
        &self,
        snapshot: &SnapshotRecord,
    ) -> Result<(ManifestId, Manifest)> {
        let (id, mut manifest) = self.first_manifest(snapshot)?;
        read_tables(self.vault(), &mut manifest, self.key())?;
        Ok((id, manifest))
    }

    /// Name and length of the object that holds a snapshot's manifest.
    pub fn manifest_object(&self, snapshot: &SnapshotRecord) -> Result<(String, u64)> {
        for id in manifest_ids(snapshot) {
            let name = manifest_name(id);
            if let Some(len) = self.store().len(&name)? {
                return Ok((name, len));
            }
        }
        Ok((manifest_name(snapshot.manifest.id), 0))
    }

    /// Reads a snapshot's manifest without tables: enough to know which packs it needs.
    pub fn manifest_alone(&self, snapshot: &SnapshotRecord) -> Result<Manifest> {
        self.first_manifest(snapshot).map(|(_, manifest)| manifest)
    }

    /// The first manifest of a snapshot that is there, and its name.
    pub(crate) fn first_manifest(
        &self,
        snapshot: &SnapshotRecord,
    ) -> Result<(ManifestId, Manifest)> {
        for id in manifest_ids(snapshot) {
            match self.manifest_at(snapshot, id) {
                Err(e) if e.kind() == Kind::NotFound => {}
                found => return found.map(|manifest| (id, manifest)),
            }
        }
        let name = manifest_name(snapshot.manifest.id);
        Err(unreadable(
            snapshot,
            Error::new(
                Kind::Corrupt,
                format!("{name} is missing in {}", self.store().name()),
            ),
        ))
    }

    /// Reads one of a snapshot's manifests. The first is what the record names; those after it must be of the same archive.
    fn manifest_at(&self, snapshot: &SnapshotRecord, id: ManifestId) -> Result<Manifest> {
        let name = manifest_name(id);
        let bytes = self.read_object(&name, format_limits::MANIFEST_PLAIN_MAX + 4096)?;
        let other = || {
            let detail = format!("{name} is not what the snapshot record names");
            unreadable(snapshot, Error::new(Kind::Corrupt, detail))
        };
        let named = &snapshot.manifest;
        if id == named.id && Digest::of(&bytes) != named.digest {
            return Err(other());
        }
        let manifest = Manifest::decode(&bytes).map_err(|e| Error::stored(&name, e))?;
        let archive = &snapshot.archive;
        if id != named.id
            && (manifest.layout.len, manifest.layout.digest) != (archive.bytes, archive.digest)
        {
            return Err(other());
        }
        Ok(manifest)
    }

    /// Puts a manifest that is to take the place of the one called `old`.
    pub(crate) fn put_rewritten(&self, old: ManifestId, bytes: Vec<u8>) -> Result<()> {
        let name = manifest_name(old.rewritten());
        let digest = Digest::of(&bytes);
        let Err(failed) = self.store().create(&name, self.seal_object(&name, bytes)?) else {
            return Ok(());
        };
        // The reply may have been lost.
        let limit = format_limits::MANIFEST_PLAIN_MAX + 4096;
        match self.read_object(&name, limit) {
            Ok(found) if Digest::of(&found) == digest => Ok(()),
            Ok(_) if failed.kind() == Kind::Conflict => Err(taken(&name)),
            _ => Err(failed),
        }
    }

    /// An error if a manifest cannot take the place of the one called `old`, before work is done for it.
    pub(crate) fn check_next(&self, snapshot: &SnapshotRecord, old: ManifestId) -> Result<()> {
        if manifest_ids(snapshot).last() == Some(old) {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "snapshot {} was rewritten {} times",
                    snapshot.id,
                    format_limits::REWRITES_MAX
                ),
            )
            .hint("it cannot be once more; import the archive again to store it anew"));
        }
        let name = manifest_name(old.rewritten());
        match self.store().len(&name)? {
            None => Ok(()),
            Some(_) => Err(taken(&name)),
        }
    }

    /// Of the manifests called `there`, in the order of their names, the last one that is whole; the others are not needed.
    pub(crate) fn last_whole(
        &self,
        snapshot: &SnapshotRecord,
        there: &[ManifestId],
        mut has: impl FnMut(PackId) -> Result<bool>,
    ) -> Result<Option<(ManifestId, Manifest)>> {
        let mut first = None;
        for id in there.iter().rev() {
            let manifest = match self.manifest_at(snapshot, *id) {
                Ok(manifest) => manifest,
                Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound) => {
                    first.get_or_insert(e);
                    continue;
                }
                Err(e) => return Err(e),
            };
            let mut whole = true;
            for pack in &manifest.packs {
                whole = whole && has(*pack)?;
            }
            // What is damaged is still all there is, if nothing is behind it.
            if whole || Some(id) == there.first() {
                return Ok(Some((*id, manifest)));
            }
        }
        first.map_or(Ok(None), Err)
    }

    /// Removes the manifests of a snapshot in whose place a later one is whole; the name of that one comes back. None: a collection is at work, and will see to it.
    pub(crate) fn settle_manifest(&self, snapshot: &SnapshotRecord) -> Result<Option<ManifestId>> {
        let _session = match Session::start(self, Work::Optimize, None) {
            Err(e) if e.kind() == Kind::Conflict => return Ok(None),
            session => session?,
        };
        let mut there = Vec::new();
        for id in manifest_ids(snapshot) {
            if self.store().len(&manifest_name(id))?.is_some() {
                there.push(id);
            }
        }
        let has = |pack| Ok(self.store().len(&object_name(pack))?.is_some());
        let Some((needed, _)) = self.last_whole(snapshot, &there, has)? else {
            return Ok(None);
        };
        for id in there.iter().take_while(|id| **id != needed) {
            self.store().delete(&manifest_name(*id))?;
        }
        Ok(Some(needed))
    }
}

/// The next name is taken.
fn taken(name: &str) -> Error {
    Error::new(
        Kind::Conflict,
        format!("{name} is there: this snapshot is being optimized by somebody else, or that was given up"),
    )
    .hint("run `cryostore gc` when nothing is at work, then optimize the snapshot again")
}

fn unreadable(snapshot: &SnapshotRecord, error: Error) -> Error {
    error
        .at(format!("snapshot {}", snapshot.id))
        .hint("this snapshot cannot be read; `cryostore check` shows whether others can")
}
