//! `cryostore serve-node`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use cryostore_engine::{Error, Kind, Monitor, Repository};
use cryostore_operator::agent::containerd::Containerd;
use cryostore_operator::agent::images::Images;
use cryostore_operator::agent::{
    Agent, Audit, Gate, Ledger, NAMESPACE, Options, Stores, TlsFiles, Watching, serve,
};
use cryostore_operator::restore::containerd::Settings;
use cryostore_operator::{Cluster, KubeletTls, archive, here};
use serde::Serialize;

use super::checkpoint::locks;
use crate::config::known::written_name;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Document, Output};

/// Run on a node, and take checkpoints of its pods for those who may have them
///
/// Serves over TLS: facts of the node, checkpoints of its pods (by its kubelet, stored with this agent's storage and key), and images of checkpoints for restores. The API server says who asks and what
/// they may: tokens and client certificates of the cluster are taken, and docs/agent.md lists the rights. `cryostore checkpoint` and `cryostore status` find agents by themselves; deploy/agent.yaml runs one on
/// each node.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore serve-node --storage s3://clouder-checkpoints/team-a
  cryostore serve-node --watch --adopt --state /var/lib/cryostore --audit-log /var/log/cryostore-audit.log
  cryostore serve-node --token-file /etc/cryostore/token --listen 10.0.0.5:10350")]
pub(crate) struct ServeNodeArgs {
    /// Where to listen; the way through the API server ends on the loopback address of the agent's pod
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10350")]
    listen: SocketAddr,
    /// Certificate, PEM [default: the agent makes one, and publishes it]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Name of this node in the cluster [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Namespace of the ConfigMap cryostore-agents, in which the agent publishes the certificate that it made
    #[arg(long, value_name = "NAME", default_value = NAMESPACE)]
    agent_namespace: String,
    /// Where the kubelet of this node leaves archives
    #[arg(long, value_name = "DIR", default_value = archive::DEFAULT_FOLDER)]
    checkpoints_dir: PathBuf,
    /// Where the kubelet of this node is asked
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    kubelet_address: String,
    /// Authorities of the kubelet's certificate, PEM [default: the kubeconfig's]
    #[arg(long, value_name = "FILE", conflicts_with = "kubelet_insecure_tls")]
    kubelet_ca: Option<PathBuf>,
    /// Do not look at the kubelet's certificate: whoever sits between reads the agent's token
    #[arg(long)]
    kubelet_insecure_tls: bool,
    /// Where the node's configuration files are, such as etc/containerd/config.toml
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    /// Store every archive in the kubelet's folder that is whole, whoever asked for it; once
    #[arg(long)]
    watch: bool,
    /// With --watch: remove archives that are stored also if others asked for them; a file .keep or ARCHIVE.keep marks those that are to stay
    #[arg(long, requires = "watch")]
    adopt: bool,
    /// Where the agent remembers which archives are stored
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cryostore")]
    state: PathBuf,
    /// Outside of Kubernetes: whoever has the token in this file may do all that needs no cluster
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Where containerd listens, whose images restores are made of; where nothing does, there are no restores here
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/containerd/containerd.sock"
    )]
    containerd: PathBuf,
    /// containerd's snapshotter
    #[arg(long, value_name = "NAME", default_value = "overlayfs")]
    snapshotter: String,
    /// Port on the loopback address where containerd gets base images that it cannot fetch by itself
    #[arg(long, value_name = "PORT", default_value_t = 10351)]
    registry_port: u16,
    /// File to which each call is appended, a JSON document a line [default: standard error]
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
}

/// The one repository of this process's settings, opened for each call: keys may be renewed meanwhile.
#[derive(Debug)]
struct Served {
    context: Context,
    name: String,
}

impl Stores for Served {
    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }

    fn open(&self, _: &str) -> cryostore_engine::Result<Repository> {
        self.context.repository().map_err(|failure| match failure {
            Failure::Engine(e) => e,
            other => {
                let e = Error::new(Kind::Invalid, other.text());
                match other.advice() {
                    Some(advice) => e.hint(advice),
                    None => e,
                }
            }
        })
    }
}

