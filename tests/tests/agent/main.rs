//! `cryostore serve-node` and its clients against a real API server and a stand-in for the kubelet.
//! Skipped where `CRYOSTORE_TEST_APISERVER` is not set; `make test` sets it where the server can be built.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]

mod agent;
mod alone;
#[path = "../kubernetes/cluster.rs"]
#[allow(dead_code, reason = "the helpers of two test programs")]
mod cluster;
mod deploy;

use agent::{Agent, agent_rules, curl, token, user_rules};
use cluster::Cluster;
use cryostore_engine::format::snapshot::Identity;
use cryostore_engine::{ImportOptions, Repository, Silent, Source, Store, SystemEnv, import};
use serde_json::{Value, json};

#[test]
fn a_checkpoint_through_the_agent_is_stored_with_the_agents_storage_and_the_archive_is_removed() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    c.pod("web", &["app"], "");
    let agent = Agent::start(&c);
    c.user = c.account("robot", &json!(user_rules(&c)));
    let said = agent.checkpoint(&c, &["web", "--label", "before-upgrade", "--json"], 0);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["checkpoints"][0]["archive_removed"], true);
    assert_eq!(report["storage"], c.path("store").to_str().unwrap());
    assert!(c.archives().is_empty(), "{:?}", c.archives());
    let snapshots = c.snapshots();
    let snapshot = &snapshots[0];
    assert_eq!(
        report["checkpoints"][0]["snapshot"],
        snapshot.id.to_string()
    );
    assert_eq!(snapshot.labels, ["before-upgrade"]);
    assert_eq!(snapshot.identity.namespace, c.namespace);
    assert_eq!(snapshot.identity.node, c.node);
    assert_eq!(c.attachment(snapshot, "pod.json")["kind"], "Pod");

    let lines = agent.audit();
    let line = &lines[0];
    let user = format!("system:serviceaccount:{}:robot", c.namespace);
    assert_eq!(line["user"], user);
    assert_eq!(
        (&line["verb"], &line["result"]),
        (&json!("create"), &json!("done"))
    );
    assert_eq!(
        (&line["call"], &line["status"]),
        (&json!("checkpoint"), &json!(200))
    );
    assert_eq!(
        (&line["pod"], &line["container"]),
        (&json!("web"), &json!("app"))
    );
    assert_eq!(line["snapshot"], snapshot.id.to_string());
    assert_eq!(line["bytes"], snapshot.archive.bytes);
    assert!(!json!(lines).to_string().contains(&token(&c.user)));
}

#[test]
fn several_containers_of_one_call_have_one_group_and_a_pod_is_ended_after_they_are_stored() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    c.pod("web", &["app", "log"], "");
    let agent = Agent::start(&c);
    let said = agent.checkpoint(&c, &["web"], 4);
    assert!(said.err.contains("2 containers: app, log"), "{}", said.err);
    let mut rights = user_rules(&c);
    c.user = c.account("robot", &json!(rights));
    let said = agent.checkpoint(&c, &["web", "--all-containers", "--stop"], 8);
    assert!(
        said.err.contains("asking the kubelet at 127.0.0.1"),
        "{}",
        said.err
    );
    assert!(said.err.contains(r#"verbs: ["delete"]"#), "{}", said.err);
    assert_eq!(c.snapshots().len(), 2);
    let groups: Vec<_> = c.snapshots().iter().map(|s| s.group.clone()).collect();
    assert!(groups[0].is_some() && groups[0] == groups[1], "{groups:?}");
    rights.push(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]}));
    c.user = c.account("ender", &json!(rights));
    agent.checkpoint(&c, &["web", "-c", "app", "--stop"], 0);
}

