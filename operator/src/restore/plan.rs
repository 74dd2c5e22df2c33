//! Owns the plan of a restore: by which driver, where, under which name, as which pod, and all that speaks against it. Pure.
//!
//! Always: it is made from what is stored and from the place where it is to go on: the pod and the node that it was on may be gone. Two plans of one snapshot
//! differ in the pod's name alone. Never: overrules itself: what is refused stays refused, and what is only unsafe needs the user's word, which is
//! written into the pod.

use std::collections::BTreeSet;

use cryostore_engine::format::SnapshotId;
use cryostore_engine::{Error, Kind, Result};
use serde::Serialize;
use serde_json::Value;

use super::containerd::image_name;
use super::pod_again::{self, Dropped, New, RestartPolicy};
use super::preflight::{Finding, Findings, Level, Place, preflight};
use super::source::{Family, Source};
use crate::capture::TOKENS;
use crate::pod::{check_name, text};

/// How places for images begin.
const IMAGE_PLACES: [&str; 3] = ["oci:", "docker://", "containerd:"];

/// Ways to bring a checkpoint back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// The archive, byte for byte, as a file.
    Archive,
    /// Its files, in a directory.
    Directory,
    /// An OCI image, in a layout or in a registry.
    OciImage,
    /// An image in the node's containerd, and a pod.
    Containerd,
    /// Podman on this machine.
    Podman,
    /// CRIU on this machine.
    Criu,
}

impl Driver {
    /// As it is said.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Directory => "directory",
            Self::OciImage => "oci-image",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Criu => "criu",
        }
    }

    /// The one that is meant where none is said.
    #[must_use]
    pub fn probe(family: Family, to: Option<&str>) -> Self {
        match (family, to) {
            (_, Some(to)) if IMAGE_PLACES.iter().any(|kind| to.starts_with(kind)) => Self::OciImage,
            (Family::Criu | Family::Docker, Some(_)) | (Family::Docker, None) => Self::Directory,
            (_, Some(_)) => Self::Archive,
            (Family::Containerd, None) => Self::Containerd,
            (Family::CriO, None) => Self::OciImage,
            (Family::Podman, None) => Self::Podman,
            (Family::Criu, None) => Self::Criu,
        }
    }

    /// True if it writes to the place that `--to` names.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Archive | Self::Directory | Self::OciImage)
    }
}

/// What the user wants. None: what is usual.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Another node.
    pub node: Option<String>,
    /// Another namespace.
    pub namespace: Option<String>,
    /// Another name.
    pub name: Option<String>,
    /// This way.
    pub driver: Option<Driver>,
    /// Whether a container that ends is started again.
    pub restart: RestartPolicy,
    /// Where something is written to.
    pub to: Option<String>,
    /// What is only unsafe is done.
    pub force: bool,
    /// Memory may go to another namespace than its own.
    pub allow_cross_namespace: bool,
}

/// A node, and how it is.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    /// What it has.
    pub place: Place,
    /// It takes pods.
    pub is_ready: bool,
    /// Somebody said that it is to take no more.
    pub is_cordoned: bool,
    /// It is this machine.
    pub is_here: bool,
}

/// A volume that a pod wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// None: not known.
    pub exists: Option<bool>,
    /// One node at a time.
    pub is_for_one_node: bool,
}

/// What was seen in the cluster. Empty or none: not known.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// Its nodes.
    pub nodes: Vec<NodeView>,
    /// Whether the namespace is there.
    pub has_namespace: Option<bool>,
    /// Which of the names that may be used are taken there.
    pub taken: BTreeSet<String>,
    /// The old pod's volumes.
    pub claims: Vec<Claim>,
    /// ConfigMaps that it wants and that are not there.
    pub missing_config_maps: Vec<String>,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// None: the driver needs no cluster.
    pub cluster: Option<ClusterView>,
    /// This machine.
    pub here: Place,
}

