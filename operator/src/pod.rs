//! Owns what of a pod counts for a checkpoint. Pure: JSON of the API server in, a decision or a refusal out.
//!
//! Always: fields that this version does not know are kept ([`Pod::json`]). Never: contacts anybody.

use cryostore_engine::{Error, Kind, Result};
use serde_json::Value;

/// A pod as the API server shows it.
#[derive(Debug, Clone)]
pub struct Pod {
    /// All of it.
    pub json: Value,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which pod of this name it is.
    pub uid: String,
    /// Where it runs.
    pub node: String,
    /// Those that a kubelet takes checkpoints of: containers, and init containers that go on running beside them.
    pub containers: Vec<Container>,
    /// What makes it anew when it is gone: kind and name.
    pub controller: Option<String>,
    /// It was asked to end.
    pub is_ending: bool,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// None: it runs. Else what it does instead.
    pub not_running: Option<String>,
}

/// Which containers are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The only one.
    Only,
    /// This one.
    Named(String),
    /// Each, one after another.
    All,
}

/// A string within JSON; empty if it is not there.
pub(crate) fn text<'j>(json: &'j Value, pointer: &str) -> &'j str {
    json.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list<'j>(json: &'j Value, pointer: &str) -> &'j [Value] {
    json.pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Refuses what is no name: it becomes a part of a URL and of a file's name.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = name.as_bytes();
    let fine = bytes.len() <= 253
        && bytes.iter().all(|c| inner(*c))
        && edge(bytes.first())
        && edge(bytes.last());
    if fine {
        return Ok(());
    }
    Err(
        Error::new(Kind::Invalid, format!("`{name}` is no name of a {what}")).hint(
            "names have lower-case letters, digits, `-` and `.`, as `kubectl get` shows them",
        ),
    )
}

impl Pod {
    /// Reads what the API server said.
    pub fn new(json: Value) -> Result<Self> {
        let of = |pointer: &str| text(&json, pointer).to_owned();
        let uid = of("/metadata/uid");
        if uid.is_empty() {
            return Err(Error::new(
                Kind::Unavailable,
                "the API server's answer is no pod: it has no metadata.uid",
            ));
        }
        let sidecars = list(&json, "/spec/initContainers")
            .iter()
            .filter(|container| text(container, "/restartPolicy") == "Always");
        let regular = list(&json, "/spec/containers").iter();
        let states: Vec<&Value> = ["/status/containerStatuses", "/status/initContainerStatuses"]
            .iter()
            .flat_map(|pointer| list(&json, pointer))
            .collect();
        let containers = regular
            .chain(sidecars)
            .map(|container| {
                let name = text(container, "/name");
                let state = states.iter().find(|state| text(state, "/name") == name);
                Container {
                    name: name.to_owned(),
                    not_running: not_running(state.and_then(|state| state.get("state"))),
                }
            })
            .collect();
        let owner = list(&json, "/metadata/ownerReferences")
            .iter()
            .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
        Ok(Self {
            namespace: of("/metadata/namespace"),
            name: of("/metadata/name"),
            node: of("/spec/nodeName"),
            controller: owner
                .map(|owner| format!("{} {}", text(owner, "/kind"), text(owner, "/name"))),
            is_ending: json.pointer("/metadata/deletionTimestamp").is_some(),
            uid,
            containers,
            json,
        })
    }

    /// Namespace and name, for people.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// True if a runtime that says this UID means this pod. Of a pod that the kubelet reads from a file, the API server shows another one.
    #[must_use]
    pub fn has_uid(&self, uid: &str) -> bool {
        let annotations = &self.json["metadata"]["annotations"];
        let of_file = annotations["kubernetes.io/config.hash"].as_str();
        uid == self.uid || of_file == Some(uid)
    }

    /// The names of the containers that run.
    #[must_use]
    pub fn running(&self) -> Vec<&str> {
        let running = self.containers.iter().filter(|c| c.not_running.is_none());
        running.map(|container| container.name.as_str()).collect()
    }

