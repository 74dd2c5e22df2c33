//! `cryostore checkpoint` against a real API server and a stand-in for the kubelet (`tests/kubelet/kubelet.py`).
//! Skipped where `CRYOSTORE_TEST_APISERVER` is not set; `make test` sets it where the server can be built.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]

mod cluster;
mod restore;

use std::process::{Command, Stdio};
use std::time::Duration;

use cluster::Cluster;
use cryostore_tests::archives::package;
use cryostore_tests::bytes_of;
use serde_json::{Value, json};

#[test]
fn a_pod_is_stored_with_its_names_its_manifest_and_its_host_and_the_archive_is_removed() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    let report = c.json(&["web", "--label", "before-upgrade"]);
    assert_eq!(report["checkpoints"][0]["archive_removed"], true);
    assert_eq!(
        (report["stopped"].as_bool(), &report["group"]),
        (Some(false), &Value::Null)
    );
    assert!(c.archives().is_empty(), "{:?}", c.archives());
    let snapshots = c.snapshots();
    let snapshot = &snapshots[0];
    let who = &snapshot.identity;
    assert_eq!(
        (who.namespace.as_str(), who.pod.as_str()),
        (c.namespace.as_str(), "web")
    );
    assert_eq!(
        (who.container.as_str(), who.node.as_str()),
        ("app", c.node.as_str())
    );
    assert_eq!(who.pod_uid, report["pod_uid"].as_str().unwrap());
    assert_eq!(snapshot.producer.engine, "containerd");
    assert_eq!(snapshot.labels, ["before-upgrade"]);

    let pod = c.attachment(snapshot, "pod.json");
    assert_eq!(
        pod["spec"]["containers"][0]["envFrom"][0]["secretRef"]["name"],
        "hush"
    );
    for gone in [
        "/status",
        "/metadata/uid",
        "/metadata/managedFields",
        "/spec/nodeName",
    ] {
        assert!(pod.pointer(gone).is_none(), "{gone}");
    }
    let host = c.attachment(snapshot, "host.json");
    assert_eq!(host["runtime"], "containerd://2.1.9");
    assert!(host["page_size"].as_u64().unwrap() >= 4096);
    assert!(
        host["kernel"]
            .as_str()
            .is_some_and(|kernel| !kernel.is_empty())
    );

    // The stored manifest makes a pod again.
    let mut again = pod;
    again["metadata"]["name"] = "web-2".into();
    c.kubectl(&["create", "-f", "-"], &again.to_string());
}

#[test]
fn the_second_checkpoint_adds_little_and_the_kept_archive_is_given_back_byte_for_byte() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    let first = c.json(&["web"]);
    let second = c.json(&["web", "--keep-archive"]);
    let added = |report: &Value| report["checkpoints"][0]["bytes_added"].as_u64().unwrap();
    assert!(
        added(&second) * 10 < added(&first),
        "{} {}",
        added(&first),
        added(&second)
    );
    let archives = c.archives();
    assert_eq!(archives.len(), 1);
    let kept = std::fs::read(c.path("checkpoints").join(&archives[0])).unwrap();
    let stored = bytes_of(
        &c.repository(),
        &c.snapshots()[0],
        &cryostore_engine::Silent,
    )
    .unwrap();
    assert_eq!(stored, kept);
}

#[test]
fn several_containers_are_named_unless_one_or_all_are_asked_for_and_all_have_one_group() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app", "log"], "");
    let said = c.checkpoint(&["web"], 4);
    assert!(said.err.contains("2 containers: app, log"), "{}", said.err);
    assert!(said.err.contains("--all-containers"), "{}", said.err);
    assert!(c.calls().is_empty());
    let report = c.json(&["web", "--container", "log"]);
    assert_eq!(report["checkpoints"][0]["container"], "log");
    let said = c.checkpoint(&["web", "--all-containers"], 0);
    assert!(said.err.contains("not at one moment"), "{}", said.err);
    assert!(
        said.out.contains("app") && said.out.contains("log"),
        "{}",
        said.out
    );
    let groups: Vec<_> = c.snapshots().iter().map(|s| s.group.clone()).collect();
    assert!(
        groups[0].is_some() && groups[0] == groups[1] && groups[2].is_none(),
        "{groups:?}"
    );
}

