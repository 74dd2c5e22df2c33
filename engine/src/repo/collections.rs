//! Owns the records of collections: which packs imports leave behind.
//!
//! Always: a hint; a record that cannot be read counts as none. Never: what nothing else would be lost by.

use std::collections::HashSet;

use cryostore_format::collection::CollectionRecord;
use cryostore_format::{CollectionId, PackId, limits as format_limits};

use super::Repository;
use crate::env::{random_id, timestamp};
use crate::error::{Error, Kind, Result};

const PREFIX: &str = "gc";

/// True for names of such records.
pub(crate) fn is_collection(name: &str) -> bool {
    let id = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_prefix('/'));
    id.is_some_and(|id| id.parse::<CollectionId>().is_ok())
}

impl Repository {
    /// The records that are there, each with its name, or why it cannot be read.
    pub fn collections(&self) -> Result<Vec<(String, Result<CollectionRecord>)>> {
        let listed = self.store().list(PREFIX)?.into_iter();
        let names = listed.map(|object| object.name);
        let read = |name: String| {
            let bytes = self.read_object(&name, format_limits::RECORD_MAX);
            let record = bytes.and_then(|bytes| {
                CollectionRecord::decode(&bytes).map_err(|e| Error::stored(&name, e))
            });
            (name, record)
        };
        let found = names.filter(|name| is_collection(name)).map(read);
        // Removed since it was listed.
        let gone = |(_, record): &(String, Result<CollectionRecord>)| matches!(record, Err(e) if e.kind() == Kind::NotFound);
        Ok(found.filter(|found| !gone(found)).collect())
    }

    /// Packs that no import is to refer to again.
    pub(crate) fn packs_to_leave(&self) -> Result<HashSet<PackId>> {
        let records = self.collections()?.into_iter();
        let leave = records.filter_map(|(_, record)| Some(record.ok()?.leave));
        Ok(leave.flatten().collect())
    }

    /// Puts a record.
    pub(crate) fn put_collection(&self, leave: Vec<PackId>) -> Result<()> {
        let id = CollectionId::from_bytes(random_id(self.env()));
        let record = CollectionRecord {
            id,
            created: timestamp(self.env()),
            leave,
        };
        let bytes = record
            .encode()
            .map_err(|e| Error::new(Kind::Internal, "a collection record").because(e))?;
        let name = format!("{PREFIX}/{id}");
        self.store().create(&name, self.seal_object(&name, bytes)?)
    }
}