/// What is to be done.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// How.
    pub driver: Driver,
    /// What.
    pub snapshot: SnapshotId,
    /// Whose archive it is.
    pub family: Family,
    /// Where something is written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The node is this machine.
    pub is_here: bool,
    /// The namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name of the pod, or of Podman's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The container that goes on.
    pub container: String,
    /// The image with the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The new pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Value>,
    /// What it goes without.
    pub dropped: Vec<Dropped>,
    /// What the runtime's copy of the archive goes without.
    pub stripped: Vec<String>,
    /// What speaks against it, the worst first.
    pub findings: Vec<Finding>,
    /// What a crash after the restore does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_a_crash: Option<&'static str>,
}

impl Plan {
    /// The error that it is, if it cannot be done.
    pub fn check(&self, force: bool) -> Result<()> {
        let bad = |f: &&Finding| f.level == Level::Refused || (f.level == Level::Unsafe && !force);
        let against: Vec<&Finding> = self.findings.iter().filter(bad).collect();
        let Some(first) = against.first() else {
            return Ok(());
        };
        let texts: Vec<&str> = against.iter().map(|f| f.text.as_str()).collect();
        let kind = match first.what {
            "name" => Kind::Conflict,
            "namespace" | "node" => Kind::NotFound,
            "disk" => Kind::NoSpace,
            _ => Kind::Unsupported,
        };
        let mut cures: Vec<&str> = against.iter().map(|f| f.cure.as_str()).collect();
        cures.retain(|cure| !cure.is_empty());
        let can_force = against.iter().all(|f| f.level == Level::Unsafe);
        if can_force {
            cures.push("--force tries it all the same");
        }
        Err(Error::new(kind, format!("not restored: {}", texts.join("; "))).hint(cures.join("; ")))
    }
}

/// The namespace that is meant.
pub fn namespace<'w>(source: &'w Source, wish: &'w Wish) -> Result<&'w str> {
    let original = source.record.identity.namespace.as_str();
    let wanted = wish.namespace.as_deref().unwrap_or(original);
    if wanted.is_empty() {
        return Err(Error::new(
            Kind::Invalid,
            "the archive does not say of which namespace it is",
        )
        .hint("say --namespace NAME"));
    }
    // A file may say that it is of any namespace.
    if source.pod.is_none() && wish.namespace.is_none() {
        return Err(Error::new(
            Kind::Invalid,
            format!("only the archive itself says that it is of namespace {wanted}: no pod was stored with it"),
        )
        .hint(format!("say --namespace {wanted} if the memory belongs there")));
    }
    check_name("namespace", wanted)?;
    Ok(wanted)
}

/// The names that may be used, the best first. The words that say which snapshot it is keep two restores of two snapshots apart.
pub fn names(source: &Source, wish: &Wish) -> Result<Vec<String>> {
    if let Some(name) = &wish.name {
        check_name("pod", name)?;
        return Ok(vec![name.clone()]);
    }
    let original = &source.record.identity.pod;
    if original.is_empty() {
        return Err(
            Error::new(Kind::Invalid, "the archive does not say of which pod it is")
                .hint("say --name NAME"),
        );
    }
    check_name("pod", original)?;
    let id = source.record.id.to_string();
    // Names of pods that are host names, too, have at most 63 characters.
    let stem: String = original.chars().take(44).collect();
    let stem = stem.trim_end_matches(['-', '.']);
    let again = format!("{stem}-restored-{}", &id[..6]);
    let mut names = vec![original.clone(), again.clone()];
    names.extend((2..10).map(|n| format!("{again}-{n}")));
    Ok(names)
}

