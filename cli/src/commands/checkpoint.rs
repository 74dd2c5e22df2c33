//! `cryostore checkpoint`

use std::fmt;
use std::io::{BufRead, IsTerminal, stderr, stdin};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::{Monitor, Phase};
use cryostore_operator::agent::remote;
use cryostore_operator::checkpoint::{Options, Outcome, Step, Taken, Watch, prepare, take};
use cryostore_operator::pod::{Choice, Pod};
use cryostore_operator::{Cluster, KubeletTls, archive};
use serde::Serialize;

use super::agent_args::AgentArgs;
use super::first_use::{self, Place};
use super::view::{CostView, SnapshotView};
use crate::context::Context;
use crate::exit::Failure;
use crate::output::Output;
use crate::screen::Screen;
use crate::text::{Column, Table, percent, printable, seconds, short, size};

/// Characters of an id that tell it apart; `cryostore ls` shows more where they do not.
const SHORT: usize = 8;

/// Take a checkpoint of a pod, and store it
///
/// Finds the pod through the cluster's API (KUBECONFIG, ~/.kube/config, or the service account of the pod that this runs in), has the node's kubelet take the checkpoint, and stores the
/// archive that the kubelet leaves on this machine. If the pod's node is another machine, the agent of that node (`cryostore serve-node`) does it instead, with its own storage and key. The pod goes on running. The repository is opened and all else that could be refused is looked at before
/// anything is frozen. Once the checkpoint is stored the kubelet's archive is removed; if it cannot be stored, the archive stays, and `cryostore import` takes it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore checkpoint web-0
  cryostore checkpoint web-0 --namespace shop --container app --label before-upgrade
  cryostore checkpoint notebook-7 --all-containers --timeout 600
  cryostore checkpoint batch-1 --stop
  cryostore checkpoint web-0 --kubelet-ca /var/lib/kubelet/pki/kubelet.crt
  cryostore checkpoint web-0 --agent cluster")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "flags of a command line are bools"
)]
pub(crate) struct CheckpointArgs {
    /// The pod
    #[arg(value_name = "POD")]
    pod: String,
    /// Its namespace [default: that of the kubeconfig's context]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// The container, if there are several
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_containers")]
    container: Option<String>,
    /// Each container, one after another: not at one moment. The snapshots have one group
    #[arg(long)]
    all_containers: bool,
    /// A word of your own, or KEY=VALUE; repeat it for more
    #[arg(long, value_name = "TEXT")]
    label: Vec<String>,
    /// Time for each container; the kubelet raises less than 120 to that [default: the kubelet's, 120]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,
    /// End the pod once all is stored; refused if a controller would make it anew, unless --force is said
    #[arg(long)]
    stop: bool,
    /// With --stop: also a pod that a controller makes anew
    #[arg(long, requires = "stop")]
    force: bool,
    /// Make a repository if the storage is an empty place; on a terminal it is asked for
    #[arg(long)]
    init: bool,
    /// Leave the kubelet's archive where it is
    #[arg(long)]
    keep_archive: bool,
    /// Authorities of the kubelet's certificate, PEM [default: the kubeconfig's]
    #[arg(long, value_name = "FILE", conflicts_with = "kubelet_insecure_tls")]
    kubelet_ca: Option<PathBuf>,
    /// Do not look at the kubelet's certificate: whoever sits between reads the token
    #[arg(long)]
    kubelet_insecure_tls: bool,
    /// Where the kubelet of this node leaves archives
    #[arg(long, value_name = "DIR", default_value = archive::DEFAULT_FOLDER)]
    checkpoints_dir: PathBuf,
    #[command(flatten)]
    agent: AgentArgs,
}

#[derive(Serialize)]
struct Report {
    namespace: String,
    pod: String,
    pod_uid: String,
    node: String,
    /// Where the node's agent stored it.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<String>,
    group: Option<String>,
    checkpoints: Vec<Checkpoint>,
    /// The pod was told to end.
    stopped: bool,
}

#[derive(Serialize)]
struct Checkpoint {
    container: String,
    snapshot: SnapshotId,
    archive: PathBuf,
    archive_removed: bool,
    bytes: u64,
    #[serde(flatten)]
    cost: CostView,
    /// From the kubelet's call to its answer: the container was frozen for at most this long.
    kubelet_seconds: f64,
    #[serde(skip)]
    kubelet_ms: u64,
    base: Option<SnapshotId>,
    warnings: Vec<String>,
}

