//! Owns what the agent asks of the node's container runtime for a restore: an image made of a snapshot, and its end.
//!
//! Always: asked only for what the caller may do; see `caller`. Never: told who the caller is.

use std::fmt::Debug;

use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{Monitor, Repository, Result};

use crate::restore::containerd::Made;

use super::calls::{CleanUpCall, CleanedUp, PrepareCall, PreparedImage};

/// A runtime's store of images.
pub trait Images: Debug + Send + Sync {
    /// Makes an image of the snapshot that a pod of this node can name, and keeps it until [`Self::clean_up`].
    /// Errors: nothing is left behind.
    fn prepare(
        &self,
        repo: &Repository,
        snapshot: &SnapshotRecord,
        call: &PrepareCall,
        monitor: &dyn Monitor,
    ) -> Result<PreparedImage>;

    /// Whether the runtime itself says that it restores checkpoints; none: it does not say.
    fn restores(&self, _monitor: &dyn Monitor) -> Result<Option<bool>> {
        Ok(None)
    }

    /// The images that were made, and for which pods.
    fn made(&self, _monitor: &dyn Monitor) -> Result<Vec<Made>> {
        Ok(Vec::new())
    }

    /// Removes an image that [`Self::prepare`] made, and no other. An image that is not there is no error.
    fn clean_up(&self, call: &CleanUpCall, monitor: &dyn Monitor) -> Result<CleanedUp>;
}
