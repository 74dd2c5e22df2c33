//! Whether a checkpoint can be restored on a node, for `cryostore inspect --node`.

use std::fmt;
use std::path::Path;

use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{CheckpointReader, Error, Kind};
use cryostore_operator::Cluster;
use cryostore_operator::restore::preflight::{Finding, Level, preflight};
use cryostore_operator::restore::{Source, containerd, local, nodes};
use serde::Serialize;

use super::CONTAINERD_ROOT;
use super::report::word;
use crate::context::Context;
use crate::exit::Failure;
use crate::text::printable;

/// The answer.
#[derive(Serialize)]
pub(in crate::commands) struct Judgement {
    node: String,
    can_be_restored: bool,
    findings: Vec<Finding>,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let can = if self.can_be_restored {
            "can be restored, as far as is known"
        } else {
            "cannot be restored"
        };
        writeln!(f, "on node {}: {can}", printable(&self.node))?;
        for finding in &self.findings {
            let text = printable(&finding.text);
            writeln!(f, "  {:<8} {text}", word(finding.level))?;
        }
        Ok(())
    }
}

/// Looks at the node through the cluster's API, and at this machine itself if it is the node.
pub(in crate::commands) fn judge(
    reader: &CheckpointReader<'_>,
    record: &SnapshotRecord,
    node: &str,
    context: &Context,
) -> Result<Judgement, Failure> {
    let monitor = context.monitor();
    let source = Source::read(reader, record)?;
    let cluster = Cluster::connect(None, monitor)?;
    let mut here = local::this_machine(Path::new(CONTAINERD_ROOT));
    here.restores = containerd::restores(&containerd::Settings::default(), monitor).unwrap_or(None);
    let nodes = nodes(&cluster, &here, monitor)?;
    let Some(found) = nodes.iter().find(|one| one.place.name == node) else {
        let names: Vec<&str> = nodes.iter().map(|one| one.place.name.as_str()).collect();
        return Err(
            Error::new(Kind::NotFound, format!("there is no node {node}"))
                .hint(format!("say one of: {}", names.join(", ")))
                .into(),
        );
    };
    let mut findings = preflight(&source, &found.place, true);
    if !found.is_ready || found.is_cordoned {
        findings.push(Finding {
            level: Level::Unsafe,
            what: "node",
            text: format!(
                "node {node} {}",
                if found.is_ready {
                    "is to take no more pods (it is cordoned)"
                } else {
                    "is not Ready"
                }
            ),
            cure: String::new(),
        });
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    Ok(Judgement {
        node: node.to_owned(),
        can_be_restored: findings.iter().all(|finding| finding.level < Level::Unsafe),
        findings,
    })
}