/// Makes the plan.
pub fn plan(source: &Source, wish: &Wish, observed: &Observed) -> Result<Plan> {
    let driver = wish
        .driver
        .unwrap_or_else(|| Driver::probe(source.family, wish.to.as_deref()));
    let identity = &source.record.identity;
    let mut plan = Plan {
        driver,
        snapshot: source.record.id,
        family: source.family,
        to: wish.to.clone(),
        node: None,
        is_here: false,
        namespace: None,
        name: None,
        container: identity.container.clone(),
        image: None,
        pod: None,
        dropped: Vec::new(),
        stripped: Vec::new(),
        findings: Vec::new(),
        after_a_crash: None,
    };
    let mut out = Findings::default();
    fits(driver, source, wish, &mut out);
    match driver {
        Driver::Archive | Driver::Directory => {
            if !source.dangerous.is_empty() {
                out.add(
                    Level::Warning,
                    "hostile",
                    format!("its descriptions hold {}: by these a runtime that takes them from an archive gives it devices, mounts or programs of the host; this driver changes no byte, and leaves them in", source.dangerous.join(", ")),
                    "look at them before a runtime gets it",
                );
            }
        }
        Driver::OciImage => plan.stripped.clone_from(&source.dangerous),
        Driver::Podman => {
            plan.stripped.clone_from(&source.dangerous);
            plan.name.clone_from(&wish.name);
            out.0.extend(preflight(source, &observed.here, false));
        }
        Driver::Criu => out.0.extend(preflight(source, &observed.here, false)),
        Driver::Containerd => {
            plan.stripped.clone_from(&source.dangerous);
            match &observed.cluster {
                Some(cluster) => in_cluster(&mut plan, source, wish, cluster, &mut out)?,
                None => out.add(
                    Level::Refused,
                    "cluster",
                    "this driver makes a pod, and no cluster was asked",
                    "",
                ),
            }
        }
    }
    out.0
        .sort_by_key(|finding| std::cmp::Reverse(finding.level));
    plan.findings = out.0;
    Ok(plan)
}

/// Whether the driver can do something with this archive.
fn fits(driver: Driver, source: &Source, wish: &Wish, out: &mut Findings) {
    let family = source.family;
    let can = match driver {
        Driver::Archive | Driver::Directory => true,
        Driver::OciImage => super::oci::has_image(family),
        Driver::Containerd => family == Family::Containerd,
        Driver::Podman => family == Family::Podman,
        Driver::Criu => matches!(family, Family::Criu | Family::Docker),
    };
    if !can {
        out.add(
            Level::Refused,
            "driver",
            format!(
                "the driver {} restores no archives of {}",
                driver.name(),
                family.name()
            ),
            format!("say --driver {}", Driver::probe(family, None).name()),
        );
    }
    if driver.writes() && wish.to.is_none() {
        let how = match (family, driver) {
            (Family::Docker, _) => {
                "say --to DIR, or --to docker:CONTAINER for that container's own checkpoints"
            }
            (_, Driver::OciImage) => {
                "say --to oci:DIR for a layout, --to docker://HOST/NAME:TAG for a registry, or --to containerd:NAME for this machine's containerd"
            }
            _ => "say --to PATH",
        };
        out.add(
            Level::Refused,
            "to",
            format!("the driver {} has to know where to write", driver.name()),
            how,
        );
    }
    if let Some(to) = &wish.to
        && driver.writes()
        && !takes(driver, family, to)
    {
        out.add(
            Level::Refused,
            "to",
            format!("the driver {} writes no archive of {} to `{to}`", driver.name(), family.name()),
            "docker: is for checkpoints of Docker; oci:, docker:// and containerd: are for images; a file of that name is ./NAME",
        );
    }
    if !driver.writes() && wish.to.is_some() {
        out.add(
            Level::Refused,
            "to",
            format!(
                "the driver {} writes nothing to a place of your choice",
                driver.name()
            ),
            "leave out --to, or say --driver archive, directory or oci-image",
        );
    }
    if matches!(family, Family::CriO | Family::Docker) {
        out.add(
            Level::Note,
            "not-run-here",
            format!("a restore by {} was not run by this project's tests: only what is written for it is tested", family.name()),
            "",
        );
    }
}

/// Whether the place is of the driver's kind. Else a word that was meant for another one would become the name of a file with memory in it.
fn takes(driver: Driver, family: Family, to: &str) -> bool {
    let is_for_images = IMAGE_PLACES.iter().any(|kind| to.starts_with(kind));
    match driver {
        Driver::OciImage => is_for_images,
        Driver::Directory if family == Family::Docker => !is_for_images,
        _ => !is_for_images && !to.starts_with("docker:"),
    }
}

