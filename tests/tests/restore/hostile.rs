//! Archives that want more than their container.

use std::fs;

use cryostore_tests::archives::TarBuilder;
use serde_json::{Value, json};

use crate::Stored;

fn hostile() -> Stored {
    let annotations = json!({
        "io.kubernetes.cri.container-name": "work", "io.kubernetes.cri.sandbox-name": "web", "io.kubernetes.cri.sandbox-namespace": "shop",
        "cdi.k8s.io/x": "vendor.com/gpu=all", "run.oci.hooks.stdout": "/etc/passwd", "org.criu.config": "/tmp/criu.conf",
    });
    let spec = json!({"ociVersion": "1.2.1", "annotations": annotations, "hooks": {"prestart": [{"path": "/bin/sh"}]}}).to_string();
    let status = json!({"metadata": {"name": "work"}, "annotations": annotations}).to_string();
    Stored::of(
        TarBuilder::new()
            .file("checkpoint/inventory.img", b"x")
            .file(
                "config.dump",
                br#"{"id":"abc","name":"work","rootfsImageRef":"app@sha256:00"}"#,
            )
            .file("spec.dump", spec.as_bytes())
            .file("status", b"{}")
            .file("status.dump", status.as_bytes())
            .end(),
    )
}

const DANGEROUS: [&str; 4] = [
    "cdi.k8s.io/x",
    "run.oci.hooks.stdout",
    "org.criu.config",
    "prestart",
];

#[test]
fn copies_for_a_runtime_go_without_devices_hooks_and_options_of_criu() {
    let stored = hostile();
    let report = stored.json(&["latest", "--to", "oci:layout"]);
    assert_eq!(
        report["done"]["stripped"],
        json!([
            "cdi.k8s.io/x",
            "hooks",
            "org.criu.config",
            "run.oci.hooks.stdout"
        ])
    );
    let blobs = stored.path("layout/blobs/sha256");
    for entry in fs::read_dir(blobs).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for word in DANGEROUS {
            assert!(!text.contains(word), "{word}");
        }
        if text.contains("status.dump") {
            assert!(
                text.contains("io.kubernetes.cri.container-name"),
                "the rest stays"
            );
        }
    }
}

#[test]
fn the_archive_itself_keeps_every_byte_and_a_warning_names_them() {
    let stored = hostile();
    let said = stored.restore(&["latest", "--to", "a.tar"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("cdi.k8s.io/x"), "{said:?}");
    assert!(fs::read(stored.path("a.tar")).unwrap() == stored.tar);
}

#[test]
fn what_a_source_says_of_itself_is_read_from_the_archive_where_nothing_is_attached() {
    let source = hostile().source();
    assert!(source.pod.is_none());
    assert_eq!(source.base_ref, "app@sha256:00");
    assert_eq!(source.record.identity.namespace, "shop");
    assert!(source.dangerous.contains(&"cdi.k8s.io/x".to_owned()));
    let real = Stored::real("containerd-busybox-1").source();
    assert!(real.dangerous.is_empty(), "{:?}", real.dangerous);
    assert_eq!(real.base_name, "localhost:5005/fx-busybox:1");
    assert!(real.mounts.is_empty(), "{:?}", real.mounts);
    assert_eq!(real.host.arch, "x86_64");
}

#[test]
fn a_pod_within_the_archive_is_not_the_pod_that_was_stored_with_it() {
    let evil = json!({"metadata": {"name": "web"}, "spec": {"hostPID": true, "containers": [{"name": "work"}]}});
    let stored = Stored::of(
        TarBuilder::new()
            .file("config.dump", br#"{"id":"abc","name":"work"}"#)
            .file("pod.json", evil.to_string().as_bytes())
            .file("host.json", br#"{"arch":"s390x"}"#)
            .end(),
    );
    let source = stored.source();
    assert_eq!(source.pod, None);
    assert_ne!(source.host.arch, "s390x");
}

#[test]
fn a_description_that_is_no_json_makes_no_image_and_the_archive_stays_to_be_had() {
    let stored = Stored::of(
        TarBuilder::new()
            .file("config.dump", br#"{"id":"abc","name":"work"}"#)
            .file("spec.dump", &[0xff; 3000])
            .file("status.dump", b"[[[[")
            .end(),
    );
    assert_eq!(stored.source().dangerous, Vec::<String>::new());
    let said = stored.restore(&["latest", "--driver", "oci-image", "--to", "oci:layout"]);
    assert_ne!(said.code, 0, "{said:?}");
    assert!(!stored.path("layout").exists());
    let report: Value = stored.json(&["latest", "--to", "a.tar"]);
    assert_eq!(
        report["done"]["bytes"].as_u64().unwrap(),
        stored.tar.len() as u64
    );
}
