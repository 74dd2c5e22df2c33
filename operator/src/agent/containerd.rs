//! Owns what the agent does with this node's containerd for a restore: the image of a snapshot, the base image that it stands on, and their end.
//!
//! Always: an image has the name that belongs to its pod and snapshot, whatever the caller says; so nobody can put memory in the place of another image.
//! Never: makes a call that creates, starts or ends a container.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{CheckpointReader, Env, Error, Kind, Monitor, Repository, Result};

use super::calls::{CleanUpCall, CleanedUp, PrepareCall, PreparedImage};
use super::images::Images;
use crate::restore::Source;
use crate::restore::containerd::{self, Made, NodeContent, Settings, image_name};
use crate::restore::registry::Registry;

/// containerd, and a registry on the loopback address that gives it base images which it could not fetch.
#[derive(Debug)]
pub struct Containerd {
    settings: Settings,
    registry: Registry,
    env: Arc<dyn Env>,
    /// Names of base images, by those of the images that stand on them.
    bases: Mutex<BTreeMap<String, String>>,
}

impl Containerd {
    /// None: no containerd listens there. `port`: of the registry; containerd asks there again whenever a restored container is started again, so it is to
    /// be the same after a restart.
    pub fn start(settings: Settings, port: u16, env: Arc<dyn Env>) -> Result<Option<Self>> {
        if !Path::new(&settings.socket).exists() {
            return Ok(None);
        }
        let registry = Registry::start(NodeContent(settings.clone()), port)?;
        Ok(Some(Self {
            settings,
            registry,
            env,
            bases: Mutex::default(),
        }))
    }
}

impl Images for Containerd {
    fn prepare(
        &self,
        repo: &Repository,
        snapshot: &SnapshotRecord,
        call: &PrepareCall,
        monitor: &dyn Monitor,
    ) -> Result<PreparedImage> {
        let source = Source::read(&CheckpointReader::open(repo, snapshot)?, snapshot)?;
        let name = image_name(&call.namespace, &call.pod, &snapshot.id.to_string());
        let registry = Some(&self.registry);
        let env = &*self.env;
        let made =
            containerd::prepare(repo, &source, registry, &self.settings, &name, env, monitor)?;
        if let Some(base) = made.base {
            let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
            bases.insert(name, base);
        }
        Ok(PreparedImage {
            image: made.image,
            digest: made.digest,
            bytes: made.bytes,
            stripped: made.stripped,
        })
    }

    fn made(&self, monitor: &dyn Monitor) -> Result<Vec<Made>> {
        containerd::made(&self.settings, monitor)
    }

    fn restores(&self, monitor: &dyn Monitor) -> Result<Option<bool>> {
        containerd::restores(&self.settings, monitor)
    }

    fn clean_up(&self, call: &CleanUpCall, monitor: &dyn Monitor) -> Result<CleanedUp> {
        let of_pod = image_name(&call.namespace, &call.pod, "");
        if !call.image.starts_with(&of_pod) {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "{} is not an image of pod {}/{}",
                    call.image, call.namespace, call.pod
                ),
            )
            .hint("only images that were made for a restore are removed"));
        }
        let removed = containerd::clean_up(&self.settings, &call.image, monitor)?;
        let base = {
            let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
            bases.remove(&call.image)
        };
        if let Some(base) = base {
            containerd::forget_base(&self.settings, &base, monitor)?;
        }
        Ok(CleanedUp { removed })
    }
}
