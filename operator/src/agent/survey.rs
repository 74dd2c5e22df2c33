//! Owns what can be said of each node of a cluster, and where it is known from: the API server, the kubelet, the node's agent.
//!
//! Always: a node of which nothing more is known stays in the list, with the reason; each fact has its source. Never: freezes anything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use cryostore_engine::{Error, Monitor, Result};
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;

use super::calls::{Checkpoints, Facts};
use super::client::{Remote, Way};
use super::node::{RestoreSwitch, State, version};
use crate::cluster::{Cluster, Node};
use crate::kubelet::KubeletTls;
use crate::pod::text;

/// Nodes that are asked at once: most of the time is waiting for those that are away.
const AT_ONCE: usize = 16;
/// Nodes of one answer of the API server; each has some 10 KiB.
const PAGE: usize = 250;
/// 100,000 nodes; no cluster has as many.
const PAGES: usize = 400;

const API: &str = "node.status";
const AGENT: &str = "the node's agent";

/// Something that is known, or why it is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// None: not known.
    pub value: Option<String>,
    /// Where it is from, or why it is not known.
    pub source: String,
    /// What would change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// One node.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Surveyed {
    /// Its name.
    pub node: String,
    /// Whether it is Ready.
    pub ready: Fact,
    /// The kubelet's version.
    pub kubelet: Fact,
    /// Whether the kubelet takes checkpoints: `on` or `off`.
    pub checkpoints: Fact,
    /// Container runtime.
    pub runtime: Fact,
    /// Kernel.
    pub kernel: Fact,
    /// CRIU's version.
    pub criu: Fact,
    /// Whether the runtime restores: `on` or `off`.
    pub restore: Fact,
    /// The folder of archives; none: no agent says.
    pub folder: Option<Checkpoints>,
    /// Why the agent says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_agent: Option<String>,
    /// What should be looked after.
    pub warnings: Vec<String>,
}

fn known(value: &str, source: &str) -> Fact {
    Fact {
        value: (!value.is_empty()).then(|| value.to_owned()),
        source: source.to_owned(),
        cure: None,
    }
}

fn unknown(why: &str) -> Fact {
    known("", why)
}

impl From<&RestoreSwitch> for Fact {
    fn from(switch: &RestoreSwitch) -> Self {
        let value = (switch.state != State::Unknown).then(|| switch.state.word().to_owned());
        Self {
            value,
            source: switch.source.clone(),
            cure: switch.cure.clone(),
        }
    }
}

/// CVE-2025-0426: an unauthenticated port of the kubelet took checkpoints, until the disk was full.
#[must_use]
pub fn kubelet_warning(kubelet: &str) -> Option<String> {
    let (major, minor, patch) = version(kubelet)?;
    let mended = match (major, minor) {
        (1, 25..=28) => None,
        (1, 29) => Some(14),
        (1, 30) => Some(10),
        (1, 31) => Some(6),
        (1, 32) => Some(2),
        _ => return None,
    };
    if mended.is_some_and(|mended| patch >= mended) {
        return None;
    }
    Some(format!(
        "kubelet {kubelet} has CVE-2025-0426: where its read-only port (10255) is open, anybody can fill the disk with checkpoints; set readOnlyPort: 0, or take 1.29.14, 1.30.10, 1.31.6, 1.32.2 or later"
    ))
}

