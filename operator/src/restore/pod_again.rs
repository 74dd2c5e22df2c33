//! Owns the new pod: what of the old one it takes over, what it goes without, and why. Pure.
//!
//! Always: containers keep their names, and fields that this version does not know stay; each thing that is left out is named with its reason. Never: carries over what
//! makes a controller take it for one of its own.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::capture::without_injected_tokens;
use crate::pod::text;

/// The annotation that names the snapshot.
pub const SNAPSHOT: &str = "cryostore/snapshot";
/// The annotation that names the container that goes on from it.
pub const CONTAINER: &str = "cryostore/container";
/// The annotation that says which refusals were overruled.
pub const FORCED: &str = "cryostore/forced";

/// Labels by which controllers know their own pods.
const OF_CONTROLLERS: [&str; 9] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "job-name",
    "batch.kubernetes.io/job-name",
];
/// What the API server works out by itself, and refuses if it is said and differs.
const WORKED_OUT: [&str; 2] = ["priority", "preemptionPolicy"];

/// Whether a container that ends is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum RestartPolicy {
    /// Never.
    #[default]
    Never,
    /// If it failed.
    OnFailure,
    /// Always.
    Always,
}

impl RestartPolicy {
    /// As a pod has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "Never",
            Self::OnFailure => "OnFailure",
            Self::Always => "Always",
        }
    }

    /// What a crash after the restore does.
    #[must_use]
    pub const fn after_a_crash(self) -> &'static str {
        match self {
            Self::Never => {
                "a crash after the restore ends the container for good; nothing starts it again"
            }
            Self::OnFailure => {
                "a crash after the restore starts the container from the checkpoint AGAIN: it goes back to the moment of the checkpoint, each time"
            }
            Self::Always => {
                "whenever the container ends, it starts from the checkpoint AGAIN: it goes back to the moment of the checkpoint, each time"
            }
        }
    }
}

/// Something that the new pod goes without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// What, such as `init container wait-for-db`.
    pub what: String,
    /// Why.
    pub why: &'static str,
}

/// What the new pod is to be.
#[derive(Debug, Clone)]
pub struct New<'n> {
    /// Its namespace.
    pub namespace: &'n str,
    /// Its name.
    pub name: &'n str,
    /// Where it is to run.
    pub node: &'n str,
    /// The container that goes on.
    pub container: &'n str,
    /// The image with the checkpoint.
    pub image: &'n str,
    /// Whether a container that ends is started again.
    pub restart: RestartPolicy,
    /// More annotations.
    pub notes: &'n [(String, String)],
}

/// The new pod, and what it goes without. None: the old one has no such container.
#[must_use]
pub fn make(old: &Value, new: &New<'_>) -> Option<(Value, Vec<Dropped>)> {
    let mut dropped = Vec::new();
    let mut drop = |what: String, why| dropped.push(Dropped { what, why });
    let mut spec = old.get("spec")?.as_object()?.clone();
    if spec.remove("nodeName").is_some() {
        drop(
            "nodeName".to_owned(),
            "the scheduler binds it, by a node affinity",
        );
    }
    if spec
        .remove("ephemeralContainers")
        .is_some_and(|list| !is_empty(&list))
    {
        drop(
            "ephemeral containers".to_owned(),
            "they cannot be part of a new pod",
        );
    }
    without_injected_tokens(&mut spec);
    for key in WORKED_OUT {
        spec.remove(key);
    }
    init_containers(&mut spec, &mut drop);
    if !use_image(&mut spec, new) {
        return None;
    }
    bind(&mut spec, new.node);
    spec.insert("restartPolicy".to_owned(), new.restart.name().into());

    let mut notes = map_at(old, "/metadata/annotations");
    notes.remove("kubectl.kubernetes.io/last-applied-configuration");
    for (key, value) in new.notes {
        notes.insert(key.clone(), value.as_str().into());
    }
    let mut labels = map_at(old, "/metadata/labels");
    for key in OF_CONTROLLERS {
        if labels.remove(key).is_some() {
            drop(
                format!("label {key}"),
                "the old pod's controller would take the new one for its own",
            );
        }
    }
    for owner in old
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        drop(
            format!("owner {} {}", text(owner, "/kind"), text(owner, "/name")),
            "it would end the new pod, or has one in its place already",
        );
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": new.name, "namespace": new.namespace, "labels": labels, "annotations": notes},
        "spec": spec,
    });
    Some((pod, dropped))
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn map_at(json: &Value, pointer: &str) -> Map<String, Value> {
    let found = json.pointer(pointer).and_then(Value::as_object);
    found.cloned().unwrap_or_default()
}

