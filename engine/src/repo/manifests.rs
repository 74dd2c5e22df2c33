//! Owns where a snapshot's manifest is: at the name that its record has, or, once the snapshot was rewritten, below `rewritten/`.
//!
//! A rewritten manifest takes the other's place in three steps, and each crash point leaves one that is whole:
//!
//! 1. Its packs are put, by a session, so that no collection takes them for garbage.
//! 2. It is put, under a name that never comes again. The old one is there still and is what readers take.
//! 3. The old one is removed, by whoever saw that the new one is there, that no collection condemns its packs, and that they are there ([`Repository::settle_manifest`]), or by a
//!    collection, which sees the same (`gc/look.rs`). A process that was given up wrongly and wakes between finds its packs condemned or gone, and removes nothing.
//!
//! Always: of the manifests that are there at least one is whole; of several, those that come earlier in the order of their names go for a later one, never the other way round. Never: changes a record.

use std::collections::HashSet;

use cryostore_format::manifest::Manifest;
use cryostore_format::snapshot::SnapshotRecord;
use cryostore_format::{Digest, ManifestId, PackId, limits as format_limits};

use super::{Repository, Terms};
use crate::error::{Error, Kind, Result};
use crate::pack::object_name;
use crate::pack::reading::read_tables;

/// Directory of manifests that took the place of others.
pub(crate) const REWRITTEN: &str = "rewritten";

/// What a manifest is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestName {
    /// What the record names.
    pub first: ManifestId,
    /// Of one that took its place: the how manyth it is, and its own id.
    pub rewrite: Option<(u32, ManifestId)>,
}

impl ManifestName {
    /// The one that a record names.
    #[must_use]
    pub const fn first(first: ManifestId) -> Self {
        Self {
            first,
            rewrite: None,
        }
    }

    /// Name of its object.
    #[must_use]
    pub fn object_name(self) -> String {
        match self.rewrite {
            None => manifest_name(self.first),
            Some((number, id)) => format!("{REWRITTEN}/{}/{number:08x}-{id}", self.first),
        }
    }

    /// The manifest with this object name; none if it is none of ours.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        if let Some(id) = name.strip_prefix("manifests/") {
            return Some(Self::first(id.parse().ok()?));
        }
        let (first, rewrite) = name
            .strip_prefix(REWRITTEN)?
            .strip_prefix('/')?
            .split_once('/')?;
        let (number, id) = rewrite
            .split_once('-')
            .filter(|(number, _)| number.len() == 8)?;
        let name = Self {
            first: first.parse().ok()?,
            rewrite: Some((u32::from_str_radix(number, 16).ok()?, id.parse().ok()?)),
        };
        Some(name)
    }

    /// The id that tells which session put it.
    #[must_use]
    pub fn id(&self) -> ManifestId {
        self.rewrite.map_or(self.first, |(_, id)| id)
    }
}

