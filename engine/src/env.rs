//! Owns time and chance: they are handed in, so that a test can repeat a run.
//!
//! Always: names come from the kernel's random numbers in a real run. Never: a decision about safety rests on a clock.

use std::fmt::Debug;
use std::time::Duration;

/// Clock, randomness and the name of who works.
pub trait Env: Debug + Send + Sync {
    /// Time of day, for people.
    fn now(&self) -> jiff::Timestamp;
    /// Time since some moment; never goes back.
    fn elapsed(&self) -> Duration;
    /// Which start of the system this is, and the time since then, also while it slept; none where that is not known.
    fn since_boot(&self) -> Option<(String, Duration)> {
        None
    }
    /// Random bytes for names and keys.
    fn random(&self) -> [u8; 32];
    /// Host and process, for people.
    fn owner(&self) -> String;
}

/// The machine's own clock and random numbers.
#[derive(Debug)]
pub struct SystemEnv {
    started: std::time::Instant,
}

impl SystemEnv {
    /// Starts the clock.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the clock comes from"
    )]
    pub fn new() -> Self {
        Self {
            started: std::time::Instant::now(),
        }
    }
}

impl Default for SystemEnv {
    fn default() -> Self {
        Self::new()
    }
}

/// Where the kernel says which start of the system this is.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What the kernel made up when this system started.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

impl Env for SystemEnv {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the time comes from"
    )]
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the clock is read"
    )]
    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
    fn since_boot(&self) -> Option<(String, Duration)> {
        let id = boot_id().ok()?;
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        Some((id, Duration::try_from_secs_f64(seconds).ok()?))
    }
    fn random(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        if getrandom::fill(&mut bytes).is_err() {
            // A name that could come twice could lose data: no work without random numbers.
            panic!("the kernel gives no random numbers");
        }
        bytes
    }
    fn owner(&self) -> String {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("{}, process {}", host.trim(), std::process::id())
    }
}

/// The first 16 bytes of what `env` gives.
pub(crate) fn random_id(env: &dyn Env) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&env.random()[..16]);
    id
}

/// RFC 3339, microseconds, UTC.
pub(crate) fn timestamp(env: &dyn Env) -> String {
    let now = env.now();
    now.round(jiff::Unit::Microsecond)
        .unwrap_or(now)
        .to_string()
}