#[test]
fn the_first_checkpoint_makes_a_repository_if_that_is_said_and_later_ones_are_found_without_saying_where()
 {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    let new = c.path("new");
    let new = new.to_str().unwrap();
    let said = c.checkpoint(&["web", "--storage", new], 3);
    assert!(said.err.contains("--init"), "{}", said.err);
    assert_eq!(c.calls().len(), 0, "nothing was frozen");
    let said = c.checkpoint(&["web", "--storage", new, "--init"], 0);
    assert!(said.err.contains("its key is"), "{}", said.err);
    assert!(c.archives().is_empty());
    // Found among the known ones: neither a flag nor a variable says where it is.
    let mut ls = c.command(&["ls", "--json"]);
    let listed = ls.env_remove("CRYOSTORE_STORAGE").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("\"web\""), "{listed}");
}

#[test]
fn what_can_be_refused_is_refused_before_anything_is_frozen() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    c.pod("loops", &["app-waits"], "");
    c.pod_with("lost", &["app"], "", &|pod| {
        pod["spec"]["nodeName"] = "no-such-node".into()
    });
    c.pod_with("pending", &["app"], "", &|pod| {
        pod["spec"].as_object_mut().unwrap().remove("nodeName");
    });
    let refused = |arguments: &[&str], code: i32, says: &[&str]| {
        let said = c.checkpoint(arguments, code);
        for word in says {
            assert!(
                said.err.contains(word),
                "{arguments:?} {word}\n{}",
                said.err
            );
        }
    };
    refused(
        &["nobody"],
        3,
        &["pods \"nobody\" not found", "--namespace"],
    );
    refused(&["../../nodes/x"], 4, &["no name of a pod"]);
    refused(
        &["web", "--container", "db"],
        3,
        &["no container `db`", "app"],
    );
    refused(&["loops"], 4, &["waiting (CrashLoopBackOff)"]);
    refused(&["pending"], 4, &["on no node yet"]);
    refused(&["lost"], 3, &["nodes \"no-such-node\" not found"]);
    refused(&["web", "--kubelet-ca", "/dev/null"], 2, &["--kubelet-ca"]);
    refused(&["web", "--timeout", "0"], 2, &["--timeout"]);
    refused(
        &["web", "--storage", "/does/not/exist"],
        3,
        &["/does/not/exist"],
    );
    let said = c.bare(&["web", "--kubelet-ca", "/does/not/exist"], 3);
    assert!(said.err.contains("/does/not/exist"), "{}", said.err);
    let folder = c.cryostore(
        &[
            "checkpoint",
            "web",
            "-n",
            &c.namespace,
            "--checkpoints-dir",
            "/does/not/exist",
        ],
        3,
    );
    assert!(folder.err.contains("ContainerCheckpoint"), "{}", folder.err);
    assert!(c.calls().is_empty(), "{:?}", c.calls());
    assert!(c.snapshots().is_empty());
}

#[test]
fn a_pod_on_another_machine_is_refused_and_the_error_says_where_to_run_it() {
    let Some(c) = Cluster::start_with(&["--boot-id", "00000000-0000-0000-0000-000000000000"])
    else {
        return;
    };
    c.pod("web", &["app"], "");
    let said = c.checkpoint(&["web"], 9);
    assert!(
        said.err
            .contains(&format!("run the same command on node {}", c.node)),
        "{}",
        said.err
    );
    assert!(
        said.err.contains("this machine is another one"),
        "{}",
        said.err
    );
    assert!(c.calls().is_empty());
}