#[test]
fn who_may_not_is_told_which_rule_is_missing_and_nothing_is_frozen() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    c.pod("web", &["app"], "");
    let agent = Agent::start(&c);
    let all = user_rules(&c);
    for resource in ["configmaps", "nodes", "pods/checkpoint"] {
        let less: Vec<_> = all
            .iter()
            .filter(|rule| rule["resources"][0] != resource)
            .collect();
        let name = resource.replace('/', "-");
        c.user = c.account(&format!("without-{name}"), &json!(less));
        // With an address the nodes are not looked at.
        if resource == "nodes" {
            agent.checkpoint(&c, &["web"], 0);
            continue;
        }
        let said = agent.checkpoint(&c, &["web"], 8);
        let wanted = format!(r#"resources: ["{resource}"]"#);
        assert!(said.err.contains(&wanted), "{resource}\n{}", said.err);
    }
    assert_eq!(c.calls().len(), 1);
    let refused: Vec<_> = agent
        .audit()
        .into_iter()
        .filter(|line| line["status"] == 403)
        .collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0]["pod"], "web");

    // The right for one namespace is none for another, and what a pod says of itself changes nothing.
    let (status, said) = curl(
        &c,
        &agent,
        "/v1/checkpoint",
        &[
            "-H",
            &format!("Authorization: Bearer {}", token(&c.user)),
            "-d",
            r#"{"namespace": "kube-system", "pod": "web"}"#,
        ],
    );
    assert_eq!(status, 403, "{said}");
}

#[test]
fn somebody_unknown_gets_a_401_and_a_certificate_of_the_cluster_is_somebody() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    let agent = Agent::start(&c);
    let ask = |arguments: &[&str]| curl(&c, &agent, "/v1/facts", arguments);
    for unknown in [
        vec![],
        vec!["-H", "Authorization: Bearer wrong"],
        vec!["-H", "Authorization: Basic YTpi"],
        vec![
            "-H",
            "X-Remote-User: admin",
            "-H",
            "Impersonate-User: admin",
        ],
    ] {
        let (status, said) = ask(&unknown);
        assert_eq!(status, 401, "{unknown:?} {said}");
    }
    assert_eq!(agent.audit().len(), 4);
    assert_eq!(agent.audit()[0]["user"], "");

    let (crt, key) = certificate(&c, "masters", "/CN=somebody/O=system:masters", true);
    let with = ["--cert", crt.as_str(), "--key", key.as_str()];
    let (status, said) = ask(&with);
    assert_eq!(status, 200, "{said}");
    let line = agent.audit().pop().unwrap();
    assert_eq!(line["user"], "somebody");
    assert_eq!(
        line["groups"],
        json!(["system:masters", "system:authenticated"])
    );

    let (crt, key) = certificate(&c, "none", "/CN=nobody/O=nothing", true);
    let (status, said) = ask(&["--cert", &crt, "--key", &key]);
    assert_eq!(status, 403, "{said}");
    assert!(said.contains("nobody may not get nodes"), "{said}");

    // Signed by somebody else: there is no connection.
    let (crt, key) = certificate(&c, "forged", "/CN=admin/O=system:masters", false);
    let (status, _) = ask(&["--cert", &crt, "--key", &key]);
    assert_eq!(status, 0);
}

