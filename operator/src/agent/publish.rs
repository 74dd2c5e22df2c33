//! Owns what agents and their clients find out about each other through the API server: an agent's certificate, the cluster's authority of clients, and
//! the agents of a node.

use cryostore_engine::{Error, Kind, Monitor, Result};
use reqwest::Method;
use serde_json::{Value, json};

use super::caller::Gate;
use super::{Agent, tls};
use crate::Cluster;
use crate::pod::{check_name, text};

/// The ConfigMap with the agents' certificates, one key a node.
pub const CONFIG_MAP: &str = "cryostore-agents";
/// Where the agents are, if nobody says otherwise.
pub const NAMESPACE: &str = "cryostore";
/// The authority of clients, as the API server publishes it for servers beside it.
const AUTHORITIES: &str =
    "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";

/// PEM; none: the cluster has no authority of clients, or there is no cluster.
pub(crate) fn client_authorities(gate: &Gate, monitor: &dyn Monitor) -> Result<Option<String>> {
    let Some(cluster) = gate.cluster() else {
        return Ok(None);
    };
    let what = "reading the cluster's authority of clients";
    let asked = cluster.ask(
        Method::GET,
        AUTHORITIES,
        None,
        what,
        ("configmaps", "get"),
        monitor,
    );
    match asked {
        Ok(map) => {
            let pem = text(&map, "/data/client-ca-file");
            Ok((!pem.is_empty()).then(|| pem.to_owned()))
        }
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) if e.kind() == Kind::Denied => {
            monitor.warning(&format!(
                "client certificates are not taken, only tokens: {e} (a binding to the role extension-apiserver-authentication-reader in kube-system is missing)"
            ));
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Writes the agent's own certificate where clients find it.
pub(crate) fn certificate(agent: &Agent, pem: &str, monitor: &dyn Monitor) -> Result<()> {
    let (Some(cluster), Some(namespace)) = (agent.gate.cluster(), &agent.options.namespace) else {
        return Ok(());
    };
    check_name("namespace", namespace)?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}");
    let body = json!({"data": {agent.options.node.as_str(): pem}});
    let what = format!("publishing the agent's certificate in ConfigMap {namespace}/{CONFIG_MAP}");
    let asked = cluster.ask(
        Method::PATCH,
        &path,
        Some(&body),
        &what,
        ("configmaps", "patch"),
        monitor,
    );
    asked.map(drop).map_err(|e| {
        let advice = e.advice().unwrap_or_default().to_owned();
        Error::new(e.kind(), e.to_string()).hint(format!(
            "{advice}; deploy/agent.yaml makes the ConfigMap and the role; with --tls-cert nothing is published"
        ))
    })
}

/// Where an agent is, and what it is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) port: u16,
}

/// The port of an agent whose pod does not say.
const PORT: u16 = 10350;

/// The agent of a node.
pub(crate) fn agent_of(
    cluster: &Cluster,
    namespace: &str,
    node: &str,
    monitor: &dyn Monitor,
) -> Result<Found> {
    check_name("namespace", namespace)?;
    check_name("node", node)?;
    let path = format!(
        "/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io%2Fname%3D{}&fieldSelector=spec.nodeName%3D{node}",
        tls::NAME
    );
    let what = format!("looking for the agent of node {node}");
    let list = cluster.ask(Method::GET, &path, None, &what, ("pods", "list"), monitor)?;
    let pods = list["items"].as_array();
    let running = |pod: &&Value| {
        text(pod, "/status/phase") == "Running"
            && pod.pointer("/metadata/deletionTimestamp").is_none()
    };
    let Some(pod) = pods.into_iter().flatten().find(running) else {
        return Err(Error::new(
            Kind::NotFound,
            format!("node {node} has no agent that runs (namespace {namespace}, label app.kubernetes.io/name={})", tls::NAME),
        )
        .hint(format!("`kubectl apply -f deploy/agent.yaml` starts one on each node; or run the same command on node {node}, as root; nothing was frozen")));
    };
    let ports = pod
        .pointer("/spec/containers/0/ports")
        .and_then(Value::as_array);
    let port = ports
        .into_iter()
        .flatten()
        .find(|port| text(port, "/name") == "agent");
    let port = port
        .and_then(|port| port["containerPort"].as_u64())
        .and_then(|port| u16::try_from(port).ok());
    let name = text(pod, "/metadata/name");
    check_name("pod", name)?;
    Ok(Found {
        namespace: namespace.to_owned(),
        pod: name.to_owned(),
        port: port.unwrap_or(PORT),
    })
}

/// What a node's agent is known by, PEM.
pub(crate) fn certificate_of(
    cluster: &Cluster,
    namespace: &str,
    node: &str,
    monitor: &dyn Monitor,
) -> Result<String> {
    check_name("namespace", namespace)?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}");
    let what = format!("reading the certificate of node {node}'s agent");
    let needs = ("configmaps", "get");
    let map = cluster.ask(Method::GET, &path, None, &what, needs, monitor)?;
    match map["data"][node].as_str().unwrap_or_default() {
        "" => Err(Error::new(
            Kind::NotFound,
            format!("the agent of node {node} has no certificate in ConfigMap {namespace}/{CONFIG_MAP}"),
        )
        .hint("the agent writes it when it starts: look into its log; or it has one of your own authority: say --agent-ca FILE")),
        pem => Ok(pem.to_owned()),
    }
}
