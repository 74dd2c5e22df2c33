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
        Ok(self.collections_in(&self.list_collections()?))
    }

    /// Those of a list.
    pub(super) fn collections_in(
        &self,
        listed: &[Listed],
    ) -> Vec<(String, Result<CollectionRecord>)> {
        let read = |object: &Listed| Some((object.name.clone(), self.collection(object)?));
        listed.iter().filter_map(read).collect()
    }

    /// What is listed where records are, those of damaged packs among them, ours or not.
    pub(crate) fn list_collections(&self) -> Result<Vec<Listed>> {
        let listed = self.store().list(PREFIX)?;
        self.forget_unlisted(PREFIX, &listed);
        Ok(listed)
    }

    /// The record that was listed, or why it cannot be read; none if it is none of ours, or was removed since.
    pub(crate) fn collection(&self, object: &Listed) -> Option<Result<CollectionRecord>> {
        collection_of(&object.name)?;
        let record = self.read_listed(object, format_limits::RECORD_MAX, |bytes| {
            CollectionRecord::decode(bytes).map_err(|e| Error::stored(&object.name, e))
        });
        let is_gone = matches!(&record, Err(e) if e.kind() == Kind::NotFound);
        (!is_gone).then_some(record)
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
        let sealed = self.seal_object(&name, bytes)?;
        self.with_reserve(|| self.store().create(&name, sealed.clone()))?;
        Ok(id)
    }
}

/// Name of a record's object.
pub(crate) fn collection_name(id: CollectionId) -> String {
    format!("{PREFIX}/{id}")
}
