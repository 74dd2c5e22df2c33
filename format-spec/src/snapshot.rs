#![doc = include_str!("../spec/snapshot.md")]

use serde::{Deserialize, Serialize};

use crate::envelope::{self, Codec, ObjectType};
use crate::error::{FormatError, Result};
use crate::ids::{Digest, Lineage, ManifestId, RepositoryId, SessionId, SnapshotId};
use crate::limits;

/// Where the archive came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArchiveKind {
    /// A tar, kept byte for byte.
    Tar,
    /// A directory, kept as the tar that `spec/snapshot.md` describes.
    Directory,
}

/// How the archive was compressed when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// gzip, any number of members.
    Gzip,
    /// zstd, any number of frames.
    Zstd,
}

/// The compressed file around the archive; its bytes are not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outer {
    /// How it was compressed.
    pub compression: Compression,
    /// Bytes of the file.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub digest: Digest,
}

/// What was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// Where it came from.
    pub kind: ArchiveKind,
    /// Bytes of the archive (of the inner tar, if it came compressed).
    pub bytes: u64,
    /// BLAKE3 of the archive; see [`crate::manifest::Layout::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The compressed file around it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Outer>,
}

/// The manifest, and the digest that binds it to the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRef {
    /// Its name.
    pub id: ManifestId,
    /// Bytes of the object.
    pub bytes: u64,
    /// BLAKE3 of the whole object.
    pub digest: Digest,
}

/// Which container it was. Empty strings: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Container.
    pub container: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Node on which it ran.
    pub node: String,
    /// The runtime's id of the container.
    pub container_id: String,
    /// The OCI image's name.
    pub image: String,
}

/// What made the checkpoint. Empty or absent: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Producer {
    /// `containerd`, `cri-o`, `podman`, `criu` (a directory of images, or an archive with nothing else).
    pub engine: String,
    /// The OCI runtime, such as `runc`.
    pub runtime: String,
    /// Version of CRIU, from `dump.log`.
    pub criu_version: String,
    /// CRIU plugins that a restore requires.
    pub criu_plugins: Vec<String>,
    /// `img_version` of `inventory.img`.
    pub img_version: Option<u32>,
    /// Machine, such as `x86_64`.
    pub arch: String,
    /// Bytes of a page.
    pub page_size: Option<u64>,
}

/// Chunks of one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    /// Pages of page images.
    pub pages: u64,
    /// Bytes of all chunks, pages among them.
    pub bytes: u64,
}

/// Every byte of the streams is in exactly one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classes {
    /// All zero: nothing is stored.
    pub zero: ClassCount,
    /// The same as in the base, at the same place.
    pub same: ClassCount,
    /// Already stored, found elsewhere.
    pub elsewhere: ClassCount,
    /// Stored by this snapshot, as they are.
    pub new: ClassCount,
    /// Stored by this snapshot, as what differs from the base.
    #[serde(default, skip_serializing_if = "ClassCount::is_none")]
    pub delta: ClassCount,
}

impl ClassCount {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What the import cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// The five classes.
    pub classes: Classes,
    /// Bytes of all objects that the import put.
    pub bytes_added: u64,
    /// Packs that it put.
    pub packs_added: u64,
    /// Milliseconds from start to commit.
    pub elapsed_ms: u64,
    /// Packs that the snapshot needs, of this import and of others; none in records from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packs_needed: Option<u64>,
}

/// Why the checkpoint was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// By hand.
    #[default]
    Manual,
    /// A schedule.
    Schedule,
    /// The container was idle.
    Idle,
    /// The pod was about to be preempted.
    Preemption,
}

/// Something that was kept beside the archive: a stream of the manifest with the role of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name, such as `pod.json`; the stream has the same.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

/// What a snapshot was copied from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Original {
    /// The snapshot's id where it was imported.
    pub id: SnapshotId,
    /// The repository in which that was.
    pub repository: RepositoryId,
}

/// The commit: a checkpoint is stored if and only if its record is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The snapshot's name, as in the object's name.
    pub id: SnapshotId,
    /// As in the object's name.
    pub lineage: Lineage,
    /// The session that wrote it: who sees the record after an unclear reply knows whether it is its own.
    pub session: SessionId,
    /// When it was committed, RFC 3339, UTC, by the writer's clock. For people.
    pub created: String,
    /// When the checkpoint was taken, RFC 3339, if the archive tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dumped: Option<String>,
    /// What rebuilds it.
    pub manifest: ManifestRef,
    /// What was stored.
    pub archive: Archive,
    /// Which container.
    #[serde(default)]
    pub identity: Identity,
    /// What made it.
    #[serde(default)]
    pub producer: Producer,
    /// What the import cost.
    #[serde(default)]
    pub cost: Cost,
    /// The snapshot that it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<SnapshotId>,
    /// The snapshot that holds the pages that this one says are in CRIU's parent directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<SnapshotId>,
    /// Words of the user.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Why it was taken.
    #[serde(default)]
    pub origin: Origin,
    /// Snapshots that were taken together have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What was kept beside the archive.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// What was strange about the archive.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Of a copy, what was imported first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Original>,
}

/// What ended a snapshot, or a session before it had one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The place.
    pub id: SnapshotId,
    /// The session that was revoked or given up; absent for a snapshot that was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// When, RFC 3339, UTC. For people.
    pub created: String,
    /// Why, for people.
    pub reason: String,
}

