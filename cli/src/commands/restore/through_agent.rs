//! A restore on a node that is another machine: its agent makes the image, the cluster's API the pod.

use std::time::Duration;

use cryostore_engine::{Error, Kind};
use cryostore_operator::Cluster;
use cryostore_operator::agent::calls::{CleanUpCall, PrepareCall};
use cryostore_operator::agent::client::{self, Remote};
use cryostore_operator::restore::plan::{ClusterView, Wish};
use cryostore_operator::restore::{Source, wait};
use serde_json::Value;

use super::RestoreArgs;
use super::act::{Act, nobody_uses_it, not_made};
use super::report::Done;
use crate::config::known::written_name;
use crate::context::Context;
use crate::exit::Failure;

/// Of another machine its agent knows what counts. Without one, what the API server shows has to do.
pub(super) fn learn(
    cluster: &Cluster,
    (args, wish, source): (&RestoreArgs, &Wish, &Source),
    seen: &mut ClusterView,
    context: &Context,
) {
    let monitor = context.monitor();
    let node = wish.node.as_ref();
    let node = node.unwrap_or(&source.record.identity.node);
    let there = seen.nodes.iter_mut().find(|one| one.place.name == *node);
    let Some(view) = there.filter(|view| !view.is_here || args.agent.is_said()) else {
        return;
    };
    let facts = Remote::find(cluster, node, &args.agent.way(), monitor)
        .and_then(|agent| agent.facts(monitor));
    match facts {
        Ok(facts) => {
            view.place = client::place(&facts);
            view.is_here = false;
        }
        Err(e) => monitor.warning(&format!("less is known of node {node}: {e}")),
    }
}

/// The image into the node's containerd, by its agent, and the pod through the cluster's API.
pub(super) fn pod(
    act: &Act<'_>,
    cluster: &Cluster,
    json: &Value,
    node: &str,
) -> Result<Option<Done>, Failure> {
    let (plan, monitor) = (act.plan, act.context.monitor());
    let namespace = plan.namespace.clone().unwrap_or_default();
    let name = plan.name.clone().unwrap_or_default();
    let agent = Remote::find(cluster, node, &act.args.agent.way(), monitor)?;
    let note = |text: String| act.context.screen.note(&text);
    note(format!("the agent of node {node} makes the image"));
    let call = PrepareCall {
        storage: Some(written_name(act.repo.store().name())),
        snapshot: plan.snapshot.to_string(),
        namespace: namespace.clone(),
        pod: name.clone(),
    };
    let made = agent.prepare_restore(&call, monitor)?;
    if plan.image.as_ref() != Some(&made.image) {
        let text = format!(
            "the agent of node {node} calls the image {}, and the plan does not",
            made.image
        );
        let e = Error::new(Kind::Unsupported, text);
        return Err(e
            .hint("agent and client are to be of the same version")
            .into());
    }
    let uid = match cluster.create_pod(json, monitor) {
        Ok(uid) => uid,
        Err(e) => {
            if nobody_uses_it(act, cluster, (&namespace, &name)) {
                let call = CleanUpCall {
                    image: made.image,
                    namespace,
                    pod: name,
                };
                // Why the pod was not made counts.
                let _ = agent.clean_up(&call, monitor);
            }
            return not_made(act, e);
        }
    };
    let container = &plan.container;
    note(format!(
        "pod {namespace}/{name} was made; waiting until {container} runs"
    ));
    let limit = Duration::from_secs(act.args.timeout);
    let pod = (namespace.as_str(), name.as_str(), uid.as_str());
    wait::until_it_runs(cluster, pod, container, limit, monitor)?;
    Ok(Some(Done {
        text: format!(
            "pod {namespace}/{name} runs on node {node}, container {container} goes on from the checkpoint"
        ),
        digest: Some(made.digest),
        bytes: Some(made.bytes),
        pod_uid: Some(uid),
        stripped: Some(made.stripped),
        ..Done::default()
    }))
}
