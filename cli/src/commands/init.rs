//! `cryostore init`

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use cryostore_engine::format::RepositoryId;
use cryostore_engine::format::repository::{Defaults, Probed};
use cryostore_engine::{
    Error, InitOptions, Kind, Neighbours, NewKey, Probe, Repository, Store, Unlock,
};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::secrets::{Sources, ask_new, make_key_file, read_key_file, usual_file};

/// Make a new, empty repository
///
/// A directory is made if it is not there; a bucket is not. A place that holds something else is refused. What the store can do is tried out first, with some 200 small
/// objects below `probe/`: one that would lose what several writers store is refused. Everything that is put into it is encrypted. Unless a passphrase, a key file or a
/// command is named, the key is a new file in ~/.config/cryostore/keys: keep a copy of it elsewhere, without it the repository cannot be read.
#[derive(Debug, Default, Args)]
#[command(after_help = "Examples:
  cryostore init --storage /srv/checkpoints
  cryostore init --storage s3://checkpoints/cluster-1 --storage-option region=eu-central-1
  cryostore init --storage /srv/checkpoints --passphrase
  cryostore init --storage /srv/checkpoints --key-command 'vault kv get -field=key secret/cryostore'
  CRYOSTORE_STORAGE=/srv/checkpoints cryostore init --no-encryption")]
pub(crate) struct InitArgs {
    /// Imports store changed pages whole unless they are told otherwise by `--delta`
    #[arg(long)]
    no_delta: bool,
    /// Only one process at a time will ever write or collect here: allows stores that cannot create an object only if it is absent
    #[arg(long)]
    single_writer: bool,
    /// Encrypt nothing: whoever can read the store can read what the containers had in memory
    #[arg(long, conflicts_with_all = ["passphrase", "key_file", "key_command", "passphrase_file"])]
    no_encryption: bool,
    /// Ask for a passphrase on the terminal, instead of making a key file
    #[arg(long, conflicts_with_all = ["key_file", "key_command", "passphrase_file"])]
    passphrase: bool,
}

/// What was made.
#[derive(Serialize)]
pub(crate) struct Report {
    repository: RepositoryId,
    storage: String,
    probed: Probed,
    single_writer: bool,
    encrypted: bool,
    /// The key file that was made.
    key_file: Option<PathBuf>,
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
        match &self.key_file {
            Some(path) => writeln!(f, "its key is {}", path.display()),
            None if self.encrypted => Ok(()),
            None => writeln!(f, "it is not encrypted"),
        }
    }
}

pub(crate) fn run(args: &InitArgs, context: &Context) -> Result<(), Failure> {
    context.output.show(&make(args, context)?)
}

/// Makes the repository, and writes down where it is.
pub(crate) fn make(args: &InitArgs, context: &Context) -> Result<Report, Failure> {
    context.refuse_kubelets_folder()?;
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
    let options = InitOptions {
        defaults: Defaults {
            deltas: !args.no_delta,
        },
        probed: Some(probe.probed.clone()),
        single_writer: args.single_writer,
    };
    let mut made = None;
    let repository = if args.no_encryption {
        Repository::init_as(&store, &*context.env, options)?
    } else {
        let (said, keys_dir) = context.keys()?;
        if said.count() > 1 {
            return Err(Failure::usage(
                "more than one key is named",
                "a new repository begins with one; `cryostore key add` adds others",
            ));
        }
        let first = |id| {
            let unlock = first_key(args, context, &said, keys_dir.as_deref(), id, &mut made)?;
            Ok(NewKey::new(unlock, "made by init"))
        };
        Repository::init_encrypted(&store, &*context.env, options, first)?
    };
    if let Some(path) = &made {
        context.screen.note(&format!(
            "keep a copy of {} elsewhere: without it nothing in this repository can be read, by anybody. Nodes that are to use the repository need it, too. A passphrase can be added: cryostore key add --new-passphrase",
            path.display()
        ));
    }
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
    context.remember(&store)?;
    Ok(Report {
        repository,
        storage: store.name().to_owned(),
        probed: probe.probed,
        single_writer: args.single_writer,
        encrypted: !args.no_encryption,
        key_file: made,
    })
}

/// What the new repository is opened with; a file that was made for it is safe on the disk when this is back.
fn first_key(
    args: &InitArgs,
    context: &Context,
    said: &Sources,
    keys_dir: Option<&std::path::Path>,
    id: RepositoryId,
    made: &mut Option<PathBuf>,
) -> cryostore_engine::Result<Unlock> {
    if args.passphrase {
        return ask_new();
    }
    let path = match (said.files.first(), keys_dir) {
        (Some(path), _) if path.exists() => {
            return Ok(Unlock::File(read_key_file(path, &context.screen)?));
        }
        (Some(path), _) => path.clone(),
        (None, _) if !said.is_empty() => {
            let nothing = || Error::new(Kind::Internal, "a key that is none");
            return said.read(&context.screen)?.pop().ok_or_else(nothing);
        }
        (None, Some(dir)) => usual_file(dir, id),
        (None, None) => {
            return Err(
                Error::new(Kind::Invalid, "it is not known where the key file is to be")
                    .hint("set HOME, or say --key-file FILE"),
            );
        }
    };
    let file = make_key_file(&path, id, &*context.env)?;
    *made = Some(path);
    Ok(Unlock::File(file))
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