impl Checkpoint {
    fn new(taken: &Taken) -> Self {
        let SnapshotView {
            id,
            archive,
            cost,
            base,
            warnings,
            ..
        } = SnapshotView::from(&taken.snapshot);
        Self {
            container: taken.container.clone(),
            snapshot: id,
            archive: taken.archive.clone(),
            archive_removed: taken.archive_removed,
            bytes: archive.bytes,
            cost,
            kubelet_seconds: taken.asked_for.as_secs_f64(),
            kubelet_ms: u64::try_from(taken.asked_for.as_millis()).unwrap_or(u64::MAX),
            base,
            warnings,
        }
    }
}

impl Report {
    fn new(pod: &Pod, outcome: &Outcome, storage: Option<String>) -> Self {
        Self {
            storage,
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            node: pod.node.clone(),
            group: outcome.group.clone(),
            checkpoints: outcome.taken.iter().map(Checkpoint::new).collect(),
            stopped: outcome.ended,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pod {}/{} on node {}",
            self.namespace, self.pod, self.node
        )?;
        if let Some(group) = &self.group {
            write!(f, ", group {group}")?;
        }
        if let Some(storage) = &self.storage {
            write!(f, ", stored by its agent in {}", printable(storage))?;
        }
        writeln!(f, "{}\n", if self.stopped { ", ended" } else { "" })?;
        let mut table = Table::new(
            [
                Column::Left("SNAPSHOT"),
                Column::Name("CONTAINER"),
                Column::Right("SIZE"),
                Column::Right("ADDED"),
                Column::Right("SHARE"),
                Column::Right("KUBELET"),
                Column::Right("STORED IN"),
                Column::Left("ARCHIVE"),
            ],
            Output::width(),
        );
        for one in &self.checkpoints {
            let archive = if one.archive_removed {
                "removed".to_owned()
            } else {
                one.archive.display().to_string()
            };
            table.row([
                short(one.snapshot, SHORT),
                printable(&one.container),
                size(one.bytes),
                size(one.cost.bytes_added),
                percent(one.cost.bytes_added, one.bytes),
                seconds(one.kubelet_ms),
                seconds(one.cost.elapsed_ms),
                printable(&archive),
            ]);
        }
        write!(f, "{table}")
    }
}

/// Tells on the screen what goes on.
struct Told<'s>(&'s Screen);

impl Monitor for Told<'_> {
    fn progress(&self, phase: Phase, done: u64, total: Option<u64>) {
        self.0.progress(phase, done, total);
    }
    fn warning(&self, text: &str) {
        self.0.warning(text);
    }
    fn stop(&self) -> bool {
        self.0.stop()
    }
}

impl Watch for Told<'_> {
    fn step(&self, step: Step<'_>) {
        let note = |text: String| self.0.note(&text);
        match step {
            Step::WaitsForLock(container) => note(format!(
                "container {container}: waiting for another checkpoint of it on this node"
            )),
            Step::Asked { container, address } => note(format!(
                "container {container}: asking the kubelet at {address} for a checkpoint; the container stands still until it answers"
            )),
            Step::Again(why) => note(format!("the kubelet cannot now, it is asked again: {why}")),
            Step::Written { path } => note(format!("storing {}", path.display())),
            Step::Stays(path) => self.0.warn(&format!(
                "{} stays: it is marked with a file .keep, or was written to again; what was read of it is stored",
                path.display()
            )),
            Step::Ended => note("the pod was told to end".to_owned()),
            _ => {}
        }
    }
}

