//! Plans, by tables of cases.

use cryostore_engine::Kind;
use serde_json::{Value, json};

use super::plan::{Claim, ClusterView, Driver, NodeView, Observed, Plan, Wish, plan};
use super::pod_again::{FORCED, RestartPolicy, SNAPSHOT};
use super::preflight::tests::{place, source};
use super::preflight::{Finding, Level, Place};
use super::source::{Family, Mount, Source};

fn node(name: &str) -> NodeView {
    NodeView {
        place: Place {
            name: name.to_owned(),
            ..place()
        },
        is_ready: true,
        ..NodeView::default()
    }
}

fn pod(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "app", "image": "app:1"}]);
    }
    json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
}

struct Case {
    source: Source,
    wish: Wish,
    cluster: ClusterView,
}

fn case() -> Case {
    let mut source = source();
    source.pod = Some(pod(&json!({})));
    Case {
        source,
        wish: Wish::default(),
        cluster: ClusterView {
            nodes: vec![node("n1"), node("n2")],
            has_namespace: Some(true),
            ..ClusterView::default()
        },
    }
}

impl Case {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn plan(self) -> Plan {
        let observed = Observed {
            cluster: Some(self.cluster),
            here: place(),
        };
        plan(&self.source, &self.wish, &observed).unwrap()
    }
}

fn found<'p>(plan: &'p Plan, what: &str) -> Option<&'p Finding> {
    plan.findings.iter().find(|finding| finding.what == what)
}

fn taken(names: &[&str]) -> std::collections::BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_usual_plan_has_the_old_names_and_the_old_node_and_nothing_against_it() {
    let plan = case().plan();
    assert_eq!(plan.driver, Driver::Containerd);
    assert_eq!(plan.node.as_deref(), Some("n1"));
    assert_eq!(
        (plan.namespace.as_deref(), plan.name.as_deref()),
        (Some("shop"), Some("web"))
    );
    assert_eq!(plan.findings, []);
    assert!(plan.check(false).is_ok());
    let pod = plan.pod.unwrap();
    assert_eq!(
        pod["metadata"]["annotations"][SNAPSHOT],
        "3f9a2b1c00000000000000000000000f"
    );
    assert_eq!(
        pod["spec"]["containers"][0]["image"],
        "localhost/cryostore/shop/web:3f9a2b1c0000"
    );
    assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Never");
    assert_eq!(
        plan.image.as_deref(),
        pod["spec"]["containers"][0]["image"].as_str()
    );
    assert!(
        plan.after_a_crash
            .unwrap()
            .contains("ends the container for good")
    );
}

#[test]
fn a_name_that_is_taken_gets_the_beginning_of_the_id_and_the_next_one_a_number() {
    let first = case().with(|c| c.cluster.taken = taken(&["web"])).plan();
    assert_eq!(first.name.as_deref(), Some("web-restored-3f9a2b"));
    assert_eq!(found(&first, "new-name").unwrap().level, Level::Note);
    let second = case()
        .with(|c| c.cluster.taken = taken(&["web", "web-restored-3f9a2b"]))
        .plan();
    assert_eq!(second.name.as_deref(), Some("web-restored-3f9a2b-2"));
    // Two at once: two names, and so two images.
    assert_ne!(first.image, second.image);
    let said = case().with(|c| {
        c.wish.name = Some("mine".to_owned());
        c.cluster.taken = taken(&["mine"]);
    });
    let e = said.plan().check(true).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert!(e.to_string().contains("shop/mine"), "{e}");
}

#[test]
fn a_namespace_that_only_the_archive_names_has_to_be_said() {
    let mut case = case();
    case.source.pod = None;
    let e = super::plan::namespace(&case.source, &case.wish).unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
    assert!(e.advice().unwrap().contains("--namespace shop"), "{e}");
    case.wish.namespace = Some("shop".to_owned());
    assert_eq!(
        super::plan::namespace(&case.source, &case.wish).unwrap(),
        "shop"
    );
}

