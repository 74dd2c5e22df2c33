//! Owns the question whether a checkpoint can be restored in a place, and why not. Pure: facts in, findings out.
//!
//! Always: a fact that nobody knows refuses nothing; each finding says the two values that do not fit, and what to do. Never: looks anything up.

use serde::Serialize;

use super::images::Open;
use super::runtime::{Switch, numbers, switch};
use super::source::{Family, Source};
use crate::capture::Host;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Worth knowing.
    Note,
    /// May go wrong.
    Warning,
    /// Will go wrong as far as is known; `--force` tries all the same.
    Unsafe,
    /// Cannot be done, and nobody can say otherwise.
    Refused,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The fact, for programs: `architecture`, `criu`, …
    pub what: &'static str,
    /// The values.
    pub text: String,
    /// What to do; empty: nothing.
    pub cure: String,
}

/// Collects findings.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    pub(crate) fn add(
        &mut self,
        level: Level,
        what: &'static str,
        text: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.0.push(Finding {
            level,
            what,
            text: text.into(),
            cure: cure.into(),
        });
    }
}

/// A place where a container could go on: a node, or this machine. Empty or none: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// For people.
    pub name: String,
    /// Machine, kernel and the like.
    pub host: Host,
    /// Version of CRIU.
    pub criu: Option<String>,
    /// Plugins of CRIU.
    pub plugins: Option<Vec<String>>,
    /// Bytes free where the archive is unpacked.
    pub free_bytes: Option<u64>,
    /// What the runtime itself says of its switch.
    pub restores: Option<bool>,
}

/// Three times: the layer, what the runtime unpacks of it, and the copy that CRIU reads.
const TIMES_THE_ARCHIVE: u64 = 3;
/// More are not listed one by one.
const LISTED: usize = 8;

/// Whether it can be restored there. `through_cri`: by the place's container runtime for a kubelet.
#[must_use]
pub fn preflight(source: &Source, place: &Place, through_cri: bool) -> Vec<Finding> {
    let mut out = Findings::default();
    machine(&source.host, place, &mut out);
    criu(source, place, &mut out);
    if let Some(free) = place.free_bytes {
        let needed = source
            .record
            .archive
            .bytes
            .saturating_mul(TIMES_THE_ARCHIVE);
        if free < needed {
            out.add(
                Level::Unsafe,
                "disk",
                format!(
                    "{} has {} MiB free, and a restore takes up to {} MiB, three times the archive",
                    place.name,
                    free >> 20,
                    needed >> 20
                ),
                "make room where the runtime keeps images and containers",
            );
        }
    }
    if through_cri {
        runtime(source, place, &mut out);
    }
    sockets(&source.open, &mut out);
    out.0
}

fn machine(was: &Host, place: &Place, out: &mut Findings) {
    let (now, name) = (&place.host, &place.name);
    if !was.arch.is_empty() && !now.arch.is_empty() && was.arch != now.arch {
        out.add(
            Level::Refused,
            "architecture",
            format!("the checkpoint is of {}, {name} is {}", was.arch, now.arch),
            format!("choose a node of {}", was.arch),
        );
        return;
    }
    if was.page_size != 0 && now.page_size != 0 && was.page_size != now.page_size {
        out.add(
            Level::Refused,
            "page-size",
            format!(
                "the checkpoint has pages of {} bytes, {name} has pages of {}",
                was.page_size, now.page_size
            ),
            "choose a node whose kernel has the same page size",
        );
    }
    if !was.cpu_flags.is_empty() && !now.cpu_flags.is_empty() {
        let missing: Vec<&str> = was
            .cpu_flags
            .iter()
            .filter(|flag| now.cpu_flags.binary_search(flag).is_err())
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            out.add(
                Level::Unsafe,
                "cpu",
                format!("the processor of {name} lacks what the checkpoint's had: {}", listed(&missing)),
                "choose a node with the same or a newer processor; code in memory was chosen for the old one",
            );
        }
    }
    for (what, was, now) in [
        ("kernel", &was.kernel, &now.kernel),
        ("runtime", &was.runtime, &now.runtime),
    ] {
        if !was.is_empty() && !now.is_empty() && was != now {
            out.add(
                Level::Warning,
                what,
                format!("the checkpoint was taken with {was}, {name} has {now}"),
                "",
            );
        }
    }
    if was.cgroup_version != 0
        && now.cgroup_version != 0
        && was.cgroup_version != now.cgroup_version
    {
        out.add(
            Level::Warning,
            "cgroup",
            format!("the checkpoint was taken with cgroup v{}, {name} has v{}", was.cgroup_version, now.cgroup_version),
            "write manage-cgroups=ignore into /etc/criu/runc.conf if the restore fails because of it",
        );
    }
    let major = |host: &Host| -> Vec<String> {
        let known = ["selinux", "apparmor"];
        let modules = host.security_modules.iter();
        modules
            .filter(|m| known.contains(&m.as_str()))
            .cloned()
            .collect()
    };
    let known = !was.security_modules.is_empty() && !now.security_modules.is_empty();
    if known && major(was) != major(now) {
        out.add(
            Level::Warning,
            "security-module",
            format!(
                "the checkpoint was taken with [{}], {name} has [{}]",
                major(was).join(", "),
                major(now).join(", ")
            ),
            "a profile that the processes had may not be there",
        );
    }
}

