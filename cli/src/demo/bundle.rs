//! Owns the files around the images: what containerd writes about the container, and the demo's own marker.
//!
//! Always: names, annotations and field names are those of containerd's CRI plugin, so that every reader of its archives
//! finds pod, namespace and container; the marker says who made the archive and that no engine can restore it.
//! Never: looks at a process or a file; everything is handed in.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use serde_json::json;

/// What the archive says about the workload.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) pid: u32,
    pub(crate) arguments: Vec<String>,
    pub(crate) created: Timestamp,
    pub(crate) checkpointed: Timestamp,
    /// Who dumped the memory, for the marker.
    pub(crate) dumped_by: String,
}

/// The pod, the namespace and the container of the demo.
pub(crate) const POD: &str = "demo";
pub(crate) const NAMESPACE: &str = "default";
pub(crate) const CONTAINER: &str = "workload";
/// The archive's own member that tells it from a real one.
pub(crate) const MARKER: &str = "cryostore-demo.txt";

const POD_UID: &str = "demo-uid";
const IMAGE: &str = "localhost/cryostore-demo:1";

impl Container {
    /// The top-level members beside dump.log and stats-dump: (name, mode, content).
    pub(crate) fn members(&self) -> [(&'static str, u64, Vec<u8>); 5] {
        [
            ("config.dump", 0o600, self.config().to_string().into_bytes()),
            (MARKER, 0o644, self.marker().into_bytes()),
            ("spec.dump", 0o644, self.spec().to_string().into_bytes()),
            ("status", 0o600, self.task_status().to_string().into_bytes()),
            ("status.dump", 0o600, self.status().to_string().into_bytes()),
        ]
    }

    /// 64 hexadecimal digits as an engine's id, the same for all checkpoints of one workload.
    fn id(&self) -> String {
        self.made_up_id(CONTAINER)
    }

    fn made_up_id(&self, what: &str) -> String {
        let part = |number: u32| {
            let mut hasher = DefaultHasher::new();
            (what, self.pid, self.created, number).hash(&mut hasher);
            format!("{:016x}", hasher.finish())
        };
        (0..4).map(part).collect()
    }

    fn config(&self) -> serde_json::Value {
        json!({
            "id": self.id(),
            "name": format!("{CONTAINER}_{POD}_{NAMESPACE}_{POD_UID}_0"),
            "rootfsImage": IMAGE,
            "rootfsImageRef": IMAGE,
            "rootfsImageName": IMAGE,
            "runtime": "io.containerd.runc.v2",
            "createdTime": self.created.to_string(),
            "checkpointedTime": self.checkpointed.to_string(),
            "restoredTime": "0001-01-01T00:00:00Z",
            "restored": false,
        })
    }

    fn spec(&self) -> serde_json::Value {
        json!({
            "ociVersion": "1.2.1",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": self.arguments, "cwd": "/" },
            "root": { "path": "rootfs" },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }],
            "annotations": {
                "io.kubernetes.cri.container-name": CONTAINER,
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.image-name": IMAGE,
                "io.kubernetes.cri.sandbox-id": self.made_up_id(POD),
                "io.kubernetes.cri.sandbox-name": POD,
                "io.kubernetes.cri.sandbox-namespace": NAMESPACE,
                "io.kubernetes.cri.sandbox-uid": POD_UID,
            },
            "linux": {},
        })
    }

    fn task_status(&self) -> serde_json::Value {
        json!({
            "Version": "v1",
            "Pid": self.pid,
            "CreatedAt": nanoseconds(self.created),
            "StartedAt": nanoseconds(self.created),
            "FinishedAt": 0,
            "ExitCode": 0,
            "Reason": "",
            "Message": "",
            "Restore": false,
        })
    }

    fn status(&self) -> serde_json::Value {
        json!({
            "id": self.id(),
            "metadata": { "name": CONTAINER },
            "state": 1,
            "created_at": nanoseconds(self.created),
            "started_at": nanoseconds(self.created),
            "image": { "image": IMAGE },
            "image_ref": IMAGE,
            "labels": {
                "io.kubernetes.container.name": CONTAINER,
                "io.kubernetes.pod.name": POD,
                "io.kubernetes.pod.namespace": NAMESPACE,
                "io.kubernetes.pod.uid": POD_UID,
            },
            "annotations": { "io.kubernetes.container.restartCount": "0" },
        })
    }

    fn marker(&self) -> String {
        format!(
            "This archive was made by `cryostore demo`, not by a container engine. It cannot be restored.\n\
             The memory in it is real: that of process {}, a workload the demo started, dumped by {}.\n\
             The pod, the container and the OCI image it names do not exist.\n",
            self.pid, self.dumped_by
        )
    }
}

fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        let created = Timestamp::from_second(1_795_177_052).expect("a valid time");
        Container {
            pid: 7,
            arguments: vec!["workload".into()],
            created,
            checkpointed: created,
            dumped_by: "the test".into(),
        }
    }

    #[test]
    fn the_names_are_where_readers_of_containerd_archives_look() {
        let spec = container().spec();
        let annotations = &spec["annotations"];
        assert_eq!(annotations["io.kubernetes.cri.sandbox-name"], "demo");
        assert_eq!(
            annotations["io.kubernetes.cri.sandbox-namespace"],
            "default"
        );
        assert_eq!(annotations["io.kubernetes.cri.container-name"], "workload");
        assert_eq!(
            container().config()["checkpointedTime"],
            "2026-11-20T12:17:32Z"
        );
        assert_eq!(container().id().len(), 64);
    }

    #[test]
    fn the_marker_says_that_nothing_can_be_restored() {
        assert!(container().marker().contains("cannot be restored"));
    }

    #[test]
    fn the_members_stand_in_lexical_order() {
        assert!(container().members().is_sorted_by_key(|(name, ..)| *name));
    }
}
