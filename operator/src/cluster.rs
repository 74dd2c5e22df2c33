//! Owns what is asked of the API server: a pod, its node, the pod's end.
//!
//! Always: names are checked before they become part of a path. Never: watches, or reads a Secret.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cryostore_engine::{Error, Kind, Monitor, Result};
use reqwest::Method;
use serde_json::{Value, json};

use crate::account::Account;
use crate::errors;
use crate::http::{Answer, Failed, Link, Place, Trust, Waiting};
use crate::kubelet::{Kubelet, KubeletTls};
use crate::pod::{Pod, check_name, text};

/// 30 s: the API server answers a GET of one object in milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// The port of a kubelet whose node does not say.
const KUBELET_PORT: u16 = 10250;

/// A cluster, and who asks it.
#[derive(Debug)]
pub struct Cluster {
    waiting: Waiting,
    account: Arc<Account>,
    api: Link,
    id: OnceLock<String>,
}

/// A node, as far as it counts here. Empty: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where its kubelet listens, the best address first.
    pub addresses: Vec<String>,
    /// Names that its kubelet's certificate may have.
    pub host_names: Vec<String>,
    /// The kubelet's port.
    pub port: u16,
    /// Which start of which kernel it is.
    pub boot_id: String,
    /// Such as `containerd://2.1.9`.
    pub runtime: String,
    /// Such as `v1.37.0`.
    pub kubelet_version: String,
    /// Such as `Debian GNU/Linux 13 (trixie)`.
    pub os_image: String,
}

impl Node {
    /// Reads what the API server said.
    pub fn new(json: &Value) -> Result<Self> {
        let of = |pointer: &str| text(json, pointer).to_owned();
        let said = json.pointer("/status/addresses").and_then(Value::as_array);
        let of_kind = |kind: &str| -> Vec<String> {
            let found = said.into_iter().flatten();
            let found = found.filter(|address| text(address, "/type") == kind);
            found.map(|a| text(a, "/address").to_owned()).collect()
        };
        let name = of("/metadata/name");
        let mut host_names = [of_kind("Hostname"), of_kind("InternalDNS")].concat();
        host_names.push(name.clone());
        host_names.dedup();
        let port = json
            .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
            .and_then(Value::as_u64)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0);
        let node = Self {
            addresses: [
                of_kind("InternalIP"),
                of_kind("ExternalIP"),
                host_names.clone(),
            ]
            .concat(),
            host_names,
            port: port.unwrap_or(KUBELET_PORT),
            boot_id: of("/status/nodeInfo/bootID"),
            runtime: of("/status/nodeInfo/containerRuntimeVersion"),
            kubelet_version: of("/status/nodeInfo/kubeletVersion"),
            os_image: of("/status/nodeInfo/osImage"),
            name,
        };
        match node.name.as_str() {
            "" => Err(Error::new(
                Kind::Unavailable,
                "the API server's answer is no node: it has no metadata.name",
            )),
            _ => Ok(node),
        }
    }
}

