//! Owns the OCI image of a checkpoint: one layer that is not compressed, its configuration, its manifest with the annotations by which a runtime knows
//! a checkpoint; and the layout directory.
//!
//! Always: the same snapshot and name make the same bytes; annotations are those of the family whose runtime can restore this archive, on the manifest, which
//! is the image's target. Never: an index around it: containerd looks at the target alone.

use std::io::{BufWriter, Write};
use std::path::Path;

use cryostore_engine::{Error, Monitor, Repository, Result};
use serde_json::{Map, Value, json};

use super::digest::Blob;
use super::layer::{Changes, Layer, write_layer};
use super::layout::Layout;
use super::source::{Family, Source};

/// A tar as it is: its digest is its diffID, so that both are known when it has been written once.
pub const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// An image's configuration.
pub const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// An image's manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// The small blobs of an image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The configuration.
    pub config: Vec<u8>,
    /// Its name.
    pub config_blob: Blob,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Its name: the image's digest.
    pub manifest_blob: Blob,
}

/// The name that Go, and so OCI, has for a machine.
pub(super) fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// True if there is a runtime that restores an image of this family's archives.
#[must_use]
pub const fn has_image(family: Family) -> bool {
    matches!(family, Family::Containerd | Family::CriO | Family::Podman)
}

/// The annotations by which the runtime that can restore this archive knows it.
fn annotations(source: &Source) -> Map<String, Value> {
    let identity = &source.record.identity;
    let mut out = Map::new();
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            out.insert(key.to_owned(), value.into());
        }
    };
    match source.family {
        Family::Containerd => {
            // The first one decides; the others are what `checkpointctl build` writes.
            put("org.criu.checkpoint.container.name", &identity.container);
            put("org.criu.checkpoint.engine.name", "containerd");
            put("org.criu.checkpoint.pod.name", &identity.pod);
            put("org.criu.checkpoint.pod.namespace", &identity.namespace);
            put("org.criu.checkpoint.pod.uid", &identity.pod_uid);
            put("org.criu.checkpoint.rootfsImageName", &source.base_name);
            put(
                "org.criu.checkpoint.runtime.name",
                &source.record.producer.runtime,
            );
            put(
                "org.criu.checkpoint.criu.version",
                &source.record.producer.criu_version,
            );
        }
        Family::CriO => put(
            "io.kubernetes.cri-o.annotations.checkpoint.name",
            &identity.container,
        ),
        Family::Podman => put("io.podman.annotations.checkpoint.name", &identity.container),
        Family::Docker | Family::Criu => {}
    }
    out
}

impl Image {
    /// The image around a layer. `name` becomes part of it: images of one snapshot with two names have two ids, so that one can go while the other stays.
    #[must_use]
    pub fn new(source: &Source, layer: &Layer, name: &str) -> Self {
        let Layer { blob, .. } = layer;
        let created = source.record.dumped.as_ref();
        let created = created.unwrap_or(&source.record.created);
        let config = json!({
            "created": created,
            "architecture": architecture(&source.host.arch),
            "os": "linux",
            "config": {"Labels": {"cryostore.image": name}},
            "rootfs": {"type": "layers", "diff_ids": [blob.digest]},
            "history": [{"created": created, "created_by": format!("cryostore, snapshot {}", source.record.id)}],
        })
        .to_string()
        .into_bytes();
        let config_blob = Blob::of(&config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": config_blob.digest, "size": config_blob.len},
            "layers": [{"mediaType": LAYER_TYPE, "digest": blob.digest, "size": blob.len}],
            "annotations": annotations(source),
        })
        .to_string()
        .into_bytes();
        let manifest_blob = Blob::of(&manifest);
        Self {
            config,
            config_blob,
            manifest,
            manifest_blob,
        }
    }
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// The image's digest.
    pub digest: String,
    /// Bytes of the layer.
    pub bytes: u64,
    /// What was taken out of the archive's descriptions.
    pub stripped: Vec<String>,
}

/// Writes an OCI layout into the directory `dir`, which must not exist, or be empty; `tag` names the image in it. The directory appears when it is
/// whole; memory is in it in clear text, so it is for this user alone.
pub fn write_layout(
    repo: &Repository,
    source: &Source,
    changes: &Changes,
    dir: &Path,
    tag: &str,
    monitor: &dyn Monitor,
) -> Result<Written> {
    let layout = Layout::begin(dir)?;
    let layer = layout.layer(|file| {
        let layer = write_layer(repo, &source.record, changes, file, monitor)?;
        let blob = layer.blob.clone();
        Ok((layer, blob))
    })?;
    let image = Image::new(source, &layer, tag);
    layout.end(&image.config, &image.manifest, tag)?;
    Ok(Written {
        digest: image.manifest_blob.digest,
        bytes: layer.blob.len,
        stripped: layer.stripped,
    })
}

/// Writes the archive, cleaned, into a new file in `dir` for this user alone; the file ends with what is returned.
pub(crate) fn write_file(
    repo: &Repository,
    source: &Source,
    dir: &Path,
    monitor: &dyn Monitor,
) -> Result<(tempfile::NamedTempFile, Layer)> {
    let failed = |e| Error::io(format!("a file in {}", dir.display()), e);
    let mut file = tempfile::Builder::new()
        .prefix("cryostore-")
        .suffix(".tar")
        .tempfile_in(dir)
        .map_err(failed)?;
    let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    let changes = Changes::of(source);
    let layer = write_layer(repo, &source.record, &changes, &mut out, monitor)?;
    out.flush().map_err(failed)?;
    drop(out);
    Ok((file, layer))
}
