//! Owns the client's side: calls of a node's agent, by its address or through the API server.
//!
//! Always: TLS from end to end, to exactly the certificate that this agent published (or to an authority that the user named), before a token is sent.
//! Never: a second call where it is not known what became of the first.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use cryostore_engine::{Error, Kind, Monitor, Phase, Result};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::calls::{
    self, CheckpointCall, CleanUpCall, CleanedUp, Event, Facts, PrepareCall, PreparedImage, Report,
    Stored,
};
use super::forward::Forward;
use super::node::State;
use super::{publish, tls};
use crate::checkpoint::{Step, Watch};
use crate::cluster::{authorities, authority, stopped};
use crate::http::{Answer, Failed, Link, Place, Trust, certificates};
use crate::{Cluster, restore};

/// An agent sends something each 10 s while it is at work.
const SILENCE: Duration = Duration::from_secs(60);
/// The agent asks the API server and a few files.
const FACTS: Duration = Duration::from_secs(60);
/// An image of some gigabytes is written and unpacked.
const PREPARE: Duration = Duration::from_secs(3600);

/// How agents are reached.
#[derive(Debug, Clone)]
pub struct Way {
    /// Where the agents are in the cluster.
    pub namespace: String,
    /// Address of this node's agent, such as `https://10.0.0.5:10350`; none: through the API server.
    pub url: Option<String>,
    /// A file with the authority of the agents' certificates; none: each one's own, as it was published.
    pub ca: Option<PathBuf>,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            namespace: super::NAMESPACE.to_owned(),
            url: None,
            ca: None,
        }
    }
}

/// The agent of a node.
#[derive(Debug)]
pub struct Remote<'c> {
    cluster: &'c Cluster,
    link: Link,
    /// For people.
    who: String,
    /// The way through the API server, if that is the way.
    forward: Option<Forward>,
}