/// Host and port as a URL has them.
pub(crate) fn authority(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// Where the API server is. Where the kubeconfig says another name for its certificate, that name stands in the URL, and the address beside it.
fn place(url: &str, server_name: Option<&str>) -> Result<Place> {
    let mut place = Place {
        url: url.to_owned(),
        at: None,
        proxy: None,
    };
    if let Some(name) = server_name {
        let unusable = || {
            Error::new(
                Kind::Unsupported,
                format!("the kubeconfig has a tls-server-name for {url}, which is no address"),
            )
            .hint("use an address such as https://10.0.0.1:6443 with tls-server-name, or no tls-server-name")
        };
        let rest = url.strip_prefix("https://").ok_or_else(unusable)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let with_port = if bare.parse::<IpAddr>().is_ok() {
            authority(bare, 443)
        } else {
            host.to_owned()
        };
        let at: SocketAddr = with_port.parse().map_err(|_| unusable())?;
        place.url = format!("https://{name}:{}/{path}", at.port())
            .trim_end_matches('/')
            .to_owned();
        place.at = Some((name.to_owned(), at));
    }
    Ok(place)
}

impl Cluster {
    /// Finds out who asks whom, as `kubectl` does; contacts nobody yet. `context`: another one than the kubeconfig's current.
    pub fn connect(context: Option<&str>, monitor: &dyn Monitor) -> Result<Self> {
        let waiting = Waiting::new()?;
        let account = waiting.wait(monitor, Account::find(context));
        let account = Arc::new(account.ok_or_else(stopped)??);
        let api = Link::new(&account, &Self::place(&account)?, &Self::trust(&account))?;
        Ok(Self {
            waiting,
            account,
            api,
            id: OnceLock::new(),
        })
    }

    fn trust(account: &Account) -> Trust {
        match (account.insecure, &account.roots) {
            (true, _) => Trust::Nobody,
            (false, Some(roots)) => Trust::Only(roots.clone()),
            (false, None) => Trust::System,
        }
    }

    /// To the API server, for web sockets.
    pub(crate) fn upgrading_link(&self) -> Result<Link> {
        let account = &self.account;
        Link::upgrading(account, &Self::place(account)?, &Self::trust(account))
    }

    fn place(account: &Account) -> Result<Place> {
        let mut place = place(&account.url, account.server_name.as_deref())?;
        place.proxy.clone_from(&account.proxy);
        Ok(place)
    }

    /// The namespace of the context.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.account.namespace
    }

    /// What no other cluster has: the UID of the namespace kube-system, which a cluster keeps as long as it lives. Asked for once.
    pub fn id(&self, monitor: &dyn Monitor) -> Result<&str> {
        if let Some(id) = self.id.get() {
            return Ok(id);
        }
        let path = "/api/v1/namespaces/kube-system";
        let what = "finding out which cluster this is";
        let needs = ("namespaces", "get");
        let json = self.ask(Method::GET, path, None, what, needs, monitor)?;
        match text(&json, "/metadata/uid") {
            "" => Err(Error::new(
                Kind::Unavailable,
                format!("{what}: the namespace kube-system has no UID"),
            )),
            id => Ok(self.id.get_or_init(|| id.to_owned())),
        }
    }

    /// The pod of this name.
    pub fn pod(&self, namespace: &str, name: &str, monitor: &dyn Monitor) -> Result<Pod> {
        check_name("namespace", namespace)?;
        check_name("pod", name)?;
        let what = format!("pod {namespace}/{name}");
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let json = self.ask(Method::GET, &path, None, &what, ("pods", "get"), monitor)?;
        Pod::new(json)
    }

    /// The node of this name.
    pub fn node(&self, name: &str, monitor: &dyn Monitor) -> Result<Node> {
        check_name("node", name)?;
        let what = format!("node {name}");
        let path = format!("/api/v1/nodes/{name}");
        let json = self.ask(Method::GET, &path, None, &what, ("nodes", "get"), monitor)?;
        Node::new(&json)
    }

    /// Ends this pod, and no other that has got its name meanwhile. It has the time to end that its specification gives it.
    pub fn delete(&self, pod: &Pod, monitor: &dyn Monitor) -> Result<()> {
        let what = format!("deleting pod {}", pod.title());
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
        let body =
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": pod.uid}});
        let needs = ("pods", "delete");
        self.ask(Method::DELETE, &path, Some(&body), &what, needs, monitor)?;
        Ok(())
    }

    /// The kubelet of a node.
    pub fn kubelet(&self, node: &Node, tls: &KubeletTls) -> Result<Kubelet<'_>> {
        Kubelet::new(&self.waiting, &self.account, node, tls)
    }

    /// What waits for the network, and as whom it asks.
    pub(crate) const fn way(&self) -> (&Waiting, &Arc<Account>) {
        (&self.waiting, &self.account)
    }

    pub(crate) fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        what: &str,
        needs: (&str, &str),
        monitor: &dyn Monitor,
    ) -> Result<Value> {
        let asked = self.api.ask(method, path, body, PATIENCE);
        let answer = self.waiting.wait(monitor, asked).ok_or_else(stopped)?;
        let server = &self.account.url;
        let Answer { status, body } = answer.map_err(|failed| match failed {
            Failed::Other(e) => e,
            Failed::Certificate { text, .. } => Error::new(
                Kind::Denied,
                format!("{what}: the API server {server} is not whom the kubeconfig trusts: {text}"),
            )
            .hint("look for certificate-authority in the kubeconfig"),
            Failed::Away(text) | Failed::Broken(text) => Error::new(
                Kind::Unavailable,
                format!("{what}: the API server {server} does not answer: {text}"),
            )
            .hint("look whether the cluster runs and can be reached from here: `kubectl get --raw /readyz`"),
            Failed::TimedOut => Error::new(
                Kind::Unavailable,
                format!(
                    "{what}: the API server {server} has not answered within {} s",
                    PATIENCE.as_secs()
                ),
            )
            .hint("try again later"),
        })?;
        if !(200..300).contains(&status) {
            return Err(errors::of_api(what, status, &body, needs));
        }
        serde_json::from_str(&body).map_err(|e| {
            Error::new(
                Kind::Unavailable,
                format!("{what}: the API server {server} answers something that is no JSON: {e}"),
            )
            .hint("look whether something else answers in its place")
        })
    }
}