fn listed(all: &[&str]) -> String {
    let mut text = all
        .iter()
        .take(LISTED)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if all.len() > LISTED {
        text.push_str(&format!(" and {} more", all.len() - LISTED));
    }
    text
}

fn criu(source: &Source, place: &Place, out: &mut Findings) {
    let was = &source.record.producer.criu_version;
    if let Some(now) = place.criu.as_ref().filter(|_| !was.is_empty())
        && numbers(now)[..2] < numbers(was)[..2]
    {
        out.add(
            Level::Unsafe,
            "criu",
            format!("the checkpoint is of CRIU {was}, {} has {now}: CRIU does not read images of a newer one", place.name),
            format!("install CRIU {was} or later there"),
        );
    }
    if let Some(plugins) = &place.plugins {
        let missing: Vec<&str> = source
            .plugins
            .iter()
            .filter(|plugin| !plugins.contains(plugin))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            out.add(
                Level::Refused,
                "plugins",
                format!("{} has no CRIU plugin {}", place.name, missing.join(", ")),
                "install it where CRIU looks (/usr/lib/criu)",
            );
        }
    } else if !source.plugins.is_empty() {
        out.add(
            Level::Warning,
            "plugins",
            format!(
                "the checkpoint needs CRIU's plugins {}: not known whether {} has them",
                source.plugins.join(", "),
                place.name
            ),
            "",
        );
    }
    if source.is_incremental {
        out.add(
            Level::Refused,
            "incremental",
            "pages of it are in another dump (CRIU's parent directory), and no runtime takes both",
            "restore one that was taken without --pre-checkpoint or --track-mem; by hand: export both, and link parent",
        );
    }
}

fn runtime(source: &Source, place: &Place, out: &mut Findings) {
    let on = place.host.runtime.split("://").next().unwrap_or_default();
    let same = match source.family {
        Family::Containerd => on == "containerd",
        Family::CriO => on == "cri-o",
        _ => false,
    };
    if !on.is_empty() && !same {
        out.add(
            Level::Refused,
            "runtime-family",
            format!("this is an archive of {}, and {} runs {on}: no runtime restores another one's archives", source.family.name(), place.name),
            "choose a node with the same runtime",
        );
        return;
    }
    match (place.restores, switch(&place.host.runtime)) {
        (Some(true), _) | (None, Switch::On) => {}
        (Some(false), Switch::Off(how) | Switch::Never(how)) => out.add(
            Level::Refused,
            "restore-switch",
            format!("{} does not restore containers", place.name),
            how,
        ),
        (Some(false), _) => out.add(
            Level::Refused,
            "restore-switch",
            format!("the runtime of {} says that it does not restore containers", place.name),
            "enable_experimental_restore_via_create and enable_criu in containerd's configuration",
        ),
        (None, Switch::Never(why)) => out.add(
            Level::Refused,
            "restore-switch",
            format!("{}: {why}", place.name),
            "choose another node; or --driver oci-image, archive or directory, which need none",
        ),
        (None, Switch::Off(how)) => out.add(
            Level::Unsafe,
            "restore-switch",
            format!("{}: its runtime restores containers only where that was turned on, and it is not known whether it was", place.name),
            how,
        ),
        (None, Switch::Unknown) => out.add(
            Level::Warning,
            "restore-switch",
            format!("not known whether the runtime of {} restores containers", place.name),
            "",
        ),
    }
}

