//! `cryostore restore` up to the point where a node's containerd is needed, against the real API server: plans, refusals, rights.
//! What comes after it is in the tests that `scripts/runtimes.sh` runs.

use serde_json::{Value, json};

use crate::cluster::Cluster;

/// A cluster with a checkpoint of the pod `web`, which is still there, on a node that is Ready.
fn with_checkpoint() -> Option<Cluster> {
    let c = Cluster::start()?;
    ready(&c, true);
    c.pod_with("web", &["app"], "", &|pod| {
        pod["spec"]["initContainers"] = json!([{"name": "first", "image": "x"}]);
        pod["spec"]["tolerations"] = json!([{"key": "x", "operator": "Exists"}]);
        pod["metadata"]["labels"] = json!({"app": "web", "pod-template-hash": "5d4f"});
    });
    c.json(&["web"]);
    Some(c)
}

fn ready(c: &Cluster, is_ready: bool) {
    let path = format!("/api/v1/nodes/{}", c.node);
    let node = c.kubectl(&["get", "--raw", &path], "");
    let mut node: Value = serde_json::from_str(&node).unwrap();
    let status = if is_ready { "True" } else { "False" };
    node["status"]["conditions"] = json!([{"type": "Ready", "status": status}]);
    let path = format!("{path}/status");
    c.kubectl(&["replace", "--raw", &path, "-f", "-"], &node.to_string());
}

fn plan(c: &Cluster, arguments: &[&str]) -> Value {
    let all = [&["restore", "latest", "--dry-run", "--json"], arguments].concat();
    let said = c.cryostore(&all, 0);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    report["plan"].clone()
}

fn found<'p>(plan: &'p Value, what: &str) -> Option<&'p Value> {
    let findings = plan["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["what"] == what)
}

#[test]
fn a_plan_is_a_pod_that_the_api_server_takes_and_a_dry_run_makes_none() {
    let Some(c) = with_checkpoint() else { return };
    let plan = plan(&c, &["--force"]);
    let id = c.snapshots()[0].id.to_string();
    let name = format!("web-restored-{}", &id[..6]);
    assert_eq!(plan["name"], name, "the old pod is still there");
    assert_eq!(plan["node"], c.node);
    assert_eq!(plan["is_here"], true);
    let dropped: Vec<&str> = plan["dropped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["what"].as_str().unwrap())
        .collect();
    assert_eq!(dropped, ["init container first", "label pod-template-hash"]);
    assert!(
        found(&plan, "secrets").unwrap()["text"]
            .as_str()
            .unwrap()
            .contains("hush")
    );
    let pod = &plan["pod"];
    assert_eq!(pod["metadata"]["annotations"]["cryostore/snapshot"], id);
    let made = c.kubectl(
        &["create", "--dry-run=server", "-o", "json", "-f", "-"],
        &pod.to_string(),
    );
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Never");
    assert_eq!(made["spec"]["restartPolicy"], "Never");
    assert!(c.look(&name).is_none());
}

#[test]
fn a_name_that_is_free_again_is_used_again_and_one_that_is_said_and_taken_is_refused() {
    let Some(c) = with_checkpoint() else { return };
    let said = c.cryostore(&["restore", "latest", "--name", "web"], 6);
    assert!(
        said.err
            .contains(&format!("there is a pod {}/web already", c.namespace)),
        "{}",
        said.err
    );
    c.kubectl(
        &[
            "delete",
            "pod",
            "web",
            "-n",
            &c.namespace,
            "--force",
            "--grace-period=0",
        ],
        "",
    );
    assert_eq!(plan(&c, &[])["name"], "web");
}

#[test]
fn what_is_missing_in_the_cluster_is_refused_before_anything_is_done() {
    let Some(c) = with_checkpoint() else { return };
    let said = c.cryostore(&["restore", "latest", "--node", "nowhere"], 3);
    assert!(
        said.err.contains("there is no node nowhere"),
        "{}",
        said.err
    );
    let said = c.cryostore(
        &[
            "restore",
            "latest",
            "-n",
            "nowhere",
            "--allow-cross-namespace",
        ],
        3,
    );
    assert!(said.err.contains("no namespace nowhere"), "{}", said.err);
    let said = c.cryostore(&["restore", "latest", "-n", "default"], 9);
    assert!(said.err.contains("--allow-cross-namespace"), "{}", said.err);
    let said = c.cryostore(&["restore", "latest", "-n", "../x"], 4);
    assert!(said.err.contains("no name of a namespace"), "{}", said.err);
    ready(&c, false);
    let said = c.cryostore(&["restore", "latest"], 3);
    assert!(said.err.contains("is not Ready"), "{}", said.err);
}

#[test]
fn inspect_says_whether_it_can_be_restored_on_a_node() {
    let Some(c) = with_checkpoint() else { return };
    let judged =
        |node: &str, code: i32| c.cryostore(&["inspect", "latest", "--node", node, "--json"], code);
    let report: Value = serde_json::from_str(&judged(&c.node, 0).out).unwrap();
    assert_eq!(report["restore"]["node"], c.node);
    assert!(report["restore"]["can_be_restored"].is_boolean());
    ready(&c, false);
    let report: Value = serde_json::from_str(&judged(&c.node, 0).out).unwrap();
    assert_eq!(report["restore"]["can_be_restored"], false);
    assert!(judged("nowhere", 3).err.contains(&c.node));
}

#[test]
fn the_roles_that_are_shipped_are_enough_and_without_any_one_right_the_error_names_it() {
    let Some(mut c) = with_checkpoint() else {
        return;
    };
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/rbac-restore.yaml");
    c.kubectl(&["apply", "-f", file], "");
    let role = c.kubectl(
        &["get", "clusterrole", "cryostore-restore", "-o", "json"],
        "",
    );
    let role: Value = serde_json::from_str(&role).unwrap();
    let rules = &role["rules"];
    assert!(!rules.to_string().contains("secrets"));
    c.user = c.account("whole", rules);
    let with_all = plan(&c, &[]);
    assert_eq!(with_all["node"], c.node);
    // The namespace could not be looked at: that is no reason to refuse.
    assert!(found(&with_all, "namespace").is_none());
    for (n, (resource, verb)) in [("pods", "get"), ("nodes", "list")].into_iter().enumerate() {
        let mut less = rules.clone();
        less[n]["verbs"] = json!(["watch"]);
        c.user = c.account(&format!("without-{resource}"), &less);
        // Which names are taken is not known then, and the API server is going to say so.
        if resource == "nodes" {
            let said = c.cryostore(&["restore", "latest", "--dry-run"], 8);
            assert!(
                said.err.contains(resource) && said.err.contains(verb),
                "{}",
                said.err
            );
        } else {
            assert_eq!(plan(&c, &[])["name"], "web");
        }
    }
}
