//! Owns what goes over the line between a node's agent and its client: paths, questions, answers. JSON; server and client use these types.
//!
//! Always: an unknown field is passed over, a missing one has a default, so that the two may be of different versions. Never: a secret.

use std::path::PathBuf;

use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{Error, Kind};
use serde::{Deserialize, Serialize};

use super::node::{RestoreSwitch, State};
use crate::capture::Host;

/// GET: [`Facts`].
pub const FACTS: &str = "/v1/facts";
/// POST of a [`CheckpointCall`]: [`Event`]s, one a line; the last is `done` or `failed`.
pub const CHECKPOINT: &str = "/v1/checkpoint";
/// POST of a [`PrepareCall`]: [`PreparedImage`].
pub const PREPARE_RESTORE: &str = "/v1/prepare-restore";
/// POST of a [`CleanUpCall`]: [`CleanedUp`].
pub const CLEAN_UP: &str = "/v1/clean-up";

/// What the agent knows of its node. Empty or none: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Version of the agent.
    pub agent: String,
    /// The node's name in the cluster.
    pub node: String,
    /// Which start of which kernel it is.
    pub boot_id: String,
    /// Machine, kernel, runtime.
    pub host: Host,
    /// Such as `4.2.1`; none: no CRIU is where the agent looks.
    pub criu: Option<String>,
    /// File names of CRIU's plugins.
    pub criu_plugins: Vec<String>,
    /// Whether the kubelet takes checkpoints.
    pub gate: State,
    /// How that is known.
    pub gate_source: String,
    /// Whether the container runtime restores checkpoints.
    pub restore: RestoreSwitch,
    /// Bytes that are free where containerd keeps images, if that can be seen.
    pub images_free_bytes: Option<u64>,
    /// Where the kubelet leaves archives.
    pub checkpoints: Checkpoints,
    /// Storages that the agent has keys for, without secrets. The first one is meant where none is said.
    pub storages: Vec<String>,
    /// It stores archives that others asked the kubelet for.
    pub watches: bool,
}

/// The folder of the kubelet's archives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checkpoints {
    /// Where it is.
    pub path: PathBuf,
    /// Files in it that are named as the kubelet does it.
    pub archives: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that its file system has left.
    pub free_bytes: Option<u64>,
}

/// A container that is to be taken and stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointCall {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Which pod of this name; empty: the one that there is.
    pub uid: String,
    /// The container; empty: the only one.
    pub container: String,
    /// Seconds for the runtime; none: the kubelet's own.
    pub timeout: Option<u64>,
    /// Words of the user.
    pub labels: Vec<String>,
    /// The kubelet's archive stays.
    pub keep_archive: bool,
    /// What the snapshots of several containers have in common.
    pub group: Option<String>,
    /// One of [`Facts::storages`]; none: the first.
    pub storage: Option<String>,
}

/// What goes on while a checkpoint is taken; one JSON document a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Somebody else there takes a checkpoint of this container.
    WaitsForLock {
        /// The container.
        container: String,
    },
    /// The kubelet was asked.
    Asked {
        /// The container.
        container: String,
        /// The kubelet's address.
        address: String,
    },
    /// The kubelet refused for now; it is asked again.
    Again {
        /// What it said.
        why: String,
    },
    /// The archive is there.
    Written {
        /// Where on the node.
        path: PathBuf,
    },
    /// The archive was stored and stays.
    Stays {
        /// Where on the node.
        path: PathBuf,
    },
    /// Bytes of the archive that were read. Some of these may be left out.
    Progress {
        /// So far.
        done: u64,
        /// Of so many.
        total: Option<u64>,
    },
    /// Something was strange, and the work went on.
    Warning {
        /// What.
        text: String,
    },
    /// It is stored.
    Done(Box<Stored>),
    /// It is not.
    Failed(Report),
}

