//! `cryostore init`

use std::fmt;

use clap::Args;
use cryostore_engine::format::RepositoryId;
use cryostore_engine::format::repository::{Defaults, Probed};
use cryostore_engine::{Error, InitOptions, Kind, Neighbours, Probe, Repository, Store};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;

/// Make a new, empty repository
///
/// A directory is made if it is not there; a bucket is not. A place that holds something else is refused. What the store can do is tried out first, with some 200 small
/// objects below `probe/`: one that would lose what several writers store is refused.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore init --storage /srv/checkpoints
  CRYOSTORE_STORAGE=/srv/checkpoints cryostore init
  cryostore init --storage s3://checkpoints/cluster-1 --storage-option region=eu-central-1")]
pub(crate) struct InitArgs {
    /// Imports store changed pages whole unless they are told otherwise by `--delta`
    #[arg(long)]
    no_delta: bool,
    /// Only one process at a time will ever write or collect here: allows stores that cannot create an object only if it is absent
    #[arg(long)]
    single_writer: bool,
}

#[derive(Serialize)]
struct Report {
    repository: RepositoryId,
    storage: String,
    probed: Probed,
    single_writer: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "new repository {} in {}", self.repository, self.storage)?;
        if self.single_writer {
            writeln!(
                f,
                "for one writer at a time: never run two imports or collections at once"
            )?;
        }
        Ok(())
    }
}

pub(crate) fn run(args: &InitArgs, context: &Context) -> Result<(), Failure> {
    let store = context.new_store()?;
    let around = store.neighbours()?;
    refuse_foreign(&store, &around)?;
    // A repository that is there is left to the engine, which says so.
    let probe = if around.here {
        Probe::default()
    } else {
        let probe = store.probe(&*context.env)?;
        probe.allows(store.name(), args.single_writer)?;
        probe
    };
    let repository = Repository::init_as(
        &store,
        &*context.env,
        InitOptions {
            defaults: Defaults {
                deltas: !args.no_delta,
            },
            probed: Some(probe.probed.clone()),
            single_writer: args.single_writer,
        },
    )?;
    for other in around
        .above
        .iter()
        .map(|place| format!("lies in another repository, {place}"))
        .chain(
            around
                .below
                .iter()
                .map(|place| format!("has another repository in it, {place}")),
        )
    {
        context.screen.warn(&format!(
            "this repository {other}: remove neither by its prefix"
        ));
    }
    context.output.show(&Report {
        repository,
        storage: store.name().to_owned(),
        probed: probe.probed,
        single_writer: args.single_writer,
    })
}

/// A place with somebody's files is a slip of the pen.
fn refuse_foreign(store: &Store, around: &Neighbours) -> Result<(), Failure> {
    let Some(name) = around.foreign.as_ref().filter(|_| !around.here) else {
        return Ok(());
    };
    let text = format!(
        "{} is not empty: it holds {name}, and no repository",
        store.name()
    );
    Err(Error::new(Kind::Conflict, text)
        .hint("name an empty directory or prefix, or one that is not there yet")
        .into())
}
