//! Owns the end of images that were made for pods: they go when the pods are gone.
//!
//! Always: an image stays while its pod is there, and for ten minutes in which there is none yet. Never: removes an image where it is not known whether
//! the pod is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use cryostore_engine::Result;

use super::calls::CleanUpCall;
use super::{Agent, Watcher};

/// 10 minutes from the image to its pod: a client makes it at once, or not at all.
const ALONE: Duration = Duration::from_secs(600);
/// Between two looks; an image that stays a little longer is only disk.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const STOP_EVERY: Duration = Duration::from_millis(200);

/// Since when each image is without its pod.
#[derive(Debug, Default)]
struct Lonely(BTreeMap<String, Duration>);

impl Lonely {
    /// Those that have been alone for long enough, of these that are alone now.
    fn ripe(&mut self, alone: &[String], now: Duration) -> Vec<String> {
        self.0.retain(|image, _| alone.contains(image));
        let mut ripe = Vec::new();
        for image in alone {
            let since = *self.0.entry(image.clone()).or_insert(now);
            if now.saturating_sub(since) >= ALONE {
                ripe.push(image.clone());
            }
        }
        ripe
    }
}

/// Until the monitor wants it to stop.
pub(crate) fn run(agent: &Agent, monitor: &Watcher) {
    let mut lonely = Lonely::default();
    let mut next = Duration::ZERO;
    while !monitor.stop() {
        if agent.env.elapsed() >= next {
            if let Err(e) = once(agent, monitor, &mut lonely) {
                monitor.warning(&format!("images of restores were not looked through: {e}"));
            }
            next = agent.env.elapsed() + LOOK_EVERY;
        }
        std::thread::sleep(STOP_EVERY);
    }
}

fn once(agent: &Agent, monitor: &Watcher, lonely: &mut Lonely) -> Result<()> {
    let (Some(cluster), Some(runtime)) = (agent.gate.cluster(), &agent.images) else {
        return Ok(());
    };
    let monitor = &**monitor;
    let made = runtime.made(monitor)?;
    let mut alone = Vec::new();
    for one in &made {
        if cluster.has_pod(&one.namespace, &one.pod, monitor)? == Some(false) {
            alone.push(one.image.clone());
        }
    }
    let ripe = lonely.ripe(&alone, agent.env.elapsed());
    for one in made.iter().filter(|one| ripe.contains(&one.image)) {
        let call = CleanUpCall {
            image: one.image.clone(),
            namespace: one.namespace.clone(),
            pod: one.pod.clone(),
        };
        runtime.clean_up(&call, monitor)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_goes_after_ten_minutes_without_its_pod_and_not_before() {
        let at = Duration::from_secs;
        let both = ["a".to_owned(), "b".to_owned()];
        let mut lonely = Lonely::default();
        assert!(lonely.ripe(&both, at(0)).is_empty());
        assert!(lonely.ripe(&both, at(599)).is_empty());
        // The pod of `b` came, and went again.
        assert!(lonely.ripe(&both[..1], at(599)).is_empty());
        assert_eq!(lonely.ripe(&both, at(600)), ["a"]);
        assert_eq!(lonely.ripe(&both, at(1200)), ["a", "b"]);
    }
}
