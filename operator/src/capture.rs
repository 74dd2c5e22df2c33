//! Owns what is stored beside an archive: the pod as it can be made again, and what the place had that a restore needs. Neither is in the archive.
//!
//! Always: the pod is what its owner asked for, with fields that this version does not know. Never: the contents of a Secret or of a token; they are
//! named there, not held. (A value that is written into the pod's own `env` is part of the pod, and is kept.)

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cluster::Node;
use crate::pod::{Pod, text};

/// Name of the attachment with the pod.
pub const POD: &str = "pod.json";
/// Name of the attachment with the host.
pub const HOST: &str = "host.json";

/// Where the API server puts a service account's token by itself, and does so again in the pod that is made anew.
pub(crate) const TOKENS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What belongs to this one pod, and not to one that is made like it.
const OF_THIS_POD: [&str; 8] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
];

/// What a restore has to find again, or has to know. Empty: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Machine, such as `x86_64`.
    pub arch: String,
    /// What the processor can do, sorted; code in memory was chosen by it.
    pub cpu_flags: Vec<String>,
    /// Such as `6.12.43+deb13-amd64`.
    pub kernel: String,
    /// Bytes of a page.
    pub page_size: u64,
    /// 1 or 2; 0: not known.
    pub cgroup_version: u32,
    /// Such as `apparmor` or `selinux`, as the kernel lists them.
    pub security_modules: Vec<String>,
    /// Name and version, such as `containerd://2.1.9`.
    pub runtime: String,
    /// Version of the kubelet.
    pub kubelet: String,
    /// Such as `Debian GNU/Linux 13 (trixie)`.
    pub os_image: String,
    /// Which cluster it is, by [`crate::Cluster::id`]: pods of two clusters may have one name.
    pub cluster: String,
}

impl Host {
    /// This machine, which is `node`.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let mut host = Self::read(Path::new("/"));
        host.runtime.clone_from(&node.runtime);
        host.kubelet.clone_from(&node.kubelet_version);
        host.os_image.clone_from(&node.os_image);
        host
    }

    /// This machine, as far as it tells by itself.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::read(Path::new("/"))
    }

    /// What the files below `root` say, and the kernel itself.
    pub(crate) fn read(root: &Path) -> Self {
        let file = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
        let uname = rustix::system::uname();
        let cgroups = root.join("sys/fs/cgroup");
        let cgroup_version = match (
            cgroups.join("cgroup.controllers").exists(),
            cgroups.exists(),
        ) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        };
        let modules = file("sys/kernel/security/lsm");
        let mut modules: Vec<String> = modules.trim().split(',').map(str::to_owned).collect();
        modules.retain(|name| !name.is_empty());
        if modules.is_empty() {
            // Where securityfs is not mounted, these two can still be seen.
            let seen = [
                ("sys/fs/selinux/enforce", "selinux"),
                ("sys/module/apparmor", "apparmor"),
            ];
            modules = seen
                .iter()
                .filter(|(path, _)| root.join(path).exists())
                .map(|(_, name)| (*name).to_owned())
                .collect();
        }
        Self {
            arch: uname.machine().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            cpu_flags: cpu_flags(&file("proc/cpuinfo")),
            page_size: rustix::param::page_size() as u64,
            cgroup_version,
            security_modules: modules,
            ..Self::default()
        }
    }

    /// As it is attached.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}

/// Of the first processor: `flags` on x86, `Features` on ARM.
fn cpu_flags(cpuinfo: &str) -> Vec<String> {
    let line = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        matches!(key.trim(), "flags" | "Features").then_some(value)
    });
    let mut flags: Vec<String> = line
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    flags.sort_unstable();
    flags.dedup();
    flags
}

/// The pod as it can be made again.
#[must_use]
pub fn manifest(pod: &Pod) -> Vec<u8> {
    let mut json = pod.json.clone();
    json["apiVersion"] = "v1".into();
    json["kind"] = "Pod".into();
    if let Some(whole) = json.as_object_mut() {
        whole.remove("status");
    }
    if let Some(metadata) = object(&mut json, "metadata") {
        for key in OF_THIS_POD {
            metadata.remove(key);
        }
        if let Some(notes) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            // The whole pod once more, as somebody wrote it.
            notes.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    if let Some(spec) = object(&mut json, "spec") {
        spec.remove("nodeName");
        without_injected_tokens(spec);
    }
    serde_json::to_vec_pretty(&json).unwrap_or_default()
}

fn object<'j>(json: &'j mut Value, key: &str) -> Option<&'j mut Map<String, Value>> {
    json.get_mut(key).and_then(Value::as_object_mut)
}

fn array<'j>(json: &'j mut Map<String, Value>, key: &str) -> Option<&'j mut Vec<Value>> {
    json.get_mut(key).and_then(Value::as_array_mut)
}

