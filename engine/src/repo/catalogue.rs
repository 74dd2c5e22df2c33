//! Owns catalogues (`format-spec/spec/catalogue.md`): reading them beside a list of records, and putting one.
//!
//! Always: what a catalogue says of an object counts only while the store lists that object with the tag and the length that the catalogue remembers, and is checked as if it had just been read. So one
//! that is old, or that came here with a copy of a bucket, costs requests and nothing else. Never: needed for anything; used of a directory, where a list costs as much as reading; used by `check`,
//! which is to see the objects themselves.

use std::collections::HashMap;

use cryostore_format::catalogue::{Catalogue, Remembered};
use cryostore_format::session::Place;
use cryostore_format::snapshot::Entry;
use cryostore_format::{CatalogueId, limits as format_limits};

use super::Repository;
use super::snapshots::{of_place, place_of};
use crate::env::random_id;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::store::Listed;

const PREFIX: &str = "catalogue";

/// A catalogue, as it agrees with a list.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Its name.
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) bytes: u64,
    /// Entries that it has.
    pub(crate) held: usize,
    /// Those of objects that are what they were, which can be read.
    pub(crate) entries: Vec<Remembered>,
    /// Why it cannot be read.
    pub(crate) unreadable: Option<Error>,
}

/// All catalogues, as they agree with a list.
#[derive(Debug, Default)]
pub(crate) struct Catalogues {
    pub(crate) stored: Vec<Stored>,
    /// Objects that are none of ours.
    pub(crate) foreign: Vec<String>,
    by_place: HashMap<Place, (usize, usize)>,
}

impl Catalogues {
    /// True if one of them has what stands at a place.
    pub(crate) fn has(&self, place: Place) -> bool {
        self.by_place.contains_key(&place)
    }

    /// What stands at a place, if one of them has it.
    pub(crate) fn entry(&self, place: Place) -> Option<Entry> {
        let (catalogue, entry) = self.by_place.get(&place)?;
        let remembered = self.stored.get(*catalogue)?.entries.get(*entry)?;
        remembered.entry().ok()
    }
}

impl Repository {
    /// True if catalogues are of use here.
    pub(crate) fn has_catalogues(&self) -> bool {
        self.copies_too && self.store().local_path().is_none()
    }

    /// The catalogues, of which counts what agrees with this list of snapshots' objects. An error only if they cannot be listed.
    pub(crate) fn catalogues(&self, listed: &[Listed]) -> Result<Catalogues> {
        let mut out = Catalogues::default();
        if !self.has_catalogues() {
            return Ok(out);
        }
        let now: HashMap<Place, &Listed> = listed
            .iter()
            .filter_map(|object| Some((place_of(&object.name)?, object)))
            .collect();
        let mut objects = self.store().list(PREFIX)?;
        self.forget_unlisted(PREFIX, &objects);
        objects.sort_by_key(|object| std::cmp::Reverse(object.len));
        let mut bytes = 0;
        for object in objects {
            if catalogue_of(&object.name).is_none() {
                out.foreign.push(object.name);
            } else if out.stored.len() < limits::CATALOGUES_READ {
                let mut stored = self.stored(object, &now);
                // Of what another has already nothing is kept: else a few small objects could take any memory.
                stored.entries.retain(|entry| {
                    let is_new = !out.by_place.contains_key(&entry.place);
                    let fits = bytes + entry.content.len() <= limits::CATALOGUE_BYTES_READ;
                    bytes += if is_new && fits {
                        entry.content.len()
                    } else {
                        0
                    };
                    is_new && fits
                });
                let number = out.stored.len();
                for (n, entry) in stored.entries.iter().enumerate() {
                    out.by_place.insert(entry.place, (number, n));
                }
                out.stored.push(stored);
            }
        }
        Ok(out)
    }

    fn stored(&self, object: Listed, now: &HashMap<Place, &Listed>) -> Stored {
        let read = self.read_listed(&object, format_limits::CATALOGUE_STORED_MAX, |bytes| {
            Catalogue::decode(bytes).map_err(|e| Error::stored(&object.name, e))
        });
        let (entries, unreadable) = match read {
            Ok(catalogue) => (catalogue.entries, None),
            Err(e) => (Vec::new(), Some(e)),
        };
        let held = entries.len();
        let is_now = |entry: &Remembered| {
            now.get(&entry.place).is_some_and(|object| {
                object.len == entry.stored_len && object.tag.as_deref() == Some(&entry.tag)
            })
        };
        // One that says nothing is none: else it would stand in the way of what the record says, in the next catalogue, too.
        let is_read = |entry: &Remembered| entry.entry().is_ok();
        Stored {
            held,
            entries: entries
                .into_iter()
                .filter(|entry| is_now(entry) && is_read(entry))
                .collect(),
            unreadable,
            name: object.name,
            bytes: object.len,
        }
    }

    /// The catalogues for somebody who needs so many of these objects and has no copy of them; few are read themselves, and where catalogues cannot be read all are.
    pub(super) fn catalogues_for(&self, needed: usize, listed: &[Listed]) -> Catalogues {
        if needed <= limits::CATALOGUES_ASKED {
            return Catalogues::default();
        }
        let found = self.catalogues(listed).unwrap_or_else(|e| {
            tracing::debug!("the records themselves are read: {e}");
            Catalogues::default()
        });
        for stored in &found.stored {
            if let Some(e) = stored
                .unreadable
                .as_ref()
                .filter(|e| e.kind() == Kind::Corrupt)
            {
                tracing::warn!(
                    "{} is damaged, and read past: `cryostore gc` removes it ({e})",
                    stored.name
                );
            }
        }
        found
    }

    /// Puts a catalogue of these.
    pub(crate) fn put_catalogue(&self, mut entries: Vec<Remembered>) -> Result<()> {
        entries.sort_by_key(|entry| entry.place);
        entries.dedup_by_key(|entry| entry.place);
        let bytes = Catalogue { entries }
            .encode()
            .map_err(|e| Error::new(Kind::Internal, "a catalogue").because(e))?;
        let name = format!(
            "{PREFIX}/{}",
            CatalogueId::from_bytes(random_id(self.env()))
        );
        let bytes = self.seal_object(&name, bytes)?;
        let tag = self.store().create_tagged(&name, bytes.clone())?;
        self.keep(&name, tag.as_deref(), &bytes);
        Ok(())
    }

    /// What stands at a place that was listed, as a catalogue remembers it; without a tag none can.
    pub(crate) fn remember(
        &self,
        object: &Listed,
        place: Place,
    ) -> Result<(Entry, Option<Remembered>)> {
        let read = |bytes: &[u8]| {
            let stored = |e| Error::stored(&object.name, e);
            let (kind, content) = Entry::content(bytes).map_err(stored)?;
            let entry = Entry::of_content(kind, &content).map_err(stored)?;
            let entry = of_place(place, entry)?;
            let tag = object.tag.clone();
            let tag = tag.filter(|tag| tag.len() as u64 <= format_limits::TAG_MAX);
            let remembered = tag.map(|tag| Remembered {
                place,
                kind,
                stored_len: object.len,
                tag,
                content,
            });
            // One that would not count is not kept.
            let remembered = remembered.filter(|remembered| remembered.entry().is_ok());
            Ok((entry, remembered))
        };
        self.read_listed(object, format_limits::RECORD_MAX, read)
    }
}

/// The catalogue with this name; none if it is no name of one.
fn catalogue_of(name: &str) -> Option<CatalogueId> {
    name.strip_prefix(PREFIX)?.strip_prefix('/')?.parse().ok()
}
