//! Owns what commands are told about nodes' agents, and when they are asked.

use std::path::PathBuf;

use clap::Args;
use cryostore_engine::{Error, Kind, Monitor};
use cryostore_operator::agent::NAMESPACE;
use cryostore_operator::agent::client::{Remote, Way};
use cryostore_operator::pod::Pod;
use cryostore_operator::{Cluster, here};

use crate::exit::Failure;

/// The word for the way through the API server.
const THROUGH_THE_API: &str = "cluster";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Agents of nodes")]
pub(crate) struct AgentArgs {
    /// Ask the node's agent, also on the node itself: at this address (https://HOST:PORT), or `cluster`: by port-forward through the API server [default: that, if the node is another machine]
    #[arg(long, value_name = "URL|cluster")]
    agent: Option<String>,
    /// Authority of the agents' certificates, PEM [default: each one's own certificate, as it has published it]
    #[arg(long, value_name = "FILE")]
    agent_ca: Option<PathBuf>,
    /// Namespace of the agents
    #[arg(long, value_name = "NAME", default_value = NAMESPACE)]
    agent_namespace: String,
}

impl AgentArgs {
    /// True if the agent of the pod's node is to do it, and not this process.
    pub(crate) fn is_meant(
        &self,
        cluster: &Cluster,
        pod: &Pod,
        monitor: &dyn Monitor,
    ) -> Result<bool, Failure> {
        if self.agent.is_some() {
            return Ok(true);
        }
        // A pod without a node is refused by whoever chooses its container.
        if pod.node.is_empty() {
            return Ok(false);
        }
        Ok(!here::is_here(&cluster.node(&pod.node, monitor)?.boot_id)?)
    }

    /// It was said that an agent is to be asked.
    pub(crate) const fn is_said(&self) -> bool {
        self.agent.is_some()
    }

    /// The agent of the pod's node.
    pub(crate) fn find<'c>(
        &self,
        cluster: &'c Cluster,
        pod: &Pod,
        monitor: &dyn Monitor,
    ) -> Result<Remote<'c>, Failure> {
        let found = Remote::find(cluster, &pod.node, &self.way(), monitor);
        found.map_err(|e| {
            if self.agent.is_some() || e.kind() != Kind::NotFound {
                return e.into();
            }
            let text = format!(
                "pod {} runs on node {}, and this machine is another one: {e}",
                pod.title(),
                pod.node
            );
            let advice = e.advice().unwrap_or_default().to_owned();
            Error::new(Kind::Unsupported, text).hint(advice).into()
        })
    }

    pub(crate) fn way(&self) -> Way {
        Way {
            namespace: self.agent_namespace.clone(),
            url: self.agent.clone().filter(|said| said != THROUGH_THE_API),
            ca: self.agent_ca.clone(),
        }
    }
}
