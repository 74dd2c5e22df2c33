//! Owns which images were made for which pods, so that they go when the pods are gone.
//!
//! Always: an image stays while its pod is there, whatever became of it, and for a while before there is one. Never: removes an image where it is not known
//! whether the pod is gone.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cryostore_engine::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::calls::CleanUpCall;
use super::{Agent, Watcher};

/// 10 minutes from the image to its pod: a client makes it at once, or not at all.
const EARLIEST: i64 = 600;
/// Between two looks; an image that stays a little longer is only disk.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const STOP_EVERY: Duration = Duration::from_millis(200);
const FILE: &str = "images.json";

/// A pod that an image was made for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    namespace: String,
    pod: String,
    /// When it was made: seconds since 1970.
    since: i64,
}

/// Images, by their names.
#[derive(Debug)]
pub struct Used {
    path: PathBuf,
    images: Mutex<BTreeMap<String, Of>>,
}

impl Used {
    /// Reads what an agent before this one has left in `dir`.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let text = std::fs::read(&path).unwrap_or_default();
        Self {
            path,
            images: Mutex::new(serde_json::from_slice(&text).unwrap_or_default()),
        }
    }

    /// To be said before the image is made: what is made and forgotten stays for ever.
    pub(crate) fn add(&self, image: &str, namespace: &str, pod: &str, now: i64) -> Result<()> {
        let of = Of {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            since: now,
        };
        self.change(|images| drop(images.insert(image.to_owned(), of)))
    }

    pub(crate) fn forget(&self, image: &str) -> Result<()> {
        self.change(|images| drop(images.remove(image)))
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Of>)) -> Result<()> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut images);
        let failed = |e: std::io::Error| {
            Error::io(self.path.display(), e).hint("--state names a folder of the agent's")
        };
        let dir = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        let text = serde_json::to_vec(&*images).unwrap_or_default();
        file.write_all(&text).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&self.path).map_err(|e| failed(e.error))?;
        Ok(())
    }
}

/// True if the pod, which is there, is made of this image.
fn uses(pod: &Value, image: &str) -> bool {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    containers
        .into_iter()
        .flatten()
        .any(|container| container["image"] == image)
}

/// Removes images whose pods are gone, until the monitor wants it to stop.
pub(crate) fn sweep(agent: &Agent, monitor: &Watcher) {
    let mut next = Duration::ZERO;
    while !monitor.stop() {
        if agent.env.elapsed() >= next {
            once(agent, monitor);
            next = agent.env.elapsed() + LOOK_EVERY;
        }
        std::thread::sleep(STOP_EVERY);
    }
}

fn once(agent: &Agent, monitor: &Watcher) {
    let (Some(cluster), Some(runtime)) = (agent.gate.cluster(), &agent.images) else {
        return;
    };
    let images = {
        let images = agent
            .used
            .images
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        images.clone()
    };
    let now = agent.env.now().as_second();
    for (image, of) in images {
        if now < of.since + EARLIEST {
            continue;
        }
        let is_gone = match cluster.pod(&of.namespace, &of.pod, &**monitor) {
            Ok(pod) => !uses(&pod.json, &image),
            Err(e) => e.kind() == Kind::NotFound,
        };
        if !is_gone {
            continue;
        }
        let call = CleanUpCall {
            image,
            namespace: of.namespace,
            pod: of.pod,
        };
        let done = runtime.clean_up(&call, &**monitor);
        match done.and_then(|_| agent.used.forget(&call.image)) {
            Ok(()) => {}
            Err(e) => monitor.warning(&format!("{} stays for now: {e}", call.image)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_made_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let used = Used::open(&state);
        used.add("a", "shop", "web", 7).unwrap();
        used.add("b", "shop", "db", 8).unwrap();
        used.forget("a").unwrap();
        let again = Used::open(&state);
        let images = again.images.lock().unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!((images["b"].pod.as_str(), images["b"].since), ("db", 8));
    }

    #[test]
    fn a_pod_uses_an_image_only_by_its_whole_name() {
        let pod = json!({"spec": {"containers": [{"image": "x"}, {"image": "localhost/a:1"}]}});
        assert!(uses(&pod, "localhost/a:1"));
        assert!(!uses(&pod, "localhost/a"));
        assert!(!uses(&json!({}), ""));
    }
}
