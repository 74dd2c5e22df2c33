//! Owns how long calls may go on when the agent is to end: a checkpoint that is being stored is stored to its end.
//!
//! Always: below the 600 s that the DaemonSet and the unit give; whoever waits after that is told to stop. Never: takes a new call.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cryostore_engine::{Env, Monitor, Phase};

use super::Watcher;

/// 9 minutes: a minute before it is killed, in which answers are given and leases are ended.
pub(crate) const GRACE: Duration = Duration::from_secs(540);

/// The monitor of calls.
pub(crate) struct Grace {
    monitor: Watcher,
    env: Arc<dyn Env>,
    since: OnceLock<Duration>,
}

impl Grace {
    pub(crate) fn new(monitor: Watcher, env: Arc<dyn Env>) -> Self {
        Self {
            monitor,
            env,
            since: OnceLock::new(),
        }
    }
}

impl Monitor for Grace {
    fn progress(&self, phase: Phase, done: u64, total: Option<u64>) {
        self.monitor.progress(phase, done, total);
    }
    fn warning(&self, text: &str) {
        self.monitor.warning(text);
    }
    fn stop(&self) -> bool {
        if !self.monitor.stop() {
            return false;
        }
        let now = self.env.elapsed();
        now.saturating_sub(*self.since.get_or_init(|| now)) >= GRACE
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use jiff::Timestamp;

    use super::*;

    /// A clock that is set by hand.
    #[derive(Debug, Default)]
    struct Clock(Mutex<Duration>);
    impl Env for Clock {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
        fn elapsed(&self) -> Duration {
            *self.0.lock().unwrap()
        }
        fn random(&self) -> [u8; 32] {
            [0; 32]
        }
        fn owner(&self) -> String {
            String::new()
        }
    }

    struct Stopped;
    impl Monitor for Stopped {
        fn stop(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_call_hears_that_the_agent_ends_nine_minutes_later() {
        let env = Arc::new(Clock::default());
        let grace = Grace::new(Arc::new(Stopped), Arc::clone(&env) as Arc<dyn Env>);
        assert!(!grace.stop());
        *env.0.lock().unwrap() = GRACE - Duration::from_secs(1);
        assert!(!grace.stop());
        *env.0.lock().unwrap() = GRACE;
        assert!(grace.stop());
    }
}
