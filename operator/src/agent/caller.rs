//! Owns who calls the agent, and what they may do. The API server answers both: TokenReview for a bearer token; the cluster's authority of clients for
//! a certificate, as the kubelet has it; SubjectAccessReview for each call.
//!
//! Always: each call is asked for anew, so that a right that was taken away is gone at once. Never: believes an archive, a snapshot's labels, or a
//! header about who somebody is or what is theirs.
//!
//! Which right is asked for:
//!
//! | call | verb | resource |
//! | --- | --- | --- |
//! | facts | `get` | `nodes`, this one: it says little more than the node's status does |
//! | checkpoint | `create` | `pods/checkpoint`, this pod: the right that a kubelet asks for, `nodes/checkpoint`, is for all pods of a node at once |
//! | prepare-restore | `create` | `pods` in the target namespace: whoever may not make a pod there gets no image for one |
//! | | `restore` | `pods/checkpoint` of the pod that the checkpoint is of: its memory comes to life in another one, and is read there. The verb is that of KEP-5823, whose objects older clusters do not have |
//! | clean-up | `delete` | `pods` in the namespace of the restored pod, this one |

use cryostore_engine::{Error, Kind, Monitor, Result};
use reqwest::Method;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::subject::subject;
use crate::Cluster;
use crate::errors::rule;
use crate::pod::text;

/// What somebody shows.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) token: Option<SecretString>,
    /// Signed by the cluster's authority of clients: else there would be no connection.
    pub(crate) certificate: Option<CertificateDer<'static>>,
}

/// Who calls.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Caller {
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
    uid: String,
    extra: Value,
}

/// A right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Right<'r> {
    pub(crate) verb: &'static str,
    /// With its part after a slash.
    pub(crate) resource: &'static str,
    /// Empty: in all.
    pub(crate) namespace: &'r str,
    /// Empty: all.
    pub(crate) name: &'r str,
}

/// Who decides.
#[derive(Debug)]
pub enum Gate {
    /// The cluster's API server.
    Cluster(Box<Cluster>),
    /// Whoever has this token may do all; there is no cluster, and with it no checkpoint of a pod.
    Token(SecretString),
}

fn unknown(why: &str) -> Error {
    Error::new(Kind::Denied, format!("the agent does not know who asks: {why}"))
        .hint("it takes the tokens and client certificates that the cluster's API server takes; `kubectl auth whoami` says who one is")
}

impl Gate {
    /// For a machine outside of a cluster.
    #[must_use]
    pub fn token(token: &str) -> Self {
        Self::Token(SecretString::from(token))
    }

