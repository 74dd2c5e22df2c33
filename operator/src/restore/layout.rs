//! Owns an OCI image layout that is being written: a directory with the blobs by their names, an index, and a tag.
//!
//! Always: the directory appears under its name when it is whole, for this user alone; nothing is written over. Never: knows what the image is of.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cryostore_engine::{Error, Kind, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::digest::{Blob, Naming};
use super::oci::{CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE};

/// A layout in the making.
pub(super) struct Layout {
    dir: PathBuf,
    part: TempDir,
}

impl Layout {
    /// Begins one that will be at `dir`, which must not exist, or be empty.
    pub(super) fn begin(dir: &Path) -> Result<Self> {
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(
                Error::new(Kind::Conflict, format!("{} is not empty", dir.display()))
                    .hint("name a directory that does not exist yet"),
            );
        }
        let above = dir
            .parent()
            .filter(|above| !above.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let part = tempfile::Builder::new()
            .prefix(".cryostore-")
            .suffix(".part")
            .tempdir_in(above)
            .map_err(|e| failed(dir, e))?;
        let layout = Self {
            dir: dir.to_owned(),
            part,
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(layout.path("blobs/sha256"))
            .map_err(|e| layout.failed(e))?;
        Ok(layout)
    }

    fn failed(&self, e: io::Error) -> Error {
        failed(&self.dir, e)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.part.path().join(name)
    }

    fn create(&self, name: &str) -> Result<File> {
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        options.open(self.path(name)).map_err(|e| self.failed(e))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.create(name)?;
        file.write_all(bytes).map_err(|e| self.failed(e))
    }

    /// Has `write` write the layer; what it returns says by its blob what was written.
    pub(super) fn layer<T>(
        &self,
        write: impl FnOnce(&mut BufWriter<File>) -> Result<(T, Blob)>,
    ) -> Result<T> {
        const UNNAMED: &str = "blobs/sha256/layer.part";
        let mut file = BufWriter::with_capacity(1 << 20, self.create(UNNAMED)?);
        let (written, blob) = write(&mut file)?;
        file.flush().map_err(|e| self.failed(e))?;
        let named = self.path("blobs/sha256").join(blob.hex());
        fs::rename(self.path(UNNAMED), named).map_err(|e| self.failed(e))?;
        Ok(written)
    }

    /// Adds configuration and manifest, names the image, and shows the directory.
    pub(super) fn end(self, config: &[u8], manifest: &[u8], tag: &str) -> Result<Blob> {
        let manifest_blob = Blob::of(manifest);
        for (blob, bytes) in [(&Blob::of(config), config), (&manifest_blob, manifest)] {
            self.put(&format!("blobs/sha256/{}", blob.hex()), bytes)?;
        }
        self.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": MANIFEST_TYPE, "digest": manifest_blob.digest, "size": manifest_blob.len,
                "annotations": {"org.opencontainers.image.ref.name": tag},
            }],
        });
        self.put("index.json", index.to_string().as_bytes())?;
        fs::set_permissions(self.part.path(), fs::Permissions::from_mode(0o700))
            .map_err(|e| self.failed(e))?;
        // Over an empty directory, and over nothing else.
        fs::rename(self.part.path(), &self.dir).map_err(|e| self.failed(e))?;
        // It has another name now: nothing is left to remove.
        let _ = self.part.keep();
        Ok(manifest_blob)
    }
}

fn failed(dir: &Path, e: io::Error) -> Error {
    Error::io(format!("writing the OCI layout {}", dir.display()), e)
}

/// Writes the layout of an image that is no checkpoint: one layer, a tar, and what a container of it runs (`config` of the OCI image configuration). The
/// digest of the image comes back.
pub fn write_image(
    dir: &Path,
    tag: &str,
    created: &str,
    layer: &mut dyn Read,
    run: &Value,
) -> Result<String> {
    let layout = Layout::begin(dir)?;
    let blob = layout.layer(|file| {
        let mut naming = Naming::new(file);
        io::copy(layer, &mut naming).map_err(|e| Error::io("the layer", e))?;
        let blob = naming.finish().1;
        Ok((blob.clone(), blob))
    })?;
    let architecture = super::oci::architecture(std::env::consts::ARCH);
    let config = json!({
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [blob.digest]},
    })
    .to_string();
    let config_blob = Blob::of(config.as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": config_blob.digest, "size": config_blob.len},
        "layers": [{"mediaType": LAYER_TYPE, "digest": blob.digest, "size": blob.len}],
    })
    .to_string();
    let image = layout.end(config.as_bytes(), manifest.as_bytes(), tag)?;
    Ok(image.digest)
}