/// What is at a snapshot's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A commit.
    Snapshot(Box<SnapshotRecord>),
    /// No commit, now or ever.
    Tombstone(Tombstone),
}

pub(crate) fn encode_record(kind: ObjectType, value: &impl Serialize) -> Result<Vec<u8>> {
    let plain =
        serde_json::to_vec(value).map_err(|e| FormatError::invalid(kind.name(), e.to_string()))?;
    if plain.len() as u64 > limits::RECORD_MAX {
        return Err(FormatError::TooLarge {
            what: kind.name(),
            limit: limits::RECORD_MAX,
            got: plain.len() as u64,
        });
    }
    Ok(envelope::seal(kind, &plain, Codec::Zstd))
}

pub(crate) fn decode_record<T: serde::de::DeserializeOwned>(
    kind: ObjectType,
    bytes: &[u8],
) -> Result<T> {
    let plain = envelope::open(kind, bytes, limits::RECORD_MAX)?;
    of_content(kind, &plain)
}

fn of_content<T: serde::de::DeserializeOwned>(kind: ObjectType, plain: &[u8]) -> Result<T> {
    serde_json::from_slice(plain).map_err(|e| FormatError::invalid(kind.name(), e.to_string()))
}

impl SnapshotRecord {
    /// The object's bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode_record(ObjectType::Snapshot, self)
    }
}

impl Tombstone {
    /// The object's bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode_record(ObjectType::Tombstone, self)
    }
}

impl Entry {
    /// Reads whichever of the two the object is.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (kind, plain) = Self::content(bytes)?;
        Self::of_content(kind, &plain)
    }

    /// Which of the two an object is, and the content of its envelope.
    pub fn content(bytes: &[u8]) -> Result<(ObjectType, Vec<u8>)> {
        let kind = match envelope::peek(bytes)? {
            ObjectType::Tombstone => ObjectType::Tombstone,
            _ => ObjectType::Snapshot,
        };
        Ok((kind, envelope::open(kind, bytes, limits::RECORD_MAX)?))
    }

    /// Reads the content of an object of this type.
    pub fn of_content(kind: ObjectType, plain: &[u8]) -> Result<Self> {
        match kind {
            ObjectType::Tombstone => of_content(kind, plain).map(Self::Tombstone),
            ObjectType::Snapshot => {
                of_content(kind, plain).map(|record| Self::Snapshot(Box::new(record)))
            }
            _ => Err(FormatError::invalid(
                kind.name(),
                "it is not what stands at a snapshot's place",
            )),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> SnapshotRecord {
        SnapshotRecord {
            id: SnapshotId::from_bytes([1; 16]),
            lineage: Lineage::from_bytes([2; 16]),
            session: SessionId::from_bytes([3; 16]),
            created: "2026-11-20T12:00:00Z".to_owned(),
            dumped: None,
            manifest: ManifestRef {
                id: ManifestId::from_bytes([4; 16]),
                bytes: 1000,
                digest: Digest::of(b"manifest"),
            },
            archive: Archive {
                kind: ArchiveKind::Tar,
                bytes: 1 << 40,
                digest: Some(Digest::of(b"archive")),
                outer: Some(Outer {
                    compression: Compression::Zstd,
                    bytes: 1 << 30,
                    digest: Digest::of(b"outer"),
                }),
            },
            identity: Identity {
                pod: "demo".to_owned(),
                ..Identity::default()
            },
            producer: Producer {
                engine: "podman".to_owned(),
                img_version: Some(2),
                ..Producer::default()
            },
            cost: Cost::default(),
            base: Some(SnapshotId::from_bytes([5; 16])),
            requires: None,
            labels: vec!["before-upgrade".to_owned(), "größer".to_owned()],
            origin: Origin::Schedule,
            group: Some("g".to_owned()),
            attachments: vec![Attachment {
                name: "pod.json".to_owned(),
                bytes: 7,
            }],
            warnings: Vec::new(),
            original: Some(Original {
                id: SnapshotId::from_bytes([6; 16]),
                repository: RepositoryId::from_bytes([7; 16]),
            }),
        }
    }

    #[test]
    fn a_record_and_a_tombstone_read_back_as_what_they_are() {
        assert_eq!(
            Entry::decode(&sample().encode().unwrap()),
            Ok(Entry::Snapshot(Box::new(sample())))
        );
        let tombstone = Tombstone {
            id: SnapshotId::from_bytes([1; 16]),
            session: None,
            created: "2026-11-20T12:00:00Z".to_owned(),
            reason: "deleted".to_owned(),
        };
        assert_eq!(
            Entry::decode(&tombstone.encode().unwrap()),
            Ok(Entry::Tombstone(tombstone))
        );
    }

    #[test]
    fn a_record_of_a_later_writer_with_more_keys_is_read() {
        let mut value = serde_json::to_value(sample()).unwrap();
        value["from_the_future"] = serde_json::json!({"a": 1});
        let bytes = encode_record(ObjectType::Snapshot, &value).unwrap();
        assert_eq!(
            Entry::decode(&bytes),
            Ok(Entry::Snapshot(Box::new(sample())))
        );
    }

    #[test]
    fn a_record_that_is_too_large_is_not_written() {
        let mut record = sample();
        record.warnings = vec!["x".repeat(1 << 20)];
        assert!(matches!(record.encode(), Err(FormatError::TooLarge { .. })));
    }
}