fn in_cluster(
    plan: &mut Plan,
    source: &Source,
    wish: &Wish,
    cluster: &ClusterView,
    out: &mut Findings,
) -> Result<()> {
    let namespace = namespace(source, wish)?.to_owned();
    let original = &source.record.identity.namespace;
    if namespace != *original && !wish.allow_cross_namespace {
        out.add(
            Level::Refused,
            "cross-namespace",
            format!("the memory is of namespace {original}, and was to go to {namespace}, where others may read it"),
            "say --allow-cross-namespace if they may",
        );
    }
    if cluster.has_namespace == Some(false) {
        out.add(
            Level::Refused,
            "namespace",
            format!("there is no namespace {namespace}"),
            format!("make it: `kubectl create namespace {namespace}`; it needs the service account, ConfigMaps and Secrets of the pod, too"),
        );
    }
    let names = names(source, wish)?;
    let Some(name) = names.iter().find(|name| !cluster.taken.contains(*name)) else {
        out.add(
            Level::Refused,
            "name",
            format!("there is a pod {namespace}/{} already", names[0]),
            "say another one with --name NAME, or leave it out",
        );
        return Ok(());
    };
    if wish.name.is_none() && *name != names[0] {
        out.add(
            Level::Note,
            "new-name",
            format!(
                "there is a pod {namespace}/{} still: the new one is {name}",
                names[0]
            ),
            "processes keep the host name that they had",
        );
    }
    plan.name = Some(name.clone());
    plan.namespace = Some(namespace.clone());
    plan.after_a_crash = Some(wish.restart.after_a_crash());
    let Some(node) = node(source, wish, cluster, out) else {
        return Ok(());
    };
    plan.node = Some(node.place.name.clone());
    plan.is_here = node.is_here;
    out.0.extend(preflight(source, &node.place, true));

    let id = source.record.id.to_string();
    let image = image_name(&namespace, name, &id);
    let mut notes = vec![
        (pod_again::SNAPSHOT.to_owned(), id),
        (pod_again::CONTAINER.to_owned(), plan.container.clone()),
    ];
    let overruled: Vec<&str> = out
        .0
        .iter()
        .filter(|f| f.level == Level::Unsafe)
        .map(|f| f.what)
        .collect();
    if wish.force && !overruled.is_empty() {
        notes.push((pod_again::FORCED.to_owned(), overruled.join(",")));
    }
    let Some(old) = old_pod(source, out) else {
        return Ok(());
    };
    let new = New {
        namespace: &namespace,
        name,
        node: &node.place.name,
        container: &plan.container,
        image: &image,
        restart: wish.restart,
        notes: &notes,
    };
    match pod_again::make(&old, &new) {
        Some((pod, dropped)) => {
            mounts(source, &pod, &plan.container, out);
            volumes(&pod, cluster, source, &node.place.name, out);
            others(&pod, &plan.container, out);
            plan.pod = Some(pod);
            plan.dropped = dropped;
        }
        None => out.add(
            Level::Refused,
            "container",
            format!(
                "the pod that was stored with it has no container `{}`",
                plan.container
            ),
            "the snapshot was put together by hand: import the archive again",
        ),
    }
    plan.image = Some(image);
    Ok(())
}

/// The pod that was stored with the archive; else the least that such a container is.
fn old_pod(source: &Source, out: &mut Findings) -> Option<Value> {
    if let Some(pod) = &source.pod {
        return Some(pod.clone());
    }
    let identity = &source.record.identity;
    if check_name("container", &identity.container).is_err() {
        out.add(
            Level::Refused,
            "container",
            format!(
                "the archive says that its container is called `{}`, which is no name",
                identity.container
            ),
            "",
        );
        return None;
    }
    out.add(
        Level::Warning,
        "no-manifest",
        "no pod was stored with it (the archive was imported as a file): the new one has this container and nothing else of the old one",
        "`cryostore checkpoint` stores the pod, too",
    );
    Some(
        serde_json::json!({"metadata": {}, "spec": {"containers": [{"name": identity.container}]}}),
    )
}