#[test]
fn a_place_of_another_kind_becomes_no_file_of_that_name() {
    for (family, driver, to) in [
        (Family::Podman, None, "docker:web"),
        (Family::Containerd, None, "docker:web"),
        (Family::Criu, None, "docker:web"),
        (Family::Containerd, Some(Driver::Archive), "oci:dir"),
        (Family::Docker, Some(Driver::Directory), "docker://h/x:1"),
        (Family::Containerd, Some(Driver::OciImage), "docker:web"),
    ] {
        let plan = case()
            .with(|c| {
                c.source.family = family;
                c.wish.driver = driver;
                c.wish.to = Some(to.to_owned());
            })
            .plan();
        assert_eq!(found(&plan, "to").unwrap().level, Level::Refused, "{to}");
    }
    let own = case().with(|c| {
        c.source.family = Family::Docker;
        c.wish.to = Some("docker:web".to_owned());
    });
    assert_eq!(found(&own.plan(), "to"), None);
}

#[test]
fn another_namespace_needs_a_word_and_has_to_be_there() {
    let other = |allow: bool| {
        case().with(|c| {
            c.wish.namespace = Some("test".to_owned());
            c.wish.allow_cross_namespace = allow;
        })
    };
    let e = other(false).plan().check(true).unwrap_err();
    assert!(
        e.advice().unwrap().contains("--allow-cross-namespace"),
        "{e:?}"
    );
    let plan = other(true).plan();
    assert!(plan.check(false).is_ok());
    assert_eq!(plan.pod.unwrap()["metadata"]["namespace"], "test");
    let e = case()
        .with(|c| c.cluster.has_namespace = Some(false))
        .plan()
        .check(true)
        .unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(e.to_string().contains("no namespace shop"), "{e}");
}

#[test]
fn where_the_old_node_is_gone_away_full_or_too_old_the_others_are_named() {
    type Change = fn(&mut Case);
    let cases: &[(&str, Change)] = &[
        ("no node n1", |c| drop(c.cluster.nodes.remove(0))),
        ("not Ready", |c| c.cluster.nodes[0].is_ready = false),
        ("cordoned", |c| c.cluster.nodes[0].is_cordoned = true),
        ("aarch64", |c| {
            c.cluster.nodes[0].place.host.arch = "aarch64".to_owned()
        }),
        ("CRIU 4.2", |c| {
            c.cluster.nodes[0].place.criu = Some("4.1".to_owned())
        }),
        ("does not say on which node", |c| {
            c.source.record.identity.node = String::new()
        }),
    ];
    for (text, change) in cases {
        let plan = case().with(change).plan();
        let e = plan.check(false).unwrap_err();
        assert!(e.to_string().contains(text), "{text}: {e}");
        let wanted = if text.contains("not say") {
            "n1, n2"
        } else {
            "on n2:"
        };
        assert!(e.advice().unwrap().contains(wanted), "{text}: {e:?}");
        assert!(plan.pod.is_none());
    }
    let e = case()
        .with(|c| c.cluster.nodes.clear())
        .plan()
        .check(true)
        .unwrap_err();
    assert!(e.advice().unwrap().contains("none of the nodes"), "{e:?}");
}

#[test]
fn a_node_that_was_said_is_judged_itself_and_force_is_written_into_the_pod() {
    let old = |force: bool| {
        case().with(|c| {
            c.wish.node = Some("n2".to_owned());
            c.wish.force = force;
            c.cluster.nodes[1].place.criu = Some("4.1.1".to_owned());
            c.cluster.nodes[1].place.free_bytes = Some(1);
        })
    };
    let e = old(false).plan().check(false).unwrap_err();
    assert!(
        e.to_string().contains("4.1.1") && e.to_string().contains("MiB free"),
        "{e}"
    );
    assert!(e.advice().unwrap().contains("--force"), "{e:?}");
    let plan = old(true).plan();
    assert!(plan.check(true).is_ok());
    assert_eq!(
        plan.pod.as_ref().unwrap()["metadata"]["annotations"][FORCED],
        "criu,disk"
    );
    // What cannot be done is not done by force.
    let e = case()
        .with(|c| {
            c.wish.node = Some("n2".to_owned());
            c.wish.force = true;
            c.cluster.nodes[1].place.host.page_size = 65536;
        })
        .plan()
        .check(true)
        .unwrap_err();
    assert!(e.to_string().contains("65536"), "{e}");
    assert!(!e.advice().unwrap().contains("--force"), "{e:?}");
}