/// Name of the object of a manifest that a record names.
#[must_use]
pub fn manifest_name(id: ManifestId) -> String {
    format!("manifests/{id}")
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
    ) -> Result<(ManifestName, Manifest)> {
        let (name, mut manifest) = self.first_manifest(snapshot)?;
        read_tables(self.vault(), &mut manifest, self.key())?;
        Ok((name, manifest))
    }

    /// The same as [`Self::manifest`], and whether it is the only one that the snapshot has. Then all of its packs are there as long as the snapshot is (`format-spec/spec/protocol.md`, W4); of several, the one that
    /// is read can be an old one that a late put brought back. Where the only one is what the record names, a copy of it will do.
    pub(crate) fn sole_manifest(&self, snapshot: &SnapshotRecord) -> Result<(Manifest, bool)> {
        let rewritten = self.rewritten(snapshot.manifest.id)?;
        let copy = rewritten.is_empty().then(|| self.kept_base(snapshot));
        if let Some(mut manifest) = copy.flatten() {
            read_tables(self.vault(), &mut manifest, self.key())?;
            return Ok((manifest, true));
        }
        let (name, manifest) = self.named_manifest(snapshot)?;
        let sole = match name.rewrite {
            // Nothing had taken its place by then, so that none of its packs was freed.
            None => rewritten.is_empty(),
            Some(_) => matches!(self.rewritten(name.first)?[..], [(one, _)] if one == name),
        };
        Ok((manifest, sole))
    }

    /// Name and length of the object that holds a snapshot's manifest.
    pub fn manifest_object(&self, snapshot: &SnapshotRecord) -> Result<(String, u64)> {
        let first = manifest_name(snapshot.manifest.id);
        if let Some(len) = self.store().len(&first)? {
            return Ok((first, len));
        }
        let rewritten = self.rewritten(snapshot.manifest.id)?;
        Ok(match rewritten.last() {
            Some((name, len)) => (name.object_name(), *len),
            None => (first, 0),
        })
    }

    /// Reads a snapshot's manifest without tables: enough to know which packs it needs.
    pub fn manifest_alone(&self, snapshot: &SnapshotRecord) -> Result<Manifest> {
        self.first_manifest(snapshot).map(|(_, manifest)| manifest)
    }

    /// Those that took a manifest's place, and their lengths, in the order of their names.
    fn rewritten(&self, first: ManifestId) -> Result<Vec<(ManifestName, u64)>> {
        let listed = self.store().list(&format!("{REWRITTEN}/{first}"))?;
        let named =
            |object: crate::store::Listed| Some((ManifestName::of(&object.name)?, object.len));
        let mut found: Vec<_> = listed.into_iter().filter_map(named).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The manifest of a snapshot that readers take, and its name.
    pub(crate) fn first_manifest(
        &self,
        snapshot: &SnapshotRecord,
    ) -> Result<(ManifestName, Manifest)> {
        let first = ManifestName::first(snapshot.manifest.id);
        match self.manifest_at(snapshot, first) {
            Err(e) if e.kind() == Kind::NotFound => {}
            found => return found.map(|manifest| (first, manifest)),
        }
        let rewritten = self.rewritten(first.first)?;
        let there: Vec<_> = rewritten.into_iter().map(|(name, _)| name).collect();
        let found = match there[..] {
            [one] => Some((one, self.manifest_at(snapshot, one)?)),
            _ => self.last_whole(snapshot, &there, |pack| {
                Ok(self.store().len(&object_name(pack))?.is_some())
            })?,
        };
        found.ok_or_else(|| {
            let text = format!(
                "{} is missing in {}",
                first.object_name(),
                self.store().name()
            );
            unreadable(snapshot, Error::new(Kind::Corrupt, text))
        })
    }

    /// Reads one of a snapshot's manifests. The first is what the record names; a rewritten one must be of the same archive.
    pub(crate) fn manifest_at(
        &self,
        snapshot: &SnapshotRecord,
        at: ManifestName,
    ) -> Result<Manifest> {
        let name = at.object_name();
        let bytes = self.read_object(&name, format_limits::MANIFEST_PLAIN_MAX + 4096)?;
        let other = || {
            let detail = format!("{name} is not what the snapshot record names");
            unreadable(snapshot, Error::new(Kind::Corrupt, detail))
        };
        let named = &snapshot.manifest;
        if at.rewrite.is_none() && Digest::of(&bytes) != named.digest {
            return Err(other());
        }
        let manifest = Manifest::decode(&bytes).map_err(|e| Error::stored(&name, e))?;
        let archive = &snapshot.archive;
        if at.rewrite.is_some()
            && (manifest.layout.len, manifest.layout.digest) != (archive.bytes, archive.digest)
        {
            return Err(other());
        }
        Ok(manifest)
    }

    /// The name of the last manifest that a snapshot has, whatever can be read of it.
    pub(crate) fn last_manifest_name(&self, snapshot: &SnapshotRecord) -> Result<ManifestName> {
        let first = snapshot.manifest.id;
        let last = self.rewritten(first)?.pop();
        Ok(last.map_or(ManifestName::first(first), |(name, _)| name))
    }

    /// Puts a manifest that is to take the place of `old`, with a name that never comes again.
    pub(crate) fn put_rewritten(
        &self,
        terms: &Terms,
        old: ManifestName,
        bytes: Vec<u8>,
    ) -> Result<()> {
        let number = old.rewrite.map_or(0, |(number, _)| number);
        let number = number.checked_add(1).ok_or_else(|| {
            Error::new(Kind::Unsupported, "the snapshot was rewritten too often")
                .hint("import the archive again to store it anew")
        })?;
        let id = ManifestId::from_bytes(terms.new_id(self.env()));
        let name = ManifestName {
            rewrite: Some((number, id)),
            ..old
        };
        let name = name.object_name();
        self.store().create(&name, self.seal_object(&name, bytes)?)
    }

    /// Of the manifests called `there`, in the order of their names, the last one that is whole; the others are not needed.
    pub(crate) fn last_whole(
        &self,
        snapshot: &SnapshotRecord,
        there: &[ManifestName],
        mut has: impl FnMut(PackId) -> Result<bool>,
    ) -> Result<Option<(ManifestName, Manifest)>> {
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

    /// Removes the manifests of a snapshot in whose place a later one is whole; the name of the one that stays comes back.
    ///
    /// The order matters (`format-spec/spec/protocol.md`): the later one is seen, then the collections are read, and none of them condemns a pack of it, then all of its packs are
    /// there. A collection that condemns one of them later finds the manifest before it removes anything.
    pub(crate) fn settle_manifest(
        &self,
        snapshot: &SnapshotRecord,
    ) -> Result<Option<ManifestName>> {
        let first = ManifestName::first(snapshot.manifest.id);
        let mut there = Vec::new();
        if self.store().len(&first.object_name())?.is_some() {
            there.push(first);
        }
        there.extend(
            self.rewritten(first.first)?
                .into_iter()
                .map(|(name, _)| name),
        );
        if let [] | [_] = there[..] {
            return Ok(there.first().copied());
        }
        let mut condemned = HashSet::new();
        for (name, record) in self.collections()? {
            condemned.extend(record.map_err(|e| e.at(name))?.condemned);
        }
        let stays = |pack| {
            Ok(!condemned.contains(&pack) && self.store().len(&object_name(pack))?.is_some())
        };
        let Some((needed, _)) = self.last_whole(snapshot, &there, stays)? else {
            return Ok(None);
        };
        for name in there.iter().take_while(|name| **name != needed) {
            self.store().delete(&name.object_name())?;
        }
        Ok(Some(needed))
    }
}

fn unreadable(snapshot: &SnapshotRecord, error: Error) -> Error {
    error
        .at(format!("snapshot {}", snapshot.id))
        .hint("this snapshot cannot be read; `cryostore check` shows whether others can")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_manifests_are_taken_for_manifests_and_later_ones_are_greater() {
        let first = ManifestName::first(ManifestId::from_bytes([9; 16]));
        let later = |number, id| ManifestName {
            rewrite: Some((number, ManifestId::from_bytes([id; 16]))),
            ..first
        };
        let names = [first, later(1, 8), later(2, 1), later(16, 0)];
        for name in names {
            assert_eq!(ManifestName::of(&name.object_name()), Some(name));
        }
        assert!(names.is_sorted());
        let objects = names.map(ManifestName::object_name);
        assert!(objects.is_sorted());
        for name in [
            "manifests/x",
            "rewritten/x/y",
            "manifests",
            "rewritten/00000001-00",
        ] {
            assert_eq!(ManifestName::of(name), None, "{name}");
        }
    }
}
