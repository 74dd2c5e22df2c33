//! Owns what the messages of kubelets, runtimes, CRIU and the API server mean, and what cures them: one table, and the few rules for status codes.
//!
//! Always: the message itself is kept; what is added is a meaning and a cure. Never: decides anything but whether it is worth to try again.

use cryostore_engine::{Error, Kind};

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Parts that a message has, in lower case; all of them.
    pub parts: &'static [&'static str],
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub cure: &'static str,
    /// Goes away by itself within seconds.
    pub is_transient: bool,
    /// For programs.
    pub kind: Kind,
}

const fn known(
    parts: &'static [&'static str],
    kind: Kind,
    meaning: &'static str,
    cure: &'static str,
) -> Known {
    Known {
        parts,
        meaning,
        cure,
        is_transient: false,
        kind,
    }
}

const fn transient(parts: &'static [&'static str]) -> Known {
    Known {
        parts,
        meaning: "another checkpoint of this container is being taken",
        cure: "wait until it is done, then try again; look whether somebody else takes checkpoints on a schedule",
        is_transient: true,
        kind: Kind::Conflict,
    }
}

/// What is known, the special before the general: the first line that fits counts.
pub const TABLE: &[Known] = &[
    transient(&["cannot pause a paused container"]),
    transient(&["ctrd-checkpoint", "no such file or directory"]),
    Known {
        parts: &["unable to freeze"],
        meaning: "the kernel did not stop all processes of the container at once, as happens with cgroups of version 1 where they start others all the time",
        cure: "try again; the container runs on",
        is_transient: true,
        kind: Kind::Unavailable,
    },
    known(
        &["connected tcp socket"],
        Kind::Unsupported,
        "CRIU does not take a process with an established TCP connection, not even over loopback, unless it is told what is to become of it",
        "on the node, write `tcp-close` (connections are closed at restore) or `tcp-established` (kept, if the address is) into /etc/criu/runc.conf, for crun into /etc/criu/crun.conf; for Jupyter, let kernels talk over files, c.KernelManager.transport = \"ipc\", and take `tcp-close` for the browsers' websockets",
    ),
    known(
        &["tcp repair mode", "operation not permitted"],
        Kind::Unsupported,
        "CRIU may not look into TCP connections (SELinux, or a right that it lacks)",
        "close the connections before the checkpoint, or allow CRIU net_admin in the node's security policy; the audit log of the node says what was denied",
    ),
    known(
        &["can't get 1:16", "opt"],
        Kind::Unsupported,
        "from Linux 6.16 on, CRIU before 4.2 cannot take sockets of the internet",
        "install CRIU 4.2 or later on the node (`criu --version`), or run an older kernel",
    ),
    known(
        &["so_passcred"],
        Kind::Unsupported,
        "from Linux 6.16 on, CRIU before 4.2 cannot take sockets of the internet",
        "install CRIU 4.2 or later on the node (`criu --version`), or run an older kernel",
    ),
    known(
        &["criu binary not found"],
        Kind::Unsupported,
        "there is no CRIU on the node, where the container runtime looks for it",
        "install CRIU on the node (package `criu`) and look with `criu check` whether it works",
    ),
    known(
        &["\"criu\": executable file not found"],
        Kind::Unsupported,
        "there is no CRIU on the node, where the container runtime looks for it",
        "install CRIU on the node (package `criu`) and look with `criu check` whether it works",
    ),
    known(
        &["checkpoint/restore support not available"],
        Kind::Unsupported,
        "CRI-O finds no CRIU, or its support is turned off",
        "install CRIU on the node, and set enable_criu_support = true in crio.conf",
    ),
    known(
        &["configured to not support checkpoint"],
        Kind::Unsupported,
        "the container runtime is configured not to take checkpoints",
        "CRI-O: enable_criu_support = true (and container_level_enabled = \"checkpoint_only\" in [crio.checkpoint_restore] where there is one); containerd: enable_criu = true",
    ),
    known(
        &["code = unimplemented"],
        Kind::Unsupported,
        "the node's container runtime takes no checkpoints",
        "containerd does from 2.0 on, CRI-O from 1.25 on: `kubectl get node -o wide` shows what there is",
    ),
    known(
        &["file locks are hold"],
        Kind::Unsupported,
        "CRIU does not take a process that holds file locks unless it is told to",
        "on the node, write `file-locks` into /etc/criu/runc.conf (crun: /etc/criu/crun.conf)",
    ),
    known(
        &["external socket is used"],
        Kind::Unsupported,
        "the process is connected to a unix socket of somebody outside of the container",
        "on the node, write `ext-unix-sk` into /etc/criu/runc.conf, or close the connection before the checkpoint",
    ),
    known(
        &["no space left on device"],
        Kind::NoSpace,
        "the node's disk is full: a checkpoint takes as much as the container's memory, up to three times while it is taken",
        "make room below /var/lib/kubelet/checkpoints and where the runtime keeps containers, then try again",
    ),
    known(
        &["deadline"],
        Kind::Unavailable,
        "the runtime was not done in the time that it was given",
        "say --timeout SECONDS, more than the 120 that the kubelet gives by itself; the container runs on",
    ),
    known(
        &["criu failed", "type restore"],
        Kind::Unsupported,
        "CRIU could not make the process again on this node",
        "`cryostore inspect ID --node NODE` compares the node with the one that the checkpoint is of; then look at /etc/criu/runc.conf there, which both nodes should have alike, and at the log of the container runtime",
    ),
    known(
        &["criu failed"],
        Kind::Unsupported,
        "CRIU could not take the process; why is in its log on the node",
        "read the lines with `Error` in the log file that the message names (dump.log), on the node; most often it is an established TCP connection",
    ),
    // What a 404 says.
    known(
        &["404 page not found"],
        Kind::Unsupported,
        "this kubelet takes no checkpoints: its feature gate ContainerCheckpoint is off, or it is older than Kubernetes 1.25",
        "turn the gate on (featureGates: {ContainerCheckpoint: true} in the kubelet's configuration; from Kubernetes 1.30 on it is), and restart the kubelet",
    ),
    known(
        &["pod does not exist"],
        Kind::NotFound,
        "the kubelet does not have the pod (any more)",
        "look with `kubectl get pod -o wide` whether it was moved or ended meanwhile",
    ),
    known(
        &["container", "does not exist"],
        Kind::NotFound,
        "the kubelet does not have this container in the pod",
        "look with `kubectl describe pod` for its containers",
    ),
    known(
        &["cannot parse value of timeout parameter"],
        Kind::Invalid,
        "the kubelet does not understand the timeout",
        "say --timeout as whole seconds",
    ),
];

