//! OCI layouts, byte by byte.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use cryostore_operator::restore::digest::Blob;
use serde_json::{Value, json};

use crate::{Stored, members};

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_layout_holds_one_layer_that_is_the_archive_and_each_blob_is_what_its_name_says() {
    let stored = Stored::real("containerd-busybox-1");
    let report = stored.json(&["latest", "--to", "oci:layout"]);
    let layout = stored.path("layout");
    assert_eq!(
        fs::read(layout.join("oci-layout")).unwrap(),
        br#"{"imageLayoutVersion":"1.0.0"}"#
    );
    let index = read(&layout.join("index.json"));
    let entry = &index["manifests"][0];
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(entry["digest"], report["done"]["digest"]);
    assert_eq!(
        entry["annotations"]["org.opencontainers.image.ref.name"],
        stored.id()[..12]
    );
    let blob = |of: &Value| {
        let hex = of["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        let bytes = fs::read(layout.join("blobs/sha256").join(hex)).unwrap();
        let named = Blob::of(&bytes);
        assert_eq!(
            (named.hex(), named.len),
            (hex, of["size"].as_u64().unwrap())
        );
        bytes
    };
    let manifest: Value = serde_json::from_slice(&blob(entry)).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let layer = &manifest["layers"][0];
    let of = |tar: &[u8]| -> Vec<_> {
        let all = members(tar).into_iter();
        // The base image's name in it is another one: no stored pod has it.
        all.filter(|(name, _)| name != "config.dump").collect()
    };
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar");
    assert!(
        of(&blob(layer)) == of(&stored.tar),
        "nothing dangerous is in it: the layer has what the archive has"
    );
    let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"], json!([layer["digest"]]));
    assert_eq!(
        (&config["os"], &config["architecture"]),
        (&json!("linux"), &json!("amd64"))
    );
    let files = fs::read_dir(layout.join("blobs/sha256")).unwrap().count();
    assert_eq!(files, 3);
}

#[test]
fn annotations_are_those_of_the_family_whose_runtime_restores_it() {
    for (name, wanted, key) in [
        (
            "containerd-busybox-1",
            "org.criu.checkpoint.",
            "org.criu.checkpoint.container.name",
        ),
        (
            "podman-busybox-1",
            "io.podman.annotations.checkpoint.",
            "io.podman.annotations.checkpoint.name",
        ),
    ] {
        let stored = Stored::real(name);
        stored.json(&["latest", "--to", "oci:layout"]);
        let layout = stored.path("layout");
        let index = read(&layout.join("index.json"));
        let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        let manifest = read(&layout.join("blobs/sha256").join(&digest[7..]));
        let annotations = manifest["annotations"].as_object().unwrap();
        assert_eq!(annotations[key], "work", "{name}");
        let keys: BTreeSet<_> = annotations
            .keys()
            .filter(|k| !k.starts_with(wanted))
            .collect();
        assert!(keys.is_empty(), "{name}: {keys:?}");
    }
}

#[test]
fn the_same_snapshot_makes_the_same_bytes_and_a_full_directory_is_refused() {
    let stored = Stored::real("containerd-busybox-1");
    let one = stored.json(&["latest", "--to", "oci:one"]);
    let two = stored.json(&["latest", "--to", "oci:two"]);
    assert_eq!(one["done"]["digest"], two["done"]["digest"]);
    let said = stored.restore(&["latest", "--to", "oci:one"]);
    assert_eq!(said.code, 6, "{said:?}");
    let others: Vec<_> = fs::read_dir(stored.place.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("part"))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn a_dump_of_plain_criu_is_no_image() {
    let stored = Stored::real("criu-4.2-dir-1");
    let said = stored.restore(&["latest", "--to", "oci:layout"]);
    assert_eq!(said.code, 9, "{said:?}");
    assert!(!stored.path("layout").exists());
}

#[test]
fn skopeo_reads_it() {
    let stored = Stored::real("containerd-busybox-1");
    let report = stored.json(&["latest", "--to", "oci:layout"]);
    let place = format!("oci:{}", stored.path("layout").display());
    let Ok(output) = Command::new("skopeo").args(["inspect", &place]).output() else {
        eprintln!("skipped: there is no skopeo");
        return;
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["Digest"], report["done"]["digest"]);
}
