//! The command line of cryostore: arguments in, one call of the engine, a report out.
//!
//! Always: results go to stdout, everything else to stderr; the exit code says what went wrong (`exit.rs` lists them all).
//! Never: holds knowledge of the store that the engine does not give.

mod args;
mod called;
mod commands;
mod config;
mod context;
mod demo;
mod exit;
mod kubelet;
mod log;
mod output;
mod screen;
mod secrets;
mod signals;
mod stdin;
mod storages;
mod text;

use std::env;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: the demo's workload is this program, too, and its memory is to hold nothing but its own.
    if env::args_os()
        .nth(1)
        .is_some_and(|first| first == demo::WORKLOAD_ARGUMENT)
    {
        return match demo::run_workload_child(env::args_os().skip(2)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                // Nobody is left to hear of an error here.
                let _ = writeln!(std::io::stderr(), "error: {e:#}");
                ExitCode::FAILURE
            }
        };
    }
    args::run(env::args_os().collect())
}