/// All nodes, in the order of their names.
pub fn survey(
    cluster: &Cluster,
    way: &Way,
    tls: &KubeletTls,
    monitor: &dyn Monitor,
) -> Result<Vec<Surveyed>> {
    let nodes = nodes(cluster, monitor)?;
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(nodes.len()) {
            scope.spawn(|| {
                while let Some(json) = nodes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let surveyed = look(cluster, json, way, tls, monitor);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(surveyed);
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(done)
}

fn nodes(cluster: &Cluster, monitor: &dyn Monitor) -> Result<Vec<Value>> {
    let (mut out, mut next) = (Vec::new(), String::new());
    for _ in 0..PAGES {
        let path = format!("/api/v1/nodes?limit={PAGE}&continue={}", escaped(&next));
        let needs = ("nodes", "list");
        let mut list = cluster.ask(Method::GET, &path, None, "listing nodes", needs, monitor)?;
        if let Some(items) = list["items"].as_array_mut() {
            out.append(items);
        }
        text(&list, "/metadata/continue").clone_into(&mut next);
        if next.is_empty() {
            break;
        }
    }
    Ok(out)
}

/// As a part of a query.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.bytes()
        .map(|b| match plain(b) {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        })
        .collect()
}

fn look(
    cluster: &Cluster,
    json: &Value,
    way: &Way,
    tls: &KubeletTls,
    monitor: &dyn Monitor,
) -> Surveyed {
    let name = text(json, "/metadata/name").to_owned();
    let of = |key: &str| known(text(json, &format!("/status/nodeInfo/{key}")), API);
    let mut out = Surveyed {
        ready: ready(json),
        kubelet: of("kubeletVersion"),
        runtime: of("containerRuntimeVersion"),
        kernel: of("kernelVersion"),
        node: name,
        ..Surveyed::default()
    };
    out.warnings
        .extend(out.kubelet.value.as_deref().and_then(kubelet_warning));
    let facts =
        Remote::find(cluster, &out.node, way, monitor).and_then(|agent| agent.facts(monitor));
    match facts {
        Ok(facts) => out.learn(&facts),
        Err(e) => {
            let why = if e.kind() == cryostore_engine::Kind::NotFound {
                "no agent"
            } else {
                "its agent does not answer"
            };
            out.no_agent = Some(told(&e));
            out.criu = unknown(why);
            out.restore = unknown(why);
            out.checkpoints = gate(cluster, json, tls, monitor);
        }
    }
    out
}

fn told(e: &Error) -> String {
    match e.advice() {
        Some(advice) => format!("{e}; {advice}"),
        None => e.to_string(),
    }
}

fn ready(json: &Value) -> Fact {
    let conditions = json.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions
        .into_iter()
        .flatten()
        .find(|one| text(one, "/type") == "Ready");
    match found.map(|one| text(one, "/status")) {
        Some("True") => known("yes", API),
        Some("False") => known("no", API),
        _ => unknown("its kubelet has not reported"),
    }
}

/// Asks the kubelet itself.
fn gate(cluster: &Cluster, json: &Value, tls: &KubeletTls, monitor: &dyn Monitor) -> Fact {
    let asked = Node::new(json).and_then(|node| cluster.kubelet(&node, tls)?.gate(monitor));
    match asked {
        Ok((state, source)) => gate_fact(state, &source),
        Err(e) => unknown(&told(&e)),
    }
}

fn gate_fact(state: State, source: &str) -> Fact {
    let mut fact = unknown(source);
    if state != State::Unknown {
        fact.value = Some(state.word().to_owned());
    }
    if state == State::Off {
        fact.cure = Some("turn the kubelet's feature gate ContainerCheckpoint on (from Kubernetes 1.30 on it is), and restart it".to_owned());
    }
    fact
}

impl Surveyed {
    fn learn(&mut self, facts: &Facts) {
        self.criu = match &facts.criu {
            Some(version) => known(version, AGENT),
            None => unknown("its agent sees no `criu`"),
        };
        self.restore = Fact::from(&facts.restore);
        self.checkpoints = gate_fact(facts.gate, &facts.gate_source);
        self.folder = Some(facts.checkpoints.clone());
        let folder = &facts.checkpoints;
        if folder.free_bytes.is_some_and(|free| free < folder.bytes) {
            self.warnings.push(format!(
                "{} holds more bytes of archives than are free: a node whose disk is full is not healthy; store and remove them (`cryostore serve-node --watch --adopt`)",
                folder.path.display()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_kubelets_are_warned_of_and_mended_ones_are_not() {
        for (version, has_it) in [
            ("v1.24.9", false),
            ("v1.25.0", true),
            ("v1.29.13", true),
            ("v1.29.14", false),
            ("v1.30.9-eks-1", true),
            ("v1.30.10", false),
            ("v1.31.5+k3s1", true),
            ("v1.32.1", true),
            ("v1.32.2", false),
            ("v1.33.0", false),
            ("x", false),
        ] {
            assert_eq!(kubelet_warning(version).is_some(), has_it, "{version}");
        }
    }

    #[test]
    fn the_word_to_go_on_with_a_list_may_hold_anything() {
        assert_eq!(escaped("eyJ2=/+&"), "eyJ2%3D%2F%2B%26");
    }
}
