//! Owns the end of images that were made for pods: they go when the pods are gone.
//!
//! Always: an image stays while its pod is there, and for ten minutes in which there is none yet; none goes while one of its name is made. (After a restart, it is not known whether there was one.) Never: removes an image where it is not known whether
//! the pod is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cryostore_engine::{Kind, Monitor, Result};
use serde_json::Value;

use super::calls::CleanUpCall;
use super::images::Images;
use super::{Agent, Watcher};
use crate::Cluster;
use crate::restore::containerd::Made;

/// 10 minutes from the image to its pod: a client makes it at once, or not at all.
const ALONE: Duration = Duration::from_secs(600);
/// Between two looks: a list from containerd, and one question for each image.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const STOP_EVERY: Duration = Duration::from_millis(200);

/// What was seen of images and their pods.
#[derive(Debug, Default)]
struct Seen {
    /// Images that are being made.
    making: Vec<String>,
    /// Images whose pods were there.
    used: BTreeSet<String>,
    /// Since when the others are alone.
    alone: BTreeMap<String, Duration>,
}

/// What those who make images and whoever removes them know of each other.
#[derive(Debug, Default)]
pub(crate) struct Sweeping(Mutex<Seen>);

/// An image that is being made, or was made this moment: it stays.
#[derive(Debug)]
pub(crate) struct Making<'s> {
    sweeping: &'s Sweeping,
    image: String,
}

impl Sweeping {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while one is removed, which may be an older one of this name.
    pub(crate) fn make(&self, image: String) -> Making<'_> {
        self.seen().making.push(image.clone());
        Making {
            sweeping: self,
            image,
        }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let mut seen = self.sweeping.seen();
        if let Some(at) = seen.making.iter().position(|one| *one == self.image) {
            seen.making.swap_remove(at);
        }
        // A new one has its time, whatever was seen of an older one.
        seen.forget(&self.image);
    }
}

impl Seen {
    fn forget(&mut self, image: &str) {
        self.used.remove(image);
        self.alone.remove(image);
    }

    /// True if an image is to go, whose pod is there or not.
    fn is_to_go(&mut self, image: &str, has_pod: bool, now: Duration) -> bool {
        if self.making.iter().any(|one| one == image) {
            return false;
        }
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
pub(crate) fn run(agent: &Agent, sweeping: &Sweeping, monitor: &Watcher) {
    let mut next = Duration::ZERO;
    while !monitor.stop() {
        if agent.env.elapsed() >= next {
            if let Err(e) = once(agent, sweeping, monitor) {
                monitor.warning(&format!("images of restores were not looked through: {e}"));
            }
            next = agent.env.elapsed() + LOOK_EVERY;
        }
        std::thread::sleep(STOP_EVERY);
    }
}

/// Looks at each image once. What is in the way of one is not in that of the others; the first error is given back.
fn once(agent: &Agent, sweeping: &Sweeping, monitor: &Watcher) -> Result<()> {
    let (Some(cluster), Some(runtime)) = (agent.gate.cluster(), &agent.images) else {
        return Ok(());
    };
    let monitor = &**monitor;
    let made = runtime.made(monitor)?;
    let images: Vec<&str> = made.iter().map(|one| one.image.as_str()).collect();
    sweeping.seen().keep_only(&images);
    let mut first = Ok(());
    for one in &made {
        if monitor.stop() {
            break;
        }
        let done = has_pod(cluster, one, monitor).and_then(|has_pod| match has_pod {
            Some(has_pod) => sweep(&**runtime, sweeping, one, has_pod, agent, monitor),
            None => Ok(()),
        });
        first = first.and(done);
    }
    first
}

fn sweep(
    runtime: &dyn Images,
    sweeping: &Sweeping,
    one: &Made,
    has_pod: bool,
    agent: &Agent,
    monitor: &dyn Monitor,
) -> Result<()> {
    // Held while it is removed: nobody makes it anew meanwhile.
    let mut seen = sweeping.seen();
    if !seen.is_to_go(&one.image, has_pod, agent.env.elapsed()) {
        return Ok(());
    }
    let call = CleanUpCall {
        image: one.image.clone(),
        namespace: one.namespace.clone(),
        pod: one.pod.clone(),
    };
    runtime.clean_up(&call, monitor)?;
    seen.forget(&one.image);
    Ok(())
}

/// Whether the pod is there, and is of this image; none: this account may not look.
fn has_pod(cluster: &Cluster, of: &Made, monitor: &dyn Monitor) -> Result<Option<bool>> {
    match cluster.pod(&of.namespace, &of.pod, monitor) {
        Ok(pod) => Ok(Some(names_image(&pod.json, &of.image))),
        Err(e) if e.kind() == Kind::NotFound => Ok(Some(false)),
        Err(e) if e.kind() == Kind::Denied => Ok(None),
        Err(e) => Err(e),
    }
}

/// Another pod may have its name by now.
fn names_image(pod: &Value, image: &str) -> bool {
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
        .any(|container| container["image"] == image)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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

    #[test]
    fn an_image_that_is_made_again_after_its_pod_went_stays_for_the_new_pod() {
        let at = Duration::from_secs;
        let sweeping = Sweeping::default();
        let is_to_go = |has_pod, now| sweeping.seen().is_to_go("a", has_pod, at(now));
        assert!(!is_to_go(true, 0));
        let making = sweeping.make("a".to_owned());
        assert!(!is_to_go(false, 5));
        drop(making);
        assert!(!is_to_go(false, 10));
        assert!(!is_to_go(true, 15));
        assert!(is_to_go(false, 20));
    }

    #[test]
    fn a_pod_of_the_name_with_another_image_is_not_the_pod_of_an_image() {
        let pod = json!({"spec": {"containers": [{"image": "nginx"}, {"image": "a"}], "initContainers": [{"image": "b"}]}});
        assert!(names_image(&pod, "a") && names_image(&pod, "b"));
        assert!(!names_image(&pod, "c"));
        assert!(!names_image(&json!({}), "a"));
    }
}
