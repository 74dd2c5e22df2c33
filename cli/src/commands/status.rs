//! `cryostore status`

mod nodes;
mod storages;

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use cryostore_operator::KubeletTls;
use serde::Serialize;

use super::agent_args::AgentArgs;
use crate::context::Context;
use crate::exit::Failure;

/// Show the known storages and the cluster's nodes: whether they answer, and what they can
///
/// Storages: KEY is what opened it; SIZE the archives together, ADDED what the store grew by when they were imported; FREE is the room on the disk of a directory. The default is marked with *. A storage that does not
/// answer within 15 seconds stays in the table, with the reason below it.
///
/// Nodes: CHECKPOINTS is whether the kubelet takes them, RESTORE whether the container runtime gives them back; ARCHIVES and FREE are of the kubelet's folder. What only a node's agent knows (`cryostore serve-node`)
/// is unknown without one; with --json each fact has its source. With --storage, of that storage only, and no cluster is asked.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore status
  cryostore status --storage s3://clouder-checkpoints/
  cryostore status --json")]
pub(crate) struct StatusArgs {
    /// Authorities of the kubelets' certificates, PEM, for nodes without an agent [default: the kubeconfig's]
    #[arg(long, value_name = "FILE", conflicts_with = "kubelet_insecure_tls")]
    kubelet_ca: Option<PathBuf>,
    /// Do not look at the kubelets' certificates: whoever sits between reads the token
    #[arg(long)]
    kubelet_insecure_tls: bool,
    #[command(flatten)]
    agent: AgentArgs,
}

/// One field for each section.
#[derive(Serialize)]
struct Report {
    storages: storages::Section,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<nodes::Section>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.storages.fmt(f)?;
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        if !self.storages.is_empty() {
            writeln!(f)?;
        }
        cluster.fmt(f)
    }
}

pub(crate) fn run(args: &StatusArgs, context: &Context) -> Result<(), Failure> {
    let storages = storages::look(context)?;
    let tls = KubeletTls {
        ca: args.kubelet_ca.clone(),
        insecure: args.kubelet_insecure_tls,
    };
    let cluster = match context.flags.storage {
        Some(_) => None,
        None => nodes::look(&args.agent, &tls, context)?,
    };
    let report = Report { storages, cluster };
    if report.storages.is_empty() {
        context.screen.note(
            "no storage is known yet; `cryostore configure --storage DIR|URL` names the default",
        );
    }
    context.output.show(&report)
}