/// A client's certificate and its key: signed by the cluster's authority of clients, or by itself.
fn certificate(c: &Cluster, name: &str, subject: &str, signed: bool) -> (String, String) {
    let path = |end: &str| {
        c.path(&format!("{name}.{end}"))
            .to_str()
            .unwrap()
            .to_owned()
    };
    let (crt, key, csr, ext) = (path("crt"), path("key"), path("csr"), path("ext"));
    let openssl = |arguments: &[&str]| {
        let output = std::process::Command::new("openssl")
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    openssl(&[
        "req", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &csr, "-subj", subject,
    ]);
    std::fs::write(&ext, "extendedKeyUsage=clientAuth\n").unwrap();
    let (ca, ca_key) = c.users();
    let mut sign = vec![
        "x509", "-req", "-in", &csr, "-extfile", &ext, "-days", "2", "-out", &crt,
    ];
    if signed {
        sign.extend([
            "-CA",
            ca.to_str().unwrap(),
            "-CAkey",
            ca_key.to_str().unwrap(),
            "-set_serial",
            "8",
        ]);
    } else {
        sign.extend(["-signkey", &key]);
    }
    openssl(&sign);
    (crt, key)
}

#[test]
fn the_facts_of_a_node_come_with_where_they_are_from_and_without_secrets() {
    let Some(c) = Cluster::start() else { return };
    let agent = Agent::start(&c);
    std::fs::write(
        c.path("checkpoints/checkpoint-a_b-c-2026-11-20T10:00:00Z.tar"),
        "1234",
    )
    .unwrap();
    std::fs::write(c.path("checkpoints/other"), "1234").unwrap();
    let admin = format!("Authorization: Bearer {}", admin_token());
    let (status, said) = curl(&c, &agent, "/v1/facts", &["-H", &admin]);
    assert_eq!(status, 200, "{said}");
    let facts: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(facts["node"], c.node);
    assert_eq!(facts["host"]["runtime"], "containerd://2.1.9");
    assert_eq!(facts["restore"]["state"], "on");
    assert!(
        facts["restore"]["source"]
            .as_str()
            .unwrap()
            .contains("2.1.9")
    );
    assert_eq!(facts["checkpoints"]["archives"], 1);
    assert_eq!(facts["checkpoints"]["bytes"], 4);
    assert!(facts["checkpoints"]["free_bytes"].as_u64().unwrap() > 0);
    assert_eq!(facts["storages"], json!([c.path("store")]));
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(facts["boot_id"], boot.trim());
}

fn admin_token() -> String {
    let path = std::env::var("CRYOSTORE_TEST_APISERVER").unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    text.split("token: \"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn without_any_one_of_its_rules_the_agent_says_which_it_lacks() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    let all = agent_rules(&c);
    assert!(!json!(all).to_string().contains("proxy"));
    assert!(!json!(all).to_string().contains("secrets"));
    let whole = Agent::start(&c);
    whole.checkpoint(&c, &["web"], 0);
    drop(whole);
    for (n, rule) in all.iter().enumerate() {
        let mut less = all.clone();
        less.remove(n);
        let account = c.account(&format!("less-{n}"), &json!(less));
        let resource = rule["resources"][0].as_str().unwrap();
        let said = match Agent::start_as(&c, &account, &[]) {
            Err(said) => said,
            Ok(_) if rule["resourceNames"][0] == "extension-apiserver-authentication" => {
                continue;
            }
            Ok(agent) => {
                agent
                    .checkpoint(&c, &["web"], 1_i32.max(code_of(resource)))
                    .err
            }
        };
        let wanted = format!(r#"resources: ["{resource}"]"#);
        assert!(
            said.replace('\\', "").contains(&wanted),
            "{resource}\n{said}"
        );
    }
}

/// What a user's call ends with if the agent lacks this right: that of the cluster is the cluster's refusal, that of asking who may what is a service that is away.
fn code_of(resource: &str) -> i32 {
    match resource {
        "tokenreviews" | "subjectaccessreviews" => 1,
        _ => 8,
    }
}

#[test]
fn a_laptop_reaches_the_agent_by_a_port_forward_and_without_any_one_right_is_told_which_it_lacks() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    c.pod("web", &["app"], "");
    let agent = Agent::start(&c);
    let all = user_rules(&c);
    c.user = c.account("robot", &json!(all));
    let said = agent.checkpoint_by(&c, "cluster", &["web"], 3);
    assert!(said.err.contains("has no agent that runs"), "{}", said.err);
    agent.make_pod(&c);
    let said = agent.checkpoint_by(&c, "cluster", &["web"], 0);
    assert!(said.out.contains("stored by its agent in"), "{}", said.out);
    assert_eq!(c.snapshots().len(), 1);

    for (n, rule) in all.iter().enumerate() {
        let resource = rule["resources"][0].as_str().unwrap();
        if resource == "nodes" {
            continue;
        }
        let mut less = all.clone();
        less.remove(n);
        c.user = c.account(&format!("less-{n}"), &json!(less));
        let said = agent.checkpoint_by(&c, "cluster", &["web"], 8);
        let wanted = format!(
            r#"resources: ["{resource}"], verbs: ["{}"]"#,
            rule["verbs"][0].as_str().unwrap()
        );
        assert!(said.err.contains(&wanted), "{wanted}\n{}", said.err);
    }
    assert_eq!(c.calls().len(), 1);
}

#[test]
fn an_agent_with_another_certificate_than_the_published_one_gets_no_token() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    c.pod("web", &["app"], "");
    let mut first = Agent::start(&c);
    first.end();
    let published = |c: &Cluster| {
        let map = c.kubectl(
            &[
                "get",
                "configmap",
                "cryostore-agents",
                "-n",
                &c.namespace,
                "-o",
                "json",
            ],
            "",
        );
        let map: Value = serde_json::from_str(&map).unwrap();
        map["data"][c.node.as_str()].as_str().unwrap().to_owned()
    };
    assert_eq!(published(&c), first.certificate);
    let account = c.path("agent.kubeconfig");
    let second = Agent::start_as(&c, &account, &[]).unwrap();
    assert_eq!(published(&c), second.certificate);
    let old = json!({"data": {c.node.as_str(): first.certificate}});
    c.kubectl(
        &[
            "patch",
            "configmap",
            "cryostore-agents",
            "-n",
            &c.namespace,
            "-p",
            &old.to_string(),
        ],
        "",
    );
    c.user = c.account("robot", &json!(user_rules(&c)));
    for way in [second.url.as_str(), "cluster"] {
        if way == "cluster" {
            second.make_pod(&c);
        }
        let said = second.checkpoint_by(&c, way, &["web"], 8);
        assert!(
            said.err.contains("is not the one that it published"),
            "{}",
            said.err
        );
    }
    assert!(second.audit().is_empty());
    assert!(c.calls().is_empty());
}

/// The row of the test's node.
fn status(c: &Cluster, more: &[&str]) -> (Value, String) {
    let base = [
        "status",
        "--agent-namespace",
        &c.namespace,
        "--kubelet-ca",
        &c.ca,
    ];
    let said = c.cryostore(&[&base, more, &["--json"]].concat(), 0);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    let nodes = report["cluster"]["nodes"].as_array().unwrap();
    let row = nodes
        .iter()
        .find(|one| one["node"] == c.node)
        .unwrap()
        .clone();
    let text = c.cryostore(&[&base, more].concat(), 0).out;
    assert!(
        report["storages"][0]["answers"].as_bool().unwrap(),
        "{report}"
    );
    (row, text)
}

#[test]
fn status_shows_each_node_and_where_each_fact_is_from_with_an_agent_and_without() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    let (row, text) = status(&c, &[]);
    assert_eq!(row["kubelet"]["value"], "v1.37.0");
    assert_eq!(row["kubelet"]["source"], "node.status");
    assert_eq!(row["checkpoints"]["value"], "on");
    assert!(
        row["checkpoints"]["source"]
            .as_str()
            .unwrap()
            .contains("pod does not exist")
    );
    assert_eq!(row["restore"]["source"], "no agent");
    assert_eq!(row["folder"], Value::Null);
    let node = c.node.clone();
    let line = |text: &str| {
        text.lines()
            .find(|line| line.starts_with(&node))
            .unwrap()
            .to_owned()
    };
    assert!(line(&text).contains("unknown (no agent)"), "{text}");
    assert!(c.calls().is_empty());

    let agent = Agent::start(&c);
    agent.make_pod(&c);
    std::fs::write(
        c.path("checkpoints/checkpoint-a_b-c-2026-11-20T10:00:00Z.tar"),
        "1234",
    )
    .unwrap();
    let (row, text) = status(&c, &[]);
    assert_eq!(row["restore"]["value"], "on");
    assert_eq!(row["checkpoints"]["value"], "on");
    assert_eq!(row["folder"]["archives"], 1);
    assert!(line(&text).contains("1 (4 B)"), "{text}");

    // The roles for it, and no more.
    let file = "agent-users.yaml";
    let mut rights = agent::rules(&c, file, "Role", "cryostore-agent-reach");
    rights.extend(agent::rules(
        &c,
        file,
        "ClusterRole",
        "cryostore-agent-nodes",
    ));
    c.user = c.account("robot", &json!(rights));
    assert_eq!(status(&c, &[]).0["restore"]["value"], "on");

    // The kubelet goes, and the node stays in the table.
    drop(agent);
    c.end_kubelet();
    let (row, text) = status(&c, &[]);
    assert_eq!(row["checkpoints"]["value"], Value::Null);
    assert!(row["no_agent"].as_str().unwrap().contains("node"), "{row}");
    assert!(line(&text).contains("unknown"), "{text}");
}

