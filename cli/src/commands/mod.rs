//! The commands, one file each: its arguments (their comments are the help), `run`, and the report.
//!
//! Always: text and JSON are two views of one report. Never: a command prints beside `output` and `screen`.

mod agent_args;
mod cache;
mod check;
mod checkpoint;
mod completions;
mod configure;
mod copy;
mod delete;
mod demo;
mod export;
mod filter;
mod first_use;
mod gc;
mod import;
mod init;
mod inspect;
mod key;
mod ls;
mod man;
mod optimize;
mod pin;
mod prune;
mod rebuild_index;
mod repair;
mod restore;
mod serve_node;
mod stats;
mod status;
mod undelete;
mod view;

use clap::Subcommand;

use crate::context::Context;
use crate::exit::Failure;

/// How a command ended that did what it was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// It was to look for problems, and found some.
    Problems,
}

/// In the order in which help lists them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::InitArgs),
    Checkpoint(checkpoint::CheckpointArgs),
    Import(import::ImportArgs),
    Restore(restore::RestoreArgs),
    Export(export::ExportArgs),
    Ls(ls::LsArgs),
    Inspect(inspect::InspectArgs),
    Delete(delete::DeleteArgs),
    Configure(configure::ConfigureArgs),
    Status(status::StatusArgs),
    Undelete(undelete::UndeleteArgs),
    Prune(prune::PruneArgs),
    Pin(pin::PinArgs),
    Unpin(pin::UnpinArgs),
    Stats(stats::StatsArgs),
    Gc(gc::GcArgs),
    Check(check::CheckArgs),
    Repair(repair::RepairArgs),
    Key(key::KeyArgs),
    Optimize(optimize::OptimizeArgs),
    Copy(copy::CopyArgs),
    RebuildIndex(rebuild_index::RebuildIndexArgs),
    Cache(cache::CacheArgs),
    ServeNode(serve_node::ServeNodeArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<Outcome, Failure> {
        let done = |()| Outcome::Done;
        match self {
            Self::Init(args) => init::run(&args, context).map(done),
            Self::Checkpoint(args) => checkpoint::run(args, context).map(done),
            Self::Import(args) => import::run(args, context).map(done),
            Self::Restore(args) => restore::run(&args, context).map(done),
            Self::Export(args) => export::run(&args, context).map(done),
            Self::Ls(args) => ls::run(&args, context).map(done),
            Self::Inspect(args) => inspect::run(&args, context).map(done),
            Self::Delete(args) => delete::run(&args, context).map(done),
            Self::Configure(args) => configure::run(&args, context).map(done),
            Self::Status(args) => status::run(&args, context).map(done),
            Self::Undelete(args) => undelete::run(&args, context).map(done),
            Self::Prune(args) => prune::run(&args, context).map(done),
            Self::Pin(args) => pin::pin(&args, context).map(done),
            Self::Unpin(args) => pin::unpin(&args, context).map(done),
            Self::Stats(args) => stats::run(&args, context).map(done),
            Self::Gc(args) => gc::run(args, context).map(done),
            Self::Check(args) => check::run(&args, context),
            Self::Repair(args) => repair::run(&args, context),
            Self::Key(args) => key::run(&args, context).map(done),
            Self::Copy(args) => copy::run(&args, context).map(done),
            Self::Optimize(args) => optimize::run(&args, context).map(done),
            Self::RebuildIndex(args) => rebuild_index::run(&args, context).map(done),
            Self::Cache(args) => cache::run(&args, context).map(done),
            Self::ServeNode(args) => serve_node::run(args, context).map(done),
            Self::Demo(args) => demo::run(&args, context).map(done),
            Self::Completions(args) => completions::run(&args).map(done),
            Self::Man(args) => man::run(&args, context).map(done),
        }
    }
}