/// The line of the table that fits a message.
#[must_use]
pub fn find(message: &str) -> Option<&'static Known> {
    let message = message.to_lowercase();
    TABLE
        .iter()
        .find(|known| known.parts.iter().all(|part| message.contains(part)))
}

/// True if the same call is worth to be tried again in a moment.
#[must_use]
pub fn is_transient(status: u16, message: &str) -> bool {
    status == 500 && find(message).is_some_and(|known| known.is_transient)
}

/// A rule of RBAC, as it stands in a role; YAML on one line. A resource of another group than the core has it behind a dot, as `kubectl` takes it.
#[must_use]
pub fn rule(resource: &str, verb: &str) -> String {
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    format!("{{apiGroups: [\"{group}\"], resources: [\"{resource}\"], verbs: [\"{verb}\"]}}")
}

/// What a kubelet answered in place of a checkpoint.
#[must_use]
pub fn of_kubelet(node: &str, status: u16, body: &str) -> Error {
    let message = first_lines(body);
    match status {
        401 => Error::new(
            Kind::Denied,
            format!("the kubelet of node {node} does not know who asks (401: {message})"),
        )
        .hint("it takes client certificates of its --client-ca-file, and tokens if authentication.webhook.enabled is true in its configuration: set that, or use a kubeconfig with a client certificate of the cluster's authority"),
        403 => Error::new(
            Kind::Denied,
            format!("the kubelet of node {node} refuses (403): {message}"),
        )
        .hint(format!(
            "add this rule to a ClusterRole of the user: {} (deploy/rbac.yaml has the whole role; nodes/proxy is not needed, and gives far more)",
            rule("nodes/checkpoint", "create")
        )),
        _ => {
            let text = format!("the kubelet of node {node} took no checkpoint ({status}): {message}");
            match find(&message) {
                Some(known) => {
                    Error::new(known.kind, format!("{text}: {}", known.meaning)).hint(known.cure)
                }
                None => Error::new(Kind::Unavailable, text)
                    .hint("look into the logs of the kubelet and of the container runtime on the node; the container runs on"),
            }
        }
    }
}

/// What an API server answered in place of what was asked. `what` is for people, such as `pod default/web`.
#[must_use]
pub fn of_api(what: &str, status: u16, body: &str, needs: (&str, &str)) -> Error {
    let message = serde_json::from_str::<serde_json::Value>(body)
        .ok()
        .and_then(|json| json.get("message")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| first_lines(body));
    match status {
        401 => Error::new(
            Kind::Denied,
            format!("{what}: the API server does not know who asks (401: {message})"),
        )
        .hint("the token or certificate in the kubeconfig is wrong or too old: log in again; `kubectl auth whoami` says who one is"),
        403 => Error::new(Kind::Denied, format!("{what}: {message}")).hint(format!(
            "add this rule to a role of the user: {} (deploy/rbac.yaml has the whole role)",
            rule(needs.0, needs.1)
        )),
        404 => Error::new(Kind::NotFound, format!("{what}: {message}")).hint(
            "say the name that `kubectl get` shows, and the namespace with --namespace; `kubectl config current-context` says which cluster is asked",
        ),
        409 => Error::new(Kind::Conflict, format!("{what}: {message}"))
            .hint("look what became of it, then try again"),
        _ => Error::new(
            Kind::Unavailable,
            format!("{what}: the API server answers {status}: {message}"),
        )
        .hint("try again later; `kubectl get --raw /readyz` says how the server is"),
    }
}