/// Takes out the token volumes that the API server put in: the new pod gets its own, at the same place.
pub(crate) fn without_injected_tokens(spec: &mut Map<String, Value>) {
    let account = spec
        .get("serviceAccountName")
        .and_then(Value::as_str)
        .unwrap_or("default")
        .to_owned();
    let is_injected = |name: &str| {
        name.starts_with("kube-api-access-") || name.starts_with(&format!("{account}-token-"))
    };
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for container in array(spec, key).into_iter().flatten() {
            let mounts = container.as_object_mut();
            if let Some(mounts) = mounts.and_then(|container| array(container, "volumeMounts")) {
                mounts.retain(|mount| {
                    text(mount, "/mountPath") != TOKENS || !is_injected(text(mount, "/name"))
                });
            }
        }
    }
    let used: Vec<String> = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .filter_map(|key| spec.get(*key).and_then(Value::as_array))
        .flatten()
        .filter_map(|container| container.get("volumeMounts").and_then(Value::as_array))
        .flatten()
        .map(|mount| text(mount, "/name").to_owned())
        .collect();
    if let Some(volumes) = array(spec, "volumes") {
        volumes.retain(|volume| {
            let name = text(volume, "/name");
            !is_injected(name) || used.iter().any(|used| used == name)
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        let mount = json!({"name": "kube-api-access-x1", "mountPath": TOKENS, "readOnly": true});
        Pod::new(json!({
            "metadata": {
                "name": "web", "namespace": "default", "uid": "u1", "resourceVersion": "7", "managedFields": [{"manager": "kubectl"}],
                "creationTimestamp": "2026-11-20T10:00:00Z", "labels": {"app": "web"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "kept"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "uid": "u2", "controller": true}],
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "robot", "futureField": {"of": "a later version"},
                "containers": [{
                    "name": "app", "envFrom": [{"secretRef": {"name": "db"}}],
                    "volumeMounts": [mount, {"name": "robot-token-keep", "mountPath": "/mine"}, {"name": "data", "mountPath": "/data"}],
                }],
                "volumes": [{"name": "kube-api-access-x1", "projected": {}}, {"name": "data", "emptyDir": {}}, {"name": "robot-token-keep", "secret": {"secretName": "x"}}],
            },
            "status": {"podIP": "10.0.0.1"},
        }))
        .unwrap()
    }

    #[test]
    fn the_pod_is_kept_as_it_was_asked_for_and_nothing_of_the_one_that_ran() {
        let kept: Value = serde_json::from_slice(&manifest(&pod())).unwrap();
        assert_eq!(kept["kind"], "Pod");
        for gone in [
            "/status",
            "/metadata/uid",
            "/metadata/resourceVersion",
            "/metadata/managedFields",
            "/metadata/creationTimestamp",
            "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration",
            "/spec/nodeName",
        ] {
            assert!(kept.pointer(gone).is_none(), "{gone}");
        }
        for there in [
            "/metadata/labels/app",
            "/metadata/annotations/note",
            "/metadata/ownerReferences/0/name",
            "/spec/futureField/of",
            "/spec/containers/0/envFrom/0/secretRef/name",
        ] {
            assert!(kept.pointer(there).is_some(), "{there}");
        }
    }

    #[test]
    fn injected_tokens_go_and_volumes_of_the_user_stay_whatever_their_names() {
        let kept: Value = serde_json::from_slice(&manifest(&pod())).unwrap();
        let names = |pointer: &str| -> Vec<String> {
            let list = kept.pointer(pointer).and_then(Value::as_array).unwrap();
            list.iter().map(|v| text(v, "/name").to_owned()).collect()
        };
        assert_eq!(names("/spec/volumes"), ["data", "robot-token-keep"]);
        assert_eq!(
            names("/spec/containers/0/volumeMounts"),
            ["robot-token-keep", "data"]
        );
    }

    #[test]
    fn the_processors_abilities_are_read_on_both_architectures() {
        assert_eq!(
            cpu_flags("processor\t: 0\nflags\t\t: sse2 fpu avx\nflags\t\t: other"),
            ["avx", "fpu", "sse2"]
        );
        assert_eq!(cpu_flags("Features\t: fp asimd"), ["asimd", "fp"]);
        assert!(cpu_flags("").is_empty());
    }

    #[test]
    fn this_machine_says_what_a_restore_must_match() {
        let host = Host::read(Path::new("/"));
        assert!(!host.arch.is_empty() && !host.kernel.is_empty(), "{host:?}");
        assert!(host.page_size.is_power_of_two());
        let again: Host = serde_json::from_slice(&host.to_json()).unwrap();
        assert_eq!(again, host);
    }
}
