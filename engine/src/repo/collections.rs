//! Owns the records of collections: what they condemn, and which packs imports leave behind.
//!
//! Always: a record is put once, under a random name, so that one that this node has read is not read again while it is listed. Never: changed.

use cryostore_format::collection::CollectionRecord;
use cryostore_format::{CollectionId, limits as format_limits};

use super::Repository;
use crate::env::{random_id, timestamp};
use crate::error::{Error, Kind, Result};
use crate::store::Listed;

const PREFIX: &str = "gc";

/// The record with this name; none if it is no name of one.
pub(crate) fn collection_of(name: &str) -> Option<CollectionId> {
    name.strip_prefix(PREFIX)?.strip_prefix('/')?.parse().ok()
}

impl Repository {
    /// The records that are there now, as the store lists them, each with its name, or why it cannot be read.
    pub fn collections(&self) -> Result<Vec<(String, Result<CollectionRecord>)>> {
        let listed = self.store().list(PREFIX)?;
        self.forget_unlisted(PREFIX, &listed);
        let read = |object: Listed| {
            let record = self.read_listed(&object, format_limits::RECORD_MAX, |bytes| {
                CollectionRecord::decode(bytes).map_err(|e| Error::stored(&object.name, e))
            });
            (object.name, record)
        };
        let ours = |object: &Listed| collection_of(&object.name).is_some();
        let found = listed.into_iter().filter(ours).map(read);
        // Removed since it was listed.
        let gone = |(_, record): &(String, Result<CollectionRecord>)| matches!(record, Err(e) if e.kind() == Kind::NotFound);
        Ok(found.filter(|found| !gone(found)).collect())
    }

    /// Puts a record of what `fill` puts in.
    pub(crate) fn put_collection(
        &self,
        fill: impl FnOnce(&mut CollectionRecord),
    ) -> Result<CollectionId> {
        let id = CollectionId::from_bytes(random_id(self.env()));
        let mut record = CollectionRecord {
            id,
            created: timestamp(self.env()),
            condemned: Vec::new(),
            given_up: Vec::new(),
            done: Vec::new(),
            leave: Vec::new(),
        };
        fill(&mut record);
        let bytes = record
            .encode()
            .map_err(|e| Error::new(Kind::Internal, "a collection record").because(e))?;
        let name = collection_name(id);
        self.store()
            .create(&name, self.seal_object(&name, bytes)?)?;
        Ok(id)
    }
}

/// Name of a record's object.
pub(crate) fn collection_name(id: CollectionId) -> String {
    format!("{PREFIX}/{id}")
}
