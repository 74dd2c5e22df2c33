//! The section of `status` on the cluster's nodes.

use std::fmt;

use cryostore_engine::Kind;
use cryostore_operator::agent::survey::{Fact, Surveyed, survey};
use cryostore_operator::{Cluster, KubeletTls};
use serde::Serialize;

use crate::commands::agent_args::AgentArgs;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::Output;
use crate::text::{Column, Table, printable, size};

#[derive(Serialize)]
pub(super) struct Section {
    /// Why nothing is known of the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    nodes: Vec<Surveyed>,
    #[serde(skip)]
    width: Option<usize>,
}

/// None where no cluster is configured.
pub(super) fn look(
    agents: &AgentArgs,
    tls: &KubeletTls,
    context: &Context,
) -> Result<Option<Section>, Failure> {
    let monitor = context.monitor();
    let asked = Cluster::connect(None, monitor).and_then(|cluster| {
        context.screen.note("asking the cluster's nodes");
        survey(&cluster, &agents.way(), tls, monitor)
    });
    let (error, nodes) = match asked {
        Ok(nodes) => (None, nodes),
        Err(e) if e.kind() == Kind::Interrupted => return Err(e.into()),
        Err(e) if is_no_cluster(&e) => return Ok(None),
        Err(e) => (Some(Failure::from(e).text()), Vec::new()),
    };
    Ok(Some(Section {
        error,
        nodes,
        width: Output::width(),
    }))
}

fn is_no_cluster(e: &cryostore_engine::Error) -> bool {
    e.kind() == Kind::NotFound && e.to_string().starts_with("no cluster is configured")
}

/// A value, or that it is not known and why; a long why stands below the table.
fn cell(fact: &Fact) -> String {
    match &fact.value {
        Some(value) => printable(value),
        None if fact.source.len() <= 30 => format!("unknown ({})", printable(&fact.source)),
        None => "unknown".to_owned(),
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            return writeln!(f, "nodes: {}", printable(error));
        }
        let columns = [
            Column::Name("NODE"),
            Column::Left("READY"),
            Column::Left("KUBELET"),
            Column::Left("CHECKPOINTS"),
            Column::Name("RUNTIME"),
            Column::Name("KERNEL"),
            Column::Left("CRIU"),
            Column::Left("RESTORE"),
            Column::Right("ARCHIVES"),
            Column::Right("FREE"),
        ];
        let mut table = Table::new(columns, self.width);
        for node in &self.nodes {
            let none = || "-".to_owned();
            let (archives, free) = match &node.folder {
                Some(folder) => (
                    format!("{} ({})", folder.archives, size(folder.bytes)),
                    folder.free_bytes.map_or_else(none, size),
                ),
                None => ("unknown (no agent)".to_owned(), none()),
            };
            table.row([
                printable(&node.node),
                cell(&node.ready),
                cell(&node.kubelet),
                cell(&node.checkpoints),
                cell(&node.runtime),
                cell(&node.kernel),
                cell(&node.criu),
                cell(&node.restore),
                archives,
                free,
            ]);
        }
        table.fmt(f)?;
        for node in &self.nodes {
            let name = printable(&node.node);
            for (what, fact) in [
                ("checkpoints", &node.checkpoints),
                ("restore", &node.restore),
            ] {
                // What is as it should be needs no line.
                if fact.value.as_deref() == Some("on") || fact.source == "no agent" {
                    continue;
                }
                let value = fact.value.as_deref().unwrap_or("unknown");
                write!(f, "{name}: {what} {value}: {}", printable(&fact.source))?;
                match &fact.cure {
                    Some(cure) => writeln!(f, "; {}", printable(cure))?,
                    None => writeln!(f)?,
                }
            }
            if let Some(why) = &node.no_agent
                && node.restore.source != "no agent"
            {
                writeln!(f, "{name}: {}", printable(why))?;
            }
            for warning in &node.warnings {
                writeln!(f, "{name}: {}", printable(warning))?;
            }
        }
        Ok(())
    }
}