#[test]
fn status_says_that_a_kubelet_takes_no_checkpoints_and_what_to_set() {
    let Some(c) = Cluster::start_with(&["--gate-off"]) else {
        return;
    };
    let (row, text) = status(&c, &[]);
    assert_eq!(row["checkpoints"]["value"], "off");
    assert!(
        text.contains(&format!("{}: checkpoints off", c.node)),
        "{text}"
    );
    assert!(text.contains("ContainerCheckpoint"), "{text}");
    // A storage that was said is looked at alone.
    let store = c.path("store");
    let said = c.cryostore(
        &["status", "--storage", store.to_str().unwrap(), "--json"],
        0,
    );
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert!(report.get("cluster").is_none(), "{report}");
}

#[test]
fn without_a_cluster_that_answers_the_storages_are_still_shown() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    let config = std::fs::read_to_string(c.kubeconfig("x", &json!({"token": "x"}))).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into();
    std::fs::write(c.path("away.kubeconfig"), config.to_string()).unwrap();
    c.user = c.path("away.kubeconfig");
    let said = c.cryostore(&["status"], 0);
    assert!(
        said.out.contains(c.path("store").to_str().unwrap()),
        "{}",
        said.out
    );
    assert!(said.out.contains("nodes: listing nodes"), "{}", said.out);
}

