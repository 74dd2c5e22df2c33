//! Owns the call that takes a checkpoint: POST /checkpoint/NAMESPACE/POD/CONTAINER of a kubelet.
//!
//! Always: the connection is TLS, and the certificate is checked unless the user said not to. Never: asks again after a call whose end is not known:
//! the container may be frozen by it right now.
//!
//! The kubelet counts its time-out in seconds and raises what is less than its own (2 minutes, its runtimeRequestTimeout); it answers when the archive
//! is written, with its name: {"items":["/var/lib/kubelet/checkpoints/checkpoint-POD_NAMESPACE-CONTAINER-TIME.tar"]}.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cryostore_engine::{Error, Kind, Monitor, Result};
use reqwest::Method;
use serde::Deserialize;

use crate::account::Account;
use crate::agent::node::State;
use crate::cluster::{Node, authorities, authority};
use crate::criu_log;
use crate::errors;
use crate::http::{Answer, Failed, Link, Place, Trust, Waiting};

/// What a kubelet takes by itself, and raises less to.
pub const LEAST: Duration = Duration::from_secs(120);
/// Beyond the runtime's time: the kubelet's own work, and an answer over a slow network.
const GRACE: Duration = Duration::from_secs(30);
/// A kubelet that is asked for nothing answers at once; it may ask the API server who asks.
const LOOK: Duration = Duration::from_secs(15);
/// Where a kubelet that makes its own certificate keeps it, with the authority that signed it.
const OWN_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet.crt";

/// Whom a kubelet's serving certificate has to be from.
#[derive(Debug, Clone, Default)]
pub struct KubeletTls {
    /// A file with authorities; else those of the API server.
    pub ca: Option<PathBuf>,
    /// From anybody. Whoever sits between can read the token, and answer as the kubelet.
    pub insecure: bool,
}

/// The kubelet of one node.
#[derive(Debug)]
pub struct Kubelet<'c> {
    waiting: &'c Waiting,
    node: String,
    address: String,
    /// First by address; then by each name that its certificate may have.
    links: Vec<Link>,
    has_own_ca: bool,
}

#[derive(Deserialize)]
struct Written {
    items: Vec<String>,
}

/// A day: what is asked for may be any number, and clocks end.
const MOST: Duration = Duration::from_secs(24 * 3600);

/// How long an answer is waited for.
fn patience(timeout: Option<Duration>) -> Duration {
    timeout.unwrap_or(LEAST).clamp(LEAST, MOST) + GRACE
}

impl<'c> Kubelet<'c> {
    pub(crate) fn new(
        waiting: &'c Waiting,
        account: &Arc<Account>,
        node: &Node,
        tls: &KubeletTls,
    ) -> Result<Self> {
        let trust = match (tls.insecure, &tls.ca) {
            (true, _) => Trust::Nobody,
            (false, Some(path)) => Trust::Only(authorities(path)?),
            (false, None) => match &account.roots {
                Some(roots) => Trust::Only(roots.clone()),
                None => Trust::System,
            },
        };
        let host = node.addresses.first().map_or("", String::as_str);
        let address = authority(host, node.port);
        let mut places = vec![Place {
            url: format!("https://{address}"),
            at: None,
            proxy: None,
        }];
        // A kubelet's own certificate has the node's name and no address.
        if let Ok(at) = address.parse::<SocketAddr>() {
            places.extend(node.host_names.iter().map(|name| Place {
                url: format!("https://{}", authority(name, node.port)),
                at: Some((name.clone(), at)),
                proxy: None,
            }));
        }
        let links = places
            .iter()
            .map(|place| Link::new(account, place, &trust))
            .collect::<Result<_>>()?;
        Ok(Self {
            waiting,
            node: node.name.clone(),
            address,
            links,
            has_own_ca: tls.ca.is_some(),
        })
    }

    /// Where it is asked, for people.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Takes a checkpoint; the container is frozen meanwhile. Gives the archive's path as the kubelet says it, which is to be distrusted. The names are
    /// those of a [`crate::pod::Pod`]. `again` hears why the call is made once more.
    pub fn checkpoint(
        &self,
        (namespace, pod, container): (&str, &str, &str),
        timeout: Option<Duration>,
        monitor: &dyn Monitor,
        again: impl Fn(&str),
    ) -> Result<String> {
        let query = timeout.map_or_else(String::new, |t| format!("?timeout={}", t.as_secs()));
        let path = format!("/checkpoint/{namespace}/{pod}/{container}{query}");
        let mut tries = 0;
        loop {
            let Answer { status, body } = self.post(&path, patience(timeout), monitor)?;
            if status == 200 {
                return self.written(&body);
            }
            tries += 1;
            if tries > TRIES || !errors::is_transient(status, &body) {
                let body = criu_log::with_log(&body);
                return Err(errors::of_kubelet(&self.node, status, &body));
            }
            again(body.trim());
            // Made inside: a timer belongs to the runtime that it is made in.
            let pause = async { tokio::time::sleep(PAUSE).await };
            let pause = self.waiting.wait(monitor, pause);
            pause.ok_or_else(crate::cluster::stopped)?;
        }
    }

