#![doc = include_str!("../spec/repository.md")]

use serde::{Deserialize, Serialize};

use crate::error::{FormatError, Result};
use crate::ids::{Digest, IdKey, RepositoryId};
use crate::limits;

/// Name of the object.
pub const OBJECT_NAME: &str = "repository.json";
/// What `format` holds.
pub const FORMAT: &str = "cryostore";
/// Version of the whole repository format that this program writes, and the highest that it reads.
pub const VERSION: u32 = 1;
/// The cutter of this version: FastCDC 2020 with normalisation level 1, gear table without a seed.
pub const CUTTER_FASTCDC_2020_N1: &str = "fastcdc-2020-n1";

/// Who must know a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Whoever reads manifests and packs.
    Read,
    /// Whoever adds to the repository.
    Write,
    /// Whoever deletes from it.
    Collect,
}

impl Role {
    const fn what(self) -> &'static str {
        match self {
            Self::Read => "reading this repository",
            Self::Write => "writing to this repository",
            Self::Collect => "collecting garbage in this repository",
        }
    }
}

/// Features that a program must know before it does something with the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// To read.
    #[serde(default)]
    pub read: Vec<String>,
    /// To write.
    #[serde(default)]
    pub write: Vec<String>,
    /// To collect garbage.
    #[serde(default)]
    pub collect: Vec<String>,
}

/// The store cannot create objects only if they are absent, or does so only when nobody races: one process at a time writes, and looks before it puts.
pub const SINGLE_WRITER: &str = "single-writer";
/// The feature of repositories whose objects are sealed.
pub const ENCRYPTION: &str = "encryption";
/// Names of the features that this program knows.
pub const KNOWN_FEATURES: &[&str] = &[ENCRYPTION, SINGLE_WRITER];
/// The cipher of this version, see `spec/encryption.md`.
pub const CIPHER_AES_256_GCM: &str = "aes-256-gcm-blake3";

/// How objects are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// Which cipher, see [`CIPHER_AES_256_GCM`].
    pub cipher: String,
}

/// How bytes that are not pages are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunking {
    /// Which cutter, see [`CUTTER_FASTCDC_2020_N1`].
    pub cutter: String,
    /// Smallest chunk in bytes, but for the last of a stream.
    pub min: u32,
    /// Expected chunk in bytes.
    pub average: u32,
    /// Largest chunk in bytes.
    pub max: u32,
}

impl Default for Chunking {
    fn default() -> Self {
        Self {
            cutter: CUTTER_FASTCDC_2020_N1.to_owned(),
            min: 4 << 10,
            average: 16 << 10,
            max: 64 << 10,
        }
    }
}

/// `repository.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryRecord {
    /// Always [`FORMAT`].
    pub format: String,
    /// At most [`VERSION`].
    pub version: u32,
    /// Random name of the repository.
    pub id: RepositoryId,
    /// When it was made, RFC 3339, UTC.
    pub created: String,
    /// What a program must know.
    #[serde(default)]
    pub features: Features,
    /// How bytes are cut.
    pub chunking: Chunking,
    /// Key of the ids, 64 hexadecimal digits. That of an encrypted repository is in its key ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_key: Option<String>,
    /// How objects are sealed; none: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// What imports do if they are not told otherwise.
    #[serde(default, skip_serializing_if = "Defaults::are_usual")]
    pub defaults: Defaults,
    /// What the store was seen to do when the repository was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probed: Option<Probed>,
}

/// What a store was seen to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probed {
    /// How it creates objects that must not be there yet.
    pub create: Create,
    /// It replaces an object on condition of its version.
    pub update: bool,
    /// It gives parts of objects.
    pub ranges: bool,
    /// Of a directory: it waits for the disk when it is told to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsync: Option<bool>,
    /// Of a directory: it has hard links.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_links: Option<bool>,
}

/// How a store creates objects that must not be there yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Create {
    /// One of any number of writers wins.
    Atomic,
    /// Only if no two meet.
    Racy,
    /// The condition is passed over.
    Ignored,
    /// Not at all, or in a way that this version does not know.
    #[default]
    #[serde(other)]
    None,
}

/// What imports into a repository do if they are not told otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Defaults {
    /// Changed pages are stored as what differs from the base.
    pub deltas: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { deltas: true }
    }
}

