//! Owns a checkpoint of a pod that the agent of its node takes: the same order as on the node itself, seen from elsewhere.

use std::time::Duration;

use cryostore_engine::{Env, Result};

use super::calls::{CheckpointCall, Stored};
use super::client::Remote;
use crate::Cluster;
use crate::checkpoint::{Outcome, Step, Taken, Watch, new_group, refuse_stop};
use crate::pod::{Choice, Pod, check_name};

/// How it is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which containers.
    pub choice: Choice,
    /// Time for the runtime, for each container; none: the kubelet's own.
    pub timeout: Option<Duration>,
    /// One of the agent's storages; none: its first.
    pub storage: Option<String>,
    /// Words of the user.
    pub labels: Vec<String>,
    /// The kubelet's archive stays.
    pub keep_archive: bool,
    /// The pod is ended afterwards.
    pub stop: bool,
    /// Also a pod that a controller makes anew.
    pub force: bool,
}

/// Has the containers taken and stored, one after another, and gives where. The first that fails ends it; what was stored before stays.
pub fn take(
    cluster: &Cluster,
    agent: &Remote<'_>,
    pod: &Pod,
    options: &Options,
    env: &dyn Env,
    watch: &dyn Watch,
) -> Result<(Outcome, Option<String>)> {
    let containers = pod.choose(&options.choice)?;
    for name in &containers {
        check_name("container", name)?;
    }
    refuse_stop(pod, options.stop, options.force)?;
    let mut outcome = Outcome {
        group: (options.choice == Choice::All).then(|| new_group(env)),
        taken: Vec::new(),
        failed: None,
        ended: false,
    };
    let mut place = None;
    for container in &containers {
        let call = CheckpointCall {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            container: container.clone(),
            timeout: options.timeout.map(|timeout| timeout.as_secs()),
            labels: options.labels.clone(),
            keep_archive: options.keep_archive,
            group: outcome.group.clone(),
            storage: options.storage.clone(),
        };
        match agent.checkpoint(&call, watch) {
            Ok(stored) => {
                place = Some(stored.storage.clone());
                outcome.taken.push(taken(stored));
            }
            Err(e) => {
                outcome.failed = Some(e);
                return Ok((outcome, place));
            }
        }
    }
    if options.stop {
        match cluster.delete(pod, watch) {
            Ok(()) => {
                outcome.ended = true;
                watch.step(Step::Ended);
            }
            Err(e) => outcome.failed = Some(e),
        }
    }
    Ok((outcome, place))
}

fn taken(stored: Stored) -> Taken {
    Taken {
        container: stored.container,
        snapshot: stored.snapshot,
        archive: stored.archive,
        archive_removed: stored.archive_removed,
        asked_for: Duration::from_millis(stored.asked_for_ms),
    }
}