    /// Whether it takes checkpoints, and how that is known: it is asked for one of a pod that cannot exist, since no name of a pod has capitals. Nothing
    /// is frozen by it.
    pub fn gate(&self, monitor: &dyn Monitor) -> Result<(State, String)> {
        let path = "/checkpoint/default/Cryostore-Asks-Whether/none";
        let Answer { status, body } = self.post(path, LOOK, monitor)?;
        if status != 404 {
            // The feature is behind a right that this account does not have, or something else is in the way.
            let e = errors::of_kubelet(&self.node, status, &body);
            let advice = e.advice().unwrap_or_default().to_owned();
            return Ok((State::Unknown, format!("{e}; {advice}")));
        }
        let is_off = body.contains("404 page not found");
        let state = if is_off { State::Off } else { State::On };
        let said: String = body.trim().chars().take(60).collect();
        Ok((
            state,
            format!("the kubelet says \"{said}\" of a pod that cannot exist"),
        ))
    }

    fn written(&self, body: &str) -> Result<String> {
        let written: Option<Written> = serde_json::from_str(body).ok();
        match written.map(|written| written.items).as_deref() {
            Some([path]) => Ok(path.clone()),
            _ => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the kubelet of node {} says that it took a checkpoint, but not where it is: {:?}",
                    self.node,
                    body.chars().take(200).collect::<String>()
                ),
            )
            .hint("look below /var/lib/kubelet/checkpoints on the node, and store it with: cryostore import FILE")),
        }
    }

    fn post(&self, path: &str, patience: Duration, monitor: &dyn Monitor) -> Result<Answer> {
        let mut wrong_name = None;
        for link in &self.links {
            let asked = link.ask(Method::POST, path, None, patience);
            let Some(answer) = self.waiting.wait(monitor, asked) else {
                return Err(Error::new(
                    Kind::Interrupted,
                    format!("stopped while the kubelet of node {} was taking the checkpoint", self.node),
                )
                .hint("nothing was stored; the kubelet may still leave an archive, which `cryostore import FILE` stores, or which is to be removed"));
            };
            match answer {
                Ok(answer) => return Ok(answer),
                // Nothing was asked: another name may be the one in the certificate.
                Err(
                    failed @ Failed::Certificate {
                        is_the_name: true, ..
                    },
                ) => {
                    wrong_name.get_or_insert(failed);
                }
                Err(failed) => return Err(self.explain(failed, patience)),
            }
        }
        Err(wrong_name.map_or_else(
            || Error::new(Kind::Internal, "a node without an address"),
            |failed| self.explain(failed, patience),
        ))
    }

    fn explain(&self, failed: Failed, patience: Duration) -> Error {
        let Self { node, address, .. } = self;
        match failed {
            Failed::Other(e) => e,
            Failed::Certificate { text, .. } => {
                let ca = match (self.has_own_ca, std::path::Path::new(OWN_CERTIFICATE).exists()) {
                    (true, _) => "say the right authority with --kubelet-ca FILE".to_owned(),
                    (false, true) => format!(
                        "on this node its authority is in its own file: --kubelet-ca {OWN_CERTIFICATE}"
                    ),
                    (false, false) => format!(
                        "say with --kubelet-ca FILE who signed it (on the node: {OWN_CERTIFICATE})"
                    ),
                };
                Error::new(
                    Kind::Denied,
                    format!("the certificate of node {node}'s kubelet at {address} is not trusted: {text}; nothing was frozen"),
                )
                .hint(format!(
                    "kubelets sign their own unless serverTLSBootstrap is true in their configuration; {ca}; or, where nobody can sit between, --kubelet-insecure-tls"
                ))
            }
            Failed::Away(text) => Error::new(
                Kind::Unavailable,
                format!("the kubelet of node {node} does not answer at {address}: {text}; nothing was frozen"),
            )
            .hint("look whether the node is Ready (`kubectl get node`), and whether this address can be reached from here"),
            Failed::TimedOut => Error::new(
                Kind::Unavailable,
                format!(
                    "the kubelet of node {node} has not answered within {} s",
                    patience.as_secs()
                ),
            )
            .hint("the checkpoint may still be going on: look for the archive below /var/lib/kubelet/checkpoints and store it with `cryostore import FILE`; next time say --timeout SECONDS"),
            Failed::Broken(text) => Error::new(
                Kind::Unavailable,
                format!("the connection to the kubelet of node {node} broke off: {text}"),
            )
            .hint("the checkpoint may have been taken: look for the archive below /var/lib/kubelet/checkpoints and store it with `cryostore import FILE`"),
        }
    }
}

/// More tries after the first: another checkpoint of the container is done within seconds, or its owner's problem.
const TRIES: u32 = 3;
/// Between them.
const PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_waited_for_as_long_as_was_said_and_never_without_an_end() {
        let of = |seconds: u64| patience(Some(Duration::from_secs(seconds)));
        assert_eq!(of(1), LEAST + GRACE);
        assert_eq!(of(300), Duration::from_secs(300) + GRACE);
        assert_eq!(of(u64::MAX), MOST + GRACE);
    }

    #[test]
    fn less_than_the_kubelets_own_time_is_not_less_to_wait_for() {
        assert_eq!(patience(None), Duration::from_secs(150));
        assert_eq!(
            patience(Some(Duration::from_secs(1))),
            Duration::from_secs(150)
        );
        assert_eq!(
            patience(Some(Duration::from_secs(600))),
            Duration::from_secs(630)
        );
    }
}
