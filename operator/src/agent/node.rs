//! Owns what the agent finds out about its node: CRIU, the runtime's switch for restores, the folder of archives.
//!
//! Always: what is not known is said to be that, with where it was looked for; the switch is decided by a table that can be tested. Never: asks the
//! runtime to restore something in order to see whether it does.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::calls::Checkpoints;

/// Where plugins of CRIU are, by distribution.
const PLUGINS: [&str; 4] = [
    "usr/lib/criu",
    "usr/lib64/criu",
    "usr/local/lib/criu",
    "usr/lib/x86_64-linux-gnu/criu",
];
/// Where containerd keeps images and what it unpacks of them.
pub(crate) const CONTAINERD_ROOT: &str = "var/lib/containerd";
/// 1 MiB: a configuration that is larger is none.
const CONFIG_LEN: u64 = 1 << 20;

/// Whether something is so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is.
    On,
    /// It is not.
    Off,
    /// Nobody said.
    #[default]
    Unknown,
}

impl State {
    /// The word for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether a runtime restores checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestoreSwitch {
    /// Whether it does.
    pub state: State,
    /// How that is known.
    pub source: String,
    /// How it is turned on, where it can be.
    pub cure: Option<String>,
}

fn switch(state: State, source: impl Into<String>) -> RestoreSwitch {
    RestoreSwitch {
        state,
        source: source.into(),
        cure: None,
    }
}

/// Version numbers as far as there are any; what follows them is left out.
pub(crate) fn version(text: &str) -> Option<(u32, u32, u32)> {
    let text = text.trim_start_matches('v');
    let mut parts = text.split('.').map(|part| {
        let end = part.find(|c: char| !c.is_ascii_digit());
        part[..end.unwrap_or(part.len())].parse::<u32>().ok()
    });
    let major = parts.next()??;
    let minor = parts.next()??;
    Some((major, minor, parts.next().flatten().unwrap_or(0)))
}

/// What a runtime of this name and version does with a checkpoint in place of an image. `config` is the content of its configuration files, one after
/// another; none: there is none, and its defaults hold.
#[must_use]
pub fn restore_switch(runtime: &str, config: Option<&[String]>) -> RestoreSwitch {
    let Some((name, text)) = runtime.split_once("://") else {
        return switch(State::Unknown, "the runtime's version is not known");
    };
    let Some(version) = version(text) else {
        return switch(
            State::Unknown,
            format!("the version {text} is not understood"),
        );
    };
    match name {
        "containerd" => containerd(version, text, config),
        "cri-o" => crio(text, config),
        _ => switch(
            State::Unknown,
            format!("{name} is not known to restore checkpoints for Kubernetes"),
        ),
    }
}

fn flag(config: Option<&[String]>, table: &[&str], key: &str) -> Option<toml::Value> {
    let tables = config?
        .iter()
        .filter_map(|text| text.parse::<toml::Table>().ok());
    let found = tables.filter_map(|whole| {
        let mut at = toml::Value::Table(whole);
        for name in table.iter().chain([&key]) {
            at = at.get(name)?.clone();
        }
        Some(at)
    });
    // A later file counts more.
    found.fold(None, |_, one| Some(one))
}

fn containerd(version: (u32, u32, u32), text: &str, config: Option<&[String]>) -> RestoreSwitch {
    const RUNTIME: [&str; 2] = ["plugins", "io.containerd.cri.v1.runtime"];
    const KEY: &str = "enable_experimental_restore_via_create";
    if version < (2, 1, 0) {
        return switch(
            State::Off,
            format!("containerd {text}: restores came with 2.1"),
        );
    }
    if version >= (2, 4, 0) {
        return switch(
            State::Off,
            format!("containerd {text}: restores were taken out with 2.4"),
        );
    }
    if flag(config, &RUNTIME, "enable_criu") == Some(toml::Value::Boolean(false)) {
        return RestoreSwitch {
            cure: Some("remove enable_criu = false and restart containerd".to_owned()),
            ..switch(
                State::Off,
                "containerd's configuration: enable_criu = false",
            )
        };
    }
    let has_switch = match version.1 {
        2 => version.2 >= 7,
        3 => version.2 >= 4,
        _ => false,
    };
    if !has_switch {
        return switch(
            State::On,
            format!("containerd {text} restores, without a switch"),
        );
    }
    match flag(config, &RUNTIME, KEY) {
        Some(toml::Value::Boolean(true)) => switch(
            State::On,
            format!("containerd's configuration: {KEY} = true"),
        ),
        _ => RestoreSwitch {
            cure: Some(format!(
                "in /etc/containerd/config.toml, below [plugins.\"io.containerd.cri.v1.runtime\"]: {KEY} = true; then restart containerd"
            )),
            ..match config {
                Some(_) => switch(
                    State::Off,
                    format!("containerd {text}: {KEY} is not set in its configuration"),
                ),
                None => switch(
                    State::Off,
                    format!("containerd {text}: off by default, and no configuration was found"),
                ),
            }
        },
    }
}

