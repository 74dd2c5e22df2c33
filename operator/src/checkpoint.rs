//! Owns the order of a checkpoint of a pod on this node: look, refuse, freeze, store, tidy up.
//!
//! Always: the repository is open, the node is this machine and the kubelet's folder can be read before a container is frozen; an archive is removed
//! after its snapshot is committed, a pod is ended after all of them are. Where anything fails in between, the archive stays, and the error says how it
//! is stored later. Never: takes two containers of a pod at once (the kubelet cannot, so several containers are never of one moment).

use std::path::{Path, PathBuf};
use std::time::Duration;

use cryostore_engine::format::repository::Role;
use cryostore_engine::format::snapshot::{Identity, SnapshotRecord};
use cryostore_engine::{
    Env, Error, ImportOptions, Kind, Monitor, Repository, Result, Source, import,
};

use crate::archive::{Archive, Folder, Settled};
use crate::capture::{self, Host};
use crate::cluster::{Cluster, Node};
use crate::here;
use crate::kubelet::{Kubelet, KubeletTls, LEAST};
use crate::lock::Lock;
use crate::pod::{Choice, Pod, check_name};

/// How it is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which containers.
    pub choice: Choice,
    /// Time for the runtime, for each container; none: the kubelet's own.
    pub timeout: Option<Duration>,
    /// Whom the kubelet's certificate has to be from.
    pub tls: KubeletTls,
    /// The kubelet is asked there, and not at the node's own address.
    pub kubelet_at: Option<String>,
    /// Where the kubelet leaves archives.
    pub folder: PathBuf,
    /// Where locks are kept, on this machine.
    pub locks: PathBuf,
    /// Words of the user.
    pub labels: Vec<String>,
    /// What this has in common with others that were taken apart from it.
    pub group: Option<String>,
    /// The kubelet's archive stays.
    pub keep_archive: bool,
    /// The pod is ended afterwards.
    pub stop: bool,
    /// Also a pod that a controller makes anew.
    pub force: bool,
}

/// What is going on.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Step<'s> {
    /// Somebody else here takes a checkpoint of this container.
    WaitsForLock(&'s str),
    /// The kubelet was asked; the container is frozen until it answers.
    Asked {
        /// The container.
        container: &'s str,
        /// The kubelet's address.
        address: &'s str,
    },
    /// The kubelet refused for now, with this message; it is asked again.
    Again(&'s str),
    /// The archive is there.
    Written {
        /// Where.
        path: &'s Path,
    },
    /// The archive was stored, and stays although it was to be removed: somebody marked it, or wrote to it.
    Stays(&'s Path),
    /// The pod was told to end.
    Ended,
}

/// Watches a checkpoint.
pub trait Watch: Monitor {
    /// Something begins or has happened.
    fn step(&self, step: Step<'_>);
}

/// All that could be refused was not.
#[derive(Debug)]
pub struct Prepared<'c> {
    cluster: &'c Cluster,
    kubelet: Kubelet<'c>,
    pod: Pod,
    node: Node,
    containers: Vec<String>,
    folder: Folder,
    cluster_id: String,
    options: Options,
}

/// A container that was stored.
#[derive(Debug)]
pub struct Taken {
    /// Its name.
    pub container: String,
    /// What was committed.
    pub snapshot: SnapshotRecord,
    /// The kubelet's archive.
    pub archive: PathBuf,
    /// It was removed.
    pub archive_removed: bool,
    /// From the call to the answer: the container was frozen for at most this long.
    pub asked_for: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What the snapshots of one call for all containers have in common.
    pub group: Option<String>,
    /// What was stored.
    pub taken: Vec<Taken>,
    /// What ended it early.
    pub failed: Option<Error>,
    /// The pod was told to end.
    pub ended: bool,
}

/// Looks at everything that could be in the way. Nothing is frozen.
pub fn prepare<'c>(
    cluster: &'c Cluster,
    pod: Pod,
    options: Options,
    monitor: &dyn Monitor,
) -> Result<Prepared<'c>> {
    check_name("pod's UID", &pod.uid)?;
    let containers = pod.choose(&options.choice)?;
    containers
        .iter()
        .try_for_each(|name| check_name("container", name))?;
    refuse_stop(&pod, options.stop, options.force)?;
    let node = cluster.node(&pod.node, monitor)?;
    if !here::is_here(&node.boot_id)? {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "pod {} runs on node {}, and this machine is another one: the kubelet leaves the archive there, where it could not be fetched from here",
                pod.title(),
                node.name
            ),
        )
        .hint(format!(
            "run the same command on node {}, as root; nothing was frozen",
            node.name
        )));
    }
    let folder = Folder::open(&options.folder)?;
    make_locks(&options.locks)?;
    let mut asked = node.clone();
    if let Some(address) = &options.kubelet_at {
        asked.addresses = vec![address.clone()];
    }
    let kubelet = cluster.kubelet(&asked, &options.tls)?;
    let cluster_id = match cluster.id(monitor) {
        Ok(id) => id.to_owned(),
        Err(e) if e.kind() == Kind::Interrupted => return Err(e),
        Err(e) => {
            monitor.warning(&format!(
                "the checkpoint will not say of which cluster it is, so an agent gives it only to those who may restore in all namespaces: {e}"
            ));
            String::new()
        }
    };
    if let Some(timeout) = options.timeout.filter(|timeout| *timeout < LEAST) {
        monitor.warning(&format!(
            "--timeout {}: the kubelet raises less than its own {} s to that",
            timeout.as_secs(),
            LEAST.as_secs()
        ));
    }
    if options.tls.insecure {
        monitor.warning("--kubelet-insecure-tls: the kubelet's certificate is not looked at; whoever sits between reads the token");
    }
    if pod.is_ending {
        monitor.warning("the pod was told to end already: what is stored is a process that ends");
    }
    if containers.len() > 1 {
        monitor.warning(&format!(
            "{} containers are taken one after another, not at one moment: what they said to each other in between does not fit together",
            containers.len()
        ));
    }
    Ok(Prepared {
        cluster,
        kubelet,
        pod,
        node,
        containers,
        folder,
        cluster_id,
        options,
    })
}