/// As a runtime leaves it, of a pod that is there.
fn archive(c: &Cluster, name: &str, pod: &str, filling: u8) -> Vec<u8> {
    let uid = c.look(pod).unwrap()["metadata"]["uid"]
        .as_str()
        .unwrap()
        .to_owned();
    let spec = json!({"annotations": {
        "io.kubernetes.cri.sandbox-name": pod, "io.kubernetes.cri.sandbox-namespace": c.namespace,
        "io.kubernetes.cri.sandbox-uid": uid, "io.kubernetes.cri.container-name": "app",
    }});
    let mut tar = Vec::new();
    let mut put = |name: &str, body: &[u8]| {
        let mut header = [0_u8; 512];
        let mut at =
            |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        at(0, name);
        at(100, "0000600\0");
        at(124, &format!("{:011o}\0", body.len()));
        at(136, "00000000000\0");
        at(148, "        ");
        at(156, "0");
        at(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(body);
        tar.resize(tar.len().next_multiple_of(512), 0);
    };
    put("spec.dump", spec.to_string().as_bytes());
    put("data", &vec![filling; 100_000]);
    tar.resize(tar.len() + 1024, 0);
    std::fs::write(c.path("checkpoints").join(name), &tar).unwrap();
    tar
}

/// Until it is so, or 20 s have gone.
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..200 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{what}");
}

const ONE: &str = "checkpoint-web_default-app-2026-11-20T10:00:00Z.tar";
const TWO: &str = "checkpoint-web_default-app-2026-11-20T10:00:01Z.tar";

fn watched(agent: &Agent) -> Vec<Value> {
    let lines = agent.audit().into_iter();
    lines.filter(|line| line["call"] == "watch").collect()
}

#[test]
fn archives_that_others_asked_for_are_stored_once_and_stay_also_over_a_restart() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    let first = archive(&c, ONE, "web", 1);
    let state = c.path("agent-state");
    let watch = ["--watch", "--state", state.to_str().unwrap()];
    let mut agent = Agent::start_with(&c, &watch);
    // What was there at the start, and what comes later.
    wait("the first is stored", || c.snapshots().len() == 1);
    archive(&c, TWO, "web", 2);
    wait("the second is stored", || c.snapshots().len() == 2);
    let snapshots = c.snapshots();
    assert_eq!(snapshots[1].identity.pod, "web");
    assert_eq!(snapshots[1].identity.node, c.node);
    assert_eq!(c.attachment(&snapshots[1], "pod.json")["kind"], "Pod");
    let stored =
        cryostore_tests::bytes_of(&c.repository(), &snapshots[1], &cryostore_engine::Silent)
            .unwrap();
    assert_eq!(stored, first);

    // Also where it was killed and remembers nothing.
    for forget in [false, true] {
        agent.kill();
        if forget {
            std::fs::remove_dir_all(&state).unwrap();
        }
        agent = Agent::start_as(&c, &c.path("agent.kubeconfig"), &watch).unwrap();
        let before = watched(&agent).len();
        archive(
            &c,
            "checkpoint-web_default-app-2026-11-20T10:00:02Z.tar",
            "web",
            3 + u8::from(forget),
        );
        wait("a third is stored", || {
            watched(&agent).len() > before + usize::from(forget) * 2
        });
    }
    assert_eq!(c.snapshots().len(), 4);
    assert_eq!(c.archives().len(), 3);
}