    /// The cluster, where there is one.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        match self {
            Self::Cluster(cluster) => Some(cluster),
            Self::Token(_) => None,
        }
    }

    /// Who it is. The error is a 401.
    pub(crate) fn caller(&self, shown: &Shown, monitor: &dyn Monitor) -> Result<Caller> {
        match (self, &shown.token, &shown.certificate) {
            (Self::Token(wanted), Some(token), _) => {
                let (a, b) = (wanted.expose_secret(), token.expose_secret());
                if !is_same(a.as_bytes(), b.as_bytes()) {
                    return Err(unknown("this is not its token"));
                }
                Ok(Caller {
                    user: "token-file".to_owned(),
                    ..Caller::default()
                })
            }
            // A certificate was looked at already; a token beside it does not make somebody else of its owner. The API server has this order, too.
            (Self::Cluster(_), _, Some(certificate)) => of_certificate(certificate),
            (Self::Cluster(cluster), Some(token), None) => of_token(cluster, token, monitor),
            (_, None, _) => Err(unknown("there is neither a token nor a client certificate")),
        }
    }

    /// An error with the rule that is missing, if they may not. The error is a 403.
    pub(crate) fn require(
        &self,
        caller: &Caller,
        right: Right<'_>,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let Self::Cluster(cluster) = self else {
            return Ok(());
        };
        let (resource, part) = right
            .resource
            .split_once('/')
            .unwrap_or((right.resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": caller.user, "groups": caller.groups, "uid": caller.uid, "extra": caller.extra,
                "resourceAttributes": {
                    "verb": right.verb, "resource": resource, "subresource": part, "group": "", "version": "v1",
                    "namespace": right.namespace, "name": right.name,
                },
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = cluster.ask(
            Method::POST,
            path,
            Some(&review),
            "asking what the caller may do",
            ("subjectaccessreviews.authorization.k8s.io", "create"),
            monitor,
        );
        let answer = answer.map_err(ours)?;
        // What is not said to be allowed is not.
        if answer.pointer("/status/allowed").and_then(Value::as_bool) == Some(true) {
            return Ok(());
        }
        let place = match (right.namespace, right.name) {
            ("", "") => "in all namespaces".to_owned(),
            ("", name) => name.to_owned(),
            (namespace, "") => format!("in namespace {namespace}"),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        Err(Error::new(
            Kind::Denied,
            format!(
                "{} may not {} {} {place}",
                caller.user, right.verb, right.resource
            ),
        )
        .hint(format!(
            "add this rule to a role of the user: {} (deploy/agent-users.yaml has the whole roles)",
            rule(right.resource, right.verb)
        )))
    }
}

/// The agent's own rights are not the caller's fault.
fn ours(e: Error) -> Error {
    let advice = e.advice().unwrap_or_default().to_owned();
    let kind = match e.kind() {
        Kind::Interrupted => Kind::Interrupted,
        _ => Kind::Unavailable,
    };
    Error::new(kind, format!("the agent cannot find out who may what: {e}"))
        .hint(format!("for the agent's own account: {advice}"))
}

/// In a time that does not tell where they differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
    a.len() == b.len() && differ == 0
}

fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Caller> {
    let mut names = RootCertStore::empty();
    // Only in order to read it: nobody is trusted by this.
    let read = names.add(certificate.clone().into_owned());
    let found = names
        .roots
        .first()
        .and_then(|anchor| subject(&anchor.subject));
    let Some(found) = found.filter(|_| read.is_ok()) else {
        return Err(unknown("the client certificate has no common name"));
    };
    let mut groups = found.organisations;
    groups.push("system:authenticated".to_owned());
    Ok(Caller {
        user: found.common_name,
        groups,
        ..Caller::default()
    })
}

fn of_token(cluster: &Cluster, token: &SecretString, monitor: &dyn Monitor) -> Result<Caller> {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token.expose_secret()},
    });
    let answer = cluster.ask(
        Method::POST,
        "/apis/authentication.k8s.io/v1/tokenreviews",
        Some(&review),
        "asking who the caller is",
        ("tokenreviews.authentication.k8s.io", "create"),
        monitor,
    );
    let answer = answer.map_err(ours)?;
    let status = &answer["status"];
    let user = text(status, "/user/username");
    if status["authenticated"].as_bool() != Some(true) || user.is_empty() {
        return Err(unknown("the API server does not know this token"));
    }
    let groups = status.pointer("/user/groups").and_then(Value::as_array);
    let groups = groups.into_iter().flatten().filter_map(Value::as_str);
    Ok(Caller {
        user: user.to_owned(),
        groups: groups.map(str::to_owned).collect(),
        uid: text(status, "/user/uid").to_owned(),
        extra: status["user"]["extra"].clone(),
    })
}

#[cfg(test)]
mod tests {
    use cryostore_engine::Silent;

    use super::*;

    #[test]
    fn only_the_whole_token_of_the_file_is_the_token() {
        let gate = Gate::Token(SecretString::from("secret"));
        let with = |token: &str| {
            let shown = Shown {
                token: Some(SecretString::from(token)),
                certificate: None,
            };
            gate.caller(&shown, &Silent).is_ok()
        };
        assert!(with("secret"));
        for wrong in ["", "secre", "secret1", "Secret"] {
            assert!(!with(wrong), "{wrong}");
        }
        assert!(gate.caller(&Shown::default(), &Silent).is_err());
    }
}