#[test]
fn without_a_cluster_the_error_says_what_to_set() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    c.user = c.path("no-such-kubeconfig");
    let said = c.checkpoint(&["web"], 3);
    assert!(said.err.contains("KUBECONFIG"), "{}", said.err);
    c.user = c.kubeconfig("nobody", &json!({"token": "wrong"}));
    let said = c.checkpoint(&["web"], 8);
    assert!(
        said.err.contains("401") && said.err.contains("log in again"),
        "{}",
        said.err
    );
    // A server that is away.
    let text = std::fs::read_to_string(&c.user).unwrap();
    let port = text
        .split("127.0.0.1:")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    std::fs::write(&c.user, text.replace(port, "1")).unwrap();
    let said = c.checkpoint(&["web"], 1);
    assert!(said.err.contains("does not answer"), "{}", said.err);
}

#[test]
fn a_kubelets_own_certificate_is_refused_until_its_authority_is_said() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    let said = c.bare(&["web"], 8);
    for word in [
        "not trusted",
        "nothing was frozen",
        "serverTLSBootstrap",
        "--kubelet-ca",
        "--kubelet-insecure-tls",
    ] {
        assert!(said.err.contains(word), "{word}\n{}", said.err);
    }
    // Another one's authority.
    let other = c.users().0;
    let said = c.bare(&["web", "--kubelet-ca", other.to_str().unwrap()], 8);
    assert!(said.err.contains("not trusted"), "{}", said.err);
    assert!(c.calls().is_empty());
    let said = c.bare(&["web", "--kubelet-insecure-tls"], 0);
    assert!(said.err.contains("reads the token"), "{}", said.err);
    c.checkpoint(&["web"], 0);
    assert_eq!(c.calls().len(), 2);
}

#[test]
fn a_kubelet_that_is_away_or_hangs_up_is_an_error_that_says_whether_something_may_be_frozen() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    c.pod("web", &["app"], "hang-up");
    let said = c.checkpoint(&["web"], 1);
    assert!(
        said.err.contains("broke off") && said.err.contains("may have been taken"),
        "{}",
        said.err
    );
    c.end_kubelet();
    let said = c.checkpoint(&["web"], 1);
    assert!(
        said.err.contains("does not answer at 127.0.0.1"),
        "{}",
        said.err
    );
    assert!(said.err.contains("nothing was frozen"), "{}", said.err);
}

#[test]
fn what_the_kubelet_says_comes_with_its_cure_and_what_passes_is_tried_again() {
    let Some(c) = Cluster::start() else { return };
    for (how, code, says) in [
        ("off", 9, "ContainerCheckpoint"),
        ("error=tcp", 9, "c.KernelManager.transport"),
        ("error=no-criu", 9, "install CRIU"),
        ("error=unimplemented", 1, "logs of the kubelet"),
    ] {
        let name = how.replace('=', "-");
        c.pod(&name, &["app"], how);
        let said = c.checkpoint(&[&name], code);
        assert!(said.err.contains(says), "{how}\n{}", said.err);
    }
    assert!(c.snapshots().is_empty());
    let before = c.calls().len();
    c.pod("busy", &["app"], "once=paused");
    let said = c.checkpoint(&["busy"], 0);
    assert!(said.err.contains("asked again"), "{}", said.err);
    assert_eq!(c.calls().len() - before, 2);
}

#[test]
fn the_kubelets_answer_opens_nothing_but_this_containers_archive() {
    let Some(c) = Cluster::start() else { return };
    let elsewhere = c.path("elsewhere.tar");
    std::fs::write(&elsewhere, "x").unwrap();
    let up = format!("{}/../elsewhere.tar", c.path("checkpoints").display());
    for (name, how, says) in [
        ("a", "answer=/etc/passwd".to_owned(), "not directly below"),
        ("b", format!("answer={up}"), "not directly below"),
        (
            "c",
            format!("answer={}", elsewhere.display()),
            "not directly below",
        ),
        (
            "d",
            format!("answer={}/other.tar", c.path("checkpoints").display()),
            "names begin with",
        ),
        ("e", "link".to_owned(), "it is a link"),
    ] {
        c.pod(name, &["app"], &how);
        let said = c.checkpoint(&[name], 4);
        assert!(said.err.contains(says), "{how}\n{}", said.err);
    }
    assert!(elsewhere.exists() && c.snapshots().is_empty());
}

