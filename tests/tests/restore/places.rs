//! The archive and its files in a place.

use std::fs;
use std::os::unix::fs::symlink;

use cryostore_tests::archives::TarBuilder;

use crate::Stored;

#[test]
fn the_archive_is_given_back_byte_for_byte_and_never_over_something() {
    for name in ["containerd-busybox-1", "podman-busybox-1"] {
        let stored = Stored::real(name);
        let said = stored.restore(&[&stored.id()[..8], "--to", "a.tar"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(
            fs::read(stored.path("a.tar")).unwrap() == stored.tar,
            "{name}"
        );
        fs::write(stored.path("mine"), "mine").unwrap();
        symlink("mine", stored.path("link")).unwrap();
        symlink("nothing", stored.path("dangling")).unwrap();
        for there in ["a.tar", "mine", "link", "dangling"] {
            let said = stored.restore(&["latest", "--driver", "archive", "--to", there]);
            assert_eq!(said.code, 6, "{there}: {said:?}");
        }
        assert_eq!(fs::read(stored.path("mine")).unwrap(), b"mine");
        assert!(!stored.path("nothing").exists());
    }
}

#[test]
fn its_files_come_into_a_directory_that_is_new_or_empty() {
    let stored = Stored::real("containerd-busybox-1");
    let report = stored.json(&["latest", "--driver", "directory", "--to", "images"]);
    assert!(stored.path("images/checkpoint/inventory.img").exists());
    assert!(stored.path("images/config.dump").exists());
    assert_eq!(report["plan"]["driver"], "directory");
    let said = stored.restore(&["latest", "--driver", "directory", "--to", "images"]);
    assert_eq!(said.code, 6, "{said:?}");
}

#[test]
fn names_that_lead_outside_and_links_make_nothing_outside() {
    let stored = Stored::of(
        TarBuilder::new()
            .file("config.dump", br#"{"id":"abc","name":"work"}"#)
            .file("../escaped", b"x")
            .end(),
    );
    let said = stored.restore(&["latest", "--driver", "directory", "--to", "images"]);
    assert!(!stored.path("escaped").exists(), "{said:?}");
    let linked = Stored::of(
        TarBuilder::new()
            .header(b"out", 0, b'2', b"..")
            .file("out/escaped", b"x")
            .end(),
    );
    let said = linked.restore(&["latest", "--driver", "directory", "--to", "images"]);
    assert!(!linked.path("escaped").exists(), "{said:?}");
}

#[test]
fn ids_that_are_unknown_or_too_short_and_a_place_that_is_missing_are_said() {
    let stored = Stored::real("containerd-busybox-1");
    let said = stored.restore(&["00000000", "--to", "a.tar"]);
    assert_eq!(said.code, 3, "{said:?}");
    let said = stored.restore(&["latest", "--driver", "archive"]);
    assert_eq!(said.code, 9, "{said:?}");
    assert!(said.err.contains("--to PATH"), "{said:?}");
    let said = stored.restore(&[&stored.id()[..3], "--to", "a.tar"]);
    assert_ne!(said.code, 0, "too short to be sure: {said:?}");
    assert!(!stored.path("a.tar").exists());
}

#[test]
fn a_dry_run_does_nothing_and_says_all() {
    let stored = Stored::real("podman-busybox-1");
    let report = stored.json(&["latest", "--dry-run"]);
    assert_eq!(report["plan"]["driver"], "podman");
    assert_eq!(report["plan"]["family"], "podman");
    assert!(report.get("done").is_none());
    let said = stored.restore(&["latest", "--dry-run", "--driver", "criu"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("refused"), "{said:?}");
    let said = stored.restore(&["latest", "--driver", "criu"]);
    assert_eq!(said.code, 9, "{said:?}");
    assert!(
        said.err.contains("restores no archives of Podman"),
        "{said:?}"
    );
}

#[test]
fn a_restore_into_a_cluster_without_one_says_that_none_is_configured() {
    let stored = Stored::real("containerd-busybox-1");
    let said = stored.restore(&["latest"]);
    assert_ne!(said.code, 0);
    assert!(said.err.contains("no cluster is configured"), "{said:?}");
}
