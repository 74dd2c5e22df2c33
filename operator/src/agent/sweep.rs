//! Owns the end of images that were made for pods: they go when the pods are gone.
//!
//! Always: an image stays while its pod is there, and for ten minutes in which there is none yet. (After a restart, it is not known whether there was one.) Never: removes an image where it is not known whether
//! the pod is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cryostore_engine::Result;

use super::calls::CleanUpCall;
use super::{Agent, Watcher};

/// 10 minutes from the image to its pod: a client makes it at once, or not at all.
const ALONE: Duration = Duration::from_secs(600);
/// Between two looks: a list from containerd, and one question for each image.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const STOP_EVERY: Duration = Duration::from_millis(200);

/// What was seen of images and their pods.
#[derive(Debug, Default)]
struct Seen {
    /// Images whose pods were there.
    used: BTreeSet<String>,
    /// Since when the others are alone.
    alone: BTreeMap<String, Duration>,
}

impl Seen {
    /// True if an image is to go, whose pod is there or not.
    fn is_to_go(&mut self, image: &str, has_pod: bool, now: Duration) -> bool {
        if has_pod {
            self.used.insert(image.to_owned());
            self.alone.remove(image);
            return false;
        }
        let since = *self.alone.entry(image.to_owned()).or_insert(now);
        self.used.contains(image) || now.saturating_sub(since) >= ALONE
    }

    /// Forgets images that are gone: one of the same name may come.
    fn keep_only(&mut self, images: &[&str]) {
        self.used.retain(|image| images.contains(&image.as_str()));
        self.alone
            .retain(|image, _| images.contains(&image.as_str()));
    }
}

/// Until the monitor wants it to stop.
pub(crate) fn run(agent: &Agent, monitor: &Watcher) {
    let mut seen = Seen::default();
    let mut next = Duration::ZERO;
    while !monitor.stop() {
        if agent.env.elapsed() >= next {
            if let Err(e) = once(agent, monitor, &mut seen) {
                monitor.warning(&format!("images of restores were not looked through: {e}"));
            }
            next = agent.env.elapsed() + LOOK_EVERY;
        }
        std::thread::sleep(STOP_EVERY);
    }
}

fn once(agent: &Agent, monitor: &Watcher, seen: &mut Seen) -> Result<()> {
    let (Some(cluster), Some(runtime)) = (agent.gate.cluster(), &agent.images) else {
        return Ok(());
    };
    let monitor = &**monitor;
    let made = runtime.made(monitor)?;
    let images: Vec<&str> = made.iter().map(|one| one.image.as_str()).collect();
    seen.keep_only(&images);
    for one in &made {
        let Some(has_pod) = cluster.has_pod(&one.namespace, &one.pod, monitor)? else {
            continue;
        };
        if !seen.is_to_go(&one.image, has_pod, agent.env.elapsed()) {
            continue;
        }
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
    fn an_image_goes_with_its_pod_and_one_that_never_had_a_pod_after_ten_minutes() {
        let at = Duration::from_secs;
        let mut seen = Seen::default();
        assert!(!seen.is_to_go("a", true, at(0)));
        assert!(seen.is_to_go("a", false, at(5)));
        assert!(!seen.is_to_go("b", false, at(5)));
        assert!(!seen.is_to_go("b", false, at(604)));
        assert!(seen.is_to_go("b", false, at(605)));
        // A new one of the same name has its time again.
        seen.keep_only(&[]);
        assert!(!seen.is_to_go("a", false, at(700)));
        assert!(!seen.is_to_go("b", false, at(700)));
    }
}