/// At most 2,000 characters, on one line: enough for CRIU's last words.
fn first_lines(body: &str) -> String {
    let words: Vec<&str> = body.split_whitespace().collect();
    let text = words.join(" ");
    match text.char_indices().nth(2000) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts as they were seen, and a word of the cure that each must get.
    const SEEN: &[(u16, &str, &str)] = &[
        (404, "404 page not found", "ContainerCheckpoint"),
        (404, "pod does not exist", "kubectl get pod"),
        (404, "container app does not exist", "kubectl describe pod"),
        (
            404,
            "cannot parse value of timeout parameter",
            "whole seconds",
        ),
        (
            500,
            "checkpointing of default/web/app failed (rpc error: code = Unimplemented desc = method CheckpointContainer not implemented)",
            "2.0",
        ),
        (
            500,
            r#"checkpointing of checkpoint-container-test-7128/checkpoint-container-pod/test-container-1 failed (rpc error: code = Unknown desc = failed to checkpoint container "7bc2694c41c0a9bab51ea2e8656e76dfacccda480a71130a3b74e453e8429074": criu binary not found in shim path or system PATH)"#,
            "install CRIU",
        ),
        (
            500,
            "checkpointing of default/nb/lab failed (rpc error: code = Unknown desc = Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.)",
            "ipc",
        ),
        (
            500,
            "checkpointing of default/web/app failed (rpc error: code = Unknown desc = Error (criu/sockets.c:628): sockets: Can't get 1:16 opt: Operation not supported)",
            "4.2",
        ),
        (
            500,
            "Error (soccr/soccr.c:94): Can't turn TCP repair mode ON: Operation not permitted",
            "security policy",
        ),
        (
            500,
            "checkpointing of default/web/app failed (rpc error: code = Unknown desc = runc did not terminate successfully: exit status 1: criu failed: type NOTIFY errno 0 path= /run/containerd/criu-dump.log: unknown)",
            "dump.log",
        ),
        (
            500,
            "failed to restore containerd task: failed to create shim task: OCI runtime restore failed: criu failed: type RESTORE errno 56",
            "runc.conf",
        ),
        (
            500,
            "checkpointing of default/web/app failed (rpc error: code = DeadlineExceeded desc = context deadline exceeded)",
            "--timeout",
        ),
        (
            500,
            "Error (criu/file-lock.c:110): Some file locks are hold by dumping tasks! You can try --file-locks to dump them.",
            "file-locks",
        ),
        (
            500,
            "write /var/lib/kubelet/checkpoints/checkpoint-a.tar: no space left on device",
            "make room",
        ),
        (500, "cannot pause a paused container: unknown", "try again"),
        (
            500,
            "open /run/containerd/io.containerd.grpc.v1.cri/containers/1/ctrd-checkpoint/status: no such file or directory",
            "try again",
        ),
        (
            500,
            "checkpointing of default/web/app failed (rpc error: code = Unknown desc = checkpointing container \"f4ad\" failed: OCI runtime pause failed: unable to freeze)",
            "try again",
        ),
        (401, "Unauthorized", "authentication.webhook"),
        (
            403,
            "Forbidden (user=robot, verb=create, resource=nodes, subresource=checkpoint)",
            r#"{apiGroups: [""], resources: ["nodes/checkpoint"], verbs: ["create"]}"#,
        ),
        (500, "something new", "logs of the kubelet"),
    ];

    #[test]
    fn every_message_that_was_seen_is_kept_and_gets_its_cure() {
        for (status, body, cure) in SEEN {
            let e = of_kubelet("n1", *status, body);
            assert!(e.to_string().contains(body), "{e}");
            let advice = e.advice().unwrap();
            assert!(advice.contains(cure), "{body}\n{advice}");
        }
    }

    #[test]
    fn every_line_of_the_table_can_be_reached() {
        for known in TABLE {
            let message = known.parts.join(" ");
            let found = find(&message).unwrap();
            assert_eq!(found.parts, known.parts, "hidden by the line before it");
            let lower = known.parts.iter().all(|part| *part == part.to_lowercase());
            assert!(lower, "{:?} would never fit", known.parts);
        }
    }

    #[test]
    fn only_three_messages_of_a_500_are_tried_again() {
        for (status, body, _) in SEEN {
            let again = ["cannot pause", "ctrd-checkpoint", "unable to freeze"];
            let again = again.iter().any(|words| body.contains(words));
            assert_eq!(is_transient(*status, body), again, "{body}");
            assert!(!is_transient(404, body));
        }
    }

    #[test]
    fn what_the_api_server_forbids_comes_with_the_rule_to_add() {
        let body = r#"{"kind":"Status","message":"pods \"web\" is forbidden: User \"robot\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\"","code":403}"#;
        let e = of_api("pod default/web", 403, body, ("pods", "get"));
        assert_eq!(e.kind(), Kind::Denied);
        assert!(e.to_string().contains("User \"robot\" cannot get"), "{e}");
        assert!(e.advice().unwrap().contains(&rule("pods", "get")), "{e:?}");
    }
}
