//! Owns what the engine wrote of the container: `config.dump`, and `spec.dump`, which is the runtime's specification (OCI runtime-spec, `config.md`).
//!
//! Always: what is not said, or in another form, is absent. Never: authorises anything.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What an engine said of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// When the container was made, as the engine wrote it.
    pub created: String,
    /// When the engine took the checkpoint, as it wrote it.
    pub checkpointed: String,
    /// The image by which a restore finds the root file system.
    pub image_reference: String,
    /// Host name of the container.
    pub host: String,
    /// Annotations of the container.
    pub annotations: BTreeMap<String, String>,
    /// Mounts that the engine asked for, in its order.
    pub mounts: Vec<ContainerMount>,
}

/// A mount that the engine asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ContainerMount {
    /// Where it is seen in the container.
    pub destination: String,
    /// The file system, or `bind`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is mounted: of a `bind`, a path of the node.
    pub source: String,
    /// Options of mount(8).
    pub options: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    hostname: String,
    annotations: BTreeMap<String, String>,
    mounts: Vec<ContainerMount>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    created_time: String,
    checkpointed_time: String,
    rootfs_image_ref: String,
}

impl Container {
    /// Takes in one of the two files.
    pub(super) fn learn(&mut self, is_spec: bool, bytes: &[u8]) {
        if is_spec {
            if let Ok(spec) = serde_json::from_slice::<Spec>(bytes) {
                self.host = spec.hostname;
                self.annotations = spec.annotations;
                self.mounts = spec.mounts;
            }
        } else if let Ok(config) = serde_json::from_slice::<Config>(bytes) {
            self.created = config.created_time;
            // Go writes a time that is not set as the first second of the year 1.
            if !config.checkpointed_time.starts_with("0001-") {
                self.checkpointed = config.checkpointed_time;
            }
            self.image_reference = config.rootfs_image_ref;
        }
    }
}