    /// The containers that are meant, in the pod's order. All of them run.
    pub fn choose(&self, choice: &Choice) -> Result<Vec<String>> {
        if self.node.is_empty() {
            return Err(Error::new(
                Kind::Invalid,
                format!("pod {} is on no node yet", self.title()),
            )
            .hint("wait until it is scheduled and runs"));
        }
        let names = || {
            let names: Vec<_> = self.containers.iter().map(|c| c.name.as_str()).collect();
            names.join(", ")
        };
        let chosen: Vec<&Container> = match choice {
            Choice::All => self.containers.iter().collect(),
            Choice::Named(name) => {
                let found = self.containers.iter().find(|c| c.name == *name);
                vec![found.ok_or_else(|| {
                    Error::new(
                        Kind::NotFound,
                        format!("pod {} has no container `{name}`", self.title()),
                    )
                    .hint(format!("say one of: {}", names()))
                })?]
            }
            Choice::Only if self.containers.len() > 1 => {
                return Err(Error::new(
                    Kind::Invalid,
                    format!(
                        "pod {} has {} containers: {}",
                        self.title(),
                        self.containers.len(),
                        names()
                    ),
                )
                .hint("say which one: --container NAME; or --all-containers"));
            }
            Choice::Only => self.containers.iter().collect(),
        };
        if chosen.is_empty() {
            return Err(Error::new(
                Kind::Invalid,
                format!("pod {} has no containers", self.title()),
            ));
        }
        if let Some((container, why)) = chosen
            .iter()
            .find_map(|c| Some((&c.name, c.not_running.as_ref()?)))
        {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "container {container} of pod {} does not run: {why}",
                    self.title()
                ),
            )
            .hint("only a container that runs has something to store; `kubectl describe pod` says why it does not"));
        }
        Ok(chosen.into_iter().map(|c| c.name.clone()).collect())
    }
}

fn not_running(state: Option<&Value>) -> Option<String> {
    let Some(state) = state else {
        return Some("it has no state yet".to_owned());
    };
    if state.get("running").is_some() {
        return None;
    }
    for word in ["waiting", "terminated"] {
        if let Some(why) = state.get(word) {
            let reason = text(why, "/reason");
            return Some(if reason.is_empty() {
                word.to_owned()
            } else {
                format!("{word} ({reason})")
            });
        }
    }
    Some("it has no state yet".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: &[(&str, Value)]) -> Pod {
        let spec: Vec<_> = containers.iter().map(|(n, _)| json!({"name": n})).collect();
        let states: Vec<_> = containers
            .iter()
            .map(|(n, state)| json!({"name": n, "state": state}))
            .collect();
        Pod::new(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u1", "annotations": {"kubernetes.io/config.hash": "u2"}},
            "spec": {"nodeName": "n1", "containers": spec, "initContainers": [{"name": "setup"}, {"name": "mesh", "restartPolicy": "Always"}]},
            "status": {"containerStatuses": states, "initContainerStatuses": [{"name": "mesh", "state": {"running": {}}}]},
        }))
        .unwrap()
    }

    fn without_sidecar(mut pod: Pod) -> Pod {
        pod.containers.retain(|c| c.name != "mesh");
        pod
    }

    #[test]
    fn the_only_container_need_not_be_named() {
        let pod = without_sidecar(pod(&[("app", json!({"running": {}}))]));
        assert_eq!(pod.choose(&Choice::Only).unwrap(), ["app"]);
    }

    #[test]
    fn several_containers_are_named_in_the_refusal_sidecars_too_and_finished_init_containers_not() {
        let pod = pod(&[("app", json!({"running": {}}))]);
        let e = pod.choose(&Choice::Only).unwrap_err();
        assert!(e.to_string().contains("2 containers: app, mesh"), "{e}");
        assert_eq!(pod.choose(&Choice::All).unwrap(), ["app", "mesh"]);
        let e = pod.choose(&Choice::Named("setup".into())).unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
    }

    #[test]
    fn a_container_that_does_not_run_is_refused_with_its_reason() {
        let pod = pod(&[("app", json!({"waiting": {"reason": "CrashLoopBackOff"}}))]);
        let e = pod.choose(&Choice::Named("app".into())).unwrap_err();
        assert!(
            e.to_string()
                .contains("does not run: waiting (CrashLoopBackOff)"),
            "{e}"
        );
        let e = pod.choose(&Choice::All).unwrap_err();
        assert!(e.to_string().contains("container app"), "{e}");
    }

    #[test]
    fn a_pod_from_a_file_is_known_by_the_kubelets_uid_too() {
        let pod = pod(&[]);
        assert!(pod.has_uid("u1") && pod.has_uid("u2") && !pod.has_uid("u3"));
    }

    #[test]
    fn what_could_leave_its_place_in_a_url_is_no_name() {
        for bad in ["", "a/b", "..", "a b", "A", "a%2fb", "-a", "a\n", "a_b"] {
            assert!(check_name("pod", bad).is_err(), "{bad:?}");
        }
        for good in ["web-0", "a.b", "0"] {
            assert!(check_name("pod", good).is_ok(), "{good:?}");
        }
    }
}