fn node<'c>(
    source: &Source,
    wish: &Wish,
    cluster: &'c ClusterView,
    out: &mut Findings,
) -> Option<&'c NodeView> {
    let original = &source.record.identity.node;
    let wanted = wish.node.as_ref().unwrap_or(original);
    let is_fit = |node: &&NodeView| {
        node.is_ready
            && !node.is_cordoned
            && preflight(source, &node.place, true)
                .iter()
                .all(|finding| finding.level < Level::Unsafe)
    };
    let candidates = || {
        let fit: Vec<&str> = cluster
            .nodes
            .iter()
            .filter(is_fit)
            .map(|node| node.place.name.as_str())
            .collect();
        if fit.is_empty() {
            "as far as is known it can be restored on none of the nodes".to_owned()
        } else {
            format!(
                "as far as is known it can be restored on {}: say --node NAME",
                fit.join(", ")
            )
        }
    };
    let found = cluster.nodes.iter().find(|node| node.place.name == *wanted);
    let why = match found {
        None if wanted.is_empty() => "the snapshot does not say on which node it was".to_owned(),
        None => format!("there is no node {wanted}"),
        Some(node) if !node.is_ready => format!("node {wanted} is not Ready"),
        Some(node) if node.is_cordoned => {
            format!("node {wanted} is to take no more pods (it is cordoned)")
        }
        // Whoever says a node gets the reasons; whoever does not, gets other nodes.
        Some(node) if wish.node.is_none() && !wish.force && !is_fit(&node) => {
            let against: Vec<String> = preflight(source, &node.place, true)
                .into_iter()
                .filter(|finding| finding.level >= Level::Unsafe)
                .map(|finding| finding.text)
                .collect();
            format!(
                "node {wanted}, where it was, does not fit: {}",
                against.join("; ")
            )
        }
        Some(node) => return Some(node),
    };
    out.add(Level::Refused, "node", why, candidates());
    None
}