/// Those that ran before the others have done their work, and it is in the checkpoint or in volumes; those that go on beside them stay.
fn init_containers(spec: &mut Map<String, Value>, drop: &mut impl FnMut(String, &'static str)) {
    let Some(Value::Array(list)) = spec.get_mut("initContainers") else {
        return;
    };
    list.retain(|container| {
        let is_sidecar = text(container, "/restartPolicy") == "Always";
        if !is_sidecar {
            drop(
                format!("init container {}", text(container, "/name")),
                "its work was done before the checkpoint; what it left in an emptyDir is lost",
            );
        }
        is_sidecar
    });
    if list.is_empty() {
        spec.remove("initContainers");
    }
}

fn use_image(spec: &mut Map<String, Value>, new: &New<'_>) -> bool {
    for key in ["containers", "initContainers"] {
        let list = spec.get_mut(key).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten() {
            if text(container, "/name") == new.container {
                container["image"] = new.image.into();
                // It is on the node, and in no registry.
                container["imagePullPolicy"] = "Never".into();
                return true;
            }
        }
    }
    false
}

/// Any of the terms is enough for the scheduler: each of them has to want the node.
fn bind(spec: &mut Map<String, Value>, node: &str) {
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    let mut affinity = match spec.remove("affinity") {
        Some(Value::Object(map)) => Value::Object(map),
        _ => json!({}),
    };
    let pointer = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    match affinity.pointer_mut(pointer).and_then(Value::as_array_mut) {
        Some(terms) if !terms.is_empty() => {
            for term in terms {
                // No API server gave such a term away; indexing into it would panic.
                if !term.is_object() {
                    *term = json!({});
                }
                match term.get_mut("matchFields").and_then(Value::as_array_mut) {
                    // Of two fields both would have to hold: an old one that names another node could never.
                    Some(fields) => {
                        fields.retain(|old| text(old, "/key") != "metadata.name");
                        fields.push(field.clone());
                    }
                    None => term["matchFields"] = json!([field]),
                }
            }
        }
        _ => {
            if !affinity["nodeAffinity"].is_object() {
                affinity["nodeAffinity"] = json!({});
            }
            affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
        }
    }
    spec.insert("affinity".to_owned(), affinity);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new<'n>(notes: &'n [(String, String)]) -> New<'n> {
        New {
            namespace: "shop",
            name: "web-restored-3f9a2b",
            node: "n2",
            container: "app",
            image: "localhost/x:1",
            restart: RestartPolicy::Never,
            notes,
        }
    }

    fn old(spec: Value) -> Value {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "app", "image": "app:1"}, {"name": "log", "image": "log:1", "imagePullPolicy": "Always"}]);
        }
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
    }

    fn made(old: &Value) -> (Value, Vec<String>) {
        let (pod, dropped) = make(old, &new(&[])).unwrap();
        (pod, dropped.into_iter().map(|one| one.what).collect())
    }

    #[test]
    fn terms_that_are_no_terms_want_the_node_too() {
        let terms = json!({"nodeSelectorTerms": ["boom", null, {"matchFields": "x"}]});
        let affinity =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
        let (pod, _) = made(&old(json!({"affinity": affinity})));
        let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
        for term in pod.pointer(terms).unwrap().as_array().unwrap() {
            assert_eq!(term["matchFields"][0]["values"][0], "n2");
        }
    }

    #[test]
    fn the_container_alone_gets_the_image_and_is_never_pulled() {
        let (pod, dropped) = made(&old(json!({})));
        assert_eq!(
            pod["spec"]["containers"],
            json!([
                {"name": "app", "image": "localhost/x:1", "imagePullPolicy": "Never"},
                {"name": "log", "image": "log:1", "imagePullPolicy": "Always"},
            ])
        );
        assert_eq!(pod["spec"]["restartPolicy"], "Never");
        assert_eq!(pod["metadata"]["name"], "web-restored-3f9a2b");
        assert!(dropped.is_empty(), "{dropped:?}");
    }

    #[test]
    fn init_containers_go_and_sidecars_stay() {
        let (pod, dropped) = made(&old(json!({"initContainers": [
            {"name": "wait", "image": "w"}, {"name": "proxy", "image": "p", "restartPolicy": "Always"},
        ]})));
        assert_eq!(dropped, ["init container wait"]);
        assert_eq!(
            pod["spec"]["initContainers"],
            json!([{"name": "proxy", "image": "p", "restartPolicy": "Always"}])
        );
        let (pod, _) = made(&old(json!({"initContainers": [{"name": "wait"}]})));
        assert!(pod["spec"].get("initContainers").is_none());
    }

    #[test]
    fn a_sidecar_can_be_what_goes_on() {
        let old = old(json!({"initContainers": [{"name": "proxy", "restartPolicy": "Always"}]}));
        let mut wanted = new(&[]);
        wanted.container = "proxy";
        let (pod, _) = make(&old, &wanted).unwrap();
        assert_eq!(pod["spec"]["initContainers"][0]["image"], "localhost/x:1");
        assert_eq!(pod["spec"]["containers"][0]["image"], "app:1");
        wanted.container = "nobody";
        assert!(make(&old, &wanted).is_none());
    }

    #[test]
    fn nothing_of_the_old_pods_controller_node_or_tokens_is_left() {
        let mut old = old(json!({
            "nodeName": "n1", "priority": 5, "priorityClassName": "high", "ephemeralContainers": [{"name": "debug"}],
            "volumes": [{"name": "kube-api-access-x", "projected": {}}, {"name": "data", "emptyDir": {}}],
            "containers": [{"name": "app", "volumeMounts": [
                {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}, {"name": "data", "mountPath": "/data"},
            ]}],
        }));
        old["metadata"]["ownerReferences"] =
            json!([{"kind": "ReplicaSet", "name": "web-1", "controller": true}]);
        old["metadata"]["labels"] = json!({"app": "web", "pod-template-hash": "1"});
        old["status"] = json!({"podIP": "10.0.0.1"});
        let (pod, dropped) = made(&old);
        assert_eq!(
            dropped,
            [
                "nodeName",
                "ephemeral containers",
                "label pod-template-hash",
                "owner ReplicaSet web-1"
            ]
        );
        assert_eq!(pod["metadata"]["labels"], json!({"app": "web"}));
        for gone in [
            "/status",
            "/spec/nodeName",
            "/spec/priority",
            "/spec/ephemeralContainers",
            "/metadata/ownerReferences",
        ] {
            assert!(pod.pointer(gone).is_none(), "{gone}");
        }
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name": "data", "emptyDir": {}}])
        );
        assert_eq!(
            pod["spec"]["containers"][0]["volumeMounts"],
            json!([{"name": "data", "mountPath": "/data"}])
        );
        assert_eq!(pod["spec"]["priorityClassName"], "high");
    }

    #[test]
    fn the_node_is_wanted_in_each_term_of_an_affinity_that_was_there() {
        let wants = json!({"key": "metadata.name", "operator": "In", "values": ["n2"]});
        let terms = |pod: &Value| {
            pod.pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms").unwrap().clone()
        };
        let (pod, _) = made(&old(json!({})));
        assert_eq!(terms(&pod), json!([{"matchFields": [wants]}]));
        let there = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "Exists"}]},
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
        ]}}, "podAffinity": {}});
        let (pod, _) = made(&old(json!({"affinity": there})));
        assert_eq!(
            terms(&pod),
            json!([{"matchExpressions": [{"key": "disk", "operator": "Exists"}], "matchFields": [wants]}, {"matchFields": [wants]}])
        );
        assert!(pod["spec"]["affinity"].get("podAffinity").is_some());
    }

    #[test]
    fn annotations_of_the_old_pod_stay_and_ours_count() {
        let mut old = old(json!({}));
        old["metadata"]["annotations"] = json!({"note": "kept", "cryostore/snapshot": "a lie"});
        let notes = [(SNAPSHOT.to_owned(), "3f9a".to_owned())];
        let (pod, _) = make(&old, &new(&notes)).unwrap();
        assert_eq!(
            pod["metadata"]["annotations"],
            json!({"note": "kept", "cryostore/snapshot": "3f9a"})
        );
    }
}
