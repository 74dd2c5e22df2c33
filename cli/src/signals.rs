//! Owns the wish to stop: Ctrl-C and SIGTERM set a flag, a second one ends the process at once.
//!
//! Always: what runs is asked to stop in an orderly way first. Never: does anything in a signal handler but that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cryostore_engine::Kind;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::exit::code_of;

/// True once the user wants the program to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Listens from now on. Where signals cannot be taken, they do what the system does with them.
    pub(crate) fn listen() -> Self {
        let flag = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // The order counts: the first signal finds the flag unset, so that only the second one ends the process.
            let code = i32::from(code_of(Kind::Interrupted));
            let _ =
                signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&flag.0));
            let _ = signal_hook::flag::register(signal, Arc::clone(&flag.0));
        }
        flag
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
