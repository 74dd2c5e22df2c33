//! Images into a registry.

use cryostore_tests::archives::{checkpoint, noise};
use serde_json::Value;

use crate::registry::{Manner, Stand};
use crate::{Stored, members};

/// `robot:pass`
const ROBOT: &str = "cm9ib3Q6cGFzcw==";

fn log_in(stored: &Stored, at: &str) {
    let dir = stored.path("home/.docker");
    std::fs::create_dir_all(&dir).unwrap();
    let text = format!(r#"{{"auths":{{"{at}":{{"auth":"{ROBOT}"}}}}}}"#);
    std::fs::write(dir.join("config.json"), text).unwrap();
}

#[test]
fn an_image_is_there_whole_under_its_tag_and_was_sent_in_parts() {
    // 20 MiB, so in three parts.
    let pages = noise(20 << 20, 7);
    let stored = Stored::of(podmans(&pages));
    let stand = Stand::start(Manner::default());
    let to = format!("docker://{}/team/web:1", stand.at);
    let report = stored.json(&["latest", "--to", &to, "--yes"]);
    let kept = stand.kept.lock().unwrap();
    let manifest: Value =
        serde_json::from_slice(&kept.manifests["/v2/team/web/manifests/1"]).unwrap();
    let layer = &kept.blobs[manifest["layers"][0]["digest"].as_str().unwrap()];
    assert!(members(layer) == members(&stored.tar));
    assert!(
        kept.blobs
            .contains_key(manifest["config"]["digest"].as_str().unwrap())
    );
    assert_eq!(
        manifest["annotations"]["io.podman.annotations.checkpoint.name"],
        "work"
    );
    assert_eq!(
        kept.parts[..3],
        [8 << 20, 8 << 20, layer.len() - (16 << 20)]
    );
    let last = kept.requests.last().unwrap();
    assert!(
        last.starts_with("PUT /v2/team/web/manifests/1"),
        "the image is there last: {last}"
    );
    assert!(
        report["done"]["digest"]
            .as_str()
            .unwrap()
            .starts_with("sha256:")
    );
}

/// An archive of Podman's with these pages.
fn podmans(pages: &[u8]) -> Vec<u8> {
    let mut tar = checkpoint(pages, 4096);
    let end = tar.len() - 1024;
    tar.truncate(end);
    let more = cryostore_tests::archives::TarBuilder::new()
        .file(
            "spec.dump",
            br#"{"annotations":{"io.container.manager":"libpod"}}"#,
        )
        .end();
    tar.extend_from_slice(&more);
    tar
}

#[test]
fn memory_is_not_sent_unless_somebody_says_so() {
    let stored = Stored::real("containerd-busybox-1");
    let stand = Stand::start(Manner::default());
    let said = stored.restore(&["latest", "--to", &format!("docker://{}/team/web", stand.at)]);
    assert_eq!(said.code, 8, "{said:?}");
    assert!(
        said.err.contains("clear text") && said.err.contains("--yes"),
        "{said:?}"
    );
    assert!(stand.kept.lock().unwrap().requests.is_empty());
}

#[test]
fn a_registry_gets_the_password_or_the_token_that_it_wants_and_no_other_one_does() {
    for manner in [
        Manner {
            basic: Some(ROBOT.to_owned()),
            ..Manner::default()
        },
        Manner {
            bearer: Some(ROBOT.to_owned()),
            ..Manner::default()
        },
    ] {
        let stored = Stored::real("containerd-busybox-1");
        let stand = Stand::start(manner.clone());
        let to = format!("docker://{}/team/web:1", stand.at);
        let said = stored.restore(&["latest", "--to", &to, "--yes"]);
        assert_eq!(said.code, 8, "{said:?}");
        assert!(said.err.contains("podman login"), "{said:?}");
        log_in(&stored, "another.example");
        let said = stored.restore(&["latest", "--to", &to, "--yes"]);
        assert_eq!(said.code, 8, "{said:?}");
        let requests = stand.kept.lock().unwrap().requests.clone();
        assert!(requests.iter().all(|r| !r.contains(ROBOT)), "{requests:?}");
        log_in(&stored, &stand.at);
        let said = stored.restore(&["latest", "--to", &to, "--yes"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(stand.kept.lock().unwrap().manifests.len(), 1);
    }
}

#[test]
fn a_registry_that_refuses_is_said_with_what_helps_and_nothing_is_there() {
    for (method, status, code, word) in [
        ("POST", 403, 8, "may not write"),
        ("PATCH", 413, 9, "client_max_body_size"),
        ("PUT", 403, 8, "may not write"),
        ("PATCH", 507, 7, "room"),
        ("POST", 500, 1, "try again"),
        ("POST", 404, 3, "made first"),
    ] {
        let stored = Stored::real("containerd-busybox-1");
        let stand = Stand::start(Manner {
            refuses: Some((method, status)),
            ..Manner::default()
        });
        let to = format!("docker://{}/team/web:1", stand.at);
        let said = stored.restore(&["latest", "--to", &to, "--yes"]);
        assert_eq!(said.code, code, "{method} {status}: {said:?}");
        assert!(
            said.err.contains(word) && said.err.contains(&format!("({status})")),
            "{said:?}"
        );
        assert!(
            said.err.contains("not here"),
            "what it says itself is shown: {said:?}"
        );
        assert!(stand.kept.lock().unwrap().manifests.is_empty());
    }
}

#[test]
fn a_registry_that_wants_the_memory_to_go_elsewhere_does_not_get_it() {
    let stored = Stored::real("containerd-busybox-1");
    let stand = Stand::start(Manner {
        elsewhere: Some("http://192.0.2.1/take".to_owned()),
        ..Manner::default()
    });
    let said = stored.restore(&[
        "latest",
        "--to",
        &format!("docker://{}/team/web:1", stand.at),
        "--yes",
    ]);
    assert_eq!(said.code, 8, "{said:?}");
    assert!(said.err.contains("192.0.2.1"), "{said:?}");
}

#[test]
fn nobody_there_and_a_name_that_is_none_are_errors() {
    let stored = Stored::real("containerd-busybox-1");
    let said = stored.restore(&["latest", "--to", "docker://127.0.0.1:1/team/web:1", "--yes"]);
    assert_eq!(said.code, 1, "{said:?}");
    let said = stored.restore(&["latest", "--to", "docker://127.0.0.1:1/Team", "--yes"]);
    assert_eq!(said.code, 4, "{said:?}");
}
