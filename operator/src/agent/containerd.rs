//! Owns what the agent does with this node's containerd for a restore: the image of a snapshot, the base image that it stands on, and their end.
//!
//! Always: an image has the name that belongs to its pod and snapshot, whatever the caller says; so nobody can put memory in the place of another image.
//! Never: makes a call that creates, starts or ends a container.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{
    CheckpointReader, Deadline, Env, Error, Kind, Monitor, Repository, Result, Silent,
};

use super::calls::{CleanUpCall, CleanedUp, PrepareCall, PreparedImage};
use super::images::Images;
use crate::restore::Source;
use crate::restore::containerd::{self, Made, NodeContent, Settings, image_name};
use crate::restore::registry::Registry;

/// 10 s for a containerd that starts as well.
const STARTING: Duration = Duration::from_secs(10);

/// containerd, and a registry on the loopback address that gives it base images which it could not fetch.
#[derive(Debug)]
pub struct Containerd {
    settings: Settings,
    registry: Registry,
    env: Arc<dyn Env>,
    /// What the registry gives is found out and changed by one at a time.
    admitting: Mutex<()>,
}

impl Containerd {
    /// None: no containerd listens there. `port`: of the registry; containerd asks there again whenever a restored container is started again, so it is to
    /// be the same after a restart.
    pub fn start(settings: Settings, port: u16, env: Arc<dyn Env>) -> Result<Option<Self>> {
        if !Path::new(&settings.socket).exists() {
            return Ok(None);
        }
        let registry = Registry::start(NodeContent(settings.clone()), port)?;
        let this = Self {
            settings,
            registry,
            env,
            admitting: Mutex::default(),
        };
        // A containerd that does not answer yet is asked again with the next image; the agent has other things to do.
        let _ = this.admit(&Deadline::after(STARTING, &Silent, &*this.env));
        Ok(Some(this))
    }

    /// The images themselves say what they stand on.
    fn admit(&self, monitor: &dyn Monitor) -> Result<()> {
        let _one = self
            .admitting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        containerd::admit(&self.settings, &self.registry, monitor)
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
        self.admit(monitor)?;
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
        let made = self.made(monitor)?;
        let (this, others): (Vec<_>, Vec<_>) =
            made.into_iter().partition(|one| one.image == call.image);
        let removed = containerd::clean_up(&self.settings, &call.image, monitor)?;
        for base in this.iter().map(|one| &one.base) {
            if let Some((_, digest)) = base.split_once(' ')
                && !others.iter().any(|other| other.base == *base)
            {
                let name = self.registry.reference(digest);
                containerd::forget_base(&self.settings, &name, monitor)?;
            }
        }
        self.admit(monitor)?;
        Ok(CleanedUp { removed })
    }
}
