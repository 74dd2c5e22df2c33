//! Owns what is taken out of an archive's descriptions before a runtime gets them: annotations that make devices, mounts or programs of the host out of
//! words in an archive (CVE-2026-53492 was such a one), and hooks.
//!
//! Always: each thing that is taken out is named. Never: changes a description of which nothing is taken out: its bytes stay.

use serde_json::{Map, Value};

/// The descriptions of a container in an archive. containerd reads annotations from status.dump, CRI-O and Podman from the other two.
pub(crate) const DESCRIPTIONS: [&str; 4] = ["config.dump", "spec.dump", "status.dump", "status"];
/// 16 MiB: they are a few kilobytes; with thousands of mounts some hundred.
pub(crate) const DESCRIPTION_LEN: u64 = 16 << 20;
/// Objects deeper than this are nobody's description.
const DEEPEST: usize = 32;

/// True for an annotation by which an archive could reach outside of its container.
fn is_dangerous(key: &str) -> bool {
    // Devices of the host; programs that the runtime starts; files with options for CRIU, one of which runs a program.
    key.contains("cdi.k8s.io")
        || key.starts_with("run.oci.")
        || key.starts_with("org.criu.")
        || key.starts_with("io.containers.trace-syscall")
        || key.contains("oci-hook")
        || key.contains("oci.hook")
}

/// Takes it out, in place.
pub(crate) fn clean(json: &mut Value) -> Vec<String> {
    let mut gone = Vec::new();
    walk(json, &mut gone, 0);
    gone.sort();
    gone.dedup();
    gone
}

fn walk(json: &mut Value, gone: &mut Vec<String>, depth: usize) {
    if depth > DEEPEST {
        return;
    }
    match json {
        Value::Array(list) => list
            .iter_mut()
            .for_each(|inner| walk(inner, gone, depth + 1)),
        Value::Object(map) => {
            for key in ["hooks", "cdiDevices", "CDIDevices"] {
                if map.get(key).is_some_and(|value| !is_empty(value)) {
                    map.remove(key);
                    gone.push(key.to_owned());
                }
            }
            for (key, inner) in map.iter_mut() {
                match inner {
                    Value::Object(notes) if key.eq_ignore_ascii_case("annotations") => {
                        annotations(notes, gone);
                    }
                    _ => walk(inner, gone, depth + 1),
                }
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn annotations(notes: &mut Map<String, Value>, gone: &mut Vec<String>) {
    notes.retain(|key, _| {
        let stays = !is_dangerous(key);
        if !stays {
            gone.push(key.clone());
        }
        stays
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices_hooks_and_criu_options_go_and_all_else_stays() {
        let mut spec = json!({
            "ociVersion": "1.2.1", "hooks": {"prestart": [{"path": "/bin/sh"}]},
            "annotations": {
                "cdi.k8s.io/gpu": "vendor.com/gpu=0", "nvidia.cdi.k8s.io/x": "1", "run.oci.hooks.stdout": "/f", "org.criu.config": "/tmp/c",
                "io.kubernetes.cri.container-name": "app",
            },
            "process": {"args": ["hooks"]},
        });
        let gone = clean(&mut spec);
        assert_eq!(
            gone,
            [
                "cdi.k8s.io/gpu",
                "hooks",
                "nvidia.cdi.k8s.io/x",
                "org.criu.config",
                "run.oci.hooks.stdout"
            ]
        );
        assert_eq!(
            spec,
            json!({
                "ociVersion": "1.2.1", "annotations": {"io.kubernetes.cri.container-name": "app"}, "process": {"args": ["hooks"]},
            })
        );
        assert!(clean(&mut spec).is_empty());
    }

    #[test]
    fn podmans_description_holds_the_specification_one_level_deeper() {
        let mut config = json!({"spec": {"annotations": {"cdi.k8s.io/x": "y"}, "hooks": {}}, "cdiDevices": ["a"]});
        assert_eq!(clean(&mut config), ["cdi.k8s.io/x", "cdiDevices"]);
    }
}