fn crio(text: &str, config: Option<&[String]>) -> RestoreSwitch {
    const KEY: &str = "container_level_enabled";
    const CURE: &str = "in a file below /etc/crio/crio.conf.d, below [crio.checkpoint_restore]: container_level_enabled = \"checkpoint_restore\"; then restart CRI-O";
    let off = |source: String| RestoreSwitch {
        cure: Some(CURE.to_owned()),
        ..switch(State::Off, source)
    };
    let criu = flag(config, &["crio", "runtime"], "enable_criu_support");
    if criu == Some(toml::Value::Boolean(false)) {
        return off("CRI-O's configuration: enable_criu_support = false".to_owned());
    }
    match flag(config, &["crio", "checkpoint_restore"], KEY) {
        Some(toml::Value::String(level)) if level == "checkpoint_restore" => {
            switch(State::On, format!("CRI-O's configuration: {KEY} = {level}"))
        }
        Some(other) => off(format!("CRI-O's configuration: {KEY} = {other}")),
        None => RestoreSwitch {
            cure: Some(CURE.to_owned()),
            ..switch(
                State::Unknown,
                format!(
                    "CRI-O {text}: patch releases from September 2026 on have it off unless {KEY} is set, those before have it on"
                ),
            )
        },
    }
}

fn read(path: &Path) -> Option<String> {
    let meta = std::fs::metadata(path).ok()?;
    if !meta.is_file() || meta.len() > CONFIG_LEN {
        return None;
    }
    std::fs::read_to_string(path).ok()
}

/// The configuration files of a runtime below `root`, in the order in which they count.
#[must_use]
pub fn configuration(runtime: &str, root: &Path) -> Option<Vec<String>> {
    let (main, folder, ending) = if runtime.starts_with("cri-o://") {
        ("etc/crio/crio.conf", "etc/crio/crio.conf.d", "")
    } else {
        (
            "etc/containerd/config.toml",
            "etc/containerd/conf.d",
            ".toml",
        )
    };
    let mut files = vec![root.join(main)];
    let entries = std::fs::read_dir(root.join(folder));
    let mut more: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    more.sort();
    files.extend(more);
    let texts: Vec<_> = files.iter().filter_map(|path| read(path)).collect();
    (!texts.is_empty()).then_some(texts)
}

/// File names of CRIU's plugins below `root`.
#[must_use]
pub fn criu_plugins(root: &Path) -> Vec<String> {
    let entries = PLUGINS
        .iter()
        .filter_map(|folder| std::fs::read_dir(root.join(folder)).ok())
        .flatten()
        .flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".so"))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// What lies in the kubelet's folder.
#[must_use]
pub fn checkpoints(path: &Path) -> Checkpoints {
    let mut out = Checkpoints {
        path: path.to_path_buf(),
        ..Checkpoints::default()
    };
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_archive = name
            .to_str()
            .is_some_and(|name| name.starts_with("checkpoint-") && name.ends_with(".tar"));
        // Not through a link.
        let meta = entry.metadata().ok().filter(std::fs::Metadata::is_file);
        if let (true, Some(meta)) = (is_archive, meta) {
            out.archives += 1;
            out.bytes += meta.len();
        }
    }
    out.free_bytes = free_bytes(path);
    out
}

/// Bytes that a file system has for us.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: &str = "[plugins.\"io.containerd.cri.v1.runtime\"]\nenable_experimental_restore_via_create = true\n";
    const OFF: &str = "[plugins.\"io.containerd.cri.v1.runtime\"]\nenable_experimental_restore_via_create = false\n";
    const NO_CRIU: &str = "[plugins.\"io.containerd.cri.v1.runtime\"]\nenable_criu = false\n";

    #[test]
    fn whether_a_runtime_restores_is_told_by_its_version_and_its_configuration() {
        use State::{Off, On, Unknown};
        let crio = |level: &str| {
            format!("[crio.checkpoint_restore]\ncontainer_level_enabled = \"{level}\"\n")
        };
        let cases: &[(&str, Option<&str>, State)] = &[
            ("containerd://1.7.24", None, Off),
            ("containerd://2.0.5", Some(ON), Off),
            ("containerd://2.1.9", None, On),
            ("containerd://2.1.9", Some(NO_CRIU), Off),
            ("containerd://2.2.6", Some(OFF), On),
            ("containerd://2.2.7", None, Off),
            ("containerd://2.2.7", Some(ON), On),
            ("containerd://2.3.3", None, On),
            ("containerd://2.3.4", Some(OFF), Off),
            ("containerd://v2.3.4-rc.1", Some(ON), On),
            ("containerd://2.4.0-beta.0", Some(ON), Off),
            ("cri-o://1.36.4", None, Unknown),
            ("cri-o://1.36.4", Some(&crio("checkpoint_only")), Off),
            ("cri-o://1.36.4", Some(&crio("checkpoint_restore")), On),
            (
                "cri-o://1.30.0",
                Some("[crio.runtime]\nenable_criu_support = false\n"),
                Off,
            ),
            ("docker://28.1", None, Unknown),
            ("containerd://x", None, Unknown),
            ("", None, Unknown),
        ];
        for (runtime, config, state) in cases {
            let config = config.map(|text| vec!["# no TOML [".to_owned(), text.to_owned()]);
            let found = restore_switch(runtime, config.as_deref());
            assert_eq!(found.state, *state, "{runtime} {config:?} {found:?}");
            assert!(!found.source.is_empty());
        }
    }

    #[test]
    fn a_later_file_of_the_configuration_counts_more_than_one_before_it() {
        let found = |files: [&str; 2]| {
            restore_switch("containerd://2.3.4", Some(&files.map(str::to_owned))).state
        };
        assert_eq!(found([ON, OFF]), State::Off);
        assert_eq!(found([OFF, ON]), State::On);
    }
}