#[test]
fn an_archive_of_another_pod_or_container_is_not_stored_and_stays() {
    let Some(c) = Cluster::start() else { return };
    for (name, how, says) in [
        (
            "a",
            "uid=another",
            "was replaced while the checkpoint was taken",
        ),
        ("b", "container=db", "of container db, not of app"),
    ] {
        c.pod(name, &["app"], how);
        let said = c.checkpoint(&[name], 6);
        assert!(said.err.contains(says), "{}", said.err);
        assert!(said.err.contains("cryostore import /"), "{}", said.err);
    }
    assert_eq!((c.archives().len(), c.snapshots().len()), (2, 0));
}

#[test]
fn a_pod_that_was_replaced_is_noticed_where_the_archive_does_not_say_whose_it_is() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "slow=3 nouid");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while c.calls().is_empty() {
                std::thread::sleep(Duration::from_millis(50));
            }
            let ns = c.namespace.as_str();
            c.kubectl(
                &[
                    "delete",
                    "pod",
                    "web",
                    "-n",
                    ns,
                    "--grace-period=0",
                    "--force",
                ],
                "",
            );
            c.pod("web", &["app"], "nouid");
        });
        let said = c.checkpoint(&["web"], 6);
        assert!(said.err.contains("was replaced"), "{}", said.err);
    });
    // The one that is there now is taken.
    c.checkpoint(&["web"], 0);
}

#[test]
fn an_archive_is_waited_for_until_it_is_whole_and_one_that_never_is_stays() {
    let Some(c) = Cluster::start() else { return };
    c.pod("late", &["app"], "slow=2 writing");
    c.pod("whole", &["app"], "");
    let late = c.json(&["late"]);
    let whole = c.json(&["whole"]);
    let bytes = |report: &Value| report["checkpoints"][0]["bytes"].as_u64().unwrap();
    // The names differ by one letter, and tars have blocks of 10 KiB.
    assert_eq!(bytes(&late), bytes(&whole));
    assert!(late["checkpoints"][0]["kubelet_seconds"].as_f64().unwrap() >= 2.0);
    c.pod("cut", &["app"], "cut");
    let said = c.checkpoint(&["cut"], 4);
    assert!(said.err.contains("not complete"), "{}", said.err);
    assert_eq!((c.archives().len(), c.snapshots().len()), (1, 2));
}

#[test]
fn an_archive_that_was_written_over_a_longer_one_is_stored_with_what_follows_its_end() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "same-second");
    let name = format!(
        "checkpoint-web_{}-app-2026-11-20T10:00:00Z.tar",
        c.namespace
    );
    let path = c.path("checkpoints").join(name);
    std::fs::write(&path, vec![7; 3 << 20]).unwrap();
    let report = c.json(&["web"]);
    assert_eq!(report["checkpoints"][0]["bytes"], 3 << 20);
    let warnings = report["checkpoints"][0]["warnings"].to_string();
    assert!(warnings.contains("bytes after the end"), "{warnings}");
    assert!(!path.exists());
}

#[test]
fn two_checkpoints_of_one_container_at_once_are_taken_one_after_the_other() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "slow=2");
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| c.checkpoint(&["web"], 0).err))
            .collect();
        let said: Vec<String> = runs.into_iter().map(|run| run.join().unwrap()).collect();
        let waited = said
            .iter()
            .filter(|err| err.contains("waiting for another checkpoint"));
        assert_eq!(waited.count(), 1, "{said:?}");
        assert!(
            !said.iter().any(|err| err.contains("asked again")),
            "{said:?}"
        );
    });
    assert_eq!((c.calls().len(), c.snapshots().len()), (2, 2));
}

#[test]
fn a_short_time_out_is_said_to_be_raised_and_a_long_one_reaches_the_kubelet() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "");
    let said = c.checkpoint(&["web", "--timeout", "5"], 0);
    assert!(
        said.err.contains("raises less than its own 120 s"),
        "{}",
        said.err
    );
    c.checkpoint(&["web", "--timeout", "600"], 0);
    c.checkpoint(&["web"], 0);
    let asked: Vec<_> = c.calls().iter().map(|call| call["asked"].clone()).collect();
    assert_eq!(asked, [json!("5"), json!("600"), Value::Null]);
}