#[test]
fn each_family_has_its_driver_and_no_other_ones() {
    for (family, to, driver) in [
        (Family::Containerd, None, Driver::Containerd),
        (Family::Podman, None, Driver::Podman),
        (Family::Criu, None, Driver::Criu),
        (Family::CriO, None, Driver::OciImage),
        (Family::Docker, None, Driver::Directory),
        (Family::Containerd, Some("x.tar"), Driver::Archive),
        (Family::Criu, Some("dir"), Driver::Directory),
        (Family::Podman, Some("oci:dir"), Driver::OciImage),
        (Family::CriO, Some("docker://r/x:1"), Driver::OciImage),
    ] {
        assert_eq!(Driver::probe(family, to), driver, "{family:?} {to:?}");
    }
    for (family, driver, fits) in [
        (Family::Podman, Driver::Containerd, false),
        (Family::CriO, Driver::Containerd, false),
        (Family::Containerd, Driver::Podman, false),
        (Family::Containerd, Driver::Criu, false),
        (Family::Criu, Driver::OciImage, false),
        (Family::Docker, Driver::OciImage, false),
        (Family::Docker, Driver::Directory, true),
        (Family::CriO, Driver::Archive, true),
        (Family::Podman, Driver::OciImage, true),
    ] {
        let plan = case()
            .with(|c| {
                c.source.family = family;
                c.wish.driver = Some(driver);
                c.wish.to = driver.writes().then(|| "x".to_owned());
            })
            .plan();
        assert_eq!(
            found(&plan, "driver").is_none(),
            fits,
            "{family:?} {driver:?}"
        );
    }
}

#[test]
fn a_place_is_needed_where_something_is_written_and_refused_where_nothing_is() {
    let plan = case()
        .with(|c| c.wish.driver = Some(Driver::Archive))
        .plan();
    assert!(
        plan.check(true)
            .unwrap_err()
            .advice()
            .unwrap()
            .contains("--to PATH")
    );
    let plan = case()
        .with(|c| {
            c.wish.driver = Some(Driver::Containerd);
            c.wish.to = Some("x".to_owned());
        })
        .plan();
    assert!(
        plan.check(true)
            .unwrap_err()
            .to_string()
            .contains("writes nothing")
    );
}

#[test]
fn what_an_archive_could_reach_out_by_is_stripped_or_warned_of() {
    let hostile = |driver: Driver| {
        case()
            .with(|c| {
                c.source.dangerous = vec!["cdi.k8s.io/x".to_owned()];
                c.wish.driver = Some(driver);
                c.wish.to = driver.writes().then(|| "x".to_owned());
            })
            .plan()
    };
    for driver in [Driver::Archive, Driver::Directory] {
        let plan = hostile(driver);
        assert_eq!(found(&plan, "hostile").unwrap().level, Level::Warning);
        assert!(plan.stripped.is_empty());
    }
    for driver in [Driver::OciImage, Driver::Containerd] {
        let plan = hostile(driver);
        assert!(found(&plan, "hostile").is_none());
        assert_eq!(plan.stripped, ["cdi.k8s.io/x"]);
    }
}

#[test]
fn names_in_a_hostile_archive_become_no_part_of_a_path() {
    for (pod, namespace) in [
        ("../../x", "shop"),
        ("web", "a/b"),
        ("Web", "shop"),
        ("", "shop"),
        ("web", ""),
    ] {
        let case = case().with(|c| {
            c.source.record.identity.pod = pod.to_owned();
            c.source.record.identity.namespace = namespace.to_owned();
        });
        let observed = Observed {
            cluster: Some(case.cluster),
            here: place(),
        };
        let e = plan(&case.source, &case.wish, &observed).unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid, "{pod} {namespace}");
    }
    let plan = case()
        .with(|c| {
            c.source.pod = None;
            c.wish.namespace = Some("shop".to_owned());
            c.source.record.identity.container = "a b;c".to_owned();
        })
        .plan();
    assert_eq!(found(&plan, "container").unwrap().level, Level::Refused);
}