/// What the processes see mounted has to be there again.
fn mounts(source: &Source, pod: &Value, container: &str, out: &mut Findings) {
    let list = |pointer: &str| {
        pod.pointer(pointer)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let found = list("/spec/containers")
        .chain(list("/spec/initContainers"))
        .find(|one| text(one, "/name") == container);
    let places: Vec<&str> = found
        .and_then(|one| one.get("volumeMounts")?.as_array())
        .into_iter()
        .flatten()
        .map(|mount| text(mount, "/mountPath").trim_end_matches('/'))
        .collect();
    let wants_token =
        pod.pointer("/spec/automountServiceAccountToken") != Some(&Value::Bool(false));
    let missing: Vec<&str> = source
        .mounts
        .iter()
        .map(|mount| mount.destination.trim_end_matches('/'))
        .filter(|at| !places.contains(at))
        // The API server puts a fresh token there by itself; it lies there under either name.
        .filter(|at| !(wants_token && (*at == TOKENS || *at == TOKENS.trim_start_matches("/var"))))
        .collect();
    if !missing.is_empty() {
        out.add(
            Level::Refused,
            "mounts",
            format!("the processes have {} mounted, and the new pod has nothing there", missing.join(", ")),
            "take the checkpoint with `cryostore checkpoint`, which stores the pod with its volumes",
        );
    }
}

fn volumes(pod: &Value, cluster: &ClusterView, source: &Source, node: &str, out: &mut Findings) {
    let list = |json: &Value, pointer: &str| -> Vec<Value> {
        json.pointer(pointer)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let container = &source.record.identity.container;
    let all = [
        list(pod, "/spec/containers"),
        list(pod, "/spec/initContainers"),
    ]
    .concat();
    let own = all
        .iter()
        .find(|one| text(one, "/name") == container.as_str());
    let own_mounts = own
        .map(|one| list(one, "/volumeMounts"))
        .unwrap_or_default();
    for volume in list(pod, "/spec/volumes") {
        let name = text(&volume, "/name");
        if volume.get("emptyDir").is_some() {
            let places: Vec<&str> = own_mounts
                .iter()
                .filter(|mount| text(mount, "/name") == name)
                .map(|mount| text(mount, "/mountPath"))
                .collect();
            let open: Vec<&str> = source
                .open
                .files
                .iter()
                .map(String::as_str)
                .filter(|file| places.iter().any(|place| is_below(file, place)))
                .collect();
            if !open.is_empty() {
                let level = Level::Unsafe;
                out.add(level, "empty-dir", format!("what was in the emptyDir `{name}` is lost, and files in it are open: {}", open.join(", ")), "CRIU fails where an open file is not there; keep such files in a volume that lasts");
            } else if !places.is_empty() {
                out.add(
                    Level::Warning,
                    "empty-dir",
                    format!(
                        "what was in the emptyDir `{name}` at {} is lost",
                        places.join(", ")
                    ),
                    "",
                );
            }
        }
        let claim = text(&volume, "/persistentVolumeClaim/claimName");
        if let Some(seen) = cluster
            .claims
            .iter()
            .find(|seen| seen.name == claim && !claim.is_empty())
        {
            if seen.exists == Some(false) {
                out.add(
                    Level::Refused,
                    "claim",
                    format!("there is no PersistentVolumeClaim {claim}"),
                    "make it, or restore in the namespace that has it",
                );
            } else if seen.is_for_one_node && node != source.record.identity.node {
                out.add(Level::Warning, "claim", format!("the volume of {claim} can be on one node at a time: as long as a pod on {} uses it, the new pod waits", source.record.identity.node), "end the old pod first");
            }
            out.add(
                Level::Note,
                "claim",
                format!(
                    "the files of {claim} are as they are now, not as they were at the checkpoint"
                ),
                "CRIU fails where an open file has another length",
            );
        }
    }
    if !cluster.missing_config_maps.is_empty() {
        out.add(
            Level::Refused,
            "config-map",
            format!(
                "there is no ConfigMap {}",
                cluster.missing_config_maps.join(", ")
            ),
            "make it, or restore in the namespace that has it",
        );
    }
    let secrets = names_in(
        pod,
        &[
            "secretRef/name",
            "secretKeyRef/name",
            "secret/secretName",
            "imagePullSecrets/name",
        ],
    );
    if !secrets.is_empty() {
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        out.add(Level::Note, "secrets", format!("it needs the Secrets {}", secrets.join(", ")), "they were not looked at: that would take the right to read them; if one is missing, the pod waits and says so");
    }
}

fn is_below(file: &str, place: &str) -> bool {
    let rest = file.strip_prefix(place.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// The others begin anew.
fn others(pod: &Value, container: &str, out: &mut Findings) {
    let list = pod.pointer("/spec/containers").and_then(Value::as_array);
    let others: Vec<&str> = list
        .into_iter()
        .flatten()
        .map(|one| text(one, "/name"))
        .filter(|name| *name != container)
        .collect();
    if !others.is_empty() {
        out.add(
            Level::Warning,
            "other-containers",
            format!(
                "{} of the same pod start anew: a snapshot is of one container",
                others.join(", ")
            ),
            "",
        );
    }
}

/// Names at `PARENT/KEY`, anywhere in the pod.
pub(crate) fn names_in(pod: &Value, wanted: &[&str]) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    walk(pod, wanted, "", &mut out, 0);
    out
}

fn walk(json: &Value, wanted: &[&str], parent: &str, out: &mut BTreeSet<String>, depth: usize) {
    /// A pod has some ten levels.
    const DEEPEST: usize = 32;
    if depth > DEEPEST {
        return;
    }
    match json {
        Value::Array(list) => list
            .iter()
            .for_each(|one| walk(one, wanted, parent, out, depth + 1)),
        Value::Object(map) => {
            let is_optional = map.get("optional") == Some(&Value::Bool(true));
            for (key, value) in map {
                let is_wanted = wanted.iter().any(|path| {
                    path.split_once('/')
                        .is_some_and(|(p, k)| p == parent && k == key)
                });
                match value.as_str() {
                    Some(name) if is_wanted && !is_optional => {
                        out.insert(name.to_owned());
                    }
                    _ => walk(value, wanted, key, out, depth + 1),
                }
            }
        }
        _ => {}
    }
}