#[test]
fn a_pod_is_ended_after_its_checkpoint_is_stored_and_never_before() {
    let Some(c) = Cluster::start() else { return };
    let is_ending = |name: &str| {
        c.look(name)
            .is_none_or(|pod| pod.pointer("/metadata/deletionTimestamp").is_some())
    };
    c.pod("fails", &["app"], "error=tcp");
    c.checkpoint(&["fails", "--stop"], 9);
    assert!(!is_ending("fails"));
    c.pod_with("owned", &["app"], "", &|pod| {
        pod["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "uid": "u", "controller": true}
        ]);
    });
    let said = c.checkpoint(&["owned", "--stop"], 6);
    assert!(
        said.err.contains("belongs to ReplicaSet web-5d"),
        "{}",
        said.err
    );
    assert!(!is_ending("owned") && c.snapshots().is_empty());
    c.checkpoint(&["owned", "--stop", "--force"], 0);
    assert!(is_ending("owned"));
    c.pod("web", &["app"], "");
    let report = c.json(&["web", "--stop"]);
    assert_eq!(report["stopped"], true);
    assert!(is_ending("web"));
    assert_eq!(c.snapshots().len(), 2);
}

#[test]
fn a_store_that_goes_away_while_the_container_is_frozen_loses_nothing() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "slow=2");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while c.calls().is_empty() {
                std::thread::sleep(Duration::from_millis(50));
            }
            std::fs::rename(c.path("store"), c.path("away")).unwrap();
            std::fs::write(c.path("store"), "no directory").unwrap();
        });
        let said = c.cryostore(
            &[
                "checkpoint",
                "web",
                "-n",
                &c.namespace,
                "--kubelet-ca",
                &c.ca,
                "--stop",
                "--checkpoints-dir",
                c.path("checkpoints").to_str().unwrap(),
                "--json",
            ],
            4,
        );
        assert!(
            said.err.contains("was taken, and not stored"),
            "{}",
            said.err
        );
        assert!(said.err.contains("cryostore import"), "{}", said.err);
    });
    let pod = c.look("web").unwrap();
    assert!(pod.pointer("/metadata/deletionTimestamp").is_none());
    std::fs::remove_file(c.path("store")).unwrap();
    std::fs::rename(c.path("away"), c.path("store")).unwrap();
    let archives = c.archives();
    let archive = c.path("checkpoints").join(&archives[0]);
    c.cryostore(&["import", archive.to_str().unwrap()], 0);
    assert_eq!(c.snapshots()[0].identity.pod, "web");
}

#[test]
fn who_stops_it_while_the_container_is_frozen_hears_that_an_archive_may_come() {
    let Some(c) = Cluster::start() else { return };
    c.pod("web", &["app"], "slow=20");
    let folder = c.path("checkpoints");
    let run = c
        .command(&[
            "checkpoint",
            "web",
            "-n",
            &c.namespace,
            "--kubelet-ca",
            &c.ca,
        ])
        .arg("--checkpoints-dir")
        .arg(folder)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while c.calls().is_empty() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let stop = ["-INT", &run.id().to_string()];
    assert!(Command::new("kill").args(stop).status().unwrap().success());
    let output = run.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("may still leave an archive"), "{said}");
}

/// The rules of the roles in `deploy/rbac.yaml`, as the API server has them once they are applied.
fn rules(c: &Cluster, role: &str) -> Vec<Value> {
    let file = package().join("../deploy/rbac.yaml");
    c.kubectl(&["apply", "-f", file.to_str().unwrap()], "");
    let role = c.kubectl(&["get", "clusterrole", role, "-o", "json"], "");
    let role: Value = serde_json::from_str(&role).unwrap();
    role["rules"].as_array().unwrap().clone()
}