#[derive(Serialize)]
struct Ready {
    address: SocketAddr,
    node: String,
    storage: String,
    /// What a client trusts, if the agent made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
}

pub(crate) fn run(args: ServeNodeArgs, context: &Context) -> Result<(), Failure> {
    let monitor = context.monitor();
    // A storage that cannot be opened is noticed now, and not when somebody's container stands still.
    drop(context.repository()?);
    let name = written_name(&context.settings()?.0);
    let (gate, node) = match &args.token_file {
        Some(path) => (of_token_file(path)?, args.node.unwrap_or_default()),
        None => {
            let cluster = Cluster::connect(None, monitor)?;
            let node = args.node.map_or_else(host_name, Ok)?;
            check_node(&cluster, &node, monitor)?;
            (Gate::Cluster(Box::new(cluster)), node)
        }
    };
    let options = Options {
        listen: args.listen,
        tls: args
            .tls_cert
            .zip(args.tls_key)
            .map(|(certificate, key)| TlsFiles { certificate, key }),
        namespace: Some(args.agent_namespace),
        node: node.clone(),
        kubelet_at: args.kubelet_address,
        kubelet: KubeletTls {
            ca: args.kubelet_ca,
            insecure: args.kubelet_insecure_tls,
        },
        folder: args.checkpoints_dir,
        locks: locks(),
        root: args.host_root,
    };
    let watching = match args.watch {
        true => Some(Watching {
            ledger: Ledger::open(&args.state)?,
            adopts: args.adopt,
        }),
        false => None,
    };
    let settings = Settings {
        socket: args.containerd,
        snapshotter: args.snapshotter,
    };
    let containerd = Containerd::start(settings, args.registry_port, Arc::clone(&context.env))?;
    let agent = Agent {
        options,
        gate,
        stores: Box::new(Served {
            context: context.clone(),
            name: name.clone(),
        }),
        images: containerd.map(|images| Box::new(images) as Box<dyn Images>),
        watching,
        audit: Audit::open(args.audit_log.as_deref())?,
        env: Arc::clone(&context.env),
    };
    let watcher = Arc::clone(&context.screen);
    serve(Arc::new(agent), watcher, |ready| {
        let ready = Ready {
            address: ready.address,
            node: node.clone(),
            storage: name.clone(),
            certificate: ready.certificate.clone(),
        };
        if context.output.json {
            // Whoever started it waits for this line; if nobody does, it serves all the same.
            drop(Output::bytes((Document::line(&ready) + "\n").as_bytes()));
        } else {
            context.screen.note(&format!(
                "the agent of {} listens at {}, and stores in {}",
                if node.is_empty() {
                    "this machine"
                } else {
                    &node
                },
                ready.address,
                ready.storage
            ));
        }
    })?;
    Ok(())
}

/// In a cluster, a token that the API server does not know would be a way around it.
fn of_token_file(path: &std::path::Path) -> Result<Gate, Failure> {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Err(Failure::usage(
            "--token-file is for machines outside of Kubernetes, and this is a pod",
            "leave it out: callers are known by the cluster's tokens and certificates",
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path.display(), e))?;
    let token = text.trim();
    if token.len() < 16 {
        return Err(Failure::usage(
            format!("{}: a token has at least 16 characters", path.display()),
            "make one with: openssl rand -hex 32",
        ));
    }
    Ok(Gate::token(token))
}

fn host_name() -> Result<String, Failure> {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase();
    if name.is_empty() {
        return Err(Failure::usage(
            "this machine has no host name",
            "say the node's name with --node",
        ));
    }
    Ok(name)
}

/// A name is believed only if the kernel that runs here is the node's.
fn check_node(cluster: &Cluster, name: &str, monitor: &dyn Monitor) -> Result<(), Failure> {
    let node = cluster.node(name, monitor)?;
    if here::is_here(&node.boot_id)? {
        return Ok(());
    }
    Err(Error::new(
        Kind::Conflict,
        format!("this machine is not node {name}: another kernel runs there"),
    )
    .hint("say with --node what `kubectl get nodes` calls this machine; right after it has started, wait until its kubelet has reported")
    .into())
}
