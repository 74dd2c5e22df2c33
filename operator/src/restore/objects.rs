//! Owns what a restore asks of the API server: nodes, names that are taken, what the new pod wants; and the new pod itself.
//!
//! Always: what may not be looked at is not known, and not missing. Never: reads a Secret, or the contents of a ConfigMap beyond that it is there.

use cryostore_engine::{Error, Kind, Monitor, Result};
use reqwest::Method;
use serde_json::Value;

use super::plan::{Claim, ClusterView, NodeView, Wish, names, names_in, namespace};
use super::preflight::Place;
use super::source::Source;
use crate::capture::Host;
use crate::cluster::Cluster;
use crate::here;
use crate::pod::{Pod, check_name, text};

/// Looks at all that a plan has to know of the cluster.
pub fn look(
    cluster: &Cluster,
    source: &Source,
    wish: &Wish,
    here: &Place,
    monitor: &dyn Monitor,
) -> Result<ClusterView> {
    let namespace = namespace(source, wish)?;
    let mut view = ClusterView {
        nodes: nodes(cluster, here, monitor)?,
        has_namespace: there(
            cluster,
            &format!("/api/v1/namespaces/{namespace}"),
            ("namespaces", "get"),
            monitor,
        )?,
        ..ClusterView::default()
    };
    for name in names(source, wish)? {
        match cluster.has_pod(namespace, &name, monitor)? {
            Some(true) => {
                view.taken.insert(name);
            }
            _ => break,
        }
    }
    let pod = source.pod.clone().unwrap_or_default();
    for name in names_in(&pod, &["persistentVolumeClaim/claimName"]) {
        check_name("PersistentVolumeClaim", &name)?;
        let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}");
        let found = get(cluster, &path, ("persistentvolumeclaims", "get"), monitor)?;
        let is_for_one_node = matches!(&found, Seen::There(json) if is_for_one_node(json));
        view.claims.push(Claim {
            name,
            exists: found.exists(),
            is_for_one_node,
        });
    }
    for name in names_in(
        &pod,
        &[
            "configMapRef/name",
            "configMapKeyRef/name",
            "configMap/name",
        ],
    ) {
        check_name("ConfigMap", &name)?;
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
        if there(cluster, &path, ("configmaps", "get"), monitor)? == Some(false) {
            view.missing_config_maps.push(name);
        }
    }
    Ok(view)
}

fn is_for_one_node(claim: &Value) -> bool {
    let modes = claim.pointer("/spec/accessModes").and_then(Value::as_array);
    let mut modes = modes.into_iter().flatten().filter_map(Value::as_str);
    !modes.any(|mode| mode.ends_with("Many"))
}

/// What came of asking.
enum Seen {
    There(Value),
    Missing,
    /// The user may not look.
    Hidden,
}

impl Seen {
    const fn exists(&self) -> Option<bool> {
        match self {
            Self::There(_) => Some(true),
            Self::Missing => Some(false),
            Self::Hidden => None,
        }
    }
}

fn get(cluster: &Cluster, path: &str, needs: (&str, &str), monitor: &dyn Monitor) -> Result<Seen> {
    match cluster.ask(Method::GET, path, None, path, needs, monitor) {
        Ok(json) => Ok(Seen::There(json)),
        Err(e) if e.kind() == Kind::NotFound => Ok(Seen::Missing),
        Err(e) if e.kind() == Kind::Denied => Ok(Seen::Hidden),
        Err(e) => Err(e),
    }
}

fn there(
    cluster: &Cluster,
    path: &str,
    needs: (&str, &str),
    monitor: &dyn Monitor,
) -> Result<Option<bool>> {
    Ok(get(cluster, path, needs, monitor)?.exists())
}

/// The cluster's nodes; `here` is this machine, and what is known of the one that it is.
pub fn nodes(cluster: &Cluster, here: &Place, monitor: &dyn Monitor) -> Result<Vec<NodeView>> {
    let list = cluster.ask(
        Method::GET,
        "/api/v1/nodes",
        None,
        "the list of nodes",
        ("nodes", "list"),
        monitor,
    )?;
    let items = list.get("items").and_then(Value::as_array);
    items
        .into_iter()
        .flatten()
        .map(|json| node(json, here))
        .collect()
}

/// What the API server shows of a node; of this machine, what the machine itself shows.
fn node(json: &Value, here: &Place) -> Result<NodeView> {
    let conditions = json.pointer("/status/conditions").and_then(Value::as_array);
    let is_ready = conditions.into_iter().flatten().any(|condition| {
        text(condition, "/type") == "Ready" && text(condition, "/status") == "True"
    });
    let info = |key: &str| text(json, &format!("/status/nodeInfo/{key}")).to_owned();
    let is_here = here::is_here(&info("bootID"))?;
    let mut place = if is_here {
        here.clone()
    } else {
        Place {
            host: Host {
                arch: machine(&info("architecture")),
                kernel: info("kernelVersion"),
                ..Host::default()
            },
            ..Place::default()
        }
    };
    place.name = text(json, "/metadata/name").to_owned();
    place.host.runtime = info("containerRuntimeVersion");
    Ok(NodeView {
        place,
        is_ready,
        is_cordoned: json.pointer("/spec/unschedulable") == Some(&Value::Bool(true)),
        is_here,
    })
}

/// As the kernel names it; nodes have Go's names.
fn machine(architecture: &str) -> String {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
    .to_owned()
}

impl Cluster {
    /// Makes a pod; gives its UID.
    pub fn create_pod(&self, pod: &Value, monitor: &dyn Monitor) -> Result<String> {
        let (namespace, name) = (
            text(pod, "/metadata/namespace"),
            text(pod, "/metadata/name"),
        );
        check_name("namespace", namespace)?;
        check_name("pod", name)?;
        let what = format!("making pod {namespace}/{name}");
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let needs = ("pods", "create");
        let made = self.ask(Method::POST, &path, Some(pod), &what, needs, monitor)?;
        match text(&made, "/metadata/uid") {
            "" => Err(Error::new(
                Kind::Unavailable,
                format!("{what}: the API server's answer is no pod"),
            )),
            uid => Ok(uid.to_owned()),
        }
    }

    /// Whether there is a pod of this name; none: the user may not look.
    pub fn has_pod(
        &self,
        namespace: &str,
        name: &str,
        monitor: &dyn Monitor,
    ) -> Result<Option<bool>> {
        check_name("namespace", namespace)?;
        check_name("pod", name)?;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        there(self, &path, ("pods", "get"), monitor)
    }

    /// A pod that was made here, as it is now; none if it is gone, or if another one has its name.
    pub(crate) fn pod_if_there(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        monitor: &dyn Monitor,
    ) -> Result<Option<Pod>> {
        match self.pod(namespace, name, monitor) {
            Ok(pod) => Ok((pod.uid == uid).then_some(pod)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}