#[test]
fn archives_of_others_are_removed_only_if_that_is_said_and_never_those_that_are_marked() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    archive(&c, ONE, "web", 1);
    archive(&c, TWO, "web", 2);
    std::fs::write(c.path("checkpoints").join(format!("{TWO}.keep")), "").unwrap();
    let state = c.path("agent-state");
    let watch = ["--watch", "--adopt", "--state", state.to_str().unwrap()];
    let agent = Agent::start_with(&c, &watch);
    let keep = format!("{TWO}.keep");
    wait("one is removed", || {
        c.archives() == [TWO, &keep] && c.snapshots().len() == 2
    });
    std::fs::write(c.path("checkpoints/.keep"), "").unwrap();
    archive(&c, ONE, "web", 3);
    wait("a third is stored", || c.snapshots().len() == 3);
    // Said by whoever asked: it stays, adopted or not, and is stored once.
    std::fs::remove_file(c.path("checkpoints/.keep")).unwrap();
    agent.checkpoint(&c, &["web", "--keep-archive"], 0);
    wait("the unmarked one is removed", || {
        !c.archives().contains(&ONE.to_owned())
    });
    wait("the kept one is known", || watched(&agent).len() == 4);
    assert_eq!(c.archives().len(), 3, "{:?}", c.archives());
    assert_eq!(c.snapshots().len(), 4);
}

#[test]
fn an_archive_is_not_removed_for_a_snapshot_that_is_not_there() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    archive(&c, ONE, "web", 1);
    let state = c.path("agent-state");
    let watch = ["--watch", "--state", state.to_str().unwrap()];
    let mut agent = Agent::start_with(&c, &watch);
    wait("it is stored", || {
        c.snapshots().len() == 1 && !watched(&agent).is_empty()
    });
    agent.end();
    // Another repository in its place, which knows nothing of it.
    std::fs::remove_dir_all(c.path("store")).unwrap();
    let store = Store::open(c.path("store").to_str().unwrap(), true).unwrap();
    Repository::init(&store, &SystemEnv::new()).unwrap();
    let adopting = [&watch[..], &["--adopt"]].concat();
    let _agent = Agent::start_as(&c, &c.path("agent.kubeconfig"), &adopting).unwrap();
    wait("it is stored again and removed", || c.archives().is_empty());
    assert_eq!(c.snapshots().len(), 1);
}

#[test]
fn an_archive_that_is_written_over_becomes_another_snapshot_and_half_of_one_none() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    let state = c.path("agent-state");
    let agent = Agent::start_with(&c, &["--watch", "--state", state.to_str().unwrap()]);
    let whole = archive(&c, ONE, "web", 1);
    wait("it is stored", || c.snapshots().len() == 1);
    let second = archive(&c, ONE, "web", 2);
    wait("what came in its place is stored", || {
        c.snapshots().len() == 2
    });
    let newest = cryostore_tests::bytes_of(
        &c.repository(),
        &c.snapshots()[0],
        &cryostore_engine::Silent,
    )
    .unwrap();
    assert_eq!(newest, second);

    let path = c.path("checkpoints").join(TWO);
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    wait("it is said", || {
        watched(&agent).iter().any(|line| line["status"] == 400)
    });
    // A link leads nowhere.
    let link = c.path("checkpoints/checkpoint-x_default-app-2026-11-20T10:00:00Z.tar");
    std::os::unix::fs::symlink(c.path("template.tar"), &link).unwrap();
    std::fs::write(&path, &whole).unwrap();
    wait("the whole is stored", || watched(&agent).len() == 4);
    // The bytes of the first are in the repository already: one archive is one snapshot.
    assert_eq!(c.snapshots().len(), 2);
    assert!(link.symlink_metadata().is_ok());
}

#[test]
fn what_a_store_that_is_away_could_not_take_is_stored_and_removed_when_it_is_back() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    c.pod("web", &["app"], "slow=2");
    let state = c.path("agent-state");
    let agent = Agent::start_with(&c, &["--watch", "--state", state.to_str().unwrap()]);
    c.user = c.account("robot", &json!(user_rules(&c)));
    let (store, away) = (c.path("store"), c.path("away"));
    let calls = std::thread::scope(|scope| {
        let run = scope.spawn(|| agent.checkpoint(&c, &["web", "--label", "kept"], 4));
        wait("the kubelet is asked", || c.calls().len() == 1);
        // The repository is open by now; its directory goes while the container is frozen.
        std::fs::rename(&store, &away).unwrap();
        std::fs::write(&store, "no directory").unwrap();
        run.join().unwrap()
    });
    assert!(
        calls
            .err
            .contains("the checkpoint was taken, and not stored"),
        "{}",
        calls.err
    );
    assert_eq!(c.archives().len(), 1);
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(&away, &store).unwrap();
    wait("it is stored and removed", || {
        c.archives().is_empty() && c.snapshots().len() == 1
    });
    assert_eq!(c.snapshots()[0].labels, ["kept"]);
}

