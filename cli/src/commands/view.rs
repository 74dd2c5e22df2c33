//! A snapshot as JSON shows it: the keys that users may rely on, whatever else the stored record holds.

use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::{
    Archive, Classes, Identity, Origin, Original, Producer, SnapshotRecord,
};
use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct SnapshotView {
    pub(crate) id: SnapshotId,
    pub(crate) created: String,
    pub(crate) dumped: Option<String>,
    pub(crate) identity: Identity,
    pub(crate) labels: Vec<String>,
    pub(crate) origin: Origin,
    pub(crate) group: Option<String>,
    pub(crate) archive: Archive,
    pub(crate) producer: Producer,
    pub(crate) cost: CostView,
    pub(crate) base: Option<SnapshotId>,
    pub(crate) requires: Option<SnapshotId>,
    pub(crate) attachments: Vec<String>,
    pub(crate) warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) original: Option<Original>,
}

/// What the import cost.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct CostView {
    pub(crate) classes: Classes,
    pub(crate) bytes_added: u64,
    pub(crate) packs_added: u64,
    pub(crate) seconds: f64,
    #[serde(skip)]
    pub(crate) elapsed_ms: u64,
}

impl From<&SnapshotRecord> for SnapshotView {
    fn from(record: &SnapshotRecord) -> Self {
        let cost = record.cost;
        Self {
            id: record.id,
            created: record.created.clone(),
            dumped: record.dumped.clone(),
            identity: record.identity.clone(),
            labels: record.labels.clone(),
            origin: record.origin,
            group: record.group.clone(),
            archive: record.archive.clone(),
            producer: record.producer.clone(),
            cost: CostView {
                classes: cost.classes,
                bytes_added: cost.bytes_added,
                packs_added: cost.packs_added,
                seconds: std::time::Duration::from_millis(cost.elapsed_ms).as_secs_f64(),
                elapsed_ms: cost.elapsed_ms,
            },
            base: record.base,
            requires: record.requires,
            attachments: record
                .attachments
                .iter()
                .map(|attachment| attachment.name.clone())
                .collect(),
            warnings: record.warnings.clone(),
            original: record.original,
        }
    }
}