pub(crate) fn run(args: CheckpointArgs, context: &Context) -> Result<(), Failure> {
    let screen = &*context.screen;
    let watch = Told(screen);
    let cluster = Cluster::connect(None, &watch)?;
    let namespace = args
        .namespace
        .as_deref()
        .unwrap_or_else(|| cluster.namespace());
    let pod = cluster.pod(namespace, &args.pod, &watch)?;
    let choice = match (args.container, args.all_containers) {
        (Some(name), _) => Choice::Named(name),
        (None, true) => Choice::All,
        (None, false) => ask(&pod, context)?,
    };
    if args.agent.is_meant(&cluster, &pod, &watch)? {
        let how = remote::Options {
            choice,
            timeout: args.timeout.map(Duration::from_secs),
            storage: context.said_storage()?,
            labels: args.label,
            keep_archive: args.keep_archive,
            stop: args.stop,
            force: args.force,
        };
        let agent = args.agent.find(&cluster, &pod, &watch)?;
        let (outcome, storage) = remote::take(&cluster, &agent, &pod, &how, &*context.env, &watch)?;
        return told(&pod, outcome, storage, context);
    }
    // First what the user can have said wrong, then what somebody else can refuse; nothing is frozen before both are through.
    let repo = match first_use::settle(args.init, context)? {
        Place::There(repo) => *repo,
        Place::Made(made) => {
            screen.report(&made.to_string());
            context.repository()?
        }
    };
    let options = Options {
        choice,
        timeout: args.timeout.map(Duration::from_secs),
        tls: KubeletTls {
            ca: args.kubelet_ca,
            insecure: args.kubelet_insecure_tls,
        },
        kubelet_at: None,
        folder: args.checkpoints_dir,
        locks: locks(),
        labels: args.label,
        group: None,
        keep_archive: args.keep_archive,
        stop: args.stop,
        force: args.force,
    };
    let prepared = prepare(&cluster, pod, options, &watch)?;
    let outcome = take(&prepared, &repo, &watch)?;
    told(prepared.pod(), outcome, None, context)
}

/// What is stored is said, also where something failed after it.
fn told(
    pod: &Pod,
    outcome: Outcome,
    storage: Option<String>,
    context: &Context,
) -> Result<(), Failure> {
    context.screen.clear();
    if !outcome.taken.is_empty() {
        context.output.show(&Report::new(pod, &outcome, storage))?;
    }
    match outcome.failed {
        Some(e) => Err(e.into()),
        None => Ok(()),
    }
}

/// Locks hold off whoever else takes checkpoints on this machine: for root one place, for others one each.
pub(super) fn locks() -> PathBuf {
    let user = rustix::process::geteuid();
    if user.is_root() {
        PathBuf::from("/run/cryostore")
    } else {
        std::env::temp_dir().join(format!("cryostore-{}", user.as_raw()))
    }
}

/// Which container, where there are several and somebody can be asked.
fn ask(pod: &Pod, context: &Context) -> Result<Choice, Failure> {
    let running = pod.running();
    let can_ask = stdin().is_terminal() && stderr().is_terminal() && !context.output.json;
    if pod.containers.len() < 2 || running.is_empty() || !can_ask {
        return Ok(Choice::Only);
    }
    let screen = &context.screen;
    screen.report(&format!(
        "Pod {} has these containers:",
        printable(&pod.title())
    ));
    for (n, name) in running.iter().enumerate() {
        screen.report(&format!("  {}  {}", n + 1, printable(name)));
    }
    screen.report("Which one? A number or a name, or `all`:");
    let mut line = String::new();
    stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|e| cryostore_engine::Error::io("standard input", e))?;
    Ok(answered(line.trim(), &running))
}

fn answered(line: &str, running: &[&str]) -> Choice {
    let by_number = line
        .parse::<usize>()
        .ok()
        .and_then(|n| running.get(n.checked_sub(1)?));
    match (line, by_number) {
        ("", _) => Choice::Only,
        ("all", _) => Choice::All,
        // A container may be called `1`.
        (name, None) => Choice::Named(name.to_owned()),
        (name, Some(_)) if running.contains(&name) => Choice::Named(name.to_owned()),
        (_, Some(name)) => Choice::Named((*name).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_number_a_name_or_all() {
        let running = ["app", "1", "log"];
        let named = |name: &str| Choice::Named(name.to_owned());
        for (line, choice) in [
            ("app", named("app")),
            ("3", named("log")),
            ("1", named("1")),
            ("4", named("4")),
            ("0", named("0")),
            ("all", Choice::All),
            ("", Choice::Only),
        ] {
            assert_eq!(answered(line, &running), choice, "{line}");
        }
    }
}
