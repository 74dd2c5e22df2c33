//! Images in containerd, which here is a stand-in. What the real one makes of them is in the tests that `scripts/runtimes.sh` runs.

use serde_json::Value;

use crate::Stored;
use crate::stand::Stand;

const NAME: &str = "localhost/cryostore/shop/web:1";

fn put(stored: &Stored, stand: &Stand) -> crate::Said {
    let socket = stand.socket.to_str().unwrap();
    stored.restore(&[
        "latest",
        "--to",
        &format!("containerd:{NAME}"),
        "--containerd",
        socket,
        "--json",
    ])
}

#[test]
fn an_image_is_there_whole_unpacked_and_pinned_and_its_lease_has_ended() {
    let stored = Stored::real("containerd-busybox-1");
    let stand = Stand::start(stored.place.dir.path(), None);
    let said = put(&stored, &stand);
    assert_eq!(said.code, 0, "{said:?}");
    let kept = stand.kept.lock().unwrap();
    let (target, labels) = &kept.images[NAME];
    assert_eq!(labels["io.cri-containerd.image"], "managed");
    assert_eq!(labels["io.cri-containerd.pinned"], "pinned");
    let (manifest, keeps) = &kept.content[target];
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    // Its id is a name, too: by that containerd's restore looks it up.
    assert_eq!(kept.images[config].0, *target);
    assert_eq!(
        (
            keeps["containerd.io/gc.ref.content.config"].as_str(),
            keeps["containerd.io/gc.ref.content.l.0"].as_str()
        ),
        (config, layer)
    );
    assert_eq!(
        kept.content[config].1["containerd.io/gc.ref.snapshot.overlayfs"],
        layer
    );
    assert_eq!(kept.snapshots, [layer]);
    let of = |tar: &[u8]| -> Vec<_> {
        let all = crate::members(tar).into_iter();
        // The base image's name in it is another one: no stored pod has it.
        all.filter(|(name, _)| name != "config.dump").collect()
    };
    assert!(of(&kept.content[layer].0) == of(&stored.tar));
    assert!(kept.leases.is_empty());
    assert!(kept.astray.is_empty(), "{:?}", kept.astray);
    let of_containers: Vec<_> = kept
        .calls
        .iter()
        .filter(|call| {
            call.contains("RuntimeService") || call.contains("tasks") || call.contains("containers")
        })
        .collect();
    assert!(of_containers.is_empty(), "{of_containers:?}");
}

#[test]
fn whichever_call_is_refused_the_lease_ends_and_no_image_has_the_name() {
    for (method, code, text, exit) in [
        ("Leases/Create", 7, "denied by policy", 8),
        ("Content/Write", 2, "write: no space left on device", 7),
        (
            "Snapshots/Prepare",
            5,
            "snapshotter not loaded: overlayfs: not found",
            3,
        ),
        ("Diff/Apply", 2, "failed to extract layer", 1),
        ("Snapshots/Commit", 14, "shutting down", 1),
        ("Images/Create", 12, "unknown service", 9),
    ] {
        let stored = Stored::real("containerd-busybox-1");
        let stand = Stand::start(stored.place.dir.path(), Some((method, code, text)));
        let said = put(&stored, &stand);
        assert_eq!(said.code, exit, "{method}: {said:?}");
        assert!(said.err.contains(text), "{method}: {said:?}");
        let kept = stand.kept.lock().unwrap();
        assert!(kept.leases.is_empty(), "{method}: {kept:?}");
        assert!(!kept.images.contains_key(NAME), "{method}");
    }
}

#[test]
fn nobody_at_the_socket_is_said_with_the_option_that_names_another_one() {
    let stored = Stored::real("containerd-busybox-1");
    let said = stored.restore(&[
        "latest",
        "--to",
        "containerd:x:1",
        "--containerd",
        "/does/not/exist.sock",
    ]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("--containerd"), "{said:?}");
}