#[test]
fn mounts_that_the_processes_have_have_to_be_there_again_and_a_token_is_put_there_by_the_server() {
    let mount = |at: &str| Mount {
        destination: at.to_owned(),
        source: "/x".to_owned(),
    };
    let with = |mounts: &[&str], spec: Value| {
        let mounts = mounts.iter().map(|at| mount(at)).collect();
        let plan = case()
            .with(|c| {
                c.source.mounts = mounts;
                c.source.pod = Some(pod(&spec));
            })
            .plan();
        found(&plan, "mounts").map(|f| f.text.clone())
    };
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let data = json!({"containers": [{"name": "app", "volumeMounts": [{"name": "d", "mountPath": "/data/"}]}], "volumes": [{"name": "d", "emptyDir": {}}]});
    assert_eq!(with(&["/data", token], data.clone()), None);
    assert!(
        with(&["/data", "/other"], data.clone())
            .unwrap()
            .contains("/other mounted")
    );
    let mut without = data;
    without["automountServiceAccountToken"] = false.into();
    assert!(with(&[token], without).unwrap().contains("serviceaccount"));
}

#[test]
fn an_archive_that_was_imported_by_hand_makes_the_least_pod_and_says_so() {
    let by_hand = || {
        case().with(|c| {
            c.source.pod = None;
            c.wish.namespace = Some("shop".to_owned());
        })
    };
    let plan = by_hand().plan();
    assert_eq!(found(&plan, "no-manifest").unwrap().level, Level::Warning);
    let pod = plan.pod.unwrap();
    assert_eq!(pod["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(pod["spec"]["containers"][0]["name"], "app");
    let plan = by_hand()
        .with(|c| {
            c.source.mounts = vec![Mount {
                destination: "/data".to_owned(),
                source: "/x".to_owned(),
            }];
        })
        .plan();
    assert_eq!(found(&plan, "mounts").unwrap().level, Level::Refused);
}

#[test]
fn files_in_an_empty_dir_are_lost_and_open_ones_are_named() {
    let spec = json!({
        "containers": [{"name": "app", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "others", "emptyDir": {}}],
    });
    let with = |files: &[&str]| {
        let files = files.iter().map(|f| (*f).to_owned()).collect();
        let plan = case()
            .with(|c| {
                c.source.pod = Some(pod(&spec));
                c.source.open.files = files;
            })
            .plan();
        let found = found(&plan, "empty-dir").unwrap();
        (found.level, found.text.clone())
    };
    assert_eq!(with(&["/tmpfile", "/x"]).0, Level::Warning);
    let (level, text) = with(&["/tmp/a.db"]);
    assert_eq!(level, Level::Unsafe);
    assert!(text.contains("/tmp/a.db"), "{text}");
}

#[test]
fn volumes_config_maps_and_secrets_are_looked_for_or_named() {
    let spec = json!({
        "containers": [{"name": "app", "envFrom": [{"secretRef": {"name": "db"}}, {"secretRef": {"name": "maybe", "optional": true}}]}],
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}],
    });
    let with = |change: &dyn Fn(&mut ClusterView)| {
        case()
            .with(|c| {
                c.source.pod = Some(pod(&spec));
                c.wish.node = Some("n2".to_owned());
                change(&mut c.cluster);
            })
            .plan()
    };
    let claim = |exists, is_for_one_node| Claim {
        name: "data".to_owned(),
        exists: Some(exists),
        is_for_one_node,
    };
    let plan = with(&|c| c.claims = vec![claim(true, true)]);
    assert!(plan.check(false).is_ok());
    assert!(
        plan.findings
            .iter()
            .any(|f| f.what == "claim" && f.level == Level::Warning)
    );
    assert!(
        found(&plan, "secrets")
            .unwrap()
            .text
            .ends_with("Secrets db")
    );
    let plan = with(&|c| c.claims = vec![claim(false, true)]);
    assert_eq!(found(&plan, "claim").unwrap().level, Level::Refused);
    let plan = with(&|c| c.missing_config_maps = vec!["settings".to_owned()]);
    assert!(
        plan.check(true)
            .unwrap_err()
            .to_string()
            .contains("settings")
    );
}

#[test]
fn other_containers_start_anew_and_a_policy_says_what_a_crash_does() {
    let spec = json!({"containers": [{"name": "app"}, {"name": "log"}]});
    let plan = case()
        .with(|c| {
            c.source.pod = Some(pod(&spec));
            c.wish.restart = RestartPolicy::Always;
        })
        .plan();
    assert!(
        found(&plan, "other-containers")
            .unwrap()
            .text
            .starts_with("log")
    );
    assert!(plan.after_a_crash.unwrap().contains("AGAIN"));
    assert_eq!(plan.pod.unwrap()["spec"]["restartPolicy"], "Always");
}