#[test]
fn memory_of_a_pod_is_given_only_to_who_may_restore_it_and_make_pods_where_it_goes() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    let agent = Agent::start(&c);
    agent.checkpoint(&c, &["web"], 0);
    let known = c.snapshots()[0].id.to_string();
    // One that was imported from a file: the archive says that it is of a pod of the caller's, which is no evidence.
    let tar = archive(&c, ONE, "web", 1);
    std::fs::write(c.path("a.tar"), tar).unwrap();
    c.cryostore(&["import", c.path("a.tar").to_str().unwrap()], 0);
    let unknown = c.snapshots()[0].id.to_string();
    assert_eq!(c.snapshots()[0].identity.pod, "web");

    // One of another cluster, with a pod of the same name; and one that does not say of which.
    let elsewhere = of_cluster(&c, "another-cluster", 2);
    let nowhere = of_cluster(&c, "", 3);

    let all = agent::rules(
        &c,
        "agent-users.yaml",
        "ClusterRole",
        "cryostore-agent-restore",
    );
    let ask = |who: &std::path::Path, snapshot: &str| {
        let header = format!("Authorization: Bearer {}", token(who));
        let call = json!({"snapshot": snapshot, "namespace": c.namespace, "pod": "web-again"});
        curl(
            &c,
            &agent,
            "/v1/prepare-restore",
            &["-H", &header, "-d", &call.to_string()],
        )
    };
    for (n, rule) in all.iter().enumerate() {
        let mut less = all.clone();
        less.remove(n);
        let who = c.account(&format!("less-{n}"), &json!(less));
        let (status, said) = ask(&who, &known);
        assert_eq!(status, 403, "{said}");
        let resource = rule["resources"][0].as_str().unwrap();
        assert!(
            said.replace('\\', "")
                .contains(&format!(r#"resources: ["{resource}"]"#)),
            "{said}"
        );
    }
    // All rights, in this namespace alone.
    let here = c.account("here", &json!([]));
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "restore", "namespace": c.namespace}, "rules": all});
    c.kubectl(&["create", "-f", "-"], &role.to_string());
    let account = format!("{}:here", c.namespace);
    c.kubectl(
        &[
            "create",
            "rolebinding",
            "restore",
            "-n",
            &c.namespace,
            "--role=restore",
            "--serviceaccount",
            &account,
        ],
        "",
    );
    let (status, said) = ask(&here, &known);
    assert_eq!(status, 501, "there is no container runtime here: {said}");
    for other in [&unknown, &elsewhere, &nowhere] {
        let (status, said) = ask(&here, other);
        assert_eq!(status, 403, "{said}");
        assert!(said.contains("in all namespaces"), "{said}");
    }
    // The answer does not tell whether there is one.
    let none = "0".repeat(known.len());
    let (status, of_none) = ask(&here, &none);
    assert_eq!(status, 403, "{of_none}");
    let (_, of_one) = ask(&here, &elsewhere);
    assert_eq!(of_none.replace(&none, ""), of_one.replace(&elsewhere, ""));
}

/// A checkpoint of pod `web` that was taken in this cluster, as its attachments say.
fn of_cluster(c: &Cluster, cluster: &str, filling: u8) -> String {
    let tar = archive(c, ONE, "web", filling);
    std::fs::write(c.path("other.tar"), tar).unwrap();
    let how = ImportOptions {
        identity: Identity {
            namespace: c.namespace.clone(),
            pod: "web".to_owned(),
            container: "app".to_owned(),
            ..Identity::default()
        },
        attachments: vec![
            ("pod.json".to_owned(), b"{}".to_vec()),
            (
                "host.json".to_owned(),
                json!({"cluster": cluster}).to_string().into_bytes(),
            ),
        ],
        ..ImportOptions::default()
    };
    let source = Source::File(c.path("other.tar"));
    let imported = import(&c.repository(), source, &how, &Silent).unwrap();
    imported.snapshot.id.to_string()
}
