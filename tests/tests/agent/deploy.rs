//! What is shipped in `deploy/`: the API server takes it, and the program takes the arguments in it.

use std::process::Command;

use serde_json::Value;

use crate::cluster::Cluster;

fn path(name: &str) -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/").to_owned() + name
}

/// True if the program understands these words: it goes on until it finds no cluster.
fn understands(c: &Cluster, words: &[&str]) {
    let mut command = c.command(words);
    let output = command.env_remove("KUBECONFIG").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{words:?}\n{said}");
    assert!(said.contains("no cluster is configured"), "{said}");
}

#[test]
fn what_is_shipped_is_taken_by_the_api_server_twice_and_its_pod_can_be_made() {
    let Some(c) = Cluster::start() else { return };
    for _ in 0..2 {
        for file in ["agent.yaml", "agent-users.yaml", "rbac.yaml"] {
            c.kubectl(&["apply", "-f", &path(file)], "");
        }
    }
    let get = |kind: &str, name: &str| -> Value {
        let text = c.kubectl(&["get", kind, name, "-n", "cryostore", "-o", "json"], "");
        serde_json::from_str(&text).unwrap()
    };
    let labels = &get("namespace", "cryostore")["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "privileged");
    let policy = get("networkpolicy", "cryostore-agent");
    assert!(
        policy["spec"]["ingress"].is_null(),
        "nobody comes in: {policy}"
    );
    assert_eq!(policy["spec"]["policyTypes"][0], "Ingress");

    let set = get("daemonset", "cryostore-agent");
    let mut pod = set["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "agent-of-a-test".into();
    pod["metadata"]["namespace"] = "cryostore".into();
    // A class that the API server makes itself, some time after its start.
    pod["spec"]
        .as_object_mut()
        .unwrap()
        .remove("priorityClassName");
    c.kubectl(&["create", "--dry-run=server", "-f", "-"], &pod.to_string());
    let container = &pod["spec"]["containers"][0];
    let rights = &container["securityContext"];
    assert_eq!(rights["allowPrivilegeEscalation"], false);
    assert_eq!(rights["readOnlyRootFilesystem"], true);
    assert_eq!(rights["capabilities"]["drop"][0], "ALL");
    // What it looks at below /host is there: how much room containerd has, and a certificate that may be replaced.
    for folder in ["/host/var/lib/containerd", "/host/var/lib/kubelet/pki"] {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["mountPath"] == folder);
        assert_eq!(mount.unwrap()["readOnly"], true, "{folder}");
    }
    // Not on a control plane unless somebody wants it there.
    assert!(set["spec"]["template"]["spec"]["tolerations"].is_null());
    let words: Vec<&str> = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    understands(&c, &words);
    let all = std::fs::read_to_string(path("agent.yaml")).unwrap()
        + &std::fs::read_to_string(path("agent-users.yaml")).unwrap();
    for never in [
        "nodes/proxy\"",
        "\"secrets\"",
        "\"*\"",
        "privileged: true",
        "cluster-admin",
    ] {
        assert!(!all.contains(never), "{never}");
    }
}

#[test]
fn the_policy_for_images_of_restores_knows_how_they_are_named_and_all_places_that_name_images() {
    let text = std::fs::read_to_string(path("restore-policy.yaml")).unwrap();
    let name = cryostore_operator::restore::containerd::image_name("shop", "web", "3f9a2b1c0000");
    let before = name.strip_suffix("shop/web:3f9a2b1c0000").unwrap();
    let rule = format!("i.startsWith('{before}' + request.namespace + '/')");
    assert!(text.contains(&rule), "{rule}");
    assert!(text.contains("!i.startsWith('sha256:')"));
    for place in [
        "spec.containers.",
        "spec.initContainers.",
        "spec.ephemeralContainers.",
        "spec.volumes.",
    ] {
        // Of the pod, and of the one that was there before.
        assert_eq!(
            text.matches(&format!("bject.{place}map(")).count()
                + text.matches(&format!("bject.{place}filter(")).count(),
            2,
            "{place}"
        );
    }
    assert!(text.contains(r#"resources: ["pods", "pods/ephemeralcontainers"]"#));
    assert!(text.contains("failurePolicy: Fail"));
    assert!(text.contains(r#"validationActions: ["Deny", "Audit"]"#));
}

#[test]
fn the_unit_for_systemd_has_arguments_that_are_understood_and_no_mistakes() {
    let Some(c) = Cluster::start() else { return };
    let unit = std::fs::read_to_string(path("cryostore-agent.service")).unwrap();
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/cryostore "));
    let words: Vec<&str> = line.unwrap().split(' ').collect();
    understands(&c, &words);
    // Where systemd is: it knows its own words, and wants programs that are there.
    let own = assert_cmd::cargo::cargo_bin("cryostore");
    let here = unit.replace("/usr/bin/cryostore", own.to_str().unwrap());
    let copy = c.path("cryostore-agent.service");
    std::fs::write(&copy, here).unwrap();
    if let Ok(output) = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&copy)
        .output()
    {
        let said = String::from_utf8_lossy(&output.stderr);
        let ours: Vec<_> = said
            .lines()
            .filter(|line| line.contains("cryostore-agent"))
            .collect();
        let strange = |line: &&&str| {
            let of_the_machine = ["Failed to connect", "Command 'man "];
            !of_the_machine.iter().any(|text| line.contains(text))
        };
        assert_eq!(ours.iter().filter(strange).count(), 0, "{said}");
    }
}