pub(crate) fn stopped() -> Error {
    Error::new(Kind::Interrupted, "stopped before it was done")
}

/// A file with certificates of authorities.
pub(crate) fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>> {
    let pem = std::fs::read(path).map_err(|e| {
        Error::io(path.display(), e).hint("it is to hold the certificates of authorities, PEM")
    })?;
    crate::http::certificates(&pem).ok_or_else(|| {
        Error::new(
            Kind::Invalid,
            format!("{}: it holds no certificate", path.display()),
        )
        .hint("it is to hold the certificates of authorities, PEM")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_is_asked_at_the_nodes_own_address_and_port() {
        let node = Node::new(&json!({
            "metadata": {"name": "n1"},
            "status": {
                "addresses": [{"type": "Hostname", "address": "host1"}, {"type": "ExternalIP", "address": "1.2.3.4"}, {"type": "InternalIP", "address": "10.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10255}},
                "nodeInfo": {"bootID": "b1", "containerRuntimeVersion": "containerd://2.1.9"},
            },
        }))
        .unwrap();
        assert_eq!(node.addresses, ["10.0.0.1", "1.2.3.4", "host1", "n1"]);
        assert_eq!((node.port, node.boot_id.as_str()), (10255, "b1"));
        let bare = Node::new(&json!({"metadata": {"name": "n1"}})).unwrap();
        assert_eq!((bare.port, bare.addresses), (10250, vec!["n1".to_owned()]));
        assert!(Node::new(&json!({"kind": "Status"})).is_err());
    }

    #[test]
    fn a_server_with_another_name_in_its_certificate_is_still_asked_at_its_address() {
        let named = |url: &str| {
            let place = place(url, Some("kubernetes")).unwrap();
            (place.url, place.at.unwrap().1.to_string())
        };
        let at = |url: &str, at: &str| (url.to_owned(), at.to_owned());
        assert_eq!(
            named("https://10.0.0.1:6443"),
            at("https://kubernetes:6443", "10.0.0.1:6443")
        );
        assert_eq!(
            named("https://10.0.0.1"),
            at("https://kubernetes:443", "10.0.0.1:443")
        );
        assert_eq!(
            named("https://[fd00::1]/k8s/c1"),
            at("https://kubernetes:443/k8s/c1", "[fd00::1]:443")
        );
        assert!(place("https://api.example:6443", Some("x")).is_err());
        assert_eq!(place("https://a:1", None).unwrap().url, "https://a:1");
    }

    #[test]
    fn an_address_of_ipv6_stands_in_brackets() {
        assert_eq!(authority("fd00::1", 10250), "[fd00::1]:10250");
        assert_eq!(authority("10.0.0.1", 1), "10.0.0.1:1");
    }
}