#[test]
fn the_roles_that_are_shipped_are_enough_and_without_any_one_rule_the_error_names_it() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    c.pod("web", &["app"], "");
    let all = [
        rules(&c, "cryostore-checkpoint"),
        rules(&c, "cryostore-checkpoint-stop"),
    ]
    .concat();
    assert!(!json!(all).to_string().contains("proxy"));
    for (n, rule) in all.iter().enumerate() {
        let mut less = all.clone();
        less.remove(n);
        c.user = c.account(&format!("without-{n}"), &json!(less));
        let said = c.checkpoint(&["web", "--stop"], 8);
        let of = |key: &str| rule[key][0].as_str().unwrap().to_owned();
        let names = format!(
            "{{apiGroups: [\"\"], resources: [\"{}\"], verbs: [\"{}\"]}}",
            of("resources"),
            of("verbs")
        );
        assert!(said.err.contains(&names), "{names}\n{}", said.err);
        assert!(
            said.err.to_lowercase().contains("forbidden"),
            "{}",
            said.err
        );
    }
    // All but the right to end the pod: stored, and said.
    assert_eq!(c.snapshots().len(), 1);
    c.user = c.account("whole", &json!(all));
    let report = c.json(&["web", "--stop"]);
    assert_eq!(report["stopped"], true);
}

#[test]
fn a_token_may_come_from_a_file_or_from_a_credential_program() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    c.pod("web", &["app"], "");
    let role = rules(&c, "cryostore-checkpoint");
    let account = std::fs::read_to_string(c.account("robot", &json!(role))).unwrap();
    let account: Value = serde_json::from_str(&account).unwrap();
    let token = account["users"][0]["user"]["token"].as_str().unwrap();
    std::fs::write(c.path("token"), format!("{token}\n")).unwrap();
    c.user = c.kubeconfig("file", &json!({"tokenFile": c.path("token")}));
    c.checkpoint(&["web"], 0);
    let version = "client.authentication.k8s.io/v1";
    let printed =
        json!({"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}});
    std::fs::write(c.path("printed"), printed.to_string()).unwrap();
    let program = json!({"apiVersion": version, "command": "cat", "args": [c.path("printed")], "interactiveMode": "Never"});
    c.user = c.kubeconfig("program", &json!({"exec": program}));
    c.checkpoint(&["web"], 0);
    c.user = c.kubeconfig("other", &json!({"token": token, "as": "admin"}));
    let said = c.checkpoint(&["web"], 4);
    assert!(said.err.contains("impersonates"), "{}", said.err);
}

#[test]
fn a_client_certificate_of_the_kubeconfig_is_known_to_the_api_server_and_to_the_kubelet() {
    let Some(mut c) = Cluster::start() else {
        return;
    };
    c.pod("web", &["app"], "");
    let role = rules(&c, "cryostore-checkpoint");
    let group = format!("group-{}", c.namespace);
    let (crt, key) = c.users();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(c.path("home"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let subject = format!("/CN=robot/O={group}");
    openssl(&[
        "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "u.key", "-out", "u.csr", "-subj",
        &subject,
    ]);
    // Certificates without extensions are of version 1, which no TLS library of today takes.
    std::fs::write(c.path("home/extensions"), "extendedKeyUsage=clientAuth\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "u.csr",
        "-CA",
        crt.to_str().unwrap(),
        "-CAkey",
        key.to_str().unwrap(),
        "-extfile",
        "extensions",
        "-set_serial",
        "7",
        "-days",
        "2",
        "-out",
        "u.crt",
    ]);
    let user =
        json!({"client-certificate": c.path("home/u.crt"), "client-key": c.path("home/u.key")});
    c.user = c.kubeconfig("robot", &user);
    let said = c.checkpoint(&["web"], 8);
    assert!(
        said.err.contains("User \"robot\" cannot get"),
        "{}",
        said.err
    );
    let made = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": group}, "rules": role,
    });
    c.kubectl(&["create", "-f", "-"], &made.to_string());
    c.kubectl(
        &[
            "create",
            "clusterrolebinding",
            &group,
            "--clusterrole",
            &group,
            "--group",
            &group,
        ],
        "",
    );
    c.checkpoint(&["web"], 0);
}