fn sockets(open: &Open, out: &mut Findings) {
    let own: Vec<String> = open
        .bound
        .iter()
        .filter(|(at, _)| !at.is_unspecified() && !at.is_loopback() && !at.is_multicast())
        .map(|(at, port)| format!("{at} port {port}"))
        .collect();
    if !own.is_empty() {
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        out.add(
            Level::Warning,
            "bound-address",
            format!("sockets are bound to an address of the old pod: {}", listed(&own)),
            "the new pod has another address, and CRIU fails with `Can't bind inet socket`; have the program listen on 0.0.0.0 before the next checkpoint",
        );
    }
    let far: Vec<String> = open
        .connected
        .iter()
        .filter(|(at, _)| !at.is_loopback())
        .map(|(at, port)| format!("{at} port {port}"))
        .collect();
    if !far.is_empty() {
        let far: Vec<&str> = far.iter().map(String::as_str).collect();
        out.add(
            Level::Warning,
            "connections",
            format!("connections to others are in the checkpoint: {}", listed(&far)),
            "the other side does not know the new address: `tcp-close` in /etc/criu/runc.conf closes them at the restore",
        );
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use cryostore_engine::format::snapshot::SnapshotRecord;
    use serde_json::json;

    use super::*;

    /// A checkpoint of containerd, of which all is known.
    pub(in crate::restore) fn source() -> Source {
        let zeros = "0".repeat(64);
        let record: SnapshotRecord = serde_json::from_value(json!({
            "id": "3f9a2b1c00000000000000000000000f", "lineage": "0".repeat(32), "session": "0".repeat(32), "created": "2026-11-20T12:00:00Z",
            "manifest": {"id": "0".repeat(32), "bytes": 1, "digest": zeros},
            "archive": {"kind": "tar", "bytes": 100 << 20},
            "identity": {"namespace": "shop", "pod": "web", "container": "app", "pod_uid": "u1", "node": "n1"},
            "producer": {"engine": "containerd", "runtime": "runc", "criu_version": "4.2", "arch": "x86_64", "page_size": 4096},
        }))
        .unwrap();
        Source {
            family: Family::Containerd,
            pod: None,
            host: host(),
            base_ref: "registry.example/app@sha256:00".to_owned(),
            base_name: "registry.example/app:1".to_owned(),
            mounts: Vec::new(),
            dangerous: Vec::new(),
            images: BTreeSet::new(),
            open: Open::default(),
            plugins: Vec::new(),
            is_incremental: false,
            is_shell_job: false,
            record,
        }
    }

    pub(in crate::restore) fn host() -> Host {
        Host {
            arch: "x86_64".to_owned(),
            cpu_flags: ["avx2", "fpu", "sse2"].map(str::to_owned).to_vec(),
            kernel: "6.12.1".to_owned(),
            page_size: 4096,
            cgroup_version: 2,
            security_modules: vec!["apparmor".to_owned()],
            runtime: "containerd://2.1.9".to_owned(),
            ..Host::default()
        }
    }

    pub(in crate::restore) fn place() -> Place {
        Place {
            name: "n2".to_owned(),
            host: host(),
            criu: Some("4.2.1".to_owned()),
            plugins: Some(Vec::new()),
            free_bytes: Some(1 << 30),
            restores: None,
        }
    }

    fn found(change: impl Fn(&mut Source, &mut Place)) -> Vec<(Level, &'static str)> {
        let (mut source, mut place) = (source(), place());
        change(&mut source, &mut place);
        let findings = preflight(&source, &place, true);
        findings.iter().map(|f| (f.level, f.what)).collect()
    }

    #[test]
    fn the_same_place_has_nothing_against_it() {
        assert_eq!(found(|_, _| ()), []);
    }

    #[test]
    fn what_is_not_known_refuses_nothing() {
        let found = found(|_, place| {
            *place = Place {
                name: "n2".to_owned(),
                ..Place::default()
            };
        });
        assert_eq!(found, [(Level::Warning, "restore-switch")]);
    }

    #[test]
    fn each_fact_that_does_not_fit_is_found_alone() {
        type Change = fn(&mut Source, &mut Place);
        let cases: &[(Level, &str, Change)] = &[
            (Level::Refused, "architecture", |_, p| {
                p.host.arch = "aarch64".to_owned()
            }),
            (Level::Refused, "page-size", |_, p| p.host.page_size = 65536),
            (Level::Unsafe, "cpu", |_, p| {
                p.host.cpu_flags = vec!["fpu".to_owned(), "sse2".to_owned()]
            }),
            (Level::Warning, "kernel", |_, p| {
                p.host.kernel = "6.1".to_owned()
            }),
            (Level::Warning, "runtime", |_, p| {
                p.host.runtime = "containerd://2.1.8".to_owned()
            }),
            (Level::Warning, "cgroup", |_, p| p.host.cgroup_version = 1),
            (Level::Warning, "security-module", |_, p| {
                p.host.security_modules = vec!["selinux".to_owned()]
            }),
            (Level::Unsafe, "criu", |_, p| {
                p.criu = Some("4.1.1".to_owned())
            }),
            (Level::Refused, "plugins", |s, _| {
                s.plugins = vec!["cuda_plugin".to_owned()]
            }),
            (Level::Refused, "incremental", |s, _| {
                s.is_incremental = true
            }),
            (Level::Unsafe, "disk", |_, p| p.free_bytes = Some(299 << 20)),
            (Level::Refused, "runtime-family", |s, _| {
                s.family = Family::Podman
            }),
            (Level::Refused, "restore-switch", |_, p| {
                p.restores = Some(false)
            }),
        ];
        for (level, what, change) in cases {
            assert_eq!(found(change), [(*level, *what)], "{what}");
        }
    }

    #[test]
    fn a_newer_criu_and_a_better_processor_are_fine() {
        let found = found(|_, place| {
            place.criu = Some("5.0".to_owned());
            place.host.cpu_flags.insert(0, "amx".to_owned());
        });
        assert_eq!(found, []);
    }

    #[test]
    fn a_runtime_without_the_code_is_refused_and_one_with_a_switch_says_how_to_turn_it_on() {
        let of = |runtime: &str, restores: Option<bool>| {
            let (source, mut place) = (source(), place());
            place.host.runtime = runtime.to_owned();
            place.restores = restores;
            let found = preflight(&source, &place, true);
            let found = found.into_iter().find(|f| f.what == "restore-switch");
            found.map(|f| {
                (
                    f.level,
                    f.cure.contains("enable_experimental_restore_via_create"),
                )
            })
        };
        assert_eq!(
            of("containerd://2.4.0", None),
            Some((Level::Refused, false))
        );
        assert_eq!(
            of("containerd://1.7.24", None),
            Some((Level::Refused, false))
        );
        assert_eq!(of("containerd://2.3.4", None), Some((Level::Unsafe, true)));
        assert_eq!(of("containerd://2.3.4", Some(true)), None);
        assert_eq!(
            of("containerd://2.3.4", Some(false)),
            Some((Level::Refused, true))
        );
    }

    #[test]
    fn addresses_of_the_old_pod_are_named_and_any_address_and_loopback_are_not() {
        let at = |text: &str, port| (text.parse().unwrap(), port);
        let open = Open {
            bound: [
                at("10.1.2.3", 80),
                at("0.0.0.0", 81),
                at("127.0.0.1", 82),
                at("::", 83),
            ]
            .into(),
            connected: [at("127.0.0.1", 90), at("10.9.9.9", 5432)].into(),
            ..Open::default()
        };
        let mut source = source();
        source.open = open;
        let found = preflight(&source, &place(), true);
        let texts: Vec<&str> = found.iter().map(|f| f.text.as_str()).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].ends_with("10.1.2.3 port 80"), "{texts:?}");
        assert!(texts[1].ends_with("10.9.9.9 port 5432"), "{texts:?}");
    }
}
