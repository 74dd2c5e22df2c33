//! `cryostore restore`

mod act;
mod judge;
mod report;
mod through_agent;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use cryostore_engine::{CheckpointReader, Error, Filter, Kind};
use cryostore_operator::Cluster;
use cryostore_operator::restore::containerd::Settings;
use cryostore_operator::restore::plan::{Driver, Observed, Wish, plan};
use cryostore_operator::restore::pod_again::RestartPolicy;
use cryostore_operator::restore::{Source, containerd, local, look};

use self::act::Act;
pub(super) use self::judge::{Judgement, judge};
use self::report::Report;
use super::agent_args::AgentArgs;
use crate::context::Context;
use crate::exit::Failure;
use crate::storages::Search;

/// Where the archive is unpacked on its way: memory, so not where others look, and large, so not in /tmp.
const SPOOL: &str = "/var/tmp";
/// Where containerd keeps images and what it unpacks of them.
const CONTAINERD_ROOT: &str = "/var/lib/containerd";
/// Plans: each that fails since a name was taken has made an image, and four at once are more than anybody starts.
const TRIES: usize = 4;
/// Where containerd listens.
const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Let a stored container go on from where it was
///
/// An archive of containerd becomes a pod: its image is put into the node's containerd, and the pod that was stored with it is made again through the cluster's API, without what belonged to
/// the old one alone. The old pod and its node may be gone. An archive of Podman is restored by Podman, and a plain dump by CRIU, on this machine. With --to, it is written to a place instead: the
/// archive, its files, or an OCI image. --dry-run prints the plan, with all that speaks against it, and does nothing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore restore 3f9a2b1c --dry-run
  cryostore restore 3f9a2b1c
  cryostore restore 3f9a2b1c --node worker-2 --namespace shop --name web-again
  cryostore restore 3f9a2b1c --driver archive --to checkpoint.tar
  cryostore restore 3f9a2b1c --driver directory --to images/
  cryostore restore 3f9a2b1c --to oci:layout/
  cryostore restore 3f9a2b1c --to docker://registry.example/team/web:3f9a2b1c --yes")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "flags of a command line are bools"
)]
pub(crate) struct RestoreArgs {
    /// `latest`, an id, or at least four of its first characters; STORAGE#ID of another storage
    #[arg(value_name = "ID|latest|PREFIX")]
    snapshot: String,
    /// The node [default: the one that it was on]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The namespace [default: the one that the memory is of; another one needs --allow-cross-namespace]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Another name [default: its own, or with `-restored-` and the id's beginning where that is taken]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The way to do it [default: by whose archive it is, and by --to]
    #[arg(long, value_name = "DRIVER")]
    driver: Option<DriverArg>,
    /// Whether the container is started again when it ends; it begins at the checkpoint each time
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "Never",
        ignore_case = true
    )]
    restart_policy: PolicyArg,
    /// Where to write: PATH, docker:CONTAINER, oci:DIR, docker://HOST/NAME:TAG, or containerd:NAME of this machine
    #[arg(long, value_name = "PLACE")]
    to: Option<String>,
    /// Print the plan and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do what is unsafe as far as is known; what was overruled is written into the pod
    #[arg(long)]
    force: bool,
    /// Into another namespace than the one that the memory is of
    #[arg(long)]
    allow_cross_namespace: bool,
    /// Do not ask before memory goes to a registry in clear text
    #[arg(long)]
    yes: bool,
    /// How long the container may take until it runs
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Podman: ports of the container, as `podman run --publish` takes them
    #[arg(long, value_name = "PORTS")]
    publish: Vec<String>,
    /// Podman: take up established TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// CRIU: one more option for `criu restore`, such as --criu-option=--ext-unix-sk; repeat it for more
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    criu_option: Vec<String>,
    /// The registry speaks HTTP without TLS; a registry on this machine's loopback may without it
    #[arg(long)]
    plain_http: bool,
    /// Where containerd listens
    #[arg(long, value_name = "SOCKET", default_value = CONTAINERD)]
    containerd: PathBuf,
    /// containerd's snapshotter
    #[arg(long, value_name = "NAME", default_value = "overlayfs")]
    snapshotter: String,
    /// Where it is unpacked on its way to Podman or CRIU
    #[arg(long, value_name = "DIR", default_value = SPOOL)]
    spool: PathBuf,
    #[command(flatten)]
    agent: AgentArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DriverArg {
    /// The archive byte for byte, as a file
    Archive,
    /// Its files, in a directory
    Directory,
    /// An OCI image, as a layout or in a registry
    OciImage,
    /// An image in the node's containerd, and a pod
    Containerd,
    /// Podman on this machine
    Podman,
    /// CRIU on this machine
    Criu,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PolicyArg {
    #[value(name = "Never")]
    Never,
    #[value(name = "OnFailure")]
    OnFailure,
    #[value(name = "Always")]
    Always,
}

impl PolicyArg {
    const fn starts_again(self) -> bool {
        matches!(self, Self::OnFailure | Self::Always)
    }
}

impl RestoreArgs {
    fn settings(&self) -> Settings {
        Settings {
            socket: self.containerd.clone(),
            snapshotter: self.snapshotter.clone(),
        }
    }

    fn wish(&self) -> Wish {
        Wish {
            node: self.node.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            driver: self.driver.map(|driver| match driver {
                DriverArg::Archive => Driver::Archive,
                DriverArg::Directory => Driver::Directory,
                DriverArg::OciImage => Driver::OciImage,
                DriverArg::Containerd => Driver::Containerd,
                DriverArg::Podman => Driver::Podman,
                DriverArg::Criu => Driver::Criu,
            }),
            restart: match self.restart_policy {
                PolicyArg::Never => RestartPolicy::Never,
                PolicyArg::OnFailure => RestartPolicy::OnFailure,
                PolicyArg::Always => RestartPolicy::Always,
            },
            to: self.to.clone(),
            force: self.force,
            allow_cross_namespace: self.allow_cross_namespace,
        }
    }
}

pub(crate) fn run(args: &RestoreArgs, context: &Context) -> Result<(), Failure> {
    let monitor = context.monitor();
    let wish = args.wish();
    let (repo, found) = Search::new(context)?.snapshot(&args.snapshot, &Filter::default())?;
    let record = &found.snapshot;
    let source = Source::read(&CheckpointReader::open(&repo, record)?, record)?;
    let driver = wish
        .driver
        .unwrap_or_else(|| Driver::probe(source.family, wish.to.as_deref()));
    let mut observed = Observed {
        here: local::this_machine(match driver {
            Driver::Containerd => Path::new(CONTAINERD_ROOT),
            _ => &args.spool,
        }),
        cluster: None,
    };
    let cluster = match driver {
        Driver::Containerd => Some(Cluster::connect(None, monitor)?),
        _ => None,
    };
    if let Some(cluster) = &cluster {
        // Where containerd is not here, or does not say, its version decides.
        observed.here.restores = containerd::restores(&args.settings(), monitor).unwrap_or(None);
        let mut seen = look(cluster, &source, &wish, &observed.here, monitor)?;
        through_agent::learn(cluster, (args, &wish, &source), &mut seen, context);
        observed.cluster = Some(seen);
    }
    for _ in 0..TRIES {
        let plan = plan(&source, &wish, &observed)?;
        if args.dry_run {
            // The whole of it is the answer, also where it says no.
            return context
                .output
                .show(&Report::of_plan(&source, &plan, found.id_len));
        }
        context
            .screen
            .report(&Report::of_plan(&source, &plan, found.id_len).to_string());
        plan.check(args.force)?;
        let done = act::act(&Act {
            args,
            context,
            repo: &repo,
            source: &source,
            plan: &plan,
            cluster: cluster.as_ref(),
        })?;
        if let Some(done) = done {
            context.screen.clear();
            return context
                .output
                .show(&Report::of_done(&source, &plan, done, found.id_len));
        }
        if let (Some(seen), Some(name)) = (&mut observed.cluster, plan.name) {
            context
                .screen
                .note(&format!("somebody took the name {name} meanwhile"));
            seen.taken.insert(name);
        }
    }
    Err(Error::new(
        Kind::Conflict,
        "whichever name was tried for the pod, somebody else took it",
    )
    .hint("say one with --name NAME")
    .into())
}