/// A container that was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its name.
    pub container: String,
    /// Where it is stored, without secrets.
    pub storage: String,
    /// What was committed.
    pub snapshot: SnapshotRecord,
    /// The kubelet's archive, on the node.
    pub archive: PathBuf,
    /// It was removed.
    pub archive_removed: bool,
    /// From the call of the kubelet to its answer.
    pub asked_for_ms: u64,
}

/// A snapshot that is to become an image in the node's runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrepareCall {
    /// One of [`Facts::storages`]; none: the first.
    pub storage: Option<String>,
    /// The snapshot's whole id.
    pub snapshot: String,
    /// Where the new pod is to be.
    pub namespace: String,
    /// The new pod's name.
    pub pod: String,
}

/// An image that a pod of this node can name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreparedImage {
    /// Its reference.
    pub image: String,
    /// Of its manifest, such as `sha256:…`.
    pub digest: String,
    /// Bytes that it takes in the runtime's store.
    pub bytes: u64,
    /// What was taken out of the archive's descriptions.
    pub stripped: Vec<String>,
}

/// An image that is no longer needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CleanUpCall {
    /// Its reference, as it was prepared.
    pub image: String,
    /// Where the pod is or was.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CleanedUp {
    /// False: there was none.
    pub removed: bool,
}

/// An error on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// As [`Kind::name`] has it.
    pub kind: String,
    /// What happened.
    pub error: String,
    /// What to do.
    pub advice: Option<String>,
}

/// Those that travel; others are `internal`.
const KINDS: [Kind; 9] = [
    Kind::NotFound,
    Kind::Invalid,
    Kind::Unsupported,
    Kind::Denied,
    Kind::Corrupt,
    Kind::Conflict,
    Kind::NoSpace,
    Kind::Unavailable,
    Kind::Interrupted,
];

impl From<&Error> for Report {
    fn from(e: &Error) -> Self {
        Self {
            kind: e.kind().name().to_owned(),
            error: e.to_string(),
            advice: e.advice().map(str::to_owned),
        }
    }
}

impl Report {
    /// The error again. `who` said it.
    #[must_use]
    pub fn into_error(self, who: &str) -> Error {
        let kind = KINDS.into_iter().find(|kind| kind.name() == self.kind);
        let e = Error::new(
            kind.unwrap_or(Kind::Internal),
            format!("{who}: {}", self.error),
        );
        match self.advice {
            Some(advice) => e.hint(advice),
            None => e,
        }
    }
}

/// The status code of an answer that says this error.
#[must_use]
pub fn status_of(kind: Kind) -> u16 {
    match kind {
        Kind::NotFound => 404,
        Kind::Invalid => 400,
        Kind::Unsupported => 501,
        Kind::Denied => 403,
        Kind::Conflict => 409,
        Kind::NoSpace => 507,
        Kind::Unavailable | Kind::Interrupted => 503,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_arrives_with_its_kind_its_text_and_its_advice() {
        for kind in KINDS {
            let e = Error::new(kind, "text").hint("advice");
            let line = serde_json::to_string(&Event::Failed(Report::from(&e))).unwrap();
            let Event::Failed(report) = serde_json::from_str(&line).unwrap() else {
                panic!("{line}")
            };
            let e = report.into_error("the agent of node n1");
            assert_eq!((e.kind(), e.advice()), (kind, Some("advice")));
            assert_eq!(e.to_string(), "the agent of node n1: text");
        }
    }

    #[test]
    fn a_question_of_a_later_version_is_understood_as_far_as_it_goes() {
        let text = r#"{"namespace": "default", "pod": "web", "later": {"field": 1}}"#;
        let call: CheckpointCall = serde_json::from_str(text).unwrap();
        assert_eq!((call.pod.as_str(), call.container.as_str()), ("web", ""));
        let report: Report = serde_json::from_str(r#"{"kind": "later", "error": "x"}"#).unwrap();
        assert_eq!(report.into_error("a").kind(), Kind::Internal);
    }
}