/// A pod that a controller makes anew is ended only by who says that this is meant.
pub(crate) fn refuse_stop(pod: &Pod, stop: bool, force: bool) -> Result<()> {
    match &pod.controller {
        Some(owner) if stop && !force => Err(Error::new(
            Kind::Conflict,
            format!("pod {} belongs to {owner}, which makes a new one at once when it ends", pod.title()),
        )
        .hint("scale it down instead, once the checkpoint is stored; or say --force. Nothing was frozen")),
        _ => Ok(()),
    }
}

/// For this user alone: else another one could hold locks.
fn make_locks(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|e| Error::io(path.display(), e).hint("locks are kept there; nothing was frozen"))
}

impl Prepared<'_> {
    /// The pod.
    #[must_use]
    pub const fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Those of its containers that are meant.
    pub(crate) fn containers(&self) -> &[String] {
        &self.containers
    }

    /// Its node.
    #[must_use]
    pub const fn node(&self) -> &Node {
        &self.node
    }
}

/// A name that no other call has.
pub(crate) fn new_group(env: &dyn Env) -> String {
    let random = env.random();
    random[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// Takes and stores the containers, one after another. The first that fails ends it; what was stored before stays.
pub fn take(prepared: &Prepared<'_>, repo: &Repository, watch: &dyn Watch) -> Result<Outcome> {
    repo.require(Role::Write)?;
    let options = &prepared.options;
    let mut outcome = Outcome {
        group: options
            .group
            .clone()
            .or_else(|| (options.choice == Choice::All).then(|| new_group(repo.env()))),
        taken: Vec::new(),
        failed: None,
        ended: false,
    };
    let mut host = Host::of(&prepared.node);
    host.cluster.clone_from(&prepared.cluster_id);
    let attachments = vec![
        (capture::POD.to_owned(), capture::manifest(&prepared.pod)),
        (capture::HOST.to_owned(), host.to_json()),
    ];
    for container in &prepared.containers {
        let import = ImportOptions {
            identity: Identity {
                namespace: prepared.pod.namespace.clone(),
                pod: prepared.pod.name.clone(),
                container: container.clone(),
                pod_uid: prepared.pod.uid.clone(),
                node: prepared.node.name.clone(),
                ..Identity::default()
            },
            labels: options.labels.clone(),
            group: outcome.group.clone(),
            attachments: attachments.clone(),
            ..ImportOptions::default()
        };
        match take_one(prepared, container, repo, &import, watch) {
            Ok(taken) => outcome.taken.push(taken),
            Err(e) => {
                outcome.failed = Some(e);
                return Ok(outcome);
            }
        }
    }
    if options.stop {
        match prepared.cluster.delete(&prepared.pod, watch) {
            Ok(()) => {
                outcome.ended = true;
                watch.step(Step::Ended);
            }
            Err(e) => outcome.failed = Some(e),
        }
    }
    Ok(outcome)
}

fn take_one(
    prepared: &Prepared<'_>,
    container: &str,
    repo: &Repository,
    how: &ImportOptions,
    watch: &dyn Watch,
) -> Result<Taken> {
    let Prepared {
        kubelet,
        pod,
        folder,
        options,
        ..
    } = prepared;
    let lock = Lock::take(&options.locks, &pod.uid, container, watch, || {
        watch.step(Step::WaitsForLock(container));
    })?;
    watch.step(Step::Asked {
        container,
        address: kubelet.address(),
    });
    let started = repo.env().elapsed();
    let names = (pod.namespace.as_str(), pod.name.as_str(), container);
    let answer = kubelet.checkpoint(names, options.timeout, watch, |why| {
        watch.step(Step::Again(why));
    })?;
    let asked_for = repo.env().elapsed().saturating_sub(started);
    let beginning = format!("checkpoint-{}_{}-{container}-", pod.name, pod.namespace);
    let archive = folder.archive(&answer, &beginning)?;
    let path = archive.path().to_path_buf();
    watch.step(Step::Written { path: &path });
    let settled = archive.settle(watch)?;
    check_whose(prepared, container, &archive, &settled, watch)?;
    let source = Source::Open(archive.file()?, path.clone());
    let imported = import(repo, source, how, watch).map_err(|e| not_stored(&path, e))?;
    let mut archive_removed = false;
    if !options.keep_archive {
        match folder.remove(&archive, &settled) {
            Ok(true) => archive_removed = true,
            Ok(false) => watch.step(Step::Stays(&path)),
            // It is stored, and that counts.
            Err(e) => watch.warning(&format!(
                "the archive was stored, and could not be removed: {e}"
            )),
        }
    }
    drop(lock);
    Ok(Taken {
        container: container.to_owned(),
        snapshot: imported.snapshot,
        archive: path,
        archive_removed,
        asked_for,
    })
}

/// The kubelet knows pods by their names, and another one may have got this name since it was looked at.
fn check_whose(
    prepared: &Prepared<'_>,
    container: &str,
    archive: &Archive,
    settled: &Settled,
    watch: &dyn Watch,
) -> Result<()> {
    let pod = &prepared.pod;
    let look = &settled.look;
    let uid = if look.pod_uid.is_empty() {
        // The archive does not say: then the API server has to.
        let now = prepared.cluster.pod(&pod.namespace, &pod.name, watch);
        now.map_err(|e| not_stored(archive.path(), e))?.uid
    } else {
        look.pod_uid.clone()
    };
    if !pod.has_uid(&uid) {
        return Err(archive.left(
            Kind::Conflict,
            &format!(
                "pod {} was replaced while the checkpoint was taken: its UID was {}, the archive is of {uid}",
                pod.title(),
                pod.uid
            ),
        ));
    }
    if !look.container.is_empty() && look.container != container {
        return Err(archive.left(
            Kind::Conflict,
            &format!(
                "the archive is of container {}, not of {container}",
                look.container
            ),
        ));
    }
    Ok(())
}

/// What failed after the container was frozen: the archive is there, and is not lost.
fn not_stored(path: &Path, e: Error) -> Error {
    let advice = e
        .advice()
        .map(|advice| format!("{advice}; "))
        .unwrap_or_default();
    let path = path.display();
    Error::new(
        e.kind(),
        format!("the checkpoint was taken, and not stored: {e}"),
    )
    .hint(format!(
        "{advice}the archive stays there; store it with: cryostore import {path}"
    ))
    .because(e)
}