/// `https://HOST:PORT` in its parts.
fn parts(url: &str) -> Result<(String, u16)> {
    let wrong = || {
        Error::new(Kind::Invalid, format!("{url:?} is no address of an agent"))
            .hint("say it as https://10.0.0.5:10350; `cluster` is the way through the API server")
    };
    let rest = url.strip_prefix("https://").ok_or_else(wrong)?;
    let rest = rest.trim_end_matches('/');
    let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains(['/', '@', '?', '#']) {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

impl<'c> Remote<'c> {
    /// Finds the agent of a node. Nothing is asked of it yet.
    pub fn find(
        cluster: &'c Cluster,
        node: &str,
        way: &Way,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let who = format!("the agent of node {node}");
        let published = || publish::certificate_of(cluster, &way.namespace, node, monitor);
        let own = || own_trust(&who, &published()?);
        let mut forward = None;
        let (place, trust) = match (&way.url, &way.ca) {
            (Some(url), Some(ca)) => {
                let (host, port) = parts(url)?;
                let place = Place {
                    url: format!("https://{}", authority(&host, port)),
                    at: None,
                    proxy: None,
                };
                (place, Trust::Only(authorities(ca)?))
            }
            (Some(url), None) => {
                let (host, port) = parts(url)?;
                (own_place(address(&host, port)?), own()?)
            }
            (None, ca) => {
                let found = publish::agent_of(cluster, &way.namespace, node, monitor)?;
                let trust = match ca {
                    Some(ca) => Trust::Only(authorities(ca)?),
                    None => own()?,
                };
                let opened = Forward::open(cluster, &found)?;
                let place = own_place(opened.address);
                forward = Some(opened);
                (place, trust)
            }
        };
        let (_, account) = cluster.way();
        Ok(Self {
            cluster,
            link: Link::new(account, &place, &trust)?,
            who,
            forward,
        })
    }

    /// What the agent knows of its node.
    pub fn facts(&self, monitor: &dyn Monitor) -> Result<Facts> {
        self.ask(Method::GET, calls::FACTS, None::<&()>, FACTS, monitor)
    }

    /// Makes an image of a snapshot there.
    pub fn prepare_restore(
        &self,
        call: &PrepareCall,
        monitor: &dyn Monitor,
    ) -> Result<PreparedImage> {
        let path = calls::PREPARE_RESTORE;
        self.ask(Method::POST, path, Some(call), PREPARE, monitor)
    }

    /// Removes an image that was made for a restore.
    pub fn clean_up(&self, call: &CleanUpCall, monitor: &dyn Monitor) -> Result<CleanedUp> {
        self.ask(Method::POST, calls::CLEAN_UP, Some(call), FACTS, monitor)
    }

    /// Has a checkpoint taken and stored there.
    pub fn checkpoint(&self, call: &CheckpointCall, watch: &dyn Watch) -> Result<Stored> {
        let body = serde_json::to_value(call).unwrap_or_default();
        let mut last = None;
        let (waiting, _) = self.cluster.way();
        let asked = self.link.lines(calls::CHECKPOINT, &body, SILENCE, |line| {
            if let Ok(event) = serde_json::from_slice::<Event>(line) {
                last = tell(event, watch).or(last.take());
            }
        });
        let Some(answer) = waiting.wait(watch, asked) else {
            return Err(Error::new(
                Kind::Interrupted,
                format!("stopped while {} took the checkpoint", self.who),
            )
            .hint("the agent goes on: look a little later with `cryostore ls`"));
        };
        let failed = |failed| match failed {
            // It may have been asked, and be at work.
            Failed::TimedOut | Failed::Broken(_) => {
                let e = self.explain(failed);
                Error::new(e.kind(), e.to_string())
                    .hint("the agent may go on: look a little later with `cryostore ls`, and into its log")
            }
            failed => self.explain(failed),
        };
        let answer = answer.map_err(failed)?;
        match last {
            Some(Event::Done(stored)) => Ok(*stored),
            Some(Event::Failed(report)) => Err(report.into_error(&self.who)),
            _ if answer.status != 200 => Err(self.refused(&answer)),
            _ => Err(Error::new(
                Kind::Unavailable,
                format!("{} has not said whether the checkpoint is stored", self.who),
            )
            .hint("look with `cryostore ls`, and into the agent's log")),
        }
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        call: Option<&impl Serialize>,
        patience: Duration,
        monitor: &dyn Monitor,
    ) -> Result<T> {
        let body = call.map(|call| serde_json::to_value(call).unwrap_or_default());
        let (waiting, _) = self.cluster.way();
        let asked = self.link.ask(method, path, body.as_ref(), patience);
        let answer = waiting.wait(monitor, asked).ok_or_else(stopped)?;
        let answer = answer.map_err(|failed| self.explain(failed))?;
        if answer.status != 200 {
            return Err(self.refused(&answer));
        }
        serde_json::from_str(&answer.body).map_err(|e| {
            Error::new(
                Kind::Unavailable,
                format!("{} answers something that is not understood: {e}", self.who),
            )
            .hint("look whether it is of another version: both are to be of the same")
        })
    }

    fn refused(&self, answer: &Answer) -> Error {
        match serde_json::from_str::<Report>(&answer.body) {
            Ok(report) if !report.kind.is_empty() => report.into_error(&self.who),
            _ => Error::new(
                Kind::Unavailable,
                format!("{} answers {}", self.who, answer.status),
            )
            .hint("look whether something else answers in its place"),
        }
    }

    fn explain(&self, failed: Failed) -> Error {
        let who = &self.who;
        let trouble = self.forward.as_ref().and_then(Forward::trouble);
        if let (Some(trouble), Failed::Away(_) | Failed::Broken(_)) = (trouble, &failed) {
            return trouble;
        }
        match failed {
            Failed::Other(e) => e,
            Failed::Certificate { text, .. } => Error::new(
                Kind::Denied,
                format!("the certificate of {who} is not the one that it published: {text}; nothing was asked"),
            )
            .hint("try again if it was just started anew; where it has a certificate of your own authority, say --agent-ca FILE"),
            Failed::Away(text) => Error::new(
                Kind::Unavailable,
                format!("{who} does not answer: {text}; nothing was asked"),
            )
            .hint("look whether its pod runs (`kubectl get pods -n cryostore -o wide`)"),
            Failed::TimedOut => Error::new(
                Kind::Unavailable,
                format!("{who} says nothing any more"),
            )
            .hint("look into its log"),
            Failed::Broken(text) => Error::new(
                Kind::Unavailable,
                format!("the connection to {who} broke off: {text}"),
            )
            .hint("look into its log"),
        }
    }
}

fn address(host: &str, port: u16) -> Result<SocketAddr> {
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|e| Error::io(host, e))?.next();
    found.ok_or_else(|| Error::new(Kind::NotFound, format!("{host} has no address")))
}

/// An agent's own certificate has a name of its own, wherever it runs.
fn own_place(at: SocketAddr) -> Place {
    Place {
        url: format!("https://{}:{}", tls::NAME, at.port()),
        at: Some((tls::NAME.to_owned(), at)),
        proxy: None,
    }
}

fn own_trust(who: &str, pem: &str) -> Result<Trust> {
    let found = certificates(pem.as_bytes());
    found.map(Trust::Only).ok_or_else(|| {
        Error::new(
            Kind::Invalid,
            format!("what {who} has published is no certificate"),
        )
        .hint("look who writes into the ConfigMap cryostore-agents")
    })
}

/// What a restore has to know of the node, as its agent says it.
#[must_use]
pub fn place(facts: &Facts) -> restore::preflight::Place {
    restore::preflight::Place {
        name: facts.node.clone(),
        host: facts.host.clone(),
        criu: facts.criu.clone(),
        // An agent that sees no CRIU does not see its plugins either.
        plugins: facts.criu.is_some().then(|| {
            let names = facts.criu_plugins.iter();
            names
                .map(|name| name.trim_end_matches(".so").to_owned())
                .collect()
        }),
        free_bytes: facts.images_free_bytes,
        restores: match facts.restore.state {
            State::On => Some(true),
            State::Off => Some(false),
            State::Unknown => None,
        },
    }
}

/// Hands an event on; the last one is given back.
fn tell(event: Event, watch: &dyn Watch) -> Option<Event> {
    match &event {
        Event::WaitsForLock { container } => watch.step(Step::WaitsForLock(container)),
        Event::Asked { container, address } => watch.step(Step::Asked { container, address }),
        Event::Again { why } => watch.step(Step::Again(why)),
        Event::Written { path } => watch.step(Step::Written { path }),
        Event::Stays { path } => watch.step(Step::Stays(path)),
        Event::Progress { done, total } => watch.progress(Phase::Import, *done, *total),
        Event::Warning { text } => watch.warning(text),
        Event::Done(_) | Event::Failed(_) => return Some(event),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_address_is_a_host_and_a_port_over_tls_and_nothing_else() {
        let fine = |url: &str| parts(url).unwrap();
        assert_eq!(
            fine("https://10.0.0.5:10350"),
            ("10.0.0.5".to_owned(), 10350)
        );
        assert_eq!(fine("https://[fd00::1]:1/"), ("fd00::1".to_owned(), 1));
        for wrong in [
            "http://10.0.0.5:1",
            "10.0.0.5:1",
            "https://10.0.0.5",
            "https://:1",
            "https://a/b:1",
            "https://user@a:1",
            "https://a:99999",
        ] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
