//! Owns how work reports: progress, warnings, and whether it is to stop.
//!
//! Always: cheap enough to ask per slab. Never: prints.

use std::time::Duration;

use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Bytes of an archive that were read.
    Import,
    /// Bytes of an archive that were given back.
    Export,
    /// Objects that were looked at.
    Check,
    /// Objects that were marked or removed.
    Collect,
    /// Packs whose ids were taken in.
    Index,
    /// Bytes of a checkpoint that were written again.
    Optimize,
}

/// Watches over work, which calls it from several threads.
pub trait Monitor: Sync {
    /// `done` of `total` (if known) so far: bytes or objects, as the phase says.
    fn progress(&self, _phase: Phase, _done: u64, _total: Option<u64>) {}
    /// Something was strange, and the work went on.
    fn warning(&self, _text: &str) {}
    /// True when the work is to stop as soon as nothing is lost by it.
    fn stop(&self) -> bool {
        false
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;
impl Monitor for Silent {}

/// Stops the work of another monitor at a deadline.
pub struct Deadline<'a> {
    inner: &'a dyn Monitor,
    env: &'a dyn Env,
    at: Duration,
}

impl std::fmt::Debug for Deadline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deadline")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl<'a> Deadline<'a> {
    /// Stops after `limit` from now on.
    #[must_use]
    pub fn after(limit: Duration, inner: &'a dyn Monitor, env: &'a dyn Env) -> Self {
        Self {
            inner,
            env,
            at: env.elapsed() + limit,
        }
    }
}

impl Monitor for Deadline<'_> {
    fn progress(&self, phase: Phase, done: u64, total: Option<u64>) {
        self.inner.progress(phase, done, total);
    }
    fn warning(&self, text: &str) {
        self.inner.warning(text);
    }
    fn stop(&self) -> bool {
        self.inner.stop() || self.env.elapsed() >= self.at
    }
}

/// Ends the work when the monitor says so.
pub(crate) fn keep_going(monitor: &dyn Monitor) -> Result<()> {
    if monitor.stop() {
        return Err(Error::new(Kind::Interrupted, "stopped before it was done")
            .hint("nothing was committed and nothing is lost; run it again"));
    }
    Ok(())
}
