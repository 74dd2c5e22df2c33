//! Owns which container runtime can restore a container, by its version: a table with sources.
//!
//! containerd: container restore through CreateContainer came with 2.1 (commit 9e6beafd5), is off by default from 2.2.7 and 2.3.4 on (PR 13913,
//! `enable_experimental_restore_via_create`), and was removed in 2.4 (PR 13871). CRI-O: on until 1.36.3; releases from September 2026 on take
//! checkpoints only (`[crio.checkpoint_restore] container_level_enabled`).
//!
//! Always: says how a switch is turned on. Never: takes a version for an answer where the runtime itself was asked.

/// Whether a runtime restores containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switch {
    /// It does.
    On,
    /// It could, and is told not to, unless somebody turned it on; how.
    Off(String),
    /// It cannot; why.
    Never(String),
    /// Nobody knows.
    Unknown,
}

/// Numbers of a version; what is no number is 0.
#[must_use]
pub fn numbers(version: &str) -> [u64; 3] {
    let mut parts = version.trim_start_matches('v').split(['.', '-', '+', '~']);
    [(); 3].map(|()| parts.next().and_then(|part| part.parse().ok()).unwrap_or(0))
}

/// By what a node says of its runtime, such as `containerd://2.1.9`.
#[must_use]
pub fn switch(runtime: &str) -> Switch {
    let Some((name, version)) = runtime.split_once("://") else {
        return Switch::Unknown;
    };
    let at = numbers(version);
    match name {
        "containerd" if at < [2, 1, 0] => Switch::Never(format!(
            "containerd {version} has no restore; 2.1 is the first with it"
        )),
        "containerd" if at >= [2, 4, 0] => Switch::Never(format!(
            "containerd {version} has no restore of containers any more (removed in 2.4); 2.1 to 2.3 have it"
        )),
        "containerd" if at >= [2, 3, 4] || ([2, 2, 7]..[2, 3, 0]).contains(&at) => {
            Switch::Off(format!(
                "containerd {version} has it turned off by default: set enable_experimental_restore_via_create = true below [plugins.\"io.containerd.cri.v1.runtime\"] in /etc/containerd/config.toml and restart containerd"
            ))
        }
        "containerd" => Switch::On,
        "cri-o" => Switch::Off(format!(
            "CRI-O {version}: releases from September 2026 on take checkpoints only; set container_level_enabled = \"checkpoint_restore\" below [crio.checkpoint_restore]; older ones restore unless enable_criu_support is false"
        )),
        _ => Switch::Never(format!("{name} restores no containers for a kubelet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_that_restore_are_told_from_those_that_do_not() {
        let kind = |runtime: &str| match switch(runtime) {
            Switch::On => "on",
            Switch::Off(how) => {
                assert!(how.contains("enable"), "{how}");
                "off"
            }
            Switch::Never(_) => "never",
            Switch::Unknown => "unknown",
        };
        for (runtime, wanted) in [
            ("containerd://1.7.24", "never"),
            ("containerd://2.0.5", "never"),
            ("containerd://2.1.9", "on"),
            ("containerd://2.1.9~ds1", "on"),
            ("containerd://2.2.6", "on"),
            ("containerd://2.2.7", "off"),
            ("containerd://2.3.0", "on"),
            ("containerd://2.3.3", "on"),
            ("containerd://2.3.4", "off"),
            ("containerd://2.4.0-beta.0", "never"),
            ("cri-o://1.36.4", "off"),
            ("docker://20.10.1", "never"),
            ("", "unknown"),
        ] {
            assert_eq!(kind(runtime), wanted, "{runtime}");
        }
    }
}
