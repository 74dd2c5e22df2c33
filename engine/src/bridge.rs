//! Owns the only door between the engine's threads and tokio: a small runtime on which stores are called.
//!
//! Always: what runs on the runtime waits, and what computes stays outside. Never: called from within a tokio task
//! (a service calls the engine from `spawn_blocking`).

use std::future::Future;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};

/// Runs futures for threads that may block.
#[derive(Debug, Clone)]
pub struct Bridge(Arc<tokio::runtime::Runtime>);

impl Bridge {
    /// Starts the runtime: one thread drives it, calls of local stores go to at most eight more.
    pub fn new() -> Result<Self> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(8)
            .thread_name("cryostore-io")
            .enable_all()
            .build()
            .map(|runtime| Self(Arc::new(runtime)))
            .map_err(|e| Error::io("starting the I/O threads", e))
    }

    /// Waits for a future.
    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    /// Starts a task. At most `limit` of one [`Tasks`] run at once.
    #[must_use]
    pub fn tasks<T: Send + 'static>(&self, limit: usize) -> Tasks<T> {
        Tasks {
            bridge: self.clone(),
            running: tokio::task::JoinSet::new(),
            limit,
        }
    }
}

/// Tasks that run beside the caller, a bounded number of them. Dropped, they are waited for: nothing is put behind its user's back, after a session
/// has ended or while a collection runs.
#[derive(Debug)]
pub struct Tasks<T: 'static> {
    bridge: Bridge,
    running: tokio::task::JoinSet<Result<T>>,
    limit: usize,
}

impl<T> Drop for Tasks<T> {
    fn drop(&mut self) {
        while self.bridge.0.block_on(self.running.join_next()).is_some() {}
    }
}

impl<T: Send + 'static> Tasks<T> {
    /// Starts a task; if as many run as may, waits for one and gives its result.
    pub fn start(
        &mut self,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<Option<T>> {
        let done = if self.running.len() >= self.limit {
            self.next()?
        } else {
            None
        };
        let _guard = self.bridge.0.enter();
        self.running.spawn(task);
        Ok(done)
    }

    /// Waits for the next task to end; none if none runs.
    pub fn next(&mut self) -> Result<Option<T>> {
        match self.bridge.0.block_on(self.running.join_next()) {
            None => Ok(None),
            Some(Ok(result)) => result.map(Some),
            Some(Err(e)) => Err(Error::new(
                Kind::Internal,
                format!("an I/O task ended: {e}"),
            )),
        }
    }
}
