//! Owns the records of damaged packs (`format-spec/spec/damaged.md`).
//!
//! Always: the name alone keeps imports from a pack, so that a record that is damaged itself does, too. Never: keeps anybody from reading it.

use std::collections::HashSet;

use cryostore_format::PackId;
use cryostore_format::damaged::{DamageRecord, Extent};

use super::Repository;
use crate::env::timestamp;
use crate::error::{Error, Kind, Result};
use crate::store::Listed;

/// Beside the records of collections: a session learns of both with one list.
const PREFIX: &str = "gc/damaged";

/// Name of a pack's damage record.
pub(crate) fn damage_name(pack: PackId) -> String {
    format!("{PREFIX}/{pack}")
}

/// The pack whose damage record has this name; none if it is no name of one.
pub(crate) fn damage_of(name: &str) -> Option<PackId> {
    name.strip_prefix(PREFIX)?.strip_prefix('/')?.parse().ok()
}

/// The packs whose damage records are listed.
pub(super) fn packs_of(listed: &[Listed]) -> HashSet<PackId> {
    let names = listed.iter().map(|object| &object.name);
    names.filter_map(|name| damage_of(name)).collect()
}

impl Repository {
    /// Packs in which damage was found, as their records' names say.
    pub fn damaged_packs(&self) -> Result<HashSet<PackId>> {
        Ok(packs_of(&self.store().list(PREFIX)?))
    }

    /// Says what of a pack is damaged, instead of what was said before.
    pub(crate) fn put_damage(&self, pack: PackId, what: Extent) -> Result<()> {
        let record = DamageRecord {
            pack,
            what,
            created: timestamp(self.env()),
            owner: self.env().owner(),
        };
        let bytes = record
            .encode()
            .map_err(|e| Error::new(Kind::Internal, "a damage record").because(e))?;
        let name = damage_name(pack);
        self.store().replace(&name, self.seal_object(&name, bytes)?)
    }
}