impl Defaults {
    fn are_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl RepositoryRecord {
    /// The record of a new repository that is encrypted.
    #[must_use]
    pub fn encrypted(id: RepositoryId, created: String) -> Self {
        Self {
            features: Features {
                read: vec![ENCRYPTION.to_owned()],
                ..Features::default()
            },
            id_key: None,
            encryption: Some(Encryption {
                cipher: CIPHER_AES_256_GCM.to_owned(),
            }),
            ..Self::new(id, &IdKey::from_bytes([0; 32]), created)
        }
    }

    /// The record of a new repository whose objects are in clear.
    #[must_use]
    pub fn new(id: RepositoryId, id_key: &IdKey, created: String) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            id,
            created,
            features: Features::default(),
            chunking: Chunking::default(),
            id_key: Some(id_key.to_hex()),
            encryption: None,
            defaults: Defaults::default(),
            probed: None,
        }
    }

    /// True if one process at a time writes: see [`SINGLE_WRITER`].
    #[must_use]
    pub fn has_single_writer(&self) -> bool {
        self.features.write.iter().any(|name| name == SINGLE_WRITER)
    }

    /// The object's bytes: JSON for people, with a line end.
    pub fn encode(&self) -> Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Sealed<'a> {
            #[serde(flatten)]
            record: &'a RepositoryRecord,
            checksum: Digest,
        }
        let sealed = Sealed {
            record: self,
            checksum: self.checksum()?,
        };
        let mut text = serde_json::to_vec_pretty(&sealed)
            .map_err(|e| FormatError::invalid("repository.json", e.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    /// What its `checksum` is: BLAKE3 of the keys of version 1 as a JSON array: a flipped bit in the key of the ids would otherwise go unnoticed.
    pub fn checksum(&self) -> Result<Digest> {
        let Self {
            format,
            version,
            id,
            created,
            features,
            chunking,
            id_key,
            encryption,
            defaults: _,
            probed: _,
        } = self;
        let bytes = match encryption {
            None => serde_json::to_vec(&(format, version, id, created, features, chunking, id_key)),
            Some(sealed) => serde_json::to_vec(&(
                format, version, id, created, features, chunking, id_key, sealed,
            )),
        };
        bytes
            .map(|bytes| Digest::of(&bytes))
            .map_err(|e| FormatError::invalid("repository.json", e.to_string()))
    }

    /// Reads the object. Version and format are looked at before the rest is.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        #[derive(Deserialize)]
        struct Tail {
            checksum: Option<Digest>,
        }
        const WHAT: &str = "repository.json";
        if bytes.len() as u64 > limits::RECORD_MAX {
            return Err(FormatError::TooLarge {
                what: WHAT,
                limit: limits::RECORD_MAX,
                got: bytes.len() as u64,
            });
        }
        let bad = |e: serde_json::Error| FormatError::invalid(WHAT, e.to_string());
        let head: Head = serde_json::from_slice(bytes).map_err(bad)?;
        if head.format != FORMAT {
            return Err(FormatError::invalid(
                WHAT,
                format!("its format is `{}`", head.format.escape_default()),
            ));
        }
        if head.version == 0 || head.version > VERSION {
            return Err(FormatError::UnsupportedVersion {
                what: WHAT,
                got: head.version,
                known: VERSION,
            });
        }
        let record: Self = serde_json::from_slice(bytes).map_err(bad)?;
        let tail: Tail = serde_json::from_slice(bytes).map_err(bad)?;
        if tail
            .checksum
            .is_some_and(|checksum| record.checksum() != Ok(checksum))
        {
            return Err(FormatError::Digest { what: WHAT });
        }
        record.check_chunking()?;
        record.check_encryption()?;
        Ok(record)
    }

    fn check_encryption(&self) -> Result<()> {
        let listed = self.features.read.iter().any(|name| name == ENCRYPTION);
        match &self.encryption {
            None if listed => Err(FormatError::invalid(
                "repository.json",
                "it has the feature `encryption` and does not say which",
            )),
            None => self.id_key().map(drop),
            Some(Encryption { cipher }) if cipher != CIPHER_AES_256_GCM => {
                Err(FormatError::UnknownFeature {
                    what: "repository.json",
                    feature: cipher.clone(),
                })
            }
            Some(_) if !listed || self.id_key.is_some() => Err(FormatError::invalid(
                "repository.json",
                "what it says of its encryption contradicts itself",
            )),
            Some(_) => Ok(()),
        }
    }

    fn check_chunking(&self) -> Result<()> {
        const WHAT: &str = "chunking";
        let Chunking {
            cutter,
            min,
            average,
            max,
        } = &self.chunking;
        if cutter != CUTTER_FASTCDC_2020_N1 {
            return Err(FormatError::UnknownFeature {
                what: WHAT,
                feature: cutter.clone(),
            });
        }
        let sizes_fit = (64..=1 << 20).contains(min)
            && (256..=4 << 20).contains(average)
            && min <= average
            && average <= max
            && (1024..=limits::FRAME_PLAIN_MAX / 2).contains(max);
        if sizes_fit {
            Ok(())
        } else {
            Err(FormatError::invalid(
                WHAT,
                format!("sizes {min}, {average}, {max}"),
            ))
        }
    }

    /// The key of the ids, of a repository that is not encrypted.
    pub fn id_key(&self) -> Result<IdKey> {
        match &self.id_key {
            Some(key) => IdKey::from_hex(key),
            None => Err(FormatError::invalid(
                "repository.json",
                "it has no `id_key`",
            )),
        }
    }

    /// Names the first feature that `role` needs and this program does not know.
    pub fn allows(&self, role: Role) -> Result<()> {
        let mut lists = vec![&self.features.read];
        match role {
            Role::Read => {}
            Role::Write => lists.push(&self.features.write),
            Role::Collect => lists.push(&self.features.collect),
        }
        match lists
            .into_iter()
            .flatten()
            .find(|name| !KNOWN_FEATURES.contains(&name.as_str()))
        {
            None => Ok(()),
            Some(name) => Err(FormatError::UnknownFeature {
                what: role.what(),
                feature: name.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RepositoryRecord {
        RepositoryRecord::new(
            RepositoryId::from_bytes([1; 16]),
            &IdKey::from_bytes([2; 32]),
            "2026-11-20T00:00:00Z".to_owned(),
        )
    }

    #[test]
    fn a_record_reads_back() {
        assert_eq!(
            RepositoryRecord::decode(&record().encode().unwrap()),
            Ok(record())
        );
    }

    #[test]
    fn an_unknown_feature_stops_only_who_needs_it_and_is_named() {
        let mut record = record();
        record.features.collect.push("moves".to_owned());
        let record = RepositoryRecord::decode(&record.encode().unwrap()).unwrap();
        assert!(record.allows(Role::Read).is_ok());
        assert!(record.allows(Role::Write).is_ok());
        let err = record.allows(Role::Collect).unwrap_err();
        assert!(err.to_string().contains("`moves`"), "{err}");
    }

    #[test]
    fn a_reader_feature_stops_everybody() {
        let mut record = record();
        record.features.read.push("delta".to_owned());
        for role in [Role::Read, Role::Write, Role::Collect] {
            assert!(record.allows(role).is_err());
        }
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let text = br#"{"format":"cryostore","version":2,"everything":"else"}"#;
        assert!(RepositoryRecord::decode(text).unwrap_err().is_unsupported());
        let text = br#"{"format":"restic","version":1}"#;
        assert!(!RepositoryRecord::decode(text).unwrap_err().is_unsupported());
    }

    #[test]
    fn what_was_probed_is_told_and_changes_no_checksum_and_a_later_word_for_it_is_no_error() {
        let mut probed = record();
        probed.probed = Some(Probed {
            create: Create::Racy,
            fsync: Some(true),
            ..Probed::default()
        });
        let text = String::from_utf8(probed.encode().unwrap()).unwrap();
        assert!(text.contains("\"create\": \"racy\""), "{text}");
        assert_eq!(
            RepositoryRecord::decode(text.as_bytes()),
            Ok(probed.clone())
        );
        let later = text
            .replace("racy", "by-lottery")
            .replace("\"update\"", "\"upsert\"");
        let read = RepositoryRecord::decode(later.as_bytes()).unwrap();
        assert_eq!(read.probed.unwrap().create, Create::None);
    }

    #[test]
    fn another_cutter_is_refused_by_name() {
        let mut record = record();
        record.chunking.cutter = "seqcdc".to_owned();
        let err = RepositoryRecord::decode(&record.encode().unwrap()).unwrap_err();
        assert!(err.to_string().contains("seqcdc"), "{err}");
    }
}
