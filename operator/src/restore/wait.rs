//! Owns the end of a restore in a cluster: the container runs, or why it does not. The decision is pure; the loop around it asks the API server.
//!
//! Always: what the kubelet and the runtime say is handed on, with what is known about it. Never: deletes the pod: its state is the evidence.

use std::time::{Duration, Instant};

use cryostore_engine::{Error, Kind, Monitor, Result};
use serde_json::Value;

use super::logs;
use crate::cluster::Cluster;
use crate::errors;
use crate::pod::text;

/// The pod is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A reason that the kubelet may get over by itself has this long: it tries again within seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Runs,
    /// Nothing to say yet; what is waited for.
    Waits(String),
    /// It does not, for this reason; the kubelet tries again.
    Fails(String),
    /// It does not, and nobody tries again.
    Ended(String),
}

/// How the container of a pod is.
#[must_use]
pub fn state(pod: &Value, container: &str) -> State {
    let list = |pointer: &str| {
        pod.pointer(pointer)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let found = list("/status/containerStatuses")
        .chain(list("/status/initContainerStatuses"))
        .find(|status| text(status, "/name") == container)
        .and_then(|status| status.get("state"));
    let said = |why: &Value| {
        let (reason, message) = (text(why, "/reason"), text(why, "/message"));
        match (reason, message) {
            ("", message) => message.to_owned(),
            (reason, "") => reason.to_owned(),
            (reason, message) => format!("{reason}: {message}"),
        }
    };
    if let Some(state) = found {
        if state.get("running").is_some() {
            return State::Runs;
        }
        if let Some(why) = state.get("terminated") {
            let code = why.get("exitCode").and_then(Value::as_i64).unwrap_or(-1);
            return State::Ended(format!("it ended with exit code {code} {}", said(why)));
        }
        if let Some(why) = state.get("waiting") {
            let reason = text(why, "/reason");
            return match reason {
                "" | "ContainerCreating" | "PodInitializing" => State::Waits(said(why)),
                _ => State::Fails(said(why)),
            };
        }
    }
    if text(pod, "/status/phase") == "Failed" {
        let (reason, message) = (text(pod, "/status/reason"), text(pod, "/status/message"));
        return State::Ended(format!("the pod failed: {reason} {message}"));
    }
    let unscheduled = list("/status/conditions").find(|condition| {
        text(condition, "/type") == "PodScheduled" && text(condition, "/status") == "False"
    });
    match unscheduled {
        // An autoscaler, or the end of another pod, may make room: the limit decides.
        Some(why) => State::Waits(format!("it is not scheduled: {}", said(why))),
        None => State::Waits("no state yet".to_owned()),
    }
}

/// The error for a container that does not run.
fn failed(title: &str, why: &str) -> Error {
    let log = logs::named_in(why)
        .map(|path| logs::last_errors(&path))
        .unwrap_or_default();
    let mut text = format!("pod {title} was made, and its container does not run: {why}");
    if !log.is_empty() {
        text.push_str(&format!("; CRIU: {log}"));
    }
    if text.contains("failed to pull checkpoint base image") {
        let cure = "containerd fetches the base image of a checkpoint anonymously, and not all of it is on the node: fetch it there first, with credentials if it takes any (`ctr -n k8s.io images pull --user USER IMAGE`, or a pod with imagePullSecrets on that node), delete the pod, and restore again";
        return Error::new(Kind::Unavailable, text).hint(cure);
    }
    let cure = errors::TABLE
        .iter()
        .find(|known| {
            known
                .parts
                .iter()
                .all(|part| text.to_lowercase().contains(part))
        })
        .map(|known| format!("{}; ", known.cure))
        .unwrap_or_default();
    Error::new(Kind::Unavailable, text).hint(format!(
        "{cure}`kubectl describe pod` shows its events; when it is no longer needed, delete it: `kubectl delete pod`"
    ))
}

/// Waits until the container runs.
pub fn until_it_runs(
    cluster: &Cluster,
    (namespace, name, uid): (&str, &str, &str),
    container: &str,
    limit: Duration,
    monitor: &dyn Monitor,
) -> Result<()> {
    let title = format!("{namespace}/{name}");
    let begun = Instant::now();
    let mut failing_since: Option<Instant> = None;
    loop {
        let Some(pod) = cluster.pod_if_there(namespace, name, uid, monitor)? else {
            return Err(Error::new(
                Kind::Conflict,
                format!("pod {title} is gone before its container ran: somebody deleted it"),
            )
            .hint("look whether a controller takes it for one of its own"));
        };
        let now = state(&pod.json, container);
        match &now {
            State::Runs => return Ok(()),
            State::Ended(why) => return Err(failed(&title, why)),
            State::Fails(why) => {
                let since = failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    return Err(failed(&title, why));
                }
            }
            State::Waits(_) => failing_since = None,
        }
        if begun.elapsed() > limit {
            let (State::Waits(why) | State::Fails(why)) = now else {
                continue;
            };
            return Err(failed(
                &title,
                &format!("after {} s: {why}", limit.as_secs()),
            ));
        }
        if monitor.stop() {
            return Err(Error::new(
                Kind::Interrupted,
                format!("stopped while pod {title} was starting"),
            )
            .hint("the pod is there: `kubectl get pod` says what became of it"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_says_is_told_apart() {
        let of = |state: Value| json!({"status": {"containerStatuses": [{"name": "log", "state": {"running": {}}}, {"name": "app", "state": state}]}});
        let waiting = |reason: &str| of(json!({"waiting": {"reason": reason, "message": "m"}}));
        for (pod, wanted) in [
            (of(json!({"running": {}})), State::Runs),
            (
                waiting("ContainerCreating"),
                State::Waits("ContainerCreating: m".to_owned()),
            ),
            (
                waiting("ErrImageNeverPull"),
                State::Fails("ErrImageNeverPull: m".to_owned()),
            ),
            (
                waiting("CreateContainerError"),
                State::Fails("CreateContainerError: m".to_owned()),
            ),
            (
                of(json!({"terminated": {"exitCode": 137, "reason": "Error"}})),
                State::Ended("it ended with exit code 137 Error".to_owned()),
            ),
            (json!({}), State::Waits("no state yet".to_owned())),
            (
                json!({"status": {"phase": "Failed", "reason": "NodeAffinity", "message": "x"}}),
                State::Ended("the pod failed: NodeAffinity x".to_owned()),
            ),
            (
                json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}]}}),
                State::Waits("it is not scheduled: Unschedulable: 0/3".to_owned()),
            ),
        ] {
            assert_eq!(state(&pod, "app"), wanted, "{pod}");
        }
    }

    #[test]
    fn the_words_of_criu_and_the_known_cure_are_in_the_error() {
        let e = failed(
            "shop/web",
            "CreateContainerError: failed to start: Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider",
        );
        assert!(e.to_string().contains("Connected TCP socket"), "{e}");
        assert!(e.advice().unwrap().contains("tcp-close"), "{e:?}");
    }
}
