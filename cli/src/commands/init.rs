//! `cryostore init`

use std::fmt;

use clap::Args;
use cryostore_engine::format::RepositoryId;
use cryostore_engine::format::repository::Defaults;
use cryostore_engine::{Error, Kind, Repository, Store};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;

/// Make a new, empty repository
///
/// The directory is made if it is not there; one that holds other files is refused.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore init --storage /srv/checkpoints
  CRYOSTORE_STORAGE=/srv/checkpoints cryostore init")]
pub(crate) struct InitArgs {
    /// Imports store changed pages whole unless they are told otherwise by `--delta`
    #[arg(long)]
    no_delta: bool,
}

#[derive(Serialize)]
struct Report {
    repository: RepositoryId,
    storage: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "new repository {} in {}", self.repository, self.storage)
    }
}

pub(crate) fn run(args: &InitArgs, context: &Context) -> Result<(), Failure> {
    let store = context.new_store()?;
    refuse_foreign(&store)?;
    let repository = Repository::init_with(
        &store,
        &*context.env,
        Defaults {
            deltas: !args.no_delta,
        },
    )?;
    context.output.show(&Report {
        repository,
        storage: store.name().to_owned(),
    })
}

/// A directory with somebody's files is a slip of the pen. A repository is left to the engine, which knows it.
fn refuse_foreign(store: &Store) -> Result<(), Failure> {
    let Some(dir) = store.local_path() else {
        return Ok(());
    };
    let failed = |e| Error::io(dir.display(), e);
    let mut foreign = None;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name == cryostore_engine::format::repository::OBJECT_NAME {
            return Ok(());
        }
        // The root of a new file system has it.
        if name != "lost+found" {
            foreign = Some(name);
        }
    }
    let Some(name) = foreign else { return Ok(()) };
    let text = format!(
        "{} is not empty: it holds {}, and no repository",
        dir.display(),
        name.display()
    );
    Err(Error::new(Kind::Conflict, text)
        .hint("name an empty directory, or one that is not there yet")
        .into())
}
